//! UDT4 as its library ships it, through the `udt` crate: the baseline, and a way out should ours fail on some path.
//!
//! What the crate leaves open is closed here: it panics on IPv6 addresses (refused before), trusts a length beside the slice
//! (always the slice's), copies its sockets freely (one owner, closed on drop), and has no end of stream (every write is
//! preceded by its length; length 0 is the end).

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ::udt::{Linger, SocketFamily, SocketType, UdtError, UdtOpts, UdtSocket, UdtStatus};

use super::{Connection, Error, Listener, Options, Stats, Transport};

/// The most that one length announces.
const FRAME: usize = 1 << 20;
/// How often a wait looks at the clock.
const LOOK: i32 = 100;

/// UDT4 as a [`Transport`]. Only IPv4.
#[derive(Debug, Clone, Default)]
pub struct Udt4 {
    options: Options,
}

impl Udt4 {
    /// With these options, of which the library knows the rate and the packet size.
    pub fn new(options: Options) -> Self {
        Self { options }
    }

    fn socket(&self, family: SocketAddr) -> Result<Owned, Error> {
        if !family.is_ipv4() {
            return Err(Error::Library("only IPv4".to_owned()));
        }
        ::udt::init();
        let s = Owned(UdtSocket::new(SocketFamily::AFInet, SocketType::Stream).map_err(library)?);
        let rate = self.options.rate.and_then(|r| i64::try_from(r).ok());
        if let Some(rate) = rate {
            s.0.setsockopt(UdtOpts::UDT_MAXBW, rate).map_err(library)?;
        }
        if let Some(mtu) = self.options.mtu.and_then(|m| i32::try_from(m).ok()) {
            s.0.setsockopt(UdtOpts::UDT_MSS, mtu).map_err(library)?;
        }
        // Long enough to send what is buffered, bounded so that a dead peer does not hold us.
        let linger = i32::try_from(self.options.patience.as_secs().max(1)).unwrap_or(180);
        s.0.setsockopt(UdtOpts::UDT_LINGER, Linger { onoff: 1, linger }).map_err(library)?;
        // In slices, so that the library's wait of three quarters of a minute for a dead peer is not ours.
        s.0.setsockopt(UdtOpts::UDT_SNDTIMEO, LOOK).map_err(library)?;
        s.0.setsockopt(UdtOpts::UDT_RCVTIMEO, LOOK).map_err(library)?;
        Ok(s)
    }
}

fn library(e: UdtError) -> Error {
    Error::Library(format!("{} ({})", e.err_msg, e.err_code))
}

/// A socket with one owner.
struct Owned(UdtSocket);

impl Drop for Owned {
    fn drop(&mut self) {
        // A failure to close leaves nothing that could be done.
        let _ = self.0.close();
    }
}

impl Transport for Udt4 {
    fn name(&self) -> &'static str {
        "udt4"
    }

    fn connect(&self, to: SocketAddr) -> Result<Box<dyn Connection>, Error> {
        let s = self.socket(to)?;
        s.0.connect(to).map_err(|e| if e.err_code == 1001 { Error::Timeout(to) } else { library(e) })?;
        Ok(Box::new(Stream::new(s, to)))
    }

    fn listen(&self, at: SocketAddr) -> Result<Box<dyn Listener>, Error> {
        let s = self.socket(at)?;
        s.0.bind(at).map_err(library)?;
        s.0.setsockopt(UdtOpts::UDT_RCVSYN, false).map_err(library)?;
        s.0.listen(16).map_err(library)?;
        let local = s.0.getsockname().map_err(library)?;
        Ok(Box::new(Port { socket: s, local }))
    }
}

struct Port {
    socket: Owned,
    local: SocketAddr,
}

impl Listener for Port {
    fn accept(&self, limit: Option<Duration>) -> Result<Option<Box<dyn Connection>>, Error> {
        let until = limit.map(|l| Instant::now() + l);
        loop {
            match self.socket.0.accept() {
                Ok((s, peer)) => {
                    let s = Owned(s);
                    // Inherited from the listener, which does not wait.
                    s.0.setsockopt(UdtOpts::UDT_RCVSYN, true).map_err(library)?;
                    return Ok(Some(Box::new(Stream::new(s, peer))));
                }
                // 6002: nobody yet.
                Err(e) if e.err_code == 6002 => {}
                Err(e) => return Err(library(e)),
            }
            if until.is_some_and(|u| Instant::now() >= u) {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn local(&self) -> SocketAddr {
        self.local
    }
}

/// What is known of the incoming frames.
#[derive(Debug, Default)]
struct Incoming {
    left: usize,
    ended: bool,
}

struct Shared {
    socket: Owned,
    incoming: Mutex<Incoming>,
    outgoing: Mutex<bool>,
    sent: AtomicU64,
    received: AtomicU64,
}

struct Stream {
    shared: Arc<Shared>,
    peer: SocketAddr,
}

impl Stream {
    fn new(socket: Owned, peer: SocketAddr) -> Self {
        let shared = Shared {
            socket,
            incoming: Mutex::default(),
            outgoing: Mutex::default(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared), peer }
    }
}

fn failed(e: &UdtError) -> io::Error {
    let kind = match e.err_code {
        2001 | 5004 => io::ErrorKind::ConnectionReset,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, format!("UDT4: {} ({})", e.err_msg, e.err_code))
}

/// 6003: the slice of time is over.
fn is_timeout(e: &UdtError) -> bool {
    e.err_code == 6003
}

impl Shared {
    /// Some bytes into all of a slice.
    fn receive(&self, buf: &mut [u8]) -> io::Result<usize> {
        let buf = if buf.len() > FRAME { &mut buf[..FRAME] } else { buf };
        let len = buf.len();
        loop {
            match self.socket.0.recv(buf, len) {
                Ok(n) if n > 0 => return Ok(usize::try_from(n).unwrap_or(0).min(len)),
                Ok(_) => {}
                Err(e) if is_timeout(&e) => {}
                Err(e) => return Err(failed(&e)),
            }
            if !matches!(self.socket.0.getstate(), UdtStatus::CONNECTED) {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
        }
    }

    fn send_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.socket.0.send(bytes) {
                Ok(n) => bytes = bytes.get(usize::try_from(n).unwrap_or(0)..).unwrap_or_default(),
                Err(e) if is_timeout(&e) => {}
                Err(e) => return Err(failed(&e)),
            }
            if !matches!(self.socket.0.getstate(), UdtStatus::CONNECTED) {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
        }
        Ok(())
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let mut incoming = self.shared.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        if incoming.ended {
            return Ok(0);
        }
        if incoming.left == 0 {
            let mut head = [0; 4];
            let mut at = 0;
            while at < head.len() {
                at += self.shared.receive(&mut head[at..])?;
            }
            incoming.left = u32::from_be_bytes(head) as usize;
            if incoming.left == 0 {
                incoming.ended = true;
                return Ok(0);
            }
            if incoming.left > FRAME {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        let most = buf.len().min(incoming.left);
        let n = self.shared.receive(&mut buf[..most])?;
        incoming.left -= n;
        self.shared.received.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let ended = self.shared.outgoing.lock().unwrap_or_else(PoisonError::into_inner);
        if *ended {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let part = &buf[..buf.len().min(FRAME)];
        if part.is_empty() {
            return Ok(0);
        }
        let mut frame = Vec::with_capacity(part.len() + 4);
        frame.extend_from_slice(&u32::try_from(part.len()).unwrap_or(0).to_be_bytes());
        frame.extend_from_slice(part);
        self.shared.send_all(&frame)?;
        self.shared.sent.fetch_add(part.len() as u64, Ordering::Relaxed);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Connection for Stream {
    fn finish(&mut self) -> io::Result<()> {
        let mut ended = self.shared.outgoing.lock().unwrap_or_else(PoisonError::into_inner);
        if !*ended {
            *ended = true;
            self.shared.send_all(&[0; 4])?;
        }
        Ok(())
    }

    fn stats(&self) -> Stats {
        Stats {
            sent: self.shared.sent.load(Ordering::Relaxed),
            received: self.shared.received.load(Ordering::Relaxed),
            ..Stats::default()
        }
    }

    fn peer(&self) -> SocketAddr {
        self.peer
    }

    fn try_clone(&self) -> io::Result<Box<dyn Connection>> {
        Ok(Box::new(Self { shared: Arc::clone(&self.shared), peer: self.peer }))
    }
}
