//! The hands of [`crate::engine`]: each step looks what is there, does what lacks, and notes it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::cloud::{
    Ami, Cloud, CloudError, Instance, InstanceState, Launch, NewSnapshot, NewVolume, Registration, Resource, Rule,
    SnapshotState, Source, Subnet, VolumeState, Whose,
};
use crate::engine::{Site, SiteError, StepError, Work};
use crate::ids::{AmiId, InstanceId, SnapshotId, VolumeId};
use crate::objects::Objects;
use crate::order::{End, Order, Shipment};
use crate::plan::Step;
use crate::record::Record;
use crate::retry::{Wait, insist, until};

/// How the volume is called that the receiver writes onto. Nitro instances show it as an NVMe disk, which bears the volume's id.
pub(crate) const DEVICE: &str = "/dev/sdf";
/// The root device of images that we register.
pub(crate) const ROOT_DEVICE: &str = "/dev/xvda";
/// How often the cloud is asked how far it is.
pub(crate) const EVERY: Duration = Duration::from_secs(2);
/// How long an instance or a volume may take to be there.
pub(crate) const BOOT: Duration = Duration::from_secs(600);
/// How long a snapshot may take.
const SNAPSHOT: Duration = Duration::from_secs(3 * 3600);
/// How long to look for what may have been made by a frontend that died.
const LOOK: Duration = Duration::from_secs(30);
/// Bytes of a block of the EBS direct API.
const BLOCK_BYTES: u64 = 512 << 10;
/// Blocks that are written at the same time, and after how many the record is kept.
const BLOCKS: usize = 64;
/// What a receiver is called, in tags.
const RECEIVER: &str = "receiver";
/// What the volume and the snapshot are called, in tags.
pub(crate) const IMAGE: &str = "image";

/// Something that an earlier step should have left.
pub(crate) fn lacks(what: &str) -> StepError {
    SiteError::new(format!("the record has no {what}")).into()
}

impl<C: Cloud + Objects, S: Site> Work<'_, C, S> {
    pub(crate) async fn step(&self, step: Step) -> Result<(), StepError> {
        match step {
            Step::Build => Ok(self.site.build(&self.record().order).await?),
            Step::Group => self.group().await,
            Step::Volume => self.volume().await,
            Step::Receiver => self.receiver().await,
            Step::Attach => self.attach().await,
            Step::Ship => self.ship().await,
            Step::Detach => self.detach().await,
            Step::EndReceiver => self.end_receiver().await,
            Step::Snapshot => self.snapshot().await,
            Step::Clean => self.clean().await,
            Step::Blocks => self.blocks().await,
            Step::Seal => self.seal().await,
            Step::Bundle => Ok(self.site.bundle(&self.record()).await.map(drop)?),
            Step::Upload => self.upload().await,
            Step::Import => self.import().await,
            Step::Discard => self.discard().await,
            Step::Register => self.register().await,
            Step::Template => self.template().await,
            Step::Launch => self.launch().await,
            Step::Converge => self.converge().await,
        }
    }

    pub(crate) async fn shipment(&self) -> Result<Shipment, StepError> {
        self.record().order.shipment.ok_or_else(|| lacks("image to send"))
    }

    /// Where all of a provision is: volumes and instances that use them are in one zone.
    pub(crate) async fn subnet(&self, order: &Order) -> Result<Subnet, StepError> {
        let kinds = order.kinds();
        Ok(insist(Wait::Nothing, || self.cloud.subnet(order.subnet.as_ref(), &kinds)).await?)
    }

    async fn group(&self) -> Result<(), StepError> {
        let record = self.record();
        let subnet = self.subnet(&record.order).await?;
        let (name, tags) = (format!("rocks-{}", record.id), record.tags(RECEIVER));
        let group = insist(Wait::Nothing, || self.cloud.ensure_group(&name, &subnet.vpc, &tags)).await?;
        self.note(|record| record.found.group = Some(group)).await
    }

    async fn volume(&self) -> Result<(), StepError> {
        let (record, shipment) = (self.record(), self.shipment().await?);
        let subnet = self.subnet(&record.order).await?;
        let new = NewVolume {
            token: record.token("volume"),
            gib: shipment.gib,
            zone: subnet.zone,
            encrypted: record.order.encrypted,
            kms_key: record.order.kms_key.clone(),
            tags: record.tags(IMAGE),
        };
        let volume = insist(Wait::Nothing, || self.cloud.create_volume(&new)).await?;
        self.note(|record| record.found.volume = Some(volume)).await
    }

    async fn until_volume(
        &self,
        id: &VolumeId,
        what: &str,
        fits: impl Fn(VolumeState, Option<&(InstanceId, bool)>) -> bool + Sync,
    ) -> Result<(), StepError> {
        let fits = &fits;
        let there = until(what, EVERY, BOOT, || async move {
            let volume = self.cloud.volume(id).await?.ok_or_else(|| CloudError::Missing(format!("{id} is gone")))?;
            match volume.state {
                VolumeState::Broken | VolumeState::Gone => {
                    Err(CloudError::Refused { code: "VolumeBroken".into(), message: format!("{id} is broken or gone") })
                }
                state => Ok(fits(state, volume.attached.as_ref()).then_some(())),
            }
        });
        Ok(there.await?)
    }

    /// An image. One that we registered a moment ago may not be known everywhere yet; another one that is missing stays so.
    pub(crate) async fn image_of(&self, id: &AmiId, wait: Wait) -> Result<Ami, StepError> {
        let image = insist(wait, || async {
            let ami = self.cloud.ami(id).await?;
            ami.ok_or_else(|| CloudError::Missing(format!("there is no image {id}")))
        });
        Ok(image.await?)
    }

    async fn receiver(&self) -> Result<(), StepError> {
        let (record, shipment) = (self.record(), self.shipment().await?);
        let image = shipment.receiver.ok_or_else(|| lacks("image for the receiver"))?;
        let (group, volume) =
            record.found.group.clone().zip(record.found.volume.clone()).ok_or_else(|| lacks("volume"))?;
        let subnet = self.subnet(&record.order).await?;
        let launch = Launch {
            token: record.token(RECEIVER),
            count: 1,
            root_device: self.image_of(&image, Wait::Nothing).await?.root_device,
            image,
            kind: record.order.receiver_kind.clone(),
            subnet: subnet.id,
            groups: vec![group],
            user_data: self.site.receiver(&record, &volume, DEVICE).await?,
            key: None,
            // It must not be taken away in the middle.
            spot: false,
            root_gib: None,
            tags: record.tags(RECEIVER),
        };
        let id = self.launched(&launch).await?;
        self.note(|record| record.found.receiver = Some(id.clone())).await?;
        let inside = record.order.inside;
        let address = until("the receiver does not run", EVERY, BOOT, || async {
            let all = self.cloud.instances(std::slice::from_ref(&id)).await?;
            let one = all.first().ok_or_else(|| CloudError::Missing(format!("{id} is not known")))?;
            match one.state {
                InstanceState::Running => address(one, inside).map(Some),
                InstanceState::Pending => Ok(None),
                _ => Err(ended(one)),
            }
        });
        let address = address.await?;
        self.note(|record| record.found.receiver_at = Some(address)).await
    }

    async fn attach(&self) -> Result<(), StepError> {
        let (volume, receiver) = self.volume_and_receiver().await?;
        // It became so while the receiver started.
        let is_there = |state, to: Option<&(InstanceId, bool)>| state == VolumeState::Available || to.is_some();
        self.until_volume(&volume, "the volume is not there", is_there).await?;
        insist(Wait::Settling, || self.cloud.attach(&volume, &receiver, DEVICE)).await?;
        let attached = |_, to: Option<&(InstanceId, bool)>| to.is_some_and(|(id, whole)| *id == receiver && *whole);
        self.until_volume(&volume, "the volume is not attached", attached).await
    }

    async fn volume_and_receiver(&self) -> Result<(VolumeId, InstanceId), StepError> {
        let found = self.record().found;
        found.volume.zip(found.receiver).ok_or_else(|| lacks("volume with a receiver"))
    }

    /// The port is open while this runs, and no longer.
    async fn ship(&self) -> Result<(), StepError> {
        let record = self.record();
        let group = record.found.group.clone().ok_or_else(|| lacks("security group"))?;
        let at = record.found.receiver_at.ok_or_else(|| lacks("receiver's address"))?;
        let rule =
            Rule { protocol: "udp".to_owned(), port: record.order.port, from: format!("{}/32", record.order.frontend) };
        insist(Wait::Settling, || self.cloud.allow(&group, &rule)).await?;
        let shipped = self.site.ship(&record, SocketAddr::new(at.into(), record.order.port)).await;
        insist(Wait::Settling, || self.cloud.disallow(&group, &rule)).await?;
        let shipped = shipped?;
        self.note(|record| {
            record.found.sent_bytes = Some(shipped.sent_bytes);
            record.found.digest = Some(shipped.digest);
        })
        .await
    }

    async fn detach(&self) -> Result<(), StepError> {
        let (volume, _) = self.volume_and_receiver().await?;
        insist(Wait::Settling, || self.cloud.detach(&volume)).await?;
        let free = |state, _: Option<&(InstanceId, bool)>| state == VolumeState::Available;
        self.until_volume(&volume, "the volume is not given back", free).await
    }

    async fn end_receiver(&self) -> Result<(), StepError> {
        let record = self.record();
        let receiver = [record.found.receiver.clone().ok_or_else(|| lacks("receiver"))?];
        insist(Wait::Settling, || self.cloud.terminate(&receiver)).await?;
        let ended = until("the receiver does not end", EVERY, BOOT, || async {
            let all = self.cloud.instances(&receiver).await?;
            Ok(all.iter().all(|one| one.state == InstanceState::Terminated).then_some(()))
        });
        ended.await?;
        Ok(self.site.received(&record).await?)
    }

    async fn snapshot(&self) -> Result<(), StepError> {
        let record = self.record();
        let volume = record.found.volume.clone().ok_or_else(|| lacks("volume"))?;
        let id = match record.found.snapshot.clone() {
            Some(id) => id,
            None => match self.lost_snapshot(&record).await? {
                Some(id) => id,
                None => {
                    let tags = record.tags(IMAGE);
                    insist(Wait::Settling, || self.cloud.create_snapshot(&volume, &tags)).await?
                }
            },
        };
        self.note(|record| record.found.snapshot = Some(id.clone())).await?;
        self.until_snapshot(&id).await
    }

    /// The snapshot that a frontend took which died before it noted it: this call has no token.
    async fn lost_snapshot(&self, record: &Record) -> Result<Option<SnapshotId>, StepError> {
        if !self.resumed.contains(&Step::Snapshot) {
            return Ok(None);
        }
        let whose = Whose::Provision(&record.site, &record.id);
        let end = tokio::time::Instant::now() + LOOK;
        loop {
            let owned = insist(Wait::Nothing, || self.cloud.owned(whose)).await?;
            let found = owned.into_iter().find_map(|one| match one.resource {
                Resource::Snapshot(id) => Some(id),
                _ => None,
            });
            if found.is_some() || tokio::time::Instant::now() >= end {
                return Ok(found);
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    pub(crate) async fn until_snapshot(&self, id: &SnapshotId) -> Result<(), StepError> {
        let whole = until("the snapshot is not whole", EVERY, SNAPSHOT, || async {
            let snapshot = self.cloud.snapshot(id).await?;
            match snapshot.ok_or_else(|| CloudError::Missing(format!("{id} is not known")))?.state {
                SnapshotState::Completed => Ok(Some(())),
                SnapshotState::Pending => Ok(None),
                SnapshotState::Broken => {
                    Err(CloudError::Refused { code: "SnapshotError".into(), message: format!("{id} failed") })
                }
            }
        });
        Ok(whole.await?)
    }

    async fn clean(&self) -> Result<(), StepError> {
        let found = self.record().found;
        if let Some(volume) = found.volume {
            insist(Wait::Settling, || self.cloud.delete_volume(&volume)).await?;
        }
        if let Some(group) = found.group {
            insist(Wait::Settling, || self.cloud.delete_group(&group)).await?;
        }
        Ok(())
    }

    async fn blocks(&self) -> Result<(), StepError> {
        let (record, shipment) = (self.record(), self.shipment().await?);
        let new = NewSnapshot {
            token: record.token("snapshot"),
            gib: shipment.gib,
            parent: shipment.parent,
            encrypted: record.order.encrypted,
            kms_key: record.order.kms_key.clone(),
            tags: record.tags(IMAGE),
        };
        let id = insist(Wait::Nothing, || self.cloud.start_snapshot(&new)).await?;
        self.note(|record| record.found.snapshot = Some(id.clone())).await?;
        let now = insist(Wait::Settling, || self.cloud.snapshot(&id)).await?;
        if now.is_some_and(|snapshot| snapshot.state == SnapshotState::Completed) {
            return Ok(());
        }
        let blocks = self.site.blocks(&record.order).await?;
        match &record.found.digest {
            // Half of one image and half of another boots as neither.
            Some(begun) if begun != blocks.digest() => {
                let what = "the image is another than when its blocks began to be written";
                return Err(SiteError::new(what).hint(Some("provision anew".to_owned())).into());
            }
            Some(_) => {}
            None => self.note(|record| record.found.digest = Some(blocks.digest().to_owned())).await?,
        }
        let done = record.found.blocks as usize;
        // In runs, so that what is noted is there.
        for run in blocks.indices().get(done..).unwrap_or_default().chunks(BLOCKS * 8) {
            let put = |index: u32| {
                let (blocks, id) = (&blocks, &id);
                async move {
                    let block = blocks.read(index).map_err(|error| {
                        StepError::Site(SiteError::new(format!("the image cannot be read: {error}")))
                    })?;
                    insist(Wait::Settling, || self.cloud.put_block(id, index, block.clone())).await?;
                    Ok::<(), StepError>(())
                }
            };
            stream::iter(run.iter().copied().map(put)).buffer_unordered(BLOCKS).try_collect::<Vec<()>>().await?;
            let count = u32::try_from(run.len()).unwrap_or(u32::MAX);
            self.note(|record| record.found.blocks += count).await?;
        }
        let bytes = blocks.indices().len() as u64 * BLOCK_BYTES;
        self.note(|record| record.found.sent_bytes = Some(bytes)).await
    }

    async fn seal(&self) -> Result<(), StepError> {
        let found = self.record().found;
        let id = found.snapshot.ok_or_else(|| lacks("snapshot"))?;
        let now = insist(Wait::Settling, || self.cloud.snapshot(&id)).await?;
        if !now.is_some_and(|snapshot| snapshot.state == SnapshotState::Completed) {
            insist(Wait::Settling, || self.cloud.complete_snapshot(&id, found.blocks)).await?;
        }
        self.until_snapshot(&id).await
    }

    async fn register(&self) -> Result<(), StepError> {
        let (record, shipment) = (self.record(), self.shipment().await?);
        let registers = record.order.store().is_some_and(|store| store.end == End::Register);
        let of = if registers {
            self.site.sent(&record).await?;
            self.bundled().await?
        } else {
            Source::Snapshot(record.found.snapshot.clone().ok_or_else(|| lacks("snapshot"))?)
        };
        let boot = match shipment.boot {
            Some(boot) => boot,
            None => self.site.boots(&record.order).await?,
        };
        let image = Registration {
            name: format!("rocks-{}-{}", shipment.image, record.id),
            description: format!("{}, by Rocks", shipment.image),
            of,
            architecture: record.order.architecture.clone(),
            boot,
            root_device: ROOT_DEVICE.to_owned(),
            tags: record.tags(IMAGE),
        };
        let ami = insist(Wait::Settling, || self.cloud.register(&image)).await?;
        self.note(|record| record.found.ami = Some(ami.clone())).await?;
        let usable = until("the image cannot be used", EVERY, BOOT, || async {
            let image =
                self.cloud.ami(&ami).await?.ok_or_else(|| CloudError::Missing(format!("{ami} is not known")))?;
            match image.available {
                Some(true) => Ok(Some(())),
                None => Ok(None),
                Some(false) => {
                    Err(CloudError::Refused { code: "ImageFailed".into(), message: format!("{ami} failed") })
                }
            }
        });
        Ok(usable.await?)
    }
}

pub(crate) fn ended(instance: &Instance) -> CloudError {
    let reason = instance.reason.as_deref().unwrap_or("the cloud does not say why");
    let message = format!("{} ended: {reason}", instance.id);
    if reason.contains("InsufficientInstanceCapacity") {
        return CloudError::Capacity(message);
    }
    CloudError::Refused { code: "InstanceEnded".to_owned(), message }
}

fn address(instance: &Instance, inside: bool) -> Result<Ipv4Addr, CloudError> {
    let (address, kind) = if inside { (instance.private, "private") } else { (instance.public, "public") };
    address.ok_or_else(|| CloudError::Refused {
        code: "NoAddress".to_owned(),
        message: format!(
            "{} has no {kind} address; name a subnet that gives public ones, or say `inside=yes` where the frontend reaches the VPC",
            instance.id
        ),
    })
}
