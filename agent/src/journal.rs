//! What was begun and what was done, whatever happens in between.
//!
//! A file of lines, each `DIGEST JSON`, the digest over the JSON: appended, flushed to the disk before the agent acts
//! on it. A line that was not written to its end (the agent or the machine died) is cut off at the next start; a line
//! that was changed ends what can be trusted, and is reported. [`Journal::compact`] replaces the file by one line with
//! the state, whenever it has grown to several times that.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rocks_common::ids::{Digest, Generation};
use rocks_common::plan::{Applied, Step};
use rocks_common::wire::StepState;
use serde::{Deserialize, Serialize};

use crate::files;

/// Most bytes of a line; no kickstart has steps that come near.
const LINE_BYTES: u64 = 256 << 20;
/// Bytes after which it is compacted, if that makes it much smaller.
const COMPACT_BYTES: u64 = 1 << 20;
/// How many times smaller it has to become.
const COMPACT_FACTOR: u64 = 4;

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
    /// A kickstart was applied to its end, or begins to be applied: what counts as applied from now on.
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
            Record::Begun { step } => {
                self.applied.begin_step(&step);
                self.open = Some(step);
            }
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
    /// How many bytes it had when it was compacted last.
    least: u64,
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
        let (state, good, damaged) = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => (State::default(), 0, false),
            opened => opened.and_then(|file| replay(BufReader::new(file))).map_err(fail)?,
        };
        if damaged {
            // Keep what cannot be read for those who want to know. A disk without room for it is no reason to do
            // nothing.
            let beside = folder.join("journal.damaged");
            if let Err(error) = std::fs::copy(&path, &beside) {
                tracing::warn!("{}: {error}", beside.display());
            }
        }
        let mut file =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(fail)?;
        file.set_len(good).map_err(fail)?;
        file.seek(SeekFrom::End(0)).map_err(fail)?;
        file.sync_all().map_err(fail)?;
        files::flush_folder(&path).map_err(fail)?;
        let mut journal = Self { path, file, bytes: good, least: 0, state, damaged, _lock: lock };
        journal.tidy();
        Ok(journal)
    }

    /// What the journal in `folder` says now, for who only looks: whoever holds it may go on writing. A line that is
    /// being written does not count yet; where there is no journal, nothing has been done.
    ///
    /// # Errors
    /// The file system's.
    pub fn look(folder: &Path) -> Result<State, JournalError> {
        let path = folder.join("journal");
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(State::default()),
            opened => match opened.and_then(|file| replay(BufReader::new(file))) {
                Ok((state, ..)) => Ok(state),
                Err(source) => Err(JournalError::Io { path, source }),
            },
        }
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

    /// The step begun last has ended, with what it brought in because it was `asked` to and, if it failed, what it
    /// `removed` all the same.
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
        self.write(Record::Ended { id: id.to_owned(), state, asked, removed })?;
        self.tidy();
        Ok(())
    }

    /// The step that is open was interrupted, has brought in what was `asked` for and had printed `output`; it is not
    /// running any more.
    ///
    /// # Errors
    /// It could not be made durable.
    pub fn interrupted(&mut self, step: &Step, asked: Vec<String>, output: String) -> Result<(), JournalError> {
        let step = Interruption { id: step.id.0.clone(), title: step.title(), reason: step.reason.clone(), output };
        self.write(Record::Interrupted { step, asked })?;
        self.tidy();
        Ok(())
    }

    /// A report that tells of what was interrupted is on its way.
    ///
    /// # Errors
    /// It could not be made durable; then another one will tell of it again.
    pub fn told(&mut self) -> Result<(), JournalError> {
        if !self.state.interrupted.is_empty() {
            self.write(Record::Told)?;
            self.tidy();
        }
        Ok(())
    }

    /// What counts as applied from now on: a kickstart was applied to its end, or begins to be applied.
    ///
    /// # Errors
    /// It could not be made durable.
    pub fn settled(&mut self, applied: Applied) -> Result<(), JournalError> {
        if self.state.applied != applied {
            self.write(Record::Settled { applied: Box::new(applied) })?;
        }
        self.tidy();
        Ok(())
    }

    /// Compacts a file that has grown, also while steps fail again and again. What it says is durable without that:
    /// that it cannot be done now is no failure.
    fn tidy(&mut self) {
        if self.bytes <= COMPACT_BYTES.max(self.least.saturating_mul(COMPACT_FACTOR)) {
            return;
        }
        if let Err(error) = self.compact() {
            tracing::warn!("it cannot be compacted: {error}");
        }
    }

    /// Replaces the file by one line with the state.
    ///
    /// # Errors
    /// The file system's; what was written before is still there then.
    pub fn compact(&mut self) -> Result<(), JournalError> {
        let fail = |source| JournalError::Io { path: self.path.clone(), source };
        let line = line_of(&Record::State(Box::new(self.state.clone())));
        // The file that comes to its place is the one that is written on: there is no moment at which the two differ.
        self.file = files::put(&self.path, &line, 0o600).map_err(fail)?;
        (self.bytes, self.least) = (line.len() as u64, line.len() as u64);
        files::flush_folder(&self.path).map_err(fail)
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
fn replay(mut reader: impl BufRead) -> io::Result<(State, u64, bool)> {
    let (mut state, mut good, mut bytes) = (State::default(), 0, Vec::new());
    loop {
        bytes.clear();
        let length = reader.by_ref().take(LINE_BYTES).read_until(b'\n', &mut bytes)? as u64;
        let Some(line) = bytes.strip_suffix(b"\n") else { return Ok((state, good, length == LINE_BYTES)) };
        let record = line.split_at_checked(65).and_then(|(digest, json)| {
            let whole = digest.strip_suffix(b" ")? == Digest::of(json).to_string().as_bytes();
            whole.then(|| serde_json::from_slice::<Record>(json).ok())?
        });
        let Some(record) = record else { return Ok((state, good, true)) };
        state.take(record);
        good += length;
    }
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
            let (state, good, damaged) = replay(&whole[..cut]).expect("read");
            let (at, want) = states.iter().rev().find(|(at, _)| *at as usize <= cut).expect("there is one");
            assert!(!damaged);
            assert_eq!((good, &state), (*at, want), "cut at {cut}");
        }
        assert!(states.last().expect("some").1.open.is_none());
        // A changed byte ends what is trusted.
        let mut changed = whole.clone();
        changed[70] ^= 1;
        assert!(replay(&changed[..]).expect("read").2);
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

    #[test]
    fn it_can_be_looked_at_while_another_agent_is_at_work() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join("state");
        assert_eq!(Journal::look(&state).expect("none is no failure"), State::default());
        assert!(!state.exists());
        let mut journal = Journal::open(&state).expect("opened");
        journal.begun(&step("a")).expect("written");
        assert_eq!(Journal::look(&state).expect("read"), *journal.state());
        // A half line is being written; it is not ours to cut off.
        let whole = std::fs::read(state.join("journal")).expect("read");
        journal.file.write_all(&line_of(&Record::Told)[..30]).expect("written");
        assert_eq!(Journal::look(&state).expect("read"), *journal.state());
        assert_eq!(std::fs::read(state.join("journal")).expect("read").len(), whole.len() + 30);
        assert!(matches!(Journal::open(&state), Err(JournalError::Locked { .. })));
    }

    /// A step with a long text.
    fn long(name: &str) -> Step {
        let action = Action::Command(LiveCommand::Lang("x".repeat(100 << 10)));
        Step { id: StepId(name.into()), action, reason: String::new(), after: Vec::new() }
    }

    #[test]
    fn it_does_not_grow_while_steps_fail_or_are_interrupted() {
        let folder = tempfile::tempdir().expect("a folder");
        let size = || std::fs::metadata(folder.path().join("journal")).expect("there").len();
        let mut journal = Journal::open(folder.path()).expect("opened");
        journal.accepted(Generation(7), Digest::of(b"k")).expect("written");
        for round in 0..40 {
            journal.begun(&long("a")).expect("written");
            if round % 2 == 0 {
                journal.ended("a", StepState::Failed, vec!["p".into()], vec![]).expect("written");
            } else {
                journal.interrupted(&long("a"), vec![], "said".into()).expect("written");
                journal.told().expect("written");
            }
            assert!(size() == journal.bytes && size() < COMPACT_BYTES + (200 << 10), "{}", size());
        }
        let want = journal.state().clone();
        assert!(want.generation == Generation(7) && want.applied.packages.contains("p"));
        drop(journal);
        assert_eq!(*Journal::open(folder.path()).expect("opened").state(), want);
    }

    #[test]
    fn what_an_agent_from_before_noted_as_brought_in_is_not_taken_for_asked_for() {
        let ended = r#"{"record":"ended","id":"a","state":"done","installed":["fonts"]}"#;
        let mut lines = line_of(&Record::Begun { step: Box::new(step("a")) });
        lines.extend(format!("{} {ended}\n", Digest::of(ended.as_bytes())).into_bytes());
        let (state, good, damaged) = replay(&lines[..]).expect("read");
        assert!(!damaged && good == lines.len() as u64 && state.open.is_none());
        assert!(state.applied.packages.is_empty() && state.applied.commands.len() == 1);
    }

    #[test]
    fn what_packages_that_are_being_installed_may_undo_does_not_count() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = Journal::open(folder.path()).expect("opened");
        let commands = ["services --disabled=a", "services --enabled=a", "lang"];
        let commands = commands.map(|key| (key.to_owned(), String::new())).into();
        journal.settled(Applied { commands, ..Applied::default() }).expect("written");
        let install = vec![rocks_common::kickstart::PackageSpec::Package("b".into())];
        let change = rocks_common::plan::PackageChange { install, ..Default::default() };
        journal.begun(&Step { action: Action::Packages(change), ..step("b") }).expect("written");
        drop(journal);
        let state = Journal::look(folder.path()).expect("read");
        assert_eq!(state.applied.commands.into_keys().collect::<Vec<_>>(), ["lang", "services --enabled=a"]);
    }

    #[test]
    fn one_that_has_grown_is_opened_and_compacted() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("journal");
        let mut lines = line_of(&Record::Accepted { generation: Generation(7), kickstart: Digest::of(b"k") });
        for _ in 0..100 {
            lines.extend(line_of(&Record::Begun { step: Box::new(long("a")) }));
            let (asked, removed) = (vec!["p".to_owned()], Vec::new());
            lines.extend(line_of(&Record::Ended { id: "a".into(), state: StepState::Failed, asked, removed }));
        }
        std::fs::write(&path, &lines).expect("written");
        let mut journal = Journal::open(folder.path()).expect("opened");
        assert!(!journal.damaged() && journal.state().generation == Generation(7));
        assert!(std::fs::metadata(&path).expect("there").len() < 4096);
        // What comes after it is in the file that is there.
        journal.begun(&step("b")).expect("written");
        drop(journal);
        assert!(Journal::open(folder.path()).expect("opened").state().open.is_some());
    }

    #[test]
    fn one_that_cannot_be_compacted_is_written_on() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(folder.path().join(".journal.new/in the way")).expect("made");
        let mut journal = Journal::open(folder.path()).expect("opened");
        for _ in 0..30 {
            journal.begun(&long("a")).expect("written");
            journal.ended("a", StepState::Failed, vec![], vec![]).expect("written");
        }
        assert!(journal.compact().is_err() && journal.bytes > COMPACT_BYTES);
        journal.begun(&step("b")).expect("written");
        let want = journal.state().clone();
        drop(journal);
        assert_eq!(*Journal::open(folder.path()).expect("opened").state(), want);
    }
}
