//! What the agent and the frontend say to each other: paths, headers and JSON bodies of protocol version 1.
//!
//! `docs/protocol.md` is the prose. Unknown JSON fields are tolerated on both sides, so that either may be newer; what a
//! version cannot leave out is not optional here.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{Digest, EnrolmentName, Generation, HostName, InvalidName};
use crate::seal::{IndexClaim, SealKey};

/// Paths of the public listener.
pub mod path {
    /// `POST`, no client certificate: [`super::EnrolRequest`] → [`super::EnrolResponse`].
    pub const ENROL: &str = "/api/v1/enrol";
    /// `POST`: [`super::RenewRequest`] → [`super::EnrolResponse`].
    pub const RENEW: &str = "/api/v1/renew";
    /// `GET`: the caller's kickstart.
    pub const KICKSTART: &str = "/api/v1/kickstart";
    /// `GET`: the same, under Rocks' own name.
    pub const KICKSTART_CGI: &str = "/install/sbin/kickstart.cgi";
    /// `POST`: a [`super::Report`]; answers 204.
    pub const REPORTS: &str = "/api/v1/reports";
    /// `GET`, `HEAD`: the RPM mirror; below it `ARCH/repodata/repomd.xml`.
    pub const MIRROR: &str = "/install/rocks-dist";
    /// `GET`: where packages come from, [`super::Sources`].
    pub const SOURCES: &str = "/api/v1/sources";
    /// `GET`: below it `ARCH`, the index of that architecture's repository ([`crate::index`]). A relay answers it too.
    pub const INDEX: &str = "/api/v1/index";
}

/// Header names of our own. Standard ones used beside them: `ETag`, `If-None-Match` (RFC 9110), `Prefer: wait=N`
/// (RFC 7240), `Retry-After`.
pub mod header {
    /// Request and response: the protocol version, [`super::PROTOCOL`].
    pub const PROTOCOL: &str = "rocks-protocol";
    /// Response of a kickstart: the host that it is for.
    pub const HOST: &str = "rocks-host";
    /// Response of a kickstart: its [`crate::ids::Generation`].
    pub const GENERATION: &str = "rocks-generation";
    /// Response of a kickstart: its seal ([`crate::seal`]).
    pub const SEAL: &str = "rocks-seal";
    /// Request for a file of the mirror: `bucket`, if the answer may be where it lies in a bucket (307).
    pub const NEAR: &str = "rocks-near";
}

/// The version of the protocol that this crate speaks.
pub const PROTOCOL: &str = "1";

/// The longest time, in seconds, that a frontend lets a request wait for a change.
pub const MAX_WAIT_SECONDS: u32 = 3600;

/// An instance asks to become a host's agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EnrolRequest {
    /// The one-time join token that `rocks add host` gave. One of the two is there: this, or `identity`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<JoinToken>,
    /// What the cloud says of the instance, where nobody announced it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<InstanceIdentity>,
    /// A PKCS#10 request (PEM) for the key that the agent made. Its subject is ignored: the token or the identity says whose it is.
    pub csr: String,
    /// What the instance is, for the administrator's eyes.
    #[serde(default)]
    pub facts: Facts,
}

/// What EC2 says of an instance, and its signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceIdentity {
    /// The instance identity document (JSON), byte for byte as the metadata service gives it.
    pub document: String,
    /// The signed message over it, `rsa2048` of the same service: PKCS#7 in base64, without lines around it.
    pub signature: String,
    /// The enrolment rule that the join document names; none: the only one that fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrolment: Option<EnrolmentName>,
}

/// An agent asks for a new certificate under its present one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RenewRequest {
    /// A PKCS#10 request (PEM).
    pub csr: String,
    /// What the instance is now.
    #[serde(default)]
    pub facts: Facts,
}

/// The identity that an agent works under from now on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EnrolResponse {
    /// The host that the instance is.
    pub host: HostName,
    /// The client certificate (PEM), valid for client authentication only.
    pub certificate: String,
    /// The frontend's CA (PEM), the only one that the agent shall trust.
    pub ca: String,
    /// The key that seals kickstarts.
    pub seal_key: SealKey,
    /// When the certificate ends.
    pub not_after: Timestamp,
}

/// A join token. It is secret: it prints as dots.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JoinToken(pub String);

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinToken(..)")
    }
}

/// What an instance tells of itself. None of it is trusted for more than display.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// The agent's version.
    pub agent: String,
    /// `uname -m`.
    pub arch: String,
    /// `PRETTY_NAME` of os-release.
    pub os: String,
    /// The kernel's release.
    pub kernel: String,
    /// Logical processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// The kernel's boot id: a new one tells a restart.
    pub boot_id: String,
}

/// Where a host's packages come from, beside the frontend itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sources {
    /// Relays, the first to be asked first.
    pub relays: Vec<RelayAddress>,
    /// Whether a bucket has the packages: ask the frontend for a file with [`header::NEAR`].
    pub bucket: bool,
    /// What the mirror has now, sealed: the indexes themselves may come from anywhere.
    pub indexes: Vec<SealedIndex>,
}

/// A claim on an index, with its seal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedIndex {
    /// The claim.
    #[serde(flatten)]
    pub claim: IndexClaim,
    /// The seal ([`crate::seal`]).
    pub seal: String,
}

/// The port of a relay that names none.
pub const RELAY_PORT: u16 = 8445;

/// Where a relay is: `10.0.0.5`, `10.0.0.5:8445`, `[fd00::5]:8445`, `relay.example.org`; with `HOST@` before it, it must be that host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RelayAddress {
    /// The host that it must be; else any of the frontend's.
    pub host: Option<HostName>,
    /// Its address or name.
    pub address: String,
    /// Its port.
    pub port: u16,
}

impl std::str::FromStr for RelayAddress {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = |why| InvalidName::new("relay", text, why);
        let (host, place) = match text.split_once('@') {
            Some((host, place)) => (Some(host.parse()?), place),
            None => (None, text),
        };
        let number = |port: &str| port.parse::<u16>().ok().filter(|port| *port > 0);
        let bad_port = || invalid("its port must be a number from 1 to 65535");
        let (address, port) = if let Some(rest) = place.strip_prefix('[') {
            let (address, port) = rest.split_once(']').ok_or_else(|| invalid("the `]` is missing"))?;
            match port.strip_prefix(':') {
                Some(port) => (address, number(port).ok_or_else(bad_port)?),
                None if port.is_empty() => (address, RELAY_PORT),
                None => return Err(invalid("after `]` comes `:` and a port, or nothing")),
            }
        } else {
            match place.split_once(':') {
                // More than one colon: an IPv6 address without a port.
                Some((_, port)) if port.contains(':') => (place, RELAY_PORT),
                Some((address, port)) => (address, number(port).ok_or_else(bad_port)?),
                None => (place, RELAY_PORT),
            }
        };
        let is_v6 = address.contains(':') && address.parse::<core::net::Ipv6Addr>().is_ok();
        if !is_v6 && HostName::new(address).is_err() {
            return Err(invalid("it must be HOST@ADDRESS:PORT, where only the address is needed"));
        }
        Ok(Self { host, address: address.to_owned(), port })
    }
}

impl std::fmt::Display for RelayAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(host) = &self.host {
            write!(f, "{host}@")?;
        }
        if self.address.contains(':') {
            write!(f, "[{}]:{}", self.address, self.port)
        } else {
            write!(f, "{}:{}", self.address, self.port)
        }
    }
}

impl TryFrom<String> for RelayAddress {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<RelayAddress> for String {
    fn from(relay: RelayAddress) -> String {
        relay.to_string()
    }
}

/// What one converge came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Chosen by the agent, unique: sending a report twice stores it once.
    pub id: String,
    /// What the instance is.
    #[serde(default)]
    pub facts: Facts,
    /// The kickstart that was worked on, if one could be fetched and trusted. None of an agent that was told to end
    /// before it was done: that says nothing of the kickstart.
    pub kickstart: Option<Digest>,
    /// Its generation.
    pub generation: Option<Generation>,
    /// When the converge began.
    pub started: Timestamp,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// What it came to.
    pub outcome: Outcome,
    /// Every step of the plan, in order.
    pub steps: Vec<StepReport>,
    /// What the administrator should know.
    pub findings: Vec<Finding>,
    /// The difference from the kickstart applied before, as a unified diff, cut to a bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
}

/// What one converge came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing had to be done.
    Unchanged,
    /// Everything planned was done.
    Converged,
    /// Some steps failed or were left out because of one that failed; they are retried.
    Incomplete,
    /// The kickstart was refused (does not parse, bad seal, older generation): nothing was touched.
    Refused,
}

/// What became of one step.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StepReport {
    /// The step's identity in its plan.
    pub id: String,
    /// What it does, in one line: `run base/nodes/ssh.xml post.2`.
    pub title: String,
    /// Why it was planned.
    pub reason: String,
    /// What became of it.
    pub state: StepState,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// The exit status of its process, if it had one that exited.
    pub exit_code: Option<i32>,
    /// The end of what it printed, lossily as UTF-8.
    pub output_tail: String,
}

/// What became of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// It was done.
    Done,
    /// It was tried and failed.
    Failed,
    /// It ran into its time limit.
    TimedOut,
    /// An earlier step that it depends on failed.
    Blocked,
    /// The agent was killed while it ran; it is run again from its start.
    Interrupted,
}

/// Something that the administrator should know, with a stable code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// A stable name: `needs-reprovision`, `bad-seal`, `disk-full`.
    pub code: String,
    /// How bad it is.
    pub severity: crate::diag::Severity,
    /// What it is about: a command, a package, a node file.
    pub subject: String,
    /// What was found, in one line.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// An error body (RFC 9457, `application/problem+json`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Problem {
    /// A stable name of the problem: `token-refused`.
    pub code: String,
    /// What it is, in one line.
    pub title: String,
    /// The HTTP status, repeated.
    pub status: u16,
    /// This case of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_with_a_token_is_what_it_always_was() {
        let old = r#"{"token":"t","csr":"c"}"#;
        let read: EnrolRequest = serde_json::from_str(old).expect("an older agent's");
        assert!(read.token == Some(JoinToken("t".into())) && read.identity.is_none());
        let text = serde_json::to_string(&read).expect("written");
        assert!(text.contains(r#""token":"t""#) && !text.contains("identity"), "{text}");
        let new = r#"{"identity":{"document":"{}","signature":"MIA","newer":1},"csr":"c"}"#;
        let read: EnrolRequest = serde_json::from_str(new).expect("a newer agent's");
        assert!(read.token.is_none() && read.identity.is_some_and(|one| one.enrolment.is_none()));
    }

    #[test]
    fn relays_are_written_in_several_ways_and_read_back() {
        let shown = |text: &str| text.parse::<RelayAddress>().map(|relay| relay.to_string()).ok();
        for (text, full) in [
            ("10.0.0.5", "10.0.0.5:8445"),
            ("10.0.0.5:99", "10.0.0.5:99"),
            ("relay-0-0@10.0.0.5", "relay-0-0@10.0.0.5:8445"),
            ("fd00::5", "[fd00::5]:8445"),
            ("[fd00::5]:7", "[fd00::5]:7"),
            ("relay.example.org", "relay.example.org:8445"),
        ] {
            assert_eq!(shown(text).as_deref(), Some(full));
            assert_eq!(shown(full).as_deref(), Some(full));
        }
        for bad in ["", "@10.0.0.5", "a b", "10.0.0.5:0", "10.0.0.5:x", "[fd00::5", "[fd00::5]x", "[x]:1:2", "a/b"] {
            assert_eq!(shown(bad), None, "{bad:?}");
        }
        // A frontend that does not know of all this yet says nothing of it.
        assert_eq!(serde_json::from_str::<Sources>("{}").expect("json"), Sources::default());
    }
}
