//! What people and programs read of an answer: a table, JSON, a picture.

mod scale;
pub mod svg;
pub mod table;

use crate::advice::Advice;

/// The answer as JSON. Times are seconds, sizes bytes, rates bits a second, money decimal text in dollars.
///
/// # Errors
/// A number in it is not finite, which JSON cannot say.
pub fn json(advice: &Advice) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(advice).map(|text| text + "\n")
}
