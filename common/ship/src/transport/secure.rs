//! Both ends authenticated, every byte encrypted: TLS 1.3 over the stream of any transport.

use std::io::{self, BufWriter, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

use super::{Connection, Stats};

/// TLS writes records of 16 KiB; the transport gets several at once.
const WRITE_BUFFER: usize = 256 << 10;
/// rustls takes 4 KiB at a time: what the transport has is fetched in larger pieces.
const READ_BUFFER: usize = 256 << 10;

/// Which side of TLS.
#[derive(Debug)]
pub enum Role {
    /// Whoever connected.
    Client(Box<ClientConnection>),
    /// Whoever listened.
    Server(Box<ServerConnection>),
}

/// What a client needs: the authorities that it believes, and its own certificate with key.
pub fn client_config(
    roots: RootCertStore,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    Ok(Arc::new(config))
}

/// What a server needs. A client without a certificate of these authorities is not let in.
pub fn server_config(
    roots: RootCertStore,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|e| rustls::Error::General(e.to_string()))?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    Ok(Arc::new(config))
}

/// An encrypted stream. Write [`SecureStream::finish`] at the end: a stream that just stops is an error to the reader.
pub struct SecureStream {
    role: Role,
    /// The handshake is over as far as we can see.
    through: bool,
    /// The server has looked at us.
    admitted: bool,
    /// The peer's direction is over, in TLS and below it.
    ended: bool,
    inner: BufWriter<Box<dyn Connection>>,
    incoming: Incoming,
}

/// What the transport had, and TLS has not taken yet.
struct Incoming {
    bytes: Box<[u8]>,
    taken: usize,
    end: usize,
}

impl Incoming {
    fn new() -> Self {
        Self { bytes: vec![0; READ_BUFFER].into_boxed_slice(), taken: 0, end: 0 }
    }

    /// What is left; when nothing is, what `source` has next. Empty at its end.
    fn fill(&mut self, source: &mut dyn Read) -> io::Result<&[u8]> {
        if self.taken == self.end {
            (self.taken, self.end) = (0, 0);
            self.end = source.read(&mut self.bytes)?;
        }
        Ok(&self.bytes[self.taken..self.end])
    }
}

impl std::fmt::Debug for SecureStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecureStream").field("peer", &self.peer()).finish_non_exhaustive()
    }
}

/// Makes a connection secure from the side that connected; returns when the server has proved who it is. That the server has
/// let us in shows with the first byte read or with [`SecureStream::finish`], whichever comes first: waiting for it here would
/// cost a round trip.
pub fn secure_client(
    conn: Box<dyn Connection>,
    config: &Arc<ClientConfig>,
    name: ServerName<'static>,
) -> io::Result<SecureStream> {
    let tls = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    SecureStream::start(conn, Role::Client(Box::new(tls)))
}

/// Makes a connection secure from the side that listened; returns when both ends have proved who they are.
pub fn secure_server(conn: Box<dyn Connection>, config: &Arc<ServerConfig>) -> io::Result<SecureStream> {
    let tls = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
    SecureStream::start(conn, Role::Server(Box::new(tls)))
}

/// Calls the same method of whichever side it is.
macro_rules! tls {
    ($role:expr, $tls:ident => $what:expr) => {
        match &mut $role {
            Role::Client($tls) => $what,
            Role::Server($tls) => $what,
        }
    };
}

impl SecureStream {
    fn start(conn: Box<dyn Connection>, mut role: Role) -> io::Result<Self> {
        // rustls would hold back more than this before it lets us write to the transport.
        tls!(role, t => t.set_buffer_limit(Some(WRITE_BUFFER)));
        let mut this = Self {
            ended: false,
            through: false,
            admitted: matches!(role, Role::Server(_)),
            role,
            inner: BufWriter::with_capacity(WRITE_BUFFER, conn),
            incoming: Incoming::new(),
        };
        while tls!(this.role, t => t.is_handshaking()) {
            this.send_tls()?;
            this.inner.flush()?;
            if tls!(this.role, t => t.is_handshaking()) && this.receive_tls()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        this.send_tls()?;
        this.inner.flush()?;
        this.through = true;
        Ok(this)
    }

    /// In TLS 1.3 a client is through before the server has looked at its certificate. The server's tickets come right after
    /// that look, so having read anything at all means to have been let in.
    fn await_admission(&mut self) -> io::Result<()> {
        while !self.admitted {
            if self.receive_tls()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// TLS has said that this was the end; the transport says so right after. Only when that has been heard, too, does the peer
    /// learn that its stream was read to the end, even if the program closes at once.
    fn await_end(&mut self) -> io::Result<()> {
        if !self.ended {
            if !self.incoming.fill(self.inner.get_mut())?.is_empty() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.ended = true;
        }
        Ok(())
    }

    fn send_tls(&mut self) -> io::Result<()> {
        while tls!(self.role, t => t.wants_write()) {
            tls!(self.role, t => t.write_tls(&mut self.inner))?;
        }
        Ok(())
    }

    fn receive_tls(&mut self) -> io::Result<usize> {
        let mut rest = self.incoming.fill(self.inner.get_mut())?;
        // Told of an empty piece, too: that is the stream's end.
        let n = tls!(self.role, t => t.read_tls(&mut rest))?;
        self.incoming.taken += n;
        if let Err(e) = tls!(self.role, t => t.process_new_packets()) {
            // Tell the peer why before giving up; if that fails too, the first reason stands.
            let _ = self.send_tls().and_then(|()| self.inner.flush());
            return Err(io::Error::new(io::ErrorKind::InvalidData, e));
        }
        self.admitted |= n > 0 && !tls!(self.role, t => t.is_handshaking()) && self.through;
        Ok(n)
    }

    /// Says that this is the end of our direction, and waits as [`Connection::finish`] does.
    pub fn finish(&mut self) -> io::Result<()> {
        tls!(self.role, t => t.send_close_notify());
        self.send_tls()?;
        self.inner.flush()?;
        self.await_admission()?;
        self.inner.get_mut().finish()
    }

    /// Figures of the transport.
    pub fn stats(&self) -> Stats {
        self.inner.get_ref().stats()
    }

    /// The other end's address.
    pub fn peer(&self) -> SocketAddr {
        self.inner.get_ref().peer()
    }

    /// The other end's certificates, its own first.
    pub fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        match &self.role {
            Role::Client(t) => t.peer_certificates(),
            Role::Server(t) => t.peer_certificates(),
        }
    }
}

impl Read for SecureStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match tls!(self.role, t => t.reader().read(buf)) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) if !buf.is_empty() => return self.await_end().map(|()| 0),
                other => return other,
            }
            // Something that TLS itself has to say (a new key) must not wait for the program. If the peer takes nothing any more, it may still
            // have said why: that is to be read.
            if tls!(self.role, t => t.wants_write()) {
                let _ = self.flush();
            }
            self.receive_tls()?;
        }
    }
}

impl Write for SecureStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = tls!(self.role, t => t.writer().write(buf))?;
        self.send_tls()?;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send_tls()?;
        self.inner.flush()
    }
}
