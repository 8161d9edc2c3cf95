use std::cell::RefCell;
use std::os::unix::fs::{MetadataExt, symlink};

use rocks_common::plan::{Action, StepId};

use super::*;
use crate::config::Config;
use crate::process::{Finished, Processes};

/// rpm and a package manager, with the packages that they know of.
struct Machine {
    root: tempfile::TempDir,
    config: Config,
    installed: RefCell<BTreeSet<String>>,
    calls: RefCell<Vec<String>>,
    /// What is taken along, or refused to be, with another package.
    needs: Vec<(&'static str, &'static str)>,
    protects: bool,
}

impl Machine {
    fn new(installed: &[&str], needs: &[(&'static str, &'static str)], protects: bool) -> Self {
        let root = tempfile::tempdir().expect("a folder");
        let config = Config::load(root.path(), None, None).expect("no files");
        let installed = RefCell::new(installed.iter().map(|name| (*name).to_owned()).collect());
        Self { root, config, installed, calls: RefCell::default(), needs: needs.to_vec(), protects }
    }

    fn step(change: PackageChange) -> Step {
        Step { id: StepId("s".into()), action: Action::Packages(change), reason: String::new(), after: Vec::new() }
    }

    fn remove(&self, change: &PackageChange) -> Outcome {
        let executor = Executor { config: &self.config, processes: self, mirror: None };
        let tool = Tool { name: "dnf", kind: Manager::Dnf4, plugins: Vec::new() };
        executor.remove(&tool, &Self::step(change.clone()), change)
    }

    fn install(&self, change: &PackageChange) -> Outcome {
        let executor = Executor { config: &self.config, processes: self, mirror: None };
        let tool = Tool { name: "dnf", kind: Manager::Dnf5, plugins: Vec::new() };
        executor.install(&tool, &Self::step(change.clone()), change, &[repository("https://h/", None)])
    }
}

impl Processes for Machine {
    fn run(&self, task: &Task) -> std::io::Result<Finished> {
        let mut installed = self.installed.borrow_mut();
        let finished = |code, text: String| {
            Ok(Finished { code: Some(code), timed_out: false, output: text.into_bytes(), cut: false })
        };
        if task.program == "rpm" {
            let line = |n: &String| format!("{n}\u{1f}0\u{1f}1\u{1f}1\u{1f}noarch\u{1f}{n}\u{1e}\n");
            return finished(0, installed.iter().map(line).collect());
        }
        let words: Vec<&str> = task.args.iter().map(String::as_str).filter(|word| !word.starts_with('-')).collect();
        let kept: Vec<&str> = task
            .args
            .iter()
            .filter_map(|word| word.strip_prefix("--setopt=protected_packages="))
            .flat_map(|names| names.split(','))
            .collect();
        self.calls.borrow_mut().push(words.join(" "));
        for name in &words[1..] {
            if words[0] == "install" {
                installed.insert((*name).to_owned());
                continue;
            }
            for (who, what) in &self.needs {
                if what == name && kept.contains(who) && self.protects {
                    let text = "Error: \n Problem: it would result in removing the following protected packages: x\n";
                    return finished(1, text.to_owned());
                }
            }
            installed.remove(*name);
            self.needs.iter().filter(|(_, what)| what == name).for_each(|(who, _)| assert!(installed.remove(*who)));
        }
        finished(0, String::new())
    }
}

fn repository(url: &str, proxy: Option<&str>) -> Repository {
    Repository {
        id: "r".into(),
        location: RepositoryLocation::BaseUrl(url.into()),
        cost: None,
        exclude: Vec::new(),
        include: Vec::new(),
        proxy: proxy.map(ToOwned::to_owned),
        no_verify_tls: false,
        frontend: false,
    }
}

fn change(remove: &[&str], keep: &[&str]) -> PackageChange {
    PackageChange {
        remove: remove.iter().map(|name| (*name).to_owned()).collect(),
        keep: keep.iter().map(|name| PackageSpec::Package((*name).to_owned())).collect(),
        ..PackageChange::default()
    }
}

fn codes(outcome: &Outcome) -> Vec<&str> {
    outcome.findings.iter().map(|found| found.code.as_str()).collect()
}

#[test]
fn what_a_wanted_package_needs_stays_and_the_rest_goes() {
    let machine = Machine::new(&["tomcat", "java", "emacs"], &[("tomcat", "java")], true);
    let outcome = machine.remove(&change(&["java", "emacs"], &["tomcat"]));
    assert!(!outcome.failed, "{outcome:?}");
    assert_eq!(codes(&outcome), ["still-needed"]);
    assert_eq!(*machine.calls.borrow(), ["remove java emacs", "remove java", "remove emacs"]);
    assert_eq!(machine.installed.borrow().iter().collect::<Vec<_>>(), ["java", "tomcat"]);
    // The only one there is need not be asked about twice.
    let outcome = machine.remove(&change(&["java"], &["tomcat"]));
    assert!(!outcome.failed && codes(&outcome) == ["still-needed"] && machine.calls.borrow().len() == 4, "{outcome:?}");
}

#[test]
fn a_step_that_takes_a_wanted_package_along_fails() {
    let machine = Machine::new(&["tomcat", "java"], &[("tomcat", "java")], false);
    let outcome = machine.remove(&change(&["java"], &["tomcat"]));
    assert!(outcome.failed);
    assert_eq!(codes(&outcome), ["wanted-removed"]);
    let machine = Machine::new(&["tomcat", "java"], &[], false);
    assert!(!machine.remove(&change(&["java"], &["tomcat", "never-there"])).failed);
    let machine = Machine::new(&["tomcat", "java"], &[("tomcat", "java")], false);
    let keep = ["tom*", "never*"].map(|pattern| PackageSpec::Glob(pattern.into())).to_vec();
    let outcome = machine.remove(&PackageChange { keep, ..change(&["java"], &[]) });
    assert!(outcome.failed && codes(&outcome) == ["wanted-removed"], "{outcome:?}");
}

#[test]
fn what_is_an_option_is_a_finding_and_never_told() {
    let machine = Machine::new(&[], &[], true);
    let install = vec![PackageSpec::Package("--installroot=/".into())];
    let outcome = machine.install(&PackageChange { install, ..PackageChange::default() });
    assert!(outcome.failed && machine.calls.borrow().is_empty());
    assert_eq!(codes(&outcome), ["bad-package"]);
}

#[test]
fn the_manager_is_what_its_name_leads_to() {
    let root = tempfile::tempdir().expect("a folder");
    let bin = root.path().join("usr/bin");
    fs::create_dir_all(&bin).expect("made");
    fs::create_dir_all(root.path().join("etc/dnf/plugins")).expect("made");
    assert!(Tool::find(root.path()).is_none());
    let found = || Tool::find(root.path()).map(|tool| (tool.name, tool.kind, tool.plugins)).expect("one");
    fs::write(bin.join("dnf-3"), "").expect("written");
    symlink("dnf-3", bin.join("yum")).expect("linked");
    assert_eq!(found(), ("yum", Manager::Dnf4, vec![]));
    fs::write(root.path().join("etc/dnf/plugins/product-id.conf"), "").expect("written");
    symlink("dnf-3", bin.join("dnf")).expect("linked");
    assert_eq!(found(), ("dnf", Manager::Dnf4, vec!["product-id"]));
    fs::remove_file(bin.join("dnf")).expect("removed");
    fs::create_dir_all(root.path().join("usr/libexec")).expect("made");
    fs::write(root.path().join("usr/libexec/dnf5"), "").expect("written");
    symlink("../libexec/dnf5", bin.join("dnf")).expect("linked");
    assert_eq!(found().1, Manager::Dnf5);
}

#[test]
fn packages_are_installed_from_what_the_kickstart_and_the_configuration_say_now() {
    let mut machine = Machine::new(&[], &[], false);
    let path = machine.root.path().join(REPO_FILE);
    let install = |machine: &Machine| {
        let install = vec![PackageSpec::Package("vim".into())];
        assert!(!machine.install(&PackageChange { install, ..PackageChange::default() }).failed);
        fs::read_to_string(&path).expect("there")
    };
    let first = install(&machine);
    assert!(first.contains("gpgcheck=1") && !first.contains("gpgkey="), "{first}");
    let written = || fs::metadata(&path).and_then(|meta| meta.modified()).expect("there");
    let (before, inode) = (written(), fs::metadata(&path).expect("there").ino());
    assert_eq!(install(&machine), first);
    assert_eq!((written(), fs::metadata(&path).expect("there").ino()), (before, inode));
    fs::remove_file(&path).expect("removed");
    assert_eq!(install(&machine), first);
    fs::write(&path, "[rocks-r]\nenabled=0\n").expect("written");
    machine.config.gpgkeys = vec!["file:///k".into()];
    assert!(install(&machine).contains("gpgkey=file:///k\n"));
    // What cannot be written is no way to packages.
    fs::remove_file(&path).expect("removed");
    fs::create_dir_all(path.join("in the way")).expect("made");
    let install = vec![PackageSpec::Package("vim".into())];
    assert!(machine.install(&PackageChange { install, ..PackageChange::default() }).failed);
}

#[test]
fn a_repository_with_a_password_is_for_root_alone() {
    let machine = Machine::new(&[], &[], true);
    let mode = |repository: Repository| {
        let executor = Executor { config: &machine.config, processes: &machine, mirror: None };
        assert!(!executor.repositories(&[repository]).failed);
        fs::metadata(machine.root.path().join(REPO_FILE)).expect("there").permissions().mode() & 0o777
    };
    assert_eq!(mode(repository("https://h/a@b", Some("http://proxy:3128"))), 0o644);
    assert_eq!(mode(repository("https://u:p@h/", None)), 0o600);
    assert_eq!(mode(repository("https://h/", Some("http://u:p@proxy:3128"))), 0o600);
    assert_eq!(mode(repository("https://h/", Some("u:p@proxy:3128"))), 0o600);
}
