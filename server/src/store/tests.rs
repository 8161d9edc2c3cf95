use super::*;

fn appliance(name: &str) -> Appliance {
    Appliance { name: name.parse().expect("name"), node: name.into(), membership: name.into() }
}

fn host(name: &str, appliance: &str) -> Host {
    Host {
        name: name.parse().expect("name"),
        appliance: appliance.parse().expect("name"),
        arch: "x86_64".into(),
        os: "linux".into(),
        rack: 0,
        rank: 0,
        facts: None,
        enrolled: None,
    }
}

fn setting(owner: Owner, value: &str) -> Setting {
    Setting { owner, name: "a".parse().expect("name"), value: value.into() }
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
    store.remove_host(&"a".parse().expect("name")).await.expect("removed");
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
async fn a_token_is_taken_once_and_in_time() {
    let store = Store::temporary().await.expect("a store");
    store.add_appliance(&appliance("lite")).await.expect("added");
    store.add_host(&host("a", "lite")).await.expect("added");
    let (good, old) = (Digest::of(b"good"), Digest::of(b"old"));
    store.add_token(&"a".parse().expect("name"), &good, 100).await.expect("added");
    store.add_token(&"a".parse().expect("name"), &old, 50).await.expect("added");
    let tries = futures_util::future::join_all((0..8).map(|_| store.take_token(&good, 100))).await;
    assert_eq!(tries.into_iter().filter(|t| matches!(t, Ok(Some(_)))).count(), 1);
    assert!(matches!(store.take_token(&old, 100).await, Ok(None)));
    assert!(matches!(store.take_token(&Digest::of(b"wrong"), 0).await, Ok(None)));
}

#[tokio::test]
async fn generations_go_on_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rocks.db");
    let first = Store::open(&path).await.expect("opened").next_generation(100).await.expect("moved");
    let second = Store::open(&path).await.expect("opened").next_generation(50).await.expect("moved");
    assert!(second > first && first == Generation(100));
}
