//! What changed, in words for people: names alone, never values.

use std::collections::{BTreeMap, BTreeSet};

use rocks_common::ids::{ApplianceName, Digest};

use crate::store::{Appliance, Owner, Setting};

/// Names that are told; of more only how many.
const TOLD: usize = 5;

/// What the kickstarts of one time were made of.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The rolls.
    pub rolls: Digest,
    /// The attributes.
    pub settings: Vec<Setting>,
    /// The appliances.
    pub appliances: Vec<Appliance>,
}

/// What is different between two times, as far as hosts of `appliance` may see it.
#[must_use]
pub fn changed(before: Option<&Inputs>, now: &Inputs, appliance: &ApplianceName) -> String {
    let Some(before) = before else { return "while the frontend did not run".to_owned() };
    let mut told: Vec<String> = Vec::new();
    if before.rolls != now.rolls {
        told.push("rolls".to_owned());
    }
    let node = |inputs: &Inputs| {
        let of = inputs.appliances.iter().find(|one| one.name == *appliance);
        of.map(|one| (one.node.clone(), one.membership.clone()))
    };
    if node(before) != node(now) {
        told.push(format!("appliance {appliance}"));
    }
    let of = |inputs: &'_ Inputs| -> BTreeMap<(Owner, String), (String, bool)> {
        let concerns = |setting: &&Setting| !matches!(&setting.owner, Owner::Appliance(of) if of != appliance);
        let settings = inputs.settings.iter().filter(concerns);
        settings.map(|s| ((s.owner.clone(), s.name.to_string()), (s.value.clone(), s.secret))).collect()
    };
    let (old, new) = (of(before), of(now));
    let keys: BTreeSet<&(Owner, String)> = old.keys().chain(new.keys()).collect();
    for key in keys.into_iter().filter(|key| old.get(*key).map(|v| &v.0) != new.get(*key).map(|v| &v.0)) {
        let (owner, name) = key;
        told.push(match owner {
            Owner::Global => format!("attr {name}"),
            Owner::Os(os) => format!("attr {name} of os {os}"),
            Owner::Appliance(appliance) => format!("attr {name} of appliance {appliance}"),
            Owner::Host(host) => format!("attr {name} of host {host}"),
        });
    }
    let more = told.len().saturating_sub(TOLD);
    told.truncate(TOLD);
    let text = told.join(", ");
    match (told.is_empty(), more) {
        (true, _) => "code of rolls, or the frontend itself".to_owned(),
        (false, 0) => text,
        (false, more) => format!("{text} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(owner: Owner, name: &str, value: &str) -> Setting {
        Setting { owner, name: name.parse().expect("a name"), value: value.to_owned(), secret: true }
    }

    fn inputs(rolls: &str, settings: Vec<Setting>) -> Inputs {
        Inputs { rolls: Digest::of(rolls.as_bytes()), settings, appliances: Vec::new() }
    }

    #[test]
    fn names_are_told_and_values_are_not() {
        let (a, b): (ApplianceName, ApplianceName) = ("a".parse().expect("a name"), "b".parse().expect("a name"));
        let before = inputs("1", vec![setting(Owner::Global, "motd", "old"), setting(Owner::Global, "same", "x")]);
        let now = inputs(
            "2",
            vec![
                setting(Owner::Global, "motd", "hunter2"),
                setting(Owner::Global, "same", "x"),
                setting(Owner::Appliance(a.clone()), "vim", "yes"),
                setting(Owner::Appliance(b), "java", "yes"),
            ],
        );
        assert_eq!(changed(Some(&before), &now, &a), "rolls, attr motd, attr vim of appliance a");
        assert_eq!(changed(Some(&now), &now, &a), "code of rolls, or the frontend itself");
        assert_eq!(changed(None, &now, &a), "while the frontend did not run");
        let many = inputs("1", ["a", "b", "c", "d", "e", "f", "g"].map(|n| setting(Owner::Global, n, "")).to_vec());
        let none = inputs("1", Vec::new());
        assert!(changed(Some(&none), &many, &a).ends_with("attr e and 2 more"));
    }
}
