//! What each of our programs can write about itself: completions and manual pages. Hidden from help; packaging calls them.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command, value_parser};

use crate::output::{Exit, Output};

/// `command` with the two tools.
pub fn with_tools(command: Command) -> Command {
    command
        .subcommand(
            Command::new("completions")
                .about("Print what a shell must read to complete this program's words")
                .arg(Arg::new("shell").required(true).value_parser(["bash", "zsh", "fish", "elvish", "powershell"])),
        )
        .subcommand(
            Command::new("man")
                .about("Write this program's manual pages into a folder")
                .hide(true)
                .arg(Arg::new("folder").required(true).value_parser(value_parser!(PathBuf))),
        )
}

/// Runs one of the tools, if that is what is asked for.
pub fn run(matches: &ArgMatches, command: fn() -> Command, output: &mut Output<'_>) -> Option<Exit> {
    match matches.subcommand()? {
        ("completions", args) => {
            let shell = args.get_one::<String>("shell").map_or("bash", String::as_str);
            let name = command().get_name().to_owned();
            Some(write_completions(&name, shell, output))
        }
        ("man", args) => {
            let folder = args.get_one::<PathBuf>("folder")?;
            let mut command = command().disable_help_subcommand(true);
            command.build();
            // Daemons are documented in section 8, what people type in section 1.
            let section = if command.get_name() == "rocks" { "1" } else { "8" };
            let made = std::fs::create_dir_all(folder).and_then(|()| pages(&command, section, folder));
            Some(match made {
                Ok(()) => Exit::Ok,
                Err(error) => {
                    output.message(&format!("error: {}: {error}\n", folder.display()));
                    Exit::Failed
                }
            })
        }
        _ => None,
    }
}

fn pages(command: &Command, section: &str, folder: &std::path::Path) -> std::io::Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        pages(below, section, folder)?;
    }
    clap_mangen::Man::new(command.clone()).section(section).generate_to(folder).map(drop)
}

fn write_completions(program: &str, shell: &str, output: &mut Output<'_>) -> Exit {
    let shells = clap_complete::env::Shells::builtins();
    let Some(completer) = shells.completer(shell) else {
        output.message(&format!("error: there are no completions for `{shell}`\n"));
        return Exit::Usage;
    };
    let mut script = Vec::new();
    match completer.write_registration("COMPLETE", program, program, program, &mut script) {
        Ok(()) if output.data(&String::from_utf8_lossy(&script)).is_ok() => Exit::Ok,
        _ => Exit::Failed,
    }
}
