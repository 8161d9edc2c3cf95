//! A root as a folder that nothing leads out of: every path is resolved by the kernel as if the folder were `/` (openat2,
//! `RESOLVE_IN_ROOT`), so that a link in an image to `/etc/shadow` is the image's own.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, XattrFlags};
use rustix::io::Errno;

use super::{FILE_BYTES, FitError, Kind, View, latin1};

/// The file that is written before it takes its place.
const BESIDE: &str = ".rocks-fit.new";
/// Links that may follow each other.
const LINKS: usize = 40;
/// Folders below each other that are removed.
const DEPTH: usize = 128;
/// Bytes of an extended attribute, and of their names.
const ATTRIBUTE: usize = 64 << 10;
const LABEL: &str = "security.selinux";

/// A root.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    path: PathBuf,
}

impl Tree {
    /// The root at the folder `path`.
    ///
    /// # Errors
    /// It is not there or no folder.
    pub fn open(path: &Path) -> Result<Self, FitError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| FitError::io(path)(e.into()))?;
        Ok(Self { root, path: path.to_owned() })
    }

    /// The root itself, as a folder of the system.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn fail(&self, path: &str, error: Errno) -> FitError {
        FitError::Io { path: self.path.join(path), source: error.into() }
    }

    fn open_at(&self, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { "." } else { path };
        rustix::fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT)
    }

    fn folder(&self, path: &str) -> rustix::io::Result<OwnedFd> {
        self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// The folder that really holds what `path` leads to, and its name there: a link at the end is followed.
    fn place(&self, path: &str) -> rustix::io::Result<(OwnedFd, String)> {
        let mut path = path.to_owned();
        for _ in 0..LINKS {
            let (parent, name) = path.trim_end_matches('/').rsplit_once('/').unwrap_or(("", &path));
            if matches!(name, "" | "." | "..") {
                return Err(Errno::INVAL);
            }
            let folder = self.folder(parent)?;
            match rustix::fs::readlinkat(&folder, name, Vec::new()) {
                Ok(target) => {
                    let target = target.into_string().map_err(|_| Errno::ILSEQ)?;
                    // Resolved in the root again: neither `/` nor `..` leads out.
                    path = if target.starts_with('/') { target } else { format!("{parent}/{target}") };
                }
                Err(Errno::INVAL | Errno::NOENT) => return Ok((folder, name.to_owned())),
                Err(error) => return Err(error),
            }
        }
        Err(Errno::LOOP)
    }

    /// Makes the folder `path` and those above it.
    fn make_folder(&self, path: &str) -> rustix::io::Result<()> {
        match self.folder(path) {
            Err(Errno::NOENT) => {}
            other => return other.map(drop),
        }
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        self.make_folder(parent)?;
        let folder = self.folder(parent)?;
        rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755))?;
        let made = self.folder(path)?;
        rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))?;
        copy_label(&folder, &made);
        Ok(())
    }

    /// Puts `bytes` into the file at `path`, whole or not at all. A file that is there keeps its permissions, owner and extended
    /// attributes; a new one gets `mode`, and the SELinux label of its folder, as the kernel itself would give it. Says whether
    /// it has its label, or none is needed as far as can be seen here.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, path: &str, bytes: &[u8], mode: u32) -> Result<bool, FitError> {
        self.try_write(path, bytes, mode).map_err(|error| self.fail(path, error))
    }

    fn try_write(&self, path: &str, bytes: &[u8], mode: u32) -> rustix::io::Result<bool> {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.make_folder(parent)?;
        }
        let (folder, name) = self.place(path)?;
        let look = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let old = match rustix::fs::openat(&folder, name.as_str(), look, Mode::empty()) {
            Ok(old) => Some(old),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error),
        };
        match rustix::fs::unlinkat(&folder, BESIDE, AtFlags::empty()) {
            Err(Errno::NOENT) | Ok(()) => {}
            Err(error) => return Err(error),
        }
        let make = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let new = rustix::fs::openat(&folder, BESIDE, make, Mode::from_raw_mode(0o600))?;
        let done = (|| {
            let mut labelled = match &old {
                Some(old) => {
                    let stat = rustix::fs::fstat(old)?;
                    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                        return Err(Errno::INVAL);
                    }
                    let mine = rustix::fs::fstat(&new)?;
                    // A file system without owners does not let them be set.
                    if (stat.st_uid, stat.st_gid) != (mine.st_uid, mine.st_gid) {
                        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
                        rustix::fs::fchown(&new, Some(uid), Some(gid))?;
                    }
                    // After the owner: changing that takes bits away.
                    rustix::fs::fchmod(&new, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
                    copy_attributes(old, &new)
                }
                None => {
                    rustix::fs::fchmod(&new, Mode::from_raw_mode(mode))?;
                    copy_label(&folder, &new)
                }
            };
            let mut file = File::from(rustix::io::fcntl_dupfd_cloexec(&new, 3)?);
            file.write_all(bytes)
                .and_then(|()| file.sync_all())
                .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
            rustix::fs::renameat(&folder, BESIDE, &folder, name.as_str())?;
            rustix::fs::fsync(&folder)?;
            // A root that is on a file system without labels cannot lose any.
            labelled |= !has_label(&folder) && !old.as_ref().is_some_and(has_label);
            Ok(labelled)
        })();
        if done.is_err() {
            let _ = rustix::fs::unlinkat(&folder, BESIDE, AtFlags::empty());
        }
        done
    }

    /// Makes the symbolic link `path` to `to`.
    ///
    /// # Errors
    /// The file system's.
    pub fn link(&self, path: &str, to: &str) -> Result<(), FitError> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let made = self.make_folder(parent).and_then(|()| self.folder(parent));
        made.and_then(|folder| rustix::fs::symlinkat(to, &folder, name)).map_err(|error| self.fail(path, error))
    }

    /// Removes what stands at `path`, a folder with all that is in it. A link is removed, not what it points to.
    ///
    /// # Errors
    /// The file system's.
    pub fn remove(&self, path: &str) -> Result<(), FitError> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let name = CString::new(name).map_err(|_| self.fail(path, Errno::INVAL))?;
        let gone = self.folder(parent).and_then(|folder| {
            remove_below(&folder, &name, DEPTH)?;
            rustix::fs::fsync(&folder)
        });
        gone.map_err(|error| self.fail(path, error))
    }

    /// Waits until everything is on the disk.
    ///
    /// # Errors
    /// The file system's.
    pub fn settle(&self) -> Result<(), FitError> {
        rustix::fs::syncfs(&self.root).map_err(|error| self.fail("", error))
    }
}

fn remove_below(folder: &OwnedFd, name: &std::ffi::CStr, depth: usize) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) if depth > 0 => {}
        other => return other,
    }
    // Never through a link, so nothing but what is below this very folder can be met.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let below = rustix::fs::openat(folder, name, flags, Mode::empty())?;
    let names: Vec<CString> = rustix::fs::Dir::read_from(&below)?
        .map(|entry| entry.map(|e| e.file_name().to_owned()))
        .collect::<Result<_, _>>()?;
    for inner in names.iter().filter(|name| !matches!(name.to_bytes(), b"." | b"..")) {
        remove_below(&below, inner, depth - 1)?;
    }
    rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR)
}

fn attribute(of: &OwnedFd, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; ATTRIBUTE];
    let length = rustix::fs::fgetxattr(of, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

fn has_label(of: &OwnedFd) -> bool {
    attribute(of, LABEL).is_some()
}

/// Gives `to` the SELinux label of `from`; says whether it has it.
fn copy_label(from: &OwnedFd, to: &OwnedFd) -> bool {
    let Some(label) = attribute(from, LABEL) else { return false };
    rustix::fs::fsetxattr(to, LABEL, &label, XattrFlags::empty()).is_ok()
}

/// Gives `to` the extended attributes of `from`; says whether its SELinux label is among them.
fn copy_attributes(from: &OwnedFd, to: &OwnedFd) -> bool {
    let mut names = vec![0; ATTRIBUTE];
    let length = rustix::fs::flistxattr(from, &mut names[..]).unwrap_or(0);
    let mut labelled = false;
    for name in names[..length].split(|byte| *byte == 0).filter_map(|name| std::str::from_utf8(name).ok()) {
        let Some(value) = attribute(from, name).filter(|_| !name.is_empty()) else { continue };
        // What the file system or a security module of this machine does not take is found by the label.
        let kept = rustix::fs::fsetxattr(to, name, &value, XattrFlags::empty()).is_ok();
        labelled |= kept && name == LABEL;
    }
    labelled
}

impl View for Tree {
    fn text(&self, path: &str) -> Result<Option<String>, FitError> {
        // A pipe must not keep us.
        let file = match self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => return Ok(None),
            Err(error) => return Err(self.fail(path, error)),
        };
        let fail = |source| FitError::Io { path: self.path.join(path), source };
        if !file.metadata().map_err(fail)?.is_file() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        file.take(FILE_BYTES + 1).read_to_end(&mut bytes).map_err(fail)?;
        if bytes.len() as u64 > FILE_BYTES {
            return Err(FitError::File { path: path.to_owned(), why: format!("it has more than {FILE_BYTES} bytes") });
        }
        Ok(Some(latin1(&bytes)))
    }

    fn names(&self, path: &str) -> Result<Vec<String>, FitError> {
        let folder = match self.folder(path) {
            Ok(folder) => folder,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Vec::new()),
            Err(error) => return Err(self.fail(path, error)),
        };
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&folder).map_err(|error| self.fail(path, error))? {
            let entry = entry.map_err(|error| self.fail(path, error))?;
            // None of the names that are looked for is anything but ASCII.
            names.extend(
                entry.file_name().to_str().ok().filter(|name| !matches!(*name, "." | "..")).map(ToOwned::to_owned),
            );
        }
        names.sort();
        Ok(names)
    }

    fn kind(&self, path: &str) -> Kind {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let stat = self.folder(parent).and_then(|folder| rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW));
        match stat.map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            Err(_) => Kind::Missing,
            Ok(FileType::RegularFile) => Kind::File,
            Ok(FileType::Directory) => Kind::Folder,
            Ok(FileType::Symlink) => Kind::Link,
            Ok(_) => Kind::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn no_link_leads_out_and_files_keep_what_they_are() {
        let dir = tempfile::tempdir().expect("a folder");
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        fs::create_dir_all(root.join("etc")).expect("made");
        fs::create_dir_all(&outside).expect("made");
        fs::write(outside.join("shadow"), "outside").expect("written");
        fs::write(root.join("shadow"), "inside").expect("written");
        fs::set_permissions(root.join("shadow"), fs::Permissions::from_mode(0o640)).expect("set");
        symlink("/shadow", root.join("etc/absolute")).expect("linked");
        symlink("../../../../shadow", root.join("etc/up")).expect("linked");
        symlink(&outside, root.join("etc/out")).expect("linked");
        symlink("round", root.join("etc/round")).expect("linked");
        let tree = Tree::open(&root).expect("opened");
        for link in ["etc/absolute", "etc/up"] {
            assert_eq!(tree.text(link).expect("read").as_deref(), Some("inside"));
            tree.write(link, b"changed", 0o600).expect("written");
            assert_eq!(fs::read_to_string(root.join("shadow")).expect("read"), "changed");
            assert!(root.join(link).is_symlink() && tree.kind(link) == Kind::Link);
            fs::write(root.join("shadow"), "inside").expect("written");
        }
        assert_eq!(fs::metadata(root.join("shadow")).expect("there").mode() & 0o7777, 0o640);
        assert_eq!(tree.text("etc/out/shadow").expect("read"), None);
        assert_eq!(tree.text("etc/round").expect("read"), None);
        assert!(tree.write("etc/out/x", b"x", 0o600).is_err() && tree.write("etc/round", b"x", 0o600).is_err());
        assert_eq!(tree.text("../outside/shadow").expect("read"), None);
        tree.write("etc/new/deep/file", b"x", 0o600).expect("written");
        assert_eq!(fs::metadata(root.join("etc/new/deep/file")).expect("there").mode() & 0o7777, 0o600);
        // Removing goes through no link either.
        symlink(&outside, root.join("etc/new/deep/out")).expect("linked");
        tree.remove("etc/new").expect("removed");
        tree.remove("etc/out").expect("removed");
        assert!(!root.join("etc/new").exists() && outside.join("shadow").exists());
        assert_eq!(fs::read_dir(&outside).expect("read").count(), 1);
        assert!(tree.names("etc").expect("read").iter().all(|name| !name.contains("rocks-fit")));
    }
}
