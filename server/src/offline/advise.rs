//! `rocks-server advise`: which method takes how long, what it costs, and which to choose. It needs no frontend and no AWS.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use clap::builder::TypedValueParser as _;
use rocks_advise::{
    Ask, Bytes, History, Image, PackageSource, Prefer, PriceBook, Rate, Site, Software, Span, Task, advise, output,
    paper,
};
use serde_json::json;

use crate::output::{Exit, Output, chain};

/// Say which method to take, how long it will take and what it will cost.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    task: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// From an appliance to running instances
    #[command(
        after_help = "Example:\n  rocks-server advise provision --image-bytes 1.5GiB --packages-bytes 300MiB --count 16 --link 100Mbit/s --rtt 180ms --loss 0.1%\n  rocks-server advise provision --paper"
    )]
    Provision(Box<Provision>),
    /// From running instances to ones with another configuration
    #[command(
        after_help = "Example:\n  rocks-server advise reconfigure --image-bytes 1.5GiB --packages-bytes 60MiB --count 16"
    )]
    Reconfigure(Box<Question>),
}

#[derive(Debug, clap::Args)]
struct Provision {
    #[command(flatten)]
    question: Question,
    /// Also ship this lite image first: none is in the cloud yet (what of it is in use)
    #[arg(long, value_name = "SIZE")]
    lite_bytes: Option<Bytes>,
    /// Hold the model against the paper's tables instead
    #[arg(long)]
    paper: bool,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people
    Table,
    /// One object
    Json,
    /// Time and cost against the number of instances, drawn
    Svg,
}

/// Where packages come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Source {
    /// Each instance fetches them from the frontend
    Frontend,
    /// They are published in the region first
    Region,
    /// They are in the region
    Published,
}

#[derive(Debug, clap::Args)]
struct Question {
    /// What of the appliance's image is in use, as in 1.5GiB
    #[arg(long, value_name = "SIZE", alias = "appliance-size")]
    image_bytes: Option<Bytes>,
    /// The size of its disk (default: twice what is in use)
    #[arg(long, value_name = "SIZE")]
    disk_bytes: Option<Bytes>,
    /// What is in use, compressed (default: a third)
    #[arg(long, value_name = "SIZE")]
    packed_bytes: Option<Bytes>,
    /// What of it differs from an image that is in the cloud
    #[arg(long, value_name = "SIZE")]
    changed_bytes: Option<Bytes>,
    /// Build the image first, of so many packages
    #[arg(long, value_name = "N")]
    build_packages: Option<u64>,
    /// The packages that a lite or running instance lacks, as they are fetched
    #[arg(long, value_name = "SIZE", default_value = "0")]
    packages_bytes: Bytes,
    /// How many they are (default: one for each MB)
    #[arg(long, value_name = "N")]
    packages: Option<u64>,
    /// Where instances get them from
    #[arg(long, value_enum, default_value_t = Source::Region)]
    package_source: Source,
    /// What post-install scripts take in an instance
    #[arg(long, value_name = "TIME", default_value = "0s")]
    scripts: Span,
    /// How many instances
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    count: u64,
    /// The region; prices of it are shipped, or given by --prices
    #[arg(long, value_name = "NAME", default_value = "us-east-1")]
    region: String,
    /// The instances' type
    #[arg(long = "type", value_name = "TYPE", default_value = "m7i.large")]
    instance: String,
    /// The receiver's type
    #[arg(long, value_name = "TYPE", default_value = "t3.medium")]
    receiver: String,
    /// The link's rate towards the cloud (default: 100Mbit/s)
    #[arg(long, value_name = "RATE")]
    link: Option<Rate>,
    /// Its round trip (default: 100ms)
    #[arg(long, value_name = "TIME")]
    rtt: Option<Span>,
    /// The share of packets that it loses, as in 0.1% or 0.001 (default: 0.01%)
    #[arg(long, value_name = "SHARE", value_parser = share)]
    loss: Option<f64>,
    /// What counts
    #[arg(long, default_value = "balance", value_parser = clap::builder::PossibleValuesParser::new(["time", "cost", "balance"]).try_map(|word| word.parse::<Prefer>()))]
    prefer: Prefer,
    /// How long the instances are paid for
    #[arg(long, value_name = "TIME", default_value = "24h")]
    period: Span,
    /// How long volumes, snapshots and objects are paid for (default: the period)
    #[arg(long, value_name = "TIME")]
    keep: Option<Span>,
    /// A price book: a file, or the name of a shipped one
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,
    /// What earlier provisions took (JSON)
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

fn share(text: &str) -> Result<f64, String> {
    let (number, unit) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
    let share = number.trim().parse::<f64>().map_err(|error| error.to_string())? / unit;
    if (0.0..=0.5).contains(&share) { Ok(share) } else { Err("a share of packets is between 0 and 50%".to_owned()) }
}

/// Runs the command.
pub fn run(args: &Args, output: &mut Output<'_>) -> Exit {
    let (question, paper) = match &args.task {
        Command::Provision(provision) => (&provision.question, provision.paper),
        Command::Reconfigure(question) => (&**question, false),
    };
    // Two commands share the question, and one of them can do without: the parser cannot say that.
    if question.image_bytes.is_none() && !paper {
        let message = "the following required argument was not provided: --image-bytes <SIZE>";
        let error = crate::cli::command().error(clap::error::ErrorKind::MissingRequiredArgument, message);
        return crate::cli::usage(&error, output);
    }
    let made = match &args.task {
        Command::Provision(provision) if provision.paper => in_paper(provision.question.output),
        Command::Provision(provision) => answer(&provision.question, Task::Provision, provision.lite_bytes),
        Command::Reconfigure(question) => answer(question, Task::Reconfigure, None),
    };
    match made {
        Ok(text) if output.data(&text).is_ok() => Exit::Ok,
        Ok(_) => Exit::Failed,
        Err(error) => {
            output.message(&format!("error: {}\n", chain(&error)));
            Exit::Failed
        }
    }
}

fn answer(question: &Question, task: Task, lite: Option<Bytes>) -> anyhow::Result<String> {
    let book = prices(question)?;
    let history = question.history.as_deref().map(read_history).transpose()?.unwrap_or_default();
    let (ask, site) = (question.ask(task, lite), question.site());
    Ok(match question.output {
        Format::Table => output::table::table(&advise(&ask, &site, &book, &history)?),
        Format::Json => output::json(&advise(&ask, &site, &book, &history)?)?,
        Format::Svg => output::svg::svg(&ask, &site, &book, &history)?,
    })
}

fn in_paper(format: Format) -> anyhow::Result<String> {
    let book =
        PriceBook::shipped(paper::PRICES).ok_or_else(|| anyhow::anyhow!("the paper's prices are not shipped"))?;
    let site = Site::paper();
    // The figures draw the compute appliance.
    let ask = paper::ROWS[1].ask();
    let cells = paper::cells(&site, &book)?;
    Ok(match format {
        Format::Table => paper::render(&cells),
        Format::Svg => output::svg::svg(&ask, &site, &book, &History::default())?,
        Format::Json => {
            let one = |cell: &paper::Cell| {
                json!({
                    "row": cell.row.name, "method": cell.method, "cost_holds": cell.row.cost_holds,
                    "paper": {"time": cell.time.0, "cost": cell.cost.0}, "model": {"time": cell.time.1, "cost": cell.cost.1},
                    "time_residual_percent": cell.time_residual(), "cost_residual_percent": cell.cost_residual(),
                })
            };
            let all: Vec<_> = cells.iter().map(one).collect();
            serde_json::to_string_pretty(&json!({"api_version": "rocks/v1", "cells": all}))? + "\n"
        }
    })
}

fn prices(question: &Question) -> anyhow::Result<PriceBook> {
    let Some(path) = &question.prices else {
        return PriceBook::newest(&question.region).ok_or_else(|| {
            let shipped: Vec<_> = PriceBook::shipped_names().collect();
            anyhow::anyhow!(
                "no prices of region `{}` are shipped\nhint: write a price book and say --prices FILE; shipped: {}",
                question.region,
                shipped.join(", ")
            )
        });
    };
    let name = path.display().to_string();
    match PriceBook::shipped(&name) {
        Some(book) => Ok(book),
        None => Ok(PriceBook::parse(&name, &read(path)?)?),
    }
}

fn read_history(path: &Path) -> anyhow::Result<History> {
    serde_json::from_str(&read(path)?).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))
}

impl Question {
    fn ask(&self, task: Task, lite: Option<Bytes>) -> Ask {
        let mut image = Image::of(self.image_bytes.unwrap_or_default());
        image.disk = self.disk_bytes.unwrap_or(image.disk);
        image.packed = self.packed_bytes.unwrap_or(image.packed);
        image.build = self.build_packages;
        if let Some(changed) = self.changed_bytes {
            let ratio = image.packed.as_f64() / image.used.as_f64().max(1.0);
            image.changed = Some((changed, changed.scaled(ratio)));
        }
        let packages = self.packages.unwrap_or(self.packages_bytes.0.div_ceil(1_000_000));
        Ask {
            task,
            image,
            lite: lite.map(Image::of),
            added: Software::of(packages, self.packages_bytes),
            scripts: self.scripts,
            count: self.count,
            instance: self.instance.clone(),
            receiver: self.receiver.clone(),
            run: self.period,
            keep: self.keep.unwrap_or(self.period),
            prefer: self.prefer,
        }
    }

    fn site(&self) -> Site {
        let mut site = Site::default();
        site.link.rate = self.link.unwrap_or(site.link.rate);
        site.link.rtt = self.rtt.unwrap_or(site.link.rtt);
        site.link.loss = self.loss.unwrap_or(site.link.loss);
        site.packages = match self.package_source {
            Source::Frontend => PackageSource::Frontend,
            Source::Region => PackageSource::Region,
            Source::Published => PackageSource::Published,
        };
        site
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(args: &[&str]) -> (Exit, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let words = ["rocks-server", "advise"].iter().chain(args).map(Into::into);
        let exit = crate::cli::main(words, &mut Output { out: &mut out, err: &mut err });
        (exit, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn it_answers_without_a_frontend() {
        let (exit, out, err) =
            run(&["provision", "--image-bytes", "1.5GiB", "--packages-bytes", "300MiB", "--count", "16"]);
        assert_eq!((exit, err.as_str()), (Exit::Ok, ""));
        for word in ["METHOD", "bundle", "udt", "lite", "ebs", "CHOICE by balance", "boot instances", "receiver"] {
            assert!(out.contains(word), "{word}: {out}");
        }
        let (exit, out, _) = run(&["reconfigure", "--image-bytes", "1GiB", "--output", "json"]);
        let json: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!((exit, json["choice"].as_str()), (Exit::Ok, Some("converge")));
        assert!(run(&["provision", "--paper"]).1.contains("| development server"));
        assert!(run(&["provision", "--paper", "--output", "svg"]).1.starts_with("<svg"));
        assert!(run(&["provision", "--paper", "--output", "json"]).1.contains("time_residual_percent"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(run(&["provision"]).0, Exit::Usage);
        assert_eq!(run(&["provision", "--image-bytes", "2 stones"]).0, Exit::Usage);
        assert_eq!(run(&["provision", "--image-bytes", "1GiB", "--loss", "80%"]).0, Exit::Usage);
        let (exit, _, err) = run(&["provision", "--image-bytes", "1GiB", "--type", "x9.huge"]);
        assert!(exit == Exit::Failed && err.contains("no instance type `x9.huge`; there are c7i.2xlarge"), "{err}");
        let (exit, _, err) = run(&["provision", "--image-bytes", "1GiB", "--region", "moon-1"]);
        assert!(exit == Exit::Failed && err.contains("hint: write a price book"), "{err}");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("prices.toml");
        std::fs::write(&file, "provider = \"aws\"\nregion = 7\n").unwrap();
        let (_, _, err) = run(&["provision", "--image-bytes", "1GiB", "--prices", file.to_str().unwrap()]);
        assert!(err.contains("prices.toml:2:10: "), "{err}");
        std::fs::write(&file, "{\"runs\": [{}]}").unwrap();
        let (_, _, err) = run(&["provision", "--image-bytes", "1GiB", "--history", file.to_str().unwrap()]);
        assert!(err.contains("prices.toml: missing field `at` at line 1"), "{err}");
    }
}
