//! The real frontend alone, on loopback and without root; and hosts that fetch and report as an agent does, and do nothing else.
#![expect(clippy::print_stdout, reason = "a test that is left out says why")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rocks_agent::fetch::{Client, Fetched, Known};
use rocks_agent::identity::{Identity, Join, enrol};
use rocks_common::ids::{Digest, Generation};
use rocks_common::wire::{Facts, JoinToken, Outcome, Report};
use serde_json::Value;

use crate::process::{Done, Running, cmd, wait_for};
use crate::world::binaries;

/// A frontend. It is ended and its folder removed when the value is dropped.
pub struct Frontend {
    running: Option<Running>,
    /// Where the programs are.
    pub binaries: PathBuf,
    /// Its folder; `state` in it is its state.
    pub dir: tempfile::TempDir,
    listen: String,
}

fn rolls() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../graphs").canonicalize().expect("graphs")
}

impl Frontend {
    /// A frontend that runs; none: there are no binaries.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn new() -> Option<Self> {
        let Ok(binaries) = binaries() else {
            println!("skipped: build the binaries first");
            return None;
        };
        let (dir, listen) = (tempfile::tempdir().expect("a folder"), "127.0.0.1:0".to_owned());
        let mut frontend = Self { running: None, binaries, dir, listen };
        frontend.start();
        Some(frontend)
    }

    /// Starts it, making it if need be.
    ///
    /// # Panics
    /// It does not start.
    pub fn start(&mut self) {
        let (server, state) = (self.binaries.join("rocks-server"), self.dir.path().join("state"));
        cmd(&server)
            .args(["init", "--if-needed", "--name", "127.0.0.1", "--state-dir"])
            .arg(&state)
            .run()
            .expect("init");
        let _ = fs::remove_file(state.join("run/addresses.json"));
        let log = self.dir.path().join("log");
        let serve = cmd(&server).args(["serve", "--listen", &self.listen, "--state-dir"]).arg(&state);
        let site = self.dir.path().join("site-graphs");
        let running = serve.env("ROCKS_SERVER_SITE_GRAPHS", site.display().to_string()).start(&log);
        self.running = Some(running.expect("serve"));
        let up = wait_for("the frontend", Duration::from_secs(20), || {
            Ok((self.rocks(&["list", "host"]).code() == 0).then_some(()))
        });
        up.unwrap_or_else(|error| panic!("{error:#}\n{}", self.log()));
    }

    /// Kills it, as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.kill();
        }
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Where agents reach it.
    ///
    /// # Panics
    /// It does not say.
    #[must_use]
    pub fn url(&self) -> String {
        let text = fs::read_to_string(self.dir.path().join("state/run/addresses.json")).expect("addresses");
        let addresses: Value = serde_json::from_str(&text).expect("json");
        addresses["url"].as_str().expect("an address").to_owned()
    }

    /// From now on it listens where it listens now, so that a restart alone changes no kickstart.
    pub fn keep_address(&mut self) {
        self.url().trim_start_matches("https://").clone_into(&mut self.listen);
    }

    /// Runs `rocks`.
    ///
    /// # Panics
    /// It cannot be run.
    #[must_use]
    pub fn rocks(&self, words: &[&str]) -> Done {
        let socket = self.dir.path().join("state/run/admin.sock");
        cmd(self.binaries.join("rocks")).arg("--socket").arg(socket).args(words).output().expect("rocks runs")
    }

    /// Runs `rocks`, which must succeed.
    ///
    /// # Panics
    /// It does not.
    pub fn ok(&self, words: &[&str]) -> String {
        let done = self.rocks(words);
        assert_eq!(done.code(), 0, "{words:?}: {}", done.both());
        done.stdout
    }

    /// What `rocks -o json` prints.
    ///
    /// # Panics
    /// It fails.
    #[must_use]
    pub fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[&["-o", "json"], words].concat())).expect("json")
    }

    /// Adds the lite appliance and its rolls.
    pub fn lite(&self) {
        self.ok(&["add", "appliance", "lite"]);
        for roll in ["base", "vim"] {
            self.ok(&["add", "roll", &rolls().join(roll).display().to_string()]);
        }
    }

    /// Adds a host of it, and gives its join document.
    ///
    /// # Panics
    /// There is one of that name.
    pub fn join(&self, host: &str) -> Join {
        let json = self.json(&["add", "host", host, "appliance=lite"]);
        let text = |name: &str| json[name].as_str().expect("a text").to_owned();
        Join {
            frontend: text("frontend"),
            token: Some(JoinToken(text("token"))),
            identity: None,
            enrolment: None,
            ca: text("ca"),
        }
    }

    /// What a host knows that has the kickstart `digest`.
    #[must_use]
    pub fn known(identity: &Identity, digest: Option<Digest>) -> Known {
        Known { digest, generation: Generation(0), host: identity.host.clone(), seal_key: identity.seal_key }
    }
}

/// A host that fetches and reports, and does nothing else. It refuses what an agent refuses.
pub struct Puppet {
    identity: Identity,
    _folder: tempfile::TempDir,
    /// The kickstart that it has.
    pub has: Option<(Digest, Generation)>,
    /// Its text.
    pub text: String,
    reports: u32,
}

impl Puppet {
    /// Adds a host and enrols it.
    ///
    /// # Panics
    /// That is refused.
    pub async fn enrol(frontend: &Frontend, host: &str) -> Self {
        let (folder, join) = (tempfile::tempdir().expect("a folder"), frontend.join(host));
        let identity = enrol(folder.path(), &join, Facts::default(), Timestamp::now()).await.expect("enrolled");
        Self { identity, _folder: folder, has: None, text: String::new(), reports: 0 }
    }

    fn client(&self, frontend: &Frontend) -> Client {
        let read = |name: &str| fs::read_to_string(self.identity.file(name)).expect("a file");
        let (certificate, key) = (read("cert.pem"), read("key.pem"));
        let tls = rocks_agent::tls::client(&read("ca.pem"), Some((&certificate, &key))).expect("tls");
        Client::new(&frontend.url(), tls).expect("a client")
    }

    /// Fetches, waiting for so many seconds. Says whether there was another kickstart than it has.
    ///
    /// # Panics
    /// The frontend refuses, or gives what an agent does not trust.
    pub async fn fetch(&mut self, frontend: &Frontend, wait: u32) -> bool {
        let generation = self.has.map(|(_, generation)| generation).unwrap_or_default();
        let known = Known { generation, ..Frontend::known(&self.identity, self.has.map(|(digest, _)| digest)) };
        let fetched = self.client(frontend).kickstart(&known, wait).await;
        let fetched = fetched.unwrap_or_else(|error| panic!("{}: {error}\n{}", self.identity.host, frontend.log()));
        let Some(Fetched { digest, generation, text, .. }) = fetched else { return false };
        (self.has, self.text) = (Some((digest, generation)), text);
        true
    }

    /// Reports what came of the kickstart that it has.
    ///
    /// # Panics
    /// The frontend does not take the report.
    pub async fn report(&mut self, frontend: &Frontend, outcome: Outcome) {
        self.reports += 1;
        let report = Report {
            id: self.reports.to_string(),
            facts: Facts::default(),
            kickstart: self.has.map(|(digest, _)| digest),
            generation: self.has.map(|(_, generation)| generation),
            started: Timestamp::now(),
            duration_ms: 1,
            outcome,
            steps: Vec::new(),
            findings: Vec::new(),
            diff: None,
        };
        self.client(frontend).report(&report).await.expect("taken");
    }

    /// Fetches what there is, which must be something new, and reports that all is well.
    ///
    /// # Panics
    /// There is nothing new in ten seconds.
    pub async fn converge(&mut self, frontend: &Frontend) {
        assert!(self.fetch(frontend, 10).await, "{}: nothing new\n{}", self.identity.host, frontend.log());
        self.report(frontend, Outcome::Converged).await;
    }
}
