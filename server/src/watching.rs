//! Which folders of rolls are watched for changes: those that are there now, and not others that bore their names.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// What tells a folder from another of its name: device and inode, and when it was made, for inodes are used again.
type Folder = (u64, u64, Option<SystemTime>);

fn folder(path: &Path) -> Option<Folder> {
    let found = fs::metadata(path).ok()?;
    Some((found.dev(), found.ino(), found.created().ok()))
}

/// Folders that are watched.
pub struct Watching<W = notify::RecommendedWatcher> {
    watcher: W,
    watched: HashMap<PathBuf, Folder>,
    /// Those that could not be watched, and of which that was said.
    failed: HashSet<PathBuf>,
}

impl Watching {
    /// Watches nothing yet; what changes in what it will watch is told to `reload`. None if nothing can be watched here.
    #[must_use]
    pub fn new(reload: &mpsc::Sender<()>) -> Option<Self> {
        let sender = reload.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading a file is an event too.
            if event.is_ok_and(|event| !event.kind.is_access()) {
                let _ = sender.try_send(());
            }
        });
        let watcher = watcher.inspect_err(|error| tracing::warn!("roll folders are not watched: {error}")).ok()?;
        Some(Self::with(watcher))
    }
}

impl<W: Watcher> Watching<W> {
    fn with(watcher: W) -> Self {
        Self { watcher, watched: HashMap::new(), failed: HashSet::new() }
    }

    /// Watches these folders, and no others any more. Says whether there is one among them that was not watched until now, or is another one: what
    /// changed there before was told by nobody.
    pub fn update(&mut self, paths: &HashSet<PathBuf>) -> bool {
        let mut is_new = false;
        let watcher = &mut self.watcher;
        self.watched.retain(|path, known| {
            let is_wanted = paths.contains(path);
            let keep = is_wanted && folder(path).as_ref() == Some(known);
            if !keep {
                // That of a folder which is gone ended with it.
                let _ = watcher.unwatch(path);
                is_new |= is_wanted;
            }
            keep
        });
        self.failed.retain(|path| paths.contains(path));
        for path in paths {
            if self.watched.contains_key(path) {
                continue;
            }
            // Looked at first: one that takes its place while it begins to be watched is found to be another the next time.
            let watched = match folder(path) {
                Some(folder) => self.watcher.watch(path, RecursiveMode::Recursive).map(|()| folder),
                None => Err(notify::Error::path_not_found()),
            };
            match watched {
                Ok(folder) => {
                    self.watched.insert(path.clone(), folder);
                    self.failed.remove(path);
                    is_new = true;
                }
                Err(error) => {
                    if self.failed.insert(path.clone()) {
                        tracing::warn!("{} is not watched, and will be when it can: {error}", path.display());
                    }
                }
            }
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use notify::{Config, EventHandler, Result, WatcherKind};

    use super::*;

    /// Watches nothing, or refuses to, and remembers what it was told.
    #[derive(Debug, Default)]
    struct Told {
        refuses: bool,
        watched: Vec<PathBuf>,
        unwatched: Vec<PathBuf>,
    }

    impl Watcher for Told {
        fn new<F: EventHandler>(_: F, _: Config) -> Result<Self> {
            Ok(Self::default())
        }
        fn watch(&mut self, path: &Path, _: RecursiveMode) -> Result<()> {
            if self.refuses {
                return Err(notify::Error::new(notify::ErrorKind::MaxFilesWatch));
            }
            self.watched.push(path.to_owned());
            Ok(())
        }
        fn unwatch(&mut self, path: &Path) -> Result<()> {
            self.unwatched.push(path.to_owned());
            Ok(())
        }
        fn kind() -> WatcherKind {
            WatcherKind::NullWatcher
        }
    }

    #[test]
    fn folders_that_took_the_place_of_others_are_watched_and_what_failed_is_tried_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let [roll, link, other] = ["roll", "link", "other"].map(|name| dir.path().join(name));
        for path in [&roll, &other] {
            fs::create_dir(path).expect("made");
        }
        std::os::unix::fs::symlink(&other, &link).expect("linked");
        let both = HashSet::from([roll.clone(), link.clone()]);
        let mut watching = Watching::with(Told { refuses: true, ..Told::default() });
        assert!(!watching.update(&both), "nothing can be watched");
        watching.watcher.refuses = false;
        assert!(watching.update(&both), "now it can");
        assert!(!watching.update(&both) && watching.watcher.unwatched.is_empty());

        // Moved away with another in its place, and a link that leads elsewhere.
        fs::rename(&roll, dir.path().join("old")).expect("moved");
        fs::create_dir(&roll).expect("made");
        assert!(watching.update(&both));
        fs::remove_file(&link).expect("removed");
        std::os::unix::fs::symlink(&roll, &link).expect("linked");
        assert!(watching.update(&both));
        assert_eq!(watching.watcher.unwatched, [roll.clone(), link.clone()]);
        assert_eq!(watching.watcher.watched.len(), 4);

        // Gone for a while: both that and that it is back is told.
        fs::remove_dir(&roll).expect("removed");
        assert!(watching.update(&both));
        assert!(!watching.update(&both));
        fs::create_dir(&roll).expect("made");
        assert!(watching.update(&both));
        // Whatever is not wanted any more is no news.
        assert!(!watching.update(&HashSet::new()) && watching.watched.is_empty());
    }
}
