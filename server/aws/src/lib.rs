//! The cloud of [`rocks_provision`], as EC2, the EBS direct API and S3 have it. Nothing else knows Amazon's SDK.
//!
//! - [`client`]: [`Aws`], which region and whose keys, and how long to wait for an answer. What may be asked again is not decided here but
//!   in [`rocks_provision::retry`]: the SDK tries once.
//! - [`cloud`]: each call. Long ones have rooms of their own: [`group`], [`instance`], [`volume`], [`snapshot`], [`import`], [`image`], [`template`], and
//!   [`owned`], which finds what is ours. [`gone`] is how things end. [`objects`] are those of S3.
//! - [`error`]: what AWS's codes mean. Pure.
//! - [`name`]: tokens, tags and filters. Pure.

mod client;
mod cloud;
mod error;
mod gone;
mod group;
mod image;
mod import;
mod instance;
mod name;
mod objects;
mod owned;
mod snapshot;
mod template;
mod volume;

pub use client::{Aws, Keys, Settings};
pub use error::classify;
