//! What is asked of an object store.
//!
//! The words are S3's. Objects have no tags of ours: those of a frontend are the ones below its own folder, `SITE/`, in a bucket of the account, and
//! those of a provision below `SITE/provisions/PROVISION/`. As with [`crate::cloud`], calls do not wait and do not try again, and saying the same again gives
//! what is there.

use std::fmt;
use std::future::Future;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::cloud::Answer;
use crate::ids::{ProvisionId, text_type};

/// The most parts that an upload may have.
pub const MOST_PARTS: u32 = 10_000;
/// The least bytes of a part that is not the last.
pub const LEAST_PART: u64 = 5 << 20;
/// The longest key.
const LONGEST_KEY: usize = 1024;

/// A text that is no name of a bucket, of an object, or of a place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// A bucket's.
    #[error(
        "`{0}` is no name of a bucket: 3 to 63 small letters, digits and hyphens, a letter or digit first and last"
    )]
    Bucket(String),
    /// An object's.
    #[error("`{0}` is no key of an object: at most 1,024 letters, digits and !-_.*'()/=+@,:")]
    Key(String),
    /// A place of an object or of an upload.
    #[error("`{0}` is no place of an object: s3://BUCKET/KEY, for an upload with #ID behind it")]
    Place(String),
}

fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}

text_type! {
    /// A bucket's name. Without dots, which S3 allows and its certificates do not cover.
    BucketName, InvalidName
}
text_type! {
    /// An object's key: of characters that need no care anywhere.
    ObjectKey, InvalidName
}
text_type! {
    /// An upload in parts that is not complete, as the store calls it.
    UploadId, InvalidName
}

impl BucketName {
    /// The bucket of a frontend in a region, when nobody says otherwise. Names are the whole world's: the site's digest makes it one that nobody else has.
    ///
    /// # Errors
    /// Never for a region's name and a digest.
    pub fn of_site(site: &str, region: &str) -> Result<Self, InvalidName> {
        format!("rocks-{site}-{region}").parse()
    }
}

impl FromStr for BucketName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let ends = text.bytes().next().is_some_and(is_plain) && text.bytes().last().is_some_and(is_plain);
        if ends && (3..=63).contains(&text.len()) && text.bytes().all(|b| is_plain(b) || b == b'-') {
            return Ok(Self(text.into()));
        }
        Err(InvalidName::Bucket(shown(text)))
    }
}

impl FromStr for ObjectKey {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"!-_.*'()/=+@,:~^".contains(&b);
        // A client that tidies paths up would ask for another one.
        let is_odd = text.starts_with('/') || text.split('/').any(|part| matches!(part, "" | "." | ".."));
        if (1..=LONGEST_KEY).contains(&text.len()) && text.bytes().all(fits) && !is_odd {
            return Ok(Self(text.into()));
        }
        Err(InvalidName::Key(shown(text)))
    }
}

impl FromStr for UploadId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if (1..=LONGEST_KEY).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
            return Ok(Self(text.into()));
        }
        Err(InvalidName::Place(shown(text)))
    }
}

/// The folder of a site's provisions, or of one of them: what the keys of their objects begin with.
#[must_use]
pub fn folder(site: &str, provision: Option<&ProvisionId>) -> String {
    let all = format!("{site}/provisions/");
    provision.map_or_else(|| all.clone(), |provision| format!("{all}{provision}/"))
}

/// The provision that a key of a site's object names.
#[must_use]
pub fn provision_of(site: &str, key: &ObjectKey) -> Option<ProvisionId> {
    let (provision, _) = key.as_str().strip_prefix(&folder(site, None))?.split_once('/')?;
    provision.parse().ok()
}

/// Where an object is, or an upload to it: `s3://BUCKET/KEY`, `s3://BUCKET/KEY#UPLOAD`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Place {
    /// In which bucket.
    pub bucket: BucketName,
    /// By which key.
    pub key: ObjectKey,
    /// The upload, if it is none that is complete.
    pub upload: Option<UploadId>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)?;
        self.upload.as_ref().map_or(Ok(()), |upload| write!(f, "#{upload}"))
    }
}

impl FromStr for Place {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let rest = text.strip_prefix("s3://").and_then(|rest| rest.split_once('/'));
        let (bucket, rest) = rest.ok_or_else(|| InvalidName::Place(shown(text)))?;
        let (key, upload) = rest.split_once('#').map_or((rest, None), |(key, upload)| (key, Some(upload)));
        Ok(Self { bucket: bucket.parse()?, key: key.parse()?, upload: upload.map(str::parse).transpose()? })
    }
}

impl TryFrom<String> for Place {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<Place> for String {
    fn from(place: Place) -> Self {
        place.to_string()
    }
}

/// A SHA-256 digest.
pub type Sha256 = [u8; 32];

/// An object that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its bytes.
    pub bytes: u64,
    /// The digest of them, if it came as one piece and by us.
    pub sha256: Option<Sha256>,
}

/// An object of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: ObjectKey,
    /// Its bytes.
    pub bytes: u64,
}

/// A part of an upload that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutPart {
    /// Its number, from 1.
    pub number: u32,
    /// Its bytes.
    pub bytes: u64,
    /// What the store calls it.
    pub etag: String,
    /// The digest of it.
    pub sha256: Sha256,
}

/// An object store. Objects are encrypted by it, and what is sent has a SHA-256 digest that it checks.
pub trait Objects: Send + Sync {
    /// Makes a bucket if there is none: with no access for the public, and the site in its tags. One of the account that is there already
    /// stays as it is if it has tags; another account's is refused.
    fn ensure_bucket(&self, bucket: &BucketName, site: &str) -> impl Future<Output = Answer<()>> + Send;

    /// Puts an object, in place of what was there before.
    fn put_object(&self, bucket: &BucketName, key: &ObjectKey, body: Bytes) -> impl Future<Output = Answer<()>> + Send;
    /// An object; nothing when there is none.
    fn object(&self, bucket: &BucketName, key: &ObjectKey) -> impl Future<Output = Answer<Option<Stored>>> + Send;
    /// All objects whose keys begin with `prefix`; none where there is no bucket.
    fn list_objects(&self, bucket: &BucketName, prefix: &str) -> impl Future<Output = Answer<Vec<Listed>>> + Send;
    /// Removes objects; some may be gone already.
    fn delete_objects(&self, bucket: &BucketName, keys: &[ObjectKey]) -> impl Future<Output = Answer<()>> + Send;
    /// An address by which whoever has it can get the object for so long, at most a week. Nothing is asked: the object need not be there.
    fn presign_get(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        valid: Duration,
    ) -> impl Future<Output = Answer<String>> + Send;

    /// Begins an upload in parts. There is no token for this: look for one with [`Self::list_uploads`] first.
    fn begin_upload(&self, bucket: &BucketName, key: &ObjectKey) -> impl Future<Output = Answer<UploadId>> + Send;
    /// Puts a part, in place of what was there before. At most [`MOST_PARTS`], and none but the last smaller than [`LEAST_PART`].
    fn put_part(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: &UploadId,
        number: u32,
        body: Bytes,
    ) -> impl Future<Output = Answer<PutPart>> + Send;
    /// The parts that are there, by number; an error of [`crate::cloud::CloudError::Missing`] when there is no such upload, or no more.
    fn parts(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: &UploadId,
    ) -> impl Future<Output = Answer<Vec<PutPart>>> + Send;
    /// Makes an object of these parts.
    fn complete_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[PutPart],
    ) -> impl Future<Output = Answer<()>> + Send;
    /// Gives an upload up, its parts with it; it may be gone already.
    fn abort_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: &UploadId,
    ) -> impl Future<Output = Answer<()>> + Send;
    /// All uploads that are not complete, to keys that begin with `prefix`; none where there is no bucket.
    fn list_uploads(
        &self,
        bucket: &BucketName,
        prefix: &str,
    ) -> impl Future<Output = Answer<Vec<(ObjectKey, UploadId)>>> + Send;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_every_store_takes() {
        assert_eq!(BucketName::of_site("1f2e3d4c", "us-east-1").expect("one").as_str(), "rocks-1f2e3d4c-us-east-1");
        for bad in ["", "ab", "-abc", "abc-", "a.b.c", "Abc", "a_b", &"x".repeat(64)] {
            assert!(bad.parse::<BucketName>().is_err(), "{bad}");
        }
        for bad in ["", "/a", "a//b", "a/../b", "a/./b", "a b", "ä", "a#b", "a?b", "a%20", &"x".repeat(1025)] {
            assert!(bad.parse::<ObjectKey>().is_err(), "{bad}");
        }
        for good in ["a", "site/compute-1/disk.vmdk", "rpms/libstdc++-12:1.rpm", "a/~1^git"] {
            assert_eq!(good.parse::<ObjectKey>().expect("a key").as_str(), good);
        }
    }

    #[test]
    fn a_place_is_read_as_it_is_written() {
        for text in ["s3://rocks-1/site/compute-1/disk.vmdk", "s3://rocks-1/site/compute-1/disk.vmdk#2~Xy_9.-"] {
            let place: Place = text.parse().expect("a place");
            assert_eq!((place.to_string().as_str(), place.upload.is_some()), (text, text.contains('#')));
            assert_eq!(serde_json::from_str::<Place>(&format!("{text:?}")).expect("read"), place);
        }
        for bad in ["", "s3://", "s3://rocks-1", "s3://rocks-1/", "s3://R/k", "https://rocks-1/k", "s3://rocks-1/k#"] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_say_whose_they_are() {
        let compute: ProvisionId = "compute-1".parse().expect("a name");
        let key: ObjectKey = format!("{}disk.vmdk", folder("site-1", Some(&compute))).parse().expect("a key");
        assert_eq!(provision_of("site-1", &key), Some(compute));
        assert_eq!(provision_of("site", &key), None);
        assert!(key.as_str().starts_with(&folder("site-1", None)));
        for other in ["site-1/provisions/x", "site-1/packages/a/b", "site-1/x"] {
            assert_eq!(provision_of("site-1", &other.parse().expect("a key")), None, "{other}");
        }
    }
}
