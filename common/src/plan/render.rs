//! A plan for people.

use super::{Action, LiveCommand, Plan, SelinuxMode, Step};

impl LiveCommand {
    /// What tells it from other commands of its kind.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::Timezone { .. } => "timezone".into(),
            Self::Lang(_) => "lang".into(),
            Self::Keyboard(_) => "keyboard".into(),
            Self::Hostname(_) => "hostname".into(),
            Self::Services { enabled, disabled } => {
                let mut words = Vec::new();
                if !enabled.is_empty() {
                    words.push(format!("--enabled={}", enabled.join(",")));
                }
                if !disabled.is_empty() {
                    words.push(format!("--disabled={}", disabled.join(",")));
                }
                format!("services {}", words.join(" "))
            }
            Self::Selinux(_) => "selinux".into(),
            Self::Firewall { .. } => "firewall".into(),
            Self::Group { name, .. } => format!("group {name}"),
            Self::User(user) => format!("user {}", user.name),
            Self::SshKey { user, key } => format!("sshkey {user} {key}"),
            Self::RootPassword(_) => "rootpw".into(),
        }
    }

    fn title(&self) -> String {
        let onto = |what: &str, value: &str| format!("set {what} to {value}");
        match self {
            Self::Timezone { zone, .. } => onto("the time zone", zone),
            Self::Lang(lang) => onto("the language", lang),
            Self::Keyboard(map) => onto("the keyboard", map),
            Self::Hostname(name) => onto("the host name", name),
            Self::Services { enabled, disabled } => {
                let mut parts = Vec::new();
                if !enabled.is_empty() {
                    parts.push(format!("enable {}", enabled.join(", ")));
                }
                if !disabled.is_empty() {
                    parts.push(format!("disable {}", disabled.join(", ")));
                }
                parts.join("; ")
            }
            Self::Selinux(mode) => onto(
                "SELinux",
                match mode {
                    SelinuxMode::Enforcing => "enforcing",
                    SelinuxMode::Permissive => "permissive",
                    SelinuxMode::Disabled => "disabled",
                },
            ),
            Self::Firewall { enabled: false, .. } => "turn the firewall off".into(),
            Self::Firewall { services, ports, .. } => {
                let open: Vec<&str> = services.iter().chain(ports).map(String::as_str).collect();
                format!("turn the firewall on, open: {}", open.join(", "))
            }
            Self::Group { name, .. } => format!("make group {name}"),
            Self::User(user) => format!("make user {}", user.name),
            Self::SshKey { user, .. } => format!("give {user} an SSH key"),
            Self::RootPassword(password) if password.locked => "lock root's password".into(),
            Self::RootPassword(_) => "set root's password".into(),
        }
    }
}

impl Step {
    /// What it does, in one line, nothing secret in it.
    #[must_use]
    pub fn title(&self) -> String {
        match &self.action {
            Action::Repositories(all) => {
                let names: Vec<&str> = all.iter().map(|repository| repository.id.as_str()).collect();
                format!("use repositories {}", names.join(", "))
            }
            Action::Packages(change) => {
                let mut parts = Vec::new();
                if !change.install.is_empty() {
                    let names: Vec<String> = change.install.iter().map(ToString::to_string).collect();
                    parts.push(format!("install {}", names.join(" ")));
                }
                if !change.remove.is_empty() {
                    parts.push(format!("remove {}", change.remove.join(" ")));
                }
                parts.join("; ")
            }
            Action::Command(command) => command.title(),
            Action::Script(run) => match &run.marker {
                Some(marker) => format!("run {} {}", marker.node, marker.section),
                None => format!("run %{} {}", run.kind.as_str(), run.digest.short()),
            },
        }
    }
}

impl Plan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// For people: `+` what is new, `~` what changes, each with why, then what is left out, then findings.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::new();
        for step in &self.steps {
            let sign = if step.reason.contains("changed") { '~' } else { '+' };
            out.push_str(&format!("{sign} {}\n    because {}\n", step.title(), step.reason));
        }
        for skipped in &self.skipped {
            out.push_str(&format!("  left out: {}\n    because {}\n", skipped.subject, skipped.reason));
        }
        for finding in &self.findings {
            out.push_str(&format!("{}: {} [{}]\n", finding.severity, finding.message, finding.code));
            if let Some(hint) = &finding.hint {
                out.push_str(&format!("    hint: {hint}\n"));
            }
        }
        out.push_str(&match self.steps.len() {
            0 => "nothing to do\n".to_owned(),
            1 => "1 step\n".to_owned(),
            n => format!("{n} steps\n"),
        });
        out
    }
}
