use std::cell::RefCell;
use std::os::unix::fs::MetadataExt;

use super::*;
use crate::config::Config;
use crate::process::{Finished, Processes};

/// Notes what it is asked to run and says that it went well, unless it is about a word of the second: then it fails
/// with what stands there.
#[derive(Default)]
struct Recorder(RefCell<Vec<(String, String)>>, Vec<(&'static str, &'static str)>);

impl Processes for Recorder {
    fn run(&self, task: &Task) -> std::io::Result<Finished> {
        let call = format!("{} {}", task.program, task.args.join(" "));
        self.0.borrow_mut().push((call, String::from_utf8_lossy(&task.input).into_owned()));
        if let Some((_, text)) = self.1.iter().find(|(word, _)| task.args.iter().any(|arg| arg == word)) {
            return Ok(Finished { code: Some(1), timed_out: false, output: text.as_bytes().to_vec(), cut: false });
        }
        Ok(Finished { code: Some(0), timed_out: false, output: Vec::new(), cut: false })
    }
}

struct Machine {
    root: tempfile::TempDir,
    config: Config,
    recorder: Recorder,
}

impl Machine {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a folder");
        let (uid, gid) = fs::metadata(root.path()).map(|m| (m.uid(), m.gid())).expect("there");
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        };
        put("etc/passwd", &format!("root:x:{uid}:{gid}:root:/root:/bin/sh\n"));
        put("etc/group", "root:x:0:\nwheel:x:10:\n");
        put("usr/share/zoneinfo/Europe/Berlin", "TZif");
        put("etc/selinux/config", "# comment\nSELINUX=permissive\nSELINUXTYPE=targeted\n");
        let config = Config::load(root.path(), None, None).expect("no files");
        Self { root, config, recorder: Recorder::default() }
    }

    fn apply(&self, command: LiveCommand) -> Outcome {
        Executor { config: &self.config, processes: &self.recorder, mirror: None }.command(&command)
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.root.path().join(path)).expect("it is there")
    }

    fn calls(&self) -> Vec<String> {
        let root = self.root.path().display().to_string();
        self.recorder.0.borrow().iter().map(|(call, _)| call.replace(&root, "R")).collect()
    }
}

#[test]
fn settings_take_effect_and_keep_what_else_is_there() {
    let machine = Machine::new();
    for _ in 0..2 {
        assert!(!machine.apply(LiveCommand::Timezone { zone: "Europe/Berlin".into(), utc: true }).failed);
        assert!(!machine.apply(LiveCommand::Lang("de_DE.UTF-8".into())).failed);
        assert!(!machine.apply(LiveCommand::Keyboard("de".into())).failed);
        assert!(!machine.apply(LiveCommand::Hostname("compute-0-0".into())).failed);
        assert!(!machine.apply(LiveCommand::Selinux(SelinuxMode::Enforcing)).failed);
    }
    let link = fs::read_link(machine.root.path().join("etc/localtime")).expect("a link");
    assert_eq!(link, Path::new("../usr/share/zoneinfo/Europe/Berlin"));
    assert!(machine.text("etc/adjtime").ends_with("UTC\n"));
    assert_eq!(machine.text("etc/locale.conf"), "LANG=de_DE.UTF-8\n");
    assert_eq!(machine.text("etc/vconsole.conf"), "KEYMAP=de\n");
    assert_eq!(machine.text("etc/hostname"), "compute-0-0\n");
    assert_eq!(machine.text("etc/selinux/config"), "# comment\nSELINUXTYPE=targeted\nSELINUX=enforcing\n");
    for bad in ["../../etc/passwd", "/etc/passwd", "Nowhere/City", ""] {
        assert!(machine.apply(LiveCommand::Timezone { zone: bad.into(), utc: true }).failed, "{bad}");
    }
    assert!(machine.apply(LiveCommand::Hostname("a b".into())).failed);
    assert!(machine.apply(LiveCommand::Lang("x\nPATH=/tmp".into())).failed);
}

#[test]
fn accounts_are_made_once_and_passwords_go_by_standard_input() {
    let machine = Machine::new();
    let user = User {
        name: "alice".into(),
        uid: Some(1001),
        groups: vec!["wheel".into(), "users".into()],
        password: Some(Password { text: "$6$hash".into(), crypted: true, locked: false }),
        ..User::default()
    };
    assert!(!machine.apply(LiveCommand::User(user)).failed);
    assert!(!machine.apply(LiveCommand::Group { name: "wheel".into(), gid: Some(10) }).failed);
    assert!(
        !machine
            .apply(LiveCommand::RootPassword(Password { text: String::new(), crypted: false, locked: true }))
            .failed
    );
    assert_eq!(
        machine.calls(),
        [
            "groupadd --root R -- users",
            "useradd --root R -u 1001 -G wheel,users -m -- alice",
            "chpasswd -e --root R",
            "usermod --root R -L -- root"
        ]
    );
    assert!(machine.calls().iter().all(|call| !call.contains("hash")));
    assert_eq!(machine.recorder.0.borrow()[2].1, "alice:$6$hash\n");
}

#[test]
fn a_users_group_that_is_known_by_number_alone_is_made() {
    let machine = Machine::new();
    let user = |name: &str, gid| LiveCommand::User(User { name: name.into(), gid: Some(gid), ..User::default() });
    assert!(!machine.apply(user("alice", 2001)).failed && !machine.apply(user("bob", 10)).failed);
    // To give a group that is there another number is not what was asked for.
    assert!(machine.apply(user("wheel", 2002)).failed);
    assert_eq!(
        machine.calls(),
        [
            "groupadd --root R -g 2001 -- alice",
            "useradd --root R -g 2001 -m -- alice",
            "useradd --root R -g 10 -m -- bob"
        ]
    );
}

#[test]
fn keys_are_added_once_and_links_are_not_followed() {
    let machine = Machine::new();
    let key = |key: &str| LiveCommand::SshKey { user: "root".into(), key: key.into() };
    for text in ["ssh-ed25519 A a", "ssh-ed25519 B b", "ssh-ed25519 A a"] {
        assert!(!machine.apply(key(text)).failed);
    }
    assert_eq!(machine.text("root/.ssh/authorized_keys"), "ssh-ed25519 A a\nssh-ed25519 B b\n");
    assert!(machine.apply(LiveCommand::SshKey { user: "nobody".into(), key: "a b".into() }).failed);
    fs::remove_dir_all(machine.root.path().join("root/.ssh")).expect("removed");
    std::os::unix::fs::symlink("/tmp", machine.root.path().join("root/.ssh")).expect("linked");
    assert!(machine.apply(key("ssh-ed25519 C c")).failed);
}

#[test]
fn a_unit_that_cannot_be_switched_keeps_no_other_from_it() {
    let mut machine = Machine::new();
    let units = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    machine.recorder.1 = vec![("gone", "Failed to disable unit: Unit file gone.service does not exist.\n")];
    let services = |enabled: &[&str], disabled: &[&str]| LiveCommand::Services {
        enabled: units(enabled),
        disabled: units(disabled),
    };
    let outcome = machine.apply(services(&["chronyd"], &["gone", "kdump"]));
    assert!(!outcome.failed && machine.calls().len() == 3, "{outcome:?}");
    assert_eq!(
        outcome.findings.iter().map(|f| (f.code.as_str(), f.subject.as_str())).collect::<Vec<_>>(),
        [("no-such-unit", "gone")]
    );
    // What is to be enabled must be there.
    let outcome = machine.apply(services(&["gone", "-x", "sshd"], &["kdump"]));
    assert!(outcome.failed && machine.calls().len() == 6, "{outcome:?}");
    assert!(outcome.output.contains("gone.service does not exist") && outcome.output.contains("`-x`"), "{outcome:?}");
    assert!(machine.calls().iter().any(|call| call == "systemctl --root=R enable -- sshd"));
    machine.recorder.1 = vec![("kdump", "Failed to connect to bus: No such file or directory\n")];
    assert!(machine.apply(services(&[], &["kdump"])).failed);
}

#[test]
fn services_are_switched_and_what_is_not_here_is_a_finding() {
    let machine = Machine::new();
    let services = LiveCommand::Services { enabled: vec!["chronyd".into()], disabled: vec!["kdump".into()] };
    assert!(!machine.apply(services).failed);
    assert_eq!(machine.calls(), ["systemctl --root=R enable -- chronyd", "systemctl --root=R disable -- kdump"]);
    let firewall = LiveCommand::Firewall { enabled: true, services: vec!["ssh".into()], ports: vec![], trust: vec![] };
    let outcome = machine.apply(firewall);
    assert!(!outcome.failed);
    assert_eq!(outcome.findings[0].code, "not-here");
}
