//! From a manifest and parts back to the image. Nothing is believed that has not been checked.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom, Write};

use aws_lc_rs::digest::Context;
use flate2::bufread::MultiGzDecoder;

use crate::bundle::Progress;
use crate::cipher::{Decrypting, NotDecrypted, Secret};
use crate::key::{Certificate, PrivateKey};
use crate::manifest::{Image, Manifest, PartInfo};
use crate::tar::{self, BLOCK, Failed, TarError};
use crate::value::{Sha1, from_hex};

/// Bytes at once.
const CHUNK: usize = 256 << 10;
/// Bytes that a tar file may have after its member.
const TAIL: u64 = 1 << 20;

/// A bundle that is not what its manifest says, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum UnbundleError {
    /// Signed by somebody else, or changed.
    #[error("the manifest's signature is not that of the {0}: it was changed, or somebody else signed it")]
    Signature(&'static str),
    /// The key opens nothing.
    #[error("the private key opens neither the user's nor EC2's key in the manifest: it is another key")]
    WrongKey,
    /// Larger than is taken.
    #[error("the image has {bytes} bytes; {limit} are taken at the most")]
    TooLarge {
        /// How large it is.
        bytes: u64,
        /// What is taken.
        limit: u64,
    },
    /// A part cannot be had.
    #[error("part {index} (`{name}`) cannot be read: {error}")]
    Part {
        /// Which.
        index: usize,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// A part is larger than any should be.
    #[error("part {index} (`{name}`) has more than {limit} bytes")]
    PartTooLarge {
        /// Which.
        index: usize,
        /// Its name.
        name: String,
        /// What is taken.
        limit: u64,
    },
    /// A part was changed.
    #[error("part {index} (`{name}`) is damaged: its digest is {found}, the manifest says {wanted}")]
    PartDigest {
        /// Which.
        index: usize,
        /// Its name.
        name: String,
        /// What it is.
        found: Sha1,
        /// What the manifest says.
        wanted: Sha1,
    },
    /// The parts have another size together.
    #[error("the parts have {found} bytes together, the manifest says {wanted}")]
    BundledSize {
        /// What they have.
        found: u64,
        /// What the manifest says.
        wanted: u64,
    },
    /// The key is not theirs.
    #[error("the parts cannot be decrypted with the manifest's key")]
    Cipher,
    /// What is in the encryption is no gzip.
    #[error("what is in the parts is no gzip file: {0}")]
    Gzip(#[source] io::Error),
    /// What is in the gzip is no tar file with an image.
    #[error("what is in the parts is no tar file with an image: {0}")]
    Tar(#[from] TarError),
    /// The tar file ends too early, or not at all.
    #[error("the tar file in the parts {0}")]
    Length(&'static str),
    /// The image is not as large as the manifest says.
    #[error("the image has {found} bytes, the manifest says {wanted}")]
    Size {
        /// What it has.
        found: u64,
        /// What the manifest says.
        wanted: u64,
    },
    /// The tar file was changed.
    #[error("the image is damaged: its tar file's digest is {found}, the manifest says {wanted}")]
    Digest {
        /// What it is.
        found: Sha1,
        /// What the manifest says.
        wanted: Sha1,
    },
    /// The image cannot be written.
    #[error("the image cannot be written: {0}")]
    Target(#[source] io::Error),
}

/// Where parts come from.
pub trait PartSource {
    /// Opens a part, by its number and by its name, which is a plain file name. It may be remote, slow and wrong.
    ///
    /// # Errors
    /// It is not there.
    fn open(&mut self, index: usize, name: &str) -> io::Result<Box<dyn Read + '_>>;
}

impl<F: FnMut(usize, &str) -> io::Result<Box<dyn Read>>> PartSource for F {
    fn open(&mut self, index: usize, name: &str) -> io::Result<Box<dyn Read + '_>> {
        self(index, name).map(|read| read as Box<dyn Read + '_>)
    }
}

/// Where an image goes.
pub trait Target {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// They cannot be written.
    fn data(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// So many bytes of zeros are next.
    ///
    /// # Errors
    /// They cannot be written.
    fn hole(&mut self, bytes: u64) -> io::Result<()>;
    /// There is nothing more, and all digests are right.
    ///
    /// # Errors
    /// It cannot be brought to an end.
    fn finish(&mut self) -> io::Result<()>;
}

/// An image as a plain stream, with its zeros.
#[derive(Debug)]
pub struct Plain<W>(pub W);

impl<W: Write> Target for Plain<W> {
    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn hole(&mut self, bytes: u64) -> io::Result<()> {
        io::copy(&mut io::repeat(0).take(bytes), &mut self.0).map(drop)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// An image in an empty file, with its holes.
#[derive(Debug)]
pub struct SparseFile<'f>(pub &'f File);

impl Target for SparseFile<'_> {
    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn hole(&mut self, bytes: u64) -> io::Result<()> {
        let to = self.0.stream_position()?.checked_add(bytes).ok_or(io::ErrorKind::FileTooLarge)?;
        self.0.seek(SeekFrom::Start(to)).map(drop)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.0.set_len(self.0.stream_position()?)
    }
}

/// Who must have signed the manifest.
#[derive(Debug, Clone, Copy)]
pub enum Trust<'k> {
    /// Whose private key opens it: the user.
    Key,
    /// The owner of this certificate: what EC2 checks, whose key opens the bundle but signed nothing.
    Certificate(&'k Certificate),
    /// Nobody. The digests still find damage, but not a forger.
    Nobody,
}

/// What is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of an image.
    pub image_bytes: u64,
    /// Bytes of a part, which is held in memory.
    pub part_bytes: u64,
    /// Extents of an image, which are held in memory.
    pub extents: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { image_bytes: 64 << 40, part_bytes: 64 << 20, extents: 1 << 20 }
    }
}

/// How a bundle is opened.
#[derive(Debug, Clone, Copy)]
pub struct Order<'k> {
    /// The user's private key, or EC2's.
    pub key: &'k PrivateKey,
    /// Who must have signed.
    pub trust: Trust<'k>,
    /// What is taken.
    pub limits: Limits,
}

impl<'k> Order<'k> {
    /// As the user.
    #[must_use]
    pub fn new(key: &'k PrivateKey) -> Self {
        Self { key, trust: Trust::Key, limits: Limits::default() }
    }
}

/// Reads all parts one after the other, each checked before a byte of it goes on.
struct Parts<'p> {
    source: &'p mut dyn PartSource,
    infos: std::iter::Enumerate<std::slice::Iter<'p, PartInfo>>,
    limit: u64,
    buffer: Vec<u8>,
    at: usize,
    done: usize,
    bytes: u64,
}

impl Parts<'_> {
    fn next(&mut self, index: usize, info: &PartInfo) -> Result<(), UnbundleError> {
        let name = || info.name.clone();
        let failed = |error| UnbundleError::Part { index, name: name(), error };
        self.buffer.clear();
        self.at = 0;
        let part = self.source.open(index, &info.name).map_err(failed)?;
        part.take(self.limit.saturating_add(1)).read_to_end(&mut self.buffer).map_err(failed)?;
        if self.buffer.len() as u64 > self.limit {
            return Err(UnbundleError::PartTooLarge { index, name: name(), limit: self.limit });
        }
        let found = Sha1::of(&self.buffer);
        if found != info.digest {
            return Err(UnbundleError::PartDigest { index, name: name(), found, wanted: info.digest });
        }
        self.done += 1;
        self.bytes += self.buffer.len() as u64;
        Ok(())
    }
}

impl Read for Parts<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while self.at == self.buffer.len() {
            let Some((index, info)) = self.infos.next() else { return Ok(0) };
            self.next(index, info).map_err(io::Error::other)?;
        }
        let count = bytes.len().min(self.buffer.len() - self.at);
        bytes[..count].copy_from_slice(&self.buffer[self.at..][..count]);
        self.at += count;
        Ok(count)
    }
}

/// The tar file, and its digest as far as it has been read.
struct Tar<'p> {
    gzip: MultiGzDecoder<BufReader<Decrypting<Parts<'p>>>>,
    digest: Context,
}

impl Read for Tar<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.gzip.read(bytes)?;
        self.digest.update(&bytes[..count]);
        Ok(count)
    }
}

/// What came through a pile of readers.
fn through(error: io::Error) -> UnbundleError {
    match error.downcast::<UnbundleError>() {
        Ok(known) => known,
        Err(error) if error.get_ref().is_some_and(|inner| inner.is::<NotDecrypted>()) => UnbundleError::Cipher,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => UnbundleError::Length("ends too early"),
        Err(error) => UnbundleError::Gzip(error),
    }
}

fn secret(image: &Image, key: &PrivateKey) -> Result<Secret, UnbundleError> {
    let open = |sealed: &[u8]| -> Option<[u8; 16]> {
        let text = key.decrypt(sealed)?;
        from_hex(std::str::from_utf8(&text).ok()?)?.try_into().ok()
    };
    let both = |key: &[u8], iv: &[u8]| Some(Secret::new(open(key)?, open(iv)?));
    both(&image.user_key, &image.user_iv).or_else(|| both(&image.ec2_key, &image.ec2_iv)).ok_or(UnbundleError::WrongKey)
}

/// Takes a bundle apart. Until it has returned, what `target` got may be anything: no more than the image's size, but unproven.
///
/// # Errors
/// Anything is not as the manifest says, or cannot be read or written.
pub fn unbundle(
    manifest: &Manifest,
    order: &Order<'_>,
    parts: &mut dyn PartSource,
    target: &mut dyn Target,
    tell: &mut dyn FnMut(Progress),
) -> Result<(), UnbundleError> {
    let image = manifest.image();
    let signed = match order.trust {
        Trust::Key => manifest.is_signed_by(order.key.public()).then_some(()).ok_or("private key's owner"),
        Trust::Certificate(who) => manifest.is_signed_by(who.key()).then_some(()).ok_or("certificate's owner"),
        Trust::Nobody => Ok(()),
    };
    let limit = order.limits.image_bytes;
    if image.size > limit {
        return Err(UnbundleError::TooLarge { bytes: image.size, limit });
    }
    // Who has another key is told so, rather than that somebody forged something.
    let secret = secret(image, order.key)?;
    signed.map_err(UnbundleError::Signature)?;
    let parts = Parts {
        source: parts,
        infos: image.parts.iter().enumerate(),
        limit: order.limits.part_bytes,
        buffer: Vec::new(),
        at: 0,
        done: 0,
        bytes: 0,
    };
    let plain = Decrypting::new(parts, &secret).map_err(|_| UnbundleError::Cipher)?;
    let gzip = MultiGzDecoder::new(BufReader::with_capacity(CHUNK, plain));
    let mut tar = Tar { gzip, digest: Sha1::context() };
    let found = extract(&mut tar, image, order.limits.extents, target, tell)?;
    let digest = tar.digest.finish().into();
    if digest != image.digest {
        return Err(UnbundleError::Digest { found: digest, wanted: image.digest });
    }
    if found != image.bundled_size {
        return Err(UnbundleError::BundledSize { found, wanted: image.bundled_size });
    }
    target.finish().map_err(UnbundleError::Target)
}

/// Reads the whole tar file, and says how many bytes all parts have.
fn extract(
    tar: &mut Tar<'_>,
    image: &Image,
    extents: usize,
    target: &mut dyn Target,
    tell: &mut dyn FnMut(Progress),
) -> Result<u64, UnbundleError> {
    let member = tar::read(tar, extents).map_err(|failed| match failed {
        Failed::Io(error) => through(error),
        Failed::Tar(error) => error.into(),
    })?;
    if member.bytes != image.size {
        return Err(UnbundleError::Size { found: member.bytes, wanted: image.size });
    }
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    for extent in &member.extents {
        if extent.offset > at {
            target.hole(extent.offset - at).map_err(UnbundleError::Target)?;
        }
        at = extent.offset;
        while at < extent.end() {
            let count = usize::try_from(extent.end() - at).unwrap_or(CHUNK).min(CHUNK);
            tar.read_exact(&mut buffer[..count]).map_err(through)?;
            target.data(&buffer[..count]).map_err(UnbundleError::Target)?;
            at += count as u64;
            let parts = tar.gzip.get_ref().get_ref().inner();
            tell(Progress { done: at, bytes: image.size, bundled: parts.bytes, parts: parts.done });
        }
        let padding = (extent.bytes.next_multiple_of(BLOCK as u64) - extent.bytes) as usize;
        tar.read_exact(&mut buffer[..padding]).map_err(through)?;
    }
    if at < image.size {
        target.hole(image.size - at).map_err(UnbundleError::Target)?;
    }
    let tail = io::copy(&mut tar.by_ref().take(TAIL + 1), &mut io::sink()).map_err(through)?;
    if tail > TAIL {
        return Err(UnbundleError::Length("does not end after its image"));
    }
    // Parts that hold nothing of the gzip file are read to their end by the decryption, which is the only one to know its end.
    let parts = tar.gzip.get_ref().get_ref().inner();
    tell(Progress { done: image.size, bytes: image.size, bundled: parts.bytes, parts: parts.done });
    Ok(parts.bytes)
}
