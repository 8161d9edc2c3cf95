//! Who may do what: IAM policies of access keys.
//!
//! `Effect`, `Action` and `NotAction` are evaluated, with wildcards. `Resource` and `Condition` are read and not evaluated: a policy is
//! taken here for a list of actions.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// A policy.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    statements: Vec<Statement>,
}

#[derive(Debug, Clone)]
struct Statement {
    allow: bool,
    /// Whether the statement is about all actions but these.
    not: bool,
    actions: Vec<String>,
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

    /// Whether `action`, such as `ec2:RunInstances`, is allowed: some statement allows it and none denies it.
    pub(crate) fn allows(&self, action: &str) -> bool {
        let mut allowed = false;
        for s in &self.statements {
            let named = s.actions.iter().any(|pattern| like(&pattern.to_lowercase(), &action.to_lowercase()));
            if named != s.not {
                if !s.allow {
                    return false;
                }
                allowed = true;
            }
        }
        allowed
    }
}

impl Statement {
    fn parse(value: &Value) -> Result<Self> {
        const KNOWN: [&str; 8] =
            ["Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition", "Principal"];
        let object = value.as_object().context("a statement is an object")?;
        if let Some(odd) = object.keys().find(|k| !KNOWN.contains(&k.as_str())) {
            bail!("a statement has no {odd}");
        }
        let allow = match value["Effect"].as_str() {
            Some("Allow") => true,
            Some("Deny") => false,
            _ => bail!("an Effect is Allow or Deny"),
        };
        let not = value["NotAction"] != Value::Null;
        let actions = match &value[if not { "NotAction" } else { "Action" }] {
            Value::String(one) => vec![one.clone()],
            Value::Array(many) => many
                .iter()
                .map(|a| a.as_str().map(str::to_owned).context("an action is text"))
                .collect::<Result<_>>()?,
            _ => bail!("a statement has an Action"),
        };
        ensure!(actions.iter().all(|a| a == "*" || a.contains(':')), "an action has a service: {}", actions.join(", "));
        Ok(Self { allow, not, actions })
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
    use super::*;

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
        let policy = serde_json::json!({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Action": ["ec2:Describe*", "ec2:runInstances"], "Resource": "*"},
            {"Effect": "Deny", "Action": "ec2:DescribeVolumes", "Resource": "*"},
        ]});
        let policy = Policy::parse(&policy).expect("a policy");
        for (action, allowed) in [
            ("ec2:RunInstances", true),
            ("ec2:DescribeVolumes", false),
            ("ec2:DescribeImages", true),
            ("s3:GetObject", false),
        ] {
            assert_eq!(policy.allows(action), allowed, "{action}");
        }
        for wrong in [
            serde_json::json!({}),
            serde_json::json!({"Statement": {"Effect": "allow", "Action": "*"}}),
            serde_json::json!({"Statement": {"Effect": "Allow", "Action": "RunInstances"}}),
            serde_json::json!({"Statement": {"Effect": "Allow", "Actions": "*"}}),
        ] {
            assert!(Policy::parse(&wrong).is_err(), "{wrong}");
        }
    }
}
