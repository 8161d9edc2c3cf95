//! The free blocks of an ext2, ext3 or ext4 file system, from its bitmaps. A file system that was not unmounted cleanly, that is
//! damaged, or that has features which change what the bitmaps mean, counts as wholly in use.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

/// Where the superblock is.
const SUPERBLOCK: u64 = 1024;
const MAGIC: u16 = 0xef53;
/// It was unmounted cleanly.
const CLEAN: u16 = 1;
const INCOMPAT_RECOVER: u32 = 0x4;
const INCOMPAT_JOURNAL_DEV: u32 = 0x8;
const INCOMPAT_META_BG: u32 = 0x10;
const INCOMPAT_64BIT: u32 = 0x80;
/// Features under which the bitmaps say what we think: file types, recovery (looked at on its own), meta_bg (likewise), extents, 64 bit,
/// multiple mount protection, flexible groups, extended attributes in inodes, checksum seeds, large directories, data in inodes,
/// encryption, case folding.
const INCOMPAT_KNOWN: u32 =
    0x2 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x10000 | 0x20000;
/// Blocks are given out in clusters.
const RO_COMPAT_BIGALLOC: u32 = 0x200;
/// The group's bitmap was never written: all its blocks are free but for the file system's own.
const GROUP_BLOCK_UNINIT: u16 = 2;
/// Groups of the largest file system that we look at (64 TiB).
const GROUPS: u64 = 1 << 20;

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u16::from_le_bytes(*chunk))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

/// The UUID and the label of the ext2, ext3 or ext4 file system at `place`, whatever its state; nothing if it is none.
///
/// # Errors
/// The image cannot be read.
pub fn names(file: &File, place: &Range<u64>) -> io::Result<Option<([u8; 16], [u8; 16])>> {
    let mut sb = [0; 1024];
    if place.end.saturating_sub(place.start) < 2 * SUPERBLOCK {
        return Ok(None);
    }
    file.read_exact_at(&mut sb, place.start + SUPERBLOCK)?;
    let sixteen = |at: usize| sb.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; 16]);
    Ok((u16_at(&sb, 56) == MAGIC).then(|| (sixteen(104), sixteen(120))))
}

/// What a file system is like, as far as whoever reads it must understand it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// What others may pass over.
    pub compat: u32,
    /// What nobody may.
    pub incompat: u32,
    /// What whoever only reads may pass over.
    pub ro_compat: u32,
    /// Bytes of a block.
    pub block: u32,
    /// Bytes of an inode.
    pub inode: u32,
}

/// What the ext2, ext3 or ext4 file system at `place` of an image is like; nothing if there is none.
///
/// # Errors
/// The image cannot be read.
pub fn features(file: &File, place: &Range<u64>) -> io::Result<Option<Features>> {
    let mut sb = [0; 1024];
    if place.end.saturating_sub(place.start) < 2 * SUPERBLOCK {
        return Ok(None);
    }
    file.read_exact_at(&mut sb, place.start + SUPERBLOCK)?;
    if u16_at(&sb, 56) != MAGIC || u32_at(&sb, 24) > 6 {
        return Ok(None);
    }
    // The first revision had no larger ones, and said nothing of them.
    let inode = if u32_at(&sb, 76) == 0 { 128 } else { u32::from(u16_at(&sb, 88)) };
    Ok(Some(Features {
        compat: u32_at(&sb, 92),
        incompat: u32_at(&sb, 96),
        ro_compat: u32_at(&sb, 100),
        block: 1024 << u32_at(&sb, 24),
        inode,
    }))
}

/// Bytes of the ext2, ext3 or ext4 file system at `place` of an image; nothing if there is none.
///
/// # Errors
/// The image cannot be read.
pub fn extent(file: &File, place: &Range<u64>) -> io::Result<Option<u64>> {
    let Some(features) = features(file, place)? else { return Ok(None) };
    let mut sb = [0; 1024];
    file.read_exact_at(&mut sb, place.start + SUPERBLOCK)?;
    let high = if features.incompat & INCOMPAT_64BIT != 0 { u64::from(u32_at(&sb, 336)) << 32 } else { 0 };
    Ok((high | u64::from(u32_at(&sb, 4))).checked_mul(u64::from(features.block)))
}

/// What is free of the file system that is at `place`, in bytes of the image; nothing if it is none that we know.
pub(super) fn free(file: &File, place: &Range<u64>) -> io::Result<Option<Vec<Range<u64>>>> {
    let mut sb = [0; 1024];
    if place.end - place.start < 2 * SUPERBLOCK {
        return Ok(None);
    }
    file.read_exact_at(&mut sb, place.start + SUPERBLOCK)?;
    let incompat = u32_at(&sb, 96);
    let is_known = u16_at(&sb, 56) == MAGIC
        && u16_at(&sb, 58) & CLEAN != 0
        && incompat & (INCOMPAT_RECOVER | INCOMPAT_JOURNAL_DEV | INCOMPAT_META_BG | !INCOMPAT_KNOWN) == 0
        && u32_at(&sb, 100) & RO_COMPAT_BIGALLOC == 0
        && u32_at(&sb, 24) <= 6;
    if !is_known {
        return Ok(None);
    }
    let wide = incompat & INCOMPAT_64BIT != 0;
    let block = 1024_u64 << u32_at(&sb, 24);
    let high = if wide { u64::from(u32_at(&sb, 336)) << 32 } else { 0 };
    let (blocks, first) = (high | u64::from(u32_at(&sb, 4)), u64::from(u32_at(&sb, 20)));
    let per_group = u64::from(u32_at(&sb, 32));
    let descriptor = if wide { usize::from(u16_at(&sb, 254)).max(32) } else { 32 };
    let fits = blocks.checked_mul(block).is_some_and(|bytes| bytes <= place.end - place.start);
    if !fits || per_group == 0 || per_group > block * 8 || first > 1 || descriptor > 1024 {
        return Ok(None);
    }
    let groups = blocks.saturating_sub(first).div_ceil(per_group);
    if groups > GROUPS {
        return Ok(None);
    }
    let mut table = vec![0; groups as usize * descriptor];
    let table_at = (first + 1) * block;
    if table_at + table.len() as u64 > blocks * block {
        return Ok(None);
    }
    file.read_exact_at(&mut table, place.start + table_at)?;
    let number_at = |group: &[u8], low: usize| {
        let high = if wide && descriptor >= 64 { u64::from(u32_at(group, low + 32)) << 32 } else { 0 };
        high | u64::from(u32_at(group, low))
    };
    let own = own_blocks(&sb, block, first, per_group, table.len() as u64, groups, || {
        table.chunks_exact(descriptor).map(|group| [0, 4, 8].map(|at| number_at(group, at)))
    });
    let mut free = Vec::new();
    let mut bitmap = vec![0; block as usize];
    for (number, group) in (0..groups).zip(table.chunks_exact(descriptor)) {
        let start = first + number * per_group;
        let count = per_group.min(blocks - start);
        let mut tell = |run: Range<u64>| free.push(place.start + run.start * block..place.start + run.end * block);
        if u16_at(group, 18) & GROUP_BLOCK_UNINIT != 0 {
            // Nothing was ever given out here but what the file system has for itself.
            let mut at = start;
            for taken in own.iter().filter(|taken| taken.end > start && taken.start < start + count) {
                tell(at..taken.start.max(at));
                at = at.max(taken.end);
            }
            tell(at..(start + count).max(at));
            continue;
        }
        let bitmap_at = number_at(group, 0);
        if bitmap_at == 0 || bitmap_at >= blocks {
            return Ok(None);
        }
        file.read_exact_at(&mut bitmap, place.start + bitmap_at * block)?;
        runs(&bitmap, count, |run| tell(start + run.start..start + run.end));
    }
    Ok(Some(free))
}

/// What the file system has for itself, in blocks and in order: superblocks, tables of groups, bitmaps, inodes. Too much rather than too
/// little.
fn own_blocks<const N: usize, G: Iterator<Item = [u64; N]>>(
    sb: &[u8],
    block: u64,
    first: u64,
    per_group: u64,
    table_bytes: u64,
    groups: u64,
    of_groups: impl Fn() -> G,
) -> Vec<Range<u64>> {
    const SPARSE_SUPER: u32 = 1;
    const SPARSE_SUPER2: u32 = 0x200;
    let is_power_of = |base: u64, mut number: u64| {
        while number > 1 && number.is_multiple_of(base) {
            number /= base;
        }
        number == 1
    };
    let is_sparse = u32_at(sb, 100) & SPARSE_SUPER != 0 && u32_at(sb, 92) & SPARSE_SUPER2 == 0;
    let heads = 1 + table_bytes.div_ceil(block) + u64::from(u16_at(sb, 206));
    let inode_bytes = u64::from(u16_at(sb, 88).max(128));
    let inodes = (u64::from(u32_at(sb, 40)) * inode_bytes).div_ceil(block);
    let mut own = Vec::new();
    for (number, places) in (0..groups).zip(of_groups()) {
        if !is_sparse || number <= 1 || [3, 5, 7].iter().any(|base| is_power_of(*base, number)) {
            let start = first + number * per_group;
            own.push(start..start + heads);
        }
        // The bitmaps are one block each, the inodes many.
        for (at, place) in places.into_iter().enumerate() {
            own.push(place..place.saturating_add(if at == 2 { inodes } else { 1 }));
        }
    }
    own.sort_by_key(|range| range.start);
    own
}

/// Tells of every run of zeros among the first `count` bits.
fn runs(bitmap: &[u8], count: u64, mut tell: impl FnMut(Range<u64>)) {
    let mut from = None;
    for at in 0..count {
        let is_used = bitmap.get((at / 8) as usize).is_none_or(|byte| byte >> (at % 8) & 1 == 1);
        match (is_used, from) {
            (false, None) => from = Some(at),
            (true, Some(start)) => {
                tell(start..at);
                from = None;
            }
            _ => {}
        }
    }
    if let Some(start) = from {
        tell(start..count);
    }
}
