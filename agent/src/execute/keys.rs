//! Keys that let users in: the agent works as root in folders that belong to them, and trusts nothing that is there.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rocks_common::diag::Severity;
use rocks_common::wire::Finding;
use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, Stat, Uid, fchmod, fchown, fstat, fsync, mkdirat, openat, renameat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::{Executor, Outcome, finding};
use crate::beneath::{self, CAREFUL};
use crate::process::is_there;

const FOLDER: &str = ".ssh";
const FILE: &str = "authorized_keys";
/// What is not whole yet; a killed agent may have left some.
const NEW_FOLDER: &str = ".ssh.rocks-new";
const NEW_FILE: &str = ".authorized_keys.rocks-new";
/// Most bytes of the keys of one user.
const BYTES: u64 = 1 << 20;

/// Whose folder it is.
#[derive(Debug, Clone, Copy)]
struct Owner {
    uid: Uid,
    gid: Gid,
}

impl Owner {
    fn own(self, what: impl AsFd, mode: u32) -> io::Result<()> {
        fchown(&what, Some(self.uid), Some(self.gid))?;
        Ok(fchmod(what, Mode::from_raw_mode(mode))?)
    }

    fn is_of(self, stat: &Stat) -> bool {
        stat.st_uid == self.uid.as_raw()
    }
}

impl Executor<'_> {
    pub(super) fn ssh_key(&self, user: &str, key: &str) -> Result<Outcome, String> {
        let Some(fields) = self.entry("etc/passwd", user) else { return Err(format!("there is no user `{user}`")) };
        let [_, _, uid, gid, _, home, ..] = &fields[..] else {
            return Err("/etc/passwd has a line that is none".to_owned());
        };
        let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse()) else {
            return Err(format!("/etc/passwd gives `{user}` no number"));
        };
        if key.contains(['\n', '\r']) {
            return Err("a key is one line".to_owned());
        }
        let owner = Owner { uid: Uid::from_raw(uid), gid: Gid::from_raw(gid) };
        let done = add(&self.config.root, Path::new(home), owner, key);
        done.map_err(|error| format!("{home}/{FOLDER}/{FILE}: {error}"))?;
        let findings = if self.is_live() { self.label(home) } else { None };
        Ok(Outcome { findings: findings.into_iter().collect(), ..Outcome::default() })
    }

    /// Gives what was made its own SELinux label: from the home folder it has one with which sshd may not read it. Only
    /// what was made, and not what else a user may have put beside it.
    fn label(&self, home: &str) -> Option<Finding> {
        let root = &self.config.root;
        if !root.join("sys/fs/selinux/enforce").exists() || !is_there(root, "restorecon") {
            return None;
        }
        let (folder, file) = (format!("{home}/{FOLDER}"), format!("{home}/{FOLDER}/{FILE}"));
        let error = self.call("restorecon", &["-F", "--", &folder, &file], None).err()?;
        let hint = Some("`restorecon -RF` it, or sshd may not be let read it");
        Some(finding("not-labelled", Severity::Note, &folder, error, hint))
    }
}

fn add(root: &Path, home: &Path, owner: Owner, key: &str) -> io::Result<()> {
    let home = beneath::folder(root, home, true)?;
    let stat = fstat(&home)?;
    if !owner.is_of(&stat) && !beneath::is_ours(&stat) {
        return Err(io::Error::other("the home folder is somebody else's"));
    }
    let folder = folder_in(&home, owner)?;
    let before = present(&folder, owner)?;
    if before.lines().any(|line| line == key) {
        return Ok(());
    }
    let end = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
    remove(&folder, NEW_FILE, AtFlags::empty())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let (mut file, _): (File, Stat) = beneath::file_in(&folder, OsStr::new(NEW_FILE), flags, 0o600)?;
    file.write_all(format!("{before}{end}{key}\n").as_bytes())?;
    owner.own(&file, 0o600)?;
    file.sync_all()?;
    renameat(&folder, NEW_FILE, &folder, FILE)?;
    Ok(fsync(&folder)?)
}

/// The user's folder for keys. A new one is the user's from the moment on at which it is at its place.
fn folder_in(home: &OwnedFd, owner: Owner) -> io::Result<OwnedFd> {
    let open = |name: &str| openat(home, name, OFlags::RDONLY | OFlags::DIRECTORY | CAREFUL, Mode::empty());
    let folder = match open(FOLDER) {
        Ok(folder) => folder,
        Err(Errno::LOOP | Errno::NOTDIR) => return Err(io::Error::other("it is a symbolic link, or no folder")),
        Err(Errno::NOENT) => {
            remove(home, NEW_FOLDER, AtFlags::REMOVEDIR)?;
            mkdirat(home, NEW_FOLDER, Mode::from_raw_mode(0o700))?;
            let folder = open(NEW_FOLDER)?;
            if fstat(&folder)?.st_uid != geteuid().as_raw() {
                return Err(io::Error::other("somebody changes it"));
            }
            owner.own(&folder, 0o700)?;
            renameat(home, NEW_FOLDER, home, FOLDER)?;
            fsync(home)?;
            return Ok(folder);
        }
        Err(error) => return Err(error.into()),
    };
    let stat = fstat(&folder)?;
    if owner.is_of(&stat) {
        fchmod(&folder, Mode::from_raw_mode(0o700))?;
    } else if !beneath::is_ours(&stat) {
        return Err(io::Error::other("the folder is somebody else's"));
    }
    Ok(folder)
}

/// The keys that are there. They go into a file of the user's: what is there must be the user's already, or free to be
/// read.
fn present(folder: &OwnedFd, owner: Owner) -> io::Result<String> {
    let (file, stat) = match beneath::file_in(folder, OsStr::new(FILE), OFlags::RDONLY, 0) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        other => other?,
    };
    let is_public = beneath::is_ours(&stat) && stat.st_nlink == 1 && stat.st_mode & 0o004 != 0;
    if !owner.is_of(&stat) && !is_public {
        return Err(io::Error::other("the file is somebody else's"));
    }
    let bytes = beneath::read(file, BYTES)?;
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8"))
}

fn remove(folder: &OwnedFd, name: &str, flags: AtFlags) -> io::Result<()> {
    match unlinkat(folder, name, flags) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;
    use crate::config::Config;
    use crate::process::{Finished, Processes, Task};

    struct Home(tempfile::TempDir);

    impl Home {
        fn new() -> Self {
            let root = tempfile::tempdir().expect("a folder");
            fs::create_dir_all(root.path().join("home/a")).expect("made");
            Self(root)
        }

        fn at(&self, path: &str) -> std::path::PathBuf {
            self.0.path().join("home/a").join(path)
        }

        fn add(&self, key: &str) -> io::Result<()> {
            let meta = fs::metadata(self.0.path())?;
            let owner = Owner { uid: Uid::from_raw(meta.uid()), gid: Gid::from_raw(meta.gid()) };
            add(self.0.path(), Path::new("/home/a"), owner, key)
        }
    }

    #[test]
    fn keys_are_added_and_what_a_killed_agent_left_is_no_hindrance() {
        let home = Home::new();
        fs::create_dir(home.at(NEW_FOLDER)).expect("made");
        home.add("k a").expect("added");
        let mode = |path: &str| fs::metadata(home.at(path)).expect("there").permissions().mode() & 0o7777;
        assert_eq!((mode(".ssh"), mode(".ssh/authorized_keys")), (0o700, 0o600));
        fs::write(home.at(".ssh").join(NEW_FILE), "half").expect("written");
        fs::write(home.at(".ssh/authorized_keys"), "k a").expect("written");
        home.add("k b").expect("added");
        home.add("k b").expect("it is there");
        assert_eq!(fs::read_to_string(home.at(".ssh/authorized_keys")).expect("read"), "k a\nk b\n");
        assert_eq!(fs::read_dir(home.at(".ssh")).expect("read").count(), 1);
    }

    #[test]
    fn nothing_that_is_in_the_way_is_followed_or_waited_for() {
        type Case = (&'static str, fn(&Home));
        let cases: [Case; 6] = [
            ("a pipe", |home| {
                let path = home.at(".ssh/authorized_keys");
                rustix::fs::mkfifoat(rustix::fs::CWD, path, Mode::from_raw_mode(0o600)).expect("made");
            }),
            ("an endless device", |home| {
                symlink("/dev/zero", home.at(".ssh/authorized_keys")).expect("linked");
            }),
            ("a folder", |home| fs::create_dir(home.at(".ssh/authorized_keys")).expect("made")),
            ("too much", |home| fs::write(home.at(".ssh/authorized_keys"), vec![b'x'; 2 << 20]).expect("written")),
            ("a link for the folder", |home| {
                fs::remove_dir(home.at(".ssh")).expect("removed");
                fs::create_dir(home.0.path().join("elsewhere")).expect("made");
                symlink(home.0.path().join("elsewhere"), home.at(".ssh")).expect("linked");
            }),
            ("a link for the home", |home| {
                fs::set_permissions(home.0.path().join("home"), fs::Permissions::from_mode(0o777)).expect("set");
                fs::rename(home.at(""), home.0.path().join("elsewhere")).expect("moved");
                symlink("../elsewhere", home.0.path().join("home/a")).expect("linked");
            }),
        ];
        for (what, put) in cases {
            let home = Home::new();
            fs::create_dir(home.at(".ssh")).expect("made");
            put(&home);
            home.add("k a").expect_err(what);
            let elsewhere = home.0.path().join("elsewhere");
            assert!(!elsewhere.join(FILE).exists() && !elsewhere.join(FOLDER).join(FILE).exists(), "{what}");
        }
    }

    /// restorecon, which ends with this status.
    struct Labels(RefCell<Vec<String>>, i32);

    impl Processes for Labels {
        fn run(&self, task: &Task) -> io::Result<Finished> {
            self.0.borrow_mut().push(format!("{} {}", task.program, task.args.join(" ")));
            Ok(Finished { code: Some(self.1), timed_out: false, output: b"no policy\n".to_vec(), cut: false })
        }
    }

    #[test]
    fn what_was_made_is_labelled_where_labels_count() {
        let root = tempfile::tempdir().expect("a folder");
        let config = Config::load(root.path(), None, None).expect("no files");
        let mut labels = Labels(RefCell::default(), 0);
        let label = |labels: &Labels| Executor { config: &config, processes: labels, mirror: None }.label("/home/a");
        for path in ["sys/fs/selinux/enforce", "usr/sbin/restorecon"] {
            assert!(label(&labels).is_none() && labels.0.borrow().is_empty());
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).and_then(|()| fs::write(path, "1")).expect("written");
        }
        assert!(label(&labels).is_none());
        assert_eq!(labels.0.take(), ["restorecon -F -- /home/a/.ssh /home/a/.ssh/authorized_keys"]);
        // It is said, and no failure.
        labels.1 = 255;
        let found = label(&labels).expect("a finding");
        assert!(found.severity == Severity::Note && found.message.contains("no policy"), "{found:?}");
    }

    #[test]
    fn what_is_somebody_elses_is_not_handed_over() {
        let home = Home::new();
        fs::create_dir(home.at(".ssh")).expect("made");
        let secret = home.at(".ssh/authorized_keys");
        fs::write(&secret, "root's own\n").expect("written");
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("set");
        // It is ours, and the folder is of a user with another number.
        let folder = beneath::folder(home.0.path(), Path::new("home/a/.ssh"), false).expect("there");
        let owner = Owner { uid: Uid::from_raw(geteuid().as_raw() + 1), gid: Gid::from_raw(1) };
        assert!(present(&folder, owner).is_err());
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).expect("set");
        assert_eq!(present(&folder, owner).expect("anybody may read it"), "root's own\n");
        fs::hard_link(&secret, home.at("another name")).expect("linked");
        assert!(present(&folder, owner).is_err());
    }
}
