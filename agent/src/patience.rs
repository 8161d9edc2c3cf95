//! When the agent does something again: states and delays, without a clock of their own and without effects.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use rocks_common::wire::Outcome;
use tokio::time::Instant;

use crate::fetch::FetchError;
use crate::identity::IdentityError;

/// Why the agent waits, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delay {
    /// The frontend did not answer, for the n-th time in a row.
    Unreachable(u32),
    /// The last converge left steps undone, for the n-th time in a row.
    Incomplete(u32),
    /// The frontend said no, or sent something that cannot be trusted, for the n-th time in a row.
    Refused(u32),
    /// A report could not be sent, for the n-th time in a row.
    Unsent(u32),
}

impl Delay {
    /// How long, before jitter.
    #[must_use]
    pub fn base(self) -> Duration {
        let steps = |table: &[u64], n: u32| table[(n as usize).min(table.len() - 1)];
        Duration::from_secs(match self {
            Self::Unreachable(n) => steps(&[1, 2, 5, 10, 30, 60, 120], n),
            Self::Incomplete(n) => steps(&[5, 15, 60, 120, 300, 600], n),
            Self::Refused(n) => steps(&[10, 60, 120], n),
            Self::Unsent(n) => steps(&[5, 10, 20, 30], n),
        })
    }

    /// How long: up to a quarter more, so that a fleet does not come back in step.
    #[must_use]
    pub fn with_jitter(self) -> Duration {
        let random = RandomState::new().build_hasher().finish() % 256;
        self.base() + self.base().mul_f64(f64::from(u8::try_from(random).unwrap_or(0)) / 1024.0)
    }
}

/// How the turns went so far. What the frontend did and what became of the steps are two things: a turn may go wrong in
/// both.
#[derive(Debug, Default)]
pub struct Course {
    begun: bool,
    unreachable: u32,
    incomplete: u32,
    refusals: u32,
    /// When the steps that were left undone are tried again.
    due: Option<Instant>,
    /// Whether the frontend gave no answer to use the last time: its next one is not waited for, so that what the
    /// status says is true again soon.
    pub trouble: bool,
    /// Whether a kickstart was refused: when another one comes, a report says that all is well.
    pub refused: bool,
}

impl Course {
    /// Whether the next turn converges also when nothing has changed.
    #[must_use]
    pub fn must_converge(&self, now: Instant) -> bool {
        !self.begun || self.refused || self.due.is_some_and(|due| due <= now)
    }

    /// Whether the next turn may wait for a change.
    #[must_use]
    pub fn may_wait(&self) -> bool {
        self.begun && !self.refused && !self.trouble && self.due.is_none()
    }

    /// Whether steps are undone.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        self.incomplete > 0
    }

    /// Nothing could be done, because it could not have been written down. How long until the next attempt.
    pub fn stuck(&mut self, now: Instant) -> Duration {
        self.again(now);
        self.left(now).unwrap_or_default()
    }

    fn again(&mut self, now: Instant) {
        self.incomplete += 1;
        self.due = Some(now + Delay::Incomplete(self.incomplete - 1).with_jitter());
    }

    fn left(&self, now: Instant) -> Option<Duration> {
        self.due.map(|due| due.saturating_duration_since(now))
    }

    /// Takes note of a turn: the outcome of its converge, if there was one, and what was wrong with the frontend, if
    /// anything. Gives how long until the next turn, if not at once.
    pub fn take(&mut self, outcome: Option<Outcome>, error: Option<&FetchError>, now: Instant) -> Option<Duration> {
        self.begun = true;
        match outcome {
            // Whatever the frontend did: what was left undone is tried again.
            Some(Outcome::Incomplete) => self.again(now),
            Some(Outcome::Converged | Outcome::Unchanged) => (self.incomplete, self.due) = (0, None),
            Some(Outcome::Refused) | None => {}
        }
        self.refused = match outcome {
            Some(outcome) => outcome == Outcome::Refused,
            None => self.refused && error.is_some(),
        };
        self.trouble = error.is_some();
        let pause = match error {
            Some(FetchError::Network { .. } | FetchError::Address(_)) => {
                self.unreachable += 1;
                Some(Delay::Unreachable(self.unreachable - 1).with_jitter())
            }
            None if !self.refused => None,
            _ => {
                self.refusals += 1;
                Some(Delay::Refused(self.refusals - 1).with_jitter())
            }
        };
        if !self.trouble {
            self.unreachable = 0;
            if !self.refused {
                self.refusals = 0;
            }
        }
        // Asked for a moment of peace, the frontend gets it.
        let asked = match error {
            Some(FetchError::Refused { retry_after, .. }) => *retry_after,
            _ => None,
        };
        let pause = pause.map(|pause| pause.max(asked.unwrap_or_default()));
        match (pause, self.left(now)) {
            // Steps that are due and were not tried in this turn cannot be before the frontend is asked again.
            (Some(pause), Some(left)) if asked.is_none() && !left.is_zero() => Some(pause.min(left)),
            (pause, left) => pause.or(left),
        }
    }
}

/// What a frontend says that has no kickstart for this host yet: it answers a request that waits as soon as it has one.
const NONE_YET: &str = "no-kickstart";

/// Whether the frontend can be asked for news while the agent waits after a turn that went so. One that did not answer,
/// wants peace or says no is left alone until the wait is over.
#[must_use]
pub fn may_ask(error: Option<&FetchError>) -> bool {
    match error {
        None => true,
        Some(FetchError::Refused { code, .. }) => code == NONE_YET,
        Some(_) => false,
    }
}

/// How long a frontend is left alone that was to tell of news and ended without any, for the `n`-th time in a row, from
/// 0.
#[must_use]
pub fn until_asked_again(error: Option<&FetchError>, n: u32) -> Duration {
    match error {
        Some(FetchError::Refused { status, code, retry_after, .. }) if code != NONE_YET => {
            let delay = if *status >= 500 { Delay::Unreachable(n) } else { Delay::Refused(n) };
            delay.with_jitter().max(retry_after.unwrap_or_default())
        }
        Some(FetchError::Untrusted { .. }) => Delay::Refused(n).with_jitter(),
        _ => Delay::Unreachable(n).with_jitter(),
    }
}

/// How long to wait before the next attempt to enrol, if there is to be one.
#[must_use]
pub fn until_next(error: &IdentityError, tries: u32) -> Option<Duration> {
    let delay = match error {
        // Without a join document there is nothing to wait for.
        IdentityError::NotEnrolled => return None,
        // The frontend, and the network, may come later than the instance.
        IdentityError::Fetch(FetchError::Network { .. }) | IdentityError::Imds(_) => Delay::Unreachable(tries),
        IdentityError::Fetch(FetchError::Refused { status, retry_after, .. }) if *status == 429 || *status >= 500 => {
            return Some(Delay::Unreachable(tries).with_jitter().max(retry_after.unwrap_or_default()));
        }
        // There may be room for another host soon, the rule may be mended, or another join document come. To end would
        // be no end: the service manager would start the agent again each second.
        _ => Delay::Refused(tries),
    };
    Some(delay.with_jitter())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> FetchError {
        FetchError::Network { frontend: String::new(), why: String::new() }
    }

    fn refused(status: u16, retry_after: Option<Duration>) -> FetchError {
        FetchError::Refused { status, code: String::new(), title: String::new(), retry_after }
    }

    fn seconds(from: u64, pause: Option<Duration>) -> bool {
        pause
            .is_some_and(|pause| pause >= Duration::from_secs(from) && pause <= Duration::from_secs(from).mul_f64(1.25))
    }

    #[test]
    fn delays_grow_to_a_bound_and_are_spread() {
        assert_eq!(Delay::Unreachable(0).base(), Duration::from_secs(1));
        assert_eq!(Delay::Unreachable(100).base(), Duration::from_secs(120));
        for n in 0..50 {
            let delay = Delay::Incomplete(n);
            let with = delay.with_jitter();
            assert!(with >= delay.base() && with <= delay.base().mul_f64(1.25));
        }
    }

    #[test]
    fn whoever_may_not_enrol_waits_and_does_not_end() {
        let refused = |status, code: &str| {
            let (code, title) = (code.to_owned(), String::new());
            let retry_after = Some(Duration::from_secs(7));
            until_next(&IdentityError::Fetch(FetchError::Refused { status, code, title, retry_after }), 0)
        };
        assert!(seconds(10, refused(403, "token-refused")));
        assert!(seconds(10, refused(403, "identity-refused")));
        assert_eq!(refused(429, "busy"), Some(Duration::from_secs(7)));
        let bad = IdentityError::Bad { path: "join.toml".into(), why: String::new() };
        assert!(seconds(120, until_next(&bad, 9)));
        assert!(seconds(1, until_next(&IdentityError::Fetch(network()), 0)));
        assert_eq!(until_next(&IdentityError::NotEnrolled, 0), None);
    }

    #[test]
    fn what_was_left_undone_while_the_frontend_was_away_is_tried_again() {
        let (mut course, start) = (Course::default(), Instant::now());
        assert!(course.must_converge(start) && !course.may_wait());
        // The first turn finds no frontend, and steps of the kept kickstart fail.
        assert!(seconds(1, course.take(Some(Outcome::Incomplete), Some(&network()), start)));
        // The frontend is back before it is time, and has nothing new.
        let back = start + Duration::from_secs(2);
        assert!(!course.must_converge(back) && !course.may_wait());
        let pause = course.take(None, None, back).expect("it is not over");
        assert!(course.is_incomplete() && pause >= Duration::from_secs(3), "{pause:?}");
        assert!(course.must_converge(back + pause) && !course.may_wait());
        assert!(seconds(15, course.take(Some(Outcome::Incomplete), None, back + pause)));
        // Then it goes well.
        let later = back + Duration::from_secs(60);
        assert!(course.must_converge(later));
        assert_eq!(course.take(Some(Outcome::Converged), None, later), None);
        assert!(!course.is_incomplete() && course.may_wait() && !course.must_converge(later));
    }

    #[test]
    fn steps_are_not_run_more_often_because_the_frontend_is_away() {
        let (mut course, start) = (Course::default(), Instant::now());
        for _ in 0..3 {
            course.take(Some(Outcome::Incomplete), None, start);
        }
        assert!(seconds(2, {
            course.take(None, Some(&network()), start);
            course.take(None, Some(&network()), start)
        }));
        assert!(!course.must_converge(start + Duration::from_secs(59)));
        assert!(course.must_converge(start + Duration::from_secs(76)));
    }

    #[test]
    fn steps_that_are_due_do_not_make_a_frontend_that_cannot_be_used_be_asked_without_a_pause() {
        let untrusted = FetchError::Untrusted { code: "bad-answer", why: String::new() };
        let cases: [(_, _, &[u64]); 3] = [
            (Some(Outcome::Refused), Some(&untrusted), &[10, 60, 120, 120]),
            // A kickstart that cannot be read.
            (Some(Outcome::Refused), None, &[10, 60, 120, 120]),
            // Nothing is kept that could be tried.
            (None, Some(&network()), &[1, 2, 5, 10]),
        ];
        for (outcome, error, pauses) in cases {
            let (mut course, mut now) = (Course::default(), Instant::now());
            course.take(Some(Outcome::Incomplete), None, now);
            now += Duration::from_secs(10);
            for from in pauses {
                assert!(course.must_converge(now));
                let pause = course.take(outcome, error, now);
                assert!(seconds(*from, pause), "{outcome:?}: {pause:?}");
                now += pause.unwrap_or_default();
            }
            // What was left undone is not forgotten.
            assert!(course.is_incomplete() && course.must_converge(now));
        }
    }

    #[test]
    fn whoever_wants_peace_is_not_asked_and_who_has_no_kickstart_yet_is() {
        let asked = Some(Duration::from_secs(500));
        let none_yet = FetchError::Refused {
            status: 404,
            code: "no-kickstart".into(),
            title: String::new(),
            retry_after: Some(Duration::from_secs(30)),
        };
        assert!(may_ask(None) && may_ask(Some(&none_yet)));
        assert!(![network(), refused(503, asked), refused(403, None)].iter().any(|error| may_ask(Some(error))));
        assert!(seconds(1, Some(until_asked_again(Some(&none_yet), 0))));
        assert!(
            seconds(2, Some(until_asked_again(Some(&network()), 1))) && seconds(1, Some(until_asked_again(None, 0)))
        );
        assert!(seconds(10, Some(until_asked_again(Some(&refused(403, None)), 0))));
        assert_eq!(until_asked_again(Some(&refused(503, asked)), 0), Duration::from_secs(500));
    }

    #[test]
    fn a_refusal_is_waited_out_and_its_end_reported() {
        let (mut course, now) = (Course::default(), Instant::now());
        assert!(seconds(10, course.take(Some(Outcome::Refused), None, now)));
        assert!(course.must_converge(now) && !course.may_wait());
        assert!(seconds(60, course.take(None, Some(&refused(403, None)), now)));
        let asked = Some(Duration::from_secs(500));
        assert_eq!(course.take(None, Some(&refused(503, asked)), now), asked);
        assert!(course.refused && course.trouble);
        assert_eq!(course.take(Some(Outcome::Unchanged), None, now), None);
        assert!(!course.refused && course.may_wait());
        assert!(course.stuck(now) >= Duration::from_secs(5));
    }
}
