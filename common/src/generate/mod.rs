//! Profiles to kickstarts.

mod rocks;

use crate::dialect::Dialect;
use crate::profile::Profile;

/// The kickstart of `profile`, by its dialect.
#[must_use]
pub fn kickstart(profile: &Profile) -> String {
    match profile.dialect {
        Dialect::Rocks7 | Dialect::Rocks61 => rocks::kickstart(profile),
        Dialect::Modern => rocks::kickstart(profile),
    }
}
