//! `wanbench`: what each way of carrying a stream makes of the same emulated links, one after the other in one run.
//!
//! Memory to memory. A receiver in one namespace counts what arrives in the first seconds of a connection, the connecting and
//! the ramp included, from a sender in the other that never stops. Each measurement is two processes of this program.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a bench that prints its table")]

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use rocks_ship::transport::{self, Connection, Options, Stats, Tcp, Transport, Udt};
use rocks_tests::pki;
use rocks_tests::process::{Running, wait_for};
use rocks_tests::wan::{End, Shape, Wan, Way};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use serde::{Deserialize, Serialize};

/// Name, Mbit/s, round trip in ms, loss and late packets in percent, queue in ms.
const LINKS: [(&str, f64, u64, f64, f64, u64); 7] = [
    ("100 Mbit/s 180 ms", 100.0, 180, 0.0, 0.0, 50),
    ("200 Mbit/s 180 ms 0.1%", 200.0, 180, 0.1, 0.0, 50),
    ("200 Mbit/s 180 ms 1%", 200.0, 180, 1.0, 0.0, 50),
    ("500 Mbit/s 40 ms 0.01%", 500.0, 40, 0.01, 0.0, 50),
    ("100 Mbit/s 180 ms, queue 5 ms", 100.0, 180, 0.0, 0.0, 5),
    ("100 Mbit/s 180 ms, 0.5% late", 100.0, 180, 0.0, 0.5, 50),
    ("500 Mbit/s 180 ms", 500.0, 180, 0.0, 0.0, 50),
];
/// Ways to carry the stream.
const KINDS: [&str; 6] = ["ours", "ours-plain", "tcp-cubic", "tcp-bbr", "tcp-bbr-tls", "tcp-x16"];

/// Measures transports on emulated links.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    role: Option<Role>,
    /// Seconds that count, of each connection
    #[arg(long, default_value_t = 12.0)]
    seconds: f64,
    /// How often each cell is measured; the table holds medians
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Only these ways, separated by commas
    #[arg(long)]
    only: Option<String>,
    /// Only links whose number (from 0) is in this list, separated by commas
    #[arg(long)]
    links: Option<String>,
    /// These ways at once on one link, separated by commas, instead of one after the other
    #[arg(long)]
    together: Option<String>,
    /// Show every run
    #[arg(long)]
    verbose: bool,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Receives (started by the bench itself)
    #[command(hide = true)]
    Receive { kind: String, pki: PathBuf, seconds: f64, address: SocketAddr },
    /// Sends (started by the bench itself)
    #[command(hide = true)]
    Send { kind: String, pki: PathBuf, seconds: f64, address: SocketAddr },
    /// Makes the same over loopback, without a link
    Loopback { kind: String, megabytes: u64 },
}

/// What an end has to say.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct Outcome {
    bytes: u64,
    /// Bytes after the first third of the time: the ramp left out.
    late_bytes: u64,
    /// Bytes of each hundredth of the last second.
    tail: Vec<u64>,
    /// When it began to connect, or accepted: seconds on this machine's clock, which both ends share.
    begun: f64,
    seconds: f64,
    cpu: f64,
    retransmitted: f64,
    loss: f64,
}

fn cpu() -> f64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
}

fn clock() -> f64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
}

/// What came within the first seconds since the sender began to connect; the receiver counts from when it accepted.
fn since_connect(there: &Outcome, here: &Outcome) -> u64 {
    let gap = ((there.begun - here.begun).clamp(0.0, 1.0) * 100.0).round() as usize;
    there.bytes - there.tail.iter().rev().take(gap).sum::<u64>()
}

fn options(kind: &str) -> Options {
    let congestion = if kind.contains("bbr") { "bbr" } else { "cubic" };
    // The kernel doubles what TCP asks for; 64 MiB exceed every product of rate and round trip here.
    Options { buffer: 32 << 20, congestion: Some(congestion.to_owned()), ..Options::default() }
}

fn transport(kind: &str) -> Result<Box<dyn Transport>> {
    Ok(match kind {
        "ours" | "ours-plain" => Box::new(Udt::new(options(kind))),
        k if k.starts_with("tcp") => Box::new(Tcp::new(options(kind))),
        #[cfg(feature = "udt4")]
        "udt4" => Box::new(transport::Udt4::new(options(kind))),
        other => bail!("unknown way {other}"),
    })
}

fn is_secure(kind: &str) -> bool {
    kind == "ours" || kind.ends_with("tls")
}

fn streams(kind: &str) -> usize {
    if kind.ends_with("x16") { 16 } else { 1 }
}

type Identity = (rustls::RootCertStore, Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(dir: &Path) -> Result<Identity> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(std::fs::read(dir.join("ca"))?))?;
    let cert = CertificateDer::from(std::fs::read(dir.join("cert"))?);
    let key = PrivatePkcs8KeyDer::from(std::fs::read(dir.join("key"))?);
    Ok((roots, vec![cert], key.into()))
}

fn server_config(pki: &Path) -> Result<std::sync::Arc<rustls::ServerConfig>> {
    let (roots, chain, key) = identity(pki)?;
    Ok(transport::server_config(roots, chain, key)?)
}

fn client_config(pki: &Path) -> Result<std::sync::Arc<rustls::ClientConfig>> {
    let (roots, chain, key) = identity(pki)?;
    Ok(transport::client_config(roots, chain, key)?)
}

/// A stream with or without TLS.
enum Stream {
    Plain(Box<dyn Connection>),
    Secure(Box<transport::SecureStream>),
}

impl Stream {
    fn stats(&self) -> Stats {
        match self {
            Self::Plain(c) => c.stats(),
            Self::Secure(s) => s.stats(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(c) => c.read(buf),
            Self::Secure(s) => s.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(c) => c.write(buf),
            Self::Secure(s) => s.write(buf),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(c) => c.flush(),
            Self::Secure(s) => s.flush(),
        }
    }
}

fn receive(kind: &str, pki: &Path, seconds: f64, at: SocketAddr) -> Result<Outcome> {
    let listener = transport(kind)?.listen(at)?;
    println!("port {}", listener.local().port());
    let config = server_config(pki)?;
    let mut readers = Vec::new();
    let mut begun = None;
    let mut outcome = Outcome { seconds, tail: vec![0; 100], ..Outcome::default() };
    for _ in 0..streams(kind) {
        let conn = listener.accept(Some(Duration::from_secs(20)))?.context("nobody connected")?;
        let begun = *begun.get_or_insert_with(|| {
            outcome.begun = clock();
            Instant::now()
        });
        let config = config.clone();
        let secure = is_secure(kind);
        readers.push(std::thread::spawn(move || -> Result<(u64, u64, Vec<u64>)> {
            let mut stream = if secure {
                Stream::Secure(Box::new(transport::secure_server(conn, &config)?))
            } else {
                Stream::Plain(conn)
            };
            let mut block = vec![0; 1 << 20];
            let (mut bytes, mut late, mut tail) = (0, 0, vec![0; 100]);
            loop {
                let n = stream.read(&mut block)? as u64;
                let at = begun.elapsed().as_secs_f64();
                if at >= seconds || n == 0 {
                    return Ok((bytes, late, tail));
                }
                bytes += n;
                late += if at > seconds / 3.0 { n } else { 0 };
                if at >= seconds - 1.0 {
                    tail[(((at - seconds + 1.0) * 100.0) as usize).min(99)] += n;
                }
            }
        }));
    }
    for reader in readers {
        let (bytes, late, tail) = reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??;
        outcome.bytes += bytes;
        outcome.late_bytes += late;
        outcome.tail.iter_mut().zip(tail).for_each(|(all, n)| *all += n);
    }
    outcome.cpu = cpu();
    Ok(outcome)
}

fn send(kind: &str, pki: &Path, seconds: f64, to: SocketAddr) -> Result<Outcome> {
    let transport = transport(kind)?;
    let config = client_config(pki)?;
    // Random enough that nothing could compress it.
    let block: Vec<u8> = (0..1u64 << 20).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 29) as u8).collect();
    let end = Instant::now() + Duration::from_secs_f64(seconds + 2.0);
    let mut outcome = Outcome { seconds, begun: clock(), ..Outcome::default() };
    let mut writers = Vec::new();
    for _ in 0..streams(kind) {
        let conn = transport.connect(to)?;
        let (config, block, secure) = (config.clone(), block.clone(), is_secure(kind));
        writers.push(std::thread::spawn(move || -> Result<Stats> {
            let mut stream = if secure {
                let name = ServerName::try_from("bench.rocks")?;
                Stream::Secure(Box::new(transport::secure_client(conn, &config, name)?))
            } else {
                Stream::Plain(conn)
            };
            // The receiver goes away when it has seen enough.
            while Instant::now() < end && stream.write_all(&block).is_ok() {}
            Ok(stream.stats())
        }));
    }
    for writer in writers {
        let stats = writer.join().map_err(|_| anyhow::anyhow!("a writer panicked"))??;
        outcome.retransmitted = stats.retransmitted as f64 / stats.packets.max(1) as f64;
        outcome.loss = stats.loss;
    }
    outcome.cpu = cpu();
    Ok(outcome)
}

/// The last line of a log that is an outcome.
fn outcome(log: &Path) -> Result<Outcome> {
    let text = std::fs::read_to_string(log)?;
    let line = text.lines().rev().find(|l| l.starts_with('{')).with_context(|| format!("no outcome: {text}"))?;
    Ok(serde_json::from_str(line)?)
}

/// Both ends of one connection, under way.
struct Ends {
    logs: [PathBuf; 2],
    receiver: Running,
    sender: Running,
}

impl Ends {
    /// Starts them; `at` tells those apart that share a link.
    fn start(wan: &Wan, kind: &str, dir: &Path, at: usize, seconds: f64) -> Result<Self> {
        let me = std::env::current_exe()?;
        let logs = ["receive", "send"].map(|role| dir.join(format!("{role}{at}.log")));
        for log in &logs {
            drop(std::fs::remove_file(log));
        }
        let [there, here] = &logs;
        let time = seconds.to_string();
        let start = |end, role: &str, address: String, log: &Path| {
            wan.at(end, &me).args([role, kind]).arg(dir).args([&time, &address]).start(log)
        };
        let receiver = start(End::B, "receive", format!("{}:0", Wan::address(End::B)), there)?;
        let port = wait_for("the receiver's port", Duration::from_secs(10), || {
            let text = std::fs::read_to_string(there)?;
            Ok(text.lines().find_map(|l| l.strip_prefix("port ").map(str::to_owned)))
        })?;
        let sender = start(End::A, "send", format!("{}:{port}", Wan::address(End::B)), here)?;
        Ok(Self { logs, receiver, sender })
    }

    /// What the receiver and the sender say at their end.
    fn end(mut self, seconds: f64) -> Result<(Outcome, Outcome)> {
        let limit = Duration::from_secs_f64(seconds + 20.0);
        wait_for("the receiver's end", limit, || Ok(self.receiver.ended()))?;
        wait_for("the sender's end", limit, || Ok(self.sender.ended()))?;
        let [there, here] = &self.logs;
        Ok((outcome(there)?, outcome(here)?))
    }
}

fn measure(wan: &Wan, kind: &str, dir: &Path, seconds: f64) -> Result<(Outcome, Outcome)> {
    Ends::start(wan, kind, dir, 0, seconds)?.end(seconds)
}

/// Several at once on one link: what each gets of it, the first third of the time left out.
fn together(kinds: &str, args: &Args, dir: &Path) -> Result<()> {
    for (mbit, rtt) in [(100.0, 40), (100.0, 180), (20.0, 30)] {
        let mut shape = Shape::new(mbit, Duration::from_millis(rtt));
        shape.queue = Duration::from_millis(50);
        for _ in 0..args.runs {
            let wan = Wan::new(shape)?;
            let ends: Vec<Ends> = kinds
                .split(',')
                .enumerate()
                .map(|(at, kind)| Ends::start(&wan, kind, dir, at, args.seconds))
                .collect::<Result<_>>()?;
            let mut shares = Vec::new();
            for one in ends {
                let (there, _) = one.end(args.seconds)?;
                let settled = there.late_bytes as f64 * 8.0 / (args.seconds * 2.0 / 3.0) / 1e6;
                shares.push(format!("{settled:.0}"));
            }
            println!("{mbit} Mbit/s {rtt} ms, {kinds}: {} Mbit/s", shares.join(" / "));
        }
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn bench(args: &Args) -> Result<()> {
    let dir = tempfile::tempdir()?;
    pki::make(dir.path())?;
    if let Some(kinds) = &args.together {
        return together(kinds, args, dir.path());
    }
    let mut kinds: Vec<&str> = KINDS.to_vec();
    if cfg!(feature = "udt4") {
        kinds.push("udt4");
    }
    if let Some(only) = &args.only {
        kinds = only.split(',').collect();
    }
    let chosen: Vec<usize> = match &args.links {
        Some(list) => list.split(',').map(str::parse).collect::<Result<_, _>>()?,
        None => (0..LINKS.len()).collect(),
    };
    println!(
        "Percent of the link's rate: the first {} s since the sender began to connect / since the receiver accepted / without the first third. CPU s per GB, both ends.",
        args.seconds
    );
    println!("| link | {} |\n|---|{}", kinds.join(" | "), "---|".repeat(kinds.len()));
    for at in chosen {
        let (name, mbit, rtt, loss, late, queue) = *LINKS.get(at).context("there is no such link")?;
        let mut shape = Shape::new(mbit, Duration::from_millis(rtt));
        shape.loss = loss / 100.0;
        shape.reorder = late / 100.0;
        shape.queue = Duration::from_millis(queue);
        let mut cells = vec![(Vec::new(), Vec::new(), Vec::new(), Vec::new()); kinds.len()];
        // Interleaved, so that a busy minute of this machine does not hit one of them alone.
        for _ in 0..args.runs {
            for (kind, cell) in kinds.iter().zip(&mut cells) {
                let wan = Wan::new(shape)?;
                let (there, here) = match measure(&wan, kind, dir.path(), args.seconds) {
                    Ok(both) => both,
                    Err(e) => {
                        eprintln!("{name}, {kind}: {e:#}");
                        continue;
                    }
                };
                let percent = |bytes: u64, seconds: f64| bytes as f64 * 8.0 / seconds / (mbit * 1e6) * 100.0;
                let (whole, settled) =
                    (percent(there.bytes, args.seconds), percent(there.late_bytes, args.seconds * 2.0 / 3.0));
                let first = percent(since_connect(&there, &here), args.seconds);
                let cpu = (there.cpu + here.cpu) / (there.bytes.max(1) as f64 / 1e9);
                if args.verbose {
                    let c = wan.counts(Way::There);
                    eprintln!(
                        "{name} {kind}: {first:.1} / {whole:.1} / {settled:.1} %, {cpu:.1} s/GB (sends {:.1}), again {:.2} %, loss {:.2} %, dropped {:.2} %, late {:.2} %",
                        here.cpu / (there.bytes.max(1) as f64 / 1e9),
                        here.retransmitted * 100.0,
                        here.loss * 100.0,
                        c.dropped as f64 * 100.0 / c.seen.max(1) as f64,
                        c.late as f64 * 100.0 / c.delivered.max(1) as f64
                    );
                }
                cell.0.push(first);
                cell.1.push(whole);
                cell.2.push(settled);
                cell.3.push(cpu);
            }
        }
        let cells: Vec<String> = cells
            .into_iter()
            .map(|(f, w, s, c)| format!("{:.0} / {:.0} / {:.0} ({:.1})", median(f), median(w), median(s), median(c)))
            .collect();
        println!("| {name} | {} |", cells.join(" | "));
    }
    Ok(())
}

fn loopback(kind: &str, megabytes: u64) -> Result<()> {
    let dir = tempfile::tempdir()?;
    pki::make(dir.path())?;
    let listener = transport(kind)?.listen(([127, 0, 0, 1], 0).into())?;
    let to = listener.local();
    let secure = is_secure(kind);
    let (server, client) = (server_config(dir.path())?, client_config(dir.path())?);
    let reader = std::thread::spawn(move || -> Result<u64> {
        let conn = listener.accept(Some(Duration::from_secs(10)))?.context("nobody connected")?;
        let mut stream = if secure {
            Stream::Secure(Box::new(transport::secure_server(conn, &server)?))
        } else {
            Stream::Plain(conn)
        };
        let mut block = vec![0; 1 << 20];
        let mut bytes = 0;
        loop {
            match stream.read(&mut block)? {
                0 => return Ok(bytes),
                n => bytes += n as u64,
            }
        }
    });
    let conn = transport(kind)?.connect(to)?;
    let mut stream = if secure {
        Stream::Secure(Box::new(transport::secure_client(conn, &client, ServerName::try_from("bench.rocks")?)?))
    } else {
        Stream::Plain(conn)
    };
    let block: Vec<u8> = (0..1u64 << 20).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 29) as u8).collect();
    let (begun, before) = (Instant::now(), cpu());
    for _ in 0..megabytes {
        stream.write_all(&block)?;
    }
    match &mut stream {
        Stream::Plain(c) => c.finish()?,
        Stream::Secure(s) => s.finish()?,
    }
    let bytes = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    let (seconds, used) = (begun.elapsed().as_secs_f64(), cpu() - before);
    println!(
        "{kind}: {:.0} MB/s, {:.2} CPU s per GB for both ends, {:.0} MB/s per core used; {:?}",
        bytes as f64 / 1e6 / seconds,
        used / (bytes as f64 / 1e9),
        bytes as f64 / 1e6 / used,
        stream.stats()
    );
    Ok(())
}

/// Takes the link away when a signal ends the bench; the two ends see that and end, too.
fn end_cleanly() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if let Err(e) = rocks_tests::wan::remove_own() {
                eprintln!("{e:#}");
            }
            std::process::exit(143);
        });
    });
    Ok(())
}

fn main() -> Result<()> {
    let args = Args::parse();
    let outcome = match &args.role {
        Some(Role::Receive { kind, pki, seconds, address }) => receive(kind, pki, *seconds, *address)?,
        Some(Role::Send { kind, pki, seconds, address }) => send(kind, pki, *seconds, *address)?,
        Some(Role::Loopback { kind, megabytes }) => return loopback(kind, *megabytes),
        None => {
            end_cleanly()?;
            return bench(&args);
        }
    };
    println!("{}", serde_json::to_string(&outcome)?);
    // Whatever is still under way is of no interest.
    std::process::exit(0);
}
