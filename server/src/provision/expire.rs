//! Hosts of instances that somebody ended: they expire, whether a provision launched them or they enrolled by what they are.
//!
//! Only what the cloud says is terminated counts, which it says for about an hour. An instance that it does not know may be another account's, or the
//! keys another's: its host stays.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use rocks_common::ids::HostName;
use rocks_provision::cloud::InstanceState;
use rocks_provision::ids::InstanceId;
use rocks_provision::record::{Record, Status};

use super::{ProvisionError, Provisions};
use crate::store::{Store, StoreError};

/// Instances that are asked about in one call.
const AT_ONCE: usize = 100;

/// Hosts that are other provisions' than this one.
pub(super) fn taken<'r>(all: &'r [Record], record: &Record) -> BTreeSet<&'r HostName> {
    let others = all.iter().filter(|other| other.id != record.id);
    let others = others.filter(|other| matches!(other.status, Status::Running | Status::Done));
    others.flat_map(|other| &other.order.hosts).collect()
}

/// Takes the hosts out of a provision whose instances are among `gone`, and gives them.
fn take_gone(record: &mut Record, gone: &BTreeSet<InstanceId>) -> Vec<HostName> {
    let instances = record.found.instances.iter();
    let hosts: Vec<HostName> =
        instances.filter(|(_, one)| gone.contains(&one.id)).map(|(host, _)| host.clone()).collect();
    record.found.instances.retain(|host, _| !hosts.contains(host));
    // Their names are free again: another provision may have them when this one is cancelled.
    record.order.hosts.retain(|host| !hosts.contains(host));
    hosts
}

/// Removes the hosts of provisions that are done whose instances are among `gone`, and gives these. Whoever calls sees to it that no provision
/// is changed meanwhile.
async fn end(store: &Store, gone: &BTreeSet<InstanceId>) -> Result<Vec<HostName>, StoreError> {
    let mut expired = Vec::new();
    let all = store.provisions().await?;
    for mut record in all.iter().filter(|record| record.status == Status::Done).cloned() {
        let ended: Vec<InstanceId> = record.found.instances.values().map(|one| one.id.clone()).collect();
        let hosts = take_gone(&mut record, gone);
        if hosts.is_empty() {
            continue;
        }
        // A host that was removed by hand may be another provision's by now.
        let others = taken(&all, &record);
        for host in hosts.into_iter().filter(|host| !others.contains(host)) {
            if store.expire_host(&host).await? {
                tracing::info!(%host, provision = %record.id, "its instance was terminated: it is a host no more");
                expired.push(host);
            }
        }
        store.keep_provision(&record).await?;
        for id in ended.iter().filter(|id| gone.contains(id)) {
            store.end_instance(id, Timestamp::now().as_second()).await?;
        }
    }
    Ok(expired)
}

impl Provisions {
    /// Looks at the instances of provisions that are done, and removes the hosts of those that are terminated. Gives these.
    ///
    /// # Errors
    /// The store's or the cloud's.
    pub async fn expire(&self) -> Result<Vec<HostName>, ProvisionError> {
        let mut regions: BTreeMap<String, Vec<InstanceId>> = BTreeMap::new();
        for record in self.store.provisions().await?.into_iter().filter(|record| record.status == Status::Done) {
            let ids = record.found.instances.into_values().map(|one| one.id);
            regions.entry(record.order.region).or_default().extend(ids);
        }
        let mut gone = BTreeSet::new();
        for (region, ids) in regions {
            gone.extend(self.terminated(&region, &ids).await?);
        }
        if gone.is_empty() {
            return Ok(Vec::new());
        }
        let _turn = self.changing.lock().await;
        Ok(end(&self.store, &gone).await?)
    }

    /// Which of these instances are terminated. Where they cannot be looked at it is none, with a word: instances elsewhere are not looked at less
    /// for that.
    async fn terminated(&self, region: &str, ids: &[InstanceId]) -> Result<BTreeSet<InstanceId>, ProvisionError> {
        match self.look_at(region, ids).await {
            Err(ProvisionError::NoCloud) => Err(ProvisionError::NoCloud),
            Err(error) => {
                tracing::warn!("instances in {region} cannot be looked at: {error}");
                Ok(BTreeSet::new())
            }
            gone => gone,
        }
    }

    async fn look_at(&self, region: &str, ids: &[InstanceId]) -> Result<BTreeSet<InstanceId>, ProvisionError> {
        let account = self.account(region).await?;
        let mut gone = BTreeSet::new();
        for ids in ids.chunks(AT_ONCE) {
            let seen = account.instances(ids).await?;
            gone.extend(seen.into_iter().filter(|one| one.state == InstanceState::Terminated).map(|one| one.id));
        }
        Ok(gone)
    }

    /// Looks at the instances that enrolled by what they are, and removes the hosts of those that are terminated. Gives these.
    ///
    /// # Errors
    /// The store's or the cloud's.
    pub async fn expire_enrolled(&self) -> Result<Vec<HostName>, ProvisionError> {
        let mut regions: BTreeMap<String, BTreeMap<InstanceId, HostName>> = BTreeMap::new();
        for (host, one) in self.store.enrolled().await? {
            regions.entry(one.region).or_default().insert(one.instance, host);
        }
        let mut expired = Vec::new();
        for (region, hosts) in regions {
            let ids: Vec<InstanceId> = hosts.keys().cloned().collect();
            let gone = self.terminated(&region, &ids).await?;
            for (id, host) in hosts.into_iter().filter(|(id, _)| gone.contains(id)) {
                if self.store.expire_host(&host).await? {
                    tracing::info!(%host, "its instance was terminated: it is a host no more");
                    expired.push(host);
                }
                self.store.end_instance(&id, Timestamp::now().as_second()).await?;
            }
        }
        Ok(expired)
    }

    /// Does so again and again.
    pub async fn expire_always(&self, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            for looked in [self.expire().await, self.expire_enrolled().await] {
                match looked {
                    Ok(_) | Err(ProvisionError::NoCloud) => {}
                    Err(error) => tracing::warn!("instances cannot be looked at: {error}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rocks_common::ids::Digest;
    use rocks_provision::record::Launched;

    use super::*;
    use crate::store::{Appliance, Host};

    #[test]
    fn what_is_terminated_is_taken_out_and_nothing_else() {
        let order = crate::provision::forecast::tests::order(rocks_provision::order::Method::Udt);
        let mut record = Record::new("lite-1".parse().unwrap(), "site".to_owned(), order, Timestamp::UNIX_EPOCH);
        let id = |n: usize| format!("i-0000000000000000{n}").parse::<InstanceId>().unwrap();
        for (n, host) in record.order.hosts.clone().into_iter().enumerate() {
            let launched = Launched { state: InstanceState::Running, ..Launched::new(id(n)) };
            record.found.instances.insert(host, launched);
        }
        let gone = take_gone(&mut record, &BTreeSet::from([id(1), id(9)]));
        assert_eq!(gone.iter().map(HostName::as_str).collect::<Vec<_>>(), ["lite-0-1"]);
        assert_eq!((record.order.hosts.len(), record.found.instances.len()), (3, 3));
        assert!(take_gone(&mut record, &BTreeSet::from([id(1)])).is_empty());
    }

    #[tokio::test]
    async fn a_machine_that_took_the_place_of_another_by_hand_stays_a_host_when_that_is_terminated() {
        let store = Store::temporary().await.expect("a store");
        let order = crate::provision::forecast::tests::order(rocks_provision::order::Method::Udt);
        let appliance = order.appliance.clone();
        let (node, membership) = (appliance.to_string(), appliance.to_string());
        store.add_appliance(&Appliance { name: appliance.clone(), node, membership }).await.expect("added");
        let mut record = Record::new("lite-1".parse().unwrap(), "site".to_owned(), order, Timestamp::UNIX_EPOCH);
        record.status = Status::Done;
        let hosts = record.order.hosts.clone();
        for (n, name) in hosts.iter().enumerate() {
            let launched = Launched::new(format!("i-0000000000000000{n}").parse().unwrap());
            record.found.instances.insert(name.clone(), launched);
            let host = Host { name: name.clone(), appliance: appliance.clone(), ..host() };
            store.add_host(&host).await.expect("added");
            // As the provision gives it.
            store.add_token(name, &Digest::of(name.as_str().as_bytes()), 1000, 1).await.expect("added");
        }
        store.begin_provision(&record).await.expect("kept");
        // The first got another machine; the second was removed and added again, and got another, too.
        store.add_token_by_hand(&hosts[0], &Digest::of(b"0"), 1000, 2).await.expect("added");
        store.remove_hosts(&hosts[1..2]).await.expect("removed");
        store.add_host(&Host { name: hosts[1].clone(), appliance, ..host() }).await.expect("added");
        store.add_token_by_hand(&hosts[1], &Digest::of(b"1"), 1000, 2).await.expect("added");

        let gone = record.found.instances.values().map(|one| one.id.clone()).collect();
        assert_eq!(end(&store, &gone).await.expect("ended"), hosts[2..]);
        let there: Vec<HostName> = store.hosts().await.expect("read").into_iter().map(|host| host.name).collect();
        assert_eq!(there, hosts[..2]);
        // They are the provision's no more, and do not go with it either.
        let record = store.provision(&record.id).await.expect("there");
        assert!(record.order.hosts.is_empty() && record.found.instances.is_empty());
        assert!(!store.expire_host(&hosts[0]).await.expect("asked"));
    }

    fn host() -> Host {
        Host::new("a".parse().unwrap(), "a".parse().unwrap(), "x86_64")
    }

    #[test]
    fn a_host_that_another_provision_has_by_now_is_not_taken_from_it() {
        let of = |name: &str, status| {
            let order = crate::provision::forecast::tests::order(rocks_provision::order::Method::Udt);
            let record = Record::new(name.parse().unwrap(), "site".to_owned(), order, Timestamp::UNIX_EPOCH);
            Record { status, ..record }
        };
        let first = of("lite-1", Status::Done);
        let host: HostName = "lite-0-1".parse().unwrap();
        for (status, has) in [(Status::Running, true), (Status::Done, true), (Status::Cancelled, false)] {
            let all = [first.clone(), of("lite-2", status)];
            assert_eq!(taken(&all, &first).contains(&host), has);
        }
        assert!(taken(std::slice::from_ref(&first), &first).is_empty());
    }
}
