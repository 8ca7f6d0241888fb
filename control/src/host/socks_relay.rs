//! UDP through a SOCKS proxy: a thread between the workers' sockets and the proxy, which puts the
//! proxy's header in front of every datagram and takes it off again.
//!
//! ```text
//!   workers' sockets ---- inside ---- relay ---- outside ---- proxy ---- peer
//!      loopback      plain datagrams        header + datagram
//!                                       '--- TCP: the proxy forwards as long as this is open
//! ```
//!
//! The packet path knows nothing of it, and its users pay for the second way through the kernel. Both
//! sockets take and give many datagrams at once where the kernel can cut and join them (UDP_SEGMENT,
//! UDP_GRO). What neither is from the peer nor finds room is dropped, as on any path.

use std::io::{self, IoSlice, IoSliceMut, Read};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, connect, recvmsg, sendmsg,
};
use ringway_dataplane::udp::{Family, UdpConfig, UdpSocket};

use crate::log;
use crate::proto::proxy::datagram::Peer;

/// Largest payload of a UDP datagram over IPv4, and of all that is sent at once.
const LARGEST: usize = 65_507;
/// Datagrams that the kernel cuts out of one message at most.
const MOST_SEGMENTS: usize = 64;
/// Messages moved in one direction before the other one gets a turn.
const TURN: usize = 16;
/// How long a full socket may stay full before what is to be sent is dropped.
const PATIENCE_MS: u16 = 100;
/// Room for control messages: what a socket of the packet path is set to tell (`multihome`), in 32-bit
/// words.
const CONTROL: usize = 16;

/// The thread, and both ways.
#[derive(Debug)]
pub struct SocksRelay {
    entrance: SocketAddr,
    local: SocketAddr,
    proxy: SocketAddr,
    header_len: usize,
    wake: Arc<EventFd>,
    dropped: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl SocksRelay {
    /// Starts it. `workers` is where the workers' sockets are on the loopback interface, `outside`
    /// the socket towards the proxy, which takes datagrams at `proxy`; `control` is the connection
    /// that asked for this.
    ///
    /// # Errors
    /// There is no way to the proxy's address from this socket, or the system gives no thread.
    pub fn start(
        workers: SocketAddr,
        outside: UdpSocket,
        proxy: SocketAddr,
        control: TcpStream,
        peer: Peer,
    ) -> io::Result<Self> {
        let inside = UdpSocket::open(&loopback()).map_err(io::Error::other)?;
        join(&inside, workers)?;
        join(&outside, proxy)?;
        control.set_nonblocking(true)?;
        let wake =
            EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let (wake, dropped) = (Arc::new(wake), Arc::<AtomicU64>::default());
        let (entrance, local) = (inside.local_addr()?, outside.local_addr()?);
        let header_len = peer.header().len();
        let mut relay = Relay {
            inside: End::new(inside),
            outside: End::new(outside),
            control,
            peer,
            wake: wake.clone(),
            dropped: dropped.clone(),
            buffer: vec![0; 1 << 16],
        };
        let thread = std::thread::Builder::new()
            .name("ringway-socks".to_owned())
            .spawn(move || relay.run())?;
        Ok(SocksRelay {
            entrance,
            local,
            proxy,
            header_len,
            wake,
            dropped,
            thread: Some(thread),
        })
    }

    /// Where workers send to instead of the peer.
    pub fn entrance(&self) -> SocketAddr {
        self.entrance
    }

    /// Our own address towards the proxy.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Where the proxy takes datagrams.
    pub fn proxy(&self) -> SocketAddr {
        self.proxy
    }

    /// Bytes in front of each datagram.
    pub fn header_len(&self) -> usize {
        self.header_len
    }

    /// The proxy does not forward any more.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for SocksRelay {
    fn drop(&mut self) {
        let _ = self.wake.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        match self.dropped.load(Relaxed) {
            0 => {}
            n => {
                log::notice!(in Link, "SOCKS: {n} datagrams were not the peer's, or found no room")
            }
        }
    }
}

/// How sockets on this machine's side of a relay are opened: the workers' and its own.
pub fn loopback() -> UdpConfig {
    UdpConfig {
        local: Some(Ipv4Addr::LOCALHOST.into()),
        ..UdpConfig::new(Family::V4)
    }
}

/// Sends to this address, and takes from nobody else.
fn join(socket: &UdpSocket, to: SocketAddr) -> io::Result<()> {
    let to = match (socket.family(), to) {
        // An IPv6 socket knows IPv4 addresses by another name.
        (Family::V6, SocketAddr::V4(v4)) => {
            let ip: Ipv6Addr = v4.ip().to_ipv6_mapped();
            SocketAddr::new(ip.into(), v4.port())
        }
        _ => to,
    };
    Ok(connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?)
}

struct Relay {
    inside: End,
    outside: End,
    control: TcpStream,
    peer: Peer,
    wake: Arc<EventFd>,
    dropped: Arc<AtomicU64>,
    buffer: Vec<u8>,
}

impl Relay {
    /// Until the proxy closes the connection, or nobody wants this any more.
    fn run(&mut self) {
        loop {
            let mut fds = [
                PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.control.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.inside.socket.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.outside.socket.as_fd(), PollFlags::POLLIN),
            ];
            // EINTR and the like just mean another look.
            let _ = poll(&mut fds, PollTimeout::NONE);
            let [wake, control, inside, outside] =
                fds.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
            if !wake.is_empty() {
                // The last words of whoever leaves.
                self.carry_out();
                return;
            }
            if !control.is_empty() && self.is_closed() {
                return;
            }
            for (end, events) in [(&self.inside, inside), (&self.outside, outside)] {
                if events.contains(PollFlags::POLLERR) {
                    end.forget_errors();
                }
            }
            if !inside.is_empty() {
                self.carry_out();
            }
            if !outside.is_empty() {
                self.carry_back();
            }
            let new = std::mem::take(&mut self.inside.dropped)
                + std::mem::take(&mut self.outside.dropped);
            self.dropped.fetch_add(new, Relaxed);
        }
    }

    /// A proxy has nothing to say here; what it says nevertheless is read away.
    fn is_closed(&mut self) -> bool {
        match self.control.read(&mut self.buffer) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => !matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ),
        }
    }

    fn carry_out(&mut self) {
        for _ in 0..TURN {
            let Some(datagrams) = self.inside.receive(&mut self.buffer) else {
                return;
            };
            for datagram in datagrams {
                self.outside.add([self.peer.header(), datagram]);
            }
            self.outside.flush();
        }
    }

    fn carry_back(&mut self) {
        for _ in 0..TURN {
            let Some(datagrams) = self.outside.receive(&mut self.buffer) else {
                return;
            };
            for datagram in datagrams {
                match self.peer.strip(datagram) {
                    Some(len) if len < datagram.len() => self.inside.add([&datagram[len..], &[]]),
                    _ => self.outside.dropped += 1,
                }
            }
            self.inside.flush();
        }
    }
}

/// One of the two sockets, and what is about to leave by it: as many datagrams in one message as the
/// kernel takes, all of one length, the last one possibly shorter.
struct End {
    socket: UdpSocket,
    /// The kernel cuts messages.
    cuts: bool,
    message: Vec<u8>,
    /// Length of the first datagram.
    segment: usize,
    count: usize,
    dropped: u64,
}

impl End {
    fn new(socket: UdpSocket) -> Self {
        End {
            cuts: socket.has_gso(),
            socket,
            message: Vec::with_capacity(LARGEST),
            segment: 0,
            count: 0,
            dropped: 0,
        }
    }

    /// What has arrived together, if anything has.
    fn receive<'b>(&self, buffer: &'b mut [u8]) -> Option<std::slice::Chunks<'b, u8>> {
        let mut control = cmsg_space!([i32; CONTROL]);
        let (len, segment) = {
            let mut parts = [IoSliceMut::new(buffer)];
            let flags = MsgFlags::MSG_DONTWAIT;
            let fd = self.socket.as_raw_fd();
            let message =
                recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), flags).ok()?;
            let joined = message.cmsgs().ok()?.find_map(|message| match message {
                ControlMessageOwned::UdpGroSegments(size) => usize::try_from(size).ok(),
                _ => None,
            });
            (message.bytes, joined)
        };
        let segment = segment.filter(|size| *size > 0).unwrap_or(len.max(1));
        Some(buffer[..len].chunks(segment))
    }

    /// Adds a datagram of these two parts, and sends those before if it cannot leave with them.
    fn add(&mut self, parts: [&[u8]; 2]) {
        let len = parts[0].len() + parts[1].len();
        let fits = self.cuts
            && self.segment > 0
            && len <= self.segment
            && self.message.len() == self.count * self.segment
            && self.message.len() + len <= LARGEST
            && (1..MOST_SEGMENTS).contains(&self.count);
        if !fits {
            self.flush();
            self.segment = len;
        }
        self.message.extend_from_slice(parts[0]);
        self.message.extend_from_slice(parts[1]);
        self.count += 1;
    }

    /// Sends what has been added.
    fn flush(&mut self) {
        let sent = match self.count {
            0 => return,
            1 => self.send(&self.message, &[]),
            _ => {
                let size = u16::try_from(self.segment).unwrap_or(u16::MAX);
                self.send(&self.message, &[ControlMessage::UdpGsoSegments(&size)])
            }
        };
        match sent {
            Ok(()) => {}
            // The device or the way does not allow it.
            Err(Errno::EIO | Errno::EINVAL | Errno::EMSGSIZE) if self.count > 1 => {
                self.cuts = false;
                let each = self.message.chunks(self.segment);
                let lost = each.filter(|datagram| self.send(datagram, &[]).is_err());
                self.dropped += lost.count() as u64;
            }
            Err(_) => self.dropped += self.count as u64,
        }
        self.message.clear();
        self.count = 0;
    }

    /// Sends one message: waits for room a little, and tries once more when the error that comes back
    /// is an earlier datagram's.
    fn send(&self, message: &[u8], control: &[ControlMessage<'_>]) -> nix::Result<()> {
        let send = || {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            let (fd, parts) = (self.socket.as_raw_fd(), [IoSlice::new(message)]);
            sendmsg::<SockaddrStorage>(fd, &parts, control, flags, None)
        };
        let sent = match send() {
            Err(Errno::EAGAIN) => {
                let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)];
                let _ = poll(&mut fds, PATIENCE_MS);
                send()
            }
            Err(Errno::ECONNREFUSED | Errno::EHOSTUNREACH | Errno::ENETUNREACH) => send(),
            sent => sent,
        };
        sent.map(drop)
    }

    /// Empties the error queue, which would keep us awake: what it tells of ends by itself, or shows as
    /// silence.
    fn forget_errors(&self) {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_ERRQUEUE;
        let mut byte = [0];
        loop {
            let mut parts = [IoSliceMut::new(&mut byte)];
            let fd = self.socket.as_raw_fd();
            if recvmsg::<SockaddrStorage>(fd, &mut parts, None, flags).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket as StdSocket};
    use std::time::Duration;

    use super::*;

    struct Fixture {
        relay: SocksRelay,
        worker: StdSocket,
        proxy: StdSocket,
        control: TcpStream,
    }

    /// A relay between a worker and a proxy, both of which are this test.
    fn fixture(peer: Peer) -> Fixture {
        let socket = || {
            let socket = StdSocket::bind("127.0.0.1:0").unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            socket
        };
        let (worker, proxy) = (socket(), socket());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (control, _) = listener.accept().unwrap();
        let relay = SocksRelay::start(
            worker.local_addr().unwrap(),
            UdpSocket::open(&loopback()).unwrap(),
            proxy.local_addr().unwrap(),
            near,
            peer,
        )
        .unwrap();
        worker.connect(relay.entrance()).unwrap();
        proxy.connect(relay.local_addr()).unwrap();
        Fixture {
            relay,
            worker,
            proxy,
            control,
        }
    }

    fn receive(socket: &StdSocket) -> Vec<u8> {
        let mut buffer = vec![0; 1 << 16];
        let len = socket.recv(&mut buffer).unwrap();
        buffer.truncate(len);
        buffer
    }

    fn peer() -> Peer {
        Peer::new("192.0.2.9", 1194, false).unwrap()
    }

    #[test]
    fn datagrams_of_every_length_pass_in_order() {
        let f = fixture(peer());
        let header = peer().header().to_vec();
        let lengths = [1, 1400, 1400, 1400, 7, 60_000, 1400, 1400, 1400, 2];
        for (number, len) in (1..).zip(lengths) {
            f.worker.send(&vec![number; len]).unwrap();
            let datagram = [header.clone(), vec![number; len]].concat();
            f.proxy.send(&datagram).unwrap();
        }
        for (number, len) in (1..).zip(lengths) {
            let out = receive(&f.proxy);
            assert!(
                out.starts_with(&header) && out[10..] == vec![number; len],
                "{number}"
            );
            assert!(receive(&f.worker) == vec![number; len], "{number}");
        }
    }

    #[test]
    fn messages_that_the_kernel_cuts() {
        let f = fixture(peer());
        let whole: Vec<u8> = (0..60_001u32).map(|n| (n / 7) as u8).collect();
        let fd = f.worker.as_raw_fd();
        let cut = [ControlMessage::UdpGsoSegments(&1200)];
        let parts = [IoSlice::new(&whole)];
        sendmsg::<SockaddrStorage>(fd, &parts, &cut, MsgFlags::empty(), None).unwrap();
        for segment in whole.chunks(1200) {
            let out = receive(&f.proxy);
            assert!(out[10..] == *segment);
            f.proxy.send(&out).unwrap();
            assert!(receive(&f.worker) == segment);
        }
    }

    #[test]
    fn what_is_not_the_peers_is_dropped() {
        let f = fixture(peer());
        let header = peer().header().to_vec();
        let mut other = header.clone();
        other[7] = 8;
        // From somebody else: the socket does not even see it.
        let stranger = StdSocket::bind("127.0.0.1:0").unwrap();
        stranger
            .send_to(&[&header[..], b"a"].concat(), f.relay.local_addr())
            .unwrap();
        stranger.send_to(b"a", f.relay.entrance()).unwrap();
        for bad in [&[&other[..], b"b"].concat(), &header, &b"c".to_vec()] {
            f.proxy.send(bad).unwrap();
        }
        f.proxy.send(&[&header[..], b"good"].concat()).unwrap();
        assert_eq!(receive(&f.worker), b"good");
        f.worker.send(b"answer").unwrap();
        assert_eq!(receive(&f.proxy), [&header[..], b"answer"].concat());
        f.proxy.send(&[&header[..], b"last"].concat()).unwrap();
        assert_eq!(receive(&f.worker), b"last");
        let dropped = f.relay.dropped.clone();
        drop(f);
        assert_eq!(dropped.load(Relaxed), 3);
    }

    /// A port where nobody listens leaves an error on the socket, and no more.
    #[test]
    fn errors_pass() {
        let f = fixture(peer());
        let address = f.proxy.local_addr().unwrap();
        drop(f.proxy);
        for _ in 0..10 {
            f.worker.send(b"lost").unwrap();
        }
        // In the order of arrival: by now it has seen all of these.
        std::thread::sleep(Duration::from_millis(20));
        let proxy = StdSocket::bind(address).unwrap();
        proxy
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let mut buffer = [0; 100];
        let arrived = (0..100).any(|_| {
            f.worker.send(b"hello").unwrap();
            proxy.recv(&mut buffer).is_ok()
        });
        assert!(arrived && !f.relay.has_ended());
    }

    #[test]
    fn it_ends_with_the_connection_to_the_proxy() {
        let f = fixture(peer());
        assert!(!f.relay.has_ended());
        drop(f.control);
        let ended = (0..2000).any(|_| {
            std::thread::sleep(Duration::from_millis(5));
            f.relay.has_ended()
        });
        assert!(ended);
    }

    #[test]
    fn the_proxy_sees_the_end() {
        let f = fixture(peer());
        drop(f.relay);
        let mut control = f.control;
        assert_eq!(control.read(&mut [0; 1]).unwrap(), 0);
    }
}
