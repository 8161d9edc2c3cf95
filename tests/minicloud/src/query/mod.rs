//! The Query protocol: parameters that come as a form, answers that go as XML.

pub(crate) mod params;
pub(crate) mod xml;
