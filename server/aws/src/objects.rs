//! Buckets, objects, and uploads in parts.

use std::time::Duration;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::create_bucket::CreateBucketError;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    BucketLocationConstraint, ChecksumAlgorithm, ChecksumMode, ChecksumType, CompletedMultipartUpload, CompletedPart,
    CreateBucketConfiguration, Delete, ObjectIdentifier, Part, PublicAccessBlockConfiguration, ServerSideEncryption,
    Tag, Tagging,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use rocks_provision::cloud::{Answer, CloudError, TAG_SITE};
use rocks_provision::objects::{BucketName, Listed, ObjectKey, Objects, PutPart, Sha256, Stored, UploadId};
use sha2::Digest as _;

use crate::client::Aws;
use crate::error::{failed, lacks};

/// The region that buckets are made in when no other is said, and that must not be said.
const FIRST_REGION: &str = "us-east-1";
/// The most objects that are removed by one call.
const AT_ONCE: usize = 1000;
/// The key of objects that are encrypted by S3 itself, whatever the bucket's own setting is: services that are to read them need no right to a key.
const ENCRYPTED: ServerSideEncryption = ServerSideEncryption::Aes256;

impl Objects for Aws {
    async fn ensure_bucket(&self, bucket: &BucketName, site: &str) -> Answer<()> {
        self.make_bucket(bucket).await?;
        if self.has_tags(bucket).await? {
            // It was finished, or is an administrator's own.
            return Ok(());
        }
        let nobody = PublicAccessBlockConfiguration::builder()
            .block_public_acls(true)
            .ignore_public_acls(true)
            .block_public_policy(true)
            .restrict_public_buckets(true)
            .build();
        let block = self.s3.put_public_access_block().bucket(bucket.as_str());
        let blocked = block.public_access_block_configuration(nobody).send().await;
        blocked.map_err(|error| failed("s3:PutBucketPublicAccessBlock", error))?;
        let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build().map_err(|e| invalid(&e));
        let tags = [tag("Name", &format!("rocks {site}"))?, tag(TAG_SITE, site)?];
        let tagging = Tagging::builder().set_tag_set(Some(tags.into())).build().map_err(|e| invalid(&e))?;
        // Last: whoever finds the tag finds the bucket finished.
        let tagged = self.s3.put_bucket_tagging().bucket(bucket.as_str()).tagging(tagging).send().await;
        tagged.map_err(|error| failed("s3:PutBucketTagging", error)).map(drop)
    }

    async fn put_object(&self, bucket: &BucketName, key: &ObjectKey, body: Bytes) -> Answer<()> {
        let put = self
            .s3_patient
            .put_object()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .server_side_encryption(ENCRYPTED)
            .checksum_sha256(STANDARD.encode(sha2::Sha256::digest(&body)))
            .body(ByteStream::from(body));
        put.send().await.map_err(|error| failed("s3:PutObject", error)).map(drop)
    }

    async fn object(&self, bucket: &BucketName, key: &ObjectKey) -> Answer<Option<Stored>> {
        const ACTION: &str = "s3:GetObject";
        let head = self.s3.head_object().bucket(bucket.as_str()).key(key.as_str()).checksum_mode(ChecksumMode::Enabled);
        match head.send().await {
            Ok(found) => {
                let bytes = found.content_length().and_then(|bytes| bytes.try_into().ok());
                let bytes = bytes.ok_or_else(|| lacks(ACTION, "length"))?;
                // That of an object in parts is a digest of digests.
                Ok(Some(Stored { bytes, sha256: found.checksum_sha256().and_then(digest) }))
            }
            // Of a bucket that is not there S3 says the same, or that there is no such bucket.
            Err(error) => match head_failed(ACTION, error) {
                CloudError::Missing(_) => Ok(None),
                error => Err(error),
            },
        }
    }

    async fn list_objects(&self, bucket: &BucketName, prefix: &str) -> Answer<Vec<Listed>> {
        const ACTION: &str = "s3:ListBucket";
        let mut pages =
            self.s3.list_objects_v2().bucket(bucket.as_str()).prefix(prefix).into_paginator().page_size(1000).send();
        let mut all = Vec::new();
        while let Some(page) = pages.next().await {
            let page = match page.map_err(|error| failed(ACTION, error)) {
                Err(CloudError::Missing(_)) => return Ok(Vec::new()),
                page => page?,
            };
            // A key that cannot be one of ours is somebody else's.
            all.extend(page.contents().iter().filter_map(|object| {
                let bytes = object.size().and_then(|bytes| bytes.try_into().ok()).unwrap_or(0);
                Some(Listed { key: object.key()?.parse().ok()?, bytes })
            }));
        }
        Ok(all)
    }

    async fn delete_objects(&self, bucket: &BucketName, keys: &[ObjectKey]) -> Answer<()> {
        const ACTION: &str = "s3:DeleteObject";
        for keys in keys.chunks(AT_ONCE) {
            let one = |key: &ObjectKey| ObjectIdentifier::builder().key(key.as_str()).build().map_err(|e| invalid(&e));
            let objects = keys.iter().map(one).collect::<Answer<Vec<_>>>()?;
            let delete = Delete::builder().quiet(true).set_objects(Some(objects)).build().map_err(|e| invalid(&e))?;
            let deleted = self.s3.delete_objects().bucket(bucket.as_str()).delete(delete).send().await;
            let deleted = match deleted.map_err(|error| failed(ACTION, error)) {
                Err(CloudError::Missing(_)) => return Ok(()),
                deleted => deleted?,
            };
            if let Some(error) = deleted.errors().first() {
                let message = error.message().unwrap_or_default();
                return Err(crate::error::classify(ACTION, error.code().unwrap_or_default(), message));
            }
        }
        Ok(())
    }

    async fn presign_get(&self, bucket: &BucketName, key: &ObjectKey, valid: Duration) -> Answer<String> {
        let config = PresigningConfig::expires_in(valid).map_err(|error| invalid(&error))?;
        let get = self.s3.get_object().bucket(bucket.as_str()).key(key.as_str()).presigned(config).await;
        Ok(get.map_err(|error| failed("s3:GetObject", error))?.uri().to_owned())
    }

    async fn begin_upload(&self, bucket: &BucketName, key: &ObjectKey) -> Answer<UploadId> {
        const ACTION: &str = "s3:PutObject";
        let begin = self
            .s3
            .create_multipart_upload()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .server_side_encryption(ENCRYPTED)
            .checksum_algorithm(ChecksumAlgorithm::Sha256)
            .checksum_type(ChecksumType::Composite);
        let begun = begin.send().await.map_err(|error| failed(ACTION, error))?;
        begun.upload_id().and_then(|id| id.parse().ok()).ok_or_else(|| lacks(ACTION, "upload"))
    }

    async fn put_part(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: &UploadId,
        number: u32,
        body: Bytes,
    ) -> Answer<PutPart> {
        const ACTION: &str = "s3:PutObject";
        let (bytes, sha256) = (body.len() as u64, Sha256::from(sha2::Sha256::digest(&body)));
        let put = self
            .s3_patient
            .upload_part()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .upload_id(upload.as_str())
            .part_number(part_number(number)?)
            .checksum_sha256(STANDARD.encode(sha256))
            .body(ByteStream::from(body));
        let put = put.send().await.map_err(|error| failed(ACTION, error))?;
        let etag = put.e_tag().ok_or_else(|| lacks(ACTION, "tag"))?.to_owned();
        Ok(PutPart { number, bytes, etag, sha256 })
    }

    async fn parts(&self, bucket: &BucketName, key: &ObjectKey, upload: &UploadId) -> Answer<Vec<PutPart>> {
        let list = self.s3.list_parts().bucket(bucket.as_str()).key(key.as_str()).upload_id(upload.as_str());
        let mut pages = list.into_paginator().page_size(1000).send();
        let mut all = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| failed("s3:ListMultipartUploadParts", error))?;
            all.extend(page.parts().iter().filter_map(part));
        }
        Ok(all)
    }

    async fn complete_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[PutPart],
    ) -> Answer<()> {
        let named = |part: &PutPart| {
            let named = CompletedPart::builder().part_number(part_number(part.number)?).e_tag(&part.etag);
            Ok(named.checksum_sha256(STANDARD.encode(part.sha256)).build())
        };
        let parts = parts.iter().map(named).collect::<Answer<Vec<_>>>()?;
        let complete = self
            .s3_patient
            .complete_multipart_upload()
            .bucket(bucket.as_str())
            .key(key.as_str())
            .upload_id(upload.as_str())
            .checksum_type(ChecksumType::Composite)
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build());
        complete.send().await.map_err(|error| failed("s3:PutObject", error)).map(drop)
    }

    async fn abort_upload(&self, bucket: &BucketName, key: &ObjectKey, upload: &UploadId) -> Answer<()> {
        let abort = self.s3.abort_multipart_upload().bucket(bucket.as_str()).key(key.as_str());
        let aborted = abort.upload_id(upload.as_str()).send().await;
        match aborted.map_err(|error| failed("s3:AbortMultipartUpload", error)) {
            Err(CloudError::Missing(_)) => Ok(()),
            result => result.map(drop),
        }
    }

    async fn list_uploads(&self, bucket: &BucketName, prefix: &str) -> Answer<Vec<(ObjectKey, UploadId)>> {
        const ACTION: &str = "s3:ListBucketMultipartUploads";
        let (mut all, mut after) = (Vec::new(), None::<(String, String)>);
        loop {
            let (key, id) = after.clone().unzip();
            let ask = self.s3.list_multipart_uploads().bucket(bucket.as_str()).prefix(prefix);
            let page = ask.set_key_marker(key).set_upload_id_marker(id).send().await;
            let page = match page.map_err(|error| failed(ACTION, error)) {
                Err(CloudError::Missing(_)) => return Ok(Vec::new()),
                page => page?,
            };
            all.extend(page.uploads().iter().filter_map(|one| {
                let (key, id) = one.key().zip(one.upload_id())?;
                Some((key.parse().ok()?, id.parse().ok()?))
            }));
            let next = page.next_key_marker.zip(page.next_upload_id_marker);
            if page.is_truncated != Some(true) || next.is_none() || next == after {
                return Ok(all);
            }
            after = next;
        }
    }
}

impl Aws {
    /// Whoever owns a bucket of that name already is told by this call alone: to look at it first would believe anybody who made one of the
    /// name that ours would have.
    async fn make_bucket(&self, bucket: &BucketName) -> Answer<()> {
        let region = self.s3.config().region().map_or(FIRST_REGION, |region| region.as_ref());
        let place = (region != FIRST_REGION).then(|| {
            CreateBucketConfiguration::builder().location_constraint(BucketLocationConstraint::from(region)).build()
        });
        let make = self.s3.create_bucket().bucket(bucket.as_str()).set_create_bucket_configuration(place);
        match make.send().await {
            Ok(_) => Ok(()),
            Err(error) => match error.as_service_error() {
                Some(CreateBucketError::BucketAlreadyOwnedByYou(_)) => Ok(()),
                Some(CreateBucketError::BucketAlreadyExists(_)) => Err(CloudError::Refused {
                    code: "BucketAlreadyExists".to_owned(),
                    message: format!("bucket {bucket} is another account's: set aws_bucket to another name"),
                }),
                _ => Err(failed("s3:CreateBucket", error)),
            },
        }
    }

    async fn has_tags(&self, bucket: &BucketName) -> Answer<bool> {
        match self.s3.get_bucket_tagging().bucket(bucket.as_str()).send().await {
            Ok(found) => Ok(!found.tag_set().is_empty()),
            Err(error) if error.code() == Some("NoSuchTagSet") => Ok(false),
            Err(error) => Err(failed("s3:GetBucketTagging", error)),
        }
    }
}

/// Something that cannot be said to S3.
fn invalid(error: &dyn std::fmt::Display) -> CloudError {
    CloudError::Refused { code: "InvalidRequest".to_owned(), message: error.to_string() }
}

/// What came of a call whose answer has a status and no words.
fn head_failed<E>(action: &'static str, error: SdkError<E>) -> CloudError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    match &error {
        SdkError::ServiceError(context) if context.raw().status().as_u16() == 403 && error.code().is_none() => {
            CloudError::Denied { action, message: "HTTP 403".to_owned() }
        }
        _ => failed(action, error),
    }
}

fn part_number(number: u32) -> Answer<i32> {
    i32::try_from(number).map_err(|error| invalid(&error))
}

fn digest(text: &str) -> Option<Sha256> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

/// A part as we put them: what has no digest is put again.
fn part(part: &Part) -> Option<PutPart> {
    Some(PutPart {
        number: u32::try_from(part.part_number()?).ok()?,
        bytes: u64::try_from(part.size()?).ok()?,
        etag: part.e_tag()?.to_owned(),
        sha256: part.checksum_sha256().and_then(digest)?,
    })
}
