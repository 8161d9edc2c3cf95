//! Which file systems a disk holds, and what they are called, from their superblocks.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use rocks_ship::image::partitions;

/// A file system or a swap space on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// The partition's number; none when it is the whole disk.
    pub number: Option<u32>,
    /// Its place on the disk.
    pub bytes: Range<u64>,
    /// `ext4`, `xfs`, `btrfs`, `vfat`, `swap`.
    pub kind: &'static str,
    /// Its UUID, as `/dev/disk/by-uuid` has it.
    pub uuid: Option<String>,
    /// Its label.
    pub label: Option<String>,
    /// What its partition's table calls the partition.
    pub partuuid: Option<String>,
}

impl Volume {
    /// Whether a root can be on it.
    #[must_use]
    pub fn is_linux(&self) -> bool {
        matches!(self.kind, "ext2" | "ext3" | "ext4" | "xfs" | "btrfs")
    }

    /// How fstab and the kernel are told of it.
    #[must_use]
    pub fn spec(&self) -> Option<String> {
        self.uuid.as_ref().map(|uuid| format!("UUID={uuid}"))
    }
}

/// The file systems of a disk of `bytes`, in the order of their partitions.
///
/// # Errors
/// It cannot be read.
pub fn volumes(file: &File, bytes: u64) -> io::Result<Vec<Volume>> {
    // A file system's boot block may look like a partition table: what is a file system as a whole is one.
    if let Some(whole) = probe(file, None, 0..bytes)?.filter(|whole| whole.kind != "vfat") {
        return Ok(vec![whole]);
    }
    let parts = partitions(file, bytes)?;
    let mut found = Vec::new();
    for part in parts {
        let volume = probe(file, Some(part.number), part.bytes)?;
        found.extend(volume.map(|volume| Volume { partuuid: part.partuuid, ..volume }));
    }
    Ok(found)
}

fn probe(file: &File, number: Option<u32>, bytes: Range<u64>) -> io::Result<Option<Volume>> {
    let get = |at: u64, length: usize| -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; length];
        if bytes.start + at + length as u64 <= bytes.end {
            file.read_exact_at(&mut buffer, bytes.start + at)?;
        }
        Ok(buffer)
    };
    let head = get(0, 4096)?;
    let btrfs = get(0x1_0000, 0x1000)?;
    let found = ext(&head)
        .or_else(|| xfs(&head))
        .or_else(|| swap(&head))
        .or_else(|| self::btrfs(&btrfs))
        .or_else(|| vfat(&head));
    Ok(found.map(|(kind, uuid, label)| Volume { number, bytes: bytes.clone(), kind, uuid, label, partuuid: None }))
}

type Found = (&'static str, Option<String>, Option<String>);

/// 16 bytes as UUIDs are written; nothing when they are zeros.
fn uuid(bytes: &[u8]) -> Option<String> {
    if bytes.len() != 16 || bytes.iter().all(|byte| *byte == 0) {
        return None;
    }
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Some([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

/// A label that can be written into fstab; others are as good as none.
fn label(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let text = std::str::from_utf8(&bytes[..end]).ok()?.trim_end();
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'\\'));
    plain.then(|| text.to_owned())
}

fn ext(head: &[u8]) -> Option<Found> {
    let sb = &head[1024..2048];
    if sb[56..58] != [0x53, 0xef] {
        return None;
    }
    let word = |at: usize| u32::from_le_bytes([sb[at], sb[at + 1], sb[at + 2], sb[at + 3]]);
    let (compat, incompat, ro) = (word(92), word(96), word(100));
    // A journal makes it ext3; extents and all that came with them, ext4.
    let kind = if incompat & !0x16 != 0 || ro & !0x7 != 0 {
        "ext4"
    } else if compat & 0x4 != 0 {
        "ext3"
    } else {
        "ext2"
    };
    Some((kind, uuid(&sb[104..120]), label(&sb[120..136])))
}

fn xfs(head: &[u8]) -> Option<Found> {
    (head[..4] == *b"XFSB").then(|| ("xfs", uuid(&head[32..48]), label(&head[108..120])))
}

fn swap(head: &[u8]) -> Option<Found> {
    (head[4086..] == *b"SWAPSPACE2").then(|| ("swap", uuid(&head[1036..1052]), label(&head[1052..1068])))
}

fn btrfs(sb: &[u8]) -> Option<Found> {
    (sb[64..72] == *b"_BHRfS_M").then(|| ("btrfs", uuid(&sb[32..48]), label(&sb[0x12b..0x12b + 256])))
}

fn vfat(head: &[u8]) -> Option<Found> {
    let (serial, name) = if head[82..87] == *b"FAT32" {
        (67, 71)
    } else if matches!(&head[54..59], b"FAT16" | b"FAT12") {
        (39, 43)
    } else {
        return None;
    };
    let s = &head[serial..serial + 4];
    let id = format!("{:02X}{:02X}-{:02X}{:02X}", s[3], s[2], s[1], s[0]);
    let label = label(&head[name..name + 11]).filter(|label| label != "NO NAME");
    Some(("vfat", Some(id), label))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superblocks_tell_kind_uuid_and_label() {
        let id: Vec<u8> = (1..17).collect();
        let shown = "01020304-0506-0708-090a-0b0c0d0e0f10";
        let mut head = vec![0; 4096];
        head[1080..1082].copy_from_slice(&[0x53, 0xef]);
        head[1024 + 104..1024 + 120].copy_from_slice(&id);
        head[1024 + 120..1024 + 124].copy_from_slice(b"root");
        assert_eq!(ext(&head), Some(("ext2", Some(shown.into()), Some("root".into()))));
        head[1024 + 92] = 4;
        head[1024 + 96] = 6;
        assert_eq!(ext(&head).map(|found| found.0), Some("ext3"));
        head[1024 + 96] = 0x46;
        assert_eq!(ext(&head).map(|found| found.0), Some("ext4"));
        let mut head = vec![0; 4096];
        head[..4].copy_from_slice(b"XFSB");
        head[32..48].copy_from_slice(&id);
        assert_eq!(xfs(&head), Some(("xfs", Some(shown.into()), None)));
        let mut head = vec![0; 4096];
        head[82..90].copy_from_slice(b"FAT32   ");
        head[67..71].copy_from_slice(&[0x78, 0x56, 0x34, 0x12]);
        head[71..82].copy_from_slice(b"NO NAME    ");
        assert_eq!(vfat(&head), Some(("vfat", Some("1234-5678".into()), None)));
        let mut head = vec![0; 4096];
        head[4086..].copy_from_slice(b"SWAPSPACE2");
        assert_eq!(swap(&head), Some(("swap", None, None)));
        assert!(ext(&head).is_none() && vfat(&head).is_none());
        // Nothing that could break a line of fstab.
        assert_eq!(label(b"a b\0"), None);
    }
}
