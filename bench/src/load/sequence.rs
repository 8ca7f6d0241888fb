//! Loss, duplicates and reordering of one stream of numbered datagrams, in fixed memory.
//!
//! The last [`WINDOW`] numbers are remembered exactly. A datagram that comes later than that counts
//! as arrived and reordered; whether it is a second copy can no longer be told.

/// Numbers remembered behind the highest one.
pub const WINDOW: u64 = 65_536;

/// A jump further ahead than this is damage, not loss: hours at any rate a link carries.
const MAX_JUMP: u64 = 1 << 36;

/// What became of the datagrams of one stream.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// One bit per number, at `number % WINDOW`.
    seen: Box<[u64]>,
    /// The next number in order, which is also how many must have been sent.
    next: u64,
    received: u64,
    duplicates: u64,
    reordered: u64,
}

/// How a datagram fits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// New; `skipped` numbers before it have not come (yet).
    New {
        /// Numbers jumped over.
        skipped: u64,
    },
    /// New, but overtaken.
    Late,
    /// Seen before.
    Duplicate,
    /// With a number that cannot be.
    Damaged,
}

impl Default for Sequence {
    fn default() -> Self {
        Self {
            seen: vec![0; (WINDOW / 64) as usize].into_boxed_slice(),
            next: 0,
            received: 0,
            duplicates: 0,
            reordered: 0,
        }
    }
}

impl Sequence {
    /// Counts a datagram.
    pub fn add(&mut self, number: u64) -> Arrival {
        if number >= self.next {
            let skipped = number - self.next;
            if skipped > MAX_JUMP {
                return Arrival::Damaged;
            }
            self.forget(number);
            self.next = number + 1;
            self.received += 1;
            return Arrival::New { skipped };
        }
        if self.next - number <= WINDOW {
            let (word, bit) = place(number);
            if self.seen[word] & bit != 0 {
                self.duplicates += 1;
                return Arrival::Duplicate;
            }
            self.seen[word] |= bit;
        }
        self.received += 1;
        self.reordered += 1;
        Arrival::Late
    }

    /// Different datagrams that arrived.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Datagrams seen before.
    #[must_use]
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Datagrams that came after one with a higher number.
    #[must_use]
    pub fn reordered(&self) -> u64 {
        self.reordered
    }

    /// Numbers up to the highest one that have not arrived.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.next.saturating_sub(self.received)
    }

    /// Clears the bits of everything after the highest number, and sets `number`'s.
    fn forget(&mut self, number: u64) {
        if number - self.next >= WINDOW {
            self.seen.fill(0);
        } else {
            for skipped in self.next..number {
                let (word, bit) = place(skipped);
                self.seen[word] &= !bit;
            }
        }
        let (word, bit) = place(number);
        self.seen[word] |= bit;
    }
}

fn place(number: u64) -> (usize, u64) {
    let at = number % WINDOW;
    ((at / 64) as usize, 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(numbers: impl IntoIterator<Item = u64>) -> Sequence {
        let mut sequence = Sequence::default();
        for number in numbers {
            sequence.add(number);
        }
        sequence
    }

    fn counts(s: &Sequence) -> [u64; 4] {
        [s.received(), s.missing(), s.duplicates(), s.reordered()]
    }

    #[test]
    fn loss_reordering_and_duplicates_are_told_apart() {
        assert_eq!(counts(&after(0..100)), [100, 0, 0, 0]);
        assert_eq!(counts(&after([0, 1, 3, 2, 2, 5])), [5, 1, 1, 1]);
        assert_eq!(counts(&after([2])), [1, 2, 0, 0]);
    }

    #[test]
    fn the_window_wraps_without_mixing_old_and_new() {
        // Number n and n + WINDOW share a bit.
        assert_eq!(counts(&after(0..3 * WINDOW)), [3 * WINDOW, 0, 0, 0]);
        let mut sequence = after((0..2 * WINDOW).step_by(2));
        assert_eq!(sequence.add(WINDOW + 1), Arrival::Late);
        assert_eq!(sequence.add(WINDOW + 1), Arrival::Duplicate);
        assert_eq!(sequence.add(2), Arrival::Late);
        assert_eq!(
            sequence.add(5 * WINDOW),
            Arrival::New {
                skipped: 3 * WINDOW + 1
            }
        );
        assert_eq!(sequence.add(5 * WINDOW - 1), Arrival::Late);
    }

    #[test]
    fn an_impossible_number_changes_nothing() {
        let mut sequence = after(0..10);
        assert_eq!(sequence.add(u64::MAX), Arrival::Damaged);
        assert_eq!(counts(&sequence), [10, 0, 0, 0]);
    }
}
