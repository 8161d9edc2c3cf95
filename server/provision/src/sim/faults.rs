//! What goes wrong, and chance.

/// A generator that gives the same for the same seed.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit.max(1)
    }
}

/// What goes wrong.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    /// Of a thousand calls, so many fail before anything is done.
    pub(crate) before: u64,
    /// Of a thousand calls, so many are done, and the answer is lost.
    pub(crate) after: u64,
    /// Calls of these names are denied.
    pub(crate) denied: Vec<&'static str>,
    /// Launches, from the first, whose instances end at once.
    pub(crate) stillborn: u32,
    /// There is never room for an instance.
    pub(crate) full: bool,
}
