//! Appliances and hosts.

use rocks_common::ids::{ApplianceName, Digest, HostName};
use rocks_common::wire::{Facts, Outcome};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::{Store, StoreError, name, some, unique};

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
    /// What its agent reported last.
    #[serde(skip)]
    pub last: Option<LastReport>,
}

impl Host {
    /// One that nobody has heard of yet: Linux, at the first place of the first rack.
    #[must_use]
    pub fn new(name: HostName, appliance: ApplianceName, arch: &str) -> Self {
        Self {
            name,
            appliance,
            arch: arch.to_owned(),
            os: "linux".to_owned(),
            rack: 0,
            rank: 0,
            facts: None,
            enrolled: None,
            last: None,
        }
    }
}

/// A host's last report in short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastReport {
    /// What the converge came to.
    pub outcome: Outcome,
    /// The kickstart that was worked on.
    pub kickstart: Option<Digest>,
    /// Its generation.
    pub generation: Option<u64>,
    /// When the report came, in seconds since 1970.
    pub received: i64,
}

impl Store {
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
    /// There is none, or a host or an enrolment has it.
    pub async fn remove_appliance(&self, appliance: &ApplianceName) -> Result<(), StoreError> {
        let mut work = self.pool.begin().await?;
        let used = sqlx::query("select name from host where appliance = ? limit 1").bind(appliance.as_str());
        if let Some(row) = used.fetch_optional(&mut *work).await? {
            let host: String = row.get(0);
            return Err(StoreError::Conflict(format!("host `{host}` is of appliance `{appliance}`")));
        }
        let used = sqlx::query("select name from enrolment where appliance = ? limit 1").bind(appliance.as_str());
        if let Some(row) = used.fetch_optional(&mut *work).await? {
            let rule: String = row.get(0);
            return Err(StoreError::Conflict(format!("enrolment `{rule}` is for appliance `{appliance}`")));
        }
        let done = sqlx::query("delete from appliance where name = ?").bind(appliance.as_str());
        some(done.execute(&mut *work).await?.rows_affected(), "appliance", appliance.as_str())?;
        for sql in [
            "delete from attribute where scope = 'appliance' and owner = ?",
            "delete from strategy where appliance = ?",
        ] {
            sqlx::query(sql).bind(appliance.as_str()).execute(&mut *work).await?;
        }
        work.commit().await?;
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
        let sql = "select name, appliance, arch, os, rack, rank, facts, enrolled, outcome, reported_generation,
                   reported, reported_kickstart
                   from host order by name";
        sqlx::query(sql).fetch_all(&self.pool).await?.iter().map(host_of).collect()
    }

    /// The host called `host`.
    ///
    /// # Errors
    /// There is none.
    pub async fn host(&self, host: &HostName) -> Result<Host, StoreError> {
        let sql = "select name, appliance, arch, os, rack, rank, facts, enrolled, outcome, reported_generation,
                   reported, reported_kickstart
                   from host where name = ?";
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

    /// Removes hosts, all or none; their certificates are revoked.
    ///
    /// # Errors
    /// There is none of that name.
    pub async fn remove_hosts(&self, hosts: &[HostName]) -> Result<(), StoreError> {
        let mut work = self.pool.begin().await?;
        for host in hosts {
            let done = sqlx::query("delete from host where name = ?").bind(host.as_str()).execute(&mut *work).await?;
            some(done.rows_affected(), "host", host.as_str())?;
            forget(&mut work, host).await?;
        }
        work.commit().await?;
        self.changed();
        Ok(())
    }

    /// Removes a host whose instance has ended, unless the administrator was given a join document for it: then it may be another machine by now.
    /// Says whether there was one to remove.
    ///
    /// # Errors
    /// The database's.
    pub async fn expire_host(&self, host: &HostName) -> Result<bool, StoreError> {
        let mut work = self.pool.begin().await?;
        let done = sqlx::query("delete from host where name = ? and by_hand is null").bind(host.as_str());
        if done.execute(&mut *work).await?.rows_affected() == 0 {
            return Ok(false);
        }
        forget(&mut work, host).await?;
        work.commit().await?;
        self.changed();
        Ok(true)
    }
}

/// Does away with what belongs to a host that is removed.
async fn forget(work: &mut SqliteConnection, host: &HostName) -> Result<(), StoreError> {
    for sql in [
        "update certificate set revoked = 1 where host = ?",
        "delete from attribute where scope = 'host' and owner = ?",
    ] {
        sqlx::query(sql).bind(host.as_str()).execute(&mut *work).await?;
    }
    Ok(())
}

fn host_of(row: &SqliteRow) -> Result<Host, StoreError> {
    let (facts, outcome): (Option<String>, Option<String>) = (row.get(6), row.get(8));
    let (generation, received): (Option<i64>, Option<i64>) = (row.get(9), row.get(10));
    let last = outcome.zip(received).and_then(|(outcome, received)| {
        let outcome = serde_json::from_value(outcome.into()).ok()?;
        let kickstart = row.get::<Option<&str>, _>(11).and_then(|text| text.parse().ok());
        Some(LastReport { outcome, kickstart, generation: generation.and_then(|g| u64::try_from(g).ok()), received })
    });
    Ok(Host {
        name: name(row.get(0))?,
        appliance: name(row.get(1))?,
        arch: row.get(2),
        os: row.get(3),
        rack: row.get(4),
        rank: row.get(5),
        facts: facts.and_then(|facts| serde_json::from_str(&facts).ok()),
        enrolled: row.get(7),
        last,
    })
}
