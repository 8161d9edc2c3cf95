//! What a command is called, what may follow it, and what it does, in words; what runs it stands in the table of commands.

/// A switch that some commands have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flag {
    /// Do what destroys without asking.
    Yes,
    /// The value is a secret.
    Secret,
    /// The value is read from standard input.
    Stdin,
    /// Show the values of secret attributes.
    ShowSecrets,
}

impl Flag {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::Secret => "secret",
            Self::Stdin => "stdin",
            Self::ShowSecrets => "show-secrets",
        }
    }

    pub(super) const fn help(self) -> &'static str {
        match self {
            Self::Yes => "Do not ask",
            Self::Secret => "Mask the value in lists, dumps and reports; kickstarts have it in clear",
            Self::Stdin => "Read the value from standard input, so that it stands in no list of processes",
            Self::ShowSecrets => "Show secret values in clear",
        }
    }
}

/// What the words behind a command name, for completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Words {
    None,
    Path,
    Host,
    Appliance,
    Roll,
    Mirror,
    Image,
    Provision,
    Enrolment,
    Rollout,
}

/// One command, but for what runs it.
pub(super) struct Spec {
    /// `add host`.
    pub(super) path: &'static [&'static str],
    /// What follows, as usage shows it; the least and the most of it.
    pub(super) names: (&'static str, usize, usize),
    /// What may be given as `key=value`.
    pub(super) keys: &'static [(&'static str, &'static str)],
    pub(super) flags: &'static [Flag],
    pub(super) about: &'static str,
    pub(super) example: &'static str,
    /// What its words and columns mean, line by line.
    pub(super) notes: &'static [(&'static str, &'static str)],
    pub(super) words: Words,
}
