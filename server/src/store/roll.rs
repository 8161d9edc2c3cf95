//! Rolls, and upstream repositories that the mirror copies.

use std::str::FromStr;

use rocks_common::ids::RollName;
use serde::{Deserialize, Serialize};
use sqlx::Row as _;

use super::{Store, StoreError, name, some, unique};

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

/// Which versions of each package are copied from an upstream repository.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Versions {
    /// The newest.
    #[default]
    Newest,
    /// All that it has.
    All,
}

impl Versions {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::All => "all",
        }
    }
}

impl FromStr for Versions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "newest" => Ok(Self::Newest),
            "all" => Ok(Self::All),
            other => Err(format!("`{other}` is neither `newest` nor `all`")),
        }
    }
}

/// An upstream repository that the mirror copies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// Its name: the name of the folder that the copy is kept in.
    pub name: RollName,
    /// Where its `repodata` folder is.
    pub url: String,
    /// The architecture whose packages are copied.
    pub arch: String,
    /// Which versions.
    pub versions: Versions,
    /// When it was copied last, in seconds since 1970.
    #[serde(default)]
    pub synced: Option<i64>,
}

impl Store {
    /// Adds a roll, behind those that are there.
    ///
    /// # Errors
    /// There is one of that name.
    pub async fn add_roll(&self, roll: &Roll) -> Result<(), StoreError> {
        let sql = "insert into roll (name, path, position, enabled, trusted)
                   values (?, ?, (select coalesce(max(position), 0) + 1 from roll), ?, ?)";
        let query = sqlx::query(sql).bind(roll.name.as_str()).bind(&roll.path).bind(roll.enabled).bind(roll.trusted);
        unique(query.execute(&self.pool).await, "roll", roll.name.as_str())?;
        self.rolls_changed();
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
        some(rows, "roll", roll.as_str())?;
        self.rolls_changed();
        Ok(())
    }

    /// Lets a roll's code run on the frontend, or no longer.
    ///
    /// # Errors
    /// There is none.
    pub async fn trust_roll(&self, roll: &RollName, trusted: bool) -> Result<(), StoreError> {
        let query = sqlx::query("update roll set trusted = ? where name = ?").bind(trusted).bind(roll.as_str());
        let rows = query.execute(&self.pool).await?.rows_affected();
        some(rows, "roll", roll.as_str())?;
        self.rolls_changed();
        Ok(())
    }

    /// Removes a roll.
    ///
    /// # Errors
    /// There is none.
    pub async fn remove_roll(&self, roll: &RollName) -> Result<(), StoreError> {
        let done = sqlx::query("delete from roll where name = ?").bind(roll.as_str()).execute(&self.pool).await?;
        some(done.rows_affected(), "roll", roll.as_str())?;
        self.rolls_changed();
        Ok(())
    }

    /// Adds an upstream repository, or changes the one of that name.
    ///
    /// # Errors
    /// The database's.
    pub async fn put_upstream(&self, upstream: &Upstream) -> Result<(), StoreError> {
        let sql = "insert into upstream (name, url, arch, versions, synced) values (?, ?, ?, ?, ?)
                   on conflict (name) do update set url = excluded.url, arch = excluded.arch,
                   versions = excluded.versions, synced = coalesce(excluded.synced, synced)";
        let query = sqlx::query(sql).bind(upstream.name.as_str()).bind(&upstream.url).bind(&upstream.arch);
        query.bind(upstream.versions.as_str()).bind(upstream.synced).execute(&self.pool).await?;
        Ok(())
    }

    /// All upstream repositories, by name.
    ///
    /// # Errors
    /// The database's.
    pub async fn upstreams(&self) -> Result<Vec<Upstream>, StoreError> {
        let sql = "select name, url, arch, versions, synced from upstream order by name";
        let rows = sqlx::query(sql).fetch_all(&self.pool).await?;
        rows.iter()
            .map(|row| {
                let versions = row.get::<&str, _>(3).parse().map_err(StoreError::Invalid)?;
                let name = name(row.get(0))?;
                Ok(Upstream { name, url: row.get(1), arch: row.get(2), versions, synced: row.get(4) })
            })
            .collect()
    }

    /// Forgets an upstream repository.
    ///
    /// # Errors
    /// There is none.
    pub async fn remove_upstream(&self, upstream: &RollName) -> Result<(), StoreError> {
        let query = sqlx::query("delete from upstream where name = ?").bind(upstream.as_str());
        some(query.execute(&self.pool).await?.rows_affected(), "mirror", upstream.as_str())
    }
}
