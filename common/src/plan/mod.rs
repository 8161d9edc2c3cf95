//! The plan: what the agent will do, in order, and why.
//!
//! Planning is a pure function of the desired kickstart, what was applied before, what was observed, and the policy. No
//! clock, no disk, no network. The result is data that can be printed, stored, compared and tested; executing it makes no
//! choices of its own.

mod inventory;
mod live;
mod make;
mod manager;
mod render;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use inventory::{Installed, Inventory, QUERY_FORMAT};
pub use make::plan;
pub use manager::{Manager, ManagerError, Setting};

use crate::ids::Digest;
use crate::kickstart::{PackageSpec, ScriptKind};
use crate::marker::Marker;
use crate::wire::Finding;

/// What to do to get from what is to what the kickstart says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The kickstart that it leads to.
    pub kickstart: Digest,
    /// The steps, in the order in which they run.
    pub steps: Vec<Step>,
    /// The repositories that the kickstart names, from which packages are installed.
    #[serde(skip)]
    pub repositories: Vec<Repository>,
    /// What the kickstart asks for and the plan leaves out on purpose.
    pub skipped: Vec<Skipped>,
    /// What the administrator should know (`needs-reprovision`).
    pub findings: Vec<Finding>,
}

/// One action with a reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its identity: the same action planned again has the same id, so that a journal of an earlier run still counts.
    pub id: StepId,
    /// What it does.
    pub action: Action,
    /// Why, in words, naming the node file or command that asked for it.
    pub reason: String,
    /// The steps of this plan that must have succeeded before it.
    pub after: Vec<StepId>,
}

/// A step's identity: a digest of its action.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StepId(pub String);

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Make the package manager know exactly these repositories of ours.
    Repositories(Vec<Repository>),
    /// One package transaction.
    Packages(PackageChange),
    /// Apply one command to the running system.
    Command(LiveCommand),
    /// Run one script section.
    Script(ScriptRun),
}

/// A repository that the kickstart names (`repo`, `url`), or the frontend's mirror.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// Its id, fit for a file name.
    pub id: String,
    /// `baseurl`, `metalink` or `mirrorlist`.
    pub location: RepositoryLocation,
    /// `--cost=`.
    pub cost: Option<u32>,
    /// `--excludepkgs=`.
    pub exclude: Vec<String>,
    /// `--includepkgs=`.
    pub include: Vec<String>,
    /// `--proxy=`.
    pub proxy: Option<String>,
    /// Whether its certificate is not to be checked (`--noverifyssl`).
    pub no_verify_tls: bool,
    /// Whether it is the frontend's own mirror, reached with the agent's certificate.
    pub frontend: bool,
}

/// Where a repository is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RepositoryLocation {
    /// `--baseurl=`.
    BaseUrl(String),
    /// `--mirrorlist=`.
    MirrorList(String),
    /// `--metalink=`.
    Metalink(String),
}

/// One package transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageChange {
    /// What is missing.
    pub install: Vec<PackageSpec>,
    /// What the agent installed and the kickstart no longer names, if policy allows to remove.
    pub remove: Vec<String>,
    /// With `remove`: what the kickstart names, and what must not be taken along.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep: Vec<PackageSpec>,
    /// What must not come in (`-name`).
    pub exclude: Vec<PackageSpec>,
    /// `--ignoremissing`: what no repository has is a finding, not a failure.
    pub ignore_missing: bool,
    /// Whether weak dependencies stay out (`--exclude-weakdeps`).
    pub exclude_weak: bool,
}

impl PackageChange {
    /// What of the packages that are there now was asked for, and was not there `before`.
    #[must_use]
    pub fn brought_in(&self, before: &BTreeSet<String>, after: &Inventory) -> Vec<String> {
        let asked: BTreeSet<&str> = self.install.iter().flat_map(|spec| after.named_by(spec)).collect();
        asked.into_iter().filter(|name| !before.contains(*name)).map(ToOwned::to_owned).collect()
    }
}

/// A command that a running system can honour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LiveCommand {
    /// `timezone ZONE [--utc]`.
    Timezone {
        /// A zone of the tz database.
        zone: String,
        /// Whether the hardware clock is in UTC.
        utc: bool,
    },
    /// `lang LOCALE`.
    Lang(String),
    /// `keyboard`: the virtual console's keymap.
    Keyboard(String),
    /// `network --hostname=`.
    Hostname(String),
    /// `services --enabled= --disabled=`.
    Services {
        /// Units to enable and start.
        enabled: Vec<String>,
        /// Units to disable and stop.
        disabled: Vec<String>,
    },
    /// `selinux`.
    Selinux(SelinuxMode),
    /// `firewall`.
    Firewall {
        /// Whether it is on.
        enabled: bool,
        /// Services by firewalld's names.
        services: Vec<String>,
        /// `port:protocol`.
        ports: Vec<String>,
        /// Interfaces that are trusted.
        trust: Vec<String>,
    },
    /// `group`.
    Group {
        /// Its name.
        name: String,
        /// Its number.
        gid: Option<u32>,
    },
    /// `user`.
    User(User),
    /// `sshkey --username=`.
    SshKey {
        /// Whose.
        user: String,
        /// One line of `authorized_keys`.
        key: String,
    },
    /// `rootpw`.
    RootPassword(Password),
}

/// SELinux's mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SelinuxMode {
    /// `--enforcing`.
    Enforcing,
    /// `--permissive`.
    Permissive,
    /// `--disabled`: takes effect with the next boot.
    Disabled,
}

/// `user`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: Option<u32>,
    /// Its group's number.
    pub gid: Option<u32>,
    /// Further groups.
    pub groups: Vec<String>,
    /// Home directory.
    pub home: Option<String>,
    /// Shell.
    pub shell: Option<String>,
    /// The comment field.
    pub gecos: Option<String>,
    /// Password.
    pub password: Option<Password>,
}

/// A password as a kickstart gives it. It is secret: it prints as dots.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Password {
    /// The text, or its crypt(3) form.
    pub text: String,
    /// `--iscrypted`.
    pub crypted: bool,
    /// `--lock`.
    pub locked: bool,
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Password(.., crypted: {}, locked: {})", self.crypted, self.locked)
    }
}

/// One script to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptRun {
    /// When an installer would run it.
    pub kind: ScriptKind,
    /// Its interpreter.
    pub interpreter: String,
    /// Its body.
    pub body: String,
    /// `--log=`.
    pub log: Option<String>,
    /// `--erroronfail`: what comes after it waits for its success.
    pub error_on_fail: bool,
    /// The section's digest: its identity in the journal.
    pub digest: Digest,
    /// Where it comes from.
    pub marker: Option<Marker>,
    /// Its line in the kickstart, from 1.
    pub line: u32,
}

/// Something that the kickstart asks for and the plan leaves out on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// What: `base/nodes/grub.xml post.1`.
    pub subject: String,
    /// Why.
    pub reason: String,
}

/// What the agent has applied so far. It is derived from its journal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Applied {
    /// The kickstart that was last applied to its end.
    pub kickstart: Option<Digest>,
    /// The commands that were applied: key (`timezone`, `user alice`) → digest of the action.
    pub commands: BTreeMap<String, String>,
    /// The script sections that were run to their end.
    pub scripts: Vec<RanScript>,
    /// The packages that the agent itself brought in because a kickstart asked for them, by name. What came along with
    /// them is the package manager's to collect. Agents from before kept everything under `packages`, which nobody can
    /// tell apart any more.
    #[serde(rename = "asked")]
    pub packages: BTreeSet<String>,
    /// The groups, modules and patterns that were installed: whether all of them is there cannot be seen in the package
    /// database.
    pub groups: BTreeSet<String>,
    /// Whether `groups` has the patterns, too: agents from before noted none.
    pub patterns: bool,
    /// What only an installer can do, as it was when the machine was made or first seen: command → its lines.
    pub installer: Option<BTreeMap<String, Vec<String>>>,
}

/// A script section that was run to its end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RanScript {
    /// The node file that it is from, if the kickstart said so.
    pub node: Option<String>,
    /// Its number there: `post.2`.
    pub section: Option<String>,
    /// Its digest.
    pub digest: Digest,
}

/// What the administrator of the instance allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Whether packages that the agent installed and the kickstart no longer names are removed.
    pub remove_packages: bool,
    /// Node names whose sections are never run on a running machine (the reconfigure-exclusion list).
    pub exclude_nodes: BTreeSet<String>,
    /// The frontend's address: a repository below it is reached with the agent's certificate.
    pub frontend: Option<String>,
    /// Whether the machine is being made and does not run yet. Then every section is run as an installer would (`%pre`, `%pre-install`,
    /// `%post`, no node left out), and packages are left to whoever makes the machine.
    #[serde(skip)]
    pub installer: bool,
}

impl Default for Policy {
    /// Nothing is removed; nodes that would break a running cloud instance are left out (rocks-xml 15, option 2).
    fn default() -> Self {
        let exclude =
            ["grub", "grub-client", "bootloader", "partition", "partitions-save", "routes-client", "ifup", "disk"];
        Self {
            remove_packages: false,
            exclude_nodes: exclude.into_iter().map(ToOwned::to_owned).collect(),
            frontend: None,
            installer: false,
        }
    }
}
