//! The lite appliance under test: a root tree that really consists of RPMs, and a repository with more of them.
//!
//! On a Debian machine the packages are Debian's, turned into RPMs with their real dependencies ([`convert`]): apt resolves the closure
//! against an empty status and fetches it, dnf installs it into a tree. On Fedora and the RHEL family the distribution's own packages
//! are taken as they are. Either way the result is cached by what went into it and shared, read-only, by every instance.

pub mod convert;
pub mod deb;
pub mod recipe;
mod rpmdist;
pub mod skeleton;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::FlockOperation;

use crate::process::{cmd, which};

/// A lite appliance, ready to be booted.
#[derive(Debug, Clone)]
pub struct Lite {
    dir: PathBuf,
}

impl Lite {
    /// The root tree. Never written to: instances lay an overlay over it.
    pub fn tree(&self) -> PathBuf {
        self.dir.join("tree")
    }

    /// All RPMs: `base/`, which the tree consists of, and `addon/`, which only a mirror holds; with repodata.
    pub fn repository(&self) -> PathBuf {
        self.dir.join("repo")
    }

    /// The public key, armoured, that signs the RPMs.
    pub fn gpg_key(&self) -> PathBuf {
        self.dir.join("RPM-GPG-KEY")
    }

    /// Signs further RPMs with the appliance's key, so that its dnf takes them.
    pub fn sign(&self, rpms: &[PathBuf]) -> Result<()> {
        sign(&self.dir.join("gpg"), rpms)
    }

    /// Where appliances are cached: `$ROCKS_CACHE`, else `~/.cache/rocks-cloud`.
    pub fn cache() -> PathBuf {
        std::env::var_os("ROCKS_CACHE").map(PathBuf::from).unwrap_or_else(|| {
            PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache/rocks-cloud")
        })
    }

    /// The appliance of this machine's packages, made when the cache has none. `say` is told what takes its time.
    pub fn get(say: &mut dyn FnMut(&str)) -> Result<Self> {
        let cache = Self::cache();
        fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
        let cache = cache.canonicalize()?;
        // One at a time: two test programs may well ask at once.
        let lock = fs::File::create(cache.join("lite.lock"))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
        if which("apt-get").is_some() && which("dpkg-deb").is_some() {
            from_debian(&cache, say)
        } else {
            rpmdist::get(&cache, say)
        }
    }
}

/// What apt would fetch: where from, and under which name it is stored.
#[derive(Debug)]
struct Closure {
    /// Package name → file name with version and architecture.
    base: Vec<(String, String)>,
    addon: Vec<(String, String)>,
}

fn from_debian(cache: &Path, say: &mut dyn FnMut(&str)) -> Result<Lite> {
    let closure = match resolve() {
        Ok(c) => c,
        Err(_) => {
            say("apt's lists are missing or old: fetching them");
            cmd("apt-get").args(["update", "-qq"]).run()?;
            resolve()?
        }
    };
    let mut key = format!("recipe {}\n", recipe::RECIPE_VERSION);
    for (_, file) in closure.base.iter().chain(&closure.addon) {
        key.push_str(file);
        key.push('\n');
    }
    let digest = rocks_common::ids::Digest::of(key.as_bytes()).to_string();
    let name = format!("lite-{}", &digest[..digest.len().min(16)]);
    let dir = cache.join(&name);
    let lite = Lite { dir: dir.clone() };
    if dir.join("done").exists() {
        return Ok(lite);
    }
    ensure!(
        rustix::process::geteuid().is_root(),
        "making the lite appliance needs root (file owners, dnf --installroot)"
    );
    let work = cache.join(format!("{name}.part"));
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    make(&work, &closure, say)?;
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::rename(&work, &dir)?;
    fs::write(dir.join("done"), key)?;
    Ok(lite)
}

/// Asks apt, as if nothing were installed, what the two sets of packages need.
fn resolve() -> Result<Closure> {
    let base = closure_of(recipe::BASE)?;
    let mut with: Vec<&str> = recipe::BASE.to_vec();
    with.extend(recipe::ADDON);
    let all = closure_of(&with)?;
    let names: BTreeSet<&String> = base.iter().map(|(n, _)| n).collect();
    let addon = all.iter().filter(|(n, _)| !names.contains(n)).cloned().collect();
    Ok(Closure { base, addon })
}

fn closure_of(packages: &[&str]) -> Result<Vec<(String, String)>> {
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("status"), "")?;
    let out = cmd("apt-get")
        .arg("-o")
        .arg(format!("Dir::State::status={}", dir.path().join("status").display()))
        .args(["-o", "Dir::State::extended_states=/dev/null", "-o", "APT::Install-Recommends=0"])
        .args(["--print-uris", "-qq", "install", "?essential"])
        .args(packages)
        .run()?;
    let mut found = Vec::new();
    for line in out.stdout.lines() {
        // 'URI' name_version_arch.deb SIZE DIGEST
        let Some(file) = line.split_whitespace().nth(1) else { continue };
        let name = file.split('_').next().unwrap_or_default();
        if !recipe::NEVER.contains(&name) {
            found.push((name.to_owned(), file.to_owned()));
        }
    }
    ensure!(found.len() > packages.len(), "apt resolved nothing: {}", out.both());
    found.sort();
    Ok(found)
}

fn make(work: &Path, closure: &Closure, say: &mut dyn FnMut(&str)) -> Result<()> {
    let repo = work.join("repo");
    for (set, packages) in [("base", &closure.base), ("addon", &closure.addon)] {
        let debs = work.join("debs").join(set);
        let rpms = repo.join(set);
        fs::create_dir_all(&debs)?;
        fs::create_dir_all(&rpms)?;
        say(&format!("fetching {} packages ({set})", packages.len()));
        fetch(&debs, packages)?;
        say(&format!("turning them into RPMs ({set})"));
        convert_all(&debs, &rpms)?;
    }
    skeleton::build(&repo.join("base"))?;
    fs::remove_dir_all(work.join("debs"))?;

    say("signing them");
    let gpg = work.join("gpg");
    make_key(&gpg, &work.join("RPM-GPG-KEY"))?;
    let mut rpms = Vec::new();
    for set in ["base", "addon"] {
        for e in fs::read_dir(repo.join(set))? {
            rpms.push(e?.path());
        }
    }
    rpms.sort();
    sign(&gpg, &rpms)?;
    cmd("createrepo_c").arg("-q").arg(&repo).run()?;

    say("installing the tree with dnf");
    let tree = work.join("tree");
    fs::create_dir_all(&tree)?;
    let names: Vec<&str> = closure.base.iter().map(|(n, _)| n.as_str()).collect();
    install(work, &repo, &tree, &[skeleton::NAME])?;
    install(work, &repo, &tree, &names)?;
    skeleton::finish(&tree)?;
    fs::create_dir_all(tree.join("etc/pki/rpm-gpg"))?;
    fs::copy(work.join("RPM-GPG-KEY"), tree.join("etc/pki/rpm-gpg/RPM-GPG-KEY-testbed"))?;
    cmd("rpmkeys")
        .arg(format!("--root={}", tree.display()))
        .args(["--define", "_dbpath /var/lib/rpm", "--import"])
        .arg(work.join("RPM-GPG-KEY"))
        .run()?;
    for rest in ["home", "dnfcache", "repos.d"] {
        drop(fs::remove_dir_all(work.join(rest)));
    }
    Ok(())
}

/// Fetches exactly the versions that were resolved.
fn fetch(into: &Path, packages: &[(String, String)]) -> Result<()> {
    let wanted: Vec<String> = packages
        .iter()
        .map(|(name, file)| {
            // The version of a file name is percent-encoded: 2%3a9.0 is 2:9.0.
            let version = file.split('_').nth(1).unwrap_or_default().replace("%3a", ":");
            format!("{name}={version}")
        })
        .collect();
    let get =
        || cmd("apt-get").args(["-o", "APT::Sandbox::User=root", "-qq", "download"]).args(&wanted).dir(into).run();
    if get().is_err() {
        cmd("apt-get").args(["update", "-qq"]).run()?;
        get()?;
    }
    Ok(())
}

/// Converts every .deb of a folder, on all processors.
fn convert_all(debs: &Path, rpms: &Path) -> Result<()> {
    let mut todo: Vec<PathBuf> = Vec::new();
    for e in fs::read_dir(debs)? {
        let path = e?.path();
        if path.extension().is_some_and(|x| x == "deb") {
            todo.push(path);
        }
    }
    // Largest first, so that the last thread is not left alone with the largest.
    todo.sort_by_key(|p| std::cmp::Reverse(fs::metadata(p).map(|m| m.len()).unwrap_or(0)));
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(2, usize::from).min(8);
    std::thread::scope(|s| {
        for _ in 0..threads {
            s.spawn(|| {
                while let Some(deb) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(e) = convert::convert(deb, rpms)
                        && let Ok(mut f) = failed.lock()
                    {
                        f.push(format!("{e:#}"));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_default();
    if !failed.is_empty() {
        bail!("{} of {} packages could not be converted:\n{}", failed.len(), todo.len(), failed.join("\n"));
    }
    Ok(())
}

const KEY_NAME: &str = "Rocks test bed";

/// Makes a signing key that lives only with this appliance.
fn make_key(gpg: &Path, public: &Path) -> Result<()> {
    fs::create_dir_all(gpg)?;
    fs::set_permissions(gpg, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    let id = format!("{KEY_NAME} <rpm@test.invalid>");
    let run = |args: &[&str]| cmd("gpg").env("GNUPGHOME", gpg).args(["--batch", "--quiet"]).args(args).run();
    run(&["--passphrase", "", "--quick-gen-key", &id, "rsa3072", "sign", "never"])?;
    let armoured = run(&["--export", "-a", KEY_NAME])?.stdout;
    fs::write(public, armoured)?;
    Ok(())
}

fn sign(gpg: &Path, rpms: &[PathBuf]) -> Result<()> {
    if rpms.is_empty() {
        return Ok(());
    }
    // Debian's rpm looks for gpg2, which it does not have.
    let gpg_program = which("gpg").context("gpg is not installed")?;
    let done = cmd("rpmsign")
        .env("GNUPGHOME", gpg)
        .args(["--define", &format!("_gpg_name {KEY_NAME}"), "--define", &format!("__gpg {}", gpg_program.display())])
        .arg("--addsign")
        .args(rpms)
        .run();
    // The agent that gpg started would outlive us.
    drop(cmd("gpgconf").env("GNUPGHOME", gpg).args(["--kill", "all"]).output());
    done.map(drop)
}

fn install(work: &Path, repo: &Path, tree: &Path, names: &[&str]) -> Result<()> {
    let show = |p: &Path| p.display().to_string();
    let (repos, home, cache) = (work.join("repos.d"), work.join("home"), work.join("dnfcache"));
    fs::create_dir_all(&repos)?;
    skeleton::write(&home.join(".rpmmacros"), "%_dbpath /var/lib/rpm\n")?;
    let conf = work.join("home/dnf.conf");
    let main = format!(
        "[main]\ngpgcheck=1\ninstall_weak_deps=False\nplugins=0\nreposdir={}\ncachedir={}\n",
        show(&repos),
        show(&cache)
    );
    fs::write(&conf, main)?;
    let repo_file = format!(
        "[testbed]\nname=testbed\nbaseurl=file://{}\ngpgkey=file://{}\n",
        show(repo),
        show(&work.join("RPM-GPG-KEY"))
    );
    fs::write(repos.join("testbed.repo"), repo_file)?;
    cmd("dnf")
        .env("HOME", &home)
        .args(["-q", "-y", "-c"])
        .arg(&conf)
        .arg(format!("--installroot={}", show(tree)))
        .args(["--releasever=1", "install"])
        .args(names)
        .run()?;
    Ok(())
}
