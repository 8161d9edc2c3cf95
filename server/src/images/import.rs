//! Images from files on this machine: raw ones are copied, qcow2 ones are converted.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use rocks_common::ids::{ApplianceName, ImageName};

use super::{Image, ImageError, Images, Meta, Origin, copy};
use crate::process::{self, Task};

/// How long a conversion may take.
const PATIENCE: Duration = Duration::from_secs(6 * 3600);
/// What a qcow2 file begins with.
const QCOW2: &[u8] = b"QFI\xfb";
/// Files that are no disks as they are, by what they begin with.
const OTHERS: [(&[u8], &str); 8] = [
    (b"KDMV", "VMDK"),
    (b"# Disk DescriptorFile", "VMDK"),
    (b"vhdxfile", "VHDX"),
    (b"conectix", "VHD"),
    (b"\x1f\x8b", "compressed (gzip)"),
    (b"\x28\xb5\x2f\xfd", "compressed (zstd)"),
    (b"\xfd7zXZ\0", "compressed (xz)"),
    (b"QED\0", "QED"),
];

/// What an image file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Raw,
    /// With so many bytes of disk in it.
    Qcow2(u64),
}

fn kind(path: &Path) -> Result<Kind, ImageError> {
    let refuse = |why: String| ImageError::Format { path: path.to_path_buf(), why };
    let file = File::open(path).map_err(ImageError::io(path))?;
    if !file.metadata().map_err(ImageError::io(path))?.is_file() {
        return Err(refuse("it is not a file".to_owned()));
    }
    let mut head = [0; 104];
    let length = file.read_at(&mut head, 0).map_err(ImageError::io(path))?;
    if length == 0 {
        return Err(refuse("it is empty".to_owned()));
    }
    if let Some((_, name)) = OTHERS.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Err(refuse(format!("it is {name}, not a raw disk")));
    }
    if !head.starts_with(QCOW2) {
        return Ok(Kind::Raw);
    }
    let number = |at: usize| head[at..].first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    // Such a file names others, and would bring in whatever those are.
    if number(8) != 0 {
        return Err(refuse("it has a backing file: make one file of both first".to_owned()));
    }
    let version = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    if version >= 3 && number(72) & 4 != 0 {
        return Err(refuse("its data are in another file: make one file of both first".to_owned()));
    }
    Ok(Kind::Qcow2(number(24)))
}

/// Makes the disk in `file` the image `name`. Blocks; `tell` hears of bytes done, and of how many.
///
/// # Errors
/// There is such an image, the file is of a kind that is not taken, or the file system's.
pub fn import(
    images: &Images,
    name: &ImageName,
    file: &Path,
    appliance: Option<ApplianceName>,
    tell: &dyn Fn(u64, u64),
) -> Result<Image, ImageError> {
    if images.get(name).is_ok() {
        return Err(ImageError::Exists(name.clone()));
    }
    let room = images.room()?;
    match kind(file)? {
        Kind::Raw => copy(file, &room.disk(), tell)?,
        Kind::Qcow2(bytes) => convert(file, &room.disk(), bytes)?,
    }
    let meta = Meta { appliance, from: Origin::Imported { file: file.to_path_buf() }, digest: None };
    images.publish(name, &room.disk(), &meta)
}

fn convert(from: &Path, to: &Path, bytes: u64) -> Result<(), ImageError> {
    let refuse = |why: String| ImageError::Format { path: from.to_path_buf(), why };
    let (source, target) = (from.display().to_string(), to.display().to_string());
    // A shell only to have its complaints, too; the names are words of their own.
    let script = "exec qemu-img convert -q -f qcow2 -O raw -S 64k -- \"$1\" \"$2\" 2>&1";
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    let task = Task {
        program: "/bin/sh",
        args: &["-c", script, "qemu-img", &source, &target],
        env: &[("PATH", &path), ("LC_ALL", "C.UTF-8")],
        folder: Path::new("/"),
        input: &[],
        identity: None,
        limit: PATIENCE,
        output_bytes: 64 << 10,
    };
    let (said, success) = process::run(&task).map_err(|error| refuse(format!("qemu-img: {error}")))?;
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    if said.contains("not found") {
        return Err(refuse(
            "it is qcow2, and there is no qemu-img here to convert it (qemu-utils, qemu-img)".to_owned(),
        ));
    }
    let made = File::open(to).and_then(|file| rocks_ship::image::length(&file)).unwrap_or(0);
    if success && made == bytes { Ok(()) } else { Err(refuse(format!("qemu-img could not convert it: {said}"))) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn raw_files_are_copied_and_what_is_no_disk_is_refused() {
        let state = tempfile::tempdir().expect("a folder");
        let images = Images::open(state.path()).expect("opened");
        let file = state.path().join("file");
        let mut bytes = vec![0; 300_000];
        bytes[200_000] = 7;
        fs::write(&file, &bytes).expect("written");
        let name: ImageName = "one".parse().expect("a name");
        let image = import(&images, &name, &file, None, &|_, _| {}).expect("imported");
        assert_eq!((image.bytes, image.from), (300_000, Origin::Imported { file: file.clone() }));
        assert_eq!(fs::read(images.disk(&name).expect("there")).expect("read"), bytes);
        assert!(matches!(import(&images, &name, &file, None, &|_, _| {}), Err(ImageError::Exists(_))));
        let other: ImageName = "two".parse().expect("a name");
        let mut backed = vec![0; 104];
        backed[..4].copy_from_slice(QCOW2);
        backed[7] = 3;
        backed[15] = 1;
        for bad in [&b"\x1f\x8b..."[..], b"", b"KDMV", &backed] {
            fs::write(&file, bad).expect("written");
            let refused = import(&images, &other, &file, None, &|_, _| {});
            assert!(matches!(refused, Err(ImageError::Format { .. })), "{bad:?}: {refused:?}");
        }
        assert!(images.list().expect("listed").len() == 1);
    }
}
