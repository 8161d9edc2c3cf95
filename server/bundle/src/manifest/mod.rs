//! The manifest, version 2007-10-10.

mod read;
mod write;

use crate::key::{KeyError, PrivateKey, PublicKey};
use crate::value::{ImageKind, Sha1, ValueError};

/// The version of the format.
pub const VERSION: &str = "2007-10-10";
/// The digest's name in it.
pub(crate) const DIGEST: &str = "SHA1";
/// The cipher's.
pub(crate) const CIPHER: &str = "AES-128-CBC";
/// Parts that a bundle may have: 1 TB of 10 MB.
pub(crate) const PARTS: usize = 100_000;
/// Bytes of a manifest.
const BYTES: usize = 32 << 20;
/// Bytes of a text in it.
const TEXT: usize = 4096;

/// A manifest that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Too large.
    #[error("the manifest has {0} bytes; no bundle needs so many")]
    TooLarge(usize),
    /// Not XML, or XML that has no place in it.
    #[error("the manifest is not well-formed at byte {at}: {why}")]
    Malformed {
        /// Where.
        at: usize,
        /// What is wrong.
        why: String,
    },
    /// Another version.
    #[error("the manifest's version is `{0}`; only 2007-10-10 is read")]
    Version(String),
    /// Something lacks.
    #[error("the manifest has no `{0}`")]
    Missing(&'static str),
    /// Something stands there twice.
    #[error("the manifest has more than one `{0}`")]
    Twice(&'static str),
    /// A text that is not of its kind.
    #[error("the manifest's `{element}` is `{text}`, which is no {wanted}")]
    Value {
        /// Where it stands.
        element: &'static str,
        /// What it is.
        text: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// Of the same.
    #[error("the manifest's `{element}`: {error}")]
    Invalid {
        /// Where it stands.
        element: &'static str,
        /// What is wrong.
        error: ValueError,
    },
    /// The parts are not counted from nothing, each once.
    #[error("the manifest's parts are not numbered from 0 to {0}, each once")]
    Parts(usize),
    /// A part whose name leads elsewhere.
    #[error("`{0}` is no name for a part: it must be a plain file name")]
    PartName(String),
}

/// Which program made a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundler {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its release.
    pub release: String,
}

impl Default for Bundler {
    fn default() -> Self {
        Self { name: "rocks-bundle".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned(), release: "0".to_owned() }
    }
}

/// What the image runs on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Machine {
    /// As in `x86_64`.
    pub architecture: String,
    /// Virtual device → device.
    pub block_devices: Vec<(String, String)>,
    /// The kernel's image.
    pub kernel_id: Option<String>,
    /// The initial RAM disk's.
    pub ramdisk_id: Option<String>,
    /// What is paid for with it.
    pub product_codes: Vec<String>,
}

/// A part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartInfo {
    /// Its file's name.
    pub name: String,
    /// The digest of its bytes.
    pub digest: Sha1,
}

/// The image, and how it is bundled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its name.
    pub name: String,
    /// The account that it belongs to.
    pub user: String,
    /// What it is for.
    pub kind: ImageKind,
    /// A kernel's name.
    pub kernel_name: Option<String>,
    /// The AMIs that it was made of.
    pub ancestors: Vec<String>,
    /// The digest of the tar file.
    pub digest: Sha1,
    /// Bytes of the image.
    pub size: u64,
    /// Bytes of all parts.
    pub bundled_size: u64,
    /// The key, for EC2.
    pub ec2_key: Vec<u8>,
    /// The key, for the user.
    pub user_key: Vec<u8>,
    /// The initialization vector, for EC2.
    pub ec2_iv: Vec<u8>,
    /// The initialization vector, for the user.
    pub user_iv: Vec<u8>,
    /// In order.
    pub parts: Vec<PartInfo>,
}

/// A signed manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Which program made it.
    pub bundler: Bundler,
    machine: Machine,
    image: Image,
    /// `<machine_configuration>` and `<image>`, one after the other, byte for byte as they stand in the manifest.
    signed: String,
    signature: Vec<u8>,
}

impl Manifest {
    /// Makes one.
    ///
    /// # Errors
    /// The key is none.
    pub fn sign(bundler: Bundler, machine: Machine, image: Image, key: &PrivateKey) -> Result<Self, KeyError> {
        let signed = write::signed(&machine, &image);
        let signature = key.sign(signed.as_bytes())?;
        Ok(Self { bundler, machine, image, signed, signature })
    }

    /// Reads one. Whether it says the truth, [`Manifest::is_signed_by`] says, and [`crate::unbundle`].
    ///
    /// # Errors
    /// It is none.
    pub fn read(text: &str) -> Result<Self, ManifestError> {
        read::read(text)
    }

    /// Its text, on one line and with single quotes: the original reads its signature off its own way of writing XML, which is this.
    #[must_use]
    pub fn xml(&self) -> String {
        write::xml(self)
    }

    /// Whether this key signed it.
    #[must_use]
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        key.verifies(self.signed.as_bytes(), &self.signature)
    }

    /// What the image runs on.
    #[must_use]
    pub const fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The image.
    #[must_use]
    pub const fn image(&self) -> &Image {
        &self.image
    }
}
