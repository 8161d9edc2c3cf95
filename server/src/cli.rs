//! The command line of `rocks-server`.

use std::ffi::OsString;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::output::{Exit, Output};
use crate::{config, daemon, manual, offline};

/// The version, and whether this frontend reaches AWS.
const VERSION: &str = if cfg!(feature = "aws") {
    concat!(env!("CARGO_PKG_VERSION"), " (with aws)")
} else {
    concat!(env!("CARGO_PKG_VERSION"), " (without aws)")
};

/// The Rocks frontend: makes kickstarts of rolls.
#[derive(Debug, Parser)]
#[command(name = "rocks-server", version = VERSION, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the frontend: state folder, certificate authority, keys, store
    Init(daemon::InitArgs),
    /// Run the frontend
    Serve(daemon::ServeArgs),
    /// Show the configuration and where each value is from
    Config(config::ShowArgs),
    /// Render a profile offline: no store, no server
    Profile(offline::profile::Args),
    /// Report everything that is wrong with rolls
    Check(offline::check::Args),
    /// Become a program that reaches nothing but FOLDER
    #[command(hide = true)]
    Confine {
        /// What it may read
        folder: std::path::PathBuf,
        /// The program and its arguments
        #[arg(last = true, required = true)]
        program: Vec<String>,
    },
    /// Build the image that standard input orders (`rocks create image` starts this in namespaces of its own)
    #[command(hide = true)]
    BuildImage,
    /// Say how a package, node, section or attribute came to be in a profile
    Explain(offline::explain::Args),
    /// Say which method to provision by: how long each takes, and what it costs
    Advise(offline::advise::Args),
    /// Make of an image what ec2-bundle-image makes of it: encrypted parts and a signed manifest
    Bundle(Box<offline::bundle::Args>),
    /// Take a bundle apart: check everything and give the image back
    Unbundle(offline::bundle::BackArgs),
}

/// The whole command, as help, completions and manual pages see it.
#[must_use]
pub fn command() -> clap::Command {
    manual::with_tools(Cli::command())
}

/// Answers a shell that asks for completions, if one does; then the program is to end.
pub fn complete() {
    clap_complete::CompleteEnv::with_factory(command).complete();
}

/// Runs the program with these arguments.
pub fn main(args: impl IntoIterator<Item = OsString>, output: &mut Output<'_>) -> Exit {
    let matches = match command().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) => return usage(&error, output),
    };
    if let Some(exit) = manual::run(&matches, command, output) {
        return exit;
    }
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, output),
    };
    match cli.command {
        Command::Init(args) => daemon::init(&args, output),
        Command::Serve(args) => daemon::serve(&args, output),
        Command::Config(args) => config::show(&args, output),
        Command::Profile(args) => offline::profile::run(&args, output),
        Command::Check(args) => offline::check::run(&args, output),
        Command::Confine { folder, program } => {
            let Some((program, args)) = program.split_first() else { return Exit::Usage };
            let why = crate::process::become_confined(&folder, program, args);
            let text = format!("{}{why}\n", String::from_utf8_lossy(crate::eval::NOT_CONFINED));
            let _ = output.data(&text);
            Exit::Failed
        }
        Command::BuildImage => crate::builder::child::run(output),
        Command::Explain(args) => offline::explain::run(&args, output),
        Command::Advise(args) => offline::advise::run(&args, output),
        Command::Bundle(args) => offline::bundle::run(&args, output),
        Command::Unbundle(args) => offline::bundle::back(&args, output),
    }
}

/// What clap has to say: help is data, everything else a message.
pub(crate) fn usage(error: &clap::Error, output: &mut Output<'_>) -> Exit {
    let text = error.render().to_string();
    if error.use_stderr() {
        output.message(&text);
        return Exit::Usage;
    }
    if output.data(&text).is_ok() { Exit::Ok } else { Exit::Failed }
}
