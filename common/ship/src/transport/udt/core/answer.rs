//! What arrives, and what is answered.

use super::super::control::Nanos;
use super::super::packet::{self, Ack, Packet, Report, SEQ_MASK};
use super::types::CAPACITY;
use super::{BEAT, Core, Failure, MS, State, Word};

/// Answers that may wait to be sent; what comes on top of them is not worth an answer.
const WAITING: usize = 256;

impl Core {
    /// Takes one datagram in. What is not for us or makes no sense changes nothing.
    pub fn on_datagram(&mut self, now: Nanos, bytes: &[u8]) {
        let Ok(packet) = packet::parse(bytes) else { return };
        if self.is_closed() {
            return;
        }
        match packet {
            Packet::Data { seq, timestamp, dest, payload } => {
                let for_us = dest == self.own || dest == self.alias;
                if for_us && self.state == State::Open && payload.len() <= self.send.payload() {
                    self.heard = now;
                    self.on_data(now, seq, timestamp, payload);
                }
            }
            Packet::Control { dest, control: Word::Handshake(h), .. } => self.on_handshake(now, dest, &h),
            Packet::Control { dest, control: Word::Probe(at, of), .. } => {
                if (dest == self.own || dest == self.alias) && self.state == State::Open {
                    self.on_probe(now, at, of, bytes.len());
                }
            }
            Packet::Control { dest, timestamp, control } => {
                if dest == self.own && self.state == State::Open {
                    self.heard = now;
                    self.on_control(now, timestamp, control);
                }
            }
        }
    }

    fn on_data(&mut self, now: Nanos, seq: u32, timestamp: u32, payload: &[u8]) {
        let Some(seq) = Self::unwrap(self.isn, self.recv.highest(), seq) else { return };
        if payload.is_empty() || self.peer_fin.is_some_and(|f| seq >= f) {
            return;
        }
        self.recv.take(now, seq, timestamp, payload);
        self.pulse.beat(now);
        self.unacked_packets += 1;
        let light = self.unacked_packets >= 64 && now >= self.acked_at + MS;
        let due = if light { now } else { self.acked_at.max(now.saturating_sub(self.ack_beat)) + self.ack_beat };
        self.ack_due = Some(self.ack_due.map_or(due, |d| d.min(due)));
        if !self.ours && self.recv.has_holes() && self.nak_due.is_none() {
            self.nak_due = Some(now + 2 * MS);
        }
    }

    fn on_control(&mut self, now: Nanos, timestamp: u32, control: Word) {
        match control {
            Word::Ack(ack) => self.on_ack(now, timestamp, &ack),
            Word::Nak(ranges) => {
                let (isn, near) = (self.isn, self.send.acked());
                let sample = self.send.on_nak(now, &ranges, |w| Self::unwrap(isn, near, w));
                if sample.lost > 0 || sample.delivered > 0 {
                    self.control.on_sample(&sample);
                }
            }
            Word::Ack2(number, ours) => {
                self.ours |= ours;
                let (known, at) = self.acks[number as usize % self.acks.len()];
                if known == number && at != 0 && now > at {
                    let rtt = now - at;
                    self.rttvar = (self.rttvar * 3 + self.rtt.abs_diff(rtt)) / 4;
                    self.rtt = (self.rtt * 7 + rtt) / 8;
                    self.ack_beat = (self.rtt / 8).clamp(MS, BEAT);
                }
            }
            Word::Shutdown(flag) => self.on_shutdown(flag),
            Word::Fin(end) => {
                self.ours = true;
                if let Some(end) = Self::unwrap(self.isn, self.recv.highest(), end)
                    && end >= self.recv.highest()
                    && self.peer_fin.is_none_or(|f| f == end)
                {
                    self.peer_fin = Some(end);
                    self.peer_fin_told = false;
                }
            }
            Word::FinAck(end) => {
                self.ours = true;
                if let Some(fin) = self.fin
                    && self.send.wire(fin, self.isn) == end
                {
                    self.fin_done = true;
                }
            }
            Word::Heard(rate) => self.control.hint(f64::from(rate) * 1024.0),
            Word::KeepAlive | Word::Ignored | Word::Handshake(_) | Word::Probe(..) => {}
        }
    }

    fn on_shutdown(&mut self, flag: Option<u32>) {
        if flag == Some(1) && self.fin.is_some() {
            self.fin_done = true;
        }
        // libudt knows no end of stream: its farewell comes when all it sent was acknowledged.
        let complete = match self.peer_fin {
            Some(end) => self.recv.next() >= end,
            None => flag.is_none() && !self.recv.has_holes(),
        };
        let ours_done = self.fin_done || (self.fin.is_none() && self.written_total == 0) || flag.is_none();
        self.state = State::Closed(if complete && ours_done { None } else { Some(Failure::Reset) });
    }

    fn on_ack(&mut self, now: Nanos, timestamp: u32, ack: &Ack) {
        if ack.detail.is_some()
            && self.words.len() < WAITING
            && (now >= self.ack2_at + BEAT / 2 || ack.report.is_none())
        {
            self.ack2_at = now;
            self.words.push((Word::Ack2(ack.number, true), self.peer));
        }
        self.ours |= ack.report.is_some();
        // The peer's clock, continued past the wrap of its 32 bits.
        let (last, total) = self.peer_clock;
        let step = timestamp.wrapping_sub(last);
        if step < 1 << 31 {
            self.peer_clock = (timestamp, total + u64::from(step));
        }
        let clock =
            if step < 1 << 31 { self.peer_clock.1 } else { total.saturating_sub(u64::from(step.wrapping_neg())) };
        let stamp = self.stamp(now);
        let age = ack.report.as_ref().and_then(|r| {
            let age = stamp.wrapping_sub(r.echo);
            (age < 1 << 30 && r.delay <= age).then_some(u64::from(age) * 1000)
        });
        let (isn, near) = (self.isn, self.send.acked());
        match self.send.on_ack(now, ack, clock, age, |w| Self::unwrap(isn, near, w)) {
            Some(sample) => self.control.on_sample(&sample),
            None => self.state = State::Closed(Some(Failure::Protocol)),
        }
    }

    pub(super) fn acknowledge(&mut self, now: Nanos) {
        self.ack_due = None;
        self.acked_at = now;
        self.unacked_packets = 0;
        let Some((echo, at)) = self.recv.last else { return };
        self.ack_number = self.ack_number.wrapping_add(1) & SEQ_MASK;
        self.acks[self.ack_number as usize % self.acks.len()] = (self.ack_number, now);
        let room = self.recv.room();
        self.acked_room = room;
        let wire = |s: u64| self.send.wire(s, self.isn);
        let (missing, upto) = self.recv.missing(packet::reach(self.send.payload()));
        let micros = |t: Nanos| u32::try_from(t / 1000).unwrap_or(u32::MAX);
        let ack = Ack {
            number: self.ack_number,
            seq: wire(self.recv.next()),
            detail: Some([micros(self.rtt), micros(self.rttvar), u32::try_from(room.max(2)).unwrap_or(u32::MAX)]),
            speed: Some([self.pulse.measure(), CAPACITY]),
            report: Some(Report {
                received: self.recv.received,
                duplicates: self.recv.duplicates,
                echo,
                delay: micros(now.saturating_sub(at)),
                upto: wire(upto),
                holes: missing.iter().map(|(a, b)| (wire(*a), wire(*b))).collect(),
            }),
        };
        self.words.push((Word::Ack(ack), self.peer));
    }
}
