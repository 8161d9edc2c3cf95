//! Repositories and packages, through whatever package manager there is.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rocks_common::diag::Severity;
use rocks_common::plan::{PackageChange, Repository, RepositoryLocation, Step};

use super::{Executor, Outcome, complaint, finding};
use crate::near::gateway::Gateway;
use crate::process::{Task, is_there};
use crate::{files, observe};

/// The file that holds our repositories; all others stay as they are, and are not used by the agent.
const REPO_FILE: &str = "etc/yum.repos.d/rocks.repo";
/// Most bytes of it.
const REPO_BYTES: u64 = 1 << 20;
/// The package managers, the preferred first.
pub(super) const MANAGERS: [&str; 4] = ["dnf5", "dnf", "microdnf", "yum"];

impl Executor<'_> {
    pub(super) fn repositories(&self, repositories: &[Repository]) -> Outcome {
        let mut text = String::from("# Written by rocks-agent from the kickstart. Changes are lost.\n");
        for repository in repositories {
            text.push_str(&self.repository(repository));
        }
        match files::write(&self.config.root.join(REPO_FILE), text.as_bytes(), 0o644) {
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

    pub(super) fn packages(&self, step: &Step, change: &PackageChange) -> Outcome {
        let root = &self.config.root;
        let tools = if self.is_live() { root.as_path() } else { Path::new("/") };
        let Some(manager) = MANAGERS.into_iter().find(|name| is_there(tools, name)) else {
            return Outcome::failure(format!("none of {} is here\n", MANAGERS.join(", ")));
        };
        let names = || {
            let inventory = observe::packages(root, Some(&observe::cache(&self.config.state)), self.processes)?;
            let names: BTreeSet<String> = inventory.names().map(ToOwned::to_owned).collect();
            Ok::<_, observe::ObserveError>((inventory, names))
        };
        let before = names().map(|(_, names)| names);
        if let Ok(before) = &before {
            self.note_transaction(step, before);
        }
        let mut common = ["-y", "--disablerepo=*", "--enablerepo=rocks-*"].map(ToOwned::to_owned).to_vec();
        if !self.is_live() {
            common.push(format!("--installroot={}", root.display()));
        }
        let mut outcome = Outcome::default();
        if !change.install.is_empty() {
            let mut args = common.clone();
            let near = self.near();
            if let Some((_, folder)) = &near {
                args.push(format!("--setopt=reposdir={}", folder.display()));
                // Round trips overlap.
                args.push("--setopt=max_parallel_downloads=20".to_owned());
            }
            args.extend(change.exclude.iter().map(|spec| format!("--exclude={spec}")));
            if change.exclude_weak {
                args.push("--setopt=install_weak_deps=0".to_owned());
            }
            if change.ignore_missing {
                args.push(if manager == "dnf5" { "--skip-unavailable" } else { "--setopt=strict=0" }.to_owned());
            }
            args.push("install".to_owned());
            args.push("--".to_owned());
            args.extend(change.install.iter().map(ToString::to_string));
            if manager == "microdnf" {
                args.retain(|arg| arg != "--");
            }
            outcome = self.manage(manager, "install", step, args);
            if let Some((gateway, _)) = near {
                outcome.findings.extend(gateway.close(!outcome.failed));
            }
        }
        if !outcome.failed && !change.remove.is_empty() {
            let mut args = common;
            args.extend(["remove".to_owned(), "--".to_owned()]);
            args.extend(change.remove.iter().cloned());
            let removed = self.manage(manager, "remove", step, args);
            outcome = Outcome { output: outcome.output + &removed.output, ..removed };
        }
        // Even a failed transaction may have brought something in.
        if let (Ok(before), Ok(after)) = (before, names()) {
            let (after, names) = after;
            outcome.installed = names.into_iter().filter(|name| !before.contains(name)).collect();
            if outcome.failed && outcome.installed.is_empty() {
                let hint = "nothing was installed; it is tried again".to_owned();
                outcome.findings.iter_mut().for_each(|found| found.hint = Some(hint.clone()));
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
