//! The least that the frontend must be allowed to do.

use std::collections::BTreeSet;

use crate::cloud::TAG_SITE;
use crate::plan::Step;

/// Calls beside those of steps: undoing, and finding what is ours.
const BESIDE: [&str; 20] = [
    "ec2:AuthorizeSecurityGroupIngress",
    "ec2:CancelImportTask",
    "ec2:CreateTags",
    "ec2:DeleteLaunchTemplate",
    "ec2:DeleteSecurityGroup",
    "ec2:DeleteSnapshot",
    "ec2:DeleteVolume",
    "ec2:DeregisterImage",
    "ec2:DescribeImages",
    "ec2:DescribeImportSnapshotTasks",
    "ec2:DescribeInstances",
    "ec2:DescribeLaunchTemplates",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeSnapshots",
    "ec2:RevokeSecurityGroupIngress",
    "ec2:TerminateInstances",
    "s3:AbortMultipartUpload",
    "s3:DeleteObject",
    "s3:ListBucket",
    "s3:ListBucketMultipartUploads",
];

/// Calls that AWS makes in the caller's name: it uses an own key for what is encrypted, and makes a role when an account asks for its first
/// spot instance.
const BEHIND: [&str; 8] = [
    "iam:CreateServiceLinkedRole",
    "kms:CreateGrant",
    "kms:Decrypt",
    "kms:DescribeKey",
    "kms:GenerateDataKey",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
];

/// Calls that end or change something: only what has our tag.
const OURS: [&str; 13] = [
    "ebs:CompleteSnapshot",
    "ebs:PutSnapshotBlock",
    "ec2:AttachVolume",
    "ec2:AuthorizeSecurityGroupIngress",
    "ec2:CancelImportTask",
    "ec2:DeleteLaunchTemplate",
    "ec2:DeleteSecurityGroup",
    "ec2:DeleteSnapshot",
    "ec2:DeleteVolume",
    "ec2:DeregisterImage",
    "ec2:DetachVolume",
    "ec2:RevokeSecurityGroupIngress",
    "ec2:TerminateInstances",
];

/// Whether an action is allowed for what has our tag alone.
#[must_use]
pub fn is_by_tag(action: &str) -> bool {
    OURS.contains(&action)
}

/// All actions that the frontend calls, and those that AWS calls in its name.
#[must_use]
pub fn actions() -> BTreeSet<&'static str> {
    let steps = Step::ALL.iter().flat_map(|step| step.actions().iter().copied());
    steps.chain(BESIDE).chain(BEHIND).collect()
}

/// Everything.
const ANY: &str = r#""*""#;

/// A part of the policy: a name, the actions that are in it, what they may be done to, and on what condition.
struct Part {
    name: &'static str,
    has: fn(&str) -> bool,
    resource: &'static str,
    condition: Option<String>,
    /// Whether another part has these actions, too, for other things.
    is_shared: bool,
}

impl Default for Part {
    fn default() -> Self {
        Self { name: "LookAndMake", has: |_| true, resource: ANY, condition: None, is_shared: false }
    }
}

/// The parts. Each action is in the first that has it and does not share it.
fn parts() -> [Part; 8] {
    [
        // A snapshot that was imported has no tags, and cannot be made with some. Those that it has may be given again, after a lost answer.
        Part {
            name: "TagWhatIsImported",
            has: |action| action == "ec2:CreateTags",
            resource: r#""arn:aws:ec2:*::snapshot/*""#,
            condition: Some(format!(
                r#""StringEqualsIfExists": {{ "aws:ResourceTag/{TAG_SITE}": "${{aws:RequestTag/{TAG_SITE}}}" }}, "ForAllValues:StringEquals": {{ "aws:TagKeys": ["Name", "rocks:provision", "rocks:role", "rocks:site"] }}"#
            )),
            is_shared: true,
        },
        // Who may tag anything may make anything ours, and then end it.
        Part {
            name: "TagOnlyWhatIsMade",
            has: |action| action == "ec2:CreateTags",
            condition: Some(
                r#""StringEquals": { "ec2:CreateAction": ["CreateLaunchTemplate", "CreateSecurityGroup", "CreateSnapshot", "CreateVolume", "ImportSnapshot", "RegisterImage", "RunInstances", "StartSnapshot"] }"#
                    .to_owned(),
            ),
            ..Part::default()
        },
        Part {
            name: "EndOnlyOurs",
            has: |action| OURS.contains(&action),
            condition: Some(format!(r#""Null": {{ "aws:ResourceTag/{TAG_SITE}": "false" }}"#)),
            ..Part::default()
        },
        Part {
            name: "LetDisksUseKeys",
            has: |action| action == "kms:CreateGrant",
            condition: Some(r#""Bool": { "kms:GrantIsForAWSResource": "true" }"#.to_owned()),
            ..Part::default()
        },
        Part {
            name: "UseKeysForDisks",
            has: |action| action.starts_with("kms:"),
            condition: Some(
                r#""StringLike": { "kms:ViaService": ["ebs.*.amazonaws.com", "ec2.*.amazonaws.com"] }"#.to_owned(),
            ),
            ..Part::default()
        },
        Part {
            name: "FirstSpotInstance",
            has: |action| action.starts_with("iam:"),
            condition: Some(r#""StringEquals": { "iam:AWSServiceName": "spot.amazonaws.com" }"#.to_owned()),
            ..Part::default()
        },
        // Its bucket's name begins so, unless the configuration says another.
        Part {
            name: "OwnBucket",
            has: |action| action.starts_with("s3:"),
            resource: r#"["arn:aws:s3:::rocks-*", "arn:aws:s3:::rocks-*/*"]"#,
            ..Part::default()
        },
        Part::default(),
    ]
}

/// The policy, as a JSON document: looking and making anywhere, tagging what is made, ending only what has the site's tag.
#[must_use]
pub fn policy() -> String {
    let mut left = actions();
    let mut statements = Vec::new();
    for Part { name, has, resource, condition, is_shared } in parts() {
        let list: Vec<String> =
            left.iter().filter(|action| has(action)).map(|action| format!("        \"{action}\"")).collect();
        left.retain(|action| is_shared || !has(action));
        let condition = condition.map(|text| format!(",\n      \"Condition\": {{ {text} }}")).unwrap_or_default();
        statements.push(format!(
            "    {{\n      \"Sid\": \"{name}\",\n      \"Effect\": \"Allow\",\n      \"Action\": [\n{}\n      ],\n      \"Resource\": {resource}{condition}\n    }}",
            list.join(",\n")
        ));
    }
    format!("{{\n  \"Version\": \"2012-10-17\",\n  \"Statement\": [\n{}\n  ]\n}}\n", statements.join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_is_json_that_names_every_action() {
        let policy: serde_json::Value = serde_json::from_str(&policy()).expect("JSON");
        let named: Vec<&str> = policy["Statement"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|statement| statement["Action"].as_array().into_iter().flatten())
            .filter_map(serde_json::Value::as_str)
            .collect();
        // What is imported is tagged by a part of its own.
        assert_eq!(named.len(), actions().len() + 1);
        assert_eq!(named.iter().copied().collect::<BTreeSet<_>>(), actions());
    }
    #[test]
    fn the_policy_in_the_documentation_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/iam.json");
        let written = std::fs::read_to_string(path).expect("docs/iam.json");
        assert_eq!(written, policy(), "docs/iam.json is what iam::policy() gives, to the letter");
    }
}
