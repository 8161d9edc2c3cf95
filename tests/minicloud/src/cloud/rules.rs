//! The rules of security groups: read, compared, written, and flattened to what filters packets.

use std::collections::BTreeMap;

use super::effects::Rule;
use crate::error::{Answer, ApiError};
use crate::query::params::Params;
use crate::query::xml::Value;

/// Where packets may come from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    Cidr(String),
    Group(String),
}

/// One permission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Permission {
    pub(crate) id: String,
    pub(crate) protocol: String,
    pub(crate) from: i64,
    pub(crate) to: i64,
    pub(crate) source: Source,
    pub(crate) description: Option<String>,
}

impl Permission {
    /// Whether two let the same in.
    pub(crate) fn same(&self, other: &Self) -> bool {
        (&self.protocol, self.from, self.to, &self.source) == (&other.protocol, other.from, other.to, &other.source)
    }

    /// For messages.
    pub(crate) fn told(&self) -> String {
        let peer = match &self.source {
            Source::Cidr(c) | Source::Group(c) => c,
        };
        format!("peer: {peer}, {}, from port: {}, to port: {}, ALLOW", self.protocol.to_uppercase(), self.from, self.to)
    }

    /// As `securityGroupRuleSet` has it.
    pub(crate) fn show(&self, group: &str, account: &str) -> Value {
        let mut value = Value::of([
            ("securityGroupRuleId", (&self.id).into()),
            ("groupId", group.into()),
            ("groupOwnerId", account.into()),
            ("isEgress", false.into()),
            ("ipProtocol", (&self.protocol).into()),
            ("fromPort", self.from.into()),
            ("toPort", self.to.into()),
        ]);
        value = match &self.source {
            Source::Cidr(cidr) => value.with("cidrIpv4", cidr),
            Source::Group(id) => {
                value.with("referencedGroupInfo", Value::of([("groupId", id.into()), ("userId", account.into())]))
            }
        };
        value.with("description", self.description.as_ref()).with("tagSet", Vec::new())
    }
}

/// Permissions as `ipPermissions` has them: those of the same ports together.
pub(crate) fn show_all(all: &[Permission], account: &str) -> Value {
    /// What the ports are open to: addresses, and groups.
    type Open = (Vec<Value>, Vec<Value>);
    let mut by_ports: BTreeMap<(&str, i64, i64), Open> = BTreeMap::new();
    for p in all {
        let (ranges, groups) = by_ports.entry((&p.protocol, p.from, p.to)).or_default();
        let description = ("description", p.description.as_ref().into());
        match &p.source {
            Source::Cidr(cidr) => ranges.push(Value::of([("cidrIp", cidr.into()), description])),
            Source::Group(id) => {
                groups.push(Value::of([("groupId", id.into()), ("userId", account.into()), description]));
            }
        }
    }
    let permissions = by_ports.into_iter().map(|((protocol, from, to), (ranges, groups))| {
        let ports = protocol != "-1";
        Value::of([
            ("ipProtocol", protocol.into()),
            ("fromPort", ports.then_some(from).into()),
            ("toPort", ports.then_some(to).into()),
            ("groups", groups.into()),
            ("ipRanges", ranges.into()),
            ("ipv6Ranges", Vec::new().into()),
            ("prefixListIds", Vec::new().into()),
        ])
    });
    Value::List(permissions.collect())
}

/// Reads the permissions of a call, in either of their two forms. They have no ids yet.
pub(crate) fn read(params: &Params) -> Answer<Vec<Permission>> {
    let mut all = Vec::new();
    for p in params.list("IpPermissions") {
        let (protocol, from, to) = ports(p)?;
        if p.child("Ipv6Ranges").is_some() || p.child("PrefixListIds").is_some() {
            return Err(ApiError::unsupported("IPv6 and prefix lists in security groups"));
        }
        let before = all.len();
        for range in p.list("IpRanges") {
            let (cidr, description) = (range.need("CidrIp")?, described(range)?);
            check_cidr(cidr)?;
            let source = Source::Cidr(cidr.to_owned());
            all.push(Permission { id: String::new(), protocol: protocol.clone(), from, to, source, description });
        }
        for group in p.list("Groups") {
            group.skip("UserId");
            group.skip("VpcId");
            let (source, description) = (Source::Group(group.need("GroupId")?.to_owned()), described(group)?);
            all.push(Permission { id: String::new(), protocol: protocol.clone(), from, to, source, description });
        }
        if all.len() == before {
            return Err(ApiError::missing("IpPermissions.1.IpRanges"));
        }
    }
    if let Some(cidr) = params.text("CidrIp") {
        check_cidr(cidr)?;
        let (protocol, from, to) = ports(params)?;
        let source = Source::Cidr(cidr.to_owned());
        all.push(Permission { id: String::new(), protocol, from, to, source, description: None });
    }
    Ok(all)
}

fn described(params: &Params) -> Answer<Option<String>> {
    match params.text("Description").filter(|d| !d.is_empty()) {
        Some(d) if d.chars().count() > 255 => {
            Err(ApiError::invalid(d, "Description", "A rule's description has at most 255 characters."))
        }
        d => Ok(d.map(str::to_owned)),
    }
}

fn ports(params: &Params) -> Answer<(String, i64, i64)> {
    let protocol = params.need("IpProtocol")?.to_lowercase();
    let (from, to) = (params.int("FromPort")?, params.int("ToPort")?);
    let protocol = match protocol.as_str() {
        "6" => "tcp".to_owned(),
        "17" => "udp".to_owned(),
        "1" => "icmp".to_owned(),
        "all" | "-1" => return Ok(("-1".to_owned(), -1, -1)),
        "tcp" | "udp" | "icmp" => protocol,
        number if number.parse::<u8>().is_ok() => return Ok((number.to_owned(), -1, -1)),
        odd => return Err(ApiError::invalid(odd, "ipProtocol", &format!("Unknown IP protocol \"{odd}\""))),
    };
    let (Some(from), Some(to)) = (from, to) else {
        let message = format!(
            "Invalid value 'Must specify both from and to ports with {}.' for portRange.",
            protocol.to_uppercase()
        );
        return Err(ApiError::new("InvalidParameterValue", message));
    };
    let legal = if protocol == "icmp" { -1..=255 } else { 0..=65535 };
    if !legal.contains(&from) || !legal.contains(&to) {
        let message = format!("Invalid value '{from}' or '{to}' for portRange. Must be a valid port.");
        return Err(ApiError::new("InvalidParameterValue", message));
    }
    if protocol != "icmp" && from > to {
        let message = format!("Invalid value '{to}' for portRange. The from port is greater than the to port.");
        return Err(ApiError::new("InvalidParameterValue", message));
    }
    Ok((protocol, from, to))
}

/// Checks a network's writing; bits beyond its length are refused, as EC2 does.
fn check_cidr(cidr: &str) -> Answer<()> {
    let wrong = || ApiError::new("InvalidParameterValue", format!("CIDR block {cidr} is malformed"));
    let (address, length) = cidr.split_once('/').ok_or_else(wrong)?;
    let address: std::net::Ipv4Addr = address.parse().map_err(|_| wrong())?;
    let length: u32 = length.parse().map_err(|_| wrong())?;
    if length > 32 {
        return Err(wrong());
    }
    let host = u64::from(u32::from(address)) & ((1u64 << (32 - length)) - 1);
    if host != 0 {
        let message = format!("The CIDR {cidr} has host bits set. Use the network's first address.");
        return Err(ApiError::new("InvalidParameterValue", message));
    }
    Ok(())
}

/// What groups let in, with groups as sources replaced by their members' addresses.
pub(crate) fn flatten(permissions: &[&Permission], members: impl Fn(&str) -> Vec<String>) -> Vec<Rule> {
    let mut rules = Vec::new();
    for p in permissions {
        let sources = match &p.source {
            Source::Cidr(cidr) => vec![cidr.clone()],
            Source::Group(id) => members(id).into_iter().map(|a| format!("{a}/32")).collect(),
        };
        for source in sources {
            rules.push(Rule { protocol: p.protocol.clone(), from: p.from, to: p.to, source });
        }
    }
    rules.sort();
    rules.dedup();
    rules
}
