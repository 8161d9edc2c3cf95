//! The files of an image from the frontend to a receiver, with the real binaries on loopback. Needs `mke2fs`; onto a volume root and loop devices.
#![expect(clippy::print_stdout, reason = "a test that is left out says why")]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rocks_tests::process::cmd;
use rocks_tests::shipyard::{Yard, result};
use rocks_tests::world::binaries;

const UUID: &str = "5c1a64e0-7d0f-4a8e-9a64-0123456789ab";

/// A yard, and the root of a machine in an image there.
fn yard() -> Option<(Yard, PathBuf)> {
    if binaries().is_err() {
        println!("skipped: build the binaries first");
        return None;
    }
    let yard = Yard::new(None, &["receiver-0-0"]).unwrap_or_else(|error| panic!("{error:#}"));
    let (root, image) = (yard.path("root"), yard.path("image"));
    for folder in ["etc", "usr/bin"] {
        fs::create_dir_all(root.join(folder)).expect("made");
    }
    (0..200).for_each(|n| fs::write(root.join(format!("usr/{n}")), format!("file {n}")).expect("written"));
    fs::write(root.join("usr/bin/sh"), vec![3; 700_000]).expect("written");
    fs::hard_link(root.join("usr/bin/sh"), root.join("usr/bin/bash")).expect("linked");
    disk(&image, &["-t", "ext4", "-U", UUID, "-L", "system", "-d", &root.display().to_string()])?;
    Some((yard, image))
}

fn disk(path: &Path, args: &[&str]) -> Option<()> {
    fs::File::create(path).and_then(|file| file.set_len(64 << 20)).expect("made");
    match cmd("mke2fs").args(["-q", "-F"]).args(args).arg(path).output() {
        Ok(done) if done.code() == 0 => Some(()),
        other => {
            println!("skipped: mke2fs: {other:?}");
            None
        }
    }
}

/// Ships it as a tree, and gives how many chunks travelled.
fn ship(yard: &Yard, image: &Path, target: &Path) -> u64 {
    let mut receiver = yard.receive("receiver-0-0", target, &["--form", "tree"]).expect("it waits");
    let done = yard.ship(image, "receiver-0-0", &receiver.at, &["form=tree"]).expect("run");
    assert_eq!(done.code(), 0, "{}\n{}", done.both(), receiver.log());
    assert_eq!(receiver.code().expect("it ends"), 0, "{}", receiver.log());
    let shipped = result(&done.stdout).expect("a result");
    assert!(shipped["findings"] == 0 && shipped["entries"].as_u64() > Some(200), "{shipped}");
    shipped["sent"].as_u64().expect("a number")
}

#[test]
fn a_tree_arrives_in_a_folder_and_the_two_forms_do_not_mix() {
    let Some((yard, image)) = yard() else { return };
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: only root gives away files");
    }
    let target = yard.path("target");
    fs::create_dir(&target).expect("made");
    assert!(ship(&yard, &image, &target) > 200);
    assert_eq!(ship(&yard, &image, &target), 0);
    assert_eq!(fs::read(target.join("usr/7")).expect("read"), b"file 7");
    assert_eq!(fs::metadata(target.join("usr/bin/bash")).expect("there").nlink(), 2);
    // A receiver that waits for a disk says what it got, and so does one that waits for a tree.
    for (at_receiver, at_frontend, target) in
        [(&[][..], &["form=tree"][..], yard.path("disk")), (&["--form", "tree"], &[], target)]
    {
        let receiver = yard.receive("receiver-0-0", &target, at_receiver).expect("it waits");
        let done = yard.ship(&image, "receiver-0-0", &receiver.at, at_frontend).expect("run");
        assert!(done.code() != 0 && done.both().contains("protocol"), "{}", done.both());
    }
}

#[test]
fn a_volume_gets_the_file_system_of_the_source_and_is_left_unmounted() {
    let Some((yard, image)) = yard() else { return };
    let volume = yard.path("volume");
    fs::File::create(&volume).and_then(|file| file.set_len(64 << 20)).expect("made");
    let made = cmd("losetup").args(["--find", "--show"]).arg(&volume).output();
    let Some(device) = made.ok().filter(|done| done.code() == 0).map(|done| PathBuf::from(done.stdout.trim())) else {
        return println!("skipped: no loop devices");
    };
    let outcome = std::panic::catch_unwind(|| {
        let first = ship(&yard, &image, &device);
        let again = ship(&yard, &image, &device);
        assert!(first > 200 && again == 0, "{first}, then {again}");
    });
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read");
    let detached = cmd("losetup").arg("--detach").arg(&device).output().expect("run");
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
    assert!(!mounts.contains(&device.display().to_string()), "it is still mounted");
    assert_eq!(detached.code(), 0);
    let says = cmd("dumpe2fs").arg("-h").arg(&volume).output().expect("run");
    assert!(says.stdout.contains(UUID) && says.stdout.contains("system"), "{}", says.both());
    assert_eq!(cmd("e2fsck").args(["-f", "-n"]).arg(&volume).output().expect("run").code(), 0);
}
