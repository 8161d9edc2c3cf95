//! What tests ask of an instance's turns and reports.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::process::{Done, wait_for};
use crate::world::{Instance, World};

/// How long an instance may take for anything that it is asked.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// The steps of a report, as `STATE: TITLE`.
#[must_use]
pub fn steps(report: &Value) -> Vec<String> {
    let list = report["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter()
        .map(|step| format!("{}: {}", step["state"].as_str().unwrap_or("?"), step["title"].as_str().unwrap_or("?")))
        .collect()
}

/// Whether a report says that the instance is as its kickstart says.
#[must_use]
pub fn good(report: &Value) -> bool {
    matches!(report["outcome"].as_str(), Some("converged" | "unchanged"))
}

/// The message of the finding with `code`, if a report has one.
#[must_use]
pub fn finding<'r>(report: &'r Value, code: &str) -> Option<&'r str> {
    let mut findings = report["findings"].as_array()?.iter();
    findings.find(|finding| finding["code"] == code)?["message"].as_str()
}

/// Waits until `instance` has done what the kickstart says that its host has now.
///
/// # Panics
/// It does not; with the log of both ends.
#[must_use]
#[track_caller]
pub fn converged(world: &World, instance: &Instance) -> Value {
    let fits = || {
        let generation = world.generation(&instance.name)?;
        world.wait_report(&instance.name, PATIENCE, |r| good(r) && r["generation"].as_u64() >= Some(generation))
    };
    fits().unwrap_or_else(|error| panic!("{error:#}\n{}", instance.agent_log()))
}

/// Does something at the frontend and waits until it has made a new kickstart of it for `host`.
///
/// # Panics
/// It does not.
#[track_caller]
pub fn change(world: &World, host: &str, words: &[&str]) {
    let changed = || {
        let before = world.generation(host)?;
        world.rocks(words)?;
        wait_for("a new generation", Duration::from_secs(20), || Ok((world.generation(host)? > before).then_some(())))
    };
    changed().unwrap_or_else(|error| panic!("{words:?}: {error:#}\n{}", world.frontend_log()));
}

impl Instance {
    /// One turn of the agent, begun by hand, and its report.
    ///
    /// # Errors
    /// There is no report.
    pub fn converge(&self) -> Result<Value> {
        let done = self.exec(&["rocks-agent", "-o", "json", "converge"])?;
        let both = || format!("exit {}: {}", done.code(), done.both());
        let json: Value = serde_json::from_str(&done.stdout).with_context(both)?;
        ensure!(json["report"].is_object(), "{}", both());
        Ok(json["report"].clone())
    }

    /// Runs a shell script inside that must succeed.
    ///
    /// # Errors
    /// It does not.
    pub fn shell(&self, script: &str) -> Result<Done> {
        let done = self.exec(&["sh", "-ec", script])?;
        ensure!(done.code() == 0, "{script}\n  ended with {}: {}", done.code(), done.both());
        Ok(done)
    }

    /// How often `line` stands in the file `inside`.
    #[must_use]
    pub fn count(&self, inside: &str, line: &str) -> usize {
        self.read(inside).map_or(0, |text| text.lines().filter(|there| *there == line).count())
    }
}
