//! Both ends in one process, over a pair of sockets that can be cut and damaged.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::*;

/// Lets so many bytes through and then breaks, or flips a bit of one.
struct Faulty {
    inner: UnixStream,
    left: u64,
    flip: Option<u64>,
}

impl Read for Faulty {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.inner.read(bytes)
    }
}

impl Write for Faulty {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
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

struct Bench {
    dir: tempfile::TempDir,
}

type Both = (Result<Shipped, ShipmentError>, Result<Shipped, ShipmentError>);

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An image of `blocks` and a bit: some that hold text, some that hold noise, some that hold nothing.
    fn image(&self, name: &str, blocks: u64, seed: u64) -> PathBuf {
        let path = self.path(name);
        let file = fs::File::create(&path).unwrap();
        file.set_len(blocks * BLOCK as u64 + 1000).unwrap();
        let mut noise = seed;
        for number in 0..=blocks {
            let length = length_of(blocks * BLOCK as u64 + 1000, number);
            let block: Vec<u8> = match (number + seed) % 3 {
                0 => continue,
                1 => format!("block {number} of {seed} ").bytes().cycle().take(length).collect(),
                _ => (0..length)
                    .map(|_| {
                        noise ^= noise << 13;
                        noise ^= noise >> 7;
                        noise ^= noise << 17;
                        noise as u8
                    })
                    .collect(),
            };
            file.write_all_at(&block, number * BLOCK as u64).unwrap();
        }
        path
    }

    fn ship_with(&self, source: &Path, target: &Path, bases: &[PathBuf], left: u64, flip: Option<u64>) -> Both {
        self.ship_based((source, None), target, bases, left, flip)
    }

    /// The same, and the target is said to hold another image.
    fn ship_based(
        &self,
        (source, held): (&Path, Option<&Path>),
        target: &Path,
        bases: &[PathBuf],
        left: u64,
        flip: Option<u64>,
    ) -> Both {
        let receiver = Receiver::new(Target::open(target).unwrap(), bases).unwrap();
        self.ship_to((source, held), &receiver, left, flip)
    }

    /// The same, to a receiver that may have taken something before.
    fn ship_to(
        &self,
        (source, held): (&Path, Option<&Path>),
        receiver: &Receiver,
        left: u64,
        flip: Option<u64>,
    ) -> Both {
        let (here, there) = UnixStream::pair().unwrap();
        // As a transport does it: who hears nothing for long gives up.
        for end in [&here, &there] {
            end.set_read_timeout(Some(std::time::Duration::from_millis(1500))).unwrap();
        }
        let source = Source::open(source).unwrap();
        let mut sender = Sender::new(&source, &|_| {}).unwrap();
        if let Some(held) = held {
            sender = sender.based_on(&Source::open(held).unwrap(), &|_| {}).unwrap();
        }
        std::thread::scope(|scope| {
            let taking = scope.spawn(move || {
                let result = receiver.run(&mut there.try_clone().unwrap(), &|_| {});
                let _ = there.shutdown(std::net::Shutdown::Both);
                result
            });
            let mut to = Faulty { inner: here.try_clone().unwrap(), left, flip };
            let sent = sender.run(&mut to, &|_| {});
            let _ = here.shutdown(std::net::Shutdown::Both);
            (sent, taking.join().unwrap())
        })
    }

    fn ship(&self, source: &Path, target: &Path, bases: &[PathBuf]) -> Shipped {
        let (sent, taken) = self.ship_with(source, target, bases, u64::MAX, None);
        let (sent, taken) = (sent.unwrap(), taken.unwrap());
        assert_eq!((sent.sent, sent.sent_bytes, &sent.digest), (taken.sent, taken.sent_bytes, &taken.digest));
        assert!(fs::read(source).unwrap() == fs::read(target).unwrap(), "what arrived differs");
        sent
    }
}

#[test]
fn what_the_target_is_said_to_hold_is_looked_at_once_and_what_is_not_so_is_sent_then() {
    let bench = Bench::new();
    let (old, new, target) = (bench.image("old", 600, 1), bench.path("new"), bench.path("target"));
    // Two blocks are others, one is new, one is none any more.
    fs::copy(&old, &new).unwrap();
    let file = fs::File::options().write(true).open(&new).unwrap();
    for number in [4, 300, 302] {
        file.write_all_at(b"new", number * BLOCK as u64).unwrap();
    }
    file.write_all_at(&[0; BLOCK], 301 * BLOCK as u64).unwrap();
    let ship = |left| {
        let (sent, taken) = bench.ship_based((&new, Some(&old)), &target, &[], left, None);
        (sent, taken)
    };
    let full = |shipped: &Shipped| shipped.believed;
    // It is what it is said to be.
    fs::copy(&old, &target).unwrap();
    let (sent, taken) = ship(u64::MAX);
    let (sent, taken) = (sent.unwrap(), taken.unwrap());
    assert_eq!((sent.sent, taken.sent, full(&taken)), (3, 3, 601 - 4));
    assert!(fs::read(&new).unwrap() == fs::read(&target).unwrap());
    // Nearly: one block that is held is another, one that holds nothing (each third) does, and nobody looks there before the end.
    fs::copy(&old, &target).unwrap();
    let damaged = fs::File::options().write(true).open(&target).unwrap();
    damaged.write_all_at(b"other", 400 * BLOCK as u64).unwrap();
    damaged.write_all_at(b"something", 401 * BLOCK as u64 + 70).unwrap();
    let (sent, taken) = ship(u64::MAX);
    let (sent, taken) = (sent.unwrap(), taken.unwrap());
    assert_eq!((sent.sent, taken.sent, full(&taken)), (4, 4, 601 - 4));
    assert_eq!(sent.sent_bytes, taken.sent_bytes);
    assert!(fs::read(&new).unwrap() == fs::read(&target).unwrap());
    // Something else altogether, and nothing at all.
    for other in [true, false] {
        fs::remove_file(&target).unwrap();
        if other {
            fs::copy(bench.image("other", 600, 2), &target).unwrap();
        }
        let (sent, taken) = ship(u64::MAX);
        let taken = taken.unwrap();
        assert_eq!((sent.unwrap().sent, taken.sent, full(&taken)), (taken.blocks, taken.blocks, 0));
        assert!(fs::read(&new).unwrap() == fs::read(&target).unwrap());
    }
    // Interrupted it goes on: what came is there, and what was held is believed again.
    fs::copy(&old, &target).unwrap();
    let manifest = 601 * 34;
    assert!(matches!(ship(manifest + 30_000).0, Err(ShipmentError::Connection(_))));
    let taken = ship(u64::MAX).1.unwrap();
    assert!(taken.believed > 0 && taken.sent <= 3, "{taken:?}");
    assert!(fs::read(&new).unwrap() == fs::read(&target).unwrap());
    // A shorter image is a base as well.
    let short = bench.image("short", 20, 1);
    fs::copy(&short, &target).unwrap();
    let (_, taken) = bench.ship_based((&old, Some(&short)), &target, &[], u64::MAX, None);
    assert!((10..=21).contains(&taken.unwrap().believed));
    assert!(fs::read(&old).unwrap() == fs::read(&target).unwrap());
}

#[test]
fn a_blank_target_is_not_read_but_for_what_was_written_and_one_that_is_not_blank_is() {
    let bench = Bench::new();
    // The first block and each third after it hold nothing.
    let image = bench.image("image", 600, 3);
    let target = bench.path("target");
    let blank = || {
        fs::write(&target, b"").unwrap();
        fs::File::options().write(true).open(&target).unwrap().set_len(600 * BLOCK as u64 + 1000).unwrap();
        Receiver::new(Target::open(&target).unwrap(), &[]).unwrap().onto_blank()
    };
    let spoil = |number: u64| {
        let file = fs::File::options().write(true).open(&target).unwrap();
        file.write_all_at(b"something", number * BLOCK as u64 + 70).unwrap();
    };
    let (sent, taken) = bench.ship_to((&image, None), &blank(), u64::MAX, None);
    let taken = taken.unwrap();
    assert_eq!((sent.unwrap().sent, taken.sent), (taken.blocks, taken.blocks));
    assert!(fs::read(&image).unwrap() == fs::read(&target).unwrap());
    // The caller's word counts where nobody looks, which is what makes it quick: it is only given for what is blank.
    let receiver = blank();
    spoil(303);
    bench.ship_to((&image, None), &receiver, u64::MAX, None).1.unwrap();
    assert!(fs::read(&image).unwrap() != fs::read(&target).unwrap());
    // What is plainly something else is found out, and then all of it is looked at.
    let receiver = blank();
    (0..600).for_each(spoil);
    bench.ship_to((&image, None), &receiver, u64::MAX, None).1.unwrap();
    assert!(fs::read(&image).unwrap() == fs::read(&target).unwrap());
    // And the second attempt finds what the first one left.
    let receiver = blank();
    let manifest = 601 * 34;
    assert!(matches!(
        bench.ship_to((&image, None), &receiver, manifest + 600_000, None).0,
        Err(ShipmentError::Connection(_))
    ));
    let taken = bench.ship_to((&image, None), &receiver, u64::MAX, None).1.unwrap();
    assert!((1..taken.blocks).contains(&taken.sent), "{taken:?}");
    assert!(fs::read(&image).unwrap() == fs::read(&target).unwrap());
}

#[test]
fn an_image_arrives_and_only_what_lacks_travels() {
    let bench = Bench::new();
    let (one, target) = (bench.image("one", 200, 1), bench.path("target"));
    let first = bench.ship(&one, &target, &[]);
    assert!(first.sent == first.blocks && first.blocks < 200 && first.sent_bytes < first.blocks * BLOCK as u64);
    // Again: nothing. With a few blocks changed: those, and those that became empty need not even travel.
    assert_eq!(bench.ship(&one, &target, &[]).sent, 0);
    let file = fs::File::options().write(true).open(&one).unwrap();
    file.write_all_at(b"changed", 50 * BLOCK as u64 + 9).unwrap();
    file.write_all_at(&[0; 2 * BLOCK], 100 * BLOCK as u64).unwrap();
    assert_eq!(bench.ship(&one, &target, &[]).sent, 1);
    // Onto another target with the first as base: nothing but what is in neither.
    let two = bench.path("two");
    assert_eq!(bench.ship(&one, &two, &[target]).sent, 0);
    // A smaller image over a larger one, and nothing at all.
    let small = bench.image("small", 3, 5);
    bench.ship(&small, &two, &[]);
    let empty = bench.path("empty");
    fs::write(&empty, b"").unwrap();
    assert_eq!(bench.ship(&empty, &two, &[]).blocks, 0);
}

#[test]
fn a_cut_shipment_goes_on_where_it_stopped_and_never_ends_as_a_success() {
    let bench = Bench::new();
    let (image, target) = (bench.image("image", 300, 2), bench.path("target"));
    let whole = bench.ship(&image, &bench.path("whole"), &[]).sent;
    let mut cut = 1;
    loop {
        let (sent, taken) = bench.ship_with(&image, &target, &[], cut, None);
        match (sent, taken) {
            (Ok(shipped), Ok(_)) => {
                assert!(shipped.sent < whole, "nothing of what arrived was used");
                break;
            }
            (Err(ShipmentError::Connection(_)), Err(ShipmentError::Connection(_))) => {}
            other => panic!("cut after {cut} bytes: {other:?}"),
        }
        cut = cut * 3 + 7;
    }
    assert!(fs::read(&image).unwrap() == fs::read(&target).unwrap());
}

#[test]
fn a_flipped_bit_anywhere_is_found() {
    let bench = Bench::new();
    let image = bench.image("image", 60, 3);
    let total = 2_000_000;
    for (number, at) in (0..total).step_by(397_003).chain([0, 9, 20, 60]).enumerate() {
        let target = bench.path(&format!("target{number}"));
        let (sent, taken) = bench.ship_with(&image, &target, &[], u64::MAX, Some(at));
        match (sent, taken) {
            (Err(_), Err(_)) => {}
            // Past the end of what was written nothing was flipped.
            (Ok(_), Ok(_)) => assert!(fs::read(&image).unwrap() == fs::read(&target).unwrap(), "bit at {at}"),
            other => panic!("bit at {at}: one end believes it: {other:?}"),
        }
        fs::remove_file(target).unwrap();
    }
}

#[test]
fn a_source_that_changes_while_it_is_sent_is_found() {
    let bench = Bench::new();
    let (image, target) = (bench.image("image", 100, 1), bench.path("target"));
    let source = Source::open(&image).unwrap();
    let sender = Sender::new(&source, &|_| {}).unwrap();
    fs::File::options().write(true).open(&image).unwrap().write_all_at(b"later", 90 * BLOCK as u64).unwrap();
    let (here, there) = UnixStream::pair().unwrap();
    let receiver = Receiver::new(Target::open(&target).unwrap(), &[]).unwrap();
    let (sent, taken) = std::thread::scope(|scope| {
        let taking = scope.spawn(move || receiver.run(&mut there.try_clone().unwrap(), &|_| {}));
        let sent = sender.run(&mut here.try_clone().unwrap(), &|_| {});
        (sent, taking.join().unwrap())
    });
    assert!(matches!(&sent, Err(ShipmentError::Source(why)) if why.contains("changed")), "{sent:?}");
    assert!(matches!(&taken, Err(ShipmentError::Refused(why)) if why.contains("changed")), "{taken:?}");
}

#[test]
fn a_target_that_loses_what_was_written_is_found() {
    // `/dev/full` and its like cannot be had for reading; a file that is truncated while it is written to comes close.
    let bench = Bench::new();
    let (image, target) = (bench.image("image", 100, 1), bench.path("target"));
    bench.ship(&image, &target, &[]);
    let receiver = Receiver::new(Target::open(&target).unwrap(), &[]).unwrap();
    let source = Source::open(&image).unwrap();
    let sender = Sender::new(&source, &|_| {}).unwrap();
    let (here, there) = UnixStream::pair().unwrap();
    let spoil = |progress: Progress| {
        if progress.phase == Phase::Sending || progress.phase == Phase::Comparing {
            let file = fs::File::options().write(true).open(&target).unwrap();
            file.write_all_at(&[0xee; 100], 10 * BLOCK as u64).unwrap();
        }
    };
    let (sent, taken) = std::thread::scope(|scope| {
        let taking = scope.spawn(move || receiver.run(&mut there.try_clone().unwrap(), &|_| {}));
        // The sender's word of the comparison comes when the receiver has looked at everything.
        let sent = sender.run(&mut Spoiling(here.try_clone().unwrap(), &spoil), &|_| {});
        (sent, taking.join().unwrap())
    });
    assert!(matches!(taken, Err(ShipmentError::Damaged { block: 10 })), "{taken:?}");
    assert!(matches!(sent, Err(ShipmentError::Refused(_))), "{sent:?}");
}

/// Calls a function before the last message goes out.
struct Spoiling<'s>(UnixStream, &'s (dyn Fn(Progress) + Sync));

impl Read for Spoiling<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read(bytes)
    }
}

impl Write for Spoiling<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes == [6, 0, 0, 0, 0] {
            (self.1)(Progress { phase: Phase::Sending, done: 0, of: 0, sent_bytes: 0 });
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[test]
fn whoever_does_not_keep_to_the_protocol_is_sent_away() {
    let bench = Bench::new();
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0, 1, 0, 0, 0, 7], &[4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
        let (mut here, there) = UnixStream::pair().unwrap();
        here.write_all(garbage).unwrap();
        here.shutdown(std::net::Shutdown::Write).unwrap();
        let receiver = Receiver::new(Target::open(&bench.path("t")).unwrap(), &[]).unwrap();
        let result = receiver.run(&mut there.try_clone().unwrap(), &|_| {});
        assert!(matches!(result, Err(ShipmentError::Protocol(_) | ShipmentError::Connection(_))), "{result:?}");
        drop(there);
        // What is read then does not matter, but that it ends.
        let _ = here.read_to_end(&mut Vec::new());
    }
    assert_eq!(fs::metadata(bench.path("t")).unwrap().len(), 0);
}
