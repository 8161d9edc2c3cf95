//! What may be tried again, and when.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::cloud::{Answer, CloudError};
use crate::iam;

/// The first pause; twice as long each time, up to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// How long the cloud may throttle, be out of reach or give unclear answers.
pub const PATIENCE: Duration = Duration::from_secs(600);
/// How long the cloud may not know yet what it has made.
pub const SOON: Duration = Duration::from_secs(180);
/// How long tags of what was made may be unknown to IAM, by which it is ours and may be worked on.
pub(crate) const TAGGED: Duration = Duration::from_secs(30);
/// How long there may be no capacity.
const CAPACITY: Duration = Duration::from_secs(90);

/// What else a call waits for, apart from throttling and lost answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Nothing: what is missing or in the wrong state stays so.
    Nothing,
    /// What was made a moment ago may not be known everywhere yet, or not be ready.
    Settling,
}

impl CloudError {
    /// Whether it was denied for want of a tag: the tag may not be known yet, or not any more.
    pub(crate) fn is_by_tag(&self) -> bool {
        matches!(self, Self::Denied { action, .. } if iam::is_by_tag(action))
    }

    /// For how long the call may be tried again.
    fn patience(&self, wait: Wait) -> Option<Duration> {
        match self {
            Self::Throttled(_) | Self::Unclear(_) => Some(PATIENCE),
            Self::Capacity(_) => Some(CAPACITY),
            Self::Missing(_) | Self::State(_) | Self::InUse(_) if matches!(wait, Wait::Settling) => Some(SOON),
            Self::Denied { .. } if matches!(wait, Wait::Settling) && self.is_by_tag() => Some(TAGGED),
            _ => None,
        }
    }
}

/// A share of `pause`, from a half to the whole, so that those who were sent away together do not come back together.
fn jittered(pause: Duration, salt: u32) -> Duration {
    let share = 500 + u64::from(salt.wrapping_mul(2_654_435_761) >> 16) % 500;
    pause * u32::try_from(share).unwrap_or(1000) / 1000
}

/// Makes a call until it is carried out, or nothing can be hoped for.
///
/// # Errors
/// What the last try said.
pub async fn insist<T, F: Future<Output = Answer<T>>>(wait: Wait, mut call: impl FnMut() -> F) -> Answer<T> {
    let began = Instant::now();
    let (mut pause, mut tries) = (PAUSES.0, 0_u32);
    loop {
        let error = match call().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        match error.patience(wait) {
            Some(patience) if began.elapsed() + pause < patience => {
                tracing::info!("{error}; trying again");
                tries += 1;
                sleep(jittered(pause, tries)).await;
                pause = (pause * 2).min(PAUSES.1);
            }
            _ => return Err(error),
        }
    }
}

/// The first pause of whoever asks until there is an answer: most of what is waited for takes seconds.
const SOONEST: Duration = Duration::from_millis(500);

/// Pauses of whoever asks until there is an answer: short at first, and then as long as they may be.
pub(crate) struct Pause {
    next: Duration,
    longest: Duration,
}

impl Pause {
    pub(crate) fn up_to(longest: Duration) -> Self {
        Self { next: SOONEST.min(longest), longest }
    }

    pub(crate) async fn pass(&mut self) {
        sleep(self.next).await;
        self.next = (self.next * 5 / 4).min(self.longest);
    }
}

/// Asks until there is an answer. `every`: how often, after it was asked more often at first; `patience`: for how long.
///
/// # Errors
/// What a call said, or that it took too long, with `what` it was.
pub async fn until<T, F: Future<Output = Answer<Option<T>>>>(
    what: &str,
    every: Duration,
    patience: Duration,
    mut ask: impl FnMut() -> F,
) -> Answer<T> {
    let (began, mut pause) = (Instant::now(), Pause::up_to(every));
    loop {
        if let Some(value) = insist(Wait::Settling, &mut ask).await? {
            return Ok(value);
        }
        if began.elapsed() >= patience {
            return Err(too_long(what, patience));
        }
        pause.pass().await;
    }
}

/// It did not come to be in time.
pub(crate) fn too_long(what: &str, patience: Duration) -> CloudError {
    CloudError::State(format!("{what}: not within {} minutes", patience.as_secs() / 60))
}
