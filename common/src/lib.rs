//! What the frontend and the agent share, and nothing that touches the world.
//!
//! The pipeline of values is `Roll → Graph → Profile → Kickstart → Plan → Report`: each is plain data, made by a pure
//! function from the one before it. This crate parses, orders, renders and plans. It must never open a socket, spawn a
//! process, read the clock or the environment, or depend on systemd, AWS or an HTTP server; `tests/tests/architecture.rs`
//! holds it to that. The one effect it has is reading the folders of a roll, in [`roll`], because a roll *is* a folder.

pub mod attr;
pub mod check;
pub mod cond;
pub mod diag;
pub mod dialect;
pub mod draw;
pub mod evr;
pub mod explain;
pub mod generate;
pub mod graph;
pub mod ids;
pub mod index;
pub mod kickstart;
pub mod limits;
pub mod marker;
pub mod node;
pub mod plan;
pub mod profile;
pub mod roll;
pub mod seal;
pub mod wire;
pub mod xml;
