//! Images made by the tools that everybody uses: what is in use of them, and whether it arrives whole.
#![expect(clippy::print_stdout, reason = "a test that is left out says why")]

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use rocks_ship::image::{Allocation, partitions};
use rocks_ship::shipment::{Receiver, Sender, Source, Target};

fn run(program: &str, args: &[&str], input: &str) -> Option<String> {
    use std::io::Write as _;
    use std::process::Stdio;
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    #[expect(clippy::disallowed_methods, reason = "asks the reference tools")]
    let child = Command::new(program)
        .args(args)
        .env("PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        println!("skipped: {program} is not here");
        return None;
    };
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("ended");
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A tree with files, links, holes and one file that is deleted again.
fn tree(folder: &Path) {
    for (name, bytes) in [("a", 3_000_000), ("b/c", 10), ("b/d", 500_000)] {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        let text: Vec<u8> = (0..bytes).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        fs::write(path, text).expect("written");
    }
    std::os::unix::fs::symlink("a", folder.join("link")).expect("linked");
}

#[test]
fn what_a_file_system_does_not_use_does_not_travel_and_the_rest_is_whole() {
    let dir = tempfile::tempdir().expect("a folder");
    let files = dir.path().join("files");
    tree(&files);
    for kind in ["ext2", "ext3", "ext4"] {
        let (image, target) = (dir.path().join(kind), dir.path().join(format!("{kind}.out")));
        let text = |path: &Path| path.display().to_string();
        // Old content everywhere, as on a disk that was used before.
        fs::write(&image, vec![0xaa; 64 << 20]).expect("written");
        let options = ["-q", "-t", kind, "-F", "-E", "nodiscard", "-d", &text(&files), &text(&image)];
        if run("mke2fs", &options, "").is_none() {
            return;
        }
        run("debugfs", &["-w", "-R", "rm /b/d", &text(&image)], "");
        // The tools leave holes where they write zeros; those are counted in another test.
        let bytes = fs::read(&image).expect("read");
        fs::write(&image, bytes).expect("written");
        let file = fs::File::open(&image).expect("opened");
        let free = Allocation::of(&file, 64 << 20).expect("read").free_bytes();
        let said = run("dumpe2fs", &["-h", &text(&image)], "").expect("it is here");
        let value = |name: &str| -> u64 {
            let line = said.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
            line.trim().parse().expect("a number")
        };
        let most = value("Free blocks:") * value("Block size:");
        assert!(free <= most && free > most / 2, "{kind}: {free} of {most}");

        let source = Source::open(&image).expect("opened");
        let sender = Sender::new(&source, &|_| {}).expect("read");
        let receiver = Receiver::new(Target::open(&target).expect("opened"), &[]).expect("made");
        let (here, there) = UnixStream::pair().expect("a pair");
        let end = |stream: &UnixStream| stream.try_clone().expect("cloned");
        let shipped = std::thread::scope(|scope| {
            let taking = scope.spawn(|| receiver.run(&mut end(&there), &|_| {}));
            let sent = sender.run(&mut end(&here), &|_| {}).expect("sent");
            taking.join().expect("no panic").expect("taken");
            sent
        });
        assert!(shipped.sent * (64 << 10) <= (64 << 20) - free + (4 << 20), "{kind}: {shipped:?}");
        run("e2fsck", &["-fn", &text(&target)], "");
        for name in ["/a", "/b/c"] {
            let out = dir.path().join("out");
            run("debugfs", &["-R", &format!("dump {name} {}", text(&out)), &text(&target)], "");
            assert!(fs::read(out).expect("read") == fs::read(files.join(&name[1..])).expect("read"), "{kind} {name}");
        }
    }
}

#[test]
fn partition_tables_are_read_as_sfdisk_writes_them() {
    let dir = tempfile::tempdir().expect("a folder");
    let image = dir.path().join("image").display().to_string();
    for (label, script) in [
        ("gpt", "label: gpt\nstart=2048, size=4096\nstart=8192, size=20480, type=linux\n"),
        ("dos", "label: dos\nstart=2048, size=4096, type=83\nstart=8192, size=20480, type=83, bootable\n"),
    ] {
        fs::File::create(&image).expect("made").set_len(32 << 20).expect("sized");
        if run("sfdisk", &["-q", &image], script).is_none() {
            return;
        }
        let file = fs::File::open(&image).expect("opened");
        let found: Vec<_> =
            partitions(&file, 32 << 20).expect("read").into_iter().map(|p| (p.number, p.bytes)).collect();
        let at = |start: u64, size: u64| start * 512..(start + size) * 512;
        assert_eq!(found, [(1, at(2048, 4096)), (2, at(8192, 20480))], "{label}");
    }
    let empty = fs::File::create(&image).expect("made");
    empty.set_len(100).expect("sized");
    assert_eq!(partitions(&fs::File::open(&image).expect("opened"), 100).expect("read"), []);
}
