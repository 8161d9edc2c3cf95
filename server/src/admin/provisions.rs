//! Provisions: what an administrator asks for becomes an order, and its plan can be looked at first.

use std::net::Ipv4Addr;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use rocks_common::ids::{ApplianceName, ImageName};
use rocks_provision::cloud::BootMode;
use rocks_provision::ids::{AmiId, GroupId, ProvisionId, SnapshotId, SubnetId};
use rocks_provision::order::{End, Join, Method, Order, Shipment, Store};
use rocks_provision::plan::plan;
use rocks_provision::record::{Record, Status};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Admin;
use super::problem::{Answer, Asked, Failure, Input, Named, answer, done};
use crate::provision::ProvisionError;

/// How instances of a region can enrol by what they are.
pub(super) const CERTIFICATE: &str = "put the certificate that AWS publishes for RSA-2048 signatures there into a file, and name it in aws_identity_certificates";
/// The port that receivers listen at when nobody says otherwise.
const PORT: u16 = 8444;

impl From<ProvisionError> for Failure {
    fn from(error: ProvisionError) -> Self {
        let hint = error.hint();
        let failure = match error {
            ProvisionError::Store(error) => return error.into(),
            ProvisionError::Order(why) => Self::bad("bad-order", why),
            ProvisionError::NoCloud => Self::new(StatusCode::NOT_IMPLEMENTED, "no-cloud", error.to_string()),
            ProvisionError::Site(_) => Self::new(StatusCode::CONFLICT, "not-possible", error.to_string()),
            ProvisionError::Cloud(_) => Self::new(StatusCode::BAD_GATEWAY, "cloud", error.to_string()),
        };
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProvisionOrder {
    appliance: ApplianceName,
    method: Method,
    /// How many instances, one if nobody says; 0 makes the image alone. Of a template: how many living hosts there may be.
    count: Option<u32>,
    /// What is made in place of instances.
    #[serde(rename = "as")]
    form: Option<Form>,
    /// The provision's name; none: the appliance's with the first number that is free.
    name: Option<ProvisionId>,
    region: Option<String>,
    /// The image that instances are made of, if it is registered already.
    ami: Option<AmiId>,
    /// The image that is sent; none: the appliance's own, which is built if there is none.
    image: Option<ImageName>,
    /// GiB of its disk, if it is built.
    size: Option<u32>,
    boot: Option<BootMode>,
    /// The image of the receiver.
    receiver: Option<AmiId>,
    parent: Option<SnapshotId>,
    base: Option<ImageName>,
    /// What becomes of the image in S3.
    end: Option<End>,
    arch: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    receiver_type: Option<String>,
    subnet: Option<SubnetId>,
    /// What the instances join by; none: their identity, if there are several and it can be verified.
    join: Option<Join>,
    #[serde(default)]
    groups: Vec<GroupId>,
    key: Option<String>,
    #[serde(default)]
    spot: bool,
    encrypted: Option<bool>,
    kms_key: Option<String>,
    /// The frontend's address as instances see it.
    from: Option<Ipv4Addr>,
    #[serde(default)]
    inside: bool,
    port: Option<u16>,
    /// Only say what would be done.
    #[serde(default)]
    plan: bool,
}

/// What can be made in place of instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Form {
    /// A launch template.
    Template,
}

impl ProvisionOrder {
    fn shipment(&self, admin: &Admin) -> Result<Option<Shipment>, Failure> {
        if self.ami.is_some() {
            return Ok(None);
        }
        let name = match &self.image {
            Some(name) => name.clone(),
            None => self.appliance.as_str().parse().map_err(|error| Failure::bad("bad-name", format!("{error}")))?,
        };
        let image = match admin.images.get(&name) {
            Ok(image) => Some(image),
            Err(crate::images::ImageError::Missing(_)) if self.image.is_none() => None,
            Err(error) => return Err(error.into()),
        };
        let gib = image.as_ref().map(|image| u32::try_from(image.bytes.div_ceil(1 << 30)).unwrap_or(u32::MAX));
        Ok(Some(Shipment {
            build: image.is_none().then(|| self.appliance.clone()),
            image: name,
            // What is built gets a disk of this size.
            gib: gib.or(self.size).unwrap_or(8),
            boot: self.boot,
            receiver: self.receiver.clone(),
            parent: self.parent.clone(),
            base: self.base.clone(),
            store: self.store(admin)?,
        }))
    }

    /// How the image goes through S3, if it does.
    fn store(&self, admin: &Admin) -> Result<Option<Store>, Failure> {
        if self.method != Method::Bundle {
            let title = "only the method bundle has an end";
            return if self.end.is_none() { Ok(None) } else { Err(Failure::bad("bad-order", title)) };
        }
        let bucket = admin.provisions.bucket(self.region.as_ref().unwrap_or(&admin.config.aws_region))?;
        let role = admin.config.aws_import_role.clone();
        Ok(Some(Store { bucket, end: self.end.unwrap_or_default(), role }))
    }

    async fn order(self, admin: &Admin) -> Result<Order, Failure> {
        let shipment = self.shipment(admin)?;
        let frontend = self.from.or(admin.config.aws_frontend).or_else(|| {
            // A name that is an address is the one that agents use.
            admin.config.names.iter().find_map(|name| name.parse::<Ipv4Addr>().ok())
        });
        let needs_address = shipment.is_some() && matches!(self.method, Method::Udt | Method::Lite);
        let frontend = match frontend {
            Some(frontend) => frontend,
            None if !needs_address => Ipv4Addr::UNSPECIFIED,
            None => {
                let title = "the frontend's address is not known, and a receiver opens its port to that alone";
                return Err(Failure::bad("no-address", title).hint("say from=ADDRESS, or set aws_frontend"));
            }
        };
        let template = self.form == Some(Form::Template);
        let count = if template { 0 } else { self.count.unwrap_or(1) };
        let region = self.region.unwrap_or_else(|| admin.config.aws_region.clone());
        let architecture = match self.arch.as_deref() {
            None | Some("x86_64") => "x86_64",
            Some("arm64" | "aarch64") => "arm64",
            Some(other) => {
                let title = format!("there are no instances of architecture `{other}`");
                return Err(Failure::bad("bad-order", title).hint("say arch=x86_64 or arch=arm64"));
            }
        };
        let (is_arm, architecture) = (architecture == "arm64", architecture.to_owned());
        let is_verified = admin.config.aws_identity_certificates.contains_key(&region);
        let join = self.join.unwrap_or(if is_verified && count > 1 { Join::Identity } else { Join::Token });
        if (template || join == Join::Identity) && !is_verified {
            return Err(no_certificate(&region));
        }
        Ok(Order {
            join,
            hosts: admin.provisions.free_hosts(&self.appliance, count).await?,
            template,
            most: self.count.filter(|_| template),
            appliance: self.appliance,
            method: self.method,
            ami: self.ami,
            shipment,
            region,
            kind: self.kind.unwrap_or_else(|| if is_arm { "m7g.large" } else { "m7i.large" }.to_owned()),
            receiver_kind: self
                .receiver_type
                .unwrap_or_else(|| if is_arm { "t4g.medium" } else { "t3.medium" }.to_owned()),
            architecture,
            subnet: self.subnet,
            groups: self.groups,
            key: self.key,
            spot: self.spot,
            encrypted: self.encrypted.unwrap_or(true),
            kms_key: self.kms_key,
            frontend,
            inside: self.inside,
            port: self.port.unwrap_or(PORT),
        })
    }
}

/// A provision as it is shown: how many of its instances are where.
fn view(admin: &Admin, record: &Record) -> Value {
    let mut value = serde_json::to_value(record).unwrap_or_default();
    let converged = record.found.instances.values().filter(|one| one.converged.is_some()).count();
    let step = record.steps.iter().filter(|one| one.state == rocks_provision::record::StepState::Running);
    let steps: Vec<String> = step.map(|one| one.planned.step.tell(&record.order)).collect();
    value["name"] = json!(record.id);
    value["doing"] = json!(match &record.status {
        Status::Running => steps.join("; "),
        Status::Ending { .. } => match &record.trouble {
            Some(trouble) => format!("removing what it made; {trouble}; it is tried again"),
            None => "removing what it made".to_owned(),
        },
        _ => String::new(),
    });
    value["progress"] = json!(admin.provisions.doing(&record.id));
    value["instances"] = json!(format!("{converged}/{}", record.order.hosts.len()));
    if record.order.template {
        value["enrolment"] = json!(record.id);
    }
    value
}

/// Instances of a region could not enrol by what they are.
fn no_certificate(region: &str) -> Failure {
    let title = format!("there is no certificate that identity documents of {region} are verified with");
    Failure::new(StatusCode::CONFLICT, "no-identity-certificate", title).hint(CERTIFICATE)
}

pub(super) async fn create(State(admin): State<Admin>, Input(order): Input<ProvisionOrder>) -> Answer {
    let (name, only_plan) = (order.name.clone(), order.plan);
    let order = order.order(&admin).await?;
    order.check().map_err(|why| Failure::bad("bad-order", why))?;
    if !admin.store.appliances().await?.iter().any(|one| one.name == order.appliance) {
        let kind = "appliance";
        return Err(crate::store::StoreError::Missing { kind, name: order.appliance.to_string() }.into());
    }
    if only_plan {
        let steps: Vec<Value> = plan(&order)
            .into_iter()
            .map(|one| {
                json!({"step": one.step, "after": one.after, "does": one.step.tell(&order), "actions": one.step.actions()})
            })
            .collect();
        let forecast = match admin.provisions.site().predict(&order).await {
            Ok(predicted) => json!(predicted.estimate),
            Err(unknown) => json!({"unknown": unknown.what, "hint": unknown.hint}),
        };
        return answer(&json!({"order": order, "steps": steps, "forecast": forecast}));
    }
    let record = admin.provisions.begin(name, order).await?;
    Ok(Json(view(&admin, &record)))
}

pub(super) async fn list(State(admin): State<Admin>) -> Answer {
    let all: Vec<Value> = admin.provisions.list().await?.iter().map(|record| view(&admin, record)).collect();
    answer(&all)
}

/// A provision with the way of each of its instances: as an instance, and as a host from pending to converged.
pub(super) async fn show(State(admin): State<Admin>, Named(id): Named<ProvisionId>) -> Answer {
    let record = admin.provisions.get(&id).await?;
    let mut value = view(&admin, &record);
    let views = super::hosts::views(&admin).await?;
    let hosts = record.order.hosts.iter().map(|host| {
        let found = record.found.instances.get(host);
        let state = views.iter().find(|view| view.name() == host).map(|view| view.state);
        json!({"name": host, "id": found.map(|one| &one.id), "instance": found.map(|one| one.state),
               "address": found.and_then(|one| one.address), "state": state,
               "converged": found.and_then(|one| one.converged)})
    });
    value["hosts"] = hosts.collect();
    Ok(Json(value))
}

pub(super) async fn cancel(State(admin): State<Admin>, Named(id): Named<ProvisionId>) -> Answer {
    admin.provisions.cancel(&id).await?;
    done()
}

pub(super) async fn forget(State(admin): State<Admin>, Named(id): Named<ProvisionId>) -> Answer {
    admin.provisions.forget(&id).await?;
    done()
}

#[derive(Deserialize)]
pub(super) struct Region {
    region: Option<String>,
}

pub(super) async fn leaks(State(admin): State<Admin>, Asked(of): Asked<Region>) -> Answer {
    let region = of.region.unwrap_or_else(|| admin.config.aws_region.clone());
    let leaks = admin.provisions.leaks(&region).await?;
    let rows: Vec<Value> = leaks
        .iter()
        .map(|leak| {
            json!({"name": leak.resource.to_string(), "kind": json!(leak.resource)["kind"], "provision": leak.provision,
                           "role": leak.role, "region": region})
        })
        .collect();
    answer(&rows)
}

pub(super) async fn end_leaks(State(admin): State<Admin>, Asked(of): Asked<Region>) -> Answer {
    let region = of.region.unwrap_or_else(|| admin.config.aws_region.clone());
    let ended = admin.provisions.end_leaks(&region).await?;
    answer(&json!({"ended": ended.iter().map(ToString::to_string).collect::<Vec<_>>()}))
}
