//! The disk of the tree: partition table, file systems, boot loader. Made without mounting anything and without a loop device.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use super::boot::BOOT_CODE;
use super::identity::Identities;
use super::layout::{Holds, Layout, MIB, Part, SECTOR};
use super::root::{Root, list};
use super::{BuildError, IMAGE};

/// Bytes copied at a time.
const PIECE: usize = 64 << 10;

/// What BIOS starts: the first sector's code, and what goes into the BIOS boot partition.
pub(super) struct Bios {
    pub(super) first: [u8; BOOT_CODE],
    pub(super) core: Vec<u8>,
}

/// Writes the disk; gives its path's length in bytes and how much of it is allocated.
pub(super) fn write(
    root: &Root<'_>,
    work: &Path,
    layout: &Layout,
    identities: &Identities,
    bios: Option<&Bios>,
) -> Result<(u64, u64), BuildError> {
    let path = work.join(IMAGE);
    let disk = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)
        .and_then(|file| file.set_len(layout.disk_mib * MIB).map(|()| file))
        .map_err(BuildError::io("the image"))?;
    table(&disk, layout, identities, bios)?;
    // What is mounted deepest is taken out of the tree first.
    let mut parts: Vec<&Part> = layout.parts.iter().collect();
    parts.sort_by_key(|part| std::cmp::Reverse(part.mount.as_deref().map_or(0, |mount| mount.matches('/').count())));
    parts.sort_by_key(|part| part.mount.as_deref() == Some("/"));
    for part in parts {
        let name = part.name();
        match part.holds {
            Holds::BiosBoot => {
                if let Some(bios) = bios {
                    disk.write_all_at(&bios.core, part.start_mib * MIB).map_err(BuildError::io("the image"))?;
                }
            }
            Holds::Efi => {
                let tree = take_out(root, work, part)?;
                efi(&disk, work, part, &tree, identities.serial(&name))?;
            }
            Holds::Swap => swap(root, &disk, work, part, identities)?,
            Holds::Ext(kind) => {
                let tree = take_out(root, work, part)?;
                ext(root, &path, part, kind, &tree, identities)?;
            }
        }
    }
    disk.sync_all().map_err(BuildError::io("the image"))?;
    let meta = disk.metadata().map_err(BuildError::io("the image"))?;
    Ok((meta.len(), meta.blocks() * 512))
}

/// The partition table, and what firmware finds in the first sector.
fn table(disk: &File, layout: &Layout, identities: &Identities, bios: Option<&Bios>) -> Result<(), BuildError> {
    let table =
        |error: &dyn std::fmt::Display| BuildError::io("the partition table")(io::Error::other(error.to_string()));
    let mut device = disk.try_clone().map_err(BuildError::io("the image"))?;
    let sectors = layout.disk_mib * MIB / SECTOR;
    let mut first = gpt::mbr::ProtectiveMBR::with_lb_size(u32::try_from(sectors - 1).unwrap_or(u32::MAX));
    if let Some(bios) = bios {
        first.set_bootcode(bios.first);
    }
    first.overwrite_lba0(&mut device).map_err(|error| table(&error))?;
    let mut gpt = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(gpt::disk::LogicalBlockSize::Lb512)
        .create_from_device(device, Some(identities.uuid("disk")))
        .map_err(|error| table(&error))?;
    let mut parts = BTreeMap::new();
    for part in &layout.parts {
        let kind = match part.holds {
            Holds::BiosBoot => gpt::partition_types::BIOS,
            Holds::Efi => gpt::partition_types::EFI,
            Holds::Swap => gpt::partition_types::LINUX_SWAP,
            Holds::Ext(_) => gpt::partition_types::LINUX_FS,
        };
        let entry = gpt::partition::Partition {
            part_type_guid: kind,
            part_guid: identities.uuid(&format!("partition {}", part.name())),
            first_lba: part.start_mib * MIB / SECTOR,
            last_lba: (part.start_mib + part.mib) * MIB / SECTOR - 1,
            flags: 0,
            name: part.label.clone().unwrap_or_default(),
        };
        parts.insert(part.number, entry);
    }
    gpt.update_partitions(parts).map_err(|error| table(&error))?;
    gpt.write().map_err(|error| table(&error))?;
    Ok(())
}

/// Takes what lies below a mount point out of the tree, and leaves an empty folder to mount on.
fn take_out(root: &Root<'_>, work: &Path, part: &Part) -> Result<std::path::PathBuf, BuildError> {
    let mount = part.mount.as_deref().unwrap_or("/");
    if mount == "/" {
        return Ok(root.path().to_path_buf());
    }
    let (from, to) = (root.at(mount), work.join(format!("part{}", part.number)));
    let take = || -> io::Result<()> {
        fs::create_dir_all(&from)?;
        let parent = from.parent().unwrap_or(root.path());
        let times = fs::metadata(parent)?;
        fs::rename(&from, &to)?;
        fs::create_dir(&from)?;
        for path in [from.as_path(), parent] {
            let at = rustix::fs::Timespec { tv_sec: times.mtime(), tv_nsec: times.mtime_nsec() };
            let times = rustix::fs::Timestamps { last_access: at, last_modification: at };
            rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::empty())?;
        }
        Ok(())
    };
    take().map_err(BuildError::io(mount))?;
    Ok(to)
}

/// An ext file system of a tree, directly in the disk.
fn ext(
    root: &Root<'_>,
    disk: &Path,
    part: &Part,
    kind: &str,
    tree: &Path,
    identities: &Identities,
) -> Result<(), BuildError> {
    let name = part.name();
    let (offset, uuid) = (part.start_mib * MIB, identities.uuid(&name));
    let seed = identities.uuid(&format!("directory hashes {name}"));
    let mut args: Vec<String> = ["-q", "-F", "-t", kind, "-U"].map(ToOwned::to_owned).to_vec();
    args.push(uuid.to_string());
    if let Some(label) = &part.label {
        args.extend(["-L".to_owned(), label.clone()]);
    }
    // Everything is written now: what the kernel would do later would differ each time.
    args.push("-E".to_owned());
    args.push(format!("offset={offset},hash_seed={seed},lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0"));
    args.extend(["-d".to_owned(), tree.display().to_string()]);
    args.extend([disk.display().to_string(), format!("{}k", part.mib * 1024)]);
    let made = root.run(&format!("making the file system of {name}"), "mke2fs", &args);
    made.map_err(|error| match error {
        BuildError::Program { output, .. } if output.contains("allocate block") => BuildError::Missing {
            what: format!("what belongs to {name} does not fit into {} MiB", part.mib),
            hint: "raise --size of its `part`, or let it grow and give a larger disk with size=",
        },
        error => error,
    })?;
    let place = format!("{}?offset={offset}", disk.display());
    even(root, &place)?;
    root.run(&format!("checking the file system of {name}"), "e2fsck", &["-f".into(), "-n".into(), place]).map(drop)
}

/// Sets the times that mke2fs copies from the tree and nobody can set there: when a file was last changed or looked at.
fn even(root: &Root<'_>, place: &str) -> Result<(), BuildError> {
    let what = "setting the files' times";
    let known = root.run_whole(what, "dumpe2fs", &[place.to_owned()])?;
    let mut script = String::new();
    for inode in used(&known) {
        for field in ["atime", "ctime"] {
            let zero = if known.contains("Inode size:\t          128") {
                String::new()
            } else {
                format!("sif <{inode}> {field}_extra 0\n")
            };
            script.push_str(&format!("sif <{inode}> {field} @{}\n{zero}", root.epoch));
        }
    }
    let file = root.path().with_file_name("times");
    fs::write(&file, script).map_err(BuildError::io(what))?;
    root.run(what, "debugfs", &["-w".into(), "-f".into(), file.display().to_string(), place.to_owned()]).map(drop)
}

/// The inodes in use, of what dumpe2fs says: the root's and all that are not reserved.
fn used(said: &str) -> Vec<u64> {
    let mut count = 0;
    let mut free = std::collections::HashSet::new();
    for line in said.lines() {
        if let Some(rest) = line.strip_prefix("Inode count:") {
            count = rest.trim().parse().unwrap_or(0);
        }
        let Some(ranges) = line.trim_start().strip_prefix("Free inodes: ") else { continue };
        for range in ranges.split(',').map(str::trim).filter(|range| !range.is_empty()) {
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            if let (Ok(from), Ok(to)) = (from.parse::<u64>(), to.parse::<u64>()) {
                free.extend(from..=to);
            }
        }
    }
    (1..=count).filter(|inode| (*inode == 2 || *inode > 10) && !free.contains(inode)).collect()
}

/// Swap space: its first page is all that is ever written.
fn swap(root: &Root<'_>, disk: &File, work: &Path, part: &Part, identities: &Identities) -> Result<(), BuildError> {
    let file = work.join("swap");
    let sized = File::create(&file).and_then(|file| file.set_len(part.mib * MIB));
    sized.map_err(BuildError::io("swap space"))?;
    let mut args = vec!["-U".to_owned(), identities.uuid(&part.name()).to_string()];
    if let Some(label) = &part.label {
        args.extend(["-L".to_owned(), label.clone()]);
    }
    args.push(file.display().to_string());
    root.run("making swap space", "mkswap", &args)?;
    copy(&file, disk, part).map_err(BuildError::io("swap space"))
}

/// The EFI system partition of a tree. Its times are those of 1980: nobody looks at them.
fn efi(disk: &File, work: &Path, part: &Part, tree: &Path, serial: u32) -> Result<(), BuildError> {
    let file = work.join("efi");
    let make = || -> io::Result<()> {
        let mut volume = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&file)?;
        volume.set_len(part.mib * MIB)?;
        let mut label = *b"EFI        ";
        for (to, from) in label.iter_mut().zip(part.label.as_deref().unwrap_or_default().bytes()) {
            *to = from.to_ascii_uppercase();
        }
        let options = fatfs::FormatVolumeOptions::new()
            .fat_type(fatfs::FatType::Fat32)
            .bytes_per_cluster(512)
            .volume_id(serial)
            .volume_label(label);
        fatfs::format_volume(&mut volume, options)?;
        let system = fatfs::FileSystem::new(&mut volume, fatfs::FsOptions::new())?;
        fill(&system.root_dir(), tree)?;
        system.unmount()
    };
    make().and_then(|()| copy(&file, disk, part)).map_err(BuildError::io("the EFI system partition"))
}

fn fill<V: fatfs::ReadWriteSeek>(folder: &fatfs::Dir<'_, V>, tree: &Path) -> io::Result<()> {
    for path in list(tree)? {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if path.is_dir() {
            fill(&folder.create_dir(name)?, &path)?;
        } else {
            let mut file = folder.create_file(name)?;
            file.truncate()?;
            file.write_all(&fs::read(&path)?)?;
            file.flush()?;
        }
    }
    Ok(())
}

/// Copies a file into a partition; what is zero stays a hole.
fn copy(from: &Path, disk: &File, part: &Part) -> io::Result<()> {
    let mut from = File::open(from)?;
    from.seek(SeekFrom::Start(0))?;
    let (mut at, mut piece) = (part.start_mib * MIB, vec![0; PIECE]);
    loop {
        let count = from.read(&mut piece)?;
        if count == 0 {
            return Ok(());
        }
        if piece[..count].iter().any(|byte| *byte != 0) {
            disk.write_all_at(&piece[..count], at)?;
        }
        at += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inodes_in_use_are_those_that_are_not_free() {
        let said = "Inode count:              20\n  Free inodes: 13-15, 18\nGroup 1:\n  Free inodes: \n";
        assert_eq!(used(said), [2, 11, 12, 16, 17, 19, 20]);
    }
}
