//! What the agent costs on an instance: idle, with nothing to do, with an attribute to apply, and beside bare dnf.
//!
//! `agentbench [FOLDER]` boots a lite appliance with the binaries in FOLDER (default: those beside this program) and prints a table. Needs root.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a table is printed")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rocks_tests::faults::{Node, Roll};
use rocks_tests::turns::{good, steps};
use rocks_tests::world::{Instance, World, binaries, missing};

const HOST: &str = "lite-0-0";
const LIMIT: Duration = Duration::from_secs(120);
/// What is installed beside bare dnf.
const PACKAGES: [&str; 2] = ["vim-enhanced", "java-17-openjdk-headless"];
/// Turns and rounds of which the median is told.
const TURNS: usize = 40;
const ROUNDS: usize = 7;

fn row(what: &str, figure: String, goal: &str) {
    println!("{what:<66} {figure:>18}  {goal}");
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Seconds of CPU that all processes took that this one has started and waited for, with those that they waited for.
fn children() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<f64> = after.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    // The first field after the name is a letter: what is number 16 and 17 for proc(5) is 12 and 13 here.
    (fields.get(12).copied().unwrap_or(0.0) + fields.get(13).copied().unwrap_or(0.0)) / 100.0
}

/// A number of `/proc/PID/status` or of all threads' together.
fn field(instance: &Instance, files: &str, name: &str) -> Result<u64> {
    let script = format!("awk '/^{name}:/ {{ sum += $2 }} END {{ print sum+0 }}' {files}");
    Ok(instance.shell(&script)?.stdout.trim().parse()?)
}

fn main() -> Result<()> {
    if let Some(why) = missing() {
        anyhow::bail!("it boots an instance: {why}");
    }
    let folder = std::env::args_os().nth(1).map_or_else(binaries, |given| Ok(PathBuf::from(given)))?;
    let mut world = World::with(folder, &mut |what| eprintln!("{what}"))?;
    let roll = Roll::add(&world)?;
    let mut instance = world.instance(HOST, "lite")?;
    instance.boot()?;
    let generation = world.generation(HOST)?;
    world.wait_report(HOST, LIMIT, |r| good(r) && r["generation"].as_u64() >= Some(generation))?;

    idle(&instance)?;
    update(&world, &instance)?;
    nothing(&instance)?;
    install(&world, &instance, &roll)
}

fn idle(instance: &Instance) -> Result<()> {
    // Threads that did the first turn's work end after ten seconds without any.
    std::thread::sleep(Duration::from_secs(12));
    let pid = instance.shell("systemctl show -p MainPID --value rocks-agent")?.stdout.trim().to_owned();
    let status = format!("/proc/{pid}/status");
    for (what, name, goal) in [
        ("idle: resident memory", "VmRSS", "10 MiB"),
        ("  of it, its own (not the program's text)", "RssAnon", ""),
        ("  threads", "Threads", ""),
    ] {
        let value = field(instance, &status, name)?;
        let figure = if name == "Threads" { value.to_string() } else { format!("{:.1} MiB", value as f64 / 1024.0) };
        row(what, figure, goal);
    }
    let wakeups = || field(instance, &format!("/proc/{pid}/task/*/status"), "voluntary_ctxt_switches");
    let before = wakeups()?;
    std::thread::sleep(Duration::from_secs(20));
    row("idle: wake-ups in 20 s (the watchdog's included)", (wakeups()? - before).to_string(), "0");
    Ok(())
}

fn update(world: &World, instance: &Instance) -> Result<()> {
    let mut times = Vec::new();
    for round in 0..ROUNDS + 2 {
        // The agent waits for a change again.
        std::thread::sleep(Duration::from_millis(700));
        let (before, text) = (world.generation(HOST)?, format!("bench {round}"));
        let clock = Instant::now();
        world.rocks(&["set", "appliance", "attr", "lite", "motd", &text])?;
        loop {
            let report = world.report(HOST)?.context("a report")?;
            if report["generation"].as_u64() > Some(before) {
                ensure!(good(&report) && steps(&report).len() == 1, "{report:#}");
                break;
            }
            ensure!(clock.elapsed() < LIMIT, "no report: {}", instance.agent_log());
            std::thread::sleep(Duration::from_millis(2));
        }
        times.push(clock.elapsed().as_secs_f64() * 1e3);
        ensure!(instance.read("/etc/motd")?.contains(&text), "it was not applied");
    }
    row(
        "update-only: from `rocks set` to the report at the frontend",
        format!("{:.0} ms", median(&mut times)),
        "300 ms",
    );
    Ok(())
}

fn nothing(instance: &Instance) -> Result<()> {
    instance.shell("systemctl stop rocks-agent")?;
    // `%packages` must be looked at: nothing to do is not nothing to look for.
    let cpu = |words: &[&str]| -> Result<f64> {
        let before = children();
        for _ in 0..TURNS {
            let done = instance.exec(words)?;
            ensure!(done.code() == 0, "{words:?}: {}", done.both());
        }
        Ok((children() - before) * 1e3 / TURNS as f64)
    };
    let said = instance.converge()?;
    ensure!(said["outcome"] == "unchanged", "{said:#}");
    let begin = cpu(&["true"])?;
    let turn = cpu(&["rocks-agent", "converge"])?;
    row("nothing to do: CPU of `rocks-agent converge`, all processes", format!("{:.1} ms", turn - begin), "10 ms");
    instance.shell("rm -f /var/lib/rocks-agent/inventory.json")?;
    let before = children();
    instance.converge()?;
    row("  when rpm's database has changed since", format!("{:.0} ms", (children() - before) * 1e3 - begin), "");
    Ok(())
}

fn install(world: &World, instance: &Instance, roll: &Roll) -> Result<()> {
    let names = || -> Result<BTreeSet<String>> {
        let all = instance.shell("rpm -qa --qf '%{NAME}\\n'")?.stdout;
        Ok(all.lines().map(ToOwned::to_owned).collect())
    };
    let before = names()?;
    roll.say(world, HOST, &Node { packages: PACKAGES.map(ToOwned::to_owned).to_vec(), ..Node::default() });
    let bare = format!("dnf -y --disablerepo=* --enablerepo=rocks-* install -- {}", PACKAGES.join(" "));
    let mut brought = 0;
    let mut time = |words: &[&str]| -> Result<f64> {
        instance.shell("rm -rf /var/cache/dnf; sync")?;
        let done = instance.exec(words)?;
        ensure!(done.code() == 0, "{words:?}: {}", done.both());
        let new: Vec<String> = names()?.difference(&before).cloned().collect();
        ensure!(new.len() > PACKAGES.len(), "{words:?} installed only {new:?}: {}", done.both());
        ensure!(brought == 0 || brought == new.len(), "not the same packages: {new:?}");
        brought = new.len();
        instance.shell(&format!("rpm -e {}", new.join(" ")))?;
        Ok(done.took.as_secs_f64())
    };
    let (mut with_dnf, mut with_agent) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        for turn in [round, round + 1] {
            if turn.is_multiple_of(2) {
                with_dnf.push(time(&["sh", "-c", &bare])?);
            } else {
                with_agent.push(time(&["rocks-agent", "converge"])?);
            }
        }
    }
    let (dnf, agent) = (median(&mut with_dnf), median(&mut with_agent));
    row(&format!("install-new: bare dnf, {brought} packages, empty cache"), format!("{dnf:.2} s"), "");
    row("install-new: the agent, the same packages, empty cache", format!("{agent:.2} s"), "");
    row("  the agent beside bare dnf, medians", format!("{:+.1} %", (agent / dnf - 1.0) * 100.0), "+5 %");
    // What else the machine does only ever adds: the fastest rounds say more about the two than about it.
    let best = with_agent.first().zip(with_dnf.first()).map_or(0.0, |(agent, dnf)| (agent / dnf - 1.0) * 100.0);
    row("  the agent beside bare dnf, fastest rounds", format!("{best:+.1} %"), "");
    Ok(())
}
