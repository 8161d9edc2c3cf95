//! Snapshots: of volumes, and written block by block.

use aws_sdk_ebs::operation::complete_snapshot::CompleteSnapshotError;
use aws_sdk_ebs::primitives::ByteStream;
use aws_sdk_ebs::types::{ChecksumAlgorithm, Tag, ValidationExceptionReason};
use aws_sdk_ec2::types::ResourceType;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rocks_provision::cloud::{Answer, CloudError, NewSnapshot, Snapshot, SnapshotState, Tags};
use rocks_provision::ids::{SnapshotId, VolumeId};
use sha2::{Digest as _, Sha256};

use crate::client::Aws;
use crate::error::{failed, lacks};
use crate::name::{tagged, token};

/// The bytes of a block.
const BLOCK: usize = 512 << 10;
/// After how many minutes without a block AWS gives a snapshot up. Long enough for somebody to start the frontend again.
const IDLE: i32 = 24 * 60;

impl Aws {
    pub(crate) async fn take_snapshot(&self, volume: &VolumeId, tags: &Tags) -> Answer<SnapshotId> {
        const ACTION: &str = "ec2:CreateSnapshot";
        let take = self
            .ec2
            .create_snapshot()
            .volume_id(volume.as_str())
            .description(format!("Rocks: provision {}", tags.provision))
            .tag_specifications(tagged(ResourceType::Snapshot, tags));
        let taken = take.send().await.map_err(|error| failed(ACTION, error))?;
        taken.snapshot_id().and_then(|id| id.parse().ok()).ok_or_else(|| lacks(ACTION, "snapshot"))
    }

    pub(crate) async fn look_at_snapshot(&self, id: &SnapshotId) -> Answer<Option<Snapshot>> {
        use aws_sdk_ec2::types::SnapshotState as Told;
        let asked = self.ec2.describe_snapshots().snapshot_ids(id.as_str()).send().await;
        let told = match asked.map_err(|error| failed("ec2:DescribeSnapshots", error)) {
            Ok(found) => found.snapshots.unwrap_or_default().pop(),
            Err(CloudError::Missing(_)) => None,
            Err(error) => return Err(error),
        };
        Ok(told.map(|told| {
            let state = match told.state() {
                Some(Told::Completed) => SnapshotState::Completed,
                // In the recycle bin, or on its way out of it: nobody can use it.
                Some(Told::Error | Told::Recoverable | Told::Recovering) => SnapshotState::Broken,
                _ => SnapshotState::Pending,
            };
            let progress = told.progress().and_then(|text| text.trim_end_matches('%').parse().ok());
            Snapshot { id: id.clone(), state, progress: progress.unwrap_or(0) }
        }))
    }

    pub(crate) async fn begin_snapshot(&self, new: &NewSnapshot) -> Answer<SnapshotId> {
        const ACTION: &str = "ebs:StartSnapshot";
        let refused =
            |message: &str| Err(CloudError::Refused { code: "InvalidKmsKey".to_owned(), message: message.to_owned() });
        // With a parent, the parent decides, and AWS refuses to be told again.
        let asks = new.encrypted && new.parent.is_none();
        let key = new.kms_key.clone().filter(|_| asks);
        if key.as_ref().is_some_and(|key| !key.starts_with("arn:")) {
            return refused("the EBS direct API takes a key by its ARN only: arn:aws:kms:REGION:ACCOUNT:key/ID");
        }
        let tags = new.tags.pairs().map(|(key, value)| Tag::builder().key(key).value(value).build());
        let begin = self
            .ebs
            .start_snapshot()
            .client_token(token(&new.tags, &new.token))
            .volume_size(i64::from(new.gib))
            .set_parent_snapshot_id(new.parent.as_ref().map(ToString::to_string))
            .set_encrypted(asks.then_some(true))
            .set_kms_key_arn(key)
            .description(format!("Rocks: provision {}", new.tags.provision))
            .timeout(IDLE)
            .set_tags(Some(tags.into()));
        let begun = begin.send().await.map_err(|error| failed(ACTION, error))?;
        if new.encrypted && new.parent.is_some() && begun.kms_key_arn().is_none() {
            return refused("the parent snapshot is not encrypted, and what is based on it would not be either");
        }
        begun.snapshot_id().and_then(|id| id.parse().ok()).ok_or_else(|| lacks(ACTION, "snapshot"))
    }

    pub(crate) async fn write_block(&self, id: &SnapshotId, index: u32, block: Vec<u8>) -> Answer<()> {
        if block.len() != BLOCK {
            let message = format!("block {index} has {} bytes, not 512 KiB", block.len());
            return Err(CloudError::Refused { code: "InvalidBlock".to_owned(), message });
        }
        let put = self
            .blocks
            .put_snapshot_block()
            .snapshot_id(id.as_str())
            .block_index(count(index)?)
            .data_length(BLOCK as i32)
            .checksum_algorithm(ChecksumAlgorithm::ChecksumAlgorithmSha256)
            .checksum(STANDARD.encode(Sha256::digest(&block)))
            .block_data(ByteStream::from(block));
        put.send().await.map(drop).map_err(|error| match failed("ebs:PutSnapshotBlock", error) {
            // It came too slowly: it is no worse than a lost answer, and the same block is taken the next time.
            CloudError::Refused { message, .. } if message.to_ascii_lowercase().contains("read block data") => {
                CloudError::Unclear(message)
            }
            error => error,
        })
    }

    pub(crate) async fn end_snapshot(&self, id: &SnapshotId, blocks: u32) -> Answer<()> {
        let end = self.ebs.complete_snapshot().snapshot_id(id.as_str()).changed_blocks_count(count(blocks)?);
        let Err(error) = end.send().await else { return Ok(()) };
        let is_closed = matches!(
            error.as_service_error(),
            Some(CompleteSnapshotError::ValidationException(why))
                if why.reason() == Some(&ValidationExceptionReason::InvalidSnapshotId)
        );
        let error = failed("ebs:CompleteSnapshot", error);
        if !is_closed {
            return Err(error);
        }
        // It takes no more blocks: it may have been said before.
        match self.look_at_snapshot(id).await?.map(|one| one.state) {
            Some(SnapshotState::Completed) => Ok(()),
            Some(SnapshotState::Pending) => Err(CloudError::State(format!("{id} is not whole yet: {error}"))),
            _ => Err(error),
        }
    }
}

fn count(number: u32) -> Answer<i32> {
    i32::try_from(number).map_err(|_| CloudError::Refused {
        code: "InvalidBlock".to_owned(),
        message: format!("no snapshot has a block {number}"),
    })
}
