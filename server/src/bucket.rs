//! The mirror in a bucket: packages and metadata of what is published, each by its digest, where instances of a region find them near by.
//!
//! The bucket is closed to the public. Who asks the frontend for a file with its own certificate is shown an address that holds for an hour;
//! what comes from there is checked against the index, so that nobody has to trust the bucket.
//!
//! ```text
//! SITE/packages/SHA256
//! ```

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::future::Future;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use rocks_common::ids::Sha256;
use rocks_provision::cloud::{Answer, CloudError};
use rocks_provision::engine::SiteError;
use rocks_provision::objects::{BucketName, ObjectKey, Objects};
use rocks_provision::retry::{Wait, insist};
use serde::Serialize;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

use crate::mirror::index::Indexes;
use crate::store::{Store, StoreError};

/// Files that are sent at the same time.
const AT_ONCE: usize = 8;
/// Bytes of a file that are sent as one; larger files go in parts of this size.
const PIECE: u64 = 16 << 20;
/// How long an address holds.
const VALID: Duration = Duration::from_secs(3600);
/// The setting that says in which bucket the packages are.
const SETTING: &str = "packages_bucket";

/// Work that somebody else does.
type Later<'l, T> = Pin<Box<dyn Future<Output = T> + Send + 'l>>;

/// A store of objects, whichever it is.
pub trait ObjectStore: Send + Sync {
    /// Makes the bucket if there is none.
    fn ensure<'l>(&'l self, bucket: &'l BucketName, site: &'l str) -> Later<'l, Answer<()>>;
    /// Puts a file, whatever its size.
    fn put<'l>(&'l self, bucket: &'l BucketName, key: &'l ObjectKey, file: &'l Path) -> Later<'l, Answer<()>>;
    /// The keys below a prefix with their sizes.
    fn list<'l>(&'l self, bucket: &'l BucketName, prefix: &'l str) -> Later<'l, Answer<Vec<(ObjectKey, u64)>>>;
    /// Removes objects.
    fn delete<'l>(&'l self, bucket: &'l BucketName, keys: &'l [ObjectKey]) -> Later<'l, Answer<()>>;
    /// An address by which whoever has it gets the object for a while.
    fn address<'l>(&'l self, bucket: &'l BucketName, key: &'l ObjectKey) -> Later<'l, Answer<String>>;
}

/// `length` bytes of a file from `at` on.
async fn piece(file: &Arc<File>, at: u64, length: u64) -> Answer<Bytes> {
    let file = file.clone();
    let work = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, at).map(|()| Bytes::from(bytes))
    });
    let read = work.await.map_err(|error| CloudError::Missing(error.to_string()))?;
    read.map_err(|error| CloudError::Missing(format!("a published file cannot be read: {error}")))
}

async fn put_file<O: Objects>(store: &O, bucket: &BucketName, key: &ObjectKey, path: &Path) -> Answer<()> {
    let gone = |error: std::io::Error| CloudError::Missing(format!("{}: {error}", path.display()));
    let file = Arc::new(File::open(path).map_err(gone)?);
    let size = file.metadata().map_err(gone)?.len();
    if size <= PIECE {
        let body = piece(&file, 0, size).await?;
        return insist(Wait::Nothing, || store.put_object(bucket, key, body.clone())).await;
    }
    // What an earlier try left costs money until it is given up.
    for (of, upload) in insist(Wait::Nothing, || store.list_uploads(bucket, key.as_str())).await? {
        insist(Wait::Nothing, || store.abort_upload(bucket, &of, &upload)).await?;
    }
    let upload = insist(Wait::Nothing, || store.begin_upload(bucket, key)).await?;
    let mut parts = Vec::new();
    let (mut at, mut number) = (0, 1);
    // Of larger files parts are larger too, so that there are never too many.
    let length = PIECE.max(size.div_ceil(9_000));
    while at < size {
        let body = piece(&file, at, length.min(size - at)).await?;
        let put = insist(Wait::Nothing, || store.put_part(bucket, key, &upload, number, body.clone())).await;
        match put {
            Ok(part) => parts.push(part),
            Err(error) => {
                let _ = store.abort_upload(bucket, key, &upload).await;
                return Err(error);
            }
        }
        at += length;
        number += 1;
    }
    insist(Wait::Nothing, || store.complete_upload(bucket, key, &upload, &parts)).await
}

impl<O: Objects> ObjectStore for O {
    fn ensure<'l>(&'l self, bucket: &'l BucketName, site: &'l str) -> Later<'l, Answer<()>> {
        Box::pin(insist(Wait::Settling, move || self.ensure_bucket(bucket, site)))
    }

    fn put<'l>(&'l self, bucket: &'l BucketName, key: &'l ObjectKey, file: &'l Path) -> Later<'l, Answer<()>> {
        Box::pin(put_file(self, bucket, key, file))
    }

    fn list<'l>(&'l self, bucket: &'l BucketName, prefix: &'l str) -> Later<'l, Answer<Vec<(ObjectKey, u64)>>> {
        Box::pin(async move {
            let all = insist(Wait::Nothing, || self.list_objects(bucket, prefix)).await?;
            Ok(all.into_iter().map(|one| (one.key, one.bytes)).collect())
        })
    }

    fn delete<'l>(&'l self, bucket: &'l BucketName, keys: &'l [ObjectKey]) -> Later<'l, Answer<()>> {
        Box::pin(insist(Wait::Nothing, move || self.delete_objects(bucket, keys)))
    }

    fn address<'l>(&'l self, bucket: &'l BucketName, key: &'l ObjectKey) -> Later<'l, Answer<String>> {
        Box::pin(self.presign_get(bucket, key, VALID))
    }
}

/// Gives the store of objects in the frontend's own region.
pub type Stores = Arc<dyn Fn() -> Later<'static, Arc<dyn ObjectStore>> + Send + Sync>;

/// Why the bucket has not what the mirror has.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// This frontend was built without a cloud.
    #[error("this frontend was built without AWS")]
    NoCloud,
    /// The cloud's.
    #[error(transparent)]
    Cloud(#[from] CloudError),
    /// The frontend's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A name that is none.
    #[error("{0}")]
    Name(String),
}

impl From<SiteError> for BucketError {
    fn from(error: SiteError) -> Self {
        Self::Name(error.what)
    }
}

/// What a synchronisation came to.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Synced {
    /// The bucket.
    pub bucket: String,
    /// Files that the mirror has.
    pub files: usize,
    /// Files that were sent.
    pub sent: usize,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Files that were removed because no generation names them any more.
    pub removed: usize,
}

/// How far a synchronisation is.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Sending {
    /// Bytes that were sent.
    pub bytes: u64,
    /// Bytes to send.
    pub of_bytes: u64,
    /// Files that were sent.
    pub packages: usize,
    /// Files to send.
    pub of_packages: usize,
}

/// The frontend's packages in a bucket.
pub struct Bucket {
    stores: Option<Stores>,
    store: OnceCell<Arc<dyn ObjectStore>>,
    settings: Store,
    name: BucketName,
    site: String,
    indexes: Arc<Indexes>,
    /// Whether the bucket follows the mirror by itself.
    follows: bool,
    there: RwLock<HashSet<Sha256>>,
    turn: tokio::sync::Mutex<()>,
}

impl Bucket {
    /// The bucket `name` of the frontend `site`; without `stores` there is none. With `follows` it has what the mirror has without being told.
    #[must_use]
    pub fn new(
        stores: Option<Stores>,
        settings: Store,
        (name, site): (BucketName, String),
        indexes: Arc<Indexes>,
        follows: bool,
    ) -> Arc<Self> {
        let (store, there, turn) = (OnceCell::new(), RwLock::default(), tokio::sync::Mutex::default());
        Arc::new(Self { stores, store, settings, name, site, indexes, follows, there, turn })
    }

    async fn store(&self) -> Result<&Arc<dyn ObjectStore>, BucketError> {
        let stores = self.stores.as_ref().ok_or(BucketError::NoCloud)?;
        Ok(self.store.get_or_init(|| stores()).await)
    }

    fn folder(&self) -> String {
        format!("{}/packages/", self.site)
    }

    fn key(&self, digest: Sha256) -> Result<ObjectKey, BucketError> {
        let key = format!("{}{digest}", self.folder());
        key.parse().map_err(|error: rocks_provision::objects::InvalidName| BucketError::Name(error.to_string()))
    }

    /// Whether the bucket follows the mirror by itself.
    #[must_use]
    pub const fn follows(&self) -> bool {
        self.follows && self.stores.is_some()
    }

    /// Whether there is anything in the bucket.
    #[must_use]
    pub fn has_any(&self) -> bool {
        !self.there.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// An address for the file with this digest, if it is in the bucket.
    pub async fn address(&self, digest: Sha256) -> Option<String> {
        if !self.there.read().unwrap_or_else(PoisonError::into_inner).contains(&digest) {
            return None;
        }
        let address =
            async { Ok::<_, BucketError>(self.store().await?.address(&self.name, &self.key(digest)?).await?) };
        match address.await {
            Ok(address) => Some(address),
            Err(error) => {
                tracing::warn!("no address in the bucket can be given: {error}");
                None
            }
        }
    }

    async fn listed(&self) -> Result<BTreeMap<Sha256, u64>, BucketError> {
        let folder = self.folder();
        let all = self.store().await?.list(&self.name, &folder).await?;
        let named =
            all.iter().filter_map(|(key, size)| Some((key.as_str().strip_prefix(&folder)?.parse().ok()?, *size)));
        Ok(named.collect())
    }

    /// Looks what is there, if an earlier frontend put anything there.
    ///
    /// # Errors
    /// See [`BucketError`].
    pub async fn look(&self) -> Result<(), BucketError> {
        if self.stores.is_none() || self.settings.setting(SETTING).await?.as_deref() != Some(self.name.as_str()) {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        let listed = self.listed().await?;
        *self.there.write().unwrap_or_else(PoisonError::into_inner) = listed.into_keys().collect();
        Ok(())
    }

    /// Makes the bucket have what the mirror has: first what packages are, then what names them; then what nobody names is removed.
    /// Interrupted, the next one goes on.
    ///
    /// # Errors
    /// See [`BucketError`].
    pub async fn sync(&self, tell: &(dyn Fn(Sending) + Send + Sync)) -> Result<Synced, BucketError> {
        let _turn = self.turn.lock().await;
        let store = self.store().await?.clone();
        let indexes = self.indexes.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let mut files: BTreeMap<(bool, Sha256), (PathBuf, u64)> = BTreeMap::new();
            for published in indexes.all() {
                for (path, entry) in published.index.iter() {
                    let place = indexes.file(&published.sealed.claim.arch, path);
                    files.insert((path.starts_with("repodata/"), entry.digest), (place, entry.size));
                }
            }
            (files, indexes.kept())
        });
        let (files, kept) = looked.await.map_err(|error| BucketError::Name(error.to_string()))?;
        store.ensure(&self.name, &self.site).await?;
        let there = self.listed().await?;
        // An object of another size is none of ours.
        let lacks =
            |(of, digest): &(bool, Sha256), size: u64, data: bool| *of == data && there.get(digest) != Some(&size);
        let missing = |data: bool| {
            let all = files.iter().filter(move |(at, (_, size))| lacks(at, *size, data));
            all.map(|((_, digest), (path, size))| (*digest, path.clone(), *size)).collect::<Vec<_>>()
        };
        let (packages, metadata) = (missing(false), missing(true));
        let mut sending = Sending {
            bytes: 0,
            of_bytes: packages.iter().chain(&metadata).map(|(.., size)| size).sum(),
            packages: 0,
            of_packages: packages.len() + metadata.len(),
        };
        // What is not there as it should be is not given to anybody.
        let good = files.iter().filter(|((_, digest), (_, size))| there.get(digest) == Some(size));
        let good: BTreeSet<Sha256> = good.map(|((_, digest), _)| *digest).collect();
        let others = there.keys().filter(|digest| kept.contains(digest) && !files.keys().any(|(_, of)| of == *digest));
        *self.there.write().unwrap_or_else(PoisonError::into_inner) = good.into_iter().chain(others.copied()).collect();
        for list in [packages, metadata] {
            self.send(&store, list, &mut sending, tell).await?;
        }
        self.settings.set_setting(SETTING, self.name.as_str()).await?;
        let gone: Vec<Sha256> = there.keys().filter(|digest| !kept.contains(digest)).copied().collect();
        self.there.write().unwrap_or_else(PoisonError::into_inner).retain(|digest| kept.contains(digest));
        let keys: Vec<ObjectKey> = gone.iter().map(|digest| self.key(*digest)).collect::<Result<_, _>>()?;
        if !keys.is_empty() {
            store.delete(&self.name, &keys).await?;
        }
        Ok(Synced {
            bucket: self.name.to_string(),
            files: files.len(),
            sent: sending.packages,
            sent_bytes: sending.bytes,
            removed: keys.len(),
        })
    }

    /// Sends files, several at a time.
    async fn send(
        &self,
        store: &Arc<dyn ObjectStore>,
        list: Vec<(Sha256, PathBuf, u64)>,
        sending: &mut Sending,
        tell: &(dyn Fn(Sending) + Send + Sync),
    ) -> Result<(), BucketError> {
        let mut list = list.into_iter();
        // Dropped, it ends what is under way.
        let mut running = JoinSet::new();
        loop {
            while running.len() < AT_ONCE
                && let Some((digest, path, size)) = list.next()
            {
                let (store, bucket, key) = (store.clone(), self.name.clone(), self.key(digest)?);
                running.spawn(async move { store.put(&bucket, &key, &path).await.map(|()| (digest, size)) });
            }
            let Some(ended) = running.join_next().await else { return Ok(()) };
            let (digest, size) = ended.map_err(|error| BucketError::Name(error.to_string()))??;
            self.there.write().unwrap_or_else(PoisonError::into_inner).insert(digest);
            sending.packages += 1;
            sending.bytes += size;
            tell(*sending);
        }
    }

    /// Does that, and says in the log what came of it.
    pub async fn follow(&self) {
        match self.sync(&|_| {}).await {
            Ok(synced) => tracing::info!(
                "the bucket {} has {} files: {} sent, {} removed",
                synced.bucket,
                synced.files,
                synced.sent,
                synced.removed
            ),
            Err(error) => tracing::error!("the bucket {} has not what the mirror has: {error}", self.name),
        }
    }
}
