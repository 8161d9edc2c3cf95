//! Which method to take, from what this frontend knows.

use axum::extract::State;
use axum::http::StatusCode;
use rocks_advise::{Advice, Ask, Bytes, Image, Link, Prefer, PriceBook, Rate, Software, Span, Task, advise, output};
use rocks_common::ids::{ApplianceName, ImageName};
use serde::Deserialize;
use serde_json::json;

use super::Admin;
use super::problem::{Answer, Failure, Input, answer};
use crate::provision::forecast::Known;
use crate::provision::known::Unknown;
use crate::provision::site::rpm_arch;

impl From<Unknown> for Failure {
    fn from(unknown: Unknown) -> Self {
        let failure = Self::new(StatusCode::CONFLICT, "not-known", unknown.what);
        match unknown.hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    appliance: ApplianceName,
    #[serde(default = "one")]
    count: u64,
    /// The appliance's image on this frontend; none: that of its name.
    image: Option<ImageName>,
    /// The lite image on this frontend; none: `lite`.
    lite: Option<ImageName>,
    /// What of the image is in use, if there is none.
    image_bytes: Option<Bytes>,
    /// The packages that lite instances lack, as they are fetched.
    packages_bytes: Option<Bytes>,
    region: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    receiver_type: Option<String>,
    arch: Option<String>,
    /// How long instances are paid for.
    period: Option<Span>,
    /// How long volumes, snapshots and objects are paid for.
    keep: Option<Span>,
    link: Option<Rate>,
    rtt: Option<Span>,
    loss: Option<String>,
    prefer: Option<String>,
    /// Whether the picture is wanted.
    #[serde(default)]
    picture: bool,
}

const fn one() -> u64 {
    1
}

impl Question {
    fn link(&self, usual: Link) -> Result<Link, Failure> {
        let share = |text: &str| {
            let number = text.strip_suffix('%').and_then(|number| number.parse::<f64>().ok());
            number.filter(|percent| (0.0..=50.0).contains(percent)).map(|percent| percent / 100.0)
        };
        let loss = match &self.loss {
            None => usual.loss,
            Some(text) => share(text).ok_or_else(|| {
                Failure::bad("bad-loss", format!("{text:?} is no share of packets")).hint("0% to 50%, as in 0.1%")
            })?,
        };
        Ok(Link { rate: self.link.unwrap_or(usual.rate), rtt: self.rtt.unwrap_or(usual.rtt), loss })
    }

    /// The question to the model.
    async fn ask(&self, admin: &Admin) -> Result<Ask, Failure> {
        let site = admin.provisions.site();
        let own: ImageName = match &self.image {
            Some(image) => image.clone(),
            None => self.appliance.as_str().parse().map_err(|error| Failure::bad("bad-name", format!("{error}")))?,
        };
        let known = match self.image_bytes {
            Some(_) => None,
            None => Some(site.known(&own).await?),
        };
        let image = known.as_ref().map_or_else(|| Image::of(self.image_bytes.unwrap_or_default()), Known::image);
        let lite: ImageName = match &self.lite {
            Some(lite) => lite.clone(),
            None => "lite".parse().map_err(|error| Failure::internal(&error))?,
        };
        let lite_known =
            if self.lite.is_some() { Some(site.known(&lite).await?) } else { site.known(&lite).await.ok() };
        let added = match (self.packages_bytes, &lite_known) {
            (Some(bytes), _) => Software::of(bytes.0.div_ceil(1_000_000), bytes),
            (None, Some(lite)) => {
                let arch = self.arch.as_deref().map_or("x86_64", rpm_arch);
                site.added(&self.appliance, known.as_ref(), lite, arch).await?
            }
            (None, None) => {
                let what = "what lite instances lack of it is not known: there is no image `lite`";
                return Err(Failure::new(StatusCode::CONFLICT, "not-known", what)
                    .hint("build it with `rocks create image lite`, name another with `lite=IMAGE`, or say `packages-bytes=SIZE`"));
            }
        };
        let shipped = match &lite_known {
            Some(known) if !site.is_in_cloud(&lite).await? => Some(known.image()),
            _ => None,
        };
        let run = self.period.unwrap_or(Span::from_seconds(24 * 3600));
        let prefer = self.prefer.as_deref().map(str::parse::<Prefer>).transpose();
        Ok(Ask {
            task: Task::Provision,
            image,
            lite: shipped,
            added,
            scripts: Span::ZERO,
            count: self.count,
            instance: self.kind.clone().unwrap_or_else(|| "m7i.large".to_owned()),
            receiver: self.receiver_type.clone().unwrap_or_else(|| "t3.medium".to_owned()),
            run,
            keep: self.keep.unwrap_or(run),
            prefer: prefer.map_err(|error| Failure::bad("bad-preference", error.to_string()))?.unwrap_or_default(),
        })
    }
}

pub(super) async fn provision(State(admin): State<Admin>, Input(question): Input<Question>) -> Answer {
    if !admin.store.appliances().await?.iter().any(|one| one.name == question.appliance) {
        let name = question.appliance.to_string();
        return Err(crate::store::StoreError::Missing { kind: "appliance", name }.into());
    }
    let frontend = admin.provisions.site();
    let link = question.link(frontend.link())?;
    let (ask, site, history) = (question.ask(&admin).await?, frontend.place(link), frontend.history().await?);
    let region = question.region.as_ref().unwrap_or(&admin.config.aws_region);
    let book = PriceBook::newest(region).ok_or_else(|| {
        let title = format!("no prices of region {region} are shipped");
        Failure::bad("no-prices", title).hint("`rocks-server advise` takes a price book of your own")
    })?;
    let refused = |error: rocks_advise::AdviseError| Failure::bad("bad-question", error.to_string());
    let advice: Advice = advise(&ask, &site, &book, &history).map_err(refused)?;
    let text = output::table::table(&advice);
    let picture = question.picture.then(|| output::svg::svg(&ask, &site, &book, &history)).transpose();
    answer(&json!({"advice": advice, "text": text, "picture": picture.map_err(refused)?}))
}
