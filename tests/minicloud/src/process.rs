//! The only room of the tests that spawns: commands whose failure says what was run and what it said.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// A command to be run. Standard input is empty unless [`Cmd::input`] gives one.
#[derive(Debug)]
pub struct Cmd {
    inner: Command,
    shown: String,
    input: Option<Vec<u8>>,
}

/// What a command came to.
#[derive(Debug)]
pub struct Done {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed, lossily as UTF-8.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Done {
    /// The exit code; -1 when a signal ended it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// Both streams, for a failure's message.
    pub fn both(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Begins a command.
pub fn cmd(program: impl AsRef<OsStr>) -> Cmd {
    let program = program.as_ref();
    #[expect(clippy::disallowed_methods, reason = "the process room of the tests")]
    let mut inner = Command::new(program);
    inner.stdin(Stdio::null());
    Cmd { inner, shown: program.to_string_lossy().into_owned(), input: None }
}

impl Cmd {
    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        let arg = arg.as_ref();
        self.shown.push(' ');
        self.shown.push_str(&arg.to_string_lossy());
        self.inner.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        for a in args {
            self = self.arg(a);
        }
        self
    }

    /// Sets an environment variable of the child.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.inner.env(name, value);
        self
    }

    /// Takes an environment variable from the child.
    pub fn env_remove(mut self, name: &str) -> Self {
        self.inner.env_remove(name);
        self
    }

    /// Runs it in a folder.
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.inner.current_dir(dir);
        self
    }

    /// Gives it standard input.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    /// Runs it to its end, whatever that is.
    pub fn output(mut self) -> Result<Done> {
        let begun = Instant::now();
        self.inner.stdout(Stdio::piped()).stderr(Stdio::piped());
        if self.input.is_some() {
            self.inner.stdin(Stdio::piped());
        }
        let mut child = self.inner.spawn().with_context(|| format!("cannot run {}", self.shown))?;
        let feeder = self.input.take().zip(child.stdin.take()).map(|(bytes, mut pipe)| {
            std::thread::spawn(move || {
                // A child that does not read to the end is no failure of ours: its status tells.
                drop(pipe.write_all(&bytes));
            })
        });
        let Output { status, stdout, stderr } = child.wait_with_output().with_context(|| self.shown.clone())?;
        if let Some(f) = feeder {
            drop(f.join());
        }
        Ok(Done {
            status,
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            took: begun.elapsed(),
        })
    }

    /// Runs it and takes anything but success for an error that tells what it said.
    pub fn run(self) -> Result<Done> {
        let shown = self.shown.clone();
        let done = self.output()?;
        if !done.status.success() {
            bail!("{shown}\n  ended with {}:\n{}", done.status, tail(&done.both(), 4000));
        }
        Ok(done)
    }

    /// Runs it with its standard output read as bytes by `read`, without holding all of them.
    pub fn stream<T>(mut self, read: impl FnOnce(&mut dyn std::io::Read) -> Result<T>) -> Result<T> {
        self.inner.stdout(Stdio::piped());
        let mut child = self.inner.spawn().with_context(|| format!("cannot run {}", self.shown))?;
        let mut out = child.stdout.take().context("no standard output")?;
        let value = read(&mut out);
        drop(out);
        let status = child.wait()?;
        let value = value?;
        if !status.success() {
            bail!("{} ended with {status}", self.shown);
        }
        Ok(value)
    }

    /// Starts it in a process group of its own, its output where ours goes.
    pub fn start_shown(mut self) -> Result<Running> {
        use std::os::unix::process::CommandExt as _;
        self.inner.process_group(0);
        let child = self.inner.spawn().with_context(|| format!("cannot run {}", self.shown))?;
        Ok(Running { child: Some(child), shown: self.shown })
    }

    /// Starts it in a process group of its own, its output in the file `log`.
    pub fn start(mut self, log: &Path) -> Result<Running> {
        use std::os::unix::process::CommandExt as _;
        let out =
            std::fs::File::options().create(true).append(true).open(log).with_context(|| log.display().to_string())?;
        self.inner.stdout(out.try_clone()?).stderr(out).process_group(0);
        let child = self.inner.spawn().with_context(|| format!("cannot run {}", self.shown))?;
        Ok(Running { child: Some(child), shown: self.shown })
    }
}

/// A process that runs beside us. Dropping it kills it and whatever is in its process group.
#[derive(Debug)]
pub struct Running {
    child: Option<Child>,
    shown: String,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|c| c.try_wait().ok().flatten())
    }

    /// Sends a signal to it alone.
    pub fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        signal_pid(self.pid(), signal)
    }

    /// Asks it to end, waits as long as `limit`, then kills it.
    pub fn stop(&mut self, limit: Duration) -> Result<()> {
        let _ = self.signal(rustix::process::Signal::TERM);
        let end = Instant::now() + limit;
        while self.ended().is_none() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill();
        Ok(())
    }

    /// Kills it and its process group, and waits for its end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

impl std::fmt::Display for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (pid {})", self.shown, self.pid())
    }
}

/// Sends a signal to a process by its number.
pub fn signal_pid(pid: u32, signal: rustix::process::Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).context("no such process")?;
    Ok(rustix::process::kill_process(pid, signal)?)
}

/// The program's path, looked for in PATH.
pub fn which(program: &str) -> Option<std::path::PathBuf> {
    let path: OsString = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(Into::into))
        .map(|d| d.join(program))
        .find(|p| p.is_file())
}

/// The end of a text, cut at a character's boundary.
pub fn tail(text: &str, bytes: usize) -> &str {
    let mut at = text.len().saturating_sub(bytes);
    while !text.is_char_boundary(at) {
        at += 1;
    }
    &text[at..]
}

/// Asks `what` until it gives a value; fails with `label` and the last error after `limit`.
pub fn wait_for<T>(label: &str, limit: Duration, mut what: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        let last = match what() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => "not yet".to_owned(),
            Err(e) => format!("{e:#}"),
        };
        if Instant::now() >= end {
            bail!("{label}: not within {limit:?} (last: {last})");
        }
        std::thread::sleep(Duration::from_millis(40));
    }
}
