//! What firmware, boot loader and kernel read: pure text and bytes.
//!
//! For BIOS the first sector holds GRUB's `boot.img`, which loads the core image from the BIOS boot partition; both hold the sector number of
//! what comes next, and setting those is all that `grub-install` does there beside asking the firmware of the machine it runs on, which
//! is not the one that the image is for.

use uuid::Uuid;

use super::layout::{Holds, Layout, SECTOR};

/// Where the first sector of the core image stands in `boot.img` (GRUB 2, `GRUB_BOOT_MACHINE_KERNEL_SECTOR`).
const KERNEL_SECTOR: usize = 0x5c;
/// Where `boot.img` jumps over its check of the drive number; firmware that lies about it is common (`GRUB_BOOT_MACHINE_DRIVE_CHECK`).
const DRIVE_CHECK: usize = 0x66;
/// The bytes of the first sector that are code; the partition table's follow.
pub(super) const BOOT_CODE: usize = 440;
/// Where the sector of the rest stands in the first sector of a core image (`diskboot.img`: the last block list entry).
const REST_SECTOR: usize = SECTOR as usize - 12;

/// The modules that are in the core image, so that nothing has to be found to read the configuration.
pub(super) const MODULES: [&str; 14] = [
    "part_gpt",
    "ext2",
    "fat",
    "normal",
    "configfile",
    "search",
    "search_fs_uuid",
    "linux",
    "echo",
    "test",
    "serial",
    "terminal",
    "ls",
    "reboot",
];
/// The same, where they are there and not needed everywhere.
pub(super) const EXTRA_MODULES: [&str; 5] = ["gzio", "minicmd", "halt", "all_video", "blscfg"];

/// What the kernel is always told: where to write, and on Nitro instances to wait for a volume however long it takes
/// (Amazon EC2 User Guide, "Amazon EBS volumes and NVMe": I/O operation timeout).
const ALWAYS: [&str; 3] = ["console=tty0", "console=ttyS0,115200n8", "nvme_core.io_timeout=4294967295"];

/// A kernel that can be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kernel {
    /// Its version, as `uname -r` says it.
    pub(super) version: String,
    /// Its path from the root.
    pub(super) image: String,
    /// The path of its first file system, if it has one.
    pub(super) initrd: Option<String>,
}

/// The first sector's code and the core image, told where they are. `core` begins at sector `at`.
///
/// # Errors
/// They are not what they should be.
pub(super) fn bios(boot: &[u8], core: &[u8], at: u64) -> Result<([u8; BOOT_CODE], Vec<u8>), &'static str> {
    let code: &[u8; 512] = boot.try_into().map_err(|_| "boot.img does not have 512 bytes")?;
    if core.len() < 2 * SECTOR as usize {
        return Err("the core image is too short");
    }
    let mut first = [0; BOOT_CODE];
    first.copy_from_slice(&code[..BOOT_CODE]);
    first[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&at.to_le_bytes());
    first[DRIVE_CHECK..DRIVE_CHECK + 2].copy_from_slice(&[0x90, 0x90]);
    let mut core = core.to_vec();
    core[REST_SECTOR..REST_SECTOR + 8].copy_from_slice(&(at + 1).to_le_bytes());
    Ok((first, core))
}

/// The configuration inside the core image: find the file system that `folder` lies on, and go on there.
pub(super) fn early(file_system: Uuid, folder: &str) -> String {
    format!("search.fs_uuid {file_system} root\nset prefix=($root){folder}\nconfigfile $prefix/grub.cfg\n")
}

/// What the kernel is told.
pub(super) fn command_line(root: &str, append: &str) -> String {
    let mut words = vec![root, "ro"];
    let given: Vec<&str> = append.split_whitespace().collect();
    words.extend(ALWAYS.into_iter().filter(|always| {
        let name = always.split('=').next().unwrap_or(always);
        // Two consoles are one setting: who names one names all.
        !given.iter().any(|word| word.split('=').next() == Some(name))
    }));
    words.extend(given);
    words.join(" ")
}

/// `grub.cfg`. `below` is the path of the kernels' folder as the boot loader sees it; with `entries` the boot loader reads the files of
/// the Boot Loader Specification, which the distribution's kernels bring and remove.
pub(super) fn menu(kernels: &[Kernel], title: &str, strip: &str, line: &str, timeout: u32, entries: bool) -> String {
    let title: String = title.chars().filter(|c| !c.is_control() && *c != '"' && *c != '\'' && *c != '$').collect();
    let mut text = format!(
        "# Written by the image builder of Rocks.\nserial --unit=0 --speed=115200\nterminal_input serial console\n\
         terminal_output serial console\nset timeout={timeout}\nset default=0\n"
    );
    if entries {
        text.push_str(&format!("set kernelopts=\"{line}\"\ninsmod blscfg\nblscfg\n"));
        return text;
    }
    let seen = |path: &str| path.strip_prefix(strip).unwrap_or(path).to_owned();
    for kernel in kernels {
        let Kernel { version, image, initrd } = kernel;
        text.push_str(&format!("menuentry '{title} ({version})' {{\n\tlinux {} {line}\n", seen(image)));
        if let Some(initrd) = initrd {
            text.push_str(&format!("\tinitrd {}\n", seen(initrd)));
        }
        text.push_str("}\n");
    }
    text
}

/// An entry of the Boot Loader Specification with our command line.
pub(super) fn entry(text: &str, line: &str) -> String {
    let mut out = String::new();
    let mut found = false;
    for old in text.lines() {
        if old.split_whitespace().next() == Some("options") {
            found = true;
            out.push_str(&format!("options {line}\n"));
        } else {
            out.push_str(&format!("{old}\n"));
        }
    }
    if !found {
        out.push_str(&format!("options {line}\n"));
    }
    out
}

/// `/etc/fstab`.
pub(super) fn fstab(layout: &Layout, uuid: &dyn Fn(&str) -> Uuid, serial: &dyn Fn(&str) -> u32) -> String {
    let mut parts: Vec<_> = layout.parts.iter().filter(|part| part.holds != Holds::BiosBoot).collect();
    // A mount point before what is mounted below it, swap last.
    parts.sort_by_key(|part| part.mount.clone().unwrap_or_else(|| "~".to_owned()));
    let mut text = String::from("# Written by the image builder of Rocks.\n");
    for part in parts {
        let name = part.name();
        let source = match part.holds {
            Holds::Efi => {
                let serial = serial(&name);
                format!("UUID={:04X}-{:04X}", serial >> 16, serial & 0xffff)
            }
            _ => format!("UUID={}", uuid(&name)),
        };
        let options = part.options.as_deref();
        let (place, kind, options, pass) = match part.holds {
            Holds::Swap => ("none", "swap", options.unwrap_or("sw"), 0),
            Holds::Efi => (name.as_str(), "vfat", options.unwrap_or("umask=0077,shortname=winnt,nofail"), 2),
            Holds::Ext(kind) => (name.as_str(), kind, options.unwrap_or("defaults"), if name == "/" { 1 } else { 2 }),
            Holds::BiosBoot => continue,
        };
        text.push_str(&format!("{source} {place} {kind} {options} 0 {pass}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_stages_are_told_where_the_next_one_is() {
        let (boot, core) = (vec![7; 512], vec![9; 2048]);
        let (first, second) = bios(&boot, &core, 0x1_2345).expect("they are long enough");
        assert_eq!(first[0x5c..0x64], [0x45, 0x23, 1, 0, 0, 0, 0, 0]);
        assert_eq!(second[0x1f4..0x1fc], [0x46, 0x23, 1, 0, 0, 0, 0, 0]);
        assert_eq!((first[0x66], first[0x67], first[0x68], second[0x1fc]), (0x90, 0x90, 7, 9));
        assert!(bios(&boot[1..], &core, 1).is_err() && bios(&boot, &core[..600], 1).is_err());
    }

    #[test]
    fn the_command_line_and_the_menu() {
        let line = command_line("root=UUID=x", "quiet console=hvc0");
        assert_eq!(line, "root=UUID=x ro nvme_core.io_timeout=4294967295 quiet console=hvc0");
        let kernel = Kernel { version: "6.1".into(), image: "/boot/vmlinuz-6.1".into(), initrd: None };
        let text = menu(&[kernel], "It's $HOME", "/boot", &line, 1, false);
        assert!(text.contains("menuentry 'Its HOME (6.1)' {\n\tlinux /vmlinuz-6.1 root=UUID=x ro"), "{text}");
        assert_eq!(entry("title a\noptions old\nlinux b\n", "new"), "title a\noptions new\nlinux b\n");
        assert_eq!(entry("title a\n", "new"), "title a\noptions new\n");
    }

    #[test]
    fn the_table_of_file_systems_names_them_by_what_they_are() {
        let text = "part / --size=100\npart /home --size=9 --fsoptions=nodev\npart swap --size=9\n";
        let (kickstart, _) = rocks_common::kickstart::parse(
            &rocks_common::diag::Source::new("t", text),
            &mut rocks_common::kickstart::NoIncludes,
        );
        let layout = super::super::layout::layout(&kickstart, "aarch64", None).expect("it can be had");
        let table = fstab(&layout, &|_| Uuid::nil(), &|_| 0x0012_abcd);
        let nil = Uuid::nil();
        assert_eq!(
            table.lines().skip(1).collect::<Vec<_>>(),
            [
                format!("UUID={nil} / ext4 defaults 0 1"),
                "UUID=0012-ABCD /boot/efi vfat umask=0077,shortname=winnt,nofail 0 2".to_owned(),
                format!("UUID={nil} /home ext4 nodev 0 2"),
                format!("UUID={nil} none swap sw 0 0"),
            ]
        );
    }
}
