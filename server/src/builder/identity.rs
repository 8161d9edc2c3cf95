//! Identifiers that follow from what they are of, so that the same image has the same ones.

use uuid::Uuid;

/// Derives the identifiers of one image.
#[derive(Debug, Clone)]
pub(super) struct Identities {
    seed: blake3::Hash,
}

impl Identities {
    /// Those of the image of `appliance` made from `kickstart`.
    pub(super) fn of(appliance: &str, kickstart: &str) -> Self {
        let mut hash = blake3::Hasher::new_derive_key("rocks image 1 identifiers");
        hash.update(&(appliance.len() as u64).to_le_bytes()).update(appliance.as_bytes()).update(kickstart.as_bytes());
        Self { seed: hash.finalize() }
    }

    /// The identifier of `what`, as a UUID of version 8 (RFC 9562: whatever the maker likes).
    pub(super) fn uuid(&self, what: &str) -> Uuid {
        let hash = blake3::keyed_hash(self.seed.as_bytes(), what.as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.as_bytes()[..16]);
        uuid::Builder::from_custom_bytes(bytes).into_uuid()
    }

    /// A FAT volume's serial number.
    pub(super) fn serial(&self, what: &str) -> u32 {
        self.uuid(what).as_fields().0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_image_has_the_same_identifiers_and_another_has_others() {
        let (a, again, b) = (Identities::of("lite", "x"), Identities::of("lite", "x"), Identities::of("litex", ""));
        assert_eq!(a.uuid("disk"), again.uuid("disk"));
        assert!(a.uuid("disk") != a.uuid("/") && a.uuid("disk") != b.uuid("disk"));
        assert_eq!(a.uuid("/").get_version_num(), 8);
    }
}
