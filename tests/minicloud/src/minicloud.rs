//! A cloud as a value: it runs as long as it is held.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tokio::net::TcpListener;

use crate::config::Config;
use crate::process::{Cmd, cmd};
use crate::run::{Disks, IMDS, Machines, Net, Nspawn, WAN_ENDS, listen_in};
use crate::server::{Shared, admin, serve};

/// The port of the endpoint inside the cloud's network.
pub const INSIDE_PORT: u16 = 4566;
/// Folders of ours begin with this and the process that made them.
const PREFIX: &str = "minicloud-";
/// How often time is let pass.
const TICK: Duration = Duration::from_millis(20);

/// What the way between a frontend and the cloud is like, the same in both directions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Way {
    /// Megabits a second.
    pub mbit: f64,
    /// There and back.
    pub round_trip: Duration,
    /// The share of packets that is lost.
    pub loss: f64,
}

impl std::str::FromStr for Way {
    type Err = anyhow::Error;

    /// Reads `100,180,0.001`: megabits a second, milliseconds there and back, share lost.
    fn from_str(text: &str) -> Result<Self> {
        let numbers: Vec<f64> = text
            .split(',')
            .map(|n| n.trim().parse().with_context(|| format!("{n} is no number")))
            .collect::<Result<_>>()?;
        let (mbit, ms, loss) = match numbers[..] {
            [mbit, ms] => (mbit, ms, 0.0),
            [mbit, ms, loss] => (mbit, ms, loss),
            _ => bail!("expected MBIT,MS or MBIT,MS,LOSS"),
        };
        ensure!(mbit > 0.0 && (0.0..=60_000.0).contains(&ms) && (0.0..=1.0).contains(&loss), "no such way: {text}");
        Ok(Self { mbit, round_trip: Duration::from_secs_f64(ms / 1000.0), loss })
    }
}

/// An image that a cloud begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    /// The AMI's name.
    pub name: String,
    /// A raw disk image: with a GPT, an MBR, or only a file system.
    pub path: PathBuf,
    /// `x86_64` or `arm64`.
    pub architecture: String,
}

/// How a cloud is to be started.
#[derive(Debug, Clone)]
pub struct Options {
    /// What it is like.
    pub config: Config,
    /// Whether instances boot. Needs root and what [`missing`] looks for.
    pub boot: bool,
    /// An emulated way between the frontend's namespace and the cloud. Only if instances boot.
    pub way: Option<Way>,
    /// Where the endpoint listens on this machine.
    pub listen: SocketAddr,
    /// Where a folder for all bytes is made; it is removed in the end.
    pub dir: PathBuf,
    /// Images that are there from the beginning.
    pub images: Vec<Seed>,
}

impl Default for Options {
    /// Nothing boots; any free port of the loopback.
    fn default() -> Self {
        Self {
            config: Config::default(),
            boot: false,
            way: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            dir: std::env::temp_dir(),
            images: Vec::new(),
        }
    }
}

/// Why instances cannot boot here, if so.
#[must_use]
pub fn missing() -> Option<&'static str> {
    crate::run::missing()
}

/// Removes what clouds left below a folder, and in the machine's network, whose process is gone. Starting one does the same.
///
/// # Errors
/// The folder cannot be read.
pub fn sweep(dir: &Path) -> Result<()> {
    crate::run::sweep()?;
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let pid: String = rest.chars().take_while(char::is_ascii_digit).collect();
        if !pid.is_empty() && rest[pid.len()..].starts_with('n') && !Path::new("/proc").join(&pid).exists() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// A running cloud. When it is dropped, its instances, devices, namespaces and bytes are gone.
pub struct Minicloud {
    shared: Arc<Shared>,
    address: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
    dir: PathBuf,
}

impl Minicloud {
    /// Starts a cloud.
    ///
    /// # Errors
    /// The configuration is wrong, an address is taken, an image cannot be read, or booting is wanted and not possible here.
    pub fn start(options: Options) -> Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        if let (true, Some(why)) = (options.boot, missing()) {
            bail!("instances cannot boot: {why}");
        }
        ensure!(options.boot || options.way.is_none(), "there is no way to a cloud in which nothing boots");
        sweep(&options.dir)?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = options.dir.canonicalize()?.join(format!("{PREFIX}{}n{number}", std::process::id()));
        std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let begun = Self::begin(&options, &dir);
        if begun.is_err() {
            let _ = std::fs::remove_dir_all(&dir);
        }
        begun
    }

    fn begin(options: &Options, dir: &Path) -> Result<Self> {
        let disks = Arc::new(Disks::new(dir)?);
        let boots = match options.boot {
            true => {
                let net = Arc::new(Net::new(&options.config, options.way)?);
                let machines = Nspawn::new(dir.to_owned(), Arc::clone(&disks), Arc::clone(&net));
                Some((Arc::new(machines) as Arc<dyn Machines>, net))
            }
            false => None,
        };
        let shared = Shared::new(options.config.clone(), dir.to_owned(), disks, boots)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let listener = std::net::TcpListener::bind(options.listen).with_context(|| options.listen.to_string())?;
        let address = listener.local_addr()?;
        let mut listeners = vec![listener];
        let mut metadata = None;
        if let Some(net) = &shared.net {
            listeners.push(listen_in(&net.cloud(), SocketAddr::from(([0, 0, 0, 0], INSIDE_PORT)))?);
            metadata = Some(listen_in(&net.cloud(), format!("{IMDS}:80").parse()?)?);
        }
        let this = Self { shared, address, runtime: Some(runtime), dir: dir.to_owned() };
        let runtime = this.runtime.as_ref().context("a runtime")?;
        {
            let _here = runtime.enter();
            for listener in listeners {
                listener.set_nonblocking(true)?;
                runtime.spawn(serve(Arc::clone(&this.shared), TcpListener::from_std(listener)?));
            }
            if let Some(listener) = metadata {
                listener.set_nonblocking(true)?;
                runtime.spawn(crate::imds::serve(Arc::clone(&this.shared), TcpListener::from_std(listener)?));
            }
        }
        let shared = Arc::clone(&this.shared);
        runtime.spawn(async move {
            let mut ticks = tokio::time::interval(TICK);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                shared.tick();
            }
        });
        for seed in &options.images {
            this.shared.seed(&seed.name, &seed.path, &seed.architecture)?;
        }
        Ok(this)
    }

    /// The endpoint for programs on this machine.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The endpoint for a frontend in [`Minicloud::frontend_namespace`], across the emulated way.
    #[must_use]
    pub fn endpoint_from_frontend(&self) -> String {
        format!("http://{}:{INSIDE_PORT}", WAN_ENDS[1])
    }

    /// The endpoint for instances.
    #[must_use]
    pub fn endpoint_from_instances(&self) -> Option<String> {
        self.shared.net.as_ref().map(|net| format!("http://{}:{INSIDE_PORT}", net.gateway()))
    }

    /// The network namespace that a frontend is to run in.
    #[must_use]
    pub fn frontend_namespace(&self) -> Option<String> {
        self.shared.net.as_ref().map(|net| net.frontend())
    }

    /// The frontend's address, as instances see it.
    #[must_use]
    pub fn frontend_address(&self) -> &'static str {
        WAN_ENDS[0]
    }

    /// Begins a command that runs where the frontend is; where we are, if nothing boots.
    pub fn at_frontend(&self, program: impl AsRef<std::ffi::OsStr>) -> Cmd {
        match self.frontend_namespace() {
            Some(namespace) => cmd("nsenter").arg(format!("--net=/run/netns/{namespace}")).arg(program),
            None => cmd(program),
        }
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The configuration that it was started with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// The PEM certificate that signs instance identity documents.
    #[must_use]
    pub fn identity_certificate(&self) -> &str {
        self.shared.identity.certificate()
    }

    /// What `/_minicloud/<path>` answers: `calls`, `faults`, `state`, `bill`, `keys`, `capacity`, `interruptions`, `scaling`, `images`, `exec`, `wan`.
    ///
    /// # Errors
    /// What the answer says.
    pub fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        admin::act(&self.shared, method, path, query, body.to_string().as_bytes())
            .map_err(|(status, why)| anyhow::anyhow!("{method} {path}: {status} {why}"))
    }

    /// Registers an image of a raw disk image. Gives the ids of the AMI and of its snapshot.
    ///
    /// # Errors
    /// It cannot be read, or there is one of that name.
    pub fn add_image(&self, seed: &Seed) -> Result<(String, String)> {
        self.shared.seed(&seed.name, &seed.path, &seed.architecture)
    }
}

impl Drop for Minicloud {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(2));
        }
        self.shared.machines.close();
        if let Some(net) = &self.shared.net {
            net.close();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
