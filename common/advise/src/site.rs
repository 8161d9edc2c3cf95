//! What a site is like: its link, its machines, and how long the cloud takes for what it does.
//!
//! Every figure here is a *prior*: what one expects before anything was measured. [`crate::history`] replaces them by what the
//! site's own provisions took.

use serde::{Deserialize, Serialize};

use crate::history::{History, Learned};
use crate::link::Link;
use crate::units::{Bytes, Rate, Span};

/// Where instances get the packages from that they lack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PackageSource {
    /// From the frontend: each instance across the WAN, as in the paper.
    Frontend,
    /// From the region, where the frontend publishes them first: across the WAN once, however many instances there are.
    #[default]
    Region,
    /// From the region, where they are already.
    Published,
}

/// What a bundle is cut from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cut {
    /// From the compressed and encrypted stream: parts are of one size and as many as it takes.
    #[default]
    Stream,
    /// From the disk: a part for each piece of it, and what is empty makes a small one.
    Disk,
}

/// How a bundle becomes something that boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// What `ImportSnapshot` takes for the smallest disk.
    pub start: Span,
    /// How fast it goes through a disk.
    pub rate: Rate,
}

/// How long the cloud takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cloud {
    /// From the call to the first instruction of an instance, and what else does not depend on its processor.
    pub boot: Span,
    /// What a core of speed 1 works until the system is up.
    pub boot_work: Span,
    /// Until a volume is created, attached and formatted.
    pub volume: Span,
    /// How fast a receiver writes onto its volume.
    pub volume_write: Rate,
    /// Until a snapshot of the smallest volume is complete.
    pub snapshot: Span,
    /// How fast a snapshot goes through what was written.
    pub snapshot_rate: Rate,
    /// Until an image is registered and can be launched.
    pub register: Span,
    /// How a bundle becomes bootable; none: instances boot from the bundle itself (instance store, as in the paper).
    pub import: Option<Import>,
    /// Between an instance and the region's storage.
    pub region: Link,
}

/// A site: what predictions are made with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Site {
    /// From the frontend to the cloud.
    pub link: Link,
    /// What a package takes when an image is built.
    pub build_package: Span,
    /// How fast a bundle is compressed and encrypted, in bytes of the image that are in use.
    pub bundle: Rate,
    /// The bytes of a bundle's part.
    pub part: Bytes,
    /// What parts are cut from.
    pub cut: Cut,
    /// Round trips that a part costs beside its bytes.
    pub part_trips: f64,
    /// Where instances get packages from.
    pub packages: PackageSource,
    /// Connections that an instance fetches packages over at the same time.
    pub fetch_flows: u32,
    /// Round trips that a package costs beside its bytes.
    pub fetch_trips: f64,
    /// What a package takes to be installed in an instance.
    pub install_package: Span,
    /// Whether the receiver boots while the image is built.
    pub overlap: bool,
    /// The receiver's own root volume.
    pub receiver_root: Bytes,
    /// Whether the receiver's volumes are kept, and paid for, as long as the snapshot.
    pub keep_receiver_volumes: bool,
    /// Mean bytes of an I/O request to a volume, where those are billed.
    pub io_request: Bytes,
    /// The cloud.
    pub cloud: Cloud,
    /// What was measured here.
    #[serde(default, skip_serializing_if = "Learned::is_empty")]
    pub learned: Learned,
}

impl Default for Site {
    /// A site of today, with a frontend on two or more cores. The figures are priors of ours: the agent's and the frontend's are
    /// measured (`docs/benchmarks.md`), EC2's are what its users commonly see.
    fn default() -> Self {
        Self {
            link: Link { rate: Rate::from_megabits(100), rtt: Span::from_microseconds(100_000), loss: 0.0001 },
            // 26 packages in 4.4 s (docs/benchmarks.md).
            build_package: Span::from_microseconds(170_000),
            bundle: Rate::from_megabytes(30),
            part: Bytes(10_000_000),
            cut: Cut::Stream,
            part_trips: 1.0,
            packages: PackageSource::Region,
            // dnf's `max_parallel_downloads`; a package's request waits for one round trip on one of them.
            fetch_flows: 3,
            fetch_trips: 1.0 / 3.0,
            install_package: Span::from_microseconds(170_000),
            overlap: true,
            receiver_root: Bytes::from_gib(8.0),
            keep_receiver_volumes: false,
            io_request: Bytes(128 << 10),
            cloud: Cloud {
                boot: Span::from_seconds(18),
                boot_work: Span::from_seconds(12),
                volume: Span::from_seconds(10),
                // gp3 without provisioned throughput.
                volume_write: Rate::from_megabytes(125),
                snapshot: Span::from_seconds(40),
                snapshot_rate: Rate::from_megabytes(60),
                register: Span::from_seconds(3),
                import: Some(Import { start: Span::from_seconds(120), rate: Rate::from_megabytes(30) }),
                region: Link { rate: Rate::from_megabits(1000), rtt: Span::from_microseconds(1000), loss: 0.0 },
            },
            learned: Learned::default(),
        }
    }
}

impl Site {
    /// The site as its history shows it; without a history, as it is.
    #[must_use]
    pub fn with_history(&self, history: &History) -> Self {
        let site = Self { link: self.link.sane(), ..self.clone() };
        if history.is_empty() {
            return site;
        }
        Self { learned: history.learn(&site), ..site }
    }
}
