//! Which device an EBS volume is.
//!
//! On Nitro instances it is an NVMe disk that bears the volume's id as its serial number, of which udev makes a link; on Xen ones it has the
//! name that it was attached by, or that with `xvd` for `sd`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The device of volume `id`, attached as `device`; nothing while there is none. `root` is `/` but in tests.
#[must_use]
pub fn find(root: &Path, id: &str, device: &str) -> Option<PathBuf> {
    // NVMe serials have no room for the hyphen.
    let serial = id.replace('-', "");
    for entry in fs::read_dir(root.join("sys/block")).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let known = fs::read_to_string(entry.path().join("device/serial")).unwrap_or_default();
        if name.to_string_lossy().starts_with("nvme") && known.trim().replace('-', "") == serial {
            return Some(root.join("dev").join(name)).filter(|path| path.exists());
        }
    }
    // In a container the serial numbers are those of the host's disks, and the link is all that there is.
    let link = root.join("dev/disk/by-id").join(format!("nvme-Amazon_Elastic_Block_Store_{serial}"));
    if let Ok(device) = fs::canonicalize(link) {
        return Some(device);
    }
    let name = device.strip_prefix("/dev/").unwrap_or(device);
    let xen = name.strip_prefix("sd").map(|letter| format!("xvd{letter}"));
    [Some(name.to_owned()), xen]
        .into_iter()
        .flatten()
        .map(|name| root.join("dev").join(name))
        .find(|path| path.exists())
}

/// Waits for it.
#[must_use]
pub fn wait(root: &Path, id: &str, device: &str, patience: Duration) -> Option<PathBuf> {
    let end = Instant::now() + patience;
    loop {
        let found = find(root, id, device);
        if found.is_some() || Instant::now() >= end {
            return found;
        }
        std::thread::sleep(Duration::from_millis(250));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_found_by_its_serial_number_or_its_name() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path();
        let put = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        };
        put("sys/block/nvme0n1/device/serial", "vol0aaa\n");
        put("dev/nvme0n1", "");
        assert_eq!(find(root, "vol-0bbb", "/dev/sdf"), None);
        put("sys/block/nvme1n1/device/serial", "vol0bbb             \n");
        // The kernel knows it, udev has not made it yet.
        assert_eq!(find(root, "vol-0bbb", "/dev/sdf"), None);
        put("dev/nvme1n1", "");
        assert_eq!(find(root, "vol-0bbb", "/dev/sdf"), Some(root.join("dev/nvme1n1")));
        assert_eq!(wait(root, "vol-0ccc", "/dev/sdf", Duration::ZERO), None);
        put("dev/disk/by-id/other", "");
        let link = root.join("dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0ddd");
        std::os::unix::fs::symlink("../../nvme1n1", link).expect("linked");
        let there = fs::canonicalize(root.join("dev/nvme1n1")).expect("there");
        assert_eq!(find(root, "vol-0ddd", "/dev/sdf"), Some(there));
        put("dev/xvdf", "");
        assert_eq!(find(root, "vol-0ccc", "/dev/sdf"), Some(root.join("dev/xvdf")));
        put("dev/sdf", "");
        assert_eq!(find(root, "vol-0ccc", "/dev/sdf"), Some(root.join("dev/sdf")));
    }
}
