//! EBS direct: snapshots block by block.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Cloud;
use super::snapshots::{BLOCK, NO_VOLUME, NewSnapshot, Snapshot, SnapshotPhase};
use super::time::Millis;
use crate::error::{Answer, ApiError};

/// What StartSnapshot asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Start {
    pub(crate) gib: u64,
    pub(crate) parent: Option<String>,
    pub(crate) description: String,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) encrypted: Option<bool>,
    pub(crate) key: Option<String>,
    /// Minutes.
    pub(crate) timeout: Option<u64>,
    pub(crate) token: Option<String>,
}

/// A block that may differ in two snapshots: whether it is in the first, and in the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) block: u32,
    pub(crate) first: bool,
    pub(crate) second: bool,
}

/// A refusal with its reason, which stands after a zero in the message.
pub(super) fn invalid(reason: &str, why: impl std::fmt::Display) -> ApiError {
    ApiError::new("ValidationException", format!("{why}\0{reason}"))
}

impl Cloud {
    /// A snapshot as EBS direct finds it.
    pub(crate) fn block_snapshot(&self, id: &str, now: Millis) -> Answer<&Snapshot> {
        self.snapshot(id, now).map_err(|_| {
            if id.starts_with("snap-") {
                let message = format!("The snapshot '{id}' does not exist.\0SNAPSHOT_NOT_FOUND");
                ApiError::new("ResourceNotFoundException", message)
            } else {
                invalid("INVALID_SNAPSHOT_ID", format_args!("'{id}' is no snapshot id"))
            }
        })
    }

    /// The same for one that has just been made, and that nobody else may see yet.
    pub(crate) fn block_snapshot_made(&self, id: &str) -> Option<&Snapshot> {
        self.snapshots.get(id)
    }

    /// Starts a snapshot; gives its id, and whether it is new.
    pub(crate) fn start_blocks(&mut self, start: Start, now: Millis) -> Answer<(String, bool)> {
        let fingerprint = format!("{:?}", Start { token: None, ..start.clone() });
        if let Some(token) = &start.token
            && let Some(id) = self.replay_other("StartSnapshot", token, &fingerprint)?
            && self.snapshots.contains_key(&id)
        {
            return Ok((id, false));
        }
        if !(1..=65_536).contains(&start.gib) {
            return Err(invalid("INVALID_VOLUME_SIZE", format_args!("A volume of {} GiB is not possible", start.gib)));
        }
        if start.timeout.is_some_and(|t| !(10..=4320).contains(&t)) {
            return Err(invalid("INVALID_PARAMETER_VALUE", "Timeout is from 10 to 4320 minutes"));
        }
        if start.description.chars().count() > 255 || start.tags.len() > 50 {
            return Err(invalid("INVALID_PARAMETER_VALUE", "The description is too long, or there are too many tags"));
        }
        if start.tags.keys().any(|k| k.is_empty() || k.to_lowercase().starts_with("aws:")) {
            return Err(invalid("INVALID_TAG", "A tag's key is empty or reserved"));
        }
        let (mut encrypted, mut key) = (start.encrypted.unwrap_or(false), start.key.clone());
        if let Some(parent) = &start.parent {
            if start.encrypted.is_some() {
                return Err(invalid("INVALID_PARAMETER_VALUE", "Encrypted cannot be given together with a parent"));
            }
            let p = self.block_snapshot(parent, now)?;
            if p.phase != SnapshotPhase::Completed {
                return Err(invalid("INVALID_SNAPSHOT_ID", "The parent snapshot is not completed"));
            }
            if start.gib < p.gib {
                return Err(invalid("INVALID_VOLUME_SIZE", "A snapshot is not smaller than its parent"));
            }
            encrypted = p.encrypted;
            key = key.or_else(|| p.key.clone());
        }
        if start.key.is_some() && !encrypted {
            return Err(invalid(
                "INVALID_PARAMETER_VALUE",
                "A KMS key is of no use to a snapshot that is not encrypted",
            ));
        }
        if self.check_key(key.as_deref()).is_err() {
            return Err(invalid("INVALID_CUSTOMER_KEY", "The KMS key does not exist"));
        }
        self.check_snapshot_quota()
            .map_err(|e| ApiError::new("ServiceQuotaExceededException", e.message).with_status(402))?;
        let new = NewSnapshot {
            volume: NO_VOLUME.to_owned(),
            gib: start.gib,
            description: start.description,
            phase: SnapshotPhase::Open,
            encrypted,
            key,
            parent: start.parent,
            tags: start.tags,
        };
        let id = self.add_snapshot(new, now);
        if let Some(s) = self.snapshots.get_mut(&id) {
            s.patience = Some((start.timeout.unwrap_or(60) * 60_000, now));
        }
        if let Some(token) = &start.token {
            self.remember_other("StartSnapshot", token, &fingerprint, &id, now);
        }
        Ok((id, true))
    }

    fn open_blocks(&mut self, id: &str, now: Millis) -> Answer<&mut Snapshot> {
        self.block_snapshot(id, now)?;
        match self.snapshots.get_mut(id) {
            Some(s) if s.phase == SnapshotPhase::Open => Ok(s),
            _ => Err(invalid(
                "INVALID_SNAPSHOT_ID",
                format_args!("The snapshot '{id}' is not one that blocks can be put to"),
            )),
        }
    }

    /// Checks that a block can be put.
    pub(crate) fn may_put(&mut self, id: &str, block: u32, now: Millis) -> Answer<()> {
        let s = self.open_blocks(id, now)?;
        if u64::from(block) >= (s.gib << 30) / BLOCK {
            return Err(invalid("INVALID_BLOCK", format_args!("Block {block} is beyond the end of the volume")));
        }
        Ok(())
    }

    /// Notes that a block's bytes are there.
    pub(crate) fn block_put(&mut self, id: &str, block: u32, digest: Vec<u8>, now: Millis) -> Answer<()> {
        let s = self.open_blocks(id, now)?;
        s.put.insert(block, digest);
        s.blocks.insert(block);
        s.patience = s.patience.map(|(limit, _)| (limit, now));
        Ok(())
    }

    /// Checks what the caller says about all blocks, and ends the putting. Gives the blocks, unless that had been done before.
    pub(crate) fn complete_blocks(
        &mut self,
        id: &str,
        count: u64,
        checksum: Option<&str>,
        now: Millis,
    ) -> Answer<Option<BTreeSet<u32>>> {
        let s = self.block_snapshot(id, now)?;
        let again = s.patience.is_some() && matches!(s.phase, SnapshotPhase::Pending | SnapshotPhase::Completed);
        if count != s.put.len() as u64 {
            let message =
                format!("The changed blocks count {count} does not match the number of blocks put, {}", s.put.len());
            return Err(invalid("INVALID_PARAMETER_VALUE", message));
        }
        if let Some(claimed) = checksum {
            let all: Vec<u8> = s.put.values().flatten().copied().collect();
            let right = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &all);
            if STANDARD.encode(right.as_ref()) != claimed {
                return Err(invalid("INVALID_PARAMETER_VALUE", "The checksum of the blocks' checksums is another"));
            }
        }
        if again {
            return Ok(None);
        }
        let s = self.open_blocks(id, now)?;
        s.phase = SnapshotPhase::Pending;
        Ok(Some(s.blocks.clone()))
    }

    /// The blocks of a snapshot that can be read, from one on, and its size.
    pub(crate) fn list_blocks(&self, id: &str, from: u32, now: Millis) -> Answer<(Vec<u32>, u64)> {
        let s = self.readable(id, now)?;
        Ok((s.blocks.range(from..).copied().collect(), s.gib))
    }

    fn readable(&self, id: &str, now: Millis) -> Answer<&Snapshot> {
        let s = self.block_snapshot(id, now)?;
        if s.phase != SnapshotPhase::Completed {
            return Err(invalid("INVALID_SNAPSHOT_ID", format_args!("The snapshot '{id}' is not completed")));
        }
        Ok(s)
    }

    /// The blocks that two snapshots of one lineage may differ in; with one, all of it.
    pub(crate) fn list_changes(&self, first: Option<&str>, second: &str, now: Millis) -> Answer<(Vec<Change>, u64)> {
        let b = self.readable(second, now)?;
        let Some(first) = first else {
            let all = b.blocks.iter().map(|block| Change { block: *block, first: false, second: true }).collect();
            return Ok((all, b.gib));
        };
        let a = self.readable(first, now)?;
        let related =
            (a.volume == b.volume && a.volume != NO_VOLUME) || self.descends(b, first) || self.descends(a, second);
        if !related {
            return Err(invalid("UNRELATED_SNAPSHOTS", "The snapshots are not of the same lineage"));
        }
        let all: BTreeSet<u32> = a.blocks.union(&b.blocks).copied().collect();
        let change = |block: u32| Change { block, first: a.blocks.contains(&block), second: b.blocks.contains(&block) };
        Ok((all.into_iter().map(change).collect(), b.gib))
    }

    fn descends(&self, from: &Snapshot, ancestor: &str) -> bool {
        let mut at = from;
        while let Some(parent) = &at.parent {
            if parent == ancestor {
                return true;
            }
            let Some(next) = self.snapshots.get(parent) else { return false };
            at = next;
        }
        false
    }

    /// Whether a block of a snapshot can be read.
    pub(crate) fn may_get(&self, id: &str, block: u32, now: Millis) -> Answer<()> {
        let s = self.readable(id, now)?;
        if s.blocks.contains(&block) {
            return Ok(());
        }
        Err(invalid("INVALID_BLOCK", format_args!("The snapshot has no block {block}")))
    }
}
