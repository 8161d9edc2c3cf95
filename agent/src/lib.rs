//! The agent: keeps a running instance as its kickstart says.
//!
//! One turn is fetch, observe, plan, execute, report ([`converge`]); [`service`] repeats it. Deciding is done in
//! `rocks_common::plan`, which touches nothing; [`execute`] does what was decided and decides nothing; the [`journal`] knows what was
//! done whatever happens in between.

pub mod beneath;
pub mod cli;
pub mod config;
pub mod converge;
pub mod execute;
pub mod fetch;
pub mod files;
pub mod fit;
pub mod ground;
pub mod identity;
pub mod imds;
pub mod joining;
pub mod journal;
pub mod leftover;
pub mod near;
pub mod observe;
pub mod output;
pub mod patience;
pub mod pause;
pub mod process;
pub mod service;
pub mod spool;
pub mod status;
pub mod tls;
pub mod userdata;
pub mod volume;
