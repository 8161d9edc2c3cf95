//! The frontend: the daemon `rocks-server` and its offline tools, and `rocks`, the administrator's command line.

pub mod cli;
pub mod eval;
pub mod offline;
pub mod output;
pub mod process;
