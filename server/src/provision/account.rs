//! A cloud account as the frontend uses it, whichever cloud it is.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use rocks_provision::cloud::{Answer, Cloud, Instance, Owned, Resource};
use rocks_provision::engine::{self, SiteError};
use rocks_provision::ids::InstanceId;
use rocks_provision::objects::{BucketName, Objects};
use rocks_provision::record::Record;
use rocks_provision::undo;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::site::Frontend;

/// Work that somebody else does.
type Later<'l, T> = Pin<Box<dyn Future<Output = T> + Send + 'l>>;

/// A cloud account in one region.
pub trait Account: Send + Sync {
    /// Carries a provision out, or until `pause`: then the next frontend goes on with it. Blocks: a provision has a thread of its own, on
    /// which its steps take turns.
    ///
    /// # Errors
    /// The record cannot be kept.
    fn run(
        &self,
        runtime: &Handle,
        site: &Frontend,
        record: Record,
        cancel: &mut watch::Receiver<bool>,
        pause: watch::Receiver<bool>,
    ) -> Result<Option<Record>, SiteError>;
    /// How these instances are. Those that the cloud does not know any more are left out.
    fn instances<'l>(&'l self, ids: &'l [InstanceId]) -> Later<'l, Answer<Vec<Instance>>>;
    /// Everything that is ours, in the cloud and in these buckets.
    fn owned<'l>(&'l self, site: &'l str, buckets: &'l [BucketName]) -> Later<'l, Answer<Vec<Owned>>>;
    /// Ends that.
    fn end_leaks<'l>(&'l self, site: &'l str, leaks: &'l [Owned]) -> Later<'l, Answer<Vec<Resource>>>;
}

impl<C: Cloud + Objects> Account for C {
    fn run(
        &self,
        runtime: &Handle,
        site: &Frontend,
        record: Record,
        cancel: &mut watch::Receiver<bool>,
        mut pause: watch::Receiver<bool>,
    ) -> Result<Option<Record>, SiteError> {
        runtime.block_on(async {
            tokio::select! {
                record = engine::run(self, site, record, cancel) => record.map(Some),
                _ = pause.wait_for(|pause| *pause) => Ok(None),
            }
        })
    }

    fn instances<'l>(&'l self, ids: &'l [InstanceId]) -> Later<'l, Answer<Vec<Instance>>> {
        Box::pin(Cloud::instances(self, ids))
    }

    fn owned<'l>(&'l self, site: &'l str, buckets: &'l [BucketName]) -> Later<'l, Answer<Vec<Owned>>> {
        Box::pin(undo::owned(self, site, buckets))
    }

    fn end_leaks<'l>(&'l self, site: &'l str, leaks: &'l [Owned]) -> Later<'l, Answer<Vec<Resource>>> {
        Box::pin(undo::end_leaks(self, site, leaks))
    }
}

/// Gives the account of a region.
pub type Accounts = Arc<dyn Fn(String) -> Later<'static, Result<Arc<dyn Account>, SiteError>> + Send + Sync>;
