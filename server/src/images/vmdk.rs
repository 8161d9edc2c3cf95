//! Images as VMDK files, stream-optimised: what EC2 imports snapshots of. Grains of 64 KiB, each compressed by itself, of which those that
//! hold nothing are left out.
//!
//! Such a file is written from its beginning to its end: a header, a few lines of text, and then grains, each behind a marker that says which it
//! is. Where they stand is told behind them: a table for each 512 grains when these are done, a directory of the tables, and at last a footer, which is
//! the header once more with the directory's place in it. The same disk gives the same bytes.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use rocks_ship::image::{Allocation, length};

use super::out::Out;

/// What everything is counted in.
const SECTOR: u64 = 512;
/// Bytes of a grain.
const GRAIN: u64 = 64 << 10;
/// Grains of which one table tells.
const ENTRIES: u64 = 512;
/// Sectors before the first grain: as many as a grain has.
const OVERHEAD: u64 = GRAIN / SECTOR;
/// Sectors that the lines of text have.
const TEXT: u64 = 2;
/// How hard grains are compressed.
const LEVEL: u32 = 6;
/// The directory stands at the end: the footer says where.
const AT_END: u64 = u64::MAX;

/// The kinds of markers that stand before what is no grain.
const END: u32 = 0;
const TABLE: u32 = 1;
const DIRECTORY: u32 = 2;
const FOOTER: u32 = 3;

/// What goes to a place in a file of this kind does not fit any more.
fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, "a VMDK file cannot be that large")
}

impl Out<'_> {
    /// The sector that is written next, as tables tell it.
    fn sector(&self) -> io::Result<u32> {
        u32::try_from(self.written() / SECTOR).map_err(|_| too_large())
    }

    /// A marker: what follows has so many sectors.
    fn mark(&mut self, kind: u32, sectors: u64) -> io::Result<()> {
        self.put(&sectors.to_le_bytes())?;
        self.put(&0_u32.to_le_bytes())?;
        self.put(&kind.to_le_bytes())?;
        self.fill(SECTOR)
    }

    /// Entries of a table, with a marker before them; gives where they stand.
    fn table(&mut self, kind: u32, entries: &[u32]) -> io::Result<u32> {
        self.mark(kind, (entries.len() as u64 * 4).div_ceil(SECTOR))?;
        let at = self.sector()?;
        let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        self.put(&bytes)?;
        self.fill(SECTOR)?;
        Ok(at)
    }
}

/// The header of a file of a disk with so many sectors, or the footer, which knows where the directory is.
fn header(sectors: u64, directory: u64) -> [u8; SECTOR as usize] {
    let mut header = [0; SECTOR as usize];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"KDMV");
    put(4, &3_u32.to_le_bytes());
    // Line ends are as they were written; grains are compressed; markers stand before them.
    put(8, &(1_u32 | 1 << 16 | 1 << 17).to_le_bytes());
    put(12, &sectors.to_le_bytes());
    put(20, &(GRAIN / SECTOR).to_le_bytes());
    // The text.
    put(28, &1_u64.to_le_bytes());
    put(36, &TEXT.to_le_bytes());
    put(44, &u32::try_from(ENTRIES).unwrap_or(0).to_le_bytes());
    put(56, &directory.to_le_bytes());
    put(64, &OVERHEAD.to_le_bytes());
    put(73, b"\n \r\n");
    // By deflate.
    put(77, &1_u16.to_le_bytes());
    header
}

/// The lines of text: what a machine that had this disk would be told of it.
fn text(sectors: u64) -> String {
    const HEADS: u64 = 255;
    const TRACK: u64 = 63;
    let cylinders = (sectors / (HEADS * TRACK)).clamp(1, 65_535);
    format!(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n\n\
         # Extent description\nRW {sectors} SPARSE \"disk.vmdk\"\n\n\
         # The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"4\"\nddb.geometry.cylinders = \"{cylinders}\"\n\
         ddb.geometry.heads = \"{HEADS}\"\nddb.geometry.sectors = \"{TRACK}\"\nddb.adapterType = \"lsilogic\"\n"
    )
}

/// Writes `disk` as such a file; gives its bytes. What no file system of the disk uses, and what holds zeros, is left out. `tell` hears how many of
/// the disk's bytes are done.
///
/// # Errors
/// The disk cannot be read, `to` takes no more, or the disk is too large: places are told in 32 bits, so 2 TiB of what is in use.
pub fn write(disk: &File, to: &mut dyn Write, tell: &mut dyn FnMut(u64)) -> io::Result<u64> {
    let bytes = length(disk)?;
    let allocation = Allocation::of(disk, bytes)?;
    let grains = bytes.div_ceil(GRAIN);
    let sectors = grains * OVERHEAD;
    let mut out = Out::new(to);
    out.put(&header(sectors, AT_END))?;
    out.put(text(sectors).as_bytes())?;
    out.fill(GRAIN)?;
    let mut tables = Vec::new();
    let mut grain = Vec::new();
    for first in (0..grains).step_by(ENTRIES as usize) {
        let mut table = [0; ENTRIES as usize];
        for (entry, at) in table.iter_mut().zip(first..grains) {
            if read(disk, &allocation, bytes, at, &mut grain)? {
                *entry = out.sector()?;
                let mut packed = ZlibEncoder::new(Vec::new(), Compression::new(LEVEL));
                packed.write_all(&grain)?;
                let packed = packed.finish()?;
                out.put(&(at * OVERHEAD).to_le_bytes())?;
                out.put(&u32::try_from(packed.len()).map_err(|_| too_large())?.to_le_bytes())?;
                out.put(&packed)?;
                out.fill(SECTOR)?;
            }
        }
        // A table of nothing is none.
        let is_empty = table.iter().all(|entry| *entry == 0);
        tables.push(if is_empty { 0 } else { out.table(TABLE, &table)? });
        tell(((first + ENTRIES) * GRAIN).min(bytes));
    }
    let directory = out.table(DIRECTORY, &tables)?;
    out.mark(FOOTER, 1)?;
    out.put(&header(sectors, u64::from(directory)))?;
    out.mark(END, 0)?;
    Ok(out.written())
}

/// Reads a grain, filled up with zeros at the disk's end; says whether it holds anything.
fn read(disk: &File, allocation: &Allocation, bytes: u64, at: u64, grain: &mut Vec<u8>) -> io::Result<bool> {
    let from = at * GRAIN;
    let there = bytes.saturating_sub(from).min(GRAIN);
    if allocation.is_free(from, there) {
        return Ok(false);
    }
    grain.clear();
    grain.resize(GRAIN as usize, 0);
    let there = &mut grain[..usize::try_from(there).unwrap_or(0)];
    disk.read_exact_at(there, from)?;
    allocation.clear(from, there);
    let (words, _) = grain.as_chunks::<16>();
    Ok(words.iter().any(|word| u128::from_ne_bytes(*word) != 0))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::path::Path;

    use super::*;

    /// A disk of `bytes` with something in these grains.
    fn disk(path: &Path, bytes: u64, filled: &[u64]) -> File {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path).expect("made");
        file.set_len(bytes).expect("made");
        for at in filled {
            let text = format!("grain {at} ").repeat(50);
            file.write_all_at(text.as_bytes(), at * GRAIN + 70).expect("written");
        }
        file
    }

    fn vmdk(disk: &File) -> Vec<u8> {
        let (mut out, mut heard) = (Vec::new(), 0);
        let bytes = write(disk, &mut out, &mut |done| heard = done).expect("written");
        assert_eq!((bytes, heard), (out.len() as u64, length(disk).expect("its length")));
        out
    }

    fn long(bytes: &[u8], at: usize) -> u64 {
        bytes[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    fn word(bytes: &[u8], at: usize) -> u32 {
        bytes[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }

    #[test]
    fn grains_stand_behind_their_markers_and_where_the_tables_say() {
        let dir = tempfile::tempdir().expect("a folder");
        let filled = [0, 1, 511, 512 * 2 + 7];
        let bytes = (512 * 2 + 8) * GRAIN - 1000;
        let file = vmdk(&disk(&dir.path().join("disk"), bytes, &filled));
        assert_eq!((&file[..4], file.len() % 512, long(&file, 56)), (&b"KDMV"[..], 0, AT_END));
        // From the end: an end marker, the footer, its marker.
        let footer = file.len() - 1024;
        assert!(file[file.len() - 512..].iter().all(|byte| *byte == 0));
        assert_eq!((&file[footer..footer + 4], word(&file, footer - 512 + 12)), (&b"KDMV"[..], FOOTER));
        let directory = long(&file, footer + 56) as usize * 512;
        assert_eq!(word(&file, directory - 512 + 12), DIRECTORY);
        let mut seen = Vec::new();
        for table in 0..3 {
            let at = word(&file, directory + table * 4) as usize * 512;
            assert_eq!(at == 0, table == 1, "a table of nothing is none");
            if at == 0 {
                continue;
            }
            assert_eq!((word(&file, at - 512 + 12), long(&file, at - 512)), (TABLE, 4));
            for entry in 0..512 {
                let grain = word(&file, at + entry * 4) as usize * 512;
                if grain == 0 {
                    continue;
                }
                let (number, size) = (long(&file, grain) / OVERHEAD, word(&file, grain + 8) as usize);
                assert_eq!(number, (table * 512 + entry) as u64);
                let mut raw = Vec::new();
                let packed = &file[grain + 12..grain + 12 + size];
                flate2::read::ZlibDecoder::new(packed).read_to_end(&mut raw).expect("unpacked");
                assert!(raw.len() as u64 == GRAIN && raw[70..].starts_with(format!("grain {number} ").as_bytes()));
                seen.push(number);
            }
        }
        assert_eq!(seen, filled);
    }

    #[test]
    fn qemu_reads_the_same_disk() {
        if !Path::new("/usr/bin/qemu-img").exists() {
            return;
        }
        let dir = tempfile::tempdir().expect("a folder");
        let (raw, packed) = (dir.path().join("disk"), dir.path().join("disk.vmdk"));
        for (bytes, filled) in
            [(GRAIN, &[][..]), (512, &[]), (GRAIN * 5, &[3]), (GRAIN * 3 * ENTRIES, &[0, 511, 512, 1535])]
        {
            std::fs::write(&packed, vmdk(&disk(&raw, bytes, filled))).expect("written");
            // Compared as far as the shorter one goes: a disk ends with a whole grain.
            let script = "qemu-img compare -f raw -F vmdk \"$1\" \"$2\" 2>&1 && qemu-img check -q -f vmdk \"$2\" 2>&1";
            let (raw, packed) = (raw.display().to_string(), packed.display().to_string());
            let task = crate::process::Task {
                program: "/bin/sh",
                args: &["-c", script, "sh", &raw, &packed],
                env: &[("PATH", "/usr/bin:/bin")],
                folder: Path::new("/"),
                input: &[],
                identity: None,
                limit: std::time::Duration::from_secs(60),
                output_bytes: 4096,
            };
            let (said, success) = crate::process::run(&task).expect("run");
            let said = String::from_utf8_lossy(&said);
            assert!(success && said.contains("identical"), "{bytes}: {said}");
        }
    }
}
