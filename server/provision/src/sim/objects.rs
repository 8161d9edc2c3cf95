//! Its S3, and imports from it. What is written is there for everybody at once, as in S3.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Kind, Sim, State, Thing, missing, parsed};
use crate::cloud::{Answer, CloudError, Import, NewImport, Owned, Resource, Tags, Whose};
use crate::engine::{Piece, Pieces};
use crate::ids::ImportId;
use crate::objects::{BucketName, Listed, ObjectKey, Objects, Place, PutPart, Sha256, Stored, UploadId};
use crate::order::End;
use crate::record::Record;

/// Pieces of a disk, or parts of a bundle.
const PIECES: usize = 40;

/// One bucket, which all use.
#[derive(Default)]
pub(super) struct Store {
    is_made: bool,
    objects: BTreeMap<ObjectKey, Stored>,
    uploads: BTreeMap<UploadId, (ObjectKey, BTreeMap<u32, PutPart>)>,
    number: u64,
    /// How often each part or object was put.
    puts: BTreeMap<String, u32>,
}

fn bucket() -> BucketName {
    parsed("rocks-site-1-us-east-1")
}

impl Store {
    /// Where objects and uploads are.
    pub(super) fn places(&self) -> Vec<String> {
        let objects = self.objects.keys().map(|key| (key, None));
        let uploads = self.uploads.iter().map(|(id, (key, _))| (key, Some(id.clone())));
        let place = |(key, upload): (&ObjectKey, _)| Place { bucket: bucket(), key: key.clone(), upload }.to_string();
        objects.chain(uploads).map(place).collect()
    }

    /// Whether a bundle is there, and all of it of the same making.
    pub(super) fn is_bundle(&self, _: &BucketName, manifest: &ObjectKey) -> bool {
        let Some(stored) = self.objects.get(manifest) else { return false };
        let folder = manifest.as_str().rsplit_once('/').map_or("", |(folder, _)| folder);
        let parts: Vec<_> = self.objects.iter().filter(|(key, _)| key.as_str().starts_with(folder)).collect();
        let making = |stored: &Stored| stored.sha256.map(|digest| digest[1]);
        parts.len() == PIECES && parts.iter().all(|(_, part)| making(part) == making(stored))
    }

    fn upload(&mut self, id: &UploadId) -> Answer<&mut (ObjectKey, BTreeMap<u32, PutPart>)> {
        self.uploads.get_mut(id).ok_or_else(|| missing(id.as_str()))
    }
}

/// What an image becomes: of a bundle, other bytes each time it is made anew.
pub(super) struct SimPieces(Vec<Piece>);

impl SimPieces {
    pub(super) fn new(record: &Record, made: &AtomicU64) -> Self {
        let store = record.order.store().expect("a bucket");
        let registers = store.end == End::Register;
        let making = if registers { made.load(Ordering::Relaxed) as u8 } else { 0 };
        let piece = |nth: usize| {
            let name = match (registers, nth + 1 == PIECES) {
                (false, _) => "disk.vmdk".to_owned(),
                (true, false) => format!("compute.part.{nth:02}"),
                (true, true) => "compute.manifest.xml".to_owned(),
            };
            let mut sha256 = [0; 32];
            (sha256[0], sha256[1]) = (nth as u8, making);
            Piece { name, bytes: 2, sha256 }
        };
        Self((0..PIECES).map(piece).collect())
    }
}

impl Pieces for SimPieces {
    fn all(&self) -> &[Piece] {
        &self.0
    }

    fn read(&self, nth: usize) -> io::Result<Vec<u8>> {
        Ok(self.0[nth].sha256[..2].to_vec())
    }
}

/// What stands for a digest here: the bytes themselves.
fn digest(body: &Bytes) -> Sha256 {
    let mut sha256 = [0; 32];
    sha256[..body.len()].copy_from_slice(body);
    sha256
}

impl State {
    pub(super) fn begin_import(&mut self, new: &NewImport) -> Answer<ImportId> {
        let object = self.store.objects.get(&new.key);
        if object.is_none_or(|object| object.bytes != 2 * PIECES as u64) {
            let message = "the object is not there, or not all of it".to_owned();
            return Err(CloudError::Refused { code: "InvalidParameter".to_owned(), message });
        }
        let ends = Instant::now() + Duration::from_secs(30 + self.dice.below(60));
        let kind = Kind::Import { ends, snapshot: None, key: new.key.to_string() };
        Ok(parsed(&self.make("import-snap", Some(&new.token), &new.tags, kind)))
    }

    /// Makes the snapshots of imports whose time has come. They have no tags.
    pub(super) fn advance_imports(&mut self) {
        let is_due = |thing: &Thing| match &thing.state {
            Kind::Import { ends, snapshot: None, .. } => *ends <= Instant::now() && thing.gone.is_none(),
            _ => false,
        };
        let due: Vec<String> =
            self.things.iter().filter(|(_, thing)| is_due(thing)).map(|(id, _)| id.clone()).collect();
        for id in due {
            let nobody = Tags { site: String::new(), provision: parsed("nobody"), role: String::new() };
            let whole = Some(Instant::now());
            let made = self.make("snap", None, &nobody, Kind::Snapshot { whole, blocks: Default::default() });
            if let Some(Thing { state: Kind::Import { snapshot, key, .. }, .. }) = self.things.get_mut(&id) {
                assert!(self.store.objects.keys().any(|known| known.as_str() == key), "the disk went too soon");
                *snapshot = Some(made);
            }
        }
    }

    pub(super) fn look_at_import(&mut self, id: &str) -> Option<Import> {
        self.advance_imports();
        let thing = self.seen(id)?;
        match &thing.state {
            Kind::Import { snapshot: Some(snapshot), .. } => Some(Import::Completed(parsed(snapshot))),
            _ if thing.gone.is_some() => Some(Import::Failed("deleted".to_owned())),
            _ => Some(Import::Active),
        }
    }

    pub(super) fn owned_imports(&mut self, whose: Whose<'_>) -> Vec<Owned> {
        self.advance_imports();
        let mut all = Vec::new();
        for (id, thing) in &self.things {
            let fits = match whose {
                Whose::Site(site) => thing.tags.site == site,
                Whose::Provision(site, provision) => thing.tags.site == site && thing.tags.provision == *provision,
            };
            let Kind::Import { snapshot, .. } = &thing.state else { continue };
            let resource = match snapshot {
                Some(made) if self.things.get(made).is_some_and(|made| made.gone.is_none()) => {
                    Resource::Snapshot(parsed(made))
                }
                None if thing.gone.is_none() => Resource::Import(parsed(id)),
                _ => continue,
            };
            if fits {
                let (provision, role) = (Some(thing.tags.provision.clone()), thing.tags.role.clone());
                all.push(Owned { resource, provision, role });
            }
        }
        all
    }
}

impl Sim {
    /// The most often that a part or an object was put.
    pub(crate) fn most_puts(&self) -> u32 {
        self.state().store.puts.values().copied().max().unwrap_or(0)
    }
}

impl Objects for Sim {
    async fn ensure_bucket(&self, _: &BucketName, _: &str) -> Answer<()> {
        self.call("s3:CreateBucket", |state| {
            state.store.is_made = true;
            Ok(())
        })
        .await
    }

    async fn put_object(&self, _: &BucketName, key: &ObjectKey, body: Bytes) -> Answer<()> {
        self.call("s3:PutObject", |state| {
            assert!(state.store.is_made, "there is no bucket");
            *state.store.puts.entry(key.to_string()).or_default() += 1;
            let stored = Stored { bytes: body.len() as u64, sha256: Some(digest(&body)) };
            state.store.objects.insert(key.clone(), stored);
            Ok(())
        })
        .await
    }

    async fn object(&self, _: &BucketName, key: &ObjectKey) -> Answer<Option<Stored>> {
        self.call("s3:GetObject", |state| Ok(state.store.objects.get(key).cloned())).await
    }

    async fn list_objects(&self, _: &BucketName, prefix: &str) -> Answer<Vec<Listed>> {
        self.call("s3:ListBucket", |state| {
            let all = state.store.objects.iter().filter(|(key, _)| key.as_str().starts_with(prefix));
            Ok(all.map(|(key, stored)| Listed { key: key.clone(), bytes: stored.bytes }).collect())
        })
        .await
    }

    async fn delete_objects(&self, _: &BucketName, keys: &[ObjectKey]) -> Answer<()> {
        self.call("s3:DeleteObject", |state| {
            state.store.objects.retain(|key, _| !keys.contains(key));
            Ok(())
        })
        .await
    }

    async fn presign_get(&self, bucket: &BucketName, key: &ObjectKey, _: Duration) -> Answer<String> {
        Ok(format!("https://{bucket}.example.org/{key}"))
    }

    async fn begin_upload(&self, _: &BucketName, key: &ObjectKey) -> Answer<UploadId> {
        self.call("s3:PutObject", |state| {
            assert!(state.store.is_made, "there is no bucket");
            state.store.number += 1;
            let id: UploadId = parsed(&format!("upload-{}", state.store.number));
            state.store.uploads.insert(id.clone(), (key.clone(), BTreeMap::new()));
            Ok(id)
        })
        .await
    }

    async fn put_part(
        &self,
        _: &BucketName,
        key: &ObjectKey,
        upload: &UploadId,
        number: u32,
        body: Bytes,
    ) -> Answer<PutPart> {
        self.call("s3:PutObject", |state| {
            let sha256 = digest(&body);
            let part = PutPart { number, bytes: body.len() as u64, etag: format!("{number}"), sha256 };
            state.store.upload(upload)?.1.insert(number, part.clone());
            *state.store.puts.entry(format!("{key}/{number}")).or_default() += 1;
            Ok(part)
        })
        .await
    }

    async fn parts(&self, _: &BucketName, _: &ObjectKey, upload: &UploadId) -> Answer<Vec<PutPart>> {
        self.call("s3:ListMultipartUploadParts", |state| Ok(state.store.upload(upload)?.1.values().cloned().collect()))
            .await
    }

    async fn complete_upload(
        &self,
        _: &BucketName,
        key: &ObjectKey,
        upload: &UploadId,
        parts: &[PutPart],
    ) -> Answer<()> {
        self.call("s3:PutObject", |state| {
            let there = &state.store.upload(upload)?.1;
            assert!(there.values().eq(parts), "not the parts that are there");
            let bytes = parts.iter().map(|part| part.bytes).sum();
            state.store.uploads.remove(upload);
            state.store.objects.insert(key.clone(), Stored { bytes, sha256: None });
            Ok(())
        })
        .await
    }

    async fn abort_upload(&self, _: &BucketName, _: &ObjectKey, upload: &UploadId) -> Answer<()> {
        self.call("s3:AbortMultipartUpload", |state| {
            state.store.uploads.remove(upload);
            Ok(())
        })
        .await
    }

    async fn list_uploads(&self, _: &BucketName, prefix: &str) -> Answer<Vec<(ObjectKey, UploadId)>> {
        self.call("s3:ListBucketMultipartUploads", |state| {
            let all = state.store.uploads.iter().filter(|(_, (key, _))| key.as_str().starts_with(prefix));
            Ok(all.map(|(id, (key, _))| (key.clone(), id.clone())).collect())
        })
        .await
    }
}
