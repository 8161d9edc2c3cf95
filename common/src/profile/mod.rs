//! A profile: what the graph, the node files and one host's attributes come to.
//!
//! [`build`] walks the graph, expands the node files in order, and sorts their elements into commands, packages and sections.
//! A profile knows where each of them comes from and which attributes were read on the way: that is what lets the frontend
//! render once for many hosts, and what `explain` answers from. [`crate::generate`] prints it as a kickstart.

mod collect;
mod xml;

use std::collections::BTreeSet;

use petgraph::graph::NodeIndex;
use serde::Serialize;

pub use collect::{Boot, FileTag, Piece};
pub use xml::xml;

use crate::attr::{Attributes, Scope};
use crate::diag::{Diagnostic, Diagnostics};
use crate::dialect::Dialect;
use crate::graph::Traversal;
use crate::ids::AttrName;
use crate::node::{self, Eval, Expansion, HostValues};
use crate::roll::RollSet;

/// What is asked for.
#[derive(Clone, Copy)]
pub struct Request<'r> {
    /// The node to begin at.
    pub root: &'r str,
    /// The host's attributes, complete ([`RollSet::complete`], [`set_host`]).
    pub attributes: &'r Attributes,
    /// What to do with `<eval>`.
    pub eval: Eval<'r>,
    /// Only nodes of these rolls (as their files name them) are part of the profile; all are still evaluated.
    pub only_rolls: Option<&'r [String]>,
}

/// One node of a profile.
#[derive(Debug, Clone, Serialize)]
pub struct ProfileNode {
    /// Its name.
    pub name: String,
    /// The roll that its last file names.
    pub roll: String,
    /// Its files, as `ROLL/nodes/NAME.xml`.
    pub files: Vec<String>,
}

/// Where something comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Origin {
    /// The node file, as `ROLL/nodes/NAME.xml`.
    pub file: String,
    /// The line of its element, from 1; 0 for what the original writes by itself.
    pub line: u32,
    /// The node.
    pub node: String,
}

/// A command of the main section.
#[derive(Debug, Clone, Serialize)]
pub struct MainCommand {
    /// The element's name: `timezone`.
    pub name: String,
    /// What follows it.
    pub body: Vec<Piece>,
    /// Where it comes from.
    pub origin: Origin,
}

/// A `<package>`.
#[derive(Debug, Clone, Serialize)]
pub struct Package {
    /// Its name, with `@` in front if it is a group.
    pub name: String,
    /// Whether it is wanted (or to be kept out).
    pub enabled: bool,
    /// The value of `disable`, if there is one: in the original any value disables.
    pub disable: Option<String>,
    /// Where it comes from.
    pub origin: Origin,
}

/// A script section.
#[derive(Debug, Clone, Serialize)]
pub struct Section {
    /// What it is.
    pub kind: SectionKind,
    /// `arg`: what goes on the section's line.
    pub arg: String,
    /// `interpreter`, if given.
    pub interpreter: Option<String>,
    /// Its text.
    pub body: Vec<Piece>,
    /// Where it comes from.
    pub origin: Origin,
    /// Its number among the sections of its kind in its file, from 1.
    pub number: u32,
}

/// What a section is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SectionKind {
    /// `<pre>`
    Pre,
    /// `<post>`, and `<configure>` in the original.
    Post,
    /// `<boot>`
    Boot(Boot),
}

impl SectionKind {
    /// The element's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pre => "pre",
            Self::Post => "post",
            Self::Boot(_) => "boot",
        }
    }
}

/// What the graph, the node files and one host's attributes come to.
#[derive(Debug, Clone)]
pub struct Profile {
    /// The dialect.
    pub dialect: Dialect,
    /// The node it begins at.
    pub root: String,
    /// Its nodes, in order.
    pub nodes: Vec<ProfileNode>,
    /// The commands of all main sections, in order.
    pub main: Vec<MainCommand>,
    /// The packages, in order.
    pub packages: Vec<Package>,
    /// The script sections, in order.
    pub sections: Vec<Section>,
    /// The texts of `<debug>`.
    pub debug: Vec<String>,
    /// Path and roll of the files that brought something, in order: what the original prints on top.
    pub brought: Vec<(String, String)>,
    /// The attributes that were read.
    pub reads: BTreeSet<Box<str>>,
    /// The way through the graph.
    pub traversal: Traversal,
}

/// Sets the attributes that belong to a host by its nature: `arch`, `os`, `root`, and `release` if given. In the original's
/// dialects `release` is the distribution's whatever the attributes say, because it is written over them there.
pub fn set_host(
    attributes: &mut Attributes,
    dialect: Dialect,
    root: &str,
    arch: &str,
    os: &str,
    release: Option<&str>,
) {
    let set = |attributes: &mut Attributes, scope, name, value: &str| {
        if let Ok(name) = AttrName::new(name) {
            attributes.set_default(scope, name, value);
        }
    };
    for (name, value) in [("arch", arch), ("os", os), ("root", root)] {
        set(attributes, Scope::Intrinsic, name, value);
    }
    let written_over = dialect.intrinsic().iter().find(|(name, _)| *name == "release" && dialect.is_original());
    if let Some(release) = release.or(written_over.map(|(_, value)| *value)) {
        attributes.remove("release");
        set(attributes, Scope::Host, "release", release);
    }
}

/// Makes the profile.
///
/// # Errors
/// Everything that is wrong; in the original's dialects the first thing, which there ends the work.
pub fn build(rolls: &RollSet, request: &Request<'_>) -> Result<Profile, Diagnostics> {
    let fail = |diagnostic: Diagnostic| Diagnostics::from_iter([diagnostic]);
    let host = HostValues::new(request.attributes, rolls.dialect).map_err(|problem| fail(*problem))?;
    let traversal = rolls.graph.traverse(request.root, &host.for_graph()).map_err(|error| fail(error.into()))?;
    let mut expansion = Expansion {
        dialect: rolls.dialect,
        host: &host,
        includes: &rolls.includes,
        eval: request.eval,
        variables: std::collections::BTreeMap::new(),
        roll: String::new(),
        file: String::new(),
        problems: Diagnostics::new(),
    };
    let mut collector = collect::Collector::new(rolls.dialect);
    let mut nodes = Vec::new();
    for index in &traversal.order {
        let name = rolls.graph.name(*index);
        if name == crate::graph::HEAD || name == crate::graph::TAIL {
            continue;
        }
        let Some(files) = rolls.node(name) else {
            expansion.problems.push(no_such_node(rolls, &traversal, *index));
            continue;
        };
        // Roll and path are the node's, not left over from the node before.
        expansion.roll.clear();
        expansion.file.clear();
        let mut pieces = Vec::new();
        for file in files.iter() {
            if file.problems.has_errors() {
                expansion.problems.extend(file.problems.clone());
                continue;
            }
            let out = node::expand(&mut expansion, file);
            pieces.push((file, expansion.roll.clone(), expansion.file.clone(), out));
        }
        let roll = expansion.roll.clone();
        if request.only_rolls.is_none_or(|only| only.contains(&roll)) {
            for (file, roll, path, out) in pieces {
                collector.file(collect::FileContext { file, node: name, roll, path }, out);
            }
        }
        nodes.push(ProfileNode {
            name: name.to_owned(),
            roll,
            files: files.iter().map(node::NodeFile::origin).collect(),
        });
        if rolls.dialect.is_original() && expansion.problems.has_errors() {
            break;
        }
    }
    let mut problems = std::mem::take(&mut expansion.problems);
    drop(expansion);
    let collected = collector.finish(&host, &mut problems);
    if problems.has_errors() {
        return Err(problems);
    }
    Ok(Profile {
        dialect: rolls.dialect,
        root: request.root.to_owned(),
        nodes,
        main: collected.main,
        packages: collected.packages,
        sections: collected.sections,
        debug: collected.debug,
        brought: collected.brought,
        reads: host.into_reads(),
        traversal,
    })
}

fn no_such_node(rolls: &RollSet, traversal: &Traversal, index: NodeIndex) -> Diagnostic {
    let name = rolls.graph.name(index);
    let diagnostic = Diagnostic::error("node-without-file", format!("cannot find node `{name}`"))
        .hint(format!("add nodes/{name}.xml to a roll, or remove the edge that leads to it"));
    match traversal.reached[index.index()].and_then(|reached| reached.by) {
        Some(edge) => diagnostic.at(rolls.graph.edges()[edge].place.clone()),
        None => diagnostic,
    }
}

impl Profile {
    /// The names of its nodes, in order.
    pub fn order(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().map(|node| node.name.as_str())
    }

    /// The lines of `%packages`: wanted ones sorted, then those to be kept out, each with `-` in front.
    ///
    /// In the original's dialects wanted ones stand as often as they are named, and what is disabled, disabled and enabled is
    /// both (rocks-xml 8.2). In `modern` each stands once, and being both is an error of `check`.
    #[must_use]
    pub fn package_lines(&self) -> Vec<String> {
        let (mut on, mut off): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
        // How often each is wanted, so that a long list is not searched again and again.
        let mut wanted = std::collections::HashSet::new();
        for package in &self.packages {
            let name = package.name.as_str();
            if package.enabled {
                on.push(name);
                wanted.insert(name);
                if let Some(at) = off.iter().position(|other| *other == name) {
                    off.remove(at);
                }
            } else if !wanted.contains(name) {
                off.push(name);
            }
        }
        on.sort_unstable();
        off.sort_unstable();
        if !self.dialect.is_original() {
            on.dedup();
            off.retain(|name| !wanted.contains(name));
            off.dedup();
        }
        on.into_iter().map(ToOwned::to_owned).chain(off.into_iter().map(|name| format!("-{name}"))).collect()
    }
}
