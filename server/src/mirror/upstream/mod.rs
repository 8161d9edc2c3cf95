//! Copies upstream repositories: `rocks create mirror URL`.
//!
//! A copy lies in a folder of its own, which the mirror then publishes like any other folder of RPMs. Everything is checked against
//! the digests that the repository's metadata gives before it gets its name, so what has a name is whole; what was interrupted goes on
//! where it stopped. Packages come several at a time. Nothing is taken away before everything new is there.
//!
//! ```text
//! FOLDER/DI/DIGEST/NAME.rpm           a package, by the digest that the metadata gave
//! FOLDER/partial/DIGEST               one that is on its way
//! ```

mod download;
mod metadata;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use rocks_common::evr::Evr;
use serde::Serialize;

pub use download::DownloadError;
use download::{Checked, Downloader};
pub use metadata::MetadataError;
use metadata::Remote;

/// Packages that are fetched at the same time.
const AT_ONCE: usize = 8;
/// Bytes of `repomd.xml`.
const REPOMD_BYTES: u64 = 4 << 20;
/// Bytes of the compressed list of packages. That of a whole distribution is some 20 MB.
const PRIMARY_BYTES: u64 = 1 << 30;
/// Failures of single packages that are told one by one.
const FAILURES_TOLD: usize = 20;

/// Why a repository could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// Not something that can be fetched from.
    #[error("{0:?} is not the URL of a repository: it must begin with http:// or https://")]
    Url(String),
    /// The repository's metadata could not be fetched.
    #[error("cannot fetch {what}")]
    Fetch {
        /// Which file.
        what: String,
        /// Why.
        source: DownloadError,
    },
    /// It could not be understood, or is not safe.
    #[error("the repository's metadata")]
    Metadata(#[from] MetadataError),
    /// Something here.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Some packages could not be fetched; those that could are kept for the next time.
    #[error("{count} of {of} packages could not be fetched:\n{list}")]
    Packages {
        /// How many.
        count: usize,
        /// Of how many.
        of: usize,
        /// The first of them, with why, one a line.
        list: String,
    },
}

/// What to copy.
#[derive(Debug, Clone)]
pub struct Order<'o> {
    /// Where the `repodata` folder is.
    pub url: &'o str,
    /// The architecture; packages for any and for compatible ones come along.
    pub arch: &'o str,
    /// Every version, not only the newest of each name and architecture.
    pub all_versions: bool,
    /// The folder of the copy.
    pub folder: &'o Path,
}

/// How far a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Packages that are there.
    pub packages: usize,
    /// Packages that are to be there.
    pub of_packages: usize,
    /// Bytes that came.
    pub bytes: u64,
    /// Bytes that are to come.
    pub of_bytes: u64,
}

/// What a copy came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Copied {
    /// Packages that the copy has now.
    pub packages: usize,
    /// Packages that were fetched for it.
    pub fetched: usize,
    /// Bytes that were fetched for it.
    pub bytes: u64,
    /// Packages that were taken away because the repository has them no longer.
    pub removed: usize,
}

/// Copies a repository, or what changed of it.
///
/// # Errors
/// [`UpstreamError`]. What was fetched until then is kept, and used the next time.
pub async fn copy(order: &Order<'_>, progress: &(dyn Fn(Progress) + Sync)) -> Result<Copied, UpstreamError> {
    if !(order.url.starts_with("http://") || order.url.starts_with("https://")) {
        return Err(UpstreamError::Url(order.url.to_owned()));
    }
    let partial = order.folder.join("partial");
    let io = |what, path: &Path| {
        let path = path.to_owned();
        move |source| UpstreamError::Io { what, path, source }
    };
    fs::create_dir_all(&partial).map_err(io("make the folder", &partial))?;
    let base = order.url.trim_end_matches('/');
    let downloader = Downloader::new().map_err(|source| UpstreamError::Fetch { what: base.to_owned(), source })?;
    let chosen = choose(list(&downloader, base, &partial).await?, order.arch, order.all_versions);

    let place = |remote: &Remote| {
        let digest = remote.checksum.hex();
        order.folder.join(&digest[..2]).join(digest).join(remote.file_name())
    };
    // What has its name was checked when it got it.
    let is_there = |remote: &Remote| fs::metadata(place(remote)).is_ok_and(|meta| meta.len() == remote.size);
    let missing: Vec<&Remote> = chosen.iter().filter(|remote| !is_there(remote)).collect();
    let of_bytes = missing.iter().map(|remote| remote.size).sum();
    let (there, bytes) = (AtomicUsize::new(chosen.len() - missing.len()), AtomicU64::new(0));
    let tell = || {
        progress(Progress {
            packages: there.load(Ordering::Relaxed),
            of_packages: chosen.len(),
            bytes: bytes.load(Ordering::Relaxed),
            of_bytes,
        });
    };
    tell();
    // In boxes: the compiler cannot see that futures of a closure that borrows are `Send`.
    let mut fetches: Vec<BoxFuture<'_, Result<(), DownloadError>>> = Vec::with_capacity(missing.len());
    for remote in &missing {
        let (target, tell, there, bytes, downloader) = (place(remote), &tell, &there, &bytes, &downloader);
        let part = partial.join(remote.checksum.hex());
        fetches.push(Box::pin(async move {
            let want = Checked { checksum: &remote.checksum, size: Some(remote.size), limit: remote.size };
            let came = |more: u64| {
                bytes.fetch_add(more, Ordering::Relaxed);
                tell();
            };
            downloader.fetch(&remote.url(base), &want, &part, &target, &came).await?;
            there.fetch_add(1, Ordering::Relaxed);
            tell();
            Ok(())
        }));
    }
    let results: Vec<_> = futures_util::stream::iter(fetches).buffered(AT_ONCE).collect().await;
    let failed: Vec<String> = missing
        .iter()
        .zip(&results)
        .filter_map(|(remote, result)| {
            let error = result.as_ref().err()?;
            let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
            Some(format!("  {}: {error}{cause}", remote.href))
        })
        .collect();
    if !failed.is_empty() {
        let mut list = failed[..failed.len().min(FAILURES_TOLD)].join("\n");
        if failed.len() > FAILURES_TOLD {
            list.push_str("\n  ...");
        }
        return Err(UpstreamError::Packages { count: failed.len(), of: chosen.len(), list });
    }
    let keep: HashSet<PathBuf> = chosen.iter().map(place).collect();
    let removed = clear(order.folder, &keep);
    let _ = fs::remove_dir_all(&partial);
    Ok(Copied { packages: keep.len(), fetched: missing.len(), bytes: bytes.load(Ordering::Relaxed), removed })
}

/// The packages that the repository lists.
async fn list(downloader: &Downloader, base: &str, partial: &Path) -> Result<Vec<Remote>, UpstreamError> {
    let fail = |what: &str| {
        let what = what.to_owned();
        move |source| UpstreamError::Fetch { what, source }
    };
    let repomd = downloader.small(&format!("{base}/repodata/repomd.xml"), REPOMD_BYTES).await;
    let primary = metadata::primary_of(&repomd.map_err(fail("repodata/repomd.xml"))?)?;
    let target = partial.join("primary");
    // The same list as the last time need not come again.
    let is_there = fs::File::open(&target).is_ok_and(|file| download::verify(file, &primary.checksum).unwrap_or(false));
    if !is_there {
        let want = Checked { checksum: &primary.checksum, size: primary.size, limit: PRIMARY_BYTES };
        let part = partial.join("primary.part");
        let url = format!("{base}/{}", primary.href);
        downloader.fetch(&url, &want, &part, &target, &|_| {}).await.map_err(fail(&primary.href))?;
    }
    let read = tokio::task::spawn_blocking(move || metadata::packages(&target)).await;
    Ok(read.map_err(|error| MetadataError::Broken(error.to_string()))??)
}

/// What of `all` a machine of `arch` can use.
fn choose(all: Vec<Remote>, arch: &str, all_versions: bool) -> Vec<Remote> {
    let fitting = all.into_iter().filter(|remote| super::rebuild::is_compatible(arch, &remote.arch));
    if all_versions {
        // A list may name one package twice.
        let by_digest: BTreeMap<String, Remote> =
            fitting.map(|remote| (remote.checksum.hex().to_owned(), remote)).collect();
        return by_digest.into_values().collect();
    }
    let mut newest: BTreeMap<(String, String), Remote> = BTreeMap::new();
    for remote in fitting {
        let key = (remote.name.clone(), remote.arch.clone());
        let newer = |old: &Remote| Evr::compare(&remote.evr, &old.evr).is_gt();
        if newest.get(&key).is_none_or(newer) {
            newest.insert(key, remote);
        }
    }
    newest.into_values().collect()
}

/// Removes the packages that are not to be kept, and says how many there were.
fn clear(folder: &Path, keep: &HashSet<PathBuf>) -> usize {
    let below = |folder: &Path| -> Vec<PathBuf> {
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    let mut removed = 0;
    for first in below(folder).into_iter().filter(|path| path.file_name().is_some_and(|name| name.len() == 2)) {
        for second in below(&first) {
            for file in below(&second).into_iter().filter(|file| !keep.contains(file)) {
                removed += usize::from(fs::remove_file(file).is_ok());
            }
            // Fails while something is in it, which is what is meant.
            let _ = fs::remove_dir(&second);
        }
        let _ = fs::remove_dir(&first);
    }
    removed
}
