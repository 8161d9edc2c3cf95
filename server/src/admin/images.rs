//! The frontend's images.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream;
use rocks_common::ids::{ApplianceName, ImageName};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc;

use super::Admin;
use super::distro::lines;
use super::problem::{Answer, Asked, Failure, Input, Named, answer, done};
use crate::images::export::{Export, Format};
use crate::images::{Image, import as files};

/// An image as it is shown: with the place of its disk.
#[derive(Serialize)]
pub(super) struct View {
    #[serde(flatten)]
    image: Image,
    disk: Option<PathBuf>,
}

pub(super) fn view(admin: &Admin, image: Image) -> View {
    View { disk: admin.images.disk(&image.name).ok(), image }
}

pub(super) async fn list(State(admin): State<Admin>) -> Answer {
    let all: Vec<View> = admin.images.list()?.into_iter().map(|image| view(&admin, image)).collect();
    answer(&all)
}

pub(super) async fn show(State(admin): State<Admin>, Named(name): Named<ImageName>) -> Answer {
    answer(&view(&admin, admin.images.get(&name)?))
}

pub(super) async fn remove(State(admin): State<Admin>, Named(name): Named<ImageName>) -> Answer {
    let removed = tokio::task::spawn_blocking(move || admin.images.remove(&name));
    removed.await.map_err(|error| Failure::internal(&error))??;
    done()
}

#[derive(Deserialize)]
pub(super) struct As {
    #[serde(default)]
    format: Format,
}

/// Pieces of a file that a client may be behind, each of at most a cluster.
const PIECES: usize = 16;

/// A body's writer: what is written goes to whoever reads the answer.
struct Pieces(mpsc::Sender<Result<Bytes, io::Error>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The image as a file: as many bytes as its length says, or the answer is not whole.
pub(super) async fn content(
    State(admin): State<Admin>,
    Named(name): Named<ImageName>,
    Asked(how): Asked<As>,
) -> Result<Response, Failure> {
    let disk = admin.images.disk(&name)?;
    let opened = tokio::task::spawn_blocking(move || Export::open(&disk, how.format));
    let export = opened.await.map_err(|error| Failure::internal(&error))??;
    let length = export.len();
    let (send, receive) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        let mut out = BufWriter::with_capacity(64 << 10, Pieces(send.clone()));
        // Who has hung up wants no more of it; else the connection breaks before its length, and that is noticed.
        if let Err(error) = export.write(&mut out).and_then(|()| out.flush()) {
            tracing::warn!("image {name} was not given out whole: {error}");
            let _ = send.blocking_send(Err(error));
        }
    });
    let body = Body::from_stream(stream::unfold(receive, |mut receive| async move {
        receive.recv().await.map(|piece| (piece, receive))
    }));
    let headers = [(CONTENT_LENGTH, length.to_string()), (CONTENT_TYPE, "application/octet-stream".to_owned())];
    Ok((headers, body).into_response())
}

#[derive(Deserialize)]
pub(super) struct ImportOrder {
    name: ImageName,
    file: PathBuf,
    #[serde(default)]
    appliance: Option<ApplianceName>,
}

/// Copies a file on this machine, raw or qcow2.
pub(super) async fn import(State(admin): State<Admin>, Input(order): Input<ImportOrder>) -> Result<Response, Failure> {
    if !order.file.is_absolute() || !order.file.exists() {
        let title = format!("{} is not the absolute path of an image", order.file.display());
        return Err(Failure::bad("not-an-image", title));
    }
    if admin.images.get(&order.name).is_ok() {
        return Err(crate::images::ImageError::Exists(order.name).into());
    }
    Ok(lines(move |told| async move {
        let images = admin.images.clone();
        let work = tokio::task::spawn_blocking(move || {
            let tell = |done: u64, of: u64| {
                // Every 64 MiB; who is behind misses some.
                if done.is_multiple_of(64 << 20) || done == of {
                    let _ =
                        told.try_send(json!({"progress": {"phase": "copying", "done": done >> 16, "of": of >> 16}}));
                }
            };
            files::import(&images, &order.name, &order.file, order.appliance, &tell)
        });
        let image = work.await.map_err(|error| Failure::internal(&error))??;
        serde_json::to_value(view(&admin, image)).map_err(|error| Failure::internal(&error))
    }))
}
