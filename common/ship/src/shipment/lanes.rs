//! Packing on all processors while what is packed already is sent, in order; and how hard it is packed.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::time::{Duration, Instant};

use super::ShipmentError;
use super::pace::{Pace, Window};
use super::send::processors;

/// A window of measuring is at least this long, and as long as what waits in the lanes takes: it was packed before the last change.
const WINDOW: Duration = Duration::from_millis(200);

/// What packers and whoever sends tell each other.
#[derive(Debug)]
struct Shared {
    level: AtomicI32,
    /// Nanoseconds of all packers.
    worked: AtomicU64,
    packed: AtomicU64,
}

/// Compresses, as long as that pays.
pub(crate) struct Packer<'s> {
    zstd: Option<zstd::bulk::Compressor<'static>>,
    level: i32,
    shared: Option<&'s Shared>,
    /// By which part, at least, something must become smaller to travel compressed.
    gain: usize,
    /// Whether most of what follows something that did not become smaller is not even tried: data that are packed already come in a row.
    skips: bool,
    in_vain: u32,
    skip: u32,
}

/// The level at which it is seen whether something becomes smaller at all.
const LOWEST: i32 = 1;

impl Packer<'static> {
    /// One that keeps to the lowest level.
    pub(crate) fn lowest(gain: usize) -> Self {
        Self::new(gain, false, None)
    }
}

impl<'s> Packer<'s> {
    fn new(gain: usize, skips: bool, shared: Option<&'s Shared>) -> Self {
        let zstd = zstd::bulk::Compressor::new(LOWEST).ok();
        Self { zstd, level: LOWEST, shared, gain, skips, in_vain: 0, skip: 0 }
    }

    /// What is left of `bytes`, if that is less.
    pub(crate) fn pack(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        let began = Instant::now();
        let packed = self.squeeze(bytes);
        if let Some(shared) = self.shared {
            shared.packed.fetch_add(nanos(began), Ordering::Relaxed);
        }
        if packed.is_some() {
            self.in_vain = 0;
        } else {
            self.in_vain = (self.in_vain + 1).min(5);
            self.skip = if self.skips { (1 << self.in_vain) - 1 } else { 0 };
        }
        packed
    }

    fn squeeze(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let zstd = self.zstd.as_mut()?;
        // After something that did not become smaller the next is not tried hard.
        let wanted = self.shared.filter(|_| self.in_vain == 0).map_or(LOWEST, |s| s.level.load(Ordering::Relaxed));
        if wanted != self.level {
            zstd.set_compression_level(wanted).ok()?;
            self.level = wanted;
        }
        let packed = zstd.compress(bytes).ok()?;
        (packed.len() + bytes.len() / self.gain <= bytes.len()).then_some(packed)
    }
}

fn nanos(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// What is packed: how, and how much of it may wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lanes {
    /// How many jobs there are.
    pub(crate) jobs: usize,
    /// Results that wait to be sent, for each packer.
    pub(crate) ready: usize,
    /// See [`Packer`].
    pub(crate) gain: usize,
    /// See [`Packer`].
    pub(crate) skips: bool,
}

/// Does the job of a number.
pub(crate) type Work<'w, M> = Box<dyn FnMut(usize, &mut Packer<'_>) -> Result<M, ShipmentError> + 'w>;

impl Lanes {
    /// Does all jobs on all processors, each of which has a `work` of its own, and gives the results to `put` in the order of their numbers.
    /// `put` says how many bytes went. What fails first ends it.
    pub(crate) fn run<'w, M: Send>(
        self,
        work: &(dyn Fn() -> Work<'w, M> + Sync),
        put: &mut dyn FnMut(usize, M) -> Result<u64, ShipmentError>,
    ) -> Result<(), ShipmentError> {
        let packers = processors();
        let shared = Shared { level: AtomicI32::new(LOWEST), worked: AtomicU64::new(0), packed: AtomicU64::new(0) };
        std::thread::scope(|scope| {
            let mut lanes = Vec::new();
            // Each thread takes every so-manieth job, so that the order needs no sorting and the memory is bounded.
            for lane in 0..packers {
                let (send, receive) = mpsc::sync_channel(self.ready);
                lanes.push(receive);
                let shared = &shared;
                scope.spawn(move || {
                    let mut packer = Packer::new(self.gain, self.skips, Some(shared));
                    let mut work = work();
                    for job in (lane..self.jobs).step_by(packers) {
                        let began = Instant::now();
                        let result = work(job, &mut packer);
                        shared.worked.fetch_add(nanos(began), Ordering::Relaxed);
                        let failed = result.is_err();
                        if send.send(result).is_err() || failed {
                            return;
                        }
                    }
                });
            }
            let mut gauge = Gauge::new(&shared, packers, self.ready);
            for job in 0..self.jobs {
                let result = gauge.next(&lanes[job % packers])?;
                let sent = put(job, result)?;
                gauge.sent(sent);
            }
            Ok(())
        })
    }
}

/// Measures windows, and passes on what is decided.
struct Gauge<'s> {
    shared: &'s Shared,
    pace: Pace,
    packers: usize,
    /// Jobs of a window, at least.
    least: usize,
    began: Instant,
    jobs: usize,
    waited: Duration,
    bytes: u64,
    /// Nanoseconds at the window's beginning.
    worked: u64,
    packed: u64,
}

impl<'s> Gauge<'s> {
    fn new(shared: &'s Shared, packers: usize, ready: usize) -> Self {
        Self {
            shared,
            pace: Pace::default(),
            packers,
            least: ready * packers,
            began: Instant::now(),
            jobs: 0,
            waited: Duration::ZERO,
            bytes: 0,
            worked: 0,
            packed: 0,
        }
    }

    /// The next result, and how long it was waited for.
    fn next<M>(&mut self, lane: &Receiver<Result<M, ShipmentError>>) -> Result<M, ShipmentError> {
        let broke = || ShipmentError::Source("reading broke off".into());
        match lane.try_recv() {
            Ok(result) => result,
            Err(TryRecvError::Disconnected) => Err(broke()),
            Err(TryRecvError::Empty) => {
                let began = Instant::now();
                let result = lane.recv().map_err(|_| broke())?;
                self.waited += began.elapsed();
                result
            }
        }
    }

    fn sent(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.jobs += 1;
        let took = self.began.elapsed();
        if self.jobs < self.least || took < WINDOW {
            return;
        }
        let (worked, packed) = (self.shared.worked.load(Ordering::Relaxed), self.shared.packed.load(Ordering::Relaxed));
        let level = self.pace.next(&Window {
            took,
            waited: self.waited,
            worked: Duration::from_nanos(worked - self.worked),
            packed: Duration::from_nanos(packed - self.packed),
            packers: self.packers,
            sent: self.bytes,
        });
        self.shared.level.store(level, Ordering::Relaxed);
        (self.worked, self.packed) = (worked, packed);
        (self.began, self.jobs, self.waited, self.bytes) = (Instant::now(), 0, Duration::ZERO, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(bytes: usize, seed: u8) -> Vec<u8> {
        let mut out = vec![0; bytes];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut out);
        out
    }

    fn shared(level: i32) -> Shared {
        Shared { level: AtomicI32::new(level), worked: AtomicU64::new(0), packed: AtomicU64::new(0) }
    }

    #[test]
    fn results_come_in_order_and_the_first_failure_ends_it() {
        let lanes = Lanes { jobs: 1000, ready: 2, gain: 16, skips: true };
        let mut came = Vec::new();
        let work = || -> Work<'_, usize> { Box::new(|job, _| Ok(job)) };
        lanes
            .run(&work, &mut |at, job| {
                came.push((at, job));
                Ok(1)
            })
            .expect("done");
        assert!(came.iter().copied().eq((0..1000).map(|n| (n, n))));
        let failing = || -> Work<'_, usize> {
            Box::new(|job, _| if job == 500 { Err(ShipmentError::Protocol("no")) } else { Ok(job) })
        };
        let mut last = 0;
        let failed = lanes.run(&failing, &mut |at, _| {
            last = at;
            Ok(1)
        });
        assert!(matches!(failed, Err(ShipmentError::Protocol("no"))) && last == 499);
        let full = lanes.run(&work, &mut |at, _| if at == 10 { Err(ShipmentError::Protocol("full")) } else { Ok(1) });
        assert!(matches!(full, Err(ShipmentError::Protocol("full"))));
    }

    #[test]
    fn a_higher_level_makes_less_of_it_and_what_does_not_shrink_is_tried_rarely_and_cheaply() {
        let text: Vec<u8> =
            (0..20_000_u32).flat_map(|n| format!("{} ", n.wrapping_mul(2_654_435_761) >> 18).into_bytes()).collect();
        let (low, high) = (shared(1), shared(19));
        let packed = |shared| Packer::new(16, true, Some(shared)).pack(&text).expect("smaller").len();
        assert!(packed(&high) < packed(&low));
        let mut packer = Packer::new(16, true, Some(&high));
        assert!(packer.pack(&noise(65_536, 1)).is_none());
        assert_eq!((packer.in_vain, packer.skip), (1, 1));
        // One is passed over, the next is tried at the lowest level, and is small: then as hard as is wanted.
        assert!(packer.pack(&text).is_none());
        assert!(packer.pack(&text).is_some());
        assert_eq!((packer.level, packer.in_vain), (1, 0));
        assert!(packer.pack(&text).is_some());
        assert_eq!(packer.level, 19);
        // With many things together one says little of the next: each is tried.
        let mut packer = Packer::new(64, false, Some(&high));
        assert!(packer.pack(&noise(65_536, 1)).is_none());
        assert!(packer.pack(&text).is_some());
    }
}
