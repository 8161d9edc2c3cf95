//! Buckets.

use serde::Deserialize;

use super::store::{Bucket, bucket};
use super::{Call, element, malformed, xml};
use crate::error::{Answer, ApiError};
use crate::server::body::{Response, answer as reply, set};
use crate::server::now;

/// Tags as they are sent.
#[derive(Deserialize)]
struct Tagging {
    #[serde(rename = "TagSet")]
    set: TagSet,
}

#[derive(Deserialize)]
struct TagSet {
    #[serde(rename = "Tag", default)]
    tags: Vec<Tag>,
}

#[derive(Deserialize)]
struct Tag {
    #[serde(rename = "Key")]
    key: String,
    #[serde(rename = "Value")]
    value: String,
}

/// What is closed to the public, as it is sent.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct PublicAccess {
    block_public_acls: bool,
    ignore_public_acls: bool,
    block_public_policy: bool,
    restrict_public_buckets: bool,
}

impl Call<'_> {
    pub(super) async fn create_bucket(&self) -> Answer<Response> {
        let wanted = self.text().await?;
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let name = &self.bucket;
        if !(3..=63).contains(&name.len())
            || !name.chars().all(legal)
            || !ends(name.chars().next())
            || !ends(name.chars().last())
        {
            return Err(ApiError::new("InvalidBucketName", "The specified bucket is not valid."));
        }
        // Elsewhere than in us-east-1 the region must be said, and it must be this one.
        let region = &self.shared.config.region;
        let said =
            wanted.split_once("<LocationConstraint>").and_then(|(_, rest)| rest.split_once("</")).map(|(r, _)| r);
        if said.unwrap_or("us-east-1") != region {
            let message = "The unspecified location constraint is incompatible for the region specific endpoint this request was sent to.";
            return Err(ApiError::new("IllegalLocationConstraintException", message));
        }
        let mut buckets = self.shared.objects.buckets();
        if buckets.contains_key(name) {
            let message = "Your previous request to create the named bucket succeeded and you already own it.";
            return Err(ApiError::new("BucketAlreadyOwnedByYou", message));
        }
        buckets.insert(name.clone(), Bucket { created: now(), ..Bucket::default() });
        let mut response = reply(200, "", "");
        set(&mut response, "location", &format!("/{name}"));
        Ok(response)
    }

    pub(super) fn head_bucket(&self) -> Answer<Response> {
        bucket(&mut self.shared.objects.buckets(), &self.bucket)?;
        let mut response = reply(200, "", "");
        set(&mut response, "x-amz-bucket-region", &self.shared.config.region);
        Ok(response)
    }

    pub(super) fn delete_bucket(&self) -> Answer<Response> {
        let mut buckets = self.shared.objects.buckets();
        if !bucket(&mut buckets, &self.bucket)?.objects.is_empty() {
            return Err(ApiError::new("BucketNotEmpty", "The bucket you tried to delete is not empty"));
        }
        let gone = buckets.remove(&self.bucket);
        drop(buckets);
        for id in gone.into_iter().flat_map(|b| b.uploads.into_keys()) {
            self.close("upload", &id);
        }
        Ok(reply(204, "", ""))
    }

    pub(super) fn location(&self) -> Answer<Response> {
        bucket(&mut self.shared.objects.buckets(), &self.bucket)?;
        let region = &self.shared.config.region;
        // The oldest region has no name here.
        Ok(xml("LocationConstraint", if region == "us-east-1" { "" } else { region }))
    }

    pub(super) fn bucket_tags(&self) -> Answer<Response> {
        let mut buckets = self.shared.objects.buckets();
        let tags = &bucket(&mut buckets, &self.bucket)?.tags;
        if tags.is_empty() {
            return Err(ApiError::new("NoSuchTagSet", "The TagSet does not exist").with_status(404));
        }
        let each =
            tags.iter().map(|(key, value)| format!("<Tag>{}{}</Tag>", element("Key", key), element("Value", value)));
        Ok(xml("Tagging", &format!("<TagSet>{}</TagSet>", each.collect::<String>())))
    }

    pub(super) async fn tag_bucket(&self) -> Answer<Response> {
        let wanted: Tagging = quick_xml::de::from_str(&self.text().await?).map_err(|_| malformed())?;
        let tags: Vec<(String, String)> = wanted.set.tags.into_iter().map(|tag| (tag.key, tag.value)).collect();
        let mut keys: Vec<&str> = tags.iter().map(|(key, _)| key.as_str()).collect();
        keys.sort_unstable();
        keys.dedup();
        if keys.len() != tags.len() || tags.len() > 50 || keys.iter().any(|key| key.starts_with("aws:")) {
            return Err(ApiError::new("InvalidTag", "The tag provided was not a valid tag."));
        }
        bucket(&mut self.shared.objects.buckets(), &self.bucket)?.tags = tags;
        Ok(reply(204, "", ""))
    }

    pub(super) fn public_access(&self) -> Answer<Response> {
        let mut buckets = self.shared.objects.buckets();
        let closed = bucket(&mut buckets, &self.bucket)?.closed.as_ref();
        let (inner, _) = closed.ok_or_else(|| {
            let message = "The public access block configuration was not found";
            ApiError::new("NoSuchPublicAccessBlockConfiguration", message).with_status(404)
        })?;
        Ok(xml("PublicAccessBlockConfiguration", inner))
    }

    pub(super) async fn block_public_access(&self) -> Answer<Response> {
        let wanted: PublicAccess = quick_xml::de::from_str(&self.text().await?).map_err(|_| malformed())?;
        let each = [
            ("BlockPublicAcls", wanted.block_public_acls),
            ("IgnorePublicAcls", wanted.ignore_public_acls),
            ("BlockPublicPolicy", wanted.block_public_policy),
            ("RestrictPublicBuckets", wanted.restrict_public_buckets),
        ];
        let inner = each.iter().map(|(name, closed)| element(name, closed.to_string())).collect();
        let all = each.iter().all(|(_, closed)| *closed);
        bucket(&mut self.shared.objects.buckets(), &self.bucket)?.closed = Some((inner, all));
        Ok(reply(200, "", ""))
    }
}
