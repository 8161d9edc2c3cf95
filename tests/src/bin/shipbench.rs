//! `shipbench`: the lite image shipped over an emulated long way, beside the way of the original (`tar` over UDT4), in one run.
//!
//! The images are built by the product: the lite appliance; the same with Java and Vim installed into a copy of the disk; and the same
//! built anew with both. A frontend and a receiver stand at the two ends of the link; each shipment is the real binaries' and is timed
//! from the command to its end. Needs root.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a bench that prints its table")]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, Subcommand};
use rocks_ship::transport::{Options, Tcp, Transport, Udt};
use rocks_tests::process::{cmd, wait_for};
use rocks_tests::shipyard::{Yard, allocated, cpu, image, peak, result, same};
use rocks_tests::wan::{End, Shape, Wan, Way};
use rocks_tests::world::World;
use serde_json::Value;

/// Ships the lite image over an emulated long way.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    role: Option<Role>,
    /// Mbit/s of the link
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    /// Its round trip in ms
    #[arg(long, default_value_t = 180)]
    rtt: u64,
    /// Percent of the packets that it loses
    #[arg(long, default_value_t = 0.1)]
    loss: f64,
    /// What carries the original's tar: udt4 (needs the feature), tcp-bbr, tcp-cubic; separated by commas
    #[arg(long, default_value = if cfg!(feature = "udt4") { "udt4" } else { "tcp-cubic" })]
    beside: String,
    /// Ship this image instead, once in each form, to places where nothing is
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Ship an image with so many MiB of noise over loopback instead: what a core can send, encrypt, hash, write and read back
    #[arg(long, value_name = "MIB")]
    loopback: Option<u64>,
    /// Where images are kept between runs; they are built if they are not there
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Sends a folder (started by the bench itself)
    #[command(hide = true)]
    Tar { kind: String, folder: PathBuf, address: SocketAddr },
    /// Takes it (started by the bench itself)
    #[command(hide = true)]
    Untar { kind: String, folder: PathBuf, address: SocketAddr },
}

fn transport(kind: &str) -> Result<Box<dyn Transport>> {
    let congestion = kind.strip_prefix("tcp-").map(str::to_owned);
    let options = Options { buffer: 32 << 20, congestion, ..Options::default() };
    Ok(match kind {
        "ours" => Box::new(Udt::new(options)),
        k if k.starts_with("tcp-") => Box::new(Tcp::new(options)),
        #[cfg(feature = "udt4")]
        "udt4" => Box::new(rocks_ship::transport::Udt4::new(options)),
        other => bail!("unknown way {other}"),
    })
}

/// As the original sends an image: one stream, not packed, not encrypted, not proved.
fn send(kind: &str, folder: &Path, to: SocketAddr) -> Result<()> {
    let mut stream = transport(kind)?.connect(to)?;
    let tar = cmd("tar").arg("-C").arg(folder).args(["--one-file-system", "-cf", "-", "."]);
    tar.stream(|out| Ok(std::io::copy(out, &mut stream)?))?;
    Ok(stream.finish()?)
}

fn take(kind: &str, folder: &Path, at: SocketAddr) -> Result<()> {
    let listener = transport(kind)?.listen(at)?;
    println!("port {}", listener.local().port());
    let stream = listener.accept(Some(Duration::from_secs(60)))?.context("nobody connected")?;
    let mut archive = tar::Archive::new(std::io::BufReader::with_capacity(1 << 20, stream));
    archive.set_preserve_permissions(true);
    Ok(archive.unpack(folder)?)
}

/// A file system of a disk image that is mounted until this is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(disk: &Path, at: &Path, options: &str) -> Result<Self> {
        fs::create_dir_all(at)?;
        let listed = cmd("sfdisk").arg("--json").arg(disk).run()?.stdout;
        let table: Value = serde_json::from_str(&listed)?;
        let part = &table["partitiontable"]["partitions"][0];
        let (start, size) =
            part["start"].as_u64().zip(part["size"].as_u64()).context("there is no partition on the image")?;
        let options = format!("loop,{options},offset={},sizelimit={}", start * 512, size * 512);
        cmd("mount").args(["-t", "ext4", "-o", &options]).arg(disk).arg(at).run()?;
        Ok(Self(at.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // What cannot be unmounted is told by whoever looks at the mounts.
        let _ = cmd("umount").arg(&self.0).output();
    }
}

/// The images: as it is, grown in place, grown and built anew.
struct Images {
    lite: PathBuf,
    installed: PathBuf,
    rebuilt: PathBuf,
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    cmd("cp").arg("--sparse=always").arg(from).arg(to).run().map(drop)
}

fn images(folder: &Path) -> Result<Images> {
    let at = |name: &str| folder.join(format!("{name}.raw"));
    let images = Images { lite: at("lite"), installed: at("installed"), rebuilt: at("rebuilt") };
    if images.rebuilt.exists() {
        return Ok(images);
    }
    fs::create_dir_all(folder)?;
    let world = World::new(&mut |what| eprintln!("{what}"))?;
    let key = format!("gpgkey={}", world.lite().gpg_key().display());
    let build = |to: &Path| {
        // Room for what is installed later.
        world.rocks(&["create", "image", "lite", &key])?;
        copy(&world.state().join("images/lite/disk.raw"), to)
    };
    build(&images.lite)?;
    copy(&images.lite, &images.installed)?;
    {
        let root = folder.join("root");
        let mounted = Mounted::new(&images.installed, &root, "rw")?;
        // Where the distribution of this machine keeps rpm's database elsewhere, the image's would not be found.
        fs::write(folder.join(".rpmmacros"), "%_dbpath /var/lib/rpm\n")?;
        let dnf = || cmd("dnf").env("HOME", folder).arg("--installroot").arg(&root);
        let mirror = format!("--repofrompath=m,file://{}", world.lite().repository().display());
        let packages = ["java-17-openjdk-headless", "vim-enhanced"];
        let install = dnf().args(["-y", "--disablerepo=*", "--enablerepo=m", "--nogpgcheck", &mirror, "install"]);
        install.args(packages).run()?;
        dnf().args(["clean", "all"]).run()?;
        drop(mounted);
    }
    for attribute in ["java", "vim"] {
        world.rocks(&["set", "appliance", "attr", "lite", attribute, "yes"])?;
    }
    build(&images.rebuilt)?;
    Ok(images)
}

fn outcome(name: &str, took: Duration, wire: u64, rate: f64, note: &str) {
    let percent = wire as f64 * 8.0 / took.as_secs_f64() / (rate * 1e6) * 100.0;
    println!("| {name} | {:.1} s | {:.1} MB | {percent:.0} % | {note} |", took.as_secs_f64(), wire as f64 / 1e6);
}

/// One image in both forms.
fn forms(args: &Args, image: &Path, wan: &Wan) -> Result<()> {
    let yard = Yard::new(Some(wan), &["receiver-0-0"])?;
    println!("| form | time | on the wire | of the link | |\n|---|---|---|---|---|");
    for form in ["block", "tree"] {
        let target = yard.path(form);
        if form == "tree" {
            fs::create_dir(&target)?;
        }
        let mut receiver = yard.receive("receiver-0-0", &target, &["--form", form])?;
        let (begun, before) = (Instant::now(), wan.counts(Way::There).bytes);
        let done = yard.ship(image, "receiver-0-0", &receiver.at, &[&format!("form={form}")])?;
        let (took, wire) = (begun.elapsed(), wan.counts(Way::There).bytes - before);
        ensure!(done.code() == 0, "{}\n{}", done.both(), receiver.log());
        ensure!(receiver.code()? == 0, "{}", receiver.log());
        let shipped = result(&done.stdout)?;
        let note =
            format!("{} sent, {:.1} MB packed", shipped["sent"], shipped["sent_bytes"].as_f64().unwrap_or(0.0) / 1e6);
        outcome(form, took, wire, args.rate, &note);
        if form == "tree" {
            fs::remove_dir_all(&target)?;
        } else {
            fs::remove_file(&target)?;
        }
    }
    Ok(())
}

/// What this machine's processors and disk make of one image without a link between.
fn loopback(mib: u64) -> Result<()> {
    let yard = Yard::new(None, &["receiver-0-0"])?;
    let (source, target) = (yard.path("source"), yard.path("target"));
    // Every second MiB is a hole.
    image(&source, 2 * mib, 2 * mib, 7)?;
    let bytes = (mib << 20) as f64;
    let begun = Instant::now();
    {
        let (mut from, mut to) = (fs::File::open(&source)?, fs::File::create(&target)?);
        std::io::copy(&mut from, &mut to)?;
        to.sync_all()?;
    }
    fs::remove_file(&target)?;
    println!("a copy of the file, flushed: {:.0} MB/s\n", 2.0 * bytes / begun.elapsed().as_secs_f64() / 1e6);
    println!(
        "| way | time | MB/s | CPU s/GB: frontend, receiver | MB/s for each core used | memory there, here |\n|---|---|---|---|---|---|"
    );
    for way in ["udt", "tcp"] {
        let way_of = format!("transport={way}");
        let mut receiver = yard.receive("receiver-0-0", &target, &["--transport", way])?;
        let (begun, before) = (Instant::now(), cpu(yard.frontend()).context("the frontend is gone")?);
        let log = yard.path("shipping");
        let _ = fs::remove_file(&log);
        let mut shipping = yard.shipping(&source, "receiver-0-0", &receiver.at, &[&way_of]).start(&log)?;
        let (mut memory, mut there) = (0, 0.0);
        let ended = wait_for("the shipment", Duration::from_secs(600), || {
            memory = peak(receiver.running.pid()).unwrap_or(memory);
            there = cpu(receiver.running.pid()).unwrap_or(there);
            Ok(shipping.ended())
        })?;
        let took = begun.elapsed().as_secs_f64();
        ensure!(ended.success() && receiver.code()? == 0, "{}\n{}", fs::read_to_string(&log)?, receiver.log());
        ensure!(same(&source, &target)?, "what arrived is another image");
        let here = cpu(yard.frontend()).context("the frontend is gone")? - before;
        println!(
            "| {way} | {took:.1} s | {:.0} | {:.2}, {:.2} | {:.0} | {} MiB, {} MiB |",
            bytes / took / 1e6,
            here / bytes * 1e9,
            there / bytes * 1e9,
            bytes / (here + there) / 1e6,
            memory >> 20,
            peak(yard.frontend()).unwrap_or(0) >> 20
        );
        fs::remove_file(&target)?;
    }
    Ok(())
}

fn bench(args: &Args) -> Result<()> {
    if let Some(mib) = args.loopback {
        return loopback(mib);
    }
    let work = tempfile::Builder::new().prefix("rocks-shipbench-").tempdir()?;
    let mut shape = Shape::new(args.rate, Duration::from_millis(args.rtt));
    shape.loss = args.loss / 100.0;
    if let Some(image) = &args.image {
        return forms(args, image, &Wan::new(shape)?);
    }
    let images = images(&args.images.clone().unwrap_or_else(|| work.path().join("images")))?;
    let wan = Wan::new(shape)?;
    println!(
        "Link: {} Mbit/s, {} ms, {} % lost. Image: {:.0} MB in use of {:.0} MB; with Java and Vim {:.0} MB.\n",
        args.rate,
        args.rtt,
        args.loss,
        allocated(&images.lite) as f64 / 1e6,
        fs::metadata(&images.lite)?.len() as f64 / 1e6,
        allocated(&images.rebuilt) as f64 / 1e6
    );
    println!("| shipment | time | on the wire | of the link | |\n|---|---|---|---|---|");
    let me = std::env::current_exe()?;
    for kind in args.beside.split(',').filter(|kind| !kind.is_empty()) {
        for (name, disk) in [("first", &images.lite), ("with Java and Vim", &images.installed)] {
            let (from, to) = (work.path().join("from"), work.path().join("to"));
            let mounted = Mounted::new(disk, &from, "ro,noload")?;
            fs::create_dir_all(&to)?;
            let log = work.path().join("untar.log");
            let _ = fs::remove_file(&log);
            let at = format!("{}:0", Wan::address(End::B));
            let mut taking = wan.at(End::B, &me).args(["untar", kind]).arg(&to).arg(&at).start(&log)?;
            let port = wait_for("the port", Duration::from_secs(10), || {
                Ok(fs::read_to_string(&log)?.lines().find_map(|l| l.strip_prefix("port ").map(str::to_owned)))
            })?;
            let (begun, before) = (Instant::now(), wan.counts(Way::There).bytes);
            let to_address = format!("{}:{port}", Wan::address(End::B));
            wan.at(End::A, &me).args(["tar", kind]).arg(&from).arg(&to_address).run()?;
            let ended = wait_for("the end", Duration::from_secs(600), || Ok(taking.ended()))?;
            ensure!(ended.success(), "{}", fs::read_to_string(&log)?);
            let wire = wan.counts(Way::There).bytes - before;
            outcome(&format!("tar over {kind}, {name}"), begun.elapsed(), wire, args.rate, "");
            drop(mounted);
            fs::remove_dir_all(&to)?;
        }
    }

    let yard = Yard::new(Some(&wan), &["receiver-0-0"])?;
    let target = yard.path("target");
    let first = work.path().join("first.raw");
    for (name, disk, again) in [
        ("ours, first", &images.lite, false),
        ("ours, unchanged", &images.lite, false),
        ("ours, with Java and Vim installed", &images.installed, false),
        ("ours, with Java and Vim built anew", &images.rebuilt, true),
    ] {
        if again {
            copy(&first, &target)?;
        }
        let mut receiver = yard.receive("receiver-0-0", &target, &[])?;
        let (begun, before) = (Instant::now(), wan.counts(Way::There).bytes);
        let log = yard.path("shipping");
        let _ = fs::remove_file(&log);
        let mut shipping = yard.shipping(disk, "receiver-0-0", &receiver.at, &[]).start(&log)?;
        let mut most = 0;
        let ended = wait_for("the shipment", Duration::from_secs(1200), || {
            most = most.max(peak(receiver.running.pid()).unwrap_or(0));
            Ok(shipping.ended())
        })?;
        let (took, wire) = (begun.elapsed(), wan.counts(Way::There).bytes - before);
        let said = fs::read_to_string(&log)?;
        ensure!(ended.success(), "{said}\n{}", receiver.log());
        ensure!(receiver.code()? == 0, "{}", receiver.log());
        ensure!(name != "ours, first" || same(disk, &target)?, "what arrived is another image");
        if !first.exists() {
            copy(&target, &first)?;
        }
        let shipped = result(&said)?;
        let note = format!(
            "{} of {} blocks, {:.1} MB packed; memory there {} MiB, here {} MiB",
            shipped["sent"],
            shipped["blocks"],
            shipped["sent_bytes"].as_f64().unwrap_or(0.0) / 1e6,
            most >> 20,
            peak(yard.frontend()).unwrap_or(0) >> 20
        );
        outcome(name, took, wire, args.rate, &note);
    }
    Ok(())
}

fn main() -> Result<()> {
    let args = Args::parse();
    match &args.role {
        Some(Role::Tar { kind, folder, address }) => send(kind, folder, *address),
        Some(Role::Untar { kind, folder, address }) => take(kind, folder, *address),
        None => bench(&args),
    }
}
