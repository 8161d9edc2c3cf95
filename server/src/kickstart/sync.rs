//! Makes all kickstarts anew when something changed. One synchronisation runs at a time.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use rocks_common::attr::{Attributes, Scope};
use rocks_common::diag::Diagnostics;
use rocks_common::ids::{Digest, HostName};
use rocks_common::roll::{LoadOptions, RollSet};
use rocks_common::{check, roll};

use super::give::Offer;
use super::render::Work;
use super::{Service, SyncReport};
use crate::rollout::what::Inputs;
use crate::store::{Given, Setting, StoreError, Strategies};

/// What the last check of the rolls in use counted on.
type Checked = Option<(Digest, BTreeSet<String>, Vec<String>)>;

/// What whoever changes kickstarts remembers from one time to the next.
#[derive(Default)]
pub(super) struct Turn {
    checked: Checked,
    /// What the kickstarts are made of; none: they were not made yet.
    pub(super) inputs: Option<Arc<Inputs>>,
    /// What the frontend before this one gave to hosts that have nothing from this one; none: it was not looked at yet.
    pub(super) restored: Option<HashMap<HostName, Given>>,
    /// The kickstarts that the store keeps.
    pub(super) bodies: HashSet<Digest>,
    /// The strategies.
    pub(super) strategies: Strategies,
}

impl Service {
    /// Reads the rolls again if `reload` (checking them again if what the check counts on changed), and renders every host's
    /// kickstart. Hosts that wait are answered, but for those that a rollout holds.
    ///
    /// # Errors
    /// The store's.
    pub async fn sync(&self, reload: bool) -> Result<SyncReport, StoreError> {
        let mut turn = self.turn.lock().await;
        // What changes from here on may be in what is made, or not.
        let changes = self.store.changes().borrow().any;
        let result = self.synchronise(&mut turn, reload).await;
        // What the store did not tell is not in the kickstarts.
        if result.is_ok() {
            self.caught_up.send_replace(changes);
        }
        result
    }

    async fn synchronise(&self, turn: &mut Turn, reload: bool) -> Result<SyncReport, StoreError> {
        let clock = Instant::now();
        let (hosts, appliances) = (self.store.hosts().await?, self.store.appliances().await?);
        let settings = self.store.attributes().await?;
        let mut report = SyncReport { problems: self.last_sync().problems, ..SyncReport::default() };
        let roots: Vec<String> = appliances.iter().map(|a| a.node.clone()).collect();
        let names: BTreeSet<String> = settings.iter().map(|setting| setting.name.to_string()).collect();
        let now = self.rolls();
        let counted_on = now.as_ref().map(|rolls| (rolls.digest, names.clone(), roots.clone()));
        if reload || now.is_none() || turn.checked != counted_on {
            let (folders, site) = (self.folders().await?, self.site());
            let globals = global(&settings);
            let (of, kept) = (roots.clone(), now.filter(|_| !reload));
            let loaded = tokio::task::spawn_blocking(move || match kept {
                Some(rolls) => checked(rolls, Diagnostics::default(), &globals, &of),
                None => load(&folders, site, &globals, &of),
            });
            match loaded.await {
                Ok(Ok(rolls)) => {
                    report.problems = None;
                    turn.checked = Some((rolls.digest, names, roots));
                    // The same files again: what was made of them still holds.
                    if self.rolls().is_none_or(|now| now.digest != rolls.digest) {
                        *self.rolls.write().unwrap_or_else(PoisonError::into_inner) = Some(rolls);
                    }
                }
                Ok(Err(problems)) => {
                    report.problems = Some(problems.render());
                    turn.checked = None;
                }
                Err(error) => report.problems = Some(error.to_string()),
            }
        }
        let Some(set) = self.rolls() else {
            self.keep(&report);
            return Ok(report);
        };
        let basis = self.basis(&set).await?;
        let runner = self.runner(&set, &basis);
        if let Ok(Some(runner)) = &runner {
            runner.forget_failures();
        }
        let url = self.frontend_url.clone();
        let inputs = Arc::new(Inputs { rolls: set.digest, settings, appliances });
        let hosts = Arc::new(hosts);
        let work = {
            let (hosts, inputs, kept) = (hosts.clone(), inputs.clone(), self.rendered.clone());
            tokio::task::spawn_blocking(move || {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                let work = Work {
                    rolls: &set,
                    basis: &basis,
                    hosts: &hosts,
                    appliances: &inputs.appliances,
                    settings: &inputs.settings,
                    frontend_url: &url,
                    runner: runner.as_ref().map(Option::as_deref).map_err(Clone::clone),
                };
                work.all(&mut kept)
            })
        };
        let rendered = match work.await {
            Ok(rendered) => rendered,
            Err(error) => {
                report.problems = Some(format!("rendering broke off: {error}"));
                Vec::new()
            }
        };
        let mut offers = Vec::with_capacity(rendered.len());
        // They are in the hosts' order.
        for (host, (name, result)) in hosts.iter().zip(rendered) {
            match result {
                Err(message) => {
                    report.failed.insert(name.to_string(), message);
                }
                Ok(body) => {
                    let slot = self.slot(&name);
                    offers.push(Offer { host: name, appliance: host.appliance.clone(), slot, body });
                }
            }
        }
        self.give(turn, offers, &hosts, &inputs, &mut report).await?;
        turn.inputs = Some(inputs);
        // A host that was removed gets nothing any more.
        let known: HashSet<&HostName> = hosts.iter().map(|host| &host.name).collect();
        self.slots.write().unwrap_or_else(PoisonError::into_inner).retain(|host, slot| {
            let keep = known.contains(host);
            if !keep {
                slot.served.send_replace(None);
            }
            // A request that holds it may be that of a host which was added after this synchronisation had begun.
            keep || Arc::strong_count(slot) > 1
        });
        if let Some(restored) = &mut turn.restored {
            restored.retain(|host, _| known.contains(host));
        }
        report.duration_ms = u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.keep(&report);
        Ok(report)
    }

    /// Like [`Service::sync`] with the rolls read again, and nothing taken from what was made before: code of rolls runs again.
    ///
    /// # Errors
    /// The store's.
    pub async fn sync_afresh(&self) -> Result<SyncReport, StoreError> {
        {
            let _turn = self.turn.lock().await;
            *self.runner.lock().unwrap_or_else(PoisonError::into_inner) = None;
            self.rendered.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        let synced = self.sync(true).await;
        // There may be folders now that were not there, and are to be watched.
        self.store.changed();
        synced
    }
}

/// What holds for all hosts: what the check may count on.
fn global(settings: &[Setting]) -> Attributes {
    let mut attributes = Attributes::new();
    for setting in settings {
        attributes.set_default(Scope::Global, setting.name.clone(), setting.value.as_str());
    }
    attributes
}

fn load(
    folders: &[PathBuf],
    site: Option<PathBuf>,
    globals: &Attributes,
    roots: &[String],
) -> Result<Arc<RollSet>, Diagnostics> {
    let (rolls, problems) = roll::load(folders, &LoadOptions { site, ..LoadOptions::default() });
    checked(Arc::new(rolls), problems, globals, roots)
}

fn checked(
    rolls: Arc<RollSet>,
    mut problems: Diagnostics,
    globals: &Attributes,
    roots: &[String],
) -> Result<Arc<RollSet>, Diagnostics> {
    // An appliance may wait for a roll that is not enabled yet; that is its own problem, not everybody's.
    let roots: Vec<String> = roots.iter().filter(|root| rolls.graph.index(root).is_some()).cloned().collect();
    problems.extend(check::check(&rolls, globals, &roots));
    if problems.has_errors() { Err(problems) } else { Ok(rolls) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rocks_common::wire::Facts;

    use super::*;
    use crate::ca::Authority;
    use crate::rollout::strategy::Strategy;
    use crate::store::{Appliance, Host, NewCertificate, Owner, Proof, Roll, Store};

    fn host(name: &str) -> Host {
        Host::new(name.parse().expect("a name"), "lite".parse().expect("a name"), "x86_64")
    }

    /// A service without hosts, and its store, with an appliance and the rolls that it needs.
    async fn service() -> (Service, Store) {
        let (folder, store) = (tempfile::tempdir().expect("a folder"), Store::temporary().await.expect("a store"));
        let authority = Arc::new(Authority::create(folder.path()).expect("an authority"));
        let service = Service::new(store.clone(), authority, "https://[::1]:1".to_owned());
        for roll in ["base", "vim"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../graphs").join(roll).display().to_string();
            let name = roll.parse().expect("a name");
            store.add_roll(&Roll { name, path, enabled: true, trusted: false }).await.expect("added");
        }
        let (name, node, membership) = ("lite".parse().expect("a name"), "lite".to_owned(), "Lite".to_owned());
        store.add_appliance(&Appliance { name, node, membership }).await.expect("added");
        (service, store)
    }

    #[tokio::test]
    async fn a_rollout_that_begins_with_its_strategy_can_be_taken_back() {
        let (service, store) = service().await;
        let (now, facts) = (jiff::Timestamp::now().as_second(), Facts::default());
        let hosts = ["lite-0-0", "lite-0-1"].map(host);
        for Host { name, .. } in &hosts {
            store.add_host(&host(name.as_str())).await.expect("added");
            let token = Digest::of(name.as_str().as_bytes());
            store.add_token(name, &token, now + 100, now).await.expect("added");
            let new = NewCertificate { serial: name.as_str(), host: name, not_after: now + 100, facts: &facts };
            store.add_certificate(&new, Proof::Token(&token, &token), now).await.expect("noted");
        }
        service.sync(true).await.expect("synchronised");
        let served =
            || hosts.each_ref().map(|host| service.slot(&host.name).served().expect("there is one").body.digest);
        let before = served();
        let lite = "lite".parse().expect("a name");
        let strategy = Strategy { waves: "1".parse().expect("waves"), ..Strategy::default() };
        store.set_strategy(Some(&lite), &strategy).await.expect("set");
        let (name, value) = ("vim".parse().expect("a name"), "yes".to_owned());
        let setting = Setting { owner: Owner::Appliance(lite), name, value, secret: false };
        store.set_attribute(&setting).await.expect("set");
        let report = service.sync(false).await.expect("synchronised");
        assert_eq!((report.problems, report.held, report.changed), (None, 1, vec!["lite-0-0".to_owned()]));
        assert_ne!(served()[0], before[0]);

        service.back(&"lite-1".parse().expect("a name")).await.expect("it goes back");
        assert_eq!(served(), before);
        let rollout = store.rollout(&"lite-1".parse().expect("a name")).await.expect("there");
        assert_eq!((rollout.header().counts.returned, rollout.header().counts.held), (1, 1));
    }

    #[tokio::test]
    async fn who_asks_before_its_host_is_known_is_answered_when_it_is() {
        let (service, store) = service().await;
        let (early, late) = (host("lite-0-0"), host("lite-0-1"));
        store.add_host(&early).await.expect("added");

        // It asks while a synchronisation runs that does not know it yet; nobody else's request holds its place.
        let slot = service.slot(&late.name);
        let report = service.sync(true).await.expect("synchronised");
        assert_eq!((report.problems, report.failed.len()), (None, 0));
        assert!(slot.served().is_none() && service.slot(&early.name).served().is_some());
        store.add_host(&late).await.expect("added");
        service.sync(false).await.expect("synchronised");
        assert!(slot.served().is_some(), "it waits at a place that nobody fills");

        // What nobody holds is dropped with its host, and what somebody holds is emptied.
        store.remove_hosts(&[early.name.clone(), late.name.clone()]).await.expect("removed");
        service.sync(false).await.expect("synchronised");
        assert!(slot.served().is_none());
        assert_eq!(service.slots.read().expect("no panic").keys().collect::<Vec<_>>(), [&late.name]);
        drop(slot);
        service.sync(false).await.expect("synchronised");
        assert!(service.slots.read().expect("no panic").is_empty());
    }
}
