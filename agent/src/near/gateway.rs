//! The frontend's mirror on this machine's own loopback, for its package manager, and only while that runs.
//!
//! It listens at an address that stays the same from one time to the next if it is free, because package managers keep what they know of a
//! repository by its address; nobody else on the machine knows the path.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rocks_common::diag::Severity;
use rocks_common::ids::ArchName;
use rocks_common::wire::{Finding, path};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::cache::Cache;
use super::catalogue::Catalogue;
use super::client::ClientError;
use super::depot::Depot;
use super::serve::Desk;
use super::{NearError, bucket_source, frontend, frontend_source, relay_source, sources};
use crate::files;
use crate::identity::Identity;

/// The folder of all this, in the state folder.
const FOLDER: &str = "near";
/// Bytes of packages that are kept until the package manager has done its work.
const CACHE_BYTES: u64 = 2 << 30;
/// How long a package manager is kept waiting for a whole file, before it is given what there is: they give up after 30 seconds of silence.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where it was the last time.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Place {
    port: u16,
    secret: String,
}

/// The gateway, while it serves.
pub struct Gateway {
    address: SocketAddr,
    secret: String,
    folder: PathBuf,
    frontend: String,
    depot: Arc<Depot>,
    end: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// A value that nobody guesses.
fn secret() -> io::Result<String> {
    let mut bytes = [0; 24];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| io::Error::other("no randomness"))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

async fn listen(folder: &Path) -> io::Result<(TcpListener, String)> {
    let path = folder.join("place.json");
    let before = files::read(&path, 4096).ok().flatten().and_then(|bytes| serde_json::from_slice::<Place>(&bytes).ok());
    if let Some(place) = &before
        && let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, place.port)).await
    {
        return Ok((listener, place.secret.clone()));
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let secret = before.map_or_else(secret, |place| Ok(place.secret))?;
    let place = Place { port: listener.local_addr()?.port(), secret: secret.clone() };
    files::write(&path, &serde_json::to_vec(&place).unwrap_or_default(), 0o600)?;
    Ok((listener, secret))
}

/// The repositories of ours in `text` (a `.repo` file), with those of the frontend's mirror at `base` instead.
fn rewritten(text: &str, frontend: &str, base: &str) -> String {
    let mut out = String::new();
    for section in text.split_inclusive("\n\n") {
        let far = format!("baseurl={}{}/", frontend.trim_end_matches('/'), path::MIRROR);
        if !section.lines().any(|line| line.starts_with(&far)) {
            out.push_str(section);
            continue;
        }
        for line in section.lines() {
            match line.strip_prefix(&far) {
                Some(rest) => out.push_str(&format!("baseurl={base}{}/{rest}\nproxy=_none_\n", path::MIRROR)),
                // On loopback there is neither.
                None if line.starts_with("ssl") || line.starts_with("proxy=") => {}
                None => {
                    out.push_str(line);
                    out.push('\n');
                }
            }
        }
    }
    out
}

/// The architectures of the frontend's mirror that `text` (a `.repo` file) uses.
fn arches(text: &str, frontend: &str) -> Vec<ArchName> {
    let far = format!("baseurl={}{}/", frontend.trim_end_matches('/'), path::MIRROR);
    let all = text.lines().filter_map(|line| line.strip_prefix(&far));
    let mut arches: Vec<ArchName> = all.filter_map(|rest| ArchName::new(rest.split('/').next()?).ok()).collect();
    arches.sort();
    arches.dedup();
    arches
}

impl Gateway {
    /// Opens the gateway for the repositories in `repositories` (a `.repo` file), with what it keeps in `state`. Gives none if nothing of
    /// them is nearer than the frontend.
    ///
    /// # Errors
    /// The frontend cannot be reached, or what it says is not to be trusted.
    pub fn open(state: &Path, root: &Path, repositories: &str) -> Result<Option<Self>, NearError> {
        let Some(identity) = Identity::load(state)? else { return Ok(None) };
        let arches = arches(repositories, &identity.frontend);
        if arches.is_empty() {
            return Ok(None);
        }
        let folder = state.join(FOLDER);
        let (tell, told) = mpsc::channel();
        let (end, ended) = watch::channel(false);
        let (of, root) = (folder.clone(), root.to_path_buf());
        let frontend = identity.frontend.clone();
        let thread = std::thread::Builder::new().name("gateway".to_owned()).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(tell.send(Err(error.into()))),
            };
            runtime.block_on(async {
                match prepare(&identity, &of, &root, &arches).await {
                    Ok(Some((listener, desk))) => {
                        let told = listener.local_addr().map(|address| Some((address, desk.clone())));
                        if tell.send(told.map_err(NearError::from)).is_ok() {
                            serve(&listener, &desk, ended).await;
                        }
                    }
                    Ok(None) => drop(tell.send(Ok(None))),
                    Err(error) => drop(tell.send(Err(error))),
                }
            });
            runtime.shutdown_background();
        })?;
        let opened = told.recv().map_err(|_| io::Error::other("the gateway broke off"))??;
        let Some((address, desk)) = opened else { return Ok(None) };
        let secret = desk.prefix.trim_start_matches('/').to_owned();
        Ok(Some(Self { address, secret, folder, frontend, depot: desk.depot.clone(), end, thread: Some(thread) }))
    }

    /// Writes `repositories` so that they lead here, and gives the folder for the package manager to read.
    ///
    /// # Errors
    /// The file system's.
    pub fn repositories(&self, repositories: &str) -> io::Result<PathBuf> {
        let base = format!("http://{}/{}", self.address, self.secret);
        let folder = self.folder.join("repos.d");
        let text = rewritten(repositories, &self.frontend, &base);
        // Whoever may read it could ask us for packages.
        files::write(&folder.join("rocks.repo"), text.as_bytes(), 0o600)?;
        Ok(folder)
    }

    /// Ends it, and says what was found on the way. `done`: the package manager has what it needs, nothing has to be kept.
    pub fn close(mut self, done: bool) -> Vec<Finding> {
        self.stop();
        let mut came = Vec::new();
        let mut findings = Vec::new();
        for source in self.depot.sources() {
            if source.given() > 0 {
                came.push(format!("{} bytes from {}", source.given(), source.name));
            }
            if let Some(why) = source.fault() {
                findings.push(Finding {
                    code: "near-source".to_owned(),
                    severity: Severity::Warning,
                    subject: source.name.clone(),
                    message: why,
                    hint: Some(
                        "packages came from elsewhere; see `rocks list host attr HOST` for package_relay".to_owned(),
                    ),
                });
            }
        }
        tracing::info!(
            "packages: {}",
            if came.is_empty() { "nothing had to be fetched".to_owned() } else { came.join(", ") }
        );
        if done {
            self.depot.cache().clear();
        }
        findings
    }

    fn stop(&mut self) {
        self.end.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = fs::remove_dir_all(self.folder.join("repos.d"));
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn prepare(
    identity: &Identity,
    folder: &Path,
    root: &Path,
    arches: &[ArchName],
) -> Result<Option<(TcpListener, Arc<Desk>)>, NearError> {
    let frontend = frontend(identity)?;
    let told = sources(&frontend).await?;
    let mut sources = Vec::new();
    for relay in &told.relays {
        sources.push(relay_source(identity, relay)?);
    }
    let mut places: Vec<_> = sources.iter().map(|source| source.endpoint().clone()).collect();
    if told.bucket {
        sources.push(bucket_source(&frontend, root)?);
    }
    if sources.is_empty() {
        return Ok(None);
    }
    places.push(frontend.clone());
    sources.push(frontend_source(&frontend));
    let catalogue = Catalogue::open(folder, identity.seal_key);
    for arch in arches {
        let Some(sealed) = told.indexes.iter().find(|sealed| sealed.claim.arch == *arch) else { return Ok(None) };
        // A relay that is too slow for the index is too slow for packages.
        let slow = |at: usize| {
            if at < told.relays.len() {
                sources[at].blame("the index", &ClientError::Slow);
            }
        };
        catalogue.fetch(sealed, &places, slow).await?;
    }
    let cache = Cache::open(&folder.join("cache"), CACHE_BYTES)?;
    let (listener, secret) = listen(folder).await?;
    let desk = Desk {
        depot: Depot::new(cache, sources),
        catalogue,
        prefix: format!("/{secret}"),
        patience: PATIENCE,
        frontend: None,
    };
    Ok(Some((listener, Arc::new(desk))))
}

async fn serve(listener: &TcpListener, desk: &Arc<Desk>, mut ended: watch::Receiver<bool>) {
    loop {
        let accepted = tokio::select! {
            _ = ended.wait_for(|ended| *ended) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let desk = desk.clone();
                tokio::spawn(async move { desk.connection(stream).await });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_repositories_of_the_frontends_mirror_lead_here() {
        let text = "# Written by rocks-agent\n\n[rocks-a]\nname=a\nbaseurl=https://fe:8443/install/rocks-dist/x86_64/\nenabled=1\n\
                    proxy=http://p\nsslverify=1\nsslclientkey=/k\n\n[rocks-b]\nbaseurl=https://elsewhere/install/rocks-dist/x86_64\nsslverify=0\n\n\
                    [rocks-c]\nbaseurl=https://fe:8443/install/contrib/\nsslverify=1\n";
        let near = rewritten(text, "https://fe:8443/", "http://127.0.0.1:9/s");
        assert!(
            near.contains(
                "[rocks-a]\nname=a\nbaseurl=http://127.0.0.1:9/s/install/rocks-dist/x86_64/\nproxy=_none_\nenabled=1\n"
            ),
            "{near}"
        );
        assert!(!near.contains("sslclientkey") && !near.contains("proxy=http"), "{near}");
        assert!(near.contains("baseurl=https://elsewhere/install/rocks-dist/x86_64\nsslverify=0\n"), "{near}");
        assert!(near.ends_with("[rocks-c]\nbaseurl=https://fe:8443/install/contrib/\nsslverify=1\n"), "{near}");
        assert_eq!(arches(text, "https://fe:8443"), [ArchName::new("x86_64").expect("a name")]);
    }
}
