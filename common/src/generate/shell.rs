//! `<file>` as shell, the modern way: no RCS, nothing under `/opt/rocks`, and safe to run twice.
//!
//! A file is written beside its target and renamed over it, so that nobody sees half of it; owner and permissions of what was
//! there are kept unless others are asked for. Appending leaves a file alone that already holds the text.

use std::fmt::Write as _;

use crate::profile::{FileTag, Piece};

/// The text of a section, its files as shell.
pub(super) fn body(pieces: &[Piece]) -> String {
    let mut out = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::File(tag) => file(tag, &mut out),
        }
    }
    out
}

fn file(tag: &FileTag, out: &mut String) {
    if tag.name.is_empty() {
        return;
    }
    if !out.is_empty() && !out.ends_with('\n') {
        out.push('\n');
    }
    let content = body(&tag.body);
    let content = content.strip_prefix('\n').unwrap_or(&content);
    // Writing to a String cannot fail.
    let mut put = |text: std::fmt::Arguments<'_>| {
        let _ = out.write_fmt(text);
    };
    put(format_args!("f={}\n", quoted(&tag.name)));
    put(format_args!("if [ -L \"$f\" ]; then f=$(readlink -f -- \"$f\"); fi\n"));
    let append = tag.mode.as_deref() == Some("append");
    let second = if append { " \"$t.2\"" } else { "" };
    put(format_args!("t=\"$f.rocks-new\"\nmkdir -p -- \"${{f%/*}}/\"\n"));
    // Nobody else may read it before it has its permissions, and nobody may have put a link in its place.
    put(format_args!("rm -f -- \"$t\"{second}\n(umask 077; set -C; for t in \"$t\"{second}; do : > \"$t\"; done)\n"));
    if tag.mode.as_deref() == Some("pipe") {
        let source = tag.src.as_deref().map_or_else(|| "\"$f\"".to_owned(), quoted);
        put(format_args!("cat -- {source} | ({}) > \"$t\"\n", content.trim()));
    } else if let (Some(command), true) = (&tag.expr, content.is_empty()) {
        put(format_args!("{command} > \"$t\"\n"));
    } else if content.is_empty() {
        // As in the original, an empty file tag makes sure that the file is there and leaves what is in it.
        put(format_args!("if [ -e \"$f\" ]; then cat -- \"$f\" > \"$t\"; else : > \"$t\"; fi\n"));
    } else {
        let end = delimiter(content);
        let quote = if tag.vars.as_deref() == Some("expanded") { "" } else { "'" };
        let newline = if content.ends_with('\n') { "" } else { "\n" };
        put(format_args!("cat > \"$t\" << {quote}{end}{quote}\n{content}{newline}{end}\n"));
    }
    if append {
        put(format_args!(
            "case \"$(cat -- \"$f\" 2>/dev/null)\" in\n*\"$(cat -- \"$t\")\"*) cat -- \"$f\" > \"$t\" ;;\n\
             *) if [ -e \"$f\" ]; then cat -- \"$f\" \"$t\" > \"$t.2\" && mv -f -- \"$t.2\" \"$t\"; fi ;;\nesac\nrm -f -- \"$t.2\"\n"
        ));
    }
    put(format_args!("if [ -e \"$f\" ]; then chown --reference=\"$f\" -- \"$t\"; fi\n"));
    if let Some(owner) = &tag.owner {
        put(format_args!("chown {} \"$t\"\n", quoted(owner)));
    }
    // Last, because a change of owner takes special bits away. `=rw` is what a new file gets under the script's umask.
    match &tag.perms {
        Some(perms) => put(format_args!("chmod {} \"$t\"\n", quoted(perms))),
        None => put(format_args!(
            "if [ -e \"$f\" ]; then chmod --reference=\"$f\" -- \"$t\"; else chmod =rw -- \"$t\"; fi\n"
        )),
    }
    put(format_args!("mv -f -- \"$t\" \"$f\"\n"));
    put(format_args!("if command -v restorecon > /dev/null; then restorecon -- \"$f\" || :; fi\n"));
}

/// A word for the shell in which `$name` still means a variable, and nothing else means anything.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        if matches!(c, '"' | '\\' | '`') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

/// A here-document's end that no line of `content` is.
pub(super) fn delimiter(content: &str) -> String {
    let mut end = "ROCKS-EOF".to_owned();
    let mut number = 1;
    while content.lines().any(|line| line.trim_end() == end) {
        number += 1;
        end = format!("ROCKS-EOF-{number}");
    }
    end
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    fn run(script: &str) {
        #[expect(clippy::disallowed_methods, reason = "the test asks the shell itself")]
        let output = Command::new("sh").args(["-e", "-c", script]).output().expect("sh");
        assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
    }

    fn tag(path: &Path, text: &str) -> FileTag {
        FileTag { name: path.display().to_string(), body: vec![Piece::Text(text.into())], ..FileTag::default() }
    }

    #[test]
    fn files_are_made_appended_once_and_filtered() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a b/c");
        let make = FileTag { perms: Some("0640".into()), ..tag(&path, "\none\nROCKS-EOF\n$HOME\n") };
        let append = FileTag { mode: Some("append".into()), ..tag(&path, "\ntwo\n") };
        let pipe = FileTag { mode: Some("pipe".into()), ..tag(&path, " sed s/one/1/ ") };
        let script = body(&[
            Piece::Text("x=1".into()),
            Piece::File(make.into()),
            Piece::File(append.clone().into()),
            Piece::File(append.into()),
            Piece::File(pipe.into()),
        ]);
        run(&script);
        let text = std::fs::read_to_string(&path).expect("it was written");
        assert_eq!(text, "1\nROCKS-EOF\n$HOME\ntwo\n");
        assert_eq!(std::fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o640);
        assert_eq!(std::fs::read_dir(path.parent().expect("a folder")).expect("a folder").count(), 1);
    }

    #[test]
    fn nobody_reads_a_file_before_it_has_its_permissions() {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o7777;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        // The content's own command looks at the file that it is written to.
        let look = "stat -c %a \"$t\"";
        for (before, perms, want) in
            [(None, Some("0640"), 0o640), (Some(0o644), Some("0600"), 0o600), (None, None, 0o644)]
        {
            let _ = std::fs::remove_file(&path);
            if let Some(before) = before {
                std::fs::write(&path, "old").expect("written");
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(before)).expect("set");
            }
            let tag = FileTag {
                name: path.display().to_string(),
                expr: Some(look.into()),
                perms: perms.map(Into::into),
                ..FileTag::default()
            };
            // The script's umask is what it was for what follows.
            run(&format!("umask 022\n{}\n[ \"$(umask)\" = 0022 ]", body(&[Piece::File(tag.into())])));
            assert_eq!(std::fs::read_to_string(&path).expect("it was written"), "600\n");
            assert_eq!(mode(&path), want);
        }
        // A link in the place of the temporary file leads nowhere.
        let victim = folder.path().join("victim");
        std::fs::write(&victim, "untouched").expect("written");
        std::os::unix::fs::symlink(&victim, folder.path().join("secret.rocks-new")).expect("linked");
        run(&body(&[Piece::File(tag(&path, "new\n").into())]));
        assert_eq!(std::fs::read_to_string(&victim).expect("it is there"), "untouched");
        assert_eq!(std::fs::read_to_string(&path).expect("it is there"), "new\n");
    }

    #[test]
    fn links_are_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        std::fs::write(&real, "old").expect("written");
        std::os::unix::fs::symlink(&real, &link).expect("linked");
        run(&body(&[Piece::File(tag(&link, "new\n").into())]));
        assert_eq!(std::fs::read_to_string(&real).expect("it is there"), "new\n");
        assert!(link.is_symlink());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn any_text_survives(text in "[ -~\n]{0,200}", end in "(ROCKS-EOF(-2)?\n){0,3}") {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("f");
            let want = format!("x{text}\n{end}y\n");
            run(&body(&[Piece::File(tag(&path, &want).into())]));
            prop_assert_eq!(std::fs::read_to_string(&path).expect("it was written"), want);
        }
    }
}
