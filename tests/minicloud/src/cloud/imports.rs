//! Disk images from S3 that become snapshots.

use std::collections::BTreeSet;

use super::effects::Effect;
use super::select::{Described, check_filters, filters, page, paged, passes};
use super::snapshots::{NO_VOLUME, NewSnapshot, SnapshotPhase};
use super::tags::{Tags, specified, tag_set};
use super::time::Millis;
use super::{Cloud, Context};
use crate::error::{Answer, ApiError};
use crate::query::params::Params;
use crate::query::xml::Value;

/// An import.
#[derive(Debug, Clone)]
pub(crate) struct Import {
    id: String,
    description: String,
    disk_description: String,
    bucket: String,
    key: String,
    snapshot: String,
    bytes: Option<u64>,
    encrypted: bool,
    kms: Option<String>,
    format: String,
    /// `active`, `completed` or `deleted` when it failed.
    state: &'static str,
    message: String,
    pub(crate) tags: Tags,
}

impl Described for Import {
    const FILTERS: &'static [&'static str] = &["task-state"];

    fn facts(&self, _: &str) -> Vec<String> {
        vec![self.state.to_owned()]
    }

    fn tags(&self) -> &Tags {
        &self.tags
    }
}

impl Import {
    fn show(&self) -> Value {
        let completed = self.state == "completed";
        let detail = Value::of([
            ("description", (&self.disk_description).into()),
            ("diskImageSize", self.bytes.map(|b| format!("{b}.0")).into()),
            ("encrypted", self.encrypted.into()),
            ("format", self.format.to_uppercase().into()),
            ("kmsKeyId", self.kms.as_ref().into()),
            ("progress", (self.state == "active").then_some("19").into()),
            ("snapshotId", completed.then_some(&self.snapshot).into()),
            ("status", self.state.into()),
            ("statusMessage", (!self.message.is_empty()).then_some(&self.message).into()),
            ("userBucket", Value::of([("s3Bucket", (&self.bucket).into()), ("s3Key", (&self.key).into())])),
        ]);
        Value::of([
            ("description", (&self.description).into()),
            ("importTaskId", (&self.id).into()),
            ("snapshotTaskDetail", detail),
            ("tagSet", tag_set(&self.tags)),
        ])
    }
}

impl Cloud {
    pub(super) fn import_snapshot(&mut self, params: &Params, context: &Context<'_>) -> Answer<Value> {
        let description = params.text("Description").unwrap_or_default().to_owned();
        let encrypted = params.flag("Encrypted")?.unwrap_or(false);
        let kms = params.text("KmsKeyId").filter(|k| !k.is_empty()).map(str::to_owned);
        // The role that would read the bucket is taken for one that may.
        params.text("RoleName");
        let disk = params.child("DiskContainer").ok_or_else(|| ApiError::missing("DiskContainer"))?;
        let disk_description = disk.text("Description").unwrap_or_default().to_owned();
        let format = disk.need("Format")?.to_lowercase();
        if disk.text("Url").is_some() {
            return Err(ApiError::unsupported("imports from a URL"));
        }
        let place = disk.child("UserBucket").ok_or_else(|| ApiError::missing("DiskContainer.UserBucket"))?;
        let (bucket, key) = (place.need("S3Bucket")?.to_owned(), place.need("S3Key")?.to_owned());
        let tags = specified(params, &["import-snapshot-task"])?.remove("import-snapshot-task").unwrap_or_default();
        if !matches!(format.as_str(), "raw" | "vhd" | "vhdx" | "vmdk" | "ova") {
            return Err(ApiError::invalid(&format, "Format", "Expected RAW, VHD, VHDX or VMDK."));
        }
        self.check_key(kms.as_deref())?;
        self.check_snapshot_quota()?;
        params.text("ClientToken");
        params.finish()?;
        if let Some(made) = self.replay("ImportSnapshot", params)?
            && let Some(task) = made.first().and_then(|id| self.imports.get(id))
        {
            return Ok(task.show());
        }
        let new = NewSnapshot {
            volume: NO_VOLUME.to_owned(),
            gib: 1,
            description: String::new(),
            phase: SnapshotPhase::Pending,
            encrypted,
            key: kms.clone(),
            parent: None,
            tags: Tags::new(),
        };
        let snapshot = self.add_snapshot(new, context.now);
        let id = self.ids.make("import-snap");
        if let Some(s) = self.snapshots.get_mut(&snapshot) {
            s.description = format!("Created by AWS-VMImport service for {id}");
        }
        let task = Import {
            id: id.clone(),
            description,
            disk_description,
            bucket: bucket.clone(),
            key: key.clone(),
            snapshot: snapshot.clone(),
            bytes: None,
            encrypted,
            kms,
            format: format.clone(),
            state: "active",
            message: "pending".to_owned(),
            tags,
        };
        let shown = task.show();
        self.imports.insert(id.clone(), task);
        self.remember("ImportSnapshot", params, vec![id.clone()], context.now);
        if format == "ova" {
            // As on AWS, the call itself goes well.
            self.import_failed(&id, "ClientError: Disk validation failed [Unsupported disk format]", context.now);
        } else {
            self.effects.push(Effect::Import { task: id, snapshot, bucket, key, format });
        }
        Ok(shown)
    }

    pub(super) fn cancel_import_task(&mut self, params: &Params, context: &Context<'_>) -> Answer<Value> {
        let id = params.need("ImportTaskId")?.to_owned();
        params.text("CancelReason");
        params.finish()?;
        let before = match self.imports.get(&id) {
            Some(task) => task.state,
            None => {
                let message = format!("Invalid conversion task ID: {id}");
                return Err(ApiError::new("InvalidConversionTaskId", message));
            }
        };
        if before != "active" {
            let message = format!("The import task {id} is {before} and cannot be cancelled");
            return Err(ApiError::new("IncorrectState", message));
        }
        self.import_failed(&id, "User initiated task cancelation.", context.now);
        Ok(Value::of([("importTaskId", id.into()), ("previousState", before.into()), ("state", "deleted".into())]))
    }

    pub(super) fn describe_import_snapshot_tasks(&mut self, params: &Params, _: &Context<'_>) -> Answer<Value> {
        let ids = params.texts("ImportTaskId");
        let (filters, page) = (filters(params, "Filters")?, page(params, !ids.is_empty(), 1)?);
        check_filters::<Import>(&filters)?;
        params.finish()?;
        if let Some(odd) = ids.iter().find(|id| !self.imports.contains_key(*id)) {
            let message = format!("Invalid conversion task ID: {odd}");
            return Err(ApiError::new("InvalidConversionTaskId", message));
        }
        let chosen = self
            .imports
            .iter()
            .filter(|(id, t)| (ids.is_empty() || ids.contains(id)) && passes(*t, &filters))
            .map(|(id, t)| (id.as_str(), t.show()));
        Ok(paged("importSnapshotTaskSet", page.take(chosen)))
    }

    pub(super) fn import_done(&mut self, id: &str, blocks: BTreeSet<u32>, bytes: u64, now: Millis) {
        let Some(task) = self.imports.get_mut(id).filter(|t| t.state == "active") else { return };
        (task.bytes, task.message) = (Some(bytes), "updating".to_owned());
        let snapshot = task.snapshot.clone();
        if let Some(s) = self.snapshots.get_mut(&snapshot) {
            s.gib = bytes.div_ceil(1 << 30).max(1);
        }
        let held = blocks.len() as u64 * super::snapshots::BLOCK;
        self.snapshot_copied(&snapshot, blocks, held.min(bytes), now);
    }

    pub(super) fn import_failed(&mut self, id: &str, why: &str, now: Millis) {
        let Some(task) = self.imports.get_mut(id).filter(|t| t.state == "active") else { return };
        (task.state, task.message) = ("deleted", why.to_owned());
        let snapshot = task.snapshot.clone();
        self.forget_snapshot(&snapshot, now);
    }

    pub(super) fn advance_imports(&mut self, _now: Millis) {
        for task in self.imports.values_mut().filter(|t| t.state == "active") {
            if self.snapshots.get(&task.snapshot).is_some_and(|s| s.phase == SnapshotPhase::Completed) {
                (task.state, task.message) = ("completed", String::new());
            }
        }
    }
}
