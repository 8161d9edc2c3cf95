//! What writes disks' files: it counts, and fills up to where the next part begins.

use std::io::{self, Write};

/// A writer that knows how far it is.
pub(super) struct Out<'w> {
    to: &'w mut dyn Write,
    written: u64,
}

impl<'w> Out<'w> {
    pub(super) fn new(to: &'w mut dyn Write) -> Self {
        Self { to, written: 0 }
    }

    /// Bytes that were written.
    pub(super) const fn written(&self) -> u64 {
        self.written
    }

    pub(super) fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.to.write_all(bytes)
    }

    /// Zeros up to a multiple of `unit`.
    pub(super) fn fill(&mut self, unit: u64) -> io::Result<()> {
        let rest = self.written.next_multiple_of(unit) - self.written;
        self.put(&vec![0; usize::try_from(rest).unwrap_or(0)])
    }
}
