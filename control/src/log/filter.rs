//! Decides which lines are written: `mute` and the budget of categories the network can trigger.

use std::time::{Duration, Instant};

use super::Category;

/// Lines of one category that may come at once before the budget counts.
const BURST: u32 = 30;

/// One more line is allowed per this time.
const REFILL: Duration = Duration::from_millis(200);

/// What to do with a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// To be written before it: how many lines were left out.
    pub(super) note: Option<String>,
    /// Whether to write the line itself.
    pub(super) show: bool,
}

/// Counts per category.
#[derive(Debug)]
pub(super) struct Filter {
    mute: u32,
    /// The category of the last line, and how many lines of it came in a row.
    run: (Category, u32),
    muted: u32,
    budgets: [Budget; Category::ALL.len()],
}

#[derive(Clone, Copy, Debug)]
struct Budget {
    tokens: u32,
    refilled: Option<Instant>,
    suppressed: u64,
}

impl Filter {
    pub(super) fn new(mute: u32) -> Self {
        let full = Budget {
            tokens: BURST,
            refilled: None,
            suppressed: 0,
        };
        Filter {
            mute,
            run: (Category::General, 0),
            muted: 0,
            budgets: [full; Category::ALL.len()],
        }
    }

    pub(super) fn set_mute(&mut self, mute: u32) {
        self.mute = mute;
    }

    /// Judges a line. `limited` applies the budget; an `urgent` line is never muted, but it still
    /// has to fit the budget.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        category: Category,
        limited: bool,
        urgent: bool,
    ) -> Verdict {
        if self.run.0 != category {
            let note = self.mute_note();
            self.run = (category, 0);
            let mut verdict = self.spend(now, category, limited);
            verdict.note = join(note, verdict.note);
            self.run.1 = 1;
            return verdict;
        }
        self.run.1 = self.run.1.saturating_add(1);
        let mutable = category != Category::General && !urgent && self.mute > 0;
        if mutable && self.run.1 > self.mute {
            self.muted = self.muted.saturating_add(1);
            return Verdict {
                note: None,
                show: false,
            };
        }
        self.spend(now, category, limited)
    }

    /// Everything left out so far, as lines to write; starts counting anew.
    pub(super) fn take_notes(&mut self) -> Vec<String> {
        let mut notes: Vec<String> = self.mute_note().into_iter().collect();
        for category in Category::ALL {
            notes.extend(self.budget_note(category));
        }
        notes
    }

    fn spend(&mut self, now: Instant, category: Category, limited: bool) -> Verdict {
        if !limited || !category.from_network() {
            return Verdict {
                note: None,
                show: true,
            };
        }
        let budget = &mut self.budgets[category as usize];
        let since = *budget.refilled.get_or_insert(now);
        let earned = now.saturating_duration_since(since).as_millis() / REFILL.as_millis();
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            budget.tokens = budget.tokens.saturating_add(earned).min(BURST);
            budget.refilled = Some(now);
        }
        if budget.tokens == 0 {
            budget.suppressed += 1;
            return Verdict {
                note: None,
                show: false,
            };
        }
        budget.tokens -= 1;
        Verdict {
            note: self.budget_note(category),
            show: true,
        }
    }

    fn budget_note(&mut self, category: Category) -> Option<String> {
        let count = std::mem::take(&mut self.budgets[category as usize].suppressed);
        (count > 0).then(|| {
            format!(
                "{count} {} message{} suppressed, too many per second",
                category.name(),
                plural(count)
            )
        })
    }

    fn mute_note(&mut self) -> Option<String> {
        let count = std::mem::take(&mut self.muted);
        (count > 0).then(|| {
            format!(
                "{count} more {} message{} suppressed by mute {}",
                self.run.0.name(),
                plural(count.into()),
                self.mute
            )
        })
    }
}

fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn join(first: Option<String>, second: Option<String>) -> Option<String> {
    match (first, second) {
        (Some(first), Some(second)) => Some(format!("{first}; {second}")),
        (first, second) => first.or(second),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(filter: &mut Filter, now: Instant, category: Category) -> bool {
        filter.admit(now, category, true, false).show
    }

    #[test]
    fn mute_counts_lines_in_a_row() {
        let now = Instant::now();
        let mut filter = Filter::new(2);
        assert!(shown(&mut filter, now, Category::Script));
        assert!(shown(&mut filter, now, Category::Script));
        assert!(!shown(&mut filter, now, Category::Script));
        assert!(filter.admit(now, Category::Script, true, true).show);
        let verdict = filter.admit(now, Category::Route, true, false);
        assert_eq!(
            verdict.note.as_deref(),
            Some("1 more script message suppressed by mute 2")
        );
        assert!(verdict.show);
        for _ in 0..10 {
            assert!(shown(&mut filter, now, Category::General));
        }
    }

    #[test]
    fn the_network_has_a_budget() {
        let start = Instant::now();
        let mut filter = Filter::new(0);
        let written = (0..1000)
            .filter(|_| shown(&mut filter, start, Category::Data))
            .count();
        assert_eq!(written, BURST as usize);
        // Other categories are not affected.
        assert!(shown(&mut filter, start, Category::Tls));
        assert!((0..1000).all(|_| shown(&mut filter, start, Category::Route)));

        let later = start + REFILL * 2;
        let verdict = filter.admit(later, Category::Data, true, false);
        assert_eq!(
            verdict.note.as_deref(),
            Some("970 data packet messages suppressed, too many per second")
        );
        assert!(shown(&mut filter, later, Category::Data));
        assert!(!shown(&mut filter, later, Category::Data));
        assert_eq!(
            filter.take_notes(),
            ["1 data packet message suppressed, too many per second"]
        );
        assert_eq!(filter.take_notes(), Vec::<String>::new());
    }

    #[test]
    fn debugging_has_no_budget() {
        let now = Instant::now();
        let mut filter = Filter::new(0);
        assert!((0..1000).all(|_| filter.admit(now, Category::Data, false, false).show));
    }

    #[test]
    fn category_numbers_match_the_list() {
        for (number, category) in Category::ALL.into_iter().enumerate() {
            assert_eq!(category as usize, number);
        }
    }
}
