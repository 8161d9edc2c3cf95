//! As much of BER (X.690) as signed messages need: EC2 writes them with indefinite lengths and strings in pieces, which a reader of DER refuses.
//!
//! What is read is borrowed, every step moves forward, and nesting is bounded: hostile bytes cost one pass for each level.

use std::borrow::Cow;

/// How deep values may be nested. EC2's messages have 7 levels.
const DEPTH: u8 = 16;
/// The tag of a set.
pub(super) const SET: u8 = 0x31;
/// The tag of a sequence.
pub(super) const SEQUENCE: u8 = 0x30;
/// The tag of an integer.
pub(super) const INTEGER: u8 = 0x02;
/// The tag of an object identifier.
pub(super) const OID: u8 = 0x06;
/// The tag of a string of octets, and of one in pieces.
const OCTETS: [u8; 2] = [0x04, 0x24];

/// The bytes are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is no signed message ({0})")]
pub struct Malformed(pub(super) &'static str);

/// One value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Value<'v> {
    /// Its tag.
    pub(super) tag: u8,
    /// What is in it.
    pub(super) body: &'v [u8],
    /// It with its tag and its length.
    pub(super) whole: &'v [u8],
    depth: u8,
}

impl<'v> Value<'v> {
    /// The values in it.
    pub(super) const fn inside(&self) -> Reader<'v> {
        Reader { rest: self.body, depth: self.depth }
    }

    /// A string of octets, its pieces put together.
    pub(super) fn octets(&self) -> Result<Cow<'v, [u8]>, Malformed> {
        match self.tag {
            0x04 => Ok(Cow::Borrowed(self.body)),
            0x24 => {
                let (mut pieces, mut all) = (self.inside(), Vec::new());
                while let Some(piece) = pieces.maybe(&OCTETS)? {
                    all.extend_from_slice(&piece.octets()?);
                }
                pieces.end()?;
                Ok(Cow::Owned(all))
            }
            _ => Err(Malformed("a string of octets is missing")),
        }
    }
}

/// Reads values one after the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'v> {
    rest: &'v [u8],
    depth: u8,
}

impl<'v> Reader<'v> {
    /// Of bytes that nobody has looked at.
    pub(super) const fn new(bytes: &'v [u8]) -> Self {
        Self { rest: bytes, depth: DEPTH }
    }

    /// The next value, which must have this tag.
    pub(super) fn need(&mut self, tag: u8, what: &'static str) -> Result<Value<'v>, Malformed> {
        self.maybe(&[tag])?.ok_or(Malformed(what))
    }

    /// The next value, if it has one of these tags.
    pub(super) fn maybe(&mut self, tags: &[u8]) -> Result<Option<Value<'v>>, Malformed> {
        match self.rest.first() {
            Some(tag) if tags.contains(tag) => self.next().map(Some),
            _ => Ok(None),
        }
    }

    /// A string of octets.
    pub(super) fn octets(&mut self) -> Result<Cow<'v, [u8]>, Malformed> {
        self.maybe(&OCTETS)?.ok_or(Malformed("a string of octets is missing"))?.octets()
    }

    /// Nothing more may come.
    pub(super) const fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed("something comes after its end")) }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next value, whatever it is.
    pub(super) fn next(&mut self) -> Result<Value<'v>, Malformed> {
        let cut = Malformed("it is cut off");
        let depth = self.depth.checked_sub(1).ok_or(Malformed("it is nested too deeply"))?;
        let (tag, length) = match self.rest {
            [tag, length, ..] => (*tag, *length),
            _ => return Err(cut),
        };
        if tag & 0x1f == 0x1f || tag == 0 {
            return Err(Malformed("it has a tag of no use"));
        }
        let (start, length) = match length {
            0x80 if tag & 0x20 != 0 => return self.open(tag, depth),
            0..0x80 => (2, usize::from(length)),
            0x81..=0x84 => {
                let count = usize::from(length & 0x7f);
                let bytes = self.rest.get(2..2 + count).ok_or(cut)?;
                (2 + count, bytes.iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte)))
            }
            _ => return Err(Malformed("it has a length of no use")),
        };
        let end = start.checked_add(length).filter(|end| *end <= self.rest.len()).ok_or(cut)?;
        let (whole, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(Value { tag, body: &whole[start..], whole, depth })
    }

    /// A value that ends where two zero bytes stand in place of a value.
    fn open(&mut self, tag: u8, depth: u8) -> Result<Value<'v>, Malformed> {
        let mut inside = Reader { rest: &self.rest[2..], depth };
        while !inside.rest.starts_with(&[0, 0]) {
            inside.next()?;
        }
        let end = self.rest.len() - inside.rest.len();
        let (whole, rest) = self.rest.split_at(end + 2);
        self.rest = rest;
        Ok(Value { tag, body: &whole[2..end], whole: &whole[..end + 2], depth })
    }
}

/// The DER of a set of values that are DER: in ascending order, with the shortest length.
pub(super) fn set_of(mut values: Vec<&[u8]>) -> Vec<u8> {
    values.sort_unstable();
    let length = values.iter().map(|value| value.len()).sum::<usize>();
    let mut der = vec![SET];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => der.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let from = bytes.iter().take_while(|byte| **byte == 0).count();
            der.push(0x80 | u8::try_from(bytes.len() - from).unwrap_or_default());
            der.extend_from_slice(&bytes[from..]);
        }
    }
    der.extend(values.into_iter().flatten());
    der
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_every_form_are_read_and_ends_are_where_they_are_said_to_be() {
        let mut two = Reader::new(&[4, 1, 7, 0x24, 0x80, 4, 0x81, 1, 8, 0x24, 4, 4, 0, 4, 0, 0, 0]);
        assert_eq!(two.octets().expect("one").as_ref(), [7]);
        assert_eq!(two.octets().expect("one in pieces").as_ref(), [8]);
        two.end().expect("no more");
        for bad in [
            &[4][..],
            &[4, 2, 1],
            &[4, 0x80, 0, 0],
            &[0x24, 0x80, 4, 0],
            &[0x24, 0x80, 4, 0, 0],
            &[0x1f, 0x20, 0],
            &[4, 0x85, 0, 0, 0, 0, 0],
            &[4, 0x84, 0xff, 0xff, 0xff, 0xff],
            &[0x24, 2, 5, 0],
            &[5, 0],
        ] {
            assert!(Reader::new(bad).octets().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn nesting_ends_before_the_stack_does() {
        for (open, count) in [(&[0x24, 0x80][..], 32_000), (&[0x24, 0x80], 17)] {
            let deep = open.repeat(count);
            assert_eq!(Reader::new(&deep).octets(), Err(Malformed("it is nested too deeply")));
            let closed = [deep, [0, 0].repeat(count)].concat();
            assert_eq!(Reader::new(&closed).octets(), Err(Malformed("it is nested too deeply")));
        }
        let bearable = [[0x24, 0x80].repeat(14), vec![4, 1, 9], [0, 0].repeat(14)].concat();
        assert_eq!(Reader::new(&bearable).octets().expect("read").as_ref(), [9]);
    }

    #[test]
    fn a_set_is_in_order_and_its_length_is_the_shortest() {
        assert_eq!(set_of(vec![&[5, 0], &[4, 1, 1], &[4, 0]]), [SET, 7, 4, 0, 4, 1, 1, 5, 0]);
        let long = vec![7; 200];
        assert_eq!(set_of(vec![&long])[..3], [SET, 0x81, 200]);
        let long = vec![7; 700];
        assert_eq!(set_of(vec![&long])[..4], [SET, 0x82, 2, 188]);
    }
}
