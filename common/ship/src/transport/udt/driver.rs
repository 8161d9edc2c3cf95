//! What the core must not do itself: a socket, a clock, and two threads, one that sends when it is time and one that receives.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::control::Nanos;
use super::core::{Core, Failure};
use super::packet::Handshake;
use super::socket::{Buffers, Socket, random};
use super::{address_words, nanos, settings};
use crate::transport::{Connection, Error, Options, Stats};

/// How often the receiving thread looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(100);
/// The longest that arriving packets wait in the kernel to be taken together.
const NAP: Duration = Duration::from_micros(2000);
/// Refused again and again for this long, with nothing heard: the peer's process is gone.
const REFUSED_FOR: Duration = Duration::from_secs(2);
/// The farewell is sent this often; each may be lost.
const FAREWELLS: u32 = 3;

/// Bytes copied at a time while the state is locked: whoever is interrupted in there holds up the other threads.
const COPY: usize = 64 << 10;

/// Sent late is sent in bursts, and read late is answered late: ask to be run first, and live with a no.
fn hurry() {
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), -10);
}

#[derive(Debug)]
struct Shared {
    core: Mutex<Core>,
    /// Wakes whoever waits to read, to write, to connect or to finish.
    user: Condvar,
    /// Wakes the sending thread.
    sender: Condvar,
    socket: Socket,
    peer: SocketAddr,
    began: Instant,
    stop: AtomicBool,
    /// Handles that the program holds.
    handles: AtomicUsize,
    write_timeout: Duration,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Nanos {
        nanos(self.began.elapsed())
    }

    fn wait<'a>(&self, guard: MutexGuard<'a, Core>) -> MutexGuard<'a, Core> {
        // The limit is no deadline: it only makes a missed wake harmless.
        self.user.wait_timeout(guard, Duration::from_millis(500)).unwrap_or_else(PoisonError::into_inner).0
    }

    fn send_loop(&self) {
        // Without it the kernel may round each sleep up by 50 microseconds.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
        hurry();
        let mut out = Vec::with_capacity(1 << 16);
        let mut core = self.lock();
        while !self.stop.load(Ordering::Acquire) {
            let now = self.now();
            core.on_time(now);
            if core.is_closed() {
                break;
            }
            out.clear();
            if let Some(segment) = core.transmit(now, &mut out) {
                drop(core);
                // An error here is the path's (no route, no buffer): the packets count as lost, and silence ends it.
                let _ = self.socket.send(self.peer, &out, segment);
                core = self.lock();
                if core.is_low() {
                    self.user.notify_all();
                }
                continue;
            }
            core.planned = core.wake(now);
            let rest = Duration::from_nanos(core.planned.saturating_sub(self.now())).min(Duration::from_millis(250));
            if !rest.is_zero() {
                core = self.sender.wait_timeout(core, rest).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        let failed = core.failure();
        let farewell = if failed.is_none_or(|f| f != Failure::Reset) { core.close(self.now()) } else { None };
        drop(core);
        self.user.notify_all();
        if let Some(bytes) = farewell {
            for i in 0..FAREWELLS {
                if i > 0 {
                    thread::sleep(Duration::from_millis(20));
                }
                let _ = self.socket.send(self.peer, &bytes, bytes.len());
            }
        }
        self.stop.store(true, Ordering::Release);
    }

    fn receive_loop(&self) {
        hurry();
        let mut buffers = Buffers::new();
        let mut refused: Option<Instant> = None;
        let mut batch: Vec<u8> = Vec::with_capacity(1 << 20);
        let mut ends: Vec<usize> = Vec::new();
        let mut last = Instant::now();
        while !self.stop.load(Ordering::Acquire) {
            batch.clear();
            ends.clear();
            let got = self.socket.receive(&mut buffers, LOOK, |from, bytes| {
                if from == self.peer {
                    batch.extend_from_slice(bytes);
                    ends.push(batch.len());
                }
            });
            match got {
                Ok(0) => {
                    last = Instant::now();
                    continue;
                }
                Ok(_) => refused = None,
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                    // Anybody can forge that, so it is believed only when it goes on and nothing else is heard.
                    let since = *refused.get_or_insert_with(Instant::now);
                    if since.elapsed() > REFUSED_FOR {
                        self.lock().abandon();
                        break;
                    }
                    thread::sleep(Duration::from_millis(20));
                    continue;
                }
                Err(_) => {
                    thread::sleep(Duration::from_millis(20));
                    continue;
                }
            }
            // Before the lock: waiting for it must not look like the path.
            let now = self.now();
            let mut core = self.lock();
            let mut from = 0;
            for end in &ends {
                core.on_datagram(now, &batch[from..*end]);
                from = *end;
            }
            // The sender sleeps until what it last knew to be next: wake it only for something earlier.
            let wake = core.wake(now) < core.planned || core.is_closed();
            let (rtt, looked_at) = (core.figures().min_rtt, core.is_looked_at());
            let user = core.readable() || core.writable() || !core.is_open() || core.is_finishing() || core.at_end();
            drop(core);
            if user {
                self.user.notify_all();
            }
            if wake {
                self.sender.notify_one();
            }
            // One wake for many packets, when they come in a stream and a fraction of the round trip does not matter.
            let nap = Duration::from_nanos(rtt / 64).min(NAP);
            if ends.len() < 16 && last.elapsed() < 4 * nap && !looked_at {
                thread::sleep(nap);
            }
            last = Instant::now();
        }
        self.sender.notify_one();
        self.user.notify_all();
    }
}

/// One connection. Clones of it ([`Connection::try_clone`]) share the stream; the last one to be dropped closes it.
#[derive(Debug)]
pub struct UdtConnection {
    shared: Arc<Shared>,
}

impl UdtConnection {
    /// Connects and waits until the peer has agreed, or until a listener of ours has answered: it will agree, and what is written
    /// now reaches it a round trip sooner. Should it not, reading and writing say so.
    pub fn connect(to: SocketAddr, options: &Options) -> Result<Self, Error> {
        let any: SocketAddr =
            if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { (std::net::Ipv6Addr::UNSPECIFIED, 0).into() };
        let socket = Socket::bind(any, false)?;
        socket.connect(to)?;
        let mtu = socket.mtu(to);
        let core = Core::client(0, settings(options, mtu), u32::from_ne_bytes(random()?), own_id()?, address_words(to));
        let this = Self::start(socket, to, core, options)?;
        let mut core = this.shared.lock();
        while !core.is_open() && !core.is_closed() {
            core = this.shared.wait(core);
        }
        match core.failure() {
            None if core.is_open() => {}
            Some(Failure::Silent) => return Err(Error::Timeout(to)),
            Some(Failure::Refused) | None => return Err(Error::Refused(to)),
            Some(other) => return Err(Error::Failed(other)),
        }
        drop(core);
        Ok(this)
    }

    /// A server's end, for a client that has shown its cookie. `early` are datagrams of it that came to the listener.
    pub(super) fn accept(
        socket: Socket,
        peer: SocketAddr,
        ask: &Handshake,
        early: &[Vec<u8>],
        options: &Options,
    ) -> Result<Self, Error> {
        let mtu = socket.mtu(peer);
        let mut core = Core::server(0, settings(options, mtu), ask, own_id()?, address_words(peer));
        for datagram in early {
            core.on_datagram(0, datagram);
        }
        Self::start(socket, peer, core, options)
    }

    fn start(socket: Socket, peer: SocketAddr, core: Core, options: &Options) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            core: Mutex::new(core),
            user: Condvar::new(),
            sender: Condvar::new(),
            socket,
            peer,
            began: Instant::now(),
            stop: AtomicBool::new(false),
            handles: AtomicUsize::new(1),
            write_timeout: options.patience,
        });
        let this = Self { shared: Arc::clone(&shared) };
        let other = Arc::clone(&shared);
        thread::Builder::new().name("udt-send".into()).spawn(move || shared.send_loop()).map_err(Error::Socket)?;
        thread::Builder::new().name("udt-recv".into()).spawn(move || other.receive_loop()).map_err(Error::Socket)?;
        Ok(this)
    }

    /// Caps the rate at this many bytes a second, headers included, from now on.
    pub fn set_rate(&self, rate: Option<u64>) {
        self.shared.lock().set_rate(rate);
    }

    fn error(failure: Option<Failure>) -> io::Error {
        match failure {
            Some(f @ Failure::Silent) => io::Error::new(io::ErrorKind::TimedOut, f),
            Some(f @ Failure::Reset) => io::Error::new(io::ErrorKind::ConnectionReset, f),
            Some(f @ Failure::Refused) => io::Error::new(io::ErrorKind::ConnectionRefused, f),
            Some(f @ Failure::Protocol) => io::Error::new(io::ErrorKind::InvalidData, f),
            None => io::ErrorKind::BrokenPipe.into(),
        }
    }
}

/// A socket's number, never 0.
fn own_id() -> Result<u32, Error> {
    // libudt keeps its own below 2^30.
    Ok((u32::from_ne_bytes(random()?) & 0x3fff_ffff).max(1))
}

impl Read for UdtConnection {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let most = buf.len().min(COPY);
        let buf = &mut buf[..most];
        let shared = &self.shared;
        let mut core = shared.lock();
        loop {
            if core.readable() {
                let now = shared.now();
                let n = core.read(now, buf);
                let wake = core.wake(now) < core.planned;
                drop(core);
                if wake {
                    shared.sender.notify_one();
                }
                return Ok(n);
            }
            if core.at_end() {
                return Ok(0);
            }
            if core.is_closed() {
                return Err(Self::error(core.failure()));
            }
            core = shared.wait(core);
        }
    }
}

impl Write for UdtConnection {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let buf = &buf[..buf.len().min(COPY)];
        let shared = &self.shared;
        let mut core = shared.lock();
        loop {
            let n = core.write(buf);
            if n > 0 {
                let now = shared.now();
                let wake = core.wake(now) < core.planned;
                drop(core);
                if wake {
                    shared.sender.notify_one();
                }
                return Ok(n);
            }
            if core.is_closed() || !core.is_open() {
                return Err(Self::error(core.failure()));
            }
            if !core.writable() && core.is_finishing() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            core = shared.wait(core);
        }
    }

    /// Nothing is held back: what was written leaves as soon as the path allows.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Connection for UdtConnection {
    fn finish(&mut self) -> io::Result<()> {
        let shared = &self.shared;
        let mut core = shared.lock();
        core.finish(shared.now());
        shared.sender.notify_one();
        let mut since = Instant::now();
        let mut before = 0;
        loop {
            if core.finished() {
                return Ok(());
            }
            if core.is_closed() {
                return Err(Self::error(core.failure()));
            }
            // A peer that lives but does not read must not hold us for ever.
            let acked = core.acknowledged();
            if acked != before {
                (before, since) = (acked, Instant::now());
            } else if since.elapsed() > shared.write_timeout.saturating_mul(4) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            core = shared.wait(core);
        }
    }

    fn stats(&self) -> Stats {
        let f = self.shared.lock().figures();
        Stats {
            sent: f.written,
            received: f.read,
            wire_sent: f.wire_sent,
            wire_received: f.wire_received,
            packets: f.packets,
            retransmitted: f.again,
            rate: f.rate,
            rtt: Duration::from_nanos(f.rtt),
            min_rtt: Duration::from_nanos(f.min_rtt),
            loss: f.loss,
        }
    }

    fn peer(&self) -> SocketAddr {
        self.shared.peer
    }

    fn try_clone(&self) -> io::Result<Box<dyn Connection>> {
        self.shared.handles.fetch_add(1, Ordering::AcqRel);
        Ok(Box::new(Self { shared: Arc::clone(&self.shared) }))
    }
}

impl Drop for UdtConnection {
    fn drop(&mut self) {
        if self.shared.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            // The lock orders this with the sender's look at it before it sleeps.
            let core = self.shared.lock();
            self.shared.stop.store(true, Ordering::Release);
            drop(core);
            self.shared.sender.notify_one();
        }
    }
}
