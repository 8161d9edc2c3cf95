//! Which kickstart each host was given last, with what its rollout came to by that: noted together, before anybody gets it.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use rocks_common::ids::{ApplianceName, Digest, Generation, HostName};
use sqlx::Row as _;

use super::{Store, StoreError, name};
use crate::rollout::Change;

/// A kickstart that was given to a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The digest of its text.
    pub digest: Digest,
    /// Its generation.
    pub generation: Generation,
    /// The host's appliance then, if that was noted.
    pub appliance: Option<ApplianceName>,
}

/// What is noted together.
#[derive(Debug, Default)]
pub struct Delivery<'d> {
    /// Kickstarts that must outlive this frontend, compressed.
    pub bodies: Vec<(Digest, Bytes)>,
    /// What hosts are given.
    pub given: Vec<(HostName, Given)>,
    /// Rollouts that changed.
    pub rollouts: Vec<&'d Change>,
}

impl Delivery<'_> {
    /// Whether there is nothing to note.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bodies.is_empty() && self.given.is_empty() && self.rollouts.is_empty()
    }
}

impl Store {
    /// The kickstart that each host was given last.
    ///
    /// # Errors
    /// The database's.
    pub async fn served(&self) -> Result<HashMap<HostName, Given>, StoreError> {
        let sql = "select host, digest, generation, appliance from served";
        let rows = sqlx::query(sql).fetch_all(&self.pool).await?;
        rows.iter()
            .map(|row| {
                let generation = Generation(u64::try_from(row.get::<i64, _>(2)).unwrap_or(0));
                let appliance = row.get::<Option<&str>, _>(3).map(name).transpose()?;
                Ok((name(row.get(0))?, Given { digest: digest(row.get(1))?, generation, appliance }))
            })
            .collect()
    }

    /// Notes what hosts are given, and what that does to rollouts: all or nothing.
    ///
    /// # Errors
    /// The database's.
    pub async fn deliver(&self, delivery: &Delivery<'_>) -> Result<(), StoreError> {
        if delivery.is_empty() {
            return Ok(());
        }
        let mut work = self.pool.begin().await?;
        for (digest, gzip) in &delivery.bodies {
            let sql = "insert into body (digest, gzip) values (?, ?) on conflict (digest) do nothing";
            sqlx::query(sql).bind(digest.to_string()).bind(&gzip[..]).execute(&mut *work).await?;
        }
        for (host, given) in &delivery.given {
            let number =
                i64::try_from(given.generation.0).map_err(|_| StoreError::Invalid("a generation".to_owned()))?;
            // Only of hosts that are still there.
            let sql =
                "insert into served (host, digest, generation, appliance) select name, ?, ?, ? from host where name = ?
                 on conflict (host) do update set digest = excluded.digest, generation = excluded.generation,
                 appliance = excluded.appliance";
            let query = sqlx::query(sql).bind(given.digest.to_string()).bind(number);
            let query = query.bind(given.appliance.as_ref().map(ApplianceName::as_str)).bind(host.as_str());
            query.execute(&mut *work).await?;
        }
        for change in &delivery.rollouts {
            super::rollout::keep(&mut work, change).await?;
        }
        work.commit().await?;
        Ok(())
    }

    /// The digests of the kickstarts that are kept.
    ///
    /// # Errors
    /// The database's.
    pub async fn bodies(&self) -> Result<HashSet<Digest>, StoreError> {
        let rows = sqlx::query("select digest from body").fetch_all(&self.pool).await?;
        rows.iter().map(|row| digest(row.get(0))).collect()
    }

    /// A kickstart that is kept, compressed.
    ///
    /// # Errors
    /// The database's.
    pub async fn body(&self, digest: &Digest) -> Result<Option<Bytes>, StoreError> {
        let query = sqlx::query("select gzip from body where digest = ?").bind(digest.to_string());
        let row = query.fetch_optional(&self.pool).await?;
        Ok(row.map(|row| Bytes::from(row.get::<Vec<u8>, _>(0))))
    }

    /// Forgets kickstarts that no host of an appliance with a strategy is served, and no rollout can give back.
    ///
    /// # Errors
    /// The database's.
    pub async fn sweep_bodies(&self) -> Result<(), StoreError> {
        let sql = "delete from body where digest not in (
                       select served.digest from served join host on host.name = served.host
                       join strategy on strategy.appliance in ('', host.appliance))
                   and digest not in (
                       select former from rollout_host join rollout on rollout.number = rollout_host.rollout
                       where rollout.status <> 'superseded')";
        sqlx::query(sql).execute(&self.pool).await?;
        Ok(())
    }
}

pub(super) fn digest(text: &str) -> Result<Digest, StoreError> {
    text.parse().map_err(|_| StoreError::Invalid("a digest".to_owned()))
}
