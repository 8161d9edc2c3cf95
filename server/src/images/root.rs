//! The root file system of a disk image, as a tree that can be shipped.
//!
//! ext2, ext3 and ext4 are read here, by anybody who may read the image. XFS is read by the kernel: that takes root and a loop device.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use rocks_ship::image::xfs_places;
use rocks_ship::shipment::ShipmentError;
use rocks_ship::tree::{ExtImage, Mounted, MountedImage, TreeSource};

use crate::process::{Task, run};

/// How long attaching a loop device may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// What it may say.
const SAID: usize = 4096;

/// Opens the root of the disk image at `path`.
///
/// # Errors
/// It has none that can be shipped as a tree, or more than one.
pub(crate) fn root_of(path: &Path) -> Result<Box<dyn TreeSource>, ShipmentError> {
    let none = match ExtImage::root_of(path) {
        Ok(root) => return Ok(Box::new(root)),
        Err(error) => error,
    };
    let fail = |why: &dyn std::fmt::Display| ShipmentError::Source(format!("{}: {why}", path.display()));
    let places = File::open(path).and_then(|file| xfs_places(&file)).map_err(|error| fail(&error))?;
    let mut roots = Vec::new();
    for place in places {
        let mounted = mount(path, &place).map_err(|why| fail(&why))?;
        if mounted.is_root() {
            roots.push(MountedImage::new(path, &place, &mounted)?);
        }
    }
    match (roots.pop(), roots.pop()) {
        (Some(root), None) => Ok(Box::new(root)),
        (None, _) => Err(none),
        _ => Err(fail(&"more than one file system in it looks like a root")),
    }
}

/// Mounts the XFS at `place`, for reading, where nobody sees it.
fn mount(path: &Path, place: &Range<u64>) -> Result<Mounted, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("only root can ship an XFS root as a tree; ship it in the block form".to_owned());
    }
    let (at, room) = (place.start.to_string(), (place.end - place.start).to_string());
    let image = path.display().to_string();
    // A device that cannot be written to: a journal that waits to be played back is found, and not passed over.
    let device = losetup(&["--find", "--show", "--read-only", "--offset", &at, "--sizelimit", &room, &image])?;
    let mounted = Mounted::mount("xfs", Path::new(&device), false);
    // From now on nobody but the mount holds it.
    let detached = losetup(&["--detach", &device]);
    let mounted = mounted.map_err(|error| {
        format!("its XFS cannot be mounted: {error}; was it cleanly unmounted, and does this kernel know XFS?")
    })?;
    detached.map(|_| mounted)
}

fn losetup(args: &[&str]) -> Result<String, String> {
    let task = Task {
        program: "losetup",
        args,
        env: &[("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")],
        folder: Path::new("/"),
        input: &[],
        identity: None,
        limit: PATIENCE,
        output_bytes: SAID,
    };
    match run(&task) {
        Ok((said, true)) => Ok(String::from_utf8_lossy(&said).trim().to_owned()),
        Ok((_, false)) => Err("no loop device could be had for it".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
