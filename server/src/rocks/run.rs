//! What each command does.

use http::Method;
use serde_json::{Value, json};

use super::client::{Refusal, call};
use super::table::table;
use super::{Cli, Format};
use crate::output::{Exit, Output};

pub(super) const HELP: &str = "Commands:
  add appliance NAME [node=NODE] [membership=TEXT]     list appliance        remove appliance NAME
  add host NAME appliance=NAME [arch= os= rack= rank=]  list host [NAME]      remove host NAME ...
  set host appliance NAME APPLIANCE
  set attr NAME VALUE            set os attr OS NAME VALUE
  set appliance attr APPLIANCE NAME VALUE               set host attr HOST NAME VALUE
  list attr                      list host attr HOST    remove [os|appliance|host] attr [OWNER] NAME
  add roll PATH [name=NAME]      list roll              enable|disable|trust|distrust|remove roll NAME
  list host profile HOST         report host HOST       report host join HOST
  create distro [FOLDER ...] [arch=]                    sync config           dump

Examples:
  rocks add appliance lite
  rocks add host lite-0-0 appliance=lite > join.toml
  rocks set appliance attr lite vim yes
  rocks report host lite-0-0";

/// What to print, and how the program ends.
type Done = Result<(String, Exit), Refusal>;

struct Words<'w> {
    plain: Vec<&'w str>,
    keys: Vec<(&'w str, &'w str)>,
}

impl Words<'_> {
    fn key(&self, name: &str) -> Option<&str> {
        self.keys.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)
    }

    fn known(&self, names: &[&str]) -> Result<(), Refusal> {
        match self.keys.iter().find(|(key, _)| !names.contains(key)) {
            Some((key, _)) => {
                Err(Refusal::new(Exit::Usage, format!("`{key}=` has no meaning here")).hint(if names.is_empty() {
                    "this command has none".to_owned()
                } else {
                    format!("there are {}", names.join(", "))
                }))
            }
            None => Ok(()),
        }
    }
}

pub(super) fn run(cli: &Cli, output: &mut Output<'_>) -> Exit {
    match command(cli) {
        Ok((text, exit)) => {
            if output.data(&text).is_ok() {
                exit
            } else {
                Exit::Failed
            }
        }
        Err(refusal) => {
            let hint = refusal.hint.map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
            output.message(&format!("error: {}\n{hint}", refusal.message));
            refusal.exit
        }
    }
}

fn command(cli: &Cli) -> Done {
    let words: Vec<&str> = cli.words.iter().map(String::as_str).collect();
    // Values of attributes may have an equals sign: only what comes after the names is key=value, and never in `set ... attr`.
    let sets = words.first() == Some(&"set") && words.contains(&"attr");
    let mut split = Words { plain: Vec::new(), keys: Vec::new() };
    for word in &words {
        match word.split_once('=') {
            Some(pair) if !sets && !pair.0.is_empty() && !pair.0.contains('/') => split.keys.push(pair),
            _ => split.plain.push(word),
        }
    }
    let get = |path: &str| call(&cli.socket, Method::GET, path, None);
    let send = |method: Method, path: &str, body: &Value| call(&cli.socket, method, path, Some(body));
    let list = |path: &str, columns: &[(&str, &str)], names: &[&str]| -> Done {
        let mut rows = get(path)?.as_array().cloned().unwrap_or_default();
        if !names.is_empty() {
            rows.retain(|row| names.iter().any(|name| fits(row, name)));
            if rows.is_empty() {
                return Err(Refusal::new(Exit::NoSuchObject, format!("there is no {}", names.join(", "))));
            }
        }
        Ok((print(cli, &Value::Array(rows), columns), Exit::Ok))
    };
    let done = |result: Result<Value, Refusal>| -> Done { result.map(|_| (String::new(), Exit::Ok)) };
    let attribute = |owner: Value, name: &str, value: Option<&str>| {
        let mut body = owner;
        body["name"] = json!(name);
        if let Some(value) = value {
            body["value"] = json!(value);
        }
        body
    };
    let owner = |scope: &str, owner: &str| {
        if scope == "global" { json!({"scope": scope}) } else { json!({"scope": scope, "owner": owner}) }
    };
    match split.plain[..] {
        ["add", "appliance", name] => {
            split.known(&["node", "membership", "graph", "public"])?;
            let body = json!({"name": name, "node": split.key("node").unwrap_or(name), "membership": split.key("membership").unwrap_or(name)});
            done(send(Method::POST, "/api/v1/appliances", &body))
        }
        ["list", "appliance", ref names @ ..] => {
            list("/api/v1/appliances", &[("APPLIANCE", "name"), ("NODE", "node"), ("MEMBERSHIP", "membership")], names)
        }
        ["remove", "appliance", name] => {
            done(call(&cli.socket, Method::DELETE, &format!("/api/v1/appliances/{}", encode(name)), None))
        }
        ["add", "host", name] => {
            split.known(&["appliance", "membership", "arch", "os", "rack", "rank"])?;
            let Some(appliance) = split.key("appliance").or_else(|| split.key("membership")) else {
                return Err(
                    Refusal::new(Exit::Usage, "which appliance is it?").hint("rocks add host NAME appliance=lite")
                );
            };
            let number = |name: &str| -> Result<i64, Refusal> {
                let text = split.key(name).unwrap_or("0");
                text.parse().map_err(|_| Refusal::new(Exit::Usage, format!("{name}={text}: not a number")))
            };
            let body = json!({"name": name, "appliance": appliance, "arch": split.key("arch"), "os": split.key("os"),
                              "rack": number("rack")?, "rank": number("rank")?});
            Ok((print_join(cli, &send(Method::POST, "/api/v1/hosts", &body)?), Exit::Ok))
        }
        ["list", "host"] => hosts(list, &[]),
        ["list", "host", "profile", name] => {
            let profile = get(&format!("/api/v1/hosts/{}/profile", encode(name)))?;
            let text = if cli.output == Format::Json {
                json_text(&profile)
            } else {
                profile["kickstart"].as_str().unwrap_or_default().to_owned()
            };
            Ok((text, Exit::Ok))
        }
        ["list", "host", "attr", name] => {
            let rows = get(&format!("/api/v1/hosts/{}/attributes", encode(name)))?;
            Ok((print(cli, &rows, &[("ATTR", "name"), ("VALUE", "value"), ("SOURCE", "source")]), Exit::Ok))
        }
        ["list", "host", ref names @ ..] => hosts(list, names),
        ["set", "host", "appliance", name, appliance] => {
            done(send(Method::PUT, &format!("/api/v1/hosts/{}/appliance", encode(name)), &json!(appliance)))
        }
        ["remove", "host", ref names @ ..] if !names.is_empty() => {
            for name in names {
                call(&cli.socket, Method::DELETE, &format!("/api/v1/hosts/{}", encode(name)), None)?;
            }
            Ok((String::new(), Exit::Ok))
        }
        ["report", "host", "join", name] => {
            let document = call(&cli.socket, Method::POST, &format!("/api/v1/hosts/{}/join", encode(name)), None)?;
            Ok((print_join(cli, &document), Exit::Ok))
        }
        ["report", "host", name] => report(cli, name, &get(&format!("/api/v1/hosts/{}/report", encode(name)))?),
        ["set", "attr", name, value] => {
            done(send(Method::PUT, "/api/v1/attributes", &attribute(owner("global", ""), name, Some(value))))
        }
        ["set", scope @ ("os" | "appliance" | "host"), "attr", of, name, value] => {
            done(send(Method::PUT, "/api/v1/attributes", &attribute(owner(scope, of), name, Some(value))))
        }
        ["remove", "attr", name] => {
            done(send(Method::DELETE, "/api/v1/attributes", &attribute(owner("global", ""), name, None)))
        }
        ["remove", scope @ ("os" | "appliance" | "host"), "attr", of, name] => {
            done(send(Method::DELETE, "/api/v1/attributes", &attribute(owner(scope, of), name, None)))
        }
        ["list", "attr"] => list(
            "/api/v1/attributes",
            &[("SCOPE", "scope"), ("OWNER", "owner"), ("ATTR", "name"), ("VALUE", "value")],
            &[],
        ),
        ["add", "roll", path] => {
            split.known(&["name"])?;
            let full = std::path::absolute(path).map_err(|error| Refusal::new(Exit::Usage, error.to_string()))?;
            let base = full.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let body =
                json!({"name": split.key("name").unwrap_or(&base), "path": full, "enabled": true, "trusted": false});
            done(send(Method::POST, "/api/v1/rolls", &body))
        }
        ["list", "roll", ref names @ ..] => list(
            "/api/v1/rolls",
            &[("ROLL", "name"), ("ENABLED", "enabled"), ("TRUSTED", "trusted"), ("PATH", "path")],
            names,
        ),
        [verb @ ("enable" | "disable" | "trust" | "distrust"), "roll", name] => {
            let body = match verb {
                "enable" => json!({"enabled": true}),
                "disable" => json!({"enabled": false}),
                "trust" => json!({"trusted": true}),
                _ => json!({"trusted": false}),
            };
            done(send(Method::PUT, &format!("/api/v1/rolls/{}", encode(name)), &body))
        }
        ["remove", "roll", name] => {
            done(call(&cli.socket, Method::DELETE, &format!("/api/v1/rolls/{}", encode(name)), None))
        }
        ["create", "distro", ref folders @ ..] => {
            split.known(&["arch"])?;
            let full: Vec<_> = folders.iter().filter_map(|folder| std::path::absolute(folder).ok()).collect();
            let arches: Vec<&str> = split.key("arch").map(|arches| arches.split(',').collect()).unwrap_or_default();
            let summary = send(Method::POST, "/api/v1/distro", &json!({"folders": full, "arches": arches}))?;
            Ok((distro(cli, &summary), Exit::Ok))
        }
        ["sync", "config"] => sync(cli, &call(&cli.socket, Method::POST, "/api/v1/sync", None)?),
        ["dump"] => dump(
            &get("/api/v1/appliances")?,
            &get("/api/v1/hosts")?,
            &get("/api/v1/rolls")?,
            &get("/api/v1/attributes")?,
        ),
        _ => Err(unknown(&split.plain)),
    }
}

fn unknown(words: &[&str]) -> Refusal {
    let verb = words.first().copied().unwrap_or_default();
    let fitting: Vec<&str> = HELP
        .split("  ")
        .map(str::trim)
        .filter(|c| c.split(' ').next().is_some_and(|v| v.split('|').any(|v| v == verb)))
        .collect();
    let refusal = Refusal::new(Exit::Usage, format!("`rocks {}` is not a command", words.join(" ")));
    refusal.hint(if fitting.is_empty() {
        "rocks --help lists the commands".to_owned()
    } else {
        fitting.join("\n      ")
    })
}

fn fits(row: &Value, name: &str) -> bool {
    let own = row["name"].as_str().unwrap_or_default();
    let appliance = row["appliance"].as_str() == Some(name);
    appliance || own == name || name.strip_suffix('*').is_some_and(|start| own.starts_with(start))
}

fn hosts(list: impl Fn(&str, &[(&str, &str)], &[&str]) -> Done, names: &[&str]) -> Done {
    let columns = [
        ("HOST", "name"),
        ("APPLIANCE", "appliance"),
        ("STATE", "state"),
        ("GENERATION", "generation"),
        ("REPORTED", "reported_generation"),
        ("LAST REPORT", "last_report"),
    ];
    list("/api/v1/hosts", &columns, names)
}

fn print(cli: &Cli, rows: &Value, columns: &[(&str, &str)]) -> String {
    let list = rows.as_array().map(Vec::as_slice).unwrap_or_default();
    match cli.output {
        Format::Json => json_text(&json!({"api_version": "rocks/v1", "items": rows})),
        Format::Name => list.iter().filter_map(|row| row["name"].as_str()).map(|name| format!("{name}\n")).collect(),
        Format::Table => table(list, columns, !cli.no_headers),
    }
}

fn print_join(cli: &Cli, document: &Value) -> String {
    match cli.output {
        Format::Json => json_text(document),
        _ => document["document"].as_str().unwrap_or_default().to_owned(),
    }
}

fn json_text(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

fn report(cli: &Cli, name: &str, report: &Value) -> Done {
    if report.is_null() {
        return Err(Refusal::new(Exit::NoSuchObject, format!("{name} has not reported yet")));
    }
    let good = matches!(report["outcome"].as_str(), Some("converged" | "unchanged"));
    let exit = if good { Exit::Ok } else { Exit::Unhealthy };
    if cli.output == Format::Json {
        return Ok((json_text(report), exit));
    }
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    let mut out = format!(
        "host {name}: {} at {} in {} ms, generation {}\n",
        text(&report["outcome"]),
        text(&report["started"]),
        report["duration_ms"],
        report["generation"]
    );
    for step in report["steps"].as_array().into_iter().flatten() {
        out.push_str(&format!(
            "  {:12} {:>8} ms  {}\n",
            text(&step["state"]),
            step["duration_ms"].to_string(),
            text(&step["title"])
        ));
        out.push_str(&format!("  {:12} {:>11}  because {}\n", "", "", text(&step["reason"])));
        if step["state"].as_str() != Some("done") {
            let tail = text(&step["output_tail"]);
            let lines: Vec<&str> = tail.lines().collect();
            for line in &lines[lines.len().saturating_sub(10)..] {
                out.push_str(&format!("      | {line}\n"));
            }
        }
    }
    for finding in report["findings"].as_array().into_iter().flatten() {
        out.push_str(&format!(
            "  {}: {}: {} [{}]\n",
            text(&finding["severity"]),
            text(&finding["subject"]),
            text(&finding["message"]),
            text(&finding["code"])
        ));
    }
    if let Some(diff) = report["diff"].as_str() {
        out.push_str(diff);
    }
    Ok((out, exit))
}

fn sync(cli: &Cli, report: &Value) -> Done {
    let failed = report["failed"].as_object().is_some_and(|failed| !failed.is_empty());
    let problems = report["problems"].as_str();
    let exit = if failed || problems.is_some() { Exit::Failed } else { Exit::Ok };
    if cli.output == Format::Json {
        return Ok((json_text(report), exit));
    }
    let mut out = problems.map(|problems| format!("{problems}\nthe last good rolls stay in use\n")).unwrap_or_default();
    for (host, problem) in report["failed"].as_object().into_iter().flatten() {
        out.push_str(&format!("{host}: {}\n", problem.as_str().unwrap_or_default()));
    }
    let changed = report["changed"].as_array().map_or(0, Vec::len);
    out.push_str(&format!(
        "generation {}, {changed} kickstarts changed, {} ms\n",
        report["generation"], report["duration_ms"]
    ));
    Ok((out, exit))
}

fn distro(cli: &Cli, summary: &Value) -> String {
    if cli.output == Format::Json {
        return json_text(summary);
    }
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
}

/// Commands that make an empty frontend like this one; tokens and certificates are left out.
fn dump(appliances: &Value, hosts: &Value, rolls: &Value, attributes: &Value) -> Done {
    let mut out = String::from("#!/bin/sh\nset -e\n");
    let q = |value: &Value| {
        let text = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
        format!("'{}'", text.replace('\'', "'\\''"))
    };
    let rows = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for a in rows(appliances) {
        out.push_str(&format!(
            "rocks add appliance {} node={} membership={}\n",
            q(&a["name"]),
            q(&a["node"]),
            q(&a["membership"])
        ));
    }
    for r in rows(rolls) {
        out.push_str(&format!("rocks add roll {} name={}\n", q(&r["path"]), q(&r["name"])));
        if r["enabled"] == false {
            out.push_str(&format!("rocks disable roll {}\n", q(&r["name"])));
        }
        if r["trusted"] == true {
            out.push_str(&format!("rocks trust roll {}\n", q(&r["name"])));
        }
    }
    for h in rows(hosts) {
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
    for a in rows(attributes) {
        let line = match a["scope"].as_str() {
            Some("global") => format!("rocks set attr -- {} {}\n", q(&a["name"]), q(&a["value"])),
            Some(scope) => {
                format!("rocks set {scope} attr -- {} {} {}\n", q(&a["owner"]), q(&a["name"]), q(&a["value"]))
            }
            None => String::new(),
        };
        out.push_str(&line);
    }
    Ok((out, Exit::Ok))
}

/// A name as a part of a path.
fn encode(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    name.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
