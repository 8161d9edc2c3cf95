//! What was read: elements, attributes and text, each with its place; and how text is written as XML.

use std::ops::Range;

use crate::diag::Source;

/// A file that was read.
#[derive(Debug, Clone)]
pub struct Document {
    /// What it was read from.
    pub source: Source,
    /// The root element, if there is one.
    pub root: Option<Element>,
}

/// An element.
#[derive(Debug, Clone)]
pub struct Element {
    /// Its name as written.
    pub name: Box<str>,
    /// Its attributes, in order.
    pub attributes: Vec<Attribute>,
    /// What is in it, in order.
    pub children: Vec<Node>,
    /// The bytes of its start tag in the source.
    pub span: Range<usize>,
}

impl Element {
    /// The attribute called `name`.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|a| &*a.name == name)
    }
}

/// Something in an element.
#[derive(Debug, Clone)]
pub enum Node {
    /// An element.
    Element(Element),
    /// Text and references, adjacent pieces joined.
    Text(Text),
}

/// An attribute of an element.
#[derive(Debug, Clone)]
pub struct Attribute {
    /// Its name as written.
    pub name: Box<str>,
    /// Its value, white space normalised to blanks as XML wants it.
    pub value: Text,
}

/// Text with references in it.
#[derive(Debug, Clone)]
pub struct Text {
    /// Its pieces, in order; adjacent literals are joined.
    pub parts: Vec<Part>,
    /// Its bytes in the source.
    pub span: Range<usize>,
}

/// A piece of text.
#[derive(Debug, Clone)]
pub enum Part {
    /// Literal text; predefined and character references are resolved.
    Literal(Box<str>),
    /// A reference to a general entity: an attribute of the host.
    Entity {
        /// Its name.
        name: Box<str>,
        /// Its bytes in the source.
        span: Range<usize>,
    },
}

impl Text {
    /// The text, if there are no references in it.
    #[must_use]
    pub fn literal(&self) -> Option<&str> {
        match &self.parts[..] {
            [] => Some(""),
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// The entities that it refers to.
    pub fn entities(&self) -> impl Iterator<Item = (&str, Range<usize>)> {
        self.parts.iter().filter_map(|part| match part {
            Part::Entity { name, span } => Some((&**name, span.clone())),
            Part::Literal(_) => None,
        })
    }
}

/// `text` as it stands in XML: escaped, and without the characters that XML cannot hold.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\t' | '\n' => out.push(c),
            '\r' => out.push_str("&#13;"),
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => {}
            _ => out.push(c),
        }
    }
    out
}
