//! Rollouts go on: when hosts report, when time has come, and when the administrator says so.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rocks_common::ids::{ApplianceName, Digest, RolloutName};

use super::Service;
use super::give::{Gift, this_moment};
use super::sight::Seen;
use super::sync::Turn;
use crate::rollout::machine::{Event, Moves, NotNow, Rollout};
use crate::rollout::{Change, Heard};
use crate::store::StoreError;

/// Reports that are looked at together.
const BATCH: usize = 1024;
/// How long it is waited when something that is due could not be done.
const AGAIN: Duration = Duration::from_secs(1);

/// Why the administrator's word was not followed.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// The store's; there may be no such rollout.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The rollout is not where this could be done.
    #[error(transparent)]
    NotNow(#[from] NotNow),
}

/// A rollout that is being changed, and the hosts that are given something by that.
struct Working {
    change: Change,
    released: Vec<usize>,
    returned: Vec<usize>,
}

impl Working {
    fn of(rollout: &Rollout) -> Self {
        Self { change: Change::of(rollout), released: Vec::new(), returned: Vec::new() }
    }

    fn take(&mut self, moves: Moves) {
        self.change.touch(&moves.touched);
        self.released.extend(moves.released);
        self.returned.extend(moves.returned);
    }
}

type Work = BTreeMap<ApplianceName, Working>;

impl Service {
    /// Lets rollouts go on, until the frontend ends. Between two events it does nothing.
    pub async fn go_on(self: Arc<Self>) {
        let Some(mut reports) = self.rollouts.listen() else { return };
        let mut heard = Vec::new();
        let mut is_late = false;
        loop {
            let deadline = self.rollouts.deadline();
            tokio::select! {
                count = reports.recv_many(&mut heard, BATCH) => if count == 0 { return },
                () = self.rollouts.changed() => continue,
                () = until(deadline, is_late) => {}
                // What could not be taken has waited, and nobody reports it again.
                () = std::future::ready(()), if !heard.is_empty() => {}
            }
            match self.advance(heard.clone()).await {
                Ok(()) => heard.clear(),
                Err(error) => {
                    tracing::error!("rollouts do not go on: {error}");
                    tokio::time::sleep(AGAIN).await;
                }
            }
            // What is due and was not done cannot be done now: there may be no kickstarts yet.
            is_late = self.rollouts.deadline().is_some_and(|deadline| deadline <= Timestamp::now());
        }
    }

    async fn advance(&self, heard: Vec<Heard>) -> Result<(), StoreError> {
        let mut turn = self.turn.lock().await;
        self.load(&mut turn).await?;
        self.advance_in(&mut turn, heard).await
    }

    /// Takes reports and the time.
    pub(super) async fn advance_in(&self, turn: &mut Turn, heard: Vec<Heard>) -> Result<(), StoreError> {
        let now = this_moment();
        let mut work = Work::new();
        let latest = self.rollouts.latest();
        for rollout in latest.values().filter(|rollout| rollout.header().status.is_open()) {
            let is_due = rollout.deadline().is_some_and(|deadline| deadline <= now);
            if !is_due && !heard.iter().any(|heard| rollout.member(&heard.host).is_some()) {
                continue;
            }
            let mut working = Working::of(rollout);
            for Heard { host, kickstart, outcome } in &heard {
                let event = Event::Report { host: host.clone(), kickstart: *kickstart, outcome: *outcome };
                // Reports are always taken.
                if let Ok(moves) = working.change.rollout.on(event, now) {
                    working.take(moves);
                }
            }
            work.insert(rollout.header().appliance.clone(), working);
        }
        self.tick(turn, &mut work, now).await?;
        work.retain(|appliance, working| is_news(latest.get(appliance).map(|before| &**before), &working.change));
        self.carry_out(turn, work).await
    }

    /// Does what the administrator says to a rollout.
    ///
    /// # Errors
    /// There is no such rollout, or it is not where this could be done.
    pub async fn act(&self, name: &RolloutName, event: Event) -> Result<(), ActError> {
        let mut turn = self.turn.lock().await;
        let working = self.working(&mut turn, name).await?;
        self.take(&mut turn, working, event).await
    }

    /// Gives the hosts of a rollout back what they had before it, as far as that is kept.
    ///
    /// # Errors
    /// There is no such rollout, or it is not where this could be done.
    pub async fn back(&self, name: &RolloutName) -> Result<(), ActError> {
        let mut turn = self.turn.lock().await;
        let working = self.working(&mut turn, name).await?;
        let members = working.change.rollout.members().iter().filter(|member| member.state.has_target());
        let formers: HashSet<Digest> = members.map(|member| member.former).collect();
        let mut lost = HashSet::new();
        for former in formers {
            if self.kept_body(&former).await?.is_none() {
                lost.insert(former);
            }
        }
        if !lost.is_empty() {
            tracing::error!("rollout {name}: what hosts had before it is not kept of all; the others go back");
        }
        self.take(&mut turn, working, Event::Back(lost)).await
    }

    async fn working(&self, turn: &mut Turn, name: &RolloutName) -> Result<Working, StoreError> {
        self.load(turn).await?;
        let latest = self.rollouts.latest();
        let known = latest.values().find(|rollout| rollout.header().name == *name);
        Ok(match known {
            Some(rollout) => Working::of(rollout),
            // One that was overtaken is what it is.
            None => Working::of(&self.store.rollout(name).await?),
        })
    }

    async fn take(&self, turn: &mut Turn, mut working: Working, event: Event) -> Result<(), ActError> {
        let now = this_moment();
        let moves = working.change.rollout.on(event, now)?;
        working.take(moves);
        let mut work = Work::from([(working.change.rollout.header().appliance.clone(), working)]);
        self.tick(turn, &mut work, now).await?;
        Ok(self.carry_out(turn, work).await?)
    }

    async fn tick(&self, turn: &Turn, work: &mut Work, now: Timestamp) -> Result<(), StoreError> {
        let is_due = |rollout: &Rollout| rollout.deadline().is_some_and(|deadline| deadline <= now);
        // Without kickstarts there is nothing to release anybody to.
        if turn.inputs.is_none() || !work.values().any(|working| is_due(&working.change.rollout)) {
            return Ok(());
        }
        let hosts = self.store.hosts().await?;
        let sight = Seen::new(self, &hosts, now);
        for working in work.values_mut() {
            while is_due(&working.change.rollout) {
                let moves = working.change.rollout.tick(now, &sight);
                working.take(moves);
            }
        }
        Ok(())
    }

    async fn carry_out(&self, turn: &mut Turn, work: Work) -> Result<(), StoreError> {
        let (mut gifts, mut changes, mut bodies) = (Vec::new(), Vec::new(), Vec::new());
        let mut wanted = Vec::new();
        for (appliance, Working { change, released, returned }) in work {
            tell(&change.rollout, &self.rollouts.of(&appliance));
            let members = change.rollout.members();
            for member in released.iter().map(|at| &members[*at]) {
                let slot = self.slot(&member.host);
                // One whose kickstart cannot be made gets it when it can: it is held no longer.
                let target = slot.target().filter(|body| body.digest == member.target);
                let Some(body) = target else { continue };
                if !turn.bodies.contains(&body.digest) {
                    bodies.push((body.digest, body.gzip.clone()));
                }
                let (host, appliance) = (member.host.clone(), appliance.clone());
                gifts.push(Gift { host, slot, body, appliance, generation: None });
            }
            for member in returned.iter().map(|at| &members[*at]) {
                let Some(body) = self.kept_body(&member.former).await? else {
                    tracing::error!("what {} had before is not kept", member.host);
                    continue;
                };
                let (slot, appliance) = (self.slot(&member.host), appliance.clone());
                // What it is to have is still the new one.
                let new = slot.served().map(|served| served.body).filter(|body| body.digest == member.target);
                wanted.push((slot.clone(), new));
                gifts.push(Gift { host: member.host.clone(), slot, body, appliance, generation: None });
            }
            changes.push(change);
        }
        if changes.is_empty() {
            return Ok(());
        }
        self.deliver(turn, gifts, Vec::new(), bodies, changes).await?;
        for (slot, body) in wanted {
            slot.want(body);
        }
        Ok(())
    }
}

/// Whether a change is one: hosts that change places leave the counts as they are.
fn is_news(before: Option<&Rollout>, change: &Change) -> bool {
    change.has_touched() || before.is_none_or(|before| before.header() != change.rollout.header())
}

/// Tells the log where a rollout is, if that is new.
fn tell(now: &Rollout, before: &Option<Arc<Rollout>>) {
    let (header, before) = (now.header(), before.as_ref().map(|before| before.header()));
    if before.is_none_or(|before| before.status != header.status) {
        tracing::info!("rollout {}: {}", header.name, header.status.word());
    } else if before.is_some_and(|before| before.wave != header.wave) {
        tracing::info!("rollout {}: wave {} of {} begins", header.name, header.wave, header.sizes.len());
    }
}

async fn until(deadline: Option<Timestamp>, is_late: bool) {
    let Some(deadline) = deadline else { return std::future::pending().await };
    let left = deadline.duration_since(Timestamp::now());
    let left = Duration::try_from(left).unwrap_or_default();
    tokio::time::sleep(if is_late { left.max(AGAIN) } else { left }).await;
}

#[cfg(test)]
mod tests {
    use rocks_common::ids::HostName;
    use rocks_common::wire::Outcome;

    use super::*;
    use crate::rollout::gate::tests::All;
    use crate::rollout::machine::{Concerned, Start};
    use crate::rollout::strategy::Strategy;

    #[test]
    fn hosts_that_report_the_opposite_of_each_other_are_news() {
        let name = |name: &str| -> HostName { name.parse().expect("a name") };
        let start = Start {
            name: "lite-1".parse().expect("a name"),
            number: 1,
            appliance: "lite".parse().expect("a name"),
            what: "attr a".to_owned(),
            strategy: Strategy { waves: "3".parse().expect("waves"), ..Strategy::default() },
        };
        let (former, target) = (Digest::of(b"old"), Digest::of(b"new"));
        let hosts = ["a", "b", "c"].map(|host| Concerned { host: name(host), former, target });
        let mut rollout = Rollout::begin(start, hosts.to_vec(), Timestamp::UNIX_EPOCH, &All).0;
        let report = |host: &str, outcome| Event::Report { host: name(host), kickstart: Some(target), outcome };
        let (good, bad) = (Outcome::Converged, Outcome::Incomplete);
        for event in [report("a", bad), report("b", good)] {
            rollout.on(event, Timestamp::UNIX_EPOCH).expect("taken");
        }
        let mut working = Working::of(&rollout);
        assert!(!is_news(Some(&rollout), &working.change) && is_news(None, &working.change));
        // The third has not said anything.
        for event in [report("a", good), report("b", bad)] {
            let moves = working.change.rollout.on(event, Timestamp::UNIX_EPOCH).expect("taken");
            working.take(moves);
        }
        assert_eq!(working.change.rollout.header(), rollout.header());
        assert!(is_news(Some(&rollout), &working.change));
    }
}
