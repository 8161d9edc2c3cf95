//! The room where every machine is booted by systemd-nspawn, on the bytes of its root volume.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::boot::{Booted, Spec, read_from};
use super::disks::Disks;
use super::loops::{self, Loop};
use super::machines::{Machines, Ran};
use super::net::Net;
use super::partitions;
use crate::cloud::{Boot, Rule};

/// Devices of one machine: the volume, its names, and what holds it.
type Devices = Arc<Mutex<BTreeMap<String, (Vec<String>, Loop)>>>;

struct Machine {
    number: u32,
    address: String,
    public: Option<String>,
    booted: Option<Booted>,
    devices: Devices,
}

/// All machines.
pub(crate) struct Nspawn {
    dir: PathBuf,
    disks: Arc<Disks>,
    net: Arc<Net>,
    machines: Mutex<BTreeMap<String, Arc<Mutex<Machine>>>>,
}

fn locked<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Nspawn {
    pub(crate) fn new(dir: PathBuf, disks: Arc<Disks>, net: Arc<Net>) -> Self {
        Self { dir, disks, net, machines: Mutex::default() }
    }

    fn machine(&self, instance: &str) -> Option<Arc<Mutex<Machine>>> {
        locked(&self.machines).get(instance).cloned()
    }

    fn need(&self, instance: &str) -> Result<Arc<Mutex<Machine>>> {
        self.machine(instance).with_context(|| format!("there is no machine {instance}"))
    }

    fn folder(&self, instance: &str) -> PathBuf {
        self.dir.join("machines").join(instance)
    }
}

impl Machines for Nspawn {
    fn boot(&self, boot: &Boot, halted: Box<dyn FnOnce() + Send>) -> Result<()> {
        let new = || {
            let (number, address) = (boot.number, boot.address.clone());
            Arc::new(Mutex::new(Machine { number, address, public: None, booted: None, devices: Devices::default() }))
        };
        let machine = Arc::clone(locked(&self.machines).entry(boot.instance.clone()).or_insert_with(new));
        let mut machine = locked(&machine);
        self.net.add(boot.number, &boot.address)?;
        // Closed before it is reachable.
        self.net.filter(boot.number, &boot.rules)?;
        // A machine that powered itself off still has the address of its last run.
        if let Some(old) = machine.public.take() {
            self.net.withdraw(&old, &boot.address);
        }
        if let Some(public) = &boot.public {
            self.net.publish(public, &boot.address)?;
            machine.public = Some(public.clone());
        }
        let mut held = BTreeMap::new();
        for (volume, names) in &boot.volumes {
            held.insert(volume.clone(), (names.clone(), Loop::new(&self.disks.volume(volume))?));
        }
        *locked(&machine.devices) = held;
        let disk = match &boot.shared {
            Some(snapshot) => self.disks.snapshot(snapshot),
            None => self.disks.volume(&boot.root),
        };
        let place = partitions::root(&File::open(&disk).with_context(|| disk.display().to_string())?)?;
        let (dir, namespace) = (self.folder(&boot.instance), self.net.instance(boot.number));
        let hostname = format!("ip-{}", boot.address.replace('.', "-"));
        let spec = Spec {
            name: &boot.instance,
            hostname: &hostname,
            namespace: &namespace,
            dir: &dir,
            disk: &disk,
            place,
            overlay: boot.shared.is_some(),
            thousandths: boot.thousandths,
        };
        let devices = Arc::clone(&machine.devices);
        let up = move |root: &std::path::Path| {
            if let Err(e) = loops::allow(root) {
                tracing::warn!("no loop devices: {e:#}");
            }
            for (names, device) in locked(&devices).values() {
                if let Err(e) = device.show(root, names) {
                    tracing::warn!("a volume does not show up: {e:#}");
                }
            }
        };
        let devices = Arc::clone(&machine.devices);
        let over = Box::new(move || {
            // Nobody uses them any more: what was written is in their files when the stop is told.
            for (_, (_, device)) in std::mem::take(&mut *locked(&devices)) {
                device.close();
            }
            halted();
        });
        machine.booted = Some(Booted::start(&spec, up, over)?);
        Ok(())
    }

    fn halt(&self, instance: &str, force: bool) -> Result<()> {
        let machine = self.need(instance)?;
        let mut machine = locked(&machine);
        if let (Some(public), address) = (machine.public.take(), machine.address.clone()) {
            self.net.withdraw(&public, &address);
        }
        let Some(mut booted) = machine.booted.take() else { return Ok(()) };
        drop(machine);
        let patient = !force && booted.power_off().is_ok();
        booted.end(patient);
        Ok(())
    }

    fn reboot(&self, instance: &str) -> Result<()> {
        let machine = self.need(instance)?;
        let machine = locked(&machine);
        machine.booted.as_ref().context("it does not run")?.reboot()
    }

    fn remove(&self, instance: &str) -> Result<()> {
        let Some(machine) = self.machine(instance) else { return Ok(()) };
        self.halt(instance, false)?;
        self.net.remove(locked(&machine).number);
        locked(&self.machines).remove(instance);
        // What it wrote on its console can still be asked for.
        for part in ["root", "lower", "upper", "work"] {
            let _ = std::fs::remove_dir_all(self.folder(instance).join(part));
        }
        Ok(())
    }

    fn attach(&self, instance: &str, volume: &str, names: &[String]) -> Result<()> {
        let machine = self.need(instance)?;
        let machine = locked(&machine);
        let device = Loop::new(&self.disks.volume(volume))?;
        if let Some(root) = machine.booted.as_ref().and_then(Booted::root) {
            device.show(&root, names)?;
        }
        locked(&machine.devices).insert(volume.to_owned(), (names.to_vec(), device));
        Ok(())
    }

    fn detach(&self, instance: &str, volume: &str, force: bool, busy: &mut dyn FnMut()) -> Result<()> {
        let Some(machine) = self.machine(instance) else { return Ok(()) };
        let devices = Arc::clone(&locked(&machine).devices);
        let mut told = false;
        loop {
            let mut held = locked(&devices);
            let Some((_, device)) = held.get(volume) else { return Ok(()) };
            if force || !device.busy() {
                let gone = held.remove(volume);
                drop(held);
                let root = locked(&machine).booted.as_ref().and_then(Booted::root);
                if let Some((names, device)) = gone {
                    if let Some(root) = root {
                        Loop::hide(&root, &names);
                    }
                    device.close();
                }
                return Ok(());
            }
            drop(held);
            if !told {
                busy();
                told = true;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
    }

    fn firewall(&self, instance: &str, rules: &[Rule]) -> Result<()> {
        let Some(machine) = self.machine(instance) else { return Ok(()) };
        let number = locked(&machine).number;
        self.net.filter(number, rules)
    }

    fn console(&self, instance: &str) -> Option<Vec<u8>> {
        let path = self.folder(instance).join("console");
        let length = std::fs::metadata(&path).ok()?.len();
        Some(read_from(&path, length.saturating_sub(65_536)))
    }

    fn exec(&self, instance: &str, words: &[String], input: &[u8]) -> Result<Ran> {
        let machine = self.need(instance)?;
        // Without the lock while it runs: a command may take long, and the machine be ended meanwhile.
        let command = locked(&machine).booted.as_ref().context("it does not run")?.command()?;
        command.run(words, input)
    }

    fn counters(&self) -> BTreeMap<String, u64> {
        self.net.counters()
    }

    fn close(&self) {
        let machines = std::mem::take(&mut *locked(&self.machines));
        for machine in machines.into_values() {
            // Pulled, not asked: there is nothing that anybody will miss.
            drop(locked(&machine).booted.take());
            self.net.remove(locked(&machine).number);
        }
    }
}
