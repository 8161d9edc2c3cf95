//! Two cores and a path between them, in a time of their own.

use std::collections::BinaryHeap;

use super::*;

/// By when it arrives, and then by when it left.
type Flight = (std::cmp::Reverse<(Nanos, u64)>, Vec<u8>);

/// A path in one direction.
struct Path {
    rate: f64,
    delay: Nanos,
    queue: Nanos,
    loss: f64,
    reorder: f64,
    free: Nanos,
    up: bool,
    seed: u64,
    flying: BinaryHeap<Flight>,
    count: u64,
}

impl Path {
    fn new(mbit: f64, delay_ms: u64, queue_ms: u64, loss: f64) -> Self {
        Self {
            rate: mbit * 1e6 / 8e9,
            delay: delay_ms * MS,
            queue: queue_ms * MS,
            loss,
            reorder: 0.0,
            free: 0,
            up: true,
            seed: 0x9e37_79b9_7f4a_7c15,
            flying: BinaryHeap::new(),
            count: 0,
        }
    }

    fn chance(&mut self, p: f64) -> bool {
        self.seed ^= self.seed >> 12;
        self.seed ^= self.seed << 25;
        self.seed ^= self.seed >> 27;
        ((self.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64) < p
    }

    fn put(&mut self, now: Nanos, bytes: &[u8]) {
        let takes = ((bytes.len() + IP_UDP) as f64 / self.rate) as Nanos;
        let backlog = self.free.saturating_sub(now);
        if !self.up || (backlog > 0 && backlog + takes > self.queue) {
            return;
        }
        self.free = self.free.max(now) + takes;
        let loss = self.loss;
        if self.chance(loss) {
            return;
        }
        let late = self.reorder;
        let extra = if self.chance(late) { 2 * MS } else { 0 };
        self.count += 1;
        self.flying.push((std::cmp::Reverse((self.free + self.delay + extra, self.count)), bytes.to_vec()));
    }

    fn due(&self) -> Nanos {
        self.flying.peek().map_or(Nanos::MAX, |f| f.0.0.0)
    }
}

struct World {
    now: Nanos,
    a: Core,
    b: Option<Core>,
    gate: Gate,
    there: Path,
    back: Path,
    /// The largest packet of the listener's end.
    mss: usize,
    /// When the path carries nothing for a moment, and until when.
    held: Option<(Nanos, Nanos)>,
    out: Vec<u8>,
}

fn settings() -> Settings {
    Settings { mss: 1500, buffer: 32 << 20, rate: None, patience: 10_000 * MS, connect: 5000 * MS }
}

impl World {
    fn new(path: impl Fn() -> Path) -> Self {
        Self {
            now: 0,
            a: Core::client(0, settings(), 0x7fff_fff0, 11, [0; 4]),
            b: None,
            gate: Gate::new([7; 32]),
            there: path(),
            back: path(),
            mss: 1500,
            held: None,
            out: Vec::new(),
        }
    }

    /// Runs what is due now, then goes to the next moment.
    fn step(&mut self) {
        let from = "192.0.2.1:5000".parse().expect("an address");
        if let Some((_, until)) = self.held.take_if(|(from, _)| *from <= self.now) {
            self.there.free = self.there.free.max(until);
        }
        while self.there.due() <= self.now {
            let Some((_, bytes)) = self.there.flying.pop() else { break };
            match &mut self.b {
                Some(b) => b.on_datagram(self.now, &bytes),
                None => match self.gate.answer(self.now, from, &bytes) {
                    Answer::Reply(r) => self.back.put(self.now, &r),
                    Answer::Accept(h) => {
                        let settings = Settings { mss: self.mss, ..settings() };
                        self.b = Some(Core::server(self.now, settings, &h, 22, [0; 4]));
                    }
                    Answer::Ignore => {}
                },
            }
        }
        while self.back.due() <= self.now {
            let Some((_, bytes)) = self.back.flying.pop() else { break };
            self.a.on_datagram(self.now, &bytes);
        }
        let mut wake = self.there.due().min(self.back.due());
        for (core, path) in [(Some(&mut self.a), &mut self.there), (self.b.as_mut(), &mut self.back)] {
            let Some(core) = core else { continue };
            core.on_time(self.now);
            loop {
                self.out.clear();
                let Some(segment) = core.transmit(self.now, &mut self.out) else { break };
                for datagram in self.out.chunks(segment) {
                    path.put(self.now, datagram);
                }
            }
            wake = wake.min(core.wake(self.now)).min(path.due());
        }
        if self.a.is_open() && self.a.figures().written == 0 {
            // Whoever connects has something to say at once.
            wake = wake.min(self.now + MS);
        }
        // A timer of a real machine is not better than this either.
        self.now = wake.clamp(self.now + 50_000, self.now + 20 * MS);
    }

    fn until(&mut self, limit: Nanos, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        while self.now < limit {
            if done(self) {
                return true;
            }
            self.step();
        }
        false
    }

    fn connect(&mut self) {
        let limit = self.now + 10_000 * MS;
        assert!(self.until(limit, |w| w.a.is_open()), "connected");
    }

    /// Sends for so long and gives the share of the path's rate that arrived in the second half, headers left out. What waits
    /// for a packet before it has arrived, too.
    fn share(&mut self, seconds: u64) -> f64 {
        self.connect();
        let data = vec![5u8; 1 << 16];
        let mut sink = vec![0u8; 1 << 20];
        let end = self.now + seconds * 1000 * MS;
        let half = self.now + seconds * 500 * MS;
        let mut at_half = None;
        while self.now < end {
            while self.a.write(&data) > 0 {}
            self.step();
            let now = self.now;
            if let Some(b) = &mut self.b {
                while b.read(now, &mut sink) > 0 {}
                if now >= half {
                    at_half.get_or_insert(b.recv.received);
                }
            }
        }
        let got = self.b.as_ref().map_or(0, |b| b.recv.received) - at_half.unwrap_or(0);
        got as f64 * 1456.0 / 1500.0 / (self.there.rate * (end - half) as f64)
    }
}

/// What arrives within the first seconds after the greeting, in percent of what the path carries, headers left out. A round
/// trip is spent as TLS spends it: the client speaks, is answered, and only then has much to say.
fn first_seconds(w: &mut World, seconds: u64) -> f64 {
    let (mut sink, data) = (vec![0u8; 1 << 20], vec![5u8; 1 << 16]);
    let (mut greeted, mut answered, mut through) = (false, false, false);
    let (mut begun, mut got) = (None, 0);
    loop {
        if w.a.is_open() && !greeted {
            greeted = w.a.write(&[1; 1500]) == 1500;
        }
        through |= w.a.read(w.now, &mut sink) > 0;
        while through && w.a.write(&data) > 0 {}
        w.step();
        let now = w.now;
        let Some(b) = &mut w.b else { continue };
        loop {
            match b.read(now, &mut sink) {
                0 => break,
                n => got += n,
            }
        }
        if got >= 1500 && !answered {
            answered = b.write(&[2; 3000]) == 3000;
        }
        let end = *begun.get_or_insert(now) + seconds * 1000 * MS;
        if now > end {
            return got as f64 / (w.there.rate * (seconds * 1000 * MS) as f64) * 100.0;
        }
    }
}

#[test]
fn the_first_seconds_are_not_wasted() {
    for (what, mbit, delay, queue, loss, least) in [
        ("clean", 100.0, 90, 50, 0.0, 93.5),
        ("a thousandth lost", 200.0, 90, 50, 0.001, 92.0),
        ("a hundredth lost", 200.0, 90, 50, 0.01, 91.0),
        ("near", 500.0, 20, 50, 0.0001, 95.0),
        ("a short queue", 100.0, 90, 5, 0.0, 92.0),
        ("fast and far", 500.0, 90, 50, 0.0, 92.5),
        ("20 Mbit/s", 20.0, 90, 50, 0.0, 93.0),
        ("5 Mbit/s", 5.0, 90, 50, 0.0, 92.0),
        ("1 Mbit/s", 1.0, 90, 50, 0.0, 85.0),
        ("1 Mbit/s, near", 1.0, 10, 100, 0.0, 90.0),
    ] {
        let mut w = World::new(|| Path::new(mbit, delay, queue, 0.0));
        w.there.loss = loss;
        let share = first_seconds(&mut w, 12);
        let f = w.a.figures();
        assert!(share > least, "{what}: {share} % of the path; {f:?}");
        // As a share of what has left: the start may overshoot once, by a round trip.
        let again = f.again as f64 / f.packets as f64;
        let most = if mbit > 1.0 { 0.12 } else { 0.4 };
        assert!(again < most, "{what}: {again} sent again; {f:?}");
    }
}

#[test]
fn a_path_that_stands_once_in_the_start_is_no_slow_path() {
    for at in (400..1000).step_by(75) {
        let mut w = World::new(|| Path::new(200.0, 90, 50, 0.0));
        w.there.loss = 0.001;
        w.held = Some((at * MS, (at + 120) * MS));
        let share = first_seconds(&mut w, 4);
        assert!(share > 77.0, "held at {at} ms: {share} %; {:?}", w.a.figures());
    }
}

#[test]
fn a_path_that_stands_for_a_moment_is_believed_again_soon() {
    for long in [150, 300] {
        let mut w = World::new(|| Path::new(200.0, 90, 50, 0.0));
        w.there.loss = 0.001;
        w.held = Some((4000 * MS, (4000 + long) * MS));
        let share = first_seconds(&mut w, 12);
        assert!(share > 89.0, "stood for {long} ms: {share} %; {:?}", w.a.figures());
    }
}

#[test]
fn the_rate_is_known_before_the_stream_begins() {
    for mbit in [1.0, 5.0, 20.0, 100.0, 200.0] {
        let mut w = World::new(|| Path::new(mbit, 90, 200, 0.0));
        w.connect();
        w.a.write(&[1; 1500]);
        let limit = w.now + 1000 * MS;
        w.until(limit, |w| w.a.control.pacing() != 3e6);
        // What is begun with, before a byte of the stream was answered with a rate: most of what there is, and no more.
        let share = w.a.control.pacing() / w.there.rate / 1e9;
        assert!((0.75..0.9).contains(&share), "{mbit} Mbit/s: {share}");
    }
}

#[test]
fn the_first_words_ride_behind_the_greeting() {
    let mut w = World::new(|| Path::new(100.0, 90, 50, 0.0));
    // What the listener's end takes is not known yet: smaller packets than the client's own.
    w.mss = 1000;
    w.connect();
    let words: Vec<u8> = (0..3000u32).map(|i| (i % 251) as u8).collect();
    assert!(w.a.write(&words) == 3000 && w.a.state == State::Early, "{:?}", w.a.state);
    let mut sink = vec![0; 10_000];
    let mut got = Vec::new();
    let arrived = w.until(300 * MS, |w| {
        let now = w.now;
        let n = w.b.as_mut().map_or(0, |b| b.read(now, &mut sink));
        got.extend_from_slice(&sink[..n]);
        got.len() == 3000
    });
    assert!(arrived && got == words, "within one and a half round trips: {}", got.len());
    w.a.write(&words);
    w.a.finish(w.now);
    let ended = w.until(2000 * MS, |w| {
        let now = w.now;
        let Some(b) = &mut w.b else { return false };
        let n = b.read(now, &mut sink);
        got.extend_from_slice(&sink[..n]);
        w.a.finished() && b.at_end()
    });
    assert!(ended && got == [words.clone(), words].concat());
    assert_eq!(w.a.figures().again, 0, "nothing twice");
}

#[test]
fn a_listener_that_falls_silent_after_its_cookie_is_given_up() {
    let mut w = World::new(|| Path::new(100.0, 90, 50, 0.0));
    assert!(w.until(1000 * MS, |w| w.a.is_open()));
    w.there.up = false;
    w.a.write(&[1; 100]);
    assert!(w.until(20_000 * MS, |w| w.a.failure() == Some(Failure::Silent)));
}

#[test]
fn a_listener_of_libudt_gets_nothing_early() {
    let mut client = Core::client(0, settings(), 1, 2, [9, 0, 0, 0]);
    client.on_time(0);
    let mut out = Vec::new();
    client.transmit(0, &mut out);
    let Ok(packet::Packet::Control { control: Word::Handshake(ask), .. }) = packet::parse(&out) else {
        panic!("a greeting")
    };
    out.clear();
    packet::put_control(&mut out, &Word::Handshake(Handshake { cookie: 5, ..ask }), 0, 2);
    client.on_datagram(180 * MS, &out);
    assert!(!client.is_open() && client.write(&[1]) == 0);
}

#[test]
fn a_stream_arrives_whole_over_a_bad_path_and_its_end_is_confirmed() {
    let mut w = World::new(|| {
        let mut p = Path::new(50.0, 20, 20, 0.05);
        p.reorder = 0.05;
        p
    });
    w.connect();
    let data: Vec<u8> = (0..400_000u32).flat_map(|i| (i.wrapping_mul(2_654_435_761)).to_be_bytes()).collect();
    let (mut put, mut got) = (0, Vec::new());
    let mut sink = vec![0u8; 100_000];
    let ended = w.until(30_000 * MS, |w| {
        put += w.a.write(&data[put..]);
        if put == data.len() {
            w.a.finish(w.now);
        }
        let now = w.now;
        let Some(b) = &mut w.b else { return false };
        let n = b.read(now, &mut sink);
        got.extend_from_slice(&sink[..n]);
        w.a.finished() && b.at_end()
    });
    assert!(ended, "ended: {:?} {:?}", w.a.figures(), w.a.state);
    assert!(got == data, "the same bytes");
}

#[test]
fn paths_are_filled() {
    for (what, mbit, delay, queue, loss, least) in [
        ("clean", 100.0, 90, 50, 0.0, 0.93),
        ("a thousandth lost", 200.0, 90, 50, 0.001, 0.92),
        ("a hundredth lost", 200.0, 90, 50, 0.01, 0.92),
        ("near", 500.0, 20, 50, 0.0001, 0.93),
        ("a twentieth lost", 100.0, 90, 50, 0.05, 0.85),
        ("a short queue", 100.0, 90, 5, 0.0, 0.92),
        ("fast and far", 500.0, 90, 50, 0.0, 0.9),
    ] {
        let mut w = World::new(|| Path::new(mbit, delay, queue, 0.0));
        w.there.loss = loss;
        let share = w.share(8);
        assert!(share > least, "{what}: {share} of the path; {:?}", w.a.figures());
    }
}

#[test]
fn late_packets_are_not_taken_for_lost() {
    let mut w = World::new(|| Path::new(100.0, 90, 50, 0.0));
    w.there.reorder = 0.005;
    let share = w.share(8);
    let f = w.a.figures();
    assert!(share > 0.92, "{share} {f:?}");
}

#[test]
fn a_path_that_becomes_slower_and_faster_is_followed() {
    let mut w = World::new(|| Path::new(100.0, 20, 30, 0.0));
    assert!(w.share(4) > 0.9);
    w.there.rate /= 4.0;
    let again = w.a.figures().again;
    let slow = w.share(6);
    assert!(slow > 0.85, "slower: {slow} {:?}", w.a.figures());
    let sent_again = w.a.figures().again - again;
    assert!(sent_again < 8000, "not by brute force: {sent_again}");
    w.there.rate *= 4.0;
    let fast = w.share(10);
    assert!(fast > 0.85, "faster again: {fast} {:?}", w.a.figures());
}

#[test]
fn a_cut_heals() {
    let mut w = World::new(|| Path::new(50.0, 20, 30, 0.0));
    assert!(w.share(2) > 0.8);
    (w.there.up, w.back.up) = (false, false);
    w.share(5);
    (w.there.up, w.back.up) = (true, true);
    let healed = w.share(4);
    assert!(healed > 0.8, "{healed}");
}

#[test]
fn a_dead_peer_is_noticed_and_a_silent_listener_given_up() {
    let mut w = World::new(|| Path::new(50.0, 20, 30, 0.0));
    w.connect();
    w.there.up = false;
    w.back.up = false;
    assert!(w.until(20_000 * MS, |w| w.a.failure() == Some(Failure::Silent)));

    let mut w = World::new(|| Path::new(50.0, 20, 30, 1.0));
    assert!(w.until(20_000 * MS, |w| w.a.failure() == Some(Failure::Silent)));
    assert!(w.b.is_none());
}

#[test]
fn a_slow_reader_holds_the_writer() {
    let mut w = World::new(|| Path::new(100.0, 1, 30, 0.0));
    w.a.settings.buffer = 1 << 20;
    w.connect();
    let data = vec![1u8; 1 << 20];
    let mut put = 0u64;
    w.until(30_000 * MS, |w| {
        put += w.a.write(&data) as u64;
        false
    });
    assert!(put < 80 << 20, "both buffers and no more: {put}");
    let mut sink = vec![0u8; 1 << 20];
    let mut got = 0;
    assert!(w.until(60_000 * MS, |w| {
        let now = w.now;
        got += w.b.as_mut().map_or(0, |b| b.read(now, &mut sink)) as u64;
        got == put
    }));
}

#[test]
fn a_rate_is_kept_to() {
    let mut w = World::new(|| Path::new(100.0, 20, 30, 0.0));
    w.a.set_rate(Some(2_500_000));
    w.connect();
    w.a.set_rate(Some(2_500_000));
    let share = w.share(4);
    assert!((0.17..0.205).contains(&share), "{share}");
}

#[test]
fn the_gate_keeps_nothing_and_answers_with_no_more_than_it_got() {
    let gate = Gate::new([1; 32]);
    let from = "192.0.2.1:1".parse().expect("an address");
    let mut client = Core::client(0, settings(), 1, 2, [0; 4]);
    client.on_time(0);
    let mut ask = Vec::new();
    client.transmit(0, &mut ask);
    let Answer::Reply(reply) = gate.answer(0, from, &ask) else { panic!("a greeting is answered") };
    assert!(reply.len() <= ask.len());
    client.on_datagram(1, &reply);
    let mut confirm = Vec::new();
    client.transmit(1, &mut confirm);
    assert!(matches!(gate.answer(1, from, &confirm), Answer::Accept(_)));
    let other = "192.0.2.2:1".parse().expect("an address");
    assert_eq!(gate.answer(1, other, &confirm), Answer::Ignore, "the cookie is the address's");
    assert_eq!(gate.answer(100_000 * MS, from, &confirm), Answer::Ignore, "and ages");
    assert_eq!(gate.answer(0, from, b"GET / HTTP/1.1\r\n\r\n"), Answer::Ignore);
}

proptest::proptest! {
    #[test]
    fn no_datagram_makes_a_connection_panic(
        packets in proptest::collection::vec(proptest::collection::vec(proptest::num::u8::ANY, 16..120), 1..40),
        kinds in proptest::collection::vec(0u8..10, 40),
    ) {
        let hello = Handshake {
            version: 4, kind: 1, isn: 5, mss: 1500, window: 100, request: -1, socket: 9, cookie: 0, address: [0; 4],
        };
        let mut core = Core::server(0, settings(), &hello, 22, [0; 4]);
        core.write(&[1; 100_000]);
        let mut out = Vec::new();
        for (i, mut p) in packets.into_iter().enumerate() {
            // Addressed to it, with numbers near its own, so that they get past the door.
            p[12..16].copy_from_slice(&22u32.to_be_bytes());
            p[0] = if kinds[i] == 9 { 0 } else { 0x80 };
            p[1] = if kinds[i] == 9 { 0 } else { kinds[i] };
            if p.len() > 18 { p[16] &= 0x80; p[17] = 0; p[18] = 0; }
            let now = i as u64 * 7 * MS;
            core.on_datagram(now, &p);
            core.on_time(now);
            out.clear();
            core.transmit(now, &mut out);
            let mut sink = [0; 4000];
            core.read(now, &mut sink);
        }
    }
}
