//! What breaks, changes and is damaged.

use super::*;

#[test]
fn a_cut_shipment_goes_on_where_it_stopped_and_never_ends_as_a_success() {
    let bench = Bench::new();
    let (from, to) = (bench.folder("from"), bench.folder("to"));
    plant(&from);
    fs::write(from.join("more"), noise(9, 60 * BLOCK)).unwrap();
    let whole = bench.ship(&from, &bench.folder("whole")).sent;
    let mut cut = 1;
    loop {
        let (sent, taken) = bench.ship_with(&from, &to, &Trouble { left: cut, ..NONE });
        match (sent, taken) {
            (Ok(shipped), Ok(_)) => {
                assert!(shipped.sent < whole, "nothing of what arrived was used");
                break;
            }
            (Err(ShipmentError::Connection(_)), Err(ShipmentError::Connection(_))) => {}
            other => panic!("cut after {cut} bytes: {other:?}"),
        }
        cut = cut * 3 + 7;
    }
    assert_same(&from, &to);
}

#[test]
fn a_flipped_bit_anywhere_is_found() {
    let bench = Bench::new();
    let from = bench.folder("from");
    plant(&from);
    for at in (0..800_000).step_by(97_003).chain([1, 9, 20, 60, 70]) {
        let to = bench.folder(&format!("to{at}"));
        let (sent, taken) = bench.ship_with(&from, &to, &Trouble { flip: Some(at), ..NONE });
        match (sent, taken) {
            (Err(_), Err(_)) => {}
            // Past the end of what was written nothing was flipped.
            (Ok(_), Ok(_)) => assert_same(&from, &to),
            other => panic!("bit at {at}: one end believes it: {other:?}"),
        }
    }
}

#[test]
fn a_source_that_changes_while_it_is_sent_is_found() {
    let change = |path: PathBuf| fs::File::options().write(true).open(path).unwrap().write_all_at(b"later", 9).unwrap();
    type Change<'c> = &'c dyn Fn(&Path);
    let changes: [(&str, Change<'_>); 6] = [
        ("what a file holds", &|from| change(from.join("usr/bin/large"))),
        ("its mode", &|from| fs::set_permissions(from.join("etc"), fs::Permissions::from_mode(0o700)).unwrap()),
        ("an attribute", &|from| set_xattr(&from.join("usr"), "user.more", b"")),
        ("another name", &|from| fs::hard_link(from.join("etc/hosts"), from.join("etc/hosts2")).unwrap()),
        ("one less", &|from| fs::remove_file(from.join("usr/small-3")).unwrap()),
        ("it is shorter", &|from| drop(fs::File::create(from.join("usr/small-3")).unwrap())),
    ];
    for (what, change) in changes {
        let bench = Bench::new();
        let (from, to) = (bench.folder("from"), bench.folder("to"));
        plant(&from);
        let (sent, taken) = bench.ship_with(&from, &to, &Trouble { before: &|| change(&from), ..NONE });
        assert!(matches!(&sent, Err(ShipmentError::Source(_))), "{what}: {sent:?}");
        assert!(matches!(&taken, Err(ShipmentError::Refused(_))), "{what}: {taken:?}");
        bench.ship(&from, &to);
    }
}

#[test]
fn a_target_that_loses_what_was_written_is_found() {
    type Spoil<'s> = &'s (dyn Fn(&Path) + Sync);
    let spoils: [(&str, Spoil<'_>); 4] = [
        ("what it holds", &|to| {
            let file = fs::File::options().write(true).open(to.join("usr/bin/large")).unwrap();
            file.write_all_at(&[0xee; 100], 3 * BLOCK as u64).unwrap();
        }),
        ("it is too much", &|to| fs::write(to.join("var/more"), "").unwrap()),
        ("it is too much", &|to| fs::create_dir(to.join("zzz")).unwrap()),
        ("what it holds", &|to| {
            fs::File::options().write(true).open(to.join("etc/nothing")).unwrap().set_len(7).unwrap()
        }),
    ];
    for (found, spoil) in spoils {
        let bench = Bench::new();
        let (from, to) = (bench.folder("from"), bench.folder("to"));
        plant(&from);
        // With nothing on its way that would mend what is spoilt.
        bench.ship(&from, &to);
        let (sent, taken) = bench.ship_with(&from, &to, &Trouble { before_end: &|| spoil(&to), ..NONE });
        match (sent, taken) {
            (Err(ShipmentError::Refused(why)), Err(ShipmentError::Differs { what, .. })) => {
                assert_eq!(what, found);
                assert!(why.contains(found), "{why}");
            }
            other => panic!("{found}: {other:?}"),
        }
        bench.ship(&from, &to);
    }
}

#[test]
fn what_an_interrupted_attempt_moved_aside_is_used_and_removed() {
    let bench = Bench::new();
    let (from, to) = (bench.folder("from"), bench.folder("to"));
    fs::write(from.join("a"), noise(1, 3 * BLOCK)).unwrap();
    fs::write(to.join("a"), noise(2, 50)).unwrap();
    fs::create_dir_all(to.join(".rocks-ship-aside/0/deep")).unwrap();
    fs::write(to.join(".rocks-ship-aside/0/deep/a"), noise(1, 3 * BLOCK)).unwrap();
    assert_eq!(bench.ship(&from, &to).sent, 0);
    assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
    // A tree that has something of that name keeps it.
    fs::create_dir(from.join(".rocks-ship-aside")).unwrap();
    fs::rename(from.join("a"), from.join(".rocks-ship-aside/b")).unwrap();
    assert_eq!(bench.ship(&from, &to).sent, 0);
    assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
}
