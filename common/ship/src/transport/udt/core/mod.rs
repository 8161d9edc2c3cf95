//! One connection as a state machine: datagrams and time go in, datagrams come out. No socket, no clock, no thread.

mod cookie;
mod open;
mod recv;
mod send;
#[cfg(test)]
mod tests;

pub use cookie::{Answer, Gate};
use recv::Receiver;
use send::Sender;

use super::control::{Control, Nanos};
use super::packet::{self, Ack, HEADER, Handshake, IP_UDP, Packet, Report, SEQ_MASK};
use packet::Control as Word;

const MS: Nanos = 1_000_000;
/// The beat of UDT4: acknowledgements are never further apart than this while packets arrive.
const BEAT: Nanos = 10 * MS;
/// Ranges of losses in one packet: fits the smallest packet that we send.
const RANGES: usize = 64;
/// A sender that was not run for a while catches up on so much; more would only overflow the path's queue.
const CATCH_UP: Nanos = 8 * MS;
/// Packets that one call may hand out: what the kernel takes as one.
const TRAIN: usize = 60;
/// Bytes that one call may hand out.
const TRAIN_BYTES: usize = 60_000;

/// What we tell libudt of the path's capacity, in packets a second. Its control grows in steps that follow from this number,
/// and backs off by itself; measured from packets that the kernel hands over in batches, it would be nonsense.
const CAPACITY: u32 = 100_000;

/// How fast packets arrive while they do: libudt's control begins with this once it has seen the first loss.
#[derive(Debug, Default, Clone, Copy)]
struct Pulse {
    last: Nanos,
    active: Nanos,
    packets: u64,
    speed: u32,
}

impl Pulse {
    fn beat(&mut self, now: Nanos) {
        let gap = now.saturating_sub(self.last);
        self.last = now;
        // A pause is not slowness.
        if gap < 20 * MS {
            self.active += gap;
            self.packets += 1;
        }
    }

    fn measure(&mut self) -> u32 {
        if self.packets >= 16 {
            let speed = self.packets * 1_000_000_000 / self.active.max(MS / 10);
            self.speed = u32::try_from(speed).unwrap_or(u32::MAX).min(CAPACITY);
            (self.active, self.packets) = (0, 0);
        }
        self.speed
    }
}

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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A client that waits for an answer.
    Connecting,
    Open,
    /// Over, because of this or in good order.
    Closed(Option<Failure>),
}

/// The connection.
#[derive(Debug)]
pub struct Core {
    /// When the driver means to come back; for the driver alone.
    pub planned: Nanos,
    settings: Settings,
    state: State,
    began: Nanos,
    isn: u32,
    own: u32,
    peer: u32,
    hello: Handshake,
    hello_due: Nanos,
    hello_sent: Option<Nanos>,
    hello_tries: u32,
    send: Sender,
    recv: Receiver,
    control: Control,
    /// Control packets to go out, in order; bounded by what one batch of arrivals can cause.
    words: Vec<(Word, u32)>,
    /// When the next data packet may leave.
    pace: Nanos,
    heard: Nanos,
    said: Nanos,
    /// Shows that the peer is ours.
    ours: bool,
    ack_number: u32,
    acks: [(u32, Nanos); 64],
    ack_due: Option<Nanos>,
    ack_beat: Nanos,
    acked_room: u64,
    acked_at: Nanos,
    unacked_packets: u32,
    ack2_at: Nanos,
    nak_due: Option<Nanos>,
    rtt: Nanos,
    rttvar: Nanos,
    pulse: Pulse,
    peer_clock: (u32, u64),
    fin: Option<u64>,
    fin_due: Nanos,
    fin_done: bool,
    peer_fin: Option<u64>,
    peer_fin_told: bool,
    message: u32,
    read_total: u64,
    written_total: u64,
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

impl Core {
    /// A connection made from a greeting that both ends have agreed on or will.
    fn new(now: Nanos, settings: Settings, hello: Handshake, own: u32, state: State) -> Self {
        let mss = settings.mss.clamp(576, 65_535);
        let payload = mss - IP_UDP - HEADER;
        let packets = (settings.buffer / payload).max(32);
        Self {
            planned: now,
            send: Sender::new(payload, packets, u64::from(hello.window)),
            recv: Receiver::new(packets as u64),
            control: Control::new(now, mss, settings.rate),
            settings,
            state,
            began: now,
            isn: hello.isn,
            own,
            peer: 0,
            hello,
            hello_due: now,
            hello_sent: None,
            hello_tries: 0,
            words: Vec::new(),
            pace: now,
            heard: now,
            said: now,
            ours: false,
            ack_number: 0,
            acks: [(0, 0); 64],
            ack_due: None,
            ack_beat: BEAT,
            acked_room: packets as u64,
            acked_at: now,
            unacked_packets: 0,
            ack2_at: 0,
            nak_due: None,
            rtt: 100 * MS,
            rttvar: 50 * MS,
            pulse: Pulse::default(),
            peer_clock: (0, 0),
            fin: None,
            fin_due: 0,
            fin_done: false,
            peer_fin: None,
            peer_fin_told: false,
            message: 0,
            read_total: 0,
            written_total: 0,
        }
    }

    /// Whether data may be exchanged.
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Whether it is over.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed(_))
    }

    /// Why it is over, if it failed.
    pub fn failure(&self) -> Option<Failure> {
        match self.state {
            State::Closed(why) => why,
            _ => None,
        }
    }

    /// Our clock as packets carry it.
    fn stamp(&self, now: Nanos) -> u32 {
        // Wraps every 71 minutes, as UDT4's does.
        ((now.saturating_sub(self.began) / 1000) & 0xffff_ffff) as u32
    }

    /// A number from the wire as ours, nearest to `near`; `None` before the beginning.
    fn unwrap(isn: u32, near: u64, wire: u32) -> Option<u64> {
        let here = isn.wrapping_add((near & u64::from(SEQ_MASK)) as u32) & SEQ_MASK;
        near.checked_add_signed(packet::distance(here, wire))
    }

    /// Takes bytes to send; 0 when there is no room.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        if self.state != State::Open || self.fin.is_some() {
            return 0;
        }
        let n = self.send.write(bytes);
        self.written_total += n as u64;
        n
    }

    /// Whether [`Self::write`] would take something.
    pub fn writable(&self) -> bool {
        self.state == State::Open && self.fin.is_none() && self.send.has_room()
    }

    /// Gives received bytes.
    pub fn read(&mut self, now: Nanos, out: &mut [u8]) -> usize {
        let n = self.recv.read(out);
        self.read_total += n as u64;
        // Tell the sender of the room before it has to wait for it.
        if self.state == State::Open && self.ack_due.is_none() && self.recv.last.is_some() {
            let full = self.settings.buffer as u64 / self.send.payload() as u64;
            if self.acked_room < full / 2 && self.recv.room() > self.acked_room + full / 8 {
                self.ack_due = Some(now);
            }
        }
        n
    }

    /// Whether [`Self::read`] would give something.
    pub fn readable(&self) -> bool {
        self.recv.readable()
    }

    /// The peer's stream has ended and all of it was read.
    pub fn at_end(&self) -> bool {
        !self.recv.readable()
            && (self.peer_fin.is_some_and(|f| self.recv.next() >= f) || matches!(self.state, State::Closed(None)))
    }

    /// Ends our direction.
    pub fn finish(&mut self, now: Nanos) {
        if self.fin.is_none() {
            self.fin = Some(self.send.end());
            self.fin_due = now;
        }
    }

    /// The peer has all that we sent and knows that it is all.
    pub fn finished(&self) -> bool {
        self.fin_done
    }

    /// Whether our direction has been ended.
    pub fn is_finishing(&self) -> bool {
        self.fin.is_some()
    }

    /// Packets that the peer has acknowledged in order.
    pub fn acknowledged(&self) -> u64 {
        self.send.acked()
    }

    /// The peer's machine says that nobody is there any more.
    pub fn abandon(&mut self) {
        if !self.is_closed() {
            let greeting = self.state == State::Connecting;
            self.state = State::Closed(Some(if greeting { Failure::Refused } else { Failure::Reset }));
        }
    }

    /// Changes the cap on the rate.
    pub fn set_rate(&mut self, rate: Option<u64>) {
        self.control.set_cap(rate);
    }

    /// Closes; gives the farewell to be sent, more than once if that is cheap.
    pub fn close(&mut self, now: Nanos) -> Option<Vec<u8>> {
        let was_open = self.state == State::Open;
        let read_to_end = self.peer_fin.is_some_and(|f| self.recv.next() >= f);
        if !self.is_closed() {
            self.state = State::Closed(None);
        }
        was_open.then(|| {
            let mut out = Vec::new();
            packet::put_control(&mut out, &Word::Shutdown(Some(read_to_end.into())), self.stamp(now), self.peer);
            out
        })
    }

    /// Figures for people and measurements.
    pub fn figures(&self) -> Figures {
        Figures {
            written: self.written_total,
            read: self.read_total,
            wire_sent: self.send.counts.bytes,
            wire_received: self.recv.wire,
            packets: self.send.counts.packets,
            again: self.send.counts.again,
            rate: self.control.rate(),
            rtt: self.send.latest_rtt.unwrap_or(self.rtt),
            min_rtt: self.control.min_rtt().unwrap_or(self.rtt),
            inflight: self.send.inflight(),
            window: self.control.window(),
            loss: self.control.loss(),
        }
    }

    /// Takes one datagram in. What is not for us or makes no sense changes nothing.
    pub fn on_datagram(&mut self, now: Nanos, bytes: &[u8]) {
        let Ok(packet) = packet::parse(bytes) else { return };
        if self.is_closed() {
            return;
        }
        match packet {
            Packet::Data { seq, timestamp, dest, payload } => {
                if dest == self.own && self.state == State::Open && payload.len() <= self.send.payload() {
                    self.heard = now;
                    self.on_data(now, seq, timestamp, payload);
                }
            }
            Packet::Control { dest, control: Word::Handshake(h), .. } => self.on_handshake(now, dest, &h),
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
            Word::KeepAlive | Word::Ignored | Word::Handshake(_) => {}
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
        if ack.detail.is_some() && (now >= self.ack2_at + BEAT / 2 || ack.report.is_none()) {
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

    /// Does what time asks for.
    pub fn on_time(&mut self, now: Nanos) {
        match self.state {
            State::Closed(_) => return,
            State::Connecting => return self.greet(now),
            State::Open => {}
        }
        if now > self.heard + self.settings.patience {
            self.state = State::Closed(Some(Failure::Silent));
            return;
        }
        if self.send.probe_due().is_some_and(|due| due <= now) {
            self.send.probe(now);
            self.send.tell(&mut self.control);
            self.pace = self.pace.min(now);
        }
        if self.ack_due.is_some_and(|due| due <= now) {
            self.acknowledge(now);
        }
        if self.nak_due.is_some_and(|due| due <= now) {
            let patience = (self.rtt / 16).clamp(2 * MS, 20 * MS);
            let again = self.rtt + 4 * self.rttvar.max(BEAT);
            let told = if self.ours { Vec::new() } else { self.recv.tell(now, patience, again, RANGES) };
            if !told.is_empty() {
                let ranges =
                    told.iter().map(|(a, b)| (self.send.wire(*a, self.isn), self.send.wire(*b, self.isn))).collect();
                self.words.push((Word::Nak(ranges), self.peer));
            }
            self.nak_due = (!self.ours && self.recv.has_holes()).then_some(now + 2 * MS);
        }
        self.on_time_fin(now);
        if now > self.said + 1000 * MS {
            if self.recv.last.is_some() {
                // Also repeats the room, should the word of it have been lost.
                self.acknowledge(now);
            }
            self.words.push((Word::KeepAlive, self.peer));
        }
    }

    fn on_time_fin(&mut self, now: Nanos) {
        if let Some(fin) = self.fin
            && !self.fin_done
            && self.send.all_sent()
        {
            if self.fin_due <= now {
                self.words.push((Word::Fin(self.send.wire(fin, self.isn)), self.peer));
                self.fin_due = now + (self.rtt_now() * 3 / 2).max(50 * MS);
            }
            if !self.ours && self.send.acked() >= fin {
                // libudt does not answer, and its acknowledgement is all the confirmation there is.
                self.fin_done = true;
            }
        }
        if let Some(fin) = self.peer_fin
            && !self.peer_fin_told
            && self.recv.next() >= fin
        {
            self.peer_fin_told = true;
            self.words.push((Word::FinAck(self.send.wire(fin, self.isn)), self.peer));
        }
    }

    fn rtt_now(&self) -> Nanos {
        if self.send.srtt > 0 { self.send.srtt } else { self.rtt }
    }

    fn acknowledge(&mut self, now: Nanos) {
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

    /// Appends datagrams to send now to `out`: all of the returned size but the last, which may be shorter.
    pub fn transmit(&mut self, now: Nanos, out: &mut Vec<u8>) -> Option<usize> {
        if !self.words.is_empty() {
            let (word, dest) = self.words.remove(0);
            packet::put_control(out, &word, self.stamp(now), dest);
            self.said = now;
            return Some(out.len());
        }
        if self.state != State::Open || now < self.pace {
            return None;
        }
        let (rate, window) = (self.control.pacing(), self.control.window());
        // What was slept through is caught up on, but not without end: a burst would overflow a short queue.
        let behind = (now - self.pace).min(CATCH_UP);
        let quantum = rate * (MS as f64 + behind as f64) / 1e9;
        let mut sent = 0usize;
        let mut segment = 0;
        for _ in 0..TRAIN {
            let Some((seq, bytes)) = self.send.peek(window) else {
                // A full buffer is a limit of ours, not a lack of data.
                if self.send.all_sent() && self.send.has_room() {
                    self.send.note_starved();
                }
                break;
            };
            let size = bytes - IP_UDP;
            if sent > 0 && (size > segment || out.len() + size > TRAIN_BYTES || sent as f64 >= quantum) {
                break;
            }
            let (stamp, wire) = (self.stamp(now), self.send.wire(seq, self.isn));
            self.message = self.message % 0x1fff_fffe + 1;
            let data = self.send.send(now, seq);
            packet::put_data(out, wire, self.message, stamp, self.peer, data);
            sent += bytes;
            if segment == 0 {
                segment = size;
            }
            if size < segment {
                break;
            }
        }
        if sent == 0 {
            return None;
        }
        self.said = now;
        let from = self.pace.max(now.saturating_sub(CATCH_UP));
        self.pace = from + (sent as f64 * 1e9 / rate) as Nanos;
        Some(segment)
    }

    /// When [`Self::on_time`] or [`Self::transmit`] has something to do next.
    pub fn wake(&self, now: Nanos) -> Nanos {
        if matches!(self.state, State::Closed(_)) {
            return Nanos::MAX;
        }
        if !self.words.is_empty() {
            return now;
        }
        if self.state == State::Connecting {
            return self.hello_due;
        }
        let mut at = (self.heard + self.settings.patience).min(self.said + 1000 * MS) + 1;
        for due in [self.ack_due, self.nak_due, self.send.probe_due()].into_iter().flatten() {
            at = at.min(due);
        }
        if self.fin.is_some() && !self.fin_done && self.send.all_sent() {
            at = at.min(self.fin_due);
        }
        if self.send.peek(self.control.window()).is_some() {
            at = at.min(self.pace);
        }
        at
    }
}
