//! The seal on a kickstart, or on the index of the mirror: an Ed25519 signature (RFC 8032) over whose it is, its generation and its
//! digest.
//!
//! Both may pass through caches, relays and buckets that nobody trusts; the seal is what the agent trusts. The signed text is
//! `rocks kickstart 1\nhost HOST\ngeneration N\nblake3 HEX\n` or `rocks index 1\narch ARCH\ngeneration N\nblake3 HEX\n`: neither can be
//! taken for the other.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::ids::{ArchName, Digest, Generation, HostName};

/// What a seal vouches for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The host whose kickstart it is.
    pub host: HostName,
    /// The frontend's generation when it was rendered.
    pub generation: Generation,
    /// The digest of the kickstart's text, uncompressed.
    pub digest: Digest,
}

/// What the seal on an index of the mirror vouches for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexClaim {
    /// The architecture whose repository it describes.
    pub arch: ArchName,
    /// The generation of that repository.
    pub generation: Generation,
    /// The digest of the index's text, uncompressed.
    pub digest: Digest,
}

/// Something that a seal can be over. Only this room makes such: what is signed must begin with a line that no other kind has.
pub trait Sealed: private::SignedText {}

impl<T: private::SignedText> Sealed for T {}

mod private {
    pub trait SignedText {
        fn signed_text(&self) -> String;
    }
}

impl private::SignedText for Claim {
    fn signed_text(&self) -> String {
        format!("rocks kickstart 1\nhost {}\ngeneration {}\nblake3 {}\n", self.host, self.generation, self.digest)
    }
}

impl private::SignedText for IndexClaim {
    fn signed_text(&self) -> String {
        format!("rocks index 1\narch {}\ngeneration {}\nblake3 {}\n", self.arch, self.generation, self.digest)
    }
}

/// Why a seal or a key was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The text is not base64, or has the wrong length.
    #[error("the {0} is not valid base64 of the right length")]
    Malformed(&'static str),
    /// The signature does not belong to the claim and the key.
    #[error("the signature is not valid: it was changed on the way, or another frontend made it")]
    Invalid,
    /// The key pair could not be read or made.
    #[error("the signing key could not be used")]
    Key,
}

/// The frontend's half: it makes seals.
pub struct Sealer(Ed25519KeyPair);

impl Sealer {
    /// A new key pair, as the PKCS#8 document to keep. It is secret.
    ///
    /// # Errors
    /// [`SealError::Key`] when the system has no randomness to give.
    pub fn generate() -> Result<Vec<u8>, SealError> {
        let pair = Ed25519KeyPair::generate().map_err(|_| SealError::Key)?;
        Ok(pair.to_pkcs8().map_err(|_| SealError::Key)?.as_ref().to_vec())
    }

    /// Reads a key pair from its PKCS#8 document.
    ///
    /// # Errors
    /// [`SealError::Key`] when it is no Ed25519 key.
    pub fn from_pkcs8(document: &[u8]) -> Result<Self, SealError> {
        Ed25519KeyPair::from_pkcs8(document).map(Self).map_err(|_| SealError::Key)
    }

    /// The public half, to hand to agents.
    #[must_use]
    pub fn public(&self) -> SealKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.public_key().as_ref());
        SealKey(bytes)
    }

    /// The seal on `claim`, as base64.
    #[must_use]
    pub fn seal(&self, claim: &impl Sealed) -> String {
        STANDARD.encode(self.0.sign(claim.signed_text().as_bytes()))
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealer({:?})", self.public())
    }
}

/// The agent's half: the frontend's public key. Its text is base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SealKey([u8; 32]);

impl SealKey {
    /// Checks that `seal` is this key's seal on `claim`.
    ///
    /// # Errors
    /// [`SealError::Malformed`] or [`SealError::Invalid`].
    pub fn verify(&self, claim: &impl Sealed, seal: &str) -> Result<(), SealError> {
        let signature = STANDARD.decode(seal.trim()).map_err(|_| SealError::Malformed("signature"))?;
        UnparsedPublicKey::new(&ED25519, self.0)
            .verify(claim.signed_text().as_bytes(), &signature)
            .map_err(|_| SealError::Invalid)
    }
}

impl std::fmt::Display for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl TryFrom<String> for SealKey {
    type Error = SealError;
    fn try_from(text: String) -> Result<Self, SealError> {
        let bytes = STANDARD.decode(text.trim()).map_err(|_| SealError::Malformed("public key"))?;
        bytes.try_into().map(Self).map_err(|_| SealError::Malformed("public key"))
    }
}

impl From<SealKey> for String {
    fn from(key: SealKey) -> String {
        key.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_holds_only_for_its_claim_and_key() {
        let sealer = Sealer::from_pkcs8(&Sealer::generate().expect("randomness")).expect("our own key");
        let claim = Claim {
            host: HostName::new("lite-0-0").expect("a name"),
            generation: Generation(7),
            digest: Digest::of(b"lang en_US\n"),
        };
        let seal = sealer.seal(&claim);
        assert_eq!(sealer.public().verify(&claim, &seal), Ok(()));
        let older = Claim { generation: Generation(6), ..claim.clone() };
        assert_eq!(sealer.public().verify(&older, &seal), Err(SealError::Invalid));
        let other = Sealer::from_pkcs8(&Sealer::generate().expect("randomness")).expect("our own key");
        assert_eq!(other.public().verify(&claim, &seal), Err(SealError::Invalid));
        assert_eq!(sealer.public().verify(&claim, "!"), Err(SealError::Malformed("signature")));
        // The same values in another kind of claim are another text.
        let arch = ArchName::new("x86_64").expect("a name");
        let index = IndexClaim { arch, generation: claim.generation, digest: claim.digest };
        assert_eq!(sealer.public().verify(&index, &seal), Err(SealError::Invalid));
        assert_eq!(sealer.public().verify(&index, &sealer.seal(&index)), Ok(()));
        let text = String::from(sealer.public());
        assert_eq!(SealKey::try_from(text), Ok(sealer.public()));
    }
}
