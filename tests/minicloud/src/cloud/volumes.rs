//! Volumes: made, described, deleted. Attaching them is in `attach`.

use super::attach::Attachment;
use super::effects::Effect;
use super::select::{Consistency, Described, check_filters, filters, page, paged, passes};
use super::tags::{Tags, specified, tag_set};
use super::time::{Millis, iso};
use super::{Cloud, Context, done};
use crate::error::{Answer, ApiError};
use crate::query::params::Params;
use crate::query::xml::Value;

/// A volume.
#[derive(Debug, Clone)]
pub(crate) struct Volume {
    pub(crate) id: String,
    pub(crate) gib: u64,
    pub(crate) spec: Spec,
    pub(crate) zone: String,
    pub(crate) snapshot: Option<String>,
    created: Millis,
    ready: Millis,
    /// Whether its bytes are there.
    pub(crate) made: bool,
    /// Whether it is `creating` no more.
    pub(crate) available: bool,
    /// Why it is of no use.
    pub(crate) broken: Option<String>,
    pub(crate) attachment: Option<Attachment>,
    /// Whether it has no bytes of its own but those that changed.
    pub(crate) shared: bool,
    pub(crate) tags: Tags,
    consistency: Consistency,
}

/// What kind of volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) kind: String,
    pub(crate) iops: Option<i64>,
    pub(crate) throughput: Option<i64>,
    pub(crate) encrypted: bool,
    pub(crate) key: Option<String>,
}

impl Spec {
    /// Reads a volume's kind from a call, or from the `Ebs` of a block device mapping.
    pub(super) fn read(params: &Params, default: &str) -> Answer<Self> {
        let kind = params.text("VolumeType").unwrap_or(default).to_owned();
        let (iops, throughput) = (params.int("Iops")?, params.int("Throughput")?);
        let encrypted = params.flag("Encrypted")?;
        let key = params.text("KmsKeyId").filter(|k| !k.is_empty()).map(str::to_owned);
        if key.is_some() && encrypted != Some(true) {
            let message = "The parameter KmsKeyId requires the parameter Encrypted to be set.";
            return Err(ApiError::new("InvalidParameterDependency", message));
        }
        Ok(Self { kind, iops, throughput, encrypted: encrypted.unwrap_or(false), key })
    }

    /// Checks it, and gives it what it has by default.
    pub(super) fn checked(mut self, gib: u64) -> Answer<Self> {
        let (sizes, iops, ratio) = match self.kind.as_str() {
            "gp3" => (1..=65_536, Some(3_000..=80_000), 500),
            "gp2" => (1..=16_384, None, 0),
            "io1" => (4..=16_384, Some(100..=64_000), 50),
            "io2" => (4..=65_536, Some(100..=256_000), 1_000),
            "st1" | "sc1" => (125..=16_384, None, 0),
            "standard" => (1..=1_024, None, 0),
            odd => {
                let message = format!("Invalid value '{odd}' for VolumeType.");
                return Err(ApiError::new("InvalidParameterValue", message));
            }
        };
        if !sizes.contains(&gib) {
            let (kind, least, most) = (&self.kind, sizes.start(), sizes.end());
            let message =
                format!("Volume size {gib} of type {kind} is invalid. The size is to be from {least} to {most} GiB.");
            return Err(ApiError::new("InvalidParameterValue", message));
        }
        match (self.iops, iops) {
            (Some(n), None) => {
                let message = format!("The parameter iops is not supported for {} volumes ({n}).", self.kind);
                return Err(ApiError::new("InvalidParameterCombination", message));
            }
            (None, Some(_)) if self.kind != "gp3" => {
                let message = format!("The parameter iops must be specified for {} volumes.", self.kind);
                return Err(ApiError::new("MissingParameter", message));
            }
            (None, Some(range)) => self.iops = Some(*range.start()),
            (Some(n), Some(range)) => {
                let most = gib.saturating_mul(ratio).min(range.end().unsigned_abs()).max(range.start().unsigned_abs());
                if n < *range.start() || n.unsigned_abs() > most {
                    let message = format!("Volume iops of {n} is not from {} to {most}.", range.start());
                    return Err(ApiError::new("InvalidParameterValue", message));
                }
            }
            (None, None) => {}
        }
        match self.throughput {
            Some(_) if self.kind != "gp3" => {
                let message = format!("The parameter throughput is not supported for {} volumes.", self.kind);
                return Err(ApiError::new("InvalidParameterCombination", message));
            }
            Some(n) if !(125..=2_000).contains(&n) => {
                let message = format!("Throughput of {n} is not from 125 to 2000 MiB/s.");
                return Err(ApiError::new("InvalidParameterValue", message));
            }
            None if self.kind == "gp3" => self.throughput = Some(125),
            _ => {}
        }
        Ok(self)
    }
}

impl Volume {
    pub(crate) fn state(&self) -> &'static str {
        match (&self.broken, &self.attachment, self.available) {
            (Some(_), _, _) => "error",
            (None, Some(_), _) => "in-use",
            (None, None, true) => "available",
            (None, None, false) => "creating",
        }
    }

    fn show(&self) -> Value {
        let attachments: Vec<Value> = self.attachment.iter().map(|a| a.show(&self.id)).collect();
        Value::of([
            ("iops", self.spec.iops.into()),
            ("tagSet", tag_set(&self.tags)),
            ("volumeType", (&self.spec.kind).into()),
            ("multiAttachEnabled", false.into()),
            ("throughput", self.spec.throughput.into()),
            ("volumeId", (&self.id).into()),
            ("size", self.gib.into()),
            ("snapshotId", self.snapshot.clone().unwrap_or_default().into()),
            ("availabilityZone", (&self.zone).into()),
            ("status", self.state().into()),
            ("createTime", iso(self.created).into()),
            ("attachmentSet", attachments.into()),
            ("encrypted", self.spec.encrypted.into()),
            ("kmsKeyId", self.spec.key.as_ref().into()),
        ])
    }
}

impl Described for Volume {
    const FILTERS: &'static [&'static str] = &[
        "volume-id",
        "status",
        "availability-zone",
        "snapshot-id",
        "size",
        "volume-type",
        "encrypted",
        "attachment.instance-id",
        "attachment.device",
        "attachment.status",
        "attachment.delete-on-termination",
    ];

    fn facts(&self, filter: &str) -> Vec<String> {
        let attachment = |f: &dyn Fn(&Attachment) -> String| self.attachment.iter().map(f).collect();
        match filter {
            "volume-id" => vec![self.id.clone()],
            "status" => vec![self.state().to_owned()],
            "availability-zone" => vec![self.zone.clone()],
            "snapshot-id" => vec![self.snapshot.clone().unwrap_or_default()],
            "size" => vec![self.gib.to_string()],
            "volume-type" => vec![self.spec.kind.clone()],
            "encrypted" => vec![self.spec.encrypted.to_string()],
            "attachment.instance-id" => attachment(&|a| a.instance.clone()),
            "attachment.device" => attachment(&|a| a.device.clone()),
            "attachment.status" => attachment(&|a| a.state.name().to_owned()),
            _ => attachment(&|a| a.delete_on_termination.to_string()),
        }
    }

    fn tags(&self) -> &Tags {
        &self.tags
    }
}

/// What a new volume is to be like.
pub(super) struct NewVolume {
    pub(super) gib: u64,
    pub(super) spec: Spec,
    pub(super) zone: String,
    pub(super) snapshot: Option<String>,
    pub(super) shared: bool,
    pub(super) tags: Tags,
}

impl Cloud {
    /// The size of a volume that is made of a snapshot, or of none; and whether it must be encrypted.
    pub(super) fn size_from(
        &self,
        size: Option<i64>,
        snapshot: Option<&str>,
        now: Millis,
    ) -> Answer<(u64, bool, Option<String>)> {
        let size = match size {
            Some(n) if n < 1 => {
                let message = format!("Volume size {n} is invalid.");
                return Err(ApiError::new("InvalidParameterValue", message));
            }
            n => n.map(i64::unsigned_abs),
        };
        match (size, snapshot) {
            (None, None) => {
                Err(ApiError::new("MissingParameter", "The request must contain the parameter size/snapshot"))
            }
            (Some(n), None) => Ok((n, false, None)),
            (size, Some(id)) => {
                let s = self.snapshot(id, now)?;
                s.usable()?;
                let gib = size.unwrap_or(s.gib);
                if gib < s.gib {
                    let message =
                        format!("Volume of size {gib}GB is smaller than snapshot '{id}', expect size >= {}GB", s.gib);
                    return Err(ApiError::new("InvalidParameterValue", message));
                }
                Ok((gib, s.encrypted, s.key.clone()))
            }
        }
    }

    /// Makes a volume of what has been checked.
    pub(super) fn add_volume(&mut self, new: NewVolume, now: Millis) -> String {
        let id = self.ids.make("vol");
        self.bill.open("volume", &id, new.spec.kind.clone(), (new.gib as f64, "GiB"), now);
        self.effects.push(Effect::MakeVolume {
            volume: id.clone(),
            gib: new.gib,
            snapshot: new.snapshot.clone(),
            shared: new.shared,
        });
        let volume = Volume {
            id: id.clone(),
            gib: new.gib,
            spec: new.spec,
            zone: new.zone,
            snapshot: new.snapshot,
            created: now,
            ready: now + self.config.delays.volume,
            made: false,
            available: false,
            broken: None,
            attachment: None,
            shared: new.shared,
            tags: new.tags,
            consistency: Consistency { visible: now + self.config.delays.visibility },
        };
        self.volumes.insert(id.clone(), volume);
        id
    }

    /// Checks that the account may have so many GiB more.
    pub(super) fn check_volume_quota(&self, gib: u64) -> Answer<()> {
        let have: u64 = self.volumes.values().map(|v| v.gib).sum();
        if have + gib > self.config.quotas.volume_gib {
            let message = format!("Maximum number of active volumes, or of their GiB, exceeded ({have} + {gib}).");
            return Err(ApiError::new("VolumeLimitExceeded", message));
        }
        Ok(())
    }

    pub(super) fn create_volume(&mut self, params: &Params, context: &Context<'_>) -> Answer<Value> {
        let zone = params.need("AvailabilityZone")?;
        self.check_zone(zone)?;
        let snapshot = params.text("SnapshotId").filter(|s| !s.is_empty());
        if params.flag("MultiAttachEnabled")? == Some(true) {
            return Err(ApiError::unsupported("Multi-Attach"));
        }
        let mut spec = Spec::read(params, "gp2")?;
        self.check_key(spec.key.as_deref())?;
        let size = params.int("Size")?;
        let tags = specified(params, &["volume"])?.remove("volume").unwrap_or_default();
        // A repeated call finds its volume even if its snapshot is gone by now.
        if params.text("ClientToken").is_some() {
            params.finish()?;
            if let Some(made) = self.replay("CreateVolume", params)? {
                return made.first().and_then(|id| self.volumes.get(id)).map(Volume::show).ok_or_else(|| {
                    ApiError::new("InvalidVolume.NotFound", "The volume of this client token does not exist any more")
                });
            }
        }
        let (gib, encrypted, key) = self.size_from(size, snapshot, context.now)?;
        if encrypted {
            spec.encrypted = true;
            spec.key = spec.key.or(key);
        }
        let spec = spec.checked(gib)?;
        self.check_volume_quota(gib)?;
        params.finish()?;
        let (zone, snapshot) = (zone.to_owned(), snapshot.map(str::to_owned));
        let id = self.add_volume(NewVolume { gib, spec, zone, snapshot, shared: false, tags }, context.now);
        self.remember("CreateVolume", params, vec![id.clone()], context.now);
        Ok(self.volumes[&id].show())
    }

    /// A volume that can be seen.
    pub(super) fn volume(&self, id: &str, now: Millis) -> Answer<&Volume> {
        self.volumes.get(id).filter(|v| v.consistency.seen(now)).ok_or_else(|| {
            if id.starts_with("vol-") {
                ApiError::new("InvalidVolume.NotFound", format!("The volume '{id}' does not exist."))
            } else {
                let message = format!("Value ({id}) for parameter volume is invalid. Expected: 'vol-...'.");
                ApiError::new("InvalidParameterValue", message)
            }
        })
    }

    pub(super) fn describe_volumes(&mut self, params: &Params, context: &Context<'_>) -> Answer<Value> {
        let ids = params.texts("VolumeId");
        let (filters, page) = (filters(params, "Filter")?, page(params, !ids.is_empty(), 5)?);
        check_filters::<Volume>(&filters)?;
        params.finish()?;
        for id in &ids {
            self.volume(id, context.now)?;
        }
        let chosen = self
            .volumes
            .iter()
            .filter(|(id, v)| (ids.is_empty() || ids.contains(id)) && v.consistency.seen(context.now))
            .filter(|(_, v)| passes(*v, &filters))
            .map(|(id, v)| (id.as_str(), v.show()));
        Ok(paged("volumeSet", page.take(chosen)))
    }

    pub(super) fn delete_volume(&mut self, params: &Params, context: &Context<'_>) -> Answer<Value> {
        let id = params.need("VolumeId")?.to_owned();
        let volume = self.volume(&id, context.now)?;
        if let Some(a) = &volume.attachment {
            let message = format!("Volume {id} is currently attached to {}", a.instance);
            return Err(ApiError::new("VolumeInUse", message));
        }
        if volume.state() == "creating" {
            let message = format!("Volume {id} is in the 'creating' state.");
            return Err(ApiError::new("IncorrectState", message));
        }
        params.finish()?;
        self.forget_volume(&id, context.now);
        Ok(done())
    }

    pub(super) fn forget_volume(&mut self, id: &str, now: Millis) {
        if self.volumes.remove(id).is_some() {
            self.bill.close("volume", id, now);
            self.effects.push(Effect::RemoveVolume { volume: id.to_owned() });
        }
    }

    pub(super) fn volume_made(&mut self, id: &str) {
        let Some(volume) = self.volumes.get_mut(id) else { return };
        volume.made = true;
        let instance = volume.attachment.as_ref().map(|a| a.instance.clone());
        if let Some(instance) = instance {
            self.boot_when_ready(&instance);
        }
    }

    pub(super) fn volume_failed(&mut self, id: &str, why: &str, now: Millis) {
        let Some(volume) = self.volumes.get_mut(id) else { return };
        volume.broken = Some(why.to_owned());
        let instance = volume.attachment.as_ref().map(|a| a.instance.clone());
        if let Some(instance) = instance {
            self.instance_failed(&instance, why, now);
        }
    }

    pub(super) fn advance_volumes(&mut self, now: Millis) {
        for volume in self.volumes.values_mut() {
            volume.available |= volume.made && now >= volume.ready;
        }
        self.advance_attachments(now);
    }
}
