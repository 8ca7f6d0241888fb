//! Samples of what a running test has received.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::flow::Counters;

/// What arrived in one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The interval's end, in seconds since the test began at the receiver.
    pub at: f64,
    /// The interval's length, in seconds, as it really was.
    pub seconds: f64,
    /// The receiver's clock at the interval's end, in seconds since 1970.
    pub unix: f64,
    /// Payload bytes received.
    pub bytes: u64,
    /// Datagrams received; 0 for TCP.
    pub packets: u64,
    /// Datagrams that did not come; negative when some came after all.
    pub missing: i64,
}

impl Sample {
    /// Payload bits per second.
    #[must_use]
    pub fn bits_per_second(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.seconds.max(1e-6)
    }
}

/// Hands a sample to `take` every `interval` until `stop` disconnects.
///
/// The deadlines are absolute: a late sample does not shift the next, and each carries its real
/// length, so that a busy machine does not make rates wrong.
pub fn run(
    counters: &Counters,
    interval: Duration,
    stop: &Receiver<()>,
    mut take: impl FnMut(Sample),
) {
    let start = Instant::now();
    let mut due = start + interval;
    let mut before = (start, counters.now());
    loop {
        let wait = due.saturating_duration_since(Instant::now());
        if let Err(RecvTimeoutError::Disconnected) | Ok(()) = stop.recv_timeout(wait) {
            return;
        }
        let (now, counted) = (Instant::now(), counters.now());
        take(Sample {
            at: (now - start).as_secs_f64(),
            seconds: (now - before.0).as_secs_f64(),
            unix: super::flow::unix_now(),
            bytes: counted.bytes - before.1.bytes,
            packets: counted.packets - before.1.packets,
            missing: counted.missing - before.1.missing,
        });
        before = (now, counted);
        while due <= now {
            due += interval;
        }
    }
}
