//! The frontend daemon and its offline tools.

use std::process::ExitCode;

use rocks_server::output::Output;

fn main() -> ExitCode {
    let mut output = Output { out: &mut std::io::stdout().lock(), err: &mut std::io::stderr().lock() };
    rocks_server::cli::main(std::env::args_os(), &mut output).into()
}
