//! Keys and small tools of the tests.

#![allow(dead_code, reason = "not every test uses all of it")]

use std::io::{self, Cursor, Read};

use rocks_bundle::{
    BundleError, Certificate, Job, Manifest, Map, Order, Part, Plain, PrivateKey, UnbundleError, bundle, unbundle,
};

/// The user's, of 2048 bits.
pub(crate) const USER: (&[u8], &[u8]) = (include_bytes!("../keys/new.cert.pem"), include_bytes!("../keys/new.key.pem"));
/// EC2's, of 1024 bits, as it was.
pub(crate) const EC2: (&[u8], &[u8]) = (include_bytes!("../keys/old.cert.pem"), include_bytes!("../keys/old.key.pem"));

pub(crate) struct Keys {
    pub(crate) certificate: Certificate,
    pub(crate) key: PrivateKey,
    pub(crate) ec2_certificate: Certificate,
    pub(crate) ec2_key: PrivateKey,
}

impl Keys {
    pub(crate) fn new() -> Self {
        Self {
            certificate: Certificate::read(USER.0).unwrap(),
            key: PrivateKey::read(USER.1).unwrap(),
            ec2_certificate: Certificate::read(EC2.0).unwrap(),
            ec2_key: PrivateKey::read(EC2.1).unwrap(),
        }
    }

    pub(crate) fn job(&self, prefix: &str) -> Job<'_> {
        let (prefix, account) = (prefix.parse().unwrap(), "123456789012".parse().unwrap());
        Job::new(prefix, account, &self.certificate, &self.key, &self.ec2_certificate)
    }
}

/// Bytes that do not compress, always the same.
pub(crate) fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..count).map(|_| next()).collect()
}

/// Bundles bytes in memory.
pub(crate) fn pack(image: &[u8], map: &Map, job: &Job<'_>) -> Result<(Manifest, Vec<Part>), BundleError> {
    let mut parts = Vec::new();
    let mut sink = |part| {
        parts.push(part);
        Ok(())
    };
    let manifest = bundle(&mut Cursor::new(image), map, job, &mut sink, &mut |_| {})?;
    Ok((manifest, parts))
}

/// Takes them apart.
pub(crate) fn unpack(manifest: &Manifest, parts: &[Part], order: &Order<'_>) -> Result<Vec<u8>, UnbundleError> {
    let mut target = Plain(Vec::new());
    let mut source = |index: usize, name: &str| -> io::Result<Box<dyn Read>> {
        let part = parts.get(index).ok_or(io::ErrorKind::NotFound)?;
        assert_eq!(part.name, name);
        Ok(Box::new(Cursor::new(part.bytes.clone())))
    };
    unbundle(manifest, order, &mut source, &mut target, &mut |_| {})?;
    Ok(target.0)
}
