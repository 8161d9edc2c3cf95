//! The answer: every method's estimate, the choice, and what would change it.

use serde::Serialize;

use crate::ask::{Ask, Method, Prefer};
use crate::estimate::{AdviseError, Estimate, Unavailable, estimates};
use crate::history::{Accuracy, History};
use crate::link::Link;
use crate::prices::PriceBook;
use crate::site::Site;
use crate::turning::{self, Turn};

/// The answer to a question.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Advice {
    /// The version of this form.
    pub api_version: &'static str,
    /// The question.
    pub ask: Ask,
    /// The link that it was answered for.
    pub link: Link,
    /// Whose prices.
    pub prices: String,
    /// The method to take.
    pub choice: Method,
    /// What each method takes and costs.
    pub estimates: Vec<Estimate>,
    /// Methods that are out of the question.
    pub unavailable: Vec<Unavailable>,
    /// What would change the choice.
    pub turns: Vec<Turn>,
    /// Earlier predictions beside what happened.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub accuracy: Vec<Accuracy>,
}

/// How good an estimate is: less is better.
#[must_use]
pub fn score(estimate: &Estimate, prefer: Prefer) -> f64 {
    let (time, cost) = (estimate.time.seconds(), estimate.bill.total.dollars());
    match prefer {
        Prefer::Time => time,
        Prefer::Cost => cost,
        Prefer::Balance => time * cost,
    }
}

/// The best of these estimates; of equals the first, which is the one that is shown first.
#[must_use]
pub fn best(estimates: &[Estimate], prefer: Prefer) -> Option<&Estimate> {
    estimates.iter().reduce(|best, one| if score(one, prefer) < score(best, prefer) { one } else { best })
}

/// Answers a question. The daemon calls this with what it knows: image sizes from its store, packages from its mirror, its history.
///
/// # Errors
/// The question names an instance type without a price, or no instance.
pub fn advise(ask: &Ask, site: &Site, book: &PriceBook, history: &History) -> Result<Advice, AdviseError> {
    let site = site.with_history(history);
    let (estimates, unavailable) = estimates(ask, &site, book)?;
    // Some method is always left: an image can be shipped, and what runs can converge.
    let choice = best(&estimates, ask.prefer).map_or(Method::Udt, |best| best.method);
    let turns = turning::turns(ask, &site, book)?;
    Ok(Advice {
        api_version: "rocks/v1",
        ask: ask.clone(),
        link: site.link,
        prices: book.name(),
        choice,
        estimates,
        unavailable,
        turns,
        accuracy: history.accuracy(),
    })
}

impl Advice {
    /// The estimate of the choice.
    #[must_use]
    pub fn chosen(&self) -> Option<&Estimate> {
        self.estimates.iter().find(|one| one.method == self.choice)
    }
}
