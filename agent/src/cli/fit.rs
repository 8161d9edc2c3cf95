//! `rocks-agent fit`: the fix-ups that make an image a machine in the cloud, for any image.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::Format;
use crate::fit::image::{self, Answer, Job};
use crate::fit::{FitError, Fitted, Join, Wish};
use crate::identity;
use crate::output::{self, Output};
use crate::process::System;

/// What an image is fitted to.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// What the root will be called: UUID=..., LABEL=... or a device such as /dev/sda1 (default: its file system's UUID)
    #[arg(long, value_name = "NAME", value_parser = root_name)]
    root_device: Option<String>,
    /// The join document that `rocks add host` printed, for the agent in the image (default: user data brings it)
    #[arg(long, value_name = "FILE")]
    join: Option<PathBuf>,
    /// The partition that the root is on, if several look like one
    #[arg(long, value_name = "NUMBER")]
    partition: Option<u32>,
}

impl Options {
    /// Whether any was given.
    pub(super) const fn any(&self) -> bool {
        self.root_device.is_some() || self.join.is_some() || self.partition.is_some()
    }
}

/// Change an image's root file system into that of a machine in the cloud.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    options: Options,
}

/// A word that can stand in fstab and on a kernel's command line.
fn root_name(text: &str) -> Result<String, String> {
    let is_name =
        ["UUID=", "LABEL=", "PARTUUID=", "/dev/"].iter().any(|kind| text.len() > kind.len() && text.starts_with(kind));
    let is_word = text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'\\' | b'#' | b'$'));
    if is_name && is_word {
        Ok(text.to_owned())
    } else {
        Err("neither UUID=..., LABEL=..., PARTUUID=... nor /dev/...".to_owned())
    }
}

/// Options that were looked at before anything began.
pub(super) struct Ready {
    wish: Wish,
    partition: Option<u32>,
}

/// Reads the join document, so that a bad one is found before an image is received.
pub(super) fn prepare(options: &Options) -> Result<Ready, String> {
    let join = match &options.join {
        None => None,
        Some(path) => {
            identity::read_join(path).map_err(|error| match error {
                identity::IdentityError::NotEnrolled => format!("there is no file {}", path.display()),
                other => other.to_string(),
            })?;
            Some(Join(std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?))
        }
    };
    Ok(Ready { wish: Wish { root: options.root_device.clone(), join }, partition: options.partition })
}

impl Ready {
    pub(super) fn fit(self, path: &Path) -> Result<Fitted, FitError> {
        image::fit(path, self.partition, self.wish, &System)
    }
}

/// Why it was not done, and what helps.
pub(super) fn told(error: &FitError) -> String {
    let hint = error.hint().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
    format!("{error}{hint}")
}

/// Prints why it was not done.
fn failed(error: &FitError, output: &mut Output<'_>) -> u8 {
    output.message(&format!("error: {}\n", told(error)));
    output::FAILED
}

pub(super) fn run(args: &Args, root: &Path, format: Format, output: &mut Output<'_>) -> u8 {
    let ready = match prepare(&args.options) {
        Ok(ready) => ready,
        Err(message) => {
            output.message(&format!("error: {message}\n"));
            return output::FAILED;
        }
    };
    match ready.fit(root) {
        Ok(fitted) => {
            let text = match format {
                Format::Human => fitted.render(),
                Format::Json => serde_json::json!({"api_version": "rocks/v1", "fitted": fitted}).to_string() + "\n",
            };
            output.data(&text, output::OK)
        }
        Err(error) => failed(&error, output),
    }
}

/// The process in a mount namespace of its own: its job comes by standard input, its answer is one line.
pub(super) fn inside(output: &mut Output<'_>) -> u8 {
    let mut job = Vec::new();
    let read = std::io::stdin().take(1 << 20).read_to_end(&mut job).map_err(|error| error.to_string());
    let job = read.and_then(|_| serde_json::from_slice::<Job>(&job).map_err(|error| error.to_string()));
    let answer = match job {
        Err(error) => Answer::Failed(error, None),
        Ok(job) => match image::inside(&job, &System) {
            Ok(fitted) => Answer::Fitted(fitted),
            Err(error) => Answer::Failed(error.to_string(), error.hint().map(ToOwned::to_owned)),
        },
    };
    let code = if matches!(answer, Answer::Fitted(_)) { output::OK } else { output::FAILED };
    // Such a value always serializes.
    output.data(&(serde_json::to_string(&answer).unwrap_or_default() + "\n"), code)
}
