//! Uploads in parts.

use std::collections::BTreeMap;

use md5::{Digest as _, Md5};
use serde::Deserialize;

use super::checksum::{Algorithm, composite};
use super::receive::stored;
use super::store::{Kept, Object, Part, Upload, bucket, upload};
use super::{Call, element, malformed, xml, xml_date};
use crate::error::{Answer, ApiError};
use crate::server::body::{Response, answer as reply, set};
use crate::server::now;
use crate::sigv4::hex;

/// The least that a part must have, but the last.
const LEAST: u64 = 5 << 20;

/// The caller's list of parts.
#[derive(Deserialize)]
struct Complete {
    #[serde(rename = "Part", default)]
    parts: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(rename = "PartNumber")]
    number: u32,
    #[serde(rename = "ETag")]
    etag: String,
    #[serde(rename = "ChecksumCRC32")]
    crc32: Option<String>,
    #[serde(rename = "ChecksumCRC32C")]
    crc32c: Option<String>,
    #[serde(rename = "ChecksumCRC64NVME")]
    crc64nvme: Option<String>,
    #[serde(rename = "ChecksumSHA1")]
    sha1: Option<String>,
    #[serde(rename = "ChecksumSHA256")]
    sha256: Option<String>,
}

impl Named {
    fn checksum(&self, algorithm: Algorithm) -> Option<&String> {
        match algorithm {
            Algorithm::Crc32 => self.crc32.as_ref(),
            Algorithm::Crc32c => self.crc32c.as_ref(),
            Algorithm::Crc64Nvme => self.crc64nvme.as_ref(),
            Algorithm::Sha1 => self.sha1.as_ref(),
            Algorithm::Sha256 => self.sha256.as_ref(),
        }
    }
}

/// What a finished object is made of.
struct Joined {
    files: Vec<std::path::PathBuf>,
    size: u64,
    etag: String,
    checksum: Option<Kept>,
    headers: Vec<(String, String)>,
    sum_whole: Option<Algorithm>,
}

impl Call<'_> {
    fn upload_id(&self) -> Answer<&str> {
        self.query("uploadId").ok_or_else(|| ApiError::new("InvalidRequest", "There is no uploadId"))
    }

    pub(super) fn create_upload(&self) -> Answer<Response> {
        let headers = self.kept_headers()?;
        let algorithm = match self.caller.header("x-amz-checksum-algorithm") {
            None => None,
            Some(name) => Some(Algorithm::named(name).ok_or_else(|| {
                let message = "Checksum algorithm provided is unsupported. Please try again with any of the valid types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]";
                ApiError::new("InvalidRequest", message)
            })?),
        };
        let whole = self
            .caller
            .header("x-amz-checksum-type")
            .map_or(algorithm == Some(Algorithm::Crc64Nvme), |t| t == "FULL_OBJECT");
        let mut buckets = self.shared.objects.buckets();
        let here = bucket(&mut buckets, &self.bucket)?;
        let id = format!("upload-{}-{:08x}", self.shared.objects.next(), now());
        let new = Upload { key: self.key.clone(), started: now(), headers, algorithm, whole, parts: BTreeMap::new() };
        here.uploads.insert(id.clone(), new);
        drop(buckets);
        let inner = element("Bucket", &self.bucket) + &element("Key", &self.key) + &element("UploadId", &id);
        let mut response = xml("InitiateMultipartUploadResult", &inner);
        if let Some(a) = algorithm {
            set(&mut response, "x-amz-checksum-algorithm", a.name());
            set(&mut response, "x-amz-checksum-type", if whole { "FULL_OBJECT" } else { "COMPOSITE" });
        }
        Ok(response)
    }

    pub(super) async fn upload_part(&self) -> Answer<Response> {
        let number: u32 =
            self.query("partNumber").and_then(|n| n.parse().ok()).filter(|n| (1..=10_000).contains(n)).ok_or_else(
                || ApiError::new("InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive"),
            )?;
        let id = self.upload_id()?;
        {
            let mut buckets = self.shared.objects.buckets();
            upload(bucket(&mut buckets, &self.bucket)?, id, &self.key)?;
        }
        let got = stored(self).await?;
        let etag = hex(&got.md5);
        let mut response = reply(200, "", "");
        set(&mut response, "etag", &format!("\"{etag}\""));
        if let Some(c) = &got.checksum {
            set(&mut response, c.algorithm.header(), &c.value);
        }
        let mut buckets = self.shared.objects.buckets();
        // It may have been aborted meanwhile.
        let parts = &mut upload(bucket(&mut buckets, &self.bucket)?, id, &self.key)?.parts;
        let (size, modified) = (got.size, now());
        parts.insert(number, Part { data: got.data, size, etag, checksum: got.checksum, modified });
        let all: u64 = parts.values().map(|p| p.size).sum();
        drop(buckets);
        // Parts that nobody completes or aborts cost as objects do.
        self.shared.with_cloud(|cloud| {
            cloud.bill.close("upload", id, now());
            cloud.bill.open("upload", id, "standard", (all as f64, "byte"), now());
        });
        Ok(response)
    }

    pub(super) fn list_parts(&self) -> Answer<Response> {
        let id = self.upload_id()?;
        let mut buckets = self.shared.objects.buckets();
        let u = upload(bucket(&mut buckets, &self.bucket)?, id, &self.key)?;
        let from: u32 = self.query("part-number-marker").and_then(|n| n.parse().ok()).unwrap_or(0);
        let most: usize = self.query("max-parts").and_then(|n| n.parse().ok()).unwrap_or(1000).min(1000);
        let rest: Vec<_> = u.parts.range(from + 1..).collect();
        let (mut inner, shown) = (String::new(), &rest[..rest.len().min(most)]);
        inner += &element("Bucket", &self.bucket);
        inner += &element("Key", &self.key);
        inner += &element("UploadId", id);
        inner += &element("PartNumberMarker", from.to_string());
        if let Some((last, _)) = shown.last() {
            inner += &element("NextPartNumberMarker", last.to_string());
        }
        inner += &element("MaxParts", most.to_string());
        inner += &element("IsTruncated", (shown.len() < rest.len()).to_string());
        for (number, p) in shown {
            let sum = p.checksum.as_ref().map(|c| element(&c.algorithm.element(), &c.value)).unwrap_or_default();
            inner += &format!(
                "<Part>{}{}{}{}{sum}</Part>",
                element("PartNumber", number.to_string()),
                element("LastModified", xml_date(p.modified)),
                element("ETag", format!("\"{}\"", p.etag)),
                element("Size", p.size.to_string()),
            );
        }
        Ok(xml("ListPartsResult", &inner))
    }

    pub(super) fn abort_upload(&self) -> Answer<Response> {
        let id = self.upload_id()?;
        let mut buckets = self.shared.objects.buckets();
        let here = bucket(&mut buckets, &self.bucket)?;
        upload(here, id, &self.key)?;
        here.uploads.remove(id);
        drop(buckets);
        self.close("upload", id);
        Ok(reply(204, "", ""))
    }

    /// Checks the caller's list against what has come.
    fn joined(&self, id: &str, wanted: &Complete) -> Answer<Joined> {
        let mut buckets = self.shared.objects.buckets();
        let u = upload(bucket(&mut buckets, &self.bucket)?, id, &self.key)?;
        if wanted.parts.is_empty() {
            return Err(malformed());
        }
        if wanted.parts.windows(2).any(|w| w[0].number >= w[1].number) {
            let message = "The list of parts was not in ascending order. Parts must be ordered by part number.";
            return Err(ApiError::new("InvalidPartOrder", message));
        }
        let (mut files, mut size, mut md5, mut sums) = (Vec::new(), 0, Md5::new(), Vec::new());
        for (n, named) in wanted.parts.iter().enumerate() {
            let missing = || {
                let message = "One or more of the specified parts could not be found. The part may not have been uploaded, or the specified entity tag may not match the part's entity tag.";
                ApiError::new("InvalidPart", message)
            };
            let part = u.parts.get(&named.number).ok_or_else(missing)?;
            if named.etag.trim_matches('"') != part.etag {
                return Err(missing());
            }
            if let Some(c) = &part.checksum
                && named.checksum(c.algorithm).is_some_and(|v| *v != c.value)
            {
                return Err(missing());
            }
            if part.size < LEAST && n + 1 < wanted.parts.len() {
                let message = format!(
                    "Your proposed upload is smaller than the minimum allowed size\0{}",
                    element("PartNumber", named.number.to_string())
                );
                return Err(ApiError::new("EntityTooSmall", message));
            }
            files.push(part.data.path.clone());
            size += part.size;
            let bytes: Vec<u8> =
                (0..16).filter_map(|i| u8::from_str_radix(part.etag.get(2 * i..2 * i + 2)?, 16).ok()).collect();
            md5.update(&bytes);
            sums.extend(part.checksum.as_ref().filter(|c| Some(c.algorithm) == u.algorithm).map(|c| c.value.clone()));
        }
        let checksum = match u.algorithm {
            Some(_) if u.whole => None,
            Some(algorithm) if sums.len() == files.len() => {
                let values: Vec<&str> = sums.iter().map(String::as_str).collect();
                Some(Kept { algorithm, value: composite(algorithm, &values), composite: true })
            }
            Some(algorithm) => {
                let message = format!(
                    "The upload was created using a {} checksum. The complete request must include the checksum for each part.",
                    algorithm.name()
                );
                return Err(ApiError::new("InvalidRequest", message));
            }
            None => None,
        };
        let etag = format!("{}-{}", hex(&md5.finalize()), files.len());
        Ok(Joined {
            files,
            size,
            etag,
            checksum,
            headers: u.headers.clone(),
            sum_whole: u.algorithm.filter(|_| u.whole),
        })
    }

    pub(super) async fn complete_upload(&self) -> Answer<Response> {
        let id = self.upload_id()?;
        let wanted: Complete = quick_xml::de::from_str(&self.text().await?).map_err(|_| malformed())?;
        let joined = self.joined(id, &wanted)?;
        let (data, file) = self.shared.objects.file().map_err(ApiError::internal)?;
        let (files, algorithm) = (joined.files, joined.sum_whole);
        let sum = tokio::task::spawn_blocking(move || join(&files, file, algorithm)).await;
        let sum = sum.map_err(ApiError::internal)?.map_err(ApiError::internal)?;
        let whole = algorithm.zip(sum).map(|(algorithm, value)| Kept { algorithm, value, composite: false });
        let checksum = joined.checksum.or(whole);
        if let Some(c) = &checksum
            && let Some(claimed) = self.caller.header(c.algorithm.header())
            && claimed != c.value
        {
            let message = format!("The {} you specified did not match the calculated checksum.", c.algorithm.name());
            return Err(ApiError::new("BadDigest", message));
        }
        let mut inner = element("Location", format!("/{}/{}", self.bucket, self.key))
            + &element("Bucket", &self.bucket)
            + &element("Key", &self.key)
            + &element("ETag", format!("\"{}\"", joined.etag));
        if let Some(c) = &checksum {
            inner += &element(&c.algorithm.element(), &c.value);
            inner += &element("ChecksumType", if c.composite { "COMPOSITE" } else { "FULL_OBJECT" });
        }
        let object = Object {
            id: format!("{}/{}#{}", self.bucket, self.key, self.shared.objects.next()),
            data,
            size: joined.size,
            etag: joined.etag,
            modified: now(),
            checksum,
            headers: joined.headers,
        };
        self.place(object, self.caller.header("if-none-match") == Some("*"))?;
        if let Ok(here) = bucket(&mut self.shared.objects.buckets(), &self.bucket) {
            here.uploads.remove(id);
        }
        self.close("upload", id);
        Ok(xml("CompleteMultipartUploadResult", &inner))
    }
}

/// Puts files after one another, with a checksum of the whole if one is wanted.
fn join(
    files: &[std::path::PathBuf],
    mut to: std::fs::File,
    sum: Option<Algorithm>,
) -> std::io::Result<Option<String>> {
    use std::io::{Read as _, Write as _};
    let Some(algorithm) = sum else {
        for file in files {
            // The kernel copies.
            std::io::copy(&mut std::fs::File::open(file)?, &mut to)?;
        }
        return Ok(None);
    };
    let mut sum = algorithm.begin();
    let mut buffer = vec![0u8; 1 << 20];
    for file in files {
        let mut from = std::fs::File::open(file)?;
        loop {
            let n = from.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            sum.add(&buffer[..n]);
            to.write_all(&buffer[..n])?;
        }
    }
    Ok(Some(sum.value()))
}
