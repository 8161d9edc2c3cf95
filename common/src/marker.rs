//! The comment by which a rendered section says where it comes from.
//!
//! In dialect `modern` the first line of every script section's body is
//! `# rocks: node=ROLL/nodes/ssh.xml line=12 section=post.2 digest=HEX`: the node file it was written in, the line where its
//! element begins, which script of that file it is (kind and number, from 1), and its [`section_digest`]. Anaconda sees a
//! comment; the agent sees the section's identity (design: node file + position + digest).

use std::fmt;

use crate::ids::Digest;

/// What every marker line begins with.
pub const PREFIX: &str = "# rocks: ";

/// Where a script section comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Marker {
    /// The node file, as `ROLL/nodes/NAME.xml`.
    pub node: String,
    /// The line of the section's element in that file, from 1.
    pub line: u32,
    /// The section's kind and number among those of its kind in that file, from 1: `post.2`.
    pub section: String,
    /// The digest of the section's header and body.
    pub digest: Digest,
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, line, section, digest } = self;
        write!(f, "{PREFIX}node={node} line={line} section={section} digest={digest}")
    }
}

impl Marker {
    /// Reads a line; `None` if it is no marker. Unknown keys are ignored, so that a newer frontend may add some.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (mut node, mut at, mut section, mut digest) = (None, None, None, None);
        for field in line.strip_prefix(PREFIX)?.split_ascii_whitespace() {
            let (key, value) = field.split_once('=')?;
            match key {
                "node" => node = Some(value.to_owned()),
                "line" => at = value.parse().ok(),
                "section" => section = Some(value.to_owned()),
                "digest" => digest = value.parse().ok(),
                _ => {}
            }
        }
        Some(Self { node: node?, line: at?, section: section?, digest: digest? })
    }
}

/// The digest by which a script section is known: over its kind (`post`), its header's arguments as written
/// (`--interpreter=/bin/sh`), and its body without the marker line. What changes this makes the section run again.
#[must_use]
pub fn section_digest(kind: &str, arguments: &str, body: &str) -> Digest {
    Digest::of_fields(&[b"rocks section 1", kind.as_bytes(), arguments.trim().as_bytes(), body.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_survives_its_text() {
        let marker = Marker {
            node: "base/nodes/ssh.xml".into(),
            line: 12,
            section: "post.2".into(),
            digest: section_digest("post", "", "echo\n"),
        };
        assert_eq!(Marker::parse(&marker.to_string()), Some(marker.clone()));
        assert_eq!(Marker::parse(&format!("{marker} later=1")), Some(marker));
        assert_eq!(Marker::parse("# rocks: node=x"), None);
        assert_eq!(Marker::parse("# a comment"), None);
    }
}
