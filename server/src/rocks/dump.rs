//! Commands that make an empty frontend like this one.

use serde_json::Value;

use super::context::{Context, Done};
use super::spec::Flag;
use crate::output::Exit;

/// A word for the shell that means nothing but itself.
fn q(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Tokens, certificates and reports are left out, and so are secret values unless they are asked for.
pub(super) fn dump(c: &Context<'_>) -> Done {
    let mut out = String::from("#!/bin/sh\nset -e\n");
    for a in c.rows("/api/v1/appliances", &[])? {
        out.push_str(&format!(
            "rocks add appliance {} node={} membership={}\n",
            q(&a["name"]),
            q(&a["node"]),
            q(&a["membership"])
        ));
    }
    for s in c.rows("/api/v1/strategies", &[])? {
        let of = match (s["source"].as_str(), s["name"].as_str()) {
            (Some("default"), Some("")) => "rollout".to_owned(),
            (Some("own"), _) => format!("appliance rollout {}", q(&s["name"])),
            _ => continue,
        };
        let keys = ["waves", "soak", "failures", "timeout"].map(|key| format!("{key}={}", q(&s[key])));
        out.push_str(&format!("rocks set {of} {}\n", keys.join(" ")));
    }
    for r in c.rows("/api/v1/rolls", &[])? {
        out.push_str(&format!("rocks add roll {} name={}\n", q(&r["path"]), q(&r["name"])));
        if r["enabled"] == false {
            out.push_str(&format!("rocks disable roll {}\n", q(&r["name"])));
        }
        if r["trusted"] == true {
            out.push_str(&format!("rocks trust roll {}\n", q(&r["name"])));
        }
    }
    for e in c.rows("/api/v1/enrolments", &[])? {
        let images: Vec<&str> = e["images"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let most = if e["count"].is_null() { String::new() } else { format!(" count={}", e["count"]) };
        out.push_str(&format!(
            "rocks add enrolment {} appliance={} account={} region={} ami={} age={}s{most}\n",
            q(&e["name"]),
            q(&e["appliance"]),
            q(&e["account"]),
            q(&e["region"]),
            q(&Value::from(images.join(","))),
            e["age_seconds"]
        ));
    }
    for h in c.rows("/api/v1/hosts", &[])? {
        out.push_str(&format!(
            "rocks add host {} appliance={} arch={} os={} rack={} rank={} > /dev/null\n",
            q(&h["name"]),
            q(&h["appliance"]),
            q(&h["arch"]),
            q(&h["os"]),
            h["rack"],
            h["rank"]
        ));
    }
    let shown = c.has(Flag::ShowSecrets);
    for a in c.rows(if shown { "/api/v1/attributes?secrets=true" } else { "/api/v1/attributes" }, &[])? {
        let (scope, of) = match a["scope"].as_str() {
            Some("global") | None => (String::new(), String::new()),
            Some(scope) => (format!("{scope} "), format!("{} ", q(&a["owner"]))),
        };
        let is_secret = a["secret"] == true;
        let flag = if is_secret { "--secret " } else { "" };
        let line = format!("rocks set {scope}attr {flag}-- {of}{} {}\n", q(&a["name"]), q(&a["value"]));
        if is_secret && !shown {
            out.push_str(&format!(
                "# A secret, left out: rocks set {scope}attr --secret --stdin -- {of}{}\n",
                q(&a["name"])
            ));
        } else {
            out.push_str(&line);
        }
    }
    for m in c.rows("/api/v1/mirrors", &[])? {
        out.push_str(&format!(
            "# Copies again: rocks create mirror {} name={} arch={} versions={}\n",
            q(&m["url"]),
            q(&m["name"]),
            q(&m["arch"]),
            q(&m["versions"])
        ));
    }
    for i in c.rows("/api/v1/images", &[])? {
        out.push_str(&format!("# An image, left out: rocks add image {} {}\n", q(&i["name"]), q(&i["disk"])));
    }
    let distro = c.get("/api/v1/distro")?;
    let folders: Vec<String> = distro["folders"].as_array().into_iter().flatten().map(q).collect();
    if !folders.is_empty() {
        out.push_str(&format!("rocks create distro {}\n", folders.join(" ")));
    }
    Ok((out, Exit::Ok))
}
