//! Profiles to kickstarts.

pub mod commands;
mod modern;
mod rocks;
mod shell;

use crate::diag::Diagnostics;
use crate::dialect::Dialect;
use crate::profile::Profile;

/// The kickstart of `profile`, by its dialect.
///
/// # Errors
/// In `modern`: what would not be a kickstart (an unknown command, a package both wanted and kept out). The original's dialects
/// print whatever the profile holds.
pub fn kickstart(profile: &Profile) -> Result<String, Diagnostics> {
    match profile.dialect {
        Dialect::Rocks7 | Dialect::Rocks61 => Ok(rocks::kickstart(profile)),
        Dialect::Modern => modern::kickstart(profile),
    }
}
