//! One request to the frontend's socket.

use std::path::Path;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rocks_common::wire::Problem;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::output::Exit;

/// Most bytes of an answer.
const BYTES: usize = 256 << 20;

/// Why there is no answer, and how the program is to end.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) exit: Exit,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Refusal {
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Sends one request and gives its answer.
pub(super) fn call(socket: &Path, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Refusal> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Refusal::new(Exit::Failed, error.to_string()))?;
    runtime.block_on(async {
        let down = |error: &dyn std::fmt::Display| {
            Refusal::new(Exit::Temporary, format!("the frontend does not answer at {}: {error}", socket.display()))
                .hint("is rocks-server running? the socket is chosen with --socket or ROCKS_SOCKET")
        };
        let stream = UnixStream::connect(socket).await.map_err(|error| down(&error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| down(&error))?;
        tokio::spawn(connection);
        let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(bytes))
            .map_err(|error| Refusal::new(Exit::Usage, error.to_string()))?;
        let response = sender.send_request(request).await.map_err(|error| down(&error))?;
        let status = response.status();
        let bytes = Limited::new(response.into_body(), BYTES).collect().await.map_err(|error| down(&error))?.to_bytes();
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|error| Refusal::new(Exit::Failed, error.to_string()));
        }
        let exit = match status {
            StatusCode::NOT_FOUND => Exit::NoSuchObject,
            StatusCode::CONFLICT => Exit::Conflict,
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Exit::Usage,
            _ => Exit::Failed,
        };
        let message = match serde_json::from_slice::<Problem>(&bytes) {
            Ok(problem) => problem.title,
            Err(_) => String::from_utf8_lossy(&bytes).trim().to_owned(),
        };
        Err(Refusal::new(exit, message))
    })
}
