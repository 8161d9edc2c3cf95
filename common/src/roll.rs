//! Rolls on disk to rolls in memory: the one place of this crate that reads files.
//!
//! A roll is a folder with `graphs/GRAPH/*.xml`, `nodes/*.xml`, and perhaps `include/`, `site-nodes/` and `RPMS/`. All graph files
//! of all rolls together are one graph; of two node files with one name the later roll's wins, as when the original copies
//! rolls over each other. Everything is parsed once here, so that a profile needs no file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::attr::{Attributes, Scope};
use crate::diag::{Diagnostic, Diagnostics, Source};
use crate::dialect::Dialect;
use crate::graph::{self, Graph, GraphFile};
use crate::ids::{AttrName, Digest};
use crate::limits;
use crate::node::NodeFile;

/// The rolls' include files: path below the build folder (`include/plain.txt`) → content.
pub type Includes = BTreeMap<Box<str>, Box<str>>;

/// How rolls are read.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// The dialect.
    pub dialect: Dialect,
    /// Which graph: the folder below `graphs/`.
    pub graph: String,
    /// A folder of site nodes: the administrator's `extend-X.xml`, `replace-X.xml` and new nodes.
    pub site: Option<PathBuf>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { dialect: Dialect::Modern, graph: "default".to_owned(), site: None }
    }
}

/// One roll folder.
#[derive(Debug, Clone)]
pub struct RollInfo {
    /// The folder's name.
    pub name: Box<str>,
    /// Where it is.
    pub path: PathBuf,
}

/// All rolls of a distribution, read and parsed, the same for all hosts.
#[derive(Debug, Clone)]
pub struct RollSet {
    /// The dialect they were read by.
    pub dialect: Dialect,
    /// The folders, in the order given.
    pub rolls: Vec<RollInfo>,
    /// The configuration graph.
    pub graph: Graph,
    /// What the rolls set by default (`attributes.json`, dialect `modern`).
    pub defaults: Vec<(AttrName, String)>,
    /// Include files.
    pub includes: Includes,
    /// The digest of all that was read: two sets with the same digest make the same profiles.
    pub digest: Digest,
    /// Whether any node file has code to run (`<eval>`).
    pub has_eval: bool,
    nodes: BTreeMap<Box<str>, Arc<NodeFile>>,
    site_nodes: BTreeMap<Box<str>, Arc<NodeFile>>,
}

/// The files that make up one node, in the order in which they are used.
#[derive(Debug, Clone)]
pub enum NodeFiles<'r> {
    /// `replace-N.xml` instead of everything else.
    Replaced(&'r NodeFile),
    /// `N.xml`, and behind it perhaps `extend-N.xml`.
    Plain(&'r NodeFile, Option<&'r NodeFile>),
}

impl<'r> NodeFiles<'r> {
    /// The files, in order.
    pub fn iter(&self) -> impl Iterator<Item = &'r NodeFile> + use<'r> {
        let (first, second) = match self {
            Self::Replaced(file) => (*file, None),
            Self::Plain(file, extend) => (*file, *extend),
        };
        std::iter::once(first).chain(second)
    }
}

impl RollSet {
    /// The files of node `name`; `None` if there are none (rocks-xml 5.1, 6).
    #[must_use]
    pub fn node(&self, name: &str) -> Option<NodeFiles<'_>> {
        let find = |stem: &str| self.nodes.get(stem).or_else(|| self.site_nodes.get(stem)).map(|file| &**file);
        if let Some(replace) = find(&format!("replace-{name}")) {
            return Some(NodeFiles::Replaced(replace));
        }
        find(name).map(|file| NodeFiles::Plain(file, find(&format!("extend-{name}"))))
    }

    /// Every node file: rolls' by name, then the site's.
    pub fn node_files(&self) -> impl Iterator<Item = (&str, &NodeFile)> {
        self.nodes.iter().chain(&self.site_nodes).map(|(stem, file)| (&**stem, &**file))
    }

    /// Whether a condition of the graph, a node file or an include file has the attribute's name in it. Where none has, no profile reads it,
    /// unless code makes the name up.
    #[must_use]
    pub fn mentions(&self, attribute: &str) -> bool {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let has = |text: &str| {
            text.match_indices(attribute)
                .any(|(at, _)| !text[..at].ends_with(is_part) && !text[at + attribute.len()..].starts_with(is_part))
        };
        self.graph.edges().iter().any(|edge| {
            edge.whole.as_ref().is_ok_and(|cond| cond.as_ref().is_some_and(|cond| cond.names().contains(&attribute)))
        }) || self.node_files().any(|(_, file)| has(file.source.text()))
            || self.includes.values().any(|text| has(text))
    }

    /// Puts the rolls' defaults and the dialect's intrinsic values under `attributes`.
    pub fn complete(&self, attributes: &mut Attributes) {
        for (name, value) in &self.defaults {
            attributes.set_default(Scope::Roll, name.clone(), value.as_str());
        }
        for (name, value) in self.dialect.intrinsic() {
            if let Ok(name) = AttrName::new(name) {
                attributes.set_default(Scope::Intrinsic, name, *value);
            }
        }
    }
}

/// Reads the rolls in `folders`. What is wrong with node files is kept with them and, in `modern`, reported at once too.
#[must_use]
pub fn load(folders: &[PathBuf], options: &LoadOptions) -> (RollSet, Diagnostics) {
    let mut loader = Loader { options, diagnostics: Diagnostics::new(), files: 0, read: Vec::new() };
    let mut rolls = Vec::new();
    let mut nodes = BTreeMap::new();
    let mut site_nodes = BTreeMap::new();
    let mut includes = Includes::new();
    let mut graph_files: BTreeMap<String, (Source, GraphFile)> = BTreeMap::new();
    let mut defaults = Vec::new();
    for folder in folders {
        let name: Box<str> = folder_name(folder).into();
        if !folder.is_dir() {
            let message = format!("{} is not a folder", folder.display());
            loader.diagnostics.push(Diagnostic::error("no-such-roll", message));
            continue;
        }
        for (stem, source) in loader.xml_files(&folder.join("graphs").join(&options.graph)) {
            let (file, problems) = graph::read(&source, options.dialect);
            loader.diagnostics.extend(problems);
            // Files of one name cover each other in the original, where all rolls are copied into one folder.
            let key = if options.dialect.is_original() { stem } else { format!("{stem}/{name}") };
            graph_files.insert(key, (source, file));
        }
        for (stem, source) in loader.xml_files(&folder.join("nodes")) {
            let file = NodeFile::read(&format!("./nodes/{stem}.xml"), &name, source, options.dialect);
            if let Some(other) = nodes.insert(stem.clone().into_boxed_str(), Arc::new(file))
                && !options.dialect.is_original()
            {
                loader.covered(&stem, &name, &other);
            }
        }
        loader.site(&folder.join("site-nodes"), &name, &mut site_nodes);
        loader.includes(folder, Path::new("include"), 0, &mut includes);
        if !options.dialect.is_original() {
            loader.defaults(&folder.join("attributes.json"), &mut defaults);
        }
        rolls.push(RollInfo { name, path: folder.clone() });
    }
    if let Some(site) = &options.site {
        loader.site(site, "site", &mut site_nodes);
    }
    if !options.dialect.is_original() {
        for file in nodes.values().chain(site_nodes.values()) {
            loader.diagnostics.extend(file.problems.clone());
        }
    }
    let graph = Graph::new(options.dialect, graph_files.into_values().map(|(_, file)| file).collect());
    let has_eval = nodes.values().chain(site_nodes.values()).any(|file| file.source.text().contains("<eval"))
        || includes.values().any(|text| text.contains("<eval"));
    let fields: Vec<&[u8]> = loader.read.iter().map(|digest| &digest.as_bytes()[..]).collect();
    let digest = Digest::of_fields(&fields);
    let set =
        RollSet { dialect: options.dialect, rolls, graph, defaults, includes, digest, has_eval, nodes, site_nodes };
    (set, loader.diagnostics)
}

fn folder_name(folder: &Path) -> String {
    let name = folder.file_name().or_else(|| folder.parent().and_then(Path::file_name));
    name.map_or_else(|| "roll".to_owned(), |name| name.to_string_lossy().into_owned())
}

struct Loader<'o> {
    options: &'o LoadOptions,
    diagnostics: Diagnostics,
    files: usize,
    /// Digests of the paths and contents of all files read, in order.
    read: Vec<Digest>,
}

impl Loader<'_> {
    /// The XML files directly in `folder` by name; none when there is no such folder.
    fn xml_files(&mut self, folder: &Path) -> Vec<(String, Source)> {
        let mut files = Vec::new();
        for path in self.entries(folder) {
            let Some(stem) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".xml")) else {
                continue;
            };
            // As the original looks at it: the extension is what stands behind the last dot, and a hidden file has none.
            if stem.is_empty() || !path.is_file() {
                continue;
            }
            let stem = stem.to_owned();
            if let Some(text) = self.read(&path, limits::XML_FILE_BYTES) {
                files.push((stem, Source::new(path.display().to_string(), text)));
            }
        }
        files
    }

    fn entries(&mut self, folder: &Path) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
        paths.sort();
        self.files += paths.len();
        if self.files > limits::ROLL_FILES {
            let message = format!("the rolls have more than {} files", limits::ROLL_FILES);
            self.diagnostics.push(Diagnostic::error("too-many-files", message));
            paths.clear();
        }
        paths
    }

    fn read(&mut self, path: &Path, limit: u64) -> Option<String> {
        let problem = |code, message: String| Diagnostic::error(code, format!("{}: {message}", path.display()));
        match fs::metadata(path) {
            Ok(meta) if meta.len() > limit => {
                self.diagnostics.push(problem("xml-too-large", format!("it has more than {limit} bytes")));
                return None;
            }
            Ok(_) => {}
            Err(error) => {
                self.diagnostics.push(problem("unreadable", error.to_string()));
                return None;
            }
        }
        match fs::read(path).map(String::from_utf8) {
            Ok(Ok(text)) => {
                self.read.push(Digest::of_fields(&[path.as_os_str().as_encoded_bytes(), text.as_bytes()]));
                Some(text)
            }
            Ok(Err(_)) => {
                self.diagnostics.push(problem("not-utf8", "it is not UTF-8".to_owned()));
                None
            }
            Err(error) => {
                self.diagnostics.push(problem("unreadable", error.to_string()));
                None
            }
        }
    }

    fn site(&mut self, folder: &Path, name: &str, nodes: &mut BTreeMap<Box<str>, Arc<NodeFile>>) {
        for (stem, source) in self.xml_files(folder) {
            let file = NodeFile::read(&format!("./site-nodes/{stem}.xml"), name, source, self.options.dialect);
            nodes.insert(stem.into_boxed_str(), Arc::new(file));
        }
    }

    fn covered(&mut self, stem: &str, roll: &str, other: &NodeFile) {
        self.diagnostics.push(
            Diagnostic::warning(
                "node-in-two-rolls",
                format!("node `{stem}` is in roll `{}` and in roll `{roll}`; the latter is used", other.folder),
            )
            .at(other.source.at(0..0))
            .hint(format!("rename one of them, or make one `extend-{stem}.xml`")),
        );
    }

    fn includes(&mut self, roll: &Path, below: &Path, depth: usize, includes: &mut Includes) {
        if depth > 8 {
            return;
        }
        for path in self.entries(&roll.join(below)) {
            let Some(name) = path.file_name() else { continue };
            let below = below.join(name);
            if path.is_dir() && !path.is_symlink() {
                self.includes(roll, &below, depth + 1, includes);
            } else if path.is_file() {
                // What is no text cannot be put into a node file; it may still be data for an `eval`.
                let small = fs::metadata(&path).is_ok_and(|meta| meta.len() <= limits::XML_FILE_BYTES);
                if let Some(Ok(text)) = small.then(|| fs::read_to_string(&path)) {
                    self.read.push(Digest::of_fields(&[path.as_os_str().as_encoded_bytes(), text.as_bytes()]));
                    includes.insert(below.display().to_string().into(), text.into());
                }
            }
        }
    }

    fn defaults(&mut self, path: &Path, defaults: &mut Vec<(AttrName, String)>) {
        if !path.is_file() {
            return;
        }
        let Some(text) = self.read(path, limits::XML_FILE_BYTES) else { return };
        let source = Source::new(path.display().to_string(), text);
        match serde_json::from_str::<BTreeMap<AttrName, String>>(source.text()) {
            Ok(values) => defaults.extend(values),
            Err(error) => {
                let start: usize =
                    source.text().split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
                let at = start + error.column().saturating_sub(1);
                self.diagnostics.push(
                    Diagnostic::error(
                        "bad-attributes",
                        format!("this is not a JSON object of names and texts: {error}"),
                    )
                    .at(source.at(at..at + 1)),
                );
            }
        }
    }
}
