//! What the metadata service knows of an instance: leaves by their path. Folders list what is in them.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::cloud::{Cloud, Instance, iso};
use crate::server::Shared;

/// What is at a path.
pub(super) struct Found {
    pub(super) kind: &'static str,
    pub(super) body: Vec<u8>,
}

/// Finds what is at a path such as `latest/meta-data/ami-id`.
pub(super) fn find(shared: &Shared, instance: &str, path: &str) -> Option<Found> {
    let text = |body: String| Some(Found { kind: "text/plain", body: body.into_bytes() });
    if path.is_empty() {
        return text("1.0\n2021-07-15\n2024-04-11\nlatest".to_owned());
    }
    let (version, rest) = path.split_once('/').unwrap_or((path, ""));
    let dated = version.len() == 10 && version.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    if version != "latest" && version != "1.0" && !dated {
        return None;
    }
    let leaves = shared.with_cloud(|cloud| leaves(shared, cloud, instance))?;
    let rest = rest.trim_end_matches('/');
    if let Some(leaf) = leaves.get(rest) {
        let kind = if rest == "user-data" { "application/octet-stream" } else { "text/plain" };
        return Some(Found { kind, body: leaf.clone() });
    }
    // A folder: its leaves, and its folders with a slash.
    let prefix = if rest.is_empty() { String::new() } else { format!("{rest}/") };
    let inside: BTreeSet<String> = leaves
        .keys()
        .filter_map(|k| k.strip_prefix(&prefix))
        .map(|k| k.split_once('/').map_or_else(|| k.to_owned(), |(folder, _)| format!("{folder}/")))
        .collect();
    if inside.is_empty() {
        return None;
    }
    text(inside.into_iter().collect::<Vec<_>>().join("\n"))
}

fn leaves(shared: &Shared, cloud: &Cloud, instance: &str) -> Option<BTreeMap<String, Vec<u8>>> {
    let i = cloud.instances.get(instance)?;
    let mut all: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut put = |path: &str, value: &str| {
        all.insert(format!("meta-data/{path}"), value.as_bytes().to_vec());
    };
    let config = &shared.config;
    let hostname = i.private_name(&config.region);
    put("ami-id", &i.image);
    put("ami-launch-index", &i.index.to_string());
    put("hostname", &hostname);
    put("local-hostname", &hostname);
    put("instance-action", "none");
    put("instance-id", &i.id);
    put("instance-life-cycle", if i.spot { "spot" } else { "on-demand" });
    put("instance-type", i.kind.name);
    put("local-ipv4", &i.address);
    put("mac", &i.mac);
    put("placement/availability-zone", &i.zone);
    put("placement/availability-zone-id", &cloud.zone_id(&i.zone));
    put("placement/region", &config.region);
    put("reservation-id", &i.reservation);
    put("profile", "default-hvm");
    put("services/domain", "amazonaws.com");
    put("services/partition", "aws");
    let groups: Vec<&str> = i.groups.iter().filter_map(|g| cloud.groups.get(g)).map(|g| g.name.as_str()).collect();
    put("security-groups", &groups.join("\n"));
    let nic = format!("network/interfaces/macs/{}", i.mac);
    put(&format!("{nic}/device-number"), "0");
    put(&format!("{nic}/interface-id"), &i.interface);
    put(&format!("{nic}/local-ipv4s"), &i.address);
    put(&format!("{nic}/mac"), &i.mac);
    put(&format!("{nic}/owner-id"), &config.account);
    put(&format!("{nic}/subnet-id"), &i.subnet);
    put(&format!("{nic}/security-group-ids"), &i.groups.join("\n"));
    put(&format!("{nic}/vpc-ipv4-cidr-block"), &config.vpc);
    if let Some(public) = &i.public {
        put("public-ipv4", public);
        put(&format!("{nic}/public-ipv4s"), public);
    }
    if let Some(key) = &i.key {
        // The key itself is nowhere here: key pairs are names.
        put("public-keys", &format!("0={key}"));
    }
    if let Some(at) = i.interruption {
        let at = iso(at).replace(".000Z", "Z");
        put("spot/instance-action", &json!({ "action": "terminate", "time": at }).to_string());
        put("spot/termination-time", &at);
    }
    if i.metadata.tags {
        for (key, value) in &i.tags {
            put(&format!("tags/instance/{key}"), value);
        }
    }
    put("block-device-mapping/ami", i.root_device.trim_start_matches("/dev/"));
    put("block-device-mapping/root", &i.root_device);
    let volumes = cloud.volumes.values().filter_map(|v| v.attachment.as_ref());
    let others = volumes.filter(|a| a.instance == i.id && a.device != i.root_device);
    for (n, a) in others.enumerate() {
        put(&format!("block-device-mapping/ebs{}", n + 1), a.device.trim_start_matches("/dev/"));
    }
    if let Some(data) = i.user_data.as_ref().and_then(|d| STANDARD.decode(d).ok()) {
        all.insert("user-data".to_owned(), data);
    }
    let document = document(shared, i);
    let signed = "dynamic/instance-identity";
    all.insert(format!("{signed}/signature"), shared.identity.signature(document.as_bytes()).into_bytes());
    all.insert(format!("{signed}/pkcs7"), shared.identity.pkcs7(document.as_bytes(), i.launched).into_bytes());
    all.insert(format!("{signed}/rsa2048"), shared.identity.pkcs7(document.as_bytes(), i.launched).into_bytes());
    all.insert(format!("{signed}/document"), document.into_bytes());
    Some(all)
}

/// The identity document, byte for byte the same as long as the instance runs.
fn document(shared: &Shared, i: &Instance) -> String {
    let config = &shared.config;
    // The order and the form that AWS writes; a verifier must not depend on either, but may find that it does.
    let fields = [
        ("accountId", json!(config.account)),
        ("architecture", json!(i.architecture)),
        ("availabilityZone", json!(i.zone)),
        ("billingProducts", json!(null)),
        ("devpayProductCodes", json!(null)),
        ("marketplaceProductCodes", json!(null)),
        ("imageId", json!(i.image)),
        ("instanceId", json!(i.id)),
        ("instanceType", json!(i.kind.name)),
        ("kernelId", json!(null)),
        ("pendingTime", json!(iso(i.launched - i.launched % 1000).replace(".000Z", "Z"))),
        ("privateIp", json!(i.address)),
        ("ramdiskId", json!(null)),
        ("region", json!(config.region)),
        ("version", json!("2017-09-30")),
    ];
    let lines: Vec<String> = fields.iter().map(|(name, value)| format!("  \"{name}\" : {value}")).collect();
    format!("{{\n{}\n}}", lines.join(",\n"))
}
