//! The instance types that this cloud has: a few of each kind that a product has to tell apart.

use super::select::{Described, check_filters, filters, page, paged, passes};
use super::tags::Tags;
use super::{Cloud, Context};
use crate::error::{Answer, ApiError};
use crate::query::params::Params;
use crate::query::xml::Value;

/// An instance type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Type {
    pub(crate) name: &'static str,
    pub(crate) vcpus: u32,
    pub(crate) mib: u32,
    pub(crate) architectures: &'static [&'static str],
    /// Nitro shows volumes as NVMe and needs ENA; Xen shows them as `xvd`.
    pub(crate) nitro: bool,
    pub(crate) virtualization: &'static [&'static str],
    pub(crate) current: bool,
    pub(crate) network: &'static str,
}

const HVM: &[&str] = &["hvm"];
const BOTH: &[&str] = &["hvm", "paravirtual"];
const X86: &[&str] = &["x86_64"];
const OLD: &[&str] = &["i386", "x86_64"];
const ARM: &[&str] = &["arm64"];

const fn nitro(name: &'static str, vcpus: u32, mib: u32) -> Type {
    Type {
        name,
        vcpus,
        mib,
        architectures: X86,
        nitro: true,
        virtualization: HVM,
        current: true,
        network: "Up to 10 Gigabit",
    }
}

const fn arm(name: &'static str, vcpus: u32, mib: u32) -> Type {
    Type { architectures: ARM, ..nitro(name, vcpus, mib) }
}

const fn xen(
    name: &'static str,
    vcpus: u32,
    mib: u32,
    architectures: &'static [&'static str],
    virtualization: &'static [&'static str],
) -> Type {
    Type { name, vcpus, mib, architectures, nitro: false, virtualization, current: false, network: "Low to Moderate" }
}

/// In the order of their names.
const TYPES: &[Type] = &[
    xen("c1.medium", 2, 1740, OLD, BOTH),
    xen("c1.xlarge", 8, 7168, X86, BOTH),
    nitro("c5.2xlarge", 8, 16384),
    nitro("c5.large", 2, 4096),
    nitro("c5.xlarge", 4, 8192),
    arm("c7g.large", 2, 4096),
    xen("m1.large", 2, 7680, X86, BOTH),
    xen("m1.medium", 1, 3840, OLD, BOTH),
    xen("m1.small", 1, 1740, OLD, BOTH),
    xen("m4.large", 2, 8192, X86, HVM),
    nitro("m5.2xlarge", 8, 32768),
    nitro("m5.large", 2, 8192),
    nitro("m5.xlarge", 4, 16384),
    arm("m6g.large", 2, 8192),
    nitro("m6i.large", 2, 8192),
    arm("m7g.large", 2, 8192),
    nitro("m7i.large", 2, 8192),
    nitro("r5.large", 2, 16384),
    xen("t2.micro", 1, 1024, OLD, HVM),
    xen("t2.small", 1, 2048, OLD, HVM),
    nitro("t3.large", 2, 8192),
    nitro("t3.medium", 2, 4096),
    nitro("t3.micro", 2, 1024),
    nitro("t3.nano", 2, 512),
    nitro("t3.small", 2, 2048),
    arm("t4g.medium", 2, 4096),
    arm("t4g.micro", 2, 1024),
];

/// The type of a name.
pub(crate) fn find(name: &str) -> Answer<&'static Type> {
    TYPES
        .iter()
        .find(|t| t.name == name)
        .ok_or_else(|| ApiError::new("InvalidParameterValue", format!("Invalid value '{name}' for InstanceType.")))
}

static NO_TAGS: Tags = Tags::new();

impl Described for Type {
    const FILTERS: &'static [&'static str] = &[
        "instance-type",
        "current-generation",
        "hypervisor",
        "processor-info.supported-architecture",
        "vcpu-info.default-vcpus",
        "memory-info.size-in-mib",
        "supported-virtualization-type",
    ];

    fn facts(&self, filter: &str) -> Vec<String> {
        let many = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect();
        match filter {
            "instance-type" => vec![self.name.to_owned()],
            "current-generation" => vec![self.current.to_string()],
            "hypervisor" => vec![self.hypervisor().to_owned()],
            "processor-info.supported-architecture" => many(self.architectures),
            "vcpu-info.default-vcpus" => vec![self.vcpus.to_string()],
            "memory-info.size-in-mib" => vec![self.mib.to_string()],
            _ => many(self.virtualization),
        }
    }

    fn tags(&self) -> &Tags {
        &NO_TAGS
    }
}

/// A type in a place.
struct Offering {
    name: &'static str,
    place: String,
}

impl Described for Offering {
    const FILTERS: &'static [&'static str] = &["instance-type", "location"];

    fn facts(&self, filter: &str) -> Vec<String> {
        vec![if filter == "location" { self.place.clone() } else { self.name.to_owned() }]
    }

    fn tags(&self) -> &Tags {
        &NO_TAGS
    }
}

impl Type {
    pub(crate) fn hypervisor(&self) -> &'static str {
        if self.nitro { "nitro" } else { "xen" }
    }

    fn show(&self) -> Value {
        Value::of([
            ("instanceType", self.name.into()),
            ("currentGeneration", self.current.into()),
            ("supportedUsageClasses", Value::texts(["on-demand", "spot"])),
            ("supportedRootDeviceTypes", Value::texts(["ebs"])),
            ("supportedVirtualizationTypes", Value::texts(self.virtualization.iter().copied())),
            ("bareMetal", false.into()),
            ("hypervisor", self.hypervisor().into()),
            (
                "processorInfo",
                Value::of([("supportedArchitectures", Value::texts(self.architectures.iter().copied()))]),
            ),
            (
                "vCpuInfo",
                Value::of([
                    ("defaultVCpus", self.vcpus.into()),
                    ("defaultCores", self.vcpus.div_ceil(2).into()),
                    ("defaultThreadsPerCore", self.vcpus.min(2).into()),
                ]),
            ),
            ("memoryInfo", Value::of([("sizeInMiB", self.mib.into())])),
            ("instanceStorageSupported", false.into()),
            (
                "ebsInfo",
                Value::of([
                    ("encryptionSupport", "supported".into()),
                    ("nvmeSupport", if self.nitro { "required" } else { "unsupported" }.into()),
                ]),
            ),
            (
                "networkInfo",
                Value::of([
                    ("networkPerformance", self.network.into()),
                    ("enaSupport", if self.nitro { "required" } else { "unsupported" }.into()),
                ]),
            ),
            ("burstablePerformanceSupported", self.name.starts_with('t').into()),
            (
                "supportedBootModes",
                if self.nitro { Value::texts(["legacy-bios", "uefi"]) } else { Value::texts(["legacy-bios"]) },
            ),
        ])
    }
}

impl Cloud {
    pub(super) fn describe_instance_types(&mut self, params: &Params, _: &Context<'_>) -> Answer<Value> {
        let names = params.texts("InstanceType");
        let (filters, page) = (filters(params, "Filter")?, page(params, !names.is_empty(), 5)?);
        check_filters::<Type>(&filters)?;
        params.finish()?;
        if let Some(odd) = names.iter().find(|n| find(n).is_err()) {
            let message = format!("The following supplied instance types do not exist: [{odd}]");
            return Err(ApiError::new("InvalidInstanceType", message));
        }
        let wanted = |t: &&Type| (names.is_empty() || names.iter().any(|n| n == t.name)) && passes(*t, &filters);
        let all = TYPES.iter().filter(wanted).map(|t| (t.name, t.show()));
        Ok(paged("instanceTypeSet", page.take(all)))
    }

    pub(super) fn describe_instance_type_offerings(&mut self, params: &Params, _: &Context<'_>) -> Answer<Value> {
        let (filters, page) = (filters(params, "Filter")?, page(params, false, 5)?);
        check_filters::<Offering>(&filters)?;
        let kind = params.text("LocationType").unwrap_or("region").to_owned();
        params.finish()?;
        let places = match kind.as_str() {
            "region" => vec![self.config.region.clone()],
            "availability-zone" => self.config.zone_names(),
            other => return Err(ApiError::invalid(other, "LocationType", "Expected region or availability-zone.")),
        };
        let all: Vec<(String, Value)> = TYPES
            .iter()
            .flat_map(|t| places.iter().map(|place| Offering { name: t.name, place: place.clone() }))
            .filter(|offering| self.config.offers(&offering.place, offering.name) && passes(offering, &filters))
            .map(|o| {
                let value = Value::of([
                    ("instanceType", o.name.into()),
                    ("locationType", (&kind).into()),
                    ("location", (&o.place).into()),
                ]);
                (format!("{} {}", o.name, o.place), value)
            })
            .collect();
        Ok(paged("instanceTypeOfferingSet", page.take(all.iter().map(|(k, v)| (k.as_str(), v.clone())))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_order_so_that_pages_work() {
        assert!(TYPES.windows(2).all(|w| w[0].name < w[1].name));
        assert!(find("m5.large").is_ok_and(|t| t.nitro) && find("m1.small").is_ok_and(|t| !t.nitro));
        assert_eq!(find("z9.none").expect_err("none").code, "InvalidParameterValue");
    }
}
