//! Volumes as block devices: loop devices that go when the last who holds them goes.

use std::fs::File;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::fs::{Dev, FileType, Mode, OFlags, makedev};

use crate::process::cmd;

/// Loop devices that a machine can name.
const NODES: u32 = 64;

/// Lets the machine with this root make loop devices, as a kernel of its own would: to mount a partition of a disk, for one.
///
/// # Errors
/// A node cannot be made.
pub(crate) fn allow(root: &Path) -> Result<()> {
    let nodes = (0..NODES).map(|n| (format!("loop{n}"), FileType::BlockDevice, makedev(7, n)));
    let control = ("loop-control".to_owned(), FileType::CharacterDevice, makedev(10, 237));
    for (name, kind, device) in nodes.chain([control]) {
        match rustix::fs::mknodat(
            rustix::fs::CWD,
            root.join("dev").join(&name),
            kind,
            Mode::from_raw_mode(0o660),
            device,
        ) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error).with_context(|| format!("no node {name}")),
        }
    }
    Ok(())
}

/// A file as a block device. Whoever holds this holds the device.
#[derive(Debug)]
pub(crate) struct Loop {
    path: String,
    device: Dev,
    _open: File,
}

impl Loop {
    /// Makes a device of a file.
    pub(crate) fn new(file: &Path) -> Result<Self> {
        let path = cmd("losetup").args(["-f", "--show"]).arg(file).run()?.stdout.trim().to_owned();
        let open = File::open(&path).with_context(|| path.clone())?;
        let device = open.metadata()?.rdev();
        // In use, so it is only marked: the kernel removes it when nobody holds it any more, even if we are killed.
        cmd("losetup").args(["-d", &path]).run()?;
        Ok(Self { path, device, _open: open })
    }

    /// Whether somebody has mounted it, or has it for himself otherwise.
    pub(crate) fn busy(&self) -> bool {
        let exclusive = i32::try_from(OFlags::EXCL.bits()).unwrap_or_default();
        match File::options().read(true).custom_flags(exclusive).open(&self.path) {
            Ok(_) => false,
            Err(e) => e.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()),
        }
    }

    /// Makes the device show up below a root: a node of the first name, and links of the others to it.
    pub(crate) fn show(&self, root: &Path, names: &[String]) -> Result<()> {
        let Some((node, links)) = names.split_first() else { return Ok(()) };
        let inside = |name: &str| root.join(name.trim_start_matches('/'));
        let path = inside(node);
        let _ = std::fs::remove_file(&path);
        let mode = Mode::from_raw_mode(0o660);
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::BlockDevice, mode, self.device)
            .with_context(|| format!("no node {}", path.display()))?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o660))?;
        for link in links {
            let path = inside(link);
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let _ = std::fs::remove_file(&path);
            std::os::unix::fs::symlink(node, &path)?;
        }
        Ok(())
    }

    /// Makes it go from below a root.
    pub(crate) fn hide(root: &Path, names: &[String]) {
        for name in names {
            let _ = std::fs::remove_file(root.join(name.trim_start_matches('/')));
        }
    }

    /// Lets go of the device, and waits a little until it is gone: then all that was written is in the file.
    pub(crate) fn close(self) {
        let backing = self.path.replace("/dev/", "/sys/block/") + "/loop/backing_file";
        let mine = std::fs::read_to_string(&backing).ok();
        drop(self);
        let end = Instant::now() + Duration::from_secs(2);
        while mine.is_some() && std::fs::read_to_string(&backing).ok() == mine && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
