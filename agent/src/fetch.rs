//! Speaking with the frontend: one kept connection, HTTP/1.1 over TLS, every answer bounded and timed.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HOST, IF_NONE_MATCH, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rocks_common::ids::{Digest, Generation, HostName};
use rocks_common::limits;
use rocks_common::seal::{Claim, SealKey};
use rocks_common::wire::{self, EnrolRequest, EnrolResponse, Problem, RenewRequest, Report, header, path};
use rustix::net::sockopt;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// How long connecting, TLS included, may take.
const CONNECT: Duration = Duration::from_secs(20);
/// How long an answer may take that does not wait for a change.
const ANSWER: Duration = Duration::from_secs(60);

/// How long a connection is silent before the other end is asked whether it is there: less than the 350 s after which
/// NAT gateways and load balancers forget a connection, without a word to anybody.
const KEEP_IDLE: Duration = Duration::from_secs(60);
/// How long until it is asked again when it does not answer, and how often.
const KEEP_EVERY: Duration = Duration::from_secs(15);
const KEEP_PROBES: u32 = 4;

/// Why there is no answer to use.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The frontend cannot be reached, or broke off.
    #[error("the frontend {frontend} cannot be reached: {why}")]
    Network {
        /// Its address.
        frontend: String,
        /// Why.
        why: String,
    },
    /// The frontend says no.
    #[error("the frontend refuses ({status}): {title}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The problem's code.
        code: String,
        /// What it says.
        title: String,
        /// When to come back.
        retry_after: Option<Duration>,
    },
    /// The answer cannot be trusted, or is none.
    #[error("the frontend's answer is not to be trusted: {why}")]
    Untrusted {
        /// A stable name: `bad-seal`, `older-generation`, `wrong-host`, `bad-answer`.
        code: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The address is none.
    #[error("`{0}` is not an address like https://frontend:8443")]
    Address(String),
}

/// A kickstart that was fetched and can be trusted.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Its text.
    pub text: String,
    /// Its digest.
    pub digest: Digest,
    /// Its generation.
    pub generation: Generation,
}

/// What the agent knows when it asks.
#[derive(Debug, Clone)]
pub struct Known {
    /// The digest of the kickstart that it has.
    pub digest: Option<Digest>,
    /// The highest generation that it has accepted.
    pub generation: Generation,
    /// Who it is.
    pub host: HostName,
    /// Whose seals it trusts.
    pub seal_key: SealKey,
}

/// A connection to the frontend, made when it is needed.
pub struct Client {
    frontend: String,
    host: String,
    port: u16,
    tls: Arc<ClientConfig>,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// A client of `frontend` (`https://name:port`).
    ///
    /// # Errors
    /// The address is none.
    pub fn new(frontend: &str, tls: Arc<ClientConfig>) -> Result<Self, FetchError> {
        let bad = || FetchError::Address(frontend.to_owned());
        let uri: Uri = frontend.parse().map_err(|_| bad())?;
        let host = uri.host().filter(|_| uri.scheme_str() == Some("https")).ok_or_else(bad)?;
        let host = host.trim_matches(['[', ']']).to_owned();
        Ok(Self { frontend: frontend.to_owned(), port: uri.port_u16().unwrap_or(443), host, tls, connection: None })
    }

    fn network(&self, why: impl std::fmt::Display) -> FetchError {
        FetchError::Network { frontend: self.frontend.clone(), why: why.to_string() }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, FetchError> {
        let name = ServerName::try_from(self.host.clone()).map_err(|_| FetchError::Address(self.frontend.clone()))?;
        let connected = timeout(CONNECT, async {
            let tcp = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|e| self.network(e))?;
            tcp.set_nodelay(true).map_err(|e| self.network(e))?;
            keep_alive(&tcp).map_err(|e| self.network(e))?;
            let tls = TlsConnector::from(self.tls.clone()).connect(name, tcp).await.map_err(|e| self.network(e))?;
            handshake(TokioIo::new(tls)).await.map_err(|e| self.network(e))
        });
        let (sender, connection) = connected.await.map_err(|_| self.network("connecting took too long"))??;
        tokio::spawn(async move {
            // Its end is seen by the next request.
            let _ = connection.await;
        });
        Ok(sender)
    }

    async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
        limit: usize,
        wait: Duration,
    ) -> Result<Response<Bytes>, FetchError> {
        let (mut parts, body) = request.into_parts();
        let authority = if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        };
        parts.headers.insert(HOST, authority.parse().map_err(|_| FetchError::Address(self.frontend.clone()))?);
        parts.headers.insert(header::PROTOCOL, http::HeaderValue::from_static(wire::PROTOCOL));
        // A kept connection may have been closed meanwhile: then once more on a new one.
        for attempt in 0..2 {
            let kept = self.connection.take().filter(|connection| !connection.is_closed());
            let fresh = kept.is_none();
            let mut sender = match kept {
                Some(sender) => sender,
                None => self.connect().await?,
            };
            let mut request = Request::new(body.clone());
            *request.method_mut() = parts.method.clone();
            *request.uri_mut() = parts.uri.clone();
            *request.headers_mut() = parts.headers.clone();
            let answered = timeout(wait, async {
                sender.ready().await?;
                let response = sender.send_request(request).await?;
                let (head, body) = response.into_parts();
                Ok::<_, hyper::Error>((head, Limited::new(body, limit).collect().await))
            });
            match answered.await {
                Err(_) => return Err(self.network("it did not answer in time")),
                Ok(Err(_)) if !fresh && attempt == 0 => {}
                Ok(Err(error)) => return Err(self.network(error)),
                Ok(Ok((_, Err(error)))) => return Err(self.network(error)),
                Ok(Ok((head, Ok(body)))) => {
                    self.connection = Some(sender);
                    return Ok(Response::from_parts(head, body.to_bytes()));
                }
            }
        }
        Err(self.network("it closes every connection"))
    }

    async fn post<T: serde::Serialize>(&mut self, path: &str, value: &T) -> Result<Response<Bytes>, FetchError> {
        let body = serde_json::to_vec(value).map_err(|error| self.network(error))?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| self.network(error))?;
        let response = self.send(request, limits::ENROL_BYTES * 4, ANSWER).await?;
        if response.status().is_success() { Ok(response) } else { Err(refused(&response)) }
    }

    /// Enrols.
    ///
    /// # Errors
    /// No answer, or no.
    pub async fn enrol(&mut self, request: &EnrolRequest) -> Result<EnrolResponse, FetchError> {
        decode(&self.post(path::ENROL, request).await?)
    }

    /// Renews the certificate.
    ///
    /// # Errors
    /// No answer, or no.
    pub async fn renew(&mut self, request: &RenewRequest) -> Result<EnrolResponse, FetchError> {
        decode(&self.post(path::RENEW, request).await?)
    }

    /// Sends a report.
    ///
    /// # Errors
    /// No answer, or no.
    pub async fn report(&mut self, report: &Report) -> Result<(), FetchError> {
        self.post(path::REPORTS, report).await.map(drop)
    }

    /// Fetches the kickstart; nothing if it is the one that is known. Waits up to `wait` seconds for a change, or for there to be one.
    ///
    /// # Errors
    /// No answer, no, or an answer that cannot be trusted.
    pub async fn kickstart(&mut self, known: &Known, wait: u32) -> Result<Option<Fetched>, FetchError> {
        let mut request = Request::builder().uri(path::KICKSTART).header(ACCEPT_ENCODING, "gzip");
        if let Some(digest) = known.digest {
            request = request.header(IF_NONE_MATCH, format!("\"{digest}\""));
        }
        if known.generation > Generation(0) {
            request = request.header(header::GENERATION, known.generation.to_string());
        }
        if wait > 0 {
            request = request.header("prefer", format!("wait={wait}"));
        }
        let request = request.body(Full::new(Bytes::new())).map_err(|error| self.network(error))?;
        let patience = ANSWER + Duration::from_secs(u64::from(wait));
        let bound = usize::try_from(limits::KICKSTART_BYTES).unwrap_or(usize::MAX);
        let response = self.send(request, bound, patience).await?;
        match response.status() {
            StatusCode::NOT_MODIFIED => Ok(None),
            StatusCode::OK => trust(&response, known).map(Some),
            _ => Err(refused(&response)),
        }
    }
}

/// Keeps a connection in the memory of all that it leads through while a request waits for a change, and ends it two
/// minutes after its other end has vanished without a word.
fn keep_alive(tcp: &TcpStream) -> rustix::io::Result<()> {
    sockopt::set_tcp_keepidle(tcp, KEEP_IDLE)?;
    sockopt::set_tcp_keepintvl(tcp, KEEP_EVERY)?;
    sockopt::set_tcp_keepcnt(tcp, KEEP_PROBES)?;
    sockopt::set_socket_keepalive(tcp, true)
}

fn refused(response: &Response<Bytes>) -> FetchError {
    let problem = serde_json::from_slice::<Problem>(response.body()).ok();
    let status = response.status();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    FetchError::Refused {
        status: status.as_u16(),
        code: problem.as_ref().map_or_else(|| "http".to_owned(), |p| p.code.clone()),
        title: problem.map_or_else(|| status.canonical_reason().unwrap_or("no reason").to_owned(), |p| p.title),
        retry_after: retry_after.map(Duration::from_secs),
    }
}

fn decode<T: serde::de::DeserializeOwned>(response: &Response<Bytes>) -> Result<T, FetchError> {
    serde_json::from_slice(response.body())
        .map_err(|error| FetchError::Untrusted { code: "bad-answer", why: error.to_string() })
}

/// Checks whose the kickstart is, its digest, its seal and its generation, before anything else looks at it.
fn trust(response: &Response<Bytes>, known: &Known) -> Result<Fetched, FetchError> {
    let untrusted = |code, why: String| FetchError::Untrusted { code, why };
    let head = |name: &str| {
        let value = response.headers().get(name).and_then(|value| value.to_str().ok());
        value.ok_or_else(|| untrusted("bad-answer", format!("it has no `{name}`")))
    };
    let body = response.body();
    let gzip = response.headers().get(CONTENT_ENCODING).is_some_and(|v| v == "gzip");
    let text = if gzip {
        let mut text = Vec::new();
        let limit = limits::KICKSTART_BYTES + 1;
        flate2::read::GzDecoder::new(&body[..])
            .take(limit)
            .read_to_end(&mut text)
            .map_err(|error| untrusted("bad-answer", error.to_string()))?;
        if text.len() as u64 == limit {
            return Err(untrusted("bad-answer", "the kickstart is too large".to_owned()));
        }
        text
    } else {
        body.to_vec()
    };
    let digest = Digest::of(&text);
    if head(ETAG.as_str())?.trim_matches('"') != digest.to_string() {
        return Err(untrusted("bad-answer", "its digest is not that of its text".to_owned()));
    }
    let host: HostName = head(header::HOST)?
        .parse()
        .map_err(|e: rocks_common::ids::InvalidName| untrusted("bad-answer", e.to_string()))?;
    let generation: Generation = head(header::GENERATION)?
        .parse()
        .map_err(|e: std::num::ParseIntError| untrusted("bad-answer", e.to_string()))?;
    if host != known.host {
        return Err(untrusted("wrong-host", format!("it is for {host}, and this is {}", known.host)));
    }
    let claim = Claim { host, generation, digest };
    known.seal_key.verify(&claim, head(header::SEAL)?).map_err(|error| untrusted("bad-seal", error.to_string()))?;
    if generation < known.generation {
        let why = format!("generation {generation} is older than {}, which was accepted before", known.generation);
        return Err(untrusted("older-generation", why));
    }
    let text = String::from_utf8(text).map_err(|_| untrusted("bad-answer", "it is not UTF-8".to_owned()))?;
    Ok(Fetched { text, digest, generation })
}

#[cfg(test)]
mod tests {
    use rocks_common::seal::Sealer;

    use super::*;

    #[tokio::test]
    async fn a_connection_that_waits_is_not_forgotten_on_its_way() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let tcp = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
        keep_alive(&tcp).expect("set");
        assert!(sockopt::socket_keepalive(&tcp).expect("asked"));
        let (idle, every) = (sockopt::tcp_keepidle(&tcp).expect("asked"), sockopt::tcp_keepintvl(&tcp).expect("asked"));
        let probes = sockopt::tcp_keepcnt(&tcp).expect("asked");
        assert_eq!((idle, every, probes), (KEEP_IDLE, KEEP_EVERY, KEEP_PROBES));
        assert!(idle < Duration::from_secs(350));
    }

    #[test]
    fn only_what_is_ours_whole_sealed_and_not_older_is_trusted() {
        let sealer = Sealer::from_pkcs8(&Sealer::generate().expect("key")).expect("key");
        let known = Known {
            digest: None,
            generation: Generation(5),
            host: HostName::new("me").expect("name"),
            seal_key: sealer.public(),
        };
        let answer = |host: &str, generation: u64, text: &str, sealed: &str| {
            let claim = Claim {
                host: HostName::new(host).expect("name"),
                generation: Generation(generation),
                digest: Digest::of(sealed.as_bytes()),
            };
            Response::builder()
                .header("etag", format!("\"{}\"", Digest::of(sealed.as_bytes())))
                .header("rocks-host", host)
                .header("rocks-generation", generation.to_string())
                .header("rocks-seal", sealer.seal(&claim))
                .body(Bytes::copy_from_slice(text.as_bytes()))
                .expect("a response")
        };
        let code = |response: Response<Bytes>| match trust(&response, &known) {
            Ok(_) => "ok",
            Err(FetchError::Untrusted { code, .. }) => code,
            Err(_) => "?",
        };
        assert_eq!(code(answer("me", 5, "lang a\n", "lang a\n")), "ok");
        assert_eq!(code(answer("me", 4, "lang a\n", "lang a\n")), "older-generation");
        assert_eq!(code(answer("you", 5, "lang a\n", "lang a\n")), "wrong-host");
        assert_eq!(code(answer("me", 5, "lang b\n", "lang a\n")), "bad-answer");
        let mut forged = answer("me", 5, "lang a\n", "lang a\n");
        forged.headers_mut().insert("rocks-generation", "6".parse().expect("value"));
        assert_eq!(code(forged), "bad-seal");
    }
}
