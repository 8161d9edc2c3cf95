//! What agents reported, how the frontend is, and making kickstarts anew.

use http::Method;
use serde_json::{Value, json};

use super::client::Refusal;
use super::context::{Context, Done, encode};
use crate::output::Exit;

/// Lines of a failed step's output that are shown.
const TAIL_LINES: usize = 10;

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

pub(super) fn host(c: &Context<'_>) -> Done {
    let name = &c.names[0];
    let report = c.get(&format!("/api/v1/hosts/{}/report", encode(name)))?;
    if report.is_null() {
        return Err(Refusal::new(Exit::NoSuchObject, format!("{name} has not reported yet")));
    }
    let good = matches!(report["outcome"].as_str(), Some("converged" | "unchanged"));
    let exit = if good { Exit::Ok } else { Exit::Unhealthy };
    Ok((c.one(&report, || readable(name, &report)), exit))
}

fn readable(name: &str, report: &Value) -> String {
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
            for line in &lines[lines.len().saturating_sub(TAIL_LINES)..] {
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
    out
}

pub(super) fn list(c: &Context<'_>) -> Done {
    let rows = c.rows(&format!("/api/v1/hosts/{}/reports", encode(&c.names[0])), &[])?;
    let rows: Vec<Value> = rows
        .into_iter()
        .map(|mut row| {
            row["name"] = row["id"].clone();
            row["step_count"] = json!(row["steps"].as_array().map_or(0, Vec::len));
            row["finding_count"] = json!(row["findings"].as_array().map_or(0, Vec::len));
            row
        })
        .collect();
    let columns = [
        ("STARTED", "started"),
        ("OUTCOME", "outcome"),
        ("GENERATION", "generation"),
        ("MS", "duration_ms"),
        ("STEPS", "step_count"),
        ("FINDINGS", "finding_count"),
    ];
    c.print(&rows, &columns, &[("ID", "id")])
}

pub(super) fn sync(c: &Context<'_>) -> Done {
    let report = c.send(Method::POST, "/api/v1/sync", &Value::Null)?;
    let failed = report["failed"].as_object().is_some_and(|failed| !failed.is_empty());
    let problems = report["problems"].as_str();
    let exit = if failed || problems.is_some() { Exit::Failed } else { Exit::Ok };
    let text = || {
        let mut out =
            problems.map(|problems| format!("{problems}\nthe last good rolls stay in use\n")).unwrap_or_default();
        for (host, problem) in report["failed"].as_object().into_iter().flatten() {
            out.push_str(&format!("{host}: {}\n", problem.as_str().unwrap_or_default()));
        }
        let changed = report["changed"].as_array().map_or(0, Vec::len);
        let held = match report["held"].as_u64() {
            Some(0) | None => String::new(),
            Some(held) => format!(", {held} held by rollouts"),
        };
        out + &format!(
            "generation {}, {changed} kickstarts changed{held}, {} ms\n",
            report["generation"], report["duration_ms"]
        )
    };
    Ok((c.one(&report, text), exit))
}

pub(super) fn doctor(c: &Context<'_>) -> Done {
    let health = c.get("/api/v1/health")?;
    let findings = health["findings"].as_array().cloned().unwrap_or_default();
    let exit = if findings.is_empty() { Exit::Ok } else { Exit::Unhealthy };
    let readable = || {
        let mut out = String::new();
        for finding in &findings {
            out.push_str(&format!(
                "{}: {} [{}]\n  hint: {}\n",
                text(&finding["severity"]),
                text(&finding["message"]).trim_end(),
                text(&finding["code"]),
                text(&finding["hint"])
            ));
        }
        if findings.is_empty() { "all is well\n".to_owned() } else { out }
    };
    Ok((c.one(&health, readable), exit))
}
