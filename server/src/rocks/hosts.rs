//! Hosts.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};

use super::client::Refusal;
use super::context::{Context, Done, encode};
use crate::output::Exit;
use crate::provision::userdata::user_data;

/// The states of hosts, each with what it means; `admin::hosts` has the rules.
pub(super) const STATES: [(&str, &str); 8] = [
    ("pending", "no agent has enrolled"),
    ("enrolled", "its agent has reported nothing yet"),
    ("converging", "has not reported on its newest kickstart"),
    ("converged", "is what it should be"),
    ("held", "is what it was, and waits for its wave of a rollout"),
    ("incomplete", "a step failed; the agent tries again"),
    ("refused", "the agent did not accept the kickstart"),
    ("stale", "not heard of for `stale_minutes` of the configuration"),
];

/// How often `wait host` looks.
const LOOK: Duration = Duration::from_millis(300);

pub(super) fn add(c: &Context<'_>) -> Done {
    let Some(appliance) = c.key("appliance").or_else(|| c.key("membership")) else {
        let refusal = Refusal::new(Exit::Usage, "which appliance is it?");
        return Err(refusal.hint("rocks add host NAME appliance=lite"));
    };
    let body = json!({"name": c.names[0], "appliance": appliance, "arch": c.key("arch"), "os": c.key("os"),
                      "rack": c.number("rack", 0)?, "rank": c.number("rank", 0)?});
    let form = form(c)?;
    let document = c.send(Method::POST, "/api/v1/hosts", &body)?;
    Ok((join_text(c, document, form), Exit::Ok))
}

pub(super) fn join(c: &Context<'_>) -> Done {
    let form = form(c)?;
    let path = format!("/api/v1/hosts/{}/join", encode(&c.names[0]));
    let document = c.send(Method::POST, &path, &Value::Null)?;
    Ok((join_text(c, document, form), Exit::Ok))
}

/// How a join document is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// As it is.
    Join,
    /// In a script that is an instance's user data.
    UserData,
}

/// How it is asked for. It is looked at first, so that a wrong word costs no token.
fn form(c: &Context<'_>) -> Result<Form, Refusal> {
    match c.key("as") {
        None | Some("join") => Ok(Form::Join),
        Some("user-data") => Ok(Form::UserData),
        Some(other) => Err(Refusal::new(Exit::Usage, format!("as={other}: it is printed as join or as user-data"))),
    }
}

fn join_text(c: &Context<'_>, mut document: Value, form: Form) -> String {
    if form == Form::UserData {
        let text = user_data(document["document"].as_str().unwrap_or_default(), None);
        document["user_data"] = json!(text);
    }
    let key = if form == Form::UserData { "user_data" } else { "document" };
    c.one(&document, || document[key].as_str().unwrap_or_default().to_owned())
}

pub(super) fn list(c: &Context<'_>) -> Done {
    let rows = c.rows("/api/v1/hosts", &c.names)?;
    c.print(
        &rows,
        &[
            ("HOST", "name"),
            ("APPLIANCE", "appliance"),
            ("STATE", "state"),
            ("GENERATION", "generation"),
            ("REPORTED", "reported_generation"),
            ("LAST REPORT", "last_report"),
        ],
        &[
            ("LAST SEEN", "last_seen"),
            ("ARCH", "arch"),
            ("OS", "os"),
            ("RACK", "rack"),
            ("RANK", "rank"),
            ("AGENT", "agent"),
            ("INSTANCE", "instance"),
            ("ENROLMENT", "enrolment"),
            ("ROLLOUT", "rollout"),
        ],
    )
}

pub(super) fn remove(c: &Context<'_>) -> Done {
    let rows = c.rows("/api/v1/hosts", &c.names)?;
    let names: Vec<&str> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
    c.confirm(&format!("remove {} and revoke what they have", names.join(", ")))?;
    c.act(Method::DELETE, "/api/v1/hosts", &json!({"names": names}))
}

pub(super) fn set_appliance(c: &Context<'_>) -> Done {
    c.act(Method::PUT, &format!("/api/v1/hosts/{}/appliance", encode(&c.names[0])), &json!(c.names[1]))
}

pub(super) fn wait(c: &Context<'_>) -> Done {
    let wanted = c.key("state").unwrap_or("converged");
    if !STATES.iter().any(|(state, _)| *state == wanted) {
        let states = STATES.map(|(state, _)| state).join(", ");
        return Err(Refusal::new(Exit::Usage, format!("state={wanted}: there is no such state")).hint(states));
    }
    let seconds = u64::try_from(c.number("timeout", 600)?).unwrap_or(0);
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        let rows = c.rows("/api/v1/hosts?settled=true", &c.names)?;
        let late: Vec<String> = rows
            .iter()
            .filter(|row| row["state"].as_str() != Some(wanted))
            .map(|row| {
                format!("{} is {}", row["name"].as_str().unwrap_or_default(), row["state"].as_str().unwrap_or_default())
            })
            .collect();
        if late.is_empty() {
            return c.print(&rows, &[("HOST", "name"), ("STATE", "state")], &[]);
        }
        if Instant::now() >= end {
            let most = late.len().min(10);
            let message =
                format!("{} of {} hosts are not {wanted}: {}", late.len(), rows.len(), late[..most].join(", "));
            let any = |state: &str| wanted != state && rows.iter().any(|row| row["state"] == state);
            let hint = if any("held") {
                "`rocks list rollout` says what the held ones wait for"
            } else if any("pending") {
                "no agent has enrolled for the pending ones: look at rocks-agent on them"
            } else {
                "`rocks report host NAME` says why"
            };
            return Err(Refusal::new(Exit::Unhealthy, message).hint(hint));
        }
        std::thread::sleep(LOOK);
    }
}
