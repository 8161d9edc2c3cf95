//! Doing what was planned, one step after the other, and deciding nothing.
//!
//! Before a step is done the journal says so, and after it how it ended; so whenever the agent is killed the next start knows what
//! was completed. A step whose predecessor failed is not done; others are.

mod command;
mod complaint;
mod keys;
mod packages;
mod script;
mod unit;

use std::collections::{BTreeSet, HashSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rocks_common::diag::Severity;
use rocks_common::plan::{Action, Manager, PackageChange, Plan, Repository, Step, StepId};
use rocks_common::wire::{Finding, StepReport, StepState};

use crate::config::Config;
use crate::journal::{Journal, JournalError};
use crate::leftover::{self, MARK};
use crate::process::{Finished, Processes, Task};
use crate::{files, observe};

/// How a step ended.
#[derive(Debug, Clone, Default)]
struct Outcome {
    failed: bool,
    timed_out: bool,
    code: Option<i32>,
    output: String,
    /// Packages that came because they were asked for.
    installed: Vec<String>,
    /// Packages that were to be removed and are gone.
    removed: Vec<String>,
    findings: Vec<Finding>,
}

impl Outcome {
    fn failure(message: impl Into<String>) -> Self {
        Self { failed: true, output: message.into(), ..Self::default() }
    }

    fn of(finished: &Finished) -> Self {
        Self {
            failed: !finished.success(),
            timed_out: finished.timed_out,
            code: finished.code,
            output: finished.text(),
            ..Self::default()
        }
    }
}

/// Paths of the identity, with which the package manager reaches the frontend's mirror.
#[derive(Debug, Clone)]
pub struct MirrorIdentity {
    /// The CA.
    pub ca: PathBuf,
    /// The certificate.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// What executing needs.
pub struct Executor<'e> {
    /// The configuration.
    pub config: &'e Config,
    /// Starts processes.
    pub processes: &'e dyn Processes,
    /// How the mirror is reached.
    pub mirror: Option<MirrorIdentity>,
}

/// What came of a plan.
#[derive(Debug, Default)]
pub struct Executed {
    /// Every step, in order.
    pub steps: Vec<StepReport>,
    /// What was found on the way.
    pub findings: Vec<Finding>,
    /// Whether every step was done.
    pub complete: bool,
}

impl Executor<'_> {
    /// Carries out `plan`. `progress` hears of every step before it is begun, and may end the work there: what was not
    /// begun is done when the plan is made again.
    ///
    /// # Errors
    /// The journal cannot be written: then nothing more is done.
    pub fn run(
        &self,
        plan: &Plan,
        journal: &mut Journal,
        progress: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Executed, JournalError> {
        let mut executed = Executed { complete: true, ..Executed::default() };
        let mut failed: HashSet<&StepId> = HashSet::new();
        for (number, step) in plan.steps.iter().enumerate() {
            if step.after.iter().any(|id| failed.contains(id)) {
                failed.insert(&step.id);
                executed.complete = false;
                executed.steps.push(report(step, StepState::Blocked, Duration::ZERO, &Outcome::default()));
                continue;
            }
            if progress(&step.title()).is_break() {
                executed.complete = false;
                let left = plan.steps.len() - number;
                let message =
                    format!("the agent was told to end before {left} of {} steps were begun", plan.steps.len());
                let hint = Some("they are done when it runs again");
                executed.findings.push(finding("stopped", Severity::Note, "agent", message, hint));
                break;
            }
            boundary("before", number);
            self.forget_transaction();
            journal.begun(step)?;
            boundary("begun", number);
            let started = Instant::now();
            let outcome = self.step(step, &plan.repositories);
            boundary("done", number);
            let state = match (outcome.failed, outcome.timed_out) {
                (_, true) => StepState::TimedOut,
                (true, false) => StepState::Failed,
                (false, false) => StepState::Done,
            };
            let removed = if state == StepState::Done { Vec::new() } else { outcome.removed.clone() };
            journal.ended(&step.id.0, state, outcome.installed.clone(), removed)?;
            boundary("ended", number);
            self.forget_transaction();
            executed.findings.extend(outcome.findings.iter().cloned());
            executed.steps.push(report(step, state, started.elapsed(), &outcome));
            if state != StepState::Done {
                failed.insert(&step.id);
                executed.complete = false;
            }
        }
        Ok(executed)
    }

    fn step(&self, step: &Step, repositories: &[Repository]) -> Outcome {
        match &step.action {
            Action::Repositories(repositories) => self.repositories(repositories),
            Action::Packages(change) => self.packages(step, change, repositories),
            Action::Command(command) => self.command(command),
            Action::Script(run) => self.script(step, run),
        }
    }

    fn is_live(&self) -> bool {
        self.config.root == Path::new("/") && !self.config.policy.installer
    }

    /// Makes sure that nothing of a step is still running that was begun by an agent that was killed: it may live on without the
    /// agent. A script is ended, because it is run again from its start; a package transaction is waited for, because ending it
    /// would leave the package database half done. Gives the packages that the step has brought in.
    ///
    /// # Errors
    /// Something is still running, and doing anything beside it would do harm.
    pub fn end_interrupted(&self, step: &Step) -> Result<Vec<String>, String> {
        let systemctl = |words: &[&str]| self.processes.run(&Task::new("systemctl", words));
        match &step.action {
            Action::Script(_) => {
                if self.has_units() {
                    let _ = systemctl(&["stop", &unit::pattern(&format!("script-{}", step.id.0))]);
                }
                if leftover::end(&step.id.0, ENDING) {
                    Ok(Vec::new())
                } else {
                    Err("the interrupted script is still running and cannot be ended".to_owned())
                }
            }
            Action::Packages(change) => {
                let running = || {
                    let unit = |work: &str| {
                        let states = systemctl(&["show", "--property=ActiveState", "--value", &unit::pattern(work)]);
                        states.is_ok_and(|states| unit::any_runs(&states.text()))
                    };
                    // What the packages' own scripts left running is none of ours to wait for.
                    let manager = |left: &leftover::Leftover| Manager::NAMES.iter().any(|name| left.runs(name));
                    self.has_units() && (unit("install") || unit("remove"))
                        || leftover::find(&step.id.0).iter().any(manager)
                };
                let end = Instant::now() + Duration::from_secs(self.config.package_limit_seconds);
                while running() {
                    if Instant::now() >= end {
                        return Err("the interrupted package transaction is still running".to_owned());
                    }
                    std::thread::sleep(Duration::from_millis(200));
                }
                Ok(self.brought_in(step, change))
            }
            Action::Repositories(_) | Action::Command(_) => Ok(Vec::new()),
        }
    }

    /// The end of what the interrupted package transaction printed, if it was one.
    #[must_use]
    pub fn last_words(&self, step: &Step) -> String {
        let Action::Packages(_) = &step.action else { return String::new() };
        if self.transaction(step).is_none() {
            return String::new();
        }
        let kept = crate::process::end_of(&self.log_path(), rocks_common::limits::OUTPUT_TAIL_BYTES);
        kept.map(|(bytes, _)| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.config.state.join("transaction.log")
    }

    fn transaction_path(&self) -> PathBuf {
        self.config.state.join("transaction.json")
    }

    /// Remembers what was installed before a transaction, so that it is known afterwards what it brought in, whoever asks.
    fn note_transaction(&self, step: &Step, before: &BTreeSet<String>) {
        let json = serde_json::to_vec(&(&step.id, before)).unwrap_or_default();
        // Not being able to remember costs nothing but the removal of these packages later.
        let _ = files::write(&self.transaction_path(), &json, 0o600);
    }

    fn transaction(&self, step: &Step) -> Option<BTreeSet<String>> {
        let bytes = files::read(&self.transaction_path(), TRANSACTION_BYTES).ok()??;
        let (id, before): (StepId, BTreeSet<String>) = serde_json::from_slice(&bytes).ok()?;
        (id == step.id).then_some(before)
    }

    fn forget_transaction(&self) {
        let _ = std::fs::remove_file(self.transaction_path());
    }

    /// What was asked for, is there, and was not when the transaction of `step` began.
    fn brought_in(&self, step: &Step, change: &PackageChange) -> Vec<String> {
        let Some(before) = self.transaction(step) else { return Vec::new() };
        let after = observe::packages(&self.config.root, Some(&observe::cache(&self.config.state)), self.processes);
        after.map(|after| change.brought_in(&before, &after)).unwrap_or_default()
    }

    fn has_units(&self) -> bool {
        self.is_live() && self.config.transient_units && self.systemd_runs()
    }

    fn systemd_runs(&self) -> bool {
        self.config.root.join("run/systemd/system").is_dir()
    }

    /// Runs `task`, which belongs to `step`, in a transient unit of its own where systemd runs, so that it is outside the agent's sandbox,
    /// survives the agent's upgrade, and is found in the journal by its unit; as a plain process otherwise.
    fn run_outside(&self, work: &str, step: &Step, mut task: Task) -> std::io::Result<Finished> {
        task.env.push((MARK.to_owned(), step.id.0.clone()));
        if !(self.has_units() && task.input.is_empty()) {
            return self.processes.run(&task);
        }
        // A script that is told to end and does not want to is killed soon; a package transaction has time to finish.
        let patience = if matches!(step.action, Action::Packages(_)) { 90 } else { 5 };
        let mut args = vec![
            "--quiet".to_owned(),
            "--wait".to_owned(),
            "--pipe".to_owned(),
            "--collect".to_owned(),
            "--service-type=exec".to_owned(),
            format!("--unit={}", unit::fresh(work)),
            format!("--property=RuntimeMaxSec={}", task.limit.as_secs().max(1)),
            format!("--property=TimeoutStopSec={patience}"),
            "--setenv=LC_ALL=C.UTF-8".to_owned(),
            "--setenv=HOME=/root".to_owned(),
        ];
        args.extend(task.env.iter().map(|(name, value)| format!("--setenv={name}={value}")));
        args.push("--".to_owned());
        args.push(task.program.clone());
        args.extend(task.args.iter().cloned());
        let started = Instant::now();
        let limit = task.limit;
        // The unit ends by itself; a little longer is for systemd.
        let outer = limit + Duration::from_secs(patience + 10);
        let outer = Task { program: "systemd-run".to_owned(), args, limit: outer, ..task };
        let mut finished = self.processes.run(&outer)?;
        finished.timed_out |= !finished.success() && started.elapsed() >= limit;
        Ok(finished)
    }
}

/// How long to wait for killed processes to be gone.
const ENDING: Duration = Duration::from_secs(10);
/// Most bytes of the names of all packages.
const TRANSACTION_BYTES: u64 = 4 << 20;

fn report(step: &Step, state: StepState, took: Duration, outcome: &Outcome) -> StepReport {
    StepReport {
        id: step.id.0.clone(),
        title: step.title(),
        reason: step.reason.clone(),
        state,
        duration_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        exit_code: outcome.code,
        output_tail: outcome.output.clone(),
    }
}

fn finding(code: &str, severity: Severity, subject: &str, message: String, hint: Option<&str>) -> Finding {
    Finding { code: code.to_owned(), severity, subject: subject.to_owned(), message, hint: hint.map(ToOwned::to_owned) }
}

static WATCHER: OnceLock<fn(&str, usize)> = OnceLock::new();

/// Lets `watcher` see every boundary of a step, with its number in the plan: `before` it is begun, `begun` in the journal, `done`, `ended`
/// in the journal. For tests, which end the agent there; the product's program never calls it.
pub fn watch(watcher: fn(&str, usize)) {
    let _ = WATCHER.set(watcher);
}

fn boundary(place: &str, number: usize) {
    if let Some(watcher) = WATCHER.get() {
        watcher(place, number);
    }
}
