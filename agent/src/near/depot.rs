//! One fetch for many who ask: a file is taken from the cache, or comes once from the first source that gives the right bytes, and is
//! handed on while it comes.
//!
//! The end of a file is held back until all of it was seen to be right, so that whoever has it whole has the right one.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use rocks_common::ids::Sha256;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::cache::{Cache, Part};
use super::client::{Answer, ClientError};
use super::source::{Kind, Source, SourceError, Wanted};

/// Bytes of a file's end that nobody gets before all of it was checked.
pub const HELD_BACK: u64 = 64 << 10;
/// How often the frontend is asked for one file.
const TRIES: u32 = 3;
/// How long it is left in peace before it is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// How far a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It is coming.
    Coming {
        /// Grows when what came was wrong and it begins anew.
        attempt: u32,
        /// Bytes that are there, from the start on.
        ready: u64,
    },
    /// It is there, and right.
    Done {
        /// The attempt that was right.
        attempt: u32,
    },
    /// No source gives it.
    Failed,
    /// There is no room on the disk: it can only be handed through.
    NoRoom,
}

/// A file that is coming, or has come.
pub struct Flight {
    /// The file.
    pub file: Arc<File>,
    /// Its size when it is there.
    pub size: u64,
    /// How far it is.
    pub progress: watch::Receiver<Progress>,
}

/// How a file is to be had.
pub enum Taken {
    /// It is held.
    Held(File),
    /// It is coming.
    Coming(Arc<Flight>),
    /// The disk has no room for it: it can be handed through.
    Through,
}

/// What was handed on, in bytes.
#[derive(Debug, Default)]
pub struct Counters {
    /// To those who asked, all together.
    pub served: AtomicU64,
    /// Of that, what was held when they asked.
    pub held: AtomicU64,
}

/// The cache, the sources, and what is on its way between them.
pub struct Depot {
    cache: Arc<Cache>,
    sources: Vec<Source>,
    flights: Mutex<HashMap<Sha256, Arc<Flight>>>,
    /// What was handed on.
    pub counters: Counters,
}

impl Depot {
    /// A depot; the sources in the order in which they are asked, the frontend being the last.
    #[must_use]
    pub fn new(cache: Arc<Cache>, sources: Vec<Source>) -> Arc<Self> {
        Arc::new(Self { cache, sources, flights: Mutex::default(), counters: Counters::default() })
    }

    /// The sources.
    #[must_use]
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// The cache.
    #[must_use]
    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<Sha256, Arc<Flight>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a file: from the cache, or from whoever has it, once for all who want it now.
    pub async fn take(self: &Arc<Self>, wanted: &Wanted) -> Taken {
        let (cache, entry) = (self.cache.clone(), wanted.entry);
        // Reads the file if an earlier run left it.
        let _ = spawn_blocking(move || cache.check(entry)).await;
        // The order matters: a flight that ends puts its file into the cache before it goes.
        let mut flights = self.flights();
        if let Some(flight) = flights.get(&entry.digest) {
            return Taken::Coming(flight.clone());
        }
        if let Some(file) = self.cache.get(entry) {
            return Taken::Held(file);
        }
        let part = match self.cache.part(entry.size) {
            Ok(part) => part,
            Err(error) => {
                tracing::warn!("{} is handed through without being kept: {error}", wanted.path);
                return Taken::Through;
            }
        };
        let (sender, progress) = watch::channel(Progress::Coming { attempt: 0, ready: 0 });
        let flight = Arc::new(Flight { file: part.file(), size: entry.size, progress });
        flights.insert(entry.digest, flight.clone());
        drop(flights);
        let (depot, wanted) = (self.clone(), wanted.clone());
        tokio::spawn(async move {
            let fetch = Fetch { depot: &depot, wanted: &wanted, file: part.file(), progress: &sender };
            let ended = match fetch.run().await {
                Ok(attempt) => keep(part, &wanted, attempt),
                Err(ended) => {
                    if ended == Progress::NoRoom {
                        depot.cache.is_full(wanted.entry.size);
                    }
                    ended
                }
            };
            depot.flights().remove(&wanted.entry.digest);
            sender.send_replace(ended);
        });
        Taken::Coming(flight)
    }

    /// The next source to ask: those in good standing in their order, then those that are to be asked last.
    fn next(&self, tried: &[u32]) -> Option<usize> {
        let fresh = |at: &usize| match self.sources[*at].kind {
            Kind::Frontend => tried[*at] < TRIES,
            _ => tried[*at] == 0,
        };
        let good = |at: &usize| fresh(at) && !self.sources[*at].is_last();
        (0..self.sources.len()).find(good).or_else(|| (0..self.sources.len()).find(fresh))
    }

    /// Opens `wanted` at its start, to be handed through, at the first source that gives it.
    ///
    /// # Errors
    /// None does.
    pub async fn through(&self, wanted: &Wanted) -> Result<(usize, Answer), SourceError> {
        let mut tried = vec![0; self.sources.len()];
        let mut last = SourceError::Lacks;
        while let Some(at) = self.next(&tried) {
            tried[at] += 1;
            match self.sources[at].open(wanted, 0).await {
                Ok(answer) => return Ok((at, answer)),
                Err(error) => {
                    self.note(at, wanted, &error);
                    last = error;
                }
            }
        }
        Err(last)
    }

    /// Takes note of what a source did wrong; the frontend is only told of, because there is no other that has everything.
    pub fn note(&self, at: usize, wanted: &Wanted, error: &SourceError) {
        let source = &self.sources[at];
        match (source.kind, error) {
            (_, SourceError::Lacks) => tracing::debug!("{}: {} does not have it", wanted.path, source.name),
            (Kind::Frontend, error) => tracing::warn!("{} from {}: {error}", wanted.path, source.name),
            (_, error) if !source.is_last() => source.blame(&wanted.path, error),
            _ => {}
        }
    }
}

fn keep(part: Part, wanted: &Wanted, attempt: u32) -> Progress {
    // What cannot be kept can still be read by those who have it open.
    if let Err(error) = part.keep(wanted.entry.digest) {
        tracing::warn!("{} cannot be kept: {error}", wanted.path);
    }
    Progress::Done { attempt }
}

/// Why writing goes no further.
fn no_room(wanted: &Wanted, error: &io::Error) -> Progress {
    tracing::warn!("{} cannot be written: {error}; it is handed through without being kept", wanted.path);
    Progress::NoRoom
}

/// One fetch.
struct Fetch<'f> {
    depot: &'f Depot,
    wanted: &'f Wanted,
    file: Arc<File>,
    progress: &'f watch::Sender<Progress>,
}

/// What of a file is there.
struct There {
    ready: u64,
    context: Context,
    attempt: u32,
    /// The sources that it is from.
    from: Vec<usize>,
}

impl Fetch<'_> {
    async fn run(&self) -> Result<u32, Progress> {
        let depot = self.depot;
        let fresh = |attempt| There { ready: 0, context: Context::new(&SHA256), attempt, from: Vec::new() };
        let mut there = fresh(0);
        let mut tried = vec![0; depot.sources.len()];
        while let Some(at) = depot.next(&tried) {
            let source = &depot.sources[at];
            if tried[at] > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            tried[at] += 1;
            match source.open(self.wanted, there.ready).await {
                Err(error) => {
                    depot.note(at, self.wanted, &error);
                    continue;
                }
                Ok(answer) => {
                    there.from.push(at);
                    let (back, ended) = self.read(source, answer, there).await?;
                    there = back;
                    if let Err(error) = ended {
                        // What came stays: the next source goes on from there.
                        depot.note(at, self.wanted, &error.into());
                        continue;
                    }
                }
            }
            let digest = Sha256::from_digest(&there.context.clone().finish());
            if there.ready == self.wanted.entry.size && digest == self.wanted.entry.digest {
                return Ok(there.attempt);
            }
            // Somebody lied, and of several it may be any: all of them are asked last, and it begins anew.
            for from in there.from.iter().copied() {
                match depot.sources[from].kind {
                    Kind::Frontend => tracing::warn!("{}: what came is not what the index says", self.wanted.path),
                    _ => depot.sources[from].blame(&self.wanted.path, &"wrong bytes"),
                }
            }
            there = fresh(there.attempt + 1);
            self.progress.send_replace(Progress::Coming { attempt: there.attempt, ready: 0 });
        }
        tracing::error!("{} cannot be had from anywhere", self.wanted.path);
        Err(Progress::Failed)
    }

    /// Reads an answer to its end, or as far as it goes.
    async fn read(
        &self,
        source: &Source,
        mut answer: Answer,
        mut there: There,
    ) -> Result<(There, Result<(), ClientError>), Progress> {
        let size = self.wanted.entry.size;
        loop {
            let chunk: Bytes = match answer.chunk().await {
                Err(error) => return Ok((there, Err(error))),
                Ok(None) if there.ready < size => {
                    return Ok((there, Err(ClientError::Broken("it ended too early".to_owned()))));
                }
                Ok(None) => return Ok((there, Ok(()))),
                Ok(Some(chunk)) => chunk,
            };
            if there.ready + chunk.len() as u64 > size {
                return Ok((there, Err(ClientError::Bad("it has too many bytes".to_owned()))));
            }
            source.gave(chunk.len());
            let (file, at) = (self.file.clone(), there.ready);
            let work = spawn_blocking(move || {
                file.write_all_at(&chunk, at)?;
                there.context.update(&chunk);
                there.ready += chunk.len() as u64;
                Ok::<_, io::Error>(there)
            });
            there = match work.await {
                Ok(Ok(there)) => there,
                Ok(Err(error)) => return Err(no_room(self.wanted, &error)),
                Err(_) => return Err(Progress::Failed),
            };
            self.progress.send_replace(Progress::Coming { attempt: there.attempt, ready: there.ready });
        }
    }
}

/// How much of a file may be handed on now, from a flight's progress.
#[must_use]
pub fn open_to(progress: Progress, size: u64) -> u64 {
    match progress {
        Progress::Coming { ready, .. } => ready.min(size.saturating_sub(HELD_BACK.min(size.max(1)))),
        Progress::Done { .. } => size,
        Progress::Failed | Progress::NoRoom => 0,
    }
}

/// Counts what was handed on.
pub fn count(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(bytes as u64, Ordering::Relaxed);
}
