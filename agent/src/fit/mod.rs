//! Fix-ups: what the root file system of an image must be told when it becomes a machine in the cloud.
//!
//! The image was a machine elsewhere: it knows its disk by another name, has addresses, keys and logs of its own, and perhaps a password
//! that the whole world may now try. [`plan()`] looks at a root ([`View`]) and says what has to change, as a list of [`Edit`]s; it is made of
//! small functions from text to text, one room each. [`execute()`] does it and decides nothing. [`image`] finds the root file system
//! in a disk or file and mounts it where nobody else sees it. What is fitted already gives no edits.

pub mod accounts;
pub mod boot;
pub mod execute;
pub mod fstab;
pub mod grubenv;
pub mod image;
pub mod network;
pub mod plan;
pub mod probe;
pub mod traces;
pub mod tree;

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use execute::execute;
pub use plan::plan;
pub use probe::Volume;
pub use tree::Tree;

/// Most bytes of a file that is read to be changed. A generated `grub.cfg` has some 20 kB.
pub const FILE_BYTES: u64 = 4 << 20;

/// What is wanted of a root.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Wish {
    /// What `root=` and the root's line in fstab shall say: `UUID=...`, `LABEL=...`, `/dev/sda1`. When not given, the file system's own
    /// UUID.
    pub root: Option<String>,
    /// The join document for the agent.
    pub join: Option<Join>,
}

/// A join document: its token is secret, so it has no shape that could be printed.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Join(pub String);

impl std::fmt::Debug for Join {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Join(..)")
    }
}

/// What is known of the disk that a root is on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disk {
    /// Its file systems and swap spaces.
    pub volumes: Vec<Volume>,
    /// Which of them is the root.
    pub root: usize,
}

impl Disk {
    /// The root.
    #[must_use]
    pub fn root(&self) -> Option<&Volume> {
        self.volumes.get(self.root)
    }
}

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Missing,
    /// A file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A device, a pipe, a socket.
    Other,
}

/// A root that is looked at. Paths have no slash at their beginning.
pub trait View {
    /// The text of the file at `path`, links followed; nothing if it is not there or no file. Each byte becomes one character
    /// (Latin-1), so that whatever encoding it has survives.
    ///
    /// # Errors
    /// It cannot be read.
    fn text(&self, path: &str) -> Result<Option<String>, FitError>;

    /// The names in the folder at `path`, in order; none if it is not there.
    ///
    /// # Errors
    /// It cannot be read.
    fn names(&self, path: &str) -> Result<Vec<String>, FitError>;

    /// What stands at `path`, a link at its end not followed.
    fn kind(&self, path: &str) -> Kind;

    /// Whether there is something at `path`.
    fn has(&self, path: &str) -> bool {
        self.kind(path) != Kind::Missing
    }
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// Where, without a slash at its beginning.
    pub path: String,
    /// What is done there.
    pub act: Act,
    /// Why, for people.
    pub why: String,
}

/// What is done at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// The file says this now (Latin-1). A new one gets the permissions `mode`; one that is there keeps its own and its owner.
    Write {
        /// What it says.
        text: String,
        /// Permissions, if it is new.
        mode: u32,
    },
    /// The file, or the folder with everything in it, is removed; a link, not what it points to.
    Remove,
    /// A symbolic link.
    Link {
        /// To here.
        to: String,
    },
}

impl Edit {
    /// Another text for a file.
    #[must_use]
    pub fn write(path: &str, text: String, mode: u32, why: impl Into<String>) -> Self {
        Self { path: path.to_owned(), act: Act::Write { text, mode }, why: why.into() }
    }

    /// A file or folder goes.
    #[must_use]
    pub fn remove(path: impl Into<String>, why: impl Into<String>) -> Self {
        Self { path: path.into(), act: Act::Remove, why: why.into() }
    }
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// What the root is called.
    pub root: String,
    /// The changes, in their order.
    pub edits: Vec<Edit>,
    /// What somebody should know.
    pub notes: Vec<String>,
}

/// A change that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Where.
    pub path: String,
    /// What, and why.
    pub what: String,
}

/// What fitting came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fitted {
    /// What the root is called now.
    pub root: String,
    /// What was changed; nothing if it was fitted already.
    pub changes: Vec<Change>,
    /// What somebody should know.
    pub notes: Vec<String>,
}

impl Fitted {
    /// For people.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out: String = self.changes.iter().map(|c| format!("{}: {}\n", c.path, c.what)).collect();
        self.notes.iter().for_each(|note| out.push_str(&format!("note: {note}\n")));
        match self.changes.len() {
            0 => out.push_str(&format!("nothing to change; the root is {}\n", self.root)),
            n => out.push_str(&format!("fitted: {n} changes; the root is {}\n", self.root)),
        }
        out
    }
}

/// Why a root was not fitted.
#[derive(Debug, thiserror::Error)]
pub enum FitError {
    /// The file system's.
    #[error("{}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no root file system, or more than one.
    #[error("{0}")]
    Root(String),
    /// Nothing says what the root will be called.
    #[error("nothing says what the root will be called")]
    Unnamed,
    /// The root of the machine that runs.
    #[error("this is the root of the running machine: only images are fitted")]
    Running,
    /// A file system could not be mounted or unmounted.
    #[error("{what} failed: {output}")]
    Mount {
        /// Which command.
        what: String,
        /// What it said.
        output: String,
    },
    /// A file has no room for what it must say.
    #[error("/{path}: {why}")]
    File {
        /// Which.
        path: String,
        /// Why.
        why: String,
    },
    /// What works in the private place failed.
    #[error("{0}")]
    Inside(String),
}

impl FitError {
    /// What to do about it.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unnamed => Some("say it: --root-device UUID=..., LABEL=... or /dev/sda1"),
            Self::Running => Some("say which: --root DIR, a disk or an image file"),
            Self::Mount { .. } => Some("mounting needs root, loop devices, and a kernel that knows the file system"),
            _ => None,
        }
    }

    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// Bytes as characters, one each.
#[must_use]
pub fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// Back again; what is no Latin-1 becomes `?`, and is never made here.
#[must_use]
pub fn bytes_of(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect()
}

#[cfg(test)]
pub(crate) mod fake {
    //! A root in memory.

    use std::collections::BTreeMap;

    use super::*;

    /// Files by their path; a text that begins with `->` is a link.
    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    pub(crate) struct Fake(pub(crate) BTreeMap<String, String>);

    impl Fake {
        pub(crate) fn new(files: &[(&str, &str)]) -> Self {
            Self(files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect())
        }

        pub(crate) fn apply(&mut self, edits: &[Edit]) {
            for edit in edits {
                match &edit.act {
                    Act::Write { text, .. } => drop(self.0.insert(edit.path.clone(), text.clone())),
                    Act::Link { to } => drop(self.0.insert(edit.path.clone(), format!("->{to}"))),
                    Act::Remove => {
                        let below = format!("{}/", edit.path);
                        self.0.retain(|path, _| *path != edit.path && !path.starts_with(&below));
                    }
                }
            }
        }
    }

    impl View for Fake {
        fn text(&self, path: &str) -> Result<Option<String>, FitError> {
            Ok(self.0.get(path).cloned())
        }

        fn names(&self, path: &str) -> Result<Vec<String>, FitError> {
            let below = format!("{path}/");
            let mut names: Vec<String> = Vec::new();
            for file in self.0.keys().filter_map(|file| file.strip_prefix(&below)) {
                let name = file.split('/').next().unwrap_or_default().to_owned();
                if names.last() != Some(&name) && !name.is_empty() {
                    names.push(name);
                }
            }
            Ok(names)
        }

        fn kind(&self, path: &str) -> Kind {
            match self.0.get(path) {
                Some(text) if text.starts_with("->") => Kind::Link,
                Some(_) => Kind::File,
                None if self.0.keys().any(|file| file.starts_with(&format!("{path}/"))) => Kind::Folder,
                None => Kind::Missing,
            }
        }
    }
}
