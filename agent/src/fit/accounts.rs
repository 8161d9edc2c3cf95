//! `/etc/shadow` and its like: nobody comes in as root with a password, and no digest of one travels.

use super::{Edit, FitError, View};

/// Where passwords stand, with the copies that tools leave.
const FILES: [&str; 4] = ["etc/shadow", "etc/shadow-", "etc/passwd", "etc/passwd-"];

/// `text` with root locked. Keys still let it in: that is for sshd to say.
#[must_use]
pub fn locked(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let mut fields = line.splitn(3, ':');
        match (fields.next(), fields.next(), fields.next()) {
            // `x` in passwd means that it stands in shadow. A lock before a digest is no lock for who has the digest.
            (Some("root"), Some(password), Some(rest)) if !matches!(password, "*" | "!" | "!!" | "!*" | "x") => {
                out.push_str("root:*:");
                out.push_str(rest);
            }
            _ => out.push_str(line),
        }
    }
    out
}

/// Locks root wherever a password of it stands.
///
/// # Errors
/// A file cannot be read.
pub fn edits(view: &dyn View) -> Result<Vec<Edit>, FitError> {
    let mut edits = Vec::new();
    for path in FILES {
        let Some(text) = view.text(path)? else { continue };
        let fitted = locked(&text);
        if fitted != text {
            edits.push(Edit::write(path, fitted, 0o600, "root's password is locked"));
        }
    }
    Ok(edits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_is_locked_and_its_digest_is_gone() {
        let text = "root:$6$salt$digest:19000:0:99999:7:::\nuser:$6$a$b:19000:0:99999:7:::\n";
        let want = "root:*:19000:0:99999:7:::\nuser:$6$a$b:19000:0:99999:7:::\n";
        assert_eq!(locked(text), want);
        assert_eq!(locked(want), want);
        assert_eq!(locked("root:!$6$a$b:1::::::\n"), "root:*:1::::::\n");
        assert_eq!(locked("root::1::::::\n"), "root:*:1::::::\n");
        for same in ["root:!!:1::::::\n", "root:x:0:0:root:/root:/bin/bash\n", "rooty::1::::::\n", "root\n", ""] {
            assert_eq!(locked(same), same);
        }
    }
}
