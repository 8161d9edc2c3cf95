//! Provisions: what the frontend does of [`rocks_provision`]. Each runs as a task of its own; those that a frontend which ended left open go
//! on when the next one starts.

pub mod account;
mod blocks;
mod bundles;
mod expire;
pub mod forecast;
pub mod known;
pub mod site;
mod task;
pub(crate) mod userdata;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rocks_common::ids::{ApplianceName, HostName};
use rocks_provision::cloud::{Instance, Owned, Resource};
use rocks_provision::engine::SiteError;
use rocks_provision::ids::{InstanceId, ProvisionId};
use rocks_provision::objects::BucketName;
use rocks_provision::order::{MOST_HOSTS, Order};
use rocks_provision::record::{Record, Status};
use rocks_provision::undo;
use tokio::sync::watch;

use crate::store::{Store, StoreError};
use account::{Account, Accounts};
use site::Frontend;
use task::Task;

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
    /// Those that have a task, and what ends them. Changed by whoever holds `changing` alone.
    running: Mutex<BTreeMap<ProvisionId, watch::Sender<bool>>>,
    /// Whether this frontend ends.
    pause: watch::Sender<bool>,
    /// Held by whoever begins a provision, changes a record of which no task is running, or decides that a task has come to its end: names
    /// and hosts are given once, and whoever cancels is heard.
    changing: tokio::sync::Mutex<()>,
}

/// Pauses before what could not be ended is tried again; twice as long each time, up to the last.
const AGAIN: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(600));
/// Pause before it is asked again whether the store answers.
const STORE: Duration = Duration::from_secs(5);

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
        let _turn = self.changing.lock().await;
        if let Err(error) = self.site.sweep(&open) {
            tracing::warn!("bundles of provisions that have ended cannot be removed: {error}");
        }
        for record in open {
            match self.account(&record.order.region).await {
                Ok(account) => self.spawn(account, record),
                Err(error) => tracing::error!("provision {} does not go on: {error}", record.id),
            }
        }
        Ok(count)
    }

    /// Names for new hosts of an appliance, as Rocks gives them: the first that are free in rack 0.
    ///
    /// # Errors
    /// The store's; more than a provision may have.
    pub async fn free_hosts(&self, appliance: &ApplianceName, count: u32) -> Result<Vec<HostName>, ProvisionError> {
        if count > MOST_HOSTS {
            return Err(ProvisionError::Order(format!("at most {MOST_HOSTS} instances at a time")));
        }
        let mut taken: BTreeSet<HostName> = self.store.hosts().await?.into_iter().map(|host| host.name).collect();
        // Those that a provision will add belong to it.
        for record in self.store.provisions().await?.into_iter().filter(|record| record.status.is_open()) {
            taken.extend(record.order.hosts);
        }
        let names = (0_u32..).map(|rank| format!("{appliance}-0-{rank}").parse::<HostName>());
        let free = names.filter(|name| name.as_ref().map_or(true, |name| !taken.contains(name)));
        let free: Result<_, _> = free.take(count as usize).collect();
        free.map_err(|error| ProvisionError::Order(error.to_string()))
    }

    /// The appliance's name with the first number that no provision has.
    async fn free_name(&self, appliance: &ApplianceName) -> Result<ProvisionId, ProvisionError> {
        let taken: Vec<ProvisionId> = self.store.provisions().await?.into_iter().map(|record| record.id).collect();
        let lower = appliance.as_str().to_ascii_lowercase().replace(['_', '.'], "-");
        // One more than there are is free, unless the appliance's name makes none.
        let most = u32::try_from(taken.len()).unwrap_or(u32::MAX).saturating_add(1);
        let mut names = (1..=most).filter_map(|number| format!("{lower}-{number}").parse::<ProvisionId>().ok());
        let free = names.find(|id| !taken.contains(id));
        free.ok_or_else(|| ProvisionError::Order("no name follows from the appliance's: say name=NAME".to_owned()))
    }

    /// Begins a provision, called `name`, or as its appliance with a number. Its hosts are chosen anew if somebody else has got them meanwhile.
    ///
    /// # Errors
    /// The order cannot be carried out, or there is one of that name.
    pub async fn begin(self: &Arc<Self>, name: Option<ProvisionId>, order: Order) -> Result<Record, ProvisionError> {
        order.check().map_err(ProvisionError::Order)?;
        let account = self.account(&order.region).await?;
        // This takes a while, and what cannot be predicted can be done all the same.
        let predicted = self.site.predict(&order).await;
        let _turn = self.changing.lock().await;
        let id = match name {
            Some(name) => name,
            None => self.free_name(&order.appliance).await?,
        };
        let count = u32::try_from(order.hosts.len()).unwrap_or(u32::MAX);
        let hosts = self.free_hosts(&order.appliance, count).await?;
        let record = Record::new(id, self.tag.clone(), Order { hosts, ..order }, Timestamp::now());
        self.store.begin_provision(&record).await?;
        match predicted {
            Ok(predicted) => self.store.foresee(&record.id, &predicted.forecast).await?,
            Err(why) => tracing::debug!("provision {}: nothing is predicted: {why}", record.id),
        }
        self.spawn(account, record.clone());
        Ok(record)
    }

    /// Carries one out as a task of its own, until it is over or this frontend ends. Whoever calls holds `changing`, or is alone.
    fn spawn(self: &Arc<Self>, account: Arc<dyn Account>, record: Record) {
        let (cancel, cancelled) = watch::channel(false);
        let id = record.id.clone();
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), cancel);
        let task = Task::new(self.clone(), id);
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || task.run(&runtime, &*account, record, cancelled));
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
            Status::Running | Status::Done | Status::Ending { .. } => {
                let account = self.account(&record.order.region).await?;
                if !matches!(record.status, Status::Ending { .. }) {
                    record.status = Status::Ending { why: None };
                    self.store.keep_provision(&record).await?;
                }
                self.spawn(account, record);
                Ok(())
            }
        }
    }

    /// Forgets a provision of which nothing is left.
    ///
    /// # Errors
    /// There is none, or something is left.
    pub async fn forget(&self, id: &ProvisionId) -> Result<(), ProvisionError> {
        let _turn = self.changing.lock().await;
        if self.store.provision(id).await?.status == Status::Done {
            let message = format!("what provision `{id}` made is still there");
            return Err(StoreError::Conflict(message).into());
        }
        if self.running.lock().unwrap_or_else(PoisonError::into_inner).contains_key(id) {
            return Err(StoreError::Conflict(format!("provision `{id}` has not ended")).into());
        }
        Ok(self.store.remove_provision(id).await?)
    }

    /// Things in a region that are ours by their tags and that no provision owns.
    ///
    /// # Errors
    /// The cloud's.
    pub async fn leaks(&self, region: &str) -> Result<Vec<Owned>, ProvisionError> {
        // Buckets of other regions are none of this one's.
        let of_region = |records: Vec<Record>| records.into_iter().filter(|record| record.order.region == region);
        let named = of_region(self.store.provisions().await?).filter_map(|record| record.order.store().cloned());
        let buckets: Vec<BucketName> = named.map(|store| store.bucket).chain([self.bucket(region)?]).collect();
        let owned = self.account(region).await?.owned(&self.tag, &buckets).await?;
        // Read after it was looked: what a provision made that began meanwhile is that provision's.
        let records: Vec<Record> = of_region(self.store.provisions().await?).collect();
        Ok(undo::leaks(owned, &records))
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
