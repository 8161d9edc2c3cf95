//! What makes two machines of one image take each other for the same, or tells of the machine that it was: keys, identities, seeds,
//! leases, logs. The agent's journal stays, because it says which kickstart is applied; its identity goes.

use super::{Edit, FitError, Kind, View};

/// Whether a name is of the kind that goes.
type Which = fn(&str) -> bool;

/// Folders, what goes in them, and why.
const INSIDE: [(&str, Which, &str); 9] = [
    ("etc/ssh", |name| name.starts_with("ssh_host_") && name.contains("_key"), "each machine makes its own host keys"),
    ("etc/dropbear", |name| name.contains("_host_key"), "each machine makes its own host keys"),
    ("var/lib/cloud", |_| true, "cloud-init starts anew"),
    ("var/lib/dhclient", |name| name.contains("lease"), "a lease of the old machine"),
    ("var/lib/dhcp", |name| name.contains("lease"), "a lease of the old machine"),
    (
        "var/lib/dhcpcd",
        |name| name.contains("lease") || name == "duid" || name == "secret",
        "a lease of the old machine",
    ),
    (
        "var/lib/NetworkManager",
        |name| name.contains("lease") || matches!(name, "secret_key" | "seen-bssids" | "timestamps"),
        "a lease or key of the old machine",
    ),
    ("var/log/journal", |_| true, "the old machine's log"),
    ("var/log", |name| name.starts_with("cloud-init"), "the old machine's log"),
];

/// Files and folders that go as a whole.
const WHOLE: [(&str, &str); 13] = [
    ("var/lib/systemd/random-seed", "each machine makes its own random numbers"),
    ("var/lib/systemd/credential.secret", "each machine makes its own keys"),
    ("var/lib/random-seed", "each machine makes its own random numbers"),
    ("var/lib/urandom/random-seed", "each machine makes its own random numbers"),
    ("boot/loader/random-seed", "each machine makes its own random numbers"),
    ("boot/efi/loader/random-seed", "each machine makes its own random numbers"),
    ("var/lib/rocks-agent/identity", "the agent was another host's"),
    ("var/lib/rocks-agent/status.json", "the agent was another host's"),
    ("var/lib/rocks-agent/reports", "reports of another host"),
    ("var/lib/rocks-agent/transaction.log", "the agent's log of another host"),
    ("var/lib/rocks-agent/journal.damaged", "the agent's log of another host"),
    ("var/log/rocks-agent", "the agent's log of another host"),
    ("var/log/rocks-agent.log", "the agent's log of another host"),
];

/// All of them that are there.
///
/// # Errors
/// A folder cannot be read.
pub fn edits(view: &dyn View) -> Result<Vec<Edit>, FitError> {
    let mut edits = Vec::new();
    for (folder, goes, why) in INSIDE {
        for name in view.names(folder)?.into_iter().filter(|name| goes(name)) {
            edits.push(Edit::remove(format!("{folder}/{name}"), why));
        }
    }
    edits.extend(WHOLE.iter().filter(|(path, _)| view.has(path)).map(|(path, why)| Edit::remove(*path, *why)));
    // An empty file, not none: systemd fills it at the first boot even where the root is read-only then.
    if view.text("etc/machine-id")?.is_some_and(|id| !id.is_empty()) {
        edits.push(Edit::write("etc/machine-id", String::new(), 0o444, "each machine makes its own identity"));
    }
    // Mostly a link to the other.
    if view.kind("var/lib/dbus/machine-id") == Kind::File {
        edits.push(Edit::remove("var/lib/dbus/machine-id", "each machine makes its own identity"));
    }
    Ok(edits)
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::*;

    #[test]
    fn traces_go_and_the_applied_kickstart_stays() {
        let stays = [
            ("etc/machine-id", ""),
            ("etc/rocks-agent/applied.ks", "k"),
            ("etc/ssh/ssh_config", "x"),
            ("var/lib/dbus/machine-id", "->/etc/machine-id"),
            ("var/lib/rocks-agent/applied.ks", "k"),
            ("var/lib/rocks-agent/desired.ks", "k"),
            ("var/lib/rocks-agent/journal", "j"),
            ("var/log/messages", "m"),
        ];
        let mut root = Fake::new(&stays);
        let goes = [
            ("etc/machine-id", "0123\n"),
            ("etc/ssh/ssh_host_rsa_key", "k"),
            ("etc/ssh/ssh_host_rsa_key.pub", "k"),
            ("var/lib/cloud/instances/i-1/x", "c"),
            ("var/lib/dhclient/dhclient.leases", "l"),
            ("var/lib/NetworkManager/secret_key", "s"),
            ("var/lib/systemd/random-seed", "r"),
            ("var/lib/rocks-agent/identity/key.pem", "k"),
            ("var/lib/rocks-agent/reports/1.json", "r"),
            ("var/log/journal/0123/system.journal", "j"),
        ];
        root.0.extend(goes.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())));
        let first = edits(&root).expect("read");
        root.apply(&first);
        assert_eq!(root, Fake::new(&stays));
        assert_eq!(edits(&root).expect("read"), []);
    }
}
