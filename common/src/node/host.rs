//! One host's attributes as the different stages see them.
//!
//! The original passes attributes through XML and Python on their way (rocks-xml 5.3, 3.2, 7): text, conditions of the graph
//! and conditions of elements each see another form of the same value. In `modern` a value is a value.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

use crate::attr::Attributes;
use crate::cond::{Lookup, unescape_python};
use crate::diag::Diagnostic;
use crate::dialect::Dialect;

/// One host's attributes, and which of them were read.
#[derive(Debug)]
pub struct HostValues<'a> {
    values: HashMap<&'a str, Forms<'a>>,
    reads: RefCell<BTreeSet<Box<str>>>,
}

#[derive(Debug)]
struct Forms<'a> {
    /// What an entity becomes in text.
    text: Cow<'a, str>,
    /// What a condition of the graph sees.
    graph: Cow<'a, str>,
    /// What a condition of an element sees.
    element: Cow<'a, str>,
}

impl<'a> HostValues<'a> {
    /// The forms of `attributes` in `dialect`.
    ///
    /// # Errors
    /// A value that the original cannot carry (rocks-xml 5.3, 7).
    pub fn new(attributes: &'a Attributes, dialect: Dialect) -> Result<Self, Box<Diagnostic>> {
        let mut values = HashMap::new();
        for (name, value, _) in attributes.iter() {
            let forms = match dialect {
                Dialect::Modern => Forms { text: value.into(), graph: value.into(), element: value.into() },
                Dialect::Rocks7 | Dialect::Rocks61 => original_forms(name.as_str(), value, dialect)?,
            };
            values.insert(name.as_str(), forms);
        }
        Ok(Self { values, reads: RefCell::new(BTreeSet::new()) })
    }

    fn read(&self, name: &str) -> Option<&Forms<'a>> {
        let mut reads = self.reads.borrow_mut();
        if !reads.contains(name) {
            reads.insert(name.into());
        }
        self.values.get(name)
    }

    /// What `&name;` becomes in text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.read(name).map(|forms| &*forms.text)
    }

    /// What conditions of the graph see.
    #[must_use]
    pub fn for_graph(&self) -> impl Lookup + '_ {
        View { host: self, form: |forms| &forms.graph }
    }

    /// What conditions of elements see.
    #[must_use]
    pub fn for_elements(&self) -> impl Lookup + '_ {
        View { host: self, form: |forms| &forms.element }
    }

    /// The attributes that were asked for so far, those included that are not set.
    #[must_use]
    pub fn into_reads(self) -> BTreeSet<Box<str>> {
        self.reads.into_inner()
    }
}

struct View<'h, 'a> {
    host: &'h HostValues<'a>,
    form: for<'f> fn(&'f Forms<'a>) -> &'f str,
}

impl Lookup for View<'_, '_> {
    fn lookup(&self, name: &str) -> Option<&str> {
        self.host.read(name).map(self.form)
    }
}

fn original_forms<'a>(name: &str, value: &'a str, dialect: Dialect) -> Result<Forms<'a>, Box<Diagnostic>> {
    if !value.contains(['&', '<', '>', '"', '%', '\'', '\\', '\n', '\t', '\r']) {
        return Ok(Forms { text: value.into(), graph: value.into(), element: value.into() });
    }
    let broken = |why: &str| {
        let message = format!("attribute `{name}` has a value that the original cannot carry: {why}");
        Box::new(Diagnostic::error("attribute-value", message))
    };
    let rocks7 = dialect == Dialect::Rocks7;
    if !rocks7 && value.contains(['"', '%']) {
        return Err(broken("`\"` or `%`"));
    }
    let escaped = value.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let (text, graph) = if rocks7 {
        let graph = escaped.replace('"', "&quot;").replace('%', "&#x0025;").replace('\'', "\\'");
        (value.replace('\'', "\\'"), graph)
    } else {
        (value.to_owned(), escaped)
    };
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    // The generator finds the values as a Python dictionary in an XML attribute.
    if !rocks7 && value.contains('\'') {
        return Err(broken("`'`"));
    }
    let in_attribute = text.replace(['\n', '\t'], " ");
    let element = unescape_python(&in_attribute).ok_or_else(|| broken("a backslash that Python refuses"))?;
    Ok(Forms { text: text.into(), graph: graph.into(), element: element.into() })
}
