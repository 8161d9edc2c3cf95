//! The wire: listeners, who is calling, and which service answers.

pub(crate) mod admin;
pub(crate) mod body;
mod ec2;
mod faults;
mod gate;
mod journal;
mod scaling;
mod seed;
mod throttle;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use anyhow::Result;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use self::body::Response;
use crate::access::Policy;
use crate::cloud::{Cloud, Effect, Event, Millis};
use crate::config::Config;
use crate::ebs;
use crate::imds::Identity;
use crate::run::{Carrier, Disks, Machines, Net, Still};
use crate::s3;

pub(crate) use self::gate::{Admitted, Caller, Described, Outcome};

/// The connection is to be cut without an answer.
#[derive(Debug)]
pub(crate) struct CutOff;

impl std::fmt::Display for CutOff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection is cut on purpose")
    }
}

impl std::error::Error for CutOff {}

/// A key with what it may do.
#[derive(Debug)]
pub(crate) struct Access {
    pub(crate) secret: String,
    pub(crate) user: String,
    pub(crate) policy: Option<Policy>,
}

/// Everything that calls share.
pub(crate) struct Shared {
    pub(crate) config: Arc<Config>,
    cloud: Mutex<Cloud>,
    carrier: Carrier,
    pub(crate) disks: Arc<Disks>,
    pub(crate) machines: Arc<dyn Machines>,
    pub(crate) net: Option<Arc<Net>>,
    pub(crate) objects: Arc<s3::Store>,
    pub(crate) identity: Identity,
    pub(crate) tokens: crate::imds::Tokens,
    keys: Mutex<BTreeMap<String, Arc<Access>>>,
    faults: Mutex<faults::Faults>,
    calls: Mutex<journal::Journal>,
    buckets: Mutex<throttle::Buckets>,
    requests: AtomicU64,
}

/// A lock that a panic elsewhere does not close.
pub(crate) fn locked<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Now, in milliseconds since 1970.
pub(crate) fn now() -> Millis {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}

impl Shared {
    /// A cloud that keeps its bytes in a folder; nothing boots in it unless there are machines and a network for them.
    pub(crate) fn new(
        config: Config,
        dir: PathBuf,
        disks: Arc<Disks>,
        boots: Option<(Arc<dyn Machines>, Arc<Net>)>,
    ) -> Result<Arc<Self>> {
        config.check()?;
        let config = Arc::new(config);
        let objects = Arc::new(s3::Store::new(&dir.join("objects"))?);
        let identity = Identity::new()?;
        let mut keys = BTreeMap::new();
        for key in &config.keys {
            let policy = key.policy.as_ref().map(Policy::parse).transpose()?;
            let access = Access { secret: key.secret.clone(), user: key.user.clone(), policy };
            keys.insert(key.id.clone(), Arc::new(access));
        }
        let (machines, net) = match boots {
            Some((machines, net)) => (machines, Some(net)),
            None => (Arc::new(Still::default()) as Arc<dyn Machines>, None),
        };
        Ok(Arc::new_cyclic(|weak: &Weak<Self>| {
            let to = weak.clone();
            let report = move |event: Event| {
                if let Some(shared) = to.upgrade() {
                    shared.with_cloud(|cloud| cloud.report(event, now()));
                }
            };
            let there = Arc::clone(&objects);
            let find = move |bucket: &str, key: &str| there.path_of(bucket, key);
            Self {
                cloud: Mutex::new(Cloud::new(Arc::clone(&config))),
                carrier: Carrier::new(
                    Arc::clone(&disks),
                    Arc::clone(&machines),
                    Box::new(find),
                    config.bundle_key.clone(),
                    Box::new(report),
                ),
                config,
                disks,
                machines,
                net,
                objects,
                identity,
                tokens: crate::imds::Tokens::default(),
                keys: Mutex::new(keys),
                faults: Mutex::default(),
                calls: Mutex::default(),
                buckets: Mutex::default(),
                requests: AtomicU64::new(0),
            }
        }))
    }

    /// Does something with the cloud, and has carried out what comes of it, in that order.
    pub(crate) fn with_cloud<T>(&self, what: impl FnOnce(&mut Cloud) -> T) -> T {
        let mut cloud = locked(&self.cloud);
        let result = what(&mut cloud);
        let effects: Vec<Effect> = cloud.take_effects();
        // Still under the lock, so that effects of two calls do not change places.
        self.carrier.carry(effects);
        result
    }

    /// Lets time pass. To be called again and again.
    pub(crate) fn tick(&self) {
        self.with_cloud(|cloud| cloud.advance(now()));
    }

    /// A new request id.
    pub(crate) fn request_id(&self) -> String {
        let n = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        format!(
            "{:08x}-{:04x}-4{:03x}-a{:03x}-{n:012x}",
            mixed >> 32,
            mixed >> 16 & 0xffff,
            mixed & 0xfff,
            mixed >> 48 & 0xfff
        )
    }

    /// Whether a call comes from inside the region.
    pub(crate) fn is_inside(&self, peer: SocketAddr) -> bool {
        self.net.as_ref().is_some_and(|n| n.is_ours(&peer.ip().to_string()))
    }
}

/// Answers calls on a listener until the runtime ends.
pub(crate) async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    accept(listener, move |_, peer, request| answer(Arc::clone(&shared), peer, request)).await;
}

/// Takes connections, and has each request answered.
pub(crate) async fn accept<F, R>(listener: TcpListener, answer: F)
where
    F: Fn(Arc<std::os::fd::OwnedFd>, SocketAddr, http::Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Result<Response, CutOff>> + Send + 'static,
{
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(e) => {
                tracing::warn!("accept: {e}");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        // A second handle, for those who have to do with the connection itself.
        let Ok(handle) = std::os::fd::AsFd::as_fd(&stream).try_clone_to_owned() else { continue };
        let handle = Arc::new(handle);
        let answer = answer.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&handle), peer, request));
            let connection = hyper::server::conn::http1::Builder::new()
                .auto_date_header(true)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(e) = connection.await {
                tracing::debug!("connection of {peer}: {e}");
            }
        });
    }
}

async fn answer(shared: Arc<Shared>, peer: SocketAddr, request: http::Request<Incoming>) -> Result<Response, CutOff> {
    if request.uri().path().starts_with("/_minicloud/") {
        return Ok(admin::answer(&shared, peer, request).await);
    }
    let caller = gate::identify(&shared, peer, &request);
    match caller.service.as_str() {
        "ec2" | "sts" => ec2::answer(&shared, caller, request).await,
        "ebs" => ebs::answer(&shared, caller, request).await,
        _ => s3::answer(&shared, caller, request).await,
    }
}
