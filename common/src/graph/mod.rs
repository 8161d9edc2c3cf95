//! The configuration graph: which node includes which (`edge`), and in which sequence they come (`order`).
//!
//! A [`Graph`] is what the graph files say, once for all hosts. [`Graph::traverse`] walks it from a root for one host's
//! attributes. The order of all nodes does not depend on attributes, so it is worked out when the graph is made.

mod order;
mod read;
mod traverse;

use std::collections::HashMap;

use petgraph::graph::NodeIndex;
use petgraph::stable_graph::StableDiGraph;
use serde::Serialize;

pub use read::{GraphFile, read};
pub use traverse::{EdgeFate, GraphError, Reached, Traversal};

use crate::cond::{Cond, CondError};
use crate::diag::Place;
use crate::dialect::Dialect;

/// The generator whose nodes are kept when an order names one (rocks-xml 2.2).
pub const GENERATOR: &str = "kgen";
/// The node that begins every order; it has no file.
pub const HEAD: &str = "HEAD";
/// The node where nodes without order come; it has no file.
pub const TAIL: &str = "TAIL";

/// How an edge was written, which decides what its condition does in the original (rocks-xml 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EdgeForm {
    /// `<edge from="a" to="b"/>`: if it is false, `b` is left out, but what `b` includes is not.
    Attribute,
    /// `<edge from="a"><to>b</to></edge>`: if it is false, there is no edge.
    Nested,
}

/// A condition as it was found: none, one, or text that is none.
pub type Guard = Result<Option<Cond>, CondError>;

/// "From includes to", under a condition.
#[derive(Debug, Clone)]
pub struct Edge {
    /// The including node.
    pub from: NodeIndex,
    /// The included node.
    pub to: NodeIndex,
    /// How it was written.
    pub form: EdgeForm,
    /// The condition of the `edge` element alone: what the original remembers for the included node.
    pub own: Guard,
    /// The whole condition, that of the nested element included.
    pub whole: Guard,
    /// The roll that the file names.
    pub roll: Box<str>,
    /// Where it stands.
    pub place: Place,
    /// Where its condition stands, if it has one.
    pub cond_place: Option<Place>,
}

/// "Head comes before tail".
#[derive(Debug, Clone)]
pub struct Order {
    /// The earlier node.
    pub head: NodeIndex,
    /// The later node.
    pub tail: NodeIndex,
    /// The generator that it is for; none: all.
    pub generator: Option<Box<str>>,
    /// Where it stands.
    pub place: Place,
}

/// What all graph files say together.
#[derive(Debug, Clone)]
pub struct Graph {
    dialect: Dialect,
    names: HashMap<Box<str>, NodeIndex>,
    /// Nodes by name; edges are indices into `edges`.
    framework: StableDiGraph<Box<str>, usize>,
    edges: Vec<Edge>,
    orders: Vec<Order>,
    /// The edges that leave each node, in the order in which they stand in the files.
    leaving: Vec<Vec<usize>>,
    /// All nodes of the order graph in sequence, each with the generator of the edge by which it was reached.
    sequence: Vec<(NodeIndex, Option<Box<str>>)>,
    /// An order that crashes the original: a node before itself, mentioned for the first time.
    self_order: Option<NodeIndex>,
}

impl Graph {
    /// The graph of these statements, in the order in which they stand in the files.
    #[must_use]
    pub fn new(dialect: Dialect, files: Vec<GraphFile>) -> Self {
        let mut graph = Self {
            dialect,
            names: HashMap::new(),
            framework: StableDiGraph::new(),
            edges: Vec::new(),
            orders: Vec::new(),
            leaving: Vec::new(),
            sequence: Vec::new(),
            self_order: None,
        };
        for file in files {
            for edge in file.edges {
                let (from, to) = (graph.node(&edge.from), graph.node(&edge.to));
                let index = graph.edges.len();
                graph.framework.add_edge(from, to, index);
                graph.leaving[from.index()].push(index);
                graph.edges.push(Edge {
                    from,
                    to,
                    form: edge.form,
                    own: edge.own,
                    whole: edge.whole,
                    roll: file.roll.clone(),
                    place: edge.place,
                    cond_place: edge.cond_place,
                });
            }
            for order in file.orders {
                let (head, tail) = (graph.node(&order.head), graph.node(&order.tail));
                if head == tail && !graph.orders.iter().any(|o| o.head == head || o.tail == head) {
                    graph.self_order.get_or_insert(head);
                }
                graph.orders.push(Order { head, tail, generator: order.generator, place: order.place });
            }
        }
        graph.sequence = order::sequence(&graph);
        graph
    }

    fn node(&mut self, name: &str) -> NodeIndex {
        if let Some(index) = self.names.get(name) {
            return *index;
        }
        let index = self.framework.add_node(name.into());
        self.names.insert(name.into(), index);
        self.leaving.push(Vec::new());
        index
    }

    /// The node called `name`, if a file mentions it.
    #[must_use]
    pub fn index(&self, name: &str) -> Option<NodeIndex> {
        self.names.get(name).copied()
    }

    /// The name of `node`.
    #[must_use]
    pub fn name(&self, node: NodeIndex) -> &str {
        &self.framework[node]
    }

    /// All nodes that a file mentions, those of orders included, in order of first mention.
    pub fn nodes(&self) -> impl Iterator<Item = NodeIndex> {
        self.framework.node_indices()
    }

    /// All edges, in file order.
    #[must_use]
    pub fn edges(&self) -> &[Edge] {
        &self.edges
    }

    /// The edges that leave `node`, in file order.
    pub fn leaving(&self, node: NodeIndex) -> impl Iterator<Item = &Edge> {
        self.leaving[node.index()].iter().map(|edge| &self.edges[*edge])
    }

    /// All orders, in file order.
    #[must_use]
    pub fn orders(&self) -> &[Order] {
        &self.orders
    }

    /// Groups of nodes that the orders want before themselves, each sorted by name.
    #[must_use]
    pub fn order_cycles(&self) -> Vec<Vec<NodeIndex>> {
        let mut orders = petgraph::graph::DiGraph::<(), ()>::with_capacity(self.names.len(), self.orders.len());
        for _ in 0..self.framework.node_count() {
            orders.add_node(());
        }
        for order in &self.orders {
            orders.add_edge(order.head, order.tail, ());
        }
        let loops = |node: NodeIndex| orders.contains_edge(node, node);
        let mut cycles: Vec<Vec<NodeIndex>> = petgraph::algo::tarjan_scc(&orders)
            .into_iter()
            .filter(|group| group.len() > 1 || group.iter().any(|node| loops(*node)))
            .collect();
        for cycle in &mut cycles {
            cycle.sort_by_key(|node| self.name(*node));
        }
        cycles.sort_by_key(|cycle| self.name(cycle[0]).to_owned());
        cycles
    }
}
