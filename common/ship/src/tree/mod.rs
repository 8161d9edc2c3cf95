//! One transfer of a tree of files: as the block form in [`crate::shipment`], but files travel, onto a folder or a file system that the
//! receiver made.
//!
//! The manifest goes first: every name with all that its file system says of it, and the BLAKE3 digest of every chunk of every
//! file. The receiver looks at what is there, moves and copies what it can use, removes what is not in the manifest, and answers with the
//! chunks that it lacks. At the end it reads everything back, content and attributes, and only then says that it has it.
//! `docs/shipment.md` is the protocol in prose.

mod beneath;
mod entry;
mod ext;
mod hash;
mod manifest;
mod mounted;
mod plan;
mod receive;
mod send;
mod sink;
mod source;
mod talk;
mod wire;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub use beneath::Failure;
pub use entry::{
    Content, Device, Entry, FILE_BYTES, Inode, Kind, LINK, NAME, Node, PATH, PathError, Run, Time, TreePath,
    XATTR_VALUE, XATTRS, Xattr, Xattrs,
};
pub use ext::{ExtError, ExtImage};
pub use manifest::{CHUNKS, DecodeError, ENTRIES, Manifest};
pub use mounted::{Mounted, Origin};
pub use receive::{Ground, TreeReceiver};
pub use send::TreeSender;
use serde::Serialize;
pub use sink::{Finding, Findings, TreeTarget, What};
pub use source::{Folder, MountedImage, TreeReader, TreeSource};

/// What a shipment is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shipped {
    /// Bytes of all files, holes counted.
    pub bytes: u64,
    /// Names in the tree.
    pub entries: u64,
    /// Different chunks that its files hold.
    pub chunks: u64,
    /// Chunks that travelled; the others were there.
    pub sent: u64,
    /// Bytes that they had on the way, compressed.
    pub sent_bytes: u64,
    /// Things that could not be made as they should be, and were let pass because the receiver was asked to.
    pub findings: u64,
    /// The digest over the manifest, in hexadecimal.
    pub digest: String,
    /// How long it took.
    #[serde(serialize_with = "crate::shipment::seconds")]
    pub took: Duration,
}
