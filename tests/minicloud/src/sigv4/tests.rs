//! Against the examples in Amazon's documentation.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::chunked::{Decoder, form};
use super::*;

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let each = pairs.iter().map(|(k, v)| {
        let name: HeaderName = k.parse().expect("a name");
        (name, HeaderValue::from_str(v).expect("a value"))
    });
    each.collect()
}

#[test]
fn the_documented_get_of_an_object() {
    let authorization = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
        SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,\
        Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
    let empty = sha256_hex(b"");
    let headers = headers(&[
        ("host", "examplebucket.s3.amazonaws.com"),
        ("range", "bytes=0-9"),
        ("x-amz-content-sha256", &empty),
        ("x-amz-date", "20130524T000000Z"),
        ("authorization", authorization),
    ]);
    let request = Request { method: "GET", path: "/test.txt", query: "", headers: &headers };
    let signed = signed(&request).expect("signed");
    assert_eq!(signed.scope.service, "s3");
    assert_eq!(signed.check(&request, &empty, SECRET), Ok(()));
    assert!(matches!(signed.check(&request, &empty, "other"), Err(Refusal::Mismatch { .. })));
    let other = Request { path: "/test2.txt", ..request };
    assert!(matches!(signed.check(&other, &empty, SECRET), Err(Refusal::Mismatch { .. })));
    assert_eq!(check_time(&signed.time, 1_369_353_600 + 899), Ok(()));
    assert_eq!(check_time(&signed.time, 1_369_353_600 + 901), Err(Refusal::Skewed));
}

#[test]
fn the_documented_presigned_url() {
    let query = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
        &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
        &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";
    let headers = headers(&[("host", "examplebucket.s3.amazonaws.com")]);
    let request = Request { method: "GET", path: "/test.txt", query, headers: &headers };
    let now = 1_369_353_600;
    let signed = presigned(&request, now).expect("readable").expect("presigned");
    assert_eq!(signed.check(&request, "UNSIGNED-PAYLOAD", SECRET), Ok(()));
    assert_eq!(presigned(&request, now + 86_400).expect_err("too late"), Refusal::Expired);
    let longer = query.replace("86400", "86401");
    let request = Request { query: &longer, ..request };
    let signed = presigned(&request, now).expect("readable").expect("presigned");
    assert!(signed.check(&request, "UNSIGNED-PAYLOAD", SECRET).is_err());
}

#[test]
fn unsigned_and_malformed_are_told_apart() {
    let nothing = HeaderMap::new();
    let request = Request { method: "GET", path: "/", query: "", headers: &nothing };
    assert_eq!(signed(&request).expect_err("nothing"), Refusal::Unsigned);
    for wrong in [
        "Basic abc",
        "AWS4-HMAC-SHA256 Credential=a/b",
        "AWS4-HMAC-SHA256 Credential=k/d/r/s/aws4_request, SignedHeaders=date, Signature=x",
    ] {
        let headers = headers(&[("authorization", wrong), ("x-amz-date", "20130524T000000Z")]);
        let request = Request { headers: &headers, ..request };
        assert!(matches!(signed(&request), Err(Refusal::Malformed(_))), "{wrong}");
    }
}

#[test]
fn paths_and_queries_are_written_as_they_are_signed() {
    assert_eq!(canonical_path("/a%20b/c+d", "s3"), "/a%20b/c%2Bd");
    assert_eq!(canonical_path("/a%20b", "ebs"), "/a%2520b");
    assert_eq!(canonical_query("b=2&a&c=x%2Fy+z&X-Amz-Signature=no", "X-Amz-Signature"), "a=&b=2&c=x%2Fy%2Bz");
    let mut twice = headers(&[("a", "  x   y ")]);
    twice.append("a", HeaderValue::from_static("z"));
    assert_eq!(canonical_header(&twice, "a"), "x y,z");
}

/// The documented upload of 66560 bytes in three signed chunks.
#[test]
fn the_documented_chunked_upload() {
    let authorization = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
        SignedHeaders=content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class,\
        Signature=4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9";
    let headers = headers(&[
        ("host", "s3.amazonaws.com"),
        ("x-amz-date", "20130524T000000Z"),
        ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
        ("content-encoding", "aws-chunked"),
        ("x-amz-decoded-content-length", "66560"),
        ("content-length", "66824"),
        ("authorization", authorization),
    ]);
    let request = Request { method: "PUT", path: "/examplebucket/chunkObject.txt", query: "", headers: &headers };
    let signed = signed(&request).expect("signed");
    let payload = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
    assert_eq!(signed.check(&request, payload, SECRET), Ok(()));
    let chunk = |n: usize, signature: &str| {
        let mut bytes = format!("{n:x};chunk-signature={signature}\r\n").into_bytes();
        bytes.extend(vec![b'a'; n]);
        bytes.extend(b"\r\n");
        bytes
    };
    let mut body = chunk(65_536, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648");
    body.extend(chunk(1024, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497"));
    body.extend(chunk(0, "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"));
    let form = form(payload).expect("a form");
    for step in [1, 7, 1000, 100_000] {
        let mut decoder = Decoder::new(form, &signed, SECRET);
        let mut data = Vec::new();
        for part in body.chunks(step) {
            data.extend(decoder.take(part).expect("as signed"));
        }
        assert_eq!(decoder.finish(Some(66_560)), Ok(Vec::new()));
        assert!(data.len() == 66_560 && data.iter().all(|b| *b == b'a'));
    }
    body[200] = b'b';
    let mut decoder = Decoder::new(form, &signed, SECRET);
    assert_eq!(decoder.take(&body), Err("a chunk's signature does not match"));
}

#[test]
fn an_unsigned_trailer_is_given_and_a_cut_body_is_noticed() {
    let scope = Scope { key: String::new(), date: String::new(), region: String::new(), service: String::new() };
    let signed = Signed { scope, time: String::new(), signature: String::new(), names: Vec::new() };
    let form = form("STREAMING-UNSIGNED-PAYLOAD-TRAILER").expect("a form");
    let body = b"5\r\nhello\r\n1\r\n!\r\n0\r\nx-amz-checksum-crc32:nSpxLQ==\r\n\r\n";
    let mut decoder = Decoder::new(form, &signed, "");
    assert_eq!(decoder.take(body), Ok(b"hello!".to_vec()));
    let trailer = vec![("x-amz-checksum-crc32".to_owned(), "nSpxLQ==".to_owned())];
    assert_eq!(decoder.finish(Some(6)), Ok(trailer));
    for cut in [1, 5, 10, 17, 25, body.len() - 1] {
        let mut decoder = Decoder::new(form, &signed, "");
        decoder.take(&body[..cut]).expect("so far");
        assert!(decoder.finish(Some(6)).is_err(), "{cut}");
    }
    let mut decoder = Decoder::new(form, &signed, "");
    assert!(decoder.take(b"zz\r\n").is_err());
}
