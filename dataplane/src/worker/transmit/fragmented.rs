//! Packets for a peer with `fragment`: framed first, then cut, each part with its header sealed as a
//! datagram of its own. Equally long parts share a send, like segments of a super-packet.

use std::ops::Range;

use super::{Group, Stage, Transmit};
use crate::cipher::Segment;
use crate::error::DropReason;
use crate::fragment::{Cut, HEADER_LEN};
use crate::offload::split::Plan;
use crate::pool::{MAX_DATAGRAM, MAX_SEGMENTS, TunMessage};

/// Bytes of the longest framed packet, rounded up.
pub(super) const SCRATCH_LEN: usize = 66_048;

impl Transmit {
    /// Places the segments of a TUN read; `packet` says where in it they are, without virtio header.
    pub(super) fn place_fragmented(
        &mut self,
        peer: usize,
        message: &TunMessage,
        packet: Range<usize>,
        plan: &Plan,
        tos: Option<u8>,
        stage: &mut Stage<'_>,
    ) -> Result<(), DropReason> {
        for i in 0..plan.count() {
            let len = plan.len_of(i);
            let Some(front) = framing_front(peer, stage) else {
                return Err(DropReason::NoRoute);
            };
            let bytes = &stage.bytes()[packet.clone()];
            plan.write(bytes, i, &mut self.scratch[front..front + len]);
            if let Err(reason) = self.place_scratch(peer, len, tos, stage) {
                if reason == DropReason::TooBig
                    && let Some(peer) = stage.peers.get(peer)
                    && let Some(cutter) = &peer.cutter
                {
                    let most = Cut::longest(cutter.limit()) - peer.config.framing.added();
                    self.answer_too_big(message, most, stage);
                }
                let rest = plan.count() - i - 1;
                stage.shared.counts.drop(reason, rest);
                return Err(reason);
            }
            if let Some(peer) = stage.peers.get(peer) {
                peer.sums.tun_rx_bytes += len as u64;
            }
        }
        Ok(())
    }

    /// Places one payload that does not come from TUN.
    pub(super) fn payload_fragmented(
        &mut self,
        peer: usize,
        payload: &[u8],
        stage: &mut Stage<'_>,
    ) -> Result<(), DropReason> {
        let front = framing_front(peer, stage).ok_or(DropReason::NoRoute)?;
        let room = self.scratch.get_mut(front..front + payload.len());
        room.ok_or(DropReason::TooBig)?.copy_from_slice(payload);
        self.place_scratch(peer, payload.len(), None, stage)
    }

    /// Frames, cuts and places the packet of `len` bytes that stands in the scratch buffer behind room
    /// for its framing.
    fn place_scratch(
        &mut self,
        index: usize,
        len: usize,
        tos: Option<u8>,
        stage: &mut Stage<'_>,
    ) -> Result<(), DropReason> {
        let peer = stage.peers.get(index).ok_or(DropReason::NoRoute)?;
        let framing = peer.config.framing;
        let cutter = peer.cutter.as_mut().ok_or(DropReason::NoRoute)?;
        let cut = cutter.cut(len + framing.added());
        let (cut, sequence) = cut.ok_or(DropReason::TooBig)?;
        let gso_limit = peer.gso_limit;
        let key = peer.keys.sender().ok_or(DropReason::NoKey)?;
        framing.apply(
            &mut self.scratch,
            &[Segment { start: 0, len }],
            framing.front(),
        );
        let headroom = key.headroom();
        let sealed =
            |key: &crate::key_slot::SendKey, i| key.sealed_len(HEADER_LEN + cut.part(i).len());
        let stride = sealed(key, 0);
        let last = sealed(key, cut.count() - 1);
        if stride > MAX_DATAGRAM {
            return Err(DropReason::TooBig);
        }
        let max = match self.gso && stride <= gso_limit {
            true => (MAX_DATAGRAM / stride).clamp(1, MAX_SEGMENTS),
            false => 1,
        };
        for i in 0..cut.count() {
            let part = cut.part(i);
            let sealed = if i + 1 == cut.count() { last } else { stride };
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
                    // What is refused for its size is lost; the parts after it are smaller.
                    source: None,
                    prefix: 0,
                };
            }
            let at = self.cursor + headroom;
            let len = HEADER_LEN + part.len();
            let out = &mut self.slab[at..at + len];
            out[..HEADER_LEN].copy_from_slice(&cut.header(sequence, i).to_bytes());
            out[HEADER_LEN..].copy_from_slice(&self.scratch[part]);
            self.add(len, sealed);
        }
        Ok(())
    }
}

/// Bytes that the peer's framing needs in front of a packet.
fn framing_front(peer: usize, stage: &mut Stage<'_>) -> Option<usize> {
    Some(stage.peers.get(peer)?.config.framing.front())
}
