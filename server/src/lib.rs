//! The frontend: the daemon `rocks-server` and its offline tools, and `rocks`, the administrator's command line.

pub mod admin;
pub mod bucket;
pub mod builder;
pub mod ca;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod enrol;
pub mod eval;
pub mod identity;
pub mod images;
pub mod kickstart;
pub mod listen;
pub mod manual;
pub mod metrics;
pub mod mirror;
pub mod near;
pub mod offline;
pub mod output;
pub mod process;
pub mod provision;
pub mod revoked;
pub mod rocks;
pub mod rollout;
pub mod ship;
pub mod store;
