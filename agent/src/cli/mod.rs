//! The command line of `rocks-agent`.

mod check;
mod fit;
mod form;
mod install;
mod online;
mod plan;
mod receive;
mod relay;
mod send;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::config::Config;
use crate::output::{self, Output};

/// Keeps this machine as its kickstart says.
#[derive(Debug, Parser)]
#[command(name = "rocks-agent", version, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    /// The machine to work on
    #[arg(long, value_name = "DIR", default_value = "/", global = true)]
    root: PathBuf,
    /// Where the agent keeps its state (default: ROOT/var/lib/rocks-agent)
    #[arg(long, value_name = "DIR", global = true)]
    state_dir: Option<PathBuf>,
    /// A configuration file instead of the usual ones
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Human, global = true)]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Human,
    /// One JSON document
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run as a service: wait for changes and apply them
    Run,
    /// One turn: fetch, plan, execute, report (0 done, 3 not converged, 75 frontend not reached)
    Converge,
    /// Say what would be done and why (0 nothing, 2 changes, 1 failure)
    Plan(plan::Args),
    /// Show the state, the last converge and what is in the way (0 converged, 3 not)
    Status,
    /// Become a host's agent
    Enrol {
        /// The join document that `rocks add host` printed
        #[arg(long, value_name = "FILE")]
        join: Option<PathBuf>,
    },
    /// Take the join document, and a receiver's job, of the user data that this EC2 instance was launched with
    UserData {
        /// How long to wait for the metadata service, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 300)]
        patience: u64,
        /// Where the metadata service is
        #[arg(long, value_name = "ADDRESS:PORT", default_value = crate::imds::ADDRESS)]
        metadata: String,
    },
    /// Read a kickstart and print what is wrong with it
    Check(check::Args),
    /// Apply a kickstart to a machine that is being made and does not run yet, as an installer would (0 done, 1 not)
    Install(install::Args),
    /// Receive one image from the frontend onto a volume or into a file, prove it, and end
    Receive(receive::Args),
    /// Send an image to the frontend, which waits for it: `rocks upload image HOST name=NAME`
    Send(send::Args),
    /// Fetch packages of the frontend's mirror once, and serve them to the neighbours of this machine
    Relay(relay::Args),
    /// Make the image at --root (a folder, a disk or an image file) a machine in the cloud: root, bootloader, network, keys
    Fit(fit::Args),
    /// What `fit` starts in a mount namespace of its own
    #[command(hide = true)]
    FitInside,
    /// Print what a shell must read to complete this program's words
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write this program's manual pages into a folder
    #[command(hide = true)]
    Man {
        /// The folder
        folder: PathBuf,
    },
}

/// Runs the program with these arguments.
pub fn main(args: impl IntoIterator<Item = OsString>, output: &mut Output<'_>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            let text = error.render().to_string();
            if error.use_stderr() {
                output.message(&text);
                return output::USAGE.into();
            }
            return output.data(&text, output::OK).into();
        }
    };
    if let Command::Check(args) = &cli.command {
        return check::run(args, cli.output, output).into();
    }
    match &cli.command {
        // The image is no machine whose configuration counts.
        Command::Fit(args) => return fit::run(args, &cli.root, cli.output, output).into(),
        Command::FitInside => return fit::inside(output).into(),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "rocks-agent", &mut script);
            return output.data(&String::from_utf8_lossy(&script), output::OK).into();
        }
        Command::Man { folder } => {
            let mut command = Cli::command().disable_help_subcommand(true);
            command.build();
            return match std::fs::create_dir_all(folder).and_then(|()| pages(&command, folder)) {
                Ok(()) => output::OK,
                Err(error) => {
                    output.message(&format!("error: {}: {error}\n", folder.display()));
                    output::FAILED
                }
            }
            .into();
        }
        _ => {}
    }
    let config = match Config::load(&cli.root, cli.state_dir.as_deref(), cli.config.as_deref()) {
        Ok(config) => config,
        Err(error) => {
            output.message(&format!("error: {error}\n"));
            return output::FAILED.into();
        }
    };
    if matches!(cli.command, Command::Run | Command::Converge | Command::Install(_)) {
        // Sections and package managers make files as in an installer, whoever started this; the agent's own say their
        // mode.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    }
    let code = match cli.command {
        // Answered above.
        Command::Check(_)
        | Command::Fit(_)
        | Command::FitInside
        | Command::Completions { .. }
        | Command::Man { .. } => output::USAGE,
        Command::Plan(args) => plan::run(&args, config, cli.output, output),
        Command::Install(args) => install::run(&args, config, cli.output, output),
        Command::Status => online::status(&config, cli.output, output),
        Command::Enrol { join } => online::enrol(&config, join.as_deref(), output),
        Command::UserData { patience, metadata } => online::user_data(&config, &metadata, patience, output),
        Command::Receive(args) => receive::run(&args, &config, cli.output, output),
        Command::Send(args) => send::run(&args, &config, cli.output, output),
        Command::Relay(args) => relay::run(&args, &config, cli.output, output),
        Command::Converge => online::converge(config, cli.output, output),
        Command::Run => online::run(config, output),
    };
    code.into()
}

fn pages(command: &clap::Command, folder: &std::path::Path) -> std::io::Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        pages(below, folder)?;
    }
    clap_mangen::Man::new(command.clone()).section("8").generate_to(folder).map(drop)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_options_of_all_commands_fit_together() {
        super::Cli::command().debug_assert();
    }
}
