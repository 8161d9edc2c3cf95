//! Amazon's own client against the cloud: botocore signs, sends and reads, and its model of EC2 judges every answer.

use std::path::{Path, PathBuf};

use rocks_minicloud::process::{cmd, which};
use rocks_minicloud::{Minicloud, Options};

/// Why Amazon's client cannot be asked here, if so.
fn missing() -> Option<&'static str> {
    if which("python3").is_none() {
        return Some("python3 is not installed");
    }
    match cmd("python3").args(["-c", "import boto3"]).output() {
        Ok(done) if done.code() == 0 => None,
        _ => Some("python3 has no boto3"),
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

#[test]
fn amazons_own_client_finds_everything_in_order() {
    if let Some(why) = missing() {
        println!("skipped: {why}");
        return;
    }
    let cloud = Minicloud::start(Options::default()).expect("a cloud");
    let key = cloud.config().keys.first().expect("a key");
    let asked = cmd("timeout").args(["120", "python3"]).arg(script("flow.py"));
    let done = asked.arg(cloud.endpoint()).arg(&key.id).arg(&key.secret).output().expect("it runs");
    assert_eq!(done.code(), 0, "{}", done.both());
    println!("{}", done.stdout);
}
