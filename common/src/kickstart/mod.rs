//! A kickstart as a value: read from any file, ours or not.
//!
//! One type for a kickstart travels the whole way: the frontend's generator makes the text, [`parse`](self) reads it, the
//! plan compares two of them. Nothing is lost in reading: what this crate has no meaning for is kept as written.

mod diff;
mod parse;
mod print;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use diff::unified_diff;

pub use parse::{Includes, NoIncludes, option_value, parse, split_words};

use crate::ids::Digest;
use crate::marker::Marker;

/// A kickstart that was read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Kickstart {
    /// The digest of the whole text.
    pub digest: Digest,
    /// The commands outside all sections, in order.
    pub commands: Vec<Command>,
    /// All `%packages` sections together.
    pub packages: Packages,
    /// The script sections (`%pre`, `%pre-install`, `%post`, `%onerror`, `%traceback`), in order.
    pub scripts: Vec<Script>,
    /// `%addon` and `%anaconda` sections, in order, as written.
    pub others: Vec<OtherSection>,
    /// `%include` and `%ksappend` lines that were not followed: what they name is made by a `%pre`, or is elsewhere.
    pub includes: Vec<String>,
}

/// One command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Its first word: `timezone`.
    pub name: String,
    /// Its other words, unquoted as a shell would.
    pub args: Vec<String>,
    /// All after the name as written, without surrounding blanks.
    pub raw: String,
    /// Its line, from 1.
    pub line: u32,
    /// The node file and line it came from, where the frontend said so in a comment: `base/nodes/i18n.xml:3`.
    pub origin: Option<String>,
}

/// All `%packages` sections together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packages {
    /// The options of the section headers, as written (`--ignoremissing`).
    pub options: Vec<String>,
    /// What is to be there, in order, duplicates included.
    pub install: Vec<PackageEntry>,
    /// What is not (`-name`), in order.
    pub exclude: Vec<PackageEntry>,
}

/// One line of `%packages`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageEntry {
    /// What it names, without the leading `-`.
    pub spec: PackageSpec,
    /// Its line, from 1.
    pub line: u32,
    /// The node file and line it came from, where a trailing comment says so.
    pub origin: Option<String>,
}

/// What a line of `%packages` names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PackageSpec {
    /// A name, `name.arch`, `name-version-release`, a capability or a path, as rpm's `--whatprovides` and dnf understand it.
    Package(String),
    /// A glob over package names: `kernel*`.
    Glob(String),
    /// `@group` or `@^environment`, with its options; the text has no `@`.
    Group {
        /// The group's name or id.
        name: String,
        /// Whether it is an environment (`@^`).
        environment: bool,
        /// `--nodefaults` and `--optional`, as written.
        options: Vec<String>,
    },
    /// A module stream: `@module:stream/profile`.
    Module(String),
}

/// When a script section runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScriptKind {
    /// `%pre`: before the installer reads the rest.
    Pre,
    /// `%pre-install`: after partitioning.
    PreInstall,
    /// `%post`: after installation, in the installed system.
    Post,
    /// `%onerror`.
    Onerror,
    /// `%traceback`.
    Traceback,
}

impl ScriptKind {
    /// The word after `%`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pre => "pre",
            Self::PreInstall => "pre-install",
            Self::Post => "post",
            Self::Onerror => "onerror",
            Self::Traceback => "traceback",
        }
    }
}

/// One script section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    /// When it runs.
    pub kind: ScriptKind,
    /// `--interpreter=`, or `/bin/sh`.
    pub interpreter: String,
    /// `--nochroot`: it runs in the installer, not in the installed system.
    pub nochroot: bool,
    /// `--erroronfail`: its failure ends the installation.
    pub error_on_fail: bool,
    /// `--log=`.
    pub log: Option<String>,
    /// The header's arguments as written.
    pub arguments: String,
    /// The body, without the marker line.
    pub body: String,
    /// The header's line, from 1.
    pub line: u32,
    /// Where it comes from, if it says so.
    pub marker: Option<Marker>,
    /// [`crate::marker::section_digest`] of what was read (never taken from the marker).
    pub digest: Digest,
}

/// A section that nothing here gives a meaning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherSection {
    /// The word after `%`: `addon`.
    pub name: String,
    /// The header's arguments as written.
    pub arguments: String,
    /// The body as written.
    pub body: String,
    /// The header's line, from 1.
    pub line: u32,
}
