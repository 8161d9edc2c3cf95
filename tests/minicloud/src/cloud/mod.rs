//! The cloud itself: what there is, what may become of it, and what is refused.
//!
//! Pure: a call or an event changes the state and leaves [`Effect`]s to be carried out by somebody else, who reports back with [`Event`]s.
//! There is no clock, no file and no socket here; time comes with every call.

mod access;
mod attach;
mod bill;
mod blocks;
mod effects;
mod images;
mod imports;
mod instance_view;
mod instances;
mod launch;
mod network;
mod places;
mod rules;
mod select;
mod snapshots;
mod tags;
mod templates;
#[cfg(test)]
mod tests;
mod time;
mod types;
mod volumes;

use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) use bill::Ledger;
pub(crate) use blocks::{Change, Start};
pub(crate) use effects::{Boot, Effect, Event, Rule};
use images::Image;
pub(crate) use instances::{Instance, State};
use network::Group;
use select::Ids;
pub(crate) use snapshots::BLOCK;
use snapshots::Snapshot;
pub(crate) use tags::Tags;
pub(crate) use time::{Millis, iso};
use volumes::Volume;

use crate::config::Config;
use crate::error::{Answer, ApiError};
use crate::query::params::Params;
use crate::query::xml::Value;

/// What comes with a call besides its parameters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    /// Now.
    pub(crate) now: Millis,
    /// Who calls, as an ARN.
    pub(crate) caller: &'a str,
    /// What an instance's console shows, for the call that asks for it.
    pub(crate) console: Option<&'a [u8]>,
}

/// Everything there is.
#[derive(Debug)]
pub(crate) struct Cloud {
    pub(crate) config: Arc<Config>,
    ids: Ids,
    pub(crate) instances: BTreeMap<String, Instance>,
    pub(crate) volumes: BTreeMap<String, Volume>,
    pub(crate) snapshots: BTreeMap<String, Snapshot>,
    pub(crate) images: BTreeMap<String, Image>,
    pub(crate) groups: BTreeMap<String, Group>,
    templates: BTreeMap<String, templates::Template>,
    imports: BTreeMap<String, imports::Import>,
    /// What client tokens stand for.
    tokens: BTreeMap<(String, String), Token>,
    /// Capacity that was changed after the start.
    pub(crate) capacity: BTreeMap<String, u32>,
    pub(crate) bill: Ledger,
    effects: Vec<Effect>,
    /// Instances started so far: each has an address of its own, never used twice.
    started: u32,
}

/// What a client token has been used for.
#[derive(Debug, Clone)]
struct Token {
    fingerprint: String,
    made: Vec<String>,
    until: Millis,
}

/// An action's code.
type Handler = fn(&mut Cloud, &Params, &Context<'_>) -> Answer<Value>;

/// How long a client token is remembered.
const TOKEN_LIFE: Millis = 24 * 3_600_000;

impl Cloud {
    pub(crate) fn new(config: Arc<Config>) -> Self {
        let mut cloud = Self {
            ids: Ids::new(config.seed),
            capacity: config.capacity.clone(),
            config,
            instances: BTreeMap::new(),
            volumes: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            images: BTreeMap::new(),
            groups: BTreeMap::new(),
            templates: BTreeMap::new(),
            imports: BTreeMap::new(),
            tokens: BTreeMap::new(),
            bill: Ledger::default(),
            effects: Vec::new(),
            started: 0,
        };
        cloud.add_default_group();
        cloud
    }

    /// The code of an action, if there is such an action.
    fn handler(action: &str) -> Option<Handler> {
        Some(match action {
            "RunInstances" => Self::run_instances,
            "DescribeInstances" => Self::describe_instances,
            "DescribeInstanceStatus" => Self::describe_instance_status,
            "DescribeInstanceAttribute" => Self::describe_instance_attribute,
            "StopInstances" => Self::stop_instances,
            "StartInstances" => Self::start_instances,
            "RebootInstances" => Self::reboot_instances,
            "TerminateInstances" => Self::terminate_instances,
            "GetConsoleOutput" => Self::get_console_output,
            "DescribeInstanceTypes" => Self::describe_instance_types,
            "DescribeInstanceTypeOfferings" => Self::describe_instance_type_offerings,
            "DescribeAvailabilityZones" => Self::describe_availability_zones,
            "DescribeRegions" => Self::describe_regions,
            "DescribeSubnets" => Self::describe_subnets,
            "DescribeVpcs" => Self::describe_vpcs,
            "CreateVolume" => Self::create_volume,
            "DescribeVolumes" => Self::describe_volumes,
            "AttachVolume" => Self::attach_volume,
            "DetachVolume" => Self::detach_volume,
            "DeleteVolume" => Self::delete_volume,
            "CreateSnapshot" => Self::create_snapshot,
            "DescribeSnapshots" => Self::describe_snapshots,
            "DeleteSnapshot" => Self::delete_snapshot,
            "RegisterImage" => Self::register_image,
            "DescribeImages" => Self::describe_images,
            "DeregisterImage" => Self::deregister_image,
            "CreateSecurityGroup" => Self::create_security_group,
            "DescribeSecurityGroups" => Self::describe_security_groups,
            "DeleteSecurityGroup" => Self::delete_security_group,
            "AuthorizeSecurityGroupIngress" => Self::authorize_ingress,
            "RevokeSecurityGroupIngress" => Self::revoke_ingress,
            "CreateTags" => Self::create_tags,
            "DescribeTags" => Self::describe_tags,
            "DeleteTags" => Self::delete_tags,
            "CreateLaunchTemplate" => Self::create_launch_template,
            "DeleteLaunchTemplate" => Self::delete_launch_template,
            "DescribeLaunchTemplates" => Self::describe_launch_templates,
            "DescribeLaunchTemplateVersions" => Self::describe_launch_template_versions,
            "ImportSnapshot" => Self::import_snapshot,
            "CancelImportTask" => Self::cancel_import_task,
            "DescribeImportSnapshotTasks" => Self::describe_import_snapshot_tasks,
            _ => return None,
        })
    }

    /// Answers a call of EC2's.
    pub(crate) fn call(&mut self, action: &str, params: &Params, context: &Context<'_>) -> Answer<Value> {
        self.advance(context.now);
        let Some(handler) = Self::handler(action) else {
            let message = format!("The action {action} is not valid for this web service.");
            return Err(ApiError::new("InvalidAction", message));
        };
        handler(self, params, context)
    }

    /// Lets time pass: what was only waiting for it moves on.
    pub(crate) fn advance(&mut self, now: Millis) {
        self.advance_snapshots(now);
        self.advance_images(now);
        self.advance_volumes(now);
        self.advance_instances(now);
        self.advance_imports(now);
        self.tokens.retain(|_, token| token.until > now);
    }

    /// Takes in what has come of an effect.
    pub(crate) fn report(&mut self, event: Event, now: Millis) {
        match event {
            Event::VolumeMade { volume } => self.volume_made(&volume),
            Event::VolumeFailed { volume, why } => self.volume_failed(&volume, &why, now),
            Event::Copied { snapshot, blocks, bytes } => self.snapshot_copied(&snapshot, blocks, bytes, now),
            Event::CopyFailed { snapshot, why } => self.snapshot_failed(&snapshot, &why),
            Event::Booted { instance } => self.instance_booted(&instance),
            Event::BootFailed { instance, why } => self.instance_failed(&instance, &why, now),
            Event::Halted { instance } => self.instance_halted(&instance, now),
            Event::Removed { instance } => self.instance_removed(&instance),
            Event::Attached { volume } => self.volume_attached(&volume),
            Event::AttachFailed { volume, why } => self.attach_failed(&volume, &why),
            Event::Busy { volume } => self.volume_busy(&volume),
            Event::Detached { volume } => self.volume_detached(&volume),
            Event::Imported { task, blocks, bytes } => self.import_done(&task, blocks, bytes, now),
            Event::ImportFailed { task, why } => self.import_failed(&task, &why, now),
            Event::Unbundled { image, result } => self.unbundled(&image, result, now),
        }
        self.advance(now);
    }

    /// The effects that have come up since they were last taken.
    pub(crate) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// What an idempotent action made when it was called before with this token, if it was.
    fn replay(&self, action: &str, params: &Params) -> Answer<Option<Vec<String>>> {
        let Some(token) = params.text("ClientToken").filter(|t| !t.is_empty()) else { return Ok(None) };
        if token.len() > 64 {
            return Err(ApiError::invalid(token, "ClientToken", "A client token has at most 64 characters."));
        }
        match self.tokens.get(&(action.to_owned(), token.to_owned())) {
            None => Ok(None),
            Some(known) if known.fingerprint == params.fingerprint() => Ok(Some(known.made.clone())),
            Some(_) => Err(ApiError::new(
                "IdempotentParameterMismatch",
                "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
            )),
        }
    }

    fn remember(&mut self, action: &str, params: &Params, made: Vec<String>, now: Millis) {
        if let Some(token) = params.text("ClientToken").filter(|t| !t.is_empty()) {
            let known = Token { fingerprint: params.fingerprint(), made, until: now + TOKEN_LIFE };
            self.tokens.insert((action.to_owned(), token.to_owned()), known);
        }
    }

    /// The same for calls that are not of EC2's: the id that a token stands for.
    pub(crate) fn replay_other(&self, action: &str, token: &str, fingerprint: &str) -> Answer<Option<String>> {
        match self.tokens.get(&(action.to_owned(), token.to_owned())) {
            None => Ok(None),
            Some(known) if known.fingerprint == fingerprint => Ok(known.made.first().cloned()),
            Some(_) => Err(ApiError::new(
                "ConflictException",
                "The request uses the same client token as a previous, but non-identical request.",
            )),
        }
    }

    pub(crate) fn remember_other(&mut self, action: &str, token: &str, fingerprint: &str, made: &str, now: Millis) {
        let known = Token { fingerprint: fingerprint.to_owned(), made: vec![made.to_owned()], until: now + TOKEN_LIFE };
        self.tokens.insert((action.to_owned(), token.to_owned()), known);
    }

    fn arn(&self, kind: &str, id: &str) -> String {
        // They can be other accounts'.
        let account = if matches!(kind, "image" | "snapshot") { "" } else { &self.config.account };
        format!("arn:aws:ec2:{}:{account}:{kind}/{id}", self.config.region)
    }

    /// Checks that a KMS key exists, if one is named.
    pub(crate) fn check_key(&self, key: Option<&str>) -> Answer<()> {
        match key {
            Some(key) if !self.config.kms_keys.iter().any(|k| k == key || k.ends_with(&format!("/{key}"))) => {
                Err(ApiError::new("InvalidParameterValue", format!("The KMS key '{key}' does not exist")))
            }
            _ => Ok(()),
        }
    }
}

/// The answer of actions that have nothing else to say.
fn done() -> Value {
    Value::of([("return", true.into())])
}
