//! The commands of a kickstart: which there are today, which there were, and what took their place.
//!
//! Drawn from pykickstart's handlers of RHEL 8, 9 and 10 and Fedora; Amazon Linux 2023 speaks RHEL 9's.

/// What is known of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Installers of today know it.
    Current,
    /// No installer of today knows it; what to write instead.
    Obsolete(&'static str),
    /// No installer ever knew it.
    Unknown,
}

/// Commands that installers of today know, by name.
const CURRENT: &[&str] = &[
    "authselect",
    "autopart",
    "bootc",
    "bootloader",
    "btrfs",
    "cdrom",
    "clearpart",
    "cmdline",
    "eula",
    "fcoe",
    "firewall",
    "firstboot",
    "graphical",
    "group",
    "halt",
    "harddrive",
    "hmc",
    "ignoredisk",
    "iscsi",
    "iscsiname",
    "keyboard",
    "lang",
    "liveimg",
    "logging",
    "logvol",
    "mediacheck",
    "module",
    "mount",
    "network",
    "nfs",
    "nvdimm",
    "ostreecontainer",
    "ostreesetup",
    "part",
    "partition",
    "poweroff",
    "raid",
    "rdp",
    "realm",
    "reboot",
    "repo",
    "reqpart",
    "rescue",
    "rhsm",
    "rootpw",
    "selinux",
    "services",
    "shutdown",
    "skipx",
    "snapshot",
    "sshkey",
    "sshpw",
    "syspurpose",
    "text",
    "timesource",
    "timezone",
    "updates",
    "url",
    "user",
    "vnc",
    "volgroup",
    "xconfig",
    "zerombr",
    "zfcp",
    "zipl",
];

/// Commands that older installers knew, with what to do about them.
const OBSOLETE: &[(&str, &str)] = &[
    ("auth", "use <authselect>"),
    ("authconfig", "use <authselect>"),
    ("autostep", "leave it out"),
    ("device", "leave it out"),
    ("deviceprobe", "leave it out"),
    ("dmraid", "use <raid>"),
    ("driverdisk", "use the boot option inst.dd"),
    ("install", "leave it out: installing is what a kickstart does"),
    ("interactive", "leave it out"),
    ("key", "leave it out"),
    ("langsupport", "use <lang> with --addsupport"),
    ("lilo", "use <bootloader>"),
    ("lilocheck", "leave it out"),
    ("method", "use <url> or <cdrom>"),
    ("monitor", "leave it out"),
    ("mouse", "leave it out"),
    ("multipath", "leave it out"),
    ("unsupported_hardware", "leave it out"),
    ("upgrade", "leave it out"),
];

/// What is known of `command`.
#[must_use]
pub fn standing(command: &str) -> Standing {
    if CURRENT.binary_search(&command).is_ok() {
        return Standing::Current;
    }
    match OBSOLETE.iter().find(|(name, _)| *name == command) {
        Some((_, instead)) => Standing::Obsolete(instead),
        None => Standing::Unknown,
    }
}

/// The known command that `word` was perhaps meant to be.
#[must_use]
pub fn similar_to(word: &str) -> Option<&'static str> {
    let ratio = |name: &&str| similar::TextDiff::from_chars(word, *name).ratio();
    let best = CURRENT.iter().max_by(|a, b| ratio(a).total_cmp(&ratio(b)))?;
    (ratio(best) > 0.7).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_can_be_searched() {
        assert!(CURRENT.is_sorted());
        assert_eq!(standing("timezone"), Standing::Current);
        assert!(matches!(standing("lilo"), Standing::Obsolete(_)));
        assert_eq!(standing("timzone"), Standing::Unknown);
        assert_eq!(similar_to("timzone"), Some("timezone"));
        assert_eq!(similar_to("qqq"), None);
    }
}
