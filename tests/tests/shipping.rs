//! Our transport on an emulated long way: it fills it, shares it, follows it, and outlives its cuts. Needs root.

use std::path::Path;
use std::time::{Duration, Instant};

use rocks_tests::process::{Running, cmd, wait_for};
use rocks_tests::shipyard::{Yard, allocated, image, result, same};
use rocks_tests::wan::{End, Shape, Wan, Way, missing};

/// One process of the bench at an end of the link.
fn start(wan: &Wan, end: End, words: &[&str], log: &Path) -> Running {
    wan.at(end, env!("CARGO_BIN_EXE_wanbench")).args(words).start(log).expect("the bench runs")
}

/// Sends for so long over `kind` and gives Mbit/s, while `meanwhile` plays with the link.
fn transfer(wan: &Wan, dir: &Path, kind: &str, seconds: f64, meanwhile: impl FnOnce()) -> f64 {
    let (there, here) = (dir.join(format!("{kind}.receive")), dir.join(format!("{kind}.send")));
    for log in [&there, &here] {
        // Logs are appended to: an earlier transfer's port would be taken for this one's.
        drop(std::fs::remove_file(log));
    }
    let (time, pki) = (seconds.to_string(), dir.display().to_string());
    let at = format!("{}:0", Wan::address(End::B));
    let mut receiver = start(wan, End::B, &["receive", kind, &pki, &time, &at], &there);
    let port = wait_for("the port", Duration::from_secs(10), || {
        Ok(std::fs::read_to_string(&there)?.lines().find_map(|l| l.strip_prefix("port ").map(str::to_owned)))
    })
    .expect("a port");
    let to = format!("{}:{port}", Wan::address(End::B));
    let _sender = start(wan, End::A, &["send", kind, &pki, &time, &to], &here);
    meanwhile();
    wait_for("the end", Duration::from_secs_f64(seconds + 20.0), || Ok(receiver.ended())).expect("an end");
    let text = std::fs::read_to_string(&there).expect("a log");
    let line = text.lines().rev().find(|l| l.starts_with('{')).unwrap_or_else(|| panic!("no outcome: {text}"));
    let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
    value["late_bytes"].as_f64().expect("a number") * 8.0 / 1e6 / (seconds * 2.0 / 3.0)
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    rocks_tests::pki::make(dir.path()).expect("certificates");
    dir
}

#[test]
fn a_lossy_path_is_filled_and_a_cut_outlived() {
    if let Some(why) = missing() {
        return println!("skipped: {why}");
    }
    let mut shape = Shape::new(20.0, Duration::from_millis(60));
    shape.loss = 0.01;
    let wan = Wan::new(shape).expect("a link");
    let dir = folder();
    // A debug build on a busy machine: the bench has the real figures.
    let rate = transfer(&wan, dir.path(), "ours", 4.0, || {});
    assert!(rate > 14.0, "{rate} of 20 Mbit/s at 1% loss");
    let rate = transfer(&wan, dir.path(), "ours", 6.0, || {
        std::thread::sleep(Duration::from_millis(1500));
        wan.set_up(false);
        std::thread::sleep(Duration::from_millis(1500));
        wan.set_up(true);
    });
    assert!(rate > 7.0, "{rate} of 20 Mbit/s with a cut of 1.5 s");
    assert!(wan.counts(Way::There).lost > 0);
}

#[test]
fn a_tcp_stream_beside_it_lives() {
    if let Some(why) = missing() {
        return println!("skipped: {why}");
    }
    let wan = Wan::new(Shape::new(20.0, Duration::from_millis(30))).expect("a link");
    let dir = folder();
    let (ours, tcp) = std::thread::scope(|s| {
        let tcp = s.spawn(|| transfer(&wan, dir.path(), "tcp-bbr", 6.0, || {}));
        let ours = transfer(&wan, dir.path(), "ours", 6.0, || {});
        (ours, tcp.join().expect("no panic"))
    });
    assert!(ours > 2.0 && tcp > 1.5, "ours {ours}, TCP {tcp} of 20 Mbit/s");
}

#[test]
fn the_emulator_gives_the_rate_and_the_delay_that_were_asked_for() {
    if let Some(why) = missing() {
        return println!("skipped: {why}");
    }
    let wan = Wan::new(Shape::new(10.0, Duration::from_millis(40))).expect("a link");
    let dir = folder();
    let begun = Instant::now();
    let rate = transfer(&wan, dir.path(), "tcp-cubic", 3.0, || {});
    assert!((7.0..10.5).contains(&rate), "{rate} of 10 Mbit/s");
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_shipment_outlives_a_cut_and_another_address_of_the_frontend() {
    if let Some(why) = missing() {
        return println!("skipped: {why}");
    }
    let wan = Wan::new(Shape::new(20.0, Duration::from_millis(40))).expect("a link");
    let yard = Yard::new(Some(&wan), &["receiver-0-0"]).unwrap_or_else(|error| panic!("{error:#}"));
    let (source, target) = (yard.path("image"), yard.path("target"));
    image(&source, 24, 24, 1).expect("made");
    let mut receiver = yard.receive("receiver-0-0", &target, &[]).expect("it waits");
    let log = yard.path("shipping");
    let mut shipping = yard.shipping(&source, "receiver-0-0", &receiver.at, &[]).start(&log).expect("started");
    wait_for("blocks", Duration::from_secs(20), || Ok((allocated(&target) > 2 << 20).then_some(())))
        .expect("they come");
    wan.set_up(false);
    // Another address while nothing goes, as a laptop's or a failed-over frontend's.
    let ip = |words: &str| {
        let done = cmd("ip").args(["-n", wan.namespace(End::A)]).args(words.split(' ')).run();
        done.unwrap_or_else(|error| panic!("{error:#}"));
    };
    ip(&format!("addr del {}/24 dev wan0", Wan::address(End::A)));
    ip("addr add 10.77.0.3/24 dev wan0");
    std::thread::sleep(Duration::from_secs(2));
    wan.set_up(true);
    let ended = wait_for("the shipment", Duration::from_secs(90), || Ok(shipping.ended())).map(|status| status.code());
    let said = std::fs::read_to_string(&log).expect("read");
    assert_eq!(ended.expect("it ends"), Some(0), "{said}\n{}", receiver.log());
    assert_eq!(receiver.code().expect("it ends"), 0);
    assert!(same(&source, &target).expect("read"));
    let sent = result(&said).expect("a result")["sent"].as_u64().expect("a number");
    assert!(sent < 12 * 16, "all of it travelled again: {said}");
}
