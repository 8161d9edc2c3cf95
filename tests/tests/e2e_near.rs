//! Packages from near by, with the real binaries: a relay beside real instances, many askers, a liar, and a death.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rocks_tests::process::wait_for;
use rocks_tests::turns::{change, converged, finding};
use rocks_tests::world::{Instance, World, missing};

/// The bytes of packages that left the frontend.
fn left(world: &World) -> u64 {
    world.metric("rocks_mirror_bytes_total").expect("a counter")
}

/// What a relay keeps.
fn kept(folder: &Path) -> Vec<(PathBuf, u64)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?.len()))).collect()
}

fn has_java(instance: &Instance) {
    let query = instance.exec(&["rpm", "-q", "--whatprovides", "java-17-openjdk-headless"]).expect("rpm");
    assert_eq!(query.code(), 0, "{}", query.both());
}

#[test]
fn packages_leave_the_frontend_once_and_a_lying_or_dead_relay_does_no_harm() {
    if let Some(why) = missing() {
        return println!("skipped: {why}");
    }
    let began = Instant::now();
    let say = |what: &str| println!("[{:5.1}] {what}", began.elapsed().as_secs_f64());
    let mut world = World::new(&mut |what| say(what)).unwrap_or_else(|error| panic!("{error:#}"));
    let mut relay = world.instance("relay-0-0", "lite").expect("an instance");
    let mut hosts: Vec<Instance> =
        (0..3).map(|n| world.instance(&format!("lite-0-{n}"), "lite").expect("an instance")).collect();
    world.rocks(&["set", "host", "attr", "relay-0-0", "ec2_relay", "yes"]).expect("set");
    world.rocks(&["set", "attr", "package_relay", &format!("relay-0-0@{}", relay.address())]).expect("set");
    relay.boot().expect("it boots");
    let _ = converged(&world, &relay);
    for host in &mut hosts {
        host.boot().expect("it boots");
        let _ = converged(&world, host);
    }
    let unit =
        relay.exec(&["systemctl", "show", "rocks-agent-relay", "-p", "ActiveState,User,MainPID"]).expect("asked");
    assert!(
        unit.stdout.contains("ActiveState=active"),
        "{}\n{}",
        unit.both(),
        relay.shell("journalctl -u rocks-agent-relay -n 40").expect("log").both()
    );
    let owner = relay.shell("stat -c %U /proc/$(systemctl show -P MainPID rocks-agent-relay)").expect("asked").stdout;
    assert_ne!(owner.trim(), "root");
    say("all are there");

    // Two at once: what they fetch leaves the frontend once.
    let before = left(&world);
    for name in ["lite-0-0", "lite-0-1"] {
        change(&world, name, &["set", "host", "attr", name, "java", "yes"]);
    }
    for host in &hosts[..2] {
        let report = converged(&world, host);
        assert_eq!(finding(&report, "near-source"), None, "{}", host.agent_log());
        has_java(host);
    }
    let cache = relay.path("/var/cache/private/rocks-agent-relay/files");
    let bytes: u64 = kept(&cache).iter().map(|(_, size)| size).sum();
    let once = left(&world) - before;
    say(&format!("two instances: {once} bytes left the frontend, the relay keeps {bytes}"));
    assert!(
        bytes > 1 << 20 && once <= bytes,
        "{once} bytes left the frontend, the relay keeps {bytes}\n{}",
        hosts[0].agent_log()
    );

    // The relay lies: its files were changed behind its back. That is found, and the frontend has the right ones.
    for (file, size) in kept(&cache) {
        let file = fs::File::options().write(true).open(&file).expect("opened");
        file.write_all_at(b"lies", size / 2).expect("written");
    }
    change(&world, "lite-0-2", &["set", "host", "attr", "lite-0-2", "java", "yes"]);
    let report = converged(&world, &hosts[2]);
    has_java(&hosts[2]);
    let told = finding(&report, "near-source").unwrap_or_else(|| panic!("{report}\n{}", hosts[2].agent_log()));
    assert!(told.contains("wrong bytes"), "{told}");
    say("the liar was found");

    // It starts again, and looks at what it has before it gives it.
    relay.shell("systemctl restart rocks-agent-relay").expect("restarted");
    // It hangs, and dies: an instance does not.
    let pid = relay.shell("systemctl show -P MainPID rocks-agent-relay").expect("asked").stdout;
    relay.shell(&format!("kill -STOP {}", pid.trim())).expect("stopped");
    let began = Instant::now();
    change(&world, "lite-0-0", &["set", "host", "attr", "lite-0-0", "vim", "yes"]);
    let coming = || Ok(hosts[0].path("/var/lib/rocks-agent/near/repos.d/rocks.repo").exists().then_some(()));
    wait_for("the gateway", Duration::from_secs(60), coming)
        .unwrap_or_else(|e| panic!("{e:#}\n{}", hosts[0].agent_log()));
    relay.shell(&format!("kill -KILL {}", pid.trim())).expect("killed");
    let report = converged(&world, &hosts[0]);
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}: {report}", began.elapsed());
    assert!(
        hosts[0].exec(&["rpm", "-q", "--whatprovides", "vim-enhanced"]).expect("rpm").code() == 0,
        "{}",
        hosts[0].agent_log()
    );
    // It is back by itself, and what was damaged is gone.
    let back =
        || Ok(relay.exec(&["systemctl", "is-active", "rocks-agent-relay"])?.stdout.starts_with("active").then_some(()));
    wait_for("the relay", Duration::from_secs(20), back).expect("it is back");
    let before = left(&world);
    change(&world, "lite-0-1", &["set", "host", "attr", "lite-0-1", "vim", "yes"]);
    let report = converged(&world, &hosts[1]);
    assert_eq!(finding(&report, "near-source"), None, "{report}");
    let first = left(&world) - before;
    change(&world, "lite-0-2", &["set", "host", "attr", "lite-0-2", "vim", "yes"]);
    let _ = converged(&world, &hosts[2]);
    say(&format!("vim: {first} bytes left the frontend, then {}", left(&world) - before - first));
    assert_eq!(left(&world) - before, first, "it left the frontend again");
    for host in &hosts {
        assert!(!host.path("/var/lib/rocks-agent/near/repos.d").exists(), "the gateway is closed");
    }
}
