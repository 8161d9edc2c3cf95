use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::time::SystemTime;

use rocks_common::ids::Generation;
use rocks_common::wire::Facts;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::process::{Finished, Task};

/// A frontend that notes what it is asked, and answers with the next of what it is to say, a status and perhaps a body
/// in the next line; with the last again and again.
struct Frontend {
    port: u16,
    ca: String,
    asked: Arc<Mutex<Vec<String>>>,
    says: Arc<Mutex<Vec<&'static str>>>,
}

impl Frontend {
    async fn new(says: &[&'static str]) -> Self {
        let key = rcgen::KeyPair::generate().expect("a key");
        let names = vec!["127.0.0.1".to_owned()];
        let certificate =
            rcgen::CertificateParams::new(names).and_then(|params| params.self_signed(&key)).expect("one");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.serialize_der().try_into().expect("a key"))
            .expect("a configuration");
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("an address").port();
        let (asked, says) = (Arc::<Mutex<Vec<String>>>::default(), Arc::new(Mutex::new(says.to_vec())));
        let (notes, answers) = (asked.clone(), says.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Self::talk(acceptor.clone(), stream, notes.clone(), answers.clone()));
            }
        });
        Self { port, ca: certificate.pem(), asked, says }
    }

    async fn talk(
        acceptor: tokio_rustls::TlsAcceptor,
        stream: TcpStream,
        asked: Arc<Mutex<Vec<String>>>,
        says: Arc<Mutex<Vec<&'static str>>>,
    ) -> Option<()> {
        let mut stream = acceptor.accept(stream).await.ok()?;
        loop {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.ok()?);
            }
            let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
            let mut body = vec![0; length.unwrap_or(0)];
            stream.read_exact(&mut body).await.ok()?;
            asked.lock().ok()?.push(head.split_whitespace().take(2).collect::<Vec<_>>().join(" "));
            let answer = {
                let mut says = says.lock().ok()?;
                if says.len() > 1 { says.remove(0) } else { says[0] }
            };
            let (line, body) = answer.split_once('\n').unwrap_or((answer, ""));
            let head = format!("HTTP/1.1 {line}\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all((head + body).as_bytes()).await.ok()?;
        }
    }

    fn agent(&self, root: &Path) -> Agent {
        let config = Config::load(root, None, None).expect("no files");
        let (now, hour) = (Timestamp::now(), jiff::SignedDuration::from_hours(1));
        let address = format!("https://127.0.0.1:{}", self.port);
        let identity = identity::sample::at(&config.state, &address, &self.ca, now, now + hour);
        let journal = Journal::open(&config.state).expect("opened");
        Agent::with(config, identity, journal).expect("an agent")
    }

    /// What was asked since the last time.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().expect("lock"))
    }

    fn say(&self, says: &[&'static str]) {
        *self.says.lock().expect("lock") = says.to_vec();
    }
}

fn report(config: &Config) -> Report {
    let turn = Turn { config, processes: &System, mirror: None, facts: Facts::default() };
    turn.report(None, Outcome::Unchanged, Vec::new())
}

#[tokio::test]
async fn a_report_that_cannot_be_kept_is_sent_all_the_same() {
    let root = tempfile::tempdir().expect("a folder");
    let frontend = Frontend::new(&["503 Not now", "200 OK"]).await;
    let mut agent = frontend.agent(root.path());
    std::fs::write(agent.config.state.join("reports"), "in the way").expect("written");
    let report = report(&agent.config);
    agent.tell_frontend(&report).await;
    assert_eq!(frontend.asked(), ["post /api/v1/reports"]);
    assert!(agent.unsent);
    agent.send_reports().await;
    assert_eq!(frontend.asked(), ["post /api/v1/reports"]);
    assert!(!agent.unsent);
    agent.send_reports().await;
    assert!(frontend.asked().is_empty());
}

/// Sections that take a while, and how often one was begun.
#[derive(Default)]
struct Slow(AtomicUsize);

impl Processes for Slow {
    fn run(&self, _: &Task) -> std::io::Result<Finished> {
        self.0.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(300));
        Ok(Finished { code: Some(0), timed_out: false, output: Vec::new(), cut: false })
    }
}

#[tokio::test]
async fn a_service_that_is_told_to_end_ends_its_step_and_tells_of_it() {
    let root = tempfile::tempdir().expect("a folder");
    let frontend = Frontend::new(&["304 Not Modified", "200 OK"]).await;
    let mut agent = frontend.agent(root.path());
    let slow = Arc::new(Slow::default());
    agent.processes = slow.clone();
    let text = "%post\na\n%end\n%post\nb\n%end\n".to_owned();
    let desired = Desired { digest: Digest::of(text.as_bytes()), text, generation: Generation(1) };
    let turn = Turn { config: &agent.config, processes: &System, mirror: None, facts: Facts::default() };
    let journal = agent.journal.as_mut().expect("a journal");
    assert!(converge::accept(&turn, journal, &desired).expect("written").is_ok());
    let stop = agent.stop.clone();
    let begun = async {
        while slow.0.load(Ordering::SeqCst) == 0 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(matches!(until(begun, &stop, agent.serve()).await, Some(Ok(()))));
    assert_eq!(slow.0.load(Ordering::SeqCst), 1);
    assert_eq!(frontend.asked(), ["get /api/v1/kickstart", "post /api/v1/reports"]);
    let last = Status::load(&root.path().join("var/lib/rocks-agent")).last.expect("a report");
    assert_eq!((last.outcome, last.kickstart, last.steps.len()), (Outcome::Incomplete, None, 1));
    assert_eq!(last.findings[0].code, "stopped");
    // One that only waits is not waited for.
    let began = Instant::now();
    let none: Option<()> = until(sleep(Duration::from_millis(50)), &Stop::default(), std::future::pending()).await;
    assert!(none.is_none() && began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn while_a_report_waits_changes_are_not_waited_for_long() {
    let root = tempfile::tempdir().expect("a folder");
    let frontend = Frontend::new(&["503 Not now"]).await;
    let mut agent = frontend.agent(root.path());
    let report = report(&agent.config);
    let mut waits = Vec::new();
    for _ in 0..5 {
        agent.tell_frontend(&report).await;
        waits.push(agent.patience().as_secs());
    }
    for (wait, least) in waits.iter().zip([5, 10, 20, 30, 30]) {
        assert!(*wait >= least && *wait <= least + least / 4 + 1, "{waits:?}");
    }
    frontend.say(&["200 OK"]);
    agent.send_reports().await;
    assert_eq!(agent.patience(), Duration::MAX);
}

#[test]
fn a_certificate_that_has_ended_is_told_as_that() {
    let (identity, end) = identity::sample::made();
    let network = FetchError::Network { frontend: "https://f".into(), why: "handshake failure".into() };
    let told = |now| in_the_way(Some(&network), &identity, now).expect("something is");
    assert_eq!(told(end).code, "frontend-unreachable");
    let over = told(end + jiff::SignedDuration::from_secs(1));
    assert_eq!(over.code, "certificate-ended");
    assert!(over.message.contains("handshake failure"), "{over:?}");
    assert!(over.hint.is_some_and(|hint| hint.contains("rocks report host join a-0-0")));
    assert!(in_the_way(None, &identity, end + jiff::SignedDuration::from_secs(1)).is_none());
}

#[tokio::test]
async fn a_join_document_counts_when_the_certificate_has_ended_and_not_before() {
    let root = tempfile::tempdir().expect("a folder");
    let config = Config::load(root.path(), None, None).expect("no files");
    let (now, hour) = (Timestamp::now(), jiff::SignedDuration::from_hours(1));
    let path = joining::join_path(&config);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    std::fs::write(&path, "nonsense").expect("written");
    identity::sample::keep(&config.state, now - hour, now + hour);
    assert!(!joining::identity(&config).await.expect("it is used").is_over(now));
    // It is looked at, and what cannot be used is no reason to have no identity.
    identity::sample::keep(&config.state, now - hour * 2, now - hour);
    assert!(joining::identity(&config).await.expect("the old one").is_over(now));
    std::fs::remove_dir_all(config.state.join(identity::FOLDER)).expect("removed");
    assert!(matches!(joining::identity(&config).await, Err(IdentityError::Bad { .. })));
}

const GONE: &str = "403 Forbidden\n{\"code\": \"certificate-revoked\", \"title\": \"it was revoked\", \"status\": 403}";

#[tokio::test]
async fn whose_certificate_was_revoked_takes_the_identity_that_was_enrolled_by_hand() {
    let root = tempfile::tempdir().expect("a folder");
    let frontend = Frontend::new(&["304 Not Modified", GONE]).await;
    let mut agent = frontend.agent(root.path());
    let (now, hour) = (Timestamp::now(), jiff::SignedDuration::from_hours(1));
    let address = format!("https://127.0.0.1:{}", frontend.port);
    let made = identity::sample::at(&agent.config.state, &address, &frontend.ca, now, now + hour);
    // As long as ours holds it counts.
    assert!(agent.turn(0, false).await.expect("written").error.is_none());
    agent.renew_if_due().await;
    assert!(agent.identity != made);
    let turned = agent.turn(0, false).await.expect("written");
    let found = in_the_way(turned.error.as_ref(), &agent.identity, now).expect("something is");
    assert_eq!(found.code, REVOKED);
    assert!(found.hint.is_some_and(|hint| hint.contains("rocks report host join a-0-0")));
    agent.renew_if_due().await;
    assert!(agent.identity == made && !agent.revoked);
}

#[tokio::test]
async fn whose_certificate_was_revoked_takes_a_join_document_and_tries_one_that_is_refused_again_only_later() {
    let root = tempfile::tempdir().expect("a folder");
    let refused = "403 Forbidden\n{\"code\": \"token-refused\", \"title\": \"no\", \"status\": 403}";
    let frontend = Frontend::new(&[GONE, refused]).await;
    let mut agent = frontend.agent(root.path());
    let path = joining::join_path(&agent.config);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    let text = format!("frontend = 'https://127.0.0.1:{}'\ntoken = 't'\nca = '''{}'''\n", frontend.port, frontend.ca);
    let put = |age| {
        std::fs::write(&path, &text).expect("written");
        let file = std::fs::File::options().write(true).open(&path).expect("opened");
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).expect("set");
    };
    put(60);
    let before = agent.identity.clone();
    agent.renew_if_due().await;
    assert!(frontend.asked().is_empty());
    agent.turn(0, false).await.expect("written");
    for _ in 0..3 {
        agent.renew_if_due().await;
    }
    // Its token may be used up: it is not shown again and again.
    assert_eq!(frontend.asked(), ["get /api/v1/kickstart", "post /api/v1/enrol"]);
    assert!(agent.identity == before && agent.revoked);
    // Another document is no reason to wait.
    put(0);
    let given = identity::sample::answer_to(&agent.config.state);
    let given = rocks_common::wire::EnrolResponse { ca: frontend.ca.clone(), ..given };
    frontend.say(&[format!("200 OK\n{}", serde_json::to_string(&given).expect("json")).leak()]);
    agent.renew_if_due().await;
    assert_eq!(frontend.asked(), ["post /api/v1/enrol"]);
    assert!(agent.identity != before && !agent.revoked && !path.exists());
}
