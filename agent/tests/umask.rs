//! What the agent makes for everybody is for everybody, whatever the umask is. It is the process's own: one test alone.

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rocks_agent::config::Config;
use rocks_agent::execute::Executor;
use rocks_agent::journal::Journal;
use rocks_agent::output::Output;
use rocks_agent::process::System;
use rocks_agent::{beneath, cli, files};
use rocks_common::diag::Source;
use rocks_common::kickstart::{NoIncludes, parse};
use rocks_common::plan::{Applied, Inventory, Policy, plan};
use rustix::fs::Mode;
use rustix::process::umask;

#[test]
fn what_is_for_everybody_is_so_under_the_umask_of_the_service() {
    let root = tempfile::tempdir().expect("a folder");
    let mode = |path: &str| fs::metadata(root.path().join(path)).expect("there").permissions().mode() & 0o7777;
    umask(Mode::from_raw_mode(0o077));
    let text = "lang C.UTF-8\nkeyboard us\nnetwork --hostname=a-0-0\nrepo --name=r --baseurl=http://h/\n";
    let (kickstart, _) = parse(&Source::new("t.ks", text), &mut NoIncludes);
    let config = Config::load(root.path(), None, None).expect("no files");
    let mut journal = Journal::open(&config.state).expect("opened");
    let executor = Executor { config: &config, processes: &System, mirror: None };
    let plan = plan(&kickstart, &Applied::default(), &Inventory::default(), &Policy::default());
    let executed =
        executor.run(&plan, &mut journal, &mut |_| ControlFlow::Continue(())).expect("the journal is written");
    assert!(executed.complete && executed.steps.len() == 4, "{executed:?}");
    for path in ["etc/locale.conf", "etc/vconsole.conf", "etc/hostname", "etc/yum.repos.d/rocks.repo"] {
        assert_eq!(mode(path), 0o644, "{path}");
    }
    assert_eq!((mode("etc"), mode("etc/yum.repos.d")), (0o755, 0o755));
    beneath::folder(root.path(), Path::new("home/a"), true).expect("made");
    assert_eq!((mode("home"), mode("home/a")), (0o755, 0o755));
    // What is for root alone is nobody else's, nor is where it is.
    files::write(&root.path().join("own/key"), b"k", 0o600).expect("written");
    assert_eq!((mode("own"), mode("own/key"), mode("var/lib/rocks-agent/journal")), (0o700, 0o600, 0o600));
    // Programs that the agent starts have an installer's umask.
    let folder = root.path().display().to_string();
    let words = ["rocks-agent", "--root", &folder, "converge"].map(Into::into);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let _ = cli::main(words, &mut Output { out: &mut out, err: &mut err });
    assert_eq!(umask(Mode::from_raw_mode(0o077)), Mode::from_raw_mode(0o022));
}
