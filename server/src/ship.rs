//! The image sender: connects to a receiver, makes sure that it is the host that it should be, and ships until it is done.
//!
//! The receiver is TLS's client although we connect, because it is the one whose certificate has a host's name and ours the one that has
//! the frontend's. A connection that breaks is made again; the shipment goes on with what the receiver lacks then.

use std::cmp::Reverse;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rocks_common::ids::HostName;
use rocks_ship::bootable::{self, BootImage};
use rocks_ship::shipment::{Progress, Sender, ShipmentError, Shipped, Source, Stream, Tell};
use rocks_ship::transport::{self, Options, Tcp, Transport, Udt};
use rocks_ship::tree::{self, TreeSender};
use serde::{Deserialize, Serialize};

use crate::ca::{Authority, CaError};
use crate::images::root::root_of;

/// How long to wait before a connection is made again; twice as long each time, up to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How long a receiver may be silent before the connection is made anew: that costs little, because the shipment goes on.
pub(crate) const SILENCE: Duration = Duration::from_secs(10);
/// How long a receiver may be out of reach before we give up.
const PATIENCE: Duration = Duration::from_secs(600);

/// How an image travels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// UDT: fills long and lossy paths.
    #[default]
    Udt,
    /// TCP: where UDP does not pass.
    Tcp,
}

impl Way {
    /// What carries it.
    pub(crate) fn transport(self, options: Options) -> Box<dyn Transport> {
        match self {
            Self::Udt => Box::new(Udt::new(options)),
            Self::Tcp => Box::new(Tcp::new(options)),
        }
    }
}

/// In which form an image is shipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// The disk as it is, with partitions and bootloader.
    #[default]
    Block,
    /// The files of its root, onto a file system that the receiver makes.
    Tree,
    /// The same, and what it boots by, onto a disk of any size that is large enough.
    Bootable,
}

/// Why an image was not shipped.
#[derive(Debug, thiserror::Error)]
pub enum ShipError {
    /// The shipment's.
    #[error(transparent)]
    Shipment(#[from] ShipmentError),
    /// Nobody to ship to.
    #[error("the receiver cannot be reached: {0}")]
    Unreachable(String),
    /// It is another host.
    #[error("the receiver is `{found}`, not `{wanted}`")]
    Stranger {
        /// Who it says that it is, and proves.
        found: String,
        /// Who it should be.
        wanted: HostName,
    },
    /// The frontend's own images.
    #[error(transparent)]
    Image(#[from] crate::images::ImageError),
    /// Our certificate.
    #[error(transparent)]
    Authority(#[from] CaError),
    /// TLS itself.
    #[error("TLS: {0}")]
    Tls(String),
}

/// What to ship, and whereto.
pub struct Order<'o> {
    /// The image.
    pub image: &'o Path,
    /// An earlier image, if the receiver's target is said to hold it.
    pub base: Option<&'o Path>,
    /// The host that is to receive it.
    pub host: &'o HostName,
    /// Where it listens.
    pub to: SocketAddr,
    /// How.
    pub way: Way,
    /// The most bytes a second, headers included.
    pub rate: Option<u64>,
}

/// Ships an image as a disk. Blocks; `stop` ends it.
///
/// # Errors
/// See [`ShipError`]. What arrived stays at the receiver, and the same again goes on from there.
pub fn ship(
    order: &Order<'_>,
    authority: &Authority,
    names: &[String],
    stop: &Arc<AtomicBool>,
    tell: Tell<'_>,
) -> Result<Shipped, ShipError> {
    let tls = tls(authority, names)?;
    let source = Source::open(order.image)?;
    let mut sender = Sender::new(&source, tell)?;
    if let Some(base) = order.base {
        sender = sender.based_on(&Source::open(base)?, tell)?;
    }
    deliver(order, &tls, (stop, &[sender.stop()]), tell, &|stream, tell| sender.run(stream, tell))
}

/// Ships the files of an image's root. Blocks; `stop` ends it. Of a base it knows nothing: what is on the target is used anyway.
///
/// # Errors
/// See [`ShipError`]. What arrived stays at the receiver, and the same again goes on from there.
pub fn ship_tree(
    order: &Order<'_>,
    authority: &Authority,
    names: &[String],
    stop: &Arc<AtomicBool>,
    tell: Tell<'_>,
) -> Result<tree::Shipped, ShipError> {
    let tls = tls(authority, names)?;
    let mut source = root_of(order.image)?;
    let sender = TreeSender::new(&mut *source, tell)?;
    deliver(order, &tls, (stop, &[sender.stop()]), tell, &|stream, tell| sender.run(stream, tell))
}

/// Ships the files of an image's root, and what it boots by. Blocks; `stop` ends it.
///
/// # Errors
/// See [`ShipError`]. What arrived stays at the receiver, and the same again goes on from there.
pub fn ship_bootable(
    order: &Order<'_>,
    authority: &Authority,
    names: &[String],
    stop: &Arc<AtomicBool>,
    tell: Tell<'_>,
) -> Result<bootable::Shipped, ShipError> {
    let tls = tls(authority, names)?;
    let mut image = BootImage::open(order.image)?;
    let sender = image.sender(tell)?;
    deliver(order, &tls, (stop, &sender.stops()), tell, &|stream, tell| sender.run(stream, tell))
}

/// One attempt to ship.
type Attempt<'a, T> = &'a dyn Fn(&mut dyn Stream, Tell<'_>) -> Result<T, ShipmentError>;

/// An attempt that lasts this long is none of those that break off at once.
const LASTS: Duration = Duration::from_secs(60);

/// When a shipment got on last. That the receiver lets us in is not enough, if it breaks off each time.
struct Advance(Mutex<Furthest>);

struct Furthest {
    /// The phase, and what is left in it.
    at: Option<(u8, Reverse<u64>)>,
    last: Instant,
}

impl Advance {
    fn new() -> Self {
        Self(Mutex::new(Furthest { at: None, last: Instant::now() }))
    }

    /// Notes how far it is: more is done the less is left in the last phase that was reached.
    fn note(&self, progress: Progress, begun: Instant) {
        let at = (progress.phase as u8, Reverse(progress.of.saturating_sub(progress.done)));
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_further = known.at.is_none_or(|furthest| at > furthest);
        if is_further {
            known.at = Some(at);
        }
        if is_further || begun.elapsed() >= LASTS {
            known.last = Instant::now();
        }
    }

    fn last(&self) -> Instant {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).last
    }
}

/// Connects, and makes attempts until one comes to its end. When `stop` is set it sets all of `stops`.
fn deliver<T>(
    order: &Order<'_>,
    tls: &Arc<rustls::ServerConfig>,
    (stop, stops): (&AtomicBool, &[Arc<AtomicBool>]),
    tell: Tell<'_>,
    attempt: Attempt<'_, T>,
) -> Result<T, ShipError> {
    let options = Options { rate: order.rate, patience: SILENCE, ..Options::default() };
    let way = order.way.transport(options);
    let mut pause = PAUSES.0;
    let advance = Advance::new();
    let end = || stops.iter().for_each(|inner| inner.store(true, Ordering::Relaxed));
    loop {
        if stop.load(Ordering::Relaxed) {
            end();
        }
        let failed = match way.connect(order.to).map_err(|error| error.to_string()).and_then(|connection| {
            transport::secure_server(connection, tls).map_err(|error| format!("it was not let in: {error}"))
        }) {
            Ok(mut stream) => {
                let chain = stream.peer_certificates().and_then(|chain| chain.first());
                let found = chain.and_then(|der| crate::listen::host_of(der)).unwrap_or_default();
                if found != order.host.as_str() {
                    return Err(ShipError::Stranger { found, wanted: order.host.clone() });
                }
                pause = PAUSES.0;
                let begun = Instant::now();
                let watch = |progress: Progress| {
                    advance.note(progress, begun);
                    if stop.load(Ordering::Relaxed) {
                        end();
                    }
                    tell(progress);
                };
                match attempt(&mut stream, &watch) {
                    Ok(shipped) => {
                        // It has been proved; how the connection ends does not matter.
                        let _ = stream.finish();
                        return Ok(shipped);
                    }
                    Err(error) if error.may_pass() => error.to_string(),
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => error,
        };
        if advance.last().elapsed() >= PATIENCE || stop.load(Ordering::Relaxed) {
            return Err(ShipError::Unreachable(failed));
        }
        tracing::warn!("shipping {} to {}: {failed}; trying again", order.image.display(), order.to);
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSES.1);
    }
}

pub(crate) fn tls(authority: &Authority, names: &[String]) -> Result<Arc<rustls::ServerConfig>, ShipError> {
    let (certificate, key, roots) = authority.tls_parts(names)?;
    transport::server_config(roots, vec![certificate], key).map_err(|error| ShipError::Tls(error.to_string()))
}
