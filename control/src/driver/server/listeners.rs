//! The places a server listens at.
//!
//! ```text
//!   udp listener   sockets 0..n -> workers      control socket -> Acceptor, Tunnel::handle_datagram
//!   tcp listener   accept -> (port-share) -> a worker's stream -> Tunnel::listen
//! ```

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::os::fd::AsFd;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags};
use ringway_dataplane::control_socket::ControlSocket;
use ringway_dataplane::udp::{Family as UdpFamily, Listener, UdpSocket};
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::options::{Family, Options};
use crate::config::server::{Listen, PortShare as PortShareTo, ServerOptions};
use crate::driver::port::Patience;
use crate::driver::remotes::resolve_local;
use crate::driver::server::settings;
use crate::driver::setup;
use crate::host::port_share::PortShare;
use crate::log;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 256;

/// Every open listener; UDP ones come first, and a listener's number counts through both kinds.
pub(super) struct Listeners {
    pub(super) udp: Vec<UdpListener>,
    pub(super) tcp: Vec<TcpListener>,
    /// No connection can be taken now; those that wait would make every wait end at once.
    pub(super) tcp_pauses: bool,
    /// Where connections go that may be somebody else's (`port-share`).
    pub(super) share: Option<PortShare>,
}

/// A UDP port: the control thread's part of it.
pub(super) struct UdpListener {
    pub(super) control: ControlSocket,
    /// Datagrams longer than any control packet.
    pub(super) too_long: u64,
    /// Nothing but noise has come lately: not looked at before this moment.
    pub(super) rests_until: Option<Instant>,
}

/// What the workers get.
pub(super) struct WorkerSockets {
    /// One socket for each worker; none with TCP alone.
    pub(super) sockets: Vec<UdpSocket>,
    /// The workers of each UDP listener.
    pub(super) ranges: Vec<Range<u16>>,
}

impl Listeners {
    /// Opens every place to listen at.
    ///
    /// # Errors
    /// One line for a person: which place, and why not.
    pub(super) fn open(
        options: &Options,
        settings: &ServerOptions,
    ) -> Result<(Self, WorkerSockets), String> {
        let listen = &settings.listen;
        let each = settings::workers_each(options, listen);
        let mut listeners = Listeners {
            udp: Vec::new(),
            tcp: Vec::new(),
            tcp_pauses: false,
            share: None,
        };
        let mut workers = WorkerSockets {
            sockets: Vec::new(),
            ranges: Vec::new(),
        };
        for place in listen.iter().filter(|l| !l.tcp) {
            let Listener { sockets, control } = open_udp(options, place, each)?;
            log_place("UDP", control.local_addr());
            let first = workers.sockets.len() as u16;
            workers.sockets.extend(sockets);
            workers.ranges.push(first..workers.sockets.len() as u16);
            listeners.udp.push(UdpListener {
                control,
                too_long: 0,
                rests_until: None,
            });
        }
        for place in listen.iter().filter(|l| l.tcp) {
            let listener = open_tcp(options, place)
                .map_err(|error| format!("TCP: cannot listen at {}: {error}", name_of(place)))?;
            log_place("TCP", listener.local_addr());
            listeners.tcp.push(listener);
        }
        if let Some(PortShareTo { host, port, dir }) = &settings.port_share {
            listeners.share = Some(PortShare::start(host, *port, dir.as_deref())?);
        }
        Ok((listeners, workers))
    }

    /// What to wait for, in the order of the listeners' numbers; behind them `share`. Nothing is
    /// waited for at listeners that rest.
    pub(super) fn poll_fds(&self, now: Instant) -> impl Iterator<Item = PollFd<'_>> {
        let flags = |rests| match rests {
            true => PollFlags::empty(),
            false => PollFlags::POLLIN,
        };
        let udp = self.udp.iter().map(move |listener| {
            let rests = listener.rests_until.is_some_and(|until| now < until);
            PollFd::new(listener.control.as_fd(), flags(rests))
        });
        let tcp = self.tcp.iter();
        let tcp = tcp.map(move |listener| PollFd::new(listener.as_fd(), flags(self.tcp_pauses)));
        let share = self.share.iter();
        let share = share.map(|share| PollFd::new(share.as_fd(), PollFlags::POLLIN));
        udp.chain(tcp).chain(share)
    }

    /// When the next listener has rested enough.
    pub(super) fn next_rested(&self, now: Instant) -> Option<Instant> {
        let resting = self.udp.iter().filter_map(|listener| listener.rests_until);
        resting.filter(|until| now < *until).min()
    }
}

fn open_udp(options: &Options, place: &Listen, workers: usize) -> Result<Listener, String> {
    let local = local_address(place)?;
    let mut config = settings::listen_config(options, place, local);
    let mut patience = Patience::new();
    let opened = patience.bind(|| UdpSocket::open_listener(&config, workers));
    let either = local.is_none() && place.family == Family::Any && config.family == UdpFamily::V6;
    let opened = match opened {
        Err(_) if either => {
            // This system may have no IPv6; the same fault again is the one to tell.
            config.family = UdpFamily::V4;
            patience.bind(|| UdpSocket::open_listener(&config, workers))
        }
        opened => opened,
    };
    opened.map_err(|error| error.to_string())
}

fn open_tcp(options: &Options, place: &Listen) -> io::Result<TcpListener> {
    let local = local_address(place).map_err(io::Error::other)?;
    let try_bind = |address: SocketAddr| -> io::Result<TcpListener> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(place.family == Family::V6 && local.is_none())?;
        }
        if let Some(device) = &options.bind_dev {
            socket.bind_device(Some(device.as_bytes()))?;
        }
        if let Some(mark) = options.mark {
            socket.set_mark(mark)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    let mut patience = Patience::new();
    let mut bind = |ip| patience.bind(|| try_bind(SocketAddr::new(ip, place.port)));
    match (local, place.family) {
        (Some(ip), _) => bind(ip),
        (None, Family::V4) => bind(Ipv4Addr::UNSPECIFIED.into()),
        (None, Family::V6) => bind(Ipv6Addr::UNSPECIFIED.into()),
        (None, Family::Any) => {
            bind(Ipv6Addr::UNSPECIFIED.into()).or_else(|_| bind(Ipv4Addr::UNSPECIFIED.into()))
        }
    }
}

fn local_address(place: &Listen) -> Result<Option<IpAddr>, String> {
    let Some(name) = &place.local else {
        return Ok(None);
    };
    resolve_local(name, None, place.family).map(Some)
}

fn name_of(place: &Listen) -> String {
    format!("{}:{}", place.local.as_deref().unwrap_or("*"), place.port)
}

fn log_place(proto: &str, address: io::Result<SocketAddr>) {
    let Ok(address) = address else { return };
    let version = if address.is_ipv4() { 4 } else { 6 };
    let text = setup::address_text(address);
    match proto {
        "TCP" => log::notice!(in Link, "Listening for incoming TCP connection on {text}"),
        _ => log::notice!(in Link, "{proto}v{version} link local (bound): {text}"),
    }
}
