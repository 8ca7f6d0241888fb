//! The epoch format: AEAD keys that follow one another without a handshake (protocol §7.4).
//!
//! ```text
//!   | opcode key_id | peer_id 3 | epoch 2 | counter 6 | ciphertext ... | tag 16 |
//!   |<-------------------- AAD, 12 bytes ------------>|
//!   nonce = data_iv XOR (epoch 2, counter 6, 0 0 0 0)
//!
//!   E_1 = cipher slot[..32]     E_n+1 = X(E_n, "datakey upd")
//!   key_n = X(E_n, "data_key")  data_iv_n = X(E_n, "data_iv")    X = HKDF-Expand-SHA256
//! ```
//!
//! The sender moves on when its key has been used enough. The receiver has the secrets of the next
//! sixteen epochs ready, follows the first packet that authenticates under one of them, and keeps
//! the epoch it leaves for packets that are still under way. A key is made of a secret when a packet
//! asks for it, which costs some microseconds: sixteen keys held ready would take 12 KiB each session.

use std::mem;
use std::ops::Range;

use arrayvec::ArrayVec;
use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use zeroize::{ZeroizeOnDrop, Zeroizing};

use super::{FAILURE_LIMIT, Segment, TAG_LEN, aead_key, unusable, usage};
use crate::error::{DropReason, StartError};
use crate::key_slot::{Cipher, DirectionKey};
use crate::packet_id::PacketIds;
use crate::replay::ReplayWindow;
use crate::wire::DataHeader;

/// Length of epoch and counter.
const ID_LEN: usize = 8;

/// This format has the four-byte header of DATA_V2 only.
const HEADER_LEN: usize = 4;

/// Bytes in front of the payload, header included, all of them authenticated.
pub(crate) const FRONT: usize = HEADER_LEN + ID_LEN;

/// Coming epochs whose packets are accepted.
const FUTURE_KEYS: usize = 16;

/// The highest epoch that is ever accepted as a coming one.
const LAST_FUTURE: u16 = u16::MAX - FUTURE_KEYS as u16 - 1;

/// Failed decryptions of the receive key after which this side moves on, so that the peer follows.
const NUDGE_FAILURES: u64 = 1 << 35;

/// Usage of a key at which the next epoch starts; ChaCha20-Poly1305 has no limit (protocol §7.4).
fn usage_limit(cipher: Cipher) -> u64 {
    if cipher == Cipher::ChaCha20Poly1305 {
        u64::MAX
    } else {
        (1 << 36) - 1
    }
}

/// The chain of epoch secrets, at one epoch.
#[derive(Clone, ZeroizeOnDrop)]
struct Chain {
    epoch: u16,
    secret: [u8; 32],
}

impl Chain {
    fn new(slots: &DirectionKey) -> Self {
        let mut secret = [0; 32];
        secret.copy_from_slice(&slots.cipher[..32]);
        Chain { epoch: 1, secret }
    }

    /// Steps to the next epoch; not from the last one.
    fn step(&mut self, cipher: Cipher) -> Result<(), StartError> {
        let epoch = self.epoch.checked_add(1).ok_or_else(|| unusable(cipher))?;
        let mut next = Zeroizing::new([0; 32]);
        expand(&self.secret, b"datakey upd", next.as_mut(), cipher)?;
        self.secret = *next;
        self.epoch = epoch;
        Ok(())
    }

    fn key(&self, cipher: Cipher) -> Result<EpochKey, StartError> {
        let mut key = Zeroizing::new([0; 32]);
        let key = &mut key[..cipher.key_len()];
        expand(&self.secret, b"data_key", key, cipher)?;
        let mut iv = Zeroizing::new([0; 12]);
        expand(&self.secret, b"data_iv", iv.as_mut(), cipher)?;
        Ok(EpochKey {
            epoch: self.epoch,
            key: aead_key(cipher, key)?,
            iv,
        })
    }
}

/// HKDF-Expand with the label layout of TLS 1.3 and a prefix of its own (protocol §7.4).
fn expand(
    secret: &[u8; 32],
    label: &[u8],
    out: &mut [u8],
    cipher: Cipher,
) -> Result<(), StartError> {
    const PREFIX: &[u8] = b"ovpn ";
    struct Length(usize);
    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let length = (out.len() as u16).to_be_bytes();
    let label_len = [(PREFIX.len() + label.len()) as u8];
    let info = [&length[..], &label_len, PREFIX, label, &[0]];
    Prk::new_less_safe(HKDF_SHA256, secret)
        .expand(&info, Length(out.len()))
        .and_then(|okm| okm.fill(out))
        .map_err(|_| unusable(cipher))
}

struct EpochKey {
    epoch: u16,
    key: LessSafeKey,
    iv: Zeroizing<[u8; 12]>,
}

impl EpochKey {
    #[inline]
    fn nonce(&self, id: [u8; ID_LEN]) -> Nonce {
        let mut nonce = *self.iv;
        for (byte, id) in nonce.iter_mut().zip(id) {
            *byte ^= id;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

pub(crate) struct Sealer {
    cipher: Cipher,
    chain: Chain,
    key: EpochKey,
    ids: PacketIds,
    usage: u64,
    usage_limit: u64,
    packets: u64,
}

impl Sealer {
    pub(crate) fn new(cipher: Cipher, slots: &DirectionKey) -> Result<Self, StartError> {
        let chain = Chain::new(slots);
        let key = chain.key(cipher)?;
        Ok(Sealer {
            cipher,
            chain,
            key,
            ids: PacketIds::epoch(),
            usage: 0,
            usage_limit: usage_limit(cipher),
            packets: 0,
        })
    }

    /// Seals payloads of `segment.len + added` bytes, moving to the next epoch where a key has been
    /// used enough; returns how many.
    pub(crate) fn seal(
        &mut self,
        header: DataHeader,
        added: usize,
        buf: &mut [u8],
        segments: &[Segment],
    ) -> usize {
        let mut sealed = 0;
        while sealed < segments.len() {
            let spent = self.usage >= self.usage_limit || self.ids.exhausted();
            if spent && !self.next_epoch() {
                break;
            }
            let run = self.seal_run(header, added, buf, &segments[sealed..]);
            if run == 0 {
                break;
            }
            sealed += run;
        }
        self.packets += sealed as u64;
        sealed
    }

    /// Seals with the current key until it is spent.
    fn seal_run(
        &mut self,
        header: DataHeader,
        added: usize,
        buf: &mut [u8],
        segments: &[Segment],
    ) -> usize {
        let epoch = u64::from(self.key.epoch) << 48;
        let ids = self.ids.reserve(segments.len());
        let mut sealed = 0;
        for (segment, counter) in segments.iter().zip(ids) {
            if self.usage >= self.usage_limit {
                break;
            }
            let payload_len = segment.len + added;
            let len = FRONT + payload_len + TAG_LEN;
            let datagram = &mut buf[segment.start..segment.start + len];
            header.write(datagram);
            let id = (epoch | counter).to_be_bytes();
            datagram[HEADER_LEN..FRONT].copy_from_slice(&id);
            let (front, rest) = datagram.split_at_mut(FRONT);
            let (payload, tag_out) = rest.split_at_mut(payload_len);
            let nonce = self.key.nonce(id);
            let aad = Aad::from(&*front);
            let Ok(tag) = self.key.key.seal_in_place_separate_tag(nonce, aad, payload) else {
                break;
            };
            tag_out.copy_from_slice(tag.as_ref());
            self.usage += usage(payload_len);
            sealed += 1;
        }
        sealed
    }

    /// Moves to `epoch` if it is ahead. The counter starts anew only together with a new key.
    pub(crate) fn advance_to(&mut self, epoch: u16) {
        while self.chain.epoch < epoch {
            if self.chain.step(self.cipher).is_err() {
                break;
            }
        }
        if self.key.epoch < self.chain.epoch
            && let Ok(key) = self.chain.key(self.cipher)
        {
            self.key = key;
            self.ids = PacketIds::epoch();
            self.usage = 0;
        }
    }

    /// Whether there was a next epoch to move to.
    fn next_epoch(&mut self) -> bool {
        let before = self.key.epoch;
        self.advance_to(before.saturating_add(1));
        self.key.epoch > before
    }

    pub(crate) fn epoch(&self) -> u16 {
        self.key.epoch
    }

    pub(crate) fn packets(&self) -> u64 {
        self.packets
    }

    pub(crate) fn usage(&self) -> u64 {
        self.usage
    }

    #[cfg(test)]
    pub(crate) fn set_usage_limit(&mut self, limit: u64) {
        self.usage_limit = limit;
    }

    #[cfg(test)]
    pub(crate) fn ids_mut(&mut self) -> &mut PacketIds {
        &mut self.ids
    }
}

/// A receive key with what it has seen.
struct OpenKey {
    key: EpochKey,
    usage: u64,
    failures: u64,
}

impl OpenKey {
    /// Opens a datagram of at least `FRONT + TAG_LEN + 1` bytes.
    fn open(&mut self, datagram: &mut [u8]) -> Result<Range<usize>, DropReason> {
        if self.failures > FAILURE_LIMIT {
            return Err(DropReason::KeyExhausted);
        }
        let end = datagram.len() - TAG_LEN;
        let (front, rest) = datagram.split_at_mut(FRONT);
        let (payload, tag) = rest.split_at_mut(end - FRONT);
        let mut id = [0; ID_LEN];
        id.copy_from_slice(&front[HEADER_LEN..]);
        let nonce = self.key.nonce(id);
        let aad = Aad::from(&*front);
        if self
            .key
            .key
            .open_in_place_separate_tag(nonce, aad, tag, payload)
            .is_err()
        {
            self.failures += 1;
            return Err(DropReason::AuthFailed);
        }
        self.usage += usage(payload.len());
        Ok(FRONT..end)
    }
}

pub(crate) struct Opener {
    cipher: Cipher,
    current: OpenKey,
    current_replay: ReplayWindow,
    retired: Option<OpenKey>,
    retired_replay: ReplayWindow,
    /// The epochs from the current one on, in order; never empty.
    chain: ArrayVec<Chain, { FUTURE_KEYS + 1 }>,
    /// The key of the coming epoch that was asked for last.
    coming: Option<OpenKey>,
    epoch_change: Option<u16>,
    usage_limit: u64,
    packets: u64,
}

impl Opener {
    /// `windows` are two alike, for the current and the retired epoch.
    pub(crate) fn new(
        cipher: Cipher,
        slots: &DirectionKey,
        windows: [ReplayWindow; 2],
    ) -> Result<Self, StartError> {
        let first = Chain::new(slots);
        let current = open_key(&first, cipher)?;
        let [current_replay, retired_replay] = windows;
        let mut opener = Opener {
            cipher,
            chain: ArrayVec::from_iter([first]),
            coming: None,
            current,
            current_replay,
            retired: None,
            retired_replay,
            epoch_change: None,
            usage_limit: usage_limit(cipher),
            packets: 0,
        };
        opener.refill()?;
        Ok(opener)
    }

    /// Opens a datagram; returns where the payload is, at least one byte.
    pub(crate) fn open(
        &mut self,
        now: u32,
        header_len: usize,
        datagram: &mut [u8],
    ) -> Result<Range<usize>, DropReason> {
        if header_len != HEADER_LEN || datagram.len() <= FRONT + TAG_LEN {
            return Err(DropReason::Malformed);
        }
        let mut id = [0; ID_LEN];
        id.copy_from_slice(&datagram[HEADER_LEN..FRONT]);
        let id = u64::from_be_bytes(id);
        let epoch = (id >> 48) as u16;
        let counter = id & ((1 << 48) - 1);
        let current = self.current.key.epoch;
        if epoch > current {
            return self.open_future(now, epoch, counter, datagram);
        }
        let (key, replay) = if epoch == current {
            (&mut self.current, &mut self.current_replay)
        } else {
            match &mut self.retired {
                Some(key) if key.key.epoch == epoch => (key, &mut self.retired_replay),
                _ => return Err(DropReason::NoKey),
            }
        };
        if !replay.look(now, counter) {
            return Err(DropReason::Replay);
        }
        let payload = key.open(datagram)?;
        replay.mark(now, counter);
        self.packets += 1;
        Ok(payload)
    }

    /// A packet of an epoch that has not begun: if it authenticates, the epoch begins with it.
    #[cold]
    fn open_future(
        &mut self,
        now: u32,
        epoch: u16,
        counter: u64,
        datagram: &mut [u8],
    ) -> Result<Range<usize>, DropReason> {
        let index = self.chain.iter().position(|chain| chain.epoch == epoch);
        let index = index.ok_or(DropReason::NoKey)?;
        if counter == 0 {
            return Err(DropReason::Replay);
        }
        let mut key = match self.coming.take_if(|key| key.key.epoch == epoch) {
            Some(key) => key,
            None => open_key(&self.chain[index], self.cipher).map_err(|_| DropReason::NoKey)?,
        };
        let opened = key.open(datagram);
        let Ok(payload) = opened else {
            self.coming = Some(key);
            return opened;
        };
        self.begin_epoch(index, key);
        // A strict window may not like what the new epoch begins with; it is a fresh one all the
        // same, and the peer has moved on.
        if !self.current_replay.look(now, counter) {
            return Err(DropReason::Replay);
        }
        self.current_replay.mark(now, counter);
        self.packets += 1;
        Ok(payload)
    }

    /// Makes the key of a coming epoch the current one; the epochs before it but for the last are gone.
    fn begin_epoch(&mut self, index: usize, key: OpenKey) {
        self.epoch_change = Some(key.key.epoch);
        self.retired = Some(mem::replace(&mut self.current, key));
        mem::swap(&mut self.retired_replay, &mut self.current_replay);
        self.current_replay.reset();
        self.chain.drain(..index);
        // Should a secret fail to be made, packets of its epoch find none and are dropped.
        let _ = self.refill();
    }

    fn refill(&mut self) -> Result<(), StartError> {
        while !self.chain.is_full()
            && let Some(last) = self.chain.last().filter(|last| last.epoch < LAST_FUTURE)
        {
            let mut next = last.clone();
            next.step(self.cipher)?;
            self.chain.push(next);
        }
        Ok(())
    }

    /// The epoch that began since the last call.
    pub(crate) fn take_epoch_change(&mut self) -> Option<u16> {
        self.epoch_change.take()
    }

    /// The epoch the sending side should be in because this key has been used or attacked enough.
    pub(crate) fn wants_epoch(&self) -> Option<u16> {
        let worn = self.current.usage >= self.usage_limit || self.current.failures > NUDGE_FAILURES;
        if worn {
            self.current.key.epoch.checked_add(1)
        } else {
            None
        }
    }

    pub(crate) fn epoch(&self) -> u16 {
        self.current.key.epoch
    }

    pub(crate) fn packets(&self) -> u64 {
        self.packets
    }

    pub(crate) fn usage(&self) -> u64 {
        self.current.usage
    }

    pub(crate) fn failures(&self) -> u64 {
        self.current.failures
    }

    #[cfg(test)]
    pub(crate) fn set_usage_limit(&mut self, limit: u64) {
        self.usage_limit = limit;
    }

    #[cfg(test)]
    pub(crate) fn set_failures(&mut self, failures: u64) {
        self.current.failures = failures;
    }

    #[cfg(test)]
    pub(crate) fn skip_to_epoch(&mut self, epoch: u16) {
        let mut chain = self.chain[0].clone();
        while chain.epoch < epoch {
            chain.step(self.cipher).unwrap();
        }
        self.current = open_key(&chain, self.cipher).unwrap();
        self.chain = ArrayVec::from_iter([chain]);
        self.coming = None;
        self.refill().unwrap();
    }
}

fn open_key(chain: &Chain, cipher: Cipher) -> Result<OpenKey, StartError> {
    Ok(OpenKey {
        key: chain.key(cipher)?,
        usage: 0,
        failures: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
    }

    #[test]
    fn expand_label_matches_the_published_vectors() {
        let secret = hex("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5");
        let mut out = [0; 16];
        expand(&secret, b"unit test", &mut out, Cipher::Aes256Gcm).unwrap();
        assert_eq!(out, hex("185eaa1c7f228ab8eb29773214d92046"));

        let mut secret = [0; 32];
        secret[..2].copy_from_slice(&[0x13, 0x0c]);
        let mut key = [0; 24];
        expand(&secret, b"data_key", &mut key, Cipher::Aes192Gcm).unwrap();
        assert_eq!(key, hex("ed8533db1c28ace418e9006ab29c17417d60ebe6cd90bf0a"));
        let mut iv = [0; 12];
        expand(&secret, b"data_iv", &mut iv, Cipher::Aes192Gcm).unwrap();
        assert_eq!(iv, hex("86890aabf032cb59f4cfa34e"));
    }

    #[test]
    fn the_chain_of_secrets_matches_the_published_vectors() {
        let e1 = hex("616361676163616f3838383838383838515351575153515f72726f7874787073");
        let mut chain = Chain {
            epoch: 1,
            secret: e1,
        };
        chain.step(Cipher::Aes256Gcm).unwrap();
        let e2: [u8; 32] = hex("84df1cd673eb8ef166cc1b217504f0536a39e909e4b7743f432d3e882b876f4d");
        assert_eq!((chain.epoch, chain.secret), (2, e2));
        chain.step(Cipher::Aes256Gcm).unwrap();
        chain.step(Cipher::Aes256Gcm).unwrap();
        let e4: [u8; 32] = hex("10f7f2bf8543e6492f6915fa82457fae6144709679d5dfbd219c495f75e717b5");
        assert_eq!((chain.epoch, chain.secret), (4, e4));
        chain.epoch = u16::MAX;
        assert!(chain.step(Cipher::Aes256Gcm).is_err());
    }
}
