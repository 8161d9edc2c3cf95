//! Our UDT and a program on libudt understand each other, in both roles.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{here, options};
use rocks_ship::transport::{Transport, Udt};

const BYTES: usize = 20_000_000;

/// Builds the peer once for both tests; nothing when this machine cannot.
fn peer() -> Option<PathBuf> {
    static PEER: std::sync::OnceLock<Option<PathBuf>> = std::sync::OnceLock::new();
    PEER.get_or_init(|| {
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("udt-peer");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peer/peer.cpp");
        let built = command("g++")
            .args(["-O1", "-w", "-x", "c++", "-"])
            .args(["-o"])
            .arg(&out)
            .args(["-ludt", "-lpthread"])
            .stdin(std::fs::File::open(source).expect("the peer's source"))
            .stderr(Stdio::null())
            .status();
        built.is_ok_and(|s| s.success()).then_some(out)
    })
    .clone()
}

#[expect(clippy::disallowed_methods, reason = "a test starts the other end")]
fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    Command::new(program)
}

fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 31 + (i >> 9)) as u8).collect()
}

#[test]
fn we_connect_to_libudt() {
    let Some(peer) = peer() else { return println!("skipped: no g++ or libudt-dev") };
    let mut child = command(peer).arg("serve").stdout(Stdio::piped()).spawn().expect("the peer runs");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("its port");
    let port: u16 = line.trim().parse().expect("a port");
    let mut conn = Udt::new(options()).connect(([127, 0, 0, 1], port).into()).expect("connects");
    let data = pattern(BYTES);
    let mut other = conn.try_clone().expect("a second handle");
    let copy = data.clone();
    let writer = std::thread::spawn(move || {
        other.write_all(&(copy.len() as u64).to_ne_bytes()).and_then(|()| other.write_all(&copy)).expect("writes");
        other
    });
    let mut got = vec![0; BYTES];
    conn.read_exact(&mut got).expect("reads");
    assert!(got == data, "the echo is what was sent");
    let mut other = writer.join().expect("no panic");
    // libudt's farewell is all the end that it knows; when it comes first, there is nobody left to confirm ours.
    let _ = other.finish();
    assert_eq!(conn.read(&mut got).expect("the end"), 0);
    println!("{:?}", conn.stats());
    assert!(child.wait().expect("the peer ends").success());
}

#[test]
fn libudt_connects_to_us() {
    let Some(peer) = peer() else { return println!("skipped: no g++ or libudt-dev") };
    let listener = Udt::new(options()).listen(here()).expect("listens");
    let mut child = command(peer)
        .args(["send", "127.0.0.1", &listener.local().port().to_string(), &BYTES.to_string()])
        .spawn()
        .expect("the peer runs");
    let mut conn = listener.accept(Some(Duration::from_secs(5))).expect("accepts").expect("a client");
    let mut count = [0; 8];
    conn.read_exact(&mut count).expect("the count");
    assert_eq!(u64::from_ne_bytes(count), BYTES as u64);
    let mut got = vec![0; BYTES];
    conn.read_exact(&mut got).expect("reads");
    assert!(got == pattern(BYTES), "what it sent");
    conn.write_all(&got).expect("echoes");
    let mut rest = Vec::new();
    conn.read_to_end(&mut rest).expect("its end");
    println!("{:?}", conn.stats());
    assert!(rest.is_empty() && child.wait().expect("the peer ends").success());
}
