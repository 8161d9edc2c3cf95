//! Subnets and security groups.

use std::collections::BTreeSet;

use aws_sdk_ec2::types::{
    InstanceTypeOffering, IpPermission, IpRange, Ipv6Range, LocationType, ResourceType, SecurityGroup,
};
use rocks_provision::cloud::{Answer, CloudError, Rule, Subnet, TAG_PROVISION, TAG_SITE, Tags};
use rocks_provision::ids::{GroupId, SubnetId};

use crate::client::Aws;
use crate::error::{failed, lacks};
use crate::name::{exactly, filter, tagged, value};
use crate::owned::PAGE;

impl Aws {
    /// The zones that have all these instance types; nothing if there are none to have.
    async fn zones_with(&self, kinds: &[&str]) -> Answer<Option<BTreeSet<String>>> {
        let mut zones: Option<BTreeSet<String>> = None;
        for kind in kinds {
            let ask = self.ec2.describe_instance_type_offerings().location_type(LocationType::AvailabilityZone);
            let ask = ask.filters(filter("instance-type", [*kind]));
            let all: Result<Vec<InstanceTypeOffering>, _> =
                ask.into_paginator().page_size(PAGE).items().send().try_collect().await;
            let all = all.map_err(|error| failed("ec2:DescribeInstanceTypeOfferings", error))?;
            let these: BTreeSet<String> = all.into_iter().filter_map(|one| one.location).collect();
            if these.is_empty() {
                let message = format!("this region has no instances of type {kind}");
                return Err(CloudError::Refused { code: "Unsupported".to_owned(), message });
            }
            zones = Some(zones.map_or(these.clone(), |zones| zones.intersection(&these).cloned().collect()));
        }
        Ok(zones)
    }

    pub(crate) async fn find_subnet(&self, id: Option<&SubnetId>, kinds: &[&str]) -> Answer<Subnet> {
        const ACTION: &str = "ec2:DescribeSubnets";
        let subnets = match id {
            Some(id) => {
                let found = self.ec2.describe_subnets().subnet_ids(id.as_str()).send().await;
                found.map_err(|error| failed(ACTION, error))?.subnets.unwrap_or_default()
            }
            None => {
                let ask = self.ec2.describe_subnets().filters(filter("default-for-az", ["true"]));
                let all = ask.into_paginator().page_size(PAGE).items().send().try_collect().await;
                let mut all: Vec<aws_sdk_ec2::types::Subnet> = all.map_err(|error| failed(ACTION, error))?;
                if let Some(zones) = self.zones_with(kinds).await? {
                    let has = |subnet: &aws_sdk_ec2::types::Subnet| {
                        subnet.availability_zone().is_some_and(|zone| zones.contains(zone))
                    };
                    if !all.is_empty() && !all.iter().any(has) {
                        let message = format!("no zone with a default subnet has all of {}", kinds.join(", "));
                        return Err(CloudError::Refused { code: "Unsupported".to_owned(), message });
                    }
                    all.retain(has);
                }
                all
            }
        };
        let first = subnets.into_iter().min_by(|a, b| a.availability_zone.cmp(&b.availability_zone));
        let Some(subnet) = first else {
            let message = "this region has no default VPC: name a subnet";
            return Err(CloudError::Refused { code: "NoDefaultSubnet".to_owned(), message: message.to_owned() });
        };
        Ok(Subnet {
            id: subnet.subnet_id().and_then(|id| id.parse().ok()).ok_or_else(|| lacks(ACTION, "subnet"))?,
            vpc: subnet.vpc_id.ok_or_else(|| lacks(ACTION, "VPC"))?,
            zone: subnet.availability_zone.ok_or_else(|| lacks(ACTION, "availability zone"))?,
            gives_public: subnet.map_public_ip_on_launch.unwrap_or(false),
        })
    }

    /// The group of that name, if there is one and it was made for the same.
    async fn find_group(&self, name: &str, vpc: &str, tags: &Tags) -> Answer<Option<GroupId>> {
        const ACTION: &str = "ec2:DescribeSecurityGroups";
        let ask = self.ec2.describe_security_groups();
        let ask = ask.filters(filter("vpc-id", [vpc])).filters(filter("group-name", [exactly(name)]));
        let found = ask.send().await.map_err(|error| failed(ACTION, error))?;
        let Some(group) = found.security_groups().first() else { return Ok(None) };
        let id = group.group_id().and_then(|id| id.parse().ok()).ok_or_else(|| lacks(ACTION, "group"))?;
        if is_for(group, tags) {
            return Ok(Some(id));
        }
        // Its rules are somebody else's, and undoing would not find it.
        Err(CloudError::Exists(format!("security group {name} ({id}) is there already, and not of this provision")))
    }

    pub(crate) async fn ensure_one_group(&self, name: &str, vpc: &str, tags: &Tags) -> Answer<GroupId> {
        const ACTION: &str = "ec2:CreateSecurityGroup";
        if let Some(id) = self.find_group(name, vpc, tags).await? {
            return Ok(id);
        }
        let made = self
            .ec2
            .create_security_group()
            .group_name(name)
            .description(format!("Rocks: provision {}", tags.provision))
            .vpc_id(vpc)
            .tag_specifications(tagged(ResourceType::SecurityGroup, tags));
        match made.send().await.map_err(|error| failed(ACTION, error)) {
            Ok(made) => made.group_id().and_then(|id| id.parse().ok()).ok_or_else(|| lacks(ACTION, "group")),
            // Whoever made it a moment ago is not heard of everywhere yet.
            Err(CloudError::Exists(message)) => match self.find_group(name, vpc, tags).await? {
                Some(id) => Ok(id),
                None => Err(CloudError::Unclear(message)),
            },
            Err(error) => Err(error),
        }
    }
}

fn is_for(group: &SecurityGroup, tags: &Tags) -> bool {
    value(group.tags(), TAG_SITE) == Some(tags.site.as_str())
        && value(group.tags(), TAG_PROVISION) == Some(tags.provision.as_str())
}

/// A rule as EC2 has it.
pub(crate) fn permission(rule: &Rule) -> IpPermission {
    let port = i32::from(rule.port);
    let permission = IpPermission::builder().ip_protocol(&rule.protocol).from_port(port).to_port(port);
    if rule.from.contains(':') {
        return permission.ipv6_ranges(Ipv6Range::builder().cidr_ipv6(&rule.from).build()).build();
    }
    permission.ip_ranges(IpRange::builder().cidr_ip(&rule.from).build()).build()
}
