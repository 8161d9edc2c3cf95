//! What an administrator asks for.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use rocks_common::ids::{ApplianceName, HostName, ImageName};
use serde::{Deserialize, Serialize};

use crate::cloud::BootMode;
use crate::ids::{AmiId, GroupId, SnapshotId, SubnetId};
use crate::objects::BucketName;

/// Instances that one provision may have.
pub const MOST_HOSTS: u32 = 1000;

/// A way from an appliance to running instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The paper's option 1: the image over UDT to a receiver's volume.
    Udt,
    /// The paper's option 2: the lite image, which is in the cloud once, and its reconfiguration.
    Lite,
    /// Blocks straight into a snapshot by the EBS direct API.
    Ebs,
    /// The paper's standard: the image in parts through S3, one after the other.
    Bundle,
}

impl Method {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udt => "udt",
            Self::Lite => "lite",
            Self::Ebs => "ebs",
            Self::Bundle => "bundle",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Udt, Self::Lite, Self::Ebs, Self::Bundle]
            .into_iter()
            .find(|method| method.name() == text)
            .ok_or_else(|| format!("`{text}` is no method: there are udt, lite, ebs and bundle"))
    }
}

/// What becomes of an image in S3.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It is one compressed disk, which becomes a snapshot.
    #[default]
    Import,
    /// It is a bundle as `ec2-bundle-image` makes it, and registered where it is, as the paper did. Only instance types of that time boot it.
    Register,
}

/// How an image goes through S3.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Store {
    /// Into which bucket.
    pub bucket: BucketName,
    /// What becomes of it there.
    pub end: End,
    /// The role by which it is read for an import; none: `vmimport`.
    pub role: Option<String>,
}

/// What an instance proves who it is by, when it joins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Join {
    /// A token in its user data: each instance has its own, so that each is launched by a call of its own.
    #[default]
    Token,
    /// Its signed identity document: the frontend knows from the cloud's answer which instance is which host. They are launched together.
    Identity,
}

impl FromStr for Join {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "token" => Ok(Self::Token),
            "identity" => Ok(Self::Identity),
            _ => Err(format!("`{text}` is nothing to join by: there are token and identity")),
        }
    }
}

/// The image that is sent, if one is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shipment {
    /// Its name on the frontend.
    pub image: ImageName,
    /// Whether the frontend builds it first, of this appliance.
    pub build: Option<ApplianceName>,
    /// GiB of its disk, and of the volume.
    pub gib: u32,
    /// How a machine of it starts.
    #[serde(default)]
    pub boot: Option<BootMode>,
    /// The image of the receiver: one with `rocks-agent` in it, or a distribution's that can fetch it.
    pub receiver: Option<AmiId>,
    /// The snapshot that it differs from, for the EBS direct API.
    pub parent: Option<SnapshotId>,
    /// The image on the frontend that is in that snapshot.
    pub base: Option<ImageName>,
    /// How it goes through S3, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<Store>,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The appliance that the instances shall be.
    pub appliance: ApplianceName,
    /// How.
    pub method: Method,
    /// The image that instances are made of, if it is registered already.
    pub ami: Option<AmiId>,
    /// The image that is sent, if none is there.
    pub shipment: Option<Shipment>,
    /// The region.
    pub region: String,
    /// The instances' hosts; none: only the image is made.
    pub hosts: Vec<HostName>,
    /// What they join by.
    #[serde(default)]
    pub join: Join,
    /// Whether a launch template is made in place of instances: somebody else launches them, and they enrol by what they are.
    #[serde(default)]
    pub template: bool,
    /// How many living hosts there may be of that template; none: any number.
    #[serde(default)]
    pub most: Option<u32>,
    /// `x86_64` or `arm64`, as EC2 says it.
    pub architecture: String,
    /// The instances' type.
    pub kind: String,
    /// The receiver's type.
    pub receiver_kind: String,
    /// Where they are; none: the default VPC.
    pub subnet: Option<SubnetId>,
    /// Security groups of the instances; none: the VPC's own.
    pub groups: Vec<GroupId>,
    /// The key pair of the instances.
    pub key: Option<String>,
    /// Whether they are spot instances.
    pub spot: bool,
    /// Whether volumes and snapshots are encrypted.
    pub encrypted: bool,
    /// With which key; none: the account's own for EBS.
    pub kms_key: Option<String>,
    /// The frontend's address, as the receiver sees it: its port is open to that and nobody else.
    pub frontend: Ipv4Addr,
    /// Whether the receiver is reached by its private address: the frontend is in the VPC, or has a way into it.
    pub inside: bool,
    /// The receiver's port.
    pub port: u16,
}

impl Order {
    /// The instance types that it launches: one zone has to have all of them.
    #[must_use]
    pub fn kinds(&self) -> Vec<&str> {
        let receives = self.shipment.is_some() && self.way() == Method::Udt;
        let receiver = receives.then_some(self.receiver_kind.as_str());
        let instances = (!self.hosts.is_empty()).then_some(self.kind.as_str());
        receiver.into_iter().chain(instances).collect()
    }

    /// What is wrong with it, if anything.
    ///
    /// # Errors
    /// Why it cannot be carried out.
    pub fn check(&self) -> Result<(), String> {
        if self.ami.is_some() == self.shipment.is_some() {
            return Err("instances are made either of an image that is registered or of one that is sent".to_owned());
        }
        if let Some(shipment) = &self.shipment {
            if self.way() == Method::Udt && shipment.receiver.is_none() {
                return Err(
                    "a receiver needs an image to start from: say receiver=ami-..., or method=ebs, which needs none"
                        .to_owned(),
                );
            }
            if (self.way() == Method::Bundle) != shipment.store.is_some() {
                return Err("an image goes through S3 by the method bundle, and by no other".to_owned());
            }
            if !(1..=16384).contains(&shipment.gib) {
                return Err(format!("{} GiB are no size of a volume", shipment.gib));
            }
            if shipment.parent.is_some() != shipment.base.is_some() {
                return Err("a parent snapshot goes with the image that is in it".to_owned());
            }
            if shipment.parent.is_some() && self.way() != Method::Ebs {
                return Err("only the EBS direct API takes a parent snapshot".to_owned());
            }
        }
        if self.hosts.len() > MOST_HOSTS as usize {
            return Err(format!("at most {MOST_HOSTS} instances at a time"));
        }
        let mut names = self.hosts.clone();
        names.sort();
        names.dedup();
        if names.len() != self.hosts.len() {
            return Err("two instances would be the same host".to_owned());
        }
        if self.template && !self.hosts.is_empty() {
            return Err("a launch template comes in place of instances".to_owned());
        }
        if self.hosts.is_empty() && self.shipment.is_none() && !self.template {
            return Err("there is nothing to do: no image is sent and no instance made".to_owned());
        }
        Ok(())
    }

    /// How an image goes through S3, if it does.
    #[must_use]
    pub fn store(&self) -> Option<&Store> {
        self.shipment.as_ref()?.store.as_ref()
    }

    /// How an image is sent, if one is: the lite image goes over UDT like any other.
    #[must_use]
    pub const fn way(&self) -> Method {
        match self.method {
            Method::Ebs => Method::Ebs,
            Method::Bundle => Method::Bundle,
            Method::Udt | Method::Lite => Method::Udt,
        }
    }
}
