//! How each quantity is taken from a running tunnel.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ringway_bench::load::lab::Sink;
use ringway_bench::load::latency::round_trips;
use ringway_bench::load::outcome::Outcome;
use ringway_bench::load::rekey::rekey_dip;
use ringway_lab::iperf::{self, Direction, TcpLoad};
use ringway_lab::traffic::UdpStream;

use crate::measure::Measure;
use crate::server::{self, Scale};
use crate::tunnel::Tunnel;

/// One way of looking at a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// TCP throughput and what it costs.
    Tcp(TcpShape),
    /// The best received rate of 64-byte datagrams.
    Small,
    /// The best received rate of 1200-byte datagrams, which the sender hands over in super-packets.
    Bulk,
    /// Round trips, idle and beside one TCP stream.
    Latency,
    /// What a change of keys costs under full load.
    Rekey,
    /// Resident size after a TCP load.
    Memory,
    /// Time per packet of AES-256-CBC with HMAC-SHA256; takes no tunnel.
    CbcSha256,
    /// Time per packet of AES-256-CBC with HMAC-SHA1; takes no tunnel.
    CbcSha1,
    /// A server with its peers; starts its own.
    Server(server::Row),
}

/// A TCP load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TcpShape {
    /// Connections side by side.
    pub(crate) streams: u32,
    /// Who sends.
    pub(crate) direction: Direction,
    /// Over IPv6 inside.
    pub(crate) v6: bool,
}

/// Values of one turn.
pub(crate) type Values = Vec<(Measure, f64)>;

/// First of the ports of the small datagrams' receivers.
const PORT: u16 = 5320;
const SMALL: usize = 64;

/// Offered loads for small datagrams, tried in this order. A sender as fast as it goes takes CPU
/// time from the tunnel on a small machine, too slow a one starves it: what is just above the best
/// rate so far is usually best of all.
const OFFERS: [Offer; 5] = [
    Offer::Flat(1),
    Offer::Flat(2),
    Offer::TimesBest(1.3),
    Offer::TimesBest(1.1),
    Offer::TimesBest(1.02),
];

#[derive(Clone, Copy, Debug)]
enum Offer {
    /// So many senders, each as fast as it goes.
    Flat(u16),
    /// One sender at this multiple of the best received rate so far.
    TimesBest(f64),
}

impl Probe {
    /// What it measures.
    pub(crate) fn measures(self) -> &'static [Measure] {
        match self {
            Self::Tcp(_) => &[Measure::TcpRate, Measure::TcpCpu],
            Self::Small => &[Measure::SmallRate, Measure::SmallCpu],
            Self::Bulk => &[Measure::UdpRate, Measure::UdpCpu],
            Self::Latency => &[
                Measure::IdleP50,
                Measure::IdleP99,
                Measure::IdleP999,
                Measure::LoadedP50,
                Measure::LoadedP99,
                Measure::LoadedP999,
            ],
            Self::Rekey => &[
                Measure::RekeyDip,
                Measure::QuietDip,
                Measure::RekeyWorst,
                Measure::QuietWorst,
                Measure::RekeyExcess,
                Measure::RekeyLost,
            ],
            Self::Memory => &[Measure::Memory, Measure::MemoryPeak],
            Self::CbcSha256 | Self::CbcSha1 => &[Measure::SealTime, Measure::OpenTime],
            Self::Server(row) => row.measures(),
        }
    }

    /// About how long it takes, in seconds, at this scale.
    pub(crate) fn estimate(self, scale: Scale) -> f64 {
        let seconds = f64::from(scale.seconds);
        match self {
            Self::Tcp(_) | Self::Memory => seconds + 1.5,
            Self::Small => OFFERS.len() as f64 * (small_seconds(seconds) + 0.5),
            Self::Bulk => 2.0 * (seconds + 1.0),
            Self::Latency => 2.0 * latency_seconds(seconds) + 1.0,
            Self::Rekey => 1.5 * rekey_seconds(seconds) + 1.0,
            Self::CbcSha256 | Self::CbcSha1 => 0.5,
            Self::Server(row) => row.estimate(scale),
        }
    }

    /// Takes the values, on measurements of `seconds`.
    ///
    /// # Errors
    /// When a load tool fails or a process has ended.
    pub(crate) fn run(self, tunnel: &Tunnel, seconds: u32) -> Result<Values> {
        match self {
            Self::Tcp(shape) => tcp(tunnel, shape, seconds),
            Self::Small => small(tunnel, small_seconds(f64::from(seconds))),
            Self::Bulk => bulk(tunnel, seconds),
            Self::Latency => latency(tunnel, latency_seconds(f64::from(seconds))),
            Self::Rekey => rekey(tunnel, rekey_seconds(f64::from(seconds))),
            Self::Memory => memory(tunnel, seconds),
            Self::CbcSha256 | Self::CbcSha1 | Self::Server(_) => {
                anyhow::bail!("this one takes no tunnel")
            }
        }
    }
}

fn tcp(tunnel: &Tunnel, shape: TcpShape, seconds: u32) -> Result<Values> {
    let server = iperf::Server::start(&tunnel.server, tunnel.far[usize::from(shape.v6)])?;
    let load = |seconds| {
        let load = TcpLoad {
            seconds,
            streams: shape.streams,
            direction: shape.direction,
        };
        // iperf3 takes one test at a time and listens anew for each, and a slow link drains for a while
        // after the last one.
        let mut outcome = server.load(&tunnel.client, load);
        for _ in 0..5 {
            match &outcome {
                Err(error) if between_tests(&error.to_string()) => {
                    std::thread::sleep(Duration::from_millis(500));
                    outcome = server.load(&tunnel.client, load);
                }
                Ok(_) | Err(_) => break,
            }
        }
        outcome
    };
    // Congestion window and caches are warm after a second.
    load(1)?;
    let before = tunnel.cpu_seconds()?;
    let result = load(seconds)?;
    let spent = tunnel.cpu_seconds()? - before;
    anyhow::ensure!(result.bytes > 0, "nothing arrived");
    let mut values = vec![(Measure::TcpRate, result.bits_per_second / 1e9)];
    if spent > 0.0 {
        values.push((Measure::TcpCpu, spent / (result.bytes as f64 / 1e9)));
    }
    Ok(values)
}

/// Whether iperf3 was not ready for the next test, by what the connecting end says.
fn between_tests(error: &str) -> bool {
    error.contains("busy") || error.contains("Connection reset")
}

/// One try is shorter than a TCP measurement: there are several, and the best counts.
fn small_seconds(seconds: f64) -> f64 {
    (seconds / 2.0).max(1.0)
}

fn small(tunnel: &Tunnel, seconds: f64) -> Result<Values> {
    let (mut best, mut cost) = (0.0, 0.0);
    for offer in OFFERS {
        let (senders, rate) = match offer {
            Offer::Flat(senders) => (senders, 0),
            Offer::TimesBest(factor) => (1, (best * factor) as u64 + 1),
        };
        let before = tunnel.cpu_seconds()?;
        let (received, took) = datagrams(tunnel, senders, rate, seconds)?;
        let spent = tunnel.cpu_seconds()? - before;
        let got = received as f64 / took.max(seconds / 2.0);
        if got > best {
            best = got;
            cost = spent * 1e6 / received as f64;
        }
    }
    anyhow::ensure!(best > 0.0, "nothing arrived");
    let mut values = vec![(Measure::SmallRate, best / 1e3)];
    if cost > 0.0 {
        values.push((Measure::SmallCpu, cost));
    }
    Ok(values)
}

/// Datagrams received from `senders`, and over how many seconds.
fn datagrams(tunnel: &Tunnel, senders: u16, rate: u64, seconds: f64) -> Result<(u64, f64)> {
    let mut streams = Vec::new();
    for number in 0..senders {
        let to = SocketAddr::new(tunnel.far[0], PORT + number);
        let (client, server) = (&tunnel.client, &tunnel.server);
        streams.push(UdpStream::start(client, server, to, rate, SMALL, seconds)?);
    }
    let (mut received, mut took) = (0, 0.0_f64);
    for stream in streams {
        let outcome = stream.finish()?;
        received += outcome.report.received;
        took = took.max(outcome.report.seconds);
    }
    Ok((received, took))
}

fn bulk(tunnel: &Tunnel, seconds: u32) -> Result<Values> {
    let sink = Sink::start(&tunnel.server, tunnel.far[0])?;
    let (mut best, mut cost) = (0.0, 0.0);
    // As fast as it goes, then just above what arrived of that.
    for factor in [None, Some(1.1)] {
        let rate = factor.map_or(String::new(), |factor| {
            format!("--rate {:.0}M", (best * factor / 1e6_f64).max(1.0))
        });
        let words = format!("--udp --size 1200 --seconds {seconds} {rate}");
        let before = tunnel.cpu_seconds()?;
        let patience = Duration::from_secs(u64::from(seconds) + 30);
        let outcome: Outcome = sink
            .source(&tunnel.client, &words)?
            .finish(patience, || ())?;
        let spent = tunnel.cpu_seconds()? - before;
        let flow = outcome.up.context("the source sent nothing")?;
        if flow.bits_per_second > best {
            best = flow.bits_per_second;
            cost = spent / (flow.received.bytes as f64 / 1e9);
        }
    }
    anyhow::ensure!(best > 0.0, "nothing arrived");
    let mut values = vec![(Measure::UdpRate, best / 1e9)];
    if cost > 0.0 {
        values.push((Measure::UdpCpu, cost));
    }
    Ok(values)
}

/// At a thousand probes a second p99.9 needs some seconds to mean anything.
fn latency_seconds(seconds: f64) -> f64 {
    seconds.max(3.0)
}

fn latency(tunnel: &Tunnel, seconds: f64) -> Result<Values> {
    let (client, server, far) = (&tunnel.client, &tunnel.server, tunnel.far[0]);
    let idle = round_trips(client, server, far, seconds, false)?;
    let loaded = round_trips(client, server, far, seconds, true)?;
    anyhow::ensure!(
        idle.received > 0 && loaded.received > 0,
        "no probe came back"
    );
    Ok(vec![
        (Measure::IdleP50, idle.p50),
        (Measure::IdleP99, idle.p99),
        (Measure::IdleP999, idle.p999),
        (Measure::LoadedP50, loaded.p50),
        (Measure::LoadedP99, loaded.p99),
        (Measure::LoadedP999, loaded.p999),
    ])
}

/// `reneg-sec` of the setting in which keys change, in seconds.
pub(crate) const RENEG_SECONDS: u32 = 4;

/// Long enough for several changes of keys, whatever else is short.
fn rekey_seconds(seconds: f64) -> f64 {
    (10.0 * seconds).max(5.0 * f64::from(RENEG_SECONDS))
}

fn rekey(tunnel: &Tunnel, seconds: f64) -> Result<Values> {
    let link = tunnel.link().context("keys cannot be made to change")?;
    let seen = rekey_dip(link, f64::from(RENEG_SECONDS), seconds)?;
    Ok(vec![
        (Measure::RekeyDip, 100.0 * seen.median_dip),
        (Measure::QuietDip, 100.0 * seen.quiet_median_dip),
        (Measure::RekeyWorst, 100.0 * seen.worst_dip),
        (Measure::QuietWorst, 100.0 * seen.quiet_worst_dip),
        (Measure::RekeyExcess, 100.0 * seen.excess()),
        (Measure::RekeyLost, seen.lost as f64),
    ])
}

fn memory(tunnel: &Tunnel, seconds: u32) -> Result<Values> {
    let shape = TcpShape {
        streams: 4,
        direction: Direction::Both,
        v6: false,
    };
    tcp(tunnel, shape, seconds).context("loading")?;
    let [now, peak] = tunnel.memory_mib()?;
    Ok(vec![(Measure::Memory, now), (Measure::MemoryPeak, peak)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_server_between_tests_is_asked_again() {
        for said in [
            "the server is busy running a test. try again later",
            "unable to connect to server: Connection reset by peer",
        ] {
            assert!(between_tests(said), "{said}");
        }
        assert!(!between_tests(
            "unable to connect to server: Connection refused"
        ));
    }
}
