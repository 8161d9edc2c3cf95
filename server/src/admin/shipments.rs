//! Shipments of images. They answer in lines, as the distribution does; who hangs up stops one, and the next goes on from there.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use rocks_common::ids::{HostName, ImageName};
use rocks_ship::shipment::{Phase, Progress};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::Admin;
use super::distro::lines;
use super::problem::{Failure, Input};
use crate::ship::{self, Form, Order, ShipError, Way};

/// How often a client hears of progress.
const EVERY: Duration = Duration::from_millis(200);

#[derive(Deserialize)]
pub(super) struct ShipOrder {
    /// An image's name, or the absolute path of a disk.
    image: String,
    host: HostName,
    /// `address:port`, or `name:port`.
    to: String,
    #[serde(default)]
    transport: Way,
    /// Bits a second.
    #[serde(default)]
    rate: Option<u64>,
    #[serde(default)]
    form: Form,
    /// An image's name, or the absolute path of a disk: what the target is said to hold.
    #[serde(default)]
    base: Option<String>,
}

/// The disk that somebody means.
fn disk(admin: &Admin, image: &str) -> Result<PathBuf, Failure> {
    if !image.contains('/') {
        let name: ImageName = image.parse().map_err(|error| Failure::bad("bad-name", format!("{error}")))?;
        return Ok(admin.images.disk(&name)?);
    }
    let path = PathBuf::from(image);
    if path.is_absolute() && path.exists() {
        return Ok(path);
    }
    Err(Failure::bad("not-an-image", format!("{image} is not the absolute path of an image")))
}

/// An address with a port, given as such or by a name.
pub(super) async fn address(text: &str) -> Result<SocketAddr, Failure> {
    let found = tokio::net::lookup_host(text).await.ok().and_then(|mut all| all.next());
    found.ok_or_else(|| Failure::bad("bad-address", format!("{text:?} is not an address with a port")))
}

/// Tells a client of progress, but not too often.
pub(super) fn teller(told: mpsc::Sender<Value>) -> impl Fn(Progress) + Sync {
    let last: Mutex<(Option<Phase>, Instant)> = Mutex::new((None, Instant::now()));
    move |at: Progress| {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0 == Some(at.phase) && last.1.elapsed() < EVERY {
            return;
        }
        *last = (Some(at.phase), Instant::now());
        // Who is behind misses some.
        let _ = told.try_send(json!({"progress": at}));
    }
}

pub(super) fn failure(error: &ShipError) -> Failure {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    let (status, code) = match error {
        ShipError::Unreachable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unreachable"),
        ShipError::Stranger { .. } => (StatusCode::FORBIDDEN, "another-host"),
        _ => (StatusCode::BAD_GATEWAY, "not-shipped"),
    };
    Failure::new(status, code, format!("{error}{cause}"))
}

pub(super) async fn create(State(admin): State<Admin>, Input(order): Input<ShipOrder>) -> Result<Response, Failure> {
    admin.store.host(&order.host).await?;
    let image = disk(&admin, &order.image)?;
    let base = order.base.as_ref().map(|base| disk(&admin, base)).transpose()?;
    if base.is_some() && order.form != Form::Block {
        let failure = Failure::bad("not-with-a-tree", "a base is for the block form");
        return Err(failure.hint("leave it out: files are looked for on the target"));
    }
    let to = address(&order.to).await?;
    Ok(lines(move |lines| async move {
        let stop = Arc::new(AtomicBool::new(false));
        let (ending, told) = (stop.clone(), lines.clone());
        let work = tokio::task::spawn_blocking(move || {
            let (tell, form) = (teller(told), order.form);
            let order = Order {
                image: &image,
                base: base.as_deref(),
                host: &order.host,
                to,
                way: order.transport,
                rate: order.rate.map(|r| r / 8),
            };
            let (authority, names) = (&admin.authority, &admin.config.names);
            Ok(match form {
                Form::Block => json!(ship::ship(&order, authority, names, &stop, &tell)?),
                Form::Tree => json!(ship::ship_tree(&order, authority, names, &stop, &tell)?),
                Form::Bootable => json!(ship::ship_bootable(&order, authority, names, &stop, &tell)?),
            })
        });
        let done = tokio::select! {
            done = work => done,
            () = lines.closed() => {
                ending.store(true, Ordering::Relaxed);
                return Err(Failure::bad("interrupted", "nobody waits for the shipment any more"));
            }
        };
        let shipped = done.map_err(|error| Failure::internal(&error))?.map_err(|error: ShipError| {
            failure(&error).hint("what arrived is kept there; the same command goes on from it")
        })?;
        Ok(shipped)
    }))
}
