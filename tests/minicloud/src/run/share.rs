//! What an instance may have of this machine's processors: a control group of its own, with a quota.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// Where control groups are, of version 1 and of version 2.
const ROOTS: [&str; 2] = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup"];
/// What ours begin with; the number of this process follows.
const PREFIX: &str = "minicloud-";
/// Microseconds in which a share is had.
const PERIOD: u32 = 100_000;

/// A control group. It ends with this.
#[derive(Debug)]
pub(super) struct Share(PathBuf);

impl Share {
    /// Makes one for a machine that gets so many thousandths of a processor.
    pub(super) fn new(machine: &str, thousandths: u32) -> Result<Self> {
        let name = format!("{PREFIX}{}-{machine}", std::process::id());
        let quota = PERIOD / 1000 * thousandths;
        let [first, second] = ROOTS.map(Path::new);
        let (dir, file, text) = if first.join("cpu.cfs_quota_us").exists() {
            (first.join(name), "cpu.cfs_quota_us", quota.to_string())
        } else if fs::read_to_string(second.join("cgroup.subtree_control")).is_ok_and(|all| all.contains("cpu")) {
            (second.join(name), "cpu.max", format!("{quota} {PERIOD}"))
        } else {
            bail!("there are no control groups that limit processors");
        };
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let share = Self(dir);
        let file = share.0.join(file);
        fs::write(&file, text).with_context(|| file.display().to_string())?;
        Ok(share)
    }

    /// Whoever writes `0` into this file is in it from then on, with all that it starts.
    pub(super) fn door(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // Processes that were killed are in it for another moment.
        for _ in 0..50 {
            remove(&self.0);
            if !self.0.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        tracing::warn!("{} stays", self.0.display());
    }
}

/// Removes a group and those in it.
fn remove(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(dir);
}

/// Removes what clouds left that are no more.
pub(super) fn sweep() {
    for entry in ROOTS.into_iter().filter_map(|root| fs::read_dir(root).ok()).flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()).unwrap_or_default();
        if !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()) && !Path::new("/proc").join(pid).exists() {
            remove(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_there_as_long_as_it_is_held() {
        let Ok(share) = Share::new("i-1", 250) else {
            return println!("left out: processors cannot be limited here");
        };
        let dir = share.0.clone();
        let of = |file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default();
        assert!(of("cpu.cfs_quota_us").trim() == "25000" || of("cpu.max").trim() == "25000 100000");
        sweep();
        assert!(share.door().exists(), "its cloud is there");
        drop(share);
        assert!(!dir.exists());
    }
}
