//! What to do with what is there already: which files stay, what is moved out of the way, what is copied, and which chunks must come.

use std::collections::HashMap;

use super::beneath::Found;
use super::entry::{Content, Entry, Kind, Node, TreePath, cell_length, cells_of};
use super::manifest::Manifest;
use crate::shipment::{BlockDigest, ShipmentError};

/// The chunks of a tree, each once however many files have it, in the order in which they first stand in the manifest.
#[derive(Debug)]
pub(super) struct Index {
    ids: HashMap<BlockDigest, u32>,
    /// Where each stands first: which entry, and which chunk of it.
    places: Vec<(u32, u32)>,
}

impl Index {
    pub(super) fn of(manifest: &Manifest) -> Result<Self, ShipmentError> {
        let mut index = Self { ids: HashMap::new(), places: Vec::new() };
        for (at, content) in files(manifest) {
            for (cell, digest) in content.chunks() {
                let next = u32::try_from(index.places.len()).unwrap_or(u32::MAX);
                let id = *index.ids.entry(*digest).or_insert(next);
                if id == next {
                    index.places.push((at, cell));
                } else if index.length(manifest, id) != cell_length(content.size, cell) {
                    return Err(ShipmentError::Protocol("one digest stands for chunks of two lengths"));
                }
            }
        }
        Ok(index)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Where chunk `id` stands first: which entry, and which chunk of it.
    pub(super) fn place(&self, id: u32) -> Option<(u32, u32)> {
        self.places.get(id as usize).copied()
    }

    /// The bytes of chunk `id`.
    pub(super) fn length(&self, manifest: &Manifest, id: u32) -> usize {
        let Some((at, cell)) = self.place(id) else { return 0 };
        manifest.entries()[at as usize].content().map_or(0, |content| cell_length(content.size, cell))
    }

    /// The digest of chunk `id`.
    pub(super) fn digest<'m>(&self, manifest: &'m Manifest, id: u32) -> Option<&'m BlockDigest> {
        let (at, cell) = self.place(id)?;
        manifest.entries()[at as usize].content()?.at(cell)
    }

    fn id(&self, digest: &BlockDigest) -> Option<u32> {
        self.ids.get(digest).copied()
    }
}

/// The files of a manifest: the numbers of their entries, and what they hold.
fn files(manifest: &Manifest) -> impl Iterator<Item = (u32, &Content)> {
    (0..).zip(manifest.entries()).filter_map(|(at, entry)| Some((at, entry.content()?)))
}

/// A chunk that is copied from one file to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Copy {
    /// The number of what was found, and which chunk of it.
    pub(super) from: (u32, u32),
    /// The number of the entry, and which chunk of it.
    pub(super) to: (u32, u32),
}

/// What is done with the target before anything travels.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// What was found and is in the way: moved aside, with all that is below it, used where it can be, and removed then.
    pub(super) aside: Vec<u32>,
    /// For each entry, whether what stands there is used for it.
    pub(super) kept: Vec<bool>,
    /// What the files have already, elsewhere.
    pub(super) copies: Vec<Copy>,
    /// Chunks of files that are kept, which must become holes: entry, and which chunk of it.
    pub(super) zeros: Vec<(u32, u32)>,
    /// Chunks that must come, and where they go: chunk, entry, which chunk of that. Sorted.
    pub(super) lacking: Vec<(u32, u32, u32)>,
}

impl Plan {
    /// Which chunks must come.
    pub(super) fn wants(&self, index: &Index) -> Vec<bool> {
        let mut wants = vec![false; index.len()];
        self.lacking.iter().for_each(|(id, ..)| wants[*id as usize] = true);
        wants
    }

    /// Where chunk `id` goes.
    pub(super) fn places(&self, id: u32) -> impl Iterator<Item = (u32, u32)> {
        let from = self.lacking.partition_point(|(other, ..)| *other < id);
        self.lacking[from..].iter().take_while(move |(other, ..)| *other == id).map(|(_, at, cell)| (*at, *cell))
    }
}

/// What was found, with the questions that are asked of it.
struct Old<'f> {
    found: &'f [Found],
    /// For each of them, how many of its names are in the tree; 0 for all names but the first.
    names: Vec<u64>,
}

impl<'f> Old<'f> {
    fn new(found: &'f [Found]) -> Self {
        let mut old = Self { found, names: vec![0; found.len()] };
        for at in 0..found.len() {
            let first = old.first(at);
            old.names[first] += 1;
        }
        old
    }

    fn at(&self, path: &[u8]) -> Option<usize> {
        self.found.binary_search_by(|found| found.entry.path.as_bytes().cmp(path)).ok()
    }

    /// The number of the first name of the same thing.
    fn first(&self, at: usize) -> usize {
        match self.found[at].entry.node {
            Node::HardLink(to) => to as usize,
            Node::Inode(_) => at,
        }
    }

    /// What can be used for `entry`: of the same kind, and with no name outside of the tree, which would change with it.
    fn usable(&self, entry: &Entry) -> Option<usize> {
        let at = self.first(self.at(entry.path.as_bytes())?);
        let (Node::Inode(new), Node::Inode(now)) = (&entry.node, &self.found[at].entry.node) else { return None };
        let is_same = match (&new.kind, &now.kind) {
            (Kind::File(_), Kind::File(_)) => true,
            (new, now) => new == now,
        };
        (is_same && (entry.is_dir() || self.names[at] == self.found[at].links)).then_some(at)
    }

    fn content(&self, at: usize) -> Option<&Content> {
        self.found[at].entry.content()
    }
}

/// Decides. `found` is in the order of a manifest, and says what its files hold.
pub(super) fn plan(manifest: &Manifest, index: &Index, found: &[Found]) -> Plan {
    let (entries, old) = (manifest.entries(), Old::new(found));
    // For each entry, what is used for it; for each thing that was found, what it is used for.
    let mut uses: Vec<Option<usize>> = vec![None; entries.len()];
    let mut used: Vec<Option<usize>> = vec![None; found.len()];
    for (at, entry) in entries.iter().enumerate() {
        if let Some(thing) = old.usable(entry).filter(|thing| used[*thing].is_none()) {
            uses[at] = Some(thing);
            used[thing] = Some(at);
        }
    }
    let sources = sources(manifest, index, &old, &mut uses, &mut used);

    let mut plan = Plan { kept: vec![false; entries.len()], ..Plan::default() };
    for (at, entry) in (0..).zip(entries) {
        let number = at as usize;
        plan.kept[number] = match &entry.node {
            Node::Inode(_) => uses[number].is_some(),
            Node::HardLink(to) => {
                let thing = old.at(entry.path.as_bytes()).map(|thing| old.first(thing));
                thing.is_some() && uses[*to as usize] == thing
            }
        };
        let Some(content) = entry.content() else { continue };
        let now = uses[number].and_then(|thing| old.content(thing));
        for (cell, digest) in content.chunks() {
            if now.and_then(|now| now.at(cell)) == Some(digest) {
                continue;
            }
            let Some(id) = index.id(digest) else { continue };
            match sources.get(&id).copied().flatten() {
                Some(from) => plan.copies.push(Copy { from, to: (at, cell) }),
                None => plan.lacking.push((id, at, cell)),
            }
        }
        let cells = cells_of(content.size);
        let filled = now.into_iter().flat_map(Content::chunks).map(|(cell, _)| cell);
        plan.zeros.extend(
            filled.filter(|cell| u64::from(*cell) < cells && content.at(*cell).is_none()).map(|cell| (at, cell)),
        );
    }
    plan.lacking.sort_unstable();

    let mut is_aside = vec![false; found.len()];
    for (number, thing) in (0..).zip(found) {
        let path = &thing.entry.path;
        if manifest.find(path.as_bytes()).is_some_and(|at| plan.kept[at]) {
            continue;
        }
        is_aside[number as usize] = true;
        // What is in a folder goes with it.
        if !path.is_root() && !old.at(path.split().0).is_some_and(|folder| is_aside[folder]) {
            plan.aside.push(number);
        }
    }
    plan
}

/// Where the chunks are, of which some file that wants them does not have them at their place; nothing for those that are nowhere.
///
/// A chunk that stays where it is can be copied at any time, and one in a file that is moved aside until that is removed. One that is
/// written over in a file that stays cannot: such a file is not used any more, but moved aside as well.
fn sources(
    manifest: &Manifest,
    index: &Index,
    old: &Old<'_>,
    uses: &mut [Option<usize>],
    used: &mut [Option<usize>],
) -> HashMap<u32, Option<(u32, u32)>> {
    let wanted = |at: usize, cell| manifest.entries()[at].content().and_then(|content| content.at(cell));
    let mut sources: HashMap<u32, Option<(u32, u32)>> = HashMap::new();
    for (at, content) in files(manifest) {
        let now = uses[at as usize].and_then(|thing| old.content(thing));
        let wrong = content.chunks().filter(|(cell, digest)| now.and_then(|now| now.at(*cell)) != Some(*digest));
        sources.extend(wrong.filter_map(|(_, digest)| Some((index.id(digest)?, None))));
    }
    let files: Vec<usize> = (0..old.found.len()).filter(|at| old.content(*at).is_some()).collect();
    for staying in [true, false] {
        for thing in files.iter().copied() {
            for (cell, digest) in old.content(thing).into_iter().flat_map(Content::chunks) {
                let stays = used[thing].is_some_and(|at| wanted(at, cell) == Some(digest));
                if (staying && stays) || (!staying && used[thing].is_none()) {
                    offer(&mut sources, index, digest, (thing, cell));
                }
            }
        }
    }
    for thing in files {
        let Some(at) = used[thing] else { continue };
        let mut is_needed = false;
        for (cell, digest) in old.content(thing).into_iter().flat_map(Content::chunks) {
            is_needed |= wanted(at, cell) != Some(digest) && offer(&mut sources, index, digest, (thing, cell));
        }
        if is_needed {
            (uses[at], used[thing]) = (None, None);
            // What it had at its place is now copied like everything else.
            for (cell, digest) in old.content(thing).into_iter().flat_map(Content::chunks) {
                if let Some(id) = index.id(digest) {
                    sources.entry(id).or_insert(None);
                }
                offer(&mut sources, index, digest, (thing, cell));
            }
        }
    }
    sources
}

/// Takes a chunk as source, if it is wanted and none is known.
fn offer(
    sources: &mut HashMap<u32, Option<(u32, u32)>>,
    index: &Index,
    digest: &BlockDigest,
    (thing, cell): (usize, u32),
) -> bool {
    let Some(source @ None) = index.id(digest).and_then(|id| sources.get_mut(&id)) else { return false };
    *source = Some((u32::try_from(thing).unwrap_or(u32::MAX), cell));
    true
}

/// Where things are while some are moved aside into the folder `attic`.
pub(super) struct Aside<'p> {
    attic: TreePath,
    moved: HashMap<&'p [u8], usize>,
}

impl<'p> Aside<'p> {
    pub(super) fn new(plan: &Plan, found: &'p [Found], attic: TreePath) -> Self {
        let moved = (0..).zip(&plan.aside).map(|(n, at)| (found[*at as usize].entry.path.as_bytes(), n)).collect();
        Self { attic, moved }
    }

    /// Where the thing with this path is now; nothing if that has become too deep for a path.
    pub(super) fn now(&self, path: &TreePath) -> Option<TreePath> {
        let bytes = path.as_bytes();
        let ends = (0..bytes.len()).filter(|at| bytes[*at] == b'/').chain([bytes.len()]);
        for end in ends {
            if let Some(number) = self.moved.get(&bytes[..end]) {
                let mut now = self.attic.join(number.to_string().as_bytes()).ok()?.as_bytes().to_vec();
                now.extend_from_slice(&bytes[end..]);
                return TreePath::parse(&now).ok();
            }
        }
        Some(path.clone())
    }
}
