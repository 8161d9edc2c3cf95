//! EBS direct: REST with JSON, and blocks of 512 KiB.

mod tokens;

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::access;
use crate::cloud::{BLOCK, Change, Start, Tags};
use crate::error::{Answer, ApiError};
use crate::server::body::{Response, answer as reply, set};
use crate::server::{Caller, CutOff, Described, Outcome, Shared, now};
use crate::sigv4::{Refusal, query_pairs, sha256_hex};

/// The operations, with what their path says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Operation {
    StartSnapshot,
    PutSnapshotBlock(String, u32),
    CompleteSnapshot(String),
    ListSnapshotBlocks(String),
    ListChangedBlocks(String),
    GetSnapshotBlock(String, u32),
}

impl Operation {
    fn of(method: &str, path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let number = |text: &str| text.parse::<u32>().ok();
        Some(match (method, &parts[..]) {
            ("POST", ["snapshots"]) => Self::StartSnapshot,
            ("POST", ["snapshots", "completion", id]) => Self::CompleteSnapshot((*id).to_owned()),
            ("PUT", ["snapshots", id, "blocks", n]) => Self::PutSnapshotBlock((*id).to_owned(), number(n)?),
            ("GET", ["snapshots", id, "blocks", n]) => Self::GetSnapshotBlock((*id).to_owned(), number(n)?),
            ("GET", ["snapshots", id, "blocks"]) => Self::ListSnapshotBlocks((*id).to_owned()),
            ("GET", ["snapshots", id, "changedblocks"]) => Self::ListChangedBlocks((*id).to_owned()),
            _ => return None,
        })
    }

    fn name(&self) -> &'static str {
        match self {
            Self::StartSnapshot => "StartSnapshot",
            Self::PutSnapshotBlock(..) => "PutSnapshotBlock",
            Self::CompleteSnapshot(_) => "CompleteSnapshot",
            Self::ListSnapshotBlocks(_) => "ListSnapshotBlocks",
            Self::ListChangedBlocks(_) => "ListChangedBlocks",
            Self::GetSnapshotBlock(..) => "GetSnapshotBlock",
        }
    }

    /// The snapshot that it is done to, if there is one already.
    fn snapshot(&self) -> Option<&str> {
        match self {
            Self::StartSnapshot => None,
            Self::CompleteSnapshot(id) | Self::ListSnapshotBlocks(id) | Self::ListChangedBlocks(id) => Some(id),
            Self::PutSnapshotBlock(id, _) | Self::GetSnapshotBlock(id, _) => Some(id),
        }
    }

    /// For the record, and for faults that are meant for some.
    fn parameters(&self) -> Vec<(String, String)> {
        match self {
            Self::StartSnapshot => Vec::new(),
            Self::CompleteSnapshot(id) | Self::ListSnapshotBlocks(id) | Self::ListChangedBlocks(id) => {
                vec![("SnapshotId".to_owned(), id.clone())]
            }
            Self::PutSnapshotBlock(id, n) | Self::GetSnapshotBlock(id, n) => {
                vec![("SnapshotId".to_owned(), id.clone()), ("BlockIndex".to_owned(), n.to_string())]
            }
        }
    }
}

pub(crate) async fn answer(
    shared: &Shared,
    caller: Caller,
    request: http::Request<Incoming>,
) -> Result<Response, CutOff> {
    let body = match Limited::new(request.into_body(), 1 << 20).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return Err(CutOff),
    };
    let operation = Operation::of(&caller.method, &caller.path);
    // Blocks go unsigned, if the caller says so; they have a checksum of their own.
    let payload = match caller.header("x-amz-content-sha256") {
        Some("UNSIGNED-PAYLOAD") => "UNSIGNED-PAYLOAD".to_owned(),
        _ => sha256_hex(&body),
    };
    let admitted = caller.authenticate(shared, &payload).map_err(refused);
    let action = operation.as_ref().map_or("", Operation::name).to_owned();
    let mut parameters = operation.as_ref().map(Operation::parameters).unwrap_or_default();
    parameters.extend(query_pairs(&caller.query));
    if operation == Some(Operation::StartSnapshot)
        && let Ok(Value::Object(given)) = serde_json::from_slice(&body)
    {
        parameters.extend(given.into_iter().map(|(k, v)| (k, v.as_str().map_or_else(|| v.to_string(), str::to_owned))));
    }
    let user = admitted.as_ref().map(|a| a.access.user.clone()).unwrap_or_default();
    let needs = shared.with_cloud(|cloud| {
        let tags = if operation == Some(Operation::StartSnapshot) { tags(&body) } else { Tags::new() };
        let snapshot = operation.as_ref().and_then(Operation::snapshot);
        cloud.needs_of_ebs(&action, snapshot, &tags, &user, now())
    });
    let what = Described { action: action.clone(), permissions: access::actions(&needs), parameters, user };
    let denied = match (&operation, &admitted) {
        (_, Err(e)) => Some(e.clone()),
        (None, Ok(_)) => {
            Some(ApiError::new("UnknownOperationException", "There is no such operation").with_status(404))
        }
        (Some(_), Ok(_)) if !caller.throttle(shared, &action) => Some(ApiError::new(
            "RequestThrottledException",
            "The number of API requests has exceeded the maximum allowed API request throttling limit\0ACCOUNT_THROTTLED",
        )),
        (Some(_), Ok(a)) => caller
            .lacks(shared, a, &needs)
            .map(|lacking| ApiError::new("AccessDeniedException", format!("{lacking}\0UNAUTHORIZED_ACCOUNT"))),
    };
    let work = async {
        let Some(operation) = operation.clone() else { return Err(ApiError::internal("no operation")) };
        let response = act(shared, &caller, operation, body.clone()).await?;
        Ok(Outcome { response, code: None })
    };
    caller.conclude(shared, what, denied, refusal, work).await
}

/// The tags that a snapshot is to begin with; what is wrong with them is said by what begins it.
fn tags(body: &[u8]) -> Tags {
    let given: Value = serde_json::from_slice(body).unwrap_or_default();
    let pairs = given["Tags"].as_array().into_iter().flatten();
    let pairs = pairs.filter_map(|tag| Some((tag["Key"].as_str()?.to_owned(), tag["Value"].as_str()?.to_owned())));
    pairs.collect()
}

fn refused(refusal: Refusal) -> ApiError {
    match refusal {
        Refusal::Unsigned => {
            ApiError::new("MissingAuthenticationTokenException", "Missing Authentication Token").with_status(403)
        }
        Refusal::Malformed(why) => ApiError::new("IncompleteSignatureException", why),
        Refusal::UnknownKey(_) => {
            ApiError::new("UnrecognizedClientException", "The security token included in the request is invalid.")
        }
        Refusal::Skewed | Refusal::Expired => ApiError::new("InvalidSignatureException", "Signature expired"),
        Refusal::Mismatch { canonical } => {
            let message = format!(
                "The request signature we calculated does not match the signature you provided. \
                 The Canonical String for this request should have been\n'{canonical}'"
            );
            ApiError::new("InvalidSignatureException", message)
        }
    }
}

fn refusal(e: &ApiError) -> Response {
    let (message, reason) = e.message.split_once('\0').map_or((e.message.as_str(), None), |(m, r)| (m, Some(r)));
    let mut body = json!({ "Message": message });
    if let Some(reason) = reason {
        body["Reason"] = reason.into();
    }
    let mut response = reply(e.status, "application/json", body.to_string());
    set(&mut response, "x-amzn-errortype", &e.code);
    response
}

fn invalid(reason: &str, why: &str) -> ApiError {
    ApiError::new("ValidationException", format!("{why}\0{reason}"))
}

/// What StartSnapshot's body says.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Started {
    volume_size: u64,
    parent_snapshot_id: Option<String>,
    #[serde(default)]
    tags: Vec<Tag>,
    description: Option<String>,
    client_token: Option<String>,
    encrypted: Option<bool>,
    kms_key_arn: Option<String>,
    timeout: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Tag {
    key: String,
    #[serde(default)]
    value: String,
}

/// Runs what reads or writes much beside the threads that answer.
async fn aside<T: Send + 'static>(what: impl FnOnce() -> anyhow::Result<T> + Send + 'static) -> Answer<T> {
    let done = tokio::task::spawn_blocking(what).await.map_err(|e| internal(&e))?;
    done.map_err(|e| internal(&e))
}

fn internal(e: &dyn std::fmt::Display) -> ApiError {
    ApiError::new("InternalServerException", format!("An internal error has occurred: {e}"))
}

async fn act(shared: &Shared, caller: &Caller, operation: Operation, body: Bytes) -> Answer<Response> {
    match operation {
        Operation::StartSnapshot => start(shared, &body).await,
        Operation::PutSnapshotBlock(id, n) => put(shared, caller, &id, n, body).await,
        Operation::CompleteSnapshot(id) => complete(shared, caller, &id).await,
        Operation::ListSnapshotBlocks(id) => list(shared, caller, &id),
        Operation::ListChangedBlocks(id) => changes(shared, caller, &id).await,
        Operation::GetSnapshotBlock(id, n) => get(shared, caller, &id, n).await,
    }
}

/// A time as REST with JSON has it.
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

async fn start(shared: &Shared, body: &[u8]) -> Answer<Response> {
    let wanted: Started =
        serde_json::from_slice(body).map_err(|e| invalid("INVALID_PARAMETER_VALUE", &e.to_string()))?;
    let tags: BTreeMap<String, String> = wanted.tags.into_iter().map(|t| (t.key, t.value)).collect();
    let start = Start {
        gib: wanted.volume_size,
        parent: wanted.parent_snapshot_id.clone(),
        description: wanted.description.clone().unwrap_or_default(),
        tags: tags.clone(),
        encrypted: wanted.encrypted,
        key: wanted.kms_key_arn,
        timeout: wanted.timeout,
        token: wanted.client_token,
    };
    let gib = start.gib;
    // The file is there before anybody can put to it: calls that find the snapshot come after this one.
    let (id, new) = shared.with_cloud(|cloud| cloud.start_blocks(start, now()))?;
    if new {
        let (disks, id, parent) = (Arc::clone(&shared.disks), id.clone(), wanted.parent_snapshot_id.clone());
        aside(move || disks.open_snapshot(&id, gib, parent.as_deref())).await?;
    }
    let shown = shared.with_cloud(|cloud| {
        let s = cloud.block_snapshot_made(&id)?;
        let mut shown = json!({
            "SnapshotId": id, "OwnerId": shared.config.account, "Status": s.state(), "StartTime": seconds(s.started),
            "VolumeSize": s.gib, "BlockSize": BLOCK, "Description": s.description,
            "Tags": tags.iter().map(|(k, v)| json!({ "Key": k, "Value": v })).collect::<Vec<_>>(),
        });
        if let Some(parent) = &s.parent {
            shown["ParentSnapshotId"] = parent.as_str().into();
        }
        if let Some(key) = &s.key {
            shown["KmsKeyArn"] = key.as_str().into();
        }
        Some(shown)
    });
    let shown = shown.ok_or_else(|| internal(&"the snapshot is gone"))?;
    Ok(reply(201, "application/json", shown.to_string()))
}

async fn put(shared: &Shared, caller: &Caller, id: &str, block: u32, body: Bytes) -> Answer<Response> {
    let header = |name: &str| {
        caller.header(name).ok_or_else(|| invalid("INVALID_PARAMETER_VALUE", &format!("{name} is missing")))
    };
    let length: u64 = header("x-amz-data-length")?.parse().unwrap_or(0);
    if length != BLOCK || body.len() as u64 != BLOCK {
        return Err(invalid("INVALID_BLOCK", "A block has 524288 bytes"));
    }
    if header("x-amz-checksum-algorithm")? != "SHA256" {
        return Err(invalid("INVALID_PARAMETER_VALUE", "The checksum is to be SHA256"));
    }
    let claimed = header("x-amz-checksum")?.to_owned();
    shared.with_cloud(|cloud| cloud.may_put(id, block, now()))?;
    let (disks, name) = (Arc::clone(&shared.disks), id.to_owned());
    let digest = aside(move || {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &body).as_ref().to_vec();
        if STANDARD.encode(&digest) == claimed {
            disks.put(&name, block, &body)?;
            Ok(Some(digest))
        } else {
            Ok(None)
        }
    });
    let digest =
        digest.await?.ok_or_else(|| invalid("INVALID_BLOCK", "The block's checksum does not match its data"))?;
    let sum = STANDARD.encode(&digest);
    shared.with_cloud(|cloud| cloud.block_put(id, block, digest, now()))?;
    let mut response = reply(201, "application/json", "{}");
    set(&mut response, "x-amz-checksum", &sum);
    set(&mut response, "x-amz-checksum-algorithm", "SHA256");
    Ok(response)
}

async fn complete(shared: &Shared, caller: &Caller, id: &str) -> Answer<Response> {
    let count = caller.header("x-amz-changedblockscount").and_then(|n| n.parse().ok());
    let count = count.ok_or_else(|| invalid("INVALID_PARAMETER_VALUE", "ChangedBlocksCount is missing"))?;
    let checksum = caller.header("x-amz-checksum");
    if checksum.is_some()
        && (caller.header("x-amz-checksum-algorithm"), caller.header("x-amz-checksum-aggregation-method"))
            != (Some("SHA256"), Some("LINEAR"))
    {
        return Err(invalid("INVALID_PARAMETER_VALUE", "A checksum is SHA256, and LINEAR"));
    }
    let completed = shared.with_cloud(|cloud| cloud.complete_blocks(id, count, checksum, now()))?;
    if let Some(blocks) = completed {
        let bytes = blocks.len() as u64 * BLOCK;
        let gap = shared.with_cloud(|cloud| {
            cloud
                .block_snapshot_made(id)
                .filter(|s| s.encrypted && shared.config.noise_in_encrypted_gaps)
                .map(|s| s.gib)
        });
        if let Some(gib) = gap {
            let (disks, id, blocks) = (Arc::clone(&shared.disks), id.to_owned(), blocks.clone());
            aside(move || disks.noise(&id, gib, &blocks)).await?;
        }
        shared.with_cloud(|cloud| cloud.snapshot_copied(id, blocks, bytes, now()));
    }
    Ok(reply(202, "application/json", json!({ "Status": "pending" }).to_string()))
}

/// Which part of a list is wanted: from which block, and how many.
fn page(caller: &Caller) -> Answer<(u32, usize)> {
    let pairs = query_pairs(&caller.query);
    let get = |name: &str| pairs.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str());
    let most = match get("maxResults").map(str::parse::<usize>) {
        None => 10_000,
        Some(Ok(n)) if (100..=10_000).contains(&n) => n,
        Some(_) => return Err(invalid("INVALID_PARAMETER_VALUE", "MaxResults is from 100 to 10000")),
    };
    let from = match (get("pageToken"), get("startingBlockIndex")) {
        (Some(token), _) => {
            tokens::read_page(token).ok_or_else(|| invalid("INVALID_PAGE_TOKEN", "The page token is none"))?
        }
        (None, Some(n)) => {
            n.parse().map_err(|_| invalid("INVALID_PARAMETER_VALUE", "StartingBlockIndex is no number"))?
        }
        (None, None) => 0,
    };
    Ok((from, most))
}

/// Seven days, as on AWS.
const TOKEN_LIFE: u64 = 7 * 24 * 3_600_000;

fn listed(name: &str, items: Vec<Value>, next: Option<u32>, gib: u64) -> Response {
    let mut shown = json!({ "VolumeSize": gib, "BlockSize": BLOCK, "ExpiryTime": seconds(now() + TOKEN_LIFE) });
    shown[name] = items.into();
    if let Some(next) = next {
        shown["NextToken"] = tokens::page(next).into();
    }
    reply(200, "application/json", shown.to_string())
}

fn list(shared: &Shared, caller: &Caller, id: &str) -> Answer<Response> {
    let (from, most) = page(caller)?;
    let (blocks, gib) = shared.with_cloud(|cloud| cloud.list_blocks(id, from, now()))?;
    let until = now() + TOKEN_LIFE;
    let item = |n: &u32| json!({ "BlockIndex": n, "BlockToken": tokens::block(id, *n, until) });
    let items = blocks.iter().take(most).map(item).collect();
    Ok(listed("Blocks", items, blocks.get(most).copied(), gib))
}

async fn changes(shared: &Shared, caller: &Caller, second: &str) -> Answer<Response> {
    let (from, most) = page(caller)?;
    let pairs = query_pairs(&caller.query);
    let first = pairs.iter().find(|(k, _)| k == "firstSnapshotId").map(|(_, v)| v.clone());
    let (mut all, gib) = shared.with_cloud(|cloud| cloud.list_changes(first.as_deref(), second, now()))?;
    all.retain(|c| c.block >= from);
    if let Some(first) = &first {
        // What both have is only a change if it differs.
        let both = all.iter().filter(|c| c.first && c.second).map(|c| c.block).collect();
        let (disks, one, other) = (Arc::clone(&shared.disks), first.clone(), second.to_owned());
        let differing = aside(move || disks.differing(&one, &other, &both)).await?;
        all.retain(|c| !(c.first && c.second) || differing.binary_search(&c.block).is_ok());
    }
    let until = now() + TOKEN_LIFE;
    let item = |c: &Change| {
        let mut shown = json!({ "BlockIndex": c.block });
        if let (true, Some(first)) = (c.first, &first) {
            shown["FirstBlockToken"] = tokens::block(first, c.block, until).into();
        }
        if c.second {
            shown["SecondBlockToken"] = tokens::block(second, c.block, until).into();
        }
        shown
    };
    let items = all.iter().take(most).map(item).collect();
    Ok(listed("ChangedBlocks", items, all.get(most).map(|c| c.block), gib))
}

async fn get(shared: &Shared, caller: &Caller, id: &str, block: u32) -> Answer<Response> {
    let pairs = query_pairs(&caller.query);
    let token = pairs.iter().find(|(k, _)| k == "blockToken").map(|(_, v)| v.as_str());
    let token = token.ok_or_else(|| invalid("INVALID_BLOCK_TOKEN", "BlockToken is missing"))?;
    if !tokens::opens(token, id, block, now()) {
        return Err(invalid("INVALID_BLOCK_TOKEN", "The block token is none for this block, or has expired"));
    }
    shared.with_cloud(|cloud| cloud.may_get(id, block, now()))?;
    let (disks, name) = (Arc::clone(&shared.disks), id.to_owned());
    let (data, sum) = aside(move || {
        let data = disks.get(&name, block)?;
        let sum = STANDARD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &data).as_ref());
        Ok((data, sum))
    })
    .await?;
    let mut response = reply(200, "application/octet-stream", data);
    set(&mut response, "x-amz-data-length", &BLOCK.to_string());
    set(&mut response, "x-amz-checksum", &sum);
    set(&mut response, "x-amz-checksum-algorithm", "SHA256");
    Ok(response)
}
