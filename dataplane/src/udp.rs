//! The UDP socket: open, configure, probe segmentation offloads.
//!
//! One socket is shared by the worker, which moves data packets in bulk, and the control thread,
//! which sends single control packets with [`UdpSocket::send_to`]. Segmentation is asked for with
//! each message and never with a socket option, so that it can be given up without touching the
//! other user. With the extended error queue on, the kernel tells which path MTU a datagram
//! exceeded; ICMP errors of other kinds are read away.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};

use crate::command::Endpoint;
use crate::control_socket::{self, ControlSocket};
use crate::error::StartError;
use crate::pool::{Failures, RxMessage, SendOp};
use crate::steering;
use crate::sys::cmsg::{self, CONTROL_LEN, NAME_LEN, RecvInfo, SendHead};
use crate::sys::socket;

/// Receive buffer asked for when the configuration names none: some milliseconds of a fast link.
const DEFAULT_RCVBUF: usize = 4 << 20;

/// Send buffer asked for when the configuration names none.
const DEFAULT_SNDBUF: usize = 2 << 20;

/// Address family of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4 only.
    V4,
    /// IPv6, and IPv4 too unless `v6only`.
    V6,
}

/// `mtu-disc`: what happens to datagrams larger than the path MTU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MtuDiscovery {
    /// `no`: fragment, never set DF.
    No,
    /// `maybe`: the kernel's own per-route policy.
    Maybe,
    /// `yes`: always set DF; too large ones fail.
    Yes,
}

/// How to open a socket.
#[derive(Clone, Debug)]
pub struct UdpConfig {
    /// Address family.
    pub family: Family,
    /// Local address; any when `None`.
    pub local: Option<IpAddr>,
    /// Local port; 0 lets the kernel choose.
    pub port: u16,
    /// An IPv6 socket takes no IPv4 (`bind ipv6only`).
    pub v6only: bool,
    /// Send buffer in bytes; `None` asks for 2 MiB.
    pub sndbuf: Option<usize>,
    /// Receive buffer in bytes; `None` asks for 4 MiB.
    pub rcvbuf: Option<usize>,
    /// Firewall mark (`mark`); needs CAP_NET_ADMIN.
    pub mark: Option<u32>,
    /// Device to bind to (`bind-dev`).
    pub bind_dev: Option<String>,
    /// Learn the local address of each datagram and answer from it (`multihome`).
    pub multihome: bool,
    /// Path MTU discovery (`mtu-disc`); the system's default when `None`.
    pub mtu_disc: Option<MtuDiscovery>,
    /// Outer TOS or traffic class of every datagram.
    pub tos: Option<u8>,
    /// Let other sockets bind the same port (SO_REUSEPORT).
    pub reuse: bool,
    /// Use segmentation offloads where the kernel has them.
    pub offload: bool,
}

impl UdpConfig {
    /// A socket of this family on any address and port, offloads on.
    pub fn new(family: Family) -> Self {
        UdpConfig {
            family,
            local: None,
            port: 0,
            v6only: false,
            sndbuf: None,
            rcvbuf: None,
            mark: None,
            bind_dev: None,
            multihome: false,
            mtu_disc: None,
            tos: None,
            reuse: false,
            offload: true,
        }
    }
}

/// The sockets of a server on one port; see [`UdpSocket::open_listener`].
#[derive(Debug)]
pub struct Listener {
    /// One for each worker, in their order.
    pub sockets: Vec<UdpSocket>,
    /// What is no data packet arrives here.
    pub control: ControlSocket,
}

/// An open UDP socket.
#[derive(Debug)]
pub struct UdpSocket {
    socket: Socket,
    family: Family,
    gso: bool,
    missing_offloads: [Option<&'static str>; 2],
    refuses_fragments: bool,
}

impl UdpSocket {
    /// Opens and binds a socket.
    ///
    /// # Errors
    /// The address is in use or not ours, or an option that the configuration asks for is refused.
    /// Offloads that the kernel lacks are no error.
    pub fn open(config: &UdpConfig) -> Result<Self, StartError> {
        let v6 = config.family == Family::V6;
        let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))
            .map_err(|error| StartError::io("cannot open a UDP socket", error))?;
        configure(&socket, config)?;

        let any = match config.family {
            Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let mut local = config.local.unwrap_or(any);
        if let (true, IpAddr::V4(ip)) = (v6, local) {
            local = IpAddr::V6(ip.to_ipv6_mapped());
        }
        let local = SocketAddr::new(local, config.port);
        socket
            .bind(&local.into())
            .map_err(|error| StartError::io(format!("cannot bind UDP {local}"), error))?;

        let fd = socket.as_fd();
        let gso = config.offload && socket::option(fd, libc::SOL_UDP, libc::UDP_SEGMENT).is_ok();
        let gro = config.offload && socket::set_option(fd, libc::SOL_UDP, libc::UDP_GRO, 1).is_ok();
        let missing = |has: bool, name| (config.offload && !has).then_some(name);
        let missing_offloads = [
            missing(gso, "segmentation offload"),
            missing(gro, "receive offload"),
        ];
        Ok(UdpSocket {
            socket,
            family: config.family,
            gso,
            missing_offloads,
            refuses_fragments: config.mtu_disc == Some(MtuDiscovery::Yes),
        })
    }

    /// Opens `count` sockets on one port, one for each worker of a group. The kernel gives DATA_V2
    /// packets to the socket `peer_id % count` and everything else to the first, so a peer stays
    /// where it is even when its address changes. Nobody else may hold the port.
    ///
    /// # Errors
    /// As [`UdpSocket::open`]; also when the kernel takes no filter for the group.
    pub fn open_group(config: &UdpConfig, count: usize) -> Result<Vec<Self>, StartError> {
        if count <= 1 {
            return Ok(vec![Self::open(config)?]);
        }
        Self::bind_group(config, &vec![config; count], 0)
    }

    /// Opens the sockets of a server on one port: one for each of `workers` (at least one), and one
    /// for control packets. The kernel gives DATA_V2 packets to the worker `peer_id % workers`,
    /// DATA_V1 packets to worker 0, and everything else to the control socket, so that no flood of
    /// those fills a worker's buffer. Nobody else may hold the port.
    ///
    /// # Errors
    /// As [`UdpSocket::open`]; also when the kernel takes no filter for the group.
    pub fn open_listener(config: &UdpConfig, workers: usize) -> Result<Listener, StartError> {
        let workers = workers.max(1);
        let control = control_socket::config(config);
        let mut members = vec![config; workers];
        members.push(&control);
        let mut sockets = Self::bind_group(config, &members, workers)?;
        let control = ControlSocket::new(sockets.split_off(workers).remove(0));
        Ok(Listener { sockets, control })
    }

    /// Binds one socket for each member to the port of `config`, with the filter that gives what is
    /// no data packet to the socket `others`. The members before that, or all, are workers.
    fn bind_group(
        config: &UdpConfig,
        members: &[&UdpConfig],
        others: usize,
    ) -> Result<Vec<Self>, StartError> {
        let fail = |error| StartError::io("cannot share the UDP port between workers", error);
        let number = |count| u32::try_from(count).unwrap_or(u32::MAX);
        let mut sockets: Vec<Self> = Vec::with_capacity(members.len());
        let mut port = config.port;
        for &member in members {
            let socket = Self::open(&UdpConfig {
                port,
                reuse: !sockets.is_empty(),
                ..member.clone()
            })?;
            if sockets.is_empty() {
                // Only now: bound without it, the port was ours alone.
                socket.socket.set_reuse_port(true).map_err(fail)?;
                port = socket.local_addr().map_err(fail)?.port();
            }
            sockets.push(socket);
        }
        let workers = if others == 0 { members.len() } else { others };
        let mut program = steering::program(number(workers), number(others));
        socket::set_reuseport_filter(sockets[0].as_fd(), &mut program).map_err(fail)?;
        Ok(sockets)
    }

    /// The MTU of the way to `remote` as the kernel knows it, for a socket of this configuration. No
    /// packet is sent.
    ///
    /// # Errors
    /// There is no route.
    pub fn path_mtu(config: &UdpConfig, remote: SocketAddr) -> io::Result<u32> {
        let (domain, level, option) = match remote {
            SocketAddr::V4(_) => (Domain::IPV4, libc::IPPROTO_IP, libc::IP_MTU),
            SocketAddr::V6(_) => (Domain::IPV6, libc::IPPROTO_IPV6, libc::IPV6_MTU),
        };
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        if let Some(mark) = config.mark {
            socket.set_mark(mark)?;
        }
        if let Some(device) = &config.bind_dev {
            socket.bind_device(Some(device.as_bytes()))?;
        }
        socket.connect(&remote.into())?;
        let mtu = socket::option(socket.as_fd(), level, option)?;
        u32::try_from(mtu).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// A second handle on the same socket.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(UdpSocket {
            socket: self.socket.try_clone()?,
            ..*self
        })
    }

    /// Sends one datagram, from the endpoint's local address if it has one. Pending ICMP errors of
    /// earlier datagrams are ignored.
    ///
    /// # Errors
    /// The kernel refuses the datagram.
    pub fn send_to(&self, to: &Endpoint, payload: &[u8]) -> io::Result<()> {
        let mut head = SendHead::new();
        head.set(self.is_v6(), to, 0, None);
        self.send(&head, payload)
    }

    /// The address the socket is bound to; v4-mapped addresses come out as IPv4.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let addr = self.socket.local_addr()?.as_socket();
        let addr = addr.ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))?;
        Ok(SocketAddr::new(addr.ip().to_canonical(), addr.port()))
    }

    /// Datagrams that the kernel has dropped at this socket because its buffer was full (or their
    /// checksum wrong), modulo 2^32.
    ///
    /// # Errors
    /// The kernel does not say (before Linux 4.12).
    pub fn kernel_drops(&self) -> io::Result<u32> {
        socket::dropped(self.as_fd())
    }

    /// Asks for other buffer sizes in bytes; `None` leaves one as it is.
    pub fn set_buffers(&self, sndbuf: Option<usize>, rcvbuf: Option<usize>) {
        let fd = self.socket.as_fd();
        if let Some(bytes) = sndbuf {
            set_buffer(fd, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, bytes);
        }
        if let Some(bytes) = rcvbuf {
            set_buffer(fd, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, bytes);
        }
    }

    /// The kernel can cut one send into many datagrams.
    pub fn has_gso(&self) -> bool {
        self.gso
    }

    /// The offloads that were asked for and that the kernel lacks, by name.
    pub fn missing_offloads(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.missing_offloads.into_iter().flatten()
    }

    /// The address family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Datagrams larger than the path MTU fail instead of being fragmented.
    pub fn refuses_fragments(&self) -> bool {
        self.refuses_fragments
    }

    pub(crate) fn is_v6(&self) -> bool {
        self.family == Family::V6
    }

    /// Sends one message without waiting for room, trying once more when the error that comes back
    /// is an earlier datagram's.
    pub(crate) fn send(&self, head: &SendHead, payload: &[u8]) -> io::Result<()> {
        let send = || {
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            socket::send(self.as_fd(), head.name(), head.control(), payload, flags)
        };
        match send() {
            Err(error) if is_pending_error(error.raw_os_error()) => send(),
            result => result,
        }
        .map(drop)
    }

    /// Sends `ops` out of `tx`, in order. When one fails, those behind it are not tried and reported
    /// with `ECANCELED`: what is tried again must not come after what followed it, because a peer's
    /// replay window may be shorter than one send.
    pub(crate) fn send_all(&self, tx: &[u8], ops: &[SendOp], failures: &mut Failures) {
        let mut head = SendHead::new();
        for (index, op) in ops.iter().enumerate() {
            head.set(self.is_v6(), &op.to, op.gso_size, op.tos);
            if let Err(error) = self.send(&head, &tx[op.start..op.start + op.len]) {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                failures.sends.push((index, errno));
                failures
                    .sends
                    .extend((index + 1..ops.len()).map(|index| (index, libc::ECANCELED)));
                return;
            }
        }
    }

    /// Receives one message (GRO: several datagrams) to the beginning of `buf` without waiting.
    /// `None` when the sender's address is of no use.
    pub(crate) fn receive(&self, buf: &mut [u8]) -> io::Result<Option<RxMessage>> {
        let mut name = [0; NAME_LEN];
        let mut control = [0; CONTROL_LEN];
        let got = socket::receive(
            self.as_fd(),
            &mut name,
            &mut control,
            buf,
            libc::MSG_DONTWAIT,
        )?;
        let info = cmsg::parse(&control[..got.control_len]);
        Ok(received(&name[..got.name_len], &info, 0, 0, got.len))
    }

    /// Takes one entry from the error queue: the destination it is about and the errno with its
    /// detail (the path MTU for `EMSGSIZE`). `None` when the queue is empty.
    pub(crate) fn next_error(&self) -> Option<(Option<SocketAddr>, i32, u32)> {
        let mut name = [0; NAME_LEN];
        let mut control = [0; CONTROL_LEN];
        let flags = libc::MSG_DONTWAIT | libc::MSG_ERRQUEUE;
        let got =
            socket::receive(self.as_fd(), &mut name, &mut control, &mut [0; 8], flags).ok()?;
        let (errno, detail) = cmsg::parse(&control[..got.control_len])
            .error
            .unwrap_or((0, 0));
        Some((cmsg::decode_name(&name[..got.name_len]), errno, detail))
    }

    /// Waits until the socket has room to send, or `limit` passes. Returns whether it has.
    pub(crate) fn wait_writable(&self, limit: Duration) -> bool {
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLOUT)];
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::ZERO);
        matches!(poll(&mut fds, limit), Ok(count) if count > 0)
    }
}

impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Puts a received message's parts together.
pub(crate) fn received(
    name: &[u8],
    info: &RecvInfo,
    slot: u16,
    start: usize,
    len: usize,
) -> Option<RxMessage> {
    let (local, ifindex) = info
        .local
        .map_or((None, 0), |(ip, index)| (Some(ip), index));
    let from = Endpoint {
        remote: cmsg::decode_name(name)?,
        local,
        ifindex,
        stream: None,
    };
    Some(RxMessage {
        slot,
        start,
        len,
        gro_size: info.gro_size,
        from,
    })
}

/// Errors that an earlier datagram's ICMP answer leaves on the socket.
pub(crate) fn is_pending_error(errno: Option<i32>) -> bool {
    matches!(
        errno,
        Some(
            libc::ECONNREFUSED
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::ENOPROTOOPT
                | libc::EPROTO
                | libc::EMSGSIZE
        )
    )
}

fn configure(socket: &Socket, config: &UdpConfig) -> Result<(), StartError> {
    let v6 = config.family == Family::V6;
    let fd = socket.as_fd();
    if v6 {
        check("IPV6_V6ONLY", socket.set_only_v6(config.v6only))?;
    }
    if config.reuse {
        check("SO_REUSEPORT", socket.set_reuse_port(true))?;
    }
    set_buffer(
        fd,
        libc::SO_RCVBUFFORCE,
        libc::SO_RCVBUF,
        config.rcvbuf.unwrap_or(DEFAULT_RCVBUF),
    );
    set_buffer(
        fd,
        libc::SO_SNDBUFFORCE,
        libc::SO_SNDBUF,
        config.sndbuf.unwrap_or(DEFAULT_SNDBUF),
    );
    if let Some(mark) = config.mark {
        check("mark", socket.set_mark(mark))?;
    }
    if let Some(device) = &config.bind_dev {
        check("bind-dev", socket.bind_device(Some(device.as_bytes())))?;
    }
    let both = |v4: i32, v6_option: i32, value: i32| {
        if v6 {
            // An IPv6 socket obeys the IPv4 option for its v4-mapped peers; where it is v6-only
            // there are none, so a refusal does not matter.
            let _ = socket::set_option(fd, libc::IPPROTO_IP, v4, value);
            socket::set_option(fd, libc::IPPROTO_IPV6, v6_option, value)
        } else {
            socket::set_option(fd, libc::IPPROTO_IP, v4, value)
        }
    };
    if config.multihome {
        check(
            "multihome",
            both(libc::IP_PKTINFO, libc::IPV6_RECVPKTINFO, 1),
        )?;
    }
    if let Some(tos) = config.tos {
        check("TOS", both(libc::IP_TOS, libc::IPV6_TCLASS, i32::from(tos)))?;
    }
    if let Some(mode) = config.mtu_disc {
        // The values of IP_PMTUDISC_* and IPV6_PMTUDISC_* are the same.
        let mode = match mode {
            MtuDiscovery::No => libc::IP_PMTUDISC_DONT,
            MtuDiscovery::Maybe => libc::IP_PMTUDISC_WANT,
            MtuDiscovery::Yes => libc::IP_PMTUDISC_DO,
        };
        check(
            "mtu-disc",
            both(libc::IP_MTU_DISCOVER, libc::IPV6_MTU_DISCOVER, mode),
        )?;
    }
    check("IP_RECVERR", both(libc::IP_RECVERR, libc::IPV6_RECVERR, 1))
}

/// A buffer size beyond the system's limit needs privilege; without it the limit is what we get.
fn set_buffer(fd: BorrowedFd<'_>, force: i32, plain: i32, bytes: usize) {
    let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
    if socket::set_option(fd, libc::SOL_SOCKET, force, bytes).is_err() {
        let _ = socket::set_option(fd, libc::SOL_SOCKET, plain, bytes);
    }
}

fn check(what: &str, result: io::Result<()>) -> Result<(), StartError> {
    result.map_err(|error| StartError::io(format!("cannot set {what} on the UDP socket"), error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    fn loopback(family: Family) -> UdpConfig {
        UdpConfig {
            local: Some(match family {
                Family::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
                Family::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
            }),
            ..UdpConfig::new(family)
        }
    }

    #[test]
    fn datagrams_pass_in_each_family_and_mapped_addresses_are_v4() {
        let four = UdpSocket::open(&loopback(Family::V4)).unwrap();
        let dual = UdpSocket::open(&UdpConfig {
            multihome: true,
            ..UdpConfig::new(Family::V6)
        })
        .unwrap();
        let to_dual: SocketAddr = ([127, 0, 0, 1], dual.local_addr().unwrap().port()).into();
        four.send_to(&Endpoint::new(to_dual), b"hello").unwrap();
        let mut buf = [0; 100];
        let message = dual.receive(&mut buf).unwrap().unwrap();
        assert_eq!(&buf[..message.len], b"hello");
        assert_eq!(message.from.remote, four.local_addr().unwrap());
        assert_eq!(message.from.local, Some(IpAddr::V4(Ipv4Addr::LOCALHOST)));

        // and back, from the address it arrived at
        dual.send_to(&message.from, b"answer").unwrap();
        let message = four.receive(&mut buf).unwrap().unwrap();
        assert_eq!(&buf[..message.len], b"answer");
        assert_eq!(message.from.remote, to_dual);
    }

    #[test]
    fn an_icmp_error_is_not_the_next_datagrams_fault() {
        let socket = UdpSocket::open(&loopback(Family::V4)).unwrap();
        let closed = UdpSocket::open(&loopback(Family::V4)).unwrap();
        let to = Endpoint::new(closed.local_addr().unwrap());
        drop(closed);
        for _ in 0..4 {
            socket.send_to(&to, b"x").unwrap();
        }
        let (about, errno, _) = socket.next_error().unwrap();
        assert_eq!((about, errno), (Some(to.remote), libc::ECONNREFUSED));
    }

    #[test]
    fn buffers_change_on_an_open_socket() {
        let socket = UdpSocket::open(&loopback(Family::V4)).unwrap();
        let (snd, rcv) = (
            socket.socket.send_buffer_size().unwrap(),
            socket.socket.recv_buffer_size().unwrap(),
        );
        socket.set_buffers(Some(20_000), None);
        // The kernel doubles what it is asked for.
        assert_eq!(socket.socket.send_buffer_size().unwrap(), 40_000);
        assert_eq!(socket.socket.recv_buffer_size().unwrap(), rcv);
        assert_ne!(snd, 40_000);
        socket.set_buffers(None, Some(30_000));
        assert_eq!(socket.socket.recv_buffer_size().unwrap(), 60_000);
    }

    #[test]
    fn a_group_gets_packets_by_peer_id_and_holds_its_port_alone() {
        let sockets = UdpSocket::open_group(&loopback(Family::V4), 3).unwrap();
        let to = Endpoint::new(sockets[2].local_addr().unwrap());
        let mut buf = [0; 100];
        let mut receive = |socket: &UdpSocket| match socket.receive(&mut buf) {
            Ok(message) => Some(buf[..message.unwrap().len].to_vec()),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                None
            }
        };
        let v2 = |id: u32| {
            ((u32::from(wire::DATA_V2) << 3 << 24) | id)
                .to_be_bytes()
                .to_vec()
        };
        for (datagram, owner) in [
            (v2(0), 0),
            (v2(1), 1),
            (v2(0xff_fffe), 2),
            // DATA_V1, a control packet, a truncated one, nothing at all
            (vec![0x30, 0, 0, 1], 0),
            (vec![0x38, 0, 0, 1], 0),
            (vec![0x48, 1], 0),
            (vec![], 0),
        ] {
            for _ in 0..3 {
                // From another port each time: the address has no say.
                let sender = UdpSocket::open(&loopback(Family::V4)).unwrap();
                sender.send_to(&to, &datagram).unwrap();
                for (index, socket) in sockets.iter().enumerate() {
                    let expected = (index == owner).then(|| datagram.clone());
                    assert_eq!(receive(socket), expected, "{datagram:x?} at {index}");
                }
            }
        }
        let config = UdpConfig {
            port: to.remote.port(),
            ..loopback(Family::V4)
        };
        assert!(UdpSocket::open_group(&config, 3).is_err());
        assert!(UdpSocket::open(&config).is_err());
    }

    #[test]
    fn the_way_to_ourselves_is_wide() {
        let config = UdpConfig::new(Family::V4);
        let mtu = UdpSocket::path_mtu(&config, "127.0.0.1:9".parse().unwrap()).unwrap();
        assert!(mtu >= 1500, "{mtu}");
    }

    #[test]
    fn errors_name_the_option() {
        let config = UdpConfig {
            bind_dev: Some("no-such-device".into()),
            ..loopback(Family::V4)
        };
        let error = UdpSocket::open(&config).unwrap_err().to_string();
        assert!(error.contains("bind-dev"), "{error}");
    }
}
