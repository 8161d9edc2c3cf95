//! A long way on one machine: two network namespaces with an emulated link between them.
//!
//! ```text
//!   <name>a  10.77.0.1  ── rate, queue, loss, delay, reordering ─►  10.77.0.2  <name>b
//!                       ◄──────────────────────────────────────────
//! ```
//!
//! Each namespace holds the TUN device `wan0`; this process reads packets from one end, works out when a real link would have
//! delivered them, and writes them to the other at that moment. Nothing leaves the machine. It needs root. Dropping a [`Wan`]
//! takes everything away, and making one sweeps away what a killed process left.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec};
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::process::{Cmd, cmd, which};

/// Packets of one direction that are taken in before the other gets its turn.
const BATCH: usize = 256;
/// How long to sleep while packets flow: one wake for many.
const TICK: Duration = Duration::from_micros(100);
/// Namespaces of ours begin with this and the process that made them.
const PREFIX: &str = "rkwan";

/// What one direction is like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Bits of IP packets a second.
    pub rate: f64,
    /// How long a packet travels.
    pub delay: Duration,
    /// The share of packets that is lost after it has used the link.
    pub loss: f64,
    /// How long a packet may have to wait for its turn; what would wait longer is dropped.
    pub queue: Duration,
    /// The share of packets that is overtaken by others...
    pub reorder: f64,
    /// ... for it travels so much longer.
    pub reorder_by: Duration,
    /// Whether anything passes.
    pub up: bool,
}

impl Shape {
    /// A clean link with a queue of 50 ms.
    #[must_use]
    pub fn new(mbit: f64, round_trip: Duration) -> Self {
        Self {
            rate: mbit * 1e6,
            delay: round_trip / 2,
            loss: 0.0,
            queue: Duration::from_millis(50),
            reorder: 0.0,
            reorder_by: Duration::from_millis(2),
            up: true,
        }
    }

    fn check(&self) -> Result<()> {
        ensure!(self.rate >= 1000.0 && self.rate.is_finite(), "the rate must be at least 1 kbit/s");
        ensure!((0.0..=1.0).contains(&self.loss), "the loss must be between 0 and 1");
        ensure!((0.0..=1.0).contains(&self.reorder), "the share of late packets must be between 0 and 1");
        Ok(())
    }
}

/// Which direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the first namespace to the second.
    There,
    /// From the second to the first.
    Back,
}

/// Which end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The first namespace.
    A,
    /// The second namespace.
    B,
}

/// What one direction has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets that came to the link.
    pub seen: u64,
    /// Packets delivered.
    pub delivered: u64,
    /// Bytes delivered.
    pub bytes: u64,
    /// Packets that the queue had no room for.
    pub dropped: u64,
    /// Packets lost at random or because the link was cut.
    pub lost: u64,
    /// Packets delivered more than 2 ms later than meant: the machine had no time, and figures are to be distrusted.
    pub late: u64,
}

/// A generator that gives the same losses for the same seed (xorshift64*).
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn chance(&mut self, p: f64) -> bool {
        if p <= 0.0 {
            return false;
        }
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64) < p * (1u64 << 53) as f64
    }
}

/// A packet under way: when it is due, then its number, so that ties keep their order.
type Flying = Reverse<(u64, u64, Vec<u8>)>;

/// One direction; times in nanoseconds.
#[derive(Debug)]
struct OneWay {
    shape: Shape,
    free_at: u64,
    number: u64,
    flying: BinaryHeap<Flying>,
    dice: Dice,
    counts: Counts,
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

impl OneWay {
    fn new(shape: Shape, seed: u64) -> Self {
        Self {
            shape,
            free_at: 0,
            number: 0,
            flying: BinaryHeap::new(),
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            counts: Counts::default(),
        }
    }

    /// Takes a packet that came at `now`; gives the buffer back when it is not delivered.
    fn take(&mut self, now: u64, packet: Vec<u8>) -> Option<Vec<u8>> {
        self.counts.seen += 1;
        if !self.shape.up {
            self.counts.lost += 1;
            return Some(packet);
        }
        let takes = (packet.len() as f64 * 8e9 / self.shape.rate) as u64;
        let waits = self.free_at.saturating_sub(now);
        // A free link takes a packet however short its queue is.
        if waits > 0 && waits + takes > nanos(self.shape.queue) {
            self.counts.dropped += 1;
            return Some(packet);
        }
        self.free_at = self.free_at.max(now) + takes;
        if self.dice.chance(self.shape.loss) {
            self.counts.lost += 1;
            return Some(packet);
        }
        let mut due = self.free_at + nanos(self.shape.delay);
        if self.dice.chance(self.shape.reorder) {
            due += nanos(self.shape.reorder_by);
        }
        self.number += 1;
        self.flying.push(Reverse((due, self.number, packet)));
        None
    }

    fn due(&self) -> Option<u64> {
        self.flying.peek().map(|Reverse(f)| f.0)
    }

    /// The next packet that is due.
    fn give(&mut self, now: u64) -> Option<Vec<u8>> {
        if self.due()? > now {
            return None;
        }
        let Reverse((due, _, packet)) = self.flying.pop()?;
        self.counts.delivered += 1;
        self.counts.bytes += packet.len() as u64;
        self.counts.late += u64::from(now > due + 2_000_000);
        Some(packet)
    }

    fn set(&mut self, shape: Shape) {
        if self.shape.up && !shape.up {
            // What was on the wire is gone.
            self.counts.lost += self.flying.len() as u64;
            self.flying.clear();
            self.free_at = 0;
        }
        self.shape = shape;
    }
}

#[derive(Debug)]
struct Shared {
    ways: Mutex<[OneWay; 2]>,
    stop: AtomicBool,
}

impl Shared {
    fn ways(&self) -> MutexGuard<'_, [OneWay; 2]> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves packets until told to stop.
    fn pump(&self, ends: &[SyncDevice; 2]) {
        // Whoever emulates a link must get the processor first, or it emulates this machine's load.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), -20);
        let me = rustix::thread::gettid().as_raw_nonzero().to_string();
        let _ = cmd("chrt").args(["--rr", "-p", "10", &me]).output();
        let start = Instant::now();
        let clock = || nanos(start.elapsed());
        let mut scratch = vec![0u8; 1 << 16];
        let mut pool: Vec<Vec<u8>> = Vec::new();
        while !self.stop.load(Ordering::Acquire) {
            let mut busy = false;
            let mut ways = self.ways();
            for (at, way) in ways.iter_mut().enumerate() {
                let (from, to) = (&ends[at], &ends[1 - at]);
                for _ in 0..BATCH {
                    // Nothing there, or the device is going away: either way there is nothing to move.
                    let Ok(n) = from.recv(&mut scratch) else { break };
                    busy = true;
                    let mut packet = pool.pop().unwrap_or_default();
                    packet.clear();
                    packet.extend_from_slice(&scratch[..n]);
                    pool.extend(way.take(clock(), packet));
                }
                while let Some(packet) = way.give(clock()) {
                    busy = true;
                    // A full receiver is a loss like any other.
                    let _ = to.send(&packet);
                    if pool.len() < 1 << 16 {
                        pool.push(packet);
                    }
                }
            }
            let due = ways.iter().filter_map(OneWay::due).min();
            drop(ways);
            let rest = Duration::from_nanos(due.map_or(u64::MAX, |d| d.saturating_sub(clock())));
            if busy {
                std::thread::sleep(TICK.min(rest));
            } else {
                let rest = rest.min(Duration::from_millis(50));
                let limit = Timespec { tv_sec: 0, tv_nsec: rest.subsec_nanos().into() };
                let mut fds = [PollFd::new(&ends[0], PollFlags::IN), PollFd::new(&ends[1], PollFlags::IN)];
                let _ = rustix::event::poll(&mut fds, Some(&limit));
            }
        }
    }
}

/// Two namespaces and the link between them.
#[derive(Debug)]
pub struct Wan {
    names: [String; 2],
    /// Whether the namespaces are ours to remove.
    own: bool,
    shared: Arc<Shared>,
    pump: Option<JoinHandle<()>>,
}

/// Why there can be no link here, if so.
#[must_use]
pub fn missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("it needs root");
    }
    if which("ip").is_none() {
        return Some("ip (iproute2) is not installed");
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        return Some("there is no /dev/net/tun");
    }
    None
}

/// Removes the namespaces of the processes that `whose` chooses.
fn remove(whose: impl Fn(&str) -> bool) -> Result<()> {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten() {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let pid: String = rest.chars().take_while(char::is_ascii_digit).collect();
        if !pid.is_empty() && whose(&pid) {
            cmd("ip").args(["netns", "del", &name]).run()?;
        }
    }
    Ok(())
}

/// Removes what processes left that are gone.
fn sweep() -> Result<()> {
    remove(|pid| !std::path::Path::new("/proc").join(pid).exists())
}

/// Removes everything of this process, for programs that a signal ends while they hold a link.
///
/// # Errors
/// What `ip` says.
pub fn remove_own() -> Result<()> {
    let own = std::process::id().to_string();
    remove(|pid| pid == own)
}

fn next_number() -> u64 {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

impl Wan {
    /// Makes the link, the same in both directions.
    ///
    /// # Errors
    /// Not root, no TUN, or what `ip` says.
    pub fn new(shape: Shape) -> Result<Self> {
        Self::asymmetric(shape, shape)
    }

    /// Makes the link.
    ///
    /// # Errors
    /// Not root, no TUN, or what `ip` says.
    pub fn asymmetric(there: Shape, back: Shape) -> Result<Self> {
        if let Some(why) = missing() {
            bail!("no emulated link: {why}");
        }
        sweep()?;
        let number = next_number();
        let names = ["a", "b"].map(|end| format!("{PREFIX}{}n{number}{end}", std::process::id()));
        Self::make(names, true, [Self::address(End::A), Self::address(End::B)], [there, back])
    }

    /// Makes the link between two namespaces that are there already, and that stay. Its ends get these addresses, of one /24.
    ///
    /// # Errors
    /// Not root, no TUN, or what `ip` says.
    pub fn between(names: [&str; 2], addresses: [&str; 2], there: Shape, back: Shape) -> Result<Self> {
        if let Some(why) = missing() {
            bail!("no emulated link: {why}");
        }
        Self::make(names.map(str::to_owned), false, addresses, [there, back])
    }

    fn make(names: [String; 2], own: bool, addresses: [&str; 2], shapes: [Shape; 2]) -> Result<Self> {
        for shape in &shapes {
            shape.check()?;
        }
        let [there, back] = shapes;
        let shared = Arc::new(Shared {
            ways: Mutex::new([OneWay::new(there, 1), OneWay::new(back, 2)]),
            stop: AtomicBool::new(false),
        });
        // From here on dropping it removes what was made, should the rest fail.
        let mut this = Self { names, own, shared, pump: None };
        if own {
            for name in &this.names {
                cmd("ip").args(["netns", "add", name]).run()?;
            }
        }
        let devices = [this.device(End::A, addresses[0])?, this.device(End::B, addresses[1])?];
        let shared = Arc::clone(&this.shared);
        this.pump = Some(std::thread::Builder::new().name("wan".into()).spawn(move || shared.pump(&devices))?);
        Ok(this)
    }

    fn device(&self, end: End, address: &str) -> Result<SyncDevice> {
        let name = self.namespace(end);
        // Short enough for an interface, and gone from here as soon as it is moved.
        let temporary = format!("w{}n{}", std::process::id(), next_number());
        let device = DeviceBuilder::new().name(&temporary).build_sync().context("cannot make a TUN device")?;
        device.set_nonblocking(true)?;
        let ip = |line: &str| cmd("ip").args(line.split_whitespace()).run();
        ip(&format!("link set {temporary} netns {name}"))?;
        ip(&format!("-n {name} link set {temporary} name wan0 mtu 1500 txqueuelen 20000"))?;
        ip(&format!("-n {name} addr add {address}/24 dev wan0"))?;
        ip(&format!("-n {name} link set lo up"))?;
        ip(&format!("-n {name} link set wan0 up"))?;
        let _ = device.as_fd();
        Ok(device)
    }

    /// The address of an end, on both the only one that can be reached.
    #[must_use]
    pub fn address(end: End) -> &'static str {
        match end {
            End::A => "10.77.0.1",
            End::B => "10.77.0.2",
        }
    }

    /// The name of an end's namespace.
    #[must_use]
    pub fn namespace(&self, end: End) -> &str {
        match end {
            End::A => &self.names[0],
            End::B => &self.names[1],
        }
    }

    /// Begins a command that runs at an end.
    pub fn at(&self, end: End, program: impl AsRef<std::ffi::OsStr>) -> Cmd {
        cmd("ip").args(["netns", "exec", self.namespace(end)]).arg(program)
    }

    /// Changes one direction while packets flow.
    ///
    /// # Errors
    /// The new shape is none.
    pub fn change(&self, way: Way, change: impl FnOnce(&mut Shape)) -> Result<()> {
        let mut ways = self.shared.ways();
        let way = &mut ways[usize::from(way == Way::Back)];
        let mut shape = way.shape;
        change(&mut shape);
        shape.check()?;
        way.set(shape);
        Ok(())
    }

    /// Cuts or mends the link.
    pub fn set_up(&self, up: bool) {
        for way in self.shared.ways().iter_mut() {
            way.set(Shape { up, ..way.shape });
        }
    }

    /// What a direction has done until now.
    #[must_use]
    pub fn counts(&self, way: Way) -> Counts {
        self.shared.ways()[usize::from(way == Way::Back)].counts
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(pump) = self.pump.take() {
            drop(pump.join());
        }
        for name in self.names.iter().filter(|_| self.own) {
            // Missing when making it failed halfway.
            let _ = cmd("ip").args(["netns", "del", name]).output();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// 1500 bytes take 1 ms.
    fn way(change: impl FnOnce(&mut Shape)) -> OneWay {
        let mut shape = Shape::new(12.0, Duration::from_millis(20));
        change(&mut shape);
        OneWay::new(shape, 1)
    }

    #[test]
    fn packets_leave_at_the_rate_and_arrive_after_the_delay() {
        let mut w = way(|_| {});
        assert!((0..3).all(|_| w.take(0, vec![0; 1500]).is_none()));
        assert!(w.give(11 * MS - 1).is_none());
        assert!(w.give(11 * MS).is_some() && w.give(11 * MS).is_none());
        assert_eq!(w.due(), Some(12 * MS));
    }

    #[test]
    fn a_full_queue_drops_and_a_cut_link_forgets() {
        let mut w = way(|s| s.queue = Duration::from_millis(5));
        assert_eq!((0..20).filter(|_| w.take(0, vec![0; 1500]).is_none()).count(), 5);
        assert_eq!(w.counts.dropped, 15);
        w.set(Shape { up: false, ..w.shape });
        assert!(w.due().is_none() && w.take(1, vec![0; 9]).is_some());
    }

    #[test]
    fn the_share_asked_for_is_lost_or_late() {
        let mut w = way(|s| (s.rate, s.loss, s.reorder) = (1e12, 0.02, 0.05));
        let lost = (0..50_000).filter(|_| w.take(0, vec![0; 10]).is_some()).count();
        assert!((800..1200).contains(&lost), "{lost}");
        let late = w.flying.iter().filter(|Reverse(f)| f.0 > 11 * MS).count();
        assert!((2200..2700).contains(&late), "{late}");
    }

    #[test]
    fn a_ping_crosses_a_real_one_and_nothing_is_left() {
        if let Some(why) = missing() {
            return println!("skipped: {why}");
        }
        let wan = Wan::new(Shape::new(100.0, Duration::from_millis(40))).expect("a link");
        let name = wan.namespace(End::A).to_owned();
        let out = wan.at(End::A, "ping").args(["-c", "2", "-i", "0.2", Wan::address(End::B)]).output();
        if let Ok(out) = out
            && which("ping").is_some()
        {
            assert!(out.status.success(), "{}", out.both());
        }
        wan.set_up(false);
        wan.change(Way::There, |s| s.rate = 1e6).expect("a change");
        assert!(wan.change(Way::There, |s| s.rate = 0.0).is_err());
        drop(wan);
        assert!(!std::path::Path::new("/run/netns").join(name).exists());
    }
}
