//! The agent, which dies at a step's boundary as if it were killed there: `ROCKS_AGENT_FAIL=PLACE:NUMBER`, where `PLACE` is `before`, `begun`,
//! `done` or `ended` and `NUMBER` is the step's in its plan. All else is the product's own code; the product's own program has none of this.

use std::process::ExitCode;

use rocks_agent::output::Output;
use rustix::process::{Signal, getpid, kill_process};

fn main() -> ExitCode {
    rocks_agent::execute::watch(|place, number| {
        if std::env::var("ROCKS_AGENT_FAIL").is_ok_and(|wanted| wanted == format!("{place}:{number}")) {
            let _ = kill_process(getpid(), Signal::KILL);
        }
    });
    let mut output = Output { out: &mut std::io::stdout().lock(), err: &mut std::io::stderr() };
    rocks_agent::cli::main(std::env::args_os(), &mut output)
}
