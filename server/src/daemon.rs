//! `rocks-server init` and `rocks-server serve`: configuration, then everything bound, then running until told to end.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};

use crate::admin::{self, Admin};
use crate::bucket::{Bucket, Stores};
use crate::ca::Authority;
use crate::config::Config;
use crate::eval;
use crate::images::Images;
use crate::kickstart::Service;
use crate::listen::{self, Public};
use crate::metrics::Metrics;
use crate::mirror::Mirror;
use crate::mirror::index::Indexes;
use crate::mirror::serve::MirrorRoot;
use crate::near::Near;
use crate::output::{Exit, Output, chain};
use crate::provision::Provisions;
use crate::provision::account::Accounts;
use crate::provision::site::Frontend;
use crate::revoked::Revoked;
use crate::store::{Store, StoreError};
use crate::watching::Watching;

/// Make the frontend: state folder, certificate authority, keys, store.
#[derive(Debug, clap::Args)]
pub struct InitArgs {
    /// Where the frontend keeps its state
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// A name or address that agents reach the frontend by; the first is the one that kickstarts name
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// Say nothing when everything is there already
    #[arg(long)]
    if_needed: bool,
}

/// Run the frontend.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// Where the frontend keeps its state
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// A configuration file instead of the usual ones
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where agents connect
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<std::net::SocketAddr>,
    /// The administrator's socket (default: STATE/run/admin.sock)
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Runs `init`.
pub fn init(args: &InitArgs, output: &mut Output<'_>) -> Exit {
    let state = args.state_dir.clone().unwrap_or_else(|| PathBuf::from("/var/lib/rocks"));
    let there = Authority::exists(&state);
    let made = (|| -> anyhow::Result<()> {
        if !state.exists() {
            fs::DirBuilder::new().recursive(true).mode(0o750).create(&state)?;
        }
        for folder in ["mirror", "run"] {
            fs::create_dir_all(state.join(folder))?;
        }
        Authority::create(&state)?;
        let settings = state.join("init.toml");
        if !args.names.is_empty() {
            let names: Vec<String> = args.names.iter().map(|name| format!("{name:?}")).collect();
            let text = format!("# Written by rocks-server init.\nnames = [{}]\n", names.join(", "));
            if fs::read_to_string(&settings).is_ok_and(|now| now != text) {
                output.message("the frontend's names are others now; restart rocks-server to use them\n");
            }
            fs::write(&settings, text)?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(Store::open(&state.join("rocks.db")))?;
        let folder = fs::metadata(&state)?;
        // The packaged service runs as the folder's owner, and could not read what root made there.
        if rustix::process::geteuid().is_root() && folder.uid() != 0 {
            hand_over(&state, folder.uid(), folder.gid())?;
        }
        Ok(())
    })();
    match made {
        Err(error) => {
            output.message(&format!("error: {}\n", chain(&error)));
            Exit::Failed
        }
        Ok(()) => {
            if !(there && args.if_needed) {
                let word = if there { "is there already" } else { "was made" };
                output.message(&format!("the frontend in {} {word}\n", state.display()));
            }
            Exit::Ok
        }
    }
}

/// What `init` makes in the state folder.
const MADE: [&str; 11] = [
    "init.toml",
    "ca",
    "ca/ca.key",
    "ca/ca.pem",
    "keys",
    "keys/seal.p8",
    "run",
    "mirror",
    "rocks.db",
    "rocks.db-wal",
    "rocks.db-shm",
];

/// Hands what `init` made in `state` to the folder's owner, who could have put links there: those are not followed.
fn hand_over(state: &Path, user: u32, group: u32) -> io::Result<()> {
    for name in MADE {
        let path = state.join(name);
        let folder = path.parent().unwrap_or(state);
        if folder != state && !fs::symlink_metadata(folder).is_ok_and(|folder| folder.is_dir()) {
            continue;
        }
        match lchown(&path, Some(user), Some(group)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display())));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Runs `serve`.
pub fn serve(args: &ServeArgs, output: &mut Output<'_>) -> Exit {
    let filter = tracing_subscriber::EnvFilter::try_from_env("ROCKS_LOG").unwrap_or_else(|_| "info".into());
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().try_init();
    let mut config = match Config::load(args.state_dir.as_deref(), args.config.as_deref()) {
        Ok(config) => config,
        Err(error) => {
            output.message(&format!("error: {error}\n"));
            return Exit::Usage;
        }
    };
    if let Some(listen) = args.listen {
        config.listen = listen;
    }
    let socket = args.socket.clone().unwrap_or_else(|| config.state.join("run/admin.sock"));
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output.message(&format!("error: {error}\n"));
            return Exit::Failed;
        }
    };
    let result = runtime.block_on(run(config, &socket));
    runtime.shutdown_timeout(Duration::from_secs(2));
    match result {
        Ok(()) => Exit::Ok,
        Err(error) => {
            output.message(&format!("error: {}\n", chain(&error)));
            Exit::Failed
        }
    }
}

/// Where in the state folder code of rolls works.
const EVAL: &str = "run/eval";

async fn run(config: Config, socket: &Path) -> anyhow::Result<()> {
    use anyhow::Context as _;
    use tokio::signal::unix::{SignalKind, signal};
    anyhow::ensure!(
        Authority::exists(&config.state),
        "there is no frontend in {}\nhint: rocks-server init --state-dir {0}",
        config.state.display()
    );
    let authority = Arc::new(Authority::open(&config.state)?);
    let store = Store::open(&config.state.join("rocks.db")).await?;
    let listener = listen::bind(config.listen).await.with_context(|| format!("cannot listen on {}", config.listen))?;
    let address = listener.local_addr()?;
    let url = config.url(address.port());
    let service = Service::new(store.clone(), authority.clone(), url.clone())
        .stale_after(config.stale_minutes)
        .with_site(config.site_graphs.clone())
        .with_work(config.state.join(EVAL));
    let service = Arc::new(service);
    let metrics = Arc::new(Metrics::default());
    let config = Arc::new(config);
    let mirror = Mirror::open(config.state.join("mirror"))?;
    let images = Arc::new(Images::open(&config.state)?);
    let indexes = Indexes::of(&mirror, authority.clone());
    let tag = authority.fingerprint();
    let named = (config.bucket(&tag, &config.aws_region)?, tag.clone());
    let bucket = Bucket::new(stores(&config), store.clone(), named, indexes.clone(), config.aws_bucket.is_some());
    let revoked = Revoked::of(&store).await?;
    let (ending_sender, ending) = watch::channel(false);
    let certificates = config.certificates()?;
    let site = Frontend::new(store.clone(), service.clone(), config.clone(), images.clone(), authority.clone()).await?;
    let provisions = Provisions::new(store.clone(), Arc::new(site), tag, accounts(&config));
    let public = Arc::new(Public {
        store: store.clone(),
        authority: authority.clone(),
        service: service.clone(),
        config: config.clone(),
        revoked,
        metrics: metrics.clone(),
        mirror: MirrorRoot::of(&mirror).counting(metrics.mirror_bytes.clone()),
        near: Near { indexes, bucket: bucket.clone() },
        enrolling: Public::enrolments(),
        certificates,
        cloud: config.aws_identity_check.then(|| provisions.clone()),
        ending,
    });
    let (tls_sender, tls) = watch::channel(listen::tls(&authority, &config.names)?);
    let admin_listener = bind_admin(socket)?;
    // Only now: nobody else is running.
    if let Err(error) = eval::sweep(&config.state.join(EVAL)) {
        tracing::warn!("what code of rolls left cannot be removed: {error}");
    }
    let addresses = json!({"api_version": "rocks/v1", "listen": address, "url": url, "socket": socket});
    fs::write(config.state.join("run/addresses.json"), addresses.to_string() + "\n")?;

    let synced = patiently(service.sync(true), MORE_TIME / 4, || {
        tell(&format!("EXTEND_TIMEOUT_USEC={}", MORE_TIME.as_micros()));
    });
    let synced = synced.await?;
    tell_sync(&synced, &metrics);
    let (reload, reloads) = mpsc::channel(1);
    let watching = if config.watch_rolls { Watching::new(&reload) } else { None };
    let worker = tokio::spawn(synchronise(service.clone(), public.clone(), metrics.clone(), reloads, watching));
    let mut rollouts = tokio::spawn(service.clone().go_on());
    let following = public.clone();
    tokio::spawn(async move { following.revoked.follow(&following.store).await });
    let renewer = tokio::spawn(renew_server_certificate(authority.clone(), config.clone(), tls_sender));
    let mut serving = tokio::spawn(listen::serve(public, listener, tls));
    let hangup_reload = reload.clone();
    let copying = Arc::default();
    let paused = provisions.clone();
    let open = provisions.resume().await?;
    if open > 0 {
        tracing::info!("{open} provisions go on");
    }
    let (looked, every) = (provisions.clone(), Duration::from_secs(config.aws_look_seconds));
    let looking = tokio::spawn(async move { looked.expire_always(every).await });
    let looked = bucket.clone();
    tokio::spawn(async move {
        if looked.follows() {
            looked.follow().await;
        } else if let Err(error) = looked.look().await {
            tracing::warn!("what is in the bucket is not known: {error}");
        }
    });
    let admin =
        Admin { authority, store, service, config, metrics, mirror, images, provisions, reload, copying, bucket };
    let administration = tokio::spawn(async move { axum::serve(admin_listener, admin::router(admin)).await });
    tracing::info!("serving {url}, administration at {}", socket.display());
    tell("READY=1\nSTATUS=serving");

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let again = async {
        while hangup.recv().await.is_some() {
            let _ = hangup_reload.try_send(());
        }
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = again => {}
        () = watchdog() => {}
        ended = &mut serving => {
            ended.context("the listener broke off")?;
            anyhow::bail!("the listener ended");
        }
        ended = worker => {
            ended.context("the synchronisation broke off")?;
            anyhow::bail!("the synchronisation ended");
        }
        ended = &mut rollouts => {
            ended.context("rollouts broke off")?;
            anyhow::bail!("rollouts ended");
        }
        ended = administration => {
            ended.context("the administrator's socket broke off")??;
            anyhow::bail!("the administrator's socket ended");
        }
    }
    tell("STOPPING=1");
    renewer.abort();
    looking.abort();
    rollouts.abort();
    paused.pause();
    // Those who wait are answered now, and ask again: they find the next frontend.
    ending_sender.send_replace(true);
    let _ = tokio::time::timeout(listen::DRAIN + Duration::from_secs(1), serving).await;
    let _ = fs::remove_file(socket);
    Ok(())
}

/// The cloud that this frontend was built with.
#[cfg(feature = "aws")]
fn accounts(config: &Config) -> Option<Accounts> {
    let endpoint = config.aws_endpoint.clone();
    Some(Arc::new(move |region| {
        let endpoint = endpoint.clone();
        Box::pin(async move {
            let settings = rocks_aws::Settings { region, endpoint, keys: None };
            Ok(Arc::new(rocks_aws::Aws::new(settings).await) as Arc<dyn crate::provision::account::Account>)
        })
    }))
}

/// The cloud that this frontend was built with: none.
#[cfg(not(feature = "aws"))]
const fn accounts(_: &Config) -> Option<Accounts> {
    None
}

/// The store of objects that this frontend was built with.
#[cfg(feature = "aws")]
fn stores(config: &Config) -> Option<Stores> {
    let (region, endpoint) = (config.aws_region.clone(), config.aws_endpoint.clone());
    Some(Arc::new(move || {
        let settings = rocks_aws::Settings { region: region.clone(), endpoint: endpoint.clone(), keys: None };
        Box::pin(async move { Arc::new(rocks_aws::Aws::new(settings).await) as Arc<dyn crate::bucket::ObjectStore> })
    }))
}

/// The store of objects that this frontend was built with: none.
#[cfg(not(feature = "aws"))]
const fn stores(_: &Config) -> Option<Stores> {
    None
}

fn bind_admin(socket: &Path) -> anyhow::Result<UnixListener> {
    if let Some(folder) = socket.parent() {
        fs::create_dir_all(folder)?;
    }
    // A socket that a killed frontend left there; one that answers belongs to another.
    if socket.exists() {
        anyhow::ensure!(
            std::os::unix::net::UnixStream::connect(socket).is_err(),
            "another frontend is running (it answers at {})",
            socket.display()
        );
        fs::remove_file(socket)?;
    }
    let listener = UnixListener::bind(socket)?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

fn tell_sync(report: &crate::kickstart::SyncReport, metrics: &Metrics) {
    match &report.problems {
        Some(problems) => tracing::error!("the rolls have errors; the last good ones stay in use\n{problems}"),
        None => {
            metrics.last_sync.set(jiff::Timestamp::now().as_second());
        }
    }
    for (host, problem) in &report.failed {
        tracing::error!("no new kickstart for {host}: {problem}");
    }
}

/// Makes new kickstarts whenever the store or the rolls change.
async fn synchronise(
    service: Arc<Service>,
    public: Arc<Public>,
    metrics: Arc<Metrics>,
    mut reloads: mpsc::Receiver<()>,
    mut watching: Option<Watching>,
) {
    // Pause before what could not be made is made again.
    const AGAIN: Duration = Duration::from_secs(1);
    // How often it is looked whether folders are still those that are watched.
    const LOOK: Duration = Duration::from_secs(15);
    let mut changes = public.store.changes();
    let mut failed = None::<bool>;
    let mut rolls = changes.borrow().rolls;
    loop {
        // What changed between the last reading and the first watching was told by nobody: read once more.
        if let Some(watching) = &mut watching
            && let Ok(folders) = folders(&service).await
            && watching.update(&folders)
        {
            match service.sync(true).await {
                Ok(report) => {
                    tell_sync(&report, &metrics);
                    failed = None;
                }
                Err(error) => {
                    tracing::error!("kickstarts could not be made, and will be again: {error}");
                    failed = Some(true);
                }
            }
        }
        let reload = tokio::select! {
            () = tokio::time::sleep(AGAIN), if failed.is_some() => false,
            () = tokio::time::sleep(LOOK), if watching.is_some() => continue,
            changed = changes.changed() => match changed {
                Ok(()) => changes.borrow().rolls != rolls,
                Err(_) => return,
            },
            asked = reloads.recv() => match asked {
                Some(()) => {
                    // Editors write in several steps.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    while reloads.try_recv().is_ok() {}
                    true
                }
                None => return,
            },
        };
        rolls = changes.borrow_and_update().rolls;
        let reload = reload || failed == Some(true);
        failed = match service.sync(reload).await {
            Ok(report) => {
                tell_sync(&report, &metrics);
                None
            }
            Err(error) => {
                tracing::error!("kickstarts could not be made, and will be again: {error}");
                Some(reload)
            }
        };
    }
}

/// The folders that are to be watched: those of the enabled rolls, and the administrator's own.
async fn folders(service: &Service) -> Result<HashSet<PathBuf>, StoreError> {
    Ok(service.folders().await?.into_iter().chain(service.site()).collect())
}

/// The listener's certificate is made anew long before it ends; connections that are open keep theirs.
async fn renew_server_certificate(
    authority: Arc<Authority>,
    config: Arc<Config>,
    tls: watch::Sender<Arc<rustls::ServerConfig>>,
) {
    loop {
        tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
        match listen::tls(&authority, &config.names) {
            Ok(next) => {
                tls.send_replace(next);
            }
            Err(error) => tracing::error!("the server certificate could not be renewed: {error}"),
        }
    }
}

/// What the service manager is asked for, again and again, while the first kickstarts are made: code of rolls may take its time.
const MORE_TIME: Duration = Duration::from_secs(120);

/// Does `work`, and asks for more time at first and as often as `every` while that takes.
async fn patiently<T>(work: impl Future<Output = T>, every: Duration, mut ask: impl FnMut()) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        ask();
        if let Ok(done) = tokio::time::timeout(every, &mut work).await {
            return done;
        }
    }
}

async fn watchdog() {
    let wanted =
        std::env::var("WATCHDOG_USEC").ok().and_then(|value| value.parse::<u64>().ok()).filter(|usec| *usec > 0);
    match wanted {
        Some(usec) => loop {
            tell("WATCHDOG=1");
            tokio::time::sleep(Duration::from_micros(usec / 2)).await;
        },
        None => std::future::pending().await,
    }
}

/// Says something to the service manager, if there is one.
fn tell(state: &str) {
    if std::env::var_os("NOTIFY_SOCKET").is_some() {
        let pairs: Vec<(&str, &str)> = state.lines().filter_map(|line| line.split_once('=')).collect();
        let _ = systemd::daemon::notify(pairs.iter());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn more_time_is_asked_for_as_long_as_the_work_takes() {
        let (asked, mut count) = tokio::sync::watch::channel(0);
        let work = async { count.wait_for(|asked| *asked >= 3).await.map(|asked| *asked) };
        let done = patiently(work, Duration::from_millis(1), || asked.send_modify(|asked| *asked += 1)).await;
        assert!(done.expect("open") >= 3);
    }

    /// All that `init` makes is handed over; a link stays one, and what it points to is left alone.
    #[test]
    fn what_init_makes_is_known_and_links_are_not_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join("state");
        let args = InitArgs { state_dir: Some(state.clone()), names: vec!["f".to_owned()], if_needed: false };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let exit = init(&args, &mut Output { out: &mut out, err: &mut err });
        assert_eq!(exit, Exit::Ok, "{}", String::from_utf8_lossy(&err));
        let mut todo = vec![state.clone()];
        while let Some(at) = todo.pop() {
            for entry in fs::read_dir(&at).expect("a folder").flatten() {
                let path = entry.path();
                let name = path.strip_prefix(&state).expect("below").to_string_lossy().into_owned();
                assert!(MADE.contains(&name.as_str()), "{name}");
                if path.is_dir() {
                    todo.push(path);
                }
            }
        }
        // Only root can give files away; others can give them to themselves.
        let own = fs::metadata(&state).expect("there");
        let user = if rustix::process::geteuid().is_root() { 65_534 } else { own.uid() };
        let (secret, keys) = (folder.path().join("secret"), folder.path().join("keys"));
        fs::write(&secret, "").expect("written");
        fs::rename(state.join("keys"), &keys).expect("moved");
        fs::remove_file(state.join("init.toml")).expect("removed");
        std::os::unix::fs::symlink(&secret, state.join("init.toml")).expect("linked");
        std::os::unix::fs::symlink(&keys, state.join("keys")).expect("linked");
        hand_over(&state, user, own.gid()).expect("done");
        let owner = |path: &Path| fs::symlink_metadata(path).expect("there").uid();
        for (path, uid) in [
            (state.join("ca/ca.key"), user),
            (state.join("rocks.db"), user),
            (state.join("init.toml"), user),
            (secret, own.uid()),
            (keys.join("seal.p8"), own.uid()),
        ] {
            assert_eq!(owner(&path), uid, "{}", path.display());
        }
    }
}
