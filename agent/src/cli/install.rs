//! `rocks-agent install`: what an installer does after it has installed the packages, in a machine that does not run yet.
//!
//! An image builder calls it inside the image's root. All sections run, in the installer's order, commands are applied to files, and
//! at the end the kickstart is left as `/etc/rocks-agent/applied.ks`, so that the agent finds nothing to do when the machine runs.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rocks_common::diag::{Severity, Source};
use rocks_common::kickstart::{Command, option_value};
use rocks_common::plan::{Applied, Plan};
use rocks_common::wire::{Finding, StepReport, StepState};
use rocks_common::{kickstart, limits};

use super::Format;
use crate::config::Config;
use crate::converge::{IMAGE_KICKSTART, RootIncludes, Turn};
use crate::execute::{Executor, MirrorIdentity};
use crate::fit::network::{self, Tool};
use crate::fit::{FitError, Tree};
use crate::journal::Journal;
use crate::output::{self, Output};
use crate::process::{Finished, Processes, System, Task};
use crate::{files, identity};

/// The variable that says when everything is to seem to be made, so that an image can be made again bit for bit
/// (<https://reproducible-builds.org/specs/source-date-epoch/>).
const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// Apply a kickstart to a machine that is being made.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The kickstart
    #[arg(long, value_name = "FILE.ks")]
    kickstart: PathBuf,
    /// The frontend's address, as agents reach it: repositories below it are used with the machine's certificate
    #[arg(long, value_name = "URL")]
    frontend: Option<String>,
}

/// The system's processes with what they should know of time.
struct Making {
    epoch: Option<String>,
}

impl Processes for Making {
    fn run(&self, task: &Task) -> std::io::Result<Finished> {
        let mut task = task.clone();
        task.env.extend(self.epoch.iter().map(|epoch| (EPOCH.to_owned(), epoch.clone())));
        System.run(&task)
    }
}

#[derive(Debug, thiserror::Error)]
enum InstallError {
    #[error("this machine runs: `install` is for one that is being made")]
    Running,
    #[error("{}: {why}", path.display())]
    File { path: PathBuf, why: String },
    #[error("{0}")]
    Kickstart(String),
    #[error(transparent)]
    Journal(#[from] crate::journal::JournalError),
    #[error(transparent)]
    Observe(#[from] crate::observe::ObserveError),
    #[error("the network: {0}")]
    Network(#[from] FitError),
}

pub(super) fn run(args: &Args, config: Config, format: Format, output: &mut Output<'_>) -> u8 {
    let (steps, findings, complete) = match install(args, config, output) {
        Ok(done) => done,
        Err(error) => {
            output.message(&format!("error: {error}\n"));
            return output::FAILED;
        }
    };
    let code = if complete { output::OK } else { output::FAILED };
    let text = match format {
        Format::Json => {
            let document = serde_json::json!({"api_version": "rocks/v1", "complete": complete, "steps": steps, "findings": findings});
            document.to_string() + "\n"
        }
        Format::Human => {
            let failed = steps.iter().filter(|step| step.state != StepState::Done);
            let mut text: String = failed
                .map(|step| format!("{} ({:?}):\n{}", step.title, step.state, indented(&step.output_tail)))
                .collect();
            for found in findings.iter().filter(|found| found.severity == Severity::Warning) {
                text.push_str(&format!("warning: {}: {}\n", found.subject, found.message));
            }
            text.push_str(&format!("{} steps, {}\n", steps.len(), if complete { "all done" } else { "not all done" }));
            text
        }
    };
    output.data(&text, code)
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

/// What an installer makes of `network`: the first interface asks for its address, as it does where a kickstart says nothing of the network. Before
/// the sections run, so that what they make of it stays.
fn network(root: &Path, commands: &[Command]) -> Result<Vec<Finding>, InstallError> {
    let network = commands.iter().filter(|command| command.name == "network");
    let fixed = |command: &&Command| option_value(&command.args, "--bootproto").is_some_and(|way| way != "dhcp");
    let finding = |code: &str, message: &str, origin: Option<&str>| Finding {
        code: code.into(),
        severity: Severity::Warning,
        subject: origin.unwrap_or("network").into(),
        message: message.into(),
        hint: None,
    };
    let mut findings = Vec::new();
    for command in network.filter(fixed) {
        let message = "a fixed address is no machine's that is made of an image: the first interface asks for one";
        findings.push(finding("network-not-fixed", message, command.origin.as_deref()));
    }
    if network::set_up(&Tree::open(root)?)? == Tool::Unknown {
        let message = "nothing in it sets the network up: have NetworkManager or systemd-networkd among its packages";
        findings.push(finding("no-network", message, None));
    }
    Ok(findings)
}

type Installed = (Vec<StepReport>, Vec<Finding>, bool);

fn install(args: &Args, mut config: Config, output: &mut Output<'_>) -> Result<Installed, InstallError> {
    if config.root == Path::new("/") && Path::new("/run/systemd/system").exists() {
        return Err(InstallError::Running);
    }
    let file = |path: &Path, why: String| InstallError::File { path: path.to_path_buf(), why };
    let bytes = files::read(&args.kickstart, limits::KICKSTART_BYTES)
        .map_err(|error| file(&args.kickstart, error.to_string()))?
        .ok_or_else(|| file(&args.kickstart, "there is no such file".into()))?;
    let text = String::from_utf8(bytes).map_err(|_| file(&args.kickstart, "it is not UTF-8".into()))?;
    let source = Source::new(args.kickstart.display().to_string(), text.as_str());
    let (desired, problems) = kickstart::parse(&source, &mut RootIncludes(&config.root));
    if problems.has_errors() {
        return Err(InstallError::Kickstart(problems.render()));
    }
    config.policy.installer = true;
    config.policy.frontend.clone_from(&args.frontend);
    // What the agent of the running machine will show the mirror; the files come with its enrolment.
    let folder = Path::new("/var/lib/rocks-agent").join(identity::FOLDER);
    let mirror =
        MirrorIdentity { ca: folder.join("ca.pem"), certificate: folder.join("cert.pem"), key: folder.join("key.pem") };
    let processes = Making { epoch: std::env::var(EPOCH).ok() };
    let turn = Turn { config: &config, processes: &processes, mirror: None, facts: identity::facts(&config.root) };
    let plan: Plan = turn.plan(&desired, &Applied::default())?;
    let mut journal = Journal::open(&config.state)?;
    let mut findings = network(&config.root, &desired.commands)?;
    let executor = Executor { config: &config, processes: &processes, mirror: Some(mirror) };
    let mut tell = |title: &str| {
        output.message(&format!("{title}\n"));
        ControlFlow::Continue(())
    };
    let executed = executor.run(&plan, &mut journal, &mut tell)?;
    findings.extend(plan.findings);
    findings.extend(executed.findings);
    let bad = findings.iter().any(|found| found.severity == Severity::Error);
    if executed.complete && !bad {
        let path = config.root.join(IMAGE_KICKSTART);
        files::write(&path, text.as_bytes(), 0o600).map_err(|error| file(&path, error.to_string()))?;
    }
    Ok((executed.steps, findings, executed.complete && !bad))
}
