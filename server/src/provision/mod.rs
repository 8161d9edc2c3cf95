//! Provisions: what the frontend does of [`rocks_provision`]. Each runs as a task of its own; those that a frontend which ended left open go
//! on when the next one starts.

pub mod account;
mod blocks;
mod bundles;
mod expire;
pub mod forecast;
pub mod known;
pub mod site;
pub(crate) mod userdata;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use rocks_provision::cloud::{Instance, Owned, Resource};
use rocks_provision::engine::SiteError;
use rocks_provision::ids::{InstanceId, ProvisionId};
use rocks_provision::objects::BucketName;
use rocks_provision::order::Order;
use rocks_provision::record::{Record, Status};
use tokio::sync::watch;

use crate::store::{Store, StoreError};
use account::{Account, Accounts};
use site::Frontend;

/// Why a provision was not begun, or not ended.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The frontend's, or its account's.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// The cloud's.
    #[error(transparent)]
    Cloud(#[from] rocks_provision::cloud::CloudError),
    /// The order cannot be carried out.
    #[error("{0}")]
    Order(String),
    /// This frontend was built without a cloud.
    #[error("this frontend was built without AWS")]
    NoCloud,
}

impl ProvisionError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Site(error) => error.hint.clone(),
            Self::Cloud(error) => error.hint().map(str::to_owned),
            Self::NoCloud => Some("build rocks-server with the feature `aws`, or take the package".to_owned()),
            _ => None,
        }
    }
}

/// The frontend's provisions.
pub struct Provisions {
    store: Store,
    site: Arc<Frontend>,
    /// The frontend's name in tags: that of its authority, so that no other's things are taken for ours.
    tag: String,
    accounts: Option<Accounts>,
    /// Those that run, and what ends them.
    running: Mutex<BTreeMap<ProvisionId, watch::Sender<bool>>>,
    /// Whether this frontend ends.
    pause: watch::Sender<bool>,
    /// Held by whoever changes a record of which no task is running.
    changing: tokio::sync::Mutex<()>,
}

impl Provisions {
    /// Provisions of a frontend; without `accounts` none can be begun.
    #[must_use]
    pub fn new(store: Store, site: Arc<Frontend>, tag: String, accounts: Option<Accounts>) -> Arc<Self> {
        Arc::new(Self {
            store,
            site,
            tag,
            accounts,
            running: Mutex::default(),
            pause: watch::Sender::new(false),
            changing: tokio::sync::Mutex::default(),
        })
    }

    async fn account(&self, region: &str) -> Result<Arc<dyn Account>, ProvisionError> {
        let accounts = self.accounts.as_ref().ok_or(ProvisionError::NoCloud)?;
        Ok(accounts(region.to_owned()).await?)
    }

    /// An instance as the cloud knows it now; nothing if it does not.
    ///
    /// # Errors
    /// The cloud's.
    pub async fn instance(&self, region: &str, id: &InstanceId) -> Result<Option<Instance>, ProvisionError> {
        let account = self.account(region).await?;
        Ok(account.instances(std::slice::from_ref(id)).await?.pop())
    }

    /// The bucket that this frontend's objects go into in a region.
    ///
    /// # Errors
    /// The region's name is none.
    pub fn bucket(&self, region: &str) -> Result<BucketName, ProvisionError> {
        self.site.config.bucket(&self.tag, region).map_err(|error| ProvisionError::Order(error.to_string()))
    }

    /// Goes on with what an earlier frontend left open.
    ///
    /// # Errors
    /// The store's.
    pub async fn resume(self: &Arc<Self>) -> Result<usize, StoreError> {
        let open: Vec<Record> = self.store.provisions().await?.into_iter().filter(|one| one.status.is_open()).collect();
        let count = open.len();
        for record in open {
            if let Err(error) = self.spawn(record.clone()).await {
                tracing::error!("provision {} does not go on: {error}", record.id);
            }
        }
        Ok(count)
    }

    /// Begins a provision.
    ///
    /// # Errors
    /// The order cannot be carried out, or there is one of that name.
    pub async fn begin(self: &Arc<Self>, id: ProvisionId, order: Order) -> Result<Record, ProvisionError> {
        order.check().map_err(ProvisionError::Order)?;
        let is_known = match self.store.provision(&id).await {
            Ok(_) => true,
            Err(StoreError::Missing { .. }) => false,
            Err(error) => return Err(error.into()),
        };
        if is_known {
            return Err(StoreError::Conflict(format!("there is a provision `{id}` already")).into());
        }
        // What cannot be predicted can be done all the same.
        match self.site.predict(&order).await {
            Ok(predicted) => self.store.foresee(&id, &predicted.forecast).await?,
            Err(why) => tracing::debug!("provision {id}: nothing is predicted: {why}"),
        }
        let record = Record::new(id, self.tag.clone(), order, Timestamp::now());
        self.store.keep_provision(&record).await?;
        self.spawn(record.clone()).await?;
        Ok(record)
    }

    /// Carries one out as a task of its own.
    async fn spawn(self: &Arc<Self>, record: Record) -> Result<(), ProvisionError> {
        let account = self.account(&record.order.region).await?;
        let (cancel, mut cancelled) = watch::channel(false);
        let id = record.id.clone();
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), cancel);
        let this = self.clone();
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            match account.run(&runtime, &this.site, record, &mut cancelled, this.pause.subscribe()) {
                Ok(None) => {}
                Ok(Some(record)) => {
                    tracing::info!("provision {id}: {:?}", record.status);
                    if let Err(error) = runtime.block_on(this.learn(&record)) {
                        tracing::warn!("what provision {id} took is not kept: {error}");
                    }
                }
                Err(error) => tracing::error!("provision {id} stands still: {error}"),
            }
            this.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        });
        Ok(())
    }

    /// Keeps what a provision took beside what was predicted for it, for the next prediction.
    async fn learn(&self, record: &Record) -> Result<(), StoreError> {
        let foreseen = self.store.foreseen(&record.id).await?;
        let predicted = foreseen.as_ref().map(|forecast| forecast.time);
        // What was not known when it began, as the size of an image that it built, is known now.
        let forecast = match foreseen {
            Some(forecast) => forecast,
            None => match self.site.predict(&record.order).await {
                Ok(now) => now.forecast,
                Err(_) => return Ok(()),
            },
        };
        let history = self.store.history().await?;
        let (method, region) = (forecast::method_of(record.order.method), &record.order.region);
        let site = forecast::site_for(self.site.place(forecast.link), &record.order);
        let estimate = forecast::estimate(&forecast.ask, method, &site, region, &history);
        let run =
            estimate.ok().flatten().and_then(|estimate| forecast::run_of(record, &forecast, predicted, &estimate));
        match run {
            Some(run) => self.store.keep_run(&record.id, &forecast, &run).await,
            None => Ok(()),
        }
    }

    /// The frontend, as predictions need it.
    #[must_use]
    pub fn site(&self) -> &Frontend {
        &self.site
    }

    /// Stands still: this frontend ends, and the next one goes on.
    pub fn pause(&self) {
        self.pause.send_replace(true);
    }

    /// All provisions, the oldest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn list(&self) -> Result<Vec<Record>, StoreError> {
        self.store.provisions().await
    }

    /// One of them.
    ///
    /// # Errors
    /// There is none of that name.
    pub async fn get(&self, id: &ProvisionId) -> Result<Record, StoreError> {
        self.store.provision(id).await
    }

    /// What one is doing beside its steps.
    #[must_use]
    pub fn doing(&self, id: &ProvisionId) -> Option<String> {
        self.site.doing(id)
    }

    /// Ends a provision and all that it made: one that is open, or one that is done.
    ///
    /// # Errors
    /// There is none, or nothing is left of it.
    pub async fn cancel(self: &Arc<Self>, id: &ProvisionId) -> Result<(), ProvisionError> {
        let _turn = self.changing.lock().await;
        let mut record = self.store.provision(id).await?;
        let is_running = {
            let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.get(id).map(|cancel| cancel.send_replace(true)).is_some()
        };
        if is_running {
            return Ok(());
        }
        match record.status {
            Status::Cancelled | Status::Failed { .. } => {
                Err(StoreError::Conflict(format!("nothing is left of provision `{id}`")).into())
            }
            Status::Running | Status::Done => {
                record.status = Status::Ending { why: None };
                self.store.keep_provision(&record).await?;
                self.spawn(record).await
            }
            Status::Ending { .. } => self.spawn(record).await,
        }
    }

    /// Forgets a provision of which nothing is left.
    ///
    /// # Errors
    /// There is none, or something is left.
    pub async fn forget(&self, id: &ProvisionId) -> Result<(), ProvisionError> {
        if self.store.provision(id).await?.status == Status::Done {
            let message = format!("what provision `{id}` made is still there");
            return Err(StoreError::Conflict(message).into());
        }
        Ok(self.store.remove_provision(id).await?)
    }

    /// Things in a region that are ours by their tags and that no provision owns.
    ///
    /// # Errors
    /// The cloud's.
    pub async fn leaks(&self, region: &str) -> Result<Vec<Owned>, ProvisionError> {
        let mut records = self.store.provisions().await?;
        // Buckets of other regions are none of this one's.
        records.retain(|record| record.order.region == region);
        let bucket = self.bucket(region)?;
        Ok(self.account(region).await?.leaks(&self.tag, &bucket, &records).await?)
    }

    /// Ends them.
    ///
    /// # Errors
    /// The cloud's.
    pub async fn end_leaks(&self, region: &str) -> Result<Vec<Resource>, ProvisionError> {
        let leaks = self.leaks(region).await?;
        Ok(self.account(region).await?.end_leaks(&self.tag, &leaks).await?)
    }
}
