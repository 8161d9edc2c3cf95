//! Brings effects to where they are carried out, and events back.
//!
//! Effects about one thing are carried out in their order, by a thread of its own; those about different things at the same time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use anyhow::{Context as _, Result};

use super::disks::Disks;
use super::machines::Machines;
use crate::cloud::{Effect, Event};

/// Where an object of S3 is on disk.
pub(crate) type Objects = Box<dyn Fn(&str, &str) -> Option<PathBuf> + Send + Sync>;
/// What takes events in.
pub(crate) type Report = Box<dyn Fn(Event) + Send + Sync>;

type Job = Box<dyn FnOnce(&Inner) + Send>;

/// Carries effects out.
pub(crate) struct Carrier {
    inner: Arc<Inner>,
}

struct Inner {
    disks: Arc<Disks>,
    machines: Arc<dyn Machines>,
    objects: Objects,
    /// EC2's private key, if it opens bundles.
    key: Option<PathBuf>,
    report: Report,
    queues: Mutex<BTreeMap<String, Sender<Job>>>,
}

impl Carrier {
    pub(crate) fn new(
        disks: Arc<Disks>,
        machines: Arc<dyn Machines>,
        objects: Objects,
        key: Option<PathBuf>,
        report: Report,
    ) -> Self {
        let queues = Mutex::default();
        Self { inner: Arc::new(Inner { disks, machines, objects, key, report, queues }) }
    }

    /// Takes effects in their order. Returns at once.
    pub(crate) fn carry(&self, effects: Vec<Effect>) {
        for effect in effects {
            self.one(effect);
        }
    }

    fn one(&self, effect: Effect) {
        match effect {
            Effect::MakeVolume { volume, gib, snapshot, shared } => {
                // What it is made of is held on to now: its snapshot may be deleted at once.
                let from = match &snapshot {
                    Some(s) if !shared => self.inner.disks.stage(&self.inner.disks.snapshot(s), &volume).map(Some),
                    _ => Ok(None),
                };
                self.queue(volume.clone(), move |inner| {
                    let made = from.and_then(|from| {
                        if shared { Ok(()) } else { inner.disks.make_volume(&volume, gib, from.as_deref()) }
                    });
                    inner.tell(match made {
                        Ok(()) => Event::VolumeMade { volume },
                        Err(e) => Event::VolumeFailed { volume, why: format!("{e:#}") },
                    });
                });
            }
            Effect::RemoveVolume { volume } => self.last(volume.clone(), move |inner| {
                note("removing a volume", inner.disks.remove_volume(&volume));
            }),
            Effect::Copy { snapshot, volume, gib } => {
                let from = self.inner.disks.stage(&self.inner.disks.volume(&volume), &snapshot);
                self.queue(snapshot.clone(), move |inner| {
                    let made = from.and_then(|from| inner.disks.make_snapshot(&snapshot, gib, &from));
                    inner.tell(match made {
                        Ok((blocks, bytes)) => Event::Copied { snapshot, blocks, bytes },
                        Err(e) => Event::CopyFailed { snapshot, why: format!("{e:#}") },
                    });
                });
            }
            Effect::RemoveSnapshot { snapshot } => self.last(snapshot.clone(), move |inner| {
                note("removing a snapshot", inner.disks.remove_snapshot(&snapshot));
            }),
            Effect::Import { task, snapshot, bucket, key, format } => self.queue(snapshot.clone(), move |inner| {
                let object = (inner.objects)(&bucket, &key);
                let object = object.context("ClientError: the object, or the right to read it, is missing");
                inner.tell(match object.and_then(|object| inner.disks.import(&snapshot, &object, &format)) {
                    Ok((blocks, bytes)) => Event::Imported { task, blocks, bytes },
                    Err(e) => Event::ImportFailed { task, why: format!("{e:#}") },
                });
            }),
            Effect::Unbundle { image, snapshot, bucket, key } => self.queue(snapshot.clone(), move |inner| {
                let find = |name: &str| (inner.objects)(&bucket, name);
                let made = inner.key.as_deref().context("there is no key for bundles").and_then(|ec2_key| {
                    let made = inner.disks.unbundle(&snapshot, &key, ec2_key, &find);
                    made.with_context(|| format!("{bucket}/{key}"))
                });
                inner.tell(Event::Unbundled { image, result: made.map_err(|e| format!("{e:#}")) });
            }),
            Effect::Boot(boot) => {
                let weak = Arc::downgrade(&self.inner);
                self.queue(boot.instance.clone(), move |inner| {
                    let instance = boot.instance.clone();
                    let halted = halted(weak, instance.clone());
                    inner.tell(match inner.machines.boot(&boot, halted) {
                        Ok(()) => Event::Booted { instance },
                        Err(e) => Event::BootFailed { instance, why: format!("{e:#}") },
                    });
                });
            }
            Effect::Halt { instance, force } => self.queue(instance.clone(), move |inner| {
                if let Err(e) = inner.machines.halt(&instance, force) {
                    tracing::warn!("halting {instance}: {e:#}");
                    inner.tell(Event::Halted { instance });
                }
            }),
            Effect::Reboot { instance } => self.queue(instance.clone(), move |inner| {
                note("rebooting", inner.machines.reboot(&instance));
            }),
            Effect::Remove { instance } => self.last(instance.clone(), move |inner| {
                note("removing an instance", inner.machines.remove(&instance));
                inner.tell(Event::Removed { instance });
            }),
            Effect::Attach { instance, volume, names } => self.queue(instance.clone(), move |inner| {
                inner.tell(match inner.machines.attach(&instance, &volume, &names) {
                    Ok(()) => Event::Attached { volume },
                    Err(e) => {
                        tracing::warn!("attaching {volume} to {instance}: {e:#}");
                        Event::AttachFailed { volume, why: format!("{e:#}") }
                    }
                });
            }),
            Effect::Detach { instance, volume, force } => {
                // Beside the instance's queue: it may wait for as long as the volume is in use.
                let inner = Arc::clone(&self.inner);
                spawn("detach", move || {
                    let mut busy = || inner.tell(Event::Busy { volume: volume.clone() });
                    note("detaching", inner.machines.detach(&instance, &volume, force, &mut busy));
                    inner.tell(Event::Detached { volume });
                });
            }
            Effect::Firewall { instance, rules } => self.queue(instance.clone(), move |inner| {
                note("filtering", inner.machines.firewall(&instance, &rules));
            }),
        }
    }

    /// Puts a job at the end of the queue of what it is about.
    fn queue(&self, about: String, job: impl FnOnce(&Inner) + Send + 'static) {
        let mut queues = self.inner.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = queues.entry(about).or_insert_with(|| {
            let (sender, receiver) = channel::<Job>();
            // Weak, so that a cloud that is dropped ends its threads.
            let inner = Arc::downgrade(&self.inner);
            spawn("effects", move || {
                while let Ok(job) = receiver.recv() {
                    let Some(inner) = inner.upgrade() else { return };
                    job(&inner);
                }
            });
            sender
        });
        // It cannot be closed: the thread ends when this map forgets the sender.
        let _ = queue.send(Box::new(job));
    }

    /// The same for the last job that there will be about something.
    fn last(&self, about: String, job: impl FnOnce(&Inner) + Send + 'static) {
        let mut queues = self.inner.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.remove(&about) {
            let _ = queue.send(Box::new(job));
            return;
        }
        drop(queues);
        let inner = Arc::clone(&self.inner);
        spawn("effects", move || job(&inner));
    }
}

impl Inner {
    fn tell(&self, event: Event) {
        (self.report)(event);
    }
}

fn halted(inner: Weak<Inner>, instance: String) -> Box<dyn FnOnce() + Send> {
    Box::new(move || {
        if let Some(inner) = inner.upgrade() {
            inner.tell(Event::Halted { instance });
        }
    })
}

fn note(what: &str, result: Result<()>) {
    if let Err(e) = result {
        tracing::warn!("{what}: {e:#}");
    }
}

fn spawn(name: &str, job: impl FnOnce() + Send + 'static) {
    if let Err(e) = std::thread::Builder::new().name(name.to_owned()).spawn(job) {
        tracing::error!("no thread: {e}");
    }
}
