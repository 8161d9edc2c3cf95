//! The package managers, and how each wants to be told what to do.
//!
//! They share most words and not all. dnf 5 knows some options only after the verb, and until 5.4.3 takes `--` for a
//! package; microdnf ends at every setting that it does not know, and cannot leave packages out. So nothing is ever
//! behind a `--`: what would be taken for an option is refused.

use super::PackageChange;
use crate::kickstart::PackageSpec;

/// A package manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// dnf up to 4, which is written in Python.
    Dnf4,
    /// dnf 5.
    Dnf5,
    /// microdnf, as it was before it became dnf 5.
    Microdnf,
    /// yum 3.
    Yum,
}

/// Where a transaction happens, and with what.
#[derive(Debug, Clone, Copy, Default)]
pub struct Setting<'s> {
    /// The root, if not the machine's own.
    pub root: Option<&'s str>,
    /// The folder of repositories, if not the usual one.
    pub repositories: Option<&'s str>,
    /// Those of [`Manager::SLOW_PLUGINS`] that are there.
    pub plugins: &'s [&'s str],
    /// Names of packages that nothing may take along.
    pub protected: &'s [&'s str],
}

/// Why a package manager cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManagerError {
    /// It would be taken for an option.
    #[error("`{0}` is no package: it begins as an option does")]
    Option(String),
    /// microdnf has no way to say so.
    #[error("microdnf cannot leave packages out, and the kickstart has `-{0}`: it takes dnf")]
    Exclude(String),
}

impl Manager {
    /// The programs, the preferred first.
    pub const NAMES: [&str; 4] = ["dnf5", "dnf", "microdnf", "yum"];
    /// Plugins of dnf 4 that look after repositories which are none of ours, and take a second for it.
    pub const SLOW_PLUGINS: [&str; 2] = ["subscription-manager", "product-id"];

    /// Which one the program `name` is, if its links end at a file called `file`: `dnf` and `yum` lead to another one
    /// each few years.
    #[must_use]
    pub fn of(name: &str, file: &str) -> Self {
        let known = |name: &str| match name {
            "dnf5" => Some(Self::Dnf5),
            "dnf" | "dnf4" | "dnf-3" => Some(Self::Dnf4),
            "microdnf" => Some(Self::Microdnf),
            "yum" => Some(Self::Yum),
            _ => None,
        };
        known(file).or_else(|| known(name)).unwrap_or(Self::Dnf4)
    }

    /// The arguments that install what `change` lacks, from our repositories alone.
    ///
    /// # Errors
    /// See [`ManagerError`].
    pub fn install(self, change: &PackageChange, setting: &Setting<'_>) -> Result<Vec<String>, ManagerError> {
        let mut args = self.begin(setting);
        // A repository that is asked for by name must be there.
        args.insert(2, "--enablerepo=rocks-*".to_owned());
        if let Some(folder) = setting.repositories {
            args.push(format!("--setopt=reposdir={folder}"));
            if matches!(self, Self::Dnf4 | Self::Dnf5) {
                // Round trips overlap.
                args.push("--setopt=max_parallel_downloads=20".to_owned());
            }
        }
        self.bring(&mut args, change, &[])?;
        Ok(args)
    }

    /// The arguments that remove packages, for which no repository is needed.
    ///
    /// # Errors
    /// See [`ManagerError`].
    pub fn remove(self, names: &[String], setting: &Setting<'_>) -> Result<Vec<String>, ManagerError> {
        let mut args = self.begin(setting);
        if matches!(self, Self::Dnf4 | Self::Dnf5) && !setting.protected.is_empty() {
            args.push(format!("--setopt=protected_packages={}", setting.protected.join(",")));
        }
        args.push("remove".to_owned());
        for name in names {
            args.push(no_option(name)?);
        }
        Ok(args)
    }

    /// What is to follow the caller's own options so that all that `change` comes to is put into `folder` and not
    /// installed.
    ///
    /// # Errors
    /// See [`ManagerError`].
    pub fn download(self, change: &PackageChange, folder: &str) -> Result<Vec<String>, ManagerError> {
        let mut args = Vec::new();
        if self == Self::Dnf5 {
            // `install` has no `--destdir`; and what was downloaded is the caller's, not the cache's.
            args.extend([format!("--setopt=destdir={folder}"), "--setopt=keepcache=1".to_owned()]);
            self.bring(&mut args, change, &["--downloadonly"])?;
        } else {
            args.extend(["--downloadonly".to_owned(), format!("--destdir={folder}")]);
            self.bring(&mut args, change, &[])?;
        }
        Ok(args)
    }

    fn begin(self, setting: &Setting<'_>) -> Vec<String> {
        let mut args = ["-y", "--disablerepo=*"].map(ToOwned::to_owned).to_vec();
        args.extend(setting.root.map(|root| format!("--installroot={root}")));
        if self == Self::Dnf4 && !setting.plugins.is_empty() {
            args.push(format!("--disableplugin={}", setting.plugins.join(",")));
        }
        args
    }

    /// `install` with what concerns the choice of packages; `own` are options of the command itself.
    fn bring(self, args: &mut Vec<String>, change: &PackageChange, own: &[&str]) -> Result<(), ManagerError> {
        if let (Self::Microdnf, Some(spec)) = (self, change.exclude.first()) {
            return Err(ManagerError::Exclude(word(spec)));
        }
        args.extend(change.exclude.iter().map(|spec| format!("--exclude={}", word(spec))));
        if change.exclude_weak && self != Self::Yum {
            args.push("--setopt=install_weak_deps=0".to_owned());
        }
        // yum goes on without what it does not find anyway, microdnf never does.
        if change.ignore_missing && self == Self::Dnf4 {
            args.push("--setopt=strict=0".to_owned());
        }
        args.push("install".to_owned());
        args.extend(own.iter().map(|option| (*option).to_owned()));
        if change.ignore_missing && self == Self::Dnf5 {
            args.push("--skip-unavailable".to_owned());
        }
        for spec in &change.install {
            args.push(no_option(&word(spec))?);
        }
        Ok(())
    }
}

/// A spec in the words of package managers, which know nothing of the options of groups.
fn word(spec: &PackageSpec) -> String {
    match spec {
        PackageSpec::Group { name, environment, .. } => format!("@{}{name}", if *environment { "^" } else { "" }),
        other => other.to_string(),
    }
}

fn no_option(word: &str) -> Result<String, ManagerError> {
    if word.starts_with('-') { Err(ManagerError::Option(word.to_owned())) } else { Ok(word.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change() -> PackageChange {
        let package = |name: &str| PackageSpec::Package(name.to_owned());
        let group = PackageSpec::Group { name: "core".into(), environment: false, options: vec!["--optional".into()] };
        PackageChange {
            install: vec![package("vim"), group],
            exclude: vec![package("emacs")],
            ignore_missing: true,
            exclude_weak: true,
            ..PackageChange::default()
        }
    }

    const SETTING: Setting<'_> = Setting {
        root: Some("/r"),
        repositories: Some("/near"),
        plugins: &["product-id"],
        protected: &["bash", "java"],
    };

    fn text(args: Result<Vec<String>, ManagerError>) -> String {
        args.expect("it can be told").join(" ")
    }

    #[test]
    fn each_is_told_to_install_in_its_own_words() {
        let ours = "-y --disablerepo=* --enablerepo=rocks-* --installroot=/r";
        assert_eq!(
            text(Manager::Dnf4.install(&change(), &SETTING)),
            format!(
                "{ours} --disableplugin=product-id --setopt=reposdir=/near --setopt=max_parallel_downloads=20 \
                 --exclude=emacs --setopt=install_weak_deps=0 --setopt=strict=0 install vim @core"
            )
        );
        assert_eq!(
            text(Manager::Dnf5.install(&change(), &SETTING)),
            format!(
                "{ours} --setopt=reposdir=/near --setopt=max_parallel_downloads=20 --exclude=emacs \
                 --setopt=install_weak_deps=0 install --skip-unavailable vim @core"
            )
        );
        assert_eq!(
            text(Manager::Yum.install(&change(), &SETTING)),
            format!("{ours} --setopt=reposdir=/near --exclude=emacs install vim @core")
        );
        assert_eq!(Manager::Microdnf.install(&change(), &SETTING), Err(ManagerError::Exclude("emacs".into())));
        let change = PackageChange { exclude: Vec::new(), ..change() };
        assert_eq!(
            text(Manager::Microdnf.install(&change, &SETTING)),
            format!("{ours} --setopt=reposdir=/near --setopt=install_weak_deps=0 install vim @core")
        );
        let plain = PackageChange { install: change.install[..1].to_vec(), ..PackageChange::default() };
        for manager in [Manager::Dnf4, Manager::Dnf5, Manager::Microdnf, Manager::Yum] {
            let args = text(manager.install(&plain, &Setting::default()));
            assert_eq!(args, "-y --disablerepo=* --enablerepo=rocks-* install vim", "{manager:?}");
        }
    }

    #[test]
    fn each_is_told_to_remove_and_what_is_wanted_stays() {
        let names = ["a".to_owned(), "b".to_owned()];
        let ours = "-y --disablerepo=* --installroot=/r";
        let protected = "--setopt=protected_packages=bash,java";
        assert_eq!(
            text(Manager::Dnf4.remove(&names, &SETTING)),
            format!("{ours} --disableplugin=product-id {protected} remove a b")
        );
        assert_eq!(text(Manager::Dnf5.remove(&names, &SETTING)), format!("{ours} {protected} remove a b"));
        for manager in [Manager::Microdnf, Manager::Yum] {
            assert_eq!(text(manager.remove(&names, &SETTING)), format!("{ours} remove a b"), "{manager:?}");
        }
    }

    #[test]
    fn packages_are_put_aside_by_both_dnfs() {
        assert_eq!(
            text(Manager::Dnf4.download(&change(), "/p")),
            "--downloadonly --destdir=/p --exclude=emacs --setopt=install_weak_deps=0 --setopt=strict=0 \
             install vim @core"
        );
        assert_eq!(
            text(Manager::Dnf5.download(&change(), "/p")),
            "--setopt=destdir=/p --setopt=keepcache=1 --exclude=emacs --setopt=install_weak_deps=0 \
             install --downloadonly --skip-unavailable vim @core"
        );
    }

    #[test]
    fn what_would_be_an_option_is_refused() {
        let install = vec![PackageSpec::Package("--installroot=/".into())];
        let change = PackageChange { install, ..PackageChange::default() };
        for manager in [Manager::Dnf4, Manager::Dnf5, Manager::Microdnf, Manager::Yum] {
            let refused = ManagerError::Option("--installroot=/".into());
            assert_eq!(manager.install(&change, &Setting::default()), Err(refused.clone()));
            assert_eq!(manager.download(&change, "/p"), Err(refused));
            let removed = manager.remove(&["-x".to_owned()], &Setting::default());
            assert_eq!(removed, Err(ManagerError::Option("-x".into())));
        }
    }

    #[test]
    fn links_say_which_one_it_is() {
        assert_eq!(Manager::of("dnf", "dnf5"), Manager::Dnf5);
        assert_eq!(Manager::of("microdnf", "dnf5"), Manager::Dnf5);
        assert_eq!([Manager::of("dnf", "dnf-3"), Manager::of("yum", "dnf-3")], [Manager::Dnf4; 2]);
        assert_eq!(Manager::of("yum", "yum"), Manager::Yum);
        assert_eq!(Manager::of("microdnf", "microdnf"), Manager::Microdnf);
        assert_eq!(Manager::of("dnf", "wrapper"), Manager::Dnf4);
    }
}
