//! What a test showed, as numbers for programs; [`super::display`] writes it for people.

use serde::{Deserialize, Serialize};

use super::meter::Sample;
use super::probe::Latency;
use super::protocol::{Load, Received, Request, Sent};

/// One test.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// The sink's address and port.
    pub sink: String,
    /// What was asked for.
    pub request: Request,
    /// From the source to the sink.
    pub up: Option<Flow>,
    /// From the sink to the source.
    pub down: Option<Flow>,
    /// Round trips meanwhile.
    pub latency: Option<Latency>,
}

/// One direction. Rates are of payload, counted where it arrived.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Flow {
    /// What the sending end sent.
    pub sent: Sent,
    /// What the receiving end received.
    pub received: Received,
    /// Datagrams that never arrived.
    pub lost: u64,
    /// Their share of those sent, 0 to 1.
    pub loss: f64,
    /// Payload bits per second.
    pub bits_per_second: f64,
    /// Datagrams per second; 0 for TCP.
    pub packets_per_second: f64,
    /// What arrived in each interval.
    pub samples: Vec<Sample>,
}

impl Flow {
    /// Puts both ends' counts together.
    #[must_use]
    pub fn new(load: Load, sent: Sent, received: Received, samples: Vec<Sample>) -> Self {
        let seconds = received.seconds.max(1e-6);
        let lost = match load {
            Load::Udp => sent.packets.saturating_sub(received.packets),
            Load::Tcp | Load::Idle => 0,
        };
        Self {
            sent,
            received,
            lost,
            loss: lost as f64 / (sent.packets as f64).max(1.0),
            bits_per_second: received.bytes as f64 * 8.0 / seconds,
            packets_per_second: received.packets as f64 / seconds,
            samples,
        }
    }
}

/// The outcome of a search for the highest rate without loss.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Found {
    /// The highest rate that went through, as sent: datagrams per second.
    pub packets_per_second: f64,
    /// The same in payload bits per second.
    pub bits_per_second: f64,
    /// The share of loss that still counted as none, 0 to 1.
    pub allowed_loss: f64,
    /// Every rate tried, in order.
    pub steps: Vec<Step>,
    /// The test at the highest rate; absent when every rate lost datagrams.
    pub best: Option<Outcome>,
}

/// One rate tried.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Step {
    /// Datagrams per second that were sent.
    pub offered: f64,
    /// Datagrams per second that arrived.
    pub received: f64,
    /// Share lost, 0 to 1.
    pub loss: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_is_what_was_sent_and_did_not_arrive() {
        let sent = Sent {
            bytes: 1000,
            packets: 10,
        };
        let received = Received {
            bytes: 900,
            packets: 9,
            seconds: 2.0,
            ..Received::default()
        };
        let flow = Flow::new(Load::Udp, sent, received, Vec::new());
        assert_eq!((flow.lost, flow.loss), (1, 0.1));
        assert_eq!(
            (flow.bits_per_second, flow.packets_per_second),
            (3600.0, 4.5)
        );
        assert_eq!(Flow::new(Load::Tcp, sent, received, Vec::new()).lost, 0);
    }
}
