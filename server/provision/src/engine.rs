//! Carries a provision out, as far as it is not.
//!
//! Whatever is known is kept before it is relied on, and whatever is made can be found again by a token, a name or a tag: a frontend that
//! is killed at any moment goes on, or undoes all, when it is started again.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use jiff::Timestamp;
use rocks_common::ids::HostName;
use tokio::sync::watch;

use crate::cloud::{BootMode, Cloud, CloudError};
use crate::ids::{AccountId, VolumeId};
use crate::objects::{Objects, Sha256};
use crate::order::Order;
use crate::plan::Step;
use crate::record::{Failure, Record, Status, StepState};
use crate::undo;

/// Something on the frontend's side did not work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct SiteError {
    /// What.
    pub what: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Whether it passes by itself, as when the store is busy: then nothing is decided, and it is tried again.
    pub passes: bool,
}

impl SiteError {
    /// One that does not pass, without a hint.
    #[must_use]
    pub fn new(what: impl std::fmt::Display) -> Self {
        Self { what: what.to_string(), hint: None, passes: false }
    }

    /// The same with what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }

    /// One that passes.
    #[must_use]
    pub fn passing(what: impl std::fmt::Display) -> Self {
        Self { passes: true, ..Self::new(what) }
    }
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    #[error(transparent)]
    Cloud(#[from] CloudError),
    #[error(transparent)]
    Site(SiteError),
    /// The frontend's own memory does not answer: nothing more may be done.
    #[error("{0}")]
    Keep(SiteError),
}

impl From<SiteError> for StepError {
    fn from(error: SiteError) -> Self {
        if error.passes { Self::Keep(error) } else { Self::Site(error) }
    }
}

/// What came of a shipment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shipped {
    /// Bytes that travelled.
    pub sent_bytes: u64,
    /// The digest of what is on the volume.
    pub digest: String,
}

/// The blocks of an image that a snapshot lacks.
pub trait Blocks: Send + Sync {
    /// The digest of the image.
    fn digest(&self) -> &str;
    /// Their numbers, ascending; a block has 512 KiB.
    fn indices(&self) -> &[u32];
    /// Reads one, filled up with zeros at the image's end.
    ///
    /// # Errors
    /// The file system's.
    fn read(&self, index: u32) -> io::Result<Vec<u8>>;
}

/// A part of what an image becomes on its way into S3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// What the object is called that it is, or is a part of.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
    /// The digest of them.
    pub sha256: Sha256,
}

/// What an image becomes on its way into S3: the parts of one object, or objects, in the order in which they are sent.
pub trait Pieces: Send + Sync {
    /// All of them.
    fn all(&self) -> &[Piece];
    /// Reads one.
    ///
    /// # Errors
    /// The file system's.
    fn read(&self, nth: usize) -> io::Result<Vec<u8>>;
}

/// The frontend, as a provision needs it.
pub trait Site: Send + Sync {
    /// The time.
    fn now(&self) -> Timestamp;
    /// Keeps a record, in place of the earlier one, before it returns.
    fn keep(&self, record: &Record) -> impl Future<Output = Result<(), SiteError>> + Send;
    /// Builds the image of an order, if it is not built.
    fn build(&self, order: &Order) -> impl Future<Output = Result<(), SiteError>> + Send;
    /// How the image of an order boots, which is known when it is there.
    fn boots(&self, order: &Order) -> impl Future<Output = Result<BootMode, SiteError>> + Send;
    /// What a receiver is told, which is to write onto `volume`, attached as `device`. The same each time.
    fn receiver(
        &self,
        record: &Record,
        volume: &VolumeId,
        device: &str,
    ) -> impl Future<Output = Result<String, SiteError>> + Send;
    /// Ships the image to the receiver, as soon as that listens, until it is written, verified and fitted.
    fn ship(&self, record: &Record, to: SocketAddr) -> impl Future<Output = Result<Shipped, SiteError>> + Send;
    /// The blocks of the image, for a snapshot that differs from its parent in them.
    fn blocks(&self, order: &Order) -> impl Future<Output = Result<Box<dyn Blocks>, SiteError>> + Send;
    /// Makes what goes into S3 of the image, if it is not made. What was made stays until it is said to be sent.
    fn bundle(&self, record: &Record) -> impl Future<Output = Result<Box<dyn Pieces>, SiteError>> + Send;
    /// What was made of the image for S3 is needed no more.
    fn sent(&self, record: &Record) -> impl Future<Output = Result<(), SiteError>> + Send;
    /// What an instance is told that is to be `host`; the host is added if there is none. The same each time.
    fn member(&self, record: &Record, host: &HostName) -> impl Future<Output = Result<String, SiteError>> + Send;
    /// What instances are told that are launched together to be `hosts`, all the same: they join by what the cloud says of them. Hosts that
    /// there are none of are added. The same each time.
    fn members(&self, record: &Record, hosts: &[HostName]) -> impl Future<Output = Result<String, SiteError>> + Send;
    /// What instances of a launch template are told, all the same: it names the rule that lets them in. The same each time.
    fn template(&self, record: &Record) -> impl Future<Output = Result<String, SiteError>> + Send;
    /// Lets instances of the record's launch template in, which are of `account`, as long as there is the provision. It may be so already.
    fn let_in(&self, record: &Record, account: &AccountId) -> impl Future<Output = Result<(), SiteError>> + Send;
    /// Which of these hosts have reported that they are what they should be.
    fn converged(&self, hosts: &[HostName]) -> impl Future<Output = Result<Vec<HostName>, SiteError>> + Send;
    /// The receiver's host is needed no more.
    fn received(&self, record: &Record) -> impl Future<Output = Result<(), SiteError>> + Send;
    /// Forgets all hosts that were made for a provision, and lets no more instances of its launch template in.
    fn forget(&self, record: &Record) -> impl Future<Output = Result<(), SiteError>> + Send;
}

/// A cloud, a frontend, and what is under way between them.
pub(crate) struct Work<'w, C, S> {
    pub(crate) cloud: &'w C,
    pub(crate) site: &'w S,
    record: Mutex<Record>,
    /// Held by whoever keeps the record: one after the other, so that no older one replaces a newer one.
    keeping: tokio::sync::Mutex<()>,
    /// Steps that were under way when the last frontend ended: what they made may be there without our knowing.
    pub(crate) resumed: BTreeSet<Step>,
}

impl<C: Cloud + Objects, S: Site> Work<'_, C, S> {
    /// The record as it is now.
    pub(crate) fn record(&self) -> Record {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the record and keeps it.
    pub(crate) async fn note(&self, change: impl FnOnce(&mut Record)) -> Result<(), StepError> {
        let _turn = self.keeping.lock().await;
        let record = {
            let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut record);
            record.clone()
        };
        self.site.keep(&record).await.map_err(StepError::Keep)
    }

    /// All steps, those that do not wait for each other at the same time.
    async fn all(&self) -> Result<(), (Option<Step>, StepError)> {
        let mut running = FuturesUnordered::new();
        let mut begun = BTreeSet::new();
        loop {
            // Nothing is waited for here but the steps: one of them may be the one that is in the way.
            let ready = self.record().ready();
            running.extend(
                ready
                    .into_iter()
                    .filter(|step| begun.insert(*step))
                    .map(|step| async move { self.carry_out(step).await.map_err(|error| (Some(step), error)) }),
            );
            match running.next().await {
                Some(result) => result?,
                None => return Ok(()),
            }
        }
    }

    async fn carry_out(&self, step: Step) -> Result<(), StepError> {
        let now = self.site.now();
        self.note(|record| record.set(step, StepState::Running, now)).await?;
        tracing::info!(%step, "begins");
        self.step(step).await?;
        let now = self.site.now();
        self.note(|record| record.set(step, StepState::Done, now)).await?;
        tracing::info!(%step, "is done");
        Ok(())
    }
}

fn failure(step: Option<Step>, error: &StepError) -> Failure {
    let hint = match error {
        StepError::Cloud(error) => error.hint().map(str::to_owned),
        StepError::Site(error) | StepError::Keep(error) => error.hint.clone(),
    };
    Failure { step, what: error.to_string(), hint }
}

async fn told(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        // Nobody is left who could say so.
        std::future::pending::<()>().await;
    }
}

/// Carries a provision out, to its end or to that of everything that it made. `cancel` becoming true ends it.
///
/// # Errors
/// The frontend's own memory did not answer. Nothing more was done then; run it again when it does.
pub async fn run<C: Cloud + Objects, S: Site>(
    cloud: &C,
    site: &S,
    record: Record,
    cancel: &mut watch::Receiver<bool>,
) -> Result<Record, SiteError> {
    let under_way = record.steps.iter().filter(|one| one.state == StepState::Running);
    let resumed = under_way.map(|one| one.planned.step).collect();
    let work = Work { cloud, site, record: Mutex::new(record), keeping: tokio::sync::Mutex::default(), resumed };
    if work.record().status == Status::Running {
        let ended = tokio::select! {
            result = work.all() => match result {
                Ok(()) => work.finish().await.map_err(|error| (None, error)),
                Err((step, error)) => Err((step, error)),
            }.map_err(Some),
            () = told(cancel) => Err(None),
        };
        let status = match ended {
            Ok(()) => Status::Done,
            Err(Some((_, StepError::Keep(error)))) => return Err(error),
            Err(Some((step, error))) => Status::Ending { why: Some(failure(step, &error)) },
            Err(None) => Status::Ending { why: None },
        };
        work.end(status).await?;
    }
    let record = work.record();
    if let Status::Ending { why } = record.status.clone() {
        site.forget(&record).await?;
        match undo::undo(cloud, &record).await {
            Ok(()) => {
                work.end(why.map_or(Status::Cancelled, |why| Status::Failed { why })).await?;
            }
            Err(error) => {
                let trouble = format!("it could not be undone wholly: {error}");
                work.note(|record| record.trouble = Some(trouble)).await.map_err(|error| kept(&error))?;
            }
        }
    }
    Ok(work.record())
}

fn kept(error: &StepError) -> SiteError {
    SiteError::passing(error)
}

impl<C: Cloud + Objects, S: Site> Work<'_, C, S> {
    async fn end(&self, status: Status) -> Result<(), SiteError> {
        let now = self.site.now();
        let change = |record: &mut Record| {
            record.ended = (!status.is_open()).then_some(now);
            record.status = status;
        };
        self.note(change).await.map_err(|error| kept(&error))
    }

    /// Removes what was made twice, because an answer was lost, and what serves no more. What cannot be removed is told: it is a leak,
    /// and no reason to end what was asked for.
    async fn finish(&self) -> Result<(), StepError> {
        let mut record = self.record();
        record.status = Status::Done;
        match undo::tidy(self.cloud, &record).await {
            Ok(left) => {
                for resource in left {
                    tracing::info!(%resource, "removed: it was made twice");
                }
                Ok(())
            }
            Err(error) => {
                let trouble = format!("not all that serves no more could be removed (`rocks list leak`): {error}");
                self.note(|record| record.trouble = Some(trouble)).await
            }
        }
    }
}
