//! Our kickstart: for RHEL 8, 9 and 10, Fedora and Amazon Linux 2023.
//!
//! Every command is preceded by a comment with the node file and line that it comes from, every package is followed by one,
//! and every script begins with its marker ([`crate::marker`]), so that the agent can say why it does what it does. The same
//! profile always gives the same text.

use std::collections::BTreeMap;

use super::commands::{Standing, similar_to, standing};
use super::shell;
use crate::diag::{Diagnostic, Diagnostics};
use crate::marker::{Marker, section_digest};
use crate::profile::{Boot, Origin, Package, Piece, Profile, Section, SectionKind};

/// Where an installer and the agent log the output of `%post` sections.
const POST_LOG: &str = "/var/log/rocks-post.log";
/// Where an installer logs the output of `%pre` sections.
const PRE_LOG: &str = "/tmp/rocks-pre.log";

pub(super) fn kickstart(profile: &Profile) -> Result<String, Diagnostics> {
    let mut writer = Writer { out: String::with_capacity(64 << 10), problems: Diagnostics::new() };
    writer.line(&format!("# Made by Rocks from node {}. Change the rolls or the attributes, not this.", profile.root));
    for command in &profile.main {
        writer.command(&command.name, &command.body, &command.origin);
    }
    writer.packages(&profile.packages);
    let of = |kind: SectionKind| profile.sections.iter().filter(move |section| section.kind == kind);
    for section in of(SectionKind::Pre) {
        writer.script(section, "pre", &shell::body(&section.body), PRE_LOG);
    }
    for section in of(SectionKind::Post) {
        writer.script(section, "post", &shell::body(&section.body), POST_LOG);
    }
    for (boot, unit) in [(Boot::Pre, "rocks-boot-pre"), (Boot::Post, "rocks-boot-post")] {
        for section in of(SectionKind::Boot(boot)) {
            writer.script(section, "post", &boot_script(section, boot, unit), POST_LOG);
        }
    }
    if writer.problems.has_errors() { Err(writer.problems) } else { Ok(writer.out) }
}

struct Writer {
    out: String,
    problems: Diagnostics,
}

impl Writer {
    fn line(&mut self, text: &str) {
        self.out.push_str(text);
        self.out.push('\n');
    }

    fn problem(&mut self, code: &'static str, origin: &Origin, message: impl std::fmt::Display) -> &mut Diagnostics {
        self.problems.push(Diagnostic::error(code, format!("{}:{}: {message}", origin.file, origin.line)));
        &mut self.problems
    }

    fn command(&mut self, name: &str, body: &[Piece], origin: &Origin) {
        match standing(name) {
            Standing::Current => {}
            Standing::Obsolete(instead) => {
                self.problem("obsolete-command", origin, format!("<{name}> is no longer a command; {instead}"));
                return;
            }
            Standing::Unknown => {
                let hint = similar_to(name).map(|s| format!("; did you mean <{s}>?")).unwrap_or_default();
                self.problem("unknown-command", origin, format!("<{name}> is not a kickstart command{hint}"));
                return;
            }
        }
        let mut text = String::new();
        for piece in body {
            match piece {
                Piece::Text(piece) => text.push_str(piece),
                Piece::File(_) => {
                    self.problem("unknown-element", origin, format!("<file> cannot stand in <{name}>"));
                }
            }
        }
        let text = text.trim();
        if text.contains('\n') {
            self.problem(
                "several-lines",
                origin,
                format!("the text of <{name}> has several lines; write one element for each"),
            );
            return;
        }
        self.line("");
        self.line(&format!("# {}:{}", origin.file, origin.line));
        let line = format!("{name} {text}");
        self.line(line.trim_end());
    }

    fn packages(&mut self, packages: &[Package]) {
        let mut on: BTreeMap<&str, &Package> = BTreeMap::new();
        let mut off: BTreeMap<&str, &Package> = BTreeMap::new();
        for package in packages {
            if package.name.is_empty() || package.name.contains(|c: char| c.is_control() || c == '#') {
                self.problem("bad-package", &package.origin, format!("{:?} is not a package's name", package.name));
                continue;
            }
            let side = if package.enabled { &mut on } else { &mut off };
            side.entry(&package.name).or_insert(package);
        }
        for (name, package) in &off {
            if let Some(wanted) = on.get(name) {
                let there = format!("{}:{}", wanted.origin.file, wanted.origin.line);
                let message = format!("package `{name}` is disabled here and wanted at {there}");
                self.problem("package-on-and-off", &package.origin, message);
            }
        }
        self.line("\n%packages");
        for (name, package) in on {
            self.line(&format!("{name}  # {}:{}", package.origin.file, package.origin.line));
        }
        for (name, package) in off {
            self.line(&format!("-{name}  # {}:{}", package.origin.file, package.origin.line));
        }
        self.line("%end");
    }

    fn script(&mut self, section: &Section, kind: &str, body: &str, log: &str) {
        let shell = section.interpreter.as_deref().unwrap_or("/bin/bash");
        let has_files = section.body.iter().any(|piece| matches!(piece, Piece::File(_)));
        if has_files && !matches!(shell.rsplit('/').next(), Some("sh" | "bash" | "dash" | "ksh" | "zsh")) {
            let message = format!("<file> becomes shell, and the interpreter is {shell}");
            self.problem("file-without-shell", &section.origin, message);
        }
        // What would end the section early would also be run as a part of the kickstart.
        if let Some(line) = body.lines().find(|line| line.split_ascii_whitespace().next() == Some("%end")) {
            self.problem("end-in-section", &section.origin, format!("the text has a line `{}`", line.trim()));
        }
        let body = body.strip_prefix('\n').unwrap_or(body).trim_end();
        if body.trim().is_empty() {
            return;
        }
        let body = format!("{body}\n");
        let arg = if section.arg.is_empty() { String::new() } else { format!(" {}", section.arg) };
        let arguments = format!("--interpreter={shell} --log={log}{arg}");
        let marker = Marker {
            node: section.origin.file.clone(),
            line: section.origin.line,
            section: format!("{}.{}", section.kind.name(), section.number),
            digest: section_digest(kind, &arguments, &body),
        };
        self.line("");
        self.line(&format!("%{kind} {arguments}"));
        self.line(&marker.to_string());
        self.out.push_str(&body);
        self.line("%end");
    }
}

/// A `<boot>` section: a script of its own that a unit runs at every boot, early (`pre`) or late (`post`).
fn boot_script(section: &Section, boot: Boot, unit: &str) -> String {
    let text = shell::body(&section.body);
    let content = format!("#!{}\n{}\n", section.interpreter.as_deref().unwrap_or("/bin/bash"), text.trim());
    let end = shell::delimiter(&content);
    let stem = section.origin.file.replace("/nodes/", "-").replace("/site-nodes/", "-").replace(".xml", "");
    let (order, target) = match boot {
        Boot::Pre => (
            "DefaultDependencies=no\nAfter=local-fs.target\nBefore=sysinit.target network-pre.target",
            "sysinit.target",
        ),
        Boot::Post => ("After=network-online.target\nWants=network-online.target", "multi-user.target"),
    };
    format!(
        "mkdir -p /etc/rocks/{unit}.d\n\
         cat > '/etc/rocks/{unit}.d/{stem}-{number}' << '{end}'\n{content}{end}\n\
         chmod 0755 '/etc/rocks/{unit}.d/{stem}-{number}'\n\
         cat > /etc/systemd/system/{unit}.service << '{end}'\n\
         [Unit]\nDescription=Boot scripts of the rolls ({unit})\n{order}\n\n\
         [Service]\nType=oneshot\nRemainAfterExit=yes\n\
         ExecStart=/bin/sh -c 'for f in /etc/rocks/{unit}.d/*; do \"$f\" || echo \"$f failed\" >&2; done'\n\n\
         [Install]\nWantedBy={target}\n{end}\n\
         systemctl enable {unit}.service\n",
        number = section.number,
    )
}
