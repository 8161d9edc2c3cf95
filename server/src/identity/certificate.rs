//! The certificates that AWS signs instance identity documents with, one or more a region, as the administrator took them from AWS's documentation.

use std::collections::BTreeMap;

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use x509_parser::pem::Pem;
use x509_parser::public_key::PublicKey;

/// The key of a certificate. When the certificate ends does not count: it is believed because the administrator named it.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate(Vec<u8>);

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Certificate({})", rocks_common::ids::Digest::of(&self.0))
    }
}

impl Certificate {
    /// Whether its key made this signature over `bytes`, by RSA (PKCS #1) with SHA-256.
    pub(super) fn signed(&self, bytes: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.0).verify(bytes, signature).is_ok()
    }
}

/// A certificate that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCertificate {
    /// The text has none.
    #[error("there is no certificate (PEM) in it")]
    None,
    /// It is none.
    #[error("it is not a certificate: {0}")]
    Malformed(String),
    /// AWS publishes three for each region, for three kinds of signatures.
    #[error("its key is not RSA of 2048 bits: it is not the one that AWS publishes for RSA-2048 signatures")]
    Key,
}

/// All certificates, by region.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Certificates(BTreeMap<String, Vec<Certificate>>);

impl Certificates {
    /// Takes the certificates in a PEM text for a region.
    ///
    /// # Errors
    /// There is none, or one that cannot be used.
    pub fn add(&mut self, region: &str, pem: &[u8]) -> Result<(), BadCertificate> {
        let mut keys = Vec::new();
        for block in Pem::iter_from_buffer(pem) {
            let malformed = |error: &dyn std::fmt::Display| BadCertificate::Malformed(error.to_string());
            let block = block.map_err(|error| malformed(&error))?;
            let certificate = block.parse_x509().map_err(|error| malformed(&error))?;
            let key = certificate.public_key();
            match key.parsed() {
                Ok(PublicKey::RSA(rsa)) if (2048..=8192).contains(&rsa.key_size()) => {
                    keys.push(Certificate(key.subject_public_key.data.to_vec()));
                }
                _ => return Err(BadCertificate::Key),
            }
        }
        if keys.is_empty() {
            return Err(BadCertificate::None);
        }
        self.0.entry(region.to_owned()).or_default().extend(keys);
        Ok(())
    }

    /// Those of a region.
    #[must_use]
    pub fn of(&self, region: &str) -> &[Certificate] {
        self.0.get(region).map_or(&[], Vec::as_slice)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
