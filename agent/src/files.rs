//! Files that are whole or not there: written beside their place, flushed, renamed, their folder flushed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// What lets everybody read a file.
const PUBLIC: u32 = 0o004;

/// Writes `bytes` to `path` with the permissions `mode`, whatever the umask is. Folders that a file for everybody lacks
/// are for everybody too.
///
/// # Errors
/// The file system's; what was at `path` before is still there then.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    put(path, bytes, mode)?;
    flush_folder(path)
}

/// The same, without making the folder durable ([`flush_folder`]); gives the file, at its end. Whoever keeps it open
/// has it from the moment on at which it is at its place.
///
/// # Errors
/// The file system's; what was at `path` before is still there then.
pub fn put(path: &Path, bytes: &[u8], mode: u32) -> io::Result<File> {
    let folder = folder_of(path);
    make_folders(folder, mode & PUBLIC != 0)?;
    let name = path.file_name().ok_or_else(|| io::Error::other("the path has no file name"))?;
    let beside = folder.join(format!(".{}.new", name.to_string_lossy()));
    // What a killed agent left there may have other permissions.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let result = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        // What the umask takes from a mode at creation, it does not take here.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        Ok(file)
    })();
    if result.is_err() {
        let _ = fs::remove_file(&beside);
    }
    result
}

fn make_folders(folder: &Path, is_public: bool) -> io::Result<()> {
    if !is_public || folder.as_os_str().is_empty() || folder.is_dir() {
        return fs::create_dir_all(folder);
    }
    make_folders(folder_of(folder), is_public)?;
    match fs::create_dir(folder) {
        Ok(()) => fs::set_permissions(folder, fs::Permissions::from_mode(0o755)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes durable what the folder of `path` says of it.
///
/// # Errors
/// The file system's.
pub fn flush_folder(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

/// Reads `path`; nothing if it is not there.
///
/// # Errors
/// The file system's, or more than `limit` bytes.
pub fn read(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("{} has more than {limit} bytes", path.display())));
    }
    Ok(Some(bytes))
}
