//! A local EC2, and a frontend that only pretends.
#![allow(dead_code, reason = "each test file uses some of it")]

pub(crate) mod parts;

use std::collections::BTreeSet;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use parts::Parts;
use rocks_aws::{Aws, Keys, Settings};
use rocks_common::ids::HostName;
use rocks_provision::cloud::{BootMode, Owned, Tags};
use rocks_provision::engine::{Blocks, Pieces, Shipped, Site, SiteError, run};
use rocks_provision::ids::{AccountId, AmiId, ProvisionId, VolumeId};
use rocks_provision::objects::BucketName;
use rocks_provision::order::{End, Join, Method, Order, Shipment, Store};
use rocks_provision::record::Record;
use rocks_provision::undo;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::sleep;

/// The path of minicloud's binary.
const BINARY: &str = "ROCKS_MINICLOUD";
/// Options for it: `--aws` makes it as slow and strict as AWS.
const OPTIONS: &str = "ROCKS_MINICLOUD_OPTIONS";
/// The frontend's name in tags.
pub(crate) const SITE: &str = "frontend.example.org";

/// A local EC2. It ends with this.
pub(crate) struct Minicloud {
    child: Child,
    address: SocketAddr,
    ready: Value,
    _dir: tempfile::TempDir,
}

impl Minicloud {
    /// Starts one in which nothing boots, as [`OPTIONS`] say. Nothing, with a word, where there is no binary.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&std::env::var(OPTIONS).unwrap_or_default())
    }

    /// Starts one that knows at once what it made, for those who do not ask twice.
    pub(crate) fn start_prompt() -> Option<Self> {
        Self::start_with("")
    }

    /// Starts one with this configuration in TOML.
    pub(crate) fn start_of(config: &str) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("cloud.toml");
        std::fs::write(&file, config).expect("written");
        Self::start_with(&format!("--config {}", file.display()))
    }

    fn start_with(options: &str) -> Option<Self> {
        let Some(binary) = std::env::var_os(BINARY) else {
            #[expect(clippy::print_stdout, reason = "whoever reads the test's output is to know")]
            {
                println!("left out: {BINARY} does not name minicloud's binary");
            }
            return None;
        };
        let dir = tempfile::tempdir().expect("a folder");
        #[expect(clippy::disallowed_methods, reason = "a test starts its own cloud")]
        let mut child = Command::new(binary)
            .args(["serve", "--no-boot", "--listen", "127.0.0.1:0", "--dir"])
            .arg(dir.path())
            .args(options.split_whitespace())
            .stdout(Stdio::piped())
            .spawn()
            .expect("minicloud can be run");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line:?}: {e}"));
        let address = text(&ready, "endpoint").trim_start_matches("http://").trim_end_matches('/');
        let address = address.parse().unwrap_or_else(|e| panic!("{address}: {e}"));
        Some(Self { child, address, ready, _dir: dir })
    }

    /// It, for the frontend's user, who may do what docs/iam.json says and nothing else.
    pub(crate) async fn aws(&self) -> Aws {
        self.aws_with("rocks", &rocks_provision::iam::policy()).await
    }

    /// It, for one who may do everything.
    pub(crate) async fn aws_of_all(&self) -> Aws {
        self.aws_as(text(&self.ready, "access_key_id"), text(&self.ready, "secret_access_key")).await
    }

    /// It, for a user who may do what a policy says.
    pub(crate) async fn aws_with(&self, user: &str, policy: &str) -> Aws {
        let policy: Value = serde_json::from_str(policy).expect("a policy");
        let (id, secret) = (format!("AKIA{}", user.replace(':', "").to_uppercase()), "rocks/example/secret");
        let key = serde_json::json!({ "id": id, "secret": secret, "user": user, "policy": policy });
        self.ask("POST", "keys", &key.to_string());
        self.aws_as(&id, secret).await
    }

    /// It, for one with these keys.
    pub(crate) async fn aws_as(&self, id: &str, secret: &str) -> Aws {
        let keys = Keys { id: id.to_owned(), secret: secret.to_owned() };
        let endpoint = Some(format!("http://{}", self.address));
        Aws::new(Settings { region: text(&self.ready, "region").to_owned(), endpoint, keys: Some(keys) }).await
    }

    /// What tests may ask behind the product's back.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> Value {
        let mut stream = TcpStream::connect(self.address).expect("minicloud listens");
        let length = body.len();
        let request = format!(
            "{method} /_minicloud/{path} HTTP/1.1\r\nHost: minicloud\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 200"), "{method} {path}: {answer}");
        serde_json::from_str(body).unwrap_or_else(|e| panic!("{body}: {e}"))
    }

    /// What an address without a signature of ours gives: the status, and what is in it.
    pub(crate) fn get(&self, address: &str) -> (u16, Vec<u8>) {
        let path = address.strip_prefix(&format!("http://{}", self.address)).expect("an address of this cloud");
        let mut stream = TcpStream::connect(self.address).expect("minicloud listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address);
        stream.write_all(request.as_bytes()).expect("a request");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
        let status = String::from_utf8_lossy(&answer[..end]).split(' ').nth(1).and_then(|code| code.parse().ok());
        (status.expect("a status"), answer.split_off(end + 4))
    }

    /// Puts a fault into calls.
    pub(crate) fn fault(&self, fault: &Value) {
        self.ask("POST", "faults", &fault.to_string());
    }

    /// The permissions that calls needed, from the first.
    pub(crate) fn permissions(&self) -> BTreeSet<String> {
        let calls = self.ask("GET", "calls", "");
        let calls = calls["calls"].as_array().cloned().unwrap_or_default();
        let of = |call: &Value| call["permissions"].as_array().cloned().unwrap_or_default();
        calls.iter().flat_map(of).filter_map(|one| one.as_str().map(str::to_owned)).collect()
    }

    /// What of a kind somebody still pays for.
    pub(crate) fn held(&self, kind: &str) -> usize {
        let bill = self.ask("GET", "bill", "");
        let items = bill["items"].as_array().cloned().unwrap_or_default();
        items.iter().filter(|item| item["kind"] == kind && item["end"].is_null()).count()
    }

    /// How often a call was made.
    pub(crate) fn count(&self, call: &str) -> u64 {
        self.ask("GET", "bill", "")["requests"][call].as_u64().unwrap_or(0)
    }

    /// Ids of what is there and neither terminated nor deleted, whosever it is.
    pub(crate) fn alive(&self, kind: &str) -> Vec<String> {
        let state = self.ask("GET", "state", "");
        let all = state[kind].as_array().cloned().unwrap_or_else(|| panic!("no {kind} in {state}"));
        let is_alive = |one: &Value| !matches!(one["state"].as_str(), Some("terminated" | "shutting-down" | "deleted"));
        all.iter().filter(|one| is_alive(one)).map(|one| text(one, "id").to_owned()).collect()
    }
}

impl Drop for Minicloud {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}"))
}

/// A name, or what else can be read from text.
pub(crate) fn parsed<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().unwrap_or_else(|e| panic!("{text}: {e:?}"))
}

/// Tags of one thing.
pub(crate) fn tags(provision: &str, role: &str) -> Tags {
    Tags { site: SITE.to_owned(), provision: parsed(provision), role: role.to_owned() }
}

/// Whether there is what makes and opens the disks.
pub(crate) fn has_qemu() -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("qemu-img").exists()))
}

/// Where objects go.
pub(crate) fn bucket() -> BucketName {
    BucketName::of_site("0123456789abcdef", "us-east-1").expect("a name")
}

/// What is a site's and no record's.
pub(crate) async fn leaks(aws: &Aws, site: &str, records: &[Record]) -> Vec<Owned> {
    undo::leaks(undo::owned(aws, site, &[bucket()]).await.expect("listed"), records)
}

/// An order by a method, of the image `ami` if the method needs one: the receiver's, or the lite one.
pub(crate) fn order(method: Method, count: u32, ami: Option<&AmiId>) -> Order {
    let is_there = method == Method::Lite;
    let shipment = Shipment {
        image: parsed("compute"),
        build: Some(parsed("compute")),
        gib: 1,
        boot: None,
        receiver: ami.cloned(),
        parent: None,
        base: None,
        store: (method == Method::Bundle).then(|| Store { bucket: bucket(), end: End::Import, role: None }),
    };
    Order {
        appliance: parsed("compute"),
        method,
        ami: ami.filter(|_| is_there).cloned(),
        shipment: (!is_there).then_some(shipment),
        hosts: (0..count).map(|number| parsed(&format!("compute-0-{number}"))).collect(),
        // Launched one by one or together, by turns.
        join: if count > 0 && count.is_multiple_of(2) { Join::Identity } else { Join::Token },
        template: false,
        most: None,
        architecture: "x86_64".to_owned(),
        region: "us-east-1".to_owned(),
        kind: "m5.large".to_owned(),
        receiver_kind: "t3.medium".to_owned(),
        subnet: None,
        groups: Vec::new(),
        key: None,
        spot: false,
        encrypted: matches!(method, Method::Ebs | Method::Bundle),
        kms_key: None,
        frontend: Ipv4Addr::new(198, 51, 100, 7),
        inside: false,
        port: 8444,
    }
}

/// Carries the provision on that is kept, by one frontend after the other, until it ends: the nth is killed after `life(n)`. Gives it, and how many
/// frontends there were.
pub(crate) async fn carried_on(aws: &Aws, site: &Pretender, life: &dyn Fn(u64) -> Duration) -> (Record, u64) {
    let (_sender, mut cancel) = watch::channel(false);
    let mut frontends = 0;
    loop {
        let record = site.last().expect("a record");
        if !record.status.is_open() {
            return (record, frontends);
        }
        frontends += 1;
        tokio::select! {
            ended = run(aws, site, record, &mut cancel) => { ended.expect("kept"); }
            () = sleep(life(frontends)) => {}
        }
    }
}

/// A provision that has not begun.
pub(crate) fn begun(id: &str, order: Order) -> Record {
    assert_eq!(order.check(), Ok(()));
    Record::new(parsed::<ProvisionId>(id), SITE.to_owned(), order, Timestamp::now())
}

/// A frontend that builds nothing and sends nothing.
#[derive(Default)]
pub(crate) struct Pretender {
    /// The record as it was kept last.
    pub(crate) kept: Mutex<Option<Record>>,
    /// The account whose instances are let in.
    pub(crate) lets_in: Mutex<Option<AccountId>>,
    /// The shipment never ends.
    pub(crate) ships_for_ever: AtomicBool,
    /// What is sent by way of S3, when it was made.
    made: Mutex<Option<Parts>>,
}

impl Pretender {
    /// The record as it was kept last.
    pub(crate) fn last(&self) -> Option<Record> {
        self.kept.lock().expect("no panic").clone()
    }
}

struct ThreeBlocks;

impl Blocks for ThreeBlocks {
    fn digest(&self) -> &str {
        "three"
    }

    fn indices(&self) -> &[u32] {
        &[0, 1, 7]
    }

    fn read(&self, index: u32) -> io::Result<Vec<u8>> {
        Ok(vec![u8::try_from(index).unwrap_or(0) + 1; 512 << 10])
    }
}

impl Site for Pretender {
    async fn boots(&self, _: &Order) -> Result<BootMode, SiteError> {
        Ok(BootMode::UefiPreferred)
    }

    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    async fn keep(&self, record: &Record) -> Result<(), SiteError> {
        *self.kept.lock().expect("no panic") = Some(record.clone());
        Ok(())
    }

    async fn build(&self, _: &Order) -> Result<(), SiteError> {
        Ok(())
    }

    async fn receiver(&self, _: &Record, volume: &VolumeId, device: &str) -> Result<String, SiteError> {
        Ok(format!("receive {volume} {device}"))
    }

    async fn ship(&self, _: &Record, to: SocketAddr) -> Result<Shipped, SiteError> {
        assert_eq!(to.port(), 8444);
        if self.ships_for_ever.load(Ordering::Relaxed) {
            sleep(Duration::from_secs(3600)).await;
        }
        Ok(Shipped { sent_bytes: 1000, digest: "d".to_owned() })
    }

    async fn blocks(&self, _: &Order) -> Result<Box<dyn Blocks>, SiteError> {
        Ok(Box::new(ThreeBlocks))
    }

    async fn bundle(&self, record: &Record) -> Result<Box<dyn Pieces>, SiteError> {
        let mut made = self.made.lock().expect("no panic");
        let parts = made.get_or_insert_with(|| match record.order.store().map(|store| store.end) {
            Some(End::Register) => Parts::of_bundle(&parts::a_disk()),
            _ => Parts::of_disk(&parts::a_disk()),
        });
        Ok(Box::new(parts.clone()))
    }

    async fn sent(&self, _: &Record) -> Result<(), SiteError> {
        Ok(())
    }

    async fn member(&self, record: &Record, host: &HostName) -> Result<String, SiteError> {
        Ok(format!("{}/{host}", record.id))
    }

    async fn members(&self, record: &Record, _: &[HostName]) -> Result<String, SiteError> {
        Ok(format!("members of {}", record.id))
    }

    async fn template(&self, record: &Record) -> Result<String, SiteError> {
        Ok(format!("enrol by {}", record.id))
    }

    async fn let_in(&self, record: &Record, account: &AccountId) -> Result<(), SiteError> {
        assert!(record.found.template.is_some());
        *self.lets_in.lock().expect("no panic") = Some(account.clone());
        Ok(())
    }

    async fn converged(&self, hosts: &[HostName]) -> Result<Vec<HostName>, SiteError> {
        Ok(hosts.to_vec())
    }

    async fn received(&self, _: &Record) -> Result<(), SiteError> {
        Ok(())
    }

    async fn forget(&self, _: &Record) -> Result<(), SiteError> {
        Ok(())
    }
}
