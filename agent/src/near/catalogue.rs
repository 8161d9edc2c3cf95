//! The indexes that are known: what makes it indifferent where a file comes from.
//!
//! An index is taken only with the frontend's seal, and never one that is older than one that was taken before, also across a restart.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, ETAG, IF_MATCH, IF_NONE_MATCH};
use rocks_common::ids::{ArchName, Digest, Generation};
use rocks_common::index::{self, Index};
use rocks_common::limits;
use rocks_common::seal::{IndexClaim, SealKey};
use rocks_common::wire::{SealedIndex, header, path};
use tokio::time::timeout;

use super::client::{Answer, ClientError, Endpoint};
use super::source::Wanted;
use crate::files;

/// Indexes of one architecture that are kept: who asks for a file may have an older one.
const KEPT: usize = 3;
/// How soon the frontend is asked again whether there is a newer one.
const AGAIN: Duration = Duration::from_secs(2);

/// Why there is no index to use.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// It is not the frontend's.
    #[error(transparent)]
    Seal(#[from] rocks_common::seal::SealError),
    /// It is older than one that was taken before.
    #[error("generation {got} is older than {known}, which was taken before")]
    Older {
        /// What was offered.
        got: Generation,
        /// What was taken before.
        known: Generation,
    },
    /// It is another than the claim says.
    #[error("it is not the index that was sealed")]
    Other,
    /// It is none.
    #[error(transparent)]
    Index(#[from] index::IndexError),
    /// It cannot be had.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// It cannot be had.
    #[error("there is no index: the answer is {0}")]
    Status(StatusCode),
}

/// An index with its claim.
pub struct Known {
    /// The claim and its seal.
    pub sealed: SealedIndex,
    /// Its text.
    pub text: String,
    /// What it says.
    pub index: Index,
}

#[derive(Default)]
struct Shelf {
    /// No older one is taken.
    floor: Generation,
    /// The newest first.
    known: Vec<Arc<Known>>,
    asked: Option<Instant>,
}

/// The indexes of the frontend's repositories.
pub struct Catalogue {
    key: SealKey,
    folder: PathBuf,
    shelves: Mutex<HashMap<ArchName, Shelf>>,
    /// One question to the frontend at a time.
    turn: tokio::sync::Mutex<()>,
}

impl Catalogue {
    /// The catalogue in `folder`, with what was kept there, of the frontend that seals with `key`.
    #[must_use]
    pub fn open(folder: &Path, key: SealKey) -> Self {
        let catalogue =
            Self { key, folder: folder.to_path_buf(), shelves: Mutex::default(), turn: tokio::sync::Mutex::default() };
        for item in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = item.file_name().to_string_lossy().into_owned();
            let Some(arch) = name.strip_prefix("index-").and_then(|arch| arch.strip_suffix(".json")) else { continue };
            let Some(sealed) = catalogue.read(&item.path(), 1 << 14) else { continue };
            let Ok(sealed) = serde_json::from_str::<SealedIndex>(&sealed) else { continue };
            if sealed.claim.arch.as_str() != arch || key.verify(&sealed.claim, &sealed.seal).is_err() {
                continue;
            }
            // Even if the text is gone or damaged: no older one is taken.
            catalogue.shelves().entry(sealed.claim.arch.clone()).or_default().floor = sealed.claim.generation;
            if let Some(text) = catalogue.read(&folder.join(format!("index-{arch}")), limits::INDEX_BYTES) {
                let _ = catalogue.put(sealed, text);
            }
        }
        catalogue
    }

    fn read(&self, path: &Path, limit: u64) -> Option<String> {
        String::from_utf8(files::read(path, limit).ok()??).ok()
    }

    fn shelves(&self) -> MutexGuard<'_, HashMap<ArchName, Shelf>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks a claim before anything is fetched for it.
    ///
    /// # Errors
    /// It is not the frontend's, or older than one that was taken before.
    pub fn check(&self, sealed: &SealedIndex) -> Result<(), CatalogueError> {
        self.key.verify(&sealed.claim, &sealed.seal)?;
        let known = self.shelves().get(&sealed.claim.arch).map(|shelf| shelf.floor).unwrap_or_default();
        if sealed.claim.generation < known {
            return Err(CatalogueError::Older { got: sealed.claim.generation, known });
        }
        Ok(())
    }

    fn put(&self, sealed: SealedIndex, text: String) -> Result<Arc<Known>, CatalogueError> {
        if Digest::of(text.as_bytes()) != sealed.claim.digest {
            return Err(CatalogueError::Other);
        }
        let index = Index::parse(&text)?;
        let known = Arc::new(Known { sealed, text, index });
        let claim = &known.sealed.claim;
        let mut shelves = self.shelves();
        let shelf = shelves.entry(claim.arch.clone()).or_default();
        shelf.floor = shelf.floor.max(claim.generation);
        shelf.known.retain(|other| other.sealed.claim.digest != claim.digest);
        shelf.known.insert(0, known.clone());
        shelf.known.truncate(KEPT);
        Ok(known)
    }

    /// Takes an index, and remembers it across a restart.
    ///
    /// # Errors
    /// It is not the frontend's, older, or none.
    pub fn learn(&self, sealed: SealedIndex, text: String) -> Result<Arc<Known>, CatalogueError> {
        self.check(&sealed)?;
        let known = self.put(sealed, text)?;
        let name = |end: &str| self.folder.join(format!("index-{}{end}", known.sealed.claim.arch));
        let json = serde_json::to_vec(&known.sealed).unwrap_or_default();
        // The claim first: with another text it still says what is too old.
        let kept = files::write(&name(".json"), &json, 0o600);
        if let Err(error) = kept.and_then(|()| files::write(&name(""), known.text.as_bytes(), 0o600)) {
            tracing::warn!("the index of {} cannot be kept: {error}", known.sealed.claim.arch);
        }
        Ok(known)
    }

    /// The newest index of `arch` that is known.
    #[must_use]
    pub fn newest(&self, arch: &ArchName) -> Option<Arc<Known>> {
        self.shelves().get(arch)?.known.first().cloned()
    }

    /// The index that a claim is about, if it is known.
    #[must_use]
    pub fn get(&self, claim: &IndexClaim) -> Option<Arc<Known>> {
        let shelves = self.shelves();
        shelves.get(&claim.arch)?.known.iter().find(|known| known.sealed.claim.digest == claim.digest).cloned()
    }

    /// What is meant by `path` of the repository of `arch`: by the newest index, or by one that is not long gone.
    #[must_use]
    pub fn find(&self, arch: &ArchName, path: &str) -> Option<Wanted> {
        let shelves = self.shelves();
        let known = &shelves.get(arch)?.known;
        let of = |known: &Arc<Known>| {
            let (path, entry) = known.index.find(path)?;
            Some(Wanted { arch: arch.clone(), path: path.to_owned(), entry })
        };
        // Only the newest says what the repository is now.
        if path == index::REPOMD { of(known.first()?) } else { known.iter().find_map(of) }
    }

    /// Gets the index that a claim of the frontend's is about: what is known, or from the first of `places` that has
    /// it, none of which may keep the others waiting. `slow` is told which did.
    ///
    /// # Errors
    /// The claim is not to be trusted, or nobody has the index.
    pub async fn fetch(
        &self,
        sealed: &SealedIndex,
        places: &[Arc<Endpoint>],
        slow: impl Fn(usize),
    ) -> Result<Arc<Known>, CatalogueError> {
        self.check(sealed)?;
        if let Some(known) = self.get(&sealed.claim) {
            return Ok(known);
        }
        let mut last = CatalogueError::Status(StatusCode::NOT_FOUND);
        for (at, place) in places.iter().enumerate() {
            let headers = [
                (ACCEPT_ENCODING, "gzip".to_owned()),
                // Who has another one need not send it.
                (IF_MATCH, format!("\"{}\"", sealed.claim.digest)),
            ];
            let text = async {
                let answer = place.get(&format!("{}/{}", path::INDEX, sealed.claim.arch), &headers).await?;
                if answer.status() != StatusCode::OK {
                    return Err(CatalogueError::Status(answer.status()));
                }
                Ok(text_of(answer).await?)
            };
            let text = timeout(place.pace().whole, text).await.unwrap_or(Err(ClientError::Slow.into()));
            match text.and_then(|text| self.learn(sealed.clone(), text)) {
                Ok(known) => return Ok(known),
                Err(error) => {
                    if matches!(error, CatalogueError::Client(ClientError::Slow)) {
                        slow(at);
                    }
                    last = error;
                }
            }
        }
        Err(last)
    }

    /// Asks the frontend whether there is a newer index of `arch`, unless it was asked a moment ago.
    ///
    /// # Errors
    /// It cannot be reached, or what it says is not to be trusted.
    pub async fn refresh(&self, arch: &ArchName, frontend: &Arc<Endpoint>) -> Result<(), CatalogueError> {
        let _turn = self.turn.lock().await;
        let newest = {
            let mut shelves = self.shelves();
            // Names of architectures come from whoever asks.
            if shelves.len() > 64 {
                shelves.retain(|_, shelf| !shelf.known.is_empty());
            }
            let shelf = shelves.entry(arch.clone()).or_default();
            if shelf.asked.is_some_and(|asked| asked.elapsed() < AGAIN) {
                return Ok(());
            }
            shelf.asked = Some(Instant::now());
            shelf.known.first().cloned()
        };
        let mut headers = vec![(ACCEPT_ENCODING, "gzip".to_owned())];
        if let Some(newest) = newest {
            headers.push((IF_NONE_MATCH, format!("\"{}\"", newest.sealed.claim.digest)));
        }
        let answer = frontend.get(&format!("{}/{arch}", path::INDEX), &headers).await?;
        match answer.status() {
            StatusCode::NOT_MODIFIED => return Ok(()),
            StatusCode::OK => {}
            other => return Err(CatalogueError::Status(other)),
        }
        let bad = || ClientError::Bad("its index has no claim".to_owned());
        let claim = IndexClaim {
            arch: arch.clone(),
            generation: answer.header(header::GENERATION).parse().map_err(|_| bad())?,
            digest: answer.header(ETAG.as_str()).trim_matches('"').parse().map_err(|_| bad())?,
        };
        let sealed = SealedIndex { claim, seal: answer.header(header::SEAL).to_owned() };
        self.check(&sealed)?;
        let text = text_of(answer).await?;
        self.learn(sealed, text).map(drop)
    }
}

async fn text_of(answer: Answer) -> Result<String, ClientError> {
    let gzip = answer.header(CONTENT_ENCODING.as_str()) == "gzip";
    let limit = usize::try_from(limits::INDEX_BYTES).unwrap_or(usize::MAX);
    let mut bytes = answer.whole(limit).await?;
    if gzip {
        let mut open = Vec::new();
        let mut reader = io::Read::take(flate2::read::GzDecoder::new(&bytes[..]), limits::INDEX_BYTES + 1);
        io::Read::read_to_end(&mut reader, &mut open).map_err(|error| ClientError::Bad(error.to_string()))?;
        bytes = open;
    }
    if bytes.len() > limit {
        return Err(ClientError::Bad("its index is too large".to_owned()));
    }
    String::from_utf8(bytes).map_err(|_| ClientError::Bad("its index is not UTF-8".to_owned()))
}
