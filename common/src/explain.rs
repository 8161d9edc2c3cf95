//! Why something is in a profile, or is not: the edges, conditions and scopes that led there.

use serde::Serialize;

use crate::attr::{Attributes, Scope};
use crate::graph::EdgeFate;
use crate::profile::{Origin, Profile};
use crate::roll::RollSet;

/// One edge of the way to a node, or one that did not lead there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EdgeStep {
    /// The including node.
    pub from: String,
    /// The included node.
    pub to: String,
    /// Its condition, if it has one.
    pub condition: Option<String>,
    /// The attributes that the condition reads, with their values and scopes.
    pub attributes: Vec<AttributeValue>,
    /// What became of it.
    pub fate: EdgeFate,
    /// `file:line:column`.
    pub place: String,
}

/// An attribute's value, and every scope that sets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AttributeValue {
    /// Its name.
    pub name: String,
    /// The value that holds; none: it is not set.
    pub value: Option<String>,
    /// The scope of that value.
    pub scope: Option<Scope>,
    /// All scopes that set it, the least specific first.
    pub layers: Vec<(Scope, String)>,
    /// Whether the profile read it.
    pub read: bool,
}

/// How a node came to be in a profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeReason {
    /// Its name.
    pub node: String,
    /// Whether it is part of the profile.
    pub included: bool,
    /// Its place in the order, from 1.
    pub position: Option<usize>,
    /// The edges from the root to it.
    pub path: Vec<EdgeStep>,
    /// The edges to it that did not hold or were not reached.
    pub others: Vec<EdgeStep>,
}

/// Where something stands, and how its node came to be in the profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// What: `vim-enhanced`, `base/nodes/ssh.xml post.1`.
    pub what: String,
    /// Where it comes from.
    pub origin: Origin,
    /// How its node came to be there.
    pub reason: NodeReason,
}

/// How node `name` came to be in `profile`; none if no graph file mentions it.
#[must_use]
pub fn node(rolls: &RollSet, profile: &Profile, attributes: &Attributes, name: &str) -> Option<NodeReason> {
    let index = rolls.graph.index(name)?;
    let reached = profile.traversal.reached[index.index()];
    let mut path = Vec::new();
    let mut at = index;
    // Every node was reached by an edge from one that was reached before it, so this ends at the root.
    while let Some(edge) = profile.traversal.reached[at.index()].and_then(|reached| reached.by) {
        path.push(step(rolls, profile, attributes, edge));
        at = rolls.graph.edges()[edge].from;
    }
    path.reverse();
    let on_path = reached.and_then(|reached| reached.by);
    let others = rolls
        .graph
        .edges()
        .iter()
        .enumerate()
        .filter(|(i, edge)| edge.to == index && Some(*i) != on_path)
        .map(|(i, _)| step(rolls, profile, attributes, i))
        .collect();
    Some(NodeReason {
        node: name.to_owned(),
        included: reached.is_some_and(|reached| reached.included),
        position: profile.order().position(|other| other == name).map(|at| at + 1),
        path,
        others,
    })
}

fn step(rolls: &RollSet, profile: &Profile, attributes: &Attributes, edge: usize) -> EdgeStep {
    let fate = profile.traversal.edges[edge];
    let edge = &rolls.graph.edges()[edge];
    let guard = if profile.dialect.is_original() { &edge.own } else { &edge.whole };
    let condition = guard.as_ref().ok().and_then(Option::as_ref);
    EdgeStep {
        from: rolls.graph.name(edge.from).to_owned(),
        to: rolls.graph.name(edge.to).to_owned(),
        condition: condition.map(ToString::to_string),
        attributes: condition
            .map(|c| c.names().iter().map(|n| attribute(profile, attributes, n)).collect())
            .unwrap_or_default(),
        fate,
        place: edge.place.to_string(),
    }
}

/// The value of attribute `name` and where it was set.
#[must_use]
pub fn attribute(profile: &Profile, attributes: &Attributes, name: &str) -> AttributeValue {
    let holds = attributes.get_with_scope(name);
    AttributeValue {
        name: name.to_owned(),
        value: holds.map(|(value, _)| value.to_owned()),
        scope: holds.map(|(_, scope)| scope),
        layers: attributes.layers(name).map(|(scope, value)| (scope, value.to_owned())).collect(),
        read: profile.reads.contains(name),
    }
}

/// Every `<package>` element that names `package`, wanted or kept out.
#[must_use]
pub fn package(rolls: &RollSet, profile: &Profile, attributes: &Attributes, package: &str) -> Vec<Found> {
    let of = |what: String, origin: &Origin| found(rolls, profile, attributes, what, origin);
    profile
        .packages
        .iter()
        .filter(|p| p.name == package)
        .filter_map(|p| of(if p.enabled { p.name.clone() } else { format!("-{}", p.name) }, &p.origin))
        .collect()
}

/// The sections of node `name`, all or the one with this number among its kind: `ssh`, `ssh#2`.
#[must_use]
pub fn section(rolls: &RollSet, profile: &Profile, attributes: &Attributes, name: &str) -> Vec<Found> {
    let (name, number) = match name.split_once('#') {
        Some((name, number)) => (name, number.parse::<u32>().ok()),
        None => (name, None),
    };
    let fits = |origin: &Origin| origin.node == name || origin.file == name;
    profile
        .sections
        .iter()
        .filter(|s| s.number > 0 && fits(&s.origin) && number.is_none_or(|n| n == s.number))
        .filter_map(|s| {
            let what = format!("{} {}.{}", s.origin.file, s.kind.name(), s.number);
            found(rolls, profile, attributes, what, &s.origin)
        })
        .collect()
}

fn found(rolls: &RollSet, profile: &Profile, attributes: &Attributes, what: String, origin: &Origin) -> Option<Found> {
    let reason = node(rolls, profile, attributes, &origin.node)?;
    Some(Found { what, origin: origin.clone(), reason })
}

impl Found {
    /// For people: where it is from, and how its node came into the profile.
    #[must_use]
    pub fn render(&self) -> String {
        format!("{} at {}:{}\n{}", self.what, self.origin.file, self.origin.line, self.reason.render())
    }
}

impl NodeReason {
    /// For people: the way, one edge a line, and what did not lead there.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = match (self.included, self.position) {
            (true, Some(position)) => format!("node {} is in the profile, number {position}\n", self.node),
            _ => format!("node {} is not in the profile\n", self.node),
        };
        if self.included {
            if self.path.is_empty() {
                out.push_str("  it is the root\n");
            }
            for step in &self.path {
                out.push_str(&format!("  {}\n", step.render()));
            }
        }
        for step in &self.others {
            let why = match step.fate {
                EdgeFate::Taken => "also",
                EdgeFate::False => "not, the condition is false:",
                EdgeFate::NotReached => "not, its node is not reached:",
            };
            out.push_str(&format!("  {why} {}\n", step.render()));
        }
        out
    }
}

impl EdgeStep {
    fn render(&self) -> String {
        let mut out = format!("{} -> {}", self.from, self.to);
        if let Some(condition) = &self.condition {
            out.push_str(&format!("  if {condition}"));
            let values: Vec<String> = self.attributes.iter().map(AttributeValue::render).collect();
            if !values.is_empty() {
                out.push_str(&format!("  ({})", values.join(", ")));
            }
        }
        format!("{out}  at {}", self.place)
    }
}

impl AttributeValue {
    /// `name = 'value' from global`, or that it is not set.
    #[must_use]
    pub fn render(&self) -> String {
        match (&self.value, self.scope) {
            (Some(value), Some(scope)) => format!("{} = {value:?} from {scope}", self.name),
            _ => format!("{} is not set", self.name),
        }
    }

    /// For people: the value that holds, every scope that sets it, and whether the profile reads it.
    #[must_use]
    pub fn render_all(&self) -> String {
        let mut text = self.render() + "\n";
        for (scope, value) in &self.layers {
            text.push_str(&format!("  {scope}: {value:?}\n"));
        }
        text + if self.read { "  the profile reads it\n" } else { "  the profile does not read it\n" }
    }
}
