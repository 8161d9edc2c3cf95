//! Where a tree goes to: a folder, mostly the root of a file system that was just made.
//!
//! Files are written in place: the target is nobody's before it is done, and what arrived of an interrupted shipment is found where it
//! belongs. What is in the way is moved into a folder of its own at the top, serves as source of chunks, and is removed.

use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{self, AtFlags, FallocateFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::beneath::{Beneath, Failure, Found, Place, Way, changed_at, walk};
use super::entry::{Device, Entry, Inode, Kind, Node, TreePath, cell_length};
use super::manifest::Manifest;
use super::mounted::Mounted;
use super::plan::{Aside, Plan};
use crate::shipment::{BLOCK, ShipmentError};

/// What the folder for what is in the way is called, if the tree has nothing of that name.
const ATTIC: &str = ".rocks-ship-aside";

/// A folder that a tree is written to.
#[derive(Debug)]
pub struct TreeTarget {
    pub(super) beneath: Beneath,
    path: PathBuf,
    pub(super) tolerates: bool,
}

/// What of a file could not be made as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum What {
    /// Its owner or group.
    Owner,
    /// Its extended attributes.
    Attributes,
    /// It is a device, or something else that only root makes, and is not there at all.
    Existence,
}

/// Something that could not be made as it should be, and was let pass because that was asked for.
#[derive(Debug, thiserror::Error)]
#[error("{failure}")]
pub struct Finding {
    /// The number of its entry.
    pub(super) at: u32,
    /// What of it.
    pub what: What,
    /// Why.
    pub failure: Failure,
}

/// The things that could not be made.
pub type Findings = Vec<Finding>;

/// Whether it is missing rights, or a file system that cannot have it.
fn is_denied(error: &io::Error) -> bool {
    let denied = [Errno::PERM, Errno::ACCESS, Errno::NOTSUP, Errno::INVAL];
    denied.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

impl TreeTarget {
    /// Opens the folder at `path`, which is there. Everything below it becomes what is shipped, and nothing else is left.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> Result<Self, ShipmentError> {
        let beneath =
            Beneath::open(path).map_err(|error| ShipmentError::Target(format!("{}: {error}", path.display())))?;
        Ok(Self { beneath, path: path.to_owned(), tolerates: false })
    }

    /// The root of a file system that is mounted nowhere else. `name` is for messages.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn on(mounted: &Mounted, name: &Path) -> Result<Self, ShipmentError> {
        let beneath = Beneath::at(mounted.root())
            .map_err(|error| ShipmentError::Target(format!("{}: {error}", name.display())))?;
        Ok(Self { beneath, path: name.to_owned(), tolerates: false })
    }

    /// Lets pass what only root may do: owners, devices, and attributes that are refused count as findings then.
    #[must_use]
    pub const fn tolerant(mut self) -> Self {
        self.tolerates = true;
        self
    }

    pub(super) fn fail(&self, failure: &Failure) -> ShipmentError {
        ShipmentError::Target(format!("{}: {failure}", self.path.display()))
    }

    /// Counts a failure, if that is asked for and it is one that may pass.
    fn pass(&self, at: usize, what: What, done: Result<(), Failure>, findings: &mut Findings) -> Result<(), Failure> {
        match done {
            Err(failure) if self.tolerates && is_denied(&failure.error) => {
                findings.push(Finding { at: u32::try_from(at).unwrap_or(u32::MAX), what, failure });
                Ok(())
            }
            other => other,
        }
    }

    /// Looks at what is there. With `with_xattrs` it is to be the end, and read from the device.
    pub(super) fn survey(&self, with_xattrs: bool, done: &AtomicU64, stop: &AtomicBool) -> Result<Vec<Found>, Failure> {
        let mut found = walk(&self.beneath, with_xattrs)?;
        if let Some(foreign) = found.iter().find(|found| found.is_foreign) {
            return Err(Failure::of(&foreign.entry.path, "write to it")(Errno::XDEV));
        }
        super::hash::fill(&self.beneath, &mut found, done, with_xattrs, stop)?;
        Ok(found)
    }

    /// Brings the target into the shape of the tree: everything is there, and of its length, with what files had already.
    pub(super) fn arrange(
        &self,
        manifest: &Manifest,
        found: &[Found],
        plan: &Plan,
        done: &AtomicU64,
    ) -> Result<Findings, Failure> {
        let mut way = self.beneath.way();
        let mut findings = Findings::new();
        loosen(&mut way, found)?;
        let attic = attic(manifest, found);
        if !plan.aside.is_empty() {
            let place = way.to(&attic).map_err(Failure::of(&attic, "reach it"))?;
            fs::mkdirat(place.folder(), place.name(), Mode::RWXU).map_err(Failure::of(&attic, "make it"))?;
        }
        let aside = Aside::new(plan, found, attic.clone());
        for at in &plan.aside {
            let path = &found[*at as usize].entry.path;
            let (from, number) = (way.to(path), aside.now(path));
            let moved = from.and_then(|from| {
                let to = way.to(&number.ok_or(Errno::NAMETOOLONG)?)?;
                fs::renameat(from.folder(), from.name(), to.folder(), to.name())
            });
            moved.map_err(Failure::of(path, "move it aside"))?;
            way.forget();
        }
        for (at, entry) in manifest.entries().iter().enumerate() {
            let is_missing = |to: u32| findings.iter().any(|finding| finding.at == to);
            let made = match entry.node {
                // Another name of what could not be made cannot be made either.
                Node::HardLink(to) if is_missing(to) => Err(Failure::of(&entry.path, "link it")(Errno::PERM)),
                _ => make(&mut way, manifest, entry, plan.kept[at], found),
            };
            self.pass(at, What::Existence, made, &mut findings)?;
            done.fetch_add(1, Ordering::Relaxed);
        }
        let mut writer = self.writer(manifest);
        for (at, cell) in &plan.zeros {
            writer.zero(*at, *cell)?;
        }
        let mut buffer = Vec::new();
        let mut open: Option<(u32, std::fs::File)> = None;
        for copy in &plan.copies {
            let thing = &found[copy.from.0 as usize].entry;
            let Some(content) = thing.content() else { continue };
            let file = match open.take() {
                Some((at, file)) if at == copy.from.0 => file,
                _ => {
                    let now = aside.now(&thing.path).ok_or(Errno::NAMETOOLONG);
                    let file = now.and_then(|now| way.file(&now, OFlags::RDONLY));
                    file.map_err(Failure::of(&thing.path, "open what it was"))?
                }
            };
            buffer.resize(cell_length(content.size, copy.from.1), 0);
            let read = file.read_exact_at(&mut buffer, u64::from(copy.from.1) * BLOCK as u64);
            read.map_err(Failure::of(&thing.path, "read what it was"))?;
            writer.put(copy.to.0, copy.to.1, &buffer)?;
            open = Some((copy.from.0, file));
        }
        drop(open);
        if !plan.aside.is_empty() {
            remove(&mut way, &attic)?;
        }
        Ok(findings)
    }

    /// Writes chunks to their places, for one thread.
    pub(super) fn writer<'t>(&'t self, manifest: &'t Manifest) -> Writer<'t> {
        Writer { way: self.beneath.way(), manifest, open: None }
    }

    /// Gives everything its owner, attributes, mode and time: what is in a folder before the folder.
    pub(super) fn finish(
        &self,
        manifest: &Manifest,
        mut findings: Findings,
        done: &AtomicU64,
    ) -> Result<Findings, Failure> {
        let mut way = self.beneath.way();
        let missing: std::collections::HashSet<u32> = findings.iter().map(|finding| finding.at).collect();
        for (at, entry) in manifest.entries().iter().enumerate().rev() {
            done.fetch_add(1, Ordering::Relaxed);
            let Node::Inode(inode) = &entry.node else { continue };
            if missing.contains(&u32::try_from(at).unwrap_or(u32::MAX)) {
                continue;
            }
            let place = way.to(&entry.path).map_err(Failure::of(&entry.path, "reach it"))?;
            self.dress(at, entry, inode, &place, &mut findings)?;
        }
        Ok(findings)
    }

    fn dress(
        &self,
        at: usize,
        entry: &Entry,
        inode: &Inode,
        place: &Place,
        findings: &mut Findings,
    ) -> Result<(), Failure> {
        let path = &entry.path;
        let stat = place.stat().map_err(Failure::of(path, "look at it"))?;
        let is_link = matches!(inode.kind, Kind::Symlink(_));
        let now = place.xattrs().map_err(Failure::of(path, "read its attributes"))?;
        let is_owned = (stat.st_uid, stat.st_gid) == (inode.uid, inode.gid);
        let is_dressed = *now == *inode.xattrs;
        let mut mode = (stat.st_mode & 0o7777) as u16;
        if !is_owned {
            let (uid, gid) = (fs::Uid::from_raw(inode.uid), fs::Gid::from_raw(inode.gid));
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            let owned = fs::chownat(place.folder(), place.name(), Some(uid), Some(gid), flags);
            self.pass(at, What::Owner, owned.map_err(Failure::of(path, "give it its owner")), findings)?;
        }
        if !is_dressed && !is_link && mode & 0o600 != 0o600 {
            // Some attributes can only be given by who may write.
            place.chmod(mode | 0o600).map_err(Failure::of(path, "change its mode"))?;
        }
        if !is_owned || !is_dressed {
            // A new owner takes away capabilities, so they are looked at again.
            let dressed = attributes(inode, place).map_err(Failure::of(path, "give it its attributes"));
            self.pass(at, What::Attributes, dressed, findings)?;
            mode = (place.stat().map_err(Failure::of(path, "look at it"))?.st_mode & 0o7777) as u16;
        }
        if !is_link && mode != inode.mode {
            place.chmod(inode.mode).map_err(Failure::of(path, "give it its mode"))?;
        }
        if changed_at(&stat) != inode.mtime {
            let mtime = fs::Timespec { tv_sec: inode.mtime.seconds, tv_nsec: inode.mtime.nanos.into() };
            let atime = fs::Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT };
            let times = fs::Timestamps { last_access: atime, last_modification: mtime };
            fs::utimensat(place.folder(), place.name(), &times, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(Failure::of(path, "give it its time"))?;
        }
        Ok(())
    }
}

/// Makes what is not there, and gives files their length.
fn make(way: &mut Way<'_>, manifest: &Manifest, entry: &Entry, kept: bool, found: &[Found]) -> Result<(), Failure> {
    let path = &entry.path;
    let inode = match &entry.node {
        Node::HardLink(_) if kept => return Ok(()),
        Node::HardLink(to) => {
            let to = &manifest.entries()[*to as usize].path;
            let linked = way.to(to).and_then(|from| {
                let place = way.to(path)?;
                fs::linkat(from.folder(), from.name(), place.folder(), place.name(), AtFlags::empty())
            });
            return linked.map_err(Failure::of(path, "link it"));
        }
        Node::Inode(inode) => inode,
    };
    let node = |kind, device: Device| (kind, fs::makedev(device.major, device.minor));
    let (kind, device) = match &inode.kind {
        Kind::File(content) if kept => {
            let was = found.binary_search_by(|found| found.entry.path.cmp(path)).ok();
            let was = was.and_then(|at| match found[at].entry.node {
                Node::HardLink(first) => found[first as usize].entry.content(),
                Node::Inode(_) => found[at].entry.content(),
            });
            if was.is_some_and(|was| was.size == content.size) {
                return Ok(());
            }
            let file = writable(way, path)?;
            return fs::ftruncate(&file, content.size).map_err(Failure::of(path, "give it its length"));
        }
        _ if kept => return Ok(()),
        Kind::File(content) => {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
            let file = way.file(path, flags).map_err(Failure::of(path, "make it"))?;
            return fs::ftruncate(&file, content.size).map_err(Failure::of(path, "give it its length"));
        }
        Kind::Dir => {
            let made = way.to(path).and_then(|place| fs::mkdirat(place.folder(), place.name(), Mode::RWXU));
            return made.map_err(Failure::of(path, "make it"));
        }
        Kind::Symlink(to) => {
            let made = way.to(path).and_then(|place| fs::symlinkat(&**to, place.folder(), place.name()));
            return made.map_err(Failure::of(path, "make it"));
        }
        Kind::Char(device) => node(FileType::CharacterDevice, *device),
        Kind::Block(device) => node(FileType::BlockDevice, *device),
        Kind::Fifo => (FileType::Fifo, 0),
        Kind::Socket => (FileType::Socket, 0),
    };
    let mode = Mode::RUSR | Mode::WUSR;
    let made = way.to(path).and_then(|place| fs::mknodat(place.folder(), place.name(), kind, mode, device));
    made.map_err(Failure::of(path, "make it"))
}

/// A label that the kernel gives to what has none is left alone: it cannot be taken away.
pub(super) fn is_kernels(name: &[u8]) -> bool {
    name == b"security.selinux"
}

fn attributes(inode: &Inode, place: &Place) -> Result<(), Errno> {
    let now = place.xattrs()?;
    for xattr in now.iter().filter(|xattr| !is_kernels(&xattr.name)) {
        if !inode.xattrs.iter().any(|wanted| wanted.name == xattr.name) {
            place.remove_xattr(&xattr.name)?;
        }
    }
    inode.xattrs.iter().filter(|wanted| !now.contains(wanted)).try_for_each(|wanted| place.set_xattr(wanted))
}

/// Lets us into folders that we own and may not write to.
fn loosen(way: &mut Way<'_>, found: &[Found]) -> Result<(), Failure> {
    for found in found {
        let Node::Inode(Inode { mode, kind: Kind::Dir, .. }) = &found.entry.node else { continue };
        if mode & 0o700 != 0o700 {
            let path = &found.entry.path;
            let place = way.to(path).map_err(Failure::of(path, "reach it"))?;
            // Who may do it anyhow needs none of this; who may not hears of it later.
            let _ = place.chmod(mode | 0o700);
        }
    }
    Ok(())
}

/// Opens a file that is there to be written, which its own mode may forbid us.
fn writable(way: &mut Way<'_>, path: &TreePath) -> Result<std::fs::File, Failure> {
    match way.file(path, OFlags::RDWR) {
        Err(Errno::ACCESS) => {
            let place = way.to(path).map_err(Failure::of(path, "reach it"))?;
            place.chmod(0o600).map_err(Failure::of(path, "change its mode"))?;
            way.file(path, OFlags::RDWR).map_err(Failure::of(path, "open it"))
        }
        other => other.map_err(Failure::of(path, "open it")),
    }
}

/// A name that neither the tree nor the target has.
fn attic(manifest: &Manifest, found: &[Found]) -> TreePath {
    let names = std::iter::once(ATTIC.to_owned()).chain((1..).map(|n| format!("{ATTIC}-{n}")));
    let mut paths = names.filter_map(|name| TreePath::root().join(name.as_bytes()).ok());
    let is_free = |path: &TreePath| {
        manifest.find(path.as_bytes()).is_none() && !found.iter().any(|found| found.entry.path == *path)
    };
    paths.find(is_free).unwrap_or_else(TreePath::root)
}

/// Removes a folder with all that is in it.
fn remove(way: &mut Way<'_>, path: &TreePath) -> Result<(), Failure> {
    let mut folders = vec![path.clone()];
    while let Some(folder) = folders.last().cloned() {
        let fail = |error: Errno| Failure::of(&folder, "remove what is in it")(error);
        let held = way.folder(folder.as_bytes()).map_err(fail)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listing = fs::openat(&held, ".", flags, Mode::empty()).map_err(fail)?;
        let before = folders.len();
        for item in fs::Dir::new(listing).map_err(fail)? {
            let item = item.map_err(fail)?;
            let name = item.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            match fs::unlinkat(&held, name, AtFlags::empty()) {
                Ok(()) => {}
                // What Linux says of a folder, and what POSIX does.
                Err(Errno::ISDIR | Errno::PERM) => {
                    folders.push(folder.join(name).map_err(|_| fail(Errno::NAMETOOLONG))?);
                }
                Err(error) => return Err(fail(error)),
            }
        }
        if folders.len() == before {
            folders.pop();
            way.forget();
            let place = way.to(&folder).map_err(fail)?;
            fs::unlinkat(place.folder(), place.name(), AtFlags::REMOVEDIR).map_err(fail)?;
        }
    }
    Ok(())
}

/// Writes chunks.
pub(super) struct Writer<'t> {
    way: Way<'t>,
    manifest: &'t Manifest,
    /// The file that was written last: the next chunk is mostly for the same.
    open: Option<(u32, std::fs::File)>,
}

impl Writer<'_> {
    fn with(
        &mut self,
        at: u32,
        doing: &'static str,
        work: impl FnOnce(&std::fs::File) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let path = &self.manifest.entries()[at as usize].path;
        if self.open.as_ref().is_none_or(|(open, _)| *open != at) {
            self.open = Some((at, writable(&mut self.way, path)?));
        }
        match &self.open {
            Some((_, file)) => work(file).map_err(Failure::of(path, doing)),
            None => Ok(()),
        }
    }

    /// Writes chunk `cell` of entry `at`.
    pub(super) fn put(&mut self, at: u32, cell: u32, bytes: &[u8]) -> Result<(), Failure> {
        self.with(at, "write to it", |file| file.write_all_at(bytes, u64::from(cell) * BLOCK as u64))
    }

    /// Makes chunk `cell` of entry `at` a hole.
    fn zero(&mut self, at: u32, cell: u32) -> Result<(), Failure> {
        let size = self.manifest.entries()[at as usize].content().map_or(0, |content| content.size);
        let (from, length) = (u64::from(cell) * BLOCK as u64, cell_length(size, cell));
        self.with(at, "make a hole in it", |file| {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fs::fallocate(file, flags, from, length as u64).or_else(|_| file.write_all_at(&vec![0; length], from))
        })
    }
}
