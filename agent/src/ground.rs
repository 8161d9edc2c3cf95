//! What a tree is received onto: a folder, or a volume that gets a file system, called like the one that the tree comes from.
//!
//! A volume that has that file system already keeps it: it is what an interrupted shipment left, or an earlier image, and most of what comes
//! is there. It is mounted at no place, so that nobody sees it and nothing has to be unmounted, however we end.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use rocks_ship::bootable::Root;
use rocks_ship::image::Features;
use rocks_ship::shipment::ShipmentError;
use rocks_ship::tree::{Mounted, Origin, TreeTarget};

use crate::fit::{Volume, probe};
use crate::process::{Processes, Task};

/// How long making a file system may take: a large volume is discarded first.
const PATIENCE: Duration = Duration::from_secs(1800);

/// A file system that can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum FileSystem {
    /// What a root has today
    Ext4,
    /// What it had when the first clouds began
    Ext3,
    /// What it has on many RPM distributions
    Xfs,
}

impl FileSystem {
    /// Its name for programs and the kernel.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Ext3 => "ext3",
            Self::Xfs => "xfs",
        }
    }
}

/// Whether what is on a volume is the file system that a tree from `origin` is to be on.
fn is_there(volumes: &[Volume], wanted: FileSystem, origin: &Origin) -> bool {
    match volumes {
        [volume] => {
            let uuid = origin.uuid_text();
            volume.number.is_none() && volume.kind == wanted.name() && (uuid.is_none() || volume.uuid == uuid)
        }
        _ => false,
    }
}

/// Letters of a label that XFS has room for.
const XFS_LABEL: usize = 12;

/// What makes a file system, and what it is told.
fn maker(device: &str, wanted: FileSystem, origin: &Origin) -> (&'static str, Vec<String>) {
    let label = origin.label_text().map(str::to_owned);
    let (program, fixed, uuid, label) = match wanted {
        FileSystem::Ext3 | FileSystem::Ext4 => {
            ("mke2fs", Vec::from(["-q", "-F", "-t", wanted.name()]), ("-U", origin.uuid_text()), ("-L", label))
        }
        FileSystem::Xfs => {
            let uuid = origin.uuid_text().map(|uuid| format!("uuid={uuid}"));
            ("mkfs.xfs", Vec::from(["-q", "-f"]), ("-m", uuid), ("-L", label.filter(|text| text.len() <= XFS_LABEL)))
        }
    };
    let mut args: Vec<String> = fixed.into_iter().map(str::to_owned).collect();
    for (option, value) in [uuid, label] {
        args.extend(value.into_iter().flat_map(|value| [option.to_owned(), value]));
    }
    args.push(device.to_owned());
    (program, args)
}

/// Features that the root of a disk that boots may get if its source has them: `mke2fs` knows them all, and boot loaders most. None is needed
/// that is not among them.
const COMPAT: [(u32, &str); 4] = [(0x4, "has_journal"), (0x8, "ext_attr"), (0x10, "resize_inode"), (0x20, "dir_index")];
const INCOMPAT: [(u32, &str); 4] = [(0x2, "filetype"), (0x40, "extent"), (0x80, "64bit"), (0x200, "flex_bg")];
const RO_COMPAT: [(u32, &str); 7] = [
    (0x1, "sparse_super"),
    (0x2, "large_file"),
    (0x8, "huge_file"),
    (0x10, "uninit_bg"),
    (0x20, "dir_nlink"),
    (0x40, "extra_isize"),
    (0x400, "metadata_csum"),
];

/// What `mke2fs` is told for the root of a disk that boots.
fn root_arguments(root: &Root, origin: &Origin) -> Vec<String> {
    let has = |word: u32, known: &[(u32, &'static str)]| -> Vec<&'static str> {
        known.iter().filter(|(bit, _)| word & bit != 0).map(|(_, name)| *name).collect()
    };
    let Features { compat, incompat, ro_compat, block, inode } = root.features;
    let mut features = vec!["none"];
    features.extend(has(compat, &COMPAT));
    features.extend(has(incompat, &INCOMPAT));
    features.extend(has(ro_compat, &RO_COMPAT));
    let mut args = ["-q", "-F", "-t", "ext4", "-O"].map(str::to_owned).to_vec();
    args.push(features.join(","));
    args.extend(["-b".to_owned(), block.to_string(), "-I".to_owned(), inode.to_string()]);
    for (option, value) in [("-U", origin.uuid_text()), ("-L", origin.label_text().map(str::to_owned))] {
        args.extend(value.into_iter().flat_map(|value| [option.to_owned(), value]));
    }
    let kib = (root.bytes.end - root.bytes.start) >> 10;
    args.extend(["-E".to_owned(), format!("offset={}", root.bytes.start)]);
    args.extend([root.disk.display().to_string(), format!("{kib}k")]);
    args
}

/// Whether the file system for `origin` is there, in all the room that there is.
fn root_is_there(disk: &File, root: &Root, origin: &Origin) -> std::io::Result<bool> {
    let room = root.bytes.end - root.bytes.start;
    let is_called_so = Origin::of(disk, &root.bytes)?.is_some_and(|there| there == *origin);
    let fills = rocks_ship::image::extent(disk, &root.bytes)?.is_some_and(|has| has <= room && room - has < 1 << 20);
    Ok(is_called_so && fills && origin.uuid_text().is_some())
}

/// Opens the root of a disk that boots. It is formatted unless it has the right file system already. The kernel need not know the disk's
/// partitions, and takes the loop device away with the mount.
///
/// # Errors
/// It cannot be formatted or mounted.
pub fn root(root: &Root, origin: &Origin, processes: &dyn Processes) -> Result<TreeTarget, ShipmentError> {
    let fail = |why: &dyn std::fmt::Display| ShipmentError::Target(format!("{}: {why}", root.disk.display()));
    let run = |program: &str, args: &[&str]| {
        let finished = processes.run(&Task::new(program, args).limit(PATIENCE));
        let finished = finished.map_err(|error| fail(&format!("{program}: {error}")))?;
        let text = finished.text().trim().to_owned();
        if finished.success() { Ok(text) } else { Err(fail(&format!("{program} failed: {text}"))) }
    };
    let disk = File::open(&root.disk).map_err(|error| fail(&error))?;
    let is_there = root_is_there(&disk, root, origin).map_err(|error| fail(&error))?;
    drop(disk);
    if !is_there {
        let args = root_arguments(root, origin);
        run("mke2fs", &args.iter().map(String::as_str).collect::<Vec<_>>())?;
    }
    let (at, room) = (root.bytes.start.to_string(), (root.bytes.end - root.bytes.start).to_string());
    let disk = root.disk.display().to_string();
    let attach = |more: &[&str]| {
        let place = ["--find", "--show", "--offset", &at, "--sizelimit", &room];
        run("losetup", &[more, &place, &[&disk]].concat())
    };
    // Directly, so that what is read back comes from the disk; where that does not work, as well as it goes.
    let device = attach(&["--direct-io=on"]).or_else(|_| attach(&[]))?;
    let mounted = Mounted::mount("ext4", Path::new(&device), true);
    // From now on nobody but the mount holds it.
    let detached = run("losetup", &["--detach", &device]);
    let mounted = mounted.map_err(|error| fail(&format!("its root cannot be mounted: {error}")))?;
    detached?;
    TreeTarget::on(&mounted, &root.disk)
}

/// Opens what a tree is received onto. A volume is formatted unless it has the right file system already.
///
/// # Errors
/// It is neither a folder nor a volume, is in use, or cannot be formatted or mounted.
pub fn ground(
    path: &Path,
    wanted: FileSystem,
    origin: &Origin,
    processes: &dyn Processes,
) -> Result<TreeTarget, ShipmentError> {
    let fail = |why: &dyn std::fmt::Display| ShipmentError::Target(format!("{}: {why}", path.display()));
    let kind = std::fs::metadata(path).map_err(|error| fail(&error))?.file_type();
    if kind.is_dir() {
        return TreeTarget::open(path);
    }
    if !kind.is_block_device() {
        return Err(fail(&"neither a folder nor a volume"));
    }
    // The kernel gives a volume that is mounted, or part of something else, to nobody who wants it alone.
    let exclusive = i32::try_from(rustix::fs::OFlags::EXCL.bits()).unwrap_or(0);
    let opened = OpenOptions::new().read(true).custom_flags(exclusive).open(path);
    let device: File = opened.map_err(|error| fail(&format!("it cannot be had alone: {error}")))?;
    let volumes = rocks_ship::image::length(&device).and_then(|bytes| probe::volumes(&device, bytes));
    let is_there = is_there(&volumes.map_err(|error| fail(&error))?, wanted, origin);
    drop(device);
    if !is_there {
        let (program, args) = maker(&path.display().to_string(), wanted, origin);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let finished = processes.run(&Task::new(program, &args).limit(PATIENCE));
        let finished = finished.map_err(|error| fail(&format!("{program}: {error}")))?;
        if !finished.success() {
            return Err(fail(&format!("{program} failed: {}", finished.text().trim())));
        }
    }
    let mounted = Mounted::mount(wanted.name(), path, true);
    TreeTarget::on(&mounted.map_err(|error| fail(&format!("it cannot be mounted: {error}")))?, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        Origin { uuid: [0x11; 16], label: *b"root\0\0\0\0\0\0\0\0\0\0\0\0" }
    }

    #[test]
    fn a_file_system_is_made_as_the_source_is_called_and_kept_when_it_is_there() {
        let uuid = "11111111-1111-1111-1111-111111111111";
        let told = |wanted, origin: &Origin| {
            let (program, args) = maker("/dev/xvdf", wanted, origin);
            format!("{program} {}", args.join(" "))
        };
        assert_eq!(told(FileSystem::Ext3, &origin()), format!("mke2fs -q -F -t ext3 -U {uuid} -L root /dev/xvdf"));
        assert_eq!(told(FileSystem::Ext4, &Origin::default()), "mke2fs -q -F -t ext4 /dev/xvdf");
        assert_eq!(told(FileSystem::Xfs, &origin()), format!("mkfs.xfs -q -f -m uuid={uuid} -L root /dev/xvdf"));
        let long = Origin { label: *b"thirteen lett\0\0\0", ..Origin::default() };
        assert_eq!(told(FileSystem::Xfs, &long), "mkfs.xfs -q -f /dev/xvdf");
        let there = |kind, uuid: &str, number| {
            let uuid = Some(uuid.to_owned());
            vec![Volume { number, bytes: 0..1, kind, uuid, label: None, partuuid: None }]
        };
        assert!(is_there(&there("ext4", uuid, None), FileSystem::Ext4, &origin()));
        assert!(is_there(&there("ext4", "other", None), FileSystem::Ext4, &Origin::default()));
        for other in [there("ext3", uuid, None), there("ext4", "other", None), there("ext4", uuid, Some(1)), vec![]] {
            assert!(!is_there(&other, FileSystem::Ext4, &origin()));
        }
    }

    #[test]
    fn a_root_gets_no_feature_that_its_source_has_not() {
        // As Debian 12 makes one, and what a newer `mke2fs` adds.
        let features = Features { compat: 0x103c, incompat: 0x22c2, ro_compat: 0x46b, block: 4096, inode: 256 };
        let root = Root { disk: "/dev/xvdf".into(), bytes: 1 << 20..5 << 20, features };
        assert_eq!(
            root_arguments(&root, &Origin::default()).join(" "),
            "-q -F -t ext4 -O none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,\
             large_file,huge_file,dir_nlink,extra_isize,metadata_csum -b 4096 -I 256 -E offset=1048576 /dev/xvdf 4096k"
        );
        let old = Features { compat: 0x4, incompat: 0x2, ro_compat: 0x1, block: 1024, inode: 128 };
        let args = root_arguments(&Root { features: old, ..root }, &origin()).join(" ");
        assert!(args.contains("-O none,has_journal,filetype,sparse_super -b 1024 -I 128 -U 1111"), "{args}");
    }

    #[test]
    fn what_is_neither_a_folder_nor_a_volume_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("file");
        std::fs::write(&file, "").expect("written");
        let processes = crate::process::System;
        for path in [&file, &dir.path().join("missing")] {
            let refused = ground(path, FileSystem::Ext4, &origin(), &processes);
            assert!(matches!(refused, Err(ShipmentError::Target(_))));
        }
        assert!(ground(dir.path(), FileSystem::Ext4, &origin(), &processes).is_ok());
    }
}
