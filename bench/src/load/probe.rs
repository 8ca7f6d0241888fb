//! Round trips: small numbered datagrams at a steady pace, sent back by the other end.
//!
//! The pace does not depend on the answers, so a link that stalls is seen as it is, not once per
//! stall. A probe's time is taken when it really leaves.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::flow::{LOOK, Pacer, Stop};
use super::udp::is_quiet;

/// Bytes of a probe: token, number, sending time in nanoseconds.
const SIZE: usize = 24;
/// Longest round trip that is told from loss.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest round trip recorded, in nanoseconds.
const HIGHEST: u64 = 60_000_000_000;

/// Round trips of one measurement. Times are in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Record")]
pub struct Latency {
    /// Probes sent.
    pub sent: u64,
    /// Answers.
    pub received: u64,
    /// Half the probes came back within this time.
    pub p50: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1000.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
    /// The mean.
    pub mean: f64,
    /// Every recorded value: nanoseconds and how often, three digits exact.
    #[serde(serialize_with = "write_histogram")]
    pub histogram: Histogram<u64>,
}

impl Latency {
    /// Summarizes a histogram of nanoseconds.
    #[must_use]
    pub fn new(sent: u64, histogram: Histogram<u64>) -> Self {
        let micros = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            sent,
            received: histogram.len(),
            p50: micros(0.5),
            p99: micros(0.99),
            p999: micros(0.999),
            max: histogram.max() as f64 / 1e3,
            mean: histogram.mean() / 1e3,
            histogram,
        }
    }

    /// Probes without an answer.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }

    /// Both measurements as one.
    #[must_use]
    pub fn merge(&self, other: &Self) -> Self {
        let mut histogram = self.histogram.clone();
        for value in other.histogram.iter_recorded() {
            histogram.saturating_record_n(value.value_iterated_to(), value.count_at_value());
        }
        Self::new(self.sent + other.sent, histogram)
    }

    /// One line for a person.
    #[must_use]
    pub fn line(&self) -> String {
        format!(
            "p50 {:.0} us, p99 {:.0} us, p99.9 {:.0} us, max {:.0} us; {} of {} probes lost",
            self.p50,
            self.p99,
            self.p999,
            self.max,
            self.lost(),
            self.sent
        )
    }
}

/// An empty histogram of nanoseconds up to a minute, three digits exact.
#[must_use]
pub fn histogram() -> Histogram<u64> {
    match Histogram::new_with_bounds(1, HIGHEST, 3) {
        Ok(histogram) => histogram,
        Err(error) => unreachable!("fixed bounds: {error}"),
    }
}

#[derive(Deserialize)]
struct Record {
    sent: u64,
    #[serde(deserialize_with = "read_histogram")]
    histogram: Histogram<u64>,
}

impl From<Record> for Latency {
    fn from(record: Record) -> Self {
        Self::new(record.sent, record.histogram)
    }
}

fn write_histogram<S: Serializer>(histogram: &Histogram<u64>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(
        histogram
            .iter_recorded()
            .map(|value| (value.value_iterated_to(), value.count_at_value())),
    )
}

fn read_histogram<'a, D: Deserializer<'a>>(from: D) -> Result<Histogram<u64>, D::Error> {
    let mut histogram = histogram();
    for (value, count) in Vec::<(u64, u64)>::deserialize(from)? {
        histogram.saturating_record_n(value, count);
    }
    Ok(histogram)
}

/// Sends `per_second` probes to `to` between `start` and `until` and waits for the answers.
///
/// # Errors
/// When the socket fails.
pub fn run(
    to: SocketAddr,
    token: u64,
    per_second: f64,
    start: Instant,
    until: Instant,
) -> Result<Latency> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any).context("cannot bind UDP for probes")?;
    socket
        .connect(to)
        .with_context(|| format!("cannot reach {to}"))?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    let epoch = Instant::now();
    let sent = Arc::new(AtomicU64::new(0));
    let sender = {
        let (socket, sent) = (socket.try_clone()?, Arc::clone(&sent));
        std::thread::spawn(move || send(&socket, token, per_second, epoch, start, until, &sent))
    };
    let mut histogram = histogram();
    let mut answer = [0; SIZE + 1];
    loop {
        match socket.recv(&mut answer) {
            Ok(n) => {
                let now = epoch.elapsed().as_nanos() as u64;
                let left = read(&answer[..n], token).filter(|&left| left <= now);
                if let Some(left) = left {
                    histogram.saturating_record(now - left);
                }
            }
            Err(error) if is_quiet(error.kind()) => {}
            Err(error) => return Err(error).context("cannot receive probes"),
        }
        let now = Instant::now();
        let all = sender.is_finished() && histogram.len() >= sent.load(Relaxed);
        if (all && now >= until) || now >= until + PATIENCE {
            break;
        }
    }
    if sender.join().is_err() {
        anyhow::bail!("the probing thread panicked");
    }
    Ok(Latency::new(sent.load(Relaxed), histogram))
}

fn send(
    socket: &UdpSocket,
    token: u64,
    per_second: f64,
    epoch: Instant,
    start: Instant,
    until: Instant,
    sent: &AtomicU64,
) {
    std::thread::sleep(start.saturating_duration_since(Instant::now()));
    let mut pacer = Pacer::new(Some(per_second), start);
    let mut probe = [0; SIZE];
    probe[..8].copy_from_slice(&token.to_be_bytes());
    loop {
        let now = Instant::now();
        if now >= until {
            return;
        }
        if let Err(wait) = pacer.take(now, 1) {
            std::thread::sleep(wait.min(until - now));
            continue;
        }
        probe[8..16].copy_from_slice(&sent.load(Relaxed).to_be_bytes());
        probe[16..].copy_from_slice(&(epoch.elapsed().as_nanos() as u64).to_be_bytes());
        if socket.send(&probe).is_ok() {
            sent.fetch_add(1, Relaxed);
        }
    }
}

/// When a probe of this test left; `None` for anything else.
fn read(datagram: &[u8], token: u64) -> Option<u64> {
    let bytes: &[u8; SIZE] = datagram.try_into().ok()?;
    let (head, left) = (bytes.first_chunk()?, bytes.last_chunk()?);
    (u64::from_be_bytes(*head) == token).then(|| u64::from_be_bytes(*left))
}

/// Sends every probe of a test back where it came from until `stop` is set. Anything else gets no
/// answer: the echo is of no use to a stranger.
///
/// # Errors
/// When the socket fails.
pub fn echo(socket: &UdpSocket, token: u64, stop: &Stop) -> Result<()> {
    socket.set_read_timeout(Some(LOOK))?;
    let mut probe = [0; SIZE + 1];
    while !stop.is_set() {
        match socket.recv_from(&mut probe) {
            Ok((n, from)) if read(&probe[..n], token).is_some() => {
                // An answer that cannot leave is a lost probe.
                let _ = socket.send_to(&probe[..n], from);
            }
            Ok(_) => {}
            Err(error) if is_quiet(error.kind()) => {}
            Err(error) => return Err(error).context("cannot receive probes"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latency(values: impl IntoIterator<Item = u64>) -> Latency {
        let mut all = histogram();
        let mut sent = 1;
        for value in values {
            all.saturating_record(value);
            sent += 1;
        }
        Latency::new(sent, all)
    }

    #[test]
    fn quantiles_are_in_microseconds() {
        let latency = latency((1..=1000).map(|us| us * 1000));
        for (value, want) in [
            (latency.p50, 500.0),
            (latency.p99, 990.0),
            (latency.max, 1000.0),
        ] {
            assert!((value - want).abs() < want * 0.002, "{value} {want}");
        }
        assert_eq!((latency.received, latency.lost()), (1000, 1));
    }

    #[test]
    fn merging_and_json_keep_every_value() {
        let (fast, slow) = (latency([10_000; 99]), latency([900_000_000]));
        let both = fast.merge(&slow);
        assert_eq!((both.received, both.sent), (100, 102));
        assert!((both.max - 900_000.0).abs() < 900.0 && both.p50 < 11.0);
        let json = serde_json::to_string(&both).unwrap();
        assert_eq!(serde_json::from_str::<Latency>(&json).unwrap(), both);
    }

    #[test]
    fn probes_come_back_and_strangers_get_nothing() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = socket.local_addr().unwrap();
        let stop = Stop::default();
        let far = stop.clone();
        let echo = std::thread::spawn(move || echo(&socket, 9, &far).unwrap());
        let start = Instant::now();
        let until = start + Duration::from_millis(100);
        let latency = run(to, 9, 500.0, start, until).unwrap();
        assert!(
            latency.sent > 1 && latency.lost() == 0,
            "{}",
            latency.line()
        );
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        stranger
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        stranger.send_to(&[0; SIZE], to).unwrap();
        assert!(stranger.recv(&mut [0; 99]).is_err());
        stop.set();
        echo.join().unwrap();
    }
}
