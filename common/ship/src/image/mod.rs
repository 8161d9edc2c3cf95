//! What of a disk image is in use: its holes, its partitions, and the blocks that its ext2, ext3 and ext4 file systems have given out.
//!
//! Deleted files stay on a disk until something is written over them: in a machine that was installed and configured they are more
//! than a third of what is not zero. What no file system uses need not travel. Everything here reads, nothing writes; whatever is not
//! understood counts as in use.

mod ext;
mod partitions;
mod xfs;

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;

pub use ext::{Features, extent, features, names};
pub use partitions::{Partition, partitions};
pub use xfs::{names as xfs_names, places as xfs_places};

/// Which bytes of an image are not in use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allocation {
    /// In order, apart from each other.
    free: Vec<Range<u64>>,
}

/// Bytes of an image: of a file, or of a block device.
///
/// # Errors
/// It cannot be asked.
pub fn length(mut file: &File) -> io::Result<u64> {
    let bytes = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(0))?;
    Ok(bytes)
}

impl Allocation {
    /// Looks at an image of `bytes`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of(file: &File, bytes: u64) -> io::Result<Self> {
        let mut free = holes(file, bytes)?;
        let parts = partitions(file, bytes)?.into_iter().map(|partition| partition.bytes);
        for place in std::iter::once(0..bytes).chain(parts) {
            // Not a file system, or one that we do not know: all of it is in use.
            if let Some(list) = ext::free(file, &place)? {
                free.extend(list);
            }
        }
        Ok(Self { free: joined(free) })
    }

    /// Looks only for what a sparse file does not have: there everything reads as zero.
    ///
    /// # Errors
    /// It cannot be asked.
    pub(crate) fn holes_of(file: &File, bytes: u64) -> io::Result<Self> {
        Ok(Self { free: joined(holes(file, bytes)?) })
    }

    /// Bytes that are not in use.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.free.iter().map(|range| range.end - range.start).sum()
    }

    /// Whether none of the `length` bytes from `at` is in use.
    #[must_use]
    pub fn is_free(&self, at: u64, length: u64) -> bool {
        let after = self.free.partition_point(|range| range.end <= at);
        self.free.get(after).is_some_and(|range| range.start <= at && at + length <= range.end)
    }

    /// Puts zeros into `block`, which stands at `at`, where it is not in use.
    pub fn clear(&self, at: u64, block: &mut [u8]) {
        let end = at + block.len() as u64;
        let after = self.free.partition_point(|range| range.end <= at);
        for range in self.free[after..].iter().take_while(|range| range.start < end) {
            let (from, to) = (range.start.max(at) - at, range.end.min(end) - at);
            block[from as usize..to as usize].fill(0);
        }
    }
}

/// Where a sparse file has nothing.
fn holes(mut file: &File, bytes: u64) -> io::Result<Vec<Range<u64>>> {
    let mut holes = Vec::new();
    let mut at = 0;
    while at < bytes {
        let data = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) => data,
            // Nothing more but a hole.
            Err(rustix::io::Errno::NXIO) => bytes,
            // A file system or device that does not tell: no holes.
            Err(_) => break,
        };
        if data > at {
            holes.push(at..data.min(bytes));
        }
        if data >= bytes {
            break;
        }
        at = rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(data)).unwrap_or(bytes);
    }
    file.seek(SeekFrom::Start(0))?;
    Ok(holes)
}

fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_by_key(|range| range.start);
    let mut out: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match out.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => out.push(range),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn ranges_join_and_blocks_are_cleared_where_nothing_is_in_use() {
        let allocation = Allocation { free: joined(vec![10..20, 30..30, 15..25, 40..50]) };
        assert_eq!(allocation.free, [10..25, 40..50]);
        assert_eq!(allocation.free_bytes(), 25);
        assert!(allocation.is_free(10, 15) && !allocation.is_free(10, 16) && !allocation.is_free(24, 2));
        let mut block = [1; 40];
        allocation.clear(5, &mut block);
        let want: Vec<u8> = (5..45_u64).map(|at| u8::from(!((10..25).contains(&at) || at >= 40))).collect();
        assert_eq!(block, want[..]);
    }

    #[test]
    fn holes_of_a_sparse_file_are_found() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10 << 20).unwrap();
        file.write_all_at(&[1; 4096], 5 << 20).unwrap();
        let allocation = Allocation::of(&file, 10 << 20).unwrap();
        assert!(
            allocation.is_free(0, 5 << 20)
                && !allocation.is_free(5 << 20, 4096)
                && allocation.is_free(6 << 20, 4 << 20)
        );
    }
}
