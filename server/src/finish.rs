//! Requests that change something are carried to their end, whether or not somebody still waits for the answer.
//!
//! The handler of a request is dropped where it stands when the peer hangs up: between what was written and whom that is to be told, too.

/// Does `work` to its end, even if what this gives is dropped.
pub async fn finish<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The frontend ends, and nobody is answered any more.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn what_was_begun_is_done_though_nobody_waits_for_it() {
        let ((go, goes), (done, seen)) = (oneshot::channel::<()>(), oneshot::channel::<()>());
        let mut work = Box::pin(finish(async move {
            let _ = goes.await;
            let _ = done.send(());
        }));
        assert!(timeout(Duration::ZERO, &mut work).await.is_err(), "it waits");
        drop(work);
        go.send(()).expect("it is there");
        seen.await.expect("it was done");
    }
}
