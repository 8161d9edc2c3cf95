//! The frontend daemon and its offline tools.

use std::process::ExitCode;

use rocks_server::output::Output;

fn main() -> ExitCode {
    rocks_server::cli::complete();
    // Standard error is not locked: the daemon's threads write their log there.
    let mut output = Output { out: &mut std::io::stdout().lock(), err: &mut std::io::stderr() };
    rocks_server::cli::main(std::env::args_os(), &mut output).into()
}
