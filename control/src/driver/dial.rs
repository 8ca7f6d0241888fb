//! Getting a TCP connection to the peer: calling it, through a proxy if there is one, or waiting for
//! its call. Signals end every wait, and what is looked at once a second goes on.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::attempt::now;
use super::port::Patience;
use super::remotes::Target;
use super::{Cause, Ending, Program, report, setup};
use crate::config::options::{Family, Options, Proto};
use crate::host::signals::Signal;
use crate::log;
use crate::proto::proxy::socks::Socks;
use crate::proto::proxy::{Handshake, Step};
use crate::proto::tunnel::Counters;

/// Longest wait between two looks at everyday chores.
const TICK: Duration = Duration::from_secs(1);
/// Connections that may wait to be accepted: one is, the others are refused.
const BACKLOG: i32 = 1;
/// What is taken of a proxy's answer at once.
const PORTION: usize = 1024;

/// Calls the peer, or the proxy and through it the peer.
///
/// # Errors
/// How the attempt ends: a signal, a refusal, no answer within `connect-timeout`.
pub(super) fn connect(
    program: &mut Program,
    target: &Target,
    local: Option<IpAddr>,
) -> Result<TcpStream, Ending> {
    let Some(remote) = target.remote else {
        return Err(Ending::fatal("tcp-client needs a remote to connect to"));
    };
    let limit = Duration::from_secs(target.connection.connect_timeout);
    let until = Instant::now() + limit;
    let handshake = program.proxies.handshake(&target.connection);
    let Some(mut handshake) = handshake.map_err(Ending::fatal)? else {
        return call(program, target, remote, local, until);
    };
    loop {
        let stream = call(program, target, remote, local, until)?;
        if talk(program, &stream, &mut *handshake, until)? {
            return Ok(stream);
        }
    }
}

/// Calls the SOCKS proxy and asks it to pass datagrams on: the connection, which is to be kept, and
/// where the proxy takes datagrams.
///
/// # Errors
/// How the attempt ends: a signal, a refusal, no answer within `connect-timeout`.
pub(super) fn associate(
    program: &mut Program,
    target: &Target,
    local: Option<IpAddr>,
    request: &mut Socks,
) -> Result<(TcpStream, SocketAddr), Ending> {
    let Some(proxy) = target.remote else {
        return Err(Ending::fatal("socks-proxy needs a remote to send to"));
    };
    let until = Instant::now() + Duration::from_secs(target.connection.connect_timeout);
    let stream = call(program, target, proxy, local, until)?;
    talk(program, &stream, request, until)?;
    match request.bound() {
        Some(to) if to.ip().is_unspecified() => Ok((stream, (proxy.ip(), to.port()).into())),
        Some(to) => Ok((stream, to)),
        None => {
            log::notice!(in Link, "proxy: it names no address for datagrams");
            Err(failed(program, "proxy-error"))
        }
    }
}

/// Opens the port to wait at.
///
/// # Errors
/// One line for a person.
pub(super) fn listen(
    options: &Options,
    target: &Target,
    local: Option<IpAddr>,
) -> Result<TcpListener, String> {
    let connection = &target.connection;
    let try_bind = |ip: IpAddr| -> io::Result<TcpListener> {
        let socket = open(options, SocketAddr::new(ip, connection.lport))?;
        if ip.is_ipv6() {
            let only = connection.bind_ipv6only || connection.family == Family::V6;
            socket.set_only_v6(only && local.is_none())?;
        }
        socket.bind(&SocketAddr::new(ip, connection.lport).into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    let mut patience = Patience::new();
    let mut bind = |ip| patience.bind(|| try_bind(ip));
    let bound = match (local, connection.family) {
        (Some(ip), _) => bind(ip),
        (None, Family::V4) => bind(Ipv4Addr::UNSPECIFIED.into()),
        (None, Family::V6) => bind(Ipv6Addr::UNSPECIFIED.into()),
        // Where the system has no IPv6, one for both families becomes one for IPv4.
        (None, Family::Any) => {
            bind(Ipv6Addr::UNSPECIFIED.into()).or_else(|_| bind(Ipv4Addr::UNSPECIFIED.into()))
        }
    };
    let listener = bound.map_err(|error| {
        let port = connection.lport;
        format!("TCP: cannot listen at port {port}: {error}")
    })?;
    if let Ok(address) = listener.local_addr() {
        let address = setup::address_text(address);
        log::notice!(in Link, "Listening for incoming TCP connection on {address}");
    }
    Ok(listener)
}

/// Waits for the peer's call, as long as it takes. Whoever is not `remote` is turned away, if there is
/// one and `float` does not allow others. The listener is closed then: one peer is all there is.
///
/// # Errors
/// How the attempt ends: a signal.
pub(super) fn accept(
    program: &mut Program,
    listener: TcpListener,
    target: &Target,
) -> Result<(TcpStream, SocketAddr), Ending> {
    let expected = target.remote.filter(|_| !target.connection.float);
    loop {
        wait(program, listener.as_fd(), PollFlags::POLLIN, None)?;
        let (stream, from) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) => {
                log::info!(in Link, "TCP: accept: {error}");
                continue;
            }
        };
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let text = setup::address_text(from);
        if expected.is_some_and(|remote| remote.ip() != from.ip()) {
            log::notice!(
                in Link, "TCP NOTE: Rejected connection attempt from {text} due to --remote setting"
            );
            continue;
        }
        log::notice!(in Link, "TCP connection established with {text}");
        return Ok((stream, from));
    }
}

/// A TCP socket with what is configured for sockets, for use with this address.
fn open(options: &Options, address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    set_buffers(&socket, options.sndbuf, options.rcvbuf);
    if let Some(mark) = options.mark {
        socket.set_mark(mark)?;
    }
    if let Some(device) = &options.bind_dev {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    Ok(socket)
}

/// `sndbuf` and `rcvbuf` where they are given; the kernel chooses well for TCP.
pub(super) fn set_buffers(socket: &impl AsFd, sndbuf: Option<u32>, rcvbuf: Option<u32>) {
    let socket = SockRef::from(socket);
    // Sizes are wishes: the kernel's limits are no reason to have no connection.
    if let Some(bytes) = sndbuf.filter(|bytes| *bytes > 0) {
        let _ = socket.set_send_buffer_size(bytes as usize);
    }
    if let Some(bytes) = rcvbuf.filter(|bytes| *bytes > 0) {
        let _ = socket.set_recv_buffer_size(bytes as usize);
    }
}

fn call(
    program: &mut Program,
    target: &Target,
    remote: SocketAddr,
    local: Option<IpAddr>,
    until: Instant,
) -> Result<TcpStream, Ending> {
    let text = setup::address_text(remote);
    log::notice!(in Link, "Attempting to establish TCP connection with {text}");
    let begun = begin_call(&program.options, target, remote, local);
    let outcome = match begun {
        Err(error) => Err(error),
        Ok((socket, true)) => Ok(socket),
        Ok((socket, false)) => {
            if !wait(program, socket.as_fd(), PollFlags::POLLOUT, Some(until))? {
                Err(io::ErrorKind::TimedOut.into())
            } else {
                match socket.take_error() {
                    Ok(None) => Ok(socket),
                    Ok(Some(error)) | Err(error) => Err(error),
                }
            }
        }
    };
    match outcome {
        Ok(socket) => {
            log::notice!(in Link, "TCP connection established with {text}");
            Ok(socket.into())
        }
        Err(error) => {
            log::notice!(in Link, "TCP: connect to {text} failed: {error}");
            Err(failed(program, "connection-failed"))
        }
    }
}

/// A socket on its way, and whether it has arrived.
fn begin_call(
    options: &Options,
    target: &Target,
    remote: SocketAddr,
    local: Option<IpAddr>,
) -> io::Result<(Socket, bool)> {
    let socket = open(options, remote)?;
    // Beside datagrams the port is theirs; a proxy may insist on one address for both.
    let port = match target.connection.proto {
        Proto::Udp => local.map(|_| 0),
        Proto::TcpClient | Proto::TcpServer => {
            target.connection.bind.then_some(target.connection.lport)
        }
    };
    if let Some(port) = port {
        let any = match remote {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        socket.bind(&SocketAddr::new(local.unwrap_or(any), port).into())?;
    }
    match socket.connect(&remote.into()) {
        Ok(()) => Ok((socket, true)),
        Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => {
            Ok((socket, false))
        }
        Err(error) => Err(error),
    }
}

/// Talks to the proxy until the connection leads to the peer; false when it wants another one first.
fn talk(
    program: &mut Program,
    stream: &TcpStream,
    handshake: &mut dyn Handshake,
    until: Instant,
) -> Result<bool, Ending> {
    let mut to_send = handshake.start();
    loop {
        if let Err(error) = send(program, stream, &to_send, until)? {
            return Err(lost(program, &error));
        }
        to_send.clear();
        let mut portion = [0; PORTION];
        while to_send.is_empty() {
            if !wait(program, stream.as_fd(), PollFlags::POLLIN, Some(until))? {
                return Err(lost(program, &io::ErrorKind::TimedOut.into()));
            }
            // What comes behind the answer is the peer's: only the answer is taken out.
            let peeked = match recv(stream.as_raw_fd(), &mut portion, MsgFlags::MSG_PEEK) {
                Ok(0) => return Err(lost(program, &io::ErrorKind::UnexpectedEof.into())),
                Ok(peeked) => peeked,
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                Err(error) => return Err(lost(program, &error.into())),
            };
            let received = match handshake.receive(&portion[..peeked]) {
                Ok(received) => received,
                Err(error) => {
                    log::notice!(in Link, "proxy: {error}");
                    return Err(failed(program, "proxy-error"));
                }
            };
            if let Err(error) = recv(
                stream.as_raw_fd(),
                &mut portion[..received.consumed],
                MsgFlags::empty(),
            ) {
                return Err(lost(program, &error.into()));
            }
            if let Some(note) = received.note {
                log::notice!(in Link, "HTTP proxy returned: '{note}'");
            }
            match received.step {
                Step::More => {}
                Step::Send(bytes) => to_send = bytes,
                Step::Reconnect => return Ok(false),
                Step::Done => return Ok(true),
            }
        }
    }
}

fn send(
    program: &mut Program,
    stream: &TcpStream,
    mut bytes: &[u8],
    until: Instant,
) -> Result<io::Result<()>, Ending> {
    use std::io::Write;
    let mut writer = stream;
    while !bytes.is_empty() {
        match writer.write(bytes) {
            Ok(0) => return Ok(Err(io::ErrorKind::WriteZero.into())),
            Ok(sent) => bytes = &bytes[sent..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !wait(program, stream.as_fd(), PollFlags::POLLOUT, Some(until))? {
                    return Ok(Err(io::ErrorKind::TimedOut.into()));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(()))
}

fn lost(program: &mut Program, error: &io::Error) -> Ending {
    log::notice!(in Link, "proxy: the connection was lost before it led to the peer: {error}");
    failed(program, "proxy-error")
}

/// An attempt that ends because there is no connection.
pub(super) fn failed(program: &mut Program, reason: &'static str) -> Ending {
    program.cause = Cause::Reason(reason);
    Ending::RESTART
}

/// Waits until there is something to do with `fd`; false when it is too late.
fn wait(
    program: &mut Program,
    fd: BorrowedFd<'_>,
    what: PollFlags,
    until: Option<Instant>,
) -> Result<bool, Ending> {
    let mut next_tick = Instant::now() + TICK;
    loop {
        let end = until.map_or(next_tick, |until| until.min(next_tick));
        let left = end.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
        let mut fds = [
            PollFd::new(program.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(fd, what),
        ];
        // EINTR and the like just mean another look.
        let _ = poll(
            &mut fds,
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX),
        );
        let ready = fds[1].any().unwrap_or(false);
        for signal in program.signals.pending() {
            let ending = match signal {
                Signal::Usr2 => {
                    report::log_statistics(program.totals(), &Counters::default());
                    continue;
                }
                Signal::Usr1 => Ending::RESTART,
                Signal::Hup => Ending::Reload,
                Signal::Term | Signal::Int => Ending::Exit(0),
            };
            program.cause = Cause::Signal(signal);
            return Err(ending);
        }
        if ready {
            return Ok(true);
        }
        let now = now();
        if until.is_some_and(|until| now.instant >= until) {
            return Ok(false);
        }
        if now.instant >= next_tick {
            next_tick = now.instant + TICK;
            program.chores(now);
        }
    }
}
