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
