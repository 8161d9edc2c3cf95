//! A node file made one host's: entities, `include`, `var`, `eval` (the original's pass 1 and 2, rocks-xml 5.4, 5.5).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use sha1::{Digest as _, Sha1};

use super::{GUARD_ATTRIBUTES, HostValues, NodeFile, literal_guard, make_guard};
use crate::cond::Lookup;
use crate::diag::{Diagnostic, Diagnostics, Source};
use crate::dialect::Dialect;
use crate::graph::Guard;
use crate::limits;
use crate::roll::Includes;
use crate::xml::{self, Element, Node, Part, Text};

/// What is done with `<eval>`.
#[derive(Clone, Copy)]
pub enum Eval<'e> {
    /// The tag disappears and its text stays (`--eval no`).
    No,
    /// A line with the digest of the code stands for its output (`--eval stub`).
    Stub,
    /// The code is run.
    Run(&'e dyn Evaluator),
}

/// Runs the code of `<eval>` elements.
pub trait Evaluator: Sync {
    /// The standard output of the code.
    ///
    /// # Errors
    /// It was refused, failed, or ran into a limit.
    fn eval(&self, request: &EvalRequest<'_>) -> Result<String, EvalFailure>;
}

/// Code to run.
#[derive(Debug, Clone)]
pub struct EvalRequest<'r> {
    /// The interpreter's command line.
    pub shell: &'r str,
    /// What it reads on its standard input.
    pub body: &'r str,
    /// The roll folder whose code it is.
    pub roll: &'r str,
    /// The node file it stands in, as the original names it.
    pub file: &'r str,
    /// The path of that file.
    pub path: &'r str,
    /// Its line there, from 1.
    pub line: u32,
    /// Values set with `<var>`, given to the code as environment.
    pub variables: &'r BTreeMap<String, String>,
}

/// Why code gave no output.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct EvalFailure(pub String);

/// A piece of an expanded node file.
#[derive(Debug, Clone)]
pub enum Out<'a> {
    /// Text.
    Text(Cow<'a, str>),
    /// An element.
    Element(OutElement<'a>),
}

/// An element in which everything is resolved.
#[derive(Debug, Clone)]
pub struct OutElement<'a> {
    /// Its name.
    pub name: Cow<'a, str>,
    /// Its attributes.
    pub attributes: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// What is in it.
    pub children: Vec<Out<'a>>,
    /// Where its start tag stands in the node file; nothing for what the expansion itself wrote.
    pub span: Option<Range<usize>>,
    guard: OutGuard<'a>,
}

#[derive(Debug, Clone)]
enum OutGuard<'a> {
    Known(&'a Guard),
    Made(Guard),
}

static ALWAYS: Guard = Ok(None);

impl<'a> OutElement<'a> {
    /// The attribute called `name`.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(n, _)| n == name).map(|(_, value)| &**value)
    }

    /// Its condition.
    pub fn guard(&self) -> &Guard {
        match &self.guard {
            OutGuard::Known(guard) => guard,
            OutGuard::Made(guard) => guard,
        }
    }

    /// Its text, if there is nothing but text in it.
    #[must_use]
    pub fn text(&self) -> Option<Cow<'_, str>> {
        match &self.children[..] {
            [] => Some(Cow::Borrowed("")),
            [Out::Text(text)] => Some(Cow::Borrowed(text)),
            many => {
                let mut all = String::new();
                for child in many {
                    let Out::Text(text) = child else { return None };
                    all.push_str(text);
                }
                Some(Cow::Owned(all))
            }
        }
    }
}

/// What expanding needs, and what it leaves behind for the files that come after.
pub struct Expansion<'a, 'h> {
    /// The dialect.
    pub dialect: Dialect,
    /// The host's attributes.
    pub host: &'h HostValues<'a>,
    /// The rolls' include files.
    pub includes: &'a Includes,
    /// What to do with code.
    pub eval: Eval<'h>,
    /// Values set with `<var>`: they are shared by all node files of a profile.
    pub variables: BTreeMap<String, String>,
    /// The roll and path that the last `<kickstart>` gave, which outlive their file in the original.
    pub roll: String,
    /// See `roll`.
    pub file: String,
    /// What went wrong.
    pub problems: Diagnostics,
}

/// Expands `file`; problems go to `expansion`.
pub fn expand<'a>(expansion: &mut Expansion<'a, '_>, file: &'a NodeFile) -> Vec<Out<'a>> {
    let Some(root) = &file.root else { return Vec::new() };
    let mut worker = Worker {
        original: expansion.dialect.is_original(),
        expansion,
        file,
        open: vec![OutElement {
            name: "".into(),
            attributes: Vec::new(),
            children: Vec::new(),
            span: None,
            guard: OutGuard::Known(&ALWAYS),
        }],
        strip: false,
        code: None,
        bytes: 0,
    };
    worker.element(root);
    let mut open = worker.open;
    open.truncate(1);
    open.pop().map(|top| top.children).unwrap_or_default()
}

struct Worker<'a, 'h, 'e> {
    expansion: &'e mut Expansion<'a, 'h>,
    file: &'a NodeFile,
    original: bool,
    /// Elements that are not closed yet; the first stands for the file.
    open: Vec<OutElement<'a>>,
    /// Whether text is dropped: inside `description` and its like.
    strip: bool,
    /// The code of the `eval` being read.
    code: Option<String>,
    bytes: usize,
}

impl<'a> Worker<'a, '_, '_> {
    fn problem(&mut self, code: &'static str, message: impl Into<String>, span: &Range<usize>) {
        let place = self.file.source.at(span.clone());
        self.expansion.problems.push(Diagnostic::error(code, message).at(place));
    }

    fn element(&mut self, element: &'a Element) {
        match &*element.name {
            "kickstart" | "jumpstart" => self.kickstart(element),
            "description" | "changelog" | "copyright" => {
                if self.original {
                    self.strip = true;
                    self.children(element);
                    self.strip = false;
                }
            }
            "include" | "sinclude" => {
                self.include(element);
                self.children(element);
                self.strip = false;
            }
            "var" => {
                self.variable(element);
                self.children(element);
                self.strip = false;
            }
            "copy" if self.original => {
                // A base64 copy of a file of the server: nothing uses it, and it reads any file of the frontend.
                self.problem("copy-element", "<copy> is not supported", &element.span);
            }
            "eval" => self.eval(element),
            "post" if self.original => {
                self.log("begin");
                self.copied(element);
                self.strip = false;
                self.log("end");
            }
            _ => self.copied(element),
        }
    }

    fn children(&mut self, element: &'a Element) {
        for child in &element.children {
            match child {
                Node::Element(child) => self.element(child),
                Node::Text(text) => self.text(text),
            }
        }
    }

    fn kickstart(&mut self, element: &'a Element) {
        let roll = element.attribute("roll").map(|a| self.resolve(&a.value)).unwrap_or_default();
        self.expansion.roll = if roll.is_empty() { "unknown".to_owned() } else { roll.into_owned() };
        self.expansion.file = self.file.path.to_string();
        self.children(element);
    }

    fn text(&mut self, text: &'a Text) {
        if self.strip {
            return;
        }
        for part in &text.parts {
            let piece = self.part(part);
            match &mut self.code {
                Some(code) => code.push_str(&piece),
                None => self.emit(piece),
            }
        }
    }

    fn part(&mut self, part: &'a Part) -> Cow<'a, str> {
        match part {
            // A carriage return written as a reference is a line end once the text is parsed again.
            Part::Literal(text) if self.original && text.contains('\r') => {
                Cow::Owned(text.replace("\r\n", "\n").replace('\r', "\n"))
            }
            Part::Literal(text) => Cow::Borrowed(text),
            Part::Entity { name, span } => match self.expansion.host.text(name) {
                Some(value) => {
                    let value = value.to_owned();
                    Cow::Owned(value)
                }
                None => {
                    self.undefined(name, span);
                    Cow::Borrowed("")
                }
            },
        }
    }

    fn undefined(&mut self, name: &str, span: &Range<usize>) {
        let place = self.file.source.at(span.clone());
        self.expansion.problems.push(
            Diagnostic::error("undefined-entity", format!("attribute `{name}` is not set for this host"))
                .at(place)
                .hint(format!("set it: `rocks set attr {name} VALUE`, or `--attr {name}=VALUE` offline")),
        );
    }

    fn resolve(&mut self, text: &'a Text) -> Cow<'a, str> {
        match &text.parts[..] {
            [] => Cow::Borrowed(""),
            [only] => self.part(only),
            many => {
                let mut all = String::new();
                for part in many {
                    all.push_str(&self.part(part));
                }
                Cow::Owned(all)
            }
        }
    }

    fn emit(&mut self, text: Cow<'a, str>) {
        if text.is_empty() {
            return;
        }
        self.bytes += text.len();
        if self.bytes > limits::EXPANDED_BYTES {
            if self.bytes - text.len() <= limits::EXPANDED_BYTES {
                self.problem("expanded-too-large", "the file becomes too large when attributes are put in", &(0..1));
            }
            return;
        }
        if let Some(top) = self.open.last_mut() {
            if let Some(Out::Text(last)) = top.children.last_mut() {
                last.to_mut().push_str(&text);
            } else {
                top.children.push(Out::Text(text));
            }
        }
    }

    fn copied(&mut self, element: &'a Element) {
        let is_file = &*element.name == "file";
        let mut attributes = Vec::with_capacity(element.attributes.len());
        for attribute in &element.attributes {
            let left_out = self.original
                && (matches!(&*attribute.name, "roll" | "file")
                    || (is_file && &*attribute.name == "include" && self.expansion.dialect == Dialect::Rocks7));
            if !left_out {
                let value = self.resolve(&attribute.value);
                let value = self.rewritten(value, &attribute.value.span);
                attributes.push((Cow::Borrowed(&*attribute.name), value));
            }
        }
        let guard = match self.file.guards.get(&element.span.start) {
            Some(known) => OutGuard::Known(known),
            None if element.attributes.iter().any(|a| GUARD_ATTRIBUTES.contains(&&*a.name)) => {
                OutGuard::Made(made_guard(self.expansion.dialect, &attributes))
            }
            None => OutGuard::Known(&ALWAYS),
        };
        let out = OutElement {
            name: Cow::Borrowed(&*element.name),
            attributes,
            children: Vec::new(),
            span: Some(element.span.clone()),
            guard,
        };
        // In `modern` what is under a false condition is not even looked at: no code runs there, no attribute is missed.
        if !self.original && !self.holds(&out) {
            return;
        }
        self.open.push(out);
        if is_file {
            self.file_include(element);
        }
        self.children(element);
        if let (Some(done), Some(parent)) = (self.open.pop(), self.open.last_mut()) {
            parent.children.push(Out::Element(done));
        }
    }

    fn holds(&mut self, element: &OutElement<'_>) -> bool {
        let span = element.span.clone().unwrap_or_default();
        match element.guard() {
            Ok(None) => true,
            Ok(Some(cond)) => match cond.holds(&self.expansion.host.for_elements(), self.expansion.dialect.semantics())
            {
                Ok(holds) => holds,
                Err(error) => {
                    self.problem("condition-value", format!("the condition `{cond}` has no value: {error}"), &span);
                    false
                }
            },
            Err(error) => {
                self.problem("bad-condition", format!("this condition is not one: {error}"), &span);
                false
            }
        }
    }

    /// The original writes attribute values back without escaping them and parses the result, twice.
    fn rewritten(&mut self, value: Cow<'a, str>, span: &Range<usize>) -> Cow<'a, str> {
        if !self.original || !value.contains(['&', '<', '"', '\n', '\t', '\r']) {
            return value;
        }
        let mut value = value.into_owned();
        for _ in 0..2 {
            match self.reparsed(&value) {
                Some(next) => value = next,
                None => {
                    self.problem("unescaped-attribute", "the original cannot carry this attribute's value", span);
                    return Cow::Borrowed("");
                }
            }
        }
        Cow::Owned(value)
    }

    fn reparsed(&self, value: &str) -> Option<String> {
        if value.contains(['<', '"']) {
            return None;
        }
        let source = Source::new("", format!("<a b=\"{value}\"/>"));
        let (document, problems) = xml::parse(&source, xml::ParseOptions::STRICT);
        if problems.has_errors() {
            return None;
        }
        let root = document.root?;
        let mut out = String::new();
        for part in &root.attribute("b")?.value.parts {
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Entity { name, .. } => out.push_str(&self.expansion.host.text(name)?.replace(['\n', '\t'], " ")),
            }
        }
        Some(out)
    }

    /// The section that the original puts before and behind every `post`, which logs its name.
    fn log(&mut self, word: &'static str) {
        let line = format!("\n{}: {word} post section\n", self.expansion.file);
        let file = OutElement {
            name: "file".into(),
            attributes: vec![("name".into(), "/var/log/rocks-install.log".into()), ("mode".into(), "append".into())],
            children: vec![Out::Text(line.into())],
            span: None,
            guard: OutGuard::Known(&ALWAYS),
        };
        let post = OutElement {
            name: "post".into(),
            attributes: Vec::new(),
            children: vec![Out::Text("\n".into()), Out::Element(file), Out::Text("\n".into())],
            span: None,
            guard: OutGuard::Known(&ALWAYS),
        };
        if let Some(parent) = self.open.last_mut() {
            parent.children.push(Out::Text("\n".into()));
            parent.children.push(Out::Element(post));
            parent.children.push(Out::Text("\n\n".into()));
        }
    }

    fn include(&mut self, element: &'a Element) {
        let Some(name) = element.attribute("file").map(|a| self.resolve(&a.value)) else {
            return self.problem("include-without-file", "<include> has no `file`", &element.span);
        };
        let mode = element.attribute("mode").map(|a| self.resolve(&a.value)).unwrap_or_default();
        match self.expansion.includes.get(format!("include/{name}").as_str()) {
            Some(text) if mode.is_empty() || mode == "quote" => self.emit(Cow::Borrowed(text)),
            Some(text) => self.raw(text, &element.span),
            None if &*element.name == "sinclude" => {}
            None => self.problem(
                "include-missing",
                format!("there is no file `include/{name}` in the rolls"),
                &element.span,
            ),
        }
    }

    /// `<file include=...>` puts a file's raw content at the start of the tag (7 only).
    fn file_include(&mut self, element: &'a Element) {
        if self.expansion.dialect == Dialect::Rocks61 || (self.original && matches!(self.expansion.eval, Eval::No)) {
            return;
        }
        let Some(path) = element.attribute("include").map(|a| self.resolve(&a.value)) else { return };
        match self.expansion.includes.get(&*path) {
            Some(text) if self.original => self.raw(text, &element.span),
            Some(text) => self.emit(Cow::Borrowed(text)),
            None if self.original => {}
            None => self.problem("include-missing", format!("there is no file `{path}` in the rolls"), &element.span),
        }
    }

    fn variable(&mut self, element: &'a Element) {
        let mut value =
            |name: &str| element.attribute(name).map(|a| self.resolve(&a.value).into_owned()).unwrap_or_default();
        let (name, set, copy) = (value("name"), value("val"), value("ref"));
        if !set.is_empty() {
            self.expansion.variables.insert(name, set);
        } else if !copy.is_empty() {
            let copied = self.expansion.variables.get(&copy).cloned().unwrap_or_default();
            self.expansion.variables.insert(name, copied);
        } else if let Some(value) = self.expansion.variables.get(&name) {
            self.emit(Cow::Owned(value.clone()));
        }
    }

    fn eval(&mut self, element: &'a Element) {
        if let Eval::No = self.expansion.eval {
            self.children(element);
            self.strip = false;
            return;
        }
        let shell = element.attribute("shell").map(|a| self.resolve(&a.value)).filter(|s| !s.is_empty());
        let mode = element.attribute("mode").map(|a| self.resolve(&a.value)).unwrap_or_default();
        let mut shell = shell.unwrap_or(Cow::Borrowed("sh")).into_owned();
        let outer = self.code.replace(String::new());
        if shell == "python" {
            shell = if self.original { "/opt/rocks/bin/python".to_owned() } else { "python3".to_owned() };
            self.code =
                Some("import sys\nimport os\nsys.path.append(os.path.join(\"include\", \"applets\"))\n".to_owned());
        }
        self.children(element);
        self.strip = false;
        let body = std::mem::replace(&mut self.code, outer).unwrap_or_default();
        let output = match self.expansion.eval {
            Eval::No => return,
            Eval::Stub => {
                let digest = Sha1::digest(body.as_bytes());
                let hex: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
                format!("[eval {shell} {hex}]\n")
            }
            Eval::Run(evaluator) => {
                let request = EvalRequest {
                    shell: &shell,
                    body: &body,
                    roll: &self.file.folder,
                    file: &self.file.path,
                    path: self.file.source.name(),
                    line: self.file.line(&element.span),
                    variables: &self.expansion.variables,
                };
                match evaluator.eval(&request) {
                    Ok(output) => output,
                    Err(failure) => return self.problem("eval-failed", failure.to_string(), &element.span),
                }
            }
        };
        if mode.is_empty() || mode == "quote" {
            self.emit(Cow::Owned(output));
        } else {
            self.raw(&output, &element.span);
        }
    }

    /// Puts XML text in as XML (`mode="xml"`): attributes are put in, but nothing in it is carried out.
    fn raw(&mut self, text: &str, span: &Range<usize>) {
        match xml::parse_fragment(&Source::new(&*self.file.path, text)) {
            Ok(nodes) => {
                for node in &nodes {
                    self.raw_node(node, span);
                }
            }
            Err(error) => {
                self.problem("bad-fragment", format!("what is put in here is not well-formed: {}", error.message), span)
            }
        }
    }

    fn raw_node(&mut self, node: &Node, span: &Range<usize>) {
        match node {
            Node::Text(text) => {
                let text = self.raw_text(text, span);
                self.emit(Cow::Owned(text));
            }
            Node::Element(element) if matches!(&*element.name, "kickstart" | "jumpstart") => {
                element.children.iter().for_each(|child| self.raw_node(child, span));
            }
            Node::Element(element) => {
                let mut attributes = Vec::new();
                for attribute in &element.attributes {
                    let value = self.raw_text(&attribute.value, span);
                    attributes.push((Cow::Owned(attribute.name.to_string()), Cow::Owned(value)));
                }
                let guard = match literal_guard(element) {
                    None if !attributes.iter().any(|(n, _)| GUARD_ATTRIBUTES.contains(&&**n)) => {
                        OutGuard::Known(&ALWAYS)
                    }
                    _ => OutGuard::Made(made_guard(self.expansion.dialect, &attributes)),
                };
                let name = Cow::Owned(element.name.to_string());
                let out = OutElement { name, attributes, children: Vec::new(), span: Some(span.clone()), guard };
                if !self.original && !self.holds(&out) {
                    return;
                }
                self.open.push(out);
                element.children.iter().for_each(|child| self.raw_node(child, span));
                if let (Some(done), Some(parent)) = (self.open.pop(), self.open.last_mut()) {
                    parent.children.push(Out::Element(done));
                }
            }
        }
    }

    fn raw_text(&mut self, text: &Text, span: &Range<usize>) -> String {
        let mut all = String::new();
        for part in &text.parts {
            match part {
                Part::Literal(text) => all.push_str(text),
                Part::Entity { name, .. } => match self.expansion.host.text(name) {
                    Some(value) => all.push_str(value),
                    None => self.undefined(name, span),
                },
            }
        }
        all
    }
}

fn made_guard(dialect: Dialect, attributes: &[(Cow<'_, str>, Cow<'_, str>)]) -> Guard {
    let [arch, os, release, cond] =
        GUARD_ATTRIBUTES.map(|name| attributes.iter().find(|(n, _)| n == name).map(|(_, value)| &**value));
    make_guard(dialect, arch, os, release, cond)
}

/// Evaluates an element's condition.
///
/// # Errors
/// The condition is none, or has no value.
pub(crate) fn holds(element: &OutElement<'_>, attributes: &dyn Lookup, dialect: Dialect) -> Result<bool, String> {
    match element.guard() {
        Ok(None) => Ok(true),
        Ok(Some(cond)) => cond.holds(attributes, dialect.semantics()).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
