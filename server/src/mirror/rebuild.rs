//! From folders to the list of packages that each architecture publishes: find, read what is new, choose.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{BufReader, Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering as Atomic};

use aws_lc_rs::digest;
use rocks_common::evr::Evr;
use serde::{Deserialize, Serialize};

use super::repodata::{FileFacts, Fragments, fragments};
use super::{Context, MirrorError, header, publish};

/// Folders below an input that are followed down.
const DEPTH: usize = 16;

/// What to publish.
#[derive(Debug, Clone)]
pub struct Options {
    /// Architectures, each a repository of its own: `x86_64`, `aarch64`.
    pub arches: Vec<String>,
    /// Publish every version, not only the newest of each name and architecture.
    pub all_versions: bool,
    /// How many generations stay downloadable besides the newest.
    pub keep_generations: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { arches: vec![std::env::consts::ARCH.to_owned()], all_versions: false, keep_generations: 3 }
    }
}

/// How far a rebuild is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// This many RPM files were found.
    Found(usize),
    /// This many of the files that had to be read have been.
    Read {
        /// Files read.
        done: usize,
        /// Files to read.
        of: usize,
    },
}

/// Something wrong with an input that did not stop the rebuild.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub path: PathBuf,
    /// What is wrong, and what was done about it.
    pub message: String,
}

/// What a rebuild did.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// RPM files found.
    pub files: usize,
    /// Those that had to be read because they were new or changed.
    pub read: usize,
    /// Packages in each architecture's repository.
    pub packages: BTreeMap<String, usize>,
    /// Architectures whose `repomd.xml` was replaced.
    pub published: Vec<String>,
    /// What was wrong.
    pub findings: Vec<Finding>,
}

/// What tells that a file is the one that was read before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    size: u64,
    inode: u64,
    device: u64,
    mtime: (i64, i64),
}

impl Stamp {
    fn of(meta: &fs::Metadata) -> Self {
        // Not the time of the last status change: our own hard link to the file moves it.
        Self { size: meta.len(), inode: meta.ino(), device: meta.dev(), mtime: (meta.mtime(), meta.mtime_nsec()) }
    }
}

/// A file as it was read: enough to choose and to publish it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    stamp: Stamp,
    /// SHA-256 in hex.
    pub(super) digest: String,
    /// Name of the package.
    pub(super) name: String,
    /// Its architecture.
    pub(super) arch: String,
    epoch: u32,
    version: String,
    release: String,
    /// Its place below the repository's root.
    pub(super) href: String,
}

impl Entry {
    fn evr(&self) -> Evr {
        Evr { epoch: self.epoch, version: self.version.clone(), release: Some(self.release.clone()) }
    }

    fn nevra(&self) -> String {
        format!("{}-{}:{}-{}.{}", self.name, self.epoch, self.version, self.release, self.arch)
    }
}

/// A file to publish and where it lies.
pub(super) struct Chosen<'a> {
    pub(super) path: &'a Path,
    pub(super) entry: &'a Entry,
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub(super) fn rebuild(
    root: &Path,
    inputs: &[PathBuf],
    options: &Options,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Summary, MirrorError> {
    for arch in &options.arches {
        if arch.is_empty() || !arch.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(MirrorError::Arch(arch.clone()));
        }
    }
    let lock_path = root.join("lock");
    let lock = File::create(&lock_path).context("open the lock", &lock_path)?;
    lock.lock().context("take the lock", &lock_path)?;

    let mut summary = Summary::default();
    let mut files = Vec::new();
    for input in inputs {
        walk(input, 0, &mut files)?;
    }
    let mut seen = BTreeSet::new();
    files.retain(|f| seen.insert(f.clone()));
    summary.files = files.len();
    progress(Progress::Found(files.len()));

    let index_path = root.join("cache/index.json");
    // A cache that cannot be read costs a full read and nothing else.
    let index: HashMap<PathBuf, Entry> =
        fs::read(&index_path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let (entries, read) = read_all(root, &files, &index, progress, &mut summary.findings)?;
    summary.read = read;
    if entries != index {
        publish::write_atomic(&index_path, &serde_json::to_vec(&entries).unwrap_or_default())?;
    }

    for arch in &options.arches {
        let chosen = choose(arch, &files, &entries, options.all_versions, &mut summary.findings);
        summary.packages.insert(arch.clone(), chosen.len());
        if publish::publish(root, arch, &chosen, options.keep_generations)? {
            summary.published.push(arch.clone());
        }
    }
    if read > 0 || entries.len() != index.len() {
        publish::collect_cache(root, entries.values().map(|e| e.digest.as_str()).collect());
    }
    summary.findings.sort_by(|a, b| (&a.path, &a.message).cmp(&(&b.path, &b.message)));
    summary.findings.dedup();
    Ok(summary)
}

/// The RPM files below `folder`, in a stable order. Links are followed to files, never to folders.
fn walk(folder: &Path, depth: usize, out: &mut Vec<PathBuf>) -> Result<(), MirrorError> {
    let mut names = Vec::new();
    for item in fs::read_dir(folder).context("read the folder", folder)? {
        names.push(item.context("read the folder", folder)?);
    }
    names.sort_by_key(fs::DirEntry::file_name);
    for item in names {
        let path = item.path();
        let kind = item.file_type().context("look at", &path)?;
        if kind.is_dir() && depth < DEPTH {
            walk(&path, depth + 1, out)?;
        } else if path.extension().is_some_and(|e| e == "rpm") && path.is_file() {
            out.push(path);
        }
    }
    Ok(())
}

type Entries = HashMap<PathBuf, Entry>;

/// The entry of each file, from the cache where its stamp is the same, else read, on all processors.
fn read_all(
    root: &Path,
    files: &[PathBuf],
    index: &Entries,
    progress: &(dyn Fn(Progress) + Sync),
    findings: &mut Vec<Finding>,
) -> Result<(Entries, usize), MirrorError> {
    let mut entries = Entries::new();
    let mut todo = Vec::new();
    for path in files {
        let stamp = fs::metadata(path).map(|m| Stamp::of(&m)).ok();
        match index.get(path) {
            Some(e) if Some(&e.stamp) == stamp.as_ref() && publish::cache_path(root, &e.digest).exists() => {
                entries.insert(path.clone(), e.clone());
            }
            _ => todo.push(path),
        }
    }
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from).min(todo.len()) {
            scope.spawn(|| {
                while let Some(path) = todo.get(next.fetch_add(1, Atomic::Relaxed)) {
                    let result = read_one(root, path);
                    let is_fatal = matches!(&result, Err(ReadError::Mirror(_)));
                    results.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((*path, result));
                    progress(Progress::Read { done: done.fetch_add(1, Atomic::Relaxed) + 1, of: todo.len() });
                    if is_fatal {
                        next.store(todo.len(), Atomic::Relaxed);
                    }
                }
            });
        }
    });
    for (path, result) in results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        match result {
            Ok(entry) => {
                entries.insert(path.clone(), entry);
            }
            Err(ReadError::Header(e)) => {
                let cause = std::error::Error::source(&e).map(|c| format!(": {c}")).unwrap_or_default();
                findings.push(Finding { path: path.clone(), message: format!("left out: {e}{cause}") });
            }
            Err(ReadError::Mirror(e)) => return Err(e),
        }
    }
    Ok((entries, todo.len()))
}

enum ReadError {
    Header(header::HeaderError),
    Mirror(MirrorError),
}

impl From<header::HeaderError> for ReadError {
    fn from(e: header::HeaderError) -> Self {
        Self::Header(e)
    }
}

impl From<std::io::Error> for ReadError {
    fn from(e: std::io::Error) -> Self {
        Self::Header(e.into())
    }
}

fn read_one(root: &Path, path: &Path) -> Result<Entry, ReadError> {
    let mut file = File::open(path)?;
    let meta = file.metadata()?;
    let package = header::read(&mut BufReader::new(&file))?;
    file.rewind()?;
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; 128 << 10];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
    }
    let digest = hex(hash.finish().as_ref());
    let p = &package;
    // Named by the header, not by the file: nothing that somebody called a file reaches a URL.
    let base: String = format!("{}-{}-{}.{}.rpm", p.name, p.version, p.release, p.arch)
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._+~^-".contains(c) { c } else { '_' })
        .take(200)
        .collect();
    let href = format!("Packages/{}/{digest}/{}", &digest[..2], base.trim_start_matches('.'));
    let facts = FileFacts { digest: &digest, size: meta.len(), mtime: meta.mtime(), href: &href };
    let cached = publish::cache_path(root, &digest);
    let text = serde_json::to_vec(&fragments(&package, &facts)).unwrap_or_default();
    publish::write_atomic(&cached, &text).map_err(ReadError::Mirror)?;
    Ok(Entry {
        stamp: Stamp::of(&meta),
        digest,
        name: package.name,
        arch: package.arch,
        epoch: package.epoch,
        version: package.version,
        release: package.release,
        href,
    })
}

/// The pieces of a package that was read.
pub(super) fn cached(root: &Path, digest: &str) -> Result<Fragments, MirrorError> {
    let path = publish::cache_path(root, digest);
    let text = fs::read(&path).context("read the cache", &path)?;
    serde_json::from_slice(&text).map_err(std::io::Error::from).context("read the cache", &path)
}

/// Whether a machine of `arch` can install packages of `package`.
pub(super) fn is_compatible(arch: &str, package: &str) -> bool {
    package == "noarch" || package == arch || (arch == "x86_64" && matches!(package, "i386" | "i486" | "i586" | "i686"))
}

fn choose<'a>(
    arch: &str,
    files: &'a [PathBuf],
    entries: &'a Entries,
    all_versions: bool,
    findings: &mut Vec<Finding>,
) -> Vec<Chosen<'a>> {
    let mut by_nevra: BTreeMap<String, Chosen<'a>> = BTreeMap::new();
    for path in files {
        let Some(entry) = entries.get(path).filter(|e| is_compatible(arch, &e.arch)) else { continue };
        match by_nevra.entry(entry.nevra()) {
            std::collections::btree_map::Entry::Vacant(slot) => {
                slot.insert(Chosen { path, entry });
            }
            std::collections::btree_map::Entry::Occupied(slot) if slot.get().entry.digest != entry.digest => {
                let first = slot.get().path.display();
                let message = format!("left out: another file of {} with other content is {first}", entry.nevra());
                findings.push(Finding { path: path.clone(), message });
            }
            std::collections::btree_map::Entry::Occupied(_) => {}
        }
    }
    let mut chosen: Vec<_> = by_nevra.into_values().collect();
    chosen.sort_by(|a, b| {
        let key = |c: &Chosen<'_>| (c.entry.name.clone(), c.entry.arch.clone());
        key(a).cmp(&key(b)).then_with(|| b.entry.evr().compare(&a.entry.evr()))
    });
    if !all_versions {
        chosen.dedup_by(|b, a| {
            (&a.entry.name, &a.entry.arch) == (&b.entry.name, &b.entry.arch)
                && a.entry.evr().compare(&b.entry.evr()) != Ordering::Less
        });
    }
    chosen
}
