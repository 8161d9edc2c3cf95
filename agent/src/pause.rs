//! Waiting with an ear open for news from the frontend.

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use crate::fetch::FetchError;
use crate::patience::until_asked_again;

/// A frontend that held a request for so long is well, however the request ended.
const LONG: Duration = Duration::from_secs(30);

/// Waits until `until`, or until `ask` says that there is news. It is told how many seconds it may wait; when it comes
/// back before them without news, because the connection or the frontend ended, it is asked again soon, and not at
/// once. `early` counts how often in a row. Says whether there is news.
pub async fn listen(
    until: Instant,
    early: &mut u32,
    mut ask: impl AsyncFnMut(u32) -> Result<bool, FetchError>,
) -> bool {
    loop {
        let asked = Instant::now();
        let left = u32::try_from(until.saturating_duration_since(asked).as_secs()).unwrap_or(u32::MAX);
        if left == 0 {
            sleep_until(until).await;
            return false;
        }
        let error = match timeout_at(until, ask(left)).await {
            Err(_) => return false,
            Ok(Ok(true)) => return true,
            Ok(Ok(false)) => None,
            Ok(Err(error)) => Some(error),
        };
        if asked.elapsed() >= LONG {
            *early = 0;
        }
        sleep_until(until.min(Instant::now() + until_asked_again(error.as_ref(), *early))).await;
        *early += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken() -> FetchError {
        FetchError::Network { frontend: String::new(), why: String::new() }
    }

    #[tokio::test]
    async fn what_ends_early_is_asked_again_and_news_end_the_wait() {
        let (began, mut asked, mut early) = (Instant::now(), Vec::new(), 0);
        let answers = &mut [Err(broken()), Ok(true)].into_iter();
        let news = listen(began + Duration::from_secs(60), &mut early, async |seconds| {
            asked.push(seconds);
            answers.next().expect("it is over")
        });
        assert!(news.await);
        let took = began.elapsed();
        assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(10), "{took:?}");
        // With what is left.
        assert!(matches!(asked[..], [60 | 59, 56..=58]), "{asked:?}");
    }

    #[tokio::test]
    async fn without_news_it_is_over_when_it_is_time() {
        let (until, mut asked, mut early) = (Instant::now() + Duration::from_millis(1500), 0, 0);
        let news = listen(until, &mut early, async |_| {
            asked += 1;
            Ok(false)
        });
        assert!(!news.await);
        assert!(Instant::now() >= until && asked == 1, "{asked}");
        let until = Instant::now() + Duration::from_millis(1100);
        assert!(!listen(until, &mut 0, async |_| std::future::pending().await).await);
        assert!(Instant::now() >= until && Instant::now() < until + Duration::from_secs(5));
    }
}
