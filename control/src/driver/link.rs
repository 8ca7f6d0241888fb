//! What one attempt sends its control packets by, before and after there is a connection.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};

use ringway_dataplane::command::{Command, Endpoint, StreamConfig, StreamEnd, StreamId};
use ringway_dataplane::error::StartError;
use ringway_dataplane::udp::UdpSocket;
use socket2::SockRef;

use super::port::Patience;
use super::remotes::Target;
use super::{Ending, Program, dial, setup};
use crate::config::options::{Options, Proto};
use crate::host::socks_relay::{self, SocksRelay};
use crate::log;

/// The only connection of an attempt over TCP.
const STREAM: StreamId = StreamId(0);
/// Data packets that may wait in front of a full socket. The device is not read meanwhile, so these are
/// at most what one batch has left over.
const QUEUE_LIMIT: usize = 512;

/// What an attempt begins with: everything that fails when something is wrong with this machine.
pub(super) enum Prepared {
    /// UDP sockets, one for each worker.
    Udp(Vec<UdpSocket>),
    /// The same on the loopback interface, for a relay with this socket towards a SOCKS proxy, which is
    /// called, possibly from this address.
    Relayed(Vec<UdpSocket>, UdpSocket, Option<IpAddr>),
    /// The peer is called, possibly from this address.
    Call(Option<IpAddr>),
    /// The peer calls here.
    Listen(TcpListener),
}

/// The way to the peer.
pub(super) enum Link {
    /// Handles on the workers' sockets; control packets leave by the first.
    Udp(Vec<UdpSocket>),
    /// The same, and what they send to instead of the peer.
    Relayed(Vec<UdpSocket>, SocksRelay),
    /// A handle on the connection that the workers have, and what is at its other end.
    Tcp(TcpStream, Endpoint),
}

impl Prepared {
    /// Opens what can be opened without the peer.
    ///
    /// # Errors
    /// One line for a person.
    pub(super) fn open(
        options: &Options,
        target: &Target,
        local: Option<IpAddr>,
    ) -> Result<Self, String> {
        Ok(match target.connection.proto {
            Proto::Udp if target.connection.proxy.is_some() => {
                let config = setup::udp_config(options, target, local);
                let outside = Patience::new().bind(|| UdpSocket::open(&config));
                let workers = setup::workers(options);
                let inside = UdpSocket::open_group(&socks_relay::loopback(), workers);
                let fail = |error: StartError| format!("socks-proxy: {error}");
                Prepared::Relayed(inside.map_err(fail)?, outside.map_err(fail)?, local)
            }
            Proto::Udp => Prepared::Udp(setup::open_udp(options, target, local)?),
            Proto::TcpClient => Prepared::Call(local),
            Proto::TcpServer => Prepared::Listen(dial::listen(options, target, local)?),
        })
    }

    /// Waits until there is a connection. UDP needs none.
    ///
    /// # Errors
    /// How the attempt ends: a signal, or no connection.
    pub(super) fn establish(
        self,
        program: &mut Program,
        target: &mut Target,
    ) -> Result<Link, Ending> {
        let (stream, from) = match self {
            Prepared::Udp(sockets) => return Ok(Link::Udp(sockets)),
            Prepared::Relayed(sockets, outside, local) => {
                let relay = relay(program, target, local, sockets[0].local_addr(), outside)?;
                return Ok(Link::Relayed(sockets, relay));
            }
            Prepared::Call(local) => {
                let stream = dial::connect(program, target, local)?;
                let from = target.remote;
                (stream, from)
            }
            Prepared::Listen(listener) => {
                let (stream, from) = dial::accept(program, listener, target)?;
                dial::set_buffers(&stream, program.options.sndbuf, program.options.rcvbuf);
                target.remote = Some(from);
                (stream, Some(from))
            }
        };
        let Some(from) = from else {
            return Err(Ending::fatal("a connection needs a peer"));
        };
        let endpoint = Endpoint {
            stream: Some(STREAM),
            ..Endpoint::new(SocketAddr::new(from.ip().to_canonical(), from.port()))
        };
        Ok(Link::Tcp(stream, endpoint))
    }
}

impl Link {
    /// The peer at the other end of a connection.
    pub(super) fn endpoint(&self) -> Option<Endpoint> {
        match self {
            Link::Udp(_) | Link::Relayed(..) => None,
            Link::Tcp(_, endpoint) => Some(*endpoint),
        }
    }

    /// The relay that datagrams pass, if there is one.
    pub(super) fn relay(&self) -> Option<&SocksRelay> {
        match self {
            Link::Relayed(_, relay) => Some(relay),
            Link::Udp(_) | Link::Tcp(..) => None,
        }
    }

    /// Where packets for this endpoint go outside of this machine: what people, scripts and routes are
    /// told. Behind a proxy that is the proxy.
    pub(super) fn outside(&self, endpoint: Endpoint) -> Endpoint {
        self.relay()
            .map_or(endpoint, |relay| Endpoint::new(relay.proxy()))
    }

    /// Gives the connection to the workers; UDP sockets they have from the start.
    ///
    /// # Errors
    /// No descriptor is left for a second handle.
    pub(super) fn hand_over(&self, target: &Target) -> io::Result<Option<Command>> {
        let Link::Tcp(stream, _) = self else {
            return Ok(None);
        };
        let config = StreamConfig {
            queue_limit: QUEUE_LIMIT,
            max_packet: setup::max_stream_packet(&target.connection),
        };
        Ok(Some(Command::AddStream(
            STREAM,
            stream.try_clone()?,
            config,
        )))
    }

    /// Sends a control packet by UDP; over TCP it is a command for the workers.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn send(&self, to: &Endpoint, packet: &[u8]) -> io::Result<Option<Command>> {
        match (self, to.stream) {
            (Link::Udp(sockets) | Link::Relayed(sockets, _), _) => {
                sockets[0].send_to(to, packet).map(|()| None)
            }
            (Link::Tcp(..), stream) => Ok(Some(Command::SendControl(
                stream.unwrap_or(STREAM),
                packet.to_vec(),
            ))),
        }
    }

    /// Pushed `sndbuf` and `rcvbuf`.
    pub(super) fn set_buffers(&self, sndbuf: Option<u32>, rcvbuf: Option<u32>) {
        let bytes = |size: Option<u32>| size.filter(|n| *n > 0).map(|n| n as usize);
        match self {
            Link::Udp(sockets) | Link::Relayed(sockets, _) => {
                for socket in sockets {
                    socket.set_buffers(bytes(sndbuf), bytes(rcvbuf));
                }
            }
            Link::Tcp(stream, _) => dial::set_buffers(stream, sndbuf, rcvbuf),
        }
    }

    /// Our own address.
    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Link::Udp(sockets) => sockets[0].local_addr(),
            Link::Relayed(_, relay) => Ok(relay.local_addr()),
            Link::Tcp(stream, _) => {
                let address = SockRef::from(stream).local_addr()?.as_socket();
                let address = address.ok_or(io::ErrorKind::AddrNotAvailable)?;
                Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
            }
        }
    }

    /// `UDPv4`, `TCPv6_CLIENT`: what logs call it.
    pub(super) fn name(&self, target: &Target) -> String {
        let version = match self.local_addr() {
            Ok(address) if address.is_ipv6() => 6,
            _ => 4,
        };
        match target.connection.proto {
            Proto::Udp => format!("UDPv{version}"),
            Proto::TcpClient => format!("TCPv{version}_CLIENT"),
            Proto::TcpServer => format!("TCPv{version}_SERVER"),
        }
    }
}

/// Asks the SOCKS proxy to pass datagrams on, and starts what stands between it and the workers.
fn relay(
    program: &mut Program,
    target: &Target,
    local: Option<IpAddr>,
    workers: io::Result<SocketAddr>,
    outside: UdpSocket,
) -> Result<SocksRelay, Ending> {
    let association = program.proxies.association(&target.connection);
    let (mut request, peer) = association.map_err(Ending::fatal)?;
    let (control, proxy) = dial::associate(program, target, local, &mut request)?;
    let started =
        workers.and_then(|workers| SocksRelay::start(workers, outside, proxy, control, peer));
    let address = setup::address_text(proxy);
    match started {
        Ok(relay) => {
            log::notice!(
                in Link, "SOCKS: the proxy takes datagrams at {address}; all pass a relay in this process"
            );
            Ok(relay)
        }
        Err(error) => {
            log::notice!(in Link, "SOCKS: no relay to {address}: {error}");
            Err(dial::failed(program, "proxy-error"))
        }
    }
}

/// Why a connection has ended, in the words of logs.
pub(super) fn end_text(end: StreamEnd) -> String {
    match end {
        StreamEnd::Closed => "closed".to_owned(),
        StreamEnd::EndOfFile => "the peer closed it".to_owned(),
        StreamEnd::Reset => "the peer reset it".to_owned(),
        StreamEnd::BadFrame => "a packet with an impossible length".to_owned(),
        StreamEnd::BadPacket => "a packet that is not the peer's".to_owned(),
        StreamEnd::Io(errno) => io::Error::from_raw_os_error(errno).to_string(),
    }
}
