//! Enrolment by what EC2 says of an instance: the verdict of [`crate::identity`], the store, and the cloud's word if that is asked for.
//!
//! A request that is garbage costs one parse; one that EC2 did not sign costs a signature check; only then the store is read. Whoever asks is told
//! one thing, whatever was wrong; the log has the rest.

use std::sync::Arc;
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};
use jiff::{SignedDuration, Timestamp};
use rocks_common::ids::{EnrolmentName, HostName};
use rocks_common::wire::{EnrolRequest, InstanceIdentity};
use rocks_provision::cloud::{Instance, InstanceState};
use rocks_provision::ids::ProvisionId;
use rocks_provision::order::Join;
use tokio::sync::SemaphorePermit;
use tokio::time::timeout;

use crate::ca::key_of_request;
use crate::identity::{Document, Member, Unwanted, choose, member, verify};
use crate::listen::{Public, Reply, hand_over, internal, issue, problem};
use crate::provision::site::rpm_arch;
use crate::store::{NewCertificate, NewInstance, StoreError};

/// How long the cloud may take to say whether an instance is there.
const ASK: Duration = Duration::from_secs(20);
/// How far the launch that the cloud knows of and the one in the document may be apart.
const APART: SignedDuration = SignedDuration::from_mins(5);
/// How long a new host's kickstart is waited for: the agent asks for it at once.
const KICKSTART: Duration = Duration::from_secs(5);

/// The one answer to all that is not believed or not wanted.
fn refused(why: &dyn std::fmt::Display, instance: Option<&Document>) -> Reply {
    let instance = instance.map(|document| document.instance_id.to_string());
    tracing::warn!(instance = instance.as_deref().unwrap_or("?"), "an instance may not enrol: {why}");
    problem(StatusCode::FORBIDDEN, "identity-refused", "the instance identity is not accepted")
}

/// What is wrong with what the cloud says of an instance that shows a document, if anything.
fn differs(document: &Document, known: Option<&Instance>) -> Option<String> {
    let Some(known) = known else { return Some("the cloud does not know it".to_owned()) };
    if !matches!(known.state, InstanceState::Pending | InstanceState::Running) {
        return Some(format!("the cloud says that it is {:?}", known.state).to_lowercase());
    }
    let apart = known.launched.map(|launched| launched.duration_since(document.pending_time).abs());
    match apart {
        Some(apart) if apart <= APART => None,
        Some(apart) => Some(format!("its launch is {} s from the one that the cloud knows of", apart.as_secs())),
        None => Some("the cloud does not say when it was launched".to_owned()),
    }
}

/// Asks the cloud, if the configuration wants that.
async fn ask(public: &Public, document: &Document) -> Result<(), Box<Reply>> {
    let Some(cloud) = &public.cloud else { return Ok(()) };
    let asked = timeout(ASK, cloud.instance(&document.region, &document.instance_id)).await;
    let why = match asked {
        Ok(Ok(known)) => {
            return differs(document, known.as_ref())
                .map_or(Ok(()), |why| Err(Box::new(refused(&why, Some(document)))));
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it does not answer".to_owned(),
    };
    tracing::warn!(instance = %document.instance_id, "whether it is there cannot be asked: {why}");
    Err(Box::new(later("10")))
}

/// Not now, but in so many seconds.
fn later(seconds: &'static str) -> Reply {
    let mut reply = problem(StatusCode::SERVICE_UNAVAILABLE, "busy", "it cannot be checked now");
    reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(seconds));
    reply
}

/// What lets an instance in.
enum Entry {
    /// A rule: it becomes a new host.
    Rule(EnrolmentName),
    /// The provision of this name launched it, to be that host.
    Member(EnrolmentName, HostName),
}

impl Entry {
    const fn name(&self) -> &EnrolmentName {
        match self {
            Self::Rule(name) | Self::Member(name, _) => name,
        }
    }
}

/// What lets an instance in: the provision or the rule that it names, or the only rule that fits.
async fn entry(
    public: &Public,
    named: Option<&EnrolmentName>,
    document: &Document,
    now: Timestamp,
) -> Result<Entry, Box<Reply>> {
    let unwanted = |why: Unwanted| Box::new(refused(&why, Some(document)));
    if let Some(name) = named
        && let Ok(id) = name.as_str().parse::<ProvisionId>()
    {
        match public.store.provision(&id).await {
            // One with a launch template has a rule.
            Ok(record) if record.order.join == Join::Identity => {
                return match member(&record, name, document, now).map_err(unwanted)? {
                    Member::Host(host) => Ok(Entry::Member(name.clone(), host.clone())),
                    Member::NotYet => Err(Box::new(later("1"))),
                };
            }
            Ok(_) | Err(StoreError::Missing { .. }) => {}
            Err(error) => return Err(Box::new(internal(&error))),
        }
    }
    let rules = public.store.enrolments().await.map_err(|error| Box::new(internal(&error)))?;
    let rule = choose(&rules, named, document, now).map_err(unwanted)?;
    Ok(Entry::Rule(rule.name.clone()))
}

/// Makes an instance a host by what it shows. `place` is held as long as there is work.
pub(crate) async fn by_identity(
    public: &Arc<Public>,
    shown: &InstanceIdentity,
    request: &EnrolRequest,
    now: Timestamp,
    place: SemaphorePermit<'_>,
) -> Reply {
    let document = match verify(shown, &public.certificates) {
        Ok(document) => document,
        Err(why) => return refused(&why, None),
    };
    let entry = match entry(public, shown.enrolment.as_ref(), &document, now).await {
        Ok(entry) => entry,
        Err(reply) => return *reply,
    };
    let host = match &entry {
        Entry::Member(_, host) => host.clone(),
        // The name is one that the cloud gave: nobody can ask for another's.
        Entry::Rule(_) => match document.instance_id.as_str().parse::<HostName>() {
            Ok(host) => host,
            Err(error) => return refused(&error, Some(&document)),
        },
    };
    if let Err(reply) = ask(public, &document).await {
        return *reply;
    }
    let issued = match issue(public, &host, &request.csr, now) {
        Ok(issued) => issued,
        Err(reply) => return *reply,
    };
    let key = match key_of_request(&request.csr) {
        Ok(key) => key,
        Err(error) => return problem(StatusCode::BAD_REQUEST, "bad-csr", &error.to_string()),
    };
    let arch = if document.architecture.is_empty() { "x86_64" } else { rpm_arch(&document.architecture) };
    let new = NewInstance { document: &document, rule: entry.name(), key: &key, arch };
    let certificate = NewCertificate {
        serial: &issued.serial,
        host: &host,
        not_after: issued.not_after.as_second(),
        facts: &request.facts,
    };
    let enrolled = match &entry {
        Entry::Rule(_) => public.store.enrol_instance(&new, &certificate, now.as_second()).await,
        Entry::Member(..) => public.store.enrol_member(&new, &certificate, now.as_second()).await,
    };
    match enrolled {
        Ok(()) => {}
        Err(error @ (StoreError::Missing { .. } | StoreError::Conflict(_))) => return refused(&error, Some(&document)),
        Err(error) => return internal(&error),
    }
    tracing::info!(%host, enrolment = %entry.name(), "an instance enrolled by its identity");
    drop(place);
    let mut view = public.service.slot(&host).watch();
    let _ = timeout(KICKSTART, view.wait_for(Option::is_some)).await;
    hand_over(public, &host, issued)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cloud_must_know_the_instance_and_that_launch_of_it() {
        let json = serde_json::json!({"accountId": "123456789012", "region": "us-east-1", "imageId": "ami-00000000000000001",
            "instanceId": "i-0123456789abcdef0", "pendingTime": "2026-01-01T00:00:00Z"});
        let document: Document = serde_json::from_value(json).expect("a document");
        let known = |state, launched: Option<&str>| Instance {
            id: document.instance_id.clone(),
            state,
            reason: None,
            private: None,
            public: None,
            launched: launched.map(|at| at.parse().expect("a time")),
            role: String::new(),
        };
        let good = known(InstanceState::Pending, Some("2026-01-01T00:00:01Z"));
        assert_eq!(differs(&document, Some(&good)), None);
        assert_eq!(differs(&document, Some(&Instance { state: InstanceState::Running, ..good.clone() })), None);
        assert!(differs(&document, None).is_some());
        for bad in [
            Instance { state: InstanceState::Terminated, ..good.clone() },
            known(InstanceState::Running, Some("2026-01-01T00:10:00Z")),
            known(InstanceState::Running, Some("2025-12-31T23:50:00Z")),
            known(InstanceState::Running, None),
        ] {
            assert!(differs(&document, Some(&bad)).is_some(), "{bad:?}");
        }
    }
}
