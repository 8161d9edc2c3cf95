//! Whatever goes wrong, with the real binaries: nothing completed is run again, nothing interrupted is forgotten, what cannot be done is said
//! clearly, and when it is mended the instance converges by itself or with the next turn.
#![expect(clippy::print_stdout, reason = "what takes its time is told, and a seed must be seen")]

use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use rocks_tests::faults::{Chance, Node, Roll, Tiny};
use rocks_tests::hostile::{Hostile, Lie};
use rocks_tests::process::wait_for;
use rocks_tests::turns::{PATIENCE, converged, finding, good, steps};
use rocks_tests::world::{Instance, World, binaries, missing};
use serde_json::Value;

/// A frontend, and an instance that has converged once and whose agent now waits for the test to begin each turn.
fn ready(name: &str, tiny: &[Tiny]) -> Option<(World, Instance, Roll)> {
    if let Some(why) = missing() {
        println!("skipped: {why}");
        return None;
    }
    let make = || {
        let mut world = World::new(&mut |what| println!("{what}"))?;
        world.publish(tiny)?;
        let roll = Roll::add(&world)?;
        let mut instance = world.instance(name, "lite")?;
        instance.boot()?;
        anyhow::Ok((world, instance, roll))
    };
    let (world, instance, roll) = make().unwrap_or_else(|error| panic!("{error:#}"));
    let _ = converged(&world, &instance);
    instance.shell("systemctl stop rocks-agent").expect("stopped");
    Some((world, instance, roll))
}

#[track_caller]
fn turn(instance: &Instance) -> Value {
    instance.converge().unwrap_or_else(|error| panic!("{error:#}\n{}", instance.agent_log()))
}

#[track_caller]
fn turn_well(instance: &Instance) -> Value {
    let report = turn(instance);
    assert!(good(&report), "{report:#}");
    report
}

/// The script of a round: it says when it begins and when it ends, and when another of its kind is still running.
fn script(file: &str, round: usize, pause: &str) -> String {
    format!(
        "exec 9>/run/fault-{file}.lock\nflock -n 9 || echo {file} {round} >>/root/overlap\n\
         echo begun {round} >>/root/{file}\nsleep {pause}\necho ended {round} >>/root/{file}"
    )
}

fn round_node(round: usize, pause: &str) -> Node {
    Node {
        packages: vec!["fault-a".into()],
        lang: Some(if round.is_multiple_of(2) { "en_US.UTF-8" } else { "C.UTF-8" }.into()),
        scripts: vec![("", script("first", round, pause)), ("", script("second", round, pause))],
    }
}

fn lang(instance: &Instance) -> String {
    instance.read("/etc/locale.conf").expect("locale.conf").trim().to_owned()
}

#[test]
fn killed_at_every_boundary_or_at_random_it_goes_on_where_it_was() {
    let Some((world, instance, roll)) = ready("lite-1-0", &[Tiny::new("fault-a")]) else { return };
    let failing = binaries().expect("built").join("rocks-agent-failing");
    std::fs::copy(failing, instance.path("/usr/bin/rocks-agent-failing")).expect("copied");
    let kill_at = |place: &str| {
        let fail = format!("ROCKS_AGENT_FAIL={place}");
        let killed = instance.exec(&["env", &fail, "rocks-agent-failing", "converge"]).expect("it runs");
        assert_eq!(killed.status.signal(), Some(9), "{place}: {}", killed.both());
    };
    let begun = Instant::now();
    let kinds = ["install fault-a", "lang", "first", "second"];
    let mut round = 0;
    for place in ["before", "begun", "done", "ended"] {
        for (number, kind) in kinds.iter().enumerate() {
            round += 1;
            let at = format!("{place}:{number}, {kind}");
            roll.say(&world, "lite-1-0", &round_node(round, "0"));
            let plan = instance.exec(&["rocks-agent", "-o", "json", "plan"]).expect("it plans");
            let plan: Value = serde_json::from_str(&plan.stdout).expect("JSON");
            let all = plan["plan"]["steps"].as_array().map_or(0, Vec::len);
            assert_eq!(all, kinds.len(), "{plan:#}");

            kill_at(&format!("{place}:{number}"));
            let report = turn_well(&instance);
            let states = steps(&report);
            let interrupted = states.iter().filter(|step| step.starts_with("interrupted: ")).count();
            let was_open = matches!(place, "begun" | "done");
            assert_eq!(interrupted, usize::from(was_open), "{at}: {states:?}");
            assert!(!was_open || states[0].starts_with("interrupted: "), "{at}: {states:?}");
            // What an interrupted transaction has brought in is there and needs no second one.
            let completed = number + usize::from(place == "ended" || (place, number) == ("done", 0));
            let done = states.iter().filter(|step| step.starts_with("done: ")).count();
            assert_eq!(done, all - completed, "{at}: {states:?}");
            for (index, file) in [(2, "first"), (3, "second")] {
                let times = 1 + usize::from(place == "done" && number == index);
                assert_eq!(instance.count(&format!("/root/{file}"), &format!("begun {round}")), times, "{at}: {file}");
                assert_eq!(instance.count(&format!("/root/{file}"), &format!("ended {round}")), times, "{at}: {file}");
            }
            assert_eq!(instance.count("/root/installed", "fault-a"), round, "{at}");
            assert_eq!(format!("LANG={}", round_node(round, "0").lang.expect("set")), lang(&instance), "{at}");
            let id = &report["id"];
            world.wait_report("lite-1-0", PATIENCE, |r| r["id"] == *id).unwrap_or_else(|error| panic!("{error:#}"));
            assert_eq!(steps(&turn_well(&instance)), Vec::<String>::new(), "{at}");
            instance.shell("rpm -e fault-a").expect("removed");
        }
    }
    println!("{round} boundaries: {:.1} s", begun.elapsed().as_secs_f64());

    // Killed twice before a report could be made, both are told.
    round += 1;
    roll.say(&world, "lite-1-0", &round_node(round, "0"));
    kill_at("begun:2");
    kill_at("begun:0");
    let states = steps(&turn_well(&instance));
    assert_eq!(states.iter().filter(|step| step.starts_with("interrupted: ")).count(), 2, "{states:?}");
    assert_eq!(instance.count("/root/first", &format!("begun {round}")), 1);

    // What it installed it knows as its own, also when it was killed before it could say so.
    instance.shell("rpm -e fault-a").expect("removed");
    kill_at("done:0");
    turn_well(&instance);
    roll.say(&world, "lite-1-0", &Node { packages: Vec::new(), ..round_node(round, "0") });
    let plan = instance.exec(&["rocks-agent", "-o", "json", "plan"]).expect("it plans").stdout;
    assert!(plan.contains("remove fault-a"), "{plan}");

    let mut installed = instance.count("/root/installed", "fault-a");
    let mut chance = Chance::new(&mut |what| println!("{what}"));
    let mut longest = 3.0;
    let (mut kills, mut interruptions) = (0, 0);
    for random in 0..20 {
        round += 1;
        instance.shell("rpm -e fault-a 2>/dev/null || :").expect("removed");
        roll.say(&world, "lite-1-0", &round_node(round, "0.15"));
        let delay = chance.draw() * longest;
        let at = format!("round {random}, killed after {delay:.3} s");
        let clock = Instant::now();
        let ended = instance
            .shell(&format!(
                "rocks-agent converge >/run/turn 2>&1 & pid=$!; sleep {delay:.3}; kill -KILL $pid 2>/dev/null || :; \
                 wait $pid && echo $? || echo $?"
            ))
            .expect("a shell");
        let was_killed = ended.stdout.trim() == "137";
        kills += usize::from(was_killed);
        if !was_killed {
            // It was quicker than thought: from now on kill it earlier.
            longest = clock.elapsed().as_secs_f64().min(longest * 0.8);
        }
        let report = turn_well(&instance);
        let states = steps(&report);
        for file in ["first", "second"] {
            let title = format!("faults.xml post.{}", if file == "first" { 1 } else { 2 });
            let interrupted = states.iter().filter(|s| s.starts_with("interrupted: ") && s.ends_with(&title)).count();
            interruptions += interrupted;
            let times = |word: &str| instance.count(&format!("/root/{file}"), &format!("{word} {round}"));
            let (begun, ended) = (times("begun"), times("ended"));
            let fine = begun >= ended && ended >= 1 && begun <= 1 + interrupted;
            assert!(fine, "{at}: {file} begun {begun}, ended {ended}, {states:?}");
        }
        installed += 1;
        assert_eq!(instance.count("/root/installed", "fault-a"), installed, "{at}: {states:?}");
        assert_eq!(instance.shell("rpm -q fault-a").map(|done| done.code()).ok(), Some(0), "{at}");
        assert_eq!(steps(&turn_well(&instance)), Vec::<String>::new(), "{at}");
    }
    println!("{kills} of 20 killed, {interruptions} scripts interrupted; all: {:.1} s", begun.elapsed().as_secs_f64());
    assert!(kills >= 5, "only {kills} were killed while they worked");
    assert!(!instance.path("/root/overlap").exists(), "{}", instance.read("/root/overlap").unwrap_or_default());
}

#[test]
fn what_hangs_is_ended_and_what_is_missing_or_conflicts_is_told() {
    let names = ["fault-b", "fault-c", "fault-d", "fault-y"];
    let tiny: Vec<Tiny> =
        names.map(Tiny::new).into_iter().chain([Tiny { conflicts: Some("fault-y"), ..Tiny::new("fault-x") }]).collect();
    let Some((world, instance, roll)) = ready("lite-2-0", &tiny) else { return };
    let limit = instance.path("/etc/rocks-agent/config.d/20-fault.toml");
    std::fs::write(&limit, "script_limit_seconds = 2\n").expect("written");

    // Two scripts that hang and do not want to be ended, one with children in a session of its own; what waits for it is blocked.
    let hang = "trap '' TERM HUP\nsetsid sleep 4242 &\nsleep 4243";
    let mut node = Node {
        lang: Some("C.UTF-8".into()),
        scripts: vec![
            ("", "echo one >>/root/done".into()),
            ("", hang.into()),
            ("", "echo three >>/root/done".into()),
            ("--erroronfail", format!("{hang}\n# and all that follows waits")),
            ("", "echo five >>/root/done".into()),
        ],
        ..Node::default()
    };
    roll.say(&world, "lite-2-0", &node);
    let report = turn(&instance);
    assert_eq!(report["outcome"], "incomplete", "{report:#}");
    let states: Vec<String> =
        steps(&report).iter().map(|s| s.split(':').next().unwrap_or_default().to_owned()).collect();
    assert_eq!(states, ["done", "done", "timed_out", "done", "timed_out", "blocked"], "{report:#}");
    assert!(finding(&report, "script-timeout").is_some_and(|m| m.contains("longer than 2 seconds")), "{report:#}");
    assert_eq!(instance.read("/root/done").expect("done"), "one\nthree\n");
    for left in ["sleep 4242", "sleep 4243"] {
        assert_eq!(instance.exec(&["pgrep", "-fx", left]).expect("pgrep").code(), 1, "{left} is still running");
    }
    let status = instance.exec(&["rocks-agent", "status"]).expect("status");
    assert!(status.code() == 3 && status.stdout.contains("script-timeout"), "{}", status.both());
    node.scripts[1].1 = "echo two >>/root/done".into();
    node.scripts[3].1 = "echo four >>/root/done".into();
    roll.say(&world, "lite-2-0", &node);
    turn_well(&instance);
    assert_eq!(instance.read("/root/done").expect("done"), "one\nthree\ntwo\nfour\nfive\n");

    // The mirror is half there: repomd.xml names what is missing, cut short, or not what it says.
    let mut langs = ["en_US.UTF-8", "C.UTF-8"].into_iter().cycle();
    let mut broken = |package: &str, file: &str, how: &dyn Fn(&std::path::Path)| {
        let path = world.published(file).expect("published");
        let aside = path.with_extension("aside");
        std::fs::rename(&path, &aside).expect("moved");
        how(&path);
        let language = langs.next().expect("endless");
        let words = format!("echo {package} >>/root/after");
        let node =
            Node { packages: vec![package.into()], lang: Some(language.into()), scripts: vec![("", words.clone())] };
        roll.say(&world, "lite-2-0", &node);
        instance.shell("rm -rf /var/cache/dnf").expect("emptied");
        let before = instance.shell("rpm -qa | sort").expect("rpm").stdout;
        let report = turn(&instance);
        assert_eq!(report["outcome"], "incomplete", "{file}: {report:#}");
        let message = finding(&report, "mirror-incomplete").unwrap_or_else(|| panic!("{file}: {report:#}"));
        assert!(message.contains(file), "{file}: {message}");
        assert_eq!(instance.shell("rpm -qa | sort").expect("rpm").stdout, before, "{file}");
        assert_eq!(instance.count("/root/after", package), 0, "{file}: it did not wait for its package");
        assert_eq!(lang(&instance), format!("LANG={language}"), "{file}: what needs no package is done");
        let status = instance.exec(&["rocks-agent", "status"]).expect("status");
        assert!(status.code() == 3 && status.stdout.contains("mirror-incomplete"), "{file}: {}", status.both());
        std::fs::rename(&aside, &path).expect("moved back");
        turn_well(&instance);
        assert_eq!(
            (instance.count("/root/after", package), instance.count("/root/installed", package)),
            (1, 1),
            "{file}"
        );
    };
    broken("fault-b", "fault-b", &|_| {});
    broken("fault-c", "fault-c", &|path| {
        let whole = std::fs::read(path.with_extension("aside")).expect("read");
        std::fs::write(path, &whole[..whole.len() / 2]).expect("written");
    });
    broken("fault-d", "primary.xml", &|_| {});

    // Packages that cannot live together: both are named, nothing is installed, what does not need them is done.
    let both = Node {
        packages: vec!["fault-x".into(), "fault-y".into()],
        lang: langs_after(&lang(&instance)),
        scripts: vec![("", "echo conflict >>/root/after".into())],
    };
    roll.say(&world, "lite-2-0", &both);
    let before = instance.shell("rpm -qa | sort").expect("rpm").stdout;
    let report = turn(&instance);
    assert_eq!(report["outcome"], "incomplete", "{report:#}");
    let message = finding(&report, "package-conflict").unwrap_or_else(|| panic!("{report:#}"));
    assert!(message.contains("fault-x") && message.contains("fault-y"), "{message}");
    assert_eq!(instance.shell("rpm -qa | sort").expect("rpm").stdout, before);
    assert_eq!(instance.count("/root/after", "conflict"), 0);
    assert_eq!(Some(lang(&instance).replace("LANG=", "")), both.lang);
    roll.say(&world, "lite-2-0", &Node { packages: vec!["fault-x".into()], ..both });
    turn_well(&instance);
    assert_eq!(instance.count("/root/after", "conflict"), 1);
    assert_eq!(instance.count("/root/installed", "fault-y"), 0);
}

/// Another language than the one that is set.
fn langs_after(now: &str) -> Option<String> {
    Some(if now.ends_with("C.UTF-8") { "en_US.UTF-8" } else { "C.UTF-8" }.to_owned())
}

#[test]
fn a_kickstart_that_cannot_be_trusted_changes_nothing() {
    let Some((mut world, instance, roll)) = ready("lite-3-0", &[]) else { return };
    roll.say(&world, "lite-3-0", &Node { scripts: vec![("", "echo once >>/root/once".into())], ..Node::default() });
    instance.shell("systemctl start rocks-agent").expect("started");
    let _ = converged(&world, &instance);
    let machine = || {
        let files = ["/etc/locale.conf", "/var/lib/rocks-agent/desired.ks", "/var/lib/rocks-agent/applied.ks"];
        files.map(|path| instance.read(path).expect("it is there")).to_vec()
    };
    let before = machine();
    for (lie, code) in
        [(Lie::Forged, "bad-seal"), (Lie::Old, "older-generation"), (Lie::Broken, "kickstart-bad-quoting")]
    {
        world.kill_frontend();
        let (namespace, address) = world.listener();
        let hostile = Hostile::start(&namespace, &address, &world.state(), "lite-3-0", lie).expect("it listens");
        // The waiting request breaks off, and the agent asks again by itself.
        let refused = || {
            let status = instance.exec(&["rocks-agent", "status"])?;
            let told = status.stdout.contains(&format!("[{code}]")) && status.stdout.contains("state: refused");
            anyhow::ensure!(status.code() == 3 && told, "{}", status.both());
            Ok(Some(()))
        };
        wait_for("the refusal", Duration::from_secs(60), refused)
            .unwrap_or_else(|error| panic!("{lie:?}: {error:#}\n{}", instance.agent_log()));
        // It asks again after a while, not over and over.
        std::thread::sleep(Duration::from_secs(1));
        assert!((1..=4).contains(&hostile.lies()), "{lie:?}: asked {} times", hostile.lies());
        drop(hostile);
        assert!(!instance.path("/root/hostile").exists(), "{lie:?} was believed");
        assert_eq!(machine(), before, "{lie:?}");
        // Nobody could be told; now the frontend is.
        let waiting = instance.shell("cat /var/lib/rocks-agent/reports/*.json").expect("a report waits").stdout;
        assert!(waiting.contains(code) && waiting.contains("\"refused\""), "{waiting}");
        world.start_frontend().expect("it starts again");
        let spooled =
            || Ok((std::fs::read_dir(instance.path("/var/lib/rocks-agent/reports"))?.count() == 0).then_some(()));
        wait_for("the report's way", Duration::from_secs(60), spooled)
            .unwrap_or_else(|error| panic!("{lie:?}: {error:#}\n{}", instance.agent_log()));
        let well = || {
            let status = instance.exec(&["rocks-agent", "status"])?;
            Ok((status.code() == 0).then_some(()))
        };
        wait_for("all to be well again", Duration::from_secs(60), well)
            .unwrap_or_else(|error| panic!("{lie:?}: {error:#}\n{}", instance.agent_log()));
        let last = world.report("lite-3-0").expect("it answers").expect("a report");
        assert_eq!(last["outcome"], "unchanged", "{lie:?}: {last:#}");
        assert_eq!(machine(), before, "{lie:?}");
    }
    // What follows is followed: no generation of theirs was taken for ours.
    roll.say(&world, "lite-3-0", &Node { scripts: vec![("", "echo twice >>/root/once".into())], ..Node::default() });
    let _ = converged(&world, &instance);
    assert_eq!(instance.read("/root/once").expect("once"), "once\ntwice\n");
}

#[test]
fn without_systemd_it_works_and_leaves_no_orphans() {
    if let Some(why) = missing() {
        println!("skipped: {why}");
        return;
    }
    let mut world = World::new(&mut |what| println!("{what}")).unwrap_or_else(|error| panic!("{error:#}"));
    let slow = Tiny { name: "fault-s", post: "sleep 3\necho slow >>/root/slow", conflicts: None };
    world.publish(&[Tiny::new("fault-a"), slow]).expect("published");
    let roll = Roll::add(&world).expect("added");
    let mut instance = world.instance("lite-4-0", "lite").expect("an instance");
    roll.say(&world, "lite-4-0", &round_node(0, "0"));
    instance.start_plain().expect("it starts");
    turn_well(&instance);
    assert_eq!(instance.read("/etc/hostname").expect("hostname"), "lite-4-0\n");
    assert_eq!((instance.count("/root/first", "ended 0"), instance.count("/root/installed", "fault-a")), (1, 1));
    assert_eq!(steps(&turn_well(&instance)), Vec::<String>::new());

    // Runs a turn until `path` is there, and kills the agent alone.
    let kill_when = |path: &str| {
        instance.shell("rocks-agent converge >/run/turn 2>&1 & echo $! >/run/agent.pid").expect("begun");
        wait_for(path, PATIENCE, || Ok(instance.path(path).exists().then_some(())))
            .unwrap_or_else(|error| panic!("{error:#}\n{:?}", instance.exec(&["cat", "/run/turn"])));
        instance.shell("kill -KILL $(cat /run/agent.pid)").expect("killed");
        wait_for("the agent's end", PATIENCE, || {
            let there = instance.exec(&["sh", "-c", "kill -0 $(cat /run/agent.pid)"])?;
            Ok((there.code() != 0).then_some(()))
        })
        .expect("it ends");
    };

    // The script lives on without its agent, with a child in a session of its own; before it is run again it is ended.
    let body = format!("{}\n", script("orphan", 1, "4").replace("sleep", "setsid sleep 4244 &\nsleep"));
    let orphan = Node { scripts: vec![("", body)], ..round_node(0, "0") };
    roll.say(&world, "lite-4-0", &orphan);
    kill_when("/root/orphan");
    assert_eq!(instance.exec(&["pgrep", "-fxc", "sleep 4244"]).expect("pgrep").stdout.trim(), "1");
    let states = steps(&turn_well(&instance));
    assert_eq!(states.iter().filter(|step| step.starts_with("interrupted: ")).count(), 1, "{states:?}");
    assert_eq!((instance.count("/root/orphan", "begun 1"), instance.count("/root/orphan", "ended 1")), (2, 1));
    assert!(!instance.path("/root/overlap").exists(), "{}", instance.read("/root/overlap").unwrap_or_default());
    // The one of the first run is gone; that of the second is what the script wanted.
    assert_eq!(instance.exec(&["pgrep", "-fxc", "sleep 4244"]).expect("pgrep").stdout.trim(), "1");

    // The package manager lives on as well; it is waited for, and what it brought in is the agent's.
    std::fs::remove_file(instance.path("/root/installed")).expect("removed");
    instance.shell("rpm -e fault-a").expect("removed");
    roll.say(&world, "lite-4-0", &Node { packages: vec!["fault-a".into(), "fault-s".into()], ..orphan.clone() });
    kill_when("/root/installed");
    assert!(!instance.path("/root/slow").exists(), "it was over too soon");
    let states = steps(&turn_well(&instance));
    assert_eq!(states.len(), 1, "{states:?}");
    assert!(states[0].starts_with("interrupted: ") && states[0].contains("fault-s"), "{states:?}");
    assert_eq!((instance.count("/root/slow", "slow"), instance.count("/root/installed", "fault-s")), (1, 1));
    roll.say(&world, "lite-4-0", &orphan);
    let plan = instance.exec(&["rocks-agent", "-o", "json", "plan"]).expect("it plans").stdout;
    assert!(plan.contains("remove fault-s"), "{plan}");

    // A script that takes too long is ended with all that it started.
    std::fs::write(instance.path("/etc/rocks-agent/config.d/20-fault.toml"), "script_limit_seconds = 1\n")
        .expect("written");
    let hang = Node { scripts: vec![("", "setsid sleep 4245 &\nsleep 4246".into())], ..round_node(0, "0") };
    roll.say(&world, "lite-4-0", &hang);
    let report = turn(&instance);
    assert!(finding(&report, "script-timeout").is_some(), "{report:#}");
    assert_eq!(instance.exec(&["pgrep", "-fx", "sleep 424[56]"]).expect("pgrep").code(), 1);
}

#[test]
fn only_the_failing_agent_can_be_told_to_die() {
    let says = |program: &str| {
        let bytes = std::fs::read(binaries().expect("built").join(program)).expect("read");
        let wanted = b"ROCKS_AGENT_FAIL";
        bytes.windows(wanted.len()).any(|window| window == wanted)
    };
    assert!(says("rocks-agent-failing") && !says("rocks-agent"));
}
