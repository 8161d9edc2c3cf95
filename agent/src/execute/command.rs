//! Commands that a running system can honour. Each looks before it changes, and is safe to repeat.

use std::fs;
use std::path::{Path, PathBuf};

use rocks_common::diag::Severity;
use rocks_common::plan::{LiveCommand, Password, SelinuxMode, User};

use super::{Executor, Outcome, finding};
use crate::files;
use crate::process::{Task, is_there};

type Done = Result<Outcome, String>;

impl Executor<'_> {
    pub(super) fn command(&self, command: &LiveCommand) -> Outcome {
        let result = match command {
            LiveCommand::Timezone { zone, utc } => self.timezone(zone, *utc),
            LiveCommand::Lang(lang) => self.setting("etc/locale.conf", "LANG", lang),
            LiveCommand::Keyboard(map) => self.setting("etc/vconsole.conf", "KEYMAP", map),
            LiveCommand::Hostname(name) => self.hostname(name),
            LiveCommand::Services { enabled, disabled } => self.services(enabled, disabled),
            LiveCommand::Selinux(mode) => self.selinux(*mode),
            LiveCommand::Firewall { enabled, services, ports, trust } => {
                self.firewall(*enabled, services, ports, trust)
            }
            LiveCommand::Group { name, gid } => self.group(name, *gid),
            LiveCommand::User(user) => self.user(user),
            LiveCommand::SshKey { user, key } => self.ssh_key(user, key),
            LiveCommand::RootPassword(password) => self.password("root", password),
        };
        result.unwrap_or_else(|message| Outcome::failure(message + "\n"))
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.config.root.join(relative)
    }

    /// Runs a program and fails with what it printed.
    pub(super) fn call(&self, program: &str, args: &[&str], input: Option<String>) -> Result<String, String> {
        let task = Task::new(program, args).input(input.unwrap_or_default());
        match self.processes.run(&task) {
            Ok(finished) if finished.success() => Ok(finished.text()),
            Ok(finished) => Err(format!("{program}: {}", finished.text().trim())),
            Err(error) => Err(format!("{program}: {error}")),
        }
    }

    /// What cannot be applied here because the system has no such thing.
    fn not_here(subject: &str, what: &str) -> Done {
        let message = format!("{what} is not on this machine; nothing was done");
        Ok(Outcome {
            findings: vec![finding("not-here", Severity::Note, subject, message, None)],
            ..Outcome::default()
        })
    }

    fn write(&self, relative: &str, text: &str, mode: u32) -> Done {
        let path = self.path(relative);
        if fs::read_to_string(&path).is_ok_and(|there| there == text) {
            return Ok(Outcome::default());
        }
        files::write(&path, text.as_bytes(), mode).map_err(|error| format!("/{relative}: {error}"))?;
        Ok(Outcome::default())
    }

    /// Sets `KEY=value` in a file of such lines; other lines stay.
    fn setting(&self, relative: &str, key: &str, value: &str) -> Done {
        if value.contains(|c: char| c.is_control() || matches!(c, '"' | '\'' | '`' | '$' | '\\')) {
            return Err(format!("{value:?} cannot stand in /{relative}"));
        }
        let before = fs::read_to_string(self.path(relative)).unwrap_or_default();
        let begins = format!("{key}=");
        let mut text: String = before
            .lines()
            .filter(|line| !line.trim_start().starts_with(&begins))
            .map(|line| format!("{line}\n"))
            .collect();
        text.push_str(&format!("{key}={value}\n"));
        if before.lines().any(|line| line == format!("{key}={value}")) {
            return Ok(Outcome::default());
        }
        self.write(relative, &text, 0o644)
    }

    fn timezone(&self, zone: &str, utc: bool) -> Done {
        let safe =
            !zone.is_empty() && !zone.starts_with('/') && !zone.split('/').any(|part| part == ".." || part.is_empty());
        if !safe || !self.path("usr/share/zoneinfo").join(zone).exists() {
            return Err(format!("there is no time zone `{zone}`"));
        }
        let link = self.path("etc/localtime");
        let target = Path::new("../usr/share/zoneinfo").join(zone);
        if fs::read_link(&link).ok().as_deref() != Some(&target) {
            let beside = self.path("etc/.localtime.new");
            let _ = fs::remove_file(&beside);
            std::os::unix::fs::symlink(&target, &beside)
                .and_then(|()| fs::rename(&beside, &link))
                .map_err(|error| format!("/etc/localtime: {error}"))?;
        }
        if self.path("etc/timezone").exists() {
            self.write("etc/timezone", &format!("{zone}\n"), 0o644)?;
        }
        let clock = fs::read_to_string(self.path("etc/adjtime")).unwrap_or_else(|_| "0.0 0 0.0\n0\nUTC\n".to_owned());
        let mut lines: Vec<&str> = clock.lines().take(2).collect();
        lines.push(if utc { "UTC" } else { "LOCAL" });
        self.write("etc/adjtime", &(lines.join("\n") + "\n"), 0o644)
    }

    fn hostname(&self, name: &str) -> Done {
        let valid = rocks_common::ids::HostName::new(name).map_err(|error| error.to_string())?;
        self.write("etc/hostname", &format!("{valid}\n"), 0o644)?;
        if self.is_live() {
            rustix::system::sethostname(valid.as_str().as_bytes()).map_err(|error| format!("sethostname: {error}"))?;
        }
        Ok(Outcome::default())
    }

    fn services(&self, enabled: &[String], disabled: &[String]) -> Done {
        let root = format!("--root={}", self.config.root.display());
        let mut outcome = Outcome::default();
        for (verb, units) in [("enable", enabled), ("disable", disabled)] {
            for unit in units {
                let done = if unit.starts_with('-') {
                    Err(format!("`{unit}` is not a unit"))
                } else if self.is_live() && self.systemd_runs() {
                    self.call("systemctl", &[verb, "--now", "--", unit], None)
                } else {
                    self.call("systemctl", &[&root, verb, "--", unit], None)
                };
                // One that cannot be switched is no reason to leave the others as they are.
                if let Err(error) = done {
                    if verb == "disable" && is_unknown_unit(&error) {
                        let message = "there is no such unit to disable; nothing was done".to_owned();
                        outcome.findings.push(finding("no-such-unit", Severity::Warning, unit, message, None));
                        continue;
                    }
                    outcome.failed = true;
                    outcome.output.push_str(&format!("{error}\n"));
                } else if self.is_live() && !self.systemd_runs() {
                    let message = format!("systemd does not run here: {verb}d, and neither started nor stopped");
                    outcome.findings.push(finding("no-service-manager", Severity::Note, unit, message, None));
                }
            }
        }
        Ok(outcome)
    }

    fn selinux(&self, mode: SelinuxMode) -> Done {
        if !self.path("etc/selinux/config").exists() {
            return Self::not_here("selinux", "SELinux");
        }
        let word = match mode {
            SelinuxMode::Enforcing => "enforcing",
            SelinuxMode::Permissive => "permissive",
            SelinuxMode::Disabled => "disabled",
        };
        self.setting("etc/selinux/config", "SELINUX", word)?;
        let mut outcome = Outcome::default();
        if self.is_live() && Path::new("/sys/fs/selinux/enforce").exists() && mode != SelinuxMode::Disabled {
            self.call("setenforce", &[if mode == SelinuxMode::Enforcing { "1" } else { "0" }], None)?;
        } else if self.is_live() {
            let message = format!("`{word}` takes effect with the next boot");
            outcome.findings.push(finding("needs-reboot", Severity::Note, "selinux", message, None));
        }
        Ok(outcome)
    }

    fn firewall(&self, enabled: bool, services: &[String], ports: &[String], trust: &[String]) -> Done {
        let root = &self.config.root;
        if !is_there(root, "firewall-offline-cmd") {
            return Self::not_here("firewall", "firewalld");
        }
        let live = self.is_live();
        if !enabled {
            return self.services(&[], &["firewalld".to_owned()]);
        }
        let mut args: Vec<String> = Vec::new();
        args.extend(services.iter().map(|s| format!("--add-service={s}")));
        args.extend(ports.iter().map(|p| format!("--add-port={}", p.replace(':', "/"))));
        let folder = root.display().to_string();
        let offline = |args: &[String]| {
            let mut words: Vec<&str> = args.iter().map(String::as_str).collect();
            if live {
                self.call("firewall-offline-cmd", &words, None)
            } else {
                words.splice(0..0, [folder.as_str(), "firewall-offline-cmd"]);
                self.call("chroot", &words, None)
            }
        };
        if !args.is_empty() {
            offline(&args)?;
        }
        for interface in trust {
            offline(&["--zone=trusted".to_owned(), format!("--add-interface={interface}")])?;
        }
        let outcome = self.services(&["firewalld".to_owned()], &[])?;
        if live && !outcome.failed {
            self.call("firewall-cmd", &["--reload"], None)?;
        }
        Ok(outcome)
    }

    /// The fields of `name`'s line in `/etc/passwd` or `/etc/group`.
    pub(super) fn entry(&self, file: &str, name: &str) -> Option<Vec<String>> {
        let text = fs::read_to_string(self.path(file)).ok()?;
        let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
        Some(line.split(':').map(ToOwned::to_owned).collect())
    }

    /// `program` on the accounts of the machine that is worked on.
    fn account(&self, program: &str, args: &[String]) -> Result<String, String> {
        let root = self.config.root.display().to_string();
        let mut words: Vec<&str> = if self.is_live() { Vec::new() } else { vec!["--root", &root] };
        words.extend(args.iter().map(String::as_str));
        self.call(program, &words, None)
    }

    fn group(&self, name: &str, gid: Option<u32>) -> Done {
        let wanted = gid.map(|gid| gid.to_string());
        match self.entry("etc/group", name) {
            Some(fields) if wanted.is_none() || fields.get(2) == wanted.as_ref() => {}
            there => {
                let mut args: Vec<String> = wanted.into_iter().flat_map(|gid| ["-g".to_owned(), gid]).collect();
                args.extend(["--".to_owned(), name.to_owned()]);
                self.account(if there.is_some() { "groupmod" } else { "groupadd" }, &args)?;
            }
        }
        Ok(Outcome::default())
    }

    /// Makes the group with the number `gid` if there is none, with the user's name, as an installer does.
    fn primary_group(&self, user: &str, gid: u32) -> Result<(), String> {
        let wanted = gid.to_string();
        let groups = fs::read_to_string(self.path("etc/group")).unwrap_or_default();
        let is_there = groups.lines().any(|line| line.split(':').nth(2) == Some(&wanted))
            // Not all groups of a machine that runs are in its file.
            || self.is_live() && self.call("getent", &["group", &wanted], None).is_ok();
        if is_there {
            return Ok(());
        }
        if self.entry("etc/group", user).is_some() {
            return Err(format!("there is no group with the number {gid}, and the group `{user}` has another"));
        }
        self.group(user, Some(gid)).map(drop)
    }

    fn user(&self, user: &User) -> Done {
        let there = self.entry("etc/passwd", &user.name).is_some();
        for group in &user.groups {
            if self.entry("etc/group", group).is_none() {
                self.group(group, None)?;
            }
        }
        if let Some(gid) = user.gid {
            self.primary_group(&user.name, gid)?;
        }
        let mut args: Vec<String> = Vec::new();
        let mut option =
            |flag: &str, value: Option<String>| args.extend(value.into_iter().flat_map(|v| [flag.to_owned(), v]));
        option("-u", user.uid.map(|uid| uid.to_string()));
        option("-g", user.gid.map(|gid| gid.to_string()));
        option("-d", user.home.clone());
        option("-s", user.shell.clone());
        option("-c", user.gecos.clone());
        if !user.groups.is_empty() {
            option("-G", Some(user.groups.join(",")));
        }
        if there && !user.groups.is_empty() {
            args.push("-a".to_owned());
        }
        if !there {
            args.push("-m".to_owned());
        }
        if !there || args.len() > 1 {
            args.extend(["--".to_owned(), user.name.clone()]);
            self.account(if there { "usermod" } else { "useradd" }, &args)?;
        }
        match &user.password {
            Some(password) => self.password(&user.name, password),
            None => Ok(Outcome::default()),
        }
    }

    /// Passwords go in by standard input, never by arguments.
    fn password(&self, user: &str, password: &Password) -> Done {
        if !password.text.is_empty() {
            if password.text.contains(['\n', ':']) && !password.crypted {
                return Err("the password has a character that chpasswd cannot carry".to_owned());
            }
            let root = self.config.root.display().to_string();
            let mut args: Vec<&str> = if password.crypted { vec!["-e"] } else { Vec::new() };
            if !self.is_live() {
                args.extend(["--root", &root]);
            }
            self.call("chpasswd", &args, Some(format!("{user}:{}\n", password.text)))?;
        }
        if password.locked {
            self.account("usermod", &["-L".to_owned(), "--".to_owned(), user.to_owned()])?;
        }
        Ok(Outcome::default())
    }
}

/// Whether systemctl complains that it does not know a unit, in the words of any of its ages.
fn is_unknown_unit(complaint: &str) -> bool {
    let has = |words: &str| complaint.contains(words);
    let is_file = has("Failed to execute operation: No such file") || has("Failed to disable unit: No such file");
    is_file || has("nit") && (has("does not exist") || has("not loaded") || has("not found"))
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
