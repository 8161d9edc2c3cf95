//! The local EC2 with a real appliance in it: what Amazon's client asks for is what is found inside the machines.

use rocks_minicloud::{Minicloud, Options, Seed};
use rocks_tests::lite::Lite;
use rocks_tests::process::cmd;
use rocks_tests::world::{missing, repository};

#[test]
fn an_appliance_boots_takes_volumes_is_filtered_and_becomes_an_image() {
    if let Some(why) = missing().or_else(rocks_minicloud::missing) {
        println!("skipped: {why}");
        return;
    }
    if cmd("python3").args(["-c", "import boto3"]).run().is_err() {
        println!("skipped: python3 has no boto3");
        return;
    }
    let lite = Lite::get(&mut |what| println!("{what}")).unwrap_or_else(|error| panic!("{error:#}"));
    let dir = tempfile::tempdir().expect("a folder");
    let disk = dir.path().join("lite.img");
    let made =
        cmd("mke2fs").args(["-q", "-t", "ext4", "-F", "-L", "root", "-d"]).arg(lite.tree()).arg(&disk).arg("1500M");
    made.run().expect("an image");
    let seed = Seed { name: "lite".to_owned(), path: disk, architecture: "x86_64".to_owned() };
    let way = Some("100,20".parse().expect("a way"));
    let options = Options { boot: true, way, dir: dir.path().to_owned(), ..Options::default() };
    let cloud = Minicloud::start(options).unwrap_or_else(|error| panic!("{error:#}"));
    let (image, _) = cloud.add_image(&seed).expect("an AMI");
    let key = cloud.config().keys.first().expect("a key");
    let frontend = cloud.frontend_namespace().expect("a namespace");
    let asked =
        cmd("timeout").args(["240", "python3"]).arg(repository().join("tests/minicloud/tests/clients/boots.py"));
    let asked = asked.arg(cloud.endpoint()).arg(&key.id).arg(&key.secret).arg(image).arg(&frontend);
    let done = asked.output().expect("it runs");
    assert_eq!(done.code(), 0, "{}", done.both());
    println!("{}", done.stdout);

    drop(cloud);
    assert!(!std::path::Path::new("/run/netns").join(frontend).exists(), "a namespace was left");
}
