//! Volumes.

use aws_sdk_ec2::types::{ResourceType, VolumeAttachmentState, VolumeType};
use rocks_provision::cloud::{Answer, CloudError, NewVolume, Volume, VolumeState};
use rocks_provision::ids::{InstanceId, VolumeId};

use crate::client::Aws;
use crate::error::{failed, lacks};
use crate::instance::gibibytes;
use crate::name::{tagged, token};

impl Aws {
    pub(crate) async fn make_volume(&self, new: &NewVolume) -> Answer<VolumeId> {
        const ACTION: &str = "ec2:CreateVolume";
        let make = self
            .ec2
            .create_volume()
            .client_token(token(&new.tags, &new.token))
            .availability_zone(&new.zone)
            .size(gibibytes(new.gib)?)
            .volume_type(VolumeType::Gp3)
            .encrypted(new.encrypted)
            .set_kms_key_id(new.kms_key.clone().filter(|_| new.encrypted))
            .tag_specifications(tagged(ResourceType::Volume, &new.tags));
        let made = make.send().await.map_err(|error| failed(ACTION, error))?;
        made.volume_id().and_then(|id| id.parse().ok()).ok_or_else(|| lacks(ACTION, "volume"))
    }

    async fn told_of_volume(&self, id: &VolumeId) -> Answer<Option<aws_sdk_ec2::types::Volume>> {
        let asked = self.ec2.describe_volumes().volume_ids(id.as_str()).send().await;
        match asked.map_err(|error| failed("ec2:DescribeVolumes", error)) {
            Ok(found) => Ok(found.volumes.unwrap_or_default().pop()),
            Err(CloudError::Missing(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn look_at_volume(&self, id: &VolumeId) -> Answer<Option<Volume>> {
        let told = self.told_of_volume(id).await?;
        Ok(told.filter(|told| told.state() != Some(&aws_sdk_ec2::types::VolumeState::Deleted)).map(|told| Volume {
            id: id.clone(),
            state: state(&told),
            attached: attached(&told).map(|(to, how)| (to, how == VolumeAttachmentState::Attached)),
        }))
    }

    pub(crate) async fn attach_volume(&self, volume: &VolumeId, to: &InstanceId, device: &str) -> Answer<()> {
        let attach = self.ec2.attach_volume().volume_id(volume.as_str()).instance_id(to.as_str()).device(device);
        match attach.send().await.map_err(|error| failed("ec2:AttachVolume", error)) {
            Err(error @ (CloudError::InUse(_) | CloudError::State(_))) => {
                let now = self.told_of_volume(volume).await?.as_ref().and_then(attached);
                let is_done = now.is_some_and(|(at, how)| at == *to && how != VolumeAttachmentState::Detaching);
                if is_done { Ok(()) } else { Err(error) }
            }
            result => result.map(drop),
        }
    }

    pub(crate) async fn detach_volume(&self, volume: &VolumeId) -> Answer<()> {
        let detach = self.ec2.detach_volume().volume_id(volume.as_str());
        match detach.send().await.map_err(|error| failed("ec2:DetachVolume", error)) {
            // EC2 says so of one that is free or on its way, and also of one whose instance is not ready for it, or is gone with its tags.
            Err(error @ (CloudError::State(_) | CloudError::Missing(_) | CloudError::Denied { .. })) => {
                match self.told_of_volume(volume).await? {
                    Some(told) => match attached(&told) {
                        Some((_, how)) if how != VolumeAttachmentState::Detaching => Err(error),
                        _ => Ok(()),
                    },
                    None => Err(error),
                }
            }
            result => result.map(drop),
        }
    }
}

fn state(told: &aws_sdk_ec2::types::Volume) -> VolumeState {
    use aws_sdk_ec2::types::VolumeState as Told;
    match told.state() {
        Some(Told::Available) => VolumeState::Available,
        Some(Told::InUse) => VolumeState::InUse,
        Some(Told::Deleting | Told::Deleted) => VolumeState::Gone,
        Some(Told::Error) => VolumeState::Broken,
        _ => VolumeState::Creating,
    }
}

/// The instance that a volume is attached to, or about to be, or no more quite yet.
fn attached(told: &aws_sdk_ec2::types::Volume) -> Option<(InstanceId, VolumeAttachmentState)> {
    told.attachments().iter().find_map(|one| {
        let how = one.state().filter(|how| **how != VolumeAttachmentState::Detached)?;
        Some((one.instance_id()?.parse().ok()?, how.clone()))
    })
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::types::{self, VolumeAttachment};

    use super::*;

    #[test]
    fn a_volume_is_attached_until_it_is_detached_wholly() {
        let at = |how| {
            let one = VolumeAttachment::builder().instance_id("i-0123456789abcdef0").state(how).build();
            attached(&types::Volume::builder().attachments(one).build()).map(|(_, how)| how)
        };
        assert_eq!(at(VolumeAttachmentState::Attached), Some(VolumeAttachmentState::Attached));
        assert_eq!(at(VolumeAttachmentState::Busy), Some(VolumeAttachmentState::Busy));
        assert_eq!(at(VolumeAttachmentState::Detached), None);
        let of = |told| state(&types::Volume::builder().state(told).build());
        assert_eq!(of(types::VolumeState::Deleting), VolumeState::Gone);
        assert_eq!(of(types::VolumeState::Error), VolumeState::Broken);
    }
}
