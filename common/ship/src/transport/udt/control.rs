//! How fast to send: a model of the path, kept from what arrives.
//!
//! The path is two numbers: the highest rate at which packets have lately arrived, and the shortest round trip. Sending at that
//! rate with that much under way fills the path and leaves its queue empty. A loss is no verdict: what matters is whether the
//! rate of arrivals follows the rate of departures. So the random losses of a long path cost what they take and no more, and
//! a path that really became slower shows at once, as a rate that does not follow.
//!
//! Pure: time comes in as numbers, nothing goes out but numbers.

use std::collections::VecDeque;

/// Nanoseconds since some beginning.
pub type Nanos = u64;

const MS: Nanos = 1_000_000;
const SECOND: Nanos = 1_000 * MS;
/// Doubles the rate every round, with a margin.
const STARTUP_GAIN: f64 = 2.77;
/// How much above the known rate is sent for most of the time.
const CRUISE_GAIN: f64 = 1.015;
/// How much above the known rate is tried for a round, from time to time.
const UP_GAIN: f64 = 1.25;
/// How much below it drains what that left in the queue.
const DOWN_GAIN: f64 = 0.75;
/// Bytes a second to begin with, before anything is known: one round trip of it is risked.
const FIRST_RATE: f64 = 3e6;
/// The share of a hint that is believed, and the most that is begun with on the strength of it.
const HINT_SHARE: f64 = 0.85;
const FIRST_MOST: f64 = 40e6;
/// How fast to grow from there: little should be missing.
const HINTED_GAIN: f64 = 1.5;
/// A train of which less than this arrives in the time in which it left is held up by the path.
const FOLLOWED: f64 = 0.87;
/// Packets that may be under way on any path.
const LEAST_PACKETS: f64 = 32.0;
/// A round that loses more than this says that the rate is not there any more.
const TOO_LOSSY: f64 = 0.12;
/// Losses up to this are made up for by sending that much more.
const TOLERATED: f64 = 0.06;
/// How long a shortest round trip is believed without being seen again.
const RTT_MEMORY: Nanos = 10 * SECOND;

/// How packets that left one after the other have arrived.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Train {
    /// Bytes a second that arrived, and never more than left.
    pub rate: f64,
    /// The share of what left in that time.
    pub followed: f64,
}

/// What an acknowledgement tells.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// When it came.
    pub now: Nanos,
    /// Bytes a second that arrived over about one round trip.
    pub rate: Option<f64>,
    /// The same over the last part of it; unlike [`Self::rate`] it tells of the first packets after a pause, too.
    pub train: Option<Train>,
    /// There was nothing more to send in that time: the rate says little about the path.
    pub starved: bool,
    /// The round trip of the packet that arrived last.
    pub rtt: Option<Nanos>,
    /// Bytes that arrived since the last sample.
    pub delivered: u64,
    /// Bytes found lost since the last sample.
    pub lost: u64,
    /// Bytes under way now.
    pub inflight: u64,
    /// A packet sent after the last round began has arrived.
    pub round: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Doubling until the rate stops following.
    Startup,
    /// Draining what the doubling left in the queue.
    Drain,
    /// At the known rate.
    Cruise,
    /// Trying for more.
    Up,
    /// Draining what the try left.
    Down,
    /// Letting the queue run empty to see the shortest round trip.
    ProbeRtt,
}

/// The model and the phase.
#[derive(Debug, Clone)]
pub struct Control {
    phase: Phase,
    since: Nanos,
    until: Nanos,
    round: u64,
    phase_round: u64,
    /// Rates by round, falling: the first is the highest that is still believed.
    rates: VecDeque<(u64, Nanos, f64)>,
    /// The highest rate of this round.
    best: f64,
    min_rtt: Option<Nanos>,
    min_rtt_at: Nanos,
    /// The last round trips.
    recent: [Nanos; 4],
    /// The shortest of this round: a machine that is late only ever adds.
    round_rtt: Nanos,
    /// The longest queue seen of late: what there is to drain.
    queue_seen: Nanos,
    /// What stood in it all through the last round.
    queue: Nanos,
    /// The last trains of the start, the newest first, and the highest of them.
    trains: [f64; 5],
    quick: f64,
    /// Since when trains arrive slower than they leave.
    choked: Option<Nanos>,
    /// How often the start may yet go on after what looked like its end.
    resumptions: u32,
    /// The start is over and has not been looked behind yet.
    doubtful: bool,
    /// What packets sent ahead of the stream have shown of the path.
    hint: Option<f64>,
    full_rate: f64,
    full_rounds: u32,
    rate_at_up: f64,
    round_delivered: u64,
    round_lost: u64,
    loss: f64,
    /// How much of that is made up for by sending more.
    made_up: f64,
    cap: Option<f64>,
    packet: f64,
    first_rtt: Nanos,
    blind: bool,
    /// When it was last over.
    blind_round: u64,
}

impl Control {
    /// For packets of `packet` bytes on the wire, never above `cap` bytes a second.
    pub fn new(now: Nanos, packet: usize, cap: Option<u64>) -> Self {
        Self {
            phase: Phase::Startup,
            since: now,
            until: 0,
            round: 0,
            phase_round: 0,
            rates: VecDeque::new(),
            best: 0.0,
            min_rtt: None,
            min_rtt_at: now,
            recent: [0; 4],
            round_rtt: Nanos::MAX,
            queue_seen: 0,
            queue: 0,
            trains: [0.0; 5],
            quick: 0.0,
            choked: None,
            resumptions: 3,
            doubtful: false,
            hint: None,
            full_rate: 0.0,
            full_rounds: 0,
            rate_at_up: 0.0,
            round_delivered: 0,
            round_lost: 0,
            loss: 0.0,
            made_up: 0.0,
            cap: cap.map(|c| c.max(1) as f64),
            packet: packet as f64,
            first_rtt: 100 * MS,
            blind: false,
            blind_round: 0,
        }
    }

    /// Tells the round trip of the handshake, before anything else is known.
    pub fn first_rtt(&mut self, rtt: Nanos) {
        self.first_rtt = rtt.max(100_000);
    }

    /// Tells how fast packets have arrived that were sent ahead of the stream to see that.
    pub fn hint(&mut self, rate: f64) {
        if self.quick == 0.0 && rate.is_finite() && rate > 0.0 {
            self.hint = Some(rate);
        }
    }

    /// What to begin with: one round trip of it is risked.
    fn first_rate(&self) -> f64 {
        self.hint.map_or(FIRST_RATE, |h| (h * HINT_SHARE).min(FIRST_MOST))
    }

    /// Changes the cap.
    pub fn set_cap(&mut self, cap: Option<u64>) {
        self.cap = cap.map(|c| c.max(1) as f64);
    }

    /// The rate at which the path is believed to deliver, bytes a second.
    pub fn rate(&self) -> f64 {
        self.rates.front().map_or(0.0, |r| r.2)
    }

    /// The shortest round trip.
    pub fn min_rtt(&self) -> Option<Nanos> {
        self.min_rtt
    }

    /// The share of packets that is lost.
    pub fn loss(&self) -> f64 {
        self.loss
    }

    fn rtt(&self) -> Nanos {
        self.min_rtt.unwrap_or(self.first_rtt).max(50_000)
    }

    /// Bytes that fill the path.
    fn bdp(&self) -> f64 {
        self.rate() * self.rtt() as f64 / SECOND as f64
    }

    /// Bytes a second to send at.
    pub fn pacing(&self) -> f64 {
        let rate = match self.phase {
            // Greetings come singly and say nothing of the path.
            Phase::Startup if self.quick == 0.0 => self.first_rate().max(self.rate() * STARTUP_GAIN),
            Phase::Startup => (self.quick.max(self.rate()) * self.gain()).max(self.first_rate().min(FIRST_RATE)),
            _ => self.rate() * self.gain(),
        };
        rate.min(self.cap.unwrap_or(f64::INFINITY)).max(4.0 * self.packet)
    }

    fn gain(&self) -> f64 {
        match self.phase {
            // More than it said has arrived: it was wrong.
            Phase::Startup if self.hint.is_some_and(|h| self.quick < h * 1.25) => HINTED_GAIN,
            Phase::Startup => STARTUP_GAIN,
            Phase::Drain => 0.5,
            Phase::Up => UP_GAIN,
            Phase::Down => DOWN_GAIN,
            Phase::ProbeRtt => DOWN_GAIN,
            Phase::Cruise => {
                // A little more than the rate, so that a short queue covers for a sender that is sometimes late; the longer
                // the queue stands beyond that, the more is leaned against it.
                let rtt = self.rtt();
                let target = (rtt / 10).clamp(5 * MS, 12 * MS);
                let over = self.queue.saturating_sub(target) as f64 / rtt.max(20 * MS) as f64;
                (CRUISE_GAIN + self.made_up) * (1.0 - (0.25 * over).min(0.08))
            }
        }
    }

    /// Bytes that may be under way.
    pub fn window(&self) -> u64 {
        if self.blind {
            return (4.0 * self.packet) as u64;
        }
        let margin = self.pacing() * 0.015 + 16.0 * self.packet;
        let first = match self.phase {
            Phase::Startup => self.pacing() * self.rtt() as f64 / SECOND as f64,
            _ => 0.0,
        };
        let gain = match self.phase {
            Phase::Startup => STARTUP_GAIN,
            Phase::ProbeRtt => 0.75,
            _ => 2.0,
        };
        ((gain * self.bdp()).max(first) + margin).max(LEAST_PACKETS * self.packet) as u64
    }

    /// Nothing has been heard for long: until something is, only feel for the path.
    pub fn on_silence(&mut self) {
        self.blind = true;
    }

    fn enter(&mut self, phase: Phase, now: Nanos) {
        self.phase = phase;
        self.since = now;
        self.phase_round = self.round;
    }

    fn rounds_here(&self) -> u64 {
        self.round - self.phase_round
    }

    /// Takes in what an acknowledgement tells.
    pub fn on_sample(&mut self, s: &Sample) {
        if self.blind {
            self.blind = false;
            self.blind_round = self.round;
        }
        self.round_delivered += s.delivered;
        self.round_lost += s.lost;
        if let Some(rtt) = s.rtt {
            self.on_rtt(s.now, rtt);
        }
        if s.round {
            self.round += 1;
        }
        if let (Phase::Startup, Some(train)) = (self.phase, s.train) {
            self.on_train(s.now, train);
        }
        if let Some(rate) = s.rate {
            self.best = self.best.max(rate);
            if !s.starved || rate > self.rate() {
                self.learn(s.now, rate);
            }
        }
        if s.round {
            self.on_round(s);
        }
        self.step(s);
    }

    fn on_rtt(&mut self, now: Nanos, rtt: Nanos) {
        let min = self.min_rtt.unwrap_or(Nanos::MAX);
        // Nearly as short is as good as a proof that it still holds.
        if rtt <= min || (rtt <= min + min / 32 + 200_000) {
            self.min_rtt_at = now;
        }
        if rtt < min {
            self.min_rtt = Some(rtt);
        }
        self.round_rtt = self.round_rtt.min(rtt);
        self.recent.rotate_right(1);
        self.recent[0] = rtt;
        self.queue_seen = self.queue_seen.max(rtt.saturating_sub(self.rtt()));
    }

    fn learn(&mut self, now: Nanos, rate: f64) {
        while self.rates.back().is_some_and(|r| r.2 <= rate) {
            self.rates.pop_back();
        }
        self.rates.push_back((self.round, now, rate));
        while self.rates.len() > 1 && self.rates.front().is_some_and(|r| self.round > r.0 + 10 && now > r.1 + SECOND) {
            self.rates.pop_front();
        }
    }

    /// Follows the start within the round trip, and sees its end: more leaves than arrives, however short the queue is.
    fn on_train(&mut self, now: Nanos, train: Train) {
        self.trains.rotate_right(1);
        self.trains[0] = train.rate;
        self.quick = self.quick.max(train.rate);
        if train.followed >= FOLLOWED {
            self.choked = None;
            return;
        }
        let since = *self.choked.get_or_insert(now);
        // What does not arrive stands in a queue or is lost. A machine that was late for a moment looks the same for as long.
        let queue = self.recent.iter().min().map_or(0, |r| r.saturating_sub(self.rtt()));
        let missing = self.round_lost as f64 > 0.02 * self.round_delivered as f64 || queue > 3 * MS;
        if missing && now >= since + (self.rtt() / 6).max(10 * MS) {
            self.leave_startup(now);
        }
    }

    /// Goes on with what the last trains have shown: rates over a whole round trip still tell of its beginning.
    fn leave_startup(&mut self, now: Nanos) {
        let mut trains = self.trains;
        trains.sort_by(f64::total_cmp);
        // Not the highest, which may be a jump, nor the middle: lateness only ever lowers them.
        let shown = trains[trains.len() - 2];
        if shown > 0.0 {
            self.rates.clear();
            // It need not be believed for long: what is measured over whole round trips is better.
            self.rates.push_back((self.round.saturating_sub(6), now, shown));
        }
        self.doubtful = self.resumptions > 0;
        self.enter(Phase::Drain, now);
    }

    /// A try has found more: another, or the start again when it was only held up by something that passed.
    fn go_on(&mut self, now: Nanos) {
        self.rate_at_up = self.rate();
        if !std::mem::take(&mut self.doubtful) {
            return self.enter(Phase::Up, now);
        }
        self.resumptions -= 1;
        self.choked = None;
        self.trains = [self.rate(); 5];
        self.quick = self.rate();
        (self.full_rate, self.full_rounds) = (self.rate(), 0);
        self.enter(Phase::Startup, now);
    }

    fn on_round(&mut self, s: &Sample) {
        let total = self.round_delivered + self.round_lost;
        if total == 0 {
            return;
        }
        let lossy = self.round_lost as f64 / total as f64;
        let enough = total as f64 > 20.0 * self.packet;
        (self.round_delivered, self.round_lost) = (0, 0);
        let best = std::mem::take(&mut self.best);
        let shortest = std::mem::replace(&mut self.round_rtt, Nanos::MAX);
        if shortest != Nanos::MAX {
            self.queue = shortest.saturating_sub(self.rtt());
        }
        self.queue_seen -= self.queue_seen / 16;
        match self.phase {
            Phase::Startup => {
                if enough && lossy > TOO_LOSSY && self.rate() < self.full_rate * 1.25 {
                    return self.leave_startup(s.now);
                }
                if s.starved {
                    return;
                }
                if self.rate() >= self.full_rate * 1.25 {
                    self.full_rate = self.rate();
                    self.full_rounds = 0;
                } else {
                    self.full_rounds += 1;
                }
                if self.full_rounds >= 3 {
                    self.leave_startup(s.now);
                }
            }
            Phase::Cruise | Phase::ProbeRtt => {
                // What was lost in a try, or in a cut, is told in the rounds after it and says nothing of the known rate.
                if self.rounds_here() >= 2 {
                    self.loss = self.loss * 0.75 + lossy * 0.25;
                    // What arrives at the full rate all the same was lost because too much left: to send more would lose more.
                    let missing = if best < self.rate() * 0.99 { lossy.min(TOLERATED) } else { 0.0 };
                    self.made_up = self.made_up * 0.75 + missing * 0.25;
                }
                let settled = self.rounds_here() >= 3 && self.round > self.blind_round + 3;
                if settled && enough && lossy > TOO_LOSSY && !s.starved && best < self.rate() * 0.9 {
                    // By half at most: a round in which this machine was late looks the same.
                    let rate = best.max(self.rate() / 2.0);
                    self.rates.clear();
                    self.rates.push_back((self.round, s.now, rate));
                }
            }
            Phase::Up | Phase::Down | Phase::Drain => {}
        }
    }

    fn step(&mut self, s: &Sample) {
        let rtt = self.rtt();
        match self.phase {
            Phase::Startup => {
                // A queue that stands is the end of the growth, a round before the rate shows it. One late answer is no queue.
                let queue = self.recent.iter().min().map_or(0, |r| r.saturating_sub(rtt));
                if queue > rtt / 6 + 4 * MS {
                    self.leave_startup(s.now);
                }
            }
            Phase::Drain => {
                if s.inflight as f64 <= self.bdp() || s.now > self.since + rtt + rtt / 2 {
                    // A queue ended the growth, and it may have been somebody else's: see at once whether there is more.
                    let early = self.full_rounds == 0 || self.doubtful;
                    self.rate_at_up = self.rate();
                    self.enter(if early { Phase::Up } else { Phase::Cruise }, s.now);
                }
            }
            Phase::Cruise => {
                if s.now > self.min_rtt_at + RTT_MEMORY {
                    self.enter(Phase::ProbeRtt, s.now);
                    self.until = s.now + rtt + rtt / 2 + 50 * MS;
                    self.min_rtt = None;
                    self.first_rtt = rtt;
                } else if self.rounds_here() >= 7 && s.now > self.since + 400 * MS {
                    self.rate_at_up = self.rate();
                    self.enter(Phase::Up, s.now);
                }
            }
            Phase::Up => {
                if s.now < self.since + rtt {
                    return;
                }
                // Fed back one round late: as long as it grows, go on.
                if self.rounds_here() >= 2 && self.rate() > self.rate_at_up * 1.08 {
                    return self.go_on(s.now);
                }
                if self.rounds_here() >= 2 || s.now > self.since + rtt + rtt / 4 {
                    // No more can stand in the queue than it has ever held: the rest was dropped, not queued.
                    let extra = ((s.now - self.since) as f64 * (UP_GAIN - 1.0)).min(self.queue_seen as f64);
                    self.enter(Phase::Down, s.now);
                    self.until = s.now + (extra / (1.0 - DOWN_GAIN)) as Nanos;
                }
            }
            Phase::Down => {
                if s.now >= self.until {
                    // The packets of the try are still being answered: if it grew, it goes on.
                    if self.rate() > self.rate_at_up * 1.08 {
                        return self.go_on(s.now);
                    }
                    self.doubtful = false;
                    self.enter(Phase::Cruise, s.now);
                }
            }
            Phase::ProbeRtt => {
                if s.now >= self.until {
                    self.min_rtt_at = s.now;
                    self.enter(Phase::Cruise, s.now);
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
