//! Snapshots that are made of objects.

use std::collections::BTreeSet;

use aws_sdk_ec2::types::{ImportSnapshotTask, ResourceType, SnapshotDiskContainer, Tag, UserBucket};
use rocks_provision::cloud::{
    Answer, CloudError, Import, NewImport, Owned, Resource, TAG_PROVISION, TAG_SITE, Tags, Whose,
};
use rocks_provision::ids::{ImportId, SnapshotId};

use crate::client::Aws;
use crate::error::{failed, lacks};
use crate::name::{filter, purpose, tagged, token, value};
use crate::owned::PAGE;

/// What asks how far imports are.
const LOOK: &str = "ec2:DescribeImportSnapshotTasks";
/// The most values that a filter takes.
const VALUES: usize = 200;

impl Aws {
    pub(crate) async fn begin_import(&self, new: &NewImport) -> Answer<ImportId> {
        const ACTION: &str = "ec2:ImportSnapshot";
        let object = UserBucket::builder().s3_bucket(new.bucket.as_str()).s3_key(new.key.as_str()).build();
        let disk = SnapshotDiskContainer::builder().format("VMDK").user_bucket(object).build();
        let begin = self
            .ec2
            .import_snapshot()
            .client_token(token(&new.tags, &new.token))
            .description(format!("Rocks: provision {}", new.tags.provision))
            .disk_container(disk)
            .set_role_name(new.role.clone())
            .set_encrypted(new.encrypted.then_some(true))
            .set_kms_key_id(new.kms_key.clone().filter(|_| new.encrypted))
            .tag_specifications(tagged(ResourceType::ImportSnapshotTask, &new.tags));
        let begun = begin.send().await.map_err(|error| match failed(ACTION, error) {
            // Who reads the object is not who asks.
            CloudError::Refused { code, message } if message.contains("role") => {
                let message = format!("{message} (docs/ec2.md says how the role is made)");
                CloudError::Refused { code, message }
            }
            error => error,
        })?;
        begun.import_task_id().and_then(|id| id.parse().ok()).ok_or_else(|| lacks(ACTION, "task"))
    }

    pub(crate) async fn look_at_import(&self, id: &ImportId) -> Answer<Option<Import>> {
        let asked = self.ec2.describe_import_snapshot_tasks().import_task_ids(id.as_str()).send().await;
        let told = match asked.map_err(|error| failed(LOOK, error)) {
            Ok(found) => found.import_snapshot_tasks.unwrap_or_default().pop(),
            Err(CloudError::Missing(_)) => None,
            Err(CloudError::Refused { code, .. }) if code.starts_with("InvalidConversionTaskId") => None,
            Err(error) => return Err(error),
        };
        Ok(told.as_ref().map(import))
    }

    pub(crate) async fn give_tags(&self, id: &SnapshotId, tags: &Tags) -> Answer<()> {
        let all = tags.pairs().map(|(key, value)| Tag::builder().key(key).value(value).build());
        let given = self.ec2.create_tags().resources(id.as_str()).set_tags(Some(all.into())).send().await;
        given.map_err(|error| failed("ec2:CreateTags", error)).map(drop)
    }

    /// Tasks are not filtered by AWS: not by all that a filter can say.
    pub(crate) async fn owned_imports(&self, whose: Whose<'_>) -> Answer<Vec<Owned>> {
        let ask = self.ec2.describe_import_snapshot_tasks();
        let tasks = ask.into_paginator().page_size(PAGE).items().send().try_collect().await;
        let tasks: Vec<ImportSnapshotTask> =
            tasks.map_err(|error: aws_sdk_ec2::error::SdkError<_>| failed(LOOK, error))?;
        let (mut all, mut made) = (Vec::new(), Vec::new());
        for task in tasks.iter().filter(|task| is_of(whose, task.tags())) {
            let (provision, role) = purpose(task.tags());
            match import(task) {
                Import::Active => {
                    let Some(id) = task.import_task_id().and_then(|id| id.parse().ok()) else { continue };
                    all.push(Owned { resource: Resource::Import(id), provision, role });
                }
                Import::Completed(id) => made.push((id, provision, role)),
                Import::Failed(_) => {}
            }
        }
        let ids: Vec<&SnapshotId> = made.iter().map(|(id, _, _)| id).collect();
        let there = self.those_that_live(&ids).await?;
        let living = made.into_iter().filter(|(id, _, _)| there.contains(id));
        all.extend(living.map(|(id, provision, role)| Owned { resource: Resource::Snapshot(id), provision, role }));
        Ok(all)
    }

    /// By a filter: a list of ids would be refused for one that is gone.
    async fn those_that_live(&self, ids: &[&SnapshotId]) -> Answer<BTreeSet<SnapshotId>> {
        let mut living = BTreeSet::new();
        for ids in ids.chunks(VALUES) {
            let named = filter("snapshot-id", ids.iter().map(ToString::to_string));
            let ask = self.ec2.describe_snapshots().owner_ids("self").filters(named);
            let found = ask.into_paginator().page_size(PAGE).items().send().try_collect().await;
            let found = found.map_err(|error| failed("ec2:DescribeSnapshots", error))?;
            living.extend(found.iter().filter_map(|one| one.snapshot_id()?.parse().ok()));
        }
        Ok(living)
    }
}

fn is_of(whose: Whose<'_>, tags: &[Tag]) -> bool {
    match whose {
        Whose::Site(site) => value(tags, TAG_SITE) == Some(site),
        Whose::Provision(site, provision) => {
            value(tags, TAG_SITE) == Some(site) && value(tags, TAG_PROVISION) == Some(provision.as_str())
        }
    }
}

/// How far a task is.
fn import(task: &ImportSnapshotTask) -> Import {
    let Some(detail) = task.snapshot_task_detail() else { return Import::Active };
    let snapshot = detail.snapshot_id().and_then(|id| id.parse().ok());
    match (detail.status(), snapshot) {
        (Some("completed"), Some(snapshot)) => Import::Completed(snapshot),
        (Some("deleted" | "deleting"), _) => {
            let why = detail.status_message().unwrap_or("AWS does not say why");
            Import::Failed(format!("the import failed: {why}"))
        }
        _ => Import::Active,
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::types::SnapshotTaskDetail;

    use super::*;

    #[test]
    fn a_task_is_under_way_until_it_has_a_snapshot_or_is_deleted() {
        let task = |status: &str, snapshot: Option<&str>, why: Option<&str>| {
            let detail = SnapshotTaskDetail::builder().status(status).set_status_message(why.map(str::to_owned));
            let detail = detail.set_snapshot_id(snapshot.map(str::to_owned)).build();
            import(&ImportSnapshotTask::builder().snapshot_task_detail(detail).build())
        };
        assert_eq!(task("active", None, Some("converting")), Import::Active);
        assert_eq!(task("completed", None, None), Import::Active);
        let id = "snap-0123456789abcdef0";
        assert_eq!(task("completed", Some(id), None), Import::Completed(id.parse().expect("an id")));
        let Import::Failed(why) = task("deleted", None, Some("ClientError: no such key")) else { panic!("it failed") };
        assert!(why.ends_with("ClientError: no such key"));
        assert_eq!(import(&ImportSnapshotTask::builder().build()), Import::Active);
    }
}
