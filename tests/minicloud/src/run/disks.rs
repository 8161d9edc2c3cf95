//! The bytes of volumes and snapshots: sparse files.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

pub(crate) use crate::cloud::BLOCK;
use crate::process;

/// Where they are.
#[derive(Debug)]
pub(crate) struct Disks {
    dir: PathBuf,
}

impl Disks {
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        for part in ["volumes", "snapshots", "staged"] {
            fs::create_dir_all(dir.join(part)).with_context(|| dir.display().to_string())?;
        }
        Ok(Self { dir: dir.to_owned() })
    }

    /// The folder that all of it is in.
    pub(super) fn folder(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn volume(&self, id: &str) -> PathBuf {
        self.dir.join("volumes").join(id)
    }

    pub(crate) fn snapshot(&self, id: &str) -> PathBuf {
        self.dir.join("snapshots").join(id)
    }

    /// Holds on to a file that is about to be copied, whatever becomes of its name meanwhile.
    pub(crate) fn stage(&self, from: &Path, for_whom: &str) -> Result<PathBuf> {
        let staged = self.dir.join("staged").join(for_whom);
        remove(&staged)?;
        fs::hard_link(from, &staged).with_context(|| format!("{} is not there", from.display()))?;
        Ok(staged)
    }

    /// Makes a volume of a staged file, or of nothing.
    pub(crate) fn make_volume(&self, id: &str, gib: u64, staged: Option<&Path>) -> Result<()> {
        let to = self.volume(id);
        match staged {
            Some(from) => {
                copy(from, &to)?;
                remove(from)?;
            }
            None => drop(File::create(&to)?),
        }
        set_gib(&to, gib)
    }

    /// Makes a snapshot of a staged file; gives the blocks that hold data, and how many bytes those are.
    pub(crate) fn make_snapshot(&self, id: &str, gib: u64, staged: &Path) -> Result<(BTreeSet<u32>, u64)> {
        let to = self.snapshot(id);
        copy(staged, &to)?;
        remove(staged)?;
        set_gib(&to, gib)?;
        held(&to)
    }

    /// Makes an empty snapshot, or one with its parent's bytes, to which blocks can be put.
    pub(crate) fn open_snapshot(&self, id: &str, gib: u64, parent: Option<&str>) -> Result<()> {
        let to = self.snapshot(id);
        match parent {
            Some(parent) => copy(&self.snapshot(parent), &to)?,
            None => drop(File::create(&to)?),
        }
        set_gib(&to, gib)
    }

    /// Makes a snapshot of a disk image's file; it is as long as the image in whole GiB. What is not raw is read by QEMU.
    pub(crate) fn import(&self, id: &str, image: &Path, format: &str) -> Result<(BTreeSet<u32>, u64)> {
        let to = self.snapshot(id);
        match format {
            "raw" => copy(image, &to)?,
            format => {
                let format = if format == "vhd" { "vpc" } else { format };
                let program = process::which("qemu-img").context("qemu-img is not installed")?;
                let convert = process::cmd(program).args(["convert", "-f", format, "-O", "raw"]).arg(image).arg(&to);
                convert.run().context("ClientError: Disk validation failed")?;
            }
        };
        let bytes = fs::metadata(&to)?.len();
        ensure!(bytes > 0, "the image is empty");
        set_gib(&to, bytes.div_ceil(1 << 30))?;
        Ok((held(&to)?.0, bytes))
    }

    /// Writes a block.
    pub(crate) fn put(&self, snapshot: &str, block: u32, data: &[u8]) -> Result<()> {
        let file = File::options().write(true).open(self.snapshot(snapshot))?;
        file.write_all_at(data, u64::from(block) * BLOCK)?;
        Ok(())
    }

    /// Reads a block; what is beyond the end reads as zeros.
    pub(crate) fn get(&self, snapshot: &str, block: u32) -> Result<Vec<u8>> {
        read_block(&File::open(self.snapshot(snapshot))?, block)
    }

    /// Those of `blocks` that differ in two snapshots.
    pub(crate) fn differing(&self, one: &str, other: &str, blocks: &BTreeSet<u32>) -> Result<Vec<u32>> {
        let files = [File::open(self.snapshot(one))?, File::open(self.snapshot(other))?];
        let mut found = Vec::new();
        for block in blocks {
            if read_block(&files[0], *block)? != read_block(&files[1], *block)? {
                found.push(*block);
            }
        }
        Ok(found)
    }

    /// Writes noise at the beginning of every block that is not among `written`, as blocks of an encrypted snapshot may read.
    pub(crate) fn noise(&self, snapshot: &str, gib: u64, written: &BTreeSet<u32>) -> Result<()> {
        let file = File::options().write(true).open(self.snapshot(snapshot))?;
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let noise: Vec<u8> = (0..512)
            .flat_map(|_| {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                seed.to_le_bytes()
            })
            .collect();
        let blocks = u32::try_from((gib << 30) / BLOCK).unwrap_or(u32::MAX);
        for block in (0..blocks).filter(|b| !written.contains(b)) {
            file.write_all_at(&noise, u64::from(block) * BLOCK)?;
        }
        Ok(())
    }

    pub(crate) fn remove_volume(&self, id: &str) -> Result<()> {
        remove(&self.volume(id))
    }

    pub(crate) fn remove_snapshot(&self, id: &str) -> Result<()> {
        remove(&self.snapshot(id))
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).with_context(|| path.display().to_string()),
        _ => Ok(()),
    }
}

fn set_gib(path: &Path, gib: u64) -> Result<()> {
    let file = File::options().write(true).open(path)?;
    let now = file.metadata()?.len();
    file.set_len(now.max(gib << 30))?;
    Ok(())
}

fn read_block(file: &File, block: u32) -> Result<Vec<u8>> {
    let mut data = vec![0u8; usize::try_from(BLOCK)?];
    let mut have = 0;
    while have < data.len() {
        let n = file.read_at(&mut data[have..], u64::from(block) * BLOCK + have as u64)?;
        if n == 0 {
            break;
        }
        have += n;
    }
    Ok(data)
}

/// The parts of a file that hold data: where each begins and ends.
fn extents(file: &File) -> Result<Vec<(u64, u64)>> {
    let length = file.metadata()?.len();
    let mut found = Vec::new();
    let mut at = 0;
    while at < length {
        let from = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(from) => from,
            // Nothing but a hole from here on.
            Err(Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        let to = rustix::fs::seek(file, SeekFrom::Hole(from))?;
        found.push((from, to));
        at = to;
    }
    Ok(found)
}

/// Copies a file, holes as holes; by sharing its blocks where the file system can.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let source = File::open(from).with_context(|| from.display().to_string())?;
    let target = File::create(to).with_context(|| to.display().to_string())?;
    if rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let mut buffer = Vec::new();
    for (begin, end) in extents(&source)? {
        let (mut at, mut into) = (begin, begin);
        while at < end {
            let most = usize::try_from((end - at).min(1 << 30))?;
            match rustix::fs::copy_file_range(&source, Some(&mut at), &target, Some(&mut into), most) {
                Ok(0) => break,
                Ok(_) => {}
                Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                    buffer.resize(1 << 20, 0);
                    let n = source.read_at(&mut buffer[..most.min(1 << 20)], at)?;
                    if n == 0 {
                        break;
                    }
                    target.write_all_at(&buffer[..n], at)?;
                    at += n as u64;
                    into = at;
                }
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(())
}

/// The blocks of a file that hold data, and how many bytes those are.
fn held(path: &Path) -> Result<(BTreeSet<u32>, u64)> {
    let mut blocks = BTreeSet::new();
    for (from, to) in extents(&File::open(path)?)? {
        blocks.extend(u32::try_from(from / BLOCK)?..u32::try_from(to.div_ceil(BLOCK))?);
    }
    let bytes = blocks.len() as u64 * BLOCK;
    Ok((blocks, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_keep_their_holes_and_tell_their_blocks() {
        let dir = tempfile::tempdir().expect("a folder");
        let disks = Disks::new(dir.path()).expect("disks");
        disks.make_volume("vol-1", 2, None).expect("a volume");
        let file = File::options().write(true).open(disks.volume("vol-1")).expect("open");
        file.write_all_at(b"begin", 0).expect("written");
        file.write_all_at(b"end", (2 << 30) - 3).expect("written");
        let staged = disks.stage(&disks.volume("vol-1"), "snap-1").expect("staged");
        disks.remove_volume("vol-1").expect("removed");
        let (blocks, bytes) = disks.make_snapshot("snap-1", 2, &staged).expect("a snapshot");
        assert_eq!((blocks, bytes), ([0, 4095].into(), 2 * BLOCK));
        assert_eq!(&disks.get("snap-1", 0).expect("read")[..5], b"begin");
        assert!(std::os::unix::fs::MetadataExt::blocks(&fs::metadata(disks.snapshot("snap-1")).expect("there")) < 1000);
        // A child that differs in one block.
        disks.open_snapshot("snap-2", 3, Some("snap-1")).expect("open");
        disks.put("snap-2", 7, &vec![7; usize::try_from(BLOCK).expect("fits")]).expect("put");
        assert_eq!(disks.differing("snap-1", "snap-2", &[0, 7, 4095].into()).expect("compared"), [7]);
        assert!(disks.get("snap-2", 100_000).expect("beyond").iter().all(|b| *b == 0));
        disks.noise("snap-2", 3, &[0].into()).expect("noise");
        assert_eq!(&disks.get("snap-2", 0).expect("read")[..5], b"begin");
        assert!(disks.get("snap-2", 9).expect("read").iter().any(|b| *b != 0));
    }
}
