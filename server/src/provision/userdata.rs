//! What instances are told at their launch: a shell script, which cloud-init runs; where there is none, the agent reads the documents out of it.

/// What a receiver is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Job<'j> {
    /// The volume that it writes.
    pub(crate) volume: &'j str,
    /// What that is attached as.
    pub(crate) device: &'j str,
    /// The port that it listens at.
    pub(crate) port: u16,
    /// For how many seconds it waits.
    pub(crate) patience: u64,
}

/// The user data of an instance. The same arguments give the same text.
#[must_use]
pub(crate) fn user_data(join: &str, job: Option<&Job<'_>>) -> String {
    let mut text = format!(
        "#!/bin/sh\n# Rocks: who this machine is.\numask 077\nmkdir -p /etc/rocks-agent\n\
         cat >/etc/rocks-agent/join.toml <<'ROCKS-JOIN'\n{join}ROCKS-JOIN\n"
    );
    match job {
        Some(Job { volume, device, port, patience }) => text.push_str(&format!(
            "cat >/etc/rocks-agent/receive.toml <<'ROCKS-RECEIVE'\nvolume = {volume:?}\ndevice = {device:?}\nport = {port}\n\
             patience = {patience}\nROCKS-RECEIVE\nsystemctl restart --no-block rocks-agent-receive.service\n"
        )),
        None => text.push_str("systemctl restart --no-block rocks-agent.service\n"),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_stand_between_their_marks() {
        let job = Job { volume: "vol-1", device: "/dev/sdf", port: 8444, patience: 60 };
        let text = user_data("token = \"t\"\n", Some(&job));
        assert!(text.starts_with("#!/bin/sh\n") && text.len() < 16 << 10);
        assert!(text.contains("<<'ROCKS-JOIN'\ntoken = \"t\"\nROCKS-JOIN\n"), "{text}");
        assert!(text.contains("<<'ROCKS-RECEIVE'\nvolume = \"vol-1\"\ndevice = \"/dev/sdf\"\nport = 8444\n"), "{text}");
        assert!(!user_data("x\n", None).contains("receive"));
    }
}
