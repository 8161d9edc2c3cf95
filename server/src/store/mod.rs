//! What the frontend remembers: appliances, hosts, attributes, rolls, tokens, certificates, reports.
//!
//! SQLite through sqlx; the statements are plain enough for PostgreSQL. Whatever can change a kickstart moves [`Store::changes`].

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rocks_common::attr::{Attributes, Scope};
use rocks_common::ids::{ApplianceName, AttrName, Digest, Generation, HostName, RollName};
use rocks_common::wire::{Facts, Report};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Row, SqlitePool};
use tokio::sync::watch;

/// Reports that are kept of each host.
const REPORTS_KEPT: i64 = 20;

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

/// An appliance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appliance {
    /// Its name.
    pub name: ApplianceName,
    /// The node that it begins at.
    pub node: String,
    /// What people call it.
    pub membership: String,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Its name.
    pub name: HostName,
    /// Its appliance.
    pub appliance: ApplianceName,
    /// Its architecture.
    pub arch: String,
    /// Its operating system.
    pub os: String,
    /// Its rack.
    pub rack: i64,
    /// Its place in the rack.
    pub rank: i64,
    /// What its agent told of the machine.
    pub facts: Option<Facts>,
    /// When its agent enrolled, in seconds since 1970.
    pub enrolled: Option<i64>,
}

/// A roll.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roll {
    /// Its name.
    pub name: RollName,
    /// Its folder.
    pub path: String,
    /// Whether it is part of the distribution.
    pub enabled: bool,
    /// Whether its code may run on the frontend.
    pub trusted: bool,
}

/// Whose an attribute is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "scope", content = "owner")]
pub enum Owner {
    /// All hosts.
    Global,
    /// All hosts of an operating system.
    Os(String),
    /// All hosts of an appliance.
    Appliance(ApplianceName),
    /// One host.
    Host(HostName),
}

impl Owner {
    fn key(&self) -> (&'static str, &str) {
        match self {
            Self::Global => ("global", ""),
            Self::Os(os) => ("os", os),
            Self::Appliance(name) => ("appliance", name.as_str()),
            Self::Host(name) => ("host", name.as_str()),
        }
    }

    fn of(scope: &str, owner: &str) -> Result<Self, StoreError> {
        let invalid = |error: rocks_common::ids::InvalidName| StoreError::Invalid(error.to_string());
        Ok(match scope {
            "global" => Self::Global,
            "os" => Self::Os(owner.to_owned()),
            "appliance" => Self::Appliance(owner.parse().map_err(invalid)?),
            "host" => Self::Host(owner.parse().map_err(invalid)?),
            other => return Err(StoreError::Invalid(format!("scope {other}"))),
        })
    }
}

/// An attribute as it was set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Whose it is.
    #[serde(flatten)]
    pub owner: Owner,
    /// Its name.
    pub name: AttrName,
    /// Its value.
    pub value: String,
}

/// The store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pool: SqlitePool,
    changes: Arc<watch::Sender<u64>>,
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
            .synchronous(SqliteSynchronous::Normal)
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
        Ok(Self { pool, changes: Arc::new(watch::Sender::new(0)) })
    }

    /// Moves with every change that can alter a kickstart.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
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

    /// Adds an appliance.
    ///
    /// # Errors
    /// There is one of that name.
    pub async fn add_appliance(&self, appliance: &Appliance) -> Result<(), StoreError> {
        let sql = "insert into appliance (name, node, membership) values (?, ?, ?)";
        let query = sqlx::query(sql).bind(appliance.name.as_str()).bind(&appliance.node).bind(&appliance.membership);
        unique(query.execute(&self.pool).await, "appliance", appliance.name.as_str())?;
        self.changed();
        Ok(())
    }

    /// All appliances, by name.
    ///
    /// # Errors
    /// The database's.
    pub async fn appliances(&self) -> Result<Vec<Appliance>, StoreError> {
        let rows =
            sqlx::query("select name, node, membership from appliance order by name").fetch_all(&self.pool).await?;
        rows.iter()
            .map(|row| Ok(Appliance { name: name(row.get(0))?, node: row.get(1), membership: row.get(2) }))
            .collect()
    }

    /// Removes an appliance that no host has.
    ///
    /// # Errors
    /// There is none, or a host has it.
    pub async fn remove_appliance(&self, appliance: &ApplianceName) -> Result<(), StoreError> {
        let used = sqlx::query("select name from host where appliance = ? limit 1").bind(appliance.as_str());
        if let Some(row) = used.fetch_optional(&self.pool).await? {
            let host: String = row.get(0);
            return Err(StoreError::Conflict(format!("host `{host}` is of appliance `{appliance}`")));
        }
        let done =
            sqlx::query("delete from appliance where name = ?").bind(appliance.as_str()).execute(&self.pool).await?;
        self.forget_attributes("appliance", appliance.as_str()).await?;
        self.one(done.rows_affected(), "appliance", appliance.as_str())
    }

    async fn forget_attributes(&self, scope: &str, owner: &str) -> Result<(), StoreError> {
        let query = sqlx::query("delete from attribute where scope = ? and owner = ?").bind(scope).bind(owner);
        query.execute(&self.pool).await?;
        Ok(())
    }

    fn one(&self, rows: u64, kind: &'static str, name: &str) -> Result<(), StoreError> {
        if rows == 0 {
            return Err(StoreError::Missing { kind, name: name.to_owned() });
        }
        self.changed();
        Ok(())
    }

    /// Adds a host.
    ///
    /// # Errors
    /// There is one of that name, or no such appliance.
    pub async fn add_host(&self, host: &Host) -> Result<(), StoreError> {
        let appliance = sqlx::query("select 1 from appliance where name = ?").bind(host.appliance.as_str());
        if appliance.fetch_optional(&self.pool).await?.is_none() {
            return Err(StoreError::Missing { kind: "appliance", name: host.appliance.to_string() });
        }
        let sql = "insert into host (name, appliance, arch, os, rack, rank) values (?, ?, ?, ?, ?, ?)";
        let query = sqlx::query(sql)
            .bind(host.name.as_str())
            .bind(host.appliance.as_str())
            .bind(&host.arch)
            .bind(&host.os)
            .bind(host.rack)
            .bind(host.rank);
        unique(query.execute(&self.pool).await, "host", host.name.as_str())?;
        self.changed();
        Ok(())
    }

    /// All hosts, by name.
    ///
    /// # Errors
    /// The database's.
    pub async fn hosts(&self) -> Result<Vec<Host>, StoreError> {
        let sql = "select name, appliance, arch, os, rack, rank, facts, enrolled from host order by name";
        sqlx::query(sql).fetch_all(&self.pool).await?.iter().map(host_of).collect()
    }

    /// The host called `host`.
    ///
    /// # Errors
    /// There is none.
    pub async fn host(&self, host: &HostName) -> Result<Host, StoreError> {
        let sql = "select name, appliance, arch, os, rack, rank, facts, enrolled from host where name = ?";
        let row = sqlx::query(sql).bind(host.as_str()).fetch_optional(&self.pool).await?;
        row.as_ref()
            .map(host_of)
            .transpose()?
            .ok_or_else(|| StoreError::Missing { kind: "host", name: host.to_string() })
    }

    /// Makes a host one of another appliance.
    ///
    /// # Errors
    /// There is no such host or appliance.
    pub async fn set_host_appliance(&self, host: &HostName, appliance: &ApplianceName) -> Result<(), StoreError> {
        if !self.appliances().await?.iter().any(|a| a.name == *appliance) {
            return Err(StoreError::Missing { kind: "appliance", name: appliance.to_string() });
        }
        let query =
            sqlx::query("update host set appliance = ? where name = ?").bind(appliance.as_str()).bind(host.as_str());
        let rows = query.execute(&self.pool).await?.rows_affected();
        self.one(rows, "host", host.as_str())
    }

    /// Removes a host; its certificates are revoked.
    ///
    /// # Errors
    /// There is none.
    pub async fn remove_host(&self, host: &HostName) -> Result<(), StoreError> {
        let revoke = sqlx::query("update certificate set revoked = 1 where host = ?").bind(host.as_str());
        revoke.execute(&self.pool).await?;
        self.forget_attributes("host", host.as_str()).await?;
        let done = sqlx::query("delete from host where name = ?").bind(host.as_str()).execute(&self.pool).await?;
        self.one(done.rows_affected(), "host", host.as_str())
    }

    /// Sets an attribute.
    ///
    /// # Errors
    /// There is no such appliance or host.
    pub async fn set_attribute(&self, setting: &Setting) -> Result<(), StoreError> {
        match &setting.owner {
            Owner::Host(host) => drop(self.host(host).await?),
            Owner::Appliance(appliance) if !self.appliances().await?.iter().any(|a| a.name == *appliance) => {
                return Err(StoreError::Missing { kind: "appliance", name: appliance.to_string() });
            }
            _ => {}
        }
        let (scope, owner) = setting.owner.key();
        let sql = "insert into attribute (scope, owner, name, value) values (?, ?, ?, ?)
                   on conflict (scope, owner, name) do update set value = excluded.value";
        let query = sqlx::query(sql).bind(scope).bind(owner).bind(setting.name.as_str()).bind(&setting.value);
        query.execute(&self.pool).await?;
        self.changed();
        Ok(())
    }

    /// Removes an attribute.
    ///
    /// # Errors
    /// It is not set.
    pub async fn remove_attribute(&self, owner: &Owner, attribute: &AttrName) -> Result<(), StoreError> {
        let (scope, key) = owner.key();
        let sql = "delete from attribute where scope = ? and owner = ? and name = ?";
        let query = sqlx::query(sql).bind(scope).bind(key).bind(attribute.as_str());
        let rows = query.execute(&self.pool).await?.rows_affected();
        self.one(rows, "attribute", attribute.as_str())
    }

    /// All attributes as they were set.
    ///
    /// # Errors
    /// The database's.
    pub async fn attributes(&self) -> Result<Vec<Setting>, StoreError> {
        let sql = "select scope, owner, name, value from attribute order by scope, owner, name";
        let rows = sqlx::query(sql).fetch_all(&self.pool).await?;
        rows.iter()
            .map(|row| {
                let owner = Owner::of(row.get(0), row.get(1))?;
                Ok(Setting { owner, name: name(row.get(2))?, value: row.get(3) })
            })
            .collect()
    }

    /// Adds a roll, behind those that are there.
    ///
    /// # Errors
    /// There is one of that name.
    pub async fn add_roll(&self, roll: &Roll) -> Result<(), StoreError> {
        let sql = "insert into roll (name, path, position, enabled, trusted)
                   values (?, ?, (select coalesce(max(position), 0) + 1 from roll), ?, ?)";
        let query = sqlx::query(sql).bind(roll.name.as_str()).bind(&roll.path).bind(roll.enabled).bind(roll.trusted);
        unique(query.execute(&self.pool).await, "roll", roll.name.as_str())?;
        self.changed();
        Ok(())
    }

    /// All rolls, in their order.
    ///
    /// # Errors
    /// The database's.
    pub async fn rolls(&self) -> Result<Vec<Roll>, StoreError> {
        let sql = "select name, path, enabled, trusted from roll order by position";
        let rows = sqlx::query(sql).fetch_all(&self.pool).await?;
        rows.iter()
            .map(|row| Ok(Roll { name: name(row.get(0))?, path: row.get(1), enabled: row.get(2), trusted: row.get(3) }))
            .collect()
    }

    /// Enables or disables a roll.
    ///
    /// # Errors
    /// There is none.
    pub async fn enable_roll(&self, roll: &RollName, enabled: bool) -> Result<(), StoreError> {
        let query = sqlx::query("update roll set enabled = ? where name = ?").bind(enabled).bind(roll.as_str());
        let rows = query.execute(&self.pool).await?.rows_affected();
        self.one(rows, "roll", roll.as_str())
    }

    /// Lets a roll's code run on the frontend, or no longer.
    ///
    /// # Errors
    /// There is none.
    pub async fn trust_roll(&self, roll: &RollName, trusted: bool) -> Result<(), StoreError> {
        let query = sqlx::query("update roll set trusted = ? where name = ?").bind(trusted).bind(roll.as_str());
        let rows = query.execute(&self.pool).await?.rows_affected();
        self.one(rows, "roll", roll.as_str())
    }

    /// Removes a roll.
    ///
    /// # Errors
    /// There is none.
    pub async fn remove_roll(&self, roll: &RollName) -> Result<(), StoreError> {
        let done = sqlx::query("delete from roll where name = ?").bind(roll.as_str()).execute(&self.pool).await?;
        self.one(done.rows_affected(), "roll", roll.as_str())
    }

    /// Keeps the hash of a join token.
    ///
    /// # Errors
    /// The database's.
    pub async fn add_token(&self, host: &HostName, hash: &Digest, expires: i64) -> Result<(), StoreError> {
        let sql = "insert into token (hash, host, expires) values (?, ?, ?)";
        sqlx::query(sql).bind(hash.to_string()).bind(host.as_str()).bind(expires).execute(&self.pool).await?;
        Ok(())
    }

    /// Takes a join token: it is gone afterwards. Wrong, used and expired ones all give nothing.
    ///
    /// # Errors
    /// The database's.
    pub async fn take_token(&self, hash: &Digest, now: i64) -> Result<Option<HostName>, StoreError> {
        let sql = "delete from token where hash = ? returning host, expires";
        let row = sqlx::query(sql).bind(hash.to_string()).fetch_optional(&self.pool).await?;
        match row {
            Some(row) if row.get::<i64, _>(1) >= now => Ok(Some(name(row.get(0))?)),
            _ => Ok(None),
        }
    }

    /// Takes note of a certificate, and of what the agent told of the machine.
    ///
    /// # Errors
    /// The database's.
    pub async fn add_certificate(
        &self,
        serial: &str,
        host: &HostName,
        not_after: i64,
        facts: &Facts,
        now: i64,
    ) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin().await?;
        let sql = "insert into certificate (serial, host, not_after, revoked) values (?, ?, ?, 0)";
        sqlx::query(sql).bind(serial).bind(host.as_str()).bind(not_after).execute(&mut *transaction).await?;
        let json = serde_json::to_string(facts).map_err(|error| StoreError::Invalid(error.to_string()))?;
        let sql = "update host set facts = ?, enrolled = coalesce(enrolled, ?) where name = ?";
        sqlx::query(sql).bind(json).bind(now).bind(host.as_str()).execute(&mut *transaction).await?;
        sqlx::query("delete from certificate where not_after < ?")
            .bind(now - 86_400)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// The serial numbers of certificates that were revoked and have not ended.
    ///
    /// # Errors
    /// The database's.
    pub async fn revoked(&self) -> Result<Vec<String>, StoreError> {
        let rows = sqlx::query("select serial from certificate where revoked = 1").fetch_all(&self.pool).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Keeps a report; one that is there already is kept once.
    ///
    /// # Errors
    /// There is no such host.
    pub async fn add_report(&self, host: &HostName, report: &Report, now: i64) -> Result<(), StoreError> {
        let body = serde_json::to_string(report).map_err(|error| StoreError::Invalid(error.to_string()))?;
        let id = format!("{host}/{}", report.id);
        let mut transaction = self.pool.begin().await?;
        let sql = "insert into report (id, host, received, body) values (?, ?, ?, ?) on conflict (id) do nothing";
        sqlx::query(sql).bind(id).bind(host.as_str()).bind(now).bind(body).execute(&mut *transaction).await?;
        let sql = "delete from report where host = ? and id not in
                   (select id from report where host = ? order by received desc limit ?)";
        sqlx::query(sql).bind(host.as_str()).bind(host.as_str()).bind(REPORTS_KEPT).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// The newest report of `host` with when it came, in seconds since 1970.
    ///
    /// # Errors
    /// The database's.
    pub async fn last_report(&self, host: &HostName) -> Result<Option<(Report, i64)>, StoreError> {
        let sql = "select body, received from report where host = ? order by received desc, rowid desc limit 1";
        let row = sqlx::query(sql).bind(host.as_str()).fetch_optional(&self.pool).await?;
        row.map(|row| {
            let report = serde_json::from_str(row.get(0)).map_err(|error| StoreError::Invalid(error.to_string()))?;
            Ok((report, row.get(1)))
        })
        .transpose()
    }
}

/// The attributes of `host` among all that were set, with the intrinsic ones.
#[must_use]
pub fn attributes_of(host: &Host, appliance: &Appliance, settings: &[Setting], frontend_url: &str) -> Attributes {
    let mut attributes = Attributes::new();
    let (rack, rank) = (host.rack.to_string(), host.rank.to_string());
    for (name, value) in [
        ("hostname", host.name.as_str()),
        ("appliance", host.appliance.as_str()),
        ("membership", appliance.membership.as_str()),
        ("arch", host.arch.as_str()),
        ("os", host.os.as_str()),
        ("rack", rack.as_str()),
        ("rank", rank.as_str()),
        ("root", appliance.node.as_str()),
        ("frontend_url", frontend_url),
    ] {
        if let Ok(name) = AttrName::new(name) {
            attributes.set(Scope::Intrinsic, name, value);
        }
    }
    for setting in settings {
        let scope = match &setting.owner {
            Owner::Global => Scope::Global,
            Owner::Os(os) if *os == host.os => Scope::Os,
            Owner::Appliance(name) if *name == host.appliance => Scope::Appliance,
            Owner::Host(name) if *name == host.name => Scope::Host,
            _ => continue,
        };
        attributes.set(scope, setting.name.clone(), setting.value.as_str());
    }
    attributes
}

fn name<T: FromStr<Err = rocks_common::ids::InvalidName>>(text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|error: rocks_common::ids::InvalidName| StoreError::Invalid(error.to_string()))
}

fn host_of(row: &sqlx::sqlite::SqliteRow) -> Result<Host, StoreError> {
    let facts: Option<String> = row.get(6);
    Ok(Host {
        name: name(row.get(0))?,
        appliance: name(row.get(1))?,
        arch: row.get(2),
        os: row.get(3),
        rack: row.get(4),
        rank: row.get(5),
        facts: facts.and_then(|facts| serde_json::from_str(&facts).ok()),
        enrolled: row.get(7),
    })
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
