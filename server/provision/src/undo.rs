//! Ends what provisions made, by tags alone: whatever the records say, or if there is none.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::cloud::{Answer, Cloud, CloudError, Owned, Resource, Tags, Whose};
use crate::ids::SnapshotId;
use crate::objects::{self, BucketName, Objects, Place};
use crate::order::Method;
use crate::record::Record;
use crate::retry::{TAGGED, Wait, insist};

/// How long nothing must be seen, before nothing is there: what a killed frontend asked for last may appear late.
const QUIET: Duration = Duration::from_secs(30);
/// How often it is looked.
const EVERY: Duration = Duration::from_secs(3);
/// What objects are for.
const ROLE: &str = "image";
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(1200);

/// Where it is looked: what is not used is not asked for, so that nobody needs the right to.
struct Look<'w> {
    whose: Whose<'w>,
    /// Whether there may be imports.
    imports: bool,
    /// Where there may be objects.
    buckets: Vec<BucketName>,
}

impl<'w> Look<'w> {
    /// The tags that something of ours has or is to have.
    fn tags(&self, one: &Owned) -> Option<Tags> {
        let (Whose::Site(site) | Whose::Provision(site, _)) = self.whose;
        Some(Tags { site: site.to_owned(), provision: one.provision.clone()?, role: one.role.clone() })
    }

    fn at(record: &'w Record) -> Self {
        let whose = Whose::Provision(&record.site, &record.id);
        let buckets = record.order.store().map(|store| store.bucket.clone()).into_iter().collect();
        Self { whose, imports: record.order.way() == Method::Bundle, buckets }
    }

    async fn owned<C: Cloud + Objects>(&self, cloud: &C) -> Answer<Vec<Owned>> {
        let mut all = insist(Wait::Nothing, || cloud.owned(self.whose)).await?;
        if self.imports {
            all.extend(insist(Wait::Nothing, || cloud.imports(self.whose)).await?);
        }
        let (site, folder) = match self.whose {
            Whose::Site(site) => (site, objects::folder(site, None)),
            Whose::Provision(site, provision) => (site, objects::folder(site, Some(provision))),
        };
        for bucket in &self.buckets {
            let uploads = insist(Wait::Nothing, || cloud.list_uploads(bucket, &folder)).await?;
            let there = insist(Wait::Nothing, || cloud.list_objects(bucket, &folder)).await?;
            let uploads = uploads.into_iter().map(|(key, upload)| (key, Some(upload)));
            for (key, upload) in uploads.chain(there.into_iter().map(|one| (one.key, None))) {
                let (provision, is_upload) = (objects::provision_of(site, &key), upload.is_some());
                let place = Place { bucket: bucket.clone(), key, upload };
                let resource = if is_upload { Resource::Upload(place) } else { Resource::Object(place) };
                all.push(Owned { resource, provision, role: ROLE.to_owned() });
            }
        }
        // What has tags by now and is told by its task, too.
        all.sort_by(|a, b| a.resource.cmp(&b.resource));
        all.dedup_by(|a, b| a.resource == b.resource);
        Ok(all)
    }
}

/// Removes a snapshot. One that was imported has no tags before it is given some, and without them the frontend may not remove it.
async fn remove_snapshot<C: Cloud>(cloud: &C, id: &SnapshotId, tags: Option<Tags>) -> Answer<()> {
    let removed = insist(Wait::Nothing, || cloud.delete_snapshot(id)).await;
    match (removed, tags) {
        (Err(denied), Some(tags)) if denied.is_by_tag() => {
            match insist(Wait::Nothing, || cloud.tag_snapshot(id, &tags)).await {
                Ok(()) => insist(Wait::Nothing, || cloud.delete_snapshot(id)).await,
                Err(CloudError::Missing(_)) => Ok(()),
                Err(error) => Err(error),
            }
        }
        (removed, _) => removed,
    }
}

/// Removes one thing if it can be removed now. Gives false if it cannot yet.
async fn remove<C: Cloud + Objects>(cloud: &C, look: &Look<'_>, one: &Owned) -> Answer<bool> {
    let result = match &one.resource {
        Resource::Template(id) => insist(Wait::Nothing, || cloud.delete_template(id)).await,
        Resource::Instance(id) => insist(Wait::Nothing, || cloud.terminate(std::slice::from_ref(id))).await,
        Resource::Ami(id) => insist(Wait::Nothing, || cloud.deregister(id)).await,
        Resource::Snapshot(id) => remove_snapshot(cloud, id, look.tags(one)).await,
        Resource::Group(id) => insist(Wait::Nothing, || cloud.delete_group(id)).await,
        Resource::Import(id) => insist(Wait::Nothing, || cloud.cancel_import(id)).await,
        Resource::Object(at) => {
            insist(Wait::Nothing, || cloud.delete_objects(&at.bucket, std::slice::from_ref(&at.key))).await
        }
        Resource::Upload(Place { bucket, key, upload: Some(upload) }) => {
            insist(Wait::Nothing, || cloud.abort_upload(bucket, key, upload)).await
        }
        Resource::Upload(_) => Ok(()),
        Resource::Volume(id) => {
            // Its tags may be known before it is.
            match insist(Wait::Nothing, || cloud.volume(id)).await {
                Ok(Some(volume)) if volume.attached.is_some() => insist(Wait::Nothing, || cloud.detach(id)).await,
                Ok(_) => insist(Wait::Nothing, || cloud.delete_volume(id)).await,
                Err(error) => Err(error),
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

/// Removes these things and waits until they are gone. What is removed first lets the next go: launch templates, instances, images, volumes,
/// snapshots, groups, what is in S3. What cannot be removed keeps nothing else, for which somebody pays.
async fn remove_all<C: Cloud + Objects>(
    cloud: &C,
    look: &Look<'_>,
    chosen: &(dyn Fn(&Owned) -> bool + Sync),
    quiet: Duration,
) -> Answer<Vec<Resource>> {
    let began = Instant::now();
    let mut last_seen = Instant::now();
    let mut denied: Option<Instant> = None;
    let mut removed = Vec::new();
    loop {
        let mut left = look.owned(cloud).await?;
        left.retain(chosen);
        if left.is_empty() {
            if last_seen.elapsed() >= quiet {
                return Ok(removed);
            }
        } else {
            last_seen = Instant::now();
        }
        let mut refused = Vec::new();
        for one in &left {
            match remove(cloud, look, one).await {
                Ok(true) if !removed.contains(&one.resource) => removed.push(one.resource.clone()),
                Ok(_) => {}
                Err(error) => refused.push(error),
            }
        }
        if refused.is_empty() {
            denied = None;
        } else {
            let since = *denied.get_or_insert_with(Instant::now);
            if let Some(error) = refused.into_iter().find(|error| !error.is_by_tag() || since.elapsed() >= TAGGED) {
                return Err(error);
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
pub async fn undo<C: Cloud + Objects>(cloud: &C, record: &Record) -> Answer<()> {
    remove_all(cloud, &Look::at(record), &|_| true, QUIET).await.map(drop)
}

/// Removes what of a provision that is done serves no more; gives what that was.
///
/// # Errors
/// What cannot be removed, and why.
pub async fn tidy<C: Cloud + Objects>(cloud: &C, record: &Record) -> Answer<Vec<Resource>> {
    remove_all(cloud, &Look::at(record), &|one| !record.keeps(&one.resource), Duration::ZERO).await
}

/// Everything that is the site's, in the cloud and in these buckets.
///
/// # Errors
/// The cloud's.
pub async fn owned<C: Cloud + Objects>(cloud: &C, site: &str, buckets: &[BucketName]) -> Answer<Vec<Owned>> {
    let mut buckets = buckets.to_vec();
    buckets.sort();
    buckets.dedup();
    Look { whose: Whose::Site(site), imports: true, buckets }.owned(cloud).await
}

/// What of that no provision owns. The records must have been read after it was looked: a provision is kept before it makes anything, so
/// that what it has made meanwhile is never taken for a leak.
#[must_use]
pub fn leaks(owned: Vec<Owned>, records: &[Record]) -> Vec<Owned> {
    let is_kept = |one: &Owned| {
        let record = one.provision.as_ref().and_then(|id| records.iter().find(|record| record.id == *id));
        record.is_some_and(|record| record.keeps(&one.resource))
    };
    owned.into_iter().filter(|one| !is_kept(one)).collect()
}

/// Ends leaks.
///
/// # Errors
/// What cannot be removed, and why.
pub async fn end_leaks<C: Cloud + Objects>(cloud: &C, site: &str, leaks: &[Owned]) -> Answer<Vec<Resource>> {
    let chosen = |one: &Owned| leaks.iter().any(|leak| leak.resource == one.resource);
    let mut buckets: Vec<BucketName> = leaks
        .iter()
        .filter_map(|leak| match &leak.resource {
            Resource::Object(place) | Resource::Upload(place) => Some(place.bucket.clone()),
            _ => None,
        })
        .collect();
    buckets.dedup();
    // The snapshot of an import that has no tags yet is told by its task.
    let imports = leaks.iter().any(|leak| matches!(leak.resource, Resource::Import(_) | Resource::Snapshot(_)));
    remove_all(cloud, &Look { whose: Whose::Site(site), imports, buckets }, &chosen, Duration::ZERO).await
}
