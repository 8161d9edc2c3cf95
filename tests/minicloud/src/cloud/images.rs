//! Images (AMIs).

use std::collections::BTreeSet;

use super::effects::Effect;
use super::select::{Consistency, Described, check_filters, filters, page, paged, passes};
use super::tags::{Tags, specified, tag_set};
use super::time::{Millis, iso};
use super::volumes::Spec;
use super::{Cloud, Context, done};
use crate::error::{Answer, ApiError};
use crate::query::params::Params;
use crate::query::xml::Value;

/// An image.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) id: String,
    pub(crate) name: String,
    description: Option<String>,
    pub(crate) architecture: String,
    pub(crate) virtualization: String,
    pub(crate) root_device: String,
    pub(crate) mappings: Vec<Mapping>,
    pub(crate) ena: bool,
    boot_mode: Option<String>,
    tpm: Option<String>,
    pub(crate) imds: Option<String>,
    /// The manifest of the bundle that it is, if it is one: a snapshot that nobody sees has its bytes.
    bundle: Option<String>,
    created: Millis,
    ready: Millis,
    pub(crate) available: bool,
    pub(crate) tags: Tags,
    consistency: Consistency,
}

/// One volume that instances of an image have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) device: String,
    pub(crate) snapshot: Option<String>,
    pub(crate) gib: Option<i64>,
    /// As the caller wrote it; what it is in the end depends on the size.
    pub(crate) spec: Spec,
    /// Whether the kind was written down or is a default.
    pub(crate) kind_given: bool,
    pub(crate) delete_on_termination: Option<bool>,
    /// Takes the device from what the image has.
    pub(crate) none: bool,
}

impl Mapping {
    /// Reads the block device mappings of a call.
    pub(super) fn read(params: &Params) -> Answer<Vec<Self>> {
        let mut all: Vec<Self> = Vec::new();
        for m in params.list("BlockDeviceMapping") {
            let device = m.need("DeviceName")?.to_owned();
            if m.text("VirtualName").is_some() {
                return Err(ApiError::unsupported("instance store volumes"));
            }
            let none = m.text("NoDevice").is_some();
            let empty = Params::default();
            let ebs = m.child("Ebs").unwrap_or(&empty);
            if m.child("Ebs").is_none() && !none {
                let message = format!("The block device mapping of {device} has neither Ebs nor NoDevice");
                return Err(ApiError::new("InvalidBlockDeviceMapping", message));
            }
            if all.iter().any(|o| o.device == device) {
                let message = format!("The device '{device}' is used in more than one block-device mapping");
                return Err(ApiError::new("InvalidBlockDeviceMapping", message));
            }
            all.push(Self {
                device,
                snapshot: ebs.text("SnapshotId").filter(|s| !s.is_empty()).map(str::to_owned),
                gib: ebs.int("VolumeSize")?,
                kind_given: ebs.text("VolumeType").is_some(),
                spec: Spec::read(ebs, "gp2")?,
                delete_on_termination: ebs.flag("DeleteOnTermination")?,
                none,
            });
        }
        Ok(all)
    }

    fn show(&self) -> Value {
        Value::of([
            ("deviceName", (&self.device).into()),
            (
                "ebs",
                Value::of([
                    ("deleteOnTermination", self.delete_on_termination.unwrap_or(true).into()),
                    ("iops", self.spec.iops.into()),
                    ("snapshotId", self.snapshot.as_ref().into()),
                    ("volumeSize", self.gib.into()),
                    ("volumeType", (&self.spec.kind).into()),
                    ("throughput", self.spec.throughput.into()),
                    ("encrypted", self.spec.encrypted.into()),
                ]),
            ),
        ])
    }
}

impl Image {
    /// Whether it needs a snapshot.
    pub(crate) fn uses(&self, snapshot: &str) -> bool {
        self.mappings.iter().any(|m| m.snapshot.as_deref() == Some(snapshot))
    }

    fn root_type(&self) -> &'static str {
        if self.bundle.is_some() { "instance-store" } else { "ebs" }
    }

    fn shown_mappings(&self) -> Vec<Value> {
        self.mappings.iter().filter(|_| self.bundle.is_none()).map(Mapping::show).collect()
    }

    fn state(&self) -> &'static str {
        if self.available { "available" } else { "pending" }
    }

    fn show(&self, account: &str) -> Value {
        Value::of([
            ("platformDetails", "Linux/UNIX".into()),
            ("usageOperation", "RunInstances".into()),
            ("blockDeviceMapping", self.shown_mappings().into()),
            ("description", self.description.as_ref().into()),
            ("enaSupport", self.ena.into()),
            ("hypervisor", "xen".into()),
            ("name", (&self.name).into()),
            ("rootDeviceName", (&self.root_device).into()),
            ("rootDeviceType", self.root_type().into()),
            ("tagSet", tag_set(&self.tags)),
            ("virtualizationType", (&self.virtualization).into()),
            ("bootMode", self.boot_mode.as_ref().into()),
            ("tpmSupport", self.tpm.as_ref().into()),
            ("imdsSupport", self.imds.as_ref().into()),
            ("imageId", (&self.id).into()),
            ("imageLocation", self.bundle.clone().unwrap_or_else(|| format!("{account}/{}", self.name)).into()),
            ("imageState", self.state().into()),
            ("imageOwnerId", account.into()),
            ("creationDate", iso(self.created).into()),
            ("isPublic", false.into()),
            ("architecture", (&self.architecture).into()),
            ("imageType", "machine".into()),
        ])
    }
}

impl Described for Image {
    const FILTERS: &'static [&'static str] = &[
        "image-id",
        "name",
        "state",
        "architecture",
        "virtualization-type",
        "root-device-name",
        "root-device-type",
        "description",
        "is-public",
        "ena-support",
        "block-device-mapping.snapshot-id",
        "block-device-mapping.device-name",
        "image-type",
        "platform-details",
    ];

    fn facts(&self, filter: &str) -> Vec<String> {
        match filter {
            "image-id" => vec![self.id.clone()],
            "name" => vec![self.name.clone()],
            "state" => vec![self.state().to_owned()],
            "architecture" => vec![self.architecture.clone()],
            "virtualization-type" => vec![self.virtualization.clone()],
            "root-device-name" => vec![self.root_device.clone()],
            "root-device-type" => vec![self.root_type().to_owned()],
            "description" => self.description.clone().into_iter().collect(),
            "is-public" => vec!["false".to_owned()],
            "ena-support" => vec![self.ena.to_string()],
            "block-device-mapping.snapshot-id" => self.mappings.iter().filter_map(|m| m.snapshot.clone()).collect(),
            "block-device-mapping.device-name" => self.mappings.iter().map(|m| m.device.clone()).collect(),
            "image-type" => vec!["machine".to_owned()],
            _ => vec!["Linux/UNIX".to_owned()],
        }
    }

    fn tags(&self) -> &Tags {
        &self.tags
    }
}

/// A parameter that is one of some values.
fn one_of(params: &Params, name: &str, values: &[&str]) -> Answer<Option<String>> {
    match params.text(name).filter(|v| !v.is_empty()) {
        None => Ok(None),
        Some(v) if values.contains(&v) => Ok(Some(v.to_owned())),
        Some(v) => Err(ApiError::invalid(v, name, &format!("Expected one of {}.", values.join(", ")))),
    }
}

impl Cloud {
    /// An image that can be seen.
    pub(super) fn image(&self, id: &str, now: Millis) -> Answer<&Image> {
        self.images.get(id).filter(|i| i.consistency.seen(now)).ok_or_else(|| {
            if id.starts_with("ami-") {
                ApiError::new("InvalidAMIID.NotFound", format!("The image id '[{id}]' does not exist"))
            } else {
                ApiError::new("InvalidAMIID.Malformed", format!("Invalid id: \"{id}\" (expecting \"ami-...\")"))
            }
        })
    }

    pub(super) fn register_image(&mut self, params: &Params, context: &Context<'_>) -> Answer<Value> {
        let name = params.need("Name")?.to_owned();
        let bundle = params.text("ImageLocation").filter(|l| !l.is_empty()).map(str::to_owned);
        if bundle.is_some() && self.config.bundle_key.is_none() {
            return Err(ApiError::unsupported("images in S3 (instance store)"));
        }
        let description = params.text("Description").map(str::to_owned);
        // EC2's own defaults, which are no longer what anybody wants: a caller who forgets them finds out here.
        let architecture = one_of(params, "Architecture", &["i386", "x86_64", "arm64"])?;
        let architecture = architecture.unwrap_or_else(|| "i386".to_owned());
        let virtualization = one_of(params, "VirtualizationType", &["hvm", "paravirtual"])?;
        let virtualization = virtualization.unwrap_or_else(|| "paravirtual".to_owned());
        let boot_mode = one_of(params, "BootMode", &["legacy-bios", "uefi", "uefi-preferred"])?;
        let tpm = one_of(params, "TpmSupport", &["v2.0"])?;
        let imds = one_of(params, "ImdsSupport", &["v2.0"])?;
        let _ = one_of(params, "SriovNetSupport", &["simple"])?;
        let ena = params.flag("EnaSupport")?.unwrap_or(false);
        let root = params.text("RootDeviceName").filter(|r| !r.is_empty()).map(str::to_owned);
        let mut mappings = Mapping::read(params)?;
        let tags = specified(params, &["image"])?.remove("image").unwrap_or_default();
        let legal = |c: char| c.is_ascii_alphanumeric() || "()[] ./-'@_".contains(c);
        if !(3..=128).contains(&name.len()) || !name.chars().all(legal) {
            let message = "AMI names must be between 3 and 128 characters long, and may contain letters, numbers, '(', ')', '.', '-', '/' and '_'";
            return Err(ApiError::new("InvalidAMIName.Malformed", message));
        }
        if let Some(other) = self.images.values().find(|i| i.name == name) {
            let message = format!("AMI name {name} is already in use by AMI {}", other.id);
            return Err(ApiError::new("InvalidAMIName.Duplicate", message));
        }
        if let Some(location) = &bundle {
            if !mappings.is_empty() || root.is_some() || boot_mode.is_some() {
                let message = "A bundle's manifest says what its root device is";
                return Err(ApiError::new("InvalidParameterCombination", message));
            }
            let Some((bucket, key)) = location.split_once('/').filter(|(_, key)| key.ends_with(".manifest.xml")) else {
                let message = "Invalid image location: BUCKET/NAME.manifest.xml";
                return Err(ApiError::new("InvalidManifest", message));
            };
            let (bucket, key) = (bucket.to_owned(), key.to_owned());
            params.finish()?;
            let id = self.ids.make("ami");
            let snapshot = self.add_hidden_snapshot(context.now);
            let root = Mapping {
                device: "/dev/sda1".to_owned(),
                snapshot: Some(snapshot.clone()),
                gib: None,
                spec: Spec::read(&Params::default(), "standard")?,
                kind_given: true,
                delete_on_termination: Some(true),
                none: false,
            };
            let image = Image {
                id: id.clone(),
                name,
                description,
                architecture,
                virtualization,
                root_device: root.device.clone(),
                mappings: vec![root],
                ena,
                boot_mode,
                tpm,
                imds,
                bundle,
                created: context.now,
                ready: Millis::MAX,
                available: false,
                tags,
                consistency: Consistency { visible: context.now + self.config.delays.visibility },
            };
            self.images.insert(id.clone(), image);
            self.effects.push(Effect::Unbundle { image: id.clone(), snapshot, bucket, key });
            return Ok(Value::of([("imageId", id.into())]));
        }
        let Some(root) = root else {
            return Err(ApiError::new("MissingParameter", "The request must contain the parameter rootDeviceName"));
        };
        if !mappings.iter().any(|m| m.device == root && m.snapshot.is_some()) {
            let message = "A block device mapping with a snapshot is required for the root device";
            return Err(ApiError::new("InvalidBlockDeviceMapping", message));
        }
        if tpm.is_some() && boot_mode.as_deref() != Some("uefi") {
            let message = "TpmSupport requires the boot mode uefi";
            return Err(ApiError::new("InvalidParameterCombination", message));
        }
        for m in &mut mappings {
            super::attach::check_device(&m.device)?;
            if m.spec.encrypted && m.snapshot.is_some() {
                let message =
                    "the parameter Encrypted cannot be set for a mapping of a snapshot when registering an image";
                return Err(ApiError::new("InvalidParameterCombination", message));
            }
            if m.none {
                continue;
            }
            let (gib, encrypted, _) = self.size_from(m.gib, m.snapshot.as_deref(), context.now)?;
            m.gib = i64::try_from(gib).ok();
            m.spec.encrypted |= encrypted;
            // Checked here, so that an image that nobody can boot is not registered.
            m.spec.clone().checked(gib)?;
        }
        if self.images.len() >= self.config.quotas.images {
            let message = "The maximum number of AMIs has been reached.";
            return Err(ApiError::new("AMILimitExceeded", message).with_status(400));
        }
        params.finish()?;
        let id = self.ids.make("ami");
        let image = Image {
            id: id.clone(),
            name,
            description,
            architecture,
            virtualization,
            root_device: root,
            mappings,
            ena,
            boot_mode,
            tpm,
            imds,
            bundle: None,
            created: context.now,
            ready: context.now + self.config.delays.image,
            available: self.config.delays.image == 0,
            tags,
            consistency: Consistency { visible: context.now + self.config.delays.visibility },
        };
        self.images.insert(id.clone(), image);
        Ok(Value::of([("imageId", id.into())]))
    }

    pub(super) fn describe_images(&mut self, params: &Params, context: &Context<'_>) -> Answer<Value> {
        let ids = params.texts("ImageId");
        // EC2 takes pages of one image.
        let (filters, page) = (filters(params, "Filter")?, page(params, !ids.is_empty(), 1)?);
        let (owners, executable) = (params.texts("Owner"), params.texts("ExecutableBy"));
        params.flag("IncludeDeprecated")?;
        params.flag("IncludeDisabled")?;
        check_filters::<Image>(&filters)?;
        params.finish()?;
        for id in &ids {
            self.image(id, context.now)?;
        }
        let account = &self.config.account;
        let ours = |who: &[String]| who.is_empty() || who.iter().any(|w| w == "self" || w == account);
        let all = ours(&owners) && ours(&executable);
        let chosen = self
            .images
            .iter()
            .filter(|(id, i)| all && (ids.is_empty() || ids.contains(id)) && i.consistency.seen(context.now))
            .filter(|(_, i)| passes(*i, &filters))
            .map(|(id, i)| (id.as_str(), i.show(account)));
        Ok(paged("imagesSet", page.take(chosen)))
    }

    pub(super) fn deregister_image(&mut self, params: &Params, context: &Context<'_>) -> Answer<Value> {
        let id = params.need("ImageId")?.to_owned();
        let snapshots = params.flag("DeleteAssociatedSnapshots")?.unwrap_or(false);
        let image = self.image(&id, context.now)?;
        let used: Vec<String> = image.mappings.iter().filter_map(|m| m.snapshot.clone()).collect();
        params.finish()?;
        self.images.remove(&id);
        let mut results = Vec::new();
        // What is on disks of hosts goes with the image.
        for hidden in
            used.iter().filter(|id| self.snapshots.get(*id).is_some_and(|s| s.hidden)).cloned().collect::<Vec<_>>()
        {
            self.forget_snapshot(&hidden, context.now);
        }
        for snapshot in used.into_iter().filter(|_| snapshots) {
            let shared = self.images.values().any(|i| i.uses(&snapshot));
            if !shared {
                self.forget_snapshot(&snapshot, context.now);
            }
            let code = if shared { "skipped" } else { "success" };
            results.push(Value::of([("snapshotId", snapshot.into()), ("returnCode", code.into())]));
        }
        let answer = done();
        Ok(if snapshots { answer.with("deleteSnapshotResultSet", results) } else { answer })
    }

    /// A bundle was opened: instances can be made of it. Or it was none, and there is no such image.
    pub(super) fn unbundled(&mut self, id: &str, result: Result<(BTreeSet<u32>, u64), String>, now: Millis) {
        let Some(image) = self.images.get_mut(id) else { return };
        let snapshot = image.mappings.iter().find_map(|m| m.snapshot.clone()).unwrap_or_default();
        match result {
            Ok((blocks, gib)) => {
                image.ready = now + self.config.delays.image;
                for mapping in &mut image.mappings {
                    mapping.gib = i64::try_from(gib).ok();
                }
                self.open_hidden_snapshot(&snapshot, gib, blocks);
            }
            Err(why) => {
                tracing::warn!("{id}: {why}");
                self.images.remove(id);
                self.forget_snapshot(&snapshot, now);
            }
        }
    }

    pub(super) fn advance_images(&mut self, now: Millis) {
        for image in self.images.values_mut() {
            image.available |= now >= image.ready;
        }
    }
}
