//! Against independent implementations: what `ec2-bundle-image` and `ec2-unbundle` run (tar, gzip, openssl), and what euca2ools
//! does (Python's tarfile, lxml's way of writing XML).
//!
//! The tools themselves can be had neither from Debian nor from PyPI; these are their pipelines, command for command.

#![allow(clippy::unwrap_used, reason = "a test's own helpers")]
#![expect(clippy::print_stderr, reason = "a test that is left out says why")]

mod common;

use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use common::{Keys, noise};
use rocks_bundle::{Job, Manifest, Map, Order, Part, Plain, Secret, Sha1, Trust, bundle, unbundle};

/// Whether there are the tools. Where they lack, there is nothing to compare with.
fn tools(names: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let lacking = |name: &&&str| !std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    match names.iter().find(lacking) {
        Some(name) => {
            eprintln!("skipped: there is no {name}");
            false
        }
        None => true,
    }
}

/// Runs a script in a folder; `$1` and so on are `args`.
fn shell(folder: &Path, script: &str, args: &[&str]) -> String {
    #[expect(clippy::disallowed_methods, reason = "a test runs what it compares with")]
    let mut command = Command::new("bash");
    command.current_dir(folder).env("LC_ALL", "C").env_remove("TAR_OPTIONS").env_remove("GZIP");
    let out = command.args(["-ec", &format!("set -o pipefail\n{script}"), "bash"]).args(args).output().unwrap();
    let (said, wrong) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{script}\n{said}\n{wrong}");
    said.trim().to_owned()
}

fn keys_into(folder: &Path) {
    for (name, bytes) in [
        ("cert.pem", common::USER.0),
        ("pk.pem", common::USER.1),
        ("ec2.cert.pem", common::EC2.0),
        ("ec2.pk.pem", common::EC2.1),
    ] {
        fs::write(folder.join(name), bytes).unwrap();
    }
}

/// An image with so many pieces of data in it, and something at its odd end or not.
fn image_into(folder: &Path, name: &str, pieces: u64, to_the_end: bool) -> File {
    let file = File::options().read(true).write(true).create_new(true).open(folder.join(name)).unwrap();
    let size = pieces * (256 << 10) + 300_123;
    file.set_len(size).unwrap();
    let data = noise(70_000);
    for i in 0..pieces {
        file.write_all_at(&data[..(i as usize * 7919) % 60_000 + 1], i * (256 << 10)).unwrap();
    }
    if to_the_end {
        file.write_all_at(&data[..5000], size - 5000).unwrap();
    }
    file.sync_all().unwrap();
    shell(folder, "chmod 644 \"$1\"; touch -d @1234567890 \"$1\"", &[name]);
    file
}

/// Bundles a file into a folder.
fn bundle_into(folder: &Path, file: &File, map: &Map, job: &Job<'_>) -> Manifest {
    let mut sink = |part: Part| fs::write(folder.join(part.name), part.bytes);
    let manifest = bundle(&mut &*file, map, job, &mut sink, &mut |_| {}).unwrap();
    fs::write(folder.join(job.prefix.manifest()), manifest.xml()).unwrap();
    manifest
}

fn folder_source(folder: &Path) -> impl FnMut(usize, &str) -> io::Result<Box<dyn Read>> {
    move |_: usize, name: &str| Ok(Box::new(File::open(folder.join(name))?) as Box<dyn Read>)
}

fn unbundle_from(folder: &Path, manifest: &str, order: &Order<'_>) -> Vec<u8> {
    let manifest = Manifest::read(&fs::read_to_string(folder.join(manifest)).unwrap()).unwrap();
    let mut target = Plain(Vec::new());
    unbundle(&manifest, order, &mut folder_source(folder), &mut target, &mut |_| {}).unwrap();
    target.0
}

#[test]
fn the_originals_commands_open_what_we_bundle() {
    if !tools(&["openssl", "tar", "gzip", "sha1sum", "cmp"]) {
        return;
    }
    let keys = Keys::new();
    for (pieces, to_the_end) in [(0, false), (0, true), (1, false), (3, true), (5, true), (30, false), (30, true)] {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        keys_into(at);
        let file = image_into(at, "image", pieces, to_the_end);
        let map = Map::of_file(&file).unwrap();
        let job = Job { part_bytes: 200_000, modified: 1_234_567_890, ..keys.job("image") };
        let manifest = bundle_into(at, &file, &map, &job);

        // ec2-unbundle: both keys by RSA, then cat | openssl enc -d | gunzip | tee | tar.
        for (prefix, key) in [("user", "pk.pem"), ("ec2", "ec2.pk.pem")] {
            let digest = shell(
                at,
                "get() { sed -n \"s:.*<$1[^>]*>\\([0-9a-f]*\\)</$1>.*:\\1:p\" image.manifest.xml; }
                 open() { get $1 | xxd -r -p | openssl pkeyutl -decrypt -inkey $2 -pkeyopt rsa_padding_mode:pkcs1; }
                 key=$(open $1_encrypted_key $2) iv=$(open $1_encrypted_iv $2)
                 rm -rf out; mkdir out
                 cat $(grep -o '<filename>[^<]*' image.manifest.xml | cut -d'>' -f2) |
                     openssl enc -d -aes-128-cbc -K $key -iv $iv | gunzip | tee out.tar | tar -x -C out
                 cmp out/image image
                 sha1sum < out.tar | cut -d' ' -f1",
                &[prefix, key],
            );
            assert_eq!(digest, manifest.image().digest.to_string());
        }
        // Its digests of parts.
        for part in &manifest.image().parts {
            assert_eq!(shell(at, "sha1sum < \"$1\" | cut -d' ' -f1", &[&part.name]), part.digest.to_string());
        }
        // Its tar file is what GNU tar makes, byte for byte (by the file system's holes, as we do).
        shell(
            at,
            "tar --format=gnu --hole-detection=seek -c -h -S --owner 0 --group 0 image > theirs.tar; cmp theirs.tar out.tar",
            &[],
        );
        // Its signature, over the text from the first to the last tag of each element.
        let xml = manifest.xml();
        let piece = |name: &str| {
            let (start, end) = (format!("<{name}>"), format!("</{name}>"));
            let (from, to) = (xml.find(&start).unwrap(), xml.find(&end).unwrap() + end.len());
            xml[from..to].to_owned()
        };
        fs::write(at.join("signed"), piece("machine_configuration") + &piece("image")).unwrap();
        let said = shell(
            at,
            "sed -n 's:.*<signature>\\([0-9a-f]*\\)<.*:\\1:p' image.manifest.xml | xxd -r -p > signature
             openssl x509 -in cert.pem -noout -pubkey > pub.pem
             openssl dgst -sha1 -verify pub.pem -signature signature signed",
            &[],
        );
        assert_eq!(said, "Verified OK");
    }
}

/// What bundles an image as `ec2-bundle-image` does, up to the manifest: `$1` the image's name, `$2` the command that makes a tar file.
const PIPELINE: &str = "
    key=$(openssl rand -hex 16) iv=$(openssl rand -hex 16)
    eval \"$2\" | tee whole.tar | gzip -9 | openssl enc -e -aes-128-cbc -K $key -iv $iv > whole
    split -b 100000 -d -a 3 whole $1.part.
    seal() { printf %s $1 | openssl pkeyutl -encrypt -certin -inkey $2 -pkeyopt rsa_padding_mode:pkcs1 | xxd -p | tr -d '\\n'; }
    sha() { sha1sum < $1 | cut -d' ' -f1; }
    n=0 parts=
    for part in $1.part.*; do
        parts=\"$parts<part index=\\\"$n\\\"><filename>$part</filename><digest algorithm=\\\"SHA1\\\">$(sha $part)</digest></part>\"
        n=$((n + 1))
    done
    printf '<machine_configuration><architecture>x86_64</architecture></machine_configuration>' > signed
    printf '<image><name>%s</name><user>123456789012</user><digest algorithm=\"SHA1\">%s</digest>' $1 $(sha whole.tar) > image.xml
    printf '<size>%s</size><bundled_size>%s</bundled_size><type>machine</type>' $(stat -c %s $1) $(stat -c %s whole) >> image.xml
    for who in ec2:ec2.cert.pem user:cert.pem; do
        printf '<%s_encrypted_key algorithm=\"AES-128-CBC\">%s</%s_encrypted_key>' ${who%:*} $(seal $key ${who#*:}) ${who%:*}
        printf '<%s_encrypted_iv>%s</%s_encrypted_iv>' ${who%:*} $(seal $iv ${who#*:}) ${who%:*}
    done >> image.xml
    printf '<parts count=\"%s\">%s</parts></image>' $n \"$parts\" >> image.xml
    cat image.xml >> signed
    signature=$(openssl dgst -sha1 -sign pk.pem signed | xxd -p | tr -d '\\n')
    printf '<manifest><version>2007-10-10</version><bundler><name>euca2ools</name><version>3.4</version><release>0</release></bundler>%s<signature>%s</signature></manifest>\\n' \"$(cat signed)\" $signature > $1.manifest.xml";

#[test]
fn we_open_what_the_originals_commands_bundle() {
    if !tools(&["openssl", "tar", "gzip", "sha1sum", "split", "xxd", "python3"]) {
        return;
    }
    let keys = Keys::new();
    let python = |format: &str| {
        // As euca2ools: one member, streamed.
        format!(
            "python3 -c \"import tarfile,sys; t=tarfile.open(mode='w|',fileobj=sys.stdout.buffer,format=tarfile.{format}); \
             t.add('image',arcname='{}'); t.close()\"",
            if format == "PAX_FORMAT" { "ä".to_owned() } else { "a".repeat(150) }
        )
    };
    for (pieces, to_the_end) in [(0, false), (3, true), (30, false)] {
        for tar in [
            "tar -c -h -S --owner 0 --group 0 image".to_owned(),
            "tar -c -h -S --hole-detection=raw --format=gnu --owner 0 --group 0 image".to_owned(),
            "tar -c -h --format=pax --owner 0 --group 0 image".to_owned(),
            python("GNU_FORMAT"),
            python("PAX_FORMAT"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let at = folder.path();
            keys_into(at);
            drop(image_into(at, "image", pieces, to_the_end));
            shell(at, PIPELINE, &["image", &tar]);
            let image = fs::read(at.join("image")).unwrap();
            assert!(unbundle_from(at, "image.manifest.xml", &Order::new(&keys.key)) == image, "{tar}");
            let cloud = Order { trust: Trust::Certificate(&keys.certificate), ..Order::new(&keys.ec2_key) };
            assert!(unbundle_from(at, "image.manifest.xml", &cloud) == image, "{tar}");
        }
    }
}

#[test]
fn known_bytes() {
    if !tools(&["openssl", "gzip"]) {
        return;
    }
    // The whole of a tiny bundle but for RSA's random padding, made by others.
    let keys = Keys::new();
    let folder = tempfile::tempdir().unwrap();
    let mut file = File::options().read(true).write(true).create_new(true).open(folder.path().join("image")).unwrap();
    file.write_all(b"hello").unwrap();
    let secret = Secret::new(*b"0123456789abcdef", *b"fedcba9876543210");
    let job = Job { secret: Some(secret), level: 0, ..keys.job("image") };
    let manifest = bundle_into(folder.path(), &file, &Map::dense(5), &job);
    let plain = shell(
        folder.path(),
        "openssl enc -d -aes-128-cbc -K 30313233343536373839616263646566 -iv 66656463626139383736353433323130 < image.part.00 > plain; xxd -p -l 10 plain",
        &[],
    );
    assert_eq!(&plain[..18], "1f8b08000000000004", "gzip, no name, no time");
    assert_eq!(&plain[18..], "03", "Unix");
    assert_eq!(manifest.image().size, 5);
    assert_eq!(manifest.image().parts.len(), 1);
    assert_eq!(
        Sha1::of(&fs::read(folder.path().join("image.part.00")).unwrap()).to_string(),
        manifest.image().parts[0].digest.to_string()
    );
}
