//! Price books: what a provider asked for, in one region, on one day. They are TOML files; two are shipped, and a site can
//! bring its own.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::units::{Bytes, GIB, Money, Rate, Span};

/// A price book that cannot be used, and where in its file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {message}")]
pub struct PriceError {
    /// The file's name, as the caller gave it.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

/// How a running thing is billed: in steps, each begun one in full, and at least so much.
///
/// A started hour is a step and a minimum of one hour; EC2 today is a step of a second and a minimum of 60.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Billing {
    /// What a begun part is rounded up to.
    pub step: Span,
    /// What is billed at least.
    pub minimum: Span,
}

impl Billing {
    /// What is billed for something that ran for `ran`.
    #[must_use]
    pub fn billed(self, ran: Span) -> Span {
        let step = self.step.microseconds().max(1);
        let steps = ran.max(self.minimum).microseconds().div_ceil(step);
        Span::from_microseconds(steps.saturating_mul(step))
    }
}

/// An instance type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceType {
    /// Dollars an hour, Linux on demand.
    pub hour: Money,
    /// How fast one of its cores is, beside the one that [`crate::Cloud::boot_work`] was measured on.
    pub speed: f64,
    /// How fast its host copies an instance-store image to its local disks; none: it has no instance store to boot from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Rate>,
}

/// Prices of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// For a GiB of its size, a month.
    pub gb_month: Money,
    /// For a million I/O requests; nothing today.
    #[serde(default)]
    pub million_requests: Money,
}

/// Prices of stored bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    /// For a GiB, a month.
    pub gb_month: Money,
}

/// Prices of object storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Objects {
    /// For a GiB, a month.
    pub gb_month: Money,
    /// For a thousand PUT requests.
    pub put_thousand: Money,
    /// For a thousand GET requests.
    pub get_thousand: Money,
}

/// Prices of the EBS direct API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EbsDirect {
    /// For a thousand blocks written.
    pub put_thousand: Money,
}

/// Prices of bytes that pass the region's border.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transfer {
    /// For a GiB that comes in.
    pub in_gb: Money,
    /// For a GiB that goes out.
    pub out_gb: Money,
}

/// What a provider asked for, in one region, on one day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceBook {
    /// Who asks, as in `aws`.
    pub provider: String,
    /// Where, as in `us-east-1`.
    pub region: String,
    /// The day, as in `2013-01-30`.
    pub date: String,
    /// How instances are billed.
    pub instance_billing: Billing,
    /// How volumes, snapshots and objects are billed.
    pub storage_billing: Billing,
    /// The hours of a billing month: 730, or 30.42 days.
    pub month: Span,
    /// Instance types by name.
    pub instances: BTreeMap<String, InstanceType>,
    /// Volumes.
    pub volume: Volume,
    /// Snapshots.
    pub snapshot: Stored,
    /// Object storage.
    pub s3: Objects,
    /// The EBS direct API, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ebs_direct: Option<EbsDirect>,
    /// Transfer.
    pub transfer: Transfer,
}

/// The price books that are shipped: name and text.
const SHIPPED: [(&str, &str); 2] = [
    ("aws-us-east-1-2013-01-30", include_str!("../prices/aws-us-east-1-2013-01-30.toml")),
    ("aws-us-east-1-2026-06-17", include_str!("../prices/aws-us-east-1-2026-06-17.toml")),
];

impl PriceBook {
    /// Reads a price book. `file` is what an error calls it.
    ///
    /// # Errors
    /// It is no TOML, something lacks, is unknown or makes no sense.
    pub fn parse(file: &str, text: &str) -> Result<Self, PriceError> {
        let at = |offset: usize, message: String| {
            let before = text.get(..offset).unwrap_or(text);
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
            PriceError { file: file.to_owned(), line, column, message }
        };
        let book: Self = toml::from_str(text).map_err(|error: toml::de::Error| {
            at(error.span().map_or(0, |span| span.start), error.message().replace('\n', ", "))
        })?;
        match book.nonsense() {
            None => Ok(book),
            Some((word, message)) => Err(at(outside_comments(text, &word), message)),
        }
    }

    /// What TOML does not see: a word near it, and what is wrong.
    fn nonsense(&self) -> Option<(String, String)> {
        let no = |word: &str, message: String| Some((word.to_owned(), message));
        if !is_date(&self.date) {
            return no("date", format!("`{}` is no date: write it as 2013-01-30", self.date));
        }
        if self.instances.is_empty() {
            return no("[instances]", "there is no instance type".to_owned());
        }
        for (word, billing) in [("instance_billing", self.instance_billing), ("storage_billing", self.storage_billing)]
        {
            if billing.step == Span::ZERO {
                return no(word, "a step of billing takes some time".to_owned());
            }
        }
        if self.month == Span::ZERO {
            return no("month", "a month takes some time".to_owned());
        }
        for (name, kind) in &self.instances {
            if !(kind.speed.is_finite() && (0.01..=1000.0).contains(&kind.speed)) {
                return no(name, format!("the speed of {name} is not between 0.01 and 1000"));
            }
            if kind.hour < Money::ZERO {
                return no(name, format!("the price of {name} is negative"));
            }
        }
        let prices = [
            ("[volume]", self.volume.gb_month),
            ("[volume]", self.volume.million_requests),
            ("[snapshot]", self.snapshot.gb_month),
            ("[s3]", self.s3.gb_month),
            ("[s3]", self.s3.put_thousand),
            ("[s3]", self.s3.get_thousand),
            ("[ebs_direct]", self.ebs_direct.map_or(Money::ZERO, |direct| direct.put_thousand)),
            ("[transfer]", self.transfer.in_gb),
            ("[transfer]", self.transfer.out_gb),
        ];
        let (table, _) = prices.into_iter().find(|(_, price)| *price < Money::ZERO)?;
        no(table, format!("a price in {table} is negative"))
    }

    /// The names of the books that are shipped.
    pub fn shipped_names() -> impl Iterator<Item = &'static str> {
        SHIPPED.iter().map(|(name, _)| *name)
    }

    /// A shipped book by its name.
    #[must_use]
    pub fn shipped(name: &str) -> Option<Self> {
        let (name, text) = SHIPPED.iter().find(|(known, _)| *known == name)?;
        Self::parse(name, text).ok()
    }

    /// The newest shipped book of a region.
    #[must_use]
    pub fn newest(region: &str) -> Option<Self> {
        let books = SHIPPED.iter().filter_map(|(name, _)| Self::shipped(name));
        books.filter(|book| book.region == region).max_by(|a, b| a.date.cmp(&b.date))
    }

    /// A price book's name: `aws-us-east-1-2013-01-30`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}-{}-{}", self.provider, self.region, self.date)
    }

    /// What an instance costs that ran for so long.
    #[must_use]
    pub fn instance(&self, kind: &InstanceType, ran: Span) -> Money {
        let billed = self.instance_billing.billed(ran);
        kind.hour.share(u128::from(billed.microseconds()), u128::from(Span::from_seconds(3600).microseconds()))
    }

    /// What `bytes` cost that were kept for so long, at a price for a GiB and month.
    #[must_use]
    pub fn stored(&self, gb_month: Money, bytes: Bytes, kept: Span) -> Money {
        let billed = self.storage_billing.billed(kept);
        let part = u128::from(bytes.0) * u128::from(billed.microseconds());
        gb_month.share(part, u128::from(GIB) * u128::from(self.month.microseconds()))
    }
}

/// Where a word first stands outside comments: where the table or key of that name is.
fn outside_comments(text: &str, word: &str) -> usize {
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        let code = line.split('#').next().unwrap_or("");
        if let Some(at) = code.find(word) {
            return offset + at;
        }
        offset += line.len();
    }
    0
}

impl fmt::Display for PriceBook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} of {}", self.provider, self.region, self.date)
    }
}

fn is_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let number = |part: &str, digits: usize, from: u32, to: u32| {
        part.len() == digits && part.parse::<u32>().is_ok_and(|n| (from..=to).contains(&n))
    };
    matches!(parts[..], [y, m, d] if number(y, 4, 1900, 9999) && number(m, 2, 1, 12) && number(d, 2, 1, 31))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_books_are_right() {
        for (name, text) in SHIPPED {
            let book = PriceBook::parse(name, text).unwrap();
            assert_eq!(book.name(), name);
        }
        assert_eq!(PriceBook::newest("us-east-1").unwrap().date, "2026-06-17");
        assert!(PriceBook::newest("moon-1").is_none() && PriceBook::shipped("x").is_none());
        let then = PriceBook::shipped("aws-us-east-1-2013-01-30").unwrap();
        let prices: Vec<String> = then.instances.values().map(|kind| kind.hour.to_string()).collect();
        assert_eq!(prices, ["0.1650", "0.6600", "0.0650"]);
    }

    #[test]
    fn billing_rules_are_data() {
        let hour = Billing { step: Span::from_seconds(3600), minimum: Span::from_seconds(3600) };
        let second = Billing { step: Span::from_seconds(1), minimum: Span::from_seconds(60) };
        let s = Span::from_seconds;
        assert_eq!([0, 1, 3600, 3601].map(|ran| hour.billed(s(ran))), [s(3600), s(3600), s(3600), s(7200)]);
        assert_eq!([0, 59, 61].map(|ran| second.billed(s(ran))), [s(60), s(60), s(61)]);
        assert_eq!(second.billed(Span::from_seconds_f64(61.2)), s(62));
    }

    #[test]
    fn a_day_of_a_gigabyte_is_a_thirtieth_of_the_month() {
        let book = PriceBook::shipped("aws-us-east-1-2013-01-30").unwrap();
        let day = book.stored(book.s3.gb_month, Bytes(GIB), Span::from_seconds(86_400));
        // 0.095 x 24 / 730
        assert_eq!(day.picodollars(), 3_123_287_671);
    }

    #[test]
    fn errors_say_where() {
        let (name, text) = SHIPPED[0];
        let error = |from: &str, to: &str| {
            assert!(text.contains(from), "{from}");
            PriceBook::parse(name, &text.replacen(from, to, 1)).unwrap_err().to_string()
        };
        let line = |what: &str| text.lines().position(|line| line.contains(what)).unwrap() + 1;
        let small = line("\"m1.small\"");
        assert!(error("hour = 0.065", "hour = \"six\"").starts_with(&format!("{name}:{small}:24: `six` is no amount")));
        assert!(error("hour = 0.065", "hour = 0.065, cents = 1").starts_with(&format!("{name}:{small}:")));
        assert!(error("speed = 1.0", "speed = -1.0").starts_with(&format!("{name}:{small}:")));
        assert!(error("get_thousand", "#").contains("missing field `get_thousand`"));
        assert!(error("out_gb = 0.12", "out_gb = -1").starts_with(&format!("{name}:{}:", line("[transfer]"))));
        assert!(error("2013-01-30\"\n", "yesterday\"\n").contains(&format!(":{}:", line("date ="))));
        assert!(error("month = \"730h\"", "month = \"0h\"").contains("a month takes some time"));
        assert!(error("provider", "[provider").starts_with(&format!("{name}:{}:", line("provider ="))));
    }
}
