//! Answers as trees, and the XML that they are written as.

/// An answer or a part of one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// Left out.
    None,
    Text(String),
    /// Elements by name, in order.
    Struct(Vec<(&'static str, Value)>),
    /// Each in an element `item`.
    List(Vec<Value>),
}

impl From<&str> for Value {
    fn from(v: &str) -> Self {
        Self::Text(v.to_owned())
    }
}
impl From<String> for Value {
    fn from(v: String) -> Self {
        Self::Text(v)
    }
}
impl From<&String> for Value {
    fn from(v: &String) -> Self {
        Self::Text(v.clone())
    }
}
impl From<bool> for Value {
    fn from(v: bool) -> Self {
        Self::Text(v.to_string())
    }
}
impl From<u64> for Value {
    fn from(v: u64) -> Self {
        Self::Text(v.to_string())
    }
}
impl From<u32> for Value {
    fn from(v: u32) -> Self {
        Self::Text(v.to_string())
    }
}
impl From<i64> for Value {
    fn from(v: i64) -> Self {
        Self::Text(v.to_string())
    }
}
impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(v: Option<T>) -> Self {
        v.map_or(Self::None, Into::into)
    }
}
impl From<Vec<Value>> for Value {
    fn from(v: Vec<Value>) -> Self {
        Self::List(v)
    }
}
impl<const N: usize> From<[(&'static str, Value); N]> for Value {
    fn from(v: [(&'static str, Value); N]) -> Self {
        Self::Struct(v.into())
    }
}

impl Value {
    /// A structure.
    pub(crate) fn of<const N: usize>(parts: [(&'static str, Value); N]) -> Self {
        parts.into()
    }

    /// A list of texts.
    pub(crate) fn texts<T: Into<Value>>(values: impl IntoIterator<Item = T>) -> Self {
        Self::List(values.into_iter().map(Into::into).collect())
    }

    /// Adds to a structure.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        if let Self::Struct(parts) = &mut self {
            parts.push((name, value.into()));
        }
        self
    }

    /// A part of a structure, or a member of a list by its number, along a path with dots.
    pub(crate) fn at(&self, path: &str) -> &Value {
        path.split('.').fold(self, |at, step| match at {
            Self::Struct(parts) => parts.iter().find(|(n, _)| *n == step).map_or(&Self::None, |(_, v)| v),
            Self::List(members) => step.parse::<usize>().ok().and_then(|n| members.get(n)).unwrap_or(&Self::None),
            _ => &Self::None,
        })
    }

    /// The text at a path.
    pub(crate) fn text_at(&self, path: &str) -> &str {
        match self.at(path) {
            Self::Text(t) => t,
            _ => "",
        }
    }

    fn write(&self, name: &str, out: &mut String) {
        if matches!(self, Self::None) {
            return;
        }
        out.push('<');
        out.push_str(name);
        out.push('>');
        match self {
            Self::None => {}
            Self::Text(t) => escape(t, out),
            Self::Struct(parts) => parts.iter().for_each(|(n, v)| v.write(n, out)),
            Self::List(members) => members.iter().for_each(|v| v.write("item", out)),
        }
        out.push_str("</");
        out.push_str(name);
        out.push('>');
    }

    /// The elements inside a structure, without one around them.
    pub(crate) fn inner_xml(&self) -> String {
        let mut out = String::new();
        if let Self::Struct(parts) = self {
            parts.iter().for_each(|(n, v)| v.write(n, &mut out));
        }
        out
    }
}

/// Writes a text so that it stands in an element. What XML 1.0 has no way to write becomes U+FFFD.
pub(crate) fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\r' => out.push_str("&#13;"),
            c if c < ' ' && !matches!(c, '\t' | '\n') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
}

/// An escaped copy.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    escape(text, &mut out);
    out
}

/// EC2's answer to an action that went well.
pub(crate) fn response(action: &str, request: &str, answer: &Value) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\
         <requestId>{request}</requestId>{}</{action}Response>",
        answer.inner_xml()
    )
}

/// EC2's answer to an action that did not.
pub(crate) fn refusal(code: &str, message: &str, request: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>{}</Code><Message>{}</Message></Error></Errors>\
         <RequestID>{request}</RequestID></Response>",
        escaped(code),
        escaped(message)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_lists_and_odd_texts_are_written() {
        let v = Value::of([
            ("a", "x<&\u{1}".into()),
            ("none", Value::None),
            ("set", vec![Value::of([("n", 1u64.into())]), "t".into()].into()),
            ("empty", Vec::new().into()),
        ]);
        assert_eq!(
            v.inner_xml(),
            "<a>x&lt;&amp;\u{fffd}</a><set><item><n>1</n></item><item>t</item></set><empty></empty>"
        );
        assert_eq!((v.text_at("set.0.n"), v.text_at("set.1"), v.text_at("b")), ("1", "t", ""));
    }
}
