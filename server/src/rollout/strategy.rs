//! What an administrator says of rollouts, parsed once: in which waves, how long each is watched, how many hosts may fail.

use std::fmt;
use std::str::FromStr;

use jiff::SignedDuration;
use jiff::fmt::friendly::{Designator, Spacing, SpanPrinter};
use serde::{Deserialize, Serialize};

/// Waves that a strategy may name.
const WAVES: usize = 20;
/// The longest time that a strategy may name, in hours.
const HOURS: i64 = 24 * 30;

/// Why a text is no part of a strategy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct StrategyError {
    what: String,
    hint: &'static str,
}

impl StrategyError {
    fn new(what: String, hint: &'static str) -> Self {
        Self { what, hint }
    }

    /// What to write instead.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        self.hint
    }
}

macro_rules! as_text {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = StrategyError;
            fn try_from(text: String) -> Result<Self, StrategyError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
    };
}

/// How many hosts: so many, or a share of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Share {
    /// So many.
    Count(u32),
    /// Of a hundred, at most a hundred.
    Percent(u8),
}

impl Share {
    /// How many of `all` that is; a part of a host is a host.
    #[must_use]
    pub fn or_more(self, all: usize) -> usize {
        match self {
            Self::Count(count) => all.min(count as usize),
            Self::Percent(percent) => all.saturating_mul(usize::from(percent)).div_ceil(100),
        }
    }

    /// How many of `all` that is; a part of a host is none.
    #[must_use]
    pub fn or_fewer(self, all: usize) -> usize {
        match self {
            Self::Count(count) => all.min(count as usize),
            Self::Percent(percent) => all.saturating_mul(usize::from(percent)) / 100,
        }
    }
}

impl FromStr for Share {
    type Err = StrategyError;

    fn from_str(text: &str) -> Result<Self, StrategyError> {
        let hint = "a number of hosts, or a share of them: 3, 10%";
        let bad = || StrategyError::new(format!("{text:?} is no number of hosts"), hint);
        match text.strip_suffix('%') {
            None => text.parse().map(Self::Count).map_err(|_| bad()),
            Some(percent) => {
                let percent = percent.parse().ok().filter(|percent| *percent <= 100);
                percent.map(Self::Percent).ok_or_else(bad)
            }
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

as_text!(Share);

/// How many hosts have the new kickstart at the end of each wave. The last wave is all of them, whether it is named or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Waves(Vec<Share>);

impl Waves {
    /// The number of hosts at the end of each wave, growing, the last being `all`. `there` of them can be seen; the others are left to the
    /// last wave, and shares are shares of those who are there.
    #[must_use]
    pub fn sizes(&self, there: usize, all: usize) -> Vec<usize> {
        let mut sizes: Vec<usize> = Vec::new();
        for share in &self.0 {
            let size = share.or_more(there);
            if size > sizes.last().copied().unwrap_or(0) && size < all {
                sizes.push(size);
            }
        }
        sizes.push(all);
        sizes
    }
}

impl FromStr for Waves {
    type Err = StrategyError;

    fn from_str(text: &str) -> Result<Self, StrategyError> {
        let hint = "numbers of hosts and then shares, each larger than the one before: waves=1,10%,50%";
        let bad = |what: String| StrategyError::new(what, hint);
        let shares: Vec<Share> = text.split(',').map(|part| part.trim().parse()).collect::<Result<_, _>>()?;
        if shares.len() > WAVES {
            return Err(bad(format!("{} waves are more than {WAVES}", shares.len())));
        }
        if shares.iter().any(|share| matches!(share, Share::Count(0) | Share::Percent(0))) {
            return Err(bad("a wave has at least one host".to_owned()));
        }
        for (before, after) in shares.iter().zip(shares.iter().skip(1)) {
            let grows = match (before, after) {
                (Share::Count(before), Share::Count(after)) => before < after,
                (Share::Percent(before), Share::Percent(after)) => before < after,
                (Share::Count(_), Share::Percent(_)) => true,
                // How many a share is, is known only when the hosts are.
                (Share::Percent(_), Share::Count(_)) => false,
            };
            if !grows {
                return Err(bad(format!("the wave {after} does not stand after {before}")));
            }
        }
        Ok(Self(shares))
    }
}

impl fmt::Display for Waves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&parts.join(","))
    }
}

as_text!(Waves);

/// How long something lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(SignedDuration);

impl Span {
    /// So many seconds.
    #[must_use]
    pub const fn seconds(seconds: u32) -> Self {
        Self(SignedDuration::from_secs(seconds as i64))
    }

    /// As a length of time.
    #[must_use]
    pub const fn length(self) -> SignedDuration {
        self.0
    }
}

impl FromStr for Span {
    type Err = StrategyError;

    fn from_str(text: &str) -> Result<Self, StrategyError> {
        let hint = "a number and its unit: 30s, 5m, 2h; at most 30 days";
        let bad = || StrategyError::new(format!("{text:?} is no length of time"), hint);
        if text == "0" {
            return Ok(Self(SignedDuration::ZERO));
        }
        let span: SignedDuration = text.parse().map_err(|_| bad())?;
        let is_fine = !span.is_negative() && span <= SignedDuration::from_hours(HOURS);
        is_fine.then_some(Self(span)).ok_or_else(bad)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let printer = SpanPrinter::new().designator(Designator::Compact).spacing(Spacing::None);
        f.write_str(&printer.duration_to_string(&self.0))
    }
}

as_text!(Span);

/// How a change reaches the hosts of an appliance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Strategy {
    /// The waves.
    pub waves: Waves,
    /// How long all hosts of a wave must have been well before the next begins.
    pub soak: Span,
    /// How many hosts may fail before the rollout stops by itself; a share is one of those who have the new kickstart.
    pub failures: Share,
    /// How long a host may take.
    pub timeout: Span,
}

impl Default for Strategy {
    fn default() -> Self {
        Self {
            waves: Waves(vec![Share::Count(1), Share::Percent(10), Share::Percent(50)]),
            soak: Span::seconds(300),
            failures: Share::Count(0),
            timeout: Span::seconds(1800),
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { waves, soak, failures, timeout } = self;
        write!(f, "waves={waves} soak={soak} failures={failures} timeout={timeout}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waves(text: &str) -> Waves {
        text.parse().expect("waves")
    }

    #[test]
    fn waves_grow_and_end_with_all() {
        assert_eq!(waves("1,10%,50%,100%").sizes(100, 100), [1, 10, 50, 100]);
        assert_eq!(waves("1, 10%").sizes(3, 3), [1, 3]);
        assert_eq!(waves("5").sizes(3, 3), [3]);
        assert_eq!(waves("1,2,10%,50%").sizes(10, 10), [1, 2, 5, 10]);
        // Who is not there comes last, and is no part of what shares are shares of.
        assert_eq!(waves("1,50%").sizes(4, 10), [1, 2, 10]);
        assert_eq!(waves("1,100%").sizes(4, 10), [1, 4, 10]);
        assert_eq!(waves("1,50%").sizes(0, 10), [10]);
    }

    #[test]
    fn what_is_no_strategy_is_refused_with_a_hint() {
        for bad in [
            "",
            "0",
            "10%,1",
            "2,2",
            "50%,10%",
            "101%",
            "x",
            "1,,2",
            "-1",
            "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21",
        ] {
            let error = bad.parse::<Waves>().expect_err(bad);
            assert!(!error.hint().is_empty(), "{bad}");
        }
        for bad in ["", "5", "-5m", "x", "31d", "9999999h"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_strategy_survives_its_text() {
        for (text, printed) in [("5m", "5m"), ("0", "0s"), ("90s", "1m30s"), ("2h", "2h"), ("500ms", "500ms")] {
            let span: Span = text.parse().expect(text);
            assert_eq!(span.to_string(), printed);
            assert_eq!(span.to_string().parse::<Span>(), Ok(span));
        }
        let json = serde_json::to_string(&Strategy::default()).expect("json");
        assert_eq!(json, r#"{"waves":"1,10%,50%","soak":"5m","failures":"0","timeout":"30m"}"#);
        assert_eq!(serde_json::from_str::<Strategy>(&json).expect("a strategy"), Strategy::default());
        assert_eq!((Share::Percent(5).or_fewer(19), Share::Percent(5).or_more(19)), (0, 1));
    }
}
