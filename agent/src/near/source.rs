//! Where files come from: relays, a bucket, the frontend. None of them is trusted for what it gives.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use http::{HeaderName, StatusCode, Uri};
use rocks_common::ids::ArchName;
use rocks_common::index::Entry;
use rocks_common::wire::{header, path};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;

use super::client::{Answer, ClientError, Endpoint, Pace, Patience};

/// How long a source may take that there is another for.
pub const NEAR: Patience = Patience { connect: Duration::from_secs(3), silence: Duration::from_secs(10) };
/// How fast it must be. Little, because a relay may be waiting for a frontend that is far away, and many files come at
/// once.
pub const NEAR_PACE: Pace = Pace { least: 16 << 10, whole: Duration::from_secs(30) };
/// How long the frontend may take.
pub const FAR: Patience = Patience { connect: Duration::from_secs(20), silence: Duration::from_secs(60) };

/// A file of the mirror that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The architecture whose repository it is in.
    pub arch: ArchName,
    /// Its path there.
    pub path: String,
    /// What it must be.
    pub entry: Entry,
}

/// Why a source does not give a file.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SourceError {
    /// It has no such file: no fault of its own.
    #[error("it does not have it")]
    Lacks,
    /// It says something else than it should.
    #[error("it answers {0}")]
    Status(StatusCode),
    /// It cannot be reached, or broke off.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// What a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A relay.
    Relay,
    /// The bucket, which the frontend says the way to.
    Bucket,
    /// The frontend.
    Frontend,
}

/// A source.
pub struct Source {
    /// What it is.
    pub kind: Kind,
    /// What people call it.
    pub name: String,
    endpoint: Arc<Endpoint>,
    buckets: Option<Arc<Buckets>>,
    /// Whether it is asked last.
    last: AtomicBool,
    /// What it did wrong, for people; it is told once.
    fault: Mutex<Option<String>>,
    /// Bytes that came from it.
    given: AtomicU64,
}

impl Source {
    /// A source that answers at `endpoint`.
    #[must_use]
    pub fn new(kind: Kind, name: impl Into<String>, endpoint: Arc<Endpoint>) -> Self {
        let (last, fault, given) = (AtomicBool::new(false), Mutex::default(), AtomicU64::new(0));
        Self { kind, name: name.into(), endpoint, buckets: None, last, fault, given }
    }

    /// The bucket that the frontend at `endpoint` says the way to.
    #[must_use]
    pub fn bucket(endpoint: Arc<Endpoint>, buckets: Arc<Buckets>) -> Self {
        Self { buckets: Some(buckets), ..Self::new(Kind::Bucket, "the bucket", endpoint) }
    }

    /// Where it answers.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Whether it did something wrong and is asked after all others.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.last.load(Ordering::Relaxed)
    }

    /// Takes note that it did something wrong with `what`: it is asked last from now on.
    pub fn blame(&self, what: &str, why: &dyn std::fmt::Display) {
        tracing::warn!("{} from {}: {why}; it is asked last from now on", what, self.name);
        self.last.store(true, Ordering::Relaxed);
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        fault.get_or_insert_with(|| format!("{what}: {why}"));
    }

    /// What it did wrong first, if anything.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes note of bytes that came.
    pub fn gave(&self, bytes: usize) {
        self.given.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes that came from it, right or wrong.
    #[must_use]
    pub fn given(&self) -> u64 {
        self.given.load(Ordering::Relaxed)
    }

    /// Asks for `wanted` from `offset` on. What is given has the right length if it has one at all.
    ///
    /// # Errors
    /// See [`SourceError`].
    pub async fn open(&self, wanted: &Wanted, offset: u64) -> Result<Answer, SourceError> {
        let place = format!("{}/{}/{}", path::MIRROR, wanted.arch, wanted.path);
        let mut headers = Vec::new();
        if offset > 0 {
            headers.push((RANGE, format!("bytes={offset}-")));
        }
        let answer = if let Some(buckets) = &self.buckets {
            headers.push((HeaderName::from_static(header::NEAR), "bucket".to_owned()));
            let answer = self.endpoint.get(&place, &headers).await?;
            match answer.location() {
                Some(location) if answer.status() == StatusCode::TEMPORARY_REDIRECT => {
                    headers.pop();
                    let place = location.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
                    let bucket = buckets.at(&location)?;
                    // The frontend's connection is free again once the rest of its answer is read.
                    answer.whole(1 << 16).await?;
                    bucket.get(&place, &headers).await?
                }
                _ => answer,
            }
        } else {
            self.endpoint.get(&place, &headers).await?
        };
        match answer.status() {
            StatusCode::OK if offset == 0 => {}
            StatusCode::PARTIAL_CONTENT
                if answer.header(CONTENT_RANGE.as_str()).starts_with(&format!("bytes {offset}-")) => {}
            StatusCode::NOT_FOUND | StatusCode::GONE => return Err(SourceError::Lacks),
            other => return Err(SourceError::Status(other)),
        }
        let length = answer.header(CONTENT_LENGTH.as_str());
        if !length.is_empty() && length.parse() != Ok(wanted.entry.size - offset) {
            return Err(
                ClientError::Bad(format!("it has {length} bytes and not {}", wanted.entry.size - offset)).into()
            );
        }
        Ok(answer)
    }
}

/// The servers that buckets are at. They are shown no certificate of ours, and are judged as the system judges servers.
pub struct Buckets {
    tls: Arc<ClientConfig>,
    known: Mutex<HashMap<String, Arc<Endpoint>>>,
}

impl Buckets {
    /// None yet; `tls` trusts whom the system trusts.
    #[must_use]
    pub fn new(tls: Arc<ClientConfig>) -> Arc<Self> {
        Arc::new(Self { tls, known: Mutex::default() })
    }

    fn at(&self, location: &Uri) -> Result<Arc<Endpoint>, ClientError> {
        let bad = || ClientError::Bad("the way to the bucket is no address".to_owned());
        let (scheme, host) = (location.scheme_str().ok_or_else(bad)?, location.host().ok_or_else(bad)?);
        let host = host.trim_matches(['[', ']']);
        let (usual, tls) = match scheme {
            "https" => {
                let name = ServerName::try_from(host.to_owned()).map_err(|_| bad())?;
                (443, Some((self.tls.clone(), name)))
            }
            // A store in the same place, as tests have it: what comes is checked all the same.
            "http" => (80, None),
            _ => return Err(bad()),
        };
        let port = location.port_u16().unwrap_or(usual);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let endpoint = known.entry(format!("{scheme}://{host}:{port}"));
        Ok(endpoint.or_insert_with(|| Endpoint::paced(host, port, tls, NEAR, NEAR_PACE)).clone())
    }
}
