//! Diagnostics: what is wrong with a file, where, and what to do about it.
//!
//! Parsers never stop at the first problem and never panic: they return what they could make and a [`Diagnostics`] with
//! every problem found, each with its place. [`Diagnostics::render`] prints them for people, with the line and a caret.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::limits;

/// One file's text under the name by which messages call it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Source(Arc<SourceInner>);

#[derive(Debug)]
struct SourceInner {
    name: String,
    text: String,
    /// Byte offset of the first byte of every line.
    lines: Vec<usize>,
}

impl Source {
    /// A source called `name` (a path as the user knows it) with the text `text`.
    #[must_use]
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        let lines = std::iter::once(0)
            .chain(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1))
            .collect();
        Self(Arc::new(SourceInner { name: name.into(), text, lines }))
    }

    /// The name by which messages call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The whole text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// Line and column, both from 1, the column in characters, of the byte at `offset`; past the end: of the end.
    #[must_use]
    pub fn position(&self, offset: usize) -> Position {
        let offset = floor_char_boundary(&self.0.text, offset.min(self.0.text.len()));
        let line = self.0.lines.partition_point(|start| *start <= offset).max(1);
        let start = self.0.lines[line - 1];
        let column = self.0.text[start..offset].chars().count() + 1;
        Position { line, column }
    }

    /// The text of line `line` (from 1) without its end.
    #[must_use]
    pub fn line(&self, line: usize) -> &str {
        let Some(start) = line.checked_sub(1).and_then(|i| self.0.lines.get(i)) else { return "" };
        let end = self.0.lines.get(line).map_or(self.0.text.len(), |next| next - 1);
        self.0.text[*start..end].trim_end_matches('\r')
    }

    /// The place of the bytes `range` of this source.
    #[must_use]
    pub fn at(&self, range: Range<usize>) -> Place {
        Place { source: self.clone(), range }
    }
}

fn floor_char_boundary(text: &str, mut offset: usize) -> usize {
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

/// A line and a column, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

/// A stretch of a source.
#[derive(Debug, Clone)]
pub struct Place {
    source: Source,
    range: Range<usize>,
}

impl Place {
    /// The source it is in.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The bytes of the source's text.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// Where it begins.
    #[must_use]
    pub fn position(&self) -> Position {
        self.source.position(self.range.start)
    }
}

impl fmt::Display for Place {
    /// `file:line:column`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Position { line, column } = self.position();
        write!(f, "{}:{line}:{column}", self.source.name())
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing; nothing is wrong.
    Note,
    /// Probably not what the author meant; the result is still defined.
    Warning,
    /// The input has no meaning, or one that we refuse to guess. What has an error is never served.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// One problem.
#[derive(Debug, Clone)]
pub struct Diagnostic {
    /// A stable, greppable name for the kind of problem: `undefined-entity`.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one line, without full stop.
    pub message: String,
    /// Where, if it has a place.
    pub place: Option<Place>,
    /// Other places that belong to it, each with what it has to do with it.
    pub related: Vec<(Place, String)>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// An error of kind `code`.
    #[must_use]
    pub fn error(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, severity: Severity::Error, message: message.into(), place: None, related: Vec::new(), hint: None }
    }

    /// A warning of kind `code`.
    #[must_use]
    pub fn warning(code: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, message) }
    }

    /// A note of kind `code`.
    #[must_use]
    pub fn note(code: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Note, ..Self::error(code, message) }
    }

    /// The same, at `place`.
    #[must_use]
    pub fn at(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    /// The same, with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same, with another place that belongs to it.
    #[must_use]
    pub fn related(mut self, place: Place, what: impl Into<String>) -> Self {
        self.related.push((place, what.into()));
        self
    }
}

impl fmt::Display for Diagnostic {
    /// One line: `file:line:column: error: message [code]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        write!(f, "{}: {} [{}]", self.severity, self.message, self.code)
    }
}

/// All problems of a run, in the order found. At most [`limits::DIAGNOSTICS`] are kept; the rest is counted.
#[derive(Debug, Clone, Default)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
    dropped: usize,
    errors: usize,
}

impl Diagnostics {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.errors += usize::from(diagnostic.severity == Severity::Error);
        if self.list.len() < limits::DIAGNOSTICS {
            self.list.push(diagnostic);
        } else {
            self.dropped += 1;
        }
    }

    /// Adds all of `other`.
    pub fn extend(&mut self, other: Self) {
        self.dropped += other.dropped;
        // What `other` dropped may have been errors: keep its count rather than recount.
        let counted = other.list.iter().filter(|d| d.severity == Severity::Error).count();
        self.errors += other.errors - counted;
        for diagnostic in other.list {
            self.push(diagnostic);
        }
    }

    /// Whether there is at least one error.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// How many errors there are, those included that were not kept.
    #[must_use]
    pub fn error_count(&self) -> usize {
        self.errors
    }

    /// Whether there are none at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Those kept, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    /// All of them for people: each with its line, a caret and its hint, then a line that counts them.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::new();
        for diagnostic in &self.list {
            render_one(&mut out, diagnostic);
            out.push('\n');
        }
        if self.dropped > 0 {
            out.push_str(&format!("... and {} more\n", self.dropped));
        }
        out
    }
}

impl IntoIterator for Diagnostics {
    type Item = Diagnostic;
    type IntoIter = std::vec::IntoIter<Diagnostic>;
    fn into_iter(self) -> Self::IntoIter {
        self.list.into_iter()
    }
}

impl FromIterator<Diagnostic> for Diagnostics {
    fn from_iter<I: IntoIterator<Item = Diagnostic>>(iter: I) -> Self {
        let mut all = Self::new();
        for diagnostic in iter {
            all.push(diagnostic);
        }
        all
    }
}

fn render_one(out: &mut String, diagnostic: &Diagnostic) {
    out.push_str(&format!("{}[{}]: {}\n", diagnostic.severity, diagnostic.code, diagnostic.message));
    if let Some(place) = &diagnostic.place {
        render_place(out, place, "");
    }
    for (place, what) in &diagnostic.related {
        render_place(out, place, what);
    }
    if let Some(hint) = &diagnostic.hint {
        out.push_str(&format!("  hint: {hint}\n"));
    }
}

/// Characters of a source line that are shown; a longer line is cut around the caret.
const SHOWN_COLUMNS: usize = 120;

fn render_place(out: &mut String, place: &Place, what: &str) {
    let Position { line, column } = place.position();
    let gutter = line.to_string().len();
    out.push_str(&format!("{:gutter$}--> {place}\n", ""));
    let text = place.source.line(line);
    let skip = column.saturating_sub(SHOWN_COLUMNS / 2 + 1);
    let skip = if text.chars().count() <= SHOWN_COLUMNS { 0 } else { skip };
    let shown: String =
        text.chars().skip(skip).take(SHOWN_COLUMNS).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let start = column - 1 - skip;
    let covered = floor_char_boundary(place.source.text(), place.range.end.min(place.source.text().len()));
    let begin = floor_char_boundary(place.source.text(), place.range.start.min(covered));
    let width = place.source.text()[begin..covered].split('\n').next().unwrap_or("").chars().count();
    let width = width.clamp(1, shown.chars().count().saturating_sub(start).max(1));
    out.push_str(&format!(
        "{:gutter$} |\n{line} | {shown}\n{:gutter$} | {}{}",
        "",
        "",
        " ".repeat(start),
        "^".repeat(width)
    ));
    if !what.is_empty() {
        out.push(' ');
        out.push_str(what);
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnostic_shows_its_place() {
        let source = Source::new("nodes/ssh.xml", "<kickstart>\n  <post>é &nope; x</post>\n</kickstart>\n");
        let start = source.text().find("&nope;").expect("it is there");
        let mut all = Diagnostics::new();
        all.push(
            Diagnostic::error("undefined-entity", "attribute `nope` is not defined")
                .at(source.at(start..start + 6))
                .hint("set it with `rocks set attr nope VALUE`"),
        );
        insta::assert_snapshot!(all.render(), @r"
        error[undefined-entity]: attribute `nope` is not defined
         --> nodes/ssh.xml:2:11
          |
        2 |   <post>é &nope; x</post>
          |           ^^^^^^
          hint: set it with `rocks set attr nope VALUE`
        ");
    }

    #[test]
    fn places_outside_the_text_do_not_panic() {
        let source = Source::new("x", "é");
        for (start, end) in [(0, 0), (1, 1), (1, 100), (50, 100), (100, 50)] {
            let place = Place { source: source.clone(), range: start..end };
            let mut out = String::new();
            render_place(&mut out, &place, "");
            assert!(out.contains("x:1:"));
        }
    }

    #[test]
    fn errors_are_counted_past_the_bound() {
        let mut all = Diagnostics::new();
        for _ in 0..limits::DIAGNOSTICS + 5 {
            all.push(Diagnostic::error("x", "y"));
        }
        let mut sum = Diagnostics::new();
        sum.extend(all);
        assert_eq!(sum.error_count(), limits::DIAGNOSTICS + 5);
        assert!(sum.render().ends_with("... and 5 more\n"));
    }
}
