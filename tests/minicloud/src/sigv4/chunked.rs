//! Bodies in `aws-chunked` form: chunks with their length, perhaps signed one by one, and perhaps a trailer with a checksum.
//!
//! ```text
//! 400;chunk-signature=<hex>\r\n <1024 bytes> \r\n ... 0;chunk-signature=<hex>\r\n x-amz-checksum-crc32:<base64>\r\n \r\n
//! ```

use super::{ALGORITHM, Signed, hex, sha256_hex, sign, signing_key};
use aws_lc_rs::constant_time;

/// What a body's chunks are like, by the request's `x-amz-content-sha256`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) signed: bool,
    pub(crate) trailer: bool,
}

/// The form that a request announces, if it is one.
pub(crate) fn form(content_sha256: &str) -> Option<Form> {
    match content_sha256 {
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => Some(Form { signed: false, trailer: true }),
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" => Some(Form { signed: true, trailer: false }),
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => Some(Form { signed: true, trailer: true }),
        _ => None,
    }
}

/// How chunks are signed: each over the one before it.
#[derive(Debug)]
struct Chain {
    key: Vec<u8>,
    time: String,
    scope: String,
    last: String,
}

impl Chain {
    fn next(&mut self, kind: &str, parts: &[String], claimed: &str) -> bool {
        let text = format!("{kind}\n{}\n{}\n{}\n{}", self.time, self.scope, self.last, parts.join("\n"));
        let right = hex(&sign(&self.key, &text));
        let same = constant_time::verify_slices_are_equal(right.as_bytes(), claimed.as_bytes()).is_ok();
        self.last = right;
        same
    }
}

#[derive(Debug, PartialEq, Eq)]
enum At {
    /// Before a chunk's length.
    Head,
    /// In a chunk: so much of it is still to come.
    Data(usize),
    /// After a chunk's data.
    End,
    Trailer,
    Over,
}

/// Takes a body in as it comes and gives what is in it.
#[derive(Debug)]
pub(crate) struct Decoder {
    chain: Option<Chain>,
    form: Form,
    at: At,
    buffer: Vec<u8>,
    /// A signed chunk is held until its signature is checked.
    held: Vec<u8>,
    signature: String,
    trailers: Vec<(String, String)>,
    decoded: u64,
}

/// The longest line that is taken for one.
const LONGEST_LINE: usize = 4096;
/// The longest signed chunk: it has to be held.
const LONGEST_CHUNK: usize = 64 << 20;

impl Decoder {
    pub(crate) fn new(form: Form, signed: &Signed, secret: &str) -> Self {
        let chain = form.signed.then(|| Chain {
            key: signing_key(secret, &signed.scope),
            time: signed.time.clone(),
            scope: signed.scope.text(),
            last: signed.signature.clone(),
        });
        Self {
            chain,
            form,
            at: At::Head,
            buffer: Vec::new(),
            held: Vec::new(),
            signature: String::new(),
            trailers: Vec::new(),
            decoded: 0,
        }
    }

    /// Takes in a part of the body and gives its data.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<Vec<u8>, &'static str> {
        self.buffer.extend_from_slice(bytes);
        let mut out = Vec::new();
        let mut from = 0;
        loop {
            match self.at {
                At::Head => {
                    let Some(line) = self.line(&mut from)? else { break };
                    let (length, rest) = line.split_once(';').unwrap_or((&line, ""));
                    let length =
                        usize::from_str_radix(length.trim(), 16).map_err(|_| "a chunk's length is no number")?;
                    if self.chain.is_some() {
                        if length > LONGEST_CHUNK {
                            return Err("a signed chunk is too long");
                        }
                        let claimed = rest.trim().strip_prefix("chunk-signature=");
                        self.signature = claimed.ok_or("a chunk is not signed")?.to_owned();
                    }
                    self.at = At::Data(length);
                    if length == 0 {
                        self.check_chunk()?;
                        self.at = At::Trailer;
                    }
                }
                At::Data(left) => {
                    let n = left.min(self.buffer.len() - from);
                    let data = &self.buffer[from..from + n];
                    self.decoded += n as u64;
                    if self.chain.is_some() {
                        self.held.extend_from_slice(data)
                    } else {
                        out.extend_from_slice(data)
                    }
                    from += n;
                    if n < left {
                        self.at = At::Data(left - n);
                        break;
                    }
                    if self.chain.is_some() {
                        self.check_chunk()?;
                        out.append(&mut self.held);
                    }
                    self.at = At::End;
                }
                At::End => {
                    let Some(line) = self.line(&mut from)? else { break };
                    if !line.is_empty() {
                        return Err("a chunk is longer than it says");
                    }
                    self.at = At::Head;
                }
                At::Trailer => {
                    let Some(line) = self.line(&mut from)? else { break };
                    if line.is_empty() {
                        self.at = At::Over;
                        continue;
                    }
                    let (name, value) = line.split_once(':').ok_or("a trailer has no name")?;
                    self.trailers.push((name.trim().to_lowercase(), value.trim().to_owned()));
                }
                At::Over => {
                    if from < self.buffer.len() {
                        return Err("there is something after the end");
                    }
                    break;
                }
            }
        }
        self.buffer.drain(..from);
        Ok(out)
    }

    fn line(&self, from: &mut usize) -> Result<Option<String>, &'static str> {
        let rest = &self.buffer[*from..];
        let Some(n) = rest.windows(2).position(|w| w == b"\r\n") else {
            return if rest.len() > LONGEST_LINE { Err("a line is too long") } else { Ok(None) };
        };
        *from += n + 2;
        Ok(Some(String::from_utf8_lossy(&rest[..n]).into_owned()))
    }

    fn check_chunk(&mut self) -> Result<(), &'static str> {
        let Some(chain) = &mut self.chain else { return Ok(()) };
        let parts = [sha256_hex(b""), sha256_hex(&self.held)];
        if chain.next(&format!("{ALGORITHM}-PAYLOAD"), &parts, &self.signature) {
            Ok(())
        } else {
            Err("a chunk's signature does not match")
        }
    }

    /// Ends the body: what its trailer says. `announced` is the length that the request gave for what is in it.
    pub(crate) fn finish(mut self, announced: Option<u64>) -> Result<Vec<(String, String)>, &'static str> {
        // The last line's end is left out by some when there is no trailer.
        let over =
            self.at == At::Over || (self.at == At::Trailer && self.trailers.is_empty() && self.buffer.is_empty());
        if !over {
            return Err("the body ends before its end");
        }
        if announced.is_some_and(|n| n != self.decoded) {
            return Err("x-amz-decoded-content-length is not the length of what came");
        }
        let at = self.trailers.iter().position(|(k, _)| k == "x-amz-trailer-signature");
        let signature = at.map(|n| self.trailers.remove(n).1);
        if let (Some(chain), true) = (&mut self.chain, self.form.trailer) {
            let text: String = self.trailers.iter().map(|(k, v)| format!("{k}:{v}\n")).collect();
            let parts = [sha256_hex(text.as_bytes())];
            let claimed = signature.ok_or("the trailer is not signed")?;
            if !chain.next(&format!("{ALGORITHM}-TRAILER"), &parts, &claimed) {
                return Err("the trailer's signature does not match");
            }
        }
        Ok(self.trailers)
    }
}
