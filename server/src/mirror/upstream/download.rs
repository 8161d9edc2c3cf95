//! Fetches files over HTTP: checked against a digest, going on where an earlier attempt stopped, tried again when the other end falters.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{Client, Response, StatusCode};

use super::metadata::Checksum;

/// Attempts at one file. An attempt that brought something forward does not count.
const ATTEMPTS: u32 = 4;
/// How long to stay away after the first failure; twice as long after each further one.
const PAUSE: Duration = Duration::from_millis(500);
/// How long the other end may be silent.
const SILENCE: Duration = Duration::from_secs(60);

/// Why a file could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// The other end, or the way to it.
    #[error("the request failed")]
    Network(#[from] reqwest::Error),
    /// It does not have it.
    #[error("the server answered {0}")]
    Status(StatusCode),
    /// Other content than the metadata says.
    #[error("it is not what the metadata says: {0}")]
    Differs(String),
    /// Longer than it may be.
    #[error("it is longer than the {0} bytes that it may have")]
    TooLong(u64),
    /// It could not be written here.
    #[error("cannot write it")]
    Io(#[from] std::io::Error),
}

impl DownloadError {
    /// Whether trying again may help.
    fn may_pass(&self) -> bool {
        match self {
            Self::Network(_) | Self::Differs(_) => true,
            Self::Status(status) => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            Self::TooLong(_) | Self::Io(_) => false,
        }
    }
}

/// What a file must be.
pub(super) struct Checked<'c> {
    pub(super) checksum: &'c Checksum,
    /// Its bytes, when they are known.
    pub(super) size: Option<u64>,
    /// The most that it may have.
    pub(super) limit: u64,
}

/// Fetches; keeps its connections.
pub(super) struct Downloader(Client);

/// Whether what `file` has is what `checksum` says.
pub(super) fn verify(mut file: impl Read, checksum: &Checksum) -> std::io::Result<bool> {
    let mut hash = aws_lc_rs::digest::Context::new(checksum.algorithm);
    let mut buffer = vec![0; 128 << 10];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
    }
    let hex: String = hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(hex == checksum.hex())
}

impl Downloader {
    pub(super) fn new() -> Result<Self, DownloadError> {
        let client = Client::builder()
            .user_agent(concat!("rocks-server/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(20))
            .read_timeout(SILENCE)
            .redirect(reqwest::redirect::Policy::limited(5))
            .build()?;
        Ok(Self(client))
    }

    /// A small file that nothing vouches for but the connection.
    pub(super) async fn small(&self, url: &str, limit: u64) -> Result<Vec<u8>, DownloadError> {
        let mut pause = PAUSE;
        let mut attempt = 1;
        loop {
            match self.small_once(url, limit).await {
                Err(error) if error.may_pass() && attempt < ATTEMPTS => {
                    attempt += 1;
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                other => return other,
            }
        }
    }

    async fn small_once(&self, url: &str, limit: u64) -> Result<Vec<u8>, DownloadError> {
        let mut response = good(self.0.get(url).send().await?)?;
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if (bytes.len() + chunk.len()) as u64 > limit {
                return Err(DownloadError::TooLong(limit));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// Fetches `url` to `target` by way of `part`, which is left for the next time when it fails; `came` hears of every piece.
    pub(super) async fn fetch(
        &self,
        url: &str,
        want: &Checked<'_>,
        part: &Path,
        target: &Path,
        came: &(dyn Fn(u64) + Sync),
    ) -> Result<(), DownloadError> {
        let mut pause = PAUSE;
        let mut attempt = 1;
        loop {
            let before = fs::metadata(part).map_or(0, |meta| meta.len());
            let result = match self.fetch_rest(url, want, part, came).await {
                Ok(()) => finish(want, part, target),
                Err(error) => Err(error),
            };
            match result {
                Err(error) if error.may_pass() => {
                    let after = fs::metadata(part).map_or(0, |meta| meta.len());
                    let forward = after > before;
                    if !forward {
                        if attempt == ATTEMPTS {
                            return Err(error);
                        }
                        attempt += 1;
                    }
                    tokio::time::sleep(pause).await;
                    pause = if forward { PAUSE } else { pause * 2 };
                }
                other => return other,
            }
        }
    }

    /// Brings what `part` lacks.
    async fn fetch_rest(
        &self,
        url: &str,
        want: &Checked<'_>,
        part: &Path,
        came: &(dyn Fn(u64) + Sync),
    ) -> Result<(), DownloadError> {
        let mut file = File::options().create(true).append(true).open(part)?;
        let mut have = file.metadata()?.len();
        if want.size.is_some_and(|size| have > size) {
            file.set_len(0)?;
            have = 0;
        }
        if have > 0 && want.size == Some(have) {
            return Ok(());
        }
        let mut request = self.0.get(url);
        if have > 0 {
            request = request.header(RANGE, format!("bytes={have}-"));
        }
        let response = request.send().await?;
        if have > 0 && response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            // All of it is there, or it is another file now: its digest will tell.
            return Ok(());
        }
        let mut response = good(response)?;
        let goes_on = response.status() == StatusCode::PARTIAL_CONTENT
            && response
                .headers()
                .get(CONTENT_RANGE)
                .and_then(|value| value.to_str().ok())
                .is_some_and(|range| range.starts_with(&format!("bytes {have}-")));
        if have > 0 && !goes_on {
            file.set_len(0)?;
            have = 0;
        }
        while let Some(chunk) = response.chunk().await? {
            have += chunk.len() as u64;
            if have > want.limit {
                drop(file);
                fs::remove_file(part)?;
                return Err(DownloadError::TooLong(want.limit));
            }
            file.write_all(&chunk)?;
            came(chunk.len() as u64);
        }
        Ok(())
    }
}

fn good(response: Response) -> Result<Response, DownloadError> {
    if response.status().is_success() { Ok(response) } else { Err(DownloadError::Status(response.status())) }
}

/// Gives `part` its name, if it is what it should be; else it is thrown away.
fn finish(want: &Checked<'_>, part: &Path, target: &Path) -> Result<(), DownloadError> {
    let file = File::open(part)?;
    let size = file.metadata()?.len();
    let problem = match want.size {
        Some(expected) if expected > size => {
            // Cut off: what came is kept.
            return Err(DownloadError::Differs(format!("{size} bytes instead of {expected}")));
        }
        _ if !verify(&file, want.checksum)? => Some("its digest is another"),
        _ => None,
    };
    if let Some(problem) = problem {
        fs::remove_file(part)?;
        return Err(DownloadError::Differs(problem.to_owned()));
    }
    file.sync_all()?;
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::rename(part, target)?;
    Ok(())
}
