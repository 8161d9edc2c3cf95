//! Building images: answers in lines, as the distribution does; who hangs up stops a build.

use std::path::PathBuf;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use rocks_common::ids::{ApplianceName, ImageName};
use serde::Deserialize;
use serde_json::json;

use super::Admin;
use super::distro::lines;
use super::images::view;
use super::problem::{Failure, Input};
use crate::images::make::{self, MakeError};

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
    let order = make::Order {
        appliance: order.appliance,
        name,
        arch: order.arch.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        disk_mib: order.size,
        gpgkeys: order.gpgkeys,
    };
    let build = make::prepare(order, &admin.service, &admin.config, &admin.images).await?;
    Ok(lines(move |lines| async move {
        let told = lines.clone();
        let work = build.run(move |phase, doing| {
            let _ = told.try_send(json!({"progress": {"step": phase, "doing": doing}}));
        });
        let image = tokio::select! {
            image = work => image?,
            () = lines.closed() => return Err(Failure::bad("interrupted", "nobody waits for the image any more")),
        };
        serde_json::to_value(view(&admin, image)).map_err(|error| Failure::internal(&error))
    }))
}

impl From<MakeError> for Failure {
    fn from(error: MakeError) -> Self {
        let hint = error.hint();
        let failure = match error {
            MakeError::Order(why) => Self::bad("bad-order", why),
            MakeError::Rolls(problems) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "rolls-have-errors", problems),
            MakeError::Mirror(_) => Self::bad("no-mirror", error.to_string()),
            MakeError::Render(error) => return error.into(),
            MakeError::Store(error) => return error.into(),
            MakeError::Image(error) => return error.into(),
            MakeError::Build(error) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "not-built", error.to_string()),
            MakeError::Broken(why) => Self::internal(&why),
        };
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
