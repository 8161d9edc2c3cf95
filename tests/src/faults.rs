//! What the fault tests put in the way: a roll that is written anew for every round, packages made for a purpose, chance with a seed.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use rpm::{BuildConfig, Dependency, FileOptions, PackageBuilder};
use tempfile::TempDir;

use crate::turns::change;
use crate::world::World;

/// A roll below every appliance, with one node that a test rewrites.
pub struct Roll {
    dir: TempDir,
}

/// What the node says.
#[derive(Debug, Clone, Default)]
pub struct Node {
    /// Packages to install.
    pub packages: Vec<String>,
    /// `lang`: a command that takes effect at once.
    pub lang: Option<String>,
    /// Scripts, each with the options of its section.
    pub scripts: Vec<(&'static str, String)>,
}

impl Node {
    fn text(&self) -> String {
        let clean = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let mut text = "<kickstart>\n".to_owned();
        if let Some(lang) = &self.lang {
            text.push_str(&format!("<main><lang>{}</lang></main>\n", clean(lang)));
        }
        for package in &self.packages {
            text.push_str(&format!("<package>{}</package>\n", clean(package)));
        }
        for (options, script) in &self.scripts {
            text.push_str(&format!("<post arg=\"{options}\">\n{}\n</post>\n", clean(script)));
        }
        text + "</kickstart>\n"
    }
}

impl Roll {
    /// Adds the roll to the frontend, with a node that says nothing.
    ///
    /// # Errors
    /// It is not accepted.
    pub fn add(world: &World) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("rocks-faults-").tempdir()?;
        for folder in ["graphs/default", "nodes"] {
            std::fs::create_dir_all(dir.path().join(folder))?;
        }
        let graph = "<graph roll=\"faults\"><edge from=\"lite\"><to>faults</to></edge>\
                     <order head=\"TAIL\"><tail>faults</tail></order></graph>\n";
        std::fs::write(dir.path().join("graphs/default/faults.xml"), graph)?;
        let roll = Self { dir };
        std::fs::write(roll.path(), Node::default().text())?;
        world.rocks(&["add", "roll", &roll.dir.path().display().to_string(), "name=faults"])?;
        Ok(roll)
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("nodes/faults.xml")
    }

    /// Rewrites the node; the new kickstart of `host` is there when this returns.
    ///
    /// # Panics
    /// It cannot be written, or there is no new kickstart.
    #[track_caller]
    pub fn say(&self, world: &World, host: &str, node: &Node) {
        // The frontend may see the file before it is told to look.
        let beside = self.dir.path().join("faults.new");
        let before = world.generation(host);
        let written = std::fs::write(&beside, node.text()).and_then(|()| std::fs::rename(&beside, self.path()));
        written.unwrap_or_else(|error| panic!("{error}"));
        let seen = world.rocks(&["sync", "config"]).and_then(|_| world.generation(host));
        match (before, seen) {
            (Ok(before), Ok(seen)) if seen > before => {}
            (Ok(_), Ok(_)) => change(world, host, &["sync", "config"]),
            (before, seen) => panic!("{before:?} {seen:?}\n{}", world.frontend_log()),
        }
    }
}

/// A tiny package.
#[derive(Debug, Clone, Default)]
pub struct Tiny {
    /// Its name.
    pub name: &'static str,
    /// What runs when it has been installed, after a line with its name was added to `/root/installed`.
    pub post: &'static str,
    /// With what it cannot live.
    pub conflicts: Option<&'static str>,
}

impl Tiny {
    /// The package `name` that counts its installations and does nothing else.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self { name, ..Self::default() }
    }
}

impl World {
    /// Makes, signs and publishes packages.
    ///
    /// # Errors
    /// Whatever fails, with what it said.
    pub fn publish(&self, tiny: &[Tiny]) -> Result<()> {
        let folder = self.packages().to_path_buf();
        let mut made = Vec::new();
        for package in tiny {
            let mut builder = PackageBuilder::new(package.name, "1", "Apache-2.0", "noarch", "made for a test");
            builder.using_config(BuildConfig::v4());
            builder.post_install_script(format!("echo {} >>/root/installed\n{}\n", package.name, package.post));
            builder.requires(Dependency::script_post("/bin/sh"));
            if let Some(other) = package.conflicts {
                builder.conflicts(Dependency::any(other));
            }
            let file = FileOptions::new(format!("/usr/share/doc/{}", package.name));
            builder.with_file_contents(package.name.as_bytes(), file)?;
            made.push(builder.build()?.write_to(&folder)?);
        }
        self.lite().sign(&made)?;
        self.rocks(&["create", "distro", &folder.display().to_string()])?;
        Ok(())
    }

    /// The file that the frontend's mirror publishes of `what`: a package (`fault-b`), or one of the metadata (`primary.xml`).
    ///
    /// Metadata of earlier generations lies beside what is published for a while, each with its own `repomd.xml`: what
    /// counts is what the one of that very name says.
    ///
    /// # Errors
    /// It is not published.
    pub fn published(&self, what: &str) -> Result<PathBuf> {
        let repo = self.state().join("mirror/rocks-dist").join(std::env::consts::ARCH);
        if what.ends_with(".xml") {
            let repomd = std::fs::read_to_string(repo.join("repodata/repomd.xml"))?;
            let mut named = repomd.split('"').filter(|word| word.starts_with("repodata/"));
            let href = named.find(|href| href.contains(what)).with_context(|| format!("no {what} in {repomd}"))?;
            return Ok(repo.join(href));
        }
        let mut todo = vec![repo.join("Packages")];
        while let Some(folder) = todo.pop() {
            for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
                let path = entry?.path();
                if path.is_dir() {
                    todo.push(path);
                } else if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{what}-"))) {
                    return Ok(path);
                }
            }
        }
        anyhow::bail!("{what} is not published")
    }
}

/// Numbers by chance that can be had again.
pub struct Chance(u64);

impl Chance {
    /// From the environment's `ROCKS_TEST_SEED`, else from the clock. Prints the seed.
    #[must_use]
    pub fn new(say: &mut dyn FnMut(&str)) -> Self {
        let given = std::env::var("ROCKS_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| jiff::Timestamp::now().as_nanosecond() as u64);
        say(&format!("seed: ROCKS_TEST_SEED={seed}"));
        Self(seed)
    }

    /// At least 0 and less than 1 (SplitMix64).
    pub fn draw(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}
