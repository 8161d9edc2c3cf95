//! Attributes. Values of secret ones are shown only to those who ask for them.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use rocks_common::attr::Scope;
use rocks_common::check::HOST_ATTRIBUTES;
use rocks_common::ids::{AttrName, HostName};
use rocks_common::limits;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Admin;
use super::problem::{Answer, Asked, Failure, Input, Named, answer, done};
use crate::kickstart::CANARY;
use crate::near::{NEAR, RELAY};
use crate::store::{MASK, Owner, Setting};

/// Whether secret values are shown.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Shown {
    #[serde(default)]
    secrets: bool,
}

pub(super) async fn of_host(
    State(admin): State<Admin>,
    Named(name): Named<HostName>,
    Asked(shown): Asked<Shown>,
) -> Answer {
    let attributes = admin.service.attributes(&name).await?;
    let host = admin.store.host(&name).await?;
    let settings = admin.store.attributes().await?;
    let is_secret = |attribute: &AttrName, scope: Scope| {
        settings.iter().any(|s| s.secret && s.name == *attribute && s.scope_for(&host) == Some(scope))
    };
    let list: Vec<Value> = attributes
        .iter()
        .map(|(attribute, value, scope)| {
            let secret = is_secret(attribute, scope);
            let value = if secret && !shown.secrets { MASK } else { value };
            json!({"host": name, "name": attribute, "value": value, "secret": secret, "scope": scope,
                   "source": scope.letter()})
        })
        .collect();
    Ok(Json(Value::Array(list)))
}

pub(super) async fn list(State(admin): State<Admin>, Asked(shown): Asked<Shown>) -> Answer {
    let mut settings = admin.store.attributes().await?;
    for setting in settings.iter_mut().filter(|setting| setting.secret && !shown.secrets) {
        setting.value = MASK.to_owned();
    }
    answer(&settings)
}

pub(super) async fn set(State(admin): State<Admin>, Input(setting): Input<Setting>) -> Answer {
    if setting.value.len() > limits::ATTR_VALUE_BYTES {
        let title = format!("the value has {} bytes, more than {}", setting.value.len(), limits::ATTR_VALUE_BYTES);
        return Err(Failure::bad("too-large", title));
    }
    admin.store.set_attribute(&setting).await?;
    if is_unused(&admin, &setting.name).await { Ok(Json(json!({"unused": true}))) } else { done() }
}

/// How long is waited for rolls that were just added, before an attribute is said to be of no use.
const CATCH_UP: Duration = Duration::from_secs(2);

/// Whether nothing that is known of reads an attribute: neither the rolls in use nor the frontend itself.
async fn is_unused(admin: &Admin, name: &AttrName) -> bool {
    let name = name.as_str();
    if HOST_ATTRIBUTES.contains(&name) || [RELAY, NEAR, CANARY].contains(&name) {
        return false;
    }
    let unused = || {
        let sound = admin.service.last_sync().problems.is_none();
        sound && admin.service.rolls().is_some_and(|rolls| !rolls.mentions(name))
    };
    if !unused() {
        return false;
    }
    admin.service.catch_up(CATCH_UP).await;
    unused()
}

#[derive(Deserialize)]
pub(super) struct OldSetting {
    #[serde(flatten)]
    owner: Owner,
    name: AttrName,
}

pub(super) async fn remove(State(admin): State<Admin>, Input(old): Input<OldSetting>) -> Answer {
    admin.store.remove_attribute(&old.owner, &old.name).await?;
    done()
}
