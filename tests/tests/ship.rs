//! An image from the frontend to a receiver, with the real binaries on loopback, without root.
#![expect(clippy::print_stdout, reason = "a test that is left out says why")]

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rocks_tests::process::{Done, Running, cmd, wait_for};
use rocks_tests::world::{binaries, repository};

struct Site {
    dir: tempfile::TempDir,
    binaries: PathBuf,
    frontend: Option<Running>,
}

/// 24 MiB, half of it noise.
fn image(path: &Path, seed: u64) {
    let file = fs::File::create(path).expect("made");
    file.set_len(24 << 20).expect("sized");
    let mut noise = seed | 1;
    for number in (0..24_u64).step_by(2) {
        let block: Vec<u8> = (0..1 << 20)
            .map(|_| {
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                (noise >> 20) as u8
            })
            .collect();
        file.write_all_at(&block, number << 20).expect("written");
    }
}

impl Site {
    fn new() -> Option<Self> {
        let Ok(binaries) = binaries() else {
            println!("skipped: build the binaries first");
            return None;
        };
        let mut site = Self { dir: tempfile::tempdir().expect("a folder"), binaries, frontend: None };
        let state = site.path("frontend");
        let server = site.binaries.join("rocks-server");
        cmd(&server).args(["init", "--name", "127.0.0.1", "--state-dir"]).arg(&state).run().expect("init");
        let serve = cmd(&server).args(["serve", "--listen", "127.0.0.1:0", "--state-dir"]).arg(&state);
        site.frontend = Some(serve.start(&site.path("log")).expect("serve"));
        wait_for("the frontend", Duration::from_secs(20), || {
            Ok((site.rocks(&["list", "host"]).code() == 0).then_some(()))
        })
        .expect("it serves");
        site.rocks(&["add", "appliance", "lite"]);
        site.rocks(&["add", "roll", &repository().join("graphs/base").display().to_string()]);
        for host in ["receiver-0-0", "receiver-0-1"] {
            let join = site.rocks(&["add", "host", host, "appliance=lite"]);
            assert_eq!(join.code(), 0, "{}", join.both());
            fs::write(site.path(&format!("{host}.toml")), join.stdout).expect("written");
            let agent = cmd(site.binaries.join("rocks-agent")).arg("--state-dir").arg(site.path(host)).arg("enrol");
            agent.arg("--join").arg(site.path(&format!("{host}.toml"))).run().expect("enrolled");
        }
        Some(site)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn rocks(&self, words: &[&str]) -> Done {
        let socket = self.path("frontend/run/admin.sock");
        cmd(self.binaries.join("rocks")).arg("--socket").arg(socket).args(words).output().expect("rocks runs")
    }

    /// Starts a receiver, and gives its port with it.
    fn receive(&self, host: &str, target: &str, way: &str, log: &str) -> (Running, u16) {
        // A port that was free a moment ago.
        let port = UdpSocket::bind("127.0.0.1:0").expect("bound").local_addr().expect("an address").port();
        let agent = cmd(self.binaries.join("rocks-agent")).arg("--state-dir").arg(self.path(host)).arg("receive");
        let agent =
            agent.arg("--target").arg(self.path(target)).args(["--transport", way, "--patience", "60", "--listen"]);
        let running = agent.arg(format!("127.0.0.1:{port}")).start(&self.path(log)).expect("started");
        let waits = || Ok(fs::read_to_string(self.path(log))?.contains("waiting for an image").then_some(()));
        wait_for("the receiver", Duration::from_secs(20), waits).expect("it listens");
        (running, port)
    }

    fn ship(&self, image: &str, host: &str, port: u16, way: &str) -> Done {
        let (image, to) = (self.path(image).display().to_string(), format!("to=127.0.0.1:{port}"));
        self.rocks(&["-o", "json", "ship", "image", &image, &format!("host={host}"), &to, &format!("transport={way}")])
    }

    fn same(&self, one: &str, two: &str) -> bool {
        fs::read(self.path(one)).expect("read") == fs::read(self.path(two)).expect("read")
    }

    fn ended(&self, running: &mut Running, log: &str) -> i32 {
        let ended = wait_for("the receiver's end", Duration::from_secs(30), || Ok(running.ended()));
        let status =
            ended.unwrap_or_else(|e| panic!("{e:#}\n{}", fs::read_to_string(self.path(log)).unwrap_or_default()));
        status.code().unwrap_or(-1)
    }
}

fn sent(done: &Done) -> u64 {
    let json: serde_json::Value = serde_json::from_str(&done.stdout).unwrap_or_else(|_| panic!("{}", done.both()));
    json["sent"].as_u64().expect("a number")
}

#[test]
fn an_image_is_shipped_over_both_transports_and_only_what_changed_travels_again() {
    let Some(site) = Site::new() else { return };
    image(&site.path("image"), 1);
    for way in ["udt", "tcp"] {
        let target = format!("target-{way}");
        let (mut receiver, port) = site.receive("receiver-0-0", &target, way, way);
        let done = site.ship("image", "receiver-0-0", port, way);
        assert_eq!(done.code(), 0, "{}\n{}", done.both(), fs::read_to_string(site.path(way)).unwrap_or_default());
        assert_eq!(sent(&done), 12 * 16);
        assert_eq!(site.ended(&mut receiver, way), 0);
        assert!(site.same("image", &target));
    }
    fs::File::options()
        .write(true)
        .open(site.path("image"))
        .expect("opened")
        .write_all_at(b"new", 4 << 20)
        .expect("written");
    let (mut receiver, port) = site.receive("receiver-0-0", "target-udt", "udt", "again");
    assert_eq!(sent(&site.ship("image", "receiver-0-0", port, "udt")), 1);
    assert_eq!(site.ended(&mut receiver, "again"), 0);
    assert!(site.same("image", "target-udt"));
}

#[test]
fn a_killed_receiver_goes_on_and_strangers_and_garbage_get_nothing() {
    let Some(site) = Site::new() else { return };
    image(&site.path("image"), 2);
    // Garbage on the port does not keep the frontend out.
    let (mut receiver, port) = site.receive("receiver-0-0", "target", "udt", "first");
    let noise = UdpSocket::bind("127.0.0.1:0").expect("bound");
    for length in [0, 1, 15, 16, 64, 1400] {
        noise.send_to(&vec![0x5a; length], ("127.0.0.1", port)).expect("sent");
    }
    // The wrong host: it is told from its certificate, and gets nothing.
    let wrong = site.ship("image", "receiver-0-1", port, "udt");
    assert!(wrong.code() == 1 && wrong.stderr.contains("`receiver-0-0`, not `receiver-0-1`"), "{}", wrong.both());
    assert_eq!(fs::metadata(site.path("target")).expect("it is there").len(), 0);

    // Killed in the middle; another one at the same place takes the rest.
    let slow = site.path("image").display().to_string();
    let to = format!("to=127.0.0.1:{port}");
    let (socket, binary) = (site.path("frontend/run/admin.sock"), site.binaries.join("rocks"));
    let ship =
        cmd(binary).arg("--socket").arg(socket).args(["-o", "json", "ship", "image", &slow, "host=receiver-0-0"]);
    let mut shipping = ship.args([&to, "rate=40000000"]).start(&site.path("shipping")).expect("started");
    let begun = || Ok(site.has_data("target").then_some(()));
    wait_for("the first blocks", Duration::from_secs(20), begun).expect("something arrives");
    receiver.kill();
    let agent = cmd(site.binaries.join("rocks-agent")).arg("--state-dir").arg(site.path("receiver-0-0")).arg("receive");
    let agent = agent.arg("--target").arg(site.path("target")).args(["--patience", "60", "--listen"]);
    let mut second = agent.arg(format!("127.0.0.1:{port}")).start(&site.path("second")).expect("started");
    assert_eq!(site.ended(&mut second, "second"), 0, "{}", fs::read_to_string(site.path("second")).unwrap_or_default());
    let code = wait_for("the shipment", Duration::from_secs(30), || Ok(shipping.ended())).expect("it ends").code();
    let text = fs::read_to_string(site.path("shipping")).expect("read");
    assert_eq!(code, Some(0), "{text}");
    let json: serde_json::Value = serde_json::from_str(&text[text.find('{').expect("json")..]).expect("json");
    assert!(json["sent"].as_u64().is_some_and(|sent| sent < 12 * 16), "nothing of what arrived was used: {text}");
    assert!(site.same("image", "target"));
}

impl Site {
    fn has_data(&self, name: &str) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(self.path(name)).is_ok_and(|meta| meta.blocks() > 2048)
    }
}
