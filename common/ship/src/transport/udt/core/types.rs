//! What goes into a connection and what can be known of it.

use super::super::control::Nanos;
use super::MS;

/// What both ends may choose.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The largest IP packet, headers included.
    pub mss: usize,
    /// Bytes kept for sending, and for receiving.
    pub buffer: usize,
    /// Never send faster than this many bytes a second, headers included.
    pub rate: Option<u64>,
    /// How long a silent peer is waited for.
    pub patience: Nanos,
    /// How long connecting may take.
    pub connect: Nanos,
}

/// Why a connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nothing was heard of the peer for too long.
    #[error("the peer has not been heard of for too long")]
    Silent,
    /// The peer gave up before all was transferred.
    #[error("the peer closed the connection before the stream was complete")]
    Reset,
    /// The listener does not want us.
    #[error("the peer refused the connection")]
    Refused,
    /// The peer acknowledged what was never sent.
    #[error("the peer broke the protocol")]
    Protocol,
}

/// Figures of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Figures {
    /// Bytes taken from the writer.
    pub written: u64,
    /// Bytes given to the reader.
    pub read: u64,
    /// Bytes of IP packets with data that left.
    pub wire_sent: u64,
    /// Bytes of IP packets with data that arrived.
    pub wire_received: u64,
    /// Packets with data that left.
    pub packets: u64,
    /// How many of them were sent again.
    pub again: u64,
    /// The rate that the path is believed to give, bytes a second.
    pub rate: f64,
    /// The last round trip.
    pub rtt: Nanos,
    /// The shortest round trip.
    pub min_rtt: Nanos,
    /// Bytes under way.
    pub inflight: u64,
    /// Bytes that may be under way.
    pub window: u64,
    /// The share of packets lost.
    pub loss: f64,
}

/// What we tell libudt of the path's capacity, in packets a second. Its control grows in steps that follow from this number,
/// and backs off by itself; measured from packets that the kernel hands over in batches, it would be nonsense.
pub(super) const CAPACITY: u32 = 100_000;

/// How fast packets arrive while they do: libudt's control begins with this once it has seen the first loss.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Pulse {
    last: Nanos,
    active: Nanos,
    packets: u64,
    speed: u32,
}

impl Pulse {
    pub(super) fn beat(&mut self, now: Nanos) {
        let gap = now.saturating_sub(self.last);
        self.last = now;
        // A pause is not slowness.
        if gap < 20 * MS {
            self.active += gap;
            self.packets += 1;
        }
    }

    pub(super) fn measure(&mut self) -> u32 {
        if self.packets >= 16 {
            let speed = self.packets * 1_000_000_000 / self.active.max(MS / 10);
            self.speed = u32::try_from(speed).unwrap_or(u32::MAX).min(CAPACITY);
            (self.active, self.packets) = (0, 0);
        }
        self.speed
    }
}
