//! The image builder: an appliance's image is built, is the same when it is built again, is shipped, boots what arrived, and its agent
//! finds nothing to do but to take its host's name.

#![expect(clippy::print_stdout, reason = "a test that is left out says why")]

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use rocks_tests::process::{cmd, wait_for, which};
use rocks_tests::turns::{converged, steps};
use rocks_tests::world::{World, binaries, missing};

/// How long a machine may take to its login prompt under emulation.
const BOOT: Duration = Duration::from_secs(240);

fn same(one: &Path, two: &Path) -> bool {
    let (mut one, mut two) = (fs::File::open(one).expect("opened"), fs::File::open(two).expect("opened"));
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let count = one.read(&mut a).expect("read");
        two.read_exact(&mut b[..count]).expect("read");
        if a[..count] != b[..count] {
            return false;
        }
        if count == 0 {
            return two.read(&mut b).expect("read") == 0;
        }
    }
}

/// What a server says when it has given an address: DHCP's cookie, and then the kind of the message (RFC 2131).
const DHCP_ACK: [u8; 7] = [99, 130, 83, 99, 53, 1, 5];

/// Boots a disk in an emulated machine with this firmware until it has an address and asks for a login.
fn boots(disk: &Path, work: &Path, uefi: bool) {
    let Some(qemu) = which("qemu-system-x86_64") else {
        println!("left out: there is no qemu-system-x86_64");
        return;
    };
    let console = work.join(if uefi { "uefi.log" } else { "bios.log" });
    let heard = work.join("heard.pcap");
    let _ = fs::remove_file(&heard);
    let mut machine = cmd(qemu)
        .args(["-machine", "q35", "-accel", "tcg,thread=multi,tb-size=512", "-smp", "2", "-m", "1024"])
        // Emulating all that a newer processor has takes much longer.
        .args(["-cpu", "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt", "-nodefaults", "-no-reboot", "-display", "none"])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-drive")
        .arg(format!("if=none,id=d0,file={},format=raw,cache=unsafe,snapshot=on", disk.display()))
        .args(["-device", "nvme,drive=d0,serial=vol0"])
        // A network that gives addresses, and what was said on it.
        .args(["-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0", "-object"])
        .arg(format!("filter-dump,id=f0,netdev=n0,file={}", heard.display()));
    if uefi {
        let known = ["/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/edk2/ovmf/OVMF_CODE.fd"];
        let Some(code) = known.iter().find(|path| Path::new(path).exists()) else {
            println!("left out: there is no firmware for UEFI");
            return;
        };
        let variables = work.join("variables");
        fs::copy(code.replace("CODE", "VARS"), &variables).expect("copied");
        for (unit, path, more) in [(0, *code, ",readonly=on"), (1, &variables.display().to_string(), "")] {
            machine = machine.arg("-drive").arg(format!("if=pflash,format=raw,unit={unit},file={path}{more}"));
        }
    }
    let mut running = machine.start(&work.join("qemu.log")).expect("qemu starts");
    let asked = wait_for("a login prompt and an address", BOOT, || {
        assert!(running.ended().is_none(), "{}", fs::read_to_string(work.join("qemu.log")).unwrap_or_default());
        let text = fs::read(&console).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        // The cloud gives a machine its address by DHCP alone: without it there is no agent, no user data, nothing.
        let packets = fs::read(&heard).unwrap_or_default();
        let acknowledged = packets.windows(DHCP_ACK.len()).any(|bytes| bytes == DHCP_ACK);
        Ok((text.contains("localhost login:") && acknowledged).then_some(()))
    });
    running.kill();
    asked.unwrap_or_else(|error| {
        let text = fs::read(&console).unwrap_or_default();
        panic!("{error:#}\n{}", rocks_tests::process::tail(&String::from_utf8_lossy(&text), 4000))
    });
}

#[test]
fn an_image_is_built_the_same_again_shipped_booted_and_has_nothing_left_to_do() {
    if let Some(why) = missing() {
        println!("skipped: {why}");
        return;
    }
    let mut world = World::new(&mut |what| println!("{what}")).unwrap_or_else(|error| panic!("{error:#}"));
    let work = tempfile::tempdir().expect("a folder");
    let key = format!("gpgkey={}", world.lite().gpg_key().display());
    let build = |name: &str| {
        let said = world.rocks(&["-o", "json", "create", "image", "lite", &format!("name={name}"), &key]);
        let said = said.unwrap_or_else(|error| panic!("{error:#}"));
        let image: serde_json::Value = serde_json::from_str(&said).expect("json");
        assert_eq!(image["from"]["boots"], serde_json::json!(["bios", "uefi"]));
        assert_eq!(image["from"]["notes"], serde_json::json!([]));
        world.state().join("images").join(name).join("disk.raw")
    };
    let (first, again) = (build("lite"), build("again"));
    assert!(same(&first, &again), "the same appliance gave another image");
    assert!(world.rocks(&["list", "image"]).expect("listed").contains("again"));
    world.rocks(&["remove", "image", "again", "--yes"]).expect("removed");
    // Nothing of the work is left behind.
    assert_eq!(fs::read_dir(world.state().join("images")).expect("read").count(), 1);
    let mounts = fs::read_to_string("/proc/mounts").expect("read");
    assert!(!mounts.contains(&world.state().join("images").display().to_string()), "{mounts}");
    let checked = cmd("sfdisk").arg("--verify").arg(&first).run().expect("sfdisk");
    assert!(checked.both().contains("No errors"), "{}", checked.both());

    // Shipped by its name; what arrived boots by BIOS, what was built by UEFI.
    let (namespace, address) = world.listener();
    let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host).to_owned();
    let join = world.rocks(&["add", "host", "receiver-0-0", "appliance=lite"]).expect("added");
    fs::write(work.path().join("join.toml"), join).expect("written");
    let agent = binaries().expect("built").join("rocks-agent");
    let inside =
        || cmd("ip").args(["netns", "exec", &namespace]).arg(&agent).arg("--state-dir").arg(work.path().join("agent"));
    inside().arg("enrol").arg("--join").arg(work.path().join("join.toml")).run().expect("enrolled");
    let arrived = work.path().join("arrived.raw");
    let log = work.path().join("receive.log");
    let receive = inside().arg("receive").arg("--target").arg(&arrived).args(["--listen", &format!("{host}:8444")]);
    let mut receiver = receive.start(&log).expect("started");
    let waits = || Ok(fs::read_to_string(&log)?.contains("waiting for an image").then_some(()));
    wait_for("the receiver", Duration::from_secs(20), waits).expect("it listens");
    let to = format!("to={host}:8444");
    world.rocks(&["ship", "image", "lite", "host=receiver-0-0", &to]).unwrap_or_else(|error| panic!("{error:#}"));
    wait_for("the receiver's end", Duration::from_secs(20), || Ok(receiver.ended())).expect("it ends");
    assert!(same(&first, &arrived), "what arrived is another image");
    boots(&first, work.path(), true);

    // As files onto a larger disk, whose root has the room: boots either way.
    let larger = work.path().join("larger.raw");
    let bytes = fs::metadata(&first).expect("there").len() + (3 << 30);
    fs::File::create(&larger).and_then(|file| file.set_len(bytes)).expect("made");
    let log = work.path().join("bootable.log");
    let receive = inside().arg("receive").args(["--form", "bootable", "--target"]).arg(&larger);
    let mut receiver = receive.args(["--listen", &format!("{host}:8444")]).start(&log).expect("started");
    let waits = || Ok(fs::read_to_string(&log)?.contains("waiting for an image").then_some(()));
    wait_for("the receiver", Duration::from_secs(20), waits).expect("it listens");
    world
        .rocks(&["ship", "image", "lite", "host=receiver-0-0", &to, "form=bootable"])
        .unwrap_or_else(|error| panic!("{error:#}\n{}", fs::read_to_string(&log).unwrap_or_default()));
    wait_for("the receiver's end", Duration::from_secs(20), || Ok(receiver.ended())).expect("it ends");
    let checked = cmd("sfdisk").arg("--verify").arg(&larger).run().expect("sfdisk");
    assert!(checked.both().contains("No errors"), "{}", checked.both());
    let parts = rocks_ship::image::partitions(&fs::File::open(&larger).expect("opened"), bytes).expect("read");
    assert!(parts.iter().any(|part| bytes - part.bytes.end < 2 << 20), "{parts:?}");
    boots(&larger, work.path(), false);
    boots(&larger, work.path(), true);

    // It was built for the cloud: there is nothing to fit, and it boots.
    let fit = || {
        let done = cmd(&agent).args(["-o", "json", "fit", "--root"]).arg(&arrived).run().expect("it is fitted");
        let json: serde_json::Value = serde_json::from_str(&done.stdout).expect("json");
        json["fitted"]["changes"].as_array().map_or(usize::MAX, Vec::len)
    };
    assert_eq!(fit(), 0, "what was built is changed");
    boots(&arrived, work.path(), false);

    // The kickstart that it was made of is applied.
    let mut instance = world.instance_of_image("lite-0-0", "lite", &arrived).expect("an instance");
    instance.boot().expect("it boots");
    let report = converged(&world, &instance);
    assert_eq!(steps(&report), ["done: set the host name to lite-0-0"], "{report}");
}

#[test]
fn who_hangs_up_stops_a_build_and_what_fails_leaves_nothing() {
    if let Some(why) = missing() {
        println!("skipped: {why}");
        return;
    }
    let world = World::new(&mut |what| println!("{what}")).unwrap_or_else(|error| panic!("{error:#}"));
    let work = tempfile::tempdir().expect("a folder");
    let left = || {
        let images = world.state().join("images");
        Ok(fs::read_dir(images).map_or(0, Iterator::count).eq(&0).then_some(()))
    };
    // Stopped in the middle.
    let log = work.path().join("log");
    let rocks = cmd(binaries().expect("built").join("rocks")).arg("--socket").arg(world.state().join("run/admin.sock"));
    let mut building = rocks.args(["create", "image", "lite"]).start(&log).expect("started");
    let installs = || Ok(fs::read_to_string(&log)?.contains("installing:").then_some(()));
    wait_for("the packages' installation", Duration::from_secs(60), installs).expect("it begins");
    building.kill();
    wait_for("an empty folder", Duration::from_secs(30), left).expect("nothing is left");

    // A section that fails, and a disk that is too small.
    let roll = work.path().join("broken");
    for (path, text) in [
        ("graphs/default/broken.xml", "<graph><edge from=\"base\" to=\"broken\"/></graph>\n"),
        ("nodes/broken.xml", "<kickstart roll=\"broken\"><post>\necho it broke; exit 7\n</post></kickstart>\n"),
    ] {
        let path = roll.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    }
    let small = world.rocks(&["create", "image", "lite", "size=500"]).expect_err("it is too small").to_string();
    assert!(small.contains("the partitions need") && small.contains("500"), "{small}");
    world.rocks(&["add", "roll", &roll.display().to_string()]).expect("added");
    let failed = world.rocks(&["create", "image", "lite"]).expect_err("it fails").to_string();
    assert!(failed.contains("broken/nodes/broken.xml post.1") && failed.contains("it broke"), "{failed}");
    wait_for("an empty folder", Duration::from_secs(30), left).expect("nothing is left");
}
