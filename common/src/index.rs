//! The index of one architecture's repository: every file that a client may ask for, with its size and its digest.
//!
//! It is what makes it indifferent where a file comes from: an index is sealed by the frontend ([`crate::seal::IndexClaim`]), and whoever
//! has it knows of each byte whether it is the right one. Its text is
//!
//! ```text
//! rocks index 1
//! SHA256 SIZE PATH
//! ...
//! ```
//!
//! with one line for each file, in the order of the paths, each line ended by a line feed. Paths are below the repository's root. All files
//! are named by their content, so that what a path stands for never changes; `repodata/repomd.xml`, which does change, is in it as
//! `repodata/SHA256-repomd.xml`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::ids::Sha256;
use crate::limits;

/// The first line.
const TITLE: &str = "rocks index 1";
/// What a client asks for first, whatever the repository.
pub const REPOMD: &str = "repodata/repomd.xml";
/// What the name of that file ends with where it is named by its content.
const NAMED_REPOMD: &str = "-repomd.xml";

/// A file of the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its digest.
    pub digest: Sha256,
    /// Its size in bytes.
    pub size: u64,
}

/// The files of one architecture's repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    files: BTreeMap<Box<str>, Entry>,
    repomd: Option<Box<str>>,
}

/// Why a text is no index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the index: {why}")]
pub struct IndexError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: &'static str,
}

/// The name by which `repomd.xml` with this digest is found, whatever comes after it.
#[must_use]
pub fn named_repomd(digest: Sha256) -> String {
    format!("repodata/{digest}{NAMED_REPOMD}")
}

/// Whether `path` can stand in an index: some names between slashes, none of which could lead anywhere else or needs an escape in a URL.
fn check_path(path: &str) -> Result<(), &'static str> {
    if path.len() > limits::INDEX_PATH_BYTES {
        return Err("the path is too long");
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._+~^-".contains(&b);
    if !path.split('/').all(|part| !part.is_empty() && !part.starts_with('.') && part.bytes().all(plain)) {
        return Err("the path is not made of plain names");
    }
    Ok(())
}

impl Index {
    /// Reads an index.
    ///
    /// # Errors
    /// The first line that is not what it should be.
    pub fn parse(text: &str) -> Result<Self, IndexError> {
        let fail = |line, why| IndexError { line, why };
        if text.len() as u64 > limits::INDEX_BYTES {
            return Err(fail(1, "it is too large"));
        }
        let whole =
            text.strip_suffix('\n').ok_or_else(|| fail(text.lines().count().max(1), "its line does not end"))?;
        let mut lines = whole.split('\n').zip(1..);
        if lines.next().map(|(first, _)| first) != Some(TITLE) {
            return Err(fail(1, "it does not begin as an index of this version"));
        }
        let mut index = Self::default();
        for (line, number) in lines {
            let (path, entry) = read(line).map_err(|why| fail(number, why))?;
            if index.files.last_key_value().is_some_and(|(last, _)| **last >= *path) {
                return Err(fail(number, "the paths are not in order"));
            }
            index.add(path, entry).map_err(|why| fail(number, why))?;
        }
        Ok(index)
    }

    /// Adds a file.
    ///
    /// # Errors
    /// Why it cannot stand in an index.
    pub fn add(&mut self, path: &str, entry: Entry) -> Result<(), &'static str> {
        check_path(path)?;
        if entry.size > limits::MIRROR_FILE_BYTES {
            return Err("the file is too large");
        }
        if self.files.len() == limits::INDEX_FILES {
            return Err("there are too many files");
        }
        if path == named_repomd(entry.digest) && self.repomd.replace(path.into()).is_some() {
            return Err("there are two repomd.xml");
        }
        self.files.insert(path.into(), entry);
        Ok(())
    }

    /// Its text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{TITLE}\n");
        for (path, entry) in &self.files {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{} {} {path}", entry.digest, entry.size);
        }
        text
    }

    /// What is meant by `path`: the path of a file in this index, and the file. `repodata/repomd.xml` is found under its other name.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<(&str, Entry)> {
        let path = if path == REPOMD { self.repomd.as_deref()? } else { path };
        self.files.get_key_value(path).map(|(path, entry)| (&**path, *entry))
    }

    /// Every file, by path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Entry)> {
        self.files.iter().map(|(path, entry)| (&**path, *entry))
    }

    /// How many files there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}

fn read(line: &str) -> Result<(&str, Entry), &'static str> {
    let mut words = line.splitn(3, ' ');
    let mut word = || words.next().ok_or("it is not `SHA256 SIZE PATH`");
    let (digest, size, path) = (word()?, word()?, word()?);
    let digest = digest.parse().map_err(|_| "the digest is none")?;
    // One number has one text.
    let is_plain = size.bytes().all(|b| b.is_ascii_digit()) && (size == "0" || !size.starts_with('0'));
    let size = size.parse().ok().filter(|_| is_plain).ok_or("the size is none")?;
    Ok((path, Entry { digest, size }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(content: &str) -> Entry {
        Entry { digest: Sha256::of(content.as_bytes()), size: content.len() as u64 }
    }

    #[test]
    fn repomd_is_found_under_both_names() {
        let mut index = Index::default();
        let repomd = entry("<repomd/>");
        index.add(&named_repomd(repomd.digest), repomd).expect("added");
        index.add("Packages/aa/x/a-1-1.noarch.rpm", entry("a")).expect("added");
        let read = Index::parse(&index.text()).expect("its own text");
        assert_eq!(read, index);
        assert_eq!(read.find(REPOMD), Some((&*named_repomd(repomd.digest), repomd)));
        assert_eq!(read.find("Packages/aa/x/a-1-1.noarch.rpm").map(|(_, e)| e), Some(entry("a")));
        assert_eq!(read.find("Packages/aa/x/b-1-1.noarch.rpm"), None);
        // A name that is not that of its content is no repomd.xml.
        let mut other = Index::default();
        other.add(&named_repomd(repomd.digest), entry("x")).expect("added");
        assert_eq!(other.find(REPOMD), None);
    }

    #[test]
    fn what_is_no_index_is_told_with_its_line() {
        let digest = Sha256::of(b"x");
        let wrong = |text: &str| Index::parse(text).expect_err(text).line;
        assert_eq!(wrong(""), 1);
        assert_eq!(wrong("rocks index 2\n"), 1);
        assert_eq!(wrong("rocks index 1\n\n"), 2);
        assert_eq!(wrong(&format!("rocks index 1\n{digest} 1 a")), 2);
        for path in ["../a", "a/../b", "/a", "a//b", "a/", ".a", "a b", "a%2e", "a\0", ""] {
            assert_eq!(wrong(&format!("rocks index 1\n{digest} 1 {path}\n")), 2, "{path:?}");
        }
        for size in ["-1", "+1", "01", "1e3", "", "99999999999999999999", "70000000000"] {
            assert_eq!(wrong(&format!("rocks index 1\n{digest} {size} a\n")), 2, "{size:?}");
        }
        assert_eq!(wrong(&format!("rocks index 1\n{digest} 1 b\n{digest} 1 a\n")), 3);
        assert_eq!(wrong(&format!("rocks index 1\n{digest} 1 a\n{digest} 1 a\n")), 3);
        assert_eq!(wrong(&format!("rocks index 1\n{} 1 a\n", digest.to_string().to_uppercase())), 2);
        assert_eq!(wrong(&format!("rocks index 1\n{digest} 1 {}\n", "a".repeat(401))), 2);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_what_is_read_is_written_the_same(text in "(rocks index 1\n)?([0-9a-f]{64} [0-9]{1,3} [a-z./]{1,8}\n){0,4}\\PC{0,20}") {
            if let Ok(index) = Index::parse(&text) {
                prop_assert_eq!(index.text(), text);
            }
        }

        #[test]
        fn an_index_survives_its_text(files in proptest::collection::btree_map("[a-zA-Z0-9_+~^-]{1,9}(/[a-z0-9]{1,9}){0,3}", any::<(u32, u64)>(), 0..40)) {
            let mut index = Index::default();
            for (path, (content, size)) in &files {
                let digest = Sha256::of(&content.to_le_bytes());
                index.add(path, Entry { digest, size: size % limits::MIRROR_FILE_BYTES }).expect("a good path");
            }
            prop_assert_eq!(Index::parse(&index.text()), Ok(index));
        }
    }
}
