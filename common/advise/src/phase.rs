//! The phases that methods consist of, and how long each takes: from its load and the site, and from nothing else.

use serde::{Deserialize, Serialize};

use crate::link::seconds_at;
use crate::site::{Import, PackageSource, Site};
use crate::units::{Bytes, Rate, Span, lossy};

/// A block of the EBS direct API.
pub const EBS_BLOCK: Bytes = Bytes(512 << 10);
/// `PutSnapshotBlock` calls that are under way at once.
const EBS_FLOWS: u32 = 64;
/// Connections that packages are published over.
const PUBLISH_FLOWS: u32 = 8;
/// Enrolments a second of a frontend (`docs/benchmarks.md`).
const ENROLMENTS: f64 = 200.0;
/// Round trips of an enrolment: TLS twice, the request, the kickstart.
const ENROL_TRIPS: f64 = 8.0;
/// Round trips of a change: the answer to the waiting request, and the report.
const NOTICE_TRIPS: f64 = 1.5;
/// What frontend and agent do for a change, without waiting for the network (`docs/benchmarks.md`: 92 to 232 ms).
const NOTICE_WORK: f64 = 0.15;

/// A step of a method that takes time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseKind {
    /// The image is built; load: packages.
    Build,
    /// It is compressed and encrypted in parts; load: raw bytes.
    Bundle,
    /// The parts are sent to S3, one after the other; load: bytes, items.
    Upload,
    /// The bundle becomes a snapshot; load: raw bytes of the disk.
    Import,
    /// The receiver boots.
    Receiver,
    /// Its volume is created, attached, formatted.
    Volume,
    /// The image travels over UDT and is written; load: bytes, raw bytes.
    Ship,
    /// The volume becomes a snapshot; load: raw bytes.
    Snapshot,
    /// Blocks are put into a snapshot by the EBS direct API; load: bytes.
    PutBlocks,
    /// That snapshot is completed.
    Seal,
    /// The snapshot or bundle is registered as an AMI.
    Register,
    /// Hosts copy the bundle to their disks (instance store); load: raw bytes of the disk.
    Unpack,
    /// The instances boot.
    Boot,
    /// They enrol and get their kickstarts; load: instances.
    Enrol,
    /// Waiting agents learn of a change; load: instances.
    Notice,
    /// Packages are put where the instances are; load: bytes, packages.
    Publish,
    /// Instances fetch packages from the frontend; load: bytes and packages of one, instances.
    FetchWan,
    /// Instances fetch packages in the region; load: bytes and packages of one, instances.
    FetchRegion,
    /// Packages are installed; load: packages of one.
    Install,
    /// Post-install scripts run; load: seconds are given as they are.
    Scripts,
}

impl PhaseKind {
    /// A word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Build => "build image",
            Self::Bundle => "bundle",
            Self::Upload => "upload to S3",
            Self::Import => "import snapshot",
            Self::Receiver => "boot receiver",
            Self::Volume => "volume",
            Self::Ship => "ship",
            Self::Snapshot => "snapshot",
            Self::PutBlocks => "put blocks",
            Self::Seal => "complete snapshot",
            Self::Register => "register",
            Self::Unpack => "copy to host",
            Self::Boot => "boot instances",
            Self::Enrol => "enrol",
            Self::Notice => "notice",
            Self::Publish => "publish packages",
            Self::FetchWan => "fetch packages (WAN)",
            Self::FetchRegion => "fetch packages",
            Self::Install => "install packages",
            Self::Scripts => "scripts",
        }
    }
}

/// The machine that a phase happens on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// How fast one of its cores is ([`crate::InstanceType::speed`]).
    pub speed: f64,
    /// How fast its host copies an image to its disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Rate>,
}

impl Default for Machine {
    fn default() -> Self {
        Self { speed: 1.0, disk: None }
    }
}

/// What a phase has to do.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Load {
    /// Bytes that travel.
    pub bytes: Bytes,
    /// Bytes that are read or written at an end.
    pub raw: Bytes,
    /// Parts or packages.
    pub items: u64,
    /// Instances that do it at the same time.
    pub count: u64,
    /// What is given as time.
    pub given: Span,
    /// Where.
    pub machine: Machine,
}

/// The seconds of a phase: what it takes whatever its load, and what grows with the load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Parts {
    pub(crate) fixed: f64,
    pub(crate) variable: f64,
}

/// What a phase takes at a site of which nothing was measured.
pub(crate) fn prior(kind: PhaseKind, load: &Load, site: &Site) -> Parts {
    let (link, cloud) = (&site.link.sane(), &site.cloud);
    let speed = if load.machine.speed.is_finite() { load.machine.speed.max(0.01) } else { 1.0 };
    let items = lossy(load.items);
    let parts = |fixed: f64, variable: f64| Parts { fixed, variable };
    let boot = || parts(cloud.boot.seconds() + cloud.boot_work.seconds() / speed, 0.0);
    let fetch = |link: &crate::link::Link| {
        let bits = link.each(load.count, site.fetch_flows);
        parts(link.tcp_start(), seconds_at(load.bytes, bits) + link.trips(items * site.fetch_trips))
    };
    match kind {
        PhaseKind::Build => parts(0.0, items * site.build_package.seconds()),
        PhaseKind::Bundle => parts(0.0, site.bundle.seconds(load.raw)),
        PhaseKind::Upload => {
            parts(link.tcp_start(), link.tcp(1).seconds(load.bytes) + link.trips(items * site.part_trips))
        }
        PhaseKind::Import => match cloud.import {
            Some(Import { start, rate }) => parts(start.seconds(), rate.seconds(load.raw)),
            None => parts(0.0, 0.0),
        },
        PhaseKind::Receiver | PhaseKind::Boot => boot(),
        PhaseKind::Volume => parts(cloud.volume.seconds(), 0.0),
        PhaseKind::Ship => {
            // The slower of the way and of the disk at its end.
            let way = link.udt().seconds(load.bytes);
            parts(link.udt_start(), way.max(cloud.volume_write.seconds(load.raw)))
        }
        PhaseKind::Snapshot => parts(cloud.snapshot.seconds(), cloud.snapshot_rate.seconds(load.raw)),
        PhaseKind::PutBlocks => parts(link.tcp_start(), link.tcp(EBS_FLOWS).seconds(load.bytes)),
        PhaseKind::Seal => parts(cloud.snapshot.seconds(), 0.0),
        PhaseKind::Register => parts(cloud.register.seconds(), 0.0),
        PhaseKind::Unpack => parts(0.0, load.machine.disk.map_or(0.0, |disk| disk.seconds(load.raw))),
        PhaseKind::Enrol => parts(link.trips(ENROL_TRIPS), lossy(load.count) / ENROLMENTS),
        PhaseKind::Notice => parts(NOTICE_WORK + link.trips(NOTICE_TRIPS), 0.0),
        PhaseKind::Publish => parts(
            link.tcp_start(),
            link.tcp(PUBLISH_FLOWS).seconds(load.bytes) + link.trips(items / f64::from(PUBLISH_FLOWS)),
        ),
        PhaseKind::FetchWan => fetch(link),
        // In the region each instance has the storage's rate for itself.
        PhaseKind::FetchRegion => {
            let region = cloud.region.sane();
            let way = seconds_at(load.bytes, region.each(1, site.fetch_flows));
            parts(region.tcp_start(), way + region.trips(items * site.fetch_trips))
        }
        PhaseKind::Install => parts(0.0, items * site.install_package.seconds()),
        PhaseKind::Scripts => parts(0.0, load.given.seconds()),
    }
}

/// What a phase takes at a site, measurements included.
pub(crate) fn predict(kind: PhaseKind, load: &Load, site: &Site) -> Span {
    let Parts { fixed, variable } = prior(kind, load, site);
    let seconds = match site.learned.of(kind) {
        Some(learned) => fixed * learned.fixed + variable * learned.variable,
        None => fixed + variable,
    };
    Span::from_seconds_f64(seconds)
}

/// Which phase a source of packages means.
pub(crate) const fn fetch(source: PackageSource) -> PhaseKind {
    match source {
        PackageSource::Frontend => PhaseKind::FetchWan,
        PackageSource::Region | PackageSource::Published => PhaseKind::FetchRegion,
    }
}

/// Blocks of the EBS direct API that hold `used` bytes: data that is spread in blocks of 64 KiB fills blocks of 512 KiB by some
/// 85% (an eighth to a quarter more than it is, on real images).
#[must_use]
pub fn ebs_blocks(used: Bytes) -> u64 {
    used.scaled(1.15).0.div_ceil(EBS_BLOCK.0)
}
