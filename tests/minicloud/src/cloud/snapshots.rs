//! Snapshots, however they came about: of a volume, block by block, or imported.

use std::collections::{BTreeMap, BTreeSet};

use super::effects::Effect;
use super::select::{Consistency, Described, check_filters, filters, page, paged, passes};
use super::tags::{Tags, specified, tag_set};
use super::time::{Millis, iso};
use super::{Cloud, Context, done};
use crate::error::{Answer, ApiError};
use crate::query::params::Params;
use crate::query::xml::Value;

/// What EBS counts in, for snapshots.
pub(crate) const BLOCK: u64 = 512 * 1024;

/// A snapshot.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) id: String,
    /// The volume that it is of; EC2 names one that never was when there was none.
    pub(crate) volume: String,
    pub(crate) gib: u64,
    pub(crate) description: String,
    pub(crate) started: Millis,
    /// When its bytes were there, and when it is to be complete.
    copied: Option<(Millis, Millis)>,
    pub(crate) phase: SnapshotPhase,
    pub(crate) encrypted: bool,
    pub(crate) key: Option<String>,
    pub(crate) parent: Option<String>,
    /// The blocks of 512 KiB that hold data.
    pub(crate) blocks: BTreeSet<u32>,
    /// Those of them that were put by EBS direct, with their digests; in the end they have to be as many as the caller says.
    pub(crate) put: BTreeMap<u32, Vec<u8>>,
    /// While blocks may be put: how long the next may keep one waiting, and since when it does.
    pub(crate) patience: Option<(Millis, Millis)>,
    pub(crate) bytes: u64,
    /// Whether it is none of EBS's: what is in a bundle.
    pub(super) hidden: bool,
    pub(crate) tags: Tags,
    consistency: Consistency,
}

/// How far a snapshot is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SnapshotPhase {
    /// Blocks may be put.
    Open,
    /// Its bytes are on their way.
    Pending,
    Completed,
    Error(String),
}

/// The volume of snapshots that are of none.
pub(crate) const NO_VOLUME: &str = "vol-ffffffff";

impl Snapshot {
    pub(crate) fn state(&self) -> &'static str {
        match self.phase {
            SnapshotPhase::Open | SnapshotPhase::Pending => "pending",
            SnapshotPhase::Completed => "completed",
            SnapshotPhase::Error(_) => "error",
        }
    }

    /// Refuses one that a volume or an image cannot be made of yet.
    pub(super) fn usable(&self) -> Answer<()> {
        if self.phase == SnapshotPhase::Completed {
            return Ok(());
        }
        let message = format!("Snapshot '{}' is in invalid state - {}", self.id, self.state());
        Err(ApiError::new("IncorrectState", message))
    }

    fn progress(&self, now: Millis) -> String {
        let share = match (&self.phase, self.copied) {
            (SnapshotPhase::Completed, _) => 100,
            (SnapshotPhase::Pending, Some((from, to))) => {
                (now.saturating_sub(from) * 100 / to.saturating_sub(from).max(1)).min(99)
            }
            _ => 0,
        };
        format!("{share}%")
    }

    fn show(&self, account: &str, now: Millis) -> Value {
        let message = match &self.phase {
            SnapshotPhase::Error(why) => Some(why.clone()),
            _ => None,
        };
        Value::of([
            ("tagSet", tag_set(&self.tags)),
            ("storageTier", "standard".into()),
            ("fullSnapshotSizeInBytes", (self.phase == SnapshotPhase::Completed).then_some(self.bytes).into()),
            ("snapshotId", (&self.id).into()),
            ("volumeId", (&self.volume).into()),
            ("status", self.state().into()),
            ("statusMessage", message.into()),
            ("startTime", iso(self.started).into()),
            ("progress", self.progress(now).into()),
            ("ownerId", account.into()),
            ("description", (&self.description).into()),
            ("volumeSize", self.gib.into()),
            ("encrypted", self.encrypted.into()),
            ("kmsKeyId", self.key.as_ref().into()),
        ])
    }
}

impl Described for Snapshot {
    const FILTERS: &'static [&'static str] =
        &["snapshot-id", "volume-id", "volume-size", "status", "description", "encrypted"];

    fn facts(&self, filter: &str) -> Vec<String> {
        vec![match filter {
            "snapshot-id" => self.id.clone(),
            "volume-id" => self.volume.clone(),
            "volume-size" => self.gib.to_string(),
            "status" => self.state().to_owned(),
            "description" => self.description.clone(),
            _ => self.encrypted.to_string(),
        }]
    }

    fn tags(&self) -> &Tags {
        &self.tags
    }
}

/// A snapshot that is about to be.
pub(crate) struct NewSnapshot {
    pub(crate) volume: String,
    pub(crate) gib: u64,
    pub(crate) description: String,
    pub(crate) phase: SnapshotPhase,
    pub(crate) encrypted: bool,
    pub(crate) key: Option<String>,
    pub(crate) parent: Option<String>,
    pub(crate) tags: Tags,
}

impl Cloud {
    /// A snapshot that can be seen.
    pub(crate) fn snapshot(&self, id: &str, now: Millis) -> Answer<&Snapshot> {
        self.snapshots.get(id).filter(|s| s.consistency.seen(now)).ok_or_else(|| {
            if id.starts_with("snap-") {
                ApiError::new("InvalidSnapshot.NotFound", format!("The snapshot '{id}' does not exist."))
            } else {
                let message = format!("Value ({id}) for parameter snapshotId is invalid. Expected: 'snap-...'.");
                ApiError::new("InvalidParameterValue", message)
            }
        })
    }

    /// Adds a snapshot of what has been checked. Its bytes are somebody else's care.
    pub(crate) fn add_snapshot(&mut self, new: NewSnapshot, now: Millis) -> String {
        let id = self.ids.make("snap");
        let blocks = new.parent.as_ref().and_then(|p| self.snapshots.get(p)).map(|p| p.blocks.clone());
        let snapshot = Snapshot {
            id: id.clone(),
            volume: new.volume,
            gib: new.gib,
            description: new.description,
            started: now,
            copied: None,
            phase: new.phase,
            encrypted: new.encrypted,
            key: new.key,
            parent: new.parent,
            blocks: blocks.unwrap_or_default(),
            put: BTreeMap::new(),
            patience: None,
            bytes: 0,
            hidden: false,
            tags: new.tags,
            consistency: Consistency { visible: now + self.config.delays.visibility },
        };
        self.snapshots.insert(id.clone(), snapshot);
        id
    }

    /// Checks that the account may have one more snapshot.
    pub(crate) fn check_snapshot_quota(&self) -> Answer<()> {
        if self.snapshots.len() >= self.config.quotas.snapshots {
            return Err(ApiError::new("SnapshotLimitExceeded", "Maximum number of snapshots exceeded."));
        }
        Ok(())
    }

    pub(super) fn create_snapshot(&mut self, params: &Params, context: &Context<'_>) -> Answer<Value> {
        let id = params.need("VolumeId")?.to_owned();
        let description = params.text("Description").unwrap_or_default().to_owned();
        let volume = self.volume(&id, context.now)?;
        let (gib, encrypted, key) = (volume.gib, volume.spec.encrypted, volume.spec.key.clone());
        if matches!(volume.state(), "creating" | "error") {
            let message = format!("Volume '{id}' is in the '{}' state.", volume.state());
            return Err(ApiError::new("IncorrectState", message));
        }
        if volume.shared {
            return Err(ApiError::unsupported("snapshots of root volumes that share their image's bytes"));
        }
        if description.chars().count() > 255 {
            return Err(ApiError::invalid(&description, "Description", "It has at most 255 characters."));
        }
        let tags = specified(params, &["snapshot"])?.remove("snapshot").unwrap_or_default();
        self.check_snapshot_quota()?;
        let pending = self.snapshots.values().filter(|s| s.volume == id && s.state() == "pending").count();
        if pending >= self.config.quotas.pending_snapshots {
            let message = "Maximum allowed in-progress snapshots for a single volume exceeded.";
            return Err(ApiError::new("ConcurrentSnapshotLimitExceeded", message));
        }
        params.finish()?;
        let phase = SnapshotPhase::Pending;
        let new = NewSnapshot { volume: id.clone(), gib, description, phase, encrypted, key, parent: None, tags };
        let snapshot = self.add_snapshot(new, context.now);
        self.effects.push(Effect::Copy { snapshot: snapshot.clone(), volume: id, gib });
        Ok(self.snapshots[&snapshot].show(&self.config.account, context.now))
    }

    pub(super) fn describe_snapshots(&mut self, params: &Params, context: &Context<'_>) -> Answer<Value> {
        let ids = params.texts("SnapshotId");
        let (filters, page) = (filters(params, "Filter")?, page(params, !ids.is_empty(), 5)?);
        let (owners, restorable) = (params.texts("Owner"), params.texts("RestorableBy"));
        check_filters::<Snapshot>(&filters)?;
        params.finish()?;
        for id in &ids {
            self.snapshot(id, context.now)?;
        }
        let ours = |who: &[String]| who.is_empty() || who.iter().any(|w| w == "self" || *w == self.config.account);
        let all = ours(&owners) && ours(&restorable);
        let chosen = self
            .snapshots
            .iter()
            .filter(|(id, s)| all && (ids.is_empty() || ids.contains(id)) && s.consistency.seen(context.now))
            .filter(|(_, s)| !s.hidden && passes(*s, &filters))
            .map(|(id, s)| (id.as_str(), s.show(&self.config.account, context.now)));
        Ok(paged("snapshotSet", page.take(chosen)))
    }

    pub(super) fn delete_snapshot(&mut self, params: &Params, context: &Context<'_>) -> Answer<Value> {
        let id = params.need("SnapshotId")?.to_owned();
        self.snapshot(&id, context.now)?;
        if let Some(image) = self.images.values().find(|i| i.uses(&id)) {
            let message = format!("The snapshot {id} is currently in use by {}", image.id);
            return Err(ApiError::new("InvalidSnapshot.InUse", message));
        }
        params.finish()?;
        self.forget_snapshot(&id, context.now);
        Ok(done())
    }

    pub(super) fn forget_snapshot(&mut self, id: &str, now: Millis) {
        if self.snapshots.remove(id).is_some() {
            self.bill.close("snapshot", id, now);
            self.effects.push(Effect::RemoveSnapshot { snapshot: id.to_owned() });
        }
    }

    /// Adds a snapshot that is complete and that nobody pays for: what a cloud begins with.
    pub(crate) fn add_given_snapshot(&mut self, gib: u64, now: Millis) -> String {
        let new = NewSnapshot {
            volume: NO_VOLUME.to_owned(),
            gib,
            description: "given".to_owned(),
            phase: SnapshotPhase::Completed,
            encrypted: false,
            key: None,
            parent: None,
            tags: Tags::new(),
        };
        let id = self.add_snapshot(new, now);
        if let Some(s) = self.snapshots.get_mut(&id) {
            s.consistency = Consistency { visible: 0 };
        }
        id
    }

    /// Adds the place for what is in a bundle: nobody sees it, and nobody pays for it.
    pub(super) fn add_hidden_snapshot(&mut self, now: Millis) -> String {
        let id = self.add_given_snapshot(1, now);
        if let Some(s) = self.snapshots.get_mut(&id) {
            (s.hidden, s.phase) = (true, SnapshotPhase::Pending);
        }
        id
    }

    pub(super) fn open_hidden_snapshot(&mut self, id: &str, gib: u64, blocks: BTreeSet<u32>) {
        if let Some(s) = self.snapshots.get_mut(id) {
            (s.gib, s.phase) = (gib, SnapshotPhase::Completed);
        }
        self.given_blocks(id, blocks);
    }

    /// Says which of its blocks hold data.
    pub(crate) fn given_blocks(&mut self, id: &str, blocks: BTreeSet<u32>) {
        if let Some(s) = self.snapshots.get_mut(id) {
            s.bytes = blocks.len() as u64 * BLOCK;
            s.blocks = blocks;
        }
    }

    pub(crate) fn snapshot_copied(&mut self, id: &str, blocks: BTreeSet<u32>, bytes: u64, now: Millis) {
        let delays = self.config.delays;
        let Some(s) = self.snapshots.get_mut(id) else { return };
        let wait =
            delays.snapshot + u64::try_from((u128::from(delays.snapshot_gib) * u128::from(bytes)) >> 30).unwrap_or(0);
        (s.blocks, s.bytes, s.copied) = (blocks, bytes, Some((now, now + wait)));
        let gib = bytes as f64 / (1u64 << 30) as f64;
        self.bill.open("snapshot", id, "standard", (gib, "GiB"), now);
    }

    pub(super) fn snapshot_failed(&mut self, id: &str, why: &str) {
        if let Some(s) = self.snapshots.get_mut(id) {
            s.phase = SnapshotPhase::Error(why.to_owned());
        }
    }

    pub(super) fn advance_snapshots(&mut self, now: Millis) {
        for s in self.snapshots.values_mut() {
            if s.phase == SnapshotPhase::Open && s.patience.is_some_and(|(limit, since)| now > since + limit) {
                s.phase = SnapshotPhase::Error("The snapshot was not completed in time".to_owned());
            }
            if s.phase == SnapshotPhase::Pending && s.copied.is_some_and(|(_, to)| now >= to) {
                s.phase = SnapshotPhase::Completed;
            }
        }
    }
}
