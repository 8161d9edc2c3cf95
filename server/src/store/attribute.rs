//! Attributes as they were set, and which of them hold for a host.

use rocks_common::attr::{Attributes, Scope};
use rocks_common::ids::{ApplianceName, AttrName, HostName};
use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Appliance, Host, Store, StoreError, name};

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
    pub(super) fn key(&self) -> (&'static str, &str) {
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
    /// Whether the value is left out of what is shown.
    #[serde(default)]
    pub secret: bool,
}

/// What is shown instead of a secret value.
pub const MASK: &str = "********";

impl Setting {
    /// The scope in which it holds for `host`, if it does.
    #[must_use]
    pub fn scope_for(&self, host: &Host) -> Option<Scope> {
        match &self.owner {
            Owner::Global => Some(Scope::Global),
            Owner::Os(os) if *os == host.os => Some(Scope::Os),
            Owner::Appliance(name) if *name == host.appliance => Some(Scope::Appliance),
            Owner::Host(name) if *name == host.name => Some(Scope::Host),
            _ => None,
        }
    }
}

impl Store {
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
        let sql = "insert into attribute (scope, owner, name, value, secret) values (?, ?, ?, ?, ?)
                   on conflict (scope, owner, name) do update set value = excluded.value, secret = excluded.secret";
        let query = sqlx::query(sql).bind(scope).bind(owner).bind(setting.name.as_str());
        let query = query.bind(&setting.value).bind(setting.secret);
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
        let sql = "select scope, owner, name, value, secret from attribute order by scope, owner, name";
        sqlx::query(sql).fetch_all(&self.pool).await?.iter().map(setting).collect()
    }

    /// Those that hold for `host`, as they were set; all, or the secret ones alone. What is set for others costs nothing.
    ///
    /// # Errors
    /// The database's.
    pub async fn attributes_for(&self, host: &Host, only_secret: bool) -> Result<Vec<Setting>, StoreError> {
        let sql = "select scope, owner, name, value, secret from attribute
                   where ((scope = 'global' and owner = '') or (scope = 'os' and owner = ?)
                   or (scope = 'appliance' and owner = ?) or (scope = 'host' and owner = ?)) and secret >= ?
                   order by scope, owner, name";
        let query = sqlx::query(sql).bind(&host.os).bind(host.appliance.as_str()).bind(host.name.as_str());
        query.bind(i64::from(only_secret)).fetch_all(&self.pool).await?.iter().map(setting).collect()
    }
}

fn setting(row: &SqliteRow) -> Result<Setting, StoreError> {
    let owner = Owner::of(row.get(0), row.get(1))?;
    Ok(Setting { owner, name: name(row.get(2))?, value: row.get(3), secret: row.get(4) })
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
        if let Some(scope) = setting.scope_for(host) {
            attributes.set(scope, setting.name.clone(), setting.value.as_str());
        }
    }
    attributes
}
