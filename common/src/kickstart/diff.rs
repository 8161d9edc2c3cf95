//! The difference of two kickstarts for people.

use similar::TextDiff;

/// Most bytes of a difference that are shown.
const BYTES: usize = 64 << 10;

/// The unified difference from `old` to `new`, passwords masked, cut to a bound; nothing when they are the same.
#[must_use]
pub fn unified_diff(old: &str, new: &str) -> Option<String> {
    if old == new {
        return None;
    }
    let (old, new) = (masked(old), masked(new));
    let diff = TextDiff::configure().timeout(std::time::Duration::from_millis(500)).diff_lines(&*old, &*new);
    let mut text = diff.unified_diff().context_radius(3).header("applied", "desired").to_string();
    if text.len() > BYTES {
        let mut end = BYTES;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str("\n... cut\n");
    }
    Some(text)
}

/// `text` without passwords.
fn masked(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let first = line.split_whitespace().next().unwrap_or("");
        let secret = matches!(first, "rootpw" | "sshpw") || line.contains("--password");
        if !secret || matches!(line.trim(), "rootpw --lock") {
            out.push_str(line);
            continue;
        }
        let mut hide_next = false;
        for word in line.split_inclusive(char::is_whitespace) {
            let bare = word.trim_end();
            let blank = &word[bare.len()..];
            if let Some(at) = bare.find("--password") {
                let keep = at + "--password".len();
                hide_next = bare.len() == keep;
                out.push_str(&bare[..keep]);
                if !hide_next {
                    out.push_str("=(hidden)");
                }
            } else if hide_next || (matches!(first, "rootpw" | "sshpw") && bare != first && !bare.starts_with("--")) {
                out.push_str("(hidden)");
                hide_next = false;
            } else {
                out.push_str(bare);
            }
            out.push_str(blank);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_shown_and_passwords_are_not() {
        let diff = unified_diff(
            "lang a\nrootpw --iscrypted $6$x\n",
            "lang b\nrootpw --iscrypted $6$y\nuser --name=a --password=z\n",
        );
        let diff = diff.expect("they differ");
        assert!(diff.contains("-lang a\n+lang b\n"), "{diff}");
        assert!(!diff.contains("$6$") && !diff.contains("=z"), "{diff}");
        assert_eq!(unified_diff("a\n", "a\n"), None);
    }
}
