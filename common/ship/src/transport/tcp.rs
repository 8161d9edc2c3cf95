//! TCP: for networks that drop UDP, and as the measure of our own.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::{Connection, Error, Listener, Options, Stats, Transport};

/// Bytes that the kernel takes beyond those that are under way. With more, whoever writes would not notice for long how fast the path is.
const AHEAD: u32 = 1 << 20;

/// TCP as a [`Transport`], with buffers as large as the kernel lets us and the asked congestion control.
#[derive(Debug, Clone, Default)]
pub struct Tcp {
    options: Options,
}

impl Tcp {
    /// With these options.
    pub fn new(options: Options) -> Self {
        Self { options }
    }

    fn socket(&self, family: SocketAddr) -> Result<rustix::fd::OwnedFd, Error> {
        let fail = |e: rustix::io::Errno| Error::Socket(e.into());
        let family = if family.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let fd = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(fail)?;
        // Set before connecting, so that the window's scale is chosen for them. Only root may exceed the system's limits.
        let want = self.options.buffer;
        let _ = sockopt::set_socket_recv_buffer_size_force(&fd, want);
        let _ = sockopt::set_socket_send_buffer_size_force(&fd, want);
        let _ = socket2::SockRef::from(&fd).set_tcp_notsent_lowat(AHEAD);
        if let Some(name) = &self.options.congestion {
            // A kernel without it keeps its own.
            let _ = sockopt::set_tcp_congestion(&fd, name);
        }
        let patience = u32::try_from(self.options.patience.as_millis()).unwrap_or(u32::MAX);
        sockopt::set_tcp_user_timeout(&fd, patience).map_err(fail)?;
        sockopt::set_socket_keepalive(&fd, true).map_err(fail)?;
        let every = (self.options.patience / 4).max(Duration::from_secs(1));
        sockopt::set_tcp_keepidle(&fd, every).map_err(fail)?;
        sockopt::set_tcp_keepintvl(&fd, every).map_err(fail)?;
        Ok(fd)
    }
}

fn wait(fd: impl rustix::fd::AsFd, what: PollFlags, limit: Duration) -> io::Result<bool> {
    let limit =
        Timespec { tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX), tv_nsec: limit.subsec_nanos().into() };
    match rustix::event::poll(&mut [PollFd::new(&fd, what)], Some(&limit)) {
        Ok(n) => Ok(n > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

impl Transport for Tcp {
    fn name(&self) -> &'static str {
        "tcp"
    }

    fn connect(&self, to: SocketAddr) -> Result<Box<dyn Connection>, Error> {
        let fd = self.socket(to)?;
        // Without blocking, so that our limit and not the kernel's two minutes decide.
        rustix::io::ioctl_fionbio(&fd, true).map_err(|e| Error::Socket(e.into()))?;
        match rustix::net::connect(&fd, &to) {
            Ok(()) => {}
            Err(rustix::io::Errno::INPROGRESS) => {
                let until = Instant::now() + self.options.connect_timeout;
                loop {
                    let rest = until.saturating_duration_since(Instant::now());
                    if wait(&fd, PollFlags::OUT, rest).map_err(Error::Socket)? {
                        break;
                    }
                    if rest.is_zero() {
                        return Err(Error::Timeout(to));
                    }
                }
                match sockopt::socket_error(&fd).map_err(|e| Error::Socket(e.into()))? {
                    Ok(()) => {}
                    Err(rustix::io::Errno::CONNREFUSED) => return Err(Error::Refused(to)),
                    Err(e) => return Err(Error::Socket(e.into())),
                }
            }
            Err(rustix::io::Errno::CONNREFUSED) => return Err(Error::Refused(to)),
            Err(e) => return Err(Error::Socket(e.into())),
        }
        rustix::io::ioctl_fionbio(&fd, false).map_err(|e| Error::Socket(e.into()))?;
        Ok(Box::new(TcpConnection::new(TcpStream::from(fd), to)?))
    }

    fn listen(&self, at: SocketAddr) -> Result<Box<dyn Listener>, Error> {
        let fd = self.socket(at)?;
        sockopt::set_socket_reuseaddr(&fd, true).map_err(|e| Error::Socket(e.into()))?;
        rustix::net::bind(&fd, &at).map_err(|e| Error::Bind(at, e.into()))?;
        rustix::net::listen(&fd, 16).map_err(|e| Error::Bind(at, e.into()))?;
        // A peer that leaves between the wait and the accept must not make accept block.
        rustix::io::ioctl_fionbio(&fd, true).map_err(|e| Error::Socket(e.into()))?;
        let inner = TcpListener::from(fd);
        Ok(Box::new(Port { local: inner.local_addr().map_err(Error::Socket)?, inner }))
    }
}

struct Port {
    inner: TcpListener,
    local: SocketAddr,
}

impl Listener for Port {
    fn accept(&self, limit: Option<Duration>) -> Result<Option<Box<dyn Connection>>, Error> {
        let until = limit.map(|l| Instant::now() + l);
        loop {
            let rest = until.map_or(Duration::from_secs(1), |u| u.saturating_duration_since(Instant::now()));
            if wait(&self.inner, PollFlags::IN, rest).map_err(Error::Socket)? {
                match self.inner.accept() {
                    Ok((stream, peer)) => {
                        stream.set_nonblocking(false).map_err(Error::Socket)?;
                        return Ok(Some(Box::new(TcpConnection::new(stream, peer)?)));
                    }
                    Err(e)
                        if matches!(
                            e.kind(),
                            io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
                        ) => {}
                    Err(e) => return Err(Error::Socket(e)),
                }
            }
            if until.is_some_and(|u| Instant::now() >= u) {
                return Ok(None);
            }
        }
    }

    fn local(&self) -> SocketAddr {
        self.local
    }
}

struct TcpConnection {
    stream: TcpStream,
    peer: SocketAddr,
    counts: Arc<(AtomicU64, AtomicU64)>,
}

impl TcpConnection {
    fn new(stream: TcpStream, peer: SocketAddr) -> Result<Self, Error> {
        stream.set_nodelay(true).map_err(Error::Socket)?;
        Ok(Self { stream, peer, counts: Arc::default() })
    }
}

impl Read for TcpConnection {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.stream.read(buf)?;
        self.counts.1.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

impl Write for TcpConnection {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.stream.write(buf)?;
        self.counts.0.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Connection for TcpConnection {
    fn finish(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    fn stats(&self) -> Stats {
        Stats {
            sent: self.counts.0.load(Ordering::Relaxed),
            received: self.counts.1.load(Ordering::Relaxed),
            ..Stats::default()
        }
    }

    fn peer(&self) -> SocketAddr {
        self.peer
    }

    fn try_clone(&self) -> io::Result<Box<dyn Connection>> {
        Ok(Box::new(Self { stream: self.stream.try_clone()?, peer: self.peer, counts: Arc::clone(&self.counts) }))
    }
}
