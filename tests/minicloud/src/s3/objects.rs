//! Single objects.

use super::receive::stored;
use super::store::{Object, bucket};
use super::{Call, element, http_date, receive, xml};
use crate::error::{Answer, ApiError};
use crate::server::body::{Response, answer as reply, file, set};
use crate::server::now;
use crate::sigv4::hex;

/// Headers that an object keeps.
const KEPT: [&str; 8] = [
    "content-type",
    "content-disposition",
    "content-language",
    "cache-control",
    "content-encoding",
    "x-amz-storage-class",
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id",
];

impl Call<'_> {
    /// The headers of this call that the object keeps.
    pub(super) fn kept_headers(&self) -> Answer<Vec<(String, String)>> {
        let mut kept = Vec::new();
        for (name, value) in &self.caller.headers {
            let (name, value) = (name.as_str(), value.to_str().unwrap_or_default());
            if name == "content-encoding" {
                // What it was sent in is no property of the object.
                let rest: Vec<_> = value.split(',').map(str::trim).filter(|v| *v != "aws-chunked").collect();
                if !rest.is_empty() {
                    kept.push((name.to_owned(), rest.join(",")));
                }
            } else if KEPT.contains(&name) || name.starts_with("x-amz-meta-") {
                kept.push((name.to_owned(), value.to_owned()));
            }
        }
        let key = kept.iter().find(|(n, _)| n.ends_with("kms-key-id")).map(|(_, v)| v.clone());
        self.shared
            .with_cloud(|cloud| cloud.check_key(key.as_deref()))
            .map_err(|e| ApiError::new("KMS.NotFoundException", e.message))?;
        Ok(kept)
    }

    /// Ends an item of the bill.
    pub(super) fn close(&self, kind: &str, id: &str) {
        self.shared.with_cloud(|cloud| cloud.bill.close(kind, id, now()));
    }

    /// Puts an object in its place, and what was there before out of it.
    pub(super) fn place(&self, object: Object, only_if_new: bool) -> Answer<()> {
        let mut buckets = self.shared.objects.buckets();
        let here = bucket(&mut buckets, &self.bucket)?;
        if only_if_new && here.objects.contains_key(&self.key) {
            let message = "At least one of the pre-conditions you specified did not hold";
            return Err(ApiError::new("PreconditionFailed", message));
        }
        let (id, size) = (object.id.clone(), object.size);
        let old = here.objects.insert(self.key.clone(), object);
        drop(buckets);
        self.shared.with_cloud(|cloud| {
            if let Some(old) = &old {
                cloud.bill.close("object", &old.id, now());
            }
            cloud.bill.open("object", &id, "standard", (size as f64, "byte"), now());
        });
        Ok(())
    }

    pub(super) async fn put_object(&self) -> Answer<Response> {
        if self.caller.headers.contains_key("x-amz-copy-source") {
            return Err(ApiError::new("NotImplemented", "minicloud has no CopyObject"));
        }
        if self.key.len() > 1024 {
            return Err(ApiError::new("KeyTooLongError", "Your key is too long"));
        }
        bucket(&mut self.shared.objects.buckets(), &self.bucket)?;
        let headers = self.kept_headers()?;
        let only_if_new = match self.caller.header("if-none-match") {
            None => false,
            Some("*") => true,
            Some(_) => return Err(ApiError::new("NotImplemented", "If-None-Match can only be *")),
        };
        let got = stored(self).await?;
        let etag = hex(&got.md5);
        let mut response = reply(200, "", "");
        set(&mut response, "etag", &format!("\"{etag}\""));
        if let Some(c) = &got.checksum {
            set(&mut response, c.algorithm.header(), &c.value);
            set(&mut response, "x-amz-checksum-type", "FULL_OBJECT");
        }
        for (name, value) in headers.iter().filter(|(n, _)| n.starts_with("x-amz-server-side")) {
            set_owned(&mut response, name, value);
        }
        let object = Object {
            id: format!("{}/{}#{}", self.bucket, self.key, self.shared.objects.next()),
            data: got.data,
            size: got.size,
            etag,
            modified: now(),
            checksum: got.checksum,
            headers,
        };
        self.place(object, only_if_new)?;
        Ok(response)
    }

    pub(super) fn get_object(&self, with_body: bool) -> Answer<Response> {
        let mut buckets = self.shared.objects.buckets();
        let here = bucket(&mut buckets, &self.bucket)?;
        let object = here.objects.get(&self.key).ok_or_else(|| {
            ApiError::new("NoSuchKey", format!("The specified key does not exist.\0{}", element("Key", &self.key)))
        })?;
        let quoted = format!("\"{}\"", object.etag);
        let matches =
            |value: &str| value == "*" || value.split(',').any(|v| v.trim() == quoted || v.trim() == object.etag);
        if self.caller.header("if-match").is_some_and(|v| !matches(v)) {
            let message = "At least one of the pre-conditions you specified did not hold";
            return Err(ApiError::new("PreconditionFailed", message));
        }
        if self.caller.header("if-none-match").is_some_and(matches) {
            return Err(ApiError::new("NotModified", "Not Modified").with_status(304));
        }
        let range = match self.caller.header("range") {
            Some(text) => range(text, object.size)?,
            None => None,
        };
        let (from, length) = range.unwrap_or((0, object.size));
        let data = std::fs::File::open(&object.data.path).map_err(ApiError::internal)?;
        let mut response = reply(if range.is_some() { 206 } else { 200 }, "binary/octet-stream", "");
        for (name, value) in &object.headers {
            set_owned(&mut response, name, value);
        }
        set(&mut response, "etag", &quoted);
        set(&mut response, "last-modified", &http_date(object.modified));
        set(&mut response, "accept-ranges", "bytes");
        set(&mut response, "content-length", &length.to_string());
        if range.is_some() {
            let (last, size) = (from + length - 1, object.size);
            set(&mut response, "content-range", &format!("bytes {from}-{last}/{size}"));
        }
        // Of a part, the whole's checksum says nothing.
        let asked = self.caller.header("x-amz-checksum-mode").is_some_and(|m| m.eq_ignore_ascii_case("enabled"));
        if let (Some(c), true, None) = (&object.checksum, asked, range) {
            set(&mut response, c.algorithm.header(), &c.value);
            set(&mut response, "x-amz-checksum-type", if c.composite { "COMPOSITE" } else { "FULL_OBJECT" });
        }
        for (asked, header) in
            [("response-content-type", "content-type"), ("response-content-disposition", "content-disposition")]
        {
            if let Some(value) = self.query(asked) {
                set(&mut response, header, value);
            }
        }
        if with_body {
            *response.body_mut() = file(data, from, length);
        }
        Ok(response)
    }

    fn forget(&self, key: &str) -> Answer<()> {
        let mut buckets = self.shared.objects.buckets();
        let gone = bucket(&mut buckets, &self.bucket)?.objects.remove(key);
        drop(buckets);
        if let Some(object) = gone {
            self.close("object", &object.id);
        }
        Ok(())
    }

    pub(super) fn delete_object(&self) -> Answer<Response> {
        // What is not there is deleted already.
        self.forget(&self.key)?;
        Ok(reply(204, "", ""))
    }

    pub(super) async fn delete_objects(&self) -> Answer<Response> {
        let headers = &self.caller.headers;
        let summed = headers.contains_key("content-md5")
            || headers.contains_key("x-amz-trailer")
            || headers.keys().any(|k| k.as_str().starts_with("x-amz-checksum-"));
        if !summed {
            let message = "Missing required header for this request: Content-MD5 OR x-amz-checksum-*";
            return Err(ApiError::new("InvalidRequest", message));
        }
        let body = receive::small(self).await?;
        let wanted: Delete = quick_xml::de::from_reader(body.as_slice()).map_err(|_| super::malformed())?;
        if wanted.objects.is_empty() || wanted.objects.len() > 1000 {
            return Err(super::malformed());
        }
        let mut inner = String::new();
        for object in &wanted.objects {
            self.forget(&object.key)?;
            if !wanted.quiet {
                inner.push_str(&format!("<Deleted>{}</Deleted>", element("Key", &object.key)));
            }
        }
        Ok(xml("DeleteResult", &inner))
    }
}

/// What is to be deleted.
#[derive(serde::Deserialize)]
struct Delete {
    #[serde(rename = "Object", default)]
    objects: Vec<Deleted>,
    #[serde(rename = "Quiet", default)]
    quiet: bool,
}

#[derive(serde::Deserialize)]
struct Deleted {
    #[serde(rename = "Key")]
    key: String,
}

/// Sets a header whose name is not known before.
pub(super) fn set_owned(response: &mut Response, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (http::HeaderName::try_from(name), http::HeaderValue::from_str(value)) {
        response.headers_mut().insert(name, value);
    }
}

/// Reads `bytes=a-b`: where it begins and how long it is. What cannot be read is passed over, as HTTP wants it.
fn range(text: &str, size: u64) -> Answer<Option<(u64, u64)>> {
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|r| r.split_once('-')) else { return Ok(None) };
    let (first, last) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if last >= first => (first, last.min(size.saturating_sub(1))),
        (Ok(first), Err(_)) if last.is_empty() => (first, size.saturating_sub(1)),
        (Err(_), Ok(suffix)) if first.is_empty() && suffix > 0 => (size.saturating_sub(suffix), size.saturating_sub(1)),
        _ => return Ok(None),
    };
    if first >= size {
        return Err(ApiError::new("InvalidRange", "The requested range is not satisfiable"));
    }
    Ok(Some((first, last - first + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_to_what_is_there() {
        for (text, found) in [
            ("bytes=0-9", Some((0, 10))),
            ("bytes=90-", Some((90, 10))),
            ("bytes=-30", Some((70, 30))),
            ("bytes=-300", Some((0, 100))),
            ("bytes=50-1000", Some((50, 50))),
            ("bytes=9-0", None),
            ("lines=1-2", None),
        ] {
            assert_eq!(range(text, 100), Ok(found), "{text}");
        }
        assert_eq!(range("bytes=100-", 100).expect_err("beyond").status, 416);
    }
}
