//! The transient units that work runs in.
//!
//! A name is used once. systemd forgets a unit that has ended in its own time, and after a reload at the wrong moment not before the next boot;
//! until then it refuses a new one of that name. So whoever looks for what an earlier agent began looks for the pattern.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// A name that no unit has had, for a piece of work such as `install`.
pub(super) fn fresh(work: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (pid, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    format!("rocks-{work}-{:x}-{pid:x}-{count:x}.service", now.as_millis())
}

/// What matches every name that `work` ever had, to `systemctl`.
pub(super) fn pattern(work: &str) -> String {
    format!("rocks-{work}-*.service")
}

/// Whether any of the states that `systemctl show --property=ActiveState --value` printed is that of a unit which has not ended.
pub(super) fn any_runs(states: &str) -> bool {
    states.lines().map(str::trim).any(|state| !matches!(state, "inactive" | "failed" | ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_used_once_and_are_found_again() {
        let names: std::collections::HashSet<_> = (0..1000).map(|_| fresh("install")).collect();
        assert_eq!(names.len(), 1000);
        let (before, after) = pattern("install").split_once('*').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        assert!(names.iter().all(|name| name.starts_with(&before) && name.ends_with(&after)), "{names:?}");
        assert!(!fresh("remove").starts_with(&before));
    }

    #[test]
    fn one_of_many_states_is_enough() {
        assert!(!any_runs("") && !any_runs("\n") && !any_runs("inactive\n\nfailed\n"));
        assert!(any_runs("inactive\n\nactive\n") && any_runs("deactivating\n"));
    }
}
