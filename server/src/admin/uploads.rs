//! Images that come to the frontend: through the socket itself, whose connection then speaks the protocol of shipments, or from a host, on a
//! port that is open for that upload alone.

use std::collections::HashSet;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::upgrade::downcast;
use rocks_common::ids::{ApplianceName, HostName, ImageName};
use serde::Deserialize;
use serde_json::json;
use tokio::net::UnixStream;

use super::Admin;
use super::distro::lines;
use super::problem::{Asked, Failure, Input, Named};
use super::shipments::{address, failure, teller};
use crate::images::upload::{self, Announced, PROTOCOL, Upgraded};
use crate::ship::Way;

/// Where hosts call unless something else is said.
const AT: &str = "0.0.0.0:8444";
/// How long a host may take until it calls, and between two calls.
const PATIENCE: u64 = 3600;

#[derive(Deserialize)]
pub(super) struct Of {
    #[serde(default)]
    appliance: Option<ApplianceName>,
}

/// Takes an image over this very connection. After the shipment comes one line of JSON: the image, or why there is none.
pub(super) async fn through_socket(
    State(admin): State<Admin>,
    Named(name): Named<ImageName>,
    Asked(of): Asked<Of>,
    mut request: Request,
) -> Result<Response, Failure> {
    let wanted = request.headers().get(UPGRADE).is_some_and(|protocol| protocol == PROTOCOL);
    let upgrade = request.extensions_mut().remove::<OnUpgrade>().filter(|_| wanted);
    let Some(upgrade) = upgrade else {
        let failure = Failure::new(StatusCode::UPGRADE_REQUIRED, "upgrade", "an image is not sent as a request's body");
        return Err(failure.hint("`rocks upload image FILE name=NAME` sends one"));
    };
    let part = admin.images.part(&name)?;
    tokio::spawn(async move {
        let stream = match upgrade.await.map(downcast::<TokioIo<UnixStream>>) {
            Ok(Ok(parts)) => Upgraded::new(parts.io.into_inner(), parts.read_buf),
            // Not a socket of ours, or it has gone away.
            _ => return,
        };
        let Ok(mut stream) = stream else { return };
        let taken = tokio::task::spawn_blocking(move || {
            let last = match upload::take(part, of.appliance, &mut stream) {
                Ok(image) => json!({"result": image}),
                Err(error) => {
                    tracing::warn!("an upload of image {name} was not taken: {error}");
                    json!({"problem": Failure::from(error).into_value()})
                }
            };
            // Who has gone away finds it by looking.
            let _ = writeln!(stream, "{last}").and_then(|()| stream.flush());
        });
        if let Err(error) = taken.await {
            tracing::error!("an upload broke off: {error}");
        }
    });
    let headers = [(CONNECTION, HeaderValue::from_static("upgrade")), (UPGRADE, HeaderValue::from_static(PROTOCOL))];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

#[derive(Deserialize)]
pub(super) struct UploadOrder {
    name: ImageName,
    host: HostName,
    /// Where the host calls: `address:port`.
    #[serde(default)]
    at: Option<String>,
    #[serde(default)]
    transport: Way,
    #[serde(default)]
    appliance: Option<ApplianceName>,
    /// Seconds that it may be silent.
    #[serde(default)]
    patience: Option<u64>,
}

/// Waits for a host to send an image.
pub(super) async fn from_host(
    State(admin): State<Admin>,
    Input(order): Input<UploadOrder>,
) -> Result<Response, Failure> {
    admin.store.host(&order.host).await?;
    let at = address(order.at.as_deref().unwrap_or(AT)).await?;
    let part = admin.images.part(&order.name)?;
    // As of now: a certificate that is revoked while its image travels has had its time.
    let revoked: HashSet<String> = admin.store.revoked().await?.into_iter().collect();
    Ok(lines(move |lines| async move {
        let stop = Arc::new(AtomicBool::new(false));
        let (ending, told) = (stop.clone(), lines.clone());
        let work = tokio::task::spawn_blocking(move || {
            let ready = |local| drop(told.blocking_send(json!({"progress": {"waiting": order.host, "at": local}})));
            let announced = Announced {
                host: &order.host,
                at,
                way: order.transport,
                patience: Duration::from_secs(order.patience.unwrap_or(PATIENCE)),
                is_revoked: &|serial| revoked.contains(serial),
            };
            let frontend = (&*admin.authority, &admin.config.names[..]);
            let tell = teller(told.clone());
            upload::take_from(part, order.appliance, &announced, frontend, &stop, &ready, &tell)
        });
        let done = tokio::select! {
            done = work => done,
            () = lines.closed() => {
                ending.store(true, Ordering::Relaxed);
                return Err(Failure::bad("interrupted", "nobody waits for the upload any more"));
            }
        };
        let (image, shipped) = done
            .map_err(|error| Failure::internal(&error))?
            .map_err(|error| failure(&error).hint("what came is kept; the same command goes on from it"))?;
        Ok(json!({"image": image, "shipped": shipped}))
    }))
}
