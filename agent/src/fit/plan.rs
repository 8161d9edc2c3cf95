//! What has to change in a root, from what stands in it and what is wanted. Touches nothing.

use super::boot::Kernel;
use super::network::Tool;
use super::{Disk, Edit, FitError, Plan, View, Wish, accounts, boot, bytes_of, fstab, latin1, network, traces};

/// Where the agent looks for its join document.
const JOIN: &str = "etc/rocks-agent/join.toml";

/// Plans the fix-ups of the root `view` for `wish`; `disk` is what is known of the disk that it is on.
///
/// # Errors
/// A file cannot be read or has no room, or nothing says what the root will be called.
pub fn plan(view: &dyn View, wish: &Wish, disk: Option<&Disk>) -> Result<Plan, FitError> {
    let own = disk.and_then(Disk::root);
    let table = view.text("etc/fstab")?;
    let text = table.clone().unwrap_or_default();
    let lasts = |spec: &&str| ["UUID=", "LABEL=", "PARTUUID="].iter().any(|kind| spec.starts_with(kind));
    let now = fstab::entries(&text).find(|entry| entry.place == "/").map(|entry| entry.spec).filter(lasts);
    let root =
        wish.root.clone().or_else(|| own.and_then(|volume| volume.spec())).or_else(|| now.map(ToOwned::to_owned));
    let root = root.ok_or(FitError::Unnamed)?;
    let mut plan = Plan { root: root.clone(), ..Plan::default() };

    let fitted = fstab::fit(&text, &root, disk);
    if table.as_deref() != Some(&fitted.text) {
        plan.edits.push(Edit::write("etc/fstab", fitted.text, 0o644, format!("the root is {root}")));
    }
    plan.notes.extend(fitted.notes);

    let tool = Tool::of(view);
    let old = fitted.old_root.as_deref().and_then(|spec| spec.strip_prefix("UUID="));
    let uuids = old.zip(own.and_then(|volume| volume.uuid.as_deref())).filter(|(old, new)| old != new);
    let kernel = Kernel {
        root: &root,
        partuuid: own.and_then(|volume| volume.partuuid.as_deref()).filter(|_| wish.root.is_none()),
        eth0: tool.wants_eth0(),
        uuids,
        bare: own.is_some_and(|volume| volume.number.is_none()),
    };
    plan.edits.extend(boot::edits(view, &kernel)?);
    plan.edits.extend(network::edits(view, tool)?);
    if tool == Tool::Unknown {
        plan.notes.push("network: nothing here that sets it up is known; it stays as it is".to_owned());
    }
    plan.edits.extend(accounts::edits(view)?);
    plan.edits.extend(traces::edits(view)?);
    join(view, wish, &mut plan)?;
    Ok(plan)
}

/// The agent's join document.
fn join(view: &dyn View, wish: &Wish, plan: &mut Plan) -> Result<(), FitError> {
    let there = view.text(JOIN)?;
    match &wish.join {
        Some(join) => {
            // The document is UTF-8, files here are kept byte by byte.
            let text = latin1(join.0.as_bytes());
            debug_assert_eq!(bytes_of(&text), join.0.as_bytes());
            if there.as_deref() != Some(&text) {
                // Never with the permissions of what was there.
                if there.is_some() {
                    plan.edits.push(Edit::remove(JOIN, "it was for another host"));
                }
                plan.edits.push(Edit::write(JOIN, text, 0o600, "the agent enrols with it"));
            }
        }
        None => {
            if there.is_some() {
                plan.edits.push(Edit::remove(JOIN, "it was for another host"));
            }
            plan.notes.push("agent: no join document was given; the instance's user data must bring it".to_owned());
        }
    }
    let programs = ["usr/bin/rocks-agent", "usr/sbin/rocks-agent", "usr/local/bin/rocks-agent"];
    if !programs.iter().any(|path| view.has(path)) {
        plan.notes.push("agent: rocks-agent is not installed in this root".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::super::{Act, Join, Volume};
    use super::*;

    fn disk(number: Option<u32>) -> Disk {
        let volume = Volume {
            number,
            bytes: 0..1,
            kind: "ext4",
            uuid: Some("r-o-o-t".into()),
            label: None,
            partuuid: Some("p-a-r-t".into()),
        };
        Disk { volumes: vec![volume], root: 0 }
    }

    #[test]
    fn a_root_is_fitted_once_and_completely() {
        let mut root = Fake::new(&[
            ("etc/fstab", "UUID=before / ext4 defaults 0 1\n"),
            ("boot/grub2/grub.cfg", "search --fs-uuid --set=root before\nlinux /boot/vmlinuz root=UUID=before ro\n"),
            ("etc/rc.d/init.d/network", ""),
            ("etc/sysconfig/network", ""),
            ("etc/shadow", "root:$6$x:1::::::\n"),
            ("etc/machine-id", "x\n"),
            ("etc/rocks-agent/join.toml", "token = 'old'\n"),
            ("usr/bin/rocks-agent", ""),
        ]);
        let wish = Wish { root: None, join: Some(Join("token = 'ü'\n".into())) };
        let first = plan(&root, &wish, Some(&disk(Some(1)))).expect("planned");
        assert_eq!((first.root.as_str(), first.notes.len()), ("UUID=r-o-o-t", 0), "{:?}", first.notes);
        root.apply(&first.edits);
        let grub = &root.0["boot/grub2/grub.cfg"];
        assert!(grub.contains("set=root r-o-o-t\n") && grub.contains("root=UUID=r-o-o-t ro"), "{grub}");
        assert!(grub.contains("net.ifnames=0"), "{grub}");
        assert_eq!(bytes_of(&root.0[JOIN]), "token = 'ü'\n".as_bytes());
        let mode = first.edits.iter().find_map(|edit| match &edit.act {
            Act::Write { mode, .. } if edit.path == JOIN => Some(*mode),
            _ => None,
        });
        assert_eq!(mode, Some(0o600));
        assert_eq!(plan(&root, &wish, Some(&disk(Some(1)))).expect("planned").edits, []);
        // Without a document the old one does not stay.
        let bare = plan(&root, &Wish::default(), Some(&disk(Some(1)))).expect("planned");
        assert_eq!(bare.edits, [Edit::remove(JOIN, "it was for another host")]);
    }

    #[test]
    fn the_root_is_named_as_asked_for_or_by_what_lasts() {
        let root = Fake::new(&[("etc/fstab", "/dev/vda1 / ext3 defaults 0 1\n")]);
        assert!(matches!(plan(&root, &Wish::default(), None), Err(FitError::Unnamed)));
        let paper = Wish { root: Some("/dev/sda1".into()), join: None };
        assert_eq!(plan(&root, &paper, None).expect("planned").root, "/dev/sda1");
        let root = Fake::new(&[("etc/fstab", "LABEL=root / ext3 defaults 0 1\n")]);
        assert_eq!(plan(&root, &Wish::default(), None).expect("planned").root, "LABEL=root");
    }
}
