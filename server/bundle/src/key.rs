//! RSA keys, as the format uses them: PKCS #1 v1.5 for both encryption and (with SHA-1) signatures.
//!
//! aws-lc-rs does what it offers. It offers no signature with SHA-1, and no keys of less than 2048 bits, which EC2's certificate had:
//! for these there is the bare operation of RSA, in constant time, by `crypto-bigint`. What it signs is verified before it is used.

use std::fmt;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::{
    KeyPair, Pkcs1PrivateDecryptingKey, Pkcs1PublicEncryptingKey, PrivateDecryptingKey, PublicEncryptingKey,
};
use aws_lc_rs::signature::{RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY, RsaPublicKeyComponents};
use crypto_bigint::modular::{BoxedMontyForm, BoxedMontyParams};
use crypto_bigint::{BoxedUint, Odd};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::FromDer as _;

use crate::value::Sha1;

/// Bits of a key.
const BITS: std::ops::RangeInclusive<usize> = 1024..=8192;
/// From how many bits on aws-lc-rs takes a key.
const MODERN: usize = 2048;
/// What stands before a SHA-1 digest in a signature (RFC 8017, 9.2).
const SHA1_INFO: [u8; 15] = [0x30, 0x21, 0x30, 0x09, 0x06, 0x05, 0x2b, 0x0e, 0x03, 0x02, 0x1a, 0x05, 0x00, 0x04, 0x14];
/// The identifier of RSA, in a PKCS #8 key.
const RSA: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

/// A key or certificate that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No certificate.
    #[error("it is no X.509 certificate: {0}")]
    Certificate(String),
    /// No private key.
    #[error("it is no private key in PEM (PKCS #1 or PKCS #8): {0}")]
    PrivateKey(String),
    /// It needs a password.
    #[error("the private key is encrypted; `openssl rsa -in KEY -out NEW` makes one that is not")]
    Encrypted,
    /// Another kind of key.
    #[error("it is no RSA key, and the format knows no other")]
    NotRsa,
    /// Too few bits, or too many.
    #[error("its key has {0} bits; 1024 to 8192 are taken")]
    Bits(usize),
    /// Numbers that are no RSA key.
    #[error("its numbers are no RSA key")]
    Inconsistent,
    /// The certificate is not the key's.
    #[error("the certificate is of another key than the private key")]
    Mismatch,
    /// There are no random numbers, or no memory.
    #[error("the encryption failed")]
    Failed,
}

/// The public half of a key.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// Without leading zeros.
    modulus: Vec<u8>,
    exponent: Vec<u8>,
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({} bits)", self.bits())
    }
}

fn trimmed(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    &bytes[zeros..]
}

impl PublicKey {
    fn new(modulus: &[u8], exponent: &[u8]) -> Result<Self, KeyError> {
        let key = Self { modulus: trimmed(modulus).to_vec(), exponent: trimmed(exponent).to_vec() };
        let odd = |bytes: &[u8]| bytes.last().is_some_and(|byte| byte & 1 == 1);
        if !odd(&key.modulus) || !odd(&key.exponent) || key.exponent == [1] || key.exponent.len() > 5 {
            return Err(KeyError::Inconsistent);
        }
        if BITS.contains(&key.bits()) { Ok(key) } else { Err(KeyError::Bits(key.bits())) }
    }

    /// Its size.
    #[must_use]
    pub fn bits(&self) -> usize {
        self.modulus.len() * 8 - self.modulus.first().map_or(0, |byte| byte.leading_zeros() as usize)
    }

    fn components(&self) -> RsaPublicKeyComponents<&[u8]> {
        RsaPublicKeyComponents { n: &self.modulus, e: &self.exponent }
    }

    /// Encrypts a few bytes.
    ///
    /// # Errors
    /// The key is none, or there are no random numbers.
    pub fn encrypt(&self, text: &[u8]) -> Result<Vec<u8>, KeyError> {
        let mut out = vec![0; self.modulus.len()];
        if self.bits() >= MODERN {
            let key: PublicEncryptingKey = self.components().try_into().map_err(|_| KeyError::Inconsistent)?;
            let key = Pkcs1PublicEncryptingKey::new(key).map_err(|_| KeyError::Failed)?;
            let length = key.encrypt(text, &mut out).map_err(|_| KeyError::Failed)?.len();
            out.truncate(length);
            return Ok(out);
        }
        let start = out.len().checked_sub(text.len()).filter(|start| *start >= 11).ok_or(KeyError::Failed)?;
        out[1] = 2;
        for byte in &mut out[2..start - 1] {
            while *byte == 0 {
                aws_lc_rs::rand::fill(std::slice::from_mut(byte)).map_err(|_| KeyError::Failed)?;
            }
        }
        out[start..].copy_from_slice(text);
        power(&out, &self.exponent, &self.modulus).ok_or(KeyError::Inconsistent)
    }

    /// Whether `signature` is this key's, of the SHA-1 digest of `text`.
    #[must_use]
    pub fn verifies(&self, text: &[u8], signature: &[u8]) -> bool {
        let parameters = &RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY;
        signature.len() == self.modulus.len() && self.components().verify(parameters, text, signature).is_ok()
    }
}

/// A certificate, of which only the public key counts: the format knows no authority that vouches for it.
#[derive(Debug, Clone)]
pub struct Certificate {
    key: PublicKey,
    subject: String,
}

impl Certificate {
    /// Reads PEM, or DER.
    ///
    /// # Errors
    /// It is none, or its key cannot be used.
    pub fn read(bytes: &[u8]) -> Result<Self, KeyError> {
        let other = |error: &dyn fmt::Display| KeyError::Certificate(error.to_string());
        let der = if bytes.first() == Some(&0x30) {
            CertificateDer::from(bytes)
        } else {
            CertificateDer::from_pem_slice(bytes).map_err(|error| other(&error))?
        };
        let (_, read) = x509_parser::certificate::X509Certificate::from_der(&der).map_err(|error| other(&error))?;
        match read.public_key().parsed() {
            Ok(x509_parser::public_key::PublicKey::RSA(rsa)) => {
                let key = PublicKey::new(rsa.modulus, rsa.exponent)?;
                Ok(Self { key, subject: read.subject().to_string() })
            }
            Ok(_) => Err(KeyError::NotRsa),
            Err(error) => Err(other(&error)),
        }
    }

    /// Whose it is.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Its key.
    #[must_use]
    pub const fn key(&self) -> &PublicKey {
        &self.key
    }
}

/// A private key.
pub struct PrivateKey {
    public: PublicKey,
    /// As long as the modulus.
    exponent: Vec<u8>,
    /// Where aws-lc-rs takes it.
    modern: Option<PrivateDecryptingKey>,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({} bits)", self.public.bits())
    }
}

impl PrivateKey {
    /// Reads PEM: PKCS #1 or PKCS #8, not encrypted.
    ///
    /// # Errors
    /// It is none, or cannot be used.
    pub fn read(bytes: &[u8]) -> Result<Self, KeyError> {
        let text = String::from_utf8_lossy(bytes);
        if text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
            return Err(KeyError::Encrypted);
        }
        match PrivateKeyDer::from_pem_slice(bytes).map_err(|error| KeyError::PrivateKey(error.to_string()))? {
            PrivateKeyDer::Pkcs1(der) => Self::pkcs1(der.secret_pkcs1_der()),
            PrivateKeyDer::Pkcs8(der) => Self::pkcs1(pkcs8(der.secret_pkcs8_der())?),
            _ => Err(KeyError::NotRsa),
        }
    }

    fn pkcs1(der: &[u8]) -> Result<Self, KeyError> {
        let bad = || KeyError::PrivateKey("it is no RSAPrivateKey".to_owned());
        let (mut numbers, _) = element(der, 0x30).ok_or_else(bad)?;
        let mut next = || {
            let (number, rest) = element(numbers, 0x02).ok_or_else(bad)?;
            numbers = rest;
            Ok::<_, KeyError>(number)
        };
        let (_version, modulus, public, private) = (next()?, next()?, next()?, trimmed(next()?));
        let public = PublicKey::new(modulus, public)?;
        let length = public.modulus.len();
        let zeros = length.checked_sub(private.len()).ok_or(KeyError::Inconsistent)?;
        let exponent = [&vec![0; zeros], private].concat();
        let modern = if public.bits() >= MODERN {
            let pair = KeyPair::from_der(der).map_err(|_| KeyError::Inconsistent)?;
            let pkcs8 = pair.as_der().map_err(|_| KeyError::Failed)?;
            Some(PrivateDecryptingKey::from_pkcs8(pkcs8.as_ref()).map_err(|_| KeyError::Inconsistent)?)
        } else {
            None
        };
        Ok(Self { public, exponent, modern })
    }

    /// The public half.
    #[must_use]
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Decrypts; nothing if it was not encrypted for this key.
    #[must_use]
    pub fn decrypt(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        if let Some(key) = &self.modern {
            let mut out = vec![0; self.public.modulus.len()];
            let key = Pkcs1PrivateDecryptingKey::new(key.clone()).ok()?;
            return Some(key.decrypt(sealed, &mut out).ok()?.to_vec());
        }
        if sealed.len() != self.public.modulus.len() || sealed >= &self.public.modulus[..] {
            return None;
        }
        let plain = power(sealed, &self.exponent, &self.public.modulus)?;
        let rest = plain.strip_prefix(&[0, 2])?;
        let end = rest.iter().position(|byte| *byte == 0).filter(|end| *end >= 8)?;
        Some(rest[end + 1..].to_vec())
    }

    /// Signs the SHA-1 digest of `text`.
    ///
    /// # Errors
    /// The private half is not that of the public one.
    pub fn sign(&self, text: &[u8]) -> Result<Vec<u8>, KeyError> {
        let length = self.public.modulus.len();
        let digest = Sha1::of(text);
        let mut padded = vec![0xff; length];
        padded[..2].copy_from_slice(&[0, 1]);
        let start = length - SHA1_INFO.len() - digest.bytes().len();
        padded[start - 1] = 0;
        padded[start..start + SHA1_INFO.len()].copy_from_slice(&SHA1_INFO);
        padded[start + SHA1_INFO.len()..].copy_from_slice(digest.bytes());
        let signature = power(&padded, &self.exponent, &self.public.modulus).ok_or(KeyError::Inconsistent)?;
        // A wrong signature could give the key away.
        if self.public.verifies(text, &signature) { Ok(signature) } else { Err(KeyError::Inconsistent) }
    }
}

/// `base` to the power of `exponent`, modulo `modulus`, in a time that depends on their lengths only. `base` is less than `modulus`.
fn power(base: &[u8], exponent: &[u8], modulus: &[u8]) -> Option<Vec<u8>> {
    let bits = u32::try_from(modulus.len() * 8).ok()?;
    let number = |bytes: &[u8]| BoxedUint::from_be_slice(bytes, bits).ok();
    let parameters = BoxedMontyParams::new(Option::<Odd<_>>::from(Odd::new(number(modulus)?))?);
    let exponent = BoxedUint::from_be_slice(exponent, u32::try_from(exponent.len() * 8).ok()?).ok()?;
    let result = BoxedMontyForm::new(number(base)?, &parameters).pow(&exponent).retrieve().to_be_bytes();
    result.len().checked_sub(modulus.len()).map(|extra| result[extra..].to_vec())
}

/// One element of DER with this tag: its content, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<2>()?;
    if head[0] != tag {
        return None;
    }
    let (length, rest) = match head[1] {
        short @ 0..=0x7f => (usize::from(short), rest),
        long @ 0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(long - 0x80))?;
            (length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// The PKCS #1 key in a PKCS #8 one.
fn pkcs8(der: &[u8]) -> Result<&[u8], KeyError> {
    let parts = || {
        let (all, _) = element(der, 0x30)?;
        let (_version, rest) = element(all, 0x02)?;
        let (algorithm, rest) = element(rest, 0x30)?;
        let (name, _) = element(algorithm, 0x06)?;
        Some((name, element(rest, 0x04)?.0))
    };
    match parts() {
        Some((name, key)) if name == RSA => Ok(key),
        Some(_) => Err(KeyError::NotRsa),
        None => Err(KeyError::PrivateKey("it is no PrivateKeyInfo".to_owned())),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Made by `openssl req -x509 -newkey rsa:BITS`: for tests only.
    pub(crate) const OLD: (&[u8], &[u8]) =
        (include_bytes!("../tests/keys/old.cert.pem"), include_bytes!("../tests/keys/old.key.pem"));
    pub(crate) const NEW: (&[u8], &[u8]) =
        (include_bytes!("../tests/keys/new.cert.pem"), include_bytes!("../tests/keys/new.key.pem"));

    #[test]
    fn keys_old_and_new_do_their_work() {
        for (certificate, key) in [OLD, NEW] {
            let (certificate, key) = (Certificate::read(certificate).unwrap(), PrivateKey::read(key).unwrap());
            assert_eq!(certificate.key(), key.public());
            assert!(certificate.subject().contains("CN="), "{}", certificate.subject());
            for text in [&b""[..], b"0123456789abcdef0123456789abcdef"] {
                let sealed = certificate.key().encrypt(text).unwrap();
                assert_eq!(key.decrypt(&sealed).as_deref(), Some(text));
                assert_ne!(sealed, certificate.key().encrypt(text).unwrap(), "its padding is random");
                let mut broken = sealed.clone();
                broken[9] ^= 1;
                assert_ne!(key.decrypt(&broken).as_deref(), Some(text));
                assert_eq!(key.decrypt(&sealed[1..]), None);
            }
            assert_eq!(key.decrypt(&vec![0xff; key.public().bits() / 8]), None);
            assert!(certificate.key().encrypt(&[7; 1100]).is_err());
            let signature = key.sign(b"text").unwrap();
            assert!(key.public().verifies(b"text", &signature) && !key.public().verifies(b"next", &signature));
            assert!(!key.public().verifies(b"text", &signature[1..]) && !key.public().verifies(b"text", &[]));
            assert_eq!(format!("{key:?}"), format!("PrivateKey({} bits)", key.public().bits()));
        }
        let (old, new) = (PrivateKey::read(OLD.1).unwrap(), PrivateKey::read(NEW.1).unwrap());
        assert_eq!((old.public().bits(), new.public().bits()), (1024, 2048));
        assert_eq!(old.decrypt(&new.public().encrypt(b"x").unwrap()), None);
    }

    #[test]
    fn both_ways_agree() {
        // What aws-lc-rs encrypts for a large key, the bare operation decrypts, and the other way round.
        let mut key = PrivateKey::read(NEW.1).unwrap();
        let sealed = key.public().encrypt(b"text").unwrap();
        let modern = key.modern.take();
        assert_eq!(key.decrypt(&sealed).as_deref(), Some(&b"text"[..]));
        assert!(modern.is_some());
        key.exponent[40] ^= 1;
        assert_eq!(key.sign(b"text"), Err(KeyError::Inconsistent));
        assert_eq!(key.decrypt(&sealed), None);
    }

    #[test]
    fn garbage_is_refused() {
        assert!(matches!(Certificate::read(b"garbage"), Err(KeyError::Certificate(_))));
        assert!(matches!(Certificate::read(&[0x30, 0x82, 1, 0]), Err(KeyError::Certificate(_))));
        assert!(matches!(Certificate::read(NEW.1), Err(KeyError::Certificate(_))));
        assert!(matches!(PrivateKey::read(b"garbage"), Err(KeyError::PrivateKey(_))));
        assert!(matches!(PrivateKey::read(NEW.0), Err(KeyError::PrivateKey(_))));
        let encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n";
        assert_eq!(PrivateKey::read(encrypted).unwrap_err(), KeyError::Encrypted);
        // Nothing in a key's bytes makes it panic.
        let PrivateKeyDer::Pkcs8(der) = PrivateKeyDer::from_pem_slice(NEW.1).unwrap() else { panic!("PKCS #8") };
        let der = der.secret_pkcs8_der();
        for at in 0..der.len().min(400) {
            let mut bytes = der.to_vec();
            bytes[at] ^= 0x55;
            let _ = pkcs8(&bytes).and_then(PrivateKey::pkcs1);
            let _ = pkcs8(&bytes[..at]).and_then(PrivateKey::pkcs1);
        }
        assert_eq!(element(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], 0x30), None);
        assert_eq!(element(&[0x30], 0x30), None);
    }
}
