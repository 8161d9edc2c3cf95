//! Extended attributes as ext2, ext3 and ext4 write them down.

use super::super::entry::Xattr;
use super::disk::{Disk, ExtError, Raw, u16_at, u32_at};

const MAGIC: u32 = 0xea02_0000;
/// Bytes before the entries, in a block.
const HEAD: usize = 32;

/// All attributes of an inode that travel, sorted.
pub(super) fn xattrs(disk: &Disk, raw: &Raw) -> Result<Vec<Xattr>, ExtError> {
    let mut all = Vec::new();
    if raw.0.len() > 128 {
        let area = raw.0.get(128 + usize::from(u16_at(&raw.0, 128))..).unwrap_or_default();
        if u32_at(area, 0) == MAGIC {
            // Values lie relative to the first entry.
            entries(&area[4..], 0, &mut all)?;
        }
    }
    if let Some(block) = disk.attribute_block(raw)? {
        if u32_at(&block, 0) != MAGIC {
            return Err(ExtError::Damaged("a file's attributes"));
        }
        entries(&block, HEAD, &mut all)?;
    }
    all.sort();
    Ok(all)
}

fn entries(area: &[u8], from: usize, all: &mut Vec<Xattr>) -> Result<(), ExtError> {
    let bad = || ExtError::Damaged("a file's attributes");
    let mut at = from;
    while u32_at(area, at) != 0 {
        let entry = area.get(at..).filter(|entry| entry.len() >= 16).ok_or_else(bad)?;
        let name = entry.get(16..16 + usize::from(entry[0])).ok_or_else(bad)?;
        at += (16 + name.len()).next_multiple_of(4);
        let (place, size) = (usize::from(u16_at(entry, 2)), u32_at(entry, 8) as usize);
        let (prefix, is_acl): (&[u8], bool) = match entry[1] {
            1 => (b"user.", false),
            2 => (b"system.posix_acl_access", true),
            3 => (b"system.posix_acl_default", true),
            4 => (b"trusted.", false),
            6 => (b"security.", false),
            // The file system's own, such as data in inodes.
            _ => continue,
        };
        if u32_at(entry, 4) != 0 {
            return Err(ExtError::Unknown("keeps attributes in inodes of their own"));
        }
        let value = area.get(place..).and_then(|rest| rest.get(..size)).ok_or_else(bad)?;
        let value = if is_acl { acl(value).ok_or_else(bad)? } else { value.to_vec() };
        let name = [prefix, name].concat();
        if Xattr::travels(&name) {
            all.push(Xattr { name: name.into(), value: value.into() });
        }
    }
    Ok(())
}

/// An access control list as the kernel's calls give it. On the disk it has another version, and numbers only where they mean something.
fn acl(bytes: &[u8]) -> Option<Vec<u8>> {
    const USER: u16 = 2;
    const GROUP: u16 = 8;
    let mut rest = bytes.strip_prefix(&[1, 0, 0, 0])?;
    let mut out = vec![2, 0, 0, 0];
    while !rest.is_empty() {
        let (head, more) = rest.split_first_chunk::<4>()?;
        out.extend(head);
        rest = more;
        if matches!(u16_at(head, 0), USER | GROUP) {
            let (id, more) = rest.split_first_chunk::<4>()?;
            out.extend(id);
            rest = more;
        } else {
            out.extend([0xff; 4]);
        }
    }
    Some(out)
}
