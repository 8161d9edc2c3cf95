//! One transfer of an image: what is missing at the other end travels, and the end is a proof.
//!
//! The manifest goes first: the BLAKE3 digest of every block, with runs of blocks that hold nothing left out. The receiver looks at what
//! it has (an interrupted shipment, an earlier image on the volume, other images as base) and answers with the blocks that it lacks.
//! Those travel, compressed where that pays. At the end the receiver reads everything back and compares, and only then says
//! that it has it. So going on after an interruption needs no state: what arrived is found by looking.
//!
//! The stream below must be authenticated and ordered ([`crate::transport`]); this room still checks and bounds all that it reads.
//! `docs/shipment.md` is the protocol in prose.

pub(crate) mod lanes;
mod pace;
mod receive;
mod send;
pub(crate) mod wire;

#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};
use std::time::Duration;

pub use receive::{Receiver, Target};
pub(crate) use send::processors;
pub use send::{Sender, Source};
use serde::Serialize;

/// Bytes of a block. Fixed blocks of this size do as well as content-defined ones on file systems, and their list stays small.
pub const BLOCK: usize = 64 << 10;
/// The largest image, in bytes: what an EBS volume can have.
pub const IMAGE_BYTES: u64 = 64 << 40;

/// A block's digest.
pub(crate) type BlockDigest = [u8; 32];

/// What a shipment is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shipped {
    /// Bytes of the image.
    pub bytes: u64,
    /// Blocks that hold something.
    pub blocks: u64,
    /// Blocks that travelled; the others were there.
    pub sent: u64,
    /// Bytes that they had on the way, compressed.
    pub sent_bytes: u64,
    /// Blocks that the target was said to hold, and that were read there only at the end; at the sender: of which it said so.
    pub believed: u64,
    /// The digest over the whole, in hexadecimal.
    pub digest: String,
    /// How long it took.
    #[serde(serialize_with = "seconds")]
    pub took: Duration,
}

pub(crate) fn seconds<S: serde::Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(took.as_secs_f64())
}

/// Where a shipment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The image is read and its manifest made.
    Hashing,
    /// The receiver looks at what it has.
    Comparing,
    /// Blocks travel.
    Sending,
    /// The receiver reads back what it wrote.
    Verifying,
}

/// How far a shipment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Where it is.
    pub phase: Phase,
    /// Blocks done in this phase.
    pub done: u64,
    /// Blocks to do in it.
    pub of: u64,
    /// Bytes that travelled, compressed.
    pub sent_bytes: u64,
}

/// The two directions of a connection.
pub trait Stream: Read + Write + Send {}

impl<S: Read + Write + Send> Stream for S {}

/// Hears how far a shipment is.
pub type Tell<'t> = &'t (dyn Fn(Progress) + Sync);

/// Why a shipment did not come to its end. What arrived stays and is used by the next one.
#[derive(Debug, thiserror::Error)]
pub enum ShipmentError {
    /// The connection broke.
    #[error("the connection broke")]
    Connection(#[source] io::Error),
    /// The image could not be read, or changed while it was.
    #[error("the image: {0}")]
    Source(String),
    /// What is written to.
    #[error("the target: {0}")]
    Target(String),
    /// The other end does not keep to the protocol.
    #[error("the other end does not keep to the protocol: {0}")]
    Protocol(&'static str),
    /// The other end says why it stops.
    #[error("the other end refuses: {0}")]
    Refused(String),
    /// What was read back is not what was sent.
    #[error("block {block} is not what was sent when it is read back: the target is damaged")]
    Damaged {
        /// Its number.
        block: u64,
    },
    /// What was read back of a tree is not what was sent.
    #[error("{path} is not what was sent when it is read back: {what}")]
    Differs {
        /// Where.
        path: String,
        /// What of it.
        what: &'static str,
    },
}

impl ShipmentError {
    /// Whether the same again may help: the connection is what failed.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::Connection(_))
    }
}

/// The digest over the whole: of the length and of every block in order, empty ones included.
pub(crate) fn whole(bytes: u64, blocks: &[Option<BlockDigest>]) -> BlockDigest {
    let mut hash = blake3::Hasher::new_derive_key("rocks shipment 1 whole image");
    hash.update(&bytes.to_le_bytes());
    for block in blocks {
        match block {
            Some(digest) => hash.update(&[1]).update(digest),
            None => hash.update(&[0]),
        };
    }
    *hash.finalize().as_bytes()
}

/// The digest of a block, or nothing when it holds only zeros.
pub(crate) fn block_digest(block: &[u8]) -> Option<BlockDigest> {
    if is_zero(block) { None } else { Some(*blake3::hash(block).as_bytes()) }
}

fn is_zero(block: &[u8]) -> bool {
    let (words, rest) = block.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// How many blocks an image of `bytes` has.
pub(crate) const fn blocks_of(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK as u64)
}

/// The bytes of block `number` of an image of `bytes`.
pub(crate) fn length_of(bytes: u64, number: u64) -> usize {
    let at = number * BLOCK as u64;
    usize::try_from(bytes.saturating_sub(at)).unwrap_or(usize::MAX).min(BLOCK)
}

pub(crate) fn hex(digest: &BlockDigest) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
