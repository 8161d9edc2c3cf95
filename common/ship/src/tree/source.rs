//! Where a tree comes from.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};

use rustix::fs::OFlags;

use super::beneath::{Beneath, Failure, Found, walk};
use super::entry::{Entry, Node, cell_length, cells_of};
use super::manifest::Manifest;
use super::mounted::{Mounted, Origin};
use super::talk::watched;
use crate::shipment::{BLOCK, BlockDigest, Phase, Progress, ShipmentError, Tell};

/// A tree that can be read, by many threads at a time.
pub trait TreeSource: Sync {
    /// Reads all of it and makes its manifest.
    ///
    /// # Errors
    /// It cannot be read, or is no tree that can be shipped.
    fn manifest(&mut self, tell: Tell<'_>) -> Result<Manifest, ShipmentError>;

    /// The file system that it is the root of, if it is one.
    fn origin(&self) -> Origin {
        Origin::default()
    }

    /// Something that reads its files, for one thread.
    fn reader(&self) -> Box<dyn TreeReader + '_>;

    /// Looks whether it is still what the manifest was made of.
    ///
    /// # Errors
    /// It is not.
    fn unchanged(&self) -> Result<(), ShipmentError>;
}

/// Reads the files of a tree.
pub trait TreeReader {
    /// Reads chunk `cell` of the file that `entry` is the first name of.
    ///
    /// # Errors
    /// It cannot be read.
    fn read(&mut self, entry: &Entry, cell: u32, buffer: &mut Vec<u8>) -> Result<(), ShipmentError>;
}

/// A folder, as the root of a mounted file system is one. What is mounted below it is not part of it.
#[derive(Debug)]
pub struct Folder {
    beneath: Beneath,
    path: PathBuf,
    /// Of all names, times and numbers when the manifest was made.
    print: Option<BlockDigest>,
    origin: Origin,
}

impl Folder {
    /// Opens the folder at `path`.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> Result<Self, ShipmentError> {
        let beneath =
            Beneath::open(path).map_err(|error| ShipmentError::Source(format!("{}: {error}", path.display())))?;
        Ok(Self { beneath, path: path.to_owned(), print: None, origin: Origin::default() })
    }

    /// The root of a file system that is mounted nowhere else. `name` is for messages.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn on(mounted: &Mounted, name: &Path, origin: Origin) -> Result<Self, ShipmentError> {
        let beneath = Beneath::at(mounted.root())
            .map_err(|error| ShipmentError::Source(format!("{}: {error}", name.display())))?;
        Ok(Self { beneath, path: name.to_owned(), print: None, origin })
    }

    fn fail(&self, failure: &Failure) -> ShipmentError {
        ShipmentError::Source(format!("{}: {failure}", self.path.display()))
    }
}

/// A digest of everything that changes when a file does: any change moves the time that nobody can set.
fn print(found: &[Found]) -> BlockDigest {
    let mut hash = blake3::Hasher::new_derive_key("rocks shipment 1 tree as it was");
    for found in found {
        let path = found.entry.path.as_bytes();
        hash.update(&(path.len() as u64).to_le_bytes()).update(path);
        // What is mounted on a folder of the tree is not ours to watch.
        let (ino, (seconds, nanos)) = if found.is_foreign { (0, (0, 0)) } else { (found.ino, found.ctime) };
        hash.update(&ino.to_le_bytes()).update(&seconds.to_le_bytes()).update(&nanos.to_le_bytes());
    }
    *hash.finalize().as_bytes()
}

/// The manifest of what was found.
pub(super) fn manifest_of(found: Vec<Found>) -> Result<Manifest, super::DecodeError> {
    Manifest::new(found.into_iter().map(|found| found.entry).collect())
}

/// How many chunks the files of `found` have, holes included.
pub(super) fn cells(found: &[Found]) -> u64 {
    found.iter().filter_map(|found| found.entry.content()).map(|content| cells_of(content.size)).sum()
}

impl TreeSource for Folder {
    fn manifest(&mut self, tell: Tell<'_>) -> Result<Manifest, ShipmentError> {
        let mut found = walk(&self.beneath, true).map_err(|error| self.fail(&error))?;
        let seen = print(&found);
        let (done, of) = (AtomicU64::new(0), cells(&found));
        let say = |done| {
            tell(Progress { phase: Phase::Hashing, done, of, sent_bytes: 0 });
            Ok(())
        };
        let read = |stop: &AtomicBool| super::hash::fill(&self.beneath, &mut found, &done, false, stop);
        watched(&done, say, read)?.map_err(|error| self.fail(&error))?;
        self.print = Some(seen);
        self.unchanged()?;
        manifest_of(found).map_err(|error| ShipmentError::Source(format!("{}: {error}", self.path.display())))
    }

    fn origin(&self) -> Origin {
        self.origin
    }

    fn reader(&self) -> Box<dyn TreeReader + '_> {
        Box::new(FolderReader { way: self.beneath.way(), open: None, folder: self })
    }

    fn unchanged(&self) -> Result<(), ShipmentError> {
        let found = walk(&self.beneath, false).map_err(|error| self.fail(&error))?;
        if self.print.is_some_and(|seen| seen != print(&found)) {
            return Err(changed());
        }
        Ok(())
    }
}

/// When an image was last changed, and how long it is.
pub(super) fn print_of(image: &File) -> std::io::Result<(i64, i64, u64)> {
    let meta = image.metadata()?;
    Ok((meta.ctime(), meta.ctime_nsec(), meta.len()))
}

/// The root of a file system in an image that the kernel reads for us, mounted from it. Whoever writes to the image is found out.
#[derive(Debug)]
pub struct MountedImage {
    folder: Folder,
    image: File,
    print: (i64, i64, u64),
}

impl MountedImage {
    /// What is `mounted` is at `place` of the image at `path`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn new(path: &Path, place: &Range<u64>, mounted: &Mounted) -> Result<Self, ShipmentError> {
        let fail = |error: std::io::Error| ShipmentError::Source(format!("{}: {error}", path.display()));
        let image = File::open(path).map_err(fail)?;
        let origin = Origin::of(&image, place).map_err(fail)?.unwrap_or_default();
        let print = print_of(&image).map_err(fail)?;
        Ok(Self { folder: Folder::on(mounted, path, origin)?, image, print })
    }
}

impl TreeSource for MountedImage {
    fn manifest(&mut self, tell: Tell<'_>) -> Result<Manifest, ShipmentError> {
        let manifest = self.folder.manifest(tell)?;
        self.unchanged()?;
        Ok(manifest)
    }

    fn origin(&self) -> Origin {
        self.folder.origin()
    }

    fn reader(&self) -> Box<dyn TreeReader + '_> {
        self.folder.reader()
    }

    fn unchanged(&self) -> Result<(), ShipmentError> {
        // The kernel does not look again at what it has read.
        match print_of(&self.image) {
            Ok(now) if now == self.print => Ok(()),
            Ok(_) => Err(changed()),
            Err(error) => Err(ShipmentError::Source(format!("{}: {error}", self.folder.path.display()))),
        }
    }
}

/// What is said of a source that somebody writes to.
pub(super) fn changed() -> ShipmentError {
    ShipmentError::Source("it changed while it was sent; ship it again when nobody writes to it".into())
}

struct FolderReader<'f> {
    folder: &'f Folder,
    way: super::beneath::Way<'f>,
    /// The file that was read last: the next chunk is mostly of the same.
    open: Option<(super::TreePath, File)>,
}

impl TreeReader for FolderReader<'_> {
    fn read(&mut self, entry: &Entry, cell: u32, buffer: &mut Vec<u8>) -> Result<(), ShipmentError> {
        let Some(content) = entry.content() else { return Err(changed()) };
        debug_assert!(matches!(entry.node, Node::Inode(_)));
        let file = match self.open.take() {
            Some((path, file)) if path == entry.path => file,
            _ => {
                let open = self.way.file(&entry.path, OFlags::RDONLY);
                open.map_err(|error| self.folder.fail(&Failure::of(&entry.path, "open it")(error)))?
            }
        };
        buffer.resize(cell_length(content.size, cell), 0);
        let read = file.read_exact_at(buffer, u64::from(cell) * BLOCK as u64);
        self.open = Some((entry.path.clone(), file));
        // A file that became shorter.
        read.map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => changed(),
            _ => self.folder.fail(&Failure::of(&entry.path, "read it")(error)),
        })
    }
}
