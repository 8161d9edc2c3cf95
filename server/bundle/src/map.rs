//! Which bytes of an image there are: the rest are holes, and zero.

use std::fs::File;
use std::io;
use std::ops::Range;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Extents begin and end at a multiple of it, but for the image's end: what a tar file counts in.
const UNIT: u64 = 512;
/// Extents that a map has at the most. Above, small holes count as data.
const EXTENTS: usize = 1 << 16;

/// Bytes that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where they begin.
    pub offset: u64,
    /// How many.
    pub bytes: u64,
}

impl Extent {
    /// Where they end.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.offset.saturating_add(self.bytes)
    }
}

/// An image's size, and what of it is data: in order, apart from each other, at multiples of 512.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    bytes: u64,
    extents: Vec<Extent>,
}

impl Map {
    /// All of an image is data.
    #[must_use]
    pub fn dense(bytes: u64) -> Self {
        Self { bytes, extents: if bytes == 0 { Vec::new() } else { vec![Extent { offset: 0, bytes }] } }
    }

    /// An image of `bytes`, of which only `data` are not holes. The ranges may come in any order and overlap.
    #[must_use]
    pub fn new(bytes: u64, data: impl IntoIterator<Item = Range<u64>>) -> Self {
        let round = |range: Range<u64>| {
            let start = range.start / UNIT * UNIT;
            start..range.end.div_ceil(UNIT).saturating_mul(UNIT).min(bytes)
        };
        let mut ranges: Vec<Range<u64>> = data.into_iter().filter(|range| !range.is_empty()).map(round).collect();
        ranges.retain(|range| !range.is_empty());
        ranges.sort_by_key(|range| range.start);
        let mut gap = 0;
        loop {
            ranges = joined(&ranges, gap);
            if ranges.len() <= EXTENTS {
                break;
            }
            gap = (gap * 2).max(UNIT);
        }
        let extents =
            ranges.into_iter().map(|range| Extent { offset: range.start, bytes: range.end - range.start }).collect();
        Self { bytes, extents }
    }

    /// What the file system knows of a file. Where it does not tell, all is data.
    ///
    /// # Errors
    /// It cannot be asked.
    pub fn of_file(file: &File) -> io::Result<Self> {
        // Not of the metadata: a block device has no size there.
        let bytes = seek(file, SeekFrom::End(0))?;
        let (mut data, mut at) = (Vec::new(), 0);
        while at < bytes {
            let start = match seek(file, SeekFrom::Data(at)) {
                Ok(start) => start,
                // Nothing more but a hole.
                Err(Errno::NXIO) => break,
                Err(_) => at,
            };
            let end = seek(file, SeekFrom::Hole(start)).unwrap_or(bytes).max(start + 1);
            data.push(start..end);
            at = end;
        }
        seek(file, SeekFrom::Start(0))?;
        Ok(Self::new(bytes, data))
    }

    /// The image's size.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What is data.
    #[must_use]
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// How many bytes are data.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.extents.iter().map(|extent| extent.bytes).sum()
    }

    /// Whether there is a hole.
    #[must_use]
    pub fn is_sparse(&self) -> bool {
        self.data_bytes() < self.bytes
    }
}

fn joined(ranges: &[Range<u64>], gap: u64) -> Vec<Range<u64>> {
    let mut out: Vec<Range<u64>> = Vec::with_capacity(ranges.len().min(2 * EXTENTS));
    for range in ranges {
        match out.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(gap) => last.end = last.end.max(range.end),
            _ => out.push(range.clone()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn ranges_are_put_in_order() {
        let map = Map::new(5000, [4090..4100, 0..1, 1024..2000, 600..700, 9000..9001]);
        let ranges: Vec<_> = map.extents().iter().map(|extent| extent.offset..extent.end()).collect();
        assert_eq!(ranges, [0..2048, 3584..4608]);
        assert_eq!((map.bytes(), map.data_bytes(), map.is_sparse()), (5000, 3072, true));
        assert!(!Map::dense(7).is_sparse() && !Map::dense(0).is_sparse());
        assert_eq!(Map::dense(0).extents(), []);
        assert_eq!(Map::new(700, Some(0..700)), Map::dense(700));
        assert_eq!(Map::new(u64::MAX, Some(0..u64::MAX)), Map::dense(u64::MAX));
    }

    #[test]
    fn a_map_stays_small() {
        let map = Map::new(1 << 40, (0..300_000).map(|i| i * 4096..i * 4096 + 512));
        assert!(map.extents().len() <= EXTENTS, "{}", map.extents().len());
        assert_eq!(map.extents().last().map(Extent::end), Some(299_999 * 4096 + 512));
    }

    #[test]
    fn a_file_is_asked() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10 << 20).unwrap();
        file.write_all_at(b"x", 5 << 20).unwrap();
        let map = Map::of_file(&file).unwrap();
        assert_eq!(map.bytes(), 10 << 20);
        // A file system without holes would have all of it.
        assert!(map.extents().iter().any(|extent| extent.offset <= 5 << 20 && 5 << 20 < extent.end()));
    }
}
