//! What the kernel refused to send: in a form that it may take, or counted as lost and answered. No part
//! of the hot path.

use std::io;
use std::time::Duration;

use super::{Stage, Transmit};
use crate::command::Endpoint;
use crate::error::DropReason;
use crate::pool::{MAX_DATAGRAM, SendOp};
use crate::sys::cmsg::SendHead;
use crate::udp;

/// How long a full socket buffer is waited for, once per flush. Longer would stall the other
/// direction; without it, inner TCP would see losses where a pause is enough.
const SEND_PATIENCE: Duration = Duration::from_millis(1);

/// Seconds for which datagrams that GSO refused for their size stay out of GSO.
const GSO_LIMIT_LIFETIME: u32 = 60;

/// No IPv6 link is smaller, so a GSO send of smaller datagrams is not refused for their size.
const SMALLEST_MTU: usize = 1280;

impl Transmit {
    /// A send was refused, or not tried because one before it was: try again in a form that the
    /// kernel may take, or count the loss.
    pub(super) fn retry(
        &mut self,
        op: &SendOp,
        errno: i32,
        patience: &mut bool,
        stage: &mut Stage<'_>,
    ) {
        let mut errno = errno;
        if errno == libc::ECANCELED {
            match self.send_part(op, op.start, op.len, op.gso_size, stage) {
                Ok(()) => return,
                Err(first) => errno = first,
            }
        }
        if errno == libc::EAGAIN
            && std::mem::take(patience)
            && let Some(udp) = &stage.shared.udp
        {
            udp.wait_writable(SEND_PATIENCE);
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
        let udp = stage.shared.udp.as_ref().ok_or(libc::ENOTCONN)?;
        let mut head = SendHead::new();
        head.set(udp.is_v6(), &op.to, gso_size, op.tos);
        stage.shared.counts.udp_tx_calls += 1;
        udp.send(&head, &self.slab[start..start + len])
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
        let Some(key) = peer.keys.sender() else {
            return false;
        };
        let most = key.max_inner(limit);
        if message.from.is_some() {
            // Not in the middle of a flush; the next packet of this size is answered before it.
            return false;
        }
        self.answer_too_big(&message, most, stage);
        true
    }
}
