//! What tests ask of the cloud behind the product's back: `/_minicloud/...`. JSON, and not signed.

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};

use super::body::{Response, answer as reply};
use super::faults::Fault;
use super::{Access, Shared, locked, now};
use crate::access::Policy;
use crate::cloud::iso;
use crate::sigv4::query_pairs;

type Result<T> = std::result::Result<T, (u16, String)>;

fn wrong(e: impl std::fmt::Display) -> (u16, String) {
    (400, e.to_string())
}

fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(wrong)
}

pub(super) async fn answer(shared: &Arc<Shared>, peer: SocketAddr, request: http::Request<Incoming>) -> Response {
    // Instances and frontends under test have no business here.
    if !peer.ip().is_loopback() {
        return reply(403, "text/plain", "only from the machine itself\n");
    }
    let (head, body) = request.into_parts();
    let body = match Limited::new(body, 4 << 20).collect().await {
        Ok(body) => body.to_bytes(),
        Err(e) => return reply(400, "text/plain", e.to_string()),
    };
    let path = head.uri.path().trim_start_matches("/_minicloud/").to_owned();
    let query = head.uri.query().unwrap_or_default().to_owned();
    if let Some(rest) = path.strip_prefix("imds/") {
        // The metadata service of an instance, for clouds in which nothing boots.
        let (instance, rest) = rest.split_once('/').unwrap_or((rest, ""));
        return crate::imds::answer(shared, instance, head.method.as_str(), rest, &head.headers);
    }
    if path == "identity.pem" {
        return reply(200, "application/x-pem-file", shared.identity.certificate().to_owned());
    }
    let (method, there) = (head.method.as_str().to_owned(), Arc::clone(shared));
    // Commands in instances take as long as they take.
    let done = tokio::task::spawn_blocking(move || act(&there, &method, &path, &query, &body)).await;
    match done {
        Ok(Ok(value)) => reply(200, "application/json", format!("{value:#}\n")),
        Ok(Err((status, why))) => reply(status, "application/json", format!("{:#}\n", json!({ "error": why }))),
        Err(e) => reply(500, "text/plain", e.to_string()),
    }
}

/// What a request comes to, or a status and why not.
pub(crate) fn act(shared: &Shared, method: &str, path: &str, query: &str, body: &[u8]) -> Result<Value> {
    match (method, path) {
        ("GET", "calls") => {
            let pairs = query_pairs(query);
            let after = pairs.iter().find(|(k, _)| k == "after").and_then(|(_, v)| v.parse().ok()).unwrap_or(0);
            Ok(json!({ "calls": locked(&shared.calls).after(after) }))
        }
        ("DELETE", "calls") => {
            locked(&shared.calls).clear();
            Ok(json!({}))
        }
        ("GET", "faults") => Ok(json!({ "faults": locked(&shared.faults).all() })),
        ("POST", "faults") => {
            let fault: Fault = read(body)?;
            if fault.code.is_none() && fault.drop.is_none() && fault.delay_ms == 0 {
                return Err(wrong("a fault has a code, a drop or a delay_ms"));
            }
            locked(&shared.faults).add(fault);
            Ok(json!({}))
        }
        ("DELETE", "faults") => {
            locked(&shared.faults).clear();
            Ok(json!({}))
        }
        ("GET", "state") => Ok(state(shared)),
        ("GET", "bill") => {
            let others = shared.machines.counters();
            Ok(shared.with_cloud(|cloud| cloud.bill.show(now(), &others)))
        }
        ("POST", "keys") => add_key(shared, body),
        ("POST", "capacity") => {
            let new: std::collections::BTreeMap<String, Option<u32>> = read(body)?;
            shared.with_cloud(|cloud| {
                for (place, room) in new {
                    match room {
                        Some(room) => cloud.capacity.insert(place, room),
                        None => cloud.capacity.remove(&place),
                    };
                }
                Ok(json!({ "capacity": cloud.capacity }))
            })
        }
        ("POST", "interruptions") => interrupt(shared, body),
        ("POST", "scaling") => super::scaling::scale(shared, &read(body)?).map_err(wrong),
        ("POST", "images") => add_image(shared, body),
        ("POST", "exec") => exec(shared, body),
        ("POST", "wan") => change_wan(shared, body),
        _ => Err((404, format!("there is no {method} {path}"))),
    }
}

fn add_key(shared: &Shared, body: &[u8]) -> Result<Value> {
    let key: crate::config::Key = read(body)?;
    let policy = key.policy.as_ref().map(Policy::parse).transpose().map_err(|e| wrong(format!("{e:#}")))?;
    let access = Access { secret: key.secret, user: key.user, policy };
    locked(&shared.keys).insert(key.id, Arc::new(access));
    Ok(json!({}))
}

fn interrupt(shared: &Shared, body: &[u8]) -> Result<Value> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        instance: String,
        #[serde(default)]
        in_ms: u64,
    }
    let wanted: Wanted = read(body)?;
    let at = now() + wanted.in_ms;
    shared.with_cloud(|cloud| cloud.interrupt(&wanted.instance, at, now())).map_err(|e| wrong(e.message))?;
    Ok(json!({ "at": iso(at) }))
}

fn add_image(shared: &Shared, body: &[u8]) -> Result<Value> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        name: String,
        path: std::path::PathBuf,
        #[serde(default = "x86")]
        architecture: String,
    }
    fn x86() -> String {
        "x86_64".to_owned()
    }
    let wanted: Wanted = read(body)?;
    let made = shared.seed(&wanted.name, &wanted.path, &wanted.architecture).map_err(|e| wrong(format!("{e:#}")))?;
    Ok(json!({ "image": made.0, "snapshot": made.1 }))
}

fn exec(shared: &Shared, body: &[u8]) -> Result<Value> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        instance: String,
        command: Vec<String>,
        /// Standard input, in base64.
        #[serde(default)]
        input: String,
    }
    let wanted: Wanted = read(body)?;
    let input = STANDARD.decode(&wanted.input).map_err(wrong)?;
    let ran = shared.machines.exec(&wanted.instance, &wanted.command, &input).map_err(|e| wrong(format!("{e:#}")))?;
    Ok(json!({ "code": ran.code, "stdout": ran.stdout, "stderr": ran.stderr }))
}

fn change_wan(shared: &Shared, body: &[u8]) -> Result<Value> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        mbit: Option<f64>,
        round_trip_ms: Option<f64>,
        loss: Option<f64>,
        up: Option<bool>,
    }
    let wanted: Wanted = read(body)?;
    let net = shared.net.as_ref().ok_or_else(|| wrong("nothing boots in this cloud"))?;
    if wanted.round_trip_ms.is_some_and(|ms| !(0.0..=60_000.0).contains(&ms)) {
        return Err(wrong("a round trip takes from 0 to 60000 ms"));
    }
    let change = |shape: &mut crate::wan::Shape| {
        shape.rate = wanted.mbit.map_or(shape.rate, |m| m * 1e6);
        shape.delay = wanted.round_trip_ms.map_or(shape.delay, |ms| std::time::Duration::from_secs_f64(ms / 2000.0));
        shape.loss = wanted.loss.unwrap_or(shape.loss);
        shape.up = wanted.up.unwrap_or(shape.up);
    };
    net.change(change).map_err(|e| wrong(format!("{e:#}")))?;
    Ok(json!({}))
}

fn state(shared: &Shared) -> Value {
    let mut state = shared.with_cloud(|cloud| {
        let instances: Vec<Value> = cloud
            .instances
            .values()
            .map(|i| {
                json!({
                    "id": i.id, "state": i.state.name(), "type": i.kind.name, "image": i.image, "zone": i.zone,
                    "private": i.address, "public": i.public, "groups": i.groups, "tags": i.tags,
                    "namespace": shared.net.as_ref().map(|n| n.instance(i.number)),
                })
            })
            .collect();
        let volumes: Vec<Value> = cloud
            .volumes
            .values()
            .map(|v| {
                json!({
                    "id": v.id, "state": v.state(), "gib": v.gib, "type": v.spec.kind, "zone": v.zone, "tags": v.tags,
                    "snapshot": v.snapshot, "file": shared.disks.volume(&v.id), "why": v.broken,
                    "attachment": v.attachment.as_ref().map(|a| json!({
                        "instance": a.instance, "device": a.device, "names": a.names, "state": a.state.name(),
                    })),
                })
            })
            .collect();
        let snapshots: Vec<Value> = cloud
            .snapshots
            .values()
            .map(|s| {
                json!({
                    "id": s.id, "state": s.state(), "gib": s.gib, "bytes": s.bytes, "blocks": s.blocks.len(),
                    "encrypted": s.encrypted, "tags": s.tags, "parent": s.parent, "file": shared.disks.snapshot(&s.id),
                })
            })
            .collect();
        let images: Vec<Value> = cloud
            .images
            .values()
            .map(|i| {
                let snapshots: Vec<_> = i.mappings.iter().filter_map(|m| m.snapshot.as_ref()).collect();
                json!({ "id": i.id, "name": i.name, "snapshots": snapshots, "tags": i.tags })
            })
            .collect();
        let groups: Vec<Value> = cloud
            .groups
            .values()
            .map(|g| json!({ "id": g.id, "name": g.name, "rules": g.permissions.len(), "tags": g.tags }))
            .collect();
        json!({
            "region": shared.config.region, "account": shared.config.account, "instances": instances,
            "volumes": volumes, "snapshots": snapshots, "images": images, "security_groups": groups,
        })
    });
    state["buckets"] = shared.objects.show();
    state["network"] = shared.net.as_ref().map_or(Value::Null, |net| {
        json!({
            "frontend_namespace": net.frontend(), "cloud_namespace": net.cloud(),
            "frontend_address": crate::run::WAN_ENDS[0], "cloud_address": crate::run::WAN_ENDS[1],
            "gateway": net.gateway(),
        })
    });
    state
}
