//! Just enough of CMS to write a signed message, in the form in which AWS does: with indefinite lengths, as BER allows and DER does not.
//! A verifier that reads DER only finds out here.

/// A value with its length.
pub(super) fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let n = content.len();
    if n < 128 {
        out.push(u8::try_from(n).unwrap_or_default());
    } else {
        let bytes: Vec<u8> = n.to_be_bytes().into_iter().skip_while(|b| *b == 0).collect();
        out.push(0x80 | u8::try_from(bytes.len()).unwrap_or_default());
        out.extend(bytes);
    }
    out.extend_from_slice(content);
    out
}

/// A value that ends where it says so.
fn open(tag: u8, content: &[u8]) -> Vec<u8> {
    [&[tag, 0x80], content, &[0, 0]].concat()
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OCTETS: u8 = 0x04;

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    der(SEQUENCE, &parts.concat())
}

/// `1.2.840.113549.1.7.2`, `...7.1`, and of PKCS #9 `...9.3`, `...9.4`, `...9.5`.
const SIGNED_DATA: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2];
const DATA: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1];
const CONTENT_TYPE: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 3];
const MESSAGE_DIGEST: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 4];
const SIGNING_TIME: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 5];
/// `2.16.840.1.101.3.4.2.1`, with NULL.
const SHA256: &[u8] = &[0x30, 13, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0];
/// `1.2.840.113549.1.1.1`, with NULL.
const RSA: &[u8] = &[0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
const VERSION_1: &[u8] = &[2, 1, 1];

/// Who signs: the issuer's name and the serial number of the certificate, as they stand in it.
pub(super) struct Signer<'a> {
    pub(super) issuer: &'a [u8],
    pub(super) serial: &'a [u8],
}

/// A signed message with its content inside. `time` is `YYMMDDhhmmssZ`; `sign` signs bytes with RSA and SHA-256.
pub(super) fn signed(
    content: &[u8],
    digest: &[u8],
    time: &str,
    signer: &Signer<'_>,
    sign: impl FnOnce(&[u8]) -> Vec<u8>,
) -> Vec<u8> {
    // In DER, and in the order that a SET OF has.
    let mut attributes = [
        sequence(&[CONTENT_TYPE, &der(SET, DATA)]),
        sequence(&[SIGNING_TIME, &der(SET, &der(0x17, time.as_bytes()))]),
        sequence(&[MESSAGE_DIGEST, &der(SET, &der(OCTETS, digest))]),
    ];
    attributes.sort();
    let attributes = attributes.concat();
    let signature = sign(&der(SET, &attributes));
    let name = sequence(&[signer.issuer, &der(2, signer.serial)]);
    let info = sequence(&[VERSION_1, &name, SHA256, &der(0xa0, &attributes), RSA, &der(OCTETS, &signature)]);
    let inner = open(SEQUENCE, &[DATA, &open(0xa0, &open(0x24, &der(OCTETS, content)))].concat());
    let data = open(SEQUENCE, &[VERSION_1, &der(SET, SHA256), &inner, &der(SET, &info)].concat());
    open(SEQUENCE, &[SIGNED_DATA, &open(0xa0, &data)].concat())
}
