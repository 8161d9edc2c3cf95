//! What the site measured, and what follows for the next prediction.
//!
//! Each phase has a fixed part and one that grows with its load ([`crate::phase`]). What is learned for a phase is a factor
//! for each of the two. The factors' prior is 1, give or take a factor of e; an observation is worth the true value, give or take
//! 15%; so the first one already counts for almost everything, and later ones average the noise out. Recent ones count for
//! more, and those far from the others for nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ask::Method;
use crate::estimate::Estimate;
use crate::link::Link;
use crate::phase::{self, Load, Parts, PhaseKind};
use crate::site::Site;
use crate::units::Span;

/// Standard deviation of the logarithm of what is not known before anything was measured: a factor of e.
const PRIOR_SPREAD: f64 = 1.0;
/// Standard deviation of an observation beside the truth, relative.
const NOISE: f64 = 0.15;
/// How much of its weight an observation loses with each later one of its phase.
const FADING: f64 = 0.9;
/// Observations this many times the usual deviation away from the median do not count.
const OUTLIER: f64 = 3.0;
/// The least deviation that is taken for usual, as a logarithm: three observations that agree by chance prove nothing.
const LEAST_DEVIATION: f64 = 0.1;
/// How far the two factors of a phase may stand apart from their common one, relative.
const SHAPE_SPREAD: f64 = 0.6;
/// Observations that are read: older ones have faded away.
const MOST: usize = 200;

/// A phase as it was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// Which.
    pub phase: PhaseKind,
    /// What it had to do.
    #[serde(default)]
    pub load: Load,
    /// What it took.
    pub took: Span,
}

/// A provision, a shipment or a reconfiguration that came to its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// When it began, as RFC 3339: for people, and to put runs in order.
    pub at: String,
    /// By which method.
    pub method: Method,
    /// How many instances.
    pub count: u64,
    /// The link as it was taken to be.
    pub link: Link,
    /// What was predicted, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted: Option<Span>,
    /// What it took in all.
    pub took: Span,
    /// Its phases.
    pub phases: Vec<Observation>,
}

impl Run {
    /// A run that was predicted by `estimate`, with what its phases took.
    #[must_use]
    pub fn of(
        at: impl Into<String>,
        estimate: &Estimate,
        count: u64,
        link: Link,
        took: Span,
        phases: Vec<Observation>,
    ) -> Self {
        Self { at: at.into(), method: estimate.method, count, link, predicted: Some(estimate.time), took, phases }
    }
}

/// Earlier runs, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// The runs.
    pub runs: Vec<Run>,
}

/// A prediction beside what happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// When the run began.
    pub at: String,
    /// By which method.
    pub method: Method,
    /// What was predicted.
    pub predicted: Span,
    /// What it took.
    pub took: Span,
    /// By how many percent of what it took the prediction was too high, or too low.
    pub error_percent: f64,
}

/// What a phase's two parts are multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Factors {
    /// What it takes whatever its load.
    pub fixed: f64,
    /// What grows with the load.
    pub variable: f64,
    /// How many observations this rests on.
    pub samples: u32,
}

/// What was learned, by phase.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Learned(BTreeMap<PhaseKind, Factors>);

impl Learned {
    /// What was learned of a phase.
    #[must_use]
    pub fn of(&self, phase: PhaseKind) -> Option<Factors> {
        self.0.get(&phase).copied()
    }

    /// Whether nothing was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl History {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Factors for each phase that was measured, for a site whose figures are the priors.
    #[must_use]
    pub fn learn(&self, site: &Site) -> Learned {
        let mut samples: BTreeMap<PhaseKind, Vec<(Parts, f64)>> = BTreeMap::new();
        for run in &self.runs {
            // What the phase would have been expected to take on the link as it was then.
            let then = Site { link: run.link.sane(), ..site.clone() };
            for seen in &run.phases {
                let expected = phase::prior(seen.phase, &seen.load, &then);
                let took = seen.took.seconds();
                // Shorter than a clock tells apart, or nothing expected: nothing to learn.
                if took >= 1e-3 && expected.fixed + expected.variable >= 1e-6 {
                    samples.entry(seen.phase).or_default().push((expected, took));
                }
            }
        }
        Learned(
            samples
                .into_iter()
                .map(|(phase, seen)| (phase, factors(&seen[seen.len().saturating_sub(MOST)..])))
                .collect(),
        )
    }

    /// The predictions that were made, beside what happened.
    #[must_use]
    pub fn accuracy(&self) -> Vec<Accuracy> {
        let predicted = self.runs.iter().filter(|run| run.took > Span::ZERO);
        predicted
            .filter_map(|run| {
                let (at, predicted) = (run.at.clone(), run.predicted?);
                let error_percent = 100.0 * (predicted.seconds() / run.took.seconds() - 1.0);
                Some(Accuracy { at, method: run.method, predicted, took: run.took, error_percent })
            })
            .collect()
    }
}

/// The factors of one phase: first how much slower or faster it is as a whole, then how that is divided between its parts.
fn factors(seen: &[(Parts, f64)]) -> Factors {
    let count = seen.len();
    let logs: Vec<f64> = seen.iter().map(|(parts, took)| (took / (parts.fixed + parts.variable)).ln()).collect();
    let fade = |i: usize| FADING.powi(i32::try_from(count - 1 - i).unwrap_or(i32::MAX));
    let middle = weighted_median(logs.iter().enumerate().map(|(i, log)| (*log, fade(i))).collect());
    let deviation = weighted_median(logs.iter().enumerate().map(|(i, log)| ((log - middle).abs(), fade(i))).collect());
    let far = OUTLIER * 1.48 * deviation.max(LEAST_DEVIATION);
    let weights: Vec<f64> =
        logs.iter().enumerate().map(|(i, log)| if (log - middle).abs() <= far { fade(i) } else { 0.0 }).collect();
    let weight: f64 = weights.iter().sum();
    // The normal distribution's conjugate: an observation's precision beside the prior's.
    let trust = weight / (weight + (NOISE / PRIOR_SPREAD).powi(2));
    let common = (trust * middle).exp();
    let (fixed, variable) = shape(seen, &weights, common);
    Factors { fixed, variable, samples: u32::try_from(count).unwrap_or(u32::MAX) }
}

/// Least squares of the relative errors, with both factors held near the common one as far as the observations let them.
fn shape(seen: &[(Parts, f64)], weights: &[f64], common: f64) -> (f64, f64) {
    let hold = 1.0 / (SHAPE_SPREAD * common).powi(2);
    let (mut ff, mut fv, mut vv) = (hold, 0.0, hold);
    let (mut f, mut v) = (hold * common, hold * common);
    for ((parts, took), weight) in seen.iter().zip(weights) {
        let (fixed, variable) = (parts.fixed / took, parts.variable / took);
        let weight = weight / NOISE.powi(2);
        ff += weight * fixed * fixed;
        fv += weight * fixed * variable;
        vv += weight * variable * variable;
        f += weight * fixed;
        v += weight * variable;
    }
    // Positive: `hold` makes the matrix definite.
    let determinant = ff * vv - fv * fv;
    let least = common * 0.05;
    (((f * vv - v * fv) / determinant).max(least), ((v * ff - f * fv) / determinant).max(least))
}

fn weighted_median(mut values: Vec<(f64, f64)>) -> f64 {
    values.sort_by(|a, b| a.0.total_cmp(&b.0));
    let half: f64 = values.iter().map(|(_, weight)| weight).sum::<f64>() / 2.0;
    let mut sum = 0.0;
    for (i, (value, weight)) in values.iter().enumerate() {
        sum += weight;
        if sum > half + 1e-12 {
            return *value;
        }
        // Exactly half on either side: between the two.
        if (sum - half).abs() <= 1e-12 {
            return values.get(i + 1).map_or(*value, |(next, _)| f64::midpoint(*value, *next));
        }
    }
    0.0
}
