//! Where everything that people or programs read is written: data to standard output, the rest to standard error.

use std::io::{self, Write};
use std::process::ExitCode;

/// The exit codes of all our programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It was done.
    Ok,
    /// The operation failed.
    Failed,
    /// The call's words are wrong.
    Usage,
    /// It works, but is not as it should be.
    Unhealthy,
    /// There is no such object.
    NoSuchObject,
    /// Somebody else was faster.
    Conflict,
    /// Try again later.
    Temporary,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl Exit {
    /// The number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unhealthy => 3,
            Self::NoSuchObject => 4,
            Self::Conflict => 5,
            Self::Temporary => 75,
        }
    }
}

/// An error and what caused it. An error that names its cause itself is not followed by that once more.
#[must_use]
pub fn chain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Standard output and standard error, or what a test puts there.
pub struct Output<'o> {
    /// Data.
    pub out: &'o mut dyn Write,
    /// Everything else.
    pub err: &'o mut dyn Write,
}

impl Output<'_> {
    /// Writes data. A reader that has gone away is no error: it has seen enough.
    ///
    /// # Errors
    /// The output cannot be written, for another reason.
    pub fn data(&mut self, text: &str) -> io::Result<()> {
        match self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }

    /// Writes a message. Nobody can be told that this failed.
    pub fn message(&mut self, text: &str) {
        let _ = self.err.write_all(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("/ca: {source}")]
        struct Named {
            source: io::Error,
        }
        let cause = || io::Error::from(io::ErrorKind::PermissionDenied);
        let named = Err::<(), _>(Named { source: cause() }).context("cannot begin").expect_err("it is one");
        assert_eq!(chain(&named), "cannot begin: /ca: permission denied");
        let bare = Err::<(), _>(cause()).context("cannot listen").expect_err("it is one");
        assert_eq!(chain(&bare), "cannot listen: permission denied");
    }
}
