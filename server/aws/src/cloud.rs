//! The calls.

use rocks_provision::cloud::{
    Ami, Answer, Cloud, CloudError, Import, Instance, Launch, NewImport, NewSnapshot, NewTemplate, NewVolume, Owned,
    Registration, Rule, Snapshot, Subnet, Tags, Template, Volume, Whose,
};
use rocks_provision::ids::{AmiId, GroupId, ImportId, InstanceId, SnapshotId, SubnetId, TemplateId, VolumeId};

use crate::client::Aws;
use crate::error::failed;
use crate::group::permission;

impl Cloud for Aws {
    async fn subnet(&self, id: Option<&SubnetId>, kinds: &[&str]) -> Answer<Subnet> {
        self.find_subnet(id, kinds).await
    }

    async fn ensure_group(&self, name: &str, vpc: &str, tags: &Tags) -> Answer<GroupId> {
        self.ensure_one_group(name, vpc, tags).await
    }

    async fn allow(&self, group: &GroupId, rule: &Rule) -> Answer<()> {
        let allow = self.ec2.authorize_security_group_ingress().group_id(group.as_str());
        let allowed = allow.ip_permissions(permission(rule)).send().await;
        match allowed.map_err(|error| failed("ec2:AuthorizeSecurityGroupIngress", error)) {
            Err(CloudError::Exists(_)) => Ok(()),
            result => result.map(drop),
        }
    }

    async fn disallow(&self, group: &GroupId, rule: &Rule) -> Answer<()> {
        let revoke = self.ec2.revoke_security_group_ingress().group_id(group.as_str());
        let revoked = revoke.ip_permissions(permission(rule)).send().await;
        match revoked.map_err(|error| failed("ec2:RevokeSecurityGroupIngress", error)) {
            // The rule, not the group.
            Err(CloudError::Missing(message)) if message.starts_with("InvalidPermission.") => Ok(()),
            result => result.map(drop),
        }
    }

    async fn delete_group(&self, group: &GroupId) -> Answer<()> {
        self.remove_group(group).await
    }

    async fn launch(&self, launch: &Launch) -> Answer<Vec<InstanceId>> {
        self.launch_all(launch).await
    }

    async fn instances(&self, ids: &[InstanceId]) -> Answer<Vec<Instance>> {
        self.look_at_instances(ids).await
    }

    async fn terminate(&self, ids: &[InstanceId]) -> Answer<()> {
        self.end_instances(ids).await
    }

    async fn create_template(&self, new: &NewTemplate) -> Answer<Template> {
        self.make_template(new).await
    }

    async fn delete_template(&self, id: &TemplateId) -> Answer<()> {
        self.remove_template(id).await
    }

    async fn create_volume(&self, volume: &NewVolume) -> Answer<VolumeId> {
        self.make_volume(volume).await
    }

    async fn volume(&self, id: &VolumeId) -> Answer<Option<Volume>> {
        self.look_at_volume(id).await
    }

    async fn attach(&self, volume: &VolumeId, to: &InstanceId, device: &str) -> Answer<()> {
        self.attach_volume(volume, to, device).await
    }

    async fn detach(&self, volume: &VolumeId) -> Answer<()> {
        self.detach_volume(volume).await
    }

    async fn delete_volume(&self, volume: &VolumeId) -> Answer<()> {
        self.remove_volume(volume).await
    }

    async fn create_snapshot(&self, volume: &VolumeId, tags: &Tags) -> Answer<SnapshotId> {
        self.take_snapshot(volume, tags).await
    }

    async fn snapshot(&self, id: &SnapshotId) -> Answer<Option<Snapshot>> {
        self.look_at_snapshot(id).await
    }

    async fn delete_snapshot(&self, id: &SnapshotId) -> Answer<()> {
        self.remove_snapshot(id).await
    }

    async fn start_snapshot(&self, new: &NewSnapshot) -> Answer<SnapshotId> {
        self.begin_snapshot(new).await
    }

    async fn put_block(&self, id: &SnapshotId, index: u32, block: Vec<u8>) -> Answer<()> {
        self.write_block(id, index, block).await
    }

    async fn complete_snapshot(&self, id: &SnapshotId, blocks: u32) -> Answer<()> {
        self.end_snapshot(id, blocks).await
    }

    async fn import_snapshot(&self, new: &NewImport) -> Answer<ImportId> {
        self.begin_import(new).await
    }

    async fn import(&self, id: &ImportId) -> Answer<Option<Import>> {
        self.look_at_import(id).await
    }

    async fn cancel_import(&self, id: &ImportId) -> Answer<()> {
        self.end_import(id).await
    }

    async fn tag_snapshot(&self, id: &SnapshotId, tags: &Tags) -> Answer<()> {
        self.give_tags(id, tags).await
    }

    async fn imports(&self, whose: Whose<'_>) -> Answer<Vec<Owned>> {
        self.owned_imports(whose).await
    }

    async fn register(&self, image: &Registration) -> Answer<AmiId> {
        self.register_image(image).await
    }

    async fn ami(&self, id: &AmiId) -> Answer<Option<Ami>> {
        self.look_at_image(id).await
    }

    async fn deregister(&self, id: &AmiId) -> Answer<()> {
        self.remove_image(id).await
    }

    async fn owned(&self, whose: Whose<'_>) -> Answer<Vec<Owned>> {
        self.all_owned(whose).await
    }
}
