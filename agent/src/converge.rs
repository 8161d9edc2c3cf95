//! One turn: observe, plan, execute, and what came of it as a report.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use jiff::Timestamp;
use rocks_common::diag::{Severity, Source};
use rocks_common::ids::{Digest, Generation};
use rocks_common::kickstart::{self, Includes, Kickstart, unified_diff};
use rocks_common::limits;
use rocks_common::plan::{Applied, Inventory, Plan, plan};
use rocks_common::wire::{Facts, Finding, Outcome, Report, StepReport, StepState};
use rustix::fs::OFlags;

use crate::config::Config;
use crate::execute::{Executor, MirrorIdentity};
use crate::fetch::Fetched;
use crate::journal::{Journal, JournalError};
use crate::process::Processes;
use crate::{beneath, files, observe};

/// Follows `%include` of files below `root`, if nobody else could have written them: what they say is done as root.
pub struct RootIncludes<'r>(pub &'r Path);

impl Includes for RootIncludes<'_> {
    fn include(&mut self, name: &str) -> Option<Source> {
        let inside = name.strip_prefix('/').unwrap_or(name);
        if inside.split('/').any(|part| part == "..") || name.contains("://") {
            return None;
        }
        let (file, stat) = beneath::file(self.0, Path::new(inside), OFlags::RDONLY, 0).ok()?;
        if !beneath::is_ours(&stat) {
            return None;
        }
        let bytes = beneath::read(file, limits::KICKSTART_BYTES).ok()?;
        Some(Source::new(name, String::from_utf8(bytes).ok()?))
    }
}

/// What one turn needs.
pub struct Turn<'t> {
    /// The configuration.
    pub config: &'t Config,
    /// Starts processes.
    pub processes: &'t dyn Processes,
    /// How the frontend's mirror is reached.
    pub mirror: Option<MirrorIdentity>,
    /// What the instance is.
    pub facts: Facts,
}

/// The kickstart to become, with what vouches for it.
#[derive(Debug, Clone)]
pub struct Desired {
    /// Its text.
    pub text: String,
    /// Its digest.
    pub digest: Digest,
    /// Its generation.
    pub generation: Generation,
}

impl From<Fetched> for Desired {
    fn from(fetched: Fetched) -> Self {
        Self { text: fetched.text, digest: fetched.digest, generation: fetched.generation }
    }
}

/// Where an image brings the kickstart along that it was made from, below the root.
pub const IMAGE_KICKSTART: &str = "etc/rocks-agent/applied.ks";

/// Where the accepted kickstart is kept.
#[must_use]
pub fn desired_path(state: &Path) -> PathBuf {
    state.join("desired.ks")
}

fn applied_path(state: &Path) -> PathBuf {
    state.join("applied.ks")
}

/// The kickstart accepted last, if it is still the one that the journal knows.
#[must_use]
pub fn kept(config: &Config, journal: &Journal) -> Option<Desired> {
    let state = journal.state();
    let bytes = files::read(&desired_path(&config.state), limits::KICKSTART_BYTES).ok()??;
    let digest = Digest::of(&bytes);
    (state.accepted == Some(digest)).then_some(())?;
    Some(Desired { text: String::from_utf8(bytes).ok()?, digest, generation: state.generation })
}

/// Takes a kickstart as the one to become. It must be one; else the report says what is wrong, and nothing was touched.
///
/// # Errors
/// It could not be kept.
pub fn accept(
    turn: &Turn<'_>,
    journal: &mut Journal,
    desired: &Desired,
) -> Result<Result<(), Box<Report>>, JournalError> {
    let source = Source::new("kickstart", desired.text.as_str());
    let (_, problems) = kickstart::parse(&source, &mut RootIncludes(&turn.config.root));
    if problems.has_errors() {
        let findings = problems
            .iter()
            .filter(|problem| problem.severity == Severity::Error)
            .take(20)
            .map(|problem| Finding {
                code: format!("kickstart-{}", problem.code),
                severity: Severity::Error,
                subject: problem.place.as_ref().map_or_else(|| "kickstart".to_owned(), ToString::to_string),
                message: problem.message.clone(),
                hint: problem.hint.clone(),
            })
            .collect();
        let report = turn.report(Some(desired), Outcome::Refused, findings);
        return Ok(Err(Box::new(report)));
    }
    let path = desired_path(&turn.config.state);
    files::write(&path, desired.text.as_bytes(), 0o600).map_err(|source| JournalError::Io { path, source })?;
    journal.accepted(desired.generation, desired.digest)?;
    Ok(Ok(()))
}

impl Turn<'_> {
    /// A report with nothing done.
    #[must_use]
    pub fn report(&self, desired: Option<&Desired>, outcome: Outcome, findings: Vec<Finding>) -> Report {
        let started = Timestamp::now();
        let nonce = format!("{started} {} {findings:?}", self.facts.boot_id);
        Report {
            id: Digest::of(nonce.as_bytes()).short(),
            facts: self.facts.clone(),
            kickstart: desired.map(|d| d.digest),
            generation: desired.map(|d| d.generation),
            started,
            duration_ms: 0,
            outcome,
            steps: Vec::new(),
            findings,
            diff: None,
        }
    }

    /// What would be done.
    ///
    /// # Errors
    /// What is installed cannot be told.
    pub fn plan(&self, kickstart: &Kickstart, applied: &Applied) -> Result<Plan, observe::ObserveError> {
        let config = self.config;
        let cache = observe::cache(&config.state);
        // Without packages to look for, nobody has to be asked.
        let mut inventory = if kickstart.packages.install.is_empty() && applied.packages.is_empty() {
            Inventory::default()
        } else {
            observe::packages(&config.root, config.state.is_dir().then_some(&*cache), self.processes)?
        };
        observe::add_paths(&config.root, kickstart, &mut inventory);
        Ok(plan(kickstart, applied, &inventory, &config.policy))
    }

    /// Becomes what `desired` says. `progress` hears of every step before it is begun, and may end the work there.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn run(
        &self,
        journal: &mut Journal,
        desired: &Desired,
        progress: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Report, JournalError> {
        let clock = Instant::now();
        let mut report = self.report(Some(desired), Outcome::Unchanged, Vec::new());
        let executor = Executor { config: self.config, processes: self.processes, mirror: self.mirror.clone() };
        if let Some(step) = journal.state().open.clone() {
            match executor.end_interrupted(&step) {
                Ok(installed) => {
                    let output = executor.last_words(&step);
                    journal.interrupted(&step, installed, output)?;
                }
                Err(message) => {
                    report.outcome = Outcome::Incomplete;
                    report.findings.push(Finding {
                        code: "still-running".into(),
                        severity: Severity::Error,
                        subject: step.title(),
                        message,
                        hint: Some("nothing is done until it has ended; look for it on the machine".into()),
                    });
                    return Ok(report);
                }
            }
        }
        // Whatever was interrupted since the last report, also by a second kill.
        let interrupted = journal.state().interrupted.iter().map(|step| StepReport {
            id: step.id.clone(),
            title: step.title.clone(),
            reason: step.reason.clone(),
            state: StepState::Interrupted,
            duration_ms: 0,
            exit_code: None,
            output_tail: step.output.clone(),
        });
        report.steps = interrupted.collect();
        if journal.damaged() {
            report.findings.push(Finding {
                code: "journal-damaged".into(),
                severity: Severity::Error,
                subject: "journal".into(),
                message: "a part of the journal was changed and is not trusted; steps recorded there may be done again"
                    .into(),
                hint: Some("the old file is kept as journal.damaged; check the disk".into()),
            });
        }
        let source = Source::new("kickstart", desired.text.as_str());
        let (kickstart, _) = kickstart::parse(&source, &mut RootIncludes(&self.config.root));
        let state = &self.config.state;
        // An image that was made from a kickstart brings it along: then that is what is applied.
        if journal.state().applied == Applied::default() {
            let image = self.config.root.join(IMAGE_KICKSTART);
            if let Ok(Some(bytes)) = files::read(&image, limits::KICKSTART_BYTES) {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let (made_of, problems) =
                    kickstart::parse(&Source::new("applied.ks", text), &mut RootIncludes(&self.config.root));
                if !problems.has_errors() {
                    journal.settled(Applied::all_of(&made_of, &self.config.policy))?;
                }
            }
        }
        let plan = match self.plan(&kickstart, &journal.state().applied) {
            Ok(plan) => plan,
            Err(error) => {
                report.outcome = Outcome::Incomplete;
                report.findings.push(Finding {
                    code: "packages-unknown".into(),
                    severity: Severity::Error,
                    subject: "rpm".into(),
                    message: error.to_string(),
                    hint: None,
                });
                return Ok(report);
            }
        };
        report.findings.extend(plan.findings.iter().cloned());
        let before = files::read(&applied_path(state), limits::KICKSTART_BYTES).ok().flatten();
        let before = before.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        if !plan.is_empty() {
            report.diff = unified_diff(before.as_deref().unwrap_or(""), &desired.text);
        }
        // After planning, whose reasons tell what has changed; before anything is done, whatever becomes of it.
        let mut applied = journal.state().applied.clone();
        applied.begin(&kickstart);
        journal.settled(applied)?;
        let executed = executor.run(&plan, journal, progress)?;
        report.outcome = match (plan.is_empty(), executed.complete) {
            (true, _) => Outcome::Unchanged,
            (false, true) => Outcome::Converged,
            (false, false) => Outcome::Incomplete,
        };
        if executed.complete {
            let mut applied = journal.state().applied.clone();
            applied.settle(&kickstart);
            journal.settled(applied)?;
            if before.as_deref() != Some(&desired.text) {
                // For the next difference to show; what counts is the journal.
                let _ = files::write(&applied_path(state), desired.text.as_bytes(), 0o600);
            }
        }
        report.steps.extend(executed.steps);
        report.findings.extend(executed.findings);
        report.duration_ms = u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::process::{Finished, Task};

    /// Runs sections by noting their text; those that say `fail` do.
    struct Sections<'s>(&'s Path, RefCell<Vec<String>>);

    impl Processes for Sections<'_> {
        fn run(&self, task: &Task) -> std::io::Result<Finished> {
            let inside = task.args.last().expect("a script").trim_start_matches('/');
            let body = fs::read_to_string(self.0.join(inside))?;
            self.1.borrow_mut().push(body.trim().to_owned());
            let code = Some(i32::from(body.contains("fail")));
            Ok(Finished { code, timed_out: false, output: Vec::new(), cut: false })
        }
    }

    #[test]
    fn a_kickstart_that_was_applied_in_part_and_given_up_leaves_nothing_that_counts() {
        let root = tempfile::tempdir().expect("a folder");
        let config = Config::load(root.path(), None, None).expect("no files");
        let sections = Sections(root.path(), RefCell::default());
        let turn = Turn { config: &config, processes: &sections, mirror: None, facts: Facts::default() };
        let mut journal = Journal::open(&config.state).expect("opened");
        let mut become_one_of = |bodies: [&str; 2]| {
            let text = bodies.map(|body| format!("%post\n{body}\n%end\n")).concat();
            let digest = Digest::of(text.as_bytes());
            let desired = Desired { text: format!("lang a\n{text}"), digest, generation: Generation(1) };
            let report =
                turn.run(&mut journal, &desired, &mut |_| ControlFlow::Continue(())).expect("the journal is written");
            (report.outcome, sections.1.take().join(" "))
        };
        assert_eq!(become_one_of(["s1", "t1"]), (Outcome::Converged, "s1 t1".into()));
        assert_eq!(become_one_of(["s2", "t2 fail"]), (Outcome::Incomplete, "s2 t2 fail".into()));
        assert_eq!(become_one_of(["s2", "t2 fail"]), (Outcome::Incomplete, "t2 fail".into()));
        assert_eq!(become_one_of(["s1", "t1"]), (Outcome::Converged, "s1 t1".into()));
        assert_eq!(become_one_of(["s1", "t1"]), (Outcome::Unchanged, String::new()));
    }

    #[test]
    fn who_is_told_to_end_begins_no_other_step_and_goes_on_when_it_runs_again() {
        let root = tempfile::tempdir().expect("a folder");
        let config = Config::load(root.path(), None, None).expect("no files");
        let sections = Sections(root.path(), RefCell::default());
        let turn = Turn { config: &config, processes: &sections, mirror: None, facts: Facts::default() };
        let mut journal = Journal::open(&config.state).expect("opened");
        let text: String = ["a", "b", "c"].map(|body| format!("%post\n{body}\n%end\n")).concat();
        let digest = Digest::of(text.as_bytes());
        let desired = Desired { text, digest, generation: Generation(1) };
        let mut begun = 0;
        let mut progress = |_: &str| {
            begun += 1;
            if begun == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let report = turn.run(&mut journal, &desired, &mut progress).expect("the journal is written");
        assert_eq!(
            (report.outcome, report.steps.len(), sections.1.take().join(" ")),
            (Outcome::Incomplete, 1, "a".into())
        );
        assert!(report.findings[0].code == "stopped" && report.findings[0].message.contains("2 of 3"), "{report:?}");
        assert!(journal.state().open.is_none());
        let report = turn.run(&mut journal, &desired, &mut progress).expect("the journal is written");
        assert_eq!((report.outcome, sections.1.take().join(" ")), (Outcome::Converged, "b c".into()));
    }

    #[test]
    fn only_what_nobody_else_can_write_is_included() {
        let root = tempfile::tempdir().expect("a folder");
        let at = |name: &str| root.path().join(name);
        let included = |name: &str| RootIncludes(root.path()).include(name).is_some();
        fs::write(at("ours"), "lang a\n").expect("written");
        assert!(included("/ours") && included("ours") && !included("/../ours") && !included("http://ours"));
        symlink("ours", at("link")).expect("linked");
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), 0o600.into()).expect("made");
        assert!(!included("/link") && !included("/pipe") && !included("/missing"));
        fs::set_permissions(at("ours"), fs::Permissions::from_mode(0o666)).expect("set");
        assert!(!included("/ours"));
    }
}
