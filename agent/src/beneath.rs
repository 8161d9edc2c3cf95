//! Ways to files on a machine where others have folders of their own.
//!
//! What a user owns may become something else at any moment: a link to somewhere, a pipe that nobody writes into. So a
//! way is gone step by step, each from the folder that is held open; links are followed only where nobody but root
//! could have put them; and what is at the end is judged when it is open, which never waits.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, Stat, fchmod, fstat, mkdirat, open, openat, readlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;

/// Links that are followed on one way.
const LINKS: usize = 40;
/// How anything is opened that others may have put there.
pub const CAREFUL: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// Whether what this is of belongs to root, or to us, and nobody else can write there.
#[must_use]
pub fn is_ours(stat: &Stat) -> bool {
    let owner = stat.st_uid;
    (owner == 0 || owner == geteuid().as_raw()) && stat.st_mode & 0o022 == 0
}

/// Whether this is a file: no folder, no pipe, no device.
#[must_use]
pub fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

fn error(why: &str) -> io::Error {
    io::Error::other(why)
}

/// Opens the folder `path` below `root`; what `/` means in links is `root`. With `make`, folders that are missing are
/// made where nobody else could have put something in the way.
///
/// # Errors
/// The file system's, or the way leads through a link that is not root's.
pub fn folder(root: &Path, path: &Path, make: bool) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    // Who says which root it is has chosen it.
    let root = open(root, flags | OFlags::CLOEXEC, Mode::empty())?;
    let mut way: Vec<OwnedFd> = Vec::new();
    let steps = |path: &Path| path.iter().map(OsStr::to_owned).collect::<Vec<OsString>>();
    let mut rest: VecDeque<OsString> = steps(path).into();
    let mut links = 0;
    while let Some(step) = rest.pop_front() {
        match step.as_bytes() {
            b"/" => {
                way.clear();
                continue;
            }
            b"." => continue,
            b".." => {
                way.pop();
                continue;
            }
            _ => {}
        }
        let here = way.last().unwrap_or(&root);
        match openat(here, step.as_os_str(), flags | CAREFUL, Mode::empty()) {
            Ok(next) => way.push(next),
            Err(Errno::NOENT) if make && is_ours(&fstat(here)?) => {
                match mkdirat(here, step.as_os_str(), Mode::from_raw_mode(0o755)) {
                    Ok(()) => {
                        let made = openat(here, step.as_os_str(), flags | CAREFUL, Mode::empty())?;
                        // The umask may have taken some of it.
                        fchmod(&made, Mode::from_raw_mode(0o755))?;
                        way.push(made);
                    }
                    Err(Errno::EXIST) => rest.push_front(step),
                    Err(error) => return Err(error.into()),
                }
            }
            Err(Errno::LOOP | Errno::NOTDIR) => {
                let target = readlinkat(here, step.as_os_str(), Vec::new()).map_err(|_| Errno::NOTDIR)?;
                links += 1;
                if !is_ours(&fstat(here)?) || links > LINKS {
                    return Err(error("it is a symbolic link, or beyond one, that is not root's"));
                }
                for step in steps(Path::new(&OsString::from_vec(target.into_bytes()))).into_iter().rev() {
                    rest.push_front(step);
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(way.pop().unwrap_or(root))
}

/// Opens the file `path` below `root`, made with `mode` if `flags` say so. A link at its place is not followed.
///
/// # Errors
/// The file system's; the way leads through a link that is not root's; or there is something else than a file.
pub fn file(root: &Path, path: &Path, flags: OFlags, mode: u32) -> io::Result<(File, Stat)> {
    let name = path.file_name().ok_or_else(|| error("it has no name"))?;
    let folder = folder(root, path.parent().unwrap_or(Path::new("")), false)?;
    file_in(&folder, name, flags, mode)
}

/// Opens the file `name` in `folder`; see [`file`].
///
/// # Errors
/// The file system's; or there is something else than a file.
pub fn file_in(folder: impl AsFd, name: &OsStr, flags: OFlags, mode: u32) -> io::Result<(File, Stat)> {
    let opened = openat(folder, name, flags | CAREFUL, Mode::from_raw_mode(mode));
    let file = opened.map_err(|errno| match errno {
        Errno::LOOP => error("it is a symbolic link"),
        // A pipe that nobody reads, or a socket.
        Errno::NXIO => error("it is not a file"),
        errno => errno.into(),
    })?;
    let stat = fstat(&file)?;
    if is_file(&stat) { Ok((file.into(), stat)) } else { Err(error("it is not a file")) }
}

/// Reads a file to its end.
///
/// # Errors
/// The file system's, or more than `limit` bytes.
pub fn read(file: File, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { Err(error("it is too large")) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn links_are_followed_where_only_root_could_have_put_them() {
        let root = tempfile::tempdir().expect("a folder");
        let at = |path: &str| root.path().join(path);
        fs::create_dir_all(at("data/home/a")).expect("made");
        fs::write(at("data/home/a/file"), "x").expect("written");
        // As systems have it: one link with a way from the root, one from its place.
        symlink("/data/home", at("home")).expect("linked");
        symlink("../data/home/a", at("data/b")).expect("linked");
        let read = |path: &str| {
            let (file, _) = file(root.path(), Path::new(path), OFlags::RDONLY, 0)?;
            super::read(file, 10)
        };
        for path in ["home/a/file", "/home/a/file", "data/b/file", "data/./home/../home/a/file"] {
            assert_eq!(read(path).expect("read"), b"x", "{path}");
        }
        assert!(read("home/a").is_err() && read("home/b/file").is_err());
        symlink("loop", at("loop")).expect("linked");
        assert!(read("loop/file").is_err());
        // One that is no link of root's.
        fs::set_permissions(at("data"), fs::Permissions::from_mode(0o777)).expect("set");
        assert!(read("data/b/file").is_err() && read("home/a/file").is_ok());
        // The file itself is never one, and a pipe keeps nobody waiting.
        symlink("file", at("data/home/a/link")).expect("linked");
        assert!(read("home/a/link").expect_err("a link").to_string().contains("symbolic link"));
        let done = rustix::fs::mkfifoat(rustix::fs::CWD, at("data/home/a/pipe"), Mode::from_raw_mode(0o600));
        done.expect("made");
        assert!(read("home/a/pipe").is_err());
        let append = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
        assert!(file(root.path(), Path::new("home/a/pipe"), append, 0o600).is_err());
        fs::write(at("data/home/a/large"), "xxxxxxxxxxx").expect("written");
        assert!(read("home/a/large").is_err());
    }

    #[test]
    fn folders_are_made_where_nobody_else_writes() {
        let root = tempfile::tempdir().expect("a folder");
        folder(root.path(), Path::new("/a/b"), true).expect("made");
        assert!(root.path().join("a/b").is_dir());
        fs::set_permissions(root.path().join("a"), fs::Permissions::from_mode(0o777)).expect("set");
        assert!(folder(root.path(), Path::new("a/c"), true).is_err());
        assert!(folder(root.path(), Path::new("a/b/c"), false).is_err());
    }
}
