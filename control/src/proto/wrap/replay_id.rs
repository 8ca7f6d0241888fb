//! The replay id of wrapped control packets: `u32 counter, u32 unix time` (protocol document §4.1).
//!
//! The sender fixes the time when the session begins and counts every packet, retransmissions and
//! bare acks included. The receiver keeps a sliding window of 64 ids for one time; a later time
//! starts a new window and an earlier one is dropped.

/// Ids below the highest one that are still told apart.
pub const WINDOW: u32 = 64;
/// Seconds after which everything older than a received packet is refused.
pub const WINDOW_SECS: u32 = 15;
/// A tls-crypt-v2 client begins counting here, to say that it knows about being asked to send its
/// key again (protocol document §3).
pub const EARLY_NEGOTIATION_START: u32 = 0x0F00_0000;

/// Seconds between two looks for expired ids.
const REAP_SECS: u32 = 5;

/// A replay id as it stands on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayId {
    /// Counts packets, from 1.
    pub counter: u32,
    /// Unix time of the session's first packet.
    pub time: u32,
}

impl ReplayId {
    /// Length on the wire.
    pub const LEN: usize = 8;

    /// The id in wire order.
    pub fn to_bytes(self) -> [u8; 8] {
        (u64::from(self.counter) << 32 | u64::from(self.time)).to_be_bytes()
    }

    /// The id in these bytes.
    pub fn from_bytes(bytes: [u8; 8]) -> Self {
        let value = u64::from_be_bytes(bytes);
        ReplayId {
            counter: (value >> 32) as u32,
            time: value as u32,
        }
    }

    /// Whether this id says that its sender is a tls-crypt-v2 client that can send its wrapped key
    /// again (protocol document §3).
    pub fn offers_early_negotiation(self) -> bool {
        self.counter & EARLY_NEGOTIATION_START == EARLY_NEGOTIATION_START
    }
}

/// Hands out replay ids; none is ever handed out twice.
#[derive(Debug)]
pub struct ReplayIdCounter(ReplayId);

impl ReplayIdCounter {
    /// The first id will be `last + 1` with time `unix`.
    pub fn new(last: u32, unix: u32) -> Self {
        ReplayIdCounter(ReplayId {
            counter: last,
            time: unix,
        })
    }

    /// The next id.
    pub fn take(&mut self) -> ReplayId {
        match self.0.counter.checked_add(1) {
            Some(counter) => self.0.counter = counter,
            None => {
                // A later time allows the counter to begin again.
                self.0.time = self.0.time.saturating_add(1);
                self.0.counter = 1;
            }
        }
        self.0
    }
}

/// Which replay ids of the peer were seen. Only authenticated ids may be given to it.
#[derive(Debug)]
pub struct ReplayIdWindow {
    time: Option<u32>,
    top: u32,
    /// `slots[n]` is about `top - n`.
    slots: [Slot; WINDOW as usize],
    /// The receiver's clock in unix seconds, when it was last told.
    clock: Option<u32>,
    reaped: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Slot {
    Empty,
    /// Seen at this time of the receiver's clock, if it had one.
    Seen(Option<u32>),
    Expired,
}

impl Default for ReplayIdWindow {
    fn default() -> Self {
        Self::new()
    }
}

impl ReplayIdWindow {
    /// Nothing seen.
    pub fn new() -> Self {
        ReplayIdWindow {
            time: None,
            top: 0,
            slots: [Slot::Empty; WINDOW as usize],
            clock: None,
            reaped: 0,
        }
    }

    /// Tells the time in unix seconds. Ids are refused [`WINDOW_SECS`] after a later one only if
    /// this is called; the window by number works without.
    pub fn set_clock(&mut self, unix: u32) {
        let first = self.clock.is_none();
        self.clock = Some(unix);
        if first {
            self.reaped = unix;
        } else if unix.saturating_sub(self.reaped) >= REAP_SECS {
            self.reaped = unix;
            self.reap(unix);
        }
    }

    /// Whether an authenticated id is new; if so it counts as seen from now on.
    pub fn accept(&mut self, id: ReplayId) -> bool {
        if id.counter == 0 {
            return false;
        }
        match self.time {
            Some(time) if id.time < time => return false,
            Some(time) if id.time == time => {}
            _ => {
                self.time = Some(id.time);
                self.top = 0;
                self.slots.fill(Slot::Empty);
            }
        }
        if id.counter > self.top {
            let shift = (id.counter - self.top).min(WINDOW) as usize;
            self.slots.rotate_right(shift);
            self.slots[..shift].fill(Slot::Empty);
            self.top = id.counter;
        }
        let below = self.top - id.counter;
        if below >= WINDOW || self.slots[below as usize] != Slot::Empty {
            return false;
        }
        self.slots[below as usize] = Slot::Seen(self.clock);
        true
    }

    /// Refuses from now on what is older than an id seen more than [`WINDOW_SECS`] ago.
    fn reap(&mut self, unix: u32) {
        let old = self.slots.iter().position(|slot| match slot {
            Slot::Seen(Some(at)) => unix.saturating_sub(*at) > WINDOW_SECS,
            Slot::Expired => true,
            Slot::Empty | Slot::Seen(None) => false,
        });
        if let Some(old) = old {
            self.slots[old..].fill(Slot::Expired);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn id(counter: u32, time: u32) -> ReplayId {
        ReplayId { counter, time }
    }

    #[test]
    fn wire_form() {
        let bytes = [0x0f, 0, 0, 1, 0x61, 0xd3, 0xf8, 0xe1];
        let parsed = ReplayId::from_bytes(bytes);
        assert_eq!(parsed, id(0x0f00_0001, 0x61d3_f8e1));
        assert!(parsed.offers_early_negotiation());
        assert!(!id(1, 0).offers_early_negotiation());
        assert_eq!(parsed.to_bytes(), bytes);
    }

    #[test]
    fn counter_never_repeats() {
        let mut ids = ReplayIdCounter::new(0, 100);
        assert_eq!(ids.take(), id(1, 100));
        assert_eq!(ids.take(), id(2, 100));
        let mut ids = ReplayIdCounter::new(u32::MAX - 1, 100);
        assert_eq!(ids.take(), id(u32::MAX, 100));
        assert_eq!(ids.take(), id(1, 101));
        let mut early = ReplayIdCounter::new(EARLY_NEGOTIATION_START, 5);
        assert_eq!(early.take(), id(0x0f00_0001, 5));
    }

    #[test]
    fn window_of_64() {
        let mut window = ReplayIdWindow::new();
        assert!(!window.accept(id(0, 9)));
        assert!(window.accept(id(1, 9)));
        assert!(!window.accept(id(1, 9)));
        assert!(window.accept(id(100, 9)));
        assert!(!window.accept(id(36, 9)), "64 below the highest");
        assert!(window.accept(id(37, 9)));
        assert!(!window.accept(id(37, 9)));
        assert!(window.accept(id(u32::MAX, 9)));
        assert!(!window.accept(id(100, 9)));
    }

    #[test]
    fn later_time_restarts_and_earlier_time_is_refused() {
        let mut window = ReplayIdWindow::new();
        assert!(window.accept(id(500, 9)));
        assert!(!window.accept(id(501, 8)));
        assert!(window.accept(id(1, 10)));
        assert!(!window.accept(id(502, 9)));
        assert!(!window.accept(id(1, 10)));
    }

    #[test]
    fn time_zero_is_a_time() {
        let mut window = ReplayIdWindow::new();
        assert!(window.accept(id(1, 0)));
        assert!(!window.accept(id(1, 0)));
    }

    #[test]
    fn gaps_close_after_15_seconds() {
        let mut window = ReplayIdWindow::new();
        window.set_clock(1000);
        assert!(window.accept(id(10, 9)));
        window.set_clock(1014);
        assert!(window.accept(id(20, 9)));
        assert!(window.accept(id(9, 9)), "14 s is not too late");
        window.set_clock(1016);
        assert!(window.accept(id(8, 9)), "looks only every 5 s");
        window.set_clock(1020);
        assert!(!window.accept(id(7, 9)), "10 was seen 20 s ago");
        assert!(window.accept(id(19, 9)), "20 was seen 6 s ago");
        window.set_clock(1040);
        assert!(!window.accept(id(18, 9)));
        assert!(window.accept(id(21, 9)));
    }

    #[test]
    fn without_a_clock_only_numbers_count() {
        let mut window = ReplayIdWindow::new();
        assert!(window.accept(id(64, 9)));
        window.set_clock(5);
        window.set_clock(500);
        assert!(window.accept(id(1, 9)));
    }

    proptest! {
        #[test]
        fn accepts_each_id_once_and_all_within_the_window(
            ids in proptest::collection::vec(1u32..300, 0..400),
        ) {
            let mut window = ReplayIdWindow::new();
            let mut seen = HashSet::new();
            let mut top = 0;
            for counter in ids {
                let fresh = !seen.contains(&counter) && counter + WINDOW > top;
                prop_assert_eq!(window.accept(id(counter, 7)), fresh);
                if fresh {
                    seen.insert(counter);
                    top = top.max(counter);
                }
            }
        }
    }
}
