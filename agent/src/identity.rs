//! Who the agent is: a key that never leaves the instance, and the certificate that the frontend gave for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rocks_common::ids::{EnrolmentName, HostName};
use rocks_common::seal::SealKey;
use rocks_common::wire::{EnrolRequest, EnrolResponse, Facts, InstanceIdentity, JoinToken, RenewRequest};
use serde::{Deserialize, Serialize};

use crate::fetch::{Client, FetchError};
use crate::imds::{self, ImdsError};
use crate::{files, tls};

/// What an instance is given to become a host's agent.
#[derive(Debug, Clone, Deserialize)]
pub struct Join {
    /// The frontend's address.
    pub frontend: String,
    /// The one-time token. One of the two is there: this, or `identity`.
    pub token: Option<JoinToken>,
    /// Who says what the instance is, where nobody announced it.
    pub identity: Option<Authority>,
    /// The rule that lets such instances in, if it is to be a certain one.
    pub enrolment: Option<EnrolmentName>,
    /// The frontend's CA (PEM).
    pub ca: String,
}

/// Who says what an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Authority {
    /// EC2, by a signed document that the metadata service gives.
    Ec2,
}

/// The folder of the identity, in the state folder.
pub const FOLDER: &str = "identity";
/// The key of an instance that is on its way to an identity. It stays the same until there is one: the frontend lets an instance in once, and one
/// that did not hear the answer is known by its key.
const PENDING: &str = "pending.pem";
/// Where the metadata service has what EC2 says of the instance, and its signature.
const DOCUMENT: [&str; 2] = ["/latest/dynamic/instance-identity/document", "/latest/dynamic/instance-identity/rsa2048"];
/// How long the metadata service may be out of reach.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who the agent is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The frontend's address.
    pub frontend: String,
    /// The host that it is.
    pub host: HostName,
    /// Whose seals it trusts.
    pub seal_key: SealKey,
    /// When the certificate was given.
    pub since: Timestamp,
    /// When it ends.
    pub not_after: Timestamp,
    /// What belongs together, in the one file that is replaced as a whole: whenever the agent is killed, key and
    /// certificate fit. Agents from before kept them in files of their own only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    documents: Option<Documents>,
    #[serde(skip)]
    folder: PathBuf,
}

/// The certificate with its key, and the CA (PEM).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Documents {
    ca: String,
    certificate: String,
    /// It is secret.
    key: String,
}

impl Documents {
    /// The files that other programs read them from, with their permissions.
    fn files(&self) -> [(&'static str, &str, u32); 3] {
        [("key.pem", &self.key, 0o600), ("cert.pem", &self.certificate, 0o600), ("ca.pem", &self.ca, 0o644)]
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({} at {})", self.host, self.frontend)
    }
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Nobody has enrolled the instance.
    #[error("this instance is not enrolled: there is no join document")]
    NotEnrolled,
    /// A join document that somebody named is not there.
    #[error("there is no file {}", .0.display())]
    NoFile(PathBuf),
    /// The file system's.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {why}", path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A key or request could not be made.
    #[error("cannot make a key: {0}")]
    Key(String),
    /// TLS objects.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// The metadata service cannot be reached, or says no.
    #[error(transparent)]
    Imds(#[from] ImdsError),
    /// The metadata service has no such document.
    #[error("the instance metadata service does not say what this instance is: there is no {0}")]
    Unsaid(&'static str),
    /// The frontend cannot be reached, or says no.
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

/// Most bytes of any of these files.
const BYTES: u64 = 64 << 10;

impl Identity {
    /// The identity kept in `state`, if there is one.
    ///
    /// # Errors
    /// It is there and cannot be used.
    pub fn load(state: &Path) -> Result<Option<Self>, IdentityError> {
        let identity = Self::load_from(&state.join(FOLDER))?;
        if let Some(identity) = &identity {
            identity.lay_out();
        }
        Ok(identity)
    }

    /// Puts the documents where the package manager and others look for them, if they are not there as they are here.
    /// What counts is here: a disk that is full is no reason not to be who we are.
    fn lay_out(&self) {
        for (name, text, mode) in self.documents.iter().flat_map(Documents::files) {
            let path = self.file(name);
            let there = files::read(&path, BYTES).ok().flatten();
            if there.is_none_or(|there| there != text.as_bytes())
                && let Err(error) = files::write(&path, text.as_bytes(), mode)
            {
                tracing::warn!("{}: {error}", path.display());
            }
        }
    }

    /// The identity in `folder` itself, if there is one.
    ///
    /// # Errors
    /// It is there and cannot be used.
    pub fn load_from(folder: &Path) -> Result<Option<Self>, IdentityError> {
        let folder = folder.to_path_buf();
        let path = folder.join("identity.json");
        let bytes = files::read(&path, BYTES).map_err(|source| IdentityError::Io { path: path.clone(), source })?;
        let Some(bytes) = bytes else { return Ok(None) };
        let mut identity: Self =
            serde_json::from_slice(&bytes).map_err(|error| IdentityError::Bad { path, why: error.to_string() })?;
        identity.folder = folder;
        Ok(Some(identity))
    }

    /// The file called `name` (`ca.pem`, `cert.pem`, `key.pem`).
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn read(&self, name: &str) -> Result<String, IdentityError> {
        let path = self.file(name);
        fs::read_to_string(&path).map_err(|source| IdentityError::Io { path, source })
    }

    /// The frontend's CA, our certificate and its key (PEM).
    ///
    /// # Errors
    /// A file is missing.
    pub fn documents(&self) -> Result<(String, String, String), IdentityError> {
        if let Some(Documents { ca, certificate, key }) = &self.documents {
            return Ok((ca.clone(), certificate.clone(), key.clone()));
        }
        Ok((self.read("ca.pem")?, self.read("cert.pem")?, self.read("key.pem")?))
    }

    /// A client that shows the certificate.
    ///
    /// # Errors
    /// A file is missing or not what it should be.
    pub fn client(&self) -> Result<Client, IdentityError> {
        let (ca, certificate, key) = self.documents()?;
        Ok(Client::new(&self.frontend, tls::client(&ca, Some((&certificate, &key)))?)?)
    }

    /// Whether two thirds of the certificate's life are over.
    #[must_use]
    pub fn wants_renewal(&self, now: Timestamp) -> bool {
        let life = self.not_after.as_second() - self.since.as_second();
        now.as_second() - self.since.as_second() > life / 3 * 2
    }

    /// Whether the certificate has ended: the frontend lets nobody in with it, and it cannot be renewed any more.
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        now > self.not_after
    }

    /// Whether the frontend may let somebody in with it: it has not ended, and key and certificate fit.
    #[must_use]
    pub fn is_usable(&self, now: Timestamp) -> bool {
        !self.is_over(now) && self.client().is_ok()
    }

    /// Gets a new certificate for a new key under the present one.
    ///
    /// # Errors
    /// The frontend cannot be reached or says no; the present identity still holds then.
    pub async fn renew(&self, facts: Facts, now: Timestamp) -> Result<Self, IdentityError> {
        let (key, csr) = make_request()?;
        let answer = self.client()?.renew(&RenewRequest { csr, facts }).await?;
        let state = self.folder.parent().unwrap_or(&self.folder);
        store(state, &self.frontend, &answer, &key, now)
    }
}

/// Becomes the host that the join document's token stands for, or that the frontend makes of what EC2 says of this instance.
///
/// # Errors
/// The frontend cannot be reached or says no; no identity is kept then.
pub async fn enrol(state: &Path, join: &Join, facts: Facts, now: Timestamp) -> Result<Identity, IdentityError> {
    let identity = match join.identity {
        None => None,
        Some(Authority::Ec2) => Some(said(imds::ADDRESS, join.enrolment.clone()).await?),
    };
    let (key, csr) = pending(state)?;
    let mut client = Client::new(&join.frontend, tls::client(&join.ca, None)?)?;
    let answer = client.enrol(&EnrolRequest { token: join.token.clone(), identity, csr, facts }).await?;
    let made = store(state, &join.frontend, &answer, &key, now)?;
    let _ = fs::remove_file(state.join(FOLDER).join(PENDING));
    Ok(made)
}

/// What EC2 says of this instance, by the metadata service at `address`.
async fn said(address: &str, enrolment: Option<EnrolmentName>) -> Result<InstanceIdentity, IdentityError> {
    let mut texts = Vec::new();
    for path in DOCUMENT {
        let bytes = imds::insist(address, path, BYTES as usize, PATIENCE).await?.ok_or(IdentityError::Unsaid(path))?;
        texts.push(String::from_utf8(bytes.to_vec()).map_err(|_| IdentityError::Unsaid(path))?);
    }
    let [document, signature] = <[String; 2]>::try_from(texts).map_err(|_| IdentityError::Unsaid(DOCUMENT[0]))?;
    Ok(InstanceIdentity { document, signature, enrolment })
}

/// A request with the key that an earlier attempt made, or with a new one that is kept first.
fn pending(state: &Path) -> Result<(String, String), IdentityError> {
    let path = state.join(FOLDER).join(PENDING);
    let io = |source| IdentityError::Io { path: path.clone(), source };
    let known = files::read(&path, BYTES).map_err(io)?.and_then(|bytes| String::from_utf8(bytes).ok());
    if let Some(key) = known.and_then(|text| KeyPair::from_pem(&text).ok()) {
        return request(&key);
    }
    let made = make_request()?;
    files::write(&path, made.0.as_bytes(), 0o600).map_err(io)?;
    Ok(made)
}

/// Reads a join document.
///
/// # Errors
/// It is not there ([`IdentityError::NotEnrolled`]) or not what it should be.
pub fn read_join(path: &Path) -> Result<Join, IdentityError> {
    let bytes = files::read(path, BYTES).map_err(|source| IdentityError::Io { path: path.to_path_buf(), source })?;
    let text = bytes.ok_or(IdentityError::NotEnrolled)?;
    let bad = |why: String| IdentityError::Bad { path: path.to_path_buf(), why };
    let text = String::from_utf8(text).map_err(|_| bad("it is not UTF-8".to_owned()))?;
    // The parser's message may quote the token: say only where, or what is missing.
    let join: Join = toml::from_str(&text).map_err(|error| {
        let table = toml::from_str::<toml::Table>(&text).ok();
        let missing = table.and_then(|table| ["frontend", "ca"].into_iter().find(|key| !table.contains_key(*key)));
        let at = error.span().map_or(0, |span| text[..span.start.min(text.len())].lines().count());
        bad(missing.map_or_else(
            || format!("it is not a join document (line {at})"),
            |key| format!("it is not a join document: it lacks `{key}`"),
        ))
    })?;
    match (&join.token, join.identity) {
        (None, None) => Err(bad("it is not a join document: it lacks `token`".to_owned())),
        (Some(_), Some(_)) => Err(bad("it is not a join document: it has either a token or an identity".to_owned())),
        _ => Ok(join),
    }
}

fn make_request() -> Result<(String, String), IdentityError> {
    let fail = |error: rcgen::Error| IdentityError::Key(error.to_string());
    request(&KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(fail)?)
}

fn request(key: &KeyPair) -> Result<(String, String), IdentityError> {
    let fail = |error: rcgen::Error| IdentityError::Key(error.to_string());
    let request = CertificateParams::new(Vec::new()).map_err(fail)?.serialize_request(key).map_err(fail)?;
    Ok((key.serialize_pem(), request.pem().map_err(fail)?))
}

fn store(
    state: &Path,
    frontend: &str,
    answer: &EnrolResponse,
    key: &str,
    now: Timestamp,
) -> Result<Identity, IdentityError> {
    let folder = state.join(FOLDER);
    let identity = Identity {
        frontend: frontend.to_owned(),
        host: answer.host.clone(),
        seal_key: answer.seal_key,
        since: now,
        not_after: answer.not_after,
        documents: Some(Documents {
            ca: answer.ca.clone(),
            certificate: answer.certificate.clone(),
            key: key.to_owned(),
        }),
        folder: folder.clone(),
    };
    let json = serde_json::to_vec_pretty(&identity).map_err(|error| IdentityError::Key(error.to_string()))?;
    // This makes it who it is; all that comes after it follows from it.
    let path = folder.join("identity.json");
    files::write(&path, &json, 0o600).map_err(|source| IdentityError::Io { path, source })?;
    identity.lay_out();
    Ok(identity)
}

/// What the instance tells of itself.
#[must_use]
pub fn facts(root: &Path) -> Facts {
    let read = |path: &str| fs::read_to_string(Path::new("/").join(path)).unwrap_or_default();
    let os = fs::read_to_string(root.join("etc/os-release")).unwrap_or_default();
    let os = os.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("").trim_matches('"').to_owned();
    let memory = read("proc/meminfo");
    let kib =
        memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok());
    let uname = rustix::system::uname();
    Facts {
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        arch: uname.machine().to_string_lossy().into_owned(),
        os,
        kernel: uname.release().to_string_lossy().into_owned(),
        cpus: std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
        memory_bytes: kib.unwrap_or(0) * 1024,
        boot_id: read("proc/sys/kernel/random/boot_id").trim().to_owned(),
    }
}

#[cfg(test)]
#[path = "identity_tests.rs"]
pub(crate) mod sample;

#[cfg(test)]
mod tests {
    use super::sample::{answer, now};
    use super::*;

    fn read(text: &str) -> Result<Join, IdentityError> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("join.toml");
        fs::write(&path, text).expect("written");
        read_join(&path)
    }

    #[test]
    fn a_join_document_has_a_token_or_says_who_vouches_and_its_errors_quote_neither() {
        let token = read("frontend = \"https://f\"\ntoken = \"secret\"\nca = \"\"\n").expect("with a token");
        assert!(token.token.is_some() && token.identity.is_none());
        let ec2 = "frontend = \"https://f\"\nidentity = \"ec2\"\nenrolment = \"web\"\nca = \"\"\n";
        let ec2 = read(ec2).expect("without one");
        assert_eq!(
            (ec2.identity, ec2.enrolment.as_ref().map(EnrolmentName::as_str)),
            (Some(Authority::Ec2), Some("web"))
        );
        for bad in ["", "token = \"secret\"\nidentity = \"ec2\"\n", "identity = \"secret\"\n", "token = secret\n"] {
            let error = read(&format!("frontend = \"https://f\"\nca = \"\"\n{bad}")).expect_err("neither").to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        for (text, key) in [
            ("token = \"secret\"\nca = \"\"\n", "`frontend`"),
            ("frontend = \"https://f\"\ntoken = \"secret\"\n", "`ca`"),
            ("frontend = \"https://f\"\nca = \"\"\n", "`token`"),
        ] {
            let error = read(text).expect_err("a key is missing").to_string();
            assert!(error.ends_with(&format!("it lacks {key}")) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn the_key_stays_the_same_until_there_is_an_identity() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = pending(folder.path()).expect("made");
        assert_eq!(pending(folder.path()).expect("kept").0, first.0);
        let path = folder.path().join(FOLDER).join(PENDING);
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).expect("there").permissions());
        assert_eq!(mode & 0o777, 0o600);
        // One that was cut off is made anew.
        fs::write(&path, &first.0[..40]).expect("written");
        assert_ne!(pending(folder.path()).expect("made").0, first.0);
    }

    #[tokio::test]
    async fn a_token_is_shown_with_the_same_key_until_it_is_heard() {
        let folder = tempfile::tempdir().expect("a folder");
        let (given, _) = answer();
        // Nobody listens there.
        let (frontend, token) = ("https://127.0.0.1:1".to_owned(), Some(JoinToken("t".into())));
        let join = Join { frontend, token, identity: None, enrolment: None, ca: given.ca };
        let mut keys = Vec::new();
        for _ in 0..2 {
            assert!(enrol(folder.path(), &join, Facts::default(), now()).await.is_err());
            keys.push(fs::read(folder.path().join(FOLDER).join(PENDING)).expect("kept"));
        }
        assert_eq!(keys[0], keys[1]);
    }

    /// All files of the identity in `state`.
    fn all(state: &Path) -> Vec<(String, Vec<u8>)> {
        ["key.pem", "cert.pem", "ca.pem", "identity.json"]
            .map(|name| (name.to_owned(), fs::read(state.join(FOLDER).join(name)).expect("a file")))
            .to_vec()
    }

    #[test]
    fn an_identity_that_is_replaced_is_the_old_or_the_new_one_wherever_it_is_cut_off() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path();
        let ((first, old_key), (second, new_key)) = (answer(), answer());
        let put = |(name, bytes): &(String, Vec<u8>)| fs::write(state.join(FOLDER).join(name), bytes).expect("written");
        store(state, "https://f", &first, &old_key, now()).expect("stored");
        let old = all(state);
        store(state, "https://f", &second, &new_key, now()).expect("stored");
        let new = all(state);
        assert!(old.iter().zip(&new).all(|(old, new)| old != new));
        // In the order in which they are written: the description, then what follows from it.
        let order: Vec<&(String, Vec<u8>)> = new.iter().cycle().skip(3).take(4).collect();
        assert_eq!(order[0].0, "identity.json");
        for written in 0..=order.len() {
            old.iter().for_each(put);
            order[..written].iter().for_each(|file| put(file));
            // Half of the next one is beside its place.
            fs::write(state.join(FOLDER).join(".identity.json.new"), b"{").expect("written");
            let identity = Identity::load(state).expect("it can be used").expect("it is there");
            identity.client().expect("key and certificate fit");
            let (_, _, key) = identity.documents().expect("they are there");
            assert_eq!(key, if written == 0 { old_key.clone() } else { new_key.clone() }, "after {written}");
            // Other programs see what we see.
            assert_eq!(all(state), if written == 0 { old.clone() } else { new.clone() }, "after {written}");
        }
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(state.join(FOLDER).join("identity.json")).expect("there").permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_an_agent_from_before_kept_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let (given, key) = answer();
        let made = store(folder.path(), "https://f", &given, &key, now()).expect("stored");
        let old = Identity { documents: None, ..made };
        let json = serde_json::to_vec(&old).expect("json");
        assert!(!String::from_utf8_lossy(&json).contains("documents"));
        fs::write(folder.path().join(FOLDER).join("identity.json"), json).expect("written");
        let before = all(folder.path());
        let read = Identity::load(folder.path()).expect("it can be used").expect("it is there");
        assert_eq!(read.documents().expect("they are there").2, key);
        assert_eq!(all(folder.path()), before);
        assert!(!read.is_over(now()) && read.is_over("2030-01-08T00:00:01Z".parse().expect("a time")));
    }
}
