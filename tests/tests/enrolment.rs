//! Instances that nobody announced, from the launch template that the frontend makes to the host that expires: the real frontend on loopback and a
//! local EC2 in which nothing boots. The agents are this test; `provision.rs` has real ones.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use rocks_agent::fetch::{Client, FetchError};
use rocks_agent::{tls, userdata};
use rocks_common::wire::{EnrolRequest, EnrolResponse, Facts, InstanceIdentity};
use rocks_minicloud::config::Config;
use rocks_minicloud::{Minicloud, Seed};
use rocks_tests::beside::least;
use rocks_tests::process::{Done, Running, cmd, wait_for};
use rocks_tests::world::{binaries, repository};
use serde_json::{Value, json};

struct Frontend {
    // Before the folder that it works in.
    _running: Running,
    binaries: PathBuf,
    dir: tempfile::TempDir,
}

impl Frontend {
    /// One that believes a cloud's identity documents and asks it, too.
    fn beside(cloud: &Minicloud, binaries: PathBuf) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let (server, state) = (binaries.join("rocks-server"), dir.path().join("state"));
        cmd(&server).args(["init", "--name", "127.0.0.1", "--state-dir"]).arg(&state).run().expect("init");
        let (certificate, region) = (dir.path().join("aws.pem"), &cloud.config().region);
        std::fs::write(&certificate, cloud.identity_certificate()).expect("written");
        let key = cloud.config().keys.first().expect("a key");
        let log = dir.path().join("log");
        let running = cmd(&server)
            .args(["serve", "--listen", "127.0.0.1:0", "--state-dir"])
            .arg(&state)
            .env("AWS_ACCESS_KEY_ID", &key.id)
            .env("AWS_SECRET_ACCESS_KEY", &key.secret)
            .env("ROCKS_SERVER_AWS_ENDPOINT", cloud.endpoint())
            .env("ROCKS_SERVER_AWS_REGION", region)
            .env("ROCKS_SERVER_AWS_LOOK_SECONDS", "1")
            .env("ROCKS_SERVER_AWS_IDENTITY_CERTIFICATES", format!("{region}={}", certificate.display()))
            .env("ROCKS_SERVER_AWS_IDENTITY_CHECK", "true")
            .start(&log)
            .expect("serve");
        let frontend = Self { _running: running, binaries, dir };
        let up = || Ok((frontend.rocks(&["list", "host"]).code() == 0).then_some(()));
        wait_for("the frontend", Duration::from_secs(20), up).unwrap_or_else(|e| panic!("{e:#}\n{}", frontend.log()));
        frontend
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn rocks(&self, words: &[&str]) -> Done {
        let socket = self.dir.path().join("state/run/admin.sock");
        cmd(self.binaries.join("rocks")).arg("--socket").arg(socket).args(words).output().expect("rocks runs")
    }

    fn ok(&self, words: &[&str]) -> String {
        let done = self.rocks(words);
        assert_eq!(done.code(), 0, "{words:?}: {}\n{}", done.both(), self.log());
        done.stdout
    }

    fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[&["-o", "json"], words].concat())).expect("json")
    }

    /// An instance, or whoever pretends to be one, asks to be let in with a key.
    fn enrol(&self, shown: Option<&InstanceIdentity>, key: &rcgen::KeyPair) -> Result<EnrolResponse, (u16, String)> {
        let text = std::fs::read_to_string(self.dir.path().join("state/run/addresses.json")).expect("addresses");
        let addresses: Value = serde_json::from_str(&text).expect("json");
        let ca = std::fs::read_to_string(self.dir.path().join("state/ca/ca.pem")).expect("a CA");
        let params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
        let csr = params.serialize_request(key).expect("a request").pem().expect("PEM");
        let request = EnrolRequest { token: None, identity: shown.cloned(), csr, facts: Facts::default() };
        let url = addresses["url"].as_str().expect("an address");
        let mut client = Client::new(url, tls::client(&ca, None).expect("TLS")).expect("a client");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(client.enrol(&request)).map_err(|error| match error {
            FetchError::Refused { status, code, .. } => (status, code),
            other => panic!("{other}\n{}", self.log()),
        })
    }
}

/// What the metadata service of an instance answers.
fn metadata(cloud: &Minicloud, instance: &str, path: &str) -> String {
    let ask = |method: &str, path: &str, header: &str| {
        let address = cloud.endpoint().trim_start_matches("http://").to_owned();
        let mut stream = TcpStream::connect(address).expect("the cloud listens");
        let head = format!("{method} /_minicloud/imds/{instance}/latest/{path} HTTP/1.1");
        let request =
            format!("{head}\r\nhost: minicloud\r\nconnection: close\r\n{header}\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        body.to_owned()
    };
    let token = ask("PUT", "api/token", "x-aws-ec2-metadata-token-ttl-seconds: 60");
    ask("GET", path, &format!("x-aws-ec2-metadata-token: {token}"))
}

fn shown(cloud: &Minicloud, instance: &str) -> InstanceIdentity {
    let said = |name: &str| metadata(cloud, instance, &format!("dynamic/instance-identity/{name}"));
    InstanceIdentity { document: said("document"), signature: said("rsa2048"), enrolment: None }
}

/// The instances of a group that is to have so many, some of them ended before.
fn group(cloud: &Minicloud, template: &str, size: usize, end: &[&str]) -> Vec<String> {
    let body = json!({"group": "web", "template": template, "size": size, "end": end});
    let told = cloud.ask("POST", "scaling", &body).unwrap_or_else(|error| panic!("{error:#}"));
    told["instances"].as_array().expect("a list").iter().map(|id| id.as_str().expect("an id").to_owned()).collect()
}

fn key() -> rcgen::KeyPair {
    rcgen::KeyPair::generate().expect("a key")
}

fn refused() -> (u16, String) {
    (403, "identity-refused".to_owned())
}

#[test]
fn instances_of_a_group_enrol_once_by_what_ec2_says_of_them_and_expire() {
    let Ok(binaries) = binaries() else { return println!("skipped: build the binaries first") };
    let version = cmd(binaries.join("rocks-server")).arg("--version").output().expect("it runs");
    if !version.stdout.contains("aws") {
        return println!("skipped: rocks-server was built without the feature aws");
    }
    let cloud = Minicloud::start(least(Config::default())).unwrap_or_else(|e| panic!("{e:#}"));
    let disk = tempfile::NamedTempFile::new().expect("a file");
    disk.as_file().set_len(1 << 20).expect("a disk");
    let seed = Seed { name: "lite".into(), path: disk.path().to_owned(), architecture: "x86_64".into() };
    let (image, _) = cloud.add_image(&seed).unwrap_or_else(|e| panic!("{e:#}"));
    let frontend = Frontend::beside(&cloud, binaries);
    frontend.ok(&["add", "appliance", "lite"]);
    frontend.ok(&["add", "roll", &repository().join("graphs/base").display().to_string()]);
    let ami = format!("ami={image}");
    let order = ["provision", "lite", "method=lite", &ami, "as=template", "count=2", "name=web", "type=t3.small"];
    let plan = frontend.ok(&[&order[..], &["plan=yes"]].concat());
    assert!(plan.contains("make a launch template (t3.small), and let its instances enrol as lite"), "{plan}");
    let elsewhere = frontend.rocks(&[&order[..], &["region=eu-west-1"]].concat());
    assert!(elsewhere.code() != 0 && elsewhere.both().contains("aws_identity_certificates"), "{}", elsewhere.both());
    let record = frontend.json(&order);
    assert_eq!((&record["status"], &record["enrolment"]), (&json!("done"), &json!("web")), "{record:#}");
    let template = record["found"]["template"].as_str().expect("a template").to_owned();
    let rule = &frontend.json(&["list", "enrolment"])["items"][0];
    assert_eq!((&rule["account"], &rule["count"]), (&json!(cloud.config().account), &json!(2)), "{rule}");
    assert!(frontend.ok(&["dump"]).contains("rocks add enrolment 'web' appliance='lite' account="));
    assert!(frontend.rocks(&["remove", "appliance", "lite", "--yes"]).both().contains("enrolment `web`"));

    // What instances are told has no secret, and names the rule.
    let ids = group(&cloud, &template, 2, &[]);
    let told = userdata::documents(&metadata(&cloud, &ids[0], "user-data")).expect("ours").join;
    assert!(told.contains("identity = \"ec2\"\nenrolment = \"web\"\n") && !told.contains("token"), "{told}");

    // In once, as the host of its own name. Whoever lost the answer asks again with the same key.
    let (first, ours) = (shown(&cloud, &ids[0]), key());
    let made = frontend.enrol(Some(&first), &ours).expect("let in");
    assert_eq!(made.host.as_str(), ids[0]);
    let again = frontend.enrol(Some(&first), &ours).expect("let in again");
    assert!(again.host == made.host && again.certificate != made.certificate);
    let host = &frontend.json(&["list", "host", &ids[0]])["items"][0];
    assert_eq!((&host["instance"], &host["enrolment"]), (&json!(ids[0]), &json!("web")), "{host}");
    assert_eq!((&host["appliance"], &host["region"]), (&json!("lite"), &json!(cloud.config().region)), "{host}");

    // A replay by somebody else, and what is not EC2's word, or for another rule.
    assert_eq!(frontend.enrol(Some(&first), &key()).expect_err("a replay"), refused());
    let second = shown(&cloud, &ids[1]);
    let crossed = InstanceIdentity { document: second.document.clone(), ..first.clone() };
    let other_rule = InstanceIdentity { enrolment: "other".parse().ok(), ..second.clone() };
    let noise = InstanceIdentity { signature: "MIAG".to_owned(), ..second.clone() };
    for bad in [&crossed, &other_rule, &noise] {
        assert_eq!(frontend.enrol(Some(bad), &key()).expect_err("not its own"), refused());
    }
    assert_eq!(frontend.enrol(None, &key()).expect_err("nothing"), (400, "bad-request".to_owned()));
    frontend.enrol(Some(&second), &key()).expect("the second");

    // As many as there may be. One that is ended makes room, and cannot come back itself.
    let ids = group(&cloud, &template, 3, &[]);
    let third = ids.iter().find(|id| !second.document.contains(*id) && !first.document.contains(*id)).expect("one");
    let (third, new) = (shown(&cloud, third), key());
    assert_eq!(frontend.enrol(Some(&third), &new).expect_err("there are two"), refused());
    let gone = made.host.as_str();
    group(&cloud, &template, 2, &[gone]);
    let expired = || Ok((frontend.rocks(&["list", "host", gone]).code() == 4).then_some(()));
    wait_for("the host to expire", Duration::from_secs(20), expired)
        .unwrap_or_else(|e| panic!("{e:#}\n{}", frontend.log()));
    assert_eq!(frontend.enrol(Some(&first), &ours).expect_err("it is gone"), refused());
    frontend.enrol(Some(&third), &new).expect("there is room");
    assert_eq!(frontend.json(&["list", "enrolment"])["items"][0]["hosts"], 2);

    // The template goes with its rule; who is in stays, and nothing is left over.
    assert_eq!(frontend.json(&["list", "leak"])["items"], json!([]));
    frontend.ok(&["cancel", "provision", "web", "--yes"]);
    assert_eq!(frontend.json(&["list", "enrolment"])["items"], json!([]));
    assert_eq!(frontend.json(&["list", "leak"])["items"], json!([]));
    assert_eq!(frontend.json(&["list", "host"])["items"].as_array().map(Vec::len), Some(2));
    assert!(cloud.ask("POST", "scaling", &json!({"group": "web", "template": template, "size": 9})).is_err());
    assert!(!frontend.log().contains("PRIVATE KEY"));
}
