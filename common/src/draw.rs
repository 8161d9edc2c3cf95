//! The graph as a picture: what was taken, what a condition left out, and why.

mod layout;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::graph::EdgeFate;
use crate::profile::Profile;
use crate::roll::RollSet;

/// What is drawn: the nodes that the walk met, and the edges that leave nodes of the profile.
struct Picture<'p> {
    /// Name, roll, position in the order (none: left out).
    nodes: Vec<(&'p str, &'p str, Option<usize>)>,
    /// From, to, taken, condition.
    edges: Vec<(usize, usize, bool, Option<String>)>,
}

fn picture<'p>(rolls: &'p RollSet, profile: &'p Profile) -> Picture<'p> {
    let positions: BTreeMap<&str, usize> = profile.order().enumerate().map(|(i, name)| (name, i + 1)).collect();
    let roll_of: BTreeMap<&str, &str> = profile.nodes.iter().map(|n| (n.name.as_str(), n.roll.as_str())).collect();
    let mut shown = BTreeSet::new();
    let mut drawn = BTreeSet::new();
    for (i, edge) in rolls.graph.edges().iter().enumerate() {
        if profile.traversal.edges[i] != EdgeFate::NotReached {
            shown.extend([edge.from, edge.to]);
        }
    }
    shown.extend(rolls.graph.index(&profile.root));
    let nodes: Vec<_> = shown
        .iter()
        .map(|node| {
            let name = rolls.graph.name(*node);
            (name, roll_of.get(name).copied().unwrap_or(""), positions.get(name).copied())
        })
        .collect();
    let number: BTreeMap<_, _> = shown.iter().enumerate().map(|(i, node)| (*node, i)).collect();
    let mut edges = Vec::new();
    for (i, edge) in rolls.graph.edges().iter().enumerate() {
        let fate = profile.traversal.edges[i];
        if fate == EdgeFate::NotReached || !drawn.insert((edge.from, edge.to, fate == EdgeFate::Taken)) {
            continue;
        }
        let condition = edge.whole.as_ref().ok().and_then(Option::as_ref).map(ToString::to_string);
        edges.push((number[&edge.from], number[&edge.to], fate == EdgeFate::Taken, condition));
    }
    Picture { nodes, edges }
}

/// A colour for each roll, the same in every picture.
fn colour(roll: &str) -> &'static str {
    const COLOURS: [&str; 12] = [
        "#cfe2f3", "#d9ead3", "#fff2cc", "#f4cccc", "#d9d2e9", "#fce5cd", "#d0e0e3", "#ead1dc", "#e6e6c8", "#c9daf8",
        "#dfe7d8", "#f0d9c0",
    ];
    let sum = roll.bytes().fold(7_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
    COLOURS[sum % COLOURS.len()]
}

/// The graph in Graphviz's language.
#[must_use]
pub fn dot(rolls: &RollSet, profile: &Profile) -> String {
    let picture = picture(rolls, profile);
    let quote = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let mut out =
        format!("digraph {} {{\n  rankdir=LR;\n  node [style=filled shape=box fontname=sans];\n", quote(&profile.root));
    for (name, roll, position) in &picture.nodes {
        // Writing to a String cannot fail.
        let _ = match position {
            Some(position) => writeln!(
                out,
                "  {} [fillcolor={} tooltip={}];",
                quote(name),
                quote(colour(roll)),
                quote(&format!("{position}. of roll {roll}"))
            ),
            None => {
                writeln!(out, "  {} [style=dashed fontcolor=gray50 color=gray50 tooltip=\"left out\"];", quote(name))
            }
        };
    }
    for (from, to, taken, condition) in &picture.edges {
        let style = if *taken { "" } else { " style=dashed color=red fontcolor=red" };
        let label = condition.as_ref().map(|c| format!(" label={}", quote(c))).unwrap_or_default();
        let _ = writeln!(
            out,
            "  {} -> {} [fontsize=9{label}{style}];",
            quote(picture.nodes[*from].0),
            quote(picture.nodes[*to].0)
        );
    }
    out + "}\n"
}

const ROW: i32 = 26;
const GAP: i32 = 110;
const MARGIN: i32 = 24;

/// The graph as a picture that a browser shows: rolls in colours, what a condition left out dashed in red with the condition.
#[must_use]
pub fn svg(rolls: &RollSet, profile: &Profile) -> String {
    let picture = picture(rolls, profile);
    let arrows: Vec<(usize, usize)> = picture.edges.iter().map(|(from, to, ..)| (*from, *to)).collect();
    let root = picture.nodes.iter().position(|(name, ..)| *name == profile.root).unwrap_or(0);
    let layers = layout::layers(picture.nodes.len(), &arrows, root);
    let width_of = |node: usize| i32::try_from(picture.nodes[node].0.chars().count()).unwrap_or(200) * 7 + 34;
    let tallest = layers.iter().map(Vec::len).max().unwrap_or(1);
    let height = i32::try_from(tallest).unwrap_or(i32::MAX / ROW) * ROW + 2 * MARGIN + 40;
    let mut place = vec![(0, 0, 0); picture.nodes.len()];
    let mut x = MARGIN;
    for layer in &layers {
        let width = layer.iter().map(|node| width_of(*node)).max().unwrap_or(0);
        let used = i32::try_from(layer.len()).unwrap_or(1) * ROW;
        let mut y = MARGIN + 40 + (height - 2 * MARGIN - 40 - used) / 2;
        for node in layer {
            place[*node] = (x, y, width_of(*node));
            y += ROW;
        }
        x += width + GAP;
    }
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{x}\" height=\"{height}\" viewBox=\"0 0 {x} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<title>{}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        escaped(&profile.root)
    );
    legend(&mut out, &picture, profile);
    for (from, to, taken, condition) in &picture.edges {
        arrow(&mut out, place[*from], place[*to], *taken, condition.as_deref());
    }
    for (node, (name, roll, position)) in picture.nodes.iter().enumerate() {
        let (x, y, width) = place[node];
        let (fill, stroke, dash, ink) = match position {
            Some(_) => (colour(roll), "#555", "", "#111"),
            None => ("white", "#c33", " stroke-dasharray=\"3 2\"", "#888"),
        };
        let about = match position {
            Some(position) => format!("{name}: number {position}, roll {roll}"),
            None => format!("{name}: left out"),
        };
        let number = position.map(|p| p.to_string()).unwrap_or_default();
        let _ = writeln!(
            out,
            "<g><title>{}</title><rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"20\" rx=\"4\" fill=\"{fill}\" stroke=\"{stroke}\"{dash}/>\
             <text x=\"{}\" y=\"{}\" font-size=\"8\" fill=\"#666\">{number}</text>\
             <text x=\"{}\" y=\"{}\" fill=\"{ink}\">{}</text></g>",
            escaped(&about),
            x + 4,
            y + 13,
            x + 24,
            y + 14,
            escaped(name)
        );
    }
    out + "</svg>\n"
}

fn legend(out: &mut String, picture: &Picture<'_>, profile: &Profile) {
    let rolls: BTreeSet<&str> =
        picture.nodes.iter().filter(|(.., position)| position.is_some()).map(|(_, roll, _)| *roll).collect();
    let left_out = picture.nodes.iter().filter(|(.., position)| position.is_none()).count();
    let title = format!("{}: {} nodes, {left_out} left out", profile.root, profile.nodes.len());
    let _ =
        writeln!(out, "<text x=\"{MARGIN}\" y=\"22\" font-size=\"15\" font-weight=\"bold\">{}</text>", escaped(&title));
    let mut x = MARGIN;
    for roll in rolls {
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"32\" width=\"12\" height=\"12\" fill=\"{}\" stroke=\"#555\"/><text x=\"{}\" y=\"42\" font-size=\"11\">{}</text>",
            colour(roll),
            x + 16,
            escaped(roll)
        );
        x += 30 + i32::try_from(roll.chars().count()).unwrap_or(0) * 7;
    }
}

fn arrow(out: &mut String, from: (i32, i32, i32), to: (i32, i32, i32), taken: bool, condition: Option<&str>) {
    let (x1, y1) = (from.0 + from.2, from.1 + 10);
    let (x2, y2) = (to.0, to.1 + 10);
    let bend = ((x2 - x1).abs() / 2).max(30);
    let (stroke, dash) = match (taken, condition) {
        (true, None) => ("#999", ""),
        (true, Some(_)) => ("#2a7d2a", ""),
        (false, _) => ("#c33", " stroke-dasharray=\"4 3\""),
    };
    let about = match (taken, condition) {
        (_, None) => String::new(),
        (true, Some(condition)) => format!("<title>taken: {}</title>", escaped(condition)),
        (false, Some(condition)) => format!("<title>left out: {}</title>", escaped(condition)),
    };
    let _ = writeln!(
        out,
        "<path d=\"M{x1} {y1} C{} {y1} {} {y2} {x2} {y2}\" fill=\"none\" stroke=\"{stroke}\"{dash}>{about}</path>\
         <path d=\"M{x2} {y2} l-6 -3 v6 z\" fill=\"{stroke}\"/>",
        x1 + bend,
        x2 - bend
    );
    if let Some(condition) = condition {
        let short: String = condition.chars().take(26).collect();
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" font-size=\"8\" fill=\"{stroke}\" text-anchor=\"end\">{}</text>",
            x2 - 9,
            y2 - 2,
            escaped(&short)
        );
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
