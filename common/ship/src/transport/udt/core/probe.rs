//! Looking at the path before the stream begins: packets of filling leave together behind the greeting, and the other end tells
//! how fast they came. That takes the round trip in which TLS speaks, so the stream begins near the rate that the path gives.

use super::super::control::Nanos;
use super::super::packet::{self, IP_UDP};
use super::{Core, MS, State, Word};

/// Packets of one look: long enough that a receiver that wakes a little late still sees their rate, and a fifth of a second of a
/// megabyte a second.
const PACKETS: u16 = 128;
/// Bytes a second at which they leave: what the path gives beyond that is found later.
const RATE: u64 = 64_000_000;
/// How many leave at once.
const TOGETHER: u16 = 16;
/// It leaves behind the first words of the stream, which it must not hold up, and so long after them that the other end has made
/// its socket; if none come, so long after the greeting.
const AFTER: Nanos = 3 * MS;
const LATEST: Nanos = 20 * MS;
/// On shorter paths the start costs nothing worth a look.
const SHORTEST: Nanos = 5 * MS;
/// The rest is lost when so long nothing came.
const OVER: Nanos = 25 * MS;
/// Fewer packets say nothing.
const LEAST: u64 = 8;

/// The sender's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    next: u16,
    due: Nanos,
}

/// The receiver's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heard {
    /// When the first ones came; they are not counted, as nobody knows since when they had waited to be read.
    first: Nanos,
    last: Nanos,
    packets: u64,
    bytes: u64,
    told: bool,
}

impl Core {
    /// Begins to look, if that is worth it.
    pub(super) fn look(&mut self, now: Nanos) {
        if self.rtt >= SHORTEST && self.settings.rate.is_none() {
            self.look = Some(Look { next: 0, due: now + LATEST });
        }
    }

    /// The first words of the stream have left.
    pub(super) fn look_soon(&mut self, now: Nanos) {
        if let Some(look) = self.look.as_mut().filter(|l| l.next == 0) {
            look.due = look.due.min(now + AFTER);
        }
    }

    /// When the next filling is due.
    pub(super) fn look_due(&self) -> Option<Nanos> {
        let told = self.heard_probes.filter(|h| !h.told).map(|h| h.last + OVER);
        let look = self.look.filter(|_| self.is_open()).map(|l| l.due);
        [told, look].into_iter().flatten().min()
    }

    /// Whether filling is arriving, so that every moment counts.
    pub fn is_looked_at(&self) -> bool {
        self.heard_probes.is_some_and(|h| !h.told)
    }

    /// Appends the filling that is due.
    pub(super) fn put_probes(&mut self, now: Nanos, out: &mut Vec<u8>) -> Option<usize> {
        let mut look = self.look.filter(|l| l.due <= now)?;
        let dest = if self.state == State::Early { self.own } else { self.peer };
        let segment = self.settings.mss - IP_UDP;
        let stamp = self.stamp(now);
        for _ in 0..TOGETHER.min(PACKETS - look.next) {
            let begin = out.len();
            packet::put_control(out, &Word::Probe(look.next, PACKETS), stamp, dest);
            out.resize(begin + segment, 0);
            look.next += 1;
        }
        look.due += u64::from(TOGETHER) * self.settings.mss as u64 * 1_000_000_000 / RATE;
        self.look = (look.next < PACKETS).then_some(look);
        Some(segment)
    }

    pub(super) fn on_probe(&mut self, now: Nanos, at: u16, of: u16, bytes: usize) {
        // Only a server is looked at, and once.
        if self.alias == self.own {
            return;
        }
        let h = self.heard_probes.get_or_insert(Heard { first: now, last: now, packets: 0, bytes: 0, told: false });
        if h.told {
            return;
        }
        if now > h.first {
            h.last = now;
            h.packets += 1;
            h.bytes += (bytes + IP_UDP) as u64;
        }
        if at.saturating_add(1) >= of {
            self.tell_probes();
        }
    }

    pub(super) fn tell_probes(&mut self) {
        let Some(h) = self.heard_probes.as_mut() else { return };
        if !std::mem::replace(&mut h.told, true) && h.packets >= LEAST {
            let rate = h.bytes.saturating_mul(1_000_000_000) / (h.last - h.first).max(1) / 1024;
            let word = Word::Heard(u32::try_from(rate).unwrap_or(u32::MAX));
            // Twice: it is not repeated, and nothing hangs on it.
            self.words.push((word.clone(), self.peer));
            self.words.push((word, self.peer));
        }
    }
}
