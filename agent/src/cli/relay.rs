//! `rocks-agent relay`: fetches packages once and serves them to its neighbours.

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::{Format, online, receive};
use crate::config::Config;
use crate::identity;
use crate::near::relay::{self, Options};
use crate::output::{self, Output};

/// Serve packages to neighbours.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from(([0, 0, 0, 0], rocks_common::wire::RELAY_PORT)))]
    listen: SocketAddr,
    /// Where to keep what was fetched
    #[arg(long, value_name = "DIR", default_value = "/var/cache/rocks-agent-relay")]
    cache: PathBuf,
    /// How much to keep at most, in bytes or with K, M, G or T
    #[arg(long, value_name = "SIZE", default_value = "8G", value_parser = size)]
    limit: u64,
    /// The folder of this host's identity, if not the agent's own
    #[arg(long, value_name = "DIR")]
    identity: Option<PathBuf>,
}

/// A number of bytes.
fn size(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is no size: it is written as in 500M or 8G");
    let (number, factor) = match text.char_indices().last() {
        Some((at, letter)) if letter.is_ascii_alphabetic() => {
            let power = "KMGT".find(letter.to_ascii_uppercase()).ok_or_else(bad)?;
            (&text[..at], 1u64 << (10 * (power + 1)))
        }
        _ => (text, 1),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).ok_or_else(bad)
}

pub(super) fn run(args: &Args, config: &Config, format: Format, output: &mut Output<'_>) -> u8 {
    receive::log(format);
    let options = Options {
        listen: args.listen,
        identity: args.identity.clone().unwrap_or_else(|| config.state.join(identity::FOLDER)),
        cache: args.cache.clone(),
        limit: args.limit,
    };
    let work = async {
        let (end, ended) = watch::channel(false);
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let serving = relay::run(&options, ended, |address| {
            tracing::info!("relaying at {address}, keeping {} bytes in {}", options.limit, options.cache.display());
            tell_ready();
        });
        let mut serving = std::pin::pin!(serving);
        tokio::select! {
            served = &mut serving => return served,
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        end.send_replace(true);
        serving.await
    };
    match online::block(output, work) {
        Ok(Ok(())) => output::OK,
        Ok(Err(error)) => {
            output.message(&format!("error: {error}\n"));
            output::FAILED
        }
        Err(code) => code,
    }
}

/// Tells the service manager, if there is one.
fn tell_ready() {
    if std::env::var_os("NOTIFY_SOCKET").is_some() {
        let _ = systemd::daemon::notify([("READY", "1")].iter());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!([size("17"), size("4K"), size("2g")], [Ok(17), Ok(4096), Ok(2 << 30)]);
        for bad in ["", "G", "1X", "-1", "1.5G", "99999999999T"] {
            assert!(size(bad).is_err(), "{bad:?}");
        }
    }
}
