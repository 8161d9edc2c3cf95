//! Volumes on instances.

use super::effects::Effect;
use super::instances::State;
use super::time::{Millis, iso};
use super::types::Type;
use super::volumes::Volume;
use super::{Cloud, Context};
use crate::error::{Answer, ApiError};
use crate::query::params::Params;
use crate::query::xml::Value;

/// A volume's place on an instance.
#[derive(Debug, Clone)]
pub(crate) struct Attachment {
    pub(crate) instance: String,
    /// The name that the caller gave: `/dev/sdf`.
    pub(crate) device: String,
    /// The names that it has inside: a node, then links to it.
    pub(crate) names: Vec<String>,
    pub(crate) state: Phase,
    pub(crate) time: Millis,
    pub(crate) delete_on_termination: bool,
    pub(crate) ready: Millis,
    /// Whether what the state waits for has happened.
    pub(crate) done: bool,
}

/// How far an attachment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Attaching,
    Attached,
    Detaching,
    /// To be detached, and in use inside.
    Busy,
}

impl Phase {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Attaching => "attaching",
            Self::Attached => "attached",
            Self::Detaching => "detaching",
            Self::Busy => "busy",
        }
    }
}

impl Attachment {
    pub(crate) fn show(&self, volume: &str) -> Value {
        Value::of([
            ("deleteOnTermination", self.delete_on_termination.into()),
            ("volumeId", volume.into()),
            ("instanceId", (&self.instance).into()),
            ("device", (&self.device).into()),
            ("status", self.state.name().into()),
            ("attachTime", iso(self.time).into()),
        ])
    }
}

/// The names of a volume inside an instance. On Nitro they do not come from the name that the caller gave: volumes are numbered in the
/// order in which they come. On Xen, `sd` becomes `xvd`.
pub(super) fn names(kind: &Type, device: &str, volume: &str, nth: usize) -> Vec<String> {
    if kind.nitro {
        let serial = volume.replace('-', "");
        vec![format!("/dev/nvme{nth}n1"), format!("/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_{serial}")]
    } else {
        let short = device.strip_prefix("/dev/").unwrap_or(device);
        vec![match short.strip_prefix("sd") {
            Some(rest) => format!("/dev/xvd{rest}"),
            None => format!("/dev/{short}"),
        }]
    }
}

/// Checks the name of an attachment's device.
pub(super) fn check_device(device: &str) -> Answer<()> {
    let short = device.strip_prefix("/dev/").unwrap_or(device);
    let rest = short.strip_prefix("sd").or_else(|| short.strip_prefix("xvd")).unwrap_or_default();
    let mut chars = rest.chars();
    let letters = chars.by_ref().take_while(char::is_ascii_lowercase).count();
    let number: String = rest.chars().skip(letters).collect();
    if (1..=2).contains(&letters) && (number.is_empty() || number.parse::<u8>().is_ok_and(|n| n < 16)) {
        return Ok(());
    }
    let message = format!("Value ({device}) for parameter device is invalid. {device} is not a valid EBS device name.");
    Err(ApiError::new("InvalidParameterValue", message))
}

impl Cloud {
    /// The volumes of an instance.
    pub(super) fn volumes_of<'a>(&'a self, instance: &'a str) -> impl Iterator<Item = &'a Volume> {
        self.volumes.values().filter(move |v| v.attachment.as_ref().is_some_and(|a| a.instance == instance))
    }

    /// The lowest NVMe number that is free on an instance.
    pub(super) fn free_number(&self, instance: &str) -> usize {
        let taken: Vec<&str> = self
            .volumes_of(instance)
            .filter_map(|v| v.attachment.as_ref()?.names.first().map(String::as_str))
            .collect();
        (1..).find(|n| !taken.contains(&format!("/dev/nvme{n}n1").as_str())).unwrap_or(1)
    }

    pub(super) fn attach_volume(&mut self, params: &Params, context: &Context<'_>) -> Answer<Value> {
        let (id, instance, device) = (params.need("VolumeId")?, params.need("InstanceId")?, params.need("Device")?);
        let volume = self.volume(id, context.now)?;
        let i = self.instance(instance, context.now)?;
        check_device(device)?;
        if let Some(a) = &volume.attachment {
            let message = format!("{id} is already attached to an instance ({})", a.instance);
            return Err(ApiError::new("VolumeInUse", message));
        }
        if volume.state() != "available" {
            let message = format!("Volume '{id}' is not 'available' but '{}'.", volume.state());
            return Err(ApiError::new("IncorrectState", message));
        }
        if !matches!(i.state, State::Running | State::Stopped) {
            let message = format!("Instance '{instance}' is not 'running'.");
            return Err(ApiError::new("IncorrectState", message));
        }
        if volume.zone != i.zone {
            let message = format!("The volume '{id}' is not in the same availability zone as instance '{instance}'");
            return Err(ApiError::new("InvalidVolume.ZoneMismatch", message));
        }
        let taken = |v: &Volume| v.attachment.as_ref().is_some_and(|a| a.device == device);
        if self.volumes_of(instance).any(taken) {
            let message =
                format!("Invalid value '{device}' for unixDevice. Attachment point {device} is already in use");
            return Err(ApiError::new("InvalidParameterValue", message));
        }
        if self.volumes_of(instance).count() >= 27 {
            let message = format!("The instance {instance} has as many volumes as it can have.");
            return Err(ApiError::new("AttachmentLimitExceeded", message));
        }
        params.finish()?;
        let names = names(i.kind, device, id, self.free_number(instance));
        let running = i.state == State::Running;
        let attachment = Attachment {
            instance: instance.to_owned(),
            device: device.to_owned(),
            names: names.clone(),
            state: Phase::Attaching,
            time: context.now,
            delete_on_termination: false,
            ready: context.now + self.config.delays.attach,
            // A stopped instance finds it when it boots.
            done: !running,
        };
        let shown = attachment.show(id);
        let (id, instance) = (id.to_owned(), instance.to_owned());
        if let Some(v) = self.volumes.get_mut(&id) {
            v.attachment = Some(attachment);
        }
        if running {
            self.effects.push(Effect::Attach { instance, volume: id, names });
        }
        Ok(shown)
    }

    pub(super) fn detach_volume(&mut self, params: &Params, context: &Context<'_>) -> Answer<Value> {
        let id = params.need("VolumeId")?;
        let (instance, device) = (params.text("InstanceId"), params.text("Device"));
        let force = params.flag("Force")?.unwrap_or(false);
        let volume = self.volume(id, context.now)?;
        if let Some(instance) = instance {
            self.instance(instance, context.now)?;
        }
        let Some(a) = &volume.attachment else {
            let message = format!("Volume '{id}' is in the '{}' state.", volume.state());
            return Err(ApiError::new("IncorrectState", message));
        };
        if instance.is_some_and(|i| i != a.instance) || device.is_some_and(|d| d != a.device) {
            let message = format!("Volume '{id}' is not attached to the instance or device given");
            return Err(ApiError::new("InvalidAttachment.NotFound", message));
        }
        let state = self.instances.get(&a.instance).map_or(State::Terminated, |i| i.state);
        let root = self.instances.get(&a.instance).is_some_and(|i| i.root_device == a.device);
        if root && state != State::Stopped {
            let message = format!("Unable to detach root volume '{}' from instance '{}'", a.device, a.instance);
            return Err(ApiError::new("OperationNotPermitted", message));
        }
        if a.state == Phase::Attaching {
            let message = format!("Volume '{id}' is attaching to '{}'.", a.instance);
            return Err(ApiError::new("IncorrectState", message));
        }
        params.finish()?;
        let id = id.to_owned();
        let ready = context.now + self.config.delays.detach;
        let Some(a) = self.volumes.get_mut(&id).and_then(|v| v.attachment.as_mut()) else {
            return Err(ApiError::internal("the volume is gone"));
        };
        let again = a.state != Phase::Attached;
        if !again {
            a.state = Phase::Detaching;
            a.ready = ready;
            a.done = state == State::Stopped;
        }
        let mut shown = a.clone();
        shown.state = Phase::Detaching;
        // Asking again changes something only if it is by force.
        if !a.done && (!again || force) {
            let instance = a.instance.clone();
            self.effects.push(Effect::Detach { instance, volume: id.clone(), force });
        }
        Ok(shown.show(&id))
    }

    pub(super) fn volume_attached(&mut self, id: &str) {
        if let Some(a) = self.volumes.get_mut(id).and_then(|v| v.attachment.as_mut())
            && a.state == Phase::Attaching
        {
            a.done = true;
        }
    }

    pub(super) fn attach_failed(&mut self, id: &str, why: &str) {
        if let Some(v) = self.volumes.get_mut(id) {
            v.attachment = None;
            v.broken = Some(why.to_owned());
        }
    }

    pub(super) fn volume_busy(&mut self, id: &str) {
        if let Some(a) = self.volumes.get_mut(id).and_then(|v| v.attachment.as_mut())
            && a.state == Phase::Detaching
        {
            a.state = Phase::Busy;
        }
    }

    pub(super) fn volume_detached(&mut self, id: &str) {
        if let Some(a) = self.volumes.get_mut(id).and_then(|v| v.attachment.as_mut())
            && matches!(a.state, Phase::Detaching | Phase::Busy)
        {
            a.done = true;
        }
    }

    pub(super) fn advance_attachments(&mut self, now: Millis) {
        for v in self.volumes.values_mut() {
            let Some(a) = v.attachment.as_mut().filter(|a| a.done && now >= a.ready) else { continue };
            match a.state {
                Phase::Attaching => a.state = Phase::Attached,
                Phase::Detaching | Phase::Busy => v.attachment = None,
                Phase::Attached => {}
            }
        }
    }
}
