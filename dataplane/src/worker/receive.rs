//! From the wire: from a received message to vectored writes, or to another peer.

use std::io::{self, IoSlice, Write};
use std::ops::Range;

use super::Shared;
use super::engine::Engine;
use super::transmit::{Slab, Stage, Transmit};
use crate::cipher::Segment;
use crate::command::{Endpoint, Event, Forwarding, StreamEnd};
use crate::error::DropReason;
use crate::forward::vlan::{self, ToDevice};
use crate::forward::{News, Routes, Way};
use crate::fragment::{HEADER_LEN, Taken};
use crate::frame::{self, Frame, TAG};
use crate::ip::IpView;
use crate::mss;
use crate::offload::coalesce::{Coalescer, TunCaps};
use crate::offload::split;
use crate::offload::vnet_hdr::VnetHdr;
use crate::peer::{EVERY_OTHER, Note, Peer, PeerTable};
use crate::pool::{ASSEMBLY, Failures, MAX_PACKETS, RxMessage, SLOT_LEN, TunMessage};
use crate::tun::DeviceKind;
use crate::wire::{self, Header, Magic};

/// Bytes of the longest control packet handed on: twice what any peer sends (protocol §1).
const MAX_CONTROL: usize = 4096;

/// Datagrams opened together: enough for a cipher that works on many at once, few enough to stay in
/// the cache.
const MAX_RUN: usize = 32;

/// Bytes of datagrams after which what was opened is delivered: while it is in the cache, and so that
/// whoever reads it can begin.
const DELIVER_BYTES: usize = 192 * 1024;

/// Super-packets refused in a row before they are given up.
const REFUSALS: u32 = 3;

/// Stages 4 and 5.
pub(super) struct Receive {
    /// Datagrams of one session and key_id that wait to be opened together.
    run: Run,
    /// What became of each of them.
    opened: Vec<Result<Range<usize>, DropReason>>,
    /// Opened inner packets waiting in the receive slab, in order of arrival, for the device.
    packets: Vec<Segment>,
    /// Which of them get a VLAN tag.
    tags: Vec<(usize, ToDevice)>,
    /// The same for other peers.
    crossing: Vec<TunMessage>,
    /// Bytes of datagrams taken since the last delivery.
    bytes: usize,
    /// Bytes of the spare part of the receive slab: set aside for packets that waiting datagrams may
    /// complete, and used.
    reserved: usize,
    assembled: usize,
    coalescer: Coalescer,
    caps: TunCaps,
    tso_refusals: u32,
    uso_refusals: u32,
}

/// Neighbours from one peer under one key_id.
struct Run {
    from: Sender,
    datagrams: Vec<Segment>,
}

/// Whose packet a datagram claims to be.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Sender {
    /// Index of the peer in the table.
    peer: usize,
    key_id: u8,
    endpoint: Endpoint,
    /// Bytes of the packet that a datagram may complete (`fragment`).
    reserve: usize,
}

impl Receive {
    pub(super) fn new() -> Self {
        let nobody = Sender {
            peer: 0,
            key_id: 0,
            endpoint: Endpoint::new(([0, 0, 0, 0], 0).into()),
            reserve: 0,
        };
        Receive {
            run: Run {
                from: nobody,
                datagrams: Vec::with_capacity(MAX_RUN),
            },
            opened: Vec::with_capacity(MAX_RUN),
            packets: Vec::with_capacity(MAX_PACKETS),
            tags: Vec::with_capacity(MAX_PACKETS),
            crossing: Vec::with_capacity(MAX_PACKETS),
            bytes: 0,
            reserved: 0,
            assembled: 0,
            coalescer: Coalescer::new(MAX_PACKETS),
            caps: TunCaps {
                tso: false,
                uso: false,
            },
            tso_refusals: 0,
            uso_refusals: 0,
        }
    }

    /// What the device carries, and which super-packets it takes.
    pub(super) fn set_device(&mut self, kind: DeviceKind, caps: TunCaps) {
        self.coalescer.set_kind(kind);
        self.caps = caps;
        self.tso_refusals = 0;
        self.uso_refusals = 0;
    }

    /// Takes the datagrams of one message apart and opens them; the last ones may wait for the next
    /// message or [`Receive::deliver`].
    pub(super) fn message(
        &mut self,
        message: &RxMessage,
        engine: &mut Engine,
        peers: &mut PeerTable,
        failures: &mut Failures,
        shared: &mut Shared,
        transmit: &mut Transmit,
    ) -> io::Result<()> {
        for range in wire::datagrams(message.len, message.gro_size) {
            self.make_room(engine, peers, failures, shared, transmit)?;
            let datagram = Segment {
                start: message.start + range.start,
                len: range.len(),
            };
            self.datagram(datagram, &message.from, engine, peers, shared);
        }
        Ok(())
    }

    /// Takes one datagram of the receive slab, or one packet of a TCP stream; it may wait for the next
    /// one or [`Receive::deliver`].
    #[inline]
    pub(super) fn datagram(
        &mut self,
        datagram: Segment,
        from: &Endpoint,
        engine: &mut Engine,
        peers: &mut PeerTable,
        shared: &mut Shared,
    ) {
        let Segment { start, len } = datagram;
        let bytes = &engine.rx_bytes_mut()[start..start + len];
        match sender(bytes, from, true, peers, shared) {
            Ok(Some(from)) => {
                let run = &self.run;
                if !run.datagrams.is_empty() && (run.from != from || run.datagrams.len() == MAX_RUN)
                {
                    self.open_received(engine, peers, shared);
                }
                self.reserved += from.reserve;
                self.run.from = from;
                self.run.datagrams.push(datagram);
                self.bytes += len;
            }
            Ok(None) => {}
            Err(reason) => drop_from(from, reason, shared),
        }
    }

    /// Delivers what is opened if that is enough.
    #[inline]
    pub(super) fn make_room(
        &mut self,
        engine: &mut Engine,
        peers: &mut PeerTable,
        failures: &mut Failures,
        shared: &mut Shared,
        transmit: &mut Transmit,
    ) -> io::Result<()> {
        if self.bytes >= DELIVER_BYTES
            || self.waiting() + MAX_RUN > MAX_PACKETS
            || self.reserved + SLOT_LEN > ASSEMBLY
        {
            self.deliver(engine, peers, failures, shared, transmit)?;
        }
        Ok(())
    }

    /// Inner packets that wait to be delivered.
    fn waiting(&self) -> usize {
        self.packets.len().max(self.crossing.len())
    }

    /// Opens a datagram that another worker received (`own` is false), or a server's control socket, and
    /// passes its packet on at once. These are rare: the kernel's filter steers data packets to their
    /// worker, unless receive offload glued one to a control packet.
    pub(super) fn passed_on(
        &mut self,
        from: Endpoint,
        datagram: &[u8],
        own: bool,
        stage: &mut Stage<'_>,
        transmit: &mut Transmit,
    ) {
        let sender = match sender(datagram, &from, own, stage.peers, stage.shared) {
            Ok(Some(sender)) => sender,
            Ok(None) => return,
            Err(reason) => return stage.shared.counts.drop(reason, 1),
        };
        let len = datagram.len();
        let mut bytes = datagram.to_vec();
        bytes.resize(len + sender.reserve, 0);
        self.run.from = sender;
        self.run.datagrams.push(Segment { start: 0, len });
        self.open_run(&mut bytes, len, stage.peers, stage.shared);
        self.assembled = 0;
        if !self.crossing.is_empty() {
            transmit.packets(&mut Stage {
                engine: stage.engine,
                peers: stage.peers,
                failures: stage.failures,
                shared: stage.shared,
                sources: &self.crossing,
                slab: Slab::Opened(&mut bytes),
            });
            self.crossing.clear();
        }
        write_tags(&mut bytes, &mut self.packets, &mut self.tags);
        for Segment { start, len } in self.packets.drain(..) {
            if !write_one(stage.engine, &bytes[start..start + len]) {
                stage.shared.counts.drop(DropReason::IoError, 1);
            }
        }
    }

    /// Opens the run, which is in the receive slab.
    fn open_received(&mut self, engine: &mut Engine, peers: &mut PeerTable, shared: &mut Shared) {
        let bytes = engine.rx_bytes_mut();
        let spare = bytes.len() - ASSEMBLY;
        self.open_run(bytes, spare, peers, shared);
    }

    /// Opens the run and notes the inner packets, and whether they are for the device or for peers.
    /// From `spare` on there is room for packets put together.
    fn open_run(
        &mut self,
        bytes: &mut [u8],
        spare: usize,
        peers: &mut PeerTable,
        shared: &mut Shared,
    ) {
        if self.run.datagrams.is_empty() {
            return;
        }
        let Sender {
            peer: index,
            key_id,
            endpoint,
            reserve: _,
        } = self.run.from;
        let taken = peers.is_taken(index, &endpoint);
        let Some((peer, routes)) = peers.with_routes(index) else {
            self.run.datagrams.clear();
            return;
        };
        let Some(key) = peer.keys.receiver(key_id) else {
            let count = self.run.datagrams.len();
            shared.counts.drop(DropReason::NoKey, count);
            self.run.datagrams.clear();
            return;
        };
        key.open_batch(shared.now, bytes, &self.run.datagrams, &mut self.opened);
        if let Some(epoch) = key.take_epoch_change() {
            peer.follow_epoch(key_id, epoch);
        }
        let mut heard = false;
        for (datagram, opened) in self.run.datagrams.drain(..).zip(&self.opened) {
            let payload = match opened {
                Ok(payload) => datagram.start + payload.start..datagram.start + payload.end,
                Err(reason) => {
                    drop_from(&endpoint, *reason, shared);
                    continue;
                }
            };
            heard = true;
            if taken {
                shared.counts.drop(DropReason::FloatConflict, 1);
                continue;
            }
            peer.count_received(datagram.len, key_id);
            let payload = match peer.reassembler {
                None => payload,
                Some(_) => {
                    let at = spare + self.assembled + TAG;
                    match reassemble(peer, payload, bytes, at, shared) {
                        Ok(Some(packet)) => {
                            self.assembled += TAG + packet.end.saturating_sub(at);
                            packet
                        }
                        Ok(None) => continue,
                        Err(reason) => {
                            shared.counts.drop(reason, 1);
                            continue;
                        }
                    }
                }
            };
            let start = payload.start;
            match inner_packet(&mut bytes[payload], index, peer, routes, shared) {
                Ok(Some((len, way, tag))) => {
                    if way != Way::Peer {
                        if tag != ToDevice::Plain {
                            self.tags.push((self.packets.len(), tag));
                        }
                        self.packets.push(Segment { start, len });
                    }
                    if way != Way::Device {
                        self.crossing.push(crossing(start, len, peer));
                    }
                }
                Ok(None) => {}
                Err(reason) => shared.counts.drop(reason, 1),
            }
        }
        // Now it is known that datagrams were the peer's own and new, so they may say where it is.
        let known = peer.config.endpoint;
        if !heard || known == endpoint || endpoint.stream.is_some() {
            return;
        }
        if taken {
            if peer.may_report_conflict(shared.now) {
                let event = Event::FloatConflict(peer.handle, endpoint);
                shared.outbox.send(event);
            }
            return;
        }
        if known.remote != endpoint.remote {
            // Only what the control thread knows of; if it cannot be told, the next packet tries again.
            if shared.outbox.send(Event::Floated(peer.handle, endpoint)) {
                peers.move_endpoint(index, endpoint);
            }
        } else if endpoint.local.is_some() {
            peer.config.endpoint = endpoint;
        }
    }

    /// Opens what still waits, sends what is for other peers, and writes the rest of the packets
    /// collected so far to the TUN device.
    pub(super) fn deliver(
        &mut self,
        engine: &mut Engine,
        peers: &mut PeerTable,
        failures: &mut Failures,
        shared: &mut Shared,
        transmit: &mut Transmit,
    ) -> io::Result<()> {
        self.open_received(engine, peers, shared);
        self.bytes = 0;
        self.reserved = 0;
        self.assembled = 0;
        if !self.crossing.is_empty() {
            // First, because joining packets for the device changes the headers of multicast ones.
            transmit.packets(&mut Stage {
                engine,
                peers,
                failures,
                shared,
                sources: &self.crossing,
                slab: Slab::Receive,
            });
            self.crossing.clear();
        }
        if self.packets.is_empty() {
            return Ok(());
        }
        if engine.tun().is_none() {
            shared.counts.drop(DropReason::IoError, self.packets.len());
            self.packets.clear();
            self.tags.clear();
            return Ok(());
        }
        write_tags(engine.rx_bytes_mut(), &mut self.packets, &mut self.tags);
        self.coalescer
            .coalesce(engine.rx_bytes_mut(), &self.packets, self.caps);
        failures.writes.clear();
        let writes = engine.write(self.coalescer.writes(), failures)?;
        shared.counts.tun_tx_calls += writes as u64;
        for &(index, errno) in &failures.writes {
            self.refused(index, errno, engine, shared);
        }
        self.packets.clear();
        Ok(())
    }

    /// A write failed. A super-packet that the device refuses goes out in pieces, and after some of
    /// them no more are made; the device being down or out of memory is its own matter.
    fn refused(&mut self, index: usize, errno: i32, engine: &mut Engine, shared: &mut Shared) {
        let Some(write) = self.coalescer.writes().nth(index) else {
            return;
        };
        let header = VnetHdr::read(write.vnet).unwrap_or_default();
        let kind = header.gso_type & !VnetHdr::ECN;
        if errno != libc::EINVAL || kind == VnetHdr::GSO_NONE {
            let reason = match errno {
                libc::EAGAIN => DropReason::QueueFull,
                _ => DropReason::IoError,
            };
            shared.counts.drop(reason, write.slices.len());
            return;
        }
        let lost = write_pieces(engine, shared.kind, &header, write.slices);
        shared.counts.drop(DropReason::IoError, lost);
        let (refusals, can, name) = match kind {
            VnetHdr::GSO_UDP_L4 => (&mut self.uso_refusals, &mut self.caps.uso, "UDP"),
            _ => (&mut self.tso_refusals, &mut self.caps.tso, "TCP"),
        };
        *refusals += 1;
        if *refusals == REFUSALS {
            *can = false;
            shared.fall_back(format!("the TUN device refuses {name} super-packets"));
        }
    }
}

/// Writes the packets that a refused super-packet stands for one by one; how many could not be. This
/// is no part of the hot path: it happens a few times in the life of a device.
fn write_pieces(
    engine: &mut Engine,
    kind: DeviceKind,
    header: &VnetHdr,
    slices: &[Segment],
) -> usize {
    let mut whole = Vec::new();
    for &Segment { start, len } in slices {
        whole.extend_from_slice(&engine.rx_bytes_mut()[start..start + len]);
    }
    let link = frame::link_len(kind, &whole);
    let Ok(plan) = split::plan_at(header, &whole, link) else {
        return slices.len();
    };
    let mut piece = vec![0; plan.len_of(0)];
    let mut lost = 0;
    for i in 0..plan.count() {
        let len = plan.len_of(i);
        plan.write(&whole, i, &mut piece[..len]);
        lost += usize::from(!write_one(engine, &piece[..len]));
    }
    lost
}

/// Counts a packet that goes no further. In a stream some mean that what comes from there is not the
/// peer's, and end it (protocol §2.8); a packet under a key that is gone or not yet there does not.
fn drop_from(from: &Endpoint, reason: DropReason, shared: &mut Shared) {
    shared.counts.drop(reason, 1);
    let foreign = matches!(
        reason,
        DropReason::Malformed | DropReason::AuthFailed | DropReason::Replay
    );
    if let (true, Some(id)) = (foreign, from.stream) {
        shared.streams.end(id, StreamEnd::BadPacket);
    }
}

/// Whose packet a datagram claims to be; nothing when it was for somebody else. One that this worker
/// itself received (`own`) may be another worker's.
fn sender(
    datagram: &[u8],
    from: &Endpoint,
    own: bool,
    peers: &mut PeerTable,
    shared: &mut Shared,
) -> Result<Option<Sender>, DropReason> {
    let (key_id, peer_id) = match wire::parse(datagram)? {
        Header::Data {
            key_id, peer_id, ..
        } => (key_id, peer_id),
        Header::Control => {
            if datagram.len() > MAX_CONTROL {
                return Err(DropReason::Malformed);
            }
            if !shared.outbox.has_room_for_strangers() {
                return Err(DropReason::ControlQueueFull);
            }
            let event = Event::Control {
                listener: peers.own_listener(),
                from: *from,
                datagram: Box::from(datagram),
            };
            if !shared.outbox.send(event) {
                return Err(DropReason::ControlQueueFull);
            }
            shared.counts.control_packets += 1;
            return Ok(None);
        }
    };
    let index = match from.stream {
        // Whatever peer-id is in there: a connection is one peer's.
        Some(id) => peers.by_stream(id),
        None => peers.find(peer_id, &from.remote),
    };
    let index = index.ok_or(DropReason::UnknownPeer)?;
    let listener = peers.listener().filter(|_| own && from.stream.is_none());
    let peer = peers.get(index).ok_or(DropReason::UnknownPeer)?;
    if listener.is_some_and(|listener| peer.config.listener != listener) {
        return Err(DropReason::WrongSource);
    }
    if !peer.halves.receive {
        let worker = peer.config.roles.receive;
        return match own && shared.handover.datagram(worker, datagram, *from) {
            true => Ok(None),
            false => Err(DropReason::HandoverFull),
        };
    }
    let known = &peer.config.endpoint;
    // Nobody floats from a connection to UDP.
    let at_home = known.remote == from.remote || peer.config.float;
    if known.stream != from.stream || (from.stream.is_none() && !at_home) {
        return Err(DropReason::WrongSource);
    }
    Ok(Some(Sender {
        peer: index,
        key_id,
        endpoint: *from,
        reserve: peer.reassembler.as_ref().map_or(0, |it| TAG + it.largest()),
    }))
}

/// Takes what was opened of a peer with `fragment`: where the inner packet is, if this completes one,
/// in its datagram or at `at`.
fn reassemble(
    peer: &mut Peer,
    payload: Range<usize>,
    bytes: &mut [u8],
    at: usize,
    shared: &mut Shared,
) -> Result<Option<Range<usize>>, DropReason> {
    let Some(reassembler) = &mut peer.reassembler else {
        return Ok(Some(payload));
    };
    let framed = match reassembler.take(shared.now, &bytes[payload.clone()]) {
        Ok(Taken::Whole) => Ok(Some(payload.start + HEADER_LEN..payload.end)),
        Ok(Taken::Kept) => Ok(None),
        Ok(Taken::Packet(packet)) => {
            let framed = at..at + packet.len();
            bytes[framed.clone()].copy_from_slice(packet);
            Ok(Some(framed))
        }
        Err(reason) => Err(reason),
    };
    let lost = reassembler.take_given_up();
    shared.counts.drop(DropReason::LostFragment, lost);
    match framed? {
        Some(framed) => peer.config.framing.strip(bytes, framed).map(Some),
        None => Ok(None),
    }
}

/// Writes one packet to the TUN device, if there is one. Returns whether the kernel took it.
pub(super) fn write_one(engine: &Engine, packet: &[u8]) -> bool {
    let Some(tun) = engine.tun() else {
        return false;
    };
    let header = VnetHdr::default().to_bytes();
    let parts = [IoSlice::new(&header), IoSlice::new(packet)];
    let parts = match tun.has_vnet_header() {
        true => &parts[..],
        false => &parts[1..],
    };
    tun.file().write_vectored(parts).is_ok()
}

/// A packet from this peer for other ones.
fn crossing(start: usize, len: usize, from: &Peer) -> TunMessage {
    TunMessage {
        start,
        len,
        vnet: false,
        from: Some(from.handle),
        vlan: from.vlan,
    }
}

/// Writes VLAN tags into the room in front of these packets: no header on the wire is shorter than a tag.
fn write_tags(bytes: &mut [u8], packets: &mut [Segment], tags: &mut Vec<(usize, ToDevice)>) {
    for (index, tag) in tags.drain(..) {
        let Some(packet) = packets.get_mut(index) else {
            continue;
        };
        let Some(start) = packet.start.checked_sub(TAG) else {
            continue;
        };
        let end = packet.start + packet.len;
        if let Some(at) = vlan::write_tag(tag, &mut bytes[start..end]) {
            packet.start = start + at;
            packet.len = end - packet.start;
        }
    }
}

/// Learns from a frame of this peer where its sender is, and says where it goes.
fn frame_way(
    frame: &[u8],
    peer: &Peer,
    routes: &mut Routes,
    shared: &mut Shared,
) -> Result<(Way, ToDevice), DropReason> {
    let Some(switch) = routes.switch_mut() else {
        return Ok((Way::Device, ToDevice::Plain));
    };
    let handle = peer.handle;
    let station = switch.source(peer.vlan, frame)?;
    match switch.learn(shared.now, station, handle)? {
        News::Nothing => {}
        News::Heard => {
            // It is said again.
            let _ = shared
                .handover
                .note(EVERY_OTHER, handle, Note::Station(station));
        }
        News::Learned { replaced } => {
            let event = Event::Learned {
                peer: handle,
                station,
                replaced,
            };
            if !shared.outbox.send(event) {
                // As if nothing had been heard: the next frame tries again.
                switch.forget(station, handle);
                return Err(DropReason::ControlQueueFull);
            }
            if switch.asks_first() {
                return Err(DropReason::InnerSource);
            }
            let _ = shared
                .handover
                .note(EVERY_OTHER, handle, Note::Station(station));
        }
    }
    switch.way(handle, peer.vlan, frame)
}

/// Judges an opened payload of the `index`th peer: the length of the inner packet, where it goes, and
/// the tag it gets on the way; or nothing when it was a ping or an OCC message.
fn inner_packet(
    payload: &mut [u8],
    index: usize,
    peer: &mut Peer,
    routes: &mut Routes,
    shared: &mut Shared,
) -> Result<Option<(usize, Way, ToDevice)>, DropReason> {
    let is_server = routes.forwarding() != Forwarding::PointToPoint;
    match wire::magic(payload) {
        Magic::None => {}
        Magic::Ping => return Ok(None),
        // A server needs nothing else, and one client must not fill the queue of all.
        Magic::Occ(message) if is_server && message.first() != Some(&wire::OCC_EXIT) => {
            return Ok(None);
        }
        Magic::Occ(message) => {
            let event = Event::Occ(peer.handle, Box::from(message));
            if !shared.outbox.send(event) {
                return Err(DropReason::ControlQueueFull);
            }
            return Ok(None);
        }
    }
    let (link, len, (way, tag)) = match shared.kind {
        DeviceKind::Tun => {
            let ip = IpView::parse(payload).ok_or(DropReason::BadPayload)?;
            (
                0,
                ip.total_len(),
                (routes.way(index, &ip)?, ToDevice::Plain),
            )
        }
        // A frame passes whatever is in it, with its padding.
        DeviceKind::Tap => {
            Frame::parse(payload).ok_or(DropReason::BadPayload)?;
            let link = frame::link_len(DeviceKind::Tap, payload);
            (
                link,
                payload.len(),
                frame_way(payload, peer, routes, shared)?,
            )
        }
    };
    mss::clamp(&mut payload[link..len], peer.mss_v4, peer.mss_v6, false);
    peer.sums.tun_tx_bytes += len as u64;
    Ok(Some((len, way, tag)))
}
