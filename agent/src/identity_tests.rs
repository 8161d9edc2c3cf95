//! Identities for tests: a frontend's answer with a real key and certificate.

use super::*;

/// An answer of the frontend with a certificate for a new key, and that key.
pub(crate) fn answer() -> (EnrolResponse, String) {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    (answer_for(&key), key.serialize_pem())
}

/// An answer to whoever is on the way to an identity in `state`.
pub(crate) fn answer_to(state: &Path) -> EnrolResponse {
    let key = fs::read_to_string(state.join(FOLDER).join(PENDING)).expect("a key");
    answer_for(&KeyPair::from_pem(&key).expect("a key"))
}

fn answer_for(key: &KeyPair) -> EnrolResponse {
    let certificate = CertificateParams::new(Vec::new()).expect("parameters").self_signed(key).expect("signed").pem();
    let seal = rocks_common::seal::Sealer::generate().expect("a key");
    let seal_key = rocks_common::seal::Sealer::from_pkcs8(&seal).expect("a key").public();
    let not_after = "2030-01-08T00:00:00Z".parse().expect("a time");
    let host = "a-0-0".parse().expect("a name");
    EnrolResponse { host, ca: certificate.clone(), certificate, seal_key, not_after }
}

pub(crate) fn now() -> Timestamp {
    "2030-01-01T00:00:00Z".parse().expect("a time")
}

/// An identity that was kept in a folder that is gone, and when it ends.
pub(crate) fn made() -> (Identity, Timestamp) {
    let folder = tempfile::tempdir().expect("a folder");
    let (given, key) = answer();
    let made = store(folder.path(), "https://f", &given, &key, now()).expect("stored");
    let end = made.not_after;
    (made, end)
}

/// Keeps an identity with a certificate for this time in `state`.
pub(crate) fn keep(state: &Path, since: Timestamp, not_after: Timestamp) {
    let (given, key) = answer();
    store(state, "https://f", &EnrolResponse { not_after, ..given }, &key, since).expect("stored");
}

/// Keeps an identity for this time with the frontend at `frontend`, whose authority is `ca`, and gives it.
pub(crate) fn at(state: &Path, frontend: &str, ca: &str, since: Timestamp, not_after: Timestamp) -> Identity {
    let (given, key) = answer();
    let given = EnrolResponse { not_after, ca: ca.to_owned(), ..given };
    store(state, frontend, &given, &key, since).expect("stored")
}
