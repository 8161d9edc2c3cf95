//! Trees from and onto real file systems. Needs root, loop devices and `mke2fs`; without those there is nothing to see here.

use std::fs;
use std::os::unix::fs::{FileExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use rocks_ship::tree::{
    ExtImage, Folder, Manifest, Mounted, Origin, Shipped, TreeReceiver, TreeSender, TreeSource as _, TreeTarget,
};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};

const UUID: &str = "0e7c7d5e-1a2b-4c3d-8e9f-00112233aabb";

#[expect(clippy::disallowed_methods, reason = "a test makes its disks")]
fn run(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A loop device of an image; it goes when this is dropped.
struct Loop(String);

impl Loop {
    fn new(image: &Path) -> Option<Self> {
        run("losetup", &["--find", "--show", image.to_str()?]).map(Self)
    }

    fn mount(&self, kind: &str, writable: bool) -> Mounted {
        Mounted::mount(kind, Path::new(&self.0), writable).expect("mounted")
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run("losetup", &["--detach", &self.0]);
    }
}

fn ship(source: &mut Folder, target: TreeTarget) -> Shipped {
    let (mut here, mut there) = UnixStream::pair().expect("a pair");
    let sender = TreeSender::new(source, &|_| {}).expect("a manifest");
    std::thread::scope(|scope| {
        let taking = scope.spawn(move || TreeReceiver::new(target).run(&mut there, &|_| {}));
        let sent = sender.run(&mut here, &|_| {});
        let (taken, findings) = taking.join().expect("no panic").expect("taken");
        assert!(findings.is_empty());
        assert_eq!(taken.digest, sent.expect("sent").digest);
        taken
    })
}

/// What a file system has to write down in some special way.
fn enrich(root: &Path) {
    let noise = |n: usize| (0..n).map(|at| (at.wrapping_mul(2_654_435_761) >> 11) as u8).collect::<Vec<u8>>();
    fs::write(root.join("large"), noise(9_000_001)).expect("written");
    // In many pieces, in a few that are far apart, and with room that was never written.
    let open = |name: &str| fs::File::create(root.join(name)).expect("made");
    let (pieces, far, room) = (open("pieces"), open("far"), open("room"));
    (0..700).for_each(|n| pieces.write_all_at(&noise(3000), n * 9000).expect("written"));
    [0, 100_000, 1_000_000, 70_000_000, 600_000_000]
        .iter()
        .for_each(|at| far.write_all_at(b"far", *at).expect("written"));
    rustix::fs::fallocate(&room, rustix::fs::FallocateFlags::empty(), 0, 400_000).expect("given");
    room.write_all_at(b"written", 200_000).expect("written");
    for (name, kind, major, minor) in [
        ("null", FileType::CharacterDevice, 1, 3),
        ("vda", FileType::BlockDevice, 254, 70_000),
        ("pipe", FileType::Fifo, 0, 0),
    ] {
        let device = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(CWD, root.join(name), kind, Mode::RUSR, device).expect("made");
    }
    let set = |name: &str, xattr: &str, value: &[u8]| {
        rustix::fs::lsetxattr(root.join(name), xattr, value, XattrFlags::empty()).expect("set");
    };
    // user::rw-, user 5:r--, group::r--, group 7:r-x, mask::r-x, other::---.
    let entry =
        |tag: u16, bits: u16, id: u32| [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat();
    let none = u32::MAX;
    let entries =
        [entry(1, 6, none), entry(2, 4, 5), entry(4, 4, none), entry(8, 5, 7), entry(16, 5, none), entry(32, 0, none)];
    let acl = [&2_u32.to_le_bytes()[..], &entries.concat()].concat();
    set("usr/1", "system.posix_acl_access", &acl);
    set("usr/bin", "system.posix_acl_default", &acl);
    set("large", "security.capability", &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    set("long", "security.selinux", b"system_u:object_r:etc_t:s0\0");
    set("usr/2", "user.large", &noise(700));
    set("usr/2", "user.small", b"small");
    set("pipe", "trusted.empty", b"");
    rustix::fs::chownat(
        CWD,
        root.join("usr/3"),
        Some(Uid::from_raw(70_000)),
        Some(Gid::from_raw(4_000_000_000)),
        AtFlags::empty(),
    )
    .expect("given");
    rustix::fs::chmod(root.join("usr/3"), Mode::from_raw_mode(0o6755)).expect("changed");
    for (name, seconds) in [("usr/4", -1_000_000_000), ("usr/5", 5_000_000_000), ("usr/6", 0)] {
        set_time(&root.join(name), seconds);
    }
}

fn set_time(path: &Path, seconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: 987_654_321 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::empty()).expect("set");
}

fn same(one: &Manifest, two: &Manifest) {
    for (a, b) in one.entries().iter().zip(two.entries()) {
        assert!(a == b, "{a:?}\n{b:?}");
    }
    assert_eq!(one.digest(), two.digest());
}

/// A disk with nothing on it but a file system of `kind`.
fn blank(dir: &Path, name: &str, args: &[&str]) -> Option<PathBuf> {
    let path = dir.join(name);
    fs::File::create(&path).and_then(|file| file.set_len(96 << 20)).ok()?;
    run("mke2fs", &[&["-q", "-F"], args, &[path.to_str()?]].concat())?;
    Some(path)
}

#[test]
fn a_tree_goes_from_an_image_onto_new_file_systems() {
    let dir = tempfile::tempdir().expect("a folder");
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("etc")).expect("made");
    fs::create_dir_all(root.join("usr/bin")).expect("made");
    fs::write(root.join("usr/bin/sh"), vec![7; 300_000]).expect("written");
    fs::hard_link(root.join("usr/bin/sh"), root.join("usr/bin/bash")).expect("linked");
    symlink("usr/bin", root.join("bin")).expect("linked");
    symlink("x".repeat(200), root.join("long")).expect("linked");
    fs::File::create(root.join("sparse")).and_then(|file| file.set_len(1 << 30)).expect("made");
    (0..500).for_each(|n| fs::write(root.join(format!("usr/{n}")), format!("file {n}")).expect("written"));
    let from = ["-t", "ext4", "-d", root.to_str().expect("a path"), "-U", UUID, "-L", "system"];
    let Some(image) = blank(dir.path(), "from", &from) else { return };
    let Some(source) = Loop::new(&image) else { return };
    let file = fs::File::open(&image).expect("opened");
    let origin = Origin::of(&file, &(0..96 << 20)).expect("read").expect("a file system");
    assert_eq!((origin.uuid_text().as_deref(), origin.label_text()), (Some(UUID), Some("system")));
    let mounted = source.mount("ext4", false);
    let mut folder = Folder::on(&mounted, &image, origin).expect("opened");
    assert_eq!(folder.origin(), origin);
    let listed = folder.manifest(&|_| {}).expect("a manifest");
    assert!(listed.find(b"lost+found").is_some() && listed.find(b"usr/499").is_some());

    // Read without the kernel's help it is the same.
    let mut read = ExtImage::root_of(&image).expect("a root");
    assert_eq!(read.origin(), origin);
    same(&read.manifest(&|_| {}).expect("a manifest"), &listed);

    // More than that program takes along.
    enrich(&root);
    let mut folder = Folder::open(&root).expect("opened");
    let listed = folder.manifest(&|_| {}).expect("a manifest");

    for (name, kind, args) in [
        ("four", "ext4", &["-t", "ext4"][..]),
        // As the paper's: small inodes keep no nanoseconds and no attributes inside.
        ("small", "ext4", &["-t", "ext4", "-b", "1024", "-O", "^64bit,^metadata_csum"]),
        ("two", "ext4", &["-t", "ext2", "-b", "2048"]),
        ("three", "ext3", &["-t", "ext3", "-I", "128", "-b", "1024"]),
    ] {
        if kind == "ext3" {
            // It cannot say this, and a shipment onto it would fail.
            set_time(&root.join("usr/5"), 5);
            folder = Folder::open(&root).expect("opened");
        }
        let target = blank(dir.path(), name, args).expect("a disk");
        let device = Loop::new(&target).expect("a loop device");
        for turn in 0..2 {
            let mounted = device.mount(kind, true);
            let onto = TreeTarget::on(&mounted, &target).expect("opened");
            drop(mounted);
            let shipped = ship(&mut folder, onto);
            assert!(if turn == 0 { shipped.sent == shipped.chunks } else { shipped.sent == 0 }, "{name}: {shipped:?}");
        }
        // Unmounted, it is clean, and another look finds the same.
        drop(run("e2fsck", &["-f", "-n", target.to_str().expect("a path")]).expect("a clean file system"));
        let mounted = device.mount(kind, false);
        let mut again = Folder::on(&mounted, &target, Origin::default()).expect("opened");
        let found = again.manifest(&|_| {}).expect("a manifest");
        let mut image = ExtImage::open(&target, &(0..96 << 20)).expect("opened").expect("a file system");
        same(&image.manifest(&|_| {}).expect("a manifest"), &found);
        if kind == "ext4" {
            same(&found, &listed);
            assert_eq!(found.digest(), listed.digest());
        }
        assert_eq!(found.entries().len(), listed.entries().len());
    }
    // Nothing of it can be seen from outside.
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("a list");
    assert!(!mounts.contains(&source.0));
}

#[test]
fn a_damaged_image_is_an_error_and_no_panic() {
    let dir = tempfile::tempdir().expect("a folder");
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("etc")).expect("made");
    fs::create_dir_all(root.join("usr")).expect("made");
    (0..40).for_each(|n| fs::write(root.join(format!("usr/{n}")), vec![n; 5000]).expect("written"));
    for kind in ["ext4", "ext2"] {
        let from = ["-t", kind, "-b", "1024", "-N", "64", "-d", root.to_str().expect("a path")];
        let Some(path) = blank(dir.path(), kind, &from) else { return };
        let file = fs::File::options().read(true).write(true).open(&path).expect("opened");
        file.set_len(96 << 20).expect("sized");
        let mut state = 7_u64;
        let mut refused = 0;
        for _ in 0..300 {
            let mut random = |below: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % below
            };
            // Most of what counts is at the beginning.
            let places: Vec<(u64, u8)> = (0..60).map(|_| (1024 + random(900_000), random(256) as u8)).collect();
            let mut before = Vec::new();
            for (at, byte) in &places {
                let mut old = [0];
                file.read_exact_at(&mut old, *at).expect("read");
                before.push((*at, old));
                file.write_all_at(&[*byte], *at).expect("written");
            }
            refused += u32::from(ExtImage::root_of(&path).and_then(|mut image| image.manifest(&|_| {})).is_err());
            for (at, old) in before.into_iter().rev() {
                file.write_all_at(&old, at).expect("written");
            }
        }
        assert!(refused > 0, "nothing was hit");
        assert!(ExtImage::root_of(&path).and_then(|mut image| image.manifest(&|_| {})).is_ok());
    }
}
