//! Security groups.

use std::collections::BTreeSet;

use super::effects::{Effect, Rule};
use super::places::VPC;
use super::rules::{Permission, Source, flatten, read, show_all};
use super::select::{Consistency, Described, check_filters, filters, page, paged, passes};
use super::tags::{Tags, specified, tag_set};
use super::{Cloud, Context};
use crate::error::{Answer, ApiError};
use crate::query::params::Params;
use crate::query::xml::Value;

/// A security group.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) id: String,
    pub(crate) name: String,
    description: String,
    pub(crate) permissions: Vec<Permission>,
    pub(crate) tags: Tags,
    consistency: Consistency,
}

impl Described for Group {
    const FILTERS: &'static [&'static str] = &[
        "group-id",
        "group-name",
        "description",
        "vpc-id",
        "ip-permission.from-port",
        "ip-permission.to-port",
        "ip-permission.protocol",
        "ip-permission.cidr",
    ];

    fn facts(&self, filter: &str) -> Vec<String> {
        let each = |f: &dyn Fn(&Permission) -> Option<String>| self.permissions.iter().filter_map(f).collect();
        match filter {
            "group-id" => vec![self.id.clone()],
            "group-name" => vec![self.name.clone()],
            "description" => vec![self.description.clone()],
            "vpc-id" => vec![VPC.to_owned()],
            "ip-permission.from-port" => each(&|p| Some(p.from.to_string())),
            "ip-permission.to-port" => each(&|p| Some(p.to.to_string())),
            "ip-permission.protocol" => each(&|p| Some(p.protocol.clone())),
            _ => each(&|p| match &p.source {
                Source::Cidr(c) => Some(c.clone()),
                Source::Group(_) => None,
            }),
        }
    }

    fn tags(&self) -> &Tags {
        &self.tags
    }
}

fn not_found(id: &str) -> ApiError {
    if !id.starts_with("sg-") {
        return ApiError::new("InvalidGroupId.Malformed", format!("Invalid id: \"{id}\" (expecting \"sg-...\")"));
    }
    ApiError::new("InvalidGroup.NotFound", format!("The security group '{id}' does not exist"))
}

impl Cloud {
    pub(super) fn add_default_group(&mut self) {
        let id = self.ids.make("sg");
        let rule = self.ids.make("sgr");
        let permission = Permission {
            id: rule,
            protocol: "-1".to_owned(),
            from: -1,
            to: -1,
            source: Source::Group(id.clone()),
            description: None,
        };
        let group = Group {
            id: id.clone(),
            name: "default".to_owned(),
            description: "default VPC security group".to_owned(),
            permissions: vec![permission],
            tags: Tags::new(),
            consistency: Consistency { visible: 0 },
        };
        self.groups.insert(id, group);
    }

    /// The id of the group `default`.
    pub(super) fn default_group(&self) -> String {
        self.groups.values().find(|g| g.name == "default").map(|g| g.id.clone()).unwrap_or_default()
    }

    /// A group that can be seen.
    pub(super) fn group(&self, id: &str, now: u64) -> Answer<&Group> {
        self.groups.get(id).filter(|g| g.consistency.seen(now)).ok_or_else(|| not_found(id))
    }

    /// The id of the group of a name.
    pub(super) fn group_named(&self, name: &str) -> Answer<String> {
        self.groups.values().find(|g| g.name == name).map(|g| g.id.clone()).ok_or_else(|| {
            let message = format!("The security group '{name}' does not exist in default VPC '{VPC}'");
            ApiError::new("InvalidGroup.NotFound", message)
        })
    }

    /// The group that a call is about, by id or by name.
    fn group_meant(&self, params: &Params, now: u64) -> Answer<String> {
        match (params.text("GroupId"), params.text("GroupName")) {
            (Some(id), _) => Ok(self.group(id, now)?.id.clone()),
            (None, Some(name)) => self.group_named(name),
            (None, None) => Err(ApiError::missing("groupId")),
        }
    }

    pub(super) fn create_security_group(&mut self, params: &Params, context: &Context<'_>) -> Answer<Value> {
        let (name, description) = (params.need("GroupName")?, params.need("GroupDescription")?);
        if params.text("VpcId").is_some_and(|v| v != VPC) {
            let message = "The vpc ID does not exist";
            return Err(ApiError::new("InvalidVpcID.NotFound", message));
        }
        let tags = specified(params, &["security-group"])?.remove("security-group").unwrap_or_default();
        let legal = |c: char| c.is_ascii_alphanumeric() || " ._-:/()#,@[]+=&;{}!$*".contains(c);
        if name.len() > 255 || !name.chars().all(legal) || name.starts_with("sg-") || name == "default" {
            return Err(ApiError::invalid(name, "GroupName", "Character sets beyond ASCII are not supported."));
        }
        if description.len() > 255 || !description.chars().all(legal) {
            let why = "Valid descriptions are strings less than 256 characters from the following set: a-zA-Z0-9. _-:/()#,@[]+=&;{}!$*";
            return Err(ApiError::invalid(description, "GroupDescription", why));
        }
        if self.groups.values().any(|g| g.name == name) {
            let message = format!("The security group '{name}' already exists for VPC '{VPC}'");
            return Err(ApiError::new("InvalidGroup.Duplicate", message));
        }
        if self.groups.len() >= self.config.quotas.groups {
            let message = "The maximum number of security groups for VPC has been reached.";
            return Err(ApiError::new("SecurityGroupLimitExceeded", message));
        }
        params.finish()?;
        let id = self.ids.make("sg");
        let group = Group {
            id: id.clone(),
            name: name.to_owned(),
            description: description.to_owned(),
            permissions: Vec::new(),
            tags,
            consistency: Consistency { visible: context.now + self.config.delays.visibility },
        };
        let answer = Value::of([
            ("return", true.into()),
            ("groupId", (&id).into()),
            ("tagSet", tag_set(&group.tags)),
            ("securityGroupArn", self.arn("security-group", &id).into()),
        ]);
        self.groups.insert(id, group);
        Ok(answer)
    }

    pub(super) fn describe_security_groups(&mut self, params: &Params, context: &Context<'_>) -> Answer<Value> {
        let (ids, names) = (params.texts("GroupId"), params.texts("GroupName"));
        let (filters, page) = (filters(params, "Filter")?, page(params, !ids.is_empty() || !names.is_empty(), 5)?);
        check_filters::<Group>(&filters)?;
        params.finish()?;
        let mut wanted: BTreeSet<String> = BTreeSet::new();
        for id in &ids {
            wanted.insert(self.group(id, context.now)?.id.clone());
        }
        for name in &names {
            wanted.insert(self.group_named(name)?);
        }
        let account = &self.config.account;
        let everything = Permission {
            id: String::new(),
            protocol: "-1".to_owned(),
            from: -1,
            to: -1,
            source: Source::Cidr("0.0.0.0/0".to_owned()),
            description: None,
        };
        let show = |g: &Group| {
            Value::of([
                ("groupId", (&g.id).into()),
                ("ipPermissionsEgress", show_all(std::slice::from_ref(&everything), account)),
                ("tagSet", tag_set(&g.tags)),
                ("vpcId", VPC.into()),
                ("securityGroupArn", self.arn("security-group", &g.id).into()),
                ("ownerId", account.into()),
                ("groupName", (&g.name).into()),
                ("groupDescription", (&g.description).into()),
                ("ipPermissions", show_all(&g.permissions, account)),
            ])
        };
        let chosen = self
            .groups
            .iter()
            .filter(|(id, g)| (wanted.is_empty() || wanted.contains(*id)) && g.consistency.seen(context.now))
            .filter(|(_, g)| passes(*g, &filters))
            .map(|(id, g)| (id.as_str(), show(g)));
        Ok(paged("securityGroupInfo", page.take(chosen)))
    }

    pub(super) fn delete_security_group(&mut self, params: &Params, context: &Context<'_>) -> Answer<Value> {
        let id = self.group_meant(params, context.now)?;
        params.finish()?;
        if id == self.default_group() {
            let message = "the specified group: \"default\" name: \"default\" cannot be deleted by a user";
            return Err(ApiError::new("CannotDelete", message));
        }
        let used = self.instances.values().any(|i| !i.state.gone() && i.groups.contains(&id));
        let referred = self
            .groups
            .values()
            .any(|g| g.id != id && g.permissions.iter().any(|p| p.source == Source::Group(id.clone())));
        if used || referred {
            let message = format!("resource {id} has a dependent object");
            return Err(ApiError::new("DependencyViolation", message));
        }
        self.groups.remove(&id);
        Ok(Value::of([("return", true.into()), ("groupId", id.into())]))
    }

    pub(super) fn authorize_ingress(&mut self, params: &Params, context: &Context<'_>) -> Answer<Value> {
        let id = self.group_meant(params, context.now)?;
        let mut new = read(params)?;
        params.finish()?;
        if new.is_empty() {
            return Err(ApiError::missing("ipPermissions"));
        }
        for p in &new {
            if let Source::Group(other) = &p.source {
                self.group(other, context.now)?;
            }
        }
        let have = &self.group(&id, context.now)?.permissions;
        for (n, p) in new.iter().enumerate() {
            if let Some(twice) = new[..n].iter().find(|q| q.same(p)) {
                let message = format!("The same permission must not appear multiple times: {}", twice.told());
                return Err(ApiError::new("InvalidParameterValue", message));
            }
            if have.iter().any(|q| q.same(p)) {
                let message = format!("the specified rule \"{}\" already exists", p.told());
                return Err(ApiError::new("InvalidPermission.Duplicate", message));
            }
        }
        if have.len() + new.len() > self.config.quotas.rules {
            let message = "The maximum number of rules per security group has been reached.";
            return Err(ApiError::new("RulesPerSecurityGroupLimitExceeded", message));
        }
        for p in &mut new {
            p.id = self.ids.make("sgr");
        }
        let shown: Vec<Value> = new.iter().map(|p| p.show(&id, &self.config.account)).collect();
        if let Some(group) = self.groups.get_mut(&id) {
            group.permissions.extend(new);
        }
        self.refilter();
        Ok(Value::of([("return", true.into()), ("securityGroupRuleSet", shown.into())]))
    }

    pub(super) fn revoke_ingress(&mut self, params: &Params, context: &Context<'_>) -> Answer<Value> {
        let id = self.group_meant(params, context.now)?;
        let (old, ids) = (read(params)?, params.texts("SecurityGroupRuleId"));
        params.finish()?;
        if old.is_empty() && ids.is_empty() {
            return Err(ApiError::missing("ipPermissions"));
        }
        let have = &self.group(&id, context.now)?.permissions;
        for p in &old {
            if !have.iter().any(|q| q.same(p)) {
                let message = "The specified rule does not exist in this security group.";
                return Err(ApiError::new("InvalidPermission.NotFound", message));
            }
        }
        for rule in &ids {
            if !have.iter().any(|q| q.id == *rule) {
                let message = format!("The security group rule ID '{rule}' does not exist");
                return Err(ApiError::new("InvalidSecurityGroupRuleId.NotFound", message));
            }
        }
        if let Some(group) = self.groups.get_mut(&id) {
            group.permissions.retain(|p| !ids.contains(&p.id) && !old.iter().any(|q| q.same(p)));
        }
        self.refilter();
        Ok(super::done())
    }

    /// What the groups of an instance let into it.
    pub(super) fn rules_for(&self, groups: &[String]) -> Vec<Rule> {
        let permissions: Vec<&Permission> =
            groups.iter().filter_map(|g| self.groups.get(g)).flat_map(|g| &g.permissions).collect();
        flatten(&permissions, |group| {
            let members = self.instances.values().filter(|i| !i.state.gone() && i.groups.iter().any(|g| g == group));
            members.map(|i| i.address.clone()).collect()
        })
    }

    /// Gives every running instance the rules that hold for it now, where they have changed.
    pub(super) fn refilter(&mut self) {
        let changed: Vec<(String, Vec<Rule>)> = self
            .instances
            .values()
            .filter(|i| i.filtered.is_some())
            .map(|i| (i.id.clone(), self.rules_for(&i.groups)))
            .filter(|(id, rules)| self.instances[id].filtered.as_ref() != Some(rules))
            .collect();
        for (instance, rules) in changed {
            if let Some(i) = self.instances.get_mut(&instance) {
                i.filtered = Some(rules.clone());
            }
            self.effects.push(Effect::Firewall { instance, rules });
        }
    }
}
