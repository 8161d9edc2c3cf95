//! Starts a building process, hears of it, and cleans up after it.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{BuildError, Built, Line, Order, Phase};
use crate::process::Isolated;

/// Builds what `order` says in its work folder, which must be empty; `stop` ends it. The image is then [`super::IMAGE`] in that folder.
///
/// # Errors
/// See [`BuildError`]. The folder then holds nothing worth keeping.
pub fn build(order: &Order, stop: &Arc<AtomicBool>, tell: &mut dyn FnMut(Phase, &str)) -> Result<Built, BuildError> {
    fs::create_dir_all(&order.work).map_err(BuildError::io("the work folder"))?;
    let input = serde_json::to_vec(order).map_err(|error| BuildError::io("the order")(io::Error::other(error)))?;
    let (mut process, stdin) =
        Isolated::start(&["build-image"], &input).map_err(BuildError::io("the building process"))?;
    let ended = Arc::new(AtomicBool::new(false));
    // Closing its input ends it; that is all that stopping takes.
    let watch = {
        let (stop, ended) = (stop.clone(), ended.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) && !ended.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(100));
            }
            drop(stdin);
        })
    };
    let mut end = None;
    while let Ok(Some(line)) = process.line() {
        match serde_json::from_str(&line) {
            Ok(Line::At { phase, doing }) => tell(phase, &doing),
            Ok(other) => end = Some(other),
            Err(_) => {}
        }
    }
    ended.store(true, Ordering::Relaxed);
    let _ = watch.join();
    let errors = process.finish();
    match end {
        Some(Line::Built(built)) => Ok(*built),
        Some(Line::Failed { what, hint }) => Err(BuildError::Child { what, hint }),
        _ if stop.load(Ordering::Relaxed) => Err(BuildError::Stopped),
        _ => {
            let hint = if errors.contains("Operation not permitted") || errors.contains("newuidmap") {
                "building needs root, or subordinate identifiers for this user in /etc/subuid and /etc/subgid"
            } else {
                "look at what it wrote, and at the kernel's log"
            };
            let what = format!("the building process died: {}", errors.trim());
            Err(BuildError::Child { what, hint: Some(hint.to_owned()) })
        }
    }
}
