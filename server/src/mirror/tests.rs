//! What the mirror publishes against `createrepo_c` and dnf, and what it serves.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use rpm::{BuildConfig, CompressionType, Dependency, FileOptions, PackageBuilder};

use super::serve::{MirrorRoot, PREFIX, handle};
use super::{Mirror, Options, Summary, header};

fn build(folder: &Path, name: &str, version: &str, release: &str, epoch: u32, arch: &str) -> PathBuf {
    let mut builder = PackageBuilder::new(name, version, "MIT", arch, "summary <with> & \"marks\"");
    builder
        .using_config(BuildConfig::default().compression(CompressionType::Gzip))
        .release(release)
        .epoch(epoch)
        .description("several\nlines & <marks>")
        .vendor("A vendor")
        .url("http://example.com/?a&b")
        .provides(Dependency::eq("virtual", "1:2.3-4"))
        .provides(Dependency::any("virtual(any)"))
        .requires(Dependency::greater_eq("other", "1.0"))
        .requires(Dependency::any("(a or b)"))
        .conflicts(Dependency::less("old", "3"))
        .obsoletes(Dependency::less_eq("older", "0.9-1"))
        .recommends(Dependency::any("nice"))
        .suggests(Dependency::any("nicer"))
        .supplements(Dependency::any("main"))
        .enhances(Dependency::any("main2"))
        .pre_install_script("echo pre")
        .post_install_script("echo post")
        .add_changelog_entry("A <a@example.com> - 1", "- first & best", 1_500_000_000u32)
        .add_changelog_entry("B <b@example.com> - 2", "- second", 1_600_000_000u32);
    builder.with_file_contents("#!/bin/sh\n", FileOptions::new(format!("/usr/bin/{name}")).mode(0o100_755)).unwrap();
    builder.with_file_contents("x = 1\n", FileOptions::new(format!("/etc/{name}.conf")).config()).unwrap();
    builder.with_file_contents("doc\n", FileOptions::new(format!("/usr/share/{name}/a & b"))).unwrap();
    let path = folder.join(format!("{name}-{version}-{release}.{arch}.rpm"));
    fs::create_dir_all(folder).unwrap();
    builder.build().unwrap().write_file(&path).unwrap();
    path
}

fn rebuild(mirror: &Mirror, input: &Path, all_versions: bool) -> Summary {
    let options = Options { arches: vec!["x86_64".into()], all_versions, keep_generations: 1 };
    mirror.rebuild(&[input.to_owned()], &options, &|_| {}).unwrap()
}

fn metadata(repo: &Path, kind: &str) -> String {
    let repomd = fs::read_to_string(repo.join("repodata/repomd.xml")).unwrap();
    let start = repomd.find(&format!("<data type=\"{kind}\"")).unwrap();
    let href = repomd[start..].split("href=\"").nth(1).unwrap().split('"').next().unwrap();
    let mut text = String::new();
    flate2::read::GzDecoder::new(fs::File::open(repo.join(href)).unwrap()).read_to_string(&mut text).unwrap();
    text
}

/// The elements of `xml` in one line each, package by package, with what legitimately differs between two tools left out: where a
/// package lies, when it was looked at, and how text is escaped and indented.
fn elements(xml: &str) -> BTreeSet<String> {
    let source = rocks_common::diag::Source::new("repodata", xml);
    let (document, problems) = rocks_common::xml::parse(&source, rocks_common::xml::ParseOptions::STRICT);
    assert!(!problems.has_errors(), "{}", problems.render());
    let mut out = BTreeSet::new();
    walk(&document.root.expect("a root"), "", &mut out);
    out
}

fn walk(element: &rocks_common::xml::Element, above: &str, out: &mut BTreeSet<String>) {
    use rocks_common::xml::Node;
    if matches!(&*element.name, "location" | "time") {
        return;
    }
    let mut attributes: Vec<String> =
        element.attributes.iter().map(|a| format!("{}={}", a.name, a.value.literal().unwrap_or("?"))).collect();
    attributes.sort();
    let own: String =
        element.children.iter().filter_map(|c| if let Node::Text(t) = c { t.literal() } else { None }).collect();
    let child_text = |name: &str| {
        let found = element.children.iter().find_map(|c| match c {
            Node::Element(e) if &*e.name == name => e.children.first(),
            _ => None,
        });
        found.and_then(|c| if let Node::Text(t) = c { t.literal() } else { None }).unwrap_or_default().to_owned()
    };
    let name =
        if &*element.name == "package" { format!("package {}", child_text("name")) } else { element.name.to_string() };
    let here = format!("{above}/{name}");
    out.insert(format!("{here} {} {}", attributes.join(" "), own.trim()));
    for child in &element.children {
        if let Node::Element(child) = child {
            walk(child, &here, out);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "asks the reference tool")]
fn run(program: &str, args: &[&str]) -> Option<String> {
    let output = match std::process::Command::new(program).args(args).env("LC_ALL", "C").output() {
        Ok(output) => output,
        Err(e) => {
            println!("skipped: {program}: {e}");
            return None;
        }
    };
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program}: {out}{err}");
    Some(out.into_owned())
}

#[test]
fn agrees_with_createrepo_c() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in");
    build(&input, "one", "1.0", "1", 0, "x86_64");
    build(&input, "two", "2.0~rc1", "3", 4, "noarch");
    let mirror = Mirror::open(dir.path().join("mirror")).unwrap();
    let summary = rebuild(&mirror, &input, false);
    assert_eq!((summary.files, summary.read, summary.packages["x86_64"]), (2, 2, 2), "{summary:?}");
    if run("createrepo_c", &["--general-compress-type=gz", input.to_str().unwrap()]).is_none() {
        return;
    }
    for kind in ["primary", "filelists", "other"] {
        let ours = elements(&metadata(&mirror.root().join("rocks-dist/x86_64"), kind));
        let theirs = elements(&metadata(&input, kind));
        let missing: Vec<_> = theirs.difference(&ours).collect();
        let extra: Vec<_> = ours.difference(&theirs).collect();
        assert!(missing.is_empty() && extra.is_empty(), "{kind}: missing {missing:#?}, extra {extra:#?}");
    }
}

#[test]
fn dnf_reads_what_is_published() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in");
    build(&input, "one", "1.9", "1", 0, "x86_64");
    build(&input, "one", "1.10", "1", 0, "x86_64");
    build(&input, "two", "1", "1", 0, "noarch");
    build(&input, "alien", "1", "1", 0, "aarch64");
    let mirror = Mirror::open(dir.path().join("mirror")).unwrap();
    rebuild(&mirror, &input, false);
    let root = dir.path().join("root");
    let repo = format!("--repofrompath=r,file://{}", mirror.root().join("rocks-dist/x86_64").display());
    let installroot = format!("--installroot={}", root.display());
    let cache = format!("--setopt=cachedir={}", dir.path().join("cache").display());
    let args = [&installroot, &repo, &cache, "--repo=r", "--forcearch=x86_64", "--releasever=1", "-q", "repoquery"];
    let format = ["--qf", "%{name}-%{epoch}:%{version}-%{release}.%{arch}"];
    if let Some(out) = run("dnf", &[&args[..], &format].concat()) {
        assert_eq!(out, "one-0:1.10-1.x86_64\ntwo-0:1-1.noarch\n");
    }
    if let Some(out) = run("dnf", &[&args[..], &["--requires", "one"]].concat()) {
        assert!(out.contains("other >= 1.0") && out.contains("(a or b)"), "{out}");
    }
}

#[test]
fn publishes_only_changes_and_keeps_the_last_generation() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in");
    let old = build(&input, "one", "1", "1", 0, "noarch");
    let mirror = Mirror::open(dir.path().join("mirror")).unwrap();
    assert_eq!(rebuild(&mirror, &input, false).published, ["x86_64"]);
    let repo = mirror.root().join("rocks-dist/x86_64");
    let first = fs::read(repo.join("repodata/repomd.xml")).unwrap();
    let again = rebuild(&mirror, &input, false);
    assert!(again.published.is_empty() && again.read == 0, "{again:?}");
    assert_eq!(first, fs::read(repo.join("repodata/repomd.xml")).unwrap());

    let names = |folder: &str| fs::read_dir(repo.join(folder)).unwrap().count();
    fs::remove_file(old).unwrap();
    build(&input, "one", "2", "1", 0, "noarch");
    assert_eq!(rebuild(&mirror, &input, false).published, ["x86_64"]);
    assert_eq!((names("Packages"), names("repodata")), (2, 9), "a client with the old repomd.xml finds all of it");
    build(&input, "one", "3", "1", 0, "noarch");
    rebuild(&mirror, &input, false);
    assert_eq!((names("Packages"), names("repodata")), (2, 9), "and what is older is collected");
    assert_eq!(rebuild(&mirror, &input, true).packages["x86_64"], 2, "all versions");
}

#[test]
fn damaged_files_and_duplicates_are_findings() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in");
    let good = build(&input.join("a"), "one", "1", "1", 0, "noarch");
    build(&input.join("b"), "one", "1", "1", 0, "noarch");
    let mut other = fs::read(&good).unwrap();
    other.push(0);
    fs::write(input.join("b/one-1-1.noarch.rpm"), other).unwrap();
    fs::write(input.join("text.rpm"), "no rpm").unwrap();
    let mirror = Mirror::open(dir.path().join("mirror")).unwrap();
    let summary = rebuild(&mirror, &input, false);
    assert_eq!((summary.packages["x86_64"], summary.findings.len()), (1, 2), "{summary:?}");
}

#[test]
fn no_bytes_make_the_header_reader_panic() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = fs::read(build(dir.path(), "one", "1", "1", 0, "noarch")).unwrap();
    let package = header::read(&mut &bytes[..]).unwrap();
    let end = usize::try_from(package.header_range.1).unwrap();
    for at in 0..end {
        for value in [0, 0x7f, 0xff] {
            let mut damaged = bytes[..end].to_vec();
            damaged[at] = value;
            let _ = header::read(&mut &damaged[..]);
        }
        assert!(header::read(&mut &bytes[..at]).is_err());
    }
}

#[test]
fn serves_ranges_and_conditions_and_nothing_outside() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let mirror = Mirror::open(dir.path()).unwrap();
        let repo = dir.path().join("rocks-dist/x86_64");
        fs::create_dir_all(&repo).unwrap();
        let content: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
        fs::write(repo.join("a.rpm"), &content).unwrap();
        fs::write(repo.join("empty.rpm"), "").unwrap();
        fs::write(dir.path().join("secret"), "secret").unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret"), repo.join("link.rpm")).unwrap();
        std::os::unix::fs::symlink(dir.path(), repo.join("linked")).unwrap();
        let root = MirrorRoot::of(&mirror);
        let get = async |method: Method, path: &str, headers: &[(&str, &str)]| {
            let mut request = Request::builder().method(method).uri(format!("{PREFIX}{path}"));
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let response = handle(&root, request.body(()).unwrap()).await;
            let (parts, body) = response.into_parts();
            (parts.status, parts.headers, body.collect().await.unwrap().to_bytes())
        };
        let (status, headers, body) = get(Method::GET, "x86_64/a.rpm", &[]).await;
        assert_eq!((status, &body[..]), (StatusCode::OK, &content[..]));
        let etag = headers["etag"].to_str().unwrap().to_owned();
        let date = headers["last-modified"].to_str().unwrap().to_owned();
        for (range, from, to) in [
            ("bytes=0-0", 0, 1),
            ("bytes=200000-", 200_000, 300_000),
            ("bytes=-5", 299_995, 300_000),
            ("bytes=299999-999999", 299_999, 300_000),
        ] {
            let (status, _, body) = get(Method::GET, "x86_64/a.rpm", &[("range", range), ("if-range", &etag)]).await;
            assert_eq!((status, &body[..]), (StatusCode::PARTIAL_CONTENT, &content[from..to]), "{range}");
        }
        for (name, value, expected) in [
            ("range", "bytes=300000-", StatusCode::RANGE_NOT_SATISFIABLE),
            ("range", "bytes=5-4", StatusCode::OK),
            ("range", "bytes=0-1,5-6", StatusCode::OK),
            ("range", "bytes=99999999999999999999-", StatusCode::OK),
            ("if-none-match", etag.as_str(), StatusCode::NOT_MODIFIED),
            ("if-none-match", "\"x\"", StatusCode::OK),
            ("if-modified-since", date.as_str(), StatusCode::NOT_MODIFIED),
        ] {
            assert_eq!(get(Method::GET, "x86_64/a.rpm", &[(name, value)]).await.0, expected, "{name}: {value}");
        }
        let (status, ..) = get(Method::GET, "x86_64/a.rpm", &[("range", "bytes=1-2"), ("if-range", "\"x\"")]).await;
        assert_eq!(status, StatusCode::OK);
        let (status, headers, body) = get(Method::HEAD, "x86_64/a.rpm", &[]).await;
        assert_eq!((status, headers["content-length"].to_str().unwrap(), body.len()), (StatusCode::OK, "300000", 0));
        assert_eq!(
            get(Method::GET, "x86_64/empty.rpm", &[("range", "bytes=0-")]).await.0,
            StatusCode::RANGE_NOT_SATISFIABLE
        );
        assert_eq!(get(Method::POST, "x86_64/a.rpm", &[]).await.0, StatusCode::METHOD_NOT_ALLOWED);
        for path in [
            "",
            "x86_64",
            "x86_64/",
            "../secret",
            "x86_64/../../secret",
            "%2e%2e/secret",
            "..%2fsecret",
            "x86_64/link.rpm",
            "x86_64/linked/secret",
            "x86_64//a.rpm",
            "x86_64/a.rpm%00",
            "x86_64/%zz",
            "x86_64/%",
        ] {
            assert_eq!(get(Method::GET, path, &[]).await.0, StatusCode::NOT_FOUND, "{path}");
        }
    });
}
