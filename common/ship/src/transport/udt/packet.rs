//! The wire format of UDT4, as libudt 4.11 sends it, and what we add to it without disturbing libudt.
//!
//! Every packet is a datagram that begins with four words, most significant byte first:
//!
//! ```text
//! data     0 | sequence number (31)                  control  1 | type (15) | subtype (16)
//!          boundary (2) | in order (1) | message (29)         information of the type
//!          timestamp, microseconds                            timestamp, microseconds
//!          destination socket                                 destination socket
//! ```
//!
//! We add, where libudt does not look: a [`Report`] behind the six words of an acknowledgement; a word of ours in the body of
//! ACK2 and of shutdown; and control packets of the type that UDT4 leaves to its users, for the end of the stream.

/// Bytes of the header of every packet.
pub const HEADER: usize = 16;
/// Bytes of IPv4 and UDP headers, which UDT counts into its "MSS".
pub const IP_UDP: usize = 28;
/// The protocol version that both ends must name.
pub const VERSION: u32 = 4;
/// The socket type of a stream.
pub const STREAM: u32 = 1;
/// Bytes of a handshake's body.
pub const HANDSHAKE: usize = 48;
/// Marks words that only we understand ("RKX1").
pub const MAGIC: u32 = 0x524b_5831;
/// Sequence numbers wrap here.
pub const SEQ_MASK: u32 = 0x7fff_ffff;
/// The most ranges that one packet may carry; a sender of more is not believed.
const MAX_RANGES: usize = 512;
/// Up to so many holes are written as ranges; more are written as one bit a packet.
const FEW_HOLES: usize = 48;
/// Words before the holes in the body of a full acknowledgement of ours.
const ACK_WORDS: usize = 14;
/// Words of bits that an acknowledgement holds at most.
const MAX_BITS: usize = 340;

const CONTROL: u32 = 0x8000_0000;
const USER: u16 = 0x7fff;

/// The body of a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handshake {
    /// [`VERSION`].
    pub version: u32,
    /// [`STREAM`].
    pub kind: u32,
    /// The first sequence number, the same for both directions.
    pub isn: u32,
    /// The largest IP packet, headers included.
    pub mss: u32,
    /// How many packets may be under way.
    pub window: u32,
    /// What is asked; see [`Request`].
    pub request: i32,
    /// The socket of whoever sends this.
    pub socket: u32,
    /// What the listener gave to show that the client's address is true.
    pub cookie: u32,
    /// The receiver's address as the sender sees it; the words in libudt's order.
    pub address: [u32; 4],
}

/// Marks a listener's first answer as that of ours: libudt does not look at the address in it.
pub fn mark(h: Handshake) -> Handshake {
    let [a, b, c, _] = h.address;
    Handshake { address: [a, b, c, MAGIC], ..h }
}

/// Whether a listener's first answer came from ours.
pub fn is_ours(h: &Handshake) -> bool {
    h.address[3] == MAGIC
}

/// The values of [`Handshake::request`].
#[derive(Debug)]
pub enum Request {}

impl Request {
    /// The client's first word, and the listener's answer with a cookie.
    pub const ASK: i32 = 1;
    /// The client again with its cookie, and the final answer.
    pub const CONFIRM: i32 = -1;
    /// The listener will not have this connection.
    pub const REFUSE: i32 = 1002;
}

/// A range of sequence numbers, both ends included.
pub type Range = (u32, u32);

/// What our receiver tells our sender in every full acknowledgement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Bytes of IP packets that arrived, each packet counted once.
    pub received: u64,
    /// Packets that arrived again.
    pub duplicates: u32,
    /// The timestamp of the data packet that arrived last.
    pub echo: u32,
    /// Microseconds since it arrived.
    pub delay: u32,
    /// Everything below this and not in `holes` has arrived.
    pub upto: u32,
    /// What has not arrived between the acknowledged number and `upto`, in order.
    pub holes: Vec<Range>,
}

/// An acknowledgement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ack {
    /// Its own number, which ACK2 returns.
    pub number: u32,
    /// Everything before this has arrived.
    pub seq: u32,
    /// RTT in microseconds, its variance, and packets that the receiver has room for. Missing in a light acknowledgement.
    pub detail: Option<[u32; 3]>,
    /// Packets a second: as they arrive, and as the path might carry.
    pub speed: Option<[u32; 2]>,
    /// Present when the receiver is ours.
    pub report: Option<Report>,
}

/// A control packet's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// Opens a connection.
    Handshake(Handshake),
    /// Shows that the sender lives.
    KeepAlive,
    /// What has arrived.
    Ack(Ack),
    /// What has not.
    Nak(Vec<Range>),
    /// An acknowledgement has arrived; the flag says that the sender of this is ours.
    Ack2(u32, bool),
    /// The connection is over. The word is there when the sender is ours: 1 when it had read our stream to its end, else 0.
    Shutdown(Option<u32>),
    /// Ours: the stream ends before this sequence number.
    Fin(u32),
    /// Ours: all of the stream before this sequence number has arrived.
    FinAck(u32),
    /// Ours: filling, to see how fast packets arrive that leave together. One of so many.
    Probe(u16, u16),
    /// Ours: so many KiB a second of that have arrived.
    Heard(u32),
    /// The type is known but does nothing here.
    Ignored,
}

/// One datagram, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet<'a> {
    /// A piece of the stream.
    Data {
        /// Its place.
        seq: u32,
        /// When it was sent, by the sender's clock.
        timestamp: u32,
        /// Whom it is for.
        dest: u32,
        /// The bytes.
        payload: &'a [u8],
    },
    /// Anything else.
    Control {
        /// When it was sent, by the sender's clock.
        timestamp: u32,
        /// Whom it is for; 0 addresses the listener.
        dest: u32,
        /// What it says.
        control: Control,
    },
}

/// Why a datagram is not a packet.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
pub enum Malformed {
    /// Too short for its type.
    #[error("the packet is too short")]
    Short,
    /// Neither UDT4's types nor ours.
    #[error("unknown control packet")]
    Type,
    /// A list of losses that goes backwards, is cut or too long.
    #[error("the list of losses makes no sense")]
    Losses,
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes.chunks_exact(4).map(|c| u32::from_be_bytes([c[0], c[1], c[2], c[3]]))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let b = bytes.get(at * 4..at * 4 + 4)?;
    Some(u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

/// How far `b` lies after `a`, both 31-bit numbers that wrap; negative when before.
pub fn distance(a: u32, b: u32) -> i64 {
    let d = b.wrapping_sub(a) & SEQ_MASK;
    if d < 0x4000_0000 { i64::from(d) } else { i64::from(d) - 0x8000_0000 }
}

/// Reads one datagram.
pub fn parse(bytes: &[u8]) -> Result<Packet<'_>, Malformed> {
    let (Some(first), Some(info), Some(timestamp), Some(dest)) =
        (word(bytes, 0), word(bytes, 1), word(bytes, 2), word(bytes, 3))
    else {
        return Err(Malformed::Short);
    };
    let body = bytes.get(HEADER..).unwrap_or_default();
    if first & CONTROL == 0 {
        return Ok(Packet::Data { seq: first, timestamp, dest, payload: body });
    }
    // Both are halves of one word: the cuts are exact.
    let (kind, subtype) = (((first >> 16) & 0x7fff) as u16, (first & 0xffff) as u16);
    let control = match kind {
        0 => Control::Handshake(parse_handshake(body)?),
        1 => Control::KeepAlive,
        2 => Control::Ack(parse_ack(info, body)?),
        3 => Control::Nak(parse_ranges(body)?),
        5 => Control::Shutdown((word(body, 0) == Some(MAGIC)).then(|| word(body, 1).unwrap_or(0))),
        6 => Control::Ack2(info, word(body, 0) == Some(MAGIC)),
        4 | 7 | 8 => Control::Ignored,
        USER if word(body, 0) == Some(MAGIC) => match subtype {
            1 => Control::Fin(info & SEQ_MASK),
            2 => Control::FinAck(info & SEQ_MASK),
            // Two halves of one word: the cuts are exact.
            3 => Control::Probe((info >> 16) as u16, (info & 0xffff) as u16),
            4 => Control::Heard(info),
            _ => Control::Ignored,
        },
        USER => Control::Ignored,
        _ => return Err(Malformed::Type),
    };
    Ok(Packet::Control { timestamp, dest, control })
}

fn parse_handshake(body: &[u8]) -> Result<Handshake, Malformed> {
    let mut w = [0u32; HANDSHAKE / 4];
    let mut found = words(body);
    for slot in &mut w {
        *slot = found.next().ok_or(Malformed::Short)?;
    }
    Ok(Handshake {
        version: w[0],
        kind: w[1],
        isn: w[2] & SEQ_MASK,
        mss: w[3],
        window: w[4],
        request: w[5].cast_signed(),
        socket: w[6],
        cookie: w[7],
        address: [w[8], w[9], w[10], w[11]],
    })
}

fn parse_ack(number: u32, body: &[u8]) -> Result<Ack, Malformed> {
    let seq = word(body, 0).ok_or(Malformed::Short)? & SEQ_MASK;
    let triple = |a| Some([word(body, a)?, word(body, a + 1)?, word(body, a + 2)?]);
    let pair = |a| Some([word(body, a)?, word(body, a + 1)?]);
    let report = match (word(body, 6), word(body, 12)) {
        (Some(MAGIC), Some(upto)) => {
            let w = |at| word(body, at).unwrap_or(0);
            let list = body.get(ACK_WORDS * 4..).unwrap_or_default();
            Some(Report {
                received: u64::from(w(7)) << 32 | u64::from(w(8)),
                duplicates: w(9),
                echo: w(10),
                delay: w(11),
                upto: upto & SEQ_MASK,
                holes: if w(13) == 0 { parse_ranges(list)? } else { parse_bits(seq, upto & SEQ_MASK, list)? },
            })
        }
        _ => None,
    };
    Ok(Ack { number, seq, detail: triple(1), speed: pair(4), report })
}

/// Losses: a number alone, or with its highest bit set and followed by the last of its range.
fn parse_ranges(body: &[u8]) -> Result<Vec<Range>, Malformed> {
    let mut out = Vec::new();
    let mut list = words(body);
    while let Some(w) = list.next() {
        let from = w & SEQ_MASK;
        let to = if w & CONTROL == 0 { from } else { list.next().ok_or(Malformed::Losses)? & SEQ_MASK };
        if distance(from, to) < 0 || out.len() == MAX_RANGES {
            return Err(Malformed::Losses);
        }
        out.push((from, to));
    }
    Ok(out)
}

/// How many packets from the acknowledged number on an acknowledgement in a packet of this size can describe.
pub fn reach(payload: usize) -> u64 {
    ((payload / 4).saturating_sub(ACK_WORDS).min(MAX_BITS) * 32) as u64
}

/// Holes as bits: one for every packet from `seq` to before `upto`, set when it is missing.
fn parse_bits(seq: u32, upto: u32, body: &[u8]) -> Result<Vec<Range>, Malformed> {
    let mut out: Vec<Range> = Vec::new();
    let many = distance(seq, upto);
    if body.len() / 4 > MAX_BITS {
        return Err(Malformed::Losses);
    }
    let mut open: Option<u32> = None;
    let mut at = 0i64;
    for w in words(body) {
        for bit in (0..32).rev() {
            if at >= many {
                break;
            }
            // Below 340 × 32: the cut loses nothing.
            let here = seq.wrapping_add(at as u32) & SEQ_MASK;
            at += 1;
            match (w >> bit & 1 == 1, open) {
                (true, None) => open = Some(here),
                (false, Some(from)) => {
                    out.push((from, here.wrapping_sub(1) & SEQ_MASK));
                    open = None;
                }
                _ => {}
            }
        }
    }
    if let Some(from) = open {
        out.push((from, seq.wrapping_add(at as u32).wrapping_sub(1) & SEQ_MASK));
    }
    Ok(out)
}

fn push_bits(out: &mut Vec<u8>, seq: u32, holes: &[Range]) {
    let mut bits = [0u32; MAX_BITS];
    let mut used = 0;
    for (from, to) in holes {
        let (from, to) = (distance(seq, *from), distance(seq, *to));
        for at in from.max(0)..=to.min(MAX_BITS as i64 * 32 - 1) {
            let Ok(at) = usize::try_from(at) else { break };
            bits[at / 32] |= 0x8000_0000 >> (at % 32);
            used = used.max(at / 32 + 1);
        }
    }
    push(out, &bits[..used]);
}

fn push(out: &mut Vec<u8>, words: &[u32]) {
    for w in words {
        out.extend_from_slice(&w.to_be_bytes());
    }
}

fn push_ranges(out: &mut Vec<u8>, ranges: &[Range]) {
    for (from, to) in ranges.iter().take(MAX_RANGES) {
        if from == to {
            push(out, &[*from]);
        } else {
            push(out, &[*from | CONTROL, *to]);
        }
    }
}

/// Appends a data packet.
pub fn put_data(out: &mut Vec<u8>, seq: u32, message: u32, timestamp: u32, dest: u32, payload: &[u8]) {
    // A packet that is a message of its own (both boundary bits), in order: what libudt sends for a stream.
    push(out, &[seq & SEQ_MASK, 0xe000_0000 | (message & 0x1fff_ffff), timestamp, dest]);
    out.extend_from_slice(payload);
}

/// Appends a control packet.
pub fn put_control(out: &mut Vec<u8>, control: &Control, timestamp: u32, dest: u32) {
    let head = |out: &mut Vec<u8>, kind: u32, subtype: u32, info: u32| {
        push(out, &[CONTROL | kind << 16 | subtype, info, timestamp, dest]);
    };
    match control {
        Control::Handshake(h) => {
            head(out, 0, 0, 0);
            push(out, &[h.version, h.kind, h.isn, h.mss, h.window, h.request.cast_unsigned(), h.socket, h.cookie]);
            push(out, &h.address);
        }
        // libudt pads an empty body with a word.
        Control::KeepAlive | Control::Ignored => {
            head(out, 1, 0, 0);
            push(out, &[0]);
        }
        Control::Ack(a) => {
            head(out, 2, 0, a.number);
            push(out, &[a.seq]);
            let Some(detail) = a.detail else { return };
            push(out, &detail);
            let Some(speed) = a.speed else { return };
            push(out, &speed);
            let Some(r) = &a.report else { return };
            // The two halves of the count: the cut is meant.
            push(out, &[MAGIC, (r.received >> 32) as u32, (r.received & 0xffff_ffff) as u32]);
            push(out, &[r.duplicates, r.echo, r.delay, r.upto]);
            let few = r.holes.len() <= FEW_HOLES;
            push(out, &[u32::from(!few)]);
            if few {
                push_ranges(out, &r.holes);
            } else {
                push_bits(out, a.seq, &r.holes);
            }
        }
        Control::Nak(ranges) => {
            head(out, 3, 0, 0);
            push_ranges(out, ranges);
        }
        Control::Ack2(number, ours) => {
            head(out, 6, 0, *number);
            push(out, &[if *ours { MAGIC } else { 0 }]);
        }
        Control::Shutdown(flag) => {
            head(out, 5, 0, 0);
            match flag {
                Some(f) => push(out, &[MAGIC, *f]),
                None => push(out, &[0]),
            }
        }
        Control::Fin(seq) => {
            head(out, USER.into(), 1, *seq);
            push(out, &[MAGIC]);
        }
        Control::FinAck(seq) => {
            head(out, USER.into(), 2, *seq);
            push(out, &[MAGIC]);
        }
        Control::Probe(at, of) => {
            head(out, USER.into(), 3, u32::from(*at) << 16 | u32::from(*of));
            push(out, &[MAGIC]);
        }
        Control::Heard(rate) => {
            head(out, USER.into(), 4, *rate);
            push(out, &[MAGIC]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip(control: Control) {
        let mut out = Vec::new();
        put_control(&mut out, &control, 7, 9);
        assert_eq!(parse(&out), Ok(Packet::Control { timestamp: 7, dest: 9, control }));
    }

    #[test]
    fn every_control_packet_is_read_as_written() {
        round_trip(Control::Handshake(Handshake {
            version: VERSION,
            kind: STREAM,
            isn: 5,
            mss: 1500,
            window: 25600,
            request: Request::CONFIRM,
            socket: 77,
            cookie: 0xffff_0001,
            address: [1, 2, 3, 4],
        }));
        round_trip(Control::KeepAlive);
        round_trip(Control::Ack(Ack { number: 3, seq: 9, ..Ack::default() }));
        let report =
            Report { received: 1 << 40, duplicates: 2, echo: 3, delay: 4, upto: 90, holes: vec![(10, 10), (12, 80)] };
        round_trip(Control::Ack(Ack {
            number: 4,
            seq: 10,
            detail: Some([1, 2, 3]),
            speed: Some([4, 5]),
            report: Some(report),
        }));
        let holes =
            (0..100).map(|i| ((SEQ_MASK - 20 + i * 4) & SEQ_MASK, (SEQ_MASK - 19 + i * 4) & SEQ_MASK)).collect();
        round_trip(Control::Ack(Ack {
            number: 5,
            seq: SEQ_MASK - 20,
            detail: Some([1, 2, 3]),
            speed: Some([4, 5]),
            report: Some(Report { upto: 400, holes, ..Report::default() }),
        }));
        round_trip(Control::Nak(vec![(1, 1), (SEQ_MASK, 3)]));
        round_trip(Control::Ack2(8, true));
        round_trip(Control::Shutdown(None));
        round_trip(Control::Shutdown(Some(1)));
        round_trip(Control::Fin(6));
        round_trip(Control::FinAck(6));
        round_trip(Control::Probe(3, 128));
        round_trip(Control::Heard(1 << 20));
    }

    #[test]
    fn layout_is_that_of_libudt() {
        let mut out = Vec::new();
        put_data(&mut out, 0x0102_0304, 5, 6, 7, b"x");
        assert_eq!(out, [1, 2, 3, 4, 0xe0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 7, b'x']);
        out.clear();
        put_control(&mut out, &Control::Nak(vec![(5, 5), (7, 9)]), 0, 1);
        assert_eq!(out[..4], [0x80, 3, 0, 0]);
        assert_eq!(out[16..], [0, 0, 0, 5, 0x80, 0, 0, 7, 0, 0, 0, 9]);
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(parse(&[0; 15]), Err(Malformed::Short));
        let mut out = Vec::new();
        push(&mut out, &[CONTROL | 3 << 16, 0, 0, 0, CONTROL | 9]);
        assert_eq!(parse(&out), Err(Malformed::Losses), "a range without an end");
        push(&mut out, &[4]);
        assert_eq!(parse(&out), Err(Malformed::Losses), "a range that goes backwards");
        assert_eq!(distance(SEQ_MASK, 2), 3);
        assert_eq!(distance(2, SEQ_MASK), -3);
    }

    proptest! {
        #[test]
        fn no_datagram_makes_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u8..9) {
            let _ = parse(&bytes);
            if bytes.len() > 4 {
                bytes[0] = 0x80;
                bytes[1] = kind;
                let _ = parse(&bytes);
            }
        }
    }
}
