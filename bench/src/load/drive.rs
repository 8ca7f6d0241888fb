//! The source's side of one test.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::mpsc;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::flow::{Counters, Stop};
use super::meter::{self, Sample};
use super::outcome::{Flow, Outcome};
use super::probe::{self, Latency};
use super::protocol::{Hello, Lines, Load, Purpose, Received, Reply, Request, Sent};
use super::session::finish;
use super::streams::{self, Incoming, Outgoing, Shared, StopOnDrop};
use super::{tcp, udp};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the sink may take to answer or to have everything together.
const ANSWER: Duration = Duration::from_secs(15);
/// The probes begin this long after the load, so that they do not measure its slow start.
const WARM_UP: Duration = Duration::from_millis(500);

/// A sample, and in which direction.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// From the source to the sink.
    pub up: bool,
    /// What arrived.
    pub sample: Sample,
}

/// Does one test with the sink at `to`; `probes` per second when the request has probes. Samples go
/// to `observe` as they come.
///
/// # Errors
/// When the sink cannot be reached, refuses, or something breaks on the way.
pub fn run(
    to: SocketAddr,
    request: &Request,
    probes: f64,
    mut observe: impl FnMut(Progress),
) -> Result<Outcome> {
    request.check()?;
    let (mut control, token) = ask(to, request)?;
    let (incoming, outgoing) = assemble(&mut control, to, request, token)?;
    let begun = Instant::now();
    let length = Duration::from_secs_f64(request.seconds);
    let shared = Shared {
        until: begun + length,
        request: request.clone(),
        token,
        counters: Counters::default(),
        stop: Stop::default(),
    };
    let mut samples = [Vec::new(), Vec::new()];
    thread::scope(|scope| {
        let _guard = StopOnDrop(&shared.stop);
        let receivers = streams::receive(scope, &shared, incoming);
        let senders = streams::send(scope, &shared, outgoing);
        let prober = request.probes.then(|| {
            let start = match request.load {
                Load::Idle => begun,
                Load::Tcp | Load::Udp => begun + WARM_UP.min(length / 4),
            };
            scope.spawn(move || probe_load(to, token, probes, start, begun + length))
        });
        let (end_meter, meter_ends) = mpsc::channel::<()>();
        let (own, own_samples) = mpsc::channel();
        if request.down {
            let (counters, interval) = (&shared.counters, request.interval);
            scope.spawn(move || {
                meter::run(
                    counters,
                    Duration::from_secs_f64(interval),
                    &meter_ends,
                    |sample| {
                        // Nobody listens any more once the test is over.
                        let _ = own.send(sample);
                    },
                );
            });
        }
        let mut take = |up: bool, sample: Sample| {
            samples[usize::from(up)].push(sample);
            observe(Progress { up, sample });
        };
        // Until our part is done; the sink's samples arrive meanwhile.
        let busy = |prober: &Option<ScopedJoinHandle<'_, Result<Latency>>>| {
            Instant::now() < shared.until
                || senders.iter().any(|one| !one.is_finished())
                || prober.as_ref().is_some_and(|one| !one.is_finished())
        };
        while busy(&prober) {
            if let Some(sample) = next_sample(&mut control)? {
                take(true, sample);
            }
            own_samples
                .try_iter()
                .for_each(|sample| take(false, sample));
        }
        let latency = prober.map(streams::join).transpose()?;
        let sent = streams::sum(senders)?;
        control.send(&sent)?;
        let (far_received, far_sent) = done(&mut control, |sample| take(true, sample))?;
        finish(receivers, &shared)?;
        drop(end_meter);
        let near_received = shared.counters.received();
        own_samples
            .try_iter()
            .for_each(|sample| take(false, sample));
        if request.load == Load::Idle && latency.as_ref().is_some_and(|l| l.received == 0) {
            bail!(
                "no probe came back from UDP port {} (a firewall?)",
                to.port() + 1
            );
        }
        let [down, up] = samples;
        Ok(Outcome {
            sink: to.to_string(),
            request: request.clone(),
            up: far_received.map(|received| Flow::new(request.load, sent, received, up)),
            down: far_sent.map(|sent| Flow::new(request.load, sent, near_received, down)),
            latency,
        })
    })
}

fn probe_load(
    to: SocketAddr,
    token: u64,
    per_second: f64,
    start: Instant,
    until: Instant,
) -> Result<Latency> {
    let port = to
        .port()
        .checked_add(1)
        .context("no port above 65535 for probes")?;
    probe::run(
        SocketAddr::new(to.ip(), port),
        token,
        per_second,
        start,
        until,
    )
}

/// Connects and asks for the test; returns its token.
fn ask(to: SocketAddr, request: &Request) -> Result<(Lines, u64)> {
    let mut control = connect(to, Purpose::Test(request.clone()))?;
    match control.receive(ANSWER)? {
        Some(Reply::Accepted { token }) => Ok((control, token)),
        Some(Reply::Refused { reason }) => bail!("the sink refuses: {reason}"),
        Some(_) => bail!("the sink answers out of turn"),
        None => bail!("{to} does not answer: is it a ringway-bench sink?"),
    }
}

fn connect(to: SocketAddr, purpose: Purpose) -> Result<Lines> {
    let stream = TcpStream::connect_timeout(&to, CONNECT)
        .with_context(|| format!("cannot connect to the sink at {to}"))?;
    let mut lines = Lines::new(stream)?;
    lines.send(&Hello::new(purpose))?;
    Ok(lines)
}

/// Opens all streams and waits until the sink has them.
fn assemble(
    control: &mut Lines,
    to: SocketAddr,
    request: &Request,
    token: u64,
) -> Result<(Vec<Incoming>, Vec<Outgoing>)> {
    let (mut incoming, mut outgoing) = (Vec::new(), Vec::new());
    let mut sockets: Vec<UdpSocket> = Vec::new();
    for stream in 0..request.streams {
        match request.load {
            Load::Tcp => {
                let data = |up| {
                    Ok::<_, anyhow::Error>(connect(to, Purpose::Data { token, up })?.into_stream())
                };
                if request.up {
                    outgoing.push(Outgoing::Tcp(data(true)?));
                }
                if request.down {
                    incoming.push(Incoming::Tcp(data(false)?));
                }
            }
            Load::Udp => {
                let socket = udp_socket(to)?;
                sockets.push(socket.try_clone()?);
                if request.up {
                    outgoing.push(Outgoing::Udp {
                        socket: socket.try_clone()?,
                        to: None,
                        stream,
                    });
                }
                if request.down {
                    incoming.push(Incoming::Udp(socket));
                }
            }
            Load::Idle => {}
        }
    }
    let deadline = Instant::now() + ANSWER;
    while Instant::now() < deadline {
        for (stream, socket) in (0..).zip(&sockets) {
            let hello = udp::Header {
                token,
                number: 0,
                stream,
                kind: udp::Kind::Hello,
            };
            udp::announce(socket, &hello)?;
        }
        match control.receive(tcp_or_udp_pause(request.load))? {
            Some(Reply::Started) => return Ok((incoming, outgoing)),
            Some(Reply::Refused { reason }) => bail!("the sink gives up: {reason}"),
            Some(_) => bail!("the sink answers out of turn"),
            None => {}
        }
    }
    bail!("the sink does not start the test")
}

/// How long to wait before announcing UDP streams again.
fn tcp_or_udp_pause(load: Load) -> Duration {
    match load {
        Load::Udp => Duration::from_millis(100),
        Load::Tcp | Load::Idle => ANSWER,
    }
}

fn udp_socket(to: SocketAddr) -> Result<UdpSocket> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let socket = udp::bind(any)?;
    socket
        .connect(to)
        .with_context(|| format!("cannot reach {to}"))?;
    Ok(socket)
}

fn next_sample(control: &mut Lines) -> Result<Option<Sample>> {
    match control.receive(Duration::from_millis(10))? {
        Some(Reply::Sample(sample)) => Ok(Some(sample)),
        Some(Reply::Refused { reason }) => bail!("the sink gives up: {reason}"),
        Some(_) => bail!("the sink answers out of turn"),
        None => Ok(None),
    }
}

/// Waits for the sink's last word.
fn done(
    control: &mut Lines,
    mut take: impl FnMut(Sample),
) -> Result<(Option<Received>, Option<Sent>)> {
    let deadline = Instant::now() + ANSWER + tcp::DRAIN * 2;
    while Instant::now() < deadline {
        match control.receive(ANSWER)? {
            Some(Reply::Sample(sample)) => take(sample),
            Some(Reply::Done { received, sent }) => return Ok((received, sent)),
            Some(Reply::Refused { reason }) => bail!("the sink gives up: {reason}"),
            Some(_) => bail!("the sink answers out of turn"),
            None => {}
        }
    }
    bail!("the sink does not report its counts")
}

/// All addresses of "host", "host:port", `[v6]:port` or a plain IPv6 address.
///
/// # Errors
/// When the name is unknown or the port no number.
pub fn resolve(text: &str, port: u16) -> Result<Vec<SocketAddr>> {
    use std::net::ToSocketAddrs as _;
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<std::net::IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let found = if text.contains(':') {
        text.to_socket_addrs()
    } else {
        (text, port).to_socket_addrs()
    };
    let all: Vec<SocketAddr> = found
        .with_context(|| format!("cannot find {text:?}"))?
        .collect();
    if all.is_empty() {
        bail!("{text:?} has no address");
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_every_form() {
        let read = |text| resolve(text, 9).unwrap()[0].to_string();
        assert_eq!(read("192.0.2.1"), "192.0.2.1:9");
        assert_eq!(read("192.0.2.1:5"), "192.0.2.1:5");
        assert_eq!(read("2001:db8::1"), "[2001:db8::1]:9");
        assert_eq!(read("[2001:db8::1]:5"), "[2001:db8::1]:5");
        assert_eq!(read("[::1]"), "[::1]:9");
        assert!(resolve("192.0.2.1:x", 9).is_err());
    }
}
