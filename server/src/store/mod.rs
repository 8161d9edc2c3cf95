//! What the frontend remembers: appliances, hosts, attributes, rolls, tokens, enrolments, certificates, reports, rollouts.
//!
//! SQLite through sqlx; the statements are plain enough for PostgreSQL. Whatever can change a kickstart moves [`Store::changes`].

mod attribute;
mod delivery;
mod enrolment;
mod host;
mod identity;
mod provision;
mod report;
mod roll;
mod rollout;

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rocks_common::ids::{ApplianceName, Generation};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Row, SqlitePool};
use tokio::sync::watch;

pub use attribute::{MASK, Owner, Setting, attributes_of};
pub use delivery::{Delivery, Given};
pub use enrolment::{Enrolled, NewInstance};
pub use host::{Appliance, Host, LastReport};
pub use identity::{NewCertificate, Proof};
pub use roll::{Roll, Upstream, Versions};
pub use rollout::Strategies;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such object.
    #[error("there is no {kind} `{name}`")]
    Missing {
        /// What it should be.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// It is there already, or something needs it.
    #[error("{0}")]
    Conflict(String),
    /// The database's.
    #[error("the store: {0}")]
    Database(#[from] sqlx::Error),
    /// The tables could not be made.
    #[error("the store's tables: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// Something in it is not what it should be.
    #[error("the store holds something that is not valid: {0}")]
    Invalid(String),
}

impl StoreError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { kind: "appliance", name } => {
                let lists = "`rocks list appliance` shows which there are";
                let is_name = ApplianceName::new(name).is_ok();
                Some(if is_name {
                    format!("{lists}; `rocks add appliance {name}` makes one")
                } else {
                    lists.to_owned()
                })
            }
            _ => None,
        }
    }
}

/// How often what kickstarts are made of has changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// Anything: a host, an appliance, an attribute, a roll.
    pub any: u64,
    /// The rolls: which there are, which are enabled or trusted.
    pub rolls: u64,
}

/// The store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pool: SqlitePool,
    changes: Arc<watch::Sender<Changes>>,
}

impl Store {
    /// Opens the store in `path`, making it if need be.
    ///
    /// # Errors
    /// The database's.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A token that was taken and a certificate that was revoked must stay so after a power cut.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10));
        Self::with(SqlitePoolOptions::new().max_connections(4).connect_with(options).await?).await
    }

    /// A store in memory that is gone with it.
    ///
    /// # Errors
    /// The database's.
    pub async fn temporary() -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::from_str("sqlite::memory:")?.foreign_keys(true);
        Self::with(SqlitePoolOptions::new().max_connections(1).min_connections(1).connect_with(options).await?).await
    }

    async fn with(pool: SqlitePool) -> Result<Self, StoreError> {
        sqlx::migrate!("./migrations").run(&pool).await?;
        Ok(Self { pool, changes: Arc::new(watch::Sender::new(Changes::default())) })
    }

    /// Moves with every change that can alter a kickstart.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Changes> {
        self.changes.subscribe()
    }

    /// Tells that something of what kickstarts are made of may have changed.
    pub(crate) fn changed(&self) {
        self.changes.send_modify(|changes| changes.any += 1);
    }

    fn rolls_changed(&self) {
        self.changes.send_modify(|changes| {
            changes.any += 1;
            changes.rolls += 1;
        });
    }

    /// The generation, and moves it on.
    ///
    /// # Errors
    /// The database's.
    pub async fn next_generation(&self, now: u64) -> Result<Generation, StoreError> {
        let next = self.generation().await?.next(now);
        self.set_setting("generation", &next.to_string()).await?;
        Ok(next)
    }

    /// The generation last given out.
    ///
    /// # Errors
    /// The database's.
    pub async fn generation(&self) -> Result<Generation, StoreError> {
        Ok(self.setting("generation").await?.and_then(|value| value.parse().ok()).unwrap_or_default())
    }

    /// A setting of the frontend's own.
    ///
    /// # Errors
    /// The database's.
    pub async fn setting(&self, name: &str) -> Result<Option<String>, StoreError> {
        let row = sqlx::query("select value from setting where name = ?").bind(name).fetch_optional(&self.pool).await?;
        Ok(row.map(|row| row.get(0)))
    }

    /// Keeps a setting of the frontend's own.
    ///
    /// # Errors
    /// The database's.
    pub async fn set_setting(&self, name: &str, value: &str) -> Result<(), StoreError> {
        let sql =
            "insert into setting (name, value) values (?, ?) on conflict (name) do update set value = excluded.value";
        sqlx::query(sql).bind(name).bind(value).execute(&self.pool).await?;
        Ok(())
    }

    fn one(&self, rows: u64, kind: &'static str, name: &str) -> Result<(), StoreError> {
        some(rows, kind, name)?;
        self.changed();
        Ok(())
    }
}

/// Nothing is done to what is not there.
fn some(rows: u64, kind: &'static str, name: &str) -> Result<(), StoreError> {
    if rows == 0 { Err(StoreError::Missing { kind, name: name.to_owned() }) } else { Ok(()) }
}

fn name<T: FromStr<Err = rocks_common::ids::InvalidName>>(text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|error: rocks_common::ids::InvalidName| StoreError::Invalid(error.to_string()))
}

fn unique<T>(result: Result<T, sqlx::Error>, kind: &'static str, name: &str) -> Result<T, StoreError> {
    match result {
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
            Err(StoreError::Conflict(format!("there is a {kind} `{name}` already")))
        }
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests;
