//! The classic AEAD format with 32-bit packet ids (protocol §7.2).
//!
//! ```text
//!   DATA_V2  | opcode key_id | peer_id 3 | packet_id 4 | tag 16 | ciphertext ... |
//!            |<------------ AAD, 8 bytes ------------->|
//!   DATA_V1  | opcode key_id | packet_id 4 | tag 16 | ciphertext ... |
//!                            |<--- AAD --->|
//!   nonce = packet_id 4, implicit IV 8
//! ```

use std::ops::Range;

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};
use zeroize::Zeroizing;

use super::{FAILURE_LIMIT, Segment, TAG_LEN, aead_key, read_u32, usage};
use crate::error::{DropReason, StartError};
use crate::key_slot::{Cipher, DirectionKey};
use crate::packet_id::PacketIds;
use crate::replay::ReplayWindow;
use crate::wire::DataHeader;

const ID_LEN: usize = 4;

/// Bytes this format puts between the header and the payload.
pub(crate) const FRONT: usize = ID_LEN + TAG_LEN;

struct AeadKey {
    key: LessSafeKey,
    implicit_iv: Zeroizing<[u8; 8]>,
}

impl AeadKey {
    fn new(cipher: Cipher, slots: &DirectionKey) -> Result<Self, StartError> {
        let mut implicit_iv = Zeroizing::new([0; 8]);
        implicit_iv.copy_from_slice(&slots.hmac[..8]);
        Ok(AeadKey {
            key: aead_key(cipher, &slots.cipher[..cipher.key_len()])?,
            implicit_iv,
        })
    }

    #[inline]
    fn nonce(&self, id: u32) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&id.to_be_bytes());
        nonce[4..].copy_from_slice(&*self.implicit_iv);
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Where the authenticated header bytes are, for a header of this length.
#[inline]
fn aad(header_len: usize) -> Range<usize> {
    if header_len == 4 { 0..8 } else { 1..5 }
}

pub(crate) struct Sealer {
    key: AeadKey,
    pub(crate) ids: PacketIds,
    usage: u64,
}

impl Sealer {
    pub(crate) fn new(cipher: Cipher, slots: &DirectionKey) -> Result<Self, StartError> {
        Ok(Sealer {
            key: AeadKey::new(cipher, slots)?,
            ids: PacketIds::short(),
            usage: 0,
        })
    }

    /// Seals payloads of `segment.len + added` bytes; returns how many.
    pub(crate) fn seal(
        &mut self,
        header: DataHeader,
        added: usize,
        buf: &mut [u8],
        segments: &[Segment],
    ) -> usize {
        let header_len = header.len();
        let tag_at = header_len + ID_LEN;
        let payload_at = header_len + FRONT;
        let ids = self.ids.reserve(segments.len());
        let mut sealed = 0;
        for (segment, id) in segments.iter().zip(ids) {
            let id = id as u32;
            let payload_len = segment.len + added;
            let datagram = &mut buf[segment.start..segment.start + payload_at + payload_len];
            header.write(datagram);
            datagram[header_len..tag_at].copy_from_slice(&id.to_be_bytes());
            let (front, payload) = datagram.split_at_mut(payload_at);
            let aad = Aad::from(&front[aad(header_len)]);
            let nonce = self.key.nonce(id);
            let Ok(tag) = self.key.key.seal_in_place_separate_tag(nonce, aad, payload) else {
                break;
            };
            front[tag_at..].copy_from_slice(tag.as_ref());
            self.usage += usage(payload_len);
            sealed += 1;
        }
        sealed
    }

    pub(crate) fn usage(&self) -> u64 {
        self.usage
    }
}

pub(crate) struct Opener {
    key: AeadKey,
    replay: ReplayWindow,
    packets: u64,
    usage: u64,
    failures: u64,
}

impl Opener {
    pub(crate) fn new(
        cipher: Cipher,
        slots: &DirectionKey,
        replay: ReplayWindow,
    ) -> Result<Self, StartError> {
        Ok(Opener {
            key: AeadKey::new(cipher, slots)?,
            replay,
            packets: 0,
            usage: 0,
            failures: 0,
        })
    }

    /// Opens a datagram; returns where the payload is, at least one byte.
    pub(crate) fn open(
        &mut self,
        now: u32,
        header_len: usize,
        datagram: &mut [u8],
    ) -> Result<Range<usize>, DropReason> {
        let tag_at = header_len + ID_LEN;
        let payload_at = header_len + FRONT;
        let end = datagram.len();
        if end <= payload_at {
            return Err(DropReason::Malformed);
        }
        if self.failures > FAILURE_LIMIT {
            return Err(DropReason::KeyExhausted);
        }
        let id = read_u32(datagram, header_len);
        if !self.replay.look(now, u64::from(id)) {
            return Err(DropReason::Replay);
        }
        let (front, payload) = datagram.split_at_mut(payload_at);
        let aad = Aad::from(&front[aad(header_len)]);
        let tag = &front[tag_at..];
        let nonce = self.key.nonce(id);
        if self
            .key
            .key
            .open_in_place_separate_tag(nonce, aad, tag, payload)
            .is_err()
        {
            self.failures += 1;
            return Err(DropReason::AuthFailed);
        }
        self.replay.mark(now, u64::from(id));
        self.packets += 1;
        self.usage += usage(end - payload_at);
        Ok(payload_at..end)
    }

    pub(crate) fn packets(&self) -> u64 {
        self.packets
    }

    pub(crate) fn usage(&self) -> u64 {
        self.usage
    }

    pub(crate) fn failures(&self) -> u64 {
        self.failures
    }

    #[cfg(test)]
    pub(crate) fn set_failures(&mut self, failures: u64) {
        self.failures = failures;
    }
}
