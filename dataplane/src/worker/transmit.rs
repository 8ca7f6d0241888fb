//! To the wire: from a super-packet to GSO sends, and what to do when the kernel refuses one.
//!
//! ```text
//!  send slab  | datagram | datagram | datagram | short |  | datagram |   |
//!             |<------------- group, one GSO send ---->|  |<- next ->|
//!             stride = sealed length of a full segment
//! ```
//!
//! In front of each packet for a TCP connection stands its length. As nothing cuts those apart but the
//! lengths, a group of them may hold packets of any size, and all of a flush leave by one write.
//!
//! A group holds datagrams of one peer and one outer TOS, all as long as the first but the last. It is
//! closed (sealed and queued) when the next one does not fit in, and at the end of the batch.

mod fragmented;
mod refused;

use std::net::{IpAddr, SocketAddr};

use super::engine::Engine;
use super::receive::write_one;
use super::streams;
use super::{Counts, Shared};
use crate::cipher::Segment;
use crate::command::{Endpoint, PeerHandle};
use crate::error::DropReason;
use crate::forward::Destination;
use crate::forward::vlan::{self, DevicePort};
use crate::frame;
use crate::icmp;
use crate::ip::{self, IpView};
use crate::mss;
use crate::offload::split;
use crate::offload::vnet_hdr::VnetHdr;
use crate::peer::PeerTable;
use crate::pool::{Failures, MAX_DATAGRAM, MAX_SEGMENTS, MAX_SENDS, SEND_SLAB, SendOp, TunMessage};
use crate::stream::{self, PREFIX};

/// Sealed bytes after which sends are flushed, so that they are still in the cache.
const FLUSH_BYTES: usize = 192 * 1024;

/// Entries of the error queue read at once.
const MAX_ERRORS: usize = 64;

/// What the stages work on.
pub(super) struct Stage<'a> {
    pub(super) engine: &'a mut Engine,
    pub(super) peers: &'a mut PeerTable,
    pub(super) failures: &'a mut Failures,
    pub(super) shared: &'a mut Shared,
    /// Packets for peers.
    pub(super) sources: &'a [TunMessage],
    /// What they point into.
    pub(super) slab: Slab<'a>,
}

/// Where packets for peers are.
pub(super) enum Slab<'a> {
    /// Where the engine reads the device.
    Device,
    /// Where the engine receives: packets that peers send each other.
    Receive,
    /// In a batch of another worker, as datagrams that were opened here.
    Opened(&'a mut [u8]),
    /// In a batch of another worker, which found out that their peer is here.
    HandedOver(&'a mut [u8]),
}

impl Stage<'_> {
    fn bytes(&mut self) -> &mut [u8] {
        match &mut self.slab {
            Slab::Device => self.engine.tun_bytes_mut(),
            Slab::Receive => self.engine.rx_bytes_mut(),
            Slab::Opened(bytes) | Slab::HandedOver(bytes) => bytes,
        }
    }

    /// Hands a packet to another worker. What was handed over once stays here.
    fn hand_over(&mut self, worker: u16, message: &TunMessage) -> Result<(), DropReason> {
        let bytes = match &mut self.slab {
            Slab::Device => self.engine.tun_bytes_mut(),
            Slab::Receive => self.engine.rx_bytes_mut(),
            Slab::Opened(bytes) => bytes,
            Slab::HandedOver(_) => return Err(DropReason::HandoverFull),
        };
        let whole = &bytes[message.start..][..message.len];
        match self.shared.handover.tun(worker, whole, message) {
            true => Ok(()),
            false => Err(DropReason::HandoverFull),
        }
    }
}

/// Stages 3, 6 and 7.
pub(super) struct Transmit {
    slab: Vec<u8>,
    /// Where a packet is framed before it is cut into fragments.
    scratch: Vec<u8>,
    /// First free byte of the slab.
    cursor: usize,
    ops: Vec<SendOp>,
    /// Frames for TCP connections.
    runs: Vec<streams::Run>,
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
    /// Bytes in front of each packet: its length, if it goes into a stream.
    prefix: usize,
}

impl Transmit {
    pub(super) fn new(gso: bool) -> Self {
        Transmit {
            slab: vec![0; SEND_SLAB],
            scratch: vec![0; fragmented::SCRATCH_LEN],
            cursor: 0,
            ops: Vec::with_capacity(MAX_SENDS),
            runs: Vec::with_capacity(MAX_SENDS),
            segments: Vec::with_capacity(MAX_SEGMENTS),
            group: Group::default(),
            gso,
        }
    }

    /// Sends all packets of the stage to their peers, or hands them to the workers of those.
    pub(super) fn packets(&mut self, stage: &mut Stage<'_>) {
        for source in 0..stage.sources.len() {
            if let Err(reason) = self.forward(source, stage) {
                stage.shared.counts.drop(reason, 1);
            }
        }
        self.flush(stage);
    }

    /// Seals one payload that does not come from TUN.
    pub(super) fn payload(&mut self, handle: PeerHandle, payload: &[u8], stage: &mut Stage<'_>) {
        self.close(stage);
        let Some(index) = stage.peers.index_of(handle) else {
            return;
        };
        let Some(peer) = stage.peers.get(index) else {
            return;
        };
        if peer.cutter.is_some() {
            if let Err(reason) = self.payload_fragmented(index, payload, stage) {
                stage.shared.counts.drop(reason, 1);
            }
            return;
        }
        let prefix = prefix(&peer.config.endpoint);
        let limit = match limit(&peer.config.endpoint, MAX_DATAGRAM, stage.shared) {
            Ok(limit) => limit,
            Err(reason) => {
                stage.shared.counts.drop(reason, 1);
                return;
            }
        };
        let Some(key) = peer.keys.sender() else {
            stage.shared.counts.drop(DropReason::NoKey, 1);
            return;
        };
        let (sealed, headroom) = (key.sealed_len(payload.len()), key.headroom());
        if sealed > limit {
            stage.shared.counts.drop(DropReason::TooBig, 1);
            return;
        }
        self.reserve(prefix + sealed, stage);
        self.group = Group {
            peer: index,
            stride: sealed,
            max: 1,
            tos: None,
            source: None,
            prefix,
        };
        let at = self.cursor + prefix + headroom;
        self.slab[at..at + payload.len()].copy_from_slice(payload);
        self.add(payload.len(), sealed);
        self.close(stage);
    }

    /// Closes the group and sends everything.
    pub(super) fn flush(&mut self, stage: &mut Stage<'_>) {
        self.close(stage);
        if !self.runs.is_empty() {
            let Shared {
                streams, counts, ..
            } = stage.shared;
            streams.send(&self.slab, &mut self.runs, counts);
        }
        if !self.ops.is_empty() {
            self.flush_datagrams(stage);
        }
        self.cursor = 0;
    }

    fn flush_datagrams(&mut self, stage: &mut Stage<'_>) {
        let Some(udp) = &stage.shared.udp else {
            let lost = self.ops.drain(..).map(|op| op.datagrams()).sum();
            stage.shared.counts.drop(DropReason::NoRoute, lost);
            return;
        };
        stage.failures.sends.clear();
        udp.send_all(&self.slab[..self.cursor], &self.ops, stage.failures);
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
    }

    /// Empties the socket's error queue and learns path MTUs from it. An error may end up at any
    /// socket of a group, so the other workers hear of it too.
    pub(super) fn read_errors(&mut self, peers: &mut PeerTable, shared: &mut Shared) {
        let Some(udp) = shared.udp.clone() else {
            return;
        };
        for _ in 0..MAX_ERRORS {
            let Some((about, errno, detail)) = udp.next_error() else {
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

    /// Finds out who the `source`th packet is for, and places it.
    fn forward(&mut self, source: usize, stage: &mut Stage<'_>) -> Result<(), DropReason> {
        let message = stage.sources[source];
        let bytes = match &mut stage.slab {
            Slab::Device => stage.engine.tun_bytes_mut(),
            Slab::Receive => stage.engine.rx_bytes_mut(),
            Slab::Opened(bytes) | Slab::HandedOver(bytes) => bytes,
        };
        let header = if message.vnet { VnetHdr::LEN } else { 0 };
        let packet = bytes[message.start..][..message.len].get(header..);
        let packet = packet.ok_or(DropReason::BadOffload)?;
        match stage.peers.destination(packet, message.vlan) {
            Destination::Peer(index) => self.place(index, source, stage),
            Destination::Everyone => self.place_for_all(source, stage),
            Destination::Nobody => Err(DropReason::NoRoute),
        }
    }

    /// Places the `source`th packet once for each peer that can be sent to, here and by the other
    /// workers, except the one it came from.
    ///
    /// # Errors
    /// [`DropReason::NoRoute`] when there is nobody else, and the device does not get it either. The peers
    /// of other workers count even while they have no keys: only their worker knows that.
    fn place_for_all(&mut self, source: usize, stage: &mut Stage<'_>) -> Result<(), DropReason> {
        let message = stage.sources[source];
        let first = !matches!(stage.slab, Slab::HandedOver(_));
        if first {
            for worker in stage.shared.handover.others() {
                if let Err(reason) = stage.hand_over(worker, &message) {
                    stage.shared.counts.drop(reason, 1);
                }
            }
        }
        // Whoever handed it over has counted.
        let mut wanted = !first;
        for index in 0..stage.peers.slots() {
            let peer = stage.peers.peek(index);
            let Some(peer) =
                peer.filter(|peer| message.from != Some(peer.handle) && message.vlan == peer.vlan)
            else {
                continue;
            };
            let here = peer.halves.send;
            if here && peer.keys.sender_key_id().is_none() {
                continue;
            }
            wanted = true;
            if here && let Err(reason) = self.place(index, source, stage) {
                stage.shared.counts.drop(reason, 1);
            }
        }
        match wanted || device_has(&message, stage) {
            true => Ok(()),
            false => Err(DropReason::NoRoute),
        }
    }

    /// Splits and places the `source`th packet for one peer; what completes a group is sealed.
    fn place(
        &mut self,
        index: usize,
        source: usize,
        stage: &mut Stage<'_>,
    ) -> Result<(), DropReason> {
        let message = stage.sources[source];
        let Some(peer) = stage.peers.get(index) else {
            return Err(DropReason::NoRoute);
        };
        let config = &peer.config;
        if !peer.halves.send {
            let worker = config.roles.send;
            return stage.hand_over(worker, &message);
        }
        let bytes = match &mut stage.slab {
            Slab::Device => stage.engine.tun_bytes_mut(),
            Slab::Receive => stage.engine.rx_bytes_mut(),
            Slab::Opened(bytes) | Slab::HandedOver(bytes) => bytes,
        };
        let bytes = &mut bytes[message.start..message.start + message.len];
        let (header, packet) = split_header(bytes, message.vnet).ok_or(DropReason::BadOffload)?;
        let offset = message.len - packet.len();
        let link = frame::link_len(stage.shared.kind, packet);
        if config.guard_recursion
            && ip::destination(&packet[link..]) == Some(config.endpoint.remote.ip().to_canonical())
        {
            return Err(DropReason::RecursiveRouting);
        }
        if peer.keys.sender().is_none() {
            return Err(DropReason::NoRoute);
        }
        if config.block_ipv6 && ip::version(&packet[link..]) == Some(6) {
            let mut answer = [0; icmp::MAX_LEN];
            let written = icmp::no_route_at(inner(&message, stage), link, &mut answer);
            self.reply(&message, &answer, written, stage);
            return Err(DropReason::BlockedIpv6);
        }
        let partial = header.flags & VnetHdr::NEEDS_CSUM != 0;
        mss::clamp(&mut packet[link..], peer.mss_v4, peer.mss_v6, partial);
        let prefix = prefix(&config.endpoint);
        let limit = limit(&config.endpoint, peer.datagram_limit, stage.shared);
        let tos = match config.passtos && prefix == 0 {
            true => IpView::parse(&packet[link..]).map(|ip| ip.traffic_class()),
            false => None,
        };
        let fit = usize::from(config.segment_to).min(peer.gso_limit);
        let resegmented = match config.segment_to {
            0 => None,
            _ => split::resegment(&header, packet, link, peer.max_inner(fit)),
        };
        let plan = split::plan_at(&resegmented.unwrap_or(header), packet, link)?;
        if peer.cutter.is_some() {
            let packet = message.start + offset..message.start + message.len;
            self.place_fragmented(index, &message, packet, &plan, tos, stage)?;
            if self.cursor >= FLUSH_BYTES {
                self.flush(stage);
            }
            return Ok(());
        }
        let Some(key) = peer.keys.sender() else {
            return Err(DropReason::NoRoute);
        };
        let headroom = key.headroom();
        let stride = key.sealed_len(plan.len_of(0));
        let limit = limit.inspect_err(|reason| {
            stage.shared.counts.drop(*reason, plan.count() - 1);
        })?;
        if stride > limit {
            let most = key.max_inner(limit);
            self.answer_too_big(&message, most, stage);
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
            let most = key.max_inner(peer.gso_limit);
            hint = peer.may_hint(stage.shared.now).then_some(most);
        }
        let per_send = match self.gso && stride <= peer.gso_limit {
            _ if prefix > 0 => MAX_SEGMENTS,
            true => (MAX_DATAGRAM / stride).clamp(1, MAX_SEGMENTS),
            false => 1,
        };
        let mut max = per_send;
        let joins = self.accepts(index, tos, stride)
            && self.segments.len() + plan.count() <= self.group.max;
        if prefix == 0 && !joins {
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
            self.reserve(prefix + sealed, stage);
            if self.segments.is_empty() {
                self.group = Group {
                    peer: index,
                    stride: sealed,
                    max,
                    tos,
                    source: Some(source),
                    prefix,
                };
            }
            let packet = &stage.bytes()[message.start + offset..][..message.len - offset];
            let at = self.cursor + prefix + headroom;
            plan.write(packet, i, &mut self.slab[at..at + len]);
            inner_bytes += len;
            self.add(len, sealed);
        }
        if let Some(most) = hint {
            self.answer_too_big(&message, most, stage);
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
        if group.peer != peer {
            return false;
        }
        if group.prefix > 0 {
            return self.segments.len() < group.max;
        }
        group.tos == tos
            && sealed <= group.stride
            // The one before is a full one: only the last may be shorter.
            && self.cursor - last.start == group.stride
            && self.segments.len() < group.max
    }

    /// Notes the datagram just written at the cursor.
    fn add(&mut self, len: usize, sealed: usize) {
        if self.group.prefix > 0 {
            stream::write_prefix(&mut self.slab[self.cursor..], sealed);
            self.cursor += PREFIX;
        }
        self.segments.push(Segment {
            start: self.cursor,
            len,
        });
        self.cursor += sealed;
    }

    /// Makes room for one more datagram behind the cursor, keeping an open group in one piece.
    fn reserve(&mut self, sealed: usize, stage: &mut Stage<'_>) {
        if self.cursor + sealed > self.slab.len()
            || self.ops.len() + self.runs.len() + 1 >= MAX_SENDS
        {
            self.flush(stage);
        }
    }

    /// Seals the open group and queues it.
    fn close(&mut self, stage: &mut Stage<'_>) {
        let Some(first) = self.segments.first() else {
            return;
        };
        let group = self.group;
        let start = first.start - group.prefix;
        let count = self.segments.len();
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
            self.cursor = self.segments[sealed].start - group.prefix;
        }
        self.segments.clear();
        let Some(peer) = stage.peers.get(group.peer) else {
            return;
        };
        if sealed == 0 {
            return;
        }
        let len = self.cursor - start;
        peer.count_sent(len - sealed * group.prefix, sealed);
        if let Some(id) = peer.config.endpoint.stream {
            self.runs.push(streams::Run { id, start, len });
            return;
        }
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

    /// Tells the sender of a packet that it was too large, because `most` bytes, link header included,
    /// would have passed.
    fn answer_too_big(&mut self, message: &TunMessage, most: usize, stage: &mut Stage<'_>) {
        let mut answer = [0; icmp::MAX_LEN];
        let kind = stage.shared.kind;
        let packet = inner(message, stage);
        let link = frame::link_len(kind, packet);
        let mtu = u16::try_from(most.saturating_sub(link)).unwrap_or(u16::MAX);
        let written = icmp::too_big_at(packet, link, mtu, &mut answer);
        self.reply(message, &answer, written, stage);
    }

    /// Hands the first bytes of `answer`, if there are to be any, to whoever `message` came from.
    fn reply(
        &mut self,
        message: &TunMessage,
        answer: &[u8; icmp::MAX_LEN],
        written: Option<usize>,
        stage: &mut Stage<'_>,
    ) {
        let Some(len) = written else {
            return;
        };
        // Best effort, like every ICMP message.
        let Some(handle) = message.from else {
            let _ = write_one(stage.engine, &answer[..len]);
            return;
        };
        let peer = stage.peers.index_of(handle);
        let Some(peer) = peer.and_then(|index| stage.peers.peek(index)) else {
            return;
        };
        if peer.halves.send {
            self.payload(handle, &answer[..len], stage);
            return;
        }
        let to = TunMessage {
            start: 0,
            len,
            vnet: false,
            from: None,
            vlan: message.vlan,
        };
        let worker = peer.config.roles.send;
        let _ = stage.shared.handover.tun(worker, &answer[..len], &to);
    }
}

/// Sorts frames of the device into VLANs and takes their tags off; what the device must not send is
/// dropped.
pub(super) fn untag(
    port: DevicePort,
    messages: &mut Vec<TunMessage>,
    bytes: &mut [u8],
    counts: &mut Counts,
) {
    messages.retain_mut(|message| {
        let whole = &mut bytes[message.start..][..message.len];
        let Some((vlan, cut)) = untag_one(port, message.vnet, whole) else {
            counts.drop(DropReason::Vlan, 1);
            return false;
        };
        message.vlan = vlan;
        message.start += cut;
        message.len -= cut;
        true
    });
}

/// The VLAN of a frame, and how many bytes further it begins now.
fn untag_one(port: DevicePort, vnet: bool, whole: &mut [u8]) -> Option<(u16, usize)> {
    let (mut header, frame) = split_header(whole, vnet)?;
    let from = port.from_device(frame)?;
    if !from.tagged {
        return Some((from.vlan, 0));
    }
    let cut = vlan::remove_tag(&mut header, frame);
    if vnet {
        header.write(&mut whole[cut..]);
    }
    Some((from.vlan, cut))
}

/// Takes in a path MTU that the kernel reported.
pub(super) fn learn_path_mtu(about: IpAddr, mtu: u32, peers: &mut PeerTable, shared: &mut Shared) {
    let udp = shared.udp.as_ref();
    let refuses = udp.is_some_and(|udp| udp.refuses_fragments());
    if let Some(mtu) = peers.set_path_mtu(about, mtu, refuses, shared.now) {
        shared.notice(format!("the path MTU to {about} is {mtu} now"));
    }
}

/// What stands in front of each packet to this endpoint, in bytes.
fn prefix(to: &Endpoint) -> usize {
    if to.stream.is_some() { PREFIX } else { 0 }
}

/// The longest packet that may be sent to a peer now, `datagram` if it is sent by UDP. Where a connection takes no more, what would only
/// be dropped is not sealed: that would leave gaps in the packet ids, which not every peer forgives.
fn limit(to: &Endpoint, datagram: usize, shared: &Shared) -> Result<usize, DropReason> {
    match to.stream {
        Some(id) => shared.streams.room(id),
        None => Ok(datagram),
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

/// Whether a packet for all came from a peer and is the device's as well, which may not take its VLAN.
fn device_has(message: &TunMessage, stage: &mut Stage<'_>) -> bool {
    let port = stage.peers.device_port();
    message.from.is_some()
        && port.is_none_or(|port| {
            let packet = inner(message, stage);
            port.to_device(message.vlan, packet).is_some()
        })
}

/// A packet for peers, without the virtio header.
fn inner<'a>(message: &TunMessage, stage: &'a mut Stage<'_>) -> &'a [u8] {
    let header = if message.vnet { VnetHdr::LEN } else { 0 };
    let end = message.start + message.len;
    &stage.bytes()[end.min(message.start + header)..end]
}
