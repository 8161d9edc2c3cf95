//! How far long work is: a bar on a terminal, a line now and then elsewhere, JSON lines on request. All of it on standard error.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde_json::Value;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// A bar on a terminal, a line every ten seconds elsewhere
    Auto,
    /// One JSON document a line
    Json,
    /// Not at all
    None,
}

/// How often a line is written where there is no terminal.
const EVERY: Duration = Duration::from_secs(10);

/// Shows progress until it is dropped.
pub(super) struct Progress {
    mode: Mode,
    bar: Option<ProgressBar>,
    last: Instant,
}

impl Progress {
    pub(super) fn new(mode: Mode, quiet: bool) -> Self {
        let mode = if quiet && mode == Mode::Auto { Mode::None } else { mode };
        let plain = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let bar = (mode == Mode::Auto && std::io::stderr().is_terminal() && !plain).then(|| {
            let bar = ProgressBar::new(1);
            if let Ok(style) = ProgressStyle::with_template("{bar:30} {msg} {elapsed}") {
                bar.set_style(style);
            }
            bar
        });
        Self { mode, bar, last: Instant::now() }
    }

    /// Tells of one step.
    pub(super) fn tell(&mut self, value: &Value) {
        if self.mode == Mode::Json {
            // Nobody can be told that this failed.
            let _ = writeln!(std::io::stderr(), "{value}");
            return;
        }
        let number = |name: &str| value[name].as_u64();
        if let (Some(step), Some(doing)) = (value["step"].as_str(), value["doing"].as_str()) {
            let text = format!("{step}: {doing}");
            match &self.bar {
                Some(bar) => bar.set_message(text),
                None if self.mode == Mode::Auto => drop(writeln!(std::io::stderr(), "{text}")),
                None => {}
            }
            return;
        }
        let (at, of, text) = if let (Some(phase), Some(of)) = (value["phase"].as_str(), number("of")) {
            let done = number("done").unwrap_or(0);
            let sent = number("sent_bytes").map(|sent| format!(", {} sent", HumanBytes(sent))).unwrap_or_default();
            (done, of, format!("{phase}: {done}/{of} blocks{sent}"))
        } else {
            match self::amounts(value) {
                Some(amounts) => amounts,
                None => return,
            }
        };
        if let Some(bar) = &self.bar {
            bar.set_length(of.max(1));
            bar.set_position(at);
            bar.set_message(text);
        } else if self.mode == Mode::Auto && self.last.elapsed() >= EVERY {
            self.last = Instant::now();
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }
}

/// How far a copy or a rebuild is.
fn amounts(value: &Value) -> Option<(u64, u64, String)> {
    let number = |name: &str| value[name].as_u64();
    Some(match (number("of_bytes"), number("of"), number("files")) {
        (Some(of), ..) => {
            let (bytes, there) = (number("bytes").unwrap_or(0), number("packages").unwrap_or(0));
            let all = number("of_packages").unwrap_or(0);
            (bytes, of, format!("{there}/{all} packages, {} of {}", HumanBytes(bytes), HumanBytes(of)))
        }
        (_, Some(of), _) => {
            let read = number("read").unwrap_or(0);
            (read, of, format!("{read}/{of} packages read"))
        }
        (.., Some(files)) => (0, files, format!("{files} packages found")),
        _ => return None,
    })
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
