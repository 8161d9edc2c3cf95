//! Instances as answers show them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::instances::{Instance, State};
use super::places::{VPC, zone_id};
use super::select::{Described, check_filters, filters, page, paged, passes};
use super::tags::{Tags, tag_set};
use super::time::iso;
use super::{Cloud, Context};
use crate::error::{Answer, ApiError};
use crate::query::params::Params;
use crate::query::xml::Value;

impl Described for Instance {
    const FILTERS: &'static [&'static str] = &[
        "instance-id",
        "instance-state-name",
        "instance-state-code",
        "instance-type",
        "image-id",
        "availability-zone",
        "subnet-id",
        "vpc-id",
        "private-ip-address",
        "ip-address",
        "instance.group-id",
        "client-token",
        "reservation-id",
        "instance-lifecycle",
        "key-name",
        "architecture",
    ];

    fn facts(&self, filter: &str) -> Vec<String> {
        match filter {
            "instance-id" => vec![self.id.clone()],
            "instance-state-name" => vec![self.state.name().to_owned()],
            "instance-state-code" => vec![self.state.code().to_string()],
            "instance-type" => vec![self.kind.name.to_owned()],
            "image-id" => vec![self.image.clone()],
            "availability-zone" => vec![self.zone.clone()],
            "subnet-id" => vec![self.subnet.clone()],
            "vpc-id" => vec![VPC.to_owned()],
            "private-ip-address" => vec![self.address.clone()],
            "ip-address" => self.public.clone().into_iter().collect(),
            "instance.group-id" => self.groups.clone(),
            "client-token" => self.token.clone().into_iter().collect(),
            "reservation-id" => vec![self.reservation.clone()],
            "instance-lifecycle" => self.spot.then(|| "spot".to_owned()).into_iter().collect(),
            "key-name" => self.key.clone().into_iter().collect(),
            _ => vec![self.architecture.clone()],
        }
    }

    fn tags(&self) -> &Tags {
        &self.tags
    }
}

impl Instance {
    /// Its name in the VPC.
    pub(crate) fn private_name(&self, region: &str) -> String {
        let dashed = self.address.replace('.', "-");
        if region == "us-east-1" {
            format!("ip-{dashed}.ec2.internal")
        } else {
            format!("ip-{dashed}.{region}.compute.internal")
        }
    }

    fn public_name(&self, region: &str) -> String {
        let Some(public) = &self.public else { return String::new() };
        let dashed = public.replace('.', "-");
        let part = if region == "us-east-1" { "compute-1".to_owned() } else { format!("{region}.compute") };
        format!("ec2-{dashed}.{part}.amazonaws.com")
    }
}

impl Cloud {
    fn group_set(&self, i: &Instance) -> Value {
        let show = |id: &String| {
            let name = self.groups.get(id).map(|g| g.name.clone()).unwrap_or_default();
            Value::of([("groupId", id.into()), ("groupName", name.into())])
        };
        i.groups.iter().map(show).collect::<Vec<_>>().into()
    }

    fn mapping_set(&self, id: &str) -> Value {
        let show = |v: &super::Volume| {
            let a = v.attachment.as_ref()?;
            let ebs = Value::of([
                ("attachTime", iso(a.time).into()),
                ("deleteOnTermination", a.delete_on_termination.into()),
                ("status", Self::attachment_status(a.state).into()),
                ("volumeId", (&v.id).into()),
            ]);
            Some(Value::of([("deviceName", (&a.device).into()), ("ebs", ebs)]))
        };
        self.volumes_of(id).filter_map(show).collect::<Vec<_>>().into()
    }

    fn show_instance(&self, i: &Instance) -> Value {
        let region = &self.config.region;
        let held = !i.state.gone();
        let placement = Value::of([
            ("availabilityZoneId", zone_id(&self.config, &i.zone).into()),
            ("groupName", "".into()),
            ("tenancy", "default".into()),
            ("availabilityZone", (&i.zone).into()),
        ]);
        let options = Value::of([
            ("state", if i.state == State::Pending { "pending" } else { "applied" }.into()),
            ("httpTokens", if i.metadata.token_required { "required" } else { "optional" }.into()),
            ("httpPutResponseHopLimit", u32::from(i.metadata.hop_limit).into()),
            ("httpEndpoint", if i.metadata.enabled { "enabled" } else { "disabled" }.into()),
            ("httpProtocolIpv6", "disabled".into()),
            ("instanceMetadataTags", if i.metadata.tags { "enabled" } else { "disabled" }.into()),
        ]);
        let reason =
            i.reason.as_ref().map(|(code, message)| Value::of([("code", code.into()), ("message", message.into())]));
        // A profile is taken for one that exists: nobody gets credentials by it.
        let profile = i.profile.as_ref().map(|p| {
            let arn = match p.starts_with("arn:") {
                true => p.clone(),
                false => format!("arn:aws:iam::{}:instance-profile/{p}", self.config.account),
            };
            Value::of([("arn", arn.into()), ("id", "AIPAMINICLOUD0000000A".into())])
        });
        let head = Value::of([
            ("architecture", (&i.architecture).into()),
            ("blockDeviceMapping", self.mapping_set(&i.id)),
            ("clientToken", i.token.clone().unwrap_or_default().into()),
            ("ebsOptimized", i.ebs_optimized.into()),
            ("enaSupport", i.ena.into()),
            ("hypervisor", "xen".into()),
            ("iamInstanceProfile", profile.into()),
            ("instanceLifecycle", i.spot.then_some("spot").into()),
            ("networkInterfaceSet", if held { vec![self.interface(i)].into() } else { Vec::new().into() }),
            ("rootDeviceName", (&i.root_device).into()),
            ("rootDeviceType", "ebs".into()),
            ("groupSet", if held { self.group_set(i) } else { Vec::new().into() }),
            ("sourceDestCheck", true.into()),
            ("stateReason", reason.into()),
            ("tagSet", tag_set(&i.tags)),
            ("virtualizationType", (&i.virtualization).into()),
            ("metadataOptions", options),
            ("platformDetails", "Linux/UNIX".into()),
            ("usageOperation", "RunInstances".into()),
            ("instanceId", (&i.id).into()),
            ("imageId", (&i.image).into()),
            ("instanceState", i.state.show()),
            ("privateDnsName", if held { i.private_name(region) } else { String::new() }.into()),
            ("dnsName", i.public_name(region).into()),
            ("reason", i.reason.as_ref().map(|(_, m)| m.clone()).unwrap_or_default().into()),
            ("keyName", i.key.as_ref().into()),
            ("amiLaunchIndex", i.index.into()),
            ("productCodes", Vec::new().into()),
            ("instanceType", i.kind.name.into()),
            ("launchTime", iso(i.launched).into()),
            ("placement", placement),
            ("monitoring", Value::of([("state", if i.monitoring { "enabled" } else { "disabled" }.into())])),
        ]);
        if !held {
            return head;
        }
        head.with("subnetId", &i.subnet)
            .with("vpcId", VPC)
            .with("privateIpAddress", &i.address)
            .with("ipAddress", i.public.as_ref())
    }

    fn interface(&self, i: &Instance) -> Value {
        let region = &self.config.region;
        let association = i.public.as_ref().map(|public| {
            Value::of([
                ("ipOwnerId", "amazon".into()),
                ("publicDnsName", i.public_name(region).into()),
                ("publicIp", public.into()),
            ])
        });
        let attachment = Value::of([
            ("attachTime", iso(i.launched).into()),
            ("attachmentId", i.interface.replace("eni-", "eni-attach-").into()),
            ("deleteOnTermination", true.into()),
            ("deviceIndex", 0u32.into()),
            ("status", "attached".into()),
        ]);
        Value::of([
            ("association", association.into()),
            ("attachment", attachment),
            ("description", "".into()),
            ("groupSet", self.group_set(i)),
            ("macAddress", (&i.mac).into()),
            ("networkInterfaceId", (&i.interface).into()),
            ("ownerId", (&self.config.account).into()),
            ("privateDnsName", i.private_name(region).into()),
            ("privateIpAddress", (&i.address).into()),
            ("sourceDestCheck", true.into()),
            ("status", "in-use".into()),
            ("subnetId", (&i.subnet).into()),
            ("vpcId", VPC.into()),
            ("interfaceType", "interface".into()),
        ])
    }

    /// The reservation of instances that were launched together.
    pub(super) fn reservation_of(&self, ids: &[String]) -> Answer<Value> {
        let members: Vec<&Instance> = ids.iter().filter_map(|id| self.instances.get(id)).collect();
        let Some(first) = members.first() else {
            let message = "The instances of this client token do not exist any more";
            return Err(ApiError::new("InvalidInstanceID.NotFound", message));
        };
        Ok(self.reservation(&first.reservation, &members))
    }

    fn reservation(&self, id: &str, members: &[&Instance]) -> Value {
        Value::of([
            ("reservationId", id.into()),
            ("ownerId", (&self.config.account).into()),
            ("groupSet", Vec::new().into()),
            ("instancesSet", members.iter().map(|i| self.show_instance(i)).collect::<Vec<_>>().into()),
        ])
    }

    pub(super) fn describe_instances(&mut self, params: &Params, context: &Context<'_>) -> Answer<Value> {
        let ids = params.texts("InstanceId");
        let (filters, page) = (filters(params, "Filter")?, page(params, !ids.is_empty(), 5)?);
        check_filters::<Instance>(&filters)?;
        params.finish()?;
        self.all_exist(&ids, context.now)?;
        let wanted = |i: &&Instance| {
            (ids.is_empty() || ids.contains(&i.id)) && i.consistency.seen(context.now) && passes(*i, &filters)
        };
        let (chosen, next) = page.take(self.instances.values().filter(wanted).map(|i| (i.id.as_str(), i)));
        // Those of a reservation that are on this page are shown together.
        let mut reservations: Vec<(&str, Vec<&Instance>)> = Vec::new();
        for i in chosen {
            match reservations.iter_mut().find(|(r, _)| *r == i.reservation) {
                Some((_, members)) => members.push(i),
                None => reservations.push((&i.reservation, vec![i])),
            }
        }
        let mut shown = Vec::new();
        for (id, mut members) in reservations {
            members.sort_by_key(|i| i.index);
            shown.push(self.reservation(id, &members));
        }
        Ok(paged("reservationSet", (shown, next)))
    }

    /// Refuses ids that are not there, all of them in one message.
    fn all_exist(&self, ids: &[String], now: u64) -> Answer<()> {
        let mut missing = Vec::new();
        for id in ids {
            match self.instance(id, now) {
                Ok(_) => {}
                Err(e) if e.code == "InvalidInstanceID.NotFound" => missing.push(id.as_str()),
                Err(e) => return Err(e),
            }
        }
        let message = match missing[..] {
            [] => return Ok(()),
            [one] => format!("The instance ID '{one}' does not exist"),
            _ => format!("The instance IDs '{}' do not exist", missing.join(", ")),
        };
        Err(ApiError::new("InvalidInstanceID.NotFound", message))
    }

    pub(super) fn describe_instance_status(&mut self, params: &Params, context: &Context<'_>) -> Answer<Value> {
        let ids = params.texts("InstanceId");
        let (filters, page) = (filters(params, "Filter")?, page(params, !ids.is_empty(), 5)?);
        let all = params.flag("IncludeAllInstances")?.unwrap_or(false);
        check_filters::<Instance>(&filters)?;
        params.finish()?;
        self.all_exist(&ids, context.now)?;
        let show = |i: &Instance| {
            let status = match i.state {
                State::Running if context.now >= i.running_since + self.config.delays.status => "ok",
                State::Running => "initializing",
                _ => "not-applicable",
            };
            let detail = match status {
                "ok" => vec![Value::of([("name", "reachability".into()), ("status", "passed".into())])],
                "initializing" => vec![Value::of([("name", "reachability".into()), ("status", "initializing".into())])],
                _ => Vec::new(),
            };
            let summary = Value::of([("details", detail.into()), ("status", status.into())]);
            Value::of([
                ("availabilityZone", (&i.zone).into()),
                ("availabilityZoneId", zone_id(&self.config, &i.zone).into()),
                ("eventsSet", Vec::new().into()),
                ("instanceId", (&i.id).into()),
                ("instanceState", i.state.show()),
                ("instanceStatus", summary.clone()),
                ("systemStatus", summary),
            ])
        };
        let wanted = |i: &&Instance| {
            (all || i.state == State::Running)
                && (ids.is_empty() || ids.contains(&i.id))
                && i.consistency.seen(context.now)
                && passes(*i, &filters)
        };
        let chosen = self.instances.values().filter(wanted).map(|i| (i.id.as_str(), show(i)));
        Ok(paged("instanceStatusSet", page.take(chosen)))
    }

    pub(super) fn describe_instance_attribute(&mut self, params: &Params, context: &Context<'_>) -> Answer<Value> {
        let (id, attribute) = (params.need("InstanceId")?, params.need("Attribute")?);
        let i = self.instance(id, context.now)?;
        let value = |v: Value| Value::of([("value", v)]);
        let (name, shown) = match attribute {
            "userData" => ("userData", i.user_data.clone().map_or(Value::of([]), |d| value(d.into()))),
            "instanceType" => ("instanceType", value(i.kind.name.into())),
            "disableApiTermination" => ("disableApiTermination", value(i.protected.into())),
            "instanceInitiatedShutdownBehavior" => {
                let behaviour = if i.terminate_on_shutdown { "terminate" } else { "stop" };
                ("instanceInitiatedShutdownBehavior", value(behaviour.into()))
            }
            "rootDeviceName" => ("rootDeviceName", value((&i.root_device).into())),
            "ebsOptimized" => ("ebsOptimized", value(i.ebs_optimized.into())),
            "enaSupport" => ("enaSupport", value(i.ena.into())),
            "sourceDestCheck" => ("sourceDestCheck", value(true.into())),
            "groupSet" => ("groupSet", self.group_set(i)),
            "blockDeviceMapping" => ("blockDeviceMapping", self.mapping_set(id)),
            odd => return Err(ApiError::invalid(odd, "attribute", "Unknown attribute.")),
        };
        params.finish()?;
        Ok(Value::of([("instanceId", id.into()), (name, shown)]))
    }

    pub(super) fn get_console_output(&mut self, params: &Params, context: &Context<'_>) -> Answer<Value> {
        let id = params.need("InstanceId")?;
        params.flag("Latest")?;
        self.instance(id, context.now)?;
        params.finish()?;
        let output = context.console.map(|bytes| STANDARD.encode(&bytes[bytes.len().saturating_sub(65_536)..]));
        Ok(Value::of([
            ("instanceId", id.into()),
            ("timestamp", iso(context.now).into()),
            ("output", output.unwrap_or_default().into()),
        ]))
    }
}
