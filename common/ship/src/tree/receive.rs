//! The end that the tree comes to.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Instant;

use super::Shipped;
use super::beneath::{Failure, Found};
use super::entry::{Entry, Inode, Kind, Node, cells_of};
use super::manifest::Manifest;
use super::mounted::Origin;
use super::plan::{Index, Plan, plan};
use super::sink::{Findings, TreeTarget, What, Writer, is_kernels};
use super::talk::watched;
use super::wire::{Frame, Hello, PACK, read_manifest, unpack};
use crate::shipment::wire::{Message, refuse, write_wants};
use crate::shipment::{Phase, Progress, ShipmentError, Stream, Tell, block_digest, hex, processors};

/// Packs that wait to be unpacked, checked and written, for each thread.
const WAITING: usize = 8;

/// Makes what a tree is to be written to, when it is known where the tree comes from.
pub type Ground<'g> = Box<dyn Fn(&Origin) -> Result<TreeTarget, ShipmentError> + Send + Sync + 'g>;

enum Place<'g> {
    Open(TreeTarget),
    Made(Ground<'g>),
}

/// Takes one tree.
pub struct TreeReceiver<'g> {
    place: Place<'g>,
    began: Instant,
}

impl<'g> TreeReceiver<'g> {
    /// Takes a tree into `target`.
    #[must_use]
    pub fn new(target: TreeTarget) -> Self {
        Self { place: Place::Open(target), began: Instant::now() }
    }

    /// Takes a tree onto what `ground` makes for it, at each attempt: it must not take away what an earlier one left.
    #[must_use]
    pub fn onto(ground: Ground<'g>) -> Self {
        Self { place: Place::Made(ground), began: Instant::now() }
    }

    /// Takes it over one connection. What could not be made as it should be, and was tolerated, comes with the result.
    ///
    /// # Errors
    /// See [`ShipmentError`]. What arrived stays in the target, and another attempt finds it there.
    pub fn run(&self, stream: &mut dyn Stream, tell: Tell<'_>) -> Result<(Shipped, Findings), ShipmentError> {
        let result = self.attempt(stream, tell);
        if let Err(error) = &result {
            refuse(stream, error);
        }
        result
    }

    fn attempt(&self, stream: &mut dyn Stream, tell: Tell<'_>) -> Result<(Shipped, Findings), ShipmentError> {
        let Frame::Hello(hello) = Frame::read(stream)? else {
            return Err(ShipmentError::Protocol("a shipment begins otherwise"));
        };
        let manifest = read_manifest(stream, &hello)?;
        let made;
        let target = match &self.place {
            Place::Open(target) => target,
            Place::Made(ground) => {
                made = patiently(stream, || ground(&hello.origin))?;
                &made
            }
        };
        let attempt = Attempt { target, began: self.began };
        let result = attempt.run(&manifest, &hello, stream, tell);
        if result.is_err() {
            // So that the next attempt finds what came, whatever becomes of the machine.
            let _ = target.beneath.sync();
        }
        result
    }
}

/// Does `work` while the sender hears that we are there.
fn patiently<T: Send>(
    stream: &mut dyn Stream,
    work: impl FnOnce() -> Result<T, ShipmentError> + Send,
) -> Result<T, ShipmentError> {
    let say = |done: u64| {
        Message::At(done).write(stream)?;
        stream.flush().map_err(ShipmentError::Connection)
    };
    watched(&AtomicU64::new(0), say, |_| work())?
}

/// One connection.
struct Attempt<'t> {
    target: &'t TreeTarget,
    began: Instant,
}

impl Attempt<'_> {
    fn run(
        &self,
        manifest: &Manifest,
        hello: &Hello,
        stream: &mut dyn Stream,
        tell: Tell<'_>,
    ) -> Result<(Shipped, Findings), ShipmentError> {
        let index = Index::of(manifest)?;
        let (plan, findings) = self.compare(manifest, &index, stream, tell)?;
        let wants = plan.wants(&index);
        write_wants(stream, &wants)?;
        let sent = wants.iter().filter(|wanted| **wanted).count() as u64;
        let sent_bytes = Taking::new(self.target, manifest, &index, &plan, &wants).run(sent, stream, tell)?;
        drop(plan);
        let findings = self.settle(manifest, findings, stream, tell)?;
        Frame::Done(findings.len() as u64).write(stream)?;
        stream.flush().map_err(ShipmentError::Connection)?;
        let shipped = Shipped {
            bytes: manifest.bytes(),
            entries: manifest.entries().len() as u64,
            chunks: index.len() as u64,
            sent,
            sent_bytes,
            findings: findings.len() as u64,
            digest: hex(&hello.digest),
            took: self.began.elapsed(),
        };
        Ok((shipped, findings))
    }

    /// Does `work` while the sender hears that we are there.
    fn during<T: Send>(
        &self,
        (phase, of): (Phase, u64),
        stream: &mut dyn Stream,
        tell: Tell<'_>,
        work: impl FnOnce(&AtomicU64, &AtomicBool) -> Result<T, Failure> + Send,
    ) -> Result<T, ShipmentError> {
        let done = AtomicU64::new(0);
        let say = |done: u64| {
            tell(Progress { phase, done: done.min(of), of, sent_bytes: 0 });
            Message::At(done).write(stream)?;
            stream.flush().map_err(ShipmentError::Connection)
        };
        watched(&done, say, |stop| work(&done, stop))?.map_err(|failure| self.target.fail(&failure))
    }

    /// Looks at what is there, and brings it into the shape of the tree.
    fn compare(
        &self,
        manifest: &Manifest,
        index: &Index,
        stream: &mut dyn Stream,
        tell: Tell<'_>,
    ) -> Result<(Plan, Findings), ShipmentError> {
        let count = (Phase::Comparing, index.len() as u64);
        let found = self.during(count, stream, tell, |done, stop| self.target.survey(false, done, stop))?;
        let plan = plan(manifest, index, &found);
        let count = (Phase::Comparing, manifest.entries().len() as u64);
        let arrange = |done: &AtomicU64, _: &AtomicBool| self.target.arrange(manifest, &found, &plan, done);
        let findings = self.during(count, stream, tell, arrange)?;
        Ok((plan, findings))
    }

    /// Gives everything its attributes, brings it to the device, reads it back and compares.
    fn settle(
        &self,
        manifest: &Manifest,
        findings: Findings,
        stream: &mut dyn Stream,
        tell: Tell<'_>,
    ) -> Result<Findings, ShipmentError> {
        let names = manifest.entries().len() as u64;
        let cells = manifest.entries().iter().filter_map(Entry::content).map(|content| cells_of(content.size)).sum();
        let finish = |done: &AtomicU64, _: &AtomicBool| {
            let findings = self.target.finish(manifest, findings, done)?;
            self.target.beneath.sync().map_err(Failure::of(&super::TreePath::root(), "bring it to the device"))?;
            Ok(findings)
        };
        let findings = self.during((Phase::Verifying, names), stream, tell, finish)?;
        let survey = |done: &AtomicU64, stop: &AtomicBool| self.target.survey(true, done, stop);
        let found = self.during((Phase::Verifying, cells), stream, tell, survey)?;
        same(manifest, &found, &findings)?;
        Ok(findings)
    }
}

/// Compares what was read back with what was to be there.
fn same(manifest: &Manifest, found: &[Found], findings: &Findings) -> Result<(), ShipmentError> {
    let passed: HashSet<(u32, What)> = findings.iter().map(|finding| (finding.at, finding.what)).collect();
    let differs = |entry: &Entry, what| Err(ShipmentError::Differs { path: entry.path.to_string(), what });
    // A file system that keeps no nanoseconds, as ext3 does, has none anywhere.
    let is_coarse = found.iter().all(|found| match &found.entry.node {
        Node::Inode(inode) => inode.mtime.nanos == 0,
        Node::HardLink(_) => true,
    });
    let mut there = found.iter();
    for (at, entry) in (0..).zip(manifest.entries()) {
        if passed.contains(&(at, What::Existence)) {
            continue;
        }
        let Some(now) = there.next() else { return differs(entry, "it is not there") };
        if now.entry.path != entry.path {
            let is_missing = now.entry.path > entry.path;
            return if is_missing { differs(entry, "it is not there") } else { differs(&now.entry, "it is too much") };
        }
        let what = match (&entry.node, &now.entry.node) {
            (Node::HardLink(to), Node::HardLink(other)) => {
                let other = &found[*other as usize].entry.path;
                (manifest.entries()[*to as usize].path != *other).then_some("it is linked to another file")
            }
            (Node::Inode(inode), Node::Inode(now)) => {
                difference(inode, now, is_coarse, |what| passed.contains(&(at, what)))
            }
            (Node::HardLink(_), _) => Some("it is not linked"),
            (_, Node::HardLink(_)) => Some("it is linked to another file"),
        };
        if let Some(what) = what {
            return differs(entry, what);
        }
    }
    match there.next() {
        Some(more) => differs(&more.entry, "it is too much"),
        None => Ok(()),
    }
}

fn difference(wanted: &Inode, now: &Inode, is_coarse: bool, passed: impl Fn(What) -> bool) -> Option<&'static str> {
    let is_extra = |name: &[u8]| is_kernels(name) && !wanted.xattrs.iter().any(|xattr| *xattr.name == *name);
    let has_time = wanted.mtime == now.mtime || (is_coarse && wanted.mtime.seconds == now.mtime.seconds);
    if wanted.kind != now.kind {
        return Some(if matches!(wanted.kind, Kind::File(_)) { "what it holds" } else { "what it is" });
    }
    if (wanted.uid, wanted.gid) != (now.uid, now.gid) && !passed(What::Owner) {
        return Some("its owner");
    }
    let xattrs = now.xattrs.iter().filter(|xattr| !is_extra(&xattr.name));
    if !xattrs.eq(wanted.xattrs.iter()) && !passed(What::Attributes) {
        return Some("its extended attributes");
    }
    // An access control list that could not be set is part of the mode.
    if wanted.mode != now.mode && !passed(What::Attributes) {
        return Some("its mode");
    }
    (!has_time).then_some("its time")
}

/// Takes the chunks that come: unpacked, checked and written on all processors.
struct Taking<'r> {
    target: &'r TreeTarget,
    manifest: &'r Manifest,
    index: &'r Index,
    plan: &'r Plan,
    wants: &'r [bool],
    came: Vec<AtomicBool>,
    done: AtomicU64,
}

impl<'r> Taking<'r> {
    fn new(
        target: &'r TreeTarget,
        manifest: &'r Manifest,
        index: &'r Index,
        plan: &'r Plan,
        wants: &'r [bool],
    ) -> Self {
        let came = wants.iter().map(|_| AtomicBool::new(false)).collect();
        Self { target, manifest, index, plan, wants, came, done: AtomicU64::new(0) }
    }

    fn run(&self, of: u64, stream: &mut dyn Stream, tell: Tell<'_>) -> Result<u64, ShipmentError> {
        let failed: Mutex<Option<ShipmentError>> = Mutex::new(None);
        let mut sent_bytes = 0;
        let result = std::thread::scope(|scope| {
            let mut lanes = Vec::new();
            for _ in 0..processors() {
                let (send, receive) = mpsc::sync_channel::<Vec<u8>>(WAITING);
                lanes.push(send);
                let failed = &failed;
                scope.spawn(move || {
                    let mut writer = self.target.writer(self.manifest);
                    let mut buffer = vec![0; PACK];
                    for pack in receive {
                        if let Err(error) = self.put(&pack, &mut writer, &mut buffer) {
                            failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                            return;
                        }
                    }
                });
            }
            let mut turn = 0;
            loop {
                let pack = match Frame::read(stream)? {
                    Frame::Chunks(pack) => pack,
                    Frame::Both(Message::End) => return Ok(()),
                    _ => return Err(ShipmentError::Protocol("a chunk was to come")),
                };
                sent_bytes += (pack.len() as u64).saturating_sub(1);
                tell(Progress { phase: Phase::Sending, done: self.done.load(Ordering::Relaxed), of, sent_bytes });
                turn = (turn + 1) % lanes.len();
                if lanes[turn].send(pack).is_err() {
                    // Its thread has ended: it says why.
                    return Ok(());
                }
            }
        });
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        result?;
        if self.done.load(Ordering::Relaxed) != of {
            return Err(ShipmentError::Protocol("it ends before all chunks came"));
        }
        tell(Progress { phase: Phase::Sending, done: of, of, sent_bytes });
        Ok(sent_bytes)
    }

    fn put(&self, pack: &[u8], writer: &mut Writer<'_>, buffer: &mut [u8]) -> Result<(), ShipmentError> {
        let mut rest = unpack(pack, buffer)?;
        while !rest.is_empty() {
            let (id, more) =
                rest.split_first_chunk::<4>().ok_or(ShipmentError::Protocol("a chunk without a number"))?;
            let id = u32::from_le_bytes(*id);
            if !self.wants.get(id as usize).is_some_and(|wanted| *wanted)
                || self.came[id as usize].swap(true, Ordering::Relaxed)
            {
                return Err(ShipmentError::Protocol("a chunk that nobody asked for"));
            }
            let split = more.split_at_checked(self.index.length(self.manifest, id));
            let (chunk, more) = split.ok_or(ShipmentError::Protocol("a chunk is short"))?;
            if block_digest(chunk).as_ref() != self.index.digest(self.manifest, id) {
                return Err(ShipmentError::Protocol("a chunk is not what the manifest says"));
            }
            for (at, cell) in self.plan.places(id) {
                writer.put(at, cell, chunk).map_err(|failure| self.target.fail(&failure))?;
            }
            self.done.fetch_add(1, Ordering::Relaxed);
            rest = more;
        }
        Ok(())
    }
}
