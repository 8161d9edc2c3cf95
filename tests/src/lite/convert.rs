//! One .deb into one .rpm: real requirements, provisions and conflicts, configuration files, owners and modes.
//!
//! Maintainer scripts are left out: they speak debconf and dpkg. What a distribution's packager would write instead stands in
//! [`super::recipe`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rpm::{BuildConfig, CompressionWithLevel, Dependency, FileMode, FileOptions, PackageBuilder};

use super::deb::{Control, Version};
use super::recipe;
use crate::process::{cmd, which};

/// What the usr-merge moved below /usr.
const MERGED: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// What an appliance has no use for.
const LEFT_OUT: [&str; 6] = [
    "usr/share/doc/",
    "usr/share/man/",
    "usr/share/locale/",
    "usr/share/info/",
    "usr/share/lintian/",
    "usr/share/bug/",
];

/// Where a path of a .deb lies on a usr-merged system, without a leading slash.
fn canonical(path: &str) -> String {
    let path = path.trim_start_matches("./").trim_matches('/');
    let head = path.split('/').next().unwrap_or_default();
    if MERGED.contains(&head) { format!("usr/{path}") } else { path.to_owned() }
}

/// Converts `deb`; gives the path of the .rpm in `out`.
pub fn convert(deb: &Path, out: &Path) -> Result<PathBuf> {
    convert_inner(deb, out).with_context(|| format!("converting {}", deb.display()))
}

fn convert_inner(deb: &Path, out: &Path) -> Result<PathBuf> {
    let control = Control::read(deb)?;
    let name = control.name()?;
    let version = Version::parse(control.get("Version"));
    let arch = match control.get("Architecture") {
        "all" => "noarch",
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        other => bail!("architecture {other} is not known here"),
    };
    let description = control.get("Description");
    let summary = description.lines().next().unwrap_or(name);
    let mut b = PackageBuilder::new(name, &version.version, "Debian", arch, summary);
    b.using_config(BuildConfig::v4().compression(CompressionWithLevel::Zstd(3)).source_date(1_700_000_000_u32));
    b.epoch(version.epoch).release(&version.release).description(description).vendor("Rocks test bed").group("misc");

    relations(&mut b, &control, name);
    // The accounts first: what belongs to a group that is not there yet falls to root.
    b.requires(Dependency::script_pre(super::skeleton::NAME));
    let libraries = files(&mut b, deb, &control)?;
    for p in library_provides(name, &libraries)? {
        b.provides(p);
    }
    if let Some(script) = recipe::post_script(name) {
        b.post_install_script(script);
        b.requires(Dependency::script_post("/bin/sh"));
    }
    let package = b.build().context("building the package")?;
    Ok(package.write_to(out)?)
}

fn relations(b: &mut PackageBuilder, control: &Control, name: &str) {
    for field in ["Pre-Depends", "Depends"] {
        for c in control.relation(field) {
            b.requires(c.dependency());
        }
    }
    for c in control.relation("Provides") {
        if c.single().is_some() {
            b.provides(c.dependency());
        }
    }
    for field in ["Conflicts", "Breaks"] {
        for c in control.relation(field) {
            // A versioned Breaks would match another package's unversioned Provides; a conflict with itself is Debian's way to say
            // "one provider only".
            if c.single().is_some_and(|n| n != name) && !c.versioned() {
                b.conflicts(c.dependency());
            }
        }
    }
    for c in control.relation("Recommends") {
        b.recommends(c.dependency());
    }
    for extra in recipe::extra_requires(name) {
        b.requires(Dependency::any(*extra));
    }
    for extra in recipe::extra_provides(name) {
        b.provides(Dependency::eq(*extra, Version::parse(control.get("Version")).to_string()));
    }
}

/// A regular file kept until its hard links have been seen.
struct Kept {
    content: Vec<u8>,
    mode: u16,
    user: String,
    group: String,
}

/// Adds the package's files; gives the shared libraries among them.
fn files(b: &mut PackageBuilder, deb: &Path, control: &Control) -> Result<Vec<Vec<u8>>> {
    let mut kept: BTreeMap<String, Kept> = BTreeMap::new();
    let mut libraries = Vec::new();
    let mut seen_dirs = BTreeSet::new();
    cmd("dpkg-deb").arg("--fsys-tarfile").arg(deb).stream(|out| {
        let mut tar = tar::Archive::new(out);
        for entry in tar.entries()? {
            let mut entry = entry?;
            let path = canonical(&entry.path()?.to_string_lossy());
            if path.is_empty() || path == "." || LEFT_OUT.iter().any(|l| path.starts_with(l)) {
                continue;
            }
            let header = entry.header();
            let mode = u16::try_from(header.mode()? & 0o7777)?;
            let user = owner(header.username().ok().flatten());
            let group = owner(header.groupname().ok().flatten());
            match header.entry_type() {
                // Folders that the filesystem RPM owns would only give the installer conflicting modes to choose from.
                tar::EntryType::Directory
                    if recipe::COMMON_FOLDERS.contains(&path.as_str()) || !seen_dirs.insert(path.clone()) => {}
                tar::EntryType::Directory => {
                    b.with_dir_entry(FileOptions::dir(format!("/{path}")).permissions(mode).user(user).group(group))?;
                }
                tar::EntryType::Symlink => {
                    let target = entry.link_name()?.context("a link without target")?.to_string_lossy().into_owned();
                    b.with_symlink(FileOptions::symlink(format!("/{path}"), target).user(user).group(group))?;
                }
                tar::EntryType::Link => {
                    let target = canonical(&entry.link_name()?.context("a link without target")?.to_string_lossy());
                    let from = kept
                        .get(&target)
                        .with_context(|| format!("hard link {path} to {target}, which is not there"))?;
                    let copy = Kept {
                        content: from.content.clone(),
                        mode: from.mode,
                        user: from.user.clone(),
                        group: from.group.clone(),
                    };
                    kept.insert(path, copy);
                }
                tar::EntryType::Regular | tar::EntryType::Continuous => {
                    let mut content = Vec::new();
                    entry.read_to_end(&mut content)?;
                    let file = path.rsplit('/').next().unwrap_or_default();
                    if path.starts_with("usr/lib/") && file.contains(".so") && content.starts_with(b"\x7fELF") {
                        libraries.push(content.clone());
                    }
                    kept.insert(path, Kept { content, mode, user, group });
                }
                _ => {}
            }
        }
        Ok(())
    })?;
    for (path, file) in kept {
        let conf = control.conffiles.contains(&format!("/{path}"));
        let options =
            FileOptions::new(format!("/{path}")).mode(FileMode::regular(file.mode)).user(file.user).group(file.group);
        let options = if conf { options.config().noreplace() } else { options };
        b.with_file_contents(file.content, options)?;
    }
    Ok(libraries)
}

fn owner(name: Option<&str>) -> String {
    match name {
        None | Some("") => "root".to_owned(),
        Some(n) => n.to_owned(),
    }
}

/// The sonames that a library package provides, so that RPMs built elsewhere (the agent's) find what their linker asked for.
fn library_provides(name: &str, libraries: &[Vec<u8>]) -> Result<Vec<Dependency>> {
    if libraries.is_empty() || !recipe::PROVIDES_SONAMES.contains(&name) {
        return Ok(Vec::new());
    }
    let elfdeps =
        ["/usr/lib/rpm/elfdeps"].map(PathBuf::from).into_iter().find(|p| p.exists()).or_else(|| which("elfdeps"));
    let elfdeps = elfdeps.context("rpm's elfdeps is not installed")?;
    let dir = tempfile::tempdir()?;
    let mut paths = Vec::new();
    for (n, content) in libraries.iter().enumerate() {
        let path = dir.path().join(format!("{n}.so"));
        fs::write(&path, content)?;
        // elfdeps only looks at what could be executed.
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        paths.push(path.display().to_string());
    }
    let said = cmd(elfdeps).arg("--provides").args(&paths).run()?.stdout;
    let mut all: BTreeSet<String> = said.lines().map(str::to_owned).collect();
    // Without a soname of its own a file would be named after our temporary file.
    all.retain(|p| !p.chars().next().is_some_and(|c| c.is_ascii_digit()));
    if name == "libc6" {
        all.insert("rtld(GNU_HASH)".to_owned());
    }
    Ok(all.into_iter().map(Dependency::any).collect())
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn paths_are_usr_merged() {
        assert_eq!(canonical("./bin/sh"), "usr/bin/sh");
        assert_eq!(canonical("./lib/x86_64-linux-gnu/libc.so.6"), "usr/lib/x86_64-linux-gnu/libc.so.6");
        assert_eq!(canonical("./usr/bin/x"), "usr/bin/x");
        assert_eq!(canonical("./etc/"), "etc");
        assert_eq!(canonical("./"), "");
        assert_eq!(canonical("./library"), "library");
    }
}
