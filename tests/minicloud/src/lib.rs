//! A local EC2 for tests. It enforces EC2's states, rules and error codes, and it really runs what it launches.
//!
//! It serves the AWS SDKs and the AWS CLI unchanged: EC2 (Query API), S3, EBS direct and STS behind one endpoint, with SigV4 verified.
//! An instance is a booted machine (systemd-nspawn) on the bytes of its AMI, a volume is a block device that shows up when attached,
//! a snapshot is a copy of bytes, a registered AMI boots, a security group filters, and IMDS answers inside. Without root, or when asked,
//! nothing boots and instances only change their states ([`Options::boot`]).
//!
//! ```no_run
//! use rocks_minicloud::{Minicloud, Options};
//!
//! # fn main() -> anyhow::Result<()> {
//! let cloud = Minicloud::start(Options::default())?;
//! assert!(cloud.endpoint().starts_with("http://127.0.0.1:"));
//! let bill = cloud.ask("GET", "bill", &serde_json::Value::Null)?;
//! # Ok(())
//! # }
//! ```
//!
//! What is and what is not as on AWS stands in the crate's README. Rooms: `cloud` is the rules, pure; `run` makes them true; `server`, `query`,
//! `sigv4`, `s3`, `ebs` and `imds` are the wire; [`process`] is the only room that spawns; [`wan`] is the emulated long way.

mod access;
mod cloud;
pub mod config;
mod ebs;
mod error;
mod imds;
mod minicloud;
pub mod process;
mod query;
mod run;
mod s3;
mod server;
mod sigv4;
pub mod wan;

pub use crate::minicloud::{INSIDE_PORT, Minicloud, Options, Seed, Way, missing, sweep};
