//! The least that the frontend must be allowed to do.

use std::collections::BTreeSet;

use crate::cloud::TAG_SITE;
use crate::plan::Step;

/// All steps there are.
const STEPS: [Step; 14] = [
    Step::Build,
    Step::Group,
    Step::Volume,
    Step::Receiver,
    Step::Attach,
    Step::Ship,
    Step::Detach,
    Step::EndReceiver,
    Step::Snapshot,
    Step::Clean,
    Step::Blocks,
    Step::Register,
    Step::Launch,
    Step::Converge,
];

/// Calls beside those of steps: undoing, and finding what is ours.
const BESIDE: [&str; 12] = [
    "ec2:AuthorizeSecurityGroupIngress",
    "ec2:CreateTags",
    "ec2:DeleteSecurityGroup",
    "ec2:DeleteSnapshot",
    "ec2:DeleteVolume",
    "ec2:DeregisterImage",
    "ec2:DescribeImages",
    "ec2:DescribeInstances",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeSnapshots",
    "ec2:RevokeSecurityGroupIngress",
    "ec2:TerminateInstances",
];

/// Calls that end or change something: only what has our tag.
const OURS: [&str; 12] = [
    "ebs:CompleteSnapshot",
    "ebs:PutSnapshotBlock",
    "ec2:AttachVolume",
    "ec2:AuthorizeSecurityGroupIngress",
    "ec2:DeleteSecurityGroup",
    "ec2:DeleteSnapshot",
    "ec2:DeleteVolume",
    "ec2:DeregisterImage",
    "ec2:DetachVolume",
    "ec2:RevokeSecurityGroupIngress",
    "ec2:TerminateInstances",
    "ec2:StopInstances",
];

/// All actions that the frontend calls.
#[must_use]
pub fn actions() -> BTreeSet<&'static str> {
    STEPS.iter().flat_map(|step| step.actions().iter().copied()).chain(BESIDE).collect()
}

/// The policy, as a JSON document: looking and making anywhere, ending only what has the site's tag.
#[must_use]
pub fn policy() -> String {
    let all = actions();
    let list = |of: &mut dyn Iterator<Item = &&str>| {
        let names: Vec<String> = of.map(|action| format!("        \"{action}\"")).collect();
        names.join(",\n")
    };
    let is_ours = |action: &&str| OURS.contains(action);
    let make = list(&mut all.iter().filter(|action| !is_ours(action)));
    let end = list(&mut all.iter().filter(|action| is_ours(action)));
    format!(
        "{{\n  \"Version\": \"2012-10-17\",\n  \"Statement\": [\n    {{\n      \"Sid\": \"LookAndMake\",\n      \"Effect\": \"Allow\",\n      \"Action\": [\n{make}\n      ],\n      \"Resource\": \"*\"\n    }},\n    {{\n      \"Sid\": \"EndOnlyOurs\",\n      \"Effect\": \"Allow\",\n      \"Action\": [\n{end}\n      ],\n      \"Resource\": \"*\",\n      \"Condition\": {{ \"Null\": {{ \"aws:ResourceTag/{TAG_SITE}\": \"false\" }} }}\n    }}\n  ]\n}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_is_json_that_names_every_action_once() {
        let policy: serde_json::Value = serde_json::from_str(&policy()).expect("JSON");
        let named: Vec<&str> = policy["Statement"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|statement| statement["Action"].as_array().into_iter().flatten())
            .filter_map(serde_json::Value::as_str)
            .collect();
        assert_eq!(named.len(), actions().len());
        assert_eq!(named.iter().copied().collect::<BTreeSet<_>>(), actions());
    }
}
