//! What a cloud is like: its keys, zones, delays, limits and traps. Written as TOML, every part with a default.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

/// A whole cloud.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The region's name.
    pub region: String,
    /// The letters of its availability zones.
    pub zones: Vec<char>,
    /// The account that owns everything.
    pub account: String,
    /// Who may call. Nobody else is answered.
    pub keys: Vec<Key>,
    /// The VPC's addresses. Every zone has one subnet of it. A /16.
    pub vpc: String,
    /// Public addresses, one /24.
    pub public: String,
    /// Names of key pairs that exist.
    pub key_pairs: Vec<String>,
    /// Ids, ARNs or aliases of KMS keys that exist.
    pub kms_keys: Vec<String>,
    /// How long things take.
    pub delays: Delays,
    /// How often one may call.
    pub throttle: Throttle,
    /// How much one may have.
    pub quotas: Quotas,
    /// How many instances of a type a zone has room for, as `us-east-1a/m5.large = 3`. What is not named has no end.
    pub capacity: BTreeMap<String, u32>,
    /// Types that a zone does not have, as `us-east-1a/m5.large`. What is not named is offered everywhere.
    pub not_offered: Vec<String>,
    /// How much of a processor instances of a type have, as `t3.nano = 0.1`. What is not named has as much as there is, and takes it from the others:
    /// here all instances share one machine.
    pub processors: BTreeMap<String, f64>,
    /// Whether blocks of an encrypted snapshot that were never written read as noise, as they may on AWS, and not as zeros.
    pub noise_in_encrypted_gaps: bool,
    /// Whether instances share their image's bytes and keep only what they change. Quick for many instances; their root
    /// volumes cannot be snapshotted then.
    pub copy_on_write: bool,
    /// EC2's private key (PEM), by which it opens bundles: images in S3 are taken then, as EC2 did in 2013. Without, they are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle_key: Option<std::path::PathBuf>,
    /// What ids are made from. The same seed and the same calls give the same ids.
    pub seed: u64,
}

/// An access key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// The access key id.
    pub id: String,
    /// The secret access key.
    pub secret: String,
    /// The IAM user that it belongs to.
    pub user: String,
    /// An IAM policy document. Without one, everything is allowed.
    #[serde(default)]
    pub policy: Option<serde_json::Value>,
}

/// Milliseconds that things take at least; what really takes longer takes as long as it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Delays {
    /// How long a new resource is not found by those who ask for it.
    pub visibility: u64,
    /// From `pending` to `running`.
    pub pending: u64,
    /// From `running` to status checks that say `ok`.
    pub status: u64,
    /// From `stopping` to `stopped`.
    pub stopping: u64,
    /// From `shutting-down` to `terminated`.
    pub shutting_down: u64,
    /// How long a terminated instance is still described.
    pub terminated: u64,
    /// From `creating` to `available`, of a volume.
    pub volume: u64,
    /// From `attaching` to `attached`.
    pub attach: u64,
    /// From `detaching` to detached.
    pub detach: u64,
    /// From `pending` to `completed`, of a snapshot without data...
    pub snapshot: u64,
    /// ... and so much more for each GiB of data.
    pub snapshot_gib: u64,
    /// From `pending` to `available`, of an image.
    pub image: u64,
}

impl Default for Delays {
    /// Long enough for every state to be seen by somebody who polls, and no longer.
    fn default() -> Self {
        Self {
            visibility: 0,
            pending: 100,
            status: 200,
            stopping: 100,
            shutting_down: 100,
            terminated: 3_600_000,
            volume: 50,
            attach: 50,
            detach: 50,
            snapshot: 150,
            snapshot_gib: 500,
            image: 0,
        }
    }
}

impl Delays {
    /// None at all: every state is left as soon as what it waits for is done.
    #[must_use]
    pub fn none() -> Self {
        Self {
            visibility: 0,
            pending: 0,
            status: 0,
            stopping: 0,
            shutting_down: 0,
            terminated: 3_600_000,
            volume: 0,
            attach: 0,
            detach: 0,
            snapshot: 0,
            snapshot_gib: 0,
            image: 0,
        }
    }

    /// About what one sees in a region of AWS.
    #[must_use]
    pub fn aws() -> Self {
        Self {
            visibility: 800,
            pending: 8_000,
            status: 120_000,
            stopping: 15_000,
            shutting_down: 20_000,
            terminated: 3_600_000,
            volume: 2_000,
            attach: 3_000,
            detach: 4_000,
            snapshot: 15_000,
            snapshot_gib: 12_000,
            image: 1_000,
        }
    }
}

/// Token buckets, one for each action and key.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Throttle {
    /// For actions that only read.
    pub read: Option<Bucket>,
    /// For actions that change something.
    pub write: Option<Bucket>,
    /// For single actions.
    pub actions: BTreeMap<String, Bucket>,
}

/// So many calls at once, and so many a second in the long run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bucket {
    /// Calls at once.
    pub burst: f64,
    /// Calls a second.
    pub rate: f64,
}

impl Throttle {
    /// What AWS documents for an account.
    #[must_use]
    pub fn aws() -> Self {
        let bucket = |burst, rate| Bucket { burst, rate };
        let single = [
            ("RunInstances", bucket(5.0, 2.0)),
            ("StartInstances", bucket(5.0, 2.0)),
            ("TerminateInstances", bucket(100.0, 5.0)),
            ("CreateVolume", bucket(100.0, 5.0)),
            ("AttachVolume", bucket(100.0, 5.0)),
            ("DetachVolume", bucket(100.0, 5.0)),
            ("CreateSnapshot", bucket(100.0, 5.0)),
            ("RegisterImage", bucket(100.0, 5.0)),
            ("CreateTags", bucket(100.0, 10.0)),
            // Blocks and objects have quotas of their own, far above those of calls that make something.
            ("StartSnapshot", bucket(10.0, 10.0)),
            ("CompleteSnapshot", bucket(10.0, 10.0)),
            ("PutSnapshotBlock", bucket(1000.0, 1000.0)),
            ("GetSnapshotBlock", bucket(1000.0, 1000.0)),
            ("ListSnapshotBlocks", bucket(50.0, 50.0)),
            ("ListChangedBlocks", bucket(50.0, 50.0)),
            ("PutObject", bucket(3500.0, 3500.0)),
            ("UploadPart", bucket(3500.0, 3500.0)),
            ("GetObject", bucket(5500.0, 5500.0)),
            ("HeadObject", bucket(5500.0, 5500.0)),
        ];
        Self {
            read: Some(bucket(100.0, 20.0)),
            write: Some(bucket(50.0, 5.0)),
            actions: single.map(|(name, bucket)| (name.to_owned(), bucket)).into(),
        }
    }
}

/// Limits of an account in a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quotas {
    /// vCPUs of running on-demand instances.
    pub vcpus: u32,
    /// vCPUs of running spot instances.
    pub spot_vcpus: u32,
    /// GiB of all volumes.
    pub volume_gib: u64,
    /// Snapshots.
    pub snapshots: usize,
    /// Snapshots that are pending, of one volume.
    pub pending_snapshots: usize,
    /// Security groups of the VPC.
    pub groups: usize,
    /// Rules of a security group.
    pub rules: usize,
    /// Registered images.
    pub images: usize,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            vcpus: 256,
            spot_vcpus: 256,
            volume_gib: 50 * 1024,
            snapshots: 100_000,
            pending_snapshots: 5,
            groups: 2_500,
            rules: 60,
            images: 50_000,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            region: "us-east-1".to_owned(),
            zones: vec!['a', 'b', 'c'],
            account: "123456789012".to_owned(),
            keys: vec![Key::example()],
            vpc: "10.88.0.0/16".to_owned(),
            public: "203.0.113.0/24".to_owned(),
            key_pairs: Vec::new(),
            kms_keys: vec!["alias/aws/ebs".to_owned()],
            delays: Delays::default(),
            throttle: Throttle::default(),
            quotas: Quotas::default(),
            capacity: BTreeMap::new(),
            not_offered: Vec::new(),
            processors: BTreeMap::new(),
            noise_in_encrypted_gaps: false,
            copy_on_write: false,
            bundle_key: None,
            seed: 1,
        }
    }
}

impl Key {
    /// The key that a cloud has when its configuration names none. It opens nothing but a cloud of this kind.
    #[must_use]
    pub fn example() -> Self {
        Self {
            id: "AKIAMINICLOUDEXAMPLE".to_owned(),
            secret: "minicloud/example/secret/key".to_owned(),
            user: "admin".to_owned(),
            policy: None,
        }
    }
}

impl Config {
    /// A cloud that is as slow and as strict as AWS.
    #[must_use]
    pub fn aws() -> Self {
        Self { delays: Delays::aws(), throttle: Throttle::aws(), noise_in_encrypted_gaps: true, ..Self::default() }
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// It is not TOML, or not a cloud.
    pub fn parse(text: &str) -> Result<Self> {
        let config: Self = toml::from_str(text).context("the configuration cannot be read")?;
        config.check()?;
        Ok(config)
    }

    /// Says what is wrong.
    ///
    /// # Errors
    /// Something is.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.zones.is_empty() && self.zones.len() <= 6, "a region has one to six zones");
        ensure!(
            self.account.len() == 12 && self.account.bytes().all(|b| b.is_ascii_digit()),
            "an account has 12 digits"
        );
        self.vpc_front().context("the VPC is to be a /16 as in 10.88.0.0/16")?;
        self.public_front().context("the public addresses are to be a /24 as in 203.0.113.0/24")?;
        for key in &self.keys {
            if let Some(policy) = &key.policy {
                crate::access::Policy::parse(policy).with_context(|| format!("the policy of {}", key.user))?;
            }
        }
        for (kind, share) in &self.processors {
            ensure!(
                (0.01..=1024.0).contains(share),
                "instances of {kind} are to have between 0.01 and 1024 processors"
            );
        }
        Ok(())
    }

    /// Whether a place, a zone or the region, has instances of a type.
    pub(crate) fn offers(&self, place: &str, kind: &str) -> bool {
        !self.not_offered.contains(&format!("{place}/{kind}"))
    }

    /// The names of the zones.
    pub(crate) fn zone_names(&self) -> Vec<String> {
        self.zones.iter().map(|letter| format!("{}{letter}", self.region)).collect()
    }

    /// The fixed front of the VPC's addresses: `10.88`.
    pub(crate) fn vpc_front(&self) -> Option<&str> {
        front(&self.vpc, ".0.0/16", 2)
    }

    /// The fixed front of public addresses: `203.0.113`.
    pub(crate) fn public_front(&self) -> Option<&str> {
        front(&self.public, ".0/24", 3)
    }
}

fn front<'a>(network: &'a str, rest: &str, numbers: usize) -> Option<&'a str> {
    let front = network.strip_suffix(rest)?;
    let parts: Vec<_> = front.split('.').collect();
    (parts.len() == numbers && parts.iter().all(|p| p.parse::<u8>().is_ok())).then_some(front)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_a_default_and_unknown_parts_are_refused() {
        let config =
            Config::parse("region = \"eu-west-1\"\n[delays]\npending = 7\n[capacity]\n\"eu-west-1a/m5.large\" = 0\n");
        let config = config.expect("a cloud");
        assert_eq!((config.delays.pending, config.delays.attach), (7, Delays::default().attach));
        assert_eq!(config.zone_names()[1], "eu-west-1b");
        assert!(Config::parse("regio = \"x\"").is_err());
        assert!(Config::parse("vpc = \"10.88.0.0/20\"").is_err());
        assert!(Config::aws().check().is_ok());
    }
}
