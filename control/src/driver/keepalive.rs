//! Liveness: when to ping, and when silence means the end (protocol §9).
//!
//! Pure: fed about once a second with counters the data plane publishes anyway, it says what is due.

use std::time::{Duration, Instant};

use crate::config::options::Inactive;

/// The timers, as configured or pushed. Zero is off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct KeepaliveConfig {
    /// Ping after this long without sending anything.
    pub ping: Duration,
    /// Silence counts only while the peer's address is known (`ping-timer-rem`).
    pub needs_peer: bool,
    /// Restart after this long without hearing anything.
    pub ping_restart: Duration,
    /// Exit after this long without hearing anything.
    pub ping_exit: Duration,
    /// Exit when there is less traffic than this.
    pub inactive: Option<Inactive>,
    /// End the session after this long.
    pub session_timeout: Duration,
}

/// Totals at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Data packets sent.
    pub tx_packets: u64,
    /// Data packets received and authenticated.
    pub rx_packets: u64,
    /// Inner bytes both ways, pings not counted.
    pub tun_bytes: u64,
    /// The peer's address is known.
    pub peer_known: bool,
    /// Last control packet sent.
    pub control_tx: Instant,
    /// Last valid control packet received.
    pub control_rx: Instant,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Send a ping.
    Ping,
    /// `ping-restart`: restart.
    Restart,
    /// `ping-exit`: exit.
    Exit,
    /// `inactive`: exit.
    Inactive,
    /// `session-timeout`: exit.
    SessionTimeout,
}

/// Watches one peer.
#[derive(Debug)]
pub(super) struct Keepalive {
    config: KeepaliveConfig,
    started: Instant,
    last_tx: Instant,
    last_rx: Instant,
    /// When the last data packet was seen, if any was.
    last_data: Option<Instant>,
    tx_packets: u64,
    rx_packets: u64,
    /// Start of the current `inactive` span and the traffic total then.
    quiet: (Instant, u64),
}

impl Keepalive {
    /// Starts all timers at `now`.
    pub(super) fn new(config: KeepaliveConfig, now: Instant) -> Self {
        Keepalive {
            config,
            started: now,
            last_tx: now,
            last_rx: now,
            last_data: None,
            tx_packets: 0,
            rx_packets: 0,
            quiet: (now, 0),
        }
    }

    /// Takes new timers (pushed ones) without forgetting what has been heard. The session begins
    /// now.
    pub(super) fn reconfigure(&mut self, config: KeepaliveConfig, now: Instant) {
        self.config = config;
        self.started = now;
        self.quiet.0 = now;
    }

    /// When the last data packet came, to the second; `None` before the first.
    pub(super) fn last_data(&self) -> Option<Instant> {
        self.last_data
    }

    /// When anything was last heard, to the second.
    pub(super) fn last_rx(&self) -> Instant {
        self.last_rx
    }

    /// Takes a sample and says what is due, the gravest last.
    pub(super) fn tick(&mut self, now: Instant, sample: Sample) -> Option<Due> {
        if sample.tx_packets != self.tx_packets {
            self.tx_packets = sample.tx_packets;
            self.last_tx = now;
        }
        if sample.rx_packets != self.rx_packets {
            self.rx_packets = sample.rx_packets;
            self.last_rx = now;
            self.last_data = Some(now);
        }
        self.last_tx = self.last_tx.max(sample.control_tx);
        self.last_rx = self.last_rx.max(sample.control_rx);

        let c = &self.config;
        if c.needs_peer && !sample.peer_known {
            self.last_rx = now;
        }
        let over = |limit: Duration, since: Instant| {
            !limit.is_zero() && now.saturating_duration_since(since) >= limit
        };
        if over(c.session_timeout, self.started) {
            return Some(Due::SessionTimeout);
        }
        if over(c.ping_exit, self.last_rx) {
            return Some(Due::Exit);
        }
        if over(c.ping_restart, self.last_rx) {
            return Some(Due::Restart);
        }
        if let Some(inactive) = c.inactive {
            let moved = sample.tun_bytes.saturating_sub(self.quiet.1);
            if moved > inactive.bytes {
                self.quiet = (now, sample.tun_bytes);
            } else if over(Duration::from_secs(inactive.seconds), self.quiet.0) {
                return Some(Due::Inactive);
            }
        }
        if over(c.ping, self.last_tx) {
            self.last_tx = now;
            return Some(Due::Ping);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn sample(t: Instant, tx: u64, rx: u64, bytes: u64) -> Sample {
        Sample {
            tx_packets: tx,
            rx_packets: rx,
            tun_bytes: bytes,
            peer_known: true,
            control_tx: t,
            control_rx: t,
        }
    }

    #[test]
    fn pings_only_when_nothing_else_was_sent() {
        let t = Instant::now();
        let config = KeepaliveConfig {
            ping: 10 * S,
            ..KeepaliveConfig::default()
        };
        let mut k = Keepalive::new(config, t);
        assert_eq!(k.tick(t + 9 * S, sample(t, 1, 0, 0)), None);
        assert_eq!(k.tick(t + 18 * S, sample(t, 1, 0, 0)), None);
        assert_eq!(k.tick(t + 19 * S, sample(t, 1, 0, 0)), Some(Due::Ping));
        assert_eq!(k.tick(t + 20 * S, sample(t, 2, 0, 0)), None);
        assert_eq!(k.tick(t + 40 * S, sample(t + 39 * S, 2, 0, 0)), None);
    }

    #[test]
    fn silence_restarts_and_any_valid_packet_postpones_it() {
        let t = Instant::now();
        let config = KeepaliveConfig {
            ping_restart: 60 * S,
            ..KeepaliveConfig::default()
        };
        let mut k = Keepalive::new(config, t);
        assert_eq!(k.tick(t + 59 * S, sample(t, 0, 1, 0)), None);
        assert_eq!(k.tick(t + 118 * S, sample(t, 0, 1, 0)), None);
        assert_eq!(k.tick(t + 119 * S, sample(t, 0, 1, 0)), Some(Due::Restart));
    }

    #[test]
    fn silence_of_an_unknown_peer_counts_unless_told_otherwise() {
        let t = Instant::now();
        let mut config = KeepaliveConfig {
            ping_restart: 60 * S,
            ..KeepaliveConfig::default()
        };
        let unknown = Sample {
            peer_known: false,
            ..sample(t, 0, 0, 0)
        };
        let mut k = Keepalive::new(config, t);
        assert_eq!(k.tick(t + 60 * S, unknown), Some(Due::Restart));
        config.needs_peer = true;
        let mut k = Keepalive::new(config, t);
        assert_eq!(k.tick(t + 60 * S, unknown), None);
        assert_eq!(k.tick(t + 119 * S, sample(t, 0, 0, 0)), None);
        assert_eq!(k.tick(t + 120 * S, sample(t, 0, 0, 0)), Some(Due::Restart));
    }

    #[test]
    fn inactivity_counts_bytes() {
        let t = Instant::now();
        let inactive = Some(Inactive {
            seconds: 30,
            bytes: 1000,
        });
        let config = KeepaliveConfig {
            inactive,
            ..KeepaliveConfig::default()
        };
        let mut k = Keepalive::new(config, t);
        assert_eq!(k.tick(t + 20 * S, sample(t, 9, 9, 1001)), None);
        assert_eq!(k.tick(t + 49 * S, sample(t, 99, 99, 2001)), None);
        assert_eq!(
            k.tick(t + 50 * S, sample(t, 99, 99, 2001)),
            Some(Due::Inactive)
        );
    }
}
