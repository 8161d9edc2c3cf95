//! The advisor: which way to provision, known before anything is paid for.
//!
//! For each method it predicts the time by phase, the bytes across the WAN and the cost by component, chooses by what the user
//! prefers, and says what would change the choice. A question ([`Ask`]) says what is to be done, a [`Site`] what the link, the
//! machines and the cloud are like, a [`PriceBook`] what was asked for on some day, and a [`History`] what the site measured;
//! [`advise`] makes an [`Advice`] of them. `docs/advisor.md` derives the model; [`paper`] holds it against the paper's tables.
//!
//! It is pure: no files, no clock, no network. Whoever calls it reads the files and stores the history.

pub mod advice;
pub mod ask;
pub mod cost;
pub mod estimate;
pub mod history;
pub mod link;
pub mod output;
pub mod paper;
pub mod phase;
pub mod prices;
pub mod site;
pub mod turning;
pub mod units;

pub use advice::{Advice, advise};
pub use ask::{Ask, Image, Method, Prefer, Software, Task};
pub use cost::Bill;
pub use estimate::{AdviseError, Estimate, Phase, Unavailable};
pub use history::{Accuracy, History, Learned, Observation, Run};
pub use link::Link;
pub use phase::{Load, Machine, PhaseKind};
pub use prices::{InstanceType, PriceBook, PriceError};
pub use site::{Cloud, Cut, Import, PackageSource, Site};
pub use turning::{Dimension, Turn};
pub use units::{Bytes, Money, Rate, Span};
