//! Whom the agent trusts on the network: the frontend's own CA and nobody else.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Why there can be no connection.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A document is not what it should be.
    #[error("the {0} cannot be used")]
    Pem(&'static str),
    /// TLS itself objects.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

/// A configuration that trusts `ca` (PEM) and shows `identity` (certificate and key, PEM) if given.
///
/// # Errors
/// A document that is not what it should be.
pub fn client(ca: &str, identity: Option<(&str, &str)>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        let certificate = certificate.map_err(|_| TlsError::Pem("CA certificate"))?;
        roots.add(certificate).map_err(|_| TlsError::Pem("CA certificate"))?;
    }
    if roots.is_empty() {
        return Err(TlsError::Pem("CA certificate"));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
            let chain = chain.map_err(|_| TlsError::Pem("client certificate"))?;
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| TlsError::Pem("client key"))?;
            builder.with_client_auth_cert(chain, key)?
        }
    };
    Ok(Arc::new(config))
}
