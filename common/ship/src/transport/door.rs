//! A bound port whose callers prove who they are before anybody has to do with them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Connection, Error, Listener, SecureStream};

/// Callers that may be proving who they are at the same moment; more are sent away.
const CALLERS: usize = 32;
/// How long it takes at most to notice that the door is closed.
const LOOK: Duration = Duration::from_millis(200);

/// How a caller proves who it is: the handshake of TLS from the side that is wanted.
pub type Proof = dyn Fn(Box<dyn Connection>) -> io::Result<SecureStream> + Send + Sync;

/// Somebody who called.
#[derive(Debug)]
pub enum Caller {
    /// It proved who it is.
    Admitted(Box<SecureStream>),
    /// It did not.
    SentAway(SocketAddr, io::Error),
}

/// A listener with a thread for each handshake: who connects and then says nothing keeps nobody else out.
#[derive(Debug)]
pub struct Door {
    callers: Receiver<Result<Caller, Error>>,
    closed: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    local: SocketAddr,
}

impl Door {
    /// Lets callers of `listener` prove who they are.
    #[must_use]
    pub fn new(listener: Box<dyn Listener>, proof: Box<Proof>) -> Self {
        let (send, callers) = channel();
        let closed = Arc::new(AtomicBool::new(false));
        let local = listener.local();
        let ending = closed.clone();
        let thread = std::thread::spawn(move || watch(&*listener, &Arc::from(proof), &send, &ending));
        Self { callers, closed, thread: Some(thread), local }
    }

    /// The next who called, or nothing when the time is over.
    ///
    /// # Errors
    /// The port cannot be listened on any more.
    pub fn next(&self, limit: Duration) -> Result<Option<Caller>, Error> {
        match self.callers.recv_timeout(limit) {
            Ok(caller) => caller.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Error::Socket(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// What is bound.
    #[must_use]
    pub const fn local(&self) -> SocketAddr {
        self.local
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
        // The port is free when this returns.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

fn watch(listener: &dyn Listener, proof: &Arc<Proof>, told: &Sender<Result<Caller, Error>>, closed: &AtomicBool) {
    let callers = Arc::new(AtomicUsize::new(0));
    while !closed.load(Ordering::Relaxed) {
        match listener.accept(Some(LOOK)) {
            Ok(None) => {}
            Ok(Some(connection)) => {
                if callers.fetch_add(1, Ordering::Relaxed) >= CALLERS {
                    callers.fetch_sub(1, Ordering::Relaxed);
                    continue;
                }
                let (proof, told, callers) = (proof.clone(), told.clone(), callers.clone());
                std::thread::spawn(move || {
                    let peer = connection.peer();
                    let caller = match proof(connection) {
                        Ok(stream) => Caller::Admitted(Box::new(stream)),
                        Err(error) => Caller::SentAway(peer, error),
                    };
                    callers.fetch_sub(1, Ordering::Relaxed);
                    // The door was closed meanwhile.
                    let _ = told.send(Ok(caller));
                });
            }
            Err(error) => {
                let _ = told.send(Err(error));
                return;
            }
        }
    }
}
