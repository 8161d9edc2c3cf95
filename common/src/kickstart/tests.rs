use proptest::prelude::*;

use super::*;
use crate::diag::Source;

fn read(text: &str) -> (Kickstart, crate::diag::Diagnostics) {
    parse(&Source::new("t.ks", text), &mut NoIncludes)
}

fn codes(text: &str) -> Vec<&'static str> {
    read(text).1.iter().map(|d| d.code).collect()
}

#[test]
fn everything_of_a_kickstart_is_read() {
    let text = "\u{feff}#version=RHEL9\r\n# base/nodes/time.xml:5\r\ntimezone Europe/Berlin --utc # here\r\n\
                rootpw --iscrypted '$6$a b'\nbootloader \\\n  --location=mbr\n%include /tmp/part\n\
                %packages --ignoremissing --nocore\n@^minimal environment\n@core --nodefaults\n@nodejs:18/common\nvim  # vim/nodes/vim.xml:4\n\
                kernel*\nglibc.i686\n-foo\n-@bar\n%end\n\
                %pre-install --interpreter=/usr/bin/python3 --erroronfail\nprint('%')\n%end\n\
                %post --nochroot --log /tmp/x\ncat << E\n%notasection\n  %post\nE\n%end  \n%addon com_redhat_kdump --enable\n--x\n%end\n%onerror\nx\n%end\n";
    let (kickstart, problems) = read(text);
    assert!(problems.is_empty(), "{}", problems.render());
    let names: Vec<&str> = kickstart.commands.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["timezone", "rootpw", "bootloader"]);
    assert_eq!(kickstart.commands[0].args, ["Europe/Berlin", "--utc"]);
    assert_eq!(kickstart.commands[0].origin.as_deref(), Some("base/nodes/time.xml:5"));
    assert_eq!(kickstart.commands[1].args, ["--iscrypted", "$6$a b"]);
    assert_eq!(kickstart.commands[2].args, ["--location=mbr"]);
    assert_eq!(kickstart.includes, ["/tmp/part"]);
    let install: Vec<String> = kickstart.packages.install.iter().map(|p| p.spec.to_string()).collect();
    assert_eq!(
        install,
        ["@^minimal environment", "@core --nodefaults", "@nodejs:18/common", "vim", "kernel*", "glibc.i686"]
    );
    assert_eq!(kickstart.packages.install[3].origin.as_deref(), Some("vim/nodes/vim.xml:4"));
    assert_eq!(kickstart.packages.exclude.len(), 2);
    let [python, post, onerror] = &kickstart.scripts[..] else { panic!("{:?}", kickstart.scripts) };
    assert_eq!(
        (python.kind, python.interpreter.as_str(), python.error_on_fail),
        (ScriptKind::PreInstall, "/usr/bin/python3", true)
    );
    assert_eq!((post.nochroot, post.log.as_deref()), (true, Some("/tmp/x")));
    assert_eq!(post.body, "cat << E\n%notasection\n  %post\nE\n");
    assert_eq!((onerror.kind, onerror.line), (ScriptKind::Onerror, 30));
    assert_eq!(kickstart.others[0].arguments, "com_redhat_kdump --enable");
}

#[test]
fn old_kickstarts_without_end_are_read() {
    let (kickstart, problems) = read("lang en\n%packages\nvim\n%post\necho a\n%post\necho b\n");
    assert!(!problems.has_errors());
    assert_eq!(kickstart.scripts.iter().map(|s| s.body.as_str()).collect::<Vec<_>>(), ["echo a\n", "echo b\n"]);
    assert_eq!(kickstart.packages.install.len(), 1);
}

#[test]
fn what_is_wrong_is_said() {
    assert_eq!(codes("rootpw 'x\n"), ["bad-quoting"]);
    assert_eq!(codes(""), ["empty"]);
    assert_eq!(codes("lang en\nfrobnicate x\n%end\n"), ["unknown-command", "stray-end"]);
    assert_eq!(codes("$SNIPPET('network')\nlang en\n"), ["template"]);
    assert_eq!(codes("%include\n"), ["include-without-file", "empty"][..1]);
}

#[test]
fn includes_are_followed_and_bounded() {
    struct Circle;
    impl Includes for Circle {
        fn include(&mut self, name: &str) -> Option<Source> {
            Some(Source::new(name, "lang en\n%include again\n"))
        }
    }
    let (kickstart, problems) = parse(&Source::new("t", "%include a\n"), &mut Circle);
    assert_eq!(problems.iter().map(|d| d.code).collect::<Vec<_>>(), ["include-too-deep"]);
    assert_eq!(kickstart.commands.len(), crate::limits::KICKSTART_INCLUDE_DEPTH);
}

#[test]
fn words_are_split_as_by_a_shell() {
    for (line, words) in [
        ("a  b\tc", &["a", "b", "c"][..]),
        (r#"--x="a b" 'c d'e \ f"#, &["--x=a b", "c de", " f"]),
        (r#""a\"b\\c\d" ''"#, &[r#"a"b\c\d"#, ""]),
        ("a # b", &["a"]),
        ("a#b", &["a#b"]),
    ] {
        assert_eq!(split_words(line).expect(line), words, "{line}");
    }
    for bad in ["'", "\"", "\"\\", "\\"] {
        assert!(split_words(bad).is_err(), "{bad}");
    }
}

fn same(a: &Kickstart, b: &Kickstart) -> bool {
    let commands = |k: &Kickstart| {
        k.commands.iter().map(|c| (c.name.clone(), c.args.clone(), c.origin.clone())).collect::<Vec<_>>()
    };
    let packages = |k: &Kickstart| {
        let one = |p: &PackageEntry| (p.spec.clone(), p.origin.clone());
        (k.packages.install.iter().map(one).collect::<Vec<_>>(), k.packages.exclude.iter().map(one).collect::<Vec<_>>())
    };
    let scripts = |k: &Kickstart| k.scripts.iter().map(|s| (s.kind, s.digest, s.marker.clone())).collect::<Vec<_>>();
    commands(a) == commands(b) && packages(a) == packages(b) && scripts(a) == scripts(b) && a.includes == b.includes
}

proptest! {
    #[test]
    fn nothing_panics(text in "\\PC{0,300}", soup in "(%post|%end|%packages|%include|lang|[ '\"\\\\#@^:*\n-]|a){0,60}") {
        for text in [text, soup] {
            let (kickstart, problems) = read(&text);
            let _ = (kickstart.to_string(), problems.render());
        }
    }

    #[test]
    fn what_is_printed_reads_the_same(lines in proptest::collection::vec("(lang [a-z]{1,4}|%packages|@g:1|@\\^e f|-?[a-z]{1,3}(\\*)?|%end|%post --log=/x|echo [a-z0-9'\"#@%:=/. -]{0,10}|%addon q|# a/n.xml:3)", 0..20)) {
        let (first, problems) = read(&(lines.join("\n") + "\n"));
        if !problems.has_errors() {
            let (second, _) = read(&first.to_string());
            prop_assert!(same(&first, &second), "{}\n---\n{}", lines.join("\n"), first);
        }
    }
}
