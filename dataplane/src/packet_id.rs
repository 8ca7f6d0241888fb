//! Packet ids of a sending key (protocol §7.2, §7.4, §7.5).
//!
//! Every id makes a nonce, so no id is ever handed out twice: ids are taken for a whole batch
//! before its first packet is sealed, they only count up, and at the end of their range the counter
//! stops instead of wrapping. Ids taken and not used are lost.

use std::ops::Range;

/// From this 32-bit id on the sender should ask for a new key (protocol §7.5).
pub const SOFT_LIMIT: u64 = 0xff00_0000;

/// A send counter: 1, 2, 3, ... up to a hard end.
#[derive(Debug)]
pub struct PacketIds {
    next: u64,
    last: u64,
}

impl PacketIds {
    /// Ids of 32 bits.
    pub fn short() -> Self {
        PacketIds {
            next: 1,
            last: u64::from(u32::MAX),
        }
    }

    /// The 48-bit counter of one epoch.
    pub fn epoch() -> Self {
        PacketIds {
            next: 1,
            last: (1 << 48) - 1,
        }
    }

    /// Takes up to `count` ids; fewer, in the end none, when the range runs out.
    #[inline]
    pub fn reserve(&mut self, count: usize) -> Range<u64> {
        let first = self.next;
        let left = self.last + 1 - first;
        self.next = first + left.min(count as u64);
        first..self.next
    }

    /// How many ids were taken, which is also the highest of them.
    pub fn used(&self) -> u64 {
        self.next - 1
    }

    /// Whether no id is left.
    pub fn exhausted(&self) -> bool {
        self.next > self.last
    }

    /// Moves ahead, as if all ids below `next` were used.
    #[cfg(test)]
    pub(crate) fn skip_to(&mut self, next: u64) {
        assert!(next >= self.next && next <= self.last + 1);
        self.next = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_at_one_and_counts_up_per_batch() {
        let mut ids = PacketIds::short();
        assert_eq!(ids.reserve(3), 1..4);
        assert_eq!(ids.reserve(0), 4..4);
        assert_eq!(ids.reserve(1), 4..5);
        assert_eq!(ids.used(), 4);
    }

    #[test]
    fn stops_at_the_end_and_never_wraps() {
        for (mut ids, last) in [
            (PacketIds::short(), 0xffff_ffff),
            (PacketIds::epoch(), 0xffff_ffff_ffff),
        ] {
            ids.skip_to(last - 1);
            assert!(!ids.exhausted());
            assert_eq!(ids.reserve(64), last - 1..last + 1);
            assert!(ids.exhausted());
            assert!(ids.reserve(64).is_empty());
            assert!(ids.reserve(usize::MAX).is_empty());
            assert_eq!(ids.used(), last);
        }
    }
}
