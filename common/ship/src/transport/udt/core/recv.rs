//! The receiver's half: puts packets into order and knows what is missing.

use std::collections::{BTreeMap, VecDeque};

use super::super::control::Nanos;
use super::super::packet::{HEADER, IP_UDP};

/// Packets taken beyond the room that was announced: libudt goes on a little.
const SLACK: u64 = 64;
/// More holes than this are not kept: a packet that would make another is dropped and comes again.
const MAX_HOLES: usize = 8192;

#[derive(Debug, Clone, Copy)]
struct Hole {
    end: u64,
    since: Nanos,
    told: Option<Nanos>,
}

/// The receiver.
#[derive(Debug)]
pub(crate) struct Receiver {
    capacity: u64,
    /// The number of `slots[0]`: the packet that is being read.
    reading: u64,
    offset: usize,
    next: u64,
    highest: u64,
    slots: VecDeque<Option<Vec<u8>>>,
    holes: BTreeMap<u64, Hole>,
    pool: Vec<Vec<u8>>,
    /// Bytes of IP packets, each counted once.
    pub(crate) received: u64,
    pub(crate) duplicates: u32,
    pub(crate) wire: u64,
    /// Timestamp and arrival of the last packet.
    pub(crate) last: Option<(u32, Nanos)>,
}

impl Receiver {
    pub(crate) fn new(capacity: u64) -> Self {
        Self {
            capacity,
            reading: 0,
            offset: 0,
            next: 0,
            highest: 0,
            slots: VecDeque::new(),
            holes: BTreeMap::new(),
            pool: Vec::new(),
            received: 0,
            duplicates: 0,
            wire: 0,
            last: None,
        }
    }

    /// Takes a data packet in; true when the reader has more to read.
    pub(crate) fn take(&mut self, now: Nanos, seq: u64, timestamp: u32, payload: &[u8]) -> bool {
        let bytes = (payload.len() + HEADER + IP_UDP) as u64;
        self.wire += bytes;
        if seq >= self.reading + self.capacity + SLACK {
            return false;
        }
        self.last = Some((timestamp, now));
        let Some(at) = seq.checked_sub(self.reading).and_then(|a| usize::try_from(a).ok()) else {
            self.duplicates = self.duplicates.wrapping_add(1);
            return false;
        };
        if seq < self.next || self.slots.get(at).is_some_and(Option::is_some) {
            self.duplicates = self.duplicates.wrapping_add(1);
            return false;
        }
        if self.holes.len() >= MAX_HOLES && seq != self.highest && seq != self.next {
            return false;
        }
        self.received += bytes;
        if at >= self.slots.len() {
            self.slots.resize_with(at + 1, || None);
        }
        let mut data = self.pool.pop().unwrap_or_default();
        data.clear();
        data.extend_from_slice(payload);
        self.slots[at] = Some(data);
        if seq >= self.highest {
            if seq > self.highest {
                self.holes.insert(self.highest, Hole { end: seq, since: now, told: None });
            }
            self.highest = seq + 1;
        } else if let Some((&from, &hole)) = self.holes.range(..=seq).next_back() {
            self.holes.remove(&from);
            if from < seq {
                self.holes.insert(from, Hole { end: seq, ..hole });
            }
            if seq + 1 < hole.end {
                self.holes.insert(seq + 1, hole);
            }
        }
        let before = self.next;
        self.next = self.holes.first_key_value().map_or(self.highest, |(from, _)| *from);
        self.next > before
    }

    /// Everything before this has arrived.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    pub(crate) fn highest(&self) -> u64 {
        self.highest
    }

    /// Packets that there is room for, counted from [`Self::next`].
    pub(crate) fn room(&self) -> u64 {
        (self.reading + self.capacity).saturating_sub(self.next)
    }

    pub(crate) fn readable(&self) -> bool {
        self.reading < self.next
    }

    /// Gives what is in order.
    pub(crate) fn read(&mut self, out: &mut [u8]) -> usize {
        let mut done = 0;
        while done < out.len() && self.reading < self.next {
            let Some(Some(data)) = self.slots.front() else { break };
            let rest = &data[self.offset.min(data.len())..];
            let n = rest.len().min(out.len() - done);
            out[done..done + n].copy_from_slice(&rest[..n]);
            done += n;
            self.offset += n;
            if n == rest.len() {
                if let Some(Some(data)) = self.slots.pop_front()
                    && self.pool.len() < 4096
                {
                    self.pool.push(data);
                }
                self.reading += 1;
                self.offset = 0;
            }
        }
        done
    }

    /// The missing ranges in order, up to `reach` packets from [`Self::next`], and the end of what they describe.
    pub(crate) fn missing(&self, reach: u64) -> (Vec<(u64, u64)>, u64) {
        let end = self.highest.min(self.next + reach);
        let holes = self.holes.range(..end).map(|(from, hole)| (*from, hole.end.min(end) - 1)).collect();
        (holes, end)
    }

    pub(crate) fn has_holes(&self) -> bool {
        !self.holes.is_empty()
    }

    /// What a libudt sender must be told to send again: new holes that have stayed for `patience`, old ones told `again` ago.
    pub(crate) fn tell(&mut self, now: Nanos, patience: Nanos, again: Nanos, most: usize) -> Vec<(u64, u64)> {
        let mut out = Vec::new();
        for (from, hole) in &mut self.holes {
            if out.len() == most {
                break;
            }
            let due = hole.told.map_or(hole.since + patience, |t| t + again);
            if due <= now {
                hole.told = Some(now);
                out.push((*from, hole.end - 1));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(r: &mut Receiver) -> Vec<u8> {
        let mut out = [0; 64];
        let n = r.read(&mut out);
        out[..n].to_vec()
    }

    #[test]
    fn packets_are_put_into_order() {
        let mut r = Receiver::new(10);
        assert!(r.take(0, 0, 0, b"a"));
        assert!(!r.take(1, 2, 0, b"c"));
        assert!(!r.take(1, 5, 0, b"f"));
        assert_eq!(r.missing(90), (vec![(1, 1), (3, 4)], 6));
        assert_eq!(r.missing(3), (vec![(1, 1), (3, 3)], 4));
        assert_eq!(text(&mut r), b"a");
        assert!(!r.take(2, 4, 0, b"e"));
        assert_eq!(r.missing(90).0, [(1, 1), (3, 3)]);
        assert!(r.take(2, 1, 0, b"b"));
        assert!(r.take(2, 3, 0, b"d"));
        assert!(!r.take(2, 3, 0, b"d"));
        assert_eq!((text(&mut r), r.duplicates), (b"bcdef".to_vec(), 1));
        assert_eq!((r.room(), r.has_holes()), (10, false));
    }

    #[test]
    fn what_there_is_no_room_for_is_dropped() {
        let mut r = Receiver::new(2);
        assert!(!r.take(0, 2 + SLACK, 0, b"x"));
        assert_eq!(r.highest(), 0);
        assert!(r.take(0, 0, 0, b"a") && r.take(0, 1, 0, b"b"));
        assert_eq!(r.room(), 0);
        text(&mut r);
        assert_eq!(r.room(), 2);
    }

    #[test]
    fn losses_are_told_late_and_again() {
        let mut r = Receiver::new(10);
        r.take(0, 3, 0, b"d");
        assert!(r.tell(5, 10, 100, 9).is_empty());
        assert_eq!(r.tell(10, 10, 100, 9), [(0, 2)]);
        assert!(r.tell(50, 10, 100, 9).is_empty());
        assert_eq!(r.tell(110, 10, 100, 9), [(0, 2)]);
    }
}
