//! `rocks-agent receive`: the image receiver. It listens for one shipment from its own frontend, writes it, proves it, and ends.
//!
//! The agent shows the certificate of its host, and lets nobody in but the frontend of its join document: who listens here is TLS's
//! client, because only the frontend has a certificate with a name. Whoever else knocks costs a handshake.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rocks_ship::shipment::{Phase, Progress, Receiver, ShipmentError, Target};
use rocks_ship::transport::{self, Options, Tcp, Transport, Udt};
use rustls_pki_types::ServerName;

use super::{Format, online};
use crate::config::Config;
use crate::output::{self, Output};
use crate::tls;

/// How long the frontend may be silent before we wait for it to connect anew: the shipment goes on then.
const SILENCE: Duration = Duration::from_secs(10);

/// How a shipment comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Way {
    /// UDT: fills long and lossy paths
    Udt,
    /// TCP: where UDP does not pass
    Tcp,
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
}

pub(super) fn run(args: &Args, config: &Config, format: Format, output: &mut Output<'_>) -> u8 {
    let identity = match online::identity(config, output) {
        Ok(identity) => identity,
        Err(code) => return code,
    };
    let prepared = identity
        .documents()
        .map_err(anyhow::Error::from)
        .and_then(|(ca, certificate, key)| Ok(tls::client(&ca, Some((&certificate, &key)))?))
        .and_then(|tls| {
            let name = identity.frontend.parse::<http::Uri>()?;
            let name = name.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let name = ServerName::try_from(name)?;
            let receiver = Receiver::new(Target::open(&args.target)?, &args.bases)?;
            let options = Options { patience: SILENCE, ..Options::default() };
            let transport: Box<dyn Transport> = match args.transport {
                Way::Udt => Box::new(Udt::new(options)),
                Way::Tcp => Box::new(Tcp::new(options)),
            };
            Ok((tls, name, receiver, transport.listen(args.listen)?))
        });
    let (tls, name, receiver, listener) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            output.message(&format!("error: {error:#}\n"));
            return output::FAILED;
        }
    };
    output.message(&format!("waiting for an image for {} at {}\n", identity.host, listener.local()));
    let patience = Duration::from_secs(args.patience);
    let mut end = Instant::now() + patience;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let connection = match listener.accept(Some(left)) {
            Ok(Some(connection)) => connection,
            Ok(None) => {
                output.message("error: nobody shipped anything\n");
                return output::TEMPORARY;
            }
            Err(error) => {
                output.message(&format!("error: {error}\n"));
                return output::FAILED;
            }
        };
        let peer = connection.peer();
        let mut stream = match transport::secure_client(connection, &tls, name.clone()) {
            Ok(stream) => stream,
            Err(error) => {
                output.message(&format!("{peer} was sent away: {error}\n"));
                continue;
            }
        };
        let progress = Lines::default();
        match receiver.run(&mut stream, &|at| progress.tell(at)) {
            Ok(shipped) => {
                // The sender has the proof already; that the end arrives too is a courtesy.
                let _ = stream.finish();
                let text = match format {
                    Format::Json => {
                        serde_json::json!({"api_version": "rocks/v1", "shipped": shipped}).to_string() + "\n"
                    }
                    Format::Human => format!(
                        "received {} bytes, {} of {} blocks, verified: {}\n",
                        shipped.bytes, shipped.sent, shipped.blocks, shipped.digest
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

fn chain(error: &ShipmentError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}

/// A line in the log whenever a new phase begins.
#[derive(Default)]
struct Lines(std::sync::Mutex<Option<Phase>>);

impl Lines {
    fn tell(&self, at: Progress) {
        let mut last = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if last.replace(at.phase) != Some(at.phase) {
            tracing::info!(phase = ?at.phase, blocks = at.of, "shipment");
        }
    }
}
