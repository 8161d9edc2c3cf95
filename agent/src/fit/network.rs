//! The network: addresses by DHCP on the first interface, in the words of whatever sets the network up in this root; nothing that is
//! bound to the old machine's cards or addresses.

use super::{Act, Edit, FitError, Kind, Tree, View, bytes_of};

/// What sets the network up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// NetworkManager.
    Manager,
    /// The network scripts of older Red Hat systems.
    Scripts,
    /// systemd-networkd.
    Networkd,
    /// ifupdown.
    Ifupdown,
    /// Nothing that we know.
    Unknown,
}

const CONNECTION: &str = "etc/NetworkManager/system-connections/rocks-cloud.nmconnection";
const NETWORK: &str = "etc/systemd/network/20-rocks-cloud.network";
const IFCFG: &str = "etc/sysconfig/network-scripts/ifcfg-eth0";
const INTERFACES: &str = "etc/network/interfaces";
const WANTS: &str = "etc/systemd/system/multi-user.target.wants/systemd-networkd.service";

impl Tool {
    /// The one that sets up this root's network.
    #[must_use]
    pub fn of(view: &dyn View) -> Self {
        let any = |paths: &[&str]| paths.iter().any(|path| view.has(path));
        if any(&["usr/sbin/NetworkManager", "usr/bin/NetworkManager", "usr/lib/systemd/system/NetworkManager.service"])
        {
            Self::Manager
        } else if any(&["etc/rc.d/init.d/network", "etc/init.d/network"]) && view.has("etc/sysconfig") {
            Self::Scripts
        } else if any(&[WANTS]) {
            Self::Networkd
        } else if any(&["usr/sbin/ifup", "sbin/ifup"]) && view.has("etc/network") {
            Self::Ifupdown
        } else if any(&["usr/lib/systemd/systemd-networkd", "lib/systemd/systemd-networkd"]) {
            Self::Networkd
        } else {
            Self::Unknown
        }
    }

    /// Whether it knows the first interface only as `eth0`.
    #[must_use]
    pub const fn wants_eth0(self) -> bool {
        matches!(self, Self::Scripts | Self::Ifupdown)
    }
}

/// Makes the network of a root that is being made as an installer would: the first interface asks for an address. Gives what sets it up.
///
/// # Errors
/// The file system's.
pub fn set_up(tree: &Tree) -> Result<Tool, FitError> {
    let tool = Tool::of(tree);
    for edit in edits(tree, tool)? {
        match &edit.act {
            Act::Write { text, mode } => tree.write(&edit.path, &bytes_of(text), *mode).map(drop)?,
            Act::Remove => tree.remove(&edit.path)?,
            Act::Link { to } => tree.link(&edit.path, to)?,
        }
    }
    Ok(tool)
}

/// The value of `key` in `text`, where lines say `key=value`.
fn values<'t>(text: &'t str, key: &'t str) -> impl Iterator<Item = &'t str> {
    text.lines().filter_map(move |line| {
        let (name, value) = line.split_once('=')?;
        (name.trim_ascii().eq_ignore_ascii_case(key)).then(|| value.trim_ascii().trim_matches(['"', '\'']))
    })
}

/// Whether a keyfile of NetworkManager is for a card or an address of the old machine.
#[must_use]
pub fn is_old_connection(text: &str) -> bool {
    let is_wired = values(text, "type").any(|kind| matches!(kind, "ethernet" | "802-3-ethernet"));
    let is_bound = values(text, "mac-address").chain(values(text, "interface-name")).next().is_some();
    let is_fixed = values(text, "method").any(|method| method == "manual");
    is_wired && (is_bound || is_fixed)
}

/// Whether a file of systemd-networkd is for a card or an address of the old machine.
#[must_use]
pub fn is_old_network(text: &str) -> bool {
    ["Address", "Gateway", "MACAddress", "PermanentMACAddress"].iter().any(|key| values(text, key).next().is_some())
}

/// `/etc/sysconfig/network` without gateways.
#[must_use]
pub fn without_gateway(text: &str) -> String {
    let stays = |line: &&str| !["GATEWAY=", "GATEWAYDEV=", "IPV6_DEFAULTGW="].iter().any(|key| line.starts_with(key));
    text.split_inclusive('\n').filter(stays).collect()
}

/// What makes the first interface ask for an address.
///
/// # Errors
/// A file cannot be read.
pub fn edits(view: &dyn View, tool: Tool) -> Result<Vec<Edit>, FitError> {
    let mut edits = Vec::new();
    for name in view.names("etc/udev/rules.d")?.into_iter().filter(|name| name.contains("persistent-net")) {
        edits.push(Edit::remove(format!("etc/udev/rules.d/{name}"), "it names the old machine's network cards"));
    }
    let scripts = "etc/sysconfig/network-scripts";
    for name in view.names(scripts)? {
        let path = format!("{scripts}/{name}");
        let is_ours = tool == Tool::Scripts && path == IFCFG;
        let is_interface = ["ifcfg-", "route-", "route6-", "rule-"].iter().any(|kind| name.starts_with(kind));
        if is_interface && name != "ifcfg-lo" && !is_ours {
            edits.push(Edit::remove(path, "it is of the old machine's network"));
        }
    }
    for (folder, is_old) in [
        ("etc/NetworkManager/system-connections", is_old_connection as fn(&str) -> bool),
        ("etc/systemd/network", is_old_network),
    ] {
        for name in view.names(folder)? {
            let path = format!("{folder}/{name}");
            if path != CONNECTION && view.text(&path)?.is_some_and(|text| is_old(&text)) {
                edits.push(Edit::remove(path, "it is of the old machine's network"));
            }
        }
    }
    if let Some(text) = view.text("etc/sysconfig/network")? {
        let fitted = without_gateway(&text);
        if fitted != text {
            edits.push(Edit::write("etc/sysconfig/network", fitted, 0o644, "the gateway comes by DHCP"));
        }
    }
    let (path, text, mode) = match tool {
        Tool::Manager => (
            CONNECTION,
            "[connection]\nid=rocks-cloud\ntype=ethernet\n\n[ipv4]\nmethod=auto\n\n[ipv6]\nmethod=auto\n",
            0o600,
        ),
        Tool::Scripts => (
            IFCFG,
            "DEVICE=eth0\nTYPE=Ethernet\nONBOOT=yes\nBOOTPROTO=dhcp\nPERSISTENT_DHCLIENT=yes\nIPV6INIT=yes\nNM_CONTROLLED=no\n",
            0o644,
        ),
        Tool::Networkd => (NETWORK, "[Match]\nName=en* eth*\n\n[Network]\nDHCP=yes\n", 0o644),
        Tool::Ifupdown => {
            for name in view.names("etc/network/interfaces.d")? {
                let path = format!("etc/network/interfaces.d/{name}");
                if view.text(&path)?.is_some_and(|text| text.contains("iface ")) {
                    edits.push(Edit::remove(path, "it is of the old machine's network"));
                }
            }
            let text = "source /etc/network/interfaces.d/*\n\nauto lo\niface lo inet loopback\n\nauto eth0\niface eth0 inet dhcp\n";
            (INTERFACES, text, 0o644)
        }
        Tool::Unknown => return Ok(edits),
    };
    if view.text(path)?.as_deref() != Some(text) {
        edits.push(Edit::write(path, text.to_owned(), mode, "the first interface gets its address by DHCP"));
    }
    if tool == Tool::Networkd && view.kind(WANTS) == Kind::Missing {
        let act = Act::Link { to: "/usr/lib/systemd/system/systemd-networkd.service".to_owned() };
        edits.push(Edit { path: WANTS.to_owned(), act, why: "systemd-networkd sets the network up".to_owned() });
    }
    Ok(edits)
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::*;

    fn fitted(files: &[(&str, &str)]) -> (Tool, Fake) {
        let mut root = Fake::new(files);
        let tool = Tool::of(&root);
        let first = edits(&root, tool).expect("read");
        root.apply(&first);
        assert_eq!(edits(&root, tool).expect("read"), [], "it is fitted once");
        (tool, root)
    }

    #[test]
    fn each_tool_gets_dhcp_in_its_own_words() {
        let (tool, root) = fitted(&[
            ("usr/sbin/NetworkManager", ""),
            ("etc/sysconfig/network-scripts/ifcfg-lo", "DEVICE=lo\n"),
            ("etc/sysconfig/network-scripts/ifcfg-ens3", "HWADDR=1\nBOOTPROTO=none\nIPADDR=10.0.0.1\n"),
            ("etc/sysconfig/network", "NETWORKING=yes\nGATEWAY=10.0.0.254\n"),
            ("etc/NetworkManager/system-connections/a.nmconnection", "type=ethernet\n[ipv4]\nmethod=manual\n"),
            ("etc/NetworkManager/system-connections/vpn.nmconnection", "type=wireguard\n[ipv4]\nmethod=manual\n"),
            ("etc/udev/rules.d/70-persistent-net.rules", "x"),
        ]);
        assert!(tool == Tool::Manager && !tool.wants_eth0());
        let left: Vec<&str> = root.0.keys().map(String::as_str).collect();
        let want = [
            "etc/NetworkManager/system-connections/rocks-cloud.nmconnection",
            "etc/NetworkManager/system-connections/vpn.nmconnection",
            "etc/sysconfig/network",
            "etc/sysconfig/network-scripts/ifcfg-lo",
            "usr/sbin/NetworkManager",
        ];
        assert_eq!(left, want);
        assert_eq!(root.0["etc/sysconfig/network"], "NETWORKING=yes\n");

        let (tool, root) =
            fitted(&[("etc/rc.d/init.d/network", ""), ("etc/sysconfig/network-scripts/ifcfg-eth0", "HWADDR=1\n")]);
        assert!(tool == Tool::Scripts && tool.wants_eth0() && root.0[IFCFG].contains("BOOTPROTO=dhcp"));

        let (tool, root) = fitted(&[
            ("sbin/ifup", ""),
            ("usr/lib/systemd/systemd-networkd", ""),
            ("etc/network/interfaces", "iface eth0 inet static\n"),
            ("etc/network/interfaces.d/eth1", "iface eth1 inet static\n"),
        ]);
        assert!(tool == Tool::Ifupdown && root.0[INTERFACES].contains("inet dhcp"));
        assert!(!root.has("etc/network/interfaces.d/eth1"));

        let (tool, root) = fitted(&[
            ("usr/lib/systemd/systemd-networkd", ""),
            ("etc/systemd/network/old.network", "[Match]\nName=ens3\n[Network]\nAddress=10.0.0.1/24\n"),
        ]);
        assert!(tool == Tool::Networkd && root.has(WANTS) && root.has(NETWORK));
        assert!(!root.has("etc/systemd/network/old.network"));

        assert_eq!(fitted(&[("etc/fstab", "")]).0, Tool::Unknown);
    }
}
