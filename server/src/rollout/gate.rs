//! Decides, for the hosts of one appliance, who may have a new kickstart at once: pure.

use std::collections::HashSet;

use rocks_common::ids::{Digest, HostName};

use super::machine::{Rollout, Status};

/// A host, what it is to have, and what it has.
#[derive(Debug, Clone)]
pub struct Case<'c> {
    /// The host.
    pub host: &'c HostName,
    /// What it is to have.
    pub target: Digest,
    /// What it has; none: it is new.
    pub served: Option<Digest>,
    /// Whether it had that as a host of another appliance.
    pub has_moved: bool,
}

impl Case<'_> {
    /// Whether the change may wait: it has something to go on with, and nobody asked for it by its name.
    const fn may_wait(&self) -> bool {
        self.served.is_some() && !self.has_moved
    }

    fn differs(&self) -> bool {
        self.served.is_some_and(|served| served != self.target)
    }
}

/// What is to be done with an appliance's hosts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// Hosts that keep what they have, by their places.
    pub keep: HashSet<usize>,
    /// Whether the rollout that there is has been overtaken.
    pub supersedes: bool,
    /// Hosts that a new rollout begins with, by their places. They are among those that keep what they have.
    pub begin: Vec<usize>,
}

/// Decides. `latest` is the appliance's last rollout, if no later change has taken its place; `has_strategy` says whether changes wait at all.
#[must_use]
pub fn decide(cases: &[Case<'_>], latest: Option<&Rollout>, has_strategy: bool) -> Decision {
    let mut decision = Decision::default();
    let latest = latest.filter(|rollout| !matches!(rollout.header().status, Status::Superseded { .. }));
    let is_news = |case: &Case<'_>| {
        let member = latest.and_then(|rollout| rollout.member(case.host));
        case.may_wait() && member.map_or_else(|| case.differs(), |member| member.target != case.target)
    };
    if !cases.iter().any(is_news) {
        if let Some(rollout) = latest {
            let keeps = |case: &Case<'_>| case.may_wait() && case.differs() && rollout.keeps(case.host);
            decision.keep = cases.iter().enumerate().filter(|(_, case)| keeps(case)).map(|(at, _)| at).collect();
        }
        return decision;
    }
    decision.supersedes = latest.is_some();
    if has_strategy {
        let waits = cases.iter().enumerate().filter(|(_, case)| case.may_wait() && case.differs());
        decision.begin = waits.map(|(at, _)| at).collect();
        decision.keep = decision.begin.iter().copied().collect();
    }
    decision
}

#[cfg(test)]
#[path = "gate_tests.rs"]
pub(crate) mod tests;
