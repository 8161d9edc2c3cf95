//! What goes over the wire, against another's idea of EC2: moto, which knows the shapes of Amazon's calls and little of their rules. Left
//! out where there is none: `ROCKS_MOTO` names the program `moto_server`.
#![expect(clippy::print_stdout, reason = "a test that is left out says why")]

mod common;

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{SITE, parsed, tags};
use rocks_aws::{Aws, Keys, Settings};
use rocks_provision::cloud::{
    BootMode, Cloud as _, CloudError, InstanceState, Launch, NewSnapshot, NewVolume, Registration, Resource, Rule,
    SnapshotState, Source, VolumeState, Whose,
};
use rocks_provision::ids::InstanceId;

/// The path of `moto_server`.
const PROGRAM: &str = "ROCKS_MOTO";

/// A moto that ends with this.
struct Moto(Child);

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts one, and waits until it listens.
fn moto(dir: &std::path::Path) -> Option<(Moto, SocketAddr)> {
    let Some(program) = std::env::var_os(PROGRAM) else {
        println!("left out: {PROGRAM} does not name moto_server");
        return None;
    };
    // Its own list of images takes it half a minute to read.
    let images = dir.join("images.json");
    std::fs::write(&images, "[]").expect("a file");
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|one| one.local_addr()).expect("a port");
    #[expect(clippy::disallowed_methods, reason = "a test starts its own cloud")]
    let child = Command::new(program)
        .args(["-H", "127.0.0.1", "-p", &free.port().to_string()])
        .env("MOTO_AMIS_PATH", &images)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("moto_server can be run");
    let moto = Moto(child);
    for _ in 0..300 {
        if TcpStream::connect(free).is_ok() {
            return Some((moto, free));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("moto does not listen")
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_understood_by_others() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some((_moto, at)) = moto(dir.path()) else { return };
    let keys = Some(Keys { id: "AKIAMOTO".to_owned(), secret: "moto".to_owned() });
    let endpoint = Some(format!("http://{at}"));
    let aws = Aws::new(Settings { region: "us-east-1".to_owned(), endpoint, keys }).await;
    // A snapshot by blocks.
    let new = NewSnapshot {
        token: "moto-1/snapshot".to_owned(),
        gib: 1,
        parent: None,
        encrypted: false,
        kms_key: None,
        tags: tags("moto-1", "image"),
    };
    let snapshot = aws.start_snapshot(&new).await.expect("a snapshot");
    for index in [0, 1, 7] {
        aws.put_block(&snapshot, index, vec![1; 512 << 10]).await.expect("written");
    }
    aws.complete_snapshot(&snapshot, 3).await.expect("completed");
    let seen = aws.snapshot(&snapshot).await.expect("seen").expect("there");
    assert_eq!(seen.state, SnapshotState::Completed);
    // An image of it. Moto makes up another snapshot, and does not mind two of one name.
    let image = Registration {
        name: "rocks-moto-1".to_owned(),
        description: "a test".to_owned(),
        of: Source::Snapshot(snapshot.clone()),
        architecture: "x86_64".to_owned(),
        boot: BootMode::UefiPreferred,
        root_device: "/dev/xvda".to_owned(),
        tags: tags("moto-1", "image"),
    };
    let ami = aws.register(&image).await.expect("an image");
    assert_eq!(aws.ami(&ami).await.expect("seen").expect("there").available, Some(true));
    // A group with a rule.
    let subnet = aws.subnet(None, &[]).await.expect("a default subnet");
    assert_eq!(aws.subnet(Some(&subnet.id), &[]).await.as_ref(), Ok(&subnet));
    let group = aws.ensure_group("rocks-moto-1", &subnet.vpc, &tags("moto-1", "receiver")).await.expect("a group");
    assert_eq!(aws.ensure_group("rocks-moto-1", &subnet.vpc, &tags("moto-1", "receiver")).await.as_ref(), Ok(&group));
    let rule = Rule { protocol: "udp".to_owned(), port: 8444, from: "198.51.100.7/32".to_owned() };
    for _ in 0..2 {
        aws.allow(&group, &rule).await.expect("it holds");
    }
    for _ in 0..2 {
        aws.disallow(&group, &rule).await.expect("it holds no longer");
    }
    // An instance with a volume.
    let launch = Launch {
        token: "moto-1/receiver".to_owned(),
        count: 1,
        image: ami.clone(),
        kind: "t3.medium".to_owned(),
        subnet: subnet.id.clone(),
        groups: vec![group.clone()],
        user_data: "a token".to_owned(),
        key: None,
        spot: false,
        // It does not take the size from the image.
        root_gib: Some(2),
        root_device: Some("/dev/xvda".to_owned()),
        tags: tags("moto-1", "receiver"),
    };
    let id = aws.launch(&launch).await.expect("an instance").remove(0);
    let strange: InstanceId = parsed("i-00000000000000bad");
    let seen = aws.instances(&[id.clone(), strange.clone()]).await.expect("seen");
    assert!(seen.len() == 1 && seen[0].id == id && seen[0].state == InstanceState::Running, "{seen:?}");
    assert!(seen[0].private.is_some() && seen[0].role == "receiver", "{seen:?}");
    let new = NewVolume {
        token: "moto-1/volume".to_owned(),
        gib: 1,
        zone: subnet.zone,
        encrypted: true,
        kms_key: None,
        tags: tags("moto-1", "image"),
    };
    let volume = aws.create_volume(&new).await.expect("a volume");
    aws.attach(&volume, &id, "/dev/sdf").await.expect("attached");
    let seen = aws.volume(&volume).await.expect("seen").expect("there");
    assert_eq!((seen.state, seen.attached), (VolumeState::InUse, Some((id.clone(), true))));
    // It breaks down where it is not told the instance; EC2 knows where a volume is.
    let broken = aws.detach(&volume).await;
    assert!(matches!(broken, Err(CloudError::Unclear(_)) | Ok(())), "{broken:?}");
    let taken = aws.create_snapshot(&volume, &tags("moto-1", "image")).await.expect("a snapshot");
    // What is ours is found by its tags, but of images, whose tags it forgets.
    let owned = aws.owned(Whose::Provision(SITE, &parsed("moto-1"))).await.expect("listed");
    for resource in [
        Resource::Instance(id.clone()),
        Resource::Volume(volume.clone()),
        Resource::Snapshot(snapshot.clone()),
        Resource::Snapshot(taken.clone()),
        Resource::Group(group.clone()),
    ] {
        assert!(owned.iter().any(|one| one.resource == resource), "{resource} of {owned:?}");
    }
    assert_eq!(aws.owned(Whose::Site("other.example.org")).await.expect("listed"), []);
    // It ends, and may be gone already.
    for _ in 0..2 {
        aws.terminate(&[strange.clone(), id.clone()]).await.expect("ended");
        aws.delete_volume(&volume).await.expect("gone");
        aws.delete_snapshot(&taken).await.expect("gone");
        aws.deregister(&ami).await.expect("gone");
        aws.delete_snapshot(&snapshot).await.expect("gone");
        aws.delete_group(&group).await.expect("gone");
    }
    assert_eq!(aws.volume(&volume).await, Ok(None));
    assert_eq!(aws.snapshot(&snapshot).await, Ok(None));
    assert_eq!(aws.owned(Whose::Site(SITE)).await.expect("listed"), []);
}
