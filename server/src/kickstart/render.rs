//! Renders the kickstarts of all hosts, on all processors, each distinct one once.
//!
//! Pure but for code of trusted rolls: what comes out depends on the rolls, the attributes and nothing else.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use rocks_common::attr::{Attributes, Scope};
use rocks_common::ids::{Digest, HostName};
use rocks_common::node::Eval;
use rocks_common::profile::{Profile, Request};
use rocks_common::roll::RollSet;
use rocks_common::{generate, profile};

use super::Body;
use crate::eval::Runner;
use crate::store::{Appliance, Host, Owner, Setting, attributes_of};

/// Distinct renderings of one root that a host is compared with. A fleet in which every host differs gains nothing from more.
const TWINS: usize = 64;
/// Hosts that a thread takes at a time.
const CHUNK: usize = 16;

/// The attributes that a profile read, with the values that it found.
type Reads = Vec<(Box<str>, Option<String>)>;

/// Whether `attributes` have the values that were read.
fn same(reads: &Reads, attributes: &Attributes) -> bool {
    reads.iter().all(|(name, value)| attributes.get(name) == value.as_deref())
}

/// What all renderings of one time depend on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Basis {
    /// The rolls.
    pub(super) rolls: Digest,
    /// Folders of the rolls whose code may run.
    pub(super) trusted: Vec<PathBuf>,
}

/// A rendering and all that it depended on.
#[derive(Clone)]
pub(super) struct Rendered {
    basis: Arc<Basis>,
    root: Arc<str>,
    reads: Arc<Reads>,
    body: Arc<Body>,
}

/// What each host was given last.
pub(super) type Kept = HashMap<HostName, Rendered>;

/// All that rendering needs.
pub(super) struct Work<'w> {
    pub(super) rolls: &'w RollSet,
    pub(super) basis: &'w Arc<Basis>,
    pub(super) hosts: &'w [Host],
    pub(super) appliances: &'w [Appliance],
    pub(super) settings: &'w [Setting],
    pub(super) frontend_url: &'w str,
    /// Runs code; none: there is none to run, or why it cannot be.
    pub(super) runner: Result<Option<&'w Runner>, String>,
}

/// What became of one host.
pub(super) type Outcome = Result<Arc<Body>, String>;

impl Work<'_> {
    /// Every host's kickstart; what did not change is taken from `kept`, which is brought up to date.
    pub(super) fn all(&self, kept: &mut Kept) -> Vec<(HostName, Outcome)> {
        let appliances: HashMap<&str, (&Appliance, Arc<str>)> =
            self.appliances.iter().map(|a| (a.name.as_str(), (a, Arc::from(a.node.as_str())))).collect();
        let (own, common): (Vec<&Setting>, Vec<&Setting>) =
            self.settings.iter().partition(|setting| matches!(setting.owner, Owner::Host(_)));
        let common: Vec<Setting> = common.into_iter().cloned().collect();
        let mut of_host: HashMap<&str, Vec<&Setting>> = HashMap::new();
        for setting in own {
            if let Owner::Host(host) = &setting.owner {
                of_host.entry(host.as_str()).or_default().push(setting);
            }
        }
        let shared: Shared = RwLock::default();
        let one = |host: &Host| -> Result<Rendered, String> {
            let Some((appliance, root)) = appliances.get(host.appliance.as_str()) else {
                return Err(format!("there is no appliance {}", host.appliance));
            };
            let mut attributes = attributes_of(host, appliance, &common, self.frontend_url);
            for setting in of_host.get(host.name.as_str()).into_iter().flatten() {
                attributes.set(Scope::Host, setting.name.clone(), setting.value.as_str());
            }
            self.rolls.complete(&mut attributes);
            let before = kept.get(&host.name).filter(|before| {
                before.basis == *self.basis && before.root == *root && same(&before.reads, &attributes)
            });
            before.map_or_else(|| self.one(&attributes, root, &shared), |before| Ok(before.clone()))
        };
        let next = std::sync::atomic::AtomicUsize::new(0);
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(self.hosts.len().div_ceil(CHUNK));
        let mut results: Vec<(usize, Vec<Result<Rendered, String>>)> = Vec::new();
        std::thread::scope(|scope| {
            let work = || {
                let mut done = Vec::new();
                loop {
                    let at = next.fetch_add(CHUNK, std::sync::atomic::Ordering::Relaxed);
                    let Some(chunk) = self.hosts.get(at..self.hosts.len().min(at + CHUNK)).filter(|c| !c.is_empty())
                    else {
                        return done;
                    };
                    done.push((at, chunk.iter().map(&one).collect::<Vec<_>>()));
                }
            };
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            results.extend(work());
            for other in others {
                match other.join() {
                    Ok(done) => results.extend(done),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });
        results.sort_by_key(|(at, _)| *at);
        let results = results.into_iter().flat_map(|(_, chunk)| chunk);
        let mut all = Vec::with_capacity(self.hosts.len());
        for (host, result) in self.hosts.iter().zip(results) {
            if let Ok(rendered) = &result {
                kept.insert(host.name.clone(), rendered.clone());
            }
            all.push((host.name.clone(), result.map(|rendered| rendered.body)));
        }
        if kept.len() > self.hosts.len() {
            let there: std::collections::HashSet<&HostName> = self.hosts.iter().map(|host| &host.name).collect();
            kept.retain(|host, _| there.contains(host));
        }
        all
    }

    fn one(&self, attributes: &Attributes, root: &Arc<str>, shared: &Shared) -> Result<Rendered, String> {
        let twin = {
            let known = shared.read().unwrap_or_else(PoisonError::into_inner);
            known.get(&**root).and_then(|known| known.iter().find(|twin| same(&twin.reads, attributes)).cloned())
        };
        if let Some(twin) = twin {
            return Ok(twin);
        }
        let profile = self.profile(attributes, root)?;
        let text = generate::kickstart(&profile).map_err(|problems| problems.render())?;
        let reads = reads(&profile.reads, attributes);
        let made = Rendered {
            basis: self.basis.clone(),
            root: root.clone(),
            reads: Arc::new(reads),
            body: Arc::new(Body::new(&text)),
        };
        let mut known = shared.write().unwrap_or_else(PoisonError::into_inner);
        let known = known.entry(root.to_string()).or_default();
        if known.len() < TWINS {
            known.push(made.clone());
        }
        Ok(made)
    }

    /// The profile of a host with these attributes.
    pub(super) fn profile(&self, attributes: &Attributes, root: &str) -> Result<Profile, String> {
        let eval = match &self.runner {
            Ok(Some(runner)) => Eval::Run(*runner),
            Ok(None) => Eval::No,
            Err(error) => return Err(format!("cannot prepare to run code: {error}")),
        };
        let request = Request { root, attributes, eval, only_rolls: None };
        profile::build(self.rolls, &request).map_err(|problems| problems.render())
    }
}

/// Renderings that other hosts may share, by the node that the profile begins at.
type Shared = RwLock<HashMap<String, Vec<Rendered>>>;

fn reads(names: &BTreeSet<Box<str>>, attributes: &Attributes) -> Reads {
    names.iter().map(|name| (name.clone(), attributes.get(name).map(ToOwned::to_owned))).collect()
}
