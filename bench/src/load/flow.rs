//! What both ends of a stream need: shared counters, a pace, a way to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::protocol::Received;

/// How long a socket call may take before a thread looks whether it should stop.
pub const LOOK: Duration = Duration::from_millis(100);

/// This machine's clock in seconds since 1970.
#[must_use]
pub fn unix_now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// Ends the threads of a test.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks all threads that hold a copy to end.
    pub fn set(&self) {
        self.0.store(true, Relaxed);
    }

    /// Whether they were asked.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// What the receiving threads of one direction have counted so far.
#[derive(Debug)]
pub struct Counters {
    epoch: Instant,
    bytes: AtomicU64,
    packets: AtomicU64,
    missing: AtomicI64,
    duplicates: AtomicU64,
    reordered: AtomicU64,
    /// Nanoseconds after `epoch`; `u64::MAX` before the first byte.
    first: AtomicU64,
    last: AtomicU64,
    began_unix: f64,
}

/// The running totals a sample is made from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    /// Payload bytes.
    pub bytes: u64,
    /// Different datagrams.
    pub packets: u64,
    /// Datagrams not (yet) arrived.
    pub missing: i64,
}

/// What one call of a receiver brought.
#[derive(Clone, Copy, Debug, Default)]
pub struct Batch {
    /// Payload bytes, duplicates not counted.
    pub bytes: u64,
    /// New datagrams.
    pub packets: u64,
    /// Change of the number of missing datagrams.
    pub missing: i64,
    /// Datagrams seen before.
    pub duplicates: u64,
    /// Datagrams overtaken.
    pub reordered: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            began_unix: unix_now(),
            bytes: AtomicU64::new(0),
            packets: AtomicU64::new(0),
            missing: AtomicI64::new(0),
            duplicates: AtomicU64::new(0),
            reordered: AtomicU64::new(0),
            first: AtomicU64::new(u64::MAX),
            last: AtomicU64::new(0),
        }
    }
}

impl Counters {
    /// Adds what has just arrived.
    pub fn add(&self, batch: &Batch) {
        let now = u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX - 1);
        self.first.fetch_min(now, Relaxed);
        self.last.fetch_max(now, Relaxed);
        self.bytes.fetch_add(batch.bytes, Relaxed);
        self.packets.fetch_add(batch.packets, Relaxed);
        self.missing.fetch_add(batch.missing, Relaxed);
        self.duplicates.fetch_add(batch.duplicates, Relaxed);
        self.reordered.fetch_add(batch.reordered, Relaxed);
    }

    /// The running totals.
    #[must_use]
    pub fn now(&self) -> Counted {
        Counted {
            bytes: self.bytes.load(Relaxed),
            packets: self.packets.load(Relaxed),
            missing: self.missing.load(Relaxed),
        }
    }

    /// Waits until nothing has arrived for `quiet`, at most `limit`.
    pub fn settle(&self, quiet: Duration, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut seen = self.last.load(Relaxed);
        let mut since = Instant::now();
        while Instant::now() < deadline && since.elapsed() < quiet {
            std::thread::sleep(Duration::from_millis(10));
            let last = self.last.load(Relaxed);
            if last != seen {
                (seen, since) = (last, Instant::now());
            }
        }
    }

    /// The totals at the end.
    #[must_use]
    pub fn received(&self) -> Received {
        let first = self.first.load(Relaxed);
        let (bytes, seconds) = match first {
            u64::MAX => (0, 0.0),
            first => (
                self.bytes.load(Relaxed),
                self.last.load(Relaxed).saturating_sub(first) as f64 / 1e9,
            ),
        };
        Received {
            bytes,
            packets: self.packets.load(Relaxed),
            duplicates: self.duplicates.load(Relaxed),
            reordered: self.reordered.load(Relaxed),
            seconds,
            began_unix: self.began_unix
                + if first == u64::MAX {
                    0.0
                } else {
                    first as f64 / 1e9
                },
        }
    }
}

/// Decides when the next unit (datagram or write) may go.
///
/// A sender that was held up does not catch up on more than [`Pacer::BACKLOG`]: a link would see a
/// burst nobody asked for.
#[derive(Clone, Debug)]
pub struct Pacer {
    per_second: Option<f64>,
    next: Instant,
}

impl Pacer {
    /// The most it catches up on.
    pub const BACKLOG: Duration = Duration::from_millis(5);

    /// A pace of `per_second` units from `start` on; as many as go when `None`.
    #[must_use]
    pub fn new(per_second: Option<f64>, start: Instant) -> Self {
        Self {
            per_second,
            next: start,
        }
    }

    /// How many of `max` units may go now, counted as gone; else how long to wait for the next.
    ///
    /// # Errors
    /// The time until the next unit is due.
    pub fn take(&mut self, now: Instant, max: usize) -> Result<usize, Duration> {
        let Some(per_second) = self.per_second else {
            return Ok(max);
        };
        if let Some(wait) = self
            .next
            .checked_duration_since(now)
            .filter(|w| !w.is_zero())
        {
            return Err(wait);
        }
        if let Some(limit) = now.checked_sub(Self::BACKLOG) {
            self.next = self.next.max(limit);
        }
        let late = (now - self.next).as_secs_f64();
        let due = ((late * per_second) as usize + 1).min(max);
        self.next += Duration::from_secs_f64(due as f64 / per_second);
        Ok(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_kept_and_bursts_are_bounded() {
        let start = Instant::now();
        let at = |us| start + Duration::from_micros(us);
        let mut pacer = Pacer::new(Some(1000.0), start);
        assert_eq!(pacer.take(at(0), 64), Ok(1));
        assert_eq!(pacer.take(at(0), 64), Err(Duration::from_millis(1)));
        assert_eq!(pacer.take(at(3_500), 64), Ok(3));
        assert_eq!(pacer.take(at(3_999), 64), Err(Duration::from_micros(1)));
        assert_eq!(pacer.take(at(4_000), 64), Ok(1));
        // Held up for a second: no thousand at once.
        assert_eq!(pacer.take(at(1_004_000), 64), Ok(6));
        assert_eq!(Pacer::new(None, start).take(start, 64), Ok(64));
    }

    #[test]
    fn slow_rates_wait_and_fast_ones_fill() {
        let start = Instant::now();
        let mut pacer = Pacer::new(Some(0.5), start);
        assert_eq!(pacer.take(start, 9), Ok(1));
        assert_eq!(pacer.take(start, 9), Err(Duration::from_secs(2)));
        let mut pacer = Pacer::new(Some(1e7), start);
        assert_eq!(pacer.take(start + Duration::from_millis(1), 64), Ok(64));
    }

    #[test]
    fn totals_cover_the_first_to_the_last_byte() {
        let counters = Counters::default();
        assert_eq!(counters.received().seconds, 0.0);
        let batch = Batch {
            bytes: 10,
            packets: 2,
            missing: 3,
            ..Batch::default()
        };
        counters.add(&batch);
        counters.add(&Batch {
            missing: -1,
            ..batch
        });
        let received = counters.received();
        assert_eq!((received.bytes, received.packets), (20, 4));
        assert_eq!(counters.now().missing, 2);
        assert!(received.seconds >= 0.0);
    }
}
