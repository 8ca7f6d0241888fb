//! The sink's side of one test.

use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::flow::{Counters, Stop};
use super::meter;
use super::probe;
use super::protocol::{self, Lines, Load, Received, Reply, Request, Sent};
use super::streams::{self, Incoming, Outgoing, Receivers, Shared, StopOnDrop};
use super::{tcp, udp};

/// How long all streams of a test may take to arrive.
const ASSEMBLE: Duration = Duration::from_secs(10);
/// A UDP direction has ended when nothing came for this long.
pub(crate) const QUIET: Duration = Duration::from_millis(200);
/// The longest wait for that.
pub(crate) const SETTLE: Duration = Duration::from_secs(3);

/// A TCP stream that has said whose it is.
#[derive(Debug)]
pub struct Arrived {
    /// Whether the source sends on it.
    pub up: bool,
    /// The stream.
    pub stream: TcpStream,
}

/// Sockets of a test, bound to the address its control connection came to.
#[derive(Debug)]
pub struct Sockets {
    load: Option<UdpSocket>,
    probes: Option<UdpSocket>,
}

impl Sockets {
    /// Binds what the request needs.
    ///
    /// # Errors
    /// When a port is taken.
    pub fn bind(request: &Request, ip: IpAddr, port: u16) -> Result<Self> {
        let load = (request.load == Load::Udp)
            .then(|| udp::bind(SocketAddr::new(ip, port)))
            .transpose()?;
        let probes = request
            .probes
            .then(|| {
                let next = port
                    .checked_add(1)
                    .context("no port above 65535 for probes")?;
                udp::bind(SocketAddr::new(ip, next))
            })
            .transpose()?;
        Ok(Self { load, probes })
    }
}

/// Does an accepted test and reports its end on the control connection; returns what was received
/// and sent.
///
/// # Errors
/// When streams do not arrive, the source disappears, or a socket fails.
pub fn serve(
    control: &mut Lines,
    request: Request,
    token: u64,
    sockets: Sockets,
    arrivals: &Receiver<Arrived>,
) -> Result<(Option<Received>, Option<Sent>)> {
    let (incoming, outgoing) = assemble(control, &request, token, sockets.load, arrivals)?;
    let (up, down) = (request.up, request.down);
    let shared = Shared {
        until: Instant::now() + Duration::from_secs_f64(request.seconds),
        request,
        token,
        counters: Counters::default(),
        stop: Stop::default(),
    };
    let mut writer = control.writer()?;
    control.send(&Reply::Started)?;
    thread::scope(|scope| {
        let _guard = StopOnDrop(&shared.stop);
        let receivers = streams::receive(scope, &shared, incoming);
        let senders = streams::send(scope, &shared, outgoing);
        let echo = sockets
            .probes
            .map(|socket| scope.spawn(|| probe_echo(socket, &shared)));
        let (end_meter, meter_ends) = mpsc::channel::<()>();
        let meter = up.then(|| {
            let (counters, interval) = (&shared.counters, shared.request.interval);
            scope.spawn(move || {
                meter::run(
                    counters,
                    Duration::from_secs_f64(interval),
                    &meter_ends,
                    |sample| {
                        // A source that is gone is noticed by the thread that reads.
                        let _ = protocol::send(&mut writer, &Reply::Sample(sample));
                    },
                );
            })
        });
        wait_for_sent(control, &shared)?;
        let sent = streams::sum(senders)?;
        finish(receivers, &shared)?;
        drop(end_meter);
        if meter.is_some_and(|meter| meter.join().is_err()) {
            bail!("the meter panicked");
        }
        if let Some(echo) = echo {
            streams::join(echo)?;
        }
        let received = up.then(|| shared.counters.received());
        let sent = down.then_some(sent);
        control.send(&Reply::Done { received, sent })?;
        Ok((received, sent))
    })
}

fn probe_echo(socket: UdpSocket, shared: &Shared) -> Result<()> {
    probe::echo(&socket, shared.token, &shared.stop)
}

/// Waits for what is under way and ends the receivers.
pub(crate) fn finish(receivers: Receivers<'_>, shared: &Shared) -> Result<()> {
    if shared.request.load == Load::Tcp {
        let deadline = Instant::now() + tcp::DRAIN;
        while receivers.iter().any(|one| !one.is_finished()) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
    } else if !receivers.is_empty() {
        shared.counters.settle(QUIET, SETTLE);
    }
    shared.stop.set();
    receivers.into_iter().try_for_each(streams::join)
}

/// The source says when its senders are done, and is watched until then.
fn wait_for_sent(control: &mut Lines, shared: &Shared) -> Result<()> {
    let patience = Duration::from_secs_f64(shared.request.seconds) + tcp::DRAIN * 3;
    match control.receive::<Sent>(patience)? {
        Some(_) => Ok(()),
        None => bail!("the source did not end its test in time"),
    }
}

/// Collects the streams of a test as they arrive.
fn assemble(
    control: &mut Lines,
    request: &Request,
    token: u64,
    socket: Option<UdpSocket>,
    arrivals: &Receiver<Arrived>,
) -> Result<(Vec<Incoming>, Vec<Outgoing>)> {
    match (request.load, socket) {
        (Load::Udp, Some(socket)) => assemble_udp(control, request, token, socket),
        (Load::Tcp, _) => assemble_tcp(control, request, arrivals),
        (Load::Idle | Load::Udp, _) => Ok((Vec::new(), Vec::new())),
    }
}

fn assemble_tcp(
    control: &mut Lines,
    request: &Request,
    arrivals: &Receiver<Arrived>,
) -> Result<(Vec<Incoming>, Vec<Outgoing>)> {
    let deadline = Instant::now() + ASSEMBLE;
    let want = |used: bool| {
        if used {
            usize::from(request.streams)
        } else {
            0
        }
    };
    let (up, down) = (want(request.up), want(request.down));
    let (mut incoming, mut outgoing) = (Vec::new(), Vec::new());
    while incoming.len() < up || outgoing.len() < down {
        watch(control, deadline, "its TCP streams do not arrive")?;
        while let Ok(arrived) = arrivals.try_recv() {
            if arrived.up && incoming.len() < up {
                incoming.push(Incoming::Tcp(arrived.stream));
            } else if !arrived.up && outgoing.len() < down {
                outgoing.push(Outgoing::Tcp(arrived.stream));
            }
        }
    }
    Ok((incoming, outgoing))
}

fn assemble_udp(
    control: &mut Lines,
    request: &Request,
    token: u64,
    socket: UdpSocket,
) -> Result<(Vec<Incoming>, Vec<Outgoing>)> {
    let deadline = Instant::now() + ASSEMBLE;
    let mut peers = vec![None; usize::from(request.streams)];
    let mut buffer = vec![0; 1 << 16];
    while peers.contains(&None) {
        watch(
            control,
            deadline,
            "its datagrams do not arrive (a firewall?)",
        )?;
        udp::receive_batch(&socket, &mut buffer, |from, datagram| {
            let header = udp::Header::read(datagram).filter(|header| header.token == token);
            if let Some(place) = header.and_then(|h| peers.get_mut(usize::from(h.stream))) {
                *place = from;
            }
        })?;
    }
    let mut outgoing = Vec::new();
    if request.down {
        for (stream, to) in (0..).zip(peers) {
            outgoing.push(Outgoing::Udp {
                socket: socket.try_clone()?,
                to,
                stream,
            });
        }
    }
    let incoming = request.up.then_some(Incoming::Udp(socket));
    Ok((incoming.into_iter().collect(), outgoing))
}

/// Sees that the source is still there while its streams arrive.
fn watch(control: &mut Lines, deadline: Instant, late: &str) -> Result<()> {
    let said = control.next(Duration::from_millis(5))?;
    if said.is_some() {
        bail!("the source spoke out of turn");
    }
    if Instant::now() >= deadline {
        bail!("{late}");
    }
    Ok(())
}
