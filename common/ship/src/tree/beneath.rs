//! The only way to the files of a tree: below one open folder, name by name, through no symbolic link and onto no other file system.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::entry::{Content, Device, Entry, Inode, Kind, Node, PathError, Time, TreePath, Xattr, Xattrs};

/// Bytes of the list of a file's attributes, as the kernel bounds it.
const NAMES: usize = 64 << 10;

/// Something that could not be done to a file of a tree.
#[derive(Debug, thiserror::Error)]
#[error("{path}: cannot {doing}: {error}")]
pub struct Failure {
    /// Which.
    pub path: TreePath,
    /// What.
    pub doing: &'static str,
    /// Why.
    #[source]
    pub error: io::Error,
}

impl Failure {
    pub(super) fn of<E: Into<io::Error>>(path: &TreePath, doing: &'static str) -> impl FnOnce(E) -> Self {
        let path = path.clone();
        move |error| Self { path, doing, error: error.into() }
    }
}

/// The folder that a tree is in.
#[derive(Debug)]
pub(super) struct Beneath {
    root: OwnedFd,
    device: u64,
}

impl Beneath {
    /// Opens the folder at `path`, which is the caller's and may lead through links.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let root = fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let device = fs::fstat(&root)?.st_dev;
        Ok(Self { root, device })
    }

    /// Opens the root of a file system that has no path. It stays mounted as long as this is open.
    pub(super) fn at(root: &OwnedFd) -> io::Result<Self> {
        let root = fs::openat(root, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let device = fs::fstat(&root)?.st_dev;
        Ok(Self { root, device })
    }

    /// A way into it, for one thread.
    pub(super) fn way(&self) -> Way<'_> {
        Way { beneath: self, last: None }
    }

    /// Writes all that is in memory of its file system to the device.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(fs::syncfs(&self.root)?)
    }
}

/// A folder, open as a place in the tree, and the name of something in it.
pub(super) struct Place {
    folder: Rc<OwnedFd>,
    name: Vec<u8>,
}

impl Place {
    pub(super) fn folder(&self) -> impl AsFd + '_ {
        self.folder.as_fd()
    }

    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }

    /// A path for system calls that know no folders: the last name is all of it that may be a link, so they must not follow one.
    fn path(&self) -> Vec<u8> {
        let mut path = format!("/proc/self/fd/{}/", self.folder.as_raw_fd()).into_bytes();
        path.extend_from_slice(&self.name);
        path
    }

    pub(super) fn stat(&self) -> Result<Stat, Errno> {
        fs::statat(&self.folder, &self.name[..], AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Opens it, whatever it is, only as a place.
    fn hold(&self) -> Result<OwnedFd, Errno> {
        fs::openat(&self.folder, &self.name[..], OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    }

    /// Gives it a mode; it must not be a symbolic link.
    pub(super) fn chmod(&self, mode: u16) -> Result<(), Errno> {
        let held = self.hold()?;
        if FileType::from_raw_mode(fs::fstat(&held)?.st_mode) == FileType::Symlink {
            return Err(Errno::LOOP);
        }
        // There is no chmod that follows no link on the kernels of today; this one cannot meet any.
        fs::chmod(format!("/proc/self/fd/{}", held.as_raw_fd()), Mode::from_raw_mode(mode.into()))
    }

    /// Opens a file to be read, or written as well. Nothing else is opened: neither a device nor a pipe.
    pub(super) fn file(&self, more: OFlags, device: u64) -> Result<File, Errno> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | more;
        let is_new = more.contains(OFlags::CREATE);
        // A device does something when it is opened, so look first. A new file is made, or nothing is opened.
        if !is_new && FileType::from_raw_mode(self.stat()?.st_mode) != FileType::RegularFile {
            return Err(Errno::INVAL);
        }
        let file = fs::openat(&self.folder, &self.name[..], flags, Mode::RUSR | Mode::WUSR)?;
        let stat = fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Errno::INVAL);
        }
        if stat.st_dev != device { Err(Errno::XDEV) } else { Ok(file.into()) }
    }

    /// Its extended attributes, those that a file takes with it, sorted.
    pub(super) fn xattrs(&self) -> Result<Vec<Xattr>, Errno> {
        let path = self.path();
        let mut names = vec![0; 1024];
        let length = loop {
            match fs::llistxattr(&path[..], &mut names[..]) {
                Ok(length) => break length,
                Err(Errno::RANGE) if names.len() < NAMES => names.resize(NAMES, 0),
                // A file system without any.
                Err(Errno::NOTSUP) => return Ok(Vec::new()),
                Err(error) => return Err(error),
            }
        };
        let mut all = Vec::new();
        for name in names[..length].split(|byte| *byte == 0).filter(|name| Xattr::travels(name)) {
            let mut value = vec![0; 256];
            let length = loop {
                match fs::lgetxattr(&path[..], name, &mut value[..]) {
                    Ok(length) => break Some(length),
                    Err(Errno::RANGE) if value.len() < NAMES => value.resize(NAMES, 0),
                    // It went away between the two calls.
                    Err(Errno::NODATA) => break None,
                    Err(error) => return Err(error),
                }
            };
            let Some(length) = length else { continue };
            all.push(Xattr { name: name.into(), value: value[..length].into() });
        }
        all.sort();
        Ok(all)
    }

    pub(super) fn set_xattr(&self, xattr: &Xattr) -> Result<(), Errno> {
        fs::lsetxattr(&self.path()[..], &*xattr.name, &xattr.value, fs::XattrFlags::empty())
    }

    pub(super) fn remove_xattr(&self, name: &[u8]) -> Result<(), Errno> {
        fs::lremovexattr(&self.path()[..], name)
    }
}

/// Finds places; remembers the folder that it was in, because what comes next is mostly in the same.
pub(super) struct Way<'b> {
    beneath: &'b Beneath,
    last: Option<(Box<[u8]>, Rc<OwnedFd>)>,
}

impl Way<'_> {
    /// The folder at `path`.
    pub(super) fn folder(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, Errno> {
        if let Some((last, folder)) = &self.last
            && **last == *path
        {
            return Ok(folder.clone());
        }
        let open = |at: &OwnedFd, name: &[u8]| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let folder = fs::openat(at, name, flags, Mode::empty())?;
            if fs::fstat(&folder)?.st_dev != self.beneath.device { Err(Errno::XDEV) } else { Ok(folder) }
        };
        let mut folder = open(&self.beneath.root, b".")?;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            folder = open(&folder, name)?;
        }
        let folder = Rc::new(folder);
        self.last = Some((path.into(), folder.clone()));
        Ok(folder)
    }

    /// Forgets the folder that it was in, because that may be another one now.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    /// Where `path` is, or would be.
    pub(super) fn to(&mut self, path: &TreePath) -> Result<Place, Errno> {
        if path.is_root() {
            return Ok(Place { folder: self.folder(&[])?, name: b".".to_vec() });
        }
        let (folder, name) = path.split();
        Ok(Place { folder: self.folder(folder)?, name: name.to_vec() })
    }

    /// Opens the file at `path`.
    pub(super) fn file(&mut self, path: &TreePath, more: OFlags) -> Result<File, Errno> {
        let device = self.beneath.device;
        self.to(path)?.file(more, device)
    }
}

/// When what a file holds was last changed.
pub(super) fn changed_at(stat: &Stat) -> Time {
    Time { seconds: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) }
}

/// Something that was found in a tree.
#[derive(Debug)]
pub(super) struct Found {
    /// All of it but what a file holds.
    pub(super) entry: Entry,
    /// Its number in its file system.
    pub(super) ino: u64,
    /// How many names it has, in this tree and elsewhere.
    pub(super) links: u64,
    /// When anything of it was last changed.
    pub(super) ctime: (i64, i64),
    /// Another file system is mounted here, and not looked at.
    pub(super) is_foreign: bool,
}

/// Lists a tree, in the order of its manifest; without attributes when nobody needs them.
pub(super) fn walk(beneath: &Beneath, with_xattrs: bool) -> Result<Vec<Found>, Failure> {
    let mut way = beneath.way();
    let mut shared: HashSet<Xattrs> = HashSet::new();
    let root = look(beneath, &mut way, TreePath::root(), with_xattrs, &mut shared)?;
    let (mut all, mut folders) = (vec![root], vec![TreePath::root()]);
    while let Some(folder) = folders.pop() {
        let fail = |error: Errno| Failure::of(&folder, "list it")(error);
        let held = way.folder(folder.as_bytes()).map_err(fail)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listing = fs::openat(&held, ".", flags, Mode::empty()).map_err(fail)?;
        for item in fs::Dir::new(listing).map_err(fail)? {
            let item = item.map_err(fail)?;
            let name = item.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let path = folder.join(name).map_err(|error: PathError| Failure {
                path: folder.clone(),
                doing: "name what is in it",
                error: io::Error::new(io::ErrorKind::InvalidFilename, error),
            })?;
            let found = look(beneath, &mut way, path, with_xattrs, &mut shared)?;
            if found.entry.is_dir() && !found.is_foreign {
                folders.push(found.entry.path.clone());
            }
            all.push(found);
        }
    }
    all.sort_by(|a, b| a.entry.path.cmp(&b.entry.path));
    let mut first: HashMap<u64, u32> = HashMap::new();
    for (at, found) in (0..).zip(&mut all) {
        if found.links < 2 || found.entry.is_dir() {
            continue;
        }
        let to = *first.entry(found.ino).or_insert(at);
        if to != at {
            found.entry.node = Node::HardLink(to);
        }
    }
    Ok(all)
}

fn look(
    beneath: &Beneath,
    way: &mut Way<'_>,
    path: TreePath,
    with_xattrs: bool,
    shared: &mut HashSet<Xattrs>,
) -> Result<Found, Failure> {
    let place = way.to(&path).map_err(Failure::of(&path, "reach it"))?;
    let stat = place.stat().map_err(Failure::of(&path, "look at it"))?;
    let mut xattrs = Xattrs::from([]);
    if with_xattrs {
        let found = Xattrs::from(place.xattrs().map_err(Failure::of(&path, "read its attributes"))?);
        xattrs = shared.get(&found).cloned().unwrap_or_else(|| {
            shared.insert(found.clone());
            found
        });
    }
    let device = || Device { major: fs::major(stat.st_rdev), minor: fs::minor(stat.st_rdev) };
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Dir,
        FileType::RegularFile => Kind::File(Content { size: stat.st_size.cast_unsigned(), runs: Vec::new() }),
        FileType::Symlink => {
            let to = fs::readlinkat(place.folder(), place.name(), Vec::new());
            Kind::Symlink(to.map_err(Failure::of(&path, "read the link"))?.into_bytes().into())
        }
        FileType::CharacterDevice => Kind::Char(device()),
        FileType::BlockDevice => Kind::Block(device()),
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::Unknown => return Err(Failure::of(&path, "tell what it is")(Errno::INVAL)),
    };
    let mode = if matches!(kind, Kind::Symlink(_)) { 0o777 } else { (stat.st_mode & 0o7777) as u16 };
    let inode = Inode { mode, uid: stat.st_uid, gid: stat.st_gid, mtime: changed_at(&stat), xattrs, kind };
    #[allow(clippy::useless_conversion, reason = "other processors have another type")]
    let links = u64::from(stat.st_nlink);
    Ok(Found {
        entry: Entry { path, node: Node::Inode(inode) },
        ino: stat.st_ino,
        links,
        ctime: (stat.st_ctime, i64::try_from(stat.st_ctime_nsec).unwrap_or(0)),
        is_foreign: stat.st_dev != beneath.device,
    })
}
