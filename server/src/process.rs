//! The one room of this crate that starts processes.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// A process to run to its end.
#[derive(Debug, Clone)]
pub struct Task<'t> {
    /// The program.
    pub program: &'t str,
    /// Its arguments.
    pub args: &'t [&'t str],
    /// Its whole environment.
    pub env: &'t [(&'t str, &'t str)],
    /// Its working folder.
    pub folder: &'t Path,
    /// What it reads on standard input.
    pub input: &'t [u8],
    /// User and group to run as, when we may choose.
    pub identity: Option<(u32, u32)>,
    /// How long it may take; then it and all that it started are killed.
    pub limit: Duration,
    /// How many bytes it may print; with more it is killed.
    pub output_bytes: usize,
}

/// Why a process gave no output.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// It could not be started.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It took too long.
    #[error("it took longer than {0:?} and was killed")]
    TimedOut(Duration),
    /// It printed too much.
    #[error("it printed more than {0} bytes and was killed")]
    TooMuchOutput(usize),
}

/// Runs `task` to its end and gives its standard output and whether it succeeded.
///
/// # Errors
/// See [`TaskError`]. A process that ran and failed is not an error here.
pub fn run(task: &Task<'_>) -> Result<(Vec<u8>, bool), TaskError> {
    let start = |source| TaskError::Start { program: task.program.to_owned(), source };
    #[expect(clippy::disallowed_methods, reason = "this is the process room")]
    let mut command = Command::new(task.program);
    command
        .args(task.args)
        .env_clear()
        .envs(task.env.iter().copied())
        .current_dir(task.folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // A group of its own, so that what it starts can be killed with it.
        .process_group(0);
    if let Some((uid, gid)) = task.identity {
        command.uid(uid).gid(gid);
    }
    let mut child = command.spawn().map_err(start)?;
    let group = rustix::process::Pid::from_child(&child);
    let kill = || {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    };
    let input = task.input.to_vec();
    if let Some(mut stdin) = child.stdin.take() {
        // It may end without reading all; that is its business.
        thread::spawn(move || drop(stdin.write_all(&input)));
    }
    let (send, receive) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        let most = task.output_bytes as u64 + 1;
        thread::spawn(move || {
            let mut output = Vec::new();
            let _ = stdout.take(most).read_to_end(&mut output);
            let _ = send.send(output);
        });
    }
    let outcome = match receive.recv_timeout(task.limit) {
        Ok(output) if output.len() > task.output_bytes => Err(TaskError::TooMuchOutput(task.output_bytes)),
        Ok(output) => Ok(output),
        Err(_) => Err(TaskError::TimedOut(task.limit)),
    };
    kill();
    let status = child.wait().map_err(start)?;
    // Killing the group after its output ended may have hit a leader that was about to exit well: look at the signal.
    let killed_by_us = std::os::unix::process::ExitStatusExt::signal(&status) == Some(9);
    outcome.map(|output| (output, status.success() || killed_by_us))
}

/// What confined code may read: programs, their libraries and their settings.
const READABLE: [&str; 9] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/dev/zero", "/dev/urandom", "/proc/self"];

/// Becomes `program`, confined: it may read programs and `folder`, write in `folder`'s `tmp`, and nothing else of the file system, and it
/// may not use TCP where the kernel can forbid that (Landlock). Comes back only when that cannot be done.
pub fn become_confined(folder: &Path, program: &str, args: &[String]) -> String {
    use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus};
    let abi = ABI::V4;
    let temporary = folder.join("tmp");
    let restricted = (|| {
        let readable: Vec<&Path> = READABLE.iter().map(Path::new).chain([folder]).collect();
        let writable = [temporary.as_path(), Path::new("/dev/null")];
        Ruleset::default()
            .handle_access(AccessFs::from_all(abi))?
            .handle_access(AccessNet::from_all(abi))?
            .create()?
            .add_rules(landlock::path_beneath_rules(readable, AccessFs::from_read(abi)))?
            .add_rules(landlock::path_beneath_rules(writable, AccessFs::from_all(abi)))?
            .restrict_self()
    })();
    match restricted {
        Err(error) => return format!("code of rolls cannot be confined: {error}"),
        Ok(status) if status.ruleset == RulesetStatus::NotEnforced => {
            return "code of rolls cannot be confined: this kernel has no Landlock".to_owned();
        }
        Ok(_) => {}
    }
    #[expect(clippy::disallowed_methods, reason = "this is the process room")]
    let error = Command::new(program).args(args).exec();
    format!("cannot start {program}: {error}")
}

/// Bytes of the end of what a program printed that are kept.
const TAIL: usize = 16 << 10;

/// Runs `program` to its end with what it prints on standard output and standard error taken together; gives that, or its end, and
/// whether it succeeded.
///
/// # Errors
/// It could not be started, or took longer than `limit` and was killed.
pub fn call(
    program: &str,
    args: &[String],
    env: &[(&str, &str)],
    limit: Duration,
    keep: Option<usize>,
) -> Result<(Vec<u8>, bool), TaskError> {
    let start = |source| TaskError::Start { program: program.to_owned(), source };
    let (mut reader, writer) = io::pipe().map_err(start)?;
    #[expect(clippy::disallowed_methods, reason = "this is the process room")]
    let mut command = Command::new(program);
    command
        .args(args)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .stdout(writer.try_clone().map_err(start)?)
        .stderr(writer)
        .process_group(0);
    let mut child = command.spawn().map_err(start)?;
    // It holds the pipe's other end.
    drop(command);
    let keep = keep.unwrap_or(TAIL);
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let (mut kept, mut chunk) = (Vec::new(), [0; 8192]);
        while let Ok(count @ 1..) = reader.read(&mut chunk) {
            kept.extend_from_slice(&chunk[..count]);
            if kept.len() > 2 * keep {
                kept.drain(..kept.len() - keep);
            }
        }
        if kept.len() > keep {
            kept.drain(..kept.len() - keep);
        }
        let _ = send.send(kept);
    });
    let outcome = receive.recv_timeout(limit).map_err(|_| TaskError::TimedOut(limit));
    if outcome.is_err() {
        let _ = rustix::process::kill_process_group(
            rustix::process::Pid::from_child(&child),
            rustix::process::Signal::KILL,
        );
    }
    let status = child.wait().map_err(start)?;
    outcome.map(|output| (output, status.success()))
}

/// A process in namespaces of its own: what it mounts, starts and names vanishes with it, however it ends.
pub struct Isolated {
    child: std::process::Child,
    lines: io::Lines<io::BufReader<std::process::ChildStdout>>,
    errors: Option<thread::JoinHandle<Vec<u8>>>,
}

impl Isolated {
    /// Starts this very program with `args`, with `input` to read. Without root it becomes root over the user's subordinate
    /// identifiers (`/etc/subuid`).
    ///
    /// # Errors
    /// It could not be started.
    pub fn start(args: &[&str], input: &[u8]) -> io::Result<(Self, std::process::ChildStdin)> {
        let program = std::env::current_exe()?;
        #[expect(clippy::disallowed_methods, reason = "this is the process room")]
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation=private", "--uts", "--ipc", "--pid", "--fork", "--kill-child=KILL"]);
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user", "--map-auto"]);
        }
        command
            .arg("--")
            .arg(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn()?;
        let (Some(mut stdin), Some(stdout), Some(mut stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(io::Error::other("its pipes are not there"));
        };
        stdin.write_all(input)?;
        stdin.write_all(b"\n")?;
        stdin.flush()?;
        let errors = thread::spawn(move || {
            let mut kept = Vec::new();
            let _ = io::Read::by_ref(&mut stderr).take(TAIL as u64).read_to_end(&mut kept);
            // What is more is of no use, and must not block it.
            let _ = io::copy(&mut stderr, &mut io::sink());
            kept
        });
        let lines = io::BufRead::lines(io::BufReader::new(stdout));
        Ok((Self { child, lines, errors: Some(errors) }, stdin))
    }

    /// Ends it and all that it started.
    pub fn kill(&mut self) {
        // `unshare` dies, and the kernel kills what it was to take along.
        let _ = rustix::process::kill_process_group(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::Signal::KILL,
        );
    }

    /// The next line that it prints.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn line(&mut self) -> io::Result<Option<String>> {
        self.lines.next().transpose()
    }

    /// Waits for its end; gives what it wrote to standard error.
    pub fn finish(mut self) -> String {
        let _ = self.child.wait();
        let errors = self.errors.take().and_then(|errors| errors.join().ok()).unwrap_or_default();
        String::from_utf8_lossy(&errors).into_owned()
    }
}

impl Drop for Isolated {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
            let _ = self.child.wait();
        }
    }
}
