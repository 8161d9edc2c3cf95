//! The appliance on a machine of the RPM family: its own distribution's packages, as they are.
//!
//! Written after the documentation of dnf; it has not been run on such a machine by us. What differs from the Debian way: nothing is
//! converted, the RPMs keep the signatures that they have, and the add-ons are fetched into `repo/addon` with what they need.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::{Lite, make_key, recipe, skeleton};
use crate::process::cmd;

/// What the tree consists of.
const BASE: &[&str] = &[
    "systemd",
    "systemd-udev",
    "dbus",
    "rpm",
    "dnf",
    "ca-certificates",
    "iproute",
    "openssh-server",
    "openssh-clients",
    "curl",
    "python3",
    "kmod",
    "e2fsprogs",
    "less",
    "procps-ng",
    "sudo",
    "tzdata",
    "shadow-utils",
    "glibc-minimal-langpack",
];
/// What only the mirror holds.
const ADDON: &[&str] = &[
    "vim-enhanced",
    "java-17-openjdk-headless",
    "chrony",
    "rsync",
    "tmux",
    "tree",
    "gcc",
    "make",
    "git-core",
    "nfs-utils",
];

/// The appliance of this distribution's release.
pub(super) fn get(cache: &Path, say: &mut dyn FnMut(&str)) -> Result<Lite> {
    let os = fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    let field = |name: &str| {
        os.lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix('='))
            .map(|v| v.trim_matches('"').to_owned())
            .with_context(|| format!("os-release has no {name}"))
    };
    let (id, release) = (field("ID")?, field("VERSION_ID")?);
    let release_major = release.split('.').next().unwrap_or(&release).to_owned();
    let dir = cache.join(format!("lite-{id}-{release}-{}", recipe::RECIPE_VERSION));
    let lite = Lite { dir: dir.clone() };
    if dir.join("done").exists() {
        return Ok(lite);
    }
    ensure!(rustix::process::geteuid().is_root(), "making the lite appliance needs root (dnf --installroot)");
    let work = cache.join(format!("lite-{id}-{release}.part"));
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    let (tree, repo) = (work.join("tree"), work.join("repo"));
    fs::create_dir_all(&tree)?;
    fs::create_dir_all(repo.join("base"))?;
    fs::create_dir_all(repo.join("addon"))?;

    say("installing the tree with dnf");
    // The host's repositories and keys, but its own variables for the release.
    cmd("dnf")
        .args(["-q", "-y", "--setopt=install_weak_deps=False", "--setopt=keepcache=False"])
        .arg(format!("--installroot={}", tree.display()))
        .arg(format!("--releasever={release_major}"))
        .args(["install", &format!("{id}-release")])
        .args(BASE)
        .run()?;
    say("fetching what the mirror holds");
    cmd("dnf")
        .args(["-q", "-y", "download", "--resolve", "--destdir"])
        .arg(repo.join("addon"))
        .arg(format!("--installroot={}", tree.display()))
        .arg(format!("--releasever={release_major}"))
        .args(ADDON)
        .run()?;
    // Our own packages are signed with a key of ours; the distribution's keep theirs.
    make_key(&work.join("gpg"), &work.join("RPM-GPG-KEY"))?;
    cmd("rpmkeys").arg(format!("--root={}", tree.display())).arg("--import").arg(work.join("RPM-GPG-KEY")).run()?;
    cmd("createrepo_c").arg("-q").arg(&repo).run()?;
    // The instance's only repository is its frontend's.
    for e in fs::read_dir(tree.join("etc/yum.repos.d"))? {
        fs::remove_file(e?.path())?;
    }
    skeleton::write(&tree.join("etc/hostname"), "lite\n")?;
    skeleton::write(&tree.join("etc/machine-id"), "")?;
    skeleton::write(&tree.join("usr/lib/systemd/system-preset/10-testbed.preset"), "enable rocks-agent.service\n")?;
    fs::create_dir_all(tree.join("etc/pki/rpm-gpg"))?;
    fs::copy(work.join("RPM-GPG-KEY"), tree.join("etc/pki/rpm-gpg/RPM-GPG-KEY-testbed"))?;
    for unit in ["systemd-networkd.service", "NetworkManager.service", "firewalld.service"] {
        drop(cmd("systemctl").arg(format!("--root={}", tree.display())).args(["mask", unit]).output());
    }
    fs::rename(&work, &dir)?;
    fs::write(dir.join("done"), "")?;
    Ok(lite)
}
