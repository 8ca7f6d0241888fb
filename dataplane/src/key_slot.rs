//! Data keys of one peer and their slots by key_id (protocol §6, §7).
//!
//! [`SendKey`] turns inner packets into datagrams, [`RecvKey`] datagrams into inner packets, both in
//! place and with the compression framing included. They share nothing, so the two directions of a
//! peer may live on different threads.
//!
//! ```text
//!   |<------------ headroom ------------>|
//!   | header | id, tag or HMAC, IV | FA? | inner packet | swapped byte? padding? tag? |
//!   ^ segment.start                      |<- seg.len -->|
//!   |<------------------------------ sealed_len ------------------------------------->|
//! ```

mod names;
mod recv;
mod send;
#[cfg(test)]
mod tests;

use aws_lc_rs::digest;
use zeroize::ZeroizeOnDrop;

pub use recv::RecvKey;
pub use send::SendKey;

use crate::error::StartError;
use crate::framing::Framing;

/// Usage of a 32-bit-id AES-GCM key, in 16-byte blocks plus packets, at which a new one should be
/// negotiated: seven eighths of 2^36 - 1 (protocol §7.6).
pub const AEAD_SOFT_LIMIT: u64 = ((1 << 36) - 1) / 8 * 7;

/// Send epoch at which a new key should be negotiated (protocol §7.4).
pub const EPOCH_SOFT_LIMIT: u16 = 0xf000;

/// A data-channel cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cipher {
    /// AES-128-GCM
    Aes128Gcm,
    /// AES-192-GCM
    Aes192Gcm,
    /// AES-256-GCM
    Aes256Gcm,
    /// CHACHA20-POLY1305
    ChaCha20Poly1305,
    /// AES-128-CBC, with an HMAC
    Aes128Cbc,
    /// AES-192-CBC, with an HMAC
    Aes192Cbc,
    /// AES-256-CBC, with an HMAC
    Aes256Cbc,
    /// `none`: no encryption, HMAC only (or nothing at all)
    None,
}

/// The digest of an HMAC (`auth`). Ignored for AEAD ciphers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Digest {
    /// `auth none`
    None,
    /// SHA1, 20 bytes
    Sha1,
    /// SHA224, 28 bytes
    Sha224,
    /// SHA256, 32 bytes
    Sha256,
    /// SHA384, 48 bytes
    Sha384,
    /// SHA512, 64 bytes
    Sha512,
}

/// Which packet format the keys are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DataFormat {
    /// 32-bit packet ids, tag first (protocol §7.2, §7.3).
    #[default]
    Classic,
    /// The epoch format of 2.7 (protocol §7.4); AEAD and DATA_V2 only.
    Epoch,
}

/// Key material for one direction: the 64-byte cipher slot and the 64-byte hmac slot of `key2`
/// (protocol §6). Algorithms take the leading bytes.
#[derive(Clone, ZeroizeOnDrop)]
pub struct DirectionKey {
    /// Cipher slot.
    pub cipher: [u8; 64],
    /// HMAC slot; its first 8 bytes are the implicit IV of the classic AEAD format.
    pub hmac: [u8; 64],
}

/// Everything needed to seal and open the data packets of one key_id.
#[derive(Clone)]
pub struct DataKeys {
    /// The cipher.
    pub cipher: Cipher,
    /// The HMAC digest; only used with CBC ciphers and `none`.
    pub digest: Digest,
    /// The packet format.
    pub format: DataFormat,
    /// For packets to the peer.
    pub send: DirectionKey,
    /// For packets from the peer.
    pub recv: DirectionKey,
}

impl std::fmt::Debug for DataKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataKeys")
            .field("cipher", &self.cipher)
            .field("digest", &self.digest)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

/// Which halves of a key to set up. A half that another thread holds must not exist twice: two
/// senders would use the same nonces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Halves {
    /// The sending half.
    pub send: bool,
    /// The receiving half.
    pub receive: bool,
}

impl Halves {
    /// A whole key.
    pub const BOTH: Halves = Halves {
        send: true,
        receive: true,
    };
}

/// The keys of one peer, by key_id.
#[derive(Default)]
pub struct KeySlots {
    slots: [Option<Box<Slot>>; 8],
    sender: Option<u8>,
}

struct Slot {
    send: Option<SendKey>,
    recv: Option<RecvKey>,
    /// SHA-256 of the key material for sending.
    fingerprint: [u8; 32],
}

impl KeySlots {
    /// No keys.
    pub fn new() -> Self {
        KeySlots::default()
    }

    /// Installs these halves of a key for receiving; it sends nothing until [`use_key`](Self::use_key). A key in
    /// the slot of the same key_id is replaced, and if that was the sending key there is none until
    /// `use_key` is called.
    ///
    /// # Errors
    /// [`StartError::Key`] for keys that cannot be used, and for key material that is installed
    /// already: its packet ids, and with them the nonces, would start again from 1. The slots are
    /// then as they were.
    pub fn install(
        &mut self,
        key_id: u8,
        keys: &DataKeys,
        halves: Halves,
        tx_peer_id: Option<u32>,
        framing: Framing,
        replay: (u32, u32),
    ) -> Result<(), StartError> {
        let fingerprint = fingerprint(keys);
        if self
            .slots
            .iter()
            .flatten()
            .any(|slot| slot.fingerprint == fingerprint)
        {
            return Err(StartError::Key(format!(
                "the key for key_id {key_id} is installed already"
            )));
        }
        let (window, time) = replay;
        let send = || SendKey::new(keys, key_id, tx_peer_id, framing);
        let recv = || RecvKey::new(keys, framing, window, time);
        let slot = Slot {
            send: halves.send.then(send).transpose()?,
            recv: halves.receive.then(recv).transpose()?,
            fingerprint,
        };
        let key_id = key_id & 7;
        if self.sender == Some(key_id) {
            self.sender = None;
        }
        self.slots[usize::from(key_id)] = Some(Box::new(slot));
        Ok(())
    }

    /// Sends with this key from now on. False, and no change, if it is not installed.
    pub fn use_key(&mut self, key_id: u8) -> bool {
        let installed = self.slot(key_id).is_some();
        if installed {
            self.sender = Some(key_id);
        }
        installed
    }

    /// Forgets a key, for sending and receiving.
    pub fn remove(&mut self, key_id: u8) {
        if let Some(slot) = self.slots.get_mut(usize::from(key_id)) {
            *slot = None;
        }
        if self.sender == Some(key_id) {
            self.sender = None;
        }
    }

    /// The key to send with.
    #[inline]
    pub fn sender(&mut self) -> Option<&mut SendKey> {
        let slot = self.slots.get_mut(usize::from(self.sender?))?.as_mut()?;
        slot.send.as_mut()
    }

    /// The key that opens packets of this key_id.
    #[inline]
    pub fn receiver(&mut self, key_id: u8) -> Option<&mut RecvKey> {
        let slot = self.slots.get_mut(usize::from(key_id))?.as_mut()?;
        slot.recv.as_mut()
    }

    /// Moves the sending half of the key with this key_id to `epoch`, when its receiving half went
    /// there (protocol §7.4). Epochs belong to one key: no other key's sender may follow, or its
    /// packets would be epochs ahead of what the peer accepts.
    pub fn advance_epoch(&mut self, key_id: u8, epoch: u16) {
        if let Some(Some(slot)) = self.slots.get_mut(usize::from(key_id))
            && let Some(key) = &mut slot.send
        {
            key.advance_epoch(epoch);
        }
    }

    /// The key_id of the key to send with.
    #[inline]
    pub fn sender_key_id(&self) -> Option<u8> {
        self.sender
    }

    /// Changes peer-id and framing of all keys. A key in the epoch format, which has no DATA_V1,
    /// keeps its peer-id where `tx_peer_id` is `None`.
    pub fn reconfigure(&mut self, tx_peer_id: Option<u32>, framing: Framing) {
        for slot in self.slots.iter_mut().flatten() {
            if let Some(key) = &mut slot.send {
                key.reconfigure(tx_peer_id, framing);
            }
            if let Some(key) = &mut slot.recv {
                key.reconfigure(framing);
            }
        }
    }

    fn slot(&self, key_id: u8) -> Option<&Slot> {
        self.slots.get(usize::from(key_id))?.as_deref()
    }
}

impl std::fmt::Debug for KeySlots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let installed = (0..8).filter(|&key_id| self.slot(key_id).is_some());
        f.debug_struct("KeySlots")
            .field("installed", &installed.collect::<Vec<u8>>())
            .field("sender", &self.sender)
            .finish()
    }
}

fn fingerprint(keys: &DataKeys) -> [u8; 32] {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(&keys.send.cipher);
    hash.update(&keys.send.hmac);
    let mut out = [0; 32];
    out.copy_from_slice(hash.finish().as_ref());
    out
}

/// Refuses an all-zero cipher key (protocol §6), and the epoch format for what is not an AEAD.
fn check(keys: &DataKeys, slots: &DirectionKey) -> Result<(), StartError> {
    let epoch = keys.format == DataFormat::Epoch;
    if epoch && !keys.cipher.is_aead() {
        return Err(StartError::Key(format!(
            "the epoch format cannot use {}",
            keys.cipher.name()
        )));
    }
    // The first epoch's secret is 32 bytes whatever the cipher.
    let len = if epoch { 32 } else { keys.cipher.key_len() };
    let any = slots.cipher[..len].iter().fold(0, |any, byte| any | byte);
    if len != 0 && any == 0 {
        return Err(StartError::Key("the cipher key is all zero".into()));
    }
    Ok(())
}
