//! The instance metadata service.
//!
//! It listens at 169.254.169.254 in the cloud's namespace and knows instances by their addresses.

mod cms;
mod identity;
mod tree;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http::HeaderMap;
use hyper::body::Incoming;
use tokio::net::TcpListener;

pub(crate) use identity::Identity;

use crate::cloud::{Instance, Millis, State};
use crate::server::body::{Response, answer as reply, set};
use crate::server::{CutOff, Shared, locked, now};

/// Session tokens: whose, and until when.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    all: Mutex<BTreeMap<String, (String, Millis)>>,
}

impl Tokens {
    fn make(&self, instance: &str, until: Millis) -> Option<String> {
        let mut bytes = [0u8; 40];
        aws_lc_rs::rand::fill(&mut bytes).ok()?;
        let token = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE, bytes);
        let mut all = locked(&self.all);
        let now = now();
        all.retain(|_, (_, until)| *until > now);
        all.insert(token.clone(), (instance.to_owned(), until));
        Some(token)
    }

    /// How many seconds a token is still good for, if it is.
    fn left(&self, token: &str, instance: &str) -> Option<u64> {
        let all = locked(&self.all);
        let (whose, until) = all.get(token)?;
        (whose == instance && *until > now()).then(|| (until - now()).div_ceil(1000))
    }
}

/// Answers instances until the runtime ends.
pub(crate) async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    crate::server::accept(listener, move |handle, peer: SocketAddr, request: http::Request<Incoming>| {
        let shared = Arc::clone(&shared);
        async move {
            let address = peer.ip().to_string();
            let found = shared.with_cloud(|cloud| {
                let of = |i: &&Instance| i.address == address && matches!(i.state, State::Pending | State::Running);
                cloud.instances.values().find(of).map(|i| (i.id.clone(), i.metadata.hop_limit))
            });
            // Somebody who is no instance gets no answer.
            let (instance, hops) = found.ok_or(CutOff)?;
            // Answers to PUT live for so many hops only: a container behind a bridge of its own does not see them.
            let hops = if request.method() == http::Method::PUT { u32::from(hops) } else { 64 };
            let _ = rustix::net::sockopt::set_ip_ttl(&handle, hops);
            let path = request.uri().path().trim_start_matches('/').to_owned();
            Ok(answer(&shared, &instance, request.method().as_str(), &path, request.headers()))
        }
    })
    .await;
}

/// Answers one request of an instance.
pub(crate) fn answer(shared: &Shared, instance: &str, method: &str, path: &str, headers: &HeaderMap) -> Response {
    let error = |status: u16, title: &str| {
        let text = format!(
            "<?xml version=\"1.0\" encoding=\"iso-8859-1\"?>\n<html><head><title>{status} - {title}</title></head><body><h1>{status} - {title}</h1></body></html>\n"
        );
        reply(status, "text/html", text)
    };
    let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let Some(metadata) = shared.with_cloud(|c| c.instances.get(instance).map(|i| i.metadata.clone())) else {
        return error(404, "Not Found");
    };
    if !metadata.enabled {
        return error(403, "Forbidden");
    }
    if method == "PUT" {
        // A proxy that passes requests on is not to pass this one on.
        if headers.contains_key("x-forwarded-for") {
            return error(403, "Forbidden");
        }
        if path != "latest/api/token" {
            return error(404, "Not Found");
        }
        let seconds = header("x-aws-ec2-metadata-token-ttl-seconds").and_then(|t| t.parse::<u64>().ok());
        let Some(seconds) = seconds.filter(|s| (1..=21_600).contains(s)) else { return error(400, "Bad Request") };
        let Some(token) = shared.tokens.make(instance, now() + seconds * 1000) else { return error(500, "No Entropy") };
        let mut response = reply(200, "text/plain", token);
        set(&mut response, "x-aws-ec2-metadata-token-ttl-seconds", &seconds.to_string());
        return response;
    }
    if method != "GET" && method != "HEAD" {
        return error(405, "Not Allowed");
    }
    let left = match header("x-aws-ec2-metadata-token") {
        Some(token) => match shared.tokens.left(token, instance) {
            Some(left) => Some(left),
            None => return error(401, "Unauthorized"),
        },
        None if metadata.token_required => return error(401, "Unauthorized"),
        None => None,
    };
    let Some(found) = tree::find(shared, instance, path) else { return error(404, "Not Found") };
    let mut response = reply(200, found.kind, found.body);
    if let Some(left) = left {
        set(&mut response, "x-aws-ec2-metadata-token-ttl-seconds", &left.to_string());
    }
    response
}
