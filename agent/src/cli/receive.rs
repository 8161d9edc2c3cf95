//! `rocks-agent receive`: the image receiver. It listens for one shipment from its own frontend, writes it, proves it, and ends.
//!
//! The agent shows the certificate of its host, and lets nobody in but the frontend of its join document: who listens here is TLS's
//! client, because only the frontend has a certificate with a name. Whoever else knocks costs a handshake.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rocks_common::diag::Severity;
use rocks_common::wire::{Finding, Outcome, Report};
use rocks_ship::shipment::{Phase, Progress, ShipmentError};
use rocks_ship::transport::{self, Caller, Door, Options, Tcp, Transport, Udt};
use rustls_pki_types::ServerName;

use super::form::{FormOptions, Taker};
use super::{Format, fit, online};
use crate::config::Config;
use crate::identity::Identity;
use crate::output::{self, Output};
use crate::userdata::Job;
use crate::{tls, volume};

/// How long the frontend may be silent before we wait for it to connect anew: the shipment goes on then.
pub(super) const SILENCE: Duration = Duration::from_secs(10);

/// How a shipment comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Way {
    /// UDT: fills long and lossy paths
    Udt,
    /// TCP: where UDP does not pass
    Tcp,
}

impl Way {
    /// What carries it.
    pub(super) fn carrier(self, options: Options) -> Box<dyn Transport> {
        match self {
            Self::Udt => Box::new(Udt::new(options)),
            Self::Tcp => Box::new(Tcp::new(options)),
        }
    }
}

/// What TLS needs to speak as this host, to its own frontend and nobody else.
pub(super) fn trust(identity: &Identity) -> anyhow::Result<(Arc<rustls::ClientConfig>, ServerName<'static>)> {
    let (ca, certificate, key) = identity.documents()?;
    let name = identity.frontend.parse::<http::Uri>()?;
    let name = name.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    Ok((tls::client(&ca, Some((&certificate, &key)))?, ServerName::try_from(name)?))
}

/// Receive one image from the frontend.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where it is written: a block device, or a file that is made; with `--form tree` a folder or a block device
    #[arg(long, value_name = "PATH", conflicts_with = "job")]
    target: Option<PathBuf>,
    /// Do the job in this file, which user data brought: wait for its EBS volume, receive onto it, fit it, and tell the frontend
    #[arg(long, value_name = "FILE", conflicts_with_all = ["listen", "patience", "fit"])]
    job: Option<PathBuf>,
    /// An image here that may have some of it already; may be given several times
    #[arg(long = "base", value_name = "PATH")]
    bases: Vec<PathBuf>,
    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:8444")]
    listen: SocketAddr,
    /// How it comes
    #[arg(long, value_enum, default_value_t = Way::Udt)]
    transport: Way,
    /// How long to wait for a shipment, and for an interrupted one to go on
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    patience: u64,
    /// Make what arrived a machine in the cloud, when it has been verified: see `rocks-agent fit`
    #[arg(long)]
    fit: bool,
    #[command(flatten)]
    fitting: fit::Options,
    #[command(flatten)]
    form: FormOptions,
}

/// What came of it: a text for people or programs, or an exit code and what was wrong.
type Ended = Result<String, (u8, String)>;

fn failed(error: &dyn std::fmt::Display) -> (u8, String) {
    (output::FAILED, error.to_string())
}

pub(super) fn run(args: &Args, config: &Config, format: Format, output: &mut Output<'_>) -> u8 {
    log(format);
    if !args.fit && args.fitting.any() {
        output.message("error: --root-device, --join and --partition only mean something with --fit\n");
        return output::USAGE;
    }
    let identity = match online::identity(config, output) {
        Ok(identity) => identity,
        Err(code) => return code,
    };
    let ended = match &args.job {
        Some(path) => {
            let began = jiff::Timestamp::now();
            let ended = read_job(path).and_then(|job| {
                let place = place_of(&job, path, config)?;
                take(args, &place, &identity, format, output)
            });
            // The frontend waits for this: only now the volume is what it should be.
            let told = online::report(&identity, &told(&identity, began, &ended), output);
            // Done or not, it is not done again when this machine starts anew.
            let _ = std::fs::remove_file(path);
            let _ = std::fs::remove_file(begun(path));
            match told {
                Ok(()) => ended,
                Err(code) => return code,
            }
        }
        None => match &args.target {
            Some(target) => {
                let place = Place {
                    target: target.clone(),
                    listen: args.listen,
                    patience: Duration::from_secs(args.patience),
                    fit: args.fit,
                    is_blank: false,
                };
                take(args, &place, &identity, format, output)
            }
            None => {
                output.message("error: --target or --job is needed\n");
                return output::USAGE;
            }
        },
    };
    match ended {
        Ok(text) => output.data(&text, output::OK),
        Err((code, message)) => {
            output.message(&format!("error: {message}\n"));
            code
        }
    }
}

/// Where an image is written, and what is done with it.
struct Place {
    target: PathBuf,
    listen: SocketAddr,
    patience: Duration,
    fit: bool,
    /// Nothing was ever written there.
    is_blank: bool,
}

fn read_job(path: &Path) -> Result<Job, (u8, String)> {
    let text = std::fs::read_to_string(path).map_err(|error| failed(&format!("{}: {error}", path.display())))?;
    toml::from_str(&text).map_err(|error| failed(&format!("{}: {error}", path.display())))
}

/// What stands beside a job that was begun: this machine, or this program, may have been started anew in the middle of it.
fn begun(job: &Path) -> PathBuf {
    job.with_extension("begun")
}

/// Whether a job is begun for the first time: its volume was made for it, and is blank. From now on it is not.
fn is_first(job: &Path) -> std::io::Result<bool> {
    let made = std::fs::OpenOptions::new().write(true).create_new(true).open(begun(job));
    match made.and_then(|file| file.sync_all()) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(error),
    }
    // It must be there after a power cut.
    let folder = job.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(folder)?.sync_all()?;
    Ok(true)
}

/// The place of a job, as soon as its volume is there.
fn place_of(job: &Job, path: &Path, config: &Config) -> Result<Place, (u8, String)> {
    phase("volume", None);
    let patience = Duration::from_secs(job.patience);
    let target = volume::wait(&config.root, &job.volume, &job.device, patience).ok_or_else(|| {
        (output::TEMPORARY, format!("volume {} was not attached within {} s", job.volume, job.patience))
    })?;
    // Where that cannot be noted, the volume is read: it takes longer, and that is all.
    let is_blank = is_first(path).unwrap_or(false);
    Ok(Place { target, listen: (Ipv4Addr::UNSPECIFIED, job.port).into(), patience, fit: true, is_blank })
}

/// What the frontend is told of a job's end.
fn told(identity: &Identity, began: jiff::Timestamp, ended: &Ended) -> Report {
    let now = jiff::Timestamp::now();
    let finding = |(_, message): &(u8, String)| Finding {
        severity: Severity::Error,
        code: "not-received".to_owned(),
        subject: "image".to_owned(),
        message: message.clone(),
        hint: None,
    };
    Report {
        id: format!("receive-{}-{}", identity.host, now.as_microsecond()),
        facts: crate::identity::facts(Path::new("/")),
        kickstart: None,
        generation: None,
        started: began,
        duration_ms: u64::try_from(now.as_millisecond() - began.as_millisecond()).unwrap_or(0),
        outcome: if ended.is_ok() { Outcome::Converged } else { Outcome::Incomplete },
        steps: Vec::new(),
        findings: ended.as_ref().err().map(finding).into_iter().collect(),
        diff: None,
    }
}

/// Takes one image.
fn take(args: &Args, place: &Place, identity: &Identity, format: Format, output: &mut Output<'_>) -> Ended {
    let fitting = place.fit.then(|| fit::prepare(&args.fitting)).transpose().map_err(|message| failed(&message))?;
    let prepared = trust(identity).and_then(|(tls, name)| {
        let receiver = Taker::new(&args.form, &place.target, &args.bases, place.is_blank)?;
        let carrier = args.transport.carrier(Options { patience: SILENCE, ..Options::default() });
        let listener = carrier.listen(place.listen)?;
        let prove = move |connection| transport::secure_client(connection, &tls, name.clone());
        Ok((receiver, Door::new(listener, Box::new(prove))))
    });
    let (receiver, door) = prepared.map_err(|error| failed(&format!("{error:#}")))?;
    output.message(&format!("waiting for an image for {} at {}\n", identity.host, door.local()));
    let mut end = Instant::now() + place.patience;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let mut stream = match door.next(left).map_err(|error| failed(&error))? {
            Some(Caller::Admitted(stream)) => stream,
            Some(Caller::SentAway(peer, error)) => {
                output.message(&format!("{peer} was sent away: {error}\n"));
                continue;
            }
            None => return Err((output::TEMPORARY, "nobody shipped anything".to_owned())),
        };
        let progress = Lines::default();
        match receiver.run(&mut *stream, &|at| progress.tell(at)) {
            Ok(taken) => {
                // The sender has the proof already; that the end arrives too is a courtesy.
                let _ = stream.finish();
                // What was proved is what was shipped; only then it is changed. The same volume can take the next shipment all the same:
                // the blocks that differ travel again.
                let fitted = match fitting.map(|ready| {
                    phase("fitting", None);
                    ready.fit(&place.target)
                }) {
                    None => None,
                    Some(Ok(fitted)) => Some(fitted),
                    Some(Err(error)) => return Err((output::FAILED, fit::told(&error))),
                };
                phase("done", None);
                return Ok(match format {
                    Format::Json => {
                        let done =
                            serde_json::json!({"api_version": "rocks/v1", "shipped": taken.shipped, "fitted": fitted});
                        done.to_string() + "\n"
                    }
                    Format::Human => taken.text + &fitted.map(|fitted| fitted.render()).unwrap_or_default(),
                });
            }
            Err(error @ (ShipmentError::Connection(_) | ShipmentError::Refused(_))) => {
                output.message(&format!("interrupted: {}; what came is kept\n", chain(&error)));
                end = Instant::now() + place.patience;
            }
            Err(error) => {
                // The sender was told why: it should have heard that before we are gone, or it takes this for a broken connection and waits.
                let _ = stream.finish();
                return Err(failed(&chain(&error)));
            }
        }
    }
}

pub(super) fn chain(error: &ShipmentError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}

/// Lines in the log, on standard error: for people, or as JSON.
pub(super) fn log(format: Format) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("ROCKS_LOG").unwrap_or_else(|_| "info".into());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let _ = match format {
        Format::Human => log.without_time().try_init(),
        Format::Json => log.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
    };
}

fn phase(phase: &str, blocks: Option<u64>) {
    tracing::info!(phase, blocks, "shipment");
}

/// A line in the log whenever a new phase begins.
#[derive(Default)]
pub(super) struct Lines {
    last: std::sync::Mutex<Option<Phase>>,
    sends: bool,
}

impl Lines {
    /// Of the end that sends.
    pub(super) fn sending() -> Self {
        Self { sends: true, ..Self::default() }
    }

    /// Another attempt begins.
    pub(super) fn anew(&self) {
        *self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
    }

    /// Whether the other end has said anything in this attempt: the first phase that is not ours alone has begun.
    pub(super) fn has_begun(&self) -> bool {
        let last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        last.is_some_and(|phase| phase != Phase::Hashing)
    }

    pub(super) fn tell(&self, at: Progress) {
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if last.replace(at.phase) != Some(at.phase) {
            let name = serde_json::to_value(at.phase).unwrap_or_default();
            // The other end sends; we receive.
            phase(
                name.as_str().map_or("", |name| if name == "sending" && !self.sends { "receiving" } else { name }),
                Some(at.of),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_begun_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let job = folder.path().join("receive.toml");
        assert!(is_first(&job).expect("noted"));
        assert!(!is_first(&job).expect("it was noted"));
        assert!(is_first(&folder.path().join("gone/receive.toml")).is_err());
    }
}
