//! What files hold, read on all processors.

use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Advice, OFlags, SeekFrom};

use super::beneath::{Beneath, Failure, Found, Way};
use super::entry::{Entry, cell_length, cells_of};
use crate::shipment::{BLOCK, BlockDigest, block_digest, processors};

/// Chunks of a large file that a thread takes at a time.
const PIECE: u64 = 512;

/// A part of a file that was read: which entry, and its chunks that are not zero.
type Part = (usize, Vec<(u32, BlockDigest)>);

/// Reads all files of `found` and puts what they hold into their entries. `done` counts the chunks that were passed, holes included; `forget` has
/// them read from the device, not from memory; it ends soon after `stop` says so, with what it has.
pub(super) fn fill(
    beneath: &Beneath,
    found: &mut [Found],
    done: &AtomicU64,
    forget: bool,
    stop: &AtomicBool,
) -> Result<(), Failure> {
    let next = Mutex::new((0, 0));
    let parts: Mutex<Vec<Part>> = Mutex::default();
    let failed: Mutex<Option<Failure>> = Mutex::default();
    let files: &[Found] = found;
    std::thread::scope(|scope| {
        for _ in 0..processors() {
            scope.spawn(|| {
                let (mut way, mut buffer) = (beneath.way(), Vec::with_capacity(BLOCK));
                while let Some((number, cells)) = take(files, &next) {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let Some(content) = files[number].entry.content() else { continue };
                    let work = (&files[number].entry, content.size, cells.clone());
                    match piece(&mut way, work, forget, &mut buffer) {
                        Ok(part) if part.is_empty() => {}
                        Ok(part) => parts.lock().unwrap_or_else(PoisonError::into_inner).push((number, part)),
                        Err(error) => {
                            failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                            next.lock().unwrap_or_else(PoisonError::into_inner).0 = files.len();
                            return;
                        }
                    }
                    done.fetch_add(cells.end - cells.start, Ordering::Relaxed);
                }
            });
        }
    });
    if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let mut parts = parts.into_inner().unwrap_or_else(PoisonError::into_inner);
    parts.sort_by_key(|(number, part)| (*number, part.first().map(|(cell, _)| *cell)));
    for (number, part) in parts {
        let Some(content) = found[number].entry.content_mut() else { continue };
        part.into_iter().for_each(|(cell, digest)| content.push(cell, digest));
    }
    Ok(())
}

/// The next piece of work: an entry, and which of its chunks.
fn take(files: &[Found], next: &Mutex<(usize, u64)>) -> Option<(usize, std::ops::Range<u64>)> {
    let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let (number, from) = *next;
        let cells = files.get(number)?.entry.content().map_or(0, |content| cells_of(content.size));
        if from >= cells {
            *next = (number + 1, 0);
            continue;
        }
        next.1 = cells.min(from + PIECE);
        return Some((number, from..next.1));
    }
}

/// Reads chunks of a file: only what is not in a hole.
fn piece(
    way: &mut Way<'_>,
    (entry, size, cells): (&Entry, u64, std::ops::Range<u64>),
    forget: bool,
    buffer: &mut Vec<u8>,
) -> Result<Vec<(u32, BlockDigest)>, Failure> {
    let path = &entry.path;
    let file = way.file(path, OFlags::RDONLY).map_err(Failure::of(path, "open it"))?;
    if forget {
        let at = cells.start * BLOCK as u64;
        let length = std::num::NonZeroU64::new((cells.end - cells.start) * BLOCK as u64);
        // Best effort: a file system that keeps its pages gives the same bytes.
        let _ = rustix::fs::fadvise(&file, at, length, Advice::DontNeed);
    }
    let (mut part, mut cell, mut may_be_hole) = (Vec::new(), cells.start, size > BLOCK as u64);
    while cell < cells.end {
        if may_be_hole {
            match rustix::fs::seek(&file, SeekFrom::Data(cell * BLOCK as u64)) {
                Ok(data) => cell = cell.max(data / BLOCK as u64),
                Err(rustix::io::Errno::NXIO) => break,
                // A file system that does not tell: no holes.
                Err(_) => {}
            }
            if cell >= cells.end {
                break;
            }
        }
        let number = u32::try_from(cell).unwrap_or(u32::MAX);
        buffer.resize(cell_length(size, number), 0);
        file.read_exact_at(buffer, cell * BLOCK as u64).map_err(Failure::of(path, "read it"))?;
        let digest = block_digest(buffer);
        may_be_hole = digest.is_none();
        part.extend(digest.map(|digest| (number, digest)));
        cell += 1;
    }
    Ok(part)
}
