//! Copying from a server that falters, lies, or changes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http_body_util::BodyExt as _;
use rpm::{BuildConfig, CompressionType, FileOptions, PackageBuilder};

use super::*;
use crate::mirror::serve::{MirrorRoot, handle};
use crate::mirror::{Mirror, Options};

/// What the server does with a package, by a part of its name.
#[derive(Clone, Copy)]
enum Fault {
    /// Sends half of what is asked for and hangs up, so many times.
    Cut(u32),
    /// Sends other bytes.
    Corrupt,
    /// Has it not.
    Gone,
}

#[derive(Clone)]
struct Server {
    root: MirrorRoot,
    faults: Arc<Mutex<HashMap<&'static str, Fault>>>,
    /// The paths that were asked for, with their range.
    asked: Arc<Mutex<Vec<(String, String)>>>,
}

async fn serve(State(server): State<Server>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let range = request.headers().get("range").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    server.asked.lock().unwrap().push((path.clone(), range));
    let fault = {
        let mut faults = server.faults.lock().unwrap();
        let fault = faults.iter_mut().find(|(part, _)| path.contains(**part)).map(|(_, fault)| fault);
        match fault {
            Some(Fault::Cut(0)) | None => None,
            Some(Fault::Cut(n)) => {
                *n -= 1;
                Some(Fault::Cut(*n))
            }
            Some(fault) => Some(*fault),
        }
    };
    let (parts, body) = handle(&server.root, request).await.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    match fault {
        None => Response::from_parts(parts, Body::from(bytes)),
        Some(Fault::Gone) => Response::builder().status(404).body(Body::empty()).unwrap(),
        Some(Fault::Corrupt) => {
            let mut bytes = bytes.to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            Response::from_parts(parts, Body::from(bytes))
        }
        Some(Fault::Cut(_)) => {
            let half = bytes.slice(..bytes.len() / 2);
            // What was sent must be on its way before the connection breaks.
            let frames = futures_util::stream::unfold(Some(half), |half| async {
                match half {
                    Some(half) if !half.is_empty() => Some((Ok(half), Some(bytes::Bytes::new()))),
                    Some(_) => {
                        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                        Some((Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset)), None))
                    }
                    None => None,
                }
            });
            Response::from_parts(parts, Body::from_stream(frames))
        }
    }
}

struct Upstream {
    dir: tempfile::TempDir,
    mirror: Mirror,
    server: Server,
    address: SocketAddr,
}

impl Upstream {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mirror = Mirror::open(dir.path().join("mirror")).unwrap();
        std::fs::create_dir_all(dir.path().join("rpms")).unwrap();
        let server = Server { root: MirrorRoot::of(&mirror), faults: Arc::default(), asked: Arc::default() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = axum::Router::new().fallback(serve).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { dir, mirror, server, address }
    }

    fn package(&self, name: &str, version: &str, arch: &str) -> &Self {
        let mut builder = PackageBuilder::new(name, version, "MIT", arch, "a package");
        builder.using_config(BuildConfig::default().compression(CompressionType::None));
        let text: String = (0..20_000).map(|i| format!("{name} {version} {i}\n")).collect();
        builder.with_file_contents(text, FileOptions::new(format!("/usr/share/{name}"))).unwrap();
        let path = self.dir.path().join("rpms").join(format!("{name}-{version}.{arch}.rpm"));
        builder.build().unwrap().write_file(path).unwrap();
        self
    }

    fn publish(&self) {
        let options = Options { arches: vec!["x86_64".into()], all_versions: true, keep_generations: 0 };
        self.mirror.rebuild(&[self.dir.path().join("rpms")], &options, &|_| {}).unwrap();
    }

    fn fault(&self, part: &'static str, fault: Option<Fault>) {
        let mut faults = self.server.faults.lock().unwrap();
        match fault {
            Some(fault) => faults.insert(part, fault),
            None => faults.remove(part),
        };
    }

    async fn copy(&self, all_versions: bool) -> Result<Copied, UpstreamError> {
        self.server.asked.lock().unwrap().clear();
        let url = format!("http://{}/install/rocks-dist/x86_64/", self.address);
        let folder = self.dir.path().join("copy");
        copy(&Order { url: &url, arch: "x86_64", all_versions, folder: &folder }, &|_| {}).await
    }

    fn names(&self) -> Vec<String> {
        fn walk(folder: &Path, out: &mut Vec<String>) {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    walk(&entry.path(), out)
                } else {
                    out.push(entry.file_name().into_string().unwrap())
                }
            }
        }
        let mut names = Vec::new();
        walk(&self.dir.path().join("copy"), &mut names);
        names.sort();
        names
    }

    fn asked(&self, part: &str) -> Vec<(String, String)> {
        self.server.asked.lock().unwrap().iter().filter(|(path, _)| path.contains(part)).cloned().collect()
    }
}

#[tokio::test]
async fn a_copy_has_the_newest_of_what_fits_and_brings_only_what_is_new() {
    let upstream = Upstream::new().await;
    upstream.package("a", "1", "x86_64").package("a", "2", "x86_64").package("b", "1", "noarch").publish();
    let copied = upstream.copy(false).await.unwrap();
    assert_eq!((copied.packages, copied.fetched, copied.removed), (2, 2, 0));
    assert_eq!(upstream.names(), ["a-2-1.x86_64.rpm", "b-1-1.noarch.rpm"]);
    let copied = upstream.copy(false).await.unwrap();
    assert_eq!((copied.packages, copied.fetched, copied.bytes), (2, 0, 0));
    assert_eq!(upstream.asked(".rpm"), []);
    upstream.package("a", "10", "x86_64").publish();
    let copied = upstream.copy(false).await.unwrap();
    assert_eq!((copied.packages, copied.fetched, copied.removed), (2, 1, 1));
    assert_eq!(upstream.names(), ["a-10-1.x86_64.rpm", "b-1-1.noarch.rpm"]);
    assert_eq!(upstream.copy(true).await.unwrap().packages, 4);
}

#[tokio::test]
async fn a_cut_download_goes_on_where_it_stopped() {
    let upstream = Upstream::new().await;
    upstream.package("a", "1", "x86_64").publish();
    upstream.fault(".rpm", Some(Fault::Cut(2)));
    let copied = upstream.copy(false).await.unwrap();
    let asked = upstream.asked(".rpm");
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert!(asked[0].1.is_empty() && asked[1].1.starts_with("bytes=") && asked[2].1.starts_with("bytes="), "{asked:?}");
    let rpm = fs::metadata(upstream.dir.path().join("rpms/a-1.x86_64.rpm")).unwrap();
    // Half, a quarter, the last quarter: nothing came twice.
    assert_eq!(copied.bytes, rpm.len());
}

#[tokio::test]
async fn what_differs_gets_no_name_and_the_rest_is_kept() {
    let upstream = Upstream::new().await;
    upstream.package("a", "1", "x86_64").package("b", "1", "x86_64").package("c", "1", "x86_64").publish();
    upstream.fault("/b-1", Some(Fault::Corrupt));
    upstream.fault("/c-1", Some(Fault::Gone));
    let error = upstream.copy(false).await.unwrap_err().to_string();
    assert!(
        error.starts_with("2 of 3 packages") && error.contains("its digest is another") && error.contains("404"),
        "{error}"
    );
    assert_eq!(upstream.names().iter().filter(|name| name.ends_with(".rpm")).count(), 1);
    upstream.fault("/b-1", None);
    upstream.fault("/c-1", None);
    let copied = upstream.copy(false).await.unwrap();
    assert_eq!((copied.packages, copied.fetched), (3, 2));
    assert_eq!(upstream.asked("/a-1"), []);
}

#[tokio::test]
async fn metadata_that_lies_is_refused() {
    let upstream = Upstream::new().await;
    upstream.package("a", "1", "x86_64").publish();
    upstream.fault("primary", Some(Fault::Corrupt));
    assert!(matches!(upstream.copy(false).await, Err(UpstreamError::Fetch { .. })));
    upstream.fault("primary", None);
    upstream.fault("repomd", Some(Fault::Gone));
    assert!(matches!(upstream.copy(false).await, Err(UpstreamError::Fetch { source: DownloadError::Status(_), .. })));
    assert!(matches!(
        copy(
            &Order { url: "file:///etc", arch: "x86_64", all_versions: false, folder: Path::new("/nonexistent") },
            &|_| {}
        )
        .await,
        Err(UpstreamError::Url(_))
    ));
}

fn one(checksum: &str, href: &str) -> String {
    format!(
        "<metadata xmlns=\"x\" packages=\"1\"><package type=\"rpm\"><name>n</name><arch>noarch</arch>\
         <version epoch=\"0\" ver=\"1\" rel=\"2\"/>{checksum}<size package=\"5\"/><location href=\"{href}\"/></package></metadata>"
    )
}

#[test]
fn a_list_is_read_however_it_is_packed_and_never_leads_out_of_the_repository() {
    let folder = tempfile::tempdir().unwrap();
    let sha = |kind: &str, n: usize| format!("<checksum type=\"{kind}\" pkgid=\"YES\">{}</checksum>", "a".repeat(n));
    let read = |bytes: &[u8]| {
        let path = folder.path().join("primary");
        fs::write(&path, bytes).unwrap();
        metadata::packages(&path)
    };
    let good = one(&sha("sha256", 64), "Packages/n/n-1 2+.rpm");
    let plain = read(good.as_bytes()).unwrap();
    assert_eq!(plain[0].url("http://x/"), "http://x/Packages/n/n-1%202%2B.rpm");
    assert_eq!(plain[0].file_name(), "n-1_2+.rpm");
    let zst = zstd::encode_all(good.as_bytes(), 1).unwrap();
    let mut xz = Vec::new();
    std::io::copy(&mut liblzma::read::XzEncoder::new(good.as_bytes(), 1), &mut xz).unwrap();
    assert_eq!(read(&zst).unwrap(), plain);
    assert_eq!(read(&xz).unwrap(), plain);
    for href in ["../x.rpm", "/etc/x.rpm", "a/../../x.rpm", "http://evil/x.rpm", "a\\b.rpm", "", "x?y"] {
        assert!(matches!(read(one(&sha("sha256", 64), href).as_bytes()), Err(MetadataError::Href(_))), "{href}");
    }
    assert!(matches!(read(one(&sha("md5", 32), "x.rpm").as_bytes()), Err(MetadataError::Weak(_))));
    assert!(read(one(&sha("sha256", 63), "x.rpm").as_bytes()).is_err());
    assert!(read(one("", "x.rpm").as_bytes()).is_err());
    assert!(read(&good.as_bytes()[..good.len() / 2]).is_err());
    assert!(matches!(read(b"BZh9"), Err(MetadataError::Packing)));
    assert!(matches!(metadata::primary_of(b"<repomd/>"), Err(MetadataError::NoPrimary)));
}
