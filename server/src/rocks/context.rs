//! What a command works with: its words, the frontend, and how to print.

use std::cell::RefCell;
use std::path::Path;

use http::Method;
use serde_json::{Value, json};

use super::client::{self, Refusal};
use super::progress::Progress;
use super::spec::{Flag, Spec};
use super::{Cli, Format, table};
use crate::output::{Exit, Output};

/// What to print, and how the program ends.
pub(super) type Done = Result<(String, Exit), Refusal>;

/// What a command works with.
pub(super) struct Context<'c> {
    pub(super) cli: &'c Cli,
    pub(super) spec: &'static Spec,
    pub(super) names: Vec<String>,
    keys: Vec<(String, String)>,
    flags: Vec<Flag>,
    output: RefCell<&'c mut dyn FnMut(&str)>,
}

impl<'c> Context<'c> {
    /// Takes the words of a command apart.
    pub(super) fn new(
        cli: &'c Cli,
        spec: &'static Spec,
        words: Vec<String>,
        flags: Vec<Flag>,
        message: &'c mut dyn FnMut(&str),
    ) -> Result<Self, Refusal> {
        let (mut names, mut keys) = (Vec::new(), Vec::new());
        for word in words {
            // Values of attributes and paths may have an equals sign: only commands that have keys look for them.
            match word.split_once('=') {
                Some((key, value)) if !spec.keys.is_empty() && is_key(key) => {
                    keys.push((key.to_owned(), value.to_owned()))
                }
                _ => names.push(word),
            }
        }
        let usage = || format!("usage: rocks {} {}", spec.path.join(" "), spec.names.0);
        if let Some((key, _)) = keys.iter().find(|(key, _)| !spec.keys.iter().any(|(known, _)| known == key)) {
            let known: Vec<&str> = spec.keys.iter().map(|(known, _)| *known).collect();
            let refusal = Refusal::new(Exit::Usage, format!("`{key}=` has no meaning here"));
            return Err(refusal.hint(format!("there are {}", known.join(", "))));
        }
        if names.len() < spec.names.1 {
            return Err(
                Refusal::new(Exit::Usage, format!("`rocks {}` lacks a word", spec.path.join(" "))).hint(usage())
            );
        }
        if let Some(extra) = names.get(spec.names.2) {
            return Err(Refusal::new(Exit::Usage, format!("`{extra}` is one word too many")).hint(usage()));
        }
        Ok(Self { cli, spec, names, keys, flags, output: RefCell::new(message) })
    }

    pub(super) fn key(&self, name: &str) -> Option<&str> {
        self.keys.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn number(&self, name: &str, default: i64) -> Result<i64, Refusal> {
        self.key(name).map_or(Ok(default), |text| {
            text.parse().map_err(|_| Refusal::new(Exit::Usage, format!("{name}={text}: not a number")))
        })
    }

    pub(super) fn has(&self, flag: Flag) -> bool {
        self.flags.contains(&flag)
    }

    fn socket(&self) -> &Path {
        self.cli.socket()
    }

    pub(super) fn get(&self, path: &str) -> Result<Value, Refusal> {
        client::call(self.socket(), Method::GET, path, None)
    }

    pub(super) fn text(&self, path: &str) -> Result<String, Refusal> {
        client::text(self.socket(), path)
    }

    pub(super) fn send(&self, method: Method, path: &str, body: &Value) -> Result<Value, Refusal> {
        client::call(self.socket(), method, path, Some(body))
    }

    /// Does something that gives nothing back.
    pub(super) fn act(&self, method: Method, path: &str, body: &Value) -> Done {
        self.send(method, path, body).map(|_| (String::new(), Exit::Ok))
    }

    /// Does something that takes its time, showing how far it is.
    pub(super) fn long(&self, path: &str, body: &Value) -> Result<Value, Refusal> {
        let mut progress = Progress::new(self.cli.progress, self.cli.quiet);
        client::lines(self.socket(), path, body, &mut |value| progress.tell(value))
    }

    pub(super) fn message(&self, text: &str) {
        (self.output.borrow_mut())(text);
    }

    /// Asks before something is destroyed; off a terminal `--yes` must have been said.
    pub(super) fn confirm(&self, what: &str) -> Result<(), Refusal> {
        use std::io::IsTerminal as _;
        if self.has(Flag::Yes) {
            return Ok(());
        }
        let refused = Refusal::new(Exit::Usage, format!("this would {what}"));
        if !std::io::stdin().is_terminal() {
            return Err(refused.hint("say --yes if that is meant"));
        }
        self.message(&format!("This will {what}. Go on? [y/N] "));
        let mut answer = String::new();
        let read = std::io::stdin().read_line(&mut answer);
        if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
            return Ok(());
        }
        Err(Refusal::new(Exit::Failed, "nothing was done"))
    }

    /// Rows of one kind, those that the names choose.
    pub(super) fn rows(&self, path: &str, names: &[String]) -> Result<Vec<Value>, Refusal> {
        let mut rows = self.get(path)?.as_array().cloned().unwrap_or_default();
        if names.is_empty() {
            return Ok(rows);
        }
        if let Some(name) = names.iter().find(|name| !rows.iter().any(|row| fits(row, name))) {
            return Err(Refusal::new(Exit::NoSuchObject, format!("there is no {} `{name}`", self.noun())));
        }
        rows.retain(|row| names.iter().any(|name| fits(row, name)));
        Ok(rows)
    }

    fn noun(&self) -> &'static str {
        self.spec.path.get(1).copied().unwrap_or("object")
    }

    /// Prints rows; `wide` columns only when asked for.
    pub(super) fn print(&self, rows: &[Value], columns: &[(&str, &str)], wide: &[(&str, &str)]) -> Done {
        let text = match self.format() {
            Format::Json => json_text(&json!({"api_version": "rocks/v1", "items": rows})),
            Format::Jsonl => rows.iter().map(|row| format!("{row}\n")).collect(),
            Format::Yaml => table::yaml(&json!({"api_version": "rocks/v1", "items": rows})),
            Format::Name => {
                rows.iter().filter_map(|row| row["name"].as_str()).map(|name| format!("{name}\n")).collect()
            }
            Format::Table => table::table(rows, columns, self.heads()),
            Format::Wide => table::table(rows, &[columns, wide].concat(), self.heads()),
        };
        Ok((text, Exit::Ok))
    }

    /// Prints one thing: as data if that is asked for, else as `text`.
    pub(super) fn one(&self, value: &Value, text: impl FnOnce() -> String) -> String {
        match self.format() {
            Format::Json => json_text(value),
            Format::Jsonl => format!("{value}\n"),
            Format::Yaml => table::yaml(value),
            Format::Table | Format::Wide | Format::Name => text(),
        }
    }

    /// Whether tables have heads.
    pub(super) const fn heads(&self) -> bool {
        !self.cli.no_headers
    }

    pub(super) fn format(&self) -> Format {
        if self.cli.quiet && matches!(self.cli.output, Format::Table | Format::Wide) {
            Format::Name
        } else {
            self.cli.output
        }
    }
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || matches!(b, b'_' | b'-'))
}

/// Whether a row is what `name` names: by its own name, which may have `*`, `?` and `[...]`, or by its appliance.
pub(super) fn fits(row: &Value, name: &str) -> bool {
    row["appliance"].as_str() == Some(name)
        || glob(name.as_bytes(), row["name"].as_str().unwrap_or_default().as_bytes())
}

/// Whether `text` is of the form `pattern`, as a shell would see it.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => (0..=text.len()).any(|at| glob(rest, &text[at..])),
        ([b'?', rest @ ..], [_, after @ ..]) => glob(rest, after),
        ([b'[', class @ ..], [c, after @ ..]) => {
            let Some(end) = class.iter().position(|b| *b == b']').filter(|end| *end > 0) else {
                return pattern == text;
            };
            let (class, rest) = (&class[..end], &class[end + 1..]);
            let (negated, class) = match class {
                [b'!' | b'^', class @ ..] => (true, class),
                class => (false, class),
            };
            let mut at = 0;
            let mut found = false;
            while at < class.len() {
                if class.get(at + 1) == Some(&b'-') && at + 2 < class.len() {
                    found |= (class[at]..=class[at + 2]).contains(c);
                    at += 3;
                } else {
                    found |= class[at] == *c;
                    at += 1;
                }
            }
            found != negated && glob(rest, after)
        }
        ([p, rest @ ..], [c, after @ ..]) => p == c && glob(rest, after),
        _ => false,
    }
}

pub(super) fn json_text(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// A name as a part of a path.
pub(super) fn encode(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    name.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// Runs a command and prints what it gives.
pub(super) fn run(
    cli: &Cli,
    spec: &'static Spec,
    work: fn(&Context<'_>) -> Done,
    words: Vec<String>,
    flags: Vec<Flag>,
    output: &mut Output<'_>,
) -> Exit {
    let done = {
        let mut message = |text: &str| output.message(text);
        Context::new(cli, spec, words, flags, &mut message).and_then(|context| work(&context))
    };
    match done {
        Ok((text, exit)) => {
            if output.data(&text).is_ok() {
                exit
            } else {
                Exit::Failed
            }
        }
        Err(refusal) => {
            let hint = refusal.hint.map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
            output.message(&format!("error: {}\n{hint}", refusal.message));
            refusal.exit
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_choose_as_in_a_shell() {
        let hit = |pattern: &str, text: &str| glob(pattern.as_bytes(), text.as_bytes());
        for (pattern, text) in
            [("a*c", "abbc"), ("*", ""), ("c-0-[0-3]", "c-0-2"), ("c-[!1]-?", "c-0-9"), ("[ab]", "b"), ("a[", "a[")]
        {
            assert!(hit(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("a*c", "abb"), ("?", ""), ("c-0-[0-3]", "c-0-4"), ("[!a]", "a"), ("", "a"), ("a", "")]
        {
            assert!(!hit(pattern, text), "{pattern} {text}");
        }
    }
}
