//! What is known of hosts when a wave begins: from the store, and from who is connected.

use std::collections::HashMap;
use std::sync::PoisonError;

use jiff::Timestamp;
use rocks_common::ids::{Digest, HostName};
use rocks_common::wire::Outcome;

use super::Service;
use crate::rollout::machine::Sight;
use crate::rollout::wave::Presence;
use crate::store::Host;

/// How long agents may take to find a frontend that has started, in seconds: they come back at most two and a half minutes apart.
const FINDING: i64 = 300;

/// The hosts as they are now.
pub(super) struct Seen<'s> {
    service: &'s Service,
    hosts: HashMap<&'s HostName, &'s Host>,
    now: i64,
}

impl<'s> Seen<'s> {
    pub(super) fn new(service: &'s Service, hosts: &'s [Host], now: Timestamp) -> Self {
        let hosts = hosts.iter().map(|host| (&host.name, host)).collect();
        Self { service, hosts, now: now.as_second() }
    }

    /// A host's rack, and its place in that.
    pub(super) fn place(&self, host: &HostName) -> (i64, i64) {
        self.hosts.get(host).map_or((0, 0), |host| (host.rack, host.rank))
    }

    /// When it was here last, as far as this frontend has seen it.
    fn seen(&self, host: &HostName) -> Option<i64> {
        let slots = self.service.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.get(host).and_then(|slot| slot.seen(self.now))
    }
}

impl Sight for Seen<'_> {
    fn presence(&self, host: &HostName) -> Presence {
        let known = self.hosts.get(host).and_then(|host| Some((host.enrolled?, host.last)));
        // One that no agent has enrolled for is not there.
        let Some((enrolled, last)) = known else { return Presence::Away };
        let is_recent = |seen: i64| self.now - seen <= self.service.stale_seconds;
        match self.seen(host) {
            Some(seen) if is_recent(seen) => Presence::Here,
            Some(_) => Presence::Away,
            None if is_recent(last.map_or(enrolled, |last| last.received)) => Presence::Here,
            None if self.now - self.service.started < FINDING => Presence::Unknown,
            None => Presence::Away,
        }
    }

    fn came(&self, host: &HostName, since: Timestamp) -> bool {
        let since = since.as_second();
        since <= self.service.started || self.seen(host).is_some_and(|seen| seen >= since)
    }

    fn last(&self, host: &HostName) -> Option<(Digest, Outcome)> {
        let last = self.hosts.get(host)?.last?;
        Some((last.kickstart?, last.outcome))
    }
}
