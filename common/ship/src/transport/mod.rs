//! One ordered, reliable stream of bytes between two machines, blocking, with an end that is confirmed.

mod door;
mod secure;
mod tcp;
pub mod udt;
#[cfg(feature = "udt4")]
mod udt4;

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

pub use door::{Caller, Door, Proof};
pub use secure::{Role, SecureStream, client_config, secure_client, secure_server, server_config};
pub use tcp::Tcp;
pub use udt::Udt;
#[cfg(feature = "udt4")]
pub use udt4::Udt4;

/// What both ends may choose.
#[derive(Debug, Clone)]
pub struct Options {
    /// Never send faster than this many bytes a second, headers included.
    pub rate: Option<u64>,
    /// The largest IP packet; from the route when not given. Behind a VPN that hides its own, 1400 is safe.
    pub mtu: Option<usize>,
    /// Bytes kept for sending, and for receiving. It should exceed rate × round trip twice over.
    pub buffer: usize,
    /// A peer that has not been heard of for so long is gone.
    pub patience: Duration,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// The kernel's congestion control, for TCP; when it does not have it, its default.
    pub congestion: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            rate: None,
            mtu: None,
            buffer: 32 << 20,
            patience: Duration::from_secs(45),
            connect_timeout: Duration::from_secs(10),
            congestion: Some("bbr".to_owned()),
        }
    }
}

/// Figures of a connection. What a transport cannot tell is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stats {
    /// Bytes that the program wrote.
    pub sent: u64,
    /// Bytes that the program read.
    pub received: u64,
    /// Bytes that left, headers and repetitions included.
    pub wire_sent: u64,
    /// Bytes that arrived, headers and repetitions included.
    pub wire_received: u64,
    /// Packets that left.
    pub packets: u64,
    /// How many of them had been sent before.
    pub retransmitted: u64,
    /// Bytes a second that the path is believed to give.
    pub rate: f64,
    /// The last round trip.
    pub rtt: Duration,
    /// The shortest round trip.
    pub min_rtt: Duration,
    /// The share of packets that is lost.
    pub loss: f64,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be bound.
    #[error("cannot bind {0}")]
    Bind(SocketAddr, #[source] io::Error),
    /// The kernel refuses something else.
    #[error("the socket fails")]
    Socket(#[source] io::Error),
    /// Nobody answers.
    #[error("no answer from {0}")]
    Timeout(SocketAddr),
    /// Somebody answers, with no.
    #[error("{0} refuses the connection")]
    Refused(SocketAddr),
    /// The peer does not keep to the protocol, or went away in the middle.
    #[error("the connection failed")]
    Failed(#[source] udt::core::Failure),
    /// The UDT4 library fails.
    #[error("UDT4: {0}")]
    Library(String),
}

/// A connected stream.
pub trait Connection: Read + Write + Send {
    /// Ends our direction: the peer reads the end of the stream after all that was written. With UDT it returns when the peer
    /// has confirmed that; TCP and UDT4 cannot tell, so confirm by a word of the protocol above.
    fn finish(&mut self) -> io::Result<()>;

    /// Figures until now.
    fn stats(&self) -> Stats;

    /// The other end.
    fn peer(&self) -> SocketAddr;

    /// Another handle for the same stream, for a second thread.
    fn try_clone(&self) -> io::Result<Box<dyn Connection>>;
}

/// A bound port.
pub trait Listener: Send + Sync {
    /// The next connection, or nothing when the time is over.
    fn accept(&self, limit: Option<Duration>) -> Result<Option<Box<dyn Connection>>, Error>;

    /// What is bound.
    fn local(&self) -> SocketAddr;
}

/// A way to make connections.
pub trait Transport: Send + Sync {
    /// A short name for tables and messages.
    fn name(&self) -> &'static str;

    /// Connects.
    fn connect(&self, to: SocketAddr) -> Result<Box<dyn Connection>, Error>;

    /// Binds a port; 0 takes any that is free.
    fn listen(&self, at: SocketAddr) -> Result<Box<dyn Listener>, Error>;
}
