//! All of a tree in one list, as bytes and back. There is one encoding of a tree: what decodes encodes to the same bytes.

use std::collections::HashSet;
use std::io::{self, Read, Write};

use super::entry::{
    Content, Device, Entry, FILE_BYTES, Inode, Kind, LINK, NAME, Node, PATH, PathError, Run, Time, TreePath,
    XATTR_VALUE, XATTRS, Xattr, Xattrs, cells_of,
};
use crate::shipment::BlockDigest;

/// Most names of a tree.
pub const ENTRIES: u32 = 8 << 20;
/// Most chunks of all its files together: 2 TiB of data. What is larger travels in the block form.
pub const CHUNKS: u64 = 32 << 20;

const DIR: u8 = 0;
const FILE: u8 = 1;
const SYMLINK: u8 = 2;
const HARD_LINK: u8 = 3;
const CHAR: u8 = 4;
const BLOCK_DEVICE: u8 = 5;
const FIFO: u8 = 6;
const SOCKET: u8 = 7;

/// A tree: its names in the order of their bytes, the root first. So a folder stands before what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    entries: Vec<Entry>,
}

/// Why bytes are no manifest.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// They cannot be read, or end too soon.
    #[error("it cannot be read")]
    Read(#[from] io::Error),
    /// A path is none.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Something else is not as it must be.
    #[error("{0}")]
    Malformed(&'static str),
}

impl Manifest {
    /// Makes one of its entries, in order.
    ///
    /// # Errors
    /// They are not a tree in the canonical order.
    pub fn new(entries: Vec<Entry>) -> Result<Self, DecodeError> {
        let mut manifest = Self { entries: Vec::new() };
        let mut chunks = 0;
        for entry in entries {
            manifest.push(entry, &mut chunks)?;
        }
        if manifest.entries.is_empty() { Err(DecodeError::Malformed("a tree has no root")) } else { Ok(manifest) }
    }

    /// Its names. The root is the first.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The number of the entry at `path`.
    #[must_use]
    pub fn find(&self, path: &[u8]) -> Option<usize> {
        self.entries.binary_search_by(|entry| entry.path.as_bytes().cmp(path)).ok()
    }

    /// Bytes of all files together, holes counted.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.entries.iter().filter_map(Entry::content).fold(0, |sum, content| sum.saturating_add(content.size))
    }

    /// The digest over the whole.
    #[must_use]
    pub fn digest(&self) -> BlockDigest {
        self.summary().0
    }

    /// The digest over the whole, and the bytes of its encoding.
    pub(crate) fn summary(&self) -> (BlockDigest, u64) {
        let mut hash = Hashing::new();
        // A hash takes everything.
        let _ = self.encode(&mut hash);
        (hash.finish(), hash.length)
    }

    /// Adds an entry, if it can stand there.
    fn push(&mut self, entry: Entry, chunks: &mut u64) -> Result<(), DecodeError> {
        let bad = DecodeError::Malformed;
        match self.entries.last() {
            None if !entry.path.is_root() || !entry.is_dir() => return Err(bad("a tree does not begin with its root")),
            Some(last) if last.path >= entry.path => return Err(bad("the names of a tree are not in their order")),
            Some(_) => {
                let folder = self.find(entry.path.split().0).map(|at| &self.entries[at]);
                if !folder.is_some_and(Entry::is_dir) {
                    return Err(bad("a name is in no folder of the tree"));
                }
            }
            None => {}
        }
        match &entry.node {
            Node::HardLink(to) => match self.entries.get(*to as usize).map(|entry| &entry.node) {
                Some(Node::Inode(inode)) if inode.kind != Kind::Dir => {}
                _ => return Err(bad("a hard link leads to nothing that can have one")),
            },
            Node::Inode(inode) => check(inode)?,
        }
        if let Some(content) = entry.content() {
            *chunks += content.runs.iter().map(|run| run.chunks.len() as u64).sum::<u64>();
        }
        if *chunks > CHUNKS || self.entries.len() as u64 >= u64::from(ENTRIES) {
            return Err(bad("a tree is too large"));
        }
        self.entries.push(entry);
        Ok(())
    }

    /// Writes it.
    ///
    /// # Errors
    /// What it is written to fails.
    pub fn encode(&self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(&u32::try_from(self.entries.len()).unwrap_or(u32::MAX).to_le_bytes())?;
        let mut out = Vec::with_capacity(256);
        for entry in &self.entries {
            out.clear();
            encode_head(entry, &mut out);
            to.write_all(&out)?;
            let Some(content) = entry.content() else { continue };
            to.write_all(&content.size.to_le_bytes())?;
            to.write_all(&count(content.runs.len()))?;
            for run in &content.runs {
                to.write_all(&run.first.to_le_bytes())?;
                to.write_all(&count(run.chunks.len()))?;
                to.write_all(run.chunks.as_flattened())?;
            }
        }
        Ok(())
    }

    /// Reads one, and no byte more. Its memory grows with what really comes.
    ///
    /// # Errors
    /// The bytes are no manifest.
    pub fn decode(from: &mut dyn Read) -> Result<Self, DecodeError> {
        let mut from = Bytes { from, shared: HashSet::new() };
        let entries = from.u32()?;
        if entries == 0 || entries > ENTRIES {
            return Err(DecodeError::Malformed("a tree has no names, or too many"));
        }
        let (mut manifest, mut chunks) = (Self { entries: Vec::new() }, 0);
        for number in 0..entries {
            let entry = from.entry(number == 0, CHUNKS - chunks)?;
            manifest.push(entry, &mut chunks)?;
        }
        manifest.entries.shrink_to_fit();
        Ok(manifest)
    }
}

fn count(of: usize) -> [u8; 4] {
    u32::try_from(of).unwrap_or(u32::MAX).to_le_bytes()
}

/// Whether what stands there is within bounds, and in its one form.
fn check(inode: &Inode) -> Result<(), DecodeError> {
    let ensure = |good, what| if good { Ok(()) } else { Err(DecodeError::Malformed(what)) };
    ensure(inode.mode & !0o7777 == 0, "a mode has bits that nobody knows")?;
    // To chown this number means to leave it as it is.
    ensure(inode.uid != u32::MAX && inode.gid != u32::MAX, "an owner is none")?;
    ensure(inode.mtime.nanos < 1_000_000_000, "a time is none")?;
    ensure(inode.xattrs.len() <= XATTRS, "a file has too many attributes")?;
    ensure(inode.xattrs.is_sorted_by(|a, b| a.name < b.name), "attributes are not in their order")?;
    for xattr in inode.xattrs.iter() {
        ensure(Xattr::travels(&xattr.name) && xattr.value.len() <= XATTR_VALUE, "an attribute is none")?;
    }
    match &inode.kind {
        Kind::File(content) => {
            ensure(content.size <= FILE_BYTES, "a file is too large")?;
            let mut free = 0;
            for run in &content.runs {
                ensure(u64::from(run.first) >= free && !run.chunks.is_empty(), "chunks are not in their order")?;
                let end = u64::from(run.first) + run.chunks.len() as u64;
                ensure(end <= cells_of(content.size), "a chunk lies behind the end of its file")?;
                // Two runs with nothing between them are one.
                free = end + 1;
            }
            Ok(())
        }
        Kind::Symlink(to) => {
            ensure(inode.mode == 0o777, "a symbolic link has a mode")?;
            ensure(!to.is_empty() && to.len() <= LINK && !to.contains(&0), "a symbolic link leads to no path")
        }
        Kind::Char(device) | Kind::Block(device) => {
            ensure(device.major < 1 << 12 && device.minor < 1 << 20, "a device has no such number")
        }
        Kind::Dir | Kind::Fifo | Kind::Socket => Ok(()),
    }
}

/// All of an entry but what a file holds.
fn encode_head(entry: &Entry, out: &mut Vec<u8>) {
    let short = |of: usize| u16::try_from(of).unwrap_or(u16::MAX).to_le_bytes();
    out.extend(short(entry.path.as_bytes().len()));
    out.extend(entry.path.as_bytes());
    let inode = match &entry.node {
        Node::HardLink(to) => {
            out.push(HARD_LINK);
            out.extend(to.to_le_bytes());
            return;
        }
        Node::Inode(inode) => inode,
    };
    out.push(match &inode.kind {
        Kind::Dir => DIR,
        Kind::File(_) => FILE,
        Kind::Symlink(_) => SYMLINK,
        Kind::Char(_) => CHAR,
        Kind::Block(_) => BLOCK_DEVICE,
        Kind::Fifo => FIFO,
        Kind::Socket => SOCKET,
    });
    out.extend(inode.mode.to_le_bytes());
    out.extend(inode.uid.to_le_bytes());
    out.extend(inode.gid.to_le_bytes());
    out.extend(inode.mtime.seconds.to_le_bytes());
    out.extend(inode.mtime.nanos.to_le_bytes());
    out.extend(short(inode.xattrs.len()));
    for xattr in inode.xattrs.iter() {
        out.push(u8::try_from(xattr.name.len()).unwrap_or(u8::MAX));
        out.extend(&*xattr.name);
        out.extend(count(xattr.value.len()));
        out.extend(&*xattr.value);
    }
    match &inode.kind {
        Kind::Symlink(to) => {
            out.extend(short(to.len()));
            out.extend(&**to);
        }
        Kind::Char(device) | Kind::Block(device) => {
            out.extend(device.major.to_le_bytes());
            out.extend(device.minor.to_le_bytes());
        }
        Kind::Dir | Kind::File(_) | Kind::Fifo | Kind::Socket => {}
    }
}

/// Reads the parts of a manifest.
struct Bytes<'r> {
    from: &'r mut dyn Read,
    /// Attributes that were read before: most files share theirs.
    shared: HashSet<Xattrs>,
}

impl Bytes<'_> {
    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.from.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn u8(&mut self) -> io::Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> io::Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> io::Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// So many bytes, if they are not more than `most`.
    fn bytes(&mut self, length: usize, most: usize) -> Result<Box<[u8]>, DecodeError> {
        if length > most {
            return Err(DecodeError::Malformed("a text is too long"));
        }
        let mut bytes = vec![0; length];
        self.from.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }

    fn entry(&mut self, is_root: bool, chunks: u64) -> Result<Entry, DecodeError> {
        let length = usize::from(self.u16()?);
        let path = self.bytes(length, PATH)?;
        let path = if is_root && path.is_empty() { TreePath::root() } else { TreePath::parse(&path)? };
        let kind = self.u8()?;
        if kind == HARD_LINK {
            return Ok(Entry { path, node: Node::HardLink(self.u32()?) });
        }
        let (mode, uid, gid) = (self.u16()?, self.u32()?, self.u32()?);
        let mtime = Time { seconds: i64::from_le_bytes(self.array()?), nanos: self.u32()? };
        let xattrs = self.xattrs()?;
        let kind = match kind {
            DIR => Kind::Dir,
            FILE => Kind::File(self.content(chunks)?),
            SYMLINK => {
                let length = usize::from(self.u16()?);
                Kind::Symlink(self.bytes(length, LINK)?)
            }
            CHAR => Kind::Char(Device { major: self.u32()?, minor: self.u32()? }),
            BLOCK_DEVICE => Kind::Block(Device { major: self.u32()?, minor: self.u32()? }),
            FIFO => Kind::Fifo,
            SOCKET => Kind::Socket,
            _ => return Err(DecodeError::Malformed("a name stands for something that nobody knows")),
        };
        Ok(Entry { path, node: Node::Inode(Inode { mode, uid, gid, mtime, xattrs, kind }) })
    }

    fn xattrs(&mut self) -> Result<Xattrs, DecodeError> {
        let number = usize::from(self.u16()?);
        if number > XATTRS {
            return Err(DecodeError::Malformed("a file has too many attributes"));
        }
        let mut all = Vec::with_capacity(number);
        for _ in 0..number {
            let length = usize::from(self.u8()?);
            let name = self.bytes(length, NAME)?;
            let length = self.u32()? as usize;
            all.push(Xattr { name, value: self.bytes(length, XATTR_VALUE)? });
        }
        let all = Xattrs::from(all);
        if let Some(shared) = self.shared.get(&all) {
            return Ok(shared.clone());
        }
        self.shared.insert(all.clone());
        Ok(all)
    }

    fn content(&mut self, most: u64) -> Result<Content, DecodeError> {
        let size = u64::from_le_bytes(self.array()?);
        let (mut runs, mut left) = (Vec::new(), most.min(cells_of(size)));
        for _ in 0..self.u32()? {
            let (first, number) = (self.u32()?, self.u32()?);
            left = match left.checked_sub(u64::from(number)) {
                Some(left) if number > 0 => left,
                _ => {
                    return Err(DecodeError::Malformed(
                        "a file has more chunks than it can have, or a run without any",
                    ));
                }
            };
            let mut chunks = Vec::new();
            for _ in 0..number {
                chunks.push(self.array()?);
            }
            chunks.shrink_to_fit();
            runs.push(Run { first, chunks });
        }
        runs.shrink_to_fit();
        Ok(Content { size, runs })
    }
}

/// The digest over the whole, made while the manifest passes.
pub(crate) struct Hashing {
    hash: blake3::Hasher,
    length: u64,
}

impl Hashing {
    pub(crate) fn new() -> Self {
        Self { hash: blake3::Hasher::new_derive_key("rocks shipment 1 whole tree"), length: 0 }
    }

    pub(crate) fn finish(&self) -> BlockDigest {
        *self.hash.finalize().as_bytes()
    }
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::shipment::BLOCK;

    fn xattrs() -> impl Strategy<Value = Xattrs> {
        proptest::collection::btree_map("user\\.[a-z]{1,4}", proptest::collection::vec(any::<u8>(), 0..20), 0..3)
            .prop_map(|map| {
                map.into_iter().map(|(n, v)| Xattr { name: n.into_bytes().into(), value: v.into() }).collect()
            })
    }

    fn kind() -> impl Strategy<Value = Kind> {
        let device = (0u32..1 << 12, 0u32..1 << 20).prop_map(|(major, minor)| Device { major, minor });
        let cells = proptest::collection::vec(proptest::option::of(proptest::array::uniform32(any::<u8>())), 0..9);
        prop_oneof![
            Just(Kind::Dir),
            Just(Kind::Dir),
            (cells, 1..=BLOCK as u64).prop_map(|(cells, last)| {
                let size = (cells.len() as u64 * BLOCK as u64).saturating_sub(BLOCK as u64 - last);
                Kind::File(Content::of(if cells.is_empty() { 0 } else { size }, cells))
            }),
            proptest::collection::vec(1u8.., 1..50).prop_map(|to| Kind::Symlink(to.into())),
            device.clone().prop_map(Kind::Char),
            device.prop_map(Kind::Block),
            Just(Kind::Fifo),
            Just(Kind::Socket),
        ]
    }

    fn inode() -> impl Strategy<Value = Inode> {
        (0u16..0o10000, 0..u32::MAX, 0..u32::MAX, (any::<i64>(), 0u32..1_000_000_000), xattrs(), kind()).prop_map(
            |(mode, uid, gid, (seconds, nanos), xattrs, kind)| {
                let mode = if matches!(kind, Kind::Symlink(_)) { 0o777 } else { mode };
                Inode { mode, uid, gid, mtime: Time { seconds, nanos }, xattrs, kind }
            },
        )
    }

    /// Any tree: names under folders that were made before, some of them hard links.
    pub(crate) fn manifest() -> impl Strategy<Value = Manifest> {
        let names = proptest::collection::vec((any::<prop::sample::Index>(), "[a-c./-]{1,3}", inode(), 0u8..5), 0..30);
        (inode(), names).prop_map(|(mut root, names)| {
            root.kind = Kind::Dir;
            root.mode &= 0o7777;
            let mut map = std::collections::BTreeMap::from([(TreePath::root(), (root, 0))]);
            for (folder, name, inode, link) in names {
                let folders: Vec<_> =
                    map.iter().filter(|(_, (i, _))| i.kind == Kind::Dir).map(|(p, _)| p.clone()).collect();
                if let Ok(path) = folder.get(&folders).join(name.as_bytes()) {
                    map.entry(path).or_insert((inode, link));
                }
            }
            let mut entries: Vec<Entry> = Vec::new();
            for (path, (inode, link)) in map {
                let first = entries.iter().position(|e| matches!(&e.node, Node::Inode(i) if i.kind != Kind::Dir));
                let node = match first {
                    Some(to) if link == 0 && inode.kind != Kind::Dir => Node::HardLink(to as u32),
                    _ => Node::Inode(inode),
                };
                entries.push(Entry { path, node });
            }
            Manifest::new(entries).expect("a tree")
        })
    }

    fn encoded(manifest: &Manifest) -> Vec<u8> {
        let mut out = Vec::new();
        manifest.encode(&mut out).expect("written");
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn a_manifest_survives(manifest in manifest()) {
            let bytes = encoded(&manifest);
            let mut rest = &bytes[..];
            let again = Manifest::decode(&mut rest).expect("read");
            prop_assert!(rest.is_empty());
            prop_assert_eq!(again.digest(), manifest.digest());
            prop_assert_eq!(&again, &manifest);
            for (at, entry) in manifest.entries().iter().enumerate() {
                prop_assert_eq!(manifest.find(entry.path.as_bytes()), Some(at));
            }
        }

        #[test]
        fn garbage_is_an_error_or_has_one_form(
            manifest in manifest(), spoil in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), cut in any::<prop::sample::Index>()
        ) {
            let mut bytes = encoded(&manifest);
            for (at, byte) in spoil {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let mut rest = &bytes[..];
            if let Ok(other) = Manifest::decode(&mut rest) {
                let used = bytes.len() - rest.len();
                prop_assert_eq!(&encoded(&other), &bytes[..used]);
            }
            let _ = Manifest::decode(&mut &bytes[..cut.index(bytes.len())]);
        }

        #[test]
        fn noise_is_no_manifest(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Manifest::decode(&mut &bytes[..]);
        }
    }

    #[test]
    fn what_is_no_tree_is_refused() {
        let thing = |kind| Inode {
            mode: 0o777,
            uid: 0,
            gid: 0,
            mtime: Time { seconds: 0, nanos: 0 },
            xattrs: Xattrs::from([]),
            kind,
        };
        let entry = |path: &str, kind| Entry {
            path: if path.is_empty() { TreePath::root() } else { TreePath::parse(path.as_bytes()).expect("a path") },
            node: Node::Inode(thing(kind)),
        };
        let link = |path: &str, to| Entry {
            path: TreePath::parse(path.as_bytes()).expect("a path"),
            node: Node::HardLink(to),
        };
        let root = || entry("", Kind::Dir);
        let run = |first, n| Run { first, chunks: vec![[1; 32]; n] };
        let file = |size, runs| Kind::File(Content { size, runs });
        let cell = BLOCK as u64;
        for (entries, why) in [
            (vec![], "nothing"),
            (vec![entry("a", Kind::Dir)], "no root"),
            (vec![entry("", Kind::Fifo)], "a root that is no folder"),
            (vec![root(), root()], "two roots"),
            (vec![root(), entry("b", Kind::Fifo), entry("a", Kind::Fifo)], "order"),
            (vec![root(), entry("a", Kind::Fifo), entry("a", Kind::Fifo)], "twice"),
            (vec![root(), entry("a/b", Kind::Fifo)], "no folder"),
            (
                vec![root(), entry("a", Kind::Symlink(b"/etc".as_slice().into())), entry("a/b", Kind::Fifo)],
                "through a link",
            ),
            (vec![root(), link("a", 0)], "a link to a folder"),
            (vec![root(), link("a", 1)], "a link to itself"),
            (vec![root(), entry("a", Kind::Fifo), link("b", 1), link("c", 2)], "a link to a link"),
            (vec![root(), entry("a", file(cell, vec![run(1, 1)]))], "behind the end"),
            (vec![root(), entry("a", file(9 * cell, vec![run(1, 1), run(2, 1)]))], "two runs that are one"),
            (vec![root(), entry("a", file(9 * cell, vec![run(4, 1), run(2, 1)]))], "runs out of order"),
            (vec![root(), entry("a", file(FILE_BYTES + 1, vec![]))], "too large"),
            (vec![root(), entry("a", Kind::Char(Device { major: 4096, minor: 0 }))], "no such device"),
            (vec![root(), entry("a", Kind::Symlink(Box::default()))], "a link to nowhere"),
        ] {
            assert!(Manifest::new(entries).is_err(), "{why}");
        }
        let good =
            vec![root(), entry("a", Kind::Dir), entry("a-b", Kind::Fifo), entry("a/b", Kind::Fifo), link("a/c", 2)];
        assert!(Manifest::new(good).is_ok());
        // A count that promises more than there is takes no memory.
        let mut huge = ENTRIES.to_le_bytes().to_vec();
        huge.extend([0; 3]);
        assert!(matches!(Manifest::decode(&mut &huge[..]), Err(DecodeError::Read(_))));
    }
}
