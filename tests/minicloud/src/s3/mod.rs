//! S3: enough of it to keep images and packages in, as strict as S3 about what is signed and summed.

mod buckets;
mod checksum;
mod list;
mod multipart;
mod objects;
mod receive;
mod store;

use std::sync::Mutex;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;

pub(crate) use store::Store;

use crate::access::{self, Facts, Need};
use crate::cloud::iso;
use crate::error::{Answer, ApiError};
use crate::query::xml::escaped;
use crate::server::body::{Response, answer as reply, whole};
use crate::server::{Admitted, Caller, CutOff, Described, Outcome, Shared, locked};
use crate::sigv4::{Refusal, query_pairs};

/// A call of S3's, taken apart.
pub(crate) struct Call<'a> {
    shared: &'a Shared,
    caller: &'a Caller,
    admitted: &'a Admitted,
    bucket: String,
    key: String,
    query: Vec<(String, String)>,
    /// The body, until somebody takes it.
    body: &'a Mutex<Option<Incoming>>,
}

impl Call<'_> {
    fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// The whole of a short body.
    async fn text(&self) -> Answer<String> {
        let body = receive::small(self).await?;
        String::from_utf8(body).map_err(|_| malformed())
    }
}

fn malformed() -> ApiError {
    ApiError::new(
        "MalformedXML",
        "The XML you provided was not well-formed or did not validate against our published schema",
    )
}

/// The operations, and the permission that each needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    ListBuckets,
    CreateBucket,
    HeadBucket,
    DeleteBucket,
    GetBucketLocation,
    GetBucketTagging,
    PutBucketTagging,
    GetPublicAccessBlock,
    PutPublicAccessBlock,
    ListObjectsV2,
    DeleteObjects,
    ListMultipartUploads,
    PutObject,
    GetObject,
    HeadObject,
    DeleteObject,
    CreateMultipartUpload,
    UploadPart,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    ListParts,
}

impl Operation {
    fn of(method: &str, bucket: &str, key: &str, query: &[(String, String)]) -> Answer<Self> {
        let has = |name: &str| query.iter().any(|(k, _)| k == name);
        let what = match (method, bucket.is_empty(), key.is_empty()) {
            ("GET", true, _) => Self::ListBuckets,
            ("PUT", false, true) if query.is_empty() => Self::CreateBucket,
            ("HEAD", false, true) => Self::HeadBucket,
            ("DELETE", false, true) if query.is_empty() => Self::DeleteBucket,
            ("GET", false, true) if has("location") => Self::GetBucketLocation,
            ("GET", false, true) if has("tagging") => Self::GetBucketTagging,
            ("PUT", false, true) if has("tagging") => Self::PutBucketTagging,
            ("GET", false, true) if has("publicAccessBlock") => Self::GetPublicAccessBlock,
            ("PUT", false, true) if has("publicAccessBlock") => Self::PutPublicAccessBlock,
            ("GET", false, true) if has("uploads") => Self::ListMultipartUploads,
            ("GET", false, true) if has("list-type") => Self::ListObjectsV2,
            ("POST", false, true) if has("delete") => Self::DeleteObjects,
            ("POST", false, false) if has("uploads") => Self::CreateMultipartUpload,
            ("POST", false, false) if has("uploadId") => Self::CompleteMultipartUpload,
            ("PUT", false, false) if has("uploadId") && has("partNumber") => Self::UploadPart,
            ("GET", false, false) if has("uploadId") => Self::ListParts,
            ("DELETE", false, false) if has("uploadId") => Self::AbortMultipartUpload,
            ("PUT", false, false) if !sub(query) => Self::PutObject,
            ("GET", false, false) if !sub(query) => Self::GetObject,
            ("HEAD", false, false) => Self::HeadObject,
            ("DELETE", false, false) if !sub(query) => Self::DeleteObject,
            _ => {
                let message = format!("minicloud has no {method} of this resource");
                return Err(ApiError::new("NotImplemented", message));
            }
        };
        Ok(what)
    }

    fn name(self) -> String {
        format!("{self:?}")
    }

    /// What `user` must be allowed who does it.
    fn need(self, bucket: &str, key: &str, user: &str) -> Need {
        let resource = match (self, key) {
            (Self::ListBuckets, _) => "*".to_owned(),
            // Which ones, its body says: it is allowed for all of the bucket's objects or for none.
            (Self::DeleteObjects, _) => format!("arn:aws:s3:::{bucket}/*"),
            (_, "") => format!("arn:aws:s3:::{bucket}"),
            _ => format!("arn:aws:s3:::{bucket}/{key}"),
        };
        let mut facts = Facts::default();
        facts.add("aws:username", user);
        Need { action: self.permission().to_owned(), resource, facts }
    }

    fn permission(self) -> &'static str {
        match self {
            Self::ListBuckets => "s3:ListAllMyBuckets",
            Self::CreateBucket => "s3:CreateBucket",
            Self::HeadBucket | Self::ListObjectsV2 => "s3:ListBucket",
            Self::DeleteBucket => "s3:DeleteBucket",
            Self::GetBucketLocation => "s3:GetBucketLocation",
            Self::GetBucketTagging => "s3:GetBucketTagging",
            Self::PutBucketTagging => "s3:PutBucketTagging",
            Self::GetPublicAccessBlock => "s3:GetBucketPublicAccessBlock",
            Self::PutPublicAccessBlock => "s3:PutBucketPublicAccessBlock",
            Self::DeleteObjects | Self::DeleteObject => "s3:DeleteObject",
            Self::ListMultipartUploads => "s3:ListBucketMultipartUploads",
            Self::PutObject | Self::CreateMultipartUpload | Self::UploadPart | Self::CompleteMultipartUpload => {
                "s3:PutObject"
            }
            Self::GetObject | Self::HeadObject => "s3:GetObject",
            Self::AbortMultipartUpload => "s3:AbortMultipartUpload",
            Self::ListParts => "s3:ListMultipartUploadParts",
        }
    }
}

/// Whether a query asks for a part of an object that this S3 has not: its ACL, its tags...
fn sub(query: &[(String, String)]) -> bool {
    const HAS_NOT: [&str; 9] =
        ["acl", "tagging", "torrent", "retention", "legal-hold", "attributes", "restore", "select", "versionId"];
    query.iter().any(|(k, _)| HAS_NOT.contains(&k.as_str()))
}

/// The bucket and the key that a request is about: from its host's name, or from its path.
fn place(host: &str, path: &str) -> (String, String) {
    let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let name =
        host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())).map_or(host, |(n, _)| n);
    let bucket = match name.strip_suffix(".amazonaws.com") {
        Some(rest) => rest.split_once(".s3").map(|(bucket, _)| bucket),
        None => name.strip_suffix(".localhost"),
    };
    let path = path.strip_prefix('/').unwrap_or(path);
    match bucket {
        Some(bucket) => (bucket.to_owned(), decode(path)),
        None => {
            let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
            (decode(bucket), decode(key))
        }
    }
}

pub(crate) async fn answer(
    shared: &Shared,
    caller: Caller,
    request: http::Request<Incoming>,
) -> Result<Response, CutOff> {
    let body = Mutex::new(Some(request.into_body()));
    let (bucket, key) = place(caller.header("host").unwrap_or_default(), &caller.path);
    let query: Vec<(String, String)> =
        query_pairs(&caller.query).into_iter().filter(|(k, _)| !k.starts_with("X-Amz-") && k != "x-id").collect();
    let operation = Operation::of(&caller.method, &bucket, &key, &query);
    let head = caller.method == "HEAD";
    let refuse = |e: &ApiError| refusal(e, head, &caller.path, &caller.request);
    let payload = match caller.header("x-amz-content-sha256") {
        Some(text) => Some(text.to_owned()),
        None if caller.presigned => Some("UNSIGNED-PAYLOAD".to_owned()),
        None => None,
    };
    let admitted = match &payload {
        Some(payload) => caller.authenticate(shared, payload).map_err(|r| refused(r, caller.presigned)),
        None => match caller.authenticate(shared, "") {
            Err(Refusal::Unsigned) => Err(refused(Refusal::Unsigned, false)),
            _ => Err(ApiError::new("InvalidRequest", "Missing required header for this request: x-amz-content-sha256")),
        },
    };
    let action = operation.as_ref().map_or_else(|_| String::new(), |o| o.name());
    let mut parameters = query.clone();
    parameters.push(("Bucket".to_owned(), bucket.clone()));
    if !key.is_empty() {
        parameters.push(("Key".to_owned(), key.clone()));
    }
    let user = admitted.as_ref().map(|a| a.access.user.clone()).unwrap_or_default();
    let needs: Vec<Need> = operation.iter().map(|o| o.need(&bucket, &key, &user)).collect();
    let what = Described { action: action.clone(), permissions: access::actions(&needs), parameters, user };
    let denied = match (&operation, &admitted) {
        (_, Err(e)) | (Err(e), _) => Some(e.clone()),
        (Ok(_), Ok(_)) if !caller.throttle(shared, &action) => {
            Some(ApiError::new("SlowDown", "Please reduce your request rate."))
        }
        (Ok(_), Ok(a)) => caller.lacks(shared, a, &needs).map(|lacking| ApiError::new("AccessDenied", lacking)),
    };
    let work = async {
        let (operation, admitted) = (operation.clone()?, admitted.as_ref().map_err(Clone::clone)?);
        let call = Call { shared, caller: &caller, admitted, bucket, key, query, body: &body };
        let response = call.act(operation).await?;
        Ok(Outcome { response, code: None })
    };
    let concluded = caller.conclude(shared, what, denied, refuse, work).await;
    drain(&body).await;
    concluded
}

/// Takes a body that nobody wanted: a caller who is still writing it would not read why.
async fn drain(body: &Mutex<Option<Incoming>>) {
    let Some(mut body) = locked(body).take() else { return };
    let mut left = 64usize << 20;
    let all = async {
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, bytes::Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(std::time::Duration::from_secs(5), all).await;
}

impl Call<'_> {
    async fn act(&self, operation: Operation) -> Answer<Response> {
        match operation {
            Operation::ListBuckets => self.list_buckets(),
            Operation::CreateBucket => self.create_bucket().await,
            Operation::HeadBucket => self.head_bucket(),
            Operation::DeleteBucket => self.delete_bucket(),
            Operation::GetBucketLocation => self.location(),
            Operation::GetBucketTagging => self.bucket_tags(),
            Operation::PutBucketTagging => self.tag_bucket().await,
            Operation::GetPublicAccessBlock => self.public_access(),
            Operation::PutPublicAccessBlock => self.block_public_access().await,
            Operation::ListObjectsV2 => self.list_objects(),
            Operation::DeleteObjects => self.delete_objects().await,
            Operation::ListMultipartUploads => self.list_uploads(),
            Operation::PutObject => self.put_object().await,
            Operation::GetObject => self.get_object(true),
            Operation::HeadObject => self.get_object(false),
            Operation::DeleteObject => self.delete_object(),
            Operation::CreateMultipartUpload => self.create_upload(),
            Operation::UploadPart => self.upload_part().await,
            Operation::CompleteMultipartUpload => self.complete_upload().await,
            Operation::AbortMultipartUpload => self.abort_upload(),
            Operation::ListParts => self.list_parts(),
        }
    }
}

/// An answer of XML.
fn xml(root: &str, inner: &str) -> Response {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{root} xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{inner}</{root}>"
    );
    reply(200, "application/xml", text)
}

/// An element with a text in it.
fn element(name: &str, text: impl AsRef<str>) -> String {
    format!("<{name}>{}</{name}>", escaped(text.as_ref()))
}

fn refusal(e: &ApiError, head: bool, path: &str, request: &str) -> Response {
    if head {
        // There is no body to tell more in.
        return reply(e.status, "", "");
    }
    if e.status == 304 {
        return reply(304, "", "");
    }
    let (message, rest) = e.message.split_once('\0').unwrap_or((&e.message, ""));
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{}</Code><Message>{}</Message>{rest}<Resource>{}</Resource><RequestId>{request}</RequestId></Error>",
        escaped(&e.code),
        escaped(message),
        escaped(path)
    );
    let mut response = reply(e.status, "application/xml", "");
    *response.body_mut() = whole(text);
    response
}

/// What S3 says to a signature that it does not believe.
fn refused(refusal: Refusal, presigned: bool) -> ApiError {
    match refusal {
        Refusal::Unsigned => ApiError::new("AccessDenied", "Access Denied"),
        Refusal::Malformed(why) if presigned => ApiError::new("AuthorizationQueryParametersError", why),
        Refusal::Malformed(why) if why.contains("not signed") => ApiError::new("AccessDenied", why),
        Refusal::Malformed(why) => ApiError::new("AuthorizationHeaderMalformed", why),
        Refusal::UnknownKey(_) => {
            ApiError::new("InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.")
        }
        Refusal::Skewed => ApiError::new(
            "RequestTimeTooSkewed",
            "The difference between the request time and the current time is too large.",
        ),
        Refusal::Expired => ApiError::new("AccessDenied", "Request has expired"),
        Refusal::Mismatch { canonical } => ApiError::new(
            "SignatureDoesNotMatch",
            // What is after the zero is elements of the error, not of its message.
            format!(
                "The request signature we calculated does not match the signature you provided. Check your key and signing method.\0{}",
                element("CanonicalRequest", canonical)
            ),
        ),
    }
}

/// A time as HTTP headers have it.
fn http_date(at: u64) -> String {
    i64::try_from(at)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map(|t| t.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string())
        .unwrap_or_default()
}

/// A time as S3's XML has it.
fn xml_date(at: u64) -> String {
    iso(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_in_the_host_or_in_the_path() {
        for (host, path, bucket, key) in [
            ("127.0.0.1:4566", "/b/k/x%20y", "b", "k/x y"),
            ("127.0.0.1:4566", "/b", "b", ""),
            ("b.c.localhost:4566", "/k", "b.c", "k"),
            ("b.s3.us-east-1.amazonaws.com", "/k/l", "b", "k/l"),
            ("s3.us-east-1.amazonaws.com", "/b/k", "b", "k"),
            ("10.77.0.2", "/", "", ""),
        ] {
            assert_eq!(place(host, path), (bucket.to_owned(), key.to_owned()), "{host}{path}");
        }
    }

    #[test]
    fn operations_are_known_by_their_query() {
        let of = |method: &str, key: &str, query: &str| Operation::of(method, "b", key, &query_pairs(query));
        assert_eq!(of("PUT", "k", "partNumber=1&uploadId=x"), Ok(Operation::UploadPart));
        assert_eq!(of("GET", "", "list-type=2&prefix=a"), Ok(Operation::ListObjectsV2));
        assert_eq!(of("POST", "k", "uploads"), Ok(Operation::CreateMultipartUpload));
        assert_eq!(of("GET", "k", "acl").expect_err("none").status, 501);
        assert_eq!(http_date(1_700_000_000_000), "Tue, 14 Nov 2023 22:13:20 GMT");
    }
}
