//! Rollouts: a change reaches an appliance's hosts in waves, each watched before the next, and stops by itself when hosts fail.
//!
//! `strategy` is what the administrator says, `wave` which hosts come first, `machine` what a rollout does, `gate` who waits, `what` what
//! changed: all pure. This file has what is known of them while the frontend runs; `kickstart` gives hosts what they decide, and the store
//! keeps them. When nothing is rolled out, nothing here costs anything.

pub mod gate;
pub mod machine;
pub mod strategy;
pub mod wave;
pub mod what;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use jiff::Timestamp;
use rocks_common::ids::{ApplianceName, Digest, HostName, RolloutName};
use rocks_common::wire::Outcome;
use tokio::sync::{Notify, mpsc};

use machine::{Counts, Rollout, Status};

/// Reports that may wait to be looked at; who brings more waits.
const WAITING: usize = 4096;

/// What a host reported, as far as it matters here.
#[derive(Debug, Clone)]
pub struct Heard {
    /// The host.
    pub host: HostName,
    /// The kickstart that it worked on, if on any.
    pub kickstart: Option<Digest>,
    /// What came of it.
    pub outcome: Outcome,
}

/// Which hosts of a rollout are to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Touched {
    /// All: it is new.
    All,
    /// Some, by their places.
    Some(BTreeSet<usize>),
}

/// A rollout that is to take the place of what is known of it.
#[derive(Debug, Clone)]
pub struct Change {
    /// The rollout.
    pub rollout: Rollout,
    /// What of it is to be written, beside what holds for all of its hosts.
    pub touched: Touched,
}

impl Change {
    /// A change of a rollout that is known, of which nothing has changed yet.
    #[must_use]
    pub fn of(rollout: &Rollout) -> Self {
        Self { rollout: rollout.clone(), touched: Touched::Some(BTreeSet::new()) }
    }

    /// Whether there are hosts to be written.
    #[must_use]
    pub fn has_touched(&self) -> bool {
        !matches!(&self.touched, Touched::Some(some) if some.is_empty())
    }

    /// Takes note that hosts are in another state.
    pub fn touch(&mut self, places: &[usize]) {
        if let Touched::Some(some) = &mut self.touched {
            some.extend(places);
        }
    }
}

/// What is known of rollouts while the frontend runs: of each appliance the latest, until a later change takes its place.
#[derive(Debug)]
pub struct Rollouts {
    latest: RwLock<BTreeMap<ApplianceName, Arc<Rollout>>>,
    sender: mpsc::Sender<Heard>,
    receiver: Mutex<Option<mpsc::Receiver<Heard>>>,
    changed: Notify,
}

impl Default for Rollouts {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        Self { latest: RwLock::default(), sender, receiver: Mutex::new(Some(receiver)), changed: Notify::new() }
    }
}

impl Rollouts {
    /// The latest rollouts, by appliance.
    #[must_use]
    pub fn latest(&self) -> BTreeMap<ApplianceName, Arc<Rollout>> {
        self.latest.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The latest rollout of an appliance.
    #[must_use]
    pub fn of(&self, appliance: &ApplianceName) -> Option<Arc<Rollout>> {
        self.latest.read().unwrap_or_else(PoisonError::into_inner).get(appliance).cloned()
    }

    /// The rollout for whose sake a host waits, if it does.
    #[must_use]
    pub fn waits(&self, appliance: &ApplianceName, host: &HostName) -> Option<RolloutName> {
        let latest = self.latest.read().unwrap_or_else(PoisonError::into_inner);
        let rollout = latest.get(appliance).filter(|rollout| rollout.header().status.is_open())?;
        rollout.keeps(host).then(|| rollout.header().name.clone())
    }

    /// How many rollouts are open and how many of them stopped by themselves, and how their hosts are.
    #[must_use]
    pub fn count(&self) -> (usize, usize, Counts) {
        let (mut open, mut stopped, mut all) = (0, 0, Counts::default());
        for rollout in self.latest().values().filter(|rollout| rollout.header().status.is_open()) {
            open += 1;
            stopped += usize::from(matches!(rollout.header().status, Status::Stopped { .. }));
            all.add(&rollout.header().counts);
        }
        (open, stopped, all)
    }

    /// Puts rollouts in the place of what was known of them, and wakes whoever waits for their time.
    pub(crate) fn replace(&self, changes: impl IntoIterator<Item = Rollout>) {
        let mut latest = self.latest.write().unwrap_or_else(PoisonError::into_inner);
        for rollout in changes {
            let (appliance, number) = (rollout.header().appliance.clone(), rollout.header().number);
            let is_over = matches!(rollout.header().status, Status::Superseded { .. });
            let is_newer = latest.get(&appliance).is_none_or(|known| known.header().number <= number);
            match (is_newer, is_over) {
                (true, true) => drop(latest.remove(&appliance)),
                (true, false) => drop(latest.insert(appliance, Arc::new(rollout))),
                (false, _) => {}
            }
        }
        drop(latest);
        self.changed.notify_one();
    }

    /// Takes note of a report, if there is a rollout that it may matter to.
    pub async fn heard(&self, heard: Heard) {
        let matters = {
            let latest = self.latest.read().unwrap_or_else(PoisonError::into_inner);
            let mut open = latest.values().filter(|rollout| rollout.header().status.is_open());
            open.any(|rollout| rollout.member(&heard.host).is_some())
        };
        if matters {
            // Who would listen is gone only when the frontend ends; the next one reads the store.
            let _ = self.sender.send(heard).await;
        }
    }

    /// What is heard; there is one who listens.
    pub(crate) fn listen(&self) -> Option<mpsc::Receiver<Heard>> {
        self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Ends when a rollout has changed.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// When the first rollout has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        let latest = self.latest.read().unwrap_or_else(PoisonError::into_inner);
        latest.values().filter_map(|rollout| rollout.deadline()).min()
    }
}
