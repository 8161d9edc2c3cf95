//! The effects: what makes the cloud's words true.
//!
//! `disks` keeps bytes, `unbundle` opens bundles, and neither needs rights; `machines` says what a room for machines can do, `still` is the one where nothing boots, and
//! `nspawn` the one where everything does, with `net`, `loops` and `boot` under it. `carrier` brings effects there and events back.

mod boot;
mod carrier;
pub(crate) mod disks;
mod loops;
mod machines;
mod net;
mod nspawn;
mod partitions;
mod share;
mod still;
mod unbundle;

pub(crate) use carrier::Carrier;
pub(crate) use disks::Disks;
pub(crate) use machines::Machines;
pub(crate) use net::{IMDS, Net, WAN_ENDS, listen_in, missing, sweep};
pub(crate) use nspawn::Nspawn;
pub(crate) use still::Still;
