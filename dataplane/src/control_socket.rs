//! A server's socket for everything that is no data packet: handshakes, and what strangers send.
//!
//! ```text
//!   UDP port ---filter---> workers' sockets: data packets         (see `steering`)
//!                    '---> this one: resets, TLS, acks, garbage --> batch of datagrams --> control thread
//! ```
//!
//! The buffer in the kernel is its own, so a flood fills this one and no worker's; what does not fit is
//! dropped by the kernel and counted there ([`ControlSocket::kernel_drops`]). Receive offload is off:
//! each message is one datagram. Nothing here looks at what a datagram says.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use crate::command::Endpoint;
use crate::sys::{cmsg, mmsg};
use crate::udp::{self, UdpConfig, UdpSocket};

/// Longest datagram taken: twice what any peer sends as a control packet (protocol §1). A data packet
/// that comes here glued to a control packet is as long as that one.
pub const MAX_LEN: usize = 4096;

/// Most datagrams of one [`ControlSocket::receive`].
pub const MAX_DATAGRAMS: usize = mmsg::MESSAGES;

/// Receive buffer in bytes. The kernel counts some 800 bytes for a short packet, 2,300 for a long one,
/// and doubles what is asked for, so what 2,000 clients send that all come back at once fits in, and a
/// flood keeps the kernel's memory and a genuine packet's wait small: what stands before it is read in
/// some ten milliseconds.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Entries of the error queue read at once.
const MAX_ERRORS: usize = 64;

/// See the module's documentation. It also sends: control packets to peers, from the server's port.
#[derive(Debug)]
pub struct ControlSocket {
    socket: UdpSocket,
}

/// Room for what one receive call brings.
pub struct Batch {
    slots: Box<[mmsg::Slot]>,
    payload: Box<[u8]>,
    count: usize,
    path_mtus: Vec<(IpAddr, u32)>,
}

/// How the control socket of a group is opened.
pub(crate) fn config(workers: &UdpConfig) -> UdpConfig {
    UdpConfig {
        rcvbuf: Some(RECEIVE_BUFFER),
        offload: false,
        ..workers.clone()
    }
}

impl ControlSocket {
    pub(crate) fn new(socket: UdpSocket) -> Self {
        ControlSocket { socket }
    }

    /// Replaces what is in `batch` by what is waiting: up to [`MAX_DATAGRAMS`] datagrams, and the path
    /// MTUs that the kernel reports. Does not wait. When all the room was used there may be more.
    ///
    /// # Errors
    /// The socket is unusable; that nothing is waiting is no error.
    pub fn receive(&self, batch: &mut Batch) -> io::Result<()> {
        batch.count = 0;
        batch.path_mtus.clear();
        self.read_errors(batch);
        let mut receive =
            || mmsg::receive(self.as_fd(), &mut batch.slots, &mut batch.payload, MAX_LEN);
        let received = match receive() {
            // An earlier datagram's, and gone now.
            Err(error) if udp::is_pending_error(error.raw_os_error()) => receive(),
            received => received,
        };
        batch.count = match received {
            Ok(count) => count,
            Err(error)
                if udp::is_pending_error(error.raw_os_error())
                    || error.kind() == io::ErrorKind::WouldBlock
                    || error.kind() == io::ErrorKind::Interrupted =>
            {
                0
            }
            Err(error) => return Err(error),
        };
        Ok(())
    }

    /// Sends one datagram; see [`UdpSocket::send_to`].
    ///
    /// # Errors
    /// The kernel refuses the datagram.
    pub fn send_to(&self, to: &Endpoint, payload: &[u8]) -> io::Result<()> {
        self.socket.send_to(to, payload)
    }

    /// The address of the server; see [`UdpSocket::local_addr`].
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// What the kernel dropped because the buffer was full; see [`UdpSocket::kernel_drops`].
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn kernel_drops(&self) -> io::Result<u32> {
        self.socket.kernel_drops()
    }

    /// An error of any socket of the group may be reported here, and a queue that is not emptied would
    /// keep the socket readable.
    fn read_errors(&self, batch: &mut Batch) {
        for _ in 0..MAX_ERRORS {
            let Some((about, errno, detail)) = self.socket.next_error() else {
                return;
            };
            if let (Some(about), libc::EMSGSIZE) = (about, errno) {
                batch.path_mtus.push((about.ip(), detail));
            }
        }
    }
}

impl AsFd for ControlSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Batch {
    /// Room for [`MAX_DATAGRAMS`] datagrams of [`MAX_LEN`] bytes; nothing in it yet.
    pub fn new() -> Self {
        Batch {
            slots: (0..MAX_DATAGRAMS).map(|_| mmsg::Slot::new()).collect(),
            payload: vec![0; MAX_DATAGRAMS * MAX_LEN].into(),
            count: 0,
            path_mtus: Vec::with_capacity(MAX_ERRORS),
        }
    }

    /// The datagrams, oldest first, and where each came from; the local address is known with
    /// `multihome` only. `None` for one that was longer than [`MAX_LEN`]: nothing of it is of use.
    pub fn datagrams(&mut self) -> impl Iterator<Item = Option<(Endpoint, &mut [u8])>> {
        let slots = &self.slots[..self.count];
        let payloads = self.payload.chunks_exact_mut(MAX_LEN);
        slots.iter().zip(payloads).map(|(slot, payload)| {
            if slot.is_cut() {
                return None;
            }
            let info = cmsg::parse(slot.control());
            let message = udp::received(slot.name(), &info, 0, 0, slot.len())?;
            Some((message.from, &mut payload[..slot.len()]))
        })
    }

    /// How many datagrams there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether there was no room for more.
    pub fn is_full(&self) -> bool {
        self.count == MAX_DATAGRAMS
    }

    /// Paths and their MTUs in bytes, for [`crate::command::Command::PathMtu`].
    pub fn path_mtus(&self) -> &[(IpAddr, u32)] {
        &self.path_mtus
    }
}

impl Default for Batch {
    fn default() -> Self {
        Batch::new()
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch")
            .field("datagrams", &self.count)
            .field("path_mtus", &self.path_mtus)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::udp::{Family, Listener};
    use crate::wire;
    use crate::worker::testing::{in_network_namespace, ip};
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn config(family: Family) -> UdpConfig {
        UdpConfig {
            local: Some(match family {
                Family::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
                Family::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
            }),
            ..UdpConfig::new(family)
        }
    }

    fn listener(family: Family, workers: usize) -> (Listener, Endpoint) {
        let listener = UdpSocket::open_listener(&config(family), workers).unwrap();
        let to = Endpoint::new(listener.control.local_addr().unwrap());
        (listener, to)
    }

    /// The sockets that hold something, by index, and what: the workers', then the control socket's.
    fn arrived(listener: &Listener, batch: &mut Batch) -> Vec<(usize, Vec<u8>)> {
        let mut found = Vec::new();
        let mut buf = vec![0; 70_000];
        for (index, socket) in listener.sockets.iter().enumerate() {
            while let Ok(message) = socket.receive(&mut buf) {
                found.push((index, buf[..message.unwrap().len].to_vec()));
            }
        }
        loop {
            listener.control.receive(batch).unwrap();
            for datagram in batch.datagrams() {
                let bytes = datagram.map_or(Vec::new(), |(_, bytes)| bytes.to_vec());
                found.push((listener.sockets.len(), bytes));
            }
            if !batch.is_full() {
                return found;
            }
        }
    }

    #[test]
    fn every_opcode_and_length_goes_where_it_belongs() {
        let mut batch = Batch::new();
        for family in [Family::V4, Family::V6] {
            for workers in 1..=4 {
                let (listener, to) = listener(family, workers);
                assert_eq!(listener.sockets.len(), workers);
                for opcode in 0..32u8 {
                    for len in [0, 1, 2, 3, 4, 5, 14, 54, 1200] {
                        for peer_id in [0u8, 1, 2, 3, 7, 255] {
                            let mut datagram = vec![opcode << 3 | 5, 9, 9, peer_id];
                            datagram.resize(len, 0xee);
                            let id = 0x0009_0900 | usize::from(peer_id);
                            let owner = match opcode {
                                wire::DATA_V2 if len >= 4 => id % workers,
                                wire::DATA_V1 if len >= 1 => 0,
                                _ => workers,
                            };
                            let sender = UdpSocket::open(&config(family)).unwrap();
                            sender.send_to(&to, &datagram).unwrap();
                            assert_eq!(
                                arrived(&listener, &mut batch),
                                [(owner, datagram)],
                                "{family:?}, {workers} workers, opcode {opcode}, {len} bytes"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_flood_of_resets_fills_the_control_sockets_buffer_alone() {
        for (family, workers) in [(Family::V4, 1), (Family::V6, 3)] {
            let (listener, to) = listener(family, workers);
            let sender = UdpSocket::open(&config(family)).unwrap();
            let reset = [wire::HARD_RESET_CLIENT_V2 << 3; 54];
            let sent = 20_000;
            for _ in 0..sent {
                sender.send_to(&to, &reset).unwrap();
            }
            let data = [wire::DATA_V2 << 3, 0, 0, 0, 1, 2, 3];
            sender.send_to(&to, &data).unwrap();

            let dropped = listener.control.kernel_drops().unwrap();
            assert!(dropped > 0);
            for socket in &listener.sockets {
                assert_eq!(socket.kernel_drops().unwrap(), 0);
            }
            let mut batch = Batch::new();
            let mut found = arrived(&listener, &mut batch);
            assert_eq!(found.remove(0), (0, data.to_vec()));
            assert_eq!(found.len() as u32 + dropped, sent);
            assert!(found.iter().all(|(socket, _)| *socket == workers));
        }
    }

    #[test]
    fn the_first_packets_of_two_thousand_clients_fit_in() {
        let (listener, to) = listener(Family::V4, 1);
        let sender = UdpSocket::open(&config(Family::V4)).unwrap();
        for _ in 0..2000 {
            sender
                .send_to(&to, &[wire::HARD_RESET_CLIENT_V2 << 3; 86])
                .unwrap();
        }
        assert_eq!(listener.control.kernel_drops().unwrap(), 0);
    }

    #[test]
    fn a_datagram_tells_its_addresses_and_is_answered_from_the_same() {
        for host in ["127.0.0.1", "::1"] {
            let config = UdpConfig {
                multihome: true,
                ..UdpConfig::new(Family::V6)
            };
            let listener = UdpSocket::open_listener(&config, 2).unwrap();
            let port = listener.control.local_addr().unwrap().port();
            let at = SocketAddr::new(host.parse().unwrap(), port);
            let family = if at.is_ipv4() { Family::V4 } else { Family::V6 };
            let sender = UdpSocket::open(&self::config(family)).unwrap();
            for text in [&b"one"[..], b"two"] {
                sender.send_to(&Endpoint::new(at), text).unwrap();
            }
            let mut batch = Batch::new();
            listener.control.receive(&mut batch).unwrap();
            assert_eq!((batch.len(), batch.is_full()), (2, false));
            for (got, expected) in batch.datagrams().zip([&b"one"[..], b"two"]) {
                let (from, datagram) = got.unwrap();
                assert_eq!(datagram, expected);
                assert_eq!(from.remote, sender.local_addr().unwrap());
                assert_eq!(from.local, Some(at.ip()));
                listener.control.send_to(&from, datagram).unwrap();
            }
            let mut buf = [0; 100];
            let message = sender.receive(&mut buf).unwrap().unwrap();
            assert_eq!(
                (&buf[..message.len], message.from.remote),
                (&b"one"[..], at)
            );
        }
    }

    #[test]
    fn data_glued_to_a_control_packet_comes_here_and_apart() {
        let (listener, to) = listener(Family::V4, 2);
        let sender = UdpSocket::open(&config(Family::V4)).unwrap();
        let (control, data) = ([wire::CONTROL_V1 << 3; 100], [wire::DATA_V2 << 3; 100]);
        let mut head = cmsg::SendHead::new();
        head.set(false, &to, 100, None);
        sender.send(&head, &[control, data].concat()).unwrap();
        let expected = [(2, control.to_vec()), (2, data.to_vec())];
        assert_eq!(arrived(&listener, &mut Batch::new()), expected);
    }

    #[test]
    fn a_datagram_without_room_is_named_and_the_next_one_is_whole() {
        let (listener, to) = listener(Family::V4, 1);
        let sender = UdpSocket::open(&config(Family::V4)).unwrap();
        for len in [MAX_LEN + 1, MAX_LEN] {
            sender.send_to(&to, &vec![0x38; len]).unwrap();
        }
        let mut batch = Batch::new();
        listener.control.receive(&mut batch).unwrap();
        let lens: Vec<_> = batch
            .datagrams()
            .map(|datagram| datagram.map(|(_, bytes)| bytes.len()))
            .collect();
        assert_eq!(lens, [None, Some(MAX_LEN)]);
        listener.control.receive(&mut batch).unwrap();
        assert!(batch.is_empty());
    }

    #[test]
    fn what_a_closed_port_answers_is_read_away() {
        let (listener, _) = listener(Family::V4, 1);
        let closed = UdpSocket::open(&config(Family::V4)).unwrap();
        let to = Endpoint::new(closed.local_addr().unwrap());
        drop(closed);
        let mut batch = Batch::new();
        for _ in 0..3 {
            listener.control.send_to(&to, b"x").unwrap();
            listener.control.receive(&mut batch).unwrap();
            assert!(batch.is_empty() && batch.path_mtus().is_empty());
        }
    }

    #[test]
    fn a_path_mtu_is_reported() {
        in_network_namespace(|| {
            ip("link set lo mtu 1300");
            let config = UdpConfig {
                mtu_disc: Some(udp::MtuDiscovery::Yes),
                ..config(Family::V4)
            };
            let listener = UdpSocket::open_listener(&config, 1).unwrap();
            let to = Endpoint::new("127.0.0.1:9".parse().unwrap());
            assert!(listener.control.send_to(&to, &[0; 1400]).is_err());
            let mut batch = Batch::new();
            listener.control.receive(&mut batch).unwrap();
            let reported = ("127.0.0.1".parse().unwrap(), 1300);
            assert!(batch.path_mtus().contains(&reported), "{batch:?}");
        });
    }
}
