//! Both ends in one process, over a pair of sockets that can be cut and damaged, from one folder to another.

mod faults;
mod hostile;

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode, XattrFlags};

use super::*;
use crate::shipment::{BLOCK, Progress, ShipmentError};

/// Lets so many bytes through and then breaks, or flips a bit of one; calls a function before the last message.
struct Faulty<'s> {
    inner: UnixStream,
    left: u64,
    flip: Option<u64>,
    before_end: &'s (dyn Fn() + Sync),
}

impl Read for Faulty<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.inner.read(bytes)
    }
}

impl Write for Faulty<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes == [6, 0, 0, 0, 0] {
            (self.before_end)();
        }
        if self.left == 0 {
            // What breaks breaks in both directions.
            let _ = self.inner.shutdown(std::net::Shutdown::Both);
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let n = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let mut bytes = bytes[..n].to_vec();
        if let Some(at) = self.flip.filter(|at| *at < n as u64) {
            bytes[at as usize] ^= 0x10;
            self.flip = None;
        }
        let n = self.inner.write(&bytes)?;
        self.left -= n as u64;
        self.flip = self.flip.map(|at| at - n as u64);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

type Both = (Result<Shipped, ShipmentError>, Result<(Shipped, Findings), ShipmentError>);

/// What goes wrong.
struct Trouble<'t> {
    left: u64,
    flip: Option<u64>,
    /// After the manifest was made.
    before: &'t dyn Fn(),
    /// After all chunks were sent.
    before_end: &'t (dyn Fn() + Sync),
}

const NONE: Trouble<'static> = Trouble { left: u64::MAX, flip: None, before: &|| {}, before_end: &|| {} };

struct Bench {
    dir: tempfile::TempDir,
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..bytes).map(step).collect()
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn folder(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).unwrap();
        path
    }

    fn ship_with(&self, from: &Path, to: &Path, trouble: &Trouble<'_>) -> Both {
        let (here, there) = UnixStream::pair().unwrap();
        // As a transport does it: who hears nothing for long gives up.
        for end in [&here, &there] {
            end.set_read_timeout(Some(std::time::Duration::from_millis(2500))).unwrap();
        }
        let target = TreeTarget::open(to).unwrap();
        let receiver = TreeReceiver::new(if is_root() { target } else { target.tolerant() });
        let mut source = Folder::open(from).unwrap();
        let sender = TreeSender::new(&mut source, &|_| {}).unwrap();
        (trouble.before)();
        std::thread::scope(|scope| {
            let taking = scope.spawn(move || {
                let result = receiver.run(&mut there.try_clone().unwrap(), &|_| {});
                let _ = there.shutdown(std::net::Shutdown::Both);
                result
            });
            let inner = here.try_clone().unwrap();
            let mut to = Faulty { inner, left: trouble.left, flip: trouble.flip, before_end: trouble.before_end };
            let sent = sender.run(&mut to, &|_| {});
            let _ = here.shutdown(std::net::Shutdown::Both);
            (sent, taking.join().unwrap())
        })
    }

    fn ship(&self, from: &Path, to: &Path) -> Shipped {
        let (sent, taken) = self.ship_with(from, to, &NONE);
        let (sent, (taken, findings)) = (sent.unwrap(), taken.unwrap());
        assert_eq!((sent.sent, sent.sent_bytes, &sent.digest), (taken.sent, taken.sent_bytes, &taken.digest));
        if findings.is_empty() {
            assert_same(from, to);
        }
        sent
    }
}

fn manifest_of(path: &Path) -> Manifest {
    Folder::open(path).unwrap().manifest(&|_| {}).unwrap()
}

fn assert_same(one: &Path, two: &Path) {
    let (one, two) = (manifest_of(one), manifest_of(two));
    for (a, b) in one.entries().iter().zip(two.entries()) {
        assert!(a == b, "{a:?}\n{b:?}");
    }
    assert_eq!(one.entries().len(), two.entries().len());
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// A tree with everything that a tree can have.
fn plant(root: &Path) {
    for folder in ["etc", "usr", "usr/bin", "var", "var/log", "dev", "empty"] {
        fs::create_dir(root.join(folder)).unwrap();
    }
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
    fs::write(root.join("etc/nothing"), "").unwrap();
    fs::write(root.join("usr/bin/large"), noise(1, 9 * BLOCK + 77)).unwrap();
    fs::write(root.join("usr/bin/text"), "the same again and again ".repeat(20_000)).unwrap();
    fs::write(root.join("usr/bin/twin"), noise(1, 9 * BLOCK + 77)).unwrap();
    (0..60).for_each(|n| fs::write(root.join(format!("usr/small-{n}")), noise(n + 100, 900 + n as usize)).unwrap());
    fs::hard_link(root.join("usr/bin/large"), root.join("etc/linked")).unwrap();
    symlink("../../outside", root.join("etc/away")).unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"odd \xff\n name");
    fs::write(root.join(odd), "odd").unwrap();
    fs::write(root.join("n".repeat(255)), "long").unwrap();
    let deep = (0..12).fold(root.join("var"), |path, n| path.join(format!("{n}{}", "d".repeat(200))));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("deep"), "deep").unwrap();
    // A file with holes: at its beginning, in the middle, and at the end.
    let sparse = fs::File::create(root.join("var/log/sparse")).unwrap();
    sparse.set_len(50_000_000).unwrap();
    sparse.write_all_at(b"here", 10_000_000).unwrap();
    sparse.write_all_at(&[0; 2 * BLOCK], 20_000_000).unwrap();
    rustix::fs::mknodat(CWD, root.join("dev/pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    drop(UnixListener::bind(root.join("dev/s")).or_else(|_| UnixListener::bind("/dev/null")));
    fs::set_permissions(root.join("usr/bin/text"), fs::Permissions::from_mode(0o6751)).unwrap();
    fs::set_permissions(root.join("empty"), fs::Permissions::from_mode(0o1777)).unwrap();
    set_xattr(&root.join("etc/hosts"), "user.origin", b"here");
    set_xattr(&root.join("usr"), "user.empty", b"");
    fs::set_permissions(root.join("etc/hosts"), fs::Permissions::from_mode(0o400)).unwrap();
    if is_root() {
        let path = root.join("dev/null");
        rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::RUSR, rustix::fs::makedev(1, 3)).unwrap();
        let path = root.join("dev/vda");
        rustix::fs::mknodat(CWD, &path, FileType::BlockDevice, Mode::RUSR, rustix::fs::makedev(254, 70_000)).unwrap();
        set_xattr(
            &root.join("usr/bin/twin"),
            "security.capability",
            &hex_bytes("0100000200040000000000000000000000000000"),
        );
        set_xattr(&root.join("etc/away"), "security.selinux", b"system_u:object_r:etc_t:s0\0");
        set_xattr(&root.join("dev/pipe"), "trusted.x", &[0, 1, 2]);
        // Version 2; user::rw-, user 5:r--, group::r--, mask::r--, other::---.
        let acl = "0200000001000600ffffffff02000400050000000400040 0ffffffff10000400ffffffff20000000ffffffff"
            .replace(' ', "");
        set_xattr(&root.join("usr/small-1"), "system.posix_acl_access", &hex_bytes(&acl));
        set_xattr(&root.join("empty"), "system.posix_acl_default", &hex_bytes(&acl));
        rustix::fs::chownat(
            CWD,
            root.join("usr/bin/text"),
            Some(rustix::fs::Uid::from_raw(5)),
            None,
            rustix::fs::AtFlags::empty(),
        )
        .unwrap();
        fs::set_permissions(root.join("usr/bin/text"), fs::Permissions::from_mode(0o6751)).unwrap();
    }
    // A folder that nobody may write to, and times before and after now.
    fs::set_permissions(root.join("var/log"), fs::Permissions::from_mode(0o555)).unwrap();
    for (name, seconds) in [("etc/hosts", -5), ("etc", 1_000_000_000), ("etc/nothing", 5_000_000_000)] {
        let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 123_456_789 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, root.join(name), &times, rustix::fs::AtFlags::empty()).unwrap();
    }
}

fn hex_bytes(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn a_tree_arrives_and_only_what_lacks_travels() {
    let bench = Bench::new();
    let (from, to) = (bench.folder("from"), bench.folder("to"));
    plant(&from);
    let first = bench.ship(&from, &to);
    // Twins and names of the same file travel once; small files share packs.
    assert!(first.sent == first.chunks && first.sent_bytes < 11 * BLOCK as u64 + 100_000, "{first:?}");
    let (large, linked) = (to.join("usr/bin/large").metadata().unwrap(), to.join("etc/linked").metadata().unwrap());
    assert!(large.ino() == linked.ino() && large.nlink() == 2);
    assert_eq!(fs::read(to.join("usr/bin/large")).unwrap(), noise(1, 9 * BLOCK + 77));
    let sparse = to.join("var/log/sparse").metadata().unwrap();
    assert!(sparse.len() == 50_000_000 && sparse.blocks() * 512 < 1_000_000, "the holes are filled");
    assert_eq!(fs::read_link(to.join("etc/away")).unwrap(), Path::new("../../outside"));
    assert_eq!(to.join("usr/bin/text").metadata().unwrap().mode() & 0o7777, 0o6751);
    assert_eq!(to.join("etc").metadata().unwrap().mtime(), 1_000_000_000);
    // Again: nothing. What only changed its name, owner, mode or time needs no chunk either.
    assert_eq!(bench.ship(&from, &to).sent, 0);
    let ino = to.join("usr/bin/twin").metadata().unwrap().ino();
    fs::rename(from.join("usr/bin/text"), from.join("etc/text")).unwrap();
    fs::set_permissions(from.join("usr/small-2"), fs::Permissions::from_mode(0o4711)).unwrap();
    assert_eq!(bench.ship(&from, &to).sent, 0);
    assert_eq!(to.join("usr/bin/twin").metadata().unwrap().ino(), ino, "what was right was made anew");
    // A few bytes: their chunk.
    let file = fs::File::options().write(true).open(from.join("usr/bin/large")).unwrap();
    file.write_all_at(b"changed", 5 * BLOCK as u64).unwrap();
    file.set_len(8 * BLOCK as u64).unwrap();
    assert_eq!(bench.ship(&from, &to).sent, 1);
    // Everything becomes something else.
    fs::remove_file(from.join("etc/linked")).unwrap();
    fs::create_dir(from.join("etc/linked")).unwrap();
    fs::write(from.join("etc/linked/a"), "a").unwrap();
    fs::set_permissions(from.join("var/log"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_dir_all(from.join("var")).unwrap();
    symlink("/etc", from.join("var")).unwrap();
    fs::rename(from.join("usr/bin"), from.join("usr/sbin")).unwrap();
    assert_eq!(bench.ship(&from, &to).sent, 1);
    let nothing = bench.folder("nothing");
    assert_eq!(bench.ship(&nothing, &to).chunks, 0);
    assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
}

#[test]
fn without_root_what_only_root_may_do_is_an_error_or_counted() {
    // A folder of the system, with files that are root's.
    let from = Path::new("/etc/cron.d");
    if is_root() || !from.is_dir() {
        return;
    }
    let bench = Bench::new();
    let to = bench.folder("to");
    let attempt = |target| {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        let mut source = Folder::open(from).unwrap();
        let sender = TreeSender::new(&mut source, &|_| {}).unwrap();
        std::thread::scope(|scope| {
            let taking = scope.spawn(move || TreeReceiver::new(target).run(&mut there, &|_| {}));
            (sender.run(&mut here, &|_| {}), taking.join().unwrap())
        })
    };
    let (sent, taken) = attempt(TreeTarget::open(&to).unwrap());
    assert!(matches!(&taken, Err(ShipmentError::Target(why)) if why.contains("owner")), "{taken:?}");
    assert!(matches!(sent, Err(ShipmentError::Refused(_))), "{sent:?}");
    let (sent, taken) = attempt(TreeTarget::open(&to).unwrap().tolerant());
    let (_, findings) = taken.unwrap();
    assert!(findings.iter().all(|finding| finding.what == What::Owner) && !findings.is_empty(), "{findings:?}");
    assert_eq!(sent.unwrap().findings, findings.len() as u64);
}

/// A tree of few names and few different chunks, so that everything can be anywhere.
fn plan_of_a_tree() -> impl Strategy<Value = Vec<(usize, Vec<u8>, bool)>> {
    proptest::collection::vec((0usize..8, proptest::collection::vec(0u8..5, 0..4), prop::bool::weighted(0.3)), 0..9)
}

const NAMES: [&str; 8] = ["a", "b", "c", "d/a", "d/b", "d", "a/b", "e"];

fn grow(root: &Path, files: &[(usize, Vec<u8>, bool)]) {
    let mut last: Option<PathBuf> = None;
    for (name, chunks, is_link) in files {
        let path = root.join(NAMES[*name]);
        let _ = fs::create_dir(path.parent().unwrap());
        match last.as_ref().filter(|_| *is_link) {
            Some(last) => drop(fs::hard_link(last, &path)),
            None => {
                let bytes: Vec<u8> = chunks
                    .iter()
                    .flat_map(|n| if *n == 0 { vec![0; BLOCK] } else { noise((*n).into(), BLOCK) })
                    .collect();
                let short = bytes.len().saturating_sub(usize::from(*is_link) * 100);
                if path.symlink_metadata().is_err() && fs::write(&path, &bytes[..short]).is_ok() {
                    last = Some(path);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn any_tree_becomes_any_other(one in plan_of_a_tree(), two in plan_of_a_tree()) {
        let bench = Bench::new();
        let (from, to) = (bench.folder("from"), bench.folder("to"));
        grow(&to, &one);
        let had: std::collections::HashSet<_> = manifest_of(&to).entries().iter().filter_map(Entry::content)
            .flat_map(Content::chunks).map(|(_, digest)| *digest).collect();
        grow(&from, &two);
        let wanted: std::collections::HashSet<_> = manifest_of(&from).entries().iter().filter_map(Entry::content)
            .flat_map(Content::chunks).map(|(_, digest)| *digest).collect();
        let shipped = bench.ship(&from, &to);
        prop_assert_eq!(shipped.sent, wanted.difference(&had).count() as u64);
    }
}
