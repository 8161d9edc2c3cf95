//! The distribution and what it is made of.

use http::Method;
use serde_json::{Value, json};

use super::client::Refusal;
use super::context::{Context, Done, encode};
use crate::output::Exit;

pub(super) fn create(c: &Context<'_>) -> Done {
    let full: Vec<_> = c.names.iter().filter_map(|folder| std::path::absolute(folder).ok()).collect();
    let arches: Vec<&str> = c.key("arch").map(|arches| arches.split(',').collect()).unwrap_or_default();
    let summary = c.long("/api/v1/distro", &json!({"folders": full, "arches": arches}))?;
    let text = || {
        let mut out = String::new();
        for finding in summary["findings"].as_array().into_iter().flatten() {
            let text = |name: &str| finding[name].as_str().unwrap_or_default();
            out.push_str(&format!("{}: {}\n", text("path"), text("message")));
        }
        for (arch, count) in summary["packages"].as_object().into_iter().flatten() {
            out.push_str(&format!("{arch}: {count} packages\n"));
        }
        let published = summary["published"].as_array().map_or(0, Vec::len);
        out + if published == 0 { "nothing changed\n" } else { "published\n" }
    };
    Ok((c.one(&summary, text), Exit::Ok))
}

pub(super) fn bucket(c: &Context<'_>) -> Done {
    let synced = c.long("/api/v1/bucket", &Value::Null)?;
    let text = || {
        format!(
            "bucket {}: {} files, {} sent, {} removed\n",
            synced["bucket"].as_str().unwrap_or_default(),
            synced["files"],
            synced["sent"],
            synced["removed"]
        )
    };
    Ok((c.one(&synced, text), Exit::Ok))
}

pub(super) fn list(c: &Context<'_>) -> Done {
    let distro = c.get("/api/v1/distro")?;
    let mut rows = vec![json!({"name": distro["folder"], "kind": "published"})];
    for (kind, list) in [("folder", &distro["folders"]), ("mirror", &distro["mirrors"])] {
        rows.extend(list.as_array().into_iter().flatten().map(|name| json!({"name": name, "kind": kind})));
    }
    c.print(&rows, &[("KIND", "kind"), ("NAME", "name")], &[])
}

pub(super) fn remove_folder(c: &Context<'_>) -> Done {
    let full = std::path::absolute(&c.names[0]).map_err(|error| Refusal::new(Exit::Usage, error.to_string()))?;
    c.act(Method::DELETE, "/api/v1/distro/folders", &json!({"folder": full}))
}

pub(super) fn mirror(c: &Context<'_>) -> Done {
    let body = json!({"url": c.names[0], "name": c.key("name"), "arch": c.key("arch"), "versions": c.key("versions")});
    let copied = c.long("/api/v1/mirrors", &body)?;
    let text = || {
        format!(
            "mirror {}: {} packages, {} fetched, {} removed\n",
            copied["name"].as_str().unwrap_or_default(),
            copied["packages"],
            copied["fetched"],
            copied["removed"]
        )
    };
    if !c.cli.quiet {
        c.message("publish it with `rocks create distro`\n");
    }
    Ok((c.one(&copied, text), Exit::Ok))
}

pub(super) fn mirrors(c: &Context<'_>) -> Done {
    let mut rows = c.rows("/api/v1/mirrors", &c.names)?;
    for row in &mut rows {
        let synced = row["synced"].as_i64().and_then(|at| jiff::Timestamp::from_second(at).ok());
        row["synced"] = json!(synced);
    }
    c.print(
        &rows,
        &[("MIRROR", "name"), ("ARCH", "arch"), ("VERSIONS", "versions"), ("COPIED", "synced"), ("URL", "url")],
        &[],
    )
}

pub(super) fn remove_mirror(c: &Context<'_>) -> Done {
    c.confirm(&format!("remove the copy of mirror {}", c.names[0]))?;
    c.act(Method::DELETE, &format!("/api/v1/mirrors/{}", encode(&c.names[0])), &Value::Null)
}
