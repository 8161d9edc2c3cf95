//! The frontend as its own certificate authority.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rocks_common::ids::{Digest, HostName};
use rocks_common::seal::Sealer;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Why the authority cannot work.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The file system's.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A certificate or key could not be made or read.
    #[error("certificates: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The seal key could not be made or read.
    #[error(transparent)]
    Seal(#[from] rocks_common::seal::SealError),
    /// The request is none, or its key is too weak.
    #[error("the certificate request is refused: {0}")]
    Request(String),
}

/// How long a server certificate is valid.
const SERVER_DAYS: i64 = 90;

/// The authority: its certificate, its key, and the key that seals kickstarts.
pub struct Authority {
    folder: PathBuf,
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
    /// The key that seals kickstarts.
    pub sealer: Sealer,
}

impl Authority {
    /// A short name that no other frontend has: of its certificate's digest.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        Digest::of(self.certificate.as_bytes()).to_string().chars().filter(char::is_ascii_hexdigit).take(16).collect()
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Authority({})", self.folder.display())
    }
}

/// A certificate that was given.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate (PEM).
    pub certificate: String,
    /// Its serial number, hexadecimal.
    pub serial: String,
    /// When it ends.
    pub not_after: Timestamp,
}

/// A certificate for the listener with its key, both PEM.
pub struct ServerCertificate {
    /// The certificate.
    pub certificate: String,
    /// The key. It is secret.
    pub key: String,
}

fn write(path: &Path, text: &[u8]) -> Result<(), CaError> {
    let fail = |source| CaError::Io { path: path.to_path_buf(), source };
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(fail)?;
    file.write_all(text).and_then(|()| file.sync_all()).map_err(fail)
}

fn read(path: &Path) -> Result<String, CaError> {
    fs::read_to_string(path).map_err(|source| CaError::Io { path: path.to_path_buf(), source })
}

impl Authority {
    /// Whether there is an authority in `state`.
    #[must_use]
    pub fn exists(state: &Path) -> bool {
        state.join("ca/ca.pem").exists() && state.join("keys/seal.p8").exists()
    }

    /// Makes the authority in `state`; what is there already stays.
    ///
    /// # Errors
    /// The file system's.
    pub fn create(state: &Path) -> Result<Self, CaError> {
        for folder in ["ca", "keys"] {
            let path = state.join(folder);
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map_err(|source| CaError::Io { path, source })?;
        }
        if !state.join("ca/ca.pem").exists() {
            // A key that an interrupted `init` left is used: nobody has seen it.
            let path = state.join("ca/ca.key");
            if !path.exists() {
                write(&path, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?.serialize_pem().as_bytes())?;
            }
            let key = KeyPair::from_pem(&read(&path)?)?;
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            params.distinguished_name.push(DnType::CommonName, "Rocks frontend CA");
            (params.not_before, params.not_after) = validity(Timestamp::now(), 3650 * 24 * 3600);
            let certificate = params.self_signed(&key)?;
            write(&state.join("ca/ca.pem"), certificate.pem().as_bytes())?;
        }
        if !state.join("keys/seal.p8").exists() {
            write(&state.join("keys/seal.p8"), &Sealer::generate()?)?;
        }
        Self::open(state)
    }

    /// Opens the authority in `state`.
    ///
    /// # Errors
    /// It is not there or not what it should be.
    pub fn open(state: &Path) -> Result<Self, CaError> {
        let folder = state.join("ca");
        let certificate = read(&folder.join("ca.pem"))?;
        let key = KeyPair::from_pem(&read(&folder.join("ca.key"))?)?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key)?;
        let seal_path = state.join("keys/seal.p8");
        let seal = fs::read(&seal_path).map_err(|source| CaError::Io { path: seal_path, source })?;
        Ok(Self { folder, certificate, issuer, sealer: Sealer::from_pkcs8(&seal)? })
    }

    /// The authority's certificate (PEM).
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A new certificate for the listener under `names` (DNS names and addresses).
    ///
    /// # Errors
    /// A name that cannot stand in a certificate.
    pub fn server(&self, names: &[String], now: Timestamp) -> Result<ServerCertificate, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.as_str().try_into()?),
            });
        }
        params.distinguished_name.push(DnType::CommonName, names.first().map_or("rocks-server", String::as_str));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        (params.not_before, params.not_after) = validity(now, SERVER_DAYS * 24 * 3600);
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(ServerCertificate { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// What TLS needs to speak for the frontend: a new certificate with its key, and our own authority to judge others by.
    ///
    /// # Errors
    /// As of [`Authority::server`].
    pub fn tls_parts(
        &self,
        names: &[String],
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>, RootCertStore), CaError> {
        let refuse = |error: &dyn std::fmt::Display| CaError::Request(error.to_string());
        let made = self.server(names, Timestamp::now())?;
        let certificate = CertificateDer::from_pem_slice(made.certificate.as_bytes()).map_err(|e| refuse(&e))?;
        let key = PrivateKeyDer::from_pem_slice(made.key.as_bytes()).map_err(|e| refuse(&e))?;
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(self.certificate.as_bytes()).map_err(|e| refuse(&e))?;
        roots.add(ca).map_err(|e| refuse(&e))?;
        Ok((certificate, key, roots))
    }

    /// A client certificate for `host` and the key of `request` (PKCS#10, PEM). Only the key is taken from the request.
    ///
    /// # Errors
    /// The request is none.
    pub fn client(
        &self,
        host: &HostName,
        request: &str,
        life: SignedDuration,
        now: Timestamp,
    ) -> Result<Issued, CaError> {
        check_request(request)?;
        let request =
            CertificateSigningRequestParams::from_pem(request).map_err(|error| CaError::Request(error.to_string()))?;
        let mut serial = [0; 16];
        aws_lc_rs::rand::fill(&mut serial).map_err(|_| CaError::Request("no randomness".to_owned()))?;
        serial[0] &= 0x7f;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, host.as_str());
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        (params.not_before, params.not_after) = validity(now, life.as_secs());
        let certificate = params.signed_by(&request.public_key, &self.issuer)?;
        let not_after = now.checked_add(life).map_err(|error| CaError::Request(error.to_string()))?;
        Ok(Issued { certificate: certificate.pem(), serial: hex(&serial), not_after })
    }
}

/// When the authority in `state` ends, in seconds since 1970.
#[must_use]
pub fn end_of_authority(state: &Path) -> Option<i64> {
    let pem = fs::read(state.join("ca/ca.pem")).ok()?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
    Some(pem.parse_x509().ok()?.validity().not_after.timestamp())
}

/// Whether `request` (PKCS#10, PEM) is one: signed with the key that it shows, and that key strong enough.
///
/// # Errors
/// It is not.
pub fn check_request(request: &str) -> Result<(), CaError> {
    use x509_parser::prelude::FromDer as _;
    use x509_parser::public_key::PublicKey;
    let refuse = |error: &dyn std::fmt::Display| CaError::Request(error.to_string());
    // The parser checks that the one who asks has the key.
    CertificateSigningRequestParams::from_pem(request).map_err(|error| refuse(&error))?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(request.as_bytes()).map_err(|error| refuse(&error))?;
    let (_, parsed) = x509_parser::certification_request::X509CertificationRequest::from_der(&pem.contents)
        .map_err(|error| refuse(&error))?;
    let key = &parsed.certification_request_info.subject_pki;
    let strong = match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => rsa.key_size() >= 2048,
        Ok(PublicKey::EC(point)) => point.key_size() >= 256,
        // Ed25519, which the parser does not know by name.
        Ok(PublicKey::Unknown(_)) => key.algorithm.algorithm == x509_parser::oid_registry::OID_SIG_ED25519,
        _ => false,
    };
    if strong { Ok(()) } else { Err(CaError::Request("its key is too weak or of a kind that is not taken".to_owned())) }
}

/// The digest of the public key in a certificate request.
///
/// # Errors
/// It is none.
pub fn key_of_request(request: &str) -> Result<Digest, CaError> {
    use x509_parser::prelude::FromDer as _;
    let refuse = |error: &dyn std::fmt::Display| CaError::Request(error.to_string());
    let (_, pem) = x509_parser::pem::parse_x509_pem(request.as_bytes()).map_err(|error| refuse(&error))?;
    let (_, parsed) = x509_parser::certification_request::X509CertificationRequest::from_der(&pem.contents)
        .map_err(|error| refuse(&error))?;
    Ok(Digest::of(parsed.certification_request_info.subject_pki.raw))
}

/// From a little before `now` (clocks differ) for `seconds`.
fn validity(now: Timestamp, seconds: i64) -> (time::OffsetDateTime, time::OffsetDateTime) {
    let at =
        |seconds: i64| time::OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    (at(now.as_second() - 300), at(now.as_second().saturating_add(seconds)))
}

/// Hexadecimal digits, leading zero bytes left out, as serial numbers are compared.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let skip = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes[skip..].iter().map(|byte| format!("{byte:02x}")).collect()
}
