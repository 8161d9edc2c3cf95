//! The hands of [`crate::engine`] for images that go through S3: what is there already is listed, and not sent again.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use crate::cloud::{Cloud, CloudError, Import, NewImport, Source};
use crate::engine::{Pieces, Site, SiteError, StepError, Work};
use crate::objects::{BucketName, ObjectKey, Objects, PutPart, UploadId};
use crate::order::{End, Store};
use crate::plan::Step;
use crate::record::Record;
use crate::retry::{Wait, insist, until};
use crate::steps::{EVERY, IMAGE, lacks};

/// How long an import may take.
const IMPORT: Duration = Duration::from_secs(6 * 3600);
/// What the one object of an import is called.
const DISK: &str = "disk.vmdk";

fn site(what: String) -> StepError {
    SiteError::new(what).into()
}

fn key(record: &Record, name: &str) -> Result<ObjectKey, StepError> {
    format!("{}{name}", record.folder()).parse().map_err(|error| site(format!("{error}")))
}

fn read(pieces: &dyn Pieces, nth: usize) -> Result<Bytes, StepError> {
    pieces
        .read(nth)
        .map(Bytes::from)
        .map_err(|error| site(format!("what was made of the image cannot be read: {error}")))
}

impl<C: Cloud + Objects, S: Site> Work<'_, C, S> {
    fn store(&self, record: &Record) -> Result<Store, StepError> {
        record.order.store().cloned().ok_or_else(|| lacks("bucket"))
    }

    pub(crate) async fn upload(&self) -> Result<(), StepError> {
        let record = self.record();
        let store = self.store(&record)?;
        insist(Wait::Settling, || self.cloud.ensure_bucket(&store.bucket, &record.site)).await?;
        let pieces = self.site.bundle(&record).await?;
        let bytes = pieces.all().iter().map(|piece| piece.bytes).sum();
        match store.end {
            End::Import => self.upload_disk(&record, &store.bucket, &*pieces, bytes).await?,
            End::Register => self.upload_files(&record, &store.bucket, &*pieces).await?,
        }
        self.note(|record| record.found.sent_bytes = Some(bytes)).await
    }

    /// One object in parts. Until it is complete the upload has a name, and its parts can be listed.
    async fn upload_disk(
        &self,
        record: &Record,
        bucket: &BucketName,
        pieces: &dyn Pieces,
        bytes: u64,
    ) -> Result<(), StepError> {
        let disk = key(record, DISK)?;
        let Some((upload, there)) = self.begun(record, bucket, &disk, bytes).await? else { return Ok(()) };
        let there: BTreeMap<u32, PutPart> = there.into_iter().map(|part| (part.number, part)).collect();
        let mut parts = Vec::with_capacity(pieces.all().len());
        for ((nth, piece), number) in pieces.all().iter().enumerate().zip(1..) {
            let same = there.get(&number).filter(|part| (part.bytes, part.sha256) == (piece.bytes, piece.sha256));
            let part = match same {
                Some(part) => part.clone(),
                None => {
                    let body = read(pieces, nth)?;
                    insist(Wait::Nothing, || self.cloud.put_part(bucket, &disk, &upload, number, body.clone())).await?
                }
            };
            parts.push(part);
        }
        match insist(Wait::Nothing, || self.cloud.complete_upload(bucket, &disk, &upload, &parts)).await {
            // It was complete, and the answer was lost.
            Err(CloudError::Missing(_)) if self.is_there(bucket, &disk, bytes).await? => {}
            result => result?,
        }
        self.note(|record| record.found.upload = None).await
    }

    /// The upload and its parts, begun if it is not; nothing if the object is there.
    async fn begun(
        &self,
        record: &Record,
        bucket: &BucketName,
        disk: &ObjectKey,
        bytes: u64,
    ) -> Result<Option<(UploadId, Vec<PutPart>)>, StepError> {
        let mut known = record.found.upload.clone();
        if known.is_none() && self.resumed.contains(&Step::Upload) {
            // A frontend that died before it noted it may have begun one, or have completed it.
            if self.is_there(bucket, disk, bytes).await? {
                return Ok(None);
            }
            let folder = record.folder();
            let open = insist(Wait::Nothing, || self.cloud.list_uploads(bucket, &folder)).await?;
            known = open.into_iter().find(|(key, _)| key == disk).map(|(_, upload)| upload);
        }
        if let Some(upload) = known {
            match insist(Wait::Nothing, || self.cloud.parts(bucket, disk, &upload)).await {
                Ok(parts) => {
                    let kept = upload.clone();
                    self.note(|record| record.found.upload = Some(kept)).await?;
                    return Ok(Some((upload, parts)));
                }
                Err(CloudError::Missing(_)) if self.is_there(bucket, disk, bytes).await? => return Ok(None),
                // Somebody gave it up.
                Err(CloudError::Missing(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // The bucket may have been made a moment ago.
        let upload = insist(Wait::Settling, || self.cloud.begin_upload(bucket, disk)).await?;
        let kept = upload.clone();
        self.note(|record| record.found.upload = Some(kept)).await?;
        Ok(Some((upload, Vec::new())))
    }

    async fn is_there(&self, bucket: &BucketName, key: &ObjectKey, bytes: u64) -> Result<bool, StepError> {
        let object = insist(Wait::Nothing, || self.cloud.object(bucket, key)).await?;
        Ok(object.is_some_and(|object| object.bytes == bytes))
    }

    /// Objects, one after the other; whoever reads them begins with the last.
    async fn upload_files(&self, record: &Record, bucket: &BucketName, pieces: &dyn Pieces) -> Result<(), StepError> {
        let folder = record.folder();
        let listed = insist(Wait::Nothing, || self.cloud.list_objects(bucket, &folder)).await?;
        for (nth, piece) in pieces.all().iter().enumerate() {
            let key = key(record, &piece.name)?;
            if listed.iter().any(|one| one.key == key && one.bytes == piece.bytes) {
                let object = insist(Wait::Nothing, || self.cloud.object(bucket, &key)).await?;
                if object.is_some_and(|object| object.sha256 == Some(piece.sha256)) {
                    continue;
                }
            }
            let body = read(pieces, nth)?;
            insist(Wait::Settling, || self.cloud.put_object(bucket, &key, body.clone())).await?;
        }
        Ok(())
    }

    /// The bundle that was sent, by its manifest.
    pub(crate) async fn bundled(&self) -> Result<Source, StepError> {
        let (record, shipment) = (self.record(), self.shipment().await?);
        let manifest = key(&record, &format!("{}.manifest.xml", shipment.image))?;
        Ok(Source::Bundle(self.store(&record)?.bucket, manifest))
    }

    pub(crate) async fn import(&self) -> Result<(), StepError> {
        let record = self.record();
        let store = self.store(&record)?;
        self.site.sent(&record).await?;
        let id = match record.found.import.clone() {
            Some(id) => id,
            None => {
                let new = NewImport {
                    token: record.token("import"),
                    bucket: store.bucket.clone(),
                    key: key(&record, DISK)?,
                    role: store.role.clone(),
                    encrypted: record.order.encrypted,
                    kms_key: record.order.kms_key.clone(),
                    tags: record.tags(IMAGE),
                };
                insist(Wait::Nothing, || self.cloud.import_snapshot(&new)).await?
            }
        };
        self.note(|record| record.found.import = Some(id.clone())).await?;
        let made = until("the import does not end", EVERY, IMPORT, || async {
            match self.cloud.import(&id).await? {
                Some(Import::Completed(snapshot)) => Ok(Some(snapshot)),
                Some(Import::Active) => Ok(None),
                Some(Import::Failed(why)) => Err(CloudError::Refused { code: "ImportFailed".to_owned(), message: why }),
                None => Err(CloudError::Missing(format!("{id} is not known"))),
            }
        });
        let snapshot = made.await?;
        // Known before it has tags: whoever dies here finds it by its task.
        let tags = record.tags(IMAGE);
        insist(Wait::Settling, || self.cloud.tag_snapshot(&snapshot, &tags)).await?;
        self.note(|record| record.found.snapshot = Some(snapshot.clone())).await?;
        self.until_snapshot(&snapshot).await
    }

    pub(crate) async fn discard(&self) -> Result<(), StepError> {
        let record = self.record();
        let (bucket, disk) = (self.store(&record)?.bucket, [key(&record, DISK)?]);
        Ok(insist(Wait::Nothing, || self.cloud.delete_objects(&bucket, &disk)).await?)
    }
}
