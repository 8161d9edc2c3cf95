//! The instance identity document.

use jiff::Timestamp;
use rocks_provision::ids::{AccountId, AmiId, InstanceId};
use serde::Deserialize;

/// Most bytes of a document. AWS's have about 500.
pub(super) const BYTES: usize = 8 << 10;

/// What EC2 says of an instance, as far as it counts here.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    /// Whose it is.
    pub account_id: AccountId,
    /// Where it is.
    pub region: String,
    /// What it was made of.
    pub image_id: AmiId,
    /// What it is called.
    pub instance_id: InstanceId,
    /// When it was launched; if it was stopped since, when it was started last.
    pub pending_time: Timestamp,
    /// `x86_64`, `arm64`.
    #[serde(default)]
    pub architecture: String,
}
