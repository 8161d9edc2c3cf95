//! Attributes: named values in scopes, the more specific scope winning (rocks-xml 10).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::cond::Lookup;
use crate::ids::AttrName;

/// Where a value was set. Later ones win over earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// A default that a roll ships in `attributes.json` (dialect `modern`).
    Roll,
    /// Given by the frontend: `hostname`, `arch`, ...
    Intrinsic,
    /// For all hosts.
    Global,
    /// For all hosts of one operating system.
    Os,
    /// For all hosts of one appliance.
    Appliance,
    /// For one host.
    Host,
}

impl Scope {
    /// The letter by which `list host attr` calls it, as the original does.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::Roll => 'R',
            Self::Intrinsic => 'I',
            Self::Global => 'G',
            Self::Os => 'O',
            Self::Appliance => 'A',
            Self::Host => 'H',
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Roll => "roll",
            Self::Intrinsic => "intrinsic",
            Self::Global => "global",
            Self::Os => "os",
            Self::Appliance => "appliance",
            Self::Host => "host",
        })
    }
}

/// The attributes of one host: for each name, every scope that sets it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes(BTreeMap<AttrName, BTreeMap<Scope, String>>);

impl Attributes {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `name` in `scope`, over what that scope said before.
    pub fn set(&mut self, scope: Scope, name: AttrName, value: impl Into<String>) {
        self.0.entry(name).or_default().insert(scope, value.into());
    }

    /// Sets `name` in `scope` unless that scope or a more specific one has set it.
    pub fn set_default(&mut self, scope: Scope, name: AttrName, value: impl Into<String>) {
        self.0.entry(name).or_default().entry(scope).or_insert_with(|| value.into());
    }

    /// Forgets `name` in all scopes.
    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// The value that holds.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.last_key_value().map(|(_, value)| value.as_str())
    }

    /// The value that holds and the scope that set it.
    #[must_use]
    pub fn get_with_scope(&self, name: &str) -> Option<(&str, Scope)> {
        self.0.get(name)?.last_key_value().map(|(scope, value)| (value.as_str(), *scope))
    }

    /// Every scope that sets `name`, the least specific first.
    pub fn layers(&self, name: &str) -> impl Iterator<Item = (Scope, &str)> {
        self.0.get(name).into_iter().flatten().map(|(scope, value)| (*scope, value.as_str()))
    }

    /// Name, value and scope of every attribute, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&AttrName, &str, Scope)> {
        self.0
            .iter()
            .filter_map(|(name, layers)| layers.last_key_value().map(|(scope, value)| (name, value.as_str(), *scope)))
    }
}

impl Lookup for Attributes {
    fn lookup(&self, name: &str) -> Option<&str> {
        self.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_specific_scope_wins_whatever_the_order() {
        let name = |text| AttrName::new(text).expect("a name");
        let mut attributes = Attributes::new();
        attributes.set(Scope::Host, name("a"), "host");
        attributes.set(Scope::Global, name("a"), "global");
        attributes.set_default(Scope::Global, name("a"), "later");
        assert_eq!(attributes.get_with_scope("a"), Some(("host", Scope::Host)));
        assert_eq!(attributes.layers("a").collect::<Vec<_>>(), [(Scope::Global, "global"), (Scope::Host, "host")]);
        assert_eq!(attributes.get("b"), None);
    }
}
