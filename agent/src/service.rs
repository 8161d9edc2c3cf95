//! The agent as a service: fetch, converge, report, wait for a change, again.
//!
//! States and delays are in [`crate::patience`]. Between two changes the agent does nothing but hold a request open;
//! the only timers are that request's and the watchdog's.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
use crate::identity::{self, Identity, IdentityError};
use crate::joining::{self, Search};
use crate::journal::{Journal, JournalError};
use crate::patience::{Course, Delay, may_ask, until_next};
use crate::pause;
use crate::process::{Processes, System};
use crate::spool;
use crate::status::Status;

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

/// What one turn with the frontend came to.
#[derive(Debug)]
pub struct Turned {
    /// The report, if there was a kickstart to work on or to refuse.
    pub report: Option<Report>,
    /// Why there was none.
    pub error: Option<FetchError>,
}

/// What a frontend says that has given the host another certificate, for a join document, or has none for it any more.
const REVOKED: &str = "certificate-revoked";

/// The agent with its connection, its journal and its identity.
pub struct Agent {
    config: Arc<Config>,
    identity: Identity,
    client: Client,
    journal: Option<Journal>,
    /// Whether reports wait to be sent, as far as is known.
    unsent: bool,
    /// How often in a row they could not be sent.
    in_vain: u32,
    /// A report that could not be kept, and not be sent yet either.
    unkept: Option<Report>,
    /// The kickstart that was refused last because it is none.
    refused: Option<Digest>,
    /// Whether the frontend said last that our certificate was revoked.
    revoked: bool,
    search: Search,
    processes: Arc<dyn Processes + Send + Sync>,
    stop: Arc<Stop>,
}

/// Whether the service is told to end.
#[derive(Debug, Default)]
struct Stop {
    asked: AtomicBool,
    /// Whether a converge is under way, or its report; all else can be left at any time.
    at_work: AtomicBool,
}

impl Stop {
    fn is_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }
}

/// How long the step that is under way, and the report, may take when the service is told to end; the service manager
/// waits longer.
const ENDING: Duration = Duration::from_secs(20);

/// Does `work` until `told`. A converge is not cut off then: it begins no other step, and its report is kept.
async fn until<T>(told: impl Future<Output = ()>, stop: &Stop, work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        done = &mut work => return Some(done),
        () = told => {}
    }
    stop.asked.store(true, Ordering::SeqCst);
    tell("STOPPING=1");
    if stop.at_work.load(Ordering::SeqCst) { timeout(ENDING, work).await.ok() } else { None }
}

impl Agent {
    /// Opens everything.
    ///
    /// # Errors
    /// No identity, or another agent is at work.
    pub async fn open(config: Config) -> Result<Self, ServiceError> {
        let journal = Journal::open(&config.state)?;
        let identity = joining::identity(&config).await?;
        Self::with(config, identity, journal)
    }

    fn with(mut config: Config, identity: Identity, journal: Journal) -> Result<Self, ServiceError> {
        config.policy.frontend = Some(identity.frontend.clone());
        let client = identity.client()?;
        let journal = Some(journal);
        let processes = Arc::new(System);
        Ok(Self {
            config: Arc::new(config),
            client,
            identity,
            journal,
            unsent: true,
            in_vain: 0,
            unkept: None,
            refused: None,
            revoked: false,
            search: Search::default(),
            processes,
            stop: Arc::default(),
        })
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
        self.revoked = match &error {
            Some(FetchError::Refused { code, .. }) => code == REVOKED,
            // Who gives no answer has not said anything else.
            Some(FetchError::Network { .. } | FetchError::Address(_)) => self.revoked,
            Some(FetchError::Untrusted { .. }) | None => false,
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
        let stop = self.stop.clone();
        stop.at_work.store(true, Ordering::SeqCst);
        let work = tokio::task::spawn_blocking(move || {
            let facts = identity::facts(&config.root);
            let turn = Turn { config: &config, processes: &*processes, mirror: Some(mirror), facts };
            let result: Result<_, JournalError> = (|| {
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
                let mut progress = |title: &str| {
                    tell(&format!("STATUS=converging: {title}"));
                    if stop.is_asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                };
                let mut report = turn.run(&mut journal, &desired, &mut progress)?;
                if stop.is_asked() && report.outcome == Outcome::Incomplete {
                    // No word on the kickstart: a machine that restarts, or ends what runs on it, must not stop a
                    // rollout.
                    (report.kickstart, report.generation) = (None, None);
                }
                Ok(Some(report))
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
        match spool::keep(&self.config.state, report) {
            Ok(()) => {
                if report.steps.iter().any(|step| step.state == StepState::Interrupted)
                    && let Some(journal) = &mut self.journal
                {
                    // If this cannot be written, the next report tells of it again.
                    let _ = journal.told();
                }
            }
            Err(error) => {
                log(&format!("the report {} cannot be kept: {error}", report.id));
                self.unkept = Some(report.clone());
            }
        }
        self.unsent = true;
        self.send_reports().await;
    }

    /// Sends the reports that wait; what cannot be sent now waits on.
    async fn send_reports(&mut self) {
        if !self.unsent {
            return;
        }
        let mut sent = spool::send(&self.config.state, &mut self.client).await;
        if let Some(report) = self.unkept.take()
            && !spool::send_unkept(&report, &mut self.client).await
        {
            (self.unkept, sent) = (Some(report), false);
        }
        self.unsent = !sent;
        self.in_vain = if sent { 0 } else { self.in_vain + 1 };
    }

    /// How long a change may be waited for: not long while reports wait.
    fn patience(&self) -> Duration {
        if self.unsent { Delay::Unsent(self.in_vain.saturating_sub(1)).with_jitter() } else { Duration::MAX }
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
        status.findings = in_the_way(turned.error.as_ref(), &self.identity, Timestamp::now()).into_iter().collect();
        status.next_attempt =
            next.and_then(|next| Timestamp::now().checked_add(jiff::SignedDuration::try_from(next).ok()?).ok());
        status.store(&self.config.state);
    }

    fn become_new(&mut self, identity: Identity) {
        if let Ok(client) = identity.client() {
            Arc::make_mut(&mut self.config).policy.frontend = Some(identity.frontend.clone());
            (self.client, self.identity) = (client, identity);
            (self.revoked, self.search) = (false, Search::default());
        }
    }

    async fn renew_if_due(&mut self) {
        let now = Timestamp::now();
        if self.revoked || self.identity.is_over(now) {
            // It cannot be renewed: only another one helps.
            if let Some(identity) = self.search.find(&self.config, &self.identity).await {
                self.become_new(identity);
            }
            return;
        }
        if !self.identity.wants_renewal(now) {
            return;
        }
        match self.identity.renew(identity::facts(&self.config.root), now).await {
            Ok(identity) => self.become_new(identity),
            Err(error) => log(&format!("the certificate could not be renewed yet: {error}")),
        }
    }

    /// The service: until it is told to end.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub async fn serve(&mut self) -> Result<(), ServiceError> {
        let mut course = Course::default();
        tell("READY=1\nSTATUS=starting");
        loop {
            self.renew_if_due().await;
            // A certificate must not end while a request waits.
            let life = self.identity.not_after.as_second() - self.identity.since.as_second();
            let most = u32::try_from((life / 6).max(5)).unwrap_or(u32::MAX);
            let most = most.min(u32::try_from(self.patience().as_secs()).unwrap_or(u32::MAX));
            let wait = if course.may_wait() { self.config.wait_seconds.min(most) } else { 0 };
            let turned = match self.turn(wait, course.must_converge(Instant::now())).await {
                Ok(turned) => turned,
                Err(_) if self.stop.is_asked() => return Ok(()),
                // A full disk is not the end: nothing more is done until what is done can be written down.
                Err(ServiceError::Journal(error @ JournalError::Io { .. })) => {
                    self.stop.at_work.store(false, Ordering::SeqCst);
                    let pause = course.stuck(Instant::now());
                    self.tell_stuck(&error, pause).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            if let Some(report) = &turned.report {
                log_report(report);
            }
            let was_trouble = course.trouble;
            let outcome = turned.report.as_ref().map(|report| report.outcome);
            let pause = course.take(outcome, turned.error.as_ref(), Instant::now());
            if turned.report.is_some() || course.trouble || was_trouble {
                self.keep_status(&turned, pause);
            }
            if let Some(report) = &turned.report {
                self.tell_frontend(report).await;
            } else if !course.trouble {
                self.send_reports().await;
            }
            self.stop.at_work.store(false, Ordering::SeqCst);
            if self.stop.is_asked() {
                return Ok(());
            }
            let found = in_the_way(turned.error.as_ref(), &self.identity, Timestamp::now());
            let state = match (found, &turned.error) {
                (Some(found), _) => found.message,
                (None, Some(error)) => error.to_string(),
                (None, None) if course.is_incomplete() || course.refused => {
                    "not converged; it is tried again".to_owned()
                }
                (None, None) => "converged; waiting for a change".to_owned(),
            };
            tell(&format!("STATUS={}", state.lines().next().unwrap_or_default()));
            match pause {
                Some(pause) if may_ask(turned.error.as_ref()) => self.pause(pause).await,
                Some(pause) => sleep(pause).await,
                None => {}
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
        let (until, mut early) = (Instant::now() + pause, 0);
        loop {
            let now = Instant::now();
            let end = now.checked_add(self.patience()).map_or(until, |end| end.min(until));
            let client = &mut self.client;
            // A change ends the wait; what it is is seen by the next turn.
            let ask = async |seconds| {
                let fetched = client.kickstart(&known, seconds).await?;
                Ok(fetched.is_some_and(|fetched| Some(fetched.digest) != refused))
            };
            if pause::listen(end, &mut early, ask).await || end >= until {
                return;
            }
            self.send_reports().await;
        }
    }
}

/// What is in the way with the frontend, for people; what cannot be trusted is in the report of its own.
fn in_the_way(error: Option<&FetchError>, identity: &Identity, now: Timestamp) -> Option<Finding> {
    let host = &identity.host;
    let join = format!("`rocks report host join {host}` gives a new join document, for /etc/rocks-agent/join.toml");
    match error? {
        FetchError::Untrusted { .. } => None,
        // Whatever the network makes of it: it is only this.
        error if identity.is_over(now) => {
            let message = format!("its certificate has ended, at {}: {error}", identity.not_after);
            Some(Finding { hint: Some(join), ..finding("certificate-ended", "certificate", message) })
        }
        error @ FetchError::Refused { code, .. } => {
            let hint = (code == REVOKED)
                .then(|| format!("another machine may be {host} now; if it is to be this one, {join}"));
            Some(Finding { hint, ..finding(code, "frontend", error.to_string()) })
        }
        error => Some(finding("frontend-unreachable", "frontend", error.to_string())),
    }
}

fn finding(code: &str, subject: &str, message: String) -> Finding {
    Finding { code: code.to_owned(), severity: Severity::Error, subject: subject.to_owned(), message, hint: None }
}

/// Runs the service until SIGTERM or SIGINT. A converge that is under way then ends after the step that it is at.
///
/// # Errors
/// It cannot begin or go on.
pub async fn run(config: Config) -> Result<(), ServiceError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(io)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(io)?;
    let stop = Arc::<Stop>::default();
    let work = async {
        let mut tries = 0;
        let mut agent = loop {
            match Agent::open(config.clone()).await {
                Ok(agent) => break agent,
                Err(ServiceError::Identity(error)) => {
                    let Some(pause) = until_next(&error, tries) else { return Err(error.into()) };
                    log(&format!("cannot enrol yet: {error}"));
                    let why = error.to_string();
                    tell(&format!("READY=1\nSTATUS=cannot enrol yet: {}", why.lines().next().unwrap_or_default()));
                    let code = match &error {
                        IdentityError::Fetch(FetchError::Refused { code, .. }) => code,
                        _ => "not-enrolled",
                    };
                    let found = finding(code, "identity", why);
                    Status { findings: vec![found], ..Status::load(&config.state) }.store(&config.state);
                    sleep(pause).await;
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
        };
        agent.stop = stop.clone();
        agent.serve().await
    };
    let told = async {
        tokio::select! {
            () = watchdog() => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    until(told, &stop, work).await.unwrap_or(Ok(()))
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
#[path = "service_tests.rs"]
mod tests;
