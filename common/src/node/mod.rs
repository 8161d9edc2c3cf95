//! Node files: what one node of the graph brings to a profile.
//!
//! A [`NodeFile`] is parsed once. [`expand`] makes it a host's: attributes are put in for entities, `include` and `eval` are
//! carried out, and what comes out is a tree of [`Out`] in which nothing is left to resolve. The original does this in two
//! passes over text (rocks-xml 5.4, 5.5); where those passes show, in what they produce or refuse, its dialects show it too.

mod expand;
mod host;

use std::collections::HashMap;
use std::ops::Range;

pub(crate) use expand::holds;
pub use expand::{Eval, EvalFailure, EvalRequest, Evaluator, Expansion, Out, OutElement, expand};
pub use host::HostValues;

use crate::cond::{Cond, CondError, glued_text};
use crate::diag::{Diagnostics, Source};
use crate::dialect::Dialect;
use crate::graph::Guard;
use crate::xml::{self, Element, Node, ParseOptions};

/// The attributes that together are an element's condition.
pub const GUARD_ATTRIBUTES: [&str; 4] = ["arch", "os", "release", "cond"];

/// A node file that was read.
#[derive(Debug, Clone)]
pub struct NodeFile {
    /// Its path as the original prints it: `./nodes/ssh.xml`.
    pub path: Box<str>,
    /// The name of the roll folder it lies in; `site` for site nodes.
    pub folder: Box<str>,
    /// Its text.
    pub source: Source,
    /// Its root element.
    pub root: Option<Element>,
    /// What is wrong with it. In the original's dialects that matters only to hosts that reach it.
    pub problems: Diagnostics,
    /// Conditions of elements that do not depend on entities, by where the element's tag begins.
    guards: HashMap<usize, Guard>,
}

impl NodeFile {
    /// Reads a node file.
    #[must_use]
    pub fn read(path: &str, folder: &str, source: Source, dialect: Dialect) -> Self {
        let options = if dialect.is_original() { ParseOptions::ROCKS_NODE } else { ParseOptions::STRICT };
        let (document, problems) = xml::parse(&source, options);
        let mut guards = HashMap::new();
        if let Some(root) = &document.root {
            collect_guards(root, dialect, &mut guards);
        }
        Self { path: path.into(), folder: folder.into(), source, root: document.root, problems, guards }
    }

    /// The file as our own output names it: `ROLL/nodes/NAME.xml`.
    #[must_use]
    pub fn origin(&self) -> String {
        format!("{}/{}", self.folder, self.path.trim_start_matches("./"))
    }

    /// The line of a place in it, from 1.
    #[must_use]
    pub fn line(&self, span: &Range<usize>) -> u32 {
        u32::try_from(self.source.position(span.start).line).unwrap_or(u32::MAX)
    }
}

fn collect_guards(element: &Element, dialect: Dialect, guards: &mut HashMap<usize, Guard>) {
    if let Some(literal) = literal_guard(element) {
        let [arch, os, release, cond] = literal;
        guards.insert(element.span.start, make_guard(dialect, arch, os, release, cond));
    }
    for child in &element.children {
        if let Node::Element(child) = child {
            collect_guards(child, dialect, guards);
        }
    }
}

/// The values of the attributes that are an element's condition, if it has any and none has an entity in it or a character
/// that the original's unescaped writing would change.
fn literal_guard(element: &Element) -> Option<[Option<&str>; 4]> {
    let mut values = [None; 4];
    for (value, name) in values.iter_mut().zip(GUARD_ATTRIBUTES) {
        if let Some(attribute) = element.attribute(name) {
            *value = Some(attribute.value.literal().filter(|text| !text.contains(['&', '<', '"']))?);
        }
    }
    values.iter().any(Option::is_some).then_some(values)
}

/// The condition that these four attributes are together.
pub fn make_guard(
    dialect: Dialect,
    arch: Option<&str>,
    os: Option<&str>,
    release: Option<&str>,
    cond: Option<&str>,
) -> Guard {
    if dialect.is_original() {
        let text = glued_text(arch, os, release, cond);
        if text.is_empty() { Ok(None) } else { Cond::parse(&text).map(Some) }
    } else {
        strict_conds(arch, os, release, cond).map(Cond::all)
    }
}

/// In `modern` the parts of a condition are kept apart, so that an `or` in one does not swallow the others.
pub(crate) fn strict_conds(
    arch: Option<&str>,
    os: Option<&str>,
    release: Option<&str>,
    cond: Option<&str>,
) -> Result<Vec<Cond>, CondError> {
    let lists = [("arch", arch), ("os", os), ("release", release)];
    let mut conds: Vec<Cond> = lists
        .iter()
        .filter_map(|(name, list)| list.filter(|list| !list.trim().is_empty()).map(|list| Cond::one_of(name, list)))
        .collect();
    if let Some(cond) = cond.filter(|cond| !cond.trim().is_empty()) {
        conds.push(Cond::parse(cond)?);
    }
    Ok(conds)
}
