//! A tree on a disk that boots: what stands before the root (boot code, partition table, the partitions of the firmware and the boot
//! loader) as blocks, then the root's files as a tree, onto a disk of any size.
//!
//! It is one shipment in the block form and one in the tree form over the same stream, with a word before both. Between them the receiver gives
//! the root, which is the last partition, all the room that its disk has.

mod table;

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::Serialize;

pub use self::table::TableError;
use crate::image::{Features, features, length};
use crate::shipment::wire::{Message, read_raw, refuse, write_raw};
use crate::shipment::{self, BLOCK, IMAGE_BYTES, Receiver, Sender, ShipmentError, Source, Stream, Target, Tell};
use crate::tree::{self, ExtImage, Findings, Origin, TreeReceiver, TreeSender, TreeTarget};

/// The first message, beside those of the two forms.
const KIND: u8 = 15;
/// What it begins with.
const MAGIC: &[u8; 8] = b"rocksboo";
const VERSION: u16 = 1;

/// What was shipped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shipped {
    /// What stands before the root.
    pub front: shipment::Shipped,
    /// The root.
    #[serde(flatten)]
    pub tree: tree::Shipped,
}

/// What comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    /// Where the root begins, in bytes.
    root: u64,
    /// What its file system is like.
    features: Features,
}

fn protocol(what: &'static str) -> ShipmentError {
    ShipmentError::Protocol(what)
}

impl Layout {
    fn write(self, to: &mut dyn Write) -> Result<(), ShipmentError> {
        let mut body = MAGIC.to_vec();
        body.extend(VERSION.to_le_bytes());
        body.extend(self.root.to_le_bytes());
        let Features { compat, incompat, ro_compat, block, inode } = self.features;
        [compat, incompat, ro_compat, block, inode].iter().for_each(|word| body.extend(word.to_le_bytes()));
        write_raw(to, KIND, &body)
    }

    fn read(from: &mut dyn Read) -> Result<Self, ShipmentError> {
        let (kind, body) = read_raw(from)?;
        match kind {
            KIND => Self::parse(&body),
            0 => Err(protocol("it ships in the block form, and this end waits for a bootable tree")),
            9 => Err(protocol("it ships in the tree form, and this end waits for a bootable tree")),
            _ => match Message::parse(kind, body)? {
                Message::Refuse(reason) => Err(ShipmentError::Refused(reason)),
                _ => Err(protocol("a shipment begins otherwise")),
            },
        }
    }

    fn parse(body: &[u8]) -> Result<Self, ShipmentError> {
        let rest = body.strip_prefix(MAGIC).ok_or(protocol("this is not a shipment of a bootable tree"))?;
        let (version, rest) = rest.split_first_chunk::<2>().ok_or(protocol("the first message is short"))?;
        if u16::from_le_bytes(*version) != VERSION {
            return Err(protocol("it speaks another version; use the same version at both ends"));
        }
        let (root, rest) = rest.split_first_chunk::<8>().ok_or(protocol("the first message is short"))?;
        let root = u64::from_le_bytes(*root);
        if !root.is_multiple_of(BLOCK as u64) || root == 0 || root > IMAGE_BYTES {
            return Err(protocol("the root begins where none can"));
        }
        let (words, []) = rest.as_chunks::<4>() else { return Err(protocol("the first message is long")) };
        let [compat, incompat, ro_compat, block, inode] = words else {
            return Err(protocol("the first message is short"));
        };
        let number = |word: &[u8; 4]| u32::from_le_bytes(*word);
        let features = Features {
            compat: number(compat),
            incompat: number(incompat),
            ro_compat: number(ro_compat),
            block: number(block),
            inode: number(inode),
        };
        // They become words of a command.
        if !matches!(features.block, 1024 | 2048 | 4096) || !matches!(features.inode, 128 | 256 | 512 | 1024) {
            return Err(protocol("its file system is of a kind that is not made here"));
        }
        Ok(Self { root, features })
    }
}

/// A disk image whose root is shipped as a tree.
#[derive(Debug)]
pub struct BootImage {
    front: Source,
    tree: ExtImage,
    layout: Layout,
}

impl BootImage {
    /// Opens the disk image at `path`.
    ///
    /// # Errors
    /// It cannot be read, has no root that can be shipped as a tree, or that is not the last partition of a table that is known.
    pub fn open(path: &Path) -> Result<Self, ShipmentError> {
        let fail = |why: &dyn std::fmt::Display| ShipmentError::Source(format!("{}: {why}", path.display()));
        let file = File::open(path).map_err(|error| fail(&error))?;
        let tree = ExtImage::root_of(path)?;
        let place = tree.place();
        let head = head(&file, length(&file).map_err(|error| fail(&error))?).map_err(|error| fail(&error))?;
        table::check(&head, place.start).map_err(|error| fail(&error))?;
        if !place.start.is_multiple_of(BLOCK as u64) {
            return Err(fail(&"its root does not begin at a multiple of 64 KiB; ship it in the block form"));
        }
        let features = features(&file, &place).map_err(|error| fail(&error))?;
        let features = features.ok_or_else(|| fail(&"its root has no superblock"))?;
        let front = Source::front(path, place.start)?;
        Ok(Self { front, tree, layout: Layout { root: place.start, features } })
    }

    /// Reads all of it and makes the manifests, which serve for as many attempts as are needed.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn sender(&mut self, tell: Tell<'_>) -> Result<BootSender<'_>, ShipmentError> {
        let front = Sender::new(&self.front, tell)?;
        Ok(BootSender { front, tree: TreeSender::new(&mut self.tree, tell)?, layout: self.layout })
    }
}

/// Ships one disk.
pub struct BootSender<'s> {
    front: Sender<'s>,
    tree: TreeSender<'s>,
    layout: Layout,
}

impl BootSender<'_> {
    /// Set to true, they end what is under way.
    #[must_use]
    pub fn stops(&self) -> [Arc<AtomicBool>; 2] {
        [self.front.stop(), self.tree.stop()]
    }

    /// Ships it over one connection.
    ///
    /// # Errors
    /// See [`ShipmentError`]; if the connection is what failed, another attempt goes on where this one stopped.
    pub fn run(&self, stream: &mut dyn Stream, tell: Tell<'_>) -> Result<Shipped, ShipmentError> {
        self.layout.write(stream)?;
        Ok(Shipped { front: self.front.run(stream, tell)?, tree: self.tree.run(stream, tell)? })
    }
}

/// Where a root is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The disk.
    pub disk: PathBuf,
    /// Its place there, in bytes.
    pub bytes: Range<u64>,
    /// What its file system may have: nothing that the source's has not, so that the same boot loader reads it.
    pub features: Features,
}

/// Makes the file system for a root, when it is known where it is and what it is called. What an earlier attempt left must stay.
pub type RootGround<'g> = Box<dyn Fn(&Root, &Origin) -> Result<TreeTarget, ShipmentError> + Send + Sync + 'g>;

/// Takes one disk.
pub struct BootReceiver<'g> {
    disk: PathBuf,
    ground: RootGround<'g>,
}

impl<'g> BootReceiver<'g> {
    /// Takes it onto the disk (a device, or a file that has its size already) at `disk`.
    ///
    /// # Errors
    /// There is none.
    pub fn new(disk: &Path, ground: RootGround<'g>) -> Result<Self, ShipmentError> {
        // Nothing is made by mistake: an empty file has no room for a root.
        OpenOptions::new().read(true).write(true).open(disk).map_err(|error| on(disk)(&error))?;
        Ok(Self { disk: disk.to_owned(), ground })
    }

    /// Takes it over one connection. What could not be made as it should be, and was tolerated, comes with the result.
    ///
    /// # Errors
    /// See [`ShipmentError`]. What arrived stays, and another attempt finds it there.
    pub fn run(&self, stream: &mut dyn Stream, tell: Tell<'_>) -> Result<(Shipped, Findings), ShipmentError> {
        let layout = Layout::read(stream).inspect_err(|error| refuse(stream, error))?;
        let front = Receiver::new(Target::front(&self.disk)?, &[])?.run(stream, tell)?;
        let ground = |origin: &Origin| {
            let bytes = self.lay_out(layout.root)?;
            (self.ground)(&Root { disk: self.disk.clone(), bytes, features: layout.features }, origin)
        };
        let (tree, findings) = TreeReceiver::onto(Box::new(ground)).run(stream, tell)?;
        Ok((Shipped { front, tree }, findings))
    }

    /// Gives the root, which begins at byte `root`, the room that there is, and says where it is then.
    fn lay_out(&self, root: u64) -> Result<Range<u64>, ShipmentError> {
        let fail = on(&self.disk);
        let disk = OpenOptions::new().read(true).write(true).open(&self.disk).map_err(|error| fail(&error))?;
        let bytes = length(&disk).map_err(|error| fail(&error))?;
        let head = head(&disk, bytes).map_err(|error| fail(&error))?;
        let laid = table::lay_out(&head, root, bytes).map_err(|error| fail(&error))?;
        let written = laid.writes.iter().try_for_each(|(at, bytes)| disk.write_all_at(bytes, *at));
        written.and_then(|()| disk.sync_all()).map_err(|error| fail(&error))?;
        let _ = rustix::fs::fadvise(&disk, 0, None, rustix::fs::Advice::DontNeed);
        for (at, wanted) in &laid.writes {
            let mut there = vec![0; wanted.len()];
            disk.read_exact_at(&mut there, *at).map_err(|error| fail(&error))?;
            if there != *wanted {
                return Err(ShipmentError::Damaged { block: at / BLOCK as u64 });
            }
        }
        Ok(laid.root)
    }
}

fn on(disk: &Path) -> impl Fn(&dyn std::fmt::Display) -> ShipmentError {
    move |why| ShipmentError::Target(format!("{}: {why}", disk.display()))
}

/// As much of a disk of `bytes` as can hold a partition table.
fn head(disk: &File, bytes: u64) -> io::Result<Vec<u8>> {
    let mut head = vec![0; table::TABLE.min(usize::try_from(bytes).unwrap_or(usize::MAX))];
    disk.read_exact_at(&mut head, 0)?;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FEATURES: Features = Features { compat: 0x3c, incompat: 0x2c2, ro_compat: 0x46b, block: 4096, inode: 256 };

    #[test]
    fn the_word_survives_and_the_forms_do_not_mix() {
        let layout = Layout { root: 4 << 20, features: FEATURES };
        let mut out = Vec::new();
        layout.write(&mut out).expect("written");
        assert_eq!(Layout::read(&mut &out[..]).expect("read"), layout);
        // An end that knows neither says so.
        assert!(matches!(Message::read(&mut &out[..]), Err(ShipmentError::Protocol(_))));
        let mut hello = Vec::new();
        Message::Hello { bytes: 5, digest: [7; 32], is_based: false }.write(&mut hello).expect("written");
        assert!(
            matches!(Layout::read(&mut &hello[..]), Err(ShipmentError::Protocol(what)) if what.contains("block form"))
        );
        for bad in [
            Layout { root: 0, ..layout },
            Layout { root: 4097, ..layout },
            Layout { root: u64::MAX << 16, ..layout },
            Layout { features: Features { block: 512, ..FEATURES }, ..layout },
            Layout { features: Features { inode: 0, ..FEATURES }, ..layout },
        ] {
            let mut out = Vec::new();
            bad.write(&mut out).expect("written");
            assert!(Layout::read(&mut &out[..]).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = Layout::parse(&bytes);
            let _ = Layout::parse(&[&MAGIC[..], &VERSION.to_le_bytes(), &bytes].concat());
        }
    }
}
