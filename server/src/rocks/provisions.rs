//! Provisions: from an appliance to running instances.

use std::io::Write as _;
use std::time::Duration;

use http::Method;
use serde_json::{Map, Value, json};

use super::client::Refusal;
use super::context::{Context, Done, encode};
use super::{Format, table};
use crate::output::Exit;

/// How often it is asked how far a provision is.
const EVERY: Duration = Duration::from_millis(500);

/// What is told of each instance.
const HOSTS: [(&str, &str); 5] =
    [("HOST", "name"), ("INSTANCE", "id"), ("IS", "instance"), ("ADDRESS", "address"), ("STATE", "state")];

fn yes(c: &Context<'_>, name: &str) -> Result<Option<bool>, Refusal> {
    match c.key(name) {
        None => Ok(None),
        Some("yes" | "true" | "on") => Ok(Some(true)),
        Some("no" | "false" | "off") => Ok(Some(false)),
        Some(other) => Err(Refusal::new(Exit::Usage, format!("`{name}={other}` is neither yes nor no"))),
    }
}

pub(super) fn provision(c: &Context<'_>) -> Done {
    let mut body = Map::new();
    body.insert("appliance".to_owned(), json!(c.names[0]));
    body.insert("method".to_owned(), json!(c.key("method").unwrap_or("udt")));
    for name in [
        "name", "region", "ami", "image", "boot", "receiver", "parent", "base", "end", "arch", "type", "subnet", "key",
        "from", "as", "join",
    ] {
        if let Some(value) = c.key(name) {
            body.insert(name.to_owned(), json!(value));
        }
    }
    for (key, name) in [("receiver-type", "receiver_type"), ("kms-key", "kms_key")] {
        if let Some(value) = c.key(key) {
            body.insert(name.to_owned(), json!(value));
        }
    }
    for name in ["count", "size", "port"] {
        if c.key(name).is_some() {
            body.insert(name.to_owned(), json!(c.number(name, 0)?));
        }
    }
    for name in ["spot", "encrypted", "inside", "plan"] {
        if let Some(value) = yes(c, name)? {
            body.insert(name.to_owned(), json!(value));
        }
    }
    if let Some(groups) = c.key("groups") {
        body.insert("groups".to_owned(), json!(groups.split(',').collect::<Vec<_>>()));
    }
    let answer = c.send(Method::POST, "/api/v1/provisions", &Value::Object(body))?;
    if yes(c, "plan")? == Some(true) {
        return Ok((c.one(&answer, || planned(&answer)), Exit::Ok));
    }
    if yes(c, "wait")? == Some(false) {
        let text =
            || format!("provision {} has begun; `rocks list provision` shows how far it is\n", text(&answer["name"]));
        return Ok((c.one(&answer, text), Exit::Ok));
    }
    follow(c, text(&answer["name"]))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn planned(answer: &Value) -> String {
    let mut out = String::new();
    for step in answer["steps"].as_array().into_iter().flatten() {
        let after: Vec<&str> = step["after"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let after = if after.is_empty() { String::new() } else { format!("   after {}", after.join(", ")) };
        out.push_str(&format!("{:<13} {}{after}\n", text(&step["step"]), text(&step["does"])));
    }
    out.push('\n');
    out.push_str(&foreseen(&answer["forecast"]));
    out
}

/// What is predicted: the phases, and what it costs for a day.
fn foreseen(forecast: &Value) -> String {
    if let Some(what) = forecast["unknown"].as_str() {
        let hint = forecast["hint"].as_str().map(|hint| format!("; {hint}")).unwrap_or_default();
        return format!("nothing is predicted: {what}{hint}\n");
    }
    let seconds = |value: &Value| value.as_f64().unwrap_or(0.0);
    let mut out = String::new();
    for phase in forecast["phases"].as_array().into_iter().flatten().filter(|phase| seconds(&phase["takes"]) > 0.0) {
        let kind = text(&phase["kind"]).replace('_', " ");
        let basis = match phase["samples"].as_u64() {
            Some(0) | None => "as usual",
            Some(_) => "as measured here",
        };
        let (start, takes) = (seconds(&phase["start"]), seconds(&phase["takes"]));
        out.push_str(&format!("{kind:<13} from {start:>6.1} s on, {takes:>6.1} s ({basis})\n"));
    }
    let mib = forecast["wan"].as_f64().unwrap_or(0.0) / f64::from(1 << 20);
    let (time, total) = (seconds(&forecast["time"]), text(&forecast["bill"]["total"]));
    out.push_str(&format!(
        "predicted: {time:.1} s, {mib:.0} MiB across the WAN, ${total} with a day of its instances\n"
    ));
    out
}

/// Shows how far a provision is until it has ended. Whoever interrupts this leaves it running.
fn follow(c: &Context<'_>, name: &str) -> Done {
    let path = format!("/api/v1/provisions/{}", encode(name));
    let mut last = String::new();
    loop {
        let now = c.get(&path)?;
        let line = match (text(&now["doing"]), now["progress"].as_str()) {
            (doing, Some(progress)) => format!("{doing} ({progress})"),
            (doing, None) => doing.to_owned(),
        };
        let line = format!("{name}: {line}");
        // Progress of a shipment alone is no news where nobody can look at it moving.
        let news = line.split(" (").next().unwrap_or_default().to_owned();
        if news != last && !c.cli.quiet && !text(&now["doing"]).is_empty() {
            let _ = writeln!(std::io::stderr(), "{line}");
            last = news;
        }
        let exit = match text(&now["status"]) {
            // The frontend goes on trying; whoever waits here should know that somebody has to do something.
            "ending" if !now["trouble"].is_null() => Exit::Unhealthy,
            "running" | "ending" => {
                std::thread::sleep(EVERY);
                continue;
            }
            "done" if now["trouble"].is_null() => Exit::Ok,
            "done" => Exit::Unhealthy,
            _ => Exit::Failed,
        };
        return Ok((c.one(&now, || ended(&now)), exit));
    }
}

fn ended(record: &Value) -> String {
    let (name, found) = (text(&record["name"]), &record["found"]);
    let mut out = format!("provision {name}: {}\n", text(&record["status"]));
    if let Some(what) = record["why"]["what"].as_str() {
        out.push_str(&format!("why: {what}\n"));
    }
    if let Some(hint) = record["why"]["hint"].as_str() {
        out.push_str(&format!("hint: {hint}\n"));
    }
    if let Some(trouble) = record["trouble"].as_str() {
        out.push_str(&format!("trouble: {trouble}\n"));
    }
    if let Some(ami) = found["ami"].as_str().filter(|_| record["status"] == "done") {
        out.push_str(&format!("image {ami}\n"));
    }
    if let Some(template) = found["template"].as_str().filter(|_| record["status"] == "done") {
        out.push_str(&format!("launch template {template}, whose instances enrol by {}\n", text(&record["enrolment"])));
    }
    for (host, one) in found["instances"].as_object().into_iter().flatten() {
        let converged = if one["converged"].is_null() { "not converged" } else { "converged" };
        let address = one["address"].as_str().unwrap_or("-");
        out.push_str(&format!("{host}  {}  {}  {address}  {converged}\n", text(&one["id"]), text(&one["state"])));
    }
    out
}

/// All provisions in short; of those that are named also their instances, each on its way.
pub(super) fn list(c: &Context<'_>) -> Done {
    let mut rows = c.rows("/api/v1/provisions", &c.names)?;
    for row in &mut rows {
        if !c.names.is_empty() {
            *row = c.get(&format!("/api/v1/provisions/{}", encode(text(&row["name"]))))?;
        }
        row["appliance"] = row["order"]["appliance"].clone();
        row["method"] = row["order"]["method"].clone();
        row["region"] = row["order"]["region"].clone();
        row["ami"] = row["found"]["ami"].clone();
        row["template"] = row["found"]["template"].clone();
        if row["doing"] == "" {
            row["doing"] =
                row["why"]["what"].as_str().or(row["trouble"].as_str()).map_or(Value::Null, |why| json!(why));
        }
    }
    let (mut out, exit) = c.print(
        &rows,
        &[
            ("PROVISION", "name"),
            ("APPLIANCE", "appliance"),
            ("METHOD", "method"),
            ("STATUS", "status"),
            ("CONVERGED", "instances"),
            ("BEGAN", "began"),
            ("DOING", "doing"),
        ],
        &[("REGION", "region"), ("IMAGE", "ami"), ("TEMPLATE", "template"), ("PROGRESS", "progress")],
    )?;
    if matches!(c.format(), Format::Table | Format::Wide) {
        for row in rows.iter().filter(|_| !c.names.is_empty()) {
            let hosts = row["hosts"].as_array().cloned().unwrap_or_default();
            if !hosts.is_empty() {
                out.push('\n');
                out.push_str(&table::table(&hosts, &HOSTS, c.heads()));
            }
        }
    }
    Ok((out, exit))
}

pub(super) fn cancel(c: &Context<'_>) -> Done {
    c.confirm(&format!("end provision {} with all that it made", c.names[0]))?;
    c.send(Method::POST, &format!("/api/v1/provisions/{}/cancel", encode(&c.names[0])), &Value::Null)?;
    if yes(c, "wait")? == Some(false) {
        return Ok((String::new(), Exit::Ok));
    }
    let (text, exit) = follow(c, &c.names[0])?;
    // That it was cancelled is what was asked for.
    Ok((text, if exit == Exit::Failed { Exit::Ok } else { exit }))
}

pub(super) fn remove(c: &Context<'_>) -> Done {
    c.act(Method::DELETE, &format!("/api/v1/provisions/{}", encode(&c.names[0])), &Value::Null)
}

fn leak_path(c: &Context<'_>) -> String {
    c.key("region")
        .map_or_else(|| "/api/v1/leaks".to_owned(), |region| format!("/api/v1/leaks?region={}", encode(region)))
}

pub(super) fn leaks(c: &Context<'_>) -> Done {
    let rows = c.rows(&leak_path(c), &[])?;
    c.print(
        &rows,
        &[("NAME", "name"), ("KIND", "kind"), ("PROVISION", "provision"), ("ROLE", "role"), ("REGION", "region")],
        &[],
    )
}

pub(super) fn remove_leaks(c: &Context<'_>) -> Done {
    c.confirm("end everything in the cloud that has this frontend's tag and that no provision owns")?;
    let ended = c.send(Method::DELETE, &leak_path(c), &Value::Null)?;
    let text = || {
        let names: Vec<&str> = ended["ended"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if names.is_empty() { "there was none\n".to_owned() } else { format!("ended {}\n", names.join(", ")) }
    };
    Ok((c.one(&ended, text), Exit::Ok))
}

/// Says which method to take, with what each takes and costs.
pub(super) fn advise(c: &Context<'_>) -> Done {
    let mut body = Map::new();
    body.insert("appliance".to_owned(), json!(c.names[0]));
    for name in [
        "image",
        "lite",
        "region",
        "type",
        "arch",
        "period",
        "keep",
        "link",
        "rtt",
        "loss",
        "prefer",
        "image-bytes",
        "packages-bytes",
        "receiver-type",
    ] {
        if let Some(value) = c.key(name) {
            body.insert(name.replace('-', "_"), json!(value));
        }
    }
    body.insert("count".to_owned(), json!(c.number("count", 1)?));
    body.insert("picture".to_owned(), json!(c.key("picture").is_some()));
    let answer = c.send(Method::POST, "/api/v1/advice", &Value::Object(body))?;
    if let Some(file) = c.key("picture") {
        std::fs::write(file, text(&answer["picture"]))
            .map_err(|error| Refusal::new(Exit::Failed, format!("{file}: {error}")))?;
    }
    Ok((c.one(&answer["advice"], || text(&answer["text"]).to_owned()), Exit::Ok))
}
