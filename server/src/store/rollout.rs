//! Strategies, and rollouts with their hosts.

use std::collections::BTreeMap;

use rocks_common::ids::{ApplianceName, RolloutName};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::delivery::digest;
use super::{Store, StoreError, name};
use crate::rollout::machine::{Header, Member, Rollout};
use crate::rollout::strategy::Strategy;
use crate::rollout::{Change, Touched};

/// Rollouts that are over and are kept for people to look at.
const KEPT: i64 = 50;

/// Strategies, by appliance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strategies {
    /// That of all appliances that have none of their own.
    pub default: Option<Strategy>,
    /// Appliances' own.
    pub own: BTreeMap<ApplianceName, Strategy>,
}

impl Strategies {
    /// The strategy of an appliance.
    #[must_use]
    pub fn of(&self, appliance: &ApplianceName) -> Option<&Strategy> {
        self.own.get(appliance).or(self.default.as_ref())
    }

    /// Whether there is none at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.default.is_none() && self.own.is_empty()
    }
}

fn json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Invalid(error.to_string()))
}

fn parsed<T: DeserializeOwned>(text: &str, what: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Invalid(format!("{what}: {error}")))
}

/// A word as the JSON of a type has it.
fn word<T: DeserializeOwned>(text: &str, what: &str) -> Result<T, StoreError> {
    serde_json::from_value(text.into()).map_err(|error| StoreError::Invalid(format!("{what}: {error}")))
}

fn key(appliance: Option<&ApplianceName>) -> &str {
    match appliance {
        Some(appliance) => appliance.as_str(),
        None => "",
    }
}

impl Store {
    /// Sets the strategy of an appliance, or that of all which have none of their own.
    ///
    /// # Errors
    /// There is no such appliance.
    pub async fn set_strategy(&self, appliance: Option<&ApplianceName>, strategy: &Strategy) -> Result<(), StoreError> {
        if let Some(appliance) = appliance
            && !self.appliances().await?.iter().any(|one| one.name == *appliance)
        {
            return Err(StoreError::Missing { kind: "appliance", name: appliance.to_string() });
        }
        let sql = "insert into strategy (appliance, body) values (?, ?)
                   on conflict (appliance) do update set body = excluded.body";
        sqlx::query(sql).bind(key(appliance)).bind(json(strategy)?).execute(&self.pool).await?;
        self.changed();
        Ok(())
    }

    /// Removes a strategy.
    ///
    /// # Errors
    /// There is none.
    pub async fn remove_strategy(&self, appliance: Option<&ApplianceName>) -> Result<(), StoreError> {
        let done = sqlx::query("delete from strategy where appliance = ?").bind(key(appliance));
        let rows = done.execute(&self.pool).await?.rows_affected();
        self.one(rows, "strategy of appliance", appliance.map_or("(default)", ApplianceName::as_str))
    }

    /// All strategies.
    ///
    /// # Errors
    /// The database's.
    pub async fn strategies(&self) -> Result<Strategies, StoreError> {
        let rows = sqlx::query("select appliance, body from strategy").fetch_all(&self.pool).await?;
        let mut all = Strategies::default();
        for row in &rows {
            let strategy = parsed(row.get(1), "a strategy")?;
            match row.get::<&str, _>(0) {
                "" => all.default = Some(strategy),
                appliance => drop(all.own.insert(name(appliance)?, strategy)),
            }
        }
        Ok(all)
    }

    /// What holds for all hosts of each rollout, the oldest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn rollouts(&self) -> Result<Vec<Header>, StoreError> {
        let rows = sqlx::query("select body from rollout order by number").fetch_all(&self.pool).await?;
        rows.iter().map(|row| parsed(row.get(0), "a rollout")).collect()
    }

    /// A rollout.
    ///
    /// # Errors
    /// There is none of that name.
    pub async fn rollout(&self, rollout: &RolloutName) -> Result<Rollout, StoreError> {
        let query = sqlx::query("select body from rollout where name = ?").bind(rollout.as_str());
        let row = query.fetch_optional(&self.pool).await?;
        let row = row.ok_or_else(|| StoreError::Missing { kind: "rollout", name: rollout.to_string() })?;
        let header: Header = parsed(row.get(0), "a rollout")?;
        let sql = "select host, state, former, target, changed, reason, excused from rollout_host
                   where rollout = ? order by position";
        let rows = sqlx::query(sql).bind(header.number).fetch_all(&self.pool).await?;
        let members: Result<Vec<Member>, StoreError> = rows.iter().map(member).collect();
        Ok(Rollout::restore(header, members?))
    }

    /// The rollouts that no later change has taken the place of: one of each appliance at most.
    ///
    /// # Errors
    /// The database's.
    pub async fn latest_rollouts(&self) -> Result<Vec<Rollout>, StoreError> {
        let sql = "select name from rollout where status <> 'superseded' order by number";
        let rows = sqlx::query(sql).fetch_all(&self.pool).await?;
        let mut all = Vec::new();
        for row in &rows {
            all.push(self.rollout(&name(row.get(0))?).await?);
        }
        Ok(all)
    }

    /// The number that the next rollout may have, and the next one of its appliance.
    ///
    /// # Errors
    /// The database's.
    pub async fn next_rollout(&self, appliance: &ApplianceName) -> Result<(i64, i64), StoreError> {
        let sql = "select coalesce(max(number), 0) + 1 from rollout";
        let number = sqlx::query(sql).fetch_one(&self.pool).await?.get(0);
        let sql = "select name from rollout where appliance = ?";
        let rows = sqlx::query(sql).bind(appliance.as_str()).fetch_all(&self.pool).await?;
        let of = |row: &SqliteRow| row.get::<&str, _>(0).rsplit('-').next().and_then(|n| n.parse::<i64>().ok());
        Ok((number, rows.iter().filter_map(of).max().unwrap_or(0) + 1))
    }

    /// Forgets rollouts that were overtaken long ago.
    ///
    /// # Errors
    /// The database's.
    pub async fn sweep_rollouts(&self) -> Result<(), StoreError> {
        let sql = "delete from rollout where status = 'superseded' and number not in
                   (select number from rollout order by number desc limit ?)";
        sqlx::query(sql).bind(KEPT).execute(&self.pool).await?;
        Ok(())
    }
}

fn member(row: &SqliteRow) -> Result<Member, StoreError> {
    let changed = row.get::<&str, _>(4).parse();
    Ok(Member {
        host: name(row.get(0))?,
        state: word(row.get(1), "a host's state")?,
        former: digest(row.get(2))?,
        target: digest(row.get(3))?,
        changed: changed.map_err(|error| StoreError::Invalid(format!("a time: {error}")))?,
        reason: row.get(5),
        excused: row.get(6),
    })
}

/// Writes what changed of a rollout.
pub(super) async fn keep(work: &mut SqliteConnection, change: &Change) -> Result<(), StoreError> {
    let header = change.rollout.header();
    let sql = "insert into rollout (number, name, appliance, status, body) values (?, ?, ?, ?, ?)
               on conflict (number) do update set status = excluded.status, body = excluded.body";
    let query = sqlx::query(sql).bind(header.number).bind(header.name.as_str()).bind(header.appliance.as_str());
    query.bind(header.status.word()).bind(json(header)?).execute(&mut *work).await?;
    let members = change.rollout.members().iter().enumerate();
    let touched: Box<dyn Iterator<Item = (usize, &Member)> + Send> = match &change.touched {
        Touched::All => Box::new(members),
        Touched::Some(some) => Box::new(members.filter(|(at, _)| some.contains(at))),
    };
    for (at, member) in touched {
        let state = serde_json::to_value(member.state).map_err(|error| StoreError::Invalid(error.to_string()))?;
        let sql = "insert into rollout_host (rollout, position, host, state, former, target, changed, reason, excused)
                   values (?, ?, ?, ?, ?, ?, ?, ?, ?)
                   on conflict (rollout, position) do update set state = excluded.state, changed = excluded.changed,
                   reason = excluded.reason, excused = excluded.excused";
        let query = sqlx::query(sql).bind(header.number).bind(i64::try_from(at).unwrap_or(i64::MAX));
        let query = query.bind(member.host.as_str()).bind(state.as_str()).bind(member.former.to_string());
        let query = query.bind(member.target.to_string()).bind(member.changed.to_string()).bind(&member.reason);
        query.bind(member.excused).execute(&mut *work).await?;
    }
    Ok(())
}
