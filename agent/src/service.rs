//! The agent as a service: fetch, converge, report, wait for a change, again.
//!
//! States and delays are in [`Delay`]. Between two changes the agent does nothing but hold a request open; the only timers are that
//! request's and the watchdog's.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rocks_common::diag::Severity;
use rocks_common::ids::Digest;
use rocks_common::wire::{Finding, Outcome, Report, StepState};
use tokio::time::{Instant, sleep, timeout};

use crate::config::Config;
use crate::converge::{self, Desired, Turn};
use crate::execute::MirrorIdentity;
use crate::fetch::{Client, FetchError, Known};
use crate::files;
use crate::identity::{self, Identity, IdentityError};
use crate::journal::{Journal, JournalError};
use crate::process::{Processes, System};
use crate::status::Status;

/// Why the agent waits, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delay {
    /// The frontend did not answer, for the n-th time in a row.
    Unreachable(u32),
    /// The last converge left steps undone, for the n-th time in a row.
    Incomplete(u32),
    /// The frontend said no, or sent something that cannot be trusted, for the n-th time in a row.
    Refused(u32),
}

impl Delay {
    /// How long, before jitter.
    #[must_use]
    pub fn base(self) -> Duration {
        let steps = |table: &[u64], n: u32| table[(n as usize).min(table.len() - 1)];
        Duration::from_secs(match self {
            Self::Unreachable(n) => steps(&[1, 2, 5, 10, 30, 60, 120], n),
            Self::Incomplete(n) => steps(&[5, 15, 60, 120, 300, 600], n),
            Self::Refused(n) => steps(&[10, 60, 120], n),
        })
    }

    /// How long: up to a quarter more, so that a fleet does not come back in step.
    #[must_use]
    pub fn with_jitter(self) -> Duration {
        let random = RandomState::new().build_hasher().finish() % 256;
        self.base() + self.base().mul_f64(f64::from(u8::try_from(random).unwrap_or(0)) / 1024.0)
    }
}

/// Why the agent ended.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// No identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The frontend.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// The identity, enrolling if there is none and a join document is.
///
/// # Errors
/// There is neither, or the frontend cannot be reached or says no.
pub async fn identity(config: &Config) -> Result<Identity, IdentityError> {
    if let Some(identity) = Identity::load(&config.state)? {
        return Ok(identity);
    }
    let path = config.root.join("etc/rocks-agent/join.toml");
    let join = identity::read_join(&path)?;
    let made = identity::enrol(&config.state, &join, identity::facts(&config.root), Timestamp::now()).await?;
    // The token is used up; what is left of the document is no secret, but nobody needs it either.
    let _ = std::fs::remove_file(&path);
    Ok(made)
}

/// What one turn with the frontend came to.
#[derive(Debug)]
pub struct Turned {
    /// The report, if there was a kickstart to work on or to refuse.
    pub report: Option<Report>,
    /// Why there was none.
    pub error: Option<FetchError>,
}

/// The agent with its connection, its journal and its identity.
pub struct Agent {
    config: Arc<Config>,
    identity: Identity,
    client: Client,
    journal: Option<Journal>,
    /// Whether reports wait in the spool, as far as is known.
    unsent: bool,
    /// The kickstart that was refused last because it is none.
    refused: Option<Digest>,
    processes: Arc<dyn Processes + Send + Sync>,
}

impl Agent {
    /// Opens everything.
    ///
    /// # Errors
    /// No identity, or another agent is at work.
    pub async fn open(config: Config) -> Result<Self, ServiceError> {
        let journal = Journal::open(&config.state)?;
        let identity = identity(&config).await?;
        Self::with(config, identity, journal)
    }

    fn with(mut config: Config, identity: Identity, journal: Journal) -> Result<Self, ServiceError> {
        config.policy.frontend = Some(identity.frontend.clone());
        let client = identity.client()?;
        let journal = Some(journal);
        let processes = Arc::new(System);
        Ok(Self { config: Arc::new(config), client, identity, journal, unsent: true, refused: None, processes })
    }

    fn known(&self) -> Known {
        let state = self.journal.as_ref().map(|journal| journal.state());
        let have = self.journal.as_ref().and_then(|journal| converge::kept(&self.config, journal));
        Known {
            digest: have.map(|desired| desired.digest),
            generation: state.map(|state| state.generation).unwrap_or_default(),
            host: self.identity.host.clone(),
            seal_key: self.identity.seal_key,
        }
    }

    fn mirror(&self) -> MirrorIdentity {
        MirrorIdentity {
            ca: self.identity.file("ca.pem"),
            certificate: self.identity.file("cert.pem"),
            key: self.identity.file("key.pem"),
        }
    }

    /// Fetches (waiting up to `wait` seconds for a change) and converges on what there is. `force` converges also when nothing has
    /// changed.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub async fn turn(&mut self, wait: u32, force: bool) -> Result<Turned, ServiceError> {
        let known = self.known();
        let (desired, error) = match self.client.kickstart(&known, wait).await {
            Ok(Some(fetched)) => (Some(Desired::from(fetched)), None),
            Ok(None) => (None, None),
            Err(error) => (None, Some(error)),
        };
        if let Some(FetchError::Untrusted { code, why }) = &error {
            let facts = identity::facts(&self.config.root);
            let turn = Turn { config: &self.config, processes: &System, mirror: None, facts };
            let found = finding(code, "kickstart", why.clone());
            return Ok(Turned { report: Some(turn.report(None, Outcome::Refused, vec![found])), error });
        }
        if desired.is_none() && !force {
            return Ok(Turned { report: None, error });
        }
        // A frontend that cannot be reached is no reason not to finish what was begun.
        let Some(mut journal) = self.journal.take() else { return Ok(Turned { report: None, error }) };
        let (config, mirror, processes) = (self.config.clone(), self.mirror(), self.processes.clone());
        let work = tokio::task::spawn_blocking(move || {
            let facts = identity::facts(&config.root);
            let turn = Turn { config: &config, processes: &*processes, mirror: Some(mirror), facts };
            let result = (|| {
                let desired = match desired {
                    Some(desired) => match converge::accept(&turn, &mut journal, &desired)? {
                        Ok(()) => desired,
                        Err(report) => return Ok(Some(*report)),
                    },
                    None => match converge::kept(&config, &journal) {
                        Some(desired) => desired,
                        None => return Ok(None),
                    },
                };
                turn.run(&mut journal, &desired, &mut |title| tell(&format!("STATUS=converging: {title}"))).map(Some)
            })();
            (journal, result)
        });
        match work.await {
            Ok((journal, result)) => {
                self.journal = Some(journal);
                let report = result?;
                let refused = report.as_ref().filter(|report| report.outcome == Outcome::Refused);
                self.refused = refused.and_then(|report| report.kickstart);
                Ok(Turned { report, error })
            }
            // The worker panicked: the journal is closed with it, and says what was begun.
            Err(_) => {
                self.journal = Some(Journal::open(&self.config.state)?);
                Ok(Turned { report: None, error })
            }
        }
    }

    /// Keeps the status, and sends the report and those that could not be sent before.
    pub async fn tell_frontend(&mut self, report: &Report) {
        let spool = self.config.state.join("reports");
        if let Ok(json) = serde_json::to_vec(report)
            && files::write(&spool.join(format!("{}.json", report.id)), &json, 0o600).is_ok()
            && report.steps.iter().any(|step| step.state == StepState::Interrupted)
            && let Some(journal) = &mut self.journal
        {
            // If this cannot be written, the next report tells of it again.
            let _ = journal.told();
        }
        self.unsent = true;
        self.send_reports().await;
    }

    /// Sends what waits in the spool; what cannot be sent now stays there.
    async fn send_reports(&mut self) {
        if !self.unsent {
            return;
        }
        let mut waiting: Vec<_> = std::fs::read_dir(self.config.state.join("reports"))
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|e| e == "json"))
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        waiting.sort();
        // The newest are worth most.
        let extra = waiting.len().saturating_sub(SPOOLED);
        for (_, path) in waiting.drain(..extra) {
            let _ = std::fs::remove_file(path);
        }
        for (_, path) in waiting {
            let bytes = files::read(&path, rocks_common::limits::REPORT_BYTES as u64).ok().flatten();
            let report = bytes.and_then(|bytes| serde_json::from_slice::<Report>(&bytes).ok());
            let done = match report {
                None => true,
                Some(report) => match self.client.report(&report).await {
                    Ok(()) => true,
                    Err(FetchError::Refused { status, .. }) => status < 500 && status != 429,
                    Err(_) => return,
                },
            };
            if !done {
                return;
            }
            let _ = std::fs::remove_file(path);
        }
        self.unsent = false;
    }

    fn status(&self) -> Status {
        Status {
            host: Some(self.identity.host.to_string()),
            frontend: Some(self.identity.frontend.clone()),
            certificate_ends: Some(self.identity.not_after),
            ..Status::load(&self.config.state)
        }
    }

    /// Keeps what a turn came to for `rocks-agent status`.
    pub fn keep_status(&self, turned: &Turned, next: Option<Duration>) {
        let mut status = self.status();
        if let Some(report) = &turned.report {
            status.last = Some(report.clone());
        }
        status.findings = match &turned.error {
            Some(FetchError::Untrusted { .. }) | None => Vec::new(),
            Some(error @ FetchError::Refused { code, .. }) => vec![finding(code, "frontend", error.to_string())],
            Some(error) => vec![finding("frontend-unreachable", "frontend", error.to_string())],
        };
        status.next_attempt =
            next.and_then(|next| Timestamp::now().checked_add(jiff::SignedDuration::try_from(next).ok()?).ok());
        status.store(&self.config.state);
    }

    async fn renew_if_due(&mut self) {
        let now = Timestamp::now();
        if !self.identity.wants_renewal(now) {
            return;
        }
        match self.identity.renew(identity::facts(&self.config.root), now).await {
            Ok(identity) => {
                if let Ok(client) = identity.client() {
                    (self.client, self.identity) = (client, identity);
                }
            }
            Err(error) => log(&format!("the certificate could not be renewed yet: {error}")),
        }
    }

    /// The service: until it is told to end.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub async fn serve(&mut self) -> Result<(), ServiceError> {
        let mut first = true;
        let (mut unreachable, mut incomplete, mut refusals) = (0, 0, 0);
        // After trouble with the frontend: its next answer is not waited for, so that what the status says is true again soon; and
        // after a kickstart that was refused, a report says that all is well.
        let (mut trouble, mut refused) = (false, false);
        tell("READY=1\nSTATUS=starting");
        loop {
            self.renew_if_due().await;
            // A certificate must not end while a request waits.
            let life = self.identity.not_after.as_second() - self.identity.since.as_second();
            let most = u32::try_from((life / 6).max(5)).unwrap_or(u32::MAX);
            let force = first || incomplete > 0 || refused;
            let wait = if force || trouble { 0 } else { self.config.wait_seconds.min(most) };
            let turned = match self.turn(wait, force).await {
                Ok(turned) => turned,
                // A full disk is not the end: nothing more is done until what is done can be written down.
                Err(ServiceError::Journal(error @ JournalError::Io { .. })) => {
                    incomplete += 1;
                    self.tell_stuck(&error, Delay::Incomplete(incomplete - 1).with_jitter()).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            if let Some(report) = &turned.report {
                log_report(report);
            }
            let delay = match (&turned.error, turned.report.as_ref().map(|report| report.outcome)) {
                (Some(FetchError::Network { .. } | FetchError::Address(_)), _) => {
                    unreachable += 1;
                    Some(Delay::Unreachable(unreachable - 1))
                }
                (Some(_), _) | (None, Some(Outcome::Refused)) => {
                    refusals += 1;
                    Some(Delay::Refused(refusals - 1))
                }
                (None, Some(Outcome::Incomplete)) => {
                    incomplete += 1;
                    Some(Delay::Incomplete(incomplete - 1))
                }
                (None, Some(_)) => {
                    incomplete = 0;
                    None
                }
                (None, None) => None,
            };
            if turned.error.is_none() {
                unreachable = 0;
            }
            let mended = trouble && turned.error.is_none();
            trouble = turned.error.is_some();
            refused = match &turned.report {
                Some(report) => report.outcome == Outcome::Refused,
                None => refused && trouble,
            };
            if !trouble && !refused {
                refusals = 0;
            }
            // Asked for a moment of peace, the frontend gets it.
            let asked = match &turned.error {
                Some(FetchError::Refused { retry_after, .. }) => *retry_after,
                _ => None,
            };
            let pause = delay.map(|delay| delay.with_jitter().max(asked.unwrap_or_default()));
            if turned.report.is_some() || trouble || mended {
                self.keep_status(&turned, pause);
            }
            if let Some(report) = &turned.report {
                self.tell_frontend(report).await;
            } else if !trouble {
                self.send_reports().await;
            }
            let state = match (&turned.error, delay) {
                (Some(error), _) => error.to_string(),
                (None, Some(_)) => "not converged; it is tried again".to_owned(),
                (None, None) => "converged; waiting for a change".to_owned(),
            };
            tell(&format!("STATUS={}", state.lines().next().unwrap_or_default()));
            first = false;
            if let Some(pause) = pause {
                self.pause(pause).await;
            }
        }
    }

    /// The state cannot be written: says so everywhere where it can be said, and waits.
    async fn tell_stuck(&mut self, error: &JournalError, pause: Duration) {
        let full = matches!(error, JournalError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull);
        let code = if full { "disk-full" } else { "state-unwritable" };
        let found = finding(code, "state", format!("nothing is done until this is mended: {error}"));
        log(&found.message);
        tell(&format!("STATUS={code}: {error}"));
        let facts = identity::facts(&self.config.root);
        let turn = Turn { config: &self.config, processes: &System, mirror: None, facts };
        let report = turn.report(None, Outcome::Incomplete, vec![found]);
        let turned = Turned { report: Some(report.clone()), error: None };
        self.keep_status(&turned, Some(pause));
        // Not by way of the spool, which is on the same disk.
        let _ = self.client.report(&report).await;
        sleep(pause).await;
    }

    /// Waits, but not longer than until the frontend has something newer, if steps are only to be tried again.
    async fn pause(&mut self, pause: Duration) {
        // What was refused will be refused again: only something else is news.
        let refused = self.refused;
        let known = Known { digest: refused.or(self.known().digest), ..self.known() };
        let until = Instant::now() + pause;
        let seconds = u32::try_from(pause.as_secs()).unwrap_or(u32::MAX);
        if known.digest.is_some() && seconds > 0 {
            // A change ends the wait; whatever else comes of this request is seen by the next turn.
            if let Ok(Ok(Some(fetched))) = timeout(pause, self.client.kickstart(&known, seconds)).await
                && Some(fetched.digest) != refused
            {
                return;
            }
        }
        tokio::time::sleep_until(until).await;
    }
}

/// Most reports that wait to be sent.
const SPOOLED: usize = 32;

fn finding(code: &str, subject: &str, message: String) -> Finding {
    Finding { code: code.to_owned(), severity: Severity::Error, subject: subject.to_owned(), message, hint: None }
}

/// Runs the service until SIGTERM or SIGINT.
///
/// # Errors
/// It cannot begin or go on.
pub async fn run(config: Config) -> Result<(), ServiceError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(io)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(io)?;
    let work = async {
        let mut tries = 0;
        let mut agent = loop {
            match Agent::open(config.clone()).await {
                Ok(agent) => break agent,
                Err(ServiceError::Identity(error)) => {
                    let Some(pause) = until_next(&error, tries) else { return Err(error.into()) };
                    log(&format!("cannot enrol yet: {error}"));
                    tell("READY=1\nSTATUS=waiting for the frontend to enrol");
                    sleep(pause).await;
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
        };
        agent.serve().await
    };
    tokio::select! {
        result = work => result,
        () = watchdog() => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

/// How long to wait before the next attempt to enrol, if there is to be one.
fn until_next(error: &IdentityError, tries: u32) -> Option<Duration> {
    let delay = match error {
        // The frontend, and the network, may come later than the instance.
        IdentityError::Fetch(FetchError::Network { .. }) | IdentityError::Imds(_) => Delay::Unreachable(tries),
        IdentityError::Fetch(FetchError::Refused { status, retry_after, .. }) if *status == 429 || *status >= 500 => {
            return Some(Delay::Unreachable(tries).with_jitter().max(retry_after.unwrap_or_default()));
        }
        // There may be room for another host soon, or the rule may be mended.
        IdentityError::Fetch(FetchError::Refused { code, .. }) if code == "identity-refused" => Delay::Refused(tries),
        _ => return None,
    };
    Some(delay.with_jitter())
}

fn io(source: std::io::Error) -> ServiceError {
    ServiceError::Journal(JournalError::Io { path: "signals".into(), source })
}

/// Tells the service manager that we live, as often as it wants to hear it.
async fn watchdog() {
    let wanted =
        std::env::var("WATCHDOG_USEC").ok().and_then(|value| value.parse::<u64>().ok()).filter(|usec| *usec > 0);
    match wanted {
        Some(usec) => loop {
            tell("WATCHDOG=1");
            sleep(Duration::from_micros(usec / 2)).await;
        },
        None => std::future::pending().await,
    }
}

/// Says something to the service manager, if there is one.
fn tell(state: &str) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let pairs: Vec<(&str, &str)> = state.lines().filter_map(|line| line.split_once('=')).collect();
    let _ = systemd::daemon::notify(pairs.iter());
}

/// Says something to the journal, or to standard error where there is none.
fn log(message: &str) {
    tracing::info!("{message}");
}

/// A converge in the journal, with fields to search for. The message's id is stable.
fn log_report(report: &Report) {
    let done = report.steps.len();
    let message = format!("converge: {:?}, {done} steps in {} ms", report.outcome, report.duration_ms);
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        let fields = [
            format!("MESSAGE={message}"),
            "MESSAGE_ID=5b3f9e5d0a7c4f0e9d1c2b6a8e47f310".to_owned(),
            "PRIORITY=6".to_owned(),
            "SYSLOG_IDENTIFIER=rocks-agent".to_owned(),
            format!("ROCKS_OUTCOME={:?}", report.outcome),
            format!("ROCKS_STEPS={done}"),
            format!("ROCKS_GENERATION={}", report.generation.map(|g| g.to_string()).unwrap_or_default()),
        ];
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        if systemd::journal::send(&fields).is_ok() {
            return;
        }
    }
    log(&message);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_bound_and_are_spread() {
        assert_eq!(Delay::Unreachable(0).base(), Duration::from_secs(1));
        assert_eq!(Delay::Unreachable(100).base(), Duration::from_secs(120));
        let refused = |status, code: &str| {
            let (code, title) = (code.to_owned(), String::new());
            let retry_after = Some(Duration::from_secs(7));
            until_next(&IdentityError::Fetch(FetchError::Refused { status, code, title, retry_after }), 0)
        };
        assert_eq!(refused(403, "token-refused"), None);
        assert!(refused(403, "identity-refused") >= Some(Duration::from_secs(10)));
        assert_eq!(refused(429, "busy"), Some(Duration::from_secs(7)));
        for n in 0..50 {
            let delay = Delay::Incomplete(n);
            let with = delay.with_jitter();
            assert!(with >= delay.base() && with <= delay.base().mul_f64(1.25));
        }
    }
}
