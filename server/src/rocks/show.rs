//! Kickstarts, and what they are made of.

use super::client::Refusal;
use super::context::{Context, Done, encode};
use crate::output::Exit;

fn path(c: &Context<'_>, what: &str) -> String {
    format!("/api/v1/hosts/{}/{what}", encode(&c.names[0]))
}

pub(super) fn profile(c: &Context<'_>) -> Done {
    let profile = c.get(&path(c, "profile"))?;
    if let Some(problem) = profile["problem"].as_str() {
        c.message(&format!("warning: this is the last good one; a new one could not be made: {problem}\n"));
    }
    if profile["served"].as_str().is_some_and(|served| profile["digest"] != served) {
        let why = profile["rollout"].as_str().map_or_else(
            || "a rollout went back".to_owned(),
            |rollout| format!("it waits for its wave of rollout {rollout}"),
        );
        c.message(&format!("note: this is what it is to have; it is served an older one: {why}\n"));
    }
    Ok((c.one(&profile, || profile["kickstart"].as_str().unwrap_or_default().to_owned()), Exit::Ok))
}

pub(super) fn xml(c: &Context<'_>) -> Done {
    Ok((c.text(&path(c, "xml"))?, Exit::Ok))
}

pub(super) fn graph(c: &Context<'_>) -> Done {
    let format = match c.key("format").unwrap_or("dot") {
        format @ ("dot" | "svg") => format,
        other => return Err(Refusal::new(Exit::Usage, format!("format={other}: there are dot and svg"))),
    };
    Ok((c.text(&path(c, &format!("graph?format={format}")))?, Exit::Ok))
}

pub(super) fn explain(c: &Context<'_>) -> Done {
    let what = match c.names[1].as_str() {
        what @ ("package" | "node" | "section" | "attr") => what,
        other => {
            let refusal = Refusal::new(Exit::Usage, format!("`{other}` cannot be explained"));
            return Err(refusal.hint("there are package, node, section and attr"));
        }
    };
    let reasons = c.get(&path(c, &format!("explain?what={what}&name={}", encode(&c.names[2]))))?;
    Ok((c.one(&reasons, || reasons["text"].as_str().unwrap_or_default().to_owned()), Exit::Ok))
}

pub(super) fn nodes(c: &Context<'_>) -> Done {
    let mut rows = c.rows("/api/v1/nodes", &c.names)?;
    for row in &mut rows {
        let files: Vec<&str> = row["files"].as_array().into_iter().flatten().filter_map(|f| f.as_str()).collect();
        row["file_list"] = files.join(" ").into();
    }
    c.print(
        &rows,
        &[("NODE", "name"), ("INCLUDES", "includes"), ("INCLUDED BY", "included_by"), ("FILES", "file_list")],
        &[],
    )
}

pub(super) fn edges(c: &Context<'_>) -> Done {
    let rows = c.rows("/api/v1/edges", &[])?;
    c.print(&rows, &[("FROM", "from"), ("TO", "to"), ("COND", "cond"), ("ROLL", "roll")], &[("PLACE", "place")])
}
