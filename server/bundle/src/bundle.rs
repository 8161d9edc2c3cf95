//! From an image to parts and a manifest, in one pass.

use std::io::{self, Read, Seek, SeekFrom, Write};

use aws_lc_rs::digest::Context;
use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};

use crate::cipher::{Encrypting, Secret};
use crate::key::{Certificate, KeyError, PrivateKey};
use crate::manifest::{Bundler, Image, Machine, Manifest, PARTS, PartInfo};
use crate::map::Map;
use crate::tar;
use crate::value::{Account, ImageKind, Prefix, Sha1, to_hex};

/// Bytes of a part: 10 MB, as the original has it.
pub const PART_BYTES: usize = 10 << 20;
/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;
/// The system that a gzip header names: Unix, as gzip does.
const UNIX: u8 = 3;

/// An image that could not be bundled.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The image cannot be read.
    #[error("the image cannot be read at byte {at}: {error}")]
    Read {
        /// Where.
        at: u64,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// The image has become smaller.
    #[error("the image ends before its {bytes} bytes, in what begins at byte {at}: is somebody writing it?")]
    Short {
        /// Where the piece begins that lacks something.
        at: u64,
        /// How many it should have.
        bytes: u64,
    },
    /// A part was not taken.
    #[error("part {index} (`{name}`) could not be put away: {error}")]
    Sink {
        /// Which.
        index: usize,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// Too many parts.
    #[error("the bundle would have more than {PARTS} parts of {0} bytes")]
    TooManyParts(usize),
    /// Parts of nothing.
    #[error("a part must have bytes")]
    NoPartBytes,
    /// A key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// What should not fail.
    #[error("the bundle cannot be made: {0}")]
    Failed(#[source] io::Error),
}

impl BundleError {
    /// What came through a pile of writers.
    fn through(error: io::Error) -> Self {
        error.downcast::<Self>().unwrap_or_else(Self::Failed)
    }
}

/// A part that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its number, from 0.
    pub index: usize,
    /// Its file's name.
    pub name: String,
    /// What is in it.
    pub bytes: Vec<u8>,
    /// The digest of that.
    pub digest: Sha1,
}

/// Where parts go. It may keep the part and return at once; a channel with room for one makes an upload run beside the next part.
pub trait PartSink {
    /// Takes the next part.
    ///
    /// # Errors
    /// It is not taken: the bundle ends here.
    fn put(&mut self, part: Part) -> io::Result<()>;
}

impl<F: FnMut(Part) -> io::Result<()>> PartSink for F {
    fn put(&mut self, part: Part) -> io::Result<()> {
        self(part)
    }
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes of the image that are done, holes counted.
    pub done: u64,
    /// Bytes of the image.
    pub bytes: u64,
    /// Bytes of the bundle that are done.
    pub bundled: u64,
    /// Parts that are done.
    pub parts: usize,
}

/// What is to be made.
#[derive(Debug, Clone)]
pub struct Job<'k> {
    /// What the files, and the image in the tar file, are called.
    pub prefix: Prefix,
    /// Whose it is.
    pub account: Account,
    /// The user's certificate, of the same key as `key`.
    pub certificate: &'k Certificate,
    /// The user's private key, which signs.
    pub key: &'k PrivateKey,
    /// EC2's certificate.
    pub ec2_certificate: &'k Certificate,
    /// What the image runs on.
    pub machine: Machine,
    /// What it is for.
    pub kind: ImageKind,
    /// The AMIs that it was made of.
    pub ancestors: Vec<String>,
    /// Which program makes it.
    pub bundler: Bundler,
    /// What it is encrypted with; something fresh when there is nothing.
    pub secret: Option<Secret>,
    /// Bytes of a part.
    pub part_bytes: usize,
    /// How hard gzip tries, 0 to 9. The original has 9.
    pub level: u32,
    /// When the image was changed (seconds since 1970), for the tar file.
    pub modified: u64,
}

impl<'k> Job<'k> {
    /// As the original does it, for a machine of x86_64.
    #[must_use]
    pub fn new(
        prefix: Prefix,
        account: Account,
        certificate: &'k Certificate,
        key: &'k PrivateKey,
        ec2_certificate: &'k Certificate,
    ) -> Self {
        Self {
            prefix,
            account,
            certificate,
            key,
            ec2_certificate,
            machine: Machine { architecture: "x86_64".to_owned(), ..Machine::default() },
            kind: ImageKind::Machine,
            ancestors: Vec::new(),
            bundler: Bundler::default(),
            secret: None,
            part_bytes: PART_BYTES,
            level: 9,
            modified: 0,
        }
    }
}

/// Cuts what is written into parts.
struct Splitter<'s> {
    sink: &'s mut dyn PartSink,
    prefix: Prefix,
    part_bytes: usize,
    buffer: Vec<u8>,
    parts: Vec<PartInfo>,
    bundled: u64,
    /// Something failed: a gzip writer that is dropped still writes its end, which is nobody's.
    ended: bool,
}

impl Splitter<'_> {
    fn put(&mut self) -> Result<(), BundleError> {
        let index = self.parts.len();
        if index >= PARTS {
            self.ended = true;
            return Err(BundleError::TooManyParts(self.part_bytes));
        }
        let (name, digest) = (self.prefix.part(index), Sha1::of(&self.buffer));
        let bytes = std::mem::take(&mut self.buffer);
        self.bundled += bytes.len() as u64;
        self.parts.push(PartInfo { name: name.clone(), digest });
        let part = Part { index, name: name.clone(), bytes, digest };
        self.sink.put(part).map_err(|error| {
            self.ended = true;
            BundleError::Sink { index, name, error }
        })
    }
}

impl Write for Splitter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.ended {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if self.buffer.capacity() == 0 {
            self.buffer.reserve_exact(self.part_bytes.min(PART_BYTES));
        }
        let count = bytes.len().min(self.part_bytes - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        if self.buffer.len() == self.part_bytes {
            self.put().map_err(io::Error::other)?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where the tar file goes: into its digest, and through gzip and AES into parts.
struct Pipe<'s> {
    digest: Context,
    written: u64,
    gzip: GzEncoder<Encrypting<Splitter<'s>>>,
}

impl Write for Pipe<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.gzip.write_all(bytes)?;
        self.digest.update(bytes);
        self.written += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'s> Pipe<'s> {
    fn new(job: &Job<'_>, secret: &Secret, sink: &'s mut dyn PartSink) -> Result<Self, BundleError> {
        let splitter = Splitter {
            sink,
            prefix: job.prefix.clone(),
            part_bytes: job.part_bytes,
            buffer: Vec::new(),
            parts: Vec::new(),
            bundled: 0,
            ended: false,
        };
        let sealed = Encrypting::new(splitter, secret).map_err(|error| BundleError::Failed(io::Error::other(error)))?;
        let level = Compression::new(job.level.min(9));
        let gzip = GzBuilder::new().operating_system(UNIX).write(sealed, level);
        Ok(Self { digest: Sha1::context(), written: 0, gzip })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), BundleError> {
        self.write_all(bytes).map_err(BundleError::through)
    }

    /// The end: the digest of the tar file, and the parts.
    fn finish(mut self) -> Result<(Sha1, Vec<PartInfo>, u64), BundleError> {
        self.put(&tar::tail(self.written))?;
        let sealed = self.gzip.finish().map_err(BundleError::through)?;
        let mut splitter = sealed.finish().map_err(BundleError::through)?;
        if !splitter.buffer.is_empty() {
            splitter.put()?;
        }
        Ok((self.digest.finish().into(), splitter.parts, splitter.bundled))
    }
}

/// Bundles an image. What `map` says to be holes is not read. `tell` hears of progress after each piece of at most 1 MiB.
///
/// # Errors
/// The image cannot be read, a part is not taken, or a key cannot be used. Parts that were taken are worth nothing then.
pub fn bundle(
    image: &mut (impl Read + Seek),
    map: &Map,
    job: &Job<'_>,
    sink: &mut dyn PartSink,
    tell: &mut dyn FnMut(Progress),
) -> Result<Manifest, BundleError> {
    if job.certificate.key() != job.key.public() {
        return Err(KeyError::Mismatch.into());
    }
    if job.part_bytes == 0 {
        return Err(BundleError::NoPartBytes);
    }
    let secret = match &job.secret {
        Some(secret) => secret.clone(),
        None => Secret::random().map_err(|_| KeyError::Failed)?,
    };
    // Before hours of work: the keys sign and encrypt. The original encrypts hexadecimal digits, not bytes.
    job.key.sign(b"")?;
    let sealed = |certificate: &Certificate, bytes: &[u8]| certificate.key().encrypt(to_hex(bytes).as_bytes());
    let (ec2_key, user_key) = (sealed(job.ec2_certificate, &secret.key)?, sealed(job.certificate, &secret.key)?);
    let (ec2_iv, user_iv) = (sealed(job.ec2_certificate, &secret.iv)?, sealed(job.certificate, &secret.iv)?);

    let mut pipe = Pipe::new(job, &secret, sink)?;
    pipe.put(&tar::head(job.prefix.as_str(), job.modified, map))?;
    if let Err(error) = feed(&mut pipe, image, map, tell) {
        pipe.gzip.get_mut().inner_mut().ended = true;
        return Err(error);
    }
    let (digest, parts, bundled_size) = pipe.finish()?;
    tell(Progress { done: map.bytes(), bytes: map.bytes(), bundled: bundled_size, parts: parts.len() });
    let image = Image {
        name: job.prefix.as_str().to_owned(),
        user: job.account.as_str().to_owned(),
        kind: job.kind,
        kernel_name: (job.kind == ImageKind::Kernel).then(|| job.prefix.as_str().to_owned()),
        ancestors: job.ancestors.clone(),
        digest,
        size: map.bytes(),
        bundled_size,
        ec2_key,
        user_key,
        ec2_iv,
        user_iv,
        parts,
    };
    Ok(Manifest::sign(job.bundler.clone(), job.machine.clone(), image, job.key)?)
}

/// Puts the data of an image into the tar file.
fn feed(
    pipe: &mut Pipe<'_>,
    image: &mut (impl Read + Seek),
    map: &Map,
    tell: &mut dyn FnMut(Progress),
) -> Result<(), BundleError> {
    let mut buffer = vec![0; CHUNK];
    for extent in map.extents() {
        let mut at = extent.offset;
        image.seek(SeekFrom::Start(at)).map_err(|error| BundleError::Read { at, error })?;
        while at < extent.end() {
            let count = usize::try_from(extent.end() - at).unwrap_or(CHUNK).min(CHUNK);
            let piece = &mut buffer[..count];
            image.read_exact(piece).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => BundleError::Short { at, bytes: map.bytes() },
                _ => BundleError::Read { at, error },
            })?;
            pipe.put(piece)?;
            at += count as u64;
            let splitter = pipe.gzip.get_ref().inner();
            tell(Progress { done: at, bytes: map.bytes(), bundled: splitter.bundled, parts: splitter.parts.len() });
        }
        tar::pad(pipe, extent.bytes).map_err(BundleError::through)?;
    }
    Ok(())
}
