//! Where things are: the region, its zones, the VPC and its subnets. They are there from the beginning and do not change.

use super::select::{Described, check_filters, filters, page, paged, passes};
use super::tags::{Tags, tag_set};
use super::{Cloud, Context};
use crate::config::Config;
use crate::error::{Answer, ApiError};
use crate::query::params::Params;
use crate::query::xml::Value;

/// The one VPC.
pub(crate) const VPC: &str = "vpc-0c10d0000000000aa";

/// One zone's part of the VPC.
#[derive(Debug, Clone)]
pub(crate) struct Subnet {
    pub(crate) id: String,
    pub(crate) zone: String,
    cidr: String,
}

static NO_TAGS: Tags = Tags::new();

impl Subnet {
    /// All of them, one a zone.
    pub(crate) fn all(config: &Config) -> Vec<Self> {
        let front = config.vpc_front().unwrap_or("10.88");
        let of = |(n, zone): (usize, String)| Self {
            id: format!("subnet-0c10d0000000000{:02x}", n + 1),
            zone,
            cidr: format!("{front}.{}.0/20", n * 16),
        };
        config.zone_names().into_iter().enumerate().map(of).collect()
    }

    /// An instance's private address: never the same for two, and in its zone's subnet.
    pub(crate) fn address(&self, number: u32) -> String {
        let front = self.cidr.split('/').next().unwrap_or_default();
        let parts: Vec<u32> = front.split('.').filter_map(|p| p.parse().ok()).collect();
        let [a, b, c, _] = parts[..] else { return String::new() };
        // AWS keeps the first four of a subnet.
        let at = number + 9;
        format!("{a}.{b}.{}.{}", c + at / 250, at % 250 + 4)
    }
}

/// How many instances can have an address before the numbers end.
pub(crate) const ADDRESSES: u32 = 3_900;

/// A zone's id, which is the same for all accounts.
pub(crate) fn zone_id(config: &Config, zone: &str) -> String {
    let short: String = match config.region.split('-').collect::<Vec<_>>()[..] {
        [area, direction, number] => {
            let letters: String = direction.chars().take(1).collect();
            format!("{area}{letters}{number}")
        }
        _ => config.region.clone(),
    };
    let number = config.zone_names().iter().position(|z| z == zone).map_or(0, |n| n + 1);
    format!("{short}-az{number}")
}

impl Described for Subnet {
    const FILTERS: &'static [&'static str] = &[
        "subnet-id",
        "vpc-id",
        "availability-zone",
        "availabilityZone",
        "default-for-az",
        "defaultForAz",
        "state",
        "cidr-block",
        "cidr",
    ];

    fn facts(&self, filter: &str) -> Vec<String> {
        vec![match filter {
            "subnet-id" => self.id.clone(),
            "vpc-id" => VPC.to_owned(),
            "availability-zone" | "availabilityZone" => self.zone.clone(),
            "default-for-az" | "defaultForAz" => "true".to_owned(),
            "state" => "available".to_owned(),
            _ => self.cidr.clone(),
        }]
    }

    fn tags(&self) -> &Tags {
        &NO_TAGS
    }
}

/// The VPC, to be filtered.
struct Vpc(String);

impl Described for Vpc {
    const FILTERS: &'static [&'static str] =
        &["vpc-id", "is-default", "isDefault", "state", "cidr", "cidr-block-association.cidr-block"];

    fn facts(&self, filter: &str) -> Vec<String> {
        vec![match filter {
            "vpc-id" => VPC.to_owned(),
            "is-default" | "isDefault" => "true".to_owned(),
            "state" => "available".to_owned(),
            _ => self.0.clone(),
        }]
    }

    fn tags(&self) -> &Tags {
        &NO_TAGS
    }
}

/// A zone, to be filtered.
struct Zone(String, Value, Vec<String>);

impl Described for Zone {
    const FILTERS: &'static [&'static str] =
        &["zone-name", "zone-id", "region-name", "state", "zone-type", "opt-in-status", "group-name"];

    fn facts(&self, filter: &str) -> Vec<String> {
        let at = Self::FILTERS.iter().position(|f| *f == filter).unwrap_or(0);
        self.2.get(at).cloned().into_iter().collect()
    }

    fn tags(&self) -> &Tags {
        &NO_TAGS
    }
}

impl Cloud {
    /// The subnet of an id.
    pub(super) fn subnet(&self, id: &str) -> Answer<Subnet> {
        Subnet::all(&self.config)
            .into_iter()
            .find(|s| s.id == id)
            .ok_or_else(|| ApiError::new("InvalidSubnetID.NotFound", format!("The subnet ID '{id}' does not exist")))
    }

    /// A zone's id.
    pub(crate) fn zone_id(&self, zone: &str) -> String {
        zone_id(&self.config, zone)
    }

    /// Checks that a zone exists.
    pub(super) fn check_zone(&self, zone: &str) -> Answer<()> {
        if self.config.zone_names().iter().any(|z| z == zone) {
            return Ok(());
        }
        Err(ApiError::new("InvalidZone.NotFound", format!("The zone '{zone}' does not exist.")))
    }

    pub(super) fn describe_availability_zones(&mut self, params: &Params, _: &Context<'_>) -> Answer<Value> {
        let (names, ids) = (params.texts("ZoneName"), params.texts("ZoneId"));
        params.flag("AllAvailabilityZones")?;
        let filters = filters(params, "Filter")?;
        check_filters::<Zone>(&filters)?;
        params.finish()?;
        for name in &names {
            if self.check_zone(name).is_err() {
                let message = format!("Invalid availability zone: [{name}]");
                return Err(ApiError::new("InvalidParameterValue", message));
            }
        }
        let region = self.config.region.clone();
        let zones: Vec<Zone> = self
            .config
            .zone_names()
            .into_iter()
            .map(|name| {
                let id = zone_id(&self.config, &name);
                let value = Value::of([
                    ("optInStatus", "opt-in-not-required".into()),
                    ("messageSet", Vec::new().into()),
                    ("regionName", (&region).into()),
                    ("zoneName", (&name).into()),
                    ("zoneId", (&id).into()),
                    ("groupName", (&region).into()),
                    ("networkBorderGroup", (&region).into()),
                    ("zoneType", "availability-zone".into()),
                    ("zoneState", "available".into()),
                ]);
                let rest = ["available", "availability-zone", "opt-in-not-required"].map(str::to_owned);
                let mut facts = vec![name.clone(), id.clone(), region.clone()];
                facts.extend(rest);
                facts.push(region.clone());
                Zone(id, value, facts)
            })
            .collect();
        let chosen = zones
            .into_iter()
            .filter(|z| {
                (names.is_empty() || names.contains(&z.2[0]))
                    && (ids.is_empty() || ids.contains(&z.0))
                    && passes(z, &filters)
            })
            .map(|z| z.1)
            .collect::<Vec<_>>();
        Ok(Value::of([("availabilityZoneInfo", chosen.into())]))
    }

    pub(super) fn describe_regions(&mut self, params: &Params, _: &Context<'_>) -> Answer<Value> {
        let names = params.texts("RegionName");
        params.flag("AllRegions")?;
        params.finish()?;
        let region = &self.config.region;
        if let Some(odd) = names.iter().find(|n| *n != region) {
            return Err(ApiError::new("InvalidParameterValue", format!("Invalid region name: {odd}")));
        }
        let info = Value::of([
            ("optInStatus", "opt-in-not-required".into()),
            ("regionName", region.into()),
            ("regionEndpoint", format!("ec2.{region}.amazonaws.com").into()),
        ]);
        Ok(Value::of([("regionInfo", vec![info].into())]))
    }

    pub(super) fn describe_subnets(&mut self, params: &Params, _: &Context<'_>) -> Answer<Value> {
        let ids = params.texts("SubnetId");
        let (filters, page) = (filters(params, "Filter")?, page(params, !ids.is_empty(), 5)?);
        check_filters::<Subnet>(&filters)?;
        params.finish()?;
        for id in &ids {
            self.subnet(id)?;
        }
        let all = Subnet::all(&self.config);
        let show = |s: &Subnet| {
            let used = self.instances.values().filter(|i| i.subnet == s.id && !i.state.gone()).count();
            Value::of([
                ("availabilityZoneId", zone_id(&self.config, &s.zone).into()),
                ("ownerId", (&self.config.account).into()),
                ("assignIpv6AddressOnCreation", false.into()),
                ("tagSet", tag_set(&NO_TAGS)),
                ("subnetArn", self.arn("subnet", &s.id).into()),
                ("subnetId", (&s.id).into()),
                ("state", "available".into()),
                ("vpcId", VPC.into()),
                ("cidrBlock", (&s.cidr).into()),
                ("availableIpAddressCount", (4091 - used.min(4091) as u64).into()),
                ("availabilityZone", (&s.zone).into()),
                ("defaultForAz", true.into()),
                ("mapPublicIpOnLaunch", true.into()),
            ])
        };
        let chosen = all
            .iter()
            .filter(|s| (ids.is_empty() || ids.contains(&s.id)) && passes(*s, &filters))
            .map(|s| (s.id.as_str(), show(s)));
        Ok(paged("subnetSet", page.take(chosen)))
    }

    pub(super) fn describe_vpcs(&mut self, params: &Params, _: &Context<'_>) -> Answer<Value> {
        let ids = params.texts("VpcId");
        let (filters, page) = (filters(params, "Filter")?, page(params, !ids.is_empty(), 5)?);
        check_filters::<Vpc>(&filters)?;
        params.finish()?;
        if let Some(odd) = ids.iter().find(|id| *id != VPC) {
            return Err(ApiError::new("InvalidVpcID.NotFound", format!("The vpc ID '{odd}' does not exist")));
        }
        let cidr = &self.config.vpc;
        let vpc = Value::of([
            ("ownerId", (&self.config.account).into()),
            ("instanceTenancy", "default".into()),
            ("isDefault", true.into()),
            ("tagSet", tag_set(&NO_TAGS)),
            ("vpcId", VPC.into()),
            ("state", "available".into()),
            ("cidrBlock", cidr.into()),
            ("dhcpOptionsId", "dopt-0c10d000000000001".into()),
        ]);
        let all = passes(&Vpc(cidr.clone()), &filters).then_some((VPC, vpc));
        Ok(paged("vpcSet", page.take(all)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_all_different_and_in_their_subnet() {
        let config = Config::default();
        let subnets = Subnet::all(&config);
        let mut seen = std::collections::BTreeSet::new();
        for n in 1..ADDRESSES {
            let a = subnets[1].address(n);
            let third: u32 = a.split('.').nth(2).and_then(|p| p.parse().ok()).expect("a number");
            assert!(a.starts_with("10.88.") && (16..32).contains(&third), "{a}");
            assert!(seen.insert(a));
        }
        assert_eq!(zone_id(&config, "us-east-1b"), "use1-az2");
        assert_eq!(subnets[0].address(1), "10.88.0.14");
    }
}
