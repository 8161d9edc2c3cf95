//! Commands to what a running system can do about them.

use super::{LiveCommand, Password, Repository, RepositoryLocation, SelinuxMode, User};
use crate::kickstart::{Command, option_value};

/// What a command is to a running system.
pub(super) enum Meaning {
    /// It can be applied; each with a key that tells it from others of its kind.
    Live(Vec<(String, LiveCommand)>),
    /// It names a repository.
    Repository(Repository),
    /// Only an installer can do it; a change is worth a finding.
    Installer,
    /// It concerns nothing but the installation itself.
    Nothing,
    /// It should be live, and its arguments cannot be understood.
    Bad(String),
    /// Nobody knows it.
    Unknown,
}

pub(super) fn meaning(command: &Command, frontend: Option<&str>) -> Meaning {
    let args = &command.args;
    let option = |name: &str| option_value(args, name);
    let flag = |name: &str| args.iter().any(|arg| arg == name);
    // The words that are no options; an option's value after a blank is not told from them, so options use `=`.
    let plain: Vec<&String> = args.iter().filter(|arg| !arg.starts_with("--")).collect();
    let list = |value: Option<String>| -> Vec<String> {
        value
            .iter()
            .flat_map(|v| v.split(','))
            .map(str::trim)
            .filter(|v| !v.is_empty())
            .map(ToOwned::to_owned)
            .collect()
    };
    let live = |live: LiveCommand| Meaning::Live(vec![(live.key(), live)]);
    let missing = |what: &str| Meaning::Bad(format!("`{}` has no {what}", command.name));
    match command.name.as_str() {
        "timezone" => match plain.first() {
            Some(zone) => live(LiveCommand::Timezone { zone: (*zone).clone(), utc: flag("--utc") || flag("--isUtc") }),
            None => missing("zone"),
        },
        "lang" => plain.first().map_or_else(|| missing("locale"), |lang| live(LiveCommand::Lang((*lang).clone()))),
        "keyboard" => match option("--vckeymap").or_else(|| plain.first().map(|map| (*map).clone())) {
            Some(map) => live(LiveCommand::Keyboard(map)),
            None => missing("keymap"),
        },
        "network" => match option("--hostname") {
            Some(name) => live(LiveCommand::Hostname(name)),
            None => Meaning::Nothing,
        },
        "services" => {
            let (enabled, disabled) = (list(option("--enabled")), list(option("--disabled")));
            live(LiveCommand::Services { enabled, disabled })
        }
        "selinux" => {
            let mode = if flag("--disabled") {
                SelinuxMode::Disabled
            } else if flag("--permissive") {
                SelinuxMode::Permissive
            } else {
                SelinuxMode::Enforcing
            };
            live(LiveCommand::Selinux(mode))
        }
        "firewall" => {
            let enabled = !(flag("--disabled") || flag("--disable"));
            let mut services = list(option("--service"));
            for (name, service) in [("--ssh", "ssh"), ("--http", "http"), ("--ftp", "ftp"), ("--telnet", "telnet")] {
                if flag(name) {
                    services.push(service.to_owned());
                }
            }
            services.sort();
            services.dedup();
            live(LiveCommand::Firewall {
                enabled,
                services,
                ports: list(option("--port")),
                trust: list(option("--trust")),
            })
        }
        "group" => match option("--name") {
            Some(name) => live(LiveCommand::Group { gid: option("--gid").and_then(|g| g.parse().ok()), name }),
            None => missing("--name"),
        },
        "user" => match option("--name") {
            Some(name) => {
                let password = option("--password");
                let locked = flag("--lock");
                let password = (password.is_some() || locked).then(|| Password {
                    text: password.unwrap_or_default(),
                    crypted: flag("--iscrypted"),
                    locked,
                });
                let user = User {
                    uid: option("--uid").and_then(|u| u.parse().ok()),
                    gid: option("--gid").and_then(|g| g.parse().ok()),
                    groups: list(option("--groups")),
                    home: option("--homedir"),
                    shell: option("--shell"),
                    gecos: option("--gecos"),
                    password,
                    name: name.clone(),
                };
                live(LiveCommand::User(user))
            }
            None => missing("--name"),
        },
        "sshkey" => match (option("--username"), plain.iter().find(|word| word.contains(' '))) {
            (Some(user), Some(key)) => live(LiveCommand::SshKey { user, key: (*key).clone() }),
            (None, _) => missing("--username"),
            (_, None) => missing("key in quotes"),
        },
        "rootpw" => {
            let text = plain.first().map(|text| (*text).clone()).unwrap_or_default();
            let locked = flag("--lock");
            if text.is_empty() && !locked {
                return missing("password");
            }
            live(LiveCommand::RootPassword(Password { text, crypted: flag("--iscrypted"), locked }))
        }
        "url" | "repo" => {
            let location = option("--baseurl")
                .or_else(|| option("--url"))
                .map(RepositoryLocation::BaseUrl)
                .or_else(|| option("--mirrorlist").map(RepositoryLocation::MirrorList))
                .or_else(|| option("--metalink").map(RepositoryLocation::Metalink));
            let Some(location) = location else { return missing("address") };
            let id = option("--name").unwrap_or_else(|| "base".to_owned());
            let id = id
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' })
                .collect();
            let own = matches!((&location, frontend), (RepositoryLocation::BaseUrl(url), Some(frontend))
                if url.strip_prefix(frontend.trim_end_matches('/')).is_some_and(|rest| rest.starts_with('/')));
            Meaning::Repository(Repository {
                id,
                location,
                cost: option("--cost").and_then(|c| c.parse().ok()),
                exclude: list(option("--excludepkgs")),
                include: list(option("--includepkgs")),
                proxy: option("--proxy"),
                no_verify_tls: flag("--noverifyssl"),
                frontend: own,
            })
        }
        "part" | "partition" | "autopart" | "clearpart" | "bootloader" | "raid" | "volgroup" | "logvol" | "btrfs"
        | "reqpart" | "mount" | "ignoredisk" | "zipl" | "fcoe" | "iscsi" | "iscsiname" | "nvdimm" | "zfcp"
        | "snapshot" | "ostreesetup" | "ostreecontainer" | "bootc" | "liveimg" | "authselect" | "authconfig"
        | "auth" | "realm" | "timesource" | "module" | "syspurpose" | "rhsm" | "xconfig" => Meaning::Installer,
        "text"
        | "cmdline"
        | "graphical"
        | "reboot"
        | "poweroff"
        | "halt"
        | "shutdown"
        | "skipx"
        | "firstboot"
        | "zerombr"
        | "eula"
        | "install"
        | "cdrom"
        | "nfs"
        | "harddrive"
        | "hmc"
        | "logging"
        | "mediacheck"
        | "rescue"
        | "sshpw"
        | "vnc"
        | "rdp"
        | "updates"
        | "driverdisk"
        | "interactive"
        | "upgrade"
        | "key"
        | "langsupport"
        | "mouse"
        | "lilo"
        | "lilocheck"
        | "device"
        | "deviceprobe"
        | "dmraid"
        | "method"
        | "monitor"
        | "multipath"
        | "autostep"
        | "unsupported_hardware" => Meaning::Nothing,
        _ => Meaning::Unknown,
    }
}
