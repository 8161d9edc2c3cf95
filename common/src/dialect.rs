//! Whose rules a roll is read and rendered by.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::cond::Semantics;
use crate::ids::InvalidName;

/// Whose rules a roll is read and rendered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// Ours: the same language and order, traps become diagnostics, kickstarts for today's distributions.
    #[default]
    Modern,
    /// Rocks 7, byte for byte.
    Rocks7,
    /// Rocks 6.1, byte for byte: what the paper used.
    Rocks61,
}

impl Dialect {
    /// How conditions are evaluated.
    #[must_use]
    pub const fn semantics(self) -> Semantics {
        match self {
            Self::Modern => Semantics::Strict,
            Self::Rocks7 | Self::Rocks61 => Semantics::Python2,
        }
    }

    /// Whether it reproduces the original.
    #[must_use]
    pub const fn is_original(self) -> bool {
        !matches!(self, Self::Modern)
    }

    /// The attributes that every host has in this dialect unless they are given: name and value.
    #[must_use]
    pub const fn intrinsic(self) -> &'static [(&'static str, &'static str)] {
        const COMMON: (&str, &str) = ("graph", "default");
        match self {
            Self::Modern => &[
                COMMON,
                ("distribution", "rocks-dist"),
                ("membership", "Frontend"),
                ("version", env!("CARGO_PKG_VERSION")),
                ("release", "9"),
                ("rocks_version", env!("CARGO_PKG_VERSION")),
            ],
            Self::Rocks7 => &[
                COMMON,
                ("distribution", "rocks-dist"),
                ("membership", "Frontend"),
                ("version", "7.0"),
                ("release", "Manzanita"),
                ("rocks_version_major", "7"),
            ],
            Self::Rocks61 => &[
                COMMON,
                ("distribution", "rocks-dist"),
                ("membership", "Frontend"),
                ("version", "6.1"),
                ("release", "Emerald Boa"),
            ],
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Modern => "modern",
            Self::Rocks7 => "rocks7",
            Self::Rocks61 => "rocks61",
        })
    }
}

impl FromStr for Dialect {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        match text {
            "modern" => Ok(Self::Modern),
            "rocks7" => Ok(Self::Rocks7),
            "rocks61" => Ok(Self::Rocks61),
            _ => Err(InvalidName::new("dialect", text, "it is one of modern, rocks7, rocks61")),
        }
    }
}
