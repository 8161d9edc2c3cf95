//! The tree of the image: its packages, what its kickstart does, and what does not belong into an image taken out again.
//!
//! All of it happens in a mount namespace of our own, so nothing has to be unmounted.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rocks_common::kickstart::PackageSpec;
use rocks_common::plan::{Manager, PackageChange, Repository, RepositoryLocation};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use rustix::mount::{MountFlags, mount, mount_bind};

use super::{BuildError, Order};
use crate::process;

/// How long the packages may take.
const PACKAGES: Duration = Duration::from_secs(2 * 3600);
/// How long one of the other programs may take; the agent limits each script by itself.
const PROGRAM: Duration = Duration::from_secs(3600);
/// Most bytes of a list of packages.
const LIST: usize = 16 << 20;

/// What an installer would bring along by itself: the least that a machine is, what it boots with, and the agent.
const PLATFORM: [&str; 10] = [
    "system-release",
    "bash",
    "coreutils",
    "util-linux",
    "systemd",
    "iproute",
    "dnf",
    "kernel",
    "e2fsprogs",
    "rocks-agent",
];
/// Boot loaders by the names of current distributions; what the mirror does not have is left out.
const LOADERS_X86: [&str; 6] =
    ["grub2-pc", "grub2-pc-modules", "grub2-tools", "grub2-efi-x64", "grub2-efi-x64-modules", "shim-x64"];
const LOADERS_ARM: [&str; 4] = ["grub2-tools", "grub2-efi-aa64", "grub2-efi-aa64-modules", "shim-aa64"];

/// What sets the network up, as an installer would bring it along: the first that the mirror has. systemd may have networkd in it.
const NETWORK: [&str; 2] = ["NetworkManager", "systemd-networkd"];

/// What is never part of an image: it belongs to a running machine, or tells when and how the image was made.
const NOT_IN_IMAGES: [&str; 16] = [
    "var/cache/dnf",
    "var/cache/libdnf5",
    "var/lib/dnf/history.sqlite",
    "var/lib/dnf/history.sqlite-shm",
    "var/lib/dnf/history.sqlite-wal",
    "var/lib/systemd/random-seed",
    "var/lib/dbus/machine-id",
    "var/lib/rocks-agent",
    "var/log/dnf.log",
    "var/log/dnf.librepo.log",
    "var/log/dnf.rpm.log",
    "var/log/dnf5.log",
    "var/log/hawkey.log",
    "root/.bash_history",
    "mnt/sysimage",
    "etc/.pwd.lock",
];
/// rpm's databases; the files beside them that SQLite keeps while they are open are empty, and differ each time.
const DATABASES: [&str; 2] = ["usr/lib/sysimage/rpm", "var/lib/rpm"];

/// The tree that an image is made of.
pub(super) struct Root<'o> {
    order: &'o Order,
    path: PathBuf,
    /// When everything is to seem to be made, in seconds since 1970.
    pub(super) epoch: u64,
}

impl<'o> Root<'o> {
    /// An empty tree with the kernel's file systems in it.
    pub(super) fn new(order: &'o Order) -> Result<Self, BuildError> {
        let path = order.work.join("root");
        let root = Self { order, path, epoch: 0 };
        root.mounts().map_err(BuildError::io("the kernel's file systems in the image's root"))?;
        Ok(root)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn at(&self, inside: &str) -> PathBuf {
        self.path.join(inside.trim_start_matches('/'))
    }

    fn mounts(&self) -> io::Result<()> {
        for folder in ["proc", "sys", "dev", "run", "tmp", "mnt/sysimage"] {
            fs::create_dir_all(self.at(folder))?;
        }
        fs::set_permissions(&self.path, fs::Permissions::from_mode(0o755))?;
        let quiet = MountFlags::NOSUID | MountFlags::NODEV;
        mount("proc", self.at("proc"), "proc", quiet | MountFlags::NOEXEC, None)?;
        rustix::mount::mount_bind_recursive("/sys", self.at("sys"))?;
        mount("dev", self.at("dev"), "tmpfs", MountFlags::NOSUID, Some(c"mode=755,size=1m"))?;
        for device in ["null", "zero", "full", "random", "urandom", "tty"] {
            let there = self.at("dev").join(device);
            fs::File::create(&there)?;
            mount_bind(Path::new("/dev").join(device), there)?;
        }
        for (link, target) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
            symlink(target, self.at("dev").join(link))?;
        }
        fs::create_dir_all(self.at("dev/shm"))?;
        for (place, mode) in [("run", c"mode=755"), ("tmp", c"mode=1777"), ("dev/shm", c"mode=1777")] {
            mount("tmpfs", self.at(place), "tmpfs", quiet, Some(mode))?;
        }
        // Sections with --nochroot look for the system there.
        mount_bind(&self.path, self.at("mnt/sysimage"))?;
        Ok(())
    }

    /// Runs a program of this machine.
    pub(super) fn run(&self, what: &str, program: &str, args: &[String]) -> Result<String, BuildError> {
        self.run_for(what, program, args, PROGRAM, None)
    }

    /// Runs a program of the image, inside it.
    pub(super) fn inside(&self, what: &str, program: &str, args: &[&str]) -> Result<String, BuildError> {
        let mut words = vec![self.path.display().to_string(), program.to_owned()];
        words.extend(args.iter().map(|arg| (*arg).to_owned()));
        self.run_for(what, "chroot", &words, PROGRAM, None)
    }

    /// The same, for a program whose whole output is wanted.
    pub(super) fn run_whole(&self, what: &str, program: &str, args: &[String]) -> Result<String, BuildError> {
        self.run_for(what, program, args, PROGRAM, Some(LIST))
    }

    pub(super) fn arch(&self) -> &str {
        &self.order.arch
    }

    fn run_for(
        &self,
        what: &str,
        program: &str,
        args: &[String],
        limit: Duration,
        keep: Option<usize>,
    ) -> Result<String, BuildError> {
        let (epoch, home) = (self.epoch.to_string(), self.order.work.display().to_string());
        // HOME has the macros for rpm.
        let home = if program == "chroot" { "/root" } else { &home };
        let mut env = vec![("HOME", home)];
        if self.epoch > 0 {
            env.extend([("SOURCE_DATE_EPOCH", epoch.as_str()), ("E2FSPROGS_FAKE_TIME", &epoch)]);
        }
        let failed = |output: String| BuildError::Program { what: what.to_owned(), output };
        match process::call(program, args, &env, limit, keep) {
            Ok((output, true)) => Ok(String::from_utf8_lossy(&output).into_owned()),
            Ok((output, false)) => Err(failed(String::from_utf8_lossy(&output).trim_end().to_owned())),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// Whether the image has a program.
    pub(super) fn has(&self, program: &str) -> bool {
        // A link may be absolute: followed from here it would lead to this machine's files.
        ["usr/bin", "usr/sbin"].iter().any(|folder| fs::symlink_metadata(self.at(folder).join(program)).is_ok())
    }

    pub(super) fn write(&self, inside: &str, text: &str, mode: u32) -> Result<(), BuildError> {
        let path = self.at(inside);
        let work = || {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))
        };
        work().map_err(BuildError::io(inside))
    }

    /// Finds out which packages the image consists of and brings them into a folder; from then on it is known when the image seems to be
    /// made. Gives the packages' names.
    pub(super) fn fetch(
        &mut self,
        change: &PackageChange,
        repositories: &[Repository],
    ) -> Result<Vec<String>, BuildError> {
        let (manager, kind) = package_manager()?;
        self.configure(repositories)?;
        // In a root of its own: what dnf notes there (keys, with the time) must not come into the image.
        let aside = self.order.work.join("resolve");
        let mut change = change.clone();
        change.install.extend(PLATFORM.map(|name| PackageSpec::Package(name.to_owned())));
        let optional: &[&str] = if self.order.arch == "x86_64" { &LOADERS_X86 } else { &LOADERS_ARM };
        // Asked one by one, so that what a mirror lacks does not stand in the way of what it has.
        let has = |name: &str| {
            let args = self.manager(&aside, &["repoquery", "--whatprovides", name, "--queryformat=%{name}\n"]);
            let said =
                self.run_for("asking the mirror for boot loaders and the network", manager, &args, PROGRAM, None)?;
            // A name is one word; what dnf has to remark has several.
            Ok::<_, BuildError>(said.lines().any(|line| !line.is_empty() && !line.contains(char::is_whitespace)))
        };
        for loader in optional {
            if has(loader)? {
                change.install.push(PackageSpec::Package((*loader).to_owned()));
            }
        }
        for tool in NETWORK {
            if has(tool)? {
                change.install.push(PackageSpec::Package(tool.to_owned()));
                break;
            }
        }
        let words = kind.download(&change, &self.packages().display().to_string()).map_err(|error| {
            BuildError::Program { what: "finding the image's packages".to_owned(), output: error.to_string() }
        })?;
        let mut args = self.manager(&aside, &[]);
        args.extend(words);
        self.run_for("finding the image's packages", manager, &args, PACKAGES, None)?;
        let (mut names, mut epoch) = (Vec::new(), 0);
        let files = self.rpms()?;
        let mut args = vec!["-qp".to_owned(), "--nosignature".to_owned(), "--qf".to_owned()];
        args.push("%{BUILDTIME} %{NVRA}\n".to_owned());
        args.extend(files);
        for line in self.run_for("reading the packages", "rpm", &args, PROGRAM, Some(LIST))?.lines() {
            let Some((time, name)) = line.split_once(' ') else { continue };
            let Ok(time) = time.parse::<u64>() else { continue };
            epoch = epoch.max(time);
            names.push(name.to_owned());
        }
        names.sort();
        self.epoch = epoch.max(1);
        Ok(names)
    }

    fn packages(&self) -> PathBuf {
        self.order.work.join("packages")
    }

    fn rpms(&self) -> Result<Vec<String>, BuildError> {
        let folder = self.packages();
        let list = || -> io::Result<Vec<String>> {
            let mut files = Vec::new();
            for entry in fs::read_dir(&folder)? {
                files.push(entry?.path().display().to_string());
            }
            Ok(files)
        };
        let mut files = list().map_err(BuildError::io("the packages' folder"))?;
        files.retain(|file| file.ends_with(".rpm"));
        // In this order they are installed, where nothing else decides.
        files.sort();
        if files.is_empty() {
            return Err(BuildError::Missing {
                what: "the kickstart leads to no package".to_owned(),
                hint: "publish the mirror with `rocks create distro`",
            });
        }
        Ok(files)
    }

    fn configure(&self, repositories: &[Repository]) -> Result<(), BuildError> {
        let work = &self.order.work;
        let mut repos = String::new();
        let keys: Vec<String> = self.order.gpgkeys.iter().map(|key| format!("file://{}", key.display())).collect();
        let check = format!("gpgcheck={}\n", u8::from(!keys.is_empty()));
        for repository in repositories {
            let clean = |text: &str| text.replace(['\n', '\r'], " ");
            let (key, address) = match &repository.location {
                _ if repository.frontend => ("baseurl", format!("file://{}", self.order.mirror.display())),
                RepositoryLocation::BaseUrl(url) => ("baseurl", clean(url)),
                RepositoryLocation::MirrorList(url) => ("mirrorlist", clean(url)),
                RepositoryLocation::Metalink(url) => ("metalink", clean(url)),
            };
            let id = &repository.id;
            repos.push_str(&format!("[rocks-{id}]\nname={id}\n{key}={address}\n{check}"));
            for (key, list) in [("excludepkgs", &repository.exclude), ("includepkgs", &repository.include)] {
                if !list.is_empty() {
                    repos.push_str(&format!("{key}={}\n", clean(&list.join(","))));
                }
            }
            if !keys.is_empty() {
                repos.push_str(&format!("gpgkey={}\n", keys.join(" ")));
            }
        }
        let conf = format!(
            "[main]\nplugins=0\nreposdir={0}/repos.d\nvarsdir={0}/vars\ncachedir=/var/cache/dnf\nlocalpkg_gpgcheck={1}\n",
            work.display(),
            u8::from(!keys.is_empty())
        );
        let write = || -> io::Result<()> {
            fs::create_dir_all(work.join("repos.d"))?;
            fs::write(work.join("repos.d/rocks.repo"), repos)?;
            fs::write(work.join("dnf.conf"), conf)?;
            // Debian's rpm would keep its database in the home folder.
            if Path::new("/etc/debian_version").exists() {
                fs::write(work.join(".rpmmacros"), "%_dbpath /var/lib/rpm\n")?;
            }
            Ok(())
        };
        write().map_err(BuildError::io("dnf's configuration"))
    }

    fn manager(&self, root: &Path, words: &[&str]) -> Vec<String> {
        let mut args = vec!["-q".to_owned(), "-y".to_owned()];
        args.push(format!("--config={}", self.order.work.join("dnf.conf").display()));
        args.push(format!("--installroot={}", root.display()));
        args.push(format!("--forcearch={}", self.order.arch));
        args.extend(words.iter().map(|word| (*word).to_owned()));
        args
    }

    /// Installs what was fetched.
    pub(super) fn install(&self) -> Result<(), BuildError> {
        if !self.order.gpgkeys.is_empty() {
            // The agent of the running machine checks by them too.
            let mut args = vec![format!("--root={}", self.path.display()), "--import".to_owned()];
            args.extend(self.order.gpgkeys.iter().map(|key| key.display().to_string()));
            self.run("importing the packages' keys", "rpmkeys", &args)?;
        }
        let (manager, _) = package_manager()?;
        let mut args = self.manager(&self.path, &["--disablerepo=*", "install"]);
        args.extend(self.rpms()?);
        self.run_for("installing the packages", manager, &args, PACKAGES, None).map(drop)
    }

    /// Lets the agent in the image apply the kickstart.
    pub(super) fn apply(&self) -> Result<String, BuildError> {
        self.write("run/rocks/kickstart", &self.order.kickstart, 0o600)?;
        let resolver = self.lend_resolver();
        let said = self.inside(
            "applying the kickstart",
            "/usr/bin/rocks-agent",
            &[
                "install",
                "--state-dir=/run/rocks/agent",
                "--kickstart=/run/rocks/kickstart",
                "--frontend",
                &self.order.frontend_url,
            ],
        );
        if let Some(lent) = resolver {
            let _ = rustix::mount::unmount(&lent, rustix::mount::UnmountFlags::DETACH);
            // It was made for this.
            if fs::metadata(&lent).is_ok_and(|meta| meta.len() == 0) {
                let _ = fs::remove_file(&lent);
            }
        }
        said
    }

    /// Sections may look something up, as they can under an installer.
    fn lend_resolver(&self) -> Option<PathBuf> {
        let there = self.at("etc/resolv.conf");
        if there.is_symlink() || !Path::new("/etc/resolv.conf").exists() {
            return None;
        }
        if !there.exists() {
            fs::File::create(&there).ok()?;
        }
        mount_bind("/etc/resolv.conf", &there).ok().map(|()| there)
    }

    /// Labels the files for SELinux, where the image has it. Gives a note if the image has to do that itself.
    pub(super) fn label(&self) -> Option<String> {
        let config = fs::read_to_string(self.at("etc/selinux/config")).ok()?;
        let value = |key: &str| config.lines().find_map(|line| line.trim().strip_prefix(key)).map(str::trim);
        if value("SELINUX=") == Some("disabled") {
            return None;
        }
        let kind = value("SELINUXTYPE=").unwrap_or("targeted");
        let contexts = format!("/etc/selinux/{kind}/contexts/files/file_contexts");
        let mut args = vec!["-F"];
        for left_out in ["/proc", "/sys", "/dev", "/run", "/tmp", "/mnt/sysimage"] {
            args.extend(["-e", left_out]);
        }
        args.extend([contexts.as_str(), "/"]);
        let labelled = self.has("setfiles") && self.inside("labelling the files", "setfiles", &args).is_ok();
        if labelled {
            return None;
        }
        let _ = fs::write(self.at(".autorelabel"), "");
        Some("the files could not be labelled for SELinux; the first boot does it".to_owned())
    }

    /// Removes what does not belong into an image.
    pub(super) fn clean(&self) -> Result<(), BuildError> {
        let detach = rustix::mount::UnmountFlags::DETACH;
        for place in ["mnt/sysimage", "dev/shm", "run", "tmp", "sys", "proc"] {
            let _ = rustix::mount::unmount(self.at(place), detach);
        }
        for device in ["null", "zero", "full", "random", "urandom", "tty"] {
            let _ = rustix::mount::unmount(self.at("dev").join(device), detach);
        }
        let _ = rustix::mount::unmount(self.at("dev"), detach);
        let work = || -> io::Result<()> {
            for place in NOT_IN_IMAGES {
                remove(&self.at(place))?;
            }
            for folder in DATABASES {
                for file in list(&self.at(folder))? {
                    let name = file.to_string_lossy();
                    if name.ends_with("-shm") || name.ends_with("-wal") || name.contains("/__db") {
                        remove(&file)?;
                    }
                }
            }
            for file in list(&self.at("etc/ssh"))? {
                if file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ssh_host_")) {
                    remove(&file)?;
                }
            }
            for folder in ["dev", "proc", "sys", "run", "tmp", "var/tmp"] {
                for file in list(&self.at(folder))? {
                    remove(&file)?;
                }
            }
            // Empty: every machine makes its own at its first boot.
            if self.at("etc/machine-id").exists() || self.at("usr/lib/systemd/systemd").exists() {
                fs::write(self.at("etc/machine-id"), "")?;
            }
            Ok(())
        };
        work().map_err(BuildError::io("cleaning the image"))?;
        even(&self.path, self.epoch).map_err(BuildError::io("setting the files' times"))
    }
}

/// The frontend's package manager, and which one it is: `dnf` is a link to `dnf5` where that is the newer one's name.
fn package_manager() -> Result<(&'static str, Manager), BuildError> {
    manager_in(&["/usr/bin", "/usr/sbin", "/bin", "/usr/local/bin"].map(Path::new)).ok_or(BuildError::Missing {
        what: "there is no dnf on the frontend".to_owned(),
        hint: "install dnf: it resolves what the image consists of",
    })
}

fn manager_in(folders: &[&Path]) -> Option<(&'static str, Manager)> {
    ["dnf", "dnf5"].into_iter().find_map(|name| {
        let file = folders.iter().find_map(|folder| fs::canonicalize(folder.join(name)).ok())?;
        let file = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Some((name, Manager::of(name, &file)))
    })
}

/// What is in a folder; nothing if there is none.
pub(super) fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    if folder.is_symlink() || !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut all = fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    all.sort();
    Ok(all)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    }
}

/// Sets the times of everything that is newer than `epoch` to it; what packages brought keeps its own.
fn even(path: &Path, epoch: u64) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = fs::symlink_metadata(path)?;
    if meta.is_dir() {
        for below in list(path)? {
            even(&below, epoch)?;
        }
    }
    let epoch = i64::try_from(epoch).unwrap_or(i64::MAX);
    let newer = meta.mtime() > epoch || (meta.mtime() == epoch && meta.mtime_nsec() > 0);
    let (seconds, nanoseconds) = if newer { (epoch, 0) } else { (meta.mtime(), meta.mtime_nsec()) };
    let last_modification = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let last_access = Timespec { tv_sec: epoch, tv_nsec: 0 };
    utimensat(CWD, path, &Timestamps { last_access, last_modification }, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_says_which_dnf_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        assert_eq!(manager_in(&[folder.path()]), None);
        fs::write(at("dnf5"), "").expect("written");
        assert_eq!(manager_in(&[folder.path()]), Some(("dnf5", Manager::Dnf5)));
        symlink("dnf5", at("dnf")).expect("linked");
        assert_eq!(manager_in(&[Path::new("/nonexistent"), folder.path()]), Some(("dnf", Manager::Dnf5)));
        fs::remove_file(at("dnf")).expect("removed");
        fs::write(at("dnf-3"), "").expect("written");
        symlink("dnf-3", at("dnf")).expect("linked");
        assert_eq!(manager_in(&[folder.path()]), Some(("dnf", Manager::Dnf4)));
    }
}
