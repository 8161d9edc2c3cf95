//! Script sections.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use rocks_common::diag::Severity;
use rocks_common::kickstart::split_words;
use rocks_common::plan::{ScriptRun, Step};
use rustix::fs::OFlags;

use super::{Executor, Outcome, finding};
use crate::process::Task;
use crate::{beneath, files, leftover};

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
            // A log that cannot be written is no reason to call the script failed.
            if let Err(error) = append(&self.config.root, Path::new(log), outcome.output.as_bytes()) {
                tracing::warn!("the log {log} of {}: {error}", step.title());
            }
        }
        outcome
    }
}

/// Adds to a log, which may be in a folder that is not root's: only to a file of our own, with no other name.
fn append(root: &Path, log: &Path, text: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
    let (mut file, stat) = beneath::file(root, log, flags, 0o600)?;
    if !beneath::is_ours(&stat) || stat.st_nlink != 1 {
        return Err(io::Error::other("it is somebody else's"));
    }
    file.write_all(text)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_log_is_added_to_and_nothing_else_is_written() {
        let root = tempfile::tempdir().expect("a folder");
        fs::create_dir(root.path().join("tmp")).expect("made");
        let at = |name: &str| root.path().join("tmp").join(name);
        let add = |name: &str| append(root.path(), &Path::new("/tmp").join(name), b"said\n");
        add("log").and_then(|()| add("log")).expect("written");
        assert_eq!(fs::read_to_string(at("log")).expect("read"), "said\nsaid\n");
        fs::write(at("target"), "").expect("written");
        symlink("target", at("link")).expect("linked");
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), 0o600.into()).expect("made");
        assert!(add("link").is_err() && add("pipe").is_err() && add("missing/log").is_err());
        fs::hard_link(at("target"), at("other")).expect("linked");
        assert!(add("other").is_err());
        assert_eq!(fs::read_to_string(at("target")).expect("read"), "");
    }
}
