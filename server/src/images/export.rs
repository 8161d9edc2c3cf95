//! Images as files: raw as they are kept, or qcow2 (version 3, not compressed), which leaves out what holds nothing.
//!
//! What a qcow2 file has at which place is known as soon as it is known which clusters hold something: so it is written from its beginning to
//! its end, into a pipe as well as into a file. First come the header and the list of reference counts, then the tables, then the
//! clusters in the order of the disk.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::ImageError;
use super::out::Out;

/// Bytes of a cluster, and their binary logarithm.
const CLUSTER: u64 = 1 << CLUSTER_BITS;
const CLUSTER_BITS: u32 = 16;
/// Clusters that one table of the second level names.
const ENTRIES: u64 = CLUSTER / 8;
/// Clusters whose references one block counts, in 16 bits each.
const COUNTS: u64 = CLUSTER / 2;
/// Nobody else refers to that cluster.
const COPIED: u64 = 1 << 63;
/// Bytes of the header.
const HEADER: usize = 104;

/// How an image is written into a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Byte for byte.
    #[default]
    Raw,
    /// As QEMU keeps disks.
    Qcow2,
}

/// An image that is written into a file. Nobody may write to it meanwhile.
#[derive(Debug)]
pub struct Export {
    disk: File,
    /// Bytes of the disk.
    bytes: u64,
    layout: Option<Layout>,
}

impl Export {
    /// Opens the disk at `path`. For qcow2 it is read, to see what it holds.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open(path: &Path, format: Format) -> Result<Self, ImageError> {
        let disk = File::open(path).map_err(ImageError::io(path))?;
        let bytes = rocks_ship::image::length(&disk).map_err(ImageError::io(path))?;
        let layout = match format {
            Format::Raw => None,
            Format::Qcow2 => Some(Layout::new(bytes, filled(&disk, bytes).map_err(ImageError::io(path))?)),
        };
        Ok(Self { disk, bytes, layout })
    }

    /// Bytes of the file.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.layout.as_ref().map_or(self.bytes, |layout| layout.first_data() + layout.clusters.len() as u64 * CLUSTER)
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes it.
    ///
    /// # Errors
    /// The disk cannot be read, or `to` takes no more.
    pub fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        let mut cluster = vec![0; CLUSTER as usize];
        let Some(layout) = &self.layout else {
            return (0..self.bytes.div_ceil(CLUSTER)).try_for_each(|at| {
                let length = read(&self.disk, self.bytes, at, &mut cluster)?;
                to.write_all(&cluster[..length])
            });
        };
        layout.write_tables(to)?;
        layout.clusters.iter().try_for_each(|at| {
            let length = read(&self.disk, self.bytes, *at, &mut cluster)?;
            // The last one may be longer than the disk.
            cluster[length..].fill(0);
            to.write_all(&cluster)
        })
    }
}

/// Reads cluster `at`, and gives how much of it there is.
fn read(disk: &File, bytes: u64, at: u64, cluster: &mut [u8]) -> io::Result<usize> {
    let length = usize::try_from(bytes - at * CLUSTER).unwrap_or(usize::MAX).min(cluster.len());
    disk.read_exact_at(&mut cluster[..length], at * CLUSTER)?;
    Ok(length)
}

/// The clusters that hold something.
fn filled(disk: &File, bytes: u64) -> io::Result<Vec<u64>> {
    let mut cluster = vec![0; CLUSTER as usize];
    let mut all = Vec::new();
    for at in 0..bytes.div_ceil(CLUSTER) {
        let length = read(disk, bytes, at, &mut cluster)?;
        let (words, rest) = cluster[..length].as_chunks::<16>();
        if words.iter().any(|word| u128::from_ne_bytes(*word) != 0) || rest.iter().any(|byte| *byte != 0) {
            all.push(at);
        }
    }
    Ok(all)
}

/// Where everything stands in a qcow2 file, in clusters.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Layout {
    /// Bytes of the disk, in whole sectors.
    bytes: u64,
    /// The clusters that hold something, in order.
    clusters: Vec<u64>,
    /// Which tables of the second level there are, in order.
    tables: Vec<u64>,
    /// Entries of the table of the first level, and its clusters.
    first: (u64, u64),
    /// Clusters of the list of blocks of reference counts, and those blocks.
    counts: (u64, u64),
}

/// Clusters of the list of blocks of reference counts, and those blocks, in a file of so many `others`. They count themselves, too.
const fn counts(others: u64) -> (u64, u64) {
    let mut counts = (1, 1);
    loop {
        let blocks = (others + counts.0 + counts.1).div_ceil(COUNTS);
        let next = (blocks.div_ceil(ENTRIES), blocks);
        if next.0 == counts.0 && next.1 == counts.1 {
            return counts;
        }
        counts = next;
    }
}

impl Layout {
    fn new(bytes: u64, clusters: Vec<u64>) -> Self {
        let mut tables: Vec<u64> = clusters.iter().map(|at| at / ENTRIES).collect();
        tables.dedup();
        let entries = bytes.div_ceil(CLUSTER).div_ceil(ENTRIES);
        let first = (entries, entries.div_ceil(ENTRIES));
        let others = 1 + first.1 + tables.len() as u64 + clusters.len() as u64;
        Self { bytes: bytes.next_multiple_of(512), clusters, tables, first, counts: counts(others) }
    }

    /// Where the table of the first level stands.
    const fn first_at(&self) -> u64 {
        1 + self.counts.0 + self.counts.1
    }

    /// Where the tables of the second level stand.
    const fn tables_at(&self) -> u64 {
        self.first_at() + self.first.1
    }

    /// Where the disk's own clusters begin, in bytes.
    fn first_data(&self) -> u64 {
        (self.tables_at() + self.tables.len() as u64) * CLUSTER
    }

    fn header(&self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"QFI\xfb");
        put(4, &3_u32.to_be_bytes());
        put(20, &CLUSTER_BITS.to_be_bytes());
        put(24, &self.bytes.to_be_bytes());
        put(36, &u32::try_from(self.first.0).unwrap_or(u32::MAX).to_be_bytes());
        put(40, &(self.first_at() * CLUSTER).to_be_bytes());
        put(48, &CLUSTER.to_be_bytes());
        put(56, &u32::try_from(self.counts.0).unwrap_or(u32::MAX).to_be_bytes());
        // Counts of 16 bits.
        put(96, &4_u32.to_be_bytes());
        put(100, &u32::try_from(HEADER).unwrap_or(0).to_be_bytes());
        header
    }

    /// Writes all that comes before the disk's own clusters.
    fn write_tables(&self, to: &mut dyn Write) -> io::Result<()> {
        let mut out = Out::new(to);
        out.put(&self.header())?;
        out.fill(CLUSTER)?;
        for block in 0..self.counts.1 {
            out.put(&((1 + self.counts.0 + block) * CLUSTER).to_be_bytes())?;
        }
        out.fill(CLUSTER)?;
        // Each cluster of the file is referred to once.
        let all = self.tables_at() + self.tables.len() as u64 + self.clusters.len() as u64;
        (0..all).try_for_each(|_| out.put(&1_u16.to_be_bytes()))?;
        out.fill(CLUSTER)?;
        let mut tables = self.tables.iter().zip(self.tables_at()..).peekable();
        for table in 0..self.first.0 {
            let here = tables.next_if(|(there, _)| **there == table);
            out.put(&here.map_or(0, |(_, at)| (at * CLUSTER) | COPIED).to_be_bytes())?;
        }
        out.fill(CLUSTER)?;
        let mut clusters = self.clusters.iter().zip(self.first_data() / CLUSTER..).peekable();
        for table in &self.tables {
            for entry in 0..ENTRIES {
                let here = clusters.next_if(|(there, _)| **there == table * ENTRIES + entry);
                out.put(&here.map_or(0, |(_, at)| (at * CLUSTER) | COPIED).to_be_bytes())?;
            }
        }
        out.fill(CLUSTER)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What a disk of `bytes` with something in these clusters is as a qcow2 file.
    fn qcow2(disk: &Path, bytes: u64, clusters: &[u64]) -> Vec<u8> {
        let file = File::create(disk).expect("made");
        file.set_len(bytes).expect("made");
        for at in clusters {
            let text = format!("cluster {at}");
            file.write_all_at(text.as_bytes(), at * CLUSTER + 70).expect("written");
        }
        let export = Export::open(disk, Format::Qcow2).expect("opened");
        let mut out = Vec::new();
        export.write(&mut out).expect("written");
        assert_eq!(out.len() as u64, export.len());
        out
    }

    fn number(bytes: &[u8], at: u64) -> u64 {
        bytes[at as usize..].first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }

    #[test]
    fn every_cluster_stands_where_the_tables_say_and_is_counted_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let bytes = (2 * ENTRIES + 5) * CLUSTER - 1000;
        let filled = [0, 1, ENTRIES - 1, 2 * ENTRIES, 2 * ENTRIES + 4];
        let file = qcow2(&dir.path().join("disk"), bytes, &filled);
        assert_eq!(number(&file, 24), bytes.next_multiple_of(512));
        // Looked up as a reader does it.
        let first = number(&file, 40);
        let mut used = BTreeSet::from([0, first / CLUSTER, number(&file, 48) / CLUSTER]);
        for at in 0..2 * ENTRIES + 5 {
            let table = number(&file, first + at / ENTRIES * 8) & !COPIED;
            let cluster = if table == 0 { 0 } else { number(&file, table + at % ENTRIES * 8) & !COPIED };
            assert_eq!(filled.contains(&at), cluster != 0, "{at}");
            if cluster != 0 {
                used.extend([table / CLUSTER, cluster / CLUSTER]);
                let text = format!("cluster {at}");
                let there = cluster as usize + 70;
                assert_eq!(&file[there..there + text.len()], text.as_bytes());
            }
        }
        let counts = number(&file, number(&file, 48));
        used.insert(counts / CLUSTER);
        // All of the file, and nothing beyond it, is counted, and used.
        assert_eq!(used.len() as u64, file.len() as u64 / CLUSTER);
        let counted = |at: u64| file[(counts + at * 2) as usize + 1] == 1;
        assert!((0..COUNTS).all(|at| counted(at) == used.contains(&at)));
    }

    #[test]
    fn the_counts_count_themselves_however_many_there_are() {
        // Just below, at and above what one block of counts and one cluster of their list hold.
        for data in [0, COUNTS - 6, COUNTS - 5, COUNTS - 4, COUNTS, COUNTS * 3, COUNTS * ENTRIES + 1] {
            let (list, blocks) = counts(data);
            let all = data + list + blocks;
            assert!(blocks * COUNTS >= all && (blocks - 1) * COUNTS < all && list * ENTRIES >= blocks, "{data}");
        }
    }

    #[test]
    fn qemu_reads_the_same_disk() {
        let dir = tempfile::tempdir().expect("a folder");
        let (disk, file) = (dir.path().join("disk"), dir.path().join("file"));
        for (bytes, filled) in
            [(0, &[][..]), (1, &[]), (CLUSTER * 5, &[3]), ((3 * ENTRIES) * CLUSTER, &[0, 9000, 24000])]
        {
            std::fs::write(&file, qcow2(&disk, bytes, filled)).expect("written");
            let script = "command -v qemu-img >/dev/null || exit 77; qemu-img check -q -f qcow2 \"$2\" && \
                          qemu-img compare -f raw -F qcow2 \"$1\" \"$2\" 2>&1";
            let path = std::env::var("PATH").expect("a path");
            let (disk, file) = (disk.display().to_string(), file.display().to_string());
            let task = crate::process::Task {
                program: "/bin/sh",
                args: &["-c", script, "sh", &disk, &file],
                env: &[("PATH", &path)],
                folder: Path::new("/"),
                input: &[],
                identity: None,
                limit: std::time::Duration::from_secs(60),
                output_bytes: 4096,
            };
            let (said, success) = crate::process::run(&task).expect("run");
            let said = String::from_utf8_lossy(&said);
            if !success && said.is_empty() && !Path::new("/usr/bin/qemu-img").exists() {
                return;
            }
            assert!(success && said.contains("identical"), "{bytes}: {said}");
        }
    }
}
