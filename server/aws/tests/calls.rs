//! Each call said twice, too late, or of what is not there, against the local EC2.

mod common;

use common::{Minicloud, SITE, parsed, tags};
use rocks_aws::{Aws, Keys, Settings};
use rocks_provision::cloud::{
    BootMode, Cloud, CloudError, InstanceState, Launch, NewSnapshot, NewTemplate, NewVolume, Registration, Rule,
    SnapshotState, Source, VolumeState, Whose,
};
use rocks_provision::ids::{AmiId, InstanceId, SnapshotId, VolumeId};
use std::time::Duration;
use tokio::time::sleep;

/// A snapshot with one block.
async fn a_snapshot(aws: &Aws, name: &str) -> SnapshotId {
    let new = NewSnapshot {
        token: format!("{name}/snapshot"),
        gib: 1,
        parent: None,
        encrypted: false,
        kms_key: None,
        tags: tags(name, "image"),
    };
    let id = aws.start_snapshot(&new).await.expect("a snapshot");
    assert_eq!(aws.start_snapshot(&new).await.expect("the same"), id);
    aws.put_block(&id, 0, vec![7; 512 << 10]).await.expect("written");
    aws.put_block(&id, 0, vec![7; 512 << 10]).await.expect("written again");
    assert!(matches!(aws.put_block(&id, 1, vec![7; 100]).await, Err(CloudError::Refused { .. })));
    assert!(matches!(aws.complete_snapshot(&id, 2).await, Err(CloudError::Refused { .. })));
    aws.complete_snapshot(&id, 1).await.expect("completed");
    aws.complete_snapshot(&id, 1).await.expect("said already");
    for _ in 0..200 {
        if aws.snapshot(&id).await.expect("seen").is_some_and(|one| one.state == SnapshotState::Completed) {
            aws.complete_snapshot(&id, 1).await.expect("said long ago");
            return id;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("{id} is not completed")
}

fn registration(name: &str, snapshot: &SnapshotId) -> Registration {
    Registration {
        name: format!("rocks-{name}"),
        description: "a test".to_owned(),
        of: Source::Snapshot(snapshot.clone()),
        architecture: "x86_64".to_owned(),
        boot: BootMode::Uefi,
        root_device: "/dev/xvda".to_owned(),
        tags: tags(name, "image"),
    }
}

async fn launch(aws: &Aws, image: &AmiId) -> Launch {
    Launch {
        token: "calls-1/receiver".to_owned(),
        count: 1,
        image: image.clone(),
        kind: "t3.medium".to_owned(),
        subnet: aws.subnet(None, &[]).await.expect("a subnet").id,
        groups: Vec::new(),
        user_data: "a token".to_owned(),
        key: None,
        spot: false,
        root_gib: Some(2),
        root_device: Some("/dev/xvda".to_owned()),
        tags: tags("calls-1", "receiver"),
    }
}

async fn until_running(aws: &Aws, id: &InstanceId) {
    for _ in 0..200 {
        let all = aws.instances(std::slice::from_ref(id)).await.expect("seen");
        if all.first().is_some_and(|one| one.state == InstanceState::Running) {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("{id} does not run")
}

async fn until_volume(aws: &Aws, id: &VolumeId, state: VolumeState, whole: bool) {
    for _ in 0..200 {
        let volume = aws.volume(id).await.expect("seen").expect("there");
        if volume.state == state && volume.attached.as_ref().is_some_and(|(_, is_whole)| *is_whole) == whole {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("{id} is not {state:?}")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_twice_is_done_once() {
    let Some(cloud) = Minicloud::start_prompt() else { return };
    let aws = cloud.aws().await;
    let (snapshot, other) = (a_snapshot(&aws, "calls-1").await, a_snapshot(&aws, "calls-2").await);
    // An image: the same of the same snapshot, and refused of another.
    let image = aws.register(&registration("calls-1", &snapshot)).await.expect("an image");
    assert_eq!(aws.register(&registration("calls-1", &snapshot)).await, Ok(image.clone()));
    assert!(matches!(aws.register(&registration("calls-1", &other)).await, Err(CloudError::Exists(_))));
    let ami = aws.ami(&image).await.expect("seen").expect("there");
    assert_eq!(
        (ami.available, ami.snapshot.as_ref(), ami.root_device.as_deref()),
        (Some(true), Some(&snapshot), Some("/dev/xvda"))
    );
    assert!(matches!(aws.delete_snapshot(&snapshot).await, Err(CloudError::InUse(_))));
    // An instance.
    let mut wanted = launch(&aws, &image).await;
    let ids = aws.launch(&wanted).await.expect("an instance");
    let id = ids[0].clone();
    assert_eq!(aws.launch(&wanted).await, Ok(ids));
    // Several by one call: the same call gives the same ones.
    let three = Launch { token: "calls-1/members".to_owned(), count: 3, ..wanted.clone() };
    let mut ids = aws.launch(&three).await.expect("three");
    let mut same = aws.launch(&three).await.expect("three");
    ids.sort();
    same.sort();
    assert!(ids.len() == 3 && ids == same && !ids.contains(&id), "{ids:?} {same:?}");
    aws.terminate(&ids).await.expect("ended");
    wanted.user_data.push('!');
    assert!(matches!(aws.launch(&wanted).await, Err(CloudError::Refused { .. })));
    until_running(&aws, &id).await;
    let seen = aws.instances(std::slice::from_ref(&id)).await.expect("seen").remove(0);
    assert!(seen.role == "receiver" && seen.private.is_some() && seen.launched.is_some(), "{seen:?}");
    // A volume.
    let zone = aws.subnet(None, &[]).await.expect("a subnet").zone;
    let new = NewVolume {
        token: "calls-1/volume".to_owned(),
        gib: 1,
        zone,
        encrypted: true,
        kms_key: None,
        tags: tags("calls-1", "image"),
    };
    let volume = aws.create_volume(&new).await.expect("a volume");
    assert_eq!(aws.create_volume(&new).await, Ok(volume.clone()));
    until_volume(&aws, &volume, VolumeState::Available, false).await;
    aws.detach(&volume).await.expect("it is nobody's");
    for _ in 0..2 {
        aws.attach(&volume, &id, "/dev/sdf").await.expect("attached");
    }
    until_volume(&aws, &volume, VolumeState::InUse, true).await;
    aws.attach(&volume, &id, "/dev/sdf").await.expect("it is there");
    assert!(matches!(aws.delete_volume(&volume).await, Err(CloudError::InUse(_))));
    for _ in 0..2 {
        aws.detach(&volume).await.expect("detached");
    }
    until_volume(&aws, &volume, VolumeState::Available, false).await;
    let taken = aws.create_snapshot(&volume, &tags("calls-1", "image")).await.expect("a snapshot");
    assert!(aws.snapshot(&taken).await.expect("seen").is_some());
    // A group and its rule.
    let vpc = aws.subnet(None, &[]).await.expect("a subnet").vpc;
    let group = aws.ensure_group("rocks-calls-1", &vpc, &tags("calls-1", "receiver")).await.expect("a group");
    assert_eq!(aws.ensure_group("rocks-calls-1", &vpc, &tags("calls-1", "receiver")).await, Ok(group.clone()));
    let others = aws.ensure_group("rocks-calls-1", &vpc, &tags("calls-2", "receiver")).await;
    assert!(matches!(others, Err(CloudError::Exists(_))), "{others:?}");
    let rule = Rule { protocol: "udp".to_owned(), port: 8444, from: "198.51.100.7/32".to_owned() };
    aws.disallow(&group, &rule).await.expect("it did not hold");
    for _ in 0..2 {
        aws.allow(&group, &rule).await.expect("it holds");
    }
    for _ in 0..2 {
        aws.disallow(&group, &rule).await.expect("it holds no longer");
    }
    // A launch template, also when its token is forgotten; and one of that name that is another provision's.
    let mut template = NewTemplate {
        token: "calls-1/template".to_owned(),
        name: "rocks-calls-1".to_owned(),
        image: image.clone(),
        kind: "t3.medium".to_owned(),
        subnet: Some(wanted.subnet.clone()),
        groups: vec![group.clone()],
        user_data: "who you are".to_owned(),
        key: None,
        spot: false,
        root_device: Some("/dev/xvda".to_owned()),
        encrypted: true,
        kms_key: None,
        tags: tags("calls-1", "template"),
    };
    let made = aws.create_template(&template).await.expect("a template");
    assert_eq!(aws.create_template(&template).await, Ok(made.clone()));
    template.token.push_str(".2");
    assert_eq!(aws.create_template(&template).await, Ok(made.clone()));
    let other = NewTemplate { token: "calls-2/template".to_owned(), tags: tags("calls-2", "template"), ..template };
    assert!(matches!(aws.create_template(&other).await, Err(CloudError::Exists(_))));
    // All of it, and no root volume.
    let owned = aws.owned(Whose::Provision(SITE, &parsed("calls-1"))).await.expect("listed");
    let ids: Vec<String> = owned.iter().map(|one| one.resource.to_string()).collect();
    let lt = made.id.as_str();
    let expected =
        [id.as_str(), image.as_str(), volume.as_str(), snapshot.as_str(), taken.as_str(), group.as_str(), lt];
    assert_eq!(ids.len(), expected.len(), "{ids:?}");
    assert!(expected.iter().all(|one| ids.iter().any(|id| id == one)), "{ids:?}");
    // Its end, twice. Nothing that is gone is in the way of what is not.
    let strange: InstanceId = parsed("i-00000000000000bad");
    for _ in 0..2 {
        aws.terminate(&[strange.clone(), id.clone()]).await.expect("ended");
        aws.delete_template(&made.id).await.expect("gone");
        aws.deregister(&image).await.expect("off the register");
        aws.delete_volume(&volume).await.expect("gone");
        aws.delete_snapshot(&snapshot).await.expect("gone");
        aws.delete_snapshot(&taken).await.expect("gone");
        aws.delete_group(&group).await.expect("gone");
    }
    assert!(!aws.instances(&[strange, id]).await.expect("seen").iter().any(|one| one.state.is_alive()));
    assert_eq!(aws.owned(Whose::Provision(SITE, &parsed("calls-1"))).await.expect("listed"), []);
    assert_eq!(aws.ami(&image).await, Ok(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_no_error_where_it_may_be_gone() {
    let Some(cloud) = Minicloud::start_prompt() else { return };
    let aws = cloud.aws().await;
    assert_eq!(aws.instances(&[]).await, Ok(Vec::new()));
    let many: Vec<InstanceId> = (0..450).map(|number| parsed(&format!("i-{number:017x}"))).collect();
    assert_eq!(aws.instances(&many).await, Ok(Vec::new()));
    assert_eq!(aws.volume(&parsed("vol-00000000000000bad")).await, Ok(None));
    assert_eq!(aws.snapshot(&parsed("snap-00000000000000bad")).await, Ok(None));
    assert_eq!(aws.ami(&parsed("ami-00000000000000bad")).await, Ok(None));
    let subnet = aws.subnet(Some(&parsed("subnet-00000000000000bad")), &[]).await;
    assert!(matches!(subnet, Err(CloudError::Missing(_))), "{subnet:?}");
    let rule = Rule { protocol: "udp".to_owned(), port: 8444, from: "198.51.100.7/32".to_owned() };
    let (nothing, all) = (parsed("sg-00000000000000bad"), cloud.aws_of_all().await);
    assert!(matches!(all.allow(&nothing, &rule).await, Err(CloudError::Missing(_))));
    // The frontend may touch only what has its tag, and is told no more than that.
    assert!(matches!(aws.allow(&nothing, &rule).await, Err(CloudError::Denied { .. })));
    assert_eq!(aws.terminate(&many[..1]).await, Ok(()));
    assert_eq!(aws.delete_volume(&parsed("vol-00000000000000bad")).await, Ok(()));
    assert_eq!(aws.delete_template(&parsed("lt-00000000000000bad")).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_wrong_and_a_cloud_out_of_reach_are_told_apart() {
    let keys = |secret: &str| Some(Keys { id: "AKIAMINICLOUDEXAMPLE".to_owned(), secret: secret.to_owned() });
    // Nobody listens on the discard port.
    let endpoint = Some("http://127.0.0.1:9".to_owned());
    let nowhere = Aws::new(Settings { region: "us-east-1".to_owned(), endpoint, keys: keys("s") }).await;
    let lost = nowhere.subnet(None, &[]).await;
    assert!(matches!(&lost, Err(CloudError::Unclear(why)) if why.contains("out of reach")), "{lost:?}");
    let Some(cloud) = Minicloud::start_prompt() else { return };
    let aws = cloud.aws_as("AKIAMINICLOUDEXAMPLE", "wrong").await;
    let denied = aws.subnet(None, &[]).await;
    assert!(matches!(&denied, Err(CloudError::Refused { message, .. }) if message.contains("keys")), "{denied:?}");
    let denied = aws.put_block(&parsed("snap-00000000000000bad"), 0, vec![0; 512 << 10]).await;
    assert!(matches!(&denied, Err(CloudError::Refused { message, .. }) if message.contains("keys")), "{denied:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_keys_it_says_where_they_are_looked_for() {
    const ALONE: &str = "ROCKS_TEST_WITHOUT_KEYS";
    const NAME: &str = "without_keys_it_says_where_they_are_looked_for";
    if std::env::var_os(ALONE).is_none() {
        // The SDK looks into the environment, which only a process of its own may have changed.
        let home = tempfile::tempdir().expect("a folder");
        #[expect(clippy::disallowed_methods, reason = "a test runs itself")]
        let alone = std::process::Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", NAME, "--nocapture"])
            .env_clear()
            .envs([(ALONE, "yes"), ("AWS_EC2_METADATA_DISABLED", "true")])
            .env("HOME", home.path())
            .output()
            .expect("it can be run");
        let told = String::from_utf8_lossy(&alone.stdout);
        assert!(alone.status.success() && told.contains("1 passed"), "{told}");
        return;
    }
    let endpoint = Some("http://127.0.0.1:9".to_owned());
    let aws = Aws::new(Settings { region: "us-east-1".to_owned(), endpoint, keys: None }).await;
    let began = std::time::Instant::now();
    let none = aws.subnet(None, &[]).await;
    let is_told = matches!(&none, Err(CloudError::Refused { code, .. }) if code == "NoCredentials");
    assert!(is_told && began.elapsed() < Duration::from_secs(20), "{none:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_zone_is_one_that_has_the_types() {
    let config = "not_offered = [\"us-east-1a/m5.large\", \"us-east-1b/t3.medium\"]\n";
    let Some(cloud) = Minicloud::start_of(config) else { return };
    let aws = cloud.aws().await;
    let zone = async |kinds: &[&str]| aws.subnet(None, kinds).await.map(|subnet| subnet.zone);
    assert_eq!(zone(&[]).await.as_deref(), Ok("us-east-1a"));
    assert_eq!(zone(&["m5.large"]).await.as_deref(), Ok("us-east-1b"));
    assert_eq!(zone(&["m5.large", "t3.medium"]).await.as_deref(), Ok("us-east-1c"));
    let none = zone(&["z9.large"]).await.expect_err("no such type");
    assert!(
        none.to_string().contains("z9.large") && none.hint().is_some_and(|hint| hint.contains("type=")),
        "{none:?}"
    );
}
