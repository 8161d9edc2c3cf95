//! What the end-to-end tests and the demonstration stand on.
//!
//! - [`lite`]: the RPM-based lite appliance under test, made from what the machine's distribution offers.
//! - [`world`]: a private network with the real frontend in it, and booted instances.
//! - [`loopback`]: the real frontend alone, on loopback, with hosts that only fetch and report.
//! - [`shipyard`]: a frontend and receivers for shipments alone.
//! - [`turns`]: what tests ask of an instance's turns and reports.
//! - [`beside`]: a frontend beside a local EC2.
//! - [`faults`], [`hostile`]: what the fault tests put in the way.
//! - [`wan`]: a long, lossy way between two network namespaces.
//! - [`pki`]: certificates for benches.
//! - [`process`]: the only room here that spawns; it and [`wan`] live in `minicloud`, which needs them too.
//!
//! Nothing here touches anything outside the namespaces and folders that it made, and all of it is gone when the value is dropped.

pub mod beside;
pub mod faults;
pub mod hostile;
pub mod lite;
pub mod loopback;
pub mod pki;
pub mod shipyard;
pub mod turns;
pub mod world;

pub use rocks_minicloud::{process, wan};
