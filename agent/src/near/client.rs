//! One HTTP server and the connections to it that are kept: a request takes one, and gives it back when the answer was read to its end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{HOST, LOCATION};
use http::{HeaderName, HeaderValue, Request, StatusCode, Uri, response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Connections to one server at a time.
const CONNECTIONS: usize = 32;

/// Why a server gave no answer, or not all of it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// It cannot be reached, or is not who it should be.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// It says nothing.
    #[error("it is silent")]
    Silent,
    /// It says something now and then, and not enough of it.
    #[error("it is too slow")]
    Slow,
    /// It broke off.
    #[error("it broke off: {0}")]
    Broken(String),
    /// What it says is no answer.
    #[error("{0}")]
    Bad(String),
}

/// How long a server may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// To be connected to, TLS included.
    pub connect: Duration,
    /// To say the next word.
    pub silence: Duration,
}

/// How fast a server must be that there is another for: one that says a word whenever patience is about to end could
/// keep us for ever.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Bytes a second at least, while something is waited for.
    pub least: u64,
    /// How long an answer may take that is of use only as a whole.
    pub whole: Duration,
}

impl Pace {
    /// That of a server that there is no other for.
    pub const ANY: Self = Self { least: 0, whole: Duration::from_secs(600) };
}

/// What TLS needs: whom we trust and who we are, and whom we expect.
pub type Tls = (Arc<ClientConfig>, ServerName<'static>);

/// A server.
pub struct Endpoint {
    host: String,
    port: u16,
    /// What it is called in requests.
    authority: String,
    tls: Mutex<Option<Tls>>,
    patience: Patience,
    pace: Pace,
    idle: Mutex<Vec<SendRequest<Empty<Bytes>>>>,
    places: Arc<Semaphore>,
}

impl Endpoint {
    /// The server at `host` and `port`; nothing is connected yet.
    #[must_use]
    pub fn new(host: &str, port: u16, tls: Option<Tls>, patience: Patience) -> Arc<Self> {
        Self::paced(host, port, tls, patience, Pace::ANY)
    }

    /// The same, of a server that must keep a pace.
    #[must_use]
    pub fn paced(host: &str, port: u16, tls: Option<Tls>, patience: Patience, pace: Pace) -> Arc<Self> {
        // Presigned requests are signed with the name as it stands in the URL.
        let usual = if tls.is_some() { 443 } else { 80 };
        let named = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let authority = if port == usual { named } else { format!("{named}:{port}") };
        Arc::new(Self {
            host: host.to_owned(),
            port,
            authority,
            tls: Mutex::new(tls),
            patience,
            pace,
            idle: Mutex::default(),
            places: Arc::new(Semaphore::new(CONNECTIONS)),
        })
    }

    /// How fast it must be.
    #[must_use]
    pub fn pace(&self) -> Pace {
        self.pace
    }

    /// From now on new connections are made with `tls`: a certificate was renewed.
    pub fn renew(&self, tls: Tls) {
        *self.tls.lock().unwrap_or_else(PoisonError::into_inner) = Some(tls);
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>, ClientError> {
        let fail = |error: &dyn std::fmt::Display| ClientError::Unreachable(error.to_string());
        let tls = self.tls.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let connected = timeout(self.patience.connect, async {
            let tcp = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|error| fail(&error))?;
            let _ = tcp.set_nodelay(true);
            Ok(match tls {
                None => {
                    let (sender, connection) = handshake(TokioIo::new(tcp)).await.map_err(|error| fail(&error))?;
                    tokio::spawn(async move { drop(connection.await) });
                    sender
                }
                Some((config, name)) => {
                    let tls = TlsConnector::from(config).connect(name, tcp).await.map_err(|error| fail(&error))?;
                    let (sender, connection) = handshake(TokioIo::new(tls)).await.map_err(|error| fail(&error))?;
                    tokio::spawn(async move { drop(connection.await) });
                    sender
                }
            })
        });
        connected.await.map_err(|_| fail(&"connecting took too long"))?
    }

    fn kept(&self) -> Option<SendRequest<Empty<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|sender| !sender.is_closed());
        idle.pop()
    }

    /// Asks for `path`, and gives the answer as soon as its head is there.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get(self: &Arc<Self>, path: &str, headers: &[(HeaderName, String)]) -> Result<Answer, ClientError> {
        let bad = |error: &dyn std::fmt::Display| ClientError::Bad(error.to_string());
        let uri: Uri = path.parse().map_err(|error| bad(&error))?;
        let place = self.places.clone().acquire_owned().await.map_err(|error| bad(&error))?;
        loop {
            let kept = self.kept();
            let is_fresh = kept.is_none();
            let mut sender = match kept {
                Some(sender) => sender,
                None => self.connect().await?,
            };
            let mut request = Request::new(Empty::new());
            *request.uri_mut() = uri.clone();
            let host = HeaderValue::from_str(&self.authority).map_err(|error| bad(&error))?;
            request.headers_mut().insert(HOST, host);
            for (name, value) in headers {
                let value = HeaderValue::from_str(value).map_err(|error| bad(&error))?;
                request.headers_mut().insert(name, value);
            }
            let answered = timeout(self.patience.silence, async {
                sender.ready().await?;
                sender.send_request(request).await
            });
            match answered.await {
                Err(_) => return Err(ClientError::Silent),
                // A kept connection may have been closed meanwhile: then once more.
                Ok(Err(_)) if !is_fresh => {}
                Ok(Err(error)) => return Err(ClientError::Broken(error.to_string())),
                Ok(Ok(response)) => {
                    let (head, body) = response.into_parts();
                    let of = self.clone();
                    let (waited, came) = (Duration::ZERO, 0);
                    return Ok(Answer { head, body, sender: Some(sender), of, waited, came, _place: place });
                }
            }
        }
    }
}

/// An answer whose body is still to be read.
pub struct Answer {
    /// Its head.
    pub head: response::Parts,
    body: Incoming,
    sender: Option<SendRequest<Empty<Bytes>>>,
    of: Arc<Endpoint>,
    /// How long it was waited for since its pace was looked at last; what is done with the bytes takes its own time.
    waited: Duration,
    /// Bytes that came meanwhile.
    came: u64,
    _place: OwnedSemaphorePermit,
}

impl Answer {
    /// Its status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    /// The text of a header; empty if there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Where the answer says that what was asked for is.
    #[must_use]
    pub fn location(&self) -> Option<Uri> {
        self.header(LOCATION.as_str()).parse().ok()
    }

    /// The next bytes; nothing at the end.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            let began = Instant::now();
            let frame = timeout(self.of.patience.silence, self.body.frame()).await;
            self.waited += began.elapsed();
            match frame {
                Err(_) => return Err(ClientError::Silent),
                Ok(Some(Err(error))) => return Err(ClientError::Broken(error.to_string())),
                Ok(Some(Ok(frame))) => {
                    let bytes = frame.into_data().ok();
                    self.keeps_pace(bytes.as_ref().map_or(0, Bytes::len))?;
                    if bytes.is_some() {
                        return Ok(bytes);
                    }
                }
                Ok(None) => {
                    if let Some(sender) = self.sender.take() {
                        self.of.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
                    }
                    return Ok(None);
                }
            }
        }
    }

    /// Looks at the pace whenever it was waited for as long as somebody may be silent.
    fn keeps_pace(&mut self, bytes: usize) -> Result<(), ClientError> {
        self.came += bytes as u64;
        if self.waited < self.of.patience.silence {
            return Ok(());
        }
        let least = self.of.pace.least.saturating_mul(self.waited.as_secs().max(1));
        if self.came < least {
            return Err(ClientError::Slow);
        }
        (self.waited, self.came) = (Duration::ZERO, 0);
        Ok(())
    }

    /// All of it, at most `limit` bytes.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn whole(mut self, limit: usize) -> Result<Vec<u8>, ClientError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if bytes.len() + chunk.len() > limit {
                return Err(ClientError::Bad(format!("its answer has more than {limit} bytes")));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}
