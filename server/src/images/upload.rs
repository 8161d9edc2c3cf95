//! Images that come to the frontend, over the protocol that they are shipped with: from the administrator through the socket, or from a host
//! that was announced.
//!
//! The port for hosts is open only as long as somebody waits for one upload; whoever calls must be the very host that was
//! announced, with a certificate that still holds. What came before a connection broke stays, and is found by looking.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, buf::Reader};
use rocks_common::ids::{ApplianceName, HostName};
use rocks_ship::shipment::{Receiver, ShipmentError, Shipped, Stream, Target, Tell};
use rocks_ship::transport::{self, Caller, Door, Options};

use super::{Image, ImageError, Meta, Origin, Part};
use crate::ca::Authority;
use crate::listen;
use crate::ship::{self, SILENCE, ShipError, Way};

/// The protocol that a connection to the administrator's socket changes to.
pub const PROTOCOL: &str = "rocks-shipment";
/// How often it is looked whether anybody still waits for the upload.
const LOOK: Duration = Duration::from_millis(200);

/// A connection that changed its protocol, with what was read of the new one already.
#[derive(Debug)]
pub struct Upgraded {
    rest: Reader<Bytes>,
    stream: UnixStream,
}

impl Upgraded {
    /// Takes a connection over from the runtime.
    ///
    /// # Errors
    /// The socket's.
    pub fn new(stream: tokio::net::UnixStream, rest: Bytes) -> io::Result<Self> {
        let stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        Ok(Self { rest: rest.reader(), stream })
    }
}

impl Read for Upgraded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.rest.read(buffer)? {
            0 => self.stream.read(buffer),
            n => Ok(n),
        }
    }
}

impl Write for Upgraded {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

fn receiver(part: &Part) -> Result<Receiver, ShipmentError> {
    let bases: Vec<_> = part.base().into_iter().collect();
    Receiver::new(Target::open(&part.disk())?, &bases)
}

fn publish(
    part: Part,
    shipped: &Shipped,
    appliance: Option<ApplianceName>,
    host: Option<HostName>,
) -> Result<Image, ImageError> {
    part.publish(&Meta { appliance, from: Origin::Uploaded { host }, digest: Some(shipped.digest.clone()) })
}

/// Takes an image over one connection of the administrator's. Blocks.
///
/// # Errors
/// It did not come whole; what came is kept.
pub fn take(part: Part, appliance: Option<ApplianceName>, stream: &mut dyn Stream) -> Result<Image, ImageError> {
    let shipped = receiver(&part)?.run(stream, &|_| {})?;
    publish(part, &shipped, appliance, None)
}

/// An upload from a host.
pub struct Announced<'a> {
    /// The host.
    pub host: &'a HostName,
    /// Where it is to call.
    pub at: SocketAddr,
    /// How.
    pub way: Way,
    /// How long it may be silent.
    pub patience: Duration,
    /// Whether the certificate with this serial number was revoked.
    pub is_revoked: &'a dyn Fn(&str) -> bool,
}

/// Waits for `announced`, and takes its image. Blocks; `stop` ends it, `ready` hears where it listens.
///
/// # Errors
/// See [`ShipError`]. What came is kept, and the same again goes on from there.
pub fn take_from(
    part: Part,
    appliance: Option<ApplianceName>,
    announced: &Announced<'_>,
    (authority, names): (&Authority, &[String]),
    stop: &Arc<AtomicBool>,
    ready: &dyn Fn(SocketAddr),
    tell: Tell<'_>,
) -> Result<(Image, Shipped), ShipError> {
    let tls = ship::tls(authority, names)?;
    let receiver = receiver(&part)?;
    let options = Options { patience: SILENCE, ..Options::default() };
    let listener = announced.way.transport(options).listen(announced.at);
    let listener = listener.map_err(|error| ShipError::Unreachable(error.to_string()))?;
    let door = Door::new(listener, Box::new(move |connection| transport::secure_server(connection, &tls)));
    ready(door.local());
    let mut last_heard = Instant::now();
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(ShipError::Unreachable("nobody waits for the upload any more".to_owned()));
        }
        let mut stream = match door.next(LOOK).map_err(|error| ShipError::Unreachable(error.to_string()))? {
            Some(Caller::Admitted(stream)) => stream,
            Some(Caller::SentAway(peer, error)) => {
                tracing::warn!("{peer} was sent away: {error}");
                continue;
            }
            None if last_heard.elapsed() < announced.patience => continue,
            None => return Err(ShipError::Unreachable(format!("{} did not call", announced.host))),
        };
        let caller =
            stream.peer_certificates().and_then(|chain| chain.first()).and_then(|der| listen::identity_of(der));
        let is_welcome =
            caller.as_ref().is_some_and(|(host, serial)| host == announced.host && !(announced.is_revoked)(serial));
        if !is_welcome {
            let found = caller.map_or_else(String::new, |(host, _)| host.to_string());
            tracing::warn!(
                "`{found}` at {} was sent away: an image of {} is waited for",
                stream.peer(),
                announced.host
            );
            continue;
        }
        // Between two words of it we may be told to stop.
        let mut watched = Watched { stream: &mut *stream, stop };
        match receiver.run(&mut watched, tell) {
            Ok(shipped) => {
                // The sender has the proof already; that the end arrives too is a courtesy.
                let _ = stream.finish();
                let image = publish(part, &shipped, appliance, Some(announced.host.clone()))?;
                return Ok((image, shipped));
            }
            Err(error @ (ShipmentError::Connection(_) | ShipmentError::Refused(_))) => {
                tracing::warn!("the upload from {} was interrupted: {error}; what came is kept", announced.host);
                last_heard = Instant::now();
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// A stream that ends when somebody says stop.
struct Watched<'w, S> {
    stream: &'w mut S,
    stop: &'w AtomicBool,
}

impl<S> Watched<'_, S> {
    fn look(&self) -> io::Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

impl<S: Read> Read for Watched<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.look()?;
        self.stream.read(buffer)
    }
}

impl<S: Write> Write for Watched<'_, S> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.look()?;
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
