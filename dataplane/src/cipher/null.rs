//! `cipher none`: an HMAC over the packet id and the payload in the clear, or with `auth none`
//! nothing at all (protocol §7.3).
//!
//! ```text
//!   | header | HMAC | packet_id 4 | payload ... |
//!                   |<--- HMAC covers this ---->|
//! ```

use std::ops::Range;

use aws_lc_rs::hmac;

use super::{Segment, hmac_key, read_u32};
use crate::error::DropReason;
use crate::key_slot::{Digest, DirectionKey};
use crate::packet_id::PacketIds;
use crate::replay::ReplayWindow;
use crate::wire::DataHeader;

const ID_LEN: usize = 4;

/// Bytes this format puts between the header and the payload.
pub(crate) fn front(digest: Digest) -> usize {
    digest.len() + ID_LEN
}

pub(crate) struct Sealer {
    hmac: Option<hmac::Key>,
    mac_len: usize,
    pub(crate) ids: PacketIds,
}

impl Sealer {
    pub(crate) fn new(digest: Digest, slots: &DirectionKey) -> Self {
        Sealer {
            hmac: hmac_key(digest, &slots.hmac),
            mac_len: digest.len(),
            ids: PacketIds::short(),
        }
    }

    /// Signs payloads of `segment.len + added` bytes; returns how many.
    pub(crate) fn seal(
        &mut self,
        header: DataHeader,
        added: usize,
        buf: &mut [u8],
        segments: &[Segment],
    ) -> usize {
        let mac_at = header.len();
        let id_at = mac_at + self.mac_len;
        let ids = self.ids.reserve(segments.len());
        let mut sealed = 0;
        for (segment, id) in segments.iter().zip(ids) {
            let len = id_at + ID_LEN + segment.len + added;
            let datagram = &mut buf[segment.start..segment.start + len];
            header.write(datagram);
            datagram[id_at..id_at + ID_LEN].copy_from_slice(&(id as u32).to_be_bytes());
            let (front, signed) = datagram.split_at_mut(id_at);
            if let Some(key) = &self.hmac
                && hmac::sign_to_buffer(key, signed, &mut front[mac_at..]).is_err()
            {
                break;
            }
            sealed += 1;
        }
        sealed
    }
}

pub(crate) struct Opener {
    hmac: Option<hmac::Key>,
    mac_len: usize,
    replay: ReplayWindow,
    packets: u64,
    failures: u64,
}

impl Opener {
    pub(crate) fn new(digest: Digest, slots: &DirectionKey, replay: ReplayWindow) -> Self {
        Opener {
            hmac: hmac_key(digest, &slots.hmac),
            mac_len: digest.len(),
            replay,
            packets: 0,
            failures: 0,
        }
    }

    /// Verifies a datagram; returns where the payload is, which may be empty.
    pub(crate) fn open(
        &mut self,
        now: u32,
        header_len: usize,
        datagram: &mut [u8],
    ) -> Result<Range<usize>, DropReason> {
        let id_at = header_len + self.mac_len;
        let end = datagram.len();
        if end < id_at + ID_LEN {
            return Err(DropReason::Malformed);
        }
        let id = u64::from(read_u32(datagram, id_at));
        if !self.replay.look(now, id) {
            return Err(DropReason::Replay);
        }
        if let Some(key) = &self.hmac
            && hmac::verify(key, &datagram[id_at..], &datagram[header_len..id_at]).is_err()
        {
            self.failures += 1;
            return Err(DropReason::AuthFailed);
        }
        self.replay.mark(now, id);
        self.packets += 1;
        Ok(id_at + ID_LEN..end)
    }

    pub(crate) fn packets(&self) -> u64 {
        self.packets
    }

    pub(crate) fn failures(&self) -> u64 {
        self.failures
    }
}
