//! The frontend's configuration: built-in, below `/usr/lib`, `/etc` and `/run`, then the command line; the later wins, key by key.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What a configuration file may say.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Fragment {
    listen: Option<SocketAddr>,
    names: Option<Vec<String>>,
    certificate_hours: Option<u32>,
    token_hours: Option<u32>,
    watch_rolls: Option<bool>,
    max_connections: Option<usize>,
}

/// The merged configuration.
#[derive(Debug, Clone, Serialize)]
pub struct Config {
    /// Where the frontend keeps its state.
    pub state: PathBuf,
    /// Where agents connect.
    pub listen: SocketAddr,
    /// The names and addresses that agents reach it by, the first being the one that kickstarts name.
    pub names: Vec<String>,
    /// How long an agent's certificate is valid.
    pub certificate_hours: u32,
    /// How long a join token is valid.
    pub token_hours: u32,
    /// Whether the rolls' folders are watched.
    pub watch_rolls: bool,
    /// How many agents may be connected.
    pub max_connections: usize,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl Config {
    /// Reads the configuration.
    ///
    /// # Errors
    /// All files that cannot be used, one a line.
    pub fn load(state: Option<&Path>, file: Option<&Path>) -> Result<Self, ConfigError> {
        let state = state.map_or_else(|| PathBuf::from("/var/lib/rocks"), Path::to_path_buf);
        let mut config = Self {
            names: vec![rustix::system::uname().nodename().to_string_lossy().into_owned()],
            listen: SocketAddr::from(([0, 0, 0, 0], 8443)),
            certificate_hours: 24 * 7,
            token_hours: 24,
            watch_rolls: true,
            max_connections: 65_536,
            state,
        };
        let mut problems = Vec::new();
        for path in file.map_or_else(|| files(&config.state), |file| vec![file.to_path_buf()]) {
            let text = match fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) => {
                    problems.push(format!("{}: {error}", path.display()));
                    continue;
                }
            };
            match toml::from_str::<Fragment>(&text) {
                Ok(fragment) => config.merge(fragment),
                Err(error) => problems.push(format!("{}: {error}", path.display())),
            }
        }
        if problems.is_empty() { Ok(config) } else { Err(ConfigError(problems.join("\n"))) }
    }

    fn merge(&mut self, fragment: Fragment) {
        fn set<T>(target: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *target = value;
            }
        }
        set(&mut self.listen, fragment.listen);
        set(&mut self.names, fragment.names.filter(|names| !names.is_empty()));
        set(&mut self.certificate_hours, fragment.certificate_hours);
        set(&mut self.token_hours, fragment.token_hours);
        set(&mut self.watch_rolls, fragment.watch_rolls);
        set(&mut self.max_connections, fragment.max_connections);
    }

    /// What agents reach the frontend by, for a listener on `port`.
    #[must_use]
    pub fn url(&self, port: u16) -> String {
        let name = self.names.first().map_or("localhost", String::as_str);
        if name.contains(':') { format!("https://[{name}]:{port}") } else { format!("https://{name}:{port}") }
    }
}

/// The files that are there, in the order in which they count; that of `init` in the state folder comes first.
fn files(state: &Path) -> Vec<PathBuf> {
    let mut drops = BTreeMap::new();
    for folder in ["/usr/lib/rocks/config.d", "/etc/rocks/config.d", "/run/rocks/config.d"] {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "toml") {
                drops.insert(entry.file_name(), entry.path());
            }
        }
    }
    let ours = [state.join("init.toml"), PathBuf::from("/etc/rocks/rocks.toml")];
    ours.into_iter().filter(|path| path.exists()).chain(drops.into_values()).collect()
}
