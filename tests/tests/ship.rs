//! An image from the frontend to a receiver, with the real binaries on loopback.
#![expect(clippy::print_stdout, reason = "a test that is left out says why")]

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rocks_tests::process::{cmd, wait_for};
use rocks_tests::shipyard::{Yard, allocated, image, peak, result, same, sent};
use rocks_tests::world::binaries;

/// Blocks of a MiB.
const MIB: u64 = 16;

fn yard(hosts: &[&str]) -> Option<Yard> {
    if binaries().is_err() {
        println!("skipped: build the binaries first");
        return None;
    }
    Some(Yard::new(None, hosts).unwrap_or_else(|error| panic!("{error:#}")))
}

/// An image of 24 MiB, half of it noise.
fn small(yard: &Yard, seed: u64) -> PathBuf {
    let path = yard.path("image");
    image(&path, 24, 24, seed).expect("made");
    path
}

#[test]
fn an_image_is_shipped_over_both_transports_and_only_what_changed_travels_again() {
    let Some(yard) = yard(&["receiver-0-0"]) else { return };
    let image = small(&yard, 1);
    let ship = |way: &str| {
        let target = yard.path(way);
        let mut receiver = yard.receive("receiver-0-0", &target, &["--transport", way]).expect("it waits");
        let done = yard.ship(&image, "receiver-0-0", &receiver.at, &[&format!("transport={way}")]).expect("run");
        let sent = sent(&done).unwrap_or_else(|error| panic!("{error:#}\n{}", receiver.log()));
        assert_eq!(receiver.code().expect("it ends"), 0);
        assert!(same(&image, &target).expect("read"));
        sent
    };
    for way in ["udt", "tcp"] {
        assert_eq!(ship(way), 12 * MIB);
    }
    fs::File::options().write(true).open(&image).expect("opened").write_all_at(b"new", 4 << 20).expect("written");
    assert_eq!(ship("udt"), 1);
    assert_eq!(ship("udt"), 0);
}

#[test]
fn an_image_is_written_into_files_and_what_fails_leaves_none() {
    let Some(yard) = yard(&[]) else { return };
    let image = small(&yard, 7);
    yard.must(&["add", "image", "one", &image.display().to_string()]).expect("added");
    let (raw, qcow2) = (yard.path("one.raw"), yard.path("one.qcow2"));
    for (file, format) in [(&raw, "raw"), (&qcow2, "qcow2")] {
        let said = yard.must(&["-o", "json", "export", "image", "one", &file.display().to_string()]).expect("written");
        let said: serde_json::Value = serde_json::from_str(&said).expect("json");
        assert_eq!(said["format"], format);
        assert_eq!(said["bytes"], fs::metadata(file).expect("there").len());
    }
    assert!(same(&image, &raw).expect("read"));
    // Half of the image holds nothing.
    assert!(allocated(&raw) < 13 << 20 && fs::metadata(&qcow2).expect("there").len() < 13 << 20);
    match cmd("qemu-img").args(["compare", "-f", "raw", "-F", "qcow2"]).arg(&image).arg(&qcow2).output() {
        Ok(done) => assert_eq!(done.code(), 0, "{}", done.both()),
        Err(_) => println!("left out: there is no qemu-img"),
    }
    for (words, says) in [
        (["one", &raw.display().to_string(), "format=raw"], "is there already"),
        (["none", &yard.path("new").display().to_string(), "format=raw"], "there is no image"),
        (["one", &yard.path("new").display().to_string(), "format=vmdk"], "vmdk"),
    ] {
        let done = yard.rocks(&[&["export", "image"][..], &words].concat()).expect("run");
        assert!(done.code() != 0 && done.both().contains(says), "{}", done.both());
    }
    let left: Vec<_> = fs::read_dir(yard.path("")).expect("read").flatten().map(|entry| entry.file_name()).collect();
    assert!(left.iter().all(|name| name != "new" && !name.to_string_lossy().starts_with(".tmp")), "{left:?}");
}

#[test]
fn with_a_base_the_target_is_believed_and_what_is_not_so_is_sent_all_the_same() {
    let Some(yard) = yard(&["receiver-0-0"]) else { return };
    let (image, target) = (small(&yard, 6), yard.path("target"));
    yard.must(&["add", "image", "old", &image.display().to_string()]).expect("added");
    let change = |path: &Path, bytes: &[u8], mib: u64| {
        fs::File::options().write(true).open(path).expect("opened").write_all_at(bytes, mib << 20).expect("written");
    };
    fs::copy(&image, &target).expect("copied");
    change(&image, b"new", 4);
    let ship = |more: &[&str]| {
        let mut receiver = yard.receive("receiver-0-0", &target, &[]).expect("it waits");
        let done = yard.ship(&image, "receiver-0-0", &receiver.at, more).expect("run");
        let result = result(&done.stdout).unwrap_or_else(|error| panic!("{error:#}\n{}", receiver.log()));
        assert_eq!(receiver.code().expect("it ends"), 0);
        assert!(same(&image, &target).expect("read"));
        (result["sent"].as_u64(), result["believed"].as_u64())
    };
    assert_eq!(ship(&["base=old"]), (Some(1), Some(24 * MIB - 1)));
    // By its path as well; what was written to the target meanwhile comes to light at the end.
    change(&target, b"booted", 8);
    assert_eq!(ship(&[&format!("base={}", image.display())]), (Some(1), Some(24 * MIB)));
    // It is something else.
    change(&target, &vec![7; 12 << 20], 0);
    assert_eq!(ship(&["base=old"]).0, Some(6 * MIB));
    let refused = |words: &[&str]| {
        let done = yard.ship(&image, "receiver-0-0", "127.0.0.1:9", words).expect("run");
        assert!(done.code() != 0, "{}", done.both());
        done.both()
    };
    assert!(refused(&["base=none"]).contains("there is no image `none`"));
    assert!(refused(&["base=old", "form=tree"]).contains("a base is for the block form"));
}

#[test]
fn a_killed_receiver_goes_on_and_strangers_and_garbage_get_nothing() {
    let Some(yard) = yard(&["receiver-0-0", "receiver-0-1"]) else { return };
    let (image, target) = (small(&yard, 2), yard.path("target"));
    // Garbage on the port does not keep the frontend out.
    let mut receiver = yard.receive("receiver-0-0", &target, &[]).expect("it waits");
    let noise = UdpSocket::bind("127.0.0.1:0").expect("bound");
    for length in [0, 1, 15, 16, 64, 1400] {
        noise.send_to(&vec![0x5a; length], &receiver.at).expect("sent");
    }
    // The wrong host: it is told from its certificate, and gets nothing.
    let wrong = yard.ship(&image, "receiver-0-1", &receiver.at, &[]).expect("run");
    assert!(wrong.code() == 1 && wrong.stderr.contains("`receiver-0-0`, not `receiver-0-1`"), "{}", wrong.both());
    assert_eq!(fs::metadata(&target).expect("it is there").len(), 0);

    // Killed in the middle; another one at the same place takes the rest.
    let log = yard.path("shipping");
    let ship = yard.shipping(&image, "receiver-0-0", &receiver.at, &["rate=40000000"]);
    let mut shipping = ship.start(&log).expect("started");
    let begun = || Ok((allocated(&target) > 1 << 20).then_some(()));
    wait_for("the first blocks", Duration::from_secs(20), begun).expect("something arrives");
    receiver.running.kill();
    let mut second = yard.receive_at(&receiver.at, "receiver-0-0", &target, &[]).expect("it waits");
    assert_eq!(second.code().expect("it ends"), 0, "{}", second.log());
    let code = wait_for("the shipment", Duration::from_secs(30), || Ok(shipping.ended())).expect("it ends").code();
    let text = fs::read_to_string(&log).expect("read");
    assert_eq!(code, Some(0), "{text}");
    let sent = result(&text).expect("a result")["sent"].as_u64();
    assert!(sent.is_some_and(|sent| sent < 12 * MIB), "nothing of what arrived was used: {text}");
    assert!(same(&image, &target).expect("read"));
}

#[test]
fn a_receiver_that_moved_is_sent_the_rest_at_its_new_address() {
    let Some(yard) = yard(&["receiver-0-0"]) else { return };
    let (image, target) = (small(&yard, 3), yard.path("target"));
    let mut receiver = yard.receive("receiver-0-0", &target, &[]).expect("it waits");
    let ship = yard.shipping(&image, "receiver-0-0", &receiver.at, &["rate=40000000"]);
    let mut shipping = ship.start(&yard.path("shipping")).expect("started");
    wait_for("blocks", Duration::from_secs(20), || Ok((allocated(&target) > 2 << 20).then_some(())))
        .expect("they come");
    receiver.running.kill();
    // The administrator sees that it does not go on, and says where it is now.
    shipping.kill();
    let mut moved = yard.receive("receiver-0-0", &target, &[]).expect("it waits");
    assert_ne!(moved.at, receiver.at);
    let done = yard.ship(&image, "receiver-0-0", &moved.at, &[]).expect("run");
    let sent = sent(&done).expect("shipped");
    assert!(sent < 12 * MIB && sent > 0, "{sent}");
    assert_eq!(moved.code().expect("it ends"), 0);
    assert!(same(&image, &target).expect("read"));
}

#[test]
fn an_image_of_any_size_takes_little_memory_at_both_ends() {
    let Some(yard) = yard(&["receiver-0-0"]) else { return };
    let (image, target) = (yard.path("image"), yard.path("target"));
    // A million blocks in the manifest, and more data than may be resident.
    rocks_tests::shipyard::image(&image, 64 << 10, 500, 4).expect("made");
    let mut receiver = yard.receive("receiver-0-0", &target, &[]).expect("it waits");
    let mut shipping =
        yard.shipping(&image, "receiver-0-0", &receiver.at, &[]).start(&yard.path("shipping")).expect("started");
    let mut most = 0;
    let code = wait_for("the shipment", Duration::from_secs(120), || {
        most = most.max(peak(receiver.running.pid()).unwrap_or(0));
        Ok(shipping.ended())
    });
    assert_eq!(code.expect("it ends").code(), Some(0), "{}", fs::read_to_string(yard.path("shipping")).expect("read"));
    assert_eq!(receiver.code().expect("it ends"), 0);
    let frontend = peak(yard.frontend()).expect("it runs");
    println!("receiver {} MiB, frontend {} MiB", most >> 20, frontend >> 20);
    assert!(most > 1 << 20 && most < 200 << 20 && frontend < 200 << 20, "receiver {most}, frontend {frontend}");
    assert!(allocated(&target) < 400 << 20);
}

/// A file system of its own, as large as it is made.
struct Room(PathBuf);

impl Room {
    fn new(at: &Path, mib: u64) -> Self {
        fs::create_dir(at).expect("made");
        let size = format!("size={mib}m");
        cmd("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).run().expect("mounted");
        Self(at.to_owned())
    }

    fn enlarge(&self, mib: u64) {
        let size = format!("remount,size={mib}m");
        cmd("mount").args(["-o", &size]).arg(&self.0).run().expect("enlarged");
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        drop(cmd("umount").args(["--lazy"]).arg(&self.0).output());
    }
}

#[test]
fn a_full_disk_is_told_and_when_it_is_larger_only_the_rest_travels() {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: it needs root");
    }
    let Some(yard) = yard(&["receiver-0-0"]) else { return };
    let image = small(&yard, 5);
    let room = Room::new(&yard.path("volume"), 6);
    let target = yard.path("volume/target");
    let mut receiver = yard.receive("receiver-0-0", &target, &[]).expect("it waits");
    let done = yard.ship(&image, "receiver-0-0", &receiver.at, &[]).expect("run");
    assert!(done.code() == 1 && done.stderr.contains("No space left on device"), "{} {}", done.code(), done.both());
    assert_eq!(receiver.code().expect("it ends"), 1);
    assert!(receiver.log().contains("No space left on device"), "{}", receiver.log());
    room.enlarge(32);
    let mut receiver = yard.receive("receiver-0-0", &target, &[]).expect("it waits");
    let done = yard.ship(&image, "receiver-0-0", &receiver.at, &[]).expect("run");
    let sent = sent(&done).expect("shipped");
    assert!((6 * MIB..12 * MIB).contains(&sent), "{sent}");
    assert_eq!(receiver.code().expect("it ends"), 0);
    assert!(same(&image, &target).expect("read"));
}
