//! AES-CBC with an HMAC (protocol §7.3).
//!
//! ```text
//!   | header | HMAC | IV 16 | CBC( packet_id 4 | payload ... | PKCS#7 padding ) |
//!                   |<----------------- HMAC covers this ---------------------->|
//! ```
//!
//! The HMAC is compared in constant time before anything is decrypted; what padding says therefore
//! reaches nobody who could not have sealed the packet. With `auth none` there is no such
//! protection, in this format or any other.
//!
//! Both algorithms are serial inside one packet. A batch is sealed in two passes, first everything
//! but the cryptography and then the cryptography, so that a back end working on several packets
//! at once can take the second one.

use std::ops::Range;

use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext,
    UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::{hmac, rand};

use super::{Segment, hmac_key, read_u32, unusable};
use crate::error::{DropReason, StartError};
use crate::key_slot::{Cipher, Digest, DirectionKey};
use crate::packet_id::PacketIds;
use crate::replay::ReplayWindow;
use crate::wire::DataHeader;

const BLOCK: usize = 16;
const ID_LEN: usize = 4;

/// Random IVs are drawn for up to this many packets in one call.
const IVS: usize = 128;

/// Bytes this format puts between the header and the payload.
pub(crate) fn front(digest: Digest) -> usize {
    digest.len() + BLOCK + ID_LEN
}

/// Length of the ciphertext, packet id and padding included, of a payload of this length.
#[inline]
pub(crate) fn ciphertext_len(payload_len: usize) -> usize {
    // There is always padding, a whole block if need be.
    (ID_LEN + payload_len) / BLOCK * BLOCK + BLOCK
}

pub(crate) struct Sealer {
    cipher: EncryptingKey,
    hmac: Option<hmac::Key>,
    mac_len: usize,
    pub(crate) ids: PacketIds,
    #[cfg(test)]
    pub(crate) fixed_iv: Option<[u8; BLOCK]>,
}

impl Sealer {
    pub(crate) fn new(
        cipher: Cipher,
        digest: Digest,
        slots: &DirectionKey,
    ) -> Result<Self, StartError> {
        Ok(Sealer {
            cipher: EncryptingKey::cbc(unbound(cipher, slots)?).map_err(|_| unusable(cipher))?,
            hmac: hmac_key(digest, &slots.hmac),
            mac_len: digest.len(),
            ids: PacketIds::short(),
            #[cfg(test)]
            fixed_iv: None,
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
        let mut sealed = 0;
        for batch in segments.chunks(IVS) {
            let prepared = self.prepare(header, added, buf, batch);
            let done = self.encrypt(header.len(), added, buf, &batch[..prepared]);
            sealed += done;
            if done < batch.len() {
                break;
            }
        }
        sealed
    }

    /// First pass: headers, IVs, packet ids and padding. Returns for how many there was an id.
    fn prepare(
        &mut self,
        header: DataHeader,
        added: usize,
        buf: &mut [u8],
        segments: &[Segment],
    ) -> usize {
        let iv_at = header.len() + self.mac_len;
        let id_at = iv_at + BLOCK;
        let mut ivs = [[0; BLOCK]; IVS];
        let ids = self.ids.reserve(segments.len());
        let count = (ids.end - ids.start) as usize;
        if rand::fill(ivs[..count].as_flattened_mut()).is_err() {
            return 0;
        }
        #[cfg(test)]
        if let Some(iv) = self.fixed_iv {
            ivs.fill(iv);
        }
        for ((segment, id), iv) in segments.iter().zip(ids).zip(&ivs) {
            let payload_len = segment.len + added;
            let end = id_at + ciphertext_len(payload_len);
            let datagram = &mut buf[segment.start..segment.start + end];
            header.write(datagram);
            datagram[iv_at..id_at].copy_from_slice(iv);
            datagram[id_at..id_at + ID_LEN].copy_from_slice(&(id as u32).to_be_bytes());
            let padding = &mut datagram[id_at + ID_LEN + payload_len..];
            let value = padding.len() as u8;
            padding.fill(value);
        }
        count
    }

    /// Second pass: encrypts and signs. Returns how many.
    fn encrypt(&self, mac_at: usize, added: usize, buf: &mut [u8], segments: &[Segment]) -> usize {
        let iv_at = mac_at + self.mac_len;
        let mut sealed = 0;
        for segment in segments {
            let end = iv_at + BLOCK + ciphertext_len(segment.len + added);
            let datagram = &mut buf[segment.start..segment.start + end];
            let (front, signed) = datagram.split_at_mut(iv_at);
            let (iv, text) = signed.split_at_mut(BLOCK);
            let context = EncryptionContext::Iv128(fixed(iv));
            if self.cipher.less_safe_encrypt(text, context).is_err() {
                break;
            }
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
    cipher: DecryptingKey,
    hmac: Option<hmac::Key>,
    mac_len: usize,
    replay: ReplayWindow,
    packets: u64,
    failures: u64,
}

impl Opener {
    pub(crate) fn new(
        cipher: Cipher,
        digest: Digest,
        slots: &DirectionKey,
        replay: ReplayWindow,
    ) -> Result<Self, StartError> {
        Ok(Opener {
            cipher: DecryptingKey::cbc(unbound(cipher, slots)?).map_err(|_| unusable(cipher))?,
            hmac: hmac_key(digest, &slots.hmac),
            mac_len: digest.len(),
            replay,
            packets: 0,
            failures: 0,
        })
    }

    /// Verifies and decrypts a datagram; returns where the payload is, which may be empty.
    pub(crate) fn open(
        &mut self,
        now: u32,
        header_len: usize,
        datagram: &mut [u8],
    ) -> Result<Range<usize>, DropReason> {
        let iv_at = header_len + self.mac_len;
        let text_at = iv_at + BLOCK;
        let text_len = datagram.len().saturating_sub(text_at);
        if text_len == 0 || !text_len.is_multiple_of(BLOCK) {
            return Err(DropReason::Malformed);
        }
        let (mac, signed) = datagram[header_len..].split_at_mut(self.mac_len);
        if let Some(key) = &self.hmac
            && hmac::verify(key, signed, mac).is_err()
        {
            self.failures += 1;
            return Err(DropReason::AuthFailed);
        }
        let (iv, text) = signed.split_at_mut(BLOCK);
        let context = DecryptionContext::Iv128(fixed(iv));
        let text = self
            .cipher
            .decrypt(text, context)
            .map_err(|_| DropReason::BadPayload)?;
        let padded = unpadded_len(text).ok_or(DropReason::BadPayload)?;
        if padded < ID_LEN {
            return Err(DropReason::BadPayload);
        }
        let id = u64::from(read_u32(text, 0));
        if !self.replay.look(now, id) {
            return Err(DropReason::Replay);
        }
        self.replay.mark(now, id);
        self.packets += 1;
        Ok(text_at + ID_LEN..text_at + padded)
    }

    pub(crate) fn packets(&self) -> u64 {
        self.packets
    }

    pub(crate) fn failures(&self) -> u64 {
        self.failures
    }
}

fn unbound(cipher: Cipher, slots: &DirectionKey) -> Result<UnboundCipherKey, StartError> {
    let algorithm = match cipher {
        Cipher::Aes128Cbc => &AES_128,
        Cipher::Aes192Cbc => &AES_192,
        Cipher::Aes256Cbc => &AES_256,
        Cipher::Aes128Gcm
        | Cipher::Aes192Gcm
        | Cipher::Aes256Gcm
        | Cipher::ChaCha20Poly1305
        | Cipher::None => return Err(unusable(cipher)),
    };
    UnboundCipherKey::new(algorithm, &slots.cipher[..cipher.key_len()])
        .map_err(|_| unusable(cipher))
}

#[inline]
fn fixed(iv: &[u8]) -> FixedLength<BLOCK> {
    let mut bytes = [0; BLOCK];
    bytes.copy_from_slice(iv);
    FixedLength::from(bytes)
}

/// Length without the PKCS#7 padding, if it is well formed.
fn unpadded_len(text: &[u8]) -> Option<usize> {
    let &last = text.last()?;
    let padding = usize::from(last);
    if padding == 0 || padding > BLOCK {
        return None;
    }
    let len = text.len().checked_sub(padding)?;
    text[len..].iter().all(|&byte| byte == last).then_some(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_checked_byte_by_byte() {
        let mut text = [7u8; 32];
        text[16..].fill(16);
        assert_eq!(unpadded_len(&text), Some(16));
        text[31] = 1;
        assert_eq!(unpadded_len(&text), Some(31));
        text[31] = 2;
        assert_eq!(unpadded_len(&text), None);
        text[31] = 0;
        assert_eq!(unpadded_len(&text), None);
        text[31] = 17;
        assert_eq!(unpadded_len(&text), None);
        assert_eq!(unpadded_len(&[]), None);
    }

    #[test]
    fn ciphertext_is_whole_blocks_with_at_least_a_byte_of_padding() {
        assert_eq!(ciphertext_len(0), 16);
        assert_eq!(ciphertext_len(11), 16);
        assert_eq!(ciphertext_len(12), 32);
        assert_eq!(ciphertext_len(16), 32);
        assert_eq!(ciphertext_len(1400), 1408);
    }
}
