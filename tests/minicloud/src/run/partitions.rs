//! Finds the root file system on a disk: in a GPT, in an MBR, or on the whole of it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result};

/// Where a file system is on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

const SECTOR: u64 = 512;
/// Linux root of x86-64 and of arm64 in the Discoverable Partitions Specification, as they stand on disk.
const ROOTS: [[u8; 16]; 2] = [
    [0xe3, 0xbc, 0x68, 0x4f, 0xcd, 0xe8, 0xb1, 0x4d, 0x96, 0xe7, 0xfb, 0xca, 0xf9, 0x84, 0xb7, 0x09],
    [0x45, 0xb0, 0x21, 0xb9, 0xf0, 0x1d, 0xc3, 0x41, 0xaf, 0x44, 0x4c, 0x6f, 0x28, 0x0d, 0x3f, 0xae],
];
/// Linux file system data.
const LINUX: [u8; 16] =
    [0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4];

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

/// Where the root file system is.
pub(crate) fn root(disk: &File) -> Result<Place> {
    let length = disk.metadata()?.len();
    let whole = Place { offset: 0, length };
    if is_file_system(disk, 0) {
        return Ok(whole);
    }
    let mut head = [0u8; 1024];
    disk.read_exact_at(&mut head, 0).context("the disk is too short")?;
    let found = if &head[512..520] == b"EFI PART" {
        gpt(disk, &head[512..])?
    } else if head[510..512] == [0x55, 0xaa] {
        mbr(&head)
    } else {
        Vec::new()
    };
    // The best by its type first; among equals the one with a file system on it, and then the largest.
    let mut found: Vec<_> = found
        .into_iter()
        .filter(|(_, p)| p.length > 0 && p.offset + p.length <= length)
        .map(|(rank, p)| (rank, !is_file_system(disk, p.offset), std::cmp::Reverse(p.length), p))
        .collect();
    found.sort_by_key(|(rank, without, length, _)| (*rank, *without, *length));
    found.first().map(|(_, _, _, p)| *p).context("there is no root file system on the disk")
}

fn gpt(disk: &File, header: &[u8]) -> Result<Vec<(u8, Place)>> {
    let (at, count, size) = (number(&header[72..80]), number(&header[80..84]), number(&header[84..88]));
    let mut found = Vec::new();
    if !(128..=4096).contains(&size) {
        return Ok(found);
    }
    for n in 0..count.min(128) {
        let mut entry = [0u8; 128];
        disk.read_exact_at(&mut entry, at * SECTOR + n * size)?;
        let rank = match &entry[..16] {
            kind if ROOTS.iter().any(|r| r == kind) => 0,
            kind if kind == LINUX => 1,
            _ => continue,
        };
        let (first, last) = (number(&entry[32..40]), number(&entry[40..48]));
        if last >= first {
            found.push((rank, Place { offset: first * SECTOR, length: (last - first + 1) * SECTOR }));
        }
    }
    Ok(found)
}

fn mbr(head: &[u8]) -> Vec<(u8, Place)> {
    (0..4)
        .map(|n| &head[446 + n * 16..462 + n * 16])
        .filter(|e| e[4] == 0x83)
        .map(|e| {
            let place = Place { offset: number(&e[8..12]) * SECTOR, length: number(&e[12..16]) * SECTOR };
            // The one that is to be booted.
            (u8::from(e[0] != 0x80), place)
        })
        .collect()
}

/// Whether an ext2, ext3, ext4, XFS or Btrfs begins here.
fn is_file_system(disk: &File, offset: u64) -> bool {
    let is = |at: u64, magic: &[u8]| {
        let mut have = vec![0u8; magic.len()];
        disk.read_exact_at(&mut have, offset + at).is_ok() && have == magic
    };
    is(1080, &[0x53, 0xef]) || is(0, b"XFSB") || is(65_600, b"_BHRfS_M")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn disk(write: impl FnOnce(&File)) -> File {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(64 * MIB).expect("a length");
        write(&file);
        file
    }

    fn ext(file: &File, offset: u64) {
        file.write_all_at(&[0x53, 0xef], offset + 1080).expect("written");
    }

    #[test]
    fn a_disk_without_a_table_is_a_file_system() {
        let place = root(&disk(|d| ext(d, 0))).expect("found");
        assert_eq!(place, Place { offset: 0, length: 64 * MIB });
        assert!(root(&disk(|_| ())).is_err());
    }

    #[test]
    fn an_mbr_with_a_bootable_partition() {
        let disk = disk(|d| {
            let entry = |boot: u8, kind: u8, first: u32, count: u32| {
                let mut e = vec![boot, 0, 0, 0, kind, 0, 0, 0];
                e.extend(first.to_le_bytes());
                e.extend(count.to_le_bytes());
                e
            };
            d.write_all_at(&entry(0, 0x83, 2048, 80_000), 446).expect("written");
            d.write_all_at(&entry(0x80, 0x83, 90_000, 8192), 462).expect("written");
            d.write_all_at(&entry(0, 0xef, 99_000, 99), 478).expect("written");
            d.write_all_at(&[0x55, 0xaa], 510).expect("written");
        });
        assert_eq!(root(&disk).expect("found"), Place { offset: 90_000 * 512, length: 8192 * 512 });
    }

    #[test]
    fn a_gpt_names_its_root() {
        let disk = disk(|d| {
            d.write_all_at(&[0x55, 0xaa], 510).expect("written");
            d.write_all_at(b"EFI PART", 512).expect("written");
            let header: Vec<u8> =
                [2u64.to_le_bytes().to_vec(), 128u32.to_le_bytes().to_vec(), 128u32.to_le_bytes().to_vec()].concat();
            d.write_all_at(&header, 512 + 72).expect("written");
            for (n, (kind, first, last)) in
                [([9; 16], 34u64, 99u64), (LINUX, 2048, 90_000), (ROOTS[0], 100_000, 120_000)].iter().enumerate()
            {
                let at = 1024 + n as u64 * 128;
                d.write_all_at(kind, at).expect("written");
                d.write_all_at(&[first.to_le_bytes(), last.to_le_bytes()].concat(), at + 32).expect("written");
            }
            ext(d, 2048 * 512);
        });
        assert_eq!(root(&disk).expect("found"), Place { offset: 100_000 * 512, length: 20_001 * 512 });
    }
}
