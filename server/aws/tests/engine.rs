//! Whole provisions, against the local EC2. Left out where there is none: `ROCKS_MINICLOUD` names its binary.

mod common;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Minicloud, Pretender, SITE, begun, carried_on, leaks, order, parsed};
use rocks_aws::Aws;
use rocks_provision::cloud::{Cloud as _, Owned, Resource, Whose};
use rocks_provision::engine::{Site as _, run};
use rocks_provision::iam;
use rocks_provision::ids::AmiId;
use rocks_provision::order::Method;
use rocks_provision::plan::Step;
use rocks_provision::record::{Record, Status};
use rocks_provision::undo::end_leaks;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::sleep;

/// To its end, by somebody who does not cancel.
async fn carried_out(aws: &Aws, record: Record) -> Record {
    let (_sender, mut cancel) = watch::channel(false);
    run(aws, &Pretender::default(), record, &mut cancel).await.expect("kept")
}

/// An image, as the method `ebs` makes one.
async fn an_image(aws: &Aws, id: &str) -> (AmiId, Record) {
    let record = carried_out(aws, begun(id, order(Method::Ebs, 0, None))).await;
    assert_eq!(record.status, Status::Done, "{record:#?}");
    (record.found.ami.clone().expect("an image"), record)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_method_ends_with_what_was_asked_for_within_the_documented_policy() {
    let Some(cloud) = Minicloud::start() else { return };
    let aws = cloud.aws_with("all", &iam::policy()).await;
    let (image, ebs) = an_image(&aws, "ebs-1").await;
    let mut records = vec![ebs];
    for (method, count) in [(Method::Udt, 2), (Method::Lite, 3), (Method::Ebs, 1), (Method::Bundle, 1)] {
        let record = carried_out(&aws, begun(&format!("{method}-2"), order(method, count, Some(&image)))).await;
        assert_eq!((&record.status, record.trouble.as_deref()), (&Status::Done, None), "{record:#?}");
        assert_eq!(record.found.instances.len(), count as usize);
        assert!(record.found.instances.values().all(|one| one.converged.is_some() && one.address.is_some()));
        records.push(record);
    }
    // A launch template, for instances that others start.
    let mut wanted = order(Method::Lite, 0, Some(&image));
    wanted.template = true;
    let (site, (_sender, mut cancel)) = (Pretender::default(), watch::channel(false));
    let record = run(&aws, &site, begun("template-1", wanted), &mut cancel).await.expect("kept");
    assert_eq!((&record.status, record.found.template.is_some()), (&Status::Done, true), "{record:#?}");
    let account = site.lets_in.lock().expect("no panic").clone();
    assert_eq!(
        account.expect("they are let in").as_str(),
        cloud.ask("GET", "state", "")["account"].as_str().expect("one")
    );
    records.push(record);
    // What is there is what the records keep, and nothing else.
    assert_eq!(leaks(&aws, SITE, &records).await, Vec::<Owned>::new());
    assert_eq!(leaks(&aws, "other.example.org", &[]).await, Vec::<Owned>::new());
    let owned = aws.owned(Whose::Site(SITE)).await.expect("listed");
    let count = |fits: fn(&Resource) -> bool| owned.iter().filter(|one| fits(&one.resource)).count();
    assert_eq!(count(|one| matches!(one, Resource::Instance(_))), 7);
    assert_eq!(count(|one| matches!(one, Resource::Ami(_) | Resource::Snapshot(_))), 8);
    assert_eq!(count(|one| matches!(one, Resource::Volume(_) | Resource::Group(_))), 0);
    assert_eq!(count(|one| matches!(one, Resource::Template(_))), 1);
    assert!(owned.iter().all(|one| one.provision.is_some() && !one.role.is_empty()), "{owned:?}");
    // One that is forgotten leaks, and can be ended.
    let leaked = leaks(&aws, SITE, &records[1..]).await;
    assert_eq!(leaked.len(), 2, "{leaked:?}");
    end_leaks(&aws, SITE, &leaked).await.expect("ended");
    let all = aws.owned(Whose::Site(SITE)).await.expect("listed");
    assert_eq!(all.len(), owned.len() - 2);
    end_leaks(&aws, SITE, &all).await.expect("ended");
    // Root volumes go when their instances have gone wholly.
    for _ in 0..60 {
        if cloud.alive("volumes").is_empty() {
            break;
        }
        sleep(Duration::from_secs(1)).await;
    }
    for kind in ["instances", "volumes", "snapshots", "images"] {
        assert_eq!(cloud.alive(kind), Vec::<String>::new(), "{kind}");
    }
    // The policy allows what was called, and nothing more but what AWS itself calls.
    let called = cloud.permissions();
    let allowed: BTreeSet<String> = iam::actions().into_iter().map(str::to_owned).collect();
    let more: Vec<&String> = called.difference(&allowed).collect();
    assert!(more.is_empty(), "not in the policy: {more:?}");
    let idle: Vec<&String> =
        allowed.difference(&called).filter(|one| one.starts_with("e") && **one != "ec2:CancelImportTask").collect();
    assert!(idle.is_empty(), "in the policy and never called: {idle:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cancelled_leaves_nothing() {
    let Some(cloud) = Minicloud::start() else { return };
    let aws = cloud.aws().await;
    let (image, kept) = an_image(&aws, "ebs-1").await;
    let site = Pretender::default();
    site.ships_for_ever.store(true, Ordering::Relaxed);
    let (sender, mut cancel) = watch::channel(false);
    let work = run(&aws, &site, begun("udt-1", order(Method::Udt, 1, Some(&image))), &mut cancel);
    let stopper = async {
        while !site.last().is_some_and(|record| record.is_done(Step::Attach)) {
            sleep(Duration::from_millis(50)).await;
        }
        sleep(Duration::from_millis(500)).await;
        sender.send_replace(true);
    };
    let (record, ()) = tokio::join!(work, stopper);
    assert_eq!(record.expect("kept").status, Status::Cancelled);
    assert_eq!(leaks(&aws, SITE, &[kept]).await, Vec::<Owned>::new());
    assert_eq!(cloud.alive("volumes"), Vec::<String>::new());
    assert_eq!(cloud.alive("instances"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_do_a_step_is_told_the_action_and_leaves_nothing() {
    let Some(cloud) = Minicloud::start() else { return };
    let (image, kept) = an_image(&cloud.aws().await, "ebs-1").await;
    let denied = async |lacking: &'static str, method: Method| {
        let aws = cloud.aws_with(lacking, &iam::policy().replace(lacking, "ec2:Nothing")).await;
        let record = carried_out(&aws, begun(&format!("denied-{method}"), order(method, 1, Some(&image)))).await;
        let Status::Failed { why } = &record.status else { panic!("{record:#?}") };
        let is_told = why.what.contains(lacking) && why.hint.as_deref().is_some_and(|hint| hint.contains("iam.json"));
        assert!(is_told && !why.what.contains("Encoded") && why.what.len() < 500, "{why:?}");
    };
    tokio::join!(denied("ec2:CreateSnapshot", Method::Udt), denied("ebs:PutSnapshotBlock", Method::Ebs));
    let aws = cloud.aws().await;
    assert_eq!(leaks(&aws, SITE, std::slice::from_ref(&kept)).await, Vec::<Owned>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_and_throttling_make_nothing_twice() {
    let Some(cloud) = Minicloud::start() else { return };
    let aws = cloud.aws().await;
    for action in
        ["StartSnapshot", "CompleteSnapshot", "RegisterImage", "RunInstances", "CreateVolume", "CreateSecurityGroup"]
    {
        cloud.fault(&json!({ "action": action, "count": 1, "drop": "after" }));
    }
    for action in [
        "AttachVolume",
        "DetachVolume",
        "DeleteVolume",
        "DeleteSecurityGroup",
        "RevokeSecurityGroupIngress",
        "TerminateInstances",
    ] {
        cloud.fault(&json!({ "action": action, "count": 1, "code": "RequestLimitExceeded" }));
        cloud.fault(&json!({ "action": action, "count": 1, "drop": "after" }));
    }
    cloud.fault(
        &json!({ "action": "PutSnapshotBlock", "count": 2, "code": "RequestThrottledException", "status": 400 }),
    );
    cloud.fault(&json!({ "action": "DescribeVolumes", "count": 2, "code": "InternalError" }));
    cloud.fault(&json!({ "action": "DescribeImages", "count": 2, "drop": "before" }));
    let (image, first) = an_image(&aws, "ebs-1").await;
    let record = carried_out(&aws, begun("udt-1", order(Method::Udt, 2, Some(&image)))).await;
    assert_eq!(record.status, Status::Done, "{record:#?}");
    assert_eq!(leaks(&aws, SITE, &[first, record]).await, Vec::<Owned>::new());
    // Nothing that has no tags either: two instances have two root volumes.
    assert_eq!((cloud.alive("instances").len(), cloud.alive("volumes").len()), (2, 2));
    assert_eq!((cloud.alive("snapshots").len(), cloud.alive("images").len()), (2, 2));
    assert_eq!(cloud.ask("GET", "faults", "")["faults"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_that_is_killed_goes_on() {
    let Some(cloud) = Minicloud::start() else { return };
    let aws = cloud.aws().await;
    let (image, first) = an_image(&aws, "ebs-1").await;
    let site = Pretender::default();
    site.keep(&begun("udt-1", order(Method::Udt, 2, Some(&image)))).await.expect("kept");
    // Each gets a little further than a whole number of calls.
    let life = |kills: u64| Duration::from_millis(if kills < 12 { 130 * kills % 700 + 40 } else { 300_000 });
    let (record, kills) = carried_on(&aws, &site, &life).await;
    assert_eq!(record.status, Status::Done, "{record:#?}");
    assert!(kills > 4, "it was killed {kills} times");
    assert_eq!(leaks(&aws, SITE, &[first, record]).await, Vec::<Owned>::new());
    assert_eq!((cloud.alive("instances").len(), cloud.alive("volumes").len()), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn spot_instances_and_what_a_cloud_has_no_room_for() {
    let Some(cloud) = Minicloud::start() else { return };
    let aws = cloud.aws().await;
    let (image, _) = an_image(&aws, "ebs-1").await;
    let mut wanted = order(Method::Lite, 1, Some(&image));
    wanted.spot = true;
    let record = carried_out(&aws, begun("spot-1", wanted.clone())).await;
    assert_eq!(record.status, Status::Done, "{record:#?}");
    cloud.fault(&json!({ "action": "RunInstances", "code": "VcpuLimitExceeded" }));
    let record = carried_out(&aws, begun("spot-2", wanted)).await;
    let Status::Failed { why } = &record.status else { panic!("{record:#?}") };
    assert!(why.what.contains("limit") && why.hint.is_some(), "{why:?}");
    assert_eq!(aws.owned(Whose::Provision(SITE, &parsed("spot-2"))).await.expect("listed"), Vec::<Owned>::new());
}
