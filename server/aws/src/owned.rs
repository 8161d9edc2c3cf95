//! What is ours, by its tags.

use aws_sdk_ec2::types::Tag;
use rocks_provision::cloud::{Answer, Owned, Resource, Whose};

use crate::client::Aws;
use crate::error::failed;
use crate::name::{filter, filters, purpose};

/// How much AWS tells at a time.
pub(crate) const PAGE: i32 = 500;
/// How many launch templates: it has a limit of its own for these.
const TEMPLATES: i32 = 200;

/// Something with an id and tags; nothing if there is no sense in its id.
fn one<T: std::str::FromStr>(id: Option<&str>, tags: &[Tag], resource: impl FnOnce(T) -> Resource) -> Option<Owned> {
    let resource = resource(id?.parse().ok()?);
    let (provision, role) = purpose(tags);
    Some(Owned { resource, provision, role })
}

impl Aws {
    pub(crate) async fn all_owned(&self, whose: Whose<'_>) -> Answer<Vec<Owned>> {
        let mut all = self.owned_instances(whose).await?;
        all.extend(self.owned_images(whose).await?);
        all.extend(self.owned_volumes(whose).await?);
        all.extend(self.owned_snapshots(whose).await?);
        all.extend(self.owned_groups(whose).await?);
        all.extend(self.owned_templates(whose).await?);
        Ok(all)
    }

    async fn owned_instances(&self, whose: Whose<'_>) -> Answer<Vec<Owned>> {
        let alive = filter("instance-state-name", ["pending", "running", "stopping", "stopped"]);
        let ask = self.ec2.describe_instances().set_filters(Some(filters(whose))).filters(alive);
        let found = ask.into_paginator().page_size(PAGE).items().send().try_collect().await;
        let found = found.map_err(|error| failed("ec2:DescribeInstances", error))?;
        let instances = found.iter().flat_map(|reservation| reservation.instances());
        Ok(instances.filter_map(|it| one(it.instance_id(), it.tags(), Resource::Instance)).collect())
    }

    async fn owned_images(&self, whose: Whose<'_>) -> Answer<Vec<Owned>> {
        // One that somebody disabled still holds its snapshot.
        let ask = self.ec2.describe_images().owners("self").include_deprecated(true).include_disabled(true);
        let ask = ask.set_filters(Some(filters(whose)));
        let found = ask.into_paginator().page_size(PAGE).items().send().try_collect().await;
        let found = found.map_err(|error| failed("ec2:DescribeImages", error))?;
        Ok(found.iter().filter_map(|it| one(it.image_id(), it.tags(), Resource::Ami)).collect())
    }

    async fn owned_volumes(&self, whose: Whose<'_>) -> Answer<Vec<Owned>> {
        let alive = filter("status", ["creating", "available", "in-use", "error"]);
        let ask = self.ec2.describe_volumes().set_filters(Some(filters(whose))).filters(alive);
        let found = ask.into_paginator().page_size(PAGE).items().send().try_collect().await;
        let found = found.map_err(|error| failed("ec2:DescribeVolumes", error))?;
        Ok(found.iter().filter_map(|it| one(it.volume_id(), it.tags(), Resource::Volume)).collect())
    }

    async fn owned_snapshots(&self, whose: Whose<'_>) -> Answer<Vec<Owned>> {
        let ask = self.ec2.describe_snapshots().owner_ids("self").set_filters(Some(filters(whose)));
        let found = ask.into_paginator().page_size(PAGE).items().send().try_collect().await;
        let found = found.map_err(|error| failed("ec2:DescribeSnapshots", error))?;
        Ok(found.iter().filter_map(|it| one(it.snapshot_id(), it.tags(), Resource::Snapshot)).collect())
    }

    async fn owned_groups(&self, whose: Whose<'_>) -> Answer<Vec<Owned>> {
        let ask = self.ec2.describe_security_groups().set_filters(Some(filters(whose)));
        let found = ask.into_paginator().page_size(PAGE).items().send().try_collect().await;
        let found = found.map_err(|error| failed("ec2:DescribeSecurityGroups", error))?;
        Ok(found.iter().filter_map(|it| one(it.group_id(), it.tags(), Resource::Group)).collect())
    }

    async fn owned_templates(&self, whose: Whose<'_>) -> Answer<Vec<Owned>> {
        let ask = self.ec2.describe_launch_templates().set_filters(Some(filters(whose)));
        let found = ask.into_paginator().page_size(TEMPLATES).items().send().try_collect().await;
        let found = found.map_err(|error| failed("ec2:DescribeLaunchTemplates", error))?;
        Ok(found.iter().filter_map(|it| one(it.launch_template_id(), it.tags(), Resource::Template)).collect())
    }
}
