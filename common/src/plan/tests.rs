use proptest::prelude::*;

use super::*;
use crate::diag::Source;
use crate::kickstart::{Kickstart, NoIncludes, parse};

fn read(text: &str) -> Kickstart {
    let (kickstart, problems) = parse(&Source::new("t.ks", text), &mut NoIncludes);
    assert!(!problems.has_errors(), "{}", problems.render());
    kickstart
}

fn installed(names: &[&str]) -> Inventory {
    Inventory::parse(
        &names.iter().map(|n| format!("{n}\u{1f}0\u{1f}1\u{1f}1\u{1f}noarch\u{1f}{n}\u{1e}\n")).collect::<String>(),
    )
}

fn titles(plan: &Plan) -> Vec<String> {
    plan.steps.iter().map(Step::title).collect()
}

const MARKED: &str = "# rocks: node=b/nodes/x.xml line=1 section=post.1 digest=0000000000000000000000000000000000000000000000000000000000000000\n";

/// Does the whole plan.
fn carry_out(applied: &mut Applied, plan: &Plan) -> Inventory {
    let mut names = Vec::new();
    for step in &plan.steps {
        if let Action::Packages(change) = &step.action {
            names.extend(change.install.iter().map(ToString::to_string));
        }
        applied.record(step, &names);
    }
    installed(&names.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn a_plan_has_repositories_packages_commands_scripts_in_this_order() {
    let kickstart = read(&format!(
        "url --url=https://fe:8443/install/rocks-dist/x86_64/\ntimezone Etc/UTC --utc\npart / --size=1\nfrobnicate\n\
         %packages\nvim # v/nodes/v.xml:3\nbash\n@core\n-emacs\n%end\n%pre\nx\n%end\n%post --nochroot\ny\n%end\n%post\n{MARKED}echo\n%end\n"
    ));
    let policy = Policy { frontend: Some("https://fe:8443".into()), ..Policy::default() };
    let plan = plan(&kickstart, &Applied::default(), &installed(&["bash"]), &policy);
    assert_eq!(
        titles(&plan),
        ["use repositories base", "install vim @core", "set the time zone to Etc/UTC", "run b/nodes/x.xml post.1"]
    );
    let Action::Repositories(repositories) = &plan.steps[0].action else { panic!() };
    assert!(repositories[0].frontend && plan.repositories == *repositories);
    assert_eq!(plan.steps[1].reason, "not installed: vim (v/nodes/v.xml:3), @core");
    assert_eq!(plan.steps[3].after, [plan.steps[0].id.clone(), plan.steps[1].id.clone()]);
    assert_eq!(plan.findings.iter().map(|f| f.code.as_str()).collect::<Vec<_>>(), ["unknown-command"]);
    assert_eq!(plan.skipped.len(), 1);
}

#[test]
fn a_section_runs_when_it_is_new_or_changed_and_not_because_it_moved() {
    let policy = Policy::default();
    let first = read(&format!("lang a\n%post\n{MARKED}one\n%end\n"));
    let mut applied = Applied::all_of(&first, &policy);
    assert!(plan(&first, &applied, &Inventory::default(), &policy).is_empty());
    let moved = read(&format!(
        "lang a\n\n\n%post\n{}one\n%end\n",
        MARKED.replace("line=1", "line=9").replace("post.1", "post.2")
    ));
    assert!(plan(&moved, &applied, &Inventory::default(), &policy).is_empty());
    let changed = read(&format!("lang a\n%post\n{MARKED}two\n%end\n"));
    let next = plan(&changed, &applied, &Inventory::default(), &policy);
    assert_eq!(next.steps[0].reason, "b/nodes/x.xml post.1 has changed");
    carry_out(&mut applied, &next);
    applied.settle(&changed);
    // Going back is a change too.
    assert_eq!(plan(&first, &applied, &Inventory::default(), &policy).steps.len(), 1);
    let twice = read("lang a\n%post\none\n%end\n%post\none\n%end\n");
    let steps = plan(&twice, &Applied::default(), &Inventory::default(), &policy).steps;
    assert_eq!(steps.len(), 3);
    assert_ne!(steps[1].id, steps[2].id);
}

#[test]
fn going_back_from_what_was_applied_in_part_applies_the_older_text_again() {
    let policy = Policy::default();
    let text = |n: u32| read(&format!("lang {n}\nservices --enabled=s{n}\n%post\ns{n}\n%end\n%post\nt{n}\n%end\n"));
    let (old, new) = (text(1), text(2));
    let mut applied = Applied::all_of(&old, &policy);
    let first = plan(&new, &applied, &Inventory::default(), &policy);
    assert!(first.steps.len() == 4 && first.steps[0].reason.contains("changed"), "{}", first.render());
    applied.begin(&new);
    // The language is being set when it is ended; or it is set, and so is one section.
    let mut interrupted = applied.clone();
    interrupted.begin(&old);
    assert_eq!(plan(&old, &interrupted, &Inventory::default(), &policy).steps.len(), 4);
    for step in [0, 2] {
        applied.record(&first.steps[step], &[]);
    }
    // Going on does what is left, and that alone.
    applied.begin(&new);
    assert_eq!(
        titles(&plan(&new, &applied, &Inventory::default(), &policy)),
        [titles(&first)[1].clone(), titles(&first)[3].clone()]
    );
    applied.begin(&old);
    assert_eq!(plan(&old, &applied, &Inventory::default(), &policy).steps.len(), 4);
}

#[test]
fn what_only_an_installer_can_do_is_a_finding_and_excluded_nodes_are_left_out() {
    let policy = Policy::default();
    let old = read("part / --size=1\nlang a\n");
    let applied = Applied::all_of(&old, &policy);
    let new = read(&format!("part / --size=2\nlang a\n%post\n{}x\n%end\n", MARKED.replace("x.xml", "extend-grub.xml")));
    let plan = plan(&new, &applied, &Inventory::default(), &policy);
    assert!(plan.is_empty());
    assert_eq!(plan.findings[0].code, "needs-reprovision");
    assert!(plan.skipped[0].reason.contains("exclusion list"));
}

#[test]
fn only_what_the_agent_installed_is_removed_and_only_by_policy() {
    let applied = Applied { packages: ["vim".to_owned(), "tmux".to_owned()].into(), ..Applied::default() };
    let kickstart = read("lang a\n%packages\ntmux\n%end\n");
    let there = installed(&["vim", "tmux", "bash"]);
    let keep = plan(&kickstart, &applied, &there, &Policy::default());
    assert_eq!(titles(&keep), ["set the language to a"]);
    assert_eq!(keep.skipped.len(), 1);
    let remove = plan(&kickstart, &applied, &there, &Policy { remove_packages: true, ..Policy::default() });
    assert_eq!(titles(&remove)[0], "remove vim");
}

#[test]
fn what_came_along_is_not_removed_and_neither_is_what_is_asked_for_by_another_name() {
    let policy = Policy { remove_packages: true, ..Policy::default() };
    let kickstart = read("%packages\njava\nvim\nk*\n@core\n%end\n");
    let mut applied = Applied::default();
    let first = plan(&kickstart, &applied, &installed(&["bash", "kmod"]), &policy);
    let Action::Packages(change) = &first.steps[0].action else { panic!("{first:?}") };
    // java is provided by java-21, which brings fonts along; the group brings what it likes.
    let line = |n: &str, p: &str| format!("{n}\u{1f}0\u{1f}1\u{1f}1\u{1f}noarch\u{1f}{p}\u{1e}\n");
    let after = ["bash", "kmod", "fonts", "vim", "less"].map(|n| line(n, n)).concat() + &line("java-21", "java");
    let after = Inventory::parse(&after);
    let brought = change.brought_in(&["bash".to_owned(), "kmod".to_owned()].into(), &after);
    assert_eq!(brought, ["java-21", "vim"]);
    applied.record(&first.steps[0], &brought);
    applied.settle(&kickstart);
    let again = plan(&kickstart, &applied, &after, &policy);
    assert!(again.is_empty(), "{}", again.render());
    // Only what was asked for goes, and what stays is told.
    let less = read("%packages\nvim\n@core\n%end\n");
    let next = plan(&less, &applied, &after, &policy);
    assert_eq!(titles(&next), ["remove java-21"]);
    let Action::Packages(change) = &next.steps[0].action else { panic!("{next:?}") };
    assert_eq!(change.keep.iter().map(ToString::to_string).collect::<Vec<_>>(), ["vim", "@core"]);
    // What an agent from before noted, dependencies and all, is nobody's to remove.
    let old: Applied = serde_json::from_str("{\"packages\":[\"fonts\",\"java-21\"]}").expect("read");
    assert!(plan(&less, &old, &after, &policy).steps.iter().all(|step| !step.title().contains("remove")));
}

#[test]
fn what_cannot_be_seen_is_asked_for_once_and_again_when_it_is_taken_up_again() {
    let policy = Policy::default();
    let (with, without) = (read("%packages\njava-21*\n@web\n%end\n"), read("%packages\nvim\n%end\n"));
    // That one fits does not say that there are no others.
    let there = installed(&["java-21-headless"]);
    let mut applied = Applied::default();
    let first = plan(&with, &applied, &there, &policy);
    assert_eq!(titles(&first), ["install java-21* @web"]);
    applied.begin(&with);
    applied.record(&first.steps[0], &[]);
    applied.settle(&with);
    assert!(plan(&with, &applied, &there, &policy).is_empty());
    assert!(plan(&with, &Applied::all_of(&with, &policy), &there, &policy).is_empty());
    // Where nothing fits, nothing was installed, or it is gone.
    assert_eq!(titles(&plan(&with, &applied, &installed(&[]), &policy)), ["install java-21*"]);
    applied.settle(&without);
    assert_eq!(titles(&plan(&with, &applied, &there, &policy)), ["install java-21* @web"]);
}

#[test]
fn what_is_disabled_is_disabled_again_when_packages_come_that_may_enable_it() {
    let policy = Policy::default();
    let services = "lang a\nservices --disabled=kdump\nservices --enabled=sshd\n";
    let old = read(services);
    let mut applied = Applied::all_of(&old, &policy);
    let new = read(&format!("{services}%packages\nkexec-tools\n%end\n"));
    let next = plan(&new, &applied, &installed(&[]), &policy);
    assert_eq!(titles(&next), ["install kexec-tools", "disable kdump"]);
    assert_eq!(next.steps[1].reason, "packages are installed, which may enable what is disabled at `services`, line 2");
    assert_eq!(next.steps[1].after, [next.steps[0].id.clone()]);
    // They came, and nobody saw the end of it.
    applied.begin(&new);
    applied.begin_step(&next.steps[0]);
    let there = installed(&["kexec-tools"]);
    assert_eq!(titles(&plan(&new, &applied, &there, &policy)), ["disable kdump"]);
    next.steps.iter().for_each(|step| applied.record(step, &[]));
    applied.settle(&new);
    assert!(plan(&new, &applied, &there, &policy).is_empty());
    // Packages that go enable nothing.
    let remove = Policy { remove_packages: true, ..policy };
    let applied = Applied { packages: ["kexec-tools".to_owned()].into(), ..applied };
    assert_eq!(titles(&plan(&old, &applied, &there, &remove)), ["remove kexec-tools"]);
}

#[test]
fn what_an_agent_from_before_applied_has_its_patterns_and_no_others() {
    let policy = Policy::default();
    let (old, new) = (read("%packages\njava-21*\n@web\n%end\n"), read("%packages\njava-21*\njava*\n@web\n%end\n"));
    let (there, not) = (installed(&["java-21-headless"]), installed(&[]));
    let json = format!("{{\"kickstart\":\"{}\",\"groups\":[\"@web\"]}}", old.digest);
    let before: Applied = serde_json::from_str(&json).expect("read");
    assert!(plan(&old, &before, &there, &policy).is_empty());
    // As it does not fit, it was not installed, or is gone.
    assert_eq!(titles(&plan(&old, &before, &not, &policy)), ["install java-21*"]);
    // Of another kickstart nothing is known.
    assert_eq!(titles(&plan(&new, &before, &there, &policy)), ["install java-21* java*"]);
    // From now on they are noted, and are forgotten when they are not named.
    let mut applied = before.clone();
    applied.begin(&old);
    assert_eq!(titles(&plan(&new, &applied, &there, &policy)), ["install java*"]);
    applied.begin(&read("%packages\n@web\n%end\n"));
    assert_eq!(titles(&plan(&old, &applied, &there, &policy)), ["install java-21*"]);
    let mut other = before;
    other.begin(&new);
    assert_eq!(titles(&plan(&old, &other, &there, &policy)), ["install java-21*"]);
}

#[test]
fn passwords_are_not_in_what_people_see() {
    let kickstart = read("rootpw --iscrypted $6$secret\nuser --name=a --password=secret\n");
    let plan = plan(&kickstart, &Applied::default(), &Inventory::default(), &Policy::default());
    assert!(!plan.render().contains("secret") && !format!("{plan:?}").contains("secret"));
}

fn kickstarts() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        "lang [ab]",
        "timezone [AB]",
        "rootpw [ab]",
        "services --(en|dis)abled=[ab]",
        "user --name=[ab] --uid=[12]",
        "url --url=http://[ab]/",
        "part / --size=[12]",
        "network --hostname=[ab]",
        "selinux --permissive",
        "firewall --port=[12]:tcp",
        "sshkey --username=root \"[ab] k\"",
        "group --name=[ab]"
    ];
    let script = "[ab]".prop_map(|body| format!("%post\n{body}\n%end"));
    let marked = ("[12]", "[ab]")
        .prop_map(|(n, body)| format!("%post\n{}{body}\n%end", MARKED.replace("post.1", &format!("post.{n}"))));
    let packages =
        proptest::collection::vec("-?[abc]", 0..4).prop_map(|p| format!("%packages\n{}\n%end", p.join("\n")));
    proptest::collection::vec(prop_oneof![line, script, marked, packages], 0..12)
        .prop_map(|lines| format!("lang x\n{}\n", lines.join("\n")))
}

proptest! {
    #[test]
    fn what_was_done_is_not_planned_again(a in kickstarts(), b in kickstarts()) {
        let policy = Policy::default();
        let mut applied = Applied::default();
        let mut there = Inventory::default();
        for text in [&a, &b] {
            let kickstart = read(text);
            let first = plan(&kickstart, &applied, &there, &policy);
            // What is forgotten at the beginning is nothing that counts for this text.
            let mut begun = applied.clone();
            begun.begin(&kickstart);
            let steps = |plan: &Plan| plan.steps.iter().map(|step| step.action.clone()).collect::<Vec<_>>();
            prop_assert_eq!(steps(&plan(&kickstart, &begun, &there, &policy)), steps(&first));
            prop_assert_eq!(&plan(&kickstart, &applied, &there, &policy), &first);
            let mut ids: Vec<_> = first.steps.iter().map(|s| &s.id).collect();
            ids.sort();
            ids.dedup();
            prop_assert_eq!(ids.len(), first.steps.len());
            let more = carry_out(&mut applied, &first);
            if applied.scripts.len() % 2 == 0 {
                applied.settle(&kickstart);
            }
            let names: Vec<&str> = there.names().chain(more.names()).collect();
            there = installed(&names);
            let again = plan(&kickstart, &applied, &there, &policy);
            prop_assert!(again.is_empty(), "{}\n{}", text, again.render());
        }
    }
}

#[test]
fn a_machine_that_is_being_made_runs_every_section_as_an_installer_would() {
    let kickstart = read(
        "lang a\n%packages\nvim\n%end\n%post\nthree\n%end\n%pre --erroronfail\none\n%end\n%post --nochroot\nfour\n%end\n\
         %pre-install\ntwo\n%end\n%onerror\nnever\n%end\n",
    );
    let policy = Policy { installer: true, ..Policy::default() };
    let plan = plan(&kickstart, &Applied::default(), &installed(&[]), &policy);
    let bodies: Vec<&str> = plan
        .steps
        .iter()
        .map(|step| match &step.action {
            Action::Script(run) => run.body.trim(),
            Action::Command(_) => "lang",
            _ => "other",
        })
        .collect();
    assert_eq!(bodies, ["one", "two", "lang", "three", "four"]);
    // What comes after waits for the section whose failure ends an installation.
    assert!(plan.steps[1..].iter().all(|step| step.after.contains(&plan.steps[0].id)));
    // A running machine has nothing left to do then.
    let applied = Applied::all_of(&kickstart, &Policy::default());
    assert!(super::plan(&kickstart, &applied, &installed(&["vim"]), &Policy::default()).is_empty());
}
