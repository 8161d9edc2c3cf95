//! Files that are kept on disk, each named by its digest, the longest unused given up when there are too many.
//!
//! A file that was there before this program started is read and checked before it is used. Who reads a file goes on reading it when it
//! is given up.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA256};
use rocks_common::ids::Sha256;
use rocks_common::index::Entry;

/// How many bytes are read at a time.
const PIECE: usize = 128 << 10;
/// How long nothing is begun after the disk was full.
const FULL: Duration = Duration::from_secs(30);

struct Held {
    size: u64,
    /// When it was used last, counted in uses.
    used: u64,
    /// Whether its bytes were seen to be the right ones since this program started.
    checked: bool,
}

#[derive(Default)]
struct State {
    held: HashMap<Sha256, Held>,
    /// Bytes of what is held and of what is coming.
    total: u64,
    uses: u64,
    parts: u64,
    /// The disk was full: until then nothing is begun.
    full_until: Option<Instant>,
}

/// The cache.
pub struct Cache {
    folder: PathBuf,
    limit: u64,
    state: Mutex<State>,
}

impl Cache {
    /// The cache in `folder`, of at most `limit` bytes. What an earlier one did not finish is removed.
    ///
    /// # Errors
    /// The file system's.
    pub fn open(folder: &Path, limit: u64) -> io::Result<Arc<Self>> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let mut there = Vec::new();
        for item in fs::read_dir(folder)?.flatten() {
            let name = item.file_name();
            let name = name.to_string_lossy();
            if name.ends_with(".part") {
                let _ = fs::remove_file(item.path());
            } else if let (Ok(digest), Ok(meta)) = (name.parse::<Sha256>(), item.metadata()) {
                there.push((meta.modified().ok(), digest, meta.len()));
            }
        }
        there.sort_by_key(|(modified, ..)| *modified);
        let mut state = State::default();
        for (_, digest, size) in there {
            state.uses += 1;
            state.total += size;
            state.held.insert(digest, Held { size, used: state.uses, checked: false });
        }
        let cache = Self { folder: folder.to_path_buf(), limit, state: Mutex::new(state) };
        cache.give_up(&mut cache.lock(), 0);
        Ok(Arc::new(cache))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, digest: Sha256) -> PathBuf {
        self.folder.join(digest.to_string())
    }

    /// Gives files up until `more` bytes fit; says whether they do.
    fn give_up(&self, state: &mut State, more: u64) -> bool {
        while state.total.saturating_add(more) > self.limit {
            let Some(oldest) = state.held.iter().min_by_key(|(_, held)| held.used).map(|(digest, _)| *digest) else {
                return false;
            };
            self.forget(state, oldest);
        }
        true
    }

    fn forget(&self, state: &mut State, digest: Sha256) {
        if let Some(held) = state.held.remove(&digest) {
            state.total -= held.size;
            let _ = fs::remove_file(self.path(digest));
        }
    }

    /// Bytes that are held or coming.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.lock().total
    }

    /// The file of `entry`, if it is held and known to be right.
    #[must_use]
    pub fn get(&self, entry: Entry) -> Option<File> {
        let mut state = self.lock();
        state.uses += 1;
        let uses = state.uses;
        let held = state.held.get_mut(&entry.digest).filter(|held| held.checked && held.size == entry.size)?;
        held.used = uses;
        let opened = File::open(self.path(entry.digest)).ok();
        if opened.is_none() {
            // Somebody tidied up.
            self.forget(&mut state, entry.digest);
        }
        opened
    }

    /// Reads the file of `entry` if it is held and was not checked yet; a wrong one is removed. Blocks.
    pub fn check(&self, entry: Entry) {
        let is_new = |held: &Held| !held.checked;
        if !self.lock().held.get(&entry.digest).is_some_and(is_new) {
            return;
        }
        let right = File::open(self.path(entry.digest)).and_then(|file| digest_of(&file, entry.size));
        let mut state = self.lock();
        let held = state.held.get_mut(&entry.digest).filter(|held| held.size == entry.size);
        if let (Ok(true), Some(held)) = (right.map(|digest| digest == entry.digest), held) {
            held.checked = true;
            return;
        }
        tracing::warn!("{} in the cache was damaged and is fetched again", entry.digest);
        self.forget(&mut state, entry.digest);
    }

    /// A place for a file of `size` bytes that is coming.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] when the cache is too small for it; else the file system's.
    pub fn part(self: &Arc<Self>, size: u64) -> io::Result<Part> {
        let mut state = self.lock();
        if state.full_until.is_some_and(|until| until > Instant::now()) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the disk is full"));
        }
        if !self.give_up(&mut state, size) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the cache is too small"));
        }
        state.parts += 1;
        let path = self.folder.join(format!("{}.part", state.parts));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        state.total += size;
        Ok(Part { file: Arc::new(file), path, size, cache: self.clone() })
    }

    /// Takes note that the disk had no room for `size` bytes: as much is given up, and for a while nothing is begun.
    pub fn is_full(&self, size: u64) {
        let mut state = self.lock();
        state.full_until = Some(Instant::now() + FULL);
        let more = self.limit.saturating_sub(state.total).saturating_add(size);
        let _ = self.give_up(&mut state, more);
    }

    /// Gives all files up.
    pub fn clear(&self) {
        let mut state = self.lock();
        let all: Vec<Sha256> = state.held.keys().copied().collect();
        for digest in all {
            self.forget(&mut state, digest);
        }
    }
}

/// The digest of a file, which must have `size` bytes.
fn digest_of(file: &File, size: u64) -> io::Result<Sha256> {
    if file.metadata()?.len() != size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut context = Context::new(&SHA256);
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    loop {
        match file.read_at(&mut piece, at)? {
            0 => return Ok(Sha256::from_digest(&context.finish())),
            n => {
                context.update(&piece[..n]);
                at += n as u64;
            }
        }
    }
}

/// A file that is coming. Unless it is kept it goes with this value.
pub struct Part {
    file: Arc<File>,
    path: PathBuf,
    size: u64,
    cache: Arc<Cache>,
}

impl Part {
    /// The file, to write and to read.
    #[must_use]
    pub fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    /// Keeps it as the file with this digest, which the caller has seen to be right.
    ///
    /// # Errors
    /// The file system's.
    pub fn keep(mut self, digest: Sha256) -> io::Result<()> {
        let mut state = self.cache.lock();
        fs::rename(&self.path, self.cache.path(digest))?;
        state.uses += 1;
        let held = Held { size: self.size, used: state.uses, checked: true };
        if let Some(before) = state.held.insert(digest, held) {
            state.total -= before.size;
        }
        drop(state);
        // Its bytes are the held file's now.
        self.size = 0;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        self.cache.lock().total -= self.size;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(content: &[u8]) -> Entry {
        Entry { digest: Sha256::of(content), size: content.len() as u64 }
    }

    fn put(cache: &Arc<Cache>, content: &[u8]) -> io::Result<()> {
        let part = cache.part(content.len() as u64)?;
        part.file().write_all_at(content, 0)?;
        part.keep(entry(content).digest)
    }

    fn has(cache: &Cache, content: &[u8]) -> bool {
        cache.check(entry(content));
        let mut bytes = Vec::new();
        cache.get(entry(content)).is_some_and(|mut file| {
            io::Read::read_to_end(&mut file, &mut bytes).expect("read");
            bytes == content
        })
    }

    #[test]
    fn it_never_holds_more_than_its_limit_and_gives_up_what_was_not_used_longest() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::open(folder.path(), 100).expect("opened");
        let files: Vec<Vec<u8>> = (0..5u8).map(|n| vec![n; 30]).collect();
        for file in &files[..3] {
            put(&cache, file).expect("put");
        }
        assert!(has(&cache, &files[0]));
        put(&cache, &files[3]).expect("put");
        assert_eq!([0, 1, 2, 3].map(|n| has(&cache, &files[n])), [true, false, true, true]);
        // What is coming counts, and what is read while it is given up can be read to its end.
        let open = cache.get(entry(&files[0])).expect("held");
        let part = cache.part(90).expect("room");
        assert_eq!(cache.total(), 90);
        assert_eq!(digest_of(&open, 30).expect("read"), entry(&files[0]).digest);
        assert_eq!(cache.part(20).err().map(|error| error.kind()), Some(io::ErrorKind::StorageFull));
        drop(part);
        assert_eq!(cache.total(), 0);
        assert!(cache.part(101).is_err());
        assert_eq!(fs::read_dir(folder.path()).expect("read").count(), 0);
    }

    #[test]
    fn what_it_finds_is_checked_before_it_is_used() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::open(folder.path(), 100).expect("opened");
        for content in [b"right", b"wrong", b"short"] {
            put(&cache, content).expect("put");
        }
        fs::write(cache.path(entry(b"wrong").digest), b"WRONG").expect("written");
        fs::write(cache.path(entry(b"short").digest), b"shor").expect("written");
        fs::write(folder.path().join("7.part"), b"half").expect("written");
        let cache = Cache::open(folder.path(), 100).expect("opened");
        assert_eq!(cache.total(), 14);
        assert!(cache.get(entry(b"right")).is_none(), "it was not checked yet");
        assert_eq!([b"right", b"wrong", b"short"].map(|content| has(&cache, content)), [true, false, false]);
        assert_eq!(fs::read_dir(folder.path()).expect("read").count(), 1);
        // A smaller limit than before.
        let cache = Cache::open(folder.path(), 4).expect("opened");
        assert_eq!(cache.total(), 0);
    }
}
