//! Script sections.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

use rocks_common::diag::Severity;
use rocks_common::kickstart::split_words;
use rocks_common::plan::{ScriptRun, Step};

use super::{Executor, Outcome, finding};
use crate::process::Task;
use crate::{files, leftover};

impl Executor<'_> {
    pub(super) fn script(&self, step: &Step, run: &ScriptRun) -> Outcome {
        let words = split_words(&run.interpreter).unwrap_or_default();
        let Some((program, arguments)) = words.split_first() else {
            return Outcome::failure("the section names no interpreter\n");
        };
        let path = self.config.state.join("scripts").join(format!("{}.script", step.id.0));
        if let Err(error) = files::write(&path, run.body.as_bytes(), 0o700) {
            return Outcome::failure(format!("{}: {error}\n", path.display()));
        }
        let text = path.display().to_string();
        let limit = Duration::from_secs(self.config.script_limit_seconds);
        let mut args: Vec<String> = arguments.to_vec();
        args.push(text.clone());
        let task = if self.is_live() {
            Task { args, ..Task::new(program, &[]) }
        } else {
            // In a folder that is not the running system the script runs inside it.
            let inside = format!("/run/rocks-{}.script", step.id.0);
            let copy = self.config.root.join(inside.trim_start_matches('/'));
            if let Err(error) = files::write(&copy, run.body.as_bytes(), 0o700) {
                return Outcome::failure(format!("{}: {error}\n", copy.display()));
            }
            let mut args = vec![self.config.root.display().to_string(), program.clone()];
            args.extend(arguments.iter().cloned());
            args.push(inside);
            Task { args, ..Task::new("chroot", &[]) }
        };
        let outcome = match self.run_outside(&format!("script-{}", step.id.0), step, task.limit(limit)) {
            Ok(finished) => {
                let mut outcome = Outcome::of(&finished);
                if finished.timed_out {
                    // What it started in sessions of its own is not in the group that was killed.
                    let _ = leftover::end(&step.id.0, super::ENDING);
                    let message = format!("it took longer than {} seconds and was ended", limit.as_secs());
                    outcome.findings.push(finding("script-timeout", Severity::Error, &step.title(), message, None));
                } else if outcome.failed {
                    let message = format!("it ended with status {}", finished.code.unwrap_or(-1));
                    outcome.findings.push(finding(
                        "script-failed",
                        Severity::Error,
                        &step.title(),
                        message,
                        Some("it is run again"),
                    ));
                }
                outcome
            }
            Err(error) => Outcome::failure(format!("{program}: {error}\n")),
        };
        // The text may hold secrets of this host; it is not needed any more.
        let _ = std::fs::remove_file(&path);
        if let Some(log) = &run.log {
            let log = self.config.root.join(log.trim_start_matches('/'));
            // A log that cannot be written is no reason to call the script failed.
            let file = OpenOptions::new().append(true).create(true).open(log);
            let _ = file.and_then(|mut file| file.write_all(outcome.output.as_bytes()));
        }
        outcome
    }
}
