//! Doing what was planned, one step after the other, and deciding nothing.
//!
//! Before a step is done the journal says so, and after it how it ended; so whenever the agent is killed the next start knows what
//! was completed. A step whose predecessor failed is not done; others are.

mod command;
mod packages;
mod script;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rocks_common::diag::Severity;
use rocks_common::plan::{Action, Plan, Step, StepId};
use rocks_common::wire::{Finding, StepReport, StepState};

use crate::config::Config;
use crate::journal::{Journal, JournalError};
use crate::process::{Finished, Processes, Task};

/// How a step ended.
#[derive(Debug, Clone, Default)]
struct Outcome {
    failed: bool,
    timed_out: bool,
    code: Option<i32>,
    output: String,
    installed: Vec<String>,
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
    /// Carries out `plan`.
    ///
    /// # Errors
    /// The journal cannot be written: then nothing more is done.
    pub fn run(
        &self,
        plan: &Plan,
        journal: &mut Journal,
        progress: &mut dyn FnMut(&str),
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
            progress(&step.title());
            failpoint("before", number);
            journal.begun(step)?;
            failpoint("begun", number);
            let started = Instant::now();
            let outcome = self.step(step);
            failpoint("done", number);
            let state = match (outcome.failed, outcome.timed_out) {
                (_, true) => StepState::TimedOut,
                (true, false) => StepState::Failed,
                (false, false) => StepState::Done,
            };
            journal.ended(&step.id.0, state, outcome.installed.clone())?;
            failpoint("ended", number);
            executed.findings.extend(outcome.findings.iter().cloned());
            executed.steps.push(report(step, state, started.elapsed(), &outcome));
            if state != StepState::Done {
                failed.insert(&step.id);
                executed.complete = false;
            }
        }
        Ok(executed)
    }

    fn step(&self, step: &Step) -> Outcome {
        match &step.action {
            Action::Repositories(repositories) => self.repositories(repositories),
            Action::Packages(change) => self.packages(change),
            Action::Command(command) => self.command(command),
            Action::Script(run) => self.script(step, run),
        }
    }

    fn is_live(&self) -> bool {
        self.config.root == Path::new("/")
    }

    /// Makes sure that nothing of a step is still running that was begun by an agent that was killed: its unit lives on without the
    /// agent. A script is ended, because it is run again from its start; a package transaction is waited for, because ending it
    /// would leave the package database half done.
    pub fn end_interrupted(&self, step: &Step) {
        if !self.has_units() {
            return;
        }
        let systemctl = |words: &[&str]| self.processes.run(&Task::new("systemctl", words));
        match &step.action {
            Action::Script(_) => {
                let _ = systemctl(&["stop", &unit_name(&format!("script-{}", step.id.0))]);
            }
            Action::Packages(_) => {
                let end = Instant::now() + Duration::from_secs(self.config.package_limit_seconds);
                for unit in ["install", "remove"].map(unit_name) {
                    let running =
                        || systemctl(&["is-active", "--quiet", &unit]).is_ok_and(|finished| finished.success());
                    while running() && Instant::now() < end {
                        std::thread::sleep(Duration::from_millis(200));
                    }
                }
            }
            Action::Repositories(_) | Action::Command(_) => {}
        }
    }

    fn has_units(&self) -> bool {
        self.is_live() && self.config.transient_units && Path::new("/run/systemd/system").is_dir()
    }

    /// Runs `task` in a transient unit of its own where systemd runs, so that it is outside the agent's sandbox, survives the
    /// agent's upgrade, and is found in the journal by its unit; as a plain process otherwise.
    fn run_outside(&self, unit: &str, task: Task) -> std::io::Result<Finished> {
        if !(self.has_units() && task.input.is_empty()) {
            return self.processes.run(&task);
        }
        let mut args = vec![
            "--quiet".to_owned(),
            "--wait".to_owned(),
            "--pipe".to_owned(),
            "--collect".to_owned(),
            "--service-type=exec".to_owned(),
            format!("--unit={}", unit_name(unit)),
            format!("--property=RuntimeMaxSec={}", task.limit.as_secs().max(1)),
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
        let outer = Task { program: "systemd-run".to_owned(), args, limit: limit + Duration::from_secs(10), ..task };
        let mut finished = self.processes.run(&outer)?;
        finished.timed_out |= !finished.success() && started.elapsed() >= limit;
        Ok(finished)
    }
}

/// The transient unit of a piece of work.
fn unit_name(work: &str) -> String {
    format!("rocks-{work}.service")
}

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

/// Dies as if killed at a boundary of step `number`, when a test asks for it. Not in the product.
#[cfg(feature = "failpoints")]
fn failpoint(place: &str, number: usize) {
    if std::env::var("ROCKS_AGENT_FAIL").is_ok_and(|wanted| wanted == format!("{place}:{number}")) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

#[cfg(not(feature = "failpoints"))]
fn failpoint(_: &str, _: usize) {}
