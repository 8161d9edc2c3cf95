//! XFS in an image: only what it is called. Its files are read by the kernel.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use super::{length, partitions};

/// The UUID and the label of the XFS at `place`; nothing if it is none.
///
/// # Errors
/// The image cannot be read.
pub fn names(file: &File, place: &Range<u64>) -> io::Result<Option<([u8; 16], [u8; 16])>> {
    let mut sb = [0; 512];
    if place.end.saturating_sub(place.start) < sb.len() as u64 {
        return Ok(None);
    }
    file.read_exact_at(&mut sb, place.start)?;
    let (mut uuid, mut label) = ([0; 16], [0; 16]);
    uuid.copy_from_slice(&sb[32..48]);
    label[..12].copy_from_slice(&sb[108..120]);
    Ok(sb.starts_with(b"XFSB").then_some((uuid, label)))
}

/// Where in an image there is XFS: all of it, or some of its partitions.
///
/// # Errors
/// The image cannot be read.
pub fn places(file: &File) -> io::Result<Vec<Range<u64>>> {
    let whole = 0..length(file)?;
    if names(file, &whole)?.is_some() {
        return Ok(Vec::from([whole]));
    }
    let mut found = Vec::new();
    for part in partitions(file, whole.end)? {
        if names(file, &part.bytes)?.is_some() {
            found.push(part.bytes);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_xfs_is_known_by_its_first_sector() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(100).expect("made");
        assert_eq!(places(&file).expect("read"), []);
        file.set_len(1 << 20).expect("made");
        let mut sb = [0; 512];
        sb[..4].copy_from_slice(b"XFSB");
        sb[32..48].fill(7);
        sb[108..112].copy_from_slice(b"root");
        file.write_all_at(&sb, 0).expect("written");
        let whole = 0..1 << 20;
        assert_eq!(places(&file).expect("read"), std::slice::from_ref(&whole));
        let (uuid, label) = names(&file, &whole).expect("read").expect("it is");
        assert_eq!((uuid, &label[..6]), ([7; 16], &b"root\0\0"[..]));
        assert_eq!(names(&file, &(512..1024)).expect("read"), None);
    }
}
