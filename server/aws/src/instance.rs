//! Instances.

use std::net::Ipv4Addr;

use aws_sdk_ec2::types::{
    BlockDeviceMapping, EbsBlockDevice, HttpTokensState, InstanceInterruptionBehavior, InstanceMarketOptionsRequest,
    InstanceMetadataEndpointState, InstanceMetadataOptionsRequest, InstanceStateName, InstanceType, MarketType,
    ResourceType, SpotInstanceType, SpotMarketOptions, VolumeType,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rocks_provision::cloud::{Answer, CloudError, Instance, InstanceState, Launch};
use rocks_provision::ids::InstanceId;

use crate::client::Aws;
use crate::error::{failed, lacks};
use crate::name::{filter, purpose, tagged, token};
use crate::owned::PAGE;

/// The most values that a filter takes.
const VALUES: usize = 200;
/// The most instances that are ended by one call.
const ENDS: usize = 1000;

impl Aws {
    pub(crate) async fn launch_all(&self, launch: &Launch) -> Answer<Vec<InstanceId>> {
        const ACTION: &str = "ec2:RunInstances";
        let imds = InstanceMetadataOptionsRequest::builder()
            .http_endpoint(InstanceMetadataEndpointState::Enabled)
            .http_tokens(HttpTokensState::Required)
            .http_put_response_hop_limit(1)
            .build();
        let count = i32::try_from(launch.count).unwrap_or(i32::MAX);
        let groups: Vec<String> = launch.groups.iter().map(ToString::to_string).collect();
        let spot = SpotMarketOptions::builder()
            .spot_instance_type(SpotInstanceType::OneTime)
            .instance_interruption_behavior(InstanceInterruptionBehavior::Terminate)
            .build();
        let market = InstanceMarketOptionsRequest::builder().market_type(MarketType::Spot).spot_options(spot).build();
        // Its root volume has no tags of ours: it goes with it, and must not be taken for something that is left over.
        let run = self
            .ec2
            .run_instances()
            .client_token(token(&launch.tags, &launch.token))
            .image_id(launch.image.as_str())
            .instance_type(InstanceType::from(launch.kind.as_str()))
            .min_count(count)
            .max_count(count)
            .subnet_id(launch.subnet.as_str())
            .set_security_group_ids((!groups.is_empty()).then_some(groups))
            .user_data(STANDARD.encode(&launch.user_data))
            .set_key_name(launch.key.clone())
            .set_block_device_mappings(root(launch)?)
            .metadata_options(imds)
            .set_instance_market_options(launch.spot.then_some(market))
            .tag_specifications(tagged(ResourceType::Instance, &launch.tags));
        let answer = run.send().await.map_err(|error| failed(ACTION, error))?;
        let ids = answer.instances().iter().map(|one| one.instance_id().and_then(|id| id.parse().ok()));
        let ids: Option<Vec<InstanceId>> = ids.collect();
        ids.filter(|ids| !ids.is_empty()).ok_or_else(|| lacks(ACTION, "instance"))
    }

    /// By a filter: a list of ids would be refused for one that is not known yet.
    pub(crate) async fn look_at_instances(&self, ids: &[InstanceId]) -> Answer<Vec<Instance>> {
        const ACTION: &str = "ec2:DescribeInstances";
        let mut seen = Vec::with_capacity(ids.len());
        for ids in ids.chunks(VALUES) {
            let ask = self.ec2.describe_instances().filters(filter("instance-id", ids.iter().map(ToString::to_string)));
            let found = ask.into_paginator().page_size(PAGE).items().send().try_collect().await;
            for reservation in found.map_err(|error| failed(ACTION, error))? {
                seen.extend(reservation.instances().iter().filter_map(instance));
            }
        }
        Ok(seen)
    }

    pub(crate) async fn end_instances(&self, ids: &[InstanceId]) -> Answer<()> {
        for ids in ids.chunks(ENDS) {
            match self.end_at_once(ids).await {
                // None of them was ended then. What is gone has no tags, by which it would be allowed.
                Err(CloudError::Missing(_) | CloudError::Denied { .. }) => {
                    for id in ids {
                        self.end_instance(id).await?;
                    }
                }
                result => result?,
            }
        }
        Ok(())
    }

    pub(crate) async fn end_at_once(&self, ids: &[InstanceId]) -> Answer<()> {
        let all = ids.iter().map(ToString::to_string).collect();
        let end = self.ec2.terminate_instances().set_instance_ids(Some(all));
        end.send().await.map_err(|error| failed("ec2:TerminateInstances", error)).map(drop)
    }
}

/// What the root volume is like, if there is one.
fn root(launch: &Launch) -> Answer<Option<Vec<BlockDeviceMapping>>> {
    let Some(device) = &launch.root_device else { return Ok(None) };
    let mut ebs = EbsBlockDevice::builder().delete_on_termination(true).volume_type(VolumeType::Gp3);
    if let Some(gib) = launch.root_gib {
        ebs = ebs.volume_size(gibibytes(gib)?);
    }
    Ok(Some(vec![BlockDeviceMapping::builder().device_name(device).ebs(ebs.build()).build()]))
}

/// A size as EC2 takes it.
pub(crate) fn gibibytes(gib: u32) -> Answer<i32> {
    i32::try_from(gib).map_err(|_| CloudError::Refused {
        code: "InvalidSize".to_owned(),
        message: format!("{gib} GiB are no size of a volume"),
    })
}

/// An instance as EC2 tells of it; nothing if we do not understand it.
fn instance(told: &aws_sdk_ec2::types::Instance) -> Option<Instance> {
    let address = |text: Option<&str>| text.and_then(|text| text.parse::<Ipv4Addr>().ok());
    let launched = told.launch_time().and_then(|at| Timestamp::from_second(at.secs()).ok());
    let state = state(told.state()?.name()?);
    Some(Instance {
        id: told.instance_id()?.parse().ok()?,
        state,
        reason: reason(told).filter(|_| !matches!(state, InstanceState::Pending | InstanceState::Running)),
        private: address(told.private_ip_address()),
        public: address(told.public_ip_address()),
        launched,
        role: purpose(told.tags()).1,
    })
}

fn state(name: &InstanceStateName) -> InstanceState {
    match name {
        InstanceStateName::Running => InstanceState::Running,
        InstanceStateName::ShuttingDown => InstanceState::ShuttingDown,
        InstanceStateName::Stopped => InstanceState::Stopped,
        InstanceStateName::Stopping => InstanceState::Stopping,
        InstanceStateName::Terminated => InstanceState::Terminated,
        // One that is not known yet is on its way to somewhere.
        _ => InstanceState::Pending,
    }
}

fn reason(told: &aws_sdk_ec2::types::Instance) -> Option<String> {
    let said = told.state_reason()?;
    match (said.code(), said.message()) {
        (Some(code), Some(message)) if !message.starts_with(code) => Some(format!("{code}: {message}")),
        (_, Some(message)) => Some(message.to_owned()),
        (code, None) => code.map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::types::{self, StateReason, Tag};

    use super::*;

    #[test]
    fn an_instance_is_read_with_why_it_ended() {
        let why = StateReason::builder()
            .code("Server.SpotInstanceTermination")
            .message("Server.SpotInstanceTermination: Spot instance termination")
            .build();
        let told = types::Instance::builder()
            .instance_id("i-0123456789abcdef0")
            .state(types::InstanceState::builder().name(InstanceStateName::Terminated).build())
            .state_reason(why)
            .private_ip_address("10.0.0.9")
            .launch_time(aws_sdk_ec2::primitives::DateTime::from_secs(1_000_000_000))
            .tags(Tag::builder().key("rocks:role").value("compute-0-1").build());
        let read = instance(&told.clone().build()).expect("an instance");
        assert_eq!(read.state, InstanceState::Terminated);
        assert_eq!(read.reason.as_deref(), Some("Server.SpotInstanceTermination: Spot instance termination"));
        assert_eq!((read.private, read.public), (Some(Ipv4Addr::new(10, 0, 0, 9)), None));
        assert_eq!(read.launched.expect("a time").to_string(), "2001-09-09T01:46:40Z");
        assert_eq!(read.role, "compute-0-1");
        let bare = types::StateReason::builder().code("Client.InternalError").message("Client error on launch").build();
        let read = instance(&told.clone().state_reason(bare).build()).expect("an instance");
        assert_eq!(read.reason.as_deref(), Some("Client.InternalError: Client error on launch"));
        // EC2 says `pending` of those that start.
        let pending = types::InstanceState::builder().name(InstanceStateName::Pending).build();
        let read = instance(&told.state(pending).build()).expect("an instance");
        assert_eq!((read.state, read.reason), (InstanceState::Pending, None));
    }

    #[test]
    fn a_root_volume_goes_with_its_instance() {
        let mut launch = Launch {
            token: "compute-1/compute-0-1.0".to_owned(),
            count: 1,
            image: "ami-0123456789abcdef0".parse().expect("an id"),
            kind: "m7i.large".to_owned(),
            subnet: "subnet-0123456789abcdef0".parse().expect("an id"),
            groups: Vec::new(),
            user_data: String::new(),
            key: None,
            spot: false,
            root_gib: None,
            root_device: Some("/dev/xvda".to_owned()),
            tags: rocks_provision::cloud::Tags {
                site: "hq".to_owned(),
                provision: "compute-1".parse().expect("a name"),
                role: "compute-0-1".to_owned(),
            },
        };
        let ebs = |launch: &Launch| root(launch).expect("good").expect("a mapping").remove(0).ebs;
        let made = ebs(&launch).expect("of EBS");
        assert_eq!(
            (made.delete_on_termination, made.volume_size, made.volume_type),
            (Some(true), None, Some(VolumeType::Gp3))
        );
        launch.root_gib = Some(40);
        assert_eq!(ebs(&launch).and_then(|ebs| ebs.volume_size), Some(40));
        launch.root_gib = Some(u32::MAX);
        assert!(matches!(root(&launch), Err(CloudError::Refused { .. })));
        // What is on a disk of the host has no volume.
        launch.root_device = None;
        assert_eq!(root(&launch), Ok(None));
    }
}
