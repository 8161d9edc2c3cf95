//! Answers those who ask for files of the mirror: a package manager on this machine, or other machines' agents.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, IF_RANGE, RANGE,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rocks_common::ids::{ArchName, Sha256};
use rocks_common::wire::path;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::catalogue::Catalogue;
use super::client::Endpoint;
use super::depot::{self, Depot, Flight, HELD_BACK, Progress, Taken};
use super::source::Wanted;

/// Bytes that are read from the disk at a time.
const PIECE: usize = 256 << 10;
/// How long the head of a request may take to come, and how long a connection may be idle.
const HEAD: Duration = Duration::from_secs(60);

/// What answers.
pub struct Desk {
    /// Where files are had.
    pub depot: Arc<Depot>,
    /// What there is.
    pub catalogue: Catalogue,
    /// What comes before every path.
    pub prefix: String,
    /// How long an answer may be kept back so that it has the right bytes from its first one on; then it begins all the same, because
    /// whoever waits would give up.
    pub patience: Duration,
    /// Where a newer index comes from, if newer ones are wanted.
    pub frontend: Option<Arc<Endpoint>>,
}

/// The body of an answer, from whoever makes it.
pub struct Pipe {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    left: u64,
}

impl Pipe {
    fn new(length: u64) -> (mpsc::Sender<io::Result<Bytes>>, Self) {
        let (sender, pieces) = mpsc::channel(2);
        (sender, Self { pieces, left: length })
    }

    fn of(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let (sender, pipe) = Self::new(bytes.len() as u64);
        // There is room for two.
        let _ = sender.try_send(Ok(bytes));
        pipe
    }
}

impl Body for Pipe {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.pieces.poll_recv(task).map(|piece| match piece {
            Some(Ok(bytes)) => {
                self.left = self.left.saturating_sub(bytes.len() as u64);
                Some(Ok(Frame::data(bytes)))
            }
            Some(Err(error)) => Some(Err(error)),
            // Rather break off than seem to be at the end.
            None => Some(Err(io::ErrorKind::UnexpectedEof.into())),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

fn answer(status: StatusCode, text: impl Into<Bytes>) -> Response<Pipe> {
    let mut response = Response::new(Pipe::of(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn put(response: &mut Response<Pipe>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// A path with its escapes taken out; nothing if that is no text.
fn plain(path: &str) -> Option<String> {
    let mut out = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(b) = bytes.next() {
        if b == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            out.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
        } else {
            out.push(b);
        }
    }
    String::from_utf8(out).ok()
}

/// From where to where a file of `size` bytes is wanted. Several ranges, or nonsense: the whole.
fn span(headers: &HeaderMap, etag: &str, size: u64) -> Option<(u64, u64)> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if text(IF_RANGE).is_some_and(|tag| tag != etag) {
        return None;
    }
    let (start, end) = text(RANGE)?.strip_prefix("bytes=")?.split_once('-')?;
    let start: u64 = start.parse().ok()?;
    let end = if end.is_empty() { size } else { end.parse::<u64>().ok()?.checked_add(1)?.min(size) };
    (start < end).then_some((start, end))
}

impl Desk {
    /// Serves one connection to its end.
    pub async fn connection(self: &Arc<Self>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let service = service_fn(|request| {
            let desk = self.clone();
            async move { Ok::<_, Infallible>(desk.answer(request).await) }
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(16 << 10);
        // Who hangs up has what he wanted.
        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
    }

    /// Answers a request.
    pub async fn answer(self: &Arc<Self>, request: Request<Incoming>) -> Response<Pipe> {
        let is_head = request.method() == Method::HEAD;
        if !is_head && request.method() != Method::GET {
            return answer(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        }
        let missing = || answer(StatusCode::NOT_FOUND, "not found\n");
        let Some(asked) = plain(request.uri().path()) else { return missing() };
        let Some(asked) = asked.strip_prefix(&self.prefix) else { return missing() };
        let below = |root: &str| asked.strip_prefix(root).and_then(|rest| rest.strip_prefix('/'));
        let mut response = if let Some(arch) = below(path::INDEX).and_then(|arch| ArchName::new(arch).ok()) {
            self.index(&arch, request.headers()).await
        } else if let Some((arch, path)) = below(path::MIRROR).and_then(|rest| rest.split_once('/')) {
            let Ok(arch) = ArchName::new(arch) else { return missing() };
            match self.find(&arch, path).await {
                None => return missing(),
                Some(wanted) => self.file(&wanted, request.headers(), is_head).await,
            }
        } else if asked == "/metrics" && self.frontend.is_some() {
            answer(StatusCode::OK, self.metrics())
        } else {
            return missing();
        };
        if is_head {
            let length = std::mem::take(&mut response.body_mut().left).to_string();
            put(&mut response, CONTENT_LENGTH, &length);
        }
        response
    }

    /// What was handed on and fetched, for Prometheus.
    #[must_use]
    pub fn metrics(&self) -> String {
        let relaxed = std::sync::atomic::Ordering::Relaxed;
        let counters = &self.depot.counters;
        let mut text = format!(
            "# TYPE rocks_relay_served_bytes_total counter\nrocks_relay_served_bytes_total {}\n\
             # TYPE rocks_relay_from_cache_bytes_total counter\nrocks_relay_from_cache_bytes_total {}\n\
             # TYPE rocks_relay_cache_bytes gauge\nrocks_relay_cache_bytes {}\n\
             # TYPE rocks_relay_fetched_bytes_total counter\n",
            counters.served.load(relaxed),
            counters.held.load(relaxed),
            self.depot.cache().total(),
        );
        for source in self.depot.sources() {
            text.push_str(&format!("rocks_relay_fetched_bytes_total{{from={:?}}} {}\n", source.name, source.given()));
        }
        text
    }

    async fn find(&self, arch: &ArchName, path: &str) -> Option<Wanted> {
        let is_current = path == rocks_common::index::REPOMD;
        if let (Some(frontend), false) = (&self.frontend, !is_current && self.catalogue.find(arch, path).is_some()) {
            // It may be newer than what is known.
            if let Err(error) = self.catalogue.refresh(arch, frontend).await {
                tracing::warn!("the index of {arch} cannot be renewed: {error}");
            }
        }
        self.catalogue.find(arch, path)
    }

    /// The index: any, or only the one that is asked for.
    async fn index(&self, arch: &ArchName, headers: &HeaderMap) -> Response<Pipe> {
        let asked = headers.get(http::header::IF_MATCH).and_then(|value| value.to_str().ok());
        let etag = |known: &super::catalogue::Known| format!("\"{}\"", known.sealed.claim.digest);
        let fits = |known: &Arc<super::catalogue::Known>| asked.is_none_or(|asked| asked == etag(known));
        let mut known = self.catalogue.newest(arch).filter(&fits);
        if let (None, Some(frontend)) = (&known, &self.frontend) {
            if let Err(error) = self.catalogue.refresh(arch, frontend).await {
                tracing::warn!("the index of {arch} cannot be renewed: {error}");
            }
            known = self.catalogue.newest(arch).filter(&fits);
        }
        match known {
            None if asked.is_some() => answer(StatusCode::PRECONDITION_FAILED, "another index is here\n"),
            None => answer(StatusCode::NOT_FOUND, "no index is here\n"),
            Some(known) => {
                let mut response = answer(StatusCode::OK, known.text.clone());
                put(&mut response, ETAG, &etag(&known));
                response
            }
        }
    }

    async fn file(self: &Arc<Self>, wanted: &Wanted, headers: &HeaderMap, is_head: bool) -> Response<Pipe> {
        let size = wanted.entry.size;
        let etag = format!("\"{}\"", wanted.entry.digest);
        let part = span(headers, &etag, size);
        let (start, end) = part.unwrap_or((0, size));
        let (sender, body) = Pipe::new(end - start);
        let mut response = Response::new(body);
        put(&mut response, ETAG, &etag);
        put(&mut response, ACCEPT_RANGES, "bytes");
        put(&mut response, CONTENT_TYPE, "application/octet-stream");
        if is_head {
            return response;
        }
        if part.is_some() {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            put(&mut response, CONTENT_RANGE, &format!("bytes {start}-{}/{size}", end - 1));
        }
        let desk = self.clone();
        match self.depot.take(wanted).await {
            Taken::Held(file) => {
                let file = Arc::new(file);
                tokio::spawn(async move {
                    let (mut at, counters) = (start, &desk.depot.counters);
                    while at < end {
                        let Ok(piece) = read(&file, at, end).await else { return };
                        at += piece.len() as u64;
                        depot::count(&counters.held, piece.len());
                        depot::count(&counters.served, piece.len());
                        if sender.send(Ok(piece)).await.is_err() {
                            return;
                        }
                    }
                });
            }
            Taken::Coming(flight) => {
                let mut progress = flight.progress.clone();
                let ended = |progress: &Progress| !matches!(progress, Progress::Coming { .. });
                let _ = timeout(self.patience, progress.wait_for(ended)).await;
                let now = *progress.borrow();
                match now {
                    Progress::Failed => return answer(StatusCode::BAD_GATEWAY, "no source gives it\n"),
                    Progress::NoRoom => return self.through(wanted).await,
                    _ => {}
                }
                tokio::spawn(async move { desk.follow(&flight, start, end, sender).await });
            }
            Taken::Through => return self.through(wanted).await,
        }
        response
    }

    /// Hands a file on while it comes.
    async fn follow(&self, flight: &Flight, start: u64, end: u64, sender: mpsc::Sender<io::Result<Bytes>>) {
        let mut progress = flight.progress.clone();
        let (mut at, mut begun) = (start, None);
        while at < end {
            let more = |progress: &Progress| {
                !matches!(progress, Progress::Coming { .. }) || depot::open_to(*progress, flight.size) > at
            };
            let now = tokio::select! {
                now = progress.wait_for(more) => match now {
                    Ok(now) => *now,
                    Err(_) => return,
                },
                () = sender.closed() => return,
            };
            match now {
                // What was handed on was wrong: whoever has it must not go on with it.
                Progress::Coming { attempt, .. } | Progress::Done { attempt }
                    if *begun.get_or_insert(attempt) != attempt =>
                {
                    return;
                }
                Progress::Failed | Progress::NoRoom => return,
                _ => {}
            }
            let Ok(piece) = read(&flight.file, at, end.min(depot::open_to(now, flight.size))).await else { return };
            // It may have begun anew between the look and the reading.
            let is_same = match *progress.borrow() {
                Progress::Coming { attempt, .. } | Progress::Done { attempt } => begun == Some(attempt),
                Progress::Failed | Progress::NoRoom => false,
            };
            if !is_same {
                return;
            }
            at += piece.len() as u64;
            depot::count(&self.depot.counters.served, piece.len());
            if sender.send(Ok(piece)).await.is_err() {
                return;
            }
        }
    }

    /// Hands a file on that there is no room for: it is fetched for this one request, and checked all the same.
    async fn through(self: &Arc<Self>, wanted: &Wanted) -> Response<Pipe> {
        let (from, mut coming) = match self.depot.through(wanted).await {
            Ok(opened) => opened,
            Err(error) => return answer(StatusCode::BAD_GATEWAY, format!("no source gives it: {error}\n")),
        };
        let size = wanted.entry.size;
        let (sender, body) = Pipe::new(size);
        let mut response = Response::new(body);
        put(&mut response, ETAG, &format!("\"{}\"", wanted.entry.digest));
        let (desk, wanted) = (self.clone(), wanted.clone());
        tokio::spawn(async move {
            let (mut context, mut at, mut kept) = (Context::new(&SHA256), 0, Vec::new());
            let source = &desk.depot.sources()[from];
            loop {
                match coming.chunk().await {
                    Ok(Some(chunk)) => {
                        source.gave(chunk.len());
                        at += chunk.len() as u64;
                        if at > size {
                            return source.blame(&wanted.path, &"too many bytes");
                        }
                        context.update(&chunk);
                        kept.extend_from_slice(&chunk);
                        let ready = usize::try_from(HELD_BACK).unwrap_or(usize::MAX);
                        if kept.len() > 2 * ready {
                            let piece = Bytes::from(kept.drain(..kept.len() - ready).collect::<Vec<_>>());
                            depot::count(&desk.depot.counters.served, piece.len());
                            if sender.send(Ok(piece)).await.is_err() {
                                return;
                            }
                        }
                    }
                    Ok(None) => break,
                    Err(error) => return desk.depot.note(from, &wanted, &error.into()),
                }
            }
            if at == size && Sha256::from_digest(&context.finish()) == wanted.entry.digest {
                depot::count(&desk.depot.counters.served, kept.len());
                let _ = sender.send(Ok(Bytes::from(kept))).await;
            } else {
                source.blame(&wanted.path, &"wrong bytes");
            }
        });
        response
    }
}

async fn read(file: &Arc<File>, at: u64, end: u64) -> io::Result<Bytes> {
    let file = file.clone();
    let length = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX).min(PIECE);
    let work = spawn_blocking(move || {
        let mut piece = vec![0; length];
        let n = file.read_at(&mut piece, at)?;
        piece.truncate(n);
        if n == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(Bytes::from(piece)) }
    });
    work.await.map_err(io::Error::other)?
}
