//! Partition tables for a larger disk: the same partitions, and the last of them as large as the disk allows.

use std::ops::Range;

const SECTOR: usize = 512;
/// Partitions end at multiples of this, as they begin.
const ALIGN: u64 = 1 << 20;
/// The smallest root, in bytes.
const LEAST: u64 = 16 << 20;
/// Entries that a GPT may have here; the usual number is 128.
const ENTRIES: usize = 1024;
/// Most bytes that a table can have at the beginning of a disk.
pub(super) const TABLE: usize = 2 * SECTOR + ENTRIES * 128;

/// Why a table cannot be laid out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// It is no table, or one that is not known here.
    #[error("its partition table is not known: {0}")]
    Unknown(&'static str),
    /// The root has something behind it.
    #[error("its root is not the last partition on the disk; ship it in the block form")]
    NotLast,
    /// The disk is too small.
    #[error("the disk has {bytes} bytes; the root begins at byte {root} and needs at least {LEAST} more")]
    Small {
        /// Its bytes.
        bytes: u64,
        /// Where the root begins, in bytes.
        root: u64,
    },
}

fn word<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(word(bytes, at))
}

fn small(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(word(bytes, at))
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// CRC-32 as a GPT has it.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

/// A table for a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Laid {
    /// What is to be written, and where, in bytes.
    pub(super) writes: Vec<(u64, Vec<u8>)>,
    /// Where the root is then, in bytes.
    pub(super) root: Range<u64>,
}

/// The table at the beginning of a disk.
struct Table<'t> {
    head: &'t [u8],
    is_gpt: bool,
    /// Where its entries begin, how long each is, and how many there are.
    first: usize,
    step: usize,
    count: usize,
}

impl<'t> Table<'t> {
    fn of(head: &'t [u8]) -> Result<Self, TableError> {
        if head.get(510..512) != Some(&[0x55, 0xaa]) {
            return Err(TableError::Unknown("there is none"));
        }
        let is_gpt = head.get(512..520) == Some(b"EFI PART");
        let table = if is_gpt {
            let (count, step) = (small(head, 512 + 80) as usize, small(head, 512 + 84) as usize);
            if number(head, 512 + 72) != 2 || count == 0 || count > ENTRIES || step != 128 {
                return Err(TableError::Unknown("a GPT of an unusual form"));
            }
            Self { head, is_gpt, first: 2 * SECTOR, step, count }
        } else {
            Self { head, is_gpt, first: 446, step: 16, count: 4 }
        };
        let end = table.first + table.step * table.count;
        if head.len() < end { Err(TableError::Unknown("it is cut off")) } else { Ok(table) }
    }

    /// Where each partition's entry stands, and the sectors of the partition.
    fn partitions(&self) -> impl Iterator<Item = (usize, Range<u64>)> {
        let place = |at: usize| {
            let sectors = if self.is_gpt {
                let is_used = self.head[at..at + 16] != [0; 16];
                let end = number(self.head, at + 40).saturating_add(1);
                if is_used { number(self.head, at + 32)..end } else { 0..0 }
            } else {
                let start = u64::from(small(self.head, at + 8));
                let length = u64::from(small(self.head, at + 12));
                if self.head[at + 4] == 0 { 0..0 } else { start..start + length }
            };
            (at, sectors)
        };
        (self.first..).step_by(self.step).take(self.count).map(place).filter(|(_, sectors)| !sectors.is_empty())
    }

    /// The entry of the root, which begins at byte `root`, and is the last on the disk.
    fn root(&self, root: u64) -> Result<usize, TableError> {
        let mut found = None;
        for (at, sectors) in self.partitions() {
            if sectors.start.checked_mul(SECTOR as u64) == Some(root) {
                found = Some(at);
            } else if sectors.end > root / SECTOR as u64 {
                return Err(TableError::NotLast);
            }
        }
        let at = found.ok_or(TableError::Unknown("the root is not in it"))?;
        // What is behind the root in an extended partition would be cut off.
        let is_plain = self.is_gpt || !matches!(self.head[at + 4], 5 | 0xf | 0x85);
        if is_plain { Ok(at) } else { Err(TableError::Unknown("the root is in an extended partition")) }
    }
}

/// Looks whether the disk that begins with `head`, and whose root begins at byte `root`, can be shipped.
pub(super) fn check(head: &[u8], root: u64) -> Result<(), TableError> {
    Table::of(head)?.root(root).map(drop)
}

/// Lays the table in `head`, whose last partition begins at byte `root`, out on a disk of `bytes`: that gets all the room there is.
pub(super) fn lay_out(head: &[u8], root: u64, bytes: u64) -> Result<Laid, TableError> {
    let table = Table::of(head)?;
    let ours = table.root(root)?;
    let (sector, sectors) = (SECTOR as u64, bytes / SECTOR as u64);
    let list = table.first..table.first + table.step * table.count;
    // At the end of the disk a GPT has its copy: the list, and the header behind it.
    let length = if table.is_gpt { list.len().div_ceil(SECTOR) as u64 } else { 0 };
    let spare = if table.is_gpt { length + 1 } else { 0 };
    let most = if table.is_gpt { u64::MAX } else { u64::from(u32::MAX) * sector };
    let end = (bytes.saturating_sub(spare * sector) / ALIGN * ALIGN).min(most / ALIGN * ALIGN);
    if end < root.saturating_add(LEAST) {
        return Err(TableError::Small { bytes, root });
    }
    let mut new = head[..list.end.max(SECTOR)].to_vec();
    if !table.is_gpt {
        let count = u32::try_from((end - root) / sector).unwrap_or(u32::MAX);
        put(&mut new, ours + 12, &count.to_le_bytes());
        // Where it ends in cylinders: further than they can say.
        put(&mut new, ours + 5, &[0xfe, 0xff, 0xff]);
        return Ok(Laid { writes: vec![(0, new[..SECTOR].to_vec())], root: root..end });
    }
    put(&mut new, ours + 40, &(end / sector - 1).to_le_bytes());
    // The old table that protects the new one says that the whole disk is taken.
    let whole = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    if let Some(at) = (446..510).step_by(16).find(|at| new[at + 4] == 0xee) {
        put(&mut new, at + 12, &whole.to_le_bytes());
    }
    let list = new[list].to_vec();
    let mut header = new[SECTOR..2 * SECTOR].to_vec();
    let counted = (small(&header, 12) as usize).clamp(92, SECTOR);
    let mut seal = |mine: u64, other: u64, entries: u64| {
        put(&mut header, 24, &mine.to_le_bytes());
        put(&mut header, 32, &other.to_le_bytes());
        // The last sector that partitions may have.
        put(&mut header, 48, &(sectors - 1 - spare).to_le_bytes());
        put(&mut header, 72, &entries.to_le_bytes());
        put(&mut header, 88, &crc(&list).to_le_bytes());
        put(&mut header, 16, &[0; 4]);
        let sum = crc(&header[..counted]);
        put(&mut header, 16, &sum.to_le_bytes());
        header.clone()
    };
    let main = seal(1, sectors - 1, 2);
    let mut copy = list.clone();
    copy.resize(usize::try_from(length).unwrap_or(0) * SECTOR, 0);
    copy.extend(seal(sectors - 1, 1, sectors - 1 - length));
    put(&mut new, SECTOR, &main);
    Ok(Laid { writes: vec![(0, new), ((sectors - 1 - length) * sector, copy)], root: root..end })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_crc_is_the_one_that_is_meant() {
        assert_eq!(crc(b"123456789"), 0xcbf4_3926);
    }

    /// A disk of 64 MiB with a partition of one MiB, and a root behind it.
    fn disk(label: &str, path: &std::path::Path) -> Option<Vec<u8>> {
        std::fs::File::create(path).and_then(|file| file.set_len(64 << 20)).expect("made");
        let script = format!("label: {label}\nstart=2048, size=2048\nstart=4096\n");
        run("sfdisk --quiet \"$0\"", path, &script).then(|| std::fs::read(path).expect("read"))
    }

    #[expect(clippy::disallowed_methods, reason = "a test that asks another program")]
    fn run(script: &str, path: &std::path::Path, input: &str) -> bool {
        use std::io::Write as _;
        let spawned = Command::new("sh").args(["-c", script]).arg(path).stdin(std::process::Stdio::piped()).spawn();
        let Ok(mut child) = spawned else { return false };
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("written");
        child.wait().expect("ended").success()
    }

    #[test]
    fn the_root_gets_the_room_of_a_larger_disk_and_the_other_partitions_stay() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("disk");
        for label in ["gpt", "dos"] {
            let Some(bytes) = disk(label, &path) else { return };
            let (root, head) = (2 << 20, &bytes[..TABLE]);
            let before =
                crate::image::partitions(&std::fs::File::open(&path).expect("opened"), 64 << 20).expect("read");
            for larger in [(1 << 30) + 5 * 512, 50 << 20] {
                let laid = lay_out(head, root, larger).expect("laid out");
                assert!(laid.root.start == root && larger - laid.root.end < 2 << 20, "{laid:?}");
                let file = std::fs::File::create(&path).expect("made");
                file.set_len(larger).expect("made");
                for (at, bytes) in &laid.writes {
                    std::os::unix::fs::FileExt::write_all_at(&file, bytes, *at).expect("written");
                }
                let file = std::fs::File::open(&path).expect("opened");
                let after = crate::image::partitions(&file, larger).expect("read");
                assert_eq!(before[0], after[0]);
                assert_eq!((&before[1].partuuid, &after[1].bytes), (&after[1].partuuid, &laid.root));
                assert!(run("sfdisk --verify \"$0\" | grep 'No errors'", &path, ""), "{label}");
            }
            assert!(matches!(lay_out(head, root, 10 << 20), Err(TableError::Small { .. })));
            // The first is not the last.
            assert_eq!(lay_out(head, 1 << 20, 1 << 30), Err(TableError::NotLast));
            assert!(matches!(lay_out(head, 3 << 20, 1 << 30), Err(TableError::Unknown(_) | TableError::NotLast)));
            assert!(check(&bytes[..600], root).is_err() || label == "dos");
        }
        assert!(check(&[0; TABLE], 1 << 20).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn garbage_is_an_error_and_no_panic(
            mut head in proptest::collection::vec(any::<u8>(), 512..4096),
            is_gpt in any::<bool>(),
            root in 0..1_u64 << 41,
            bytes in any::<u64>(),
        ) {
            head[510..512].copy_from_slice(&[0x55, 0xaa]);
            if is_gpt && head.len() > 1024 {
                head[512..520].copy_from_slice(b"EFI PART");
                head[512 + 72..512 + 88].copy_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 128, 0, 0, 0]);
            }
            let _ = lay_out(&head, root, bytes);
            let _ = lay_out(&head, u64::MAX, bytes);
        }
    }
}
