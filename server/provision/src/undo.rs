//! Ends what provisions made, by tags alone: whatever the records say, or if there is none.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::cloud::{Answer, Cloud, CloudError, Owned, Resource, Whose};
use crate::ids::ProvisionId;
use crate::record::Record;
use crate::retry::{Wait, insist};

/// How long nothing must be seen, before nothing is there: what a killed frontend asked for last may appear late.
const QUIET: Duration = Duration::from_secs(30);
/// How often it is looked.
const EVERY: Duration = Duration::from_secs(3);
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(1200);

/// Removes one thing if it can be removed now. Gives false if it cannot yet.
async fn remove<C: Cloud>(cloud: &C, resource: &Resource) -> Answer<bool> {
    let result = match resource {
        Resource::Template(id) => insist(Wait::Nothing, || cloud.delete_template(id)).await,
        Resource::Instance(id) => insist(Wait::Nothing, || cloud.terminate(std::slice::from_ref(id))).await,
        Resource::Ami(id) => insist(Wait::Nothing, || cloud.deregister(id)).await,
        Resource::Snapshot(id) => insist(Wait::Nothing, || cloud.delete_snapshot(id)).await,
        Resource::Group(id) => insist(Wait::Nothing, || cloud.delete_group(id)).await,
        Resource::Volume(id) => {
            let attached = insist(Wait::Nothing, || cloud.volume(id)).await?.is_some_and(|one| one.attached.is_some());
            if attached {
                insist(Wait::Nothing, || cloud.detach(id)).await
            } else {
                insist(Wait::Nothing, || cloud.delete_volume(id)).await
            }
        }
    };
    match result {
        Ok(()) => Ok(true),
        // Others must go first.
        Err(CloudError::InUse(_) | CloudError::State(_) | CloudError::Missing(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes these things and waits until they are gone. What is removed first lets the next go: launch templates, instances, images, volumes, snapshots, groups.
async fn remove_all<C: Cloud>(
    cloud: &C,
    whose: Whose<'_>,
    chosen: &(dyn Fn(&Owned) -> bool + Sync),
    quiet: Duration,
) -> Answer<Vec<Resource>> {
    let began = Instant::now();
    let mut last_seen = Instant::now();
    let mut removed = Vec::new();
    loop {
        let mut left: Vec<Owned> = insist(Wait::Nothing, || cloud.owned(whose)).await?;
        left.retain(chosen);
        left.sort_by(|a, b| a.resource.cmp(&b.resource));
        if left.is_empty() {
            if last_seen.elapsed() >= quiet {
                return Ok(removed);
            }
        } else {
            last_seen = Instant::now();
        }
        for one in &left {
            if remove(cloud, &one.resource).await? && !removed.contains(&one.resource) {
                removed.push(one.resource.clone());
            }
        }
        if began.elapsed() >= PATIENCE {
            let names: Vec<String> = left.iter().map(|one| one.resource.to_string()).collect();
            return Err(CloudError::InUse(format!("still there: {}", names.join(", "))));
        }
        sleep(EVERY).await;
    }
}

/// Ends all that a provision made.
///
/// # Errors
/// What cannot be removed, and why.
pub async fn undo<C: Cloud>(cloud: &C, site: &str, provision: &ProvisionId) -> Answer<()> {
    remove_all(cloud, Whose::Provision(site, provision), &|_| true, QUIET).await.map(drop)
}

/// Removes what of a provision that is done serves no more; gives what that was.
///
/// # Errors
/// What cannot be removed, and why.
pub async fn tidy<C: Cloud>(cloud: &C, record: &Record) -> Answer<Vec<Resource>> {
    let whose = Whose::Provision(&record.site, &record.id);
    remove_all(cloud, whose, &|one| !record.keeps(&one.resource), Duration::ZERO).await
}

/// Things of the site that no provision owns.
///
/// # Errors
/// The cloud's.
pub async fn leaks<C: Cloud>(cloud: &C, site: &str, records: &[Record]) -> Answer<Vec<Owned>> {
    let owned = insist(Wait::Nothing, || cloud.owned(Whose::Site(site))).await?;
    let is_kept = |one: &Owned| {
        let record = one.provision.as_ref().and_then(|id| records.iter().find(|record| record.id == *id));
        record.is_some_and(|record| record.keeps(&one.resource))
    };
    Ok(owned.into_iter().filter(|one| !is_kept(one)).collect())
}

/// Ends leaks.
///
/// # Errors
/// What cannot be removed, and why.
pub async fn end_leaks<C: Cloud>(cloud: &C, site: &str, leaks: &[Owned]) -> Answer<Vec<Resource>> {
    let chosen = |one: &Owned| leaks.iter().any(|leak| leak.resource == one.resource);
    remove_all(cloud, Whose::Site(site), &chosen, Duration::ZERO).await
}
