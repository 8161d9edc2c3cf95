//! The frontend as agents and administrators meet it: the real binary on loopback, without root.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rocks_agent::fetch::{FetchError, Fetched, Known};
use rocks_agent::identity::{Identity, Join};
use rocks_common::wire::{Facts, JoinToken};
use rocks_tests::loopback::Frontend;
use rocks_tests::process::{cmd, wait_for};
use rocks_tests::world::binaries;
use serde_json::Value;

async fn enrol(folder: &Path, join: &Join) -> Result<Identity, FetchError> {
    let now = jiff::Timestamp::now();
    match rocks_agent::identity::enrol(folder, join, Facts::default(), now).await {
        Ok(identity) => Ok(identity),
        Err(rocks_agent::identity::IdentityError::Fetch(error)) => Err(error),
        Err(error) => panic!("{error}"),
    }
}

fn code(error: &FetchError) -> (u16, String) {
    match error {
        FetchError::Refused { status, code, .. } => (*status, code.clone()),
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enrolment_kickstarts_waiting_and_revocation() {
    let Some(mut frontend) = Frontend::new() else { return };
    frontend.lite();
    let folder = tempfile::tempdir().expect("a folder");
    let join = frontend.join("lite-0-0");

    // Wrong, used and (in the store's own test) expired tokens are refused in one and the same way.
    let wrong = Join { token: Some(JoinToken("x".into())), ..join.clone() };
    let wrong = code(&enrol(folder.path(), &wrong).await.expect_err("a wrong token"));
    let identity = enrol(folder.path(), &join).await.expect("enrolled");
    let used = code(&enrol(folder.path(), &join).await.expect_err("a used token"));
    assert_eq!(wrong, (403, "token-refused".to_owned()));
    assert_eq!(used, wrong);

    // Without a certificate there is nothing but enrolment.
    let bare = rocks_agent::tls::client(&join.ca, None).expect("tls");
    let mut bare = rocks_agent::fetch::Client::new(&join.frontend, bare).expect("a client");
    let refused = bare.kickstart(&Frontend::known(&identity, None), 0).await.expect_err("no certificate");
    assert_eq!(code(&refused), (401, "certificate-required".to_owned()));

    // Another authority's word does not count.
    let stranger = tempfile::tempdir().expect("a folder");
    cmd(frontend.binaries.join("rocks-server")).args(["init", "--state-dir"]).arg(stranger.path()).run().expect("init");
    let other = fs::read_to_string(stranger.path().join("ca/ca.pem")).expect("a CA");
    let deceived = Join { ca: other, ..join.clone() };
    assert!(matches!(enrol(folder.path(), &deceived).await, Err(FetchError::Network { .. })));

    // 200, then 304, then an answer as soon as something changes and not before.
    let mut client = identity.client().expect("a client");
    let first: Fetched =
        client.kickstart(&Frontend::known(&identity, None), 0).await.expect("answered").expect("a kickstart");
    let known = Frontend::known(&identity, Some(first.digest));
    assert!(client.kickstart(&known, 0).await.expect("answered").is_none());
    let waiting = tokio::spawn(async move { (client.kickstart(&known, 30).await, Instant::now()) });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished(), "it answered before anything changed");
    frontend.ok(&["set", "appliance", "attr", "lite", "vim", "yes"]);
    let (second, _) = waiting.await.expect("no panic");
    let second = second.expect("answered").expect("a new kickstart");
    assert!(second.generation > first.generation && second.text.contains("vim-enhanced"));

    // A host that asks before its kickstart is made is not sent away, whether it asked to wait or not.
    for (host, wait) in [("lite-0-1", 0), ("lite-0-2", 30)] {
        let folder = tempfile::tempdir().expect("a folder");
        let new = enrol(folder.path(), &frontend.join(host)).await.expect("enrolled");
        let mut client = new.client().expect("a client");
        let fetched = client.kickstart(&Frontend::known(&new, None), wait).await.expect("answered");
        assert!(fetched.is_some_and(|fetched| fetched.text.contains("vim-enhanced")), "{host}");
    }

    // An attribute that no profile reads changes nothing.
    frontend.ok(&["set", "attr", "unread", "x"]);
    frontend.ok(&["sync", "config"]);
    let mut client = identity.client().expect("a client");
    let known = Frontend::known(&identity, Some(second.digest));
    assert!(client.kickstart(&known, 0).await.expect("answered").is_none());

    // A renewed certificate works; generations go on after the frontend was killed.
    let renewed = identity.renew(Facts::default(), jiff::Timestamp::now()).await.expect("renewed");
    frontend.kill();
    frontend.start();
    let addresses: Value = serde_json::from_str(
        &fs::read_to_string(frontend.dir.path().join("state/run/addresses.json")).expect("addresses"),
    )
    .expect("json");
    assert!(addresses["url"].as_str().is_some_and(|url| url.starts_with("https://127.0.0.1:")));
    let ca = fs::read_to_string(renewed.file("ca.pem")).expect("ca");
    let pair = ["cert.pem", "key.pem"].map(|name| fs::read_to_string(renewed.file(name)).expect("pem"));
    let tls = || rocks_agent::tls::client(&ca, Some((&pair[0], &pair[1]))).expect("tls");
    let url = addresses["url"].as_str().expect("url");
    let mut client = rocks_agent::fetch::Client::new(url, tls()).expect("a client");
    let again = client.kickstart(&Frontend::known(&renewed, None), 0).await.expect("answered").expect("a kickstart");
    assert!(again.generation > second.generation);

    // A host that is removed gets nothing any more.
    frontend.ok(&["remove", "host", "--yes", "lite-0-0"]);
    let gone = || Ok((frontend.rocks(&["list", "host", "lite-0-0"]).code() == 4).then_some(()));
    wait_for("the removal", Duration::from_secs(5), gone).expect("removed");
    let mut last = None;
    for _ in 0..50 {
        let mut client = rocks_agent::fetch::Client::new(url, tls()).expect("a client");
        last = client.kickstart(&Frontend::known(&renewed, None), 0).await.err().map(|error| code(&error));
        if last == Some((403, "certificate-revoked".to_owned())) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it still answers: {last:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frontend_that_is_put_back_from_a_copy_goes_on_with_its_hosts() {
    let Some(mut frontend) = Frontend::new() else { return };
    frontend.keep_address();
    frontend.lite();
    let folder = tempfile::tempdir().expect("a folder");
    let identity = enrol(folder.path(), &frontend.join("lite-0-0")).await.expect("enrolled");
    let mut client = identity.client().expect("a client");
    let first = client.kickstart(&Frontend::known(&identity, None), 0).await.expect("answered").expect("a kickstart");

    let (state, copy) = (frontend.dir.path().join("state"), frontend.dir.path().join("copy"));
    let copied = |from: &Path, to: &Path| cmd("cp").arg("-a").arg(from).arg(to).run().expect("copied");
    frontend.kill();
    copied(&state, &copy);
    frontend.start();
    // Of all this the copy knows nothing: a change, and a certificate.
    frontend.ok(&["set", "appliance", "attr", "lite", "vim", "yes"]);
    let known = Frontend::known(&identity, Some(first.digest));
    let mut client = identity.client().expect("a client");
    let second = client.kickstart(&known, 30).await.expect("answered").expect("a new kickstart");
    let identity = identity.renew(Facts::default(), jiff::Timestamp::now()).await.expect("renewed");
    frontend.kill();
    fs::remove_dir_all(&state).expect("removed");
    copied(&copy, &state);
    frontend.start();

    let mut client = identity.client().expect("a client");
    let known = Known { generation: second.generation, ..Frontend::known(&identity, Some(second.digest)) };
    let third = client.kickstart(&known, 30).await.expect("it is trusted").expect("what the copy has");
    assert!(third.digest == first.digest && third.generation > second.generation, "{third:?}");
    let known = Known { generation: third.generation, ..Frontend::known(&identity, Some(third.digest)) };
    assert!(client.kickstart(&known, 0).await.expect("answered").is_none());
    identity.renew(Facts::default(), jiff::Timestamp::now()).await.expect("renewed");
}

#[test]
fn a_dump_rebuilds_the_store_and_errors_have_their_codes() {
    let Some(first) = Frontend::new() else { return };
    first.lite();
    first.ok(&["disable", "roll", "vim"]);
    first.ok(&["trust", "roll", "base"]);
    first.join("lite-0-0");
    first.ok(&["set", "rollout", "waves=1,25%", "soak=90s", "failures=5%"]);
    first.ok(&["set", "appliance", "rollout", "lite", "timeout=1h"]);
    first.ok(&["set", "attr", "a", "it's = \"quoted\" $HOME"]);
    first.ok(&["set", "os", "attr", "linux", "b", ""]);
    first.ok(&["set", "appliance", "attr", "--", "lite", "c", "-x"]);
    first.ok(&["set", "host", "attr", "lite-0-0", "d", "two\nlines"]);
    let dump = first.ok(&["dump"]);
    let Some(second) = Frontend::new() else { return };
    let script = second.dir.path().join("dump.sh");
    fs::write(&script, &dump).expect("written");
    let path = format!("{}:/usr/bin:/bin", second.binaries.display());
    let socket = second.dir.path().join("state/run/admin.sock");
    cmd("sh").arg(&script).env("PATH", path).env("ROCKS_SOCKET", socket).run().expect("the dump can be replayed");
    assert_eq!(second.ok(&["dump"]), dump);

    for (words, exit) in [
        (&["list", "host", "profile", "nobody"][..], 4),
        (&["add", "appliance", "lite"], 5),
        (&["add", "host", "x", "appliance=nope"], 4),
        (&["add", "host", "-bad-", "appliance=lite"], 2),
        (&["remove", "appliance", "--yes", "lite"], 5),
        (&["frobnicate"], 2),
        (&["add", "roll", "/nonexistent"], 2),
        (&["set", "attr", "1bad", "x"], 2),
    ] {
        let done = first.rocks(words);
        assert_eq!(done.code(), exit, "{words:?}: {}", done.both());
        assert!(done.stderr.starts_with("error: "), "{words:?}: {}", done.both());
    }
    let nowhere = cmd(first.binaries.join("rocks"))
        .args(["--socket", "/nonexistent", "list", "host"])
        .output()
        .expect("rocks runs");
    assert_eq!(nowhere.code(), 75);
}

#[test]
fn a_roll_that_changes_on_disk_is_seen_and_one_with_errors_is_not_served() {
    let Some(frontend) = Frontend::new() else { return };
    let roll = frontend.dir.path().join("mine");
    let put = |path: &str, text: &str| {
        let path = roll.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    };
    put("graphs/default/m.xml", "<graph><edge from=\"lite\"><to>m</to></edge></graph>");
    put("nodes/lite.xml", "<kickstart/>");
    put("nodes/m.xml", "<kickstart><main><lang>en_US</lang></main></kickstart>");
    frontend.ok(&["add", "appliance", "lite"]);
    frontend.ok(&["add", "roll", &roll.display().to_string()]);
    frontend.join("lite-0-0");
    let has = |text: &str| {
        let found = || Ok(frontend.rocks(&["list", "host", "profile", "lite-0-0"]).stdout.contains(text).then_some(()));
        wait_for(text, Duration::from_secs(10), found).unwrap_or_else(|error| panic!("{error:#}"));
    };
    has("lang en_US");
    put("nodes/m.xml", "<kickstart><main><lang>&nope;</lang><frob/></main></kickstart>");
    let sync = frontend.rocks(&["sync", "config"]);
    assert_eq!(sync.code(), 1);
    assert!(sync.stdout.contains("undefined-entity") && sync.stdout.contains("unknown-command"), "{}", sync.both());
    has("lang en_US");
    // Mended, it is seen without being told: the roll was added after the start, and is watched.
    put("nodes/m.xml", "<kickstart><main><lang>de_DE</lang></main></kickstart>");
    has("lang de_DE");

    // Code of a roll that is not trusted does not run, whatever other rolls are called; trusted, it does.
    let twin = frontend.dir.path().join("elsewhere/mine");
    fs::create_dir_all(twin.join("graphs/default")).expect("made");
    frontend.ok(&["add", "roll", &twin.display().to_string(), "name=twin"]);
    frontend.ok(&["trust", "roll", "twin"]);
    put("nodes/m.xml", "<kickstart><main><lang><eval>echo fr_FR</eval></lang></main></kickstart>");
    let refused = frontend.rocks(&["sync", "config"]);
    assert!(refused.code() == 1 && refused.stdout.contains("not trusted"), "{}", refused.both());
    has("lang de_DE");
    frontend.ok(&["trust", "roll", "mine"]);
    has("lang fr_FR");

    // The administrator's own nodes extend and replace those of rolls, and may run code.
    let site = frontend.dir.path().join("site-graphs");
    fs::create_dir_all(&site).expect("made");
    fs::write(site.join("replace-m.xml"), "<kickstart><main><lang><eval>echo it_IT</eval></lang></main></kickstart>")
        .expect("written");
    frontend.ok(&["sync", "config"]);
    has("lang it_IT");
    // From here on that folder is watched, too.
    fs::write(site.join("replace-m.xml"), "<kickstart><main><lang>es_ES</lang></main></kickstart>").expect("written");
    has("lang es_ES");
}

#[test]
fn what_is_shown_can_be_chosen_explained_and_waited_for_and_secrets_stay_secret() {
    let Some(frontend) = Frontend::new() else { return };
    frontend.lite();
    for host in ["lite-0-0", "lite-0-1", "lite-1-0"] {
        frontend.join(host);
    }
    frontend.ok(&["sync", "config"]);

    // Formats, patterns, and what is not there.
    let names = |words: &[&str]| frontend.ok(&[&["-q", "list", "host"], words].concat());
    assert_eq!(names(&["lite-0-*"]), "lite-0-0\nlite-0-1\n");
    assert_eq!(names(&["lite"]), "lite-0-0\nlite-0-1\nlite-1-0\n");
    assert_eq!(frontend.rocks(&["list", "host", "lite-0-0", "nope"]).code(), 4);
    let lines = frontend.ok(&["-o", "jsonl", "list", "host"]);
    assert!(lines.lines().count() == 3 && lines.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
    assert!(frontend.ok(&["-o", "yaml", "list", "host", "lite-0-0"]).contains("\"state\": \"pending\""));
    assert!(frontend.ok(&["-o", "wide", "list", "host"]).contains("LAST SEEN"));
    assert!(!frontend.ok(&["--no-headers", "list", "host"]).contains("STATE"));

    // What a kickstart is made of.
    assert!(frontend.ok(&["list", "host", "xml", "lite-0-0"]).contains("<node name=\"lite\" roll=\"base\">"));
    assert!(frontend.ok(&["list", "host", "graph", "lite-0-0", "format=svg"]).starts_with("<svg"));
    assert!(frontend.ok(&["list", "node", "lite"]).contains("base/nodes/lite.xml"));
    assert!(frontend.ok(&["list", "graph"]).contains("vim"));
    frontend.ok(&["set", "host", "attr", "lite-0-0", "vim", "yes"]);
    frontend.ok(&["sync", "config"]);
    let why = frontend.ok(&["explain", "host", "lite-0-0", "package", "vim-enhanced"]);
    assert!(why.contains("vim = \"yes\" from host"), "{why}");
    assert_eq!(frontend.rocks(&["explain", "host", "lite-0-1", "package", "vim-enhanced"]).code(), 4);

    // Attributes of several hosts, and a secret one.
    let secret = cmd(frontend.binaries.join("rocks"))
        .args(["set", "attr", "--secret", "--stdin", "rootpw"])
        .env("ROCKS_SOCKET", frontend.dir.path().join("state/run/admin.sock"))
        .input("hunter2 is it\n")
        .run();
    secret.expect("set");
    let shown = frontend.ok(&["list", "host", "attr", "lite-0-*"]);
    assert!(shown.contains("lite-0-1") && shown.contains("********") && !shown.contains("hunter2"), "{shown}");
    assert!(!frontend.ok(&["-o", "json", "list", "attr"]).contains("hunter2"));
    assert!(!frontend.ok(&["dump"]).contains("hunter2"));
    assert!(frontend.ok(&["list", "host", "attr", "--show-secrets", "lite-0-0"]).contains("hunter2 is it"));
    assert!(frontend.ok(&["dump", "--show-secrets"]).contains("rocks set attr --secret -- 'rootpw' 'hunter2 is it'"));

    // Nothing is destroyed in passing, and hosts are removed all or none.
    let unasked = frontend.rocks(&["remove", "host", "lite-0-*"]);
    assert!(unasked.code() == 2 && unasked.stderr.contains("lite-0-0, lite-0-1"), "{}", unasked.both());
    assert_eq!(frontend.rocks(&["remove", "host", "--yes", "lite-0-0", "nope"]).code(), 4);
    assert_eq!(names(&[]).lines().count(), 3);
    frontend.ok(&["remove", "host", "--yes", "lite-0-*"]);
    assert_eq!(names(&[]), "lite-1-0\n");

    // Waiting ends when the time is over; what is wrong is told with a hint.
    let late = frontend.rocks(&["wait", "host", "lite-1-0", "timeout=1"]);
    assert!(late.code() == 3 && late.stderr.contains("lite-1-0 is pending"), "{}", late.both());
    let sick = frontend.rocks(&["doctor"]);
    assert!(sick.code() == 3 && sick.stdout.contains("[no-distribution]"), "{}", sick.both());
    let typo = frontend.rocks(&["lst", "host"]);
    assert!(typo.code() == 2 && typo.stderr.contains("'list'"), "{}", typo.both());
    let missing = frontend.rocks(&["create", "mirror", "file:///etc"]);
    assert!(missing.stderr.contains("http"), "{}", missing.both());

    // Completions know the frontend's names.
    let socket = frontend.dir.path().join("state/run/admin.sock");
    let words = cmd(frontend.binaries.join("rocks"))
        .args(["--", "rocks", "report", "host", "lite"])
        .env("ROCKS_SOCKET", socket)
        .env("COMPLETE", "bash")
        .env("_CLAP_COMPLETE_INDEX", "3")
        .run()
        .expect("completed");
    assert!(words.stdout.contains("lite-1-0"), "{}", words.both());
    let man = tempfile::tempdir().expect("a folder");
    for program in ["rocks", "rocks-server", "rocks-agent"] {
        cmd(frontend.binaries.join(program)).arg("man").arg(man.path()).run().expect("written");
    }
    for page in ["rocks.1", "rocks-list-host-attr.1", "rocks-server.8", "rocks-agent.8"] {
        assert!(man.path().join(page).exists(), "{page}");
    }
}

/// The frontend's own user must not be able to hand its keys to code of a roll.
#[test]
fn code_of_rolls_does_not_reach_the_keys_of_a_frontend_that_is_not_root() {
    if !rustix::process::geteuid().is_root() || rocks_tests::process::which("setpriv").is_none() {
        println!("skipped: it needs root and setpriv to run a frontend as another user");
        return;
    }
    let Ok(binaries) = binaries() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let program = dir.path().join("rocks-server");
    fs::copy(binaries.join("rocks-server"), &program).expect("copied");
    let (roll, keys) = (dir.path().join("roll"), dir.path().join("keys"));
    fs::create_dir_all(roll.join("graphs/default")).expect("made");
    fs::create_dir_all(roll.join("nodes")).expect("made");
    fs::create_dir_all(&keys).expect("made");
    fs::write(keys.join("ca.key"), "the key").expect("written");
    let code = format!(
        "<kickstart><main><lang><eval>echo en_US &gt; $TMPDIR/t; echo x &gt; {0}/y; echo $(cat $TMPDIR/t {0}/ca.key)</eval></lang></main></kickstart>",
        keys.display()
    );
    fs::write(roll.join("nodes/a.xml"), code).expect("written");
    fs::write(roll.join("nodes/b.xml"), "<kickstart/>").expect("written");
    fs::write(roll.join("graphs/default/g.xml"), "<graph><edge from=\"a\"><to>b</to></edge></graph>").expect("written");
    let user = ["--reuid=65534", "--regid=65534", "--clear-groups", "--"];
    cmd("chmod").arg("-R").arg("a+rX").arg(dir.path()).run().expect("readable");
    cmd("chown").arg("-R").arg("65534").arg(dir.path()).run().expect("owned");
    let render = cmd("setpriv").args(user).arg(&program).args(["profile", "--eval", "run", "--root", "a", "--roll"]);
    let done = render.arg(&roll).output().expect("rendered");
    assert!(done.stdout.contains("lang en_US"), "{}", done.both());
    assert!(!done.stdout.contains("the key") && !keys.join("y").exists(), "{}", done.both());
    // Without the confinement it would: the test can fail.
    let seen = cmd("setpriv").args(user).args(["cat"]).arg(keys.join("ca.key")).run().expect("read");
    assert_eq!(seen.stdout, "the key");
}

#[test]
fn a_method_is_advised_by_what_is_known_and_what_is_not_is_said() {
    let Some(frontend) = Frontend::new() else { return };
    frontend.ok(&["add", "appliance", "compute"]);
    let nothing = frontend.rocks(&["advise", "provision", "compute"]);
    assert!(nothing.code() != 0 && nothing.both().contains("rocks create image compute"), "{}", nothing.both());
    let half = frontend.rocks(&["advise", "provision", "compute", "image-bytes=1.5GiB"]);
    assert!(half.code() != 0 && half.both().contains("packages-bytes=SIZE"), "{}", half.both());
    let picture = frontend.dir.path().join("advice.svg");
    let at = format!("picture={}", picture.display());
    let words =
        ["advise", "provision", "compute", "image-bytes=1.5GiB", "packages-bytes=60MiB", "count=16", "loss=0.1%"];
    let table = frontend.ok(&[&words[..], &[&at]].concat());
    for word in ["METHOD", "udt", "lite", "ebs", "CHOICE by balance"] {
        assert!(table.contains(word), "{word}: {table}");
    }
    assert!(fs::read_to_string(&picture).expect("drawn").starts_with("<svg"));
    let json: Value = serde_json::from_str(&frontend.ok(&[&["-o", "json"], &words[..]].concat())).expect("json");
    assert_eq!((json["ask"]["count"].as_u64(), json["link"]["loss"].as_f64()), (Some(16), Some(0.001)));
    assert_ne!(frontend.rocks(&["advise", "provision", "compute", "image-bytes=2 stones"]).code(), 0);
    assert_eq!(frontend.rocks(&["advise", "provision", "nothing"]).code(), 4);
}
