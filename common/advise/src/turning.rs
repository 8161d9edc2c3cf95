//! Break-even points: how far one thing may change, all else as asked, until another method is the better one.

use serde::Serialize;

use crate::advice::best;
use crate::ask::{Ask, Method};
use crate::estimate::{AdviseError, estimates};
use crate::prices::PriceBook;
use crate::site::Site;
use crate::units::{Bytes, Rate, Span, lossy, nearest};

/// What is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    /// The number of instances.
    Count,
    /// The bytes of the packages that are added, with their number in proportion; the image stays.
    Added,
    /// The link's rate, in bits a second.
    Rate,
    /// The link's round trip, in seconds.
    Rtt,
    /// The link's loss, 0 to 1.
    Loss,
}

/// A break-even point.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Turn {
    /// What is changed.
    pub dimension: Dimension,
    /// The last value, in the dimension's unit, at which `from` is the choice.
    pub last: f64,
    /// The first value at which `to` is.
    pub first: f64,
    /// The choice as asked.
    pub from: Method,
    /// The choice beyond.
    pub to: Method,
}

impl Turn {
    /// Whether the choice changes when the value grows, not when it shrinks.
    #[must_use]
    pub fn upwards(&self) -> bool {
        self.first > self.last
    }
}

impl Dimension {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Count, Self::Added, Self::Rate, Self::Rtt, Self::Loss];

    /// A word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Count => "instances",
            Self::Added => "added packages",
            Self::Rate => "link rate",
            Self::Rtt => "round trip",
            Self::Loss => "loss",
        }
    }

    /// A value of it, for people.
    #[must_use]
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Count => format!("{value:.0}"),
            Self::Added => Bytes(nearest(value)).to_string(),
            Self::Rate => Rate::from_bits(nearest(value)).to_string(),
            Self::Rtt => Span::from_seconds_f64(value).to_string(),
            Self::Loss => percent(value),
        }
    }

    /// The range that is searched: what one meets.
    const fn range(self) -> (f64, f64) {
        match self {
            Self::Count => (1.0, 10_000.0),
            Self::Added => (64.0 * 1024.0, 1e12),
            Self::Rate => (1e5, 1e11),
            Self::Rtt => (1e-4, 2.0),
            Self::Loss => (1e-7, 0.2),
        }
    }

    /// The value in a question.
    #[must_use]
    pub fn value(self, ask: &Ask, site: &Site) -> f64 {
        match self {
            Self::Count => lossy(ask.count),
            Self::Added => ask.added.bytes.as_f64(),
            Self::Rate => site.link.rate.as_f64(),
            Self::Rtt => site.link.rtt.seconds(),
            Self::Loss => site.link.loss,
        }
    }

    /// The question with another value.
    #[must_use]
    pub fn with(self, ask: &Ask, site: &Site, value: f64) -> (Ask, Site) {
        let (mut ask, mut site) = (ask.clone(), site.clone());
        match self {
            Self::Count => ask.count = nearest(value),
            Self::Added => ask.added = ask.added.resized(Bytes(nearest(value))),
            Self::Rate => site.link.rate = Rate::from_bits(nearest(value)),
            Self::Rtt => site.link.rtt = Span::from_seconds_f64(value),
            Self::Loss => site.link.loss = value,
        }
        (ask, site)
    }

    /// The middle of two values; none if there is nothing between them that could be told apart.
    fn between(self, a: f64, b: f64) -> Option<f64> {
        if self == Self::Count {
            let middle = ((a + b) / 2.0).floor();
            return (middle > a.min(b) && middle < a.max(b)).then_some(middle);
        }
        let middle = (a * b).sqrt();
        let apart = (a - b).abs() > 1e-6 * a.max(b) && middle > a.min(b) && middle < a.max(b);
        // A byte, a bit a second and a microsecond are as fine as it gets.
        let grain = match self {
            Self::Rtt => 2e-6,
            Self::Loss => 0.0,
            _ => 2.0,
        };
        (apart && (a - b).abs() > grain).then_some(middle)
    }
}

fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let decimals = if percent >= 1.0 {
        1
    } else if percent >= 0.01 {
        3
    } else {
        5
    };
    let text = format!("{percent:.decimals$}");
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

/// The next break-even point below and above, of each dimension.
pub(crate) fn turns(ask: &Ask, site: &Site, book: &PriceBook) -> Result<Vec<Turn>, AdviseError> {
    let mut found = Vec::new();
    for dimension in Dimension::ALL {
        let choice = |value: f64| -> Result<Option<Method>, AdviseError> {
            let (ask, site) = dimension.with(ask, site, value);
            let (estimates, _) = estimates(&ask, &site, book)?;
            Ok(best(&estimates, ask.prefer).map(|best| best.method))
        };
        let now = dimension.value(ask, site);
        let Some(from) = choice(now)? else { continue };
        for upwards in [false, true] {
            if let Some((last, first, to)) = search(dimension, now, from, upwards, &choice)? {
                found.push(Turn { dimension, last, first, from, to });
            }
        }
    }
    Ok(found)
}

type Found = Option<(f64, f64, Method)>;

/// Steps away from `now` by a quarter each time until the choice is another one, and halves that step as often as it can.
fn search(
    dimension: Dimension,
    now: f64,
    from: Method,
    upwards: bool,
    choice: &dyn Fn(f64) -> Result<Option<Method>, AdviseError>,
) -> Result<Found, AdviseError> {
    let (lowest, highest) = dimension.range();
    let end = if upwards { highest } else { lowest };
    let mut last = now;
    loop {
        let mut next = if upwards { (last * 1.25).max(lowest) } else { last / 1.25 };
        if dimension == Dimension::Count {
            next = if upwards { next.ceil() } else { next.floor() };
        }
        next = if upwards { next.min(end) } else { next.max(end) };
        if (upwards && next <= last) || (!upwards && next >= last) {
            return Ok(None);
        }
        match choice(next)? {
            Some(to) if to != from => {
                let (mut first, mut to) = (next, to);
                while let Some(middle) = dimension.between(last, first) {
                    match choice(middle)? {
                        Some(other) if other != from => (first, to) = (middle, other),
                        _ => last = middle,
                    }
                }
                return Ok(Some((last, first, to)));
            }
            _ => last = next,
        }
    }
}
