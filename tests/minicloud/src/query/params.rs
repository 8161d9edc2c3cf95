//! The parameters of a Query call, as a tree.
//!
//! `BlockDeviceMapping.1.Ebs.VolumeSize=8` is three levels and a leaf. Every reader marks what it has read, and [`Params::finish`]
//! refuses what nobody read: a parameter that this cloud does not know is an error and never silently without effect.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Answer, ApiError};

/// A node of the tree; the root is the whole request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Params {
    value: Option<String>,
    read: Mark,
    children: BTreeMap<String, Params>,
}

/// Whether something was read.
#[derive(Debug, Default)]
struct Mark(AtomicBool);

impl Mark {
    fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Clone for Mark {
    fn clone(&self) -> Self {
        Self(AtomicBool::new(self.get()))
    }
}

impl Params {
    /// Reads an `application/x-www-form-urlencoded` text.
    pub(crate) fn parse(form: &[u8]) -> Self {
        let pairs = form_urlencoded::parse(form).map(|(k, v)| (k.into_owned(), v.into_owned()));
        Self::from_pairs(pairs)
    }

    pub(crate) fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut root = Self::default();
        for (key, value) in pairs {
            let mut at = &mut root;
            for step in key.split('.') {
                at = at.children.entry(step.to_owned()).or_default();
            }
            at.value = Some(value);
        }
        root
    }

    /// Names and values of all parameters, in order.
    pub(crate) fn leaves(&self) -> Vec<(String, &str)> {
        let mut found = Vec::new();
        self.walk("", &mut |name, node| {
            if let Some(value) = &node.value {
                found.push((name.to_owned(), value.as_str()));
            }
        });
        found
    }

    fn walk<'a>(&'a self, name: &str, see: &mut impl FnMut(&str, &'a Params)) {
        see(name, self);
        for (step, child) in &self.children {
            let full = if name.is_empty() { step.clone() } else { format!("{name}.{step}") };
            child.walk(&full, see);
        }
    }

    /// What makes two requests the same for a client token.
    pub(crate) fn fingerprint(&self) -> String {
        let mut text = String::new();
        for (name, value) in self.leaves() {
            if !matches!(name.as_str(), "ClientToken" | "DryRun" | "Version") {
                text.push_str(&format!("{}:{name}={}:{value};", name.len(), value.len()));
            }
        }
        text
    }

    fn leaf(&self, name: &str) -> Option<&str> {
        let child = self.children.get(name)?;
        child.read.set();
        child.value.as_deref()
    }

    /// A text, if it was given.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.leaf(name)
    }

    /// This node's own value, as members of a list of texts have it.
    pub(crate) fn own(&self) -> &str {
        self.read.set();
        self.value.as_deref().unwrap_or_default()
    }

    /// A text that must be there.
    pub(crate) fn need(&self, name: &str) -> Answer<&str> {
        self.leaf(name).filter(|v| !v.is_empty()).ok_or_else(|| ApiError::missing(name))
    }

    /// An integer, if it was given.
    pub(crate) fn int(&self, name: &str) -> Answer<Option<i64>> {
        let Some(text) = self.leaf(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| ApiError::invalid(text, name, "Expected an integer."))
    }

    /// A truth value, if it was given.
    pub(crate) fn flag(&self, name: &str) -> Answer<Option<bool>> {
        match self.leaf(name) {
            None => Ok(None),
            Some(t) if t.eq_ignore_ascii_case("true") => Ok(Some(true)),
            Some(t) if t.eq_ignore_ascii_case("false") => Ok(Some(false)),
            Some(t) => Err(ApiError::invalid(t, name, "Expected true or false.")),
        }
    }

    /// A structure, if anything of it was given.
    pub(crate) fn child(&self, name: &str) -> Option<&Params> {
        self.children.get(name)
    }

    /// The members of a list, in the order of their numbers.
    pub(crate) fn list(&self, name: &str) -> Vec<&Params> {
        let Some(list) = self.children.get(name) else { return Vec::new() };
        let mut members: Vec<(u64, &Params)> =
            list.children.iter().filter_map(|(number, node)| Some((number.parse().ok()?, node))).collect();
        members.sort_by_key(|(number, _)| *number);
        members.into_iter().map(|(_, node)| node).collect()
    }

    /// The members of a list of texts.
    pub(crate) fn texts(&self, name: &str) -> Vec<String> {
        self.list(name).into_iter().map(|n| n.own().to_owned()).collect()
    }

    /// Notes a part as read without looking into it.
    pub(crate) fn skip(&self, name: &str) {
        if let Some(child) = self.children.get(name) {
            child.walk("", &mut |_, node| node.read.set());
        }
    }

    /// Ends reading: what was given and not read is unknown, and a dry run ends here.
    pub(crate) fn finish(&self) -> Answer<()> {
        self.skip("Action");
        self.skip("Version");
        let dry = self.flag("DryRun")? == Some(true);
        let mut unknown = None;
        self.walk("", &mut |name, node| {
            if node.value.is_some() && !node.read.get() && unknown.is_none() {
                unknown = Some(name.to_owned());
            }
        });
        if let Some(name) = unknown {
            return Err(ApiError::new("UnknownParameter", format!("The parameter {name} is not recognized")));
        }
        if dry {
            return Err(ApiError::new("DryRunOperation", "Request would have succeeded, but DryRun flag is set."));
        }
        Ok(())
    }

    /// This tree with the parts of `over` in place of its own. Structures are merged, lists replaced whole, as launch templates have it.
    pub(crate) fn overlaid(&self, over: &Params) -> Params {
        let mut out = self.clone();
        for (name, node) in &over.children {
            let numbered = |n: &Params| n.children.keys().any(|k| k.bytes().all(|b| b.is_ascii_digit()));
            let merged = match out.children.get(name) {
                Some(below) if !node.children.is_empty() && !numbered(node) => below.overlaid(node),
                _ => node.clone(),
            };
            out.children.insert(name.clone(), merged);
        }
        if over.value.is_some() {
            out.value.clone_from(&over.value);
        }
        out
    }

    /// Removes a part.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.children.remove(name);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_becomes_a_tree_and_lists_keep_their_numbers_order() {
        let p = Params::parse(b"Action=X&A.10=ten&A.2=two&B.1.Ebs.VolumeSize=8&E=&F=a%20b%2Bc");
        assert_eq!(p.texts("A"), ["two", "ten"]);
        assert_eq!(p.list("B")[0].child("Ebs").expect("Ebs").int("VolumeSize"), Ok(Some(8)));
        assert_eq!((p.text("E"), p.text("F"), p.text("G")), (Some(""), Some("a b+c"), None));
        assert_eq!(p.need("E").expect_err("empty").code, "MissingParameter");
        assert_eq!(p.finish(), Ok(()));
    }

    #[test]
    fn what_nobody_read_is_refused_and_a_dry_run_ends_at_the_end() {
        let p = Params::parse(b"Action=X&DryRun=true&B.1.Odd=1");
        assert_eq!(p.finish().expect_err("unknown").message, "The parameter B.1.Odd is not recognized");
        p.skip("B");
        assert_eq!(p.finish().expect_err("dry").status, 412);
    }

    #[test]
    fn a_template_lies_under_a_request() {
        let below = Params::parse(b"T=a&M.X=1&M.Y=2&L.1=a&L.2=b");
        let over = Params::parse(b"T=b&M.Y=3&L.1=c");
        let p = below.overlaid(&over);
        assert_eq!(p.texts("L"), ["c"]);
        let m = p.child("M").expect("M");
        assert_eq!((p.text("T"), m.text("X"), m.text("Y")), (Some("b"), Some("1"), Some("3")));
    }

    #[test]
    fn a_fingerprint_tells_requests_apart_but_not_by_their_token() {
        let of = |form: &str| Params::parse(form.as_bytes()).fingerprint();
        assert_eq!(of("A=1&ClientToken=x"), of("ClientToken=y&A=1"));
        assert_ne!(of("A=1&B=2"), of("A=1;1:B=1:2"));
    }
}
