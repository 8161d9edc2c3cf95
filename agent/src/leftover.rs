//! Processes that outlived the agent that started them.
//!
//! What a step starts carries [`MARK`] in its environment and passes it on to whatever it starts itself, sessions of its own included. So
//! an agent that was killed in the middle of a step leaves nothing behind that the next one cannot find, with or without systemd, and
//! no process is ever taken for it because it got its number.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getpid, kill_process, kill_process_group};

/// The name of the environment variable; its value is the step's identity.
pub const MARK: &str = "ROCKS_AGENT_STEP";

/// A process of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Its number.
    pub pid: Pid,
    /// Its command line, word by word.
    pub words: Vec<String>,
}

impl Leftover {
    /// Whether it runs the program `name`, itself or by an interpreter.
    #[must_use]
    pub fn runs(&self, name: &str) -> bool {
        self.words.iter().take(3).any(|word| Path::new(word).file_name().is_some_and(|file| file == name))
    }
}

/// The processes of `step` that are running, other than this one. Those of another container are not ours to see.
#[must_use]
pub fn find(step: &str) -> Vec<Leftover> {
    let mark = format!("{MARK}={step}");
    let space = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let ours = space("self");
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let number = std::str::from_utf8(name.as_bytes()).ok()?;
            let pid = Pid::from_raw(number.parse().ok()?)?;
            // A process that has ended and that nobody has asked about has no environment any more.
            let environment = fs::read(entry.path().join("environ")).ok()?;
            let marked = environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes());
            if !marked || pid == getpid() || space(number) != ours {
                return None;
            }
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
            Some(Leftover { pid, words: words.collect() })
        })
        .collect()
}

/// The process group of `pid`; none if its leader is outside this container, where system calls call it 0.
fn group_of(pid: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let (_, after) = stat.rsplit_once(')')?;
    Pid::from_raw(after.split_whitespace().nth(2)?.parse().ok()?)
}

/// Kills the processes of `step` and waits until none is left; false if some are still there after `patience`.
#[must_use]
pub fn end(step: &str, patience: Duration) -> bool {
    let until = Instant::now() + patience;
    loop {
        let left = find(step);
        if left.is_empty() {
            return true;
        }
        for Leftover { pid, .. } in left {
            // Its group as well: a child may have cleaned its environment.
            if let Some(group) = group_of(pid).filter(|group| Some(*group) != group_of(getpid())) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = kill_process(pid, Signal::KILL);
        }
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Processes, System, Task};

    #[test]
    fn what_a_killed_step_left_is_found_and_ended_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let started = folder.path().join("started").display().to_string();
        // One that goes on in a session of its own, one whose environment was cleaned, and one of another step.
        let step = format!("leftover-{}", std::process::id());
        let run = |step: &str, script: &str| {
            let task = Task { env: vec![(MARK.to_owned(), step.to_owned())], ..Task::new("sh", &["-c", script]) };
            assert!(System.run(&task).expect("sh").success());
        };
        let script = format!(
            "setsid sh -c 'echo x >>{started}; env -i sleep 300; :' >/dev/null 2>&1 & sleep 301 >/dev/null 2>&1 & \
             while [ ! -s {started} ]; do sleep 0.01; done"
        );
        run(&step, &script);
        run(&format!("{step}-other"), "sleep 302 >/dev/null 2>&1 &");
        let found = find(&step);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().any(|left| left.runs("sleep")) && !found.iter().any(|left| left.runs("dnf")));
        let groups: Vec<Pid> = found.iter().filter_map(|left| group_of(left.pid)).collect();
        assert!(end(&step, Duration::from_secs(10)));
        for group in groups {
            let gone = (0..200).any(|_| {
                std::thread::sleep(Duration::from_millis(20));
                rustix::process::test_kill_process_group(group).is_err()
            });
            assert!(gone, "something of group {group:?} is left");
        }
        assert_eq!(find(&format!("{step}-other")).len(), 1);
        assert!(end(&format!("{step}-other"), Duration::from_secs(10)));
    }
}
