//! The sealed index of each architecture's repository, made of what the mirror remembers of what it published.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use rocks_common::ids::{ArchName, Digest, Generation, Sha256};
use rocks_common::index::{Entry, Index};
use rocks_common::seal::IndexClaim;
use rocks_common::wire::SealedIndex;

use super::{Mirror, publish};
use crate::ca::Authority;

/// An index as it is given to those who ask.
#[derive(Debug)]
pub struct Published {
    /// The claim and its seal.
    pub sealed: SealedIndex,
    /// What it says.
    pub index: Index,
    /// Its text, compressed once for all who ask.
    pub gzip: Bytes,
}

/// Tells that the mirror has published something else.
type Stamp = (u64, i64, i64);

/// What was made last, if there was anything to make it of, and of which state.
type Known = (Stamp, Option<Arc<Published>>);

/// The indexes of a mirror, made when somebody asks and something has changed.
pub struct Indexes {
    root: PathBuf,
    authority: Arc<Authority>,
    known: Mutex<BTreeMap<ArchName, Known>>,
}

impl Indexes {
    /// Those of `mirror`, sealed by `authority`.
    #[must_use]
    pub fn of(mirror: &Mirror, authority: Arc<Authority>) -> Arc<Self> {
        Arc::new(Self { root: mirror.root().to_path_buf(), authority, known: Mutex::default() })
    }

    /// The index of `arch`; none if nothing is published for it. Blocks when something has changed.
    #[must_use]
    pub fn get(&self, arch: &ArchName) -> Option<Arc<Published>> {
        let meta = fs::metadata(publish::generations_path(&self.root, arch.as_str())).ok()?;
        let stamp = (meta.ino(), meta.mtime(), meta.mtime_nsec());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, published)) = known.get(arch).filter(|(of, _)| *of == stamp) {
            return published.clone();
        }
        let published = self.make(arch).map(Arc::new);
        known.insert(arch.clone(), (stamp, published.clone()));
        published
    }

    /// The indexes of all architectures that are published.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Published>> {
        let folders = fs::read_dir(self.root.join("rocks-dist")).into_iter().flatten().flatten();
        let mut arches: Vec<ArchName> =
            folders.filter_map(|folder| ArchName::new(folder.file_name().to_str()?).ok()).collect();
        arches.sort();
        arches.iter().filter_map(|arch| self.get(arch)).collect()
    }

    /// Where the file of `arch` lies that is called `path` in its index.
    #[must_use]
    pub fn file(&self, arch: &ArchName, path: &str) -> PathBuf {
        self.root.join("rocks-dist").join(arch.as_str()).join(path)
    }

    /// The digests of all files of all generations that are kept.
    #[must_use]
    pub fn kept(&self) -> std::collections::BTreeSet<Sha256> {
        let folders = fs::read_dir(self.root.join("rocks-dist")).into_iter().flatten().flatten();
        let arches = folders.filter_map(|folder| folder.file_name().into_string().ok());
        let generations = arches.flat_map(|arch| publish::generations(&self.root, &arch));
        generations.flat_map(|generation| generation.files).filter_map(|file| digest_of(&file)).collect()
    }

    fn make(&self, arch: &ArchName) -> Option<Published> {
        let generation = publish::generations(&self.root, arch.as_str()).into_iter().next()?;
        if !generation.has_repomd() {
            // An earlier version published it; the next rebuild changes that.
            return None;
        }
        let folder = self.root.join("rocks-dist").join(arch.as_str());
        let mut index = Index::default();
        for file in &generation.files {
            if let Err(why) = add(&mut index, &folder, file) {
                tracing::error!("there is no index of {arch}: {file}: {why}");
                return None;
            }
        }
        let text = index.text();
        let digest = Digest::of(text.as_bytes());
        let claim = IndexClaim { arch: arch.clone(), generation: Generation(generation.revision), digest };
        let seal = self.authority.sealer.seal(&claim);
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        // Writing to memory cannot fail.
        let _ = encoder.write_all(text.as_bytes());
        let gzip = Bytes::from(encoder.finish().unwrap_or_default());
        Some(Published { sealed: SealedIndex { claim, seal }, index, gzip })
    }
}

/// The digest that a published file is named by: its folder, or the beginning of its name.
pub(crate) fn digest_of(file: &str) -> Option<Sha256> {
    let mut parts = file.split('/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("Packages"), Some(_), Some(digest)) => digest.parse().ok(),
        (Some("repodata"), Some(name), None) => name.get(..64)?.parse().ok(),
        _ => None,
    }
}

fn add(index: &mut Index, folder: &Path, file: &str) -> Result<(), String> {
    let digest = digest_of(file).ok_or("it is not named by its content")?;
    let size = fs::metadata(folder.join(file)).map_err(|error| error.to_string())?.len();
    index.add(file, Entry { digest, size }).map_err(ToOwned::to_owned)
}
