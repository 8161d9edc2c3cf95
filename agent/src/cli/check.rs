//! `rocks-agent check`: what is wrong with a kickstart.

use std::path::PathBuf;

use rocks_common::diag::{Diagnostics, Source};
use rocks_common::kickstart::{self, Includes};
use rocks_common::limits;

use super::Format;
use crate::files;
use crate::output::{self, Output};

/// Read a kickstart and print what is wrong with it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file
    #[arg(value_name = "FILE.ks", required = true)]
    files: Vec<PathBuf>,
}

/// Follows includes beside the file itself.
struct Beside<'f>(&'f std::path::Path);

impl Includes for Beside<'_> {
    fn include(&mut self, name: &str) -> Option<Source> {
        if name.contains("://") || name.starts_with('/') {
            return None;
        }
        let path = self.0.parent()?.join(name);
        let bytes = files::read(&path, limits::KICKSTART_BYTES).ok()??;
        Some(Source::new(path.display().to_string(), String::from_utf8_lossy(&bytes)))
    }
}

pub(super) fn run(args: &Args, format: Format, output: &mut Output<'_>) -> u8 {
    let (mut all, mut code) = (Vec::new(), output::OK);
    for path in &args.files {
        let name = path.display().to_string();
        let problems = match files::read(path, limits::KICKSTART_BYTES) {
            Ok(Some(bytes)) => {
                // Bytes that are no text are shown as such, not refused: old files are Latin-1.
                let text = String::from_utf8_lossy(&bytes);
                let mut problems = Diagnostics::new();
                if text.contains('\u{fffd}') {
                    let message = format!("{name} is not UTF-8; other bytes are replaced");
                    problems.push(rocks_common::diag::Diagnostic::warning("not-utf8", message));
                }
                problems.extend(kickstart::parse(&Source::new(name.as_str(), text), &mut Beside(path)).1);
                problems
            }
            Ok(None) => {
                output.message(&format!("error: there is no file {name}\n"));
                return output::FAILED;
            }
            Err(error) => {
                output.message(&format!("error: {name}: {error}\n"));
                return output::FAILED;
            }
        };
        if problems.has_errors() {
            code = output::FAILED;
        }
        all.push((name, problems));
    }
    let text = match format {
        Format::Human => all.iter().map(|(_, problems)| problems.render()).collect(),
        Format::Json => {
            let one = |d: &rocks_common::diag::Diagnostic| {
                let position = d.place.as_ref().map(rocks_common::diag::Place::position);
                serde_json::json!({"code": d.code, "severity": d.severity, "message": d.message, "position": position, "hint": d.hint})
            };
            let files: Vec<_> = all
                .iter()
                .map(|(name, p)| serde_json::json!({"file": name, "errors": p.error_count(), "diagnostics": p.iter().map(one).collect::<Vec<_>>()}))
                .collect();
            serde_json::json!({"api_version": "rocks/v1", "files": files}).to_string() + "\n"
        }
    };
    output.data(&text, code)
}
