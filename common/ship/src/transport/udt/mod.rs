//! UDT of our own: UDT4's wire protocol, so that programs on libudt can be spoken with, and a sender that follows the path.

pub mod control;
pub mod core;
mod driver;
mod listener;
pub mod packet;
mod socket;

use std::net::SocketAddr;
use std::time::Duration;

pub use driver::UdtConnection;
pub use listener::UdtListener;

use super::{Connection, Error, Listener, Options, Transport};

/// UDT as a [`Transport`].
#[derive(Debug, Clone, Default)]
pub struct Udt {
    options: Options,
}

impl Udt {
    /// With these options.
    pub fn new(options: Options) -> Self {
        Self { options }
    }

    /// Connects, without the indirection of the trait.
    pub fn open(&self, to: SocketAddr) -> Result<UdtConnection, Error> {
        UdtConnection::connect(to, &self.options)
    }

    /// Listens, without the indirection of the trait.
    pub fn bind(&self, at: SocketAddr) -> Result<UdtListener, Error> {
        UdtListener::bind(at, &self.options)
    }
}

impl Transport for Udt {
    fn name(&self) -> &'static str {
        "udt"
    }

    fn connect(&self, to: SocketAddr) -> Result<Box<dyn Connection>, Error> {
        Ok(Box::new(self.open(to)?))
    }

    fn listen(&self, at: SocketAddr) -> Result<Box<dyn Listener>, Error> {
        Ok(Box::new(self.bind(at)?))
    }
}

/// Nanoseconds of a duration, as the core counts.
fn nanos(d: Duration) -> control::Nanos {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX / 4)
}

fn settings(options: &Options, mtu: usize) -> core::Settings {
    core::Settings {
        mss: options.mtu.unwrap_or(mtu),
        buffer: options.buffer,
        rate: options.rate,
        patience: nanos(options.patience),
        connect: nanos(options.connect_timeout),
    }
}

/// An address as libudt writes it into its greeting: its bytes, read as words least significant byte first.
fn address_words(at: SocketAddr) -> [u32; 4] {
    match at.ip() {
        std::net::IpAddr::V4(ip) => [u32::from_le_bytes(ip.octets()), 0, 0, 0],
        std::net::IpAddr::V6(ip) => {
            let o = ip.octets();
            std::array::from_fn(|i| u32::from_le_bytes([o[i * 4], o[i * 4 + 1], o[i * 4 + 2], o[i * 4 + 3]]))
        }
    }
}
