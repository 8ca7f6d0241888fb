//! What the clients have counted.

use hdrhistogram::Histogram;

/// Highest time that is told from a longer one, in microseconds: ten minutes.
const LONGEST: u64 = 600_000_000;
/// Failures whose text is kept.
const TEXTS: usize = 5;

/// Counts of all clients of a swarm, since its start or the last
/// [`Swarm::forget`](super::Swarm::forget).
#[derive(Clone, Debug)]
pub struct Report {
    /// Clients that are connected now.
    pub up: usize,
    /// Logins that have succeeded.
    pub logins: u64,
    /// Logins that have failed, and connections that ended by themselves.
    pub failures: u64,
    /// Of these: `ping-restart` without a word from the server.
    pub silent: u64,
    /// The first reasons.
    pub reasons: Vec<String>,
    /// From the first packet to the first data key that sends, in microseconds.
    pub connect: Histogram<u64>,
    /// TLS version, suite and key exchange of the last login.
    pub tls: String,
    /// Renegotiations that have brought a new key.
    pub rekeys: u64,
    /// Data packets that did not open.
    pub unopened: u64,
    /// Packets of flows sent.
    pub sent: u64,
    /// Packets of flows received whole.
    pub received: u64,
    /// Of these: not for this client, or not from whom they say.
    pub astray: u64,
    /// Of these: behind a later one of their flow, or twice.
    pub late: u64,
    /// Packets whose content had changed.
    pub damaged: u64,
    /// Packets that the socket did not take.
    pub unsent: u64,
    /// Round trips of echoes, in microseconds.
    pub round_trips: Histogram<u64>,
    /// CPU time of the thread of the clients since its start, in seconds.
    pub cpu_seconds: f64,
}

impl Report {
    pub(super) fn new() -> Self {
        Self {
            up: 0,
            logins: 0,
            failures: 0,
            silent: 0,
            reasons: Vec::new(),
            connect: times(),
            tls: String::new(),
            rekeys: 0,
            unopened: 0,
            sent: 0,
            received: 0,
            astray: 0,
            late: 0,
            damaged: 0,
            unsent: 0,
            round_trips: times(),
            cpu_seconds: 0.0,
        }
    }

    pub(super) fn failed(&mut self, reason: String) {
        self.failures += 1;
        if self.reasons.len() < TEXTS {
            self.reasons.push(reason);
        }
    }

    /// Packets of flows that have not arrived. Wait a moment after the last was sent.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }

    /// One line for people.
    #[must_use]
    pub fn line(&self) -> String {
        let milliseconds = |us: u64| us as f64 / 1000.0;
        format!(
            "{} up, {} logins (p50 {:.0} ms, p99 {:.0} ms), {} failures{}, {} packets sent, {} lost, \
             {} astray, {} late, {} damaged, {:.1} s CPU",
            self.up,
            self.logins,
            milliseconds(self.connect.value_at_quantile(0.5)),
            milliseconds(self.connect.value_at_quantile(0.99)),
            self.failures,
            self.reasons
                .first()
                .map(|reason| format!(" ({reason})"))
                .unwrap_or_default(),
            self.sent,
            self.lost(),
            self.astray,
            self.late,
            self.damaged,
            self.cpu_seconds
        )
    }
}

/// An empty histogram of microseconds, three digits that matter.
fn times() -> Histogram<u64> {
    let bounds = Histogram::new_with_bounds(1, LONGEST, 3);
    // The bounds are constants that fit.
    bounds.unwrap_or_else(|_| unreachable!("1 to {LONGEST} with 3 digits is a histogram"))
}
