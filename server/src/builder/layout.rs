//! Where what goes on the disk: the kickstart's `part` and `bootloader`, understood. Pure.
//!
//! A partition table is always GPT, and what firmware needs to boot from it is there whether the kickstart says so or not: a BIOS boot
//! partition and an EFI system partition. They lie before the others and have the last numbers, so that the first partition of the
//! kickstart is number 1, as `/dev/sda1` and `/dev/nvme0n1p1` expect.

use rocks_common::kickstart::{Command, Kickstart};

/// Bytes of a sector.
pub const SECTOR: u64 = 512;
/// Bytes of the MiB that everything is aligned to.
pub const MIB: u64 = 1 << 20;
/// MiB of the root when the kickstart leaves the partitioning to the installer; what current images have.
const AUTOMATIC_MIB: u64 = 8192;
/// MiB of an EFI system partition that nobody asked for: room for a boot loader and its signatures, 64 is the least that FAT32 takes.
const EFI_MIB: u64 = 64;
/// The largest disk, in MiB: what an EBS volume can have.
const MOST_MIB: u64 = 64 << 20;

/// Options of `part` that have a value.
const VALUED: [&str; 13] = [
    "--fstype",
    "--size",
    "--maxsize",
    "--label",
    "--fsoptions",
    "--mkfsoptions",
    "--fsprofile",
    "--ondisk",
    "--ondrive",
    "--onpart",
    "--usepart",
    "--percent",
    "--passphrase",
];

/// What a partition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// An ext2, ext3 or ext4 file system, by its name.
    Ext(&'static str),
    /// FAT, where UEFI looks for boot loaders.
    Efi,
    /// Swap space.
    Swap,
    /// The second stage of a boot loader for BIOS.
    BiosBoot,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its number in the table.
    pub number: u32,
    /// Where it is mounted, if anywhere.
    pub mount: Option<String>,
    /// What it holds.
    pub holds: Holds,
    /// `--label=`.
    pub label: Option<String>,
    /// `--fsoptions=`: how it is mounted.
    pub options: Option<String>,
    /// Where it begins, in MiB.
    pub start_mib: u64,
    /// Its size in MiB.
    pub mib: u64,
}

impl Part {
    /// Its name where identifiers are derived.
    #[must_use]
    pub fn name(&self) -> String {
        self.mount.clone().unwrap_or_else(|| format!("part{}", self.number))
    }
}

/// The whole disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The partitions, in their order on the disk.
    pub parts: Vec<Part>,
    /// The disk's size in MiB.
    pub disk_mib: u64,
    /// `bootloader --append=`.
    pub append: String,
    /// `bootloader --timeout=`, in seconds.
    pub timeout: u32,
    /// What was left out, for people.
    pub notes: Vec<String>,
}

impl Layout {
    /// The partition that is mounted at `mount`.
    #[must_use]
    pub fn mounted(&self, mount: &str) -> Option<&Part> {
        self.parts.iter().find(|part| part.mount.as_deref() == Some(mount))
    }

    /// The partition that `path` lies on.
    #[must_use]
    pub fn of(&self, path: &str) -> Option<&Part> {
        let holds = |mount: &str| {
            mount == "/" || path == mount || path.strip_prefix(mount).is_some_and(|rest| rest.starts_with('/'))
        };
        let parts = self.parts.iter().filter(|part| part.mount.as_deref().is_some_and(holds));
        parts.max_by_key(|part| part.mount.as_ref().map_or(0, String::len))
    }
}

/// A line of the kickstart that an image cannot have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1; 0: the whole.
    pub line: u32,
    /// What is wrong.
    pub message: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.line > 0 { write!(f, "kickstart:{}: {}", self.line, self.message) } else { f.write_str(&self.message) }
    }
}

/// A partition as the kickstart asks for it.
struct Wanted {
    part: Part,
    grow: bool,
}

/// The layout that `kickstart` asks for, on a disk of `disk_mib` or what it needs.
///
/// # Errors
/// All that an image cannot have, with its line.
pub fn layout(kickstart: &Kickstart, arch: &str, disk_mib: Option<u64>) -> Result<Layout, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut wanted: Vec<Wanted> = Vec::new();
    let mut layout = Layout { parts: Vec::new(), disk_mib: 0, append: String::new(), timeout: 1, notes: Vec::new() };
    for command in &kickstart.commands {
        let mut refuse = |message: String| problems.push(Problem { line: command.line, message });
        match command.name.as_str() {
            "part" | "partition" => match part(command, &mut layout.notes) {
                Ok(part) if part.part.mount.is_some() && wanted.iter().any(|w| w.part.mount == part.part.mount) => {
                    refuse(format!("two partitions are mounted at {}", part.part.name()));
                }
                Ok(part) => wanted.push(part),
                Err(message) => refuse(message),
            },
            "autopart" if command.args.iter().any(|arg| arg == "--encrypted") => {
                refuse("an image cannot be encrypted; encrypt the volume or the snapshot".into());
            }
            "raid" | "volgroup" | "logvol" | "btrfs" | "mount" => {
                refuse(format!(
                    "`{}` is for machines with disks of their own; an image has plain partitions",
                    command.name
                ));
            }
            "bootloader" => {
                let option = |name| option(command, name);
                if let Some(append) = option("--append") {
                    layout.append = append;
                }
                match option("--timeout").map(|timeout| timeout.parse()) {
                    Some(Ok(timeout)) => layout.timeout = timeout,
                    Some(Err(_)) => refuse("--timeout is not a number of seconds".into()),
                    None => {}
                }
            }
            _ => {}
        }
    }
    let needs = |wanted: &[Wanted], holds| !wanted.iter().any(|w| w.part.holds == holds);
    let plain = |mount: Option<&str>, holds, mib| Part {
        number: 0,
        mount: mount.map(ToOwned::to_owned),
        holds,
        label: None,
        options: None,
        start_mib: 0,
        mib,
    };
    if !wanted.iter().any(|w| w.part.mount.as_deref() == Some("/")) {
        if wanted.iter().any(|w| w.part.mount.is_some()) && !kickstart.commands.iter().any(|c| c.name == "autopart") {
            problems.push(Problem { line: 0, message: "the kickstart has partitions, and none for /".into() });
        }
        let part = Part { label: Some("root".into()), ..plain(Some("/"), Holds::Ext("ext4"), AUTOMATIC_MIB) };
        wanted.push(Wanted { part, grow: true });
    }
    if needs(&wanted, Holds::Efi) {
        wanted.push(Wanted { part: plain(Some("/boot/efi"), Holds::Efi, EFI_MIB), grow: false });
    }
    if needs(&wanted, Holds::BiosBoot) && arch == "x86_64" {
        wanted.push(Wanted { part: plain(None, Holds::BiosBoot, 1), grow: false });
    }
    // What firmware needs comes first, what grows last, so that it can grow further with the volume.
    wanted.sort_by_key(|w| match (w.part.holds, w.grow) {
        (Holds::BiosBoot, _) => 0,
        (Holds::Efi, _) => 1,
        (_, false) => 2,
        (_, true) => 3,
    });
    let fixed: u64 = wanted.iter().map(|w| w.part.mib).fold(0, u64::saturating_add);
    // A MiB before for the table, and one behind for its copy.
    let least = fixed.saturating_add(2);
    let disk = disk_mib.unwrap_or(least);
    if least > MOST_MIB || disk > MOST_MIB {
        problems.push(Problem { line: 0, message: format!("the disk would have more than {MOST_MIB} MiB") });
    } else if disk < least {
        problems
            .push(Problem { line: 0, message: format!("the partitions need {least} MiB, the disk is to have {disk}") });
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let growing = wanted.iter().filter(|w| w.grow).count() as u64;
    let (mut rest, mut share, mut at) = (disk - least, growing, 1);
    for Wanted { mut part, grow } in wanted {
        if grow {
            let more = rest / share;
            part.mib += more;
            rest -= more;
            share -= 1;
        }
        part.start_mib = at;
        at += part.mib;
        layout.parts.push(part);
    }
    let firmware = |part: &Part| match part.holds {
        Holds::BiosBoot => 2,
        Holds::Efi => 1,
        _ => 0,
    };
    let mut order: Vec<usize> = (0..layout.parts.len()).collect();
    order.sort_by_key(|at| firmware(&layout.parts[*at]));
    for (number, at) in (1..).zip(order) {
        layout.parts[at].number = number;
    }
    layout.disk_mib = disk;
    Ok(layout)
}

/// The value of an option of `command`.
fn option(command: &Command, name: &str) -> Option<String> {
    rocks_common::kickstart::option_value(&command.args, name)
}

fn part(command: &Command, notes: &mut Vec<String>) -> Result<Wanted, String> {
    let option = |name| option(command, name);
    let flag = |name: &str| command.args.iter().any(|arg| arg == name);
    let mut words = command.args.iter();
    let place = loop {
        match words.next() {
            None => return Err("`part` has no mount point".into()),
            Some(word) if !word.starts_with("--") => break word.clone(),
            // Its value stands behind a blank.
            Some(word) if VALUED.contains(&word.as_str()) => drop(words.next()),
            Some(_) => {}
        }
    };
    for (refused, why) in [
        ("--encrypted", "an image cannot be encrypted; encrypt the volume or the snapshot"),
        ("--noformat", "an image has nothing on it that could be kept"),
        ("--onpart", "an image has nothing on it that could be kept"),
        ("--usepart", "an image has nothing on it that could be kept"),
    ] {
        if flag(refused) || option(refused).is_some() {
            return Err(format!("{refused}: {why}"));
        }
    }
    for ignored in ["--ondisk", "--ondrive", "--percent", "--maxsize", "--mkfsoptions", "--fsprofile"] {
        if option(ignored).is_some() {
            notes.push(format!("kickstart:{}: {ignored} was left out: an image has one disk of its own", command.line));
        }
    }
    if ["raid.", "pv.", "btrfs."].iter().any(|kind| place.starts_with(kind)) {
        return Err(format!("`{place}`: an image has plain partitions"));
    }
    let kind = option("--fstype");
    let holds = match (place.as_str(), kind.as_deref()) {
        ("swap", _) => Holds::Swap,
        ("biosboot", _) => Holds::BiosBoot,
        ("/boot/efi", None | Some("efi" | "vfat")) | (_, Some("efi")) => Holds::Efi,
        (_, None | Some("ext4" | "default")) => Holds::Ext("ext4"),
        (_, Some("ext3")) => Holds::Ext("ext3"),
        (_, Some("ext2")) => Holds::Ext("ext2"),
        (_, Some(other)) => return Err(format!("an image cannot have {other}; it can have ext2, ext3 and ext4")),
    };
    let mount = match holds {
        Holds::Swap | Holds::BiosBoot => None,
        Holds::Efi => Some("/boot/efi".to_owned()),
        Holds::Ext(_) => Some(mount_point(&place)?),
    };
    let mib = match option("--size") {
        Some(size) => size.parse().map_err(|_| "--size is not a number of MiB".to_owned())?,
        None if holds == Holds::BiosBoot => 1,
        None if holds == Holds::Swap => 1024,
        None => return Err("`part` has no --size".into()),
    };
    if mib == 0 || (holds == Holds::Efi && mib < 33) {
        return Err(format!("{mib} MiB are too few"));
    }
    let label = option("--label");
    if label.as_ref().is_some_and(|label| label.len() > 16 || !label.bytes().all(|b| b.is_ascii_graphic())) {
        return Err("a label has at most 16 characters without blanks".into());
    }
    let options = option("--fsoptions");
    if options.as_ref().is_some_and(|options| options.contains(char::is_whitespace)) {
        return Err("--fsoptions has blanks".into());
    }
    let part = Part { number: 0, mount, holds, label, options, start_mib: 0, mib };
    Ok(Wanted { part, grow: flag("--grow") })
}

fn mount_point(place: &str) -> Result<String, String> {
    let plain = place.starts_with('/')
        && place.split('/').all(|part| part != ".." && part != ".")
        && !place.contains("//")
        && place.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'\\' | b'"' | b'\''));
    if !plain {
        return Err(format!("`{place}` is not a mount point"));
    }
    Ok(if place == "/" { place.to_owned() } else { place.trim_end_matches('/').to_owned() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rocks_common::diag::Source;
    use rocks_common::kickstart::{NoIncludes, parse};

    use super::*;

    fn of(text: &str, disk: Option<u64>) -> Result<Layout, Vec<Problem>> {
        let (kickstart, problems) = parse(&Source::new("t.ks", text), &mut NoIncludes);
        assert!(!problems.has_errors(), "{}", problems.render());
        layout(&kickstart, "x86_64", disk)
    }

    #[test]
    fn what_firmware_needs_is_there_and_the_root_is_number_one() {
        let text = "bootloader --timeout=3 --append=\"quiet x=1\"\nreqpart\npart / --fstype=ext4 --size=2048 --grow --label=root\n";
        let layout = of(text, None).expect("it can be had");
        let seen: Vec<_> = layout.parts.iter().map(|p| (p.number, p.holds, p.start_mib, p.mib)).collect();
        assert_eq!(seen, [(3, Holds::BiosBoot, 1, 1), (2, Holds::Efi, 2, 64), (1, Holds::Ext("ext4"), 66, 2048)]);
        assert_eq!((layout.disk_mib, layout.append.as_str(), layout.timeout), (2115, "quiet x=1", 3));
        assert_eq!(of(text, Some(4096)).expect("it can be had").mounted("/").map(|p| p.mib), Some(2048 + 4096 - 2115));
        assert_eq!(layout.of("/boot/grub2").map(|p| p.number), Some(1));
        assert_eq!(layout.of("/boot/efi/EFI").map(|p| p.number), Some(2));
    }

    #[test]
    fn every_line_that_an_image_cannot_have_is_told_with_its_number() {
        let text = "part --fstype xfs / --size=9\npart pv.1 --size=9\nlogvol /x --vgname=a --size=1 --name=b\npart /a --size=x\n\
                    part /b --size=1 --encrypted\npart /c/../d --size=1\npart /e --size=4 --onpart=sda1\n";
        let problems = of(text, None).expect_err("nothing of it can be had");
        let lines: Vec<u32> = problems.iter().map(|p| p.line).collect();
        assert_eq!(lines, [1, 2, 3, 4, 5, 6, 7]);
        assert!(problems[0].to_string().starts_with("kickstart:1: an image cannot have xfs"), "{}", problems[0]);
        assert!(of("part /home --size=5\n", None).is_err_and(|p| p[0].message.contains("none for /")));
        assert!(of("part / --size=500\n", Some(300)).is_err_and(|p| p[0].message.contains("need 567 MiB")));
    }

    proptest! {
        #[test]
        fn partitions_never_overlap_and_fill_the_disk(sizes in proptest::collection::vec((1_u64..5000, any::<bool>()), 1..8), more in 0_u64..9000) {
            let mut text = "part / --size=100 --grow\n".to_owned();
            for (number, (mib, grow)) in sizes.iter().enumerate() {
                text.push_str(&format!("part /m{number} --size={mib}{}\n", if *grow { " --grow" } else { "" }));
            }
            let least = of(&text, None).expect("it can be had").disk_mib;
            let layout = of(&text, Some(least + more)).expect("it can be had");
            let mut at = 1;
            for part in &layout.parts {
                prop_assert_eq!(part.start_mib, at);
                at += part.mib;
            }
            prop_assert_eq!(at + 1, layout.disk_mib);
        }
    }
}
