//! Axes: sensible ticks, and where a value is drawn.

/// The next of 1, 2, 2.5 and 5 times a power of ten that is at least `least`.
fn nice(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0];
    steps.iter().map(|step| step * power).find(|step| *step >= least * (1.0 - 1e-9)).unwrap_or(10.0 * power)
}

/// An axis from 0 to a tick at or above the largest value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Axis {
    /// Between ticks.
    pub(super) step: f64,
    /// Ticks above 0.
    pub(super) ticks: u32,
}

impl Axis {
    /// An axis with about `wanted` ticks that holds `largest`.
    pub(super) fn holding(largest: f64, wanted: u32) -> Self {
        let largest = if largest.is_finite() && largest > 0.0 { largest } else { 1.0 };
        let step = nice(largest / f64::from(wanted));
        let mut ticks = 1;
        while step * f64::from(ticks) < largest * (1.0 - 1e-9) {
            ticks += 1;
        }
        Self { step, ticks }
    }

    /// Where it ends.
    pub(super) fn end(&self) -> f64 {
        self.step * f64::from(self.ticks)
    }

    /// The ticks' values.
    pub(super) fn values(self) -> impl Iterator<Item = f64> {
        (0..=self.ticks).map(move |i| self.step * f64::from(i))
    }

    /// A tick's text, with the decimals that the step needs.
    pub(super) fn text(&self, value: f64) -> String {
        let decimals = (0_usize..6).find(|d| {
            let scaled = self.step * 10_f64.powi(i32::try_from(*d).unwrap_or(0));
            (scaled - scaled.round()).abs() < 1e-6 * scaled.max(1.0)
        });
        format!("{value:.*}", decimals.unwrap_or(6))
    }
}

/// Ticks of whole numbers from 1 to `last`: 1 and then multiples.
pub(super) fn whole(last: u64, wanted: u64) -> Vec<u64> {
    let step = [1, 2, 4, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000, 2000, 2500, 5000, 10_000];
    let step = step.into_iter().find(|step| last / step <= wanted).unwrap_or(last.max(1));
    let mut ticks = vec![1];
    ticks.extend((1..).map(|i| i * step).take_while(|tick| *tick <= last).filter(|tick| *tick > 1));
    if ticks.last() != Some(&last) {
        // The end is always named; its neighbour makes room where they would touch.
        if ticks.last().is_some_and(|tick| *tick > 1 && (last - tick) * 2 < step) {
            ticks.pop();
        }
        ticks.push(last);
    }
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_numbers_that_people_count_in() {
        for (largest, end, step) in
            [(43.0, 50.0, 10.0), (0.73, 0.8, 0.2), (17.0, 20.0, 5.0), (1.0, 1.0, 0.2), (0.0, 1.0, 0.2)]
        {
            let axis = Axis::holding(largest, 5);
            assert!((axis.step - step).abs() < 1e-9 && (axis.end() - end).abs() < 1e-9, "{largest}: {axis:?}");
        }
        let axis = Axis::holding(0.73, 5);
        assert_eq!(axis.values().map(|v| axis.text(v)).collect::<Vec<_>>(), ["0.0", "0.2", "0.4", "0.6", "0.8"]);
        assert_eq!(whole(16, 8), [1, 2, 4, 6, 8, 10, 12, 14, 16]);
        assert_eq!(whole(17, 5), [1, 4, 8, 12, 17]);
        assert_eq!(whole(1, 5), [1]);
        assert_eq!(whole(100, 6), [1, 20, 40, 60, 80, 100]);
    }
}
