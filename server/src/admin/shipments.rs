//! Shipments of images. They answer in lines, as the distribution does; who hangs up stops one, and the next goes on from there.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use rocks_common::ids::HostName;
use rocks_ship::shipment::{Phase, Progress};
use serde::Deserialize;
use serde_json::json;

use super::Admin;
use super::distro::lines;
use super::problem::{Failure, Input};
use crate::ship::{self, Order, ShipError, Way};

/// How often a client hears of progress.
const EVERY: Duration = Duration::from_millis(200);

#[derive(Deserialize)]
pub(super) struct ShipOrder {
    image: PathBuf,
    host: HostName,
    /// `address:port`, or `name:port`.
    to: String,
    #[serde(default)]
    transport: Way,
    /// Bits a second.
    #[serde(default)]
    rate: Option<u64>,
}

pub(super) async fn create(State(admin): State<Admin>, Input(order): Input<ShipOrder>) -> Result<Response, Failure> {
    admin.store.host(&order.host).await?;
    if !order.image.is_absolute() || !order.image.exists() {
        let title = format!("{} is not the absolute path of an image", order.image.display());
        return Err(Failure::bad("not-an-image", title));
    }
    let found = tokio::net::lookup_host(&order.to).await.ok().and_then(|mut all| all.next());
    let Some(to) = found else {
        return Err(Failure::bad("bad-address", format!("{:?} is not an address with a port", order.to)));
    };
    Ok(lines(move |lines| async move {
        let stop = Arc::new(AtomicBool::new(false));
        let (ending, told) = (stop.clone(), lines.clone());
        let work = tokio::task::spawn_blocking(move || {
            let last: Mutex<(Option<Phase>, Instant)> = Mutex::new((None, Instant::now()));
            let tell = |at: Progress| {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                if last.0 == Some(at.phase) && last.1.elapsed() < EVERY {
                    return;
                }
                *last = (Some(at.phase), Instant::now());
                // Who is behind misses some.
                let _ = told.try_send(json!({"progress": at}));
            };
            let order = Order {
                image: &order.image,
                host: &order.host,
                to,
                way: order.transport,
                rate: order.rate.map(|r| r / 8),
            };
            ship::ship(&order, &admin.authority, &admin.config.names, &stop, &tell)
        });
        let done = tokio::select! {
            done = work => done,
            () = lines.closed() => {
                ending.store(true, Ordering::Relaxed);
                return Err(Failure::bad("interrupted", "nobody waits for the shipment any more"));
            }
        };
        let shipped = done.map_err(|error| Failure::internal(&error))?.map_err(|error| {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            let (status, code) = match &error {
                ShipError::Unreachable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unreachable"),
                ShipError::Stranger { .. } => (StatusCode::FORBIDDEN, "another-host"),
                _ => (StatusCode::BAD_GATEWAY, "not-shipped"),
            };
            Failure::new(status, code, format!("{error}{cause}"))
                .hint("what arrived is kept there; the same command goes on from it")
        })?;
        serde_json::to_value(shipped).map_err(|error| Failure::internal(&error))
    }))
}
