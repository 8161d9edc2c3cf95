//! What an instance on EC2 is told at its launch: its join document, and the job of a receiver.
//!
//! User data is a shell script, so that a machine with cloud-init runs it; without one, as in the lite appliance, the agent reads the documents
//! out of it. They stand between lines that a here-document begins and ends with.

use serde::Deserialize;

/// Most bytes of user data: EC2's own limit.
pub const BYTES: usize = 16 << 10;
/// What begins and ends the join document.
const JOIN: &str = "ROCKS-JOIN";
/// What begins and ends a receiver's job.
const JOB: &str = "ROCKS-RECEIVE";

/// What user data says to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Documents {
    /// The join document.
    pub join: String,
    /// A receiver's job.
    pub job: Option<String>,
}

/// What a receiver is to do.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// The EBS volume that the image is written onto.
    pub volume: String,
    /// What it is attached as, for machines that show it by that name.
    pub device: String,
    /// The port to listen at.
    pub port: u16,
    /// For how many seconds to wait.
    pub patience: u64,
}

/// The documents in user data; nothing if they are somebody else's.
#[must_use]
pub fn documents(text: &str) -> Option<Documents> {
    Some(Documents { join: between(text, JOIN)?, job: between(text, JOB) })
}

/// The lines between one that ends with `<<'WORD'` and the line `WORD`.
fn between(text: &str, word: &str) -> Option<String> {
    let opening = format!("<<'{word}'");
    let mut lines = text.lines().skip_while(|line| !line.trim_end().ends_with(&opening)).skip(1).peekable();
    lines.peek()?;
    let mut body = String::new();
    for line in lines {
        if line == word {
            return Some(body);
        }
        body.push_str(line);
        body.push('\n');
    }
    // A document that does not end was cut off.
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "#!/bin/sh\numask 077\ncat >/etc/rocks-agent/join.toml <<'ROCKS-JOIN'\nfrontend = \"https://f:8443\"\n\
                        token = \"t\"\nROCKS-JOIN\ncat >/etc/rocks-agent/receive.toml <<'ROCKS-RECEIVE'\nvolume = \"vol-1\"\n\
                        device = \"/dev/sdf\"\nport = 8444\npatience = 60\nROCKS-RECEIVE\n";

    #[test]
    fn the_documents_are_found_and_others_user_data_is_left_alone() {
        let found = documents(TEXT).expect("ours");
        assert_eq!(found.join, "frontend = \"https://f:8443\"\ntoken = \"t\"\n");
        let job: Job = toml::from_str(&found.job.expect("a job")).expect("it can be read");
        assert_eq!((job.volume.as_str(), job.port, job.patience), ("vol-1", 8444, 60));
        for other in ["", "#!/bin/sh\necho hello\n", "#cloud-config\n", &TEXT[..100], "x <<'ROCKS-JOIN'"] {
            assert_eq!(documents(other), None, "{other}");
        }
        assert_eq!(documents("cat <<'ROCKS-JOIN'\nROCKS-JOIN\n").map(|one| one.join).as_deref(), Some(""));
    }
}
