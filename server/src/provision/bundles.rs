//! What an image becomes on its way into S3, as files in the state folder: a compressed disk that is sent in parts, or a bundle. They stay until they are
//! sent, so that a frontend which is killed does not make them, or send what is there, again.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::UNIX_EPOCH;

use rocks_bundle::{Account, Certificate, Job, Machine, Map, PART_BYTES, Part, Prefix, PrivateKey};
use rocks_provision::engine::{Piece, Pieces};
use rocks_provision::objects::MOST_PARTS;
use sha2::{Digest as _, Sha256};

use crate::images::vmdk;

/// What the disk is called.
const DISK: &str = "disk.vmdk";
/// What folders that are not finished end with.
const SCRATCH: &str = ".new";
/// The largest file that a key or a certificate is in.
const KEY_BYTES: u64 = 1 << 20;

/// Who signs bundles, and who is to open them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signer {
    /// The account that they belong to.
    pub(super) account: String,
    /// Its certificate (PEM).
    pub(super) certificate: PathBuf,
    /// Its private key (PEM).
    pub(super) key: PathBuf,
    /// EC2's certificate (PEM).
    pub(super) ec2_certificate: PathBuf,
}

/// What is made of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    /// One compressed disk.
    Disk,
    /// A bundle, called so, of a machine of this architecture.
    Bundle { prefix: String, architecture: String, signer: Signer },
}

/// Files, and where their pieces are.
pub(super) struct Files {
    folder: PathBuf,
    pieces: Vec<Piece>,
    /// Where each begins in its file.
    places: Vec<u64>,
}

impl Pieces for Files {
    fn all(&self) -> &[Piece] {
        &self.pieces
    }

    fn read(&self, nth: usize) -> io::Result<Vec<u8>> {
        let piece = &self.pieces[nth];
        let mut bytes = vec![0; usize::try_from(piece.bytes).map_err(io::Error::other)?];
        File::open(self.folder.join(&piece.name))?.read_exact_at(&mut bytes, self.places[nth])?;
        Ok(bytes)
    }
}

impl Files {
    /// The files in `folder`, made of the image `disk` if they are not there. When `stop` is set they are not made, and nothing of them stays.
    ///
    /// # Errors
    /// The image cannot be read, the files not be written, or a key not be used: in words.
    pub(super) fn of(
        disk: &Path,
        folder: &Path,
        form: &Form,
        stop: &AtomicBool,
        tell: &mut dyn FnMut(u64),
    ) -> Result<Self, String> {
        if !folder.exists() {
            let scratch = scratch(folder);
            remove(&scratch).map_err(|error| told(&scratch, &error))?;
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&scratch);
            made.map_err(|error| told(&scratch, &error))?;
            let made = match form {
                Form::Disk => make_disk(disk, &scratch, stop, tell).map_err(|error| told(disk, &error)),
                Form::Bundle { prefix, architecture, signer } => {
                    make_bundle(disk, &scratch, (prefix, architecture), signer, stop, tell)
                }
            };
            if let Err(why) = made.and_then(|()| fs::rename(&scratch, folder).map_err(|error| told(folder, &error))) {
                let _ = remove(&scratch);
                return Err(why);
            }
        }
        Self::open(folder, form).map_err(|error| told(folder, &error))
    }

    fn open(folder: &Path, form: &Form) -> io::Result<Self> {
        let mut files = Self { folder: folder.to_path_buf(), pieces: Vec::new(), places: Vec::new() };
        match form {
            Form::Disk => files.add(DISK, true)?,
            Form::Bundle { prefix, .. } => {
                let mut names = Vec::new();
                for entry in fs::read_dir(folder)? {
                    names.push(entry?.file_name().to_string_lossy().into_owned());
                }
                // Parts by their numbers; whoever reads them begins with the manifest, which therefore comes last.
                names.sort_by_key(|name| (name.starts_with(&format!("{prefix}.manifest")), name.len(), name.clone()));
                for name in names {
                    files.add(&name, false)?;
                }
            }
        }
        Ok(files)
    }

    /// The pieces of a file: parts of one object, or an object by itself.
    fn add(&mut self, name: &str, is_cut: bool) -> io::Result<()> {
        let file = File::open(self.folder.join(name))?;
        let bytes = file.metadata()?.len();
        let most = u64::from(MOST_PARTS);
        let size = if is_cut { (PART_BYTES as u64).max(bytes.div_ceil(most)) } else { bytes.max(1) };
        let mut at = 0;
        while at < bytes {
            let length = size.min(bytes - at);
            let mut piece = vec![0; usize::try_from(length).map_err(io::Error::other)?];
            file.read_exact_at(&mut piece, at)?;
            self.pieces.push(Piece { name: name.to_owned(), bytes: length, sha256: Sha256::digest(&piece).into() });
            self.places.push(at);
            at += length;
        }
        Ok(())
    }
}

/// Where a folder is made.
fn scratch(folder: &Path) -> PathBuf {
    let mut name = folder.file_name().unwrap_or_default().to_os_string();
    name.push(SCRATCH);
    folder.with_file_name(name)
}

/// Removes all folders in `within` but those with these names: what nobody sends any more, because a frontend was killed.
///
/// # Errors
/// The file system's.
pub(super) fn sweep(within: &Path, wanted: &[String]) -> io::Result<()> {
    let entries = match fs::read_dir(within) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if !wanted.iter().any(|name| entry.file_name() == name.as_str()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Fails as soon as it is stopped.
struct Stoppable<'s, W> {
    inner: W,
    stop: &'s AtomicBool,
}

fn unless_stopped(stop: &AtomicBool) -> io::Result<()> {
    if stop.load(Ordering::Relaxed) { Err(io::Error::other("nobody wants it any more")) } else { Ok(()) }
}

impl<W: io::Write> io::Write for Stoppable<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        unless_stopped(self.stop)?;
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Removes what was made, or begun to be made, if it is there.
///
/// # Errors
/// The file system's.
pub(super) fn discard(folder: &Path) -> io::Result<()> {
    remove(&scratch(folder))?;
    remove(folder)
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn told(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{}: {error}", path.display())
}

fn make_disk(disk: &Path, folder: &Path, stop: &AtomicBool, tell: &mut dyn FnMut(u64)) -> io::Result<()> {
    let mut file = BufWriter::new(Stoppable { inner: File::create(folder.join(DISK))?, stop });
    vmdk::write(&File::open(disk)?, &mut file, tell)?;
    file.flush()
}

fn make_bundle(
    disk: &Path,
    folder: &Path,
    (prefix, architecture): (&str, &str),
    signer: &Signer,
    stop: &AtomicBool,
    tell: &mut dyn FnMut(u64),
) -> Result<(), String> {
    let read = |path: &Path| {
        let large = fs::metadata(path).map_err(|error| told(path, &error))?.len() > KEY_BYTES;
        let bytes = if large { Err(io::Error::from(io::ErrorKind::FileTooLarge)) } else { fs::read(path) };
        bytes.map_err(|error| told(path, &error))
    };
    let certificate = |path: &Path| Certificate::read(&read(path)?).map_err(|error| told(path, &error));
    let (own, ec2) = (certificate(&signer.certificate)?, certificate(&signer.ec2_certificate)?);
    let key = PrivateKey::read(&read(&signer.key)?).map_err(|error| told(&signer.key, &error))?;
    let account: Account = signer.account.parse().map_err(|error| format!("bundle_account: {error}"))?;
    let prefix: Prefix = prefix.parse().map_err(|error| format!("{error}"))?;
    let image = File::open(disk).map_err(|error| told(disk, &error))?;
    let map = Map::of_file(&image).map_err(|error| told(disk, &error))?;
    let modified = image.metadata().and_then(|meta| meta.modified()).ok();
    let modified = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |time| time.as_secs());
    let machine = Machine { architecture: architecture.to_owned(), ..Machine::default() };
    let job = Job { machine, modified, ..Job::new(prefix, account, &own, &key, &ec2) };
    let mut sink = |part: Part| unless_stopped(stop).and_then(|()| fs::write(folder.join(&part.name), &part.bytes));
    let mut progress = |at: rocks_bundle::Progress| tell(at.done);
    let manifest = rocks_bundle::bundle(&mut &image, &map, &job, &mut sink, &mut progress);
    let manifest = manifest.map_err(|error| error.to_string())?;
    let name = job.prefix.manifest();
    fs::write(folder.join(&name), manifest.xml()).map_err(|error| told(&folder.join(&name), &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    static GO: AtomicBool = AtomicBool::new(false);

    fn image(path: &Path) {
        let file = File::create(path).unwrap();
        file.set_len(64 << 20).unwrap();
        let mut noise = 1_u64;
        let next = |_| {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (noise >> 33) as u8
        };
        let bytes: Vec<u8> = (0..24 << 20).map(next).collect();
        file.write_all_at(&bytes, 1 << 20).unwrap();
    }

    fn keys(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("bundle/tests/keys").join(name)
    }

    fn signer() -> Signer {
        Signer {
            account: "1234-5678-9012".to_owned(),
            certificate: keys("new.cert.pem"),
            key: keys("new.key.pem"),
            ec2_certificate: keys("old.cert.pem"),
        }
    }

    #[test]
    fn a_disk_is_cut_into_parts_that_are_the_same_whenever_it_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, folder) = (dir.path().join("disk"), dir.path().join("bundles/lite-1"));
        image(&disk);
        let mut heard = 0;
        let first = Files::of(&disk, &folder, &Form::Disk, &GO, &mut |done| heard = done).unwrap();
        assert_eq!(heard, 64 << 20);
        let whole = fs::read(folder.join(DISK)).unwrap();
        let sizes: Vec<u64> = first.all().iter().map(|piece| piece.bytes).collect();
        assert_eq!(sizes[..sizes.len() - 1], [PART_BYTES as u64, PART_BYTES as u64]);
        assert_eq!(sizes.iter().sum::<u64>(), whole.len() as u64);
        let joined: Vec<u8> = (0..sizes.len()).flat_map(|nth| first.read(nth).unwrap()).collect();
        assert!(joined == whole);
        // What is there is not made again; and made again it is the same.
        let mut heard = false;
        assert_eq!(Files::of(&disk, &folder, &Form::Disk, &GO, &mut |_| heard = true).unwrap().all(), first.all());
        assert!(!heard);
        discard(&folder).unwrap();
        discard(&folder).unwrap();
        assert_eq!(Files::of(&disk, &folder, &Form::Disk, &GO, &mut |_| {}).unwrap().all(), first.all());
    }

    #[test]
    fn what_nobody_wants_any_more_is_not_made_and_what_was_left_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, within) = (dir.path().join("disk"), dir.path().join("bundles"));
        sweep(&within, &[]).unwrap();
        image(&disk);
        let folder = within.join("lite-1.1f");
        let stop = AtomicBool::new(false);
        let form = Form::Bundle { prefix: "lite".to_owned(), architecture: "x86_64".to_owned(), signer: signer() };
        for form in [Form::Disk, form] {
            stop.store(false, Ordering::Relaxed);
            let made = Files::of(&disk, &folder, &form, &stop, &mut |_| stop.store(true, Ordering::Relaxed));
            assert!(made.err().unwrap().contains("nobody wants it"));
            assert_eq!(fs::read_dir(&within).unwrap().count(), 0);
        }
        for name in ["lite-1.1e", "lite-1.1e.new", "lite-1.1f", "lite-1.1f.new"] {
            fs::create_dir(within.join(name)).unwrap();
        }
        sweep(&within, &["lite-1.1f".to_owned()]).unwrap();
        assert!(folder.exists() && fs::read_dir(&within).unwrap().count() == 1);
    }

    #[test]
    fn a_bundle_is_its_parts_and_then_its_manifest_or_a_word_about_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, folder) = (dir.path().join("disk"), dir.path().join("lite-1"));
        image(&disk);
        let form = |signer| Form::Bundle { prefix: "lite".to_owned(), architecture: "x86_64".to_owned(), signer };
        let wrong = Signer { key: keys("new.cert.pem"), ..signer() };
        let why = Files::of(&disk, &folder, &form(wrong), &GO, &mut |_| {}).err().unwrap();
        assert!(why.contains("new.cert.pem: it is no private key") && !folder.exists(), "{why}");
        let files = Files::of(&disk, &folder, &form(signer()), &GO, &mut |_| {}).unwrap();
        let names: Vec<&str> = files.all().iter().map(|piece| piece.name.as_str()).collect();
        assert_eq!(names, ["lite.part.00", "lite.part.01", "lite.part.02", "lite.manifest.xml"]);
        assert_eq!(files.all()[1].bytes, PART_BYTES as u64);
        assert!(files.read(3).unwrap().starts_with(b"<?xml"));
    }
}
