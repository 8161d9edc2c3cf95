//! Launch templates: calls of RunInstances, or parts of such, that are kept.

use super::select::{Described, check_filters, filters, page, paged, passes};
use super::tags::{Tags, specified, tag_set};
use super::time::{Millis, iso};
use super::{Cloud, Context};
use crate::error::{Answer, ApiError};
use crate::query::params::Params;
use crate::query::xml::Value;

/// A template. It has one version: newer ones are made as templates of their own here.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    id: String,
    pub(super) name: String,
    description: Option<String>,
    data: Params,
    created: Millis,
    by: String,
    pub(crate) tags: Tags,
}

impl Described for Template {
    const FILTERS: &'static [&'static str] = &["launch-template-name", "create-time"];

    fn facts(&self, filter: &str) -> Vec<String> {
        vec![if filter == "create-time" { iso(self.created) } else { self.name.clone() }]
    }

    fn tags(&self) -> &Tags {
        &self.tags
    }
}

impl Template {
    fn show(&self) -> Value {
        Value::of([
            ("launchTemplateId", (&self.id).into()),
            ("launchTemplateName", (&self.name).into()),
            ("createTime", iso(self.created).into()),
            ("createdBy", (&self.by).into()),
            ("defaultVersionNumber", 1u32.into()),
            ("latestVersionNumber", 1u32.into()),
            ("tagSet", tag_set(&self.tags)),
        ])
    }

    fn show_version(&self) -> Value {
        Value::of([
            ("launchTemplateId", (&self.id).into()),
            ("launchTemplateName", (&self.name).into()),
            ("versionNumber", 1u32.into()),
            ("versionDescription", self.description.as_ref().into()),
            ("createTime", iso(self.created).into()),
            ("createdBy", (&self.by).into()),
            ("defaultVersion", true.into()),
            ("launchTemplateData", show_data(&self.data)),
        ])
    }
}

/// The parts of a launch that a template may have, and how an answer calls them.
const TEXTS: [(&str, &str); 7] = [
    ("ImageId", "imageId"),
    ("InstanceType", "instanceType"),
    ("KeyName", "keyName"),
    ("UserData", "userData"),
    ("EbsOptimized", "ebsOptimized"),
    ("DisableApiTermination", "disableApiTermination"),
    ("InstanceInitiatedShutdownBehavior", "instanceInitiatedShutdownBehavior"),
];
const METADATA: [(&str, &str); 5] = [
    ("HttpTokens", "httpTokens"),
    ("HttpPutResponseHopLimit", "httpPutResponseHopLimit"),
    ("HttpEndpoint", "httpEndpoint"),
    ("HttpProtocolIpv6", "httpProtocolIpv6"),
    ("InstanceMetadataTags", "instanceMetadataTags"),
];
const EBS: [(&str, &str); 8] = [
    ("Encrypted", "encrypted"),
    ("DeleteOnTermination", "deleteOnTermination"),
    ("Iops", "iops"),
    ("KmsKeyId", "kmsKeyId"),
    ("SnapshotId", "snapshotId"),
    ("VolumeSize", "volumeSize"),
    ("VolumeType", "volumeType"),
    ("Throughput", "throughput"),
];
const INTERFACE: [(&str, &str); 5] = [
    ("AssociatePublicIpAddress", "associatePublicIpAddress"),
    ("DeleteOnTermination", "deleteOnTermination"),
    ("Description", "description"),
    ("DeviceIndex", "deviceIndex"),
    ("SubnetId", "subnetId"),
];

fn texts(params: &Params, names: &[(&str, &'static str)]) -> Value {
    Value::Struct(names.iter().map(|(from, to)| (*to, params.text(from).into())).collect())
}

fn show_data(data: &Params) -> Value {
    let part = |name: &str, names: &[(&str, &'static str)]| data.child(name).map(|p| texts(p, names));
    let mappings = data.list("BlockDeviceMapping").into_iter().map(|m| {
        texts(m, &[("DeviceName", "deviceName"), ("NoDevice", "noDevice")])
            .with("ebs", m.child("Ebs").map(|e| texts(e, &EBS)))
    });
    let interfaces = data.list("NetworkInterface").into_iter().map(|n| {
        // The one list whose members are not called `item`.
        let groups = n.texts("SecurityGroupId").into_iter().map(|g| ("groupId", g.into())).collect();
        texts(n, &INTERFACE).with("groupSet", Value::Struct(groups))
    });
    let specifications = data.list("TagSpecification").into_iter().map(|s| {
        let tags = s.list("Tag").into_iter().map(|t| texts(t, &[("Key", "key"), ("Value", "value")]));
        texts(s, &[("ResourceType", "resourceType")]).with("tagSet", tags.collect::<Vec<_>>())
    });
    texts(data, &TEXTS)
        .with("blockDeviceMappingSet", mappings.collect::<Vec<_>>())
        .with("networkInterfaceSet", interfaces.collect::<Vec<_>>())
        .with("tagSpecificationSet", specifications.collect::<Vec<_>>())
        .with("securityGroupIdSet", Value::texts(data.texts("SecurityGroupId")))
        .with("securityGroupSet", Value::texts(data.texts("SecurityGroup")))
        .with("metadataOptions", part("MetadataOptions", &METADATA))
        .with("iamInstanceProfile", part("IamInstanceProfile", &[("Arn", "arn"), ("Name", "name")]))
        .with("placement", part("Placement", &[("AvailabilityZone", "availabilityZone"), ("Tenancy", "tenancy")]))
        .with("monitoring", part("Monitoring", &[("Enabled", "enabled")]))
        .with("creditSpecification", part("CreditSpecification", &[("CpuCredits", "cpuCredits")]))
        .with(
            "instanceMarketOptions",
            data.child("InstanceMarketOptions").map(|m| {
                texts(m, &[("MarketType", "marketType")]).with(
                    "spotOptions",
                    m.child("SpotOptions").map(|s| {
                        texts(
                            s,
                            &[
                                ("MaxPrice", "maxPrice"),
                                ("SpotInstanceType", "spotInstanceType"),
                                ("InstanceInterruptionBehavior", "instanceInterruptionBehavior"),
                            ],
                        )
                    }),
                )
            }),
        )
}

impl Cloud {
    /// The template that a call names.
    fn template(&self, id: Option<&str>, name: Option<&str>) -> Answer<&Template> {
        match (id.filter(|v| !v.is_empty()), name.filter(|v| !v.is_empty())) {
            (Some(_), Some(_)) => {
                let message = "The request must contain either the template's ID or its name, not both";
                Err(ApiError::new("InvalidParameterCombination", message))
            }
            (Some(id), None) => self.templates.get(id).ok_or_else(|| {
                let message = format!("The specified launch template, with template ID {id}, does not exist.");
                ApiError::new("InvalidLaunchTemplateId.NotFound", message)
            }),
            (None, Some(name)) => self.templates.values().find(|t| t.name == name).ok_or_else(|| {
                let message = format!("The specified launch template, with template name {name}, does not exist.");
                ApiError::new("InvalidLaunchTemplateName.NotFoundException", message)
            }),
            (None, None) => {
                Err(ApiError::new("MissingParameter", "Either LaunchTemplateId or LaunchTemplateName is needed"))
            }
        }
    }

    /// A call of RunInstances with the template that it names under it.
    pub(super) fn under_template(&self, params: &Params) -> Answer<Params> {
        let Some(named) = params.child("LaunchTemplate") else { return Ok(params.clone()) };
        let template = self.template(named.text("LaunchTemplateId"), named.text("LaunchTemplateName"))?;
        match named.text("Version") {
            None | Some("1" | "$Latest" | "$Default") => {}
            Some(v) => {
                let message = format!("Could not find the launch template version '{v}'.");
                return Err(ApiError::new("InvalidLaunchTemplateId.VersionNotFound", message));
            }
        }
        Ok(template.data.overlaid(&params.clone().without("LaunchTemplate")))
    }

    pub(super) fn create_launch_template(&mut self, params: &Params, context: &Context<'_>) -> Answer<Value> {
        let name = params.need("LaunchTemplateName")?.to_owned();
        let description = params.text("VersionDescription").map(str::to_owned);
        let tags = specified(params, &["launch-template"])?.remove("launch-template").unwrap_or_default();
        let data = params.child("LaunchTemplateData").ok_or_else(|| ApiError::missing("LaunchTemplateData"))?;
        // Showing it reads all that a template can have; what is left is refused below.
        let _ = show_data(data);
        params.text("ClientToken");
        params.finish()?;
        if let Some(made) = self.replay("CreateLaunchTemplate", params)?
            && let Some(t) = made.first().and_then(|id| self.templates.get(id))
        {
            return Ok(Value::of([("launchTemplate", t.show())]));
        }
        let legal = |c: char| c.is_ascii_alphanumeric() || "()./_-".contains(c);
        if !(3..=128).contains(&name.len()) || !name.chars().all(legal) {
            let message = "A launch template name must be between 3 and 128 characters, and may contain letters, numbers, and the following characters: - ( ) . / _.";
            return Err(ApiError::new("InvalidLaunchTemplateName.MalformedException", message));
        }
        if self.templates.values().any(|t| t.name == name) {
            let message = "Launch template name already in use.";
            return Err(ApiError::new("InvalidLaunchTemplateName.AlreadyExistsException", message));
        }
        let id = self.ids.make("lt");
        let (data, by) = (data.clone(), context.caller.to_owned());
        let template = Template { id: id.clone(), name, description, data, created: context.now, by, tags };
        let shown = template.show();
        self.templates.insert(id.clone(), template);
        self.remember("CreateLaunchTemplate", params, vec![id], context.now);
        Ok(Value::of([("launchTemplate", shown)]))
    }

    pub(super) fn delete_launch_template(&mut self, params: &Params, _: &Context<'_>) -> Answer<Value> {
        let t = self.template(params.text("LaunchTemplateId"), params.text("LaunchTemplateName"))?;
        let (id, shown) = (t.id.clone(), t.show());
        params.finish()?;
        self.templates.remove(&id);
        Ok(Value::of([("launchTemplate", shown)]))
    }

    pub(super) fn describe_launch_templates(&mut self, params: &Params, _: &Context<'_>) -> Answer<Value> {
        let (ids, names) = (params.texts("LaunchTemplateId"), params.texts("LaunchTemplateName"));
        let some = !ids.is_empty() || !names.is_empty();
        let (filters, page) = (filters(params, "Filter")?, page(params, some, 1)?);
        check_filters::<Template>(&filters)?;
        params.finish()?;
        for id in &ids {
            self.template(Some(id), None)?;
        }
        for name in &names {
            self.template(None, Some(name))?;
        }
        let chosen = self
            .templates
            .values()
            .filter(|t| (!some || ids.contains(&t.id) || names.contains(&t.name)) && passes(*t, &filters))
            .map(|t| (t.id.as_str(), t.show()));
        Ok(paged("launchTemplates", page.take(chosen)))
    }

    pub(super) fn describe_launch_template_versions(&mut self, params: &Params, _: &Context<'_>) -> Answer<Value> {
        let t = self.template(params.text("LaunchTemplateId"), params.text("LaunchTemplateName"))?;
        let versions = params.texts("LaunchTemplateVersion");
        params.finish()?;
        let first = versions.is_empty() || versions.iter().any(|v| matches!(v.as_str(), "1" | "$Latest" | "$Default"));
        let shown: Vec<Value> = first.then(|| t.show_version()).into_iter().collect();
        Ok(Value::of([("launchTemplateVersionSet", shown.into())]))
    }
}
