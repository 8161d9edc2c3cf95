//! Whoever wants to get out of the folder, and whoever does not keep to the protocol.

use super::super::wire::{Frame, Hello};
use super::*;

/// Hands a receiver an encoded manifest, and says what came of it.
fn offer(to: &Path, bytes: &[u8]) -> ShipmentError {
    let (mut here, there) = UnixStream::pair().unwrap();
    there.set_read_timeout(Some(std::time::Duration::from_millis(1500))).unwrap();
    let digest = {
        let mut hash = super::super::manifest::Hashing::new();
        hash.write_all(bytes).unwrap();
        hash.finish()
    };
    Frame::Hello(Hello { bytes: bytes.len() as u64, digest, origin: Origin::default() }).write(&mut here).unwrap();
    Frame::Piece([&[0], bytes].concat()).write(&mut here).unwrap();
    here.shutdown(std::net::Shutdown::Write).unwrap();
    let receiver = TreeReceiver::new(TreeTarget::open(to).unwrap());
    receiver.run(&mut there.try_clone().unwrap(), &|_| {}).unwrap_err()
}

fn entry(path: &[u8], kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut out = (path.len() as u16).to_le_bytes().to_vec();
    out.extend(path);
    out.push(kind);
    out.extend([0xff, 0x01]);
    out.extend([0; 4 + 4 + 8 + 4 + 2]);
    out.extend(rest);
    out
}

fn manifest(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut out = (entries.len() as u32).to_le_bytes().to_vec();
    entries.iter().for_each(|entry| out.extend(entry));
    out
}

#[test]
fn no_manifest_leads_out_of_the_folder() {
    let bench = Bench::new();
    let (to, outside) = (bench.folder("to"), bench.folder("outside"));
    fs::write(outside.join("kept"), "kept").unwrap();
    symlink(&outside, to.join("link")).unwrap();
    let before = manifest_of(&outside);
    let root = entry(b"", 0, &[]);
    let empty = [0; 12];
    let mut link = (outside.as_os_str().len() as u16).to_le_bytes().to_vec();
    link.extend(outside.as_os_str().as_bytes());
    let absolute = outside.join("bad");
    for entries in [
        vec![root.clone(), entry(b"..", 0, &[])],
        vec![root.clone(), entry(b"../outside/bad", 1, &empty)],
        vec![root.clone(), entry(absolute.as_os_str().as_bytes(), 1, &empty)],
        vec![root.clone(), entry(b"link/bad", 1, &empty)],
        vec![root.clone(), entry(b"link", 2, &link), entry(b"link/bad", 1, &empty)],
        vec![root.clone(), entry(b"a", 0, &[]), entry(b"a/../../outside/bad", 1, &empty)],
        vec![root.clone(), entry(b"a/./b", 1, &empty)],
        vec![root.clone(), entry(b"a\0b", 1, &empty)],
        vec![entry(b".", 0, &[])],
        vec![root.clone(), entry(b"dev", 99, &[])],
    ] {
        let error = offer(&to, &manifest(&entries));
        assert!(matches!(error, ShipmentError::Protocol(_)), "{error:?}");
        assert_eq!(fs::read_dir(&to).unwrap().count(), 1, "something was made before all was read");
    }
    assert_eq!(manifest_of(&outside), before);
}

#[test]
fn what_stands_in_the_target_leads_nowhere() {
    let bench = Bench::new();
    let (from, to, outside) = (bench.folder("from"), bench.folder("to"), bench.folder("outside"));
    fs::create_dir(outside.join("below")).unwrap();
    fs::write(outside.join("passwd"), "kept").unwrap();
    fs::write(outside.join("shared"), "kept").unwrap();
    // Links where the tree has folders and files, and a file that has a name elsewhere.
    symlink(&outside, to.join("etc")).unwrap();
    symlink(outside.join("passwd"), to.join("passwd")).unwrap();
    symlink(&outside, to.join("gone")).unwrap();
    fs::hard_link(outside.join("shared"), to.join("shared")).unwrap();
    let before = manifest_of(&outside);
    fs::create_dir(from.join("etc")).unwrap();
    fs::create_dir(from.join("etc/below")).unwrap();
    fs::write(from.join("etc/passwd"), "new").unwrap();
    fs::write(from.join("etc/below/a"), "new").unwrap();
    fs::write(from.join("passwd"), "new").unwrap();
    fs::write(from.join("shared"), "new").unwrap();
    fs::set_permissions(from.join("shared"), fs::Permissions::from_mode(0o4755)).unwrap();
    bench.ship(&from, &to);
    assert_eq!(manifest_of(&outside), before);
    assert!(!to.join("etc").is_symlink());
}

#[test]
fn what_is_mounted_below_is_left_alone() {
    let bench = Bench::new();
    let (from, to) = (bench.folder("from"), bench.folder("to"));
    fs::write(from.join("a"), "a").unwrap();
    let there = to.join("proc");
    fs::create_dir(&there).unwrap();
    if rustix::mount::mount("none", &there, "tmpfs", rustix::mount::MountFlags::empty(), None).is_err() {
        return;
    }
    fs::write(there.join("kept"), "kept").unwrap();
    let (sent, taken) = bench.ship_with(&from, &to, &NONE);
    let kept = fs::read(there.join("kept"));
    // And from there it is an empty folder.
    let other = bench.folder("other");
    let shipped = bench.ship_with(&to, &other, &NONE);
    rustix::mount::unmount(&there, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert!(matches!(&taken, Err(ShipmentError::Target(why)) if why.contains("proc")), "{taken:?}");
    assert!(matches!(sent, Err(ShipmentError::Refused(_))), "{sent:?}");
    assert_eq!(kept.unwrap(), b"kept");
    shipped.1.unwrap();
    assert_eq!(fs::read_dir(other.join("proc")).unwrap().count(), 0);
}

#[test]
fn whoever_does_not_keep_to_the_protocol_is_sent_away() {
    let bench = Bench::new();
    let to = bench.folder("to");
    fs::write(to.join("kept"), "kept").unwrap();
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[9, 1, 0, 0, 0, 7], &[11, 1, 0, 0, 0, 0], &[0, 0, 0, 0, 0]] {
        let (mut here, there) = UnixStream::pair().unwrap();
        here.write_all(garbage).unwrap();
        here.shutdown(std::net::Shutdown::Write).unwrap();
        let receiver = TreeReceiver::new(TreeTarget::open(&to).unwrap());
        let result = receiver.run(&mut there.try_clone().unwrap(), &|_| {});
        assert!(matches!(result, Err(ShipmentError::Protocol(_) | ShipmentError::Connection(_))), "{result:?}");
        drop(there);
        let _ = here.read_to_end(&mut Vec::new());
    }
    assert_eq!(fs::read(to.join("kept")).unwrap(), b"kept");
}

#[test]
fn the_two_forms_tell_each_other_that_they_differ() {
    use crate::shipment::{Receiver, Sender, Source, Target};
    let bench = Bench::new();
    let (from, to, image) = (bench.folder("from"), bench.folder("to"), bench.path("image"));
    fs::write(&image, noise(3, 5 * BLOCK)).unwrap();
    let pair = || UnixStream::pair().unwrap();
    let nothing = |_: Progress| {};
    let ((mut here, mut there), tell) = (pair(), &nothing);
    std::thread::scope(|scope| {
        let receiver = Receiver::new(Target::open(&bench.path("t")).unwrap(), &[]).unwrap();
        scope.spawn(move || receiver.run(&mut there, &|_| {}));
        let mut source = Folder::open(&from).unwrap();
        let sent = TreeSender::new(&mut source, tell).unwrap().run(&mut here, tell);
        assert!(matches!(&sent, Err(ShipmentError::Refused(why)) if why.contains("nobody knows")), "{sent:?}");
    });
    let (mut here, mut there) = pair();
    std::thread::scope(|scope| {
        scope.spawn(|| TreeReceiver::new(TreeTarget::open(&to).unwrap()).run(&mut there, &|_| {}));
        let source = Source::open(&image).unwrap();
        let sent = Sender::new(&source, tell).unwrap().run(&mut here, tell);
        assert!(matches!(&sent, Err(ShipmentError::Refused(why)) if why.contains("block form")), "{sent:?}");
    });
}
