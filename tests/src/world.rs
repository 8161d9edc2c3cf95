//! A frontend and its instances, each in a network namespace of its own, on this machine.
//!
//! The frontend is the real `rocks-server` with the product's rolls and a mirror of real RPMs; an instance is a root tree that consists of
//! RPMs, with systemd as its init under systemd-nspawn, and with the agent from our own RPM. All of it needs root.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::lite::Lite;
use crate::process::{Running, cmd, signal_pid, tail, wait_for};

/// The frontend's address inside the world.
const FRONTEND: &str = "10.99.0.1";

/// Where the repository's root is.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/")).to_path_buf()
}

/// The names of the product's rolls, in [`repository`]`/graphs`.
pub const ROLLS: [&str; 5] = ["base", "ec2", "hpc", "java", "vim"];

/// The folder of the binaries under test: the one that this program runs from.
///
/// # Errors
/// They are not built.
pub fn binaries() -> Result<PathBuf> {
    let mut folder = std::env::current_exe()?;
    folder.pop();
    if folder.ends_with("deps") {
        folder.pop();
    }
    ensure!(folder.join("rocks-server").exists(), "build first: there is no rocks-server in {}", folder.display());
    Ok(folder)
}

/// Why the world cannot be made here, if so.
#[must_use]
pub fn missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("it needs root");
    }
    ["systemd-nspawn", "ip", "nsenter", "rpm", "dnf", "rpmbuild"]
        .into_iter()
        .find(|program| crate::process::which(program).is_none())
        .map(|_| "systemd-nspawn, ip, nsenter, rpm, dnf or rpmbuild is not installed")
}

/// A place for a frontend that somebody else made: beside a cloud.
#[derive(Debug, Clone)]
pub struct Elsewhere {
    /// The network namespace.
    pub namespace: String,
    /// The frontend's address in it.
    pub address: String,
    /// Variables of its environment.
    pub environment: Vec<(String, String)>,
}

/// A frontend with a network that instances can join.
pub struct World {
    prefix: String,
    binaries: PathBuf,
    lite: Lite,
    packages: PathBuf,
    frontend: Option<Running>,
    instances: usize,
    /// Where the frontend is, if not in a namespace of this world, and what it finds in its environment.
    elsewhere: Option<Elsewhere>,
    // Last, so that it is there as long as anything runs in it.
    dir: TempDir,
}

impl World {
    /// Makes the appliance if there is none, our own packages, the network, and a running frontend with all rolls of the product.
    ///
    /// # Errors
    /// Whatever fails, with what it said.
    pub fn new(say: &mut dyn FnMut(&str)) -> Result<Self> {
        Self::with(binaries()?, say)
    }

    /// The same with the binaries in a folder.
    ///
    /// # Errors
    /// Whatever fails, with what it said.
    pub fn with(binaries: PathBuf, say: &mut dyn FnMut(&str)) -> Result<Self> {
        Self::at(None, binaries, say)
    }

    /// The same with the frontend elsewhere.
    ///
    /// # Errors
    /// Whatever fails, with what it said.
    pub fn at(elsewhere: Option<Elsewhere>, binaries: PathBuf, say: &mut dyn FnMut(&str)) -> Result<Self> {
        let lite = Lite::get(say)?;
        let dir = tempfile::Builder::new().prefix("rocks-world-").tempdir()?;
        let packages = dir.path().join("packages");
        fs::create_dir_all(&packages)?;
        say("packing our own RPMs");
        let script = repository().join("packaging/build-rpm.sh");
        cmd(&script).arg(&binaries).arg(&packages).env("ROCKS_BUNDLED", "no").run()?;
        let rpms: Vec<PathBuf> =
            fs::read_dir(&packages)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
        lite.sign(&rpms)?;
        // Several worlds may be in one test program.
        static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let prefix = format!("rk{}n{number}", std::process::id());
        let mut world = Self { prefix, binaries, lite, packages, frontend: None, instances: 0, elsewhere, dir };
        say("making the network and starting the frontend");
        if world.elsewhere.is_none() {
            world.network()?;
        }
        world.start_frontend()?;
        for appliance in ["lite", "compute", "devel-server"] {
            world.rocks(&["add", "appliance", appliance])?;
        }
        for roll in ROLLS {
            let path = repository().join("graphs").join(roll);
            world.rocks(&["add", "roll", &path.display().to_string()])?;
        }
        say("publishing the RPM mirror");
        let folders = [world.lite.repository(), world.packages.clone()].map(|folder| folder.display().to_string());
        world.rocks(&["create", "distro", &folders[0], &folders[1]])?;
        Ok(world)
    }

    fn namespace(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn network(&self) -> Result<()> {
        let fe = self.namespace("fe");
        cmd("ip").args(["netns", "add", &fe]).run()?;
        cmd("ip").args(["-n", &fe, "link", "set", "lo", "up"]).run()?;
        cmd("ip").args(["-n", &fe, "addr", "add", &format!("{FRONTEND}/32"), "dev", "lo"]).run()?;
        // Instances reach each other through here.
        let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward";
        cmd("ip").args(["netns", "exec", &fe, "sh", "-c", forward]).run()?;
        Ok(())
    }

    /// The network namespace that the frontend listens in, and its address there.
    #[must_use]
    pub fn listener(&self) -> (String, String) {
        match &self.elsewhere {
            Some(place) => (place.namespace.clone(), format!("{}:8443", place.address)),
            None => (self.namespace("fe"), format!("{FRONTEND}:8443")),
        }
    }

    /// The folder of our own packages, which the mirror publishes.
    #[must_use]
    pub fn packages(&self) -> &Path {
        &self.packages
    }

    /// The appliance that instances are made of.
    #[must_use]
    pub fn lite(&self) -> &Lite {
        &self.lite
    }

    /// The frontend's state folder.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.dir.path().join("frontend")
    }

    /// Starts the frontend, which makes itself if it is not there yet.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start_frontend(&mut self) -> Result<()> {
        let (server, state) = (self.binaries.join("rocks-server"), self.state());
        let (namespace, listen) = self.listener();
        let name = self.elsewhere.as_ref().map_or(FRONTEND, |place| &place.address);
        cmd(&server).args(["init", "--if-needed", "--name", name, "--state-dir"]).arg(&state).run()?;
        let log = self.dir.path().join("frontend.log");
        let mut serve = cmd("ip").args(["netns", "exec", &namespace]).arg(&server);
        serve = serve.env("ROCKS_SERVER_GPGKEYS", self.lite.gpg_key().display().to_string());
        for (name, value) in self.elsewhere.iter().flat_map(|place| &place.environment) {
            serve = serve.env(name, value);
        }
        let running = serve.args(["serve", "--listen", &listen, "--state-dir"]).arg(&state).start(&log)?;
        self.frontend = Some(running);
        wait_for("the frontend", Duration::from_secs(20), || Ok(self.rocks(&["list", "host"]).ok()))
            .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        Ok(())
    }

    /// Kills the frontend as a power cut would.
    pub fn kill_frontend(&mut self) {
        if let Some(mut running) = self.frontend.take() {
            running.kill();
        }
    }

    /// Runs a command of the administrator's and gives what it printed.
    ///
    /// # Errors
    /// It failed.
    pub fn rocks(&self, words: &[&str]) -> Result<String> {
        let socket = self.state().join("run/admin.sock");
        Ok(cmd(self.binaries.join("rocks")).arg("--socket").arg(socket).args(words).run()?.stdout)
    }

    /// A counter or gauge of the frontend's.
    ///
    /// # Errors
    /// It has none of that name.
    pub fn metric(&self, name: &str) -> Result<u64> {
        let socket = self.state().join("run/admin.sock");
        let text = cmd("curl").arg("-sf").arg("--unix-socket").arg(socket).arg("http://frontend/metrics").run()?.stdout;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok());
        value.with_context(|| format!("there is no {name} in\n{text}"))
    }

    /// The last report of `host`, if there is one.
    ///
    /// # Errors
    /// The frontend does not answer.
    pub fn report(&self, host: &str) -> Result<Option<Value>> {
        let socket = self.state().join("run/admin.sock");
        let done = cmd(self.binaries.join("rocks"))
            .arg("--socket")
            .arg(socket)
            .args(["-o", "json", "report", "host", host])
            .output()?;
        match done.code() {
            0 | 3 => Ok(Some(serde_json::from_str(&done.stdout)?)),
            4 => Ok(None),
            _ => bail!("{}", done.both()),
        }
    }

    /// Waits until `host` has reported something that `fits`.
    ///
    /// # Errors
    /// It did not within `limit`; the last report is told.
    pub fn wait_report(&self, host: &str, limit: Duration, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        let waited = wait_for("the report", limit, || Ok(self.report(host)?.filter(|report| fits(report))));
        waited.with_context(|| {
            format!(
                "last report: {}\n{}",
                self.rocks(&["report", "host", host]).unwrap_or_else(|e| e.to_string()),
                self.frontend_log()
            )
        })
    }

    /// The generation of the kickstart that `host` is to have.
    ///
    /// # Errors
    /// The frontend does not answer.
    pub fn generation(&self, host: &str) -> Result<u64> {
        let json: Value = serde_json::from_str(&self.rocks(&["-o", "json", "list", "host", host])?)?;
        json["items"][0]["generation"].as_u64().context("the host has no kickstart")
    }

    /// What the frontend logged.
    #[must_use]
    pub fn frontend_log(&self) -> String {
        let text = fs::read_to_string(self.dir.path().join("frontend.log")).unwrap_or_default();
        tail(&text, 4000).to_owned()
    }

    /// Adds host `name` of `appliance` and makes an instance for it, its join document in place. It is not booted yet.
    ///
    /// # Errors
    /// Whatever fails, with what it said.
    pub fn instance(&mut self, name: &str, appliance: &str) -> Result<Instance> {
        self.instance_on(name, appliance, &self.lite.tree())
    }

    /// The same, of an image whose root is its first partition.
    ///
    /// # Errors
    /// Whatever fails, with what it said.
    pub fn instance_of_image(&mut self, name: &str, appliance: &str, disk: &Path) -> Result<Instance> {
        let listed = cmd("sfdisk").arg("--json").arg(disk).run()?.stdout;
        let table: Value = serde_json::from_str(&listed)?;
        let (start, size) =
            (&table["partitiontable"]["partitions"][0]["start"], &table["partitiontable"]["partitions"][0]["size"]);
        let (start, size) = (start.as_u64().context("no partition")?, size.as_u64().context("no partition")?);
        let tree = self.dir.path().join(name).join("image");
        fs::create_dir_all(&tree)?;
        let options = format!("loop,ro,noload,offset={},sizelimit={}", start * 512, size * 512);
        cmd("mount").args(["-t", "ext4", "-o", &options]).arg(disk).arg(&tree).run()?;
        self.instance_on(name, appliance, &tree)
    }

    fn instance_on(&mut self, name: &str, appliance: &str, tree: &Path) -> Result<Instance> {
        self.instances += 1;
        let number = self.instances;
        let join = self.rocks(&["add", "host", name, &format!("appliance={appliance}")])?;
        let (fe, ns) = (self.namespace("fe"), self.namespace(&format!("i{number}")));
        let (outer, inner) = (format!("v{number}"), "host0");
        cmd("ip").args(["netns", "add", &ns]).run()?;
        cmd("ip").args(["-n", &ns, "link", "set", "lo", "up"]).run()?;
        cmd("ip")
            .args(["-n", &fe, "link", "add", &outer, "type", "veth", "peer", "name", inner, "netns", &ns])
            .run()?;
        cmd("ip").args(["-n", &fe, "addr", "add", &format!("10.99.{number}.1/30"), "dev", &outer]).run()?;
        cmd("ip").args(["-n", &fe, "link", "set", &outer, "up"]).run()?;
        cmd("ip").args(["-n", &ns, "addr", "add", &format!("10.99.{number}.2/30"), "dev", inner]).run()?;
        cmd("ip").args(["-n", &ns, "link", "set", inner, "up"]).run()?;
        cmd("ip").args(["-n", &ns, "route", "add", "default", "via", &format!("10.99.{number}.1")]).run()?;
        let folder = self.dir.path().join(name);
        let root = folder.join("root");
        for part in ["upper", "work", "root"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let layers = format!(
            "lowerdir={},upperdir={},workdir={}",
            tree.display(),
            folder.join("upper").display(),
            folder.join("work").display()
        );
        cmd("mount").args(["-t", "overlay", "overlay", "-o", &layers]).arg(&root).run()?;
        let instance = Instance {
            name: name.to_owned(),
            namespace: ns,
            frontend_namespace: fe,
            address: format!("10.99.{number}.2"),
            outer,
            root,
            folder,
            running: None,
        };
        instance.prepare(&self.packages, &self.lite.gpg_key(), &join)?;
        Ok(instance)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill_frontend();
        if self.elsewhere.is_none() {
            let _ = cmd("ip").args(["netns", "del", &self.namespace("fe")]).output();
        }
    }
}

/// A machine of RPMs that can be booted.
pub struct Instance {
    /// The host that it is.
    pub name: String,
    namespace: String,
    frontend_namespace: String,
    address: String,
    outer: String,
    root: PathBuf,
    folder: PathBuf,
    running: Option<Running>,
}

impl Instance {
    fn prepare(&self, packages: &Path, key: &Path, join: &str) -> Result<()> {
        let agent = fs::read_dir(packages)?
            .filter_map(|entry| entry.ok().map(|e| e.path()))
            .find(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("rocks-agent-")))
            .context("there is no package of the agent")?;
        // The package into the tree, by rpm, with its scriptlets, as an image builder does it.
        if !self.root.join("usr/bin/rocks-agent").exists() {
            cmd("rpm")
                .arg("--root")
                .arg(&self.root)
                .args(["--define", "_dbpath /var/lib/rpm", "-i"])
                .arg(&agent)
                .run()?;
        }
        let put = |path: &str, text: &[u8]| -> Result<()> {
            let path = self.root.join(path);
            fs::create_dir_all(path.parent().context("a folder")?)?;
            fs::write(&path, text).with_context(|| path.display().to_string())
        };
        put("etc/pki/rpm-gpg/RPM-GPG-KEY-test", &fs::read(key)?)?;
        put("etc/rocks-agent/config.d/10-test.toml", b"gpgkeys = [\"file:///etc/pki/rpm-gpg/RPM-GPG-KEY-test\"]\n")?;
        put("etc/rocks-agent/join.toml", join.as_bytes())?;
        put("etc/resolv.conf", b"")?;
        cmd("systemctl")
            .arg(format!("--root={}", self.root.display()))
            .args(["enable", "rocks-agent.service"])
            .run()?;
        Ok(())
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A path inside, seen from here.
    #[must_use]
    pub fn path(&self, inside: &str) -> PathBuf {
        self.root.join(inside.trim_start_matches('/'))
    }

    /// The text of a file inside.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&self, inside: &str) -> Result<String> {
        fs::read_to_string(self.path(inside)).with_context(|| inside.to_owned())
    }

    /// Boots it and waits until systemd says that all is up.
    ///
    /// # Errors
    /// It does not come up.
    pub fn boot(&mut self) -> Result<()> {
        let running = cmd("systemd-nspawn")
            .args([
                "--quiet",
                "--register=no",
                "--keep-unit",
                "--boot",
                "--console=read-only",
                "--link-journal=no",
                "--resolv-conf=off",
            ])
            .args(["--timezone=off", "--capability=CAP_NET_ADMIN"])
            .arg(format!("--machine={}", self.name))
            .arg(format!("--network-namespace-path=/run/netns/{}", self.namespace))
            .arg(format!("--directory={}", self.root.display()))
            .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")
            .env("SYSTEMD_NSPAWN_LOCK", "0")
            .start(&self.folder.join("console"))?;
        self.running = Some(running);
        wait_for("the instance's boot", Duration::from_secs(60), || {
            let state = self.exec(&["systemctl", "is-system-running"])?;
            Ok(matches!(state.stdout.trim(), "running" | "degraded").then_some(()))
        })
        .with_context(|| fs::read_to_string(self.folder.join("console")).unwrap_or_default())
    }

    /// Starts it without systemd, as a container with nothing but a shell that waits: the agent does not run by itself.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start_plain(&mut self) -> Result<()> {
        let script = "mount -t proc proc \"$1/proc\"; mount --rbind /dev \"$1/dev\"; mount -t tmpfs tmpfs \"$1/run\"; \
                      exec chroot \"$1\" /bin/sh -c 'while :; do sleep 3600 & wait; done'";
        let running = cmd("ip")
            .args(["netns", "exec", &self.namespace, "unshare", "--mount", "--uts", "--ipc", "--pid", "--fork"])
            .args(["--kill-child", "--propagation=private", "sh", "-ec", script, "sh"])
            .arg(&self.root)
            .start(&self.folder.join("console"))?;
        self.running = Some(running);
        wait_for("the plain instance", Duration::from_secs(20), || {
            let mounted = self.exec(&["sh", "-c", "test -r /proc/1/status && test -e /etc/rocks-agent"])?;
            Ok((mounted.code() == 0).then_some(()))
        })
        .with_context(|| fs::read_to_string(self.folder.join("console")).unwrap_or_default())
    }

    fn leader(&self) -> Result<u32> {
        let mut todo = vec![self.running.as_ref().context("the instance does not run")?.pid()];
        while let Some(pid) = todo.pop() {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let inner = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
            let numbers: Vec<&str> = inner.split_whitespace().collect();
            if numbers.len() > 1 && numbers.last() == Some(&"1") {
                return Ok(pid);
            }
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            todo.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
        bail!("the instance has no init")
    }

    /// Runs a command inside.
    ///
    /// # Errors
    /// It could not be started.
    pub fn exec(&self, words: &[&str]) -> Result<crate::process::Done> {
        let leader = self.leader()?.to_string();
        cmd("nsenter")
            .args(["-t", &leader, "-m", "-u", "-i", "-n", "-p", "-C", "--root", "--wd", "--"])
            .args(words)
            .output()
    }

    /// Kills the agent as the kernel would.
    ///
    /// # Errors
    /// systemd inside does not answer.
    pub fn kill_agent(&self) -> Result<()> {
        self.exec(&["systemctl", "kill", "--signal=KILL", "rocks-agent.service"]).map(drop)
    }

    /// Cuts the instance's network, or mends it.
    ///
    /// # Errors
    /// The link is not there.
    pub fn network(&self, up: bool) -> Result<()> {
        cmd("ip")
            .args(["-n", &self.frontend_namespace, "link", "set", &self.outer, if up { "up" } else { "down" }])
            .run()?;
        Ok(())
    }

    /// Shuts it down, cleanly.
    ///
    /// # Errors
    /// It is not running.
    pub fn shut_down(&mut self) -> Result<()> {
        // SIGRTMIN+4 is systemd's signal for powering off; rustix knows only those with names.
        let leader = self.leader()?;
        cmd("kill").args(["-s", "RTMIN+4", &leader.to_string()]).run()?;
        let mut running = self.running.take().context("the instance does not run")?;
        wait_for("the shutdown", Duration::from_secs(30), || Ok(running.ended()))?;
        Ok(())
    }

    /// What the agent logged.
    #[must_use]
    pub fn agent_log(&self) -> String {
        self.exec(&["journalctl", "-u", "rocks-agent", "--no-pager", "-n", "60"])
            .map(|done| done.both())
            .unwrap_or_default()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Ok(leader) = self.leader() {
            let _ = signal_pid(leader, rustix::process::Signal::KILL);
        }
        if let Some(mut running) = self.running.take() {
            running.kill();
        }
        let _ = cmd("umount").arg("-l").arg(&self.root).output();
        let _ = cmd("umount").arg("-l").arg(self.folder.join("image")).output();
        let _ = cmd("ip").args(["netns", "del", &self.namespace]).output();
    }
}
