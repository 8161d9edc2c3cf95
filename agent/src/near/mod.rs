//! Packages from near by: what an instance needs of the frontend's mirror comes from a relay beside it or from a bucket in its region, and
//! each byte is checked against an index that the frontend has sealed, whoever gives it.
//!
//! [`gateway`] serves the mirror to this machine's own package manager while it runs, [`relay`] to other machines; both are a [`serve::Desk`]
//! over a [`depot::Depot`]. `docs/packages.md` is the prose.

pub mod cache;
pub mod catalogue;
pub mod client;
pub mod depot;
pub mod gateway;
pub mod relay;
pub mod serve;
pub mod source;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use http::{StatusCode, Uri};
use rocks_common::limits;
use rocks_common::wire::{RelayAddress, Sources, path};
use rustls_pki_types::ServerName;

use crate::identity::{Identity, IdentityError};
use crate::tls;
use client::{ClientError, Endpoint};
use source::{FAR, Kind, NEAR, NEAR_PACE, Source};

/// Why packages do not come from near.
#[derive(Debug, thiserror::Error)]
pub enum NearError {
    /// Who we are is not known.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// TLS objects.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// The frontend gives no answer.
    #[error("the frontend: {0}")]
    Frontend(#[from] ClientError),
    /// The frontend says no.
    #[error("the frontend answers {0}")]
    Status(StatusCode),
    /// There is no index to go by.
    #[error(transparent)]
    Catalogue(#[from] catalogue::CatalogueError),
    /// The file system's, or the network's.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Host and port of the frontend's address.
fn place(frontend: &str) -> Result<(String, u16), ClientError> {
    let bad = || ClientError::Bad(format!("`{frontend}` is not an address"));
    let uri: Uri = frontend.parse().map_err(|_| bad())?;
    let host = uri.host().ok_or_else(bad)?.trim_matches(['[', ']']).to_owned();
    Ok((host, uri.port_u16().unwrap_or(443)))
}

/// What TLS needs to speak to the frontend as `identity`.
fn frontend_tls(identity: &Identity) -> Result<client::Tls, NearError> {
    let (ca, certificate, key) = identity.documents()?;
    let (host, _) = place(&identity.frontend)?;
    let bad = |_| ClientError::Bad(format!("`{host}` is not a name"));
    let name = ServerName::try_from(host.clone()).map_err(bad)?;
    Ok((tls::client(&ca, Some((&certificate, &key)))?, name))
}

/// The frontend.
fn frontend(identity: &Identity) -> Result<Arc<Endpoint>, NearError> {
    let (host, port) = place(&identity.frontend)?;
    Ok(Endpoint::new(&host, port, Some(frontend_tls(identity)?), FAR))
}

fn relay_source(identity: &Identity, relay: &RelayAddress) -> Result<Source, NearError> {
    let (ca, certificate, key) = identity.documents()?;
    let tls = tls::relay_client(&ca, (&certificate, &key), relay.host.as_ref())?;
    let endpoint = Endpoint::paced(&relay.address, relay.port, Some((tls, tls::relay_name())), NEAR, NEAR_PACE);
    Ok(Source::new(Kind::Relay, format!("the relay {relay}"), endpoint))
}

/// The bucket, if the frontend says that there is one.
fn bucket_source(frontend: &Arc<Endpoint>, root: &Path) -> Result<Source, NearError> {
    Ok(Source::bucket(frontend.clone(), source::Buckets::new(tls::public(root)?)))
}

fn frontend_source(frontend: &Arc<Endpoint>) -> Source {
    Source::new(Kind::Frontend, "the frontend", frontend.clone())
}

/// Asks the frontend where packages come from.
async fn sources(frontend: &Arc<Endpoint>) -> Result<Sources, NearError> {
    let answer = frontend.get(path::SOURCES, &[]).await?;
    match answer.status() {
        StatusCode::OK => {}
        // One that does not know of all this yet.
        StatusCode::NOT_FOUND => return Ok(Sources::default()),
        other => return Err(NearError::Status(other)),
    }
    let bytes = answer.whole(limits::SOURCES_BYTES).await?;
    let mut sources: Sources = serde_json::from_slice(&bytes).map_err(|error| ClientError::Bad(error.to_string()))?;
    sources.relays.truncate(limits::RELAYS);
    Ok(sources)
}
