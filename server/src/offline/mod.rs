//! Tools that need rolls, or not even those: no store, no daemon.

pub mod advise;
pub mod bundle;
pub mod check;
pub mod explain;
pub mod profile;

use std::collections::BTreeMap;
use std::path::PathBuf;

use rocks_common::attr::{Attributes, Scope};
use rocks_common::diag::{Diagnostic, Diagnostics};
use rocks_common::dialect::Dialect;
use rocks_common::ids::AttrName;
use rocks_common::node::Eval;
use rocks_common::profile::{Profile, Request};
use rocks_common::roll::{LoadOptions, RollSet};
use rocks_common::{profile as make, roll};

use clap::builder::TypedValueParser as _;

use crate::eval::{Confinement, Policy, Runner};

/// What `<eval>` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum EvalMode {
    /// Run the code
    Run,
    /// Put a line with the code's digest in its place
    Stub,
    /// Leave the code as text
    No,
}

/// Which rolls, for which host.
#[derive(Debug, Clone, clap::Args)]
pub struct Host {
    /// A roll's folder; may be given several times
    #[arg(long = "roll", value_name = "DIR", required = true, num_args = 1..)]
    rolls: Vec<PathBuf>,
    /// The node to begin at
    #[arg(long, value_name = "NODE")]
    root: String,
    /// The host's architecture
    #[arg(long, value_name = "A", default_value = "x86_64")]
    arch: String,
    /// The host's operating system
    #[arg(long, value_name = "O", default_value = "linux")]
    os: String,
    /// The distribution's release
    #[arg(long, value_name = "R")]
    release: Option<String>,
    /// An attribute of the host
    #[arg(long = "attr", value_name = "K=V", value_parser = attribute)]
    attributes: Vec<(AttrName, String)>,
    /// A JSON object of attributes
    #[arg(long = "attrs", value_name = "FILE.json")]
    attribute_file: Option<PathBuf>,
    /// A folder of site nodes
    #[arg(long, value_name = "DIR")]
    site: Option<PathBuf>,
    /// Only the nodes of this roll
    #[arg(long = "only-roll", value_name = "NAME", value_delimiter = ',')]
    only_rolls: Vec<String>,
    /// Whose rules
    #[arg(long, default_value_t = Dialect::Modern, value_parser = clap::builder::PossibleValuesParser::new(["modern", "rocks7", "rocks61"]).try_map(|d| d.parse::<Dialect>()))]
    dialect: Dialect,
    /// What to do with code in rolls
    #[arg(long, value_enum, default_value_t = EvalMode::Stub)]
    eval: EvalMode,
}

fn attribute(text: &str) -> Result<(AttrName, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.parse().map_err(|error: rocks_common::ids::InvalidName| error.to_string())?, value.to_owned()))
}

/// What is asked for, made.
struct Made {
    rolls: RollSet,
    attributes: Attributes,
    profile: Profile,
}

impl Host {
    fn make(&self) -> Result<Made, Diagnostics> {
        let fail = |code, message: String| Diagnostics::from_iter([Diagnostic::error(code, message)]);
        let mut attributes = Attributes::new();
        if let Some(path) = &self.attribute_file {
            let text = std::fs::read_to_string(path)
                .map_err(|error| fail("unreadable", format!("{}: {error}", path.display())))?;
            let values: BTreeMap<AttrName, serde_json::Value> = serde_json::from_str(&text)
                .map_err(|error| fail("bad-attributes", format!("{}: {error}", path.display())))?;
            for (name, value) in values {
                // A number or a truth value in JSON is the text that it is written as.
                let text = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
                attributes.set(Scope::Host, name, text);
            }
        }
        for (name, value) in &self.attributes {
            attributes.set(Scope::Host, name.clone(), value.as_str());
        }
        make::set_host(&mut attributes, self.dialect, &self.root, &self.arch, &self.os, self.release.as_deref());
        let options = LoadOptions { dialect: self.dialect, site: self.site.clone(), ..LoadOptions::default() };
        let options = LoadOptions { graph: attributes.get("graph").unwrap_or(&options.graph).to_owned(), ..options };
        let (rolls, problems) = roll::load(&self.rolls, &options);
        if problems.has_errors() {
            return Err(problems);
        }
        rolls.complete(&mut attributes);
        let runner;
        let eval = match self.eval {
            EvalMode::No => Eval::No,
            EvalMode::Stub => Eval::Stub,
            EvalMode::Run => {
                runner = Runner::new(&rolls, Policy { confinement: Confinement::fitting(), ..Policy::default() })
                    .map_err(|error| fail("eval-failed", format!("cannot prepare to run code: {error}")))?;
                Eval::Run(&runner)
            }
        };
        let only = (!self.only_rolls.is_empty()).then_some(&self.only_rolls[..]);
        let request = Request { root: &self.root, attributes: &attributes, eval, only_rolls: only };
        let profile = make::build(&rolls, &request)?;
        Ok(Made { rolls, attributes, profile })
    }
}
