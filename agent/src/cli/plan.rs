//! `rocks-agent plan`: what would be done and why.

use std::path::{Path, PathBuf};

use rocks_common::diag::Source;
use rocks_common::kickstart::{self, Kickstart, unified_diff};
use rocks_common::limits;
use rocks_common::plan::Applied;

use super::{Format, online};
use crate::config::Config;
use crate::converge::{RootIncludes, Turn};
use crate::journal::Journal;
use crate::output::{self, Output};
use crate::process::System;
use crate::{files, identity};

/// Say what would be done and why.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Plan for this kickstart, without a frontend
    #[arg(long, value_name = "NEW.ks")]
    kickstart: Option<PathBuf>,
    /// What is applied now (default: what the journal says; with --kickstart and no journal: nothing)
    #[arg(long, value_name = "OLD.ks", requires = "kickstart")]
    applied: Option<PathBuf>,
    /// Show the difference of the two kickstarts too
    #[arg(long)]
    diff: bool,
}

fn read(path: &Path, root: &Path) -> Result<(String, Kickstart), String> {
    let bytes =
        files::read(path, limits::KICKSTART_BYTES).map_err(|error| format!("error: {}: {error}\n", path.display()))?;
    let bytes = bytes.ok_or_else(|| format!("error: there is no file {}\n", path.display()))?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let source = Source::new(path.display().to_string(), text.as_str());
    let (kickstart, problems) = kickstart::parse(&source, &mut RootIncludes(root));
    if problems.has_errors() { Err(problems.render()) } else { Ok((text, kickstart)) }
}

pub(super) fn run(args: &Args, config: Config, format: Format, output: &mut Output<'_>) -> u8 {
    let Some(path) = &args.kickstart else { return online::plan(config, args.diff, format, output) };
    match offline(args, path, &config) {
        Ok((plan, diff)) => show(&plan, diff.as_deref(), format, output),
        Err(message) => {
            output.message(&message);
            output::FAILED
        }
    }
}

fn offline(args: &Args, path: &Path, config: &Config) -> Result<(rocks_common::plan::Plan, Option<String>), String> {
    let (new_text, desired) = read(path, &config.root)?;
    let (old_text, applied) = match &args.applied {
        Some(old) => {
            let (text, kickstart) = read(old, &config.root)?;
            (text, Applied::all_of(&kickstart, &config.policy))
        }
        // The journal is only looked at; a machine that has none has applied nothing.
        None => {
            let state = Journal::look(&config.state).map_err(|error| format!("error: {error}\n"))?;
            (String::new(), state.applied)
        }
    };
    let turn = Turn { config, processes: &System, mirror: None, facts: identity::facts(&config.root) };
    let plan = turn.plan(&desired, &applied).map_err(|error| format!("error: {error}\n"))?;
    let diff = if args.diff { unified_diff(&old_text, &new_text) } else { None };
    Ok((plan, diff))
}

pub(super) fn show(plan: &rocks_common::plan::Plan, diff: Option<&str>, format: Format, output: &mut Output<'_>) -> u8 {
    let code = if plan.is_empty() { output::OK } else { output::CHANGES };
    let text = match format {
        Format::Human => diff.map(|diff| format!("{diff}\n")).unwrap_or_default() + &plan.render(),
        Format::Json => serde_json::json!({"api_version": "rocks/v1", "plan": plan, "diff": diff}).to_string() + "\n",
    };
    output.data(&text, code)
}
