//! Rollouts with the real frontend: hosts get a change in waves, a bad canary stops it, and whatever kills the frontend, it goes on where it was.

use std::time::Duration;

use rocks_common::wire::Outcome;
use rocks_tests::loopback::{Frontend, Puppet};
use rocks_tests::process::wait_for;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(10);

/// So many hosts of the lite appliance that have converged.
async fn fleet(frontend: &Frontend, count: usize) -> Vec<Puppet> {
    frontend.lite();
    let mut fleet = Vec::new();
    for number in 0..count {
        fleet.push(Puppet::enrol(frontend, &format!("lite-0-{number}")).await);
    }
    frontend.ok(&["sync", "config"]);
    for puppet in &mut fleet {
        puppet.converge(frontend).await;
    }
    frontend.ok(&["wait", "host", "lite", "timeout=10"]);
    fleet
}

fn rollout(frontend: &Frontend, name: &str) -> Value {
    frontend.json(&["list", "rollout", name])["items"][0].clone()
}

fn is(frontend: &Frontend, name: &str, status: &str) {
    let there = || Ok((rollout(frontend, name)["status"] == status).then_some(()));
    wait_for(status, PATIENCE, there).unwrap_or_else(|error| panic!("{error:#}: {}", rollout(frontend, name)));
}

fn states(frontend: &Frontend) -> Vec<String> {
    let hosts = frontend.json(&["list", "host"]);
    let hosts = hosts["items"].as_array().expect("rows");
    hosts.iter().map(|host| host["state"].as_str().expect("a state").to_owned()).collect()
}

/// Sets an attribute that all kickstarts show, and waits until it has come to them.
fn change(frontend: &Frontend, motd: &str) {
    frontend.ok(&["set", "appliance", "attr", "lite", "motd", motd]);
    frontend.ok(&["sync", "config"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_canary_stops_it_and_all_go_back() {
    let Some(frontend) = Frontend::new() else { return };
    let mut fleet = fleet(&frontend, 4).await;

    // The default is immediate.
    change(&frontend, "first");
    for puppet in &mut fleet {
        puppet.converge(&frontend).await;
    }
    assert_eq!(frontend.json(&["list", "rollout"])["items"].as_array().map(Vec::len), Some(0));

    frontend.ok(&["set", "appliance", "rollout", "lite", "waves=1,50%", "soak=0", "timeout=60s"]);
    frontend.ok(&["set", "host", "attr", "lite-0-2", "canary", "yes"]);
    // Who is a canary is no change of anybody's kickstart; made with the next one in one go, it would be told with it.
    frontend.ok(&["sync", "config"]);
    change(&frontend, "second");
    // The canary has it; the others have nothing new, and a host that is new does not wait.
    assert!(fleet[2].fetch(&frontend, 10).await && fleet[2].text.contains("second"));
    for other in [0, 1, 3] {
        assert!(!fleet[other].fetch(&frontend, 0).await);
    }
    assert_eq!(states(&frontend), ["held", "held", "converging", "held"]);
    let mut new = Puppet::enrol(&frontend, "lite-0-9").await;
    new.converge(&frontend).await;
    assert!(new.text.contains("second"));
    let profile = frontend.rocks(&["list", "host", "profile", "lite-0-0"]);
    assert!(profile.stdout.contains("second") && profile.stderr.contains("rollout lite-1"), "{}", profile.both());
    let before = rollout(&frontend, "lite-1");
    assert_eq!((&before["status"], &before["what"]), (&"running".into(), &"attr motd of appliance lite".into()));

    fleet[2].report(&frontend, Outcome::Incomplete).await;
    is(&frontend, "lite-1", "stopped");
    let table = frontend.ok(&["list", "rollout", "lite-1"]);
    for word in ["stopped", "lite-0-2", "some steps failed", "held", "waves=1,50%"] {
        assert!(table.contains(word), "{word}: {table}");
    }
    let sick = frontend.rocks(&["doctor"]);
    assert!(sick.stdout.contains("[rollout-stopped]") && sick.stdout.contains("lite-0-2"), "{}", sick.both());
    assert_eq!(frontend.rocks(&["wait", "rollout", "lite-1", "timeout=5"]).code(), 3);
    for other in [0, 1, 3] {
        assert!(!fleet[other].fetch(&frontend, 0).await, "a rollout that has stopped released a host");
    }

    // Back: the canary has its former kickstart under a new generation, and that stays so.
    let newer = fleet[2].has.expect("a kickstart").1;
    frontend.ok(&["back", "rollout", "lite-1"]);
    fleet[2].converge(&frontend).await;
    assert!(fleet[2].text.contains("first") && fleet[2].has.expect("a kickstart").1 > newer);
    let to_have = frontend.rocks(&["list", "host", "profile", "lite-0-2"]);
    assert!(to_have.stdout.contains("second") && to_have.stderr.contains("went back"), "{}", to_have.both());
    frontend.ok(&["sync", "config"]);
    for puppet in &mut fleet {
        assert!(!puppet.fetch(&frontend, 0).await);
    }
    assert!(frontend.rocks(&["doctor"]).stdout.contains("[rollout-backed]"));
    assert_eq!(frontend.rocks(&["resume", "rollout", "lite-1"]).code(), 5);

    // The next change begins again, with the new host among the concerned.
    change(&frontend, "third");
    is(&frontend, "lite-1", "superseded");
    assert_eq!(rollout(&frontend, "lite-2")["counts"]["held"], 4);
    // Taken back: nobody has a way to go but those who left; the canary has not even fetched it.
    change(&frontend, "first");
    is(&frontend, "lite-2", "superseded");
    assert!(!fleet[0].fetch(&frontend, 0).await && !fleet[2].fetch(&frontend, 0).await);
    let last = rollout(&frontend, "lite-3");
    assert_eq!((&last["hosts"], &last["members"][0]["reason"]), (&2.into(), &"it had that already".into()));

    // Without a strategy it is immediate again.
    frontend.ok(&["remove", "appliance", "rollout", "lite"]);
    change(&frontend, "fourth");
    for puppet in fleet.iter_mut().chain([&mut new]) {
        puppet.converge(&frontend).await;
        assert!(puppet.text.contains("fourth"));
    }
    is(&frontend, "lite-3", "superseded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waves_go_on_through_pauses_and_kills() {
    let Some(mut frontend) = Frontend::new() else { return };
    frontend.keep_address();
    let mut fleet = fleet(&frontend, 5).await;
    frontend.ok(&["set", "rollout", "waves=1,3", "soak=0", "failures=1", "timeout=60s"]);
    change(&frontend, "brave new words");
    let held = fleet[4].has;
    assert!(fleet[0].fetch(&frontend, 10).await);

    // Killed before the canary has reported: it is the canary still, and the others have what they had, not a word newer.
    frontend.kill();
    frontend.start();
    assert_eq!(rollout(&frontend, "lite-1")["counts"]["released"], 1);
    fleet[4].has = None;
    assert!(fleet[4].fetch(&frontend, 0).await, "it is served what it had");
    assert_eq!(fleet[4].has, held);
    assert!(!fleet[0].fetch(&frontend, 0).await);

    frontend.ok(&["pause", "rollout", "lite-1"]);
    fleet[0].report(&frontend, Outcome::Converged).await;
    assert_eq!(frontend.rocks(&["wait", "rollout", "lite-1", "timeout=1"]).code(), 3);
    assert!(!fleet[1].fetch(&frontend, 0).await, "a rollout that is paused released a host");
    frontend.kill();
    frontend.start();
    is(&frontend, "lite-1", "paused");
    frontend.ok(&["resume", "rollout", "lite-1"]);

    // Somebody who waits is answered when the wave comes; a host that is made one of another appliance does not wait.
    assert!(fleet[1].fetch(&frontend, 10).await && fleet[2].fetch(&frontend, 10).await);
    assert!(!fleet[3].fetch(&frontend, 0).await);
    frontend.ok(&["add", "appliance", "other", "node=lite"]);
    frontend.ok(&["set", "attr", "motd", "other's"]);
    frontend.ok(&["set", "host", "appliance", "lite-0-4", "other"]);
    fleet[4].converge(&frontend).await;
    assert!(fleet[4].text.contains("other's"));
    let gone = || Ok((rollout(&frontend, "lite-1")["counts"]["gone"] == 1).then_some(()));
    wait_for("the host to be gone", PATIENCE, gone).expect("gone");
    assert_eq!(rollout(&frontend, "lite-1")["status"], "running");

    // A report that came while nobody could look at it is not lost: it is in the store.
    fleet[1].report(&frontend, Outcome::Converged).await;
    fleet[2].report(&frontend, Outcome::Incomplete).await;
    frontend.kill();
    frontend.start();
    // One may fail.
    fleet[3].converge(&frontend).await;
    frontend.ok(&["wait", "rollout", "lite-1", "timeout=10"]);
    let done = rollout(&frontend, "lite-1");
    assert_eq!((&done["counts"]["converged"], &done["counts"]["failed"]), (&3.into(), &1.into()), "{done}");
    assert_eq!(frontend.rocks(&["pause", "rollout", "lite-1"]).code(), 5);

    // What is done can be taken back, by a frontend that has been killed since.
    frontend.kill();
    frontend.start();
    frontend.ok(&["back", "rollout", "lite-1"]);
    for puppet in &mut fleet[..4] {
        puppet.converge(&frontend).await;
        assert!(!puppet.text.contains("brave new words"));
    }
    assert_eq!(states(&frontend), ["converged"; 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changed_while_no_frontend_ran_is_rolled_out_too() {
    let Some(mut frontend) = Frontend::new() else { return };
    let mut fleet = fleet(&frontend, 2).await;
    frontend.ok(&["set", "rollout", "waves=1", "soak=0", "timeout=60s"]);
    frontend.ok(&["sync", "config"]);
    let had = fleet[1].has;
    frontend.kill();
    // Its address is another one afterwards, and stands in kickstarts.
    frontend.start();
    assert_eq!(rollout(&frontend, "lite-1")["what"], "while the frontend did not run");
    fleet[1].has = None;
    assert!(fleet[1].fetch(&frontend, 10).await);
    assert_eq!(fleet[1].has, had);
    for puppet in &mut fleet {
        puppet.converge(&frontend).await;
    }
    assert_ne!(fleet[1].has, had);
    frontend.ok(&["wait", "rollout", "lite-1", "timeout=10"]);
}

#[test]
fn what_is_no_strategy_is_refused_with_a_hint() {
    let Some(frontend) = Frontend::new() else { return };
    frontend.lite();
    for (words, exit, told) in [
        (&["set", "rollout", "waves=50%,10%"][..], 2, "waves=1,10%,50%"),
        (&["set", "rollout", "soak=5"], 2, "30s, 5m, 2h"),
        (&["set", "rollout", "failures=most"], 2, "3, 10%"),
        (&["set", "rollout", "speed=fast"], 2, "waves, soak"),
        (&["set", "appliance", "rollout", "nope"], 4, "nope"),
        (&["remove", "appliance", "rollout", "lite"], 4, "lite"),
        (&["list", "rollout", "nope"], 4, "nope"),
        (&["pause", "rollout", "nope"], 4, "nope"),
    ] {
        let done = frontend.rocks(words);
        assert!(done.code() == exit && done.stderr.contains(told), "{words:?}: {}: {}", done.code(), done.both());
    }
    frontend.ok(&["set", "rollout", "waves=1,25%"]);
    frontend.ok(&["set", "appliance", "rollout", "lite", "soak=1h30m"]);
    let listed = frontend.ok(&["list", "appliance", "rollout"]);
    assert!(listed.contains("lite       1,10%,50%  1h30m  0         30m      own"), "{listed}");
    frontend.ok(&["remove", "appliance", "rollout", "lite"]);
    assert!(frontend.ok(&["list", "appliance", "rollout"]).contains("1,25%"));
    frontend.ok(&["remove", "rollout"]);
    assert!(frontend.ok(&["list", "appliance", "rollout"]).contains("immediate"));
}
