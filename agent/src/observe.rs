//! What is installed, asked of rpm only when its database has changed since the last time.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rocks_common::ids::Digest;
use rocks_common::kickstart::{Kickstart, PackageSpec};
use rocks_common::plan::{Inventory, QUERY_FORMAT};
use serde::{Deserialize, Serialize};

use crate::files;
use crate::process::{Processes, Task};

/// Most bytes that the query may print; 1,500 packages print about 2 MB.
const BYTES: usize = 64 << 20;

#[derive(Serialize, Deserialize)]
struct Kept {
    stamp: Digest,
    inventory: Inventory,
}

/// Why the packages are not known.
#[derive(Debug, thiserror::Error)]
#[error("cannot tell which packages are installed: {0}")]
pub struct ObserveError(String);

/// Where the last answer is remembered.
#[must_use]
pub fn cache(state: &Path) -> PathBuf {
    state.join("inventory.json")
}

/// The packages that are installed below `root`. `cache` remembers the last answer.
///
/// # Errors
/// rpm cannot be asked.
pub fn packages(root: &Path, cache: Option<&Path>, processes: &dyn Processes) -> Result<Inventory, ObserveError> {
    let stamp = stamp(root);
    if let (Some(cache), Some(stamp)) = (cache, stamp)
        && let Ok(Some(bytes)) = files::read(cache, BYTES as u64)
        && let Ok(kept) = serde_json::from_slice::<Kept>(&bytes)
        && kept.stamp == stamp
    {
        return Ok(kept.inventory);
    }
    let folder = root.display().to_string();
    let mut args = vec!["-qa", "--qf", QUERY_FORMAT];
    if root != Path::new("/") {
        args.extend(["--root", &folder]);
    }
    let task = Task::new("rpm", &args).limit(Duration::from_secs(120)).whole(BYTES);
    let finished = processes.run(&task).map_err(|error| ObserveError(format!("rpm: {error}")))?;
    if !finished.success() || finished.cut {
        let text = finished.text();
        let last = text.lines().last().unwrap_or("it failed").chars().take(300).collect::<String>();
        return Err(ObserveError(format!("rpm: {last}")));
    }
    let inventory = Inventory::parse(&finished.text());
    if let (Some(cache), Some(stamp)) = (cache, stamp) {
        let kept = Kept { stamp, inventory };
        // Not being able to remember is no reason not to know.
        let _ = serde_json::to_vec(&kept).map(|bytes| files::write(cache, &bytes, 0o600));
        return Ok(kept.inventory);
    }
    Ok(inventory)
}

/// What tells one state of rpm's database from another: its files with size, time and number. Nothing if there is none.
fn stamp(root: &Path) -> Option<Digest> {
    let mut seen = Vec::new();
    for folder in ["usr/lib/sysimage/rpm", "var/lib/rpm"] {
        for name in ["rpmdb.sqlite", "rpmdb.sqlite-wal", "Packages", "Packages.db"] {
            if let Ok(meta) = fs::metadata(root.join(folder).join(name)) {
                seen.push(format!(
                    "{folder}/{name} {} {} {} {}",
                    meta.ino(),
                    meta.size(),
                    meta.mtime(),
                    meta.mtime_nsec()
                ));
            }
        }
    }
    (!seen.is_empty()).then(|| Digest::of(seen.join("\n").as_bytes()))
}

/// Adds what is asked for by path and is there, which rpm's list of capabilities does not tell.
pub fn add_paths(root: &Path, kickstart: &Kickstart, inventory: &mut Inventory) {
    for entry in &kickstart.packages.install {
        if let PackageSpec::Package(path) = &entry.spec
            && let Some(relative) = path.strip_prefix('/')
            && root.join(relative).exists()
        {
            inventory.add_path(path);
        }
    }
}
