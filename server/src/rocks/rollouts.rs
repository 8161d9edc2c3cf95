//! Rollouts, and the strategies that they follow.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Map, Value, json};

use super::client::Refusal;
use super::context::{Context, Done, encode};
use super::{Format, table};
use crate::output::Exit;

/// How often `wait rollout` looks.
const LOOK: Duration = Duration::from_millis(300);
const STRATEGIES: &str = "/api/v1/strategies";

fn set(c: &Context<'_>, appliance: Option<&str>) -> Done {
    let mut body = Map::from_iter([("appliance".to_owned(), json!(appliance))]);
    for key in ["waves", "soak", "failures", "timeout"] {
        if let Some(value) = c.key(key) {
            body.insert(key.to_owned(), json!(value));
        }
    }
    c.act(Method::PUT, STRATEGIES, &Value::Object(body))
}

pub(super) fn set_of_appliance(c: &Context<'_>) -> Done {
    set(c, Some(&c.names[0]))
}

pub(super) fn set_default(c: &Context<'_>) -> Done {
    set(c, None)
}

pub(super) fn remove_of_appliance(c: &Context<'_>) -> Done {
    c.act(Method::DELETE, STRATEGIES, &json!({"appliance": c.names[0]}))
}

pub(super) fn remove_default(c: &Context<'_>) -> Done {
    c.act(Method::DELETE, STRATEGIES, &json!({}))
}

/// Which strategy each appliance has; the default stands in those that have it.
pub(super) fn strategies(c: &Context<'_>) -> Done {
    let mut rows = c.rows(STRATEGIES, &c.names)?;
    rows.retain(|row| row["name"] != "");
    c.print(
        &rows,
        &[
            ("APPLIANCE", "name"),
            ("WAVES", "waves"),
            ("SOAK", "soak"),
            ("FAILURES", "failures"),
            ("TIMEOUT", "timeout"),
            ("SOURCE", "source"),
        ],
        &[],
    )
}

fn path(name: &str) -> String {
    format!("/api/v1/rollouts/{}", encode(name))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// All rollouts in short; or those that are named, each with its waves and hosts.
pub(super) fn list(c: &Context<'_>) -> Done {
    let mut rows = c.rows("/api/v1/rollouts", &c.names)?;
    let columns = [
        ("ROLLOUT", "name"),
        ("APPLIANCE", "appliance"),
        ("STATUS", "status"),
        ("WAVE", "waves"),
        ("GIVEN", "given"),
        ("CONVERGED", "well"),
        ("FAILED", "bad"),
        ("BEGAN", "began"),
        ("WHAT", "what"),
    ];
    let wide = [("ENDED", "ended"), ("REASON", "reason")];
    if c.names.is_empty() {
        return c.print(&rows, &columns, &wide);
    }
    for row in &mut rows {
        *row = c.get(&path(text(&row["name"])))?;
    }
    if !matches!(c.format(), Format::Table | Format::Wide) {
        return c.print(&rows, &columns, &wide);
    }
    Ok((rows.iter().map(|row| readable(c, row)).collect::<Vec<_>>().join("\n"), Exit::Ok))
}

fn readable(c: &Context<'_>, rollout: &Value) -> String {
    let strategy = &rollout["strategy"];
    let mut out = format!(
        "rollout {} of appliance {}: {}\nchanged: {}\nstrategy: waves={} soak={} failures={} timeout={}\n",
        text(&rollout["name"]),
        text(&rollout["appliance"]),
        text(&rollout["status"]),
        text(&rollout["what"]),
        text(&strategy["waves"]),
        text(&strategy["soak"]),
        text(&strategy["failures"]),
        text(&strategy["timeout"])
    );
    out.push_str(&format!("began: {}\n", text(&rollout["began"])));
    for (word, value) in [("ended", &rollout["ended"]), ("why", &rollout["reason"])] {
        if let Some(value) = value.as_str() {
            out.push_str(&format!("{word}: {value}\n"));
        }
    }
    let list = |name: &str| rollout[name].as_array().cloned().unwrap_or_default();
    let waves = [
        ("WAVE", "wave"),
        ("BEGUN", "begun"),
        ("HOSTS", "hosts"),
        ("HELD", "held"),
        ("RELEASED", "released"),
        ("CONVERGED", "converged"),
        ("FAILED", "failed"),
        ("SILENT", "silent"),
        ("AWAY", "away"),
    ];
    out.push('\n');
    out.push_str(&table::table(&list("progress"), &waves, c.heads()));
    let hosts = [("HOST", "host"), ("WAVE", "wave"), ("STATE", "state"), ("SINCE", "changed"), ("REASON", "reason")];
    out.push('\n');
    out.push_str(&table::table(&list("members"), &hosts, c.heads()));
    out
}

fn act(c: &Context<'_>, verb: &str) -> Done {
    c.act(Method::POST, &format!("{}/{verb}", path(&c.names[0])), &Value::Null)
}

pub(super) fn pause(c: &Context<'_>) -> Done {
    act(c, "pause")
}

pub(super) fn resume(c: &Context<'_>) -> Done {
    act(c, "resume")
}

pub(super) fn back(c: &Context<'_>) -> Done {
    act(c, "back")
}

pub(super) fn wait(c: &Context<'_>) -> Done {
    let seconds = u64::try_from(c.number("timeout", 3600)?).unwrap_or(0);
    let end = Instant::now() + Duration::from_secs(seconds);
    let name = &c.names[0];
    loop {
        // What was changed a moment ago may begin it, or take its place.
        let now = c.get(&format!("{}?settled=true", path(name)))?;
        let status = text(&now["status"]);
        let over = |why: &str| {
            let reason = now["reason"].as_str().map(|reason| format!(": {reason}")).unwrap_or_default();
            let refusal = Refusal::new(Exit::Unhealthy, format!("rollout {name} is {status}{reason}{why}"));
            Err(refusal.hint(format!("`rocks list rollout {name}` shows its hosts")))
        };
        match status {
            "done" => return Ok((c.one(&now, || format!("rollout {name} is done\n")), Exit::Ok)),
            "running" | "paused" if Instant::now() >= end => {
                return over(&format!(" after {seconds} s: {} hosts have converged", text(&now["well"])));
            }
            "running" | "paused" => std::thread::sleep(LOOK),
            _ => return over(""),
        }
    }
}
