//! What is wrong with rolls, all of it at once: the original's traps, and what no host could be given.
//!
//! Three looks: at the graph as a whole, at every node file by itself, and at the profile of every root. What one look cannot
//! see another does. Nothing that has an error here is served.

use std::collections::{BTreeSet, HashMap, HashSet};

use petgraph::graph::NodeIndex;

use crate::attr::Attributes;
use crate::cond::{Compare, Cond, Expr};
use crate::diag::{Diagnostic, Diagnostics, Place};
use crate::generate::{self, commands};
use crate::graph::{EdgeForm, Graph, HEAD, TAIL};
use crate::node::{Eval, GUARD_ATTRIBUTES, NodeFile, make_guard};
use crate::profile::{self, Request};
use crate::roll::RollSet;
use crate::xml::{Element, Node};

/// Elements that may stand in `<kickstart>`.
const TOP: &[&str] = &[
    "main",
    "package",
    "pre",
    "post",
    "boot",
    "configure",
    "debug",
    "description",
    "changelog",
    "copyright",
    "include",
    "sinclude",
    "var",
    "eval",
];
/// Elements that may stand in text.
const INLINE: &[&str] = &["file", "eval", "include", "sinclude", "var"];
/// Attributes that the frontend gives every host.
pub const HOST_ATTRIBUTES: &[&str] = &[
    "hostname",
    "appliance",
    "membership",
    "arch",
    "os",
    "rack",
    "rank",
    "root",
    "graph",
    "distribution",
    "version",
    "release",
    "rocks_version",
    "frontend_url",
    "frontend_name",
];

/// Checks `rolls`, read in dialect `modern`; `attributes` are those that hosts will have beside the rolls' defaults.
///
/// `roots` are the nodes that appliances begin at; when there are none, every node that nothing includes is one.
#[must_use]
pub fn check(rolls: &RollSet, attributes: &Attributes, roots: &[String]) -> Diagnostics {
    let mut checker = Checker { rolls, found: Diagnostics::new(), seen: HashSet::new() };
    let mut known: BTreeSet<&str> = HOST_ATTRIBUTES.iter().copied().collect();
    known.extend(attributes.iter().map(|(name, ..)| name.as_str()));
    known.extend(rolls.defaults.iter().map(|(name, _)| name.as_str()));
    checker.graph();
    for (_, file) in rolls.node_files() {
        checker.file(file, &known);
    }
    let roots = roots_of(&rolls.graph, roots);
    checker.unreachable(&roots);
    for root in roots {
        checker.profile(attributes, &root);
    }
    checker.found
}

/// The roots to look at: those given, else the nodes that include others and that nothing includes.
#[must_use]
pub fn roots_of(graph: &Graph, given: &[String]) -> Vec<String> {
    if !given.is_empty() {
        return given.to_vec();
    }
    let included: HashSet<NodeIndex> =
        graph.edges().iter().filter(|edge| edge.from != edge.to).map(|edge| edge.to).collect();
    let mut roots: Vec<String> = graph
        .edges()
        .iter()
        .filter(|edge| !included.contains(&edge.from))
        .map(|edge| graph.name(edge.from).to_owned())
        .collect();
    roots.sort();
    roots.dedup();
    roots
}

struct Checker<'r> {
    rolls: &'r RollSet,
    found: Diagnostics,
    /// Code and place of what was said, so that two looks at one problem say it once.
    seen: HashSet<(&'static str, String)>,
}

impl Checker<'_> {
    fn push(&mut self, diagnostic: Diagnostic) {
        let place = diagnostic.place.as_ref().map_or_else(|| diagnostic.message.clone(), ToString::to_string);
        if self.seen.insert((diagnostic.code, place)) {
            self.found.push(diagnostic);
        }
    }

    fn graph(&mut self) {
        let graph = &self.rolls.graph;
        let mut pairs = HashSet::new();
        let mut first_conditions: HashMap<NodeIndex, (Option<String>, Place)> = HashMap::new();
        for edge in graph.edges() {
            let (from, to) = (graph.name(edge.from), graph.name(edge.to));
            if edge.from == edge.to {
                self.push(Diagnostic::error("self-edge", format!("`{from}` includes itself")).at(edge.place.clone()));
            }
            for name in [from, to] {
                if self.rolls.node(name).is_none() && name != HEAD && name != TAIL {
                    self.push(
                        Diagnostic::error("node-without-file", format!("there is no file for node `{name}`"))
                            .at(edge.place.clone())
                            .hint(format!("add nodes/{name}.xml, or remove the edge")),
                    );
                }
            }
            let condition = match &edge.whole {
                Ok(condition) => condition.as_ref(),
                Err(error) => {
                    self.bad_condition(edge.cond_place.as_ref().unwrap_or(&edge.place), error);
                    None
                }
            };
            if let Some(condition) = condition {
                self.condition(condition, edge.cond_place.as_ref().unwrap_or(&edge.place));
            }
            let own = edge.own.as_ref().ok().and_then(Option::as_ref).map(ToString::to_string);
            match first_conditions.entry(edge.to) {
                std::collections::hash_map::Entry::Vacant(slot) => {
                    slot.insert((own, edge.place.clone()));
                }
                std::collections::hash_map::Entry::Occupied(slot) if slot.get().0 != own => {
                    let message =
                        format!("another edge leads to `{to}` under another condition; here each counts by itself");
                    let (_, first) = slot.get().clone();
                    self.push(Diagnostic::note("first-edge-wins", message).at(edge.place.clone()).related(
                        first,
                        "the original asks only this one's condition, whichever way the node is reached",
                    ));
                }
                std::collections::hash_map::Entry::Occupied(_) => {}
            }
            if edge.form == EdgeForm::Attribute && condition.is_some() && graph.leaving(edge.to).next().is_some() {
                self.push(
                    Diagnostic::note(
                        "false-edge-descendants",
                        format!("when this is false, what `{to}` includes is left out too"),
                    )
                    .at(edge.place.clone())
                    .hint("the original kept it; if that is wanted, include it from elsewhere"),
                );
            }
            if !pairs.insert((edge.from, edge.to, condition.map(ToString::to_string))) {
                self.push(
                    Diagnostic::note("duplicate-edge", format!("`{from}` already includes `{to}`"))
                        .at(edge.place.clone()),
                );
            }
        }
        for cycle in graph.order_cycles() {
            let names: Vec<&str> = cycle.iter().map(|node| graph.name(*node)).collect();
            let message = format!("these nodes are to come before each other: {}", names.join(", "));
            let mut diagnostic = Diagnostic::error("order-cycle", message).hint("remove one of the orders");
            let of_cycle = graph.orders().iter().filter(|o| cycle.contains(&o.head) && cycle.contains(&o.tail));
            for (i, order) in of_cycle.enumerate() {
                if i == 0 {
                    diagnostic = diagnostic.at(order.place.clone());
                } else if i < 6 {
                    diagnostic = diagnostic.related(order.place.clone(), "and this");
                }
            }
            self.push(diagnostic);
        }
    }

    /// Node files that no appliance comes to, whatever the conditions say.
    fn unreachable(&mut self, roots: &[String]) {
        let graph = &self.rolls.graph;
        let mut reached: HashSet<NodeIndex> = HashSet::new();
        let mut todo: Vec<NodeIndex> = roots.iter().filter_map(|root| graph.index(root)).collect();
        while let Some(node) = todo.pop() {
            if reached.insert(node) {
                todo.extend(graph.leaving(node).map(|edge| edge.to));
            }
        }
        let files: Vec<(&str, &NodeFile)> = self.rolls.node_files().collect();
        for (stem, file) in files {
            let name = stem.strip_prefix("extend-").or_else(|| stem.strip_prefix("replace-")).unwrap_or(stem);
            if graph.index(name).is_some_and(|node| reached.contains(&node)) || roots.iter().any(|root| root == name) {
                continue;
            }
            let message = match graph.index(name) {
                None => format!("no graph file mentions node `{name}`"),
                Some(_) => format!("no appliance comes to node `{name}`"),
            };
            let end = file.source.text().find('\n').unwrap_or(file.source.text().len());
            self.push(
                Diagnostic::warning("unreachable-node", message)
                    .at(file.source.at(0..end))
                    .hint(format!("add an edge to `{name}`, or remove the file")),
            );
        }
    }

    fn bad_condition(&mut self, place: &Place, error: &crate::cond::CondError) {
        self.push(
            Diagnostic::error("bad-condition", format!("the condition is not one: {error}")).at(place.clone()).hint(
                "a condition has attributes, texts, numbers, None, and, or, not, comparisons, in and parentheses",
            ),
        );
    }

    /// What is allowed by the grammar and still means trouble.
    fn condition(&mut self, condition: &Cond, place: &Place) {
        let mut traps = Vec::new();
        condition.expr().visit(&mut |expr| match expr {
            Expr::Name(name) if matches!(&**name, "True" | "False" | "true" | "false") => {
                traps.push(Diagnostic::warning("truth-as-attribute", format!("`{name}` is an attribute to the original, and not set")));
            }
            Expr::Arithmetic { .. } | Expr::Method { .. } | Expr::IfElse(_) => {
                traps.push(Diagnostic::error("outside-grammar", "arithmetic, methods and `if` are not part of conditions"));
            }
            Expr::Compare { first, rest } => {
                let mut left: &Expr = first;
                for (op, right) in rest {
                    let ordered = matches!(op, Compare::Less | Compare::LessOrEqual | Compare::Greater | Compare::GreaterOrEqual);
                    let mixed = |a: &Expr, b: &Expr| matches!((a, b), (Expr::Text(_), Expr::Int(_) | Expr::Float(_)));
                    if ordered && (mixed(left, right) || mixed(right, left)) {
                        traps.push(Diagnostic::error("text-with-number", "text is always more than a number to the original"));
                    }
                    let quoted_number = |e: &Expr| matches!(e, Expr::Text(text) if text.parse::<f64>().is_ok());
                    if quoted_number(left) || quoted_number(right) {
                        traps.push(
                            Diagnostic::warning("quoted-number", "a number in quotes is text and never equals an attribute that is a number")
                                .hint("leave the quotes out"),
                        );
                    }
                    let truth_text = |e: &Expr| {
                        matches!(e, Expr::Text(t) if matches!(t.to_ascii_lowercase().as_str(), "true" | "false" | "yes" | "no" | "on" | "off"))
                    };
                    if truth_text(left) || truth_text(right) {
                        traps.push(
                            Diagnostic::warning("quoted-truth", "an attribute with this value is a truth value and never equals the text")
                                .hint("write just the attribute, or `not` and the attribute"),
                        );
                    }
                    left = right;
                }
            }
            _ => {}
        });
        for trap in traps {
            self.push(trap.at(place.clone()));
        }
    }

    fn file(&mut self, file: &NodeFile, known: &BTreeSet<&str>) {
        for problem in file.problems.iter() {
            self.push(problem.clone());
        }
        let Some(root) = &file.root else { return };
        if !matches!(&*root.name, "kickstart" | "jumpstart") {
            self.push(
                Diagnostic::error("root-element", format!("the root element is <{}>, not <kickstart>", root.name))
                    .at(file.source.at(root.span.clone())),
            );
        }
        if file.source.text().match_indices("<?xml").any(|(at, _)| at > 3) {
            self.push(
                Diagnostic::note("declaration-line", "the original drops every line with `<?xml`; here it stays")
                    .at(file.source.at(0..1)),
            );
        }
        for child in &root.children {
            match child {
                Node::Element(child) => self.top(file, child, known),
                Node::Text(text) => {
                    if text.literal().is_none_or(|text| !text.trim().is_empty()) {
                        let source = &file.source.text()[text.span.clone()];
                        let blanks = source.len() - source.trim_start().len();
                        self.push(
                            Diagnostic::warning("stray-text", "text outside of sections means nothing")
                                .at(file.source.at(text.span.start + blanks..text.span.end)),
                        );
                    }
                    self.entities(file, text, known);
                }
            }
        }
    }

    fn top(&mut self, file: &NodeFile, element: &Element, known: &BTreeSet<&str>) {
        let place = file.source.at(element.span.clone());
        if !TOP.contains(&&*element.name) {
            let hint = if commands::standing(&element.name) == commands::Standing::Unknown {
                "leave it out"
            } else {
                "commands stand in <main>"
            };
            let message = format!("<{}> means nothing here", element.name);
            self.push(Diagnostic::error("unknown-element", message).at(place).hint(hint));
            return;
        }
        if matches!(&*element.name, "description" | "changelog" | "copyright") {
            return;
        }
        if let Some(disable) = element.attribute("disable").and_then(|a| a.value.literal().map(ToOwned::to_owned))
            && matches!(disable.as_str(), "0" | "no" | "false" | "off" | "")
        {
            self.push(
                Diagnostic::warning(
                    "disable-value",
                    format!("disable=\"{disable}\": the original disables whatever the value"),
                )
                .at(place.clone())
                .hint("leave `disable` out, or write disable=\"1\""),
            );
        }
        if &*element.name == "main" {
            self.element(file, element, known);
            for child in elements(element) {
                self.command(file, child);
                self.inside(file, child, known);
            }
        } else {
            if &*element.name == "boot" {
                self.boot(file, element);
            }
            self.inside(file, element, known);
        }
    }

    /// The original writes what runs at boot into a here-document without quotes.
    fn boot(&mut self, file: &NodeFile, element: &Element) {
        for child in &element.children {
            let Node::Text(text) = child else { continue };
            let source = &file.source.text()[text.span.clone()];
            if let Some(at) = source.find(['$', '`']) {
                let at = text.span.start + at;
                self.push(
                    Diagnostic::note(
                        "boot-here-document",
                        "the original lets the installer's shell replace this; here it is replaced when it runs",
                    )
                    .at(file.source.at(at..at + 1)),
                );
                return;
            }
        }
    }

    fn command(&mut self, file: &NodeFile, element: &Element) {
        let place = file.source.at(element.span.clone());
        match commands::standing(&element.name) {
            commands::Standing::Current => {}
            commands::Standing::Obsolete(instead) => self.push(
                Diagnostic::error("obsolete-command", format!("<{}> is no longer a kickstart command", element.name))
                    .at(place)
                    .hint(instead),
            ),
            commands::Standing::Unknown if INLINE.contains(&&*element.name) => {}
            commands::Standing::Unknown => {
                let message = format!("<{}> is not a kickstart command", element.name);
                let diagnostic = Diagnostic::error("unknown-command", message).at(place);
                self.push(match commands::similar_to(&element.name) {
                    Some(similar) => diagnostic.hint(format!("did you mean <{similar}>?")),
                    None => diagnostic,
                });
            }
        }
    }

    /// An element's own attributes: entities and condition.
    fn element(&mut self, file: &NodeFile, element: &Element, known: &BTreeSet<&str>) {
        for attribute in &element.attributes {
            self.entities(file, &attribute.value, known);
            if attribute.value.literal().is_some_and(|text| text.contains(['<', '&', '"'])) {
                self.push(
                    Diagnostic::note(
                        "unescaped-attribute",
                        "the original cannot carry `<`, `&` or `\"` in an attribute",
                    )
                    .at(file.source.at(attribute.value.span.clone())),
                );
            }
        }
        let literal = GUARD_ATTRIBUTES.map(|name| element.attribute(name).and_then(|a| a.value.literal()));
        let place = element
            .attribute("cond")
            .map_or_else(|| file.source.at(element.span.clone()), |a| file.source.at(a.value.span.clone()));
        match make_guard(self.rolls.dialect, literal[0], literal[1], literal[2], literal[3]) {
            Ok(Some(condition)) => self.condition(&condition, &place),
            Ok(None) => {}
            Err(error) => self.bad_condition(&place, &error),
        }
    }

    fn inside(&mut self, file: &NodeFile, element: &Element, known: &BTreeSet<&str>) {
        self.element(file, element, known);
        for child in &element.children {
            match child {
                Node::Text(text) => self.entities(file, text, known),
                Node::Element(child) if INLINE.contains(&&*child.name) => {
                    self.inline(file, child);
                    self.inside(file, child, known);
                }
                Node::Element(child) => {
                    let message = format!("<{}> cannot stand in <{}>", child.name, element.name);
                    self.push(Diagnostic::error("unknown-element", message).at(file.source.at(child.span.clone())));
                }
            }
        }
    }

    fn inline(&mut self, file: &NodeFile, element: &Element) {
        let place = || file.source.at(element.span.clone());
        if &*element.name == "eval" && element.attribute("cond").is_some() {
            self.push(Diagnostic::note("eval-condition", "the original runs this whatever the condition").at(place()));
        }
        if &*element.name != "file" {
            return;
        }
        match element.attribute("name").map(|a| a.value.literal()) {
            None => self.push(Diagnostic::error("file-without-name", "<file> has no `name`").at(place())),
            Some(Some(name)) if !name.starts_with(['/', '$']) => {
                self.push(Diagnostic::error("relative-file", format!("`{name}` is not an absolute path")).at(place()));
            }
            _ => {}
        }
        let text: String = element
            .children
            .iter()
            .filter_map(|child| match child {
                Node::Text(text) => text.literal(),
                Node::Element(_) => None,
            })
            .collect();
        if text.lines().any(|line| line == "EOF") {
            self.push(
                Diagnostic::note(
                    "here-document",
                    "a line `EOF` ends the original's here-document early; here it does not",
                )
                .at(place()),
            );
        }
        for (name, allowed) in [("mode", &["create", "append", "pipe"][..]), ("vars", &["literal", "expanded"][..])] {
            if let Some(value) = element.attribute(name).and_then(|a| a.value.literal())
                && !allowed.contains(&value)
            {
                let message = format!("{name}=\"{value}\": it is one of {}", allowed.join(", "));
                self.push(Diagnostic::error("bad-file-attribute", message).at(place()));
            }
        }
    }

    fn entities(&mut self, file: &NodeFile, text: &crate::xml::Text, known: &BTreeSet<&str>) {
        for (name, span) in text.entities() {
            if !known.contains(name) {
                self.push(
                    Diagnostic::error("undefined-entity", format!("attribute `{name}` is not set"))
                        .at(file.source.at(span))
                        .hint(format!(
                            "give it a default in the roll's attributes.json, or set it: `rocks set attr {name} VALUE`"
                        )),
                );
            }
        }
    }

    /// The profile of one root, as a host with these attributes would have it.
    fn profile(&mut self, attributes: &Attributes, root: &str) {
        let mut attributes = attributes.clone();
        self.rolls.complete(&mut attributes);
        profile::set_host(&mut attributes, self.rolls.dialect, root, "x86_64", "linux", None);
        for name in HOST_ATTRIBUTES {
            if let Ok(name) = crate::ids::AttrName::new(name) {
                attributes.set_default(crate::attr::Scope::Roll, name, "x");
            }
        }
        let request = Request { root, attributes: &attributes, eval: Eval::Stub, only_rolls: None };
        let problems = match profile::build(self.rolls, &request) {
            Ok(profile) => generate::kickstart(&profile).err(),
            Err(problems) => Some(problems),
        };
        for problem in problems.into_iter().flatten() {
            // What the text of the files shows was reported with its place.
            let known_otherwise = matches!(
                problem.code,
                "undefined-entity" | "unknown-command" | "obsolete-command" | "node-without-file"
            );
            if !known_otherwise || !self.found.has_errors() {
                self.push(problem);
            }
        }
    }
}

fn elements(element: &Element) -> impl Iterator<Item = &Element> {
    element.children.iter().filter_map(|child| match child {
        Node::Element(element) => Some(element),
        Node::Text(_) => None,
    })
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
