//! The request for a kickstart, which may wait until it changes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use rocks_common::ids::{Digest, Generation, HostName};
use rocks_common::wire::{self, header};
use tokio::time::timeout;

use super::{Caller, Public, Reply, internal, problem, refusal};
use crate::finish::finish;
use crate::kickstart::Served;

/// How long a host that has no kickstart yet waits for a synchronisation that is under way, even if it did not ask to wait.
const IN_THE_MAKING: Duration = Duration::from_secs(5);

/// What a request for a kickstart says.
pub(super) struct Asked {
    /// The digest that the caller has.
    known: Option<Digest>,
    /// The highest generation that it has accepted, if it says so.
    accepted: Option<Generation>,
    wait: Duration,
    gzip: bool,
}

impl Asked {
    pub(super) fn of(headers: &http::HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let known = text(IF_NONE_MATCH.as_str()).trim_start_matches("W/").trim_matches('"');
        let words = text("prefer").split([',', ';', ' ']);
        let wait = words.filter_map(|word| word.strip_prefix("wait=")).find_map(|seconds| seconds.parse::<u32>().ok());
        Self {
            known: known.parse().ok(),
            accepted: text(header::GENERATION).parse().ok(),
            wait: Duration::from_secs(u64::from(wait.unwrap_or(0).min(wire::MAX_WAIT_SECONDS))),
            gzip: text(ACCEPT_ENCODING.as_str()).contains("gzip"),
        }
    }
}

/// Gives a host its kickstart, or waits for it.
pub(super) async fn answer(public: &Arc<Public>, caller: &Caller, asked: Asked) -> Reply {
    public.metrics.polls.inc();
    let Asked { known, accepted, wait, gzip } = asked;
    let slot = public.service.slot(&caller.host);
    let _visit = slot.visit();
    let mut view = slot.watch();
    let differs = |served: &Option<Served>| served.as_ref().is_some_and(|served| Some(served.body.digest) != known);
    let mut ending = public.ending.clone();
    // Of a host that was added just now, the kickstart may be in the making.
    if slot.served().is_none() {
        tokio::select! {
            () = public.service.catch_up(IN_THE_MAKING) => {}
            _ = ending.wait_for(|ending| *ending) => {}
        }
    }
    if let (Some(accepted), Some(served)) = (accepted, slot.served())
        && served.generation < accepted
        && Some(served.body.digest) != known
    {
        let (service, host) = (public.service.clone(), caller.host.clone());
        if let Err(error) = finish(async move { service.overtake(&host, accepted).await }).await {
            return internal(&error);
        }
    }
    if !wait.is_zero() {
        public.metrics.waiting.inc();
        tokio::select! {
            _ = timeout(wait, view.wait_for(differs)) => {}
            _ = ending.wait_for(|ending| *ending) => {}
        }
        public.metrics.waiting.dec();
        // Much may have happened meanwhile.
        if let Some(refusal) = refusal(public, caller) {
            return refusal;
        }
    }
    let served = view.borrow_and_update().clone();
    match served {
        None => {
            let mut reply = problem(StatusCode::NOT_FOUND, "no-kickstart", "there is no kickstart for this host now");
            reply.headers_mut().insert("retry-after", HeaderValue::from_static("30"));
            reply
        }
        Some(served) => given(&served, &caller.host, known, gzip),
    }
}

fn given(served: &Served, host: &HostName, known: Option<Digest>, gzip: bool) -> Reply {
    let digest = served.body.digest;
    let unchanged = Some(digest) == known;
    let body = match (unchanged, gzip) {
        (true, _) => Bytes::new(),
        (false, true) => served.body.gzip.clone(),
        (false, false) => served.body.plain(),
    };
    let mut response = Response::new(Full::new(body));
    if unchanged {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    // What is put in here is hexadecimal, base64 or a checked name.
    let mut put = |name: &'static str, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    };
    put("etag", format!("\"{digest}\""));
    put(header::HOST, host.to_string());
    put(header::GENERATION, served.generation.to_string());
    put(header::SEAL, served.seal.clone());
    put(header::PROTOCOL, wire::PROTOCOL.to_owned());
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    if !unchanged {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
    }
    debug_assert!(headers.contains_key(ETAG));
    response
}
