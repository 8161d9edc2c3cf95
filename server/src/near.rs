//! Where a host's packages come from, beside the mirror itself: what it is told of relays and buckets, and the index that makes it
//! indifferent.

use std::sync::Arc;

use bytes::Bytes;
use flate2::read::GzDecoder;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH, LOCATION,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use rocks_common::attr::Attributes;
use rocks_common::ids::{ArchName, HostName};
use rocks_common::wire::{RelayAddress, Sources, header, path};
use rocks_common::{index, limits};

use crate::bucket::Bucket;
use crate::kickstart::Service;
use crate::listen::problem;
use crate::mirror::index::{Indexes, digest_of};
use crate::store::StoreError;

/// The attribute that names relays, several with spaces or commas between them.
pub const RELAY: &str = "package_relay";
/// The attribute that says which kinds of sources a host uses: `relay`, `bucket`, both, or `frontend` for none. Without it: both.
pub const NEAR: &str = "package_near";

type Reply = Response<Full<Bytes>>;

/// What the public listener needs for all this.
pub struct Near {
    /// The indexes of the mirror.
    pub indexes: Arc<Indexes>,
    /// The packages in a bucket.
    pub bucket: Arc<Bucket>,
}

/// The words of an attribute.
fn words<'a>(attributes: &'a Attributes, name: &str) -> Option<Vec<&'a str>> {
    let value = attributes.get(name)?;
    let words: Vec<&str> = value.split([' ', ',', '\t', '\n']).filter(|word| !word.is_empty()).collect();
    (!words.is_empty()).then_some(words)
}

/// The relays that `attributes` name for `host`; and those words that are none.
fn relays<'a>(attributes: &'a Attributes, host: &HostName) -> (Vec<RelayAddress>, Vec<&'a str>) {
    let (mut relays, mut bad) = (Vec::new(), Vec::new());
    for word in words(attributes, RELAY).unwrap_or_default() {
        match word.parse::<RelayAddress>() {
            // It would ask itself.
            Ok(relay) if relay.host.as_ref() == Some(host) => {}
            Ok(relay) => relays.push(relay),
            Err(_) => bad.push(word),
        }
    }
    relays.truncate(limits::RELAYS);
    (relays, bad)
}

impl Near {
    /// The way to a file of the mirror in the bucket, if whoever asks for it would go there and it is there.
    pub async fn elsewhere(&self, asked: &str, headers: &HeaderMap) -> Option<Reply> {
        if headers.get(header::NEAR)?.as_bytes() != b"bucket" || !self.bucket.has_any() {
            return None;
        }
        let (arch, path) = asked.strip_prefix(path::MIRROR)?.strip_prefix('/')?.split_once('/')?;
        let (indexes, arch) = (self.indexes.clone(), ArchName::new(arch).ok()?);
        let digest = match digest_of(path) {
            Some(digest) => digest,
            // Under its usual name it is whatever it is now.
            None if path == index::REPOMD => {
                let published = tokio::task::spawn_blocking(move || indexes.get(&arch)).await.ok()??;
                published.index.find(path)?.1.digest
            }
            None => return None,
        };
        let address = self.bucket.address(digest).await?;
        let mut reply = Response::new(Full::default());
        *reply.status_mut() = StatusCode::TEMPORARY_REDIRECT;
        // Whoever has the address may read the object: it is told to nobody else.
        reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
        reply.headers_mut().insert(LOCATION, HeaderValue::from_str(&address).ok()?);
        Some(reply)
    }

    /// Tells `host` where to look.
    ///
    /// # Errors
    /// The store's.
    pub async fn sources(&self, service: &Service, host: &HostName) -> Result<Reply, StoreError> {
        let attributes = service.attributes(host).await?;
        let uses = |kind: &str| words(&attributes, NEAR).is_none_or(|kinds| kinds.contains(&kind));
        let (mut relays, bad) = relays(&attributes, host);
        for word in bad {
            tracing::warn!(
                "{RELAY} of {host}: `{word}` is no relay: it is written as in 10.0.0.5 or HOST@10.0.0.5:8445"
            );
        }
        if !uses("relay") {
            relays.clear();
        }
        let indexes = self.indexes.clone();
        let all = tokio::task::spawn_blocking(move || indexes.all()).await.unwrap_or_default();
        let indexes = all.iter().map(|published| published.sealed.clone()).collect();
        let sources = Sources { relays, bucket: uses("bucket") && self.bucket.has_any(), indexes };
        let mut reply = Response::new(Full::new(Bytes::from(serde_json::to_vec(&sources).unwrap_or_default())));
        reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
        Ok(reply)
    }

    /// Answers a request for an index.
    pub async fn index(&self, asked: &str, headers: &HeaderMap) -> Reply {
        let none = || problem(StatusCode::NOT_FOUND, "no-index", "nothing is published for this architecture");
        let arch = asked.strip_prefix(path::INDEX).and_then(|rest| rest.strip_prefix('/'));
        let Some(arch) = arch.and_then(|arch| ArchName::new(arch).ok()) else { return none() };
        let indexes = self.indexes.clone();
        let published = tokio::task::spawn_blocking(move || indexes.get(&arch)).await.ok().flatten();
        let Some(published) = published else { return none() };
        let text = |name: http::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let claim = &published.sealed.claim;
        let etag = format!("\"{}\"", claim.digest);
        if text(IF_MATCH).is_some_and(|wanted| wanted != etag && wanted != "*") {
            return problem(StatusCode::PRECONDITION_FAILED, "other-index", "the index is another one now");
        }
        let is_known = text(IF_NONE_MATCH).is_some_and(|known| known.trim_start_matches("W/") == etag);
        let gzip = text(ACCEPT_ENCODING).is_some_and(|takes| takes.contains("gzip"));
        let body = match (is_known, gzip) {
            (true, _) => Bytes::new(),
            (false, true) => published.gzip.clone(),
            (false, false) => {
                let mut plain = Vec::new();
                // It is our own compression of a text in memory.
                let _ = std::io::Read::read_to_end(&mut GzDecoder::new(&published.gzip[..]), &mut plain);
                Bytes::from(plain)
            }
        };
        let mut reply = Response::new(Full::new(body));
        if is_known {
            *reply.status_mut() = StatusCode::NOT_MODIFIED;
        } else {
            reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            if gzip {
                reply.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
        }
        let mut put = |name: http::HeaderName, value: &str| {
            // Hexadecimal, decimal or base64.
            if let Ok(value) = HeaderValue::from_str(value) {
                reply.headers_mut().insert(name, value);
            }
        };
        put(ETAG, &etag);
        put(http::HeaderName::from_static(header::GENERATION), &claim.generation.to_string());
        put(http::HeaderName::from_static(header::SEAL), &published.sealed.seal);
        put(CACHE_CONTROL, "private, no-cache");
        reply
    }
}

#[cfg(test)]
mod tests {
    use rocks_common::attr::Scope;
    use rocks_common::ids::AttrName;

    use super::*;

    #[test]
    fn relays_are_read_of_an_attribute_and_a_host_is_none_of_its_own() {
        let host = HostName::new("relay-0-0").expect("a name");
        let mut attributes = Attributes::new();
        assert_eq!(relays(&attributes, &host), (Vec::new(), Vec::new()));
        let name = AttrName::new(RELAY).expect("a name");
        attributes.set(Scope::Global, name, "10.0.0.5, relay-0-0@10.0.0.6:9 relay-0-1@10.0.0.7 what? ");
        let (found, bad) = relays(&attributes, &host);
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.5:8445", "relay-0-1@10.0.0.7:8445"]);
        assert_eq!(bad, ["what?"]);
    }
}
