//! Appliances and rolls.

use http::Method;
use serde_json::{Value, json};

use super::client::Refusal;
use super::context::{Context, Done, encode};
use crate::output::Exit;

pub(super) fn add_appliance(c: &Context<'_>) -> Done {
    let name = &c.names[0];
    let body =
        json!({"name": name, "node": c.key("node").unwrap_or(name), "membership": c.key("membership").unwrap_or(name)});
    c.act(Method::POST, "/api/v1/appliances", &body)
}

pub(super) fn list_appliances(c: &Context<'_>) -> Done {
    let rows = c.rows("/api/v1/appliances", &c.names)?;
    c.print(&rows, &[("APPLIANCE", "name"), ("NODE", "node"), ("MEMBERSHIP", "membership")], &[])
}

pub(super) fn remove_appliance(c: &Context<'_>) -> Done {
    c.confirm(&format!("remove appliance {}", c.names[0]))?;
    c.act(Method::DELETE, &format!("/api/v1/appliances/{}", encode(&c.names[0])), &Value::Null)
}

pub(super) fn add_roll(c: &Context<'_>) -> Done {
    let full = std::path::absolute(&c.names[0]).map_err(|error| Refusal::new(Exit::Usage, error.to_string()))?;
    let base = full.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let body = json!({"name": c.key("name").unwrap_or(&base), "path": full, "enabled": true, "trusted": false});
    c.act(Method::POST, "/api/v1/rolls", &body)
}

pub(super) fn list_rolls(c: &Context<'_>) -> Done {
    let rows = c.rows("/api/v1/rolls", &c.names)?;
    c.print(&rows, &[("ROLL", "name"), ("ENABLED", "enabled"), ("TRUSTED", "trusted"), ("PATH", "path")], &[])
}

fn change(c: &Context<'_>, body: &Value) -> Done {
    c.act(Method::PUT, &format!("/api/v1/rolls/{}", encode(&c.names[0])), body)
}

pub(super) fn enable_roll(c: &Context<'_>) -> Done {
    change(c, &json!({"enabled": true}))
}

pub(super) fn disable_roll(c: &Context<'_>) -> Done {
    change(c, &json!({"enabled": false}))
}

pub(super) fn trust_roll(c: &Context<'_>) -> Done {
    change(c, &json!({"trusted": true}))
}

pub(super) fn distrust_roll(c: &Context<'_>) -> Done {
    change(c, &json!({"trusted": false}))
}

pub(super) fn remove_roll(c: &Context<'_>) -> Done {
    c.confirm(&format!("remove roll {}", c.names[0]))?;
    c.act(Method::DELETE, &format!("/api/v1/rolls/{}", encode(&c.names[0])), &Value::Null)
}
