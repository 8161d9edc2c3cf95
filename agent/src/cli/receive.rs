//! `rocks-agent receive`: the image receiver. It listens for one shipment from its own frontend, writes it, proves it, and ends.
//!
//! The agent shows the certificate of its host, and lets nobody in but the frontend of its join document: who listens here is TLS's
//! client, because only the frontend has a certificate with a name. Whoever else knocks costs a handshake.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rocks_ship::shipment::{Phase, Progress, Receiver, ShipmentError, Target};
use rocks_ship::transport::{self, Caller, Door, Options, Tcp, Transport, Udt};
use rustls_pki_types::ServerName;

use super::{Format, fit, online};
use crate::config::Config;
use crate::identity::Identity;
use crate::output::{self, Output};
use crate::tls;

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
    /// Where it is written: a block device, or a file that is made
    #[arg(long, value_name = "PATH")]
    target: PathBuf,
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
}

pub(super) fn run(args: &Args, config: &Config, format: Format, output: &mut Output<'_>) -> u8 {
    log(format);
    if !args.fit && args.fitting.any() {
        output.message("error: --root-device, --join and --partition only mean something with --fit\n");
        return output::USAGE;
    }
    let fitting = match args.fit.then(|| fit::prepare(&args.fitting)).transpose() {
        Ok(fitting) => fitting,
        Err(message) => {
            output.message(&format!("error: {message}\n"));
            return output::FAILED;
        }
    };
    let identity = match online::identity(config, output) {
        Ok(identity) => identity,
        Err(code) => return code,
    };
    let prepared = trust(&identity).and_then(|(tls, name)| {
        let receiver = Receiver::new(Target::open(&args.target)?, &args.bases)?;
        let carrier = args.transport.carrier(Options { patience: SILENCE, ..Options::default() });
        let listener = carrier.listen(args.listen)?;
        let prove = move |connection| transport::secure_client(connection, &tls, name.clone());
        Ok((receiver, Door::new(listener, Box::new(prove))))
    });
    let (receiver, door) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            output.message(&format!("error: {error:#}\n"));
            return output::FAILED;
        }
    };
    output.message(&format!("waiting for an image for {} at {}\n", identity.host, door.local()));
    let patience = Duration::from_secs(args.patience);
    let mut end = Instant::now() + patience;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let mut stream = match door.next(left) {
            Ok(Some(Caller::Admitted(stream))) => stream,
            Ok(Some(Caller::SentAway(peer, error))) => {
                output.message(&format!("{peer} was sent away: {error}\n"));
                continue;
            }
            Ok(None) => {
                output.message("error: nobody shipped anything\n");
                return output::TEMPORARY;
            }
            Err(error) => {
                output.message(&format!("error: {error}\n"));
                return output::FAILED;
            }
        };
        let progress = Lines::default();
        match receiver.run(&mut *stream, &|at| progress.tell(at)) {
            Ok(shipped) => {
                // The sender has the proof already; that the end arrives too is a courtesy.
                let _ = stream.finish();
                // What was proved is what was shipped; only then it is changed. The same volume can take the next shipment all the same:
                // the blocks that differ travel again.
                let fitted = match fitting.map(|ready| {
                    phase("fitting", None);
                    ready.fit(&args.target)
                }) {
                    None => None,
                    Some(Ok(fitted)) => Some(fitted),
                    Some(Err(error)) => return fit::failed(&error, output),
                };
                phase("done", None);
                let text = match format {
                    Format::Json => {
                        let done = serde_json::json!({"api_version": "rocks/v1", "shipped": shipped, "fitted": fitted});
                        done.to_string() + "\n"
                    }
                    Format::Human => format!(
                        "received {} bytes, {} of {} blocks, verified: {}\n{}",
                        shipped.bytes,
                        shipped.sent,
                        shipped.blocks,
                        shipped.digest,
                        fitted.map(|fitted| fitted.render()).unwrap_or_default()
                    ),
                };
                return output.data(&text, output::OK);
            }
            Err(error @ (ShipmentError::Connection(_) | ShipmentError::Refused(_))) => {
                output.message(&format!("interrupted: {}; what came is kept\n", chain(&error)));
                end = Instant::now() + patience;
            }
            Err(error) => {
                output.message(&format!("error: {}\n", chain(&error)));
                return output::FAILED;
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
