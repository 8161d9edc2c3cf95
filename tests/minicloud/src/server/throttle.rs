//! Token buckets.

use std::collections::BTreeMap;

use crate::config::{Bucket, Throttle};

/// What is left in the buckets: tokens, and when that was.
#[derive(Debug, Default)]
pub(crate) struct Buckets {
    left: BTreeMap<(String, String), (f64, u64)>,
}

impl Buckets {
    /// Takes a token for a call at `now` milliseconds; false when there is none.
    pub(crate) fn take(&mut self, limits: &Throttle, key: &str, action: &str, now: u64) -> bool {
        let reads = ["Describe", "Get", "List", "Head"].iter().any(|p| action.starts_with(p));
        let Some(Bucket { burst, rate }) =
            limits.actions.get(action).copied().or(if reads { limits.read } else { limits.write })
        else {
            return true;
        };
        let (left, at) = self.left.entry((key.to_owned(), action.to_owned())).or_insert((burst, now));
        *left = (*left + now.saturating_sub(*at) as f64 / 1000.0 * rate).min(burst);
        *at = now;
        if *left < 1.0 {
            return false;
        }
        *left -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_and_fills_again() {
        let limits = Throttle { read: Some(Bucket { burst: 2.0, rate: 1.0 }), ..Throttle::default() };
        let mut buckets = Buckets::default();
        let mut take = |key: &str, action: &str, now| buckets.take(&limits, key, action, now);
        let got = [
            (0, true),
            (0, true),
            (0, false),
            (999, false),
            (1100, true),
            (1200, false),
            (9000, true),
            (9000, true),
            (9000, false),
        ];
        for (now, ok) in got {
            assert_eq!(take("k", "DescribeVolumes", now), ok, "{now}");
        }
        // Others have their own, and what has no limit has none.
        assert!(take("other", "DescribeVolumes", 9000) && take("k", "DescribeImages", 9000));
        assert!((0..100).all(|_| take("k", "RunInstances", 0)));
    }
}
