//! One request to the frontend's socket.

use std::path::Path;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rocks_common::wire::Problem;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::images::upload::{PROTOCOL, Upgraded};
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

/// A request that is under way.
type Answer = http::Response<hyper::body::Incoming>;

fn down(socket: &Path) -> impl Fn(&dyn std::fmt::Display) -> Refusal {
    move |error| {
        Refusal::new(Exit::Temporary, format!("the frontend does not answer at {}: {error}", socket.display())).hint(
            "is rocks-server running? root and the group `rocks` may ask it; --socket or ROCKS_SOCKET names another socket",
        )
    }
}

async fn request(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&Value>,
    protocol: Option<&str>,
) -> Result<Answer, Refusal> {
    let down = down(socket);
    let stream = UnixStream::connect(socket).await.map_err(|error| down(&error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| down(&error))?;
    tokio::spawn(connection.with_upgrades());
    let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header("content-type", "application/json");
    if let Some(protocol) = protocol {
        request = request.header("connection", "upgrade").header("upgrade", protocol);
    }
    let request = request.body(Full::new(bytes)).map_err(|error| Refusal::new(Exit::Usage, error.to_string()))?;
    sender.send_request(request).await.map_err(|error| down(&error))
}

async fn whole(socket: &Path, response: Answer) -> Result<Bytes, Refusal> {
    let status = response.status();
    let collected = Limited::new(response.into_body(), BYTES).collect().await;
    let bytes = collected.map_err(|error| down(socket)(&error))?.to_bytes();
    if status.is_success() {
        return Ok(bytes);
    }
    Err(match serde_json::from_slice::<Problem>(&bytes) {
        Ok(problem) => refused(problem),
        Err(_) => Refusal::new(exit_of(status), String::from_utf8_lossy(&bytes).trim().to_owned()),
    })
}

fn exit_of(status: StatusCode) -> Exit {
    match status {
        StatusCode::NOT_FOUND => Exit::NoSuchObject,
        StatusCode::CONFLICT => Exit::Conflict,
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Exit::Usage,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Exit::Temporary,
        _ => Exit::Failed,
    }
}

pub(super) fn refused(problem: Problem) -> Refusal {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Refusal { exit: exit_of(status), message: problem.title, hint: problem.hint }
}

fn run<T>(work: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Refusal::new(Exit::Failed, error.to_string()))?.block_on(work)
}

/// Sends one request and gives its answer.
pub(super) fn call(socket: &Path, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Refusal> {
    run(async {
        let bytes = whole(socket, request(socket, method, path, body, None).await?).await?;
        serde_json::from_slice(&bytes).map_err(|error| Refusal::new(Exit::Failed, error.to_string()))
    })
}

/// Asks for something that is not JSON.
pub(super) fn text(socket: &Path, path: &str) -> Result<String, Refusal> {
    run(async {
        let bytes = whole(socket, request(socket, Method::GET, path, None, None).await?).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    })
}

/// Fetches bytes that may be many: `put` gets them as they come. Gives how many there were; fewer than were announced are an error.
pub(super) fn fetch(
    socket: &Path,
    path: &str,
    put: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
) -> Result<u64, Refusal> {
    run(async {
        let mut response = request(socket, Method::GET, path, None, None).await?;
        if !response.status().is_success() {
            whole(socket, response).await?;
            return Err(Refusal::new(Exit::Failed, "the frontend gave no answer"));
        }
        let announced = response.headers().get("content-length").and_then(|length| length.to_str().ok()?.parse().ok());
        let mut bytes: u64 = 0;
        while let Some(frame) = response.body_mut().frame().await {
            let frame = frame.map_err(|error| down(socket)(&error))?;
            let data = frame.data_ref().map_or(&[][..], |data| data);
            put(data).map_err(|error| Refusal::new(Exit::Failed, error.to_string()))?;
            bytes += data.len() as u64;
        }
        if announced.is_some_and(|announced: u64| announced != bytes) {
            return Err(down(socket)(&"it hung up before the end"));
        }
        Ok(bytes)
    })
}

/// Makes the connection one that speaks the protocol of shipments.
pub(super) fn upgrade(socket: &Path, path: &str) -> Result<Upgraded, Refusal> {
    let down = down(socket);
    run(async {
        let response = request(socket, Method::POST, path, None, Some(PROTOCOL)).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            whole(socket, response).await?;
            return Err(down(&"it does not take images"));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|error| down(&error))?;
        let parts = upgraded.downcast::<TokioIo<UnixStream>>().map_err(|_| down(&"not a socket"))?;
        Upgraded::new(parts.io.into_inner(), parts.read_buf).map_err(|error| down(&error))
    })
}

/// Sends a request whose answer comes in lines: tells of progress, and gives the result.
pub(super) fn lines(
    socket: &Path,
    path: &str,
    body: &Value,
    progress: &mut dyn FnMut(&Value),
) -> Result<Value, Refusal> {
    run(async {
        let mut response = request(socket, Method::POST, path, Some(body), None).await?;
        if !response.status().is_success() {
            whole(socket, response).await?;
            return Err(Refusal::new(Exit::Failed, "the frontend gave no answer"));
        }
        let mut rest = Vec::new();
        while let Some(frame) = response.body_mut().frame().await {
            let frame = frame.map_err(|error| down(socket)(&error))?;
            rest.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            if rest.len() > BYTES {
                break;
            }
            while let Some(end) = rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                let mut value: Value =
                    serde_json::from_slice(&line).map_err(|error| Refusal::new(Exit::Failed, error.to_string()))?;
                if let Ok(problem) = serde_json::from_value::<Problem>(value["problem"].take()) {
                    return Err(refused(problem));
                }
                match value.get("result") {
                    Some(result) => return Ok(result.clone()),
                    None => progress(&value["progress"]),
                }
            }
        }
        Err(down(socket)(&"it hung up").hint("what was done is kept; say it again"))
    })
}
