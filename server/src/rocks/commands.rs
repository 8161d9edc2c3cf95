//! Which commands there are: one table, from which help, suggestions, completions and manual pages are made. It lies in [`frontend`], [`cloud`] and
//! [`changes`].

use clap::{Arg, ArgAction, Command};

use super::context::{Context, Done};
use super::spec::Spec;

/// One command.
pub(super) struct Entry {
    pub(super) spec: Spec,
    pub(super) run: fn(&Context<'_>) -> Done,
}

const MANY: usize = usize::MAX;

macro_rules! spec {
    ($path:expr, $names:expr, $about:expr, $run:expr $(, $field:ident = $value:expr)*) => {
        Entry {
            spec: Spec {
                $($field: $value,)*
                ..Spec { path: &$path, names: $names, keys: &[], flags: &[], about: $about, example: "", notes: &[], words: Words::None }
            },
            run: $run,
        }
    };
}

mod changes;
mod cloud;
mod frontend;

/// All commands.
pub(super) fn all() -> impl Iterator<Item = &'static Entry> {
    [frontend::TABLE, cloud::TABLE, changes::TABLE].into_iter().flatten()
}

/// What all commands under a verb do.
fn about(verb: &str) -> &'static str {
    match verb {
        "add" => "Add an appliance, an enrolment, a host, an image, a roll",
        "back" => "Take a rollout back",
        "pause" | "resume" => "Hold a rollout, or let it go on",
        "advise" => "Say which method to provision by",
        "cancel" => "End a provision",
        "create" => "Publish the distribution, copy an upstream repository, build an image",
        "disable" | "enable" => "Leave a roll out of kickstarts, or take it in again",
        "trust" | "distrust" => "Decide whether a roll's code may run on the frontend",
        "explain" => "Say how something came to be",
        "export" => "Write an image into a file",
        "list" => "List and show",
        "remove" => "Remove an object, an attribute or a strategy",
        "report" => "Show what agents reported",
        "set" => "Set attributes, a host's appliance, or how changes reach hosts",
        "ship" => "Send an image to the cloud",
        "sync" => "Make kickstarts anew, or a bucket like the distribution",
        "upload" => "Send an image to the frontend",
        "wait" => "Wait for hosts, or for a rollout",
        "host" => "Of a host",
        "appliance" => "Of an appliance",
        "os" => "Of an operating system",
        _ => "",
    }
}

/// `command` with everything of the table below it.
pub(super) fn tree(command: Command) -> Command {
    grow(command, &[])
}

/// The words that come next behind `path`, each once, in the order of the alphabet.
fn next_words<'s>(path: &[&str]) -> Vec<&'s str> {
    let mut words: Vec<&str> = Vec::new();
    for Entry { spec, .. } in all() {
        if spec.path.len() > path.len() && spec.path[..path.len()] == *path && !words.contains(&spec.path[path.len()]) {
            words.push(spec.path[path.len()]);
        }
    }
    words.sort_unstable();
    words
}

fn grow(mut command: Command, path: &[&'static str]) -> Command {
    for word in next_words(path) {
        let mut below = path.to_vec();
        below.push(word);
        let spec = all().map(|entry| &entry.spec).find(|spec| *spec.path == below);
        let child = Command::new(word).about(spec.map_or_else(|| about(word), |spec| spec.about));
        let has_more = !next_words(&below).is_empty();
        let child = match spec {
            Some(spec) => leaf(child, spec).args_conflicts_with_subcommands(has_more),
            None => child.subcommand_required(true).arg_required_else_help(true),
        };
        command = command.subcommand(grow(child, &below));
    }
    command.disable_help_subcommand(!path.is_empty())
}

fn leaf(command: Command, spec: &'static Spec) -> Command {
    let (usage, least, most) = spec.names;
    let mut command = command;
    if most > 0 || !spec.keys.is_empty() {
        let help = match (most, spec.keys) {
            (0, _) => "KEY=VALUE",
            (_, []) => "Names",
            _ => "Names, and then KEY=VALUE",
        };
        let arg = Arg::new("words").value_name("WORDS").num_args(0..).required(least > 0).help(help);
        command = command.arg(arg.add(super::completions::of(spec)));
    }
    for flag in spec.flags {
        command = command.arg(Arg::new(flag.name()).long(flag.name()).action(ArgAction::SetTrue).help(flag.help()));
    }
    let mut words = format!("rocks {}", spec.path.join(" "));
    for flag in spec.flags {
        words.push_str(&format!(" [--{}]", flag.name()));
    }
    if !usage.is_empty() {
        words.push(' ');
        words.push_str(usage);
    }
    for (key, _) in spec.keys {
        words.push_str(&format!(" [{key}=]"));
    }
    let mut after = String::new();
    if !spec.keys.is_empty() {
        after.push_str("Keys:\n");
        let width = spec.keys.iter().map(|(key, _)| key.len()).max().unwrap_or(0) + 1;
        for (key, help) in spec.keys {
            after.push_str(&format!("  {:width$}  {help}\n", format!("{key}=")));
        }
    }
    if !spec.notes.is_empty() {
        after.push_str(if after.is_empty() { "Meaning:\n" } else { "\nMeaning:\n" });
        let width = spec.notes.iter().map(|(word, _)| word.len()).max().unwrap_or(0);
        for (word, help) in spec.notes {
            after.push_str(&format!("  {word:width$}  {help}\n"));
        }
    }
    if !spec.example.is_empty() {
        after.push_str(&format!("{}Example:\n  {}", if after.is_empty() { "" } else { "\n" }, spec.example));
    }
    command.override_usage(words).after_help(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sound() {
        tree(Command::new("rocks")).debug_assert();
        for Entry { spec, .. } in all() {
            assert!(!spec.about.is_empty() && !spec.about.ends_with('.'), "{:?}", spec.path);
            assert!(spec.names.1 <= spec.names.2 && (spec.names.2 == 0) == spec.names.0.is_empty(), "{:?}", spec.path);
            assert!(spec.example.is_empty() || spec.example.starts_with(&format!("rocks {}", spec.path.join(" "))));
        }
    }
}
