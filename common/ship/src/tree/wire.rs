//! Messages of a shipment of a tree. What both forms say is said as in the block form; the rest has numbers that this does not know, so that an
//! end that only speaks that form says so.

use std::io::{self, Read, Write};

use super::manifest::{DecodeError, Hashing, Manifest};
use super::mounted::Origin;
use crate::shipment::lanes::Packer;
use crate::shipment::wire::{MESSAGE, Message, read_raw, write_raw};
use crate::shipment::{BLOCK, BlockDigest, ShipmentError};

/// The version of the protocol, in the first message.
const VERSION: u16 = 1;
/// What the first message begins with.
const MAGIC: &[u8; 8] = b"rockstre";
/// Bytes of the largest manifest.
const MANIFEST: u64 = 4 << 30;
/// Most bytes of a pack, before it is compressed.
pub(super) const PACK: usize = MESSAGE - 64;

/// A pack must become smaller by at least this part to travel compressed.
pub(super) const GAIN: usize = 64;

const HELLO: u8 = 9;
const PIECE: u8 = 10;
const CHUNKS: u8 = 11;
const DONE: u8 = 12;

/// A message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// Sender: what comes.
    Hello(Hello),
    /// Sender: the next bytes of the manifest, in a pack.
    Piece(Vec<u8>),
    /// Sender: chunks, in a pack.
    Chunks(Vec<u8>),
    /// Receiver: all is there, written, read back and compared, but for so many things that it was allowed to leave as they are.
    Done(u64),
    /// What both forms say.
    Both(Message),
}

/// What comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hello {
    /// Bytes of the manifest.
    pub(super) bytes: u64,
    /// The digest over the whole.
    pub(super) digest: BlockDigest,
    /// Where it comes from.
    pub(super) origin: Origin,
}

fn protocol(what: &'static str) -> ShipmentError {
    ShipmentError::Protocol(what)
}

impl Frame {
    pub(super) fn write(&self, to: &mut dyn Write) -> Result<(), ShipmentError> {
        match self {
            Self::Hello(hello) => {
                let mut body = MAGIC.to_vec();
                body.extend(VERSION.to_le_bytes());
                body.extend(u32::try_from(BLOCK).unwrap_or(0).to_le_bytes());
                body.extend(hello.bytes.to_le_bytes());
                body.extend(hello.digest);
                body.extend(hello.origin.uuid);
                body.extend(hello.origin.label);
                write_raw(to, HELLO, &body)
            }
            Self::Piece(pack) => write_raw(to, PIECE, pack),
            Self::Chunks(pack) => write_raw(to, CHUNKS, pack),
            Self::Done(findings) => write_raw(to, DONE, &findings.to_le_bytes()),
            Self::Both(message) => message.write(to),
        }
    }

    pub(super) fn read(from: &mut dyn Read) -> Result<Self, ShipmentError> {
        let (kind, body) = read_raw(from)?;
        Ok(match kind {
            HELLO => Self::Hello(hello(&body)?),
            PIECE => Self::Piece(body),
            CHUNKS => Self::Chunks(body),
            DONE => {
                let number = body.try_into().map_err(|_| protocol("the end is of another length"))?;
                Self::Done(u64::from_le_bytes(number))
            }
            0 => return Err(protocol("it ships in the block form, and this end waits for a tree")),
            _ => match Message::parse(kind, body)? {
                Message::Refuse(reason) => return Err(ShipmentError::Refused(reason)),
                message => Self::Both(message),
            },
        })
    }
}

fn hello(body: &[u8]) -> Result<Hello, ShipmentError> {
    let short = || protocol("the first message is short");
    let rest = body.strip_prefix(MAGIC).ok_or(protocol("this is not a shipment of a tree"))?;
    let (version, rest) = rest.split_first_chunk::<2>().ok_or_else(short)?;
    if u16::from_le_bytes(*version) != VERSION {
        return Err(protocol("it speaks another version; use the same version at both ends"));
    }
    let (chunk, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    if u32::from_le_bytes(*chunk) as usize != BLOCK {
        return Err(protocol("its chunks are of another size"));
    }
    let (bytes, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
    let (digest, rest) = rest.split_first_chunk::<32>().ok_or_else(short)?;
    let (uuid, label) = rest.split_first_chunk::<16>().ok_or_else(short)?;
    let origin = Origin { uuid: *uuid, label: label.try_into().map_err(|_| short())? };
    let bytes = u64::from_le_bytes(*bytes);
    if bytes > MANIFEST {
        return Err(protocol("the manifest is too large"));
    }
    Ok(Hello { bytes, digest: *digest, origin })
}

/// Makes a pack: a byte that says whether it is compressed, and the bytes.
pub(super) fn pack(bytes: &[u8], packer: &mut Packer<'_>) -> Vec<u8> {
    match packer.pack(bytes) {
        Some(packed) => [&[1], &packed[..]].concat(),
        None => [&[0], bytes].concat(),
    }
}

/// Takes a pack apart, into `buffer`, which holds [`PACK`] bytes.
pub(super) fn unpack<'b>(pack: &'b [u8], buffer: &'b mut [u8]) -> Result<&'b [u8], ShipmentError> {
    match pack.split_first() {
        Some((0, bytes)) => Ok(bytes),
        Some((1, packed)) => {
            let length = zstd::bulk::decompress_to_buffer(packed, buffer)
                .map_err(|_| protocol("a pack that cannot be unpacked"))?;
            Ok(&buffer[..length])
        }
        _ => Err(protocol("a pack of which nobody knows how it is packed")),
    }
}

/// Writes a manifest in pieces.
pub(super) fn write_manifest(to: &mut dyn Write, manifest: &Manifest) -> Result<(), ShipmentError> {
    let mut pieces = Pieces { to, packer: Packer::lowest(GAIN), waiting: Vec::with_capacity(PACK) };
    let written = manifest.encode(&mut pieces).and_then(|()| pieces.flush());
    written.map_err(|error| match error.downcast::<ShipmentError>() {
        Ok(error) => error,
        Err(error) => ShipmentError::Connection(error),
    })
}

struct Pieces<'w> {
    to: &'w mut dyn Write,
    packer: Packer<'static>,
    waiting: Vec<u8>,
}

impl Pieces<'_> {
    fn send(&mut self) -> io::Result<()> {
        if !self.waiting.is_empty() {
            let piece = Frame::Piece(pack(&self.waiting, &mut self.packer));
            self.waiting.clear();
            piece.write(self.to).map_err(io::Error::other)?;
        }
        Ok(())
    }
}

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.waiting.len() >= PACK {
            self.send()?;
        }
        let n = bytes.len().min(PACK - self.waiting.len());
        self.waiting.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()?;
        self.to.flush()
    }
}

/// Reads the manifest that `hello` says comes; its memory grows with what really comes.
pub(super) fn read_manifest(from: &mut dyn Read, hello: &Hello) -> Result<Manifest, ShipmentError> {
    let mut coming =
        Coming { from, left: hello.bytes, buffer: vec![0; PACK], here: Vec::new(), at: 0, hash: Hashing::new() };
    let manifest = Manifest::decode(&mut coming).map_err(|error| match error {
        DecodeError::Read(error) => match error.downcast::<ShipmentError>() {
            Ok(error) => error,
            Err(_) => protocol("the manifest ends too soon"),
        },
        DecodeError::Path(_) => protocol("a path of the manifest is none"),
        DecodeError::Malformed(what) => protocol(what),
    })?;
    if coming.left > 0 || coming.at < coming.here.len() {
        return Err(protocol("the manifest goes on behind its end"));
    }
    if coming.hash.finish() != hello.digest {
        return Err(protocol("the manifest is not what its digest says"));
    }
    Ok(manifest)
}

struct Coming<'r> {
    from: &'r mut dyn Read,
    /// Bytes that are to come after those that are here.
    left: u64,
    buffer: Vec<u8>,
    here: Vec<u8>,
    at: usize,
    hash: Hashing,
}

impl Coming<'_> {
    fn next(&mut self) -> Result<(), ShipmentError> {
        let Frame::Piece(piece) = Frame::read(self.from)? else { return Err(protocol("a manifest was to come")) };
        let bytes = unpack(&piece, &mut self.buffer)?;
        if bytes.is_empty() || bytes.len() as u64 > self.left {
            return Err(protocol("the manifest is of another length"));
        }
        self.left -= bytes.len() as u64;
        self.here.clear();
        self.here.extend_from_slice(bytes);
        self.at = 0;
        self.hash.write_all(&self.here).map_err(ShipmentError::Connection)
    }
}

impl Read for Coming<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.at == self.here.len() && self.left > 0 {
            self.next().map_err(io::Error::other)?;
        }
        let n = bytes.len().min(self.here.len() - self.at);
        bytes[..n].copy_from_slice(&self.here[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_manifest_survives_the_way(manifest in super::super::manifest::tests::manifest()) {
            let mut out = Vec::new();
            write_manifest(&mut out, &manifest).expect("written");
            let (digest, bytes) = manifest.summary();
            let (mut rest, origin) = (&out[..], Origin::default());
            prop_assert_eq!(read_manifest(&mut rest, &Hello { bytes, digest, origin }).expect("read"), manifest);
            prop_assert!(rest.is_empty());
            for hello in [Hello { bytes: bytes + 1, digest, origin }, Hello { bytes: bytes - 1, digest, origin }, Hello { bytes, digest: [0; 32], origin }] {
                prop_assert!(read_manifest(&mut &out[..], &hello).is_err());
            }
        }

        #[test]
        fn garbage_is_an_error_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0u8..14) {
            let _ = Frame::read(&mut &bytes[..]);
            let mut framed = Vec::new();
            write_raw(&mut framed, kind, &bytes).expect("written");
            let _ = Frame::read(&mut &framed[..]);
            let _ = read_manifest(&mut &framed[..], &Hello { bytes: 300, digest: [0; 32], origin: Origin::default() });
            let _ = unpack(&bytes, &mut vec![0; PACK]);
        }
    }

    #[test]
    fn every_message_survives() {
        let all = [
            Frame::Hello(Hello { bytes: 9, digest: [7; 32], origin: Origin { uuid: [1; 16], label: [2; 16] } }),
            Frame::Piece(vec![0, 1]),
            Frame::Chunks(vec![1]),
            Frame::Done(3),
            Frame::Both(Message::End),
        ];
        for frame in all {
            let mut out = Vec::new();
            frame.write(&mut out).expect("written");
            assert_eq!(Frame::read(&mut &out[..]).expect("read"), frame);
        }
        // An end that only knows blocks says that it does not know this.
        let mut out = Vec::new();
        Frame::Hello(Hello { bytes: 9, digest: [7; 32], origin: Origin { uuid: [1; 16], label: [2; 16] } })
            .write(&mut out)
            .expect("written");
        assert!(matches!(Message::read(&mut &out[..]), Err(ShipmentError::Protocol(_))));
        // A bomb does not unpack.
        let bomb = [&[1][..], &zstd::bulk::compress(&vec![0; PACK + 1], 3).expect("packed")].concat();
        assert!(unpack(&bomb, &mut vec![0; PACK]).is_err());
    }
}
