//! Rolls, and the configuration graph that they make together.

use std::path::Path;

use axum::Json;
use axum::extract::State;
use rocks_common::ids::RollName;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Admin;
use super::problem::{Answer, Failure, Input, Named, answer, done};
use crate::kickstart::RenderError;
use crate::store::Roll;

pub(super) async fn list(State(admin): State<Admin>) -> Answer {
    answer(&admin.store.rolls().await?)
}

pub(super) async fn add(State(admin): State<Admin>, Input(roll): Input<Roll>) -> Answer {
    let path = Path::new(&roll.path);
    if !path.is_absolute() || !path.join("graphs").is_dir() {
        let title = format!("{} is not the absolute path of a roll: it has no graphs folder", roll.path);
        return Err(Failure::bad("not-a-roll", title));
    }
    admin.store.add_roll(&roll).await?;
    done()
}

#[derive(Deserialize)]
pub(super) struct RollChange {
    enabled: Option<bool>,
    trusted: Option<bool>,
}

pub(super) async fn change(
    State(admin): State<Admin>,
    Named(name): Named<RollName>,
    Input(change): Input<RollChange>,
) -> Answer {
    if let Some(enabled) = change.enabled {
        admin.store.enable_roll(&name, enabled).await?;
    }
    if let Some(trusted) = change.trusted {
        admin.store.trust_roll(&name, trusted).await?;
    }
    done()
}

pub(super) async fn remove(State(admin): State<Admin>, Named(name): Named<RollName>) -> Answer {
    admin.store.remove_roll(&name).await?;
    done()
}

/// Every node of the graph in use, with the roll that its file is in.
pub(super) async fn nodes(State(admin): State<Admin>) -> Answer {
    let rolls = admin.service.rolls().ok_or(RenderError::NoRolls)?;
    let graph = &rolls.graph;
    let mut included = std::collections::HashMap::new();
    for edge in graph.edges() {
        *included.entry(edge.to).or_insert(0_usize) += 1;
    }
    let mut list: Vec<Value> = graph
        .nodes()
        .map(|node| {
            let name = graph.name(node);
            let files: Vec<String> = rolls
                .node(name)
                .map(|files| files.iter().map(rocks_common::node::NodeFile::origin).collect())
                .unwrap_or_default();
            json!({"name": name, "files": files, "includes": graph.leaving(node).count(),
                   "included_by": included.get(&node).copied().unwrap_or(0)})
        })
        .collect();
    list.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    Ok(Json(Value::Array(list)))
}

/// Every edge of the graph in use.
pub(super) async fn edges(State(admin): State<Admin>) -> Answer {
    let rolls = admin.service.rolls().ok_or(RenderError::NoRolls)?;
    let graph = &rolls.graph;
    let list: Vec<Value> = graph
        .edges()
        .iter()
        .map(|edge| {
            let cond = edge.whole.as_ref().ok().and_then(|cond| cond.as_ref()).map(ToString::to_string);
            json!({"name": format!("{} {}", graph.name(edge.from), graph.name(edge.to)), "from": graph.name(edge.from),
                   "to": graph.name(edge.to), "cond": cond, "roll": edge.roll, "place": edge.place.to_string()})
        })
        .collect();
    Ok(Json(Value::Array(list)))
}

pub(super) async fn sync(State(admin): State<Admin>) -> Answer {
    answer(&admin.service.sync_afresh().await?)
}
