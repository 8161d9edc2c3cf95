//! From an image to a bundle and back, and everything that can be wrong on the way.

#![allow(clippy::unwrap_used, reason = "a test's own helpers")]

mod common;

use std::io::{self, Cursor, Read, Seek, SeekFrom, Write as _};

use common::{Keys, noise, pack, unpack};
use proptest::prelude::*;
use rocks_bundle::{
    BundleError, Job, KeyError, Limits, Manifest, Map, Order, PART_BYTES, Part, Plain, Progress, Secret, Sha1,
    SparseFile, Trust, UnbundleError, bundle, unbundle,
};

fn round(image: &[u8], map: &Map, job: &Job<'_>, keys: &Keys) -> (Manifest, Vec<Part>) {
    let (manifest, parts) = pack(image, map, job).unwrap();
    let read = Manifest::read(&manifest.xml()).unwrap();
    assert_eq!(read, manifest);
    assert!(unpack(&read, &parts, &Order::new(&keys.key)).unwrap() == image, "it is not the image");
    let (last, before) = parts.split_last().unwrap();
    assert!(before.iter().all(|part| part.bytes.len() == job.part_bytes));
    assert!((1..=job.part_bytes).contains(&last.bytes.len()));
    assert_eq!(manifest.image().bundled_size, parts.iter().map(|part| part.bytes.len() as u64).sum::<u64>());
    assert_eq!(manifest.image().size, image.len() as u64);
    (manifest, parts)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_image_comes_back(
        size in 0_usize..60_000,
        part_bytes in 1_usize..9000,
        data in proptest::collection::vec((0_usize..60_000, 1_usize..9000), 0..12),
        level in 0_u32..=9,
    ) {
        let keys = Keys::new();
        let random = noise(9000);
        let mut image = vec![0; size];
        let mut ranges = Vec::new();
        for (at, count) in data {
            let (at, end) = (at.min(size), (at + count).min(size));
            image[at..end].copy_from_slice(&random[..end - at]);
            ranges.push(at as u64..end as u64);
        }
        let job = Job { part_bytes: part_bytes.max(size / 500 + 1), level, ..keys.job("image") };
        round(&image, &Map::new(size as u64, ranges), &job, &keys);
        round(&image, &Map::dense(size as u64), &job, &keys);
    }

    #[test]
    fn no_garbage_makes_it_panic(text in "\\PC*", at in 0_usize..4000, byte in any::<u8>()) {
        prop_assert!(Manifest::read(&text).is_err());
        let keys = Keys::new();
        let (manifest, parts) = pack(b"image", &Map::dense(5), &keys.job("image")).unwrap();
        let mut xml = manifest.xml().into_bytes();
        let at = at % xml.len();
        xml[at] = byte;
        if let Some(read) = std::str::from_utf8(&xml).ok().and_then(|xml| Manifest::read(xml).ok()) {
            let order = Order { trust: Trust::Nobody, ..Order::new(&keys.key) };
            let _ = common::unpack(&read, &[Part { name: read.image().parts[0].name.clone(), ..parts[0].clone() }], &order);
            if read.is_signed_by(keys.key.public()) {
                prop_assert_eq!(read.image(), manifest.image());
                prop_assert_eq!(read.machine(), manifest.machine());
            }
        }
    }
}

#[test]
fn sizes_around_a_part_of_10_mb() {
    let keys = Keys::new();
    for size in [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1] {
        let image = noise(size);
        let job = Job { level: 1, ..keys.job("image") };
        let (manifest, parts) = round(&image, &Map::dense(size as u64), &job, &keys);
        assert_eq!(parts.len(), if size > 1 { 2 } else { 1 }, "{size}");
        assert_eq!(manifest.image().parts[0].name, "image.part.00");
    }
}

#[test]
fn a_bundle_that_ends_with_a_part_has_no_empty_one() {
    let keys = Keys::new();
    let whole = pack(b"image", &Map::dense(5), &keys.job("image")).unwrap().1[0].bytes.len();
    for (part_bytes, count) in
        [(whole, 1), (whole / 2, 2), (whole - 1, 2), (whole + 1, 1), (16, whole / 16), (1, whole)]
    {
        let job = Job { part_bytes, ..keys.job("image") };
        let (_, parts) = round(b"image", &Map::dense(5), &job, &keys);
        assert_eq!(parts.len(), count, "{part_bytes}");
    }
    let job = Job { part_bytes: 0, ..keys.job("image") };
    assert!(matches!(pack(b"image", &Map::dense(5), &job), Err(BundleError::NoPartBytes)));
}

#[test]
fn the_same_secret_gives_the_same_parts() {
    let keys = Keys::new();
    let image = noise(100_000);
    let job = Job { part_bytes: 30_000, secret: Some(Secret::new([1; 16], [2; 16])), ..keys.job("image") };
    let map = Map::dense(100_000);
    let (first, second) = (pack(&image, &map, &job).unwrap(), pack(&image, &map, &job).unwrap());
    assert_eq!(first.1, second.1);
    assert_eq!(first.0.image().digest, second.0.image().digest);
    assert_eq!(first.0.image().parts, second.0.image().parts);
    let fresh = pack(&image, &map, &Job { secret: None, ..job }).unwrap();
    assert_eq!(first.0.image().digest, fresh.0.image().digest);
    assert_ne!(first.0.image().parts, fresh.0.image().parts);
}

#[test]
fn ec2_opens_it_with_its_own_key() {
    let keys = Keys::new();
    let (manifest, parts) = pack(b"image", &Map::dense(5), &keys.job("image")).unwrap();
    let order = Order { trust: Trust::Certificate(&keys.certificate), ..Order::new(&keys.ec2_key) };
    assert_eq!(unpack(&manifest, &parts, &order).unwrap(), b"image");
    // Its own key signed nothing.
    let order = Order::new(&keys.ec2_key);
    assert!(matches!(unpack(&manifest, &parts, &order), Err(UnbundleError::Signature("private key's owner"))));
}

#[test]
fn keys_that_do_not_fit_are_refused() {
    let keys = Keys::new();
    let job = Job { key: &keys.ec2_key, ..keys.job("image") };
    let refused = pack(b"image", &Map::dense(5), &job);
    assert!(matches!(refused, Err(BundleError::Key(KeyError::Mismatch))));
    let (manifest, parts) =
        pack(b"image", &Map::dense(5), &Job { ec2_certificate: &keys.certificate, ..keys.job("i") }).unwrap();
    assert!(matches!(unpack(&manifest, &parts, &Order::new(&keys.ec2_key)), Err(UnbundleError::WrongKey)));
}

#[test]
fn damage_is_found_and_named() {
    let keys = Keys::new();
    let image = noise(100_000);
    let job = Job { part_bytes: 30_000, ..keys.job("image") };
    let (manifest, parts) = pack(&image, &Map::dense(100_000), &job).unwrap();
    let order = Order::new(&keys.key);
    assert_eq!(parts.len(), 4);

    let mut flipped = parts.clone();
    flipped[2].bytes[17] ^= 1;
    let error = unpack(&manifest, &flipped, &order).unwrap_err();
    assert!(matches!(error, UnbundleError::PartDigest { index: 2, .. }), "{error}");
    assert!(error.to_string().starts_with("part 2 (`image.part.02`) is damaged: its digest is "), "{error}");
    let mut truncated = parts.clone();
    truncated[3].bytes.pop();
    assert!(matches!(unpack(&manifest, &truncated, &order), Err(UnbundleError::PartDigest { index: 3, .. })));
    let error = unpack(&manifest, &parts[..3], &order).unwrap_err();
    assert!(matches!(error, UnbundleError::Part { index: 3, .. }), "{error}");
    let order = Order { limits: Limits { part_bytes: 29_999, ..Limits::default() }, ..order };
    assert!(matches!(
        unpack(&manifest, &parts, &order),
        Err(UnbundleError::PartTooLarge { index: 0, limit: 29_999, .. })
    ));
    let order = Order { limits: Limits { image_bytes: 99_999, ..Limits::default() }, ..order };
    assert!(matches!(
        unpack(&manifest, &parts, &order),
        Err(UnbundleError::TooLarge { bytes: 100_000, limit: 99_999 })
    ));
}

/// A manifest with other facts, signed again.
fn resigned(manifest: &Manifest, keys: &Keys, change: impl FnOnce(&mut rocks_bundle::Image)) -> Manifest {
    let mut image = manifest.image().clone();
    change(&mut image);
    Manifest::sign(manifest.bundler.clone(), manifest.machine().clone(), image, &keys.key).unwrap()
}

#[test]
fn a_manifest_that_lies_is_found_out() {
    let keys = Keys::new();
    let image = noise(50_000);
    let job = Job { part_bytes: 30_000, ..keys.job("image") };
    let (manifest, parts) = pack(&image, &Map::dense(50_000), &job).unwrap();
    let order = Order::new(&keys.key);
    let try_with = |change: &dyn Fn(&mut rocks_bundle::Image), parts: &[Part]| {
        unpack(&resigned(&manifest, &keys, change), parts, &order).unwrap_err()
    };
    let error = try_with(&|image| image.size = 49_999, &parts);
    assert!(matches!(error, UnbundleError::Size { found: 50_000, wanted: 49_999 }), "{error}");
    let error = try_with(&|image| image.bundled_size += 1, &parts);
    assert!(matches!(error, UnbundleError::BundledSize { .. }), "{error}");
    let error = try_with(&|image| image.digest = Sha1::of(b"another"), &parts);
    assert!(matches!(error, UnbundleError::Digest { .. }), "{error}");
    // Parts that are missing although nobody says so.
    let error = try_with(&|image| drop(image.parts.pop()), &parts[..1]);
    assert!(matches!(error, UnbundleError::Cipher | UnbundleError::Length(_)), "{error}");
    // Another key than the parts have.
    let other = keys.certificate.key().encrypt(b"000102030405060708090a0b0c0d0e0f").unwrap();
    let error = try_with(&|image| image.user_key = other.clone(), &parts);
    assert!(matches!(error, UnbundleError::Cipher | UnbundleError::Gzip(_)), "{error}");
    for bad in [&b"000102030405060708090a0b0c0d0e"[..], b"not hexadecimal, but of 32 bytes", b""] {
        let other = keys.certificate.key().encrypt(bad).unwrap();
        let error = try_with(&|image| image.user_iv = other.clone(), &parts);
        assert!(matches!(error, UnbundleError::WrongKey), "{error}");
    }
    // Parts of noise with the right digests.
    let junk = vec![Part { bytes: noise(4096), digest: Sha1::of(&noise(4096)), ..parts[0].clone() }];
    let changed = |image: &mut rocks_bundle::Image| {
        image.parts.truncate(1);
        image.parts[0].digest = junk[0].digest;
    };
    let error = try_with(&changed, &junk);
    assert!(matches!(error, UnbundleError::Cipher | UnbundleError::Gzip(_) | UnbundleError::Length(_)), "{error}");
    // Unsigned changes.
    let xml = manifest.xml().replace("<size>50000<", "<size>50001<");
    let error = unpack(&Manifest::read(&xml).unwrap(), &parts, &order).unwrap_err();
    assert!(error.to_string().contains("signature is not that of the private key's owner"), "{error}");
}

#[test]
fn what_is_in_the_encryption_is_not_trusted() {
    let keys = Keys::new();
    let secret = Secret::new([1; 16], [2; 16]);
    let (manifest, _) = pack(b"image", &Map::dense(5), &Job { secret: Some(secret), ..keys.job("image") }).unwrap();
    let try_with = |tar: &[u8], gzip: bool| {
        let mut bytes = tar.to_vec();
        if gzip {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(tar).unwrap();
            bytes = encoder.finish().unwrap();
        }
        let bytes = cbc(&bytes);
        let digest = Sha1::of(&bytes);
        let manifest = resigned(&manifest, &keys, |image| image.parts[0].digest = digest);
        let part = Part { index: 0, name: "image.part.00".to_owned(), bytes, digest };
        unpack(&manifest, &[part], &Order::new(&keys.key)).unwrap_err()
    };
    assert!(matches!(try_with(b"no gzip at all", false), UnbundleError::Gzip(_)));
    assert!(matches!(try_with(b"", false), UnbundleError::Length(_) | UnbundleError::Gzip(_)));
    assert!(matches!(try_with(b"", true), UnbundleError::Length("ends too early")));
    assert!(matches!(try_with(&[0; 10240], true), UnbundleError::Tar(_)));
    assert!(matches!(try_with(&noise(10240), true), UnbundleError::Tar(_)));
    // A bomb after the image.
    let mut header = tar_of_five();
    header.resize(4 << 20, 0);
    assert!(matches!(try_with(&header, true), UnbundleError::Length("does not end after its image")));
    assert!(matches!(try_with(&tar_of_five()[..514], true), UnbundleError::Length("ends too early")));
    assert!(matches!(try_with(&tar_of_five(), true), UnbundleError::Digest { .. }));
}

/// A tar file with a member of five bytes.
fn tar_of_five() -> Vec<u8> {
    let mut header = [0; 1024];
    header[..1].copy_from_slice(b"x");
    header[124..136].copy_from_slice(b"00000000005\0");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header.to_vec()
}

/// Encrypts with the key and vector of the test above.
fn cbc(plain: &[u8]) -> Vec<u8> {
    use aws_lc_rs::cipher::{AES_128, EncryptionContext, PaddedBlockEncryptingKey, UnboundCipherKey};
    let key = UnboundCipherKey::new(&AES_128, &[1; 16]).unwrap();
    let key = PaddedBlockEncryptingKey::cbc_pkcs7(key).unwrap();
    let mut bytes = plain.to_vec();
    key.less_safe_encrypt(&mut bytes, EncryptionContext::Iv128([2; 16].into())).unwrap();
    bytes
}

/// An image that fails, or ends, after some bytes.
struct Bad(u64, io::ErrorKind);

impl Read for Bad {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = bytes.len().min(usize::try_from(self.0).unwrap());
        if count == 0 && self.1 != io::ErrorKind::UnexpectedEof {
            return Err(self.1.into());
        }
        self.0 -= count as u64;
        Ok(count)
    }
}

impl Seek for Bad {
    fn seek(&mut self, _: SeekFrom) -> io::Result<u64> {
        Ok(0)
    }
}

#[test]
fn an_image_or_a_sink_that_fails_ends_it() {
    let keys = Keys::new();
    let run = |mut image: Bad, map: &Map| {
        bundle(&mut image, map, &keys.job("image"), &mut |_| Ok(()), &mut |_| {}).unwrap_err()
    };
    let error = run(Bad(10, io::ErrorKind::UnexpectedEof), &Map::dense(20));
    assert!(matches!(error, BundleError::Short { at: 0, bytes: 20 }), "{error}");
    let error = run(Bad(10, io::ErrorKind::PermissionDenied), &Map::new(20_000, Some(512..600)));
    assert!(matches!(error, BundleError::Read { at: 512, .. }), "{error}");
    // What failed hands nothing over any more.
    let mut taken = 0;
    let mut sink = |_| {
        taken += 1;
        Ok(())
    };
    let job = Job { part_bytes: 8, ..keys.job("image") };
    let mut image = Bad(1 << 20, io::ErrorKind::UnexpectedEof);
    let error = bundle(&mut image, &Map::dense((1 << 20) + 1), &job, &mut sink, &mut |_| {}).unwrap_err();
    assert!(matches!(error, BundleError::Short { at: 1_048_576, bytes: 1_048_577 }), "{error}");
    assert!(taken < 100, "{taken}");
    let image = noise(100_000);
    let mut taken = 0;
    let mut sink = |part: Part| {
        taken += 1;
        if part.index == 1 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    };
    let job = Job { part_bytes: 30_000, ..keys.job("image") };
    let error = bundle(&mut Cursor::new(&image), &Map::dense(100_000), &job, &mut sink, &mut |_| {}).unwrap_err();
    assert!(matches!(error, BundleError::Sink { index: 1, .. }), "{error}");
    assert_eq!(taken, 2);
    // As does a target.
    let (manifest, parts) = pack(&image, &Map::dense(100_000), &job).unwrap();
    let mut small = [0; 1000];
    let mut target = Plain(&mut small[..]);
    let mut source =
        |index: usize, _: &str| -> io::Result<Box<dyn Read>> { Ok(Box::new(Cursor::new(parts[index].bytes.clone()))) };
    let error = unbundle(&manifest, &Order::new(&keys.key), &mut source, &mut target, &mut |_| {}).unwrap_err();
    assert!(matches!(error, UnbundleError::Target(_)), "{error}");
}

#[test]
fn parts_go_out_while_the_image_is_read_and_holes_are_kept() {
    let keys = Keys::new();
    let file = tempfile::tempfile().unwrap();
    let size = 64 << 20;
    file.set_len(size).unwrap();
    for at in [0, 20 << 20, 40 << 20] {
        (&file).seek(SeekFrom::Start(at)).unwrap();
        (&file).write_all(&noise(3 << 20)).unwrap();
    }
    let map = Map::of_file(&file).unwrap();
    let job = Job { part_bytes: 1 << 20, level: 1, ..keys.job("image") };
    let (mut parts, seen) = (Vec::new(), std::cell::RefCell::new(Vec::new()));
    let mut sink = |part: Part| {
        seen.borrow_mut().push(None);
        parts.push(part);
        Ok(())
    };
    let mut tell = |progress: Progress| seen.borrow_mut().push(Some(progress));
    let manifest = bundle(&mut &file, &map, &job, &mut sink, &mut tell).unwrap();
    let seen = seen.into_inner();
    let first = seen.iter().position(Option::is_none).unwrap();
    assert!(seen[first..].iter().flatten().count() > 4, "a part went out long before the end");
    let told: Vec<_> = seen.iter().flatten().collect();
    assert!(told.is_sorted_by_key(|progress| (progress.done, progress.bundled, progress.parts)));
    assert_eq!(told.last().map(|last| (last.done, last.bytes, last.parts)), Some((size, size, parts.len())));

    let back = tempfile::tempfile().unwrap();
    let mut source =
        |index: usize, _: &str| -> io::Result<Box<dyn Read>> { Ok(Box::new(Cursor::new(parts[index].bytes.clone()))) };
    let mut told = Vec::new();
    unbundle(&manifest, &Order::new(&keys.key), &mut source, &mut SparseFile(&back), &mut |at| told.push(at)).unwrap();
    assert_eq!(told.last().map(|last| (last.done, last.parts)), Some((size, parts.len())));
    let bytes = |file: &std::fs::File| {
        let (mut file, mut bytes) = (file, Vec::new());
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    };
    assert!(bytes(&file) == bytes(&back));
    if map.is_sparse() {
        use std::os::unix::fs::MetadataExt as _;
        assert!(back.metadata().unwrap().blocks() * 512 < size / 2, "its holes are holes again");
    }
}
