//! How hard to compress, decided by measuring while it is sent.
//!
//! Whoever sends writes to the path what the packers have ready. Where the path is the slower of the two, packers have time: a higher level
//! makes fewer bytes of the same blocks, and the shipment ends earlier. Where the path waits for the packers, a lower level does. Nothing here
//! measures or waits: it is told what a window of time was like, and says what the next is to be.

use std::time::Duration;

/// zstd's levels that are tried, and what each costs beside the first, roughly: what is measured corrects it.
const LEVELS: [(i32, f64); 7] = [(1, 1.0), (3, 1.4), (6, 3.5), (9, 5.0), (12, 9.0), (15, 17.0), (19, 30.0)];
/// How much of their time packers may work at a level that is not tried yet: the rest is for what is harder to compress, and for others.
const BUSY: f64 = 0.6;
/// The path waits for the packers if it does so for this part of the time.
const WAITS: f64 = 0.08;
/// What a higher level may take from the path, by taking processors from whoever writes to it: more, and the level is too high. A path's own pace
/// varies, too.
const LOSS: f64 = 0.88;
/// For how many windows a level that was too much is not tried again; for twice as many each time, so often.
const HOLD: (u32, u32) = (8, 5);

/// What a window of time was like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Window {
    /// How long it was.
    pub(crate) took: Duration,
    /// For how much of it the path waited for the packers.
    pub(crate) waited: Duration,
    /// How long all packers worked in it: read, hashed and compressed.
    pub(crate) worked: Duration,
    /// How long of that they compressed.
    pub(crate) packed: Duration,
    /// How many packers there are.
    pub(crate) packers: usize,
    /// Bytes that went on their way.
    pub(crate) sent: u64,
}

/// Decides.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Which of the levels.
    at: usize,
    /// What the next window shows is of before the last change.
    is_settling: bool,
    /// Which level there was before it was raised, and how many bytes a second went then.
    raised: Option<(usize, f64)>,
    /// The lowest level that was too much, and for how many windows more it is not tried.
    barred: Option<(usize, u32)>,
    /// How often it was too much.
    often: u32,
}

impl Pace {
    /// zstd's level.
    pub(crate) const fn level(&self) -> i32 {
        LEVELS[self.at].0
    }

    /// Hears of a window, and gives the level for the next.
    pub(crate) fn next(&mut self, window: &Window) -> i32 {
        let took = window.took.as_secs_f64();
        self.barred = match self.barred {
            // What the path or the content was like may be over: step by step.
            Some((level, 0)) => (level + 1 < LEVELS.len()).then_some((level + 1, HOLD.0)),
            barred => barred.map(|(level, windows)| (level, windows - 1)),
        };
        if took > 0.0 && !std::mem::take(&mut self.is_settling) {
            let rate = window.sent as f64 / took;
            let waits = window.waited.as_secs_f64() / took;
            match self.raised.take() {
                _ if waits > WAITS => self.lower(waits),
                Some((before, was)) if rate < was * LOSS => self.back(before),
                _ => self.raise(window, took, rate),
            }
        }
        self.level()
    }

    /// The path waits for `waits` of the time.
    fn lower(&mut self, waits: f64) {
        if self.at > 0 {
            // At which cost it would not have waited.
            let most = LEVELS[self.at].1 * (1.0 - waits);
            let fits = LEVELS[..self.at].iter().rposition(|(_, cost)| *cost <= most);
            self.back(fits.unwrap_or(0));
        }
    }

    /// It was too much: back to an earlier level. It is not tried again for some time.
    fn back(&mut self, to: usize) {
        self.barred = Some((self.at, HOLD.0 << self.often));
        self.at = to;
        self.often = (self.often + 1).min(HOLD.1);
        self.is_settling = true;
    }

    /// The path takes its time: as high as the packers' time allows.
    fn raise(&mut self, window: &Window, took: f64, rate: f64) {
        let all = took * window.packers as f64;
        let (worked, packed) = (window.worked.as_secs_f64() / all, window.packed.as_secs_f64() / all);
        let now = LEVELS[self.at].1;
        // Nothing compressed, nothing learned.
        if packed <= 0.0 {
            return;
        }
        let end = self.barred.map_or(LEVELS.len(), |(level, _)| level.max(self.at + 1));
        let fits = |cost: f64| (worked - packed).max(0.0) + packed * cost / now <= BUSY;
        let Some(more) = LEVELS[self.at + 1..end].iter().rposition(|(_, cost)| fits(*cost)) else { return };
        self.raised = Some((self.at, rate));
        self.at += more + 1;
        self.is_settling = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine and a path, in seconds and bytes: what a window there is like.
    struct Simulated {
        /// Bytes a second.
        path: f64,
        /// What the machine has.
        processors: f64,
        /// Seconds that a block of a million bytes takes: to read it, and to compress it at the first level.
        costs: (f64, f64),
        /// By how much dearer each next level is than we think.
        dearer: f64,
        /// What is left of a block at the first and at the last level.
        left: (f64, f64),
        /// Seconds of a processor that writing a million bytes to the path takes.
        writing: f64,
    }

    const MACHINE: Simulated = Simulated {
        path: 12.5e6,
        processors: 2.0,
        costs: (0.001, 0.004),
        dearer: 1.0,
        left: (0.40, 0.33),
        writing: 0.0,
    };

    impl Simulated {
        /// Million bytes of image a second.
        fn blocks(&self, at: usize) -> f64 {
            let (work, left) = (self.work(at), self.left(at));
            // Who writes gets its share of the processors; the rest is the packers'.
            (self.path / 1e6 / left).min(self.processors / (work + self.writing * left))
        }

        fn work(&self, at: usize) -> f64 {
            self.costs.0 + self.costs.1 * LEVELS[at].1 * self.dearer.powi(i32::try_from(at).unwrap_or(0))
        }

        fn left(&self, at: usize) -> f64 {
            self.left.0 + (self.left.1 - self.left.0) * at as f64 / 6.0
        }

        fn window(&self, at: usize) -> Window {
            let (blocks, left) = (self.blocks(at), self.left(at));
            let worked = blocks * self.work(at);
            // Where writing takes processors the path does not wait for packers, but writes slowly.
            let waits = if self.writing > 0.0 { 0.0 } else { 1.0 - blocks * left * 1e6 / self.path };
            let seconds = |s: f64| Duration::from_secs_f64(s.max(0.0));
            Window {
                took: seconds(1.0),
                waited: seconds(waits),
                worked: seconds(worked),
                packed: seconds(worked - blocks * self.costs.0),
                packers: 2,
                sent: (blocks * left * 1e6) as u64,
            }
        }

        /// The level after each of so many windows.
        fn run(&self, pace: &mut Pace, windows: usize) -> Vec<i32> {
            (0..windows).map(|_| pace.next(&self.window(pace.at))).collect()
        }
    }

    #[test]
    fn a_slow_path_gets_the_highest_level_at_once_and_keeps_it() {
        let slow = Simulated { path: 1e6, ..MACHINE };
        let levels = slow.run(&mut Pace::default(), 20);
        assert_eq!((levels[0], &levels[1..]), (19, &[19; 19][..]));
    }

    #[test]
    fn a_path_that_waits_keeps_the_lowest_level() {
        let fast = Simulated { path: 2e9, ..MACHINE };
        assert_eq!(fast.run(&mut Pace::default(), 20), [1; 20]);
    }

    #[test]
    fn between_them_the_packers_are_as_busy_as_they_may_be() {
        let levels = MACHINE.run(&mut Pace::default(), 40);
        let last = LEVELS.iter().position(|(level, _)| Some(level) == levels.last()).expect("one of them");
        assert!(last > 1 && last < 6, "{levels:?}");
        // It stays where it is: no level was tried in vain.
        assert!(levels[4..].iter().all(|level| level == &levels[4]), "{levels:?}");
        assert!(MACHINE.window(last).waited.is_zero() && !MACHINE.window(last + 2).waited.is_zero());
    }

    #[test]
    fn what_is_dearer_than_thought_is_given_up_and_tried_ever_less_often() {
        let dear = Simulated { dearer: 1.8, ..MACHINE };
        let levels = dear.run(&mut Pace::default(), 400);
        let waited = |levels: &[i32]| {
            let at = |level: &i32| LEVELS.iter().position(|(other, _)| other == level).expect("one of them");
            levels.iter().filter(|level| dear.window(at(level)).waited.as_secs_f64() > WAITS).count()
        };
        assert!(waited(&levels[..40]) > 0, "the model is too kind: {levels:?}");
        assert!(waited(&levels[200..]) <= 4, "{levels:?}");
        assert!(levels[200..].iter().filter(|level| **level == 1).count() <= 4, "{levels:?}");
    }

    #[test]
    fn a_level_that_takes_the_writers_processors_is_given_up() {
        // One gigabyte a second on paper, and every byte costs the machine what it has.
        let loopback = Simulated { path: 1e9, processors: 2.0, writing: 0.03, costs: (0.0005, 0.001), ..MACHINE };
        let levels = loopback.run(&mut Pace::default(), 200);
        assert!(levels.contains(&3) || levels.contains(&6), "nothing was tried: {levels:?}");
        assert!(levels[100..].iter().filter(|level| **level > 3).count() < 12, "{levels:?}");
    }

    #[test]
    fn it_follows_a_path_that_changes() {
        let mut pace = Pace::default();
        Simulated { path: 1e6, ..MACHINE }.run(&mut pace, 10);
        assert_eq!(pace.level(), 19);
        Simulated { path: 1e9, ..MACHINE }.run(&mut pace, 4);
        assert_eq!(pace.level(), 1);
        Simulated { path: 1e6, ..MACHINE }.run(&mut pace, 30);
        assert_eq!(pace.level(), 19);
    }

    #[test]
    fn a_window_of_nothing_changes_nothing() {
        let zero = Duration::ZERO;
        let mut pace = Pace::default();
        for took in [zero, Duration::from_secs(1)] {
            let window = Window { took, waited: zero, worked: zero, packed: zero, packers: 2, sent: 0 };
            assert_eq!(pace.next(&window), 1);
        }
    }
}
