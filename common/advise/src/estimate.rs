//! A method's phases in their order, its WAN bytes and its bill.

use serde::Serialize;

use crate::ask::{Ask, Image, Method, Task};
use crate::cost::{self, Bill, Resources};
use crate::phase::{self, EBS_BLOCK, Load, Machine, PhaseKind, ebs_blocks};
use crate::prices::{InstanceType, PriceBook};
use crate::site::{Cut, PackageSource, Site};
use crate::units::{Bytes, Span};

/// Bytes of a kickstart and a report, compressed, with their headers: "a few KB move".
const MESSAGES: Bytes = Bytes(24 << 10);

/// Why a question cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdviseError {
    /// The price book has no such instance type.
    #[error("the prices of {book} have no instance type `{wanted}`; there are {known}")]
    UnknownType {
        /// What was asked for.
        wanted: String,
        /// The book.
        book: String,
        /// What there is.
        known: String,
    },
    /// Nothing is to be provisioned.
    #[error("a provision is of one instance at least")]
    NoInstances,
}

/// A phase of an estimate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Phase {
    /// Which.
    pub kind: PhaseKind,
    /// When it begins, from the start of the provision.
    pub start: Span,
    /// How long it takes.
    pub takes: Span,
    /// What it has to do: what an observation of it records, too.
    pub load: Load,
    /// How many observations the prediction rests on; 0: none, it is a prior.
    pub samples: u32,
}

impl Phase {
    /// When it ends.
    #[must_use]
    pub fn end(&self) -> Span {
        self.start + self.takes
    }
}

/// What a method is predicted to take and cost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    /// The method.
    pub method: Method,
    /// Its phases.
    pub phases: Vec<Phase>,
    /// From the start until all instances are what they should be.
    pub time: Span,
    /// What crosses the WAN.
    pub wan: Bytes,
    /// What it costs for the period.
    pub bill: Bill,
}

/// A method that the question or the prices exclude, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unavailable {
    /// The method.
    pub method: Method,
    /// Why not.
    pub reason: String,
}

/// The phases of a method as they are laid out.
struct Plan<'a> {
    site: &'a Site,
    phases: Vec<Phase>,
}

impl Plan<'_> {
    /// Puts a phase at `start`; gives its end. A phase without any time is left out.
    fn put(&mut self, kind: PhaseKind, start: Span, load: Load) -> Span {
        let takes = phase::predict(kind, &load, self.site);
        if takes > Span::ZERO {
            let samples = self.site.learned.of(kind).map_or(0, |learned| learned.samples);
            self.phases.push(Phase { kind, start, takes, load, samples });
        }
        start + takes
    }

    fn build(&mut self, image: &Image, start: Span) -> Span {
        match image.build {
            Some(items) => self.put(PhaseKind::Build, start, Load { items, ..Load::default() }),
            None => start,
        }
    }
}

/// The types that an ask names.
struct Types<'b> {
    instance: &'b InstanceType,
    receiver: &'b InstanceType,
}

fn machine(kind: &InstanceType) -> Machine {
    Machine { speed: kind.speed, disk: kind.disk }
}

fn types<'b>(ask: &Ask, book: &'b PriceBook) -> Result<Types<'b>, AdviseError> {
    let find = |name: &str| {
        book.instances.get(name).ok_or_else(|| AdviseError::UnknownType {
            wanted: name.to_owned(),
            book: book.to_string(),
            known: book.instances.keys().cloned().collect::<Vec<_>>().join(", "),
        })
    };
    if ask.count == 0 {
        return Err(AdviseError::NoInstances);
    }
    Ok(Types { instance: find(&ask.instance)?, receiver: find(&ask.receiver)? })
}

/// Why a method is out of the question; none: it is not.
fn excluded(method: Method, ask: &Ask, site: &Site, book: &PriceBook, types: &Types<'_>) -> Option<String> {
    match (method, ask.task) {
        (Method::Lite, Task::Reconfigure) => Some("running instances converge, as `converge`".to_owned()),
        (Method::Converge, Task::Provision) => Some("there is no instance yet".to_owned()),
        (Method::Ebs, _) if book.ebs_direct.is_none() => Some(format!("the prices of {book} have no EBS direct API")),
        (Method::Bundle, _) if site.cloud.import.is_none() && types.instance.disk.is_none() => {
            Some(format!("{} does not boot from a bundle", ask.instance))
        }
        _ => None,
    }
}

/// The estimates of all methods that come into question, and why the others do not.
///
/// # Errors
/// The question names an instance type without a price, or no instance.
pub fn estimates(ask: &Ask, site: &Site, book: &PriceBook) -> Result<(Vec<Estimate>, Vec<Unavailable>), AdviseError> {
    let types = types(ask, book)?;
    let (mut made, mut without) = (Vec::new(), Vec::new());
    for method in Method::ALL {
        match excluded(method, ask, site, book, &types) {
            None => made.push(one(method, ask, site, book, &types)),
            // That a reconfiguration is no provision needs no words.
            Some(_) if matches!(method, Method::Lite | Method::Converge) => {}
            Some(reason) => without.push(Unavailable { method, reason }),
        }
    }
    Ok((made, without))
}

fn one(method: Method, ask: &Ask, site: &Site, book: &PriceBook, types: &Types<'_>) -> Estimate {
    let mut plan = Plan { site, phases: Vec::new() };
    let mut used = Resources::default();
    match method {
        Method::Bundle => bundle(&mut plan, &mut used, ask, types),
        Method::Udt => udt(&mut plan, &mut used, ask, types),
        Method::Ebs => ebs(&mut plan, &mut used, ask, types),
        Method::Lite => lite(&mut plan, &mut used, ask, types),
        Method::Converge => {
            converge(&mut plan, &mut used, ask, Span::ZERO, None);
        }
    }
    let time = plan.phases.iter().map(Phase::end).max().unwrap_or(Span::ZERO);
    if method == Method::Converge {
        // They run already, and go on to.
        used.instances_run = ask.run;
        used.root_volume = ask.image.disk;
    } else {
        let started = plan.phases.iter().find(|phase| phase.kind == PhaseKind::Boot).map_or(time, |boot| boot.start);
        used.instances_run = ask.run.max(time.less(started));
    }
    let bill = cost::bill(&used, ask, site, book, types.instance, types.receiver);
    Estimate { method, phases: plan.phases, time, wan: used.wan, bill }
}

fn boot(plan: &mut Plan<'_>, ask: &Ask, types: &Types<'_>, start: Span) -> Span {
    let load = Load { count: ask.count, machine: machine(types.instance), ..Load::default() };
    plan.put(PhaseKind::Boot, start, load)
}

fn bundle(plan: &mut Plan<'_>, used: &mut Resources, ask: &Ask, types: &Types<'_>) {
    let (image, site) = (&ask.image, plan.site);
    let cut = match site.cut {
        Cut::Stream => image.packed,
        Cut::Disk => image.disk,
    };
    let parts = cut.0.div_ceil(site.part.0.max(1));
    // The parts' time is that of what they hold; an empty one is hardly a round trip.
    let full = image.packed.0.div_ceil(site.part.0.max(1));
    let at = plan.build(image, Span::ZERO);
    let at = plan.put(PhaseKind::Bundle, at, Load { raw: image.used, ..Load::default() });
    let at = plan.put(PhaseKind::Upload, at, Load { bytes: image.packed, items: full, ..Load::default() });
    used.wan = image.packed;
    used.puts = parts;
    used.stored = image.packed;
    let at = if site.cloud.import.is_some() {
        used.snapshot = image.used;
        used.root_volume = image.disk;
        plan.put(PhaseKind::Import, at, Load { raw: image.disk, ..Load::default() })
    } else {
        at
    };
    let at = plan.put(PhaseKind::Register, at, Load::default());
    let at = match site.cloud.import {
        Some(_) => at,
        None => {
            let load = Load { raw: image.disk, machine: machine(types.instance), ..Load::default() };
            plan.put(PhaseKind::Unpack, at, load)
        }
    };
    boot(plan, ask, types, at);
}

/// Sends `image` to a receiver and makes an AMI of it; gives when it is there.
fn ship(plan: &mut Plan<'_>, used: &mut Resources, image: &Image, types: &Types<'_>) -> Span {
    let (raw, packed) = image.missing();
    let receiver = Load { machine: machine(types.receiver), ..Load::default() };
    let built = plan.build(image, Span::ZERO);
    // With overlap the receiver starts as late as it can without being waited for: it is paid for.
    let ahead = phase::predict(PhaseKind::Receiver, &receiver, plan.site)
        + phase::predict(PhaseKind::Volume, &Load::default(), plan.site);
    let started = if plan.site.overlap { built.less(ahead) } else { built };
    let at = plan.put(PhaseKind::Receiver, started, receiver);
    let at = plan.put(PhaseKind::Volume, at, Load::default());
    let at = plan.put(PhaseKind::Ship, at.max(built), Load { bytes: packed, raw, ..Load::default() });
    let at = plan.put(PhaseKind::Snapshot, at, Load { raw, ..Load::default() });
    used.receiver_run = at.less(started);
    used.receiver_volume = image.disk;
    used.receivers = 1;
    used.written = used.written + raw;
    used.snapshot = raw;
    used.wan = used.wan + packed;
    plan.put(PhaseKind::Register, at, Load::default())
}

fn udt(plan: &mut Plan<'_>, used: &mut Resources, ask: &Ask, types: &Types<'_>) {
    used.root_volume = ask.image.disk;
    let at = ship(plan, used, &ask.image, types);
    boot(plan, ask, types, at);
}

fn ebs(plan: &mut Plan<'_>, used: &mut Resources, ask: &Ask, types: &Types<'_>) {
    let (raw, _) = ask.image.missing();
    let blocks = ebs_blocks(raw);
    let bytes = EBS_BLOCK * blocks;
    used.root_volume = ask.image.disk;
    used.snapshot = raw;
    used.ebs_blocks = blocks;
    used.wan = bytes;
    let at = plan.build(&ask.image, Span::ZERO);
    let at = plan.put(PhaseKind::PutBlocks, at, Load { bytes, items: blocks, ..Load::default() });
    let at = plan.put(PhaseKind::Seal, at, Load::default());
    let at = plan.put(PhaseKind::Register, at, Load::default());
    boot(plan, ask, types, at);
}

fn lite(plan: &mut Plan<'_>, used: &mut Resources, ask: &Ask, types: &Types<'_>) {
    // A lite image that is there costs nothing more; its disk is taken to be like the appliance's.
    used.root_volume = ask.lite.as_ref().map_or(ask.image.disk, |lite| lite.disk.max(ask.image.disk));
    let at = match &ask.lite {
        Some(lite) => ship(plan, used, lite, types),
        None => Span::ZERO,
    };
    let booted = boot(plan, ask, types, at);
    let load = Load { count: ask.count, ..Load::default() };
    let enrolled = plan.put(PhaseKind::Enrol, booted, load);
    converge(plan, used, ask, enrolled, Some(at));
}

/// Instances that are there become what they should be. `from`: since when packages can be published, where instances are new.
fn converge(plan: &mut Plan<'_>, used: &mut Resources, ask: &Ask, at: Span, new: Option<Span>) {
    let (added, site) = (&ask.added, plan.site);
    used.wan = used.wan + MESSAGES * ask.count;
    used.out = MESSAGES * ask.count;
    let noticed = match new {
        Some(_) => at,
        None => plan.put(PhaseKind::Notice, at, Load { count: ask.count, ..Load::default() }),
    };
    let mut at = noticed;
    if added.packages > 0 || added.bytes.0 > 0 {
        let one = Load { bytes: added.bytes, items: added.packages, count: ask.count, ..Load::default() };
        match site.packages {
            PackageSource::Frontend => used.wan = used.wan + added.bytes * ask.count,
            PackageSource::Region => {
                let load = Load { bytes: added.bytes, items: added.packages, ..Load::default() };
                at = at.max(plan.put(PhaseKind::Publish, new.unwrap_or(Span::ZERO), load));
                used.wan = used.wan + added.bytes;
                used.puts = added.packages;
            }
            PackageSource::Published => {}
        }
        if site.packages != PackageSource::Frontend {
            used.stored = added.bytes;
            used.gets = added.packages * ask.count;
        }
        let fetched = plan.put(phase::fetch(site.packages), at, one);
        at = plan.put(PhaseKind::Install, fetched, Load { items: added.packages, count: ask.count, ..Load::default() });
        used.written = used.written + added.installed * ask.count;
    }
    plan.put(PhaseKind::Scripts, at, Load { given: ask.scripts, count: ask.count, ..Load::default() });
}
