//! RPM's versions: epoch, version, release, and the order that `rpmvercmp` gives them.
//!
//! The rules are those of rpm's own `rpmvercmp`: segments of digits and of letters are compared in turn, digits are newer
//! than letters, `~` sorts before everything (even the end), `^` after the end but before anything else.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Epoch, version and release of a package. A missing epoch is 0; a missing release compares equal to any.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Evr {
    /// The epoch; 0 when the package has none.
    pub epoch: u32,
    /// The version.
    pub version: String,
    /// The release, where one is given.
    pub release: Option<String>,
}

impl Evr {
    /// Reads `[EPOCH:]VERSION[-RELEASE]`. Anything reads as something: an epoch that is no number is taken as 0.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let (epoch, rest) = match text.split_once(':') {
            Some((epoch, rest)) => (epoch.parse().unwrap_or(0), rest),
            None => (0, text),
        };
        let (version, release) = match rest.rsplit_once('-') {
            Some((version, release)) => (version, Some(release.to_owned())),
            None => (rest, None),
        };
        Self { epoch, version: version.to_owned(), release }
    }

    /// Epoch, then version, then release; a side without a release is equal to any release (as dependencies mean it).
    #[must_use]
    pub fn compare(&self, other: &Self) -> Ordering {
        self.epoch.cmp(&other.epoch).then_with(|| rpmvercmp(&self.version, &other.version)).then_with(|| {
            match (&self.release, &other.release) {
                (Some(a), Some(b)) => rpmvercmp(a, b),
                _ => Ordering::Equal,
            }
        })
    }
}

impl fmt::Display for Evr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.epoch != 0 {
            write!(f, "{}:", self.epoch)?;
        }
        f.write_str(&self.version)?;
        if let Some(release) = &self.release {
            write!(f, "-{release}")?;
        }
        Ok(())
    }
}

/// The order of two version (or release) texts.
#[must_use]
pub fn rpmvercmp(a: &str, b: &str) -> Ordering {
    if a == b {
        return Ordering::Equal;
    }
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        a = skip_separators(a);
        b = skip_separators(b);
        match (a.first(), b.first()) {
            (Some(b'~'), Some(b'~')) => {
                (a, b) = (&a[1..], &b[1..]);
                continue;
            }
            (Some(b'~'), _) => return Ordering::Less,
            (_, Some(b'~')) => return Ordering::Greater,
            (Some(b'^'), Some(b'^')) => {
                (a, b) = (&a[1..], &b[1..]);
                continue;
            }
            (Some(b'^'), None) => return Ordering::Greater,
            (None, Some(b'^')) => return Ordering::Less,
            (Some(b'^'), _) => return Ordering::Less,
            (_, Some(b'^')) => return Ordering::Greater,
            (None, _) | (_, None) => break,
            _ => {}
        }
        let digits = a[0].is_ascii_digit();
        let (segment_a, rest_a) = take_segment(a, digits);
        let (segment_b, rest_b) = take_segment(b, digits);
        if segment_b.is_empty() {
            // Of a number and a word in the same place, the number is newer.
            return if digits { Ordering::Greater } else { Ordering::Less };
        }
        let order = if digits {
            let (x, y) = (trim_zeros(segment_a), trim_zeros(segment_b));
            x.len().cmp(&y.len()).then_with(|| x.cmp(y))
        } else {
            segment_a.cmp(segment_b)
        };
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
    a.len().min(1).cmp(&b.len().min(1))
}

fn skip_separators(text: &[u8]) -> &[u8] {
    let skip = text.iter().take_while(|c| !c.is_ascii_alphanumeric() && !matches!(c, b'~' | b'^')).count();
    &text[skip..]
}

fn take_segment(text: &[u8], digits: bool) -> (&[u8], &[u8]) {
    let fits = |c: &&u8| if digits { c.is_ascii_digit() } else { c.is_ascii_alphabetic() };
    text.split_at(text.iter().take_while(fits).count())
}

fn trim_zeros(text: &[u8]) -> &[u8] {
    &text[text.iter().take_while(|c| **c == b'0').count()..]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Pairs and their order as `rpm --eval '%{lua:print(rpm.vercmp(a, b))}'` gives it.
    const TABLE: &[(&str, &str, Ordering)] = &[
        ("1.0", "1.0", Ordering::Equal),
        ("1.0", "2.0", Ordering::Less),
        ("2.0.1", "2.0", Ordering::Greater),
        ("2.0.1a", "2.0.1", Ordering::Greater),
        ("5.5p1", "5.5p2", Ordering::Less),
        ("5.5p10", "5.5p1", Ordering::Greater),
        ("10xyz", "10.1xyz", Ordering::Less),
        ("xyz10", "xyz10.1", Ordering::Less),
        ("xyz.4", "8", Ordering::Less),
        ("5.5p2", "5.6p1", Ordering::Less),
        ("6.0.rc1", "6.0", Ordering::Greater),
        ("10b2", "10a1", Ordering::Greater),
        ("1.0aa", "1.0a", Ordering::Greater),
        ("10.0001", "10.1", Ordering::Equal),
        ("10.0001", "10.0039", Ordering::Less),
        ("20101121", "20101122", Ordering::Less),
        ("2_0", "2.0", Ordering::Equal),
        ("a+", "a_", Ordering::Equal),
        ("1.0~rc1", "1.0", Ordering::Less),
        ("1.0~rc1~git123", "1.0~rc1", Ordering::Less),
        ("1.0^", "1.0", Ordering::Greater),
        ("1.0^git1", "1.0^git2", Ordering::Less),
        ("1.0^20160101", "1.0.1", Ordering::Less),
        ("1.0~rc1^git1", "1.0~rc1", Ordering::Greater),
        ("1.0^git1~pre", "1.0^git1", Ordering::Less),
        ("1.0^20160101^git1", "1.0^20160102", Ordering::Less),
    ];

    #[test]
    fn the_order_is_rpms() {
        for (a, b, order) in TABLE {
            assert_eq!(rpmvercmp(a, b), *order, "{a} {b}");
            assert_eq!(rpmvercmp(b, a), order.reverse(), "{b} {a}");
        }
    }

    #[test]
    fn a_missing_release_is_any_release() {
        let evr = Evr::parse("1:2.0-3");
        assert_eq!(evr, Evr { epoch: 1, version: "2.0".into(), release: Some("3".into()) });
        assert_eq!(evr.to_string(), "1:2.0-3");
        assert_eq!(evr.compare(&Evr::parse("1:2.0")), Ordering::Equal);
        assert_eq!(evr.compare(&Evr::parse("2.0-3")), Ordering::Greater);
    }

    proptest! {
        #[test]
        fn it_is_antisymmetric_and_never_panics(a in "[a-z0-9.~^_+]{0,12}", b in "\\PC{0,12}") {
            prop_assert_eq!(rpmvercmp(&a, &b), rpmvercmp(&b, &a).reverse());
            prop_assert_eq!(rpmvercmp(&a, &a), Ordering::Equal);
        }
    }
}
