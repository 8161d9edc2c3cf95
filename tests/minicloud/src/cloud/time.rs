//! Time as it is written.

/// Milliseconds since 1970.
pub(crate) type Millis = u64;

/// As EC2 writes it: `2026-01-31T12:00:00.000Z`.
pub(crate) fn iso(at: Millis) -> String {
    i64::try_from(at)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map(|t| t.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn milliseconds_are_always_written() {
        assert_eq!(super::iso(1_700_000_000_000), "2023-11-14T22:13:20.000Z");
        assert_eq!(super::iso(1_700_000_000_120), "2023-11-14T22:13:20.120Z");
    }
}
