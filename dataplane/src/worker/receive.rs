//! Wire to TUN: from a received message to vectored writes.

use std::io::{self, IoSlice, Write};
use std::ops::Range;

use super::Shared;
use super::engine::Engine;
use crate::cipher::Segment;
use crate::command::{Endpoint, Event};
use crate::error::DropReason;
use crate::frame::{self, Frame};
use crate::ip::IpView;
use crate::mss;
use crate::offload::coalesce::{Coalescer, TunCaps};
use crate::offload::split;
use crate::offload::vnet_hdr::VnetHdr;
use crate::peer::{Peer, PeerTable};
use crate::pool::{Failures, MAX_PACKETS, RxMessage};
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
    /// Opened inner packets waiting in the receive slab, in order of arrival.
    packets: Vec<Segment>,
    /// Bytes of datagrams taken since the last delivery.
    bytes: usize,
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
}

impl Receive {
    pub(super) fn new() -> Self {
        let nobody = Sender {
            peer: 0,
            key_id: 0,
            endpoint: Endpoint::new(([0, 0, 0, 0], 0).into()),
        };
        Receive {
            run: Run {
                from: nobody,
                datagrams: Vec::with_capacity(MAX_RUN),
            },
            opened: Vec::with_capacity(MAX_RUN),
            packets: Vec::with_capacity(MAX_PACKETS),
            bytes: 0,
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
    ) -> io::Result<()> {
        let step = match message.gro_size {
            0 => message.len,
            size => size,
        };
        let mut at = 0;
        loop {
            let start = message.start + at;
            let len = step.min(message.len - at);
            let datagram = &engine.rx_bytes_mut()[start..start + len];
            match sender(datagram, &message.from, true, peers, shared) {
                Ok(Some(from)) => {
                    let run = &self.run;
                    if !run.datagrams.is_empty()
                        && (run.from != from || run.datagrams.len() == MAX_RUN)
                    {
                        self.open_run(engine.rx_bytes_mut(), peers, shared);
                    }
                    self.run.from = from;
                    self.run.datagrams.push(Segment { start, len });
                    self.bytes += len;
                }
                Ok(None) => {}
                Err(reason) => shared.counts.drop(reason, 1),
            }
            at += len;
            if at >= message.len {
                break;
            }
            if self.bytes >= DELIVER_BYTES || self.packets.len() + MAX_RUN > MAX_PACKETS {
                self.deliver(engine, peers, failures, shared)?;
            }
        }
        Ok(())
    }

    /// Opens a datagram that another worker received, and writes its packet to the TUN device. These
    /// are rare: the kernel's filter steers packets here, unless receive offload glued one to a
    /// control packet.
    pub(super) fn handed_over(
        &mut self,
        message: &RxMessage,
        bytes: &mut [u8],
        engine: &Engine,
        peers: &mut PeerTable,
        shared: &mut Shared,
    ) {
        let &RxMessage { start, len, .. } = message;
        let datagram = &bytes[start..start + len];
        match sender(datagram, &message.from, false, peers, shared) {
            Ok(Some(from)) => {
                self.run.from = from;
                self.run.datagrams.push(Segment { start, len });
                self.open_run(bytes, peers, shared);
                for Segment { start, len } in self.packets.drain(..) {
                    if !write_one(engine, &bytes[start..start + len]) {
                        shared.counts.drop(DropReason::IoError, 1);
                    }
                }
            }
            Ok(None) => {}
            Err(reason) => shared.counts.drop(reason, 1),
        }
    }

    /// Opens the run and notes the inner packets that are for the TUN device.
    fn open_run(&mut self, bytes: &mut [u8], peers: &mut PeerTable, shared: &mut Shared) {
        if self.run.datagrams.is_empty() {
            return;
        }
        let Sender {
            peer: index,
            key_id,
            endpoint,
        } = self.run.from;
        let Some(peer) = peers.get(index) else {
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
                    shared.counts.drop(*reason, 1);
                    continue;
                }
            };
            heard = true;
            peer.count_received(datagram.len, key_id);
            let start = payload.start;
            match inner_packet(&mut bytes[payload], peer, shared) {
                Ok(Some(len)) => self.packets.push(Segment { start, len }),
                Ok(None) => {}
                Err(reason) => shared.counts.drop(reason, 1),
            }
        }
        // Now it is known that datagrams were the peer's own and new, so they may say where it is.
        let known = peer.config.endpoint;
        if !heard || known == endpoint {
            return;
        }
        if known.remote != endpoint.remote {
            let handle = peer.handle;
            peers.move_endpoint(index, endpoint);
            shared.outbox.send(Event::Floated(handle, endpoint));
        } else if endpoint.local.is_some() {
            peer.config.endpoint = endpoint;
        }
    }

    /// Opens what still waits and writes the packets collected so far to the TUN device.
    pub(super) fn deliver(
        &mut self,
        engine: &mut Engine,
        peers: &mut PeerTable,
        failures: &mut Failures,
        shared: &mut Shared,
    ) -> io::Result<()> {
        self.open_run(engine.rx_bytes_mut(), peers, shared);
        self.bytes = 0;
        if self.packets.is_empty() {
            return Ok(());
        }
        if engine.tun().is_none() {
            shared.counts.drop(DropReason::IoError, self.packets.len());
            self.packets.clear();
            return Ok(());
        }
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
    let index = peers
        .find(peer_id, &from.remote)
        .ok_or(DropReason::UnknownPeer)?;
    let peer = peers.get(index).ok_or(DropReason::UnknownPeer)?;
    if !peer.halves.receive {
        let worker = peer.config.roles.receive;
        return match own && shared.handover.datagram(worker, datagram, *from) {
            true => Ok(None),
            false => Err(DropReason::HandoverFull),
        };
    }
    if peer.config.endpoint.remote != from.remote && !peer.config.float {
        return Err(DropReason::WrongSource);
    }
    Ok(Some(Sender {
        peer: index,
        key_id,
        endpoint: *from,
    }))
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

/// Judges an opened payload: the length of the inner packet, or nothing when it was a ping or an
/// OCC message.
fn inner_packet(
    payload: &mut [u8],
    peer: &mut Peer,
    shared: &mut Shared,
) -> Result<Option<usize>, DropReason> {
    match wire::magic(payload) {
        Magic::None => {}
        Magic::Ping => return Ok(None),
        Magic::Occ(message) => {
            let event = Event::Occ(peer.handle, Box::from(message));
            if !shared.outbox.send(event) {
                return Err(DropReason::ControlQueueFull);
            }
            return Ok(None);
        }
    }
    // A frame passes whatever is in it, with its padding.
    let (link, len) = match shared.kind {
        DeviceKind::Tun => (0, IpView::parse(payload).map(|ip| ip.total_len())),
        DeviceKind::Tap => (
            frame::link_len(DeviceKind::Tap, payload),
            Frame::parse(payload).map(|_| payload.len()),
        ),
    };
    let len = len.ok_or(DropReason::BadPayload)?;
    mss::clamp(&mut payload[link..len], peer.mss_v4, peer.mss_v6, false);
    peer.sums.tun_tx_bytes += len as u64;
    Ok(Some(len))
}
