//! From an appliance to running instances, on a local EC2 that really runs what it launches: each method, a reconfiguration, a frontend that is
//! killed in the middle, and nothing left behind.
#![expect(clippy::print_stdout, reason = "a test that is left out says why")]

use std::time::{Duration, Instant};

use rocks_minicloud::config::Config;
use rocks_minicloud::{Minicloud, Options};
use rocks_tests::beside;
use rocks_tests::process::wait_for;
use rocks_tests::world::World;
use serde_json::{Value, json};

fn rocks(world: &World, words: &[&str]) -> String {
    world.rocks(words).unwrap_or_else(|error| panic!("{error:#}\n{}", world.frontend_log()))
}

/// Provisions and gives the record.
fn provision(world: &World, words: &[&str]) -> Value {
    let (record, took) = beside::provision(world, words).unwrap_or_else(|error| panic!("{error:#}"));
    println!("{}: {:.1} s", words.join(" "), took.as_secs_f64());
    record
}

fn leaks(world: &World) -> Value {
    serde_json::from_str(&rocks(world, &["-o", "json", "list", "leak"])).expect("json")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

/// A change whose script fails: the other instance never hears of it, and the canary goes back.
fn a_bad_change_stops_at_its_canary(world: &World) {
    let clock = Instant::now();
    let roll = tempfile::tempdir().expect("a folder");
    for (path, text) in [
        ("graphs/default/bad.xml", "<graph><edge from=\"compute\" cond=\"bad\"><to>bad</to></edge></graph>"),
        ("nodes/bad.xml", "<kickstart><post>exit 3</post></kickstart>"),
    ] {
        let path = roll.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
    }
    rocks(world, &["add", "roll", &roll.path().display().to_string(), "name=bad"]);
    rocks(world, &["set", "appliance", "rollout", "compute", "waves=1", "soak=0", "timeout=60s"]);
    rocks(world, &["sync", "config"]);
    let before = world.generation("compute-0-1").expect("a generation");
    rocks(world, &["set", "appliance", "attr", "compute", "bad", "yes"]);
    rocks(world, &["sync", "config"]);
    let stopped = || {
        let all: Value = serde_json::from_str(&world.rocks(&["-o", "json", "list", "rollout", "compute-1"])?)?;
        Ok((all["items"][0]["status"] == "stopped").then_some(()))
    };
    wait_for("the rollout to stop", Duration::from_secs(60), stopped)
        .unwrap_or_else(|error| panic!("{error:#}\n{}", world.frontend_log()));
    assert_eq!(world.generation("compute-0-1").expect("a generation"), before);
    rocks(world, &["wait", "host", "compute-0-1", "state=held", "timeout=10"]);
    rocks(world, &["back", "rollout", "compute-1"]);
    rocks(world, &["wait", "host", "compute", "timeout=60"]);
    assert_eq!(world.generation("compute-0-1").expect("a generation"), before);
    // Mended, nobody has a way to go.
    rocks(world, &["remove", "appliance", "attr", "compute", "bad"]);
    rocks(world, &["remove", "appliance", "rollout", "compute"]);
    rocks(world, &["remove", "roll", "bad", "--yes"]);
    rocks(world, &["sync", "config"]);
    rocks(world, &["wait", "host", "compute", "timeout=60"]);
    println!("a rollout that stops, and back: {:.1} s", clock.elapsed().as_secs_f64());
}

#[test]
fn each_method_ends_with_converged_instances_and_nothing_is_left_when_they_go() {
    if let Some(why) = beside::lacks() {
        return println!("skipped: {why}");
    }
    let cloud = Minicloud::start(Options { boot: true, ..beside::least(Config::default()) })
        .unwrap_or_else(|e| panic!("{e:#}"));
    let certificate = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(certificate.path(), cloud.identity_certificate()).expect("written");
    let certificates = format!("{}={}", cloud.config().region, certificate.path().display());
    let more =
        [("ROCKS_SERVER_AWS_IDENTITY_CERTIFICATES", &*certificates), ("ROCKS_SERVER_AWS_IDENTITY_CHECK", "true")];
    let mut world =
        beside::beside(&cloud, &more, &mut |what| println!("{what}")).unwrap_or_else(|error| panic!("{error:#}"));
    rocks(&world, &["set", "appliance", "attr", "lite", "ec2_enable", "yes"]);
    rocks(&world, &["set", "appliance", "attr", "compute", "ec2_enable", "yes"]);
    let plan = rocks(&world, &["provision", "lite", "method=udt", "receiver=ami-0123456789abcdef0", "plan=yes"]);
    assert!(plan.contains("open udp port 8444 to 10.77.0.1 alone") && plan.contains("after attach, build"), "{plan}");

    // Built here, and its blocks written into a snapshot: nothing was there before.
    let first = provision(&world, &["lite", "method=ebs", "count=1", "type=t3.small"]);
    let ami = text(&first["found"]["ami"]).to_owned();
    assert_eq!(first["instances"], "1/1");
    // What it took is known for the next time, and what is not known is said.
    let plan = rocks(&world, &["provision", "lite", "method=ebs", "plan=yes"]);
    assert!(
        plan.contains("put blocks") && plan.contains("(as measured here)") && plan.contains("predicted: "),
        "{plan}"
    );
    // The first converge does nothing but take the name.
    let report = world.report("lite-0-0").expect("asked").expect("there is one");
    assert!(report["steps"].as_array().is_some_and(|steps| steps.len() <= 1), "{report}");

    // That image has the agent: it can receive. The same image, over UDT, to a volume; and the frontend dies on the way.
    let receiver = format!("receiver={ami}");
    let words = ["provision", "lite", "method=udt", "count=1", "type=t3.small", "name=shipped", "wait=no", &receiver];
    rocks(&world, &words);
    let has_receiver = || {
        let all: Value = serde_json::from_str(&world.rocks(&["-o", "json", "list", "provision", "shipped"])?)?;
        Ok(all["items"][0]["found"]["receiver"].is_string().then_some(()))
    };
    wait_for("the receiver", Duration::from_secs(60), has_receiver)
        .unwrap_or_else(|error| panic!("{error:#}\n{}", world.frontend_log()));
    world.kill_frontend();
    world.start_frontend().unwrap_or_else(|error| panic!("{error:#}"));
    let done = || {
        let all: Value = serde_json::from_str(&world.rocks(&["-o", "json", "list", "provision", "shipped"])?)?;
        let record = all["items"][0].clone();
        Ok((record["status"] != "running").then_some(record))
    };
    let shipped = wait_for("the shipment", Duration::from_secs(240), done)
        .unwrap_or_else(|error| panic!("{error:#}\n{}", world.frontend_log()));
    assert_eq!(shipped["status"], "done", "{shipped}\n{}", world.frontend_log());
    assert_eq!(shipped["instances"], "1/1", "{shipped}");

    // Lite instances become others: each fetches what it lacks.
    let more =
        provision(&world, &["compute", "method=lite", "count=2", "type=t3.small", "spot=yes", &format!("ami={ami}")]);
    assert_eq!(more["instances"], "2/2");
    let state: Value =
        serde_json::from_str(&rocks(&world, &["-o", "json", "list", "host", "compute-0-1"])).expect("json");
    assert_eq!(state["items"][0]["state"], "converged");

    let way = rocks(&world, &["list", "provision", text(&more["name"])]);
    let lines: Vec<&str> = way.lines().filter(|line| line.starts_with("compute-0-")).collect();
    assert!(lines.len() == 2 && lines.iter().all(|line| line.ends_with("converged")), "{way}");
    a_bad_change_stops_at_its_canary(&world);

    // One is taken away: its host expires.
    let taken = json!({"instance": more["found"]["instances"]["compute-0-1"]["id"], "in_ms": 0});
    cloud.ask("POST", "interruptions", &taken).expect("taken away");
    let gone = || Ok((world.rocks(&["list", "host", "compute-0-1"]).is_err()).then_some(()));
    wait_for("the host to expire", Duration::from_secs(60), gone).unwrap_or_else(|error| panic!("{error:#}"));
    rocks(&world, &["list", "host", "compute-0-0"]);
    let now: Value =
        serde_json::from_str(&rocks(&world, &["-o", "json", "list", "provision", text(&more["name"])])).expect("json");
    assert_eq!(now["items"][0]["instances"], "1/1", "{now}");

    // Each was predicted, and what it took stands beside that; what compute instances lack is known from the mirror.
    let advice: Value =
        serde_json::from_str(&rocks(&world, &["-o", "json", "advise", "provision", "compute", "image-bytes=1GiB"]))
            .expect("json");
    let accuracy = advice["accuracy"].as_array().expect("a list");
    let methods: Vec<&str> = accuracy.iter().map(|one| text(&one["method"])).collect();
    assert_eq!(methods, ["udt", "lite"], "{advice:#}");
    assert!(advice["ask"]["added"]["packages"].as_u64() > Some(0), "{advice:#}");
    assert_eq!(advice["ask"]["lite"], Value::Null, "the lite image is in the cloud");
    for one in accuracy {
        println!("{} predicted {} took {} s", one["method"], one["predicted"], one["took"]);
    }

    four_and_sixteen_converge_and_are_reconfigured(&cloud, &world, &ami);
    instances_of_a_template_enrol_by_what_they_are(&cloud, &world, &ami);
    // Through S3, as the paper's standard method: the image that the others were made of, as a disk that is imported, and an instance of it.
    let bundled = provision(&world, &["lite", "method=bundle", "count=1", "type=t3.small", "name=bundled"]);
    assert_eq!((&bundled["instances"], &bundled["trouble"]), (&json!("1/1"), &Value::Null));
    assert!(bundled["found"]["sent_bytes"].as_u64() > Some(1 << 20) && bundled["found"]["ami"] != json!(ami));
    let buckets = cloud.ask("GET", "state", &Value::Null).expect("told")["buckets"].clone();
    assert_eq!((&buckets[0]["objects"], &buckets[0]["uploads"]), (&json!([]), &json!([])), "{buckets}");

    // Nothing is there that nobody owns; and when they go, everything of theirs goes.
    assert_eq!(leaks(&world)["items"], json!([]));
    cancel(&world, &[text(&more["name"]), "shipped", "bundled", text(&first["name"])]);
    assert_eq!(leaks(&world)["items"], json!([]));
    let bill = cloud.ask("GET", "state", &Value::Null).expect("told");
    println!("{bill}");
    let hosts: Value = serde_json::from_str(&rocks(&world, &["-o", "json", "list", "host"])).expect("json");
    assert_eq!(hosts["items"], json!([]), "hosts are left");
}

/// Ends provisions, all at once.
fn cancel(world: &World, names: &[&str]) {
    for name in names {
        rocks(world, &["cancel", "provision", name, "wait=no", "--yes"]);
    }
    let gone = || {
        let all: Value = serde_json::from_str(&world.rocks(&[&["-o", "json", "list", "provision"], names].concat())?)?;
        let all = all["items"].as_array().into_iter().flatten();
        Ok(all.into_iter().all(|one| one["status"] == "cancelled").then_some(()))
    };
    wait_for("the provisions to be ended", Duration::from_secs(240), gone)
        .unwrap_or_else(|error| panic!("{error:#}\n{}", world.frontend_log()));
}

/// Four that have a token each, sixteen that are launched by one call; then a change of a file alone, and one that brings a package.
fn four_and_sixteen_converge_and_are_reconfigured(cloud: &Minicloud, world: &World, ami: &str) {
    let launches = || {
        let bill = cloud.ask("GET", "bill", &Value::Null).expect("told");
        bill["requests"]["ec2:RunInstances"].as_u64().unwrap_or(0)
    };
    let image = format!("ami={ami}");
    for (name, count, join, calls) in [("four", "4", "join=token", 4), ("sixteen", "16", "join=identity", 1)] {
        let (before, clock) = (launches(), Instant::now());
        let (name_is, count_is) = (format!("name={name}"), format!("count={count}"));
        let words = ["compute", "method=lite", "type=t3.small", &image, &name_is, &count_is, join];
        let made = provision(world, &words);
        assert_eq!(
            (&made["instances"], &made["trouble"]),
            (&json!(format!("{count}/{count}")), &Value::Null),
            "{made}"
        );
        assert_eq!(launches() - before, calls);
        println!("{count} instances: {:.1} s", clock.elapsed().as_secs_f64());
    }
    for (name, value) in [("motd", "changed"), ("vim", "true")] {
        let clock = Instant::now();
        rocks(world, &["set", "appliance", "attr", "compute", name, value]);
        rocks(world, &["wait", "host", "compute-*", "timeout=240"]);
        println!("all of them with {name}: {:.1} s", clock.elapsed().as_secs_f64());
    }
    let all: Value =
        serde_json::from_str(&rocks(world, &["-o", "json", "list", "provision", "sixteen"])).expect("json");
    let instances = all["items"][0]["found"]["instances"].as_object().expect("instances").clone();
    for one in instances.values() {
        let body = json!({"instance": one["id"], "command": ["rpm", "-q", "--whatprovides", "vim-enhanced"]});
        let told = cloud.ask("POST", "exec", &body).expect("it ran");
        assert_eq!(told["code"], 0, "{told}");
    }
    // What one of them shows lets nobody else in, and no other instance is one of them.
    let first = instances.values().next().expect("one");
    its_identity_is_not_taken_again(cloud, text(&first["id"]));
    rocks(world, &["set", "appliance", "attr", "compute", "vim", "false"]);
    cancel(world, &["four", "sixteen"]);
}

/// Somebody else on an instance that has enrolled shows the metadata service's document once more.
fn its_identity_is_not_taken_again(cloud: &Minicloud, instance: &str) {
    let replay = "mkdir -p /tmp/x/etc/rocks-agent && touch /tmp/x/etc/rocks-agent/on-ec2 && rocks-agent --root /tmp/x user-data && \
                  rocks-agent --root /tmp/x enrol";
    let body = json!({"instance": instance, "command": ["sh", "-c", replay]});
    let told = cloud.ask("POST", "exec", &body).expect("it ran");
    assert!(told["code"] != 0 && told.to_string().contains("the instance identity is not accepted"), "{told}");
}

/// The instances of a group that is to have so many of a launch template, some of them ended before. The test is its Auto Scaling.
fn group(cloud: &Minicloud, template: &str, size: usize, end: &[&str]) -> Vec<String> {
    let body = json!({"group": "compute", "template": template, "size": size, "end": end});
    let told = cloud.ask("POST", "scaling", &body).unwrap_or_else(|error| panic!("{error:#}"));
    told["instances"].as_array().expect("a list").iter().map(|id| text(id).to_owned()).collect()
}

/// Waits until an instance is a host in one of these states.
fn until(world: &World, host: &str, states: &[&str]) {
    let there = || {
        let Ok(said) = world.rocks(&["-o", "json", "list", "host", host]) else { return Ok(None) };
        let all: Value = serde_json::from_str(&said)?;
        Ok(all["items"][0]["state"].as_str().filter(|state| states.contains(state)).map(|_| ()))
    };
    wait_for(&format!("{host} to be {states:?}"), Duration::from_secs(120), there)
        .unwrap_or_else(|error| panic!("{error:#}\n{}", world.frontend_log()));
}

fn instances_of_a_template_enrol_by_what_they_are(cloud: &Minicloud, world: &World, ami: &str) {
    let image = format!("ami={ami}");
    let made =
        provision(world, &["compute", "method=lite", "as=template", "name=group", "type=t3.small", "count=3", &image]);
    let template = text(&made["found"]["template"]).to_owned();
    let ids = group(cloud, &template, 2, &[]);
    for id in &ids {
        until(world, id, &["converged"]);
        let hosts: Value = serde_json::from_str(&rocks(world, &["-o", "json", "list", "host", id])).expect("json");
        let host = &hosts["items"][0];
        assert_eq!((&host["appliance"], &host["enrolment"]), (&json!("compute"), &json!("group")), "{host}");
    }
    // Whoever gets at the metadata service of an instance shows the same document, and is somebody else.
    its_identity_is_not_taken_again(cloud, &ids[1]);
    // The group replaces one: its host expires, and the next is a host of its own.
    let next = group(cloud, &template, 2, &[&ids[0]]);
    let new = next.iter().find(|id| !ids.contains(id)).expect("a new one");
    let gone = || Ok(world.rocks(&["list", "host", &ids[0]]).is_err().then_some(()));
    wait_for("the host to expire", Duration::from_secs(60), gone).unwrap_or_else(|error| panic!("{error:#}"));
    until(world, new, &["enrolled", "converging", "converged"]);
    group(cloud, &template, 0, &[]);
    let none = || Ok([&ids[1], new].iter().all(|id| world.rocks(&["list", "host", id]).is_err()).then_some(()));
    wait_for("all hosts to expire", Duration::from_secs(60), none).unwrap_or_else(|error| panic!("{error:#}"));
    rocks(world, &["cancel", "provision", "group", "--yes"]);
    assert!(!rocks(world, &["list", "enrolment"]).contains("group"));
}
