//! The sequence of all ordered nodes: the original's depth-first topological sort, made reproducible (rocks-xml 4.2, 4.5).
//!
//! The original's dictionaries are keyed by memory address, so its order differs from run to run; only the constraints are
//! contractual. With insertion-ordered maps the same procedure always gives the same sequence.

use petgraph::graph::NodeIndex;

use super::{Graph, HEAD, TAIL};

#[derive(Clone)]
struct Arc {
    from: usize,
    to: usize,
    /// Index into the graph's orders; none for an arc that the procedure added.
    order: Option<usize>,
}

/// The order graph with its degrees; arcs leave a node in the order in which they were added.
struct Arcs {
    /// Nodes in order of first mention in an order.
    nodes: Vec<usize>,
    /// The nodes that arcs leave, in the order in which they got their first.
    sources: Vec<usize>,
    leaving: Vec<Vec<Arc>>,
    in_degree: Vec<usize>,
    out_degree: Vec<usize>,
}

impl Arcs {
    fn add(&mut self, arc: Arc) {
        self.out_degree[arc.from] += 1;
        self.in_degree[arc.to] += 1;
        self.append(arc);
    }

    fn append(&mut self, arc: Arc) {
        if self.leaving[arc.from].is_empty() {
            self.sources.push(arc.from);
        }
        self.leaving[arc.from].push(arc);
    }

    /// Turns every arc round. Done twice it gives the same graph with its arcs in another order, which is why it is not
    /// left out.
    fn reverse(&mut self) {
        std::mem::swap(&mut self.in_degree, &mut self.out_degree);
        let sources = std::mem::take(&mut self.sources);
        let empty = vec![Vec::new(); self.leaving.len()];
        let mut old = std::mem::replace(&mut self.leaving, empty);
        for source in sources {
            for arc in std::mem::take(&mut old[source]) {
                self.append(Arc { from: arc.to, to: arc.from, order: arc.order });
            }
        }
    }

    /// Walks depth first from `root`, or from every node that nothing leads to, and calls `finish` for each node when all
    /// behind it is done, with the arc by which it was reached.
    fn walk(&self, root: Option<usize>, finish: &mut dyn FnMut(usize, Option<&Arc>)) -> Vec<bool> {
        let mut seen = vec![false; self.leaving.len()];
        let roots: Vec<usize> = match root {
            Some(root) => vec![root],
            None => self.nodes.iter().copied().filter(|node| self.in_degree[*node] == 0).collect(),
        };
        // (node, the arc that led to it, how many of its arcs were followed)
        let mut stack: Vec<(usize, Option<&Arc>, usize)> = Vec::new();
        for root in roots {
            if seen[root] {
                continue;
            }
            seen[root] = true;
            stack.push((root, None, 0));
            while let Some(top) = stack.last_mut() {
                match self.leaving[top.0].get(top.2) {
                    Some(arc) => {
                        top.2 += 1;
                        if !seen[arc.to] {
                            seen[arc.to] = true;
                            stack.push((arc.to, Some(arc), 0));
                        }
                    }
                    None => {
                        let (node, reached_by, _) = *top;
                        stack.pop();
                        finish(node, reached_by);
                    }
                }
            }
        }
        seen
    }
}

pub(super) fn sequence(graph: &Graph) -> Vec<(NodeIndex, Option<Box<str>>)> {
    let count = graph.framework.node_count();
    let mut arcs = Arcs {
        nodes: Vec::new(),
        sources: Vec::new(),
        leaving: vec![Vec::new(); count],
        in_degree: vec![0; count],
        out_degree: vec![0; count],
    };
    let mut mentioned = vec![false; count];
    for (index, order) in graph.orders.iter().enumerate() {
        let (from, to) = (order.head.index(), order.tail.index());
        for node in [from, to] {
            if !std::mem::replace(&mut mentioned[node], true) {
                arcs.nodes.push(node);
            }
        }
        arcs.add(Arc { from, to, order: Some(index) });
    }
    let ordered = |name| graph.index(name).map(NodeIndex::index).filter(|node| mentioned[*node]);
    let (head, tail) = (ordered(HEAD), ordered(TAIL));
    let nodes = arcs.nodes.clone();

    // What leads to HEAD is found by walking backwards from it; HEAD leads to everything else that nothing leads to.
    arcs.reverse();
    let before_head = arcs.walk(head, &mut |_, _| {});
    arcs.reverse();
    if let Some(head) = head {
        for node in &nodes {
            if !before_head[*node] && arcs.in_degree[*node] == 0 {
                arcs.add(Arc { from: head, to: *node, order: None });
            }
        }
    }
    let after_tail = arcs.walk(tail, &mut |_, _| {});
    if let Some(tail) = tail {
        for node in &nodes {
            if !after_tail[*node] && arcs.out_degree[*node] == 0 {
                arcs.add(Arc { from: *node, to: tail, order: None });
            }
        }
    }
    let mut finished = Vec::with_capacity(nodes.len());
    arcs.walk(None, &mut |node, reached_by| {
        let generator = reached_by.and_then(|arc| arc.order).and_then(|order| graph.orders[order].generator.clone());
        finished.push((NodeIndex::new(node), generator));
    });
    finished.reverse();
    finished
}
