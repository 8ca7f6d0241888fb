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
//! Both algorithms are serial inside one packet. A batch is therefore sealed in two passes, first
//! everything but the cryptography and then the cryptography of all its packets, which [`multi`]
//! does at once where it can; the HMACs of received packets are made so before any is opened.

use std::ops::Range;

use arrayvec::ArrayVec;
use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext,
    UnboundCipherKey,
};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::{hmac, rand};

use super::multi::{self, MAC_MAX, Tier};
use super::{Segment, hmac_key, read_u32, unusable};
use crate::error::{DropReason, StartError};
use crate::key_slot::{Cipher, Digest, DirectionKey};
use crate::packet_id::PacketIds;
use crate::replay::ReplayWindow;
use crate::wire::DataHeader;

const BLOCK: usize = 16;
const ID_LEN: usize = 4;

/// Packets whose IVs are drawn, and whose cryptography is done, at once.
pub(crate) const BATCH: usize = 128;

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
    /// What does for a batch what `cipher` and `hmac` do for a packet.
    batch_cipher: Option<multi::Encrypt>,
    batch_hmac: Option<multi::Hmac>,
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
        Sealer::with_tier(cipher, digest, slots, multi::tier())
    }

    fn with_tier(
        cipher: Cipher,
        digest: Digest,
        slots: &DirectionKey,
        tier: Option<Tier>,
    ) -> Result<Self, StartError> {
        let key = &slots.cipher[..cipher.key_len()];
        Ok(Sealer {
            cipher: EncryptingKey::cbc(unbound(cipher, slots)?).map_err(|_| unusable(cipher))?,
            hmac: hmac_key(digest, &slots.hmac),
            batch_cipher: tier.map(|tier| multi::Encrypt::new(tier, key)),
            batch_hmac: batch_hmac(tier, digest, slots),
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
        for batch in segments.chunks(BATCH) {
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
        let mut ivs = [[0; BLOCK]; BATCH];
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
        // What is signed: the IV, and the ciphertext behind it.
        let texts: ArrayVec<Segment, BATCH> = segments
            .iter()
            .map(|segment| Segment {
                start: segment.start + iv_at,
                len: BLOCK + ciphertext_len(segment.len + added),
            })
            .collect();
        let encrypted = match &self.batch_cipher {
            Some(key) if texts.len() >= multi::Encrypt::WORTH => {
                key.encrypt(buf, &texts);
                texts.len()
            }
            _ => count_ok(&texts, |text| {
                let (iv, text) = buf[text.start..][..text.len].split_at_mut(BLOCK);
                let context = EncryptionContext::Iv128(fixed(iv));
                self.cipher.less_safe_encrypt(text, context).map(|_| ())
            }),
        };
        self.sign(buf, &texts[..encrypted])
    }

    /// Puts HMACs in front of what they cover. Returns how many.
    fn sign(&self, buf: &mut [u8], texts: &[Segment]) -> usize {
        let mac_at = |text: &Segment| text.start - self.mac_len;
        match (&self.batch_hmac, &self.hmac) {
            (Some(key), _) if texts.len() >= key.worth() => {
                let mut macs = [[0; MAC_MAX]; BATCH];
                key.sign(buf, texts, &mut macs);
                for (text, mac) in texts.iter().zip(&macs) {
                    buf[mac_at(text)..text.start].copy_from_slice(&mac[..self.mac_len]);
                }
                texts.len()
            }
            (_, Some(key)) => count_ok(texts, |text| {
                let (front, signed) = buf[..text.start + text.len].split_at_mut(text.start);
                hmac::sign_to_buffer(key, signed, &mut front[mac_at(text)..]).map(|_| ())
            }),
            (_, None) => texts.len(),
        }
    }
}

/// How many there are before the first with which something goes wrong.
fn count_ok<E>(texts: &[Segment], mut work: impl FnMut(&Segment) -> Result<(), E>) -> usize {
    texts.iter().take_while(|text| work(text).is_ok()).count()
}

pub(crate) struct Opener {
    cipher: DecryptingKey,
    hmac: Option<hmac::Key>,
    /// Takes the place of `cipher` where it is faster.
    wide_cipher: Option<multi::Decrypt>,
    /// Makes the HMACs of a batch, of which `hmac` makes one.
    batch_hmac: Option<multi::Hmac>,
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
        Opener::with_tier(cipher, digest, slots, replay, multi::tier())
    }

    fn with_tier(
        cipher: Cipher,
        digest: Digest,
        slots: &DirectionKey,
        replay: ReplayWindow,
        tier: Option<Tier>,
    ) -> Result<Self, StartError> {
        let key = &slots.cipher[..cipher.key_len()];
        Ok(Opener {
            cipher: DecryptingKey::cbc(unbound(cipher, slots)?).map_err(|_| unusable(cipher))?,
            hmac: hmac_key(digest, &slots.hmac),
            wide_cipher: tier.and_then(|tier| multi::Decrypt::new(tier, key)),
            batch_hmac: batch_hmac(tier, digest, slots),
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
        let signed = self.signed(header_len, datagram.len())?;
        let genuine = self.is_genuine(datagram, &signed);
        self.open_signed(now, datagram, signed, genuine)
    }

    /// Where the HMAC of a datagram covers it: the IV and the ciphertext, to the end.
    pub(crate) fn signed(
        &self,
        header_len: usize,
        datagram_len: usize,
    ) -> Result<Range<usize>, DropReason> {
        let iv_at = header_len + self.mac_len;
        let text_len = datagram_len.saturating_sub(iv_at + BLOCK);
        if text_len == 0 || !text_len.is_multiple_of(BLOCK) {
            return Err(DropReason::Malformed);
        }
        Ok(iv_at..datagram_len)
    }

    /// Opens up to [`BATCH`] datagrams in their order. `results` are what [`Self::signed`] says of
    /// each, and become what [`Self::open`] would say of it.
    pub(crate) fn open_batch(
        &mut self,
        now: u32,
        buf: &mut [u8],
        datagrams: &[Segment],
        results: &mut [Result<Range<usize>, DropReason>],
    ) {
        let texts: ArrayVec<Segment, BATCH> = datagrams
            .iter()
            .zip(&*results)
            .filter_map(|(datagram, signed)| {
                let signed = signed.as_ref().ok()?;
                Some(Segment {
                    start: datagram.start + signed.start,
                    len: signed.len(),
                })
            })
            .collect();
        let batch_hmac = self.batch_hmac.as_ref();
        let batch_hmac = batch_hmac.filter(|key| texts.len() >= key.worth());
        let mut macs = [[0; MAC_MAX]; BATCH];
        if let Some(key) = batch_hmac {
            key.sign(buf, &texts, &mut macs);
        }
        let mut macs = batch_hmac.is_some().then_some(&macs).into_iter().flatten();
        for (datagram, result) in datagrams.iter().zip(results) {
            let Ok(signed) = result.clone() else { continue };
            let datagram = &mut buf[datagram.start..][..datagram.len];
            let genuine = match macs.next() {
                Some(mac) => {
                    let theirs = &datagram[signed.start - self.mac_len..signed.start];
                    verify_slices_are_equal(&mac[..self.mac_len], theirs).is_ok()
                }
                None => self.is_genuine(datagram, &signed),
            };
            *result = self.open_signed(now, datagram, signed, genuine);
        }
    }

    /// Whether the HMAC is the right one, compared in constant time, or there is to be none.
    fn is_genuine(&self, datagram: &[u8], signed: &Range<usize>) -> bool {
        self.hmac.as_ref().is_none_or(|key| {
            let mac = &datagram[signed.start - self.mac_len..signed.start];
            hmac::verify(key, &datagram[signed.clone()], mac).is_ok()
        })
    }

    /// Decrypts what is genuine.
    fn open_signed(
        &mut self,
        now: u32,
        datagram: &mut [u8],
        signed: Range<usize>,
        genuine: bool,
    ) -> Result<Range<usize>, DropReason> {
        if !genuine {
            self.failures += 1;
            return Err(DropReason::AuthFailed);
        }
        let text_at = signed.start + BLOCK;
        if let Some(key) = &self.wide_cipher {
            key.decrypt(&mut datagram[signed]);
        } else {
            let (iv, text) = datagram[signed].split_at_mut(BLOCK);
            let context = DecryptionContext::Iv128(fixed(iv));
            self.cipher
                .decrypt(text, context)
                .map_err(|_| DropReason::BadPayload)?;
        }
        let text = &datagram[text_at..];
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

/// What makes the HMACs of a batch, where that is faster than one at a time.
fn batch_hmac(tier: Option<Tier>, digest: Digest, slots: &DirectionKey) -> Option<multi::Hmac> {
    multi::Hmac::new(tier?, digest, &slots.hmac[..digest.len()])
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
mod tests;
