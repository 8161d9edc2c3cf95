//! Bodies of answers: whole ones, and files as they are read.

use std::convert::Infallible;
use std::io::SeekFrom;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::mpsc;

/// An answer's body.
pub(crate) type Body = BoxBody<Bytes, std::io::Error>;
/// An answer.
pub(crate) type Response = http::Response<Body>;

/// A body that is there already.
pub(crate) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed()
}

/// A part of a file. It is open already: whatever becomes of its name, all of it is sent.
pub(crate) fn file(file: std::fs::File, from: u64, length: u64) -> Body {
    let (sender, pieces) = mpsc::channel(4);
    tokio::spawn(async move {
        if let Err(e) = read(file, from, length, &sender).await {
            let _ = sender.send(Err(e)).await;
        }
    });
    Pieces { pieces, left: length }.boxed()
}

async fn read(
    file: std::fs::File,
    from: u64,
    length: u64,
    to: &mpsc::Sender<std::io::Result<Bytes>>,
) -> std::io::Result<()> {
    let mut file = tokio::fs::File::from_std(file);
    file.seek(SeekFrom::Start(from)).await?;
    let mut left = length;
    while left > 0 {
        let mut piece = vec![0u8; usize::try_from(left.min(256 * 1024)).unwrap_or(1)];
        file.read_exact(&mut piece).await?;
        left -= piece.len() as u64;
        if to.send(Ok(piece.into())).await.is_err() {
            break;
        }
    }
    Ok(())
}

struct Pieces {
    pieces: mpsc::Receiver<std::io::Result<Bytes>>,
    left: u64,
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let next = self.pieces.poll_recv(cx);
        next.map(|piece| {
            piece.map(|p| {
                p.map(|bytes| {
                    self.left = self.left.saturating_sub(bytes.len() as u64);
                    Frame::data(bytes)
                })
            })
        })
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// An answer of one piece.
pub(crate) fn answer(status: u16, kind: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = http::Response::new(whole(body));
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    if !kind.is_empty() {
        response.headers_mut().insert("content-type", http::HeaderValue::from_static(kind));
    }
    response
}

/// Sets a header, if its value can be one.
pub(crate) fn set(response: &mut Response, name: &'static str, value: &str) {
    if let Ok(value) = http::HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}
