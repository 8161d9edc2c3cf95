//! The administrator's command line.

use std::process::ExitCode;

use rocks_server::output::Output;

fn main() -> ExitCode {
    rocks_server::rocks::complete();
    let mut output = Output { out: &mut std::io::stdout().lock(), err: &mut std::io::stderr() };
    rocks_server::rocks::main(std::env::args_os(), &mut output).into()
}
