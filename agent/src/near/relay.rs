//! A relay: the gateway for other machines. It fetches each byte once, keeps it, and serves the hosts of its own frontend.
//!
//! It shows the certificate of its host, lets in whoever has one of the same frontend, and is believed by nobody: what it gives is checked
//! by who gets it. It speaks to the frontend and to a bucket, never to another relay.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::cache::Cache;
use super::catalogue::Catalogue;
use super::client::Endpoint;
use super::depot::Depot;
use super::serve::Desk;
use super::{NearError, bucket_source, frontend, frontend_source, frontend_tls};
use crate::identity::{Identity, IdentityError};
use crate::tls;

/// Connections at a time.
const CONNECTIONS: usize = 2048;
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(15);
/// How often it is said what was done.
const TOLD: Duration = Duration::from_secs(60);
/// How long a relay runs at least before it ends for a new certificate.
const SHORTEST: Duration = Duration::from_secs(600);

/// How a relay is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The folder of its identity.
    pub identity: PathBuf,
    /// Where it keeps files.
    pub cache: PathBuf,
    /// How many bytes of them.
    pub limit: u64,
}

/// Who the relay is, read again when it has changed.
struct Credentials {
    folder: PathBuf,
    read: Option<SystemTime>,
    tls: Arc<ServerConfig>,
    identity: Identity,
}

fn stamp(folder: &Path) -> Option<SystemTime> {
    std::fs::metadata(folder.join("identity.json")).ok()?.modified().ok()
}

impl Credentials {
    fn open(folder: &Path) -> Result<Self, NearError> {
        let read = stamp(folder);
        let identity = Identity::load_from(folder)?.ok_or(IdentityError::NotEnrolled)?;
        let (ca, certificate, key) = identity.documents()?;
        let tls = tls::relay_server(&ca, (&certificate, &key))?;
        Ok(Self { folder: folder.to_path_buf(), read, tls, identity })
    }

    /// Reads them again if they have changed. What cannot be used is left for later.
    fn renew(&mut self, frontend: &Endpoint) {
        if stamp(&self.folder) == self.read {
            return;
        }
        if let Ok(new) = Self::open(&self.folder)
            && let Ok(tls) = frontend_tls(&new.identity)
        {
            frontend.renew(tls);
            tracing::info!("the certificate is another one now, until {}", new.identity.not_after);
            *self = new;
        }
    }

    /// When the certificate is so near its end that the agent has renewed it long ago.
    fn is_over(&self, now: Timestamp) -> bool {
        let life = self.identity.not_after.as_second() - self.identity.since.as_second();
        now.as_second() - self.identity.since.as_second() > life / 12 * 11
    }
}

/// Runs a relay until `end` says that it is enough, or until it has to start again to read its new certificate. `ready` is told where it
/// listens.
///
/// # Errors
/// It has no identity, cannot listen, or has no folder for what it keeps.
pub async fn run(
    options: &Options,
    mut end: watch::Receiver<bool>,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), NearError> {
    let mut credentials = Credentials::open(&options.identity)?;
    let frontend = frontend(&credentials.identity)?;
    let cache = Cache::open(&options.cache.join("files"), options.limit)?;
    let catalogue = Catalogue::open(&options.cache, credentials.identity.seal_key);
    let sources = vec![bucket_source(&frontend, Path::new("/"))?, frontend_source(&frontend)];
    let desk = Arc::new(Desk {
        depot: Depot::new(cache, sources),
        catalogue,
        prefix: String::new(),
        patience: Duration::ZERO,
        frontend: Some(frontend.clone()),
    });
    let listener = TcpListener::bind(options.listen).await?;
    ready(listener.local_addr()?);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let began = Instant::now();
    let mut told = tokio::time::interval(TOLD);
    let mut last = String::new();
    loop {
        let accepted = tokio::select! {
            _ = end.wait_for(|end| *end) => return Ok(()),
            _ = told.tick() => {
                let now = summary(&desk);
                if now != last {
                    tracing::info!("{now}");
                    last = now;
                }
                credentials.renew(&frontend);
                if credentials.is_over(Timestamp::now()) && began.elapsed() > SHORTEST {
                    tracing::info!("the certificate is nearly over: ending, to be started with a new one");
                    return Ok(());
                }
                continue;
            }
            accepted = async {
                let place = places.clone().acquire_owned().await;
                (listener.accept().await, place)
            } => accepted,
        };
        let (Ok((stream, peer)), Ok(place)) = accepted else {
            // Out of descriptors, most likely: others must end first.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        credentials.renew(&frontend);
        let (acceptor, desk) = (TlsAcceptor::from(credentials.tls.clone()), desk.clone());
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            match timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => desk.connection(stream).await,
                Ok(Err(error)) => tracing::info!("{peer} was sent away: {error}"),
                Err(_) => {}
            }
            drop(place);
        });
    }
}

/// What was done, in one line.
fn summary(desk: &Desk) -> String {
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    let counters = &desk.depot.counters;
    let mut text = format!(
        "served {} bytes, {} of them from the cache of {}",
        counters.served.load(relaxed),
        counters.held.load(relaxed),
        desk.depot.cache().total()
    );
    for source in desk.depot.sources() {
        text.push_str(&format!("; {} fetched from {}", source.given(), source.name));
    }
    text
}
