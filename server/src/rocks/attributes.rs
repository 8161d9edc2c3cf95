//! Attributes in their scopes.

use std::io::Read as _;

use http::Method;
use rocks_common::limits;
use serde_json::{Value, json};

use super::client::Refusal;
use super::context::{Context, Done, encode};
use super::spec::Flag;
use crate::output::Exit;

const PATH: &str = "/api/v1/attributes";

/// The letters of the column SOURCE. The later wins.
pub(super) const SOURCES: [(&str, &str); 6] = [
    ("R", "a roll's default"),
    ("I", "the frontend's own"),
    ("G", "all hosts"),
    ("O", "the operating system"),
    ("A", "the appliance"),
    ("H", "the host: the later of these wins; `-o wide` spells them out"),
];

fn owner(scope: &str, c: &Context<'_>) -> (Value, usize) {
    if scope == "global" { (json!({"scope": scope}), 0) } else { (json!({"scope": scope, "owner": c.names[0]}), 1) }
}

fn set(c: &Context<'_>, scope: &str) -> Done {
    let (mut body, at) = owner(scope, c);
    body["name"] = json!(c.names[at]);
    let value = match (c.names.get(at + 1), c.has(Flag::Stdin)) {
        (Some(value), false) => value.clone(),
        (None, true) => {
            let mut text = String::new();
            let read = std::io::stdin().take(limits::ATTR_VALUE_BYTES as u64 + 1).read_to_string(&mut text);
            read.map_err(|error| Refusal::new(Exit::Usage, format!("cannot read the value: {error}")))?;
            // The end of the line is the keyboard's, not the value's.
            text.strip_suffix('\n').map(ToOwned::to_owned).unwrap_or(text)
        }
        (Some(_), true) => {
            return Err(Refusal::new(Exit::Usage, "there is a value on the command line and on standard input"));
        }
        (None, false) => {
            let refusal = Refusal::new(Exit::Usage, "which value?");
            return Err(refusal.hint(format!("usage: rocks {} {}, or --stdin", c.spec.path.join(" "), c.spec.names.0)));
        }
    };
    body["value"] = json!(value);
    body["secret"] = json!(c.has(Flag::Secret));
    let done = c.send(Method::PUT, PATH, &body)?;
    if done["unused"] == true && !c.cli.quiet {
        let hint = "`rocks list roll` shows which rolls are enabled";
        c.message(&format!("note: no enabled roll uses the attribute `{}`\nhint: {hint}\n", c.names[at]));
    }
    Ok((String::new(), Exit::Ok))
}

fn remove(c: &Context<'_>, scope: &str) -> Done {
    let (mut body, at) = owner(scope, c);
    body["name"] = json!(c.names[at]);
    c.act(Method::DELETE, PATH, &body)
}

pub(super) fn set_global(c: &Context<'_>) -> Done {
    set(c, "global")
}

pub(super) fn set_of_os(c: &Context<'_>) -> Done {
    set(c, "os")
}

pub(super) fn set_of_appliance(c: &Context<'_>) -> Done {
    set(c, "appliance")
}

pub(super) fn set_of_host(c: &Context<'_>) -> Done {
    set(c, "host")
}

pub(super) fn remove_global(c: &Context<'_>) -> Done {
    remove(c, "global")
}

pub(super) fn remove_of_os(c: &Context<'_>) -> Done {
    remove(c, "os")
}

pub(super) fn remove_of_appliance(c: &Context<'_>) -> Done {
    remove(c, "appliance")
}

pub(super) fn remove_of_host(c: &Context<'_>) -> Done {
    remove(c, "host")
}

fn shown(c: &Context<'_>) -> &'static str {
    if c.has(Flag::ShowSecrets) { "?secrets=true" } else { "" }
}

pub(super) fn list(c: &Context<'_>) -> Done {
    let rows = c.rows(&format!("{PATH}{}", shown(c)), &[])?;
    c.print(
        &rows,
        &[("SCOPE", "scope"), ("OWNER", "owner"), ("ATTR", "name"), ("VALUE", "value")],
        &[("SECRET", "secret")],
    )
}

pub(super) fn of_host(c: &Context<'_>) -> Done {
    let hosts = c.rows("/api/v1/hosts", &c.names)?;
    let mut rows = Vec::new();
    for name in hosts.iter().filter_map(|host| host["name"].as_str()) {
        rows.extend(c.rows(&format!("/api/v1/hosts/{}/attributes{}", encode(name), shown(c)), &[])?);
    }
    let columns = [("HOST", "host"), ("ATTR", "name"), ("VALUE", "value"), ("SOURCE", "source")];
    c.print(&rows, if hosts.len() == 1 { &columns[1..] } else { &columns }, &[("SCOPE", "scope"), ("SECRET", "secret")])
}
