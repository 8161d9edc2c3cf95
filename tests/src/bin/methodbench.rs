//! `methodbench`: the methods of provisioning side by side, on a local EC2 behind an emulated long way, as the paper's Table I and Figures 4 and 5.
//!
//! The same appliance (compute, with Java) is provisioned by each method with each number of instances; times are of the whole command,
//! until all instances have converged. Costs are what the cloud's bill says was held and asked for in that time, by the newest price book.
//! All instances share this machine's processors, which sixteen that install something keep busy; those of type `t3.nano` have a twentieth of one
//! each and no more, so that what one takes can be held against what sixteen take.
//! Packages lie in a bucket of the cloud, as with any frontend that has one. The instances of `lite` are then reconfigured: update-only (an attribute) and install-new (Vim), from the command until all have converged.
//! Needs root and binaries with AWS.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a bench that prints its table")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use rocks_advise::PriceBook;
use rocks_minicloud::config::Config;
use rocks_minicloud::{Minicloud, Options, Way};
use rocks_tests::beside::{beside, lacks, least, provision};
use rocks_tests::process::cmd;
use rocks_tests::world::World;
use serde_json::Value;

/// The methods of provisioning side by side, on a local EC2.
#[derive(Debug, Parser)]
struct Args {
    /// The way to the cloud: Mbit/s, round trip in ms, share of packets lost
    #[arg(long, default_value = "100,180,0.001", value_parser = str::parse::<Way>)]
    wan: Way,
    /// Methods, separated by commas; each may have a type of instances and counts of its own, as `lite@t3.nano:1+16`
    #[arg(long, default_value = "bundle:1+16,udt,ebs,lite,lite@t3.nano:1+16", value_delimiter = ',', value_parser = str::parse::<Series>)]
    methods: Vec<Series>,
    /// Numbers of instances, separated by commas
    #[arg(long, default_value = "1,4,16", value_delimiter = ',')]
    counts: Vec<u64>,
    /// What TCP of the frontend goes by; `cubic` is what distributions have
    #[arg(long, default_value = "cubic")]
    tcp: String,
    /// Write the picture here
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

const APPLIANCE: &str = "compute";
const KIND: &str = "t3.small";
/// The type of instances that have a share of a processor, and how much.
const SHARING: (&str, f64) = ("t3.nano", 0.05);

/// Provisions by one method, of one type of instances.
#[derive(Debug, Clone)]
struct Series {
    method: String,
    kind: String,
    /// None: those that hold for all.
    counts: Option<Vec<u64>>,
}

impl std::str::FromStr for Series {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, counts) = text.split_once(':').map_or((text, None), |(name, counts)| (name, Some(counts)));
        let (method, kind) = name.split_once('@').unwrap_or((name, KIND));
        let counts: Option<Result<Vec<u64>, _>> = counts.map(|all| all.split('+').map(str::parse).collect());
        let counts = counts.transpose().map_err(|error| format!("{text}: {error}"))?;
        Ok(Self { method: method.to_owned(), kind: kind.to_owned(), counts })
    }
}

/// What one provision took.
struct Run {
    method: String,
    kind: String,
    count: u64,
    /// Seconds of the whole command, of what makes the image, of what brings it there, and of the instances.
    whole: f64,
    phases: [f64; 3],
    wan_bytes: f64,
    dollars: f64,
    /// Seconds that this machine's processors were busy in that time, all together: its instances and all that they talk to.
    busy: f64,
    /// Seconds that were predicted beforehand, and those that the prediction is held against; nothing when too little was known.
    predicted: Option<(f64, f64)>,
    /// Seconds until all were what an attribute, and then Vim, made of them; of `lite` alone.
    reconfigured: Option<[f64; 2]>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(why) = lacks() {
        bail!("it boots instances: {why}");
    }
    let config =
        Config { copy_on_write: true, processors: [(SHARING.0.to_owned(), SHARING.1)].into(), ..Config::aws() };
    let options = Options { boot: true, way: Some(args.wan), ..least(config) };
    let cloud = Minicloud::start(options)?;
    let namespace = cloud.frontend_namespace().context("nothing boots in this cloud")?;
    let setting = format!("net.ipv4.tcp_congestion_control={}", args.tcp);
    cmd("ip").args(["netns", "exec", &namespace, "sysctl", "-qw", &setting]).run()?;
    let certificate = tempfile::NamedTempFile::new()?;
    std::fs::write(certificate.path(), cloud.identity_certificate())?;
    let certificates = format!("{}={}", cloud.config().region, certificate.path().display());
    let more = [
        ("ROCKS_SERVER_AWS_BUCKET", "rocks-methodbench"),
        ("ROCKS_SERVER_AWS_IDENTITY_CERTIFICATES", certificates.as_str()),
    ];
    let world = beside(&cloud, &more, &mut |what| eprintln!("{what}"))?;
    for (appliance, name, value) in
        [("lite", "ec2_enable", "yes"), (APPLIANCE, "ec2_enable", "yes"), (APPLIANCE, "java", "true")]
    {
        world.rocks(&["set", "appliance", "attr", appliance, name, value])?;
    }
    eprintln!("the lite image, once");
    let (lite, took) = provision(&world, &["lite", "method=ebs", "count=0"])?;
    let ami = lite["found"]["ami"].as_str().context("no image")?.to_owned();
    println!("the lite image, built, written and registered once: {:.0} s", took.as_secs_f64());
    let began = Instant::now();
    world.rocks(&["sync", "bucket"])?;
    println!("the packages, put into the bucket once: {:.0} s", began.elapsed().as_secs_f64());
    let book = PriceBook::newest(&cloud.config().region).context("no price book")?;
    let mut runs = Vec::new();
    for series in &args.methods {
        for count in series.counts.as_ref().unwrap_or(&args.counts) {
            let run = one(&cloud, &world, &book, series, *count, &ami)?;
            eprintln!("{}, {} instances ({}): {:.1} s", run.method, run.count, run.kind, run.whole);
            runs.push(run);
        }
    }
    print!("{}", table(&runs));
    if let Some(file) = &args.svg {
        std::fs::write(file, picture(&runs))?;
    }
    Ok(())
}

fn one(cloud: &Minicloud, world: &World, book: &PriceBook, series: &Series, count: u64, ami: &str) -> Result<Run> {
    let Series { method, kind, .. } = series;
    let given = match method.as_str() {
        "lite" => vec![format!("ami={ami}")],
        "udt" => vec![format!("receiver={ami}")],
        _ => Vec::new(),
    };
    let words = [format!("method={method}"), format!("count={count}"), format!("type={kind}")];
    let words: Vec<&str> = std::iter::once(APPLIANCE).chain(words.iter().chain(&given).map(String::as_str)).collect();
    let bill = || cloud.ask("GET", "bill", &Value::Null);
    let known = accuracy(world)?.len();
    let (before, idle) = (bill()?, busy()?);
    let (record, took) = provision(world, &words)?;
    let (after, busy) = (bill()?, busy()? - idle);
    let mut run = Run {
        method: method.clone(),
        kind: kind.clone(),
        count,
        whole: took.as_secs_f64(),
        phases: phases(&record)?,
        wan_bytes: difference(&before, &after, "bytes")
            .into_iter()
            .filter(|(what, _)| what.starts_with("wan "))
            .map(|(_, bytes)| bytes)
            .sum(),
        dollars: dollars(&before, &after, book)?,
        busy,
        predicted: accuracy(world)?.get(known).copied(),
        reconfigured: None,
    };
    if method == "lite" {
        run.reconfigured = Some(reconfigure(world)?);
    }
    // The next one has the cloud, and the machine, for itself.
    world.rocks(&["cancel", "provision", record["name"].as_str().context("no name")?, "--yes"])?;
    std::thread::sleep(Duration::from_secs(5));
    Ok(run)
}

/// Seconds that all instances take to become what an attribute, and then Vim, makes of them.
fn reconfigure(world: &World) -> Result<[f64; 2]> {
    let mut took = [0.0; 2];
    let round = jiff::Timestamp::now().to_string();
    for (seconds, (name, value)) in took.iter_mut().zip([("motd", round.as_str()), ("vim", "true")]) {
        let began = Instant::now();
        world.rocks(&["set", "appliance", "attr", APPLIANCE, name, value])?;
        world.rocks(&["wait", "host", &format!("{APPLIANCE}-*"), "timeout=600"])?;
        *seconds = began.elapsed().as_secs_f64();
    }
    world.rocks(&["set", "appliance", "attr", APPLIANCE, "vim", "false"])?;
    Ok(took)
}

/// What was predicted so far, and what it took.
fn accuracy(world: &World) -> Result<Vec<(f64, f64)>> {
    let advice = world.rocks(&["-o", "json", "advise", "provision", APPLIANCE, "image-bytes=1GiB"])?;
    let advice: Value = serde_json::from_str(&advice)?;
    let all = advice["accuracy"].as_array().into_iter().flatten();
    Ok(all.filter_map(|one| Some((one["predicted"].as_f64()?, one["took"].as_f64()?))).collect())
}

/// By how much each number in a part of the bill has grown.
fn difference(before: &Value, after: &Value, part: &str) -> BTreeMap<String, f64> {
    let old = |name: &str| before[part][name].as_f64().unwrap_or(0.0);
    let all = after[part].as_object().into_iter().flatten();
    all.filter_map(|(name, value)| Some((name.clone(), value.as_f64()? - old(name)))).collect()
}

/// Seconds of the build, of what follows until there is an image to launch, and of the instances. What happens at the same time counts once.
fn phases(record: &Value) -> Result<[f64; 3]> {
    let mut spans: [Option<(f64, f64)>; 3] = [None; 3];
    for step in record["steps"].as_array().context("no steps")? {
        let when = |name: &str| -> Option<f64> {
            let at: jiff::Timestamp = step[name].as_str()?.parse().ok()?;
            Some(at.as_duration().as_secs_f64())
        };
        let (Some(began), Some(ended)) = (when("began"), when("ended")) else { continue };
        let place = match step["step"].as_str().unwrap_or_default() {
            "build" => 0,
            "launch" | "converge" => 2,
            _ => 1,
        };
        let span = spans[place].get_or_insert((began, ended));
        *span = (span.0.min(began), span.1.max(ended));
    }
    Ok(spans.map(|span| span.map_or(0.0, |(began, ended)| ended - began)))
}

/// Seconds that all processors together have worked since this machine started.
fn busy() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let fields = text.lines().next().context("no processors")?.split_whitespace().skip(1);
    let ticks: Vec<f64> = fields.map(str::parse).collect::<Result<_, _>>()?;
    // User, nice, system; idle and waiting for disks are left out; interrupts.
    let worked: f64 = [0, 1, 2, 5, 6].iter().filter_map(|nth| ticks.get(*nth)).sum();
    Ok(worked / rustix::param::clock_ticks_per_second() as f64)
}

/// What was held and asked for in that time, in dollars.
fn dollars(before: &Value, after: &Value, book: &PriceBook) -> Result<f64> {
    let month = book.month.seconds();
    let mut sum = 0.0;
    for (what, amount) in difference(before, after, "totals") {
        let kind = what.split(' ').nth(1).unwrap_or_default();
        sum += match what.split(' ').next() {
            Some("instance") => {
                let price = book.instances.get(kind).with_context(|| format!("no price of {kind}"))?;
                price.hour.dollars() * amount / 3600.0
            }
            Some("volume") => book.volume.gb_month.dollars() * amount / month,
            Some("snapshot") => book.snapshot.gb_month.dollars() * amount / month,
            Some("object" | "upload") => book.s3.gb_month.dollars() * amount / f64::from(1 << 30) / month,
            // In use, an address costs what it costs with any method.
            _ => 0.0,
        };
    }
    for (what, count) in difference(before, after, "requests") {
        let thousand = match what.as_str() {
            "ebs:PutSnapshotBlock" => book.ebs_direct.map_or(0.0, |direct| direct.put_thousand.dollars()),
            "s3:PutObject" | "s3:CreateMultipartUpload" | "s3:UploadPart" | "s3:CompleteMultipartUpload" => {
                book.s3.put_thousand.dollars()
            }
            "s3:GetObject" => book.s3.get_thousand.dollars(),
            _ => 0.0,
        };
        sum += thousand * count / 1000.0;
    }
    Ok(sum)
}

fn table(runs: &[Run]) -> String {
    let mut out = String::from(
        "| method | instances | type | time | predicted | build | bring | launch and converge | WAN | cost until converged | processors |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let processors = std::thread::available_parallelism().map_or(1.0, |count| count.get() as f64);
    for run in runs {
        let [build, bring, launch] = run.phases;
        let predicted = run.predicted.map_or("-".to_owned(), |(predicted, took)| {
            format!("{predicted:.1} s ({:+.0} %)", (predicted / took - 1.0) * 100.0)
        });
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | {:.1} s | {predicted} | {build:.1} s | {bring:.1} s | {launch:.1} s | {:.1} MB | {:.4} $ | {:.0} s, {:.0} % |",
            run.method,
            run.count,
            run.kind,
            run.whole,
            run.wan_bytes / 1e6,
            run.dollars,
            run.busy,
            run.busy / (processors * run.whole) * 100.0
        );
    }
    if runs.iter().any(|run| run.reconfigured.is_some()) {
        out.push_str("\n| instances | type | update-only: an attribute | install-new: Vim |\n|---|---|---|---|\n");
    }
    for run in runs {
        let Some([update, install]) = run.reconfigured else { continue };
        let _ = writeln!(out, "| {} | {} | {update:.2} s | {install:.1} s |", run.count, run.kind);
    }
    out.push('\n');
    let find = |method: &str, kind: &str, count: u64| {
        runs.iter().find(|run| run.method == method && run.kind == kind && run.count == count)
    };
    for run in runs.iter().filter(|run| run.method != "bundle" && run.kind == KIND) {
        if let Some(standard) = find("bundle", KIND, run.count) {
            let less = (1.0 - run.whole / standard.whole) * 100.0;
            let _ = writeln!(out, "`{}`, {} instances: {less:.0} % less time than `bundle`", run.method, run.count);
        }
    }
    for kind in [KIND, SHARING.0] {
        if let (Some(one), Some(many)) = (find("lite", kind, 1), find("lite", kind, 16)) {
            let more = (many.whole / one.whole - 1.0) * 100.0;
            let _ = writeln!(out, "`lite` on {kind}: 16 instances take {more:+.0} % more time than one");
        }
    }
    out
}

/// A figure of a run.
type Figure = fn(&Run) -> f64;

/// Two panels, time and cost, a line for each method against the number of instances.
fn picture(runs: &[Run]) -> String {
    const LOOKS: [(&str, &str, &str); 4] = [
        ("bundle", "#9a3412", "9 4"),
        ("udt", "#0b62a8", "none"),
        ("ebs", "#8a3ffc", "2 3"),
        ("lite", "#116b3c", "6 3 1.5 3"),
    ];
    const EDGES: (f64, f64) = (90.0, 330.0);
    let most = runs.iter().map(|run| run.count).max().unwrap_or(1).max(2) as f64;
    let mut out = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"960\" height=\"390\" viewBox=\"0 0 960 390\" role=\"img\" aria-label=\"Measured time and cost by method\">\n\
         <style>text{font:12px system-ui,'DejaVu Sans',sans-serif;fill:#1b1f24}.faint{fill:#57606a}.grid{stroke:#d8dee4}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n<text x=\"24\" y=\"30\" style=\"font-size:16px;font-weight:600\">Provisioning on the local EC2, measured</text>\n",
    );
    let panels: [(f64, &str, Figure); 2] =
        [(64.0, "Seconds until all have converged", |run| run.whole), (544.0, "US$ until then", |run| run.dollars)];
    for (left, title, value) in panels {
        let right = left + 330.0;
        let top = runs.iter().map(value).fold(0.0, f64::max) * 1.05;
        let x = |count: u64| left + (count as f64 - 1.0) / (most - 1.0) * (right - left);
        let y = |amount: f64| EDGES.1 - amount / top.max(f64::MIN_POSITIVE) * (EDGES.1 - EDGES.0);
        let _ = writeln!(out, "<text x=\"{left}\" y=\"70\" style=\"font-weight:600\">{title}</text>");
        for part in 0..=4 {
            let amount = top * f64::from(part) / 4.0;
            let (at, text) = (y(amount), if top > 10.0 { format!("{amount:.0}") } else { format!("{amount:.3}") });
            let _ = writeln!(
                out,
                "<line class=\"grid\" x1=\"{left}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text class=\"faint\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
                left - 6.0,
                at + 4.0
            );
        }
        for (method, colour, dash) in LOOKS {
            let mut points: Vec<(f64, f64)> = runs
                .iter()
                .filter(|run| run.method == method && run.kind == KIND)
                .map(|run| (x(run.count), y(value(run))))
                .collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            let Some((_, last)) = points.last() else { continue };
            let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let _ = writeln!(
                out,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\" stroke-dasharray=\"{dash}\"/><text x=\"{:.1}\" y=\"{:.1}\" style=\"fill:{colour}\">{method}</text>",
                path.join(" "),
                right + 8.0,
                last + 4.0
            );
            for (x, y) in points {
                let _ = writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>");
            }
        }
        let mut counts: Vec<u64> = runs.iter().map(|run| run.count).collect();
        counts.sort_unstable();
        counts.dedup();
        for count in counts {
            let _ = writeln!(
                out,
                "<text class=\"faint\" x=\"{:.1}\" y=\"350\" text-anchor=\"middle\">{count}</text>",
                x(count)
            );
        }
        let _ = writeln!(
            out,
            "<text class=\"faint\" x=\"{:.1}\" y=\"370\" text-anchor=\"middle\">instances</text>",
            f64::midpoint(left, right)
        );
    }
    out + "</svg>\n"
}
