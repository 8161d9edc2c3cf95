//! What goes into S3 of an image: a disk as QEMU packs it, or a bundle.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::process::Command;

use rocks_bundle::{Certificate, Job, Map, Part, PrivateKey};
use rocks_provision::engine::{Piece, Pieces};
use sha2::{Digest as _, Sha256};

/// The pieces, and where each is in the bytes.
#[derive(Clone)]
pub(crate) struct Parts {
    bytes: Vec<u8>,
    pieces: Vec<Piece>,
    places: Vec<Range<usize>>,
}

impl Pieces for Parts {
    fn all(&self) -> &[Piece] {
        &self.pieces
    }

    fn read(&self, nth: usize) -> io::Result<Vec<u8>> {
        Ok(self.bytes[self.places[nth].clone()].to_vec())
    }
}

/// A disk of 64 MiB with noise in its first 12 MiB.
pub(crate) fn a_disk() -> Vec<u8> {
    let mut noise = 1_u64;
    let next = |_| {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (noise >> 33) as u8
    };
    let mut bytes: Vec<u8> = (0..12 << 20).map(next).collect();
    bytes.resize(64 << 20, 0);
    bytes
}

/// A file of the tests' keys for bundles.
pub(crate) fn key(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../bundle/tests/keys")).join(name)
}

impl Parts {
    fn add(&mut self, name: &str, bytes: &[u8]) {
        let from = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        let piece = Piece { name: name.to_owned(), bytes: bytes.len() as u64, sha256: Sha256::digest(bytes).into() };
        self.pieces.push(piece);
        self.places.push(from..from + bytes.len());
    }

    fn none() -> Self {
        Self { bytes: Vec::new(), pieces: Vec::new(), places: Vec::new() }
    }

    /// Parts of one object, of which all but the last have 5 MiB.
    pub(crate) fn of_disk(disk: &[u8]) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let (raw, packed) = (dir.path().join("raw"), dir.path().join("vmdk"));
        std::fs::write(&raw, disk).expect("written");
        #[expect(clippy::disallowed_methods, reason = "a test makes its own disk")]
        let converted = Command::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"])
            .args([&raw, &packed])
            .status()
            .expect("qemu-img can be run");
        assert!(converted.success());
        let mut parts = Self::none();
        for part in std::fs::read(packed).expect("read").chunks(5 << 20) {
            parts.add("disk.vmdk", part);
        }
        parts
    }

    /// The files of a bundle, the manifest last.
    pub(crate) fn of_bundle(disk: &[u8]) -> Self {
        let read = |name: &str| std::fs::read(key(name)).expect("a key");
        let own = Certificate::read(&read("new.cert.pem")).expect("a certificate");
        let signer = PrivateKey::read(&read("new.key.pem")).expect("a key");
        let ec2 = Certificate::read(&read("old.cert.pem")).expect("a certificate");
        let (prefix, account) = ("compute".parse().expect("a name"), "123456789012".parse().expect("an account"));
        let job = Job { part_bytes: 5 << 20, level: 1, ..Job::new(prefix, account, &own, &signer, &ec2) };
        let map = Map::new(disk.len() as u64, std::iter::once(0..12 << 20));
        let mut parts = Self::none();
        let mut sink = |part: Part| {
            parts.add(&part.name, &part.bytes);
            Ok(())
        };
        let manifest = rocks_bundle::bundle(&mut io::Cursor::new(disk), &map, &job, &mut sink, &mut |_| {});
        parts.add("compute.manifest.xml", manifest.expect("bundled").xml().as_bytes());
        parts
    }
}
