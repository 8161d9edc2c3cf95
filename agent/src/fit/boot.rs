//! Bootloaders: the kernel is told the same root as fstab, and where a cloud's console is.
//!
//! GRUB 2's configuration and its entries (`linux` lines, `kernelopts`), entries of the Boot Loader Specification, GRUB's own defaults,
//! GRUB Legacy, extlinux, and the command line that new kernels get.

use super::{Edit, FitError, View, grubenv};

/// What kernels are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel<'w> {
    /// `UUID=...`, `/dev/sda1`.
    pub root: &'w str,
    /// The root's PARTUUID, if a kernel that names the root by it may go on doing so: without an initramfs it knows no other lasting name.
    pub partuuid: Option<&'w str>,
    /// Whether the first network interface must be called `eth0`.
    pub eth0: bool,
    /// The root's UUID before and now, if it has another one: GRUB looks for it by that.
    pub uuids: Option<(&'w str, &'w str)>,
    /// Whether there is no partition table, so that GRUB Legacy must not look for one.
    pub bare: bool,
}

/// Arguments that make a kernel or its initramfs wait for disks that are not there.
const WAITS: [&str; 6] = ["resume=", "rd.lvm.lv=", "rd.lvm.vg=", "rd.luks.uuid=", "rd.md.uuid=", "rd.dm.uuid="];

/// How much of a command line a place holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// All of it: the root must be there.
    Whole,
    /// What is added to the rest, which is made elsewhere.
    Common,
    /// What is added for some entries only.
    Some,
}

/// Words of a command line; what stands in double quotes is one word.
fn words(text: &str) -> Vec<String> {
    let (mut all, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        quoted ^= c == '"';
        if c.is_ascii_whitespace() && !quoted {
            all.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty()));
        } else {
            word.push(c);
        }
    }
    all.extend(Some(word).filter(|word| !word.is_empty()));
    all
}

/// A command line as it should be; as it is if nothing is to be changed.
fn arguments(text: &str, kernel: &Kernel<'_>, part: Part) -> String {
    let old = words(text);
    // GRUB puts another variable in here, which is fitted where it is set.
    let is_elsewhere = old.iter().any(|word| word.contains("$kernelopts") || word.contains("${kernelopts}"));
    let part = if is_elsewhere && part == Part::Whole { Part::Some } else { part };
    let mut new: Vec<String> = Vec::new();
    let root = format!("root={}", kernel.root);
    let mut has_root = false;
    for word in &old {
        if word.starts_with("root=") {
            if !std::mem::replace(&mut has_root, true) {
                let named = word.strip_prefix("root=PARTUUID=").zip(kernel.partuuid);
                let stays = named.is_some_and(|(named, own)| named.eq_ignore_ascii_case(own));
                new.push(if stays { word.clone() } else { root.clone() });
            }
        } else if kernel.eth0 && word.starts_with("net.ifnames=") {
            new.push("net.ifnames=0".to_owned());
        } else if !WAITS.iter().any(|wait| word.starts_with(wait)) {
            new.push(word.clone());
        }
    }
    if !has_root && part == Part::Whole {
        new.insert(0, root);
    }
    if part != Part::Some {
        let at = |new: &[String], what: &str| new.iter().position(|word| word.starts_with(what));
        let is = |name: &str| format!("console={name}");
        let serial = at(&new, &is("ttyS0"));
        if !new.iter().any(|word| *word == is("tty0")) {
            // The last one is where the machine's own messages go: in a cloud that is the serial line.
            new.insert(serial.unwrap_or(new.len()), is("tty0"));
        }
        if serial.is_none() {
            new.push(is("ttyS0,115200n8"));
        }
        // Volumes that answer late must not be given up: Amazon's own advice for NVMe.
        if at(&new, "nvme_core.io_timeout=").is_none() {
            new.push("nvme_core.io_timeout=4294967295".to_owned());
        }
        if kernel.eth0 && at(&new, "net.ifnames=").is_none() {
            new.push("net.ifnames=0".to_owned());
        }
    }
    if new == old { text.to_owned() } else { new.join(" ") }
}

/// `line` taken apart behind its first `count` words.
fn behind(line: &str, count: usize) -> (&str, &str) {
    let (mut at, mut seen, mut inside) = (0, 0, false);
    for byte in line.bytes() {
        if byte.is_ascii_whitespace() {
            if std::mem::take(&mut inside) && seen == count {
                break;
            }
        } else if !std::mem::replace(&mut inside, true) {
            seen += 1;
        }
        at += 1;
    }
    line.split_at(at)
}

/// The arguments behind `head` fitted, with one blank between.
fn joined(head: &str, tail: &str, kernel: &Kernel<'_>, part: Part) -> String {
    let fitted = arguments(tail, kernel, part);
    if fitted == tail { format!("{head}{tail}") } else { format!("{head} {fitted}") }
}

fn each_line(text: &str, fit: impl Fn(&str) -> String) -> String {
    let mut out = String::with_capacity(text.len() + 256);
    for line in text.split_inclusive('\n') {
        let bare = line.trim_end_matches(['\n', '\r']);
        out.push_str(&fit(bare));
        out.push_str(&line[bare.len()..]);
    }
    out
}

/// Whether the file that an entry boots is a Linux kernel, and no memory test.
fn is_kernel(path: &str, arguments: &str) -> bool {
    let file = path.rsplit(['/', ')']).next().unwrap_or_default();
    let named = ["vmlinuz", "vmlinux", "linux", "kernel", "bzImage", "Image"].iter().any(|name| file.starts_with(name));
    named || words(arguments).iter().any(|word| word.starts_with("root="))
}

/// GRUB 2's `grub.cfg`.
#[must_use]
pub fn grub2(text: &str, kernel: &Kernel<'_>) -> String {
    each_line(text, |line| {
        let mut words = line.split_ascii_whitespace();
        let (word, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        match word {
            "linux" | "linux16" | "linuxefi" | "module" | "module2" => {
                let (head, tail) = behind(line, 2);
                if is_kernel(path, tail) { joined(head, tail, kernel, Part::Whole) } else { line.to_owned() }
            }
            "set" if path.starts_with("kernelopts=") => assigned(line, kernel, Part::Whole),
            "search" => match kernel.uuids {
                Some((old, new)) => line.replace(old, new),
                None => line.to_owned(),
            },
            _ => line.to_owned(),
        }
    })
}

/// An entry of the Boot Loader Specification.
#[must_use]
pub fn bls(text: &str, kernel: &Kernel<'_>) -> String {
    each_line(text, |line| {
        let (head, tail) = behind(line, 1);
        if head.trim_ascii() == "options" { joined(head, tail, kernel, Part::Whole) } else { line.to_owned() }
    })
}

/// GRUB Legacy's `menu.lst`. Debian's keeps the arguments for new kernels in a comment.
#[must_use]
pub fn legacy(text: &str, kernel: &Kernel<'_>) -> String {
    each_line(text, |line| {
        let line = if kernel.bare { line.replace("(hd0,0)", "(hd0)") } else { line.to_owned() };
        let mut words = line.split_ascii_whitespace();
        let (word, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (head, tail) = behind(&line, 2);
        if matches!(word, "kernel" | "module") && is_kernel(path, tail) {
            return joined(head, tail, kernel, Part::Whole);
        }
        match line.strip_prefix("# kopt=") {
            Some(rest) => format!("# kopt={}", arguments(rest, kernel, Part::Whole)),
            None => line,
        }
    })
}

/// extlinux's configuration.
#[must_use]
pub fn extlinux(text: &str, kernel: &Kernel<'_>) -> String {
    each_line(text, |line| {
        let (head, tail) = behind(line, 1);
        let is_append = head.trim_ascii().eq_ignore_ascii_case("append");
        if is_append && is_kernel("", tail) { joined(head, tail, kernel, Part::Whole) } else { line.to_owned() }
    })
}

/// `NAME="arguments"`, in either kind of quotes or none.
fn assigned(line: &str, kernel: &Kernel<'_>, part: Part) -> String {
    let Some((name, value)) = line.split_once('=') else { return line.to_owned() };
    let value = value.trim_ascii();
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\'')).unwrap_or('"');
    let inner = value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)).unwrap_or(value);
    let fitted = arguments(inner, kernel, part);
    if fitted == inner { line.to_owned() } else { format!("{name}={quote}{fitted}{quote}") }
}

/// `/etc/default/grub`, from which GRUB's configuration is made when the next kernel comes.
#[must_use]
pub fn defaults(text: &str, kernel: &Kernel<'_>) -> String {
    let mut out = each_line(text, |line| match line.split_once('=').map(|(name, _)| name.trim_ascii()) {
        Some("GRUB_CMDLINE_LINUX") => assigned(line, kernel, Part::Common),
        Some("GRUB_CMDLINE_LINUX_DEFAULT") => assigned(line, kernel, Part::Some),
        // It would name the root by its device again.
        Some("GRUB_DISABLE_LINUX_UUID") if kernel.root.starts_with("UUID=") => format!("#{line}"),
        _ => line.to_owned(),
    });
    if !out.lines().any(|line| line.starts_with("GRUB_CMDLINE_LINUX=")) {
        if !out.is_empty() && !out.ends_with('\n') {
            out.push('\n');
        }
        out.push_str(&format!("GRUB_CMDLINE_LINUX=\"{}\"\n", arguments("", kernel, Part::Common)));
    }
    out
}

/// `/etc/kernel/cmdline`, which is one command line.
#[must_use]
pub fn command_line(text: &str, kernel: &Kernel<'_>) -> String {
    let bare = text.trim_ascii_end();
    format!("{}{}", arguments(bare, kernel, Part::Whole), &text[bare.len()..])
}

type Fit = fn(&str, &Kernel<'_>) -> String;

/// All that boots the root, fitted.
///
/// # Errors
/// A file cannot be read, or has no room.
pub fn edits(view: &dyn View, kernel: &Kernel<'_>) -> Result<Vec<Edit>, FitError> {
    let mut files: Vec<(String, Fit)> = Vec::new();
    let mut add = |path: String, fit: Fit| files.push((path, fit));
    for folder in ["boot/grub2", "boot/grub"] {
        add(format!("{folder}/grub.cfg"), grub2);
        add(format!("{folder}/menu.lst"), legacy);
        add(format!("{folder}/grub.conf"), legacy);
    }
    for esp in ["boot/efi/EFI", "efi/EFI"] {
        for vendor in view.names(esp)? {
            add(format!("{esp}/{vendor}/grub.cfg"), grub2);
        }
    }
    for folder in ["boot/loader/entries", "boot/efi/loader/entries", "efi/loader/entries"] {
        for name in view.names(folder)?.into_iter().filter(|name| name.ends_with(".conf")) {
            add(format!("{folder}/{name}"), bls);
        }
    }
    for path in ["boot/extlinux/extlinux.conf", "boot/extlinux.conf", "boot/syslinux/syslinux.cfg"] {
        add(path.to_owned(), extlinux);
    }
    add("etc/kernel/cmdline".to_owned(), command_line);
    add("etc/default/grub".to_owned(), defaults);
    let mut edits: Vec<Edit> = Vec::new();
    for (path, fit) in files {
        let Some(text) = view.text(&path)? else { continue };
        let fitted = fit(&text, kernel);
        if fitted != text {
            edits.push(Edit::write(&path, fitted, 0o644, format!("kernels boot with root={}", kernel.root)));
        }
    }
    let mut blocks = vec!["boot/grub2/grubenv".to_owned(), "boot/grub/grubenv".to_owned()];
    for vendor in view.names("boot/efi/EFI")? {
        blocks.push(format!("boot/efi/EFI/{vendor}/grubenv"));
    }
    for path in blocks {
        let Some(text) = view.text(&path)? else { continue };
        let fitted = grubenv::change(&text, "kernelopts", |options| arguments(options, kernel, Part::Whole));
        let fitted = fitted.map_err(|why| FitError::File { path: path.clone(), why: why.to_owned() })?;
        if let Some(fitted) = fitted.filter(|fitted| *fitted != text) {
            edits.push(Edit::write(&path, fitted, 0o644, format!("kernels boot with root={}", kernel.root)));
        }
    }
    Ok(edits)
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::*;

    const KERNEL: Kernel<'_> =
        Kernel { root: "UUID=new", partuuid: Some("p-1"), eth0: false, uuids: None, bare: false };
    const ADDED: &str = "console=tty0 console=ttyS0,115200n8 nvme_core.io_timeout=4294967295";

    #[test]
    fn a_command_line_gets_the_root_and_the_console_once() {
        let fit = |text| arguments(text, &KERNEL, Part::Whole);
        assert_eq!(fit("ro quiet"), format!("root=UUID=new ro quiet {ADDED}"));
        assert_eq!(
            fit("root=/dev/sda3 ro rd.lvm.lv=vg/root resume=UUID=x dyndbg=\"file x +p\" root=twice"),
            format!("root=UUID=new ro dyndbg=\"file x +p\" {ADDED}")
        );
        assert_eq!(
            fit("root=UUID=new console=ttyS0,9600"),
            "root=UUID=new console=tty0 console=ttyS0,9600 nvme_core.io_timeout=4294967295"
        );
        assert_eq!(fit("root=PARTUUID=P-1 ro"), format!("root=PARTUUID=P-1 ro {ADDED}"));
        assert_eq!(fit("root=PARTUUID=p-2 ro"), format!("root=UUID=new ro {ADDED}"));
        let fitted = fit("ro");
        assert_eq!(fit(&fitted), fitted);
        let named = arguments("ro net.ifnames=1", &Kernel { eth0: true, ..KERNEL }, Part::Common);
        assert_eq!(named, format!("ro net.ifnames=0 {ADDED}"));
        assert_eq!(arguments("quiet", &KERNEL, Part::Some), "quiet");
    }

    #[test]
    fn grub_2_is_changed_where_kernels_stand_and_nowhere_else() {
        let text = "set kernelopts=\"root=/dev/vda3 ro \"\nmenuentry 'é' {\n\tsearch --no-floppy --fs-uuid --set=root old\n\
                    \tlinux\t/boot/vmlinuz-6 root=/dev/vda3 ro  quiet\n\tlinux16 /boot/memtest86+.bin\n\tinitrd /boot/initrd\n}\n\
                    linuxefi ($root)/vmlinuz-5 $kernelopts\n";
        let kernel = Kernel { uuids: Some(("old", "new")), ..KERNEL };
        let want = format!(
            "set kernelopts=\"root=UUID=new ro {ADDED}\"\nmenuentry 'é' {{\n\tsearch --no-floppy --fs-uuid --set=root new\n\
             \tlinux\t/boot/vmlinuz-6 root=UUID=new ro quiet {ADDED}\n\tlinux16 /boot/memtest86+.bin\n\tinitrd /boot/initrd\n}}\n\
             linuxefi ($root)/vmlinuz-5 $kernelopts\n"
        );
        assert_eq!(grub2(text, &kernel), want);
        assert_eq!(grub2(&want, &kernel), want);
    }

    #[test]
    fn the_other_loaders() {
        let text = "title x\nversion 5\noptions root=/dev/sda1 ro\n";
        assert_eq!(bls(text, &KERNEL), format!("title x\nversion 5\noptions root=UUID=new ro {ADDED}\n"));
        let text = "options $kernelopts $tuned_params";
        assert_eq!(bls(text, &KERNEL), text);
        let text = "# kopt=root=/dev/sda1 ro\ntitle a\n\troot (hd0,0)\n\tkernel /boot/vmlinuz root=/dev/sda1\n";
        let bare = Kernel { bare: true, root: "/dev/sda1", ..KERNEL };
        assert_eq!(
            legacy(text, &bare),
            format!(
                "# kopt=root=/dev/sda1 ro {ADDED}\ntitle a\n\troot (hd0)\n\tkernel /boot/vmlinuz root=/dev/sda1 {ADDED}\n"
            )
        );
        let text = "LABEL x\n  APPEND root=/dev/sda1 ro\n";
        assert_eq!(extlinux(text, &KERNEL), format!("LABEL x\n  APPEND root=UUID=new ro {ADDED}\n"));
        let text = "GRUB_CMDLINE_LINUX='quiet'\nGRUB_CMDLINE_LINUX_DEFAULT=\"splash root=/dev/x\"\nGRUB_DISABLE_LINUX_UUID=true\n";
        let want = format!(
            "GRUB_CMDLINE_LINUX='quiet {ADDED}'\nGRUB_CMDLINE_LINUX_DEFAULT=\"splash root=UUID=new\"\n#GRUB_DISABLE_LINUX_UUID=true\n"
        );
        assert_eq!(defaults(text, &KERNEL), want);
        assert_eq!(defaults(&want, &KERNEL), want);
        assert_eq!(defaults("", &KERNEL), format!("GRUB_CMDLINE_LINUX=\"{ADDED}\"\n"));
        assert_eq!(command_line("ro\n", &KERNEL), format!("root=UUID=new ro {ADDED}\n"));
    }

    #[test]
    fn everything_that_boots_is_found_and_fitted_once() {
        let block = grubenv::tests::block("saved_entry=0\nkernelopts=root=/dev/vda1 ro \n");
        let mut root = Fake::new(&[
            ("boot/grub2/grub.cfg", "linux /vmlinuz root=/dev/vda1\n"),
            ("boot/grub2/grubenv", &block),
            ("boot/loader/entries/a.conf", "options root=/dev/vda1\n"),
            ("boot/loader/entries/a.conf.rpmsave", "options root=/dev/vda1\n"),
            ("boot/efi/EFI/rocky/grub.cfg", "linuxefi /vmlinuz root=/dev/vda1\n"),
            ("etc/default/grub", "GRUB_CMDLINE_LINUX=\"\"\n"),
        ]);
        let first = edits(&root, &KERNEL).expect("read");
        let paths: Vec<&str> = first.iter().map(|edit| edit.path.as_str()).collect();
        let want = [
            "boot/grub2/grub.cfg",
            "boot/efi/EFI/rocky/grub.cfg",
            "boot/loader/entries/a.conf",
            "etc/default/grub",
            "boot/grub2/grubenv",
        ];
        assert_eq!(paths, want);
        root.apply(&first);
        assert_eq!(root.0["boot/grub2/grubenv"].len(), 1024);
        assert_eq!(edits(&root, &KERNEL).expect("read"), []);
    }
}
