//! One booted machine: a tree of processes in a mount and a process namespace of its own.
//!
//! Its root is mounted in there and nowhere else. Whatever kills us kills the tree, and with it go its mounts and loop devices.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::machines::Ran;
use super::partitions::Place;
use super::share::Share;
use crate::process::{Running, cmd, signal_pid, tail};

/// How long a machine may take to shut down before its plug is pulled.
const PATIENCE: Duration = Duration::from_secs(20);

/// Mounts the root, boots it as often as it asks for, and unmounts it.
const SCRIPT: &str = r#"
if [ -n "$MC_SHARE" ]; then
    echo 0 >"$MC_SHARE"
fi
if [ -n "$MC_LOWER" ]; then
    mount -o "ro,noload,loop,offset=$MC_OFFSET,sizelimit=$MC_LENGTH" "$MC_LOWER" "$MC_DIR/lower" 2>/dev/null ||
        mount -o "ro,loop,offset=$MC_OFFSET,sizelimit=$MC_LENGTH" "$MC_LOWER" "$MC_DIR/lower"
    mount -t overlay overlay -o "lowerdir=$MC_DIR/lower,upperdir=$MC_DIR/upper,workdir=$MC_DIR/work" "$MC_DIR/root"
else
    mount -o "loop,offset=$MC_OFFSET,sizelimit=$MC_LENGTH" "$MC_DISK" "$MC_DIR/root"
fi
while :; do
    r=0
    systemd-nspawn "$@" || r=$?
    [ "$r" = 133 ] || break
done
umount "$MC_DIR/root"
exit "$r"
"#;

/// Units that are not started. What would ask for an address: the cloud has given it before the machine boots, for no DHCP comes through here. And
/// what waits for somebody at a console that nobody sits at: each holds an instance of inotify, of which Linux gives one user 128 for all
/// machines together, and a machine that gets none stands still while it boots.
const LEFT_OUT: [&str; 8] = [
    "systemd-networkd.service",
    "systemd-networkd.socket",
    "NetworkManager.service",
    "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path",
    "console-getty.service",
    "getty@tty1.service",
    "getty-static.service",
];

/// What is to be booted.
pub(super) struct Spec<'a> {
    pub(super) name: &'a str,
    pub(super) hostname: &'a str,
    pub(super) namespace: &'a str,
    /// A folder of its own.
    pub(super) dir: &'a Path,
    /// The disk, and where the root file system is on it.
    pub(super) disk: &'a Path,
    pub(super) place: Place,
    /// Whether the disk is only read, and changes are kept in the folder.
    pub(super) overlay: bool,
    /// How many thousandths of a processor it has; nothing: as much as there is.
    pub(super) thousandths: Option<u32>,
}

/// A machine that runs, or ran.
pub(super) struct Booted {
    pid: u32,
    /// The machine's first process, seen from here; 0 when there is none.
    leader: Arc<AtomicU32>,
    over: Arc<AtomicBool>,
    watcher: Option<JoinHandle<()>>,
    console: PathBuf,
}

impl Booted {
    /// Boots. `up` is told every time that the machine begins: at first and after a reboot. `over` is called when it runs no more.
    pub(super) fn start(
        spec: &Spec<'_>,
        up: impl Fn(&Path) + Send + 'static,
        over: Box<dyn FnOnce() + Send>,
    ) -> Result<Self> {
        for part in ["root", "lower", "upper", "work"] {
            std::fs::create_dir_all(spec.dir.join(part))?;
        }
        let share = spec.thousandths.map(|thousandths| Share::new(spec.name, thousandths)).transpose()?;
        let console = spec.dir.join("console");
        let begun = File::options().create(true).append(true).open(&console)?.metadata()?.len();
        let command = cmd("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "--pid", "--fork"])
            .args(["--kill-child", "--mount-proc", "sh", "-ec", SCRIPT, "sh"])
            .args(["--quiet", "--register=no", "--keep-unit", "--boot", "--console=read-only", "--link-journal=no"])
            .args(["--resolv-conf=off", "--timezone=off", "--capability=CAP_NET_ADMIN"])
            .arg(format!("--machine={}", spec.name))
            .arg(format!("--hostname={}", spec.hostname))
            .arg(format!("--network-namespace-path=/run/netns/{}", spec.namespace))
            .arg(format!("--directory={}", spec.dir.join("root").display()))
            .args(LEFT_OUT.map(|unit| format!("systemd.mask={unit}")))
            .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")
            .env("SYSTEMD_NSPAWN_LOCK", "0")
            .env("MC_SHARE", share.as_ref().map(Share::door).unwrap_or_default())
            .env("MC_DIR", spec.dir)
            .env("MC_DISK", spec.disk)
            .env("MC_LOWER", if spec.overlay { spec.disk.as_os_str() } else { "".as_ref() })
            .env("MC_OFFSET", spec.place.offset.to_string())
            .env("MC_LENGTH", spec.place.length.to_string());
        let (leader, done) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let (sender, receiver) = std::sync::mpsc::channel::<Result<u32>>();
        let (leader_there, done_there, log) = (Arc::clone(&leader), Arc::clone(&done), console.clone());
        // The thread that starts a process must live as long as it: the kernel sends the death signal when that thread ends.
        let watcher = std::thread::Builder::new().name("machine".into()).spawn(move || {
            let mut running = match command.start(&log) {
                Ok(running) => running,
                Err(e) => return drop(sender.send(Err(e))),
            };
            let _ = sender.send(Ok(running.pid()));
            watch(&mut running, &leader_there, &up);
            leader_there.store(0, Ordering::Release);
            running.kill();
            drop(share);
            done_there.store(true, Ordering::Release);
            over();
        })?;
        let pid = receiver.recv().context("the machine's thread ended")??;
        let this = Self { pid, leader, over: done, watcher: Some(watcher), console };
        let end = Instant::now() + PATIENCE;
        while this.leader().is_none() {
            if this.is_over() || Instant::now() > end {
                let said = read_from(&this.console, begun);
                bail!("it does not boot: {}", tail(&String::from_utf8_lossy(&said), 2000));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(this)
    }

    fn leader(&self) -> Option<u32> {
        Some(self.leader.load(Ordering::Acquire)).filter(|pid| *pid != 0)
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// The machine's root, seen from here.
    pub(super) fn root(&self) -> Option<PathBuf> {
        Some(root_of(self.leader()?))
    }

    fn signal(&self, name: &str) -> Result<()> {
        let leader = self.leader().context("it does not run")?;
        cmd("kill").args(["-s", name, &leader.to_string()]).run().map(drop)
    }

    /// Asks it to power off.
    pub(super) fn power_off(&self) -> Result<()> {
        self.signal("RTMIN+4")
    }

    /// Asks it to boot again.
    pub(super) fn reboot(&self) -> Result<()> {
        self.signal("INT")
    }

    /// Waits for its end for a while, and pulls the plug then; at once without patience.
    pub(super) fn end(&mut self, patient: bool) {
        let end = Instant::now() + if patient { PATIENCE } else { Duration::ZERO };
        while !self.is_over() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        if !self.is_over() {
            let _ = signal_pid(self.pid, rustix::process::Signal::KILL);
        }
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
    }

    /// What runs commands inside, as long as this boot lasts.
    pub(super) fn command(&self) -> Result<Inside> {
        Ok(Inside { leader: self.leader().context("the machine does not run")? })
    }
}

/// Runs commands in a machine.
pub(super) struct Inside {
    leader: u32,
}

impl Inside {
    pub(super) fn run(&self, words: &[String], input: &[u8]) -> Result<Ran> {
        let done = cmd("nsenter")
            .args(["-t", &self.leader.to_string(), "-m", "-u", "-i", "-n", "-p", "-C", "--root", "--wd", "--"])
            .args(words)
            .input(input)
            .output()?;
        Ok(Ran { code: done.code(), stdout: done.stdout, stderr: done.stderr })
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        self.end(false);
    }
}

fn root_of(leader: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{leader}/root"))
}

/// Follows a machine until it runs no more.
fn watch(running: &mut Running, leader: &AtomicU32, up: &impl Fn(&Path)) {
    let mut rest = Duration::from_millis(5);
    while running.ended().is_none() {
        let known = leader.load(Ordering::Acquire);
        if known == 0 || !is_first(known) {
            leader.store(0, Ordering::Release);
            if let Some(found) = find_first(running.pid()) {
                // Its /dev is mounted by then; a node in it is there before anybody looks.
                up(&root_of(found));
                leader.store(found, Ordering::Release);
                rest = Duration::from_millis(30);
            } else {
                rest = Duration::from_millis(5);
            }
        }
        std::thread::sleep(rest);
    }
}

/// How deep in process namespaces a process is, and its number in the innermost.
fn depth(pid: u32) -> Option<(usize, u32)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    let numbers: Vec<u32> = numbers.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    Some((numbers.len(), *numbers.last()?))
}

/// Whether a process is the first of a machine: two namespaces below the one that started it, and number 1 there.
fn is_first(pid: u32) -> bool {
    let here = depth(std::process::id()).map_or(1, |(d, _)| d);
    let exec = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    depth(pid) == Some((here + 2, 1)) && !exec.ends_with("systemd-nspawn")
}

fn find_first(from: u32) -> Option<u32> {
    let mut todo = vec![from];
    while let Some(pid) = todo.pop() {
        if is_first(pid) {
            return Some(pid);
        }
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        todo.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
    }
    None
}

/// What a file holds from a place on.
pub(super) fn read_from(path: &Path, at: u64) -> Vec<u8> {
    let mut text = Vec::new();
    if let Ok(mut file) = File::open(path)
        && file.seek(SeekFrom::Start(at)).is_ok()
    {
        let _ = file.read_to_end(&mut text);
    }
    text
}
