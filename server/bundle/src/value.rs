//! Small values of the format, each valid once it exists.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;

/// A value that the format does not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// A name for files.
    #[error(
        "`{0}` is no name for a bundle: 1 to 80 letters, digits, `.`, `_`, `+` and `-`, and a letter or digit first"
    )]
    Prefix(String),
    /// An account.
    #[error("`{0}` is no account: an AWS account has 12 digits")]
    Account(String),
    /// A kind of image.
    #[error("`{0}` is no kind of image: there are machine, kernel and ramdisk")]
    Kind(String),
    /// A digest.
    #[error("`{0}` is no SHA-1 digest: it has 40 hexadecimal digits")]
    Digest(String),
}

/// What the files of a bundle are called before `.part.NN` and `.manifest.xml`; the image's name in it, too.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Prefix(String);

impl Prefix {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of part `index`. Two digits at least; the manifest says which parts there are, nobody guesses.
    #[must_use]
    pub fn part(&self, index: usize) -> String {
        format!("{}.part.{index:02}", self.0)
    }

    /// The name of the manifest.
    #[must_use]
    pub fn manifest(&self) -> String {
        format!("{}.manifest.xml", self.0)
    }
}

impl FromStr for Prefix {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let good = |c: u8| c.is_ascii_alphanumeric() || b"._+-".contains(&c);
        let first = text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
        if first && text.len() <= 80 && text.bytes().all(good) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ValueError::Prefix(text.chars().take(100).collect()))
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An AWS account: twelve digits. Hyphens, as the console shows them, are left out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Account(String);

impl Account {
    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Account {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let digits: String = text.chars().filter(|c| *c != '-').take(13).collect();
        if digits.len() == 12 && digits.bytes().all(|c| c.is_ascii_digit()) {
            Ok(Self(digits))
        } else {
            Err(ValueError::Account(text.chars().take(100).collect()))
        }
    }
}

/// What an image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ImageKind {
    /// A machine's disk.
    #[default]
    Machine,
    /// A kernel.
    Kernel,
    /// An initial RAM disk.
    Ramdisk,
}

impl ImageKind {
    /// Its word in the manifest.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Kernel => "kernel",
            Self::Ramdisk => "ramdisk",
        }
    }
}

impl FromStr for ImageKind {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        [Self::Machine, Self::Kernel, Self::Ramdisk]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| ValueError::Kind(text.chars().take(100).collect()))
    }
}

/// A SHA-1 digest: what the format uses, and good against accidents only.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sha1([u8; 20]);

impl Sha1 {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::from(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, bytes))
    }

    pub(crate) fn context() -> digest::Context {
        digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY)
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 20] {
        &self.0
    }
}

impl From<digest::Digest> for Sha1 {
    fn from(digest: digest::Digest) -> Self {
        let mut bytes = [0; 20];
        // Any other digest would be cut, which nobody in this crate asks for.
        for (to, from) in bytes.iter_mut().zip(digest.as_ref()) {
            *to = *from;
        }
        Self(bytes)
    }
}

impl FromStr for Sha1 {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let bytes = from_hex(text).and_then(|bytes| <[u8; 20]>::try_from(bytes).ok());
        bytes.map(Self).ok_or_else(|| ValueError::Digest(text.chars().take(100).collect()))
    }
}

impl fmt::Display for Sha1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl fmt::Debug for Sha1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha1({self})")
    }
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked() {
        let prefix: Prefix = "lite-1.0".parse().unwrap();
        assert_eq!((prefix.part(3), prefix.part(107)), ("lite-1.0.part.03".to_owned(), "lite-1.0.part.107".to_owned()));
        assert_eq!(prefix.manifest(), "lite-1.0.manifest.xml");
        for bad in ["", ".x", "-x", "a/b", "a b", "ä", &"x".repeat(81)] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
        assert_eq!("1234-5678-9012".parse::<Account>().unwrap().as_str(), "123456789012");
        for bad in ["", "12345678901", "1234567890123", "12345678901x"] {
            assert!(bad.parse::<Account>().is_err(), "{bad}");
        }
        assert_eq!("kernel".parse(), Ok(ImageKind::Kernel));
        assert!("disk".parse::<ImageKind>().is_err());
    }

    #[test]
    fn hexadecimal_goes_both_ways() {
        let text = "da39a3ee5e6b4b0d3255bfef95601890afd80709";
        assert_eq!(Sha1::of(b"").to_string(), text);
        assert_eq!(text.to_uppercase().parse::<Sha1>().unwrap(), Sha1::of(b""));
        for bad in ["", "da", &text[1..], &format!("{text}00"), "zz39a3ee5e6b4b0d3255bfef95601890afd80709"] {
            assert!(bad.parse::<Sha1>().is_err(), "{bad}");
        }
    }
}
