//! Who may do what: IAM policies of access keys.
//!
//! A call has [`Need`]s: an action, the resource that it is done to, and the facts that conditions may ask for. A policy allows the call if it
//! allows each of them. What a policy says and this cannot evaluate is refused when the policy is read, so that nothing is allowed by mistake.

mod condition;
mod facts;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use condition::Condition;
pub(crate) use facts::Facts;

/// Something that a caller must be allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Need {
    /// What is done: `ec2:RunInstances`.
    pub(crate) action: String,
    /// What it is done to, as an ARN; `*` for actions that are not done to anything.
    pub(crate) resource: String,
    /// What conditions may ask for.
    pub(crate) facts: Facts,
}

/// The actions of needs, each once, in their order.
pub(crate) fn actions(needs: &[Need]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for need in needs {
        if !all.contains(&need.action) {
            all.push(need.action.clone());
        }
    }
    all
}

/// A policy.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    statements: Vec<Statement>,
}

#[derive(Debug, Clone)]
struct Statement {
    allow: bool,
    actions: These,
    resources: These,
    conditions: Vec<Condition>,
}

/// Some, or all but some, by patterns.
#[derive(Debug, Clone)]
struct These {
    all_but: bool,
    patterns: Vec<String>,
}

impl These {
    fn parse(object: &serde_json::Map<String, Value>, name: &str) -> Result<Self> {
        let not = format!("Not{name}");
        let (all_but, value) = match (object.get(name), object.get(&not)) {
            (Some(value), None) => (false, value),
            (None, Some(value)) => (true, value),
            _ => bail!("a statement has either {name} or {not}"),
        };
        let patterns = texts(value).with_context(|| format!("in {name}"))?;
        ensure!(!patterns.is_empty(), "{name} is empty");
        Ok(Self { all_but, patterns })
    }

    fn has(&self, is_like: impl Fn(&str) -> bool) -> bool {
        self.patterns.iter().any(|pattern| is_like(pattern)) != self.all_but
    }
}

impl Policy {
    /// Reads an IAM policy document.
    pub(crate) fn parse(document: &Value) -> Result<Self> {
        let statements = match &document["Statement"] {
            Value::Array(statements) => statements.iter().collect(),
            one @ Value::Object(_) => vec![one],
            _ => bail!("a policy has a Statement"),
        };
        let statements = statements.into_iter().map(Statement::parse).collect::<Result<_>>()?;
        Ok(Self { statements })
    }

    /// Whether some statement allows it and none denies it.
    pub(crate) fn allows(&self, need: &Need) -> bool {
        let about = || self.statements.iter().filter(|statement| statement.is_about(need));
        about().all(|statement| statement.allow) && about().next().is_some()
    }
}

impl Statement {
    fn parse(value: &Value) -> Result<Self> {
        const KNOWN: [&str; 7] = ["Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition"];
        let object = value.as_object().context("a statement is an object")?;
        if let Some(odd) = object.keys().find(|k| !KNOWN.contains(&k.as_str())) {
            bail!("a statement of a user's policy has no {odd}");
        }
        let allow = match value["Effect"].as_str() {
            Some("Allow") => true,
            Some("Deny") => false,
            _ => bail!("an Effect is Allow or Deny"),
        };
        let actions = These::parse(object, "Action")?;
        let odd = actions.patterns.iter().find(|a| *a != "*" && !a.contains(':'));
        ensure!(odd.is_none(), "an action has a service: {}", odd.map_or("", |odd| odd));
        let conditions = object.get("Condition").map(condition::parse).transpose()?.unwrap_or_default();
        Ok(Self { allow, actions, resources: These::parse(object, "Resource")?, conditions })
    }

    fn is_about(&self, need: &Need) -> bool {
        let action = need.action.to_lowercase();
        self.actions.has(|pattern| like(&pattern.to_lowercase(), &action))
            && self.resources.has(|pattern| need.facts.filled(pattern).is_some_and(|p| like(&p, &need.resource)))
            && self.conditions.iter().all(|condition| condition.holds(&need.facts))
    }
}

/// A text, or a list of them.
fn texts(value: &Value) -> Result<Vec<String>> {
    let one = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(truth) => Ok(truth.to_string()),
        other => bail!("{other} is no text"),
    };
    match value {
        Value::Array(many) => many.iter().map(one).collect(),
        value => one(value).map(|text| vec![text]),
    }
}

/// Whether a text is like a pattern with `*` and `?`.
pub(crate) fn like(pattern: &str, text: &str) -> bool {
    let (p, t): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut i, mut j) = (0, 0);
    // Where to go on after the last star when the rest does not fit.
    let mut again: Option<(usize, usize)> = None;
    while j < t.len() {
        match p.get(i) {
            Some('*') => {
                again = Some((i + 1, j));
                i += 1;
            }
            Some(c) if *c == '?' || *c == t[j] => (i, j) = (i + 1, j + 1),
            _ => match again {
                Some((star, from)) => {
                    again = Some((star, from + 1));
                    (i, j) = (star, from + 1);
                }
                None => return false,
            },
        }
    }
    p[i..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn need(action: &str, resource: &str, facts: &[(&str, &str)]) -> Need {
        let mut all = Facts::default();
        facts.iter().for_each(|(key, value)| all.add(key, value));
        Need { action: action.to_owned(), resource: resource.to_owned(), facts: all }
    }

    #[test]
    fn stars_and_question_marks() {
        for (pattern, text, fits) in [
            ("ec2:*", "ec2:runinstances", true),
            ("*", "", true),
            ("a*b*c", "axxbxbxc", true),
            ("a*b*c", "axxbxbx", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("", "", true),
            ("abc", "abcd", false),
        ] {
            assert_eq!(like(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn a_denial_wins_and_silence_is_one() {
        let policy = json!({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Action": ["ec2:Describe*", "ec2:runInstances"], "Resource": "*"},
            {"Effect": "Deny", "Action": "ec2:DescribeVolumes", "Resource": "*"},
            {"Effect": "Allow", "Action": "s3:*", "Resource": ["arn:aws:s3:::mine", "arn:aws:s3:::mine/*"]},
            {"Effect": "Allow", "NotAction": ["ec2:*", "s3:*"], "NotResource": "arn:secret:*"},
        ]});
        let policy = Policy::parse(&policy).expect("a policy");
        for (action, resource, allowed) in [
            ("ec2:RunInstances", "arn:aws:ec2:r:1:instance/*", true),
            ("ec2:DescribeVolumes", "*", false),
            ("ec2:DescribeImages", "*", true),
            ("s3:GetObject", "arn:aws:s3:::mine/key", true),
            ("s3:GetObject", "arn:aws:s3:::mines/key", false),
            ("ebs:StartSnapshot", "arn:aws:ec2:r::snapshot/*", true),
            ("ebs:StartSnapshot", "arn:secret:snapshot", false),
        ] {
            assert_eq!(policy.allows(&need(action, resource, &[])), allowed, "{action} {resource}");
        }
    }

    #[test]
    fn what_it_cannot_evaluate_it_does_not_read() {
        let with = |more: Value| {
            let mut statement = json!({"Effect": "Allow", "Action": "ec2:*", "Resource": "*"});
            statement.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            Policy::parse(&json!({ "Statement": statement }))
        };
        assert!(with(json!({})).is_ok());
        for wrong in [
            json!({"Effect": "allow"}),
            json!({"Action": "RunInstances"}),
            json!({"Action": []}),
            json!({"Actions": "*"}),
            json!({"NotAction": "*"}),
            json!({"Principal": "*"}),
            json!({"Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}}),
            json!({"Condition": {"StringEquals": {"aws:username": "${unclosed"}}}),
            json!({"Condition": {"StringEquals": {"aws:username": 7}}}),
        ] {
            assert!(with(wrong.clone()).is_err(), "{wrong}");
        }
        assert!(Policy::parse(&json!({})).is_err());
        assert!(Policy::parse(&json!({"Statement": {"Effect": "Allow", "Action": "*"}})).is_err());
    }

    #[test]
    fn only_what_has_the_tag_may_be_ended() {
        let policy = json!({"Statement": {
            "Effect": "Allow", "Action": "ec2:DeleteVolume", "Resource": "*",
            "Condition": {"Null": {"aws:ResourceTag/rocks:site": "false"}},
        }});
        let policy = Policy::parse(&policy).expect("a policy");
        let delete = |facts: &[(&str, &str)]| policy.allows(&need("ec2:DeleteVolume", "arn:x", facts));
        assert!(delete(&[("aws:ResourceTag/rocks:site", "")]));
        assert!(!delete(&[("aws:ResourceTag/Name", "x")]) && !delete(&[]));
    }
}
