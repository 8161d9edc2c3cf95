//! What can be done with machines.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::cloud::{Boot, Rule};

/// What a command in a machine came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A room for machines. Calls about one machine come one after another, but for `detach`, which waits beside them.
pub(crate) trait Machines: Send + Sync {
    /// Boots a machine; `halted` is called when it runs no more, for whatever reason, unless it is removed.
    fn boot(&self, boot: &Boot, halted: Box<dyn FnOnce() + Send>) -> Result<()>;
    /// Makes a machine halt; returns when it was asked, or with force when it has.
    fn halt(&self, instance: &str, force: bool) -> Result<()>;
    /// Makes a machine boot again.
    fn reboot(&self, instance: &str) -> Result<()>;
    /// Halts a machine and takes away all that belonged to it. A machine that is not there is no error.
    fn remove(&self, instance: &str) -> Result<()>;
    /// Makes a volume show up.
    fn attach(&self, instance: &str, volume: &str, names: &[String]) -> Result<()>;
    /// Takes a volume away when it is not in use; tells `busy` once if it has to wait for that.
    fn detach(&self, instance: &str, volume: &str, force: bool, busy: &mut dyn FnMut()) -> Result<()>;
    /// Lets only this in.
    fn firewall(&self, instance: &str, rules: &[Rule]) -> Result<()>;
    /// What a machine wrote on its console.
    fn console(&self, instance: &str) -> Option<Vec<u8>>;
    /// Runs a command in a machine.
    fn exec(&self, instance: &str, words: &[String], input: &[u8]) -> Result<Ran>;
    /// Bytes that went over the cloud's own links.
    fn counters(&self) -> BTreeMap<String, u64>;
    /// Ends everything.
    fn close(&self);
}
