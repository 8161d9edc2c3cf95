//! What the agent knows of itself, for people and for other programs.

use std::path::Path;

use jiff::Timestamp;
use rocks_common::wire::{Finding, Outcome, Report, StepState};
use serde::{Deserialize, Serialize};

use crate::{files, output};

/// What the agent knows of itself.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The host that it is.
    pub host: Option<String>,
    /// Its frontend.
    pub frontend: Option<String>,
    /// When its certificate ends.
    pub certificate_ends: Option<Timestamp>,
    /// The last converge.
    pub last: Option<Report>,
    /// What is in the way now, beside what the last converge found: a frontend that cannot be reached.
    pub findings: Vec<Finding>,
    /// When it tries again.
    pub next_attempt: Option<Timestamp>,
}

/// Most bytes of a status.
const BYTES: u64 = 8 << 20;

impl Status {
    /// The status kept in `state`; an empty one if there is none.
    #[must_use]
    pub fn load(state: &Path) -> Self {
        let bytes = files::read(&state.join("status.json"), BYTES).ok().flatten();
        bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Keeps it. It is for information: that it cannot be kept is no failure.
    pub fn store(&self, state: &Path) {
        let _ = serde_json::to_vec(self).map(|bytes| files::write(&state.join("status.json"), &bytes, 0o600));
    }

    /// 0 if the instance is as its kickstart says, else 3.
    #[must_use]
    pub fn code(&self) -> u8 {
        let converged =
            self.last.as_ref().is_some_and(|r| matches!(r.outcome, Outcome::Converged | Outcome::Unchanged));
        if converged && self.findings.is_empty() { output::OK } else { output::NOT_CONVERGED }
    }

    /// For people.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::new();
        let mut line = |name: &str, value: &str| out.push_str(&format!("{name:>12}: {value}\n"));
        line("host", self.host.as_deref().unwrap_or("not enrolled"));
        if let Some(frontend) = &self.frontend {
            line("frontend", frontend);
        }
        if let Some(end) = self.certificate_ends {
            let over = end < Timestamp::now();
            line("certificate", &format!("{} {end}", if over { "ended" } else { "until" }));
        }
        match &self.last {
            None => line("state", "never converged"),
            Some(report) => {
                let state = match report.outcome {
                    Outcome::Unchanged | Outcome::Converged => "converged",
                    Outcome::Incomplete => "incomplete",
                    Outcome::Refused => "refused",
                };
                line("state", state);
                if let (Some(kickstart), Some(generation)) = (report.kickstart, report.generation) {
                    line("kickstart", &format!("{} generation {generation}", kickstart.short()));
                }
                line("last", &format!("{} for {} ms", report.started, report.duration_ms));
            }
        }
        if let Some(next) = self.next_attempt {
            line("next", &next.to_string());
        }
        if let Some(report) = &self.last {
            out.push_str(&render_steps(report));
        }
        for finding in &self.findings {
            out.push_str(&render_finding(finding));
        }
        out
    }
}

/// The steps and findings of a report, for people.
#[must_use]
pub fn render_steps(report: &Report) -> String {
    let mut out = String::new();
    for step in &report.steps {
        let (sign, state) = match step.state {
            StepState::Done => ("+", "done"),
            StepState::Failed => ("!", "failed"),
            StepState::TimedOut => ("!", "took too long"),
            StepState::Blocked => ("-", "waits for what failed"),
            StepState::Interrupted => ("!", "was interrupted; it is run again"),
        };
        out.push_str(&format!("{sign} {}: {state} ({} ms)\n", step.title, step.duration_ms));
        if step.state != StepState::Done && !step.output_tail.trim().is_empty() {
            for line in step.output_tail.lines().rev().take(8).collect::<Vec<_>>().into_iter().rev() {
                out.push_str(&format!("    | {line}\n"));
            }
        }
    }
    report.findings.iter().for_each(|finding| out.push_str(&render_finding(finding)));
    out
}

fn render_finding(finding: &Finding) -> String {
    let hint = finding.hint.as_ref().map(|hint| format!("    hint: {hint}\n")).unwrap_or_default();
    format!("{}: {}: {} [{}]\n{hint}", finding.severity, finding.subject, finding.message, finding.code)
}
