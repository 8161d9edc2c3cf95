//! `minicloud`: a local EC2 as a program.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use rocks_minicloud::config::Config;
use rocks_minicloud::{Minicloud, Options, Seed, Way, sweep};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(name = "minicloud", version, about = "A local EC2 for tests, which really runs what it launches")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a cloud until it is told to end
    Serve(Serve),
    /// Remove what clouds left behind that were killed
    Sweep {
        /// The folder that they kept their bytes in
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Print a configuration with every default written out
    Config {
        /// The slow and strict one
        #[arg(long)]
        aws: bool,
    },
}

#[derive(Args)]
struct Serve {
    /// Only change states: no root needed, nothing runs
    #[arg(long)]
    no_boot: bool,
    /// A configuration in TOML (`minicloud config` prints one)
    #[arg(long, conflicts_with = "aws")]
    config: Option<PathBuf>,
    /// Be as slow and strict as AWS: delays, throttling, late visibility
    #[arg(long)]
    aws: bool,
    /// Where to listen on this machine
    #[arg(long, default_value = "127.0.0.1:4566")]
    listen: SocketAddr,
    /// Where to make a folder for all bytes
    #[arg(long)]
    dir: Option<PathBuf>,
    /// An image that is there from the beginning: a raw disk image, its architecture before a colon if not x86_64
    #[arg(long, value_name = "NAME=[ARCH:]FILE", value_parser = seed)]
    image: Vec<Seed>,
    /// The way between the frontend's namespace and the cloud: megabits a second, milliseconds there and back, share lost
    #[arg(long, value_name = "MBIT,MS[,LOSS]", conflicts_with = "no_boot")]
    wan: Option<Way>,
}

fn seed(text: &str) -> Result<Seed> {
    let (name, rest) = text.split_once('=').context("expected NAME=FILE")?;
    let (architecture, path) = match rest.split_once(':') {
        Some((arch @ ("x86_64" | "arm64" | "i386"), path)) => (arch, path),
        _ => ("x86_64", rest),
    };
    Ok(Seed { name: name.to_owned(), path: path.into(), architecture: architecture.to_owned() })
}

fn main() -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match Cli::parse().command {
        Command::Serve(options) => serve(options),
        Command::Sweep { dir } => sweep(&dir.unwrap_or_else(std::env::temp_dir)),
        Command::Config { aws } => {
            let config = if aws { Config::aws() } else { Config::default() };
            write!(std::io::stdout(), "{}", toml::to_string_pretty(&config)?)?;
            Ok(())
        }
    }
}

fn serve(given: Serve) -> Result<()> {
    let config = match (&given.config, given.aws) {
        (Some(path), _) => {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            Config::parse(&text)?
        }
        (None, true) => Config::aws(),
        (None, false) => Config::default(),
    };
    // Before anything is made that they would leave behind.
    let waiting = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ends = waiting.block_on(async {
        let of = |kind| signal(kind).context("no signals");
        Ok::<_, anyhow::Error>([of(SignalKind::terminate())?, of(SignalKind::interrupt())?, of(SignalKind::hangup())?])
    })?;
    let cloud = Minicloud::start(Options {
        config,
        boot: !given.no_boot,
        way: given.wan,
        listen: given.listen,
        dir: given.dir.unwrap_or_else(std::env::temp_dir),
        images: given.image,
    })?;
    let key = cloud.config().keys.first();
    let ready = serde_json::json!({
        "endpoint": cloud.endpoint(),
        "region": cloud.config().region,
        "access_key_id": key.map(|k| &k.id),
        "secret_access_key": key.map(|k| &k.secret),
        "frontend_namespace": cloud.frontend_namespace(),
        "endpoint_from_frontend": cloud.frontend_namespace().map(|_| cloud.endpoint_from_frontend()),
        "endpoint_from_instances": cloud.endpoint_from_instances(),
    });
    let mut out = std::io::stdout();
    writeln!(out, "{ready}")?;
    out.flush()?;
    waiting.block_on(async {
        let [mut term, mut int, mut hup] = ends;
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
            _ = hup.recv() => {}
        }
    });
    drop(cloud);
    Ok(())
}
