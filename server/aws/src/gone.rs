//! What is gone already when it is to be removed.
//!
//! By docs/iam.json only what has the site's tag may be ended, and what is gone has no tags: EC2 says then that it is not allowed, and not
//! that there is no such thing. So what was denied is looked at.

use rocks_provision::cloud::{Answer, CloudError, Import, InstanceState};
use rocks_provision::ids::{AmiId, GroupId, ImportId, InstanceId, SnapshotId, TemplateId, VolumeId};

use crate::client::Aws;
use crate::error::failed;
use crate::name::filter;

/// Whether something is there.
fn is(found: Answer<bool>) -> Answer<bool> {
    match found {
        Err(CloudError::Missing(_)) => Ok(false),
        other => other,
    }
}

/// What is gone need not be removed. `is_there` is asked where EC2 does not say.
async fn gone(removed: Answer<()>, is_there: impl Future<Output = Answer<bool>>) -> Answer<()> {
    match removed {
        Err(CloudError::Missing(_)) => Ok(()),
        Err(denied @ CloudError::Denied { .. }) => match is_there.await {
            Ok(false) => Ok(()),
            _ => Err(denied),
        },
        other => other,
    }
}

impl Aws {
    pub(crate) async fn remove_group(&self, group: &GroupId) -> Answer<()> {
        let deleted = self.ec2.delete_security_group().group_id(group.as_str()).send().await;
        let is_there = async {
            let ask = self.ec2.describe_security_groups().filters(filter("group-id", [group.as_str()]));
            let found = ask.send().await.map_err(|error| failed("ec2:DescribeSecurityGroups", error))?;
            Ok(!found.security_groups().is_empty())
        };
        gone(deleted.map_err(|error| failed("ec2:DeleteSecurityGroup", error)).map(drop), is_there).await
    }

    pub(crate) async fn remove_template(&self, id: &TemplateId) -> Answer<()> {
        let deleted = self.ec2.delete_launch_template().launch_template_id(id.as_str()).send().await;
        let is_there = async {
            let asked = self.ec2.describe_launch_templates().launch_template_ids(id.as_str()).send().await;
            is(asked.map(|_| true).map_err(|error| failed("ec2:DescribeLaunchTemplates", error)))
        };
        gone(deleted.map_err(|error| failed("ec2:DeleteLaunchTemplate", error)).map(drop), is_there).await
    }

    pub(crate) async fn remove_volume(&self, volume: &VolumeId) -> Answer<()> {
        let deleted = self.ec2.delete_volume().volume_id(volume.as_str()).send().await;
        let is_there = async { Ok(self.look_at_volume(volume).await?.is_some()) };
        gone(deleted.map_err(|error| failed("ec2:DeleteVolume", error)).map(drop), is_there).await
    }

    pub(crate) async fn remove_snapshot(&self, id: &SnapshotId) -> Answer<()> {
        let deleted = self.ec2.delete_snapshot().snapshot_id(id.as_str()).send().await;
        let is_there = async { Ok(self.look_at_snapshot(id).await?.is_some()) };
        gone(deleted.map_err(|error| failed("ec2:DeleteSnapshot", error)).map(drop), is_there).await
    }

    pub(crate) async fn remove_image(&self, id: &AmiId) -> Answer<()> {
        let deregistered = self.ec2.deregister_image().image_id(id.as_str()).send().await;
        let is_there = async { Ok(self.look_at_image(id).await?.is_some()) };
        gone(deregistered.map_err(|error| failed("ec2:DeregisterImage", error)).map(drop), is_there).await
    }

    /// A task that is over cannot be cancelled, nor need it be.
    pub(crate) async fn end_import(&self, id: &ImportId) -> Answer<()> {
        let ended = self.ec2.cancel_import_task().import_task_id(id.as_str()).send().await;
        let ended = match ended.map_err(|error| failed("ec2:CancelImportTask", error)) {
            Err(CloudError::State(_)) => Ok(()),
            Err(CloudError::Refused { code, .. }) if code.starts_with("InvalidConversionTaskId") => Ok(()),
            result => result.map(drop),
        };
        gone(ended, async { Ok(self.look_at_import(id).await? == Some(Import::Active)) }).await
    }

    /// Ends one instance, whose end EC2 would not hear of together with others'.
    pub(crate) async fn end_instance(&self, id: &InstanceId) -> Answer<()> {
        let one = std::slice::from_ref(id);
        let is_there = async {
            let found = self.look_at_instances(one).await?;
            Ok(found.iter().any(|one| !matches!(one.state, InstanceState::ShuttingDown | InstanceState::Terminated)))
        };
        gone(self.end_at_once(one).await, is_there).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_denied_is_looked_at() {
        let denied = || Err(CloudError::Denied { action: "ec2:DeleteVolume", message: String::new() });
        let lost = || Err(CloudError::Unclear(String::new()));
        let missing = || CloudError::Missing(String::new());
        assert!(gone(denied(), async { Ok(false) }).await.is_ok());
        assert!(matches!(gone(denied(), async { Ok(true) }).await, Err(CloudError::Denied { .. })));
        // Who cannot be asked says nothing.
        assert!(matches!(gone(denied(), async { lost().map(|()| false) }).await, Err(CloudError::Denied { .. })));
        assert!(gone(Err(missing()), async { Ok(true) }).await.is_ok());
        assert!(matches!(gone(lost(), async { Ok(false) }).await, Err(CloudError::Unclear(_))));
        assert_eq!(is(Err(missing())).ok(), Some(false));
    }
}
