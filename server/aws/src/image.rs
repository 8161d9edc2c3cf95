//! Machine images.

use aws_sdk_ec2::types::{
    ArchitectureValues, BlockDeviceMapping, BootModeValues, DeviceType, EbsBlockDevice, Image, ImageState,
    ImdsSupportValues, ResourceType, VolumeType,
};
use rocks_provision::cloud::{Ami, Answer, BootMode, CloudError, Registration, Source};
use rocks_provision::ids::{AmiId, SnapshotId};

use crate::client::Aws;
use crate::error::{failed, lacks};
use crate::name::{exactly, filter, tagged};

impl Aws {
    pub(crate) async fn register_image(&self, new: &Registration) -> Answer<AmiId> {
        const ACTION: &str = "ec2:RegisterImage";
        let register = self
            .ec2
            .register_image()
            .name(&new.name)
            .description(&new.description)
            .architecture(ArchitectureValues::from(new.architecture.as_str()))
            .virtualization_type("hvm")
            .tag_specifications(tagged(ResourceType::Image, &new.tags));
        let register = match &new.of {
            Source::Snapshot(snapshot) => {
                let root = EbsBlockDevice::builder()
                    .snapshot_id(snapshot.as_str())
                    .delete_on_termination(true)
                    .volume_type(VolumeType::Gp3)
                    .build();
                let root = BlockDeviceMapping::builder().device_name(&new.root_device).ebs(root).build();
                register
                    .boot_mode(boot(new.boot))
                    .ena_support(true)
                    // Instances of it have IMDSv2 alone, whoever launches them.
                    .imds_support(ImdsSupportValues::V20)
                    .root_device_name(&new.root_device)
                    .block_device_mappings(root)
            }
            // The manifest says the rest.
            Source::Bundle(bucket, manifest) => register.image_location(format!("{bucket}/{manifest}")),
        };
        match register.send().await.map_err(|error| failed(ACTION, error)) {
            Ok(made) => made.image_id().and_then(|id| id.parse().ok()).ok_or_else(|| lacks(ACTION, "image")),
            Err(CloudError::Exists(message)) => self.same_image(new, message).await,
            Err(error) => Err(error),
        }
    }

    /// The image that has the name already, if it is of the same snapshot.
    async fn same_image(&self, new: &Registration, message: String) -> Answer<AmiId> {
        const ACTION: &str = "ec2:DescribeImages";
        let ask = self.ec2.describe_images().owners("self").filters(filter("name", [exactly(&new.name)]));
        let found = ask.send().await.map_err(|error| failed(ACTION, error))?;
        match found.images().first() {
            Some(image) if is_of(image, &new.of) => {
                image.image_id().and_then(|id| id.parse().ok()).ok_or_else(|| lacks(ACTION, "image"))
            }
            Some(_) => Err(CloudError::Exists(message)),
            // It was registered a moment ago, and is not shown everywhere yet.
            None => Err(CloudError::Unclear(message)),
        }
    }

    pub(crate) async fn look_at_image(&self, id: &AmiId) -> Answer<Option<Ami>> {
        // A receiver may be made of an image that its publisher has deprecated.
        let asked = self.ec2.describe_images().image_ids(id.as_str()).include_deprecated(true).send().await;
        let told = match asked.map_err(|error| failed("ec2:DescribeImages", error)) {
            Ok(found) => found.images.unwrap_or_default().pop(),
            Err(CloudError::Missing(_)) => None,
            Err(error) => return Err(error),
        };
        let Some(told) = told else { return Ok(None) };
        let available = match told.state() {
            Some(ImageState::Available) => Some(true),
            Some(ImageState::Deregistered) => return Ok(None),
            Some(ImageState::Disabled | ImageState::Error | ImageState::Failed | ImageState::Invalid) => Some(false),
            _ => None,
        };
        Ok(Some(Ami {
            id: id.clone(),
            available,
            snapshot: snapshot(&told),
            root_device: told.root_device_name().filter(|_| is_on_volume(&told)).map(str::to_owned),
            architecture: told.architecture().map(|one| one.as_str().to_owned()).unwrap_or_default(),
        }))
    }
}

/// Whether an image's root is a volume; else it is on a disk of the host.
fn is_on_volume(image: &Image) -> bool {
    image.root_device_type() != Some(&DeviceType::InstanceStore)
}

/// Whether an image is made of that.
fn is_of(image: &Image, source: &Source) -> bool {
    match source {
        Source::Snapshot(id) => snapshot(image).as_ref() == Some(id),
        Source::Bundle(bucket, key) => {
            image.image_location().is_some_and(|location| *location == format!("{bucket}/{key}"))
        }
    }
}

/// The snapshot of an image's root.
fn snapshot(image: &Image) -> Option<SnapshotId> {
    let devices = image.block_device_mappings();
    let root = devices.iter().find(|one| one.device_name() == image.root_device_name()).or_else(|| devices.first());
    root?.ebs()?.snapshot_id()?.parse().ok()
}

const fn boot(mode: BootMode) -> BootModeValues {
    match mode {
        BootMode::LegacyBios => BootModeValues::LegacyBios,
        BootMode::Uefi => BootModeValues::Uefi,
        BootMode::UefiPreferred => BootModeValues::UefiPreferred,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_snapshot_of_an_image_is_that_of_its_root() {
        let device = |name: &str, id: &str| {
            let ebs = EbsBlockDevice::builder().snapshot_id(id).build();
            BlockDeviceMapping::builder().device_name(name).ebs(ebs).build()
        };
        let image = Image::builder()
            .root_device_name("/dev/xvda")
            .block_device_mappings(device("/dev/sdb", "snap-0000000000000000b"))
            .block_device_mappings(device("/dev/xvda", "snap-0000000000000000a"))
            .build();
        assert_eq!(snapshot(&image).expect("one").as_str(), "snap-0000000000000000a");
        assert_eq!(snapshot(&Image::builder().build()), None);
    }
}
