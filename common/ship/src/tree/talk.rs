//! Work that takes long, while somebody hears how far it is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use crate::shipment::ShipmentError;

/// How often.
const PAUSE: Duration = Duration::from_millis(500);

/// Does `work` on a thread of its own, and calls `say` with what `done` counts now and then, and once at the end. If `say` fails, `work` is asked
/// to stop.
pub(super) fn watched<T: Send>(
    done: &AtomicU64,
    mut say: impl FnMut(u64) -> Result<(), ShipmentError>,
    work: impl FnOnce(&AtomicBool) -> T + Send,
) -> Result<T, ShipmentError> {
    let stop = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (send, receive) = mpsc::channel();
        scope.spawn(move || {
            // Whoever waits for it is there until it came.
            let _ = send.send(work(stop));
        });
        loop {
            let over = match receive.recv_timeout(PAUSE) {
                Ok(result) => Some(result),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Err(ShipmentError::Target("a thread ended".into())),
            };
            if let Err(error) = say(done.load(Ordering::Relaxed)) {
                stop.store(true, Ordering::Relaxed);
                return Err(error);
            }
            if let Some(result) = over {
                return Ok(result);
            }
        }
    })
}
