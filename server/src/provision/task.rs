//! The task that carries one provision out: again and again where that can help, until it is over.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rocks_provision::ids::ProvisionId;
use rocks_provision::record::{Record, Status};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::account::Account;
use super::{AGAIN, Provisions, STORE};
use crate::store::StoreError;

/// A provision's task. As long as it is there it is among those that run.
pub(super) struct Task {
    all: Arc<Provisions>,
    id: ProvisionId,
    /// Whether it has been taken from those that run: the next of that name may be among them.
    is_over: bool,
}

impl Drop for Task {
    /// Also when it panicked: whoever cancels must not tell somebody who is not there.
    fn drop(&mut self) {
        self.leave();
    }
}

impl Task {
    pub(super) const fn new(all: Arc<Provisions>, id: ProvisionId) -> Self {
        Self { all, id, is_over: false }
    }

    fn leave(&mut self) {
        if !std::mem::replace(&mut self.is_over, true) {
            self.all.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        }
    }

    /// Blocks until the provision is over, or this frontend ends.
    pub(super) fn run(
        mut self,
        runtime: &Handle,
        account: &dyn Account,
        mut record: Record,
        mut cancelled: watch::Receiver<bool>,
    ) {
        let (all, mut pause) = (self.all.clone(), AGAIN.0);
        loop {
            match account.run(runtime, &all.site, record.clone(), &mut cancelled, all.pause.subscribe()) {
                // This frontend ends; the next one goes on.
                Ok(None) => return,
                Ok(Some(now)) if now.status.is_open() => {
                    tracing::warn!("provision {}: {}", self.id, now.trouble.as_deref().unwrap_or("it is not ended"));
                    record = now;
                    if !self.sleep(runtime, pause, &mut cancelled) {
                        return;
                    }
                    pause = (pause * 2).min(AGAIN.1);
                }
                Ok(Some(now)) => match runtime.block_on(self.over(now, &cancelled)) {
                    Ok(Some(cancelled)) => record = cancelled,
                    Ok(None) => return,
                    Err(error) => {
                        tracing::error!("provision {}: {error}", self.id);
                        return;
                    }
                },
                Err(error) => {
                    tracing::error!("provision {} stands still: {error}", self.id);
                    if !self.sleep(runtime, STORE, &mut cancelled) {
                        return;
                    }
                    // What was noted last may be there, or not.
                    if let Ok(known) = runtime.block_on(all.store.provision(&self.id)) {
                        record = known;
                    }
                }
            }
        }
    }

    /// Waits, but no longer than until somebody cancels. False if this frontend ends.
    fn sleep(&self, runtime: &Handle, pause: Duration, cancelled: &mut watch::Receiver<bool>) -> bool {
        let mut ending = self.all.pause.subscribe();
        cancelled.mark_unchanged();
        runtime.block_on(async {
            tokio::select! {
                () = tokio::time::sleep(pause) => true,
                Ok(()) = cancelled.changed() => true,
                _ = ending.wait_for(|ending| *ending) => false,
            }
        })
    }

    /// It is over, unless somebody cancelled it while it came to its end: then what it made is to be removed, and the record says so.
    async fn over(&mut self, record: Record, cancelled: &watch::Receiver<bool>) -> Result<Option<Record>, StoreError> {
        let all = self.all.clone();
        tracing::info!("provision {}: {:?}", self.id, record.status);
        let turn = all.changing.lock().await;
        if record.status == Status::Done && *cancelled.borrow() {
            let ending = Record { status: Status::Ending { why: None }, ended: None, ..record };
            all.store.keep_provision(&ending).await?;
            return Ok(Some(ending));
        }
        // From here on whoever cancels begins a task of its own.
        self.leave();
        drop(turn);
        if record.status != Status::Done {
            // Its instances are gone, and what they showed of themselves is soon worth nothing.
            let now = Timestamp::now().as_second();
            for launched in record.found.instances.values() {
                all.store.end_instance(&launched.id, now).await?;
            }
        }
        all.learn(&record).await.map(|()| None)
    }
}
