//! Enrolments: rules by which instances become hosts that nobody announced.

use axum::extract::State;
use rocks_common::ids::{ApplianceName, EnrolmentName};
use rocks_provision::ids::{AccountId, AmiId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Admin;
use super::problem::{Answer, Failure, Input, Named, answer, done};
use crate::identity::{AGE, Rule};

pub(super) async fn list(State(admin): State<Admin>) -> Answer {
    let (rules, hosts) = (admin.store.enrolments().await?, admin.store.enrolled().await?);
    let view = |rule: &Rule| {
        let mut value = json!(rule);
        value["hosts"] = json!(hosts.values().filter(|one| one.enrolment == rule.name).count());
        value
    };
    answer(&rules.iter().map(view).collect::<Vec<Value>>())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewEnrolment {
    name: EnrolmentName,
    appliance: ApplianceName,
    account: AccountId,
    region: Option<String>,
    images: Vec<AmiId>,
    age_seconds: Option<u32>,
    count: Option<u32>,
}

pub(super) async fn add(State(admin): State<Admin>, Input(new): Input<NewEnrolment>) -> Answer {
    let rule = Rule {
        name: new.name,
        appliance: new.appliance,
        account: new.account,
        region: new.region.unwrap_or_else(|| admin.config.aws_region.clone()),
        images: new.images,
        age_seconds: new.age_seconds.unwrap_or(AGE),
        count: new.count,
        provision: None,
    };
    rule.check().map_err(|why| Failure::bad("bad-enrolment", why))?;
    admin.store.add_enrolment(&rule).await?;
    done()
}

pub(super) async fn remove(State(admin): State<Admin>, Named(name): Named<EnrolmentName>) -> Answer {
    admin.store.remove_enrolment(&name).await?;
    done()
}
