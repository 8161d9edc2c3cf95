//! Who is given which kickstart, and when: at once, or as rollouts say. What is given is noted in the store first, and then published.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;
use rocks_common::ids::{ApplianceName, Digest, Generation, HostName, RolloutName};
use rocks_common::seal::Claim;

use super::sight::Seen;
use super::sync::Turn;
use super::{Body, Served, Service, Slot, SyncReport};
use crate::rollout::gate::{Case, decide};
use crate::rollout::machine::{Concerned, Event, HostState, Rollout, Sight as _, Start};
use crate::rollout::wave::{Candidate, order};
use crate::rollout::what::{Inputs, changed};
use crate::rollout::{Change, Heard, Touched};
use crate::store::{Delivery, Given, Host, Owner, StoreError, Strategies};

/// The attribute by which a host says that it wants to be among the first.
pub(crate) const CANARY: &str = "canary";
/// How far in the future (seconds) a generation may lie that a host has accepted: many changes in a short time, and a clock that was put right.
const AHEAD: u64 = 3600;
/// Characters of an appliance's name that stand in those of its rollouts.
const NAME_CHARS: usize = 100;

/// A host, and the kickstart that it is to have.
pub(super) struct Offer {
    pub(super) host: HostName,
    pub(super) appliance: ApplianceName,
    pub(super) slot: Arc<Slot>,
    pub(super) body: Arc<Body>,
}

/// A kickstart on its way into a host's slot.
pub(super) struct Gift {
    pub(super) host: HostName,
    pub(super) slot: Arc<Slot>,
    pub(super) body: Arc<Body>,
    pub(super) appliance: ApplianceName,
    /// The generation that it came to be in; none: it is new.
    pub(super) generation: Option<Generation>,
}

/// What rollouts make of a change.
#[derive(Default)]
struct Gated {
    /// Hosts that keep what they have, by their places.
    keep: HashSet<usize>,
    /// Hosts that a rollout which begins gives the new kickstart at once.
    first: HashSet<usize>,
    changes: Vec<Change>,
}

impl Service {
    /// Gives hosts what they are offered, but for those that a rollout holds.
    pub(super) async fn give(
        &self,
        turn: &mut Turn,
        offers: Vec<Offer>,
        hosts: &[Host],
        inputs: &Inputs,
        report: &mut SyncReport,
    ) -> Result<(), StoreError> {
        let is_first = self.load(turn).await?;
        let strategies = self.store.strategies().await?;
        let gated = self.gate(turn, &offers, hosts, inputs, &strategies).await?;
        let restored = turn.restored.get_or_insert_default();
        let (mut gifts, mut held, mut settled, mut moved) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut bodies = HashMap::new();
        let mut keep_body = |appliance: &ApplianceName, body: &Arc<Body>| {
            let waits = strategies.of(appliance).is_some() || self.rollouts.of(appliance).is_some();
            if waits && !turn.bodies.contains(&body.digest) {
                bodies.insert(body.digest, body.gzip.clone());
            }
        };
        for (at, Offer { host, appliance, slot, body }) in offers.into_iter().enumerate() {
            let served = slot.served();
            if gated.keep.contains(&at) {
                if let Some(served) = &served {
                    keep_body(&appliance, &served.body);
                } else if let Some(given) = restored.get(&host) {
                    match self.kept_body(&given.digest).await? {
                        Some(body) => {
                            let (generation, slot) = (Some(given.generation), slot.clone());
                            gifts.push(Gift { host: host.clone(), slot, body, appliance, generation });
                        }
                        None => tracing::error!("what {host} was served is not kept; it waits for its wave"),
                    }
                }
                held.push((slot, body));
                continue;
            }
            if let Some(served) = served.as_ref().filter(|_| gated.first.contains(&at)) {
                // It may be given back.
                keep_body(&appliance, &served.body);
            }
            keep_body(&appliance, &body);
            match (served, restored.get(&host)) {
                (Some(served), _) if served.body.digest == body.digest => {
                    if served.appliance != appliance {
                        let (digest, generation) = (body.digest, served.generation);
                        moved.push((host, slot, Given { digest, generation, appliance: Some(appliance) }));
                    } else {
                        settled.push(slot);
                    }
                }
                // After a restart: what is the same as before is no news to anybody.
                (None, Some(given)) if given.digest == body.digest => {
                    let generation = Some(given.generation);
                    gifts.push(Gift { host, slot, body, appliance, generation });
                }
                _ => gifts.push(Gift { host, slot, body, appliance, generation: None }),
            }
        }
        report.held = held.len();
        report.changed =
            gifts.iter().filter(|gift| gift.generation.is_none()).map(|gift| gift.host.to_string()).collect();
        let also: Vec<(HostName, Given)> = moved.iter().map(|(host, _, given)| (host.clone(), given.clone())).collect();
        let bodies = bodies.into_iter().collect();
        let overtaken = gated.changes.iter().any(|change| !change.rollout.header().status.is_open());
        report.generation = self.deliver(turn, gifts, also, bodies, gated.changes).await?;
        for (slot, body) in held {
            slot.want(Some(body));
        }
        for slot in settled {
            slot.want(None);
        }
        for (_, slot, given) in moved {
            slot.want(None);
            slot.served.send_if_modified(|served| {
                if let (Some(served), Some(appliance)) = (served, given.appliance) {
                    served.appliance = appliance;
                }
                // It is the same kickstart: nobody is to wake up.
                false
            });
        }
        if overtaken || strategies != turn.strategies || is_first {
            self.store.sweep_rollouts().await?;
            self.store.sweep_bodies().await?;
            turn.bodies = self.store.bodies().await?;
        }
        turn.strategies = strategies;
        if is_first {
            // What was reported to the frontend before this one, and not looked at.
            let heard = hosts.iter().filter_map(|host| {
                let last = host.last?;
                Some(Heard { host: host.name.clone(), kickstart: last.kickstart, outcome: last.outcome })
            });
            self.advance_in(turn, heard.collect()).await?;
        }
        Ok(())
    }

    /// Looks at what the frontend before this one left. Says whether that was done now.
    pub(super) async fn load(&self, turn: &mut Turn) -> Result<bool, StoreError> {
        if turn.restored.is_some() {
            return Ok(false);
        }
        let (latest, now) = (self.store.latest_rollouts().await?, this_moment());
        self.rollouts.replace(latest.into_iter().map(|rollout| rollout.resumed(now)));
        turn.bodies = self.store.bodies().await?;
        turn.restored = Some(self.store.served().await?);
        Ok(true)
    }

    pub(super) async fn kept_body(&self, digest: &Digest) -> Result<Option<Arc<Body>>, StoreError> {
        let Some(gzip) = self.store.body(digest).await? else { return Ok(None) };
        let body = Body { digest: *digest, gzip };
        let is_whole = Digest::of(&body.plain()) == *digest;
        Ok(is_whole.then(|| Arc::new(body)))
    }

    /// Asks the rollouts who has to wait.
    async fn gate(
        &self,
        turn: &Turn,
        offers: &[Offer],
        hosts: &[Host],
        inputs: &Inputs,
        strategies: &Strategies,
    ) -> Result<Gated, StoreError> {
        let mut gated = Gated::default();
        let latest = self.rollouts.latest();
        if strategies.is_empty() && latest.is_empty() {
            return Ok(gated);
        }
        let now = this_moment();
        let sight = Seen::new(self, hosts, now);
        let mut of: BTreeMap<&ApplianceName, Vec<usize>> = latest.keys().map(|appliance| (appliance, vec![])).collect();
        for (at, offer) in offers.iter().enumerate() {
            of.entry(&offer.appliance).or_default().push(at);
        }
        let mut there: HashMap<&ApplianceName, HashSet<&HostName>> = HashMap::new();
        for host in hosts {
            there.entry(&host.appliance).or_default().insert(&host.name);
        }
        let mut begun = 0;
        for (appliance, places) in of {
            let current = latest.get(appliance);
            let cases: Vec<Case<'_>> = places.iter().map(|at| case(turn, &offers[*at])).collect();
            let decision = decide(&cases, current.map(|rollout| &**rollout), strategies.of(appliance).is_some());
            let mut keep: HashSet<usize> = decision.keep.iter().map(|at| places[*at]).collect();
            let mut by = None;
            if !decision.begin.is_empty() {
                let (number, own) = self.store.next_rollout(appliance).await?;
                let name = rollout_name(appliance, number + begun, own)?;
                let start = Start {
                    name: name.clone(),
                    number: number + begun,
                    appliance: appliance.clone(),
                    what: changed(turn.inputs.as_deref(), inputs, appliance),
                    strategy: strategies.of(appliance).cloned().unwrap_or_default(),
                };
                begun += 1;
                let concerned = in_order(&decision.begin, &cases, &sight, inputs);
                let (rollout, moves) = Rollout::begin(start, concerned, now, &sight);
                let released: HashSet<&HostName> =
                    moves.released.iter().map(|at| &rollout.members()[*at].host).collect();
                let is_first = |at: &usize| released.contains(&offers[*at].host);
                gated.first.extend(keep.iter().copied().filter(is_first));
                keep.retain(|at| !is_first(at));
                tracing::info!("rollout {name} begins: {}", rollout.header().what);
                by = Some(name);
                gated.changes.push(Change { rollout, touched: Touched::All });
            }
            gated.keep.extend(keep);
            let Some(current) = current else { continue };
            let is_there = |host: &HostName| there.get(appliance).is_some_and(|there| there.contains(host));
            let is_gone = !inputs.appliances.iter().any(|one| one.name == *appliance);
            let mut change = Change::of(current);
            if decision.supersedes || is_gone {
                // What can be overtaken was asked for by `decide`.
                let _ = change.rollout.on(Event::Supersede(by), now);
                gated.changes.insert(0, change);
                continue;
            }
            let gone = current.members().iter().filter(|one| one.state != HostState::Gone && !is_there(&one.host));
            for member in gone {
                if let Ok(moves) = change.rollout.on(Event::Gone(member.host.clone()), now) {
                    change.touch(&moves.touched);
                }
            }
            if change.has_touched() {
                gated.changes.push(change);
            }
        }
        Ok(gated)
    }

    /// Gives a host what it is served once more, in a new generation, if it has accepted a higher one than that: the store was put back from
    /// a copy, and what is older than what it has is nothing that an agent takes.
    ///
    /// # Errors
    /// The store's.
    pub async fn overtake(&self, host: &HostName, accepted: Generation) -> Result<(), StoreError> {
        let mut turn = self.turn.lock().await;
        let now = u64::try_from(Timestamp::now().as_second()).unwrap_or(0);
        let slot = self.slot(host);
        // Nobody may carry all hosts' generations off into the future.
        let is_known = accepted.0 <= now + AHEAD;
        let Some(served) = slot.served().filter(|served| is_known && served.generation < accepted) else {
            return Ok(());
        };
        self.store.next_generation(accepted.0 + 1).await?;
        tracing::warn!(%host, "it has had generation {accepted}, of which the store knows nothing: it was put back");
        let (target, Served { body, appliance, .. }) = (slot.target(), served);
        let gift = Gift { host: host.clone(), slot: slot.clone(), body, appliance, generation: None };
        self.deliver(&mut turn, vec![gift], Vec::new(), Vec::new(), Vec::new()).await?;
        slot.want(target);
        Ok(())
    }

    /// Notes gifts and what they do to rollouts, and then publishes them. Gives the generation.
    pub(super) async fn deliver(
        &self,
        turn: &mut Turn,
        gifts: Vec<Gift>,
        also: Vec<(HostName, Given)>,
        bodies: Vec<(Digest, Bytes)>,
        changes: Vec<Change>,
    ) -> Result<Generation, StoreError> {
        let mut generation = self.store.generation().await?;
        if gifts.iter().any(|gift| gift.generation.is_none()) {
            let now = u64::try_from(Timestamp::now().as_second()).unwrap_or(0);
            generation = self.store.next_generation(now).await?;
        }
        let given = gifts.iter().filter(|gift| gift.generation.is_none()).map(|gift| {
            let appliance = Some(gift.appliance.clone());
            (gift.host.clone(), Given { digest: gift.body.digest, generation, appliance })
        });
        let given = given.chain(also).collect();
        let delivery = Delivery { bodies, given, rollouts: changes.iter().collect() };
        self.store.deliver(&delivery).await?;
        turn.bodies.extend(delivery.bodies.iter().map(|(digest, _)| *digest));
        if let Some(restored) = &mut turn.restored {
            for gift in &gifts {
                restored.remove(&gift.host);
            }
        }
        if !changes.is_empty() {
            self.rollouts.replace(changes.into_iter().map(|change| change.rollout));
        }
        self.publish(gifts, generation).await;
        Ok(generation)
    }

    /// Seals kickstarts and gives them to the hosts that wait.
    async fn publish(&self, gifts: Vec<Gift>, new: Generation) {
        if gifts.is_empty() {
            return;
        }
        let authority = self.authority.clone();
        let work = tokio::task::spawn_blocking(move || {
            for Gift { host, slot, body, appliance, generation } in gifts {
                let generation = generation.unwrap_or(new);
                let claim = Claim { host, generation, digest: body.digest };
                let seal = authority.sealer.seal(&claim);
                slot.want(None);
                slot.served.send_replace(Some(Served { body, generation, seal, appliance }));
            }
        });
        if let Err(error) = work.await {
            tracing::error!("sealing broke off: {error}");
        }
    }
}

impl Slot {
    /// Takes note of what the host is to have, if that is not what it has.
    pub(super) fn want(&self, body: Option<Arc<Body>>) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = body;
    }
}

fn case<'o>(turn: &Turn, offer: &'o Offer) -> Case<'o> {
    let restored = turn.restored.as_ref().and_then(|restored| restored.get(&offer.host));
    let (served, appliance) = match (&*offer.slot.served.borrow(), restored) {
        (Some(served), _) => (Some(served.body.digest), Some(served.appliance.clone())),
        (None, Some(given)) => (Some(given.digest), given.appliance.clone()),
        (None, None) => (None, None),
    };
    let has_moved = appliance.is_some_and(|appliance| appliance != offer.appliance);
    Case { host: &offer.host, target: offer.body.digest, served, has_moved }
}

/// The hosts of a rollout that begins, in the order in which they are to be released.
fn in_order(begin: &[usize], cases: &[Case<'_>], sight: &Seen<'_>, inputs: &Inputs) -> Vec<Concerned> {
    let canaries: HashSet<&HostName> = inputs
        .settings
        .iter()
        .filter(|setting| setting.name.as_str() == CANARY && is_yes(&setting.value))
        .filter_map(|setting| match &setting.owner {
            Owner::Host(host) => Some(host),
            _ => None,
        })
        .collect();
    let candidates: Vec<Candidate<'_>> = begin
        .iter()
        .map(|at| {
            let host = cases[*at].host;
            let (rack, rank) = sight.place(host);
            Candidate { host, is_canary: canaries.contains(host), presence: sight.presence(host), rack, rank }
        })
        .collect();
    let places = order(&candidates).into_iter().map(|at| &cases[begin[at]]);
    places
        .filter_map(|case| Some(Concerned { host: case.host.clone(), former: case.served?, target: case.target }))
        .collect()
}

/// Now, as exactly as people want to read it.
pub(super) fn this_moment() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}

fn is_yes(value: &str) -> bool {
    ["yes", "true", "on", "1"].iter().any(|yes| value.eq_ignore_ascii_case(yes))
}

fn rollout_name(appliance: &ApplianceName, number: i64, own: i64) -> Result<RolloutName, StoreError> {
    let text = match appliance.as_str() {
        short if short.len() <= NAME_CHARS => format!("{short}-{own}"),
        // Several may begin alike.
        long => format!("{}-{number}", &long[..NAME_CHARS]),
    };
    text.parse().map_err(|error: rocks_common::ids::InvalidName| StoreError::Invalid(error.to_string()))
}
