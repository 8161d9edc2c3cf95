//! `rocks-agent plan`: what would be done and why.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rocks_common::diag::Source;
use rocks_common::kickstart::{self, Kickstart, unified_diff};
use rocks_common::limits;
use rocks_common::plan::Applied;

use super::{Format, online};
use crate::config::Config;
use crate::converge::{RootIncludes, Turn};
use crate::journal::{Journal, JournalError, State};
use crate::output::{self, Output};
use crate::process::System;
use crate::{files, identity};

/// Say what would be done and why.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Plan for this kickstart, without a frontend
    #[arg(long, value_name = "NEW.ks")]
    kickstart: Option<PathBuf>,
    /// What is applied now (default: what the journal says; with --kickstart and none that may be read: nothing)
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
    match offline(args, path, &config, output) {
        Ok((plan, diff)) => show(&plan, diff.as_deref(), format, output),
        Err(message) => {
            output.message(&message);
            output::FAILED
        }
    }
}

fn offline(
    args: &Args,
    path: &Path,
    config: &Config,
    output: &mut Output<'_>,
) -> Result<(rocks_common::plan::Plan, Option<String>), String> {
    let (new_text, desired) = read(path, &config.root)?;
    let (old_text, applied) = match &args.applied {
        Some(old) => {
            let (text, kickstart) = read(old, &config.root)?;
            (text, Applied::all_of(&kickstart, &config.policy))
        }
        // The journal is only looked at; a machine that has none has applied nothing.
        None => (String::new(), applied_of(Journal::look(&config.state), output)?),
    };
    let turn = Turn { config, processes: &System, mirror: None, facts: identity::facts(&config.root) };
    let plan = turn.plan(&desired, &applied).map_err(|error| format!("error: {error}\n"))?;
    let diff = if args.diff { unified_diff(&old_text, &new_text) } else { None };
    Ok((plan, diff))
}

/// What the journal says, as far as whoever asks may know it.
fn applied_of(looked: Result<State, JournalError>, output: &mut Output<'_>) -> Result<Applied, String> {
    match looked {
        Ok(state) => Ok(state.applied),
        Err(JournalError::Io { path, source }) if source.kind() == ErrorKind::PermissionDenied => {
            output.message(&format!(
                "warning: {}: {source}; the plan is for a machine to which nothing was applied\n\
                 hint: run it as root, or say what is applied with --applied OLD.ks\n",
                path.display()
            ));
            Ok(Applied::default())
        }
        Err(error) => Err(format!("error: {error}\n")),
    }
}

pub(super) fn show(plan: &rocks_common::plan::Plan, diff: Option<&str>, format: Format, output: &mut Output<'_>) -> u8 {
    let code = if plan.is_empty() { output::OK } else { output::CHANGES };
    let text = match format {
        Format::Human => diff.map(|diff| format!("{diff}\n")).unwrap_or_default() + &plan.render(),
        Format::Json => serde_json::json!({"api_version": "rocks/v1", "plan": plan, "diff": diff}).to_string() + "\n",
    };
    output.data(&text, code)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn who_may_not_read_the_journal_is_told_what_the_plan_is_for() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut output = Output { out: &mut out, err: &mut err };
        let mut known = |result: Result<(), ErrorKind>| {
            let applied = Applied { kickstart: Some(rocks_common::ids::Digest::of(b"k")), ..Applied::default() };
            let state = State { applied, ..State::default() };
            let path = PathBuf::from("journal");
            let looked =
                result.map(|()| state).map_err(|kind| JournalError::Io { path, source: io::Error::from(kind) });
            applied_of(looked, &mut output)
        };
        assert_ne!(known(Ok(())), Ok(Applied::default()));
        assert!(known(Err(ErrorKind::InvalidData)).is_err());
        assert_eq!(known(Err(ErrorKind::PermissionDenied)), Ok(Applied::default()));
        let err = String::from_utf8_lossy(&err);
        assert!(err.contains("nothing was applied") && err.contains("root") && err.contains("--applied"), "{err}");
        assert!(out.is_empty());
    }
}
