//! `rocks`: the administrator's command line, with the original's verbs and words. It speaks to the frontend over its socket and never
//! opens the store.

mod client;
mod run;
mod table;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::output::{Exit, Output};

/// Administer a Rocks frontend: rocks VERB OBJECT [names] [key=value]
#[derive(Debug, Parser)]
#[command(name = "rocks", version, arg_required_else_help = true, after_help = run::HELP)]
pub(crate) struct Cli {
    /// The frontend's socket
    #[arg(long, value_name = "PATH", env = "ROCKS_SOCKET", default_value = "/run/rocks/admin.sock", global = true)]
    socket: PathBuf,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Table, global = true)]
    output: Format,
    /// Leave the table's head out
    #[arg(long, global = true)]
    no_headers: bool,
    /// The words of the command
    #[arg(required = true, value_name = "WORD")]
    words: Vec<String>,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table, or text
    Table,
    /// One JSON document
    Json,
    /// Names alone, one a line
    Name,
}

/// Runs the program with these arguments.
pub fn main(args: impl IntoIterator<Item = OsString>, output: &mut Output<'_>) -> Exit {
    match Cli::try_parse_from(args) {
        Ok(cli) => run::run(&cli, output),
        Err(error) => {
            let text = error.render().to_string();
            if error.use_stderr() {
                output.message(&text);
                return Exit::Usage;
            }
            if output.data(&text).is_ok() { Exit::Ok } else { Exit::Failed }
        }
    }
}
