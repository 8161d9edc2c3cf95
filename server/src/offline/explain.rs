//! `rocks-server explain`: how something came to be in a profile.

use rocks_common::explain;
use serde::Serialize;

use super::Host;
use crate::output::{Exit, Output};

/// Say how a package, node, section or attribute came to be in a profile.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub struct Args {
    #[command(flatten)]
    host: Host,
    /// A package (with @ in front: a group)
    #[arg(long, value_name = "NAME", group = "what")]
    package: Option<String>,
    /// A node
    #[arg(long, value_name = "NAME", group = "what")]
    node: Option<String>,
    /// The sections of a node, or one of them: NODE#2
    #[arg(long, value_name = "NODE[#N]", group = "what")]
    section: Option<String>,
    /// An attribute
    #[arg(long, value_name = "NAME", group = "what")]
    attribute: Option<String>,
    /// Print JSON
    #[arg(short, long, value_parser = ["human", "json"], default_value = "human")]
    output: String,
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
    let (rolls, profile, attributes) = (&made.rolls, &made.profile, &made.attributes);
    let json = args.output == "json";
    let (text, there) = if let Some(name) = &args.node {
        match explain::node(rolls, profile, attributes, name) {
            Some(reason) => (render(json, &reason, explain::NodeReason::render), true),
            None => (format!("no graph file mentions node {name}\n"), false),
        }
    } else if let Some(name) = &args.attribute {
        let value = explain::attribute(profile, attributes, name);
        (render(json, &value, explain::AttributeValue::render_all), value.value.is_some() || value.read)
    } else {
        let (what, found) = match (&args.package, &args.section) {
            (Some(name), _) => (name, explain::package(rolls, profile, attributes, name)),
            (None, Some(name)) => (name, explain::section(rolls, profile, attributes, name)),
            (None, None) => return Exit::Usage,
        };
        let there = !found.is_empty();
        let human = |found: &Vec<explain::Found>| {
            if found.is_empty() {
                format!("{what} is not in the profile\n")
            } else {
                found.iter().map(explain::Found::render).collect()
            }
        };
        (render(json, &found, human), there)
    };
    match output.data(&text) {
        Ok(()) if there => Exit::Ok,
        Ok(()) => Exit::NoSuchObject,
        Err(_) => Exit::Failed,
    }
}

fn render<T: Serialize>(json: bool, value: &T, human: impl Fn(&T) -> String) -> String {
    if json { serde_json::to_string_pretty(value).map(|text| text + "\n").unwrap_or_default() } else { human(value) }
}
