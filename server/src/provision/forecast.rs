//! What a provision will take and cost, from what this frontend knows; and what one took, for the next prediction.
//!
//! The model is [`rocks_advise`]'s. Here is what its questions are made of: images and their packages, the mirror, the order; and how the
//! steps of a provision are the phases of the model.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use rocks_advise::{
    Ask, Bytes, Estimate, History, Image, Link, Method, Observation, PackageSource, PhaseKind, PriceBook, Run, Site,
    Software, Span, Task,
};
use rocks_provision::order::{self, Order};
use rocks_provision::plan::Step;
use rocks_provision::record::{Record, Status};
use serde::{Deserialize, Serialize};

/// What is known of an image.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Known {
    /// Bytes of its disk.
    pub disk: u64,
    /// Bytes of it that are in use.
    pub used: u64,
    /// What is in use, compressed, if that was tried.
    pub packed: Option<u64>,
    /// Its packages as `name-version-release.arch`, if it was built here.
    pub packages: BTreeSet<String>,
}

impl Known {
    /// As the model has it.
    #[must_use]
    pub fn image(&self) -> Image {
        let image = Image::of(Bytes(self.used));
        let packed = self.packed.map_or(image.packed, Bytes);
        Image { disk: Bytes(self.disk).whole_gib(), packed, ..image }
    }
}

/// The name in `name-version-release.arch`.
#[must_use]
pub fn name_of(package: &str) -> &str {
    package.rsplitn(3, '-').nth(2).unwrap_or(package)
}

/// The packages of `wanted` that `there` lacks, of which `sizes` knows the bytes as they are fetched.
#[must_use]
pub fn added(wanted: &BTreeSet<String>, there: &BTreeSet<String>, sizes: &BTreeMap<String, u64>) -> Software {
    let lacks = wanted.difference(there);
    let (count, bytes) =
        lacks.fold((0, 0), |(count, bytes), name| (count + 1, bytes + sizes.get(name).copied().unwrap_or(0)));
    Software::of(count, Bytes(bytes))
}

/// What was predicted for a provision when it began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// The question.
    pub ask: Ask,
    /// The link that it was asked for.
    pub link: Link,
    /// What it was predicted to take.
    pub time: Span,
}

/// The site that predictions are made for. With a `bucket` that the configuration names, packages are in the region already; without, instances
/// fetch them from the frontend.
#[must_use]
pub fn site(link: Link, bucket: bool) -> Site {
    let packages = if bucket { PackageSource::Published } else { PackageSource::Frontend };
    Site { link, packages, ..Site::default() }
}

/// The same, for an order: of a bundle that is registered as it is, as in the paper, nothing is imported.
#[must_use]
pub fn site_for(site: Site, order: &Order) -> Site {
    let registers = order.store().is_some_and(|store| store.end == order::End::Register);
    let import = site.cloud.import.filter(|_| !registers);
    Site { cloud: rocks_advise::Cloud { import, ..site.cloud }, ..site }
}

/// The method as the model calls it.
#[must_use]
pub const fn method_of(method: order::Method) -> Method {
    match method {
        order::Method::Udt => Method::Udt,
        order::Method::Ebs => Method::Ebs,
        order::Method::Lite => Method::Lite,
        order::Method::Bundle => Method::Bundle,
    }
}

/// What an order asks of the model. `image`: what instances are in the end; `sent`: the image that is sent, if one is; `added`: what lite
/// instances lack.
#[must_use]
pub fn ask(order: &Order, image: &Known, sent: Option<&Known>, added: Software) -> Ask {
    let day = Span::from_seconds(24 * 3600);
    let builds = order.shipment.as_ref().is_some_and(|shipment| shipment.build.is_some());
    let build = builds.then_some(image.packages.len() as u64).filter(|packages| *packages > 0);
    Ask {
        task: Task::Provision,
        image: Image { build, ..image.image() },
        lite: sent.filter(|_| order.method == order::Method::Lite).map(Known::image),
        added,
        scripts: Span::ZERO,
        count: (order.hosts.len() as u64).max(1),
        instance: order.kind.clone(),
        receiver: order.receiver_kind.clone(),
        run: day,
        keep: day,
        prefer: rocks_advise::Prefer::default(),
    }
}

/// The estimate of one method; none if the model excludes it.
///
/// # Errors
/// There is no price of the region, or of an instance type.
pub fn estimate(
    ask: &Ask,
    method: Method,
    site: &Site,
    region: &str,
    history: &History,
) -> Result<Option<Estimate>, String> {
    let book = PriceBook::newest(region).ok_or_else(|| format!("no prices of region {region} are shipped"))?;
    let advice = rocks_advise::advise(ask, site, &book, history).map_err(|error| error.to_string())?;
    Ok(advice.estimates.into_iter().find(|one| one.method == method))
}

/// Which phases of the model happen in which steps. A group is measured as a whole.
const GROUPS: &[(&[Step], &[PhaseKind])] = &[
    (&[Step::Build], &[PhaseKind::Build]),
    (&[Step::Volume], &[PhaseKind::Volume]),
    // The receiver is up when it answers, which the shipment waits for.
    (&[Step::Receiver, Step::Attach, Step::Ship], &[PhaseKind::Receiver, PhaseKind::Ship]),
    (&[Step::Detach, Step::Snapshot], &[PhaseKind::Snapshot]),
    (&[Step::Blocks], &[PhaseKind::PutBlocks]),
    (&[Step::Seal], &[PhaseKind::Seal]),
    (&[Step::Bundle], &[PhaseKind::Bundle]),
    (&[Step::Upload], &[PhaseKind::Upload]),
    (&[Step::Import], &[PhaseKind::Import]),
    (&[Step::Register], &[PhaseKind::Register]),
    (
        &[Step::Launch, Step::Converge],
        &[
            PhaseKind::Boot,
            PhaseKind::Enrol,
            PhaseKind::Publish,
            PhaseKind::FetchWan,
            PhaseKind::FetchRegion,
            PhaseKind::Install,
            PhaseKind::Scripts,
        ],
    ),
];

fn between(from: Timestamp, to: Timestamp) -> Span {
    Span::from_seconds_f64((to.as_microsecond() - from.as_microsecond()).max(0) as f64 / 1e6)
}

/// What a group of steps took in all; nothing if one of them is not part of the provision or was not done.
fn took(record: &Record, steps: &[Step]) -> Option<Span> {
    let mut sum = 0.0;
    for step in steps {
        let one = record.steps.iter().find(|one| one.planned.step == *step)?;
        sum += between(one.began?, one.ended?).seconds();
    }
    Some(Span::from_seconds_f64(sum))
}

/// What a provision took beside what was predicted for it, if anything was; nothing if it did not come to its end, or not wholly.
///
/// Where several phases were measured as one, each gets the share of it that was predicted for it.
#[must_use]
pub fn run_of(record: &Record, forecast: &Forecast, predicted: Option<Span>, estimate: &Estimate) -> Option<Run> {
    let ended = record.ended.filter(|_| record.status == Status::Done && record.trouble.is_none())?;
    let mut phases = Vec::new();
    for (steps, kinds) in GROUPS {
        let parts: Vec<_> = estimate.phases.iter().filter(|phase| kinds.contains(&phase.kind)).collect();
        let whole: f64 = parts.iter().map(|phase| phase.takes.seconds()).sum();
        let Some(took) = took(record, steps).filter(|_| whole > 0.0) else { continue };
        phases.extend(parts.iter().map(|phase| Observation {
            phase: phase.kind,
            load: phase.load,
            took: Span::from_seconds_f64(took.seconds() * phase.takes.seconds() / whole),
        }));
    }
    Some(Run {
        at: record.began.to_string(),
        method: estimate.method,
        count: forecast.ask.count,
        link: forecast.link,
        predicted,
        took: between(record.began, ended),
        phases,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::Ipv4Addr;

    use rocks_provision::order::Shipment;
    use rocks_provision::record::StepState;

    use super::*;

    pub(crate) fn order(method: order::Method) -> Order {
        let shipment = Shipment {
            image: "lite".parse().unwrap(),
            build: None,
            gib: 8,
            boot: None,
            receiver: Some("ami-0bace000000000001".parse().unwrap()),
            parent: None,
            base: None,
            store: (method == order::Method::Bundle).then(|| order::Store {
                bucket: "rocks-site-us-east-1".parse().unwrap(),
                end: order::End::Import,
                role: None,
            }),
        };
        Order {
            appliance: "lite".parse().unwrap(),
            method,
            ami: None,
            shipment: Some(shipment),
            region: "us-east-1".to_owned(),
            hosts: (0..4).map(|n| format!("lite-0-{n}").parse().unwrap()).collect(),
            join: order::Join::Token,
            template: false,
            most: None,
            architecture: "x86_64".to_owned(),
            kind: "m7i.large".to_owned(),
            receiver_kind: "t3.medium".to_owned(),
            subnet: None,
            groups: Vec::new(),
            key: None,
            spot: false,
            encrypted: true,
            kms_key: None,
            frontend: Ipv4Addr::LOCALHOST,
            inside: false,
            port: 8444,
        }
    }

    fn link() -> Link {
        Site::default().link
    }

    fn here() -> Site {
        site(link(), false)
    }

    /// A provision in which every step took so many seconds.
    fn done(order: Order, seconds: i64) -> Record {
        let mut record = Record::new("lite-1".parse().unwrap(), "site".to_owned(), order, Timestamp::UNIX_EPOCH);
        let mut now = Timestamp::UNIX_EPOCH;
        let steps: Vec<Step> = record.steps.iter().map(|one| one.planned.step).collect();
        for step in steps {
            record.set(step, StepState::Running, now);
            now += jiff::SignedDuration::from_secs(seconds);
            record.set(step, StepState::Done, now);
        }
        record.status = Status::Done;
        record.ended = Some(now);
        record
    }

    fn known() -> Known {
        Known { disk: 8 << 30, used: 1_500_000_000, packed: Some(500_000_000), packages: BTreeSet::new() }
    }

    #[test]
    fn what_lite_instances_lack_is_what_the_other_image_has_more() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let sizes = BTreeMap::from([("java-17-1.x86_64".to_owned(), 40_000_000), ("bash-5-1.x86_64".to_owned(), 1)]);
        let lacks =
            added(&set(&["bash-5-1.x86_64", "java-17-1.x86_64", "vim-9-1.x86_64"]), &set(&["bash-5-1.x86_64"]), &sizes);
        assert_eq!((lacks.packages, lacks.bytes), (2, Bytes(40_000_000)));
        assert_eq!(name_of("java-17-openjdk-17.0.1-3.el9.x86_64"), "java-17-openjdk");
        assert_eq!(name_of("odd"), "odd");
    }

    #[test]
    fn every_phase_of_a_method_is_measured_in_one_group_of_its_steps() {
        for method in [order::Method::Udt, order::Method::Ebs, order::Method::Lite, order::Method::Bundle] {
            let order = order(method);
            let ask = ask(&order, &known(), Some(&known()), Software::of(10, Bytes(9_000_000)));
            let none = History::default();
            let estimate = estimate(&ask, method_of(method), &here(), "us-east-1", &none).unwrap().expect("possible");
            let forecast = Forecast { ask, link: link(), time: estimate.time };
            let run = run_of(&done(order, 7), &forecast, None, &estimate).expect("it is done");
            let mut seen: Vec<_> = run.phases.iter().map(|one| one.phase).collect();
            let mut all: Vec<_> =
                estimate.phases.iter().filter(|one| one.takes > Span::ZERO).map(|one| one.kind).collect();
            seen.sort();
            all.sort();
            assert_eq!(seen, all, "{method}");
        }
    }

    #[test]
    fn the_next_prediction_is_what_the_last_one_took() {
        for method in [order::Method::Udt, order::Method::Ebs, order::Method::Bundle] {
            let order = order(method);
            let ask = ask(&order, &known(), None, Software::default());
            let predict = |history: &History| {
                estimate(&ask, method_of(method), &here(), "us-east-1", history).unwrap().expect("possible")
            };
            let first = predict(&History::default());
            let forecast = Forecast { ask: ask.clone(), link: link(), time: first.time };
            // Steps that go on beside others, as the receiver's end does, are none that anybody waits for.
            let mut record = done(order, 9);
            let run = run_of(&record, &forecast, Some(forecast.time), &first).unwrap();
            let path: f64 = run.phases.iter().map(|one| one.took.seconds()).sum();
            let second = predict(&History { runs: vec![run] });
            let off = (second.time.seconds() / path - 1.0).abs();
            assert!(off < 0.15, "{method}: {} and then {} of {path}", first.time, second.time);
            // What failed teaches nothing.
            record.trouble = Some("one host did not converge".to_owned());
            assert_eq!(run_of(&record, &forecast, None, &first), None);
        }
    }

    #[test]
    fn a_bundle_that_is_registered_as_it_is_is_not_taken_for_one_that_is_imported() {
        let imports = |order: &Order| {
            let ask = ask(order, &known(), None, Software::default());
            let site = site_for(here(), order);
            let estimate = estimate(&ask, Method::Bundle, &site, "us-east-1", &History::default()).unwrap();
            estimate.map(|known| known.phases.iter().any(|one| one.kind == PhaseKind::Import))
        };
        let mut order = order(order::Method::Bundle);
        assert_eq!(imports(&order), Some(true));
        let store = order.shipment.as_mut().and_then(|shipment| shipment.store.as_mut()).expect("a store");
        store.end = order::End::Register;
        // A type without a disk of its own boots no bundle: nothing is predicted.
        assert_eq!(imports(&order), None);
    }

    #[test]
    fn what_has_no_price_is_said() {
        let ask = ask(&order(order::Method::Udt), &known(), None, Software::default());
        let error = estimate(&ask, Method::Udt, &here(), "moon-1", &History::default()).unwrap_err();
        assert_eq!(error, "no prices of region moon-1 are shipped");
    }
}
