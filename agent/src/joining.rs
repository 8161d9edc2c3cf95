//! Which identity counts: the one that is kept, or one that a join document gives.

use std::path::PathBuf;
use std::time::SystemTime;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::config::Config;
use crate::identity::{self, Identity, IdentityError};
use crate::patience::until_next;

/// The identity, enrolling if there is a join document and no identity, or none that can be used any more.
///
/// # Errors
/// There is neither, or the frontend cannot be reached or says no.
pub async fn identity(config: &Config) -> Result<Identity, IdentityError> {
    let now = Timestamp::now();
    let known = Identity::load(&config.state)?;
    if let Some(identity) = known.as_ref().filter(|known| known.is_usable(now) || !join_path(config).exists()) {
        return Ok(identity.clone());
    }
    match (enrol(config).await, known) {
        (Ok(made), _) => Ok(made),
        // With a certificate that has ended what was begun can still be finished.
        (Err(error), Some(known)) if known.client().is_ok() => {
            tracing::info!("cannot enrol again: {error}");
            Ok(known)
        }
        (Err(error), _) => Err(error),
    }
}

/// Where a join document is put.
pub(crate) fn join_path(config: &Config) -> PathBuf {
    config.root.join("etc/rocks-agent/join.toml")
}

async fn enrol(config: &Config) -> Result<Identity, IdentityError> {
    let path = join_path(config);
    let join = identity::read_join(&path)?;
    let made = identity::enrol(&config.state, &join, identity::facts(&config.root), Timestamp::now()).await?;
    // The token is used up; what is left of the document is no secret, but nobody needs it either.
    let _ = std::fs::remove_file(&path);
    Ok(made)
}

/// The search for another identity, while the frontend lets nobody in with the one that there is.
#[derive(Debug, Default)]
pub struct Search {
    /// When the join document that did not help was written, and when it is tried again. Its token may be used up for
    /// good; another document is tried at once.
    tried: Option<(SystemTime, Instant)>,
    tries: u32,
}

impl Search {
    /// Another identity than `lost`: one that somebody has enrolled by hand meanwhile, or one that a join document
    /// gives.
    pub async fn find(&mut self, config: &Config, lost: &Identity) -> Option<Identity> {
        match Identity::load(&config.state) {
            Ok(Some(kept)) if kept != *lost && kept.is_usable(Timestamp::now()) => return Some(kept),
            Ok(_) => {}
            Err(error) => tracing::info!("{error}"),
        }
        let written = std::fs::metadata(join_path(config)).and_then(|metadata| metadata.modified()).ok()?;
        match self.tried {
            Some((tried, again)) if tried == written && Instant::now() < again => return None,
            Some((tried, _)) if tried == written => self.tries += 1,
            _ => self.tries = 0,
        }
        match enrol(config).await {
            Ok(made) => Some(made),
            Err(error) => {
                tracing::info!("cannot enrol again: {error}");
                self.tried = until_next(&error, self.tries).map(|pause| (written, Instant::now() + pause));
                None
            }
        }
    }
}
