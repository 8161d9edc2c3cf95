//! The kickstarts of all hosts: rendered when something changes, answered from memory.
//!
//! Rolls are read again when `sync config` says so or their folders change; a roll set that fails the check is not used, and the last
//! good one goes on being served. Hosts whose profiles read the same attribute values share one rendering. One
//! [`Service::sync`] runs at a time and makes all changes (`sync`); who gets them at once and who when a rollout says so is in `give` and
//! `advance`; requests only read.

mod advance;
mod give;
mod render;
mod sight;
mod sync;

use std::collections::{BTreeMap, HashMap};
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use rocks_common::attr::Attributes;
use rocks_common::generate;
use rocks_common::ids::{ApplianceName, Digest, Generation, HostName};
use rocks_common::profile::Profile;
use rocks_common::roll::RollSet;
use serde::Serialize;
use tokio::sync::{Semaphore, SemaphorePermit, watch};

use crate::ca::Authority;
use crate::eval::{Confinement, Policy, Runner};
use crate::rollout::Rollouts;
use crate::store::{Host, Store, StoreError, attributes_of};
pub use advance::ActError;
pub(crate) use give::CANARY;
use render::{Basis, Kept, Work};
use sync::Turn;

/// After how long without a word a host counts as away, if nobody says otherwise.
const STALE_SECONDS: i64 = 15 * 60;

/// A kickstart's text and what is said about it.
#[derive(Debug)]
pub struct Body {
    /// The digest of the text.
    pub digest: Digest,
    /// The text, compressed once for all who ask. Every host may have one of its own, so it is kept in this form alone.
    pub gzip: Bytes,
}

impl Body {
    fn new(text: &str) -> Self {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        // Writing to memory cannot fail.
        let _ = encoder.write_all(text.as_bytes());
        let gzip = encoder.finish().unwrap_or_default().into_boxed_slice();
        Self { digest: Digest::of(text.as_bytes()), gzip: Bytes::from(gzip) }
    }

    /// The text, for the few who do not take it compressed.
    #[must_use]
    pub fn plain(&self) -> Bytes {
        let mut text = Vec::new();
        // It is our own compression of a text in memory.
        let _ = GzDecoder::new(&*self.gzip).read_to_end(&mut text);
        Bytes::from(text)
    }
}

/// One host's kickstart.
#[derive(Debug, Clone)]
pub struct Served {
    /// The text; shared by all hosts that have the same.
    pub body: Arc<Body>,
    /// The generation in which it came to be.
    pub generation: Generation,
    /// The seal.
    pub seal: String,
    /// The host's appliance when it was given that.
    pub appliance: ApplianceName,
}

/// What is known of one host while the frontend runs.
pub struct Slot {
    served: watch::Sender<Option<Served>>,
    /// What it is to have when its wave comes, if that is not what it is served.
    target: Mutex<Option<Arc<Body>>>,
    /// Its requests that wait now.
    waiting: AtomicU32,
    /// When it was here last, in seconds since 1970; 0: not since the start.
    seen: AtomicI64,
    /// One of its requests at a time needs the store.
    turn: Semaphore,
}

impl Slot {
    fn new() -> Self {
        let (waiting, seen) = (AtomicU32::new(0), AtomicI64::new(0));
        Self { served: watch::Sender::new(None), target: Mutex::new(None), waiting, seen, turn: Semaphore::new(1) }
    }

    /// Its kickstart, if there is one.
    #[must_use]
    pub fn served(&self) -> Option<Served> {
        self.served.borrow().clone()
    }

    /// The kickstart that it is to have when its wave comes, if that is not what it is served.
    #[must_use]
    pub fn target(&self) -> Option<Arc<Body>> {
        self.target.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A view of its kickstart that tells when it changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<Served>> {
        self.served.subscribe()
    }

    /// Takes note that the host is here, until what this gives is dropped.
    #[must_use]
    pub fn visit(self: &Arc<Self>) -> Visit {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Visit(self.clone())
    }

    /// The host's turn at the store, until what this gives is dropped; none if its other requests take longer than `patience`.
    pub async fn turn(&self, patience: Duration) -> Option<SemaphorePermit<'_>> {
        tokio::time::timeout(patience, self.turn.acquire()).await.ok()?.ok()
    }

    /// When the host was here last, in seconds since 1970: now, if it waits.
    #[must_use]
    pub fn seen(&self, now: i64) -> Option<i64> {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            return Some(now);
        }
        Some(self.seen.load(Ordering::Relaxed)).filter(|seen| *seen > 0)
    }
}

/// A request of a host's.
pub struct Visit(Arc<Slot>);

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
        self.0.seen.store(Timestamp::now().as_second(), Ordering::Relaxed);
    }
}

/// What a synchronisation came to.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SyncReport {
    /// The generation afterwards.
    pub generation: Generation,
    /// Hosts whose kickstart is another one now.
    pub changed: Vec<String>,
    /// How many hosts keep the one they have, because a rollout holds them.
    pub held: usize,
    /// Hosts whose kickstart could not be made; they keep the last one.
    pub failed: BTreeMap<String, String>,
    /// What is wrong with the rolls, for people; then the last good ones are still in use.
    pub problems: Option<String>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// The service.
pub struct Service {
    store: Store,
    authority: Arc<Authority>,
    /// What agents reach the frontend by.
    pub frontend_url: String,
    slots: RwLock<HashMap<HostName, Arc<Slot>>>,
    rolls: RwLock<Option<Arc<RollSet>>>,
    last: Mutex<SyncReport>,
    /// How many of the store's changes the last synchronisation knew.
    caught_up: watch::Sender<u64>,
    /// What each host was given last, and what that depended on.
    rendered: Arc<Mutex<Kept>>,
    /// What runs the code of the rolls in use; kept, because it remembers what the code printed.
    runner: Mutex<Option<(Arc<Basis>, Arc<Runner>)>>,
    /// One synchronisation at a time: an older view must not be published as a newer generation.
    turn: tokio::sync::Mutex<Turn>,
    rollouts: Rollouts,
    /// After how long without a word a host counts as away.
    stale_seconds: i64,
    /// The administrator's own nodes.
    site: Option<PathBuf>,
    /// When this frontend started, in seconds since 1970.
    started: i64,
    confinement: Confinement,
    /// Where code of rolls works.
    work: Option<PathBuf>,
}

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No rolls are enabled, or none could be read.
    #[error("there are no rolls to make a kickstart of")]
    NoRolls,
    /// What is wrong, for people.
    #[error("{0}")]
    Problems(String),
}

/// A host's profile and what it was made of.
pub struct Made {
    /// The rolls.
    pub rolls: Arc<RollSet>,
    /// The host's attributes, the rolls' defaults included.
    pub attributes: Attributes,
    /// The profile.
    pub profile: Profile,
}

impl Service {
    /// A service that has nothing yet; [`Service::sync`] fills it.
    #[must_use]
    pub fn new(store: Store, authority: Arc<Authority>, frontend_url: String) -> Self {
        Self {
            store,
            authority,
            frontend_url,
            slots: RwLock::new(HashMap::new()),
            rolls: RwLock::new(None),
            last: Mutex::new(SyncReport::default()),
            caught_up: watch::Sender::new(0),
            rendered: Arc::default(),
            runner: Mutex::new(None),
            turn: tokio::sync::Mutex::default(),
            rollouts: Rollouts::default(),
            stale_seconds: STALE_SECONDS,
            site: None,
            started: Timestamp::now().as_second(),
            confinement: Confinement::fitting(),
            work: None,
        }
    }

    /// The same, for which a host counts as away after so many minutes without a word.
    #[must_use]
    pub fn stale_after(self, minutes: u32) -> Self {
        Self { stale_seconds: i64::from(minutes) * 60, ..self }
    }

    /// The same, with the administrator's own nodes in a folder, which may come to be there later.
    #[must_use]
    pub fn with_site(self, folder: PathBuf) -> Self {
        Self { site: Some(folder), ..self }
    }

    /// The same, with code of rolls at work in a folder that nobody else tidies up.
    #[must_use]
    pub fn with_work(self, folder: PathBuf) -> Self {
        Self { work: Some(folder), ..self }
    }

    /// Where the administrator's own nodes are, if there are any.
    #[must_use]
    pub fn site(&self) -> Option<PathBuf> {
        self.site.clone().filter(|folder| folder.is_dir())
    }

    /// The rollouts.
    #[must_use]
    pub const fn rollouts(&self) -> &Rollouts {
        &self.rollouts
    }

    /// What is known of `host`.
    #[must_use]
    pub fn slot(&self, host: &HostName) -> Arc<Slot> {
        if let Some(slot) = self.slots.read().unwrap_or_else(PoisonError::into_inner).get(host) {
            return slot.clone();
        }
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        slots.entry(host.clone()).or_insert_with(|| Arc::new(Slot::new())).clone()
    }

    /// Waits until whatever was changed so far is in the kickstarts, or could not be, but not for ever.
    pub async fn catch_up(&self, patience: Duration) {
        let changes = self.store.changes().borrow().any;
        let mut caught_up = self.caught_up.subscribe();
        let _ = tokio::time::timeout(patience, caught_up.wait_for(|known| *known >= changes)).await;
    }

    /// What the last synchronisation came to.
    #[must_use]
    pub fn last_sync(&self) -> SyncReport {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The rolls in use.
    #[must_use]
    pub fn rolls(&self) -> Option<Arc<RollSet>> {
        self.rolls.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The folders of the enabled rolls.
    ///
    /// # Errors
    /// The store's.
    pub async fn folders(&self) -> Result<Vec<PathBuf>, StoreError> {
        let rolls = self.store.rolls().await?;
        Ok(rolls.iter().filter(|roll| roll.enabled).map(|roll| PathBuf::from(&roll.path)).collect())
    }

    /// The attributes of one host, the rolls' defaults included.
    ///
    /// # Errors
    /// There is no such host.
    pub async fn attributes(&self, host: &HostName) -> Result<Attributes, StoreError> {
        Ok(self.attributes_and_root(host).await?.0)
    }

    async fn attributes_and_root(&self, host: &HostName) -> Result<(Attributes, String), StoreError> {
        let host = self.store.host(host).await?;
        self.attributes_and_root_of(&host).await
    }

    async fn attributes_and_root_of(&self, host: &Host) -> Result<(Attributes, String), StoreError> {
        let (appliances, settings) = (self.store.appliances().await?, self.store.attributes_for(host, false).await?);
        let appliance = appliances.iter().find(|a| a.name == host.appliance);
        let appliance =
            appliance.ok_or_else(|| StoreError::Missing { kind: "appliance", name: host.appliance.to_string() })?;
        let mut attributes = attributes_of(host, appliance, &settings, &self.frontend_url);
        if let Some(rolls) = self.rolls() {
            rolls.complete(&mut attributes);
        }
        Ok((attributes, appliance.node.clone()))
    }

    /// The profile of one host, made now of the rolls in use.
    ///
    /// # Errors
    /// See [`RenderError`].
    pub async fn profile(&self, host: &HostName) -> Result<Made, RenderError> {
        let (attributes, root) = self.attributes_and_root(host).await?;
        self.make(attributes, root).await
    }

    /// The kickstart of an appliance as such, for an image of it: that of a host named `localhost` that has no attributes of its own.
    ///
    /// # Errors
    /// See [`RenderError`].
    pub async fn of_appliance(&self, appliance: &ApplianceName, arch: &str) -> Result<String, RenderError> {
        let name = HostName::new("localhost").map_err(|error| RenderError::Problems(error.to_string()))?;
        let host = Host::new(name, appliance.clone(), arch);
        let (attributes, root) = self.attributes_and_root_of(&host).await?;
        let made = self.make(attributes, root).await?;
        generate::kickstart(&made.profile).map_err(|problems| RenderError::Problems(problems.render()))
    }

    async fn make(&self, attributes: Attributes, root: String) -> Result<Made, RenderError> {
        let rolls = self.rolls().ok_or(RenderError::NoRolls)?;
        let basis = self.basis(&rolls).await?;
        let runner = self.runner(&rolls, &basis);
        let work = tokio::task::spawn_blocking(move || {
            let work = Work {
                rolls: &rolls,
                basis: &basis,
                hosts: &[],
                appliances: &[],
                settings: &[],
                frontend_url: "",
                runner: runner.as_ref().map(Option::as_deref).map_err(Clone::clone),
            };
            let profile = work.profile(&attributes, &root);
            profile.map(|profile| Made { rolls: rolls.clone(), attributes, profile }).map_err(RenderError::Problems)
        });
        work.await.map_err(|error| RenderError::Problems(error.to_string()))?
    }

    async fn basis(&self, rolls: &RollSet) -> Result<Arc<Basis>, StoreError> {
        let all = self.store.rolls().await?;
        let trusted = all.iter().filter(|r| r.trusted && r.enabled).map(|r| PathBuf::from(&r.path));
        // Whoever writes there administers this machine.
        let trusted = trusted.chain(self.site()).collect();
        Ok(Arc::new(Basis { rolls: rolls.digest, trusted }))
    }

    /// What runs the code of `rolls`, if they have any; that of the last time if nothing changed.
    fn runner(&self, rolls: &RollSet, basis: &Arc<Basis>) -> Result<Option<Arc<Runner>>, String> {
        if !rolls.has_eval {
            return Ok(None);
        }
        let mut kept = self.runner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, runner)) = &*kept
            && of == basis
        {
            return Ok(Some(runner.clone()));
        }
        let (trusted, confinement) = (Some(basis.trusted.clone()), self.confinement.clone());
        let policy = Policy { trusted, confinement, work: self.work.clone() };
        let runner = Arc::new(Runner::new(rolls, policy).map_err(|error| error.to_string())?);
        *kept = Some((basis.clone(), runner.clone()));
        Ok(Some(runner))
    }

    fn keep(&self, report: &SyncReport) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = report.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_host_has_one_turn_at_a_time() {
        let slot = Slot::new();
        let first = slot.turn(Duration::ZERO).await;
        assert!(first.is_some() && slot.turn(Duration::ZERO).await.is_none());
        drop(first);
        assert!(slot.turn(Duration::ZERO).await.is_some());
    }
}
