//! What was begun and what was done, whatever happens in between.
//!
//! A file of lines, each `DIGEST JSON`, the digest over the JSON: appended, flushed to the disk before the agent acts on it. A line that was
//! not written to its end (the agent or the machine died) is cut off at the next start; a line that was changed ends what can be
//! trusted, and is reported. [`Journal::compact`] replaces the file by one line with the state.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rocks_common::ids::{Digest, Generation};
use rocks_common::plan::{Applied, Step};
use rocks_common::wire::StepState;
use serde::{Deserialize, Serialize};

use crate::files;

/// Most bytes of a journal; it is compacted long before.
const BYTES: u64 = 256 << 20;
/// Bytes after which it is compacted.
const COMPACT_BYTES: u64 = 1 << 20;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
enum Record {
    /// All before it, as a state.
    State(Box<State>),
    /// A kickstart was accepted.
    Accepted { generation: Generation, kickstart: Digest },
    /// A step is about to be done.
    Begun { step: Box<Step> },
    /// It ended.
    Ended {
        id: String,
        state: StepState,
        /// What came because it was asked for. Agents from before wrote `installed`, with all that came along.
        #[serde(default)]
        asked: Vec<String>,
        /// Of a step that failed: what it removed all the same.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        removed: Vec<String>,
    },
    /// A step that was begun by an agent that was killed is known not to be running any more.
    Interrupted {
        step: Interruption,
        #[serde(default)]
        asked: Vec<String>,
    },
    /// A report has told of what was interrupted.
    Told,
    /// A kickstart was applied to its end.
    Settled { applied: Box<Applied> },
}

/// What the journal says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// What has been applied.
    pub applied: Applied,
    /// The highest generation accepted: nothing older is.
    pub generation: Generation,
    /// The kickstart last accepted.
    pub accepted: Option<Digest>,
    /// A step that was begun and not ended.
    pub open: Option<Box<Step>>,
    /// The steps that were interrupted and of which no report has told yet.
    pub interrupted: Vec<Interruption>,
}

/// A step that was begun and whose end nobody saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interruption {
    /// The step's identity.
    pub id: String,
    /// What it does.
    pub title: String,
    /// Why it was planned.
    pub reason: String,
    /// The end of what it printed, as far as it is known.
    pub output: String,
}

impl State {
    fn take(&mut self, record: Record) {
        match record {
            Record::State(state) => *self = *state,
            Record::Accepted { generation, kickstart } => {
                self.generation = self.generation.max(generation);
                self.accepted = Some(kickstart);
            }
            Record::Begun { step } => self.open = Some(step),
            Record::Ended { id, state, asked, removed } => {
                let Some(step) = self.open.take_if(|step| step.id.0 == id) else { return };
                if state == StepState::Done {
                    self.applied.record(&step, &asked);
                } else {
                    // A transaction that failed may have brought something in, or taken something away.
                    self.applied.packages.retain(|name| !removed.contains(name));
                    self.applied.packages.extend(asked);
                }
            }
            Record::Interrupted { step, asked } => {
                if self.open.take_if(|open| open.id.0 == step.id).is_some() {
                    self.applied.packages.extend(asked);
                    self.interrupted.push(step);
                }
            }
            Record::Told => self.interrupted.clear(),
            Record::Settled { applied } => self.applied = *applied,
        }
    }
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system's.
    #[error("the journal {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent has it.
    #[error("another agent is at work (it holds {})", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
}

/// The journal, held by this process alone.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    bytes: u64,
    state: State,
    /// Whether lines had to be left out because they were changed.
    damaged: bool,
    // Held as long as the journal is.
    _lock: File,
}

impl Journal {
    /// Opens the journal in `folder`, making it if need be.
    ///
    /// # Errors
    /// The file system's, or another agent is at work.
    pub fn open(folder: &Path) -> Result<Self, JournalError> {
        let path = folder.join("journal");
        let fail = |source| JournalError::Io { path: path.clone(), source };
        std::fs::create_dir_all(folder).map_err(fail)?;
        let lock_path = folder.join("lock");
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock_path).map_err(fail)?;
        if rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(JournalError::Locked { path: lock_path });
        }
        let bytes = files::read(&path, BYTES).map_err(fail)?.unwrap_or_default();
        let (state, good, damaged) = replay(&bytes);
        if damaged {
            // Keep what cannot be read for those who want to know.
            files::write(&folder.join("journal.damaged"), &bytes, 0o600).map_err(fail)?;
        }
        let mut file =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(fail)?;
        file.set_len(good as u64).map_err(fail)?;
        file.seek(SeekFrom::End(0)).map_err(fail)?;
        file.sync_all().map_err(fail)?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(fail)?;
        Ok(Self { path, file, bytes: good as u64, state, damaged, _lock: lock })
    }

    /// What it says.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether lines had to be left out because they were changed.
    #[must_use]
    pub fn damaged(&self) -> bool {
        self.damaged
    }

    fn write(&mut self, record: Record) -> Result<(), JournalError> {
        let line = line_of(&record);
        let before = self.bytes;
        let result = self.file.write_all(&line).and_then(|()| self.file.sync_data());
        if let Err(source) = result {
            // A full disk may have taken half a line: cut it off, so that what follows can be read.
            let _ = self.file.set_len(before);
            let _ = self.file.seek(SeekFrom::End(0));
            return Err(JournalError::Io { path: self.path.clone(), source });
        }
        self.bytes += line.len() as u64;
        self.state.take(record);
        Ok(())
    }

    /// A kickstart was accepted.
    ///
    /// # Errors
    /// It could not be made durable.
    pub fn accepted(&mut self, generation: Generation, kickstart: Digest) -> Result<(), JournalError> {
        if self.state.generation >= generation && self.state.accepted == Some(kickstart) {
            return Ok(());
        }
        self.write(Record::Accepted { generation, kickstart })
    }

    /// A step is about to be done.
    ///
    /// # Errors
    /// It could not be made durable; then the step must not be done.
    pub fn begun(&mut self, step: &Step) -> Result<(), JournalError> {
        self.write(Record::Begun { step: Box::new(step.clone()) })
    }

    /// The step begun last has ended, with what it brought in because it was `asked` to and, if it failed, what it `removed` all the same.
    ///
    /// # Errors
    /// It could not be made durable.
    pub fn ended(
        &mut self,
        id: &str,
        state: StepState,
        asked: Vec<String>,
        removed: Vec<String>,
    ) -> Result<(), JournalError> {
        self.write(Record::Ended { id: id.to_owned(), state, asked, removed })
    }

    /// The step that is open was interrupted, has brought in what was `asked` for and had printed `output`; it is not running any more.
    ///
    /// # Errors
    /// It could not be made durable.
    pub fn interrupted(&mut self, step: &Step, asked: Vec<String>, output: String) -> Result<(), JournalError> {
        let step = Interruption { id: step.id.0.clone(), title: step.title(), reason: step.reason.clone(), output };
        self.write(Record::Interrupted { step, asked })
    }

    /// A report that tells of what was interrupted is on its way.
    ///
    /// # Errors
    /// It could not be made durable; then another one will tell of it again.
    pub fn told(&mut self) -> Result<(), JournalError> {
        if self.state.interrupted.is_empty() { Ok(()) } else { self.write(Record::Told) }
    }

    /// A kickstart was applied to its end.
    ///
    /// # Errors
    /// It could not be made durable.
    pub fn settled(&mut self, applied: Applied) -> Result<(), JournalError> {
        if self.state.applied != applied {
            self.write(Record::Settled { applied: Box::new(applied) })?;
        }
        if self.bytes > COMPACT_BYTES { self.compact() } else { Ok(()) }
    }

    /// Replaces the file by one line with the state.
    ///
    /// # Errors
    /// The file system's; the old file is still there then.
    pub fn compact(&mut self) -> Result<(), JournalError> {
        let fail = |source| JournalError::Io { path: self.path.clone(), source };
        let line = line_of(&Record::State(Box::new(self.state.clone())));
        files::write(&self.path, &line, 0o600).map_err(fail)?;
        let mut file = OpenOptions::new().write(true).open(&self.path).map_err(fail)?;
        file.seek(SeekFrom::End(0)).map_err(fail)?;
        self.file = file;
        self.bytes = line.len() as u64;
        Ok(())
    }
}

fn line_of(record: &Record) -> Vec<u8> {
    // These types always serialize.
    let json = serde_json::to_vec(record).unwrap_or_default();
    let mut line = Digest::of(&json).to_string().into_bytes();
    line.push(b' ');
    line.extend(json);
    line.push(b'\n');
    line
}

/// The state after all lines that can be trusted, how many bytes those are, and whether what follows was changed rather than cut.
fn replay(bytes: &[u8]) -> (State, usize, bool) {
    let mut state = State::default();
    let mut good = 0;
    while let Some(length) = bytes[good..].iter().position(|b| *b == b'\n') {
        let line = &bytes[good..good + length];
        let record = line.split_at_checked(65).and_then(|(digest, json)| {
            let whole = digest.strip_suffix(b" ")? == Digest::of(json).to_string().as_bytes();
            whole.then(|| serde_json::from_slice::<Record>(json).ok())?
        });
        let Some(record) = record else { return (state, good, true) };
        state.take(record);
        good += length + 1;
    }
    (state, good, false)
}

#[cfg(test)]
mod tests {
    use rocks_common::plan::{Action, LiveCommand, StepId};

    use super::*;

    fn step(name: &str) -> Step {
        let action = Action::Command(LiveCommand::Lang(name.into()));
        Step { id: StepId(name.into()), action, reason: String::new(), after: Vec::new() }
    }

    #[test]
    fn whatever_is_cut_off_nothing_completed_is_forgotten_and_nothing_is_invented() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut states = vec![(0, State::default())];
        {
            let mut journal = Journal::open(folder.path()).expect("opened");
            assert!(matches!(Journal::open(folder.path()), Err(JournalError::Locked { .. })));
            journal.accepted(Generation(5), Digest::of(b"k")).expect("written");
            states.push((journal.bytes, journal.state.clone()));
            for name in ["a", "b"] {
                journal.begun(&step(name)).expect("written");
                states.push((journal.bytes, journal.state.clone()));
                journal.ended(name, StepState::Done, vec![], vec![]).expect("written");
                states.push((journal.bytes, journal.state.clone()));
            }
        }
        let whole = std::fs::read(folder.path().join("journal")).expect("read");
        for cut in 0..=whole.len() {
            let (state, good, damaged) = replay(&whole[..cut]);
            let (at, want) = states.iter().rev().find(|(at, _)| *at as usize <= cut).expect("there is one");
            assert!(!damaged);
            assert_eq!((good as u64, &state), (*at, want), "cut at {cut}");
        }
        assert!(states.last().expect("some").1.open.is_none());
        // A changed byte ends what is trusted.
        let mut changed = whole.clone();
        changed[70] ^= 1;
        assert!(replay(&changed).2);
        std::fs::write(folder.path().join("journal"), &whole[..whole.len() - 3]).expect("written");
        let mut journal = Journal::open(folder.path()).expect("opened");
        assert_eq!(journal.state().open.as_ref().map(|s| s.id.0.as_str()), Some("b"));
        // What is interrupted is remembered until it is told, and what it brought in is the agent's.
        journal.interrupted(&step("b"), vec!["p".into()], "said".into()).expect("written");
        drop(journal);
        let mut journal = Journal::open(folder.path()).expect("opened");
        assert!(journal.state().open.is_none() && journal.state().applied.packages.contains("p"));
        assert_eq!(journal.state().interrupted.iter().map(|s| s.output.as_str()).collect::<Vec<_>>(), ["said"]);
        journal.told().expect("written");
        assert!(journal.state().interrupted.is_empty());
        journal.begun(&step("b")).expect("written");
        journal.compact().expect("compacted");
        journal.ended("b", StepState::Done, vec![], vec![]).expect("written");
        let want = journal.state().clone();
        drop(journal);
        assert_eq!(*Journal::open(folder.path()).expect("opened").state(), want);
    }
}
