//! Running the code of `<eval>` elements: code from rolls, on the frontend.
//!
//! Only rolls that the administrator trusted get here. The code runs as an unprivileged user when we are root, else confined by the kernel
//! (Landlock) so that it does not reach our keys, in a private copy of the rolls' files, with a clean environment, a time limit and an output limit, and is killed with all that it
//! started. What it prints is kept, so that one piece of code runs once for a set of rolls and inputs; that it failed, for one synchronisation.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rocks_common::ids::Digest;
use rocks_common::node::{EvalFailure, EvalRequest, Evaluator};
use rocks_common::roll::RollSet;
use tempfile::TempDir;

use crate::process::{self, Task, TaskError};

/// How long one piece of code may take.
pub const TIME_LIMIT: Duration = Duration::from_secs(30);
/// How much one piece of code may print.
pub const OUTPUT_BYTES: usize = 4 << 20;

/// What stands before the reason when code could not be confined.
pub const NOT_CONFINED: &[u8] = b"\0not confined\0";

/// Who may run code, and as whom.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// Folders of the rolls whose code may run; none: of all. Names are no proof: two rolls may have the same.
    pub trusted: Option<Vec<PathBuf>>,
    /// How it is kept from what is not its business.
    pub confinement: Confinement,
    /// Where the private copy of the rolls' files is made, if whoever runs the code gets there. Else it is among temporary files, of which
    /// others may remove what is old.
    pub work: Option<PathBuf>,
}

/// How code is kept from what is not its business.
#[derive(Debug, Clone, Default)]
pub enum Confinement {
    /// It runs as we do.
    #[default]
    None,
    /// As another user and group, when we are root.
    Identity(u32, u32),
    /// As our user, but with the help of this program of ours (`rocks-server`), which gives up the file system and the network
    /// before it becomes the code: our user owns the frontend's keys.
    Sandbox(PathBuf),
}

impl Confinement {
    /// What fits to who we are.
    #[must_use]
    pub fn fitting() -> Self {
        if rustix::process::geteuid().is_root() {
            // The user and group that own nothing.
            return Self::Identity(65534, 65534);
        }
        std::env::current_exe().map_or(Self::None, Self::Sandbox)
    }

    /// Whether code that is kept so can get to `folder`.
    fn reaches(&self, folder: &Path) -> bool {
        use std::os::unix::fs::PermissionsExt;
        let is_open = |folder: &Path| fs::metadata(folder).is_ok_and(|of| of.permissions().mode() & 0o001 != 0);
        match self {
            // Nothing on the way is the other user's.
            Self::Identity(..) => folder.ancestors().all(is_open),
            Self::None | Self::Sandbox(_) => true,
        }
    }
}

/// What the names of private copies begin with.
const PREFIX: &str = "rocks-eval-";

/// Removes what frontends that were killed left in a folder for private copies.
///
/// # Errors
/// It cannot be read, or something in it not be removed.
pub fn sweep(work: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(work) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn private(policy: &Policy) -> io::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX);
    if let Some(work) = &policy.work {
        fs::create_dir_all(work)?;
        // The code begins there: a path that is not whole would lead elsewhere.
        let work = work.canonicalize()?;
        if policy.confinement.reaches(&work) {
            return builder.tempdir_in(work);
        }
    }
    builder.tempdir()
}

/// What a piece of code printed, once it has been run.
type Printed = Arc<OnceLock<Result<String, EvalFailure>>>;

/// Runs code with the files of a set of rolls at hand.
pub struct Runner {
    folder: TempDir,
    policy: Policy,
    kept: Mutex<HashMap<Digest, Printed>>,
}

impl Runner {
    /// A runner for `rolls`: copies their `graphs`, `nodes` and `include` folders into a private one.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn new(rolls: &RollSet, policy: Policy) -> io::Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let folder = private(&policy)?;
        for roll in &rolls.rolls {
            for part in ["graphs", "nodes", "include"] {
                copy(&roll.path.join(part), &folder.path().join(part), 0)?;
            }
        }
        // Another user must be able to read it, and nobody to change it.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let temporary = folder.path().join("tmp");
        fs::create_dir(&temporary)?;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o1777))?;
        Ok(Self { folder, policy, kept: Mutex::default() })
    }

    /// Forgets what failed: that may pass. Until then it is not run again, for it may have taken long, and each host would wait for it.
    pub fn forget_failures(&self) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, printed| !printed.get().is_some_and(Result::is_err));
    }

    fn run(&self, request: &EvalRequest<'_>) -> Result<String, EvalFailure> {
        let inside = |roll: &PathBuf| Path::new(request.path).starts_with(roll);
        if self.policy.trusted.as_ref().is_some_and(|trusted| !trusted.iter().any(inside)) {
            let message =
                format!("the roll that {} is in is not trusted to run code; see `rocks trust roll`", request.path);
            return Err(EvalFailure(message));
        }
        let (folder, temporary) = (self.folder.path(), self.folder.path().join("tmp"));
        let temporary = temporary.to_string_lossy();
        let mut env = vec![
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("LC_ALL", "C.UTF-8"),
            ("HOME", "/nonexistent"),
            ("TMPDIR", &*temporary),
        ];
        env.extend(request.variables.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let folder_text = folder.to_string_lossy();
        let plain = ["-c", request.shell];
        let confined = ["confine", &*folder_text, "--", "/bin/sh", "-c", request.shell];
        let ours;
        let (program, args, identity) = match &self.policy.confinement {
            Confinement::None => ("/bin/sh", &plain[..], None),
            Confinement::Identity(user, group) => ("/bin/sh", &plain[..], Some((*user, *group))),
            Confinement::Sandbox(program) => {
                ours = program.to_string_lossy();
                (&*ours, &confined[..], None)
            }
        };
        let task = Task {
            program,
            args,
            env: &env,
            folder,
            input: request.body.as_bytes(),
            identity,
            limit: TIME_LIMIT,
            output_bytes: OUTPUT_BYTES,
        };
        let describe = |error: &TaskError| {
            let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
            EvalFailure(format!("the code of <eval> in {}: {error}{cause}", request.file))
        };
        // Like the original, what it printed counts, not how it exited: many a real `eval` ends with a failing test.
        let (output, good) = process::run(&task).map_err(|error| describe(&error))?;
        if !good && matches!(self.policy.confinement, Confinement::Sandbox(_)) && output.starts_with(NOT_CONFINED) {
            let why = String::from_utf8_lossy(&output[NOT_CONFINED.len()..]).trim().to_owned();
            return Err(EvalFailure(format!("the code of <eval> in {}: {why}", request.file)));
        }
        String::from_utf8(output)
            .map_err(|_| EvalFailure("the code of <eval> printed something that is not UTF-8".into()))
    }
}

impl Evaluator for Runner {
    fn eval(&self, request: &EvalRequest<'_>) -> Result<String, EvalFailure> {
        let mut fields: Vec<&[u8]> = vec![request.shell.as_bytes(), request.body.as_bytes(), request.path.as_bytes()];
        for (name, value) in request.variables {
            fields.extend([name.as_bytes(), value.as_bytes()]);
        }
        let key = Digest::of_fields(&fields);
        // Whoever asks first runs it; others who need the same wait for that.
        let slot = self.kept.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone();
        slot.get_or_init(|| self.run(request)).clone()
    }
}

fn copy(from: &Path, to: &Path, depth: usize) -> io::Result<()> {
    if depth > 8 || !from.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()), depth + 1)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;

    use rocks_common::roll::{self, LoadOptions};

    use super::*;

    /// Code that fails, because it prints what is no text, and notes in a folder that it ran.
    fn code(folder: &Path) -> String {
        format!("echo ran >> {}; printf '\\377'", folder.join("count").display())
    }

    #[test]
    fn the_private_copy_is_where_it_is_wanted_if_its_user_gets_there_and_does_not_outlive_a_start() {
        let (state, (rolls, _)) = (tempfile::tempdir().expect("a folder"), roll::load(&[], &LoadOptions::default()));
        let (work, strange) = (state.path().join("run/eval"), state.path().join("run/eval/other"));
        fs::set_permissions(state.path(), fs::Permissions::from_mode(0o750)).expect("closed");
        for (confinement, is_there) in [
            (Confinement::None, true),
            (Confinement::Sandbox("/bin/false".into()), true),
            // Others do not get into the folder around it.
            (Confinement::Identity(65534, 65534), false),
        ] {
            let policy = Policy { trusted: None, confinement, work: Some(work.clone()) };
            let runner = Runner::new(&rolls, policy.clone()).expect("a runner");
            let whole = work.canonicalize().expect("there");
            assert_eq!(runner.folder.path().starts_with(whole), is_there, "{policy:?}");
            assert!(runner.folder.path().join("tmp").is_dir());
        }
        fs::create_dir(work.join("rocks-eval-left")).expect("made");
        fs::create_dir(&strange).expect("made");
        sweep(&work).expect("swept");
        assert!(!work.join("rocks-eval-left").exists() && strange.exists());
        sweep(&state.path().join("none")).expect("nothing to sweep");
    }

    #[test]
    fn code_that_fails_runs_once_until_its_failures_are_forgotten() {
        let folder = tempfile::tempdir().expect("a folder");
        let (rolls, _) = roll::load(&[], &LoadOptions::default());
        let policy = Policy::default();
        let runner = Runner::new(&rolls, policy).expect("a runner");
        let (variables, bad, path) = (BTreeMap::new(), code(folder.path()), folder.path().display().to_string());
        let request = |shell| EvalRequest {
            shell,
            body: "",
            roll: "roll",
            file: "a.xml",
            path: &path,
            line: 1,
            variables: &variables,
        };
        let count = || fs::read_to_string(folder.path().join("count")).expect("it ran").lines().count();
        for _ in 0..3 {
            assert!(runner.eval(&request(&bad)).is_err());
            assert_eq!(runner.eval(&request("echo good")).expect("it prints"), "good\n");
        }
        assert_eq!(count(), 1);
        runner.forget_failures();
        assert!(runner.eval(&request(&bad)).is_err());
        assert_eq!((count(), runner.kept.lock().expect("no panic").len()), (2, 2));
    }
}
