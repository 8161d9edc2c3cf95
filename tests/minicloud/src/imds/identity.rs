//! The key that signs instance identity documents, and its certificate, which stands for the one that AWS publishes for a region.

use anyhow::{Context as _, Result};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use aws_lc_rs::{digest, rsa};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_RSA_SHA256, SerialNumber};

use super::cms;

/// Signs documents.
pub(crate) struct Identity {
    key: RsaKeyPair,
    certificate: String,
    issuer: Vec<u8>,
    serial: Vec<u8>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("public", &self.key.public_key()).finish_non_exhaustive()
    }
}

impl Identity {
    /// Makes a key and a certificate of this cloud's own.
    pub(crate) fn new() -> Result<Self> {
        let key = RsaKeyPair::generate(rsa::KeySize::Rsa2048).ok().context("no RSA key can be made")?;
        let encoded = aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&key);
        let encoded = encoded.ok().context("the key cannot be written")?;
        let pair = KeyPair::from_pkcs8_der_and_sign_algo(&encoded.as_ref().into(), &PKCS_RSA_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CountryName, "US");
        params.distinguished_name.push(DnType::OrganizationName, "minicloud");
        params.distinguished_name.push(DnType::CommonName, "minicloud instance identity");
        let serial = vec![0x4d, 0x43, 1];
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let certificate = params.self_signed(&pair)?;
        let (_, read) = x509_parser::parse_x509_certificate(certificate.der())?;
        let issuer = read.issuer().as_raw().to_vec();
        Ok(Self { key, certificate: certificate.pem(), issuer, serial })
    }

    /// The certificate, as PEM.
    pub(crate) fn certificate(&self) -> &str {
        &self.certificate
    }

    fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        let mut signature = vec![0; self.key.public_modulus_len()];
        // Only a key too short for the padding can fail.
        let signed = self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), bytes, &mut signature);
        signed.map(|()| signature).unwrap_or_default()
    }

    /// The bare signature of a document: RSA with SHA-256, in base64.
    pub(crate) fn signature(&self, document: &[u8]) -> String {
        wrapped(&self.sign(document))
    }

    /// A signed message with the document inside, as `rsa2048` is on AWS.
    pub(crate) fn pkcs7(&self, document: &[u8], at: u64) -> String {
        let digest = digest::digest(&digest::SHA256, document);
        let time = i64::try_from(at).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        let time = time.map(|t| t.strftime("%y%m%d%H%M%SZ").to_string()).unwrap_or_default();
        let signer = cms::Signer { issuer: &self.issuer, serial: &self.serial };
        wrapped(&cms::signed(document, digest.as_ref(), &time, &signer, |bytes| self.sign(bytes)))
    }
}

/// Base64 in lines of 64, without a frame around it.
fn wrapped(bytes: &[u8]) -> String {
    let text = STANDARD.encode(bytes);
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|n| &text[n..text.len().min(n + 64)]).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{cmd, which};

    /// As AWS's documentation tells people to verify.
    #[test]
    fn openssl_believes_it() {
        if which("openssl").is_none() {
            return println!("skipped: openssl is not installed");
        }
        let identity = Identity::new().expect("an identity");
        let dir = tempfile::tempdir().expect("a folder");
        let document = b"{\n  \"instanceId\" : \"i-1\"\n}";
        let put = |name: &str, text: &[u8]| std::fs::write(dir.path().join(name), text).expect("written");
        put("certificate", identity.certificate().as_bytes());
        put("document", document);
        put(
            "pkcs7",
            format!("-----BEGIN PKCS7-----\n{}\n-----END PKCS7-----\n", identity.pkcs7(document, 1_700_000_000_000))
                .as_bytes(),
        );
        let verify = |content: &str| {
            let args = [
                "smime",
                "-verify",
                "-in",
                "pkcs7",
                "-inform",
                "PEM",
                "-content",
                content,
                "-certfile",
                "certificate",
                "-noverify",
            ];
            cmd("openssl").args(args).dir(dir.path()).output().expect("openssl")
        };
        let done = verify("document");
        assert!(done.code() == 0 && done.stdout.contains("i-1"), "{}", done.both());
        let key = cmd("openssl")
            .args(["x509", "-in", "certificate", "-pubkey", "-noout"])
            .dir(dir.path())
            .run()
            .expect("a key");
        put("key", key.stdout.as_bytes());
        put("signature", &STANDARD.decode(identity.signature(document).replace('\n', "")).expect("base64"));
        let check = || {
            cmd("openssl")
                .args(["dgst", "-sha256", "-verify", "key", "-signature", "signature", "document"])
                .dir(dir.path())
                .output()
                .expect("openssl")
        };
        assert_eq!(check().code(), 0, "{}", check().both());
        put("document", b"{\n  \"instanceId\" : \"i-2\"\n}");
        assert_ne!(check().code(), 0);
    }

    #[test]
    fn the_message_begins_as_those_of_aws_do() {
        let identity = Identity::new().expect("an identity");
        assert!(
            identity.pkcs7(b"{}", 0).starts_with("MIAGCSqGSIb3DQEHAqCAMIACAQExDzANBglghkgBZQMEAgEFADCABgkqhkiG9w0B")
        );
    }
}
