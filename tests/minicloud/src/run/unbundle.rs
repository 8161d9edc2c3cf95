//! Opens bundles as EC2 did, with OpenSSL and tar: nothing here is the product's.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use sha1::{Digest as _, Sha1};

use super::disks::Disks;
use crate::process::cmd;

/// The largest manifest.
const MANIFEST: u64 = 32 << 20;

#[derive(Deserialize)]
struct Manifest {
    image: Image,
}

#[derive(Deserialize)]
struct Image {
    name: String,
    size: u64,
    bundled_size: u64,
    ec2_encrypted_key: Hex,
    ec2_encrypted_iv: Hex,
    parts: Parts,
}

#[derive(Deserialize)]
struct Hex {
    #[serde(rename = "$text")]
    digits: String,
}

#[derive(Deserialize)]
struct Parts {
    #[serde(rename = "@count")]
    count: usize,
    part: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    #[serde(rename = "@index")]
    index: usize,
    filename: String,
    digest: Hex,
}

impl Hex {
    fn bytes(&self) -> Result<Vec<u8>> {
        let digits = self.digits.trim();
        ensure!(digits.is_ascii() && digits.len().is_multiple_of(2), "these are no hexadecimal digits");
        (0..digits.len()).step_by(2).map(|at| Ok(u8::from_str_radix(&digits[at..at + 2], 16)?)).collect()
    }
}

/// What was encrypted for EC2: digits, as text.
fn opened(sealed: &Hex, key: &Path) -> Result<String> {
    let open = cmd("openssl").args(["pkeyutl", "-decrypt", "-inkey"]).arg(key).input(sealed.bytes()?);
    Ok(open.run().context("the key is not encrypted for EC2")?.stdout.trim().to_owned())
}

impl Disks {
    /// Makes a snapshot of the image in a bundle; gives the blocks that hold data, and its size in whole GiB. `find` gives an object's file.
    pub(crate) fn unbundle(
        &self,
        id: &str,
        manifest: &str,
        key: &Path,
        find: &dyn Fn(&str) -> Option<PathBuf>,
    ) -> Result<(BTreeSet<u32>, u64)> {
        let file = find(manifest).context("there is no such manifest")?;
        ensure!(fs::metadata(&file)?.len() <= MANIFEST, "the manifest is too large");
        let read: Manifest = quick_xml::de::from_str(&fs::read_to_string(file)?).context("it is no manifest")?;
        let image = read.image;
        let folder = manifest.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
        ensure!(image.parts.count == image.parts.part.len(), "not all parts are named");
        let (mut files, mut bytes) = (Vec::new(), 0);
        for (nth, part) in image.parts.part.iter().enumerate() {
            ensure!(part.index == nth, "the parts are not in their order");
            let file = find(&format!("{folder}{}", part.filename));
            let file = file.with_context(|| format!("there is no {}", part.filename))?;
            let there = fs::read(&file)?;
            ensure!(Sha1::digest(&there)[..] == part.digest.bytes()?[..], "{} is damaged", part.filename);
            bytes += there.len() as u64;
            files.push(file);
        }
        ensure!(bytes == image.bundled_size, "the parts have {bytes} bytes together, and not {}", image.bundled_size);
        let scratch = tempfile::tempdir_in(self.folder())?;
        let script = "set -o pipefail; key=$1 iv=$2 to=$3; shift 3
            cat \"$@\" | openssl enc -d -aes-128-cbc -K \"$key\" -iv \"$iv\" | tar -xzS -C \"$to\"";
        let (aes, iv) = (opened(&image.ec2_encrypted_key, key)?, opened(&image.ec2_encrypted_iv, key)?);
        cmd("bash").args(["-c", script, "bash", &aes, &iv]).arg(scratch.path()).args(files).run()?;
        let disk = scratch.path().join(&image.name);
        let there = fs::metadata(&disk).with_context(|| format!("there is no {} in it", image.name))?.len();
        ensure!(there == image.size, "the image has {there} bytes, and not {}", image.size);
        let (blocks, bytes) = self.import(id, &disk, "raw")?;
        Ok((blocks, bytes.div_ceil(1 << 30)))
    }
}
