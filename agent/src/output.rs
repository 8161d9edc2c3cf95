//! Where everything that people or programs read is written: data to standard output, the rest to standard error.

use std::io::{self, Write};

/// It was done.
pub const OK: u8 = 0;
/// The operation failed.
pub const FAILED: u8 = 1;
/// The call's words are wrong, or a plan has changes.
pub const USAGE: u8 = 2;
/// A plan has changes.
pub const CHANGES: u8 = 2;
/// The instance is not as its kickstart says.
pub const NOT_CONVERGED: u8 = 3;
/// Try again later.
pub const TEMPORARY: u8 = 75;

/// Standard output and standard error, or what a test puts there.
pub struct Output<'o> {
    /// Data.
    pub out: &'o mut dyn Write,
    /// Everything else.
    pub err: &'o mut dyn Write,
}

impl Output<'_> {
    /// Writes data; `code`, or [`FAILED`] if it could not be written. A reader that has gone away has seen enough.
    pub fn data(&mut self, text: &str, code: u8) -> u8 {
        match self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => FAILED,
            _ => code,
        }
    }

    /// Writes a message. Nobody can be told that this failed.
    pub fn message(&mut self, text: &str) {
        let _ = self.err.write_all(text.as_bytes());
    }
}
