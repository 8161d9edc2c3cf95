//! The main job, with the real binaries: rolls become a kickstart, and a running lite appliance reconfigures itself.

use std::time::Duration;

use rocks_tests::process::cmd;
use rocks_tests::turns::{PATIENCE, change, converged, good, steps};
use rocks_tests::world::{World, missing};
use serde_json::Value;

/// The RPM files below a folder, in order.
fn rpms(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![folder.to_path_buf()];
    while let Some(folder) = todo.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rpm") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_lite_appliance_becomes_what_its_kickstart_says_and_nothing_is_done_twice() {
    if let Some(why) = missing() {
        println!("skipped: {why}");
        return;
    }
    let mut world = World::new(&mut |what| println!("{what}")).unwrap_or_else(|error| panic!("{error:#}"));
    let mut instance = world.instance("lite-0-0", "lite").expect("an instance");
    instance.boot().expect("it boots");

    // From nothing: it enrols, installs what is missing and configures itself.
    let report = converged(&world, &instance);
    assert!(report["diff"].is_string(), "{report}");
    assert!(instance.read("/etc/motd").expect("motd").contains("configured by Rocks"));
    assert_eq!(instance.read("/etc/hostname").expect("hostname"), "lite-0-0\n");
    assert!(!instance.path("/etc/rocks-agent/join.toml").exists(), "the token is still there");
    let status = instance.exec(&["rocks-agent", "status"]).expect("status");
    assert_eq!(status.code(), 0, "{}", status.both());

    // Update-only: attributes change, no package does.
    change(&world, "lite-0-0", &["set", "appliance", "attr", "lite", "motd", "hello from the frontend"]);
    let report = converged(&world, &instance);
    assert_eq!(steps(&report), ["done: run base/nodes/motd.xml post.1"]);
    assert_eq!(instance.read("/etc/motd").expect("motd"), "hello from the frontend\n");

    // Install-new: Java and Vim from our mirror, then their configuration.
    world.rocks(&["set", "appliance", "attr", "lite", "vim_tabstop", "8"]).expect("set");
    change(&world, "lite-0-0", &["set", "host", "attr", "lite-0-0", "java", "yes"]);
    change(&world, "lite-0-0", &["set", "host", "attr", "lite-0-0", "vim", "yes"]);
    let _ = converged(&world, &instance);
    assert!(instance.read("/etc/vimrc.local").expect("vimrc").contains("tabstop=8"));
    assert!(instance.path("/etc/profile.d/java.sh").exists());
    for package in ["vim-enhanced", "java-17-openjdk-headless"] {
        let query = instance.exec(&["rpm", "-q", "--whatprovides", package]).expect("rpm");
        assert_eq!(query.code(), 0, "{}", query.both());
    }

    // rpm's own opinion of what the mirror publishes: signatures and digests are good, and a damaged file's are not.
    let keys = instance.path("/var/lib/rpm");
    let opinion = |file: &std::path::Path| cmd("rpmkeys").arg("--dbpath").arg(&keys).arg("-K").arg(file).output();
    let published = rpms(&world.state().join("mirror/rocks-dist"));
    assert!(published.len() > 200, "{} packages", published.len());
    for file in published.iter().step_by(20) {
        let said = opinion(file).expect("rpmkeys");
        assert!(said.code() == 0 && said.stdout.contains("signatures OK"), "{}", said.both());
    }
    let mut bytes = std::fs::read(&published[0]).expect("read");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let damaged = tempfile::tempdir().expect("a folder");
    let file = damaged.path().join("damaged.rpm");
    std::fs::write(&file, bytes).expect("written");
    assert_ne!(opinion(&file).expect("rpmkeys").code(), 0);

    // A lite appliance becomes a compute appliance.
    change(&world, "lite-0-0", &["set", "host", "appliance", "lite-0-0", "compute"]);
    let _ = converged(&world, &instance);
    assert!(instance.path("/etc/security/limits.d/90-hpc.conf").exists());
    assert_eq!(instance.exec(&["rpm", "-q", "rsync"]).expect("rpm").code(), 0);

    // Restarted, nothing is done twice; nor when the frontend was killed meanwhile.
    let before = world.report("lite-0-0").expect("a report").expect("a report");
    instance.shut_down().expect("it shuts down");
    let generation = world.generation("lite-0-0").expect("a generation");
    world.kill_frontend();
    world.start_frontend().expect("it starts again");
    assert_eq!(world.generation("lite-0-0").expect("a generation"), generation, "a restart is no news");
    instance.boot().expect("it boots again");
    let report = world.wait_report("lite-0-0", PATIENCE, |r| good(r) && r["id"] != before["id"]);
    let report = report.unwrap_or_else(|error| panic!("{error:#}\n{}", instance.agent_log()));
    assert_eq!(steps(&report), Vec::<String>::new());
}

#[test]
fn kills_cut_links_and_failing_scripts_lose_nothing() {
    if let Some(why) = missing() {
        println!("skipped: {why}");
        return;
    }
    let mut world = World::new(&mut |what| println!("{what}")).unwrap_or_else(|error| panic!("{error:#}"));
    let mut instance = world.instance("lite-0-1", "lite").expect("an instance");
    let roll = tempfile::tempdir().expect("a folder");
    let put = |path: &str, text: &str| {
        let path = roll.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
    };
    let node = |body: &str| {
        format!("<kickstart>\n<post>\necho once &gt;&gt; /root/first\n</post>\n<post>\n{body}\n</post>\n</kickstart>\n")
    };
    put(
        "graphs/default/t.xml",
        "<graph roll=\"t\"><edge from=\"lite\"><to>t</to></edge><order head=\"TAIL\"><tail>t</tail></order></graph>\n",
    );
    put("nodes/t.xml", &node("echo begun &gt;&gt; /root/second; sleep 8; echo ended &gt;&gt; /root/second"));
    let path = roll.path().display().to_string();
    world.rocks(&["add", "roll", &path, "name=t"]).expect("added");
    instance.boot().expect("it boots");

    // Killed while a script runs: what was done stays done, the script is reported as interrupted and run again from its start.
    let count = |path: &str, word: &str| {
        instance.read(path).map_or(0, |text| text.lines().filter(|line| *line == word).count())
    };
    let begun = || Ok((count("/root/second", "begun") > 0).then_some(()));
    rocks_tests::process::wait_for("the script", PATIENCE, begun)
        .unwrap_or_else(|e| panic!("{e:#}\n{}", instance.agent_log()));
    instance.kill_agent().expect("killed");
    let report = world.wait_report("lite-0-1", PATIENCE, |r| steps(r).iter().any(|s| s.starts_with("interrupted")));
    let report = report.unwrap_or_else(|error| panic!("{error:#}\n{}", instance.agent_log()));
    assert!(good(&report), "{report}");
    assert_eq!(count("/root/first", "once"), 1);
    assert!(count("/root/second", "ended") >= 1 && count("/root/second", "begun") == 2);

    // A failing script: a finding, and what else changed is done.
    put("nodes/t.xml", &node("echo no; exit 3"));
    world.rocks(&["sync", "config"]).expect("synchronised");
    let failed = world.wait_report("lite-0-1", PATIENCE, |r| r["outcome"] == "incomplete");
    let failed = failed.unwrap_or_else(|error| panic!("{error:#}\n{}", instance.agent_log()));
    assert!(failed["findings"].as_array().is_some_and(|f| f.iter().any(|f| f["code"] == "script-failed")), "{failed}");
    assert_eq!(instance.exec(&["rocks-agent", "status"]).expect("status").code(), 3);

    // A roll with an error is not served; the last good one is.
    put("nodes/t.xml", "<kickstart><post>&nope;</post></kickstart>\n");
    let refused = world.rocks(&["sync", "config"]).expect_err("it is refused").to_string();
    assert!(refused.contains("undefined-entity"), "{refused}");

    // The link is cut while the frontend moves on: mended, the agent catches up by itself.
    instance.network(false).expect("cut");
    put("nodes/t.xml", &node("echo fine > /root/third".replace('>', "&gt;").as_str()));
    world.rocks(&["sync", "config"]).expect("synchronised");
    std::thread::sleep(Duration::from_secs(2));
    assert!(!instance.path("/root/third").exists());
    instance.network(true).expect("mended");
    let _ = converged(&world, &instance);
    assert_eq!(instance.read("/root/third").expect("third"), "fine\n");
    assert_eq!(count("/root/first", "once"), 1);

    // The disk with the agent's state is full: a finding, everything as before; and it goes on by itself when there is room.
    let run = |script: &str| {
        let done = instance.exec(&["sh", "-ec", script]).expect("a shell");
        assert_eq!(done.code(), 0, "{script}: {}", done.both());
    };
    run("systemctl stop rocks-agent; cp -a /var/lib/rocks-agent /run/kept; \
         mount -t tmpfs -o size=4m,mode=0700 tmpfs /var/lib/rocks-agent; cp -a /run/kept/. /var/lib/rocks-agent; \
         dd if=/dev/zero of=/var/lib/rocks-agent/fill bs=4k 2>/dev/null || :; systemctl start rocks-agent");
    change(&world, "lite-0-1", &["set", "attr", "motd", "after the flood"]);
    let full = |r: &Value| r["findings"].as_array().is_some_and(|f| f.iter().any(|f| f["code"] == "disk-full"));
    world.wait_report("lite-0-1", PATIENCE, full).unwrap_or_else(|e| panic!("{e:#}\n{}", instance.agent_log()));
    assert!(!instance.exec(&["cat", "/etc/motd"]).expect("motd").stdout.contains("flood"));
    run("rm /var/lib/rocks-agent/fill");
    let _ = converged(&world, &instance);
    assert_eq!(instance.read("/etc/motd").expect("motd"), "after the flood\n");
    assert_eq!(count("/root/first", "once"), 1);
}
