//! The command line of `rocks-server`.

use std::ffi::OsString;

use clap::{Parser, Subcommand};

use crate::output::{Exit, Output};
use crate::{daemon, offline};

/// The Rocks frontend: makes kickstarts of rolls.
#[derive(Debug, Parser)]
#[command(name = "rocks-server", version, subcommand_required = true, arg_required_else_help = true)]
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
    /// Render a profile offline: no store, no server
    Profile(offline::profile::Args),
    /// Report everything that is wrong with rolls
    Check(offline::check::Args),
    /// Say how a package, node, section or attribute came to be in a profile
    Explain(offline::explain::Args),
}

/// Runs the program with these arguments.
pub fn main(args: impl IntoIterator<Item = OsString>, output: &mut Output<'_>) -> Exit {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let text = error.render().to_string();
            if error.use_stderr() {
                output.message(&text);
                return Exit::Usage;
            }
            return if output.data(&text).is_ok() { Exit::Ok } else { Exit::Failed };
        }
    };
    match cli.command {
        Command::Init(args) => daemon::init(&args, output),
        Command::Serve(args) => daemon::serve(&args, output),
        Command::Profile(args) => offline::profile::run(&args, output),
        Command::Check(args) => offline::check::run(&args, output),
        Command::Explain(args) => offline::explain::run(&args, output),
    }
}
