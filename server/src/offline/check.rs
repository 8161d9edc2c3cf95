//! `rocks-server check`: everything that is wrong with rolls.

use std::path::PathBuf;

use rocks_common::attr::{Attributes, Scope};
use rocks_common::check;
use rocks_common::diag::{Diagnostic, Diagnostics};
use rocks_common::ids::AttrName;
use rocks_common::roll::{self, LoadOptions};
use serde_json::json;

use crate::output::{Exit, Output};

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// With lines and carets
    Human,
    /// One object
    Json,
}

/// Report everything that is wrong with rolls.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The rolls' folders
    #[arg(value_name = "ROLL", required = true)]
    rolls: Vec<PathBuf>,
    /// A folder of site nodes
    #[arg(long, value_name = "DIR")]
    site: Option<PathBuf>,
    /// A node that an appliance begins at; none: every node that nothing includes
    #[arg(long, value_name = "NODE")]
    root: Vec<String>,
    /// An attribute that hosts will have
    #[arg(long = "attr", value_name = "K=V", value_parser = super::attribute)]
    attributes: Vec<(AttrName, String)>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Human)]
    output: Format,
}

/// Runs the command.
pub fn run(args: &Args, output: &mut Output<'_>) -> Exit {
    let options = LoadOptions { site: args.site.clone(), ..LoadOptions::default() };
    let (rolls, mut problems) = roll::load(&args.rolls, &options);
    let mut attributes = Attributes::new();
    for (name, value) in &args.attributes {
        attributes.set(Scope::Global, name.clone(), value.as_str());
    }
    let known: Vec<String> = problems.iter().map(ToString::to_string).collect();
    for problem in check::check(&rolls, &attributes, &args.root) {
        if !known.contains(&problem.to_string()) {
            problems.push(problem);
        }
    }
    let written = match args.output {
        Format::Human => {
            let errors = problems.error_count();
            let others = problems.iter().count().saturating_sub(errors);
            output.data(&problems.render()).map(|()| {
                output.message(&format!("{} rolls: {errors} errors, {others} warnings and notes\n", rolls.rolls.len()));
            })
        }
        Format::Json => output.data(&(json_of(&problems).to_string() + "\n")),
    };
    match written {
        Ok(()) if problems.has_errors() => Exit::Failed,
        Ok(()) => Exit::Ok,
        Err(_) => Exit::Failed,
    }
}

fn json_of(problems: &Diagnostics) -> serde_json::Value {
    let one = |d: &Diagnostic| {
        let place = d.place.as_ref().map(|place| {
            let position = place.position();
            json!({"file": place.source().name(), "line": position.line, "column": position.column})
        });
        json!({"code": d.code, "severity": d.severity, "message": d.message, "place": place, "hint": d.hint})
    };
    json!({"api_version": "rocks/v1", "errors": problems.error_count(), "diagnostics": problems.iter().map(one).collect::<Vec<_>>()})
}
