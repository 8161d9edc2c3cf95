//! Does what was planned for a root, and decides nothing.

use super::{Act, Change, FitError, Fitted, Plan, Tree, View as _, bytes_of};

/// The file that makes SELinux label everything anew at the next boot.
const RELABEL: &str = ".autorelabel";

/// Whether the root's SELinux is on, by its configuration.
fn has_selinux(config: Option<&str>) -> bool {
    let value = config.and_then(|text| text.lines().rev().find_map(|line| line.trim_ascii().strip_prefix("SELINUX=")));
    value.is_some_and(|value| matches!(value.trim_ascii(), "enforcing" | "permissive"))
}

/// Makes the changes of `plan` in `tree`, and waits until they are on the disk.
///
/// # Errors
/// The file system's. What was done stays, and the next run goes on from there.
pub fn execute(tree: &Tree, plan: Plan) -> Result<Fitted, FitError> {
    let mut fitted = Fitted { root: plan.root, changes: Vec::new(), notes: plan.notes };
    let mut is_labelled = true;
    for edit in plan.edits {
        let verb = match &edit.act {
            Act::Write { text, mode } => {
                is_labelled &= tree.write(&edit.path, &bytes_of(text), *mode)?;
                ""
            }
            Act::Remove => {
                tree.remove(&edit.path)?;
                "removed: "
            }
            Act::Link { to } => {
                tree.link(&edit.path, to)?;
                "linked: "
            }
        };
        fitted.changes.push(Change { path: format!("/{}", edit.path), what: format!("{verb}{}", edit.why) });
    }
    // What was there kept its label and what is new has that of its folder. Only where that did not go is everything labelled anew,
    // which costs the first boot minutes.
    if !is_labelled && has_selinux(tree.text("etc/selinux/config")?.as_deref()) && !tree.has(RELABEL) {
        tree.write(RELABEL, b"", 0o644)?;
        let what = "SELinux labels everything anew at the first boot: labels could not be kept here".to_owned();
        fitted.changes.push(Change { path: format!("/{RELABEL}"), what });
    }
    tree.settle()?;
    Ok(fitted)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::{Wish, plan};
    use super::*;

    #[test]
    fn a_folder_is_fitted_and_then_there_is_nothing_to_do() {
        let dir = tempfile::tempdir().expect("a folder");
        let put = |path: &str, text: &str, mode: u32| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
        };
        put("etc/fstab", "/dev/vda1 / ext4 defaults 0 1\n", 0o644);
        put("etc/shadow", "root:$6$x:1::::::\n", 0o000);
        put("etc/ssh/ssh_host_rsa_key", "k", 0o600);
        put("usr/lib/systemd/systemd-networkd", "", 0o755);
        put("boot/grub/grub.cfg", "# \u{e9}\u{85}\nlinux /boot/vmlinuz root=/dev/vda1\n", 0o600);
        let tree = Tree::open(dir.path()).expect("opened");
        let wish = Wish { root: Some("LABEL=root".into()), join: None };
        let fitted = execute(&tree, plan(&tree, &wish, None).expect("planned")).expect("done");
        assert!(fitted.changes.iter().any(|change| change.path == "/etc/shadow"), "{fitted:?}");
        assert_eq!(fs::read_to_string(dir.path().join("etc/shadow")).expect("read"), "root:*:1::::::\n");
        assert_eq!(fs::metadata(dir.path().join("etc/shadow")).expect("there").permissions().mode() & 0o7777, 0);
        let grub = fs::read_to_string(dir.path().join("boot/grub/grub.cfg")).expect("still UTF-8");
        assert!(grub.starts_with("# \u{e9}\u{85}\nlinux /boot/vmlinuz root=LABEL=root "), "{grub}");
        let again = execute(&tree, plan(&tree, &wish, None).expect("planned")).expect("done");
        assert_eq!(again.changes, []);
    }

    #[test]
    fn selinux_is_on_or_off() {
        assert!(has_selinux(Some("# SELINUX=disabled\nSELINUX=enforcing\nSELINUXTYPE=targeted\n")));
        assert!(!has_selinux(Some("SELINUX=disabled\n")) && !has_selinux(None));
    }
}
