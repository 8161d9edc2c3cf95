//! Rules: which instances may become hosts of which appliance without having been announced.

use jiff::{SignedDuration, Timestamp};
use rocks_common::ids::{ApplianceName, EnrolmentName};
use rocks_provision::ids::{AccountId, AmiId, ProvisionId};
use serde::{Deserialize, Serialize};

use super::document::Document;

/// How long after its launch an instance may enrol, if nobody says otherwise.
pub const AGE: u32 = 15 * 60;
/// The longest that may be: a document can be copied, and is good for so long.
pub const LONGEST_AGE: u32 = 24 * 3600;
/// How far the cloud's clock may be ahead of ours.
const AHEAD: SignedDuration = SignedDuration::from_mins(2);

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its name.
    pub name: EnrolmentName,
    /// What the instances become.
    pub appliance: ApplianceName,
    /// Whose they are.
    pub account: AccountId,
    /// Where they are.
    pub region: String,
    /// What they were made of: any of these.
    pub images: Vec<AmiId>,
    /// How many seconds after its launch an instance may enrol.
    pub age_seconds: u32,
    /// How many living hosts there may be of it; none: any number.
    pub count: Option<u32>,
    /// The provision that it came with, and goes with.
    #[serde(default)]
    pub provision: Option<ProvisionId>,
}

impl Rule {
    /// What is wrong with it, if anything.
    ///
    /// # Errors
    /// Why it would let nobody in, or too many.
    pub fn check(&self) -> Result<(), String> {
        if self.images.is_empty() {
            return Err("an enrolment is for instances of at least one image".to_owned());
        }
        if self.images.len() > 100 {
            return Err("an enrolment is for at most 100 images".to_owned());
        }
        if !(60..=LONGEST_AGE).contains(&self.age_seconds) {
            return Err("the age is between 1 minute and 24 hours".to_owned());
        }
        let is_region = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if self.region.is_empty() || self.region.len() > 40 || !self.region.bytes().all(is_region) {
            return Err(format!("`{}` is no region", self.region));
        }
        Ok(())
    }

    fn fits(&self, document: &Document) -> bool {
        self.account == document.account_id
            && self.region == document.region
            && self.images.contains(&document.image_id)
    }
}

/// Why no rule lets an instance in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unwanted {
    /// There is no such rule, or it is for others.
    #[error("no enrolment is for an instance of {image} of account {account} in {region}")]
    NoRule {
        /// Its image.
        image: AmiId,
        /// Its account.
        account: AccountId,
        /// Its region.
        region: String,
    },
    /// Several fit, and it does not say which it means.
    #[error("enrolments {0} and {1} are both for it, and its join document names none")]
    Several(EnrolmentName, EnrolmentName),
    /// It has been there for too long.
    #[error("it was launched {seconds} s ago, and enrolment {rule} is for at most {most} s")]
    TooOld {
        /// The rule.
        rule: EnrolmentName,
        /// How old it is.
        seconds: i64,
        /// How old it may be.
        most: u32,
    },
    /// It says that it will be launched.
    #[error("it says that it is launched in {0} s: one of the clocks is wrong")]
    TooNew(i64),
}

impl Unwanted {
    /// Nothing is for such an instance.
    pub(super) fn no_rule(document: &Document) -> Self {
        Self::NoRule {
            image: document.image_id.clone(),
            account: document.account_id.clone(),
            region: document.region.clone(),
        }
    }
}

/// The rule that lets an instance in: the one that its join document names, or the only one that fits.
///
/// # Errors
/// None does.
pub fn choose<'r>(
    rules: &'r [Rule],
    named: Option<&EnrolmentName>,
    document: &Document,
    now: Timestamp,
) -> Result<&'r Rule, Unwanted> {
    let mut fitting = rules.iter().filter(|rule| named.is_none_or(|name| rule.name == *name) && rule.fits(document));
    let rule = fitting.next().ok_or_else(|| Unwanted::no_rule(document))?;
    if let Some(other) = fitting.next() {
        return Err(Unwanted::Several(rule.name.clone(), other.name.clone()));
    }
    is_young(document, &rule.name, rule.age_seconds, now)?;
    Ok(rule)
}

/// Whether an instance was launched as lately as a rule says.
pub(super) fn is_young(document: &Document, rule: &EnrolmentName, most: u32, now: Timestamp) -> Result<(), Unwanted> {
    let age = now.duration_since(document.pending_time);
    if age < -AHEAD {
        return Err(Unwanted::TooNew(-age.as_secs()));
    }
    if age > SignedDuration::from_secs(i64::from(most)) {
        return Err(Unwanted::TooOld { rule: rule.clone(), seconds: age.as_secs(), most });
    }
    Ok(())
}
