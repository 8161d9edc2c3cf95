//! Trees from and onto real file systems. Needs root, loop devices and `mke2fs`; without those there is nothing to see here.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use rocks_ship::tree::{Folder, Mounted, Origin, Shipped, TreeReceiver, TreeSender, TreeSource as _, TreeTarget};

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

    for (name, kind, args) in [
        ("four", "ext4", &["-t", "ext4"][..]),
        // As the paper's: small inodes keep no nanoseconds and no attributes inside.
        ("three", "ext3", &["-t", "ext3", "-I", "128"]),
    ] {
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
        if kind == "ext4" {
            assert_eq!(found.digest(), listed.digest());
        }
        assert_eq!(found.entries().len(), listed.entries().len());
    }
    // Nothing of it can be seen from outside.
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("a list");
    assert!(!mounts.contains(&source.0));
    assert_eq!(fs::metadata(&image).expect("there").size(), 96 << 20);
}
