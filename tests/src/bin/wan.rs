//! `wan`: an emulated long way between two network namespaces, for trying things by hand and in scripts.

#![expect(clippy::print_stdout, reason = "a command line tool")]

use std::io::BufRead as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use rocks_tests::wan::{End, Shape, Wan, Way};
use tokio::signal::unix::{SignalKind, signal};

/// Joins two namespaces by an emulated link until it is interrupted, or as long as a command runs.
///
/// While it runs it takes lines on standard input: `rate MBIT`, `delay MS`, `loss PERCENT`, `queue MS`, `down`, `up`, `counts`.
#[derive(Debug, Parser)]
struct Args {
    /// Mbit/s of IP packets
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    /// Round trip in ms
    #[arg(long, default_value_t = 180.0)]
    rtt: f64,
    /// Percent of the packets lost
    #[arg(long, default_value_t = 0.0)]
    loss: f64,
    /// How long the queue may be, in ms
    #[arg(long, default_value_t = 50.0)]
    queue: f64,
    /// Percent of the packets that are overtaken
    #[arg(long, default_value_t = 0.0)]
    reorder: f64,
    /// By how many ms
    #[arg(long, default_value_t = 2.0)]
    reorder_by: f64,
    /// A command to run, with `WAN_A` and `WAN_B` set to the namespaces' names
    #[arg(last = true)]
    command: Vec<String>,
}

fn ms(x: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(x / 1000.0).with_context(|| format!("{x} ms"))
}

fn obey(wan: &Wan, line: &str) -> Result<()> {
    let mut words = line.split_whitespace();
    let Some(word) = words.next() else { return Ok(()) };
    let number = || -> Result<f64> { Ok(line.split_whitespace().nth(1).context("a number is missing")?.parse()?) };
    match word {
        "up" | "down" => wan.set_up(word == "up"),
        "counts" => println!("there {:?}\nback {:?}", wan.counts(Way::There), wan.counts(Way::Back)),
        "rate" | "delay" | "loss" | "queue" => {
            let n = number()?;
            for way in [Way::There, Way::Back] {
                let time = ms(n)?;
                wan.change(way, |s| match word {
                    "rate" => s.rate = n * 1e6,
                    "delay" => s.delay = time,
                    "loss" => s.loss = n / 100.0,
                    _ => s.queue = time,
                })?;
            }
        }
        _ => bail!("unknown: {line}"),
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let mut shape = Shape::new(args.rate, ms(args.rtt)?);
    shape.loss = args.loss / 100.0;
    shape.queue = ms(args.queue)?;
    shape.reorder = args.reorder / 100.0;
    shape.reorder_by = ms(args.reorder_by)?;
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let wan = std::sync::Arc::new(Wan::new(shape)?);
    let status = if let Some((program, rest)) = args.command.split_first() {
        // In a process group of its own, killed with everything in it whichever way we leave.
        let mut child = rocks_tests::process::cmd(program)
            .args(rest)
            .env("WAN_A", wan.namespace(End::A))
            .env("WAN_B", wan.namespace(End::B))
            .start_shown()?;
        let ended = async {
            loop {
                if let Some(status) = child.ended() {
                    return status.code().unwrap_or(1);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            code = ended => code,
            _ = interrupt.recv() => 130,
            _ = terminate.recv() => 143,
        }
    } else {
        println!("{} {}", wan.namespace(End::A), Wan::address(End::A));
        println!("{} {}", wan.namespace(End::B), Wan::address(End::B));
        let other = std::sync::Arc::downgrade(&wan);
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                let Some(wan) = other.upgrade() else { return };
                if let Err(e) = obey(&wan, &line) {
                    println!("{e:#}");
                }
            }
        });
        tokio::select! {
            _ = interrupt.recv() => 0,
            _ = terminate.recv() => 0,
        }
    };
    // The reader of standard input holds no more than a weak handle, or for a moment a strong one: it would not drop it.
    drop(wan);
    rocks_tests::wan::remove_own()?;
    std::process::exit(status);
}
