//! The distribution: what the RPM mirror publishes, and the upstream repositories that it copies.
//!
//! Both take their time, so they answer in lines of JSON: `{"progress": ...}` as often as there is something to tell, and at the end
//! `{"result": ...}` or `{"problem": ...}`. Who hangs up stops a copy; the next one goes on where it stopped.

use std::path::PathBuf;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use jiff::Timestamp;
use rocks_common::ids::RollName;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::Admin;
use super::problem::{Answer, Failure, Input, Named, answer, done};
use crate::bucket::BucketError;
use crate::mirror::upstream::{self, Order};
use crate::mirror::{Options, Progress};
use crate::store::{StoreError, Upstream, Versions};

/// The setting that holds the folders.
const FOLDERS: &str = "distro_folders";

/// Lines that a client may be behind.
const LINES: usize = 64;

async fn folders(admin: &Admin) -> Result<Vec<PathBuf>, StoreError> {
    let text = admin.store.setting(FOLDERS).await?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
}

fn copy_folder(admin: &Admin, name: &RollName) -> PathBuf {
    admin.config.state.join("upstream").join(name.as_str())
}

pub(super) async fn show(State(admin): State<Admin>) -> Answer {
    let mirrors: Vec<String> = admin.store.upstreams().await?.iter().map(|u| u.name.to_string()).collect();
    let folder = admin.config.state.join("mirror/rocks-dist");
    Ok(Json(json!({"folder": folder, "folders": folders(&admin).await?, "mirrors": mirrors})))
}

#[derive(Deserialize)]
pub(super) struct OldFolder {
    folder: PathBuf,
}

pub(super) async fn remove_folder(State(admin): State<Admin>, Input(old): Input<OldFolder>) -> Answer {
    let mut all = folders(&admin).await?;
    let before = all.len();
    all.retain(|folder| *folder != old.folder);
    if all.len() == before {
        return Err(StoreError::Missing { kind: "folder", name: old.folder.display().to_string() }.into());
    }
    admin.store.set_setting(FOLDERS, &json!(all).to_string()).await?;
    done()
}

#[derive(Deserialize)]
pub(super) struct DistroOrder {
    /// Further folders of RPMs, beside the `RPMS` folders of the enabled rolls.
    #[serde(default)]
    folders: Vec<PathBuf>,
    /// The architectures; none: that of the frontend.
    #[serde(default)]
    arches: Vec<String>,
}

/// Makes the distribution: the RPMs of all enabled rolls, of upstream copies, and of folders given once, which are remembered.
pub(super) async fn create(State(admin): State<Admin>, Input(order): Input<DistroOrder>) -> Result<Response, Failure> {
    let mut all = folders(&admin).await?;
    for folder in order.folders {
        if !folder.is_absolute() || !folder.is_dir() {
            let title = format!("{} is not the absolute path of a folder", folder.display());
            return Err(Failure::bad("not-a-folder", title));
        }
        if !all.contains(&folder) {
            all.push(folder);
        }
    }
    admin.store.set_setting(FOLDERS, &json!(all).to_string()).await?;
    let rolls = admin.service.folders().await?.into_iter().map(|roll| roll.join("RPMS"));
    let copies = admin.store.upstreams().await?.into_iter().map(|upstream| copy_folder(&admin, &upstream.name));
    let inputs: Vec<PathBuf> = rolls.chain(copies).filter(|folder| folder.is_dir()).chain(all).collect();
    let mut options = Options::default();
    if !order.arches.is_empty() {
        options.arches = order.arches;
    }
    Ok(lines(move |lines| async move {
        let mirror = admin.mirror.clone();
        let work = tokio::task::spawn_blocking(move || {
            mirror.rebuild(&inputs, &options, &|progress| {
                let value = match progress {
                    Progress::Found(files) => json!({"files": files}),
                    Progress::Read { done, of } => json!({"read": done, "of": of}),
                };
                // Who is behind misses some.
                let _ = lines.try_send(json!({"progress": value}));
            })
        });
        let internal = |error: &dyn std::fmt::Display| Failure::internal(error);
        let summary = work.await.map_err(|error| internal(&error))?.map_err(|error| internal(&error))?;
        if !summary.published.is_empty() && admin.bucket.follows() {
            let bucket = admin.bucket.clone();
            tokio::spawn(async move { bucket.follow().await });
        }
        let findings: Vec<Value> =
            summary.findings.iter().map(|f| json!({"path": f.path, "message": f.message})).collect();
        Ok(json!({"files": summary.files, "read": summary.read, "packages": summary.packages,
                  "published": summary.published, "findings": findings}))
    }))
}

/// Makes the bucket have what the mirror has.
pub(super) async fn bucket(State(admin): State<Admin>) -> Response {
    lines(move |lines| async move {
        let tell = move |at| {
            let _ = lines.try_send(json!({"progress": at}));
        };
        let synced = admin.bucket.sync(&tell).await.map_err(|error| {
            let hint = match &error {
                BucketError::NoCloud => Some("build rocks-server with the feature `aws`, or take the package"),
                BucketError::Cloud(error) => error.hint(),
                _ => None,
            };
            let failure = Failure::new(axum::http::StatusCode::BAD_GATEWAY, "not-sent", error.to_string());
            failure.hint(hint.unwrap_or("what was sent stays; the same command goes on from there"))
        })?;
        serde_json::to_value(synced).map_err(|error| Failure::internal(&error))
    })
}

pub(super) async fn mirrors(State(admin): State<Admin>) -> Answer {
    answer(&admin.store.upstreams().await?)
}

pub(super) async fn remove_mirror(State(admin): State<Admin>, Named(name): Named<RollName>) -> Answer {
    admin.store.remove_upstream(&name).await?;
    let folder = copy_folder(&admin, &name);
    let removed = tokio::task::spawn_blocking(move || match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    });
    removed.await.map_err(|error| Failure::internal(&error))?.map_err(|error| Failure::internal(&error))?;
    done()
}

#[derive(Deserialize)]
pub(super) struct CopyOrder {
    url: String,
    #[serde(default)]
    name: Option<RollName>,
    #[serde(default)]
    arch: Option<String>,
    #[serde(default)]
    versions: Option<Versions>,
}

/// Copies an upstream repository, or what changed of it.
pub(super) async fn copy(State(admin): State<Admin>, Input(order): Input<CopyOrder>) -> Result<Response, Failure> {
    let known = admin.store.upstreams().await?;
    let before = known.into_iter().find(|u| order.name.as_ref().map_or(u.url == order.url, |name| u.name == *name));
    let name = match order.name.or_else(|| before.as_ref().map(|before| before.name.clone())) {
        Some(name) => name,
        None => name_of(&order.url)?,
    };
    let upstream = Upstream {
        name,
        url: order.url,
        arch: order
            .arch
            .or_else(|| before.as_ref().map(|b| b.arch.clone()))
            .unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        versions: order.versions.or_else(|| before.as_ref().map(|b| b.versions)).unwrap_or_default(),
        synced: None,
    };
    admin.store.put_upstream(&upstream).await?;
    Ok(lines(move |lines| async move {
        let _turn = admin.copying.lock().await;
        let folder = copy_folder(&admin, &upstream.name);
        let order = Order {
            url: &upstream.url,
            arch: &upstream.arch,
            all_versions: upstream.versions == Versions::All,
            folder: &folder,
        };
        let told = |progress| {
            let _ = lines.try_send(json!({"progress": progress}));
        };
        // Nobody listens any more: stop, the next copy goes on.
        let copied = tokio::select! {
            copied = upstream::copy(&order, &told) => copied,
            () = lines.closed() => return Err(Failure::bad("interrupted", "nobody waits for the copy any more")),
        };
        let copied = copied.map_err(|error| {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            let code = if matches!(error, upstream::UpstreamError::Url(_)) { "bad-url" } else { "not-copied" };
            Failure::new(axum::http::StatusCode::BAD_GATEWAY, code, format!("{error}{cause}"))
                .hint("what was copied is kept; the same command goes on from there")
        })?;
        let synced = Some(Timestamp::now().as_second());
        admin.store.put_upstream(&Upstream { synced, ..upstream.clone() }).await?;
        let mut result = serde_json::to_value(copied).unwrap_or_default();
        result["name"] = json!(upstream.name);
        Ok(result)
    }))
}

/// A name made of a URL: its last parts that say something.
fn name_of(url: &str) -> Result<RollName, Failure> {
    let path = url.split("://").nth(1).unwrap_or(url);
    let parts: Vec<&str> = path.split(['/', '?', '#']).filter(|part| !part.is_empty() && *part != "os").collect();
    let tail = parts[parts.len().saturating_sub(3)..].join("-");
    let name: String =
        tail.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' }).collect();
    name.trim_start_matches(['.', '-'])
        .parse()
        .map_err(|_| Failure::bad("bad-name", format!("no name can be made of {url:?}")).hint("give one: name=NAME"))
}

/// An answer in lines: those that `work` sends, and at the end what it came to.
pub(super) fn lines<F>(work: impl FnOnce(mpsc::Sender<Value>) -> F + Send + 'static) -> Response
where
    F: Future<Output = Result<Value, Failure>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel::<Value>(LINES);
    tokio::spawn(async move {
        let last = match work(sender.clone()).await {
            Ok(result) => json!({"result": result}),
            Err(failure) => json!({"problem": failure.into_value()}),
        };
        let _ = sender.send(last).await;
    });
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
        let value = receiver.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(value.to_string() + "\n")), receiver))
    });
    ([("content-type", "application/x-ndjson")], Body::from_stream(stream)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_gives_a_name() {
        let name = |url| name_of(url).ok().map(|name| name.to_string());
        assert_eq!(
            name("https://dl.example.org/pub/rocky/9/AppStream/x86_64/os/").as_deref(),
            Some("9-AppStream-x86_64")
        );
        assert_eq!(name("https://").as_deref(), None);
    }
}
