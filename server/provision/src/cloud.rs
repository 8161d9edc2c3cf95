//! What is asked of a cloud.
//!
//! The words are EC2's. Each call names what it makes with [`Tags`], and those that cost money take a token, so that saying
//! the same again, after a lost answer or by the next frontend, gives what is there.

use std::future::Future;
use std::net::Ipv4Addr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{
    AccountId, AmiId, GroupId, ImportId, InstanceId, ProvisionId, SnapshotId, SubnetId, TemplateId, VolumeId,
};
use crate::objects::{BucketName, ObjectKey, Place};

/// The tag that names the frontend whose things these are.
pub const TAG_SITE: &str = "rocks:site";
/// The tag that names the provision.
pub const TAG_PROVISION: &str = "rocks:provision";
/// The tag that says what it is for in the provision: `receiver`, `volume`, `compute-0-3`.
pub const TAG_ROLE: &str = "rocks:role";

/// Who made something, and what for. All that we make has these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tags {
    /// The frontend.
    pub site: String,
    /// The provision.
    pub provision: ProvisionId,
    /// What it is for.
    pub role: String,
}

impl Tags {
    /// As EC2 has them, its `Name` included.
    #[must_use]
    pub fn pairs(&self) -> [(&'static str, String); 4] {
        [
            ("Name", format!("rocks {} {}", self.provision, self.role)),
            (TAG_SITE, self.site.clone()),
            (TAG_PROVISION, self.provision.to_string()),
            (TAG_ROLE, self.role.clone()),
        ]
    }
}

/// Why a call was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloudError {
    /// We may not do that.
    #[error("not allowed: the policy lacks {action} ({message})")]
    Denied {
        /// The IAM action that lacks.
        action: &'static str,
        /// What the cloud said.
        message: String,
    },
    /// There is no such thing, or not yet.
    #[error("{0}")]
    Missing(String),
    /// There is one of that name already.
    #[error("{0}")]
    Exists(String),
    /// It is not in the state for that, perhaps not yet.
    #[error("{0}")]
    State(String),
    /// Something still needs it.
    #[error("{0}")]
    InUse(String),
    /// Too many calls.
    #[error("too many calls: {0}")]
    Throttled(String),
    /// The token was for something that has ended since.
    #[error("{0}")]
    Spent(String),
    /// No room for such an instance there now.
    #[error("no capacity: {0}")]
    Capacity(String),
    /// The account's limit.
    #[error("the account's limit is reached: {0}")]
    Limit(String),
    /// The cloud failed, or its answer was lost: it may have been carried out.
    #[error("{0}")]
    Unclear(String),
    /// It will not be done whatever is tried.
    #[error("{code}: {message}")]
    Refused {
        /// EC2's code.
        code: String,
        /// What it says.
        message: String,
    },
}

impl CloudError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Denied { .. } => Some("docs/iam.json is the least policy that the frontend needs"),
            Self::Capacity(_) => Some("name another type or subnet: `type=`, `subnet=`"),
            // EC2's word for a type that a zone does not have.
            Self::Refused { code, .. } if code == "Unsupported" => {
                Some("name another type or subnet: `type=`, `receiver-type=`, `subnet=`; not every zone has every type")
            }
            Self::Limit(_) => Some("ask AWS for a higher limit, or for fewer or smaller instances"),
            _ => None,
        }
    }
}

/// What a call gives.
pub type Answer<T> = Result<T, CloudError>;

/// Where an instance is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstanceState {
    /// It is being started.
    Pending,
    /// It runs.
    Running,
    /// It is being stopped.
    Stopping,
    /// It is stopped.
    Stopped,
    /// It is being ended.
    ShuttingDown,
    /// It is gone.
    Terminated,
}

impl InstanceState {
    /// Whether it costs something, or will.
    #[must_use]
    pub const fn is_alive(self) -> bool {
        !matches!(self, Self::ShuttingDown | Self::Terminated)
    }
}

/// An instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// Where it is in its life.
    pub state: InstanceState,
    /// Why it is there, if the cloud says: `Server.SpotInstanceTermination: ...`.
    pub reason: Option<String>,
    /// Its address in the VPC.
    pub private: Option<Ipv4Addr>,
    /// Its address outside.
    pub public: Option<Ipv4Addr>,
    /// When it was launched.
    pub launched: Option<Timestamp>,
    /// What it is for, of its tags.
    pub role: String,
}

/// What is launched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The token.
    pub token: String,
    /// How many, all alike: so many or none.
    pub count: u32,
    /// Of what.
    pub image: AmiId,
    /// The instance type.
    pub kind: String,
    /// Where.
    pub subnet: SubnetId,
    /// Behind which security groups; none: the VPC's own.
    pub groups: Vec<GroupId>,
    /// What it is told.
    pub user_data: String,
    /// The key pair for administrators, if any.
    pub key: Option<String>,
    /// Whether it is a spot instance.
    pub spot: bool,
    /// The GiB of its root volume, if other than the image's.
    pub root_gib: Option<u32>,
    /// The name of the image's root device, if that is a volume: `/dev/xvda`.
    pub root_device: Option<String>,
    /// Whose it is.
    pub tags: Tags,
}

/// A launch template to be made: what instances are launched with that somebody else launches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTemplate {
    /// The token.
    pub token: String,
    /// Its name, which no other template of the account and region may have.
    pub name: String,
    /// Of what.
    pub image: AmiId,
    /// The instance type.
    pub kind: String,
    /// Where; none: whoever launches says it, as Auto Scaling groups do.
    pub subnet: Option<SubnetId>,
    /// Behind which security groups; none: the VPC's own.
    pub groups: Vec<GroupId>,
    /// What instances are told, all the same.
    pub user_data: String,
    /// The key pair for administrators, if any.
    pub key: Option<String>,
    /// Whether they are spot instances.
    pub spot: bool,
    /// The name of the image's root device.
    pub root_device: Option<String>,
    /// Whether their root volumes are encrypted.
    pub encrypted: bool,
    /// With which key; none: the account's own for EBS.
    pub kms_key: Option<String>,
    /// Whose it is. Its instances are whoever launches them: they do not have these.
    pub tags: Tags,
}

/// A launch template that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Its id.
    pub id: TemplateId,
    /// The account that it is in.
    pub account: AccountId,
}

/// A volume to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVolume {
    /// The token.
    pub token: String,
    /// GiB.
    pub gib: u32,
    /// The availability zone.
    pub zone: String,
    /// Whether it is encrypted; snapshots of it are, too.
    pub encrypted: bool,
    /// The key that it is encrypted with; none: the account's own for EBS.
    pub kms_key: Option<String>,
    /// Whose it is.
    pub tags: Tags,
}

/// Where a volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its id.
    pub id: VolumeId,
    /// `creating`, `available`, `in-use`, `deleting`, `error`.
    pub state: VolumeState,
    /// The instance that it is attached to, and whether it is wholly.
    pub attached: Option<(InstanceId, bool)>,
}

/// What a volume is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeState {
    /// It is being made.
    Creating,
    /// It is there, and nobody's.
    Available,
    /// It is attached, or about to be.
    InUse,
    /// It is going, or gone.
    Gone,
    /// It is broken.
    Broken,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its id.
    pub id: SnapshotId,
    /// Whether all of it is there.
    pub state: SnapshotState,
    /// Percent that are there.
    pub progress: u8,
}

/// Where a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotState {
    /// It is being made.
    Pending,
    /// It is whole.
    Completed,
    /// It will never be.
    Broken,
}

/// A snapshot that is to be written block by block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSnapshot {
    /// The token.
    pub token: String,
    /// GiB of the volume that it will make.
    pub gib: u32,
    /// The snapshot that it differs from.
    pub parent: Option<SnapshotId>,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// The key that it is encrypted with.
    pub kms_key: Option<String>,
    /// Whose it is.
    pub tags: Tags,
}

/// A snapshot that is to be made of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewImport {
    /// The token.
    pub token: String,
    /// In which bucket the object is.
    pub bucket: BucketName,
    /// A disk as a VMDK file.
    pub key: ObjectKey,
    /// The role by which it is read; none: `vmimport`.
    pub role: Option<String>,
    /// Whether the snapshot is encrypted.
    pub encrypted: bool,
    /// The key that it is encrypted with.
    pub kms_key: Option<String>,
    /// Whose the task is. Its snapshot has no tags until it is given some.
    pub tags: Tags,
}

/// How far an import is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Import {
    /// It is under way.
    Active,
    /// The snapshot is there.
    Completed(SnapshotId),
    /// It will never be, and why.
    Failed(String),
}

/// How a machine of an image starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootMode {
    /// From its master boot record.
    LegacyBios,
    /// From its EFI system partition.
    Uefi,
    /// As the instance type prefers.
    UefiPreferred,
}

/// What an image is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A snapshot of its root volume.
    Snapshot(SnapshotId),
    /// A bundle: the object that is its manifest.
    Bundle(BucketName, ObjectKey),
}

/// An image to be registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Its name, which no other image of the account may have.
    pub name: String,
    /// What is in it, for people.
    pub description: String,
    /// Of what.
    pub of: Source,
    /// `x86_64` or `arm64`.
    pub architecture: String,
    /// How it starts.
    pub boot: BootMode,
    /// The name of its root device.
    pub root_device: String,
    /// Whose it is.
    pub tags: Tags,
}

/// A registered image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ami {
    /// Its id.
    pub id: AmiId,
    /// Whether instances can be made of it: nothing when that is not decided yet.
    pub available: Option<bool>,
    /// The snapshot of its root.
    pub snapshot: Option<SnapshotId>,
    /// The name of its root device, if that is a volume.
    pub root_device: Option<String>,
    /// `x86_64` or `arm64`.
    pub architecture: String,
}

/// A subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    /// Its id.
    pub id: SubnetId,
    /// Its VPC's id.
    pub vpc: String,
    /// Its availability zone.
    pub zone: String,
    /// Whether instances in it get a public address.
    pub gives_public: bool,
}

/// One port that is opened for one range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// `udp` or `tcp`.
    pub protocol: String,
    /// The port.
    pub port: u16,
    /// Who may: `198.51.100.7/32`.
    pub from: String,
}

/// Anything of ours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", content = "id", rename_all = "snake_case")]
pub enum Resource {
    /// A launch template: the first to go, so that nobody launches of what goes next.
    Template(TemplateId),
    /// An instance that is not terminated.
    Instance(InstanceId),
    /// A registered image.
    Ami(AmiId),
    /// A volume.
    Volume(VolumeId),
    /// A snapshot.
    Snapshot(SnapshotId),
    /// A security group.
    Group(GroupId),
    /// An import that is under way.
    Import(ImportId),
    /// An upload in parts that is not complete.
    Upload(Place),
    /// An object.
    Object(Place),
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Template(id) => id.fmt(f),
            Self::Instance(id) => id.fmt(f),
            Self::Ami(id) => id.fmt(f),
            Self::Volume(id) => id.fmt(f),
            Self::Snapshot(id) => id.fmt(f),
            Self::Group(id) => id.fmt(f),
            Self::Import(id) => id.fmt(f),
            Self::Upload(place) | Self::Object(place) => place.fmt(f),
        }
    }
}

/// Something of ours, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owned {
    /// What.
    #[serde(flatten)]
    pub resource: Resource,
    /// The provision that its tags name; nothing if they name none.
    pub provision: Option<ProvisionId>,
    /// What it is for.
    pub role: String,
}

/// Where to look for what is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose<'w> {
    /// All of the site's.
    Site(&'w str),
    /// A provision's of the site.
    Provision(&'w str, &'w ProvisionId),
}

/// A cloud. Calls do not wait: what takes time is asked for again.
pub trait Cloud: Send + Sync {
    /// A subnet; none named: one of the default VPC, the first by zone of those that have all these instance types.
    fn subnet(&self, id: Option<&SubnetId>, kinds: &[&str]) -> impl Future<Output = Answer<Subnet>> + Send;

    /// A security group of that name in `vpc`, made if there is none.
    fn ensure_group(&self, name: &str, vpc: &str, tags: &Tags) -> impl Future<Output = Answer<GroupId>> + Send;
    /// Lets a rule hold; it may hold already.
    fn allow(&self, group: &GroupId, rule: &Rule) -> impl Future<Output = Answer<()>> + Send;
    /// Lets a rule hold no longer; it may not have held.
    fn disallow(&self, group: &GroupId, rule: &Rule) -> impl Future<Output = Answer<()>> + Send;
    /// Removes a group; it may be gone already.
    fn delete_group(&self, group: &GroupId) -> impl Future<Output = Answer<()>> + Send;

    /// Launches instances, all that are asked for or none; the same token gives the same ones.
    fn launch(&self, launch: &Launch) -> impl Future<Output = Answer<Vec<InstanceId>>> + Send;
    /// Instances, whatever their state; those that are long gone may be missing.
    fn instances(&self, ids: &[InstanceId]) -> impl Future<Output = Answer<Vec<Instance>>> + Send;
    /// Ends instances; some may be gone already.
    fn terminate(&self, ids: &[InstanceId]) -> impl Future<Output = Answer<()>> + Send;

    /// Makes a launch template.
    fn create_template(&self, new: &NewTemplate) -> impl Future<Output = Answer<Template>> + Send;
    /// Removes a launch template; it may be gone already.
    fn delete_template(&self, id: &TemplateId) -> impl Future<Output = Answer<()>> + Send;

    /// Makes a volume.
    fn create_volume(&self, volume: &NewVolume) -> impl Future<Output = Answer<VolumeId>> + Send;
    /// A volume; nothing when it is gone.
    fn volume(&self, id: &VolumeId) -> impl Future<Output = Answer<Option<Volume>>> + Send;
    /// Attaches a volume; it may be attached there already.
    fn attach(&self, volume: &VolumeId, to: &InstanceId, device: &str) -> impl Future<Output = Answer<()>> + Send;
    /// Detaches a volume; it may be detached already.
    fn detach(&self, volume: &VolumeId) -> impl Future<Output = Answer<()>> + Send;
    /// Removes a volume; it may be gone already.
    fn delete_volume(&self, volume: &VolumeId) -> impl Future<Output = Answer<()>> + Send;

    /// Takes a snapshot of a volume. There is no token for this: look for one with these tags first.
    fn create_snapshot(&self, volume: &VolumeId, tags: &Tags) -> impl Future<Output = Answer<SnapshotId>> + Send;
    /// A snapshot; nothing when it is gone.
    fn snapshot(&self, id: &SnapshotId) -> impl Future<Output = Answer<Option<Snapshot>>> + Send;
    /// Removes a snapshot; it may be gone already.
    fn delete_snapshot(&self, id: &SnapshotId) -> impl Future<Output = Answer<()>> + Send;

    /// Begins a snapshot that is written block by block.
    fn start_snapshot(&self, new: &NewSnapshot) -> impl Future<Output = Answer<SnapshotId>> + Send;
    /// Writes one block of 512 KiB.
    fn put_block(&self, id: &SnapshotId, index: u32, block: Vec<u8>) -> impl Future<Output = Answer<()>> + Send;
    /// Says that `blocks` blocks were written, and that was all; it may have been said already.
    fn complete_snapshot(&self, id: &SnapshotId, blocks: u32) -> impl Future<Output = Answer<()>> + Send;

    /// Begins to make a snapshot of an object.
    fn import_snapshot(&self, new: &NewImport) -> impl Future<Output = Answer<ImportId>> + Send;
    /// An import; nothing when it is not known, or no more.
    fn import(&self, id: &ImportId) -> impl Future<Output = Answer<Option<Import>>> + Send;
    /// Gives an import up; it may have ended already.
    fn cancel_import(&self, id: &ImportId) -> impl Future<Output = Answer<()>> + Send;
    /// Gives a snapshot tags, which one that was imported has not.
    fn tag_snapshot(&self, id: &SnapshotId, tags: &Tags) -> impl Future<Output = Answer<()>> + Send;
    /// Imports that are tagged as ours and under way, and snapshots that others of them have made and that live, tagged or not.
    fn imports(&self, whose: Whose<'_>) -> impl Future<Output = Answer<Vec<Owned>>> + Send;

    /// Registers an image; one of that name that is of the same is the same.
    fn register(&self, image: &Registration) -> impl Future<Output = Answer<AmiId>> + Send;
    /// An image; nothing when it is gone.
    fn ami(&self, id: &AmiId) -> impl Future<Output = Answer<Option<Ami>>> + Send;
    /// Takes an image off the register; it may be gone already.
    fn deregister(&self, id: &AmiId) -> impl Future<Output = Answer<()>> + Send;

    /// All that is tagged as ours and lives, but for imports and what is in S3.
    fn owned(&self, whose: Whose<'_>) -> impl Future<Output = Answer<Vec<Owned>>> + Send;
}
