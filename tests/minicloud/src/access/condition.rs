//! Conditions of statements: `{"StringEquals": {"ec2:CreateAction": ["RunInstances"]}}`.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{Facts, like, texts};

/// One operator on one key.
#[derive(Debug, Clone)]
pub(super) struct Condition {
    each: Option<Each>,
    test: Test,
    /// Whether it holds also where there is no such key.
    if_exists: bool,
    key: String,
    values: Vec<String>,
}

/// Which of a key's values must pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Each {
    All,
    Any,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test {
    Equals { not: bool, any_case: bool },
    Like { not: bool },
    Bool,
    Null,
}

/// Reads the conditions of a statement; all of them must hold.
pub(super) fn parse(value: &Value) -> Result<Vec<Condition>> {
    let mut all = Vec::new();
    for (operator, keys) in value.as_object().context("a Condition is an object")? {
        let (each, name) = match operator.split_once(':') {
            Some(("ForAllValues", name)) => (Some(Each::All), name),
            Some(("ForAnyValue", name)) => (Some(Each::Any), name),
            Some(_) => bail!("{operator} is no operator"),
            None => (None, operator.as_str()),
        };
        let (name, if_exists) = name.strip_suffix("IfExists").map_or((name, false), |name| (name, true));
        let test = match name {
            "StringEquals" => Test::Equals { not: false, any_case: false },
            "StringNotEquals" => Test::Equals { not: true, any_case: false },
            "StringEqualsIgnoreCase" => Test::Equals { not: false, any_case: true },
            "StringNotEqualsIgnoreCase" => Test::Equals { not: true, any_case: true },
            "StringLike" | "ArnLike" | "ArnEquals" => Test::Like { not: false },
            "StringNotLike" | "ArnNotLike" | "ArnNotEquals" => Test::Like { not: true },
            "Bool" => Test::Bool,
            "Null" => Test::Null,
            _ => bail!("conditions with {operator} are not evaluated here"),
        };
        for (key, values) in keys.as_object().with_context(|| format!("{operator} has an object"))? {
            let values = texts(values).with_context(|| format!("in {operator} of {key}"))?;
            let odd = values.iter().find(|value| value.matches("${").count() != value.matches('}').count());
            ensure!(odd.is_none(), "a variable that does not end: {}", odd.map_or("", |odd| odd));
            all.push(Condition { each, test, if_exists, key: key.clone(), values });
        }
    }
    Ok(all)
}

impl Condition {
    /// Whether it holds.
    pub(super) fn holds(&self, facts: &Facts) -> bool {
        let have = facts.get(&self.key).filter(|have| !have.is_empty());
        if self.test == Test::Null {
            let is_null = if have.is_none() { "true" } else { "false" };
            return self.values.iter().any(|value| value.eq_ignore_ascii_case(is_null));
        }
        let Some(have) = have else {
            let not = matches!(self.test, Test::Equals { not: true, .. } | Test::Like { not: true });
            return self.if_exists || self.each == Some(Each::All) || (not && self.each.is_none());
        };
        let values: Vec<String> = self.values.iter().filter_map(|value| facts.filled(value)).collect();
        let mut pass = have.iter().map(|one| match self.test {
            Test::Equals { not, any_case: false } => values.contains(one) != not,
            Test::Equals { not, any_case: true } => values.iter().any(|value| value.eq_ignore_ascii_case(one)) != not,
            Test::Like { not } => values.iter().any(|value| like(value, one)) != not,
            Test::Bool | Test::Null => values.iter().any(|value| value.eq_ignore_ascii_case(one)),
        });
        match self.each {
            Some(Each::Any) => pass.any(|one| one),
            // A key that is one of many values and is asked for as if it were one: IAM leaves open what comes of that.
            Some(Each::All) | None => pass.all(|one| one),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holds(condition: Value, facts: &[(&str, &str)]) -> bool {
        let mut all = Facts::default();
        facts.iter().for_each(|(key, value)| all.add(key, value));
        parse(&condition).expect("a condition").iter().all(|one| one.holds(&all))
    }

    #[test]
    fn operators_on_one_value() {
        let name = [("aws:username", "Rocks")];
        for (condition, expected, without) in [
            (json!({"StringEquals": {"aws:Username": ["x", "Rocks"]}}), true, false),
            (json!({"StringEquals": {"aws:username": "rocks"}}), false, false),
            (json!({"StringEqualsIgnoreCase": {"aws:username": "rocks"}}), true, false),
            (json!({"StringNotEquals": {"aws:username": ["x", "Rocks"]}}), false, true),
            (json!({"StringLike": {"aws:username": "R*s"}}), true, false),
            (json!({"StringNotLike": {"aws:username": "R*s"}}), false, true),
            (json!({"StringEqualsIfExists": {"aws:username": "x"}}), false, true),
            (json!({"Null": {"aws:username": "true"}}), false, true),
            (json!({"Null": {"aws:username": false}}), true, false),
            (json!({"StringEquals": {"aws:username": "Rocks"}, "Null": {"aws:username": "true"}}), false, false),
        ] {
            assert_eq!(holds(condition.clone(), &name), expected, "{condition}");
            assert_eq!(holds(condition.clone(), &[]), without, "{condition} without the key");
        }
        assert!(holds(json!({"Bool": {"a": "true"}}), &[("a", "True")]));
        assert!(!holds(json!({"Bool": {"a": "true"}}), &[]));
    }

    #[test]
    fn operators_on_many_values() {
        let keys = |keys: &[&'static str]| keys.iter().map(|key| ("aws:TagKeys", *key)).collect::<Vec<_>>();
        let all = json!({"ForAllValues:StringEquals": {"aws:TagKeys": ["Name", "site"]}});
        assert!(holds(all.clone(), &keys(&["site"])) && holds(all.clone(), &keys(&[])));
        assert!(!holds(all, &keys(&["site", "other"])));
        let any = json!({"ForAnyValue:StringEquals": {"aws:TagKeys": ["Name", "site"]}});
        assert!(holds(any.clone(), &keys(&["site", "other"])));
        assert!(!holds(any.clone(), &keys(&["other"])) && !holds(any, &keys(&[])));
    }

    #[test]
    fn what_a_variable_stands_for_is_compared() {
        let same = json!({"StringEqualsIfExists": {"aws:ResourceTag/site": "${aws:RequestTag/site}"}});
        let (had, given) = (("aws:ResourceTag/site", "a"), ("aws:RequestTag/site", "a"));
        assert!(holds(same.clone(), &[given]) && holds(same.clone(), &[had, given]));
        assert!(!holds(same.clone(), &[had, ("aws:RequestTag/site", "b")]));
        // What is no value is equal to none.
        assert!(!holds(same, &[had]));
    }
}
