//! One transfer of a tree of files: as the block form in [`crate::shipment`], but files travel, onto a folder or a file system that the
//! receiver made.
//!
//! The manifest goes first: every name with all that its file system says of it, and the BLAKE3 digest of every chunk of every
//! file. The receiver looks at what is there, moves and copies what it can use, removes what is not in the manifest, and answers with the
//! chunks that it lacks. At the end it reads everything back, content and attributes, and only then says that it has it.
//! `docs/shipment.md` is the protocol in prose.

mod beneath;
mod entry;
mod hash;
mod manifest;
mod plan;
mod sink;
mod source;
mod talk;

pub use beneath::Failure;
pub use entry::{
    Content, Device, Entry, FILE_BYTES, Inode, Kind, LINK, NAME, Node, PATH, PathError, Run, Time, TreePath,
    XATTR_VALUE, XATTRS, Xattr, Xattrs,
};
pub use manifest::{CHUNKS, DecodeError, ENTRIES, Manifest};
pub use sink::{Finding, Findings, TreeTarget, What};
pub use source::{Folder, TreeReader, TreeSource};
