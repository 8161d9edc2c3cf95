//! Desired − applied − observed = plan.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use super::live::{Meaning, meaning};
use super::{Action, Applied, Inventory, PackageChange, Plan, Policy, Repository, ScriptRun, Skipped, Step, StepId};
use crate::diag::Severity;
use crate::ids::Digest;
use crate::kickstart::{Command, Kickstart, PackageSpec, Script, ScriptKind};
use crate::wire::Finding;

/// What to do so that a machine that has `applied` and where `observed` is installed becomes what `desired` says.
#[must_use]
pub fn plan(desired: &Kickstart, applied: &Applied, observed: &Inventory, policy: &Policy) -> Plan {
    let mut planner = Planner {
        applied,
        policy,
        plan: Plan {
            kickstart: desired.digest,
            steps: Vec::new(),
            repositories: Vec::new(),
            skipped: Vec::new(),
            findings: Vec::new(),
        },
    };
    let mut must = Vec::new();
    if policy.installer {
        must = planner.scripts(desired, &[ScriptKind::Pre, ScriptKind::PreInstall], must);
    }
    let sorted = planner.commands(desired);
    let repositories = planner.repositories(sorted.repositories);
    let packages = if policy.installer { None } else { planner.packages(desired, observed, repositories.as_ref()) };
    must.extend(repositories.into_iter().chain(packages));
    for (key, origin, command) in sorted.live {
        planner.command(&key, &origin, command, &must);
    }
    let running =
        [ScriptKind::Pre, ScriptKind::PreInstall, ScriptKind::Post, ScriptKind::Onerror, ScriptKind::Traceback];
    let rest = if policy.installer { &running[2..] } else { &running[..] };
    planner.scripts(desired, rest, must);
    planner.plan
}

/// The key and the digest by which an applied command is remembered; the digest hides what the command says.
#[must_use]
fn digest_of<T: Serialize>(value: &T) -> String {
    // These types always serialize.
    Digest::of(&serde_json::to_vec(value).unwrap_or_default()).short()
}

fn installs(action: &Action) -> bool {
    matches!(action, Action::Packages(change) if !change.install.is_empty())
}

/// Whether the command that is remembered by `key` disables units: a package that brings one may enable it.
fn disables(key: &str) -> bool {
    key.starts_with("services ") && key.contains("--disabled=")
}

struct Sorted {
    repositories: Vec<Repository>,
    live: Vec<(String, String, super::LiveCommand)>,
}

struct Planner<'p> {
    applied: &'p Applied,
    policy: &'p Policy,
    plan: Plan,
}

impl Planner<'_> {
    fn step(&mut self, action: Action, reason: String, after: &[StepId]) -> StepId {
        let id = StepId(digest_of(&action));
        if !self.plan.steps.iter().any(|step| step.id == id) {
            self.plan.steps.push(Step { id: id.clone(), action, reason, after: after.to_vec() });
        }
        id
    }

    fn finding(&mut self, code: &str, severity: Severity, subject: &str, message: String, hint: Option<&str>) {
        self.plan.findings.push(Finding {
            code: code.to_owned(),
            severity,
            subject: subject.to_owned(),
            message,
            hint: hint.map(ToOwned::to_owned),
        });
    }

    fn commands(&mut self, desired: &Kickstart) -> Sorted {
        let mut sorted = Sorted { repositories: Vec::new(), live: Vec::new() };
        let mut installer: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for command in &desired.commands {
            let origin = origin_of(command);
            match meaning(command, self.policy.frontend.as_deref()) {
                Meaning::Live(all) => {
                    for (key, live) in all {
                        // As in an installer, the last of several counts.
                        sorted.live.retain(|(other, ..)| *other != key);
                        sorted.live.push((key, origin.clone(), live));
                    }
                }
                Meaning::Repository(repository) => sorted.repositories.push(repository),
                Meaning::Installer => installer.entry(command.name.clone()).or_default().push(command.raw.clone()),
                Meaning::Nothing => {}
                Meaning::Bad(message) => {
                    self.finding("bad-command", Severity::Error, &origin, message, None);
                }
                Meaning::Unknown => {
                    let message = format!("`{}` is not a command that this agent knows; it is left out", command.name);
                    self.finding("unknown-command", Severity::Warning, &origin, message, None);
                }
            }
        }
        if let Some(before) = &self.applied.installer {
            let names: BTreeSet<&String> = installer.keys().chain(before.keys()).collect();
            for name in names {
                if installer.get(name) != before.get(name) {
                    let message = format!("`{name}` has changed, and only an installation can apply it");
                    let hint = "provision the instance anew to apply it";
                    self.finding("needs-reprovision", Severity::Warning, name, message, Some(hint));
                }
            }
        }
        sorted
    }

    fn repositories(&mut self, mut repositories: Vec<Repository>) -> Option<StepId> {
        repositories.dedup();
        self.plan.repositories.clone_from(&repositories);
        let action = Action::Repositories(repositories);
        let digest = digest_of(&action);
        let Action::Repositories(list) = &action else { return None };
        let before = self.applied.commands.get("repositories");
        if before == Some(&digest) || (list.is_empty() && before.is_none()) {
            return None;
        }
        let reason = format!("the kickstart names {} repositories", list.len());
        Some(self.step(action, reason, &[]))
    }

    fn packages(&mut self, desired: &Kickstart, observed: &Inventory, after: Option<&StepId>) -> Option<StepId> {
        let wanted = &desired.packages;
        let mut change = PackageChange {
            exclude: wanted.exclude.iter().map(|entry| entry.spec.clone()).collect(),
            ignore_missing: wanted.options.iter().any(|option| option == "--ignoremissing"),
            exclude_weak: wanted.options.iter().any(|option| option == "--exclude-weakdeps"),
            ..PackageChange::default()
        };
        let asked = self.applied.asked(desired);
        let mut reasons: Vec<String> = Vec::new();
        for entry in &wanted.install {
            let there = observed.has(&entry.spec).unwrap_or_else(|| asked.contains(&entry.spec.to_string()));
            let excluded = change.exclude.contains(&entry.spec);
            if !there && !excluded && !change.install.contains(&entry.spec) {
                let from = entry.origin.as_ref().map(|origin| format!(" ({origin})")).unwrap_or_default();
                reasons.push(format!("{}{from}", entry.spec));
                change.install.push(entry.spec.clone());
            }
        }
        // A kickstart may ask for a package by what it provides.
        let named: BTreeSet<&str> = wanted.install.iter().flat_map(|entry| observed.named_by(&entry.spec)).collect();
        let extra: Vec<String> =
            self.applied.packages.iter().filter(|name| !named.contains(name.as_str())).cloned().collect();
        let installed: Vec<String> =
            extra.into_iter().filter(|name| observed.has(&PackageSpec::Package(name.clone())) == Some(true)).collect();
        if self.policy.remove_packages {
            if !installed.is_empty() {
                change.keep = wanted.install.iter().map(|entry| entry.spec.clone()).collect();
            }
            change.remove = installed;
        } else {
            for name in installed {
                let reason =
                    "the kickstart no longer names it, and policy does not let the agent remove packages".to_owned();
                self.plan.skipped.push(Skipped { subject: format!("remove {name}"), reason });
            }
        }
        if change.install.is_empty() && change.remove.is_empty() {
            return None;
        }
        let mut reason = String::new();
        if !reasons.is_empty() {
            reason.push_str(&format!("not installed: {}", reasons.join(", ")));
        }
        if !change.remove.is_empty() {
            reason.push_str(if reason.is_empty() { "" } else { "; " });
            reason.push_str(&format!("no longer named: {}", change.remove.join(", ")));
        }
        let after: Vec<StepId> = after.into_iter().cloned().collect();
        Some(self.step(Action::Packages(change), reason, &after))
    }

    fn command(&mut self, key: &str, origin: &str, command: super::LiveCommand, after: &[StepId]) {
        let action = Action::Command(command);
        let digest = digest_of(&action);
        let reason = match self.applied.commands.get(key) {
            Some(before) if *before == digest => {
                let installs = self.plan.steps.iter().any(|step| installs(&step.action));
                if !(installs && disables(key)) {
                    return;
                }
                format!("packages are installed, which may enable what is disabled at {origin}")
            }
            Some(_) => format!("changed at {origin}"),
            None => format!("new at {origin}"),
        };
        // What a package brings must be there before it can be switched; the rest does not have to wait for packages.
        let needs_packages = matches!(
            action,
            Action::Command(
                super::LiveCommand::Services { .. } | super::LiveCommand::Firewall { .. } | super::LiveCommand::User(_)
            )
        );
        let waits = needs_packages || self.policy.installer;
        self.step(action, reason, if waits { after } else { &[] });
    }

    /// Plans the sections of these kinds; gives what must have succeeded before anything that comes later.
    fn scripts(&mut self, desired: &Kickstart, kinds: &[ScriptKind], mut must: Vec<StepId>) -> Vec<StepId> {
        // How often each was run: a section that stands there twice runs twice.
        let mut ran: HashMap<(Option<&str>, Digest), usize> = HashMap::new();
        for script in &self.applied.scripts {
            *ran.entry((script.node.as_deref(), script.digest)).or_default() += 1;
        }
        let mut steps: HashMap<Digest, usize> = HashMap::new();
        for script in desired.scripts.iter().filter(|script| kinds.contains(&script.kind)) {
            let name = name_of(script);
            let node = script.marker.as_ref().map(|marker| marker.node.as_str());
            if let Some(reason) = self.left_out(script) {
                if script.kind == ScriptKind::Post {
                    self.plan.skipped.push(Skipped { subject: name, reason });
                }
                continue;
            }
            if let Some(count) = ran.get_mut(&(node, script.digest)).filter(|count| **count > 0) {
                *count -= 1;
                continue;
            }
            let section = script.marker.as_ref().map(|marker| marker.section.as_str());
            let changed = section.is_some()
                && self.applied.scripts.iter().any(|r| r.node.as_deref() == node && r.section.as_deref() == section);
            let reason = if changed { format!("{name} has changed") } else { format!("{name} is new") };
            let mut run = ScriptRun {
                kind: script.kind,
                interpreter: script.interpreter.clone(),
                body: script.body.clone(),
                log: script.log.clone(),
                error_on_fail: script.error_on_fail,
                digest: script.digest,
                marker: script.marker.clone(),
                line: script.line,
            };
            // The same text twice is two steps: their lines tell them apart, which otherwise do not count.
            let twin = steps.entry(script.digest).or_default();
            *twin += 1;
            if let (1, Some(marker)) = (*twin, &mut run.marker) {
                marker.line = 0;
            }
            if *twin == 1 {
                run.line = 0;
            }
            let id = self.step(Action::Script(run), reason, &must);
            if script.error_on_fail {
                must.push(id);
            }
        }
        must
    }

    /// Why a section is not for a running machine, if so.
    fn left_out(&self, script: &Script) -> Option<String> {
        if self.policy.installer {
            let when_it_fails = matches!(script.kind, ScriptKind::Onerror | ScriptKind::Traceback);
            return when_it_fails.then(|| format!("%{} runs only when an installation fails", script.kind.as_str()));
        }
        if script.kind != ScriptKind::Post {
            return Some(format!("%{} runs only in an installer", script.kind.as_str()));
        }
        if script.nochroot {
            return Some("--nochroot: it works on the installer's files".to_owned());
        }
        let node = script.marker.as_ref()?.node.rsplit('/').next()?.trim_end_matches(".xml");
        let node = node.strip_prefix("extend-").or_else(|| node.strip_prefix("replace-")).unwrap_or(node);
        let excluded = self.policy.exclude_nodes.contains(node);
        excluded.then(|| format!("node {node} is on the exclusion list: it could break a running machine"))
    }
}

fn origin_of(command: &Command) -> String {
    command.origin.clone().unwrap_or_else(|| format!("`{}`, line {}", command.name, command.line))
}

/// A section's name for people: `base/nodes/ssh.xml post.2`, or its kind and line.
fn name_of(script: &Script) -> String {
    match &script.marker {
        Some(marker) => format!("{} {}", marker.node, marker.section),
        None => format!("%{} at line {}", script.kind.as_str(), script.line),
    }
}

impl Applied {
    /// The commands that only an installer can do, as [`Applied::installer`] keeps them.
    #[must_use]
    pub fn installer_of(kickstart: &Kickstart) -> BTreeMap<String, Vec<String>> {
        let mut installer: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for command in &kickstart.commands {
            if let Meaning::Installer = meaning(command, None) {
                installer.entry(command.name.clone()).or_default().push(command.raw.clone());
            }
        }
        installer
    }

    /// What is applied when `kickstart` was applied as a whole: by an installer, or by an image builder.
    #[must_use]
    pub fn all_of(kickstart: &Kickstart, policy: &Policy) -> Self {
        let mut applied = Self { installer: Some(Self::installer_of(kickstart)), ..Self::default() };
        for step in plan(kickstart, &Self::default(), &Inventory::default(), policy).steps {
            applied.record(&step, &[]);
        }
        applied.packages.clear();
        applied.settle(kickstart);
        applied
    }

    /// Takes note that `kickstart` was applied to its end. What it does not hold is forgotten, so that going back to an older
    /// text, or taking a section or command up again, applies it again.
    pub fn settle(&mut self, kickstart: &Kickstart) {
        self.begin(kickstart);
        self.patterns = true;
        self.installer.get_or_insert_with(|| Self::installer_of(kickstart));
        self.kickstart = Some(kickstart.digest);
    }

    /// The groups, modules and patterns that need not be asked for. Where an agent from before noted no patterns, those of
    /// the kickstart that it applied last count: else all machines would ask at once, when their agents are upgraded.
    fn asked(&self, kickstart: &Kickstart) -> BTreeSet<String> {
        let mut asked = self.groups.clone();
        if !self.patterns && self.kickstart == Some(kickstart.digest) {
            let packages = &kickstart.packages;
            let excluded = |spec: &PackageSpec| packages.exclude.iter().any(|entry| entry.spec == *spec);
            let specs = packages.install.iter().map(|entry| &entry.spec);
            let patterns = specs.filter(|spec| matches!(spec, PackageSpec::Glob(_)) && !excluded(spec));
            asked.extend(patterns.map(ToString::to_string));
        }
        asked
    }

    /// Takes note that `kickstart` begins to be applied. From now on the machine may be neither as it was nor as this
    /// says: whatever this does not hold is forgotten before anything is done, and what it does hold stays, however
    /// often it begins.
    pub fn begin(&mut self, kickstart: &Kickstart) {
        let mut there: HashMap<(Option<String>, Digest), usize> = HashMap::new();
        for script in &kickstart.scripts {
            *there.entry((script.marker.as_ref().map(|marker| marker.node.clone()), script.digest)).or_default() += 1;
        }
        self.scripts.retain(|ran| {
            let count = there.get_mut(&(ran.node.clone(), ran.digest)).filter(|count| **count > 0);
            count.map(|count| *count -= 1).is_some()
        });
        let mut commands: HashMap<String, String> = HashMap::new();
        for command in &kickstart.commands {
            if let Meaning::Live(all) = meaning(command, None) {
                // The last of several counts.
                commands.extend(all.into_iter().map(|(key, live)| (key, digest_of(&Action::Command(live)))));
            }
        }
        self.groups = self.asked(kickstart);
        self.patterns |= self.kickstart.is_some();
        let named: BTreeSet<String> = kickstart.packages.install.iter().map(|entry| entry.spec.to_string()).collect();
        self.groups.retain(|spec| named.contains(spec));
        self.commands.retain(|key, digest| key == "repositories" || commands.get(key) == Some(digest));
    }

    /// Takes note that `step` begins. What it may undo does not count any more, also if nobody sees its end.
    pub fn begin_step(&mut self, step: &Step) {
        if installs(&step.action) {
            self.commands.retain(|key, _| !disables(key));
        }
    }

    /// Takes note that `step` was done; `installed` are the packages that it brought in because it was asked to.
    pub fn record(&mut self, step: &Step, installed: &[String]) {
        match &step.action {
            Action::Repositories(_) => {
                self.commands.insert("repositories".to_owned(), digest_of(&step.action));
            }
            Action::Packages(change) => {
                for spec in &change.install {
                    if !matches!(spec, PackageSpec::Package(_)) {
                        self.groups.insert(spec.to_string());
                    }
                }
                for name in &change.remove {
                    self.packages.remove(name);
                }
                self.packages.extend(installed.iter().cloned());
            }
            Action::Command(command) => {
                self.commands.insert(command.key(), digest_of(&step.action));
            }
            Action::Script(run) => {
                let node = run.marker.as_ref().map(|marker| marker.node.clone());
                let section = run.marker.as_ref().map(|marker| marker.section.clone());
                self.scripts.push(super::RanScript { node, section, digest: run.digest });
            }
        }
    }
}
