//! Bundles: an image as `ec2-bundle-image` makes it, and back.
//!
//! The image becomes a tar file with one sparse member, gzip, AES-128-CBC, and parts of 10 MB; a manifest (version 2007-10-10) names
//! the parts and their digests, holds the key for the user and for EC2, and is signed. [`bundle`] makes it, [`unbundle`] takes it
//! apart and trusts nothing that it has not checked. `docs/bundle.md` describes the format.
//!
//! It reads and writes streams and knows no network: each part goes to a [`PartSink`] as soon as it is whole, so that it can be on its
//! way while the next is made. What it holds in memory is one part and the map of the image's holes, however large the image is.
//!
//! SHA-1, PKCS #1 v1.5 and AES without authentication are what the format says. They are used for nothing else here.

mod bundle;
mod cipher;
mod key;
mod manifest;
mod map;
mod tar;
mod unbundle;
mod value;

pub use bundle::{BundleError, Job, PART_BYTES, Part, PartSink, Progress, bundle};
pub use cipher::Secret;
pub use key::{Certificate, KeyError, PrivateKey, PublicKey};
pub use manifest::{Bundler, Image, Machine, Manifest, ManifestError, PartInfo, VERSION};
pub use map::{Extent, Map};
pub use tar::TarError;
pub use unbundle::{Limits, Order, PartSource, Plain, SparseFile, Target, Trust, UnbundleError, unbundle};
pub use value::{Account, ImageKind, Prefix, Sha1, ValueError};
