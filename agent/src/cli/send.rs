//! `rocks-agent send`: an image from this machine to its frontend, which waits for it: `rocks upload image HOST name=NAME`.
//!
//! The frontend decides what the image is called; who we are stands in our certificate. A connection that breaks is made again, and the
//! shipment goes on with what the frontend lacks then.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rocks_ship::shipment::{Sender, Source};
use rocks_ship::transport::{self, Options};

use super::receive::{Lines, SILENCE, Way, chain, log, trust};
use super::{Format, online};
use crate::config::Config;
use crate::output::{self, Output};

/// The frontend's port for images.
const PORT: u16 = 8444;
/// How long to wait before a connection is made again; twice as long each time, up to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Send an image to the frontend.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The disk or image file
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    /// Where the frontend listens (default: its own name, port 8444)
    #[arg(long, value_name = "NAME:PORT")]
    to: Option<String>,
    /// How it travels
    #[arg(long, value_enum, default_value_t = Way::Udt)]
    transport: Way,
    /// The most bits a second
    #[arg(long, value_name = "BITS")]
    rate: Option<u64>,
    /// How long the frontend may be out of reach
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    patience: u64,
}

pub(super) fn run(args: &Args, config: &Config, format: Format, output: &mut Output<'_>) -> u8 {
    log(format);
    let identity = match online::identity(config, output) {
        Ok(identity) => identity,
        Err(code) => return code,
    };
    let lines = Lines::sending();
    let tell = |at| lines.tell(at);
    let source = Source::open(&args.image);
    let prepared = trust(&identity).map(|(tls, name)| {
        let to = args.to.clone().unwrap_or_else(|| format!("{}:{PORT}", bracketed(&name.to_str())));
        (tls, name, to)
    });
    let (sender, (tls, name, to)) = match (source.as_ref().map(|source| Sender::new(source, &tell)), prepared) {
        (Ok(Ok(sender)), Ok(prepared)) => (sender, prepared),
        (Ok(Err(error)), _) => return failed(&chain(&error), output),
        (Err(error), _) => return failed(&chain(error), output),
        (_, Err(error)) => return failed(&format!("{error:#}"), output),
    };
    let way = args.transport.carrier(Options {
        rate: args.rate.map(|bits| bits / 8),
        patience: SILENCE,
        ..Options::default()
    });
    let patience = Duration::from_secs(args.patience);
    let (mut last_heard, mut pause) = (Instant::now(), PAUSES.0);
    loop {
        let connected = address(&to).and_then(|to| way.connect(to).map_err(|error| error.to_string()));
        let secured = connected.and_then(|connection| {
            transport::secure_client(connection, &tls, name.clone())
                .map_err(|error| format!("it was not let in: {error}"))
        });
        lines.anew();
        let why = match secured {
            Err(error) => error,
            Ok(mut stream) => match sender.run(&mut stream, &tell) {
                Ok(shipped) => {
                    // It has been proved; how the connection ends does not matter.
                    let _ = stream.finish();
                    let text = match format {
                        Format::Json => {
                            serde_json::json!({"api_version": "rocks/v1", "shipped": shipped}).to_string() + "\n"
                        }
                        Format::Human => format!(
                            "sent {} bytes: {} of {} blocks travelled; verified there: {}\n",
                            shipped.bytes, shipped.sent, shipped.blocks, shipped.digest
                        ),
                    };
                    return output.data(&text, output::OK);
                }
                Err(error) if error.may_pass() => {
                    // Who is not waited for is let in as far as TLS goes, and not answered.
                    if lines.has_begun() {
                        (last_heard, pause) = (Instant::now(), PAUSES.0);
                    }
                    chain(&error)
                }
                Err(error) => return failed(&chain(&error), output),
            },
        };
        if last_heard.elapsed() >= patience {
            output.message(&format!("error: the frontend does not take it at {to}: {why}\n"));
            output.message("hint: it listens while `rocks upload image HOST name=NAME` runs there\n");
            return output::TEMPORARY;
        }
        tracing::warn!("{to}: {why}; trying again");
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSES.1);
    }
}

fn failed(message: &str, output: &mut Output<'_>) -> u8 {
    output.message(&format!("error: {message}\n"));
    output::FAILED
}

fn bracketed(name: &str) -> String {
    if name.contains(':') { format!("[{name}]") } else { name.to_owned() }
}

/// Looked up each time: the frontend may have another address when it is back.
fn address(to: &str) -> Result<SocketAddr, String> {
    let found = to.to_socket_addrs().map_err(|error| format!("{to}: {error}"))?.next();
    found.ok_or_else(|| format!("{to} has no address"))
}
