//! Names and numbers as types of their own, each with a constructor that parses.
//!
//! A value of one of these types has been checked once, at the edge, and is never checked again.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not the name that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {kind} {text:?}: {why}")]
pub struct InvalidName {
    /// What it should have been, in words: `host name`.
    pub kind: &'static str,
    /// The text as given, cut to a printable length.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl InvalidName {
    pub(crate) fn new(kind: &'static str, text: &str, why: &'static str) -> Self {
        Self { kind, text: text.chars().take(80).collect(), why }
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks `text` and makes the name.
            ///
            /// # Errors
            /// The rule that `text` breaks.
            pub fn new(text: &str) -> Result<Self, InvalidName> {
                let check: fn(&str) -> Result<(), &'static str> = $check;
                check(text).map_err(|why| InvalidName::new($kind, text, why))?;
                Ok(Self(text.into()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.into()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name_type! {
    /// A host's name: a DNS label or a dotted name (`compute-0-0`, `i-0abc.example.org`), lower or upper case, at most
    /// 253 characters (RFC 1123).
    HostName, "host name", |text| {
        if text.is_empty() || text.len() > 253 {
            return Err("it must have 1 to 253 characters");
        }
        for label in text.split('.') {
            if label.is_empty() || label.len() > 63 {
                return Err("each part between dots must have 1 to 63 characters");
            }
            if !label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
                return Err("only letters, digits, '-', '_' and '.' are allowed");
            }
            if label.starts_with('-') || label.ends_with('-') {
                return Err("no part may begin or end with '-'");
            }
        }
        Ok(())
    }
}

name_type! {
    /// An appliance's name (`lite`, `compute`, `devel-server`).
    ApplianceName, "appliance name", identifier_like
}

name_type! {
    /// A roll's name: the name of its folder, and of `roll=` in its graph files.
    RollName, "roll name", identifier_like
}

name_type! {
    /// The name of an image on the frontend: the name of its folder, too.
    ImageName, "image name", identifier_like
}

name_type! {
    /// The name of a rule by which instances enrol that nobody announced.
    EnrolmentName, "enrolment name", identifier_like
}

name_type! {
    /// A rollout's name: its appliance's, and a number.
    RolloutName, "rollout name", identifier_like
}

name_type! {
    /// An attribute's name. In the store any name that is an XML name is allowed, because it becomes an entity
    /// (rocks-xml 7); only those that are identifiers can stand in conditions.
    AttrName, "attribute name", |text| {
        if text.is_empty() || text.chars().count() > crate::limits::ATTR_NAME_CHARS {
            return Err("it must have 1 to 128 characters");
        }
        let mut chars = text.chars();
        let first_ok = chars.next().is_some_and(|c| c.is_alphabetic() || c == '_');
        if !first_ok {
            return Err("it must begin with a letter or '_'");
        }
        if !chars.all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.')) {
            return Err("only letters, digits, '_', '-' and '.' are allowed");
        }
        Ok(())
    }
}

fn identifier_like(text: &str) -> Result<(), &'static str> {
    if text.is_empty() || text.len() > 128 {
        return Err("it must have 1 to 128 characters");
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'+')) {
        return Err("only letters, digits, '-', '_', '.' and '+' are allowed");
    }
    if text.starts_with('-') || text.starts_with('.') {
        return Err("it must not begin with '-' or '.'");
    }
    Ok(())
}

name_type! {
    /// An architecture as rpm calls it (`x86_64`, `aarch64`): the name of a folder of the mirror, too.
    ArchName, "architecture", |text| {
        if text.is_empty() || text.len() > 32 {
            return Err("it must have 1 to 32 characters");
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err("only letters, digits and '_' are allowed");
        }
        Ok(())
    }
}

/// A SHA-256 digest, as RPM's metadata has it, printed as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256([u8; 32]);

impl Sha256 {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_digest(&aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes))
    }

    /// What a running digest came to.
    #[must_use]
    pub fn from_digest(digest: &aws_lc_rs::digest::Digest) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(&digest.as_ref()[..32]);
        Self(bytes)
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256({})", &self.to_string()[..12])
    }
}

impl FromStr for Sha256 {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = || InvalidName::new("SHA-256 digest", text, "it must be 64 lower-case hexadecimal digits");
        // One digest has one text: files are named by it.
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(invalid());
        }
        blake3::Hash::from_hex(text).map(|hash| Self(*hash.as_bytes())).map_err(|_| invalid())
    }
}

/// A BLAKE3 digest, printed as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The digest of several fields, each preceded by its length, so that no two different lists of fields collide.
    #[must_use]
    pub fn of_fields(fields: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for field in fields {
            hasher.update(&(field.len() as u64).to_le_bytes());
            hasher.update(field);
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// The raw 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 12 hexadecimal digits, for people.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl From<[u8; 32]> for Digest {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.short())
    }
}

impl FromStr for Digest {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        blake3::Hash::from_hex(text)
            .map(|hash| Self(*hash.as_bytes()))
            .map_err(|_| InvalidName::new("digest", text, "it must be 64 hexadecimal digits"))
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

/// A frontend's generation: a number that grows with every change of what it serves and never goes back, so that an
/// agent can refuse anything older than what it has applied (a replayed kickstart, a frontend restored from a backup).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation after this one, for a change made `unix_seconds` after 1970. It is at least the time, so that a
    /// frontend that lost its store still goes forward.
    #[must_use]
    pub fn next(self, unix_seconds: u64) -> Self {
        Self(self.0.saturating_add(1).max(unix_seconds))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Generation {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!(HostName::new("compute-0-0.local").is_ok());
        for bad in ["", "-a", "a-", "a..b", "a/b", "a b", "../etc"] {
            assert!(HostName::new(bad).is_err(), "{bad:?}");
        }
        assert!(AttrName::new("Kickstart_PrivateAddress").is_ok());
        assert!(AttrName::new("imgstorage-user").is_ok());
        for bad in ["", "1a", "a b", "a&b", "é!"] {
            assert!(AttrName::new(bad).is_err(), "{bad:?}");
        }
        assert!(RollName::new("../x").is_err());
        assert!(RollName::new("zfs-linux").is_ok());
        assert!(
            ImageName::new("lite-1.2").is_ok() && ImageName::new(".part").is_err() && ImageName::new("a/b").is_err()
        );
    }

    #[test]
    fn a_digest_survives_its_text() {
        let digest = Digest::of(b"x");
        assert_eq!(digest.to_string().parse::<Digest>().as_ref(), Ok(&digest));
        assert!("zz".parse::<Digest>().is_err());
        assert_ne!(Digest::of_fields(&[b"ab", b"c"]), Digest::of_fields(&[b"a", b"bc"]));
    }

    #[test]
    fn generations_only_grow() {
        assert_eq!(Generation(5).next(3), Generation(6));
        assert_eq!(Generation(5).next(100), Generation(100));
        assert_eq!(Generation(u64::MAX).next(1), Generation(u64::MAX));
    }
}
