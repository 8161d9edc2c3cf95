//! Signed messages (CMS, RFC 5652), as EC2 signs instance identity documents: RSA with SHA-256, one signer, the content inside or not, with
//! signed attributes or without. The key is one that the administrator named: certificates in the message are passed over.

use aws_lc_rs::digest::{SHA256, digest};

use super::ber::{INTEGER, Malformed, OID, Reader, SEQUENCE, SET, Value, set_of};
use super::certificate::Certificate;

/// `1.2.840.113549.1.7.1` and `...7.2`: data, and data that is signed.
const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1];
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2];
/// `1.2.840.113549.1.9.3` and `...9.4`: attributes that say what is signed.
const CONTENT_TYPE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 3];
const MESSAGE_DIGEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 4];
/// `2.16.840.1.101.3.4.2.1`.
const SHA_256: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
/// `1.2.840.113549.1.1.1` and `...1.11`: RSA, and RSA with SHA-256.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
const RSA_SHA_256: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11];

/// Tags of parts that may be left out.
const CONTEXT_0: u8 = 0xa0;
const CONTEXT_1: u8 = 0xa1;

/// Why a signature does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unsigned {
    /// It is no such message.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It is signed in another way than ours.
    #[error("it is signed otherwise than by RSA with SHA-256 ({0})")]
    Algorithm(&'static str),
    /// It is over something else.
    #[error("the signature is over something else")]
    Content,
    /// No known key made it.
    #[error("the signature is not by the region's key")]
    Key,
}

/// What a message says, as far as it counts.
struct Message<'m> {
    /// The content, if it is inside.
    content: Option<std::borrow::Cow<'m, [u8]>>,
    /// The attributes that are signed in place of the content.
    attributes: Option<Value<'m>>,
    signature: std::borrow::Cow<'m, [u8]>,
}

/// The algorithm that a sequence names.
fn algorithm<'m>(reader: &mut Reader<'m>) -> Result<&'m [u8], Malformed> {
    let value = reader.need(SEQUENCE, "an algorithm is missing")?;
    Ok(value.inside().need(OID, "an algorithm has no name")?.body)
}

fn read(bytes: &[u8]) -> Result<Message<'_>, Unsigned> {
    let mut outer = Reader::new(bytes);
    let mut info = outer.need(SEQUENCE, "it is no sequence")?.inside();
    outer.end()?;
    if info.need(OID, "it has no type")?.body != SIGNED_DATA {
        return Err(Malformed("it is not signed").into());
    }
    let mut wrapped = info.need(CONTEXT_0, "it has no content")?.inside();
    info.end()?;
    let mut data = wrapped.need(SEQUENCE, "its content is no sequence")?.inside();
    wrapped.end()?;
    data.need(INTEGER, "it has no version")?;
    data.need(SET, "it has no digests")?;
    let mut inner = data.need(SEQUENCE, "it is over nothing")?.inside();
    if inner.need(OID, "what it is over has no type")?.body != DATA {
        return Err(Malformed("what it is over is not plain data").into());
    }
    let content = match inner.maybe(&[CONTEXT_0])? {
        Some(value) => {
            let mut value = value.inside();
            let octets = value.octets()?;
            value.end()?;
            Some(octets)
        }
        None => None,
    };
    inner.end()?;
    // Certificates and revocation lists.
    data.maybe(&[CONTEXT_0])?;
    data.maybe(&[CONTEXT_1])?;
    let mut signers = data.need(SET, "it has no signers")?.inside();
    data.end()?;
    let mut signer = signers.need(SEQUENCE, "nobody signed it")?.inside();
    if !signers.is_empty() {
        return Err(Malformed("several signed it").into());
    }
    signer.need(INTEGER, "its signer has no version")?;
    // Which certificate the signer means: whatever that is, ours must fit.
    signer.next()?;
    if algorithm(&mut signer)? != SHA_256 {
        return Err(Unsigned::Algorithm("another digest"));
    }
    let attributes = signer.maybe(&[CONTEXT_0])?;
    if ![RSA, RSA_SHA_256].contains(&algorithm(&mut signer)?) {
        return Err(Unsigned::Algorithm("another signature"));
    }
    let signature = signer.octets()?;
    // What nobody signed.
    signer.maybe(&[CONTEXT_1])?;
    signer.end()?;
    Ok(Message { content, attributes, signature })
}

/// The one value of the attribute of that name; there must be exactly one of both.
fn attribute<'m>(attributes: &[Value<'m>], name: &[u8]) -> Result<Value<'m>, Malformed> {
    let mut found = None;
    for attribute in attributes {
        let mut parts = attribute.inside();
        if parts.need(OID, "an attribute has no name")?.body != name {
            continue;
        }
        let mut values = parts.need(SET, "an attribute has no values")?.inside();
        let value = values.next()?;
        values.end()?;
        parts.end()?;
        if found.replace(value).is_some() {
            return Err(Malformed("an attribute is there twice"));
        }
    }
    found.ok_or(Malformed("an attribute is missing"))
}

/// The bytes that the signature is over: the content, or the attributes if those name the content's digest.
fn signed(message: &Message<'_>, content: &[u8]) -> Result<Vec<u8>, Unsigned> {
    let Some(attributes) = message.attributes else { return Ok(content.to_vec()) };
    let (mut reader, mut all) = (attributes.inside(), Vec::new());
    while !reader.is_empty() {
        all.push(reader.need(SEQUENCE, "an attribute is no sequence")?);
    }
    let kind = attribute(&all, CONTENT_TYPE)?;
    if (kind.tag, kind.body) != (OID, DATA) {
        return Err(Unsigned::Content);
    }
    if *attribute(&all, MESSAGE_DIGEST)?.octets()? != *digest(&SHA256, content).as_ref() {
        return Err(Unsigned::Content);
    }
    // They travel under another tag and perhaps in another order than they are signed in (RFC 5652, 5.4).
    Ok(set_of(all.iter().map(|one| one.whole).collect()))
}

/// Checks that `message` is a signature over `content` by the key of one of these certificates.
///
/// # Errors
/// Why it is not.
pub(super) fn verify(message: &[u8], content: &[u8], keys: &[Certificate]) -> Result<(), Unsigned> {
    let message = read(message)?;
    if message.content.as_ref().is_some_and(|inside| **inside != *content) {
        return Err(Unsigned::Content);
    }
    let signed = signed(&message, content)?;
    if keys.iter().any(|key| key.signed(&signed, &message.signature)) { Ok(()) } else { Err(Unsigned::Key) }
}
