//! A tree read from an ext2, ext3 or ext4 file system in an image, without mounting it and without root.
//!
//! The crate `ext4-view` does not do: it knows neither extended attributes nor numbers of inodes and devices.

mod disk;
mod xattr;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use self::disk::{Disk, Extent, FLAG_ENCRYPTED, Raw, u16_at, u32_at};
use super::entry::{
    Content, Device, Entry, FILE_BYTES, Inode, Kind, LINK, Node, Time, TreePath, Xattrs, cell_length, cells_of,
};
use super::manifest::Manifest;
use super::mounted::Origin;
use super::source::{TreeReader, TreeSource, changed, print_of};
use super::talk::watched;
use crate::shipment::{BLOCK, BlockDigest, Phase, Progress, ShipmentError, Tell, block_digest, processors};

pub use self::disk::ExtError;

/// A chunk of a file that is not zero.
type Cell = (u32, BlockDigest);
/// The chunks of an entry.
type Part = (usize, Vec<Cell>);

/// The inode of the root.
const ROOT: u32 = 2;

/// A file system in an image.
#[derive(Debug)]
pub struct ExtImage {
    disk: Disk,
    path: PathBuf,
    place: Range<u64>,
    /// When the image itself was last changed, as it was when it was opened.
    print: (i64, i64, u64),
    /// The inodes of the entries of the manifest.
    inodes: HashMap<TreePath, u32>,
}

impl ExtImage {
    /// Opens the file system at `place` of the image at `path`; nothing if there is none of these kinds.
    ///
    /// # Errors
    /// It cannot be read, was not cleanly unmounted, or has features that are not known here.
    pub fn open(path: &Path, place: &Range<u64>) -> Result<Option<Self>, ShipmentError> {
        let fail = |error: ExtError| ShipmentError::Source(format!("{}: {error}", path.display()));
        let file = File::open(path).map_err(|error| fail(error.into()))?;
        let print = print_of(&file).map_err(|error| fail(error.into()))?;
        let disk = Disk::open(file, place).map_err(fail)?;
        Ok(disk.map(|disk| Self { disk, path: path.to_owned(), place: place.clone(), print, inodes: HashMap::new() }))
    }

    /// Opens the root file system of a disk image: the only one of these kinds that has `etc` and `usr` or `bin`.
    ///
    /// # Errors
    /// There is none, or more than one; or see [`ExtImage::open`].
    pub fn root_of(path: &Path) -> Result<Self, ShipmentError> {
        let fail = |why: &dyn std::fmt::Display| ShipmentError::Source(format!("{}: {why}", path.display()));
        let file = File::open(path).map_err(|error| fail(&error))?;
        let bytes = crate::image::length(&file).map_err(|error| fail(&error))?;
        let parts = crate::image::partitions(&file, bytes).map_err(|error| fail(&error))?;
        let mut places: Vec<Range<u64>> = parts.into_iter().map(|part| part.bytes).collect();
        // A file system's boot block may look like a partition table: what is a file system as a whole is one.
        if Origin::of(&file, &(0..bytes)).map_err(|error| fail(&error))?.is_some() {
            places = std::iter::once(0..bytes).collect();
        }
        let mut roots = Vec::new();
        for place in places {
            let Some(image) = Self::open(path, &place)? else { continue };
            let names = image.disk.inode(ROOT).and_then(|root| image.disk.names(&root));
            let names = names.map_err(|error| fail(&error))?;
            let has = |wanted: &[u8]| names.iter().any(|(name, _)| name == wanted);
            if has(b"etc") && (has(b"usr") || has(b"bin")) {
                roots.push(image);
            }
        }
        match (roots.pop(), roots.pop()) {
            (Some(root), None) => Ok(root),
            (None, _) => Err(fail(&"no ext2, ext3 or ext4 file system in it is the root of a Linux system")),
            _ => Err(fail(&"more than one file system in it looks like a root")),
        }
    }

    /// Where in the image the file system is, in bytes.
    #[must_use]
    pub fn place(&self) -> Range<u64> {
        self.place.clone()
    }

    fn fail(&self, path: &TreePath, error: &ExtError) -> ShipmentError {
        ShipmentError::Source(format!("{}: {path}: {error}", self.path.display()))
    }

    /// All names, and the numbers of their inodes, in the order of a manifest. Files hold nothing yet.
    fn list(&self) -> Result<Vec<(Entry, u32)>, ShipmentError> {
        let (mut shared, mut seen): (HashSet<Xattrs>, _) = (HashSet::new(), BTreeSet::from([ROOT]));
        let mut all = Vec::new();
        let mut folders = vec![(TreePath::root(), ROOT)];
        let root = self.disk.inode(ROOT).map_err(|error| self.fail(&TreePath::root(), &error))?;
        all.push((self.entry(TreePath::root(), &root, &mut shared)?, ROOT, 1));
        while let Some((folder, number)) = folders.pop() {
            let names = self.disk.inode(number).and_then(|raw| self.disk.names(&raw));
            for (name, number) in names.map_err(|error| self.fail(&folder, &error))? {
                let bad = |_| self.fail(&folder, &ExtError::Damaged("a name that is none"));
                let path = folder.join(&name).map_err(bad)?;
                let raw = self.disk.inode(number).map_err(|error| self.fail(&path, &error))?;
                let entry = self.entry(path.clone(), &raw, &mut shared)?;
                if entry.is_dir() {
                    if !seen.insert(number) {
                        return Err(self.fail(&path, &ExtError::Damaged("a folder is in two folders")));
                    }
                    folders.push((path, number));
                }
                all.push((entry, number, u16_at(&raw.0, 26)));
            }
        }
        all.sort_by(|a, b| a.0.path.cmp(&b.0.path));
        let mut first: HashMap<u32, u32> = HashMap::new();
        for (at, (entry, number, links)) in (0..).zip(&mut all) {
            if *links > 1 && !entry.is_dir() {
                let to = *first.entry(*number).or_insert(at);
                if to != at {
                    entry.node = Node::HardLink(to);
                }
            }
        }
        Ok(all.into_iter().map(|(entry, number, _)| (entry, number)).collect())
    }

    fn entry(&self, path: TreePath, raw: &Raw, shared: &mut HashSet<Xattrs>) -> Result<Entry, ShipmentError> {
        let made = (|| {
            if raw.flags() & FLAG_ENCRYPTED != 0 {
                return Err(ExtError::Unknown("is encrypted"));
            }
            let found = Xattrs::from(xattr::xattrs(&self.disk, raw)?);
            let xattrs = shared.get(&found).cloned().unwrap_or_else(|| {
                shared.insert(found.clone());
                found
            });
            let kind = match raw.mode() >> 12 {
                0x4 => Kind::Dir,
                0x8 if raw.size() > FILE_BYTES => return Err(ExtError::Damaged("a file is too large")),
                0x8 => Kind::File(Content { size: raw.size(), runs: Vec::new() }),
                0xa if raw.is_fast_link() => {
                    let to = raw.places().get(..raw.size() as usize).unwrap_or_default();
                    Kind::Symlink(to.into())
                }
                0xa => Kind::Symlink(self.disk.all(raw, LINK as u64)?.into()),
                0x2 => Kind::Char(device(raw)),
                0x6 => Kind::Block(device(raw)),
                0x1 => Kind::Fifo,
                0xc => Kind::Socket,
                _ => return Err(ExtError::Damaged("an inode is nothing that there is")),
            };
            let mode = if matches!(kind, Kind::Symlink(_)) { 0o777 } else { raw.mode() & 0o7777 };
            let id = |low, high| u32::from(u16_at(&raw.0, low)) | u32::from(u16_at(&raw.0, high)) << 16;
            Ok(Inode { mode, uid: id(2, 120), gid: id(24, 122), mtime: mtime(raw), xattrs, kind })
        })();
        match made {
            Ok(inode) => Ok(Entry { path, node: Node::Inode(inode) }),
            Err(error) => Err(self.fail(&path, &error)),
        }
    }

    /// The digests of all chunks of the files of `all`.
    fn digests(&self, all: &[(Entry, u32)], done: &AtomicU64, stop: &AtomicBool) -> Result<Vec<Part>, ShipmentError> {
        let next = AtomicUsize::new(0);
        let (parts, failed) = (Mutex::new(Vec::new()), Mutex::new(None));
        std::thread::scope(|scope| {
            for _ in 0..processors() {
                scope.spawn(|| {
                    let mut buffer = Vec::with_capacity(BLOCK);
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some((entry, number)) = all.get(at) else { return };
                        let Some(content) = entry.content() else { continue };
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        match self.file(*number, content.size, &mut buffer) {
                            Ok(part) => parts.lock().unwrap_or_else(PoisonError::into_inner).push((at, part)),
                            Err(error) => {
                                let error = self.fail(&entry.path, &error);
                                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                                next.store(all.len(), Ordering::Relaxed);
                                return;
                            }
                        }
                        done.fetch_add(cells_of(content.size), Ordering::Relaxed);
                    }
                });
            }
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(parts.into_inner().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    fn file(&self, number: u32, size: u64, buffer: &mut Vec<u8>) -> Result<Vec<Cell>, ExtError> {
        let extents = self.disk.extents(&self.disk.inode(number)?)?;
        let (mut part, mut next) = (Vec::new(), 0);
        for (from, length, _) in &extents {
            // Only chunks that have something on the disk, each once.
            let (start, end) = (from * self.disk.block, (from + length) * self.disk.block);
            let cells = next.max(start / BLOCK as u64)..end.div_ceil(BLOCK as u64).min(cells_of(size));
            for cell in cells.clone() {
                let number = u32::try_from(cell).unwrap_or(u32::MAX);
                buffer.resize(cell_length(size, number), 0);
                self.disk.content(&extents, cell * BLOCK as u64, buffer)?;
                part.extend(block_digest(buffer).map(|digest| (number, digest)));
            }
            next = next.max(cells.end);
        }
        Ok(part)
    }
}

/// The numbers of a device: in the old form where they fit, else in the new one.
fn device(raw: &Raw) -> Device {
    let (old, new) = (u32_at(raw.places(), 0), u32_at(raw.places(), 4));
    if old != 0 {
        Device { major: old >> 8 & 0xff, minor: old & 0xff }
    } else {
        Device { major: new >> 8 & 0xfff, minor: new & 0xff | new >> 12 & 0xf_ff00 }
    }
}

/// When a file was last changed: larger inodes have nanoseconds, and two more bits for the years after 2038.
fn mtime(raw: &Raw) -> Time {
    let seconds = i64::from(u32_at(&raw.0, 16).cast_signed());
    let has_more = raw.0.len() > 128 && u16_at(&raw.0, 128) >= 12;
    let more = if has_more { u32_at(&raw.0, 136) } else { 0 };
    Time { seconds: seconds + (i64::from(more & 3) << 32), nanos: (more >> 2).min(999_999_999) }
}

impl TreeSource for ExtImage {
    fn manifest(&mut self, tell: Tell<'_>) -> Result<Manifest, ShipmentError> {
        let mut all = self.list()?;
        let of = all.iter().filter_map(|(entry, _)| entry.content()).map(|content| cells_of(content.size)).sum();
        let done = AtomicU64::new(0);
        let say = |done| {
            tell(Progress { phase: Phase::Hashing, done, of, sent_bytes: 0 });
            Ok(())
        };
        let parts = watched(&done, say, |stop| self.digests(&all, &done, stop))??;
        for (at, part) in parts {
            let Some(content) = all[at].0.content_mut() else { continue };
            part.into_iter().for_each(|(cell, digest)| content.push(cell, digest));
        }
        self.unchanged()?;
        let files = all.iter().filter(|(entry, _)| entry.content().is_some());
        self.inodes = files.map(|(entry, number)| (entry.path.clone(), *number)).collect();
        Manifest::new(all.into_iter().map(|(entry, _)| entry).collect())
            .map_err(|error| ShipmentError::Source(format!("{}: {error}", self.path.display())))
    }

    fn origin(&self) -> Origin {
        self.disk.origin
    }

    fn reader(&self) -> Box<dyn TreeReader + '_> {
        Box::new(ExtReader { image: self, last: None })
    }

    fn unchanged(&self) -> Result<(), ShipmentError> {
        match print_of(&self.disk.file) {
            Ok(now) if now == self.print => Ok(()),
            Ok(_) => Err(changed()),
            Err(error) => Err(self.fail(&TreePath::root(), &error.into())),
        }
    }
}

struct ExtReader<'i> {
    image: &'i ExtImage,
    /// The file that was read last, and where it lies: the next chunk is mostly of the same.
    last: Option<(TreePath, Vec<Extent>)>,
}

impl TreeReader for ExtReader<'_> {
    fn read(&mut self, entry: &Entry, cell: u32, buffer: &mut Vec<u8>) -> Result<(), ShipmentError> {
        let disk = &self.image.disk;
        let (Some(content), Some(number)) = (entry.content(), self.image.inodes.get(&entry.path)) else {
            return Err(changed());
        };
        let fail = |error: ExtError| self.image.fail(&entry.path, &error);
        let extents = match self.last.take() {
            Some((path, extents)) if path == entry.path => extents,
            _ => disk.inode(*number).and_then(|raw| disk.extents(&raw)).map_err(fail)?,
        };
        buffer.resize(cell_length(content.size, cell), 0);
        let read = disk.content(&extents, u64::from(cell) * BLOCK as u64, buffer);
        self.last = Some((entry.path.clone(), extents));
        read.map(|_| ()).map_err(fail)
    }
}
