//! Appliances and hosts, their profiles and reports.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use rocks_common::ids::{ApplianceName, HostName, RolloutName};
use rocks_common::wire::Outcome;
use rocks_common::{draw, explain as why};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Admin;
use super::problem::{Answer, Asked, Failure, Input, Named, answer, done};
use crate::kickstart::Served;
use crate::listen::make_token;
use crate::store::{Appliance, Enrolled, Host, StoreError};

pub(super) async fn appliances(State(admin): State<Admin>) -> Answer {
    answer(&admin.store.appliances().await?)
}

pub(super) async fn add_appliance(State(admin): State<Admin>, Input(appliance): Input<Appliance>) -> Answer {
    admin.store.add_appliance(&appliance).await?;
    done()
}

pub(super) async fn remove_appliance(State(admin): State<Admin>, Named(name): Named<ApplianceName>) -> Answer {
    admin.store.remove_appliance(&name).await?;
    done()
}

/// A host as `list host` shows it.
#[derive(Debug, Serialize)]
pub(super) struct HostView {
    #[serde(flatten)]
    host: Host,
    /// See [`state_of`].
    pub(super) state: &'static str,
    /// The generation of the kickstart that it is to have.
    generation: Option<u64>,
    /// The generation that it reported last.
    reported_generation: Option<u64>,
    /// When it reported last.
    last_report: Option<Timestamp>,
    /// When it asked for its kickstart last.
    last_seen: Option<Timestamp>,
    /// What its agent runs on.
    agent: Option<String>,
    /// The instance that it is, if that enrolled by what EC2 says of it.
    #[serde(flatten)]
    instance: Option<Enrolled>,
    /// The rollout that it waits for.
    rollout: Option<RolloutName>,
}

impl HostView {
    pub(super) const fn name(&self) -> &HostName {
        &self.host.name
    }
}

/// Where a host is on its way:
/// pending (no agent has enrolled), enrolled (nothing reported), converging (it has not reported on its newest kickstart),
/// converged, held (it is what it was, and waits for its wave of a rollout), incomplete (some steps failed), refused (it would not have the
/// kickstart); stale when it has not been heard of.
fn state_of(host: &Host, served: Option<&Served>, is_stale: bool, is_held: bool) -> &'static str {
    let Some(last) = host.last else {
        return match host.enrolled {
            None => "pending",
            Some(_) if is_stale => "stale",
            Some(_) => "enrolled",
        };
    };
    if is_stale {
        return "stale";
    }
    match last.outcome {
        Outcome::Incomplete => "incomplete",
        Outcome::Refused => "refused",
        Outcome::Converged | Outcome::Unchanged if served.is_some_and(|s| Some(s.body.digest) != last.kickstart) => {
            "converging"
        }
        Outcome::Converged | Outcome::Unchanged if is_held => "held",
        Outcome::Converged | Outcome::Unchanged => "converged",
    }
}

fn view(admin: &Admin, host: Host, instance: Option<Enrolled>, now: Timestamp) -> HostView {
    let (slot, stale_minutes) = (admin.service.slot(&host.name), admin.config.stale_minutes);
    let rollout = admin.service.rollouts().waits(&host.appliance, &host.name);
    let served = slot.served();
    let now = now.as_second();
    let last_seen = slot.seen(now).or(host.last.map(|last| last.received)).or(host.enrolled);
    let is_stale = last_seen.is_some_and(|seen| now - seen > i64::from(stale_minutes) * 60);
    let time = |seconds: Option<i64>| seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
    HostView {
        state: state_of(&host, served.as_ref(), is_stale, rollout.is_some()),
        generation: served.map(|served| served.generation.0),
        reported_generation: host.last.and_then(|last| last.generation),
        last_report: time(host.last.map(|last| last.received)),
        last_seen: time(last_seen),
        agent: host.facts.as_ref().map(|facts| facts.agent.clone()),
        instance,
        rollout,
        host,
    }
}

pub(super) async fn views(admin: &Admin) -> Result<Vec<HostView>, StoreError> {
    let now = Timestamp::now();
    let (hosts, mut enrolled) = (admin.store.hosts().await?, admin.store.enrolled().await?);
    let of = |host: Host| {
        let instance = enrolled.remove(&host.name);
        view(admin, host, instance, now)
    };
    Ok(hosts.into_iter().map(of).collect())
}

/// How long a list of hosts may wait for kickstarts that are being made.
const CATCH_UP: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listed {
    /// Only after what was changed before is in the kickstarts: a host that has converged to what it was given earlier has not converged then,
    /// and a rollout begins with the kickstarts that it brings.
    #[serde(default)]
    settled: bool,
}

impl Listed {
    pub(super) async fn wait(self, admin: &Admin) {
        if self.settled {
            admin.service.catch_up(CATCH_UP).await;
        }
    }
}

pub(super) async fn hosts(State(admin): State<Admin>, Asked(listed): Asked<Listed>) -> Answer {
    listed.wait(&admin).await;
    answer(&views(&admin).await?)
}

#[derive(Deserialize)]
pub(super) struct NewHost {
    name: HostName,
    /// The appliance's name, or its membership.
    appliance: String,
    #[serde(default)]
    arch: Option<String>,
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    rack: i64,
    #[serde(default)]
    rank: i64,
}

async fn find_appliance(admin: &Admin, text: &str) -> Result<ApplianceName, Failure> {
    let all = admin.store.appliances().await?;
    let found = all.iter().find(|a| a.name.as_str() == text).or_else(|| all.iter().find(|a| a.membership == text));
    found.map(|a| a.name.clone()).ok_or_else(|| StoreError::Missing { kind: "appliance", name: text.to_owned() }.into())
}

pub(super) async fn add_host(State(admin): State<Admin>, Input(new): Input<NewHost>) -> Answer {
    let appliance = find_appliance(&admin, &new.appliance).await?;
    let plain = Host::new(new.name.clone(), appliance, new.arch.as_deref().unwrap_or("x86_64"));
    let host = Host { os: new.os.unwrap_or(plain.os), rack: new.rack, rank: new.rank, ..plain };
    admin.store.add_host(&host).await?;
    join_document(&admin, &new.name).await
}

pub(super) async fn remove_host(State(admin): State<Admin>, Named(name): Named<HostName>) -> Answer {
    admin.store.remove_hosts(&[name]).await?;
    done()
}

#[derive(Deserialize)]
pub(super) struct Names {
    names: Vec<HostName>,
}

pub(super) async fn remove_hosts(State(admin): State<Admin>, Input(old): Input<Names>) -> Answer {
    admin.store.remove_hosts(&old.names).await?;
    done()
}

pub(super) async fn set_appliance(
    State(admin): State<Admin>,
    Named(name): Named<HostName>,
    Input(appliance): Input<String>,
) -> Answer {
    let appliance = find_appliance(&admin, &appliance).await?;
    admin.store.set_host_appliance(&name, &appliance).await?;
    done()
}

pub(super) async fn join(State(admin): State<Admin>, Named(name): Named<HostName>) -> Answer {
    admin.store.host(&name).await?;
    join_document(&admin, &name).await
}

async fn join_document(admin: &Admin, host: &HostName) -> Answer {
    let token = make_token(&admin.store, host, admin.config.token_hours, Timestamp::now()).await?;
    let ca = std::fs::read_to_string(admin.config.state.join("ca/ca.pem")).map_err(|e| Failure::internal(&e))?;
    let frontend = &admin.service.frontend_url;
    let document = format!(
        "# Rocks join document of {host}: one use, {} hours.\nfrontend = {frontend:?}\ntoken = {:?}\nca = \"\"\"\n{ca}\"\"\"\n",
        admin.config.token_hours, token.0
    );
    Ok(Json(json!({"host": host, "frontend": frontend, "token": token, "ca": ca, "document": document})))
}

/// The kickstart that the host is to have; and what it is served, which is another one while a rollout holds it.
pub(super) async fn profile(State(admin): State<Admin>, Named(name): Named<HostName>) -> Answer {
    let host = admin.store.host(&name).await?;
    let slot = admin.service.slot(&name);
    let (served, target) = (slot.served(), slot.target());
    let problem = admin.service.last_sync().failed.remove(name.as_str());
    match target.or_else(|| served.as_ref().map(|served| served.body.clone())) {
        Some(body) => Ok(Json(json!({
            "kickstart": String::from_utf8_lossy(&body.plain()),
            "digest": body.digest,
            "served": served.as_ref().map(|served| served.body.digest),
            "generation": served.as_ref().map(|served| served.generation),
            "rollout": admin.service.rollouts().waits(&host.appliance, &name),
            "problem": problem,
        }))),
        None => {
            let why = problem
                .or_else(|| admin.service.last_sync().problems)
                .unwrap_or_else(|| "no rolls are enabled".to_owned());
            Err(Failure::new(StatusCode::CONFLICT, "no-kickstart", why))
        }
    }
}

/// The profile before it becomes a kickstart: what each node file contributes.
pub(super) async fn xml(State(admin): State<Admin>, Named(name): Named<HostName>) -> Result<Response, Failure> {
    let made = admin.service.profile(&name).await?;
    let text = rocks_common::profile::xml(&made.profile);
    Ok(([("content-type", "application/xml; charset=utf-8")], text).into_response())
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Picture {
    #[default]
    Dot,
    Svg,
}

#[derive(Deserialize)]
pub(super) struct GraphAsked {
    #[serde(default)]
    format: Picture,
}

pub(super) async fn graph(
    State(admin): State<Admin>,
    Named(name): Named<HostName>,
    Asked(asked): Asked<GraphAsked>,
) -> Result<Response, Failure> {
    let made = admin.service.profile(&name).await?;
    let (kind, text) = match asked.format {
        Picture::Dot => ("text/vnd.graphviz; charset=utf-8", draw::dot(&made.rolls, &made.profile)),
        Picture::Svg => ("image/svg+xml", draw::svg(&made.rolls, &made.profile)),
    };
    Ok(([("content-type", kind)], text).into_response())
}

/// What is to be explained.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Subject {
    Package,
    Node,
    Section,
    Attr,
}

#[derive(Deserialize)]
pub(super) struct Explained {
    what: Subject,
    name: String,
}

pub(super) async fn explain(
    State(admin): State<Admin>,
    Named(host): Named<HostName>,
    Asked(asked): Asked<Explained>,
) -> Answer {
    let made = admin.service.profile(&host).await?;
    let (rolls, profile, attributes) = (&*made.rolls, &made.profile, &made.attributes);
    let found = |list: Vec<why::Found>| -> Option<(Value, String)> {
        let text: String = list.iter().map(why::Found::render).collect();
        (!list.is_empty()).then(|| (serde_json::to_value(&list).unwrap_or_default(), text))
    };
    let result = match asked.what {
        Subject::Package => found(why::package(rolls, profile, attributes, &asked.name)),
        Subject::Section => found(why::section(rolls, profile, attributes, &asked.name)),
        Subject::Node => why::node(rolls, profile, attributes, &asked.name)
            .map(|reason| (serde_json::to_value(&reason).unwrap_or_default(), reason.render())),
        Subject::Attr => {
            let value = why::attribute(profile, attributes, &asked.name);
            Some((serde_json::to_value(&value).unwrap_or_default(), value.render_all()))
        }
    };
    match result {
        Some((json, text)) => Ok(Json(json!({"host": host, "reasons": json, "text": text}))),
        None => Err(StoreError::Missing { kind: "such thing in the host's profile", name: asked.name }.into()),
    }
}

pub(super) async fn report(State(admin): State<Admin>, Named(name): Named<HostName>) -> Answer {
    admin.store.host(&name).await?;
    answer(&admin.store.last_report(&name).await?.map(|(report, _)| report))
}

#[derive(Deserialize)]
pub(super) struct Most {
    #[serde(default = "twenty")]
    limit: u32,
}

const fn twenty() -> u32 {
    20
}

pub(super) async fn reports(
    State(admin): State<Admin>,
    Named(name): Named<HostName>,
    Asked(most): Asked<Most>,
) -> Answer {
    admin.store.host(&name).await?;
    let reports = admin.store.reports(&name, most.limit).await?;
    answer(&reports.into_iter().map(|(report, _)| report).collect::<Vec<_>>())
}
