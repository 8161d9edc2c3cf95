//! A frontend that cannot be trusted: it holds the real one's TLS identity, and lies about kickstarts.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rocks_common::ids::{Digest, Generation, HostName};
use rocks_common::seal::{Claim, Sealer};
use rocks_common::wire::{header, path};
use rocks_server::ca::Authority;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// How it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// A kickstart that another key has sealed.
    Forged,
    /// A kickstart of the frontend's own, of its first generation.
    Old,
    /// A kickstart that the frontend's key has sealed and that is none.
    Broken,
}

/// A frontend that cannot be trusted. It ends when it is dropped.
pub struct Hostile {
    stop: Arc<AtomicBool>,
    lies: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

struct Answers {
    tls: Arc<ServerConfig>,
    kickstart: String,
    lies: Arc<AtomicUsize>,
}

impl Hostile {
    /// Listens at `address` in the network namespace `namespace` with the identity of the frontend in `state`, and lies to `host`. Each of
    /// its kickstarts, if it is ever applied, makes the file `/root/hostile`.
    ///
    /// # Errors
    /// It cannot listen.
    pub fn start(namespace: &str, address: &str, state: &Path, host: &str, lie: Lie) -> Result<Self> {
        let authority = Authority::open(state)?;
        let name = address.rsplit_once(':').map_or(address, |(name, _)| name);
        let server = authority.server(&[name.to_owned()], jiff::Timestamp::now())?;
        let chain = CertificateDer::pem_slice_iter(server.certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(server.key.as_bytes())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;

        let script = "%post\ntouch /root/hostile\n%end\n";
        let (text, generation) = match lie {
            Lie::Forged => (format!("lang de_DE.UTF-8\n{script}"), 4_000_000_000),
            Lie::Old => (format!("lang de_DE.UTF-8\n{script}"), 1),
            Lie::Broken => (format!("lang 'de_DE.UTF-8\n{script}"), 4_000_000_000),
        };
        let claim = Claim {
            host: HostName::new(host)?,
            generation: Generation(generation),
            digest: Digest::of(text.as_bytes()),
        };
        let seal = match lie {
            Lie::Forged => Sealer::from_pkcs8(&Sealer::generate()?)?.seal(&claim),
            Lie::Old | Lie::Broken => authority.sealer.seal(&claim),
        };
        let kickstart = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\netag: \"{}\"\r\n{}: {host}\r\n{}: {generation}\r\n{}: {seal}\r\n\r\n{text}",
            text.len(),
            claim.digest,
            header::HOST,
            header::GENERATION,
            header::SEAL,
        );

        let (stop, lies) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let answers = Arc::new(Answers { tls: Arc::new(tls), kickstart, lies: lies.clone() });
        let (namespace, address) = (Path::new("/run/netns").join(namespace), address.to_owned());
        let (tell, told) = std::sync::mpsc::channel();
        let ending = stop.clone();
        // A namespace is a thread's: this one's socket stays in it.
        let thread = std::thread::spawn(move || {
            let listen = || -> Result<TcpListener> {
                let space = std::fs::File::open(&namespace).with_context(|| namespace.display().to_string())?;
                move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))?;
                let listener = TcpListener::bind(&address).context(address)?;
                listener.set_nonblocking(true)?;
                Ok(listener)
            };
            let listener = match listen() {
                Ok(listener) => {
                    let _ = tell.send(Ok(()));
                    listener
                }
                Err(error) => return drop(tell.send(Err(error))),
            };
            while !ending.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let (answers, ending) = (answers.clone(), ending.clone());
                        std::thread::spawn(move || answers.serve(stream, &ending));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(10)),
                }
            }
        });
        told.recv().context("the thread ended")??;
        Ok(Self { stop, lies, thread: Some(thread) })
    }

    /// How often it has lied.
    #[must_use]
    pub fn lies(&self) -> usize {
        self.lies.load(Ordering::Relaxed)
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Answers {
    /// Answers one connection until it is closed or all is over. What goes wrong here the agent sees as a broken connection.
    fn serve(&self, stream: TcpStream, ending: &AtomicBool) {
        let _ = stream.set_nonblocking(false);
        let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
        let Ok(connection) = ServerConnection::new(self.tls.clone()) else { return };
        let mut stream = StreamOwned::new(connection, stream);
        let mut asked = Vec::new();
        while !ending.load(Ordering::Relaxed) {
            let mut chunk = [0; 4096];
            match stream.read(&mut chunk) {
                Ok(0) => return,
                Ok(n) => asked.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(_) => return,
            }
            let Some(end) = asked.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&asked[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            let whole = end + 4 + length.unwrap_or(0);
            if asked.len() < whole {
                continue;
            }
            asked.drain(..whole);
            let answer = if head.starts_with(&format!("get {} ", path::KICKSTART)) {
                self.lies.fetch_add(1, Ordering::Relaxed);
                self.kickstart.as_str()
            } else {
                "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
            };
            if stream.write_all(answer.as_bytes()).and_then(|()| stream.flush()).is_err() {
                return;
            }
        }
    }
}
