//! How far a provision is. This is what is kept.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use jiff::Timestamp;
use rocks_common::ids::HostName;
use serde::{Deserialize, Serialize};

use crate::cloud::{InstanceState, Resource, Tags};
use crate::ids::{AmiId, GroupId, ImportId, InstanceId, ProvisionId, SnapshotId, TemplateId, VolumeId};
use crate::objects::{self, UploadId};
use crate::order::{End, Order};
use crate::plan::{Planned, Step, plan};

/// Where a provision is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Status {
    /// It is being carried out.
    Running,
    /// What it made is being removed.
    Ending {
        /// Why: a failure, or nothing when it was cancelled.
        why: Option<Failure>,
    },
    /// It is done.
    Done,
    /// It was cancelled, and nothing of it is left.
    Cancelled,
    /// It failed, and nothing of it is left.
    Failed {
        /// Why.
        why: Failure,
    },
}

impl Status {
    /// Whether something is still to be done.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self, Self::Running | Self::Ending { .. })
    }
}

/// Why a provision failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// In which step.
    pub step: Option<Step>,
    /// What failed.
    pub what: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// Where a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// It waits for others.
    Waiting,
    /// It is under way, or was when the frontend ended.
    Running,
    /// It is done.
    Done,
}

/// A step and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// The step and what it waits for.
    #[serde(flatten)]
    pub planned: Planned,
    /// Where it is.
    pub state: StepState,
    /// When it began.
    pub began: Option<Timestamp>,
    /// When it was done.
    pub ended: Option<Timestamp>,
}

/// An instance that was launched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launched {
    /// Its id.
    pub id: InstanceId,
    /// As it was seen last.
    pub state: InstanceState,
    /// Its address: outside, or in the VPC if it has no other.
    pub address: Option<Ipv4Addr>,
    /// Whether its agent has reported that it is what it should be.
    pub converged: Option<Timestamp>,
}

impl Launched {
    /// One that was launched this moment.
    #[must_use]
    pub const fn new(id: InstanceId) -> Self {
        Self { id, state: InstanceState::Pending, address: None, converged: None }
    }
}

/// What there is of a provision in the cloud, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The security group.
    pub group: Option<GroupId>,
    /// The volume.
    pub volume: Option<VolumeId>,
    /// The receiver.
    pub receiver: Option<InstanceId>,
    /// Where the receiver listens.
    pub receiver_at: Option<Ipv4Addr>,
    /// The snapshot.
    pub snapshot: Option<SnapshotId>,
    /// How many of the image's blocks are in the snapshot, from the first.
    pub blocks: u32,
    /// The upload in parts, while it is not complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<UploadId>,
    /// The import.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import: Option<ImportId>,
    /// The image.
    pub ami: Option<AmiId>,
    /// The launch template.
    pub template: Option<TemplateId>,
    /// The instances.
    #[serde(default)]
    pub instances: BTreeMap<HostName, Launched>,
    /// How often an instance was launched for a host whose earlier one ended too soon.
    #[serde(default)]
    pub launches: BTreeMap<HostName, u32>,
    /// Bytes that travelled.
    pub sent_bytes: Option<u64>,
    /// The digest of the image that is on the volume.
    pub digest: Option<String>,
}

/// A provision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub id: ProvisionId,
    /// The frontend's name in tags.
    pub site: String,
    /// What was asked for.
    pub order: Order,
    /// Where it is.
    #[serde(flatten)]
    pub status: Status,
    /// Its steps.
    pub steps: Vec<StepRecord>,
    /// What there is of it.
    pub found: Found,
    /// What went wrong without ending it: hosts that did not converge, a thing that could not be removed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// When it began.
    pub began: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
}

impl Record {
    /// A provision that has not begun.
    #[must_use]
    pub fn new(id: ProvisionId, site: String, order: Order, now: Timestamp) -> Self {
        let waiting = |planned| StepRecord { planned, state: StepState::Waiting, began: None, ended: None };
        let steps = plan(&order).into_iter().map(waiting).collect();
        let found = Found { ami: order.ami.clone(), ..Found::default() };
        Self { id, site, order, status: Status::Running, steps, found, trouble: None, began: now, ended: None }
    }

    /// The tags of what it makes.
    #[must_use]
    pub fn tags(&self, role: impl Into<String>) -> Tags {
        Tags { site: self.site.clone(), provision: self.id.clone(), role: role.into() }
    }

    /// Names one thing of this provision, and of no other that had its name before it: EC2 remembers what a token was used for when
    /// the provision is long forgotten. As a token for a call, the call is carried out once, whoever repeats it.
    #[must_use]
    pub fn token(&self, what: &str) -> String {
        format!("{}/{what}", self.unique())
    }

    /// The name, with what tells it from that of an earlier provision: a name for files, too.
    #[must_use]
    pub fn unique(&self) -> String {
        format!("{}.{:x}", self.id, self.began.as_millisecond())
    }

    /// Whether a step is done; one that is not part of it is.
    #[must_use]
    pub fn is_done(&self, step: Step) -> bool {
        self.steps.iter().all(|one| one.planned.step != step || one.state == StepState::Done)
    }

    /// Steps that can be worked on now.
    #[must_use]
    pub fn ready(&self) -> Vec<Step> {
        let open = self.steps.iter().filter(|one| one.state != StepState::Done);
        open.filter(|one| one.planned.after.iter().all(|before| self.is_done(*before)))
            .map(|one| one.planned.step)
            .collect()
    }

    /// Notes that a step is somewhere else now.
    pub fn set(&mut self, step: Step, state: StepState, now: Timestamp) {
        for one in self.steps.iter_mut().filter(|one| one.planned.step == step) {
            one.state = state;
            match state {
                StepState::Waiting => {}
                StepState::Running => one.began = one.began.or(Some(now)),
                StepState::Done => one.ended = Some(now),
            }
        }
    }

    /// What the keys of its objects begin with.
    #[must_use]
    pub fn folder(&self) -> String {
        objects::folder(&self.site, Some(&self.id))
    }

    /// What may stay when it has ended: the image, with the bundle that it is if it is one, the launch template and the instances.
    #[must_use]
    pub fn keeps(&self, resource: &Resource) -> bool {
        match resource {
            _ if self.status.is_open() => true,
            _ if self.status != Status::Done => false,
            Resource::Template(id) => self.found.template.as_ref() == Some(id),
            Resource::Ami(id) => self.found.ami.as_ref() == Some(id),
            Resource::Snapshot(id) => self.found.snapshot.as_ref() == Some(id),
            Resource::Instance(id) => self.found.instances.values().any(|one| one.id == *id),
            Resource::Object(place) => {
                let stays = |store: &crate::order::Store| store.end == End::Register && store.bucket == place.bucket;
                self.order.store().is_some_and(stays) && place.key.as_str().starts_with(&self.folder())
            }
            Resource::Volume(_) | Resource::Group(_) | Resource::Import(_) | Resource::Upload(_) => false,
        }
    }
}
