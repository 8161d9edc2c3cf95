//! The end that the image comes to.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Instant;

use super::Stream;
use super::send::processors;
use super::wire::{Message, read_blocks, read_held, refuse, write_wants};
use super::{BLOCK, BlockDigest, Phase, Progress, ShipmentError, Shipped, Tell, block_digest, hex, length_of, whole};
use crate::image::Allocation;

/// Blocks that wait to be unpacked, checked and written, for each thread.
const WAITING: usize = 32;
/// How many blocks are looked at between two words to the sender.
const WORD: u64 = 1024;
/// How many blocks must be what the target is said to hold before the rest of them is believed: what was on it for some time and was
/// written to, or is something else altogether, is not worth a second round.
const SAMPLES: usize = 64;

/// What is written to: a file, which is made and sparse, or a block device, which must be large enough.
#[derive(Debug)]
pub struct Target {
    file: File,
    path: PathBuf,
    /// It keeps its length, which is a device's or was given to it.
    is_fixed: bool,
}

impl Target {
    /// Opens or makes the target at `path`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn open(path: &Path) -> Result<Self, ShipmentError> {
        let fail = |error: io::Error| ShipmentError::Target(format!("{}: {error}", path.display()));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(fail)?;
        let kind = file.metadata().map_err(fail)?.file_type();
        if !(kind.is_file() || kind.is_block_device()) {
            return Err(ShipmentError::Target(format!("{}: neither a file nor a block device", path.display())));
        }
        Ok(Self { file, path: path.to_owned(), is_fixed: kind.is_block_device() })
    }

    /// Opens the beginning of the target at `path`, which has its length already.
    ///
    /// # Errors
    /// It is not there, or cannot be written.
    pub(crate) fn front(path: &Path) -> Result<Self, ShipmentError> {
        Ok(Self { is_fixed: true, ..Self::open(path)? })
    }

    fn fail(&self, error: &io::Error) -> ShipmentError {
        ShipmentError::Target(format!("{}: {error}", self.path.display()))
    }

    /// Makes room for an image of `bytes`.
    fn prepare(&self, bytes: u64) -> Result<(), ShipmentError> {
        let now = crate::image::length(&self.file).map_err(|error| self.fail(&error))?;
        if self.is_fixed {
            if now < bytes {
                let message = format!("{} has {now} bytes, fewer than the image's {bytes}", self.path.display());
                return Err(ShipmentError::Target(message));
            }
        } else if now != bytes {
            self.file.set_len(bytes).map_err(|error| self.fail(&error))?;
        }
        Ok(())
    }

    /// Makes `length` bytes from `at` zero, without writing them where the file system or device can do that.
    fn zero(&self, at: u64, length: u64) -> io::Result<()> {
        use rustix::fs::FallocateFlags;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, flags, at, length) {
            Ok(()) => Ok(()),
            Err(_) => {
                let zeros = vec![0; usize::try_from(length).unwrap_or(BLOCK).min(1 << 20)];
                let mut done = 0;
                while done < length {
                    let n = zeros.len().min(usize::try_from(length - done).unwrap_or(usize::MAX));
                    self.file.write_all_at(&zeros[..n], at + done)?;
                    done += n as u64;
                }
                Ok(())
            }
        }
    }

    /// Writes what is in memory to the device, and forgets it there, so that what is read next comes from the device.
    fn settle(&self) -> io::Result<()> {
        self.file.sync_all()?;
        // Best effort: a file system that keeps its pages gives the same bytes.
        let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed);
        Ok(())
    }
}

/// A place that may already have some of the blocks.
struct Base {
    file: File,
}

/// What is believed of a target before it is written to.
enum Before {
    /// Nothing: all of it is looked at.
    Unknown,
    /// It has these blocks already.
    Holds(Vec<bool>),
    /// It reads as zeros.
    Blank,
}

impl Before {
    /// The blocks that it has already, if that is believed.
    fn holds(&self) -> Option<&[bool]> {
        match self {
            Self::Holds(held) => Some(held),
            Self::Unknown | Self::Blank => None,
        }
    }
}

/// Takes one image.
pub struct Receiver {
    target: Target,
    bases: Vec<Base>,
    /// Nothing was ever written to the target.
    is_blank: AtomicBool,
    began: Instant,
}

impl Receiver {
    /// Takes an image onto `target`; blocks that one of the images `bases` has need not travel.
    ///
    /// # Errors
    /// A base cannot be read.
    pub fn new(target: Target, bases: &[PathBuf]) -> Result<Self, ShipmentError> {
        let open = |path: &PathBuf| {
            let file =
                File::open(path).map_err(|error| ShipmentError::Target(format!("{}: {error}", path.display())))?;
            Ok(Base { file })
        };
        let bases = bases.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { target, bases, is_blank: AtomicBool::new(false), began: Instant::now() })
    }

    /// Takes the caller's word that the target was never written to and reads as zeros, as a new EBS volume does. The first attempt then
    /// looks at some of its blocks alone before it says what it lacks, and reads only those back that it has written: a large
    /// volume takes minutes to read, most of it for nothing. If there is something on it, all of it is looked at as usual.
    #[must_use]
    pub fn onto_blank(self) -> Self {
        self.is_blank.store(true, Ordering::Relaxed);
        self
    }

    /// Takes it over one connection.
    ///
    /// # Errors
    /// See [`ShipmentError`]. What arrived stays on the target, and another attempt finds it there.
    pub fn run(&self, stream: &mut dyn Stream, tell: Tell<'_>) -> Result<Shipped, ShipmentError> {
        let result = self.attempt(stream, tell);
        if let Err(error) = &result {
            refuse(stream, error);
            // So that the next attempt finds it, whatever becomes of the machine.
            let _ = self.target.file.sync_all();
        }
        result
    }

    fn attempt(&self, stream: &mut dyn Stream, tell: Tell<'_>) -> Result<Shipped, ShipmentError> {
        let (bytes, digest, is_based) = match Message::read(stream)? {
            Message::Hello { bytes, digest, is_based } => (bytes, digest, is_based),
            Message::Refuse(reason) => return Err(ShipmentError::Refused(reason)),
            _ => return Err(ShipmentError::Protocol("a shipment begins otherwise")),
        };
        let blocks = read_blocks(stream, bytes)?;
        if whole(bytes, &blocks) != digest {
            return Err(ShipmentError::Protocol("the manifest is not what its digest says"));
        }
        let held = if is_based { Some(read_held(stream, blocks.len())?) } else { None };
        self.target.prepare(bytes)?;
        // Whatever becomes of this attempt, the next one finds something there.
        let before = if self.is_blank.swap(false, Ordering::Relaxed) && self.is_blank_at_samples(bytes) {
            Before::Blank
        } else {
            held.filter(|held| self.holds(bytes, &blocks, held)).map_or(Before::Unknown, Before::Holds)
        };
        let wants = self.compare(bytes, &blocks, &before, stream, tell)?;
        let count = |all: &[bool]| all.iter().filter(|is| **is).count() as u64;
        write_wants(stream, &wants)?;
        let mut sent = count(&wants);
        let mut sent_bytes = self.take(bytes, &blocks, &wants, stream, tell)?;
        self.target.settle().map_err(|error| self.target.fail(&error))?;
        let empty = matches!(before, Before::Blank).then(|| blocks.iter().map(Option::is_none).collect::<Vec<bool>>());
        let mut bad = self.verify(bytes, &blocks, empty.as_deref(), stream, tell)?;
        let is_doubtful = |(at, bad): (usize, &bool)| *bad && before.holds().is_some_and(|held| held[at]);
        if bad.iter().enumerate().any(is_doubtful) {
            // What was believed was not so. Nothing else is asked for twice.
            let good: Vec<bool> = bad.iter().map(|bad| !bad).collect();
            Message::Again(count(&bad)).write(stream)?;
            self.empty(bytes, &blocks, &mut bad)?;
            write_wants(stream, &bad)?;
            sent += count(&bad);
            sent_bytes += self.take(bytes, &blocks, &bad, stream, tell)?;
            self.target.settle().map_err(|error| self.target.fail(&error))?;
            bad = self.verify(bytes, &blocks, Some(&good), stream, tell)?;
        }
        if let Some(block) = bad.iter().position(|bad| *bad) {
            return Err(ShipmentError::Damaged { block: block as u64 });
        }
        Message::Done.write(stream)?;
        stream.flush().map_err(ShipmentError::Connection)?;
        Ok(Shipped {
            bytes,
            blocks: blocks.iter().flatten().count() as u64,
            sent,
            sent_bytes,
            believed: before.holds().map_or(0, count),
            digest: hex(&digest),
            took: self.began.elapsed(),
        })
    }

    /// Whether the target is what it is said to be, as far as some of the blocks that it is said to hold tell.
    fn holds(&self, bytes: u64, blocks: &[Option<BlockDigest>], held: &[bool]) -> bool {
        let full: Vec<usize> = (0..blocks.len()).filter(|at| held[*at] && blocks[*at].is_some()).collect();
        let step = (full.len() / SAMPLES).max(1);
        let mut buffer = Vec::with_capacity(BLOCK);
        !full.is_empty()
            && full.iter().skip(step / 2).step_by(step).all(|at| {
                let number = *at as u64;
                buffer.resize(length_of(bytes, number), 0);
                let read = self.target.file.read_exact_at(&mut buffer, number * BLOCK as u64);
                read.is_ok() && block_digest(&buffer) == blocks[*at]
            })
    }

    /// Whether the target reads as zeros at some places all over it, the first one and the last among them.
    fn is_blank_at_samples(&self, bytes: u64) -> bool {
        let last = super::blocks_of(bytes).saturating_sub(1);
        let samples = last.min(SAMPLES as u64).max(1);
        let mut buffer = Vec::with_capacity(BLOCK);
        (0..=samples).all(|nth| {
            let number = last * nth / samples;
            buffer.resize(length_of(bytes, number), 0);
            let read = self.target.file.read_exact_at(&mut buffer, number * BLOCK as u64);
            read.is_ok() && block_digest(&buffer).is_none()
        })
    }

    /// Looks at all blocks of `file` but those that are `passed` over, on all processors. `look` gets the number and the digest of what is there, and says what it finds;
    /// `word` hears now and then how many were looked at.
    fn look<T: Send + Default>(
        file: &File,
        (bytes, count): (u64, u64),
        passed: Option<&[bool]>,
        look: &(dyn Fn(u64, Option<BlockDigest>) -> T + Sync),
        word: &mut dyn FnMut(u64) -> Result<(), ShipmentError>,
    ) -> Result<Vec<T>, ShipmentError> {
        let holes = Allocation::holes_of(file, bytes).unwrap_or_default();
        let next = AtomicU64::new(0);
        let failed: Mutex<Option<io::Error>> = Mutex::new(None);
        let (send, receive) = mpsc::channel::<(u64, Vec<T>)>();
        let mut parts = std::thread::scope(|scope| {
            for _ in 0..processors() {
                let (send, next, failed, holes) = (send.clone(), &next, &failed, &holes);
                scope.spawn(move || {
                    let mut buffer = Vec::with_capacity(BLOCK);
                    loop {
                        let from = next.fetch_add(WORD / 16, Ordering::Relaxed);
                        if from >= count {
                            return;
                        }
                        let mut part = Vec::new();
                        for number in from..count.min(from + WORD / 16) {
                            if passed.is_some_and(|passed| passed[number as usize]) {
                                part.push(T::default());
                                continue;
                            }
                            let at = number * BLOCK as u64;
                            buffer.resize(length_of(bytes, number), 0);
                            if holes.is_free(at, buffer.len() as u64) {
                                part.push(look(number, None));
                                continue;
                            }
                            if let Err(error) = file.read_exact_at(&mut buffer, at) {
                                *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                                return;
                            }
                            part.push(look(number, block_digest(&buffer)));
                        }
                        if send.send((from, part)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(send);
            let (mut parts, mut done, mut told) = (Vec::new(), 0, 0);
            while let Ok((from, part)) = receive.recv() {
                done += part.len() as u64;
                parts.push((from, part));
                if done >= told + WORD {
                    told = done;
                    word(done)?;
                }
            }
            Ok(parts)
        })?;
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(ShipmentError::Target(format!("it cannot be read: {error}")));
        }
        parts.sort_by_key(|(from, _)| *from);
        Ok(parts.into_iter().flat_map(|(_, part)| part).collect())
    }

    /// Brings onto the target what is here already, and says which blocks must come. What is believed of the target is not looked at.
    fn compare(
        &self,
        bytes: u64,
        blocks: &[Option<BlockDigest>],
        before: &Before,
        stream: &mut dyn Stream,
        tell: Tell<'_>,
    ) -> Result<Vec<bool>, ShipmentError> {
        let count = blocks.len() as u64;
        let mut word = |done| {
            tell(Progress { phase: Phase::Comparing, done, of: count, sent_bytes: 0 });
            Message::At(done).write(stream)?;
            stream.flush().map_err(ShipmentError::Connection)
        };
        let lacks = |number: u64, digest| blocks[number as usize] != digest;
        let mut wants = match before {
            Before::Blank => blocks.iter().map(Option::is_some).collect(),
            before => Self::look(&self.target.file, (bytes, count), before.holds(), &lacks, &mut word)?,
        };
        // Where the bases have what is wanted.
        let mut wanted: HashMap<BlockDigest, Vec<u64>> = HashMap::new();
        for (number, block) in (0..).zip(blocks) {
            if let (true, Some(digest)) = (wants[number as usize], block) {
                wanted.entry(*digest).or_default().push(number);
            }
        }
        for base in &self.bases {
            if wanted.is_empty() {
                break;
            }
            let length = crate::image::length(&base.file).map_err(|error| self.target.fail(&error))?;
            let all = (length, super::blocks_of(length));
            let digests = Self::look(&base.file, all, None, &|_, digest| digest, &mut word)?;
            let mut buffer = Vec::with_capacity(BLOCK);
            for (at, digest) in (0..).zip(digests) {
                let Some(numbers) = digest.and_then(|digest| wanted.remove(&digest)) else { continue };
                buffer.resize(length_of(length, at), 0);
                let copied = base.file.read_exact_at(&mut buffer, at * BLOCK as u64).and_then(|()| {
                    numbers.iter().try_for_each(|n| self.target.file.write_all_at(&buffer, n * BLOCK as u64))
                });
                copied.map_err(|error| self.target.fail(&error))?;
                numbers.iter().for_each(|number| wants[*number as usize] = false);
            }
        }
        self.empty(bytes, blocks, &mut wants)?;
        Ok(wants)
    }

    /// Empties those of the blocks `wanted` that hold nothing, so that they need not come.
    fn empty(&self, bytes: u64, blocks: &[Option<BlockDigest>], wanted: &mut [bool]) -> Result<(), ShipmentError> {
        for (number, wanted) in (0..).zip(wanted).filter(|(_, wanted)| **wanted) {
            if blocks[number as usize].is_none() {
                let zeroed = self.target.zero(number * BLOCK as u64, length_of(bytes, number) as u64);
                zeroed.map_err(|error| self.target.fail(&error))?;
                *wanted = false;
            }
        }
        Ok(())
    }

    /// Takes the blocks that come: unpacked, checked and written on all processors.
    fn take(
        &self,
        bytes: u64,
        blocks: &[Option<BlockDigest>],
        wants: &[bool],
        stream: &mut dyn Stream,
        tell: Tell<'_>,
    ) -> Result<u64, ShipmentError> {
        let of = wants.iter().filter(|wanted| **wanted).count() as u64;
        let failed: Mutex<Option<ShipmentError>> = Mutex::new(None);
        let mut sent_bytes = 0;
        let mut came = vec![false; wants.len()];
        let result = std::thread::scope(|scope| {
            let mut lanes = Vec::new();
            for _ in 0..processors() {
                let (send, receive) = mpsc::sync_channel::<Message>(WAITING);
                lanes.push(send);
                let failed = &failed;
                scope.spawn(move || {
                    let mut buffer = vec![0; BLOCK];
                    for message in receive {
                        if let Err(error) = self.put(bytes, blocks, &message, &mut buffer) {
                            failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                            return;
                        }
                    }
                });
            }
            let mut done = 0;
            loop {
                let message = Message::read(stream)?;
                match &message {
                    Message::Plain(number, block) | Message::Packed(number, block) => {
                        let at = usize::try_from(*number).unwrap_or(usize::MAX);
                        if !wants.get(at).is_some_and(|wanted| *wanted) || std::mem::replace(&mut came[at], true) {
                            return Err(ShipmentError::Protocol("a block that nobody asked for"));
                        }
                        sent_bytes += block.len() as u64;
                        done += 1;
                        tell(Progress { phase: Phase::Sending, done, of, sent_bytes });
                    }
                    Message::End if done == of => return Ok(()),
                    Message::End => return Err(ShipmentError::Protocol("it ends before all blocks came")),
                    Message::Refuse(reason) => return Err(ShipmentError::Refused(reason.clone())),
                    _ => return Err(ShipmentError::Protocol("a block was to come")),
                }
                let lane = done as usize % lanes.len();
                if lanes[lane].send(message).is_err() {
                    // Its thread has ended: it says why.
                    return Ok(());
                }
            }
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => result.map(|()| sent_bytes),
        }
    }

    fn put(
        &self,
        bytes: u64,
        blocks: &[Option<BlockDigest>],
        message: &Message,
        buffer: &mut [u8],
    ) -> Result<(), ShipmentError> {
        let (number, block) = match message {
            Message::Plain(number, block) => (*number, &block[..]),
            Message::Packed(number, packed) => {
                let length = zstd::bulk::decompress_to_buffer(packed, buffer)
                    .map_err(|_| ShipmentError::Protocol("a block that cannot be unpacked"))?;
                (*number, &buffer[..length])
            }
            _ => return Ok(()),
        };
        if block.len() != length_of(bytes, number) || block_digest(block) != blocks[number as usize] {
            return Err(ShipmentError::Protocol("a block is not what the manifest says"));
        }
        self.target.file.write_all_at(block, number * BLOCK as u64).map_err(|error| self.target.fail(&error))
    }

    /// Reads everything back but what is `passed` over, and says which blocks are not what they should be.
    fn verify(
        &self,
        bytes: u64,
        blocks: &[Option<BlockDigest>],
        passed: Option<&[bool]>,
        stream: &mut dyn Stream,
        tell: Tell<'_>,
    ) -> Result<Vec<bool>, ShipmentError> {
        let count = blocks.len() as u64;
        let mut word = |done| {
            tell(Progress { phase: Phase::Verifying, done, of: count, sent_bytes: 0 });
            Message::At(done).write(stream)?;
            stream.flush().map_err(ShipmentError::Connection)
        };
        let differs = |number: u64, digest| digest != blocks[number as usize];
        Self::look(&self.target.file, (bytes, count), passed, &differs, &mut word)
    }
}
