//! What a caller must be allowed for a call: actions, what they are done to, and what conditions of policies may ask for.
//!
//! As the service authorization reference has it: a call is looked at once for each thing that it names or makes, and once more for the tags
//! that it gives to what it makes. What is gone has no tags any more, and what is not known yet has none so far.

use std::collections::BTreeMap;

use super::tags::Tags;
use super::{Cloud, Millis, State};
use crate::access::{Facts, Need};
use crate::query::params::Params;

/// What an id is that begins so.
const KINDS: [(&str, &str); 9] = [
    ("i-", "instance"),
    ("vol-", "volume"),
    ("snap-", "snapshot"),
    ("ami-", "image"),
    ("sg-", "security-group"),
    ("lt-", "launch-template"),
    ("import-snap-", "import-snapshot-task"),
    ("subnet-", "subnet"),
    ("vpc-", "vpc"),
];
/// Parameters whose values are no things that the call is done to.
const NO_THINGS: [&str; 7] =
    ["TagSpecification.", "Tag.", "Filter.", "UserData", "IpPermissions.", "LaunchTemplateData.", "ClientToken"];

/// What calls make.
fn makes(action: &str) -> &'static [&'static str] {
    match action {
        "RunInstances" => &["instance", "volume", "network-interface"],
        "CreateVolume" => &["volume"],
        "CreateSnapshot" => &["snapshot"],
        "RegisterImage" => &["image"],
        "CreateSecurityGroup" => &["security-group"],
        "CreateLaunchTemplate" => &["launch-template"],
        "ImportSnapshot" => &["import-snapshot-task", "snapshot"],
        _ => &[],
    }
}

/// The kind of thing that has such an id.
fn kind_of(id: &str) -> Option<&'static str> {
    let is_hex = |rest: &str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_hexdigit());
    KINDS.iter().find(|(front, _)| id.strip_prefix(front).is_some_and(is_hex)).map(|(_, kind)| *kind)
}

/// The tags that a request gives, by what gets them; under the empty name those of a call that only tags.
fn given(leaves: &[(String, &str)]) -> BTreeMap<String, Tags> {
    let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
    let mut parts: BTreeMap<(&str, &str), (&str, &str)> = BTreeMap::new();
    for (name, value) in leaves {
        let steps: Vec<&str> = name.split('.').collect();
        let (of, tag, part) = match steps[..] {
            ["TagSpecification", of, "ResourceType"] => {
                kinds.insert(of, value);
                continue;
            }
            ["TagSpecification", of, "Tag", tag, part] => (of, tag, part),
            ["Tag", tag, part] => ("", tag, part),
            _ => continue,
        };
        let pair = parts.entry((of, tag)).or_default();
        *(if part == "Key" { &mut pair.0 } else { &mut pair.1 }) = value;
    }
    let mut all: BTreeMap<String, Tags> = kinds.values().map(|kind| ((*kind).to_owned(), Tags::new())).collect();
    for ((of, _), (key, value)) in parts {
        let kind = kinds.get(of).copied().unwrap_or_default();
        all.entry(kind.to_owned()).or_default().insert(key.to_owned(), value.to_owned());
    }
    all
}

impl Cloud {
    /// What `user` must be allowed who makes this call.
    pub(crate) fn needs(&self, action: &str, params: &Params, user: &str, now: Millis) -> Vec<Need> {
        let leaves = params.leaves();
        let (name, given) = (format!("ec2:{action}"), given(&leaves));
        let mut facts = self.facts(user);
        if let Some(tags) = given.get("") {
            facts.request_tags(tags);
        }
        let mut needs = Vec::new();
        // Who looks, looks at everything.
        if !action.starts_with("Describe") {
            let is_thing = |name: &str| !NO_THINGS.iter().any(|front| name.starts_with(front));
            let named = leaves.iter().filter(|(name, _)| is_thing(name)).filter_map(|(name, value)| {
                let is_template = name.ends_with("LaunchTemplateName") && action != "CreateLaunchTemplate";
                if is_template { self.template_named(value) } else { Some((*value).to_owned()) }
            });
            needs.extend(named.filter_map(|id| self.need(&name, &id, &facts, now)));
        }
        for kind in makes(action) {
            let mut facts = facts.clone();
            facts.request_tags(given.get(*kind).into_iter().flatten());
            needs.push(Need { action: name.clone(), resource: self.arn(kind, "*"), facts });
        }
        if needs.is_empty() {
            needs.push(Need { action: name, resource: "*".to_owned(), facts: facts.clone() });
        }
        for (kind, tags) in given.iter().filter(|(kind, _)| !kind.is_empty()) {
            needs.push(self.need_to_tag(kind, tags, action, &facts));
        }
        if params.child("IamInstanceProfile").is_some() {
            needs.push(Need { action: "iam:PassRole".to_owned(), resource: "*".to_owned(), facts });
        }
        needs
    }

    /// What is needed of EBS direct: for a snapshot that is there, or for a new one and its tags.
    pub(crate) fn needs_of_ebs(
        &self,
        action: &str,
        snapshot: Option<&str>,
        tags: &Tags,
        user: &str,
        now: Millis,
    ) -> Vec<Need> {
        let (name, mut facts) = (format!("ebs:{action}"), self.facts(user));
        if let Some(id) = snapshot {
            return self.need(&name, id, &facts, now).into_iter().collect();
        }
        let to_tag = (!tags.is_empty()).then(|| self.need_to_tag("snapshot", tags, action, &facts));
        facts.request_tags(tags);
        let make = Need { action: name, resource: self.arn("snapshot", "*"), facts };
        [make].into_iter().chain(to_tag).collect()
    }

    fn facts(&self, user: &str) -> Facts {
        let mut facts = Facts::default();
        for (key, value) in
            [("aws:username", user), ("aws:RequestedRegion", &self.config.region), ("ec2:Region", &self.config.region)]
        {
            facts.add(key, value);
        }
        facts
    }

    fn need(&self, action: &str, id: &str, facts: &Facts, now: Millis) -> Option<Need> {
        let mut facts = facts.clone();
        facts.resource_tags(self.tags_known(id, now).into_iter().flatten());
        Some(Need { action: action.to_owned(), resource: self.arn(kind_of(id)?, id), facts })
    }

    /// As EC2 asks once more for the tags of what it makes.
    fn need_to_tag(&self, kind: &str, tags: &Tags, by: &str, facts: &Facts) -> Need {
        let mut facts = facts.clone();
        facts.request_tags(tags);
        facts.add("ec2:CreateAction", by);
        Need { action: "ec2:CreateTags".to_owned(), resource: self.arn(kind, "*"), facts }
    }

    fn template_named(&self, name: &str) -> Option<String> {
        self.templates.iter().find(|(_, template)| template.name == name).map(|(id, _)| id.clone())
    }

    fn tags_known(&self, id: &str, now: Millis) -> Option<&Tags> {
        match kind_of(id)? {
            "instance" => {
                let there = |i: &&super::Instance| i.consistency.seen(now) && i.state != State::Terminated;
                self.instances.get(id).filter(there).map(|i| &i.tags)
            }
            "volume" => self.volumes.get(id).map(|v| &v.tags),
            "snapshot" => self.snapshots.get(id).map(|s| &s.tags),
            "image" => self.images.get(id).map(|i| &i.tags),
            "security-group" => self.groups.get(id).map(|g| &g.tags),
            "launch-template" => self.templates.get(id).map(|t| &t.tags),
            "import-snapshot-task" => self.imports.get(id).map(|i| &i.tags),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::Config;

    fn needs(cloud: &Cloud, action: &str, params: &[(&str, &str)]) -> Vec<(String, String)> {
        let pairs = params.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let needs = cloud.needs(action, &Params::from_pairs(pairs), "me", 0);
        let front = format!("arn:aws:ec2:{}:", cloud.config.region);
        needs.into_iter().map(|need| (need.action, need.resource.replace(&front, ""))).collect()
    }

    fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
        all.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    #[test]
    fn a_call_needs_all_that_it_names_and_makes_and_tags() {
        let cloud = Cloud::new(Arc::new(Config::aws()));
        let account = &cloud.config.account;
        let of = |kind: &str| format!("{account}:{kind}");
        let launch = [
            ("ImageId", "ami-0a"),
            ("SubnetId", "subnet-0a"),
            ("SecurityGroupId.1", "sg-0a"),
            ("UserData", "i-0a"),
            ("TagSpecification.1.ResourceType", "instance"),
            ("TagSpecification.1.Tag.1.Key", "site"),
            ("TagSpecification.1.Tag.1.Value", "vol-0b"),
        ];
        assert_eq!(
            needs(&cloud, "RunInstances", &launch),
            pairs(&[
                ("ec2:RunInstances", ":image/ami-0a"),
                ("ec2:RunInstances", &of("security-group/sg-0a")),
                ("ec2:RunInstances", &of("subnet/subnet-0a")),
                ("ec2:RunInstances", &of("instance/*")),
                ("ec2:RunInstances", &of("volume/*")),
                ("ec2:RunInstances", &of("network-interface/*")),
                ("ec2:CreateTags", &of("instance/*")),
            ])
        );
        assert_eq!(
            needs(&cloud, "DescribeVolumes", &[("VolumeId.1", "vol-0a")]),
            pairs(&[("ec2:DescribeVolumes", "*")])
        );
        let attach = [("InstanceId", "i-0a"), ("VolumeId", "vol-0a"), ("Device", "/dev/sdf")];
        let both = [("ec2:AttachVolume", &*of("instance/i-0a")), ("ec2:AttachVolume", &of("volume/vol-0a"))];
        assert_eq!(needs(&cloud, "AttachVolume", &attach), pairs(&both));
        let allow = [("GroupId", "sg-0a"), ("IpPermissions.1.Groups.1.GroupId", "sg-0b")];
        assert_eq!(
            needs(&cloud, "AuthorizeSecurityGroupIngress", &allow),
            pairs(&[("ec2:AuthorizeSecurityGroupIngress", &of("security-group/sg-0a"))])
        );
    }

    #[test]
    fn tags_are_told_as_they_are_given() {
        let cloud = Cloud::new(Arc::new(Config::aws()));
        let tag = [("ResourceId.1", "snap-0a"), ("Tag.1.Key", "site"), ("Tag.1.Value", "a")];
        let params = Params::from_pairs(pairs(&tag));
        let [need] = &cloud.needs("CreateTags", &params, "me", 0)[..] else { panic!("one need") };
        let mut expected = cloud.facts("me");
        expected.add("aws:RequestTag/site", "a");
        expected.add("aws:TagKeys", "site");
        assert_eq!(need.facts, expected);
        let tags = Tags::from([("site".to_owned(), "a".to_owned())]);
        let [make, to_tag] = &cloud.needs_of_ebs("StartSnapshot", None, &tags, "me", 0)[..] else {
            panic!("two needs")
        };
        assert_eq!(make.facts, expected);
        expected.add("ec2:CreateAction", "StartSnapshot");
        assert_eq!((&*to_tag.action, &to_tag.facts), ("ec2:CreateTags", &expected));
    }
}
