//! Which certificates were revoked, at hand for every request.

use std::collections::HashSet;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use crate::store::{Store, StoreError};

/// Pause before it is asked again what the store did not tell.
const AGAIN: Duration = Duration::from_secs(1);

/// The serial numbers of revoked certificates that have not ended.
#[derive(Debug, Default)]
pub struct Revoked(RwLock<HashSet<String>>);

impl Revoked {
    /// Those that the store knows.
    ///
    /// # Errors
    /// The store's.
    pub async fn of(store: &Store) -> Result<Self, StoreError> {
        let revoked = Self::default();
        revoked.read(store).await?;
        Ok(revoked)
    }

    /// Whether this one is among them.
    #[must_use]
    pub fn contains(&self, serial: &str) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(serial)
    }

    async fn read(&self, store: &Store) -> Result<(), StoreError> {
        let revoked = store.revoked().await?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = revoked.into_iter().collect();
        Ok(())
    }

    /// Follows the store, until that is gone. Nothing else may hold it up: whoever was removed is not to be answered meanwhile.
    pub async fn follow(&self, store: &Store) {
        let mut changes = store.changes();
        loop {
            changes.mark_unchanged();
            match self.read(store).await {
                Ok(()) => {
                    if changes.changed().await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::error!("which certificates are revoked is not known, and will be asked again: {error}");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rocks_common::ids::{Digest, HostName};
    use rocks_common::wire::Facts;

    use super::*;
    use crate::store::{Appliance, Host, NewCertificate, Proof};

    #[tokio::test]
    async fn what_is_revoked_is_known_without_a_synchronisation() {
        let store = Store::temporary().await.expect("a store");
        let (name, node, membership) = ("lite".parse().expect("a name"), "lite".to_owned(), "Lite".to_owned());
        store.add_appliance(&Appliance { name, node, membership }).await.expect("added");
        let name: HostName = "lite-0-0".parse().expect("a name");
        let host = Host::new(name.clone(), "lite".parse().expect("a name"), "x86_64");
        store.add_host(&host).await.expect("added");
        let (token, key, facts) = (Digest::of(b"token"), Digest::of(b"key"), Facts::default());
        store.add_token(&name, &token, 100, 1).await.expect("added");
        let new = NewCertificate { serial: "01", host: &name, not_after: 100, facts: &facts };
        store.add_certificate(&new, Proof::Token(&token, &key), 1).await.expect("noted");
        let revoked = Arc::new(Revoked::of(&store).await.expect("read"));
        assert!(!revoked.contains("01"));
        let follower = tokio::spawn({
            let (revoked, store) = (revoked.clone(), store.clone());
            async move { revoked.follow(&store).await }
        });
        store.remove_hosts(&[name]).await.expect("removed");
        let seen = async {
            while !revoked.contains("01") {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), seen).await.expect("it is seen");
        follower.abort();
    }
}
