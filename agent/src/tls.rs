//! Whom the agent trusts on the network: the frontend's own CA and nobody else. Only a bucket is judged as the system judges servers.
//!
//! A host's certificate is good for a client and for nothing else, so that no host can pass for the frontend. A relay is a host: who
//! speaks to it takes just such a certificate ([`relay_client`]), and the relay wants one of who speaks to it ([`relay_server`]).

use std::path::Path;
use std::sync::Arc;

use rocks_common::ids::HostName;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

/// Where systems keep the authorities that they trust, in one file.
const SYSTEM_ROOTS: [&str; 4] = [
    "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/ssl/certs/ca-certificates.crt",
    "etc/ssl/ca-bundle.pem",
];

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
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(authority(ca)?);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let (chain, key) = own(identity)?;
            builder.with_client_auth_cert(chain, key)?
        }
    };
    Ok(Arc::new(config))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn authority(ca: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        let certificate = certificate.map_err(|_| TlsError::Pem("CA certificate"))?;
        roots.add(certificate).map_err(|_| TlsError::Pem("CA certificate"))?;
    }
    if roots.is_empty() { Err(TlsError::Pem("CA certificate")) } else { Ok(roots) }
}

type Own = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn own((certificate, key): (&str, &str)) -> Result<Own, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
    let chain = chain.map_err(|_| TlsError::Pem("client certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| TlsError::Pem("client key"))?;
    Ok((chain, key))
}

fn hosts(ca: &str) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authority(ca)?), provider()).build();
    verifier.map_err(|_| TlsError::Pem("CA certificate"))
}

/// A configuration to speak to a relay, which must be a host of the frontend's, and `host` if that is said. It is to be used with
/// [`relay_name`].
///
/// # Errors
/// A document that is not what it should be.
pub fn relay_client(ca: &str, identity: (&str, &str), host: Option<&HostName>) -> Result<Arc<ClientConfig>, TlsError> {
    let (chain, key) = own(identity)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(IsHost { hosts: hosts(ca)?, host: host.cloned() }))
        .with_client_auth_cert(chain, key)?;
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// What a relay is called in TLS, where its name says nothing.
#[must_use]
pub fn relay_name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::IpAddr::from([0, 0, 0, 0]).into())
}

/// A configuration for a relay: it lets hosts of the frontend's in and nobody else.
///
/// # Errors
/// A document that is not what it should be.
pub fn relay_server(ca: &str, identity: (&str, &str)) -> Result<Arc<ServerConfig>, TlsError> {
    let (chain, key) = own(identity)?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(hosts(ca)?)
        .with_single_cert(chain, key)?;
    Ok(Arc::new(config))
}

/// A configuration that trusts whom the system below `root` trusts, and shows nothing.
///
/// # Errors
/// TLS objects.
pub fn public(root: &Path) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    for path in SYSTEM_ROOTS {
        // A certificate of these that cannot be used is one that nothing is trusted for.
        let Ok(all) = CertificateDer::pem_file_iter(root.join(path)) else { continue };
        let (added, _) = roots.add_parsable_certificates(all.filter_map(Result::ok));
        if added > 0 {
            break;
        }
    }
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// Takes the certificate of a host of the frontend's, and no other's: least of all one that is good for a server.
#[derive(Debug)]
struct IsHost {
    hosts: Arc<dyn ClientCertVerifier>,
    host: Option<HostName>,
}

/// The host that a certificate is for.
fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(certificate.subject().iter_common_name().next()?.as_str().ok()?.to_owned())
}

impl ServerCertVerifier for IsHost {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.hosts.verify_client_cert(end_entity, intermediates, now)?;
        let is_other = |host: &HostName| common_name(end_entity).as_deref() != Some(host.as_str());
        if self.host.as_ref().is_some_and(is_other) {
            return Err(CertificateError::NotValidForName.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.hosts.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.hosts.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.hosts.supported_verify_schemes()
    }
}
