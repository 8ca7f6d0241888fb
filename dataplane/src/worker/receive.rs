//! Wire to TUN: from a received message to vectored writes.

use std::io::{self, IoSlice, Write};

use super::Shared;
use super::engine::Engine;
use crate::cipher::Segment;
use crate::command::{Endpoint, Event};
use crate::error::DropReason;
use crate::ip::IpView;
use crate::mss;
use crate::offload::coalesce::{Coalescer, TunCaps};
use crate::offload::vnet_hdr::VnetHdr;
use crate::peer::{Peer, PeerTable};
use crate::pool::{Failures, MAX_PACKETS, RxMessage};
use crate::wire::{self, Header, Magic};

/// Bytes of the longest control packet handed on: twice what any peer sends (protocol §1).
const MAX_CONTROL: usize = 4096;

/// Super-packets refused in a row before they are given up.
const REFUSALS: u32 = 3;

/// Stages 4 and 5.
pub(super) struct Receive {
    /// Opened inner packets waiting in the receive slab, in order of arrival.
    packets: Vec<Segment>,
    coalescer: Coalescer,
    caps: TunCaps,
    tso_refusals: u32,
    uso_refusals: u32,
}

impl Receive {
    pub(super) fn new() -> Self {
        Receive {
            packets: Vec::with_capacity(MAX_PACKETS),
            coalescer: Coalescer::new(MAX_PACKETS),
            caps: TunCaps {
                tso: false,
                uso: false,
            },
            tso_refusals: 0,
            uso_refusals: 0,
        }
    }

    /// Which super-packets the device takes.
    pub(super) fn set_caps(&mut self, caps: TunCaps) {
        self.caps = caps;
        self.tso_refusals = 0;
        self.uso_refusals = 0;
    }

    /// Takes the datagrams of one message apart and opens them.
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
            if self.packets.len() == MAX_PACKETS {
                self.deliver(engine, failures, shared)?;
            }
            let start = message.start + at;
            let len = step.min(message.len - at);
            let datagram = &mut engine.rx_bytes_mut()[start..start + len];
            match self.datagram(datagram, &message.from, true, peers, shared) {
                Ok(Some(inner)) => self.packets.push(Segment {
                    start: start + inner.start,
                    len: inner.len,
                }),
                Ok(None) => {}
                Err(reason) => shared.counts.drop(reason, 1),
            }
            at += len;
            if at >= message.len {
                return Ok(());
            }
        }
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
        let datagram = &mut bytes[message.start..message.start + message.len];
        match self.datagram(datagram, &message.from, false, peers, shared) {
            Ok(Some(inner)) => {
                let packet = &datagram[inner.start..inner.start + inner.len];
                if !write_one(engine, packet) {
                    shared.counts.drop(DropReason::IoError, 1);
                }
            }
            Ok(None) => {}
            Err(reason) => shared.counts.drop(reason, 1),
        }
    }

    /// Writes the packets collected so far to the TUN device.
    pub(super) fn deliver(
        &mut self,
        engine: &mut Engine,
        failures: &mut Failures,
        shared: &mut Shared,
    ) -> io::Result<()> {
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
            self.refused(index, errno, shared);
        }
        self.packets.clear();
        Ok(())
    }

    /// One datagram: where its inner packet lies, or nothing when it was not for the TUN device. One
    /// that this worker itself received (`own`) may go to another.
    fn datagram(
        &mut self,
        datagram: &mut [u8],
        from: &Endpoint,
        own: bool,
        peers: &mut PeerTable,
        shared: &mut Shared,
    ) -> Result<Option<Segment>, DropReason> {
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
                    datagram: Box::from(&*datagram),
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
        let known = peer.config.endpoint;
        let moved = known.remote != from.remote;
        if moved && !peer.config.float {
            return Err(DropReason::WrongSource);
        }
        let key = peer.keys.receiver(key_id).ok_or(DropReason::NoKey)?;
        let payload = key.open(shared.now, datagram)?;
        if let Some(epoch) = key.take_epoch_change() {
            peer.follow_epoch(key_id, epoch);
        }
        peer.count_received(datagram.len(), key_id);

        let start = payload.start;
        let inner = inner_packet(&mut datagram[payload], peer, shared);
        // From here on the datagram is known to be the peer's own and new, so it may say where the
        // peer is.
        if moved {
            let handle = peer.handle;
            peers.move_endpoint(index, *from);
            shared.outbox.send(Event::Floated(handle, *from));
        } else if from.local.is_some()
            && (known.local != from.local || known.ifindex != from.ifindex)
        {
            peer.config.endpoint = *from;
        }
        Ok(inner?.map(|len| Segment { start, len }))
    }

    /// A write failed. Super-packets refused again and again are given up; the device being down
    /// or out of memory is its own matter.
    fn refused(&mut self, index: usize, errno: i32, shared: &mut Shared) {
        let Some(write) = self.coalescer.writes().nth(index) else {
            return;
        };
        shared.counts.drop(
            if errno == libc::EAGAIN {
                DropReason::QueueFull
            } else {
                DropReason::IoError
            },
            write.slices.len(),
        );
        if errno != libc::EINVAL {
            return;
        }
        let kind = VnetHdr::read(write.vnet).map_or(0, |header| header.gso_type & !VnetHdr::ECN);
        match kind {
            VnetHdr::GSO_NONE => {}
            VnetHdr::GSO_UDP_L4 => {
                self.uso_refusals += 1;
                if self.uso_refusals == REFUSALS {
                    self.caps.uso = false;
                    shared.fall_back("the TUN device refuses UDP super-packets".to_owned());
                }
            }
            _ => {
                self.tso_refusals += 1;
                if self.tso_refusals == REFUSALS {
                    self.caps.tso = false;
                    shared.fall_back("the TUN device refuses TCP super-packets".to_owned());
                }
            }
        }
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
    let len = IpView::parse(payload)
        .ok_or(DropReason::BadPayload)?
        .total_len();
    let packet = &mut payload[..len];
    mss::clamp(packet, peer.mss_v4, peer.mss_v6, false);
    peer.sums.tun_tx_bytes += len as u64;
    Ok(Some(len))
}
