//! The gate of a listener: answers greetings without keeping anything, until a client has shown that its address is true.

use std::net::SocketAddr;

use super::super::packet::{self, Control, Handshake, Packet, Request, STREAM, VERSION};
use crate::transport::udt::control::Nanos;

/// How long a cookie is good for, at least; at most twice that.
const EPOCH: Nanos = 30_000_000_000;

/// What to do with a datagram that came to the listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nothing at all.
    Ignore,
    /// Send this back. It is no longer than what came.
    Reply(Vec<u8>),
    /// A client with a true address wants a connection.
    Accept(Handshake),
}

/// Makes and checks cookies. Holds one secret, whatever arrives.
pub struct Gate {
    secret: [u8; 32],
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

impl Gate {
    /// With a secret that nobody else knows.
    pub fn new(secret: [u8; 32]) -> Self {
        Self { secret }
    }

    fn cookie(&self, from: SocketAddr, epoch: u64) -> u32 {
        let mut hash = blake3::Hasher::new_keyed(&self.secret);
        match from.ip() {
            std::net::IpAddr::V4(ip) => hash.update(&ip.octets()),
            std::net::IpAddr::V6(ip) => hash.update(&ip.octets()),
        };
        hash.update(&from.port().to_be_bytes()).update(&epoch.to_be_bytes());
        let h = hash.finalize();
        let b = h.as_bytes();
        // 0 is what a client says that has none yet.
        u32::from_be_bytes([b[0], b[1], b[2], b[3]]).max(1)
    }

    /// Looks at a datagram.
    pub fn answer(&self, now: Nanos, from: SocketAddr, bytes: &[u8]) -> Answer {
        let Ok(Packet::Control { dest: 0, timestamp, control: Control::Handshake(h) }) = packet::parse(bytes) else {
            return Answer::Ignore;
        };
        if h.version != VERSION || h.kind != STREAM || h.mss < 576 {
            return Answer::Ignore;
        }
        let epoch = now / EPOCH;
        match h.request {
            Request::ASK => {
                let mut out = Vec::with_capacity(packet::HEADER + packet::HANDSHAKE);
                let reply = packet::mark(Handshake { cookie: self.cookie(from, epoch), ..h });
                packet::put_control(&mut out, &Control::Handshake(reply), timestamp, h.socket);
                Answer::Reply(out)
            }
            Request::CONFIRM
                if h.cookie == self.cookie(from, epoch)
                    || epoch.checked_sub(1).is_some_and(|e| h.cookie == self.cookie(from, e)) =>
            {
                Answer::Accept(h)
            }
            _ => Answer::Ignore,
        }
    }
}
