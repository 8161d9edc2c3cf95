//! Provisions in a cloud in memory: to their end, and killed, refused and cancelled anywhere.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use rocks_common::ids::HostName;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::cloud::{Owned, Resource};
use crate::engine::{Site, run};
use crate::objects::{BucketName, Place};
use crate::order::{End, Join, Method, Order, Shipment, Store};
use crate::plan::{Step, plan};
use crate::record::{Record, Status};
use crate::sim::{Dice, Faults, Sim, SimSite, provision};
use crate::undo::{self, end_leaks};

/// Where objects go.
fn bucket() -> BucketName {
    BucketName::of_site("site-1", "us-east-1").expect("a name")
}

/// By way of S3, and registered there.
fn registered(count: u32) -> Order {
    let mut order = order(Method::Bundle, count);
    if let Some(store) = order.shipment.as_mut().and_then(|shipment| shipment.store.as_mut()) {
        store.end = End::Register;
    }
    order
}

fn order(method: Method, count: u32) -> Order {
    let host = |number| format!("compute-0-{number}").parse::<HostName>().expect("a name");
    let is_there = method == Method::Lite;
    let shipment = Shipment {
        image: "compute".parse().expect("a name"),
        build: Some("compute".parse().expect("a name")),
        gib: 4,
        boot: None,
        receiver: Some("ami-0bace000000000001".parse().expect("an id")),
        parent: None,
        base: None,
        store: (method == Method::Bundle).then(|| Store { bucket: bucket(), end: End::Import, role: None }),
    };
    Order {
        appliance: "compute".parse().expect("a name"),
        method,
        ami: is_there.then(|| "ami-0bace000000000002".parse().expect("an id")),
        shipment: (!is_there).then_some(shipment),
        region: "us-east-1".to_owned(),
        hosts: (0..count).map(host).collect(),
        // Launched one by one or together, by turns.
        join: if count > 0 && count.is_multiple_of(2) { Join::Identity } else { Join::Token },
        template: false,
        most: None,
        architecture: "x86_64".to_owned(),
        kind: "m7i.large".to_owned(),
        receiver_kind: "t3.medium".to_owned(),
        subnet: None,
        groups: Vec::new(),
        key: None,
        spot: false,
        encrypted: true,
        kms_key: None,
        frontend: Ipv4Addr::new(198, 51, 100, 7),
        inside: false,
        port: 8444,
    }
}

fn begun(method: Method, count: u32) -> Record {
    begun_with(order(method, count))
}

fn begun_with(order: Order) -> Record {
    assert_eq!(order.check(), Ok(()));
    Record::new(provision("compute-1"), "site-1".to_owned(), order, Timestamp::UNIX_EPOCH)
}

fn never() -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    // Kept, so that it never ends.
    std::mem::forget(sender);
    receiver
}

fn test<F: Future>(work: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    // A year of its time passes at once when nothing moves any more.
    let year = Duration::from_secs(365 * 24 * 3600);
    runtime.expect("a runtime").block_on(async { tokio::time::timeout(year, work).await.expect("it stands still") })
}

/// What is a site's and no record's.
async fn leaks(cloud: &Sim, site: &str, records: &[Record]) -> Vec<Owned> {
    undo::leaks(undo::owned(cloud, site, &[bucket()]).await.expect("listed"), records)
}

/// What is alive that the record does not keep.
fn stray(cloud: &Sim, record: &Record) -> Vec<String> {
    let kept = |id: &String| {
        let resource = match id.split('-').next() {
            Some("i") => Resource::Instance(id.parse().expect("an id")),
            Some("ami") => Resource::Ami(id.parse().expect("an id")),
            Some("lt") => Resource::Template(id.parse().expect("an id")),
            Some("vol") => Resource::Volume(id.parse().expect("an id")),
            Some("snap") => Resource::Snapshot(id.parse().expect("an id")),
            Some("import") => Resource::Import(id.parse().expect("an id")),
            Some(place) if place.starts_with("s3:") => {
                let place: Place = id.parse().expect("a place");
                if place.upload.is_some() { Resource::Upload(place) } else { Resource::Object(place) }
            }
            _ => Resource::Group(id.parse().expect("an id")),
        };
        record.keeps(&resource)
    };
    cloud.alive().into_iter().filter(|id| !kept(id)).collect()
}

#[test]
fn what_does_not_wait_for_each_other_runs_at_the_same_time() {
    let steps = plan(&order(Method::Udt, 2));
    let after = |step| &steps.iter().find(|one| one.step == step).expect("a step").after;
    assert!(after(Step::Build).is_empty() && after(Step::Volume).is_empty());
    assert_eq!(*after(Step::Ship), [Step::Attach, Step::Build]);
    assert_eq!(plan(&order(Method::Lite, 1)).len(), 2);
    assert_eq!(plan(&order(Method::Ebs, 0)).len(), 4);
    // Whoever waits, waits for what comes before it in the list.
    let every = [Method::Udt, Method::Ebs, Method::Lite, Method::Bundle];
    for order in every.map(|method| order(method, 1)).into_iter().chain([registered(1)]) {
        let steps = plan(&order);
        for (at, one) in steps.iter().enumerate() {
            assert!(one.after.iter().all(|before| steps[..at].iter().any(|earlier| earlier.step == *before)));
        }
    }
}

#[test]
fn each_method_ends_with_what_was_asked_for_and_nothing_else() {
    let orders = [(Method::Udt, 2), (Method::Ebs, 3), (Method::Lite, 16), (Method::Udt, 0), (Method::Bundle, 2)];
    for order in orders.map(|(method, count)| order(method, count)).into_iter().chain([registered(1)]) {
        test(async {
            let count = order.hosts.len();
            let cloud = Sim::new(1, Faults::default());
            let site = SimSite::new(&cloud);
            let began = Instant::now();
            let record = run(&cloud, &site, begun_with(order), &mut never()).await.expect("kept");
            assert_eq!(record.status, Status::Done, "{record:#?}");
            assert_eq!(record.found.instances.len(), count);
            assert!(record.found.instances.values().all(|one| one.converged.is_some() && one.address.is_some()));
            assert_eq!(stray(&cloud, &record), Vec::<String>::new());
            assert_eq!(site.kept().as_ref(), Some(&record));
            assert!(began.elapsed() < Duration::from_secs(400), "{:?}", began.elapsed());
            assert!(cloud.called().is_subset(&crate::iam::actions()), "{:?}", cloud.called());
        });
    }
}

/// Runs it with kills at random moments, each followed by a new frontend, until it ends.
async fn with_kills(cloud: &Sim, site: &SimSite<'_>, order: Order, dice: &mut Dice, cancels: bool) -> Record {
    let (cancel, mut cancelled) = watch::channel(false);
    site.keep(&begun_with(order)).await.expect("kept");
    for kills in 0.. {
        let record = site.kept().expect("a record");
        if !record.status.is_open() {
            return record;
        }
        let after = Duration::from_millis(dice.below(if kills < 4 { 150_000 } else { 3_000_000 }));
        if cancels && kills == 2 {
            cancel.send_replace(true);
        }
        // Whoever is not killed any more ends.
        let after = if kills < 6 { after } else { Duration::from_secs(24 * 3600) };
        tokio::select! {
            ended = run(cloud, site, record, &mut cancelled) => { ended.expect("kept"); }
            () = sleep(after) => assert!(kills < 6, "it stands still: {:#?}", site.kept()),
        }
    }
    unreachable!("it ends")
}

#[test]
fn a_frontend_that_is_killed_anywhere_goes_on_or_undoes_all() {
    for seed in 0..400 {
        let order = match seed % 5 {
            0 => order(Method::Udt, 3),
            1 => order(Method::Ebs, 3),
            2 => order(Method::Lite, 3),
            3 => order(Method::Bundle, 3),
            _ => registered(3),
        };
        let cancels = seed % 2 == 1;
        test(async {
            let cloud = Sim::new(seed, Faults { before: 30, after: 30, ..Faults::default() });
            let site = SimSite::new(&cloud);
            let mut dice = Dice::new(seed + 1000);
            let record = with_kills(&cloud, &site, order, &mut dice, cancels).await;
            match record.status {
                Status::Done => {
                    assert_eq!(record.found.instances.len(), 3);
                    assert_eq!(record.trouble, None);
                }
                Status::Cancelled => assert!(cancels && site.hosts.lock().expect("no panic").is_empty()),
                ref other => panic!("seed {seed}: {other:?}"),
            }
            // Whatever was made twice shows up by now.
            sleep(Duration::from_secs(60)).await;
            cloud.set_faults(Faults::default());
            let leaked = leaks(&cloud, "site-1", std::slice::from_ref(&record)).await;
            assert_eq!(leaked, Vec::<Owned>::new(), "seed {seed}");
            assert_eq!(stray(&cloud, &record), Vec::<String>::new(), "seed {seed}");
        });
    }
}

#[test]
fn who_may_not_do_a_step_is_told_the_action_and_leaves_nothing() {
    for action in [
        "ec2:RunInstances",
        "ec2:CreateVolume",
        "ec2:CreateSnapshot",
        "ec2:RegisterImage",
        "ebs:PutSnapshotBlock",
        "s3:CreateBucket",
        "s3:PutObject",
        "s3:DeleteObject",
        "ec2:ImportSnapshot",
        "ec2:CreateTags",
    ] {
        test(async {
            let cloud = Sim::new(7, Faults { denied: vec![action], ..Faults::default() });
            let site = SimSite::new(&cloud);
            let method = match action {
                "ebs:PutSnapshotBlock" => Method::Ebs,
                "ec2:ImportSnapshot" | "ec2:CreateTags" => Method::Bundle,
                _ if action.starts_with("s3:") => Method::Bundle,
                _ => Method::Udt,
            };
            let mut record = run(&cloud, &site, begun(method, 1), &mut never()).await.expect("kept");
            // What was imported has no tags, and can be removed only when it has been given some.
            if matches!(action, "s3:DeleteObject" | "ec2:CreateTags") {
                // What may not be removed stays until it may be.
                assert!(record.trouble.as_deref().is_some_and(|trouble| trouble.contains(action)), "{record:?}");
                cloud.set_faults(Faults::default());
                record = run(&cloud, &site, record, &mut never()).await.expect("kept");
            }
            let Status::Failed { why } = &record.status else { panic!("{record:?}") };
            assert!(why.what.contains(action) && why.hint.as_deref().is_some_and(|hint| hint.contains("iam.json")));
            assert_eq!(cloud.alive(), Vec::<String>::new());
        });
    }
}

#[test]
fn what_cannot_be_undone_stays_open_and_is_undone_by_the_next() {
    test(async {
        let denied = Faults { denied: vec!["ec2:RegisterImage", "ec2:DeleteSnapshot"], ..Faults::default() };
        let cloud = Sim::new(7, denied);
        let site = SimSite::new(&cloud);
        let record = run(&cloud, &site, begun(Method::Ebs, 1), &mut never()).await.expect("kept");
        assert!(matches!(&record.status, Status::Ending { why: Some(_) }), "{record:?}");
        assert!(record.trouble.as_deref().is_some_and(|trouble| trouble.contains("ec2:DeleteSnapshot")));
        cloud.set_faults(Faults::default());
        let record = run(&cloud, &site, record, &mut never()).await.expect("kept");
        assert!(matches!(record.status, Status::Failed { .. }) && cloud.alive().is_empty());
    });
}

#[test]
fn what_may_not_be_removed_keeps_nothing_else() {
    test(async {
        let denied = Faults { denied: vec!["ec2:CreateSnapshot", "ec2:TerminateInstances"], ..Faults::default() };
        let cloud = Sim::new(7, denied);
        let site = SimSite::new(&cloud);
        let record = run(&cloud, &site, begun(Method::Udt, 1), &mut never()).await.expect("kept");
        assert!(record.trouble.as_deref().is_some_and(|trouble| trouble.contains("ec2:TerminateInstances")));
        let left = cloud.alive();
        assert!(left.iter().all(|id| id.starts_with("i-") || id.starts_with("sg-")), "{left:?}");
        assert!(left.iter().any(|id| id.starts_with("i-")), "{left:?}");
    });
}

#[test]
fn what_is_in_s3_is_not_sent_again() {
    for seed in 0..40 {
        let order = if seed % 2 == 0 { order(Method::Bundle, 0) } else { registered(0) };
        test(async {
            let cloud = Sim::new(seed, Faults::default());
            let site = SimSite::new(&cloud);
            let record = with_kills(&cloud, &site, order, &mut Dice::new(seed), false).await;
            assert_eq!(record.status, Status::Done, "{record:#?}");
            // Whoever is killed while a part travels has sent it without knowing.
            assert!(cloud.most_puts() <= 2, "seed {seed}: {}", cloud.most_puts());
            assert!(record.found.upload.is_none() && record.found.sent_bytes == Some(80));
        });
    }
}

#[test]
fn an_image_in_s3_that_is_cancelled_leaves_neither_object_nor_upload_nor_import() {
    for seed in 0..30 {
        let order = if seed % 3 == 0 { registered(1) } else { order(Method::Bundle, 1) };
        test(async {
            let cloud = Sim::new(seed, Faults::default());
            let site = SimSite::new(&cloud);
            let (cancel, mut cancelled) = watch::channel(false);
            let work = run(&cloud, &site, begun_with(order), &mut cancelled);
            let stopper = async {
                sleep(Duration::from_secs(40 + 3 * seed)).await;
                cancel.send_replace(true);
            };
            let (record, ()) = tokio::join!(work, stopper);
            assert!(matches!(record.expect("kept").status, Status::Cancelled | Status::Done));
            let mut record = site.kept().expect("a record");
            if record.status == Status::Done {
                record.status = Status::Ending { why: None };
                record = run(&cloud, &site, record, &mut never()).await.expect("kept");
            }
            assert_eq!((record.status, cloud.alive()), (Status::Cancelled, Vec::new()), "seed {seed}");
        });
    }
}

#[test]
fn an_instance_that_ends_too_soon_is_launched_again_but_not_for_ever() {
    test(async {
        let cloud = Sim::new(3, Faults { stillborn: 2, ..Faults::default() });
        let site = SimSite::new(&cloud);
        let record = run(&cloud, &site, begun(Method::Lite, 2), &mut never()).await.expect("kept");
        assert_eq!(record.status, Status::Done, "{record:?}");
        assert_eq!(record.found.launches.values().sum::<u32>(), 2);
        assert_eq!(stray(&cloud, &record), Vec::<String>::new());
    });
    test(async {
        let cloud = Sim::new(3, Faults { stillborn: 100, ..Faults::default() });
        let record = run(&cloud, &SimSite::new(&cloud), begun(Method::Lite, 2), &mut never()).await.expect("kept");
        let Status::Failed { why } = &record.status else { panic!("{record:?}") };
        assert!(why.what.contains("Server.InternalError"), "{why:?}");
        assert_eq!(cloud.alive(), Vec::<String>::new());
    });
}

#[test]
fn no_capacity_is_told_with_what_helps() {
    test(async {
        let cloud = Sim::new(3, Faults { full: true, ..Faults::default() });
        let record = run(&cloud, &SimSite::new(&cloud), begun(Method::Lite, 1), &mut never()).await.expect("kept");
        let Status::Failed { why } = &record.status else { panic!("{record:?}") };
        assert!(why.hint.as_deref().is_some_and(|hint| hint.contains("type=")), "{why:?}");
    });
}

#[test]
fn hosts_that_do_not_converge_are_told_and_the_others_stay() {
    test(async {
        let cloud = Sim::new(5, Faults::default());
        let mut site = SimSite::new(&cloud);
        site.never.push("compute-0-1".parse().expect("a name"));
        let record = run(&cloud, &site, begun(Method::Lite, 3), &mut never()).await.expect("kept");
        assert_eq!(record.status, Status::Done);
        assert_eq!(record.trouble.as_deref(), Some("1 hosts have not converged: compute-0-1"));
        assert_eq!(cloud.alive().len(), 3);
    });
}

#[test]
fn nothing_more_is_done_when_the_record_cannot_be_kept() {
    test(async {
        let cloud = Sim::new(5, Faults::default());
        let site = SimSite::new(&cloud);
        site.store_is_full.store(true, Ordering::Relaxed);
        run(&cloud, &site, begun(Method::Udt, 1), &mut never()).await.expect_err("it cannot be kept");
        assert_eq!(cloud.alive(), Vec::<String>::new());
    });
}

fn template(method: Method) -> Record {
    let order = Order { template: true, ..order(method, 0) };
    assert_eq!(order.check(), Ok(()));
    Record::new(provision("compute-1"), "site-1".to_owned(), order, Timestamp::UNIX_EPOCH)
}

#[test]
fn a_template_comes_in_place_of_instances_and_goes_with_what_lets_them_in() {
    let bad = Order { template: true, ..order(Method::Lite, 1) };
    assert!(bad.check().is_err());
    for (method, things) in [(Method::Lite, 1), (Method::Ebs, 3), (Method::Udt, 3)] {
        test(async {
            let cloud = Sim::new(13, Faults::default());
            let site = SimSite::new(&cloud);
            let record = run(&cloud, &site, template(method), &mut never()).await.expect("kept");
            assert_eq!(record.status, Status::Done, "{record:#?}");
            assert!(record.found.template.is_some() && record.found.instances.is_empty());
            assert_eq!(site.lets_in.lock().expect("no panic").len(), 1);
            assert_eq!((cloud.alive().len(), stray(&cloud, &record)), (things, Vec::<String>::new()));
            assert!(cloud.called().is_subset(&crate::iam::actions()), "{:?}", cloud.called());
            // Cancelled: all of it goes, and nobody is let in.
            let record = Record { status: Status::Ending { why: None }, ..record };
            let record = run(&cloud, &site, record, &mut never()).await.expect("kept");
            assert_eq!((record.status, cloud.alive()), (Status::Cancelled, Vec::<String>::new()));
            assert!(site.lets_in.lock().expect("no panic").is_empty());
        });
    }
}

#[test]
fn a_template_is_made_once_however_often_the_frontend_is_killed() {
    for seed in 0..60 {
        test(async {
            let cloud = Sim::new(seed, Faults { before: 60, after: 60, ..Faults::default() });
            let site = SimSite::new(&cloud);
            let mut dice = Dice::new(seed + 5000);
            site.keep(&template(Method::Lite)).await.expect("kept");
            let mut kills = 0;
            let record = loop {
                let record = site.kept().expect("a record");
                if !record.status.is_open() {
                    break record;
                }
                kills += 1;
                let life = if kills < 8 { dice.below(2000) } else { 86_400_000 };
                let mut nobody = never();
                tokio::select! {
                    ended = run(&cloud, &site, record, &mut nobody) => { ended.expect("kept"); }
                    () = sleep(Duration::from_millis(life)) => {}
                }
            };
            assert_eq!((record.status.clone(), cloud.alive().len()), (Status::Done, 1), "seed {seed}");
            assert_eq!(stray(&cloud, &record), Vec::<String>::new(), "seed {seed}");
        });
    }
}

#[test]
fn a_record_from_before_there_were_templates_is_read() {
    let mut value = serde_json::to_value(begun(Method::Lite, 1)).expect("written");
    for (part, key) in [("order", "template"), ("order", "most"), ("found", "template")] {
        value[part].as_object_mut().expect("an object").remove(key).expect("it is there");
    }
    assert_eq!(serde_json::from_value::<Record>(value).expect("read"), begun(Method::Lite, 1));
}

#[test]
fn leaks_are_found_and_ended_and_what_is_kept_is_not() {
    test(async {
        let cloud = Sim::new(9, Faults::default());
        let site = SimSite::new(&cloud);
        let done = run(&cloud, &site, begun(Method::Ebs, 2), &mut never()).await.expect("kept");
        let mut other = begun(Method::Ebs, 1);
        other.id = provision("other-1");
        let forgotten = run(&cloud, &site, other, &mut never()).await.expect("kept");
        sleep(Duration::from_secs(60)).await;
        let both = [done.clone(), forgotten];
        assert_eq!(leaks(&cloud, "site-1", &both).await, Vec::<Owned>::new());
        assert_eq!(leaks(&cloud, "site-2", &[]).await, Vec::<Owned>::new());
        let leaked = leaks(&cloud, "site-1", &both[..1]).await;
        assert_eq!(leaked.len(), 3, "an image, its snapshot, an instance: {leaked:?}");
        end_leaks(&cloud, "site-1", &leaked).await.expect("ended");
        assert_eq!(cloud.alive().len(), 4);
        assert_eq!(stray(&cloud, &done), Vec::<String>::new());
    });
}

#[test]
fn a_spot_instance_that_is_taken_away_before_it_converged_is_replaced() {
    test(async {
        let cloud = Sim::new(11, Faults::default());
        let site = SimSite::new(&cloud);
        let mut nobody = never();
        let work = run(&cloud, &site, begun(Method::Lite, 1), &mut nobody);
        let taker = async {
            loop {
                sleep(Duration::from_secs(1)).await;
                let known = site.kept().and_then(|record| record.found.instances.into_values().next());
                if let Some(one) = known {
                    return cloud.take_away(&one.id);
                }
            }
        };
        let (record, ()) = tokio::join!(work, taker);
        let record = record.expect("kept");
        assert_eq!((record.status.clone(), record.found.launches.values().sum::<u32>()), (Status::Done, 1));
        assert_eq!(stray(&cloud, &record), Vec::<String>::new());
    });
}

#[test]
fn an_instance_that_is_to_be_replaced_is_so_however_often_the_frontend_is_killed() {
    for seed in 0..120 {
        test(async {
            let cloud = Sim::new(seed, Faults { before: 30, after: 30, stillborn: 2, ..Faults::default() });
            let site = SimSite::new(&cloud);
            let record = with_kills(&cloud, &site, order(Method::Lite, 3), &mut Dice::new(seed + 9000), false).await;
            assert_eq!(
                (record.status.clone(), record.found.instances.len()),
                (Status::Done, 3),
                "seed {seed}: {record:?}"
            );
            assert!(record.found.instances.values().all(|one| one.converged.is_some()), "seed {seed}: {record:?}");
            assert_eq!(stray(&cloud, &record), Vec::<String>::new(), "seed {seed}");
        });
    }
}

#[test]
fn an_instance_that_is_taken_away_again_and_again_costs_the_others_nothing() {
    test(async {
        let cloud = Sim::new(11, Faults::default());
        let mut site = SimSite::new(&cloud);
        let last: HostName = "compute-0-2".parse().expect("a name");
        site.never.push(last.clone());
        let mut nobody = never();
        let began = Instant::now();
        let work = run(&cloud, &site, begun(Method::Lite, 3), &mut nobody);
        let taker = async {
            let mut taken = BTreeSet::new();
            while taken.len() < 3 {
                sleep(Duration::from_secs(1)).await;
                let record = site.kept().filter(|record| record.is_done(Step::Launch));
                let one = record.and_then(|record| record.found.instances.get(&last).map(|one| one.id.clone()));
                if let Some(id) = one.filter(|id| !taken.contains(id)) {
                    cloud.take_away(&id);
                    taken.insert(id);
                }
            }
        };
        let (record, ()) = tokio::join!(work, taker);
        let record = record.expect("kept");
        assert_eq!((record.status.clone(), record.found.launches.get(&last)), (Status::Done, Some(&2)));
        let converged = record.found.instances.values().filter(|one| one.converged.is_some()).count();
        assert!(
            converged == 2 && record.trouble.as_deref().is_some_and(|trouble| trouble.contains("compute-0-2")),
            "{record:?}"
        );
        // Nobody waits half an hour for what cannot come any more.
        assert!(began.elapsed() < Duration::from_secs(300), "{:?}", began.elapsed());
    });
}

#[test]
fn what_cannot_be_looked_at_while_hosts_converge_ends_nothing() {
    test(async {
        let cloud = Sim::new(21, Faults::default());
        let site = SimSite::new(&cloud);
        let mut nobody = never();
        let work = run(&cloud, &site, begun(Method::Lite, 2), &mut nobody);
        let denier = async {
            while site.kept().is_none_or(|record| !record.is_done(Step::Launch)) {
                sleep(Duration::from_millis(100)).await;
            }
            cloud.set_faults(Faults { denied: vec!["ec2:DescribeInstances"], ..Faults::default() });
        };
        let (record, ()) = tokio::join!(work, denier);
        let record = record.expect("kept");
        assert_eq!((record.status.clone(), cloud.alive().len()), (Status::Done, 2), "{record:?}");
    });
}

#[test]
fn what_serves_no_more_and_cannot_be_removed_ends_nothing() {
    test(async {
        let cloud = Sim::new(22, Faults::default());
        let site = SimSite::new(&cloud);
        let stray = crate::cloud::NewVolume {
            token: "twice".to_owned(),
            gib: 1,
            zone: "us-east-1a".to_owned(),
            encrypted: true,
            kms_key: None,
            tags: begun(Method::Lite, 1).tags("image"),
        };
        crate::cloud::Cloud::create_volume(&cloud, &stray).await.expect("made");
        sleep(Duration::from_secs(60)).await;
        cloud.set_faults(Faults { denied: vec!["ec2:DeleteVolume"], ..Faults::default() });
        let record = run(&cloud, &site, begun(Method::Lite, 1), &mut never()).await.expect("kept");
        assert_eq!(record.status, Status::Done, "{record:?}");
        assert!(record.trouble.as_deref().is_some_and(|trouble| trouble.contains("ec2:DeleteVolume")), "{record:?}");
    });
}

#[test]
fn a_name_that_is_used_again_means_something_else() {
    let (first, again) = (
        begun(Method::Lite, 1),
        Record { began: Timestamp::from_second(7).expect("a time"), ..begun(Method::Lite, 1) },
    );
    assert_ne!(first.token("volume"), again.token("volume"));
    assert_eq!(first.token("volume"), begun(Method::Lite, 1).token("volume"));
}

#[test]
fn blocks_of_another_image_are_not_mixed_with_those_that_are_there() {
    test(async {
        let cloud = Sim::new(23, Faults::default());
        let site = SimSite::new(&cloud);
        let mut record = begun(Method::Ebs, 1);
        record.found.digest = Some("of the image before".to_owned());
        let record = run(&cloud, &site, record, &mut never()).await.expect("kept");
        let Status::Failed { why } = &record.status else { panic!("{record:?}") };
        assert!(why.what.contains("another"), "{why:?}");
        assert_eq!(cloud.alive(), Vec::<String>::new());
    });
}
