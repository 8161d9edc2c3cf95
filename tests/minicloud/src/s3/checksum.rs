//! The checksums that S3 knows.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crc::{CRC_32_ISCSI, CRC_32_ISO_HDLC, CRC_64_NVME, Crc, Digest, Table};
use sha1::Digest as _;

static CRC32: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISO_HDLC);
static CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);
static CRC64: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_NVME);

/// A kind of checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

impl Algorithm {
    pub(super) const ALL: [Self; 5] = [Self::Crc32, Self::Crc32c, Self::Crc64Nvme, Self::Sha1, Self::Sha256];

    /// As values of headers and in XML it is called so.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    /// The header with its value.
    pub(super) fn header(self) -> &'static str {
        match self {
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
        }
    }

    /// The element with its value.
    pub(super) fn element(self) -> String {
        format!("Checksum{}", self.name())
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.name().eq_ignore_ascii_case(name))
    }

    /// The one that a header is of.
    pub(super) fn of_header(header: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.header().eq_ignore_ascii_case(header))
    }

    /// How long its value is, in bytes.
    fn length(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    /// Whether a text can be its value.
    pub(super) fn is_value(self, text: &str) -> bool {
        STANDARD.decode(text).is_ok_and(|bytes| bytes.len() == self.length())
    }

    pub(super) fn begin(self) -> Sum {
        match self {
            Self::Crc32 => Sum::Crc32(CRC32.digest()),
            Self::Crc32c => Sum::Crc32(CRC32C.digest()),
            Self::Crc64Nvme => Sum::Crc64(CRC64.digest()),
            Self::Sha1 => Sum::Sha1(sha1::Sha1::new()),
            Self::Sha256 => Sum::Sha256(digest::Context::new(&digest::SHA256)),
        }
    }
}

/// A checksum in the making.
pub(super) enum Sum {
    Crc32(Digest<'static, u32, Table<16>>),
    Crc64(Digest<'static, u64, Table<16>>),
    Sha1(sha1::Sha1),
    Sha256(digest::Context),
}

impl Sum {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        match self {
            Self::Crc32(d) => d.update(bytes),
            Self::Crc64(d) => d.update(bytes),
            Self::Sha1(d) => d.update(bytes),
            Self::Sha256(d) => d.update(bytes),
        }
    }

    /// The value, in base64.
    pub(super) fn value(self) -> String {
        STANDARD.encode(match self {
            Self::Crc32(d) => d.finalize().to_be_bytes().to_vec(),
            Self::Crc64(d) => d.finalize().to_be_bytes().to_vec(),
            Self::Sha1(d) => d.finalize().to_vec(),
            Self::Sha256(d) => d.finish().as_ref().to_vec(),
        })
    }
}

/// The checksum of checksums that an object of several parts has.
pub(super) fn composite(algorithm: Algorithm, parts: &[&str]) -> String {
    let mut sum = algorithm.begin();
    for part in parts {
        sum.add(&STANDARD.decode(part).unwrap_or_default());
    }
    format!("{}-{}", sum.value(), parts.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_that_others_compute() {
        for (algorithm, value) in [
            (Algorithm::Crc32, "y/Q5Jg=="),
            (Algorithm::Crc32c, "4waSgw=="),
            (Algorithm::Crc64Nvme, "rosUhgp5mIg="),
            (Algorithm::Sha1, "98O8HYCOBHMq32eZZczDTKeuNEE="),
            (Algorithm::Sha256, "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU="),
        ] {
            let mut sum = algorithm.begin();
            sum.add(b"12345");
            sum.add(b"6789");
            let got = sum.value();
            assert_eq!(got, value, "{algorithm:?}");
            assert!(algorithm.is_value(&got) && !algorithm.is_value("AAA"));
            assert_eq!(Algorithm::of_header(algorithm.header()), Some(algorithm));
            assert_eq!(Algorithm::named(&algorithm.name().to_lowercase()), Some(algorithm));
        }
        assert!(composite(Algorithm::Crc32, &["y/Q5Jg==", "y/Q5Jg=="]).ends_with("==-2"));
    }
}
