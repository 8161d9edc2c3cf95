//! Takes bodies in: to a file, decoded, and with every digest that the caller gave checked.

use std::fs::File;
use std::io::Write as _;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use md5::{Digest as _, Md5};

use super::Call;
use super::checksum::{Algorithm, Sum};
use super::store::{Kept, Stored};
use crate::error::{Answer, ApiError};
use crate::server::locked;
use crate::sigv4::{chunked, hex};

/// A body that has come, and is what it was said to be.
pub(super) struct Received {
    pub(super) data: Stored,
    pub(super) size: u64,
    pub(super) md5: Vec<u8>,
    pub(super) checksum: Option<Kept>,
}

fn bad_digest(name: &str) -> ApiError {
    ApiError::new("BadDigest", format!("The {name} you specified did not match the calculated checksum."))
}

fn cut(e: impl std::fmt::Display) -> ApiError {
    let message = format!("You did not provide the number of bytes specified by the Content-Length HTTP header ({e})");
    ApiError::new("IncompleteBody", message)
}

/// What is checked while a body comes.
struct Checks {
    decoder: Option<chunked::Decoder>,
    payload: Option<String>,
    sha256: digest::Context,
    md5: Md5,
    md5_claimed: Option<Vec<u8>>,
    algorithm: Option<Algorithm>,
    sum: Option<Sum>,
    claimed: Option<String>,
    announced: Option<u64>,
    size: u64,
}

impl Checks {
    fn new(call: &Call<'_>) -> Answer<Self> {
        let header = |name: &str| call.caller.header(name);
        let content = header("x-amz-content-sha256").unwrap_or("UNSIGNED-PAYLOAD");
        let form = chunked::form(content);
        if form.is_none() && content.starts_with("STREAMING-") {
            return Err(ApiError::new("NotImplemented", format!("minicloud has no {content}")));
        }
        let decoder = form.map(|f| chunked::Decoder::new(f, &call.admitted.signed, &call.admitted.access.secret));
        let payload = (form.is_none() && content != "UNSIGNED-PAYLOAD").then(|| content.to_owned());
        let md5_claimed = match header("content-md5") {
            None => None,
            Some(text) => Some(
                STANDARD
                    .decode(text)
                    .ok()
                    .filter(|d| d.len() == 16)
                    .ok_or_else(|| ApiError::new("InvalidDigest", "The Content-MD5 you specified was invalid."))?,
            ),
        };
        let given: Vec<Algorithm> =
            Algorithm::ALL.into_iter().filter(|a| call.caller.headers.contains_key(a.header())).collect();
        if given.len() > 1 {
            let message = "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.";
            return Err(ApiError::new("InvalidRequest", message));
        }
        let claimed = given.first().and_then(|a| header(a.header())).map(str::to_owned);
        if let (Some(a), Some(value)) = (given.first(), &claimed)
            && !a.is_value(value)
        {
            let message = format!("Value for {} header is invalid.", a.header());
            return Err(ApiError::new("InvalidRequest", message));
        }
        let trailing =
            header("x-amz-trailer").and_then(|names| names.split(',').find_map(|n| Algorithm::of_header(n.trim())));
        let asked = header("x-amz-sdk-checksum-algorithm").and_then(Algorithm::named);
        let algorithm = given.first().copied().or(trailing);
        if let (Some(asked), None) = (asked, algorithm) {
            let message = format!(
                "x-amz-sdk-checksum-algorithm specified {}, but no corresponding x-amz-checksum-* or x-amz-trailer headers were found.",
                asked.name()
            );
            return Err(ApiError::new("InvalidRequest", message));
        }
        let announced = header("x-amz-decoded-content-length").and_then(|n| n.parse().ok());
        if decoder.is_some() && announced.is_none() {
            let message = "You must provide the x-amz-decoded-content-length HTTP header.";
            return Err(ApiError::new("MissingContentLength", message));
        }
        Ok(Self {
            decoder,
            payload,
            sha256: digest::Context::new(&digest::SHA256),
            md5: Md5::new(),
            md5_claimed,
            algorithm,
            sum: algorithm.map(Algorithm::begin),
            claimed,
            announced,
            size: 0,
        })
    }

    /// Takes in bytes as they came and gives those that are kept.
    fn take(&mut self, bytes: Bytes) -> Answer<Bytes> {
        let bytes = match &mut self.decoder {
            Some(decoder) => decoder.take(&bytes).map_err(chunk_error)?.into(),
            None => bytes,
        };
        if self.payload.is_some() {
            self.sha256.update(&bytes);
        }
        self.md5.update(&bytes);
        if let Some(sum) = &mut self.sum {
            sum.add(&bytes);
        }
        self.size += bytes.len() as u64;
        Ok(bytes)
    }

    fn finish(mut self) -> Answer<(u64, Vec<u8>, Option<Kept>)> {
        if let Some(decoder) = self.decoder.take() {
            let trailers = decoder.finish(self.announced).map_err(chunk_error)?;
            if let Some(algorithm) = self.algorithm
                && let Some((_, value)) = trailers.iter().find(|(name, _)| name == algorithm.header())
            {
                self.claimed = Some(value.clone());
            }
            if self.algorithm.is_some() && self.claimed.is_none() {
                let message = "The trailer that was announced did not come.";
                return Err(ApiError::new("MalformedTrailerError", message));
            }
        }
        if self.payload.is_some_and(|claimed| claimed != hex(self.sha256.finish().as_ref())) {
            let message = "The provided 'x-amz-content-sha256' header does not match what was computed.";
            return Err(ApiError::new("XAmzContentSHA256Mismatch", message));
        }
        let md5 = self.md5.finalize().to_vec();
        if self.md5_claimed.is_some_and(|claimed| claimed != md5) {
            return Err(bad_digest("Content-MD5"));
        }
        let kept = match (self.algorithm, self.sum) {
            (Some(algorithm), Some(sum)) => {
                let value = sum.value();
                if self.claimed.is_some_and(|claimed| claimed != value) {
                    return Err(bad_digest(algorithm.name()));
                }
                Some(Kept { algorithm, value, composite: false })
            }
            _ => None,
        };
        Ok((self.size, md5, kept))
    }
}

fn chunk_error(why: &'static str) -> ApiError {
    let code = if why.contains("signature") || why.contains("not signed") {
        "SignatureDoesNotMatch"
    } else {
        "IncompleteBody"
    };
    ApiError::new(code, format!("The body is not what it says: {why}"))
}

fn body_of(call: &Call<'_>) -> Answer<Incoming> {
    locked(call.body).take().ok_or_else(|| ApiError::internal("the body was taken before"))
}

/// A short body.
pub(super) async fn small(call: &Call<'_>) -> Answer<Vec<u8>> {
    let mut checks = Checks::new(call)?;
    let mut body = body_of(call)?;
    let mut all = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(bytes) = frame.map_err(cut)?.into_data() {
            all.extend_from_slice(&checks.take(bytes)?);
            if all.len() > 4 << 20 {
                return Err(ApiError::new("EntityTooLarge", "Your proposed upload exceeds the maximum allowed size."));
            }
        }
    }
    checks.finish()?;
    Ok(all)
}

/// A body that goes to a file.
pub(super) async fn stored(call: &Call<'_>) -> Answer<Received> {
    let mut checks = Checks::new(call)?;
    if checks.announced.is_none() && !call.caller.headers.contains_key("content-length") {
        return Err(ApiError::new("MissingContentLength", "You must provide the Content-Length HTTP header."));
    }
    let mut body = body_of(call)?;
    let (data, mut file) = call.shared.objects.file().map_err(ApiError::internal)?;
    // Pieces are gathered, so that a thread is asked for a megabyte and not for a packet.
    let mut pending: Vec<Bytes> = Vec::new();
    let mut gathered = 0;
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame.map_err(cut)?.into_data() else { continue };
        let bytes = checks.take(bytes)?;
        gathered += bytes.len();
        pending.push(bytes);
        if gathered >= 1 << 20 {
            file = write(file, std::mem::take(&mut pending)).await?;
            gathered = 0;
        }
    }
    write(file, pending).await?;
    let (size, md5, checksum) = checks.finish()?;
    Ok(Received { data, size, md5, checksum })
}

async fn write(mut file: File, pieces: Vec<Bytes>) -> Answer<File> {
    let written = tokio::task::spawn_blocking(move || {
        for piece in &pieces {
            file.write_all(piece)?;
        }
        Ok::<_, std::io::Error>(file)
    });
    written.await.map_err(ApiError::internal)?.map_err(ApiError::internal)
}
