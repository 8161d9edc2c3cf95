//! An outside opinion on our kickstarts: pykickstart's `ksvalidator`, with which Anaconda reads them.

use rocks_tests::process::{cmd, which};
use rocks_tests::world::{ROLLS, binaries, repository};

#[test]
fn the_products_kickstarts_are_valid_for_every_release() {
    let Some(validator) = which("ksvalidator") else {
        println!("skipped: ksvalidator is not in PATH (packaging/bootstrap.sh installs it)");
        return;
    };
    let Ok(binaries) = binaries() else {
        println!("skipped: build the binaries first");
        return;
    };
    let (server, graphs) = (binaries.join("rocks-server"), repository().join("graphs"));
    let folder = tempfile::tempdir().expect("a folder");
    for root in ["lite", "compute", "devel-server"] {
        let mut profile = cmd(&server).args(["profile", "--root", root, "--roll"]);
        for roll in ROLLS {
            profile = profile.arg(graphs.join(roll));
        }
        for attribute in [
            "hostname=h-0-0",
            "frontend_url=https://fe:8443",
            "vim=yes",
            "java=yes",
            "ec2_enable=yes",
            "root_sshkey=ssh-ed25519 AAAA me",
        ] {
            profile = profile.args(["--attr", attribute]);
        }
        let kickstart = folder.path().join(format!("{root}.ks"));
        std::fs::write(&kickstart, profile.run().expect("a kickstart").stdout).expect("written");
        for release in ["RHEL8", "RHEL9", "RHEL10", "F42"] {
            let done = cmd(&validator).args(["-v", release]).arg(&kickstart).output().expect("ksvalidator runs");
            assert_eq!(done.code(), 0, "{root} for {release}: {}", done.both());
        }
    }
}

#[test]
fn the_products_rolls_pass_the_check_without_a_word() {
    let Ok(binaries) = binaries() else {
        println!("skipped: build the binaries first");
        return;
    };
    let (server, graphs) = (binaries.join("rocks-server"), repository().join("graphs"));
    let mut check = cmd(&server).arg("check");
    for roll in ROLLS {
        check = check.arg(graphs.join(roll));
    }
    let done = check.output().expect("it runs");
    assert_eq!((done.code(), done.stdout.as_str()), (0, ""), "{}", done.both());
}
