//! The original's kickstart, byte for byte (rocks-xml 8.3, 8.4).

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::dialect::Dialect;
use crate::profile::{Boot, FileTag, Piece, Profile, SectionKind};

const LOG: &str = "/mnt/sysimage/var/log/rocks-install.log";

pub(super) fn kickstart(profile: &Profile) -> String {
    let mut writer = Writer {
        seven: profile.dialect != Dialect::Rocks61,
        out: String::with_capacity(256 << 10),
        files: Vec::new(),
        seen: HashMap::new(),
        temporary: 0,
    };
    // Texts are made in document order, main sections first: files are "first seen" in that order, and the temporary
    // files of `mode="pipe"` get their numbers then.
    let main: Vec<(&str, String)> =
        profile.main.iter().map(|command| (command.name.as_str(), writer.text(&command.body))).collect();
    let sections: Vec<String> = profile.sections.iter().map(|section| writer.text(&section.body)).collect();

    writer.entry("#\n# Node Traversal Order\n#");
    for (path, roll) in &profile.brought {
        if roll.is_empty() {
            writer.entry(&format!("# {path}"));
        } else {
            writer.entry(&format!("# {path} ({roll})"));
        }
    }
    writer.entry("#\n#\n# Debugging Information\n#");
    for line in profile.debug.iter().flat_map(|text| text.split('\n')) {
        writer.entry(&format!("# {line}"));
    }
    writer.entry("#\n");
    writer.entry("");
    for (name, text) in &main {
        match *name {
            "lilo" => writer.entry(&format!("bootloader {text}")),
            "langsupport" => writer.entry(&format!("langsupport --default={}", text.trim())),
            "sshpw" => writer.entry(&format!("sshpw {}", text.trim())),
            name => writer.entry(&format!("{name} {text}")),
        }
    }
    writer.entry("%packages --ignoremissing");
    for line in profile.package_lines() {
        writer.entry(&line);
    }
    writer.end();
    writer.entry("");
    let all = || profile.sections.iter().zip(&sections);
    for (section, text) in all().filter(|(section, _)| section.kind == SectionKind::Pre) {
        let interpreter = section.interpreter.as_ref().map(|i| format!("--interpreter {i}")).unwrap_or_default();
        writer.entry(&format!("%pre --log=/tmp/ks-pre.log {}", format!("{interpreter} {}", section.arg).trim()));
        writer.entry(text);
        writer.end();
    }
    writer.entry("");
    for (section, text) in all().filter(|(section, _)| section.kind == SectionKind::Post) {
        let temporary = writer.temporary_file();
        writer.entry(&format!("%post --log={LOG} {}", section.arg));
        writer.entry(&format!("cat > {temporary} << 'ROCKS-KS-POST'"));
        writer.entry(format!("#!{}", section.interpreter.as_deref().unwrap_or("/bin/bash")).trim());
        writer.entry(text);
        writer.entry(if writer.seven { "\nROCKS-KS-POST" } else { "ROCKS-KS-POST" });
        writer.entry(&format!("/bin/chmod +x {temporary}"));
        writer.entry(&temporary);
        writer.entry(&format!("/bin/rm {temporary}"));
        writer.end();
    }
    writer.entry("");
    writer.entry(&format!("%post --log={LOG}"));
    writer.entry("");
    writer.entry("cat >> /etc/sysconfig/rocks-pre << EOF");
    for file in std::mem::take(&mut writer.files) {
        let text = writer.check_in(&file);
        writer.entry(&text);
    }
    for (_, text) in all().filter(|(section, _)| section.kind == SectionKind::Boot(Boot::Pre)) {
        writer.entry(text);
    }
    writer.entry("EOF");
    writer.entry("");
    writer.entry("cat >> /etc/sysconfig/rocks-post << EOF");
    for (_, text) in all().filter(|(section, _)| section.kind == SectionKind::Boot(Boot::Post)) {
        writer.entry(text);
    }
    writer.entry("EOF");
    writer.entry("");
    writer.end();
    writer.out
}

struct Writer {
    seven: bool,
    out: String,
    /// Files under RCS, in the order in which they were first seen.
    files: Vec<String>,
    /// Owner and permissions last asked for.
    seen: HashMap<String, (String, String)>,
    temporary: usize,
}

impl Writer {
    /// Every entry of a list is trimmed on the right and ended; one may hold many lines.
    fn entry(&mut self, text: &str) {
        self.out.push_str(text.trim_end());
        self.out.push('\n');
    }

    fn end(&mut self) {
        if self.seven {
            self.entry("%end");
        }
    }

    fn temporary_file(&mut self) -> String {
        self.temporary += 1;
        format!("/tmp/rocks-post-{:04}", self.temporary)
    }

    fn text(&mut self, body: &[Piece]) -> String {
        let mut all = String::new();
        for piece in body {
            match piece {
                Piece::Text(text) => all.push_str(text),
                Piece::File(file) => self.file(file, &mut all),
            }
        }
        all
    }

    fn file(&mut self, file: &FileTag, out: &mut String) {
        if file.os.as_deref().is_some_and(|os| os != "linux") {
            return;
        }
        let text = self.text(&file.body);
        let (name, owner, perms) =
            (&file.name, file.owner.as_deref().unwrap_or(""), file.perms.as_deref().unwrap_or(""));
        if name.is_empty() {
            return;
        }
        let under_rcs = !self.seven || file.rcs.as_deref().is_none_or(is_true);
        if under_rcs {
            self.check_out(name, owner, perms, out);
        }
        let mode = file.mode.as_deref().unwrap_or("create");
        let redirect = if mode == "append" { ">>" } else { ">" };
        if let Some(command) = &file.expr {
            put(out, format_args!("{command} {redirect} {name}\n"));
        }
        if text.is_empty() {
            put(out, format_args!("touch {name}\n"));
        } else if self.seven && mode == "pipe" {
            let filter = text.trim();
            if let Some(source) = &file.src {
                put(out, format_args!("cat {source} | ({filter}) > {name}\n"));
            } else {
                let temporary = self.temporary_file();
                put(out, format_args!("cat {name} | ({filter}) > {temporary}\nmv {temporary} {name}\n"));
            }
        } else {
            let end = if file.vars.as_deref() == Some("expanded") { "EOF" } else { "'EOF'" };
            let before = if text.starts_with('\n') { "" } else { "\n" };
            let after = if text.ends_with('\n') { "" } else { "\n" };
            put(out, format_args!("cat {redirect} {name} << {end}{before}{text}{after}EOF\n"));
        }
        if !perms.is_empty() {
            put(out, format_args!("chmod {perms} {name}{}", if self.seven { "\n" } else { "" }));
        }
        if self.seven {
            put(
                out,
                format_args!("dn=$(dirname {name})\nmkdir -p /var/rocks/$dn \n/bin/cp -p {name} /var/rocks/$dn\n"),
            );
        }
    }

    fn check_out(&mut self, name: &str, owner: &str, perms: &str, out: &mut String) {
        let (folder, archive) = rcs_paths(name);
        out.push('\n');
        let (mut owner, mut perms) = (owner.to_owned(), perms.to_owned());
        match self.seen.get(name) {
            Some((old_owner, old_perms)) => {
                if perms.is_empty() {
                    perms.clone_from(old_perms);
                }
                if owner.is_empty() {
                    owner.clone_from(old_owner);
                }
            }
            None => {
                self.files.push(name.to_owned());
                put(
                    out,
                    format_args!(
                        "if [ ! -f {archive} ]; then\n\tif [ ! -f {name} ]; then\n\t\ttouch {name};\n\tfi\n\t\
                         if [ ! -d {folder} ]; then\n\t\tmkdir -m 700 {folder}\n\t\tchown 0:0 {folder}\n\tfi;\n\t\
                         echo \"original\" | /opt/rocks/bin/ci {name};\n\t/opt/rocks/bin/co -f -l {name};\nfi\n"
                    ),
                );
            }
        }
        if !owner.is_empty() {
            put(out, format_args!("chown {owner} {name}\nchown {owner} {archive}\n"));
        }
        self.seen.insert(name.to_owned(), (owner, perms));
    }

    fn check_in(&self, name: &str) -> String {
        let (_, archive) = rcs_paths(name);
        let mut out = format!(
            "\nif [ -f {name} ]; then\n\techo \"rocks\" | /opt/rocks/bin/ci {name};\n\t/opt/rocks/bin/co -f -l {name};\nfi"
        );
        if let Some((owner, perms)) = self.seen.get(name) {
            if !owner.is_empty() {
                put(&mut out, format_args!("\nchown {owner} {name}\nchown {owner} {archive}"));
            }
            if !perms.is_empty() {
                put(&mut out, format_args!("\nchmod {perms} {name}"));
            }
        }
        out
    }
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = out.write_fmt(text);
}

/// Python's `os.path`: the RCS folder beside a file, and the file's archive in it.
fn rcs_paths(name: &str) -> (String, String) {
    let (folder, base) = match name.rfind('/') {
        Some(at) => {
            let folder = &name[..=at];
            let trimmed = folder.trim_end_matches('/');
            (if trimmed.is_empty() { folder } else { trimmed }, &name[at + 1..])
        }
        None => ("", name),
    };
    let rcs = match folder {
        "" => "RCS".to_owned(),
        folder if folder.ends_with('/') => format!("{folder}RCS"),
        folder => format!("{folder}/RCS"),
    };
    let archive = format!("{rcs}/{base},v");
    (rcs, archive)
}

fn is_true(text: &str) -> bool {
    matches!(text.to_ascii_lowercase().as_str(), "on" | "yes" | "y" | "true" | "1" | "enable" | "enabled")
}
