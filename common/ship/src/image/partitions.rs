//! Partition tables: GPT, and the four primary partitions of an MBR. Logical partitions inside an extended one count as one partition
//! whose content is not known.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

const SECTOR: u64 = 512;
/// Entries that a GPT may have here; the usual number is 128.
const ENTRIES: u32 = 1024;

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its number, from 1.
    pub number: u32,
    /// Its place in the image.
    pub bytes: Range<u64>,
    /// What a kernel knows it by without any help (`root=PARTUUID=`), if its table names it.
    pub partuuid: Option<String>,
}

fn word<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

/// The partitions of an image of `bytes`; none when it has no table.
///
/// # Errors
/// It cannot be read.
pub fn partitions(file: &File, bytes: u64) -> io::Result<Vec<Partition>> {
    let mut head = [0; 2 * SECTOR as usize];
    if bytes < head.len() as u64 {
        return Ok(Vec::new());
    }
    file.read_exact_at(&mut head, 0)?;
    if head[510..512] != [0x55, 0xaa] {
        return Ok(Vec::new());
    }
    let mut found = if &head[512..520] == b"EFI PART" { gpt(file, &head[512..], bytes)? } else { mbr(&head) };
    found.retain(|partition| !partition.bytes.is_empty() && partition.bytes.end <= bytes);
    Ok(found)
}

fn place(first: u64, end: u64) -> Option<Range<u64>> {
    let range = first.checked_mul(SECTOR)?..end.checked_mul(SECTOR)?;
    (range.start < range.end).then_some(range)
}

fn mbr(head: &[u8]) -> Vec<Partition> {
    let signature = u32::from_le_bytes(word(head, 440));
    let entries = (0..4_u32).zip(head[446..510].chunks_exact(16));
    let part = |(at, entry): (u32, &[u8])| {
        let first = u64::from(u32::from_le_bytes(word(entry, 8)));
        let count = u64::from(u32::from_le_bytes(word(entry, 12)));
        let is_used = !matches!(entry[4], 0 | 5 | 0xf | 0x85);
        let bytes = place(first, first + count).filter(|_| is_used)?;
        let partuuid = (signature != 0).then(|| format!("{signature:08x}-{:02x}", at + 1));
        Some(Partition { number: at + 1, bytes, partuuid })
    };
    entries.filter_map(part).collect()
}

/// A GPT's own order of a UUID's bytes, as the UUID is written.
fn guid(bytes: [u8; 16]) -> Option<String> {
    if bytes == [0; 16] {
        return None;
    }
    const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let hex: String = ORDER.iter().map(|at| format!("{:02x}", bytes[*at])).collect();
    Some([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

fn gpt(file: &File, header: &[u8], bytes: u64) -> io::Result<Vec<Partition>> {
    let (at, count) = (u64::from_le_bytes(word(header, 72)), u32::from_le_bytes(word(header, 80)));
    let size = u32::from_le_bytes(word(header, 84)) as usize;
    if count > ENTRIES || !(128..=4096).contains(&size) {
        return Ok(Vec::new());
    }
    let mut table = vec![0; count as usize * size];
    let from = at.saturating_mul(SECTOR);
    if from.saturating_add(table.len() as u64) > bytes {
        return Ok(Vec::new());
    }
    file.read_exact_at(&mut table, from)?;
    let part = |(number, entry): (u32, &[u8])| {
        if entry[..16] == [0; 16] {
            return None;
        }
        let (first, last) = (u64::from_le_bytes(word(entry, 32)), u64::from_le_bytes(word(entry, 40)));
        Some(Partition { number, bytes: place(first, last.checked_add(1)?)?, partuuid: guid(word(entry, 16)) })
    };
    Ok((1..).zip(table.chunks_exact(size)).filter_map(part).collect())
}
