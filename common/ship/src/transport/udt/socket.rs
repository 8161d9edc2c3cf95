//! The UDP socket: many packets a call out and in, through `quinn-udp`, which knows the kernel's ways (GSO, GRO, `recvmmsg`).

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::transport::Error;

/// What the kernel is asked to hold for us in each direction. It gives what `rmem_max` allows, more to root.
const KERNEL_BUFFER: usize = 16 << 20;
/// Datagrams that one call may bring, each up to 64 KiB when the kernel has joined several.
const BATCH: usize = 16;
const JOINED: usize = 1 << 16;
/// Where a path other than this machine's own is assumed to begin to have trouble.
const USUAL_MTU: usize = 1500;
/// The largest packet of this machine's loopback that we use.
const LOOPBACK_MTU: usize = 65_000;

/// A bound, and perhaps connected, UDP socket that does not block and is not inherited by children.
#[derive(Debug)]
pub(super) struct Socket {
    inner: UdpSocket,
    state: UdpSocketState,
}

impl Socket {
    /// Binds. With `shared`, connections of the same listener may bind the same port later.
    pub(super) fn bind(at: SocketAddr, shared: bool) -> Result<Self, Error> {
        let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let fd = rustix::net::socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
            .map_err(|e| Error::Socket(e.into()))?;
        if shared {
            sockopt::set_socket_reuseport(&fd, true).map_err(|e| Error::Socket(e.into()))?;
        }
        rustix::net::bind(&fd, &at).map_err(|e| Error::Bind(at, e.into()))?;
        // Only root may exceed the system's limits; others get what the limits give.
        if sockopt::set_socket_recv_buffer_size_force(&fd, KERNEL_BUFFER).is_err() {
            let _ = sockopt::set_socket_recv_buffer_size(&fd, KERNEL_BUFFER);
        }
        if sockopt::set_socket_send_buffer_size_force(&fd, KERNEL_BUFFER).is_err() {
            let _ = sockopt::set_socket_send_buffer_size(&fd, KERNEL_BUFFER);
        }
        let inner = UdpSocket::from(fd);
        let state = UdpSocketState::new(UdpSockRef::from(&inner)).map_err(Error::Socket)?;
        Ok(Self { inner, state })
    }

    /// From now on only this peer is heard.
    pub(super) fn connect(&self, to: SocketAddr) -> Result<(), Error> {
        self.inner.connect(to).map_err(Error::Socket)
    }

    pub(super) fn local(&self) -> Result<SocketAddr, Error> {
        self.inner.local_addr().map_err(Error::Socket)
    }

    /// The largest packet that the way to the peer takes, as far as this machine knows.
    pub(super) fn mtu(&self, peer: SocketAddr) -> usize {
        let known = match peer {
            SocketAddr::V4(_) => sockopt::ip_mtu(&self.inner).map_or(USUAL_MTU, |m| m as usize),
            SocketAddr::V6(_) => USUAL_MTU,
        };
        if peer.ip().is_loopback() { known.min(LOOPBACK_MTU) } else { known.min(USUAL_MTU) }
    }

    /// Sends `bytes` as datagrams of `segment` bytes, the last perhaps shorter. What the kernel has no room for is lost.
    pub(super) fn send(&self, to: SocketAddr, bytes: &[u8], segment: usize) -> io::Result<()> {
        let most = self.state.max_gso_segments().max(1);
        for part in bytes.chunks(segment.max(1) * most) {
            let transmit = Transmit {
                destination: to,
                ecn: None,
                contents: part,
                segment_size: (part.len() > segment).then_some(segment),
                src_ip: None,
            };
            loop {
                match self.state.try_send(UdpSockRef::from(&self.inner), &transmit) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                        self.wait(PollFlags::OUT, Duration::from_millis(20))?;
                    }
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    other => break other?,
                }
            }
        }
        Ok(())
    }

    fn wait(&self, what: PollFlags, limit: Duration) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.inner, what)];
        let limit = Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        };
        match rustix::event::poll(&mut fds, Some(&limit)) {
            Ok(n) => Ok(n > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits for datagrams and gives them, each with its sender. Nothing when the time is over.
    pub(super) fn receive(
        &self,
        buffers: &mut Buffers,
        limit: Duration,
        mut take: impl FnMut(SocketAddr, &[u8]),
    ) -> io::Result<usize> {
        if !self.wait(PollFlags::IN, limit)? {
            return Ok(0);
        }
        let mut meta = [RecvMeta::default(); BATCH];
        let mut slices: Vec<IoSliceMut<'_>> = buffers.0.chunks_mut(JOINED).map(IoSliceMut::new).collect();
        let found = match self.state.recv(UdpSockRef::from(&self.inner), &mut slices, &mut meta) {
            Ok(n) => n,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return Ok(0),
            Err(e) => return Err(e),
        };
        let mut count = 0;
        for (m, slice) in meta.iter().zip(&slices).take(found) {
            let bytes = slice.get(..m.len).unwrap_or_default();
            for datagram in bytes.chunks(m.stride.max(1)) {
                take(m.addr, datagram);
                count += 1;
            }
        }
        Ok(count)
    }
}

/// Room for one batch of datagrams.
#[derive(Debug)]
pub(super) struct Buffers(Vec<u8>);

impl Buffers {
    pub(super) fn new() -> Self {
        Self(vec![0; BATCH * JOINED])
    }
}

/// Unpredictable bytes.
pub(super) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut out = [0; N];
    let mut at = 0;
    while at < N {
        match rustix::rand::getrandom(&mut out[at..], rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => at += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::Socket(e.into())),
        }
    }
    Ok(out)
}
