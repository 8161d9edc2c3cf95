//! Holds those invariants of ARCHITECTURE.md that a test can hold: what each crate may depend on, and what its source may do.
//!
//! The scans read source text, not types. They are meant to catch an honest mistake at once, not to withstand somebody
//! who wants to get round them; clippy's `disallowed-methods` holds the same line from the compiler's side.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The repository's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent").to_path_buf()
}

/// The dependency graph that cargo resolved: package name → names that its library and binaries (not its tests) depend on.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    #[expect(clippy::disallowed_methods, reason = "a test asks cargo for its own answer")]
    let out = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(root())
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform"])
        .arg(format!("{}-unknown-linux-gnu", std::env::consts::ARCH))
        .output()
        .expect("cargo can be run");
    assert!(out.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&out.stderr));
    let meta: Value = serde_json::from_slice(&out.stdout).expect("cargo metadata prints JSON");
    let name_of: BTreeMap<&str, &str> = array(&meta["packages"])
        .iter()
        .map(|p| (p["id"].as_str().expect("id"), p["name"].as_str().expect("name")))
        .collect();
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for node in array(&meta["resolve"]["nodes"]) {
        let from = name_of[node["id"].as_str().expect("id")];
        let to = graph.entry(from.to_owned()).or_default();
        for dep in array(&node["deps"]) {
            // "kind" null is an ordinary dependency; "dev" and "build" do not reach the product.
            if array(&dep["dep_kinds"]).iter().any(|k| k["kind"].is_null()) {
                to.insert(name_of[dep["pkg"].as_str().expect("pkg")].to_owned());
            }
        }
    }
    graph
}

/// Folders of our crates.
const CRATES: [&str; 10] = [
    "common",
    "common/advise",
    "common/ship",
    "server",
    "server/aws",
    "server/bundle",
    "server/provision",
    "agent",
    "tests",
    "tests/minicloud",
];

fn array(v: &Value) -> &[Value] {
    v.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Everything that `from` reaches, itself left out.
fn closure(graph: &BTreeMap<String, BTreeSet<String>>, from: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut todo = vec![from];
    while let Some(at) = todo.pop() {
        for next in graph.get(at).into_iter().flatten() {
            if seen.insert(next.clone()) {
                todo.push(next);
            }
        }
    }
    seen
}

/// A crate name that begins with `aws-` is Amazon's API unless it is the crypto library.
fn is_cloud(name: &str) -> bool {
    name.starts_with("aws-") && !name.starts_with("aws-lc-")
}

#[test]
fn common_depends_on_nothing_with_effects() {
    let graph = dependencies();
    for krate in ["rocks-common", "rocks-advise"] {
        let all = closure(&graph, krate);
        let bad: Vec<_> = all
            .iter()
            .filter(|n| {
                matches!(
                    n.as_str(),
                    "tokio"
                        | "hyper"
                        | "axum"
                        | "rustls"
                        | "systemd"
                        | "libsystemd-sys"
                        | "sqlx"
                        | "notify"
                        | "socket2"
                        | "rpm"
                ) || is_cloud(n)
            })
            .collect();
        assert!(bad.is_empty(), "{krate} is pure, yet it depends on {bad:?}");
        assert!(all.len() > 5, "the graph was read: {all:?}");
    }
}

#[test]
fn one_tls_stack_and_one_crypto_library() {
    // `cargo tree` shows what is built; `cargo metadata` also lists what a feature that nobody turned on would bring.
    #[expect(clippy::disallowed_methods, reason = "a test asks cargo for its own answer")]
    let out = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(root())
        .args([
            "tree",
            "--locked",
            "--offline",
            "--workspace",
            "--prefix",
            "none",
            "--edges",
            "normal,build",
            "--format",
            "{p}",
        ])
        .output()
        .expect("cargo can be run");
    assert!(out.status.success(), "cargo tree: {}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8_lossy(&out.stdout);
    let built: BTreeSet<&str> = text.lines().filter_map(|l| l.split_whitespace().next()).collect();
    assert!(built.contains("rustls"), "the tree was read");
    for banned in ["openssl", "openssl-sys", "native-tls", "ring"] {
        assert!(!built.contains(banned), "{banned} is banned (deny.toml)");
    }
}

#[test]
fn the_product_does_not_depend_on_the_tests_nor_the_halves_on_each_other() {
    let graph = dependencies();
    for (of, never) in [
        ("rocks-common", &["rocks-server", "rocks-agent", "rocks-tests", "rocks-ship", "rocks-advise"][..]),
        // The advisor knows figures, not what they are figures of.
        ("rocks-advise", &["rocks-common", "rocks-ship", "rocks-server", "rocks-agent", "rocks-tests"]),
        // The transport is below both halves, and blocking: no runtime.
        ("rocks-ship", &["rocks-server", "rocks-agent", "rocks-tests", "tokio"]),
        // A format, over streams: whoever uploads is above it.
        (
            "rocks-bundle",
            &["rocks-common", "rocks-ship", "rocks-server", "rocks-agent", "rocks-tests", "tokio", "hyper"],
        ),
        // Provisions know a cloud by what it does: no SDK, no network, no store.
        ("rocks-provision", &["rocks-server", "rocks-agent", "rocks-tests", "hyper", "sqlx"]),
        // The agent runs on every instance: no database, no web framework.
        (
            "rocks-agent",
            &[
                "rocks-server",
                "rocks-tests",
                "rocks-minicloud",
                "rocks-advise",
                "rocks-bundle",
                "rocks-provision",
                "axum",
                "sqlx",
                "libsqlite3-sys",
                "notify",
            ],
        ),
        ("rocks-server", &["rocks-agent", "rocks-tests", "rocks-minicloud"]),
        // The local EC2 judges the product: it shares no code with it.
        (
            "rocks-minicloud",
            &["rocks-common", "rocks-ship", "rocks-bundle", "rocks-server", "rocks-agent", "rocks-tests"],
        ),
    ] {
        let all = closure(&graph, of);
        for n in never {
            assert!(!all.contains(*n), "{of} depends on {n}");
        }
        // The server may have the crate that knows Amazon's SDK, but not the SDK.
        let mut clouds = all.iter().filter(|n| is_cloud(n));
        assert!(of == "rocks-server" || clouds.next().is_none(), "{of} depends on a cloud's API");
    }
}

#[test]
fn one_crate_knows_amazons_sdk() {
    let graph = dependencies();
    let ours = graph.iter().filter(|(of, _)| of.starts_with("rocks-"));
    let know: Vec<&str> =
        ours.filter(|(_, needs)| needs.iter().any(|n| is_cloud(n))).map(|(of, _)| of.as_str()).collect();
    assert_eq!(know, ["rocks-aws"]);
    // It is a cloud for provisions, and knows nothing of the frontend.
    let all = closure(&graph, "rocks-aws");
    for never in ["rocks-server", "rocks-agent", "rocks-tests", "rocks-ship", "axum", "sqlx"] {
        assert!(!all.contains(never), "rocks-aws depends on {never}");
    }
}

/// One source file, its tests cut off and its comments and string contents blanked.
struct Source {
    /// Relative to the repository.
    path: String,
    /// Lines of the whole file.
    lines: usize,
    /// Code that reaches the product.
    code: String,
}

/// The Rust files of one crate that reach its product.
fn sources(krate: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut todo = vec![root().join(krate).join("src")];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.expect("a directory entry").path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).expect("source is UTF-8");
                let rel = path.strip_prefix(root()).expect("below the root").display().to_string();
                let is_test = rel.ends_with("tests.rs") || rel.contains("/tests/");
                let code = if is_test { String::new() } else { product_code(&text) };
                found.push(Source { path: rel, lines: text.lines().count(), code });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty(), "{krate} has sources");
    found
}

/// Blanks comments and string contents and cuts the trailing test module off, so that a word in prose is not taken for code.
fn product_code(text: &str) -> String {
    let text = text.split_once("#[cfg(test)]\nmod ").map_or(text, |(before, _)| before);
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '/' if chars.peek() == Some(&'/') => {
                while chars.peek().is_some_and(|c| *c != '\n') {
                    chars.next();
                }
            }
            '/' if chars.peek() == Some(&'*') => {
                chars.next();
                let mut last = ' ';
                for c in chars.by_ref() {
                    if last == '*' && c == '/' {
                        break;
                    }
                    last = c;
                }
            }
            'r' if matches!(chars.peek(), Some('"' | '#'))
                && !out.ends_with(|c: char| c.is_alphanumeric() || c == '_') =>
            {
                let mut hashes = 0;
                while chars.peek() == Some(&'#') {
                    chars.next();
                    hashes += 1;
                }
                if chars.peek() != Some(&'"') {
                    // A raw identifier (`r#type`).
                    out.push_str("r#");
                    continue;
                }
                chars.next();
                let mut closing = None;
                for c in chars.by_ref() {
                    closing = match (closing, c) {
                        (_, '"') => Some(0),
                        (Some(n), '#') => Some(n + 1),
                        _ => None,
                    };
                    if closing == Some(hashes) {
                        break;
                    }
                }
                out.push_str("\"\"");
            }
            '"' => {
                while let Some(c) = chars.next() {
                    match c {
                        '\\' => {
                            chars.next();
                        }
                        '"' => break,
                        _ => {}
                    }
                }
                out.push_str("\"\"");
            }
            '\'' => {
                // A character literal, or a lifetime: only the literal can hide a quote.
                let mut ahead = chars.clone();
                match (ahead.next(), ahead.next()) {
                    (Some('\\'), _) => {
                        chars.next();
                        chars.next();
                        for c in chars.by_ref() {
                            if c == '\'' {
                                break;
                            }
                        }
                    }
                    (Some(_), Some('\'')) => {
                        chars.next();
                        chars.next();
                    }
                    _ => out.push('\''),
                }
            }
            c => out.push(c),
        }
    }
    out
}

/// Files of `krate` that say one of `words`, those in `allowed` left out.
fn who_says(krate: &str, words: &[&str], allowed: &[&str]) -> Vec<String> {
    let mut bad = Vec::new();
    for s in sources(krate).iter().filter(|s| !allowed.contains(&s.path.as_str())) {
        for w in words {
            if s.code.contains(w) {
                bad.push(format!("{} says {w}", s.path));
            }
        }
    }
    bad
}

#[test]
fn only_the_process_rooms_spawn() {
    let words = ["process::Command", "Command::new(", "fork(", "posix_spawn", "execve("];
    assert_eq!(who_says("common", &words, &[]), Vec::<String>::new());
    assert_eq!(who_says("common/ship", &words, &[]), Vec::<String>::new());
    assert_eq!(who_says("common/advise", &words, &[]), Vec::<String>::new());
    assert_eq!(who_says("server/bundle", &words, &[]), Vec::<String>::new());
    // clap has a `Command` of its own: what builds man pages and completions may name it, but never makes one.
    let spawns = ["process::Command", "posix_spawn", "execve("];
    assert_eq!(who_says("server", &spawns, &["server/src/process.rs"]), Vec::<String>::new());
    assert_eq!(who_says("tests/minicloud", &spawns, &["tests/minicloud/src/process.rs"]), Vec::<String>::new());
    assert_eq!(who_says("agent", &spawns, &["agent/src/process.rs"]), Vec::<String>::new());
    assert_eq!(who_says("server/aws", &spawns, &[]), Vec::<String>::new());
    assert_eq!(who_says("server/provision", &spawns, &[]), Vec::<String>::new());
}

#[test]
fn common_has_no_clock_environment_or_network() {
    let words = [
        "std::net",
        "std::env::",
        "env::var",
        "SystemTime::now",
        "Instant::now",
        "Timestamp::now",
        "Zoned::now",
        "thread::spawn",
        "thread::sleep",
        "File::create",
        "fs::write",
        "fs::remove",
    ];
    assert_eq!(who_says("common", &words, &[]), Vec::<String>::new());
    // The advisor reads no files either: whoever calls it does.
    assert_eq!(
        who_says("common/advise", &[&words[..], &["std::fs", "File::open"]].concat(), &[]),
        Vec::<String>::new()
    );
    // A bundle goes through streams: whoever calls opens the files. Of a file that it is given it asks where its holes are.
    assert_eq!(
        who_says("server/bundle", &[&words[..], &["std::fs::{", "fs::read", "File::open"]].concat(), &[]),
        Vec::<String>::new()
    );
}

#[test]
fn common_reads_files_only_where_rolls_are_loaded() {
    let bad: Vec<_> = who_says("common", &["std::fs", "File::open"], &[])
        .into_iter()
        .filter(|b| !b.starts_with("common/src/roll") && !b.starts_with("common/src/bin/"))
        .collect();
    assert_eq!(bad, Vec::<String>::new());
}

#[test]
fn unsafe_stands_nowhere() {
    for krate in CRATES {
        assert_eq!(
            who_says(krate, &["unsafe {", "unsafe fn", "unsafe impl", "allow(unsafe_code"], &[]),
            Vec::<String>::new()
        );
    }
}

#[test]
fn nothing_is_left_undone() {
    for krate in CRATES {
        assert_eq!(who_says(krate, &["todo!(", "unimplemented!(", "dbg!("], &[]), Vec::<String>::new());
    }
}

#[test]
fn files_stay_short_enough_to_read() {
    let mut long = Vec::new();
    for krate in CRATES {
        for s in sources(krate) {
            if s.lines > 600 {
                println!("warning: {} has {} lines: split it by room", s.path, s.lines);
            }
            if s.lines > 1200 {
                long.push(format!("{} has {} lines", s.path, s.lines));
            }
        }
    }
    assert!(long.is_empty(), "no file is readable at this length: {long:?}");
}

#[test]
fn the_scanner_sees_code_and_not_prose() {
    let text = "// Command::new(\nlet a = \"Command::new(\\\" x\"; let c = '\"'; let r = r#\"fork( \" \"#; fs::write(x);\n/* fork( */ fn f<'a>() {}\n#[cfg(test)]\nmod tests { dbg!(1) }\n";
    let code = product_code(text);
    assert!(code.contains("fs::write(x)"), "{code}");
    assert!(code.contains("fn f<'a>()"), "{code}");
    assert!(!code.contains("fork(") && !code.contains("Command::new(") && !code.contains("dbg!"), "{code}");
}
