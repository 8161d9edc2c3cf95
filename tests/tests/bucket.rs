//! Packages in a bucket: the real frontend puts them into the local S3, and an agent's gateway takes them from there by addresses that
//! the frontend gives; what somebody changed there is found. Without root.

use std::path::Path;
use std::time::Duration;

use rocks_agent::identity::{self, Join};
use rocks_agent::near::client::{Endpoint, Patience};
use rocks_agent::near::gateway::Gateway;
use rocks_common::wire::{Facts, JoinToken};
use rocks_minicloud::Minicloud;
use rocks_minicloud::config::Config;
use rocks_tests::beside::least;
use rocks_tests::process::{cmd, wait_for};
use rocks_tests::world::binaries;
use serde_json::Value;

fn package(folder: &Path, name: &str, bytes: usize) {
    let mut builder = rpm::PackageBuilder::new(name, "1.0", "MIT", std::env::consts::ARCH, "a package");
    let mut state = 7_u32;
    let content: Vec<u8> = (0..bytes)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    builder.with_file_contents(content, rpm::FileOptions::new(format!("/usr/share/{name}"))).expect("a file");
    builder.build().expect("built").write_file(folder.join(format!("{name}.rpm"))).expect("written");
}

/// Gets a file through a gateway, as a package manager does.
fn get(address: &str, path: &str) -> Result<Vec<u8>, String> {
    let (host, rest) = address.trim_start_matches("http://").split_once('/').expect("an address");
    let port = host.split_once(':').expect("a port").1.parse().expect("a port");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let patience = Patience { connect: Duration::from_secs(5), silence: Duration::from_secs(30) };
        let endpoint = Endpoint::new("127.0.0.1", port, None, patience);
        let answer = endpoint.get(&format!("/{rest}{path}"), &[]).await.map_err(|error| error.to_string())?;
        if answer.status() != 200 {
            return Err(answer.status().to_string());
        }
        answer.whole(1 << 30).await.map_err(|error| error.to_string())
    })
}

#[test]
fn packages_come_from_the_bucket_and_what_was_changed_there_does_not_count() {
    let Ok(binaries) = binaries() else { return println!("skipped: build the binaries first") };
    let server = binaries.join("rocks-server");
    if !cmd(&server).arg("--version").output().expect("it runs").stdout.contains("aws") {
        return println!("skipped: rocks-server was built without the feature aws");
    }
    let cloud = Minicloud::start(least(Config::default())).unwrap_or_else(|error| panic!("{error:#}"));
    let dir = tempfile::tempdir().expect("a folder");
    let (state, rpms) = (dir.path().join("state"), dir.path().join("rpms"));
    std::fs::create_dir_all(&rpms).expect("made");
    package(&rpms, "small", 1000);
    package(&rpms, "large", 20 << 20);
    let key = cloud.config().keys.first().expect("a key");
    let log = dir.path().join("log");
    cmd(&server).args(["init", "--name", "127.0.0.1", "--state-dir"]).arg(&state).run().expect("init");
    let serve = cmd(&server)
        .env("AWS_ACCESS_KEY_ID", key.id.as_str())
        .env("AWS_SECRET_ACCESS_KEY", key.secret.as_str())
        .env("ROCKS_SERVER_AWS_ENDPOINT", cloud.endpoint())
        .env("ROCKS_SERVER_AWS_REGION", cloud.config().region.as_str());
    let _running =
        serve.args(["serve", "--listen", "127.0.0.1:0", "--state-dir"]).arg(&state).start(&log).expect("serve");
    let rocks = |words: &[&str]| {
        cmd(binaries.join("rocks"))
            .arg("--socket")
            .arg(state.join("run/admin.sock"))
            .args(words)
            .run()
            .map(|done| done.stdout)
    };
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    let ok = |words: &[&str]| rocks(words).unwrap_or_else(|error| panic!("{words:?}: {error:#}\n{}", said()));
    let up = wait_for("the frontend", Duration::from_secs(20), || Ok(rocks(&["list", "host"]).ok()));
    up.unwrap_or_else(|error| panic!("{error:#}\n{}", said()));
    ok(&["add", "appliance", "lite"]);
    ok(&["create", "distro", &rpms.display().to_string()]);
    let json = |words: &[&str]| serde_json::from_str::<Value>(&ok(&[&["-o", "json"], words].concat())).expect("json");
    let joined = json(&["add", "host", "lite-0-0", "appliance=lite"]);
    let text = |name: &str| joined[name].as_str().expect("a text").to_owned();
    let join = Join {
        frontend: text("frontend"),
        token: Some(JoinToken(text("token"))),
        identity: None,
        enrolment: None,
        ca: text("ca"),
    };
    let agent = dir.path().join("agent");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime
        .block_on(identity::enrol(&agent, &join, Facts::default(), jiff::Timestamp::now()))
        .unwrap_or_else(|error| panic!("{error}\n{}", said()));

    let arch = std::env::consts::ARCH;
    let repositories = format!("\n[rocks-m]\nbaseurl={}/install/rocks-dist/{arch}/\nsslverify=1\n", join.frontend);
    let open =
        || Gateway::open(&agent, Path::new("/"), &repositories).unwrap_or_else(|error| panic!("{error}\n{}", said()));
    assert!(open().is_none(), "nothing is nearer than the frontend");

    // All of it is sent once, the large one in parts; then what is new, and what is gone goes.
    let synced = json(&["sync", "bucket"]);
    assert_eq!((&synced["files"], &synced["sent"], &synced["removed"]), (&6.into(), &6.into(), &0.into()), "{synced}");
    assert_eq!(json(&["sync", "bucket"])["sent"], 0);

    let metric = |name: &str| {
        let socket = state.join("run/admin.sock");
        let done =
            cmd("curl").arg("-sf").arg("--unix-socket").arg(socket).arg("http://f/metrics").run().expect("metrics");
        let value = done.stdout.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        value.unwrap_or_else(|| panic!("no {name}"))
    };
    let published = state.join("mirror/rocks-dist").join(arch);
    let files = |folder: &str| {
        let mut found = Vec::new();
        let mut todo = vec![published.join(folder)];
        while let Some(at) = todo.pop() {
            for entry in std::fs::read_dir(&at).expect("read").flatten() {
                if entry.path().is_dir() { todo.push(entry.path()) } else { found.push(entry.path()) }
            }
        }
        found.sort();
        found
    };
    let base = |gateway: &Gateway| {
        let folder = gateway.repositories(&repositories).expect("written");
        let text = std::fs::read_to_string(folder.join("rocks.repo")).expect("read");
        text.lines().find_map(|line| line.strip_prefix("baseurl=").map(ToOwned::to_owned)).expect("a baseurl")
    };
    let before = metric("rocks_mirror_bytes_total");
    let gateway = open().expect("the bucket is nearer");
    let address = base(&gateway);
    for file in [files("Packages"), vec![published.join("repodata/repomd.xml")]].concat() {
        let path = file.strip_prefix(&published).expect("below").display().to_string();
        assert!(get(&address, &path).as_ref() == Ok(&std::fs::read(&file).expect("read")), "{path}\n{}", said());
    }
    assert_eq!(gateway.close(true), []);
    assert_eq!(metric("rocks_mirror_bytes_total"), before, "none of it left the frontend");
    assert_eq!(metric("rocks_mirror_redirects_total"), 3);

    // Somebody with a key of the account changes an object: it is found, and the frontend gives the right one.
    let packages = files("Packages");
    let small = packages.iter().find(|file| file.to_string_lossy().contains("small")).expect("it is there");
    let digest = small.parent().and_then(Path::file_name).expect("a digest").to_string_lossy().into_owned();
    let path = small.strip_prefix(&published).expect("below").display().to_string();
    let right = std::fs::read(small).expect("read");
    let wrong: Vec<u8> = right.iter().map(|byte| byte ^ 1).collect();
    let wrong_file = dir.path().join("wrong");
    std::fs::write(&wrong_file, wrong).expect("written");
    let bucket = synced["bucket"].as_str().expect("a name");
    let put = cmd("curl").args(["-sf", "--aws-sigv4", &format!("aws:amz:{}:s3", cloud.config().region), "--user"]);
    let put = put.arg(format!("{}:{}", key.id, key.secret)).arg("-T").arg(&wrong_file);
    let site = bucket.trim_start_matches("rocks-").trim_end_matches(&cloud.config().region).trim_end_matches('-');
    let put = put.args(["-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"]);
    put.arg(format!("{}/{bucket}/{site}/packages/{digest}", cloud.endpoint().trim_end_matches('/')))
        .run()
        .expect("put");
    let gateway = open().expect("the bucket is nearer");
    let address = base(&gateway);
    assert!(get(&address, &path).as_ref() == Ok(&right), "{}", said());
    let findings = gateway.close(true);
    assert!(findings.len() == 1 && findings[0].message.contains("wrong bytes"), "{findings:?}");

    // A host that shall not use it does not.
    ok(&["set", "host", "attr", "lite-0-0", "package_near", "frontend"]);
    assert!(open().is_none());
}
