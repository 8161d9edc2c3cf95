//! A frontend and an enrolled receiver for shipments alone: without a mirror and without instances, on loopback or at the two ends of an
//! emulated long way.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Cmd, Done, Running, cmd, wait_for};
use crate::wan::{End, Wan};
use crate::world::{binaries, repository};

/// The port of receivers on the long way.
const PORT: u16 = 8444;

/// The frontend and its receivers.
pub struct Yard {
    // The first, so that it ends before its folder goes.
    frontend: Option<Running>,
    binaries: PathBuf,
    dir: TempDir,
    /// The namespaces of the frontend and of the receivers.
    ends: Option<[String; 2]>,
}

/// A receiver that waits, and where.
#[derive(Debug)]
pub struct Waiting {
    /// Its process.
    pub running: Running,
    /// `address:port`.
    pub at: String,
    log: PathBuf,
}

impl Waiting {
    /// Waits for its end and gives its exit code.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn code(&mut self) -> Result<i32> {
        let ended = wait_for("the receiver's end", Duration::from_secs(60), || Ok(self.running.ended()));
        Ok(ended.with_context(|| self.log())?.code().unwrap_or(-1))
    }

    /// What it said.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Yard {
    /// A frontend on loopback, or at end A of `wan`, with enrolled hosts of these names.
    ///
    /// # Errors
    /// Whatever fails, with what it said.
    pub fn new(wan: Option<&Wan>, hosts: &[&str]) -> Result<Self> {
        let ends = wan.map(|wan| [End::A, End::B].map(|end| wan.namespace(end).to_owned()));
        let dir = tempfile::Builder::new().prefix("rocks-yard-").tempdir()?;
        let mut yard = Self { frontend: None, binaries: binaries()?, dir, ends };
        let (address, listen) = match wan {
            Some(_) => (Wan::address(End::A), format!("{}:8443", Wan::address(End::A))),
            None => ("127.0.0.1", "127.0.0.1:0".to_owned()),
        };
        let (server, state) = (yard.binaries.join("rocks-server"), yard.path("frontend"));
        cmd(&server).args(["init", "--name", address, "--state-dir"]).arg(&state).run()?;
        let log = yard.path("frontend.log");
        let serve = yard.at(End::A, &server).args(["serve", "--listen", &listen, "--state-dir"]).arg(&state);
        yard.frontend = Some(serve.start(&log)?);
        wait_for("the frontend", Duration::from_secs(20), || {
            Ok((yard.rocks(&["list", "host"])?.code() == 0).then_some(()))
        })
        .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        yard.must(&["add", "appliance", "lite"])?;
        yard.must(&["add", "roll", &repository().join("graphs/base").display().to_string()])?;
        for host in hosts {
            let join = yard.path(&format!("{host}.toml"));
            fs::write(&join, yard.must(&["add", "host", host, "appliance=lite"])?)?;
            yard.agent(host).arg("enrol").arg("--join").arg(&join).run()?;
        }
        Ok(yard)
    }

    fn at(&self, end: End, program: &Path) -> Cmd {
        match &self.ends {
            Some(ends) => cmd("ip").args(["netns", "exec", &ends[usize::from(end == End::B)]]).arg(program),
            None => cmd(program),
        }
    }

    /// A path in the folder of this yard.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The frontend's process.
    #[must_use]
    pub fn frontend(&self) -> u32 {
        self.frontend.as_ref().map_or(0, Running::pid)
    }

    /// The agent of a host, at the receivers' end.
    #[must_use]
    pub fn agent(&self, host: &str) -> Cmd {
        self.at(End::B, &self.binaries.join("rocks-agent")).arg("--state-dir").arg(self.path(host))
    }

    /// The administrator's command line.
    #[must_use]
    pub fn command(&self) -> Cmd {
        cmd(self.binaries.join("rocks")).arg("--socket").arg(self.path("frontend/run/admin.sock"))
    }

    /// Runs a command of the administrator's, however it ends.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn rocks(&self, words: &[&str]) -> Result<Done> {
        self.command().args(words).output()
    }

    /// Runs one that must succeed, and gives what it printed.
    ///
    /// # Errors
    /// It failed.
    pub fn must(&self, words: &[&str]) -> Result<String> {
        Ok(self.command().args(words).run()?.stdout)
    }

    /// Starts a receiver of `host` that writes onto `target`, and waits until it listens.
    ///
    /// # Errors
    /// It does not listen.
    pub fn receive(&self, host: &str, target: &Path, more: &[&str]) -> Result<Waiting> {
        let at = match &self.ends {
            Some(_) => format!("{}:{PORT}", Wan::address(End::B)),
            // A port that was free a moment ago.
            None => format!("127.0.0.1:{}", UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port()),
        };
        self.receive_at(&at, host, target, more)
    }

    /// The same at a given address.
    ///
    /// # Errors
    /// It does not listen.
    pub fn receive_at(&self, at: &str, host: &str, target: &Path, more: &[&str]) -> Result<Waiting> {
        let log = tempfile::Builder::new().prefix("receive-").tempfile_in(self.dir.path())?.into_temp_path().keep()?;
        let agent = self.agent(host).arg("receive").arg("--target").arg(target).args(["--patience", "60"]);
        let mut running = agent.args(more).args(["--listen", at]).start(&log)?;
        let said = || fs::read_to_string(&log);
        wait_for("the receiver", Duration::from_secs(20), || {
            if running.ended().is_some() {
                bail!("it ended");
            }
            Ok(said()?.contains("waiting for an image").then_some(()))
        })
        .with_context(|| said().unwrap_or_default())?;
        Ok(Waiting { running, at: at.to_owned(), log })
    }

    /// Ships the image at `image` to a receiver of `host`, however it ends.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn ship(&self, image: &Path, host: &str, at: &str, more: &[&str]) -> Result<Done> {
        self.shipping(image, host, at, more).output()
    }

    /// The command that ships it.
    #[must_use]
    pub fn shipping(&self, image: &Path, host: &str, at: &str, more: &[&str]) -> Cmd {
        let words = [format!("host={host}"), format!("to={at}")];
        self.command().args(["-o", "json", "ship", "image"]).arg(image).args(words).args(more)
    }
}

/// The result in what `rocks -o json` printed, notes before it left out.
///
/// # Errors
/// There is none.
pub fn result(said: &str) -> Result<Value> {
    let json = said.find('{').with_context(|| format!("no result: {said}"))?;
    Ok(serde_json::from_str(&said[json..])?)
}

/// How many blocks travelled.
///
/// # Errors
/// It was not shipped.
pub fn sent(done: &Done) -> Result<u64> {
    ensure!(done.code() == 0, "{}", done.both());
    result(&done.stdout)?["sent"].as_u64().context("no number")
}

/// Makes an image of `mib` MiB, of which every second one from `0` to `filled` is noise.
///
/// # Errors
/// The file system's.
pub fn image(path: &Path, mib: u64, filled: u64, seed: u64) -> Result<()> {
    let file = fs::File::create(path)?;
    file.set_len(mib << 20)?;
    let mut noise = seed | 1;
    let mut block = vec![0; 1 << 20];
    for number in (0..filled).step_by(2) {
        for word in block.chunks_exact_mut(8) {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            word.copy_from_slice(&noise.to_le_bytes());
        }
        file.write_all_at(&block, number << 20)?;
    }
    Ok(())
}

/// Whether two files hold the same.
///
/// # Errors
/// They cannot be read.
pub fn same(one: &Path, two: &Path) -> Result<bool> {
    let (one, two) = (fs::File::open(one)?, fs::File::open(two)?);
    if one.metadata()?.len() != two.metadata()?.len() {
        return Ok(false);
    }
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    loop {
        let count = one.read_at(&mut a, at)?;
        if count == 0 {
            return Ok(true);
        }
        two.read_exact_at(&mut b[..count], at)?;
        if a[..count] != b[..count] {
            return Ok(false);
        }
        at += count as u64;
    }
}

/// Bytes that a file takes on its disk; none if it is not there.
#[must_use]
pub fn allocated(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| meta.blocks() * 512)
}

/// Seconds of processor time that a process and all its threads have taken; nothing when it is gone.
#[must_use]
pub fn cpu(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold spaces; the 12th and 13th value after it are user and system time.
    let mut values = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || values.next()?.parse::<u64>().ok();
    Some((ticks()? + ticks()?) as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// The most memory that a process ever had resident, in bytes; nothing when it is gone.
#[must_use]
pub fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
}
