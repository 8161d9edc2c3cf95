//! The instance metadata service of EC2, version 2 only: a session token first, as IMDSv2 wants.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// Where it is.
pub const ADDRESS: &str = "169.254.169.254:80";
/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(2);
/// How long a session holds, in seconds.
const SESSION: &str = "60";

/// Whether this machine says that it is an instance of EC2. Elsewhere whoever has the service's address could make it a host of theirs.
#[must_use]
pub fn is_ec2(root: &Path) -> bool {
    let says = |path: &str, what: &str| {
        std::fs::read_to_string(root.join(path)).is_ok_and(|text| text.trim().to_ascii_lowercase().starts_with(what))
    };
    says("sys/class/dmi/id/sys_vendor", "amazon ec2")
        || says("sys/hypervisor/uuid", "ec2")
        // For clouds that speak like EC2, said by whoever made the image.
        || root.join("etc/rocks-agent/on-ec2").exists()
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ImdsError {
    /// Nobody answers: this is no instance, or its network is not there yet.
    #[error("the instance metadata service cannot be reached: {0}")]
    Unreachable(String),
    /// It says no.
    #[error("the instance metadata service answers {0}")]
    Status(StatusCode),
}

impl ImdsError {
    /// Whether it may be otherwise in a moment: the service answers 503 when it is busy, and says that one should ask again.
    fn passes(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Status(status) => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
        }
    }
}

async fn request(address: &str, request: Request<Empty<Bytes>>, limit: usize) -> Result<Option<Bytes>, ImdsError> {
    let fail = |error: &dyn std::fmt::Display| ImdsError::Unreachable(error.to_string());
    let work = async {
        let tcp = TcpStream::connect(address).await.map_err(|error| fail(&error))?;
        let (mut sender, connection) = handshake(TokioIo::new(tcp)).await.map_err(|error| fail(&error))?;
        tokio::spawn(async move {
            // Its end is seen by the request.
            let _ = connection.await;
        });
        let answer = sender.send_request(request).await.map_err(|error| fail(&error))?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            other => return Err(ImdsError::Status(other)),
        }
        let body = Limited::new(answer.into_body(), limit).collect().await.map_err(|error| fail(&error))?;
        Ok(Some(body.to_bytes()))
    };
    timeout(REQUEST, work).await.map_err(|_| fail(&"it took too long"))?
}

/// One document of the service; nothing if it has none of that name.
///
/// # Errors
/// Nobody answers, or it says no.
pub async fn get(address: &str, path: &str, limit: usize) -> Result<Option<Bytes>, ImdsError> {
    let build = |method: Method, path: &str, header: (&str, &str)| {
        let request = Request::builder().method(method).uri(path).header("host", address).header(header.0, header.1);
        request.body(Empty::new()).map_err(|error| ImdsError::Unreachable(error.to_string()))
    };
    let session = build(Method::PUT, "/latest/api/token", ("x-aws-ec2-metadata-token-ttl-seconds", SESSION))?;
    let token = request(address, session, 256).await?.ok_or(ImdsError::Status(StatusCode::NOT_FOUND))?;
    let token = String::from_utf8_lossy(&token).into_owned();
    request(address, build(Method::GET, path, ("x-aws-ec2-metadata-token", &token))?, limit).await
}

/// The same, asked again for as long as `patience`: at boot the network may not be there yet.
///
/// # Errors
/// Nobody answered in time, or it says no.
pub async fn insist(address: &str, path: &str, limit: usize, patience: Duration) -> Result<Option<Bytes>, ImdsError> {
    let end = tokio::time::Instant::now() + patience;
    loop {
        match get(address, path, limit).await {
            Err(error) if error.passes() && tokio::time::Instant::now() < end => {
                sleep(Duration::from_millis(500)).await;
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers like the service: tokens first.
    async fn service(listener: TcpListener) {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a caller");
            let mut text = vec![0; 4096];
            let count = stream.read(&mut text).await.expect("a request");
            let text = String::from_utf8_lossy(&text[..count]).to_ascii_lowercase();
            let (status, body) = if text.starts_with("put /latest/api/token") && text.contains("ttl-seconds: 60") {
                ("200 OK", "secret")
            } else if !text.contains("x-aws-ec2-metadata-token: secret") {
                ("401 Unauthorized", "")
            } else if text.starts_with("get /latest/user-data ") {
                ("200 OK", "#!/bin/sh\n")
            } else {
                ("404 Not Found", "")
            };
            let answer =
                format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.expect("sent");
        }
    }

    #[tokio::test]
    async fn a_service_that_is_busy_is_asked_again_and_one_that_refuses_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address").to_string();
        let answers = tokio::spawn(async move {
            for status in ["503 Service Unavailable", "429 Too Many Requests"] {
                let (mut stream, _) = listener.accept().await.expect("a caller");
                let mut text = vec![0; 4096];
                let _ = stream.read(&mut text).await.expect("a request");
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.expect("sent");
            }
            service(listener).await;
        });
        let patience = Duration::from_secs(20);
        let got = insist(&address, "/latest/user-data", 100, patience).await.expect("answered");
        assert_eq!(got.as_deref(), Some(&b"#!/bin/sh\n"[..]));
        answers.abort();
        let refuses = ImdsError::Status(StatusCode::FORBIDDEN);
        assert!(!refuses.passes());
    }

    #[tokio::test]
    async fn a_document_is_asked_for_with_a_session() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address").to_string();
        tokio::spawn(service(listener));
        let got = get(&address, "/latest/user-data", 100).await.expect("answered");
        assert_eq!(got.as_deref(), Some(&b"#!/bin/sh\n"[..]));
        assert_eq!(get(&address, "/latest/other", 100).await.expect("answered"), None);
        assert!(matches!(get(&address, "/latest/user-data", 4).await, Err(ImdsError::Unreachable(_))), "too long");
        let nobody = TcpListener::bind("127.0.0.1:0").await.expect("bound").local_addr().expect("one").to_string();
        let asked = insist(&nobody, "/latest/user-data", 100, Duration::from_millis(700)).await;
        assert!(matches!(asked, Err(ImdsError::Unreachable(_))));
    }
}
