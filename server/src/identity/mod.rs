//! Instances that nobody announced: whether what one shows of itself is EC2's word, and whether a rule lets it in. Pure: bytes in, a verdict out;
//! the clock is an argument.
//!
//! - [`ber`] reads the encoding, [`cms`] the signed message, [`certificate`] knows AWS's keys.
//! - [`document`] is what EC2 says of an instance, [`rule`] what the administrator says of instances, [`member`] what a provision knows of those
//!   that it launched.
//!
//! A document proves what an instance is, not who shows it: whoever can ask the metadata service, by way of a careless proxy on the instance perhaps,
//! has it too. That it is good once, and not for long, is what stands against that; see `docs/ec2.md`.

mod ber;
mod certificate;
mod cms;
mod document;
mod member;
mod rule;

use base64::Engine as _;
use rocks_common::wire::InstanceIdentity;

pub use ber::Malformed;
pub use certificate::{BadCertificate, Certificate, Certificates};
pub use cms::Unsigned;
pub use document::Document;
pub use member::{Member, member};
pub use rule::{AGE, LONGEST_AGE, Rule, Unwanted, choose};

/// Most bytes of a signature in base64. AWS's have about 2,000.
const SIGNATURE: usize = 32 << 10;

/// Why what an instance shows is not believed. For the frontend's log: whoever asks is told less.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Disbelief {
    /// The document is none.
    #[error("it is no identity document: {0}")]
    Document(String),
    /// The signature is not even base64.
    #[error("the signature is not base64, or too long")]
    Encoding,
    /// There is no certificate for the region.
    #[error("there is no certificate for region {0:?} (aws_identity_certificates)")]
    Region(String),
    /// The signature does not hold.
    #[error(transparent)]
    Unsigned(#[from] Unsigned),
}

/// What EC2 says of the instance that shows this.
///
/// # Errors
/// Why it is not EC2 that says it.
pub fn verify(shown: &InstanceIdentity, certificates: &Certificates) -> Result<Document, Disbelief> {
    if shown.document.len() > document::BYTES {
        return Err(Disbelief::Document("it is too long".to_owned()));
    }
    if shown.signature.len() > SIGNATURE {
        return Err(Disbelief::Encoding);
    }
    let document: Document =
        serde_json::from_str(&shown.document).map_err(|error| Disbelief::Document(error.to_string()))?;
    // Each region has keys of its own: one region's does not speak for another.
    let keys = certificates.of(&document.region);
    if keys.is_empty() {
        return Err(Disbelief::Region(document.region.chars().take(40).collect()));
    }
    let plain: String = shown.signature.split_ascii_whitespace().collect();
    let message = base64::engine::general_purpose::STANDARD.decode(plain).map_err(|_| Disbelief::Encoding)?;
    cms::verify(&message, shown.document.as_bytes(), keys)?;
    Ok(document)
}

#[cfg(test)]
mod tests;
