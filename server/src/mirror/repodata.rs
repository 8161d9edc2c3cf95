//! Writes repodata as `createrepo_c` does: which values, which files in primary, which requirements are left out.

use std::collections::HashSet;
use std::fmt::Write as _;

use rocks_common::evr::Evr;
use rocks_common::xml::escape as esc;
use serde::{Deserialize, Serialize};

use super::header::{DEPENDENCIES, Dependency, FileEntry, FileKind, Package};

/// One package as its three pieces of XML, and what choosing among packages needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fragments {
    /// In `primary.xml`.
    pub primary: String,
    /// In `filelists.xml`.
    pub filelists: String,
    /// In `other.xml`.
    pub other: String,
}

/// The file itself, beside what its header says.
#[derive(Debug, Clone, Copy)]
pub struct FileFacts<'a> {
    /// SHA-256 of the file, in hex.
    pub digest: &'a str,
    /// Its bytes.
    pub size: u64,
    /// When it was changed, in seconds since 1970.
    pub mtime: i64,
    /// Where it is, below the repository's root.
    pub href: &'a str,
}

/// Whether clients must find `path` without the file lists.
fn is_primary(path: &str) -> bool {
    path.starts_with("/etc/") || path.contains("bin/") || path == "/usr/lib/sendmail"
}

fn file_line(file: &FileEntry) -> String {
    let kind = match file.kind {
        FileKind::File => "",
        FileKind::Dir => " type=\"dir\"",
        FileKind::Ghost => " type=\"ghost\"",
    };
    format!("<file{kind}>{}</file>\n", esc(&file.path))
}

fn entry(dependency: &Dependency, is_pre: bool) -> String {
    let mut out = format!("<rpm:entry name=\"{}\"", esc(&dependency.name));
    let flags = match (dependency.flags >> 1) & 7 {
        1 => "LT",
        2 => "GT",
        4 => "EQ",
        5 => "LE",
        6 => "GE",
        _ => "",
    };
    if !flags.is_empty() && !dependency.version.is_empty() {
        let evr = Evr::parse(&dependency.version);
        let _ = write!(out, " flags=\"{flags}\" epoch=\"{}\" ver=\"{}\"", evr.epoch, esc(&evr.version));
        if let Some(release) = &evr.release {
            let _ = write!(out, " rel=\"{}\"", esc(release));
        }
    }
    out.push_str(if is_pre { " pre=\"1\"/>\n" } else { "/>\n" });
    out
}

/// The three pieces of `package`, whose file is `file`.
#[must_use]
pub fn fragments(package: &Package, file: &FileFacts<'_>) -> Fragments {
    let p = package;
    let version = format!("<version epoch=\"{}\" ver=\"{}\" rel=\"{}\"/>\n", p.epoch, esc(&p.version), esc(&p.release));
    let mut primary = format!("<package type=\"rpm\">\n<name>{}</name>\n<arch>{}</arch>\n", esc(&p.name), esc(&p.arch));
    primary.push_str(&version);
    let _ = writeln!(primary, "<checksum type=\"sha256\" pkgid=\"YES\">{}</checksum>", file.digest);
    for (element, text) in
        [("summary", &p.summary), ("description", &p.description), ("packager", &p.packager), ("url", &p.url)]
    {
        let _ = writeln!(primary, "<{element}>{}</{element}>", esc(text));
    }
    let _ = write!(
        primary,
        "<time file=\"{}\" build=\"{}\"/>\n<size package=\"{}\" installed=\"{}\" archive=\"{}\"/>\n<location \
         href=\"{}\"/>\n<format>\n",
        file.mtime,
        p.build_time,
        file.size,
        p.installed_size,
        p.archive_size,
        esc(file.href)
    );
    for (element, text) in [
        ("license", &p.license),
        ("vendor", &p.vendor),
        ("group", &p.group),
        ("buildhost", &p.build_host),
        ("sourcerpm", &p.source_rpm),
    ] {
        let _ = writeln!(primary, "<rpm:{element}>{}</rpm:{element}>", esc(text));
    }
    let _ = writeln!(primary, "<rpm:header-range start=\"{}\" end=\"{}\"/>", p.header_range.0, p.header_range.1);
    for (at, (element, ..)) in DEPENDENCIES.iter().enumerate() {
        let lines = dependency_lines(p, at);
        if !lines.is_empty() {
            let _ = write!(primary, "<rpm:{element}>\n{lines}</rpm:{element}>\n");
        }
    }
    let mut filelists =
        format!("<package pkgid=\"{}\" name=\"{}\" arch=\"{}\">\n{version}", file.digest, esc(&p.name), esc(&p.arch));
    let mut other = filelists.clone();
    for f in &p.files {
        let line = file_line(f);
        if is_primary(&f.path) {
            primary.push_str(&line);
        }
        filelists.push_str(&line);
    }
    for c in &p.changelogs {
        let _ = writeln!(
            other,
            "<changelog author=\"{}\" date=\"{}\">{}</changelog>",
            esc(&c.author),
            c.time,
            esc(&c.text)
        );
    }
    primary.push_str("</format>\n</package>\n");
    filelists.push_str("</package>\n");
    other.push_str("</package>\n");
    Fragments { primary, filelists, other }
}

/// The entries of one kind. Requirements that the package meets itself, and those on rpm's own features, are left out.
fn dependency_lines(p: &Package, at: usize) -> String {
    /// `%pre` and `%post` must find these installed: legacy prereq, script-pre, script-post.
    const PRE: u32 = 1 << 6 | 1 << 9 | 1 << 10;
    /// Less, greater, equal.
    const SENSE: u32 = 1 << 1 | 1 << 2 | 1 << 3;
    let is_requires = DEPENDENCIES[at].0 == "requires";
    let mut own: HashSet<&str> = HashSet::new();
    if is_requires {
        own.extend(p.files.iter().map(|f| f.path.as_str()).filter(|path| is_primary(path)));
        own.extend(p.dependencies[0].iter().map(|d| d.name.as_str()));
    }
    let mut seen = HashSet::new();
    let mut out = String::new();
    for d in &p.dependencies[at] {
        // What it provides in just this version it need not ask for: `config(x) = 1-1`.
        let same = |p: &Dependency| p.name == d.name && p.version == d.version && p.flags & SENSE == d.flags & SENSE;
        let met = (d.version.is_empty() && own.contains(d.name.as_str())) || p.dependencies[0].iter().any(same);
        if is_requires && (d.name.starts_with("rpmlib(") || met) {
            continue;
        }
        let line = entry(d, is_requires && d.flags & PRE != 0);
        if seen.insert(line.clone()) {
            out.push_str(&line);
        }
    }
    out
}
