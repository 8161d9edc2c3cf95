//! The way in: who signed, whether they may, how often, and what goes wrong on purpose. Every call passes here and leaves a record.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use hyper::body::Incoming;

use super::body::Response;
use super::faults::Cut;
use super::journal::Call;
use super::{Access, CutOff, Shared, locked, now};
use crate::access::Need;
use crate::cloud::iso;
use crate::error::{Answer, ApiError};
use crate::sigv4::{self, Refusal, Request, Signed};

/// A request's head, and what it says of who sent it.
pub(crate) struct Caller {
    pub(crate) service: String,
    /// The signature, or why there is none that can be read.
    signed: Result<Signed, Refusal>,
    /// Whether the signature is in the URL.
    pub(crate) presigned: bool,
    pub(crate) peer: SocketAddr,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    begun: Instant,
    pub(crate) request: String,
}

/// A call that passed.
pub(crate) struct Admitted {
    pub(crate) access: Arc<Access>,
    pub(crate) signed: Signed,
}

impl Admitted {
    /// Who calls, as an ARN.
    pub(crate) fn arn(&self, account: &str) -> String {
        format!("arn:aws:iam::{account}:user/{}", self.access.user)
    }
}

/// What a call came to.
pub(crate) struct Outcome {
    pub(crate) response: Response,
    pub(crate) code: Option<String>,
}

/// Reads who sent a request. Nothing is believed yet.
pub(crate) fn identify(shared: &Shared, peer: SocketAddr, request: &http::Request<Incoming>) -> Caller {
    let (method, headers) = (request.method().as_str().to_owned(), request.headers().clone());
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let head = Request { method: &method, path: &path, query: &query, headers: &headers };
    let seconds = i64::try_from(now() / 1000).unwrap_or(0);
    let (signed, presigned) = match sigv4::presigned(&head, seconds) {
        Ok(Some(signed)) => (Ok(signed), true),
        Err(refusal) => (Err(refusal), true),
        Ok(None) => {
            let signed = sigv4::signed(&head);
            (signed.and_then(|s| sigv4::check_time(&s.time, seconds).map(|()| s)), false)
        }
    };
    let form =
        headers.get("content-type").is_some_and(|t| t.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
    let service = match &signed {
        Ok(s) => s.scope.service.clone(),
        // Unsigned, or not to be believed: by its looks.
        Err(_) if form && path == "/" => "ec2".to_owned(),
        Err(_) => guess(&headers, presigned).to_owned(),
    };
    let request = shared.request_id();
    Caller { service, signed, presigned, peer, method, path, query, headers, begun: Instant::now(), request }
}

/// The service that an unreadable signature names.
fn guess(headers: &HeaderMap, presigned: bool) -> &'static str {
    let text = headers.get("authorization").and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !presigned && text.contains("/ebs/aws4_request") { "ebs" } else { "s3" }
}

impl Caller {
    /// A header's text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    /// Checks the signature; `payload` is the digest of the body, or what stands in its place.
    pub(crate) fn authenticate(&self, shared: &Shared, payload: &str) -> Result<Admitted, Refusal> {
        let signed = self.signed.clone()?;
        let access = locked(&shared.keys).get(&signed.scope.key).cloned();
        let access = access.ok_or_else(|| Refusal::UnknownKey(signed.scope.key.clone()))?;
        let region = &shared.config.region;
        if signed.scope.region != *region {
            let why = format!("the region '{}' is wrong; expecting '{region}'", signed.scope.region);
            return Err(Refusal::Malformed(why));
        }
        let head = Request { method: &self.method, path: &self.path, query: &self.query, headers: &self.headers };
        signed.check(&head, payload, &access.secret)?;
        Ok(Admitted { access, signed })
    }

    /// Takes a token; false when the caller is too quick.
    pub(crate) fn throttle(&self, shared: &Shared, action: &str) -> bool {
        let key = self.signed.as_ref().map(|s| s.scope.key.clone()).unwrap_or_default();
        locked(&shared.buckets).take(&shared.config.throttle, &key, action, now())
    }

    /// The first thing that the caller needs and may not do, in the words that all of AWS's services have for it.
    pub(crate) fn lacks(&self, shared: &Shared, admitted: &Admitted, needs: &[Need]) -> Option<String> {
        let policy = admitted.access.policy.as_ref()?;
        let Need { action, resource, .. } = needs.iter().find(|need| !policy.allows(need))?;
        let arn = admitted.arn(&shared.config.account);
        let on = if resource == "*" { String::new() } else { format!(" on resource: {resource}") };
        Some(format!(
            "User: {arn} is not authorized to perform: {action}{on} because no identity-based policy allows the {action} action"
        ))
    }

    /// Lets the faults strike, then does the call, and records it. `denied` is why it is not to be done at all.
    pub(crate) async fn conclude<W>(
        &self,
        shared: &Shared,
        what: Described,
        denied: Option<ApiError>,
        refuse: impl Fn(&ApiError) -> Response,
        work: W,
    ) -> Result<Response, CutOff>
    where
        W: Future<Output = Answer<Outcome>>,
    {
        let struck = match &denied {
            Some(_) => None,
            None => locked(&shared.faults).strike(&self.service, &what.action, &what.parameters),
        };
        let (cut, error) = match &struck {
            Some(fault) => {
                tokio::time::sleep(Duration::from_millis(fault.delay_ms)).await;
                (fault.drop, fault.error())
            }
            None => (None, None),
        };
        let result = match (cut, denied.or(error)) {
            (Some(Cut::Before), _) => None,
            (_, Some(e)) => Some(Err(e)),
            (_, None) => Some(work.await),
        };
        let (response, code) = match result {
            None => (None, None),
            Some(Ok(outcome)) => (Some(outcome.response), outcome.code),
            Some(Err(e)) => (Some(refuse(&e)), Some(e.code.into_owned())),
        };
        let response = response.filter(|_| cut != Some(Cut::After));
        let status = response.as_ref().map_or(0, |r| r.status().as_u16());
        if !what.user.is_empty() {
            shared.with_cloud(|cloud| cloud.bill.request(&self.service, &what.action));
        }
        self.count_bytes(shared, response.as_ref());
        locked(&shared.calls).add(Call {
            number: 0,
            time: iso(now()),
            service: self.service.clone(),
            action: what.action,
            permissions: what.permissions,
            parameters: what.parameters.into_iter().map(|(name, _)| name).collect(),
            user: what.user,
            peer: self.peer.ip().to_string(),
            status,
            code,
            milliseconds: u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            request: self.request.clone(),
            fault: struck.is_some(),
        });
        let mut response = response.ok_or(CutOff)?;
        super::body::set(&mut response, "x-amz-request-id", &self.request);
        super::body::set(&mut response, "x-amzn-requestid", &self.request);
        Ok(response)
    }

    /// Puts what moved on the bill, by service, direction and place.
    fn count_bytes(&self, shared: &Shared, response: Option<&Response>) {
        let length = |headers: &HeaderMap| -> u64 {
            headers.get("content-length").and_then(|v| v.to_str().ok()?.parse().ok()).unwrap_or(0)
        };
        let place = if shared.is_inside(self.peer) { "region" } else { "internet" };
        let out = response.map_or(0, |r| hyper::body::Body::size_hint(r.body()).exact().unwrap_or(0));
        shared.with_cloud(|cloud| {
            cloud.bill.moved(&format!("{} in {place}", self.service), length(&self.headers));
            cloud.bill.moved(&format!("{} out {place}", self.service), out);
        });
    }
}

/// What a call is, for the record.
pub(crate) struct Described {
    pub(crate) action: String,
    pub(crate) permissions: Vec<String>,
    pub(crate) parameters: Vec<(String, String)>,
    pub(crate) user: String,
}
