//! The frontend's images.

use std::path::PathBuf;

use axum::extract::State;
use axum::response::Response;
use rocks_common::ids::{ApplianceName, ImageName};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Admin;
use super::distro::lines;
use super::problem::{Answer, Failure, Input, Named, answer, done};
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
