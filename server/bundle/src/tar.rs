//! A tar file with one member, as GNU tar writes it with `-S`, and the ways in which others write it.

use std::io::{self, Read, Write};

use crate::map::{Extent, Map};

/// Bytes of a block.
pub(crate) const BLOCK: usize = 512;
/// A tar file has a multiple of so many bytes.
const RECORD: u64 = 10240;
/// Extents that a header has, and that each block after it has.
const IN_HEADER: usize = 4;
const IN_EXTENSION: usize = 21;
/// Headers before the member's own (long names, pax) that are read.
const PRELUDES: usize = 16;
/// Bytes that such a header may carry.
const PRELUDE_BYTES: u64 = 64 << 10;

/// A tar file that is not one member with an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TarError {
    /// No header.
    #[error("there is no tar header at its beginning")]
    NoHeader,
    /// A header with another sum than it says.
    #[error("a header's sum is wrong")]
    Checksum,
    /// A field that holds no number.
    #[error("a header's {0} is no number")]
    Number(&'static str),
    /// A member that is no file, or of a form that is not read.
    #[error("its member is of type `{0}`, not a file")]
    Type(char),
    /// Sparse in a way of pax.
    #[error("its member is sparse in pax's way, which is not read")]
    PaxSparse,
    /// A record of pax that is none.
    #[error("a pax header is malformed")]
    Pax,
    /// A map of holes that contradicts itself.
    #[error("its map of holes contradicts itself")]
    Map,
    /// More than can be.
    #[error("it has too many {0}")]
    TooMany(&'static str),
}

/// What the one member of a tar file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// Bytes of the image.
    pub(crate) bytes: u64,
    pub(crate) extents: Vec<Extent>,
}

fn put(header: &mut [u8], at: usize, width: usize, number: u64) {
    let digits = width - 1;
    let field = &mut header[at..at + width];
    if digits >= 22 || number < 1 << (3 * digits) {
        for (i, byte) in field[..digits].iter_mut().rev().enumerate() {
            *byte = b'0' + (number >> (3 * i) & 7) as u8;
        }
        field[digits] = 0;
    } else {
        // GNU's way with what does not fit: binary, the highest bit set.
        for (i, byte) in field.iter_mut().rev().enumerate() {
            *byte = if i < 8 { (number >> (8 * i)) as u8 } else { 0 };
        }
        field[0] |= 0x80;
    }
}

fn put_extents(block: &mut [u8], at: usize, extents: &[Extent]) {
    for (i, extent) in extents.iter().enumerate() {
        put(block, at + 24 * i, 12, extent.offset);
        put(block, at + 24 * i + 12, 12, extent.bytes);
    }
}

/// What stands before the data: the header, and the blocks with more of the map.
pub(crate) fn head(name: &str, modified: u64, map: &Map) -> Vec<u8> {
    let mut head = vec![0; BLOCK];
    let length = name.len().min(100);
    head[..length].copy_from_slice(&name.as_bytes()[..length]);
    put(&mut head, 100, 8, 0o644);
    put(&mut head, 108, 8, 0);
    put(&mut head, 116, 8, 0);
    put(&mut head, 124, 12, map.data_bytes());
    put(&mut head, 136, 12, modified);
    head[156] = b'0';
    head[257..265].copy_from_slice(b"ustar  \0");
    head[265..269].copy_from_slice(b"root");
    head[297..301].copy_from_slice(b"root");
    let mut extents = map.extents().to_vec();
    if map.is_sparse() {
        // GNU tar ends its map with the image's end, also where data reach it.
        extents.push(Extent { offset: map.bytes(), bytes: 0 });
        head[156] = b'S';
        let (first, rest) = extents.split_at(extents.len().min(IN_HEADER));
        put_extents(&mut head, 386, first);
        head[482] = u8::from(!rest.is_empty());
        put(&mut head, 483, 12, map.bytes());
        let mut chunks = rest.chunks(IN_EXTENSION).peekable();
        while let Some(chunk) = chunks.next() {
            let mut block = [0; BLOCK];
            put_extents(&mut block, 0, chunk);
            block[504] = u8::from(chunks.peek().is_some());
            head.extend_from_slice(&block);
        }
    }
    head[148..156].fill(b' ');
    let sum = checksum(&head[..BLOCK]);
    // Its own form: six digits, a zero, a blank.
    put(&mut head, 148, 7, sum);
    head
}

/// What stands after the data, when `written` bytes of the tar file stand before it.
pub(crate) fn tail(written: u64) -> Vec<u8> {
    let end = (written.next_multiple_of(BLOCK as u64) + 2 * BLOCK as u64).next_multiple_of(RECORD);
    vec![0; (end - written) as usize]
}

fn checksum(header: &[u8]) -> u64 {
    let byte = |(at, byte): (usize, &u8)| if (148..156).contains(&at) { u64::from(b' ') } else { u64::from(*byte) };
    header.iter().enumerate().map(byte).sum()
}

fn get(header: &[u8], at: usize, width: usize, what: &'static str) -> Result<u64, TarError> {
    let field = &header[at..at + width];
    if field[0] & 0x80 != 0 {
        let (high, low) = field.split_at(width.saturating_sub(8));
        let negative = field[0] & 0x40 != 0;
        let over = high.iter().enumerate().any(|(i, byte)| if i == 0 { byte & 0x7f != 0 } else { *byte != 0 });
        if negative || over || width < 9 {
            return Err(TarError::Number(what));
        }
        return Ok(low.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
    }
    let text = field.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = text.trim_ascii();
    if text.len() > 21 || !text.iter().all(|byte| (b'0'..=b'7').contains(byte)) {
        return Err(TarError::Number(what));
    }
    Ok(text.iter().fold(0, |sum, byte| sum << 3 | u64::from(byte - b'0')))
}

/// Either it could not be read, or it is not what it should be.
#[derive(Debug)]
pub(crate) enum Failed {
    Io(io::Error),
    Tar(TarError),
}

impl From<TarError> for Failed {
    fn from(error: TarError) -> Self {
        Self::Tar(error)
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn get_extents(block: &[u8], at: usize, count: usize, into: &mut Vec<Extent>) -> Result<(), TarError> {
    for i in 0..count {
        let at = at + 24 * i;
        if block[at] == 0 && block[at + 12] == 0 {
            break;
        }
        let extent = Extent { offset: get(block, at, 12, "offset")?, bytes: get(block, at + 12, 12, "length")? };
        into.push(extent);
    }
    Ok(())
}

/// Reads up to the member's data. A map may have `limit` extents.
pub(crate) fn read(from: &mut impl Read, limit: usize) -> Result<Member, Failed> {
    let mut pax_size = None;
    for _ in 0..PRELUDES {
        let mut header = [0; BLOCK];
        from.read_exact(&mut header)?;
        if header.iter().all(|byte| *byte == 0) {
            return Err(TarError::NoHeader.into());
        }
        if get(&header, 148, 8, "sum")? != checksum(&header) {
            return Err(TarError::Checksum.into());
        }
        let size = get(&header, 124, 12, "size")?;
        match header[156] {
            b'0' | b'7' | 0 => {
                let map = Map::dense(pax_size.unwrap_or(size));
                return Ok(Member { bytes: map.bytes(), extents: map.extents().to_vec() });
            }
            b'S' => return sparse(from, &header, pax_size.unwrap_or(size), limit),
            // A long name: the manifest has the name.
            b'L' => drop(prelude(from, size)?),
            b'g' => drop(prelude(from, size)?),
            b'x' => pax_size = pax(&prelude(from, size)?)?,
            other => return Err(TarError::Type(char::from(other)).into()),
        }
    }
    Err(TarError::TooMany("headers").into())
}

fn prelude(from: &mut impl Read, size: u64) -> Result<Vec<u8>, Failed> {
    if size > PRELUDE_BYTES {
        return Err(TarError::TooMany("bytes in a header").into());
    }
    let mut bytes = vec![0; size.next_multiple_of(BLOCK as u64) as usize];
    from.read_exact(&mut bytes)?;
    bytes.truncate(size as usize);
    Ok(bytes)
}

/// The size that a pax header gives.
fn pax(mut bytes: &[u8]) -> Result<Option<u64>, TarError> {
    let mut size = None;
    while !bytes.is_empty() {
        let blank = bytes.iter().position(|byte| *byte == b' ').ok_or(TarError::Pax)?;
        let length = std::str::from_utf8(&bytes[..blank]).ok().and_then(|text| text.parse::<usize>().ok());
        let length = length.filter(|length| *length > blank + 1 && *length <= bytes.len()).ok_or(TarError::Pax)?;
        let (record, rest) = bytes.split_at(length);
        let record =
            record[blank + 1..].strip_suffix(b"\n").filter(|record| record.contains(&b'=')).ok_or(TarError::Pax)?;
        if record.starts_with(b"GNU.sparse.") {
            return Err(TarError::PaxSparse);
        }
        if let Some(text) = record.strip_prefix(b"size=") {
            let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
            size = Some(number.ok_or(TarError::Pax)?);
        }
        bytes = rest;
    }
    Ok(size)
}

fn sparse(from: &mut impl Read, header: &[u8], stored: u64, limit: usize) -> Result<Member, Failed> {
    let bytes = get(header, 483, 12, "size")?;
    let mut extents = Vec::new();
    get_extents(header, 386, IN_HEADER, &mut extents)?;
    let mut more = header[482] != 0;
    while more {
        let mut block = [0; BLOCK];
        from.read_exact(&mut block)?;
        get_extents(&block, 0, IN_EXTENSION, &mut extents)?;
        if extents.len() > limit {
            return Err(TarError::TooMany("extents").into());
        }
        more = block[504] != 0;
    }
    extents.retain(|extent| extent.bytes > 0);
    let (mut at, mut sum, last) = (0, 0u64, extents.len().saturating_sub(1));
    for (i, extent) in extents.iter().enumerate() {
        let end = extent.offset.checked_add(extent.bytes).filter(|end| *end <= bytes).ok_or(TarError::Map)?;
        // Between two extents there is no padding to agree on when the first has whole blocks.
        if extent.offset < at || (i < last && !extent.bytes.is_multiple_of(BLOCK as u64)) {
            return Err(TarError::Map.into());
        }
        (at, sum) = (end, sum + extent.bytes);
    }
    if sum != stored {
        return Err(TarError::Map.into());
    }
    Ok(Member { bytes, extents })
}

/// Writes zeros up to the next block.
pub(crate) fn pad(to: &mut impl Write, bytes: u64) -> io::Result<u64> {
    let count = bytes.next_multiple_of(BLOCK as u64) - bytes;
    to.write_all(&[0; BLOCK][..count as usize])?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(map: &Map) -> Member {
        let head = head("image", 7, map);
        let mut rest = &head[..];
        let member = read(&mut rest, 1 << 20).unwrap();
        assert!(rest.is_empty());
        member
    }

    #[test]
    fn heads_go_both_ways() {
        for bytes in [0, 1, 511, 512, 0o77777777777, 0o77777777777 + 1, 1 << 45] {
            assert_eq!(back(&Map::dense(bytes)).bytes, bytes);
        }
        for count in [0, 1, 3, 4, 5, 24, 25, 26, 1000] {
            for end in [0, 700] {
                let ranges = (0..count).map(|i| 512 + i * 10240..512 + i * 10240 + 1024);
                let bytes = count * 10240 + 10240 + end;
                let tail = (end > 0).then_some(bytes - 700..bytes);
                let map = Map::new(bytes, ranges.chain(tail));
                let member = back(&map);
                assert_eq!((member.bytes, &member.extents[..]), (bytes, map.extents()), "{count} {end}");
            }
        }
        let far = Map::new(1 << 50, [(1 << 49)..(1 << 49) + 512, 1 << 40..1 << 41]);
        assert_eq!(back(&far).extents, far.extents());
    }

    #[test]
    fn the_end_is_a_whole_record() {
        for (written, end) in [(0, 10240), (512, 10240), (513, 10240), (9216, 10240), (9217, 20480), (10240, 20480)] {
            assert_eq!(written + tail(written).len() as u64, end);
        }
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let good = head("image", 7, &Map::new(1 << 20, [0..512, 4096..8192]));
        let fails = |bytes: &[u8]| match read(&mut &bytes[..], 100).unwrap_err() {
            Failed::Tar(error) => Some(error),
            Failed::Io(_) => None,
        };
        let with = |at: usize, value: &[u8]| {
            let mut bytes = good.clone();
            bytes[at..at + value.len()].copy_from_slice(value);
            let sum = checksum(&bytes[..BLOCK]);
            put(&mut bytes, 148, 7, sum);
            bytes
        };
        assert_eq!(fails(&[0; 1024]), Some(TarError::NoHeader));
        assert_eq!(fails(&good[..500]), None);
        let mut sum = good.clone();
        sum[0] ^= 1;
        assert_eq!(fails(&sum), Some(TarError::Checksum));
        assert_eq!(fails(&with(156, b"5")), Some(TarError::Type('5')));
        assert_eq!(fails(&with(124, b"9")), Some(TarError::Number("size")));
        assert_eq!(fails(&with(124, &[0xff; 12])), Some(TarError::Number("size")));
        assert_eq!(fails(&with(483, b"00000000001\0")), Some(TarError::Map));
        assert_eq!(fails(&with(386, &[0x80, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255])), Some(TarError::Map));
        assert_eq!(fails(&with(398, b"00000000777\0")), Some(TarError::Map));
        assert_eq!(fails(&with(156, b"x")), None);
        assert_eq!(pax(b"11 size=12\n20 mtime=1.0000000\n"), Err(TarError::Pax));
        assert_eq!(pax(b"11 size=12\n"), Ok(Some(12)));
        assert_eq!(pax(b"22 GNU.sparse.major=1\n"), Err(TarError::PaxSparse));
        for bad in [&b"x"[..], b"99 size=1\n", b"3 \n", b"0 size=1\n", b"10 size=x\n", b"18446744073709551616 a=b\n"] {
            assert_eq!(pax(bad), Err(TarError::Pax), "{}", String::from_utf8_lossy(bad));
        }
        let mut endless = with(482, &[1]);
        for i in 0..50 {
            let mut block = [0; BLOCK];
            let extents: Vec<_> = (0..21).map(|j| Extent { offset: 8192 + (i * 21 + j) * 1024, bytes: 512 }).collect();
            put_extents(&mut block, 0, &extents);
            block[504] = 1;
            endless.extend_from_slice(&block);
        }
        assert_eq!(fails(&endless), Some(TarError::TooMany("extents")));
    }
}
