//! RunInstances.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::attach::{Attachment, Phase, check_device, names};
use super::images::{Image, Mapping};
use super::instances::{Metadata, NewInstance, State};
use super::places::{ADDRESSES, Subnet};
use super::tags::{Tags, specified};
use super::types::{self, Type};
use super::volumes::NewVolume;
use super::{Cloud, Context};
use crate::error::{Answer, ApiError};
use crate::query::params::Params;
use crate::query::xml::Value;

/// What one call launches.
struct Plan {
    instance: NewInstance,
    volumes: Vec<(String, bool, NewVolume)>,
    least: u32,
    most: u32,
}

impl Cloud {
    pub(super) fn run_instances(&mut self, params: &Params, context: &Context<'_>) -> Answer<Value> {
        let merged = self.under_template(params)?;
        let tokens = merged.text("ClientToken").is_some();
        let plan = self.plan(&merged, context);
        if tokens {
            // A repeated call is answered even if it would not go well now; one that is not even well-formed is not.
            merged.finish_unless_refused(&plan)?;
            if let Some(made) = self.replay("RunInstances", params)? {
                let has_ended = |id: &String| {
                    self.instances.get(id).is_none_or(|i| matches!(i.state, State::ShuttingDown | State::Terminated))
                };
                if made.iter().any(has_ended) {
                    let message = "The instances of the request with this client token have been terminated.";
                    return Err(ApiError::new("IdempotentInstanceTerminated", message));
                }
                return self.reservation_of(&made);
            }
        }
        let plan = plan?;
        merged.finish()?;
        let count = self.how_many(&plan)?;
        let reservation = self.ids.make("r");
        let mut made = Vec::new();
        for index in 0..count {
            self.started += 1;
            let number = self.started;
            let id = self.add_instance(&plan.instance, (&reservation, index), number, context.now)?;
            for (device, delete, volume) in &plan.volumes {
                self.add_attached(&id, device, *delete, volume, context.now);
            }
            made.push(id);
        }
        // Groups may have their members as sources.
        self.refilter();
        self.remember("RunInstances", params, made.clone(), context.now);
        self.reservation_of(&made)
    }

    /// Makes a volume that belongs to an instance from its beginning.
    fn add_attached(&mut self, instance: &str, device: &str, delete: bool, new: &NewVolume, now: u64) {
        let root = self.instances.get(instance).is_some_and(|i| i.root_device == device);
        let Some(kind) = self.instances.get(instance).map(|i| i.kind) else { return };
        let nth = if root { 0 } else { self.free_number(instance) };
        let volume = self.add_volume(
            NewVolume {
                gib: new.gib,
                spec: new.spec.clone(),
                zone: new.zone.clone(),
                snapshot: new.snapshot.clone(),
                shared: new.shared,
                tags: new.tags.clone(),
            },
            now,
        );
        if let Some(v) = self.volumes.get_mut(&volume) {
            v.attachment = Some(Attachment {
                instance: instance.to_owned(),
                device: device.to_owned(),
                names: names(kind, device, &volume, nth),
                state: Phase::Attaching,
                time: now,
                delete_on_termination: delete,
                ready: now,
                done: false,
            });
        }
    }

    /// How many instances there is room for, at most as many as wanted.
    fn how_many(&self, plan: &Plan) -> Answer<u32> {
        let i = &plan.instance;
        let mut count = plan.most;
        loop {
            match self.room(i.kind, &i.zone, i.spot, count) {
                Ok(()) => break,
                Err(refusal) if count <= plan.least => return Err(refusal),
                Err(_) => count -= 1,
            }
        }
        if self.started + count > ADDRESSES {
            let message = format!("There are not enough free addresses in subnet '{}'.", i.subnet);
            return Err(ApiError::new("InsufficientFreeAddressesInSubnet", message));
        }
        let gib: u64 = plan.volumes.iter().map(|(_, _, v)| v.gib).sum();
        self.check_volume_quota(gib * u64::from(count))?;
        Ok(count)
    }

    /// Checks that so many more instances have room: in the zone, and in what the account may have.
    pub(super) fn room(&self, kind: &Type, zone: &str, spot: bool, count: u32) -> Answer<()> {
        if !self.config.offers(zone, kind.name) {
            let message = format!(
                "Your requested instance type ({}) is not supported in your requested Availability Zone ({zone}). Please retry \
                 your request by not specifying an Availability Zone or choosing another.",
                kind.name
            );
            return Err(ApiError::new("Unsupported", message));
        }
        let runs = |s: State| matches!(s, State::Pending | State::Running);
        let here = self.instances.values().filter(|i| runs(i.state) && i.kind == kind && i.zone == zone).count();
        if let Some(most) = self.capacity.get(&format!("{zone}/{}", kind.name))
            && u32::try_from(here).unwrap_or(u32::MAX).saturating_add(count) > *most
        {
            let message = format!(
                "We currently do not have sufficient {} capacity in the Availability Zone you requested ({zone}). \
                 Our system will be working on provisioning additional capacity.",
                kind.name
            );
            return Err(ApiError::new("InsufficientInstanceCapacity", message));
        }
        let used: u32 = self.instances.values().filter(|i| runs(i.state) && i.spot == spot).map(|i| i.kind.vcpus).sum();
        let quotas = self.config.quotas;
        let wanted = used + kind.vcpus * count;
        if spot && wanted > quotas.spot_vcpus {
            return Err(ApiError::new("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded"));
        }
        if !spot && wanted > quotas.vcpus {
            let message = format!(
                "You have requested more vCPU capacity than your current vCPU limit of {} allows for the instance \
                 bucket that the specified instance type belongs to.",
                quotas.vcpus
            );
            return Err(ApiError::new("VcpuLimitExceeded", message));
        }
        Ok(())
    }

    /// Reads and checks a call.
    fn plan(&self, params: &Params, context: &Context<'_>) -> Answer<Plan> {
        let now = context.now;
        let count = |name: &str| -> Answer<u32> {
            let n = params.int(name)?.ok_or_else(|| ApiError::missing(name))?;
            u32::try_from(n).ok().filter(|n| (1..=1_000).contains(n)).ok_or_else(|| {
                ApiError::new("InvalidParameterValue", format!("Value ({n}) for parameter {name} is invalid."))
            })
        };
        let (least, most) = (count("MinCount")?, count("MaxCount")?);
        if most < least {
            let message = "The value of MaxCount must not be less than that of MinCount.";
            return Err(ApiError::new("InvalidParameterCombination", message));
        }
        let token = params.text("ClientToken").map(str::to_owned);
        let user_data = user_data(params)?;
        let key = params.text("KeyName").filter(|k| !k.is_empty()).map(str::to_owned);
        if let Some(key) = key.as_ref().filter(|k| !self.config.key_pairs.contains(k)) {
            let message = format!("The key pair '{key}' does not exist");
            return Err(ApiError::new("InvalidKeyPair.NotFound", message));
        }
        let monitoring = params.child("Monitoring").map(|m| m.flag("Enabled")).transpose()?.flatten().unwrap_or(false);
        let ebs_optimized = params.flag("EbsOptimized")?.unwrap_or(false);
        let protected = params.flag("DisableApiTermination")?.unwrap_or(false);
        let terminate_on_shutdown = match params.text("InstanceInitiatedShutdownBehavior") {
            None | Some("stop") => false,
            Some("terminate") => true,
            Some(v) => {
                return Err(ApiError::invalid(v, "InstanceInitiatedShutdownBehavior", "Expected stop or terminate."));
            }
        };
        if let Some(credits) = params.child("CreditSpecification") {
            credits.text("CpuCredits");
        }
        let profile = params
            .child("IamInstanceProfile")
            .and_then(|p| p.text("Arn").or_else(|| p.text("Name")))
            .map(str::to_owned);
        let spot = market(params)?;
        let mut tags = specified(params, &["instance", "volume", "network-interface", "spot-instances-request"])?;
        let (subnet, groups, wants_public) = self.place(params, now)?;
        let image = params.need("ImageId")?;
        let image = self.image(image, now)?;
        if !image.available {
            let message = format!("The image ID '{}' is not available", image.id);
            return Err(ApiError::new("InvalidAMIID.Unavailable", message));
        }
        let kind = types::find(params.text("InstanceType").unwrap_or("m1.small"))?;
        fits(image, kind)?;
        let metadata = metadata(params, image)?;
        let mappings = merged(&image.mappings, Mapping::read(params)?, &image.root_device)?;
        let (zone, subnet) = (subnet.zone, subnet.id);
        let volume_tags = tags.remove("volume").unwrap_or_default();
        let volumes = self.volumes_for(image, &mappings, &zone, &volume_tags, now)?;
        let instance = NewInstance {
            image: image.id.clone(),
            architecture: image.architecture.clone(),
            virtualization: image.virtualization.clone(),
            ena: image.ena,
            root_device: image.root_device.clone(),
            kind,
            zone,
            subnet,
            wants_public,
            groups,
            key,
            user_data,
            profile,
            metadata,
            spot,
            terminate_on_shutdown,
            protected,
            monitoring,
            ebs_optimized,
            token,
            tags: tags.remove("instance").unwrap_or_default(),
        };
        Ok(Plan { instance, volumes, least, most })
    }

    fn volumes_for(
        &self,
        image: &Image,
        mappings: &[Mapping],
        zone: &str,
        tags: &Tags,
        now: u64,
    ) -> Answer<Vec<(String, bool, NewVolume)>> {
        let mut volumes = Vec::new();
        for m in mappings {
            check_device(&m.device)?;
            let (gib, encrypted, key) = self.size_from(m.gib, m.snapshot.as_deref(), now).map_err(|mut e| {
                if e.code == "InvalidParameterValue" {
                    e.code = "InvalidBlockDeviceMapping".into();
                }
                e
            })?;
            let mut spec = m.spec.clone();
            self.check_key(spec.key.as_deref())?;
            if encrypted {
                spec.encrypted = true;
                spec.key = spec.key.or(key);
            }
            let shared = self.config.copy_on_write && m.device == image.root_device;
            let spec = spec.checked(gib)?;
            let (zone, snapshot) = (zone.to_owned(), m.snapshot.clone());
            let new = NewVolume { gib, spec, zone, snapshot, shared, tags: tags.clone() };
            volumes.push((m.device.clone(), m.delete_on_termination.unwrap_or(true), new));
        }
        Ok(volumes)
    }

    /// Where an instance is to be, behind which groups, and whether it gets a public address.
    fn place(&self, params: &Params, now: u64) -> Answer<(Subnet, Vec<String>, bool)> {
        let mut subnet = params.text("SubnetId").filter(|s| !s.is_empty());
        let mut groups = params.texts("SecurityGroupId");
        for name in params.texts("SecurityGroup") {
            groups.push(self.group_named(&name)?);
        }
        let mut public = true;
        let interfaces = params.list("NetworkInterface");
        if interfaces.len() > 1 {
            return Err(ApiError::unsupported("instances with more than one network interface"));
        }
        if let Some(nic) = interfaces.first() {
            if subnet.is_some() || !groups.is_empty() {
                let message = "Network interfaces and an instance-level subnet ID or security groups may not be specified on the same request";
                return Err(ApiError::new("InvalidParameterCombination", message));
            }
            if nic.int("DeviceIndex")? != Some(0) {
                let message = "The first network interface must have the device index 0.";
                return Err(ApiError::new("InvalidParameterValue", message));
            }
            nic.flag("DeleteOnTermination")?;
            nic.text("Description");
            subnet = nic.text("SubnetId").filter(|s| !s.is_empty());
            groups = nic.texts("SecurityGroupId");
            public = nic.flag("AssociatePublicIpAddress")?.unwrap_or(true);
        }
        for id in &groups {
            self.group(id, now)?;
        }
        if groups.is_empty() {
            groups.push(self.default_group());
        }
        groups.dedup();
        let zone = params.child("Placement").and_then(|p| {
            // The only tenancy there is.
            p.text("Tenancy").filter(|t| *t == "default");
            p.text("AvailabilityZone")
        });
        if let Some(zone) = zone.filter(|z| !z.is_empty()) {
            self.check_zone(zone)?;
        }
        let all = Subnet::all(&self.config);
        let chosen = match (subnet, zone.filter(|z| !z.is_empty())) {
            (Some(id), zone) => {
                let s = self.subnet(id)?;
                if zone.is_some_and(|z| z != s.zone) {
                    let message = format!("The subnet '{id}' is not in the availability zone given.");
                    return Err(ApiError::new("InvalidParameterValue", message));
                }
                Some(s)
            }
            (None, Some(zone)) => all.into_iter().find(|s| s.zone == zone),
            (None, None) => {
                let kind = params.text("InstanceType").and_then(|t| types::find(t).ok());
                let free = |s: &&Subnet| kind.is_none_or(|k| self.room(k, &s.zone, false, 1).is_ok());
                all.iter().find(free).or(all.first()).cloned()
            }
        };
        chosen.map(|s| (s, groups, public)).ok_or_else(|| ApiError::internal("there is no subnet"))
    }
}

impl Params {
    /// Ends reading unless reading was cut short, in which case what is unread is not known to be unknown.
    fn finish_unless_refused<T>(&self, plan: &Answer<T>) -> Answer<()> {
        if plan.is_ok() { self.finish() } else { Ok(()) }
    }
}

/// An image's mappings with those of the call in their place.
fn merged(image: &[Mapping], call: Vec<Mapping>, root: &str) -> Answer<Vec<Mapping>> {
    let mut all: Vec<Mapping> = image.iter().filter(|m| !m.none).cloned().collect();
    for m in call {
        let Some(at) = all.iter().position(|o| o.device == m.device) else {
            if !m.none {
                // A volume that the image has not stays when the instance goes, unless the caller says otherwise.
                all.push(Mapping { delete_on_termination: m.delete_on_termination.or(Some(true)), ..m });
            }
            continue;
        };
        if m.none {
            if m.device == root {
                let message = "The root device cannot be suppressed";
                return Err(ApiError::new("InvalidBlockDeviceMapping", message));
            }
            all.remove(at);
            continue;
        }
        let old = &mut all[at];
        if m.snapshot.is_some() && m.snapshot != old.snapshot && m.device == root {
            let message = "snapshotId cannot be modified on root device";
            return Err(ApiError::new("InvalidBlockDeviceMapping", message));
        }
        old.gib = m.gib.or(old.gib);
        old.snapshot = m.snapshot.or_else(|| old.snapshot.clone());
        old.delete_on_termination = m.delete_on_termination.or(old.delete_on_termination);
        let encrypted = m.spec.encrypted || old.spec.encrypted;
        if m.kind_given {
            old.spec = m.spec;
        } else {
            old.spec.iops = m.spec.iops.or(old.spec.iops);
            old.spec.throughput = m.spec.throughput.or(old.spec.throughput);
            old.spec.key = m.spec.key.or_else(|| old.spec.key.clone());
        }
        old.spec.encrypted = encrypted;
    }
    Ok(all)
}

/// Whether an image runs on a type.
fn fits(image: &Image, kind: &Type) -> Answer<()> {
    let name = kind.name;
    if !kind.virtualization.contains(&image.virtualization.as_str()) {
        let message = format!(
            "Virtualization type 'hvm' is required for instances of type '{name}'. Ensure that you are using an AMI with virtualization type 'hvm'."
        );
        return Err(ApiError::new("InvalidParameterCombination", message));
    }
    if !kind.architectures.contains(&image.architecture.as_str()) {
        let message = format!(
            "The architecture '{}' of the specified instance type does not match the architecture '{}' of the specified AMI.",
            kind.architectures.join(","),
            image.architecture
        );
        return Err(ApiError::new("InvalidParameterValue", message));
    }
    if kind.nitro && !image.ena {
        let message = format!(
            "Enhanced networking with the Elastic Network Adapter (ENA) is required for the '{name}' instance type. Ensure that you are using an AMI that is enabled for ENA."
        );
        return Err(ApiError::new("InvalidParameterCombination", message));
    }
    Ok(())
}

/// Whether it is to be a spot instance.
fn market(params: &Params) -> Answer<bool> {
    let Some(options) = params.child("InstanceMarketOptions") else { return Ok(false) };
    if let Some(spot) = options.child("SpotOptions") {
        spot.text("MaxPrice");
        if let Some(v) = spot.text("SpotInstanceType").filter(|v| *v != "one-time") {
            return Err(ApiError::unsupported(format_args!("spot requests that are {v}")));
        }
        if let Some(v) = spot.text("InstanceInterruptionBehavior").filter(|v| *v != "terminate") {
            return Err(ApiError::unsupported(format_args!("spot instances that {v} when they are interrupted")));
        }
    }
    match options.text("MarketType") {
        Some("spot") => Ok(true),
        Some(v) => Err(ApiError::invalid(v, "MarketType", "Expected spot.")),
        None => Err(ApiError::missing("InstanceMarketOptions.MarketType")),
    }
}

fn user_data(params: &Params) -> Answer<Option<String>> {
    let Some(text) = params.text("UserData").filter(|t| !t.is_empty()) else { return Ok(None) };
    let compact: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    match STANDARD.decode(&compact) {
        Err(_) => Err(ApiError::new("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data.")),
        Ok(bytes) if bytes.len() > 16_384 => {
            Err(ApiError::new("InvalidParameterValue", "User data is limited to 16384 bytes"))
        }
        Ok(_) => Ok(Some(compact)),
    }
}

fn metadata(params: &Params, image: &Image) -> Answer<Metadata> {
    let two = image.imds.is_some();
    let mut m = Metadata { token_required: two, enabled: true, hop_limit: if two { 2 } else { 1 }, tags: false };
    let Some(options) = params.child("MetadataOptions") else { return Ok(m) };
    let choice = |name: &str, no: &str, yes: &str, default: bool| match options.text(name) {
        None => Ok(default),
        Some(v) if v == no => Ok(false),
        Some(v) if v == yes => Ok(true),
        Some(v) => Err(ApiError::invalid(v, name, &format!("Expected {no} or {yes}."))),
    };
    m.token_required = choice("HttpTokens", "optional", "required", m.token_required)?;
    m.enabled = choice("HttpEndpoint", "disabled", "enabled", true)?;
    m.tags = choice("InstanceMetadataTags", "disabled", "enabled", false)?;
    if choice("HttpProtocolIpv6", "disabled", "enabled", false)? {
        return Err(ApiError::unsupported("the metadata service over IPv6"));
    }
    if let Some(hops) = options.int("HttpPutResponseHopLimit")? {
        let why = "Expected a number from 1 to 64.";
        let hops = u8::try_from(hops).ok().filter(|h| (1..=64).contains(h));
        m.hop_limit = hops.ok_or_else(|| ApiError::invalid("", "HttpPutResponseHopLimit", why))?;
    }
    Ok(m)
}
