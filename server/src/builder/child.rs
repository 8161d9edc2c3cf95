//! The building process: it has its namespaces for itself, reads an order, says what it does in lines of JSON, and ends.

use std::fs;
use std::io::BufRead as _;
use std::path::Path;
use std::time::Instant;

use rocks_common::diag::Source;
use rocks_common::kickstart::{self, NoIncludes};
use rocks_common::plan::{Action, Applied, Inventory, PackageChange, Policy, Repository, plan};

use super::boot::{self, Kernel};
use super::disk::{self, Bios};
use super::identity::Identities;
use super::layout::{Holds, Layout, MIB, SECTOR, layout};
use super::root::{Root, list};
use super::{BuildError, Built, Line, Order, Phase};
use crate::output::{Exit, Output};

/// Builds what standard input orders. Standard input stays open as long as somebody waits for it.
pub fn run(output: &mut Output<'_>) -> Exit {
    let mut text = String::new();
    let order = match std::io::stdin().lock().read_line(&mut text) {
        Ok(_) => serde_json::from_str::<Order>(&text).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let order = match order {
        Ok(order) => order,
        Err(error) => {
            output.message(&format!("error: {error}\n"));
            return Exit::Usage;
        }
    };
    // Who ordered has gone when its end of the pipe closes; as the first process here we take everything with us.
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        std::process::exit(1);
    });
    let mut say = |line: &Line| {
        let text = serde_json::to_string(line).unwrap_or_default() + "\n";
        let _ = output.data(&text);
    };
    let (line, exit) = match build(&order, &mut |phase, doing| say(&Line::At { phase, doing })) {
        Ok(built) => (Line::Built(Box::new(built)), Exit::Ok),
        Err(error) => {
            (Line::Failed { what: error.to_string(), hint: error.hint().map(ToOwned::to_owned) }, Exit::Failed)
        }
    };
    // What the image was made of may belong to users that only exist in this namespace.
    for folder in ["root", "resolve", "packages", "repos.d"] {
        let _ = fs::remove_dir_all(order.work.join(folder));
    }
    say(&line);
    exit
}

/// What the kickstart says about packages.
fn packages(order: &Order, desired: &kickstart::Kickstart) -> (PackageChange, Vec<Repository>) {
    let policy = Policy { frontend: Some(order.frontend_url.clone()), ..Policy::default() };
    let (mut change, mut repositories) = (PackageChange::default(), Vec::new());
    for step in plan(desired, &Applied::default(), &Inventory::default(), &policy).steps {
        match step.action {
            Action::Packages(packages) => change = packages,
            Action::Repositories(list) => repositories = list,
            _ => {}
        }
    }
    (change, repositories)
}

/// Takes the time of the phases.
struct Clock<'t> {
    tell: &'t mut dyn FnMut(Phase, String),
    phases: Vec<(Phase, f64)>,
    since: Instant,
}

impl Clock<'_> {
    fn begin(&mut self, phase: Phase, doing: impl Into<String>) {
        self.end();
        self.phases.push((phase, 0.0));
        (self.tell)(phase, doing.into());
    }

    fn end(&mut self) {
        if let Some((_, took)) = self.phases.last_mut() {
            *took = (self.since.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
        }
        self.since = Instant::now();
    }
}

fn build(order: &Order, tell: &mut dyn FnMut(Phase, String)) -> Result<Built, BuildError> {
    let source = Source::new("kickstart", order.kickstart.as_str());
    let (desired, problems) = kickstart::parse(&source, &mut NoIncludes);
    if problems.has_errors() {
        return Err(BuildError::Kickstart(problems.render()));
    }
    let layout = layout(&desired, &order.arch, order.disk_mib).map_err(|problems| {
        BuildError::Kickstart(problems.iter().map(|problem| format!("{problem}\n")).collect::<String>())
    })?;
    let identities = Identities::of(&order.appliance, &order.kickstart);
    let (change, repositories) = packages(order, &desired);
    let mut clock = Clock { tell, phases: Vec::new(), since: Instant::now() };
    let mut notes = layout.notes.clone();
    if order.gpgkeys.is_empty() {
        notes.push("no key was given: packages were trusted by the mirror's digests, not by signatures".to_owned());
    }
    rustix::system::sethostname(b"localhost").map_err(|error| BuildError::io("the host's name")(error.into()))?;

    let mut root = Root::new(order)?;
    clock.begin(Phase::Fetching, "finding the packages");
    let names = root.fetch(&change, &repositories)?;
    clock.begin(Phase::Installing, format!("{} packages", names.len()));
    let (by_uuid, by_partition) = (identities.uuid("/"), identities.uuid("partition /"));
    let line = |root: String| boot::command_line(&root, &layout.append);
    // Kernels look at these when they are installed.
    root.write("etc/kernel/cmdline", &(line(format!("root=UUID={by_uuid}")) + "\n"), 0o644)?;
    root.write("etc/dracut.conf.d/10-rocks-image.conf", "hostonly=\"no\"\nreproducible=\"yes\"\n", 0o644)?;
    let table = boot::fstab(&layout, &|name| identities.uuid(name), &|name| identities.serial(name));
    root.write("etc/fstab", &table, 0o644)?;
    root.install()?;
    root.write("etc/fstab", &table, 0o644)?;

    clock.begin(Phase::Applying, "running the kickstart's sections");
    let said = root.apply()?;
    notes.extend(said.lines().filter_map(|line| line.strip_prefix("warning: ")).map(ToOwned::to_owned));

    clock.begin(Phase::Booting, "installing the boot loader");
    let kernels = kernels(&root)?;
    // Without a first file system nobody but the kernel itself finds the root, and it does not know file systems by name.
    let bare = kernels.iter().any(|kernel| kernel.initrd.is_none());
    let line = line(if bare { format!("root=PARTUUID={by_partition}") } else { format!("root=UUID={by_uuid}") });
    let (boots, bios) = loaders(&root, &layout, &identities, &kernels, &line)?;
    notes.extend(root.label());

    clock.begin(Phase::Cleaning, "taking out what is not part of an image");
    root.clean()?;
    clock.begin(Phase::Writing, format!("{} MiB", layout.disk_mib));
    let (bytes, allocated) = disk::write(&root, &order.work, &layout, &identities, bios.as_ref())?;
    clock.end();
    let phases = clock.phases;
    Ok(Built { bytes, allocated, packages: names, epoch: root.epoch, boots, notes, phases })
}

/// The kernels of the image, the newest first, with what they need to start.
fn kernels(root: &Root<'_>) -> Result<Vec<Kernel>, BuildError> {
    let modules = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let versions = list(&root.at("usr/lib/modules")).map_err(BuildError::io("usr/lib/modules"))?;
    let mut kernels = Vec::new();
    for version in versions.iter().filter_map(|path| modules(path)) {
        let image = format!("/boot/vmlinuz-{version}");
        let packed = root.at(&format!("usr/lib/modules/{version}/vmlinuz"));
        if !root.at(&image).exists() {
            if !packed.exists() {
                continue;
            }
            fs::copy(&packed, root.at(&image)).map_err(BuildError::io(image.as_str()))?;
        }
        if !root.at(&format!("usr/lib/modules/{version}/modules.dep")).exists() && root.has("depmod") {
            root.inside("listing the kernel's modules", "depmod", &["-a", &version])?;
        }
        let known = [format!("/boot/initramfs-{version}.img"), format!("/boot/initrd.img-{version}")];
        let mut initrd = known.iter().find(|path| root.at(path).exists()).cloned();
        if initrd.is_none() && root.has("dracut") {
            root.inside("making the first file system", "dracut", &["--force", "--no-hostonly", &known[0], &version])?;
            initrd = Some(known[0].clone());
        }
        kernels.push(Kernel { version, image, initrd });
    }
    kernels.sort_by(|a, b| rocks_common::evr::rpmvercmp(&b.version, &a.version));
    if kernels.is_empty() {
        return Err(BuildError::Missing {
            what: "no kernel was installed".to_owned(),
            hint: "the mirror must have a package that provides `kernel`",
        });
    }
    Ok(kernels)
}

/// Installs boot loaders for every firmware that the image has one for.
fn loaders(
    root: &Root<'_>,
    layout: &Layout,
    identities: &Identities,
    kernels: &[Kernel],
    line: &str,
) -> Result<(Vec<String>, Option<Bios>), BuildError> {
    let folder =
        if root.has("grub2-mkconfig") || root.at("boot/grub2").exists() { "/boot/grub2" } else { "/boot/grub" };
    let on = layout.of(folder).map(|part| (part.name(), part.mount.clone().unwrap_or_default()));
    let (name, mount) = on.unwrap_or_else(|| ("/".to_owned(), "/".to_owned()));
    let strip = if mount == "/" { "" } else { mount.as_str() };
    let seen = folder.strip_prefix(strip).unwrap_or(folder);
    let early = boot::early(identities.uuid(&name), seen);
    root.write("run/rocks/early.cfg", &early, 0o644)?;
    let mut boots = Vec::new();
    let mut bios = None;
    if let Some(part) = layout.parts.iter().find(|part| part.holds == Holds::BiosBoot)
        && let Some(core) = core_image(root, "i386-pc", seen, &["biosdisk"])?
    {
        let first = fs::read(root.at("usr/lib/grub/i386-pc/boot.img")).map_err(BuildError::io("boot.img"))?;
        let made = boot::bios(&first, &core, part.start_mib * MIB / SECTOR);
        let (first, core) = made.map_err(|why| BuildError::io("the boot loader")(std::io::Error::other(why)))?;
        if core.len() as u64 > part.mib * MIB {
            return Err(BuildError::Missing {
                what: "the boot loader does not fit into the BIOS boot partition".to_owned(),
                hint: "give `part biosboot` a larger --size",
            });
        }
        boots.push("bios".to_owned());
        bios = Some(Bios { first, core });
    }
    let (name, target) = match root.arch() {
        "aarch64" => ("BOOTAA64.EFI", "arm64-efi"),
        _ => ("BOOTX64.EFI", "x86_64-efi"),
    };
    let default = format!("boot/efi/EFI/BOOT/{name}");
    if root.at(&default).exists() {
        // The distribution's own, signed: each folder with a GRUB looks for its configuration beside it.
        for vendor in list(&root.at("boot/efi/EFI")).map_err(BuildError::io("boot/efi"))? {
            let grub = list(&vendor).map_err(BuildError::io("boot/efi"))?.iter().any(|file| {
                file.file_name().is_some_and(|name| name.to_string_lossy().to_ascii_lowercase().starts_with("grub"))
            });
            if grub {
                fs::write(vendor.join("grub.cfg"), &early).map_err(BuildError::io("grub.cfg"))?;
            }
        }
        boots.push("uefi".to_owned());
    } else if let Some(core) = core_image(root, target, seen, &[])? {
        let path = root.at(&default);
        let write = || path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, &core));
        write().map_err(BuildError::io("the boot loader"))?;
        boots.push("uefi".to_owned());
    }
    if boots.is_empty() {
        return Err(BuildError::Missing {
            what: "the image has no boot loader".to_owned(),
            hint: "the mirror must have GRUB's packages: grub2-pc-modules, grub2-efi-x64-modules, grub2-tools",
        });
    }
    let release = fs::read_to_string(root.at("etc/os-release")).unwrap_or_default();
    let title = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux").trim_matches('"');
    let entries = list(&root.at("boot/loader/entries")).map_err(BuildError::io("boot/loader/entries"))?;
    for entry in &entries {
        let text = fs::read_to_string(entry).map_err(BuildError::io("a boot loader entry"))?;
        fs::write(entry, boot::entry(&text, line)).map_err(BuildError::io("a boot loader entry"))?;
    }
    let by_entries = !entries.is_empty() && root.at("usr/lib/grub/i386-pc/blscfg.mod").exists();
    let menu = boot::menu(kernels, title, strip, line, layout.timeout, by_entries);
    root.write(&format!("{folder}/grub.cfg"), &menu, 0o600)?;
    root.write("etc/kernel/cmdline", &format!("{line}\n"), 0o644)?;
    Ok((boots, bios))
}

/// GRUB's core image for a platform; nothing if the image has not got that platform's modules.
fn core_image(root: &Root<'_>, platform: &str, prefix: &str, more: &[&str]) -> Result<Option<Vec<u8>>, BuildError> {
    let modules = root.at("usr/lib/grub").join(platform);
    let Some(program) = ["grub2-mkimage", "grub-mkimage"].into_iter().find(|name| root.has(name)) else {
        return Ok(None);
    };
    if !modules.join("moddep.lst").exists() {
        return Ok(None);
    }
    let mut args = vec!["-O", platform, "-o", "/run/rocks/core", "-p", prefix, "-c", "/run/rocks/early.cfg"];
    args.extend(more);
    args.extend(boot::MODULES);
    args.extend(boot::EXTRA_MODULES.into_iter().filter(|name| modules.join(format!("{name}.mod")).exists()));
    root.inside("making the boot loader", program, &args)?;
    fs::read(root.at("run/rocks/core")).map(Some).map_err(BuildError::io("the boot loader"))
}
