//! Lists.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::store::bucket;
use super::{Call, element, xml, xml_date};
use crate::error::{Answer, ApiError};
use crate::server::body::Response;
use crate::sigv4::encode;

impl Call<'_> {
    pub(super) fn list_buckets(&self) -> Answer<Response> {
        let buckets = self.shared.objects.buckets();
        let each = buckets.iter().map(|(name, b)| {
            format!("<Bucket>{}{}</Bucket>", element("Name", name), element("CreationDate", xml_date(b.created)))
        });
        let account = &self.shared.config.account;
        let inner = format!("<Owner>{}</Owner><Buckets>{}</Buckets>", element("ID", account), each.collect::<String>());
        Ok(xml("ListAllMyBucketsResult", &inner))
    }

    pub(super) fn list_objects(&self) -> Answer<Response> {
        let invalid = |what: &str| ApiError::new("InvalidArgument", what.to_owned());
        let prefix = self.query("prefix").unwrap_or_default();
        let delimiter = self.query("delimiter").filter(|d| !d.is_empty());
        let most: usize = match self.query("max-keys") {
            Some(n) => n
                .parse::<usize>()
                .map_err(|_| invalid("Provided max-keys not an integer or within integer range"))?
                .min(1000),
            None => 1000,
        };
        let url = self.query("encoding-type") == Some("url");
        let written = |text: &str| if url { encode(text.as_bytes(), true) } else { text.to_owned() };
        let token = match self.query("continuation-token") {
            Some(t) => {
                let bytes = URL_SAFE_NO_PAD.decode(t).ok().and_then(|b| String::from_utf8(b).ok());
                Some(bytes.ok_or_else(|| invalid("The continuation token provided is incorrect"))?)
            }
            None => None,
        };
        let after = token.as_deref().or(self.query("start-after")).unwrap_or_default();
        let mut buckets = self.shared.objects.buckets();
        let here = bucket(&mut buckets, &self.bucket)?;
        let (mut contents, mut prefixes) = (String::new(), Vec::<String>::new());
        let (mut count, mut last, mut more) = (0usize, String::new(), false);
        for (key, object) in here.objects.iter().filter(|(k, _)| k.starts_with(prefix) && k.as_str() > after) {
            let common = delimiter.and_then(|d| {
                let rest = &key[prefix.len()..];
                rest.find(d).map(|n| format!("{prefix}{}", &rest[..n + d.len()]))
            });
            // All keys below a common prefix count as one, on this page or on the one before.
            if common.as_ref().is_some_and(|c| prefixes.last() == Some(c) || after.starts_with(c.as_str())) {
                last.clone_from(key);
                continue;
            }
            if count == most {
                more = true;
                break;
            }
            count += 1;
            last.clone_from(key);
            match common {
                Some(common) => prefixes.push(common),
                None => contents.push_str(&format!(
                    "<Contents>{}{}{}{}{}</Contents>",
                    element("Key", written(key)),
                    element("LastModified", xml_date(object.modified)),
                    element("ETag", format!("\"{}\"", object.etag)),
                    element("Size", object.size.to_string()),
                    element("StorageClass", "STANDARD"),
                )),
            }
        }
        let mut inner = element("Name", &self.bucket) + &element("Prefix", written(prefix));
        if let Some(d) = delimiter {
            inner += &element("Delimiter", written(d));
        }
        if url {
            inner += &element("EncodingType", "url");
        }
        if let Some(t) = self.query("continuation-token") {
            inner += &element("ContinuationToken", t);
        }
        if let Some(s) = self.query("start-after") {
            inner += &element("StartAfter", written(s));
        }
        inner += &element("KeyCount", count.to_string());
        inner += &element("MaxKeys", most.to_string());
        inner += &element("IsTruncated", more.to_string());
        if more {
            inner += &element("NextContinuationToken", URL_SAFE_NO_PAD.encode(&last));
        }
        inner += &contents;
        for p in prefixes {
            inner += &format!("<CommonPrefixes>{}</CommonPrefixes>", element("Prefix", written(&p)));
        }
        Ok(xml("ListBucketResult", &inner))
    }

    pub(super) fn list_uploads(&self) -> Answer<Response> {
        let mut buckets = self.shared.objects.buckets();
        let here = bucket(&mut buckets, &self.bucket)?;
        let prefix = self.query("prefix").unwrap_or_default();
        let each = here.uploads.iter().filter(|(_, u)| u.key.starts_with(prefix)).map(|(id, u)| {
            format!(
                "<Upload>{}{}{}</Upload>",
                element("Key", &u.key),
                element("UploadId", id),
                element("Initiated", xml_date(u.started))
            )
        });
        let uploads: String = each.collect();
        let inner = element("Bucket", &self.bucket)
            + &element("MaxUploads", "1000")
            + &element("IsTruncated", "false")
            + &uploads;
        Ok(xml("ListMultipartUploadsResult", &inner))
    }
}
