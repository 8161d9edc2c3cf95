//! Money, bytes, time and rates: whole numbers with a unit in their type, so that sums are exact and nothing is mixed up.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Mul, Sub};
use std::str::FromStr;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// Why a text is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {what}: {hint}")]
pub struct QuantityError {
    what: &'static str,
    text: String,
    hint: &'static str,
}

fn wrong(what: &'static str, text: &str, hint: &'static str) -> QuantityError {
    QuantityError { what, text: text.to_owned(), hint }
}

/// Splits `12.5 MB` into its number, in units of 10^-12, and its unit.
fn number_and_unit(text: &str) -> Option<(i128, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-' | '+'))).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((decimal(number)?, unit.trim()))
}

/// A plain decimal number in units of 10^-12; none if it is not one, is too fine, or too large.
fn decimal(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !plain(whole) || !plain(fraction) || fraction.len() > 12 {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok().filter(|n| *n <= 1_i128 << 64)? };
    let fraction: i128 = format!("{fraction:0<12}").parse().ok()?;
    let value = whole * PICO + fraction;
    Some(if negative { -value } else { value })
}

const PICO: i128 = 1_000_000_000_000;

/// An amount of money in billionths of a thousandth of a dollar, exact. Prices go down to 10^-7 dollars a request, and a
/// share of a month is a long fraction: 10^-12 keeps the error of a thousand such items below a billionth of a dollar.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Money(i128);

impl Money {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// So many 10^-12 dollars.
    #[must_use]
    pub const fn from_picodollars(pico: i128) -> Self {
        Self(pico)
    }

    /// In 10^-12 dollars.
    #[must_use]
    pub const fn picodollars(self) -> i128 {
        self.0
    }

    /// As a number that can be drawn or divided; not for sums.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "for pictures and ratios")]
    pub fn dollars(self) -> f64 {
        self.0 as f64 / PICO as f64
    }

    /// What `part` of `whole` costs if `whole` costs this: rounded to the nearest 10^-12 dollars, half away from zero.
    #[must_use]
    pub fn share(self, part: u128, whole: u128) -> Self {
        let (part, whole) = (i128::try_from(part).unwrap_or(i128::MAX), i128::try_from(whole).unwrap_or(i128::MAX));
        if whole == 0 {
            return Self::ZERO;
        }
        // Whole multiples first, so that the product of the rest cannot overflow for any real price.
        let (times, rest) = (part / whole, part % whole);
        let part = self.0.saturating_mul(rest);
        let half = if part < 0 { -(whole / 2) } else { whole / 2 };
        Self(self.0.saturating_mul(times).saturating_add(part.saturating_add(half) / whole))
    }
}

impl fmt::Display for Money {
    /// Dollars with four decimals, as the paper's Table II; a precision asks for others: `{:.2}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = f.precision().unwrap_or(4).min(12);
        let unit = 10_i128.pow(u32::try_from(12 - decimals).unwrap_or(0));
        let rounded = (self.0.abs() + unit / 2) / unit;
        let scale = 10_i128.pow(u32::try_from(decimals).unwrap_or(0));
        let sign = if self.0 < 0 && rounded != 0 { "-" } else { "" };
        let text = match decimals {
            0 => format!("{sign}{rounded}"),
            _ => format!("{sign}{}.{:0decimals$}", rounded / scale, rounded % scale),
        };
        f.pad_integral(true, "", &text)
    }
}

impl FromStr for Money {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        decimal(text.trim()).map(Self).ok_or_else(|| wrong("amount", text, "write dollars, as in 0.065"))
    }
}

impl Add for Money {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Money {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Money {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Mul<u64> for Money {
    type Output = Self;
    fn mul(self, times: u64) -> Self {
        Self(self.0.saturating_mul(i128::from(times)))
    }
}

impl Sum for Money {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        items.fold(Self::ZERO, Add::add)
    }
}

impl Serialize for Money {
    /// As a decimal text, exact: JSON's numbers are not.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = format!("{self:.12}");
        serializer.serialize_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// A size in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

/// A gigabyte as AWS bills it, and as `ls -h` shows it.
pub const GIB: u64 = 1 << 30;

impl Bytes {
    /// So many 2^30 bytes.
    #[must_use]
    pub fn from_gib(gib: f64) -> Self {
        Self(nearest(gib * lossy(GIB)))
    }

    /// In 2^30 bytes.
    #[must_use]
    pub fn gib(self) -> f64 {
        lossy(self.0) / lossy(GIB)
    }

    /// The next whole 2^30 bytes: volumes come in nothing else.
    #[must_use]
    pub const fn whole_gib(self) -> Self {
        Self(self.0.div_ceil(GIB).saturating_mul(GIB))
    }

    /// `factor` times as much.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        Self(nearest(lossy(self.0) * factor))
    }

    /// As a number to calculate times with.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        lossy(self.0)
    }
}

/// A count as a number to calculate times with: exact below 2^53, and nothing here is larger.
#[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
pub(crate) fn lossy(n: u64) -> f64 {
    n as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "casts from floating point saturate")]
pub(crate) fn nearest(x: f64) -> u64 {
    x.round() as u64
}

impl Add for Bytes {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sum for Bytes {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        items.fold(Self(0), Add::add)
    }
}

impl Mul<u64> for Bytes {
    type Output = Self;
    fn mul(self, times: u64) -> Self {
        Self(self.0.saturating_mul(times))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1_u64 << 40, "TiB"), (GIB, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        let text = match units.iter().find(|(unit, _)| self.0 >= *unit) {
            Some((unit, name)) => {
                let value = lossy(self.0) / lossy(*unit);
                if value < 9.95 { format!("{value:.1} {name}") } else { format!("{value:.0} {name}") }
            }
            None => format!("{} B", self.0),
        };
        f.pad(&text)
    }
}

impl FromStr for Bytes {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const HINT: &str = "write bytes, or a number with KiB, MiB, GiB, TiB, kB, MB, GB or TB";
        let (number, unit) = number_and_unit(text).ok_or_else(|| wrong("size", text, HINT))?;
        let unit: i128 = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "ki" | "kib" => 1 << 10,
            "m" | "mi" | "mib" => 1 << 20,
            "g" | "gi" | "gib" => 1 << 30,
            "t" | "ti" | "tib" => 1 << 40,
            "kb" => 1000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => PICO,
            _ => return Err(wrong("size", text, HINT)),
        };
        if unit == 1 && number % PICO != 0 {
            return Err(wrong("size", text, "a part of a byte is none: write a fraction with its unit, as in 1.5GiB"));
        }
        let bytes = number.checked_mul(unit).map(|n| n / PICO).and_then(|n| u64::try_from(n).ok());
        // Nothing real is larger than this, and what is calculated of it stays far from overflow.
        bytes.filter(|n| *n <= 1 << 60).map(Self).ok_or_else(|| wrong("size", text, "it is out of range"))
    }
}

/// A stretch of time, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(u64);

impl Span {
    /// No time.
    pub const ZERO: Self = Self(0);

    /// So many seconds.
    #[must_use]
    pub const fn from_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1_000_000))
    }

    /// So many microseconds.
    #[must_use]
    pub const fn from_microseconds(microseconds: u64) -> Self {
        Self(microseconds)
    }

    /// So many seconds, to the nearest microsecond; nothing below zero.
    #[must_use]
    pub fn from_seconds_f64(seconds: f64) -> Self {
        Self(nearest(seconds * 1e6))
    }

    /// In seconds.
    #[must_use]
    pub fn seconds(self) -> f64 {
        lossy(self.0) / 1e6
    }

    /// In microseconds.
    #[must_use]
    pub const fn microseconds(self) -> u64 {
        self.0
    }

    /// The longer of two.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Ord::max(self, other)
    }

    /// What is left after `other`; nothing if that is longer.
    #[must_use]
    pub const fn less(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Whole days or hours without zeros that say nothing, as for a period: `24 h`.
    #[must_use]
    pub fn brief(self) -> String {
        const HOUR: u64 = 3_600_000_000;
        match self.0 {
            n if n > 24 * HOUR && n.is_multiple_of(24 * HOUR) => format!("{} d", n / (24 * HOUR)),
            n if n > 0 && n.is_multiple_of(HOUR) => format!("{} h", n / HOUR),
            _ => self.to_string(),
        }
    }

    /// Minutes and seconds, as the paper's Table I: `23:07`.
    #[must_use]
    pub fn clock(self) -> String {
        let seconds = (self.0 + 500_000) / 1_000_000;
        format!("{}:{:02}", seconds / 60, seconds % 60)
    }
}

impl Add for Span {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Mul<u64> for Span {
    type Output = Self;
    fn mul(self, times: u64) -> Self {
        Self(self.0.saturating_mul(times))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = (self.0 + 500_000) / 1_000_000;
        let text = match whole {
            _ if self.0 < 999_500 => format!("{} ms", (self.0 + 500) / 1000),
            _ if self.0 < 9_950_000 => format!("{:.1} s", self.seconds()),
            0..60 => format!("{whole} s"),
            60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
            3600..172_800 => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
            _ => format!("{} d {:02} h", whole / 86400, whole % 86400 / 3600),
        };
        f.pad(&text)
    }
}

impl FromStr for Span {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const HINT: &str = "write a number with ms, s, min, h or d";
        let (number, unit) = number_and_unit(text).ok_or_else(|| wrong("time", text, HINT))?;
        let micro: i128 = match unit {
            "us" => 1,
            "ms" => 1000,
            "s" => 1_000_000,
            "m" | "min" => 60_000_000,
            "h" => 3_600_000_000,
            "d" => 86_400_000_000,
            _ => return Err(wrong("time", text, HINT)),
        };
        let span = number.checked_mul(micro).map(|n| n / PICO).and_then(|n| u64::try_from(n).ok());
        // A hundred years: more is a mistake.
        span.filter(|n| *n <= 3_155_760_000_000_000).map(Self).ok_or_else(|| wrong("time", text, "it is out of range"))
    }
}

impl Serialize for Span {
    /// In seconds.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.seconds())
    }
}

/// How fast bytes move, in bits a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Rate(u64);

impl Rate {
    /// So many bits a second; at least one, for nothing here may stand still.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(if bits == 0 { 1 } else { bits })
    }

    /// So many 10^6 bits a second.
    #[must_use]
    pub const fn from_megabits(megabits: u64) -> Self {
        Self::from_bits(megabits.saturating_mul(1_000_000))
    }

    /// So many 10^6 bytes a second.
    #[must_use]
    pub const fn from_megabytes(megabytes: u64) -> Self {
        Self::from_bits(megabytes.saturating_mul(8_000_000))
    }

    /// In bits a second.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// In bits a second, to calculate times with.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        lossy(self.0)
    }

    /// Seconds that `bytes` take at this rate.
    #[must_use]
    pub fn seconds(self, bytes: Bytes) -> f64 {
        bytes.as_f64() * 8.0 / self.as_f64()
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            0..1_000_000 => format!("{:.3} Mbit/s", lossy(self.0) / 1e6),
            1_000_000..1_000_000_000 => format!("{} Mbit/s", short(lossy(self.0) / 1e6)),
            _ => format!("{} Gbit/s", short(lossy(self.0) / 1e9)),
        };
        f.pad(&text)
    }
}

/// Three digits that count, without zeros at the end.
fn short(x: f64) -> String {
    let text = match x {
        x if x < 10.0 => format!("{x:.2}"),
        x if x < 100.0 => format!("{x:.1}"),
        _ => return format!("{x:.0}"),
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl FromStr for Rate {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const HINT: &str = "write a number with kbit/s, Mbit/s, Gbit/s, kB/s, MB/s or GB/s";
        let (number, unit) = number_and_unit(text).ok_or_else(|| wrong("rate", text, HINT))?;
        let unit = unit.strip_suffix("/s").unwrap_or(unit);
        let unit: i128 = match unit {
            "bit" => 1,
            "k" | "kbit" => 1000,
            "M" | "Mbit" => 1_000_000,
            "G" | "Gbit" => 1_000_000_000,
            "kB" => 8000,
            "MB" => 8_000_000,
            "GB" => 8_000_000_000,
            _ => return Err(wrong("rate", text, HINT)),
        };
        let bits = number.checked_mul(unit).map(|n| n / PICO).and_then(|n| u64::try_from(n).ok());
        bits.filter(|n| (1..=1 << 50).contains(n)).map(Self).ok_or_else(|| wrong("rate", text, "it is out of range"))
    }
}

/// Reads a quantity from text, or from a number that is understood as text.
struct FromText<T>(std::marker::PhantomData<T>, &'static str);

impl<T: FromStr<Err = QuantityError>> Visitor<'_> for FromText<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.1)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        // The shortest text that reads as this number is what somebody wrote: 0.065 stays 0.065.
        self.visit_str(&number.to_string())
    }
}

macro_rules! from_text {
    ($type:ty, $what:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(FromText::<Self>(std::marker::PhantomData, $what))
            }
        }
    };
}

from_text!(Money, "an amount in dollars");
from_text!(Bytes, "a size, as in \"2.2GiB\"");

impl<'de> Deserialize<'de> for Rate {
    /// Text with a unit, or bits a second.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a rate, as in \"100Mbit/s\", or bits a second")]
        enum Either {
            Bits(u64),
            Text(String),
        }
        match Either::deserialize(deserializer)? {
            Either::Bits(bits) => Ok(Self::from_bits(bits)),
            Either::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

impl<'de> Deserialize<'de> for Span {
    /// Text with a unit, or seconds.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a time, as in \"24h\", or seconds")]
        enum Either {
            Seconds(f64),
            Text(String),
        }
        match Either::deserialize(deserializer)? {
            Either::Seconds(seconds) if (0.0..=3e9).contains(&seconds) => Ok(Self::from_seconds_f64(seconds)),
            Either::Seconds(_) => Err(de::Error::custom("a time is between 0 and a hundred years")),
            Either::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

#[cfg(test)]
#[path = "units_tests.rs"]
mod tests;
