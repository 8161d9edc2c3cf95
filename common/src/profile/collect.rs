//! Expanded elements to commands, packages and sections (the original's generator, rocks-xml 8.1, 8.2).

use std::collections::HashMap;

use serde::Serialize;

use super::{MainCommand, Origin, Package, Section, SectionKind};
use crate::cond::Lookup;
use crate::diag::{Diagnostic, Diagnostics};
use crate::dialect::Dialect;
use crate::node::{HostValues, NodeFile, Out, OutElement, holds};

/// A piece of a section's text.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Piece {
    /// Text as it stands.
    Text(String),
    /// A `<file>`, which becomes shell.
    File(Box<FileTag>),
}

/// A `<file>` element.
#[derive(Debug, Clone, Default, Serialize)]
pub struct FileTag {
    /// The path to write.
    pub name: String,
    /// `create`, `append` or `pipe`, as written.
    pub mode: Option<String>,
    /// Owner, as for `chown`.
    pub owner: Option<String>,
    /// Permissions, as for `chmod`.
    pub perms: Option<String>,
    /// `literal` or `expanded`, as written.
    pub vars: Option<String>,
    /// A command whose output is the content.
    pub expr: Option<String>,
    /// Whether the original puts the file under RCS, as written.
    pub rcs: Option<String>,
    /// Where `pipe` reads from.
    pub src: Option<String>,
    /// The operating system that it is for.
    pub os: Option<String>,
    /// Its content.
    pub body: Vec<Piece>,
    /// Where its tag begins in its node file, in bytes.
    pub at: usize,
}

/// When a `<boot>` section runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Boot {
    /// Early at boot.
    Pre,
    /// Late at boot.
    Post,
}

/// Main children that the original knows (rocks-xml 8.1); it drops all others silently.
const MAIN_61: [&str; 32] = [
    "auth",
    "bootloader",
    "cdrom",
    "clearpart",
    "device",
    "driverdisk",
    "harddrive",
    "include",
    "install",
    "interactive",
    "keyboard",
    "lang",
    "langsupport",
    "lilo",
    "lilocheck",
    "logvol",
    "mouse",
    "network",
    "nfs",
    "part",
    "raid",
    "reboot",
    "rootpw",
    "skipx",
    "text",
    "timezone",
    "upgrade",
    "url",
    "volgroup",
    "xconfig",
    "zerombr",
    "main",
];
const MAIN_7: [&str; 5] = ["autopart", "eula", "firstboot", "ignoredisk", "sshpw"];

/// Where a file's elements come from.
pub(super) struct FileContext<'a> {
    pub(super) file: &'a NodeFile,
    pub(super) node: &'a str,
    /// The roll that its `<kickstart>` names.
    pub(super) roll: String,
    /// The path that the original prints.
    pub(super) path: String,
}

#[derive(Default)]
pub(super) struct Collected {
    pub(super) main: Vec<MainCommand>,
    pub(super) packages: Vec<Package>,
    pub(super) sections: Vec<Section>,
    pub(super) debug: Vec<String>,
    pub(super) brought: Vec<(String, String)>,
}

pub(super) struct Collector<'a> {
    dialect: Dialect,
    files: Vec<(FileContext<'a>, Vec<Out<'a>>)>,
}

impl<'a> Collector<'a> {
    pub(super) fn new(dialect: Dialect) -> Self {
        Self { dialect, files: Vec::new() }
    }

    pub(super) fn file(&mut self, context: FileContext<'a>, out: Vec<Out<'a>>) {
        self.files.push((context, out));
    }

    pub(super) fn finish(self, host: &HostValues<'_>, problems: &mut Diagnostics) -> Collected {
        let attributes = host.for_elements();
        let mut sorter =
            Sorter { dialect: self.dialect, attributes: &attributes, collected: Collected::default(), problems };
        // The original walks the whole profile twice, main sections first; that shows in what is "first" later.
        for (context, out) in &self.files {
            for element in elements(out) {
                sorter.main_walk(context, element);
            }
        }
        for (context, out) in &self.files {
            let mut numbers = HashMap::new();
            for element in elements(out) {
                sorter.other_walk(context, element, &mut numbers);
            }
        }
        sorter.collected
    }
}

fn elements<'e, 'a>(out: &'e [Out<'a>]) -> impl Iterator<Item = &'e OutElement<'a>> {
    out.iter().filter_map(|out| match out {
        Out::Element(element) => Some(element),
        Out::Text(_) => None,
    })
}

struct Sorter<'s> {
    dialect: Dialect,
    attributes: &'s dyn Lookup,
    collected: Collected,
    problems: &'s mut Diagnostics,
}

impl Sorter<'_> {
    fn problem(&mut self, context: &FileContext<'_>, element: &OutElement<'_>, code: &'static str, message: String) {
        let mut problem = Diagnostic::error(code, message);
        if let Some(span) = &element.span {
            problem = problem.at(context.file.source.at(span.clone()));
        }
        self.problems.push(problem);
    }

    /// Whether the element's conditions hold. In `modern` what does not hold was left out before.
    fn accepted(&mut self, context: &FileContext<'_>, element: &OutElement<'_>) -> bool {
        if !self.dialect.is_original() {
            return true;
        }
        if self.dialect == Dialect::Rocks7
            && let Some(phases) = element.attribute("phase")
            && !phases.split(',').any(|phase| matches!(phase, "pre" | "post"))
        {
            return false;
        }
        match holds(element, self.attributes, self.dialect) {
            Ok(holds) => holds,
            Err(error) => {
                self.problem(
                    context,
                    element,
                    "bad-condition",
                    format!("the condition of <{}>: {error}", element.name),
                );
                false
            }
        }
    }

    fn main_name(&self, name: &str) -> bool {
        match self.dialect {
            Dialect::Modern => true,
            Dialect::Rocks61 => MAIN_61.contains(&name),
            Dialect::Rocks7 => MAIN_61.contains(&name) || MAIN_7.contains(&name),
        }
    }

    fn main_walk(&mut self, context: &FileContext<'_>, element: &OutElement<'_>) {
        if self.dialect == Dialect::Modern && element.name != "main" {
            return;
        }
        if !self.main_name(&element.name) || !self.accepted(context, element) {
            return;
        }
        if element.name != "main" {
            // The original's tree walk goes on inside what it accepts, wherever that stands.
            for child in elements(&element.children) {
                self.main_walk(context, child);
            }
            return;
        }
        for child in elements(&element.children) {
            if self.main_name(&child.name) && self.accepted(context, child) {
                let body = self.body(context, child);
                let origin = origin(context, child);
                self.collected.main.push(MainCommand { name: child.name.to_string(), body, origin });
            }
        }
    }

    fn other_walk(
        &mut self,
        context: &FileContext<'_>,
        element: &OutElement<'_>,
        numbers: &mut HashMap<&'static str, u32>,
    ) {
        let seven = self.dialect != Dialect::Rocks61;
        let known = match &*element.name {
            "package" | "pre" | "post" | "boot" | "debug" | "description" => true,
            "attributes" => self.dialect.is_original(),
            "configure" => seven,
            "ansible" => self.dialect == Dialect::Rocks7,
            _ => false,
        };
        if !known || !self.accepted(context, element) {
            return;
        }
        let brought = (
            element.attribute("file").unwrap_or(&context.path).to_owned(),
            element.attribute("roll").unwrap_or(&context.roll).to_owned(),
        );
        if !self.collected.brought.contains(&brought) {
            self.collected.brought.push(brought);
        }
        match &*element.name {
            "package" => self.package(context, element),
            "pre" => self.section(context, element, SectionKind::Pre, numbers),
            "post" | "configure" => self.section(context, element, SectionKind::Post, numbers),
            "boot" => match element.attribute("order").filter(|order| !order.is_empty()) {
                None | Some("pre") => self.section(context, element, SectionKind::Boot(Boot::Pre), numbers),
                Some("post") => self.section(context, element, SectionKind::Boot(Boot::Post), numbers),
                Some(other) => {
                    let message = format!("<boot order=\"{other}\">: order is `pre` or `post`");
                    self.problem(context, element, "bad-boot-order", message);
                }
            },
            "debug" => {
                let text = self.flat(context, element);
                self.collected.debug.push(text);
            }
            "description" => {
                self.body(context, element);
            }
            name => self.problem(context, element, "unsupported-element", format!("<{name}> is not supported")),
        }
    }

    fn package(&mut self, context: &FileContext<'_>, element: &OutElement<'_>) {
        let text = self.flat(context, element);
        let group = if element.attribute("type") == Some("meta") { "@" } else { "" };
        let disable = element.attribute("disable").map(ToOwned::to_owned);
        // In the original any value disables, even "0"; `check` warns about that.
        let enabled = match self.dialect {
            Dialect::Modern => disable.as_deref().is_none_or(|value| matches!(value, "0" | "no" | "false" | "off")),
            _ => disable.is_none(),
        };
        let name = format!("{group}{}", text.trim());
        self.collected.packages.push(Package { name, enabled, disable, origin: origin(context, element) });
    }

    fn section(
        &mut self,
        context: &FileContext<'_>,
        element: &OutElement<'_>,
        kind: SectionKind,
        numbers: &mut HashMap<&'static str, u32>,
    ) {
        let body = self.body(context, element);
        let number = if element.span.is_some() {
            let number = numbers.entry(kind.name()).or_insert(0);
            *number += 1;
            *number
        } else {
            0
        };
        self.collected.sections.push(Section {
            kind,
            arg: element.attribute("arg").unwrap_or_default().trim().to_owned(),
            interpreter: element.attribute("interpreter").filter(|i| !i.is_empty()).map(ToOwned::to_owned),
            body,
            origin: origin(context, element),
            number,
        });
    }

    fn body(&mut self, context: &FileContext<'_>, element: &OutElement<'_>) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = Vec::new();
        for child in &element.children {
            match child {
                Out::Text(text) => match pieces.last_mut() {
                    Some(Piece::Text(last)) => last.push_str(text),
                    _ => pieces.push(Piece::Text(text.to_string())),
                },
                Out::Element(file) if file.name == "file" => {
                    let value = |name: &str| file.attribute(name).filter(|v| !v.is_empty()).map(ToOwned::to_owned);
                    let tag = FileTag {
                        name: value("name").unwrap_or_default(),
                        mode: value("mode"),
                        owner: value("owner"),
                        perms: value("perms"),
                        vars: value("vars"),
                        expr: value("expr"),
                        rcs: file.attribute("rcs").map(ToOwned::to_owned),
                        src: value("src"),
                        os: value("os"),
                        body: self.body(context, file),
                        at: file.span.as_ref().map_or(0, |span| span.start),
                    };
                    pieces.push(Piece::File(Box::new(tag)));
                }
                Out::Element(other) => {
                    let message = format!("<{}> cannot stand in <{}>", other.name, element.name);
                    self.problem(context, other, "unknown-element", message);
                }
            }
        }
        pieces
    }

    /// Text in which a `<file>` has no place.
    fn flat(&mut self, context: &FileContext<'_>, element: &OutElement<'_>) -> String {
        let mut all = String::new();
        for piece in self.body(context, element) {
            match piece {
                Piece::Text(text) => all.push_str(&text),
                Piece::File(_) => {
                    let message = format!("<file> cannot stand in <{}>", element.name);
                    self.problem(context, element, "unknown-element", message);
                }
            }
        }
        all
    }
}

fn origin(context: &FileContext<'_>, element: &OutElement<'_>) -> Origin {
    Origin {
        file: context.file.origin(),
        line: element.span.as_ref().map_or(0, |span| context.file.line(span)),
        node: context.node.to_owned(),
    }
}
