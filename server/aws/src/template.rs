//! Launch templates: what instances are launched with that an Auto Scaling group starts.

use aws_sdk_ec2::types::{
    InstanceInterruptionBehavior, InstanceType, LaunchTemplate, LaunchTemplateBlockDeviceMappingRequest,
    LaunchTemplateEbsBlockDeviceRequest, LaunchTemplateHttpTokensState, LaunchTemplateInstanceMarketOptionsRequest,
    LaunchTemplateInstanceMetadataEndpointState, LaunchTemplateInstanceMetadataOptionsRequest,
    LaunchTemplateInstanceNetworkInterfaceSpecificationRequest, LaunchTemplateSpotMarketOptionsRequest,
    LaunchTemplateTagSpecificationRequest, MarketType, RequestLaunchTemplateData, ResourceType, SpotInstanceType, Tag,
    VolumeType,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rocks_provision::cloud::{Answer, CloudError, NewTemplate, TAG_PROVISION, TAG_SITE, Template};

use crate::client::Aws;
use crate::error::{failed, lacks};
use crate::name::{exactly, filter, tagged, token, value};

impl Aws {
    pub(crate) async fn make_template(&self, new: &NewTemplate) -> Answer<Template> {
        const ACTION: &str = "ec2:CreateLaunchTemplate";
        let create = self
            .ec2
            .create_launch_template()
            .client_token(token(&new.tags, &new.token))
            .launch_template_name(&new.name)
            .version_description(format!("Rocks: provision {}", new.tags.provision))
            .launch_template_data(data(new))
            .tag_specifications(tagged(ResourceType::LaunchTemplate, &new.tags));
        match create.send().await.map_err(|error| failed(ACTION, error)) {
            Ok(made) => made.launch_template().and_then(template).ok_or_else(|| lacks(ACTION, "launch template")),
            // Its token is forgotten after a while, its name is not.
            Err(CloudError::Exists(message)) => self.same_template(new, message).await,
            Err(error) => Err(error),
        }
    }

    /// The template that has the name already, if it was made for the same.
    async fn same_template(&self, new: &NewTemplate, message: String) -> Answer<Template> {
        const ACTION: &str = "ec2:DescribeLaunchTemplates";
        let ask = self.ec2.describe_launch_templates().filters(filter("launch-template-name", [exactly(&new.name)]));
        let found = ask.send().await.map_err(|error| failed(ACTION, error))?;
        let Some(known) = found.launch_templates().first() else {
            // It was made a moment ago, and is not shown everywhere yet.
            return Err(CloudError::Unclear(message));
        };
        let is_ours = value(known.tags(), TAG_SITE) == Some(new.tags.site.as_str())
            && value(known.tags(), TAG_PROVISION) == Some(new.tags.provision.as_str());
        match template(known) {
            Some(same) if is_ours => Ok(same),
            _ => Err(CloudError::Exists(message)),
        }
    }
}

fn data(new: &NewTemplate) -> RequestLaunchTemplateData {
    let imds = LaunchTemplateInstanceMetadataOptionsRequest::builder()
        .http_endpoint(LaunchTemplateInstanceMetadataEndpointState::Enabled)
        .http_tokens(LaunchTemplateHttpTokensState::Required)
        .http_put_response_hop_limit(1)
        .build();
    let mut root = LaunchTemplateEbsBlockDeviceRequest::builder().delete_on_termination(true);
    root = root.volume_type(VolumeType::Gp3).set_kms_key_id(new.kms_key.clone());
    if new.encrypted {
        // Never said to be false: a volume of an encrypted snapshot cannot be.
        root = root.encrypted(true);
    }
    // An image without a root volume names no device.
    let root = new.root_device.as_ref().map(|device| {
        vec![LaunchTemplateBlockDeviceMappingRequest::builder().device_name(device).ebs(root.build()).build()]
    });
    let spot = LaunchTemplateSpotMarketOptionsRequest::builder()
        .spot_instance_type(SpotInstanceType::OneTime)
        .instance_interruption_behavior(InstanceInterruptionBehavior::Terminate)
        .build();
    let market =
        LaunchTemplateInstanceMarketOptionsRequest::builder().market_type(MarketType::Spot).spot_options(spot).build();
    // A name for people, and no tag of ours: its instances end with their group, and are not taken for something that is left over.
    let name = Tag::builder().key("Name").value(format!("rocks {}", new.tags.provision)).build();
    let named = LaunchTemplateTagSpecificationRequest::builder().resource_type(ResourceType::Instance).tags(name);
    let groups: Vec<String> = new.groups.iter().map(ToString::to_string).collect();
    let mut data = RequestLaunchTemplateData::builder()
        .image_id(new.image.as_str())
        .instance_type(InstanceType::from(new.kind.as_str()))
        .user_data(STANDARD.encode(&new.user_data))
        .set_key_name(new.key.clone())
        .set_block_device_mappings(root)
        .metadata_options(imds)
        .set_instance_market_options(new.spot.then_some(market))
        .tag_specifications(named.build());
    // A template has a subnet only with a network interface, and then its groups are that interface's.
    match &new.subnet {
        Some(subnet) => {
            let interface = LaunchTemplateInstanceNetworkInterfaceSpecificationRequest::builder()
                .device_index(0)
                .subnet_id(subnet.as_str())
                .set_groups((!groups.is_empty()).then_some(groups))
                .build();
            data = data.network_interfaces(interface);
        }
        None => data = data.set_security_group_ids((!groups.is_empty()).then_some(groups)),
    }
    data.build()
}

/// A template as EC2 tells of it. Whose account it is in is said by who made it: `arn:aws:iam::123456789012:user/rocks`.
fn template(told: &LaunchTemplate) -> Option<Template> {
    let account = told.created_by()?.split(':').nth(4)?.parse().ok()?;
    Some(Template { id: told.launch_template_id()?.parse().ok()?, account })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> NewTemplate {
        NewTemplate {
            token: "compute-1/template".to_owned(),
            name: "rocks-compute-1-hq".to_owned(),
            image: "ami-0123456789abcdef0".parse().expect("an id"),
            kind: "m7i.large".to_owned(),
            subnet: None,
            groups: vec!["sg-0123456789abcdef0".parse().expect("an id")],
            user_data: "#!/bin/sh\n".to_owned(),
            key: None,
            spot: false,
            root_device: Some("/dev/xvda".to_owned()),
            encrypted: true,
            kms_key: None,
            tags: rocks_provision::cloud::Tags {
                site: "hq".to_owned(),
                provision: "compute-1".parse().expect("a name"),
                role: "template".to_owned(),
            },
        }
    }

    #[test]
    fn instances_of_a_template_ask_by_imdsv2_alone_and_have_none_of_our_tags() {
        let made = data(&wanted());
        let imds = made.metadata_options().expect("options");
        assert_eq!(imds.http_tokens(), Some(&LaunchTemplateHttpTokensState::Required));
        assert_eq!(imds.http_put_response_hop_limit(), Some(1));
        let root = made.block_device_mappings()[0].ebs().expect("of EBS");
        assert_eq!((root.encrypted(), root.volume_type()), (Some(true), Some(&VolumeType::Gp3)));
        let tags = made.tag_specifications()[0].tags();
        assert!(value(tags, TAG_SITE).is_none() && value(tags, "Name") == Some("rocks compute-1"));
        assert_eq!((made.security_group_ids().len(), made.network_interfaces().len()), (1, 0));
        let inside = data(&NewTemplate { subnet: "subnet-0123456789abcdef0".parse().ok(), ..wanted() });
        assert_eq!((inside.security_group_ids().len(), inside.network_interfaces()[0].groups().len()), (0, 1));
        let open = data(&NewTemplate { encrypted: false, ..wanted() });
        assert_eq!(open.block_device_mappings()[0].ebs().and_then(|ebs| ebs.encrypted()), None);
    }

    #[test]
    fn whose_account_a_template_is_in_is_read_from_who_made_it() {
        let told = |by: &str| {
            let told = LaunchTemplate::builder().launch_template_id("lt-0123456789abcdef0").created_by(by).build();
            template(&told).map(|made| made.account.to_string())
        };
        let ours = Some("123456789012".to_owned());
        assert_eq!(told("arn:aws:iam::123456789012:root"), ours);
        assert_eq!(told("arn:aws:sts::123456789012:assumed-role/rocks/i-0123456789abcdef0"), ours);
        assert_eq!(told("somebody"), None);
    }
}
