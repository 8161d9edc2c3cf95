use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaKeyPair};
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::*;

/// A key and its certificate.
struct Signer {
    key: RsaKeyPair,
    pem: String,
}

impl Signer {
    fn new() -> Self {
        let key = RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).expect("a key");
        let encoded: aws_lc_rs::encoding::Pkcs8V1Der<'_> = key.as_der().expect("encoded");
        let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&encoded.as_ref().into(), &rcgen::PKCS_RSA_SHA256)
            .expect("it");
        let certificate = rcgen::CertificateParams::default().self_signed(&pair).expect("a certificate");
        Self { key, pem: certificate.pem() }
    }

    fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), bytes, &mut signature).expect("signed");
        signature
    }
}

static OURS: LazyLock<Signer> = LazyLock::new(Signer::new);
static OTHERS: LazyLock<Signer> = LazyLock::new(Signer::new);

fn certificates() -> Certificates {
    let mut all = Certificates::default();
    all.add("us-east-1", OURS.pem.as_bytes()).expect("a certificate");
    all.add("eu-west-1", OTHERS.pem.as_bytes()).expect("a certificate");
    all
}

fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut out = vec![tag];
    match content.len() {
        short @ 0..0x80 => out.push(short as u8),
        long => out.extend([0x82, (long >> 8) as u8, long as u8]),
    }
    [out, content].concat()
}

fn open(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    [vec![tag, 0x80], parts.concat(), vec![0, 0]].concat()
}

const OID_DATA: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1];
const OID_SIGNED: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2];
const OID_TYPE: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 3];
const OID_DIGEST: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 4];
const OID_TIME: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 5];
const SHA: &[u8] = &[0x30, 13, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0];
const SHA_512: &[u8] = &[0x30, 13, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3, 5, 0];
const RSA: &[u8] = &[0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];

/// How a message is written.
#[derive(Debug, Clone, Copy)]
struct Form {
    attached: bool,
    attributes: bool,
    /// As EC2 does, and not in DER.
    open: bool,
}

const EC2: Form = Form { attached: true, attributes: true, open: true };

fn forms() -> impl Iterator<Item = Form> {
    (0..8).map(|n| Form { attached: n & 1 == 0, attributes: n & 2 == 0, open: n & 4 == 0 })
}

fn attributes(content: &[u8]) -> Vec<Vec<u8>> {
    vec![
        der(0x30, &[OID_TYPE, &der(0x31, &[OID_DATA])]),
        der(0x30, &[OID_TIME, &der(0x31, &[&der(0x17, &[b"260101000000Z"])])]),
        der(0x30, &[OID_DIGEST, &der(0x31, &[&der(4, &[digest(&SHA256, content).as_ref()])])]),
    ]
}

/// A message with these attributes in this order, if any, and this signature.
fn wrap(
    content: &[u8],
    form: Form,
    attributes: Option<&[Vec<u8>]>,
    algorithms: [&[u8]; 2],
    signature: &[u8],
) -> Vec<u8> {
    let make = if form.open { open } else { der };
    let version = &[2, 1, 1];
    let name = der(0x30, &[&der(0x30, &[]), &[2, 1, 7]]);
    let attributes = attributes.map_or(Vec::new(), |all| der(0xa0, &[&all.concat()]));
    let signer = der(0x30, &[version, &name, algorithms[0], &attributes, algorithms[1], &der(4, &[signature])]);
    let octets = if form.open {
        let (a, b) = content.split_at(content.len() / 2);
        open(0x24, &[&der(4, &[a]), &der(4, &[b])])
    } else {
        der(4, &[content])
    };
    let inside = if form.attached { make(0xa0, &[&octets]) } else { Vec::new() };
    let data = make(0x30, &[version, &der(0x31, &[SHA]), &make(0x30, &[OID_DATA, &inside]), &der(0x31, &[&signer])]);
    make(0x30, &[OID_SIGNED, &make(0xa0, &[&data])])
}

fn message(content: &[u8], form: Form, by: &Signer) -> Vec<u8> {
    if !form.attributes {
        return wrap(content, form, None, [SHA, RSA], &by.sign(content));
    }
    // They travel in another order than they are signed in.
    let mut all = attributes(content);
    let signed = ber::set_of(all.iter().map(Vec::as_slice).collect());
    all.reverse();
    wrap(content, form, Some(&all), [SHA, RSA], &by.sign(&signed))
}

fn shown(document: &str, message: &[u8]) -> InstanceIdentity {
    let signature: Vec<String> =
        STANDARD.encode(message).as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    InstanceIdentity { document: document.to_owned(), signature: signature.join("\n"), enrolment: None }
}

fn document(account: &str, region: &str, image: &str, pending: &str) -> String {
    format!(
        "{{\n  \"accountId\" : \"{account}\",\n  \"architecture\" : \"x86_64\",\n  \"billingProducts\" : null,\n  \
         \"imageId\" : \"{image}\",\n  \"instanceId\" : \"i-0123456789abcdef0\",\n  \"pendingTime\" : \"{pending}\",\n  \
         \"region\" : \"{region}\",\n  \"version\" : \"2017-09-30\"\n}}"
    )
}

fn usual() -> String {
    document("123456789012", "us-east-1", "ami-0123456789abcdef0", "2026-01-01T00:00:00Z")
}

#[test]
fn what_ec2_signed_is_believed_in_every_form_that_it_may_have() {
    for form in forms() {
        let text = usual();
        let seen = verify(&shown(&text, &message(text.as_bytes(), form, &OURS)), &certificates());
        let seen = seen.unwrap_or_else(|error| panic!("{form:?}: {error}"));
        assert_eq!(seen.instance_id.as_str(), "i-0123456789abcdef0");
        assert_eq!((seen.account_id.as_str(), seen.architecture.as_str()), ("123456789012", "x86_64"));
        // Another key, and a key of another region.
        let strange = shown(&text, &message(text.as_bytes(), form, &OTHERS));
        assert_eq!(verify(&strange, &certificates()), Err(Unsigned::Key.into()), "{form:?}");
        let nobody = verify(&shown(&text, &message(text.as_bytes(), form, &OURS)), &Certificates::default());
        assert_eq!(nobody, Err(Disbelief::Region("us-east-1".to_owned())));
        // What is signed is one thing, and what is shown another.
        let other = text.replace("i-0123456789abcdef0", "i-0123456789abcdef1");
        let swapped = verify(&shown(&other, &message(text.as_bytes(), form, &OURS)), &certificates());
        assert!(matches!(swapped, Err(Disbelief::Unsigned(Unsigned::Content | Unsigned::Key))), "{form:?}");
    }
}

#[test]
fn openssl_signs_messages_that_are_believed() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let encoded: aws_lc_rs::encoding::Pkcs8V1Der<'_> = OURS.key.as_der().expect("encoded");
    std::fs::write(at("key"), encoded.as_ref()).expect("written");
    std::fs::write(at("certificate"), &OURS.pem).expect("written");
    std::fs::write(at("document"), usual()).expect("written");
    for more in [&["-nodetach"][..], &[], &["-nodetach", "-noattr"], &["-noattr"], &["-nodetach", "-stream", "-indef"]]
    {
        #[expect(clippy::disallowed_methods, reason = "a test asks another implementation")]
        let done = std::process::Command::new("openssl")
            .current_dir(folder.path())
            .args(["smime", "-sign", "-binary", "-md", "sha256", "-in", "document", "-signer", "certificate"])
            .args(["-inkey", "key", "-keyform", "DER", "-outform", "DER", "-out", "message"])
            .args(more)
            .output();
        // A machine without openssl has the other tests.
        let Ok(done) = done else { return };
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let message = std::fs::read(at("message")).expect("a message");
        verify(&shown(&usual(), &message), &certificates()).unwrap_or_else(|error| panic!("{more:?}: {error}"));
    }
}

#[test]
fn attributes_must_name_what_is_signed_once_and_by_the_algorithm_that_is_said() {
    let text = usual();
    let content = text.as_bytes();
    let try_with = |all: &[Vec<u8>], algorithms| {
        let signed = ber::set_of(all.iter().map(Vec::as_slice).collect());
        let message = wrap(content, EC2, Some(all), algorithms, &OURS.sign(&signed));
        verify(&shown(&text, &message), &certificates()).map(drop)
    };
    let good = attributes(content);
    assert_eq!(try_with(&good, [SHA, RSA]), Ok(()));
    let missing = |what| Err(Disbelief::Unsigned(Malformed(what).into()));
    assert_eq!(try_with(&good[..2], [SHA, RSA]), missing("an attribute is missing"));
    assert_eq!(try_with(&good[1..], [SHA, RSA]), missing("an attribute is missing"));
    let twice = [good.clone(), good[2..].to_vec()].concat();
    assert_eq!(try_with(&twice, [SHA, RSA]), missing("an attribute is there twice"));
    let mut wrong = good.clone();
    wrong[2] = attributes(b"something else")[2].clone();
    assert_eq!(try_with(&wrong, [SHA, RSA]), Err(Unsigned::Content.into()));
    wrong.clone_from(&good);
    wrong[0] = der(0x30, &[OID_TYPE, &der(0x31, &[OID_SIGNED])]);
    assert_eq!(try_with(&wrong, [SHA, RSA]), Err(Unsigned::Content.into()));
    assert_eq!(try_with(&good, [SHA_512, RSA]), Err(Unsigned::Algorithm("another digest").into()));
    assert_eq!(try_with(&good, [SHA, SHA]), Err(Unsigned::Algorithm("another signature").into()));
    // Attributes that are signed as they travel, out of order, are not what the standard signs.
    let unsorted: Vec<Vec<u8>> = good.iter().rev().cloned().collect();
    let signature = OURS.sign(&der(0x31, &[&unsorted.concat()]));
    let message = wrap(content, EC2, Some(&unsorted), [SHA, RSA], &signature);
    assert_eq!(verify(&shown(&text, &message), &certificates()), Err(Unsigned::Key.into()));
    // Attributes that somebody put there, over a signature of the content; and what is signed by another digest than it says.
    let message = wrap(content, EC2, Some(&good), [SHA, RSA], &OURS.sign(content));
    assert_eq!(verify(&shown(&text, &message), &certificates()), Err(Unsigned::Key.into()));
    let mut signature = vec![0; OURS.key.public_modulus_len()];
    OURS.key.sign(&RSA_PKCS1_SHA512, &SystemRandom::new(), content, &mut signature).expect("signed");
    let message = wrap(content, Form { attributes: false, ..EC2 }, None, [SHA, RSA], &signature);
    assert_eq!(verify(&shown(&text, &message), &certificates()), Err(Unsigned::Key.into()));
}

#[test]
fn a_message_that_is_cut_or_has_more_is_refused() {
    let text = usual();
    for form in forms() {
        let whole = message(text.as_bytes(), form, &OURS);
        for cut in 0..whole.len() {
            assert!(verify(&shown(&text, &whole[..cut]), &certificates()).is_err(), "{form:?}: {cut}");
        }
        let more = [&whole[..], &[5, 0]].concat();
        assert!(verify(&shown(&text, &more), &certificates()).is_err(), "{form:?}");
    }
}

/// Each bit of the message and of the document. Bits that nobody signed are those of what the message says of itself beside: its versions, the
/// name of the signer, parameters of algorithms, and which of two forms a length has.
#[test]
fn a_flipped_bit_changes_nothing_of_what_is_believed() {
    let text = usual();
    let whole = message(text.as_bytes(), EC2, &OURS);
    let good = verify(&shown(&text, &whole), &certificates()).expect("believed");
    let mut passed = Vec::new();
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if let Ok(seen) = verify(&shown(&text, &flipped), &certificates()) {
            assert_eq!(seen, good);
            passed.push(bit / 8);
        }
    }
    passed.dedup();
    // Two versions, the outer digest, the signer's name, the ends of algorithms: no byte of content, attributes or signature.
    assert!(passed.len() < 40, "{passed:?}");
    let signature = whole.len() - 262..whole.len() - 6;
    assert!(!passed.iter().any(|at| signature.contains(at)), "{passed:?}");
    for bit in 0..text.len() * 8 {
        let mut flipped = text.clone().into_bytes();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if let Ok(flipped) = String::from_utf8(flipped) {
            assert!(verify(&shown(&flipped, &whole), &certificates()).is_err(), "{flipped}");
        }
    }
}

#[test]
fn what_is_no_document_is_refused_before_anything_is_verified() {
    let big = format!("{{\"accountId\": \"{}\"}}", "1".repeat(9000));
    let deep = format!("{}{}", "[".repeat(4000), "]".repeat(4000));
    for bad in [
        "",
        "{}",
        "[]",
        &big,
        &deep,
        &document("12345678901", "us-east-1", "ami-0123456789abcdef0", "2026-01-01T00:00:00Z"),
        &document("123456789012", "us-east-1", "../ami", "2026-01-01T00:00:00Z"),
        &document("123456789012", "us-east-1", "ami-0123456789abcdef0", "yesterday"),
        &usual().replace("\"region\"", "\"imageId\" : \"ami-0123456789abcdef1\", \"region\""),
    ] {
        let seen = verify(&shown(bad, &message(bad.as_bytes(), EC2, &OURS)), &certificates());
        assert!(matches!(seen, Err(Disbelief::Document(_))), "{bad}: {seen:?}");
    }
    let no = InstanceIdentity { document: usual(), signature: "not base64!".to_owned(), enrolment: None };
    assert_eq!(verify(&no, &certificates()), Err(Disbelief::Encoding));
    let long = InstanceIdentity { document: usual(), signature: "A".repeat(40_000), enrolment: None };
    assert_eq!(verify(&long, &certificates()), Err(Disbelief::Encoding));
}

proptest! {
    #[test]
    fn noise_is_refused_and_nothing_breaks(bytes in prop::collection::vec(any::<u8>(), 0..400), at in 0..600_usize) {
        let text = usual();
        prop_assert!(verify(&shown(&text, &bytes), &certificates()).is_err());
        // Noise in a good message.
        let mut noisy = message(text.as_bytes(), EC2, &OURS);
        for (place, byte) in noisy.iter_mut().skip(at).zip(&bytes) {
            *place = *byte;
        }
        if let Ok(seen) = verify(&shown(&text, &noisy), &certificates()) {
            prop_assert_eq!(seen.instance_id.as_str(), "i-0123456789abcdef0");
        }
    }
}

fn rule(name: &str, images: &[&str]) -> Rule {
    Rule {
        name: name.parse().expect("a name"),
        appliance: "compute".parse().expect("a name"),
        account: "123456789012".parse().expect("an account"),
        region: "us-east-1".to_owned(),
        images: images.iter().map(|one| one.parse().expect("an id")).collect(),
        age_seconds: AGE,
        count: None,
        provision: None,
    }
}

#[test]
fn a_rule_lets_in_whom_it_is_for_and_in_time() {
    let read = |text: String| serde_json::from_str::<Document>(&text).expect("a document");
    let launched: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
    let after = |seconds| launched + SignedDuration::from_secs(seconds);
    let rules = [rule("a", &["ami-00000000000000001", "ami-0123456789abcdef0"]), rule("b", &["ami-00000000000000002"])];
    let us = read(usual());
    let named = |text: &str| text.parse().expect("a name");
    assert_eq!(choose(&rules, None, &us, after(60)).expect("it fits").name.as_str(), "a");
    assert_eq!(choose(&rules, Some(&named("a")), &us, after(900)).expect("it fits").name.as_str(), "a");
    for (text, what) in [
        (document("123456789013", "us-east-1", "ami-0123456789abcdef0", "2026-01-01T00:00:00Z"), "account"),
        (document("123456789012", "us-west-1", "ami-0123456789abcdef0", "2026-01-01T00:00:00Z"), "region"),
        (document("123456789012", "us-east-1", "ami-0123456789abcdef1", "2026-01-01T00:00:00Z"), "image"),
    ] {
        assert!(matches!(choose(&rules, None, &read(text), after(60)), Err(Unwanted::NoRule { .. })), "{what}");
    }
    // One that is meant and is for others, or is not there.
    for name in ["b", "c"] {
        assert!(matches!(choose(&rules, Some(&named(name)), &us, after(60)), Err(Unwanted::NoRule { .. })));
    }
    assert!(matches!(choose(&rules, None, &us, after(901)), Err(Unwanted::TooOld { seconds: 901, most: 900, .. })));
    assert!(choose(&rules, None, &us, after(-119)).is_ok());
    assert_eq!(choose(&rules, None, &us, after(-130)), Err(Unwanted::TooNew(130)));
    let both = [rule("a", &["ami-0123456789abcdef0"]), rule("b", &["ami-0123456789abcdef0"])];
    assert_eq!(choose(&both, None, &us, after(1)), Err(Unwanted::Several(named("a"), named("b"))));
    assert_eq!(choose(&both, Some(&named("b")), &us, after(1)).expect("it is named").name.as_str(), "b");
}

#[test]
fn a_rule_that_lets_in_nobody_or_too_many_is_none() {
    assert_eq!(rule("a", &["ami-0123456789abcdef0"]).check(), Ok(()));
    assert!(rule("a", &[]).check().is_err());
    for (age, region) in [(0, "us-east-1"), (90_000, "us-east-1"), (900, ""), (900, "US east")] {
        let bad = Rule { age_seconds: age, region: region.to_owned(), ..rule("a", &["ami-0123456789abcdef0"]) };
        assert!(bad.check().is_err(), "{age} {region}");
    }
}

#[test]
fn certificates_are_those_with_the_right_key() {
    let mut all = Certificates::default();
    assert_eq!(all.add("us-east-1", b"nothing"), Err(BadCertificate::None));
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(all.add("us-east-1", broken.as_bytes()), Err(BadCertificate::Malformed(_))));
    let pair = rcgen::KeyPair::generate().expect("a key");
    let curve = rcgen::CertificateParams::default().self_signed(&pair).expect("a certificate").pem();
    assert_eq!(all.add("us-east-1", curve.as_bytes()), Err(BadCertificate::Key));
    assert!(all.is_empty());
    // A file with two: AWS changes its keys now and then.
    all.add("us-east-1", format!("{}{}", OTHERS.pem, OURS.pem).as_bytes()).expect("both");
    assert_eq!((all.of("us-east-1").len(), all.of("eu-west-1").len()), (2, 0));
    let text = usual();
    assert!(verify(&shown(&text, &message(text.as_bytes(), EC2, &OURS)), &all).is_ok());
}
