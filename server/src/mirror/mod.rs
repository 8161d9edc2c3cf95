//! The RPM mirror: many folders of RPMs become one repository per architecture, with repodata that any dnf can use.
//!
//! Everything published is named by its content: a package lies under its own digest, and so does each metadata file.
//! Only `repomd.xml` is ever replaced, by one rename, after all that it names is in place. A client that holds an older
//! `repomd.xml` therefore finds everything that it names until that generation is collected. This room never runs a
//! program and never takes a package out of a folder that it was given.
//!
//! ```text
//! ROOT/rocks-dist/ARCH/Packages/DI/DIGEST/NAME.rpm      hard link or copy
//! ROOT/rocks-dist/ARCH/repodata/{repomd.xml,DIGEST-primary.xml.gz,...}
//! ROOT/cache/{index.json,DIGEST.json}                    what was read of each file, so that it is read once
//! ROOT/generations-ARCH.json                            what each kept repomd.xml names
//! ```

pub mod header;
pub mod index;
mod publish;
mod rebuild;
pub mod repodata;
pub mod serve;
pub mod upstream;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use rebuild::{Finding, Options, Progress, Summary};

/// Why the mirror could not be rebuilt. What was published before stays as it was.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// A file or folder could not be read or written.
    #[error("cannot {what} {}{}", path.display(), if is_full(source) { " (the disk is full)" } else { "" })]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// An architecture's name that cannot be a folder's.
    #[error("{0:?} is not the name of an architecture")]
    Arch(String),
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

/// Gives an I/O error what was tried and on what.
trait Context<T> {
    /// See the trait.
    fn context(self, what: &'static str, path: &Path) -> Result<T, MirrorError>;
}

impl<T> Context<T> for std::io::Result<T> {
    fn context(self, what: &'static str, path: &Path) -> Result<T, MirrorError> {
        self.map_err(|source| MirrorError::Io { what, path: path.to_owned(), source })
    }
}

/// A mirror in a folder of its own.
#[derive(Debug, Clone)]
pub struct Mirror {
    root: PathBuf,
}

impl Mirror {
    /// The mirror in `root`, which is made when it is not there.
    ///
    /// # Errors
    /// When the folders cannot be made.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, MirrorError> {
        let root = root.into();
        for folder in [root.join("rocks-dist"), root.join("cache")] {
            std::fs::create_dir_all(&folder).context("make the folder", &folder)?;
        }
        Ok(Self { root })
    }

    /// Its folder; `rocks-dist` below it is what is served.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether anything has been published.
    #[must_use]
    pub fn is_published(&self) -> bool {
        let arches = std::fs::read_dir(self.root.join("rocks-dist")).into_iter().flatten().flatten();
        arches.into_iter().any(|arch| arch.path().join("repodata/repomd.xml").exists())
    }

    /// Publishes the RPMs in `inputs` (folders, read with all below them, the first winning over later ones) for each
    /// architecture of `options`. Publishes nothing when nothing changed. Runs of several processes take turns.
    ///
    /// A file that is no RPM is a [`Finding`], not an error. Blocks: call it from a thread that may.
    ///
    /// # Errors
    /// [`MirrorError`] when a folder cannot be read or the result cannot be written.
    pub fn rebuild(
        &self,
        inputs: &[PathBuf],
        options: &Options,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Summary, MirrorError> {
        rebuild::rebuild(&self.root, inputs, options, progress)
    }
}
