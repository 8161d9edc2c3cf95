//! The end that has the image.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::Stream;
use super::lanes::{Lanes, Packer, Work};
use super::wire::{Message, read_wants, refuse, write_blocks, write_held};
use super::{
    BLOCK, BlockDigest, Phase, Progress, ShipmentError, Shipped, Tell, block_digest, blocks_of, hex, length_of, whole,
};
use crate::image::Allocation;

/// Blocks that a thread hashes at a time.
const RUN: u64 = 64;
/// Blocks that are ready to be sent, for each thread that compresses.
const READY: usize = 32;
/// A block must become smaller by at least this part to travel compressed.
const GAIN: usize = 16;

/// An image that is read.
#[derive(Debug)]
pub struct Source {
    file: File,
    bytes: u64,
    allocation: Allocation,
}

impl Source {
    /// Opens the image at `path`. Blocks that its file systems do not use are left out: the other end gets zeros there.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open(path: &Path) -> Result<Self, ShipmentError> {
        let fail = |error: io::Error| ShipmentError::Source(format!("{}: {error}", path.display()));
        let file = File::open(path).map_err(fail)?;
        let bytes = crate::image::length(&file).map_err(fail)?;
        let allocation = Allocation::of(&file, bytes).map_err(fail)?;
        Ok(Self { file, bytes, allocation })
    }

    /// Opens only the first `bytes` of the image at `path`.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn front(path: &Path, bytes: u64) -> Result<Self, ShipmentError> {
        let fail = |error: io::Error| ShipmentError::Source(format!("{}: {error}", path.display()));
        let file = File::open(path).map_err(fail)?;
        let allocation = Allocation::of(&file, bytes).map_err(fail)?;
        Ok(Self { file, bytes, allocation })
    }

    /// Bytes of the image.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether no file system uses anything of block `number`.
    fn is_free(&self, number: u64) -> bool {
        self.allocation.is_free(number * BLOCK as u64, length_of(self.bytes, number) as u64)
    }

    /// Reads block `number` into `buffer`, with zeros for what no file system uses.
    fn read(&self, number: u64, buffer: &mut Vec<u8>) -> io::Result<()> {
        buffer.resize(length_of(self.bytes, number), 0);
        if self.is_free(number) {
            buffer.fill(0);
            return Ok(());
        }
        let at = number * BLOCK as u64;
        self.file.read_exact_at(buffer, at)?;
        self.allocation.clear(at, buffer);
        Ok(())
    }

    /// The digests of all blocks, made on all processors.
    fn manifest(&self, tell: Tell<'_>) -> Result<Vec<Option<BlockDigest>>, ShipmentError> {
        let count = blocks_of(self.bytes);
        let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
        let parts = Mutex::new(Vec::new());
        let failed: Mutex<Option<io::Error>> = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..processors() {
                scope.spawn(|| {
                    let mut buffer = Vec::with_capacity(BLOCK);
                    loop {
                        let from = next.fetch_add(RUN, Ordering::Relaxed);
                        if from >= count {
                            return;
                        }
                        let mut part = Vec::with_capacity(RUN as usize);
                        for number in from..count.min(from + RUN) {
                            // Most of a large disk: not even looked at.
                            if self.is_free(number) {
                                part.push(None);
                                continue;
                            }
                            if let Err(error) = self.read(number, &mut buffer) {
                                *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                                next.store(count, Ordering::Relaxed);
                                return;
                            }
                            part.push(block_digest(&buffer));
                        }
                        let done = done.fetch_add(part.len() as u64, Ordering::Relaxed) + part.len() as u64;
                        parts.lock().unwrap_or_else(PoisonError::into_inner).push((from, part));
                        tell(Progress { phase: Phase::Hashing, done, of: count, sent_bytes: 0 });
                    }
                });
            }
        });
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(ShipmentError::Source(error.to_string()));
        }
        let mut parts = parts.into_inner().unwrap_or_else(PoisonError::into_inner);
        parts.sort_by_key(|(from, _)| *from);
        Ok(parts.into_iter().flat_map(|(_, part)| part).collect())
    }
}

pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Ships one image.
pub struct Sender<'s> {
    source: &'s Source,
    manifest: Vec<Option<BlockDigest>>,
    /// Which blocks another image has at the same place, if the target is said to hold that.
    held: Option<Vec<bool>>,
    began: Instant,
    stop: Arc<AtomicBool>,
}

impl<'s> Sender<'s> {
    /// Reads the image and makes its manifest, which serves for as many attempts as are needed.
    ///
    /// # Errors
    /// The image cannot be read.
    pub fn new(source: &'s Source, tell: Tell<'_>) -> Result<Self, ShipmentError> {
        let began = Instant::now();
        Ok(Self { source, manifest: source.manifest(tell)?, held: None, began, stop: Arc::default() })
    }

    /// Tells the receiver that its target holds the image `base`, which is read for that: what is the same there need not be looked at before it
    /// says what it lacks. If it is something else, the shipment takes longer, and what arrives is right all the same.
    ///
    /// # Errors
    /// The image cannot be read.
    pub fn based_on(mut self, base: &Source, tell: Tell<'_>) -> Result<Self, ShipmentError> {
        let theirs = base.manifest(tell)?;
        let is_held = |(at, block): (u64, &Option<BlockDigest>)| {
            let is_as_long = length_of(base.bytes, at) == length_of(self.source.bytes, at);
            is_as_long && usize::try_from(at).ok().and_then(|at| theirs.get(at)) == Some(block)
        };
        self.held = Some((0..).zip(&self.manifest).map(is_held).collect());
        Ok(self)
    }

    /// The digest over the whole, in hexadecimal, as a shipment of it says it.
    #[must_use]
    pub fn digest(&self) -> String {
        hex(&whole(self.source.bytes, &self.manifest))
    }

    /// Set to true, it ends what is under way.
    #[must_use]
    pub fn stop(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// Ships it over one connection.
    ///
    /// # Errors
    /// See [`ShipmentError`]; if the connection is what failed, another attempt goes on where this one stopped.
    pub fn run(&self, stream: &mut dyn Stream, tell: Tell<'_>) -> Result<Shipped, ShipmentError> {
        match self.attempt(stream, tell) {
            // When it hangs up in the middle of what we write, it may have said why.
            Err(ShipmentError::Connection(error)) => match Message::read(stream) {
                Ok(Message::Refuse(reason)) => Err(ShipmentError::Refused(reason)),
                _ => Err(ShipmentError::Connection(error)),
            },
            Err(error) => {
                refuse(stream, &error);
                Err(error)
            }
            done => done,
        }
    }

    fn attempt(&self, stream: &mut dyn Stream, tell: Tell<'_>) -> Result<Shipped, ShipmentError> {
        let (bytes, blocks) = (self.source.bytes, &self.manifest);
        let count = blocks.len() as u64;
        let digest = whole(bytes, blocks);
        Message::Hello { bytes, digest, is_based: self.held.is_some() }.write(stream)?;
        write_blocks(stream, blocks)?;
        if let Some(held) = &self.held {
            write_held(stream, held)?;
        }
        let (mut sent, mut sent_bytes) = self.round(stream, tell)?;
        let mut is_first = true;
        loop {
            match Message::read(stream)? {
                Message::At(done) => tell(Progress { phase: Phase::Verifying, done, of: count, sent_bytes }),
                Message::Again(_) if self.held.is_some() && std::mem::take(&mut is_first) => {
                    let (more, more_bytes) = self.round(stream, tell)?;
                    (sent, sent_bytes) = (sent + more, sent_bytes + more_bytes);
                }
                Message::Done => break,
                Message::Refuse(reason) => return Err(ShipmentError::Refused(reason)),
                _ => return Err(ShipmentError::Protocol("the end was to come")),
            }
        }
        Ok(Shipped {
            bytes,
            blocks: blocks.iter().flatten().count() as u64,
            sent,
            sent_bytes,
            believed: self.held.iter().flatten().filter(|held| **held).count() as u64,
            digest: hex(&digest),
            took: self.began.elapsed(),
        })
    }

    /// Hears what is wanted, and sends it. Gives how many blocks and bytes that were.
    fn round(&self, stream: &mut dyn Stream, tell: Tell<'_>) -> Result<(u64, u64), ShipmentError> {
        let (blocks, count) = (&self.manifest, self.manifest.len() as u64);
        let wants = read_wants(stream, blocks.len(), &mut |done| {
            tell(Progress { phase: Phase::Comparing, done, of: count, sent_bytes: 0 });
        })?;
        let wanted: Vec<u64> = (0..count).zip(&wants).filter(|(_, wanted)| **wanted).map(|(at, _)| at).collect();
        if wanted.iter().any(|at| blocks[*at as usize].is_none()) {
            return Err(ShipmentError::Protocol("it wants a block that holds nothing"));
        }
        let sent_bytes = self.blocks(&wanted, stream, tell)?;
        Message::End.write(stream)?;
        stream.flush().map_err(ShipmentError::Connection)?;
        Ok((wanted.len() as u64, sent_bytes))
    }

    /// Sends the blocks `wanted`: read and compressed on all processors, sent in their order.
    fn blocks(&self, wanted: &[u64], stream: &mut dyn Stream, tell: Tell<'_>) -> Result<u64, ShipmentError> {
        let lanes = Lanes { jobs: wanted.len(), ready: READY, gain: GAIN, skips: true };
        let work = || -> Work<'_, Message> { Box::new(|job, packer| self.block(wanted[job], packer)) };
        let mut sent_bytes = 0;
        lanes.run(&work, &mut |at, message| {
            let bytes = match &message {
                Message::Plain(_, bytes) | Message::Packed(_, bytes) => bytes.len() as u64,
                _ => 0,
            };
            sent_bytes += bytes;
            if self.stop.load(Ordering::Relaxed) {
                return Err(ShipmentError::Source("it was stopped".into()));
            }
            message.write(stream)?;
            tell(Progress { phase: Phase::Sending, done: at as u64 + 1, of: wanted.len() as u64, sent_bytes });
            Ok(bytes)
        })?;
        Ok(sent_bytes)
    }

    fn block(&self, number: u64, packer: &mut Packer<'_>) -> Result<Message, ShipmentError> {
        let mut block = Vec::with_capacity(BLOCK);
        self.source.read(number, &mut block).map_err(|error| ShipmentError::Source(error.to_string()))?;
        // The manifest was made earlier: a source that is written to meanwhile must not become a mixture.
        if block_digest(&block) != self.manifest[number as usize] {
            return Err(ShipmentError::Source(
                "it changed while it was sent; ship it again when nobody writes to it".into(),
            ));
        }
        Ok(match packer.pack(&block) {
            Some(packed) => Message::Packed(number, packed),
            None => Message::Plain(number, block),
        })
    }
}
