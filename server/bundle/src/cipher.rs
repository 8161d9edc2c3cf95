//! AES-128-CBC with PKCS #7 padding, as a stream.

use std::fmt;
use std::io::{self, Read, Write};

use aws_lc_rs::cipher::{
    AES_128, DecryptionContext, EncryptionContext, StreamingDecryptingKey, StreamingEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::iv::FixedLength;

/// Bytes at once.
const CHUNK: usize = 64 << 10;
/// Bytes of a block.
const BLOCK: usize = 16;

/// The key that a bundle is encrypted with, and its initialization vector.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    pub(crate) key: [u8; 16],
    pub(crate) iv: [u8; 16],
}

impl Secret {
    /// A fresh one.
    ///
    /// # Errors
    /// There are no random numbers.
    pub fn random() -> Result<Self, Unspecified> {
        let mut secret = Self { key: [0; 16], iv: [0; 16] };
        aws_lc_rs::rand::fill(&mut secret.key)?;
        aws_lc_rs::rand::fill(&mut secret.iv)?;
        Ok(secret)
    }

    /// These. Whoever bundles two images with the same gives away how they begin alike.
    #[must_use]
    pub const fn new(key: [u8; 16], iv: [u8; 16]) -> Self {
        Self { key, iv }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Encrypts what is written into it. It ends with [`Encrypting::finish`].
pub(crate) struct Encrypting<W> {
    inner: W,
    key: StreamingEncryptingKey,
    buffer: Vec<u8>,
}

impl<W: Write> Encrypting<W> {
    pub(crate) fn new(inner: W, secret: &Secret) -> Result<Self, Unspecified> {
        let context = EncryptionContext::Iv128(FixedLength::from(secret.iv));
        let key = UnboundCipherKey::new(&AES_128, &secret.key)?;
        let key = StreamingEncryptingKey::less_safe_cbc_pkcs7(key, context)?;
        Ok(Self { inner, key, buffer: vec![0; CHUNK + BLOCK] })
    }

    pub(crate) const fn inner(&self) -> &W {
        &self.inner
    }

    pub(crate) const fn inner_mut(&mut self) -> &mut W {
        &mut self.inner
    }

    pub(crate) fn finish(mut self) -> io::Result<W> {
        let mut last = [0; 2 * BLOCK];
        let (_, update) = self.key.finish(&mut last).map_err(io::Error::other)?;
        self.inner.write_all(update.written())?;
        Ok(self.inner)
    }
}

impl<W: Write> Write for Encrypting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(CHUNK)];
        let update = self.key.update(bytes, &mut self.buffer).map_err(io::Error::other)?;
        self.inner.write_all(update.written())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// What was encrypted is not what comes out: the key is wrong, or the end is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it was encrypted with another key, or its end is missing")]
pub(crate) struct NotDecrypted;

/// Decrypts what it reads.
pub(crate) struct Decrypting<R> {
    inner: R,
    /// Gone when the end has been reached.
    key: Option<StreamingDecryptingKey>,
    input: Vec<u8>,
    output: Vec<u8>,
    /// What of the output has not been read.
    ready: std::ops::Range<usize>,
}

impl<R: Read> Decrypting<R> {
    pub(crate) fn new(inner: R, secret: &Secret) -> Result<Self, Unspecified> {
        let context = DecryptionContext::Iv128(FixedLength::from(secret.iv));
        let key = StreamingDecryptingKey::cbc_pkcs7(UnboundCipherKey::new(&AES_128, &secret.key)?, context)?;
        Ok(Self { inner, key: Some(key), input: vec![0; CHUNK], output: vec![0; CHUNK + 2 * BLOCK], ready: 0..0 })
    }

    pub(crate) const fn inner(&self) -> &R {
        &self.inner
    }
}

impl<R: Read> Read for Decrypting<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while self.ready.is_empty() {
            let Some(key) = &mut self.key else { return Ok(0) };
            let count = match self.inner.read(&mut self.input) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            let written = if count == 0 {
                let key = self.key.take().ok_or_else(|| io::Error::other(NotDecrypted))?;
                key.finish(&mut self.output).map_err(|_| io::Error::other(NotDecrypted))?.written().len()
            } else {
                let update = key.update(&self.input[..count], &mut self.output);
                update.map_err(|_| io::Error::other(NotDecrypted))?.written().len()
            };
            self.ready = 0..written;
        }
        let count = bytes.len().min(self.ready.len());
        bytes[..count].copy_from_slice(&self.output[self.ready.start..][..count]);
        self.ready.start += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_both_ways_at_every_length() {
        let secret = Secret::random().unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        for length in [0, 1, 15, 16, 17, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5] {
            let plain: Vec<u8> = (0..length).map(|i| (i * 7 % 251) as u8).collect();
            let mut to = Encrypting::new(Vec::new(), &secret).unwrap();
            to.write_all(&plain).unwrap();
            let sealed = to.finish().unwrap();
            assert_eq!(sealed.len(), (length / BLOCK + 1) * BLOCK, "{length}");
            let mut back = Vec::new();
            Decrypting::new(&sealed[..], &secret).unwrap().read_to_end(&mut back).unwrap();
            assert!(back == plain, "{length}");
            let cut = Decrypting::new(&sealed[..sealed.len() - 1], &secret).unwrap().read_to_end(&mut back);
            assert!(cut.is_err(), "{length}");
        }
        let none = Decrypting::new(&b""[..], &secret).unwrap().read_to_end(&mut Vec::new());
        assert!(none.is_err());
    }

    #[test]
    fn it_is_what_nist_says() {
        // SP 800-38A, F.2.1, first block.
        let hex = |text| crate::value::from_hex(text).unwrap();
        let key = hex("2b7e151628aed2a6abf7158809cf4f3c").try_into().unwrap();
        let iv = hex("000102030405060708090a0b0c0d0e0f").try_into().unwrap();
        let mut to = Encrypting::new(Vec::new(), &Secret::new(key, iv)).unwrap();
        to.write_all(&hex("6bc1bee22e409f96e93d7e117393172a")).unwrap();
        assert_eq!(to.finish().unwrap()[..16], hex("7649abac8119b246cee98e9b12e9197d"));
    }
}
