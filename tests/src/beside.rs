//! A frontend beside a local EC2, and provisions of it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rocks_minicloud::config::{Config, Key};
use rocks_minicloud::{Minicloud, Options};
use serde_json::Value;

use crate::process::cmd;
use crate::world::{Elsewhere, World, binaries, missing};

/// A cloud in which the frontend may do what docs/iam.json says, and nothing else.
///
/// # Panics
/// docs/iam.json is no JSON.
#[must_use]
pub fn least(config: Config) -> Options {
    let policy = serde_json::from_str(include_str!("../../docs/iam.json")).expect("docs/iam.json");
    let key = Key { user: "rocks".to_owned(), policy: Some(policy), ..Key::example() };
    Options { config: Config { keys: vec![key], ..config }, ..Options::default() }
}

/// Why there can be none here, if so.
#[must_use]
pub fn lacks() -> Option<&'static str> {
    let has_aws = || {
        let said = cmd(binaries().ok()?.join("rocks-server")).arg("--version").output().ok()?;
        said.stdout.contains("aws").then_some(())
    };
    missing().or_else(rocks_minicloud::missing).or_else(|| match has_aws() {
        Some(()) => None,
        None => Some("rocks-server was built without the feature aws"),
    })
}

/// A frontend in the namespace that the cloud has for it, with `more` in its environment.
///
/// # Errors
/// Whatever fails, with what it said.
pub fn beside(cloud: &Minicloud, more: &[(&str, &str)], say: &mut dyn FnMut(&str)) -> Result<World> {
    let key = cloud.config().keys.first().context("the cloud lets nobody in")?;
    let endpoint = cloud.endpoint_from_frontend();
    let ours = [
        ("AWS_ACCESS_KEY_ID", key.id.as_str()),
        ("AWS_SECRET_ACCESS_KEY", &key.secret),
        ("ROCKS_SERVER_AWS_ENDPOINT", &endpoint),
        ("ROCKS_SERVER_AWS_REGION", &cloud.config().region),
        ("ROCKS_SERVER_AWS_LOOK_SECONDS", "1"),
    ];
    let environment = ours.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let namespace = cloud.frontend_namespace().context("nothing boots in this cloud")?;
    let place = Elsewhere { namespace, address: cloud.frontend_address().to_owned(), environment };
    World::at(Some(place), binaries()?, say)
}

/// Carries a provision out; gives its record and how long the command took.
///
/// # Errors
/// It ended otherwise than well.
pub fn provision(world: &World, words: &[&str]) -> Result<(Value, Duration)> {
    let began = Instant::now();
    let said = match world.rocks(&[&["-o", "json", "provision"], words].concat()) {
        Ok(said) => said,
        Err(error) => bail!("{error:#}\n{}", world.frontend_log()),
    };
    let record: Value = serde_json::from_str(&said)?;
    ensure!(record["status"] == "done", "{record:#}\n{}", world.frontend_log());
    Ok((record, began.elapsed()))
}
