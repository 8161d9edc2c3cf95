//! Many agents at one frontend: what a poll, a waiting connection, an enrolment and a change cost.
//!
//! `swarm [AGENTS]` starts a frontend of its own on loopback, enrols the agents, lets them poll and wait, changes an attribute of all, and
//! prints a table. Frontend and agents share the machine, so times are upper bounds; the frontend's CPU time is its own.
#![expect(clippy::print_stdout, reason = "a table is printed")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rocks_agent::fetch::{Client, Known};
use rocks_agent::identity::{Identity, Join, enrol};
use rocks_common::ids::Generation;
use rocks_common::wire::{Facts, JoinToken};
use rocks_tests::process::{cmd, wait_for};
use serde_json::{Value, json};
use tokio::net::UnixStream;

/// Seconds of CPU that process `pid` has used, and its resident memory in KiB.
fn usage(pid: u32) -> (f64, u64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<f64> = after.split_whitespace().filter_map(|f| f.parse().ok()).collect();
    let ticks = fields.get(10).copied().unwrap_or(0.0) + fields.get(11).copied().unwrap_or(0.0);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let rss = status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    (ticks / 100.0, rss.unwrap_or(0))
}

struct Admin(hyper::client::conn::http1::SendRequest<Full<Bytes>>);

impl Admin {
    async fn connect(socket: &Path) -> Result<Self> {
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(UnixStream::connect(socket).await?)).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    async fn call(&mut self, method: &str, path: &str, body: Value) -> Result<Value> {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "x")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_string())))?;
        self.0.ready().await?;
        let response = self.0.send_request(request).await?;
        let status = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        anyhow::ensure!(status.is_success(), "{path}: {status}: {}", String::from_utf8_lossy(&bytes));
        Ok(serde_json::from_slice(&bytes)?)
    }
}

fn main() -> Result<()> {
    let agents: usize = std::env::args().nth(1).map(|text| text.parse()).transpose()?.unwrap_or(1000);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: limit.maximum, ..limit },
    )?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build()?;
    runtime.block_on(run(agents))
}

async fn run(agents: usize) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut binaries: PathBuf = std::env::current_exe()?;
    binaries.pop();
    let (server, state) = (binaries.join("rocks-server"), dir.path().join("state"));
    cmd(&server).args(["init", "--name", "127.0.0.1", "--state-dir"]).arg(&state).run()?;
    let running = cmd(&server)
        .args(["serve", "--listen", "127.0.0.1:0", "--state-dir"])
        .arg(&state)
        .env("ROCKS_LOG", "warn")
        .start(&dir.path().join("log"))?;
    let (pid, socket) = (running.pid(), state.join("run/admin.sock"));
    wait_for("the frontend", Duration::from_secs(20), || Ok(socket.exists().then_some(())))?;
    let mut admin = Admin::connect(&socket).await?;
    admin.call("POST", "/api/v1/appliances", json!({"name": "lite", "node": "lite", "membership": "Lite"})).await?;
    let graphs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../graphs").canonicalize()?;
    for roll in ["base", "vim"] {
        let body = json!({"name": roll, "path": graphs.join(roll), "enabled": true, "trusted": false});
        admin.call("POST", "/api/v1/rolls", body).await?;
    }
    let row = |what: &str, value: String| println!("{what:<58} {value:>16}");
    println!("{agents} agents, lite kickstart\n");
    let (empty_cpu, empty) = usage(pid);

    let clock = Instant::now();
    let mut joins = Vec::with_capacity(agents);
    for i in 0..agents {
        let answer =
            admin.call("POST", "/api/v1/hosts", json!({"name": format!("s-{i}"), "appliance": "lite"})).await?;
        let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
        joins.push(Join {
            frontend: text("frontend"),
            token: Some(JoinToken(text("token"))),
            identity: None,
            enrolment: None,
            ca: text("ca"),
        });
    }
    row("hosts added, a second", format!("{:.0}", agents as f64 / clock.elapsed().as_secs_f64()));
    admin.call("POST", "/api/v1/sync", json!({})).await?;

    let (before, _) = usage(pid);
    let clock = Instant::now();
    let mut identities: Vec<Identity> = Vec::with_capacity(agents);
    for (chunk_number, chunk) in joins.chunks(64).enumerate() {
        let mut tasks = Vec::new();
        for (i, join) in chunk.iter().enumerate() {
            let (join, folder) = (join.clone(), dir.path().join(format!("a{}", chunk_number * 64 + i)));
            tasks.push(tokio::spawn(
                async move { enrol(&folder, &join, Facts::default(), jiff::Timestamp::now()).await },
            ));
        }
        for task in tasks {
            identities.push(task.await??);
        }
    }
    row(
        "enrolments, a second (agents' keys and files included)",
        format!("{:.0}", agents as f64 / clock.elapsed().as_secs_f64()),
    );
    row("frontend's CPU for one enrolment", format!("{:.2} ms", (usage(pid).0 - before) * 1e3 / agents as f64));

    let mut clients: Vec<(Client, Known)> = Vec::with_capacity(agents);
    for chunk in identities.chunks(64) {
        let mut tasks = Vec::new();
        for identity in chunk {
            let known = Known {
                digest: None,
                generation: Generation(0),
                host: identity.host.clone(),
                seal_key: identity.seal_key,
            };
            let mut client = identity.client()?;
            tasks.push(tokio::spawn(async move {
                let fetched = client.kickstart(&known, 0).await?.context("a kickstart")?;
                Ok::<_, anyhow::Error>((client, Known { digest: Some(fetched.digest), ..known }))
            }));
        }
        for task in tasks {
            clients.push(task.await??);
        }
    }
    let polls = 50_usize;
    let pollers = clients.len().min(50);
    let (before, _) = usage(pid);
    for (client, known) in &mut clients[..pollers] {
        for _ in 0..polls {
            anyhow::ensure!(client.kickstart(known, 0).await?.is_none(), "the kickstart changed by itself");
        }
    }
    row(
        "frontend's CPU for one unchanged poll, kept connection",
        format!("{:.1} us", (usage(pid).0 - before) * 1e6 / (polls * pollers) as f64),
    );

    let mut tasks = Vec::with_capacity(agents);
    for (mut client, known) in clients {
        tasks.push(tokio::spawn(
            async move { client.kickstart(&known, 600).await.map(|f| (f.is_some(), Instant::now())) },
        ));
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (waiting_cpu, waiting) = usage(pid);
    row("frontend's memory, empty", format!("{} MiB", empty / 1024));
    row(
        "frontend's memory for one host that waits",
        format!("{:.1} KiB", (waiting.saturating_sub(empty)) as f64 / agents as f64),
    );
    let clock = Instant::now();
    admin
        .call(
            "PUT",
            "/api/v1/attributes",
            json!({"scope": "appliance", "owner": "lite", "name": "motd", "value": "changed"}),
        )
        .await?;
    let mut last = clock;
    for task in tasks {
        let (changed, at) = task.await??;
        anyhow::ensure!(changed, "a waiting request ended without a change");
        last = last.max(at);
    }
    row("all answered after a change", format!("{:.2} s", last.duration_since(clock).as_secs_f64()));
    row("frontend's CPU for that", format!("{:.2} s", usage(pid).0 - waiting_cpu));
    row("frontend's CPU in all", format!("{:.2} s", usage(pid).0 - empty_cpu));
    Ok(())
}
