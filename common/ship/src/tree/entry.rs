//! What a tree is made of: names that cannot lead anywhere else, and what stands under them.

use std::fmt;
use std::sync::Arc;

use crate::shipment::{BLOCK, BlockDigest};

/// Bytes of the longest path.
pub const PATH: usize = 4096;
/// Bytes of the longest name in it.
pub const NAME: usize = 255;
/// Bytes of the longest target of a symbolic link.
pub const LINK: usize = 4095;
/// The largest file, in bytes: what ext4 can have.
pub const FILE_BYTES: u64 = 16 << 40;
/// Most extended attributes of one file.
pub const XATTRS: usize = 256;
/// Bytes of the longest value of one.
pub const XATTR_VALUE: usize = 64 << 10;
/// The kinds of extended attributes that a file takes with it; the rest belongs to the file system that it lies on.
const XATTR_KINDS: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
const XATTR_ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

/// A path below the root of a tree: canonical, so that two that differ name two places, and no way out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreePath(Box<[u8]>);

/// Why something is no path of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It has no name.
    #[error("a path has an empty name")]
    Empty,
    /// It begins at the root of the machine.
    #[error("a path is absolute")]
    Absolute,
    /// It leads to itself or upwards.
    #[error("a path has `.` or `..` in it")]
    Dots,
    /// It has a byte that no path has.
    #[error("a path has a NUL in it")]
    Nul,
    /// It is longer than a path can be.
    #[error("a path or a name in it is too long")]
    Long,
}

impl TreePath {
    /// The root of the tree itself.
    #[must_use]
    pub fn root() -> Self {
        Self(Box::default())
    }

    /// Reads a path.
    ///
    /// # Errors
    /// It is none below the root, or not in its one canonical form.
    pub fn parse(bytes: &[u8]) -> Result<Self, PathError> {
        if bytes.len() > PATH {
            return Err(PathError::Long);
        }
        if bytes.first() == Some(&b'/') {
            return Err(PathError::Absolute);
        }
        for name in bytes.split(|byte| *byte == b'/') {
            Self::check(name)?;
        }
        Ok(Self(bytes.into()))
    }

    fn check(name: &[u8]) -> Result<(), PathError> {
        match name {
            b"" => Err(PathError::Empty),
            b"." | b".." => Err(PathError::Dots),
            _ if name.contains(&0) => Err(PathError::Nul),
            _ if name.len() > NAME => Err(PathError::Long),
            _ => Ok(()),
        }
    }

    /// The path of `name` in this folder.
    ///
    /// # Errors
    /// It is no name, or the path becomes too long.
    pub fn join(&self, name: &[u8]) -> Result<Self, PathError> {
        Self::check(name)?;
        if name.contains(&b'/') {
            return Err(PathError::Dots);
        }
        let mut all = self.0.to_vec();
        if !self.is_root() {
            all.push(b'/');
        }
        all.extend_from_slice(name);
        if all.len() > PATH { Err(PathError::Long) } else { Ok(Self(all.into())) }
    }

    /// Whether it is the root itself.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Its bytes; none for the root.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path of the folder that it is in, and its name there. The root has an empty name in itself.
    #[must_use]
    pub fn split(&self) -> (&[u8], &[u8]) {
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&self.0[..at], &self.0[at + 1..]),
            None => (&[], &self.0),
        }
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        // From the other end or from a disk: nothing in it may play with a terminal.
        String::from_utf8_lossy(&self.0).chars().try_for_each(|c| {
            let c = if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
            write!(f, "{c}")
        })
    }
}

/// A time: seconds since 1970, and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds, negative before 1970.
    pub seconds: i64,
    /// Nanoseconds, fewer than a second.
    pub nanos: u32,
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xattr {
    /// Its name, with its kind.
    pub name: Box<[u8]>,
    /// What it says.
    pub value: Box<[u8]>,
}

impl Xattr {
    /// Whether a file takes attributes of this name with it.
    #[must_use]
    pub fn travels(name: &[u8]) -> bool {
        let has_kind = XATTR_KINDS.iter().any(|kind| name.starts_with(kind) && name.len() > kind.len());
        name.len() <= NAME && !name.contains(&0) && (has_kind || XATTR_ACLS.contains(&name))
    }
}

/// Extended attributes, sorted by name. Most files of a tree share theirs with thousands of others.
pub type Xattrs = Arc<[Xattr]>;

/// A row of chunks without a hole between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The number of the first: it begins at so many times [`BLOCK`] bytes.
    pub first: u32,
    /// Their digests.
    pub chunks: Vec<BlockDigest>,
}

/// What a file holds: chunks of [`BLOCK`] bytes at multiples of that, the last one shorter. Those that hold only zeros are left out, whether
/// the file has a hole there or not, so that the same content has the same list on every file system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// Bytes of the file.
    pub size: u64,
    /// Its chunks, in order, with at least one chunk left out between two runs.
    pub runs: Vec<Run>,
}

/// How many chunks a file of `size` bytes has, holes counted.
pub(crate) const fn cells_of(size: u64) -> u64 {
    size.div_ceil(BLOCK as u64)
}

/// The bytes of chunk `cell` in a file of `size` bytes.
pub(crate) fn cell_length(size: u64, cell: u32) -> usize {
    crate::shipment::length_of(size, u64::from(cell))
}

impl Content {
    /// Makes it of the digests of all chunks in order.
    #[cfg(test)]
    pub(crate) fn of(size: u64, cells: impl IntoIterator<Item = Option<BlockDigest>>) -> Self {
        let mut content = Self { size, runs: Vec::new() };
        for (cell, digest) in (0..).zip(cells) {
            if let Some(digest) = digest {
                content.push(cell, digest);
            }
        }
        content
    }

    /// Adds a chunk behind all others.
    pub(crate) fn push(&mut self, cell: u32, digest: BlockDigest) {
        match self.runs.last_mut() {
            Some(run) if u64::from(run.first) + run.chunks.len() as u64 == u64::from(cell) => run.chunks.push(digest),
            _ => self.runs.push(Run { first: cell, chunks: vec![digest] }),
        }
    }

    /// Its chunks and their numbers.
    pub fn chunks(&self) -> impl Iterator<Item = (u32, &BlockDigest)> {
        self.runs.iter().flat_map(|run| (run.first..).zip(&run.chunks))
    }

    /// The digest of chunk `cell`; nothing if that holds only zeros.
    #[must_use]
    pub fn at(&self, cell: u32) -> Option<&BlockDigest> {
        let after = self.runs.partition_point(|run| run.first <= cell);
        let run = self.runs.get(after.checked_sub(1)?)?;
        run.chunks.get((cell - run.first) as usize)
    }
}

/// What kind of thing stands under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Dir,
    /// A file.
    File(Content),
    /// A symbolic link, and where it leads: bytes that nobody follows here.
    Symlink(Box<[u8]>),
    /// A character device.
    Char(Device),
    /// A block device.
    Block(Device),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// The numbers of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Which driver: 12 bits.
    pub major: u32,
    /// Which of its devices: 20 bits.
    pub minor: u32,
}

/// A thing with all that its file system says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    /// Who may do what, with the bits for setuid, setgid and sticky.
    pub mode: u16,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// When it was last changed.
    pub mtime: Time,
    /// Its extended attributes: access control lists, capabilities and SELinux labels too.
    pub xattrs: Xattrs,
    /// What it is.
    pub kind: Kind,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// Another name of the thing that the entry of this number, which comes earlier, is the first name of.
    HardLink(u32),
    /// A thing.
    Inode(Inode),
}

/// A name in the tree, and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path.
    pub path: TreePath,
    /// What it stands for.
    pub node: Node,
}

impl Entry {
    /// What the file holds, if it is the first name of one.
    #[must_use]
    pub fn content(&self) -> Option<&Content> {
        match &self.node {
            Node::Inode(Inode { kind: Kind::File(content), .. }) => Some(content),
            _ => None,
        }
    }

    pub(crate) fn content_mut(&mut self) -> Option<&mut Content> {
        match &mut self.node {
            Node::Inode(Inode { kind: Kind::File(content), .. }) => Some(content),
            _ => None,
        }
    }

    /// Whether it is a folder.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        matches!(&self.node, Node::Inode(Inode { kind: Kind::Dir, .. }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_that_lead_elsewhere_are_none() {
        for (bytes, why) in [
            (&b""[..], PathError::Empty),
            (b"/etc", PathError::Absolute),
            (b"a//b", PathError::Empty),
            (b"a/", PathError::Empty),
            (b"..", PathError::Dots),
            (b"a/../b", PathError::Dots),
            (b"./a", PathError::Dots),
            (b"a\0b", PathError::Nul),
            (&[b'a'; 256], PathError::Long),
        ] {
            assert_eq!(TreePath::parse(bytes), Err(why), "{}", String::from_utf8_lossy(bytes));
        }
        let long = vec![b'a'; 200].into_iter().chain([b'/']).cycle().take(PATH + 1).collect::<Vec<_>>();
        assert_eq!(TreePath::parse(&long), Err(PathError::Long));
        let path = TreePath::parse(b"a/...b\xff/c").unwrap();
        assert_eq!(path.split(), (&b"a/...b\xff"[..], &b"c"[..]));
        assert_eq!(TreePath::root().join(b"a").unwrap().split(), (&b""[..], &b"a"[..]));
        assert!(TreePath::root().join(b"a/b").is_err() && TreePath::root().join(b"..").is_err());
        assert_eq!(TreePath::parse(b"a\x1b[2J").unwrap().to_string(), "a\u{fffd}[2J");
    }

    proptest! {
        #[test]
        fn a_path_is_its_names(bytes in proptest::collection::vec(prop_oneof![Just(b'/'), Just(b'.'), any::<u8>()], 0..40)) {
            if let Ok(path) = TreePath::parse(&bytes) {
                let joined = bytes.split(|b| *b == b'/').try_fold(TreePath::root(), |path, name| path.join(name));
                prop_assert_eq!(joined, Ok(path));
            }
        }

        #[test]
        fn content_is_its_cells(cells in proptest::collection::vec(proptest::option::of(proptest::array::uniform32(any::<u8>())), 0..60)) {
            let content = Content::of(cells.len() as u64 * BLOCK as u64, cells.clone());
            for (at, cell) in (0..).zip(&cells) {
                prop_assert_eq!(content.at(at), cell.as_ref());
            }
            prop_assert_eq!(content.chunks().count(), cells.iter().flatten().count());
            prop_assert!(content.at(cells.len() as u32).is_none());
        }
    }

    #[test]
    fn only_attributes_of_the_file_travel() {
        for name in ["user.a", "security.capability", "security.selinux", "trusted.x", "system.posix_acl_default"] {
            assert!(Xattr::travels(name.as_bytes()), "{name}");
        }
        for name in ["", "user.", "system.nfs4_acl", "btrfs.compression", "user.a\0b"] {
            assert!(!Xattr::travels(name.as_bytes()), "{name}");
        }
    }
}
