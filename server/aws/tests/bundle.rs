//! Images through S3, against the local EC2: nothing is sent twice, and nothing is left.

mod common;

use std::time::Duration;

use common::parts::{Parts, a_disk};
use common::{Minicloud, Pretender, SITE, begun, bucket, carried_on, has_qemu, leaks, order, parsed, tags};
use rocks_aws::Aws;
use rocks_provision::cloud::{Cloud as _, Import, NewImport, Owned, Resource, Whose};
use rocks_provision::engine::{Pieces as _, Site as _, run};
use rocks_provision::iam;
use rocks_provision::objects::{ObjectKey, Objects as _};
use rocks_provision::order::{End, Method, Order};
use rocks_provision::record::{Record, Status};
use rocks_provision::undo::end_leaks;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::sleep;

fn registered(count: u32) -> Order {
    let mut order = order(Method::Bundle, count, None);
    if let Some(store) = order.shipment.as_mut().and_then(|shipment| shipment.store.as_mut()) {
        store.end = End::Register;
    }
    order
}

async fn carried_out(aws: &Aws, record: Record) -> Record {
    let (_sender, mut cancel) = watch::channel(false);
    run(aws, &Pretender::default(), record, &mut cancel).await.expect("kept")
}

/// Ends what a provision made.
async fn ended(aws: &Aws, mut record: Record) {
    record.status = Status::Ending { why: None };
    assert_eq!(carried_out(aws, record).await.status, Status::Cancelled);
}

fn nothing_is_left(cloud: &Minicloud) {
    for kind in ["snapshots", "images"] {
        assert_eq!(cloud.alive(kind), Vec::<String>::new(), "{kind}");
    }
    for kind in ["object", "upload", "snapshot"] {
        assert_eq!(cloud.held(kind), 0, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_that_is_killed_sends_what_lacks_and_leaves_nothing_in_s3() {
    let Some(cloud) = Minicloud::start().filter(|_| has_qemu()) else { return };
    let aws = cloud.aws().await;
    // Answers that are lost where that hurts most.
    for action in ["CreateMultipartUpload", "CompleteMultipartUpload", "ImportSnapshot", "CreateTags", "DeleteObjects"]
    {
        cloud.fault(&json!({ "action": action, "count": 1, "drop": "after" }));
    }
    cloud.fault(&json!({ "action": "UploadPart", "count": 1, "code": "SlowDown" }));
    // Slow enough to be killed in between.
    cloud.fault(&json!({ "action": "UploadPart", "delay_ms": 150 }));
    let site = Pretender::default();
    site.keep(&begun("bundle-1", order(Method::Bundle, 0, None))).await.expect("kept");
    let life = |kills: u64| Duration::from_millis(if kills < 10 { 170 * kills % 900 + 60 } else { 300_000 });
    let (record, kills) = carried_on(&aws, &site, &life).await;
    assert_eq!(record.status, Status::Done, "{record:#?}");
    let parts = record.found.sent_bytes.expect("sent").div_ceil(5 << 20);
    assert!(parts >= 3, "{parts}");
    assert!(cloud.count("s3:UploadPart") <= parts + kills, "{} of {parts}", cloud.count("s3:UploadPart"));
    assert_eq!(leaks(&aws, SITE, std::slice::from_ref(&record)).await, Vec::<Owned>::new());
    assert_eq!((cloud.held("object"), cloud.held("upload")), (0, 0));
    assert_eq!((cloud.alive("snapshots").len(), cloud.alive("images").len()), (1, 1));
    ended(&aws, record).await;
    nothing_is_left(&cloud);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cancelled_on_its_way_into_s3_costs_nothing_any_more() {
    let Some(cloud) = Minicloud::start().filter(|_| has_qemu()) else { return };
    // With the documented policy: undoing needs no more.
    let aws = cloud.aws_with("all", &iam::policy()).await;
    for action in ["UploadPart", "DescribeImportSnapshotTasks"] {
        cloud.fault(&json!({ "action": action, "delay_ms": 400 }));
    }
    let stopped = async |call: &'static str, name: &'static str| {
        let site = Pretender::default();
        let (sender, mut cancel) = watch::channel(false);
        let work = run(&aws, &site, begun(name, order(Method::Bundle, 1, None)), &mut cancel);
        let stopper = async {
            while cloud.count(call) == 0 {
                sleep(Duration::from_millis(20)).await;
            }
            sender.send_replace(true);
        };
        let (record, ()) = tokio::join!(work, stopper);
        assert_eq!(record.expect("kept").status, Status::Cancelled);
    };
    tokio::join!(
        stopped("s3:UploadPart", "bundle-1"),
        stopped("s3:CompleteMultipartUpload", "bundle-2"),
        stopped("ec2:DescribeImportSnapshotTasks", "bundle-3"),
    );
    nothing_is_left(&cloud);
    assert_eq!(leaks(&aws, SITE, &[]).await, Vec::<Owned>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_is_begun_once_and_given_up_with_its_snapshot() {
    let slow = Minicloud::start_of("[delays]\nsnapshot = 600000\n");
    let Some(cloud) = slow.filter(|_| has_qemu()) else { return };
    let aws = cloud.aws_with("all", &iam::policy()).await;
    let (disk, whole) = (parsed::<ObjectKey>("site/disk.vmdk"), Parts::of_disk(&a_disk()));
    aws.ensure_bucket(&bucket(), SITE).await.expect("a bucket");
    let bytes = (0..whole.all().len()).flat_map(|nth| whole.read(nth).expect("read")).collect();
    aws.put_object(&bucket(), &disk, bytes).await.expect("put");
    let new = NewImport {
        token: "bundle-1/import".to_owned(),
        bucket: bucket(),
        key: disk,
        role: None,
        encrypted: true,
        kms_key: None,
        tags: tags("bundle-1", "image"),
    };
    let id = aws.import_snapshot(&new).await.expect("begun");
    assert_eq!(aws.import_snapshot(&new).await, Ok(id.clone()));
    assert_eq!(aws.import(&id).await, Ok(Some(Import::Active)));
    let whose = Whose::Provision(SITE, &new.tags.provision);
    let owned = aws.imports(whose).await.expect("listed");
    assert_eq!(owned.iter().map(|one| &one.resource).collect::<Vec<_>>(), [&Resource::Import(id.clone())]);
    assert_eq!(aws.imports(Whose::Site("other.example.org")).await, Ok(Vec::new()));
    for _ in 0..2 {
        aws.cancel_import(&id).await.expect("given up");
    }
    assert!(matches!(aws.import(&id).await, Ok(Some(Import::Failed(_)))));
    assert_eq!((aws.imports(whose).await, cloud.alive("snapshots")), (Ok(Vec::new()), Vec::new()));
    let strange = parsed("import-snap-00000000000000bad");
    assert_eq!((aws.import(&strange).await, aws.cancel_import(&strange).await), (Ok(None), Ok(())));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_is_told_the_action_and_a_role_that_lacks_is_told() {
    let Some(cloud) = Minicloud::start_prompt().filter(|_| has_qemu()) else { return };
    let denied = async |lacking: &'static str| {
        let aws = cloud.aws_with(lacking, &iam::policy().replace(&format!("\"{lacking}\""), "\"ec2:Nothing\"")).await;
        let name = format!("denied-{}", lacking.replace(':', "-").to_lowercase());
        let record = carried_out(&aws, begun(&name, order(Method::Bundle, 1, None))).await;
        let Status::Failed { why } = &record.status else { panic!("{lacking}: {record:#?}") };
        assert!(
            why.what.contains(lacking) && why.hint.as_deref().is_some_and(|hint| hint.contains("iam.json")),
            "{why:?}"
        );
    };
    let aws = cloud.aws().await;
    let message = "The service role vmimport provided does not exist or does not have sufficient permissions";
    cloud.fault(&json!({ "action": "ImportSnapshot", "count": 1, "code": "InvalidParameter", "message": message }));
    let role = carried_out(&aws, begun("role-1", order(Method::Bundle, 1, None)));
    let three = (denied("s3:CreateBucket"), denied("s3:PutObject"), denied("ec2:ImportSnapshot"));
    let (record, ..) = tokio::join!(role, three.0, three.1, three.2);
    let Status::Failed { why } = &record.status else { panic!("{record:#?}") };
    assert!(why.what.contains("vmimport") && why.what.contains("docs/ec2.md"), "{why:?}");
    nothing_is_left(&cloud);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_is_registered_where_it_is_and_stays_as_long_as_its_image() {
    let key = common::parts::key("old.key.pem");
    let Some(cloud) = Minicloud::start_of(&format!("bundle_key = {key:?}")) else { return };
    let aws = cloud.aws().await;
    cloud.fault(&json!({ "action": "PutObject", "count": 2, "drop": "after" }));
    cloud.fault(&json!({ "action": "RegisterImage", "count": 1, "drop": "after" }));
    let mut wanted = registered(1);
    // What starts of it is old; what is new does not.
    wanted.kind = "m1.large".to_owned();
    let record = carried_out(&aws, begun("old-1", wanted)).await;
    assert_eq!((&record.status, record.found.instances.len()), (&Status::Done, 1), "{record:#?}");
    assert_eq!(cloud.held("object"), 4, "three parts and a manifest");
    assert_eq!(leaks(&aws, SITE, std::slice::from_ref(&record)).await, Vec::<Owned>::new());
    // Nobody's any more: an image, an instance, four objects.
    let leaked = leaks(&aws, SITE, &[]).await;
    assert_eq!(leaked.len(), 6, "{leaked:?}");
    end_leaks(&aws, SITE, &leaked).await.expect("ended");
    nothing_is_left(&cloud);
    // A type of today, and today's EC2.
    let Some(today) = Minicloud::start_prompt() else { return };
    let todays = today.aws().await;
    let (refused, unsupported) = tokio::join!(
        carried_out(&aws, begun("new-1", registered(1))),
        carried_out(&todays, begun("old-1", registered(1)))
    );
    assert!(matches!(&refused.status, Status::Failed { why } if why.what.contains("m5.large")), "{refused:#?}");
    let Status::Failed { why } = &unsupported.status else { panic!("{unsupported:#?}") };
    assert!(why.what.contains("UnsupportedOperation"), "{why:?}");
    nothing_is_left(&cloud);
    nothing_is_left(&today);
}
