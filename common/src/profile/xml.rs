//! A profile as XML, before it becomes a kickstart: what each node contributes (`rocks list host xml`).

use std::fmt::Write as _;

use super::{Piece, Profile, SectionKind};
use crate::xml::escape as esc;

/// The profile as one XML document: its nodes in order, each with its commands, packages and sections after all entities and
/// conditions.
#[must_use]
pub fn xml(profile: &Profile) -> String {
    let mut out = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<profile root=\"{}\">\n", esc(&profile.root));
    // Writing to a String cannot fail.
    for node in &profile.nodes {
        let _ = writeln!(out, "<node name=\"{}\" roll=\"{}\">", esc(&node.name), esc(&node.roll));
        let main: Vec<_> = profile.main.iter().filter(|command| command.origin.node == node.name).collect();
        if !main.is_empty() {
            out.push_str("<main>\n");
            for command in main {
                let mut body = String::new();
                pieces(&command.body, &mut body);
                let _ = writeln!(out, "<{0}>{1}</{0}>", esc(&command.name), body.trim());
            }
            out.push_str("</main>\n");
        }
        for package in profile.packages.iter().filter(|package| package.origin.node == node.name) {
            let disable = if package.enabled { "" } else { " disable=\"1\"" };
            let _ = writeln!(out, "<package{disable}>{}</package>", esc(&package.name));
        }
        for section in profile.sections.iter().filter(|section| section.origin.node == node.name) {
            let mut attributes = format!(" file=\"{}\"", esc(&section.origin.file));
            for (name, value) in [("arg", Some(section.arg.trim())), ("interpreter", section.interpreter.as_deref())] {
                if let Some(value) = value.filter(|value| !value.is_empty()) {
                    let _ = write!(attributes, " {name}=\"{}\"", esc(value));
                }
            }
            if let SectionKind::Boot(super::Boot::Pre) = section.kind {
                attributes.push_str(" order=\"pre\"");
            }
            let name = section.kind.name();
            let _ = write!(out, "<{name}{attributes}>");
            pieces(&section.body, &mut out);
            let _ = writeln!(out, "</{name}>");
        }
        out.push_str("</node>\n");
    }
    out.push_str("</profile>\n");
    out
}

fn pieces(all: &[Piece], out: &mut String) {
    for piece in all {
        match piece {
            Piece::Text(text) => out.push_str(&esc(text)),
            Piece::File(tag) => {
                out.push_str("<file");
                let optional = |value: &Option<String>| value.clone().unwrap_or_default();
                for (name, value) in [
                    ("name", tag.name.clone()),
                    ("mode", optional(&tag.mode)),
                    ("owner", optional(&tag.owner)),
                    ("perms", optional(&tag.perms)),
                    ("vars", optional(&tag.vars)),
                    ("expr", optional(&tag.expr)),
                ] {
                    if !value.is_empty() {
                        let _ = write!(out, " {name}=\"{}\"", esc(&value));
                    }
                }
                out.push('>');
                pieces(&tag.body, out);
                out.push_str("</file>");
            }
        }
    }
}
