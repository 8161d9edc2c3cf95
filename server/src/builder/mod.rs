//! The image builder: a disk image made of an appliance's kickstart, without PXE and without an installer.
//!
//! What an installer does with a kickstart happens here in the same order, in a namespace of its own: packages come from the frontend's
//! mirror, the agent inside the new root runs the sections and applies the commands, and partitions and boot loader are as the kickstart
//! says. The same kickstart and packages give the same image, bit for bit: identifiers are derived from the kickstart, times from the
//! newest package.
//!
//! [`layout`] and [`boot`] are pure; [`root`] makes the tree and [`disk`] the image of it; [`child`] is the process that does so, in
//! namespaces where its mounts vanish with it however it ends; [`parent`] starts it and hears of it.

mod boot;
pub mod child;
mod disk;
mod identity;
pub mod layout;
pub mod parent;
mod root;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What to build.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    /// The appliance.
    pub appliance: String,
    /// The kickstart.
    pub kickstart: String,
    /// The architecture, as rpm calls it.
    pub arch: String,
    /// The folder of the mirror that the kickstart's own address stands for.
    pub mirror: PathBuf,
    /// The frontend's address in the kickstart.
    pub frontend_url: String,
    /// Files of the keys that packages must be signed with; with none, what the mirror holds is trusted by its digests.
    pub gpgkeys: Vec<PathBuf>,
    /// The size of the disk in MiB; at least what the partitions need.
    pub disk_mib: Option<u64>,
    /// A folder of our own to work in; the image is made in it.
    pub work: PathBuf,
}

/// The image, in the folder that the order named.
pub const IMAGE: &str = "disk.raw";

/// What was built.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Built {
    /// Bytes of the disk.
    pub bytes: u64,
    /// Bytes of it that are in use on the frontend's disk.
    pub allocated: u64,
    /// The packages in it, as `name-version-release.arch`, sorted.
    pub packages: Vec<String>,
    /// The time that it seems to be made at, in seconds since 1970: that of its newest package.
    pub epoch: u64,
    /// How it boots: `bios`, `uefi`.
    pub boots: Vec<String>,
    /// What the administrator should know.
    pub notes: Vec<String>,
    /// How long each phase took, in seconds, in order.
    pub phases: Vec<(Phase, f64)>,
}

/// Where a build is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Which packages it needs, and where they are.
    Fetching,
    /// They are installed.
    Installing,
    /// The kickstart's sections run and its commands are applied.
    Applying,
    /// The boot loader and the first file system.
    Booting,
    /// What is not part of an image is removed, and times are made even.
    Cleaning,
    /// The disk is written.
    Writing,
}

/// A line that the building process says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// It has begun something.
    At {
        /// Where it is.
        phase: Phase,
        /// What it does there, if there is more to say.
        doing: String,
    },
    /// It is done.
    Built(Box<Built>),
    /// It is not, and why.
    Failed {
        /// What failed.
        what: String,
        /// What to do about it.
        hint: Option<String>,
    },
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The kickstart cannot be read, or asks for what an image cannot have. Each problem on lines of its own.
    #[error("{0}")]
    Kickstart(String),
    /// A program failed.
    #[error("{what} failed:\n{output}")]
    Program {
        /// What it was to do.
        what: String,
        /// The end of what it said.
        output: String,
    },
    /// A file.
    #[error("{what}: {source}")]
    Io {
        /// Which, and what for.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// Something that must be there is not.
    #[error("{what}")]
    Missing {
        /// What.
        what: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// The building process said what is wrong, or died.
    #[error("{what}")]
    Child {
        /// What it said.
        what: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// Somebody stopped it.
    #[error("the build was stopped")]
    Stopped,
}

impl BuildError {
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// What to do about it, if that is known.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Missing { hint, .. } => Some(hint),
            Self::Child { hint, .. } => hint.as_deref(),
            _ => None,
        }
    }
}
