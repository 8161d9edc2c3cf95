//! The end that has the tree.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use super::Shipped;
use super::manifest::Manifest;
use super::plan::Index;
use super::source::{TreeReader, TreeSource, changed};
use super::talk::watched;
use super::wire::{Frame, GAIN, Hello, PACK, pack, write_manifest};
use crate::shipment::lanes::{Lanes, Work};
use crate::shipment::wire::{Message, read_wants, refuse};
use crate::shipment::{Phase, Progress, ShipmentError, Stream, Tell, block_digest, hex};

/// Packs that are ready to be sent, for each thread that compresses.
const READY: usize = 8;

/// Ships one tree.
pub struct TreeSender<'s> {
    source: &'s dyn TreeSource,
    manifest: Manifest,
    index: Index,
    began: Instant,
    stop: Arc<AtomicBool>,
}

impl<'s> TreeSender<'s> {
    /// Reads the tree and makes its manifest, which serves for as many attempts as are needed.
    ///
    /// # Errors
    /// The tree cannot be read, or be shipped.
    pub fn new(source: &'s mut dyn TreeSource, tell: Tell<'_>) -> Result<Self, ShipmentError> {
        let began = Instant::now();
        let manifest = source.manifest(tell)?;
        let index = Index::of(&manifest)?;
        Ok(Self { source, manifest, index, began, stop: Arc::default() })
    }

    /// What is shipped.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
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
            Err(ShipmentError::Connection(error)) => match Frame::read(stream) {
                Err(ShipmentError::Refused(reason)) => Err(ShipmentError::Refused(reason)),
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
        let (digest, bytes) = self.manifest.summary();
        Frame::Hello(Hello { bytes, digest, origin: self.source.origin() }).write(stream)?;
        write_manifest(stream, &self.manifest)?;
        let of = self.index.len() as u64;
        let wants = read_wants(stream, self.index.len(), &mut |done| {
            tell(Progress { phase: Phase::Comparing, done: done.min(of), of, sent_bytes: 0 });
        })?;
        let wanted: Vec<u32> = (0..).zip(&wants).filter(|(_, wanted)| **wanted).map(|(id, _)| id).collect();
        let sent_bytes = self.chunks(&wanted, stream, tell)?;
        // A file whose chunks were all there was not looked at again, nor was anything but what files hold.
        self.unchanged(stream)?;
        Frame::Both(Message::End).write(stream)?;
        stream.flush().map_err(ShipmentError::Connection)?;
        let findings = loop {
            match Frame::read(stream)? {
                Frame::Both(Message::At(done)) => {
                    tell(Progress { phase: Phase::Verifying, done: done.min(of), of, sent_bytes });
                }
                Frame::Done(findings) => break findings,
                _ => return Err(ShipmentError::Protocol("the end was to come")),
            }
        };
        Ok(Shipped {
            bytes: self.manifest.bytes(),
            entries: self.manifest.entries().len() as u64,
            chunks: of,
            sent: wanted.len() as u64,
            sent_bytes,
            findings,
            digest: hex(&digest),
            took: self.began.elapsed(),
        })
    }

    /// Looks whether the source is still what it was, while the receiver hears that we are there: packs with nothing in them.
    fn unchanged(&self, stream: &mut dyn Stream) -> Result<(), ShipmentError> {
        let say = |_| {
            Frame::Chunks(vec![0]).write(stream)?;
            stream.flush().map_err(ShipmentError::Connection)
        };
        watched(&AtomicU64::new(0), say, |_| self.source.unchanged())?
    }

    /// Chunks that go together: as many as fit into a pack.
    fn packs(&self, wanted: &[u32]) -> Vec<Range<usize>> {
        let (mut packs, mut from, mut bytes) = (Vec::new(), 0, 0);
        for (at, id) in wanted.iter().enumerate() {
            let more = self.index.length(&self.manifest, *id) + 4;
            if bytes + more > PACK {
                packs.push(from..at);
                (from, bytes) = (at, 0);
            }
            bytes += more;
        }
        packs.push(from..wanted.len());
        packs.retain(|pack| !pack.is_empty());
        packs
    }

    /// Sends the chunks `wanted`: read and compressed on all processors, sent in their order.
    fn chunks(&self, wanted: &[u32], stream: &mut dyn Stream, tell: Tell<'_>) -> Result<u64, ShipmentError> {
        let packs = self.packs(wanted);
        // A pack has many files in it, so that one that does not become smaller says little of the next: each is tried.
        let lanes = Lanes { jobs: packs.len(), ready: READY, gain: GAIN, skips: false };
        let work = || -> Work<'_, Vec<u8>> {
            let mut reader = self.source.reader();
            let (mut chunk, mut together) = (Vec::new(), Vec::with_capacity(PACK));
            let packs = &packs;
            Box::new(move |job, packer| {
                together.clear();
                for id in &wanted[packs[job].clone()] {
                    self.chunk(*id, &mut *reader, &mut chunk, &mut together)?;
                }
                Ok(pack(&together, packer))
            })
        };
        let mut sent_bytes = 0;
        lanes.run(&work, &mut |at, pack| {
            if self.stop.load(Ordering::Relaxed) {
                return Err(ShipmentError::Source("it was stopped".into()));
            }
            let bytes = pack.len() as u64 - 1;
            sent_bytes += bytes;
            Frame::Chunks(pack).write(stream)?;
            let done = packs[at].end as u64;
            tell(Progress { phase: Phase::Sending, done, of: wanted.len() as u64, sent_bytes });
            Ok(bytes)
        })?;
        Ok(sent_bytes)
    }

    fn chunk(
        &self,
        id: u32,
        reader: &mut dyn TreeReader,
        chunk: &mut Vec<u8>,
        together: &mut Vec<u8>,
    ) -> Result<(), ShipmentError> {
        let Some((at, cell)) = self.index.place(id) else { return Ok(()) };
        reader.read(&self.manifest.entries()[at as usize], cell, chunk)?;
        // The manifest was made earlier: a source that is written to meanwhile must not become a mixture.
        if block_digest(chunk).as_ref() != self.index.digest(&self.manifest, id) {
            return Err(changed());
        }
        together.extend(id.to_le_bytes());
        together.extend_from_slice(chunk);
        Ok(())
    }
}
