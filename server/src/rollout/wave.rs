//! Which hosts come first. The same hosts give the same order, so that a rollout that begins again begins with the same ones.

use std::collections::BTreeMap;

use rocks_common::ids::HostName;

/// Whether a host is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Presence {
    /// It was here not long ago.
    Here,
    /// The frontend has not run for long enough to say.
    Unknown,
    /// It has not been here for long.
    Away,
}

/// A host that a change concerns, and what its place depends on.
#[derive(Debug, Clone)]
pub struct Candidate<'h> {
    /// Its name.
    pub host: &'h HostName,
    /// Whether its administrator wants it to be among the first.
    pub is_canary: bool,
    /// Whether it is there.
    pub presence: Presence,
    /// Its rack.
    pub rack: i64,
    /// Its place in the rack.
    pub rank: i64,
}

/// The order in which hosts are released: those who are there first, canaries before others, one of each rack in turn.
#[must_use]
pub fn order(candidates: &[Candidate<'_>]) -> Vec<usize> {
    let mut sorted: Vec<usize> = (0..candidates.len()).collect();
    sorted.sort_by_key(|at| {
        let Candidate { host, rack, rank, .. } = &candidates[*at];
        (*rack, *rank, *host)
    });
    let mut turns: BTreeMap<(Presence, bool, i64), usize> = BTreeMap::new();
    let mut keyed: Vec<_> = sorted
        .into_iter()
        .map(|at| {
            let Candidate { is_canary, presence, rack, .. } = candidates[at];
            let turn = turns.entry((presence, !is_canary, rack)).or_insert(0);
            *turn += 1;
            ((presence, !is_canary, *turn, rack), at)
        })
        .collect();
    keyed.sort_by_key(|(key, _)| *key);
    keyed.into_iter().map(|(_, at)| at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_living_come_first_then_canaries_then_one_of_each_rack() {
        let rows = [
            ("a-0-0", false, Presence::Away, 0, 0),
            ("a-0-1", false, Presence::Here, 0, 1),
            ("a-0-2", false, Presence::Here, 0, 2),
            ("a-1-0", false, Presence::Here, 1, 0),
            ("a-1-1", true, Presence::Here, 1, 1),
            ("a-1-2", true, Presence::Away, 1, 2),
            ("a-1-3", false, Presence::Unknown, 1, 3),
        ];
        let names: Vec<HostName> = rows.iter().map(|row| row.0.parse().expect("a name")).collect();
        let make = |at: usize| {
            let (_, is_canary, presence, rack, rank) = rows[at];
            Candidate { host: &names[at], is_canary, presence, rack, rank }
        };
        let forward: Vec<Candidate<'_>> = (0..rows.len()).map(make).collect();
        let backward: Vec<Candidate<'_>> = (0..rows.len()).rev().map(make).collect();
        let told = |all: &[Candidate<'_>]| -> Vec<String> {
            order(all).into_iter().map(|at| all[at].host.to_string()).collect()
        };
        assert_eq!(told(&forward), ["a-1-1", "a-0-1", "a-1-0", "a-0-2", "a-1-3", "a-1-2", "a-0-0"]);
        assert_eq!(told(&backward), told(&forward));
    }
}
