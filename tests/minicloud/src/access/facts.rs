//! What conditions of policies may ask for: the request's context, as IAM calls it.

use std::collections::BTreeMap;

/// Keys and their values. A key's case does not count, as with IAM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts(BTreeMap<String, Vec<String>>);

impl Facts {
    /// One more value of a key.
    pub(crate) fn add(&mut self, key: &str, value: &str) {
        self.0.entry(key.to_lowercase()).or_default().push(value.to_owned());
    }

    /// Tags that the resource has.
    pub(crate) fn resource_tags<'t>(&mut self, tags: impl IntoIterator<Item = (&'t String, &'t String)>) {
        for (key, value) in tags {
            self.add(&format!("aws:ResourceTag/{key}"), value);
            self.add(&format!("ec2:ResourceTag/{key}"), value);
        }
    }

    /// Tags that the request gives.
    pub(crate) fn request_tags<'t>(&mut self, tags: impl IntoIterator<Item = (&'t String, &'t String)>) {
        for (key, value) in tags {
            self.add(&format!("aws:RequestTag/{key}"), value);
            self.add("aws:TagKeys", key);
        }
    }

    /// The values of a key.
    pub(super) fn get(&self, key: &str) -> Option<&[String]> {
        self.0.get(&key.to_lowercase()).map(Vec::as_slice)
    }

    /// A text with its `${variables}` filled in; nothing if there is none for one of them. What is filled in counts as a pattern, too.
    pub(super) fn filled(&self, text: &str) -> Option<String> {
        let mut full = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let (key, after) = after.split_once('}')?;
            full.push_str(before);
            match key {
                "*" | "?" | "$" => full.push_str(key),
                key => match self.get(key)? {
                    [one] => full.push_str(one),
                    _ => return None,
                },
            }
            rest = after;
        }
        full.push_str(rest);
        Some(full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_filled_in_or_nothing_is_said() {
        let mut facts = Facts::default();
        facts.add("aws:username", "rocks");
        facts.add("aws:TagKeys", "a");
        facts.add("aws:TagKeys", "b");
        assert_eq!(facts.filled("plain").as_deref(), Some("plain"));
        assert_eq!(facts.filled("a/${AWS:UserName}/b").as_deref(), Some("a/rocks/b"));
        assert_eq!(facts.filled("${aws:TagKeys}"), None);
        assert_eq!(facts.filled("${aws:none}"), None);
    }
}
