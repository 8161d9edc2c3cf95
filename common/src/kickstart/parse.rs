//! Text to [`Kickstart`], for any kickstart.
//!
//! As pykickstart reads it, with two differences: sections without `%end` are accepted, as installers did before Fedora 8, and a
//! command that nobody knows is a warning, because a kickstart for another installer is still a kickstart. What no installer
//! accepts is an error: a quote that does not close, a section that nobody knows.

use super::{Command, Kickstart, OtherSection, PackageEntry, PackageSpec, Packages, Script, ScriptKind};
use crate::diag::{Diagnostic, Diagnostics, Place, Source};
use crate::generate::commands::{Standing, standing};
use crate::ids::Digest;
use crate::limits;
use crate::marker::{Marker, section_digest};

/// Where `%include` finds files.
pub trait Includes {
    /// The file called `name` in a kickstart; nothing if it is not to be had here.
    fn include(&mut self, name: &str) -> Option<Source>;
}

/// Follows no include.
#[derive(Debug, Clone, Copy)]
pub struct NoIncludes;

impl Includes for NoIncludes {
    fn include(&mut self, _: &str) -> Option<Source> {
        None
    }
}

/// Reads a kickstart. What could be read comes back even when there are errors.
#[must_use]
pub fn parse(source: &Source, includes: &mut dyn Includes) -> (Kickstart, Diagnostics) {
    let mut parser = Parser {
        includes,
        kickstart: Kickstart {
            digest: Digest::of(source.text().as_bytes()),
            commands: Vec::new(),
            packages: Packages::default(),
            scripts: Vec::new(),
            others: Vec::new(),
            includes: Vec::new(),
        },
        problems: Diagnostics::new(),
        open: None,
        origin: None,
        depth: 0,
        lines: 0,
    };
    if source.text().len() as u64 > limits::KICKSTART_BYTES {
        let message = format!("the kickstart has more than {} bytes", limits::KICKSTART_BYTES);
        parser.problems.push(Diagnostic::error("too-large", message));
    } else {
        parser.file(source);
        parser.close();
    }
    let empty = parser.kickstart.commands.is_empty()
        && parser.kickstart.scripts.is_empty()
        && parser.kickstart.others.is_empty()
        && parser.kickstart.includes.is_empty()
        && parser.kickstart.packages == Packages::default();
    if empty && !parser.problems.has_errors() {
        parser.problems.push(Diagnostic::error("empty", "there is nothing in this kickstart"));
    }
    (parser.kickstart, parser.problems)
}

/// A section being read.
struct Open {
    word: String,
    arguments: String,
    body: String,
    line: u32,
    place: Place,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Script(ScriptKind),
    Packages,
    Other,
}

struct Parser<'i> {
    includes: &'i mut dyn Includes,
    kickstart: Kickstart,
    problems: Diagnostics,
    open: Option<Open>,
    /// The origin that the last comment line named.
    origin: Option<String>,
    depth: usize,
    lines: usize,
}

/// Words after `%` that begin a section.
fn section_kind(word: &str) -> Option<Kind> {
    Some(match word {
        "pre" => Kind::Script(ScriptKind::Pre),
        "pre-install" => Kind::Script(ScriptKind::PreInstall),
        "post" => Kind::Script(ScriptKind::Post),
        "onerror" => Kind::Script(ScriptKind::Onerror),
        "traceback" => Kind::Script(ScriptKind::Traceback),
        "packages" => Kind::Packages,
        "addon" | "anaconda" | "certificate" => Kind::Other,
        _ => return None,
    })
}

/// Most lines of a kickstart and all it includes.
const LINES: usize = 1_000_000;

impl Parser<'_> {
    fn file(&mut self, source: &Source) {
        let mut offset = 0;
        let mut number = 0;
        let mut pending = String::new();
        let mut pending_at = (0, 0);
        for raw in source.text().split_inclusive('\n') {
            number += 1;
            self.lines += 1;
            if self.lines > LINES {
                self.problems.push(Diagnostic::error(
                    "too-many-lines",
                    "the kickstart and what it includes have too many lines",
                ));
                return;
            }
            let start = offset;
            offset += raw.len();
            let line = raw.strip_suffix('\n').unwrap_or(raw);
            let line = line.strip_suffix('\r').unwrap_or(line);
            let line = if start == 0 { line.strip_prefix('\u{feff}').unwrap_or(line) } else { line };
            if matches!(&self.open, Some(open) if open.kind != Kind::Packages) {
                self.body_line(source, line, number, start..start + line.len());
                continue;
            }
            // Outside of scripts a backslash at the end joins lines, as pykickstart does it.
            if let Some(part) = line.strip_suffix('\\') {
                if pending.is_empty() {
                    pending_at = (number, start);
                }
                pending.push_str(part);
                pending.push(' ');
                continue;
            }
            if pending.is_empty() {
                self.line(source, line, number, start..start + line.len());
            } else {
                let whole = std::mem::take(&mut pending) + line;
                self.line(source, &whole, pending_at.0, pending_at.1..start + line.len());
            }
        }
        if !pending.is_empty() {
            let end = source.text().len();
            self.line(source, &pending, pending_at.0, pending_at.1..end);
        }
    }

    fn body_line(&mut self, source: &Source, line: &str, number: u32, span: std::ops::Range<usize>) {
        let word = line.trim_start().strip_prefix('%').map(|rest| rest.split([' ', '\t']).next().unwrap_or(""));
        match word {
            Some("end") => self.end(),
            // `%include` inside a script is the script's own business only in old installers; keep it as it stands.
            Some(word) if section_kind(word).is_some() && !line.starts_with([' ', '\t']) => {
                self.unclosed(&source.at(span.clone()));
                self.close();
                self.line(source, line, number, span);
            }
            _ => {
                if let Some(open) = &mut self.open {
                    open.body.push_str(line);
                    open.body.push('\n');
                }
            }
        }
    }

    fn line(&mut self, source: &Source, line: &str, number: u32, span: std::ops::Range<usize>) {
        let trimmed = line.trim_matches([' ', '\t', '\r']);
        if trimmed.is_empty() {
            return;
        }
        if let Some(comment) = trimmed.strip_prefix('#') {
            self.origin = origin_of(comment);
            return;
        }
        let place = source.at(span);
        if let Some(header) = trimmed.strip_prefix('%') {
            let (word, arguments) = header.split_once([' ', '\t']).unwrap_or((header, ""));
            return self.percent(word, arguments.trim(), number, place);
        }
        if self.open.is_some() {
            return self.package_line(trimmed, number, &place);
        }
        self.command(trimmed, number, &place);
    }

    fn percent(&mut self, word: &str, arguments: &str, number: u32, place: Place) {
        match word {
            "end" => {
                if self.open.is_none() {
                    self.problems.push(Diagnostic::warning("stray-end", "%end closes nothing here").at(place));
                }
                self.end();
            }
            "include" | "ksappend" => self.include(arguments, &place),
            _ => {
                if self.open.is_some() {
                    self.unclosed(&place);
                    self.close();
                }
                let kind = section_kind(word).unwrap_or_else(|| {
                    self.problems.push(
                        Diagnostic::warning("unknown-section", format!("no installer knows section %{word}"))
                            .at(place.clone()),
                    );
                    Kind::Other
                });
                let (word, arguments) = (word.to_owned(), arguments.to_owned());
                self.open = Some(Open { word, arguments, body: String::new(), line: number, place, kind });
            }
        }
    }

    fn include(&mut self, argument: &str, place: &Place) {
        let name = split_words(argument).ok().and_then(|words| words.into_iter().next()).unwrap_or_default();
        if name.is_empty() {
            self.problems.push(Diagnostic::error("include-without-file", "this names no file").at(place.clone()));
            return;
        }
        if self.depth >= limits::KICKSTART_INCLUDE_DEPTH {
            self.problems.push(
                Diagnostic::error("include-too-deep", "files include each other too deeply, or in a circle")
                    .at(place.clone()),
            );
            return;
        }
        match self.includes.include(&name) {
            Some(included) => {
                self.depth += 1;
                self.file(&included);
                self.depth -= 1;
            }
            None => {
                self.kickstart.includes.push(name);
            }
        }
    }

    fn unclosed(&mut self, next: &Place) {
        let Some(open) = &self.open else { return };
        self.problems.push(
            Diagnostic::warning("section-without-end", format!("%{} is not closed by %end", open.word))
                .at(open.place.clone())
                .related(next.clone(), "the next section begins here")
                .hint("installers since Fedora 8 refuse this"),
        );
    }

    fn end(&mut self) {
        self.close();
        self.origin = None;
    }

    fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        if let Err(message) = split_words(&open.arguments) {
            self.problems.push(Diagnostic::error("bad-quoting", message).at(open.place.clone()));
        }
        match open.kind {
            Kind::Packages => {
                let words = split_words(&open.arguments).unwrap_or_default();
                self.kickstart.packages.options.extend(words);
            }
            Kind::Script(kind) => self.script(kind, open),
            Kind::Other => self.kickstart.others.push(OtherSection {
                name: open.word,
                arguments: open.arguments,
                body: open.body,
                line: open.line,
            }),
        }
    }

    fn script(&mut self, kind: ScriptKind, open: Open) {
        let words = split_words(&open.arguments).unwrap_or_default();
        let option = |name: &str| option_value(&words, name);
        let (marker, body) = match open.body.split_once('\n') {
            Some((first, rest)) => match Marker::parse(first) {
                Some(marker) => (Some(marker), rest.to_owned()),
                None => (None, open.body.clone()),
            },
            None => (None, open.body.clone()),
        };
        let digest = section_digest(kind.as_str(), &open.arguments, &body);
        self.kickstart.scripts.push(Script {
            kind,
            interpreter: option("--interpreter").unwrap_or_else(|| "/bin/sh".to_owned()),
            nochroot: words.iter().any(|word| word == "--nochroot"),
            error_on_fail: words.iter().any(|word| word == "--erroronfail"),
            log: option("--log").or_else(|| option("--logfile")),
            arguments: open.arguments,
            body,
            line: open.line,
            marker,
            digest,
        });
    }

    fn package_line(&mut self, line: &str, number: u32, place: &Place) {
        let (text, comment) = line.split_once('#').unwrap_or((line, ""));
        let text = text.trim();
        if text.is_empty() {
            return;
        }
        let origin = origin_of(comment);
        let (excluded, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest.trim_start()),
            None => (false, text),
        };
        let spec = if let Some(group) = text.strip_prefix('@') {
            let group = group.trim_start();
            let (environment, group) = match group.strip_prefix('^') {
                Some(rest) => (true, rest.trim_start()),
                None => (false, group),
            };
            // A group's name may have blanks in it; its options begin with two dashes.
            let words: Vec<&str> = group.split_whitespace().collect();
            let name: Vec<&str> = words.iter().copied().take_while(|word| !word.starts_with("--")).collect();
            let options = words.iter().filter(|word| word.starts_with("--")).map(|word| (*word).to_owned()).collect();
            let name = name.join(" ");
            if !environment && name.contains(':') && !name.contains(' ') {
                PackageSpec::Module(name)
            } else {
                PackageSpec::Group { name, environment, options }
            }
        } else if text.contains(['*', '?', '[']) {
            PackageSpec::Glob(text.to_owned())
        } else {
            PackageSpec::Package(text.to_owned())
        };
        if matches!(&spec, PackageSpec::Package(name) if name.contains(char::is_whitespace)) {
            self.problems.push(
                Diagnostic::warning("several-packages", format!("`{text}` is one name to an installer"))
                    .at(place.clone())
                    .hint("write one package a line"),
            );
        }
        let entry = PackageEntry { spec, line: number, origin };
        let packages = &mut self.kickstart.packages;
        if excluded { packages.exclude.push(entry) } else { packages.install.push(entry) }
    }

    fn command(&mut self, line: &str, number: u32, place: &Place) {
        // What a template engine replaces is no command; it is kept, so that nothing is lost.
        let template = line.starts_with(['$', '{', '@', '<', '}']);
        let mut words = match split_words(line) {
            Ok(words) if words.is_empty() => return,
            Ok(words) => words.into_iter(),
            Err(message) if template => {
                self.problems.push(Diagnostic::warning("template", message).at(place.clone()));
                return;
            }
            Err(message) => {
                self.problems.push(Diagnostic::error("bad-quoting", message).at(place.clone()));
                return;
            }
        };
        let Some(name) = words.next() else { return };
        if template {
            let message = format!("`{name}` looks like a template's; an installer would refuse it");
            self.problems.push(Diagnostic::warning("template", message).at(place.clone()));
        } else if standing(&name) == Standing::Unknown {
            self.problems.push(
                Diagnostic::warning("unknown-command", format!("no installer knows the command `{name}`"))
                    .at(place.clone()),
            );
        }
        let raw = line[line.find([' ', '\t']).unwrap_or(line.len())..].trim_matches([' ', '\t']).to_owned();
        let origin = self.origin.take();
        self.kickstart.commands.push(Command { name, args: words.collect(), raw, line: number, origin });
    }
}

/// `ROLL/nodes/FILE.xml:LINE` in a comment, which is how our own kickstarts say where something comes from.
fn origin_of(comment: &str) -> Option<String> {
    let text = comment.trim();
    let (file, line) = text.rsplit_once(':')?;
    let is = file.ends_with(".xml") && !file.contains(char::is_whitespace) && line.parse::<u32>().is_ok();
    is.then(|| text.to_owned())
}

/// The value of `--name=value` or `--name value` in `words`.
#[must_use]
pub fn option_value(words: &[String], name: &str) -> Option<String> {
    words.iter().enumerate().find_map(|(i, word)| match word.strip_prefix(name)? {
        "" => words.get(i + 1).cloned(),
        rest => rest.strip_prefix('=').map(ToOwned::to_owned),
    })
}

/// Splits a line as a POSIX shell does, with comments (Python's `shlex`, which installers use).
///
/// # Errors
/// A quote that does not close, or a backslash at the end.
pub fn split_words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\r' | '\n' => words.extend(word.take()),
            '#' if word.is_none() => break,
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        None => return Err("a single quote is not closed".to_owned()),
                        Some('\'') => break,
                        Some(c) => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        None => return Err("a double quote is not closed".to_owned()),
                        Some('"') => break,
                        Some('\\') => match chars.next() {
                            None => return Err("a double quote is not closed".to_owned()),
                            Some(c @ ('"' | '\\')) => word.push(c),
                            Some(c) => word.extend(['\\', c]),
                        },
                        Some(c) => word.push(c),
                    }
                }
            }
            '\\' => match chars.next() {
                None => return Err("nothing follows the backslash".to_owned()),
                Some(c) => word.get_or_insert_default().push(c),
            },
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}
