use std::fs;
use std::path::Path;

use super::*;
use crate::attr::Scope;
use crate::roll::{LoadOptions, load};

struct Roll(tempfile::TempDir);

impl Roll {
    /// A roll with one graph file and some node files.
    fn new(graph: &str, nodes: &[(&str, &str)]) -> Self {
        let roll = Self(tempfile::tempdir().expect("a folder"));
        roll.put("r/graphs/default/g.xml", graph);
        for (name, text) in nodes {
            roll.put(&format!("r/nodes/{name}.xml"), text);
        }
        roll
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("made");
        fs::write(path, text).expect("written");
    }

    fn check(&self, attributes: &[(&str, &str)]) -> Diagnostics {
        let (rolls, mut problems) = load(&[self.0.path().join("r")], &LoadOptions::default());
        let mut all = Attributes::new();
        for (name, value) in attributes {
            all.set(Scope::Global, name.parse().expect("a name"), *value);
        }
        problems.extend(check(&rolls, &all, &[]));
        problems
    }

    /// `code line:column` of everything that is found, in the order of the files.
    fn found(&self) -> Vec<String> {
        let place = |d: &Diagnostic| {
            d.place.as_ref().map_or_else(String::new, |place| {
                let (name, at) = (place.source().name(), place.position());
                let file = name.rsplit('/').next().unwrap_or(name).to_owned();
                format!(" {file}:{}:{}", at.line, at.column)
            })
        };
        let mut all: Vec<String> = self.check(&[]).iter().map(|d| format!("{}{}", d.code, place(d))).collect();
        all.sort();
        all
    }
}

const EMPTY: &str = "<kickstart/>";

/// A graph of these lines, and what is found in it.
fn graph(lines: &str) -> Vec<String> {
    Roll::new(&format!("<graph>\n{lines}\n</graph>"), &[("a", EMPTY), ("b", EMPTY), ("c", EMPTY)]).found()
}

/// A node file that is included, and what is found in it.
fn node(text: &str) -> Vec<String> {
    let graph = "<graph><edge from=\"a\"><to>n</to></edge></graph>";
    Roll::new(graph, &[("a", EMPTY), ("n", &format!("<kickstart>\n{text}\n</kickstart>"))]).found()
}

#[test]
fn what_is_right_is_not_complained_about() {
    assert_eq!(graph("<edge from=\"a\"><to>b</to><to cond=\"os == 'linux'\">c</to></edge>"), [""; 0]);
    assert_eq!(
        node("<main><lang>en_US</lang></main>\n<package>vim</package>\n<post>\necho &hostname;\n</post>"),
        [""; 0]
    );
}

#[test]
fn the_traps_of_graphs_are_found_where_they_stand() {
    let both = "<edge from=\"a\" to=\"b\"/>\n<edge from=\"a\" to=\"c\"/>\n";
    for (lines, want) in [
        // The caret stands in the condition, not at the edge.
        ("<edge from=\"a\"><to cond=\"os ==\">b</to></edge><edge from=\"a\" to=\"c\"/>", "bad-condition g.xml:2:26"),
        ("<edge from=\"a\" to=\"b\" cond=\"x + 1\"/><edge from=\"a\" to=\"c\"/>", "outside-grammar g.xml:2:29"),
        ("<edge from=\"a\" to=\"b\"/><edge from=\"b\" to=\"b\"/><edge from=\"a\" to=\"c\"/>", "self-edge g.xml:2:24"),
        (
            "<edge from=\"a\" to=\"b\"/><edge from=\"a\" to=\"nowhere\"/><edge from=\"a\" to=\"c\"/>",
            "node-without-file g.xml:2:24",
        ),
        ("<edge from=\"a\" to=\"b\"/>", "unreachable-node c.xml:1:1"),
        (
            "<edge from=\"a\" to=\"b\"/><edge from=\"a\" to=\"c\"/><edge from=\"c\" to=\"b\" cond=\"os\"/>",
            "first-edge-wins g.xml:2:47",
        ),
        (
            "<edge from=\"a\" to=\"b\"/><edge from=\"a\" to=\"b\"/><edge from=\"a\" to=\"c\"/>",
            "duplicate-edge g.xml:2:24",
        ),
        ("<edge from=\"a\"/><edge from=\"a\" to=\"c\"/><edge from=\"a\" to=\"b\"/>", "incomplete-edge g.xml:2:1"),
        (
            "<egde from=\"a\" to=\"b\"/><edge from=\"a\" to=\"c\"/><edge from=\"a\" to=\"b\"/>",
            "unknown-element g.xml:2:1",
        ),
        (
            "<edge from=\"a\" to=\"&x;\"/><edge from=\"a\" to=\"c\"/><edge from=\"a\" to=\"b\"/>",
            "entity-in-graph g.xml:2:20",
        ),
    ] {
        let found = graph(lines);
        assert!(found.iter().any(|f| f == want), "{lines}: {want}: {found:?}");
    }
    let cycle = graph(&format!("{both}<order head=\"b\" tail=\"c\"/>\n<order head=\"c\" tail=\"b\"/>"));
    assert!(cycle.iter().any(|f| f.starts_with("order-cycle g.xml:4:1")), "{cycle:?}");
}

#[test]
fn the_traps_of_node_files_are_found_where_they_stand() {
    for (text, want) in [
        ("<post>&nope;</post>", "undefined-entity n.xml:2:7"),
        ("<main><frob/></main>", "unknown-command n.xml:2:7"),
        ("<frob/>", "unknown-element n.xml:2:1"),
        ("<post><b>x</b></post>", "unknown-element n.xml:2:7"),
        ("<package disable=\"0\">x</package>", "disable-value n.xml:2:1"),
        ("<package>x</package><package disable=\"1\">x</package>", "package-on-and-off"),
        ("<post cond=\"os == True\">x</post>", "truth-as-attribute n.xml:2:13"),
        ("<post cond=\"rack &gt; 'x' and rack &gt; 1 and 'a' &gt; 1\">x</post>", "text-with-number n.xml:2:13"),
        ("<post cond=\"rack == '1'\">x</post>", "quoted-number n.xml:2:13"),
        ("<boot>\necho $HOME\n</boot>", "boot-here-document n.xml:3:6"),
        ("<post><file name=\"/x\">\na\nEOF\n</file></post>", "here-document n.xml:2:7"),
        ("<post><file name=\"x\">a</file></post>", "relative-file n.xml:2:7"),
        ("<post><eval cond=\"os\">a</eval></post>", "eval-condition n.xml:2:7"),
        ("some text", "stray-text n.xml:2:1"),
    ] {
        let found = node(text);
        assert!(found.iter().any(|f| f == want), "{text}: {want}: {found:?}");
    }
}

#[test]
fn everything_is_found_at_once_with_a_caret_and_a_hint() {
    let roll = Roll::new(
        "<graph>\n<edge from=\"a\" to=\"n\" cond=\"os ==\"/>\n<edge from=\"a\" to=\"m\"/>\n</graph>",
        &[("a", EMPTY), ("n", "<kickstart>\n<post>&one; &two;</post>\n<main><frob/></main>\n</kickstart>")],
    );
    let problems = roll.check(&[]);
    let codes: Vec<&str> = problems.iter().map(|d| d.code).collect();
    for code in ["bad-condition", "node-without-file", "undefined-entity", "unknown-command"] {
        assert!(codes.contains(&code), "{code}: {codes:?}");
    }
    assert_eq!(codes.iter().filter(|code| **code == "undefined-entity").count(), 2);
    let text = problems.render();
    assert!(text.contains("^^^^^") && text.contains("hint: give it a default"), "{text}");
    // What is set is no longer undefined.
    assert!(!roll.check(&[("one", "1"), ("two", "2")]).render().contains("undefined-entity"));
}

#[test]
fn an_attribute_is_mentioned_where_its_whole_name_stands() {
    let graph = "<graph><edge from=\"a\" cond=\"java\"><to>b</to></edge></graph>";
    let node = "<kickstart><post>echo &tab_stop;</post></kickstart>";
    let roll = Roll::new(graph, &[("a", EMPTY), ("b", node)]);
    roll.put("r/include/more.txt", "from ${site}\n");
    let (rolls, _) = load(&[roll.0.path().join("r")], &LoadOptions::default());
    for (name, is_there) in [
        ("java", true),
        ("tab_stop", true),
        ("site", true),
        ("tab", false),
        ("jav", false),
        ("stop", false),
        ("ec2", false),
    ] {
        assert_eq!(rolls.mentions(name), is_there, "{name}");
    }
}
