//! The one room of this crate that starts processes.
//!
//! A [`Task`] is run to its end in a process group of its own, with a clean environment, a time limit and bounded output. Others ask
//! through [`Processes`], so that tests can play the system.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// A process to run to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// The program.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Environment beside `PATH`, `HOME` and `LC_ALL`.
    pub env: Vec<(String, String)>,
    /// What it reads on standard input. It may be secret; arguments may not.
    pub input: Vec<u8>,
    /// How long it may take; then it and all that it started are killed.
    pub limit: Duration,
    /// How many bytes of its output are kept: the last ones, or with `whole` the first.
    pub keep: usize,
    /// Whether all output is wanted (for parsing) rather than its end (for people).
    pub whole: bool,
    /// A file that takes its output instead of a pipe, for what must be able to go on when the agent is killed: who writes into a pipe
    /// that nobody holds fails. Only for programs that are known to print little.
    pub log: Option<PathBuf>,
}

impl Task {
    /// `program` with `args`, five minutes, the last 16 KiB of what it prints.
    #[must_use]
    pub fn new(program: &str, args: &[&str]) -> Self {
        Self {
            program: program.to_owned(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: Vec::new(),
            input: Vec::new(),
            limit: Duration::from_secs(300),
            keep: rocks_common::limits::OUTPUT_TAIL_BYTES,
            whole: false,
            log: None,
        }
    }

    /// The same with another time limit.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The same with something to read.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    /// The same, for a caller that reads all of its output, at most `bytes`.
    #[must_use]
    pub fn whole(mut self, bytes: usize) -> Self {
        self.whole = true;
        self.keep = bytes;
        self
    }
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Its exit status, if it exited.
    pub code: Option<i32>,
    /// Whether it ran into its time limit.
    pub timed_out: bool,
    /// What it printed on standard output and standard error together, as far as it was kept.
    pub output: Vec<u8>,
    /// Whether some of that was not kept.
    pub cut: bool,
}

impl Finished {
    /// Whether it exited with 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.code == Some(0) && !self.timed_out
    }

    /// Its output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }
}

/// Starts processes.
pub trait Processes {
    /// Runs `task` to its end.
    ///
    /// # Errors
    /// It could not be started.
    fn run(&self, task: &Task) -> io::Result<Finished>;
}

/// The system's own.
#[derive(Debug, Clone, Copy)]
pub struct System;

impl Processes for System {
    fn run(&self, task: &Task) -> io::Result<Finished> {
        let started = Instant::now();
        let (reader, writer): (Option<io::PipeReader>, OwnedFd) = match &task.log {
            Some(path) => {
                (None, OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?.into())
            }
            None => {
                let (reader, writer) = io::pipe()?;
                (Some(reader), writer.into())
            }
        };
        #[expect(clippy::disallowed_methods, reason = "this is the process room")]
        let mut command = Command::new(&task.program);
        command
            .args(&task.args)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .env("LC_ALL", "C.UTF-8")
            .envs(task.env.iter().map(|(name, value)| (name, value)))
            .stdin(if task.input.is_empty() { Stdio::null() } else { Stdio::piped() })
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0);
        let mut child = command.spawn()?;
        // The command holds the pipe's other end, which must be closed for its end to be seen.
        drop(command);
        let group = Pid::from_child(&child);
        if let Some(mut stdin) = child.stdin.take() {
            let input = task.input.clone();
            // It may end without reading all of it.
            thread::spawn(move || drop(stdin.write_all(&input)));
        }
        let (keep, whole) = (task.keep, task.whole);
        let receive = reader.map(|mut reader| {
            let (send, receive) = mpsc::channel();
            thread::spawn(move || {
                let (mut kept, mut cut, mut chunk) = (Vec::new(), false, [0; 8192]);
                while let Ok(n) = reader.read(&mut chunk) {
                    if n == 0 {
                        break;
                    }
                    kept.extend_from_slice(&chunk[..n]);
                    if kept.len() > keep && whole {
                        kept.truncate(keep);
                        cut = true;
                    } else if kept.len() > 2 * keep {
                        kept.drain(..kept.len() - keep);
                        cut = true;
                    }
                }
                if kept.len() > keep {
                    kept.drain(..kept.len() - keep);
                    cut = true;
                }
                let _ = send.send((kept, cut));
            });
            receive
        });
        // Wait for the process rather than for its output: what it leaves running in the background may keep the pipe.
        let (mut timed_out, mut end) = (false, End::of(group));
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            let left = task.limit.saturating_sub(started.elapsed());
            if left.is_zero() {
                timed_out = true;
                let _ = kill_process_group(group, Signal::KILL);
                break child.wait()?;
            }
            end.wait(left);
        };
        let grace = if timed_out { Duration::from_millis(200) } else { Duration::from_secs(2) };
        let (output, cut) = match (receive, &task.log) {
            (Some(receive), _) => {
                receive.recv_timeout(grace).unwrap_or_else(|_| (b"(its output is still held open)\n".to_vec(), true))
            }
            (None, Some(log)) => end_of(log, keep)?,
            (None, None) => (Vec::new(), false),
        };
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
        Ok(Finished { code, timed_out, output, cut })
    }
}

/// The end of a process, to be waited for.
struct End {
    /// None where the kernel has no such thing.
    process: Option<OwnedFd>,
    pause: Duration,
}

impl End {
    fn of(pid: Pid) -> Self {
        Self { process: pidfd_open(pid, PidfdFlags::empty()).ok(), pause: Duration::from_millis(1) }
    }

    /// Until it has ended, or may have, but not longer than `left`.
    fn wait(&mut self, left: Duration) {
        if let (Some(process), Ok(left)) = (&self.process, Timespec::try_from(left)) {
            match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&left)) {
                Ok(_) | Err(Errno::INTR) => return,
                Err(_) => self.process = None,
            }
        }
        thread::sleep(self.pause.min(left));
        self.pause = (self.pause * 2).min(Duration::from_millis(50));
    }
}

/// The last `keep` bytes of a file, and whether there were more.
///
/// # Errors
/// It cannot be read.
pub fn end_of(path: &Path, keep: usize) -> io::Result<(Vec<u8>, bool)> {
    let mut file = File::open(path)?;
    let from = file.metadata()?.len().saturating_sub(keep as u64);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(keep as u64).read_to_end(&mut bytes)?;
    Ok((bytes, from > 0))
}

/// Whether the program `name` is where programs are, below `root`.
#[must_use]
pub fn is_there(root: &Path, name: &str) -> bool {
    find(root, name).is_some()
}

/// The program `name`, where programs are below `root`.
#[must_use]
pub fn find(root: &Path, name: &str) -> Option<PathBuf> {
    let folders = ["usr/bin", "usr/sbin", "bin", "sbin", "usr/local/bin", "usr/local/sbin"];
    folders.iter().map(|folder| root.join(folder).join(name)).find(|path| path.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_exit_and_limits() {
        let run =
            |script: &str| System.run(&Task::new("sh", &["-c", script]).limit(Duration::from_millis(700))).expect("sh");
        let finished = run("echo a; echo b >&2; exit 3");
        assert_eq!((finished.code, finished.text().as_str()), (Some(3), "a\nb\n"));
        assert!(run("sleep 60").timed_out);
        let much = System.run(&Task { keep: 10, ..Task::new("sh", &["-c", "seq 1 1000"]) }).expect("sh");
        assert!(much.cut && much.text().ends_with("999\n1000\n") && much.output.len() <= 10, "{much:?}");
        let echoed = System.run(&Task::new("cat", &[]).input("secret")).expect("cat");
        assert_eq!(echoed.text(), "secret");
        assert!(System.run(&Task::new("/nonexistent", &[])).is_err());
        let folder = tempfile::tempdir().expect("a folder");
        let log = Some(folder.path().join("log"));
        for _ in 0..2 {
            let task = Task { keep: 10, log: log.clone(), ..Task::new("sh", &["-c", "seq 1 1000; echo end >&2"]) };
            let logged = System.run(&task).expect("sh");
            assert!(logged.cut && logged.text() == "\n1000\nend\n", "{logged:?}");
        }
    }

    #[test]
    fn an_end_is_seen_when_it_comes() {
        let took = |_| {
            let began = Instant::now();
            assert!(System.run(&Task::new("sleep", &["0.12"])).expect("sleep").success());
            began.elapsed()
        };
        // The best of a few: others use the machine too. Steps of 50 ms would end at 163.
        let best = (0..8).map(took).min().unwrap_or_default();
        assert!(best >= Duration::from_millis(120) && best < Duration::from_millis(150), "{best:?}");
        // Without a kernel that tells, by looking now and then.
        let mut end = End { process: None, pause: Duration::from_millis(1) };
        let began = Instant::now();
        (0..4).for_each(|_| end.wait(Duration::from_secs(1)));
        assert!(began.elapsed() >= Duration::from_millis(15) && end.pause == Duration::from_millis(16));
    }
}
