//! So many of something in so much time (`connect-freq`, `connect-freq-initial`).

use std::time::{Duration, Instant};

/// A budget that is full again after each period.
#[derive(Clone, Debug)]
pub struct RateLimit {
    most: u32,
    period: Duration,
    used: u32,
    began: Option<Instant>,
}

impl RateLimit {
    /// `most` in each `period`. A period of zero limits nothing.
    pub fn new(most: u32, period: Duration) -> Self {
        RateLimit {
            most,
            period,
            used: 0,
            began: None,
        }
    }

    /// Whether one more is within the budget; if so it is spent.
    pub fn allow(&mut self, now: Instant) -> bool {
        let over = |began| now.saturating_duration_since(began) >= self.period;
        if self.began.is_none_or(over) {
            self.began = Some(now);
            self.used = 0;
        }
        let allowed = self.used < self.most || self.period.is_zero();
        self.used = self.used.saturating_add(u32::from(allowed));
        allowed
    }

    /// One of those allowed was not spent in vain and shall not count.
    pub fn give_back(&mut self) {
        self.used = self.used.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn count(limit: &mut RateLimit, now: Instant) -> usize {
        (0..10).filter(|_| limit.allow(now)).count()
    }

    #[test]
    fn the_budget_is_full_again_after_its_period() {
        let start = Instant::now();
        let mut limit = RateLimit::new(3, 10 * S);
        assert_eq!(count(&mut limit, start), 3);
        assert_eq!(count(&mut limit, start + 9 * S), 0);
        assert_eq!(count(&mut limit, start + 10 * S), 3);
        assert_eq!(count(&mut limit, start + 35 * S), 3);
        assert_eq!(count(&mut limit, start + 44 * S), 0);
    }

    #[test]
    fn what_is_given_back_can_be_spent_again() {
        let start = Instant::now();
        let mut limit = RateLimit::new(3, 10 * S);
        count(&mut limit, start);
        limit.give_back();
        assert_eq!(count(&mut limit, start + S), 1);
        let mut fresh = RateLimit::new(1, S);
        fresh.give_back();
        assert_eq!(count(&mut fresh, start), 1);
    }

    #[test]
    fn nothing_and_everything() {
        let start = Instant::now();
        assert_eq!(count(&mut RateLimit::new(0, S), start), 0);
        assert_eq!(count(&mut RateLimit::new(0, Duration::ZERO), start), 10);
    }
}
