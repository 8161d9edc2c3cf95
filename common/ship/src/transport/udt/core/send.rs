//! The sender's half: what is under way, what was lost, what arrived.

use std::collections::{BTreeSet, VecDeque};

use super::super::control::{Control, Nanos, Sample, Train};
use super::super::packet::{self, Ack, HEADER, IP_UDP, Range, Report};

const MS: Nanos = 1_000_000;
/// Bytes of a packet beside its payload, as the path counts them.
const OVERHEAD: usize = HEADER + IP_UDP;
/// Bytes that may wait for their turn when few are under way; else as many as are. With more, whoever writes would not notice for long how fast
/// the path is.
const AHEAD: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Out,
    Lost,
    Delivered,
}

/// One packet, from the first byte written into it until it is acknowledged.
#[derive(Debug)]
struct Slot {
    data: Vec<u8>,
    state: State,
    again: bool,
    sent: Nanos,
    /// What was known to have arrived when it left, and when (by the receiver's clock) that was.
    delivered: u64,
    delivered_at: Option<Nanos>,
    /// When the packet left whose answer was the newest at that time.
    flight: Nanos,
    /// Bytes that had left before it.
    put: u64,
    starved: bool,
}

/// What one acknowledgement has shown: how much had arrived when, and how much had left when.
#[derive(Debug, Clone, Copy)]
struct Point {
    delivered: u64,
    at: Nanos,
    put: u64,
    sent: Nanos,
}

/// Bytes that arrive over a time too short for a judgement of a rate, in packets.
const TRAIN: u64 = 16;
/// The shortest time over which arrivals are counted, and the share of a round trip that is enough.
const TRAIN_TIME: (Nanos, u64) = (10 * MS, 6);

/// Counts for the statistics.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) packets: u64,
    pub(crate) again: u64,
    pub(crate) bytes: u64,
}

/// The sender.
#[derive(Debug)]
pub(crate) struct Sender {
    payload: usize,
    capacity: usize,
    /// The sequence number of `slots[0]`, counted from 0 at the connection's beginning.
    first: u64,
    next: u64,
    slots: VecDeque<Slot>,
    lost: BTreeSet<u64>,
    pool: Vec<Vec<u8>>,
    out_packets: u64,
    out_bytes: u64,
    /// Exclusive end of what the receiver lets us send.
    limit: u64,
    delivered: u64,
    delivered_at: Option<Nanos>,
    flight: Nanos,
    starved_until: u64,
    round_end: u64,
    /// The acknowledgements of this flight, over the last part of a round trip.
    points: VecDeque<Point>,
    /// When its first packet left, and whether the next one will be the first of another.
    points_from: Nanos,
    paused: bool,
    lost_bytes: u64,
    /// When the newest packet left that is known to have arrived.
    newest: Nanos,
    reorder: Nanos,
    duplicates: u32,
    /// Above everything that a libudt receiver has implied to have.
    implied: u64,
    pub(crate) srtt: Nanos,
    pub(crate) rttvar: Nanos,
    pub(crate) latest_rtt: Option<Nanos>,
    pub(crate) reports: bool,
    pub(crate) counts: Counts,
    /// When something was last heard that moved us on, or the first packet left after a pause.
    progress: Nanos,
    probes: u32,
}

impl Sender {
    pub(crate) fn new(payload: usize, capacity: usize, window: u64) -> Self {
        Self {
            payload,
            capacity,
            first: 0,
            next: 0,
            slots: VecDeque::new(),
            lost: BTreeSet::new(),
            pool: Vec::new(),
            out_packets: 0,
            out_bytes: 0,
            limit: window,
            delivered: 0,
            delivered_at: None,
            flight: 0,
            starved_until: 0,
            round_end: 0,
            points: VecDeque::new(),
            points_from: 0,
            paused: true,
            lost_bytes: 0,
            newest: 0,
            reorder: 3 * MS,
            duplicates: 0,
            implied: 0,
            srtt: 0,
            rttvar: 0,
            latest_rtt: None,
            reports: false,
            counts: Counts::default(),
            progress: 0,
            probes: 0,
        }
    }

    /// The same stream with another's packets and room: what both ends have agreed on by now.
    pub(crate) fn widened(mut self, now: Nanos, to: &Self) -> Self {
        self.progress = now;
        (self.payload, self.capacity) = (to.payload, to.capacity);
        self.limit = self.limit.max(to.limit);
        self
    }

    /// Takes bytes as far as there is room.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> usize {
        let all = bytes.len();
        while !bytes.is_empty() {
            if let Some(last) = self.slots.back_mut()
                && last.state == State::Waiting
                && last.data.len() < self.payload
            {
                let n = bytes.len().min(self.payload - last.data.len());
                last.data.extend_from_slice(&bytes[..n]);
                bytes = &bytes[n..];
                continue;
            }
            if !self.has_room() {
                break;
            }
            let mut data = self.pool.pop().unwrap_or_else(|| Vec::with_capacity(self.payload));
            data.clear();
            self.slots.push_back(Slot {
                data,
                state: State::Waiting,
                again: false,
                sent: 0,
                delivered: 0,
                delivered_at: None,
                flight: 0,
                put: 0,
                starved: false,
            });
        }
        all - bytes.len()
    }

    pub(crate) fn has_room(&self) -> bool {
        let (waiting, ahead) = self.waiting();
        self.slots.len() < self.capacity && waiting < ahead
    }

    /// Whether so little waits that whoever writes should go on; not for every packet that left.
    pub(crate) fn is_low(&self) -> bool {
        let (waiting, ahead) = self.waiting();
        self.slots.len() < self.capacity && waiting <= ahead / 2
    }

    /// How many packets wait for their turn, and how many may.
    fn waiting(&self) -> (usize, usize) {
        let sent = usize::try_from(self.next - self.first).unwrap_or(usize::MAX);
        let ahead = (AHEAD / self.payload).max(usize::try_from(self.out_packets).unwrap_or(usize::MAX));
        (self.slots.len().saturating_sub(sent), ahead)
    }

    /// The number after the last packet that holds data.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    pub(crate) fn acked(&self) -> u64 {
        self.first
    }

    pub(crate) fn all_sent(&self) -> bool {
        self.next == self.end()
    }

    pub(crate) fn inflight(&self) -> u64 {
        self.out_bytes
    }

    fn slot(&mut self, seq: u64) -> Option<&mut Slot> {
        let at = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        self.slots.get_mut(at)
    }

    /// The next packet to send and the bytes it takes on the path, if one may be sent now.
    pub(crate) fn peek(&self, window: u64) -> Option<(u64, usize)> {
        let seq = match self.lost.first() {
            Some(seq) => *seq,
            None if self.next < self.end() && self.next < self.limit => self.next,
            None => return None,
        };
        let at = usize::try_from(seq - self.first).ok()?;
        let bytes = self.slots.get(at)?.data.len() + OVERHEAD;
        (self.out_bytes + bytes as u64 <= window.max(bytes as u64)).then_some((seq, bytes))
    }

    /// Takes note that a packet leaves and gives its bytes.
    pub(crate) fn send(&mut self, now: Nanos, seq: u64) -> &[u8] {
        if self.out_packets == 0 {
            // After a pause the flight begins anew.
            self.flight = now;
            self.progress = now;
        }
        if std::mem::take(&mut self.paused) {
            self.points.clear();
            self.points_from = now;
        }
        let put = self.counts.bytes;
        let (delivered, delivered_at, flight) = (self.delivered, self.delivered_at, self.flight);
        let starved = self.delivered < self.starved_until;
        self.lost.remove(&seq);
        let fresh = seq == self.next;
        self.next = self.next.max(seq + 1);
        let Some(at) = seq.checked_sub(self.first).and_then(|a| usize::try_from(a).ok()) else { return &[] };
        let Some(slot) = self.slots.get_mut(at) else { return &[] };
        slot.again = !fresh;
        slot.state = State::Out;
        slot.sent = now;
        slot.delivered = delivered;
        slot.delivered_at = delivered_at;
        slot.flight = flight;
        slot.put = put;
        slot.starved = starved;
        let bytes = (slot.data.len() + OVERHEAD) as u64;
        self.out_packets += 1;
        self.out_bytes += bytes;
        self.counts.packets += 1;
        self.counts.again += u64::from(!fresh);
        self.counts.bytes += bytes;
        &slot.data
    }

    /// There was room to send, but nothing to send.
    pub(crate) fn note_starved(&mut self) {
        self.paused = true;
        if self.next > 0 {
            self.starved_until = self.delivered + self.out_bytes.max(1);
        }
    }

    fn mark_lost(&mut self, seq: u64) {
        let Some(slot) = self.slot(seq) else { return };
        if slot.state != State::Out {
            return;
        }
        slot.state = State::Lost;
        let bytes = (slot.data.len() + OVERHEAD) as u64;
        self.out_packets -= 1;
        self.out_bytes -= bytes;
        self.lost_bytes += bytes;
        self.lost.insert(seq);
    }

    /// Notes an arrival; the slot says when it was sent.
    fn arrived(&mut self, seq: u64, newest: &mut Option<u64>) -> u64 {
        let Some(slot) = self.slot(seq) else { return 0 };
        let bytes = (slot.data.len() + OVERHEAD) as u64;
        let before = std::mem::replace(&mut slot.state, State::Delivered);
        let sent = slot.sent;
        match before {
            State::Out => {
                self.out_packets -= 1;
                self.out_bytes -= bytes;
            }
            State::Lost => {
                self.lost.remove(&seq);
            }
            State::Waiting | State::Delivered => return 0,
        }
        let is_newer = newest.and_then(|n| self.slot(n).map(|s| s.sent)).is_none_or(|n| sent >= n);
        if is_newer {
            *newest = Some(seq);
        }
        bytes
    }

    /// Takes in an acknowledgement. `clock` is the acknowledgement's own timestamp, continued past its wrap.
    ///
    /// `unwrap` turns a number from the wire into ours. `None` when the peer acknowledges what was never sent.
    pub(crate) fn on_ack(
        &mut self,
        now: Nanos,
        ack: &Ack,
        clock: u64,
        echo_age: Option<Nanos>,
        unwrap: impl Fn(u32) -> Option<u64>,
    ) -> Option<Sample> {
        let upto = unwrap(ack.seq)?;
        if upto > self.next {
            return None;
        }
        let mut sample = Sample { now, ..Sample::default() };
        let mut newest = None;
        let mut bytes = 0;
        for seq in self.first..upto {
            bytes += self.arrived(seq, &mut newest);
        }
        if let Some(report) = &ack.report {
            self.reports = true;
            bytes += self.on_holes(report, upto, &mut newest, &unwrap);
        }
        if upto >= self.first
            && let Some([.., room]) = ack.detail
        {
            self.limit = self.limit.max(upto + u64::from(room.min(1 << 24)));
        }
        // The receiver's own count is exact (but it cannot have got more than was sent); a libudt receiver has none.
        let (total, at) = match &ack.report {
            Some(r) => (
                r.received.clamp(self.delivered, self.delivered.max(self.counts.bytes)),
                clock.saturating_sub(u64::from(r.delay)).saturating_mul(1000),
            ),
            None => (self.delivered + bytes, now),
        };
        sample.delivered = total - self.delivered;
        let advanced = total > self.delivered || bytes > 0;
        if advanced {
            self.delivered = total;
            self.delivered_at = Some(at);
        }
        if let Some(seq) = newest {
            let (delivered, delivered_at) = (self.delivered, self.delivered_at);
            let limit = self.round_end;
            if let Some(slot) = self.slot(seq) {
                let sent = slot.sent;
                let arrivals = match (slot.delivered_at, delivered_at) {
                    (Some(from), Some(to)) => to.saturating_sub(from),
                    _ => now.saturating_sub(slot.sent),
                };
                let interval = arrivals.max(sent.saturating_sub(slot.flight));
                if interval > 200_000 {
                    let grown = delivered.saturating_sub(slot.delivered);
                    sample.rate = Some(grown as f64 * 1e9 / interval as f64);
                }
                sample.starved = slot.starved;
                sample.round = slot.delivered >= limit;
                let untouched = !slot.again;
                let put = slot.put;
                if let (true, Some(at)) = (advanced, delivered_at) {
                    sample.train = self.train(Point { delivered, at, put, sent });
                }
                self.flight = sent;
                self.newest = self.newest.max(sent);
                if echo_age.is_none() && untouched {
                    sample.rtt = Some(now.saturating_sub(sent));
                }
            }
            if sample.round {
                self.round_end = self.delivered.max(1);
            }
        }
        if let Some(age) = echo_age {
            // The packet that this answers may have been sent twice: its timestamp tells which time.
            self.newest = self.newest.max(now.saturating_sub(age));
            if newest.is_some() {
                let delay = ack.report.as_ref().map_or(0, |r| u64::from(r.delay) * 1000);
                sample.rtt = Some(age.saturating_sub(delay));
            }
        }
        if let Some(rtt) = sample.rtt {
            self.on_rtt(rtt);
        }
        while self.first < upto {
            if let Some(slot) = self.slots.pop_front()
                && self.pool.len() < 4096
            {
                self.pool.push(slot.data);
            }
            self.first += 1;
        }
        if let Some(report) = &ack.report {
            self.find_lost(report, &unwrap);
            let again = report.duplicates.wrapping_sub(self.duplicates);
            if again > 0 && again < 1 << 16 {
                // Sent again what was only late: wait longer the next time.
                self.reorder = (self.reorder + self.reorder / 4).min(self.srtt / 2).max(MS);
            }
            self.duplicates = report.duplicates;
        }
        sample.lost = std::mem::take(&mut self.lost_bytes);
        sample.inflight = self.out_bytes;
        if advanced {
            self.progress = now;
            self.probes = 0;
        }
        Some(sample)
    }

    /// How fast packets arrive, judged by the last part of a round trip: of the first flight's packets, too, whose own round trip
    /// tells nothing but its length.
    fn train(&mut self, here: Point) -> Option<Train> {
        if here.sent < self.points_from {
            return None;
        }
        let long = TRAIN_TIME.0.max(self.srtt / TRAIN_TIME.1);
        let span = |p: &Point| {
            let (arrived, left) = (here.at.saturating_sub(p.at), here.sent.saturating_sub(p.sent));
            (arrived.max(left) >= long && here.delivered >= p.delivered + TRAIN * (self.payload + OVERHEAD) as u64)
                .then_some((*p, arrived, left))
        };
        let from = self.points.iter().rev().find_map(span);
        if let Some((from, ..)) = from {
            while self.points.front().is_some_and(|p| p.delivered < from.delivered) {
                self.points.pop_front();
            }
        }
        // Late packets answer out of turn and would make a train run backwards.
        if self.points.back().is_none_or(|p| here.sent >= p.sent && here.at > p.at) {
            self.points.push_back(here);
        }
        let (from, arrived, left) = from?;
        let grown = (here.delivered - from.delivered) as f64;
        let put = here.put.saturating_sub(from.put) as f64;
        Some(Train {
            rate: grown * 1e9 / arrived.max(left) as f64,
            // Packets that were put together leave and arrive in no time.
            followed: (grown / arrived.max(MS) as f64) / (put / left.max(MS) as f64).max(1e-9),
        })
    }

    pub(crate) fn on_rtt(&mut self, rtt: Nanos) {
        self.latest_rtt = Some(rtt);
        if self.srtt == 0 {
            (self.srtt, self.rttvar) = (rtt, rtt / 2);
            self.reorder = (rtt / 16).clamp(2 * MS + MS / 2, 20 * MS).min(rtt.max(MS));
        } else {
            self.rttvar = (self.rttvar * 3 + self.srtt.abs_diff(rtt)) / 4;
            self.srtt = (self.srtt * 7 + rtt) / 8;
        }
    }

    /// Marks as arrived what the report does not call missing.
    fn on_holes(
        &mut self,
        report: &Report,
        ack: u64,
        newest: &mut Option<u64>,
        unwrap: &impl Fn(u32) -> Option<u64>,
    ) -> u64 {
        let mut bytes = 0;
        let mut at = ack;
        let Some(end) = unwrap(report.upto) else { return 0 };
        let end = end.min(self.next);
        for (from, to) in &report.holes {
            let (Some(from), Some(to)) = (unwrap(*from), unwrap(*to)) else { return bytes };
            for seq in at.max(self.first)..from.min(end) {
                bytes += self.arrived(seq, newest);
            }
            at = at.max(to.saturating_add(1));
        }
        for seq in at.max(self.first)..end {
            bytes += self.arrived(seq, newest);
        }
        bytes
    }

    /// What is missing and left well before something that has arrived is lost.
    fn find_lost(&mut self, report: &Report, unwrap: &impl Fn(u32) -> Option<u64>) {
        // Rising, so that a list that repeats itself costs no more than one pass.
        let mut at = self.first;
        for (from, to) in &report.holes {
            let (Some(from), Some(to)) = (unwrap(*from), unwrap(*to)) else { return };
            let from = from.max(at);
            at = at.max(to.saturating_add(1));
            for seq in from..to.saturating_add(1).min(self.next) {
                let (newest, reorder) = (self.newest, self.reorder);
                if self.slot(seq).is_some_and(|s| s.state == State::Out && s.sent + reorder <= newest) {
                    self.mark_lost(seq);
                }
            }
        }
    }

    /// Takes in libudt's list of losses.
    pub(crate) fn on_nak(&mut self, now: Nanos, ranges: &[Range], unwrap: impl Fn(u32) -> Option<u64>) -> Sample {
        let mut sample = Sample { now, ..Sample::default() };
        let patience = self.srtt + self.rttvar;
        let mut at = self.first;
        for (from, to) in ranges {
            let (Some(from), Some(to)) = (unwrap(*from), unwrap(*to)) else { continue };
            let to = to.min(self.next.saturating_sub(1));
            if from > to {
                continue;
            }
            if !self.reports {
                // What lies between two reports has arrived, but only the acknowledgement lets go of it.
                let mut newest = None;
                for seq in self.implied.max(self.first)..from {
                    sample.delivered += self.arrived(seq, &mut newest);
                }
                self.implied = self.implied.max(to + 1);
            }
            let from = from.max(at);
            at = at.max(to + 1);
            for seq in from..to + 1 {
                if self.slot(seq).is_some_and(|s| s.state == State::Out && (!s.again || s.sent + patience <= now)) {
                    self.mark_lost(seq);
                }
            }
        }
        self.delivered += sample.delivered;
        sample.lost = std::mem::take(&mut self.lost_bytes);
        sample.inflight = self.out_bytes;
        sample
    }

    /// When to stop waiting for an answer.
    pub(crate) fn probe_due(&self) -> Option<Nanos> {
        if self.out_packets == 0 && !self.stuck() {
            return None;
        }
        let rtt = if self.srtt == 0 { 250 * MS } else { self.srtt };
        let wait = rtt + (4 * self.rttvar).max(rtt / 4) + 25 * MS;
        let wait = (wait << self.probes.min(4)).min(1000 * MS.max(rtt / 500));
        Some(self.progress + wait)
    }

    /// Everything is believed to have arrived, yet the acknowledgement does not say so.
    fn stuck(&self) -> bool {
        self.first < self.next && self.lost.is_empty()
    }

    /// Nothing was answered for too long. True when that has happened repeatedly.
    pub(crate) fn probe(&mut self, now: Nanos) -> bool {
        self.probes += 1;
        self.progress = now;
        // The acknowledgement stands at the first packet, so that is missing, whatever else was concluded.
        if let Some(slot) = self.slot(self.first)
            && slot.state == State::Delivered
        {
            slot.state = State::Lost;
            self.lost.insert(self.first);
        }
        if self.probes == 1 {
            self.mark_lost(self.first);
            let last = (self.first..self.next).rev().find(|s| {
                usize::try_from(*s - self.first)
                    .ok()
                    .and_then(|at| self.slots.get(at))
                    .is_some_and(|s| s.state == State::Out)
            });
            if let Some(last) = last {
                self.mark_lost(last);
            }
            return false;
        }
        for seq in self.first..self.next {
            if !self.reports && self.slot(seq).is_some_and(|s| s.state == State::Delivered) {
                // Concluded, not told: no longer believed.
                if let Some(s) = self.slot(seq) {
                    s.state = State::Lost;
                }
                self.lost.insert(seq);
            }
            self.mark_lost(seq);
        }
        true
    }

    /// The path is dead or alive: feeds a control that hears nothing else of it.
    pub(crate) fn tell(&self, control: &mut Control) {
        if self.probes >= 2 {
            control.on_silence();
        }
    }

    /// The largest payload of a packet.
    pub(crate) fn payload(&self) -> usize {
        self.payload
    }

    pub(crate) fn wire(&self, seq: u64, isn: u32) -> u32 {
        // Only the low 31 bits travel: the cut is meant.
        isn.wrapping_add((seq & u64::from(packet::SEQ_MASK)) as u32) & packet::SEQ_MASK
    }
}
