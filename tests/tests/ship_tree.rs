//! The files of an image from the frontend to a receiver, with the real binaries on loopback. Needs `mke2fs`; onto a volume root and loop devices.
#![expect(clippy::print_stdout, reason = "a test that is left out says why")]

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
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

/// A disk with a partition for a boot loader, and a root behind it.
fn whole_disk(yard: &Yard, root: &Path) -> Option<PathBuf> {
    const START: u64 = 4 << 20;
    let disk = yard.path("disk");
    let bytes = START + (64 << 20) + (1 << 20);
    fs::File::create(&disk).and_then(|file| file.set_len(bytes)).expect("made");
    let script = yard.path("script");
    let table = format!(
        "label: gpt\nstart=2048, size=6144, type=uefi, name=esp\nstart=8192, size={}, type=linux\n",
        (64 << 20) / 512
    );
    fs::write(&script, table).expect("written");
    let made = cmd("sh").args(["-c", "exec sfdisk --quiet \"$1\" < \"$0\""]).arg(&script).arg(&disk).output();
    if !made.is_ok_and(|done| done.code() == 0) {
        println!("skipped: no sfdisk");
        return None;
    }
    let file = fs::File::options().write(true).open(&disk).expect("opened");
    file.write_all_at(b"boot code", 0).expect("written");
    file.write_all_at(b"the firmware's files", 1 << 20).expect("written");
    file.write_all_at(&fs::read(root).expect("read"), START).expect("written");
    Some(disk)
}

#[test]
fn a_bootable_tree_fills_a_larger_disk_and_only_what_differs_travels_again() {
    let Some((yard, image)) = yard() else { return };
    if !cmd("losetup").args(["--find"]).output().is_ok_and(|done| done.code() == 0) {
        return println!("skipped: no loop devices");
    }
    let Some(disk) = whole_disk(&yard, &image) else { return };
    let target = yard.path("target");
    let ship = || {
        let mut receiver = yard.receive("receiver-0-0", &target, &["--form", "bootable"]).expect("it waits");
        let done = yard.ship(&disk, "receiver-0-0", &receiver.at, &["form=bootable"]).expect("run");
        assert_eq!(done.code(), 0, "{}\n{}", done.both(), receiver.log());
        assert_eq!(receiver.code().expect("it ends"), 0, "{}", receiver.log());
        let shipped = result(&done.stdout).expect("a result");
        (shipped["front"]["sent"].as_u64().expect("a number"), shipped["sent"].as_u64().expect("a number"))
    };
    fs::File::create(&target).and_then(|file| file.set_len(300 << 20)).expect("made");
    let (front, chunks) = ship();
    assert!(front >= 2 && chunks > 200, "{front} blocks, {chunks} chunks");
    // Only the block with the table in it.
    assert_eq!(ship(), (1, 0));
    let attached = cmd("losetup").arg("--associated").arg(&target).run().expect("run");
    assert_eq!(attached.stdout.trim(), "", "a loop device is left");
    let checked = cmd("sfdisk").arg("--verify").arg(&target).run().expect("run");
    assert!(checked.both().contains("No errors"), "{}", checked.both());
    let file = fs::File::open(&target).expect("opened");
    let before = fs::File::open(&disk).expect("opened");
    let parts = |file: &fs::File, bytes| rocks_ship::image::partitions(file, bytes).expect("read");
    let (old, new) = (parts(&before, 69 << 20), parts(&file, 300 << 20));
    assert_eq!(old[0], new[0]);
    assert_eq!((&old[1].partuuid, old[1].bytes.start), (&new[1].partuuid, new[1].bytes.start));
    assert!(new[1].bytes.end > 298 << 20, "{new:?}");
    let features =
        |file: &fs::File, place| rocks_ship::image::features(file, place).expect("read").expect("one is there");
    let (was, is) = (features(&before, &old[1].bytes), features(&file, &new[1].bytes));
    assert_eq!((was.incompat, was.block, was.inode), (is.incompat, is.block, is.inode));
    assert_eq!((is.compat & !was.compat, is.ro_compat & !was.ro_compat), (0, 0));
    let mut there = [0; 20];
    file.read_exact_at(&mut there, 1 << 20).expect("read");
    assert_eq!(&there, b"the firmware's files");
    // What other eyes see of the root.
    let root = yard.path("other");
    let skip = format!("skip={}", new[1].bytes.start >> 20);
    let input = format!("if={}", target.display());
    cmd("dd")
        .args([&input, "bs=1M", &skip, "status=none", "conv=sparse", &format!("of={}", root.display())])
        .run()
        .expect("copied");
    let fsck = cmd("e2fsck").args(["-f", "-n"]).arg(&root).output().expect("run");
    assert_eq!(fsck.code(), 0, "{}", fsck.both());
    let says = cmd("dumpe2fs").arg("-h").arg(&root).output().expect("run");
    assert!(says.stdout.contains(UUID) && says.stdout.contains("system"), "{}", says.both());
    // A disk that is too small, and one that is not there.
    fs::File::create(&target).and_then(|file| file.set_len(10 << 20)).expect("made");
    let receiver = yard.receive("receiver-0-0", &target, &["--form", "bootable"]).expect("it waits");
    let done = yard.ship(&disk, "receiver-0-0", &receiver.at, &["form=bootable"]).expect("run");
    assert!(done.code() != 0 && done.both().contains("needs at least"), "{}", done.both());
    assert!(yard.receive("receiver-0-0", &yard.path("none"), &["--form", "bootable"]).is_err());
    // The root alone is no disk.
    let done = yard.ship(&image, "receiver-0-0", "127.0.0.1:9", &["form=bootable"]).expect("run");
    assert!(done.code() != 0 && done.both().contains("partition table"), "{}", done.both());
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

#[test]
fn an_xfs_root_in_a_partition_arrives_on_a_volume_with_xfs() {
    let Some((yard, _)) = yard() else { return };
    let is_here = cmd("mkfs.xfs").arg("-V").output().is_ok_and(|done| done.code() == 0);
    if !rustix::process::geteuid().is_root() || !is_here {
        return println!("skipped: it needs root and mkfs.xfs");
    }
    const ROOM: u64 = 320 << 20;
    let (image, part, volume) = (yard.path("xfs"), yard.path("xfs.part"), yard.path("volume"));
    for (path, bytes) in [(&part, ROOM), (&volume, ROOM), (&image, ROOM + (2 << 20))] {
        fs::File::create(path).and_then(|file| file.set_len(bytes)).expect("made");
    }
    cmd("mkfs.xfs").args(["-q", "-m", &format!("uuid={UUID}"), "-L", "system"]).arg(&part).run().expect("made");
    let attach = |path: &Path| {
        cmd("losetup").args(["--find", "--show"]).arg(path).run().expect("attached").stdout.trim().to_owned()
    };
    let mount = |path: &Path, at: &Path, more: &str| {
        fs::create_dir_all(at).expect("made");
        let done = cmd("mount").args(["-t", "xfs", "-o", &format!("loop,nouuid{more}")]).arg(path).arg(at).output();
        done.is_ok_and(|done| done.code() == 0)
    };
    let at = yard.path("at");
    if !mount(&part, &at, "") {
        return println!("skipped: the kernel does not know XFS");
    }
    cmd("cp").arg("-a").arg(format!("{}/.", yard.path("root").display())).arg(&at).run().expect("copied");
    cmd("umount").arg(&at).run().expect("unmounted");
    cmd("sfdisk").arg("-q").arg(&image).input("label: gpt\nstart=2048,size=655360\n").run().expect("partitioned");
    cmd("dd")
        .args(["conv=notrunc,sparse", "bs=1M", "seek=1"])
        .arg(format!("if={}", part.display()))
        .arg(format!("of={}", image.display()))
        .run()
        .expect("put");
    let device = PathBuf::from(attach(&volume));
    let outcome = std::panic::catch_unwind(|| {
        let go = || {
            let mut receiver =
                yard.receive("receiver-0-0", &device, &["--form", "tree", "--filesystem", "xfs"]).expect("it waits");
            let done = yard.ship(&image, "receiver-0-0", &receiver.at, &["form=tree"]).expect("run");
            assert_eq!(done.code(), 0, "{}\n{}", done.both(), receiver.log());
            assert_eq!(receiver.code().expect("it ends"), 0, "{}", receiver.log());
            result(&done.stdout).expect("a result")["sent"].as_u64().expect("a number")
        };
        let first = go();
        let again = go();
        assert!(first > 200 && again == 0, "{first}, then {again}");
    });
    cmd("losetup").arg("--detach").arg(&device).run().expect("detached");
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
    assert!(mount(&volume, &at, ",ro"), "it is XFS");
    let is_same = cmd("diff").args(["-r", "--no-dereference"]).arg(yard.path("root")).arg(&at).output();
    let says = cmd("blkid").args(["-o", "export"]).arg(&volume).output().expect("run");
    cmd("umount").arg(&at).run().expect("unmounted");
    assert_eq!(is_same.expect("run").code(), 0);
    assert!(says.stdout.contains(UUID) && says.stdout.contains("LABEL=system"), "{}", says.both());
}
