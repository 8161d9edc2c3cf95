//! An image as the EBS direct API takes it: its blocks of 512 KiB that hold something, or differ from an earlier image.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rocks_provision::engine::Blocks;
use rocks_ship::image::{Allocation, length};

/// Bytes of a block.
const BLOCK: usize = 512 << 10;

/// One image.
struct Disk {
    file: File,
    bytes: u64,
    allocation: Allocation,
}

impl Disk {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let bytes = length(&file)?;
        let allocation = Allocation::of(&file, bytes)?;
        Ok(Self { file, bytes, allocation })
    }

    /// A block, with zeros for what no file system uses and behind the end.
    fn read(&self, index: u32, block: &mut Vec<u8>) -> io::Result<()> {
        block.clear();
        block.resize(BLOCK, 0);
        let at = u64::from(index) * BLOCK as u64;
        let there = usize::try_from(self.bytes.saturating_sub(at)).unwrap_or(usize::MAX).min(BLOCK);
        if there > 0 && !self.allocation.is_free(at, there as u64) {
            self.file.read_exact_at(&mut block[..there], at)?;
            self.allocation.clear(at, &mut block[..there]);
        }
        Ok(())
    }
}

/// The blocks of one image that another lacks.
pub(super) struct Changed {
    /// What they are of: the digest of the image, and that of the base.
    digest: String,
    disk: Disk,
    indices: Vec<u32>,
}

impl Changed {
    /// The blocks of `image` that hold something, of which `digest` tells what it is; with a `base`, those that differ from it.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub(super) fn new(digest: String, image: &Path, base: Option<&Path>) -> io::Result<Self> {
        let disk = Disk::open(image)?;
        let base = base.map(Disk::open).transpose()?;
        let longest = disk.bytes.max(base.as_ref().map_or(0, |base| base.bytes));
        let count = u32::try_from(longest.div_ceil(BLOCK as u64)).map_err(io::Error::other)?;
        let (mut block, mut before) = (Vec::new(), Vec::new());
        let mut indices = Vec::new();
        for index in 0..count {
            disk.read(index, &mut block)?;
            let differs = match &base {
                Some(base) => {
                    base.read(index, &mut before)?;
                    before != block
                }
                None => block.iter().any(|byte| *byte != 0),
            };
            if differs {
                indices.push(index);
            }
        }
        Ok(Self { digest, disk, indices })
    }
}

impl Blocks for Changed {
    fn digest(&self) -> &str {
        &self.digest
    }

    fn indices(&self) -> &[u32] {
        &self.indices
    }

    fn read(&self, index: u32) -> io::Result<Vec<u8>> {
        let mut block = Vec::new();
        self.disk.read(index, &mut block)?;
        Ok(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_hold_something_or_differ() {
        let dir = tempfile::tempdir().expect("a folder");
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        for (path, bytes, at) in
            [(&one, 5_u64 << 19, vec![0, 3 << 19]), (&two, (4_u64 << 19) + 100, vec![3 << 19, 4 << 19])]
        {
            let file = File::create(path).expect("made");
            file.set_len(bytes).expect("sized");
            for at in at {
                file.write_all_at(b"something", at).expect("written");
            }
        }
        let whole = Changed::new(String::new(), &two, None).expect("read");
        assert_eq!(whole.indices(), [3, 4]);
        let last = whole.read(4).expect("read");
        assert!(last.len() == BLOCK && last.starts_with(b"something") && last[100..].iter().all(|byte| *byte == 0));
        // What is zeros now must be said, too.
        assert_eq!(Changed::new(String::new(), &two, Some(&one)).expect("read").indices(), [0, 4]);
        assert_eq!(Changed::new(String::new(), &one, Some(&one)).expect("read").indices(), [] as [u32; 0]);
    }
}
