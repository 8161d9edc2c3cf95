//! The frontend's configuration. The later wins, key by key: what is built in, `init.toml` in the state folder, `/etc/rocks/rocks.toml`,
//! drop-ins in `config.d` below `/usr/lib`, `/etc` and `/run` by their names, the environment, the command line.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use rocks_advise::{Link, Rate, Span};
use rocks_provision::objects::{BucketName, InvalidName};
use serde::{Deserialize, Serialize};

use crate::identity::Certificates;
use crate::output::{Exit, Output};

/// What the variables of the environment begin with: `ROCKS_SERVER_LISTEN`.
const PREFIX: &str = "ROCKS_SERVER_";

/// What a configuration file may say.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Fragment {
    listen: Option<SocketAddr>,
    names: Option<Vec<String>>,
    certificate_hours: Option<u32>,
    token_hours: Option<u32>,
    watch_rolls: Option<bool>,
    max_connections: Option<usize>,
    stale_minutes: Option<u32>,
    site_graphs: Option<PathBuf>,
    gpgkeys: Option<Vec<PathBuf>>,
    aws_region: Option<String>,
    aws_endpoint: Option<String>,
    aws_frontend: Option<Ipv4Addr>,
    aws_bucket: Option<BucketName>,
    aws_import_role: Option<String>,
    bundle_account: Option<String>,
    bundle_certificate: Option<PathBuf>,
    bundle_key: Option<PathBuf>,
    bundle_ec2_certificate: Option<PathBuf>,
    wan: Option<Wan>,
    aws_look_seconds: Option<u64>,
    aws_identity_certificates: Option<BTreeMap<String, PathBuf>>,
    aws_identity_check: Option<bool>,
}

/// A way as it is written: `100Mbit/s 180ms 0.1%`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Wan {
    text: String,
    link: Link,
}

impl TryFrom<String> for Wan {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (rate, rtt, loss) = match words[..] {
            [rate, rtt] => (rate, rtt, "0%"),
            [rate, rtt, loss] => (rate, rtt, loss),
            _ => return Err(format!("{text:?} is no way: it is written as in \"100Mbit/s 180ms 0.1%\"")),
        };
        let rate: Rate = rate.parse().map_err(|error| format!("{rate}: {error}"))?;
        let rtt: Span = rtt.parse().map_err(|error| format!("{rtt}: {error}"))?;
        let share = loss.strip_suffix('%').and_then(|percent| percent.parse::<f64>().ok());
        let loss = share.filter(|percent| (0.0..=50.0).contains(percent));
        let loss = loss.ok_or_else(|| "a loss is between 0% and 50%".to_owned())? / 100.0;
        Ok(Self { link: Link { rate, rtt, loss }, text })
    }
}

impl From<Wan> for String {
    fn from(wan: Wan) -> Self {
        wan.text
    }
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
    /// After how long without a word a host is called stale.
    pub stale_minutes: u32,
    /// Where the administrator's own nodes are, which extend or replace those of rolls, or are new.
    pub site_graphs: PathBuf,
    /// The keys that packages of images must be signed with, for builds that name none.
    pub gpgkeys: Vec<PathBuf>,
    /// The AWS region of provisions that name none.
    pub aws_region: String,
    /// Where AWS's interface is, if not at the region's own address: a local EC2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aws_endpoint: Option<String>,
    /// The frontend's address as instances see it, which a receiver's port is opened to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aws_frontend: Option<Ipv4Addr>,
    /// The bucket that objects are put into; none: one of the frontend's own, in each region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aws_bucket: Option<BucketName>,
    /// The role by which EC2 reads disks in that bucket; none: `vmimport`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aws_import_role: Option<String>,
    /// The account that bundles belong to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle_account: Option<String>,
    /// Its certificate (PEM).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle_certificate: Option<PathBuf>,
    /// Its private key (PEM), which signs bundles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle_key: Option<PathBuf>,
    /// EC2's certificate (PEM), for which they are encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle_ec2_certificate: Option<PathBuf>,
    /// The way to the cloud, as predictions take it: rate, round trip and, if it has any, loss: `100Mbit/s 180ms 0.1%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wan: Option<Wan>,
    /// How often it is looked whether instances are terminated, so that their hosts expire.
    pub aws_look_seconds: u64,
    /// AWS's certificates for RSA-2048 signatures of instance identity documents, by region. Without one no instance of a region enrols by what it is.
    pub aws_identity_certificates: BTreeMap<String, PathBuf>,
    /// Whether the cloud is asked, too, if such an instance is there.
    pub aws_identity_check: bool,
    /// Where each value that is not built in is from.
    #[serde(skip)]
    sources: BTreeMap<String, String>,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl Config {
    /// Reads the configuration.
    ///
    /// # Errors
    /// All files and variables that cannot be used, one a line.
    pub fn load(state: Option<&Path>, file: Option<&Path>) -> Result<Self, ConfigError> {
        Self::of(state, file, std::env::vars())
    }

    fn of(
        state: Option<&Path>,
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut sources = BTreeMap::new();
        let mut variables = BTreeMap::new();
        for (name, value) in environment {
            if let Some(key) = name.strip_prefix(PREFIX) {
                variables.insert(key.to_ascii_lowercase(), value);
            }
        }
        let asked = variables.remove("state_dir").map(PathBuf::from);
        if asked.is_some() && state.is_none() {
            sources.insert("state".to_owned(), format!("{PREFIX}STATE_DIR"));
        }
        let state = state.map(Path::to_path_buf).or(asked).unwrap_or_else(|| PathBuf::from("/var/lib/rocks"));
        let mut config = Self {
            names: vec![rustix::system::uname().nodename().to_string_lossy().into_owned()],
            listen: SocketAddr::from(([0, 0, 0, 0], 8443)),
            certificate_hours: 24 * 7,
            token_hours: 24,
            watch_rolls: true,
            max_connections: 65_536,
            stale_minutes: 15,
            site_graphs: PathBuf::from("/etc/rocks/site-graphs"),
            gpgkeys: Vec::new(),
            aws_region: "us-east-1".to_owned(),
            aws_endpoint: None,
            aws_frontend: None,
            aws_bucket: None,
            aws_import_role: None,
            bundle_account: None,
            bundle_certificate: None,
            bundle_key: None,
            bundle_ec2_certificate: None,
            wan: None,
            aws_look_seconds: 300,
            aws_identity_certificates: BTreeMap::new(),
            aws_identity_check: false,
            state,
            sources,
        };
        let mut problems = Vec::new();
        for path in file.map_or_else(|| files(&config.state), |file| vec![file.to_path_buf()]) {
            let shown = path.display().to_string();
            let read = fs::read_to_string(&path).map_err(|error| error.to_string());
            match read.and_then(|text| toml::from_str::<Fragment>(&text).map_err(|error| error.to_string())) {
                Ok(fragment) => config.merge(fragment, &shown),
                Err(error) => problems.push(format!("{shown}: {error}")),
            }
        }
        for (key, value) in variables {
            let name = format!("{PREFIX}{}", key.to_ascii_uppercase());
            match variable(&key, &value) {
                Ok(fragment) => config.merge(fragment, &name),
                Err(error) => problems.push(format!("{name}: {error}")),
            }
        }
        if problems.is_empty() { Ok(config) } else { Err(ConfigError(problems.join("\n"))) }
    }

    fn merge(&mut self, fragment: Fragment, source: &str) {
        let Self {
            listen,
            names,
            certificate_hours,
            token_hours,
            watch_rolls,
            max_connections,
            stale_minutes,
            site_graphs,
            gpgkeys,
            aws_region,
            aws_endpoint,
            aws_frontend,
            aws_bucket,
            aws_import_role,
            bundle_account,
            bundle_certificate,
            bundle_key,
            bundle_ec2_certificate,
            wan,
            aws_look_seconds,
            aws_identity_certificates,
            aws_identity_check,
            sources,
            state: _,
        } = self;
        let mut note = |key: &str| {
            sources.insert(key.to_owned(), source.to_owned());
        };
        macro_rules! set {
            ($($key:ident = $value:expr),*) => {$(
                if let Some(value) = $value {
                    *$key = value;
                    note(stringify!($key));
                }
            )*};
        }
        set!(
            listen = fragment.listen,
            names = fragment.names.filter(|names| !names.is_empty()),
            certificate_hours = fragment.certificate_hours,
            token_hours = fragment.token_hours,
            watch_rolls = fragment.watch_rolls,
            max_connections = fragment.max_connections.map(|most| most.clamp(1, 1 << 20)),
            stale_minutes = fragment.stale_minutes,
            site_graphs = fragment.site_graphs,
            gpgkeys = fragment.gpgkeys,
            aws_region = fragment.aws_region,
            aws_endpoint = fragment.aws_endpoint.map(Some),
            aws_frontend = fragment.aws_frontend.map(Some),
            aws_bucket = fragment.aws_bucket.map(Some),
            aws_import_role = fragment.aws_import_role.map(Some),
            bundle_account = fragment.bundle_account.map(Some),
            bundle_certificate = fragment.bundle_certificate.map(Some),
            bundle_key = fragment.bundle_key.map(Some),
            bundle_ec2_certificate = fragment.bundle_ec2_certificate.map(Some),
            wan = fragment.wan.map(Some),
            aws_look_seconds = fragment.aws_look_seconds.map(|seconds| seconds.max(1)),
            aws_identity_certificates = fragment.aws_identity_certificates,
            aws_identity_check = fragment.aws_identity_check
        );
    }

    /// The way to the cloud.
    #[must_use]
    pub fn link(&self) -> Link {
        self.wan.as_ref().map_or_else(|| rocks_advise::Site::default().link, |wan| wan.link)
    }

    /// AWS's certificates, read from their files.
    ///
    /// # Errors
    /// A file that cannot be read or has none in it.
    pub fn certificates(&self) -> Result<Certificates, ConfigError> {
        let mut all = Certificates::default();
        for (region, path) in &self.aws_identity_certificates {
            let fail = |error: &dyn std::fmt::Display| {
                ConfigError(format!("aws_identity_certificates: {}: {error}", path.display()))
            };
            let pem = fs::read(path).map_err(|error| fail(&error))?;
            all.add(region, &pem).map_err(|error| fail(&error))?;
        }
        Ok(all)
    }

    /// The bucket that objects of the frontend `site`, as tags name it, are put into in a region.
    ///
    /// # Errors
    /// Nothing that is a region's name gives one.
    pub fn bucket(&self, site: &str, region: &str) -> Result<BucketName, InvalidName> {
        self.aws_bucket.clone().map_or_else(|| BucketName::of_site(site, region), Ok)
    }

    /// What agents reach the frontend by, for a listener on `port`.
    #[must_use]
    pub fn url(&self, port: u16) -> String {
        let name = self.names.first().map_or("localhost", String::as_str);
        if name.contains(':') { format!("https://[{name}]:{port}") } else { format!("https://{name}:{port}") }
    }
}

/// What a variable says. Names and files are separated by commas; those of regions are written as in `us-east-1=/path`.
fn variable(key: &str, value: &str) -> Result<Fragment, String> {
    let value = match key {
        "names" | "gpgkeys" => toml::Value::Array(value.split(',').map(|name| name.trim().into()).collect()),
        "aws_identity_certificates" => {
            let pair = |text: &str| {
                let (region, path) = text.split_once('=').ok_or_else(|| format!("{text:?} is not REGION=FILE"))?;
                Ok::<_, String>((region.trim().to_owned(), toml::Value::from(path.trim())))
            };
            toml::Value::Table(value.split(',').map(pair).collect::<Result<_, _>>()?)
        }
        "listen" | "site_graphs" | "aws_region" | "aws_endpoint" | "aws_frontend" | "aws_bucket"
        | "aws_import_role" | "wan" => value.into(),
        "bundle_account" | "bundle_certificate" | "bundle_key" | "bundle_ec2_certificate" => value.into(),
        _ => value
            .parse::<i64>()
            .map(toml::Value::Integer)
            .or_else(|_| value.parse::<bool>().map(Into::into))
            .map_err(|_| format!("{value:?} is neither a number nor true or false"))?,
    };
    let table = toml::Table::from_iter([(key.to_owned(), value)]);
    table.try_into().map_err(|error: toml::de::Error| error.message().to_owned())
}

/// The files that are there, in the order in which they count; that of `init` in the state folder comes first. A drop-in of one name covers
/// those of lower folders.
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

/// Show the configuration and where each value is from.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// Where the frontend keeps its state
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// A configuration file instead of the usual ones
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// As one JSON document
    #[arg(long)]
    json: bool,
}

/// Runs `config`.
pub fn show(args: &ShowArgs, output: &mut Output<'_>) -> Exit {
    let config = match Config::load(args.state_dir.as_deref(), args.config.as_deref()) {
        Ok(config) => config,
        Err(error) => {
            output.message(&format!("error: {error}\n"));
            return Exit::Usage;
        }
    };
    let values = match toml::Table::try_from(&config) {
        Ok(values) => values,
        Err(error) => {
            output.message(&format!("error: {error}\n"));
            return Exit::Failed;
        }
    };
    let source = |key: &str| config.sources.get(key).map_or("built-in", String::as_str);
    let text = if args.json {
        let values: serde_json::Map<String, serde_json::Value> = values
            .iter()
            .map(|(key, value)| (key.clone(), serde_json::json!({"value": value, "source": source(key)})))
            .collect();
        let json = serde_json::json!({"api_version": "rocks/v1", "config": values});
        serde_json::to_string_pretty(&json).unwrap_or_default() + "\n"
    } else {
        values.iter().map(|(key, value)| format!("{key} = {value}  # {}\n", source(key))).collect()
    };
    if output.data(&text).is_ok() { Exit::Ok } else { Exit::Failed }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn the_environment_wins_over_files_and_tells_its_problems_all_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("c.toml");
        fs::write(&file, "token_hours = 1\nstale_minutes = 2\n").expect("written");
        let set =
            [("ROCKS_SERVER_TOKEN_HOURS", "5"), ("ROCKS_SERVER_NAMES", "a, b"), ("ROCKS_SERVER_WATCH_ROLLS", "false")];
        let config = Config::of(None, Some(&file), environment(&set)).expect("good");
        assert_eq!((config.token_hours, config.stale_minutes, config.watch_rolls), (5, 2, false));
        assert_eq!(config.names, ["a", "b"]);
        assert_eq!(
            config.bucket("0123456789abcdef", "eu-west-1").expect("one").as_str(),
            "rocks-0123456789abcdef-eu-west-1"
        );
        let set = [("ROCKS_SERVER_AWS_BUCKET", "ours")];
        let other = Config::of(None, Some(&file), environment(&set)).expect("good");
        assert_eq!(other.bucket("0123456789abcdef", "eu-west-1").expect("one").as_str(), "ours");
        assert_eq!(config.sources["token_hours"], "ROCKS_SERVER_TOKEN_HOURS");
        assert_eq!(config.sources["stale_minutes"], file.display().to_string());
        fs::write(&file, "no = 1\n").expect("written");
        let set = [("ROCKS_SERVER_LISTEN", "nowhere"), ("ROCKS_SERVER_NO", "1"), ("ROCKS_SERVER_TOKEN_HOURS", "x")];
        let error = Config::of(None, Some(&file), environment(&set)).expect_err("bad").to_string();
        let regions = [("ROCKS_SERVER_AWS_IDENTITY_CERTIFICATES", "us-east-1=/a.pem, eu-west-1=/b.pem")];
        let config = Config::of(None, Some(Path::new("/dev/null")), environment(&regions)).expect("good");
        assert_eq!(config.aws_identity_certificates["eu-west-1"], Path::new("/b.pem"));
        assert!(config.certificates().expect_err("no such file").to_string().contains("/b.pem"));
        for part in ["c.toml", "ROCKS_SERVER_LISTEN", "ROCKS_SERVER_NO:", "ROCKS_SERVER_TOKEN_HOURS"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    /// Every key stands in the packaged file, and what stands there can be used when the "#" is taken away.
    #[test]
    fn the_packaged_file_names_every_key() {
        let file = include_str!("../../packaging/etc/rocks.toml");
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
        let missing: Vec<&str> = keys("Fragment").into_iter().filter(|key| !table.contains_key(*key)).collect();
        assert!(missing.is_empty() && keys("Fragment").len() > 15, "{missing:?}");
        let built_in = Config::of(None, Some(Path::new("/dev/null")), environment(&[])).expect("good");
        let built_in = toml::Table::try_from(&built_in).expect("it can be written");
        // What is an example, because nothing is built in.
        let examples = ["names", "gpgkeys", "aws_identity_certificates"];
        for (key, value) in table.iter().filter(|(key, _)| !examples.contains(&key.as_str())) {
            assert!(built_in.get(key).is_none_or(|default| default == value), "{key}");
        }
    }
}
