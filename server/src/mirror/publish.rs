//! Puts one architecture's repository in place: packages, then metadata, then `repomd.xml` by rename.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{Context as Hash, SHA256, digest};
use flate2::{Compression, GzBuilder};
use rocks_common::ids::Sha256;
use rocks_common::index::named_repomd;
use serde::{Deserialize, Serialize};

use super::rebuild::{Chosen, cached, hex};
use super::{Context, MirrorError};

/// What one `repomd.xml` names, so that it can be collected when nobody should still use it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Generation {
    /// Over the digests of all its packages: tells whether a rebuild changes anything.
    inputs: String,
    /// Grows from one to the next, and is at least the time.
    pub(super) revision: u64,
    /// Below the repository's root.
    pub(super) files: BTreeSet<String>,
}

impl Generation {
    /// Whether its `repomd.xml` is also there under a name of its own; those of earlier versions are not.
    pub(super) fn has_repomd(&self) -> bool {
        self.files.iter().any(|file| file.ends_with("-repomd.xml"))
    }
}

/// Where it is remembered what the kept generations of `arch` have.
pub(super) fn generations_path(root: &Path, arch: &str) -> PathBuf {
    root.join(format!("generations-{arch}.json"))
}

/// The generations of `arch` that are kept, the one that is published being the first.
pub(super) fn generations(root: &Path, arch: &str) -> Vec<Generation> {
    let text = fs::read(generations_path(root, arch)).ok();
    text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

/// Where the pieces of the package with this digest are kept.
pub(super) fn cache_path(root: &Path, digest: &str) -> PathBuf {
    root.join("cache").join(format!("{digest}.json"))
}

/// Writes `bytes` so that `path` has either all of them or what it had before, whatever happens.
pub(super) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), MirrorError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).context("write in", folder)?;
    file.write_all(bytes).context("write", path)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644)).context("write", path)?;
    file.persist(path).map_err(|e| e.error).context("write", path)?;
    Ok(())
}

/// Publishes `chosen` for `arch`; false when that is what is published already.
pub(super) fn publish(root: &Path, arch: &str, chosen: &[Chosen<'_>], keep: usize) -> Result<bool, MirrorError> {
    let repo = root.join("rocks-dist").join(arch);
    let repodata = repo.join("repodata");
    fs::create_dir_all(&repodata).context("make the folder", &repodata)?;
    let repomd_path = repodata.join("repomd.xml");
    let state = generations_path(root, arch);
    let mut generations = generations(root, arch);

    let list: String = chosen.iter().map(|c| c.entry.digest.as_str()).collect::<Vec<_>>().join("\n");
    let inputs = hex(digest(&SHA256, list.as_bytes()).as_ref());
    let is_same = generations.first().is_some_and(|g| {
        g.inputs == inputs && g.has_repomd() && repomd_path.exists() && g.files.iter().all(|f| repo.join(f).exists())
    });
    if is_same {
        return Ok(false);
    }

    let mut generation = Generation { inputs, ..Generation::default() };
    let bodies = ["primary", "filelists", "other"];
    let mut texts = [String::new(), String::new(), String::new()];
    let count = chosen.len();
    for (text, (root_element, ns)) in texts.iter_mut().zip([
        ("metadata", "common\" xmlns:rpm=\"http://linux.duke.edu/metadata/rpm"),
        ("filelists", "filelists"),
        ("otherdata", "other"),
    ]) {
        *text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{root_element} \
             xmlns=\"http://linux.duke.edu/metadata/{ns}\" packages=\"{count}\">\n"
        );
    }
    for c in chosen {
        place(c, &repo.join(&c.entry.href))?;
        generation.files.insert(c.entry.href.clone());
        let f = cached(root, &c.entry.digest)?;
        for (text, piece) in texts.iter_mut().zip([f.primary, f.filelists, f.other]) {
            text.push_str(&piece);
        }
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    generation.revision = generations.first().map_or(now, |g| now.max(g.revision + 1));
    let mut repomd = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<repomd xmlns=\"http://linux.duke.edu/metadata/repo\" \
         xmlns:rpm=\"http://linux.duke.edu/metadata/rpm\">\n<revision>{}</revision>\n",
        generation.revision
    );
    for ((name, mut text), end) in bodies.into_iter().zip(texts).zip(["metadata", "filelists", "otherdata"]) {
        text.push_str(&format!("</{end}>\n"));
        let mut gz = GzBuilder::new().mtime(0).write(Vec::new(), Compression::new(6));
        let packed = gz.write_all(text.as_bytes()).and_then(|()| gz.finish()).context("compress for", &repodata)?;
        let (sum, open) = (hex(digest(&SHA256, &packed).as_ref()), hex(digest(&SHA256, text.as_bytes()).as_ref()));
        let href = format!("repodata/{sum}-{name}.xml.gz");
        write_atomic(&repo.join(&href), &packed)?;
        repomd.push_str(&format!(
            "<data type=\"{name}\">\n<checksum type=\"sha256\">{sum}</checksum>\n<open-checksum \
             type=\"sha256\">{open}</open-checksum>\n<location href=\"{href}\"/>\n<timestamp>{}</timestamp>\n\
             <size>{}</size>\n<open-size>{}</open-size>\n</data>\n",
            generation.revision,
            packed.len(),
            text.len()
        ));
        generation.files.insert(href);
    }
    repomd.push_str("</repomd>\n");
    // Once more under a name that never means anything else, for those who go by an index.
    let named = named_repomd(Sha256::of(repomd.as_bytes()));
    write_atomic(&repo.join(&named), repomd.as_bytes())?;
    generation.files.insert(named);

    // The record after the rename: killed between the two, the next run publishes the same packages once more, and
    // nothing is ever collected before the repomd.xml that replaces it is in place.
    generations.insert(0, generation);
    let dropped = generations.split_off(generations.len().min(keep + 1));
    write_atomic(&repomd_path, repomd.as_bytes())?;
    if let Ok(folder) = File::open(&repodata) {
        // Best effort: a crash of the machine may bring the older repomd.xml back, which still is whole.
        let _ = folder.sync_all();
    }
    write_atomic(&state, &serde_json::to_vec(&generations).unwrap_or_default())?;
    let kept: BTreeSet<&String> = generations.iter().flat_map(|g| &g.files).collect();
    for file in dropped.iter().flat_map(|g| &g.files).filter(|f| !kept.contains(f)) {
        let path = repo.join(file);
        let _ = fs::remove_file(&path);
        for folder in path.ancestors().skip(1).take(2).filter(|f| *f != repodata) {
            // Fails while something else is in it, which is what is meant.
            let _ = fs::remove_dir(folder);
        }
    }
    Ok(true)
}

/// Puts the package at `to`: a hard link when the filesystem allows, else a copy, checked either way.
fn place(c: &Chosen<'_>, to: &Path) -> Result<(), MirrorError> {
    if to.exists() {
        return Ok(());
    }
    let folder = to.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).context("make the folder", folder)?;
    let from = fs::canonicalize(c.path).context("find", c.path)?;
    if fs::hard_link(&from, to).is_ok() {
        return Ok(());
    }
    let mut input = File::open(&from).context("read", &from)?;
    let mut output = tempfile::NamedTempFile::new_in(folder).context("write in", folder)?;
    let mut hash = Hash::new(&SHA256);
    let mut buffer = vec![0; 128 << 10];
    loop {
        let n = input.read(&mut buffer).context("read", &from)?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
        output.write_all(&buffer[..n]).context("write", to)?;
    }
    if hex(hash.finish().as_ref()) != c.entry.digest {
        let changed = std::io::Error::other("it changed while it was read; run again");
        return Err(changed).context("copy", &from);
    }
    output.as_file().set_permissions(fs::Permissions::from_mode(0o644)).context("write", to)?;
    output.persist(to).map_err(|e| e.error).context("write", to)?;
    Ok(())
}

/// Forgets the pieces of packages that no input has any more.
pub(super) fn collect_cache(root: &Path, used: BTreeSet<&str>) {
    let Ok(folder) = fs::read_dir(root.join("cache")) else { return };
    for item in folder.flatten() {
        let name = item.file_name();
        let digest = name.to_str().and_then(|n| n.strip_suffix(".json"));
        if digest.is_some_and(|d| d.len() == 64 && !used.contains(d)) {
            let _ = fs::remove_file(item.path());
        }
    }
}
