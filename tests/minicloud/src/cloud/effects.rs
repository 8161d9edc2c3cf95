//! What the core wants done, and what it is told of it.

use std::collections::BTreeSet;

/// Something to be done outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Make a volume's bytes, of a snapshot's or of zeros.
    MakeVolume { volume: String, gib: u64, snapshot: Option<String>, shared: bool },
    /// Forget a volume's bytes.
    RemoveVolume { volume: String },
    /// Copy a volume's bytes as they are now.
    Copy { snapshot: String, volume: String, gib: u64 },
    /// Forget a snapshot's bytes.
    RemoveSnapshot { snapshot: String },
    /// Boot an instance.
    Boot(Box<Boot>),
    /// Ask an instance to shut down, or pull its plug.
    Halt { instance: String, force: bool },
    /// Press an instance's reset button.
    Reboot { instance: String },
    /// Shut an instance down and take its network away.
    Remove { instance: String },
    /// Make a volume show up in a running instance.
    Attach { instance: String, volume: String, names: Vec<String> },
    /// Take it away as soon as it is not in use.
    Detach { instance: String, volume: String, force: bool },
    /// Let only this into an instance.
    Firewall { instance: String, rules: Vec<Rule> },
    /// Make a snapshot's bytes of an object.
    Import { task: String, snapshot: String, bucket: String, key: String, format: String },
    /// Make a snapshot's bytes of the bundle that a manifest names.
    Unbundle { image: String, snapshot: String, bucket: String, key: String },
}

/// A machine to be booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Boot {
    pub(crate) instance: String,
    /// Its number in this cloud.
    pub(crate) number: u32,
    pub(crate) address: String,
    pub(crate) public: Option<String>,
    /// Its root volume.
    pub(crate) root: String,
    /// The snapshot that the root volume shares its bytes with, if it has none of its own.
    pub(crate) shared: Option<String>,
    /// Its other volumes and their names.
    pub(crate) volumes: Vec<(String, Vec<String>)>,
    pub(crate) rules: Vec<Rule>,
    /// How many thousandths of a processor it has; nothing: as much as there is.
    pub(crate) thousandths: Option<u32>,
}

/// What a security group lets in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rule {
    /// `tcp`, `udp`, `icmp`, a protocol's number, or `-1` for all.
    pub(crate) protocol: String,
    /// Ports, or ICMP's type and code; -1 for all.
    pub(crate) from: i64,
    pub(crate) to: i64,
    /// A network, as `198.51.100.7/32`.
    pub(crate) source: String,
}

/// What has come of an effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    VolumeMade {
        volume: String,
    },
    VolumeFailed {
        volume: String,
        why: String,
    },
    /// A snapshot has its bytes; `blocks` of 512 KiB hold data.
    Copied {
        snapshot: String,
        blocks: BTreeSet<u32>,
        bytes: u64,
    },
    CopyFailed {
        snapshot: String,
        why: String,
    },
    Booted {
        instance: String,
    },
    BootFailed {
        instance: String,
        why: String,
    },
    /// An instance runs no more, because it was asked to or by itself.
    Halted {
        instance: String,
    },
    Removed {
        instance: String,
    },
    Attached {
        volume: String,
    },
    AttachFailed {
        volume: String,
        why: String,
    },
    /// A volume that is to be detached is in use inside.
    Busy {
        volume: String,
    },
    Detached {
        volume: String,
    },
    Imported {
        task: String,
        blocks: BTreeSet<u32>,
        bytes: u64,
    },
    ImportFailed {
        task: String,
        why: String,
    },
    /// The blocks that hold data and the size in GiB, or why there is nothing.
    Unbundled {
        image: String,
        result: Result<(BTreeSet<u32>, u64), String>,
    },
}
