//! Reading .deb files: the control fields, and what of them an RPM says in its own words.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use rpm::Dependency;

use crate::process::cmd;

/// A .deb's control information.
#[derive(Debug)]
pub struct Control {
    fields: BTreeMap<String, String>,
    /// Absolute paths that the administrator may have changed.
    pub conffiles: BTreeSet<String>,
}

impl Control {
    /// Reads the control information of one .deb.
    pub fn read(deb: &Path) -> Result<Self> {
        let mut fields = BTreeMap::new();
        let mut conffiles = BTreeSet::new();
        cmd("dpkg-deb").arg("--ctrl-tarfile").arg(deb).stream(|out| {
            let mut tar = tar::Archive::new(out);
            for entry in tar.entries()? {
                let mut entry = entry?;
                let name = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
                let mut text = String::new();
                match name.as_str() {
                    "control" => {
                        entry.read_to_string(&mut text)?;
                        fields = parse_fields(&text);
                    }
                    "conffiles" => {
                        entry.read_to_string(&mut text)?;
                        conffiles =
                            text.lines().map(str::trim).filter(|l| l.starts_with('/')).map(str::to_owned).collect();
                    }
                    _ => {}
                }
            }
            Ok(())
        })?;
        Ok(Self { fields, conffiles })
    }

    /// A field, empty when it is not there.
    pub fn get(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    /// The package's name.
    pub fn name(&self) -> Result<&str> {
        self.fields.get("Package").map(String::as_str).context("no Package field")
    }

    /// The clauses of a relation field, in RPM's words. Alternatives become a rich dependency: `(a or b)`.
    pub fn relation(&self, field: &str) -> Vec<Clause> {
        self.get(field).split(',').map(str::trim).filter(|c| !c.is_empty()).map(Clause::parse).collect()
    }
}

/// `Name: value` lines with continuation lines.
fn parse_fields(text: &str) -> BTreeMap<String, String> {
    let mut fields: BTreeMap<String, String> = BTreeMap::new();
    let mut last = String::new();
    for line in text.lines() {
        if line.starts_with([' ', '\t']) {
            if let Some(v) = fields.get_mut(&last) {
                v.push('\n');
                v.push_str(line.trim_start());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            last = name.to_owned();
            fields.insert(last.clone(), value.trim().to_owned());
        }
    }
    fields
}

/// One clause of a relation: one package, or alternatives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clause {
    /// At least one.
    alternatives: Vec<One>,
}

/// A package with an optional version.
#[derive(Debug, Clone, PartialEq, Eq)]
struct One {
    name: String,
    version: Option<(&'static str, String)>,
}

impl Clause {
    fn parse(text: &str) -> Self {
        Self { alternatives: text.split('|').map(One::parse).collect() }
    }

    /// The only package of the clause, without its version.
    pub fn single(&self) -> Option<&str> {
        match self.alternatives.as_slice() {
            [one] => Some(&one.name),
            _ => None,
        }
    }

    /// Does it ask for a version?
    pub fn versioned(&self) -> bool {
        self.alternatives.iter().any(|o| o.version.is_some())
    }

    /// As RPM says it.
    pub fn dependency(&self) -> Dependency {
        match self.alternatives.as_slice() {
            [one] => one.dependency(),
            all => {
                let texts: Vec<String> = all.iter().map(One::text).collect();
                Dependency::any(format!("({})", texts.join(" or ")))
            }
        }
    }
}

impl One {
    fn parse(text: &str) -> Self {
        let (name, rest) = match text.split_once('(') {
            Some((n, r)) => (n, Some(r.trim_end().trim_end_matches(')'))),
            None => (text, None),
        };
        // `name:any` is about foreign architectures, of which there are none here; `[arch]` lists do not occur in binaries.
        let name = name.trim().split(':').next().unwrap_or_default().to_owned();
        let version = rest.and_then(|r| {
            let r = r.trim();
            let op = ["<<", "<=", ">>", ">=", "="].into_iter().find(|o| r.starts_with(o))?;
            let rpm_op = match op {
                "<<" => "<",
                ">>" => ">",
                same => same,
            };
            Some((rpm_op, Version::parse(r[op.len()..].trim()).to_string()))
        });
        Self { name, version }
    }

    fn text(&self) -> String {
        match &self.version {
            Some((op, v)) => format!("{} {op} {v}", self.name),
            None => self.name.clone(),
        }
    }

    fn dependency(&self) -> Dependency {
        match &self.version {
            None => Dependency::any(&self.name),
            Some(("<", v)) => Dependency::less(&self.name, v),
            Some(("<=", v)) => Dependency::less_eq(&self.name, v),
            Some((">", v)) => Dependency::greater(&self.name, v),
            Some((">=", v)) => Dependency::greater_eq(&self.name, v),
            Some((_, v)) => Dependency::eq(&self.name, v),
        }
    }
}

/// A Debian version in RPM's three parts. `-` may stand in neither version nor release there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// 0 when there is none.
    pub epoch: u32,
    /// The upstream version.
    pub version: String,
    /// The Debian revision, `0` for a native package.
    pub release: String,
}

impl Version {
    /// Reads `[epoch:]upstream[-revision]`.
    pub fn parse(text: &str) -> Self {
        let (epoch, rest) = match text.split_once(':') {
            Some((e, r)) => (e.parse().unwrap_or(0), r),
            None => (0, text),
        };
        let (version, release) = rest.rsplit_once('-').unwrap_or((rest, "0"));
        Self { epoch, version: version.replace('-', "."), release: release.replace('-', ".") }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.epoch != 0 {
            write!(f, "{}:", self.epoch)?;
        }
        write!(f, "{}-{}", self.version, self.release)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_relations_are_said_as_rpm_says_them() {
        assert_eq!(Version::parse("2:9.0.1378-2+deb12u2").to_string(), "2:9.0.1378-2+deb12u2");
        assert_eq!(Version::parse("1.2-3-4").to_string(), "1.2.3-4");
        assert_eq!(Version::parse("20230311").to_string(), "20230311-0");
        let c = Clause::parse("debconf (>= 0.5) | debconf-2.0");
        assert_eq!(c.dependency().name, "(debconf >= 0.5-0 or debconf-2.0)");
        let c = Clause::parse("python3:any (<< 3.12)");
        assert_eq!(c.dependency(), Dependency::less("python3", "3.12-0"));
        assert_eq!(c.single(), Some("python3"));
        assert!(c.versioned());
    }

    #[test]
    fn continuation_lines_belong_to_their_field() {
        let f = parse_fields("Package: a\nDescription: one\n two\n three\nDepends: b,\n c\n");
        assert_eq!(f["Description"], "one\ntwo\nthree");
        assert_eq!(f["Depends"], "b,\nc");
    }
}
