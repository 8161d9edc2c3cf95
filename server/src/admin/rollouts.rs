//! Rollouts, and the strategies that they follow.

use std::str::FromStr;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use rocks_common::ids::{ApplianceName, HostName, RolloutName};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Admin;
use super::hosts::Listed;
use super::problem::{Answer, Asked, Failure, Input, Named, answer, done};
use crate::kickstart::ActError;
use crate::rollout::machine::{Counts, Event, Header, Rollout, Status};
use crate::rollout::strategy::{Strategy, StrategyError};

impl From<ActError> for Failure {
    fn from(error: ActError) -> Self {
        match error {
            ActError::Store(error) => error.into(),
            ActError::NotNow(error) => Self::new(StatusCode::CONFLICT, "not-now", error.to_string())
                .hint("`rocks list rollout` says where each is; a change of the configuration begins the next one"),
        }
    }
}

/// A strategy as it is said: what is not said is as usual.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewStrategy {
    /// None: all that have none of their own.
    appliance: Option<ApplianceName>,
    waves: Option<String>,
    soak: Option<String>,
    failures: Option<String>,
    timeout: Option<String>,
}

fn parsed<T: FromStr<Err = StrategyError>>(key: &str, text: Option<&str>, usual: T) -> Result<T, Failure> {
    text.map_or(Ok(usual), |text| {
        text.parse().map_err(|error: StrategyError| {
            let hint = error.hint();
            Failure::bad("bad-strategy", format!("{key}={text}: {error}")).hint(hint)
        })
    })
}

pub(super) async fn set(State(admin): State<Admin>, Input(new): Input<NewStrategy>) -> Answer {
    let usual = Strategy::default();
    let strategy = Strategy {
        waves: parsed("waves", new.waves.as_deref(), usual.waves)?,
        soak: parsed("soak", new.soak.as_deref(), usual.soak)?,
        failures: parsed("failures", new.failures.as_deref(), usual.failures)?,
        timeout: parsed("timeout", new.timeout.as_deref(), usual.timeout)?,
    };
    admin.store.set_strategy(new.appliance.as_ref(), &strategy).await?;
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OldStrategy {
    appliance: Option<ApplianceName>,
}

pub(super) async fn remove(State(admin): State<Admin>, Input(old): Input<OldStrategy>) -> Answer {
    admin.store.remove_strategy(old.appliance.as_ref()).await?;
    done()
}

/// The strategy of each appliance, and where it is from; the default first, if there is one.
pub(super) async fn strategies(State(admin): State<Admin>) -> Answer {
    let strategies = admin.store.strategies().await?;
    let row = |name: &str, strategy: Option<&Strategy>, source: &str| {
        let mut row = strategy.map_or_else(|| json!({}), |strategy| json!(strategy));
        (row["name"], row["source"]) = (json!(name), json!(source));
        row
    };
    let mut rows: Vec<Value> = strategies.default.iter().map(|one| row("", Some(one), "default")).collect();
    for appliance in admin.store.appliances().await? {
        let source = match strategies.of(&appliance.name) {
            None => "immediate",
            Some(_) if strategies.own.contains_key(&appliance.name) => "own",
            Some(_) => "default",
        };
        rows.push(row(appliance.name.as_str(), strategies.of(&appliance.name), source));
    }
    Ok(Json(Value::Array(rows)))
}

/// How far a wave is.
#[derive(Serialize)]
struct WaveView {
    wave: usize,
    hosts: usize,
    /// Whether it has begun.
    begun: bool,
    #[serde(flatten)]
    counts: Counts,
}

/// A host of a rollout.
#[derive(Serialize)]
struct HostView<'r> {
    wave: usize,
    #[serde(flatten)]
    member: &'r crate::rollout::machine::Member,
}

/// A rollout as it is listed: without its hosts.
fn row(header: &Header) -> Value {
    let mut row = serde_json::to_value(header).unwrap_or_default();
    let Counts { held, gone, returned, .. } = header.counts;
    let all = header.sizes.last().copied().unwrap_or(0);
    let has = all.saturating_sub((held + gone + returned) as usize);
    row["hosts"] = json!(all);
    row["waves"] = json!(format!("{}/{}", header.wave, header.sizes.len()));
    row["given"] = json!(format!("{has}/{all}"));
    row["well"] = json!(format!("{}/{all}", header.counts.converged));
    row["bad"] = json!(header.counts.failed + header.counts.silent);
    row["reason"] = match &header.status {
        Status::Stopped { why, failed } => {
            let names: Vec<&str> = failed.iter().map(HostName::as_str).collect();
            json!(format!("{why}: {}", names.join(", ")))
        }
        Status::Superseded { by: Some(by) } => json!(format!("{by} took its place")),
        Status::Superseded { by: None } => {
            json!("the hosts were given something else at once, or nothing new was left")
        }
        _ => Value::Null,
    };
    row
}

fn view(rollout: &Rollout) -> Value {
    let (header, members) = (rollout.header(), rollout.members());
    let mut view = row(header);
    let mut from = 0;
    let (mut waves, mut hosts) = (Vec::new(), Vec::new());
    for (at, to) in header.sizes.iter().enumerate() {
        let of = &members[from.min(members.len())..(*to).min(members.len())];
        let (wave, begun) = (at + 1, at < header.wave);
        waves.push(WaveView { wave, hosts: of.len(), begun, counts: Counts::count(of) });
        hosts.extend(of.iter().map(|member| HostView { wave, member }));
        from = *to;
    }
    view["progress"] = json!(waves);
    view["members"] = json!(hosts);
    view
}

pub(super) async fn list(State(admin): State<Admin>, Asked(listed): Asked<Listed>) -> Answer {
    listed.wait(&admin).await;
    answer(&admin.store.rollouts().await?.iter().map(row).collect::<Vec<_>>())
}

pub(super) async fn show(
    State(admin): State<Admin>,
    Named(name): Named<RolloutName>,
    Asked(listed): Asked<Listed>,
) -> Answer {
    listed.wait(&admin).await;
    Ok(Json(view(&admin.store.rollout(&name).await?)))
}

pub(super) async fn pause(State(admin): State<Admin>, Named(name): Named<RolloutName>) -> Answer {
    admin.service.act(&name, Event::Pause).await?;
    done()
}

pub(super) async fn resume(State(admin): State<Admin>, Named(name): Named<RolloutName>) -> Answer {
    admin.service.act(&name, Event::Resume).await?;
    done()
}

pub(super) async fn back(State(admin): State<Admin>, Named(name): Named<RolloutName>) -> Answer {
    admin.service.back(&name).await?;
    done()
}

/// What the doctor says of rollouts.
pub(super) fn findings(admin: &Admin, find: &mut dyn FnMut(&str, &str, String, &str)) {
    for rollout in admin.service.rollouts().latest().values() {
        let Header { name, appliance, status, .. } = rollout.header();
        match status {
            Status::Stopped { why, failed } => {
                let names: Vec<&str> = failed.iter().map(HostName::as_str).collect();
                let message = format!("rollout {name} has stopped: {why}: {}", names.join(", "));
                let hint = "`rocks report host NAME` says why; then mend the configuration, or say `rocks resume rollout` or `rocks back rollout`";
                find("rollout-stopped", "error", message, hint);
            }
            Status::Backed => {
                let message =
                    format!("hosts of appliance {appliance} are not what is configured: rollout {name} went back");
                find("rollout-backed", "warning", message, "change the configuration: that begins the next rollout");
            }
            Status::Paused => {
                let message = format!("rollout {name} is paused");
                find("rollout-paused", "warning", message, "`rocks resume rollout` lets it go on");
            }
            Status::Running | Status::Done | Status::Superseded { .. } => {}
        }
    }
}
