//! What a cloud begins with: images of disk images.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};

use super::{Shared, now};
use crate::cloud::Context;
use crate::query::params::Params;

impl Shared {
    /// Registers an image of a disk image's file. Gives the ids of the image and of its snapshot.
    pub(crate) fn seed(&self, name: &str, path: &Path, architecture: &str) -> Result<(String, String)> {
        let bytes = std::fs::metadata(path).with_context(|| path.display().to_string())?.len();
        let gib = bytes.div_ceil(1 << 30).max(1);
        let now = now();
        let snapshot = self.with_cloud(|cloud| cloud.add_given_snapshot(gib, now));
        let (blocks, _) = self.disks.import(&snapshot, path, "raw")?;
        self.with_cloud(|cloud| cloud.given_blocks(&snapshot, blocks));
        let pairs = [
            ("Name", name),
            ("Architecture", architecture),
            ("VirtualizationType", "hvm"),
            ("EnaSupport", "true"),
            ("RootDeviceName", "/dev/sda1"),
            ("BlockDeviceMapping.1.DeviceName", "/dev/sda1"),
            ("BlockDeviceMapping.1.Ebs.SnapshotId", &snapshot),
        ];
        let params = Params::from_pairs(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())));
        let context = Context { now, caller: "minicloud", console: None };
        let registered = self.with_cloud(|cloud| cloud.call("RegisterImage", &params, &context));
        let registered = registered.map_err(|e| anyhow!("{}: {}", e.code, e.message))?;
        Ok((registered.text_at("imageId").to_owned(), snapshot))
    }
}
