//! The packages that are installed, as one query of rpm tells them.

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::evr::Evr;
use crate::kickstart::PackageSpec;

/// The query format for `rpm -qa --qf`: fields separated by US (31), provided capabilities by RS (30), packages ended by LF.
pub const QUERY_FORMAT: &str =
    "%{NAME}\u{1f}%{EPOCHNUM}\u{1f}%{VERSION}\u{1f}%{RELEASE}\u{1f}%{ARCH}\u{1f}[%{PROVIDENAME}\u{1e}]\\n";

/// An installed package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// Its name.
    pub name: String,
    /// Its epoch, version and release.
    pub evr: Evr,
    /// Its architecture.
    pub arch: String,
}

/// The packages that are installed, and what they provide.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    packages: Vec<Installed>,
    /// Capability → packages that provide it. A package provides its name.
    provides: HashMap<String, Vec<usize>>,
}

impl Inventory {
    /// Reads what `rpm -qa --qf` [`QUERY_FORMAT`] printed. Lines that are none (messages of rpm's) are left out.
    #[must_use]
    pub fn parse(output: &str) -> Self {
        let mut inventory = Self::default();
        for line in output.lines() {
            let fields: Vec<&str> = line.split('\u{1f}').collect();
            let [name, epoch, version, release, arch, provides] = fields[..] else { continue };
            let index = inventory.packages.len();
            inventory.packages.push(Installed {
                name: name.to_owned(),
                evr: Evr {
                    epoch: epoch.parse().unwrap_or(0),
                    version: version.to_owned(),
                    release: Some(release.to_owned()),
                },
                arch: arch.to_owned(),
            });
            for capability in std::iter::once(name).chain(provides.split('\u{1e}')) {
                if !capability.is_empty() && capability != "(none)" {
                    let providers = inventory.provides.entry(capability.to_owned()).or_default();
                    if providers.last() != Some(&index) {
                        providers.push(index);
                    }
                }
            }
        }
        inventory
    }

    /// Takes note that the file `path` is there; its package is not known.
    pub fn add_path(&mut self, path: &str) {
        self.provides.entry(path.to_owned()).or_default();
    }

    /// How many packages there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packages.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packages.is_empty()
    }

    /// The names of all packages.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.packages.iter().map(|package| package.name.as_str())
    }

    /// Whether what `spec` names is there. Nothing can be said of groups and modules, nor of a pattern that fits
    /// something: repositories may have more.
    #[must_use]
    pub fn has(&self, spec: &PackageSpec) -> Option<bool> {
        match spec {
            PackageSpec::Package(name) => Some(self.find(name).is_some()),
            PackageSpec::Glob(pattern) if !self.names().any(|name| glob(pattern, name)) => Some(false),
            PackageSpec::Glob(_) | PackageSpec::Group { .. } | PackageSpec::Module(_) => None,
        }
    }

    /// The names of the packages that are what `spec` names; nothing can be said of groups and modules.
    #[must_use]
    pub fn named_by(&self, spec: &PackageSpec) -> BTreeSet<&str> {
        let name = |index: &usize| self.packages[*index].name.as_str();
        match spec {
            PackageSpec::Package(text) => self.find(text).unwrap_or_default().iter().map(name).collect(),
            PackageSpec::Glob(pattern) => self.names().filter(|name| glob(pattern, name)).collect(),
            PackageSpec::Group { .. } | PackageSpec::Module(_) => BTreeSet::new(),
        }
    }

    /// What is there of `text`, as `--whatprovides` has it: a name, `name.arch`, `name-version`,
    /// `name-version-release[.arch]`, with or without epoch, or anything that a package provides. Of a path that is
    /// there, the package may not be known.
    fn find(&self, text: &str) -> Option<Vec<usize>> {
        if let Some(providers) = self.provides.get(text) {
            return Some(providers.clone());
        }
        let fits = |name: &str, evr: Option<&str>, arch: Option<&str>| -> Vec<usize> {
            let is_it = |index: &&usize| {
                let package = &self.packages[**index];
                arch.is_none_or(|arch| package.arch == arch)
                    && evr.is_none_or(|evr| {
                        // A version belongs to the package of that name, not to what it provides.
                        let wanted = Evr::parse(evr);
                        package.name == name
                            && package.evr.version == wanted.version
                            && wanted.release.is_none_or(|release| package.evr.release.as_deref() == Some(&release))
                            && (!evr.contains(':') || package.evr.epoch == wanted.epoch)
                    })
            };
            self.provides.get(name).into_iter().flatten().filter(is_it).copied().collect()
        };
        let first = |found: Vec<Vec<usize>>| found.into_iter().find(|found| !found.is_empty());
        let versions = |text: &str, arch: Option<&str>| {
            // Where the name ends and the version begins cannot be seen: try one and two dashes from the right.
            let dashes = text.rmatch_indices('-').map(|(at, _)| at).take(2);
            first(dashes.map(|at| fits(&text[..at], Some(&text[at + 1..]), arch)).collect())
        };
        let with_arch = text.rsplit_once('.').and_then(|(rest, arch)| {
            let known = ["noarch", "x86_64", "i386", "i486", "i586", "i686", "aarch64", "ppc64le", "s390x", "riscv64"];
            let known = known.contains(&arch);
            known.then(|| first(vec![fits(rest, None, Some(arch))]).or_else(|| versions(rest, Some(arch))))?
        });
        with_arch.or_else(|| versions(text, None))
    }
}

/// Whether `text` fits the shell pattern `pattern`: `*`, `?` and `[...]`.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        let step = match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            Some('?') => Some(p + 1),
            Some('[') => class(&pattern[p..], text[t]).map(|length| p + length),
            Some(c) => (*c == text[t]).then_some(p + 1),
            None => None,
        };
        match (step, star) {
            (Some(next), _) => (p, t) = (next, t + 1),
            (None, Some((at, from))) => {
                star = Some((at, from + 1));
                (p, t) = (at + 1, from + 1);
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// The length of the class at the start of `pattern` if `c` is in it.
fn class(pattern: &[char], c: char) -> Option<usize> {
    let close = pattern.iter().skip(2).position(|c| *c == ']')? + 2;
    let (negated, set) = match pattern.get(1) {
        Some('!' | '^') => (true, &pattern[2..close]),
        _ => (false, &pattern[1..close]),
    };
    let mut found = false;
    let mut i = 0;
    while i < set.len() {
        if i + 2 < set.len() && set[i + 1] == '-' {
            found |= (set[i]..=set[i + 2]).contains(&c);
            i += 3;
        } else {
            found |= set[i] == c;
            i += 1;
        }
    }
    (found != negated).then_some(close + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_is_found_as_rpm_finds_it() {
        let line = |n: &str, e: &str, v: &str, r: &str, a: &str, p: &str| {
            format!("{n}\u{1f}{e}\u{1f}{v}\u{1f}{r}\u{1f}{a}\u{1f}{p}\n")
        };
        let output = line("vim", "2", "9.0.1", "3.el9", "x86_64", "vim\u{1e}vim-enhanced\u{1e}/usr/bin/vi\u{1e}")
            + "warning: something\n"
            + &line("gpg-pubkey", "0", "a", "b", "(none)", "(none)\u{1e}")
            + &line("kernel-core", "0", "5.14.0", "1", "x86_64", "");
        let inventory = Inventory::parse(&output);
        assert_eq!(inventory.len(), 3);
        let has = |text: &str| inventory.has(&PackageSpec::Package(text.into())) == Some(true);
        for there in [
            "vim",
            "vim-enhanced",
            "/usr/bin/vi",
            "vim.x86_64",
            "vim-enhanced.x86_64",
            "vim-9.0.1",
            "vim-9.0.1-3.el9",
            "vim-2:9.0.1",
            "vim-9.0.1-3.el9.x86_64",
            "kernel-core",
        ] {
            assert!(has(there), "{there}");
        }
        for missing in
            ["vi", "vim.i686", "vim-9.0", "vim-1:9.0.1", "vim-9.0.1-4.el9", "kernel", "vim-enhanced-9.0.1", ""]
        {
            assert!(!has(missing), "{missing}");
        }
        let named = |spec: PackageSpec| inventory.named_by(&spec).into_iter().collect::<Vec<_>>();
        for text in ["vim", "/usr/bin/vi", "vim-enhanced.x86_64", "vim-2:9.0.1"] {
            assert_eq!(named(PackageSpec::Package(text.into())), ["vim"], "{text}");
        }
        assert_eq!(named(PackageSpec::Glob("*-*".into())), ["gpg-pubkey", "kernel-core"]);
        assert!(
            named(PackageSpec::Package("vi".into())).is_empty() && named(PackageSpec::Module("vim".into())).is_empty()
        );
        let globs = |text: &str| inventory.has(&PackageSpec::Glob(text.into())).is_none();
        assert!(globs("kernel*") && globs("v?m") && globs("[a-l]*core") && globs("*"));
        assert!(!globs("x*") && !globs("[!a-z]*") && !globs("[") && !globs("vim?"));
    }
}
