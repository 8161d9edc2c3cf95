//! The administrator's interface: JSON under `/api/v1` on a Unix socket that only root and our group can open.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use jiff::Timestamp;
use rocks_common::attr::Scope;
use rocks_common::ids::{ApplianceName, HostName, RollName};
use rocks_common::wire::{Outcome, Problem, Report};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::config::Config;
use crate::kickstart::Service;
use crate::listen::make_token;
use crate::metrics::Metrics;
use crate::mirror::{Mirror, Options};
use crate::store::{Appliance, Host, Owner, Roll, Setting, Store, StoreError};

/// What the routes need.
#[derive(Clone)]
pub struct Admin {
    /// The store.
    pub store: Store,
    /// The kickstarts.
    pub service: Arc<Service>,
    /// The configuration.
    pub config: Arc<Config>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// The RPM mirror.
    pub mirror: Mirror,
    /// Asks for the rolls to be read again.
    pub reload: mpsc::Sender<()>,
}

/// An error, as RFC 9457 wants it.
struct Failure(Problem);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, [("content-type", "application/problem+json")], Json(self.0)).into_response()
    }
}

impl Failure {
    fn new(status: StatusCode, code: &str, title: String) -> Self {
        Self(Problem { code: code.to_owned(), title, status: status.as_u16(), detail: None, hint: None })
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let (status, code) = match &error {
            StoreError::Missing { .. } => (StatusCode::NOT_FOUND, "not-found"),
            StoreError::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        };
        Self::new(status, code, error.to_string())
    }
}

type Answer = Result<Json<Value>, Failure>;

fn answer<T: Serialize>(value: &T) -> Answer {
    serde_json::to_value(value)
        .map(Json)
        .map_err(|e| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", e.to_string()))
}

fn done() -> Answer {
    Ok(Json(json!({})))
}

/// The routes.
pub fn router(admin: Admin) -> Router {
    let api = Router::new()
        .route("/appliances", get(appliances).post(add_appliance))
        .route("/appliances/{name}", delete(remove_appliance))
        .route("/hosts", get(hosts).post(add_host))
        .route("/hosts/{name}", delete(remove_host))
        .route("/hosts/{name}/appliance", put(set_appliance))
        .route("/hosts/{name}/profile", get(profile))
        .route("/hosts/{name}/attributes", get(host_attributes))
        .route("/hosts/{name}/report", get(report))
        .route("/hosts/{name}/join", post(join))
        .route("/attributes", get(attributes).put(set_attribute).delete(remove_attribute))
        .route("/rolls", get(rolls).post(add_roll))
        .route("/rolls/{name}", put(set_roll).delete(remove_roll))
        .route("/sync", post(sync))
        .route("/distro", get(distro).post(create_distro));
    Router::new()
        .nest("/api/v1", api)
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(|State(admin): State<Admin>| async move { admin.metrics.render() }))
        .with_state(admin)
}

async fn ready(State(admin): State<Admin>) -> Response {
    match admin.service.last_sync().problems {
        None => "ok\n".into_response(),
        Some(problems) => (StatusCode::SERVICE_UNAVAILABLE, problems).into_response(),
    }
}

async fn appliances(State(admin): State<Admin>) -> Answer {
    answer(&admin.store.appliances().await?)
}

async fn add_appliance(State(admin): State<Admin>, Json(appliance): Json<Appliance>) -> Answer {
    admin.store.add_appliance(&appliance).await?;
    done()
}

async fn remove_appliance(State(admin): State<Admin>, Path(name): Path<ApplianceName>) -> Answer {
    admin.store.remove_appliance(&name).await?;
    done()
}

/// A host as `list host` shows it.
#[derive(Debug, Serialize)]
struct HostView {
    #[serde(flatten)]
    host: Host,
    /// pending, enrolled, converged, incomplete or refused.
    state: &'static str,
    /// The generation of the kickstart that it is to have.
    generation: Option<u64>,
    /// The generation that it reported last.
    reported_generation: Option<u64>,
    /// When it reported last.
    last_report: Option<Timestamp>,
}

fn state_of(host: &Host, report: Option<&Report>) -> &'static str {
    match report.map(|report| report.outcome) {
        Some(Outcome::Converged | Outcome::Unchanged) => "converged",
        Some(Outcome::Incomplete) => "incomplete",
        Some(Outcome::Refused) => "refused",
        None if host.enrolled.is_some() => "enrolled",
        None => "pending",
    }
}

async fn hosts(State(admin): State<Admin>) -> Answer {
    let mut views = Vec::new();
    for host in admin.store.hosts().await? {
        let last = admin.store.last_report(&host.name).await?;
        let served = admin.service.watch(&host.name).borrow().as_ref().map(|served| served.generation.0);
        views.push(HostView {
            state: state_of(&host, last.as_ref().map(|(report, _)| report)),
            generation: served,
            reported_generation: last.as_ref().and_then(|(report, _)| report.generation).map(|g| g.0),
            last_report: last.and_then(|(_, at)| Timestamp::from_second(at).ok()),
            host,
        });
    }
    answer(&views)
}

#[derive(Deserialize)]
struct NewHost {
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

async fn add_host(State(admin): State<Admin>, Json(new): Json<NewHost>) -> Answer {
    let appliance = find_appliance(&admin, &new.appliance).await?;
    let host = Host {
        name: new.name.clone(),
        appliance,
        arch: new.arch.unwrap_or_else(|| "x86_64".to_owned()),
        os: new.os.unwrap_or_else(|| "linux".to_owned()),
        rack: new.rack,
        rank: new.rank,
        facts: None,
        enrolled: None,
    };
    admin.store.add_host(&host).await?;
    join_document(&admin, &new.name).await
}

async fn remove_host(State(admin): State<Admin>, Path(name): Path<HostName>) -> Answer {
    admin.store.remove_host(&name).await?;
    done()
}

async fn set_appliance(
    State(admin): State<Admin>,
    Path(name): Path<HostName>,
    Json(appliance): Json<String>,
) -> Answer {
    let appliance = find_appliance(&admin, &appliance).await?;
    admin.store.set_host_appliance(&name, &appliance).await?;
    done()
}

async fn join(State(admin): State<Admin>, Path(name): Path<HostName>) -> Answer {
    admin.store.host(&name).await?;
    join_document(&admin, &name).await
}

async fn join_document(admin: &Admin, host: &HostName) -> Answer {
    let token = make_token(&admin.store, host, admin.config.token_hours, Timestamp::now()).await?;
    let ca = std::fs::read_to_string(admin.config.state.join("ca/ca.pem"))
        .map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string()))?;
    let frontend = &admin.service.frontend_url;
    let document = format!(
        "# Rocks join document of {host}: one use, {} hours.\nfrontend = {frontend:?}\ntoken = {:?}\nca = \"\"\"\n{ca}\"\"\"\n",
        admin.config.token_hours, token.0
    );
    Ok(Json(json!({"host": host, "frontend": frontend, "token": token, "ca": ca, "document": document})))
}

async fn profile(State(admin): State<Admin>, Path(name): Path<HostName>) -> Answer {
    admin.store.host(&name).await?;
    let served = admin.service.watch(&name).borrow().clone();
    let problem = admin.service.last_sync().failed.remove(name.as_str());
    match served {
        Some(served) => Ok(Json(json!({
            "kickstart": String::from_utf8_lossy(&served.body.plain),
            "digest": served.body.digest,
            "generation": served.generation,
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

async fn host_attributes(State(admin): State<Admin>, Path(name): Path<HostName>) -> Answer {
    let attributes = admin.service.attributes(&name).await?;
    let list: Vec<Value> = attributes
        .iter()
        .map(|(attribute, value, scope): (_, _, Scope)| json!({"name": attribute, "value": value, "scope": scope, "source": scope.letter()}))
        .collect();
    Ok(Json(Value::Array(list)))
}

async fn report(State(admin): State<Admin>, Path(name): Path<HostName>) -> Answer {
    admin.store.host(&name).await?;
    answer(&admin.store.last_report(&name).await?.map(|(report, _)| report))
}

async fn attributes(State(admin): State<Admin>) -> Answer {
    answer(&admin.store.attributes().await?)
}

async fn set_attribute(State(admin): State<Admin>, Json(setting): Json<Setting>) -> Answer {
    admin.store.set_attribute(&setting).await?;
    done()
}

#[derive(Deserialize)]
struct OldSetting {
    #[serde(flatten)]
    owner: Owner,
    name: rocks_common::ids::AttrName,
}

async fn remove_attribute(State(admin): State<Admin>, Json(old): Json<OldSetting>) -> Answer {
    admin.store.remove_attribute(&old.owner, &old.name).await?;
    done()
}

async fn rolls(State(admin): State<Admin>) -> Answer {
    answer(&admin.store.rolls().await?)
}

async fn add_roll(State(admin): State<Admin>, Json(roll): Json<Roll>) -> Answer {
    let path = std::path::Path::new(&roll.path);
    if !path.is_absolute() || !path.join("graphs").is_dir() {
        let title = format!("{} is not the absolute path of a roll: it has no graphs folder", roll.path);
        return Err(Failure::new(StatusCode::BAD_REQUEST, "not-a-roll", title));
    }
    admin.store.add_roll(&roll).await?;
    done()
}

#[derive(Deserialize)]
struct RollChange {
    enabled: Option<bool>,
    trusted: Option<bool>,
}

async fn set_roll(State(admin): State<Admin>, Path(name): Path<RollName>, Json(change): Json<RollChange>) -> Answer {
    if let Some(enabled) = change.enabled {
        admin.store.enable_roll(&name, enabled).await?;
    }
    if let Some(trusted) = change.trusted {
        admin.store.trust_roll(&name, trusted).await?;
    }
    done()
}

async fn remove_roll(State(admin): State<Admin>, Path(name): Path<RollName>) -> Answer {
    admin.store.remove_roll(&name).await?;
    done()
}

async fn sync(State(admin): State<Admin>) -> Answer {
    answer(&admin.service.sync(true).await?)
}

/// What the frontend's distribution is made of.
async fn distro(State(admin): State<Admin>) -> Answer {
    Ok(Json(json!({"folder": admin.config.state.join("mirror/rocks-dist")})))
}

#[derive(Deserialize)]
struct DistroOrder {
    /// Further folders of RPMs, beside the `RPMS` folders of the enabled rolls.
    #[serde(default)]
    folders: Vec<std::path::PathBuf>,
    /// The architectures; none: that of the frontend.
    #[serde(default)]
    arches: Vec<String>,
}

/// Makes the distribution: the RPMs of all enabled rolls, and of folders given once, which are remembered.
async fn create_distro(State(admin): State<Admin>, Json(order): Json<DistroOrder>) -> Answer {
    let mut folders: Vec<std::path::PathBuf> = match admin.store.setting("distro_folders").await? {
        Some(text) => serde_json::from_str(&text).unwrap_or_default(),
        None => Vec::new(),
    };
    for folder in order.folders {
        if !folder.is_absolute() || !folder.is_dir() {
            let title = format!("{} is not the absolute path of a folder", folder.display());
            return Err(Failure::new(StatusCode::BAD_REQUEST, "not-a-folder", title));
        }
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    admin.store.set_setting("distro_folders", &json!(folders).to_string()).await?;
    let rolls = admin.service.folders().await?;
    let inputs: Vec<std::path::PathBuf> =
        rolls.iter().map(|roll| roll.join("RPMS")).filter(|f| f.is_dir()).chain(folders).collect();
    let mut options = Options::default();
    if !order.arches.is_empty() {
        options.arches = order.arches;
    }
    let mirror = admin.mirror.clone();
    let work = tokio::task::spawn_blocking(move || mirror.rebuild(&inputs, &options, &|_| {}));
    let internal =
        |error: &dyn std::fmt::Display| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "distro", error.to_string());
    let summary = work.await.map_err(|error| internal(&error))?.map_err(|error| internal(&error))?;
    let findings: Vec<Value> = summary.findings.iter().map(|f| json!({"path": f.path, "message": f.message})).collect();
    Ok(Json(
        json!({"files": summary.files, "read": summary.read, "packages": summary.packages, "published": summary.published, "findings": findings}),
    ))
}
