//! Makes an image of an appliance as the rolls and the mirror are now.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rocks_common::ids::{ApplianceName, Digest, ImageName};

use super::{Image, ImageError, Images, Made, Meta};
use crate::builder::{self, BuildError, Phase};
use crate::config::Config;
use crate::kickstart::{RenderError, Service};
use crate::store::StoreError;

/// What an image is made of.
#[derive(Debug, Clone)]
pub struct Order {
    /// The appliance.
    pub appliance: ApplianceName,
    /// The image's name.
    pub name: ImageName,
    /// The architecture, as rpm calls it.
    pub arch: String,
    /// MiB of the disk; none: what the partitions need.
    pub disk_mib: Option<u64>,
    /// Files of the keys that packages must be signed with.
    pub gpgkeys: Vec<PathBuf>,
}

/// Why no image was made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The order is none.
    #[error("{0}")]
    Order(String),
    /// The rolls have errors.
    #[error("{0}")]
    Rolls(String),
    /// There are no packages.
    #[error("the mirror has no packages for {0}")]
    Mirror(String),
    /// No kickstart.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The builder's.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Where images are kept.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The work broke off.
    #[error("the work broke off: {0}")]
    Broken(String),
}

impl MakeError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Mirror(_) => Some("publish it with `rocks create distro`".to_owned()),
            Self::Build(error) => error.hint().map(str::to_owned),
            Self::Image(error) => error.hint().map(str::to_owned),
            _ => None,
        }
    }
}

/// A build that is ready to begin: everything that can be wrong before is known to be right.
pub struct Build {
    order: Order,
    build: builder::Order,
    kickstart: Digest,
    room: super::Room,
    images: Arc<Images>,
}

/// Looks at an order, and gets all that is needed for it.
///
/// # Errors
/// See [`MakeError`].
pub async fn prepare(
    mut order: Order,
    service: &Service,
    config: &Config,
    images: &Arc<Images>,
) -> Result<Build, MakeError> {
    if !["x86_64", "aarch64"].contains(&order.arch.as_str()) {
        return Err(MakeError::Order(format!("images are made for x86_64 and aarch64, not for {:?}", order.arch)));
    }
    if order.gpgkeys.is_empty() {
        order.gpgkeys.clone_from(&config.gpgkeys);
    }
    if let Some(key) = order.gpgkeys.iter().find(|key| !key.is_absolute() || !key.is_file()) {
        return Err(MakeError::Order(format!("{} is not the absolute path of a key", key.display())));
    }
    let mirror = config.state.join("mirror/rocks-dist").join(&order.arch);
    if !mirror.join("repodata").exists() {
        return Err(MakeError::Mirror(order.arch));
    }
    // What was changed a moment ago counts, and an image of rolls that are half changed is nothing that anybody wants.
    if let Some(problems) = service.sync(true).await?.problems {
        return Err(MakeError::Rolls(problems));
    }
    let kickstart = service.of_appliance(&order.appliance, &order.arch).await?;
    let room = images.room()?;
    let digest = Digest::of(kickstart.as_bytes());
    let build = builder::Order {
        appliance: order.appliance.to_string(),
        kickstart,
        arch: order.arch.clone(),
        mirror,
        frontend_url: service.frontend_url.clone(),
        gpgkeys: order.gpgkeys.clone(),
        disk_mib: order.disk_mib,
        work: room.path().to_path_buf(),
    };
    Ok(Build { order, build, kickstart: digest, room, images: images.clone() })
}

/// Sets a mark when it is dropped, so that work on another thread ends with whoever waits for it.
pub struct EndWith(pub Arc<AtomicBool>);

impl Drop for EndWith {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Build {
    /// Builds it and gives it its name. Dropping the future stops the build.
    ///
    /// # Errors
    /// See [`MakeError`].
    pub async fn run(self, tell: impl Fn(Phase, &str) + Send + 'static) -> Result<Image, MakeError> {
        let stop = Arc::new(AtomicBool::new(false));
        let ending = EndWith(stop.clone());
        let work = tokio::task::spawn_blocking(move || {
            let Self { order, build, kickstart, room, images } = self;
            let built = builder::parent::build(&build, &stop, &mut |phase, doing| tell(phase, doing))?;
            let meta = Meta::built(order.appliance, Made { arch: order.arch, kickstart, built });
            Ok(images.publish(&order.name, &room.path().join(builder::IMAGE), &meta)?)
        });
        let made = work.await.map_err(|error| MakeError::Broken(error.to_string()))?;
        drop(ending);
        made
    }
}
