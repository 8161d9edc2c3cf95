//! Buckets, objects and uploads: each call said twice, too late, or of what is not there, against the local S3.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{Minicloud, SITE, parsed};
use rocks_aws::{Aws, Keys, Settings};
use rocks_provision::cloud::CloudError;
use rocks_provision::objects::{BucketName, LEAST_PART, ObjectKey, Objects as _, Stored};
use serde_json::json;
use sha2::{Digest as _, Sha256};

fn key(text: &str) -> ObjectKey {
    parsed(text)
}

fn body(bytes: usize, seed: u8) -> Bytes {
    (0..bytes).map(|at| (at % 251) as u8 ^ seed).collect()
}

async fn bucket(aws: &Aws) -> BucketName {
    let bucket = BucketName::of_site("0123456789abcdef", "us-east-1").expect("a name");
    // What is there already is found finished.
    for _ in 0..2 {
        aws.ensure_bucket(&bucket, SITE).await.expect("a bucket");
    }
    bucket
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_made_once_closed_to_the_public_and_says_whose_it_is() {
    let Some(cloud) = Minicloud::start_prompt() else { return };
    let aws = cloud.aws().await;
    let name = BucketName::of_site("0123456789abcdef", "us-east-1").expect("a name");
    // Whoever was killed, or lost an answer, in between finishes it the next time.
    cloud.fault(&json!({ "action": "CreateBucket", "count": 1, "drop": "after" }));
    assert!(matches!(aws.ensure_bucket(&name, SITE).await, Err(CloudError::Unclear(_))));
    cloud.fault(&json!({ "action": "PutBucketTagging", "count": 1, "code": "OperationAborted", "status": 409 }));
    assert!(matches!(aws.ensure_bucket(&name, SITE).await, Err(CloudError::Unclear(_))));
    aws.ensure_bucket(&name, SITE).await.expect("a bucket");
    let made = cloud.ask("GET", "state", "")["buckets"][0].clone();
    assert_eq!((&made["name"], &made["closed"]), (&json!(name.as_str()), &json!(true)));
    assert_eq!(made["tags"], json!([["Name", format!("rocks {SITE}")], ["rocks:site", SITE]]));
    // One with tags is somebody's work: nothing of it is changed, not even by another site.
    aws.ensure_bucket(&name, "other.example.org").await.expect("a bucket");
    assert_eq!(cloud.ask("GET", "state", "")["buckets"][0]["tags"], made["tags"]);
    // Another account's.
    cloud.fault(&json!({ "action": "CreateBucket", "count": 1, "code": "BucketAlreadyExists", "status": 409 }));
    let taken = aws.ensure_bucket(&name, SITE).await;
    assert!(matches!(&taken, Err(CloudError::Refused { message, .. }) if message.contains("aws_bucket")), "{taken:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_put_found_listed_and_removed() {
    let Some(cloud) = Minicloud::start_prompt() else { return };
    let aws = cloud.aws().await;
    let bucket = bucket(&aws).await;
    let (one, bytes) = (key("site/compute-1/odd+name=1,2:3~4"), body(70_000, 1));
    assert_eq!(aws.object(&bucket, &one).await, Ok(None));
    for _ in 0..2 {
        aws.put_object(&bucket, &one, bytes.clone()).await.expect("put");
    }
    let stored = Stored { bytes: 70_000, sha256: Some(Sha256::digest(&bytes).into()) };
    assert_eq!(aws.object(&bucket, &one).await, Ok(Some(stored)));
    aws.put_object(&bucket, &key("site/empty"), Bytes::new()).await.expect("put");
    assert_eq!(aws.object(&bucket, &key("site/empty")).await.expect("seen").map(|one| one.bytes), Some(0));
    // More than one page, and than one call removes.
    let many: Vec<ObjectKey> = (0..1203).map(|number| key(&format!("pages/{number:04}"))).collect();
    for key in &many {
        aws.put_object(&bucket, key, Bytes::from_static(b"x")).await.expect("put");
    }
    let listed = aws.list_objects(&bucket, "pages/").await.expect("listed");
    assert!(listed.iter().map(|one| &one.key).eq(&many) && listed.iter().all(|one| one.bytes == 1));
    for _ in 0..2 {
        aws.delete_objects(&bucket, &many).await.expect("removed");
    }
    let left: Vec<String> =
        aws.list_objects(&bucket, "").await.expect("listed").iter().map(|one| one.key.to_string()).collect();
    assert_eq!(left, [one.as_str(), "site/empty"]);
    // Encrypted, and nobody pays for what is removed.
    let bill = cloud.ask("GET", "bill", "");
    let held = bill["items"].as_array().into_iter().flatten().filter(|item| item["end"].is_null()).count();
    assert_eq!(held, 2, "{bill}");
    assert_eq!(cloud.ask("GET", "state", "")["buckets"][0]["objects"][0]["encrypted"], "AES256");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_the_address_gets_the_object_for_a_while() {
    let Some(cloud) = Minicloud::start_prompt() else { return };
    let aws = cloud.aws().await;
    let bucket = bucket(&aws).await;
    let one = key("site/one+1");
    aws.put_object(&bucket, &one, Bytes::from_static(b"what is in it")).await.expect("put");
    let address = aws.presign_get(&bucket, &one, Duration::from_secs(60)).await.expect("an address");
    assert!(address.contains("X-Amz-Expires=60") && !address.contains("secret"), "{address}");
    let (status, got) = cloud.get(&address);
    assert_eq!((status, got.as_slice()), (200, &b"what is in it"[..]));
    let (status, _) = cloud.get(&address.replace("one", "two"));
    assert_eq!(status, 403);
    assert!(aws.presign_get(&bucket, &one, Duration::from_secs(8 * 24 * 3600)).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_in_parts_goes_on_where_it_was_and_leaves_nothing_when_it_is_given_up() {
    let Some(cloud) = Minicloud::start_prompt() else { return };
    let aws = cloud.aws().await;
    let bucket = bucket(&aws).await;
    let disk = key("site/compute-1/disk.vmdk");
    let upload = aws.begin_upload(&bucket, &disk).await.expect("begun");
    let pieces = [body(LEAST_PART as usize, 1), body(LEAST_PART as usize, 2), body(100, 3)];
    let mut put = Vec::new();
    for (number, piece) in (1..).zip(&pieces) {
        put.push(aws.put_part(&bucket, &disk, &upload, number, piece.clone()).await.expect("put"));
    }
    // Once more: it takes the place of the first.
    let again = aws.put_part(&bucket, &disk, &upload, 2, pieces[1].clone()).await.expect("put");
    assert_eq!(again, put[1]);
    assert_eq!(aws.parts(&bucket, &disk, &upload).await.expect("listed"), put);
    assert_eq!(put[1].sha256[..], Sha256::digest(&pieces[1])[..]);
    assert_eq!(aws.list_uploads(&bucket, "site/").await, Ok(vec![(disk.clone(), upload.clone())]));
    assert_eq!(aws.list_uploads(&bucket, "other/").await, Ok(Vec::new()));
    assert_eq!(aws.object(&bucket, &disk).await, Ok(None));
    // What was not put is not taken for it.
    let mut wrong = put.clone();
    wrong[0].sha256[0] ^= 1;
    let refused = aws.complete_upload(&bucket, &disk, &upload, &wrong).await;
    assert!(matches!(refused, Err(CloudError::Refused { .. })), "{refused:?}");
    aws.complete_upload(&bucket, &disk, &upload, &put).await.expect("complete");
    let there = aws.object(&bucket, &disk).await.expect("seen").expect("there");
    assert_eq!(there.bytes, 2 * LEAST_PART + 100);
    // An upload is no more when it is complete.
    assert!(matches!(aws.parts(&bucket, &disk, &upload).await, Err(CloudError::Missing(_))));
    assert!(matches!(aws.complete_upload(&bucket, &disk, &upload, &put).await, Err(CloudError::Missing(_))));
    let other = aws.begin_upload(&bucket, &disk).await.expect("begun");
    aws.put_part(&bucket, &disk, &other, 1, pieces[2].clone()).await.expect("put");
    for _ in 0..2 {
        aws.abort_upload(&bucket, &disk, &other).await.expect("given up");
    }
    let late = aws.put_part(&bucket, &disk, &other, 1, pieces[2].clone()).await;
    assert!(matches!(late, Err(CloudError::Missing(_))), "{late:?}");
    aws.delete_objects(&bucket, std::slice::from_ref(&disk)).await.expect("removed");
    let bill = cloud.ask("GET", "bill", "");
    let items = bill["items"].as_array().expect("a list");
    assert!(items.iter().any(|item| item["kind"] == "upload") && items.iter().all(|item| !item["end"].is_null()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_what_is_denied_and_what_is_out_of_reach() {
    let Some(cloud) = Minicloud::start_prompt() else { return };
    let aws = cloud.aws().await;
    let (none, one): (BucketName, _) = (parsed("rocks-none"), key("site/one"));
    assert_eq!(aws.object(&none, &one).await, Ok(None));
    assert_eq!(aws.list_objects(&none, "site/").await, Ok(Vec::new()));
    assert_eq!(aws.list_uploads(&none, "site/").await, Ok(Vec::new()));
    aws.delete_objects(&none, std::slice::from_ref(&one)).await.expect("it is not there");
    assert!(matches!(aws.put_object(&none, &one, Bytes::new()).await, Err(CloudError::Missing(_))));
    assert!(matches!(aws.begin_upload(&none, &one).await, Err(CloudError::Missing(_))));
    let nobody = r#"{"Statement": {"Effect": "Allow", "Action": "ec2:DescribeImages", "Resource": "*"}}"#;
    let nobody = cloud.aws_with("nobody", nobody).await;
    let actions = [
        nobody.ensure_bucket(&none, SITE).await.expect_err("denied"),
        nobody.object(&none, &one).await.expect_err("denied"),
        nobody.list_objects(&none, "").await.expect_err("denied"),
        nobody.begin_upload(&none, &one).await.expect_err("denied"),
        nobody.list_uploads(&none, "").await.expect_err("denied"),
        nobody.delete_objects(&none, std::slice::from_ref(&one)).await.expect_err("denied"),
        nobody.put_object(&none, &one, Bytes::from_static(b"x")).await.expect_err("denied"),
    ]
    .map(|error| match error {
        CloudError::Denied { action, .. } => action,
        other => panic!("{other:?}"),
    });
    let expected = [
        "s3:CreateBucket",
        "s3:GetObject",
        "s3:ListBucket",
        "s3:PutObject",
        "s3:ListBucketMultipartUploads",
        "s3:DeleteObject",
        "s3:PutObject",
    ];
    assert_eq!(actions, expected);
    cloud.fault(&json!({ "action": "PutObject", "count": 1, "code": "SlowDown" }));
    aws.ensure_bucket(&none, SITE).await.expect("a bucket");
    assert!(matches!(aws.put_object(&none, &one, Bytes::new()).await, Err(CloudError::Throttled(_))));
    let keys = Some(Keys { id: "AKIAMINICLOUDEXAMPLE".to_owned(), secret: "s".to_owned() });
    let endpoint = Some("http://127.0.0.1:9".to_owned());
    let nowhere = Aws::new(Settings { region: "us-east-1".to_owned(), endpoint, keys }).await;
    assert!(matches!(nowhere.object(&none, &one).await, Err(CloudError::Unclear(_))));
}
