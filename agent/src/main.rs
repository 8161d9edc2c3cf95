//! The agent's program.

use std::process::ExitCode;

use rocks_agent::output::Output;

fn main() -> ExitCode {
    let mut output = Output { out: &mut std::io::stdout().lock(), err: &mut std::io::stderr() };
    rocks_agent::cli::main(std::env::args_os(), &mut output)
}
