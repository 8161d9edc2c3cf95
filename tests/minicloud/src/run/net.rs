//! The network: namespaces, the bridge, the way to the frontend, public addresses, and what security groups let in.
//!
//! ```text
//!   <prefix>fe  10.77.0.1 ── emulated WAN ── 10.77.0.2  <prefix>cloud  10.88.0.1 ─ bridge ─ 10.88.x.y  <prefix>i<n>
//!               (public addresses are the only ones that it reaches)   169.254.169.254
//! ```

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, bail};
use rustix::thread::LinkNameSpaceType;

use crate::Way;
use crate::cloud::Rule;
use crate::config::Config;
use crate::process::{Done, cmd, which};
use crate::wan::{Shape, Wan};

/// Namespaces of ours begin with this and the process that made them.
const PREFIX: &str = "mc-";
/// The frontend's address, and the cloud's beside it.
pub(crate) const WAN_ENDS: [&str; 2] = ["10.77.0.1", "10.77.0.2"];
/// The metadata service's address.
pub(crate) const IMDS: &str = "169.254.169.254";
/// The table of a security group's rules in an instance's namespace.
const TABLE: &str = "minicloud_sg";

impl Way {
    fn shape(self) -> Shape {
        Shape { loss: self.loss, ..Shape::new(self.mbit, self.round_trip) }
    }
}

/// Why there can be no machines here, if so.
pub(crate) fn missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("it needs root");
    }
    ["systemd-nspawn", "ip", "nft", "nsenter", "unshare", "setpriv", "losetup", "mount"]
        .into_iter()
        .find(|program| which(program).is_none())
        .map(|_| "systemd-nspawn, iproute2, nftables or util-linux is not installed")
}

/// Opens a listener in a network namespace. It stays there although the caller is elsewhere.
pub(crate) fn listen_in(namespace: &str, address: SocketAddr) -> Result<TcpListener> {
    let path = format!("/run/netns/{namespace}");
    // A thread of its own, which takes the namespace with it when it ends.
    let opened = std::thread::spawn(move || -> Result<TcpListener> {
        let file = std::fs::File::open(&path).with_context(|| path.clone())?;
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network))?;
        Ok(TcpListener::bind(address)?)
    });
    opened.join().map_err(|_| anyhow::anyhow!("the listener's thread ended"))?
}

/// Removes what clouds left whose process is gone.
pub(crate) fn sweep() -> Result<()> {
    super::share::sweep();
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten() {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let pid: String = rest.chars().take_while(char::is_ascii_digit).collect();
        if !pid.is_empty() && rest[pid.len()..].starts_with('n') && !Path::new("/proc").join(&pid).exists() {
            // Two may sweep at once.
            let _ = cmd("ip").args(["netns", "del", &name]).output();
        }
    }
    Ok(())
}

/// The network of one cloud.
#[derive(Debug)]
pub(crate) struct Net {
    prefix: String,
    front: String,
    public_front: String,
    wan: Mutex<Option<Wan>>,
}

fn ip(line: &str) -> Result<Done> {
    cmd("ip").args(line.split_whitespace()).run()
}

impl Net {
    /// Makes it.
    pub(crate) fn new(config: &Config, way: Option<Way>) -> Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        if let Some(why) = missing() {
            bail!("nothing can be booted: {why}");
        }
        sweep()?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let front = config.vpc_front().context("a VPC")?.to_owned();
        let public_front = config.public_front().context("public addresses")?.to_owned();
        // From here on dropping it removes what was made, should the rest fail.
        let this = Self {
            prefix: format!("{PREFIX}{}n{number}-", std::process::id()),
            front,
            public_front,
            wan: Mutex::new(None),
        };
        this.make(way)?;
        Ok(this)
    }

    fn make(&self, way: Option<Way>) -> Result<()> {
        let (cloud, fe) = (self.cloud(), self.frontend());
        for name in [&cloud, &fe] {
            ip(&format!("netns add {name}"))?;
            ip(&format!("-n {name} link set lo up"))?;
        }
        ip(&format!("-n {cloud} link add br0 type bridge"))?;
        ip(&format!("-n {cloud} addr add {}/16 dev br0", self.gateway()))?;
        ip(&format!("-n {cloud} addr add {IMDS}/32 dev br0"))?;
        ip(&format!("-n {cloud} link set br0 up"))?;
        self.inside(&cloud, "sh").args(["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]).run()?;
        match way {
            Some(way) => {
                *self.wan() = Some(Wan::between([&fe, &cloud], WAN_ENDS, way.shape(), way.shape())?);
            }
            None => {
                ip(&format!("-n {fe} link add wan0 type veth peer name wan0 netns {cloud}"))?;
                for (name, address) in [(&fe, WAN_ENDS[0]), (&cloud, WAN_ENDS[1])] {
                    ip(&format!("-n {name} addr add {address}/24 dev wan0"))?;
                    ip(&format!("-n {name} link set wan0 up"))?;
                }
            }
        }
        ip(&format!("-n {fe} route add default via {}", WAN_ENDS[1]))?;
        let vpc = format!("{}.0.0/16", self.front);
        // Public addresses are translated one to one, as an Internet gateway does. Nothing else comes in from outside.
        let rules = format!(
            "table ip nat {{\n\
             map to_private {{ type ipv4_addr : ipv4_addr; }}\n\
             map to_public {{ type ipv4_addr : ipv4_addr; }}\n\
             chain pre {{ type nat hook prerouting priority -100; dnat to ip daddr map @to_private; }}\n\
             chain post {{ type nat hook postrouting priority 100; oifname \"wan0\" snat to ip saddr map @to_public; \
             ip saddr {vpc} ct status dnat snat to ip saddr map @to_public; }}\n\
             chain forth {{ type filter hook forward priority 0; iifname \"wan0\" ct status dnat accept; \
             iifname \"wan0\" ct state established,related accept; iifname \"wan0\" drop; }}\n}}\n"
        );
        self.inside(&cloud, "nft").args(["-f", "-"]).input(rules).run()?;
        Ok(())
    }

    fn wan(&self) -> MutexGuard<'_, Option<Wan>> {
        self.wan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inside(&self, namespace: &str, program: &str) -> crate::process::Cmd {
        cmd("nsenter").arg(format!("--net=/run/netns/{namespace}")).arg(program)
    }

    /// The namespace of the cloud itself.
    pub(crate) fn cloud(&self) -> String {
        format!("{}cloud", self.prefix)
    }

    /// The namespace that a frontend is to run in.
    pub(crate) fn frontend(&self) -> String {
        format!("{}fe", self.prefix)
    }

    /// The namespace of an instance.
    pub(crate) fn instance(&self, number: u32) -> String {
        format!("{}i{number}", self.prefix)
    }

    /// The cloud's address as instances see it.
    pub(crate) fn gateway(&self) -> String {
        format!("{}.0.1", self.front)
    }

    /// Gives an instance its network, if it has none yet.
    pub(crate) fn add(&self, number: u32, address: &str) -> Result<()> {
        let (name, cloud) = (self.instance(number), self.cloud());
        if Path::new("/run/netns").join(&name).exists() {
            return Ok(());
        }
        ip(&format!("netns add {name}"))?;
        ip(&format!("-n {name} link set lo up"))?;
        ip(&format!("-n {cloud} link add v{number} type veth peer name eth0 netns {name}"))?;
        ip(&format!("-n {cloud} link set v{number} master br0 up"))?;
        ip(&format!("-n {name} addr add {address}/16 dev eth0"))?;
        ip(&format!("-n {name} link set eth0 up"))?;
        ip(&format!("-n {name} route add default via {}", self.gateway()))?;
        Ok(())
    }

    /// Takes an instance's network away.
    pub(crate) fn remove(&self, number: u32) {
        let name = self.instance(number);
        if Path::new("/run/netns").join(&name).exists() {
            // The link goes with one of its ends, but only when the last process in the namespace is gone.
            let _ = cmd("ip").args(["-n", &self.cloud(), "link", "del", &format!("v{number}")]).output();
            let _ = cmd("ip").args(["netns", "del", &name]).output();
        }
    }

    fn element(&self, verb: &str, map: &str, from: &str, to: &str) -> Result<()> {
        let element = format!("{{ {from} : {to} }}");
        self.inside(&self.cloud(), "nft").args([verb, "element", "ip", "nat", map, &element]).run().map(drop)
    }

    /// Makes a private address reachable by a public one.
    pub(crate) fn publish(&self, public: &str, private: &str) -> Result<()> {
        self.element("add", "to_private", public, private)?;
        self.element("add", "to_public", private, public)
    }

    /// Ends that.
    pub(crate) fn withdraw(&self, public: &str, private: &str) {
        let _ = self.element("delete", "to_private", public, private);
        let _ = self.element("delete", "to_public", private, public);
    }

    /// Lets only this into an instance, and the answers to what it asked for.
    pub(crate) fn filter(&self, number: u32, rules: &[Rule]) -> Result<()> {
        let input = filter_text(rules);
        self.inside(&self.instance(number), "nft").args(["-f", "-"]).input(input).run().map(drop)
    }

    /// Takes everything away.
    pub(crate) fn close(&self) {
        *self.wan() = None;
        for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(&self.prefix) {
                let _ = cmd("ip").args(["netns", "del", &name]).output();
            }
        }
    }

    /// Whether an address is one of the VPC or a public one of it.
    pub(crate) fn is_ours(&self, address: &str) -> bool {
        [&self.front, &self.public_front]
            .iter()
            .any(|f| address.strip_prefix(f.as_str()).is_some_and(|r| r.starts_with('.')))
    }

    /// Changes the way between frontend and cloud while packets flow.
    pub(crate) fn change(&self, change: impl Fn(&mut Shape)) -> Result<()> {
        let wan = self.wan();
        let wan = wan.as_ref().context("there is no emulated WAN")?;
        wan.change(crate::wan::Way::There, &change)?;
        wan.change(crate::wan::Way::Back, &change)
    }

    /// Bytes that went over the link between frontend and cloud.
    pub(crate) fn counters(&self) -> BTreeMap<String, u64> {
        let (into, out) = match &*self.wan() {
            Some(wan) => (wan.counts(crate::wan::Way::There).bytes, wan.counts(crate::wan::Way::Back).bytes),
            None => {
                let shown = cmd("ip").args(["-n", &self.cloud(), "-j", "-s", "link", "show", "wan0"]).run();
                let json = shown.ok().and_then(|d| serde_json::from_str::<serde_json::Value>(&d.stdout).ok());
                let count = |way: &str| json.as_ref().and_then(|j| j[0]["stats64"][way]["bytes"].as_u64()).unwrap_or(0);
                (count("rx"), count("tx"))
            }
        };
        [("wan in".to_owned(), into), ("wan out".to_owned(), out)].into()
    }
}

/// The rules of security groups as nftables has them.
fn filter_text(rules: &[Rule]) -> String {
    let mut text = format!(
        "add table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n chain in {{ type filter hook input priority 0; policy drop;\n\
         iifname \"lo\" accept\n ct state established,related accept\n"
    );
    for rule in rules {
        let what = match (rule.protocol.as_str(), rule.from, rule.to) {
            ("-1", _, _) => String::new(),
            (p @ ("tcp" | "udp"), from, to) => format!("{p} dport {from}-{to}"),
            ("icmp", -1, _) => "ip protocol icmp".to_owned(),
            ("icmp", kind, -1) => format!("icmp type {kind}"),
            ("icmp", kind, code) => format!("icmp type {kind} icmp code {code}"),
            (number, _, _) => format!("meta l4proto {number}"),
        };
        text.push_str(&format!(" ip saddr {} {what} accept\n", rule.source));
    }
    text.push_str(" }\n}\n");
    text
}

impl Drop for Net {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_written_for_every_protocol() {
        let rule = |protocol: &str, from, to| Rule {
            protocol: protocol.to_owned(),
            from,
            to,
            source: "192.0.2.0/24".to_owned(),
        };
        let text = filter_text(&[rule("udp", 9000, 9001), rule("-1", -1, -1), rule("icmp", 8, -1), rule("50", -1, -1)]);
        for line in [
            "ip saddr 192.0.2.0/24 udp dport 9000-9001 accept",
            "ip saddr 192.0.2.0/24  accept",
            "ip saddr 192.0.2.0/24 icmp type 8 accept",
            "ip saddr 192.0.2.0/24 meta l4proto 50 accept",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
