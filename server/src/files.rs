//! Files of the mirror over HTTP: whole, in ranges, or not at all because the caller has them.
//!
//! A path can never lead out of the folder: each of its parts must be an ordinary name, and links are not followed.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::header::{ACCEPT_RANGES, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use crate::listen::problem;

/// Most bytes of one answer; a larger file is fetched in ranges.
const ANSWER_BYTES: u64 = 1 << 30;

type Reply = Response<Full<Bytes>>;

/// The file below `folder` that `path` names, if each of its parts is an ordinary name.
fn inside(folder: &Path, path: &str) -> Option<PathBuf> {
    let mut file = folder.to_path_buf();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        let part = decode(part)?;
        if part == "." || part == ".." || part.contains(['/', '\0']) {
            return None;
        }
        file.push(part);
        // The published tree is a link that is switched; below it there are none.
        if file.is_symlink() && file.parent() != Some(folder) {
            return None;
        }
    }
    Some(file)
}

/// Percent-decoding.
fn decode(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let hex = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

/// Answers a GET or HEAD for a path below `prefix` with a file below `folder`.
pub async fn serve<B>(folder: &Path, prefix: &str, request: &Request<B>) -> Reply {
    let missing = || problem(StatusCode::NOT_FOUND, "not-found", "there is no such file");
    let Some(rest) = request.uri().path().strip_prefix(prefix) else { return missing() };
    let Some(path) = inside(&folder.join("rocks-dist"), rest) else { return missing() };
    let Ok(mut file) = tokio::fs::File::open(&path).await else { return missing() };
    let Ok(meta) = file.metadata().await else { return missing() };
    if !meta.is_file() {
        return missing();
    }
    let tag = format!("\"{:x}-{:x}-{:x}-{:x}\"", meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec());
    let head = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let mut response = Response::new(Full::new(Bytes::new()));
    put(&mut response, ETAG, &tag);
    put(&mut response, ACCEPT_RANGES, "bytes");
    if let Ok(time) = jiff::Timestamp::from_second(meta.mtime()) {
        put(&mut response, LAST_MODIFIED, &time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string());
    }
    if head(IF_NONE_MATCH).is_some_and(|known| known.split(',').any(|known| known.trim() == tag || known.trim() == "*"))
    {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    let length = meta.len();
    let wanted = head(RANGE).filter(|_| head(IF_RANGE).is_none_or(|known| known == tag));
    let (start, end) = match wanted.map(|range| parse_range(range, length)) {
        None | Some(Range::Whole) => (0, length),
        Some(Range::Part(start, end)) => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            put(&mut response, CONTENT_RANGE, &format!("bytes {start}-{}/{length}", end - 1));
            (start, end)
        }
        Some(Range::Outside) => {
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            put(&mut response, CONTENT_RANGE, &format!("bytes */{length}"));
            return response;
        }
    };
    let kind = match path.extension().and_then(|extension| extension.to_str()) {
        Some("rpm") => "application/x-rpm",
        Some("xml") => "application/xml",
        Some("gz") => "application/gzip",
        _ => "application/octet-stream",
    };
    put(&mut response, CONTENT_TYPE, kind);
    if request.method() == Method::HEAD {
        put(&mut response, http::header::CONTENT_LENGTH, &(end - start).to_string());
        return response;
    }
    if end - start > ANSWER_BYTES {
        return problem(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "ask for this file in ranges");
    }
    let mut bytes = Vec::with_capacity(usize::try_from(end - start).unwrap_or(0));
    let read = async {
        file.seek(std::io::SeekFrom::Start(start)).await?;
        file.take(end - start).read_to_end(&mut bytes).await
    };
    match read.await {
        Ok(n) if n as u64 == end - start => {
            *response.body_mut() = Full::new(Bytes::from(bytes));
            response
        }
        _ => problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the file could not be read"),
    }
}

fn put(response: &mut Reply, name: http::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Range {
    /// All of it: no range, several, or one that cannot be read.
    Whole,
    /// From, and to but without.
    Part(u64, u64),
    /// Nothing of the file is in it.
    Outside,
}

fn parse_range(text: &str, length: u64) -> Range {
    let Some((from, to)) = text.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Range::Whole;
    };
    match (from.trim().parse::<u64>(), to.trim().parse::<u64>()) {
        (Ok(from), _) if from >= length => Range::Outside,
        (Ok(from), Ok(to)) if to >= from => Range::Part(from, to.saturating_add(1).min(length)),
        (Ok(from), Err(_)) if to.trim().is_empty() => Range::Part(from, length),
        (Err(_), Ok(0)) if from.trim().is_empty() => Range::Outside,
        (Err(_), Ok(last)) if from.trim().is_empty() && length > 0 => Range::Part(length.saturating_sub(last), length),
        _ => Range::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_leads_out_and_ranges_fit() {
        let state = tempfile::tempdir().expect("a folder");
        let arch = state.path().join("rocks-dist/x86_64");
        std::fs::create_dir_all(&arch).expect("made");
        std::fs::write(arch.join("a b.rpm"), "0123456789").expect("written");
        std::fs::write(state.path().join("secret"), "x").expect("written");
        std::os::unix::fs::symlink(state.path().join("secret"), arch.join("link")).expect("linked");
        let get = async |path: &str, range: Option<&str>| {
            let mut request = Request::builder().uri(path);
            if let Some(range) = range {
                request = request.header("range", range);
            }
            serve(state.path(), "/m", &request.body(()).expect("a request")).await
        };
        assert_eq!(get("/m/x86_64/a%20b.rpm", None).await.status(), 200);
        let part = get("/m/x86_64/a%20b.rpm", Some("bytes=2-4")).await;
        assert_eq!(
            (part.status().as_u16(), &part.headers()["content-range"]),
            (206, &HeaderValue::from_static("bytes 2-4/10"))
        );
        assert_eq!(get("/m/x86_64/a%20b.rpm", Some("bytes=10-")).await.status(), 416);
        for bad in [
            "/m/../secret",
            "/m/x86_64/..%2f..%2f..%2fsecret",
            "/m/%2e%2e/secret",
            "/m/x86_64/link",
            "/m/x86_64",
            "/m/x86_64/%zz",
            "/m/none",
        ] {
            assert_eq!(get(bad, None).await.status(), 404, "{bad}");
        }
        assert_eq!(parse_range("bytes=-3", 10), Range::Part(7, 10));
        assert_eq!(parse_range("bytes=0-99", 10), Range::Part(0, 10));
        assert_eq!(parse_range("lines=1-2", 10), Range::Whole);
    }
}
