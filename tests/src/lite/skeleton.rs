//! The RPM that every other stands on (`filesystem` and `setup` of an RPM distribution), and the finishing of an installed tree.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rpm::{BuildConfig, CompressionWithLevel, FileMode, FileOptions, FileVerifyFlags, PackageBuilder};

use super::recipe;
use crate::process::cmd;

/// The skeleton package's name.
pub const NAME: &str = "testbed-filesystem";

/// Builds the skeleton RPM into `out`.
pub fn build(out: &Path) -> Result<PathBuf> {
    let mut b = PackageBuilder::new(
        NAME,
        "1",
        "Apache-2.0",
        "noarch",
        "Folders, links and accounts of the appliance under test",
    );
    b.using_config(BuildConfig::v4().compression(CompressionWithLevel::Zstd(3)).source_date(1_700_000_000_u32));
    b.release("1").vendor("Rocks test bed").description("What filesystem and setup are on an RPM distribution.");
    for dir in recipe::COMMON_FOLDERS {
        let mode = match *dir {
            "tmp" | "var/tmp" => 0o1777,
            "root" => 0o700,
            _ => 0o755,
        };
        b.with_dir_entry(FileOptions::dir(format!("/{dir}")).permissions(mode))?;
    }
    for link in ["bin", "sbin", "lib", "lib64"] {
        b.with_symlink(FileOptions::symlink(format!("/{link}"), format!("usr/{link}")))?;
    }
    let shadow: String = recipe::PASSWD
        .lines()
        .filter_map(|l| l.split(':').next())
        .map(|u| format!("{u}:*:19000:0:99999:7:::\n"))
        .collect();
    let nsswitch = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n";
    for (path, text, mode, group, config) in [
        ("/etc/passwd", recipe::PASSWD, 0o644, "root", true),
        ("/etc/group", recipe::GROUP, 0o644, "root", true),
        ("/etc/shadow", &shadow, 0o640, "shadow", true),
        ("/etc/nsswitch.conf", nsswitch, 0o644, "root", true),
        // Debian's rpm would look below the home folder.
        ("/etc/rpm/macros.dbpath", "%_dbpath /var/lib/rpm\n", 0o644, "root", false),
        ("/usr/lib/systemd/system-preset/10-testbed.preset", recipe::PRESET, 0o644, "root", false),
    ] {
        let o = FileOptions::new(path).mode(FileMode::regular(mode)).user("root").group(group);
        let o = if config { o.config().noreplace().verify(FileVerifyFlags::MODE) } else { o };
        b.with_file_contents(text.as_bytes(), o)?;
    }
    b.post_trans_script(POST_TRANS);
    Ok(b.build()?.write_to(out)?)
}

/// What the maintainer scripts that were left out would have done, in whatever root the packages are installed into.
const POST_TRANS: &str = "\
chgrp shadow /etc/shadow
ldconfig
[ -e /usr/bin/awk ] || ln -s mawk /usr/bin/awk
for s in auth account session session-noninteractive password; do
  [ -e /etc/pam.d/common-$s ] || echo \"${s%%-*} required pam_unix.so\" > /etc/pam.d/common-$s
done
[ -e /etc/ssh/sshd_config ] || cp -p /usr/share/openssh/sshd_config /etc/ssh/sshd_config 2>/dev/null
mkdir -p /etc/network /etc/dnf/vars
[ -e /etc/network/interfaces ] || printf 'auto lo\\niface lo inet loopback\\n' > /etc/network/interfaces
echo 1 > /etc/dnf/vars/releasever
python3 -m compileall -q --invalidation-mode unchecked-hash /usr/lib/python3 /usr/lib/python3.* >/dev/null 2>&1
systemctl --root=/ preset-all --preset-mode=full >/dev/null 2>&1
systemctl --root=/ set-default multi-user.target >/dev/null 2>&1
:
";

/// Does what the maintainer scripts that were left out would have done, and what an image builder does last.
pub fn finish(tree: &Path) -> Result<()> {
    let at = |p: &str| tree.join(p);
    // The account files came in the same transaction as the tool that would have known the group.
    cmd("chown").arg("0:42").arg(at("etc/shadow")).run()?;
    cmd("ldconfig").arg("-r").arg(tree).run()?;
    if !at("usr/bin/awk").exists() {
        link("mawk", &at("usr/bin/awk"))?;
    }
    for service in ["auth", "account", "session", "session-noninteractive", "password"] {
        let kind = service.split('-').next().unwrap_or(service);
        write(&at(&format!("etc/pam.d/common-{service}")), &format!("{kind} required pam_unix.so\n"))?;
    }
    write(&at("etc/hostname"), "lite\n")?;
    // Empty: every instance makes its own at its first boot.
    write(&at("etc/machine-id"), "")?;
    write(&at("etc/network/interfaces"), "auto lo\niface lo inet loopback\n")?;
    write(&at("etc/dnf/vars/releasever"), "1\n")?;
    fs::create_dir_all(at("etc/yum.repos.d"))?;
    let sshd = at("etc/ssh/sshd_config");
    if !sshd.exists() {
        fs::copy(at("usr/share/openssh/sshd_config"), &sshd).context("sshd_config")?;
    }
    cmd("ssh-keygen").args(["-A", "-f"]).arg(tree).run()?;
    let systemctl = |args: &[&str]| cmd("systemctl").arg(format!("--root={}", tree.display())).args(args).output();
    // `preset-all` complains of units whose aliases Debian lays out its own way, and is right in all the others.
    systemctl(&["preset-all", "--preset-mode=full"])?;
    systemctl(&["set-default", "multi-user.target"])?;
    for unit in [
        "serial-getty@.service",
        "systemd-pstore.service",
        "e2scrub_reap.service",
        "apt-daily.timer",
        "apt-daily-upgrade.timer",
    ] {
        systemctl(&["mask", unit])?;
    }
    // RPM distributions' packages bring the bytecode of what is in Python, as dnf is; without it each start compiles it. The same bytes each time.
    let compile = "python3 -m compileall -q --invalidation-mode unchecked-hash /usr/lib/python3 /usr/lib/python3.*";
    cmd("chroot").arg(tree).args(["sh", "-c", compile]).output()?;
    Ok(())
}

fn link(target: &str, at: &Path) -> Result<()> {
    symlink(target, at).with_context(|| at.display().to_string())
}

/// Writes a small file, its folders made when missing.
pub fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(path, text).with_context(|| path.display().to_string())
}
