//! A kickstart as text again: reading what is printed gives the same value, but for lines and the digest of the text.

use std::fmt;

use super::{Kickstart, PackageSpec};

impl fmt::Display for PackageSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Package(name) | Self::Glob(name) => f.write_str(name),
            Self::Module(name) => write!(f, "@{name}"),
            Self::Group { name, environment, options } => {
                write!(f, "@{}{name}", if *environment { "^" } else { "" })?;
                options.iter().try_for_each(|option| write!(f, " {option}"))
            }
        }
    }
}

impl fmt::Display for Kickstart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for include in &self.includes {
            writeln!(f, "%include \"{}\"", include.replace('\\', "\\\\").replace('"', "\\\""))?;
        }
        for command in &self.commands {
            if let Some(origin) = &command.origin {
                writeln!(f, "# {origin}")?;
            }
            writeln!(f, "{}", format!("{} {}", command.name, command.raw).trim_end_matches(' '))?;
        }
        if self.packages != super::Packages::default() {
            writeln!(f, "{}", format!("%packages {}", self.packages.options.join(" ")).trim_end())?;
            for (sign, entries) in [("", &self.packages.install), ("-", &self.packages.exclude)] {
                for entry in entries {
                    write!(f, "{sign}{}", entry.spec)?;
                    match &entry.origin {
                        Some(origin) => writeln!(f, "  # {origin}")?,
                        None => writeln!(f)?,
                    }
                }
            }
            writeln!(f, "%end")?;
        }
        for script in &self.scripts {
            writeln!(f, "{}", format!("%{} {}", script.kind.as_str(), script.arguments).trim_end())?;
            if let Some(marker) = &script.marker {
                writeln!(f, "{marker}")?;
            }
            write!(f, "{}", script.body)?;
            writeln!(f, "%end")?;
        }
        for other in &self.others {
            writeln!(f, "{}", format!("%{} {}", other.name, other.arguments).trim_end())?;
            write!(f, "{}", other.body)?;
            writeln!(f, "%end")?;
        }
        Ok(())
    }
}
