//! The agent's configuration. The later wins, key by key: what is built in, `/etc/rocks-agent/agent.toml`, drop-ins in `config.d` below
//! `/usr/lib`, `/etc` and `/run` by their names, the command line.

use std::fs;
use std::path::{Path, PathBuf};

use rocks_common::plan::Policy;
use serde::Deserialize;

/// What a configuration file may say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Fragment {
    /// How long a request for the kickstart may wait for a change, in seconds.
    wait_seconds: Option<u32>,
    /// How long one script may take, in seconds.
    script_limit_seconds: Option<u64>,
    /// How long one package transaction may take, in seconds.
    package_limit_seconds: Option<u64>,
    /// Whether packages' signatures are checked.
    gpgcheck: Option<bool>,
    /// Key files or addresses for that.
    gpgkeys: Option<Vec<String>>,
    /// Whether scripts run in transient units where systemd runs.
    transient_units: Option<bool>,
    /// What the agent may do.
    policy: Option<PolicyFragment>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PolicyFragment {
    remove_packages: Option<bool>,
    exclude_nodes: Option<Vec<String>>,
}

/// The merged configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where the agent keeps its state.
    pub state: PathBuf,
    /// The machine that it works on: `/`, or a folder in tests.
    pub root: PathBuf,
    /// How long a request for the kickstart may wait for a change, in seconds.
    pub wait_seconds: u32,
    /// How long one script may take, in seconds.
    pub script_limit_seconds: u64,
    /// How long one package transaction may take, in seconds.
    pub package_limit_seconds: u64,
    /// Whether packages' signatures are checked.
    pub gpgcheck: bool,
    /// Key files or addresses for that.
    pub gpgkeys: Vec<String>,
    /// Whether scripts run in transient units where systemd runs.
    pub transient_units: bool,
    /// What the agent may do.
    pub policy: Policy,
}

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error("{}: {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its line.
        source: Box<toml::de::Error>,
    },
}

impl Config {
    /// Reads the configuration of the machine below `root`.
    ///
    /// # Errors
    /// A file that is there and cannot be used.
    pub fn load(root: &Path, state: Option<&Path>, file: Option<&Path>) -> Result<Self, ConfigError> {
        let mut config = Self {
            state: state.map_or_else(|| root.join("var/lib/rocks-agent"), Path::to_path_buf),
            root: root.to_path_buf(),
            wait_seconds: 600,
            script_limit_seconds: 3600,
            package_limit_seconds: 3600,
            gpgcheck: true,
            gpgkeys: Vec::new(),
            transient_units: true,
            policy: Policy::default(),
        };
        for path in file.map_or_else(|| files(root), |file| vec![file.to_path_buf()]) {
            let text = fs::read_to_string(&path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
            let fragment: Fragment = toml::from_str(&text)
                .map_err(|source| ConfigError::Parse { path: path.clone(), source: Box::new(source) })?;
            config.merge(fragment);
        }
        Ok(config)
    }

    fn merge(&mut self, fragment: Fragment) {
        fn set<T>(target: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *target = value;
            }
        }
        set(&mut self.wait_seconds, fragment.wait_seconds);
        set(&mut self.script_limit_seconds, fragment.script_limit_seconds);
        set(&mut self.package_limit_seconds, fragment.package_limit_seconds);
        set(&mut self.gpgcheck, fragment.gpgcheck);
        set(&mut self.gpgkeys, fragment.gpgkeys);
        set(&mut self.transient_units, fragment.transient_units);
        if let Some(policy) = fragment.policy {
            set(&mut self.policy.remove_packages, policy.remove_packages);
            set(&mut self.policy.exclude_nodes, policy.exclude_nodes.map(|nodes| nodes.into_iter().collect()));
        }
    }
}

/// The files that are there, in the order in which they count. A drop-in of one name covers those of lower folders.
fn files(root: &Path) -> Vec<PathBuf> {
    let mut drops = std::collections::BTreeMap::new();
    for folder in ["usr/lib/rocks-agent/config.d", "etc/rocks-agent/config.d", "run/rocks-agent/config.d"] {
        for entry in fs::read_dir(root.join(folder)).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "toml") {
                drops.insert(entry.file_name(), entry.path());
            }
        }
    }
    let main = root.join("etc/rocks-agent/agent.toml");
    main.exists().then_some(main).into_iter().chain(drops.into_values()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_files_win_key_by_key_and_unknown_keys_are_refused() {
        let root = tempfile::tempdir().expect("a folder");
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        };
        put("etc/rocks-agent/agent.toml", "wait_seconds = 5\ngpgcheck = false\n");
        put("usr/lib/rocks-agent/config.d/10-a.toml", "wait_seconds = 6\n");
        put("etc/rocks-agent/config.d/10-a.toml", "wait_seconds = 7\n[policy]\nremove_packages = true\n");
        let config = Config::load(root.path(), None, None).expect("it is well-formed");
        assert_eq!((config.wait_seconds, config.gpgcheck, config.policy.remove_packages), (7, false, true));
        put("run/rocks-agent/config.d/20.toml", "wait = 5\n");
        let error = Config::load(root.path(), None, None).expect_err("unknown key").to_string();
        assert!(error.contains("20.toml") && error.contains("wait"), "{error}");
    }

    /// Every key stands in the packaged file, and what stands there can be used when the "#" is taken away.
    #[test]
    fn the_packaged_file_names_every_key() {
        let file = include_str!("../../packaging/etc/agent.toml");
        let is_setting = |line: &str| {
            let word = line.split(" = ").next().unwrap_or_default();
            line.starts_with('[') || (line.contains(" = ") && !word.is_empty() && !word.contains(' '))
        };
        let plain = |line: &str| match line.strip_prefix('#') {
            Some(rest) if is_setting(rest) => format!("{rest}\n"),
            _ => format!("{line}\n"),
        };
        let text: String = file.lines().map(plain).collect();
        let table: toml::Table = text.parse().expect("TOML");
        let _: Fragment = toml::from_str(&text).expect("every key is known");
        assert_eq!(toml::from_str::<toml::Table>(file).expect("TOML").len(), 0, "nothing holds until it is asked for");
        let source = include_str!("config.rs");
        let keys = |name: &str| -> Vec<&str> {
            let body = source.split_once(&format!("struct {name} {{\n")).expect("it is there").1;
            let body = body.split_once("\n}").expect("it ends").0;
            body.lines().filter_map(|line| line.trim().split_once(": Option<")).map(|(key, _)| key).collect()
        };
        let policy = table["policy"].as_table().expect("a table");
        let missing = |name: &str, table: &toml::Table| -> Vec<String> {
            keys(name).into_iter().filter(|key| !table.contains_key(*key)).map(ToOwned::to_owned).collect()
        };
        assert_eq!((missing("Fragment", &table), missing("PolicyFragment", policy)), (Vec::new(), Vec::new()));
        // All of it is built in, but for the example of a key.
        let root = tempfile::tempdir().expect("a folder");
        let path = root.path().join("agent.toml");
        fs::write(&path, &text).expect("written");
        let mut said = Config::load(root.path(), None, Some(&path)).expect("it is well-formed");
        said.gpgkeys.clear();
        assert_eq!(said, Config::load(root.path(), None, None).expect("nothing is there"));
    }
}
