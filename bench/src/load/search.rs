//! The highest rate without loss, by bisection. Pure: rates go in, the next rate to try comes out.

/// Steps after which a search ends in any case.
const MAX_STEPS: u32 = 16;

/// A search between a rate that went through and one that did not.
#[derive(Clone, Debug)]
pub struct Search {
    passed: f64,
    failed: f64,
    guess: f64,
    precision: f64,
    steps: u32,
}

impl Search {
    /// Begins below `failed`, a rate at which datagrams were lost; `guess` is tried first (what was
    /// received then). Ends when the two sides are within `precision` (0.02 = 2 %) of each other.
    #[must_use]
    pub fn new(failed: f64, guess: f64, precision: f64) -> Self {
        Self {
            passed: 0.0,
            failed,
            guess: guess.clamp(0.0, failed),
            precision,
            steps: 0,
        }
    }

    /// The next rate to try; `None` at the end.
    #[must_use]
    pub fn next(&self) -> Option<f64> {
        let done = self.failed - self.passed <= self.failed * self.precision;
        if done || self.steps >= MAX_STEPS {
            return None;
        }
        if self.steps == 0 && self.guess > 0.0 {
            return Some(self.guess);
        }
        Some(f64::midpoint(self.passed, self.failed))
    }

    /// Takes the outcome of a step; true when that rate is the highest so far that went through.
    pub fn record(&mut self, rate: f64, passed: bool) -> bool {
        self.steps += 1;
        let better = passed && rate > self.passed;
        if better {
            self.passed = rate;
        } else if !passed {
            self.failed = self.failed.min(rate);
        }
        better
    }

    /// The highest rate that went through; 0 when none did.
    #[must_use]
    pub fn passed(&self) -> f64 {
        self.passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(limit: f64, failed: f64, guess: f64) -> (f64, u32) {
        let mut search = Search::new(failed, guess, 0.02);
        while let Some(rate) = search.next() {
            search.record(rate, rate <= limit);
        }
        (search.passed(), search.steps)
    }

    #[test]
    fn the_limit_is_found_from_either_side_of_the_guess() {
        for (limit, guess) in [(70.0, 60.0), (70.0, 90.0), (70.0, 0.0), (3.0, 99.0)] {
            let (found, steps) = run(limit, 100.0, guess);
            assert!(
                found <= limit && found > limit * 0.97,
                "{limit} {guess}: {found}"
            );
            assert!(steps <= 12, "{steps}");
        }
    }

    #[test]
    fn a_link_that_passes_nothing_ends_the_search() {
        assert_eq!(run(0.0, 100.0, 50.0), (0.0, MAX_STEPS));
    }
}
