//! As little of Auto Scaling as tests need: a group is made to have as many instances of a launch template as it should have. Nobody watches it in
//! between: whoever ends an instance of it says again how many there should be.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Shared, now};
use crate::cloud::{Cloud, Context, State};
use crate::query::params::Params;

/// The tag that Auto Scaling gives its instances. Nobody else may give it.
const GROUP: &str = "aws:autoscaling:groupName";
/// Who calls.
const CALLER: &str = "arn:aws:sts::123456789012:assumed-role/AWSServiceRoleForAutoScaling/AutoScaling";

/// What a group should be like.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    group: String,
    /// A launch template's id.
    template: String,
    size: usize,
    /// Instances of it that are ended first.
    #[serde(default)]
    end: Vec<String>,
}

fn members(cloud: &Cloud, group: &str) -> Vec<String> {
    let lives = |state: State| matches!(state, State::Pending | State::Running);
    let of = cloud.instances.values().filter(|i| lives(i.state) && i.tags.get(GROUP).is_some_and(|tag| tag == group));
    of.map(|i| i.id.clone()).collect()
}

fn call(cloud: &mut Cloud, action: &str, pairs: Vec<(String, String)>) -> Result<(), String> {
    let context = Context { now: now(), caller: CALLER, console: None };
    let called = cloud.call(action, &Params::from_pairs(pairs), &context);
    called.map(drop).map_err(|e| format!("{}: {}", e.code, e.message))
}

fn end(cloud: &mut Cloud, ids: &[String]) -> Result<(), String> {
    if ids.is_empty() {
        return Ok(());
    }
    let pairs = ids.iter().enumerate().map(|(n, id)| (format!("InstanceId.{}", n + 1), id.clone()));
    call(cloud, "TerminateInstances", pairs.collect())
}

/// Makes a group what it should be like. Gives its instances.
pub(super) fn scale(shared: &Shared, wanted: &Wanted) -> Result<Value, String> {
    shared.with_cloud(|cloud| {
        let there = members(cloud, &wanted.group);
        if let Some(other) = wanted.end.iter().find(|id| !there.contains(id)) {
            return Err(format!("{other} is not in group {}", wanted.group));
        }
        end(cloud, &wanted.end)?;
        let there = members(cloud, &wanted.group);
        end(cloud, there.get(wanted.size..).unwrap_or_default())?;
        let lacks = wanted.size.saturating_sub(there.len());
        if lacks > 0 {
            let before: Vec<String> = cloud.instances.keys().cloned().collect();
            let pairs = [
                ("LaunchTemplate.LaunchTemplateId", wanted.template.clone()),
                ("MinCount", lacks.to_string()),
                ("MaxCount", lacks.to_string()),
            ];
            call(cloud, "RunInstances", pairs.map(|(k, v)| (k.to_owned(), v)).into())?;
            for instance in cloud.instances.values_mut().filter(|i| !before.contains(&i.id)) {
                instance.tags.insert(GROUP.to_owned(), wanted.group.clone());
            }
        }
        Ok(json!({ "instances": members(cloud, &wanted.group) }))
    })
}

#[cfg(test)]
mod tests {
    use crate::minicloud::{Minicloud, Options};
    use crate::server::now;

    use super::*;

    #[test]
    fn a_group_has_as_many_instances_as_it_should_have_and_its_tag() {
        let cloud = Minicloud::start(Options::default()).expect("a cloud");
        let disk = tempfile::NamedTempFile::new().expect("a file");
        disk.as_file().set_len(1 << 20).expect("a disk");
        let seed = crate::Seed { name: "lite".into(), path: disk.path().to_owned(), architecture: "x86_64".into() };
        let (image, _) = cloud.add_image(&seed).expect("an image");
        let pairs = [
            ("LaunchTemplateName", "web"),
            ("LaunchTemplateData.ImageId", &image),
            ("LaunchTemplateData.InstanceType", "t3.small"),
        ];
        let params = Params::from_pairs(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())));
        let context = Context { now: now(), caller: CALLER, console: None };
        let made = cloud.shared().with_cloud(|c| c.call("CreateLaunchTemplate", &params, &context)).expect("made");
        let template = made.text_at("launchTemplate.launchTemplateId").to_owned();
        let size = |size: usize, end: &[&str]| {
            let body = json!({"group": "web", "template": template, "size": size, "end": end});
            let told = cloud.ask("POST", "scaling", &body).expect("scaled");
            let ids = told["instances"].as_array().expect("a list").iter();
            ids.map(|id| id.as_str().expect("an id").to_owned()).collect::<Vec<_>>()
        };
        let two = size(2, &[]);
        assert_eq!((two.len(), size(2, &[])), (2, two.clone()));
        let next = size(2, &[&two[0]]);
        assert!(next.len() == 2 && next.contains(&two[1]) && !next.contains(&two[0]), "{next:?}");
        let state = cloud.ask("GET", "state", &Value::Null).expect("told");
        assert_eq!(state["instances"][2]["tags"][GROUP], "web", "{state}");
        assert!(size(0, &[]).is_empty());
    }
}
