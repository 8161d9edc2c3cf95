//! An ext2, ext3 or ext4 file system as it lies on a disk. Nothing on it is believed: every place is looked at before it is read, and
//! every loop has an end.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use super::super::mounted::Origin;

const SUPERBLOCK: u64 = 1024;
const MAGIC: u16 = 0xef53;
const CLEAN: u16 = 1;
const INCOMPAT_64BIT: u32 = 0x80;
/// What may be there: file types, extents, 64 bit, multiple mount protection, flexible groups, values of attributes in inodes (which are
/// refused where they are used), checksum seeds, large folders, data in inodes (likewise), encryption (likewise), case folding. A journal
/// that must be replayed is not among them.
const INCOMPAT_KNOWN: u32 = 0x2 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x10000 | 0x20000;
/// Groups of the largest file system that is read (64 TiB).
const GROUPS: u64 = 1 << 20;
/// Runs of blocks of one file.
const EXTENTS: usize = 4 << 20;
/// Bytes of the largest folder that is read.
const FOLDER: u64 = 1 << 30;

pub(super) const FLAG_ENCRYPTED: u32 = 0x800;
const FLAG_EXTENTS: u32 = 0x8_0000;
pub(super) const FLAG_INLINE: u32 = 0x1000_0000;
const EXTENT_MAGIC: u16 = 0xf30a;

/// Why an image is not read.
#[derive(Debug, thiserror::Error)]
pub enum ExtError {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It uses something that is not known here, or was not unmounted.
    #[error("its file system {0}")]
    Unknown(&'static str),
    /// It says what cannot be.
    #[error("its file system is damaged: {0}")]
    Damaged(&'static str),
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u16::from_le_bytes(*chunk))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

/// A file system.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) file: File,
    base: u64,
    blocks: u64,
    pub(super) block: u64,
    inode_size: usize,
    inodes: u32,
    per_group: u32,
    /// Where each group's inodes are, in blocks.
    tables: Vec<u64>,
    pub(super) origin: Origin,
}

/// A run of blocks of a file: the first in the file, how many, and the first on the disk.
pub(super) type Extent = (u64, u64, u64);

/// An inode as it is written down.
pub(super) struct Raw(pub(super) Vec<u8>);

impl Raw {
    pub(super) fn mode(&self) -> u16 {
        u16_at(&self.0, 0)
    }

    pub(super) fn size(&self) -> u64 {
        u64::from(u32_at(&self.0, 108)) << 32 | u64::from(u32_at(&self.0, 4))
    }

    pub(super) fn flags(&self) -> u32 {
        u32_at(&self.0, 32)
    }

    /// The part with the places of its blocks.
    pub(super) fn places(&self) -> &[u8] {
        self.0.get(40..100).unwrap_or_default()
    }

    pub(super) fn is_fast_link(&self) -> bool {
        self.size() < 60 && self.flags() & FLAG_EXTENTS == 0
    }
}

impl Disk {
    /// Reads what the file system at `place` says of itself; nothing if it is none.
    pub(super) fn open(file: File, place: &Range<u64>) -> Result<Option<Self>, ExtError> {
        let mut sb = [0; 1024];
        if place.end.saturating_sub(place.start) < 2 * SUPERBLOCK {
            return Ok(None);
        }
        file.read_exact_at(&mut sb, place.start + SUPERBLOCK)?;
        let Some(origin) = Origin::of(&file, place)? else { return Ok(None) };
        let incompat = u32_at(&sb, 96);
        if u16_at(&sb, 56) != MAGIC || u16_at(&sb, 58) & CLEAN == 0 || incompat & 4 != 0 {
            return Err(ExtError::Unknown("was not cleanly unmounted"));
        }
        if incompat & !INCOMPAT_KNOWN != 0 || u32_at(&sb, 24) > 6 {
            return Err(ExtError::Unknown("has features that are not known here"));
        }
        let block = 1024_u64 << u32_at(&sb, 24);
        let wide = incompat & INCOMPAT_64BIT != 0;
        let high = if wide { u64::from(u32_at(&sb, 336)) << 32 } else { 0 };
        let (blocks, first) = (high | u64::from(u32_at(&sb, 4)), u64::from(u32_at(&sb, 20)));
        let (per_group, group_blocks) = (u32_at(&sb, 40), u64::from(u32_at(&sb, 32)));
        let inode_size = if u32_at(&sb, 76) == 0 { 128 } else { usize::from(u16_at(&sb, 88)) };
        let descriptor = if wide { usize::from(u16_at(&sb, 254)).max(32) } else { 32 };
        let fits = blocks.checked_mul(block).is_some_and(|bytes| bytes <= place.end - place.start);
        let good = fits && per_group > 0 && group_blocks > 0 && first <= 1 && descriptor <= 1024;
        if !good || !(128..=4096).contains(&inode_size) {
            return Err(ExtError::Damaged("its measures"));
        }
        let groups = blocks.saturating_sub(first).div_ceil(group_blocks);
        if groups > GROUPS {
            return Err(ExtError::Unknown("is too large"));
        }
        let mut table = vec![0; groups as usize * descriptor];
        file.read_exact_at(&mut table, place.start + (first + 1) * block)?;
        let tables = table.chunks_exact(descriptor).map(|group| {
            let high = if wide && descriptor >= 64 { u64::from(u32_at(group, 40)) << 32 } else { 0 };
            high | u64::from(u32_at(group, 8))
        });
        let (tables, inodes) = (tables.collect(), u32_at(&sb, 0));
        Ok(Some(Self { base: place.start, blocks, block, inode_size, inodes, per_group, tables, origin, file }))
    }

    /// Reads `buffer` from `at` bytes into block `block`.
    pub(super) fn read(&self, block: u64, at: u64, buffer: &mut [u8]) -> Result<(), ExtError> {
        let from = block.checked_mul(self.block).and_then(|from| from.checked_add(at));
        let end = from.and_then(|from| from.checked_add(buffer.len() as u64));
        match (from, end) {
            (Some(from), Some(end)) if end <= self.blocks * self.block => {
                Ok(self.file.read_exact_at(buffer, self.base + from)?)
            }
            _ => Err(ExtError::Damaged("a block is not on the disk")),
        }
    }

    fn whole(&self, block: u64) -> Result<Vec<u8>, ExtError> {
        let mut buffer = vec![0; self.block as usize];
        self.read(block, 0, &mut buffer)?;
        Ok(buffer)
    }

    /// The inode of this number.
    pub(super) fn inode(&self, number: u32) -> Result<Raw, ExtError> {
        let bad = ExtError::Damaged("a name stands for no inode");
        if number == 0 || number > self.inodes {
            return Err(bad);
        }
        let (group, at) = ((number - 1) / self.per_group, (number - 1) % self.per_group);
        let table = *self.tables.get(group as usize).ok_or(bad)?;
        let mut raw = vec![0; self.inode_size];
        self.read(table, u64::from(at) * self.inode_size as u64, &mut raw)?;
        Ok(Raw(raw))
    }

    /// Where the content of a file is, in order. What is not there is zeros.
    pub(super) fn extents(&self, raw: &Raw) -> Result<Vec<Extent>, ExtError> {
        let mut all = Vec::new();
        let blocks = raw.size().div_ceil(self.block);
        if raw.flags() & FLAG_INLINE != 0 {
            return Err(ExtError::Unknown("keeps what files hold in their inodes"));
        }
        if raw.flags() & FLAG_EXTENTS != 0 {
            self.tree(raw.places(), 5, &mut all)?;
        } else {
            let mut at = 0;
            // Twelve blocks, then a list, a list of lists, and a list of those.
            for (slot, depth) in (0..15).zip(std::iter::repeat_n(0, 12).chain(1..)) {
                self.pointers(u64::from(u32_at(raw.places(), slot * 4)), depth, &mut at, blocks, &mut all)?;
            }
        }
        all.sort_unstable();
        if !all.is_sorted_by(|a, b| a.0 + a.1 <= b.0) {
            return Err(ExtError::Damaged("a block of a file is in two places"));
        }
        Ok(all)
    }

    fn tree(&self, node: &[u8], most: u16, all: &mut Vec<Extent>) -> Result<(), ExtError> {
        let (entries, depth) = (usize::from(u16_at(node, 2)), u16_at(node, 6));
        if u16_at(node, 0) != EXTENT_MAGIC || depth > most || (entries + 1) * 12 > node.len() {
            return Err(ExtError::Damaged("a file's list of blocks"));
        }
        for entry in node[12..].chunks_exact(12).take(entries) {
            if depth > 0 {
                let place = u64::from(u16_at(entry, 8)) << 32 | u64::from(u32_at(entry, 4));
                let node = self.whole(place)?;
                if u16_at(&node, 6) != depth - 1 {
                    return Err(ExtError::Damaged("a file's list of blocks"));
                }
                self.tree(&node, depth - 1, all)?;
                continue;
            }
            let length = u16_at(entry, 4);
            // Longer ones were given out, and never written: they read as zeros.
            if length <= 32_768 {
                let place = u64::from(u16_at(entry, 6)) << 32 | u64::from(u32_at(entry, 8));
                all.push((u64::from(u32_at(entry, 0)), u64::from(length), place));
            }
        }
        if all.len() > EXTENTS { Err(ExtError::Unknown("has a file in too many pieces")) } else { Ok(()) }
    }

    /// The old way: blocks one by one, in lists, in lists of lists. `at` counts the blocks of the file that were passed.
    fn pointers(
        &self,
        place: u64,
        depth: u32,
        at: &mut u64,
        blocks: u64,
        all: &mut Vec<Extent>,
    ) -> Result<(), ExtError> {
        if *at >= blocks {
            return Ok(());
        }
        if place == 0 {
            *at += (self.block / 4).pow(depth);
            return Ok(());
        }
        if depth > 0 {
            return self
                .whole(place)?
                .chunks_exact(4)
                .try_for_each(|next| self.pointers(u64::from(u32_at(next, 0)), depth - 1, at, blocks, all));
        }
        match all.last_mut() {
            Some((from, length, first)) if *from + *length == *at && *first + *length == place => *length += 1,
            _ => all.push((*at, 1, place)),
        }
        *at += 1;
        if all.len() > EXTENTS { Err(ExtError::Unknown("has a file in too many pieces")) } else { Ok(()) }
    }

    /// Reads `buffer` from `at` of a file with these extents. Whether anything of it is on the disk.
    pub(super) fn content(&self, extents: &[Extent], at: u64, buffer: &mut [u8]) -> Result<bool, ExtError> {
        buffer.fill(0);
        let (end, mut any) = (at + buffer.len() as u64, false);
        let first = extents.partition_point(|(from, length, _)| (from + length) * self.block <= at);
        for (from, length, place) in &extents[first..] {
            let (start, stop) = ((from * self.block).max(at), ((from + length) * self.block).min(end));
            if start >= stop {
                break;
            }
            any = true;
            let part = &mut buffer[(start - at) as usize..(stop - at) as usize];
            self.read(*place, start - from * self.block, part)?;
        }
        Ok(any)
    }

    /// What a folder or a long symbolic link holds.
    pub(super) fn all(&self, raw: &Raw, most: u64) -> Result<Vec<u8>, ExtError> {
        if raw.size() > most.min(FOLDER) {
            return Err(ExtError::Damaged("a folder or a link is too long"));
        }
        let mut bytes = vec![0; raw.size() as usize];
        self.content(&self.extents(raw)?, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// The names in a folder, and the numbers of their inodes.
    pub(super) fn names(&self, raw: &Raw) -> Result<Vec<(Vec<u8>, u32)>, ExtError> {
        let bad = ExtError::Damaged("a folder's names");
        let mut names = Vec::new();
        for block in self.all(raw, FOLDER)?.chunks(self.block as usize) {
            let mut rest = block;
            while rest.len() >= 8 {
                let (number, length) = (u32_at(rest, 0), usize::from(u16_at(rest, 4)));
                // The length of a block of 64 KiB does not fit.
                let length = if length == 0 || length == 0xffff { rest.len() } else { length };
                let name = rest.get(8..8 + usize::from(rest[6])).ok_or(ExtError::Damaged("a folder's names"))?;
                if length < 8 || length > rest.len() {
                    return Err(bad);
                }
                // The folders of an index look like names that were removed.
                if number != 0 && name != b"." && name != b".." {
                    names.push((name.to_vec(), number));
                }
                rest = &rest[length..];
            }
        }
        Ok(names)
    }

    /// The block with the attributes of an inode that have no room in it.
    pub(super) fn attribute_block(&self, raw: &Raw) -> Result<Option<Vec<u8>>, ExtError> {
        let place = u64::from(u16_at(&raw.0, 118)) << 32 | u64::from(u32_at(&raw.0, 104));
        if place == 0 { Ok(None) } else { self.whole(place).map(Some) }
    }
}
