//! Messages between the control thread and a worker.
//!
//! Both queues are bounded. A worker drains its commands once per batch, so a command takes effect
//! between two batches and never in the middle of one.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;

use crossbeam::channel::Sender;

use crate::forward::mac_table::Station;
use crate::forward::vlan::DevicePort;
use crate::fragment::Fragment;
use crate::framing::Framing;
use crate::key_slot::DataKeys;
use crate::stats::PeerStats;
use crate::tun::TunQueue;

/// A worker's handle for a peer, chosen by the control thread; not the peer-id on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerHandle(pub u32);

/// Which workers of a group hold the two halves of a session; see [`crate::worker::Workers`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// The one that seals and sends.
    pub send: u16,
    /// The one that opens what is received.
    pub receive: u16,
}

/// A worker's handle for a TCP connection, chosen by the control thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u32);

/// Where a datagram goes to or came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The far address.
    pub remote: SocketAddr,
    /// The local address to send from (`multihome`), or that a datagram was received on.
    pub local: Option<IpAddr>,
    /// Interface index belonging to `local`; 0 lets the kernel choose.
    pub ifindex: u32,
    /// The TCP connection it takes; a UDP socket when `None`.
    pub stream: Option<StreamId>,
}

impl Endpoint {
    /// An endpoint whose local address is the kernel's choice.
    pub fn new(remote: SocketAddr) -> Self {
        Endpoint {
            remote,
            local: None,
            ifindex: 0,
            stream: None,
        }
    }
}

/// A network inside the tunnel: all addresses whose first `bits` bits are those of `address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// Any address of the network.
    pub address: IpAddr,
    /// Length of the prefix, 0 to 32 or 128.
    pub bits: u8,
}

/// Which peers packets go to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarding {
    /// Between the device and the only peer there is.
    #[default]
    PointToPoint,
    /// IP packets by the longest prefix ([`Command::AddRoute`]), multicast to every peer. A packet from
    /// a peer must have a source address of that peer.
    Routed {
        /// Packets from peer to peer, and multicast from a peer to the others, do not need the kernel;
        /// without it everything from a peer goes to the device.
        client_to_client: bool,
    },
    /// Ethernet frames by hardware address, learned from what peers send: a switch.
    Switched {
        /// Frames from peer to peer do not need the kernel, and broadcasts reach the other peers too;
        /// without it everything from a peer goes to the device.
        client_to_client: bool,
        /// An address is not used before [`Command::AdmitStation`].
        ask_first: bool,
        /// `vlan-tagging`: how the device takes part.
        vlan: Option<DevicePort>,
    },
}

/// What a peer of a switch may send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// The VLAN its frames belong to; [`crate::forward::vlan::NONE`] without `vlan-tagging`.
    pub vlan: u16,
    /// How many hardware addresses may be behind it.
    pub stations: u32,
}

/// What a worker must know of a peer besides its keys.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// Where its packets go.
    pub endpoint: Endpoint,
    /// Accept authenticated packets from other addresses and follow them (`float` in server mode).
    /// In [`Forwarding::Routed`] never onto the address of another peer.
    pub float: bool,
    /// Peer-id to write into DATA_V2 headers; `None` sends DATA_V1.
    pub tx_peer_id: Option<u32>,
    /// Peer-id that selects this peer on receive; `None` matches by source address only.
    pub rx_peer_id: Option<u32>,
    /// Compression framing agreed with the peer.
    pub framing: Framing,
    /// Cuts what is larger than a datagram may be, and puts it together (`fragment`).
    pub fragment: Option<Fragment>,
    /// Largest MSS allowed in a SYN for IPv4 and IPv6; 0 leaves SYNs alone.
    pub mss_v4: u16,
    /// See `mss_v4`.
    pub mss_v6: u16,
    /// Largest datagram, in bytes of UDP payload, that the path takes whole. TCP from TUN is cut so
    /// that its datagrams fit, whatever segment size it came with. 0 leaves it as it is.
    pub segment_to: u16,
    /// Replay window in packets (`replay-window n`); 0 accepts only strictly increasing ids.
    pub replay_window: u32,
    /// Seconds after which a packet in the window is too old (`replay-window n t`).
    pub replay_time: u32,
    /// Copy the inner TOS / traffic class to the outer header (`passtos`).
    pub passtos: bool,
    /// Drop packets from TUN whose destination is the peer's own outer address.
    pub guard_recursion: bool,
    /// Answer IPv6 packets from TUN with "no route" and drop them (`block-ipv6`).
    pub block_ipv6: bool,
    /// By which listener the peer came; see [`crate::worker::WorkerOptions::listeners`].
    pub listener: u16,
    /// Which workers hold the session's halves; a group of workers fills this in.
    pub roles: Roles,
    /// Counters to publish into.
    pub stats: Arc<PeerStats>,
}

/// How a TCP connection is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamConfig {
    /// Data packets that may wait while the socket is full (`tcp-queue-limit`); more are dropped and
    /// counted.
    pub queue_limit: usize,
    /// Longest packet in bytes, either way, without its length; up to 65,535. A longer one from the
    /// peer ends the connection, and none is sent: the peer would do the same.
    pub max_packet: usize,
}

/// Why a TCP connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// [`Command::CloseStream`] asked for it.
    Closed,
    /// The peer closed it.
    EndOfFile,
    /// The peer, or its host, reset it.
    Reset,
    /// A length of 0, or beyond [`StreamConfig::max_packet`]: there is no way to read on.
    BadFrame,
    /// A packet of no known kind, or one that did not authenticate or was seen before: what comes
    /// from there is not the peer's (protocol §2.8).
    BadPacket,
    /// The kernel's errno while reading, writing or taking the connection over.
    Io(i32),
}

/// From the control thread to a worker.
#[derive(Debug)]
pub enum Command {
    /// Adds a peer without keys, or replaces the configuration of a known one and keeps its keys.
    SetPeer(PeerHandle, Box<PeerConfig>),
    /// Forgets a peer, its keys and routes included.
    RemovePeer(PeerHandle),
    /// Installs a key for receiving; packets under its `key_id` are accepted from now on. A key in
    /// the slot of the same `key_id` is replaced. A worker keeps only the halves its role needs.
    InstallKey(PeerHandle, u8, Box<DataKeys>),
    /// Sends with this installed key from now on.
    UseKey(PeerHandle, u8),
    /// Forgets a key, for sending and receiving.
    RemoveKey(PeerHandle, u8),
    /// How packets are forwarded from now on. The workers of a group hold sessions differently in each
    /// mode, so it comes before the device and before any peer.
    SetForwarding(Forwarding),
    /// Gives a prefix to a known peer, whoever had it before.
    AddRoute(PeerHandle, Prefix),
    /// Takes a prefix away from a peer; nothing happens when it is not that peer's.
    RemoveRoute(PeerHandle, Prefix),
    /// Makes a known peer a port of the switch ([`Forwarding::Switched`]): no frame of its is taken
    /// before. With another VLAN than before its addresses are forgotten.
    SetPort(PeerHandle, Port),
    /// A peer may have an address of which [`Event::Learned`] told.
    AdmitStation(PeerHandle, Station),
    /// Forgets the addresses that have not been heard for so many seconds; [`Event::Forgotten`] tells of
    /// each.
    ForgetStations(u32),
    /// Seals and sends one payload (a ping, an OCC message) as a data packet.
    SendPayload(PeerHandle, Vec<u8>),
    /// A data packet that arrived at the control socket of this listener: handled like one that a worker
    /// received itself.
    Datagram(u16, Endpoint, Box<[u8]>),
    /// The MTU of the path to an address, in bytes, as the kernel reported it to another socket.
    PathMtu(IpAddr, u32),
    /// Reads from and writes to this TUN queue from now on, instead of any earlier one.
    AttachTun(TunQueue),
    /// Closes the TUN queue; inner packets are dropped until another is attached.
    DetachTun,
    /// Takes a connected TCP socket over, under an id that no connection has that has not been
    /// reported with [`Event::StreamClosed`]. Control packets from it are events from now on;
    /// it carries the data of the peer whose endpoint names it. It is made non-blocking, and what is
    /// written leaves at once (TCP_NODELAY).
    AddStream(StreamId, TcpStream, StreamConfig),
    /// Sends a control packet, in one piece with its length, behind all that was sent before. While
    /// the socket is full it waits, not counted against the limit for data; of very many the last
    /// are dropped and counted. Nothing happens if the connection has ended.
    SendControl(StreamId, Vec<u8>),
    /// Ends a connection once all that waits has left and the peer has seen it, or after five
    /// seconds. What arrives meanwhile is ignored.
    CloseStream(StreamId),
    /// Says when everything before it is done.
    Barrier(Sender<()>),
    /// Stops the worker; its thread ends after the current batch.
    Stop,
}

/// From a worker to the control thread.
#[derive(Debug)]
pub enum Event {
    /// A packet that is no data packet.
    Control {
        /// The listener of the worker that received it; nothing that counts for a TCP connection.
        listener: u16,
        /// Where it came from.
        from: Endpoint,
        /// The UDP payload, or the packet in a TCP stream; at least one byte.
        datagram: Box<[u8]>,
    },
    /// An authenticated OCC message from a peer (from a client only [`OCC_EXIT`](crate::wire::OCC_EXIT)):
    /// op and data without the magic prefix
    /// (protocol §7.8).
    Occ(PeerHandle, Box<[u8]>),
    /// An authenticated packet arrived from a new address and the peer's endpoint followed it.
    Floated(PeerHandle, Endpoint),
    /// An authenticated packet of this peer arrived from an address that another peer has, and was
    /// dropped; at most once a second for each peer. When the other one is removed, or has moved, the
    /// next packet moves this peer there.
    FloatConflict(PeerHandle, Endpoint),
    /// A peer of a switch sent a frame from an address that is new, or was another's.
    Learned {
        /// The peer.
        peer: PeerHandle,
        /// The address.
        station: Station,
        /// An address that this peer lost for it, because it may not have more.
        replaced: Option<Station>,
    },
    /// An address has not been heard for long enough ([`Command::ForgetStations`]).
    Forgotten(PeerHandle, Station),
    /// A TCP connection has ended: the last of its events, exactly one for each that was added,
    /// unless the worker ends first. Its id may be used again.
    StreamClosed(StreamId, StreamEnd),
    /// A kernel feature failed and its fallback took over, or something else worth one log line.
    Notice(String),
    /// The worker cannot go on; its thread has ended.
    Failed(String),
}
