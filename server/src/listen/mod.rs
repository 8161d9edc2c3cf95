//! The public listener: agents, over TLS with client certificates.
//!
//! Who calls is read from the certificate and from nowhere else. A request for a kickstart may wait until it changes; that costs
//! a connection and a task, and no look at the store. Everything is bounded: connections, handshakes, headers, bodies, time.

mod kickstart;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::{SignedDuration, Timestamp};
use rocks_common::ids::{Digest, HostName};
use rocks_common::limits;
use rocks_common::wire::{EnrolRequest, EnrolResponse, Facts, JoinToken, Problem, RenewRequest, Report, path};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::ca::{Authority, CaError, Issued, hex, key_of_request};
use crate::config::Config;
use crate::connections;
use crate::enrol;
use crate::finish::finish;
use crate::identity::Certificates;
use crate::kickstart::Service;
use crate::metrics::Metrics;
use crate::mirror::serve::{Body, MirrorRoot};
use crate::near::Near;
use crate::provision::Provisions;
use crate::revoked::Revoked;
use crate::rollout::Heard;
use crate::store::{NewCertificate, Proof, Store, StoreError};

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(15);
/// How long the head of a request may take to come, and how long a connection may be idle.
const HEAD: Duration = Duration::from_secs(60);
/// How long the body of a request may take to come.
const BODY: Duration = Duration::from_secs(60);

/// Enrolments that are worked on at the same time; making a certificate costs a signature and two writes to disk.
const ENROLMENTS: usize = 64;
/// How long a request of a host waits for another one of it that needs the store.
const TURN: Duration = Duration::from_secs(10);
const ONE_AT_A_TIME: &str = "too many requests of this host at once";
/// How long answers that are under way may take when the frontend ends.
pub const DRAIN: Duration = Duration::from_secs(5);
/// The header that names a request in logs and in answers.
const REQUEST_ID: &str = "x-request-id";

pub(crate) type Reply = Response<Full<Bytes>>;

/// All that requests need.
pub struct Public {
    /// The store.
    pub store: Store,
    /// The authority.
    pub authority: Arc<Authority>,
    /// The kickstarts.
    pub service: Arc<Service>,
    /// The configuration.
    pub config: Arc<Config>,
    /// Which certificates were revoked.
    pub revoked: Revoked,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The RPM mirror.
    pub mirror: MirrorRoot,
    /// Where packages come from beside the mirror.
    pub near: Near,
    /// Places for enrolments.
    pub enrolling: Semaphore,
    /// AWS's certificates, for instances that nobody announced.
    pub certificates: Certificates,
    /// Who is asked whether such an instance is there, if somebody is.
    pub cloud: Option<Arc<Provisions>>,
    /// Whether the frontend is ending: nobody is kept waiting then.
    pub ending: watch::Receiver<bool>,
}

impl Public {
    /// Places for enrolments that nobody has taken.
    #[must_use]
    pub fn enrolments() -> Semaphore {
        Semaphore::new(ENROLMENTS)
    }
}

/// Who is at the other end.
#[derive(Debug, Clone)]
struct Caller {
    host: HostName,
    serial: String,
    /// When the certificate ends, in seconds since 1970.
    not_after: i64,
}

/// The TLS configuration: our certificate, and client certificates of our authority if shown.
///
/// # Errors
/// A certificate cannot be made.
pub fn tls(authority: &Authority, names: &[String]) -> Result<Arc<ServerConfig>, CaError> {
    let refuse = |error: &dyn std::fmt::Display| CaError::Request(error.to_string());
    let (certificate, key, roots) = authority.tls_parts(names)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|e| refuse(&e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| refuse(&e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate], key)
        .map_err(|e| refuse(&e))?;
    config.send_tls13_tickets = 1;
    config.max_fragment_size = None;
    Ok(Arc::new(config))
}

/// Serves until `public.ending` says that it is enough, and then until what is under way is answered, but no longer than [`DRAIN`].
pub async fn serve(public: Arc<Public>, listener: TcpListener, tls: watch::Receiver<Arc<ServerConfig>>) {
    let most = u32::try_from(connections::most(public.config.max_connections)).unwrap_or(u32::MAX >> 4);
    let places = Arc::new(Semaphore::new(most as usize));
    let mut ending = public.ending.clone();
    loop {
        let accepted = tokio::select! {
            _ = ending.wait_for(|ending| *ending) => break,
            accepted = async {
                let place = places.clone().acquire_owned().await;
                (listener.accept().await, place)
            } => accepted,
        };
        let (stream, place) = match accepted {
            (_, Err(_)) => return,
            (Ok((stream, _)), Ok(place)) => (stream, place),
            (Err(error), _) => {
                // Out of descriptors, most likely: others must end first.
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (public, acceptor) = (public.clone(), TlsAcceptor::from(tls.borrow().clone()));
        tokio::spawn(async move {
            public.metrics.connections.inc();
            connection(&public, acceptor, stream).await;
            public.metrics.connections.dec();
            drop(place);
        });
    }
    drop(listener);
    // All places are free when the last connection has ended.
    let _ = timeout(DRAIN, places.acquire_many(most)).await;
}

async fn connection(public: &Arc<Public>, acceptor: TlsAcceptor, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = connections::keep_alive(&stream);
    // In a box of its own, which is gone when hands have been shaken: most connections only wait.
    let handshake = Box::pin(timeout(HANDSHAKE, acceptor.accept(stream)));
    let Ok(Ok(stream)) = handshake.await else {
        public.metrics.handshakes_failed.inc();
        return;
    };
    let caller = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).and_then(|der| caller_of(der));
    let caller = caller.map(Arc::new);
    let service = service_fn(|request| {
        let (public, caller) = (public.clone(), caller.clone());
        async move { Ok::<_, Infallible>(answer(&public, caller, request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    let mut ending = public.ending.clone();
    tokio::select! {
        _ = &mut served => return,
        _ = ending.wait_for(|ending| *ending) => served.as_mut().graceful_shutdown(),
    }
    let _ = served.await;
}

fn caller_of(der: &CertificateDer<'_>) -> Option<Caller> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    let not_after = certificate.validity().not_after.timestamp();
    Some(Caller { host: name.parse().ok()?, serial: hex(certificate.raw_serial()), not_after })
}

/// The host that a certificate of our authority is for.
#[must_use]
pub fn host_of(der: &CertificateDer<'_>) -> Option<String> {
    caller_of(der).map(|caller| caller.host.to_string())
}

/// The host that a certificate of our authority is for, and its serial number.
#[must_use]
pub fn identity_of(der: &CertificateDer<'_>) -> Option<(HostName, String)> {
    caller_of(der).map(|caller| (caller.host, caller.serial))
}

/// Answers a request; files of the mirror come in pieces, everything else is whole.
async fn answer(public: &Arc<Public>, caller: Option<Arc<Caller>>, request: Request<Incoming>) -> Response<Body> {
    let id = request_id(request.headers());
    let mut response = answer_plain(public, caller, request).await;
    if response.status().is_server_error() {
        tracing::error!(request = %id.to_str().unwrap_or_default(), status = response.status().as_u16(), "a request failed");
    }
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// What the caller calls the request, if that is a word; else a word of ours.
fn request_id(headers: &http::HeaderMap) -> HeaderValue {
    static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let is_word = |value: &&HeaderValue| {
        let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        (1..=64).contains(&value.len()) && value.as_bytes().iter().all(plain)
    };
    headers.get(REQUEST_ID).filter(is_word).cloned().unwrap_or_else(|| {
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        HeaderValue::from_str(&format!("{:x}-{number:x}", std::process::id())).unwrap_or(HeaderValue::from_static("-"))
    })
}

async fn answer_plain(public: &Arc<Public>, caller: Option<Arc<Caller>>, request: Request<Incoming>) -> Response<Body> {
    let is_mirror =
        matches!(*request.method(), Method::GET | Method::HEAD) && request.uri().path().starts_with(path::MIRROR);
    if is_mirror && caller.as_ref().is_some_and(|caller| refusal(public, caller).is_none()) {
        public.metrics.requests.inc();
        if let Some(reply) = public.near.elsewhere(request.uri().path(), request.headers()).await {
            public.metrics.mirror_redirects.inc();
            return reply.map(|body| body.map_err(|never| match never {}).boxed());
        }
        return Box::pin(crate::mirror::serve::handle(&public.mirror, request)).await;
    }
    let reply = if *request.method() == Method::POST {
        let public = public.clone();
        finish(async move { answer_whole(&public, caller, request).await }).await
    } else {
        answer_whole(public, caller, request).await
    };
    reply.map(|body| body.map_err(|never| match never {}).boxed())
}

fn is_revoked() -> Reply {
    problem(StatusCode::FORBIDDEN, "certificate-revoked", "this certificate was revoked")
}

/// Why a certificate that was good when the connection was made is not any more.
fn refusal(public: &Public, caller: &Caller) -> Option<Reply> {
    if public.revoked.contains(&caller.serial) {
        return Some(is_revoked());
    }
    let over = Timestamp::now().as_second() > caller.not_after;
    over.then(|| problem(StatusCode::UNAUTHORIZED, "certificate-expired", "this certificate has ended"))
}

async fn answer_whole(public: &Arc<Public>, caller: Option<Arc<Caller>>, request: Request<Incoming>) -> Reply {
    public.metrics.requests.inc();
    let path = request.uri().path();
    if path == path::ENROL {
        return match *request.method() {
            Method::POST => Box::pin(enrol(public, request)).await,
            _ => problem(StatusCode::METHOD_NOT_ALLOWED, "method", "only POST is answered here"),
        };
    }
    let Some(caller) = caller else {
        return problem(
            StatusCode::UNAUTHORIZED,
            "certificate-required",
            "a client certificate of this frontend is required",
        );
    };
    if let Some(refusal) = refusal(public, &caller) {
        return refusal;
    }
    match (request.method().clone(), path) {
        (Method::GET, path::KICKSTART | path::KICKSTART_CGI) => {
            let asked = kickstart::Asked::of(request.headers());
            // Its buffer is of use to the connection while the request waits.
            drop(request);
            kickstart::answer(public, &caller, asked).await
        }
        (Method::GET, path::SOURCES) => {
            let slot = public.service.slot(&caller.host);
            let Some(_turn) = slot.turn(TURN).await else { return busy(ONE_AT_A_TIME) };
            public.near.sources(&public.service, &caller.host).await.unwrap_or_else(|error| internal(&error))
        }
        (Method::GET, of) if of.starts_with(path::INDEX) => public.near.index(of, request.headers()).await,
        (Method::POST, path::REPORTS) => Box::pin(report(public, &caller, request)).await,
        (Method::POST, path::RENEW) => Box::pin(renew(public, &caller, request)).await,
        _ => problem(StatusCode::NOT_FOUND, "not-found", "there is nothing here"),
    }
}

/// An error as RFC 9457 wants it.
pub fn problem(status: StatusCode, code: &str, title: &str) -> Reply {
    let problem =
        Problem { code: code.to_owned(), title: title.to_owned(), status: status.as_u16(), detail: None, hint: None };
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    response
}

fn busy(title: &str) -> Reply {
    let mut reply = problem(StatusCode::TOO_MANY_REQUESTS, "busy", title);
    reply.headers_mut().insert("retry-after", HeaderValue::from_static("1"));
    reply
}

pub(crate) fn internal(error: &dyn std::fmt::Display) -> Reply {
    tracing::error!("a request failed: {error}");
    problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the frontend could not do it; its log says why")
}

async fn body<T: serde::de::DeserializeOwned>(request: Request<Incoming>, limit: usize) -> Result<T, Box<Reply>> {
    let collected = timeout(BODY, Limited::new(request.into_body(), limit).collect()).await;
    let bytes = match collected {
        Err(_) => {
            return Err(Box::new(problem(StatusCode::REQUEST_TIMEOUT, "slow", "the request's body took too long")));
        }
        Ok(Err(_)) => {
            return Err(Box::new(problem(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too-large",
                "the request's body is cut or too large",
            )));
        }
        Ok(Ok(collected)) => collected.to_bytes(),
    };
    serde_json::from_slice(&bytes).map_err(|error| {
        Box::new(problem(StatusCode::BAD_REQUEST, "bad-request", &format!("the body is not valid: {error}")))
    })
}

/// The hash by which a token is kept.
#[must_use]
pub fn token_hash(token: &JoinToken) -> Digest {
    Digest::of_fields(&[b"rocks token", token.0.as_bytes()])
}

/// A new token for the administrator, kept in the store as its hash.
///
/// # Errors
/// The store's.
pub async fn make_token(store: &Store, host: &HostName, hours: u32, now: Timestamp) -> Result<JoinToken, StoreError> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| StoreError::Conflict("no randomness".to_owned()))?;
    let token = JoinToken(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes));
    let (now, expires) = (now.as_second(), now.as_second() + i64::from(hours) * 3600);
    store.add_token_by_hand(host, &token_hash(&token), expires, now).await?;
    Ok(token)
}

async fn enrol(public: &Arc<Public>, request: Request<Incoming>) -> Reply {
    let request: EnrolRequest = match body(request, limits::ENROL_BYTES).await {
        Ok(request) => request,
        Err(reply) => return *reply,
    };
    // Only now: who sends slowly must not keep others out.
    let Ok(place) = public.enrolling.try_acquire() else {
        return busy("too many enrolments at once");
    };
    let now = Timestamp::now();
    let reply = match (&request.token, &request.identity) {
        (Some(token), None) => by_token(public, token, &request, now).await,
        (None, Some(shown)) => enrol::by_identity(public, shown, &request, now, place).await,
        _ => problem(StatusCode::BAD_REQUEST, "bad-request", "either a join token or an instance identity is needed"),
    };
    match reply.status() {
        StatusCode::OK => public.metrics.enrolments.inc(),
        StatusCode::FORBIDDEN => public.metrics.enrolments_refused.inc(),
        _ => 0,
    };
    reply
}

async fn by_token(public: &Public, token: &JoinToken, request: &EnrolRequest, now: Timestamp) -> Reply {
    let hash = token_hash(token);
    match public.store.knows_token(&hash, now.as_second()).await {
        Err(error) => internal(&error),
        Ok(None) => problem(StatusCode::FORBIDDEN, "token-refused", "the join token is not valid"),
        // A certificate request that is none does not cost the token; and of several keys that have the same token one
        // takes it.
        Ok(Some(host)) => match key_of_request(&request.csr) {
            Ok(key) => give(public, &host, &request.csr, &request.facts, Proof::Token(&hash, &key), now).await,
            Err(error) => problem(StatusCode::BAD_REQUEST, "bad-csr", &error.to_string()),
        },
    }
}

async fn renew(public: &Arc<Public>, caller: &Caller, request: Request<Incoming>) -> Reply {
    match body::<RenewRequest>(request, limits::ENROL_BYTES).await {
        Err(reply) => *reply,
        Ok(request) => {
            let slot = public.service.slot(&caller.host);
            let Some(_turn) = slot.turn(TURN).await else { return busy(ONE_AT_A_TIME) };
            let proof = Proof::Former(&caller.serial, caller.not_after);
            give(public, &caller.host, &request.csr, &request.facts, proof, Timestamp::now()).await
        }
    }
}

/// Gives a certificate to `host`, for a token or another certificate: a token is taken when the certificate is noted, and not otherwise.
async fn give(public: &Public, host: &HostName, csr: &str, facts: &Facts, proof: Proof<'_>, now: Timestamp) -> Reply {
    let issued = match issue(public, host, csr, now) {
        Ok(issued) => issued,
        Err(reply) => return *reply,
    };
    let certificate = NewCertificate { serial: &issued.serial, host, not_after: issued.not_after.as_second(), facts };
    match public.store.add_certificate(&certificate, proof, now.as_second()).await {
        Ok(()) => {}
        Err(StoreError::Missing { kind: "certificate", .. }) => return is_revoked(),
        // The token was taken with another key, or the host is not there any more.
        Err(StoreError::Missing { .. }) => {
            return problem(StatusCode::FORBIDDEN, "token-refused", "the join token is not valid");
        }
        Err(error) => return internal(&error),
    }
    hand_over(public, host, issued)
}

/// Makes a certificate for `host`. It must be noted before it is handed over.
pub(crate) fn issue(public: &Public, host: &HostName, csr: &str, now: Timestamp) -> Result<Issued, Box<Reply>> {
    let life = SignedDuration::from_hours(i64::from(public.config.certificate_hours));
    let issued = public.authority.client(host, csr, life, now);
    issued.map_err(|error| Box::new(problem(StatusCode::BAD_REQUEST, "bad-csr", &error.to_string())))
}

/// The answer that gives a certificate.
pub(crate) fn hand_over(public: &Public, host: &HostName, issued: Issued) -> Reply {
    let answer = EnrolResponse {
        host: host.clone(),
        certificate: issued.certificate,
        ca: public.authority.certificate().to_owned(),
        seal_key: public.authority.sealer.public(),
        not_after: issued.not_after,
    };
    match serde_json::to_vec(&answer) {
        Err(error) => internal(&error),
        Ok(json) => {
            let mut response = Response::new(Full::new(Bytes::from(json)));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
    }
}

async fn report(public: &Public, caller: &Caller, request: Request<Incoming>) -> Reply {
    let report: Report = match body(request, limits::REPORT_BYTES).await {
        Ok(report) => report,
        Err(reply) => return *reply,
    };
    let slot = public.service.slot(&caller.host);
    let Some(_turn) = slot.turn(TURN).await else { return busy(ONE_AT_A_TIME) };
    // That may have taken a while, and its body, too.
    if let Some(refusal) = refusal(public, caller) {
        return refusal;
    }
    public.metrics.reports.inc();
    match public.store.add_report(&caller.host, &report, Timestamp::now().as_second()).await {
        Err(error) => internal(&error),
        Ok(()) => {
            let heard = Heard { host: caller.host.clone(), kickstart: report.kickstart, outcome: report.outcome };
            public.service.rollouts().heard(heard).await;
            let mut response = Response::new(Full::new(Bytes::new()));
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
    }
}

/// Binds the listener.
///
/// # Errors
/// The address is in use, or not ours.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}
