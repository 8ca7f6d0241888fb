//! The receive window of one key (protocol §7.7; same decisions as the peers of the protocol
//! document).
//!
//! A bitmap ring over the `n` newest ids. The window is asked twice per packet: [`look`] before the
//! packet is opened, which decides, and [`mark`] after it authenticated, which remembers. Nothing
//! an unauthenticated packet carries changes the window.
//!
//! ```text
//!        too old | n ids: seen or not      | new
//!   ------------ +------------------------ + ------->  id
//!                     ^ floor: time-expired  ^ top
//! ```
//!
//! Ids also expire by time. Peers stamp every slot and, at most every five seconds, expire the
//! newest slot that was filled more than `t` seconds ago together with all older ones. The newest
//! id filled by some second is what `top` was then, so a short history of `top` gives the same
//! answer without a stamp per id.
//!
//! [`look`]: ReplayWindow::look
//! [`mark`]: ReplayWindow::mark

use arrayvec::ArrayVec;

/// The largest window, in ids; larger ones are cut to it.
pub const MAX_WINDOW: u32 = 65_536;

/// Seconds between two looks at the time expiry.
const REAP_INTERVAL: u32 = 5;

/// Up to this many steps of history cover the expiry time; beyond 16 seconds a step is longer than
/// a second, and expiry may then come one step late.
const HISTORY_STEPS: u32 = 16;

/// Room for the history: two entries per step, for the expiry time and the interval of looks.
const HISTORY_LEN: usize = 48;

/// Which ids of a key were received.
#[derive(Debug)]
pub struct ReplayWindow {
    /// Ring of words; id `i` is bit `i % 64` of word `i / 64`.
    words: Box<[u64]>,
    size: u64,
    top: u64,
    /// Ids up to here have expired.
    floor: u64,
    /// Seconds until an id expires; 0 is never.
    expiry: u32,
    /// Seconds one step of history covers at least.
    step: u32,
    last_reap: u32,
    /// Second of the last mark.
    clock: u32,
    /// (second, top by the end of it), oldest first.
    history: ArrayVec<(u32, u64), HISTORY_LEN>,
}

impl ReplayWindow {
    /// A window of `size` ids (at most [`MAX_WINDOW`]; 0 accepts only the id after the last one)
    /// that expire after `expiry` seconds (0 is never).
    pub fn new(size: u32, expiry: u32) -> Self {
        let size = u64::from(size.min(MAX_WINDOW));
        // One word more than the window, so that the word of a new top never holds ids still in it.
        let words = (size.div_ceil(64) + 1).next_power_of_two() as usize;
        ReplayWindow {
            words: vec![0; words].into_boxed_slice(),
            size,
            top: 0,
            floor: 0,
            expiry,
            step: expiry.div_ceil(HISTORY_STEPS).max(1),
            last_reap: 0,
            clock: 0,
            history: ArrayVec::new(),
        }
    }

    /// Whether a packet with this id may be opened: it is neither 0, seen, too old nor expired.
    /// `now` is in seconds and should not go backwards.
    #[inline]
    pub fn look(&mut self, now: u32, id: u64) -> bool {
        if now.saturating_sub(self.last_reap) >= REAP_INTERVAL {
            self.reap(now);
        }
        if id > self.top {
            return self.size != 0 || id == self.top + 1;
        }
        // An id of 0 is never above the floor.
        id > self.floor && self.top - id < self.size && self.words[self.word(id)] & bit(id) == 0
    }

    /// Remembers an id that `look` allowed and whose packet authenticated.
    #[inline]
    pub fn mark(&mut self, now: u32, id: u64) {
        if now > self.clock {
            self.tick(now);
        }
        if id > self.top {
            let ahead = (id >> 6) - (self.top >> 6);
            if ahead != 0 {
                self.clear_ahead(ahead);
            }
            self.top = id;
        }
        let word = self.word(id);
        self.words[word] |= bit(id);
    }

    /// The highest id received.
    pub fn top(&self) -> u64 {
        self.top
    }

    /// Forgets everything, for use with another key.
    pub fn reset(&mut self) {
        self.words.fill(0);
        self.top = 0;
        self.floor = 0;
        self.history.clear();
    }

    #[inline]
    fn word(&self, id: u64) -> usize {
        (id >> 6) as usize & (self.words.len() - 1)
    }

    /// Empties the words that a higher top moves into.
    fn clear_ahead(&mut self, ahead: u64) {
        let len = self.words.len();
        let first = (self.top >> 6) as usize;
        for word in 1..=ahead.min(len as u64) as usize {
            self.words[first.wrapping_add(word) & (len - 1)] = 0;
        }
    }

    /// The first mark of another second: what was marked until then joins the history.
    #[cold]
    fn tick(&mut self, now: u32) {
        if self.expiry != 0 && self.top != 0 {
            let entry = (self.clock, self.top);
            let due = match self.history.last() {
                Some(&(second, _)) => now - second >= self.step,
                None => true,
            };
            if due && self.history.try_push(entry).is_err() {
                // Cannot happen while `look` comes before `mark`; late expiry is the safe answer.
                if let Some(last) = self.history.last_mut() {
                    *last = entry;
                }
            }
        }
        self.clock = now;
    }

    /// Expires what was marked more than `expiry` seconds ago.
    #[cold]
    fn reap(&mut self, now: u32) {
        self.last_reap = now;
        if self.expiry == 0 {
            return;
        }
        let expired = |second: u32| u64::from(second) + u64::from(self.expiry) < u64::from(now);
        if expired(self.clock) {
            self.floor = self.top;
            self.history.clear();
            return;
        }
        let count = self
            .history
            .iter()
            .take_while(|&&(second, _)| expired(second))
            .count();
        if let Some((_, top)) = self.history.drain(..count).last() {
            self.floor = top;
        }
    }
}

#[inline]
fn bit(id: u64) -> u64 {
    1 << (id & 63)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// The window as the protocol document words it: one stamp per slot.
    struct Naive {
        size: u64,
        expiry: u32,
        top: u64,
        last_reap: u32,
        /// Index 0 is the newest id.
        slots: VecDeque<Slot>,
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Slot {
        Empty,
        Filled(u32),
        Expired,
    }

    impl Naive {
        fn new(size: u64, expiry: u32) -> Self {
            Naive {
                size,
                expiry,
                top: 0,
                last_reap: 0,
                slots: VecDeque::new(),
            }
        }

        fn accept(&mut self, now: u32, id: u64) -> bool {
            if now - self.last_reap >= 5 {
                self.last_reap = now;
                let mut expire = false;
                for slot in &mut self.slots {
                    if let Slot::Filled(time) = *slot {
                        expire |= self.expiry != 0 && time + self.expiry < now;
                    }
                    if expire {
                        *slot = Slot::Expired;
                    }
                }
            }
            if id == 0 {
                return false;
            }
            if self.size == 0 {
                return id == self.top + 1;
            }
            if id > self.top {
                return true;
            }
            let distance = self.top - id;
            distance < self.size.min(self.slots.len() as u64)
                && self.slots[distance as usize] == Slot::Empty
        }

        fn mark(&mut self, now: u32, id: u64) {
            if self.size == 0 {
                self.top = id;
                return;
            }
            if id > self.top + self.size {
                self.top = id - self.size;
                self.slots.clear();
            }
            while self.top < id {
                self.slots.push_front(Slot::Empty);
                self.slots.truncate(self.size as usize);
                self.top += 1;
            }
            self.slots[(self.top - id) as usize] = Slot::Filled(now);
        }
    }

    /// What arrives: seconds passed before it, and an id relative to the highest so far.
    fn arrivals() -> impl Strategy<Value = Vec<(u32, i64, bool)>> {
        let gap = prop_oneof![10 => Just(0u32), 3 => 1u32..4, 1 => 4u32..40];
        let offset = prop_oneof![
            6 => 1i64..4,
            6 => -20i64..2,
            2 => -400i64..400,
            1 => -70_000i64..140_000
        ];
        prop::collection::vec((gap, offset, prop::bool::weighted(0.9)), 1..300)
    }

    proptest! {
        #[test]
        fn decides_like_the_stamped_window(
            size in prop_oneof![Just(0u32), 1u32..5, Just(64u32), 1u32..700, Just(65_536u32)],
            expiry in 0u32..=16,
            start in 0u32..20,
            arrivals in arrivals(),
        ) {
            let mut naive = Naive::new(u64::from(size), expiry);
            let mut window = ReplayWindow::new(size, expiry);
            let mut now = start;
            for (gap, offset, authentic) in arrivals {
                now += gap;
                let id = window.top().saturating_add_signed(offset);
                let accepted = naive.accept(now, id);
                prop_assert_eq!(window.look(now, id), accepted, "id {} at {}", id, now);
                if accepted && authentic {
                    naive.mark(now, id);
                    window.mark(now, id);
                }
            }
        }

        #[test]
        fn long_expiry_never_comes_early(
            expiry in 17u32..=600,
            arrivals in arrivals(),
        ) {
            // Never accepts what was seen, never drops what the exact window would take.
            let mut naive = Naive::new(64, expiry);
            let mut window = ReplayWindow::new(64, expiry);
            let mut now = 1;
            for (gap, offset, authentic) in arrivals {
                now += gap * (expiry / 8).max(1);
                let id = naive.top.saturating_add_signed(offset);
                let exact = naive.accept(now, id);
                let got = window.look(now, id);
                prop_assert!(got || !exact, "id {} dropped at {}", id, now);
                if exact && authentic {
                    naive.mark(now, id);
                    window.mark(now, id);
                }
            }
            prop_assert!(window.history.len() < HISTORY_LEN);
        }
    }

    #[test]
    fn each_id_is_taken_once_over_the_whole_window() {
        for size in [1u32, 63, 64, 65, 2048, MAX_WINDOW] {
            let mut window = ReplayWindow::new(size, 0);
            let top = u64::from(size) * 3 + 7;
            assert!(window.look(0, top));
            window.mark(0, top);
            let oldest = top - u64::from(size) + 1;
            for id in (oldest..top).rev() {
                assert!(window.look(0, id), "size {size} id {id}");
                window.mark(0, id);
            }
            for id in oldest - 1..=top {
                assert!(!window.look(0, id), "size {size} id {id}");
            }
        }
    }

    #[test]
    fn zero_sized_window_takes_only_the_next_id() {
        let mut window = ReplayWindow::new(0, 15);
        assert!(!window.look(0, 0));
        assert!(!window.look(0, 2));
        assert!(window.look(0, 1));
        window.mark(0, 1);
        assert!(!window.look(0, 1));
        assert!(!window.look(0, 3));
        assert!(window.look(0, 2));
    }

    #[test]
    fn ids_older_than_an_expired_one_are_gone() {
        let mut window = ReplayWindow::new(64, 15);
        for id in [1, 5, 9] {
            assert!(window.look(100, id));
            window.mark(100, id);
        }
        assert!(window.look(115, 4));
        // A mark sixteen seconds ago is too old, and with it all ids below.
        assert!(!window.look(120, 4));
        assert!(!window.look(120, 8));
        assert!(window.look(120, 10));
    }

    #[test]
    fn far_jumps_and_the_largest_ids_are_fine() {
        let mut window = ReplayWindow::new(64, 15);
        for id in [1, u64::from(u32::MAX), (1 << 48) - 1] {
            assert!(window.look(0, id));
            window.mark(0, id);
            assert!(!window.look(0, id));
            assert!(id == 1 || window.look(0, id - 63));
            assert!(!window.look(0, id.saturating_sub(64)));
        }
        window.reset();
        assert!(window.look(0, 1));
        assert!(!window.look(0, 0));
    }
}
