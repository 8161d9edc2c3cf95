//! One connection as a state machine: datagrams and time go in, datagrams come out. No socket, no clock, no thread.

mod answer;
mod cookie;
mod open;
mod probe;
mod recv;
mod send;
#[cfg(test)]
mod tests;
mod types;

pub use cookie::{Answer, Gate};
use probe::{Heard, Look};
use recv::Receiver;
use send::Sender;
use types::Pulse;
pub use types::{Failure, Figures, Settings};

use super::control::{Control, Nanos};
use super::packet::{self, HEADER, Handshake, IP_UDP, SEQ_MASK};
use packet::Control as Word;

const MS: Nanos = 1_000_000;
/// The beat of UDT4: acknowledgements are never further apart than this while packets arrive.
const BEAT: Nanos = 10 * MS;
/// Ranges of losses in one packet: fits the smallest packet that we send.
const RANGES: usize = 64;
/// A sender that was not run for a while catches up on so much; more would only overflow the path's queue.
const CATCH_UP: Nanos = 8 * MS;
/// The most that leaves at once, as time at the rate: well below the shortest queue.
const TOGETHER: Nanos = 2 * MS;
/// Packets that one call may hand out: what the kernel takes as one.
const TRAIN: usize = 60;
/// Bytes that one call may hand out.
const TRAIN_BYTES: usize = 60_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A client that waits for an answer.
    Connecting,
    /// A client that a listener of ours has given its cookie: what it writes goes out behind the second greeting, a round trip
    /// before the answer to that.
    Early,
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
    /// What else packets for us are addressed with: a client that does not know our number yet uses its own.
    alias: u32,
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
    look: Option<Look>,
    heard_probes: Option<Heard>,
    read_total: u64,
    written_total: u64,
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
            alias: own,
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
            look: None,
            heard_probes: None,
            read_total: 0,
            written_total: 0,
        }
    }

    /// Whether data may be written. A client may before the peer has agreed, once it has shown that it listens.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open | State::Early)
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
        if !self.is_open() || self.fin.is_some() {
            return 0;
        }
        let n = self.send.write(bytes);
        self.written_total += n as u64;
        n
    }

    /// Whether [`Self::write`] would take something.
    pub fn writable(&self) -> bool {
        self.is_open() && self.fin.is_none() && self.send.has_room()
    }

    /// Whether so little waits to be sent that whoever writes should go on.
    pub fn is_low(&self) -> bool {
        self.state == State::Open && self.fin.is_none() && self.send.is_low()
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
            let greeting = matches!(self.state, State::Connecting | State::Early);
            self.state = State::Closed(Some(if greeting { Failure::Refused } else { Failure::Reset }));
        }
    }

    /// Changes the cap on the rate.
    pub fn set_rate(&mut self, rate: Option<u64>) {
        // Agreeing with the peer begins a new model from the settings.
        self.settings.rate = rate;
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

    /// Does what time asks for.
    pub fn on_time(&mut self, now: Nanos) {
        match self.state {
            State::Closed(_) => return,
            State::Connecting | State::Early => return self.greet(now),
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
        if self.heard_probes.is_some() && self.look_due().is_some_and(|due| due <= now) {
            self.tell_probes();
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

    /// Appends datagrams to send now to `out`: all of the returned size but the last, which may be shorter.
    pub fn transmit(&mut self, now: Nanos, out: &mut Vec<u8>) -> Option<usize> {
        if !self.words.is_empty() {
            let (word, dest) = self.words.remove(0);
            packet::put_control(out, &word, self.stamp(now), dest);
            self.said = now;
            return Some(out.len());
        }
        if self.is_open()
            && let Some(segment) = self.put_probes(now, out)
        {
            return Some(segment);
        }
        if !self.is_open() || now < self.pace {
            return None;
        }
        let (rate, window) = (self.control.pacing(), self.control.window());
        let dest = if self.state == State::Early { self.own } else { self.peer };
        // What was slept through is caught up on, but not without end: a burst would overflow a short queue.
        let behind = (now - self.pace).min(CATCH_UP);
        // What leaves together costs one call and one wake, here and there; on a long path two milliseconds of it are nothing.
        let together = (self.rtt_now() / 64).clamp(MS, TOGETHER);
        let quantum = rate * (together + behind) as f64 / 1e9;
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
            packet::put_data(out, wire, self.message, stamp, dest, data);
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
        self.look_soon(now);
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
        let look = self.look_due().unwrap_or(Nanos::MAX);
        match self.state {
            State::Connecting => return self.hello_due,
            State::Early if self.send.peek(self.control.window()).is_some() => {
                return self.hello_due.min(self.pace).min(look);
            }
            State::Early => return self.hello_due.min(look),
            _ => {}
        }
        let mut at = (self.heard + self.settings.patience).min(self.said + 1000 * MS).saturating_add(1).min(look);
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
