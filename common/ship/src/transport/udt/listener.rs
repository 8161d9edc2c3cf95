//! A bound port. Whoever scans it or throws garbage at it costs one look and no memory.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::core::{Answer, Gate};
use super::driver::UdtConnection;
use super::nanos;
use super::socket::{Buffers, Socket, random};
use crate::transport::{Connection, Error, Listener, Options};

/// Accepts connections. One socket hears greetings; each connection gets a socket of its own on the same port, which the
/// kernel gives the packets of that peer alone.
#[derive(Debug)]
pub struct UdtListener {
    socket: Socket,
    local: SocketAddr,
    gate: Gate,
    began: Instant,
    options: Options,
    buffers: Mutex<(Buffers, Recent)>,
}

/// Clients that were let in of late: their repeated greetings may still wait in the socket's queue.
type Recent = VecDeque<(Instant, SocketAddr, u32)>;

/// How many are remembered, and for how long.
const RECENT: (usize, Duration) = (256, Duration::from_secs(10));

/// Datagrams behind a greeting that are kept until its connection stands.
const EARLY: usize = 32;

impl UdtListener {
    /// Binds the port; 0 takes any that is free.
    pub fn bind(at: SocketAddr, options: &Options) -> Result<Self, Error> {
        let socket = Socket::bind(at, true)?;
        Ok(Self {
            local: socket.local()?,
            socket,
            gate: Gate::new(random()?),
            began: Instant::now(),
            options: options.clone(),
            buffers: Mutex::new((Buffers::new(), Recent::new())),
        })
    }

    /// The next connection, or nothing when the time is over. Greetings are answered only while somebody waits here.
    pub fn next(&self, limit: Option<Duration>) -> Result<Option<UdtConnection>, Error> {
        let until = limit.map(|l| Instant::now() + l);
        let mut guard = self.buffers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (buffers, recent) = &mut *guard;
        loop {
            let rest = until.map_or(Duration::from_secs(1), |u| u.saturating_duration_since(Instant::now()));
            let mut asks = Vec::new();
            let mut replies = Vec::new();
            let mut early: Vec<(SocketAddr, Vec<u8>)> = Vec::new();
            let got = self.socket.receive(buffers, rest.min(Duration::from_secs(1)), |from, bytes| {
                match self.gate.answer(nanos(self.began.elapsed()), from, bytes) {
                    // Only of somebody whose cookie has just been seen.
                    Answer::Ignore if early.len() < EARLY && asks.iter().any(|(f, _)| *f == from) => {
                        early.push((from, bytes.to_vec()));
                    }
                    Answer::Ignore => {}
                    Answer::Reply(bytes) => replies.push((from, bytes)),
                    Answer::Accept(ask) => asks.push((from, ask)),
                }
            });
            match got {
                Ok(_) => {}
                // Somebody's answer to one of our replies; no concern of the listener.
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(e) => return Err(Error::Socket(e)),
            }
            for (to, bytes) in replies {
                // A reply that cannot be sent is one that is lost: the client asks again.
                let _ = self.socket.send(to, &bytes, bytes.len());
            }
            // Others that came in the same moment ask again, too.
            recent.retain(|(at, ..)| at.elapsed() < RECENT.1);
            let known = |from: SocketAddr, id: u32| recent.iter().any(|(_, f, i)| (*f, *i) == (from, id));
            if let Some((from, ask)) = asks.into_iter().find(|(from, ask)| !known(*from, ask.socket)) {
                recent.truncate(RECENT.0 - 1);
                recent.push_front((Instant::now(), from, ask.socket));
                let socket = Socket::bind(self.local, true)?;
                socket.connect(from)?;
                // What it has sent behind its greeting may have come here before the kernel knew of the other socket. Who else
                // asked in this moment asks again.
                early.retain(|(f, _)| *f == from);
                let mut early: Vec<Vec<u8>> = early.into_iter().map(|(_, bytes)| bytes).collect();
                let _ = self.socket.receive(buffers, Duration::ZERO, |f, bytes| {
                    if f == from && early.len() < EARLY {
                        early.push(bytes.to_vec());
                    }
                });
                return UdtConnection::accept(socket, from, &ask, &early, &self.options).map(Some);
            }
            if until.is_some_and(|u| Instant::now() >= u) {
                return Ok(None);
            }
        }
    }
}

impl Listener for UdtListener {
    fn accept(&self, limit: Option<Duration>) -> Result<Option<Box<dyn Connection>>, Error> {
        Ok(self.next(limit)?.map(|c| Box::new(c) as Box<dyn Connection>))
    }

    fn local(&self) -> SocketAddr {
        self.local
    }
}
