//! One host's way through the graph (rocks-xml 4.3, 4.4).

use petgraph::graph::NodeIndex;

use super::{EdgeForm, GENERATOR, Graph, Guard, TAIL};
use crate::cond::{CondError, EvalError, Lookup};
use crate::diag::{Diagnostic, Place};

/// What became of an edge for one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EdgeFate {
    /// Its condition holds (or it has none), and it leaves a node that was reached.
    Taken,
    /// Its condition does not hold.
    False,
    /// It leaves a node that was not reached.
    NotReached,
}

/// How a node was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// The edge that reached it first; none for the root.
    pub by: Option<usize>,
    /// Whether it is part of the profile. In the original a node reached by a false edge is passed through but left out.
    pub included: bool,
}

/// The way of one host through the graph.
#[derive(Debug, Clone)]
pub struct Traversal {
    /// The nodes of the profile, in order.
    pub order: Vec<NodeIndex>,
    /// For every node of the graph: how it was reached, if it was.
    pub reached: Vec<Option<Reached>>,
    /// For every edge of the graph: what became of it.
    pub edges: Vec<EdgeFate>,
}

/// Why a graph cannot be walked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GraphError {
    /// No edge mentions the root.
    #[error("node `{0}` is not in the graph")]
    NoSuchRoot(String),
    /// A condition is none.
    #[error("the condition of this edge is not one: {1}")]
    Condition(Place, CondError),
    /// A condition has no value.
    #[error("the condition of this edge has no value: {1}")]
    Value(Place, EvalError),
    /// An edge from a node to itself that is the first to mention it: the original crashes (rocks-xml 2.1).
    #[error("`{0}` includes itself before anything else mentions it")]
    SelfEdge(String),
}

impl From<GraphError> for Diagnostic {
    fn from(error: GraphError) -> Self {
        let (code, place) = match &error {
            GraphError::NoSuchRoot(_) => ("no-such-root", None),
            GraphError::Condition(place, _) => ("bad-condition", Some(place.clone())),
            GraphError::Value(place, _) => ("condition-value", Some(place.clone())),
            GraphError::SelfEdge(_) => ("self-edge", None),
        };
        let diagnostic = Self::error(code, error.to_string());
        match place {
            Some(place) => diagnostic.at(place),
            None => diagnostic,
        }
    }
}

impl Graph {
    /// Walks from `root` for a host with these attributes.
    ///
    /// In the original's dialects this is the original's walk, its traps included: the first edge that reaches a node
    /// decides, and what is behind a false edge of attribute form is still reached. In `modern` a node is part of the
    /// profile if a path of edges that all hold leads to it.
    ///
    /// # Errors
    /// No such root, or a condition that cannot be evaluated.
    pub fn traverse(&self, root: &str, attributes: &dyn Lookup) -> Result<Traversal, GraphError> {
        let original = self.dialect.is_original();
        let (present, broken) = if original {
            self.present(attributes)?
        } else {
            (vec![true; self.edges.len()], vec![false; self.framework.node_count()])
        };
        let root_index = self
            .index(root)
            .filter(|node| {
                let mentions = |(i, e): (usize, &super::Edge)| present[i] && (e.from == *node || e.to == *node);
                self.edges.iter().enumerate().any(mentions)
            })
            .ok_or_else(|| GraphError::NoSuchRoot(root.to_owned()))?;
        let mut walk = Traversal {
            order: Vec::new(),
            reached: vec![None; self.framework.node_count()],
            edges: vec![EdgeFate::NotReached; self.edges.len()],
        };
        walk.reached[root_index.index()] = Some(Reached { by: None, included: true });
        // Depth first, children in the order of their edges: the first edge that reaches a node is the one remembered.
        let mut stack = vec![(root_index, 0)];
        while let Some((node, next)) = stack.last_mut() {
            let Some(&edge_index) = self.leaving[node.index()].get(*next) else {
                stack.pop();
                continue;
            };
            *next += 1;
            let edge = &self.edges[edge_index];
            if broken[edge.from.index()] {
                return Err(GraphError::SelfEdge(self.name(edge.from).to_owned()));
            }
            if !present[edge_index] {
                walk.edges[edge_index] = EdgeFate::False;
                continue;
            }
            if original {
                if walk.reached[edge.to.index()].is_none() {
                    let included = self.holds(&edge.own, &edge.place, attributes)?;
                    walk.reached[edge.to.index()] = Some(Reached { by: Some(edge_index), included });
                    stack.push((edge.to, 0));
                    walk.edges[edge_index] = if included { EdgeFate::Taken } else { EdgeFate::False };
                } else {
                    let holds = self.holds(&edge.own, &edge.place, attributes).unwrap_or(false);
                    walk.edges[edge_index] = if holds { EdgeFate::Taken } else { EdgeFate::False };
                }
            } else if self.holds(&edge.whole, &edge.place, attributes)? {
                walk.edges[edge_index] = EdgeFate::Taken;
                if walk.reached[edge.to.index()].is_none() {
                    walk.reached[edge.to.index()] = Some(Reached { by: Some(edge_index), included: true });
                    stack.push((edge.to, 0));
                }
            } else {
                walk.edges[edge_index] = EdgeFate::False;
            }
        }
        walk.order = self.merge(&walk.reached);
        Ok(walk)
    }

    /// Which edges the original adds to its graph: nested ones only when their whole condition holds (rocks-xml 2.1). And
    /// the nodes that crash it when they are reached: those first mentioned by an edge to themselves.
    fn present(&self, attributes: &dyn Lookup) -> Result<(Vec<bool>, Vec<bool>), GraphError> {
        if let Some(node) = self.self_order {
            return Err(GraphError::SelfEdge(self.name(node).to_owned()));
        }
        let mut mentioned = vec![false; self.framework.node_count()];
        let mut broken = vec![false; self.framework.node_count()];
        let mut present = Vec::with_capacity(self.edges.len());
        for edge in &self.edges {
            let is = edge.form == EdgeForm::Attribute || self.holds(&edge.whole, &edge.place, attributes)?;
            if is {
                if edge.from == edge.to && !mentioned[edge.from.index()] {
                    broken[edge.from.index()] = true;
                }
                mentioned[edge.from.index()] = true;
                mentioned[edge.to.index()] = true;
            }
            present.push(is);
        }
        Ok((present, broken))
    }

    fn holds(&self, guard: &Guard, place: &Place, attributes: &dyn Lookup) -> Result<bool, GraphError> {
        match guard {
            Ok(None) => Ok(true),
            Ok(Some(cond)) => cond
                .holds(attributes, self.dialect.semantics())
                .map_err(|error| GraphError::Value(place.clone(), error)),
            Err(error) => Err(GraphError::Condition(place.clone(), error.clone())),
        }
    }

    /// Puts what was reached into sequence: ordered nodes as the orders say, the others by name where TAIL stands.
    fn merge(&self, reached: &[Option<Reached>]) -> Vec<NodeIndex> {
        let included = |node: NodeIndex| reached[node.index()].is_some_and(|r| r.included);
        let mut ordered = vec![false; self.framework.node_count()];
        for (node, _) in &self.sequence {
            ordered[node.index()] = true;
        }
        let mut others: Vec<NodeIndex> =
            self.framework.node_indices().filter(|node| included(*node) && !ordered[node.index()]).collect();
        others.sort_by_key(|node| self.name(*node));
        let mut order = Vec::new();
        for (node, generator) in &self.sequence {
            if generator.as_deref().is_some_and(|g| !g.is_empty() && g != GENERATOR) {
                continue;
            }
            if self.name(*node) == TAIL {
                order.append(&mut others);
            } else if included(*node) {
                order.push(*node);
            }
        }
        order.append(&mut others);
        order
    }
}
