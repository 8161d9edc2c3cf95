//! `/etc/fstab`: the root under the name that it will have, nothing on disks that will not be there.

use std::ops::Range;

use super::{Disk, Volume};

/// What became of an fstab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fstab {
    /// Its text now.
    pub text: String,
    /// What was left out, and why.
    pub notes: Vec<String>,
    /// What the root was called before.
    pub old_root: Option<String>,
}

/// One line's fields, where they stand in it.
fn fields(line: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut from = None;
    for (at, byte) in line.bytes().enumerate() {
        match (byte.is_ascii_whitespace(), from) {
            (false, None) => from = Some(at),
            (true, Some(start)) => {
                found.push(start..at);
                from = None;
            }
            _ => {}
        }
    }
    if let Some(start) = from {
        found.push(start..line.len());
    }
    found
}

/// A line of fstab that says something: what is mounted, where, as what, how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'l> {
    /// `UUID=...`, `/dev/sda1`, `tmpfs`.
    pub spec: &'l str,
    /// The mount point.
    pub place: &'l str,
    /// The file system.
    pub kind: &'l str,
    /// The options.
    pub options: &'l str,
}

impl<'l> Entry<'l> {
    fn of(line: &'l str) -> Option<Self> {
        let at = fields(line);
        let word = |n: usize| at.get(n).map_or("", |range: &Range<usize>| &line[range.clone()]);
        let says = at.len() >= 2 && !line[at[0].clone()].starts_with('#');
        says.then(|| Self { spec: word(0), place: word(1), kind: word(2), options: word(3) })
    }

    /// Whether a machine starts when it is not there.
    fn may_be_missing(&self) -> bool {
        self.options.split(',').any(|option| matches!(option, "nofail" | "noauto"))
    }
}

/// The entries of an fstab.
pub fn entries(text: &str) -> impl Iterator<Item = Entry<'_>> {
    text.lines().filter_map(Entry::of)
}

/// What names a volume, apart from the disk that it is on.
#[derive(Debug, PartialEq, Eq)]
enum Name<'s> {
    Uuid(&'s str),
    Label(&'s str),
    /// The disk and the partition on it.
    Partition(&'s str, u32),
    /// Some other disk, whole or of a volume manager.
    Device,
    /// A name of the partition itself, which travels with the partition table; no disk at all; another machine.
    Other,
}

fn name(spec: &str) -> Name<'_> {
    let quoted =
        |text: &'_ str| -> usize { usize::from(text.len() > 1 && text.starts_with('"') && text.ends_with('"')) };
    let bare = |text| -> &str {
        let text: &str = text;
        &text[quoted(text)..text.len() - quoted(text)]
    };
    if let Some(uuid) = spec.strip_prefix("UUID=").or_else(|| spec.strip_prefix("/dev/disk/by-uuid/")) {
        return Name::Uuid(bare(uuid));
    }
    if let Some(label) = spec.strip_prefix("LABEL=").or_else(|| spec.strip_prefix("/dev/disk/by-label/")) {
        return Name::Label(bare(label));
    }
    let Some(device) = spec.strip_prefix("/dev/") else { return Name::Other };
    let digits = device.len() - device.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (disk, number) = device.split_at(digits);
    let letters = |prefix: &str| {
        disk.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_lowercase()))
    };
    if let Ok(number) = number.parse() {
        if ["sd", "vd", "hd", "xvd"].iter().any(|prefix| letters(prefix)) {
            return Name::Partition(disk, number);
        }
        let numbered = disk.strip_suffix('p').filter(|disk| disk.ends_with(|c: char| c.is_ascii_digit()));
        if let Some(disk) = numbered.filter(|disk| disk.starts_with("nvme") || disk.starts_with("mmcblk")) {
            return Name::Partition(disk, number);
        }
    }
    Name::Device
}

/// The volume of `disk` that `spec` names, if it does; `own` is what the disk was called.
fn volume<'d>(spec: &str, disk: &'d Disk, own: Option<&str>) -> Option<&'d Volume> {
    let mut all = disk.volumes.iter();
    match name(spec) {
        Name::Uuid(uuid) => all.find(|v| v.uuid.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(uuid))),
        Name::Label(label) => all.find(|v| v.label.as_deref() == Some(label)),
        Name::Partition(on, number) if own.is_none_or(|own| own == on) => all.find(|v| v.number == Some(number)),
        _ => None,
    }
}

/// What the disk of the root was called: `sda`, if the root's line says that.
fn own_disk(text: &str) -> Option<&str> {
    match name(entries(text).find(|entry| entry.place == "/")?.spec) {
        Name::Partition(disk, _) => Some(disk),
        _ => None,
    }
}

/// The volumes of `disk` that an fstab mounts at one of `places`, the outer ones first.
#[must_use]
pub fn mounted_at<'d>(text: &str, disk: &'d Disk, places: &[&'static str]) -> Vec<(&'static str, &'d Volume)> {
    let find = |place: &&'static str| {
        let entry = entries(text).find(|entry| entry.place.trim_end_matches('/') == *place)?;
        let volume = volume(entry.spec, disk, own_disk(text))?;
        (Some(volume) != disk.root()).then_some((*place, volume))
    };
    places.iter().filter_map(find).collect()
}

/// Fits `text`: the root becomes `root`. `disk` is what is known of the disk; when nothing is known, only device names are dropped.
#[must_use]
pub fn fit(text: &str, root: &str, disk: Option<&Disk>) -> Fstab {
    let kind = disk.and_then(Disk::root).map(|volume| volume.kind);
    let own = own_disk(text);
    let (mut out, mut notes, mut old_root) = (String::new(), Vec::new(), None);
    for line in text.split_inclusive('\n') {
        let Some(entry) = Entry::of(line) else {
            out.push_str(line);
            continue;
        };
        let with = |n: usize, word: &str, line: &str| match fields(line).get(n) {
            Some(at) => format!("{}{word}{}", &line[..at.start], &line[at.end..]),
            None => line.to_owned(),
        };
        if entry.place == "/" && entry.kind != "swap" {
            if old_root.is_some() {
                notes.push(format!("fstab: a second entry for / was left out ({})", entry.spec));
                continue;
            }
            old_root = Some(entry.spec.to_owned());
            let line = with(0, root, line);
            out.push_str(&match kind {
                Some(kind) if kind != entry.kind && entry.kind != "auto" => with(2, kind, &line),
                _ => line,
            });
            continue;
        }
        let found = disk.and_then(|disk| volume(entry.spec, disk, own));
        let stays = match (name(entry.spec), disk) {
            (Name::Other, _) | (Name::Uuid(_) | Name::Label(_), None) => true,
            (Name::Uuid(_) | Name::Label(_), Some(_)) => found.is_some() || entry.may_be_missing(),
            (Name::Partition(..) | Name::Device, _) => entry.may_be_missing(),
        };
        match found.and_then(Volume::spec) {
            // A partition of this very disk, by a name that it will not have any more.
            Some(spec) if matches!(name(entry.spec), Name::Partition(..)) => {
                notes.push(format!("fstab: {} is {spec} now", entry.spec));
                out.push_str(&with(0, &spec, line));
            }
            _ if stays => out.push_str(line),
            _ => {
                let at = if entry.kind == "swap" { "swap" } else { entry.place };
                notes.push(format!("fstab: {} ({at}) was left out: it will not be there", entry.spec));
            }
        }
    }
    if old_root.is_none() {
        if !out.is_empty() && !out.ends_with('\n') {
            out.push('\n');
        }
        out.push_str(&format!("{root} / {} defaults 0 1\n", kind.unwrap_or("auto")));
    }
    Fstab { text: out, notes, old_root }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Disk {
        let volume = |number, kind, uuid: &str, label: Option<&str>| Volume {
            number: Some(number),
            bytes: 0..1,
            kind,
            uuid: Some(uuid.to_owned()),
            label: label.map(ToOwned::to_owned),
            partuuid: None,
        };
        let volumes = vec![
            volume(1, "vfat", "1234-ABCD", None),
            volume(2, "xfs", "b-o-o-t", Some("boot")),
            volume(3, "ext4", "r-o-o-t", None),
        ];
        Disk { volumes, root: 2 }
    }

    #[test]
    fn the_root_is_named_anew_and_missing_disks_are_left_out() {
        let text = "# a comment\n/dev/vda3\t/\text3\tdefaults,noatime\t1 1\n/dev/vda2 /boot xfs defaults 0 0\n\
                    UUID=1234-abcd /boot/efi vfat umask=77 0 0\n/dev/vda4 swap swap defaults 0 0\n\
                    /dev/mapper/vg-home /home ext4 defaults 0 0\nUUID=another /data xfs defaults 0 0\n\
                    UUID=some /usb xfs nofail 0 0\nLABEL=boot /b xfs ro 0 0\ntmpfs /tmp tmpfs size=1G 0 0\n\
                    srv:/x /net nfs _netdev 0 0\n/swapfile none swap sw 0 0\n/dev/vdb3 /other ext4 defaults 0 2\n\n";
        let fitted = fit(text, "UUID=r-o-o-t", Some(&disk()));
        let want = "# a comment\nUUID=r-o-o-t\t/\text4\tdefaults,noatime\t1 1\nUUID=b-o-o-t /boot xfs defaults 0 0\n\
                    UUID=1234-abcd /boot/efi vfat umask=77 0 0\n\
                    UUID=some /usb xfs nofail 0 0\nLABEL=boot /b xfs ro 0 0\ntmpfs /tmp tmpfs size=1G 0 0\n\
                    srv:/x /net nfs _netdev 0 0\n/swapfile none swap sw 0 0\n\n";
        assert_eq!(fitted.text, want);
        assert_eq!(fitted.old_root.as_deref(), Some("/dev/vda3"));
        assert_eq!(fitted.notes.len(), 5, "{:?}", fitted.notes);
        // Fitted again it stays as it is.
        let again = fit(want, "UUID=r-o-o-t", Some(&disk()));
        assert_eq!((again.text.as_str(), again.notes.len()), (want, 0));
        let at: Vec<_> =
            mounted_at(text, &disk(), &["/boot", "/boot/efi"]).into_iter().map(|(at, v)| (at, v.number)).collect();
        assert_eq!(at, [("/boot", Some(2)), ("/boot/efi", Some(1))]);
    }

    #[test]
    fn without_a_disk_only_device_names_go_and_without_a_root_there_is_one() {
        let fitted = fit("UUID=x /data xfs defaults 0 0\n/dev/sda1 /boot ext4 defaults 0 0", "/dev/sda1", None);
        assert_eq!(fitted.text, "UUID=x /data xfs defaults 0 0\n/dev/sda1 / auto defaults 0 1\n");
        assert_eq!(fit("", "LABEL=root", Some(&disk())).text, "LABEL=root / ext4 defaults 0 1\n");
    }

    #[test]
    fn names_are_told_apart() {
        assert_eq!(name("/dev/nvme0n1p2"), Name::Partition("nvme0n1", 2));
        assert_eq!(name("/dev/xvda1"), Name::Partition("xvda", 1));
        assert_eq!(name("UUID=\"x\""), Name::Uuid("x"));
        assert_eq!(name("/dev/md0"), Name::Device);
        assert_eq!(name("/dev/nvme0n1"), Name::Device);
        assert_eq!(name("PARTUUID=1-2"), Name::Other);
        assert_eq!(name("tmpfs"), Name::Other);
    }
}
