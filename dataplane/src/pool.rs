//! The worker's buffers and the descriptors that point into them.
//!
//! All memory exists at start; a batch only moves descriptors. Sizes follow from what one kernel
//! call can hand over:
//!
//! ```text
//!  receive slab   RX_SLOTS  x SLOT_LEN   one GRO message (<= 65,535 bytes) with its address and control data
//!                 + ASSEMBLY           packets put together from fragments; touched only by peers with it
//!  TUN slab       BATCH_BYTES + SLOT_LEN  super-packets (<= 65,535 bytes) with their virtio headers
//!  stream area    STREAM_AREA            behind the receive slab: what was read from TCP connections
//!  send slab      SEND_SLAB              sealed datagrams of the sends not yet flushed
//! ```

use crate::command::{Endpoint, PeerHandle};
use crate::stream::{MAX_PACKET, PREFIX};

/// Bytes of a slot: a 64 KiB message and room for headers, a multiple of a cache line.
pub(crate) const SLOT_LEN: usize = 66_048;

/// Bytes behind the receive slots, for packets put together from fragments until they are delivered.
pub(crate) const ASSEMBLY: usize = 4 * SLOT_LEN;

/// Receive slots. More than a batch takes, so that the kernel can fill some while others are read.
pub(crate) const RX_SLOTS: u16 = 32;

/// Bytes of plain reads or receives after which no further one joins a batch.
pub(crate) const BATCH_BYTES: usize = 512 * 1024;

/// Bytes taken by one read from a TCP connection.
pub(crate) const STREAM_READ: usize = 128 * 1024;

/// Bytes of what is read from TCP connections before it is delivered: two full reads with the frames
/// that had begun before them. The memory is not touched where there are no connections.
pub(crate) const STREAM_AREA: usize = 2 * (STREAM_READ + PREFIX + MAX_PACKET + 64);

/// Bytes of the send slab: a super-packet with the overhead of its segments, several times over.
/// One datagram of the largest size always fits.
pub(crate) const SEND_SLAB: usize = 512 * 1024;

/// Sends queued before they are flushed.
pub(crate) const MAX_SENDS: usize = 128;

/// Inner packets collected from receive slots before they are written to the TUN device.
pub(crate) const MAX_PACKETS: usize = 1024;

/// Receive messages (or TUN reads) taken in one batch.
pub(crate) const MAX_MESSAGES: usize = 64;

/// Largest UDP payload over IPv4 (RFC 768, RFC 791): 65,535 less 20 and 8.
pub(crate) const MAX_DATAGRAM: usize = 65_507;

/// Most segments of one GSO send that every kernel with UDP GSO takes (128 from Linux 6.9).
pub(crate) const MAX_SEGMENTS: usize = 64;

/// One received message: one datagram, or several of equal size glued together by GRO.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RxMessage {
    /// Buffer to give back, where the engine has numbered ones.
    pub(crate) slot: u16,
    /// Where the payload begins in the receive slab.
    pub(crate) start: usize,
    /// Bytes of payload.
    pub(crate) len: usize,
    /// Bytes of each datagram but the last; 0: one datagram.
    pub(crate) gro_size: usize,
    /// Where it came from.
    pub(crate) from: Endpoint,
}

/// One packet or super-packet on its way to peers: read from the TUN device, or opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TunMessage {
    /// Where the virtio header (or the packet, when there is none) begins in its slab.
    pub(crate) start: usize,
    /// Bytes, virtio header included.
    pub(crate) len: usize,
    /// There is a virtio header. Another queue may be attached by the time this is looked at.
    pub(crate) vnet: bool,
    /// The peer it came from, to whom it does not go back; `None`: from the TUN device.
    pub(crate) from: Option<PeerHandle>,
    /// The VLAN it belongs to; only peers of that one get it.
    pub(crate) vlan: u16,
}

/// One send: a run of sealed datagrams in the send slab.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SendOp {
    /// Where it begins in the send slab.
    pub(crate) start: usize,
    /// Bytes in total.
    pub(crate) len: usize,
    /// Bytes of each datagram but the last; 0: one datagram.
    pub(crate) gso_size: u16,
    /// Outer TOS or traffic class to set.
    pub(crate) tos: Option<u8>,
    /// Where to.
    pub(crate) to: Endpoint,
    /// Index of the peer in the peer table.
    pub(crate) peer: usize,
    /// Index of the TUN message of the batch this came from, for a too-big answer.
    pub(crate) source: Option<usize>,
}

impl SendOp {
    /// How many datagrams it carries.
    pub(crate) fn datagrams(&self) -> usize {
        match self.gso_size {
            0 => 1,
            size => self.len.div_ceil(usize::from(size)),
        }
    }
}

/// What an engine found at one wait.
#[derive(Debug)]
pub(crate) struct Inbox {
    /// Received messages, oldest first.
    pub(crate) rx: Vec<RxMessage>,
    /// TUN reads, oldest first.
    pub(crate) tun: Vec<TunMessage>,
    /// The socket's error queue may hold something.
    pub(crate) socket_error: bool,
    /// TCP connections have something to read, or room to write.
    pub(crate) streams: bool,
    /// The TUN device went away (its errno).
    pub(crate) tun_lost: Option<i32>,
    /// Receive calls made, for the statistics.
    pub(crate) rx_calls: u64,
    /// Feature fall-backs to report; bounded by the number of features.
    pub(crate) notices: Vec<String>,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Inbox {
            rx: Vec::with_capacity(MAX_MESSAGES),
            tun: Vec::with_capacity(MAX_MESSAGES),
            socket_error: false,
            streams: false,
            tun_lost: None,
            rx_calls: 0,
            notices: Vec::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rx.is_empty()
            && self.tun.is_empty()
            && !self.socket_error
            && !self.streams
            && self.tun_lost.is_none()
    }

    pub(crate) fn clear(&mut self) {
        self.rx.clear();
        self.tun.clear();
        self.socket_error = false;
        self.streams = false;
        self.tun_lost = None;
        self.rx_calls = 0;
    }
}

/// What a flush could not do.
#[derive(Debug)]
pub(crate) struct Failures {
    /// Index of the send and its errno.
    pub(crate) sends: Vec<(usize, i32)>,
    /// Index of the TUN write and its errno.
    pub(crate) writes: Vec<(usize, i32)>,
}

impl Failures {
    pub(crate) fn new() -> Self {
        Failures {
            sends: Vec::with_capacity(MAX_SENDS),
            writes: Vec::with_capacity(MAX_PACKETS),
        }
    }
}
