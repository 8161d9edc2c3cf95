//! `rocks`: the administrator's command line, with the original's verbs and words. It speaks to the frontend over its socket and never
//! opens the store.

mod attributes;
mod builds;
mod client;
mod commands;
mod completions;
mod context;
mod distro;
mod dump;
mod enrolments;
mod hosts;
mod images;
mod objects;
mod progress;
mod provisions;
mod report;
mod rollouts;
mod show;
mod spec;
mod table;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args as _, FromArgMatches as _, ValueEnum};

use crate::output::{Exit, Output};
use spec::Flag;

/// Where the frontend's socket is when nobody says otherwise: the service's, and that of a frontend that was started by hand.
const SOCKETS: [&str; 2] = ["/run/rocks/admin.sock", "/var/lib/rocks/run/admin.sock"];

/// The first of `places` that is there; if none is, the first.
fn first_there(places: [&str; 2]) -> &Path {
    let there = places.into_iter().find(|place| Path::new(place).exists());
    Path::new(there.unwrap_or(places[0]))
}

/// What holds for all commands.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of all commands")]
pub(crate) struct Cli {
    /// The frontend's socket (default: /run/rocks/admin.sock, else /var/lib/rocks/run/admin.sock)
    #[arg(long, value_name = "PATH", env = "ROCKS_SOCKET", global = true)]
    socket: Option<PathBuf>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Table, global = true)]
    output: Format,
    /// Leave the table's head out
    #[arg(long, global = true)]
    no_headers: bool,
    /// Names alone, and no progress
    #[arg(short, long, global = true)]
    quiet: bool,
    /// How to show how far long work is (on standard error)
    #[arg(long, value_enum, default_value_t = progress::Mode::Auto, global = true, env = "ROCKS_PROGRESS")]
    progress: progress::Mode,
}

impl Cli {
    /// The frontend's socket.
    pub(crate) fn socket(&self) -> &Path {
        self.socket.as_deref().unwrap_or_else(|| first_there(SOCKETS))
    }
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table, or text
    Table,
    /// A table with more columns
    Wide,
    /// One JSON document
    Json,
    /// One JSON document a line
    Jsonl,
    /// YAML
    Yaml,
    /// Names alone, one a line
    Name,
}

const EXAMPLES: &str = "Examples:
  rocks add appliance lite
  rocks add host lite-0-0 appliance=lite > join.toml
  rocks set appliance attr lite vim yes
  rocks list host
  rocks report host lite-0-0

Exit status: 0 done; 1 failed; 2 wrong words; 3 a host is not as it should be; 4 no such object; 5 conflict; 75 try again later";

/// The whole command, as help, completions and manual pages see it.
#[must_use]
pub fn command() -> clap::Command {
    let command = clap::Command::new("rocks")
        .version(env!("CARGO_PKG_VERSION"))
        .after_help(EXAMPLES)
        .subcommand_required(true)
        .arg_required_else_help(true);
    // After the options, which bring a description of their own.
    let command =
        Cli::augment_args(command).about("Administer a Rocks frontend: rocks VERB OBJECT [names] [key=value]");
    let command = commands::tree(command);
    crate::manual::with_tools(command)
}

/// Runs the program with these arguments.
pub fn main(args: impl IntoIterator<Item = OsString>, output: &mut Output<'_>) -> Exit {
    let matches = match command().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) => return crate::cli::usage(&error, output),
    };
    if let Some(exit) = crate::manual::run(&matches, command, output) {
        return exit;
    }
    let mut path = Vec::new();
    let mut at = &matches;
    while let Some((word, below)) = at.subcommand() {
        path.push(word);
        at = below;
    }
    // The values of global options are known everywhere.
    let (Some(entry), Ok(cli)) =
        (commands::all().find(|entry| entry.spec.path == path), Cli::from_arg_matches(&matches))
    else {
        output.message("error: this is not a command\nhint: rocks --help lists them\n");
        return Exit::Usage;
    };
    let words: Vec<String> =
        at.try_get_many::<String>("words").ok().flatten().map(|words| words.cloned().collect()).unwrap_or_default();
    let flags: Vec<Flag> = entry.spec.flags.iter().copied().filter(|flag| at.get_flag(flag.name())).collect();
    context::run(&cli, &entry.spec, entry.run, words, flags, output)
}

/// Answers a shell that asks for completions, if one does; then the program is to end.
pub fn complete() {
    clap_complete::CompleteEnv::with_factory(command).complete();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_says_what_the_program_is_for_and_no_command_is_without_words() {
        let mut todo = vec![command()];
        assert!(todo[0].get_about().is_some_and(|about| about.to_string().starts_with("Administer")));
        assert!(todo[0].get_long_about().is_none());
        while let Some(at) = todo.pop() {
            assert!(at.get_about().is_some_and(|about| !about.to_string().is_empty()), "{}", at.get_name());
            todo.extend(at.get_subcommands().cloned());
        }
    }

    #[test]
    fn the_socket_is_the_first_that_is_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        let places = [one.to_str().expect("text"), two.to_str().expect("text")];
        assert_eq!(first_there(places), one);
        std::fs::write(&two, "").expect("written");
        assert_eq!(first_there(places), two);
        std::fs::write(&one, "").expect("written");
        assert_eq!(first_there(places), one);
    }
}
