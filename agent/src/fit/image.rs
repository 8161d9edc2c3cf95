//! The root file system of a disk or an image file: found, mounted where nobody else sees it, fitted, unmounted.
//!
//! The work is done by a second process of this program in a mount namespace of its own ([`inside()`]). Its loop devices are such that the
//! kernel takes them away with the mount, and the mount goes with the process: whatever kills either of us, nothing stays.
//! The kernel need not know partition tables: each file system is mounted by its place on the disk.

use std::fs::File;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Disk, FitError, Fitted, Kind, Tree, View as _, Volume, Wish, execute, fstab, plan, probe};
use crate::process::{Processes, Task};

/// Where the root is mounted, in a namespace that only one process has.
const PLACE: &str = "/run/rocks-agent/fit";
/// How long mounting, fitting and unmounting may take: an interrupted journal is replayed, what was shipped is written back.
const PATIENCE: Duration = Duration::from_secs(1800);
/// Most bytes of what the process inside says.
const ANSWER: usize = 4 << 20;
/// File systems of the root that hold what boots it.
const BOOT: [&str; 3] = ["/boot", "/boot/efi", "/efi"];

/// What the process inside is to do.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    /// The disk or image file.
    pub image: PathBuf,
    /// The partition that the root is on, when somebody said so.
    pub partition: Option<u32>,
    /// What is wanted.
    pub wish: Wish,
}

/// What the process inside answers, as one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is done.
    Fitted(Fitted),
    /// It is not, and what to do about it.
    Failed(String, Option<String>),
}

/// Fits the root at `path`: a folder, a disk, or an image file.
///
/// # Errors
/// See [`FitError`].
pub fn fit(path: &Path, partition: Option<u32>, wish: Wish, processes: &dyn Processes) -> Result<Fitted, FitError> {
    let meta = std::fs::metadata(path).map_err(FitError::io(path))?;
    if meta.is_dir() {
        let running = std::fs::metadata("/").map_err(FitError::io("/"))?;
        if (meta.dev(), meta.ino()) == (running.dev(), running.ino()) {
            return Err(FitError::Running);
        }
        let tree = Tree::open(path)?;
        let plan = plan(&tree, &wish, None)?;
        return execute(&tree, plan);
    }
    if !(meta.is_file() || meta.file_type().is_block_device()) {
        return Err(FitError::Root(format!("{} is neither a folder nor a disk nor an image file", path.display())));
    }
    let image = path.canonicalize().map_err(FitError::io(path))?;
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(PLACE).map_err(FitError::io(PLACE))?;
    let program = std::env::current_exe().map_err(FitError::io("/proc/self/exe"))?.display().to_string();
    let job =
        serde_json::to_vec(&Job { image, partition, wish }).map_err(|error| FitError::Inside(error.to_string()))?;
    // The join document is secret: it goes by standard input.
    let task = Task::new("unshare", &["--mount", "--propagation", "private", "--", &program, "fit-inside"]);
    let finished = processes.run(&task.input(job).limit(PATIENCE).whole(ANSWER)).map_err(FitError::io("unshare"))?;
    let said = finished.text();
    let answer = said.lines().rev().find_map(|line| serde_json::from_str::<Answer>(line).ok());
    match answer {
        Some(Answer::Fitted(fitted)) if finished.success() => {
            // What was written below goes the same way as what was shipped.
            let settled = File::options().write(true).open(path).and_then(|file| file.sync_all());
            settled.map_err(FitError::io(path))?;
            Ok(fitted)
        }
        Some(Answer::Failed(why, hint)) => {
            Err(FitError::Inside(hint.map_or(why.clone(), |hint| format!("{why}\nhint: {hint}"))))
        }
        _ => Err(FitError::Inside(format!(
            "what fits the image in a mount namespace of its own failed: {}",
            said.trim()
        ))),
    }
}

/// Does the job, in a process that has a mount namespace to itself.
///
/// # Errors
/// See [`FitError`].
pub fn inside(job: &Job, processes: &dyn Processes) -> Result<Fitted, FitError> {
    let file = File::open(&job.image).map_err(FitError::io(&job.image))?;
    let bytes = rocks_ship::image::length(&file).map_err(FitError::io(&job.image))?;
    let volumes = probe::volumes(&file, bytes).map_err(FitError::io(&job.image))?;
    drop(file);
    let mut mounts = Mounts { image: &job.image, processes, places: Vec::new() };
    let disk = find(&mut mounts, volumes, job.partition)?;
    let Some(root) = disk.root() else { return Err(FitError::Root("there is no root".to_owned())) };
    mounts.mount(root, Path::new(PLACE), true)?;
    let tree = Tree::open(Path::new(PLACE))?;
    let table = tree.text("etc/fstab")?.unwrap_or_default();
    let mut notes = Vec::new();
    for (place, volume) in fstab::mounted_at(&table, &disk, &BOOT) {
        // Mounting follows links, out of the image as well: only a plain folder will do.
        let path = place.trim_start_matches('/');
        let is_plain =
            path.match_indices('/').map(|(at, _)| &path[..at]).chain([path]).all(|p| tree.kind(p) == Kind::Folder);
        if is_plain {
            match mounts.mount(volume, &Path::new(PLACE).join(path), true) {
                // What firmware reads names the root by its UUID, which stays as it is; a small kernel need not know FAT for that.
                Err(FitError::Mount { output, .. }) if volume.kind == "vfat" => {
                    notes.push(format!("{place} was left as it is: {}", output.lines().next().unwrap_or_default()));
                }
                other => other?,
            }
        }
    }
    let mut planned = plan(&tree, &job.wish, Some(&disk))?;
    planned.notes.extend(notes);
    let fitted = execute(&tree, planned)?;
    drop(tree);
    mounts.end()?;
    Ok(fitted)
}

/// Which volume is the root: the one that was said, or the only one that looks like it.
fn find(mounts: &mut Mounts<'_>, volumes: Vec<Volume>, partition: Option<u32>) -> Result<Disk, FitError> {
    let mut roots = Vec::new();
    for (at, volume) in volumes.iter().enumerate().filter(|(_, volume)| volume.is_linux()) {
        if partition.is_some() && partition != volume.number {
            continue;
        }
        mounts.mount(volume, Path::new(PLACE), false)?;
        let tree = Tree::open(Path::new(PLACE))?;
        let is_root = tree.kind("etc") == Kind::Folder && (tree.has("usr") || tree.has("bin"));
        drop(tree);
        mounts.end()?;
        if is_root {
            roots.push(at);
        }
    }
    match roots[..] {
        [root] => Ok(Disk { volumes, root }),
        [] => Err(FitError::Root("no partition of it holds the root of a Linux system that this can mount".to_owned())),
        _ => {
            let numbers: Vec<String> =
                roots.iter().filter_map(|at| volumes[*at].number).map(|n| n.to_string()).collect();
            let message = format!("partitions {} all look like a root: say which with --partition", numbers.join(", "));
            Err(FitError::Root(message))
        }
    }
}

/// What is mounted, the outermost first. Whatever is left when it is dropped goes too.
struct Mounts<'m> {
    image: &'m Path,
    processes: &'m dyn Processes,
    places: Vec<PathBuf>,
}

impl Mounts<'_> {
    fn run(&self, program: &str, args: &[&str]) -> Result<(), FitError> {
        let what = || format!("`{program} {}`", args.join(" "));
        let finished = self.processes.run(&Task::new(program, args).limit(PATIENCE));
        let finished = finished.map_err(|error| FitError::Mount { what: what(), output: error.to_string() })?;
        let failed = || FitError::Mount { what: what(), output: finished.text().trim().to_owned() };
        if finished.success() { Ok(()) } else { Err(failed()) }
    }

    fn mount(&mut self, volume: &Volume, place: &Path, writable: bool) -> Result<(), FitError> {
        let mut options = format!("{},nosuid,nodev,noexec", if writable { "rw" } else { "ro" });
        let is_device = std::fs::metadata(self.image).is_ok_and(|meta| meta.file_type().is_block_device());
        if volume.number.is_some() || !is_device {
            let (at, length) = (volume.bytes.start, volume.bytes.end - volume.bytes.start);
            options.push_str(&format!(",loop,offset={at},sizelimit={length}"));
        }
        if volume.kind == "xfs" {
            // Two disks of one image in one machine have the same UUID.
            options.push_str(",nouuid");
        }
        let (image, at) = (self.image.display().to_string(), place.display().to_string());
        self.run("mount", &["-t", volume.kind, "-o", &options, &image, &at])?;
        self.places.push(place.to_owned());
        Ok(())
    }

    /// Unmounts everything.
    fn end(&mut self) -> Result<(), FitError> {
        while let Some(place) = self.places.last() {
            self.run("umount", &[&place.display().to_string()])?;
            self.places.pop();
        }
        Ok(())
    }
}

impl Drop for Mounts<'_> {
    fn drop(&mut self) {
        for place in self.places.drain(..).rev() {
            let task = Task::new("umount", &["--lazy", &place.display().to_string()]);
            // The namespace goes with this process in any case.
            let _ = self.processes.run(&task.limit(PATIENCE));
        }
    }
}
