//! Certificates for benches and tests.

use std::path::Path;

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

/// Writes an authority (`ca`), one certificate of it for both ends (`cert`, for `bench.rocks`) and its key (`key`), as DER.
///
/// # Errors
/// The folder cannot be written, or a key not be made.
pub fn make(dir: &Path) -> Result<()> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate()?;
    let ca = params.self_signed(&ca_key)?;
    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new(vec!["bench.rocks".to_owned()])?
        .signed_by(&key, &Issuer::from_params(&params, &ca_key))?;
    std::fs::write(dir.join("ca"), ca.der())?;
    std::fs::write(dir.join("cert"), leaf.der())?;
    std::fs::write(dir.join("key"), key.serialize_der())?;
    Ok(())
}
