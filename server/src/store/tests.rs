use rocks_common::ids::{Digest, HostName};
use rocks_common::wire::{Outcome, Report};

use super::*;
use crate::rollout::machine::{Concerned, Event, Rollout, Sight, Start};
use crate::rollout::strategy::Strategy;
use crate::rollout::wave::Presence;
use crate::rollout::{Change, Touched};

fn appliance(name: &str) -> Appliance {
    Appliance { name: name.parse().expect("name"), node: name.into(), membership: name.into() }
}

fn host(name: &str, appliance: &str) -> Host {
    Host::new(name.parse().expect("name"), appliance.parse().expect("name"), "x86_64")
}

fn setting(owner: Owner, value: &str) -> Setting {
    Setting { owner, name: "a".parse().expect("name"), value: value.into(), secret: false }
}

#[tokio::test]
async fn objects_are_added_changed_and_removed() {
    let store = Store::temporary().await.expect("a store");
    let changes = store.changes();
    store.add_appliance(&appliance("lite")).await.expect("added");
    assert!(matches!(store.add_appliance(&appliance("lite")).await, Err(StoreError::Conflict(_))));
    assert!(matches!(store.add_host(&host("a", "nope")).await, Err(StoreError::Missing { kind: "appliance", .. })));
    store.add_host(&host("a", "lite")).await.expect("added");
    assert!(matches!(store.add_host(&host("a", "lite")).await, Err(StoreError::Conflict(_))));
    assert!(matches!(store.remove_appliance(&"lite".parse().expect("name")).await, Err(StoreError::Conflict(_))));
    store.remove_hosts(&["a".parse().expect("name")]).await.expect("removed");
    assert!(matches!(store.host(&"a".parse().expect("name")).await, Err(StoreError::Missing { .. })));
    store.remove_appliance(&"lite".parse().expect("name")).await.expect("removed");
    assert!(changes.has_changed().expect("open"));
}

#[tokio::test]
async fn the_more_specific_attribute_wins() {
    let store = Store::temporary().await.expect("a store");
    store.add_appliance(&appliance("lite")).await.expect("added");
    store.add_host(&host("a", "lite")).await.expect("added");
    let owners = [
        (Owner::Global, "global"),
        (Owner::Os("linux".into()), "os"),
        (Owner::Appliance("lite".parse().expect("name")), "appliance"),
        (Owner::Host("a".parse().expect("name")), "host"),
    ];
    for (owner, value) in owners.iter().rev() {
        store.set_attribute(&setting(owner.clone(), value)).await.expect("set");
    }
    for (owner, value) in owners.iter().rev() {
        let all = store.attributes().await.expect("read");
        let attributes = attributes_of(&host("a", "lite"), &appliance("lite"), &all, "https://fe");
        assert_eq!(attributes.get("a"), Some(*value));
        store.remove_attribute(owner, &"a".parse().expect("name")).await.expect("removed");
    }
    assert!(store.set_attribute(&setting(Owner::Host("b".parse().expect("name")), "x")).await.is_err());
}

#[tokio::test]
async fn of_the_attributes_those_of_a_host_are_read_alone() {
    let store = Store::temporary().await.expect("a store");
    for name in ["lite", "other"] {
        store.add_appliance(&appliance(name)).await.expect("added");
    }
    for (name, appliance) in [("a", "lite"), ("b", "lite")] {
        store.add_host(&host(name, appliance)).await.expect("added");
    }
    let owners = [
        (Owner::Appliance("lite".parse().expect("name")), true),
        (Owner::Global, false),
        (Owner::Host("a".parse().expect("name")), true),
        (Owner::Os("linux".into()), false),
        (Owner::Appliance("other".parse().expect("name")), true),
        (Owner::Host("b".parse().expect("name")), true),
        (Owner::Os("sunos".into()), false),
    ];
    for (owner, secret) in &owners {
        store.set_attribute(&Setting { secret: *secret, ..setting(owner.clone(), "x") }).await.expect("set");
    }
    let of = async |only_secret| -> Vec<Owner> {
        let found = store.attributes_for(&host("a", "lite"), only_secret).await.expect("read");
        found.into_iter().map(|setting| setting.owner).collect()
    };
    let own: Vec<Owner> = owners[..4].iter().map(|(owner, _)| owner.clone()).collect();
    assert_eq!(of(false).await, own);
    assert_eq!(of(true).await, [own[0].clone(), own[2].clone()]);
}

#[tokio::test]
async fn a_token_is_taken_once_and_in_time() {
    let store = Store::temporary().await.expect("a store");
    store.add_appliance(&appliance("lite")).await.expect("added");
    store.add_host(&host("a", "lite")).await.expect("added");
    let (good, old) = (Digest::of(b"good"), Digest::of(b"old"));
    store.add_token(&"a".parse().expect("name"), &good, 100, 0).await.expect("added");
    store.add_token(&"a".parse().expect("name"), &old, 50, 0).await.expect("added");
    let (facts, a) = (rocks_common::wire::Facts::default(), "a".parse().expect("name"));
    let serials: Vec<String> = (0..10).map(|number| number.to_string()).collect();
    let new = |number: usize| NewCertificate { serial: &serials[number], host: &a, not_after: 1000, facts: &facts };
    let taken: Vec<NewCertificate<'_>> = (0..8).map(new).collect();
    let keys: Vec<Digest> = serials.iter().map(|serial| Digest::of(serial.as_bytes())).collect();
    let take = |number: usize| store.add_certificate(&taken[number], Proof::Token(&good, &keys[number]), 100);
    let tries = futures_util::future::join_all((0..8).map(take)).await;
    let winner = tries.iter().position(Result::is_ok).expect("one of them");
    assert_eq!(tries.iter().filter(|t| t.is_ok()).count(), 1);
    assert!(
        tries.iter().flat_map(|t| t.as_ref().err()).all(|e| matches!(e, StoreError::Missing { kind: "token", .. }))
    );
    // Who took it and did not hear the answer gets another certificate, as long as the token lasts; with another key
    // nobody does.
    store.add_certificate(&new(8), Proof::Token(&good, &keys[winner]), 100).await.expect("the same key");
    assert!(store.add_certificate(&new(9), Proof::Token(&good, &keys[9]), 100).await.is_err());
    assert!(store.add_certificate(&new(9), Proof::Token(&good, &keys[winner]), 101).await.is_err());
    assert_eq!(store.knows_token(&good, 100).await.expect("read"), Some(a.clone()));
    assert!(store.knows_token(&good, 101).await.expect("read").is_none());
    for wrong in [&old, &Digest::of(b"wrong")] {
        assert!(store.knows_token(wrong, 100).await.expect("read").is_none());
        assert!(store.add_certificate(&new(9), Proof::Token(wrong, &keys[9]), 100).await.is_err());
    }
    assert_eq!(store.knows_token(&old, 50).await.expect("read"), Some(a.clone()));
    // Those that have ended go with the next one that is made, and only then can the same be made again.
    assert!(store.add_token(&a, &good, 200, 100).await.is_err());
    store.add_token(&a, &good, 200, 101).await.expect("added");
    store.add_certificate(&new(9), Proof::Token(&good, &keys[9]), 101).await.expect("it is a new one");
}

#[tokio::test]
async fn generations_go_on_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rocks.db");
    let first = Store::open(&path).await.expect("opened").next_generation(100).await.expect("moved");
    let second = Store::open(&path).await.expect("opened").next_generation(50).await.expect("moved");
    assert!(second > first && first == Generation(100));
}

fn report(id: &str, outcome: Outcome, diff: &str) -> Report {
    Report {
        id: id.into(),
        facts: rocks_common::wire::Facts::default(),
        kickstart: None,
        generation: Some(Generation(7)),
        started: jiff::Timestamp::UNIX_EPOCH,
        duration_ms: 1,
        outcome,
        steps: Vec::new(),
        findings: Vec::new(),
        diff: Some(diff.into()),
    }
}

#[tokio::test]
async fn reports_are_kept_once_in_their_order_and_without_secrets() {
    let store = Store::temporary().await.expect("a store");
    store.add_appliance(&appliance("lite")).await.expect("added");
    store.add_host(&host("a", "lite")).await.expect("added");
    let name = "a".parse().expect("name");
    for (owner, value) in [(Owner::Global, "hunter2\nsecond line"), (Owner::Os("sunos".into()), "fine")] {
        store.set_attribute(&Setting { secret: true, ..setting(owner, value) }).await.expect("set");
    }
    for i in 0..30 {
        let text = format!("+pw hunter2\n+second line\n fine {i}\n");
        for _ in 0..2 {
            store.add_report(&name, &report(&i.to_string(), Outcome::Converged, &text), 5).await.expect("kept");
        }
    }
    store.add_report(&name, &report("0", Outcome::Refused, ""), 5).await.expect("an old one counts as new");
    let kept = store.reports(&name, 100).await.expect("read");
    assert_eq!(kept.len(), 20);
    assert_eq!(kept[0].0.id, "0");
    assert_eq!(kept[1].0.diff.as_deref(), Some("+pw ********\n+********\n fine 29\n"));
    let last = store.host(&name).await.expect("a host").last.expect("a report");
    assert_eq!(last, LastReport { outcome: Outcome::Refused, kickstart: None, generation: Some(7), received: 5 });
}

#[tokio::test]
async fn hosts_are_removed_all_or_none_and_certificates_go_to_hosts_that_are_there() {
    let store = Store::temporary().await.expect("a store");
    store.add_appliance(&appliance("lite")).await.expect("added");
    store.add_host(&host("a", "lite")).await.expect("added");
    let [a, b] = ["a", "b"].map(|name| name.parse().expect("name"));
    let facts = rocks_common::wire::Facts::default();
    let new = |serial, host| NewCertificate { serial, host, not_after: 100, facts: &facts };
    let (token, key) = (Digest::of(b"token"), Digest::of(b"key"));
    store.add_token(&a, &token, 100, 1).await.expect("added");
    store.add_certificate(&new("01", &a), Proof::Token(&token, &key), 1).await.expect("noted");
    let foreign = store.add_certificate(&new("02", &b), Proof::Former("01", 100), 1).await;
    assert!(matches!(foreign, Err(StoreError::Missing { .. })));
    assert!(store.remove_hosts(&[a.clone(), b.clone()]).await.is_err());
    assert!(store.host(&a).await.is_ok() && store.revoked().await.expect("read").is_empty());
    store.add_certificate(&new("02", &a), Proof::Former("01", 100), 1).await.expect("renewed");
    store.remove_hosts(std::slice::from_ref(&a)).await.expect("removed");
    assert_eq!(store.revoked().await.expect("read"), ["01", "02"]);
    // It is there again, and is another machine: the one before cannot renew itself into its place.
    store.add_host(&host("a", "lite")).await.expect("added");
    let renewed = store.add_certificate(&new("03", &a), Proof::Former("02", 100), 1).await;
    assert!(matches!(renewed, Err(StoreError::Missing { kind: "certificate", .. })), "{renewed:?}");
    assert!(store.host(&a).await.expect("there").enrolled.is_none());
    // A store that was put back from a copy has never heard of it; it does then, and can revoke it.
    store.add_certificate(&new("05", &a), Proof::Former("04", 100), 1).await.expect("renewed");
    store.remove_hosts(std::slice::from_ref(&a)).await.expect("removed");
    assert_eq!(store.revoked().await.expect("read"), ["01", "02", "04", "05"]);
}

#[tokio::test]
async fn who_takes_a_new_token_takes_the_hosts_place() {
    let store = Store::temporary().await.expect("a store");
    store.add_appliance(&appliance("lite")).await.expect("added");
    let facts = rocks_common::wire::Facts::default();
    let [a, b] = ["a", "b"].map(|name| name.parse().expect("name"));
    let new = |serial, host| NewCertificate { serial, host, not_after: 1000, facts: &facts };
    let [old, young, other] = ["old", "young", "other"].map(|token| Digest::of(token.as_bytes()));
    let [first, second] = ["first", "second"].map(|key| Digest::of(key.as_bytes()));
    for (name, host, token) in [("a", &a, &old), ("b", &b, &other)] {
        store.add_host(&self::host(name, "lite")).await.expect("added");
        store.add_token(host, token, 100, 1).await.expect("added");
    }
    store.add_certificate(&new("b1", &b), Proof::Token(&other, &first), 1).await.expect("noted");
    let changes = store.changes();
    store.add_certificate(&new("01", &a), Proof::Token(&old, &first), 1).await.expect("noted");
    store.add_certificate(&new("02", &a), Proof::Token(&old, &first), 1).await.expect("it did not hear the answer");
    assert!(store.revoked().await.expect("read").is_empty() && !changes.has_changed().expect("open"));

    // Nobody has come with this one.
    let late = Digest::of(b"late");
    store.add_token(&a, &late, 150, 1).await.expect("added");
    store.add_token(&a, &young, 200, 1).await.expect("added");
    store.add_certificate(&new("03", &a), Proof::Token(&young, &second), 1).await.expect("noted");
    assert_eq!(store.revoked().await.expect("read"), ["01", "02"]);
    assert!(changes.has_changed().expect("open"));
    store.add_certificate(&new("04", &a), Proof::Token(&young, &second), 1).await.expect("it did not hear the answer");
    store.add_certificate(&new("05", &a), Proof::Former("03", 100), 1).await.expect("renewed");
    // The machine before is out, also by the token that it has taken, which is known all the same.
    assert!(store.add_certificate(&new("06", &a), Proof::Former("02", 100), 1).await.is_err());
    assert!(store.add_certificate(&new("06", &a), Proof::Token(&old, &first), 1).await.is_err());
    assert!(store.add_certificate(&new("06", &a), Proof::Token(&late, &first), 1).await.is_err(), "it comes too late");
    assert_eq!(store.knows_token(&old, 1).await.expect("read"), Some(a));
    assert_eq!(store.revoked().await.expect("read"), ["01", "02"]);
}

fn rule(name: &str, count: Option<u32>) -> crate::identity::Rule {
    crate::identity::Rule {
        name: name.parse().expect("a name"),
        appliance: "lite".parse().expect("a name"),
        account: "123456789012".parse().expect("an account"),
        region: "us-east-1".to_owned(),
        images: vec!["ami-00000000000000001".parse().expect("an id"), "ami-00000000000000002".parse().expect("an id")],
        age_seconds: 900,
        count,
        provision: Some("lite-1".parse().expect("a name")),
    }
}

fn document(instance: &str) -> crate::identity::Document {
    let json = serde_json::json!({"accountId": "123456789012", "region": "us-east-1", "imageId": "ami-00000000000000001",
        "instanceId": instance, "pendingTime": "2026-01-01T00:00:00Z"});
    serde_json::from_value(json).expect("a document")
}

#[tokio::test]
async fn an_instance_enrols_once_and_a_rule_has_no_more_hosts_than_it_may() {
    let store = Store::temporary().await.expect("a store");
    store.add_appliance(&appliance("lite")).await.expect("added");
    let missing = crate::identity::Rule { appliance: "nope".parse().expect("a name"), ..rule("a", None) };
    assert!(matches!(store.add_enrolment(&missing).await, Err(StoreError::Missing { kind: "appliance", .. })));
    store.add_enrolment(&rule("web", Some(2))).await.expect("added");
    assert!(matches!(store.add_enrolment(&rule("web", None)).await, Err(StoreError::Conflict(_))));
    assert_eq!(store.enrolments().await.expect("read"), [rule("web", Some(2))]);
    assert!(matches!(store.remove_appliance(&"lite".parse().expect("name")).await, Err(StoreError::Conflict(_))));
    let (facts, keys) = (rocks_common::wire::Facts::default(), [Digest::of(b"1"), Digest::of(b"2")]);
    let web: rocks_common::ids::EnrolmentName = "web".parse().expect("a name");
    let serial = std::sync::atomic::AtomicU32::new(0);
    let enrol = async |id: &str, key: usize| {
        let (document, host) = (document(id), id.parse().expect("a name"));
        let serial = serial.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string();
        let certificate = NewCertificate { serial: &serial, host: &host, not_after: 1000, facts: &facts };
        let new = NewInstance { document: &document, rule: &web, key: &keys[key], arch: "x86_64" };
        store.enrol_instance(&new, &certificate, 100).await
    };
    // The same instance from several sides at once: with one key it is the same that asks again, with another it is somebody else.
    let changes = store.changes();
    let both = futures_util::future::join(enrol("i-00000000000000001", 0), enrol("i-00000000000000001", 1)).await;
    assert!(both.0.is_ok() && matches!(both.1, Err(StoreError::Conflict(_))), "{both:?}");
    assert!(changes.has_changed().expect("open"));
    let changes = store.changes();
    enrol("i-00000000000000001", 0).await.expect("it did not hear the answer");
    assert!(changes.has_changed().expect("open"), "its kickstart may not be made yet");
    let made = store.host(&"i-00000000000000001".parse().expect("a name")).await.expect("a host");
    assert_eq!((made.appliance.as_str(), made.enrolled), ("lite", Some(100)));
    // A name that is taken, and a third where there may be two. Neither leaves anything.
    store.add_host(&host("i-00000000000000002", "lite")).await.expect("added");
    assert!(matches!(enrol("i-00000000000000002", 0).await, Err(StoreError::Conflict(_))));
    enrol("i-00000000000000003", 0).await.expect("the second");
    let full = enrol("i-00000000000000004", 0).await.expect_err("there are two").to_string();
    assert_eq!(full, "enrolment `web` has 2 living hosts already");
    let there = store.enrolled().await.expect("read");
    assert_eq!((there.len(), there.values().all(|one| one.enrolment == web)), (2, true));
    // One whose host was removed is out, and makes room for others.
    store.remove_hosts(&["i-00000000000000003".parse().expect("name")]).await.expect("removed");
    assert!(matches!(enrol("i-00000000000000003", 0).await, Err(StoreError::Conflict(_))));
    enrol("i-00000000000000004", 0).await.expect("there is room");
    // Without the rule nobody new comes in, and those who are in stay.
    store.remove_enrolment(&web).await.expect("removed");
    assert!(matches!(enrol("i-00000000000000005", 0).await, Err(StoreError::Missing { kind: "enrolment", .. })));
    assert_eq!(store.enrolled().await.expect("read").len(), 2);
    // What is terminated is remembered for as long as a document of it could be shown.
    store.remove_hosts(&["i-00000000000000001".parse().expect("name")]).await.expect("removed");
    let (first, third): (rocks_provision::ids::InstanceId, rocks_provision::ids::InstanceId) =
        ("i-00000000000000001".parse().expect("an id"), "i-00000000000000003".parse().expect("an id"));
    store.add_enrolment(&rule("web", None)).await.expect("added");
    store.end_instance(&first, 200).await.expect("noted");
    assert!(matches!(enrol("i-00000000000000001", 0).await, Err(StoreError::Conflict(_))));
    store.end_instance(&third, 200 + 3 * 86_400).await.expect("noted");
    enrol("i-00000000000000001", 0).await.expect("it is forgotten");
    assert!(matches!(enrol("i-00000000000000003", 0).await, Err(StoreError::Conflict(_))));
}

#[tokio::test]
async fn an_instance_that_a_provision_launched_enrols_once_as_the_host_that_it_is_to_be() {
    let store = Store::temporary().await.expect("a store");
    store.add_appliance(&appliance("lite")).await.expect("added");
    let (facts, keys) = (rocks_common::wire::Facts::default(), [Digest::of(b"1"), Digest::of(b"2")]);
    let provision: rocks_common::ids::EnrolmentName = "lite-1".parse().expect("a name");
    let serial = std::sync::atomic::AtomicU32::new(0);
    let enrol = async |id: &str, host: &str, key: usize| {
        let (document, host) = (document(id), host.parse().expect("a name"));
        let serial = serial.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string();
        let certificate = NewCertificate { serial: &serial, host: &host, not_after: 1000, facts: &facts };
        let new = NewInstance { document: &document, rule: &provision, key: &keys[key], arch: "x86_64" };
        store.enrol_member(&new, &certificate, 100).await
    };
    // Without the host nothing is noted.
    let missing = enrol("i-00000000000000001", "lite-0-0", 1).await;
    assert!(matches!(missing, Err(StoreError::Missing { kind: "host", .. })), "{missing:?}");
    store.add_host(&host("lite-0-0", "lite")).await.expect("added");
    let both = futures_util::future::join(
        enrol("i-00000000000000001", "lite-0-0", 0),
        enrol("i-00000000000000001", "lite-0-0", 1),
    );
    let both = both.await;
    assert!(both.0.is_ok() && matches!(both.1, Err(StoreError::Conflict(_))), "{both:?}");
    enrol("i-00000000000000001", "lite-0-0", 0).await.expect("it did not hear the answer");
    assert!(store.revoked().await.expect("read").is_empty());
    // Another that was launched in its place.
    enrol("i-00000000000000002", "lite-0-0", 0).await.expect("it is the host now");
    assert_eq!(store.revoked().await.expect("read").len(), 2);
    assert_eq!(store.host(&"lite-0-0".parse().expect("a name")).await.expect("a host").enrolled, Some(100));
    // The provision sees to the end of its hosts: they are none that a rule let in, and no rule lets the instance in either.
    assert!(store.enrolled().await.expect("read").is_empty());
    store.add_enrolment(&rule("web", None)).await.expect("added");
    let (document, name) = (document("i-00000000000000001"), "i-00000000000000001".parse().expect("a name"));
    let web = "web".parse().expect("a name");
    let new = NewInstance { document: &document, rule: &web, key: &keys[0], arch: "x86_64" };
    let certificate = NewCertificate { serial: "other", host: &name, not_after: 1000, facts: &facts };
    assert!(matches!(store.enrol_instance(&new, &certificate, 100).await, Err(StoreError::Conflict(_))));
    // As long as it lives it is remembered, for whoever stops and starts it has a new document; and when it has ended, for as long as that
    // could be shown.
    let (first, other) = ("i-00000000000000001".parse().expect("an id"), "i-00000000000000009".parse().expect("an id"));
    store.end_instance(&other, 100 + 30 * 86_400).await.expect("noted");
    assert!(matches!(enrol("i-00000000000000001", "lite-0-0", 1).await, Err(StoreError::Conflict(_))));
    store.end_instance(&first, 100 + 31 * 86_400).await.expect("noted");
    assert!(matches!(enrol("i-00000000000000001", "lite-0-0", 1).await, Err(StoreError::Conflict(_))));
    store.end_instance(&other, 100 + 34 * 86_400).await.expect("noted");
    enrol("i-00000000000000001", "lite-0-0", 1).await.expect("it is forgotten");
    // From here on the administrator says which machine it is.
    let (name, launched) = ("lite-0-0".parse().expect("a name"), document.pending_time.as_second());
    store.add_token_by_hand(&name, &Digest::of(b"token"), launched + 3601, launched + 1).await.expect("added");
    assert!(matches!(enrol("i-00000000000000003", "lite-0-0", 1).await, Err(StoreError::Conflict(_))));
    enrol("i-00000000000000001", "lite-0-0", 1).await.expect("it is so already");
}

/// A rollout of hosts `a` and `b` of appliance `lite` from one kickstart to another, the first of which is released.
fn rollout(number: i64, own: i64) -> Rollout {
    struct All;
    impl Sight for All {
        fn presence(&self, _: &HostName) -> Presence {
            Presence::Here
        }
        fn came(&self, _: &HostName, _: jiff::Timestamp) -> bool {
            true
        }
        fn last(&self, _: &HostName) -> Option<(Digest, Outcome)> {
            None
        }
    }
    let start = Start {
        name: format!("lite-{own}").parse().expect("a name"),
        number,
        appliance: "lite".parse().expect("a name"),
        what: "attr a".to_owned(),
        strategy: Strategy { waves: "1".parse().expect("waves"), ..Strategy::default() },
    };
    let concerned = |name: &str| Concerned {
        host: name.parse().expect("a name"),
        former: Digest::of(b"old"),
        target: Digest::of(b"new"),
    };
    Rollout::begin(start, ["a", "b"].map(concerned).to_vec(), jiff::Timestamp::UNIX_EPOCH, &All).0
}

#[tokio::test]
async fn a_rollout_survives_with_its_hosts_and_only_what_changed_is_written() {
    let store = Store::temporary().await.expect("a store");
    let lite = "lite".parse().expect("a name");
    assert_eq!(store.next_rollout(&lite).await.expect("read"), (1, 1));
    let mut first = rollout(1, 1);
    let all = Change { rollout: first.clone(), touched: Touched::All };
    store.deliver(&Delivery { rollouts: vec![&all], ..Delivery::default() }).await.expect("kept");
    let read = store.rollout(&"lite-1".parse().expect("a name")).await.expect("read");
    assert_eq!((read.header(), read.members()), (first.header(), first.members()));

    let report = |host: &str, outcome| Event::Report {
        host: host.parse().expect("a name"),
        kickstart: Some(Digest::of(b"new")),
        outcome,
    };
    let now = jiff::Timestamp::from_second(5).expect("a time");
    let moves = first.on(report("a", Outcome::Incomplete), now).expect("taken");
    let mut some = Change::of(&first);
    some.touch(&moves.touched);
    store.deliver(&Delivery { rollouts: vec![&some], ..Delivery::default() }).await.expect("kept");
    let read = store.latest_rollouts().await.expect("read").pop().expect("one");
    assert_eq!((read.header(), read.members()), (first.header(), first.members()));
    assert_eq!(read.header().status.word(), "stopped");

    // The next one has the next number, and the one before is no longer the latest.
    assert_eq!(store.next_rollout(&lite).await.expect("read"), (2, 2));
    first.on(Event::Supersede(None), now).expect("overtaken");
    let (over, next) = (Change::of(&first), Change { rollout: rollout(2, 2), touched: Touched::All });
    store.deliver(&Delivery { rollouts: vec![&over, &next], ..Delivery::default() }).await.expect("kept");
    let latest = store.latest_rollouts().await.expect("read");
    assert_eq!(latest.iter().map(|one| one.header().name.as_str()).collect::<Vec<_>>(), ["lite-2"]);
    assert_eq!(store.rollouts().await.expect("read").len(), 2);
    assert!(matches!(store.rollout(&"nope".parse().expect("a name")).await, Err(StoreError::Missing { .. })));
}

#[tokio::test]
async fn kickstarts_are_kept_as_long_as_somebody_may_need_them() {
    let store = Store::temporary().await.expect("a store");
    store.add_appliance(&appliance("lite")).await.expect("added");
    store.add_appliance(&appliance("other")).await.expect("added");
    store.add_host(&host("a", "lite")).await.expect("added");
    store.add_host(&host("c", "other")).await.expect("added");
    let lite = "lite".parse().expect("a name");
    let given = |name: &str, text: &[u8]| {
        let given = Given { digest: Digest::of(text), generation: Generation(1), appliance: None };
        (name.parse().expect("a name"), given)
    };
    let body = |text: &[u8]| (Digest::of(text), bytes::Bytes::copy_from_slice(text));
    let first = Change { rollout: rollout(1, 1), touched: Touched::All };
    let delivery = Delivery {
        bodies: vec![body(b"old"), body(b"new"), body(b"other"), body(b"nobody's")],
        // Of a host that is not there nothing is noted.
        given: vec![given("a", b"new"), given("c", b"other"), given("gone", b"nobody's")],
        rollouts: vec![&first],
    };
    store.deliver(&delivery).await.expect("kept");
    assert_eq!(store.served().await.expect("read").len(), 2);
    let kept = async || {
        store.sweep_bodies().await.expect("swept");
        let kept = store.bodies().await.expect("read");
        [&b"old"[..], b"new", b"other", b"nobody's"].map(|text| kept.contains(&Digest::of(text)))
    };
    store.set_strategy(Some(&lite), &Strategy::default()).await.expect("set");
    assert_eq!(kept().await, [true, true, false, false]);
    assert_eq!(store.body(&Digest::of(b"old")).await.expect("read").as_deref(), Some(&b"old"[..]));
    // What nobody can go back to any more goes.
    let mut over = first.rollout.clone();
    over.on(Event::Supersede(None), jiff::Timestamp::UNIX_EPOCH).expect("overtaken");
    store.deliver(&Delivery { rollouts: vec![&Change::of(&over)], ..Delivery::default() }).await.expect("kept");
    assert_eq!(kept().await, [false, true, false, false]);
    store.remove_strategy(Some(&lite)).await.expect("removed");
    assert_eq!(kept().await, [false; 4]);
}

#[tokio::test]
async fn an_appliances_own_strategy_goes_before_the_default_and_goes_with_it() {
    let store = Store::temporary().await.expect("a store");
    store.add_appliance(&appliance("lite")).await.expect("added");
    let [lite, other] = ["lite", "other"].map(|name| name.parse().expect("a name"));
    let own = Strategy { waves: "2".parse().expect("waves"), ..Strategy::default() };
    assert!(matches!(store.set_strategy(Some(&other), &own).await, Err(StoreError::Missing { .. })));
    store.set_strategy(None, &Strategy::default()).await.expect("set");
    store.set_strategy(Some(&lite), &own).await.expect("set");
    let all = store.strategies().await.expect("read");
    assert_eq!((all.of(&lite), all.of(&other)), (Some(&own), Some(&Strategy::default())));
    store.remove_appliance(&lite).await.expect("removed");
    assert_eq!(store.strategies().await.expect("read").of(&lite), Some(&Strategy::default()));
    store.remove_strategy(None).await.expect("removed");
    assert!(store.strategies().await.expect("read").is_empty());
    assert!(matches!(store.remove_strategy(None).await, Err(StoreError::Missing { .. })));
}
