//! From an image to running instances on EC2.
//!
//! - [`ids`]: what EC2 calls things.
//! - [`cloud`]: what is asked of a cloud, as a trait; its implementation for AWS is a crate of its own, so that nothing here needs an SDK.
//! - [`objects`]: what is asked of an object store, likewise.
//! - [`order`]: what an administrator asks for.
//! - [`plan`]: the steps of each method, as values: they can be printed before anything is paid for. Pure.
//! - [`record`]: how far a provision is. It is kept after every change, so that a frontend that was killed goes on from there.
//! - [`engine`]: carries a record out, as far as it is not; [`steps`] are its hands, [`template`] one of them, [`bundle`] for what goes through
//!   S3. What is there already is found by token, name or tag.
//! - [`undo`]: ends what a provision began, by its tags alone, and finds what nobody owns.
//! - [`retry`]: what may be tried again, and when.
//! - [`iam`]: the least that the frontend must be allowed to do.

mod bundle;
pub mod cloud;
pub mod engine;
pub mod iam;
pub mod ids;
mod instances;
pub mod objects;
pub mod order;
pub mod plan;
pub mod record;
pub mod retry;
mod steps;
mod template;
pub mod undo;

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
