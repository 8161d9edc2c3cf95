//! `rocks-server profile`: renders a profile with no store and no server.

use rocks_common::draw;
use rocks_common::generate;
use serde::Serialize;

use super::Host;
use crate::output::{Exit, Output};

/// What to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// The kickstart
    Kickstart,
    /// The nodes in order, one a line
    Order,
    /// The lines of %packages
    Packages,
    /// Everything, with where it comes from
    Json,
    /// The graph for Graphviz: what was taken, what a condition left out
    Dot,
    /// The graph as a picture
    Svg,
}

/// Render a profile offline.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    host: Host,
    /// What to print
    #[arg(short = 'o', long, alias = "output", value_enum, default_value_t = Format::Kickstart)]
    format: Format,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
struct Json<'p> {
    api_version: &'static str,
    dialect: rocks_common::dialect::Dialect,
    root: &'p str,
    order: Vec<&'p str>,
    nodes: &'p [rocks_common::profile::ProfileNode],
    main: &'p [rocks_common::profile::MainCommand],
    package_lines: Vec<String>,
    packages: &'p [rocks_common::profile::Package],
    sections: &'p [rocks_common::profile::Section],
    attributes_read: Vec<&'p str>,
}

/// Runs the command.
pub fn run(args: &Args, output: &mut Output<'_>) -> Exit {
    let made = match args.host.make() {
        Ok(made) => made,
        Err(problems) => {
            output.message(&problems.render());
            return Exit::Failed;
        }
    };
    let profile = &made.profile;
    let lines = |lines: Vec<String>| lines.into_iter().map(|line| line + "\n").collect::<String>();
    let text = match args.format {
        Format::Kickstart => match generate::kickstart(profile) {
            Ok(text) => text,
            Err(problems) => {
                output.message(&problems.render());
                return Exit::Failed;
            }
        },
        Format::Order => lines(profile.order().map(ToOwned::to_owned).collect()),
        Format::Packages => lines(profile.package_lines()),
        Format::Json => {
            let json = Json {
                api_version: "rocks/v1",
                dialect: profile.dialect,
                root: &profile.root,
                order: profile.order().collect(),
                nodes: &profile.nodes,
                main: &profile.main,
                package_lines: profile.package_lines(),
                packages: &profile.packages,
                sections: &profile.sections,
                attributes_read: profile.reads.iter().map(|name| &**name).collect(),
            };
            match serde_json::to_string_pretty(&json) {
                Ok(text) => text + "\n",
                Err(error) => {
                    output.message(&format!("error: {error}\n"));
                    return Exit::Failed;
                }
            }
        }
        Format::Dot => draw::dot(&made.rolls, profile),
        Format::Svg => draw::svg(&made.rolls, profile),
    };
    if output.data(&text).is_ok() { Exit::Ok } else { Exit::Failed }
}
