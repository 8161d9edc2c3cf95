//! A rollout as a state machine: an event and the time change its state, and say which hosts are to be given what. It has no clock, no store
//! and no network; `docs/rollout.md` draws it.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use rocks_common::ids::{ApplianceName, Digest, HostName, RolloutName};
use rocks_common::wire::Outcome;
use serde::{Deserialize, Serialize};

use super::strategy::Strategy;
use super::wave::Presence;

/// Hosts that are named where a rollout says why it stopped.
const NAMED: usize = 10;

/// Where a rollout is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Status {
    /// Its waves go on.
    Running,
    /// The administrator holds it.
    Paused,
    /// It holds itself: too many hosts failed.
    Stopped {
        /// What was too much.
        why: String,
        /// The hosts that failed, the first of them.
        failed: Vec<HostName>,
    },
    /// All hosts have the new kickstart, and no more failed than may.
    Done,
    /// All hosts have their former kickstart again, as far as it is kept.
    Backed,
    /// A later change took its place.
    Superseded {
        /// The rollout of that change, if it had need of one.
        by: Option<RolloutName>,
    },
}

impl Status {
    /// In one word.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped { .. } => "stopped",
            Self::Done => "done",
            Self::Backed => "backed",
            Self::Superseded { .. } => "superseded",
        }
    }

    /// Whether hosts may still be released.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Stopped { .. })
    }
}

/// Where a host of a rollout is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostState {
    /// It keeps what it had until its wave.
    Held,
    /// It may have the new kickstart, and has not said what came of it.
    Released,
    /// It is what the new kickstart says.
    Converged,
    /// It said that it is not.
    Failed,
    /// It said nothing in time.
    Silent,
    /// It may have the new kickstart, and nobody waits for it: it is not there.
    Away,
    /// It has its former kickstart again.
    Returned,
    /// It is no host of the appliance any more.
    Gone,
}

impl HostState {
    const fn is_bad(self) -> bool {
        matches!(self, Self::Failed | Self::Silent)
    }

    /// Whether a host in this state is served the new kickstart.
    #[must_use]
    pub const fn has_target(self) -> bool {
        matches!(self, Self::Released | Self::Converged | Self::Failed | Self::Silent | Self::Away)
    }
}

/// How many hosts are in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "they are named as the states are")]
pub struct Counts {
    pub held: u32,
    pub released: u32,
    pub converged: u32,
    pub failed: u32,
    pub silent: u32,
    pub away: u32,
    pub returned: u32,
    pub gone: u32,
    /// Of the failed and silent ones, those that the administrator went on in spite of.
    pub excused: u32,
}

impl Counts {
    const fn of(&mut self, state: HostState) -> &mut u32 {
        match state {
            HostState::Held => &mut self.held,
            HostState::Released => &mut self.released,
            HostState::Converged => &mut self.converged,
            HostState::Failed => &mut self.failed,
            HostState::Silent => &mut self.silent,
            HostState::Away => &mut self.away,
            HostState::Returned => &mut self.returned,
            HostState::Gone => &mut self.gone,
        }
    }

    /// Hosts that failed or were silent and count.
    #[must_use]
    pub const fn bad(&self) -> u32 {
        (self.failed + self.silent).saturating_sub(self.excused)
    }

    /// Adds those of another rollout.
    pub const fn add(&mut self, other: &Self) {
        self.held += other.held;
        self.released += other.released;
        self.converged += other.converged;
        self.failed += other.failed;
        self.silent += other.silent;
        self.away += other.away;
        self.returned += other.returned;
        self.gone += other.gone;
        self.excused += other.excused;
    }

    /// The counts of `members`.
    #[must_use]
    pub fn count(members: &[Member]) -> Self {
        let mut counts = Self::default();
        for member in members {
            *counts.of(member.state) += 1;
            counts.excused += u32::from(member.excused);
        }
        counts
    }
}

/// A host of a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Member {
    /// The host.
    pub host: HostName,
    /// Where it is.
    pub state: HostState,
    /// The kickstart that it had.
    pub former: Digest,
    /// The one that it is to have.
    pub target: Digest,
    /// Since when it is there.
    pub changed: Timestamp,
    /// Why, if that is not plain.
    pub reason: Option<String>,
    /// Whether it failed, and the administrator went on in spite of that.
    pub excused: bool,
}

/// What holds for all hosts of a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Its name.
    pub name: RolloutName,
    /// Its place among all, the oldest first.
    pub number: i64,
    /// Whose hosts.
    pub appliance: ApplianceName,
    /// What changed, in words.
    pub what: String,
    /// When it began.
    pub began: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// How it goes on, as it was said when it began.
    pub strategy: Strategy,
    /// The number of released hosts at the end of each wave.
    pub sizes: Vec<usize>,
    /// Waves that have begun.
    pub wave: usize,
    /// When the last of them began.
    pub wave_began: Timestamp,
    /// Since when nobody is waited for.
    pub well_since: Option<Timestamp>,
    /// How many hosts are in each state.
    pub counts: Counts,
    /// Where it is.
    #[serde(flatten)]
    pub status: Status,
}

/// A rollout. Its hosts stand in the order in which they are released.
#[derive(Debug, Clone)]
pub struct Rollout {
    header: Header,
    members: Vec<Member>,
    index: HashMap<HostName, usize>,
}

/// What is known of hosts when a wave begins, or time has run out.
pub trait Sight {
    /// Whether a host is there.
    fn presence(&self, host: &HostName) -> Presence;
    /// Whether a host has been here since then, or may have been.
    fn came(&self, host: &HostName, since: Timestamp) -> bool;
    /// What a host reported last, and on which kickstart.
    fn last(&self, host: &HostName) -> Option<(Digest, Outcome)>;
}

/// What happens to a rollout.
#[derive(Debug, Clone)]
pub enum Event {
    /// A host reported.
    Report {
        /// Which.
        host: HostName,
        /// On which kickstart, if on any.
        kickstart: Option<Digest>,
        /// What came of it.
        outcome: Outcome,
    },
    /// The administrator holds it.
    Pause,
    /// The administrator lets it go on, in spite of the hosts that failed so far.
    Resume,
    /// The administrator gives all hosts what they had, but for those that had one of these kickstarts: they are not kept any more.
    Back(HashSet<Digest>),
    /// A later change takes its place.
    Supersede(Option<RolloutName>),
    /// A host is no host of the appliance any more.
    Gone(HostName),
}

/// What an event or a tick moved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moves {
    /// Hosts that are to be served the new kickstart now, by their places.
    pub released: Vec<usize>,
    /// Hosts that are to be served their former one now.
    pub returned: Vec<usize>,
    /// Hosts that are in another state; they may stand here more than once.
    pub touched: Vec<usize>,
}

/// What cannot be done to a rollout where it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rollout `{name}` is {status}")]
pub struct NotNow {
    name: RolloutName,
    status: &'static str,
}

/// A host that a rollout begins with.
#[derive(Debug, Clone)]
pub struct Concerned {
    /// The host.
    pub host: HostName,
    /// The kickstart that it has.
    pub former: Digest,
    /// The one that it is to have.
    pub target: Digest,
}

/// What a rollout begins with, beside its hosts.
#[derive(Debug, Clone)]
pub struct Start {
    /// Its name.
    pub name: RolloutName,
    /// Its place among all.
    pub number: i64,
    /// Whose hosts.
    pub appliance: ApplianceName,
    /// What changed, in words.
    pub what: String,
    /// How it goes on.
    pub strategy: Strategy,
}

const fn is_good(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Converged | Outcome::Unchanged)
}

impl Rollout {
    /// A rollout that begins now, with its first wave released. `hosts` are in the order in which they are to be released.
    #[must_use]
    pub fn begin(start: Start, hosts: Vec<Concerned>, now: Timestamp, sight: &dyn Sight) -> (Self, Moves) {
        let there = hosts.iter().filter(|one| sight.presence(&one.host) != Presence::Away).count();
        let Start { name, number, appliance, what, strategy } = start;
        let sizes = strategy.waves.sizes(there, hosts.len());
        let members: Vec<Member> = hosts
            .into_iter()
            .map(|Concerned { host, former, target }| Member {
                host,
                state: HostState::Held,
                former,
                target,
                changed: now,
                reason: None,
                excused: false,
            })
            .collect();
        let header = Header {
            name,
            number,
            appliance,
            what,
            began: now,
            ended: None,
            strategy,
            sizes,
            wave: 0,
            wave_began: now,
            well_since: None,
            counts: Counts::count(&members),
            status: Status::Running,
        };
        let mut rollout = Self::restore(header, members);
        let mut moves = Moves::default();
        rollout.next_wave(now, sight, &mut moves);
        (rollout, moves)
    }

    /// A rollout as it was kept.
    #[must_use]
    pub fn restore(mut header: Header, members: Vec<Member>) -> Self {
        header.counts = Counts::count(&members);
        let index = members.iter().enumerate().map(|(at, member)| (member.host.clone(), at)).collect();
        Self { header, members, index }
    }

    /// What holds for all of its hosts.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Its hosts, in the order in which they are released.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// A host of it.
    #[must_use]
    pub fn member(&self, host: &HostName) -> Option<&Member> {
        self.index.get(host).map(|at| &self.members[*at])
    }

    /// Whether `host` keeps what it had, for the sake of this rollout.
    #[must_use]
    pub fn keeps(&self, host: &HostName) -> bool {
        let holds = self.header.status.is_open() || self.header.status == Status::Backed;
        holds && self.member(host).is_some_and(|member| !member.state.has_target() && member.state != HostState::Gone)
    }

    /// The frontend has started: nobody could be heard while it did not run, so that time does not count.
    #[must_use]
    pub fn resumed(mut self, now: Timestamp) -> Self {
        if self.header.status.is_open() {
            self.header.wave_began = now;
            self.header.well_since = self.header.well_since.map(|_| now);
        }
        self
    }

    /// Takes an event.
    ///
    /// # Errors
    /// The administrator asks for what cannot be done where the rollout is. Nothing was changed.
    pub fn on(&mut self, event: Event, now: Timestamp) -> Result<Moves, NotNow> {
        let mut moves = Moves::default();
        let status = &self.header.status;
        match event {
            Event::Report { host, kickstart, outcome } => {
                if status.is_open() {
                    self.report(&host, kickstart, outcome, now, &mut moves);
                }
            }
            Event::Pause if matches!(status, Status::Running | Status::Paused) => self.header.status = Status::Paused,
            Event::Resume if status.is_open() => {
                if matches!(status, Status::Stopped { .. }) {
                    self.excuse(&mut moves);
                }
                self.header.status = Status::Running;
                self.settle(now);
            }
            Event::Back(lost) if status.is_open() || *status == Status::Done => self.back(&lost, now, &mut moves),
            Event::Supersede(by) if !matches!(status, Status::Superseded { .. }) => {
                self.header.status = Status::Superseded { by };
                self.header.ended = self.header.ended.or(Some(now));
            }
            Event::Gone(host) => {
                if let Some(at) = self.index.get(&host).copied() {
                    self.set(at, HostState::Gone, now, None, &mut moves);
                    self.settle(now);
                }
            }
            Event::Pause | Event::Resume | Event::Back(_) | Event::Supersede(_) => {
                return Err(NotNow { name: self.header.name.clone(), status: status.word() });
            }
        }
        Ok(moves)
    }

    /// When [`Rollout::tick`] has something to do, if nothing happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        let Header { status, strategy, counts, wave_began, well_since, .. } = &self.header;
        if !status.is_open() {
            return None;
        }
        let later = |from: Timestamp, span: jiff::SignedDuration| from.checked_add(span).unwrap_or(Timestamp::MAX);
        if counts.released > 0 {
            return Some(later(*wave_began, strategy.timeout.length()));
        }
        let since = well_since.filter(|_| *status == Status::Running && self.has_more());
        since.map(|since| later(since, strategy.soak.length()))
    }

    /// Does what time has come for: gives hosts up that said nothing, and begins the next wave, one at a time.
    pub fn tick(&mut self, now: Timestamp, sight: &dyn Sight) -> Moves {
        let mut moves = Moves::default();
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return moves;
        }
        if self.header.counts.released > 0 {
            self.give_up(now, sight, &mut moves);
        } else {
            self.next_wave(now, sight, &mut moves);
        }
        moves
    }

    fn has_more(&self) -> bool {
        self.header.wave < self.header.sizes.len()
    }

    fn set(&mut self, at: usize, state: HostState, now: Timestamp, reason: Option<String>, moves: &mut Moves) {
        let member = &mut self.members[at];
        let excused = member.excused && state.is_bad();
        if member.state == state && member.excused == excused {
            return;
        }
        *self.header.counts.of(member.state) -= 1;
        *self.header.counts.of(state) += 1;
        self.header.counts.excused -= u32::from(member.excused && !excused);
        (member.state, member.changed, member.reason, member.excused) = (state, now, reason, excused);
        moves.touched.push(at);
        // Who fails late begins the time anew in which all must be well.
        if state.is_bad() {
            self.header.well_since = None;
        }
    }

    fn report(&mut self, host: &HostName, of: Option<Digest>, outcome: Outcome, now: Timestamp, moves: &mut Moves) {
        let Some(at) = self.index.get(host).copied() else { return };
        let member = &self.members[at];
        // A kickstart that cannot be trusted has no digest that the agent would name.
        let is_refused = of.is_none() && outcome == Outcome::Refused && member.state == HostState::Released;
        if !member.state.has_target() || !(of == Some(member.target) || is_refused) {
            return;
        }
        if is_good(outcome) {
            self.set(at, HostState::Converged, now, None, moves);
        } else {
            let word = if outcome == Outcome::Refused { "it refused the kickstart" } else { "some steps failed" };
            self.set(at, HostState::Failed, now, Some(word.to_owned()), moves);
        }
        self.settle(now);
    }

    fn excuse(&mut self, moves: &mut Moves) {
        for (at, member) in self.members.iter_mut().enumerate().filter(|(_, m)| m.state.is_bad() && !m.excused) {
            member.excused = true;
            self.header.counts.excused += 1;
            moves.touched.push(at);
        }
        // What is left is watched for its full time.
        self.header.well_since = None;
    }

    fn back(&mut self, lost: &HashSet<Digest>, now: Timestamp, moves: &mut Moves) {
        for at in 0..self.members.len() {
            let member = &mut self.members[at];
            if !member.state.has_target() {
                continue;
            }
            if lost.contains(&member.former) {
                member.reason = Some("what it had before is not kept".to_owned());
                moves.touched.push(at);
                continue;
            }
            self.set(at, HostState::Returned, now, None, moves);
            moves.returned.push(at);
        }
        self.header.status = Status::Backed;
        self.header.ended = Some(now);
    }

    fn give_up(&mut self, now: Timestamp, sight: &dyn Sight, moves: &mut Moves) {
        // Without one host that is well, that nobody comes may be the kickstart's doing, or the frontend's.
        let is_proven = self.header.counts.converged > 0;
        for at in 0..self.header.sizes[self.header.wave.saturating_sub(1)] {
            let Member { host, state: HostState::Released, changed, .. } = &self.members[at] else { continue };
            if is_proven && !sight.came(host, *changed) {
                self.set(at, HostState::Away, now, Some("it has not been here since".to_owned()), moves);
            } else {
                let reason = format!("no report in {}", self.header.strategy.timeout);
                self.set(at, HostState::Silent, now, Some(reason), moves);
            }
        }
        self.settle(now);
    }

    fn next_wave(&mut self, now: Timestamp, sight: &dyn Sight, moves: &mut Moves) {
        let from = self.header.wave.checked_sub(1).map_or(0, |last| self.header.sizes[last]);
        let Some(to) = self.header.sizes.get(self.header.wave).copied() else { return };
        (self.header.wave, self.header.wave_began, self.header.well_since) = (self.header.wave + 1, now, None);
        for at in from..to {
            let Member { host, state: HostState::Held, target, .. } = &self.members[at] else { continue };
            let (state, reason) = if sight.presence(host) == Presence::Away {
                (HostState::Away, Some("it was not here"))
            } else if sight.last(host).is_some_and(|(of, outcome)| of == *target && is_good(outcome)) {
                // It never left the kickstart that it is to have now: its agent will have nothing to report.
                (HostState::Converged, Some("it had that already"))
            } else {
                (HostState::Released, None)
            };
            self.set(at, state, now, reason.map(str::to_owned), moves);
            moves.released.push(at);
        }
        self.settle(now);
    }

    /// Stops if too many failed; else takes note that nobody is waited for any more.
    fn settle(&mut self, now: Timestamp) {
        let counts = self.header.counts;
        let taken = counts.released + counts.converged + counts.failed + counts.silent + counts.away;
        let allowed = self.header.strategy.failures.or_fewer(taken as usize);
        if counts.released > 0 {
            self.header.well_since = None;
        } else {
            self.header.well_since = self.header.well_since.or(Some(now));
        }
        if self.header.status != Status::Running {
            return;
        }
        let bad = counts.bad() as usize;
        if bad > allowed {
            let failed = self.members.iter().filter(|member| member.state.is_bad() && !member.excused);
            let failed = failed.take(NAMED).map(|member| member.host.clone()).collect();
            let why = format!("{bad} of {taken} hosts failed, and {allowed} may");
            self.header.status = Status::Stopped { why, failed };
        } else if counts.released == 0 && !self.has_more() {
            self.header.status = Status::Done;
            self.header.ended = Some(now);
        }
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
