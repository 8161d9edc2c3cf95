//! File systems that are mounted at no place: nobody else sees them, no path leads there, and when whoever holds one ends, however that
//! happens, the kernel unmounts it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::AtFlags;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};

/// The file system that a tree is the root of: what a new one in its place should be called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Origin {
    /// Its UUID; zeros if it has none.
    pub uuid: [u8; 16],
    /// Its label, with zeros behind; nothing but zeros if it has none.
    pub label: [u8; 16],
}

impl Origin {
    /// What an ext2, ext3, ext4 or XFS file system at `place` of an image says of itself.
    ///
    /// # Errors
    /// The image cannot be read.
    pub fn of(image: &File, place: &Range<u64>) -> io::Result<Option<Self>> {
        let names = match crate::image::names(image, place)? {
            None => crate::image::xfs_names(image, place)?,
            some => some,
        };
        Ok(names.map(|(uuid, label)| Self { uuid, label }))
    }

    /// The UUID as programs print and take it.
    #[must_use]
    pub fn uuid_text(&self) -> Option<String> {
        let hex: String = self.uuid.iter().map(|byte| format!("{byte:02x}")).collect();
        let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
        (self.uuid != [0; 16]).then(|| parts.join("-"))
    }

    /// The label, if it is one that can stand in a command.
    #[must_use]
    pub fn label_text(&self) -> Option<&str> {
        let end = self.label.iter().position(|byte| *byte == 0).unwrap_or(self.label.len());
        let text = str::from_utf8(&self.label[..end]).ok()?;
        (!text.is_empty() && !text.starts_with('-') && !text.chars().any(char::is_control)).then_some(text)
    }
}

/// A mounted file system. It is unmounted when this is dropped, and whatever was opened on it.
#[derive(Debug)]
pub struct Mounted {
    root: OwnedFd,
}

impl Mounted {
    /// Mounts the file system of `kind` that is on `device`. Nothing on it can be run or used as a device. Needs Linux 5.2 and the
    /// right to mount.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn mount(kind: &str, device: &Path, writable: bool) -> io::Result<Self> {
        let system = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&system, "source", device)?;
        let mut attributes =
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        if kind == "xfs" {
            // The same root may be mounted already: a source beside its copy, or this machine's own.
            fsconfig_set_flag(&system, "nouuid")?;
        }
        if !writable {
            fsconfig_set_flag(&system, "ro")?;
            attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
        }
        fsconfig_create(&system)?;
        Ok(Self { root: fsmount(&system, FsMountFlags::FSMOUNT_CLOEXEC, attributes)? })
    }

    /// Whether it looks like the root of a Linux system: it has `etc`, and `usr` or `bin`.
    #[must_use]
    pub fn is_root(&self) -> bool {
        let has = |name: &str| rustix::fs::statat(&self.root, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        has("etc") && (has("usr") || has("bin"))
    }

    pub(super) const fn root(&self) -> &OwnedFd {
        &self.root
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_file_systems_are_texts_or_nothing() {
        let none = Origin::default();
        assert_eq!((none.uuid_text(), none.label_text()), (None, None));
        let mut some = Origin { uuid: [0xab; 16], label: *b"/\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0" };
        assert_eq!(some.uuid_text().as_deref(), Some("abababab-abab-abab-abab-abababababab"));
        assert_eq!(some.label_text(), Some("/"));
        for bad in [b"-x", b"\x1bc", b"\xff\xff"] {
            some.label[..2].copy_from_slice(bad);
            assert_eq!(some.label_text(), None);
        }
    }
}
