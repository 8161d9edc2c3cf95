//! Graph files to statements (rocks-xml 2).

use super::{EdgeForm, Guard};
use crate::cond::{Cond, glued_text};
use crate::diag::{Diagnostic, Diagnostics, Place, Source};
use crate::dialect::Dialect;
use crate::xml::{self, Element, Node, ParseOptions};

/// What one graph file says.
#[derive(Debug, Clone)]
pub struct GraphFile {
    /// The roll that `<graph roll=...>` names; `base` when it names none, as in the original.
    pub roll: Box<str>,
    pub(super) edges: Vec<EdgeStatement>,
    pub(super) orders: Vec<OrderStatement>,
}

#[derive(Debug, Clone)]
pub(super) struct EdgeStatement {
    pub(super) from: Box<str>,
    pub(super) to: Box<str>,
    pub(super) form: EdgeForm,
    pub(super) own: Guard,
    pub(super) whole: Guard,
    pub(super) place: Place,
    pub(super) cond_place: Option<Place>,
}

#[derive(Debug, Clone)]
pub(super) struct OrderStatement {
    pub(super) head: Box<str>,
    pub(super) tail: Box<str>,
    pub(super) generator: Option<Box<str>>,
    pub(super) place: Place,
}

/// Elements of a graph file that stand where nothing else is looked for.
const KNOWN: &[&str] = &["graph", "description", "changelog", "copyright"];

/// Reads a graph file. Unknown elements mean nothing, as in the original; `check` reports them.
#[must_use]
pub fn read(source: &Source, dialect: Dialect) -> (GraphFile, Diagnostics) {
    let (document, mut diagnostics) = xml::parse(source, ParseOptions::STRICT);
    let mut reader = Reader {
        source,
        dialect,
        file: GraphFile { roll: "base".into(), edges: Vec::new(), orders: Vec::new() },
        diagnostics: Diagnostics::new(),
    };
    if let Some(root) = &document.root {
        reader.element(root);
    }
    diagnostics.extend(reader.diagnostics);
    (reader.file, diagnostics)
}

struct Reader<'s> {
    source: &'s Source,
    dialect: Dialect,
    file: GraphFile,
    diagnostics: Diagnostics,
}

/// The parts of a condition as an element has them.
#[derive(Default, Clone)]
struct Parts {
    arch: Option<String>,
    os: Option<String>,
    release: Option<String>,
    cond: Option<String>,
}

impl Reader<'_> {
    fn element(&mut self, element: &Element) {
        match &*element.name {
            "graph" => {
                if let Some(roll) = self.value(element, "roll").filter(|roll| !roll.is_empty()) {
                    self.file.roll = roll.into();
                }
            }
            "edge" => return self.edge(element),
            "order" => return self.order(element),
            // The original reads on inside of what it does not know, and says nothing.
            name if !self.dialect.is_original() && !KNOWN.contains(&name) => {
                self.diagnostics.push(
                    Diagnostic::error("unknown-element", format!("<{name}> means nothing in a graph file"))
                        .at(self.source.at(element.span.clone()))
                        .hint("there are <graph>, <edge> with <to> or <from>, and <order> with <head> or <tail>"),
                );
            }
            _ => {}
        }
        for child in elements(element) {
            self.element(child);
        }
    }

    fn value(&mut self, element: &Element, name: &str) -> Option<String> {
        let text = &element.attribute(name)?.value;
        self.resolved(text)
    }

    /// Graph files have no entities: a reference is an error (rocks-xml 2).
    fn resolved(&mut self, text: &xml::Text) -> Option<String> {
        if let Some((name, span)) = text.entities().next() {
            self.diagnostics.push(
                Diagnostic::error("entity-in-graph", format!("`&{name};` cannot be used in a graph file"))
                    .at(self.source.at(span))
                    .hint("graph files have no attributes; use a condition"),
            );
            return None;
        }
        text.literal().map(ToOwned::to_owned)
    }

    /// The text of an element and of all elements in it, not trimmed (rocks-xml 2).
    fn text(&mut self, element: &Element) -> String {
        let mut out = String::new();
        for child in &element.children {
            match child {
                Node::Text(text) => out.push_str(&self.resolved(text).unwrap_or_default()),
                Node::Element(inner) => out.push_str(&self.text(inner)),
            }
        }
        // The original keeps blanks and then finds no such node; nobody means that.
        if self.dialect.is_original() { out } else { out.trim().to_owned() }
    }

    fn parts(&mut self, element: &Element) -> Parts {
        Parts {
            arch: self.value(element, "arch"),
            os: self.value(element, "os"),
            release: self.value(element, "release"),
            cond: self.value(element, "cond"),
        }
    }

    /// The conditions of an edge element, alone and together with that of a nested element.
    fn guards(&self, outer: &Parts, inner: Option<&Parts>) -> (Guard, Guard) {
        if !self.dialect.is_original() {
            let own = strict_guards(outer).map(Cond::all);
            let whole = strict_guards(outer).and_then(|mut conds| {
                if let Some(inner) = inner {
                    conds.extend(strict_guards(inner)?);
                }
                Ok(Cond::all(conds))
            });
            return (own, whole);
        }
        let glue =
            |p: &Parts, cond: Option<&str>| glued_text(p.arch.as_deref(), p.os.as_deref(), p.release.as_deref(), cond);
        let own = glue(outer, outer.cond.as_deref());
        let whole = match inner {
            None => own.clone(),
            Some(inner) => {
                // As the original glues it: an empty outer condition leaves a text that is no expression.
                let cond = match &inner.cond {
                    Some(cond) => format!("( {own} and {cond} )"),
                    None => own.clone(),
                };
                glue(inner, Some(&cond))
            }
        };
        (guard(&own), guard(&whole))
    }

    /// Where a condition stands: the value of the innermost `cond`.
    fn cond_place(&self, outer: &Element, inner: Option<&Element>) -> Option<Place> {
        let cond = inner.and_then(|inner| inner.attribute("cond")).or_else(|| outer.attribute("cond"))?;
        Some(self.source.at(cond.value.span.clone()))
    }

    fn edge(&mut self, element: &Element) {
        let place = self.source.at(element.span.clone());
        let outer = self.parts(element);
        let mut from = self.value(element, "from");
        let mut to = self.value(element, "to");
        for child in elements(element) {
            let is_to = match &*child.name {
                "to" => true,
                "from" => false,
                _ => continue,
            };
            let name = self.text(child);
            let inner = self.parts(child);
            let (own, whole) = self.guards(&outer, Some(&inner));
            // The nested end replaces the attribute's, for this edge and for what comes after it.
            if is_to {
                to = Some(name)
            } else {
                from = Some(name)
            }
            if let (Some(from), Some(to)) = (&from, &to) {
                let (from, to) = (from.as_str().into(), to.as_str().into());
                let place = self.source.at(child.span.clone());
                let cond_place = self.cond_place(element, Some(child));
                self.file.edges.push(EdgeStatement { from, to, form: EdgeForm::Nested, own, whole, place, cond_place });
            } else {
                let missing = if is_to { "from" } else { "to" };
                self.incomplete(element, "edge", missing);
            }
            if is_to { to = None } else { from = None }
        }
        if let (Some(from), Some(to)) = (&from, &to)
            && !from.is_empty()
            && !to.is_empty()
        {
            let (own, whole) = self.guards(&outer, None);
            let (from, to) = (from.as_str().into(), to.as_str().into());
            let cond_place = self.cond_place(element, None);
            self.file.edges.push(EdgeStatement { from, to, form: EdgeForm::Attribute, own, whole, place, cond_place });
        } else if elements(element).next().is_none() {
            self.incomplete(element, "edge", if from.is_none() { "from" } else { "to" });
        }
    }

    fn order(&mut self, element: &Element) {
        let place = self.source.at(element.span.clone());
        let mut head = self.value(element, "head");
        let mut tail = self.value(element, "tail");
        let default = self.value(element, "gen");
        for child in elements(element) {
            let is_head = match &*child.name {
                "head" => true,
                "tail" => false,
                _ => continue,
            };
            let name = self.text(child);
            let generator = self.value(child, "gen").or_else(|| default.clone());
            if is_head {
                head = Some(name)
            } else {
                tail = Some(name)
            }
            if let (Some(head), Some(tail)) = (&head, &tail) {
                self.file.orders.push(OrderStatement {
                    head: head.as_str().into(),
                    tail: tail.as_str().into(),
                    generator: generator.map(Into::into),
                    place: self.source.at(child.span.clone()),
                });
            } else {
                self.incomplete(element, "order", if is_head { "tail" } else { "head" });
            }
            if is_head { head = None } else { tail = None }
        }
        match (head.filter(|h| !h.is_empty()), tail.filter(|t| !t.is_empty())) {
            (Some(head), Some(tail)) => self.file.orders.push(OrderStatement {
                head: head.into(),
                tail: tail.into(),
                generator: default.map(Into::into),
                place,
            }),
            (head, _) if elements(element).next().is_none() => {
                self.incomplete(element, "order", if head.is_none() { "head" } else { "tail" });
            }
            _ => {}
        }
    }

    fn incomplete(&mut self, element: &Element, what: &str, missing: &str) {
        // The original makes an edge to nowhere of it, or none, and says nothing.
        if !self.dialect.is_original() {
            let message = format!("<{what}> has no `{missing}`");
            self.diagnostics
                .push(Diagnostic::error("incomplete-edge", message).at(self.source.at(element.span.clone())));
        }
    }
}

fn guard(text: &str) -> Guard {
    if text.is_empty() { Ok(None) } else { Cond::parse(text).map(Some) }
}

fn strict_guards(parts: &Parts) -> Result<Vec<Cond>, crate::cond::CondError> {
    crate::node::strict_conds(
        parts.arch.as_deref(),
        parts.os.as_deref(),
        parts.release.as_deref(),
        parts.cond.as_deref(),
    )
}

fn elements(element: &Element) -> impl Iterator<Item = &Element> {
    element.children.iter().filter_map(|child| match child {
        Node::Element(element) => Some(element),
        Node::Text(_) => None,
    })
}
