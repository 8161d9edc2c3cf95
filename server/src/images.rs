//! The images that the frontend keeps, each in a folder of its own below the state folder: `images/NAME/disk.raw` and `image.json`.
//!
//! An image is made in a folder beside and takes its place by renaming, so what is there is whole. What a frontend that died was making
//! is removed when the next one starts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rocks_common::ids::{ApplianceName, ImageName};
use serde::{Deserialize, Serialize};

use crate::builder::IMAGE;

/// What the description is called.
const DESCRIPTION: &str = "image.json";
/// What folders that are being filled begin with; no name of an image does.
const UNFINISHED: &str = ".new-";
/// Most bytes of a description.
const BYTES: u64 = 16 << 20;

/// What is known of an image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// Its name.
    pub name: ImageName,
    /// The appliance that it was made of.
    pub appliance: ApplianceName,
    /// Its architecture.
    pub arch: String,
    /// The kickstart's digest.
    pub kickstart: rocks_common::ids::Digest,
    /// When it was made, in seconds since 1970.
    pub made: i64,
    /// What was built.
    pub built: crate::builder::Built,
}

/// Why an image is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// There is none of that name.
    #[error("there is no image {0}")]
    Missing(ImageName),
    /// The file system's.
    #[error("{}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The images of one frontend.
#[derive(Debug, Clone)]
pub struct Images {
    folder: PathBuf,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    let path = path.to_path_buf();
    move |source| ImageError::Io { path, source }
}

impl Images {
    /// Those below a state folder; what was unfinished is removed.
    #[must_use]
    pub fn open(state: &Path) -> Self {
        let images = Self { folder: state.join("images") };
        for entry in fs::read_dir(&images.folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                // What cannot be removed now is in nobody's way.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        images
    }

    /// A new empty folder in which an image can be made; it is removed when what this gives is dropped.
    ///
    /// # Errors
    /// The file system's.
    pub fn begin(&self) -> Result<tempfile::TempDir, ImageError> {
        fs::create_dir_all(&self.folder).map_err(at(&self.folder))?;
        tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(&self.folder).map_err(at(&self.folder))
    }

    /// Lets the disk in `work` become the image; another of that name is replaced.
    ///
    /// # Errors
    /// The file system's; then the other is still there.
    pub fn publish(&self, work: &Path, image: &Image) -> Result<(), ImageError> {
        let (new, place) = (work.join("whole"), self.folder.join(image.name.as_str()));
        let publish = || -> io::Result<()> {
            fs::create_dir(&new)?;
            fs::rename(work.join(IMAGE), new.join(IMAGE))?;
            fs::write(new.join(DESCRIPTION), serde_json::to_vec_pretty(image)?)?;
            fs::File::open(new.join(DESCRIPTION))?.sync_all()?;
            fs::File::open(&new)?.sync_all()?;
            if place.exists() {
                fs::rename(&place, work.join("old"))?;
            }
            fs::rename(&new, &place)?;
            fs::File::open(&self.folder)?.sync_all()
        };
        publish().map_err(at(&place))
    }

    /// All images, by name. A folder without a description that can be read is none.
    ///
    /// # Errors
    /// The file system's.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let mut all = Vec::new();
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(all),
            other => other.map_err(at(&self.folder))?,
        };
        for entry in entries {
            let path = entry.map_err(at(&self.folder))?.path().join(DESCRIPTION);
            if fs::metadata(&path).is_ok_and(|meta| meta.len() <= BYTES)
                && let Ok(text) = fs::read(&path)
                && let Ok(image) = serde_json::from_slice(&text)
            {
                all.push(image);
            }
        }
        all.sort_by(|a: &Image, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// The disk of an image.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn disk(&self, name: &ImageName) -> Result<PathBuf, ImageError> {
        let path = self.folder.join(name.as_str()).join(IMAGE);
        if path.exists() { Ok(path) } else { Err(ImageError::Missing(name.clone())) }
    }

    /// Removes an image.
    ///
    /// # Errors
    /// There is none of that name, or the file system's.
    pub fn remove(&self, name: &ImageName) -> Result<(), ImageError> {
        self.disk(name)?;
        let gone = self.begin()?;
        // Renamed first: half an image is none.
        let place = self.folder.join(name.as_str());
        fs::rename(&place, gone.path().join("old")).map_err(at(&place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_there_as_a_whole_or_not_at_all() {
        let state = tempfile::tempdir().expect("a folder");
        let images = Images::open(state.path());
        assert!(images.list().expect("listed").is_empty());
        let name: ImageName = "lite".parse().expect("a name");
        let built = crate::builder::Built {
            bytes: 3,
            allocated: 0,
            packages: Vec::new(),
            epoch: 1,
            boots: Vec::new(),
            notes: Vec::new(),
            phases: Vec::new(),
        };
        for bytes in ["one", "two"] {
            let work = images.begin().expect("a folder");
            fs::write(work.path().join(IMAGE), bytes).expect("written");
            let image = Image {
                name: name.clone(),
                appliance: "lite".parse().expect("a name"),
                arch: "x86_64".into(),
                kickstart: rocks_common::ids::Digest::of(b""),
                made: 1,
                built: built.clone(),
            };
            images.publish(work.path(), &image).expect("published");
            assert_eq!(images.list().expect("listed"), [image]);
        }
        assert_eq!(fs::read(images.disk(&name).expect("there")).expect("read"), b"two");
        // What a frontend that died was making.
        let left = images.begin().expect("a folder").keep();
        let images = Images::open(state.path());
        assert!(!left.exists() && images.list().expect("listed").len() == 1);
        images.remove(&name).expect("removed");
        assert!(matches!(images.remove(&name), Err(ImageError::Missing(_))));
        assert_eq!(fs::read_dir(state.path().join("images")).expect("read").count(), 0);
    }
}
