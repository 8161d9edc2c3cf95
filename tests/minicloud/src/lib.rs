//! A local EC2 for tests.

mod access;
mod cloud;
pub mod config;
mod error;
mod query;
