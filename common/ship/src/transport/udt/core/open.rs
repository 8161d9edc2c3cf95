//! How a connection begins.

use super::super::packet::{self, HEADER, Handshake, IP_UDP, Request, STREAM, VERSION};
use super::send::Sender;
use super::{Core, Failure, MS, Settings, State, Word};
use crate::transport::udt::control::Nanos;

/// Packets that no peer may refuse for their size.
const LEAST_MSS: usize = 576;
/// Packets that may leave before the peer has agreed: TLS's first word, and no flood.
const EARLY: usize = 16;
/// libudt repeats its greeting this often.
const REPEAT: Nanos = 250 * MS;

impl Core {
    /// A client. `isn` and `own` must be hard to guess; `address` is the listener's, as libudt writes it.
    pub fn client(now: Nanos, settings: Settings, isn: u32, own: u32, address: [u32; 4]) -> Self {
        let hello = Handshake {
            version: VERSION,
            kind: STREAM,
            isn: isn & packet::SEQ_MASK,
            mss: u32::try_from(settings.mss).unwrap_or(1500),
            window: window(&settings),
            request: Request::ASK,
            socket: own,
            cookie: 0,
            address,
        };
        Self::new(now, settings, hello, own, State::Connecting)
    }

    /// A server's end, made when a client has shown its cookie.
    pub fn server(now: Nanos, mut settings: Settings, ask: &Handshake, own: u32, address: [u32; 4]) -> Self {
        settings.mss = settings.mss.min(ask.mss as usize).max(576);
        let hello = Handshake {
            mss: u32::try_from(settings.mss).unwrap_or(1500),
            window: window(&settings),
            request: Request::CONFIRM,
            socket: own,
            address,
            ..*ask
        };
        let mut core = Self::new(now, settings, Handshake { window: ask.window, ..hello }, own, State::Open);
        core.hello = hello;
        core.peer = ask.socket;
        core.alias = ask.socket;
        core.words.push((Word::Handshake(hello), ask.socket));
        core
    }

    /// Says the greeting again when it is time, and gives up when it is too late.
    pub(super) fn greet(&mut self, now: Nanos) {
        if now > self.began + self.settings.connect {
            self.state = State::Closed(Some(Failure::Silent));
            return;
        }
        if now < self.hello_due {
            return;
        }
        self.hello_due = now + REPEAT;
        self.hello_tries += 1;
        if self.hello_tries > 8 && self.hello.request == Request::CONFIRM {
            // Cookies age: ask for a new one.
            (self.hello.request, self.hello.cookie, self.hello_tries) = (Request::ASK, 0, 1);
        }
        self.hello_sent = (self.hello_tries == 1).then_some(now);
        self.words.push((Word::Handshake(self.hello), 0));
    }

    pub(super) fn on_handshake(&mut self, now: Nanos, dest: u32, h: &Handshake) {
        match self.state {
            State::Connecting | State::Early if dest == self.own => self.on_answer(now, h),
            // The client has not got our answer and asks again. Not more than once a beat, whoever asks.
            State::Open
                if self.hello.request == Request::CONFIRM
                    && self.hello_tries == 0
                    && h.socket == self.peer
                    && h.isn == self.isn
                    && now >= self.hello_due =>
            {
                self.hello_due = now + 10 * MS;
                self.words.push((Word::Handshake(self.hello), self.peer));
            }
            _ => {}
        }
    }

    fn on_answer(&mut self, now: Nanos, h: &Handshake) {
        let rtt = self.hello_sent.map(|at| now.saturating_sub(at));
        match h.request {
            Request::ASK if self.hello.request == Request::ASK => {
                (self.hello.request, self.hello.cookie) = (Request::CONFIRM, h.cookie);
                (self.hello_due, self.hello_tries) = (now, 0);
                self.heard = now;
                if let Some(rtt) = rtt {
                    self.learn_rtt(rtt);
                }
                self.greet(now);
                if packet::is_ours(h) && self.state == State::Connecting {
                    // What goes out now must suit whatever the peer will agree to, so it is small and little.
                    self.send = Sender::new(LEAST_MSS - IP_UDP - HEADER, EARLY, EARLY as u64);
                    self.state = State::Early;
                    self.pace = now;
                    self.look(now);
                }
            }
            Request::CONFIRM => {
                let mss = usize::try_from(h.mss).unwrap_or(0);
                if h.isn != self.isn || h.version != VERSION || !(576..=self.settings.mss).contains(&mss) {
                    self.state = State::Closed(Some(Failure::Protocol));
                    return;
                }
                let mut settings = self.settings.clone();
                settings.mss = mss;
                let mut open = Self::new(
                    self.began,
                    settings,
                    Handshake { window: h.window, ..self.hello },
                    self.own,
                    State::Open,
                );
                // The driver still sleeps until what it planned before.
                open.planned = self.planned;
                open.hello_tries = 1;
                open.peer = h.socket;
                open.heard = now;
                open.pace = now;
                open.said = now;
                (open.rtt, open.rttvar) = (self.rtt, self.rttvar);
                match rtt {
                    Some(rtt) => open.learn_rtt(rtt),
                    None => open.control.first_rtt(self.rtt),
                }
                if self.state == State::Early {
                    let wider = std::mem::replace(&mut open.send, Sender::new(0, 0, 0));
                    open.send = std::mem::replace(&mut self.send, Sender::new(0, 0, 0)).widened(now, &wider);
                    open.message = self.message;
                    open.written_total = self.written_total;
                    open.look = self.look;
                    (open.fin, open.fin_due) = (self.fin, now);
                }
                *self = open;
            }
            Request::REFUSE => self.state = State::Closed(Some(Failure::Refused)),
            _ => {}
        }
    }

    fn learn_rtt(&mut self, rtt: Nanos) {
        (self.rtt, self.rttvar) = (rtt, rtt / 2);
        self.ack_beat = (rtt / 8).clamp(MS, super::BEAT);
        self.control.first_rtt(rtt);
    }
}

/// Packets that we are ready to receive.
fn window(settings: &Settings) -> u32 {
    u32::try_from((settings.buffer / settings.mss.max(576)).max(32)).unwrap_or(u32::MAX)
}
