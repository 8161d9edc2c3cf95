//! Messages of a shipment: a byte that says which, four that say how long, and what it says. All numbers are little-endian.

use std::io::{self, Read, Write};

use super::{BLOCK, BlockDigest, IMAGE_BYTES, ShipmentError, blocks_of};

/// The version of the protocol, in the first message, as long as nothing is said of a base: ends that know no other are shipped to as well.
pub(super) const VERSION: u16 = 1;
/// The version that says what the receiver has already.
pub(super) const BASED: u16 = 2;
/// What the first message begins with.
const MAGIC: &[u8; 8] = b"rocksimg";
/// Most bytes of one message: a block that did not become smaller, a piece of the manifest.
pub(crate) const MESSAGE: usize = 256 << 10;
/// Blocks in one piece of the manifest.
const PIECE: usize = 4096;
/// Numbers of the messages that only this version knows; 9 to 12 are the tree form's.
const HELD: u8 = 13;
const AGAIN: u8 = 14;
/// Bytes of a refusal.
const REASON: usize = 1024;

/// A message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// Sender: what comes.
    Hello {
        /// Bytes of the image.
        bytes: u64,
        /// The digest over the whole.
        digest: BlockDigest,
        /// After the manifest comes which blocks an image has that the receiver's target is said to hold.
        is_based: bool,
    },
    /// Sender: the next blocks of the manifest.
    Blocks(Vec<Option<BlockDigest>>),
    /// Receiver: the next blocks, whether each is wanted.
    Wants(Vec<bool>),
    /// Sender: the next blocks, whether the target is said to hold each.
    Held(Vec<bool>),
    /// Receiver: so many blocks are not what they were said to be; which of them must come follows.
    Again(u64),
    /// Receiver: so many blocks have been looked at or read back.
    At(u64),
    /// Sender: a block as it is.
    Plain(u64, Vec<u8>),
    /// Sender: a block, compressed (zstd).
    Packed(u64, Vec<u8>),
    /// Sender: all that was wanted was sent.
    End,
    /// Receiver: all is there, written, read back and compared.
    Done,
    /// Either: why it stops.
    Refuse(String),
}

fn protocol(what: &'static str) -> ShipmentError {
    ShipmentError::Protocol(what)
}

impl Message {
    pub(crate) fn write(&self, to: &mut dyn Write) -> Result<(), ShipmentError> {
        let mut body: Vec<u8> = Vec::new();
        let kind = match self {
            Self::Hello { bytes, digest, is_based } => {
                body.extend_from_slice(MAGIC);
                let version = if *is_based { BASED } else { VERSION };
                body.extend_from_slice(&version.to_le_bytes());
                body.extend_from_slice(&u32::try_from(BLOCK).unwrap_or(0).to_le_bytes());
                body.extend_from_slice(&bytes.to_le_bytes());
                body.extend_from_slice(digest);
                0
            }
            Self::Blocks(blocks) => {
                // First which of them hold something, then the digests of those.
                body.extend(bits(blocks.iter().map(Option::is_some)));
                blocks.iter().flatten().for_each(|digest| body.extend_from_slice(digest));
                1
            }
            Self::Wants(wants) => {
                body.extend(bits(wants.iter().copied()));
                2
            }
            Self::Held(held) => {
                body.extend(bits(held.iter().copied()));
                HELD
            }
            Self::At(number) | Self::Again(number) => {
                body.extend_from_slice(&number.to_le_bytes());
                if matches!(self, Self::At(_)) { 3 } else { AGAIN }
            }
            Self::Plain(number, block) | Self::Packed(number, block) => {
                body.reserve(block.len() + 8);
                body.extend_from_slice(&number.to_le_bytes());
                body.extend_from_slice(block);
                if matches!(self, Self::Plain(..)) { 4 } else { 5 }
            }
            Self::End => 6,
            Self::Done => 7,
            Self::Refuse(reason) => {
                let mut end = reason.len().min(REASON);
                while !reason.is_char_boundary(end) {
                    end -= 1;
                }
                body.extend_from_slice(&reason.as_bytes()[..end]);
                8
            }
        };
        write_raw(to, kind, &body)
    }

    pub(crate) fn read(from: &mut dyn Read) -> Result<Self, ShipmentError> {
        let (kind, body) = read_raw(from)?;
        Self::parse(kind, body)
    }

    pub(crate) fn parse(kind: u8, mut body: Vec<u8>) -> Result<Self, ShipmentError> {
        let number = |body: &[u8]| body.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
        Ok(match kind {
            0 => {
                let rest = body.strip_prefix(MAGIC).ok_or(protocol("this is not a shipment"))?;
                let (version, rest) = rest.split_first_chunk::<2>().ok_or(protocol("the first message is short"))?;
                let is_based = match u16::from_le_bytes(*version) {
                    VERSION => false,
                    BASED => true,
                    _ => return Err(protocol("it speaks another version; use the same version at both ends")),
                };
                let (block, rest) = rest.split_first_chunk::<4>().ok_or(protocol("the first message is short"))?;
                if u32::from_le_bytes(*block) as usize != BLOCK {
                    return Err(protocol("its blocks are of another size"));
                }
                let (bytes, digest) = rest.split_first_chunk::<8>().ok_or(protocol("the first message is short"))?;
                let bytes = u64::from_le_bytes(*bytes);
                if bytes > IMAGE_BYTES {
                    return Err(protocol("the image is too large"));
                }
                let digest = digest.try_into().map_err(|_| protocol("the first message is short"))?;
                Self::Hello { bytes, digest, is_based }
            }
            // How many there are is known to the one who reads on: these are taken apart by `read_blocks`, `read_wants` and `read_held`.
            1 | 2 | HELD => return Err(protocol("a list comes at the wrong time")),
            3 if body.len() == 8 => Self::At(number(&body).unwrap_or(0)),
            AGAIN if body.len() == 8 => Self::Again(number(&body).unwrap_or(0)),
            4 | 5 => {
                let at = number(&body).ok_or(protocol("a block without a number"))?;
                body.drain(..8);
                if kind == 4 { Self::Plain(at, body) } else { Self::Packed(at, body) }
            }
            6 if body.is_empty() => Self::End,
            7 if body.is_empty() => Self::Done,
            8 if body.len() <= REASON => {
                // From the other end: nothing in it may play with a terminal.
                let text = String::from_utf8_lossy(&body);
                Self::Refuse(text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
            }
            _ => return Err(protocol("a message that nobody knows")),
        })
    }
}

fn bits(all: impl Iterator<Item = bool>) -> Vec<u8> {
    let mut out = Vec::new();
    for (at, bit) in all.enumerate() {
        if at % 8 == 0 {
            out.push(0);
        }
        if let Some(last) = out.last_mut() {
            *last |= u8::from(bit) << (at % 8);
        }
    }
    out
}

fn bit(bytes: &[u8], at: usize) -> bool {
    bytes.get(at / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1)
}

/// Writes a message: which, and what it says.
pub(crate) fn write_raw(to: &mut dyn Write, kind: u8, body: &[u8]) -> Result<(), ShipmentError> {
    let mut head = [kind, 0, 0, 0, 0];
    head[1..].copy_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    to.write_all(&head).and_then(|()| to.write_all(body)).map_err(ShipmentError::Connection)
}

/// A message as it comes: which, and what it says.
pub(crate) fn read_raw(from: &mut dyn Read) -> Result<(u8, Vec<u8>), ShipmentError> {
    let mut head = [0; 5];
    from.read_exact(&mut head).map_err(ShipmentError::Connection)?;
    let [kind, length @ ..] = head;
    let length = u32::from_le_bytes(length) as usize;
    if length > MESSAGE {
        return Err(protocol("a message is too long"));
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body).map_err(ShipmentError::Connection)?;
    Ok((kind, body))
}

fn list(from: &mut dyn Read, kind: u8) -> Result<Vec<u8>, ShipmentError> {
    let (found, body) = read_raw(from)?;
    if found == kind {
        return Ok(body);
    }
    match Message::parse(found, body)? {
        Message::Refuse(reason) => Err(ShipmentError::Refused(reason)),
        _ => Err(protocol("a list was to come")),
    }
}

/// Writes the manifest in pieces.
pub(super) fn write_blocks(to: &mut dyn Write, blocks: &[Option<BlockDigest>]) -> Result<(), ShipmentError> {
    for piece in blocks.chunks(PIECE) {
        Message::Blocks(piece.to_vec()).write(to)?;
    }
    to.flush().map_err(ShipmentError::Connection)
}

/// Reads the manifest of an image of `bytes`; its memory grows with what really comes.
pub(super) fn read_blocks(from: &mut dyn Read, bytes: u64) -> Result<Vec<Option<BlockDigest>>, ShipmentError> {
    let mut all = Vec::new();
    let mut left = usize::try_from(blocks_of(bytes)).map_err(|_| protocol("the image is too large"))?;
    while left > 0 {
        let body = list(from, 1)?;
        let count = left.min(PIECE);
        let (map, digests) = body.split_at_checked(count.div_ceil(8)).ok_or(protocol("the manifest is short"))?;
        let (digests, rest) = digests.as_chunks::<32>();
        let mut digests = digests.iter();
        for at in 0..count {
            all.push(if bit(map, at) { Some(*digests.next().ok_or(protocol("the manifest is short"))?) } else { None });
        }
        if digests.next().is_some() || !rest.is_empty() {
            return Err(protocol("the manifest is long"));
        }
        left -= count;
    }
    Ok(all)
}

/// Writes which blocks are wanted, in pieces.
pub(crate) fn write_wants(to: &mut dyn Write, wants: &[bool]) -> Result<(), ShipmentError> {
    for piece in wants.chunks(PIECE) {
        Message::Wants(piece.to_vec()).write(to)?;
    }
    to.flush().map_err(ShipmentError::Connection)
}

/// Writes which blocks the target is said to hold, in pieces.
pub(super) fn write_held(to: &mut dyn Write, held: &[bool]) -> Result<(), ShipmentError> {
    held.chunks(PIECE).try_for_each(|piece| Message::Held(piece.to_vec()).write(to))?;
    to.flush().map_err(ShipmentError::Connection)
}

/// Reads which of `count` blocks the target is said to hold.
pub(super) fn read_held(from: &mut dyn Read, count: usize) -> Result<Vec<bool>, ShipmentError> {
    let mut all = Vec::new();
    while all.len() < count {
        let body = list(from, HELD)?;
        let piece = (count - all.len()).min(PIECE);
        if body.len() != piece.div_ceil(8) {
            return Err(protocol("a list is not of its length"));
        }
        all.extend((0..piece).map(|at| bit(&body, at)));
    }
    Ok(all)
}

/// Reads which of `count` blocks are wanted; `at` hears of blocks that were looked at before.
pub(crate) fn read_wants(
    from: &mut dyn Read,
    count: usize,
    at: &mut dyn FnMut(u64),
) -> Result<Vec<bool>, ShipmentError> {
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let (kind, body) = read_raw(from)?;
        if kind != 2 {
            match Message::parse(kind, body)? {
                Message::At(number) => at(number),
                Message::Refuse(reason) => return Err(ShipmentError::Refused(reason)),
                _ => return Err(protocol("a list was to come")),
            }
            continue;
        }
        let piece = (count - all.len()).min(PIECE);
        if body.len() != piece.div_ceil(8) {
            return Err(protocol("a list is not of its length"));
        }
        all.extend((0..piece).map(|at| bit(&body, at)));
    }
    Ok(all)
}

/// Tells the other end why we stop, as well as that goes.
pub(crate) fn refuse(to: &mut dyn Write, error: &ShipmentError) {
    if !matches!(error, ShipmentError::Connection(_) | ShipmentError::Refused(_)) {
        let _: Result<(), io::Error> =
            Message::Refuse(error.to_string()).write(to).map_err(io::Error::other).and_then(|()| to.flush());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digests() -> impl Strategy<Value = Vec<Option<BlockDigest>>> {
        proptest::collection::vec(proptest::option::of(proptest::array::uniform32(any::<u8>())), 0..9000)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_manifest_and_its_answer_survive(blocks in digests()) {
            let bytes = blocks.len() as u64 * BLOCK as u64;
            let mut out = Vec::new();
            write_blocks(&mut out, &blocks).expect("written");
            prop_assert_eq!(read_blocks(&mut &out[..], bytes).expect("read"), blocks.clone());
            let wants: Vec<bool> = blocks.iter().map(Option::is_some).collect();
            let mut out = Vec::new();
            write_wants(&mut out, &wants).expect("written");
            prop_assert_eq!(&read_wants(&mut &out[..], wants.len(), &mut |_| {}).expect("read"), &wants);
            let mut out = Vec::new();
            write_held(&mut out, &wants).expect("written");
            prop_assert_eq!(&read_held(&mut &out[..], wants.len()).expect("read"), &wants);
            prop_assert!(wants.is_empty() || read_held(&mut &out[..], wants.len() + 8).is_err());
        }

        #[test]
        fn garbage_is_an_error_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), image in 0u64..1 << 42) {
            let _ = Message::read(&mut &bytes[..]);
            let _ = read_blocks(&mut &bytes[..], image);
            let _ = read_wants(&mut &bytes[..], 100, &mut |_| {});
            let _ = read_held(&mut &bytes[..], 100);
        }
    }

    #[test]
    fn every_message_survives() {
        let all = [
            Message::Hello { bytes: 5, digest: [7; 32], is_based: false },
            Message::Hello { bytes: 5, digest: [7; 32], is_based: true },
            Message::At(9),
            Message::Again(3),
            Message::Plain(1, vec![1, 2]),
            Message::Packed(2, vec![]),
            Message::End,
            Message::Done,
            Message::Refuse("no".into()),
        ];
        for message in all {
            let mut out = Vec::new();
            message.write(&mut out).expect("written");
            assert_eq!(Message::read(&mut &out[..]).expect("read"), message);
        }
        let mut long = vec![4];
        long.extend_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(Message::read(&mut &long[..]), Err(ShipmentError::Protocol(_))));
    }
}
