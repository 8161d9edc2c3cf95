//! Buckets, objects and uploads: what is known of them in memory, their bytes in files.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::checksum::Algorithm;
use crate::error::{Answer, ApiError};
use crate::server::locked;

/// A file that goes when nothing refers to it any more.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) path: PathBuf,
}

impl Drop for Stored {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A checksum that is kept with an object or a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) algorithm: Algorithm,
    pub(super) value: String,
    /// Whether it is of the parts' checksums, not of the whole.
    pub(super) composite: bool,
}

/// An object.
#[derive(Debug)]
pub(super) struct Object {
    /// Its number, for the bill.
    pub(super) id: String,
    pub(super) data: Stored,
    pub(super) size: u64,
    pub(super) etag: String,
    pub(super) modified: u64,
    pub(super) checksum: Option<Kept>,
    /// Headers that come back as they were given.
    pub(super) headers: Vec<(String, String)>,
}

/// A part of an upload.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) data: Stored,
    pub(super) size: u64,
    pub(super) etag: String,
    pub(super) checksum: Option<Kept>,
    pub(super) modified: u64,
}

/// An upload in parts.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) key: String,
    pub(super) started: u64,
    pub(super) headers: Vec<(String, String)>,
    pub(super) algorithm: Option<Algorithm>,
    pub(super) whole: bool,
    pub(super) parts: BTreeMap<u32, Part>,
}

/// A bucket.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    pub(super) created: u64,
    pub(super) tags: Vec<(String, String)>,
    /// What is closed to the public, as it was said; whether all of it is.
    pub(super) closed: Option<(String, bool)>,
    pub(super) objects: BTreeMap<String, Object>,
    pub(super) uploads: BTreeMap<String, Upload>,
}

/// Everything.
#[derive(Debug)]
pub(crate) struct Store {
    dir: PathBuf,
    number: AtomicU64,
    buckets: Mutex<BTreeMap<String, Bucket>>,
}

impl Store {
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        Ok(Self { dir: dir.to_owned(), number: AtomicU64::new(0), buckets: Mutex::default() })
    }

    pub(super) fn buckets(&self) -> MutexGuard<'_, BTreeMap<String, Bucket>> {
        locked(&self.buckets)
    }

    /// A number that was not given before.
    pub(super) fn next(&self) -> u64 {
        self.number.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A new file.
    pub(super) fn file(&self) -> std::io::Result<(Stored, File)> {
        let path = self.dir.join(self.next().to_string());
        let file = File::create_new(&path)?;
        Ok((Stored { path }, file))
    }

    /// Where an object's bytes are.
    pub(crate) fn path_of(&self, bucket: &str, key: &str) -> Option<PathBuf> {
        Some(self.buckets().get(bucket)?.objects.get(key)?.data.path.clone())
    }

    /// Buckets with their objects, for tests.
    pub(crate) fn show(&self) -> Value {
        let buckets = self.buckets();
        let shown = buckets.iter().map(|(name, b)| {
            let objects: Vec<Value> = b
                .objects
                .iter()
                .map(|(key, o)| {
                    let encrypted = o.headers.iter().find(|(name, _)| name == "x-amz-server-side-encryption");
                    json!({
                        "key": key, "size": o.size, "etag": o.etag, "file": o.data.path,
                        "encrypted": encrypted.map(|(_, how)| how),
                    })
                })
                .collect();
            let uploads: Vec<Value> =
                b.uploads.iter().map(|(id, u)| json!({ "upload": id, "key": u.key, "parts": u.parts.len() })).collect();
            let closed = b.closed.as_ref().is_some_and(|(_, all)| *all);
            json!({ "name": name, "tags": b.tags, "closed": closed, "objects": objects, "uploads": uploads })
        });
        Value::Array(shown.collect())
    }
}

/// A bucket that is there.
pub(super) fn bucket<'a>(buckets: &'a mut BTreeMap<String, Bucket>, name: &str) -> Answer<&'a mut Bucket> {
    buckets.get_mut(name).ok_or_else(|| ApiError::new("NoSuchBucket", "The specified bucket does not exist"))
}

/// An upload that is there, for that key.
pub(super) fn upload<'a>(bucket: &'a mut Bucket, id: &str, key: &str) -> Answer<&'a mut Upload> {
    bucket.uploads.get_mut(id).filter(|u| u.key == key).ok_or_else(|| {
        let message = "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed.";
        ApiError::new("NoSuchUpload", message)
    })
}
