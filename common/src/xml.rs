//! Reading XML that nobody vouches for.
//!
//! Rolls come from other people. This reader knows elements, attributes, text, CDATA, comments and references, and nothing
//! that makes XML dangerous: a document type declaration is refused, so there are no entity bombs and no external entities;
//! size, depth and number of everything are bounded by [`crate::limits`]. A reference to an entity stays a reference in the tree
//! ([`Part::Entity`]): attributes of hosts are put in when a profile is made, so that a file is parsed once for all hosts.
//!
//! It is as strict as expat, which the original uses: what is not well-formed is an error with its place.

mod tree;

use std::borrow::Cow;
use std::ops::Range;

use quick_xml::Reader;
use quick_xml::errors::{Error as QuickError, IllFormedError};
use quick_xml::events::{BytesStart, Event};

use crate::diag::{Diagnostic, Diagnostics, Place, Source};
use crate::limits;

pub use tree::{Attribute, Document, Element, Node, Part, Text, escape};

/// How a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseOptions {
    /// Drop every line that contains `<?xml`, as the original does with node files (rocks-xml 5.2).
    pub drop_declaration_lines: bool,
    /// Accept a file whose root element is not closed, as the original does with node files (rocks-xml 5.2).
    pub open_root: bool,
}

impl ParseOptions {
    /// Plain XML.
    pub const STRICT: Self = Self { drop_declaration_lines: false, open_root: false };
    /// The original's way with node files.
    pub const ROCKS_NODE: Self = Self { drop_declaration_lines: true, open_root: true };
}

/// Reads `source`. What could be read comes back even when there are errors.
#[must_use]
pub fn parse(source: &Source, options: ParseOptions) -> (Document, Diagnostics) {
    let mut diagnostics = Diagnostics::new();
    let mut document = Document { source: source.clone(), root: None };
    if source.text().len() as u64 > limits::XML_FILE_BYTES {
        diagnostics.push(Diagnostic::error(
            "xml-too-large",
            format!("{} has more than {} bytes", source.name(), limits::XML_FILE_BYTES),
        ));
        return (document, diagnostics);
    }
    let prepared = Prepared::new(source.text(), options.drop_declaration_lines);
    let mut builder = Builder { source, prepared: &prepared, stack: Vec::new(), events: 0, root: None };
    if let Err(problem) = builder.run(options) {
        diagnostics.push(*problem);
    }
    document.root = builder.finish();
    // Also what an editor leaves for a moment while it writes.
    if document.root.is_none() && !diagnostics.has_errors() && !options.open_root {
        diagnostics.push(Diagnostic::error("xml-empty", "there is no element in this file").at(source.at(0..0)));
    }
    (document, diagnostics)
}

/// Reads a piece of XML that may hold any number of elements and text at its top, as `mode="xml"` puts into a node file.
///
/// # Errors
/// The first problem.
pub fn parse_fragment(source: &Source) -> Result<Vec<Node>, Box<Diagnostic>> {
    let wrapped = Source::new(source.name(), format!("<fragment>{}</fragment>", source.text()));
    let (document, diagnostics) = parse(&wrapped, ParseOptions::STRICT);
    match diagnostics.into_iter().next() {
        Some(problem) => Err(Box::new(problem)),
        None => Ok(document.root.map(|root| root.children).unwrap_or_default()),
    }
}

/// The text that is given to the reader, and how its offsets map back to the source.
struct Prepared<'s> {
    text: Cow<'s, str>,
    /// (offset in `text` from which it holds, bytes left out before it).
    shifts: Vec<(usize, usize)>,
}

impl<'s> Prepared<'s> {
    fn new(text: &'s str, drop_declaration_lines: bool) -> Self {
        let drops = drop_declaration_lines && text.contains("<?xml");
        if !drops && !text.contains('\r') {
            return Self { text: Cow::Borrowed(text), shifts: Vec::new() };
        }
        let (mut out, mut shifts, mut left_out) = (String::with_capacity(text.len()), Vec::new(), 0);
        for line in text.split_inclusive('\n') {
            if drops && line.contains("<?xml") {
                left_out += line.len();
                shifts.push((out.len(), left_out));
            } else if line.contains('\r') {
                // XML's line ends: CR LF and lone CR are both LF.
                let mut chars = line.chars().peekable();
                while let Some(c) = chars.next() {
                    if c == '\r' && chars.peek() == Some(&'\n') {
                        left_out += 1;
                        shifts.push((out.len(), left_out));
                    } else {
                        out.push(if c == '\r' { '\n' } else { c });
                    }
                }
            } else {
                out.push_str(line);
            }
        }
        Self { text: Cow::Owned(out), shifts }
    }

    fn source_offset(&self, offset: usize) -> usize {
        let at = self.shifts.partition_point(|(from, _)| *from <= offset);
        offset + at.checked_sub(1).map_or(0, |i| self.shifts[i].1)
    }
}

struct Builder<'s> {
    source: &'s Source,
    prepared: &'s Prepared<'s>,
    stack: Vec<Open>,
    events: usize,
    root: Option<Element>,
}

struct Open {
    element: Element,
    /// Text being collected, and the literal at its end.
    text: Option<Text>,
    literal: String,
}

type Problem = Box<Diagnostic>;

impl Builder<'_> {
    fn run(&mut self, options: ParseOptions) -> Result<(), Problem> {
        let text: &str = &self.prepared.text;
        let mut reader = Reader::from_str(text.strip_prefix('\u{feff}').unwrap_or(text));
        let base = if text.starts_with('\u{feff}') { 3 } else { 0 };
        let config = reader.config_mut();
        config.check_comments = true;
        config.check_end_names = true;
        loop {
            let from = base + reader.buffer_position() as usize;
            let event = match reader.read_event() {
                Ok(event) => event,
                Err(error) => {
                    let at = base + reader.error_position() as usize;
                    return self.syntax_error(&error, at.max(from), options);
                }
            };
            let span = from..base + reader.buffer_position() as usize;
            self.events += 1;
            if self.events > limits::XML_EVENTS {
                return Err(self.error("xml-too-many-parts", "the file has too many elements and text pieces", span));
            }
            match event {
                Event::Start(tag) => self.start(&tag, span, text)?,
                Event::Empty(tag) => {
                    self.start(&tag, span, text)?;
                    self.end();
                }
                Event::End(_) => self.end(),
                Event::Text(chunk) => {
                    let chunk = chunk.into_inner();
                    if chunk.contains("]]>") {
                        return Err(self.error("xml-malformed", "`]]>` may not stand in text", span));
                    }
                    self.text(&chunk, span)?;
                }
                Event::CData(chunk) => self.text(&chunk.into_inner(), span)?,
                Event::GeneralRef(reference) => {
                    let name = reference.into_inner();
                    self.reference(&name, span)?;
                }
                Event::Decl(_) => {
                    if span.start != base {
                        return Err(self
                            .error("xml-declaration", "an XML declaration may stand only at the very start", span)
                            .hint_boxed("remove it, or the text before it"));
                    }
                }
                Event::DocType(_) => {
                    return Err(self
                        .error("xml-doctype", "a document type declaration is not allowed", span)
                        .hint_boxed("attributes are the only entities; set one with `rocks set attr`"));
                }
                Event::Comment(_) | Event::PI(_) => {}
                Event::Eof => break,
            }
        }
        if self.stack.len() > usize::from(options.open_root) {
            let open = &self.stack[self.stack.len() - 1].element;
            let message = format!("<{}> is never closed", open.name);
            return Err(self.error_at("xml-unclosed", message, self.source.at(open.span.clone())));
        }
        Ok(())
    }

    fn syntax_error(&self, error: &QuickError, at: usize, options: ParseOptions) -> Result<(), Problem> {
        // The original never tells the parser that the file ended, so a file cut short inside its root is accepted.
        let cut_short = matches!(error, QuickError::Syntax(_)) && self.stack.len() <= 1;
        if options.open_root && cut_short {
            return Ok(());
        }
        let message = match error {
            QuickError::IllFormed(IllFormedError::MismatchedEndTag { expected, found }) => {
                format!("</{found}> does not close <{expected}>")
            }
            other => other.to_string(),
        };
        let mut problem = self.error("xml-malformed", message, at..at + 1);
        if let (QuickError::IllFormed(IllFormedError::MismatchedEndTag { .. }), Some(open)) = (error, self.stack.last())
        {
            problem.related.push((self.source.at(open.element.span.clone()), "opened here".into()));
        }
        Err(problem)
    }

    fn error(&self, code: &'static str, message: impl Into<String>, span: Range<usize>) -> Problem {
        self.error_at(code, message, self.place(&span))
    }

    fn error_at(&self, code: &'static str, message: impl Into<String>, place: Place) -> Problem {
        Box::new(Diagnostic::error(code, message).at(place))
    }

    fn place(&self, span: &Range<usize>) -> Place {
        self.source.at(self.in_source(span))
    }

    fn in_source(&self, span: &Range<usize>) -> Range<usize> {
        self.prepared.source_offset(span.start)..self.prepared.source_offset(span.end)
    }

    fn start(&mut self, tag: &BytesStart<'_>, span: Range<usize>, whole: &str) -> Result<(), Problem> {
        if self.stack.is_empty() && self.root.is_some() {
            return Err(self.error("xml-malformed", "only one element may stand at the top of a file", span));
        }
        if self.stack.len() >= limits::XML_DEPTH {
            return Err(self.error("xml-too-deep", "elements are nested too deeply", span));
        }
        let name = tag.name().into_inner();
        if !is_name(name) {
            return Err(self.error("xml-malformed", format!("`{name}` is not a name"), span));
        }
        let (name, rest): (Box<str>, &str) = (name.into(), tag.attributes_raw());
        // The tag's bytes are a slice of `whole`, so where its attributes stand is known.
        let at = (rest.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
        let at = if at <= whole.len() { at } else { span.start };
        let attributes = self.attributes(rest, at, &span)?;
        self.flush_text();
        let element = Element { name, attributes, children: Vec::new(), span: self.in_source(&span) };
        self.stack.push(Open { element, text: None, literal: String::new() });
        Ok(())
    }

    fn attributes(&self, raw: &str, at: usize, tag: &Range<usize>) -> Result<Vec<Attribute>, Problem> {
        let mut attributes: Vec<Attribute> = Vec::new();
        let mut rest = raw;
        loop {
            let trimmed = rest.trim_start_matches([' ', '\t', '\n', '\r']);
            let offset = |now: &str| at + (raw.len() - now.len());
            if trimmed.is_empty() {
                return Ok(attributes);
            }
            if trimmed.len() == rest.len() {
                return Err(self.error("xml-malformed", "attributes must be separated by blanks", tag.clone()));
            }
            let begin = offset(trimmed);
            let malformed = |message: &str| self.error("xml-malformed", message, begin..begin + 1);
            let end = trimmed.find(|c: char| c == '=' || c.is_ascii_whitespace()).unwrap_or(trimmed.len());
            let name = &trimmed[..end];
            if !is_name(name) {
                return Err(malformed("this is not an attribute's name"));
            }
            let after = trimmed[end..].trim_start();
            let Some(after) = after.strip_prefix('=').map(str::trim_start) else {
                return Err(malformed("an attribute needs a value"));
            };
            let Some(quote) = after.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
                return Err(malformed("an attribute's value must be quoted"));
            };
            let Some((value, next)) = after[1..].split_once(quote) else {
                return Err(malformed("an attribute's value is not closed"));
            };
            let value_at = offset(after) + 1;
            if let Some(bad) = value.find('<') {
                let bad = value_at + bad;
                return Err(self
                    .error("xml-malformed", "`<` may not stand in an attribute", bad..bad + 1)
                    .hint_boxed("write `&lt;`"));
            }
            if attributes.iter().any(|a| &*a.name == name) {
                return Err(malformed(&format!("attribute `{name}` stands there twice")));
            }
            if attributes.len() >= limits::XML_ATTRIBUTES {
                return Err(malformed("the element has too many attributes"));
            }
            let value = self.attribute_value(value, value_at)?;
            attributes.push(Attribute { name: name.into(), value });
            rest = next;
        }
    }

    fn attribute_value(&self, raw: &str, at: usize) -> Result<Text, Problem> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = raw;
        while let Some(start) = rest.find(['&', '\t', '\n', '\r']) {
            literal.push_str(&rest[..start]);
            let here = at + (raw.len() - rest.len()) + start;
            if !rest[start..].starts_with('&') {
                literal.push(' ');
                rest = &rest[start + 1..];
                continue;
            }
            let Some((name, next)) = rest[start + 1..].split_once(';') else {
                return Err(self.error("xml-malformed", "`&` begins a reference that does not end", here..here + 1));
            };
            let span = here..here + name.len() + 2;
            match resolve(name) {
                Reference::Char(c) => literal.push(c),
                Reference::Entity => {
                    if !literal.is_empty() {
                        parts.push(Part::Literal(std::mem::take(&mut literal).into()));
                    }
                    parts.push(Part::Entity { name: name.into(), span: self.in_source(&span) });
                }
                Reference::Bad => return Err(self.error("xml-malformed", "this is not a reference", span)),
            }
            rest = next;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.into()));
        }
        Ok(Text { parts, span: self.in_source(&(at..at + raw.len())) })
    }

    fn text(&mut self, chunk: &str, span: Range<usize>) -> Result<(), Problem> {
        let place = self.in_source(&span);
        let Some(open) = self.stack.last_mut() else {
            if chunk.chars().all(|c| matches!(c, ' ' | '\t' | '\n' | '\r')) {
                return Ok(());
            }
            return Err(self.error("xml-malformed", "text may not stand outside the root element", span));
        };
        let text = open.text.get_or_insert_with(|| Text { parts: Vec::new(), span: place.clone() });
        text.span.end = place.end;
        open.literal.push_str(chunk);
        Ok(())
    }

    fn reference(&mut self, name: &str, span: Range<usize>) -> Result<(), Problem> {
        let place = self.in_source(&span);
        let resolved = resolve(name);
        if let Reference::Bad = resolved {
            return Err(self.error("xml-malformed", "this is not a reference", span));
        }
        let Some(open) = self.stack.last_mut() else {
            return Err(self.error("xml-malformed", "a reference may not stand outside the root element", span));
        };
        let text = open.text.get_or_insert_with(|| Text { parts: Vec::new(), span: place.clone() });
        text.span.end = place.end;
        match resolved {
            Reference::Char(c) => open.literal.push(c),
            _ => {
                if !open.literal.is_empty() {
                    text.parts.push(Part::Literal(std::mem::take(&mut open.literal).into()));
                }
                text.parts.push(Part::Entity { name: name.into(), span: place });
            }
        }
        Ok(())
    }

    fn flush_text(&mut self) {
        if let Some(open) = self.stack.last_mut() {
            open.flush();
        }
    }

    fn end(&mut self) {
        // The reader has checked that the name fits and that there is something to close.
        let Some(mut open) = self.stack.pop() else { return };
        open.flush();
        match self.stack.last_mut() {
            Some(parent) => parent.element.children.push(Node::Element(open.element)),
            None => self.root = Some(open.element),
        }
    }

    fn finish(mut self) -> Option<Element> {
        while !self.stack.is_empty() {
            self.end();
        }
        self.root
    }
}

impl Open {
    fn flush(&mut self) {
        if let Some(mut text) = self.text.take() {
            if !self.literal.is_empty() {
                text.parts.push(Part::Literal(std::mem::take(&mut self.literal).into()));
            }
            self.element.children.push(Node::Text(text));
        }
    }
}

trait HintBoxed {
    fn hint_boxed(self, hint: &str) -> Self;
}

impl HintBoxed for Problem {
    fn hint_boxed(mut self, hint: &str) -> Self {
        self.hint = Some(hint.to_owned());
        self
    }
}

enum Reference {
    Char(char),
    Entity,
    Bad,
}

fn resolve(name: &str) -> Reference {
    match name {
        "amp" => Reference::Char('&'),
        "lt" => Reference::Char('<'),
        "gt" => Reference::Char('>'),
        "quot" => Reference::Char('"'),
        "apos" => Reference::Char('\''),
        _ => match name.strip_prefix('#') {
            Some(number) => {
                let code = match number.strip_prefix('x') {
                    Some(hex) => u32::from_str_radix(hex, 16).ok().filter(|_| !hex.starts_with('+')),
                    None => number.parse().ok().filter(|_| !number.starts_with('+')),
                };
                match code.and_then(char::from_u32).filter(|c| is_xml_char(*c)) {
                    Some(c) => Reference::Char(c),
                    None => Reference::Bad,
                }
            }
            None if is_name(name) => Reference::Entity,
            None => Reference::Bad,
        },
    }
}

fn is_xml_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// Whether `text` is an XML name, near enough: what can stand as an element's, attribute's or entity's name.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_alphabetic() || matches!(c, '_' | ':'))
        && chars.all(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '-' | '.' | '\u{b7}'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str, options: ParseOptions) -> (Document, Diagnostics) {
        parse(&Source::new("t.xml", text), options)
    }

    fn refused(text: &str) -> String {
        let (_, diagnostics) = read(text, ParseOptions::STRICT);
        let first = diagnostics.iter().next().map(ToString::to_string);
        first.unwrap_or_else(|| panic!("{text:?} was accepted"))
    }

    #[test]
    fn text_and_references_are_joined() {
        let (document, diagnostics) =
            read("<a>x &lt;&#65;&#x42; <!-- c -->y<![CDATA[<&z;>]]>&host;!</a>", ParseOptions::STRICT);
        assert!(diagnostics.is_empty());
        let root = document.root.expect("a root");
        let [Node::Text(text)] = &root.children[..] else { panic!("{root:?}") };
        assert!(matches!(&text.parts[..],
            [Part::Literal(a), Part::Entity { name, .. }, Part::Literal(b)]
            if &**a == "x <AB y<&z;>" && &**name == "host" && &**b == "!"));
    }

    #[test]
    fn what_is_not_well_formed_is_refused_with_its_place() {
        assert!(refused("<a>\n <b></a>").starts_with("t.xml:2:5: error: </a> does not close <b>"));
        assert!(refused("<a x='<'/>").contains("t.xml:1:7"));
        for bad in [
            "<a x=1/>",
            "<a x='1' x='2'/>",
            "<a x='1'y='2'/>",
            "<a>&</a>",
            "<a>& b</a>",
            "<a>&#0;</a>",
            "<a>]]></a>",
            "<a/><b/>",
            "<a/>x",
            "x<a/>",
            "<a>",
            "<a",
            "<!-- -- --><a/>",
            "<1/>",
            "<a>&1;</a>",
            "<a> <?xml version='1.0'?></a>",
        ] {
            refused(bad);
        }
    }

    #[test]
    fn entity_bombs_and_external_entities_are_refused() {
        let bomb = "<!DOCTYPE a [<!ENTITY x \"xxxxxxxxxx\"><!ENTITY y \"&x;&x;&x;&x;&x;\">]><a>&y;</a>";
        assert!(refused(bomb).contains("[xml-doctype]"));
        assert!(refused("<!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>").contains("[xml-doctype]"));
    }

    #[test]
    fn depth_size_and_number_are_bounded() {
        assert!(refused(&"<a>".repeat(100_000)).contains("[xml-too-deep]"));
        assert!(refused(&format!("<a>{}</a>", "<b/>".repeat(limits::XML_EVENTS))).contains("[xml-too-many-parts]"));
        let large = " ".repeat(limits::XML_FILE_BYTES as usize + 1);
        assert!(refused(&large).contains("[xml-too-large]"));
    }

    #[test]
    fn the_originals_way_with_node_files() {
        let (document, diagnostics) =
            read("<?xml version='1.0'?>\n<a>\nx <?xml y\n<b c='&d;'/>", ParseOptions::ROCKS_NODE);
        assert!(diagnostics.is_empty(), "{}", diagnostics.render());
        let root = document.root.expect("a root");
        let Node::Element(b) = &root.children[1] else { panic!("{root:?}") };
        assert_eq!(document.source.position(b.span.start).line, 4);
        let (_, diagnostics) = read("<a><b>", ParseOptions::ROCKS_NODE);
        assert!(diagnostics.has_errors());
    }

    #[test]
    fn line_ends_are_normalised_and_places_stay_right() {
        let (document, diagnostics) = read("<a>\r\n<b c='1\r\n2'/>\rx</a>", ParseOptions::STRICT);
        assert!(diagnostics.is_empty());
        let root = document.root.expect("a root");
        let Node::Element(b) = &root.children[1] else { panic!("{root:?}") };
        assert_eq!(b.attributes[0].value.literal(), Some("1 2"));
        assert_eq!(document.source.text()[b.span.clone()].chars().next(), Some('<'));
        assert!(matches!(&root.children[2], Node::Text(t) if t.literal() == Some("\nx")));
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,200}", soup in "[<>/a&;=\"' !\\[\\]?x\\n\\r-]{0,200}") {
            for text in [text, soup.clone(), format!("<a>{soup}</a>"), format!("<a {soup}/>")] {
                for options in [ParseOptions::STRICT, ParseOptions::ROCKS_NODE] {
                    let (_, diagnostics) = read(&text, options);
                    let _ = diagnostics.render();
                }
            }
        }
    }
}
