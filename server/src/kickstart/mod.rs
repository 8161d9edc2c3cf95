//! The kickstarts of all hosts: rendered when something changes, answered from memory.
//!
//! Rolls are read again when `sync config` says so or their folders change; a roll set that fails the check is not used, and the last
//! good one goes on being served. Hosts whose profiles read the same attribute values share one rendering. One task makes all
//! changes ([`Service::work`]); requests only read.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use rocks_common::attr::{Attributes, Scope};
use rocks_common::diag::Diagnostics;
use rocks_common::ids::{Digest, Generation, HostName};
use rocks_common::node::Eval;
use rocks_common::profile::Request;
use rocks_common::roll::{LoadOptions, RollSet};
use rocks_common::seal::Claim;
use rocks_common::{check, generate, profile, roll};
use serde::Serialize;
use tokio::sync::watch;

use crate::ca::Authority;
use crate::eval::{Policy, Runner};
use crate::store::{Host, Owner, Setting, Store, StoreError, attributes_of};

/// A kickstart's text and what is said about it.
#[derive(Debug)]
pub struct Body {
    /// Its digest.
    pub digest: Digest,
    /// The text.
    pub plain: Bytes,
    /// The text, compressed once for all.
    pub gzip: Bytes,
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
}

/// A host's kickstart, or why there is none.
type Slot = watch::Sender<Option<Served>>;

/// What a synchronisation came to.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SyncReport {
    /// The generation afterwards.
    pub generation: Generation,
    /// Hosts whose kickstart is another one now.
    pub changed: Vec<String>,
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
    /// What each host was given last, and what that depended on.
    rendered: Arc<Mutex<HashMap<HostName, Rendered>>>,
    /// One synchronisation at a time: an older view must not be published as a newer generation.
    turn: tokio::sync::Mutex<()>,
    identity: Option<(u32, u32)>,
}

/// Why there is no kickstart.
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

/// The attributes that a profile read, with the values that it found.
type Reads = Vec<(Box<str>, Option<String>)>;

/// Whether `attributes` have the values that were read.
fn same(reads: &Reads, attributes: &Attributes) -> bool {
    reads.iter().all(|(name, value)| attributes.get(name) == value.as_deref())
}

/// A rendering and all that it depended on.
struct Rendered {
    rolls: Digest,
    trusted: Option<Vec<PathBuf>>,
    root: String,
    reads: Reads,
    body: Arc<Body>,
}

/// A rendering with what it depended on.
type Shareable = (Arc<Reads>, Arc<Body>);

/// Renderings that other hosts may share: those for which the same attributes have the same values.
#[derive(Default)]
struct Shared {
    /// By the node that the profile begins at.
    by_root: HashMap<String, Vec<Shareable>>,
}

impl Service {
    /// A service that has nothing yet; [`Service::sync`] fills it.
    #[must_use]
    pub fn new(store: Store, authority: Arc<Authority>, frontend_url: String) -> Self {
        // Code from rolls never runs as root.
        let identity = rustix::process::geteuid().is_root().then_some((65534, 65534));
        Self {
            store,
            authority,
            frontend_url,
            slots: RwLock::new(HashMap::new()),
            rolls: RwLock::new(None),
            last: Mutex::new(SyncReport::default()),
            rendered: Arc::default(),
            turn: tokio::sync::Mutex::new(()),
            identity,
        }
    }

    fn slot(&self, host: &HostName) -> Arc<Slot> {
        if let Some(slot) = self.slots.read().unwrap_or_else(PoisonError::into_inner).get(host) {
            return slot.clone();
        }
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        slots.entry(host.clone()).or_insert_with(|| Arc::new(watch::Sender::new(None))).clone()
    }

    /// A view of `host`'s kickstart that tells when it changes.
    #[must_use]
    pub fn watch(&self, host: &HostName) -> watch::Receiver<Option<Served>> {
        self.slot(host).subscribe()
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
        let host = self.store.host(host).await?;
        let (appliances, settings) = (self.store.appliances().await?, self.store.attributes().await?);
        let appliance = appliances.iter().find(|a| a.name == host.appliance);
        let appliance =
            appliance.ok_or_else(|| StoreError::Missing { kind: "appliance", name: host.appliance.to_string() })?;
        let mut attributes = attributes_of(&host, appliance, &settings, &self.frontend_url);
        if let Some(rolls) = self.rolls() {
            rolls.complete(&mut attributes);
        }
        Ok(attributes)
    }

    /// Reads the rolls again if `reload`, and renders every host's kickstart. Hosts that wait are answered.
    ///
    /// # Errors
    /// The store's.
    pub async fn sync(&self, reload: bool) -> Result<SyncReport, StoreError> {
        let _turn = self.turn.lock().await;
        let clock = Instant::now();
        let (hosts, appliances) = (self.store.hosts().await?, self.store.appliances().await?);
        let (settings, rolls) = (self.store.attributes().await?, self.store.rolls().await?);
        let mut report = SyncReport { problems: self.last_sync().problems, ..SyncReport::default() };
        if reload || self.rolls().is_none() {
            let folders: Vec<PathBuf> = rolls.iter().filter(|r| r.enabled).map(|r| PathBuf::from(&r.path)).collect();
            let roots: Vec<String> = appliances.iter().map(|a| a.node.clone()).collect();
            let globals = global(&settings);
            let loaded = tokio::task::spawn_blocking(move || load(&folders, &globals, &roots)).await;
            match loaded {
                // The same files again: what was made of them still holds.
                Ok(Ok(rolls)) if self.rolls().is_some_and(|now| now.digest == rolls.digest) => report.problems = None,
                Ok(Ok(rolls)) => {
                    *self.rolls.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(rolls));
                    report.problems = None;
                }
                Ok(Err(problems)) => report.problems = Some(problems.render()),
                Err(error) => report.problems = Some(error.to_string()),
            }
        }
        let Some(set) = self.rolls() else {
            self.keep(&report);
            return Ok(report);
        };
        let trusted = rolls.iter().filter(|r| r.trusted && r.enabled).map(|r| PathBuf::from(&r.path)).collect();
        let policy = Policy { trusted: Some(trusted), identity: self.identity };
        let url = self.frontend_url.clone();
        let work = {
            let (hosts, set, kept) = (hosts.clone(), set.clone(), self.rendered.clone());
            tokio::task::spawn_blocking(move || {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                render_all(&set, &hosts, &appliances, &settings, &url, &policy, &mut kept)
            })
        };
        let rendered = match work.await {
            Ok(rendered) => rendered,
            Err(error) => {
                report.problems = Some(format!("rendering broke off: {error}"));
                Vec::new()
            }
        };
        let mut next = Vec::new();
        for (host, result) in rendered {
            match result {
                Err(message) => {
                    report.failed.insert(host.to_string(), message);
                }
                Ok(body) => {
                    let slot = self.slot(&host);
                    let same = slot.borrow().as_ref().is_some_and(|served| served.body.digest == body.digest);
                    if !same {
                        next.push((host, slot, body));
                    }
                }
            }
        }
        report.generation = self.store.generation().await?;
        if !next.is_empty() {
            let now = u64::try_from(Timestamp::now().as_second()).unwrap_or(0);
            report.generation = self.store.next_generation(now).await?;
        }
        for (host, slot, body) in next {
            let claim = Claim { host, generation: report.generation, digest: body.digest };
            let seal = self.authority.sealer.seal(&claim);
            slot.send_replace(Some(Served { body, generation: report.generation, seal }));
            report.changed.push(claim.host.to_string());
        }
        // A host that was removed gets nothing any more.
        let known: std::collections::HashSet<&HostName> = hosts.iter().map(|host| &host.name).collect();
        self.slots.write().unwrap_or_else(PoisonError::into_inner).retain(|host, slot| {
            let keep = known.contains(host);
            if !keep {
                slot.send_replace(None);
            }
            keep
        });
        report.duration_ms = u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.keep(&report);
        Ok(report)
    }

    fn keep(&self, report: &SyncReport) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = report.clone();
    }
}

/// What holds for all hosts: what the check may count on.
fn global(settings: &[Setting]) -> Attributes {
    let mut attributes = Attributes::new();
    for setting in settings {
        attributes.set_default(Scope::Global, setting.name.clone(), setting.value.as_str());
    }
    attributes
}

fn load(folders: &[PathBuf], globals: &Attributes, roots: &[String]) -> Result<RollSet, Diagnostics> {
    let (rolls, mut problems) = roll::load(folders, &LoadOptions::default());
    // An appliance may wait for a roll that is not enabled yet; that is its own problem, not everybody's.
    let roots: Vec<String> = roots.iter().filter(|root| rolls.graph.index(root).is_some()).cloned().collect();
    problems.extend(check::check(&rolls, globals, &roots));
    if problems.has_errors() { Err(problems) } else { Ok(rolls) }
}

fn render_all(
    rolls: &RollSet,
    hosts: &[Host],
    appliances: &[crate::store::Appliance],
    settings: &[Setting],
    url: &str,
    policy: &Policy,
    kept: &mut HashMap<HostName, Rendered>,
) -> Vec<(HostName, Result<Arc<Body>, String>)> {
    let mut shared = Shared::default();
    // Preparing to run code costs time; most rolls have none.
    let runner = rolls.has_eval.then(|| Runner::new(rolls, policy.clone()).map_err(|error| error.to_string()));
    let nodes: HashMap<&str, &crate::store::Appliance> = appliances.iter().map(|a| (a.name.as_str(), a)).collect();
    let common: Vec<Setting> = settings.iter().filter(|s| !matches!(s.owner, Owner::Host(_))).cloned().collect();
    let mut own: HashMap<&str, Vec<Setting>> = HashMap::new();
    for setting in settings {
        if let Owner::Host(host) = &setting.owner {
            own.entry(host.as_str()).or_default().push(setting.clone());
        }
    }
    let mut all = Vec::with_capacity(hosts.len());
    for host in hosts {
        let Some(appliance) = nodes.get(host.appliance.as_str()) else {
            all.push((host.name.clone(), Err(format!("there is no appliance {}", host.appliance))));
            continue;
        };
        let mut attributes = attributes_of(host, appliance, &common, url);
        for setting in own.get(host.name.as_str()).into_iter().flatten() {
            attributes.set(Scope::Host, setting.name.clone(), setting.value.as_str());
        }
        rolls.complete(&mut attributes);
        let before = kept.get(&host.name).filter(|before| {
            before.rolls == rolls.digest
                && before.root == appliance.node
                && before.trusted == policy.trusted
                && same(&before.reads, &attributes)
        });
        if let Some(before) = before {
            all.push((host.name.clone(), Ok(before.body.clone())));
            continue;
        }
        let known = shared.by_root.entry(appliance.node.clone()).or_default();
        let twin = known.iter().find(|(reads, _)| same(reads, &attributes)).cloned();
        let result = match (twin, &runner) {
            (Some(twin), _) => Ok(twin),
            (None, Some(Err(error))) => Err(format!("cannot prepare to run code: {error}")),
            (None, runner) => {
                let eval = match runner {
                    Some(Ok(runner)) => Eval::Run(runner),
                    _ => Eval::No,
                };
                render(rolls, &appliance.node, &attributes, eval).map(|(text, reads)| {
                    let value = |name: Box<str>| {
                        let value = attributes.get(&name).map(ToOwned::to_owned);
                        (name, value)
                    };
                    let made = (Arc::new(reads.into_iter().map(value).collect::<Reads>()), Arc::new(body_of(text)));
                    // A fleet in which every host differs gains nothing from comparing with all others.
                    if known.len() < 64 {
                        known.push(made.clone());
                    }
                    made
                })
            }
        };
        if let Ok((reads, body)) = &result {
            let rendered = Rendered {
                rolls: rolls.digest,
                trusted: policy.trusted.clone(),
                root: appliance.node.clone(),
                reads: reads.to_vec(),
                body: body.clone(),
            };
            kept.insert(host.name.clone(), rendered);
        }
        all.push((host.name.clone(), result.map(|(_, body)| body)));
    }
    if kept.len() > hosts.len() {
        let there: std::collections::HashSet<&HostName> = hosts.iter().map(|host| &host.name).collect();
        kept.retain(|host, _| there.contains(host));
    }
    all
}

fn render(
    rolls: &RollSet,
    root: &str,
    attributes: &Attributes,
    eval: Eval<'_>,
) -> Result<(String, std::collections::BTreeSet<Box<str>>), String> {
    let request = Request { root, attributes, eval, only_rolls: None };
    let profile = profile::build(rolls, &request).map_err(|problems| problems.render())?;
    let text = generate::kickstart(&profile).map_err(|problems| problems.render())?;
    Ok((text, profile.reads))
}

fn body_of(text: String) -> Body {
    let digest = Digest::of(text.as_bytes());
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing to memory cannot fail.
    let _ = encoder.write_all(text.as_bytes());
    let gzip = encoder.finish().unwrap_or_default();
    Body { digest, plain: Bytes::from(text), gzip: Bytes::from(gzip) }
}
