//! `rocks-server bundle` and `unbundle`: the format of `ec2-bundle-image`, in files. They need no frontend and no AWS.

use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::Context as _;
use clap::builder::TypedValueParser as _;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use rocks_bundle::{
    Account, Certificate, ImageKind, Job, Machine, Manifest, Map, Order, Part, Prefix, PrivateKey, Progress,
    SparseFile, Trust,
};
use serde_json::json;

use crate::output::{Exit, Output, chain};

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people
    Table,
    /// One object
    Json,
}

/// Make of an image what ec2-bundle-image makes of it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  rocks-server bundle lite.img --to /var/tmp/lite --account 1234-5678-9012 --certificate cert.pem --key pk.pem --ec2-certificate cert-ec2.pem"
)]
pub struct Args {
    /// The image: a raw disk, or what is in a partition
    image: PathBuf,
    /// Where the parts and the manifest go
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// The AWS account that it belongs to
    #[arg(long, value_name = "N")]
    account: Account,
    /// Your certificate (PEM)
    #[arg(long, value_name = "FILE")]
    certificate: PathBuf,
    /// Your private key, of the same (PEM): it signs, and opens the bundle again
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// EC2's certificate (PEM)
    #[arg(long, value_name = "FILE")]
    ec2_certificate: PathBuf,
    /// What the files are called (default: the image's file name)
    #[arg(long, value_name = "NAME")]
    prefix: Option<Prefix>,
    /// The image's architecture
    #[arg(long, value_name = "A", default_value = "x86_64", value_parser = ["i386", "x86_64", "arm64"])]
    arch: String,
    /// What the image is
    #[arg(long, value_name = "KIND", default_value = "machine", value_parser = clap::builder::PossibleValuesParser::new(["machine", "kernel", "ramdisk"]).try_map(|word| word.parse::<ImageKind>()))]
    kind: ImageKind,
    /// The kernel's image, as in aki-88aa75e1
    #[arg(long, value_name = "ID")]
    kernel: Option<String>,
    /// The initial RAM disk's
    #[arg(long, value_name = "ID")]
    ramdisk: Option<String>,
    /// How hard gzip tries
    #[arg(long, value_name = "0-9", default_value_t = 9, value_parser = clap::value_parser!(u32).range(0..=9))]
    level: u32,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Take a bundle apart.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  rocks-server unbundle /var/tmp/lite/lite.img.manifest.xml --key pk.pem --to lite.img"
)]
pub struct BackArgs {
    /// The manifest
    manifest: PathBuf,
    /// The private key that opens it (PEM)
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The image's file, which must not be there yet
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Where the parts are (default: beside the manifest)
    #[arg(long, value_name = "DIR")]
    parts: Option<PathBuf>,
    /// Who must have signed it (default: whose private key opens it)
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// Runs `bundle`.
pub fn run(args: &Args, output: &mut Output<'_>) -> Exit {
    say(make(args), output)
}

/// Runs `unbundle`.
pub fn back(args: &BackArgs, output: &mut Output<'_>) -> Exit {
    say(take_apart(args), output)
}

fn say(made: anyhow::Result<String>, output: &mut Output<'_>) -> Exit {
    match made {
        Ok(text) if output.data(&text).is_ok() => Exit::Ok,
        Ok(_) => Exit::Failed,
        Err(error) => {
            output.message(&format!("error: {}\n", chain(&error)));
            Exit::Failed
        }
    }
}

fn in_file(path: &Path) -> String {
    path.display().to_string()
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    // Keys and certificates: nothing that is larger is one.
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(1 << 20).read_to_end(&mut bytes));
    read.with_context(|| in_file(path))?;
    Ok(bytes)
}

fn certificate(path: &Path) -> anyhow::Result<Certificate> {
    Certificate::read(&read(path)?).with_context(|| in_file(path))
}

fn private_key(path: &Path) -> anyhow::Result<PrivateKey> {
    PrivateKey::read(&read(path)?).with_context(|| in_file(path))
}

/// A bar that only a terminal shows.
fn bar(bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bytes} of {total_bytes}, {binary_bytes_per_sec}, {eta} [{bar:30}]");
    ProgressBar::new(bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Files that are there whole or not at all: what is not kept is removed again.
struct Files<'f> {
    folder: &'f Path,
    made: Vec<PathBuf>,
}

impl Files<'_> {
    fn put(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.folder.join(name);
        let mut file = File::create_new(&path)?;
        self.made.push(path);
        file.write_all(bytes)
    }
}

impl Drop for Files<'_> {
    fn drop(&mut self) {
        for path in &self.made {
            let _ = fs::remove_file(path);
        }
    }
}

fn make(args: &Args) -> anyhow::Result<String> {
    let (own, key) = (certificate(&args.certificate)?, private_key(&args.key)?);
    let ec2 = certificate(&args.ec2_certificate)?;
    let prefix = match &args.prefix {
        Some(prefix) => prefix.clone(),
        None => {
            let name = args.image.file_name().unwrap_or_default().to_string_lossy();
            name.parse().with_context(|| format!("{}: say --prefix NAME", in_file(&args.image)))?
        }
    };
    let image = File::open(&args.image).with_context(|| in_file(&args.image))?;
    let meta = image.metadata().with_context(|| in_file(&args.image))?;
    anyhow::ensure!(!meta.is_dir(), "{}: it is a folder", in_file(&args.image));
    let map = Map::of_file(&image).with_context(|| in_file(&args.image))?;
    let modified = meta.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let machine = Machine {
        architecture: args.arch.clone(),
        kernel_id: args.kernel.clone(),
        ramdisk_id: args.ramdisk.clone(),
        ..Machine::default()
    };
    let job = Job {
        machine,
        kind: args.kind,
        level: args.level,
        modified: modified.map_or(0, |time| time.as_secs()),
        ..Job::new(prefix, args.account.clone(), &own, &key, &ec2)
    };
    fs::create_dir_all(&args.to).with_context(|| in_file(&args.to))?;
    let name = job.prefix.manifest();
    let path = args.to.join(&name);
    // Before the work; whoever makes it meanwhile is found out at the end.
    anyhow::ensure!(!path.exists(), "{}: there is such a bundle already", in_file(&path));
    let mut files = Files { folder: &args.to, made: Vec::new() };
    let bar = bar(map.bytes());
    let mut sink = |part: Part| files.put(&part.name, &part.bytes);
    let mut tell = |progress: Progress| bar.set_position(progress.done);
    let manifest = rocks_bundle::bundle(&mut &image, &map, &job, &mut sink, &mut tell)?;
    bar.finish_and_clear();
    files.put(&name, manifest.xml().as_bytes()).with_context(|| in_file(&path))?;
    files.made.clear();
    Ok(report(&manifest, ("manifest", &path), args.output))
}

fn take_apart(args: &BackArgs) -> anyhow::Result<String> {
    let key = private_key(&args.key)?;
    let signer = args.certificate.as_deref().map(certificate).transpose()?;
    let place = || in_file(&args.manifest);
    let mut text = String::new();
    let file = File::open(&args.manifest).with_context(place)?;
    file.take(64 << 20).read_to_string(&mut text).with_context(place)?;
    let manifest = Manifest::read(&text).with_context(place)?;
    let beside = |path: &Path| path.parent().filter(|folder| !folder.as_os_str().is_empty()).map(Path::to_path_buf);
    let here = PathBuf::from(".");
    let parts = args.parts.clone().or_else(|| beside(&args.manifest)).unwrap_or_else(|| here.clone());
    anyhow::ensure!(!args.to.exists(), "{}: it is there already", in_file(&args.to));
    let image = tempfile::NamedTempFile::new_in(beside(&args.to).unwrap_or(here)).with_context(|| in_file(&args.to))?;
    let bar = bar(manifest.image().size);
    let trust = signer.as_ref().map_or(Trust::Key, Trust::Certificate);
    let order = Order { trust, ..Order::new(&key) };
    let mut source = |_: usize, name: &str| File::open(parts.join(name)).map(|file| Box::new(file) as Box<dyn Read>);
    let mut tell = |progress: Progress| bar.set_position(progress.done);
    rocks_bundle::unbundle(&manifest, &order, &mut source, &mut SparseFile(image.as_file()), &mut tell)
        .with_context(place)?;
    bar.finish_and_clear();
    image.persist_noclobber(&args.to).map_err(|error| error.error).with_context(|| in_file(&args.to))?;
    Ok(report(&manifest, ("image", &args.to), args.output))
}

fn report(manifest: &Manifest, (what, path): (&str, &Path), format: Format) -> String {
    let image = manifest.image();
    if format == Format::Json {
        let parts: Vec<_> =
            image.parts.iter().map(|part| json!({"name": part.name, "sha1": part.digest.to_string()})).collect();
        let object = json!({
            "api_version": "rocks/v1", what: in_file(path), "name": image.name, "account": image.user,
            "architecture": manifest.machine().architecture, "bytes": image.size,
            "bundled_bytes": image.bundled_size, "sha1": image.digest.to_string(), "parts": parts,
        });
        return format!("{object:#}\n");
    }
    let (bytes, bundled) = (HumanBytes(image.size), HumanBytes(image.bundled_size));
    format!("{}\nIMAGE    {bytes}\nBUNDLED  {bundled}\nPARTS    {}\n", in_file(path), image.parts.len())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    const OWN: (&str, &str) = (
        concat!(env!("CARGO_MANIFEST_DIR"), "/bundle/tests/keys/new.cert.pem"),
        concat!(env!("CARGO_MANIFEST_DIR"), "/bundle/tests/keys/new.key.pem"),
    );
    const EC2: (&str, &str) = (
        concat!(env!("CARGO_MANIFEST_DIR"), "/bundle/tests/keys/old.cert.pem"),
        concat!(env!("CARGO_MANIFEST_DIR"), "/bundle/tests/keys/old.key.pem"),
    );

    fn run(folder: &Path, args: &[&str]) -> (Exit, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        // Names with an @ at the front are in the folder.
        let word = |word: &&str| match word.strip_prefix("@") {
            Some(name) => folder.join(name).into_os_string(),
            None => word.into(),
        };
        let words = ["rocks-server"].iter().chain(args).map(word);
        let exit = crate::cli::main(words, &mut Output { out: &mut out, err: &mut err });
        (exit, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    fn bundle(folder: &Path, more: &[&str]) -> (Exit, String, String) {
        let args = ["bundle", "@lite.img", "--to", "@out", "--account", "1234-5678-9012", "--certificate", OWN.0];
        let keys = ["--key", OWN.1, "--ec2-certificate", EC2.0];
        run(folder, &[&args[..], &keys, more].concat())
    }

    fn image(folder: &Path) -> Vec<u8> {
        let file = File::options().read(true).write(true).create_new(true).open(folder.join("lite.img")).unwrap();
        file.set_len(3 << 20).unwrap();
        file.write_all_at(&[7; 5000], 1 << 20).unwrap();
        fs::read(folder.join("lite.img")).unwrap()
    }

    #[test]
    fn an_image_goes_there_and_back() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let bytes = image(at);
        let (exit, out, err) = bundle(at, &[]);
        assert_eq!((exit, err.as_str()), (Exit::Ok, ""));
        assert!(
            out.contains("lite.img.manifest.xml\nIMAGE    3.00 MiB\nBUNDLED  ") && out.ends_with("PARTS    1\n"),
            "{out}"
        );
        let (exit, out, err) = run(at, &["unbundle", "@out/lite.img.manifest.xml", "--key", OWN.1, "--to", "@back"]);
        assert_eq!((exit, err.as_str()), (Exit::Ok, ""));
        assert!(
            out.ends_with("back\nIMAGE    3.00 MiB\nBUNDLED  4.12 KiB\nPARTS    1\n") || out.contains("/back\n"),
            "{out}"
        );
        assert!(fs::read(at.join("back")).unwrap() == bytes);

        // The other words, and as EC2 does it, with parts somewhere else.
        let words = ["--prefix", "other", "--arch", "i386", "--kernel", "aki-1", "--level", "1", "-o", "json"];
        let (exit, out, err) = bundle(at, &words);
        assert_eq!((exit, err.as_str()), (Exit::Ok, ""));
        let json: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!((json["bytes"].as_u64(), json["architecture"].as_str()), (Some(3 << 20), Some("i386")));
        assert_eq!(
            (json["account"].as_str(), json["parts"][0]["name"].as_str()),
            (Some("123456789012"), Some("other.part.00"))
        );
        fs::rename(at.join("out/other.manifest.xml"), at.join("m")).unwrap();
        let args = ["unbundle", "@m", "--parts", "@out", "--key", EC2.1, "--to", "@ec2", "-o", "json"];
        let (exit, _, err) = run(at, &args);
        assert!(exit == Exit::Failed && err.contains("m: the manifest's signature is not that of"), "{err}");
        let (exit, out, err) = run(at, &[&args[..], &["--certificate", OWN.0]].concat());
        assert_eq!((exit, err.as_str()), (Exit::Ok, ""));
        assert!(out.contains("\"image\": ") && fs::read(at.join("ec2")).unwrap() == bytes, "{out}");
    }

    #[test]
    fn what_is_wrong_is_said_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        image(at);
        assert_eq!(run(at, &["bundle", "@lite.img"]).0, Exit::Usage);
        for words in [["--account", "12"], ["--prefix", "a/b"], ["--arch", "vax"], ["--level", "10"]] {
            let mut args = vec!["bundle", "@lite.img", "--to", "@out", "--certificate", OWN.0, "--key", OWN.1];
            args.extend(["--ec2-certificate", EC2.0]);
            if words[0] != "--account" {
                args.extend(["--account", "123456789012"]);
            }
            args.extend(words);
            assert_eq!(run(at, &args).0, Exit::Usage, "{words:?}");
        }
        let fails = |args: &[&str], wanted: &str| {
            let (exit, out, err) = run(at, args);
            assert!(exit == Exit::Failed && out.is_empty() && err.contains(wanted), "{wanted}: {err}");
        };
        let common = ["--account", "123456789012", "--ec2-certificate", EC2.0, "--to", "@out"];
        let with = |image: &'static str, certificate, key| {
            [&["bundle", image, "--certificate", certificate, "--key", key], &common[..]].concat()
        };
        fails(&with("@gone", OWN.0, OWN.1), "gone: No such file");
        fails(&with("@", OWN.0, OWN.1), "--prefix NAME");
        fails(&with("@lite.img", EC2.0, OWN.1), "the certificate is of another key than the private key");
        fails(&with("@lite.img", OWN.1, OWN.1), "new.key.pem: it is no X.509 certificate");
        fails(&with("@lite.img", OWN.0, OWN.0), "new.cert.pem: it is no private key");
        // A part that is in the way: what was made is removed, what was there stays.
        fs::write(at.join("out/lite.img.part.00"), b"mine").unwrap();
        fails(&with("@lite.img", OWN.0, OWN.1), "part 0 (`lite.img.part.00`) could not be put away");
        assert_eq!(fs::read_dir(at.join("out")).unwrap().count(), 1);
        fs::remove_file(at.join("out/lite.img.part.00")).unwrap();
        assert_eq!(bundle(at, &[]).0, Exit::Ok);
        fails(&with("@lite.img", OWN.0, OWN.1), "there is such a bundle already");

        let back = |key, to| ["unbundle", "@out/lite.img.manifest.xml", "--key", key, "--to", to];
        fails(&back(OWN.1, "@lite.img"), "lite.img: it is there already");
        fails(&["unbundle", "@lite.img", "--key", OWN.1, "--to", "@back"], "lite.img: ");
        let part = at.join("out/lite.img.part.00");
        let mut bytes = fs::read(&part).unwrap();
        bytes[100] ^= 1;
        fs::write(&part, &bytes).unwrap();
        fails(&back(OWN.1, "@back"), "part 0 (`lite.img.part.00`) is damaged");
        fs::remove_file(&part).unwrap();
        fails(&back(OWN.1, "@back"), "part 0 (`lite.img.part.00`) cannot be read: No such file");
        let left: Vec<_> = fs::read_dir(at).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }
}
