//! Building images: answers in lines, as the distribution does; who hangs up stops a build.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use rocks_common::ids::{ApplianceName, Digest, ImageName};
use serde::Deserialize;
use serde_json::json;

use super::Admin;
use super::distro::lines;
use super::images::view;
use super::problem::{Failure, Input};
use crate::builder::{self, BuildError};
use crate::images::{Image, Made, Meta};

#[derive(Deserialize)]
pub(super) struct BuildOrder {
    appliance: ApplianceName,
    /// The image's name; none: the appliance's.
    #[serde(default)]
    name: Option<ImageName>,
    #[serde(default)]
    arch: Option<String>,
    /// MiB of the disk.
    #[serde(default)]
    size: Option<u64>,
    /// Files of the keys that packages must be signed with.
    #[serde(default)]
    gpgkeys: Vec<PathBuf>,
}

pub(super) async fn create(State(admin): State<Admin>, Input(order): Input<BuildOrder>) -> Result<Response, Failure> {
    let name = match order.name {
        Some(name) => name,
        None => order.appliance.as_str().parse().map_err(|error| Failure::bad("bad-name", format!("{error}")))?,
    };
    let arch = order.arch.unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    if !["x86_64", "aarch64"].contains(&arch.as_str()) {
        return Err(Failure::bad("bad-arch", format!("images are made for x86_64 and aarch64, not for {arch:?}")));
    }
    if let Some(key) = order.gpgkeys.iter().find(|key| !key.is_absolute() || !key.is_file()) {
        return Err(Failure::bad("not-a-key", format!("{} is not the absolute path of a key", key.display())));
    }
    let mirror = admin.config.state.join("mirror/rocks-dist").join(&arch);
    if !mirror.join("repodata").exists() {
        let title = format!("the mirror has no packages for {arch}");
        return Err(Failure::bad("no-mirror", title).hint("publish it with `rocks create distro`"));
    }
    // What was changed a moment ago counts, and an image of rolls that are half changed is nothing that anybody wants.
    if let Some(problems) = admin.service.sync(true).await?.problems {
        return Err(Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "rolls-have-errors", problems));
    }
    let kickstart = admin.service.of_appliance(&order.appliance, &arch).await.map_err(Failure::from)?;
    let room = admin.images.room()?;
    let frontend_url = admin.service.frontend_url.clone();
    Ok(lines(move |lines| async move {
        let digest = Digest::of(kickstart.as_bytes());
        let build = builder::Order {
            appliance: order.appliance.to_string(),
            kickstart,
            arch: arch.clone(),
            mirror,
            frontend_url,
            gpgkeys: order.gpgkeys,
            disk_mib: order.size,
            work: room.path().to_path_buf(),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let (ending, told, images) = (stop.clone(), lines.clone(), admin.images.clone());
        let finish = move || -> Result<Image, Failure> {
            let built = builder::parent::build(&build, &stop, &mut |phase, doing| {
                let _ = told.try_send(json!({"progress": {"step": phase, "doing": doing}}));
            })
            .map_err(|error| not_built(&error))?;
            let meta = Meta::built(order.appliance, Made { arch, kickstart: digest, built });
            Ok(images.publish(&name, &room.path().join(builder::IMAGE), &meta)?)
        };
        let work = tokio::task::spawn_blocking(finish);
        let image = tokio::select! {
            image = work => image.map_err(|error| Failure::internal(&error))??,
            () = lines.closed() => {
                ending.store(true, Ordering::Relaxed);
                return Err(Failure::bad("interrupted", "nobody waits for the image any more"));
            }
        };
        serde_json::to_value(view(&admin, image)).map_err(|error| Failure::internal(&error))
    }))
}

fn not_built(error: &BuildError) -> Failure {
    let failure = Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "not-built", error.to_string());
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
