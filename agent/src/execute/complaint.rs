//! What a package manager complains of, in one line.

/// A stable code and one line for what a failed package manager printed.
pub(super) fn of(output: &str) -> (&'static str, String) {
    // dnf prints all that it knows of the repository after this; what is to be done stands nowhere.
    if output.contains("do not have any GPG public keys installed") {
        let message = "the packages are to be checked by signatures, and no key is installed that could";
        return ("no-key", message.to_owned());
    }
    let lines: Vec<&str> = output.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    // The last complaint with all that belongs to it; without one, the last line.
    let begins = |line: &&str| line.starts_with("Error") || line.starts_with("Problem") || line.starts_with("error:");
    let at = lines.iter().rposition(begins).map(|last| {
        // `Problem 1`, `Problem 2` and so on stand one after the other below their `Error:`.
        lines[..=last].iter().rposition(|line| line.starts_with("Error")).unwrap_or(last)
    });
    // Metadata that cannot be had is the cause of whatever is complained of after it.
    let first = lines.iter().position(|line| line.contains("Failed to download metadata"));
    let at = first.or(at).unwrap_or(lines.len().saturating_sub(1));
    let said: Vec<&str> = lines[at..]
        .iter()
        .map(|line| line.trim_start_matches("Error:").trim())
        // Advice for people at a terminal, with options that nobody here can give.
        .filter(|line| !line.is_empty() && !line.starts_with("(try to") && !line.starts_with("You can try"))
        .collect();
    let message: String = said.join(" ").chars().take(600).collect();
    let message = if message.is_empty() { "it failed and said nothing".to_owned() } else { message };
    let has = |word: &str| output.contains(word);
    let download = ["Cannot download", "ailed to download", "downloading packages"].into_iter().any(has);
    let code = if has("No space left") || has("needed on the / filesystem") {
        "disk-full"
    } else if has("conflicts with") || has("conflicting requests") || has("conflict between") {
        "package-conflict"
    } else if has("GPG") && (has("check FAILED") || has("not signed") || has("signature")) {
        "bad-signature"
    } else if download {
        "mirror-incomplete"
    } else if has("Unable to find a match") || has("nothing provides") || has("No match for argument") {
        "package-missing"
    } else {
        "packages-failed"
    };
    (code, message)
}

/// What to do about a complaint with this code.
pub(super) fn hint(code: &str) -> &'static str {
    match code {
        "no-key" => "set `gpgkeys` in /etc/rocks-agent/agent.toml and restart the agent, or `rpm --import KEY`",
        _ => "it is tried again",
    }
}

#[cfg(test)]
mod tests {
    use super::{hint, of};

    #[test]
    fn the_complaint_is_found_and_named() {
        let conflict = "Rocks 1.2 MB/s | 10 kB 00:00\nError: \n Problem: problem with installed package a-1-1.noarch\n  \
                        - package b-1-1.noarch from rocks conflicts with a provided by a-1-1.noarch from @System\n  \
                        - conflicting requests\n(try to add '--allowerasing' to command line)\n";
        let (code, message) = of(conflict);
        assert_eq!(code, "package-conflict");
        assert!(message.contains("package b-1-1.noarch from rocks conflicts with a"), "{message}");
        assert!(!message.contains("try to add"), "{message}");
        let download = "[FAILED] x.rpm: No more mirrors to try\nError: Error downloading packages:\n  \
                        x-1-1.noarch: Cannot download Packages/x.rpm: All mirrors were tried\n";
        let (code, message) = of(download);
        assert_eq!(code, "mirror-incomplete");
        assert!(message.ends_with("x-1-1.noarch: Cannot download Packages/x.rpm: All mirrors were tried"), "{message}");
        let metadata = "Error: Failed to download metadata for repo 'rocks-base': repodata/primary.xml.gz - Cannot download\n\
                        Ignoring repositories: rocks-base\nNo match for argument: x\nError: Unable to find a match: x\n";
        let (code, message) = of(metadata);
        assert_eq!(code, "mirror-incomplete");
        assert!(message.contains("repodata/primary.xml.gz - Cannot download"), "{message}");
        let keyless = "You have enabled checking of packages via GPG keys. This is a good thing.\nHowever, you do not have any GPG public \
                       keys installed.\nProblem repository: [rocks-base]\nbandwidth: 0\n";
        let (code, message) = of(keyless);
        assert_eq!(code, "no-key");
        assert!(hint(code).contains("gpgkeys") && !hint("disk-full").contains("gpgkeys"));
        assert!(!message.contains("bandwidth"), "{message}");
        let signature = "Error: GPG check FAILED\n";
        assert_eq!(of(signature), ("bad-signature", "GPG check FAILED".to_owned()));
        assert_eq!(of("something\nelse\n"), ("packages-failed", "else".to_owned()));
        assert_eq!(of("\n").0, "packages-failed");
        assert!(!of("").1.is_empty());
    }
}
