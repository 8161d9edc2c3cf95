//! AWS Signature Version 4: who signed a request, and whether it is what they signed.

pub(crate) mod chunked;
mod presigned;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use aws_lc_rs::{constant_time, digest, hmac};
use http::HeaderMap;
use percent_encoding::percent_decode_str;

pub(crate) use presigned::presigned;

/// The only algorithm.
pub(crate) const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// How far a caller's clock may be from ours.
const SKEW_SECONDS: i64 = 15 * 60;

/// What a request is signed for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scope {
    pub(crate) key: String,
    pub(crate) date: String,
    pub(crate) region: String,
    pub(crate) service: String,
}

impl Scope {
    /// Reads `KEY/20260131/us-east-1/ec2/aws4_request`.
    fn parse(credential: &str) -> Option<Self> {
        let mut parts = credential.rsplitn(5, '/');
        let (last, service, region, date, key) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        (last == "aws4_request").then(|| Self {
            key: key.to_owned(),
            date: date.to_owned(),
            region: region.to_owned(),
            service: service.to_owned(),
        })
    }

    /// The scope without the key.
    pub(crate) fn text(&self) -> String {
        format!("{}/{}/{}/aws4_request", self.date, self.region, self.service)
    }
}

/// Why a request is not believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is not signed at all.
    Unsigned,
    /// The signature cannot be read.
    Malformed(String),
    UnknownKey(String),
    /// It was signed too long ago, or too far ahead.
    Skewed,
    /// A presigned URL has expired.
    Expired,
    /// It is not what was signed.
    Mismatch {
        /// What was to be signed, for those who look for their mistake.
        canonical: String,
    },
}

/// A signed request.
#[derive(Debug, Clone)]
pub(crate) struct Signed {
    pub(crate) scope: Scope,
    /// `20260131T120000Z`
    pub(crate) time: String,
    pub(crate) signature: String,
    names: Vec<String>,
}

/// What of a request is signed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    /// As it came, still encoded.
    pub(crate) path: &'a str,
    /// As it came, without the question mark.
    pub(crate) query: &'a str,
    pub(crate) headers: &'a HeaderMap,
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn sign(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

/// The key that signs within a scope.
pub(crate) fn signing_key(secret: &str, scope: &Scope) -> Vec<u8> {
    let date = sign(format!("AWS4{secret}").as_bytes(), &scope.date);
    [scope.region.as_str(), &scope.service, "aws4_request"].iter().fold(date, |key, part| sign(&key, part))
}

/// Encodes as SigV4 wants it: all but letters, digits, and `-._~`.
pub(crate) fn encode(bytes: &[u8], keep_slash: bool) -> String {
    let mut out = String::with_capacity(bytes.len());
    for b in bytes {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(*b)),
            b'/' if keep_slash => out.push('/'),
            b => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

/// The path as it is signed: S3 encodes it once, all others encode again what is encoded already.
fn canonical_path(path: &str, service: &str) -> String {
    if service == "s3" {
        let plain: Vec<u8> = percent_decode_str(path).collect();
        encode(&plain, true)
    } else {
        encode(path.as_bytes(), true)
    }
}

/// Names and values of a query string, decoded. Here a plus is a plus.
pub(crate) fn query_pairs(query: &str) -> Vec<(String, String)> {
    let plain = |t: &str| percent_decode_str(t).decode_utf8_lossy().into_owned();
    let parts = query.split('&').filter(|p| !p.is_empty());
    parts.map(|p| p.split_once('=').map_or((plain(p), String::new()), |(k, v)| (plain(k), plain(v)))).collect()
}

fn canonical_query(query: &str, leave_out: &str) -> String {
    let mut pairs: Vec<String> = query_pairs(query)
        .into_iter()
        .filter(|(k, _)| k != leave_out)
        .map(|(k, v)| format!("{}={}", encode(k.as_bytes(), false), encode(v.as_bytes(), false)))
        .collect();
    pairs.sort();
    pairs.join("&")
}

/// A header as it is signed: all its values, without spaces around them and with single ones inside.
fn canonical_header(headers: &HeaderMap, name: &str) -> String {
    let values = headers.get_all(name).iter().map(|v| {
        let text = String::from_utf8_lossy(v.as_bytes()).into_owned();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    });
    values.collect::<Vec<_>>().join(",")
}

impl Signed {
    /// The text whose digest is signed.
    fn canonical(&self, request: &Request<'_>, payload: &str) -> String {
        let headers: String =
            self.names.iter().map(|n| format!("{n}:{}\n", canonical_header(request.headers, n))).collect();
        format!(
            "{}\n{}\n{}\n{headers}\n{}\n{payload}",
            request.method,
            canonical_path(request.path, &self.scope.service),
            canonical_query(request.query, "X-Amz-Signature"),
            self.names.join(";"),
        )
    }

    /// Checks the signature with the key's secret; `payload` is the digest that the request claims for its body.
    pub(crate) fn check(&self, request: &Request<'_>, payload: &str, secret: &str) -> Result<(), Refusal> {
        let canonical = self.canonical(request, payload);
        let text = format!("{ALGORITHM}\n{}\n{}\n{}", self.time, self.scope.text(), sha256_hex(canonical.as_bytes()));
        let right = hex(&sign(&signing_key(secret, &self.scope), &text));
        if constant_time::verify_slices_are_equal(right.as_bytes(), self.signature.as_bytes()).is_ok() {
            return Ok(());
        }
        Err(Refusal::Mismatch { canonical })
    }
}

/// Reads the signature in a request's `Authorization`.
pub(crate) fn signed(request: &Request<'_>) -> Result<Signed, Refusal> {
    let header = request.headers.get("authorization").and_then(|v| v.to_str().ok()).ok_or(Refusal::Unsigned)?;
    let malformed = |what: &str| Refusal::Malformed(format!("Authorization header requires {what}"));
    let rest = header.strip_prefix(ALGORITHM).ok_or_else(|| malformed(ALGORITHM))?;
    let parts: BTreeMap<&str, &str> = rest.split(',').filter_map(|p| p.trim().split_once('=')).collect();
    let part = |name: &str| parts.get(name).copied().ok_or_else(|| malformed(&format!("'{name}' parameter.")));
    let scope = Scope::parse(part("Credential")?).ok_or_else(|| malformed("a well-formed Credential."))?;
    let names: Vec<String> = part("SignedHeaders")?.split(';').map(str::to_owned).collect();
    if !names.iter().any(|n| n == "host") {
        return Err(malformed("'host' to be signed."));
    }
    // What tells the request apart from another must be signed.
    for name in request.headers.keys() {
        let name = name.as_str();
        let must = name.starts_with("x-amz-") && !matches!(name, "x-amz-user-agent" | "x-amzn-trace-id");
        if must && scope.service == "s3" && !names.iter().any(|n| n == name) {
            return Err(Refusal::Malformed(format!(
                "There were headers present in the request which were not signed: {name}"
            )));
        }
    }
    let time = request.headers.get("x-amz-date").and_then(|v| v.to_str().ok());
    let time = time.ok_or_else(|| malformed("existence of either a 'X-Amz-Date' or a 'Date' header."))?.to_owned();
    if !time.starts_with(&scope.date) {
        return Err(malformed("the date of the credential to be that of the request."));
    }
    Ok(Signed { scope, time, signature: part("Signature")?.to_owned(), names })
}

/// The seconds since 1970 of `20260131T120000Z`.
pub(crate) fn seconds(time: &str) -> Option<i64> {
    let parsed = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", time).ok()?;
    Some(parsed.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
}

/// Refuses a request that was signed at another time than now.
pub(crate) fn check_time(time: &str, now: i64) -> Result<(), Refusal> {
    let at = seconds(time).ok_or_else(|| Refusal::Malformed(format!("{time} is not a time")))?;
    if (at - now).abs() > SKEW_SECONDS { Err(Refusal::Skewed) } else { Ok(()) }
}
