//! Ships disk images to the cloud.
//!
//! [`image`] finds out what of a disk is in use; [`shipment`] sends what the other end lacks and proves that it arrived; [`tree`] does the same with
//! files instead of blocks, [`bootable`] with files on a disk that boots.
//! [`transport`] carries one ordered, reliable stream of bytes between two machines, whatever the path between them is like.

pub mod bootable;
pub mod image;
pub mod shipment;
pub mod transport;
pub mod tree;
