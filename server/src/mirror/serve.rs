//! Serves what was published: GET and HEAD with ranges and conditions, and nothing outside of `rocks-dist`.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::header::{
    ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderName,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use prometheus_client::metrics::counter::Counter;
use rustix::fs::{Mode, OFlags};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// Bytes that are read at a time: what one slow client costs in memory.
const CHUNK: usize = 128 << 10;
/// The path that is served.
pub const PREFIX: &str = "/install/rocks-dist/";

/// A body of this service.
pub type Body = BoxBody<Bytes, std::io::Error>;

/// The folder of a mirror that is served.
#[derive(Debug, Clone)]
pub struct MirrorRoot {
    folder: PathBuf,
    sent: Counter,
}

impl MirrorRoot {
    /// What `mirror` publishes.
    #[must_use]
    pub fn of(mirror: &super::Mirror) -> Self {
        Self { folder: mirror.root().join("rocks-dist"), sent: Counter::default() }
    }

    /// The same, counting the bytes that are sent.
    #[must_use]
    pub fn counting(self, sent: Counter) -> Self {
        Self { sent, ..self }
    }
}

/// Answers a request for something under [`PREFIX`].
pub async fn handle<B>(root: &MirrorRoot, request: Request<B>) -> Response<Body> {
    let (parts, _) = request.into_parts();
    if parts.method != Method::GET && parts.method != Method::HEAD {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let Some(components) = parts.uri.path().strip_prefix(PREFIX).and_then(components) else {
        return plain(StatusCode::NOT_FOUND, "not found\n");
    };
    let folder = root.folder.clone();
    let name = components.last().cloned().unwrap_or_default();
    let opened = tokio::task::spawn_blocking(move || open_beneath(&folder, &components)).await;
    match opened {
        Ok(Ok((file, meta))) => {
            let sent = root.sent.clone();
            answer(file, &meta, &name, &parts.headers, parts.method == Method::HEAD, sent).await
        }
        Ok(Err(e)) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            tracing::error!(error = %e, path = parts.uri.path(), "cannot read a published file");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "cannot read the file\n")
        }
        Ok(Err(_)) => plain(StatusCode::NOT_FOUND, "not found\n"),
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "failed\n"),
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let body = Full::new(Bytes::from_static(text.as_bytes())).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// The decoded parts of a path, or nothing when one of them could lead out of the folder.
fn components(path: &str) -> Option<Vec<String>> {
    path.split('/')
        .map(|part| {
            let mut out = Vec::with_capacity(part.len());
            let mut bytes = part.bytes();
            while let Some(b) = bytes.next() {
                if b == b'%' {
                    let digit = |b: Option<u8>| char::from(b?).to_digit(16);
                    let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
                    out.push((high * 16 + low) as u8);
                } else {
                    out.push(b);
                }
            }
            let part = String::from_utf8(out).ok()?;
            // Names that begin with a dot are our temporary files, `.` and `..`.
            (!part.is_empty() && !part.starts_with('.') && !part.contains(['/', '\0'])).then_some(part)
        })
        .collect()
}

/// Opens the regular file at `components` below `root`, following no link on the way.
fn open_beneath(root: &Path, components: &[String]) -> std::io::Result<(std::fs::File, std::fs::Metadata)> {
    let mut at = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for (i, part) in components.iter().enumerate() {
        let flags =
            if i + 1 < components.len() { OFlags::PATH | OFlags::DIRECTORY } else { OFlags::RDONLY | OFlags::NONBLOCK };
        at = rustix::fs::openat(&at, part.as_str(), flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    }
    let file = std::fs::File::from(at);
    let meta = file.metadata()?;
    if components.is_empty() || !meta.is_file() {
        return Err(std::io::ErrorKind::NotFound.into());
    }
    Ok((file, meta))
}

fn http_date(seconds: i64) -> Option<String> {
    let at = jiff::Timestamp::from_second(seconds).ok()?;
    Some(at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string())
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

/// What a `Range` header asks of a file with `size` bytes.
#[derive(Debug, PartialEq, Eq)]
enum Span {
    Whole,
    Part { start: u64, length: u64 },
    Unsatisfiable,
}

/// Several ranges at once, another unit or nonsense: the whole file, as RFC 9110 allows.
fn span(range: &str, size: u64) -> Span {
    let Some((start, end)) = range.strip_prefix("bytes=").and_then(|r| r.trim().split_once('-')) else {
        return Span::Whole;
    };
    let number = |s: &str| s.bytes().all(|b| b.is_ascii_digit()).then(|| s.parse::<u64>().ok()).flatten();
    match (number(start), number(end)) {
        (Some(start), _) if start >= size && (end.is_empty() || number(end).is_some_and(|e| e >= start)) => {
            Span::Unsatisfiable
        }
        (Some(start), None) if end.is_empty() => Span::Part { start, length: size - start },
        (Some(start), Some(end)) if start <= end => Span::Part { start, length: end.min(size - 1) - start + 1 },
        (None, Some(last)) if start.is_empty() => match last.min(size) {
            0 => Span::Unsatisfiable,
            length => Span::Part { start: size - length, length },
        },
        _ => Span::Whole,
    }
}

async fn answer(
    file: std::fs::File,
    meta: &std::fs::Metadata,
    name: &str,
    headers: &HeaderMap,
    is_head: bool,
    sent: Counter,
) -> Response<Body> {
    use std::os::unix::fs::MetadataExt;
    let size = meta.len();
    let etag = format!("\"{:x}-{size:x}-{:x}.{:x}\"", meta.ino(), meta.mtime(), meta.mtime_nsec());
    let modified = http_date(meta.mtime());

    let is_unchanged = match (text(headers, IF_NONE_MATCH), text(headers, IF_MODIFIED_SINCE)) {
        (Some(tags), _) => {
            tags.split(',').map(str::trim).any(|t| t == "*" || t.strip_prefix("W/").unwrap_or(t) == etag)
        }
        (None, Some(date)) => jiff::fmt::rfc2822::parse(date).is_ok_and(|d| meta.mtime() <= d.timestamp().as_second()),
        (None, None) => false,
    };
    let range_holds = text(headers, IF_RANGE).is_none_or(|v| v == etag || Some(v) == modified.as_deref());
    let span = match text(headers, RANGE) {
        Some(range) if range_holds => span(range, size),
        _ => Span::Whole,
    };
    let (status, start, length) = match span {
        _ if is_unchanged => (StatusCode::NOT_MODIFIED, 0, 0),
        Span::Unsatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, 0, 0),
        Span::Whole => (StatusCode::OK, 0, size),
        Span::Part { start, length } => (StatusCode::PARTIAL_CONTENT, start, length),
    };
    let is_empty = is_head || length == 0;
    let body = if is_empty {
        Full::default().map_err(|never| match never {}).boxed()
    } else {
        stream_of(file, start, length, sent)
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let is_repomd = name.starts_with("repomd.xml");
    let cache = if is_repomd { "no-cache" } else { "public, max-age=31536000, immutable" };
    let kind = match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("rpm") => "application/x-rpm",
        Some("xml") => "application/xml",
        Some("gz") => "application/gzip",
        _ => "application/octet-stream",
    };
    let mut set = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    };
    set(ETAG, &etag);
    set(ACCEPT_RANGES, "bytes");
    set(CACHE_CONTROL, cache);
    if let Some(modified) = &modified {
        set(LAST_MODIFIED, modified);
    }
    match status {
        StatusCode::NOT_MODIFIED => return response,
        StatusCode::RANGE_NOT_SATISFIABLE => set(CONTENT_RANGE, &format!("bytes */{size}")),
        StatusCode::PARTIAL_CONTENT => set(CONTENT_RANGE, &format!("bytes {start}-{}/{size}", start + length - 1)),
        _ => {}
    }
    set(CONTENT_TYPE, kind);
    set(CONTENT_LENGTH, &length.to_string());
    response
}

/// `length` bytes of `file` from `start`, read as fast as the client takes them.
fn stream_of(file: std::fs::File, start: u64, length: u64, sent: Counter) -> Body {
    let file = tokio::fs::File::from_std(file);
    let frames = stream::try_unfold((file, Some(start), length, sent), |(mut file, seek, left, sent)| async move {
        if left == 0 {
            return Ok(None);
        }
        if let Some(start) = seek {
            file.seek(SeekFrom::Start(start)).await?;
        }
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK);
        let mut buffer = BytesMut::zeroed(want);
        let n = file.read(&mut buffer).await?;
        if n == 0 {
            // Shorter than it was: break the connection rather than send less than was promised.
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
        }
        buffer.truncate(n);
        sent.inc_by(n as u64);
        Ok(Some((Frame::data(buffer.freeze()), (file, None, left - n as u64, sent))))
    });
    // The stream is not `Sync` (the file's state is not), which `BoxBody` asks for.
    BodyExt::boxed(StreamBody::new(SyncStream(std::sync::Mutex::new(Box::pin(frames)))))
}

type Frames = std::pin::Pin<Box<dyn futures_util::Stream<Item = std::io::Result<Frame<Bytes>>> + Send>>;

/// Makes a stream `Sync` by never sharing it: it is only reached through `&mut`.
struct SyncStream(std::sync::Mutex<Frames>);

impl futures_util::Stream for SyncStream {
    type Item = std::io::Result<Frame<Bytes>>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        let inner = self.0.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        inner.as_mut().poll_next(cx)
    }
}
