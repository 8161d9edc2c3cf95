//! The room where nothing boots: instances are only said to run. Needs no rights and no time.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};

use super::machines::{Machines, Ran};
use crate::cloud::{Boot, Rule};

/// Remembers what would have to be called back.
#[derive(Default)]
pub(crate) struct Still {
    halted: Mutex<BTreeMap<String, Box<dyn FnOnce() + Send>>>,
}

impl Still {
    fn take(&self, instance: &str) -> Option<Box<dyn FnOnce() + Send>> {
        self.halted.lock().unwrap_or_else(PoisonError::into_inner).remove(instance)
    }
}

impl Machines for Still {
    fn boot(&self, boot: &Boot, halted: Box<dyn FnOnce() + Send>) -> Result<()> {
        self.halted.lock().unwrap_or_else(PoisonError::into_inner).insert(boot.instance.clone(), halted);
        Ok(())
    }

    fn halt(&self, instance: &str, _force: bool) -> Result<()> {
        if let Some(halted) = self.take(instance) {
            halted();
        }
        Ok(())
    }

    fn reboot(&self, _instance: &str) -> Result<()> {
        Ok(())
    }

    fn remove(&self, instance: &str) -> Result<()> {
        drop(self.take(instance));
        Ok(())
    }

    fn attach(&self, _instance: &str, _volume: &str, _names: &[String]) -> Result<()> {
        Ok(())
    }

    fn detach(&self, _instance: &str, _volume: &str, _force: bool, _busy: &mut dyn FnMut()) -> Result<()> {
        Ok(())
    }

    fn firewall(&self, _instance: &str, _rules: &[Rule]) -> Result<()> {
        Ok(())
    }

    fn console(&self, _instance: &str) -> Option<Vec<u8>> {
        None
    }

    fn exec(&self, _instance: &str, _words: &[String], _input: &[u8]) -> Result<Ran> {
        bail!("nothing boots in this cloud")
    }

    fn counters(&self) -> BTreeMap<String, u64> {
        BTreeMap::new()
    }

    fn close(&self) {}
}
