//! TUN to wire: from a super-packet to GSO sends, and what to do when the kernel refuses one.
//!
//! ```text
//!  send slab  | datagram | datagram | datagram | short |  | datagram |   |
//!             |<------------- group, one GSO send ---->|  |<- next ->|
//!             stride = sealed length of a full segment
//! ```
//!
//! A group holds datagrams of one peer and one outer TOS, all as long as the first but the last. It is
//! closed (sealed and queued) when the next one does not fit in, and at the end of the batch.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::Shared;
use super::engine::Engine;
use super::receive::write_one;
use crate::cipher::Segment;
use crate::command::{Endpoint, PeerHandle};
use crate::error::DropReason;
use crate::frame;
use crate::icmp;
use crate::ip::{self, IpView};
use crate::key_slot::SendKey;
use crate::mss;
use crate::offload::split;
use crate::offload::vnet_hdr::VnetHdr;
use crate::peer::PeerTable;
use crate::pool::{Failures, MAX_DATAGRAM, MAX_SEGMENTS, MAX_SENDS, SEND_SLAB, SendOp, TunMessage};
use crate::sys::cmsg::SendHead;
use crate::udp;

/// Sealed bytes after which sends are flushed, so that they are still in the cache.
const FLUSH_BYTES: usize = 192 * 1024;

/// How long a full socket buffer is waited for, once per flush. Longer would stall the other
/// direction; without it, inner TCP would see losses where a pause is enough.
const SEND_PATIENCE: Duration = Duration::from_millis(1);

/// Seconds for which datagrams that GSO refused for their size stay out of GSO.
const GSO_LIMIT_LIFETIME: u32 = 60;

/// No IPv6 link is smaller, so a GSO send of smaller datagrams is not refused for their size.
const SMALLEST_MTU: usize = 1280;

/// Entries of the error queue read at once.
const MAX_ERRORS: usize = 64;

/// What the stages work on.
pub(super) struct Stage<'a> {
    pub(super) engine: &'a mut Engine,
    pub(super) peers: &'a mut PeerTable,
    pub(super) failures: &'a mut Failures,
    pub(super) shared: &'a mut Shared,
    /// Packets read from TUN: in this batch, or by another worker.
    pub(super) sources: &'a [TunMessage],
    /// What they point into when another worker read them; the engine's TUN slab otherwise.
    pub(super) handed_over: Option<&'a mut [u8]>,
}

impl Stage<'_> {
    fn tun_bytes(&mut self) -> &mut [u8] {
        match &mut self.handed_over {
            Some(bytes) => bytes,
            None => self.engine.tun_bytes_mut(),
        }
    }
}

/// Stages 3, 6 and 7.
pub(super) struct Transmit {
    slab: Vec<u8>,
    /// First free byte of the slab.
    cursor: usize,
    ops: Vec<SendOp>,
    /// Segments of the open group, sealed when it closes.
    segments: Vec<Segment>,
    group: Group,
    gso: bool,
}

/// The open group; it is open while there are segments.
#[derive(Clone, Copy, Default)]
struct Group {
    peer: usize,
    stride: usize,
    /// Most segments it may take.
    max: usize,
    tos: Option<u8>,
    source: Option<usize>,
}

impl Transmit {
    pub(super) fn new(gso: bool) -> Self {
        Transmit {
            slab: vec![0; SEND_SLAB],
            cursor: 0,
            ops: Vec::with_capacity(MAX_SENDS),
            segments: Vec::with_capacity(MAX_SEGMENTS),
            group: Group::default(),
            gso,
        }
    }

    /// Splits and places the `source`th TUN read of the batch; what completes a group is sealed.
    pub(super) fn packet(&mut self, source: usize, stage: &mut Stage<'_>) {
        if let Err(reason) = self.place(source, stage) {
            stage.shared.counts.drop(reason, 1);
        }
    }

    /// Seals one payload that does not come from TUN.
    pub(super) fn payload(&mut self, handle: PeerHandle, payload: &[u8], stage: &mut Stage<'_>) {
        self.close(stage);
        let Some(index) = stage.peers.index_of(handle) else {
            return;
        };
        let sealed = stage
            .peers
            .get(index)
            .and_then(|peer| peer.keys.sender())
            .map(|key| (key.sealed_len(payload.len()), key.headroom()));
        let Some((sealed, headroom)) = sealed else {
            stage.shared.counts.drop(DropReason::NoKey, 1);
            return;
        };
        if sealed > MAX_DATAGRAM {
            stage.shared.counts.drop(DropReason::TooBig, 1);
            return;
        }
        self.reserve(sealed, stage);
        self.group = Group {
            peer: index,
            stride: sealed,
            max: 1,
            tos: None,
            source: None,
        };
        let at = self.cursor + headroom;
        self.slab[at..at + payload.len()].copy_from_slice(payload);
        self.add(payload.len(), sealed);
        self.close(stage);
    }

    /// Closes the group and sends everything.
    pub(super) fn flush(&mut self, stage: &mut Stage<'_>) {
        self.close(stage);
        if self.ops.is_empty() {
            return;
        }
        stage.failures.sends.clear();
        stage
            .shared
            .udp
            .send_all(&self.slab[..self.cursor], &self.ops, stage.failures);
        stage.shared.counts.udp_tx_calls += self.ops.len() as u64;
        let mut patience = true;
        stage.failures.sends.sort_unstable();
        for index in 0..stage.failures.sends.len() {
            let (op, errno) = stage.failures.sends[index];
            if let Some(&op) = self.ops.get(op) {
                self.retry(&op, errno, &mut patience, stage);
            }
        }
        self.ops.clear();
        self.cursor = 0;
    }

    /// Empties the socket's error queue and learns path MTUs from it. An error may end up at any
    /// socket of a group, so the other workers hear of it too.
    pub(super) fn read_errors(&mut self, peers: &mut PeerTable, shared: &mut Shared) {
        for _ in 0..MAX_ERRORS {
            let Some((about, errno, detail)) = shared.udp.next_error() else {
                return;
            };
            if errno != libc::EMSGSIZE {
                continue;
            }
            // Our own host's errors name no port, and a path belongs to an address anyway.
            let Some(about) = about.map(|address: SocketAddr| address.ip()) else {
                continue;
            };
            shared.handover.path_mtu(about, detail);
            learn_path_mtu(about, detail, peers, shared);
        }
    }

    /// The body of [`Transmit::packet`].
    fn place(&mut self, source: usize, stage: &mut Stage<'_>) -> Result<(), DropReason> {
        let message = stage.sources[source];
        let own = stage.handed_over.is_none();
        let bytes = match &mut stage.handed_over {
            Some(bytes) => &mut **bytes,
            None => stage.engine.tun_bytes_mut(),
        };
        let bytes = &mut bytes[message.start..message.start + message.len];
        let (header, packet) = split_header(bytes, message.vnet).ok_or(DropReason::BadOffload)?;
        let offset = message.len - packet.len();
        let link = frame::link_len(stage.shared.kind, packet);
        let Some(index) = stage.peers.route(packet) else {
            return Err(DropReason::NoRoute);
        };
        let Some(peer) = stage.peers.get(index) else {
            return Err(DropReason::NoRoute);
        };
        let config = &peer.config;
        if !peer.halves.send {
            // What was handed over once stays here.
            let whole = &stage.engine.tun_bytes_mut()[message.start..][..message.len];
            let taken = own
                && stage
                    .shared
                    .handover
                    .tun(config.roles.send, whole, message.vnet);
            return match taken {
                true => Ok(()),
                false => Err(DropReason::HandoverFull),
            };
        }
        if config.guard_recursion
            && ip::destination(&packet[link..]) == Some(config.endpoint.remote.ip().to_canonical())
        {
            return Err(DropReason::RecursiveRouting);
        }
        let Some(key) = peer.keys.sender() else {
            return Err(DropReason::NoRoute);
        };
        if config.block_ipv6 && ip::version(&packet[link..]) == Some(6) {
            let mut answer = [0; icmp::MAX_LEN];
            let written = icmp::no_route_at(inner(&message, stage), link, &mut answer);
            reply(&answer, written, stage.engine);
            return Err(DropReason::BlockedIpv6);
        }
        let partial = header.flags & VnetHdr::NEEDS_CSUM != 0;
        mss::clamp(&mut packet[link..], peer.mss_v4, peer.mss_v6, partial);
        let tos = match config.passtos {
            true => IpView::parse(&packet[link..]).map(|ip| ip.traffic_class()),
            false => None,
        };
        let fit = usize::from(config.segment_to).min(peer.gso_limit);
        let resegmented = match config.segment_to {
            0 => None,
            _ => split::resegment(&header, packet, link, key.max_inner(fit)),
        };
        let plan = split::plan_at(&resegmented.unwrap_or(header), packet, link)?;
        let headroom = key.headroom();
        let stride = key.sealed_len(plan.len_of(0));
        if stride > peer.datagram_limit {
            let mtu = largest_inner(key, peer.datagram_limit, link);
            answer_too_big(&message, mtu, stage);
            stage
                .shared
                .counts
                .drop(DropReason::TooBig, plan.count() - 1);
            return Err(DropReason::TooBig);
        }
        let last = key.sealed_len(plan.len_of(plan.count() - 1));
        let mut hint = None;
        if stride > peer.gso_limit && IpView::parse(&packet[link..]).is_some_and(|ip| ip.is_tcp()) {
            // The kernel fragments what is larger than the path, as for any OpenVPN peer, but that
            // is slow and not every path lets fragments through.
            let mtu = largest_inner(key, peer.gso_limit, link);
            hint = peer.may_hint(stage.shared.now).then_some(mtu);
        }
        let per_send = match self.gso && stride <= peer.gso_limit {
            true => (MAX_DATAGRAM / stride).clamp(1, MAX_SEGMENTS),
            false => 1,
        };
        let mut max = per_send;
        let joins = self.accepts(index, tos, stride)
            && self.segments.len() + plan.count() <= self.group.max;
        if !joins {
            self.close(stage);
            // Several sends of about the same size rather than full ones and a rest.
            max = plan.count().div_ceil(plan.count().div_ceil(per_send));
        }

        let mut inner_bytes = 0;
        for i in 0..plan.count() {
            let len = plan.len_of(i);
            let sealed = if i + 1 == plan.count() { last } else { stride };
            if !self.accepts(index, tos, sealed) {
                self.close(stage);
            }
            self.reserve(sealed, stage);
            if self.segments.is_empty() {
                self.group = Group {
                    peer: index,
                    stride: sealed,
                    max,
                    tos,
                    source: Some(source),
                };
            }
            let packet = &stage.tun_bytes()[message.start + offset..][..message.len - offset];
            let at = self.cursor + headroom;
            plan.write(packet, i, &mut self.slab[at..at + len]);
            inner_bytes += len;
            self.add(len, sealed);
        }
        if let Some(mtu) = hint {
            answer_too_big(&message, mtu, stage);
        }
        // What follows may fill the rest of the last group.
        self.group.max = per_send;
        if let Some(peer) = stage.peers.get(index) {
            peer.sums.tun_rx_bytes += inner_bytes as u64;
        }
        if self.cursor >= FLUSH_BYTES {
            self.flush(stage);
        }
        Ok(())
    }

    /// Whether a datagram of `sealed` bytes can be the next one of the open group.
    fn accepts(&self, peer: usize, tos: Option<u8>, sealed: usize) -> bool {
        let Some(last) = self.segments.last() else {
            return false;
        };
        let group = &self.group;
        group.peer == peer
            && group.tos == tos
            && sealed <= group.stride
            // The one before is a full one: only the last may be shorter.
            && self.cursor - last.start == group.stride
            && self.segments.len() < group.max
    }

    /// Notes the datagram just written at the cursor.
    fn add(&mut self, len: usize, sealed: usize) {
        self.segments.push(Segment {
            start: self.cursor,
            len,
        });
        self.cursor += sealed;
    }

    /// Makes room for one more datagram behind the cursor, keeping an open group in one piece.
    fn reserve(&mut self, sealed: usize, stage: &mut Stage<'_>) {
        if self.cursor + sealed > self.slab.len() || self.ops.len() + 1 >= MAX_SENDS {
            self.flush(stage);
        }
    }

    /// Seals the open group and queues it.
    fn close(&mut self, stage: &mut Stage<'_>) {
        let Some(first) = self.segments.first() else {
            return;
        };
        let start = first.start;
        let count = self.segments.len();
        let group = self.group;
        let sealed = stage
            .peers
            .get(group.peer)
            .and_then(|peer| peer.keys.sender())
            .map_or(0, |key| key.seal(&mut self.slab, &self.segments));
        if sealed < count {
            stage
                .shared
                .counts
                .drop(DropReason::KeyExhausted, count - sealed);
            // Where the first unsealed one begins is where the last sealed one ends.
            self.cursor = self.segments[sealed].start;
        }
        self.segments.clear();
        let Some(peer) = stage.peers.get(group.peer) else {
            return;
        };
        if sealed == 0 {
            return;
        }
        let len = self.cursor - start;
        peer.count_sent(len, sealed);
        self.ops.push(SendOp {
            start,
            len,
            // A stride is at most MAX_DATAGRAM, which fits.
            gso_size: if sealed > 1 { group.stride as u16 } else { 0 },
            tos: group.tos,
            to: peer.config.endpoint,
            peer: group.peer,
            source: group.source,
        });
    }

    /// A send was refused, or not tried because one before it was: try again in a form that the
    /// kernel may take, or count the loss.
    fn retry(&mut self, op: &SendOp, errno: i32, patience: &mut bool, stage: &mut Stage<'_>) {
        let mut errno = errno;
        if errno == libc::ECANCELED {
            match self.send_part(op, op.start, op.len, op.gso_size, stage) {
                Ok(()) => return,
                Err(first) => errno = first,
            }
        }
        if errno == libc::EAGAIN && std::mem::take(patience) {
            stage.shared.udp.wait_writable(SEND_PATIENCE);
        }
        if udp::is_pending_error(Some(errno)) || errno == libc::EAGAIN {
            if errno != libc::EAGAIN {
                self.read_errors(stage.peers, stage.shared);
            }
            match self.send_part(op, op.start, op.len, op.gso_size, stage) {
                Ok(()) => return,
                Err(again) => errno = again,
            }
        }
        match self.without_local_address(op, errno, stage) {
            Some(Ok(())) => return,
            Some(Err(again)) => errno = again,
            None => {}
        }
        let size_or_feature = matches!(errno, libc::EMSGSIZE | libc::EINVAL | libc::EIO);
        if op.gso_size == 0 || !size_or_feature {
            self.lose(op, errno, op.datagrams(), stage);
            return;
        }
        // One by one, and let the outcome tell whether GSO or the size was refused.
        let mut op = *op;
        let stride = usize::from(op.gso_size);
        let mut sent = 0;
        let mut at = op.start;
        while at < op.start + op.len {
            let len = stride.min(op.start + op.len - at);
            match self.send_part(&op, at, len, 0, stage) {
                Ok(()) => sent += 1,
                Err(errno) => {
                    if self.lose(&op, errno, 1, stage) {
                        // One answer is enough for all segments of a super-packet.
                        op.source = None;
                    }
                }
            }
            at += len;
        }
        if sent > 0 {
            self.give_up_gso(op.peer, stride, errno, stage);
        }
    }

    /// The address that the peer sent to may be ours no more: leaves the choice to the kernel, until
    /// the peer is heard again, if that is what helps. `None` when the error has another cause.
    fn without_local_address(
        &mut self,
        op: &SendOp,
        errno: i32,
        stage: &mut Stage<'_>,
    ) -> Option<Result<(), i32>> {
        let suspect = matches!(
            errno,
            libc::EINVAL
                | libc::EADDRNOTAVAIL
                | libc::ENODEV
                | libc::ENETUNREACH
                | libc::EHOSTUNREACH
        );
        if op.to.local.is_none() || !suspect {
            return None;
        }
        let to = Endpoint::new(op.to.remote);
        let result = self.send_part(&SendOp { to, ..*op }, op.start, op.len, op.gso_size, stage);
        if result.is_ok()
            && let Some(peer) = stage.peers.get(op.peer)
            && peer.config.endpoint == op.to
        {
            peer.config.endpoint = to;
        }
        Some(result)
    }

    /// Single datagrams passed where a GSO send of them did not.
    fn give_up_gso(&mut self, peer: usize, stride: usize, errno: i32, stage: &mut Stage<'_>) {
        let now = stage.shared.now;
        let Some(peer) = stage.peers.get(peer) else {
            return;
        };
        if errno != libc::EIO && stride + peer.outer_headers() > SMALLEST_MTU {
            // The kernel does not fragment GSO sends.
            if peer.gso_limit >= stride {
                peer.limit_gso(stride, now, GSO_LIMIT_LIFETIME);
                stage.shared.counts.fallbacks += 1;
            }
        } else if std::mem::take(&mut self.gso) {
            let error = io::Error::from_raw_os_error(errno);
            stage.shared.fall_back(format!(
                "UDP segmentation offload failed ({error}); sending datagrams one by one"
            ));
        }
    }

    fn send_part(
        &self,
        op: &SendOp,
        start: usize,
        len: usize,
        gso_size: u16,
        stage: &mut Stage<'_>,
    ) -> Result<(), i32> {
        let shared = &mut *stage.shared;
        let mut head = SendHead::new();
        head.set(shared.udp.is_v6(), &op.to, gso_size, op.tos);
        shared.counts.udp_tx_calls += 1;
        shared
            .udp
            .send(&head, &self.slab[start..start + len])
            .map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))
    }

    /// Counts datagrams the kernel would not send; tells the inside when they were too large.
    /// Returns whether it was told.
    fn lose(&mut self, op: &SendOp, errno: i32, datagrams: usize, stage: &mut Stage<'_>) -> bool {
        let reason = match errno {
            libc::EAGAIN | libc::ENOBUFS => DropReason::QueueFull,
            libc::EMSGSIZE => DropReason::TooBig,
            _ => DropReason::IoError,
        };
        stage.shared.counts.drop(reason, datagrams);
        if reason != DropReason::TooBig {
            return false;
        }
        self.read_errors(stage.peers, stage.shared);
        let source = op.source.and_then(|index| stage.sources.get(index));
        let Some(&message) = source else {
            return false;
        };
        let Some(peer) = stage.peers.get(op.peer) else {
            return false;
        };
        let limit = peer.datagram_limit;
        if limit == MAX_DATAGRAM {
            return false;
        }
        let link = frame::link_len(stage.shared.kind, inner(&message, stage));
        let Some(key) = stage.peers.get(op.peer).and_then(|peer| peer.keys.sender()) else {
            return false;
        };
        let mtu = largest_inner(key, limit, link);
        answer_too_big(&message, mtu, stage);
        true
    }
}

/// Takes in a path MTU that the kernel reported.
pub(super) fn learn_path_mtu(about: IpAddr, mtu: u32, peers: &mut PeerTable, shared: &mut Shared) {
    let refuses = shared.udp.refuses_fragments();
    if let Some(mtu) = peers.set_path_mtu(about, mtu, refuses, shared.now) {
        shared.notice(format!("the path MTU to {about} is {mtu} now"));
    }
}

/// Separates the virtio header, if there is one, from the packet behind it.
fn split_header(bytes: &mut [u8], vnet: bool) -> Option<(VnetHdr, &mut [u8])> {
    if !vnet {
        return Some((VnetHdr::default(), bytes));
    }
    let (header, packet) = bytes.split_at_mut_checked(VnetHdr::LEN)?;
    Some((VnetHdr::read(header)?, packet))
}

/// The largest IP packet whose datagram has at most `limit` bytes when `link` bytes are in front of it.
fn largest_inner(key: &SendKey, limit: usize, link: usize) -> u16 {
    u16::try_from(key.max_inner(limit).saturating_sub(link)).unwrap_or(u16::MAX)
}

/// Tells the sender of a packet from TUN that it was too large.
fn answer_too_big(message: &TunMessage, mtu: u16, stage: &mut Stage<'_>) {
    let mut answer = [0; icmp::MAX_LEN];
    let kind = stage.shared.kind;
    let packet = inner(message, stage);
    let written = icmp::too_big_at(packet, frame::link_len(kind, packet), mtu, &mut answer);
    reply(&answer, written, stage.engine);
}

/// The packet of a TUN read, without the virtio header.
fn inner<'a>(message: &TunMessage, stage: &'a mut Stage<'_>) -> &'a [u8] {
    let header = if message.vnet { VnetHdr::LEN } else { 0 };
    let end = message.start + message.len;
    &stage.tun_bytes()[end.min(message.start + header)..end]
}

/// Hands the first bytes of `answer` to the TUN device, if there are to be any.
fn reply(answer: &[u8; icmp::MAX_LEN], written: Option<usize>, engine: &Engine) {
    let Some(len) = written else {
        return;
    };
    // Best effort, like every ICMP message.
    let _ = write_one(engine, &answer[..len]);
}
