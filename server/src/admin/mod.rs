//! The administrator's interface: JSON under `/api/v1` on a Unix socket that only root and our group can open.
//!
//! `openapi.json` beside this file describes it, is served at `/api/v1/openapi.json`, and a test holds it to the routes.

mod advice;
mod attributes;
mod builds;
mod distro;
mod enrolments;
mod hosts;
mod images;
mod problem;
mod provisions;
mod rollouts;
mod rolls;
mod shipments;
mod uploads;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use tokio::sync::mpsc;

use crate::bucket::Bucket;
use crate::config::Config;
use crate::finish::finish;
use crate::kickstart::Service;
use crate::metrics::Metrics;
use crate::mirror::Mirror;
use crate::store::Store;

/// The description of this interface (OpenAPI 3.1).
pub const OPENAPI: &str = include_str!("openapi.json");

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
    /// The authority, for shipments.
    pub authority: Arc<crate::ca::Authority>,
    /// The images.
    pub images: Arc<crate::images::Images>,
    /// The provisions.
    pub provisions: Arc<crate::provision::Provisions>,
    /// Asks for the rolls to be read again.
    pub reload: mpsc::Sender<()>,
    /// One copy of an upstream repository at a time.
    pub copying: Arc<tokio::sync::Mutex<()>>,
    /// The packages in a bucket.
    pub bucket: Arc<Bucket>,
}

/// The routes.
pub fn router(admin: Admin) -> Router {
    let api = Router::new()
        .route("/openapi.json", get(|| async { ([("content-type", "application/json")], OPENAPI) }))
        .route("/appliances", get(hosts::appliances).post(hosts::add_appliance))
        .route("/appliances/{name}", delete(hosts::remove_appliance))
        .route("/hosts", get(hosts::hosts).post(hosts::add_host).delete(hosts::remove_hosts))
        .route("/hosts/{name}", delete(hosts::remove_host))
        .route("/hosts/{name}/appliance", put(hosts::set_appliance))
        .route("/hosts/{name}/profile", get(hosts::profile))
        .route("/hosts/{name}/xml", get(hosts::xml))
        .route("/hosts/{name}/graph", get(hosts::graph))
        .route("/hosts/{name}/explain", get(hosts::explain))
        .route("/hosts/{name}/attributes", get(attributes::of_host))
        .route("/hosts/{name}/report", get(hosts::report))
        .route("/hosts/{name}/reports", get(hosts::reports))
        .route("/hosts/{name}/join", post(hosts::join))
        .route("/attributes", get(attributes::list).put(attributes::set).delete(attributes::remove))
        .route("/rolls", get(rolls::list).post(rolls::add))
        .route("/rolls/{name}", put(rolls::change).delete(rolls::remove))
        .route("/nodes", get(rolls::nodes))
        .route("/edges", get(rolls::edges))
        .route("/sync", post(rolls::sync))
        .route("/builds", post(builds::create))
        .route("/distro", get(distro::show).post(distro::create))
        .route("/distro/folders", delete(distro::remove_folder))
        .route("/bucket", post(distro::bucket))
        .route("/mirrors", get(distro::mirrors).post(distro::copy))
        .route("/mirrors/{name}", delete(distro::remove_mirror))
        .route("/images", get(images::list).post(images::import))
        .route("/images/{name}", get(images::show).delete(images::remove))
        .route("/images/{name}/content", get(images::content).post(uploads::through_socket))
        .route("/shipments", post(shipments::create))
        .route("/uploads", post(uploads::from_host))
        .route("/provisions", get(provisions::list).post(provisions::create))
        .route("/provisions/{name}", get(provisions::show).delete(provisions::forget))
        .route("/provisions/{name}/cancel", post(provisions::cancel))
        .route("/rollouts", get(rollouts::list))
        .route("/rollouts/{name}", get(rollouts::show))
        .route("/rollouts/{name}/pause", post(rollouts::pause))
        .route("/rollouts/{name}/resume", post(rollouts::resume))
        .route("/rollouts/{name}/back", post(rollouts::back))
        .route("/strategies", get(rollouts::strategies).put(rollouts::set).delete(rollouts::remove))
        .route("/advice", post(advice::provision))
        .route("/enrolments", get(enrolments::list).post(enrolments::add))
        .route("/enrolments/{name}", delete(enrolments::remove))
        .route("/leaks", get(provisions::leaks).delete(provisions::end_leaks))
        .route("/health", get(health));
    Router::new()
        .nest("/api/v1", api)
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .fallback(problem::nothing)
        .method_not_allowed_fallback(problem::not_so)
        .layer(from_fn(to_its_end))
        .with_state(admin)
}

/// Carries whatever may change something to its end, also when the client hangs up.
async fn to_its_end(request: Request, next: Next) -> Response {
    if request.method().is_safe() {
        return next.run(request).await;
    }
    finish(next.run(request)).await
}

async fn metrics(State(admin): State<Admin>) -> String {
    admin.metrics.count_rollouts(admin.service.rollouts());
    admin.metrics.render()
}

async fn ready(State(admin): State<Admin>) -> Response {
    match admin.service.last_sync().problems {
        None => "ok\n".into_response(),
        Some(problems) => (StatusCode::SERVICE_UNAVAILABLE, problems).into_response(),
    }
}

/// What `rocks doctor` looks at: each thing with a stable code, how bad it is, and what to do.
async fn health(State(admin): State<Admin>) -> problem::Answer {
    let now = jiff::Timestamp::now();
    let mut findings = Vec::new();
    let mut find = |code: &str, severity: &str, message: String, hint: &str| {
        findings.push(serde_json::json!({"code": code, "severity": severity, "message": message, "hint": hint}));
    };
    let sync = admin.service.last_sync();
    if let Some(problems) = &sync.problems {
        find("rolls-have-errors", "error", problems.clone(), "mend the rolls: `rocks-server check ROLL...`");
    }
    for (host, why) in &sync.failed {
        find("no-new-kickstart", "error", format!("{host}: {why}"), "`rocks list host attr` shows what it is made of");
    }
    let views = hosts::views(&admin).await?;
    let count = |state: &str| views.iter().filter(|view| view.state == state).count();
    for (state, severity, hint) in [
        ("stale", "warning", "`rocks list host` says which; look at their network and at rocks-agent there"),
        ("incomplete", "warning", "`rocks report host NAME` says why"),
        ("refused", "error", "`rocks report host NAME` says why"),
    ] {
        if count(state) > 0 {
            find(&format!("hosts-{state}"), severity, format!("{} hosts are {state}", count(state)), hint);
        }
    }
    rollouts::findings(&admin, &mut find);
    if let Some(end) = crate::ca::end_of_authority(&admin.config.state) {
        let days = (end - now.as_second()) / 86_400;
        if days < 180 {
            let message = format!("the certificate authority ends in {days} days");
            let hint = "agents trust this authority alone: before it ends, make a new frontend (`rocks dump` says what is in this one) and \
                        give every host a join document of that";
            find("authority-ends", if days < 30 { "error" } else { "warning" }, message, hint);
        }
    }
    let stat = rustix::fs::statvfs(&admin.config.state).map_err(|error| problem::Failure::internal(&error))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < 1 << 30 {
        let message = format!("{} MiB are free for the frontend's state", free >> 20);
        find("disk-nearly-full", if free < 64 << 20 { "error" } else { "warning" }, message, "make room");
    }
    let mut regions: Vec<String> = admin.store.enrolments().await?.into_iter().map(|rule| rule.region).collect();
    regions.dedup();
    for region in regions.iter().filter(|region| !admin.config.aws_identity_certificates.contains_key(*region)) {
        let message = format!(
            "an enrolment is for {region}, and no certificate is there that its instances' identity is verified with"
        );
        find("no-identity-certificate", "error", message, provisions::CERTIFICATE);
    }
    let enabled = admin.service.folders().await?;
    if !enabled.is_empty() && !admin.mirror.is_published() {
        find("no-distribution", "warning", "there is no RPM mirror yet".to_owned(), "`rocks create distro`");
    }
    Ok(axum::Json(serde_json::json!({"findings": findings})))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[tokio::test]
    async fn a_client_that_hangs_up_breaks_off_what_reads_and_not_what_changes() {
        use axum::body::Body;
        use tower::ServiceExt as _;
        for (method, is_finished) in [("GET", false), ("POST", true), ("PUT", true), ("DELETE", true)] {
            let (go, goes) = tokio::sync::watch::channel(false);
            let (told, mut done) = mpsc::channel(1);
            let handler = async move || {
                let mut goes = goes.clone();
                let _ = goes.wait_for(|goes| *goes).await;
                let _ = told.send(()).await;
            };
            let router = Router::new().route("/", axum::routing::any(handler)).layer(from_fn(to_its_end));
            let request = Request::builder().method(method).uri("/").body(Body::empty()).expect("a request");
            let mut answer = Box::pin(router.oneshot(request));
            assert!(tokio::time::timeout(std::time::Duration::ZERO, &mut answer).await.is_err(), "it waits");
            drop(answer);
            go.send_replace(true);
            assert_eq!(done.recv().await.is_some(), is_finished, "{method}");
        }
    }

    /// Each method and path of the routes above, read from this very file.
    fn routes() -> BTreeSet<(String, String)> {
        let source = include_str!("mod.rs");
        let own = source.split("#[cfg(test)]").next().expect("a first part");
        let mut all = BTreeSet::new();
        for line in own.lines().filter_map(|line| line.trim().strip_prefix(".route(\"")) {
            let (path, handlers) = line.split_once('"').expect("a path");
            let root = ["/livez", "/readyz", "/metrics"].contains(&path);
            for method in ["get", "post", "put", "delete"] {
                if handlers.contains(&format!(" {method}(")) || handlers.contains(&format!(".{method}(")) {
                    let path = if root { path.to_owned() } else { format!("/api/v1{path}") };
                    all.insert((method.to_owned(), path));
                }
            }
        }
        all
    }

    #[test]
    fn the_description_and_the_routes_are_the_same() {
        let json: serde_json::Value = serde_json::from_str(OPENAPI).expect("json");
        let mut described = BTreeSet::new();
        for (path, methods) in json["paths"].as_object().expect("paths") {
            for (method, operation) in methods.as_object().expect("methods").iter().filter(|(m, _)| *m != "parameters")
            {
                assert!(operation["summary"].is_string() && operation["operationId"].is_string(), "{method} {path}");
                assert!(operation["responses"].as_object().is_some_and(|r| !r.is_empty()), "{method} {path}");
                described.insert((method.clone(), path.clone()));
            }
        }
        assert_eq!(described, routes());
        assert!(described.len() > 30);
    }

    /// Everything that is referred to is there.
    #[test]
    fn the_description_is_whole() {
        let json: serde_json::Value = serde_json::from_str(OPENAPI).expect("json");
        let mut todo = vec![&json];
        while let Some(value) = todo.pop() {
            if let Some(target) = value.get("$ref").and_then(serde_json::Value::as_str) {
                let pointer = target.strip_prefix('#').expect("a local reference");
                assert!(json.pointer(pointer).is_some(), "{target}");
            }
            todo.extend(value.as_object().into_iter().flat_map(|object| object.values()));
            todo.extend(value.as_array().into_iter().flatten());
        }
    }
}
