//! Repositories and packages, through whatever package manager there is.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rocks_common::diag::Severity;
use rocks_common::kickstart::PackageSpec;
use rocks_common::plan::{
    Inventory, Manager, ManagerError, PackageChange, Repository, RepositoryLocation, Setting, Step,
};

use super::{Executor, Outcome, complaint, finding};
use crate::near::gateway::Gateway;
use crate::process::{self, Task};
use crate::{files, observe};

/// The file that holds our repositories; all others stay as they are, and are not used by the agent.
const REPO_FILE: &str = "etc/yum.repos.d/rocks.repo";
/// Most bytes of it.
const REPO_BYTES: u64 = 1 << 20;

/// The package manager of this machine.
struct Tool {
    name: &'static str,
    kind: Manager,
    plugins: Vec<&'static str>,
}

impl Tool {
    /// The preferred one below `root`.
    fn find(root: &Path) -> Option<Self> {
        let found = |name: &&'static str| Some((*name, process::find(root, name)?));
        let (name, path) = Manager::NAMES.iter().find_map(found)?;
        let file = fs::canonicalize(&path).unwrap_or(path);
        let kind = Manager::of(name, &file.file_name().unwrap_or_default().to_string_lossy());
        let is_there = |plugin: &&str| root.join("etc/dnf/plugins").join(format!("{plugin}.conf")).exists();
        Some(Self { name, kind, plugins: Manager::SLOW_PLUGINS.into_iter().filter(is_there).collect() })
    }
}

/// Whether an address of the repository says who asks for it.
fn has_password(repository: &Repository) -> bool {
    let (RepositoryLocation::BaseUrl(url) | RepositoryLocation::MirrorList(url) | RepositoryLocation::Metalink(url)) =
        &repository.location;
    // Also where it has no scheme, as package managers take proxies.
    let names_user = |url: &String| {
        let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
        rest.split('/').next().is_some_and(|authority| authority.contains('@'))
    };
    names_user(url) || repository.proxy.as_ref().is_some_and(names_user)
}

fn all_names(inventory: &Inventory) -> BTreeSet<String> {
    inventory.names().map(ToOwned::to_owned).collect()
}

/// Whether a package manager refused because it would have taken along what it may not.
fn is_protected(output: &str) -> bool {
    output.contains("protected packages")
}

fn untold(error: &ManagerError) -> Outcome {
    let mut outcome = Outcome::failure(format!("{error}\n"));
    outcome.findings.push(finding("bad-package", Severity::Error, "packages", error.to_string(), None));
    outcome
}

impl Executor<'_> {
    pub(super) fn repositories(&self, repositories: &[Repository]) -> Outcome {
        let mut text = String::from("# Written by rocks-agent from the kickstart. Changes are lost.\n");
        for repository in repositories {
            text.push_str(&self.repository(repository));
        }
        // Users may look where packages come from, but a password is none of theirs.
        let mode = if repositories.iter().any(has_password) { 0o600 } else { 0o644 };
        let path = self.config.root.join(REPO_FILE);
        let has_mode = fs::symlink_metadata(&path).is_ok_and(|meta| meta.permissions().mode() & 0o7777 == mode);
        if has_mode && files::read(&path, REPO_BYTES).is_ok_and(|there| there.is_some_and(|it| it == text.as_bytes())) {
            return Outcome::default();
        }
        match files::write(&path, text.as_bytes(), mode) {
            Ok(()) => Outcome::default(),
            Err(error) => Outcome::failure(format!("{REPO_FILE}: {error}\n")),
        }
    }

    fn repository(&self, repository: &Repository) -> String {
        let (key, address) = match &repository.location {
            RepositoryLocation::BaseUrl(url) => ("baseurl", url),
            RepositoryLocation::MirrorList(url) => ("mirrorlist", url),
            RepositoryLocation::Metalink(url) => ("metalink", url),
        };
        // A line end in a value would begin a new setting.
        let clean = |text: &str| text.replace(['\n', '\r'], " ");
        let mut text = format!(
            "\n[rocks-{id}]\nname=Rocks {id}\n{key}={}\nenabled=1\nskip_if_unavailable=0\n",
            clean(address),
            id = repository.id
        );
        text.push_str(&format!("gpgcheck={}\n", u8::from(self.config.gpgcheck)));
        if !self.config.gpgkeys.is_empty() {
            text.push_str(&format!("gpgkey={}\n", clean(&self.config.gpgkeys.join(" "))));
        }
        if let Some(cost) = repository.cost {
            text.push_str(&format!("cost={cost}\n"));
        }
        for (key, list) in [("excludepkgs", &repository.exclude), ("includepkgs", &repository.include)] {
            if !list.is_empty() {
                text.push_str(&format!("{key}={}\n", clean(&list.join(","))));
            }
        }
        if let Some(proxy) = &repository.proxy {
            text.push_str(&format!("proxy={}\n", clean(proxy)));
        }
        if repository.no_verify_tls {
            text.push_str("sslverify=0\n");
        }
        if let (true, Some(mirror)) = (repository.frontend, &self.mirror) {
            text.push_str(&format!(
                "sslverify=1\nsslcacert={}\nsslclientcert={}\nsslclientkey={}\nmetadata_expire=1\n",
                mirror.ca.display(),
                mirror.certificate.display(),
                mirror.key.display()
            ));
        }
        text
    }

    pub(super) fn packages(&self, step: &Step, change: &PackageChange, repositories: &[Repository]) -> Outcome {
        let tools = if self.is_live() { self.config.root.as_path() } else { Path::new("/") };
        let Some(tool) = Tool::find(tools) else {
            return Outcome::failure(format!("none of {} is here\n", Manager::NAMES.join(", ")));
        };
        let before = self.inventory();
        let names = before.as_ref().ok().map(all_names);
        if let Some(names) = &names {
            self.note_transaction(step, names);
        }
        let mut outcome = Outcome::default();
        if !change.install.is_empty() {
            outcome = self.install(&tool, step, change, repositories);
        }
        if !outcome.failed && !change.remove.is_empty() {
            let removed = self.remove(&tool, step, change);
            outcome.findings.extend(removed.findings);
            outcome = Outcome { output: outcome.output + &removed.output, findings: outcome.findings, ..removed };
        }
        // Even a failed transaction may have brought something in, or taken something away.
        if let (Some(before), Ok(after)) = (names, self.inventory()) {
            let there = all_names(&after);
            outcome.installed = change.brought_in(&before, &after);
            outcome.removed = change.remove.iter().filter(|name| !there.contains(*name)).cloned().collect();
            if outcome.failed && before == there {
                for found in &mut outcome.findings {
                    let hint = found.hint.as_deref().unwrap_or("it is tried again");
                    found.hint = Some(format!("nothing was installed; {hint}"));
                }
            }
            for spec in &change.install {
                if !outcome.failed && after.has(spec) == Some(false) {
                    let message = "no repository has it".to_owned();
                    outcome.findings.push(finding(
                        "package-missing",
                        Severity::Warning,
                        &spec.to_string(),
                        message,
                        None,
                    ));
                }
            }
        }
        outcome
    }

    fn inventory(&self) -> Result<Inventory, observe::ObserveError> {
        observe::packages(&self.config.root, Some(&observe::cache(&self.config.state)), self.processes)
    }

    fn install(&self, tool: &Tool, step: &Step, change: &PackageChange, repositories: &[Repository]) -> Outcome {
        // The step that wrote the file may be long ago: somebody may have changed it since, or the configuration.
        if !repositories.is_empty() {
            let written = self.repositories(repositories);
            if written.failed {
                return written;
            }
        }
        let near = self.near();
        let folder = near.as_ref().map(|(_, folder)| folder.display().to_string());
        let root = self.other_root();
        let plugins: Vec<&str> = tool.plugins.to_vec();
        let setting =
            Setting { root: root.as_deref(), repositories: folder.as_deref(), plugins: &plugins, ..Setting::default() };
        let mut outcome = match tool.kind.install(change, &setting) {
            Ok(args) => self.manage(tool.name, "install", step, args),
            Err(error) => untold(&error),
        };
        if let Some((gateway, _)) = near {
            outcome.findings.extend(gateway.close(!outcome.failed));
        }
        outcome
    }

    /// Removes what the kickstart no longer names, and nothing that it does name: what a wanted package needs stays.
    fn remove(&self, tool: &Tool, step: &Step, change: &PackageChange) -> Outcome {
        // Not what was there before the step: it may have installed something.
        let there = match self.inventory() {
            Ok(there) => there,
            Err(error) => return Outcome::failure(format!("{error}\n")),
        };
        let wanted: BTreeSet<&str> = change.keep.iter().flat_map(|spec| there.named_by(spec)).collect();
        let wanted: Vec<&str> = wanted.into_iter().collect();
        let root = self.other_root();
        let plugins: Vec<&str> = tool.plugins.to_vec();
        let setting = Setting { root: root.as_deref(), plugins: &plugins, protected: &wanted, ..Setting::default() };
        let work = |names: &[String]| match tool.kind.remove(names, &setting) {
            Ok(args) => self.manage(tool.name, "remove", step, args),
            Err(error) => untold(&error),
        };
        let mut outcome = work(&change.remove);
        if outcome.failed && is_protected(&outcome.output) {
            // One of them is needed; the others are not to stay for it.
            let mut findings = Vec::new();
            for name in &change.remove {
                let alone = if change.remove.len() == 1 { outcome.clone() } else { work(std::slice::from_ref(name)) };
                if alone.failed && is_protected(&alone.output) {
                    let message = "it is not removed: a package that the kickstart names would go with it".to_owned();
                    findings.push(finding("still-needed", Severity::Note, name, message, None));
                    continue;
                }
                outcome = alone;
                if outcome.failed {
                    outcome.findings.extend(findings);
                    return outcome;
                }
            }
            outcome = Outcome { findings, output: outcome.output, ..Outcome::default() };
        }
        if !outcome.failed
            && let Ok(after) = self.inventory()
        {
            let is_lost = |spec: &&PackageSpec| there.has(spec) != Some(false) && after.has(spec) == Some(false);
            for spec in change.keep.iter().filter(is_lost) {
                outcome.failed = true;
                let message = "it went with a package that was removed, and the kickstart names it".to_owned();
                let hint = Some("it is installed again");
                outcome.findings.push(finding("wanted-removed", Severity::Error, &spec.to_string(), message, hint));
            }
        }
        outcome
    }

    /// The root for a package manager that runs outside it.
    fn other_root(&self) -> Option<String> {
        (!self.is_live()).then(|| self.config.root.display().to_string())
    }

    /// A way to packages that is nearer than the frontend, if there is one, and the folder of repositories that lead there. Without it
    /// the repositories are what they are: the frontend's.
    fn near(&self) -> Option<(Gateway, PathBuf)> {
        if self.config.policy.installer {
            return None;
        }
        let bytes = files::read(&self.config.root.join(REPO_FILE), REPO_BYTES).ok()??;
        let text = String::from_utf8(bytes).ok()?;
        let opened = Gateway::open(&self.config.state, &self.config.root, &text).and_then(|gateway| {
            let Some(gateway) = gateway else { return Ok(None) };
            let folder = gateway.repositories(&text)?;
            Ok(Some((gateway, folder)))
        });
        opened.unwrap_or_else(|error| {
            tracing::warn!("packages come from the frontend itself: {error}");
            None
        })
    }

    fn manage(&self, manager: &str, unit: &str, step: &Step, args: Vec<String>) -> Outcome {
        // Into a file: a transaction goes on when the agent is killed, and must be able to say so.
        let task = Task { args, log: Some(self.log_path()), ..Task::new(manager, &[]) };
        match self.run_outside(unit, step, task.limit(Duration::from_secs(self.config.package_limit_seconds))) {
            Ok(finished) => {
                let mut outcome = Outcome::of(&finished);
                if outcome.failed {
                    let (code, message) = complaint::of(&outcome.output);
                    outcome.findings.push(finding(
                        code,
                        Severity::Error,
                        manager,
                        message,
                        Some(complaint::hint(code)),
                    ));
                }
                outcome
            }
            Err(error) => Outcome::failure(format!("{manager}: {error}\n")),
        }
    }
}

#[cfg(test)]
#[path = "packages_tests.rs"]
mod tests;
