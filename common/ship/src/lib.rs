//! Ships bytes to the cloud.
//!
//! [`transport`] carries one ordered, reliable stream of bytes between two machines, whatever the path between them is like.
//! What is shipped, and how it is put down at the other end, is not known here.

pub mod transport;
