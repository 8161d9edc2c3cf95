//! The frontend's images, each a folder `NAME` below `images` in the state folder: the disk (`disk.raw`, sparse) and what is known of it
//! (`image.json`).
//!
//! Whoever makes an image works in a [`Room`] and gives the finished disk to [`Images::publish`]: it appears whole, under its name, with one
//! rename, in place of an earlier one if there is one. What a killed frontend left half done is swept away at the next start, but
//! for uploads: what came of one is kept (`.part/NAME`), and the next one goes on from there.

pub mod export;
pub mod import;
pub mod make;
mod out;
pub(crate) mod root;
pub mod upload;
pub mod vmdk;

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use rocks_common::ids::{ApplianceName, Digest, HostName, ImageName};
use rocks_ship::image::Allocation;
use rocks_ship::shipment::{Sender, ShipmentError, Source};
use serde::{Deserialize, Serialize};

use crate::builder::Built;

/// The disk in an image's folder.
const DISK: &str = "disk.raw";
/// What is known of it.
const DESCRIPTION: &str = "image.json";
/// Where uploads are that did not come to their end.
const PARTS: &str = ".part";
/// What folders begin with that are gone when the frontend is started anew.
const SCRATCH: &str = ".new-";
/// Bytes that are copied at a time; what holds only zeros is left out.
const PIECE: usize = 64 << 10;

/// Where an image is from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Origin {
    /// The frontend made it.
    Built(Box<Made>),
    /// Somebody sent it: a host, or the administrator on this machine.
    Uploaded {
        /// The host.
        host: Option<HostName>,
    },
    /// It was copied from a file on this machine.
    Imported {
        /// The file.
        file: PathBuf,
    },
}

/// How the disk is written down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Byte for byte.
    #[default]
    Raw,
}

/// How an image was made here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Made {
    /// The architecture.
    pub arch: String,
    /// The digest of the kickstart that it was made of.
    pub kickstart: Digest,
    /// What came of it.
    #[serde(flatten)]
    pub built: Built,
}

/// What whoever makes an image knows of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Meta {
    /// The appliance that it is of.
    pub appliance: Option<ApplianceName>,
    /// Where it is from.
    pub from: Origin,
    /// The digest over the whole, as shipments have it, if it is known already: else the disk is read.
    pub digest: Option<String>,
}

impl Meta {
    /// Of an image that the frontend made for `appliance`.
    #[must_use]
    pub fn built(appliance: ApplianceName, made: Made) -> Self {
        Self { appliance: Some(appliance), from: Origin::Built(Box::new(made)), digest: None }
    }
}

/// An image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// Its name.
    pub name: ImageName,
    /// The appliance that it is of.
    #[serde(default)]
    pub appliance: Option<ApplianceName>,
    /// How the disk is written down.
    pub format: Format,
    /// Bytes of the disk.
    pub bytes: u64,
    /// Bytes that it takes here.
    pub allocated: u64,
    /// The digest over the whole, as shipments have it.
    pub digest: String,
    /// When it came to be.
    pub made: Timestamp,
    /// Where it is from.
    pub from: Origin,
}

/// Why something was not done with an image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// There is none.
    #[error("there is no image `{0}`")]
    Missing(ImageName),
    /// There is one.
    #[error("there is an image `{0}` already")]
    Exists(ImageName),
    /// Somebody else sends it.
    #[error("image `{0}` is being uploaded by somebody else")]
    Busy(ImageName),
    /// The file system's.
    #[error("{}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The disk could not be read, or did not arrive.
    #[error(transparent)]
    Shipment(#[from] ShipmentError),
    /// The file is none that can be taken.
    #[error("{}: {why}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl ImageError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }

    /// What to do about it.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Missing(_) => Some("`rocks list image` lists them"),
            Self::Exists(_) => Some("`rocks remove image NAME` removes it; an upload replaces it"),
            Self::Format { .. } => Some("raw and qcow2 are taken; `qemu-img convert -O raw` makes raw ones of others"),
            _ => None,
        }
    }
}

/// An empty folder beside the images, for making one. It is gone when it is dropped.
#[derive(Debug)]
pub struct Room(tempfile::TempDir);

impl Room {
    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Where the disk may be made; anywhere else in the folder will do, too.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.path().join(DISK)
    }
}

/// The images.
#[derive(Debug)]
pub struct Images {
    folder: PathBuf,
    /// Names that an upload has.
    busy: Mutex<BTreeSet<ImageName>>,
}

/// Somebody's turn to upload an image: where what came of it is, and stays.
#[derive(Debug)]
pub struct Part {
    images: Arc<Images>,
    name: ImageName,
}

impl Part {
    /// The disk as far as it has come.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.images.folder.join(PARTS).join(self.name.as_str()).join(DISK)
    }

    /// The earlier image of the name, of which an upload may use what is the same.
    #[must_use]
    pub fn base(&self) -> Option<PathBuf> {
        self.images.disk(&self.name).ok()
    }

    /// It has come whole: it is an image now.
    ///
    /// # Errors
    /// As of [`Images::publish`].
    pub fn publish(self, meta: &Meta) -> Result<Image, ImageError> {
        let (disk, images) = (self.disk(), self.images.clone());
        let image = images.publish(&self.name, &disk, meta)?;
        if let Some(folder) = disk.parent() {
            fs::remove_dir_all(folder).map_err(ImageError::io(folder))?;
        }
        Ok(image)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.images.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

impl Images {
    /// The images below the state folder `state`. Sweeps away what was being made when the last frontend ended: there must be no other.
    ///
    /// # Errors
    /// The file system's.
    pub fn open(state: &Path) -> Result<Self, ImageError> {
        let folder = state.join("images");
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(ImageError::io(&folder))?;
        for entry in fs::read_dir(&folder).map_err(ImageError::io(&folder))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(SCRATCH) {
                let path = entry.path();
                fs::remove_dir_all(&path).map_err(ImageError::io(&path))?;
            }
        }
        Ok(Self { folder, busy: Mutex::default() })
    }

    /// A folder to make an image in, on the file system that it is to be on.
    ///
    /// # Errors
    /// The file system's.
    pub fn room(&self) -> Result<Room, ImageError> {
        let made = tempfile::Builder::new().prefix(SCRATCH).tempdir_in(&self.folder);
        made.map(Room).map_err(ImageError::io(&self.folder))
    }

    /// Makes the finished raw disk at `disk` the image `name`, in place of an earlier one. The file is moved (copied, if it is on another
    /// file system); it should be sparse, and nobody may write to it any more. Blocks: the disk is flushed, and read
    /// unless its digest is known.
    ///
    /// # Errors
    /// The file system's; an earlier image is still there then.
    pub fn publish(&self, name: &ImageName, disk: &Path, meta: &Meta) -> Result<Image, ImageError> {
        let room = self.room()?;
        let to = room.disk();
        if disk != to {
            match fs::rename(disk, &to) {
                Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                    copy(disk, &to, &|_, _| {})?;
                    fs::remove_file(disk).map_err(ImageError::io(disk))?;
                }
                other => other.map_err(ImageError::io(disk))?,
            }
        }
        let file = File::open(&to).map_err(ImageError::io(&to))?;
        file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(ImageError::io(&to))?;
        file.sync_all().map_err(ImageError::io(&to))?;
        let digest = match &meta.digest {
            Some(digest) => digest.clone(),
            None => Sender::new(&Source::open(&to)?, &|_| {})?.digest(),
        };
        let stat = file.metadata().map_err(ImageError::io(&to))?;
        let image = Image {
            name: name.clone(),
            appliance: meta.appliance.clone(),
            format: Format::Raw,
            bytes: stat.len(),
            allocated: stat.blocks() * 512,
            digest,
            made: Timestamp::now(),
            from: meta.from.clone(),
        };
        self.describe(room.path(), &image)?;
        let place = self.folder.join(name.as_str());
        self.swap(room.path(), &place).map_err(ImageError::io(&place))?;
        Ok(image)
    }

    fn describe(&self, folder: &Path, image: &Image) -> Result<(), ImageError> {
        let path = folder.join(DESCRIPTION);
        let json = serde_json::to_vec_pretty(image).map_err(|error| ImageError::io(&path)(io::Error::other(error)))?;
        let written = (|| {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all_at(&json, 0)?;
            file.sync_all()?;
            File::open(folder)?.sync_all()
        })();
        written.map_err(ImageError::io(&path))
    }

    /// Puts the folder `new` at `place`, in one step; what was there is where `new` was then.
    fn swap(&self, new: &Path, place: &Path) -> io::Result<()> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        // A plain rename would do onto an empty folder only.
        match renameat_with(CWD, new, CWD, place, RenameFlags::NOREPLACE) {
            Err(rustix::io::Errno::EXIST) => renameat_with(CWD, new, CWD, place, RenameFlags::EXCHANGE)?,
            // A file system that knows neither.
            Err(rustix::io::Errno::INVAL) => {
                if place.exists() {
                    fs::remove_dir_all(place)?;
                }
                fs::rename(new, place)?;
            }
            other => other?,
        }
        File::open(&self.folder)?.sync_all()
    }

    /// Somebody begins, or goes on, to upload the image `name`.
    ///
    /// # Errors
    /// Somebody else is at it, or the file system's.
    pub fn part(self: &Arc<Self>, name: &ImageName) -> Result<Part, ImageError> {
        if !self.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone()) {
            return Err(ImageError::Busy(name.clone()));
        }
        let part = Part { images: self.clone(), name: name.clone() };
        let folder = self.folder.join(PARTS).join(name.as_str());
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(ImageError::io(&folder))?;
        Ok(part)
    }

    /// All images, by their names.
    ///
    /// # Errors
    /// The file system's.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(ImageError::io(&self.folder))?.flatten() {
            let Some(name) = entry.file_name().to_str().and_then(|name| ImageName::new(name).ok()) else { continue };
            match self.get(&name) {
                Ok(image) => all.push(image),
                // Removed meanwhile.
                Err(ImageError::Missing(_)) => {}
                Err(error) => tracing::warn!("image {name} is left out: {error}"),
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// The image `name`.
    ///
    /// # Errors
    /// There is none, or its description cannot be read.
    pub fn get(&self, name: &ImageName) -> Result<Image, ImageError> {
        let path = self.folder.join(name.as_str()).join(DESCRIPTION);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ImageError::Missing(name.clone())),
            other => other.map_err(ImageError::io(&path))?,
        };
        serde_json::from_slice(&text).map_err(|error| ImageError::io(&path)(io::Error::other(error)))
    }

    /// The disk of the image `name`. Whoever has it open keeps it, whatever becomes of the name.
    ///
    /// # Errors
    /// There is none.
    pub fn disk(&self, name: &ImageName) -> Result<PathBuf, ImageError> {
        let disk = self.folder.join(name.as_str()).join(DISK);
        if disk.exists() { Ok(disk) } else { Err(ImageError::Missing(name.clone())) }
    }

    /// Removes the image `name`, and what came of an upload of it.
    ///
    /// # Errors
    /// There is neither, or the file system's.
    pub fn remove(&self, name: &ImageName) -> Result<(), ImageError> {
        let mut found = false;
        let is_busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner).contains(name);
        for (place, goes) in
            [(self.folder.join(name.as_str()), true), (self.folder.join(PARTS).join(name.as_str()), !is_busy)]
        {
            if !goes || !place.exists() {
                continue;
            }
            // The name is gone at once, the bytes when there is time.
            let room = self.room()?;
            fs::rename(&place, room.path().join("gone")).map_err(ImageError::io(&place))?;
            found = true;
        }
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(ImageError::io(&self.folder))?;
        if found { Ok(()) } else { Err(ImageError::Missing(name.clone())) }
    }
}

/// Copies `from` to the new file `to`, leaving out what holds nothing; `tell` hears of bytes done, and of how many.
fn copy(from: &Path, to: &Path, tell: &dyn Fn(u64, u64)) -> Result<(), ImageError> {
    let source = File::open(from).map_err(ImageError::io(from))?;
    let bytes = rocks_ship::image::length(&source).map_err(ImageError::io(from))?;
    // What its file systems do not use is not copied either.
    let allocation = Allocation::of(&source, bytes).map_err(ImageError::io(from))?;
    let target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(ImageError::io(to))?;
    target.set_len(bytes).map_err(ImageError::io(to))?;
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < bytes {
        let length = usize::try_from(bytes - at).unwrap_or(PIECE).min(PIECE);
        if !allocation.is_free(at, length as u64) {
            let piece = &mut piece[..length];
            source.read_exact_at(piece, at).map_err(ImageError::io(from))?;
            allocation.clear(at, piece);
            if piece.iter().any(|byte| *byte != 0) {
                target.write_all_at(piece, at).map_err(ImageError::io(to))?;
            }
        }
        at += length as u64;
        tell(at, bytes);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ImageName {
        text.parse().expect("a name")
    }

    fn disk(path: &Path, fill: u8) {
        let file = File::create(path).expect("made");
        file.set_len(1 << 20).expect("sized");
        file.write_all_at(&[fill; 4096], 256 << 10).expect("written");
    }

    #[test]
    fn images_appear_whole_are_replaced_in_one_step_and_go() {
        let state = tempfile::tempdir().expect("a folder");
        let images = Images::open(state.path()).expect("opened");
        let built = Built {
            bytes: 1 << 20,
            allocated: 4096,
            packages: vec!["bash-5.2-1.x86_64".into()],
            epoch: 1,
            boots: vec!["bios".into()],
            notes: Vec::new(),
            phases: vec![(crate::builder::Phase::Writing, 0.5)],
        };
        let made = Made { arch: "x86_64".into(), kickstart: Digest::of(b""), built };
        let meta = Meta::built("lite".parse().expect("a name"), made);
        let room = images.room().expect("a room");
        disk(&room.disk(), 1);
        let first = images.publish(&name("lite"), &room.disk(), &meta).expect("published");
        assert!(first.bytes == 1 << 20 && first.allocated < 1 << 20, "{first:?}");
        assert_eq!(images.get(&name("lite")).expect("there"), first);
        let held = File::open(images.disk(&name("lite")).expect("there")).expect("opened");
        // From somewhere else, over an earlier one; who reads that goes on.
        let outside = state.path().join("outside");
        disk(&outside, 2);
        let second = images.publish(&name("lite"), &outside, &meta).expect("published");
        assert!(second.digest != first.digest && !outside.exists());
        let mut byte = [0];
        held.read_exact_at(&mut byte, 256 << 10).expect("read");
        assert_eq!(byte, [1]);
        assert_eq!(images.list().expect("listed"), [second]);
        assert!(matches!(images.get(&name("other")), Err(ImageError::Missing(_))));
        images.remove(&name("lite")).expect("removed");
        assert!(matches!(images.remove(&name("lite")), Err(ImageError::Missing(_))));
        drop(room);
        let left: Vec<_> = fs::read_dir(state.path().join("images")).expect("read").flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn what_was_being_made_is_swept_away_and_what_came_of_an_upload_stays() {
        let state = tempfile::tempdir().expect("a folder");
        let images = Arc::new(Images::open(state.path()).expect("opened"));
        let half = images.room().expect("a room").0.keep();
        disk(&half.join(DISK), 1);
        let part = images.part(&name("lite")).expect("a turn");
        assert!(matches!(images.part(&name("lite")), Err(ImageError::Busy(_))));
        disk(&part.disk(), 3);
        drop(part);
        let images = Arc::new(Images::open(state.path()).expect("opened"));
        assert!(!half.exists() && images.list().expect("listed").is_empty());
        let part = images.part(&name("lite")).expect("a turn");
        assert!(part.disk().exists() && part.base().is_none());
        let meta = Meta { appliance: None, from: Origin::Uploaded { host: None }, digest: Some("d".into()) };
        assert_eq!(part.publish(&meta).expect("published").digest, "d");
        let part = images.part(&name("lite")).expect("a turn");
        assert!(!part.disk().exists() && part.base().is_some());
    }
}
