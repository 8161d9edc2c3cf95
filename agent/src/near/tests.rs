//! The depot, the catalogue and the gateway's answers, against sources that are good, dead, cut short or liars.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::StatusCode;
use rocks_common::ids::{ArchName, Digest, Generation, Sha256};
use rocks_common::index::{Entry, Index, REPOMD, named_repomd};
use rocks_common::seal::{IndexClaim, Sealer};
use rocks_common::wire::{SealedIndex, path};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::cache::Cache;
use super::catalogue::{Catalogue, CatalogueError};
use super::client::{ClientError, Endpoint, Pace, Patience};
use super::depot::{Depot, Progress, Taken};
use super::serve::Desk;
use super::source::{Kind, Source, Wanted};

/// How a server behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Good,
    /// The right length, the wrong bytes.
    Lies,
    /// Breaks off after so many bytes.
    Breaks(usize),
    /// Says nothing.
    Silent,
    Lacks,
    /// Answers in small pieces, so that others come while it is at it.
    Slow,
    /// Gives a byte whenever somebody is about to lose patience.
    Drips,
}

/// A server of files, which counts how often it was asked.
struct Server {
    port: u16,
    asked: Arc<AtomicUsize>,
    redirects_to: Arc<Mutex<Option<u16>>>,
}

fn patience() -> Patience {
    Patience { connect: Duration::from_millis(500), silence: Duration::from_millis(500) }
}

impl Server {
    async fn new(files: BTreeMap<String, Vec<u8>>, manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let asked = Arc::new(AtomicUsize::new(0));
        let redirects_to: Arc<Mutex<Option<u16>>> = Arc::default();
        let (count, files, to) = (asked.clone(), Arc::new(files), redirects_to.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (count, files, to) = (count.clone(), files.clone(), to.clone());
                tokio::spawn(async move { drop(Self::talk(stream, &count, &files, manner, &to).await) });
            }
        });
        Self { port, asked, redirects_to }
    }

    async fn talk(
        mut stream: TcpStream,
        count: &AtomicUsize,
        files: &BTreeMap<String, Vec<u8>>,
        manner: Manner,
        to: &Mutex<Option<u16>>,
    ) -> std::io::Result<()> {
        let mut head = Vec::new();
        loop {
            let mut byte = [0];
            if stream.read(&mut byte).await? == 0 {
                return Ok(());
            }
            head.push(byte[0]);
            if !head.ends_with(b"\r\n\r\n") {
                continue;
            }
            count.fetch_add(1, Ordering::SeqCst);
            let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
            let asked = String::from_utf8_lossy(&head).split_whitespace().nth(1).unwrap_or_default().to_owned();
            head.clear();
            let to = *to.lock().expect("lock");
            if let (Some(port), true) = (to, text.contains("rocks-near: bucket")) {
                let answer =
                    format!("HTTP/1.1 307 T\r\nlocation: http://127.0.0.1:{port}{asked}\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await?;
                continue;
            }
            let start =
                text.split("range: bytes=").nth(1).and_then(|rest| rest.split('-').next()?.parse::<usize>().ok());
            let Some(file) = files.get(&asked).filter(|_| manner != Manner::Lacks) else {
                stream.write_all(b"HTTP/1.1 404 N\r\ncontent-length: 0\r\n\r\n").await?;
                continue;
            };
            if manner == Manner::Silent {
                tokio::time::sleep(Duration::from_secs(30)).await;
            }
            let mut body = file[start.unwrap_or(0)..].to_vec();
            if manner == Manner::Lies {
                body.iter_mut().for_each(|byte| *byte ^= 1);
            }
            let status = match start {
                None => "200 OK".to_owned(),
                Some(start) => format!("206 P\r\ncontent-range: bytes {start}-{}/{}", file.len() - 1, file.len()),
            };
            stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes()).await?;
            match manner {
                Manner::Breaks(after) => {
                    stream.write_all(&body[..after.min(body.len())]).await?;
                    stream.flush().await?;
                    return Ok(());
                }
                Manner::Slow => {
                    for piece in body.chunks(body.len() / 8 + 1) {
                        stream.write_all(piece).await?;
                        tokio::time::sleep(Duration::from_millis(40)).await;
                    }
                }
                Manner::Drips => {
                    for byte in body {
                        stream.write_all(&[byte]).await?;
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
                _ => stream.write_all(&body).await?,
            }
        }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn endpoint(&self) -> Arc<Endpoint> {
        Endpoint::new("127.0.0.1", self.port, None, patience())
    }

    fn source(&self, kind: Kind) -> Source {
        Source::new(kind, format!("{kind:?}"), self.endpoint())
    }
}

fn arch() -> ArchName {
    ArchName::new("x86_64").expect("a name")
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|n| u8::try_from(n * 7 % 251).expect("small")).collect()
}

/// A file of the mirror, its wish, and the files of a server that has it.
fn file(path: &str, bytes: &[u8]) -> (Wanted, BTreeMap<String, Vec<u8>>) {
    let entry = Entry { digest: Sha256::of(bytes), size: bytes.len() as u64 };
    let files = BTreeMap::from([(format!("{}/x86_64/{path}", path::MIRROR), bytes.to_vec())]);
    (Wanted { arch: arch(), path: path.to_owned(), entry }, files)
}

fn depot(sources: Vec<Source>, limit: u64) -> (tempfile::TempDir, Arc<Depot>) {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = Cache::open(folder.path(), limit).expect("opened");
    (folder, Depot::new(cache, sources))
}

async fn ended(depot: &Arc<Depot>, wanted: &Wanted) -> Progress {
    match depot.take(wanted).await {
        Taken::Held(_) => Progress::Done { attempt: 0 },
        Taken::Through => Progress::NoRoom,
        Taken::Coming(flight) => {
            let mut progress = flight.progress.clone();
            let ended = progress.wait_for(|progress| !matches!(progress, Progress::Coming { .. })).await;
            let ended = *ended.expect("it ends");
            if matches!(ended, Progress::Done { .. }) {
                let length = usize::try_from(flight.size).expect("small");
                let mut bytes = vec![0; length];
                std::os::unix::fs::FileExt::read_exact_at(&*flight.file, &mut bytes, 0).expect("read");
                assert_eq!(Sha256::of(&bytes), wanted.entry.digest);
            }
            ended
        }
    }
}

#[tokio::test]
async fn wrong_bytes_are_found_whoever_gives_them_and_the_next_source_is_asked() {
    let bytes = content(200_000);
    let (wanted, files) = file("Packages/a.rpm", &bytes);
    let liar = Server::new(files.clone(), Manner::Lies).await;
    let frontend = Server::new(files.clone(), Manner::Good).await;
    let (_folder, depot) = depot(vec![liar.source(Kind::Relay), frontend.source(Kind::Frontend)], 1 << 20);
    assert_eq!(ended(&depot, &wanted).await, Progress::Done { attempt: 1 });
    assert!(depot.sources()[0].fault().is_some_and(|why| why.contains("wrong bytes")));
    // It is held now; and the liar is not asked again for anything.
    assert!(matches!(depot.take(&wanted).await, Taken::Held(_)));
    let (other, _) = file("Packages/b.rpm", b"not there");
    assert_eq!(ended(&depot, &other).await, Progress::Failed);
    assert_eq!((liar.asked(), frontend.asked()), (2, 4), "the last one is asked last, and the frontend three times");
}

#[tokio::test]
async fn a_frontend_that_gives_other_bytes_is_not_believed_either() {
    let (wanted, files) = file("Packages/a.rpm", &content(1000));
    let frontend = Server::new(files, Manner::Lies).await;
    let (folder, depot) = depot(vec![frontend.source(Kind::Frontend)], 1 << 20);
    assert_eq!(ended(&depot, &wanted).await, Progress::Failed);
    assert_eq!(std::fs::read_dir(folder.path()).expect("read").count(), 0);
}

#[tokio::test]
async fn what_came_stays_when_a_source_breaks_off() {
    let bytes = content(300_000);
    let (wanted, files) = file("Packages/a.rpm", &bytes);
    let cut = Server::new(files.clone(), Manner::Breaks(100_000)).await;
    let frontend = Server::new(files, Manner::Good).await;
    let (_folder, depot) = depot(vec![cut.source(Kind::Relay), frontend.source(Kind::Frontend)], 1 << 20);
    assert_eq!(ended(&depot, &wanted).await, Progress::Done { attempt: 0 });
    assert_eq!(depot.sources()[1].given(), 200_000);
    // Two that together give something wrong: it begins anew, with the frontend alone.
    let (wanted, files) = file("Packages/b.rpm", &bytes);
    let liar = Server::new(files.clone(), Manner::Lies).await;
    let cut = Server::new(files.clone(), Manner::Breaks(100_000)).await;
    let frontend = Server::new(files, Manner::Good).await;
    let sources = vec![cut.source(Kind::Relay), liar.source(Kind::Relay), frontend.source(Kind::Frontend)];
    let (_folder, depot) = self::depot(sources, 1 << 20);
    assert_eq!(ended(&depot, &wanted).await, Progress::Done { attempt: 1 });
}

#[tokio::test]
async fn a_dead_or_silent_source_costs_a_bounded_time_once() {
    let names = ["a", "b", "c", "d"];
    let mut files = BTreeMap::new();
    let wanted: Vec<Wanted> = names
        .iter()
        .map(|name| {
            let (wanted, more) = file(&format!("Packages/{name}.rpm"), name.as_bytes());
            files.extend(more);
            wanted
        })
        .collect();
    let silent = Server::new(files.clone(), Manner::Silent).await;
    let lacking = Server::new(files.clone(), Manner::Lacks).await;
    let frontend = Server::new(files, Manner::Good).await;
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address").port();
    let gone = Source::new(Kind::Relay, "gone", Endpoint::new("127.0.0.1", gone, None, patience()));
    let sources = vec![gone, silent.source(Kind::Relay), lacking.source(Kind::Relay), frontend.source(Kind::Frontend)];
    let (_folder, depot) = depot(sources, 1 << 20);
    let began = Instant::now();
    for wanted in &wanted {
        assert_eq!(ended(&depot, wanted).await, Progress::Done { attempt: 0 });
    }
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    assert_eq!((silent.asked(), frontend.asked()), (1, 4));
    assert!(depot.sources()[2].fault().is_none(), "to lack a file is no fault");
}

#[tokio::test]
async fn many_who_ask_at_once_cost_one_fetch_and_get_it_while_it_comes() {
    let bytes = content(800_000);
    let (wanted, files) = file("Packages/a.rpm", &bytes);
    let frontend = Server::new(files, Manner::Slow).await;
    let (_folder, depot) = depot(vec![frontend.source(Kind::Frontend)], 4 << 20);
    let mut askers = Vec::new();
    for _ in 0..50 {
        let (depot, wanted) = (depot.clone(), wanted.clone());
        askers.push(tokio::spawn(async move { ended(&depot, &wanted).await }));
    }
    let Taken::Coming(flight) = depot.take(&wanted).await else { panic!("it is not coming") };
    let mut progress = flight.progress.clone();
    progress.wait_for(|now| super::depot::open_to(*now, 800_000) > 0).await.expect("some of it is there");
    assert!(matches!(*progress.borrow(), Progress::Coming { .. }), "before it is whole");
    for asker in askers {
        assert_eq!(asker.await.expect("it ends"), Progress::Done { attempt: 0 });
    }
    assert_eq!(frontend.asked(), 1);
}

#[tokio::test]
async fn the_bucket_is_found_through_the_frontend() {
    let (wanted, files) = file("Packages/a.rpm", &content(1000));
    let (bucket, frontend) = (Server::new(files.clone(), Manner::Good).await, Server::new(files, Manner::Good).await);
    *frontend.redirects_to.lock().expect("lock") = Some(bucket.port);
    let buckets = super::source::Buckets::new(crate::tls::public(std::path::Path::new("/")).expect("roots"));
    let endpoint = frontend.endpoint();
    let sources = vec![Source::bucket(endpoint.clone(), buckets), Source::new(Kind::Frontend, "frontend", endpoint)];
    let (_folder, depot) = depot(sources, 1 << 20);
    assert_eq!(ended(&depot, &wanted).await, Progress::Done { attempt: 0 });
    assert_eq!((bucket.asked(), depot.sources()[0].given(), depot.sources()[1].given()), (1, 1000, 0));
}

#[tokio::test]
async fn a_source_that_drips_costs_a_bounded_time_and_what_came_stays() {
    let (wanted, files) = file("Packages/a.rpm", &content(1000));
    let drips = Server::new(files.clone(), Manner::Drips).await;
    let frontend = Server::new(files, Manner::Good).await;
    let pace = Pace { least: 1000, whole: Duration::from_millis(300) };
    let endpoint = Endpoint::paced("127.0.0.1", drips.port, None, patience(), pace);
    let relay = Source::new(Kind::Relay, "relay", endpoint.clone());
    let (_folder, depot) = depot(vec![relay, frontend.source(Kind::Frontend)], 1 << 20);
    let began = Instant::now();
    assert_eq!(ended(&depot, &wanted).await, Progress::Done { attempt: 0 });
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let [relay, from] = [0, 1].map(|at| depot.sources()[at].given());
    assert!(relay > 0 && relay + from == 1000, "{relay} and {from}");
    assert!(depot.sources()[0].fault().is_some_and(|why| why.contains("too slow")));

    // Of an index nobody has a use for half of it.
    let sealer = sealer();
    let mut index = Index::default();
    index.add(&wanted.path, wanted.entry).expect("added");
    let (sealed, text) = sealed(&sealer, &index, 7);
    let files = BTreeMap::from([(format!("{}/x86_64", path::INDEX), text.into_bytes())]);
    let (drips, good) = (Server::new(files.clone(), Manner::Drips).await, Server::new(files, Manner::Good).await);
    let pace = Pace { least: 0, ..pace };
    let places = [Endpoint::paced("127.0.0.1", drips.port, None, patience(), pace), good.endpoint()];
    let folder = tempfile::tempdir().expect("a folder");
    let catalogue = Catalogue::open(folder.path(), sealer.public());
    let (slow, began) = (Mutex::new(Vec::new()), Instant::now());
    let known =
        catalogue.fetch(&sealed, &places, |at| slow.lock().expect("lock").push(at)).await.expect("from the next");
    assert!(known.sealed == sealed && began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(*slow.lock().expect("lock"), [0]);
    let nobody = catalogue.fetch(&self::sealed(&sealer, &Index::default(), 8).0, &places[..1], |_| {}).await;
    assert!(matches!(nobody, Err(CatalogueError::Client(ClientError::Slow))));
}

/// What a package manager sees.
struct Seen {
    status: StatusCode,
    body: Result<Vec<u8>, String>,
}

async fn ask(desk: &Arc<Desk>, path: &str, range: Option<&str>) -> Seen {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let desk = desk.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let desk = desk.clone();
            tokio::spawn(async move { desk.connection(stream).await });
        }
    });
    let endpoint = Endpoint::new("127.0.0.1", port, None, Patience { silence: Duration::from_secs(10), ..patience() });
    let headers: Vec<_> = range.map(|range| (http::header::RANGE, range.to_owned())).into_iter().collect();
    let answer = endpoint.get(path, &headers).await.expect("an answer");
    Seen { status: answer.status(), body: answer.whole(1 << 30).await.map_err(|error| error.to_string()) }
}

fn desk(depot: &Arc<Depot>, sealer: &Sealer, index: &Index, patience: Duration) -> (tempfile::TempDir, Arc<Desk>) {
    let folder = tempfile::tempdir().expect("a folder");
    let catalogue = Catalogue::open(folder.path(), sealer.public());
    let (sealed, text) = sealed(sealer, index, 7);
    catalogue.learn(sealed, text).expect("taken");
    let (depot, prefix) = (depot.clone(), "/secret".to_owned());
    (folder, Arc::new(Desk { depot, catalogue, prefix, patience, frontend: None }))
}

fn sealer() -> Sealer {
    Sealer::from_pkcs8(&Sealer::generate().expect("a key")).expect("a key")
}

fn sealed(sealer: &Sealer, index: &Index, generation: u64) -> (SealedIndex, String) {
    let text = index.text();
    let claim = IndexClaim { arch: arch(), generation: Generation(generation), digest: Digest::of(text.as_bytes()) };
    (SealedIndex { seal: sealer.seal(&claim), claim }, text)
}

#[tokio::test]
async fn a_package_manager_is_never_given_the_whole_of_a_wrong_file() {
    let bytes = content(500_000);
    let (wanted, files) = file("Packages/a.rpm", &bytes);
    let repomd = b"<repomd/>";
    let (named, more) = file(&named_repomd(Sha256::of(repomd)), repomd);
    let files: BTreeMap<String, Vec<u8>> = files.into_iter().chain(more).collect();
    let mut index = Index::default();
    for wanted in [&wanted, &named] {
        index.add(&wanted.path, wanted.entry).expect("added");
    }
    let (liar, frontend) = (Server::new(files.clone(), Manner::Lies).await, Server::new(files, Manner::Good).await);
    let sealer = sealer();
    let whole = format!("/secret{}/x86_64/Packages/a.rpm", path::MIRROR);

    // With patience it gets the right one at once.
    let (_a, depot) = depot(vec![liar.source(Kind::Relay), frontend.source(Kind::Frontend)], 4 << 20);
    let (_b, patient) = desk(&depot, &sealer, &index, Duration::from_secs(5));
    let seen = ask(&patient, &whole, None).await;
    assert!(seen.status == StatusCode::OK && seen.body.as_ref() == Ok(&bytes));
    let seen = ask(&patient, &whole, Some("bytes=499990-")).await;
    assert!(seen.status == StatusCode::PARTIAL_CONTENT && seen.body.as_deref() == Ok(&bytes[499_990..]));
    let seen = ask(&patient, &format!("/secret{}/x86_64/{REPOMD}", path::MIRROR), None).await;
    assert_eq!(seen.body.as_deref(), Ok(&repomd[..]));
    for other in [&whole["/secret".len()..], "/secret/x", "/secret/install/rocks-dist/x86_64/Packages/b.rpm", "/"] {
        assert_eq!(ask(&patient, other, None).await.status, StatusCode::NOT_FOUND, "{other}");
    }

    // Without, it is broken off.
    let slow = Server::new(
        BTreeMap::from([(whole["/secret".len()..].to_owned(), bytes.iter().map(|b| b ^ 1).collect())]),
        Manner::Slow,
    )
    .await;
    let (_c, depot) = self::depot(vec![slow.source(Kind::Relay), frontend.source(Kind::Frontend)], 4 << 20);
    let (_d, hasty) = desk(&depot, &sealer, &index, Duration::ZERO);
    let seen = ask(&hasty, &whole, None).await;
    assert!(seen.body.is_err(), "{} bytes", seen.body.map_or(0, |body| body.len()));
    assert_eq!(ask(&hasty, &whole, None).await.body.as_ref(), Ok(&bytes));

    // There is no room to keep it: handed through, right or not at all.
    let (folder, depot) = self::depot(vec![frontend.source(Kind::Frontend)], 1000);
    let (_e, small) = desk(&depot, &sealer, &index, Duration::ZERO);
    assert_eq!(ask(&small, &whole, None).await.body.as_ref(), Ok(&bytes));
    let (_f, depot) = self::depot(vec![liar.source(Kind::Relay)], 1000);
    let (_g, small) = desk(&depot, &sealer, &index, Duration::ZERO);
    assert!(ask(&small, &whole, None).await.body.is_err());
    assert_eq!(std::fs::read_dir(folder.path()).expect("read").count(), 0);
}

#[test]
fn an_index_is_taken_only_sealed_and_never_an_older_one_also_after_a_restart() {
    let sealer = sealer();
    let folder = tempfile::tempdir().expect("a folder");
    let index = |content: &[u8]| {
        let mut index = Index::default();
        index.add("a.rpm", Entry { digest: Sha256::of(content), size: 1 }).expect("added");
        index
    };
    let catalogue = Catalogue::open(folder.path(), sealer.public());
    let (six, six_text) = sealed(&sealer, &index(b"6"), 6);
    let (seven, seven_text) = sealed(&sealer, &index(b"7"), 7);
    let (foreign, _) = sealed(&self::sealer(), &index(b"7"), 7);
    assert!(matches!(catalogue.learn(foreign, seven_text.clone()), Err(CatalogueError::Seal(_))));
    assert!(matches!(catalogue.learn(seven.clone(), six_text.clone()), Err(CatalogueError::Other)));
    catalogue.learn(six.clone(), six_text.clone()).expect("taken");
    catalogue.learn(seven.clone(), seven_text).expect("taken");
    assert!(matches!(catalogue.learn(six.clone(), six_text.clone()), Err(CatalogueError::Older { .. })));
    let raised =
        SealedIndex { claim: IndexClaim { generation: Generation(9), ..six.claim.clone() }, seal: six.seal.clone() };
    assert!(matches!(catalogue.learn(raised, six_text.clone()), Err(CatalogueError::Seal(_))));
    assert_eq!(catalogue.find(&arch(), "a.rpm").map(|wanted| wanted.entry.digest), Some(Sha256::of(b"7")));

    let again = Catalogue::open(folder.path(), sealer.public());
    assert_eq!(again.newest(&arch()).map(|known| known.sealed.clone()), Some(seven));
    assert!(matches!(again.check(&six), Err(CatalogueError::Older { .. })));
    // The text is damaged: it is gone, and what is older is refused all the same.
    std::fs::write(folder.path().join("index-x86_64"), "rocks index 1\n").expect("written");
    let again = Catalogue::open(folder.path(), sealer.public());
    assert!(again.newest(&arch()).is_none());
    assert!(matches!(again.learn(six, six_text), Err(CatalogueError::Older { .. })));
}
