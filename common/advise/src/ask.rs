//! What is asked: which image, which packages, how many instances, for how long, and what counts.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::units::{Bytes, Span};

/// A way to get instances that are what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The paper's *standard*: encrypted parts of 10 MB to S3.
    Bundle,
    /// The paper's *option 1*: the image over UDT to a receiver.
    Udt,
    /// The paper's *option 2*: a lite image and its reconfiguration.
    Lite,
    /// Ours: changed blocks into a snapshot by the EBS direct API.
    Ebs,
    /// Running instances converge: update-only, or install-new when packages are added.
    Converge,
}

impl Method {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 5] = [Self::Bundle, Self::Udt, Self::Lite, Self::Ebs, Self::Converge];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bundle => "bundle",
            Self::Udt => "udt",
            Self::Lite => "lite",
            Self::Ebs => "ebs",
            Self::Converge => "converge",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What counts when methods are compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prefer {
    /// The shortest time.
    Time,
    /// The lowest cost.
    Cost,
    /// The lowest product of both: twice as fast is worth twice the money, whatever the units.
    #[default]
    Balance,
}

impl Prefer {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::Cost => "cost",
            Self::Balance => "balance",
        }
    }
}

/// A word that is no preference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no preference: there are time, cost and balance")]
pub struct PreferError(String);

impl FromStr for Prefer {
    type Err = PreferError;

    fn from_str(text: &str) -> Result<Self, PreferError> {
        let known = [Self::Time, Self::Cost, Self::Balance];
        known.into_iter().find(|one| one.name() == text).ok_or_else(|| PreferError(text.to_owned()))
    }
}

/// An image, or what is different in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The size of the disk that it is.
    pub disk: Bytes,
    /// What of it is in use, in 64 KiB blocks.
    pub used: Bytes,
    /// What that is when it is compressed.
    pub packed: Bytes,
    /// What of it is not in the cloud yet, where an earlier one is: in use and compressed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<(Bytes, Bytes)>,
    /// Packages that are installed to build it; none: it is built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<u64>,
}

impl Image {
    /// An image of which only the size in use is known. The rest is as real appliances have it: the disk is the next whole GiB
    /// above twice of it, and what is in use compresses to a third (180 of 599 and 521 of 1464 MB).
    #[must_use]
    pub fn of(used: Bytes) -> Self {
        let disk = Bytes(used.0.saturating_mul(2).max(1)).whole_gib();
        Self { disk, used, packed: used.scaled(1.0 / 3.0), changed: None, build: None }
    }

    /// What has to travel: in use and compressed.
    #[must_use]
    pub fn missing(&self) -> (Bytes, Bytes) {
        self.changed.unwrap_or((self.used, self.packed))
    }
}

/// Packages that an instance lacks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Software {
    /// How many.
    pub packages: u64,
    /// As they are fetched.
    pub bytes: Bytes,
    /// As they lie on the disk.
    pub installed: Bytes,
}

impl Software {
    /// So many packages of so many bytes, which grow to two and a half times of it on the disk, as RPMs do.
    #[must_use]
    pub fn of(packages: u64, bytes: Bytes) -> Self {
        Self { packages, bytes, installed: bytes.scaled(2.5) }
    }

    /// The same mixture, but of `bytes`.
    #[must_use]
    pub fn resized(&self, bytes: Bytes) -> Self {
        // Without any to go by: a package of 1 MB, which grows as above.
        let basis = if self.bytes.0 == 0 { Self::of(1000, Bytes(1_000_000_000)) } else { *self };
        let factor = bytes.as_f64() / basis.bytes.as_f64();
        let packages = crate::units::nearest(crate::units::lossy(basis.packages) * factor);
        Self { packages, bytes, installed: basis.installed.scaled(factor) }
    }
}

/// What is to be done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// From an appliance to running instances.
    #[default]
    Provision,
    /// From running instances to ones with another configuration.
    Reconfigure,
}

/// A question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ask {
    /// What is to be done.
    pub task: Task,
    /// The appliance's image; for a reconfiguration: the image with the new configuration.
    pub image: Image,
    /// The lite image, if it is not in the cloud yet.
    pub lite: Option<Image>,
    /// What a lite instance, or a running one, lacks of the appliance.
    pub added: Software,
    /// What post-install scripts take that run in an instance.
    pub scripts: Span,
    /// How many instances.
    pub count: u64,
    /// Their type.
    pub instance: String,
    /// The receiver's type.
    pub receiver: String,
    /// How long instances are paid for, from their start on.
    pub run: Span,
    /// How long volumes, snapshots and objects are paid for.
    pub keep: Span,
    /// What counts.
    pub prefer: Prefer,
}
