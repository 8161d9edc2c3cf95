//! The way between the frontend and the cloud, and what each transport makes of it.

use serde::{Deserialize, Serialize};

use crate::units::{Bytes, Rate, Span};

/// Bytes of a TCP segment on an Ethernet path with timestamps.
const SEGMENT: f64 = 1448.0;
/// What headers leave of a link's rate: 1448 of 1538 bytes on the wire for TCP, and about as much for UDT.
const PAYLOAD: f64 = 0.95;
/// The share of a link that our UDT holds once it has found its rate: 95 to 97%, whatever is lost (`docs/transport.md`).
const UDT_SHARE: f64 = 0.96;
/// Round trips that our UDT loses before it runs at full rate: three of greeting and TLS, some six of doubling, of which
/// half is lost, and two in which the two ends agree on what is missing (`docs/transport.md`, `docs/shipment.md`).
const UDT_START: f64 = 8.0;
/// Round trips that a TCP connection with TLS needs before its first byte.
const TCP_START: f64 = 3.0;

/// The way between the frontend and the cloud.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// What it carries towards the cloud.
    pub rate: Rate,
    /// How long a packet and its answer take.
    pub rtt: Span,
    /// The share of packets that are lost at random, 0 to 1.
    pub loss: f64,
}

impl Link {
    /// The link with what cannot be put right: a share beyond what any transport survives.
    #[must_use]
    pub fn sane(self) -> Self {
        let loss = if self.loss.is_finite() { self.loss.clamp(0.0, 0.5) } else { 0.0 };
        Self { loss, ..self }
    }

    /// What our UDT carries.
    #[must_use]
    pub fn udt(&self) -> Rate {
        share(self.rate, UDT_SHARE * (1.0 - self.loss))
    }

    /// What `flows` TCP connections carry together: the link, or less if losses hold each of them down.
    ///
    /// A connection whose packets get lost at random with probability p carries one window a round trip, and its mean
    /// window is the larger of 1.22 / √p segments (Mathis et al. 1997) and, with CUBIC, 1.054 (RTT / p)^(3/4) (RFC 9438, 5.1).
    #[must_use]
    pub fn tcp(&self, flows: u32) -> Rate {
        let whole = self.rate.as_f64() * PAYLOAD;
        if self.loss <= 0.0 || self.rtt == Span::ZERO {
            return share(self.rate, PAYLOAD);
        }
        let rtt = self.rtt.seconds();
        let window = (1.22 / self.loss.sqrt()).max(1.054 * (rtt / self.loss).powf(0.75));
        let one = window * SEGMENT * 8.0 / rtt;
        Rate::from_bits(crate::units::nearest((one * f64::from(flows.max(1))).min(whole)))
    }

    /// Seconds that UDT needs before it runs at full rate.
    #[must_use]
    pub fn udt_start(&self) -> f64 {
        UDT_START * self.rtt.seconds()
    }

    /// Seconds that a TCP connection with TLS needs before its first byte.
    #[must_use]
    pub fn tcp_start(&self) -> f64 {
        TCP_START * self.rtt.seconds()
    }

    /// Seconds of so many round trips.
    #[must_use]
    pub fn trips(&self, trips: f64) -> f64 {
        trips * self.rtt.seconds()
    }

    /// What each of `count` machines gets that fetch at the same time, each over `flows` connections.
    #[must_use]
    pub fn each(&self, count: u64, flows: u32) -> f64 {
        let alone = self.tcp(flows).as_f64();
        alone.min(self.rate.as_f64() * PAYLOAD / crate::units::lossy(count.max(1)))
    }
}

fn share(rate: Rate, share: f64) -> Rate {
    Rate::from_bits(crate::units::nearest(rate.as_f64() * share))
}

/// Seconds that `bytes` take at `bits` a second.
pub(crate) fn seconds_at(bytes: Bytes, bits: f64) -> f64 {
    bytes.as_f64() * 8.0 / bits.max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(megabits: u64, milliseconds: u64, loss: f64) -> Link {
        Link { rate: Rate::from_megabits(megabits), rtt: Span::from_microseconds(milliseconds * 1000), loss }
    }

    /// Within a factor of two of what `docs/transport.md` measured, where loss decides; within 3 points where the link does.
    #[test]
    fn transports_are_as_they_were_measured() {
        let percent = |rate: Rate, of: &Link| 100.0 * rate.as_f64() / of.rate.as_f64();
        let clean = link(100, 180, 0.0);
        assert!(
            (percent(clean.tcp(1), &clean) - 95.0).abs() < 3.0 && (percent(clean.udt(), &clean) - 95.0).abs() < 3.0
        );
        let lossy = link(200, 180, 0.001);
        assert!((0.5..2.0).contains(&percent(lossy.tcp(1), &lossy)), "{}", percent(lossy.tcp(1), &lossy));
        assert!((24.0..=96.0).contains(&percent(lossy.tcp(16), &lossy)), "{}", percent(lossy.tcp(16), &lossy));
        assert!((percent(lossy.udt(), &lossy) - 96.0).abs() < 3.0);
        let worse = link(200, 180, 0.01);
        assert!((0.2..1.0).contains(&percent(worse.tcp(1), &worse)), "{}", percent(worse.tcp(1), &worse));
        let fast = link(500, 40, 0.0001);
        assert!((5.0..20.0).contains(&percent(fast.tcp(1), &fast)), "{}", percent(fast.tcp(1), &fast));
    }

    #[test]
    fn many_share_the_link() {
        let link = link(100, 10, 0.0);
        assert!((link.each(1, 3) / link.each(16, 3) - 16.0).abs() < 1e-6);
        assert_eq!(Link { loss: f64::NAN, ..link }.sane().loss, 0.0);
    }
}
